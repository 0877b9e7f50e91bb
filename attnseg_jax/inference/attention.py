"""A model's prediction of an image together with what it attended to."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError
from attnseg_jax.inference.programs import Programs, TooLarge, within_memory
from attnseg_jax.models.build import PARTS, takes_regions
from attnseg_jax.models.records import RECORDS, AttentionRecord, attention_records
from attnseg_jax.ops.decision import class_logits
from attnseg_jax.train.forward import decision, is_plain, make_forward

Seen = tuple[Int[Array, "h w"], Bool[Array, ""], dict[str, AttentionRecord]]
"""Classes, whether the logits are finite, and attention records by name."""


def make_records(
    model: nn.Module, variables: PyTree, config: ConfigDict
) -> Callable[[Float[np.ndarray, "h w 3"]], Seen]:
    """A function of a prepared image: its classes, whether its logits are finite, and the attention records by name.

    `config` is the run's.

    Raises:
      UserError: the model is of a kind without attention; of the function: no part of the model leaves anything to look
        at, or the memory does not hold what they leave.
    """
    if takes_regions(kind := config.model.kind):
        raise UserError(f"the run's config.model.kind={kind!r} leaves no attention to look at: it has no such part")
    programs, read = Programs(), decision(config, model)

    @jax.jit
    def forward(variables: PyTree, image: Float[Array, "1 h w c"]) -> Seen:
        output, sown = model.apply(variables, image, train=False, mutable=[RECORDS])
        logits = class_logits(output.logits[0])
        return read.classes(logits), jnp.isfinite(logits).all(), attention_records(sown.get(RECORDS, {}))

    def seen(image: np.ndarray) -> Seen:
        prediction, finite, records = _run(programs, forward, variables, image[None])
        if not records:
            parts = ", ".join(f"{part} {config.model[part].name!r}" for part in PARTS)
            raise UserError(
                f"the model leaves no attention to look at; it has {parts}: train one with another "
                "config.model.attention.name, such as 'self'"
            )
        return prediction, finite, records

    return seen


def make_look(
    model: nn.Module, variables: PyTree, config: ConfigDict
) -> Callable[..., tuple[Float[np.ndarray, "h w"], dict[str, AttentionRecord]]]:
    """A function of the model's inputs of one image, without an axis for the batch.

    It returns the confidence of what `config.eval` predicts, and the attention records of the whole image; none where
    the model leaves none.
    """
    forward, read = None if is_plain(config) else make_forward(config, model), decision(config, model)

    @jax.jit
    def look(variables: PyTree, *inputs: Array) -> tuple[Array, dict[str, AttentionRecord]]:
        output, sown = model.apply(variables, *inputs, train=False, mutable=[RECORDS])
        logits = forward(variables, *inputs) if forward else class_logits(output.logits)
        return read.sure(logits[0]), attention_records(sown.get(RECORDS, {}))

    programs = Programs()

    def looked(*inputs: np.ndarray) -> tuple[np.ndarray, dict[str, AttentionRecord]]:
        sure, records = _run(programs, look, variables, *(x[None] for x in inputs))
        return np.asarray(sure), records

    return looked


def covered_by(padded: tuple[int, int], inside: tuple[int, int], full: tuple[int, int]) -> tuple[int, int]:
    """Height and width, in pixels of a picture of size `full`, of what the maps of its `padded` form cover.

    `inside` is the picture's size in that form, to which it may have been resized.

    >>> covered_by((64, 96), (60, 90), (120, 180))
    (128, 192)
    """
    h, w = (math.ceil(p * n / m) for p, m, n in zip(padded, inside, full))
    return h, w


def _run(programs: Programs, function: Callable, variables: PyTree, *inputs: np.ndarray) -> Any:
    """What a jitted function gives for one image, whose attention may take more memory than its prediction."""
    try:
        program = programs(inputs[0].shape, lambda: function.lower(variables, *inputs))
        return within_memory(lambda: jax.block_until_ready(program(variables, *inputs)))
    except TooLarge as error:
        h, w = inputs[0].shape[1:3]
        raise UserError(
            f"the attention of a picture of {h} x {w} pixels takes {error}: look at it in a smaller one"
        ) from None
