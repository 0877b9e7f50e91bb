"""What the benchmarks share: programs that are compared take turns on the same machine."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def timed(compiled: Callable, arrays: Sequence[Any]) -> Callable[[], float]:
    """A function that runs the program once and returns the seconds it took."""

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        return time.perf_counter() - start

    return run


def alternate(runs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median seconds of every way. A turn runs twice, the second counts: the first meets a cold cache."""
    if not repeats:
        return {}
    rounds = [{way: (run(), run())[1] for way, run in runs.items()} for _ in range(repeats)]
    return {way: statistics.median(times[way] for times in rounds) for way in runs}
