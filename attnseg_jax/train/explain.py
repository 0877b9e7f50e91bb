"""What the keys of a config mean, for `--help`: comments of configs/default.py, docstrings of a model's parts."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError, nearest
from attnseg_jax.models.build import KINDS, PARTS
from attnseg_jax.models.regions.fast_rcnn import FastRCNN
from attnseg_jax.models.regions.rcnn import RCNN

_WIDTH = 100
# Options that several modules have with one meaning.
_COMMON = {"impl": "How attention is computed: 'auto', 'dense', 'chunked', 'cudnn' (GPUs) or 'splash' (TPUs)."}


def filled(text: str) -> str:
    """Text in lines that fit a screen, indented."""
    return textwrap.fill(text, _WIDTH, initial_indent="    ", subsequent_indent="    ")


def overview(config: ConfigDict) -> str:
    """The keys and groups of a config, for a help that fits a screen."""
    groups = {name: ", ".join(value.keys()) for name, value in config.items() if isinstance(value, ConfigDict)}
    single = ", ".join(name for name in config if name not in groups)
    return "\n".join(map(filled, [single, *(f"{name}: {keys}" for name, keys in groups.items())]))


def describe(config: ConfigDict, topic: str, file: Path) -> str:
    """The keys of a config below `topic`, such as 'train' or 'model.attention.self', with default and meaning.

    Args:
      config: the default one.
      topic: dotted; 'all' is every key.
      file: where `config` is made, with its comments.

    Raises:
      UserError: there is no such key.
    """
    values = flatten_dict(config.to_dict(), sep=".")
    chosen = [key for key in values if topic == "all" or f"{key}.".startswith(f"{topic}.")]
    if not chosen:
        known = [".".join(key.split(".")[:depth]) for key in values for depth in range(1, key.count(".") + 2)]
        raise UserError(f"--help={topic}: the config has no such key: {nearest(topic, dict.fromkeys(known))}")
    known = meanings(file)
    lines = []
    for key in chosen:
        lines.append(f"--config.{key}={values[key]!r}")
        if meaning := known.get(key) or _COMMON.get(key.rpartition(".")[2]):
            lines.append(filled(meaning))
    return "\n".join(lines)


def meanings(file: Path) -> dict[str, str]:
    """Key -> what it means, for the keys that are explained: in `file` and in the classes of the model's parts."""
    found = dict(_comments(file))
    groups: list[tuple[str, Any]] = [("model.rcnn", RCNN), ("model.fast_rcnn", FastRCNN)]
    groups += [(f"model.{part}.{name}", module) for part, table in PARTS.items() for name, module in table.items()]
    for group, module in groups:
        for option, text in _attributes(module).items():
            found.setdefault(f"{group}.{option}", text)
    found["model.kind"] = f"Form of the model: {', '.join(KINDS)}."
    for part, table in PARTS.items():
        found[f"model.{part}.name"] = f"One of {', '.join(table)}; or one of yours, 'my_package.my_file:Mine'."
    return found


def _comments(file: Path) -> Iterator[tuple[str, str]]:
    """The assignments to keys in `get_config` and the comment above each; keys that follow one another share it."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    function = next(node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef))
    groups, comment, end = {"config": ""}, "", 0
    for node in function.body:
        if isinstance(node, ast.Assign):
            path = next((_path(target, groups) for target in node.targets if isinstance(target, ast.Attribute)), "")
            groups |= {target.id: path for target in node.targets if isinstance(target, ast.Name) and path}
            above = []
            while lines[node.lineno - 2 - len(above)].strip().startswith("#"):
                above.append(lines[node.lineno - 2 - len(above)].strip("# "))
            if above or node.lineno > end + 1:
                comment = " ".join(reversed(above))
            if path and comment:
                yield path, comment
            end = node.end_lineno or 0


def _path(target: ast.expr, groups: dict[str, str]) -> str:
    if isinstance(target, ast.Attribute):
        return f"{_path(target.value, groups)}.{target.attr}".lstrip(".")
    return groups.get(getattr(target, "id", ""), "")


def _attributes(module: type) -> dict[str, str]:
    """The section `Attributes:` of a class's docstring and of those it inherits from."""
    found: dict[str, str] = {}
    for base in module.__mro__:
        documentation = inspect.cleandoc(base.__dict__.get("__doc__") or "")
        section = re.search(r"^Attributes\b.*:\n((?:  .*\n?)+)", documentation, re.MULTILINE)
        for names, text in re.findall(
            r"^  (\w[\w, ]*): (.+(?:\n    .+)*)", section[1] if section else "", re.MULTILINE
        ):
            for name in names.split(", "):
                found.setdefault(name, " ".join(text.split()))
    return found
