"""What the pairs of a data set have in common and which stand out, gathered pair by pair in bounded memory."""

from collections import Counter, defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np

from attnseg_jax.data.datasets import Colour
from attnseg_jax.data.doctor.facts import ImageFacts, PairFacts
from attnseg_jax.data.doctor.mask_facts import MaskFacts
from attnseg_jax.data.doctor.moments import Moments
from attnseg_jax.data.doctor.near import Looked
from attnseg_jax.errors import UserError

Key = int | Colour
"""A raw value of masks, or a colour."""

# Of a mask with more values than that the set of values says nothing.
_MOST_VALUES = 64
_MOST_COUNTED = 1 << 16


@dataclass
class Values:
    """Pixels of every value of the masks of a split; of masks, those that hold it; of pixels, all of these masks."""

    pixels: Counter = field(default_factory=Counter)
    masks: Counter = field(default_factory=Counter)
    shared: Counter = field(default_factory=Counter)

    def add(self, counted: Counter) -> None:
        """Adds a mask."""
        total = counted.total()
        self.pixels.update(counted)
        self.masks.update(counted.keys())
        self.shared.update(dict.fromkeys(counted, total))
        if len(self.pixels) > _MOST_COUNTED:
            # Only pictures saved with loss have so many; what was meant is among the frequent ones.
            kept = {key for key, _ in self.pixels.most_common(_MOST_COUNTED // 4)}
            for counts in (self.pixels, self.masks, self.shared):
                for key in [key for key in counts if key not in kept]:
                    del counts[key]


@dataclass
class Summary:
    """All that the doctor has read.

    Attributes:
      channels: of the images that can be used, see `ImageFacts.channels`.
      moments: of the images of a split with such.
      pairs: usable ones of each split.
      values: of gray and palette masks, by split.
      colours: of masks as pictures, by split.
      value_sets: how many masks hold exactly these values.
      colour_sets: the same of colours.
      images: formats, modes and bits.
      masks: formats and modes.
      sizes: (h, w) of images.
      problems: a kind of problem -> the files, and what is to be said of each.
      unusable: images of pairs that cannot be trained on.
      duplicates: an image file and an earlier one of the same bytes, each with its split.
      looks: of images, where they were asked for.
      palettes: the colours of an index.
      there: of classes that may overlap, by split [2, k]: the pixels where each is, and the images that show it.
      overlap: of all splits [2], the pixels where any of them is, and where several are.
      rest: pixels of colours beyond those that were counted.
      many_valued: masks of more than 64 values.
      lossy: masks whose format changes values.
    """

    channels: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)
    pairs: Counter = field(default_factory=Counter)
    values: dict[str, Values] = field(default_factory=lambda: defaultdict(Values))
    colours: dict[str, Values] = field(default_factory=lambda: defaultdict(Values))
    value_sets: Counter = field(default_factory=Counter)
    colour_sets: Counter = field(default_factory=Counter)
    images: Counter = field(default_factory=Counter)
    masks: Counter = field(default_factory=Counter)
    sizes: Counter = field(default_factory=Counter)
    problems: dict[str, list[tuple[str, str]]] = field(default_factory=lambda: defaultdict(list))
    unusable: list[str] = field(default_factory=list)
    duplicates: list[tuple[tuple[str, str], tuple[str, str]]] = field(default_factory=list)
    looks: list[Looked] = field(default_factory=list)
    palettes: dict[int, set[Colour]] = field(default_factory=lambda: defaultdict(set))
    there: dict[str, np.ndarray] = field(default_factory=dict)
    overlap: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))
    rest: int = 0
    many_valued: int = 0
    lossy: int = 0
    _digests: dict[bytes, tuple[str, str]] = field(default_factory=dict)

    def add(self, facts: PairFacts, *, duplicates: bool = True) -> None:
        """Adds a pair; `duplicates` keeps a digest of every image."""
        image, mask = facts.image, facts.mask
        for found, kind, path in ((image, "image", facts.image_path), (mask, "mask", facts.mask_path)):
            if isinstance(found, UserError):
                # The error begins with the whole path.
                self.problems[f"unreadable {kind}"].append((path, str(found).rpartition(f"{path}: ")[2]))
        if isinstance(image, ImageFacts):
            self._add_image(facts, image, duplicates)
        if isinstance(mask, MaskFacts):
            self.masks[(mask.format, mask.mode)] += 1
        if not (isinstance(image, ImageFacts) and isinstance(mask, MaskFacts) and self._fits(facts, image, mask)):
            self.unusable.append(facts.image_path)
            return
        self.pairs[facts.split] += 1
        if image.moments:
            before = self.moments.get(facts.split)
            self.moments[facts.split] = before + image.moments if before else image.moments
        self._add_mask(facts, mask)

    def _add_image(self, facts: PairFacts, image: ImageFacts, duplicates: bool) -> None:
        self.images[(image.format, image.mode, image.bits)] += 1
        self.sizes[image.size] += 1
        path = facts.image_path
        if image.orientation != 1:
            self.problems["turned by EXIF"].append((path, f"orientation {image.orientation}"))
        if image.pages > 1 and not image.channels:
            self.problems["several pages"].append((path, f"{image.pages} pages, of which the first is read"))
        if image.alpha:
            self.problems["alpha"].append((path, image.mode))
        if image.look is not None:
            self.looks.append(Looked(path, facts.split, image.digest, image.look))
        if duplicates:
            here = (path, facts.split)
            before = self._digests.setdefault(image.digest, here)
            if before is not here:
                self.duplicates.append((here, before))

    def _fits(self, facts: PairFacts, image: ImageFacts, mask: MaskFacts) -> bool:
        same = image.channels == self.channels
        if not same:
            self.problems["other channels"].append((facts.image_path, image.mode))
        if image.size == mask.size:
            return same
        sizes = f"{_words(mask.size)}, its image {_words(image.size)}"
        if image.stored == mask.size:
            self.problems["mask as stored"].append((facts.mask_path, f"{sizes} upright"))
        else:
            self.problems["sizes differ"].append((facts.mask_path, sizes))
        return False

    def _add_mask(self, facts: PairFacts, mask: MaskFacts) -> None:
        self.lossy += mask.lossy
        self.rest += mask.rest
        if mask.pages > 1:
            self.problems["several pages"].append((facts.mask_path, f"{mask.pages} pages, of which the first is read"))
        for found, values, sets in (
            (mask.values, self.values, self.value_sets),
            (mask.colours, self.colours, self.colour_sets),
        ):
            if found is not None:
                values[facts.split].add(found)
                sets[frozenset(found) if len(found) <= _MOST_VALUES else None] += 1
        self.many_valued += len(mask.colours or mask.values) > _MOST_VALUES
        for index, colour in mask.palette.items():
            self.palettes[index].add(colour)
        if mask.there:
            there = np.array([mask.there, np.sign(mask.there)])
            self.there[facts.split] = there + self.there.get(facts.split, 0)
            self.overlap += mask.overlap


def total(values: dict[str, Values]) -> Values:
    """The values of all splits together."""
    result = Values()
    for of_split in values.values():
        result.pixels.update(of_split.pixels)
        result.masks.update(of_split.masks)
        result.shared.update(of_split.shared)
    return result


def _words(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"


def shares(pixels: Counter) -> dict[Hashable, float]:
    """Pixels as shares of all of them, the largest first."""
    count = pixels.total()
    return {key: number / count for key, number in pixels.most_common()}
