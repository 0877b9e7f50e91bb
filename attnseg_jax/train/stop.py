"""Stopping a training: by SIGTERM, as schedulers send it before they take a machine away, SIGINT (Ctrl-C), or time."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from attnseg_jax.errors import Stopped


class StopRequests:
    """Whether a signal has come that ends the training, or its time is up; the second SIGINT interrupts at once.

    Args:
      max_minutes: from now on; 0 is no limit.
      clock: in seconds.

    Attributes:
      signal: its number, 0 before; that of SIGTERM when the time is up.
    """

    def __init__(self, max_minutes: float = 0, clock: Callable[[], float] = time.monotonic):
        self.signal, self._asked = 0, 0
        self._clock, self._limit = clock, max_minutes
        self._until, self._late = clock() + 60 * max_minutes, False

    def now(self) -> bool:
        """Whether to stop; the same answer on all processes, which ask equally often: after steps and batches."""
        self._asked += 1
        if self._limit and not self._late and self._clock() >= self._until:
            self._late = True
            self.handle(signal.SIGTERM, None)
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
        why = f"a signal ({signal.Signals(number).name})"
        if self._late:
            why = f"config.train.max_minutes={self._limit:g}"
        return Stopped(f"by {why}; step {step} is saved, the same command continues there", number)

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
def stop_requests(max_minutes: float = 0) -> Iterator[StopRequests]:
    """Listens for the signals, and stops after some minutes; 0 is no limit."""
    requests, before = StopRequests(max_minutes), {}
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
