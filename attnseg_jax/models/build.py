"""From a config of names and options to a model."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict

from attnseg_jax import parts
from attnseg_jax.errors import UserError, check_known, nearest, option_path
from attnseg_jax.models.attention import ATTENTION, Attention, Stack
from attnseg_jax.models.backbones import BACKBONES
from attnseg_jax.models.backbones.base import Backbone
from attnseg_jax.models.decoders import DECODERS
from attnseg_jax.models.decoders.base import Decoder
from attnseg_jax.models.decoders.fcn import FCNHead
from attnseg_jax.models.freeze import FREEZE
from attnseg_jax.models.options import check_options, options
from attnseg_jax.models.regions.fast_rcnn import FastRCNN
from attnseg_jax.models.regions.rcnn import RCNN
from attnseg_jax.models.segmenter import Segmenter
from attnseg_jax.ops.attention import check_impl

PARTS: dict[str, Mapping[str, type[nn.Module]]] = {"backbone": BACKBONES, "attention": ATTENTION, "decoder": DECODERS}
BASES: dict[str, type[nn.Module]] = {"backbone": Backbone, "attention": Attention, "decoder": Decoder}
DEFAULTS = {"backbone": "tiny", "attention": "none", "decoder": "fcn"}
# Group of the options of a part from outside the package, which are not known beforehand.
CUSTOM = "custom"
# Keys of a part beside its name and the options of its modules. `pretrained` and `freeze` are the training's.
COMMON: dict[str, dict[str, Any]] = {
    "backbone": {"pretrained": "", "freeze": "none"},
    "attention": {},
    "decoder": {"freeze": "none", "align_corners": False, "aux": False, "aux_stride": 16},
}


@dataclass(frozen=True)
class Sizes:
    """What a model is built for, beside its config; as in `build_model`."""

    num_classes: int
    dtype: Any = jnp.float32
    num_regions: int = 0
    num_sampled: int = 0


@dataclass(frozen=True)
class Kind:
    """A line of `KINDS`.

    Attributes:
      build: from the `model` part of a config to a module.
      parts: that such a model has.
      options: of the model itself, and their defaults; they are keys of `config.model.KIND`.
      takes_regions: whether it classifies regions, which it then takes after the image.
    """

    build: Callable[[Mapping[str, Any], Sizes], nn.Module]
    parts: tuple[str, ...]
    options: Mapping[str, Any]
    takes_regions: bool = False


def build_segmenter(config: Mapping[str, Any], sizes: Sizes) -> Segmenter:
    """Backbone, attention and decoder, each by name, and where the config asks for one an auxiliary head."""
    chosen = {part: build_part(part, config.get(part, {}), sizes) for part in PARTS}
    decoder = {**COMMON["decoder"], **config.get("decoder", {})}
    return Segmenter(
        **chosen,
        aux_head=FCNHead(sizes.num_classes, dtype=sizes.dtype) if decoder["aux"] else None,
        aux_stride=decoder["aux_stride"],
        align_corners=decoder["align_corners"],
        paths=FrozenDict({part: _path(part, config.get(part, {})) for part in PARTS}, aux_head="config.model.decoder"),
    )


def _build_region_model(module: type[nn.Module], kind: str, config: Mapping[str, Any], sizes: Sizes) -> nn.Module:
    # What the kind has no use for is built all the same, so that a mistake in it is found.
    chosen = {part: build_part(part, config.get(part, {}), sizes) for part in PARTS}
    filled = dataclasses.asdict(sizes) | {
        "backbone": chosen["backbone"],
        "backbone_path": _path("backbone", config.get("backbone", {})),
    }
    return _build_module(module, f"config.model.{kind}", config.get(kind, {}), KINDS[kind].options, filled)


def _region_kind(name: str, module: type[nn.Module]) -> Kind:
    known = options(module, ("backbone", "backbone_path", "num_regions", "num_sampled"))
    return Kind(functools.partial(_build_region_model, module, name), ("backbone",), known, takes_regions=True)


# 'rcnn': a backbone that sees every region's window on its own; 'fast_rcnn': one whose deepest map is pooled over each.
KINDS: dict[str, Kind] = {
    "segmenter": Kind(build_segmenter, tuple(PARTS), {}),
    "rcnn": _region_kind("rcnn", RCNN),
    "fast_rcnn": _region_kind("fast_rcnn", FastRCNN),
}


def default_config() -> dict[str, Any]:
    """The `model` part of a config: every part's name and every option of every known part.

    >>> default_config()["attention"]["self"]["heads"]
    2
    """
    config: dict[str, Any] = {"kind": "segmenter"}
    config |= {name: dict(kind.options) for name, kind in KINDS.items() if kind.options}
    for part, table in PARTS.items():
        known = {name: options(module) for name, module in table.items()}
        config[part] = {"name": DEFAULTS[part], **COMMON[part], **known, CUSTOM: {}}
    return config


def selected(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` part of a config without what its kind and its names do not choose."""
    kind = config.get("kind", "segmenter")
    check_known("config.model", KINDS, kind=kind)
    result = {key: config[key] for key in config if key not in PARTS and (key not in KINDS or key == kind)}
    for part in KINDS[kind].parts:
        names = parts.split_names(f"config.model.{part}.name", config[part]["name"])
        chosen = {"name", *COMMON[part], *names} | ({CUSTOM} if any(map(parts.is_outside, names)) else set())
        result[part] = {key: config[part][key] for key in config[part] if key in chosen}
    return result


def build_model(
    config: Mapping[str, Any], num_classes: int, *, dtype: Any = jnp.float32, num_regions: int = 0, num_sampled: int = 0
) -> nn.Module:
    """Builds the model a config names.

    Args:
      config: the `model` part of a config, or any mapping of its form; what is left out takes its default. A name may
        be that of a part from outside, `package.module:Name`, whose options stand in the group `custom`.
      num_classes: channels of the logits; 1 for that of a sigmoid, which tells a class from the background.
      num_regions: of an image, `config.data.regions.count` where there are regions; 0 if there are none.
      num_sampled: of a training image, `config.data.regions.sample`; 0 if all are shown.

    Returns:
      A linen module; `model.apply(variables, image, train=...)` returns an `Output`. One that classifies regions takes
      them after the image: `model.apply(variables, image, regions, train=...)`.

    Raises:
      UserError: an unknown kind, part or option, for which the message names the nearest known one; an option out of
        its range; regions that the kind lacks, or has no use for.

    >>> model = build_model({"attention": {"name": "self", "self": {"heads": 4}}}, num_classes=7)
    >>> model.attention.heads
    4
    """
    kind = config.get("kind", "segmenter")
    check_known("config.model", KINDS, kind=kind)
    _check_keys("config.model", config, ("kind", *PARTS, *KINDS))
    if num_classes < 1:
        raise UserError(f"num_classes={num_classes}: a segmentation needs at least 1 class")
    for part, known in FREEZE.items():
        check_known(f"config.model.{part}", known, freeze=config.get(part, {}).get("freeze", "none"))
    _check_regions(kind, num_regions)
    return KINDS[kind].build(config, Sizes(num_classes, jnp.dtype(dtype), num_regions, num_sampled))


def build_part(part: str, config: Mapping[str, Any], sizes: Sizes) -> nn.Module:
    """Builds what one part of a `build_model` config names, several attention mechanisms as a `Stack`.

    Args:
      part: a key of `PARTS`.
      config: of that part.
      sizes: what the model is built for.

    Raises:
      UserError: an unknown name or option, an option out of its range.

    >>> build_part("attention", {"name": "self", "self": {"heads": 4}}, Sizes(num_classes=7)).heads
    4
    """
    _check_keys(f"config.model.{part}", config, ("name", *COMMON[part], *PARTS[part], CUSTOM))
    name = config.get("name", DEFAULTS[part])
    names = parts.split_names(f"config.model.{part}.name", name)
    if len(names) > 1 and part != "attention":
        raise UserError(f"config.model.{part}.name={name!r}: only attention mechanisms stack")
    filled = {"num_classes": sizes.num_classes, "dtype": sizes.dtype}
    modules = []
    for name in names:
        module = parts.resolve(PARTS[part], name, f"config.model.{part}.name")
        parts.check_subclass(module, BASES[part], f"config.model.{part}.name={name!r}")
        if part == "attention":
            parts.check_takes(module.attend, f"{module.__name__}.attend", None, None, train=False)
        group = _group(name)
        path = f"config.model.{part}.{group}"
        modules.append(_build_module(module, path, config.get(group, {}), options(module), filled))
    if len(modules) == 1:
        return modules[0]
    return Stack(parts=tuple(modules), paths=tuple(f"config.model.{part}.{_group(name)}" for name in names))


def build_attention(name: str, config: Mapping[str, Any], num_classes: int, *, dtype: Any = jnp.float32) -> Attention:
    """Builds one mechanism without a model around it; arguments and errors as of `build_part`."""
    return build_part("attention", {**config, "name": name}, Sizes(num_classes, jnp.dtype(dtype)))


def _group(name: str) -> str:
    return CUSTOM if parts.is_outside(name) else name


def _path(part: str, config: Mapping[str, Any]) -> str:
    """Where the options of a part stand; "" of a stack, whose parts know their own."""
    name = config.get("name", DEFAULTS[part])
    return "" if "+" in name else f"config.model.{part}.{_group(name)}"


def _build_module(
    module: type[nn.Module], path: str, given: Mapping[str, Any], known: Mapping[str, Any], filled: Mapping[str, Any]
) -> nn.Module:
    """A module with the options that a config gives under `path`, and those of its fields that are `filled`."""
    _check_keys(path, given, known)
    # JSON has no tuples, and a module's fields must be hashable.
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    fields = module.__dataclass_fields__
    built = module(**given, **{key: value for key, value in filled.items() if key in fields})
    with option_path(path):
        check_options(built)
        if "impl" in known:
            check_impl(built.impl, dtype=filled["dtype"])
    return built


def _check_keys(path: str, given: Mapping[str, Any], known: Collection[str]) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{path}.{key} is unknown: {nearest(key, known)}")


def parts_without_use(kind: str) -> str:
    """The parts that models of a kind do not have, in words; '' where they have all.

    >>> parts_without_use("rcnn")
    'attention and decoder'
    """
    return " and ".join(part for part in PARTS if part not in KINDS[kind].parts)


def takes_regions(kind: str) -> bool:
    """Whether models of a kind classify regions."""
    return KINDS[kind].takes_regions


def _check_regions(kind: str, num_regions: int) -> None:
    if takes_regions(kind) and num_regions < 1:
        raise UserError(
            f"config.model.kind={kind!r} classifies regions and there are none: set config.data.regions.method, such "
            "as 'felzenszwalb'"
        )
    if num_regions and not takes_regions(kind):
        raise UserError(
            f"config.model.kind={kind!r} has no use for regions: set config.data.regions.method='none', or choose a "
            f"kind that classifies them, such as {next(filter(takes_regions, KINDS))!r}"
        )
