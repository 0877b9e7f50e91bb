"""The layouts of published weights: which table of name rules fits a file, and what it leaves open.

A layout is one line of `LAYOUTS` (weights of a backbone) or `MODELS` (of a whole model). All are tried, and the one is
taken that gives most of the model's names; no name of a file or of an architecture is compared.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from attnseg_jax.errors import UserError
from attnseg_jax.models.backbones import UNPUBLISHED
from attnseg_jax.weights.rename import Rules, flatten, from_torch, listed, match
from attnseg_jax.weights.rules.convnext import TORCHVISION_CONVNEXT
from attnseg_jax.weights.rules.efficientnet import EFFICIENTNET_LITE_PYTORCH, TIMM_EFFICIENTNET_LITE
from attnseg_jax.weights.rules.mit import TRANSFORMERS_SEGFORMER, TRANSFORMERS_SEGFORMER_SEGMENTATION
from attnseg_jax.weights.rules.mobilenet import TORCHVISION_MOBILENET_V3
from attnseg_jax.weights.rules.originals import EMANET_HEAD, OCRNET_HEAD, SEGMENTER, SEMSEG_PSPNET
from attnseg_jax.weights.rules.resnet import EMANET_RESNET_V1C, MMSEG_RESNET_V1C, RESNET, SEMSEG_RESNET_V1C
from attnseg_jax.weights.rules.smp import SMP_DEEPLABV3PLUS, SMP_FPN, SMP_UNET, SMP_UPERNET
from attnseg_jax.weights.rules.swin import TORCHVISION_SWIN
from attnseg_jax.weights.rules.torchvision import TORCHVISION_DEEPLABV3, TORCHVISION_FCN, TORCHVISION_LRASPP
from attnseg_jax.weights.rules.unet import LEEJUNHYUN_ATTUNET, LEEJUNHYUN_UNET
from attnseg_jax.weights.rules.vgg import TORCHVISION_VGG
from attnseg_jax.weights.rules.vit import TIMM_VIT, TRANSFORMERS_DINOV2, TRANSFORMERS_VIT

# Files of a backbone, with or without the classifier they were trained with.
LAYOUTS: dict[str, Rules] = {
    # timm's ResNets have the same names.
    "torchvision_resnet": RESNET,
    "mmseg_resnet_v1c": MMSEG_RESNET_V1C,
    "torchvision_vgg": TORCHVISION_VGG,
    "torchvision_mobilenet_v3": TORCHVISION_MOBILENET_V3,
    "torchvision_swin": TORCHVISION_SWIN,
    "torchvision_convnext": TORCHVISION_CONVNEXT,
    "timm_efficientnet_lite": TIMM_EFFICIENTNET_LITE,
    **{f"{name}_pytorch": rules for name, rules in EFFICIENTNET_LITE_PYTORCH.items()},
    "timm_vit": TIMM_VIT,
    "transformers_vit": TRANSFORMERS_VIT,
    "transformers_dinov2": TRANSFORMERS_DINOV2,
    "transformers_segformer": TRANSFORMERS_SEGFORMER,
}
# Files of a whole model.
MODELS: dict[str, Rules] = {
    "torchvision_fcn": TORCHVISION_FCN,
    "torchvision_deeplabv3": (*RESNET, *TORCHVISION_DEEPLABV3),
    "torchvision_lraspp": (*TORCHVISION_MOBILENET_V3, *TORCHVISION_LRASPP),
    "transformers_segformer_segmentation": TRANSFORMERS_SEGFORMER_SEGMENTATION,
    "segmenter": SEGMENTER,
    "leejunhyun_attunet": (*LEEJUNHYUN_UNET, (r"^conv\d_\d\.", r"backbone.\g<0>"), *LEEJUNHYUN_ATTUNET),
    # From here on the originals enlarge their logits with `config.model.decoder.align_corners=True`.
    "semseg_pspnet": (*SEMSEG_RESNET_V1C, *SEMSEG_PSPNET),
    "emanet": (*EMANET_RESNET_V1C, *EMANET_HEAD),
    # With torchvision's ResNet in `backbone.body`.
    "openseg_ocrnet_resnet": (
        *OCRNET_HEAD,
        (r"^backbone\.body\.", ""),
        *RESNET,
        (r"^(?!attention|decoder)", "backbone."),
    ),
    # segmentation_models_pytorch with a ResNet as encoder.
    "smp_fpn_resnet": (*RESNET, *SMP_FPN),
    "smp_unet_resnet": (*RESNET, *SMP_UNET),
    "smp_upernet_resnet": (*RESNET, *SMP_UPERNET),
    "smp_deeplabv3plus_resnet": (*RESNET, *SMP_DEEPLABV3PLUS),
}
# Files of this project: the names are `params.backbone. ...` and `batch_stats.backbone. ...`.
OWN = "attnseg_jax"
_COLLECTIONS = ("params.", "batch_stats.")


@dataclass(frozen=True)
class Fitted:
    """Weights in the form of a model.

    Attributes:
      layout: the name of the layout that fits.
      variables: `{'params': ..., 'batch_stats': ...}`, float32, of what is loaded and nothing else.
      unused: names of the file that the model has no place for.
      unfilled: names of the model that stay at their initialisation.
      adapted: names of the model whose arrays were made for another number of input channels.
    """

    layout: str
    variables: dict[str, Any]
    unused: tuple[str, ...]
    unfilled: tuple[str, ...]
    adapted: tuple[str, ...]


def fit(arrays: Mapping[str, np.ndarray], variables: Mapping[str, Any], *, part: str, num_classes: int = 0) -> Fitted:
    """The weights of a file for a model or its backbone.

    A first convolution for three input channels is adapted to another number (see `adapt_channels`). Of a whole model
    the arrays may stay open that differ from the file's in one length only, which is `num_classes` here and one and the
    same other number there: the classifiers, where the file's model knew other classes; and an attention mechanism of
    which the file has nothing. What a backbone has on request and no published one has (`backbones.UNPUBLISHED`) may
    stay open too.

    Args:
      arrays: names -> arrays, of any of the layouts; a `module.` before all names is dropped.
      variables: the whole model's (arrays or `jax.eval_shape`'s).
      part: `backbone` or `model`: what must be filled; a file of a whole model fills a backbone too.
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
    whole = dict(flatten({"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}))
    target = {name: x for name, x in whole.items() if part == "model" or _of("backbone", name)}
    layout, rules, given = _choose(arrays, target, part)
    outside = {name for name in given if part != "model" and not _of("backbone", name)}
    kept = {name: array for name, array in given.items() if name not in outside}
    adapted = sorted(_other_channels(kept, target))
    kept |= {name: adapt_channels(_float32(name, kept[name]), target[name].shape[2]) for name in adapted}
    other = _other_classes(kept, target, num_classes) if part == "model" else set()
    if not any(_of("attention", name) for name in kept):
        other |= {name for name in target if _of("attention", name)}
    other |= {name for name in target if name not in kept and UNPUBLISHED.fullmatch(name.split(".backbone.")[-1])}
    filled = {name: array for name, array in kept.items() if name not in other}
    try:
        match({name: x for name, x in target.items() if name not in other}, filled)
    except UserError as error:
        hint = "; for a backbone alone there is config.model.backbone.pretrained"
        hint = hint if part == "model" and layout in LAYOUTS else _hint(kept, target)
        raise UserError(f"read as {layout}, {error}{hint}") from None
    # Only now, when the file is known to hold no more than the model.
    filled = {name: _float32(name, array) for name, array in filled.items()}
    if broken := [name for name, array in filled.items() if not np.isfinite(array).all()]:
        raise UserError(f"not all numbers are finite in {listed(broken)}")
    return Fitted(
        layout,
        {"params": {}, "batch_stats": {}} | traverse_util.unflatten_dict(filled, sep="."),
        tuple(_unused(arrays, rules, outside)),
        tuple(name for name in whole if name not in filled),
        tuple(adapted),
    )


def _hint(given: Mapping[str, Any], target: Mapping[str, Any]) -> str:
    """The options of a vision transformer by which its weights `given` differ from the `target`'s, with their values.

    >>> _hint({"params.backbone.positions": np.ones((1, 1370, 3))}, {"params.backbone.positions": np.ones((1, 197, 3))})
    '; set config.model.backbone.vit_*.position_size=(37, 37)'
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
    # A row for every patch and one for the class token; published tables are square.
    if shape := differing("positions", (1,)):
        patches = shape[1] - 1
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


def _choose(arrays, target, part):
    """The layout that gives most of the target's names: its name, its rules, and the arrays under the names here."""
    if arrays and all(name.startswith(_COLLECTIONS) for name in arrays):
        return OWN, None, dict(arrays)
    tables = {**{name: (*rules, (r"^", "backbone.")) for name, rules in LAYOUTS.items()}, **MODELS}
    best, score = None, (0, 0)
    for name, rules in tables.items():
        try:
            given = dict(flatten(from_torch(arrays, rules)))
        except ValueError:
            # Made for other names.
            continue
        fitting = [n in target for n in given if part == "model" or _of("backbone", n)]
        if (sum(fitting), sum(fitting) - len(fitting)) > score:
            best, score = (name, rules, given), (sum(fitting), sum(fitting) - len(fitting))
    if best is None:
        raise UserError(
            f"its names ({listed(list(arrays))}) are in no known layout the model's ({listed(list(target))}); known "
            f"layouts: {', '.join(tables)}"
        )
    return best


def _other_channels(given, target):
    """Names of convolutions that see three channels there and another number here."""
    for name in given.keys() & target.keys():
        there, here = given[name].shape, target[name].shape
        if len(there) == len(here) == 4 and there[2] == 3 != here[2] and here == (*there[:2], here[2], there[3]):
            yield name


def _other_classes(given, target, num_classes):
    """Names of arrays that differ in the number of classes alone."""
    counts = {}
    for name in given.keys() & target.keys():
        there, here = given[name].shape, target[name].shape
        if there != here and len(there) == len(here):
            differing = [(m, n) for m, n in zip(there, here) if m != n]
            if len(differing) == 1 and differing[0][1] == num_classes:
                counts[name] = differing[0][0]
    return set(counts) if len({*counts.values()}) == 1 else set()


def _unused(arrays, rules, outside):
    """Names of the file that give nothing, or only names outside of what is filled."""
    for name, array in arrays.items():
        if rules is None:
            given = {name}
        elif name.endswith(".num_batches_tracked"):
            continue
        else:
            given = {n for n, _ in flatten(from_torch({name: array}, rules))}
        if given <= outside:
            yield name
