"""Builds the parts of a run from its config: model, steps, state; shared by training and evaluation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from flax import traverse_util
from jaxtyping import PyTree
from ml_collections import ConfigDict

from attnseg_jax.data import regions
from attnseg_jax.data.datasets import outputs
from attnseg_jax.data.sources import Survey
from attnseg_jax.errors import UserError, check_known
from attnseg_jax.models import build_model
from attnseg_jax.models.batch_statistics import elements
from attnseg_jax.models.build import parts_without_use, takes_regions
from attnseg_jax.models.freeze import FREEZE, frozen_paths
from attnseg_jax.models.remat import REMAT
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.losses import median_frequency_weights, weights_of_presence
from attnseg_jax.parts import resolve
from attnseg_jax.train.config import region_counts
from attnseg_jax.train.forward import decision, make_forward
from attnseg_jax.train.objective import make_objective
from attnseg_jax.train.optimizer import make_optimizer
from attnseg_jax.train.parallel import Parallel, check_batch_size, make_parallel
from attnseg_jax.train.sharding import SHARDINGS
from attnseg_jax.train.state import TrainState, create_state, init_variables
from attnseg_jax.train.step import eval_step, model_inputs, train_step

DTYPES = ("float32", "bfloat16")
CLASS_WEIGHTS = ("none", "given", "median_frequency")
# Of fewer numbers a channel, what training normalises has little to do with what evaluation does (see the
# troubleshooting page), though the running statistics are right on average.
_FEW = 4


@dataclass(frozen=True)
class Run:
    """The parts of one run.

    Attributes:
      model: the linen module.
      parallel: runs the steps on the devices.
      abstract: shapes and types of the state that `create` makes.
      create: makes the first state.
      step: the pure step of `parallel.train`, (state, batch) -> (state, metrics); None without training.
    """

    model: nn.Module
    parallel: Parallel
    abstract: PyTree
    create: Callable[[], TrainState]
    step: Callable | None


def class_weights(
    config: ConfigDict, class_names: tuple[str, ...], survey: Survey | None, *, multilabel: bool = False
) -> np.ndarray | None:
    """The weights `[k]` that `config.loss.class_weights` asks for, or None.

    Args:
      config: the `loss` part of a config.
      class_names: names of the classes.
      survey: pixel counts of the training split; only `median_frequency` needs them.
      multilabel: whether the weights are those of being there, see `ops.losses.weights_of_presence`.

    Raises:
      UserError: given weights that do not fit the classes.
    """
    kind = config.class_weights
    if kind == "none":
        return None
    if kind == "median_frequency":
        of_counts = weights_of_presence if multilabel else median_frequency_weights
        weights = of_counts(survey.pixel_counts, survey.image_pixel_counts)
        return weights**config.class_weight_power
    weights = np.asarray(config.weights, np.float32)
    if weights.shape != (len(class_names),) or not (
        np.isfinite(weights).all() and (weights >= 0).all() and weights.any()
    ):
        raise UserError(
            f"config.loss.weights={tuple(config.weights)} must be {len(class_names)} numbers >= 0, not all 0, one for "
            f"each of {', '.join(class_names)}"
        )
    return weights


def make_model(config: ConfigDict, num_classes: int) -> nn.Module:
    """The model of a run's config for data of so many classes; errors as of `build_model`."""
    model = build_model(
        config.model, outputs(config.data.mode, num_classes), dtype=config.dtype, **region_counts(config)
    )
    if config.data.mode != "multiclass":
        _check_independent(config, model)
    return model


def _check_independent(config: ConfigDict, model: nn.Module) -> None:
    """Refuses a model whose logits are of classes that exclude one another, where they are to be read by sigmoids."""
    culprit = ""
    if takes_regions(config.model.kind):
        culprit = f"config.model.kind={config.model.kind!r} gives regions"
    elif getattr(model.decoder, "exclusive", False):
        culprit = f"config.model.decoder.name={config.model.decoder.name!r} gives pixels"
    if culprit:
        raise UserError(
            f"{culprit} one of the classes, and config.data.mode={config.data.mode!r} needs a logit for each by "
            "itself: choose another one, such as config.model.decoder.name='fcn', or config.data.mode='multiclass'"
        )


def _of_outputs(weights: np.ndarray | None, config: ConfigDict) -> np.ndarray | None:
    """Class weights for the model's outputs: of two classes with one output that of the second against the first."""
    if weights is None or config.data.mode != "binary":
        return weights
    if not weights.all():
        raise UserError(
            f"config.loss.class_weights={config.loss.class_weights!r} gives the classes the weights "
            f"{', '.join(f'{weight:g}' for weight in weights)}: with config.data.mode='binary' both must be above 0"
        )
    return weights[1:] / weights[0]


def abstract_inputs(config: ConfigDict, batch_size: int = 1) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types of what the model of a run takes, for training crops."""
    shape = (batch_size, *config.data.crop)
    inputs = [jax.ShapeDtypeStruct((*shape, config.data.channels or 3), jnp.float32)]
    if takes_regions(config.model.kind):
        inputs.append(jax.ShapeDtypeStruct((*shape, regions.levels(config.data.regions)), jnp.int32))
    return inputs


def make_run(
    config: ConfigDict,
    num_classes: int,
    weights: Callable[[], np.ndarray | None] = lambda: None,
    *,
    training: bool = True,
    devices: Sequence[jax.Device] | None = None,
) -> Run:
    """Builds model, optimizer and steps; nothing is compiled or allocated yet.

    Args:
      config: the run's config, whose values `config.check_values` has seen.
      num_classes: of the data.
      weights: gives the class weights `[k]` of the loss; called after everything cheaper was checked.
      training: without it only evaluation is offered, on any number of devices.
      devices: all of this process by default; those of another machine can compile the steps, and not run them.

    Raises:
      UserError: the config asks for something that does not exist or does not fit.
    """
    check_known("config", DTYPES, dtype=config.dtype)
    check_known("config", REMAT, remat=config.remat)
    check_known("config.loss", CLASS_WEIGHTS, class_weights=config.loss.class_weights)
    if training:
        check_batch_size(
            config.train.batch_size, accumulate=config.train.accumulate, devices=len(devices) if devices else None
        )
    if config.eval.batch_size % jax.process_count():
        raise UserError(
            f"config.eval.batch_size={config.eval.batch_size} cannot be split over {jax.process_count()} processes: "
            "give a multiple of that"
        )
    model = make_model(config, num_classes)
    if without := parts_without_use(config.model.kind):
        logging.info("config.model.kind=%r has no %s: what is set for them is not used", config.model.kind, without)
    key, inputs = jax.random.key(config.seed), abstract_inputs(config)
    variables = jax.eval_shape(partial(init_variables, model, inputs=tuple(inputs)), key)
    frozen = frozen_paths(config.model, variables)
    _check_trained(config, variables["params"], frozen)
    if training:
        _check_statistics(config, model, variables, frozen)
    layers = getattr(getattr(model, "backbone", None), "layer_paths", ())
    optimizer, schedule = make_optimizer(config.optimizer, config.train.steps, frozen, layers)
    if training and config.optimizer.warmup_steps > (half := config.train.steps // 2):
        warmup = config.optimizer.warmup_steps
        logging.warning("config.optimizer.warmup_steps=%d is more than half of the run: %d are taken", warmup, half)
    create = partial(create_state, model, optimizer, key, inputs, ema=config.optimizer.ema_decay > 0)
    abstract = jax.eval_shape(create)

    fields, step = {**model_inputs(model), "label": IGNORE_LABEL, "valid": False}, None
    if training:
        objective = make_objective(config, num_classes)
        if objective.needs_queries and config.data.mode != "multiclass":
            raise UserError(
                f"config.loss.name={config.loss.name!r} gives pixels one of the classes, and config.data.mode="
                f"{config.data.mode!r} needs each by itself: choose a loss of pixels, such as 'cross_entropy+dice'"
            )
        if objective.needs_queries:
            _check_queries(config, model, variables, inputs)
        objective.class_weights = _of_outputs(weights(), config)
        fields |= objective.fields
        step = partial(
            train_step,
            model=model,
            optimizer=optimizer,
            objective=objective,
            schedule=schedule,
            frozen=frozen,
            ema_decay=config.optimizer.ema_decay,
            accumulate=config.train.accumulate,
            remat=config.remat,
            scheduled=_schedule(model, variables, config.train.steps),
        )
    parallel = make_parallel(
        config.parallel,
        step,
        partial(
            eval_step,
            model=model,
            num_classes=num_classes,
            forward=make_forward(config, model),
            decision=decision(config, model, num_classes),
        ),
        fields=fields,
        devices=devices,
        rule=resolve(SHARDINGS, config.sharding, "config.sharding"),
    )
    return Run(model, parallel, abstract, create, step)


def _schedule(model: nn.Module, variables: PyTree, steps: int) -> Callable[[PyTree, jax.Array], PyTree] | None:
    """How the statistics of a model with a schedule follow the steps of a training; None without one."""
    if not hasattr(model, "scheduled"):
        return None
    statistics = variables.get("batch_stats", {})
    # Now, so that an option that does not fit is found before anything is compiled.
    if model.scheduled(statistics, 0.0) is statistics:
        return None
    return lambda batch_stats, step: model.scheduled(batch_stats, step / steps)


def _check_trained(config: ConfigDict, params: PyTree, frozen: frozenset[str]) -> None:
    if not traverse_util.flatten_dict(params, sep="/").keys() - frozen:
        parts = " and ".join(
            f"config.model.{part}.freeze='all'" for part in FREEZE if config.model[part].freeze == "all"
        )
        raise UserError(f"{parts} leave nothing to train: choose an attention mechanism, or freeze less")


def _check_queries(config: ConfigDict, model: nn.Module, variables: PyTree, inputs: list[jax.ShapeDtypeStruct]) -> None:
    """Refuses a model without queries."""
    if getattr(jax.eval_shape(partial(model.apply, train=False), variables, *inputs), "queries", None) is None:
        decoder = config.model.decoder.name
        culprit = f"kind={config.model.kind!r}" if config.model.kind != "segmenter" else f"decoder.name={decoder!r}"
        cure = "choose decoder 'masked_attention' or 'mask2former', or 'mask_transformer' with queries"
        if decoder == "mask_transformer":
            cure = "set config.model.decoder.mask_transformer.queries, such as 20"
        objective = config.objective.name
        asking = f"loss.name={config.loss.name!r}" if objective == "supervised" else f"objective.name={objective!r}"
        raise UserError(
            f"config.{asking} trains queries, and config.model.{culprit} has none: {cure}, or "
            "choose a loss of pixels, such as 'cross_entropy'"
        )


def _check_statistics(config: ConfigDict, model: nn.Module, variables: PyTree, frozen: frozenset[str]) -> None:
    """Refuses batch normalisation of one number a channel, which has no variance; warns of few."""
    rows = config.train.batch_size // config.train.accumulate
    if rows >= _FEW:
        return
    found = elements(model, variables, abstract_inputs(config, rows), frozen)
    few = sorted((count, path) for path, count in found.items() if count < _FEW)
    if not few:
        return
    least, path = few[0]
    others = f" (and {len(few) - 1} more)" if len(few) > 1 else ""
    micro = f" with config.train.accumulate={config.train.accumulate}" if config.train.accumulate > 1 else ""
    given = f"config.train.batch_size={config.train.batch_size}{micro}: the batch normalisation {path}{others} sees"
    backbone = all(path.startswith("backbone/") for _, path in few)
    freeze = ", or set config.model.backbone.freeze='bn'" if backbone else ""
    if least < 2:
        raise UserError(
            f"{given} one number a channel, which has no variance: give every micro-batch at least 2 images, better "
            f"{_FEW}{freeze}"
        )
    logging.warning(
        "%s %d numbers a channel: evaluation, by running statistics, will differ much from training; give every "
        "micro-batch at least %d images%s", given, least, _FEW, freeze,
    )  # fmt: skip
