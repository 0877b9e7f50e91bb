"""Pictures that nearly are the same: saved again, resized, made brighter, or neighbours in a video."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

# Of the 64 bits of a look, how many may differ; in four parts of 16 bits one is then the same.
_FEW, _PARTS, _BITS = 3, 4, 16
# Gray values that a small picture must differ by, at least, to be told from others.
_LEAST_CONTRAST = 8
# Pictures that share a part of their look, of which others are not compared: they are told from no other anyway.
_MOST_ALIKE = 500


@dataclass(frozen=True)
class Looked:
    """An image: its path, split, digest of its bytes and look."""

    path: str
    split: str
    digest: bytes
    look: int


def look_of(image: Image.Image) -> int | None:
    """64 bits that say where a picture becomes brighter from left to right, from a size of 9 x 8; None for a flat one.

    That is the difference hash, which compression, size, brightness and contrast hardly change.
    """
    small = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(int)
    if np.ptp(small) < _LEAST_CONTRAST:
        return None
    bits = (small[:, 1:] > small[:, :-1]).ravel()
    return int(bits @ (1 << np.arange(64, dtype=object)))


def near_pairs(images: Sequence[Looked]) -> list[tuple[Looked, Looked]]:
    """Each image that looks like an earlier one with other bytes, with the one that it looks most like.

    >>> a, b, c = (Looked(p, "train", p.encode(), look) for p, look in (("a", 1 << 40), ("b", 7), ("c", (1 << 40) + 3)))
    >>> [(here.path, before.path) for here, before in near_pairs([a, b, c])]
    [('c', 'a')]
    """
    alike: dict[tuple[int, int], list[Looked]] = defaultdict(list)
    found = []
    for image in images:
        keys = [(part, image.look >> _BITS * part & (1 << _BITS) - 1) for part in range(_PARTS)]
        candidates = {other.path: other for key in keys for other in alike[key] if other.digest != image.digest}
        distances = {path: (image.look ^ other.look).bit_count() for path, other in candidates.items()}
        nearest = min(distances, key=distances.__getitem__, default=None)
        if nearest is not None and distances[nearest] <= _FEW:
            found.append((image, candidates[nearest]))
        for key in keys:
            if len(alike[key]) < _MOST_ALIKE:
                alike[key].append(image)
    return found
