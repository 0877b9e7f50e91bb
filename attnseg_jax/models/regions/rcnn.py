"""R-CNN for segmentation: every region's window through the backbone on its own."""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from attnseg_jax.errors import option_path
from attnseg_jax.models.features import Features, Output
from attnseg_jax.models.layers.conv import classifier
from attnseg_jax.models.options import option
from attnseg_jax.ops.region_maps import level_maximum, mask_boxes, paint, region_masks
from attnseg_jax.ops.roi import roi_align


class RegionModel(nn.Module):
    """Base of the models that classify regions of an image and paint their scores back to the pixels.

    Attributes:
      backbone: image -> `Features`.
      num_classes: channels of the logits.
      num_regions: regions of an image, `config.data.regions.count`; a smaller number is filled with copies.
      num_sampled: of a training image, `config.data.regions.sample`; 0 for as many as of any.
      backbone_path: where in a config the backbone's options stand, for messages.
    """

    # Batch fields that it takes -> their value in padding rows.
    inputs: ClassVar[dict[str, int]] = {"image": 0, "regions": -1}

    backbone: nn.Module
    num_classes: int
    num_regions: int
    num_sampled: int = 0
    backbone_path: str = ""

    def slot_count(self, train: bool) -> int:
        """How many regions of an image it is shown."""
        return self.num_sampled or self.num_regions if train else self.num_regions

    def see(self, image: Float[Array, "b h w c"], *, train: bool) -> Features:
        """What the backbone says of an image."""
        with option_path(self.backbone_path):
            return self.backbone(image, train=train)

    def paint_scores(self, features: Float[Array, "b r c"], regions: Int[Array, "b h w l"]) -> Output:
        """Class scores of regions, by a linear `classifier`: the largest at every pixel, as `aux` those of each level.

        Both are 0 where there is no region. A pixel that has one at another level only still counts in the loss of a
        level: as the logarithm of the number of classes, and without a gradient.
        """
        scores = classifier(self.num_classes, "classifier")(features[:, :, None])[:, :, 0]
        levels = paint(scores, regions)
        aux = {f"level{i}": levels[..., i, :] for i in range(regions.shape[-1])}
        return Output(level_maximum(levels, regions), aux)


class RCNN(RegionModel):
    """Classifies the regions of an image by two windows each and paints their scores back to the pixels.

    After Girshick et al. 2014, sec. 5 (arXiv:1311.2524): the box of a region is warped to a fixed size as it is
    ('full') and with the mean colour outside of the region ('fg'); the features of both are set side by side for a
    linear classifier, and a pixel takes the largest scores of the regions that cover it. There, regions are those of
    CPMC, the features those of a network fine-tuned on boxes, and support vector regression tells the overlap with
    every class; here superpixels of several levels, and backbone and classifier are trained together by the loss of
    the painted scores, and of those of every level alone, by which a region learns from all its pixels.

    The mean of the backbone's deepest map stands for a window.

    Attributes as in `RegionModel`, and:
      size: height and width of a window in pixels.
    """

    # The backbone sees windows of one size, and no map is drawn.
    size_multiple: ClassVar[int] = 1

    size: int = option(64, at_least=1)

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w c"], regions: Int[Array, "b h w l"], *, train: bool = False
    ) -> Output:
        """Returns float32 logits at the size of `image`, 0 for a pixel of no region, and those of each level as `aux`.

        Args:
          image: normalised, so that the mean colour is 0.
          regions: number of the region that a pixel belongs to at each level, or -1.
          train: whether batch normalisation takes the statistics of the windows. A slot that no region fills shows one
            of the others again, so the statistics are those of the regions where their number divides the slots'.
        """
        masks, boxes = _filled(regions, self.slot_count(train))
        b, r = boxes.shape[:2]
        h, w, c = image.shape[1:]
        size = (self.size, self.size)
        full = roi_align(image, boxes, size, sampling=0)
        # Each region's own mask: one box of one map.
        inside = jnp.moveaxis(masks, -1, 1).reshape(b * r, h, w, 1).astype(image.dtype)
        inside = roi_align(inside, boxes.reshape(b * r, 1, 4), size, sampling=0).reshape(b, r, *size, 1)
        windows = jnp.stack([full, full * inside], axis=2).reshape(b * r * 2, *size, c)
        features = self.see(windows, train=train).deepest.astype(jnp.float32)
        return self.paint_scores(features.mean((1, 2)).reshape(b, r, -1), regions)


def _filled(regions: Int[Array, "b h w l"], slots: int) -> tuple[Bool[Array, "b h w r"], Float[Array, "b r 4"]]:
    """Masks and boxes of all slots; one without a region shows the others in turn, or the whole image if none is."""
    empty = ~region_masks(regions, slots).any((1, 2))
    count = slots - empty.sum(1, keepdims=True)
    number = jnp.arange(slots).reshape(1, slots)
    others = jnp.take_along_axis(jnp.argsort(empty, axis=1, stable=True), number % jnp.maximum(count, 1), axis=1)
    shown = jnp.where(empty, others, number)
    masks = (regions[..., None] == shown[:, None, None, None]).any(3) | (count == 0)[:, None, None]
    return masks, mask_boxes(masks)
