"""What training minimises: a function of the model's output and the batch, as sums and the counts that divide them."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from attnseg_jax.data.datasets import outputs
from attnseg_jax.errors import UserError
from attnseg_jax.ops.decision import Decision, class_logits
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.losses import (
    class_edges,
    edge_cross_entropy,
    labels_near_edges,
    pixel_count,
    presence_cross_entropy,
)
from attnseg_jax.ops.losses.sums import as_pixel_sum, over_devices, ratio
from attnseg_jax.ops.metrics import confusion_matrix
from attnseg_jax.parts import check_subclass, is_outside, resolve
from attnseg_jax.train.losses import LOSSES, Loss, described, is_scalar, make_losses

Terms = dict[str, Array]


class Objective:
    """Base of the objectives.

    The train step calls `outputs`, then the objective itself for the sums and counts of this device's rows. It adds
    both over the devices, divides once, and passes the means to `metrics`, whose `loss` it minimises.

    Attributes:
      fields: batch fields that it needs besides the model's inputs -> their value in padding rows.
      needs_keys: whether the batch gets `key`, a PRNG key for each row that does not depend on the number of devices.
      needs_queries: whether it has no use for a model without `Output.queries`.
      class_weights: float32 [k] of `config.loss.class_weights`, one for each logit, or None; set before the first step.
    """

    fields: ClassVar[Mapping[str, Any]] = {"label": IGNORE_LABEL}
    needs_keys: ClassVar[bool] = False
    needs_queries: ClassVar[bool] = False
    class_weights: Float[np.ndarray, "k"] | None = None

    @classmethod
    def from_config(cls, config: ConfigDict, num_classes: int, **options: Any) -> "Objective":
        """The objective of a run's config; `options` are those of its group in `config.objective`."""
        return cls(**options)

    def outputs(self, forward: Callable[[Mapping[str, Array]], Any], batch: Mapping[str, Array]) -> Any:
        """What the model makes of a batch: one forward pass.

        Override it for more than one, such as `forward({**batch, "image": batch["image2"]})`; `forward.averaged(batch)`
        is a pass with the average of the parameters, as in evaluation and without gradient.
        """
        return forward(batch)

    def __call__(self, output: Any, batch: Mapping[str, Array], *, axis_name: str | None = None) -> tuple[Terms, Terms]:
        """Sums over the rows of this device by name, and the counts that some of them are divided by.

        A sum without a count, such as a confusion matrix, is reported as it is. Counts depend on the batch alone: with
        `config.train.accumulate` they are needed before the first output is computed.

        Args:
          output: of `outputs`.
          batch: with padding rows, whose labels are all ignored.
          axis_name: the mapped axis of the devices, or None; only needed by a term that is not a sum over rows.
        """
        raise NotImplementedError

    def metrics(self, means: Terms) -> Terms:
        """`loss` and everything else to report, as linear functions of the means (and of the sums without a count)."""
        return means


class Supervised(Objective):
    """Losses of every pixel's logits against its label.

    The sum of the losses, each times its scale, plus `aux_weight` times the same of every auxiliary output, plus
    `presence_weight` times the presence loss of every output that tells which classes an image shows. Of an output that
    says where classes meet (`Output.edges`), `edge_weight` times the loss of that, and `edge_aware_weight` times the
    same losses of the logits where it is sure, as PIDNet is trained. Each loss is its sum over the valid pixels (or
    images) of the global batch divided by their count there, or by the sum of their class weights.
    No valid pixel at all: loss 0 and gradient 0.

    Reported are `loss`, `loss_NAME` (each loss of the logits before its scale, where there are several), `aux_NAME`,
    `presence_NAME`, `edges` and `edge_aware` (before their weights), and `confusion`, int32 [k, k] of the training
    batch, [k, 2, 2] of labels [b, h, w, k].
    """

    edge_weight, edge_aware_weight, edge_confidence, edge_width = 20.0, 1.0, 0.8, 2

    def __init__(
        self,
        num_classes: int,
        losses: tuple[Loss, ...] | None = None,
        *,
        label_smoothing: float = 0.0,
        aux_weight: float = 0.4,
        presence_weight: float = 0.2,
    ):
        self.num_classes = num_classes
        self.losses = losses or make_losses("cross_entropy", num_classes=num_classes)
        self.label_smoothing = label_smoothing
        self.aux_weight, self.presence_weight = aux_weight, presence_weight

    @classmethod
    def from_config(cls, config: ConfigDict, num_classes: int, **options: Any) -> "Supervised":
        """The objective of `config.loss`; `options` are those that a subclass adds."""
        loss, smoothing = config.loss, config.loss.label_smoothing
        logits = outputs(config.data.mode, num_classes)
        groups = {name: loss[name].to_dict() for name in (*LOSSES, "custom") if name in loss}
        made = cls(
            num_classes,
            make_losses(loss.name, loss.scales, groups, num_classes=logits, label_smoothing=smoothing),
            label_smoothing=smoothing,
            aux_weight=loss.aux_weight,
            presence_weight=loss.presence_weight,
            **options,
        )
        for name in ("edge_weight", "edge_aware_weight", "edge_confidence", "edge_width"):
            setattr(made, name, loss[name])
        return made

    def __call__(self, output: Any, batch: Mapping[str, Array], *, axis_name: str | None = None) -> tuple[Terms, Terms]:
        """Terms `NAME` of the logits, `aux_OUTPUT/NAME` and `presence_OUTPUT`, and the sum `confusion`."""
        sums, counts = {}, {}
        for loss in self.losses:
            sums[loss.name], counts[loss.name] = loss(output.logits, batch["label"], **self._given(axis_name))
        return self._with_others(output, batch, axis_name, sums, counts)

    def _given(self, axis_name: str | None) -> dict[str, Any]:
        weights = None if self.class_weights is None else jnp.asarray(self.class_weights, jnp.float32)
        return {"class_weights": weights, "label_smoothing": self.label_smoothing, "axis_name": axis_name}

    def _with_others(
        self, output: Any, batch: Mapping[str, Array], axis_name: str | None, sums: Terms, counts: Terms
    ) -> tuple[Terms, Terms]:
        """The terms of the logits, with those of all other outputs and the confusion matrix."""
        labels, given = batch["label"], self._given(axis_name)
        sums, counts = {**sums}, {**counts}
        for loss in self.losses:
            for name, logits in output.aux.items():
                key = f"aux_{name}/{loss.name}"
                sums[key], count = loss(logits, labels, **given)
                # The same labels give the same count.
                counts[key] = counts.get(loss.name, count)
        for name, logits in output.presence.items():
            weights = given["class_weights"]
            sums[f"presence_{name}"] = presence_cross_entropy(logits, labels, class_weights=weights)
            counts[f"presence_{name}"] = pixel_count(labels, class_weights=weights)
        if getattr(output, "edges", None) is not None:
            self._add_edges(output, labels, given, sums, counts)
        predicted = Decision(multilabel=labels.ndim == 4).classes(class_logits(output.logits))
        sums["confusion"] = confusion_matrix(predicted, labels, self.num_classes)
        return sums, counts

    def _add_edges(self, output: Any, labels: Array, given: Mapping[str, Any], sums: Terms, counts: Terms) -> None:
        """Adds the terms `edges`, and `edge_aware/NAME`, which are of all devices' pixels."""
        axis_name, logits = given["axis_name"], output.edges[..., 0]
        truth = class_edges(labels, width=self.edge_width)
        sums["edges"], counts["edges"] = edge_cross_entropy(logits, truth, labels, axis_name=axis_name)
        near = labels_near_edges(labels, jax.lax.stop_gradient(logits), confidence=self.edge_confidence)
        for loss in self.losses:
            total, count = (over_devices(x, axis_name) for x in loss(output.logits, near, **given))
            key = f"edge_aware/{loss.name}"
            sums[key], counts[key] = as_pixel_sum(ratio(total, count), labels, axis_name)

    def metrics(self, means: Terms) -> Terms:
        """The weighted total as `loss`, and its parts."""
        main = sum(loss.scale * means[loss.name] for loss in self.losses)
        several = {f"loss_{loss.name}": means[loss.name] for loss in self.losses} if len(self.losses) > 1 else {}
        return self._metrics_with_others(main, several, means)

    def _metrics_with_others(self, main: Array, parts: Terms, means: Terms) -> Terms:
        """The metrics of the logits, their weighted sum `main` and its `parts`, with those of all other outputs."""
        aux: Terms = {}
        for loss in self.losses:
            for key in means:
                name, slash, of = key.partition("/")
                if slash and of == loss.name:
                    aux[name] = aux.get(name, 0.0) + loss.scale * means[key]
        presence = {name: value for name, value in means.items() if name.startswith("presence_")}
        edges = {"edges": means["edges"], "edge_aware": aux.pop("edge_aware")} if "edges" in means else {}
        loss = main + self.aux_weight * sum(aux.values()) + self.presence_weight * sum(presence.values())
        if edges:
            loss = loss + self.edge_weight * edges["edges"] + self.edge_aware_weight * edges["edge_aware"]
        return {"loss": loss, **parts, **aux, **presence, **edges, "confusion": means["confusion"]}


OBJECTIVES: dict[str, type[Objective]] = {"supervised": Supervised}
# What 'supervised' is with a `config.loss.name` that is no loss of pixels; named, since it builds on this file.
OF_LOSSES: dict[str, str] = {"mask_classification": "attnseg_jax.train.mask_classification:MaskClassification"}


def check_terms(terms: Any, who: str) -> None:
    """Refuses what an objective returned as sums and counts and is none; `who` names the objective."""
    if not (isinstance(terms, tuple) and len(terms) == 2 and all(isinstance(part, dict) for part in terms)):
        raise UserError(f"{who} must return two dicts, sums and counts, not {described(terms)}")
    sums, counts = terms
    for name, count in counts.items():
        if name not in sums or not (is_scalar(sums[name]) and is_scalar(count)):
            raise UserError(f"{who}: the sum and the count of {name!r} must be two scalars")


def check_metrics(metrics: Any, who: str) -> None:
    """Refuses metrics that cannot be minimised and logged; `who` names the objective."""
    if not (isinstance(metrics, dict) and "loss" in metrics):
        found = f"only {', '.join(metrics)}" if isinstance(metrics, dict) else type(metrics).__name__
        raise UserError(f"{who}.metrics must return a dict with 'loss', not {found}")
    for name, value in metrics.items():
        if name != "confusion" and not is_scalar(value):
            raise UserError(f"{who}.metrics must return scalars; {name!r} is {described(value)}")


def make_objective(config: ConfigDict, num_classes: int) -> Objective:
    """The objective that `config.objective.name` names.

    Raises:
      UserError: an unknown name or option.
    """
    name, loss = config.objective.name, config.loss.name
    objective = resolve(OBJECTIVES, name, "config.objective.name")
    if loss in OF_LOSSES and objective is Supervised:
        objective = resolve(OF_LOSSES, loss, "config.loss.name")
    check_subclass(objective, Objective, f"config.objective.name={name!r}")
    group = "custom" if is_outside(name) else name
    options = config.objective[group].to_dict() if group in config.objective else {}
    try:
        return objective.from_config(config, num_classes, **options)
    except TypeError as error:
        raise UserError(f"config.objective.{group} does not fit config.objective.name={name!r}: {error}") from error
