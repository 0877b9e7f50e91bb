"""The objective of queries that are matched with the segments of an image."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError, nearest, option_path
from attnseg_jax.models.features import Queries
from attnseg_jax.models.options import check_options, option
from attnseg_jax.ops import losses
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.losses.sums import all_known
from attnseg_jax.ops.points import class_shares, labelled_shares, sample
from attnseg_jax.train.assignment import assign
from attnseg_jax.train.objective import Supervised, Terms

_PATH = "config.loss.mask_classification"


@dataclasses.dataclass(frozen=True)
class MatchedLoss:
    """The loss of queries against segments; its fields are the keys of `config.loss.mask_classification`.

    Each image is divided into one segment for each class that it shows, each segment is matched with one query. Queries
    should predict the class of their segment, or no object; matched ones also its mask, which is compared at points.
    These are drawn anew for every image, layer and step: for the matching uniformly, for the loss mostly where the mask
    is undecided. The masks of an image share the points they choose from. Defaults are those of Mask2Former.

    Attributes:
      class_weight: of the classes' cross-entropy, and in the matching of minus the probability.
      mask_weight: of the masks' binary cross-entropy.
      dice_weight: of the masks' Dice loss.
      no_object: weight of a query that should be no object in the mean over the queries.
      layer_weight: of the losses of every layer before the last.
      points: of each mask, at most as many as the crop has pixels.
      oversample: candidates for each point that is chosen for being undecided.
      importance: share of the points that is chosen so; the others are drawn uniformly.
      segments: largest number of segments of an image, the largest are taken; 0 is the number of classes.
      focal: the focal loss instead of the binary cross-entropy, as in MaskFormer.
    """

    class_weight: float = option(2.0, at_least=0)
    mask_weight: float = option(5.0, at_least=0)
    dice_weight: float = option(5.0, at_least=0)
    no_object: float = option(0.1, at_least=0)
    layer_weight: float = option(1.0, at_least=0)
    points: int = option(12544, at_least=1)
    oversample: float = option(3.0, at_least=1, at_most=100)
    importance: float = option(0.75, at_least=0, at_most=1)
    segments: int = option(0, at_least=0)
    focal: bool = False

    def terms(
        self,
        layers: Mapping[str, Queries],
        labels: Int[Array, "b h w"],
        keys: Array,
        *,
        num_classes: int,
        class_weights: Float[Array, " k"] | None = None,
    ) -> tuple[Terms, Terms]:
        """Sums and counts of every layer: `class`, `mask` and `dice`, each with the layer's name and "/" before it.

        Args:
          layers: name -> its queries, all of the same shapes.
          labels: 255 is in no mask, and points there do not count; images without any other are left out.
          keys: PRNG keys `[b]`.
          num_classes: of the labels.
          class_weights: as in `ops.losses.class_loss`.
        """
        classes = losses.segments(labels, num_classes, self.segments)
        images, known = (labels != IGNORE_LABEL).any((1, 2)), all_known(labels, num_classes)
        # A loop, so that it is compiled once and the points of one layer are in memory at a time.
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *layers.values())
        numbers = jnp.arange(len(layers))
        costs = jax.lax.map(
            lambda layer: self._costs(layer[0], labels, classes, _folded(keys, 2 * layer[1])),
            (jax.lax.stop_gradient(stacked), numbers),
        )
        # All at once: a search is many small steps, which take about as long for many problems as for few.
        b, n = classes.shape
        present = jnp.broadcast_to(classes >= 0, (len(layers), b, n)).reshape(-1, n)
        matchings = assign(costs.reshape(-1, *costs.shape[2:]), present).reshape(-1, b, n)

        def of_layer(layer: tuple[Queries, Array, Array]) -> tuple[Array, ...]:
            queries, matching, number = layer
            of_class = losses.class_loss(
                queries.classes, classes, matching,
                no_object=self.no_object, class_weights=class_weights, images=images,
            )  # fmt: skip
            return *of_class, *self._mask_losses(queries, labels, classes, matching, _folded(keys, 2 * number + 1))

        of_class, weight, of_mask, of_dice = jax.lax.map(of_layer, (stacked, matchings, numbers))
        count = losses.segment_count(classes)
        sums, counts = {}, {}
        for i, name in enumerate(layers):
            found = {"class": (of_class[i], weight[i]), "mask": (of_mask[i], count), "dice": (of_dice[i], count)}
            for term, (total, divisor) in found.items():
                sums[f"{name}/{term}"] = jnp.where(known, total, jnp.nan)
                counts[f"{name}/{term}"] = divisor
        return sums, counts

    def total(self, means: Terms, name: str) -> Float[Array, ""]:
        """The weighted sum of a layer's terms."""
        weights = {"class": self.class_weight, "mask": self.mask_weight, "dice": self.dice_weight}
        return sum(weight * means[f"{name}/{term}"] for term, weight in weights.items())

    def _costs(self, queries: Queries, labels: Array, classes: Array, keys: Array) -> Float[Array, "b q n"]:
        points = _uniform(keys, self._count(labels))
        return losses.matching_costs(
            queries.classes, sample(queries.masks, _on_masks(points, queries, labels)), classes,
            class_shares(labels, classes, points), labelled_shares(labels, points),
            class_weight=self.class_weight, mask_weight=self.mask_weight, dice_weight=self.dice_weight,
            focal=self.focal,
        )  # fmt: skip

    def _mask_losses(
        self, queries: Queries, labels: Array, classes: Array, matching: Array, keys: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        q, points = queries.masks.shape[1], self._count(labels)
        undecided = int(self.importance * points)
        candidates = int(self.oversample * points) if undecided else 0
        masks = jax.vmap(lambda m, i: m.at[i].get(mode="clip"))(queries.masks, matching)
        drawn = _uniform(keys, candidates + points - undecided)
        chosen = jnp.broadcast_to(drawn[:, :, candidates:], (*matching.shape, points - undecided, 2))
        if undecided:
            drawn = drawn[:, :, :candidates]
            values = sample(jax.lax.stop_gradient(masks), _on_masks(drawn, queries, labels))
            found = losses.uncertain_points(drawn, values, undecided, labelled_shares(labels, drawn))
            chosen = jnp.concatenate([found, chosen], axis=2)

        def compared(masks: Array, chosen: Array) -> tuple[Array, Array]:
            values, weights = sample(masks, _on_masks(chosen, queries, labels)), labelled_shares(labels, chosen)
            targets = class_shares(labels, classes, chosen)
            return losses.mask_losses(values, targets, matching < q, weights, focal=self.focal)

        # The pixels around the points, found again for the gradient, would take more memory than the rest.
        return jax.checkpoint(compared, prevent_cse=False)(masks, chosen)

    def _count(self, labels: Array) -> int:
        return min(self.points, labels.shape[1] * labels.shape[2])


class MaskClassification(Supervised):
    """Queries matched with segments, see `MatchedLoss`; auxiliary outputs without queries have a cross-entropy.

    Each term is a sum over the global batch divided by its count there: that of classes by the sum of the weights of
    what the queries should be, those of masks by the number of segments.

    Reported are `loss`, `loss_class`, `loss_mask` and `loss_dice` of the last layer, `aux_NAME` (the weighted sum of
    these of an earlier layer, or the cross-entropy of an auxiliary output), `presence_NAME` and `confusion`.

    Attributes:
      loss: of the queries.
    """

    needs_keys: ClassVar[bool] = True
    needs_queries: ClassVar[bool] = True

    def __init__(self, num_classes: int, loss: MatchedLoss | None = None, **weights: float):
        super().__init__(num_classes, **weights)
        self.loss = loss or MatchedLoss()

    @classmethod
    def from_config(cls, config: ConfigDict, num_classes: int, **options: Any) -> "MaskClassification":
        """The objective of `config.loss`."""
        loss = config.loss
        for key, nothing in (("label_smoothing", 0.0), ("scales", ())):
            if loss[key] != nothing:
                raise UserError(
                    f"config.loss.{key}={loss[key]} does nothing in mask_classification: set it to {nothing}"
                )
        given = loss.mask_classification.to_dict()
        known = [field.name for field in dataclasses.fields(MatchedLoss)]
        for key in given:
            if key not in known:
                raise UserError(f"{_PATH}.{key} is unknown: {nearest(key, known)}")
        made = MatchedLoss(**given)
        with option_path(_PATH):
            check_options(made)
        return cls(num_classes, made, aux_weight=loss.aux_weight, presence_weight=loss.presence_weight, **options)

    def __call__(self, output: Any, batch: Mapping[str, Array], *, axis_name: str | None = None) -> tuple[Terms, Terms]:
        """Terms `/class`, `/mask`, `/dice`, the same with the name of a layer in front, and those of other outputs."""
        aux = {name: logits for name, logits in output.aux.items() if name not in output.aux_queries}
        weights = None if self.class_weights is None else jnp.asarray(self.class_weights, jnp.float32)
        terms = self.loss.terms(
            {"": output.queries, **output.aux_queries}, batch["label"], batch["key"],
            num_classes=self.num_classes, class_weights=weights,
        )  # fmt: skip
        return self._with_others(output.replace(aux=aux), batch, axis_name, *terms)

    def metrics(self, means: Terms) -> Terms:
        """The weighted total as `loss`, and its parts."""
        layers = [name.removesuffix("/class") for name in means if name.endswith("/class") and name != "/class"]
        earlier = {f"aux_{name}": self.loss.total(means, name) for name in layers}
        main = self.loss.total(means, "") + self.loss.layer_weight * sum(earlier.values())
        parts = {f"loss_{term}": means[f"/{term}"] for term in ("class", "mask", "dice")}
        return self._metrics_with_others(main, parts | earlier, means)


def _folded(keys: Array, number: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def _uniform(keys: Array, count: int) -> Float[Array, "b 1 p 2"]:
    return jax.vmap(lambda key: jax.random.uniform(key, (1, count, 2)))(keys)


def _on_masks(points: Array, queries: Queries, labels: Array) -> Array:
    """Points on the labels as points on the masks, which may cover more at the bottom and right."""
    (h, w), (height, width) = labels.shape[1:], queries.size
    return points * jnp.array([w / width, h / height]).reshape(1, 1, 1, 2)
