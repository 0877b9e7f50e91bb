"""What the doctor says of a set with a mask for each class."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from attnseg_jax.data.doctor.facts import MaskFacts, read_mask
from attnseg_jax.data.doctor.labels import Labels
from attnseg_jax.data.doctor.proposal import Decision
from attnseg_jax.data.layouts import Pair
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL


def read_class_files(paths: Sequence[Path]) -> MaskFacts:
    """The facts of the masks of all classes of an image, counted together.

    Raises:
      UserError: one is damaged, a colour picture, or of another size than the first.
    """
    found = [read_mask(path) for path in paths]
    for path, facts in zip(paths, found):
        if facts.size != found[0].size:
            raise UserError(f"{path}: its size is not that of {paths[0].name}, of another class of the image")
        if facts.values is None:
            raise UserError(f"{path}: a colour picture is no mask of one class: save it as gray")
    colours = None if any(facts.colours is None for facts in found) else sum((f.colours for f in found), Counter())
    return replace(found[0], values=sum((facts.values for facts in found), Counter()), colours=colours)


def of_one_class(labels: Labels) -> Labels:
    """How each mask is read: what of two values says that its class is there."""
    if labels.refusal:
        return labels
    if labels.coloured or len(labels.names) != 2:
        held = ", ".join(map(str, list(labels.table)[:6]))
        refusal = f"each class has a mask of its own, and these hold {held}: two values are needed, there and not"
        return replace(labels, refusal=refusal)
    return replace(labels, names=("not there", "there"), palette=(), doubts=())


def decisions(classes: Sequence[str], labels: Labels, pairs: Sequence[Pair]) -> list[Decision]:
    """The keys of a config that say so."""
    raws = {raw: train for raw, train in labels.table.items() if not raw == train == IGNORE_LABEL}
    identity = all(raw == train for raw, train in raws.items())
    found = [
        Decision("data.name", "", "no data set that is known by name"),
        Decision("data.mode", "multilabel", "each class has a mask of its own, so that several may be at a pixel"),
        Decision("data.classes", tuple(classes), "the ends of the names of the masks"),
        Decision("data.ids", () if identity else tuple(raws.items()), "value of the masks, 1 where the class is there"),
    ]
    if labels.nearest:
        found.append(Decision("data.mask_values", "nearest", labels.reasons.get("mask_values", "")))
    if lacking := sum(path is None for pair in pairs for path in pair.classes):
        reason = f"{lacking} classes of images have no mask: taken for absent there; 'ignored' if they are not known"
        found.append(Decision("data.missing", "absent", reason))
    return found
