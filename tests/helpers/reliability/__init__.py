"""Attacks on runs, and what came of each: the table of docs/reliability.md.

    python tests/helpers/reliability --output=reliability.json

tries everything as often as the table says, or as often as is asked (`--kill=5`, 0 for not at all). The counts are in
the file from the first try on, and a second start goes on with what is missing.

An attack is recovered where the right end is reached, or a line says what is wrong; silent where something else comes
out without a word; unclear where there is a traceback, a hang, or an end without a reason.
"""

import argparse
import functools
import json
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from reliability.files import corrupt_inputs, damaged_files, mutated_configs
from reliability.pairs import faults_of_pairs
from reliability.processes import full_disks, signals
from reliability.runs import Runs

COLUMNS = ("recovered", "silent", "unclear")


def _signals(number: int) -> Callable[[Runs, range], Iterator[str]]:
    return lambda runs, tries: signals(runs, number, tries)


# Name -> what it is, the tries of the table, and the attack, which gives the end of each try of a range.
ATTACKS: dict[str, tuple[str, int, Callable[[Runs, range], Iterator[str]]]] = {
    "kill": ("`kill -9` of a training, and the same command again", 50, _signals(signal.SIGKILL)),
    "sigterm": ("SIGTERM, and the same command again", 20, _signals(signal.SIGTERM)),
    "sigint": ("SIGINT (Ctrl-C), and the same command again", 20, _signals(signal.SIGINT)),
    "files": ("a file of a checkpoint emptied, cut, flipped, overwritten or deleted", 200, damaged_files),
    "configs": ("mutated configs", 500, mutated_configs),
    "pairs": (
        "two processes: one is killed or gets a signal, cannot read its files, or has another config or other data; "
        "and the same command again",
        20,
        faults_of_pairs,
    ),
    "full": ("a disk that is full for larger files, and the same command again", 5, full_disks),
    "inputs": ("an image or a mask emptied, cut, flipped, overwritten or deleted", 70, corrupt_inputs),
}


def count(
    tries: dict[str, int],
    make_runs: Callable[[], Runs],
    found: dict[str, Counter] | None = None,
    on_try: Callable[[dict[str, Counter]], None] = lambda found: None,
) -> dict[str, Counter]:
    """How often each attack ended how.

    Args:
      tries: by name of the attack.
      make_runs: is called if anything is left to try.
      found: the counts of before, which are completed.
      on_try: is called after each.
    """
    found, make_runs = found if found is not None else {}, functools.cache(make_runs)
    for name, number in tries.items():
        counter = found.setdefault(name, Counter())
        if counter.total() < number:
            for end in ATTACKS[name][2](make_runs(), range(counter.total(), number)):
                counter[end] += 1
                on_try(found)
    return found


def table(found: dict[str, Counter]) -> str:
    """The counts in Markdown."""
    lines = ["| attack | tries | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * (1 + len(COLUMNS))]
    for name in ATTACKS:
        if ends := found.get(name):
            cells = [ATTACKS[name][0], ends.total(), *(ends[end] for end in COLUMNS)]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command; its exit code is 1 where anything was silent or unclear."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("reliability.json"), help="JSON file of the counts")
    for name, (what, number, _) in ATTACKS.items():
        parser.add_argument(f"--{name}", type=int, default=number, help=f"{what} ({number} times)")
    tries = vars(parser.parse_args())
    output = tries.pop("output")
    before = json.loads(output.read_text()) if output.exists() else {}
    found = {name: Counter(ends) for name, ends in before.items()}

    def write(found: dict[str, Counter]) -> None:
        text = json.dumps({name: dict(ends) for name, ends in found.items()}, indent=1)
        partial = output.with_suffix(".partial")
        partial.write_text(text + "\n")
        partial.replace(output)

    with tempfile.TemporaryDirectory() as folder:
        print(table(count(tries, lambda: Runs(Path(folder)), found, write)))
    sys.exit(any(ends.total() - ends["recovered"] for ends in found.values()))
