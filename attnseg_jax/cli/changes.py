"""`--config.eval.KEY=VALUE` of the commands that read a run back, and how their pictures are resized."""

import ast
import re
from typing import Any

from absl import flags

from attnseg_jax.errors import UserError
from attnseg_jax.train import config as config_files
from attnseg_jax.weights.catalogue import at_path

# Keys beside those of `eval`: they change what the model sees of a picture, not what is scored.
_OF_DATA = ("data.shorter_side", "data.interpolation")


def define() -> None:
    """The flag and its help."""
    flags.DEFINE_multi_string(
        "config",
        [],
        "--config.eval.KEY=VALUE for the run's: mode=slide, flip=true ...; --config.data.shorter_side=512",
    )


def spelled_out(argv: list[str]) -> list[str]:
    """The command line, with `--config.eval.KEY=VALUE` as absl takes it, `--config=eval.KEY=VALUE`."""
    return [re.sub(r"^--?config\.", "--config=", argument) for argument in argv]


def given() -> dict[str, Any]:
    """The keys and values that the command line changes."""
    return dict(map(change, flags.FLAGS.config))


def given_with_file() -> tuple[dict[str, Any], str | None]:
    """The same of a command that takes `--config=FILE`, too, and the last such file."""
    texts = flags.FLAGS.config
    files = [text for text in texts if "=" not in text]
    return dict(change(text) for text in texts if "=" in text), files[-1] if files else None


def change(text: str) -> tuple[str, Any]:
    """The key and value of `eval.KEY=VALUE`, of the type that the key has.

    >>> change("eval.batch_size=3"), change("eval.scales=0.5,1"), change("eval.mode=slide")
    (('eval.batch_size', 3), ('eval.scales', (0.5, 1.0)), ('eval.mode', 'slide'))
    >>> change("eval.threshold=0.3"), change("data.shorter_side=512")
    (('eval.threshold', 0.3), ('data.shorter_side', 512))
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--config={text}: a run has its own config, of which --config.eval.KEY=VALUE changes a key")
    if not key.startswith("eval.") and key not in _OF_DATA:
        others = " and ".join(f"--config.{one}" for one in _OF_DATA)
        raise UserError(f"--config.{key}: only --config.eval.* can be changed, and {others}; the rest is the run's")
    config = config_files.read_file(str(config_files.DEFAULT))
    config_files.check_key(config, key)
    default = at_path(config, key)
    if isinstance(default, str):
        return key, value
    kinds = {bool: "true or false", int: "a whole number", float: "a number", tuple: "numbers such as 1,2"}
    kind = kinds[type(default)]
    try:
        found = ast.literal_eval(value.capitalize() if isinstance(default, bool) else value)
        found = found if not isinstance(default, tuple) or isinstance(found, tuple) else (found,)
        found = float(found) if isinstance(default, float) and type(found) is int else found
        if type(found) is not type(default):
            raise ValueError
        if isinstance(found, tuple):
            # Scales are no whole numbers, windows are.
            kinds = (int, float) if default and isinstance(default[0], float) else (int,)
            if not all(type(number) in kinds for number in found):
                raise ValueError
            found = tuple(map(kinds[-1], found))
    except (ValueError, SyntaxError, TypeError):
        raise UserError(f"--config.{text}: {value!r} is not {kind}") from None
    return key, found
