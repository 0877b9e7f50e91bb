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
        self.signal, self._asked = 0, 0

    def now(self) -> bool:
        """Whether to stop; the same answer on all processes, which ask equally often: after steps and batches."""
        self._asked += 1
        if jax.process_count() > 1:
            # jax listens for SIGTERM itself, and all processes agree on the question that gets the answer.
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return bool(self.signal)

    def within(self, step: int) -> None:
        """Raises Stopped between two batches of an evaluation, whose step is saved."""
        if self.now():
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
