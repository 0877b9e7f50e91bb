"""Attacks on runs, and what came of each: the table of docs/reliability.md.

    python tests/helpers/reliability.py --kill=50 --sigterm=20 --sigint=20 --files=200 --configs=500 --full=5 \\
        --inputs=70

An attack is recovered where the right end is reached, or a line says what is wrong; silent where something else comes
out without a word; unclear where there is a traceback, a hang, or an end without a reason.
"""

import argparse
import logging.handlers
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import absl.logging
import numpy as np
from pair import listening_to_interrupts
from PIL import Image

ROOT = Path(__file__).parents[2]
COLUMNS = ("recovered", "silent", "unclear")
# Of one command, with other work on the machine.
SECONDS = 300
CLASSES = ("red", "green", "blue")
FLAGS = {
    "data.source": "folder",
    "data.name": "",
    "data.classes": CLASSES,
    "data.crop": (24, 32),
    "data.check": False,
    "loss.class_weights": "none",
    "model.backbone.tiny.width": 8,
    "model.attention.self.channels": 8,
    "model.attention.self.dropout": 0.1,
    "model.decoder.fcn.channels": 8,
    "optimizer.warmup_steps": 2,
    "train.batch_size": 4,
    "train.steps": 30,
    "train.eval_every": 5,
    "eval.batch_size": 4,
}


def write_data(folder: Path) -> Path:
    """Eight images and four, of blocks whose colour tells their class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for kind in ("images", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            label = np.kron(rng.integers(0, 3, (2, 2)), np.ones((12, 16), int)).astype(np.uint8)
            image = (200 * np.eye(3)[label] + rng.normal(20, 8, (24, 32, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / "images" / split / f"{i}.png")
            Image.fromarray(label).save(folder / "masks" / split / f"{i}.png")
    return folder


class Runs:
    """Commands in a folder of their own, which share what they compile; `whole` is a run that nothing disturbs."""

    def __init__(self, folder: Path, **flags):
        self.folder = folder
        self.flags = {**FLAGS, "data.dir": str(write_data(folder / "data")), **flags}
        self.environment = dict(
            os.environ,
            PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            JAX_PLATFORMS="cpu",
            JAX_COMPILATION_CACHE_DIR=str(folder / "compiled"),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            JAX_DISABLE_MOST_OPTIMIZATIONS="1",
            TF_CPP_MIN_LOG_LEVEL="2",
        )
        self.environment.pop("XLA_FLAGS", None)
        self.whole = folder / "whole"
        code, text = self.finish(self.whole)
        assert code == 0, text
        # Now everything is compiled.
        shutil.rmtree(self.whole)
        process = self.start(self.whole)
        began = self.wait_for_start(process, self.whole)
        assert self.end(process)[0] == 0
        self.seconds = time.monotonic() - began

    def start(self, workdir: Path) -> subprocess.Popen:
        """Starts a training."""
        command = [
            *(sys.executable, str(ROOT / "train.py"), f"--workdir={workdir}"),
            *(f"--config.{key}={value}" for key, value in self.flags.items()),
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with listening_to_interrupts():
            return subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True, **pipes)

    def wait_for_start(self, process: subprocess.Popen, workdir: Path) -> float:
        """Waits until the process has written its config, which begins a training; the time of it."""
        config = workdir / "config.json"
        before = config.stat().st_mtime_ns if config.exists() else 0
        while process.poll() is None and not (config.exists() and config.stat().st_mtime_ns > before):
            time.sleep(0.005)
        return time.monotonic()

    def end(self, process: subprocess.Popen) -> tuple[int | None, str]:
        """(exit code, what it said on stderr); None for one that hangs, which is killed."""
        try:
            _, text = process.communicate(timeout=SECONDS)
            return process.returncode, text
        except subprocess.TimeoutExpired:
            process.kill()
            return None, process.communicate()[1]

    def finish(self, workdir: Path) -> tuple[int | None, str]:
        """The same command, undisturbed."""
        return self.end(self.start(workdir))

    def same_as_whole(self, workdir: Path) -> bool:
        """Whether a run ended like the whole one, to the bit."""
        from attnseg_jax.train.checkpoint import Checkpoints

        scores, states = [], []
        for folder in (workdir, self.whole):
            # A step that is saved on a signal ends a line of training metrics, so that these are spread otherwise.
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            scores.append([(folder / "result.json").read_text(), *(line for line in lines if "val_miou" in line)])
            with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
                states.append(checkpoints.restore_arrays()[:2])
        (step, one), (other_step, other) = states
        return (
            scores[0] == scores[1]
            and step == other_step
            and one.keys() == other.keys()
            and all((one[k] == other[k]).all() for k in one)
        )


def signals(runs: Runs, number: int, count: int, seed: int = 0) -> Iterator[str]:
    """A signal at any time of a training, five to a workdir; then it is finished and compared."""
    rng = np.random.default_rng(seed)
    for first in range(0, count, 5):
        workdir = runs.folder / f"{signal.Signals(number).name}{first}"
        unclear = 0
        tries = min(5, count - first)
        for _ in range(tries):
            process = runs.start(workdir)
            runs.wait_for_start(process, workdir)
            time.sleep(rng.uniform(0, runs.seconds))
            process.send_signal(number)
            code, text = runs.end(process)
            # One that came before there was anything to save just ends.
            expected = {0, -number} if number == signal.SIGKILL else {0, 128 + number, -number}
            clear = code in expected and "Traceback" not in text
            if code == 128 + number:
                clear &= "stopped by a signal" in text or "interrupted" in text
            unclear += not clear
            report(code, text, clear)
        code, text = runs.finish(workdir)
        right = code == 0 and runs.same_as_whole(workdir)
        report(code, text, right)
        yield from ["unclear"] * unclear
        yield from [("recovered" if right else "silent" if code == 0 else "unclear")] * (tries - unclear)


def full_disks(runs: Runs, count: int) -> Iterator[str]:
    """No file may be larger than some limit, from one that stops the first save to one that stops a picture."""
    for number, limit in enumerate(np.geomspace(4_000, 90_000, count).astype(int).tolist()):
        workdir = runs.folder / f"full{number}"
        environment = dict(runs.environment)
        environment.pop("JAX_COMPILATION_CACHE_DIR")
        limited = Runs.__new__(Runs)
        limited.__dict__.update(runs.__dict__, environment=environment)
        process = limited.start(workdir)
        runs.wait_for_start(process, workdir)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
        code, text = runs.end(process)
        lines = [line for line in text.splitlines() if line.startswith("error: ")]
        clear = code == 0 or (code == 2 and len(lines) == 1 and str(workdir) in lines[0] and "Traceback" not in text)
        report(code, text, clear)
        if not clear:
            yield "unclear"
            continue
        code, text = runs.finish(workdir)
        right = code == 0 and runs.same_as_whole(workdir)
        report(code, text, right)
        yield "recovered" if right else "silent" if code == 0 else "unclear"


def damage(file: Path, how: int, rng: np.random.Generator) -> None:
    """Empties, cuts, flips a bit of, overwrites or deletes a file."""
    content = bytearray(file.read_bytes())
    if how == 0:
        file.write_bytes(b"")
    elif how == 1:
        file.write_bytes(content[: rng.integers(max(len(content), 1))])
    elif how == 2 and content:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)
    elif how == 3:
        file.write_bytes(rng.bytes(len(content)))
    else:
        file.unlink()


def damaged_files(runs: Runs, count: int, seed: int = 0) -> Iterator[str]:
    """A file of one of the two checkpoints of a run."""
    from attnseg_jax.errors import UserError
    from attnseg_jax.train.checkpoint import Checkpoints

    rng = np.random.default_rng(seed)
    whole = runs.whole / "checkpoints"
    states = {}
    with Checkpoints(whole, read_only=True) as checkpoints:
        for step in checkpoints.steps():
            states[step] = checkpoints.restore_arrays(step)[1]
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    copy = runs.folder / "damaged"
    for _ in range(count):
        shutil.copytree(whole, copy)
        file = files[rng.integers(len(files))]
        damage(copy / file, int(rng.integers(5)), rng)
        try:
            with Checkpoints(copy, read_only=True) as checkpoints:
                step, arrays, _ = checkpoints.restore_arrays()
            yield "recovered" if all((arrays[k] == states[step][k]).all() for k in states[step]) else "silent"
        except UserError as error:
            yield "recovered" if str(copy) in str(error) and "architecture" not in str(error) else "unclear"
        except Exception as error:
            report(file, repr(error), False)
            yield "unclear"
        shutil.rmtree(copy)


def corrupt_inputs(runs: Runs, count: int, seed: int = 0) -> Iterator[str]:
    """An image or a mask; all are read, as before a training."""
    from attnseg_jax.configs import default
    from attnseg_jax.data.sources import load_source, survey
    from attnseg_jax.errors import UserError

    rng = np.random.default_rng(seed)
    data = Path(runs.flags["data.dir"])
    files = sorted(path.relative_to(data) for path in data.rglob("train/*.png"))
    copy = runs.folder / "corrupt"
    warned = logging.handlers.BufferingHandler(1000)
    absl.logging.get_absl_logger().addHandler(warned)
    config = default.get_config()
    config.update_from_flattened_dict({**runs.flags, "data.dir": str(copy)})
    for _ in range(count):
        warned.flush()
        shutil.copytree(data, copy)
        file, how = files[rng.integers(len(files))], int(rng.integers(5))
        damage(copy / file, how, rng)
        try:
            source = load_source(config.data, "train")
            survey(source)
            # Bits that no decoder looks at may change.
            same = same_images(source, data) or any(file.stem in r.getMessage() for r in warned.buffer)
            report((file, how), "read as another picture", same)
            yield "recovered" if same else "silent"
        except UserError as error:
            yield "recovered" if file.stem in str(error) else "unclear"
        except Exception as error:
            report(file, repr(error), False)
            yield "unclear"
        shutil.rmtree(copy)


def same_images(source, data: Path) -> bool:
    """Whether a source has the images and masks of a folder."""
    if len(source) != len(list((data / "images/train").iterdir())):
        return False
    for sample in source:
        name = Path(sample["id"]).stem
        for field, kind in (("image", "images"), ("label", "masks")):
            if not np.array_equal(sample[field], np.asarray(Image.open(data / kind / "train" / f"{name}.png"))):
                return False
    return True


def mutated_configs(runs: Runs, count: int) -> Iterator[str]:
    """One to three keys with other values, see tests/train/test_config_fuzz.py."""
    sys.path.insert(0, str(ROOT / "tests/train"))
    import test_config_fuzz
    from hypothesis import given

    found = []

    @test_config_fuzz.fuzz(count)
    @given(test_config_fuzz.mutations())
    def run(changes):
        try:
            test_config_fuzz.check(changes)
            found.append("recovered")
        except Exception as error:
            report(changes, repr(error), False)
            found.append("unclear")

    run()
    yield from found


ATTACKS: dict[str, tuple[str, Callable[[Runs, int], Iterator[str]]]] = {
    "kill": ("`kill -9` of a training, and the same command again", lambda r, n: signals(r, signal.SIGKILL, n)),
    "sigterm": ("SIGTERM, and the same command again", lambda r, n: signals(r, signal.SIGTERM, n)),
    "sigint": ("SIGINT (Ctrl-C), and the same command again", lambda r, n: signals(r, signal.SIGINT, n)),
    "files": ("a file of a checkpoint emptied, cut, flipped, overwritten or deleted", damaged_files),
    "configs": ("mutated configs", mutated_configs),
    "full": ("a disk that is full for larger files, and the same command again", full_disks),
    "inputs": ("an image or a mask emptied, cut, flipped, overwritten or deleted", corrupt_inputs),
}


def report(what, text: str, good: bool) -> None:
    """Says on stderr what went wrong."""
    if not good:
        print(f"--- {what}\n{text[-3000:]}", file=sys.stderr)


def attack(counts: dict[str, int], folder: Path) -> dict[str, Counter]:
    """Tries each attack so many times; how often it ended how."""
    runs = Runs(folder)
    found = {}
    for name, count in counts.items():
        if count:
            found[name] = Counter(ATTACKS[name][1](runs, count))
            print(name, dict(found[name]), file=sys.stderr, flush=True)
    return found


def table(found: dict[str, Counter]) -> str:
    """The counts in Markdown."""
    lines = ["| attack | tries | " + " | ".join(COLUMNS) + " |", "|---|" + "---|" * (1 + len(COLUMNS))]
    for name, ends in found.items():
        lines.append(f"| {ATTACKS[name][0]} | {ends.total()} | " + " | ".join(str(ends[end]) for end in COLUMNS) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, (what, _) in ATTACKS.items():
        parser.add_argument(f"--{name}", type=int, default=0, help=what)
    counts = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        print(table(attack(counts, Path(folder))))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
