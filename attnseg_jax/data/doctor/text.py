"""A diagnosis in words for a terminal, and as plain values."""

from typing import Any

import numpy as np

from attnseg_jax.data.doctor.examine import Diagnosis, Plan
from attnseg_jax.data.doctor.facts import PairFacts
from attnseg_jax.data.doctor.labels import Labels
from attnseg_jax.data.doctor.summary import Summary, shares, total
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL

_SIGNS = {"error": "!", "warning": "?", "note": "-"}
_SHOWN_FILES, _SHOWN_VALUES = 3, 12


def plan_lines(plan: Plan) -> list[str]:
    """What names alone tell."""
    form = plan.layout.form
    where = f"{form.images} with {form.masks}" if form.images else f"pairs of {form.names}"
    counts = ", ".join(f"{split} {len(pairs)}" for split, pairs in plan.pairs.items())
    held = f" ({plan.splits.validation}: {plan.splits.reason})" if plan.splits.split else ""
    return [f"layout: {plan.layout.name}, {where}", f"pairs: {counts}{held}"]


def pair_line(facts: PairFacts) -> str:
    """One pair in a line."""
    words = []
    for path, found in ((facts.image_path, facts.image), (facts.mask_path, facts.mask)):
        if isinstance(found, UserError):
            words.append(str(found))
        else:
            words.append(f"{path} {found.format} {found.mode} {found.size[1]}x{found.size[0]}")
    if not isinstance(facts.mask, UserError):
        counted = facts.mask.colours if facts.mask.values is None else facts.mask.values
        words[-1] += f", {_values(counted)}"
    return "first pair: " + "; ".join(words)


def _values(counted: Any, most: int = _SHOWN_VALUES) -> str:
    found = shares(counted)
    shown = [f"{key} ({share:.1%})" for key, share in list(found.items())[:most]]
    return ", ".join(shown) + (f", ... ({len(found)} values)" if len(found) > most else "")


def lines(diagnosis: Diagnosis) -> list[str]:
    """What the doctor prints of all pairs."""
    summary, labels = diagnosis.summary, diagnosis.labels
    found = [
        "images: " + ", ".join(f"{n} {' '.join(map(str, kind[:2]))}" for kind, n in summary.images.most_common()),
        "masks: " + ", ".join(f"{n} {' '.join(kind)}" for kind, n in summary.masks.most_common()),
    ]
    by_split = summary.colours if labels.coloured else summary.values
    found += [f"values of {split}: {_values(values.pixels)}" for split, values in by_split.items()]
    found += [f"classes of {split}: {_shown(diagnosis.plan, there)}" for split, there in summary.there.items()]
    for finding in diagnosis.findings:
        found.append(f"{_SIGNS[finding.level]} {finding.text}")
        found += [f"    {file}" for file in finding.files[:_SHOWN_FILES]]
        if len(finding.files) > _SHOWN_FILES:
            found.append(f"    ... and {len(finding.files) - _SHOWN_FILES} more (all in the report, --report=DIR)")
    if labels.names and not labels.refusal:
        found.append("classes: " + ", ".join(_classes(labels)))
    return found


def _shown(plan: Plan, there: np.ndarray) -> str:
    """In how many images each class is that may overlap others."""
    return ", ".join(f"{name} in {images} images" for name, images in zip(plan.classes, there[1]))


def _classes(labels: Labels) -> list[str]:
    """Each class with its raw values."""
    raws: dict[int, list[str]] = {}
    for raw, train in labels.table.items():
        raws.setdefault(train, []).append(str(raw).replace(" ", ""))
    entries = [(name, raws.get(i, [])) for i, name in enumerate(labels.names)]
    entries += [("ignored", raws[IGNORE_LABEL])] if IGNORE_LABEL in raws else []
    return [f"{name} ({_some(values)})" for name, values in entries if values]


def _some(values: list[str]) -> str:
    return " ".join(values[:4]) + (" ..." if len(values) > 4 else "")


def as_values(diagnosis: Diagnosis) -> dict[str, Any]:
    """The diagnosis as values that JSON can hold."""
    plan, summary, labels = diagnosis.plan, diagnosis.summary, diagnosis.labels
    return {
        "data": str(plan.root),
        "layout": {"name": plan.layout.name, **vars(plan.layout.form)},
        "pairs": {split: len(pairs) for split, pairs in plan.pairs.items()},
        "usable": dict(summary.pairs),
        "images": [{"count": n, "format": f, "mode": m, "bits": b} for (f, m, b), n in summary.images.most_common()],
        "masks": [{"count": n, "format": f, "mode": m} for (f, m), n in summary.masks.most_common()],
        "sizes": [{"count": n, "height": h, "width": w} for (h, w), n in summary.sizes.most_common()],
        "read_as": "colours" if labels.coloured else "values",
        "values": _histograms(summary, labels),
        "classes": [
            {"name": name, "raw": [raw for raw, train in labels.table.items() if train == i]}
            for i, name in enumerate(labels.names)
        ],
        "overlapping": {
            split: {
                name: {"pixels": int(pixels), "images": int(images)}
                for name, pixels, images in zip(plan.classes, *there)
            }
            for split, there in summary.there.items()
        },
        "ignored": [raw for raw, train in labels.table.items() if train == IGNORE_LABEL],
        "findings": [{"level": f.level, "text": f.text, "files": list(f.files)} for f in diagnosis.findings],
        "decisions": [{"key": d.key, "value": d.value, "reason": d.reason} for d in diagnosis.decisions],
    }


def _histograms(summary: Summary, labels: Labels, most: int = 300) -> dict[str, list[dict[str, Any]]]:
    """By split the pixels of every value, and of how many masks it is in; the most frequent ones."""
    by_split = summary.colours if labels.coloured else summary.values
    order = [key for key, _ in total(by_split).pixels.most_common(most)]
    if not labels.coloured:
        order.sort()
    return {
        split: [
            {"value": key, "pixels": values.pixels[key], "masks": values.masks[key]}
            for key in order
            if values.pixels[key]
        ]
        for split, values in by_split.items()
    }
