"""Reading many files: in threads, in order, with a bar, and no more of them in memory than the threads need."""

import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from attnseg_jax.errors import UserError

_BAR_FROM = 500
# For each thread, so that none waits for the slowest.
_AHEAD = 8


def in_threads(
    function: Callable[[Any], Any], items: Collection[Any], what: str, threads: int | None = None
) -> Iterator[Any]:
    """`function(item)` of every item, in order whatever the timing; a UserError is given instead of raised.

    Args:
      function: called in the threads.
      items: what is read.
      what: is being done, for the bar of a terminal.
      threads: one for each core by default.
    """

    def call(item: Any) -> Any:
        try:
            return function(item)
        except UserError as error:
            return error

    threads = threads or os.cpu_count()
    executor = ThreadPoolExecutor(threads, thread_name_prefix="read")
    try:
        yield from _bar(_window(executor, call, items, threads * _AHEAD), len(items), what)
    finally:
        executor.shutdown(cancel_futures=True)


def _window(
    executor: ThreadPoolExecutor, call: Callable[[Any], Any], items: Collection[Any], size: int
) -> Iterator[Any]:
    left = iter(items)
    waiting = deque(executor.submit(call, item) for item in itertools.islice(left, size))
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(executor.submit(call, item) for item in itertools.islice(left, 1))
        yield result


def _bar(items: Iterator, total: int, what: str) -> Iterator:
    if total <= _BAR_FROM or not sys.stderr.isatty():
        return items
    from tqdm import tqdm

    return tqdm(items, total=total, desc=what, unit="image", leave=False)
