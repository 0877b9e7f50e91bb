"""The weights of a file in the form of a model: which layout they have, what fits, what stays open."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from attnseg_jax.errors import UserError
from attnseg_jax.models.backbones import UNPUBLISHED
from attnseg_jax.ops.resize import resize
from attnseg_jax.weights.layouts import ENCODERS, HEADS, candidates, rules_of
from attnseg_jax.weights.rename import from_torch, listed, match

# The layout of this project's files: the names are `params.backbone. ...` and `batch_stats.backbone. ...`.
OWN = "attnseg_jax"
_COLLECTIONS = ("params.", "batch_stats.")
_PARTS = ("backbone", "attention", "decoder", "aux_head")
_POSITIONS = "params.backbone.positions"
# What a model does without where only its training used it.
_TRAINING = re.compile(r"(params|batch_stats)\.decoder\.boundary_head\.")


@dataclass(frozen=True)
class Fitted:
    """Weights in the form of a model.

    Attributes:
      layout: the name of their layout.
      variables: `{'params': ..., 'batch_stats': ...}`, float32, of what is loaded and nothing else.
      unused: names of the file that the model has no place for.
      unfilled: names of the model that stay at their initialisation.
      adapted: names of the model whose arrays were made for another number of input channels.
      resampled: names of the model's position tables that have another size in the file.
    """

    layout: str
    variables: dict[str, Any]
    unused: tuple[str, ...]
    unfilled: tuple[str, ...]
    adapted: tuple[str, ...]
    resampled: tuple[str, ...]


def fit(
    arrays: Mapping[str, np.ndarray],
    variables: Mapping[str, Any],
    *,
    part: str,
    backbone: nn.Module | None = None,
    layout: str = "",
    num_classes: int = 0,
) -> Fitted:
    """The weights of a file for a model or its backbone.

    A first convolution for three input channels is adapted to another number (see `adapt_channels`), and a square
    position table to the size of the backbone's (see `resample_positions`). Of a whole model the arrays may stay open
    that differ from the file's in one length only, which is the number of classes, `num_classes` here and one and the
    same other number there, or one more: the classifiers, where the file's model knew other classes ("no object" is one
    more); and an attention mechanism of which the file has nothing. What a backbone has on request and no published one
    has (`backbones.UNPUBLISHED`) may stay open too.

    Args:
      arrays: names -> arrays, in any layout; a `module.` before all names is dropped.
      variables: the whole model's (arrays or `jax.eval_shape`'s).
      part: `backbone` or `model`: what must be filled; a file of a whole model fills a backbone too.
      backbone: the model's, which names the layouts that it reads (`layouts`); None tries all.
      layout: of the arrays, where it is known; else the one is taken that gives most of the model's names.
      num_classes: of the model.

    Raises:
      UserError: no layout fits; names from both sides.

    >>> target = {"params": {"backbone": {"conv1": {"kernel": np.zeros((7, 7, 3, 64))}}}, "batch_stats": {}}
    >>> fitted = fit({"conv1.weight": np.ones((64, 3, 7, 7)), "fc.bias": np.ones(10)}, target, part="backbone")
    >>> fitted.layout, fitted.variables["params"]["backbone"]["conv1"]["kernel"].shape, fitted.unused
    ('torchvision_resnet', (7, 7, 3, 64), ('fc.bias',))
    """
    if all(name.startswith("module.") for name in arrays):
        arrays = {name.removeprefix("module."): array for name, array in arrays.items()}
    whole = flatten_dict({"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}, sep=".")
    target = {name: x for name, x in whole.items() if part == "model" or _of("backbone", name)}
    read = ENCODERS if backbone is None else getattr(backbone, "layouts", ())
    layout, given = _choose(arrays, target, part, [layout] if layout else candidates(arrays, read))
    outside = {name for name in given if part != "model" and not _of("backbone", name)}
    outside |= {name for name in given if name not in target and _TRAINING.match(name)}
    kept = {name: array for name, array in given.items() if name not in outside}
    kept |= {name: kept[name].reshape(target[name].shape) for name in _in_rows(kept, target)}
    adapted = sorted(_other_channels(kept, target))
    kept |= {name: adapt_channels(_float32(name, kept[name]), target[name].shape[2]) for name in adapted}
    resampled = [_POSITIONS] if _other_grid(kept, target, backbone) else []
    kept |= {name: resample_positions(_float32(name, kept[name]), backbone) for name in resampled}
    other = _other_classes(kept, target, num_classes) if part == "model" else set()
    if not any(_of("attention", name) for name in kept):
        other |= {name for name in target if _of("attention", name)}
    other |= {name for name in target if name not in kept and UNPUBLISHED.fullmatch(name.split(".backbone.")[-1])}
    filled = {name: array for name, array in kept.items() if name not in other}
    try:
        match({name: x for name, x in target.items() if name not in other}, filled)
    except UserError as error:
        hint = "; for a backbone alone there is config.model.backbone.pretrained"
        hint = hint if part == "model" and layout in ENCODERS else _hint(kept, target, _class_rows(backbone))
        raise UserError(f"read as {layout}, {error}{hint}") from None
    # Only now, when the file is known to hold no more than the model.
    filled = {name: _float32(name, array) for name, array in filled.items()}
    if broken := [name for name, array in filled.items() if not np.isfinite(array).all()]:
        raise UserError(f"not all numbers are finite in {listed(broken)}")
    return Fitted(
        layout,
        {"params": {}, "batch_stats": {}} | unflatten_dict(filled, sep="."),
        tuple(_unused(arrays, layout, outside)),
        tuple(name for name in whole if name not in filled),
        tuple(adapted),
        tuple(resampled),
    )


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A first convolution's kernel `[kh, kw, 3, o]` for images of another number of channels.

    For one channel the three are summed, so that a grey image gives what it gave as three equal channels; for more they
    are repeated in order, cut, and multiplied by `3 / channels`, which keeps the size of the sum. As in timm's
    `adapt_input_conv`.

    >>> adapt_channels(np.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1), 4).ravel()
    array([0.75, 1.5 , 2.25, 0.75])
    """
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    repeated = np.concatenate([kernel] * -(-channels // 3), 2)[:, :, :channels]
    return repeated * np.float32(3 / channels)


def resample_positions(table: np.ndarray, backbone: nn.Module) -> np.ndarray:
    """A position table `[1, 1 + n * n, c]` of a square grid for the grid of `backbone`, `position_size`.

    The class token's row stays, where it has one. The grid is resampled as the backbone does for images of another
    size, by its `position_resize` and `position_antialias`.
    """
    own = _class_rows(backbone)
    side, channels = math.isqrt(table.shape[1] - own), table.shape[-1]
    patches = resize(
        jnp.asarray(table[:, own:].reshape(1, side, side, channels)),
        tuple(backbone.position_size),
        backbone.position_resize,
        antialias=backbone.position_antialias,
    )
    return np.concatenate([table[:, :own], np.asarray(patches).reshape(1, -1, channels)], axis=1)


def _class_rows(backbone: nn.Module | None) -> int:
    """Rows of a position table that belong to no patch."""
    return int(getattr(backbone, "class_position", True))


def _hint(given: Mapping[str, Any], target: Mapping[str, Any], own: int = 1) -> str:
    """The options of a vision transformer by which its weights `given` differ from the `target`'s, with their values.

    >>> _hint({"params.backbone.positions": np.ones((1, 25, 3))}, {"params.backbone.positions": np.ones((1, 197, 3))})
    '; set config.model.backbone.vit_*.position_size=(h, w) with h * w = 24'
    """

    def differing(name: str, axes: tuple[int, ...]) -> tuple[int, ...] | None:
        """The file's shape where it differs from the model's along these axes alone."""
        name = f"params.backbone.{name}"
        if name not in given or name not in target:
            return None
        there, here = given[name].shape, target[name].shape
        unlike = {axis for axis, (m, n) in enumerate(zip(there, here)) if m != n}
        return there if len(there) == len(here) and unlike and unlike <= {*axes} else None

    options = []
    if shape := differing("patch_embed.kernel", (0, 1)):
        options.append(f"patch_size={shape[0]}")
    if shape := differing("register_tokens", (1,)):
        options.append(f"registers={shape[1]}")
    # A row for every patch and `own` for the class token; published tables are square.
    if shape := differing("positions", (1,)):
        patches = shape[1] - own
        side = math.isqrt(patches)
        options.append(f"position_size={(side, side) if side**2 == patches else f'(h, w) with h * w = {patches}'}")
    both_vit = all("params.backbone.class_token" in names for names in (given, target))
    scaled_there, scaled_here = (any(name.endswith(".layer_scale1") for name in names) for names in (given, target))
    if both_vit and scaled_there != scaled_here:
        options.append(f"layer_scale={1e-5 if scaled_there else 0}")
    return f"; set config.model.backbone.vit_*.{', .'.join(options)}" if options else ""


def _of(part: str, name: str) -> bool:
    return name.split(".")[1] == part


def _float32(name, array):
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, jnp.bool_)):
        raise UserError(f"{name} holds {array.dtype} and no real numbers")
    return np.asarray(array, np.float32)


def _choose(arrays, target, part, layouts):
    """The layout of `layouts` that gives most of the target's names, and the arrays under the names here."""
    if arrays and all(name.startswith(_COLLECTIONS) for name in arrays):
        return OWN, dict(arrays)
    best, score = None, (0, 0, -math.inf)
    for layout in layouts:
        try:
            given = flatten_dict(from_torch(arrays, rules_of(layout)), sep=".")
        except ValueError:
            # Made for other names.
            continue
        fitting = [n in target for n in given if part == "model" or _of("backbone", n)]
        # Last, where a file of a whole model fills a backbone: that the other names are those of a model too.
        foreign = sum(name.split(".")[1] not in _PARTS for name in given)
        found = (sum(fitting), sum(fitting) - len(fitting), -foreign)
        if fitting and found > score:
            best, score = (layout, given), found
    if best is None:
        raise UserError(
            f"its names ({listed(list(arrays), 4)}) are in no known layout the model's ({listed(list(target), 4)}); "
            f"known layouts: {', '.join(ENCODERS)}; and of whole models: {', '.join(HEADS)}"
        )
    return best


def _in_rows(given, target):
    """Names of kernels of planes, `[h * w, c, 1, 1]` there and `[h, w, c]` here (the attention `psa`)."""
    for name in given.keys() & target.keys():
        there, here = given[name].shape, target[name].shape
        if name.endswith(".planes") and len(here) == 3 and there == (here[0] * here[1], here[2], 1, 1):
            yield name


def _other_channels(given, target):
    """Names of convolutions that see three channels there and another number here."""
    for name in given.keys() & target.keys():
        there, here = given[name].shape, target[name].shape
        if len(there) == len(here) == 4 and there[2] == 3 != here[2] and here == (*there[:2], here[2], there[3]):
            yield name


def _other_grid(given, target, backbone):
    """Whether the position table there is square and of another size than the one here."""
    if _POSITIONS not in given or _POSITIONS not in target or not hasattr(backbone, "position_size"):
        return False
    there, here = given[_POSITIONS].shape, target[_POSITIONS].shape
    if len(there) != 3 or (there[0], there[2]) != (here[0], here[2]) or there[1] < 2:
        return False
    patches = there[1] - _class_rows(backbone)
    return there[1] != here[1] and math.isqrt(patches) ** 2 == patches


def _other_classes(given, target, num_classes):
    """Names of arrays that differ in the number of classes alone."""
    counts = {}
    for name in given.keys() & target.keys():
        there, here = given[name].shape, target[name].shape
        if there != here and len(there) == len(here):
            differing = [(m, n) for m, n in zip(there, here) if m != n]
            if len(differing) == 1 and (more := differing[0][1] - num_classes) in (0, 1):
                counts[name] = differing[0][0] - more
    return set(counts) if len({*counts.values()}) == 1 else set()


def _unused(arrays, layout, outside):
    """Names of the file that give nothing, or only names outside of what is filled."""
    for name, array in arrays.items():
        if layout == OWN:
            given = {name}
        elif name.endswith(".num_batches_tracked"):
            continue
        else:
            given = {*flatten_dict(from_torch({name: array}, rules_of(layout)), sep=".")}
        if given <= outside:
            yield name
