"""Sets whose classes may overlap, a mask file or a band for each: what their masks hold, and what the doctor says."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from attnseg_jax.data import arrays, bands, class_masks, decode, limits
from attnseg_jax.data.doctor.findings import Finding
from attnseg_jax.data.doctor.labels import Labels
from attnseg_jax.data.doctor.mask_facts import MaskFacts, array_format, counted
from attnseg_jax.data.doctor.names import find_names
from attnseg_jax.data.doctor.proposal import Decision
from attnseg_jax.data.doctor.summary import Summary
from attnseg_jax.data.layouts import Pair, Tree
from attnseg_jax.data.layouts.class_files import is_binary
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL

_MOST_BANDS = 40
# Pairs that tell whether bands are classes.
_SAMPLED = 5


def classes_in_bands(tree: Tree, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The names of the classes where masks are TIFF or NumPy files of a band of two values for each; () elsewhere."""
    chosen = pairs[:: max(1, len(pairs) // _SAMPLED)][:_SAMPLED]
    found = {_bands(tree.root / pair.image, tree.root / pair.mask) for pair in chosen if len(pair.masks) == 1}
    number = found.pop() if len(found) == 1 else 0
    if not number:
        return ()
    names = find_names(tree)
    if names and len(names.classes) == number:
        return tuple(named.name for named in names.classes)
    return tuple(f"class_{i + 1}" for i in range(number))


def _bands(image: Path, mask: Path) -> int:
    """How many bands of two values a mask has; 0 for one that is a picture or has one class at a pixel."""
    try:
        if arrays.is_npy(mask):
            found = arrays.load_mask(mask, bands=True)
        elif mask.suffix.lower() in bands.TIFF and not limits.is_beyond(mask, limits.MAX_PIXELS):
            found = bands.read_file(mask)
        else:
            return 0
    except UserError:
        return 0
    number = found.shape[-1]
    if not 2 <= number <= _MOST_BANDS or found.dtype.kind not in "ui":
        return 0
    (mode, pages), (_, of_image) = _mode_and_pages(mask), _mode_and_pages(image)
    # Colours, perhaps with an alpha channel that is one value; or many pictures, each with its mask.
    if mode == "RGB" or (mode in ("RGBA", "LA") and np.ptp(found[..., -1]) == 0) or 1 < pages == of_image:
        return 0
    return number if all(is_binary(found[..., k]) for k in range(number)) else 0


def _mode_and_pages(path: Path) -> tuple[str, int]:
    """In Pillow's words; "" and 1 of a kind that it does not know, as colours are not."""
    try:
        with Image.open(path) as image:
            return image.mode, decode.pages_of(image)
    except (*decode.DAMAGED, Image.DecompressionBombError):
        return "", 1


def read_classes(paths: Sequence[Path | None], number: int) -> MaskFacts:
    """The facts of the masks of all classes of an image, counted together.

    Args:
      paths: one for each class, None where it has no file, or one alone with a band for each.
      number: of the classes.

    Raises:
      UserError: one is damaged, a colour picture, or of another size than the first.
    """
    given = [*filter(None, paths)]
    for path in given:
        limits.check_pixels(path, str(path), limits.MAX_PIXELS)
    raw = class_masks.read_class_masks(paths, number, nearest=True)
    lacking = [i for i, path in enumerate(paths) if path is None]
    format, mode, lossy = _kind(given[0], raw, in_bands=len(paths) == 1)
    # Beside 1 what is 255 is not known.
    there = raw > 127 if lossy else (raw > 0) & ~((raw == IGNORE_LABEL) & (raw == 1).any((0, 1)))
    there[..., lacking] = False
    at_pixels = there.sum(-1)
    return MaskFacts(
        format,
        f"{number} x {mode}",
        raw.shape[:2],
        lossy,
        counted(np.delete(raw, lacking, -1)),
        None,
        there=tuple(there.sum((0, 1)).tolist()),
        overlap=(int((at_pixels > 0).sum()), int((at_pixels > 1).sum())),
    )


def _kind(path: Path, raw: np.ndarray, *, in_bands: bool) -> tuple[str, str, bool]:
    """Format, mode, and whether the format changes values."""
    if in_bands or arrays.is_npy(path):
        return array_format(path), str(raw.dtype), False
    return decode.opened(path, str(path), lambda image: (image.format, image.mode, decode.is_lossy(image)))


def of_one_class(classes: Sequence[str], labels: Labels, summary: Summary, train: str, in_files: bool) -> Labels:
    """How each mask is read: what of two values says that its class is there."""
    if labels.refusal:
        return labels
    if labels.coloured or len(labels.names) != 2:
        held = ", ".join(map(str, list(labels.table)[:6]))
        refusal = f"each class has a mask of its own, and these hold {held}: two values are needed, there and not"
        return replace(labels, refusal=refusal)
    labels = replace(labels, names=("not there", "there"), palette=(), doubts=labels.doubts if labels.nearest else ())
    if absent := _absent(classes, summary, train):
        names = ", ".join(map(repr, absent))
        if not in_files:
            return replace(labels, refusal=f"no training mask shows {names}: save the masks without that band")
        labels = replace(labels, doubts=(*labels.doubts, f"no training mask shows {names}: left out of the classes"))
    return labels


def _absent(classes: Sequence[str], summary: Summary, split: str) -> list[str]:
    there = summary.there.get(split)
    return [] if there is None else [name for name, pixels in zip(classes, there[0]) if not pixels]


def findings(classes: Sequence[str], summary: Summary, validation: str) -> list[Finding]:
    """What stands out of the classes together."""
    found = []
    if absent := _absent(classes, summary, validation):
        names = ", ".join(map(repr, absent))
        found.append(Finding("warning", f"no mask of {validation!r} shows {names}: no score will tell of it"))
    labelled, several = summary.overlap
    if several:
        words = f"{several / labelled:.1%} of the pixels that have a class have several"
    else:
        words = "no pixel has several classes: one mask with an id for each would say the same (data.mode='multiclass')"
    return [*found, Finding("note", words)]


def decisions(
    classes: Sequence[str], labels: Labels, summary: Summary, train: str, pairs: Sequence[Pair]
) -> list[Decision]:
    """The keys of a config that say how the masks of all classes are read; `pairs` are those of all splits."""
    absent = {*_absent(classes, summary, train)}
    raws = {raw: train for raw, train in labels.table.items() if not raw == train == IGNORE_LABEL}
    identity = all(raw == train for raw, train in raws.items())
    in_files = any(pair.classes for pair in pairs)
    where = "named by the masks, or their folders" if in_files else "of the bands of the masks, in their order"
    found = [
        Decision("data.name", "", "no data set that is known by name"),
        Decision("data.mode", "multilabel", "each class has a mask of its own, so that several may be at a pixel"),
        Decision("data.classes", tuple(name for name in classes if name not in absent), where),
        Decision("data.ids", () if identity else tuple(raws.items()), "value of the masks, 1 where the class is there"),
    ]
    if labels.nearest:
        found.append(Decision("data.mask_values", "nearest", labels.reasons.get("mask_values", "")))
    files = (file for pair in pairs for name, file in zip(classes, pair.classes) if name not in absent)
    if lacking := sum(file is None for file in files):
        reason = f"{lacking} classes of images have no mask: taken for absent there; 'ignored' if they are not known"
        found.append(Decision("data.missing", "absent", reason))
    return found
