"""Configs: reading flags, the resolved form, its file and its hash."""

import functools
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from attnseg_jax.configs import FOLDER
from attnseg_jax.data import datasets, regions
from attnseg_jax.errors import UserError, nearest
from attnseg_jax.models.build import selected
from attnseg_jax.parts import is_outside, split_names
from attnseg_jax.train import ranges
from attnseg_jax.weights import catalogue

# Name of the groups that may hold any keys: the options of a part from outside the package.
FREE = "custom"
DEFAULT = FOLDER / "default.py"

# Raise this number when a default changes or when a key changes its name or meaning, and add to `MIGRATIONS`, under the
# old number, a function that updates the values of an old `config.json`. A new key whose default does what was done
# before needs neither.
SCHEMA = 2


def _unpadded(values: dict[str, Any]) -> None:
    """Schema 1 padded no image unless it was asked to."""
    values.setdefault("eval", {}).setdefault("size_multiple", 1)


MIGRATIONS: dict[int, Callable[[dict[str, Any]], None]] = {1: _unpadded}

# Keys that cannot change the result of a run: its hash leaves them out.
UNHASHED = (
    "parallel",
    "sharding",
    "remat",
    "distributed",
    "hooks",
    "data.dir",
    "data.max_pixels",
    "data.threads",
    "data.check",
    "data.regions.cache",
    "train.log_every",
    "train.keep",
    "train.max_minutes",
    "train.profile",
    "eval.batch_size",
    "eval.windows",
    "eval.samples",
    "eval.worst",
)


def filled(config: ConfigDict) -> ConfigDict:
    """A copy that says what the config leaves to the weights that it starts from and to the folder of its pictures.

    See `weights.catalogue.apply` and `data.datasets.of_folder`.
    """
    return catalogue.apply(with_folder(config))


def with_folder(config: ConfigDict) -> ConfigDict:
    """A copy with what the folder of its pictures says of them, see `data.datasets.of_folder`."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        datasets.of_folder(config.data)
    return config


def resolve(config: ConfigDict) -> dict[str, Any]:
    """The config as plain values, without the options of parts, losses and regions that it does not use.

    What it leaves to others is `filled`.
    """
    resolved = filled(config).to_dict()
    resolved["model"] = selected(resolved["model"])
    regions_, loss, objective = resolved["data"]["regions"], resolved["loss"], resolved["objective"]
    resolved["data"]["regions"] = _chosen("data.regions.method", regions_, regions_["method"])
    resolved["loss"] = _chosen("loss.name", loss, loss["name"])
    resolved["objective"] = _chosen("objective.name", objective, objective["name"])
    return resolved


def _chosen(key: str, group: dict[str, Any], names: str) -> dict[str, Any]:
    """A group without those of its groups that `names`, joined by '+', do not choose."""
    used = {FREE if is_outside(name) else name for name in split_names(f"config.{key}", names)}
    return {key: value for key, value in group.items() if not isinstance(value, dict) or key in used}


def to_json(config: ConfigDict) -> str:
    """The resolved config and its `schema` as JSON text; a value that JSON cannot hold raises UserError."""
    return _json({"schema": SCHEMA, **resolve(config)}, indent=2) + "\n"


def _json(values: dict[str, Any], **layout: Any) -> str:
    return json.dumps(values, sort_keys=True, default=_refuse, **layout)


def _refuse(value: Any) -> Any:
    raise UserError(f"the config holds {value!r}: only numbers, strings, booleans and tuples of them can be saved")


def config_hash(config: ConfigDict) -> str:
    """Eight hexadecimal digits that change with any value that can change the result.

    They are those of the resolved config's differences from the defaults, so that it outlives new keys.
    """
    defaults = flatten_dict(_defaults(), sep=".")
    values = flatten_dict(resolve(config), sep=".")
    # The folder of a data set without a name is what says which it is.
    left_out = {*UNHASHED} - (set() if values["data.name"] else {"data.dir"})
    changed = {
        key: value
        for key, value in values.items()
        if key not in left_out and not (key in defaults and defaults[key] == value)
    }
    return hashlib.sha256(_json({"schema": SCHEMA, **changed}).encode()).hexdigest()[:8]


@functools.cache
def _defaults() -> dict[str, Any]:
    return read_file(str(DEFAULT)).to_dict()


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value


def load(workdir: str | Path) -> ConfigDict:
    """Reads the config a run left in its workdir; what the file lacks has its default.

    Raises:
      UserError: there is none, it is not JSON, or this version does not know its schema.
    """
    path = Path(workdir) / "config.json"
    try:
        values = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist: --workdir must be the workdir of a run of train.py") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError as error:
        # UnicodeDecodeError too.
        raise UserError(f"{path} is not JSON ({error}): restore it, or train again in another workdir") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is no JSON object: restore it, or train again in another workdir")
    schema = values.pop("schema", 0)
    while schema != SCHEMA:
        if not isinstance(schema, int) or schema not in MIGRATIONS:
            raise UserError(
                f"{path} has schema {schema}, and this version reads {', '.join(map(str, [*MIGRATIONS, SCHEMA]))}: "
                "use the version that it was trained with"
            )
        MIGRATIONS[schema](values)
        schema += 1
    try:
        return ConfigDict(_merged(_defaults(), _tuples(values))).lock()
    except UserError as error:
        raise UserError(f"{path}: {error}: restore it, or train again in another workdir") from None


def _merged(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = {key: _merged(value, {}) if isinstance(value, dict) else value for key, value in defaults.items()}
    for key, value in values.items():
        if key in merged and isinstance(merged[key], dict) != isinstance(value, dict):
            raise UserError(f"the group {key!r} of the config is none, or a value is one")
        merged[key] = _merged(merged.get(key, {}), value) if isinstance(value, dict) else value
    return merged


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
            hint = f"{path}.{name} is unknown: {nearest(name, node.keys())}"
            if path.rpartition(".")[2] == FREE:
                hint = f"{path}.{name} is unknown: set options of a part of yours in a config file"
            raise UserError(hint)
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


def published(name: str) -> ConfigDict:
    """The config of a whole model of the catalogue, with its data set and what its weights decide."""
    return filled(read_file(f"{FOLDER / 'published.py'}:{name}"))


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
        if groups[0] and key != FREE:
            _check_keys(config[key], known[key], f"{path}.{key}")


def apply_changes(config: ConfigDict, changes: Mapping[str, Any]) -> None:
    """Sets keys of a run's config, such as `eval.mode`, to other values; whole images need none of a run's windows."""
    changes = dict(changes)
    if changes.get("eval.mode") == "whole":
        changes = {"eval.window": (), "eval.stride": ()} | changes
    config.update_from_flattened_dict(changes)
    check_values(config)


def region_counts(config: ConfigDict) -> dict[str, int]:
    """How many regions an image has, as `build_model` takes it; nothing where the config asks for none."""
    given = config.data.regions
    return {"num_regions": given.count, "num_sampled": given.sample} if regions.used(given) else {}


def check_values(config: ConfigDict) -> None:
    """Raises UserError for a value that no part could work with; each part checks the names it knows itself."""
    ranges.check(config, flatten_dict(_defaults(), sep="."))
