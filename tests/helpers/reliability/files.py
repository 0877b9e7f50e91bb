"""Attacks on what a training reads: its checkpoints, its images and its config."""

import logging.handlers
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import absl.logging
import numpy as np
from pair import ROOT
from PIL import Image

from reliability.runs import Runs, report

# The lines of the package's warnings so far.
Warned = Callable[[], list[str]]


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


def damaged_files(runs: Runs, tries: range) -> Iterator[str]:
    """A file of one of the two checkpoints of a run."""

    whole = runs.whole / "checkpoints"
    states, metrics = _contents(whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    for attempt in tries:
        copy = Path(shutil.copytree(whole, runs.folder / "damaged"))
        rng = np.random.default_rng((1, attempt))
        file, how = files[rng.integers(len(files))], int(rng.integers(5))
        damage(copy / file, how, rng)

        def is_right(warned: Warned, copy: Path = copy) -> bool:
            found, scores = _contents(copy, latest=True)
            right = all(_equal(arrays, states[step]) for step, arrays in found.items())
            same = found.keys() == {max(states)} and scores == metrics
            # An older checkpoint, or an unknown score, is said.
            return right and (same or any(str(copy) in line for line in warned()))

        yield _judged((file, how), is_right, lambda text, copy=copy: str(copy) in text and "architecture" not in text)
        shutil.rmtree(copy)


def _contents(folder: Path, latest: bool = False) -> tuple[dict[int, dict], dict[int, dict]]:
    """(arrays by step, metrics by step) of all checkpoints; the arrays of the newest intact one only where asked."""
    from attnseg_jax.train.checkpoint import Checkpoints

    with Checkpoints(folder, read_only=True) as checkpoints:
        wanted = ["latest"] if latest else checkpoints.steps()
        found = dict(checkpoints.restore_arrays(step)[:2] for step in wanted)
        return found, {step: checkpoints.metrics(step) for step in checkpoints.steps()}


def _judged(what: tuple[Path, int], is_right: Callable[[Warned], bool], is_clear: Callable[[str], bool]) -> str:
    """How reading damaged files ended: rightly, or with an error that is clear."""
    from attnseg_jax.errors import UserError

    try:
        with _warnings() as warned:
            end = "recovered" if is_right(warned) else "silent"
    except UserError as error:
        end = "recovered" if is_clear(str(error)) else "unclear"
    except Exception as error:
        end = f"unclear: {error!r}"
    if end != "recovered":
        report(what, end)
    return end[:9].rstrip(":")


def _equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@contextmanager
def _warnings():
    """Of the package, as a function that gives the lines."""
    buffer = logging.handlers.BufferingHandler(1000)
    absl.logging.get_absl_logger().addHandler(buffer)
    try:
        yield lambda: [record.getMessage() for record in buffer.buffer]
    finally:
        absl.logging.get_absl_logger().removeHandler(buffer)


def corrupt_inputs(runs: Runs, tries: range) -> Iterator[str]:
    """An image or a mask; all are read, as before a training."""
    from attnseg_jax.configs import default
    from attnseg_jax.data.sources import load_source, survey

    data = Path(runs.flags["data.dir"])
    files = sorted(path.relative_to(data) for path in data.rglob("train/*.png"))
    config = default.get_config()
    for attempt in tries:
        copy = Path(shutil.copytree(data, runs.folder / "corrupt"))
        config.update_from_flattened_dict({**runs.flags, "data.dir": str(copy)})
        rng = np.random.default_rng((2, attempt))
        file, how = files[rng.integers(len(files))], int(rng.integers(5))
        damage(copy / file, how, rng)

        def is_right(warned: Warned, file: Path = file) -> bool:
            source = load_source(config.data, "train")
            survey(source)
            # Bits that no decoder looks at may change.
            return _same_images(source, data) or any(file.stem in line for line in warned())

        yield _judged((file, how), is_right, lambda text, file=file: file.stem in text)
        shutil.rmtree(copy)


def _same_images(source, data: Path) -> bool:
    """Whether a source has the images and masks of a folder."""
    if len(source) != len(list((data / "images/train").iterdir())):
        return False
    for sample in source:
        name = Path(sample["id"]).stem
        for field, kind in (("image", "images"), ("label", "masks")):
            if not np.array_equal(sample[field], np.asarray(Image.open(data / kind / "train" / f"{name}.png"))):
                return False
    return True


def mutated_configs(runs: Runs, tries: range) -> Iterator[str]:
    """One to three keys with other values, see tests/train/test_config_fuzz.py; all are drawn before the first."""
    sys.path.insert(0, str(ROOT / "tests/train"))
    import test_config_fuzz
    from hypothesis import given

    ends = []

    @test_config_fuzz.fuzz(tries.stop)
    @given(test_config_fuzz.mutations())
    def run(changes):
        try:
            test_config_fuzz.check(changes)
            ends.append("recovered")
        except Exception as error:
            report(changes, repr(error))
            ends.append("unclear")

    run()
    yield from ends[tries.start :]
