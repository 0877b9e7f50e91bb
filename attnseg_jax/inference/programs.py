"""What a compiled or an exported program computes of pictures of one form."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from attnseg_jax.ops.decision import Decision
from attnseg_jax.ops.resize import resize
from attnseg_jax.train.forward import Forward


@dataclass(frozen=True)
class Form:
    """What pictures of one batch have in common, in (height, width): as the model gets them, of that what is no
    padding, and as the masks are to be."""

    padded: tuple[int, int]
    inside: tuple[int, int]
    full: tuple[int, int]


def model_outputs(
    forward: Forward, decision: Decision, form: Form, extras: tuple[str, ...], variables: PyTree, *inputs: Array
) -> dict[str, Array]:
    """Mask, whether the logits are finite, and what else is asked for, of a batch; `decision` reads the logits."""
    logits = forward(variables, *inputs)
    if form.full != form.inside:
        logits = resize(logits[:, : form.inside[0], : form.inside[1]], form.full)
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
