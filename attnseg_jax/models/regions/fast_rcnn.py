"""Fast R-CNN for segmentation: regions pooled from one map of the whole image, trained end to end."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from attnseg_jax.models.features import Output
from attnseg_jax.models.layers.conv import Dense, Dtype
from attnseg_jax.models.options import option
from attnseg_jax.models.regions.rcnn import RegionModel
from attnseg_jax.ops.pool import adaptive_avg_pool
from attnseg_jax.ops.region_maps import mask_boxes, region_masks
from attnseg_jax.ops.roi import roi_align, roi_max_pool


class FastRCNN(RegionModel):
    """Classifies the regions of an image from one map of it and paints their scores back to the pixels.

    After Girshick 2015 (arXiv:1504.08083), with the free-form pooling and the differentiable region-to-pixel maximum of
    Caesar et al. 2016 (arXiv:1607.07671): the backbone's deepest map is pooled over the bins of a region's box, once
    whole and once inside of the region only; two fully connected layers and a classifier follow, and the loss is the
    pixels'. Without the regression of boxes: regions have no more to be found.

    Attributes as in `RegionModel`, and:
      pooling: 'align', means over interpolated samples; 'pool', maxima over whole cells, as the original.
      bins: of a box, on each axis.
      channels: of the two fully connected layers.
      dropout: rate after each, in training.
    """

    pooling: str = option("align", choices=("align", "pool"))
    bins: int = option(7, at_least=1)
    channels: int = option(512, at_least=1)
    dropout: float = option(0.5, at_least=0, below=1)
    dtype: Dtype = jnp.float32

    @property
    def size_multiple(self) -> int:
        """As in `Backbone`."""
        return self.backbone.size_multiple

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w c"], regions: Int[Array, "b h w l"], *, train: bool = False
    ) -> Output:
        """Returns what `RCNN` does, of the same arguments."""
        features = self.see(image, train=train)
        padded_size = features.padded_size or image.shape[1:3]
        pooled = self._pool(features.deepest, regions, self.slot_count(train), padded_size)
        x = pooled.reshape(*pooled.shape[:2], -1)
        for i in (1, 2):
            x = nn.relu(Dense(self.channels, dtype=self.dtype, name=f"fc{i}")(x))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return self.paint_scores(x, regions)

    def _pool(self, x: Array, regions: Array, slots: int, padded_size: tuple[int, int]) -> Float[Array, "b r i j c"]:
        """Features of every region's box, then those inside of it, side by side."""
        h, w = x.shape[1:3]
        masks = region_masks(regions, slots)
        masks = jnp.pad(masks, [(0, 0), *((0, n - m) for n, m in zip(padded_size, masks.shape[1:3])), (0, 0)])
        # The share of each cell that is the region's.
        cover = adaptive_avg_pool(masks.astype(jnp.float32), (h, w))
        bins = (self.bins, self.bins)
        if self.pooling == "pool":
            # The original rounds corners, by which a small region may miss the cells that it lies in.
            cells = jnp.maximum(mask_boxes(cover > 0) - jnp.array([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 4), 0)
            inside = jnp.moveaxis(cover > 0, -1, 1)
            parts = [roi_max_pool(x, cells, bins), roi_max_pool(x, cells, bins, inside=inside)]
        else:
            boxes = mask_boxes(masks) * jnp.array([w / padded_size[1], h / padded_size[0]] * 2).reshape(1, 1, 4)
            parts = [roi_align(x, boxes, bins), roi_align(x, boxes, bins, inside=jnp.moveaxis(cover, -1, 1))]
        return jnp.concatenate(parts, axis=-1)
