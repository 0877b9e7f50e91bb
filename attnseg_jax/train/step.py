"""The pure train and evaluation steps, the same for one device, `pmap` and a mesh."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from attnseg_jax.errors import UserError, nearest
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.losses import cross_entropy, mean, presence_cross_entropy
from attnseg_jax.ops.metrics import confusion_matrix
from attnseg_jax.train.state import TrainState

LOSSES = {"cross_entropy": cross_entropy}


def loss_function(name: str) -> Callable:
    """The loss of `config.loss.name`: (logits, labels, *, class_weights, label_smoothing) -> (sum, count)."""
    if name not in LOSSES:
        raise UserError(f"config.loss.name={name!r} is unknown: {nearest(name, LOSSES)}")
    return LOSSES[name]


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    schedule: Callable,
    loss: str = "cross_entropy",
    class_weights: Float[np.ndarray, "k"] | None = None,
    label_smoothing: float = 0.0,
    aux_weight: float = 0.4,
    presence_weight: float = 0.2,
    ema_decay: float = 0.0,
    accumulate: int = 1,
) -> Callable:
    """Build `train_step(state, batch, *, axis_name=None) -> (state, metrics)`.

    The objective is the sum over the valid pixels of the loss of the logits, plus `aux_weight` times that of every
    auxiliary output and `presence_weight` times the presence loss of every output that tells which classes an image
    shows, divided once by the count of valid pixels (or the sum of their class weights) of the global batch.
    With `axis_name` (inside `pmap`) sums, counts and gradients are added over the devices before that division, so
    that it does not matter how the valid pixels are spread. No valid pixel at all: loss 0 and gradient 0.

    `accumulate` splits the batch into that many micro-batches (rows i, i + accumulate, ...) run one after another;
    sums of gradients and counts are added before the one division, so the result is that of the whole batch except
    for the statistics of batch norms and the dropout masks. The masks also depend on the number of devices.

    `metrics`: device scalars `loss` (the objective), `aux_NAME` and `presence_NAME` (each such loss, unweighted),
    `grad_norm` (before clipping), `learning_rate`, and `confusion`, int32 [k, k] of the training batch. The average of
    the parameters, where the state has one, is `d * average + (1 - d) * params` after the update,
    with `d = min(ema_decay, (1 + t) / (10 + t))` at step t.
    """
    loss_sum = loss_function(loss)

    def objective(params, batch_stats, batch, key):
        labels = _labels(batch)
        out, updated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch["image"],
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        weights = None if class_weights is None else jnp.asarray(class_weights, jnp.float32)

        def summed(logits):
            return loss_sum(logits, labels, class_weights=weights, label_smoothing=label_smoothing)

        main, count = summed(out.logits)
        aux = {name: summed(logits)[0] for name, logits in out.aux.items()}
        presence = {
            name: presence_cross_entropy(logits, labels, class_weights=weights) for name, logits in out.presence.items()
        }
        total = main + aux_weight * sum(aux.values()) + presence_weight * sum(presence.values())
        sums = {
            "count": count,
            "loss": total,
            **{f"aux_{name}": value for name, value in aux.items()},
            **{f"presence_{name}": value for name, value in presence.items()},
            "confusion": confusion_matrix(jnp.argmax(out.logits, axis=-1), labels, num_classes),
        }
        return total, (sums, updated.get("batch_stats", batch_stats))

    differentiate = jax.grad(objective, has_aux=True)

    def accumulated(params, batch_stats, batch, key):
        """Sums of gradients and of counts over the micro-batches; the statistics are handed from one to the next."""
        if accumulate == 1:
            grads, (sums, batch_stats) = differentiate(params, batch_stats, batch, key)
            return grads, sums, batch_stats

        # Rows i::accumulate, not the i-th block: every device then keeps its own rows, without communication.
        micro = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 0, 1), batch
        )

        def body(carry, item):
            batch_stats, total = carry
            index, part = item
            grads, (sums, batch_stats) = differentiate(params, batch_stats, part, jax.random.fold_in(key, index))
            return (batch_stats, jax.tree.map(jnp.add, total, (grads, sums))), None

        first = jax.tree.map(lambda x: x[0], micro)
        shapes = jax.eval_shape(lambda: differentiate(params, batch_stats, first, key))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0], shapes[1][0]))
        (batch_stats, (grads, sums)), _ = jax.lax.scan(body, (batch_stats, zeros), (jnp.arange(accumulate), micro))
        return grads, sums, batch_stats

    def train_step(state: TrainState, batch: dict, *, axis_name: str | None = None) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        grads, sums, batch_stats = accumulated(state.params, state.batch_stats, batch, key)
        if axis_name is not None:
            grads, sums = jax.lax.psum((grads, sums), axis_name)
            batch_stats = jax.lax.pmean(batch_stats, axis_name)

        confusion, count = sums.pop("confusion"), sums.pop("count")
        scale = mean(jnp.float32(1.0), count)
        grads, losses = jax.tree.map(lambda x: x * scale, (grads, sums))

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            # Without a warm-up a short run would still average over its random initial values.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, ema, params)
        metrics = {
            **losses,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": schedule(state.step),
            "confusion": confusion,
        }
        state = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)
        return state, metrics

    return train_step


def make_eval_step(model: Any, num_classes: int) -> Callable:
    """Build `eval_step(variables, batch, *, axis_name=None) -> (confusion, prediction)`.

    `confusion` is int32 [k, k] (rows truth, columns prediction) over the valid pixels of the valid rows, added over the
    devices with `axis_name`; `prediction` [b, h, w] is uint8, or int32 beyond 256 classes, and stays on its device.
    """
    dtype = jnp.uint8 if num_classes <= 256 else jnp.int32

    def eval_step(variables: dict, batch: dict, *, axis_name: str | None = None) -> tuple[Array, Array]:
        out = model.apply(variables, batch["image"], train=False)
        prediction = jnp.argmax(out.logits, axis=-1)
        confusion = confusion_matrix(prediction, _labels(batch), num_classes)
        if axis_name is not None:
            confusion = jax.lax.psum(confusion, axis_name)
        return confusion, prediction.astype(dtype)

    return eval_step


def _labels(batch: dict) -> Array:
    """The labels with padding rows ignored, whatever those rows hold."""
    return jnp.where(batch["valid"][:, None, None], batch["label"], IGNORE_LABEL)
