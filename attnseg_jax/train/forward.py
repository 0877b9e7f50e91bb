"""How a model is applied to images when it is evaluated and when it predicts, as `config.eval` says."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError, check_known
from attnseg_jax.ops.decision import Decision, class_logits
from attnseg_jax.ops.platforms import target_platform
from attnseg_jax.ops.sliding import BLENDS, PADDINGS, average_views, slide
from attnseg_jax.train.sizes import evaluation_multiple
from attnseg_jax.train.step import model_inputs

MODES = ("whole", "slide")

# Windows that a device computes at once by default, and of these how many pixels on a CPU, see docs/performance.md.
_WINDOWS, _CPU_PIXELS = 8, 1 << 16

Forward = Callable[..., Float[Array, "b h w k"]]
"""(variables, *inputs of the model) -> logits of the classes, of the size of the images, float32."""


def decision(config: ConfigDict, model: nn.Module, num_classes: int = 0) -> Decision:
    """How the logits of a model are read, as `config.data.mode` and `config.eval.threshold` say.

    Raises:
      UserError: a threshold where the most probable of `num_classes` is taken.
    """
    multilabel, threshold = config.data.mode == "multilabel", config.eval.threshold
    if threshold != 0.5 and num_classes > 2 and not multilabel:
        raise UserError(
            f"config.eval.threshold={threshold} is of two classes, or of config.data.mode='multilabel'; of "
            f"{num_classes} classes the most probable one is predicted: leave it at 0.5"
        )
    return Decision(multilabel, threshold, getattr(getattr(model, "decoder", None), "log_scores", False))


def make_forward(config: ConfigDict, model: nn.Module, mesh: Mesh | None = None) -> Forward:
    """What `config.eval` asks for: the model on whole images or in windows, on the image alone or on several views.

    `mesh` is that of the devices that share the windows of an image; None where each has images of its own.

    Raises:
      UserError: values that do not fit the model or one another.
    """
    wanted = config.eval
    check_known("config.eval", MODES, mode=wanted.mode)
    check_known("config.eval", BLENDS, blend=wanted.blend)
    check_known("config.eval", PADDINGS, padding=wanted.padding)
    if wanted.mode == "whole" and (wanted.window or wanted.stride):
        key = "window" if wanted.window else "stride"
        raise UserError(f"config.eval.{key}={tuple(wanted[key])} is for windows: set config.eval.mode='slide', too")
    if is_plain(config):
        return partial(_whole, model)
    if len(model_inputs(model)) > 1:
        raise UserError(
            f"config.model.kind={config.model.kind!r} takes regions beside the image, which are those of the whole "
            "image: leave config.eval.mode, scales and flip at their defaults"
        )
    multiple = evaluation_multiple(config, model)
    options = {}
    if wanted.mode == "slide":
        sizes = window_and_stride(config, multiple)
        rows = windows_at_once(config, sizes["window"], mesh.size if mesh else 1)
        sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names)) if mesh else None
        options = {"blend": wanted.blend, "rows": rows, "sharding": sharding, **sizes}
    views = {"scales": tuple(wanted.scales), "flip": wanted.flip, "multiple": multiple, "padding": wanted.padding}
    return partial(_viewed, model, options, decision=decision(config, model), **views)


def is_plain(config: ConfigDict) -> bool:
    """Whether the model sees whole images as they are, in one view."""
    return config.eval.mode == "whole" and tuple(config.eval.scales) == (1.0,) and not config.eval.flip


def window_and_stride(config: ConfigDict, multiple: int) -> Mapping[str, tuple[int, int]]:
    """`window` and `stride` in pixels; by default the training crop, made a multiple, and two thirds of that.

    Raises:
      UserError: a window that the model's maps do not fit, or a stride that leaves gaps.
    """
    window, stride = tuple(config.eval.window), tuple(config.eval.stride)
    if not window:
        window = tuple(-(-n // multiple) * multiple for n in config.data.crop)
    if any(n % multiple for n in window):
        fits = tuple(max(n // multiple, 1) * multiple for n in window)
        raise UserError(
            f"config.eval.window={window} must be multiples of {multiple}, which the model's maps divide: take {fits}"
        )
    if not stride:
        stride = tuple(max(2 * n // 3, 1) for n in window)
    if any(s > n for s, n in zip(stride, window)):
        raise UserError(
            f"config.eval.stride={stride} leaves gaps between windows of {window[0]} x {window[1]} pixels: give at "
            "most that"
        )
    return {"window": window, "stride": stride}


def windows_at_once(config: ConfigDict, window: tuple[int, int], devices: int = 1) -> int:
    """How many windows are computed at once, a multiple of the number of devices that share them.

    Where `config.eval.windows` is 0 each device has 8, a CPU as many of them as its caches take.
    """
    rows = config.eval.windows
    if not rows:
        fitting = max(_CPU_PIXELS // math.prod(window), 1) if target_platform() == "cpu" else _WINDOWS
        rows = min(fitting, _WINDOWS) * devices
    return -(-rows // devices) * devices


def _whole(model: nn.Module, variables: PyTree, *inputs: Array) -> Array:
    return class_logits(model.apply(variables, *inputs, train=False).logits)


def _viewed(
    model: nn.Module, options: Mapping, variables: PyTree, image: Array, *, decision: Decision, **views: Any
) -> Array:
    def in_windows(image: Array) -> Array:
        return decision.from_linear(slide(lambda x: decision.to_linear(whole(x)), image, **options))

    whole = partial(_whole, model, variables)
    return average_views(in_windows if options else whole, image, decision=decision, **views)
