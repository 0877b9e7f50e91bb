"""What a program computes, and the sizes of pictures that are tried: any, then at least some, then one."""

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from absl import logging
from jax import export
from jaxtyping import Array, UInt8

from attnseg_jax.data.transforms.fields import padded_size, scaled_size, shortened
from attnseg_jax.errors import UserError
from attnseg_jax.inference.predictor import Predictor
from attnseg_jax.inference.programs import read
from attnseg_jax.ops.pillow import resize_picture
from attnseg_jax.ops.platforms import portable
from attnseg_jax.ops.resize import resize
from attnseg_jax.ops.sliding import pad_end

Made = TypeVar("Made")
_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Attempt:
    """Pictures to try: so many at once, of one size or of any that is at least `least`.

    Attributes:
      size: height and width; None for any.
      least: at least so many, where any will do.
      batch: so many at once; None for any number.
      mapped: whether the model sees them one after another.
    """

    size: tuple[int, int] | None = None
    least: tuple[int, int] = (1, 1)
    batch: int | None = None
    mapped: bool = False

    @property
    def constraints(self) -> list[str]:
        """Of the symbols, in the words of `jax.export`."""
        return [f"{name} >= {n}" for name, n in zip("hw", self.least) if n > 1 and not self.size]

    @property
    def image(self) -> jax.ShapeDtypeStruct:
        """What the program takes."""
        scope = export.SymbolicScope(self.constraints)
        h, w = self.size or export.symbolic_shape("h, w", scope=scope)
        b = self.batch or export.symbolic_shape("b", scope=scope)[0]
        return jax.ShapeDtypeStruct((b, h, w, 3), jnp.uint8)

    def takes(self, size: tuple[int, int]) -> bool:
        """Whether pictures of a height and width are taken."""
        return size == self.size if self.size else all(n >= m for n, m in zip(size, self.least))

    def __str__(self) -> str:
        if self.batch:
            return "one picture at a time"
        if self.mapped:
            return "pictures one after another"
        if self.size:
            return "several pictures at once"
        return "pictures of any size" if max(self.least) == 1 else "pictures of at least {} x {}".format(*self.least)


def program_of(predictor: Predictor, attempt: Attempt) -> Callable[[Array], dict[str, Array]]:
    """The function of pictures that an attempt exports."""

    def program(image: Array) -> dict[str, Array]:
        if not attempt.mapped:
            return _outputs(predictor, image)
        return jax.lax.map(lambda one: {name: x[0] for name, x in _outputs(predictor, one[None]).items()}, image)

    return program


def first_that_works(attempts: Iterable[Attempt], make: Callable[[Attempt], Made]) -> tuple[Made, Attempt, list[str]]:
    """What `make` makes of the first attempt that it takes, that attempt, and why those before were not taken.

    Raises:
      UserError: the last attempt fails, too.
    """
    attempts, notes = list(attempts), []
    for attempt in attempts:
        try:
            with portable():
                return make(attempt), attempt, notes
        except Exception as error:
            # Whatever part wants to know a size says so in its own way.
            if attempt is attempts[-1]:
                raise _failure(error, attempt.size) from error
            logging.info("export: %s", note := f"{attempt}: {_reason(error)}")
            notes.append(note)
    raise AssertionError("the last attempt returns or raises")


def attempts(
    predictor: Predictor, size: tuple[int, int] | None, usual: tuple[int, int], last: dict[str, Any]
) -> Iterator[Attempt]:
    """From the most to the least that a program can take.

    Args:
      predictor: the model.
      size: height and width of the pictures; None for any size if the model allows it.
      usual: that of the pictures where it does not.
      last: how the last attempt differs from several pictures of one size.
    """
    if side := predictor.config.data.shorter_side:
        logging.warning(
            "export: config.data.shorter_side=%d resizes pictures of one size, %s: with 0 any size is taken",
            side, "{} x {}".format(*(size or usual)),
        )  # fmt: skip
    elif size is None and (least := _least(predictor)):
        yield Attempt(least=least)
        # Parts compare the sizes of their maps with windows and tables, which those of training crops fill.
        crop = _first_padded_to(predictor.config.data.crop, predictor.multiple)
        if (larger := tuple(map(max, crop, least))) != least:
            yield Attempt(least=larger)
    yield Attempt(size or usual)
    yield Attempt(size or usual, **last)


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


def _outputs(predictor: Predictor, image: UInt8[Array, "b h w 3"]) -> dict[str, Array]:
    """`mask`, `probabilities` and `finite` of pictures as they are."""
    config, full = predictor.config.data, image.shape[1:3]
    x = image if config.resolution == 1 else resize_picture(image, scaled_size(full, config.resolution))
    if config.shorter_side:
        x = resize_picture(x, shortened(x.shape[1:3], config, "the pictures").scaled, config.interpolation)
    inside = x.shape[1:3]
    mean, std = (jnp.asarray(x, jnp.float32).reshape(1, 1, 1, 3) for x in (config.mean, config.std))
    x = (x.astype(jnp.float32) - mean) / std
    x = x[..., ::-1] if config.channel_order == "bgr" else x
    # In this form it is known of symbols, too, that the multiple divides them.
    padded = tuple(predictor.multiple * ((n + predictor.multiple - 1) // predictor.multiple) for n in inside)
    x = pad_end(x, tuple(larger - n for larger, n in zip(padded, inside)), predictor.config.eval.padding)
    logits = predictor.forward(predictor.variables, x)
    if inside != full:
        linear = predictor.decision.to_linear(logits[:, : inside[0], : inside[1]])
        logits = predictor.decision.from_linear(resize(linear, full))
    found = read(predictor.decision, logits, ("probabilities",))
    return {name: y if name == "finite" else y[:, : full[0], : full[1]] for name, y in found.items()}


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    frames = traceback.extract_tb(error.__traceback__)
    return [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE)]


def _reason(error: BaseException) -> str:
    """Which part wanted to know a size, and in which line."""
    if isinstance(error, UserError):
        return str(error)
    frames = _frames(error)
    models = [frame for frame in frames if Path(frame.filename).is_relative_to(_PACKAGE / "models")] or frames
    frame = models[-1]
    return f"{Path(frame.filename).relative_to(_PACKAGE)}:{frame.lineno} needs to know more ({frame.line})"


def _failure(error: Exception, size: tuple[int, int]) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"pictures of {size[0]} x {size[1]} pixels: {reason[:500]}")
