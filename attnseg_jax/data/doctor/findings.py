"""What stands out in a data set, in sentences."""

from collections import Counter
from dataclasses import dataclass

from attnseg_jax.data.doctor.labels import Labels
from attnseg_jax.data.doctor.near import near_pairs
from attnseg_jax.data.doctor.summary import Summary
from attnseg_jax.data.layouts import Pairing
from attnseg_jax.ops.labels import IGNORE_LABEL

_MANY_SIZES = 4


@dataclass(frozen=True)
class Finding:
    """A sentence, how much it matters ('error': these pairs are left out, 'warning', 'note'), and its files."""

    level: str
    text: str
    files: tuple[str, ...] = ()


# A kind of problem in a summary: its level and what is said of it.
_PROBLEMS = {
    "unreadable image": ("error", "{n} image{s} that cannot be read: left out"),
    "unreadable mask": ("error", "{n} mask{s} that cannot be read: left out"),
    "sizes differ": (
        "error",
        "{n} mask{s} of another size than the image: left out; where they are the same at another scale, take them out "
        "of data.leave_out and set data.mask_sizes to 'resized'",
    ),
    "mask as stored": (
        "error",
        "{n} mask{s} that lie as the camera stored the photograph, not as its EXIF orientation turns it: left out",
    ),
    "other channels": ("error", "{n} image{s} of other bits or channels than most: left out"),
    "several pages": ("warning", "{n} file{s} of several pictures, of which the first is read"),
    "turned by EXIF": ("note", "{n} photograph{s} turned upright by their EXIF orientation, as masks have to be"),
    "alpha": (
        "note",
        "{n} image{s} with a channel behind the colours (alpha), which is not used; a band takes data.channels",
    ),
}


def of_pairings(pairings: dict[str, Pairing]) -> list[Finding]:
    """Findings of names alone; keys are splits."""
    found = []
    for split, pairing in pairings.items():
        of = f" of {split!r}" if split else ""
        if pairing.without_mask:
            files = tuple(f"{image} (no {mask})" for image, mask in pairing.without_mask)
            found.append(Finding("error", f"{_some(files, 'image')}{of} without a mask: left out", files))
        if pairing.without_image:
            files = tuple(pairing.without_image)
            found.append(Finding("warning", f"{_some(files, 'mask')}{of} without an image", files))
        if pairing.doubles:
            files = tuple(f"{path} ({other} is taken)" for path, other in pairing.doubles)
            found.append(Finding("error", f"{_some(files, 'file')}{of} of the same name as another", files))
        if pairing.missing:
            files = tuple(pairing.missing)
            found.append(Finding("error", f"a list names {_some(files, 'image')}{of} that are not there", files))
    return found


def of_files(summary: Summary) -> list[Finding]:
    """Findings of the files that were read."""
    found = []
    for kind, (level, text) in _PROBLEMS.items():
        if files := summary.problems.get(kind):
            said = text.format(n=len(files), s="s" if len(files) > 1 else "")
            found.append(Finding(level, said, tuple(f"{path}: {detail}" for path, detail in files)))
    near = [((here.path, here.split), (before.path, before.split)) for here, before in near_pairs(summary.looks)]
    for pairs, how, sign in ((summary.duplicates, "equal to", "="), (near, "nearly equal to", "~")):
        for same, level, where in (
            (False, "warning", "of another split: validation then sees what was trained on"),
            (True, "note", "of the same split"),
        ):
            chosen = [(here, before) for here, before in pairs if (here[1] == before[1]) == same]
            if chosen:
                files = tuple(f"{here[0]} {sign} {before[0]}" for here, before in chosen)
                found.append(Finding(level, f"{_some(files, 'image')} {how} one {where}", files))
    if len(summary.sizes) > 1:
        low, high = min(summary.sizes), max(summary.sizes)
        sizes = f"{len(summary.sizes)} sizes of images, from {low[1]}x{low[0]} to {high[1]}x{high[0]}"
        found.append(Finding("note", sizes))
    if len(set(summary.images)) > 1:
        kinds = ", ".join(f"{n} {' '.join(map(str, kind[:2]))}" for kind, n in summary.images.most_common())
        found.append(Finding("note", f"images of several kinds: {kinds}"))
    if len(summary.masks) > 1:
        kinds = ", ".join(f"{n} {' '.join(kind)}" for kind, n in summary.masks.most_common())
        found.append(Finding("warning", f"masks of several kinds: {kinds}"))
    return found


def of_labels(summary: Summary, labels: Labels, held_out: str) -> list[Finding]:
    """Findings of what the masks hold, read by `labels`; `held_out` is the validation split."""
    found = [Finding("warning", doubt) for doubt in labels.doubts]
    if labels.refusal:
        return [*found, Finding("error", labels.refusal)]
    if (of_validation := _class_pixels(summary, labels, held_out)) and not labels.nearest:
        absent = [name for i, name in enumerate(labels.names) if i not in of_validation]
        if absent:
            names = ", ".join(map(repr, absent))
            found.append(Finding("warning", f"no mask of {held_out!r} shows {names}: no score will tell of it"))
    sets = summary.colour_sets if labels.coloured else summary.value_sets
    ground = next((raw for raw, train in labels.table.items() if train == 0), None)
    empty = sum(n for values, n in sets.items() if values is not None and _only(values, ground, labels))
    if empty:
        name = labels.names[0]
        found.append(Finding("note", f"{empty} of {sum(summary.pairs.values())} masks show {name!r} alone"))
    return found


def _only(values: frozenset, ground: object, labels: Labels) -> bool:
    return all(value == ground or labels.table.get(value) == IGNORE_LABEL for value in values)


def _class_pixels(summary: Summary, labels: Labels, split: str) -> Counter:
    values = (summary.colours if labels.coloured else summary.values).get(split)
    counted: Counter = Counter()
    for raw, pixels in (values.pixels if values else {}).items():
        if raw in labels.table:
            counted[labels.table[raw]] += pixels
    return counted


def _some(files: tuple[str, ...], what: str) -> str:
    return f"{len(files)} {what}{'s' if len(files) > 1 else ''}"
