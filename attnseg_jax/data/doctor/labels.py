"""What the values of masks mean: which is which class, what is ignored, and how sure that is."""

from collections import Counter
from dataclasses import dataclass, field, replace

from attnseg_jax.data.datasets import DATASETS, HIGHEST_RAW, MAX_CLASSES, UNKNOWN, Colour
from attnseg_jax.data.doctor.names import Named, NameTable
from attnseg_jax.data.doctor.shades import are_mixtures, centres_of, cleaned, distance, is_smoothed
from attnseg_jax.data.doctor.summary import Key, Summary, shares, total
from attnseg_jax.ops.labels import IGNORE_LABEL

_MANY_CLASSES = 60
# The highest raw value of a known data set, without which it is hardly that.
_HIGHEST = {"camvid": 10, "voc": 20, "ade20k": 150, "cityscapes": 12}


@dataclass(frozen=True)
class Labels:
    """How masks are read.

    Attributes:
      table: raw value or colour -> train id, 255 is ignored; in the order of the raw ids.
      names: of the classes.
      palette: a colour for each class; () takes the default one.
      coloured: whether masks are read as pictures, by colour.
      nearest: whether values count as the nearest ones of the table.
      known: the known data set that says all this; "" for none.
      reasons: of keys of `config.data`.
      doubts: what may be otherwise, in sentences.
      refusal: why nothing can be trained; "" where something can.
    """

    table: dict[Key, int]
    names: tuple[str, ...]
    palette: tuple[Colour, ...] = ()
    coloured: bool = False
    nearest: bool = False
    known: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    refusal: str = ""

    @property
    def identity(self) -> bool:
        """Whether raw values are train ids already."""
        return not self.coloured and all(raw == train for raw, train in self.table.items())


def propose_labels(summary: Summary, names: NameTable | None, layout: str, train: str) -> Labels:
    """How the masks of a data set can be read; `train` is the name of its training split."""
    coloured = _as_pictures(summary)
    by_split = summary.colours if coloured else summary.values
    everything = total(by_split).pixels
    if train not in by_split:
        return Labels({}, (), refusal=f"none of the pairs of {train!r} can be used")
    training = by_split[train].pixels
    centres = centres_of(everything)
    nearest = summary.lossy > 0 or summary.rest > 0 or is_smoothed(everything, centres)
    raw = sorted(map(cleaned, centres) if nearest else everything, key=_order(everything))
    if coloured:
        labels = _of_colours(raw, everything, names, nearest)
    else:
        labels = _of_values(raw, everything, names, layout, summary)
    labels = replace(labels, coloured=coloured, nearest=nearest)
    if nearest:
        labels = _with_nearest(labels, summary, everything)
    return _without_absent(labels, _nearest_counts(training, labels) if nearest else training)


def _as_pictures(summary: Summary) -> bool:
    """Whether masks differ in kind or palette so that only their colours say the same in all."""
    modes = {mode for _, mode in summary.masks}
    if any(len(colours) > 1 for colours in summary.palettes.values()):
        return True
    return bool(modes & {"RGB", "RGBA"}) or ("P" in modes and bool(modes - {"P", "PA"}))


def _order(pixels: Counter):
    # Black first, as background mostly is; then gray values by number, colours by pixels.
    return lambda key: key if isinstance(key, int) else (key != (0, 0, 0), -pixels[key], key)


def _of_values(raw: list[int], pixels: Counter, names: NameTable | None, layout: str, summary: Summary) -> Labels:
    if far := [value for value in raw if not 0 <= value <= HIGHEST_RAW]:
        held = f"the masks hold the value {far[0]}, and raw ids are whole numbers from 0 to {HIGHEST_RAW}"
        return Labels({}, (), refusal=f"{held}: save classes, not numbers of objects or sums of channels")
    known = _known(raw, names, layout)
    if known:
        return known
    doubts, reasons = [], {}
    void = _void_values(raw, layout, doubts, reasons)
    if names:
        void |= {named.id for named in names.classes if named.id in raw and named.void}
    classes = [value for value in raw if value not in void]
    named, from_zero = _named_values(classes, names, doubts, reasons)
    if named is None:
        named, from_zero = _unnamed(classes, pixels, doubts, reasons), False
    if names and from_zero and 0 in classes and 0 not in named:
        void.add(0)
        classes.remove(0)
    if len(classes) > MAX_CLASSES:
        return Labels({}, (), refusal=f"the masks hold {len(classes)} values, and at most {MAX_CLASSES} can be classes")
    if (len(classes) > _MANY_CLASSES and not names) or _counted_objects(summary):
        doubts.append(
            f"the masks hold {len(classes)} values that look like numbers of objects: every object would be a class "
            "of its own; masks of classes are needed"
        )
    table = {value: IGNORE_LABEL if value in void else classes.index(value) for value in raw}
    palette = _palette(classes, summary)
    return Labels(table, tuple(named[value] for value in classes), palette, reasons=reasons, doubts=tuple(doubts))


def _known(raw: list[int], names: NameTable | None, layout: str) -> Labels | None:
    if layout not in DATASETS or names:
        return None
    entry = DATASETS[layout]
    fits = all((value < len(entry.ids) and entry.ids[value] != UNKNOWN) or value == IGNORE_LABEL for value in raw)
    # Other sets lie in these folders too; few of them have as many classes.
    if not fits or max((value for value in raw if value != IGNORE_LABEL), default=0) < _HIGHEST.get(layout, 0):
        return None
    table = {value: IGNORE_LABEL if value >= len(entry.ids) else entry.ids[value] for value in raw}
    doubt = f"folders and values are those of the known data set {layout!r}; if it is another one, name its classes"
    reason = "folders and values of the masks are those of this known data set"
    return Labels(table, entry.class_names, entry.palette, known=layout, reasons={"name": reason}, doubts=(doubt,))


def _void_values(raw: list[int], layout: str, doubts: list[str], reasons: dict[str, str]) -> set[int]:
    if layout == "ade20k" and 0 in raw:
        reasons["ids"] = "in this layout 0 is what has no class, and classes are counted from 1"
        return {0, IGNORE_LABEL} & {*raw}
    if IGNORE_LABEL in raw and len(raw) > 2:
        below = [value for value in raw if value != IGNORE_LABEL]
        if max(below) - min(below) + 1 == len(below) or max(below) < 100:
            reasons["ignored"] = "255 beside ids of classes is what has no class"
            return {IGNORE_LABEL}
        doubts.append(
            "255 is taken for a class, since the other values are far apart; if it is a border, map it to 255"
        )
    if len(raw) == 2 and IGNORE_LABEL in raw and 0 not in raw and min(raw) < 2:
        doubts.append(f"the masks hold {raw[0]} and 255 alone: 255 is taken for a class")
    return set()


def _named_values(
    classes: list[int], names: NameTable | None, doubts: list[str], reasons: dict[str, str]
) -> tuple[dict[int, str] | None, bool]:
    """Names of the values by a file of names, and whether it counts them from 1; None where it does not fit."""
    if not names:
        return None, False
    listed = names.classes
    if all(named.id is not None for named in listed):
        by_id, from_zero = {named.id: named.name for named in listed}, False
    elif classes and max(classes) == len(listed):
        by_id, from_zero = {i + 1: named.name for i, named in enumerate(listed)}, True
        if 0 in classes:
            doubts.append(
                f"{names.path} names {len(listed)} classes and the masks hold 0 to {max(classes)}: 0 is taken for what "
                "has no class; if it is the background, name it in the first line"
            )
    elif len(classes) == len(listed):
        by_id, from_zero = dict(zip(classes, (named.name for named in listed))), False
    else:
        by_id, from_zero = {i: named.name for i, named in enumerate(listed)}, False
    wanted = [value for value in classes if not (from_zero and value == 0)]
    if any(value not in by_id for value in wanted):
        doubts.append(
            f"{names.path} names {len(listed)} classes, which does not fit the {len(classes)} values of the masks: it "
            "is not used"
        )
        return None, False
    reasons["classes"] = f"from {names.path}" + (", which counts from 1" if from_zero else "")
    return by_id, from_zero


def _unnamed(classes: list[int], pixels: Counter, doubts: list[str], reasons: dict[str, str]) -> dict[int, str]:
    if len(classes) == 2:
        reasons["classes"] = "two values: the lower one is taken for the background"
        return {classes[0]: "background", classes[1]: "foreground"}
    named = {value: f"class_{value}" for value in classes}
    reasons["classes"] = "nothing names the values of the masks"
    if 0 in named and len(classes) > 1:
        if pixels[0] == max(pixels.values()):
            named[0] = "background"
        elif pixels[0] < 0.1 * pixels.total():
            doubts.append("0 could be what has no class: map it to 255 in data.ids if it is")
    doubts.append("the names of the classes are made up: write the right ones")
    return named


def _counted_objects(summary: Summary) -> bool:
    """Whether masks count something from 1 on, each to another number, as numbers of objects do."""
    tops = Counter()
    for values, masks in summary.value_sets.items():
        if values is not None and values <= {*range(len(values) + 1)}:
            tops[max(values, default=0)] += masks
        else:
            return False
    return len(tops) > 4 and max(tops) > 12 and max(tops.values()) < 0.5 * tops.total()


def _palette(classes: list[int], summary: Summary) -> tuple[Colour, ...]:
    colours = tuple(next(iter(summary.palettes.get(value, ())), None) for value in classes)
    gray = all(colour is None or len({*colour}) == 1 for colour in colours)
    return () if None in colours or gray or len({*colours}) < len(colours) else colours


def _of_colours(raw: list[Colour], pixels: Counter, names: NameTable | None, nearest: bool) -> Labels:
    listed = [named for named in names.classes if named.colour] if names and names.coloured else []
    if listed and sum(pixels[named.colour] for named in listed) > 0.5 * pixels.total():
        return _of_listed_colours(raw, pixels, listed, names.path, nearest)
    if len(raw) > MAX_CLASSES:
        return Labels({}, (), refusal=f"the masks hold {len(raw)} colours, and at most {MAX_CLASSES} can be classes")
    if len(raw) == 2:
        named, reason = ["background", "foreground"], "two colours: the darker one is taken for the background"
        raw = sorted(raw, key=sum)
        doubts: tuple[str, ...] = ()
    else:
        named = ["_".join(("colour", *map(str, colour))) for colour in raw]
        reason = "nothing names the colours of the masks"
        doubts = ("the names of the classes are made up: write the right ones",)
        if are_mixtures(raw):
            doubts += (
                "the colours are mixtures of one red, one green and one blue: if each of these is a class of its own, "
                "set data.mode to 'multilabel', data.classes to three names, data.ids to ((0, 0), (255, 1)) and "
                "data.colors to ()",
            )
        if (0, 0, 0) in raw:
            doubts += ("black could be what has no class: map it to 255 in data.ids if it is",)
    palette = () if len(raw) == 2 else tuple(raw)
    return Labels(
        {colour: i for i, colour in enumerate(raw)}, tuple(named), palette, reasons={"classes": reason}, doubts=doubts
    )


def _of_listed_colours(raw: list[Colour], pixels: Counter, listed: list[Named], path: str, nearest: bool) -> Labels:
    classes = [named for named in listed if not named.void]
    table: dict[Key, int] = {named.colour: classes.index(named) if not named.void else IGNORE_LABEL for named in listed}
    doubts = []
    if foreign := [colour for colour in raw if colour not in table and not nearest]:
        share = sum(pixels[colour] for colour in foreign) / pixels.total()
        table |= dict.fromkeys(foreign, IGNORE_LABEL)
        doubts.append(
            f"{path} does not name {len(foreign)} colour{'s' if len(foreign) > 1 else ''} of the masks, such as "
            f"{foreign[0]} ({share:.3%} of the pixels): they are ignored"
        )
    reasons = {"classes": f"from {path}"}
    if void := [named.name for named in listed if named.void]:
        reasons["ignored"] = f"{path} calls a colour {void[0]!r}"
    names = tuple(named.name for named in classes)
    return Labels(table, names, tuple(named.colour for named in classes), reasons=reasons, doubts=tuple(doubts))


def _with_nearest(labels: Labels, summary: Summary, pixels: Counter) -> Labels:
    if labels.refusal:
        return labels
    between = sum(count for key, count in pixels.items() if key not in labels.table) + summary.rest
    what = "JPEG and the like change values" if summary.lossy else "smoothed"
    reason = (
        f"{between / (pixels.total() + summary.rest):.2%} of the pixels have other values ({what}); each counts as the "
        "nearest of those in the table"
    )
    doubt = f"the masks were not saved as drawn ({what}): the values {_listed(labels.table)} are taken for those meant"
    return replace(labels, reasons=labels.reasons | {"mask_values": reason}, doubts=(*labels.doubts, doubt))


def _listed(table: dict[Key, int], most: int = 6) -> str:
    shown = [str(key) for key in list(table)[:most]]
    return ", ".join(shown) + (", ..." if len(table) > most else "")


def _nearest_counts(pixels: Counter, labels: Labels) -> Counter:
    counted: Counter = Counter()
    for key, count in pixels.items():
        if labels.table:
            counted[min(labels.table, key=lambda other: distance(key, other))] += count
    return counted


def _without_absent(labels: Labels, training: Counter) -> Labels:
    """Without the classes that no training mask shows, of which nothing could be learned."""
    if labels.refusal:
        return labels
    shown = {train for key, train in labels.table.items() if training.get(key)} - {IGNORE_LABEL}
    if len(shown) < 2:
        held = ", ".join(f"{key} ({share:.1%})" for key, share in list(shares(training).items())[:4])
        return replace(
            labels,
            doubts=(),
            refusal=f"the masks of the training pairs hold one class alone, {held}: there is nothing to learn",
        )
    if len(shown) == len(labels.names):
        return labels
    kept = sorted(shown)
    absent = [name for i, name in enumerate(labels.names) if i not in shown]
    table = {key: kept.index(train) if train in shown else IGNORE_LABEL for key, train in labels.table.items()}
    doubt = f"no training mask shows {', '.join(map(repr, absent))}: left out of the classes, ignored where it occurs"
    names = tuple(labels.names[i] for i in kept)
    palette = tuple(labels.palette[i] for i in kept) if labels.palette else ()
    reasons = labels.reasons | ({"classes": f"of the known data set {labels.known!r}"} if labels.known else {})
    return replace(
        labels, table=table, names=names, palette=palette, known="", reasons=reasons, doubts=(*labels.doubts, doubt)
    )
