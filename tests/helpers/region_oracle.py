"""What a labelling by regions can reach at most."""

import numpy as np
from jaxtyping import Int32, Integer

from attnseg_jax.ops.labels import IGNORE_LABEL


def region_oracle(
    label: Integer[np.ndarray, "h w"], regions: Int32[np.ndarray, "h w l"], num_classes: int
) -> Int32[np.ndarray, "h w"]:
    """What regions allow: every pixel has the class that is most frequent in the finest region it belongs to.

    Counted are the labelled pixels for which a region is the finest; 255 where there are none, or no region.  Of
    equally frequent classes the first is taken.

    No labelling in which each pixel takes the one class of its finest region has more right pixels.  So this bounds the
    pixel accuracy of such labellings; their mean IoU only nearly, since it may gain where a region goes to a rare class
    that has less than half of it.  Systems in which a coarse region may cut a fine
    one in two are not bounded.
    """
    finest = np.take_along_axis(regions, (regions >= 0).argmax(-1)[..., None], -1)[..., 0]
    counted = (finest >= 0) & (label != IGNORE_LABEL)
    total = int(regions.max()) + 1
    pairs = finest[counted] * num_classes + label[counted]
    counts = np.bincount(pairs, minlength=total * num_classes).reshape(total, num_classes)
    classes = np.where(counts.any(1), counts.argmax(1), IGNORE_LABEL)
    return np.append(classes, IGNORE_LABEL)[finest].astype(np.int32)
