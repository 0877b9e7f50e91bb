"""The proof of an export: what it makes of pictures, in a process without this project, is what `Predictor` makes."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging
from PIL import Image

from attnseg_jax.errors import UserError
from attnseg_jax.inference.export.elsewhere import last_line
from attnseg_jax.inference.pictures import Picture
from attnseg_jax.inference.prediction import Prediction
from attnseg_jax.inference.predictor import Predictor

LIMITS = {"float32": 1e-4, "float16": 1e-2, "int8": 0.1}
"""The share of pixels that may differ, by the precision of the export: rounded weights are another model, to a degree
that only pictures can tell."""

Runner = Callable[[Path, Path], None]
"""(folder of pictures, folder to write to): writes the mask of every picture as `NAME.png`."""

# Nothing of the project may be found, wherever it is installed.
_WITHOUT = """
import runpy, sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "attnseg_jax":
            raise ModuleNotFoundError(f"{name} is kept out", name=name)

sys.meta_path.insert(0, Without())
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not any(name.partition(".")[0] == "attnseg_jax" for name in sys.modules)
"""


@dataclass(frozen=True)
class Proof:
    """How an export compares with the model that it was made from.

    Attributes:
      pictures: how many were compared.
      sizes: of different height or width.
      pixels: in all.
      differing: pixels of another class.
      gap: where they differ, how far apart the probabilities of the two best classes are, at most.
    """

    pictures: int
    sizes: int
    pixels: int
    differing: int
    gap: float

    @property
    def share(self) -> float:
        """Of the pixels, those that differ."""
        return self.differing / self.pixels

    def __str__(self) -> str:
        gap = f", where the two best classes are at most {self.gap:.2g} apart in probability" if self.differing else ""
        return (
            f"{self.pictures} pictures of {self.sizes} sizes: {self.differing:,} of {self.pixels:,} pixels differ "
            f"({self.share:.2g} of them){gap}"
        )


def without_project(script: Path, platform: str, python: str = sys.executable) -> Runner:
    """Runs a script by an interpreter in a process of its own that cannot import this project, jax on `platform`."""

    def run(inputs: Path, outputs: Path) -> None:
        command = [python, "-I", "-c", _WITHOUT, str(script), str(inputs), f"--output={outputs}"]
        environment = dict(os.environ) | {"JAX_PLATFORMS": platform}
        done = subprocess.run(command, cwd=inputs, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"the export fails in a process without attnseg_jax: {last_line(done.stderr)}")

    return run


def prove(
    predictor: Predictor, pictures: Sequence[Picture], run: Runner, scratch: Path, limit: float = LIMITS["float32"]
) -> Proof:
    """Compares the masks of `run` with those of `predictor`; logs where they differ.

    Args:
      predictor: the model that was exported.
      pictures: files and arrays.
      run: the export.
      scratch: a folder to work in.
      limit: the share of pixels that may differ.

    Raises:
      UserError: more of the pixels differ; a picture cannot be read.
    """
    inputs, outputs = scratch / "pictures", scratch / "masks"
    inputs.mkdir()
    staged = [_stage(picture, inputs / f"{number:06d}") for number, picture in enumerate(pictures)]
    try:
        run(inputs, outputs)
    except UserError as error:
        message = str(error)
        for path, picture in zip(staged, pictures):
            message = message.replace(str(path), picture.name)
        raise UserError(message) from None
    sizes, pixels, differing, gap = set(), 0, 0, 0.0
    for path, result in zip(staged, predictor.stream(pictures), strict=True):
        differs = _mask(outputs / f"{path.stem}.png", result) != result.mask
        sizes.add(result.mask.shape)
        pixels += differs.size
        if count := int(differs.sum()):
            here = _gap(result, differs)
            logging.warning(
                "export: %s: %d of %d pixels differ, where the two best classes are at most %.2g apart",
                result.picture.name, count, differs.size, here,
            )  # fmt: skip
            differing, gap = differing + count, max(gap, here)
    proof = Proof(len(staged), len(sizes), pixels, differing, gap)
    if proof.share > limit:
        raise UserError(f"the export is not the model, so that it is not kept: {proof}; at most {limit:g} may")
    return proof


def _stage(picture: Picture, path: Path) -> Path:
    """Puts a picture there, with the ending of its file; returns the path."""
    if picture.pixels is None:
        path = path.with_suffix(picture.path.suffix.lower())
        path.symlink_to(picture.path.resolve())
    else:
        Image.fromarray(picture.pixels).save(path := path.with_suffix(".png"))
    return path


def _mask(path: Path, result: Prediction) -> np.ndarray:
    try:
        mask = np.asarray(Image.open(path))
    except OSError as error:
        raise UserError(f"the export made no mask of {result.picture.name}") from error
    if mask.shape != result.mask.shape:
        raise UserError(f"the export made a mask {mask.shape} of {result.picture.name}, which is {result.mask.shape}")
    return mask


def _gap(result: Prediction, where: np.ndarray) -> float:
    second, first = np.sort(result.probabilities[where].astype(np.float32), axis=-1)[:, -2:].T
    # Each is rounded to half precision.
    return float((first - second).max()) + 2**-11
