"""What stands beside an exported model: what it is, how it is used, where it is from, how it was proven."""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attnseg_jax import __version__
from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded
from attnseg_jax.inference.pretrained import Info, read_card
from attnseg_jax.models.build import KINDS
from attnseg_jax.train.initial import workdir_of
from attnseg_jax.train.manifest import read_metrics

README = "README.md"
_PACKAGES = ("jax", "jaxlib", "flax", "numpy")
# StableHLO's and jax.export's promise of backward compatibility.
_MONTHS = 6


def describe(info: Info, config: ConfigDict, multiple: int, source: str | Path) -> dict[str, Any]:
    """What a card of any format says of a model."""
    parts = {part: config.model[part].name for part in KINDS[config.model.kind].parts}
    return {
        "model": {"kind": config.model.kind, **parts},
        "classes": [
            {"value": value, "name": name, "colour": [int(c) for c in colour]}
            for value, (name, colour) in enumerate(zip(info.class_names, info.palette, strict=True))
        ],
        "preprocessing": {
            "mean": list(info.mean),
            "std": list(info.std),
            "channel_order": info.channel_order,
            "resolution": config.data.resolution,
            "shorter_side": config.data.shorter_side,
            "size_multiple": multiple,
        },
        "evaluation": {
            name: config.eval[name]
            for name in ("mode", "window", "stride", "windows", "blend", "padding", "scales", "flip", "threshold")
        },
        "scores": _scores(source, info.step),
        "weights": {
            "run": _name(source),
            "step": info.step,
            "sha256": info.sha256,
            "licence": info.licence or None,
        },
        "versions": _versions(),
        "exported": datetime.date.today().isoformat(),
    }


def loads_until(day: datetime.date) -> datetime.date:
    """The last day of StableHLO's promise for what is written today.

    >>> loads_until(datetime.date(2026, 8, 31)), loads_until(datetime.date(2026, 11, 28))
    (datetime.date(2027, 2, 28), datetime.date(2027, 5, 28))
    """
    years, month = divmod(day.month - 1 + _MONTHS, 12)
    first = datetime.date(day.year + years, month + 1, 1)
    following = (first + datetime.timedelta(31)).replace(day=1)
    return min(first + datetime.timedelta(day.day - 1), following - datetime.timedelta(1))


def _versions() -> dict[str, str]:
    installed = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"attnseg_jax": __version__, **installed, "python": platform.python_version()}


def _name(source: str | Path) -> str:
    """Of the run, without where it lay on this machine."""
    folder = expanded(source).absolute()
    before = read_card(folder)
    return before["weights"]["run"] if before else (workdir_of(folder) or folder).name


def _scores(source: str | Path, step: int | None) -> dict[str, Any]:
    """Of the validation images: all of them where the run ended with this step, else those of the checkpoint."""
    folder = expanded(source).absolute()
    if before := read_card(folder):
        return before["scores"]
    workdir = workdir_of(folder) or folder
    try:
        scores = json.loads((workdir / "result.json").read_text())
        if scores["step"] == step:
            return scores
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        return read_metrics(workdir / "checkpoints" / str(step))
    except UserError:
        return {}


def readme(card: Mapping[str, Any]) -> str:
    """The card in words."""
    names = ", ".join(f"{one['value']} {one['name']}" for one in card["classes"])
    model, weights, scores = card["model"], card["weights"], card["scores"]
    parts = ", ".join(f"{part} {name}" for part, name in model.items() if part != "kind") or model["kind"]
    lines = [
        f"# {weights['run']}",
        "",
        f"Semantic segmentation into {len(card['classes'])} classes ({names}). {parts[0].upper() + parts[1:]}; "
        f"weights of step {weights['step']}.",
        "",
        *_USAGE[card["format"]](card),
        "",
        "| | |",
        "|---|---|",
    ]
    prepared, proof = card["preprocessing"], card["proof"]
    rows = {
        "validation": ", ".join(
            f"{name} {scores[name]:.3f}" for name in ("miou", "pixel_accuracy", "boundary_miou") if name in scores
        )
        or "unknown",
        "licence of the weights": weights["licence"]
        or "not recorded; those of the data and of the weights that the training began with count",
        "preprocessing": (f"resized by {prepared['resolution']}; " if prepared["resolution"] != 1 else "")
        + (f"resized to a shorter side of {side}; " if (side := prepared["shorter_side"]) else "")
        + f"(image - {prepared['mean']}) / {prepared['std']}, {prepared['channel_order']}; padded at the end with "
        f"{'its mirror image' if card['evaluation']['padding'] == 'reflect' else 'zeros'} to multiples of "
        f"{prepared['size_multiple']} pixels, the mask cut",
        "exported": f"{card['exported']}, with "
        + ", ".join(f"{name} {version}" for name, version in card["versions"].items()),
        "compared": f"{proof['pictures']} pictures of {proof['sizes']} sizes, {proof['differing']} of "
        f"{proof['pixels']} pixels otherwise than by attnseg_jax ({proof['where']})",
    }
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in rows.items())]) + "\n"


def taken(about: Mapping[str, Any]) -> str:
    """Which sizes the program takes, in words.

    >>> taken({"size": None, "least": [1, 1]}), taken({"size": [360, 480], "least": [1, 1]})
    ('of any size', 'of 360 x 480 pixels')
    """
    size, least = about["size"], about["least"]
    if not size and max(least) == 1:
        return "of any size"
    return "of {}{} x {} pixels".format("" if size else "at least ", *size or least)


def _use_of_program(card: Mapping[str, Any]) -> list[str]:
    what, packages, note = _PROGRAMS[card["format"]]
    batch = card["input"]["batch"] or "b"
    lines = [
        f"`{card['file']}` is {what}{_for(card)}: uint8 RGB pictures `[{batch}, h, w, 3]` {taken(card['input'])} in, "
        f"`mask` `[{batch}, h, w]`, `probabilities` `[{batch}, h, w, k]` and `finite` `[{batch}]` out.",
        "All preprocessing is inside.",
        "",
        f"    pip install {packages} numpy pillow",
        "    python run.py street.jpg --output=masks",
        "",
        note.format(months=_MONTHS, **card, packages=", ".join(map(" ".join, card.get("made_with", {}).items()))),
    ]
    return lines


def _for(card: Mapping[str, Any]) -> str:
    platforms = f" for {', '.join(card['platforms'])}" if "platforms" in card else ""
    reduced = card.get("precision", "float32")
    return platforms + (f", its weights in {reduced}" if reduced != "float32" else "")


def _use_of_safetensors(card: Mapping[str, Any]) -> list[str]:
    return [
        f"`{card['file']}` holds the weights under the names of attnseg_jax, `config.json` the config of the run.",
        "",
        "    from attnseg_jax import Predictor",
        "",
        '    Predictor("this/folder")("street.jpg").save("masks")',
        "",
        f"`load_pretrained` reads it too, and `--config.init_from=this/folder/{card['file']}` starts a training with "
        "it.",
    ]


_MADE = "It was made with {packages}."
# What a file is, what runs it, and for how long.
_PROGRAMS = {
    "stablehlo": (
        "a program of StableHLO",
        "jax flatbuffers",
        "Versions of jax read it that were built up to {months} months after the one that wrote it: counted from the "
        "day of the export that is {loads_until}, at the latest. Export again from the run before.",
    ),
    "onnx": ("a model of ONNX", "onnxruntime", _MADE),
    "savedmodel": ("a SavedModel of TensorFlow", "tensorflow", _MADE),
    "tflite": ("a model of TensorFlow Lite", "ai-edge-litert", _MADE),
}
_USAGE = {**dict.fromkeys(_PROGRAMS, _use_of_program), "safetensors": _use_of_safetensors}
