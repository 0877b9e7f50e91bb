"""Training batches of a config on pictures of a folder, in one checkout and in another one, taking turns.

    python benchmarks/data.py path/to/camvid --other=path/to/another/checkout --config=camvid

Prints milliseconds of CPU time a picture, decoded, augmented and stacked, in each, and their ratio.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parents[1]


def measure(folder: str, name: str, batches: int) -> float:
    """CPU seconds a picture in this process, whose path begins with a checkout."""
    from attnseg_jax.data.pipeline import train_batches
    from attnseg_jax.data.sources import load_source

    data = importlib.import_module(f"configs.{name}").get_config().data
    data.dir = folder
    data.mean, data.std = data.mean or (123.675, 116.28, 103.53), data.std or (58.395, 57.12, 57.375)
    size = 8
    found = train_batches(load_source(data, data.train_split), data, batch_size=size, seed=0)
    next(found)
    start = time.process_time()
    for _ in range(batches):
        next(found)
    return (time.process_time() - start) / (batches * size)


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--other", required=True, type=Path)
    parser.add_argument("--config", default="camvid")
    parser.add_argument("--batches", default=20, type=int)
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--checkout", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.checkout:
        sys.path.insert(0, given.checkout)
        print(json.dumps(measure(given.folder, given.config, given.batches)))
        return
    seconds: dict[Path, list[float]] = {given.other.resolve(): [], _HERE: []}
    for _ in range(given.rounds):
        for checkout, found in seconds.items():
            command = [sys.executable, __file__, given.folder, f"--other={given.other}", f"--checkout={checkout}"]
            command += [f"--config={given.config}", f"--batches={given.batches}"]
            run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=checkout)
            found.append(json.loads(run.stdout.splitlines()[-1]))
    for checkout, found in seconds.items():
        print(f"{checkout}: {1e3 * statistics.median(found):.2f} ms a picture ({1e3 * min(found):.2f} at best)")
    other, here = seconds.values()
    print(f"ratio of medians: {statistics.median(here) / statistics.median(other):.3f}")


if __name__ == "__main__":
    main()
