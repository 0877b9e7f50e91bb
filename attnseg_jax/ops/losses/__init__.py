"""Losses that return sums and counts, so that devices and microbatches add up exactly and divide once.

Every loss but those of `masks`, which are of queries, takes logits `[b, h, w, k]`, which it computes with in float32,
and labels, and returns `(loss_sum, count)`, float32 scalars: a sum over the valid pixels and their number, unless its
docstring says otherwise.
Gradients, sums and counts of all devices are added and then divided: `mean(loss_sum, count)`. A loss that is not a sum
over pixels or images (a ratio of sums, a choice among all pixels) has an argument `axis_name`, the mapped axis of the
devices: it adds what it needs over that axis, and its `(loss_sum, count)`, the loss times the device's valid pixels and
these, are added like those of the others. Only `presence_cross_entropy`, whose logits are those of whole images,
returns the sum without a count.

Labels `[b, h, w]` are in `[0, k)`, the one class of a pixel, whose probability is a softmax. Labels `[b, h, w, k]` say
of each class whether it is there, 1 or 0, whatever the others are: its probability is a sigmoid, and what is said of
pixels holds of labels. Of a single logit, k = 1, labels `[b, h, w]` are such, too. 255 ignores a pixel, or a label: its
gradient is exactly zero, even if its logits are infinite. Without any valid pixel the loss and its gradient are 0. Any
other label is an error in the data and makes the loss NaN.
"""

from attnseg_jax.ops.losses.boundary import boundary
from attnseg_jax.ops.losses.edges import class_edges, edge_cross_entropy, labels_near_edges
from attnseg_jax.ops.losses.lovasz import lovasz
from attnseg_jax.ops.losses.masks import (
    class_loss,
    mask_losses,
    matching_costs,
    segment_count,
    segments,
    uncertain_points,
)
from attnseg_jax.ops.losses.overlap import dice, jaccard, tversky
from attnseg_jax.ops.losses.pixels import cross_entropy, focal, ohem, presence_cross_entropy
from attnseg_jax.ops.losses.sums import image_count, mean, pixel_count
from attnseg_jax.ops.losses.weights import median_frequency_weights, weights_of_presence

__all__ = [
    "boundary",
    "class_edges",
    "class_loss",
    "cross_entropy",
    "dice",
    "edge_cross_entropy",
    "focal",
    "image_count",
    "jaccard",
    "labels_near_edges",
    "lovasz",
    "mask_losses",
    "matching_costs",
    "mean",
    "median_frequency_weights",
    "ohem",
    "pixel_count",
    "presence_cross_entropy",
    "segment_count",
    "segments",
    "tversky",
    "uncertain_points",
    "weights_of_presence",
]
