"""Attacks on the process of a training."""

import resource
import signal
import time
from collections.abc import Iterator

import numpy as np

from reliability.runs import Runs, gives_one_reason, report


def signals(runs: Runs, number: int, tries: range) -> Iterator[str]:
    """A signal at any time of a training, five to a workdir; then it is finished and compared."""
    for first in range(tries.start, tries.stop, 5):
        workdir = runs.folder / f"{signal.Signals(number).name}{first}"
        group = range(first, min(first + 5, tries.stop))
        unclear = sum(not _is_clear(runs, workdir, number, attempt) for attempt in group)
        end = runs.finish(workdir)
        yield from ["unclear"] * unclear
        yield from [end] * (len(group) - unclear)


def _is_clear(runs: Runs, workdir, number: int, attempt: int) -> bool:
    process = runs.start(workdir)
    runs.wait_for_start(process, workdir)
    time.sleep(np.random.default_rng((number, attempt)).uniform(0, runs.seconds))
    process.send_signal(number)
    code, text = runs.end(process)
    # One that came before there was anything to save just ends.
    expected = {0, -number} if number == signal.SIGKILL else {0, 128 + number, -number}
    clear = code in expected and "Traceback" not in text and (code != 128 + number or gives_one_reason(text))
    if not clear:
        report(f"{workdir}: {code}", text)
    return clear


def full_disks(runs: Runs, tries: range) -> Iterator[str]:
    """No file may be larger than some limit, from one that stops the first save to one that stops a picture."""
    limits = np.geomspace(4_000, 90_000, tries.stop).astype(int).tolist()
    for attempt in tries:
        workdir, limit = runs.folder / f"full{attempt}", limits[attempt]
        # Programs that are compiled are files too.
        process = runs.start(workdir, cached=False)
        runs.wait_for_start(process, workdir)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        code, text = runs.end(process)
        clear = code == 0 or (code == 2 and gives_one_reason(text) and str(workdir) in text.splitlines()[-1])
        clear &= "Traceback" not in text
        if not clear:
            report(f"{workdir} with files of {limit} bytes at most: {code}", text)
        yield runs.finish(workdir) if clear else "unclear"
