"""Configs: reading flags, the resolved form, its file and its hash."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attnseg_jax.errors import UserError, nearest
from attnseg_jax.models.build import selected


def resolve(config: ConfigDict) -> dict[str, Any]:
    """The config as plain values, without the options of model parts it does not use."""
    resolved = config.to_dict()
    resolved["model"] = selected(resolved["model"])
    return resolved


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON text."""
    return json.dumps(resolve(config), indent=2, sort_keys=True) + "\n"


def config_hash(config: ConfigDict) -> str:
    """Eight hexadecimal digits that change with any resolved value."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()[:8]


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value


def load(workdir: str | Path) -> ConfigDict:
    """Reads the resolved config a run left in its workdir.

    Raises:
      UserError: there is none, or it is not JSON.
    """
    path = Path(workdir) / "config.json"
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: --workdir must be the workdir of a run of train.py") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON ({error}): restore it, or train again in another workdir") from None
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


def check_flags(argv: list[str], config: ConfigDict) -> None:
    """Raises UserError for a `--config.key=value` whose key is unknown, naming the nearest known one.

    Args:
      argv: command line.
      config: the config the keys are meant for.
    """
    for argument in argv:
        match = re.match(r"--?config\.([^=]+)", argument)
        if not match:
            continue
        node: Any = config
        path = "config"
        for key in match.group(1).split("."):
            if not isinstance(node, ConfigDict):
                raise UserError(f"{path}.{key} is unknown: {path} is a value, not a group")
            if key not in node:
                raise UserError(f"{path}.{key} is unknown: {nearest(key, node.keys())}")
            node, path = node[key], f"{path}.{key}"
        if isinstance(node, ConfigDict):
            raise UserError(f"{path} is a group: set one of its keys ({', '.join(node.keys())})")


def describe(config: ConfigDict, prefix: str = "config") -> str:
    """All keys and defaults, one a line, for `--help`."""
    lines = []
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            lines.append(describe(value, f"{prefix}.{key}"))
        else:
            lines.append(f"  --{prefix}.{key}={value!r}")
    return "\n".join(lines)
