"""Types and ranges of a config's keys; those of `config.model` are declared by its parts."""

from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from attnseg_jax.data import class_masks, datasets, decode, regions, transforms
from attnseg_jax.data.layouts import split
from attnseg_jax.data.transforms.fields import INTERPOLATIONS
from attnseg_jax.errors import UserError
from attnseg_jax.models.options import Range, type_refusal
from attnseg_jax.weights.catalogue import at_path
from attnseg_jax.weights.preprocessing import CHANNEL_ORDERS

# Whole numbers become int32 on the devices.
LARGEST = 2**31 - 1

_SHARE, _BELOW_1, _NOT_NEGATIVE = Range(at_least=0, at_most=1), Range(at_least=0, below=1), Range(at_least=0)
# Of a key without an entry only its type is checked; whole numbers are at most `LARGEST`, numbers finite.
RANGES: dict[str, Range] = {
    "seed": Range(at_least=0, at_most=2**32 - 1),
    "data.resolution": Range(at_most=100),
    "data.shorter_side": Range(at_least=0, at_most=2**14),
    "data.channels": Range(at_least=0, at_most=4096),
    "data.ignore": Range(at_least=0, at_most=datasets.HIGHEST_RAW),
    "data.show": Range(at_least=0, at_most=4095),
    "data.crop": Range(at_least=8, at_most=2**14),
    "data.scale": Range(at_least=0, at_most=100),
    **{f"data.{key}": _SHARE for key in ("flip", "brightness", "contrast", "saturation")},
    **{f"data.{key}": _SHARE for key in ("vertical_flip", "affine.probability", "affine.shift", "cutout.size")},
    **{f"data.{key}.probability": _SHARE for key in ("foreground", "copy_paste", "class_mix", "mosaic")},
    "data.affine.degrees": Range(at_least=0, at_most=180),
    "data.affine.shear": Range(at_least=0, at_most=80),
    "data.affine.aspect": Range(at_least=0, at_most=10),
    "data.gamma": Range(at_least=0, at_most=10),
    "data.blur": Range(at_least=0, at_most=100),
    "data.noise": Range(at_least=0, at_most=100),
    "data.jpeg": Range(at_least=1, at_most=100),
    "data.cutout.count": Range(at_least=0, at_most=1000),
    "data.sampling.power": Range(at_least=0, at_most=10),
    "data.sampling.threshold": _SHARE,
    "data.sampling.empty": Range(at_least=0, at_most=100),
    "data.hue": Range(at_least=0, at_most=0.5),
    "data.max_pixels": Range(at_least=1, at_most=2**40),
    "data.threads": Range(at_least=0, at_most=1024),
    "data.regions.count": Range(at_least=1, at_most=2**16),
    "data.regions.sample": Range(at_least=0, at_most=2**16),
    "data.regions.felzenszwalb.sigma": Range(at_least=0, at_most=1000),
    "data.regions.felzenszwalb.min_size": Range(at_least=1, at_most=LARGEST),
    "data.regions.slic.segments": Range(at_least=1, at_most=2**16),
    "loss.label_smoothing": _BELOW_1,
    "loss.class_weight_power": Range(at_least=0, at_most=10),
    "loss.aux_weight": _NOT_NEGATIVE,
    "loss.presence_weight": _NOT_NEGATIVE,
    "loss.edge_weight": _NOT_NEGATIVE,
    "loss.edge_aware_weight": _NOT_NEGATIVE,
    "loss.edge_confidence": _SHARE,
    "loss.edge_width": Range(at_least=1, at_most=100),
    "loss.ohem.threshold": _SHARE,
    "loss.ohem.min_kept": _SHARE,
    "loss.focal.gamma": Range(at_least=0, at_most=100),
    # Below 0 it is off.
    "loss.focal.alpha": Range(at_most=1),
    **{f"loss.{name}.smooth": _NOT_NEGATIVE for name in ("dice", "jaccard", "tversky")},
    "loss.tversky.alpha": _NOT_NEGATIVE,
    "loss.tversky.beta": _NOT_NEGATIVE,
    "loss.tversky.gamma": Range(at_least=0.01, at_most=100),
    "loss.boundary.width": Range(at_least=1, at_most=100),
    "loss.boundary.tolerance": Range(at_least=0, at_most=100),
    "optimizer.learning_rate": _NOT_NEGATIVE,
    "optimizer.power": Range(at_least=0, at_most=100),
    "optimizer.warmup_steps": Range(at_least=0, at_most=LARGEST),
    "optimizer.backbone_warmup_steps": Range(at_least=0, at_most=LARGEST),
    "optimizer.end_factor": _NOT_NEGATIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.momentum": _BELOW_1,
    "optimizer.beta1": _BELOW_1,
    "optimizer.beta2": _BELOW_1,
    # Without it a parameter without gradient would become NaN.
    "optimizer.eps": Range(at_least=1e-30, at_most=1),
    "optimizer.clip_norm": _NOT_NEGATIVE,
    "optimizer.layer_decay": Range(at_least=0.001, at_most=1),
    "optimizer.ema_decay": _BELOW_1,
    **{f"train.{key}": Range(at_least=1, at_most=LARGEST) for key in ("steps", "log_every", "eval_every", "keep")},
    "train.patience": Range(at_least=0, at_most=LARGEST),
    "train.max_minutes": _NOT_NEGATIVE,
    "train.batch_size": Range(at_least=1, at_most=2**20),
    "train.accumulate": Range(at_least=1, at_most=2**20),
    "eval.batch_size": Range(at_least=1, at_most=2**16),
    "eval.size_multiple": Range(at_least=0, at_most=2**14),
    "eval.windows": Range(at_least=0, at_most=2**16),
    "eval.window": Range(at_least=1, at_most=2**16),
    "eval.stride": Range(at_least=1, at_most=2**16),
    "eval.scales": Range(at_least=0.01, at_most=100),
    "eval.threshold": Range(at_least=1e-6, at_most=1 - 1e-6),
    "eval.samples": Range(at_least=0, at_most=2**16),
    "eval.worst": Range(at_least=0, at_most=2**16),
}
_RESIZING = "0 where config.data.transforms has no 'scale_crop', which resizes training images"
# What tuples hold.
_WHOLE, _NUMBERS, _TEXTS = tuple[int, ...], tuple[float, ...], tuple[str, ...]
TUPLES: dict[str, Any] = {
    "hooks": _TEXTS,
    "data.crop": tuple[int, int],
    "data.scale": tuple[float, float],
    "data.bands": _TEXTS,
    "data.ignore": _WHOLE,
    "data.show": _WHOLE,
    "data.mean": _NUMBERS,
    "data.std": _NUMBERS,
    "data.transforms": _TEXTS,
    "data.jpeg": tuple[int, int],
    "data.copy_paste.classes": _TEXTS,
    "data.foreground.classes": _TEXTS,
    "data.leave_out": _TEXTS,
    "data.regions.felzenszwalb.scales": _NUMBERS,
    "data.regions.slic.segments": _WHOLE,
    "loss.scales": _NUMBERS,
    "loss.dice.classes": _WHOLE,
    "loss.jaccard.classes": _WHOLE,
    "loss.tversky.classes": _WHOLE,
    "optimizer.lr_multipliers": _TEXTS,
    "eval.window": _WHOLE,
    "eval.stride": _WHOLE,
    "eval.scales": _NUMBERS,
    "eval.ignore_classes": _TEXTS,
    "train.profile": _WHOLE,
}


def check(config: ConfigDict, defaults: dict[str, Any]) -> None:
    """Raises UserError for the first value of another type or form than its key has, or out of its range.

    Groups of options of parts from outside the package are theirs to check.
    """
    for key, value in flatten_dict(config.to_dict(), sep=".").items():
        if key.startswith("model.") or key not in defaults:
            continue
        if refusal := _refusal(key, value, defaults[key]):
            raise UserError(f"config.{key}={value} {refusal}")
    _check_forms(config)


def _refusal(key: str, value: Any, default: Any) -> str:
    kind = TUPLES.get(key, type(default))
    if refusal := type_refusal(value, kind):
        return refusal
    limits = RANGES.get(key, Range())
    if kind is int and limits.at_most is None:
        limits = Range(at_least=limits.at_least, at_most=LARGEST)
    return limits.refusal(value) if key in RANGES or kind is int else ""


def _resizes(transforms: tuple[str, ...]) -> bool:
    """Whether any of the transforms makes training images of `config.data.shorter_side`, or may."""
    return any(name == "scale_crop" or ":" in name for name in transforms)


def _check_forms(config: ConfigDict) -> None:
    data = config.data
    rules = [
        ("data.resolution", data.resolution > 0, "above 0"),
        ("data.shorter_side", not data.shorter_side or _resizes(data.transforms), _RESIZING),
        ("data.interpolation", data.interpolation in INTERPOLATIONS, f"one of {', '.join(INTERPOLATIONS)}"),
        ("data.scale", _numbers(data.scale, 2) and 0 < data.scale[0] <= data.scale[1], "two factors, low <= high"),
        *_of_channels(data),
        ("data.channel_order", data.channel_order in ("", *CHANNEL_ORDERS), "'rgb', 'bgr' or ''"),
        ("data.classes", _all(data.classes, str) and len({*data.classes}) == len(data.classes), "names, each once"),
        ("data.labels", _all(data.labels, str) and len({*data.labels}) == len(data.labels), "names, each once"),
        ("data.palette", _colours(data.palette), "colours (red, green, blue)"),
        ("data.colors", _colours(data.colors), "colours (red, green, blue)"),
        ("data.ids", _ids(data.ids), "whole numbers, or pairs (raw id, train id) of raw ids below 65536, each once"),
        ("data.mask_values", data.mask_values in decode.MASK_VALUES, "'exact' or 'nearest'"),
        ("data.mask_sizes", data.mask_sizes in decode.MASK_SIZES, "'exact' or 'resized'"),
        ("data.mode", data.mode in datasets.MODES, f"one of {', '.join(datasets.MODES)}"),
        ("data.missing", data.missing in class_masks.MISSING, f"one of {', '.join(class_masks.MISSING)}"),
        ("data.jpeg", data.jpeg[0] <= data.jpeg[1], "the lowest quality and the highest"),
        ("data.max_class_share", 0 < data.max_class_share <= 1, "above 0 and at most 1"),
        ("data.regions.slic.compactness", data.regions.slic.compactness > 0, "above 0"),
        ("loss.weights", _all(config.loss.weights, int | float), "numbers"),
        ("eval.window", len(config.eval.window) in (0, 2), "height and width, or ()"),
        ("eval.stride", len(config.eval.stride) in (0, 2), "two numbers of pixels, or ()"),
        ("eval.scales", len(config.eval.scales) > 0, "at least one factor"),
    ]
    for key, good, wanted in rules:
        if not good:
            raise UserError(f"config.{key}={at_path(config, key)} must be {wanted}")
    if data.mode != "multiclass" and regions.used(data.regions):
        raise UserError(f"config.data.regions.method is for config.data.mode='multiclass', not {data.mode!r}")
    split.check_split(data.split)
    regions.check(data.regions)
    transforms.needs_others(data)


def _of_channels(data: ConfigDict) -> list[tuple[str, bool, str]]:
    """The rules for the channels of images; a UserError for what does not go together with such of other than RGB."""
    count, open_ = data.channels or 3, not data.channels
    number = "three numbers" if count == 3 else f"{count} numbers" if count > 1 else "one number"
    otherwise = ", or ()" if open_ else f", for config.data.channels={count}: attnseg-doctor measures them"
    for key, off in () if open_ else (("saturation", (0,)), ("hue", (0,)), ("channel_order", ("", "rgb"))):
        if data[key] not in off:
            raise UserError(f"config.data.{key}={data[key]} is for 8-bit RGB, not config.data.channels={count}")
    if regions.used(data.regions) and not open_:
        raise UserError(f"config.data.regions.method is for 8-bit RGB, not config.data.channels={count}")
    shown = len(data.show) in (0, 1, 3) and all(place < count for place in data.show)
    std = _numbers(data.std, count) and min(data.std) > 0
    return [
        ("data.mean", (open_ and data.mean == ()) or _numbers(data.mean, count), f"{number}{otherwise}"),
        ("data.std", (open_ and data.std == ()) or std, f"{number} above 0{otherwise}"),
        ("data.show", not data.show or (shown and not open_), "one or three of config.data.channels, or ()"),
        ("data.bands", not (data.bands and open_), "() without config.data.channels"),
    ]


def _numbers(value: Any, count: int, kind: Any = int | float) -> bool:
    return _all(value, kind) and len(value) == count


def _all(value: Any, kind: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(v, kind) and not isinstance(v, bool) for v in value)


def _colours(value: Any) -> bool:
    return _all(value, tuple) and all(_numbers(colour, 3, int) for colour in value)


def _ids(value: Any) -> bool:
    if _all(value, int):
        return len(value) <= 1 << 16
    pairs = _all(value, tuple) and all(_numbers(pair, 2, int) and 0 <= pair[0] < 1 << 16 for pair in value)
    return pairs and len({raw for raw, _ in value}) == len(value)
