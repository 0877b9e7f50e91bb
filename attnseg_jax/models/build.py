"""From a config of names and options to a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from attnseg_jax.errors import UserError, check_known, nearest
from attnseg_jax.models.attention import ATTENTION, Attention, Stack
from attnseg_jax.models.backbones import BACKBONES
from attnseg_jax.models.decoders import DECODERS
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
# Filled by `build_model`, therefore not keys of a config.
_FILLED = ("parent", "name", "dtype", "num_classes")


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
    for part, table in PARTS.items():
        common = COMMON.get(part, {})
        config[part] = {"name": DEFAULTS[part], **common, **{name: options(module) for name, module in table.items()}}
    return config


def selected(config: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` part of a config without the options of parts that its names do not choose."""
    result = {key: config[key] for key in config if key not in PARTS}
    for part in PARTS:
        chosen = {"name", *COMMON.get(part, ()), *config[part]["name"].split("+")}
        result[part] = {key: config[part][key] for key in config[part] if key in chosen}
    return result


def _build_part(part: str, name: str, config: Mapping[str, Any], filled: dict[str, Any]) -> nn.Module:
    table = PARTS[part]
    check_known(f"config.model.{part}", table, name=name)
    module = table[name]
    # JSON has no tuples, and a module's fields must be hashable.
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in config.get(name, {}).items()}
    _check_keys(f"config.model.{part}.{name}", given, tuple(options(module)))
    if "impl" in given:
        check_impl(given["impl"], key=f"config.model.{part}.{name}.impl", dtype=filled["dtype"])
    fields = {f.name for f in dataclasses.fields(module)}
    return module(**given, **{key: value for key, value in filled.items() if key in fields})


def _check_keys(path: str, given: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{path}.{key} is unknown: {nearest(key, known)}")


def _build_segmenter(config: Mapping[str, Any], filled: dict[str, Any]) -> Segmenter:
    _check_keys("config.model", config, ("kind", *PARTS, *KINDS))
    parts = {}
    for part in PARTS:
        given = config.get(part, {})
        _check_keys(f"config.model.{part}", given, ("name", *COMMON.get(part, ()), *PARTS[part]))
        names = given.get("name", DEFAULTS[part])
        modules = [_build_part(part, name, given, filled) for name in names.split("+")]
        if len(modules) > 1 and part != "attention":
            raise UserError(f"config.model.{part}.name={names!r}: only attention mechanisms stack")
        parts[part] = modules[0] if len(modules) == 1 else Stack(tuple(modules))
    freeze = {part: config.get(part, {}).get("freeze", "none") for part in FREEZE}
    for part, known in FREEZE.items():
        check_known(f"config.model.{part}", known, freeze=freeze[part])
    align_corners = config.get("decoder", {}).get("align_corners", False)
    freeze_decoder = freeze["decoder"] == "all"
    return Segmenter(**parts, freeze=freeze["backbone"], freeze_decoder=freeze_decoder, align_corners=align_corners)


# Another kind of model is another entry; its options stand in a group of its name beside the segmenter's parts.
KINDS = {"segmenter": _build_segmenter}


def build_model(config: Mapping[str, Any], num_classes: int, *, dtype: Any = jnp.float32) -> nn.Module:
    """Builds the model a config names.

    Args:
      config: the `model` part of a config, or any mapping of its form; what is left out takes its default.
      num_classes: channels of the logits.
      dtype: compute type; parameters, normalisation, softmax and logits are float32 in any case.

    Returns:
      A linen module; `model.apply(variables, image, train=...)` returns an `Output`.

    Raises:
      UserError: an unknown kind, part or option; the message names the nearest known one.

    >>> model = build_model({"attention": {"name": "self", "self": {"heads": 4}}}, num_classes=7)
    >>> model.attention.heads
    4
    """
    kind = config.get("kind", "segmenter")
    check_known("config.model", KINDS, kind=kind)
    if num_classes < 2:
        raise UserError(f"num_classes={num_classes}: a segmentation needs at least 2 classes")
    return KINDS[kind](config, {"num_classes": num_classes, "dtype": jnp.dtype(dtype)})


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
