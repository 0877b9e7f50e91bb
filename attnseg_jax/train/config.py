"""Configs: reading flags, the resolved form, its file and its hash."""

import copy
import functools
import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attnseg_jax.data import regions, transforms
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.models.build import selected
from attnseg_jax.train import losses
from attnseg_jax.weights import catalogue


def resolve(config: ConfigDict) -> dict[str, Any]:
    """The config as plain values, without the options of model parts, losses and regions it does not use.

    What it leaves to the weights that it starts from has their values, see `weights.catalogue.apply`.
    """
    resolved = catalogue.apply(config).to_dict()
    resolved["model"] = selected(resolved["model"])
    resolved["data"]["regions"] = regions.selected(resolved["data"]["regions"])
    resolved["loss"] = losses.selected(resolved["loss"])
    return resolved


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON text; a value that JSON cannot hold raises UserError."""
    return _json(resolve(config))


def _json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, sort_keys=True, default=_refuse) + "\n"


def _refuse(value: Any) -> Any:
    raise UserError(f"the config holds {value!r}: only numbers, strings, booleans and tuples of them can be saved")


def config_hash(config: ConfigDict) -> str:
    """Eight hexadecimal digits that change with any resolved value.

    A key of `ADDED` that stands at its value there is left out, so that the hash of a config outlives new keys.
    """
    resolved = resolve(config)
    for key, value in ADDED.items():
        *groups, name = key.split(".")
        # A config has the parts of its own kind of model only.
        node = functools.reduce(lambda node, group: node.get(group, {}), groups, resolved)
        if name in node and node[name] == value:
            del node[name]
    # Where region maps are kept changes nothing.
    resolved["data"].get("regions", {}).pop("cache", None)
    return hashlib.sha256(_json(resolved).encode()).hexdigest()[:8]


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value


# Keys that configs did not always have, with the value that does what was done before them: a new key is entered here,
# so that older workdirs can still be evaluated and continued.
ADDED = {
    "data.custom": {},
    "data.regions": {"method": "none"},
    "data.regions.sample": 0,
    "data.resolution": 1.0,
    "data.transforms": ("scale_crop", "flip", "colour_jitter", "normalise_pad"),
    "eval.size_multiple": 1,
    "init_from": "",
    "loss.class_weight_power": 1.0,
    "loss.presence_weight": 0.2,
    "loss.scales": (),
    "model.attention.local.stride": 0,
    "model.backbone.freeze": "none",
    "model.backbone.pretrained": "",
    "model.decoder.align_corners": False,
    "model.decoder.freeze": "none",
    "model.decoder.segnet.classifier_size": 0,
    "model.decoder.segnet.relu": True,
}


def load(workdir: str | Path) -> ConfigDict:
    """Reads the resolved config a run left in its workdir; keys younger than the run get their value of `ADDED`.

    Raises:
      UserError: there is none, or it is not JSON.
    """
    path = Path(workdir) / "config.json"
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist: --workdir must be the workdir of a run of train.py") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}): restore it, or train again in another workdir") from None
    for key, value in ADDED.items():
        *groups, name = key.split(".")
        node = values
        for group in groups:
            node = node.get(group, {})
        node.setdefault(name, copy.deepcopy(value))
    return ConfigDict(_tuples(values)).lock()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "config") -> list[str]:
    """Lines `key: old -> new` for every value that differs.

    >>> differences({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}})
    ['config.b.c: 2 -> 3']
    """
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}.{key}")
        elif a != b:
            lines.append(f"{prefix}.{key}: {a} -> {b}")
    return lines


def check_flags(argv: Sequence[str], default: str) -> None:
    """Looks at a command line's `--config=FILE` and `--config.key=value` before they are parsed.

    Args:
      argv: the arguments.
      default: the file that stands for `--config` where it is not given.

    Raises:
      UserError: the file is missing or has no `get_config`; a key is unknown (names the nearest) or is a group; the
        file's keys are not those of the default.
    """
    given = [match.group(1) for a in argv if (match := re.match(r"--?config=(.*)", a))]
    config = read_file(default)
    if given:
        known, config = config, read_file(given[-1])
        _check_keys(config, known, f"--config={given[-1]}: config")
    for argument in argv:
        if match := re.match(r"--?config\.([^=]+)", argument):
            check_key(config, match.group(1))


def check_key(config: ConfigDict, key: str) -> None:
    """Raises UserError unless the dotted `key` names a value of `config`; an unknown one names the nearest."""
    node: Any = config
    path = "config"
    for name in key.split("."):
        if not isinstance(node, ConfigDict):
            raise UserError(f"{path}.{name} is unknown: {path} is a value, not a group")
        if name not in node:
            raise UserError(f"{path}.{name} is unknown: {nearest(name, node.keys())}")
        node, path = node[name], f"{path}.{name}"
    if isinstance(node, ConfigDict):
        raise UserError(f"{path} is a group: set one of its keys ({', '.join(node.keys())})")


def read_file(name: str) -> ConfigDict:
    """The config of a file as `--config=FILE` names it; what cannot be read raises UserError."""
    # ml_collections hands what follows a colon to get_config.
    path, _, argument = name.partition(":")
    config = call_in_file(f"--config={name}", path, "get_config", *([argument] if argument else []))
    if not isinstance(config, ConfigDict):
        raise UserError(f"--config={name}: get_config() must return an ml_collections.ConfigDict")
    return config


def call_in_file(what: str, path: str | Path, function: str, *arguments: str) -> Any:
    """What a function of a Python file returns; where it fails UserError names the reason and `what` asked for it."""
    if not Path(path).is_file():
        raise UserError(f"{what}: the file {path} does not exist")
    spec = importlib.util.spec_from_file_location(f"attnseg_jax_{function}", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, function)(*arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} cannot be read: {type(error).__name__}: {error}") from error


def _check_keys(config: ConfigDict, known: ConfigDict, path: str) -> None:
    for key in config:
        if key not in known:
            raise UserError(f"{path}.{key} is unknown: {nearest(key, known.keys())}")
    for key in known:
        if key not in config:
            raise UserError(f"{path}.{key} is missing: start from configs/default.py and change what differs")
        groups = isinstance(config[key], ConfigDict), isinstance(known[key], ConfigDict)
        if groups[0] != groups[1]:
            raise UserError(f"{path}.{key} must be {'a group' if groups[1] else 'a value, not a group'}")
        # The keys of a free group are those of parts from outside.
        if groups[0] and key != "custom":
            _check_keys(config[key], known[key], f"{path}.{key}")


def region_counts(config: ConfigDict) -> dict[str, int]:
    """How many regions an image has, as `build_model` takes it; nothing where the config asks for none."""
    given = config.data.regions
    return {"num_regions": given.count, "num_sampled": given.sample} if regions.used(given) else {}


def _numbers(value: Any, count: int, kind: Any = int | float) -> bool:
    return _all(value, kind) and len(value) == count


def _all(value: Any, kind: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(v, kind) and not isinstance(v, bool) for v in value)


def _colours(value: Any) -> bool:
    return _all(value, tuple) and all(_numbers(colour, 3, int) for colour in value)


def check_values(config: ConfigDict) -> None:
    """Raises UserError for a value that no part could work with; each part checks the names it knows itself."""
    data, train = config.data, config.train
    rules = [
        (
            "data.crop",
            _numbers(data.crop, 2, int) and min(data.crop) >= 8,
            "two integers (height, width) of at least 8",
        ),
        ("data.resolution", 0 < data.resolution < math.inf, "above 0 and finite"),
        ("data.scale", _numbers(data.scale, 2) and 0 < data.scale[0] <= data.scale[1], "two factors, low <= high"),
        ("data.mean", data.mean == () or _numbers(data.mean, 3), "three numbers, or ()"),
        ("data.std", data.std == () or (_numbers(data.std, 3) and min(data.std) > 0), "three numbers above 0, or ()"),
        ("data.classes", _all(data.classes, str) and len({*data.classes}) == len(data.classes), "names, each once"),
        ("data.palette", _colours(data.palette), "colours (red, green, blue)"),
        ("data.colors", _colours(data.colors), "colours (red, green, blue)"),
        ("data.ids", _all(data.ids, int), "whole numbers"),
        ("data.flip", 0 <= data.flip <= 1, "between 0 and 1"),
        ("data.max_class_share", 0 < data.max_class_share <= 1, "above 0 and at most 1"),
        ("data.hue", 0 <= data.hue <= 0.5, "between 0 and 0.5"),
        ("data.threads", data.threads >= 0, "at least 0"),
        ("loss.weights", _all(config.loss.weights, int | float), "numbers"),
        ("optimizer.lr_multipliers", _all(config.optimizer.lr_multipliers, str), "texts 'regex=factor'"),
        ("loss.label_smoothing", 0 <= config.loss.label_smoothing < 1, "at least 0 and below 1"),
        ("optimizer.ema_decay", 0 <= config.optimizer.ema_decay < 1, "at least 0 and below 1"),
        ("eval.batch_size", config.eval.batch_size >= 1, "at least 1"),
        ("eval.size_multiple", config.eval.size_multiple >= 1, "at least 1"),
        ("eval.samples", config.eval.samples >= 0, "at least 0"),
    ]
    rules += [
        (f"data.{key}", 0 <= data[key] <= 1, "between 0 and 1") for key in ("brightness", "contrast", "saturation")
    ]
    counts = ("steps", "batch_size", "accumulate", "log_every", "eval_every", "keep")
    rules += [(f"train.{key}", train[key] >= 1, "at least 1") for key in counts]
    for key, good, wanted in rules:
        if not good:
            group, name = key.split(".")
            raise UserError(f"config.{key}={config[group][name]} must be {wanted}")
    regions.check(data.regions)
    transforms.chosen(data)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"config.seed={config.seed} must be between 0 and {2**32 - 1}")
