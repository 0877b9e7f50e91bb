"""What a compiled or an exported program computes of pictures of one form, and the compiled ones that are kept."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from attnseg_jax.ops.bilinear import resize_rows
from attnseg_jax.ops.decision import Decision
from attnseg_jax.train.forward import Forward
from attnseg_jax.train.memory import free_bytes, is_exhausted

# Compiled programs that are kept, each of a size of pictures.
_KEPT = 32
# Rows of a mask that are read from the logits at once, where these are resized.
_BAND = 32


@dataclass(frozen=True)
class Form:
    """What pictures of one batch have in common, in (height, width): as the model gets them, padded, and where that is
    not their own size, as the masks are to be, padded too."""

    padded: tuple[int, int]
    full: tuple[int, int] | None = None


def model_outputs(
    forward: Forward, decision: Decision, form: Form, extras: tuple[str, ...], variables: PyTree, *inputs: Array
) -> dict[str, Array]:
    """What `read` gives of a batch.

    Where `form` has another size for the masks, the last of `inputs` are height and width of each picture as the model
    gets it and as it is, without padding, int32 [b, 2, 2].
    """
    if form.full is None:
        return read(decision, forward(variables, *inputs), extras)
    *inputs, sizes = inputs
    linear = decision.to_linear(forward(variables, *inputs))
    height, width = form.full

    def band(rows: Array) -> dict[str, Array]:
        resized = resize_rows(linear, sizes[:, 0], sizes[:, 1], rows, width)
        return read(decision, decision.from_linear(resized), extras)

    # Of a photograph all logits at full size would take gigabytes.
    found = jax.lax.map(band, jnp.arange(-(-height // _BAND) * _BAND).reshape(-1, _BAND))
    finite = found.pop("finite").all(0)
    # Bands as rows: [bands, b, rows, w, ...] -> [b, h, w, ...].
    joined = {name: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]) for name, x in found.items()}
    return {"finite": finite, **{name: x[:, :height] for name, x in joined.items()}}


def read(decision: Decision, logits: Array, extras: tuple[str, ...]) -> dict[str, Array]:
    """Mask, whether the logits are finite, and what else is asked for, of a batch; `decision` reads the logits."""
    classes = logits.shape[-1]
    found = {
        "mask": decision.classes(logits).astype(jnp.uint8 if classes <= 256 else jnp.uint16),
        "finite": jnp.isfinite(logits).all((1, 2, 3)),
    }
    if "probabilities" in extras:
        found["probabilities"] = decision.probabilities(logits).astype(jnp.float16)
    if "entropy" in extras:
        found["entropy"] = decision.entropy(logits)
    return found


def output_bytes(classes: int, extras: tuple[str, ...]) -> int:
    """Those of what `read` gives of a pixel."""
    return (1 if classes <= 256 else 2) + 2 * classes * ("probabilities" in extras) + 4 * ("entropy" in extras)


class TooLarge(Exception):
    """A program that takes more memory than a device has left."""


class Programs:
    """Compiled programs by what they are for; beyond a number the one that was asked for longest ago is given up.

    Attributes:
      kept: the programs by key, the one of the latest call last.
    """

    def __init__(self) -> None:
        self.kept: OrderedDict[Hashable, jax.stages.Compiled] = OrderedDict()
        # Bytes of programs that were too large, which are not compiled again for the next picture.
        self._refused: dict[Hashable, int] = {}

    def __call__(self, key: Hashable, lower: Callable[[], jax.stages.Lowered]) -> jax.stages.Compiled:
        """The program of a key, compiled if it is not at hand.

        Raises:
          TooLarge: the memory does not hold what it needs beside its arguments; the message has both sizes.
        """
        if key not in self.kept:
            free = free_bytes(jax.local_devices()[0])
            program, needed = None, self._refused.get(key, 0)
            if needed <= free:
                program = within_memory(lambda: lower().compile())
                needed = program_bytes(program)
            if needed > free:
                self._refused[key] = needed
                raise TooLarge(f"about {needed / 2**30:.3g} GiB on a device that has {free / 2**30:.3g} GiB left")
            self.kept[key] = program
            while len(self.kept) > _KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]


def within_memory(call: Callable[[], Any]) -> Any:
    """What `call` returns; raises TooLarge where XLA runs out of memory."""
    try:
        return call()
    except jax.errors.JaxRuntimeError as error:
        if not is_exhausted(error):
            raise
        raise TooLarge("more memory than a device has left") from error


def program_bytes(program: Any) -> int:
    """What a compiled program takes beside its arguments."""
    found = program.memory_analysis()
    return 0 if found is None else found.temp_size_in_bytes + found.output_size_in_bytes
