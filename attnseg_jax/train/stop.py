"""Stopping a training: SIGTERM, which schedulers send before they take a machine away, and SIGINT (Ctrl-C)."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from attnseg_jax.errors import Stopped


class StopRequests:
    """Whether a signal has come that ends the training; the second SIGINT interrupts at once.

    Attributes:
      signal: its number, 0 before.
    """

    def __init__(self):
        self.signal = 0

    def at_step(self, step: int) -> bool:
        """Whether to stop after this step; the same answer on all processes."""
        if jax.process_count() > 1:
            # jax listens for SIGTERM itself, and all processes agree on the step.
            return multihost_utils.reached_preemption_sync_point(step)
        return bool(self.signal)

    def within(self, step: int) -> None:
        """Raises Stopped between two batches of an evaluation, whose step is saved."""
        # Several processes would have to agree on the batch.
        if self.signal and jax.process_count() == 1:
            raise self.stopped(step)

    def stopped(self, step: int) -> Stopped:
        """The end of a training that has saved this step."""
        number = self.signal or signal.SIGTERM
        name = signal.Signals(number).name
        return Stopped(f"by a signal ({name}); step {step} is saved, the same command continues there", number)

    def handle(self, number: int, frame: FrameType | None) -> None:
        """A handler of signals."""
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)
        self.signal = number
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            text = "\ninterrupted: the training stops as soon as its step is saved; once more stops it at once\n"
            # Not `print`, which the handler may have interrupted.
            os.write(sys.__stderr__.fileno(), text.encode())


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Listens for the signals."""
    requests, before = StopRequests(), {}
    # Only a main thread may set handlers.
    if threading.current_thread() is threading.main_thread():
        # A shell starts its background jobs with SIGINT ignored, and means it.
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            before[signal.SIGINT] = signal.signal(signal.SIGINT, requests.handle)
        if jax.process_count() == 1:
            before[signal.SIGTERM] = signal.signal(signal.SIGTERM, requests.handle)
    try:
        yield requests
    finally:
        handler: Any
        for number, handler in before.items():
            signal.signal(number, handler)
