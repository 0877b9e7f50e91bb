"""A model as one StableHLO program, with all that is done to a picture inside."""

import importlib.util
import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from jax import export
from jaxtyping import Array, UInt8
from ml_collections import ConfigDict

from attnseg_jax.data.transforms.fields import padded_size, scaled_size
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.inference.predictor import Predictor
from attnseg_jax.inference.programs import Form, model_outputs
from attnseg_jax.models.build import takes_regions
from attnseg_jax.ops.attention.dispatch import portable
from attnseg_jax.ops.pillow import resize_picture

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
# Checks of sizes where the program is called; what else is a custom call another version need not know.
_HARMLESS = {"shape_assertion"}
_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Program:
    """An exported model.

    Attributes:
      content: of the file.
      size: height and width of the pictures that it takes; None for any.
      least: at least so many, where any will do.
      notes: what is fixed, and why.
    """

    content: bytes
    size: tuple[int, int] | None
    least: tuple[int, int]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Attempt:
    """Sizes to try: `b` pictures at once or one after another, of one size or of any that is at least `least`."""

    mapped: bool
    size: tuple[int, int] | None = None
    least: tuple[int, int] = (1, 1)

    def shape(self) -> tuple[Any, ...]:
        scope = export.SymbolicScope([f"{name} >= {n}" for name, n in zip("hw", self.least) if n > 1])
        h, w = self.size or export.symbolic_shape("h, w", scope=scope)
        return (*export.symbolic_shape("b", scope=scope), h, w, 3)


def check_platforms(platforms: Sequence[str]) -> None:
    """Raises UserError for a platform that is unknown or stands twice."""
    for name in platforms:
        if name not in PLATFORMS:
            raise UserError(f"--platforms={','.join(platforms)}: {name!r} is unknown: {nearest(name, PLATFORMS)}")
    if not platforms or len({*platforms}) < len(platforms):
        raise UserError(f"--platforms={','.join(platforms)}: name each of {', '.join(PLATFORMS)} once at most")


def check(config: ConfigDict) -> None:
    """Refuses what cannot be a program, before any work.

    Raises:
      UserError: a model that takes more than a picture, a package that is missing.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("--format=stablehlo needs the package flatbuffers: pip install flatbuffers")
    if takes_regions(kind := config.model.kind):
        raise UserError(
            f"config.model.kind={kind!r} takes regions beside the picture, which no program of the model computes: it "
            "cannot be exported as stablehlo; --format=safetensors can"
        )


def make(
    predictor: Predictor, platforms: Sequence[str], size: tuple[int, int] | None, usual: tuple[int, int]
) -> Program:
    """The program of a model.

    Args:
      predictor: the model with all that is done around it.
      platforms: of `PLATFORMS`.
      size: height and width of the pictures; None for any size if the model allows it.
      usual: that of the pictures where it does not.

    Raises:
      UserError: the model cannot be exported for these sizes.
    """
    notes: list[str] = []
    for attempt in _attempts(predictor, size, usual):
        try:
            with portable(), _without_paths():
                exported = _export(predictor, platforms, attempt)
        except Exception as error:
            # Whatever part wants to know a size says so in its own way.
            if attempt.mapped and attempt.size:
                raise _failure(error, attempt.size) from error
            logging.info("export: %s", note := f"{_what(attempt)}: {_reason(error)}")
            notes.append(note)
            continue
        _check_custom_calls(exported)
        return Program(bytes(exported.serialize()), attempt.size, attempt.least, tuple(notes))
    raise AssertionError("the last attempt returns or raises")


def _attempts(predictor: Predictor, size: tuple[int, int] | None, usual: tuple[int, int]) -> Iterator[_Attempt]:
    if size is None and (least := _least(predictor)):
        yield _Attempt(mapped=False, least=least)
        # Parts compare the sizes of their maps with windows and tables, which those of training crops fill.
        crop = _first_padded_to(predictor.config.data.crop, predictor.multiple)
        if (larger := tuple(map(max, crop, least))) != least:
            yield _Attempt(mapped=False, least=larger)
    for mapped in (False, True):
        yield _Attempt(mapped, size or usual)


def _least(predictor: Predictor) -> tuple[int, int] | None:
    """The smallest pictures that the model takes, up to training crops; None where it takes none of them."""
    for cells in (1, 2, 4, 8, 16):
        side = cells * predictor.multiple
        image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.uint8)
        try:
            jax.eval_shape(lambda image: _outputs(predictor, image), image)
        except Exception:
            continue
        return _first_padded_to((side, side), predictor.multiple)
    return None


def _first_padded_to(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """The smallest size that is padded to that of `size`.

    >>> _first_padded_to((360, 480), 16)
    (353, 465)
    """
    return tuple(n - multiple + 1 for n in padded_size(size, multiple))


def _export(predictor: Predictor, platforms: Sequence[str], attempt: _Attempt) -> export.Exported:
    def program(image: Array) -> dict[str, Array]:
        if not attempt.mapped:
            return _outputs(predictor, image)
        return jax.lax.map(lambda one: {name: x[0] for name, x in _outputs(predictor, one[None]).items()}, image)

    shape = jax.ShapeDtypeStruct(attempt.shape(), jnp.uint8)
    return export.export(jax.jit(program), platforms=tuple(platforms))(shape)


@contextmanager
def _without_paths() -> Iterator[None]:
    """Leaves the source lines out of programs, which would tell the folders of this machine."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def _outputs(predictor: Predictor, image: UInt8[Array, "b h w 3"]) -> dict[str, Array]:
    """`mask`, `probabilities` and `finite` of pictures as they are."""
    config, full = predictor.config.data, image.shape[1:3]
    inside = full if config.resolution == 1 else scaled_size(full, config.resolution)
    x = image if inside == full else resize_picture(image, inside)
    mean, std = (jnp.asarray(x, jnp.float32).reshape(1, 1, 1, 3) for x in (config.mean, config.std))
    x = (x.astype(jnp.float32) - mean) / std
    x = x[..., ::-1] if config.channel_order == "bgr" else x
    # In this form it is known of symbols, too, that the multiple divides them.
    padded = tuple(predictor.multiple * ((n + predictor.multiple - 1) // predictor.multiple) for n in inside)
    x = jnp.pad(x, [(0, 0), *((0, larger - n) for larger, n in zip(padded, inside)), (0, 0)])
    form = Form(padded, padded, padded) if inside == full else Form(padded, inside, full)
    found = model_outputs(predictor.forward, predictor.decision, form, ("probabilities",), predictor.variables, x)
    return {name: y if name == "finite" else y[:, : full[0], : full[1]] for name, y in found.items()}


def _check_custom_calls(exported: export.Exported) -> None:
    calls = {*re.findall(r'custom_call @"?([^"\s(]+)', exported.mlir_module())} - _HARMLESS
    if calls:
        raise UserError(f"the program calls {', '.join(sorted(calls))}, which other versions need not know")


def _what(attempt: _Attempt) -> str:
    if attempt.mapped:
        return "pictures one after another"
    if attempt.size:
        return "several pictures at once"
    return "pictures of any size" if max(attempt.least) == 1 else "pictures of at least {} x {}".format(*attempt.least)


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]


def _reason(error: BaseException) -> str:
    """Which part wanted to know a size, and in which line."""
    frames = _frames(error)
    models = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE / "models")] or frames
    frame = models[-1]
    return f"{Path(frame.filename).relative_to(_PACKAGE)}:{frame.lineno} needs to know more ({frame.line})"


def _failure(error: Exception, size: tuple[int, int]) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"pictures of {size[0]} x {size[1]} pixels: {reason[:500]}")
