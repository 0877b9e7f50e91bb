"""The losses of `config.loss.name`, one or a sum of several."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int

from attnseg_jax.errors import UserError, nearest
from attnseg_jax.ops import losses as ops


def _pixels(labels, class_weights):
    return ops.pixel_count(labels)


def _weighted_pixels(labels, class_weights):
    return ops.pixel_count(labels, class_weights=class_weights)


def _images(labels, class_weights):
    return ops.image_count(labels)


# Name -> the loss and what its sum is divided by: the count it returns, which depends on the labels only.
LOSSES = {
    "cross_entropy": (ops.cross_entropy, _weighted_pixels),
    "ohem": (ops.ohem, _pixels),
    "focal": (ops.focal, _pixels),
    "dice": (ops.dice, _pixels),
    "jaccard": (ops.jaccard, _pixels),
    "tversky": (ops.tversky, _pixels),
    "lovasz": (ops.lovasz, _images),
    "boundary": (ops.boundary, _pixels),
}
PRESENCE_COUNT = _weighted_pixels
# Filled by the step, therefore not keys of a loss's group.
_FILLED = ("class_weights", "label_smoothing", "axis_name")
_RANGES = {
    "ohem.threshold": (0, 1, "a probability, between 0 and 1"),
    "ohem.min_kept": (0, 1, "a share of the valid pixels, between 0 and 1"),
    "focal.gamma": (0, math.inf, "at least 0"),
    "focal.alpha": (-math.inf, 1, "at most 1; below 0 it is off"),
    "tversky.alpha": (0, math.inf, "at least 0"),
    "tversky.beta": (0, math.inf, "at least 0"),
    "tversky.gamma": (0.01, math.inf, "at least 0.01"),
    "boundary.tolerance": (0, math.inf, "at least 0"),
    **{f"{name}.smooth": (0, math.inf, "at least 0") for name in ("dice", "jaccard", "tversky")},
}


class Loss(NamedTuple):
    """One of the losses that are summed.

    Attributes:
      name: a key of `LOSSES`.
      scale: its factor in the sum.
      sum: (logits, labels, *, class_weights, label_smoothing, axis_name) -> the sum over this device.
      count: (labels, class_weights) -> what the sum is divided by, after both were added over the devices.
    """

    name: str
    scale: float
    sum: Callable[..., Float[Array, ""]]
    count: Callable[[Int[Array, "b h w"], Any], Float[Array, ""]]


def options(name: str) -> dict[str, Any]:
    """The keys of `config.loss.NAME` and their defaults.

    >>> options("focal")
    {'gamma': 2.0, 'alpha': -1.0, 'normalized': False}
    """
    parameters = inspect.signature(LOSSES[name][0]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _FILLED}


def selected(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `loss` part of a config without the options of losses that its name does not choose.

    Without factors `scales` is left out too: configs did not always have it, and keep their hash.
    """
    chosen = config["name"].split("+")
    unused = [name for name in LOSSES if name not in chosen] + ([] if config.get("scales") else ["scales"])
    return {key: value for key, value in config.items() if key not in unused}


def make_losses(
    name: str,
    scales: Sequence[float] = (),
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    num_classes: int,
    label_smoothing: float = 0.0,
) -> tuple[Loss, ...]:
    """The losses that a config names.

    Args:
      name: keys of `LOSSES`, joined by '+'.
      scales: a factor for each of them; () is 1.
      groups: name -> its options; what is left out takes its default.
      num_classes: of the data.
      label_smoothing: only `cross_entropy` and `ohem` know it.

    Raises:
      UserError: an unknown name or option, a value that cannot be.

    >>> [loss.name for loss in make_losses("cross_entropy+dice", (1.0, 0.5), num_classes=7)]
    ['cross_entropy', 'dice']
    """
    names = name.split("+")
    for part in names:
        if part not in LOSSES:
            raise UserError(f"config.loss.name={name!r}: {part!r} is unknown: {nearest(part, LOSSES)}")
    if len(set(names)) < len(names):
        raise UserError(f"config.loss.name={name!r} names a loss twice: give it a larger factor in config.loss.scales")
    if scales and not (len(scales) == len(names) and all(isinstance(s, int | float) and s > 0 for s in scales)):
        raise UserError(
            f"config.loss.scales={tuple(scales)} must be () or {len(names)} numbers above 0, one for each of {name}"
        )
    if label_smoothing and not {"cross_entropy", "ohem"} & set(names):
        raise UserError(
            f"config.loss.label_smoothing={label_smoothing} does nothing in {name}: set it to 0, or add cross_entropy"
        )
    return tuple(
        _make_loss(part, scale, dict((groups or {}).get(part, {})), num_classes)
        for part, scale in zip(names, scales or [1.0] * len(names))
    )


def _make_loss(name, scale, given, num_classes):
    function, count = LOSSES[name]
    path = f"config.loss.{name}"
    for key, value in given.items():
        if key not in options(name):
            raise UserError(f"{path}.{key} is unknown: {nearest(key, options(name))}")
        low, high, wanted = _RANGES.get(f"{name}.{key}", (None, None, None))
        if wanted and not low <= value <= high:
            raise UserError(f"{path}.{key}={value} must be {wanted}")
    if "classes" in given:
        given["classes"] = tuple(given["classes"])
        if not all(isinstance(c, int) and 0 <= c < num_classes for c in given["classes"]):
            raise UserError(f"{path}.classes={given['classes']} must be train ids from 0 to {num_classes - 1}")
    known = [key for key in _FILLED if key in inspect.signature(function).parameters]

    def loss_sum(logits, labels, **filled):
        return function(logits, labels, **given, **{key: filled[key] for key in known})[0]

    return Loss(name, scale, loss_sum, count)
