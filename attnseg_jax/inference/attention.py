"""A model's prediction of an image together with what it attended to."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, PyTree
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError
from attnseg_jax.models.build import PARTS, takes_regions
from attnseg_jax.models.records import RECORDS, AttentionRecord, attention_records
from attnseg_jax.ops.decision import Decision, class_logits
from attnseg_jax.train.forward import decision, is_plain, make_forward


def with_records(
    model: nn.Module, variables: PyTree, image: Float[np.ndarray, "h w 3"], config: ConfigDict
) -> tuple[Int[Array, "h w"], Bool[Array, ""], dict[str, AttentionRecord]]:
    """The predicted classes of a prepared image, whether its logits are finite, and the attention records by name.

    `config` is the run's.

    Raises:
      UserError: no part of the model leaves anything to look at.
    """
    if takes_regions(kind := config.model.kind):
        raise UserError(f"the run's config.model.kind={kind!r} leaves no attention to look at: it has no such part")
    prediction, finite, records = _forward(model, decision(config), variables, image[None])
    if not records:
        parts = ", ".join(f"{part} {config.model[part].name!r}" for part in PARTS)
        raise UserError(
            f"the model leaves no attention to look at; it has {parts}: train one with another "
            "config.model.attention.name, such as 'self'"
        )
    return prediction, finite, records


def make_look(
    model: nn.Module, variables: PyTree, config: ConfigDict
) -> Callable[..., tuple[Float[np.ndarray, "h w"], dict[str, AttentionRecord]]]:
    """A function of the model's inputs of one image, without an axis for the batch.

    It returns the confidence of what `config.eval` predicts, and the attention records of the whole image; none where
    the model leaves none.
    """
    forward, read = None if is_plain(config) else make_forward(config, model), decision(config)

    @jax.jit
    def look(variables: PyTree, *inputs: Array) -> tuple[Array, dict[str, AttentionRecord]]:
        output, sown = model.apply(variables, *inputs, train=False, mutable=[RECORDS])
        logits = forward(variables, *inputs) if forward else class_logits(output.logits)
        return read.sure(logits[0]), attention_records(sown.get(RECORDS, {}))

    def looked(*inputs: np.ndarray) -> tuple[np.ndarray, dict[str, AttentionRecord]]:
        sure, records = look(variables, *(x[None] for x in inputs))
        return np.asarray(sure), records

    return looked


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(
    model: nn.Module, read: Decision, variables: PyTree, image: Float[Array, "1 h w 3"]
) -> tuple[Int[Array, "h w"], Bool[Array, ""], dict[str, AttentionRecord]]:
    output, sown = model.apply(variables, image, train=False, mutable=[RECORDS])
    logits = class_logits(output.logits[0])
    return read.classes(logits), jnp.isfinite(logits).all(), attention_records(sown.get(RECORDS, {}))
