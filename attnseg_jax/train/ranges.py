"""Types and ranges of a config's keys; those of `config.model` are declared by its parts."""

from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError
from attnseg_jax.models.options import Range, type_refusal

# Whole numbers become int32 on the devices.
LARGEST = 2**31 - 1

_SHARE = Range(at_least=0, at_most=1)
_BELOW_1 = Range(at_least=0, below=1)
_NOT_NEGATIVE = Range(at_least=0)
# Of a key without an entry only its type is checked; whole numbers are at most `LARGEST`, numbers finite.
RANGES: dict[str, Range] = {
    "seed": Range(at_least=0, at_most=2**32 - 1),
    "data.resolution": Range(at_most=100),
    "data.crop": Range(at_least=8, at_most=2**14),
    "data.scale": Range(at_least=0, at_most=100),
    "data.threads": Range(at_least=0, at_most=1024),
    "data.regions.count": Range(at_least=1, at_most=2**16),
    "data.regions.sample": Range(at_least=0, at_most=2**16),
    "data.regions.felzenszwalb.sigma": Range(at_least=0, at_most=1000),
    "data.regions.slic.segments": Range(at_least=1, at_most=2**16),
    "loss.class_weight_power": Range(at_least=0, at_most=10),
    "loss.aux_weight": _NOT_NEGATIVE,
    "loss.presence_weight": _NOT_NEGATIVE,
    "loss.ohem.threshold": _SHARE,
    "loss.ohem.min_kept": _SHARE,
    "loss.focal.gamma": Range(at_least=0, at_most=100),
    "loss.tversky.gamma": Range(at_least=0.01, at_most=100),
    "loss.boundary.width": Range(at_least=1, at_most=100),
    "loss.boundary.tolerance": Range(at_least=0, at_most=100),
    "optimizer.power": Range(at_least=0, at_most=100),
    "optimizer.warmup_steps": Range(at_least=0, at_most=LARGEST),
    "optimizer.end_factor": _NOT_NEGATIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.momentum": _BELOW_1,
    "optimizer.beta1": _BELOW_1,
    "optimizer.beta2": _BELOW_1,
    # Without it a parameter without gradient would become NaN.
    "optimizer.eps": Range(at_least=1e-30, at_most=1),
    "optimizer.clip_norm": _NOT_NEGATIVE,
    **{f"train.{key}": Range(at_least=1, at_most=LARGEST) for key in ("steps", "log_every", "eval_every", "keep")},
    "train.batch_size": Range(at_least=1, at_most=2**20),
    "train.accumulate": Range(at_least=1, at_most=2**20),
    "eval.batch_size": Range(at_least=1, at_most=2**16),
    "eval.size_multiple": Range(at_least=0, at_most=2**14),
    "eval.samples": Range(at_least=0, at_most=2**16),
    "eval.worst": Range(at_least=0, at_most=2**16),
}
# What tuples hold.
_WHOLE, _NUMBERS, _TEXTS = tuple[int, ...], tuple[float, ...], tuple[str, ...]
TUPLES: dict[str, Any] = {
    "hooks": _TEXTS,
    "data.crop": tuple[int, int],
    "data.scale": tuple[float, float],
    "data.mean": _NUMBERS,
    "data.std": _NUMBERS,
    "data.transforms": _TEXTS,
    "data.regions.felzenszwalb.scales": _NUMBERS,
    "data.regions.slic.segments": _WHOLE,
    "loss.scales": _NUMBERS,
    "loss.dice.classes": _WHOLE,
    "loss.jaccard.classes": _WHOLE,
    "loss.tversky.classes": _WHOLE,
    "optimizer.lr_multipliers": _TEXTS,
}


def check_ranges(config: ConfigDict, defaults: dict[str, Any]) -> None:
    """Raises UserError for the first value of another type than its default has, or out of its range.

    Groups of options of parts from outside the package are theirs to check.
    """
    for key, value in flatten_dict(config.to_dict(), sep=".").items():
        if key.startswith("model.") or key not in defaults:
            continue
        if refusal := _refusal(key, value, defaults[key]):
            raise UserError(f"config.{key}={value} {refusal}")


def _refusal(key: str, value: Any, default: Any) -> str:
    kind = TUPLES.get(key, type(default))
    if refusal := type_refusal(value, kind):
        return refusal
    limits = RANGES.get(key, Range())
    if kind is int and limits.at_most is None:
        limits = Range(at_least=limits.at_least, at_most=LARGEST)
    return limits.refusal(value) if key in RANGES or kind is int else ""
