"""From a config of names and options to a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import UserError, check_known, nearest, option_path
from attnseg_jax.models.attention import ATTENTION, Attention, Stack
from attnseg_jax.models.backbones import BACKBONES
from attnseg_jax.models.decoders import DECODERS
from attnseg_jax.models.regions.fast_rcnn import FastRCNN
from attnseg_jax.models.regions.rcnn import RCNN
from attnseg_jax.models.segmenter import Segmenter
from attnseg_jax.ops.attention import check_impl

PARTS = {"backbone": BACKBONES, "attention": ATTENTION, "decoder": DECODERS}
DEFAULTS = {"backbone": "tiny", "attention": "self", "decoder": "fcn"}
# Keys of a part beside its name and the options of its modules. `pretrained` is the training loop's.
COMMON: dict[str, dict[str, Any]] = {
    "backbone": {"pretrained": "", "freeze": "none"},
    "decoder": {"align_corners": False, "freeze": "none"},
}
FREEZE = {"backbone": ("none", "bn", "all"), "decoder": ("none", "all")}
# What `config.model.kind` may be. A kind has those parts that are fields of its module; its other fields are keys of
# its own group.
KINDS: dict[str, type[nn.Module]] = {"segmenter": Segmenter, "rcnn": RCNN, "fast_rcnn": FastRCNN}
# Filled by `build_model`, therefore not keys of a module's group.
_FILLED = (
    "parent",
    "name",
    "dtype",
    "num_classes",
    "num_regions",
    "num_sampled",
    "freeze",
    "freeze_decoder",
    "align_corners",
    *PARTS,
)


def options(module: type[nn.Module]) -> dict[str, Any]:
    """The settable fields of a module and their defaults.

    >>> options(BACKBONES["tiny"])
    {'width': 64}
    """
    return {f.name: f.default for f in dataclasses.fields(module) if f.name not in _FILLED}


def default_config() -> dict[str, Any]:
    """The `model` part of a config: every part's name and every option of every known part.

    >>> default_config()["attention"]["self"]["heads"]
    2
    """
    config: dict[str, Any] = {"kind": "segmenter"}
    config |= {kind: group for kind, module in KINDS.items() if (group := options(module))}
    for part, table in PARTS.items():
        common = COMMON.get(part, {})
        config[part] = {"name": DEFAULTS[part], **common, **{name: options(module) for name, module in table.items()}}
    return config


def selected(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` part of a config without what its kind and its names do not choose."""
    kind = config.get("kind", "segmenter")
    check_known("config.model", KINDS, kind=kind)
    result = {key: config[key] for key in config if key not in PARTS and (key not in KINDS or key == kind)}
    for part in _parts(kind):
        chosen = {"name", *COMMON.get(part, ()), *config[part]["name"].split("+")}
        result[part] = {key: config[part][key] for key in config[part] if key in chosen}
    return result


def _parts(kind: str) -> list[str]:
    fields = {f.name for f in dataclasses.fields(KINDS[kind])}
    return [part for part in PARTS if part in fields]


def _build_part(part: str, name: str, config: Mapping[str, Any], filled: dict[str, Any]) -> nn.Module:
    check_known(f"config.model.{part}", PARTS[part], name=name)
    return _build_module(f"config.model.{part}.{name}", PARTS[part][name], config.get(name, {}), filled)


def _build_module(path: str, module: type[nn.Module], given: Mapping[str, Any], filled: dict[str, Any]) -> nn.Module:
    # JSON has no tuples, and a module's fields must be hashable.
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    _check_keys(path, given, tuple(options(module)))
    if "impl" in given:
        with option_path(path):
            check_impl(given["impl"], dtype=filled["dtype"])
    fields = {f.name for f in dataclasses.fields(module)}
    return module(**given, **{key: value for key, value in filled.items() if key in fields})


def _check_keys(path: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{path}.{key} is unknown: {nearest(key, known)}")


def build_model(
    config: Mapping[str, Any], num_classes: int, *, dtype: Any = jnp.float32, num_regions: int = 0, num_sampled: int = 0
) -> nn.Module:
    """Builds the model a config names.

    Args:
      config: the `model` part of a config, or any mapping of its form; what is left out takes its default.
      num_classes: channels of the logits.
      dtype: compute type; parameters, normalisation, softmax and logits are float32 in any case.
      num_regions: of an image, `config.data.regions.count` where there are regions; 0 if there are none.
      num_sampled: of a training image, `config.data.regions.sample`; 0 if all are shown.

    Returns:
      A linen module; `model.apply(variables, image, train=...)` returns an `Output`. One that classifies regions takes
      them after the image: `model.apply(variables, image, regions, train=...)`.

    Raises:
      UserError: an unknown kind, part or option, for which the message names the nearest known one; regions that the
        kind lacks, or has no use for.

    >>> model = build_model({"attention": {"name": "self", "self": {"heads": 4}}}, num_classes=7)
    >>> model.attention.heads
    4
    """
    kind = config.get("kind", "segmenter")
    check_known("config.model", KINDS, kind=kind)
    _check_keys("config.model", config, ("kind", *PARTS, *KINDS))
    if num_classes < 2:
        raise UserError(f"num_classes={num_classes}: a segmentation needs at least 2 classes")
    _check_regions(kind, num_regions)
    filled = {
        "num_classes": num_classes,
        "num_regions": num_regions,
        "num_sampled": num_sampled,
        "dtype": jnp.dtype(dtype),
    }
    # All of them, so that a mistake in one that the kind does not have is found too.
    parts = {part: _build_names(part, config.get(part, {}), filled) for part in PARTS}
    filled |= {
        **parts,
        "freeze": _freeze(config, "backbone"),
        "freeze_decoder": _freeze(config, "decoder") == "all",
        "align_corners": config.get("decoder", {}).get("align_corners", False),
    }
    return _build_module(f"config.model.{kind}", KINDS[kind], config.get(kind, {}), filled)


def frozen_parts(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The parts of the model no parameter of which learns."""
    kind = config.get("kind", "segmenter")
    return tuple(part for part in _parts(kind) if part in FREEZE and _freeze(config, part) == "all")


def _freeze(config: Mapping[str, Any], part: str) -> str:
    freeze = config.get(part, {}).get("freeze", "none")
    check_known(f"config.model.{part}", FREEZE[part], freeze=freeze)
    return freeze


def parts_without_use(kind: str) -> str:
    """The parts that models of a kind do not have, in words; '' where they have all.

    >>> parts_without_use("rcnn")
    'attention and decoder'
    """
    return " and ".join(part for part in PARTS if part not in _parts(kind))


def takes_regions(kind: str) -> bool:
    """Whether models of a kind classify regions."""
    return "num_regions" in {f.name for f in dataclasses.fields(KINDS[kind])}


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


def _build_names(part: str, given: Mapping[str, Any], filled: dict[str, Any]) -> nn.Module:
    _check_keys(f"config.model.{part}", given, ("name", *COMMON.get(part, ()), *PARTS[part]))
    names = given.get("name", DEFAULTS[part])
    modules = [_build_part(part, name, given, filled) for name in names.split("+")]
    if len(modules) > 1 and part != "attention":
        raise UserError(f"config.model.{part}.name={names!r}: only attention mechanisms stack")
    return modules[0] if len(modules) == 1 else Stack(tuple(modules))


def build_attention(name: str, config: Mapping[str, Any], num_classes: int, *, dtype: Any = jnp.float32) -> Attention:
    """Builds one mechanism without a model around it.

    Args:
      name: a key of `ATTENTION`.
      config: the `attention` part of a `build_model` config; its own `name` is not looked at.
      num_classes: of the data; for mechanisms that predict.
      dtype: compute type.

    Raises:
      UserError: an unknown name or option; the message names the nearest known one.

    >>> build_attention("self", {"self": {"heads": 4}}, num_classes=7).heads
    4
    """
    return _build_part("attention", name, config, {"num_classes": num_classes, "dtype": jnp.dtype(dtype)})
