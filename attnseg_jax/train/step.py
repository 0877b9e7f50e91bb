"""The pure train and evaluation steps, the same for one device, `pmap` and a mesh."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from attnseg_jax.models.freeze import frozen_modules, without_gradients
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.losses import mean, presence_cross_entropy
from attnseg_jax.ops.metrics import confusion_matrix
from attnseg_jax.train.losses import PRESENCE_COUNT, make_losses
from attnseg_jax.train.state import TrainState


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    *,
    num_classes: int,
    schedule: Callable,
    frozen: Collection[str] = (),
    loss: str = "cross_entropy",
    loss_scales: Sequence[float] = (),
    loss_options: Mapping[str, Mapping[str, Any]] | None = None,
    class_weights: Float[np.ndarray, "k"] | None = None,
    label_smoothing: float = 0.0,
    aux_weight: float = 0.4,
    presence_weight: float = 0.2,
    ema_decay: float = 0.0,
    accumulate: int = 1,
) -> Callable:
    """Build `train_step(state, batch, *, axis_name=None) -> (state, metrics)`.

    The objective is the loss of the logits, plus `aux_weight` times that of every auxiliary output and
    `presence_weight` times the presence loss of every output that tells which classes an image shows. A loss is the sum
    of those that `loss` names ('a+b'), times their `loss_scales`; `loss_options` holds the options of each by its name.
    Each is its sum over the valid pixels (or images) of the global batch, divided by their count there, or the
    sum of their class weights. With `axis_name` (inside `pmap`) sums, counts and gradients are added over the devices
    before any division, so that it does not matter how the valid pixels are spread. No valid pixel at all: loss 0 and
    gradient 0.

    `frozen` are the paths of the parameters that stay as they are, see `attnseg_jax.models.freeze`.

    `accumulate` splits the batch into that many micro-batches (rows i, i + accumulate, ...) run one after another;
    sums of gradients are added before the one division, so the result is that of the whole batch except for the
    statistics of batch norms, the dropout masks, and losses that are no sums over pixels or images: a ratio of sums
    (`dice`, `jaccard`, `tversky`, `boundary`, `focal` normalized) and the choice of hard pixels (`ohem`) are those of
    the micro-batch, which counts by its valid pixels. The masks also depend on the number of devices.

    `metrics`: device scalars `loss` (the objective), `loss_NAME` (each loss of the logits, where several are summed,
    before its factor), `aux_NAME` and `presence_NAME` (each such loss, unweighted),
    `grad_norm` (before clipping), `learning_rate`, and `confusion`, int32 [k, k] of the training batch. The average of
    the parameters, where the state has one, is `d * average + (1 - d) * params` after the update,
    with `d = min(ema_decay, (1 + t) / (10 + t))` at step t.
    """
    losses = make_losses(loss, loss_scales, loss_options, num_classes=num_classes, label_smoothing=label_smoothing)
    weights = None if class_weights is None else np.asarray(class_weights, np.float32)

    def objective(params, batch_stats, batch, key, factors, axis_name):
        labels = _labels(batch)
        with frozen_modules(frozen):
            out, updated = model.apply(
                {"params": without_gradients(params, frozen), "batch_stats": batch_stats},
                *_inputs(batch),
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
        filled = {
            "class_weights": None if weights is None else jnp.asarray(weights),
            "label_smoothing": label_smoothing,
            "axis_name": axis_name,
        }

        def summed(logits):
            parts = {one.name: factors[one.count] * one.sum(logits, labels, **filled) for one in losses}
            return sum(one.scale * parts[one.name] for one in losses), parts

        main, parts = summed(out.logits)
        aux = {name: summed(logits)[0] for name, logits in out.aux.items()}
        presence = {
            name: factors[PRESENCE_COUNT]
            * presence_cross_entropy(logits, labels, class_weights=filled["class_weights"])
            for name, logits in out.presence.items()
        }
        total = main + aux_weight * sum(aux.values()) + presence_weight * sum(presence.values())
        sums = {
            "loss": total,
            **({f"loss_{name}": value for name, value in parts.items()} if len(losses) > 1 else {}),
            **{f"aux_{name}": value for name, value in aux.items()},
            **{f"presence_{name}": value for name, value in presence.items()},
            "confusion": confusion_matrix(jnp.argmax(out.logits, axis=-1), labels, num_classes),
        }
        return total, (sums, updated.get("batch_stats", batch_stats))

    differentiate = jax.grad(objective, has_aux=True)

    def divisions(batch, axis_name):
        """1 / the count that sums are divided by in the end, and what makes up for other counts before."""
        labels = _labels(batch)
        functions = [*dict.fromkeys([*(one.count for one in losses), PRESENCE_COUNT])]
        counts = {count: count(labels, None if weights is None else jnp.asarray(weights)) for count in functions}
        if axis_name is not None:
            counts = dict(zip(counts, jax.lax.psum(list(counts.values()), axis_name)))
        main, *others = functions
        divisor = jnp.where(counts[main] > 0, counts[main], 1.0)
        return 1.0 / divisor, {main: 1.0, **{count: mean(divisor, counts[count]) for count in others}}

    def accumulated(params, batch_stats, batch, key, factors, axis_name):
        """Sums of gradients and of losses over the micro-batches; the statistics are handed from one to the next."""
        if accumulate == 1:
            grads, (sums, batch_stats) = differentiate(params, batch_stats, batch, key, factors, axis_name)
            return grads, sums, batch_stats

        # Rows i::accumulate, not the i-th block: every device then keeps its own rows, without communication.
        micro = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 0, 1), batch
        )

        def body(carry, item):
            batch_stats, total = carry
            index, part = item
            grads, (sums, batch_stats) = differentiate(
                params, batch_stats, part, jax.random.fold_in(key, index), factors, axis_name
            )
            return (batch_stats, jax.tree.map(jnp.add, total, (grads, sums))), None

        first = jax.tree.map(lambda x: x[0], micro)
        shapes = jax.eval_shape(lambda: differentiate(params, batch_stats, first, key, factors, axis_name))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0], shapes[1][0]))
        (batch_stats, (grads, sums)), _ = jax.lax.scan(body, (batch_stats, zeros), (jnp.arange(accumulate), micro))
        return grads, sums, batch_stats

    def train_step(state: TrainState, batch: dict, *, axis_name: str | None = None) -> tuple[TrainState, dict]:
        key = jax.random.fold_in(state.key, state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        scale, factors = divisions(batch, axis_name)
        grads, sums, batch_stats = accumulated(state.params, state.batch_stats, batch, key, factors, axis_name)
        if axis_name is not None:
            grads, sums = jax.lax.psum((grads, sums), axis_name)
            # Of the changes: the mean of equal numbers is not that number to the bit, and what is frozen would drift.
            changes = jax.lax.pmean(jax.tree.map(jnp.subtract, batch_stats, state.batch_stats), axis_name)
            batch_stats = jax.tree.map(jnp.add, state.batch_stats, changes)

        confusion = sums.pop("confusion")
        grads, means = jax.tree.map(lambda x: x * scale, (grads, sums))

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            # Without a warm-up a short run would still average over its random initial values. In this form the average
            # of a parameter that stays is that parameter, to the bit.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), ema, params)
        metrics = {
            **means,
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
        out = model.apply(variables, *_inputs(batch), train=False)
        prediction = jnp.argmax(out.logits, axis=-1)
        confusion = confusion_matrix(prediction, _labels(batch), num_classes)
        if axis_name is not None:
            confusion = jax.lax.psum(confusion, axis_name)
        return confusion, prediction.astype(dtype)

    return eval_step


def _inputs(batch: dict) -> list[Array]:
    """What a model takes: the image, and the regions where there are some."""
    return [batch[name] for name in ("image", "regions") if name in batch]


def _labels(batch: dict) -> Array:
    """The labels with padding rows ignored, whatever those rows hold."""
    return jnp.where(batch["valid"][:, None, None], batch["label"], IGNORE_LABEL)
