"""What a compiled or an exported program computes of pictures of one form, and the compiled ones that are kept."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from attnseg_jax.ops.bilinear import in_bands
from attnseg_jax.ops.decision import Decision
from attnseg_jax.train.forward import Forward
from attnseg_jax.train.memory import free_bytes, is_exhausted

# Compiled programs that are kept, each of a size of pictures.
_KEPT = 32


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
    logits = forward(variables, *inputs)
    _, maps = in_bands(
        lambda linear: ({}, _maps(decision, decision.from_linear(linear), extras)),
        decision.to_linear(logits), sizes[:, 0], sizes[:, 1], form.full,
    )  # fmt: skip
    return maps | {"finite": _finite(logits)}


def read(decision: Decision, logits: Array, extras: tuple[str, ...]) -> dict[str, Array]:
    """Mask, whether the logits are finite, and what else is asked for, of a batch; `decision` reads the logits."""
    return _maps(decision, logits, extras) | {"finite": _finite(logits)}


def _finite(logits: Array) -> Array:
    return jnp.isfinite(logits).all((1, 2, 3))


def _maps(decision: Decision, logits: Array, extras: tuple[str, ...]) -> dict[str, Array]:
    classes = logits.shape[-1]
    found = {"mask": decision.classes(logits).astype(jnp.uint8 if classes <= 256 else jnp.uint16)}
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
