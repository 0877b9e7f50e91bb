"""A config file of decisions: each a line, with its reason as a comment above it."""

import textwrap
from collections.abc import Sequence
from typing import Any

from attnseg_jax.data.doctor.findings import Finding
from attnseg_jax.data.doctor.proposal import Decision

_WIDTH = 120
_HEAD = '''"""{title}

    {command}

{summary}
Written by attnseg-doctor; every line is a decision that can be changed.
"""

from ml_collections import ConfigDict

from attnseg_jax.configs import default


def get_config() -> ConfigDict:
    """Returns the config."""
    config = default.get_config()
    with config.unlocked():
'''
_INDENT = " " * 8


def config_text(
    title: str, command: str, summary: str, decisions: Sequence[Decision], findings: Sequence[Finding]
) -> str:
    """The Python file.

    Args:
      title: its first line.
      command: that trains with it.
      summary: what was found, in a sentence or two.
      decisions: in the order of the lines.
      findings: those that are no mere notes are quoted at the end.
    """
    escaped = [part.replace("\\", "\\\\").replace('"', "'") for part in (title, command, summary)]
    paragraph = textwrap.fill(escaped[2], _WIDTH)
    lines = [_HEAD.format(title=escaped[0], command=escaped[1], summary=paragraph)]
    for decision in decisions:
        lines += [
            f"{_INDENT}# {line}\n" for line in textwrap.wrap(_sentence(decision.reason), _WIDTH - len(_INDENT) - 2)
        ]
        lines.append(_assignment(f"config.{decision.key}", decision.value))
    unsure = [finding for finding in findings if finding.level != "note"]
    if unsure:
        lines.append(f"{_INDENT}# Look at:\n")
        for finding in unsure:
            wrapped = textwrap.wrap(f"- {_sentence(finding.text)}", _WIDTH - len(_INDENT) - 2, subsequent_indent="  ")
            lines += [f"{_INDENT}# {line}\n" for line in wrapped]
    return "".join([*lines, "    return config\n"])


def _sentence(words: str) -> str:
    return words and words[0].upper() + words[1:] + ("" if words.endswith(".") else ".")


def _assignment(name: str, value: Any) -> str:
    """An assignment, a long tuple over several lines.

    >>> _assignment("config.data.crop", (8, 9)).strip()
    'config.data.crop = (8, 9)'
    """
    line = f"{_INDENT}{name} = {_literal(value)}\n"
    if len(line) <= _WIDTH + 1 or not isinstance(value, tuple):
        return line
    items = textwrap.wrap(
        ", ".join(_literal(item).replace(" ", "\0") for item in value) + ",", _WIDTH - len(_INDENT) - 4,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    body = "".join(f"{_INDENT}    {item}\n" for item in items).replace("\0", " ")
    return f"{_INDENT}{name} = (\n{body}{_INDENT})\n"


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        inner = ", ".join(map(_literal, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if isinstance(value, str):
        text = repr(value)
        return f'"{text[1:-1]}"' if text[0] == "'" and '"' not in text else text
    return repr(value)
