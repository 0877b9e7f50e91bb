"""The pure train and evaluation steps, the same for one device, `pmap` and a mesh."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.interpreters import partial_eval
from jaxtyping import Array, Key, PyTree

from attnseg_jax.data.transforms.fields import SIZES
from attnseg_jax.errors import UserError
from attnseg_jax.models.freeze import frozen_modules, without_gradients
from attnseg_jax.models.remat import rematerialised
from attnseg_jax.ops.bilinear import in_bands
from attnseg_jax.ops.decision import SOFTMAX, Decision, class_logits
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.losses import cross_entropy, mean
from attnseg_jax.ops.metrics import confidence_counts, confusion_matrix
from attnseg_jax.ops.platforms import fence
from attnseg_jax.train.objective import Objective, Terms, check_metrics, check_terms
from attnseg_jax.train.optimizer import global_norm
from attnseg_jax.train.state import TrainState, eval_variables

Batch = Mapping[str, Array]


def model_inputs(model: nn.Module) -> Mapping[str, Any]:
    """The batch fields that a model takes, in order -> their value in padding rows.

    A model that takes more than an image says so by its class attribute `inputs`.
    """
    return getattr(model, "inputs", {"image": 0})


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    schedule: Callable[[Array], Array],
    frozen: frozenset[str] = frozenset(),
    ema_decay: float = 0.0,
    accumulate: int = 1,
    remat: str = "none",
    scheduled: Callable[[PyTree, Array], PyTree] | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, Terms]:
    """One optimizer step.

    Sums, counts and gradients are added over the devices before any division, so that it does not matter how the valid
    pixels are spread over them.

    Args:
      state: what the step starts from.
      batch: the fields that model and objective declare, and `valid` bool [b], False for padding rows.
      model: the linen module.
      optimizer: must not update frozen parameters (see `make_optimizer`).
      objective: what is minimised.
      schedule: step -> learning rate, for the metrics.
      frozen: paths of the parameters that get no gradient; a module all of whose parameters are frozen runs in
        evaluation mode.
      ema_decay: of the average of the parameters, where the state has one: after the update at step t it is
        `d * average + (1 - d) * params` with `d = min(ema_decay, (1 + t) / (10 + t))`.
      accumulate: splits the batch into that many micro-batches (rows i, i + accumulate, ...) run one after another.
        Their gradients are added, so the result is that of the whole batch except for the statistics of batch norms,
        the dropout masks (which depend on the number of devices too), and losses that are no sums over pixels or
        images: a ratio of sums (`dice`, `jaccard`, `tversky`, `boundary`, `focal` normalized) and the choice of hard
        pixels (`ohem`) are those of the micro-batch, which counts by its valid pixels.
      remat: what of the backbone is computed again in the backward pass, of `models.remat.REMAT`.
      scheduled: (statistics, steps done) -> the statistics that follow a schedule, such as how often `eomt` masks.
      axis_name: the mapped axis of the devices (inside `pmap`), or None.

    Returns:
      The next state; device scalars: the objective's metrics, `grad_norm` (before clipping) and `learning_rate`.

    Raises:
      UserError: micro-batches whose counts depend on the output of the model.
    """
    key = jax.random.fold_in(state.key, state.step)
    if objective.needs_keys:
        batch = {**batch, "key": _row_keys(key, batch["valid"].shape[0], axis_name)}
    if axis_name is not None:
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        if jax.lax.axis_size(axis_name) == 1:
            # Nothing to add up: a sum over one device would only keep XLA from fusing what is around it.
            axis_name = None
    average = eval_variables(state)["params"]
    batch = {**batch, "label": valid_labels(batch)} if "label" in batch else batch

    def output(params, batch_stats, batch, key):
        forward = Forward(model, params, batch_stats, average, key, frozen, remat)
        return objective.outputs(forward, batch), forward.batch_stats

    def minimised(params, batch_stats, batch, key, counts=None):
        out, batch_stats = output(without_gradients(params, frozen), batch_stats, batch, key)
        terms = objective(out, batch, axis_name=axis_name)
        check_terms(terms, type(objective).__name__)
        sums, own = jax.tree.map(fence, terms[0]), terms[1]
        metrics = objective.metrics(_means(sums, _over_devices(own, axis_name) if counts is None else counts))
        check_metrics(metrics, type(objective).__name__)
        return metrics["loss"], (metrics, batch_stats)

    gradients = jax.grad(minimised, has_aux=True)
    if accumulate == 1:
        grads, (metrics, batch_stats) = gradients(state.params, state.batch_stats, batch, key)
    else:
        blank = _blank(jax.eval_shape(output, state.params, state.batch_stats, batch, key)[0])
        counts = _counts(objective, blank, batch, axis_name)
        # Rows i::accumulate, not the i-th block: every device then keeps its own rows, without communication.
        micro = jax.tree.map(
            lambda x: jnp.swapaxes(x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 0, 1), batch
        )

        def body(carry, item):
            batch_stats, total = carry
            index, part = item
            grads, (metrics, batch_stats) = gradients(
                state.params, batch_stats, part, jax.random.fold_in(key, index), counts
            )
            return (batch_stats, jax.tree.map(jnp.add, total, (grads, metrics))), None

        shapes = jax.eval_shape(
            lambda: objective.metrics(_means(objective(blank, batch, axis_name=axis_name)[0], counts))
        )
        zeros = _blank((state.params, shapes))
        (batch_stats, (grads, metrics)), _ = jax.lax.scan(
            body, (state.batch_stats, zeros), (jnp.arange(accumulate), micro)
        )

    if axis_name is not None:
        grads, metrics = jax.lax.psum((grads, metrics), axis_name)
        # Average the updates, not the statistics: averaging identical values can round, and frozen statistics would
        # drift.
        changes = jax.lax.pmean(jax.tree.map(jnp.subtract, batch_stats, state.batch_stats), axis_name)
        batch_stats = jax.tree.map(jnp.add, state.batch_stats, changes)
    if scheduled is not None:
        batch_stats = scheduled(batch_stats, state.step + 1)

    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = state.ema
    if ema is not None:
        # Without a warm-up a short run would still average over its random initial values. In this form the average of
        # a parameter that stays is that parameter, to the bit.
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = jax.tree.map(lambda a, p: a + (1.0 - decay) * (p - a), ema, params)
    metrics = {**metrics, "grad_norm": global_norm(grads), "learning_rate": schedule(state.step)}
    state = state.replace(step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, ema=ema)
    return state, metrics


def eval_step(
    variables: Mapping[str, PyTree],
    batch: Batch,
    *,
    model: nn.Module,
    num_classes: int,
    forward: Callable[..., Array] | None = None,
    decision: Decision = SOFTMAX,
    axis_name: str | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Confusion and prediction of a batch, and where the logits are finite.

    Arguments as in `train_step`; the batch has the model's inputs, `label` and `valid`, and where labels have another
    size than images `SIZES`, see `data.pipeline.eval_batches`. `forward`, see `train.forward`, gives the logits of the
    classes; by default the model does. `decision` reads them.

    Returns:
      Counts over the valid rows of all devices: `confusion` int32 [k, k] (rows truth, columns prediction) of the valid
      pixels, [k, 2, 2] of labels [b, h, w, k], `cross_entropy` float32 [], the sum over them, `confidence` int32 (see
      `ops.metrics.confidence_counts`), and `not_finite` int32 [], rows with a logit that is none.
      Rows, which stay on their devices: `prediction` like the labels, uint8 or int32 beyond 256 classes; `sure`
      [b, h, w] uint8, its probability, 255 for 1; and `finite` bool [b].
    """
    inputs = [batch[name] for name in model_inputs(model)]
    logits = (
        forward(variables, *inputs) if forward else class_logits(model.apply(variables, *inputs, train=False).logits)
    )
    finite = jnp.isfinite(logits).all((1, 2, 3)) | ~batch["valid"]
    labels = valid_labels(batch)

    def scored(logits: Array, labels: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        prediction = decision.classes(logits)
        counts = {
            "confusion": confusion_matrix(prediction, labels, num_classes),
            "cross_entropy": cross_entropy(logits, labels)[0],
            "confidence": confidence_counts(logits, labels),
        }
        rows = {
            "prediction": prediction.astype(jnp.uint8 if num_classes <= 256 else jnp.int32),
            "sure": (255 * decision.sure(logits)).astype(jnp.uint8),
        }
        return counts, rows

    if SIZES in batch:
        inside, full = batch[SIZES][:, 0], batch[SIZES][:, 1]
        counts, rows = in_bands(
            lambda linear, labels: scored(decision.from_linear(linear), labels),
            decision.to_linear(logits), inside, full, labels.shape[1:3], labels,
        )  # fmt: skip
    else:
        counts, rows = scored(logits, labels)
    counts["not_finite"] = jnp.sum(~finite, dtype=jnp.int32)
    if axis_name is not None:
        counts = jax.lax.psum(counts, axis_name)
    return counts, rows | {"finite": finite}


class Forward:
    """The model of a step, as an objective calls it: `forward(batch) -> Output`, as often as it needs.

    Each call has its own dropout masks and starts from the batch-norm statistics that the call before left.

    Attributes:
      batch_stats: after the calls so far.
    """

    def __init__(
        self,
        model: nn.Module,
        params: PyTree,
        batch_stats: PyTree,
        average: PyTree,
        key: Key[Array, ""],
        frozen: frozenset[str],
        remat: str,
    ):
        self._model, self._params, self._average, self._frozen = model, params, average, frozen
        self._remat = remat
        self.batch_stats = batch_stats
        self._key, self._calls = key, 0

    def __call__(self, batch: Batch) -> Any:
        """The model in training mode on its inputs in `batch`."""
        key = jax.random.fold_in(self._key, self._calls) if self._calls else self._key
        self._calls += 1
        frozen = frozen_modules(self._frozen) if self._frozen else contextlib.nullcontext()
        with frozen, rematerialised(self._remat):
            out, updated = self._model.apply(
                {"params": self._params, "batch_stats": self.batch_stats},
                *(batch[name] for name in model_inputs(self._model)),
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats"],
            )
        self.batch_stats = updated.get("batch_stats", self.batch_stats)
        return out

    def averaged(self, batch: Batch) -> Any:
        """The model in evaluation mode, with the average of the parameters if the state has one; no gradient."""
        variables = {"params": self._average, "batch_stats": self.batch_stats}
        out = self._model.apply(variables, *(batch[name] for name in model_inputs(self._model)), train=False)
        return jax.lax.stop_gradient(out)


def valid_labels(batch: Batch) -> Array:
    """The labels, with those of padding rows ignored."""
    label = batch["label"]
    return jnp.where(batch["valid"].reshape(-1, *[1] * (label.ndim - 1)), label, IGNORE_LABEL)


def _row_keys(key: Key[Array, ""], rows: int, axis_name: str | None) -> Key[Array, " b"]:
    """A key for each row of this device, by its number in the whole batch."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * rows
    # A number that no device has.
    key = jax.random.fold_in(key, 2**31 - 1)
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))


def _means(sums: Terms, counts: Terms) -> Terms:
    return {name: mean(value, counts[name]) if name in counts else value for name, value in sums.items()}


def _over_devices(counts: Terms, axis_name: str | None) -> Terms:
    counts = jax.lax.stop_gradient(counts)
    return counts if axis_name is None else jax.lax.psum(counts, axis_name)


def _blank(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)


def _counts(objective: Objective, blank: Any, batch: Batch, axis_name: str | None) -> Terms:
    """The counts of the whole batch over all devices, from an output of zeros: they must not depend on it."""
    traced = jax.make_jaxpr(lambda out: objective(out, batch, axis_name=axis_name)[1])(blank)
    _, used = partial_eval.dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    if any(used):
        raise UserError(
            f"the counts of {type(objective).__name__} depend on the model's output, so that micro-batches cannot be "
            "added up: set config.train.accumulate=1"
        )
    return _over_devices(objective(blank, batch, axis_name=axis_name)[1], axis_name)
