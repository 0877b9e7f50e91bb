"""What the benchmarks share: programs that are compared take turns on the same machine."""

import os
import statistics
import subprocess
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


def beside_torch(
    runs: Mapping[str, Callable], repeats: int, *, python: str, script: str, arguments: Sequence[str], way: str
) -> dict[str, float]:
    """As `alternate`, with PyTorch's seconds as 'torch' where `python` names a Python that has it.

    Args:
      runs: ways and what runs them.
      repeats: turns.
      python: "" for none.
      script: its program; gets `arguments` and the number of CPUs, and answers each line of its input, which is `way`,
        with seconds.
      arguments: of the script.
      way: what to run.
    """
    if not python or not repeats:
        return alternate(runs, repeats)
    command = [python, "-c", script, *arguments, str(os.cpu_count())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as torch:

        def ask() -> float:
            print(way, file=torch.stdin, flush=True)
            return float(torch.stdout.readline())

        times = alternate({**runs, "torch": ask}, repeats)
        torch.stdin.close()
    return times
