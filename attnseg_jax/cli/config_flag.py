"""The flag `--config` of the commands that train, or plan a training: a config by name or file, and its keys."""

import ast
import keyword
import sys
from collections.abc import Collection

from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from attnseg_jax import configs
from attnseg_jax.data import datasets
from attnseg_jax.errors import UserError
from attnseg_jax.files import expanded
from attnseg_jax.train import config as config_files
from attnseg_jax.train import explain

DEFAULT = str(config_files.DEFAULT)


def define_flag() -> None:
    """Defines it; `check` has to see the command line before it is parsed."""
    # Without a default: one would be read, and fail, while this line runs.
    config_flags.DEFINE_config_file(
        "config", None, "config, by name or file (default: default); --config.key=value sets one of its keys"
    )


def given() -> ConfigDict:
    """The config of the parsed command line; a folder of pictures without a source means the pictures in it."""
    config = flags.FLAGS.config
    if _means_folder(config, config_flags.get_override_values(flags.FLAGS["config"])):
        logging.info("config.data.dir is given without a source: its images and masks are read")
        config.data.source = "folder"
    return config


def keys(topic: str) -> str:
    """What `--help` says of configs; with a topic, `--help=TOPIC`, the keys below it."""
    config = config_files.read_file(DEFAULT)
    if topic:
        return explain.describe(config, topic, config_files.DEFAULT) + "\n"
    names = ", ".join(name for name in configs.names() if not name.startswith("studies/"))
    return (
        f"\nconfigs, in configs/ or by name:\n{explain.filled(names)}\n\n"
        f"keys of a config, set by --config.key=value:\n{explain.overview(config)}\n\n"
        "--help=train or --help=model.attention.self explains the keys of a group, --help=all every one\n"
    )


def check(argv: list[str]) -> list[str]:
    """The checked command line, with the path of the config: the default's where none is given."""
    if "--config" in argv[:-1]:
        # `--config FILE` is `--config=FILE`.
        at = argv.index("--config")
        argv = [*argv[:at], f"--config={argv[at + 1]}", *argv[at + 2 :]]
    given = [argument.partition("=")[2] for argument in argv if argument.startswith(("--config=", "-config="))]
    rest = [argument for argument in argv if not argument.startswith(("--config=", "-config="))]
    argv = [f"--config={configs.find(given[-1]) if given else DEFAULT}", *rest]
    config_files.check_flags(argv, DEFAULT)
    argv = _overrides(argv)
    # Where ml_collections looks for the keys that are set.
    sys.argv[1:] = argv
    return argv


def _overrides(argv: list[str]) -> list[str]:
    """Each key of the config once, with the last value given, written as ml_collections can read it.

    Of a tuple given twice it would join the values. It parses a key as Python, where `nonlocal` is a keyword.

    >>> _overrides(["--config.data.crop=(8, 9)", "--config.seed=1", "--config.data.crop", "(4, 5)"])
    ['--config.seed=1', '--config.data.crop=(4, 5)']
    >>> _overrides(["--config.model.attention.nonlocal.norm=False"])
    ["--config.model.attention['nonlocal'].norm=False"]
    """
    last: dict[str, str] = {}
    left = list(argv)
    while left:
        flag, equals, value = left.pop(0).partition("=")
        prefix, *names = flag.lstrip("-").split(".")
        if not (flag.startswith("-") and prefix == "config" and names):
            last[f"argument {len(left)}"] = flag + equals + value
            continue
        key = "".join(f"[{name!r}]" if keyword.iskeyword(name) else f".{name}" for name in names)
        if not equals and left and not left[0].startswith("--"):
            equals, value = "=", left.pop(0)
        last.pop(key, None)
        last[key] = f"--config{key}{equals}{_spelled_out('.'.join(names), value)}"
    return list(last.values())


def _spelled_out(key: str, value: str) -> str:
    """Several names, or a table, as a shell likes them, in the form that the flags read.

    Without it `a,b` would be one name, and of a dict only the keys would count.
    """
    if key in ("data.classes", "data.transforms", "hooks") and value and value[0] not in "([\"'":
        return str(tuple(name.strip() for name in value.split(",") if name.strip()))
    if key == "data.ids" and value.lstrip().startswith("{"):
        try:
            return str(tuple(ast.literal_eval(value).items()))
        except (ValueError, SyntaxError, AttributeError):
            hint = "write a table as '{0: 0, 255: 1}', raw id: train id"
            raise UserError(f"--config.{key}={value}: {hint}") from None
    return value


def _means_folder(config: ConfigDict, given: Collection[str]) -> bool:
    """Whether a config that names a folder of pictures and no source means the pictures in that folder.

    Args:
      config: not `filled` yet.
      given: keys, such as `data.dir`, that a user has set. A source or a data set among them says what is meant.

    Raises:
      UserError: there is no such folder.
    """
    data = config.data
    if "data.dir" not in given or not data.dir or {"data.source", "data.tfds_name"} & {*given}:
        return False
    if data.source != "tfds" or data.tfds_name or data.name != datasets.EMBEDDED or "data.name" in given:
        return False
    if not expanded(data.dir).is_dir():
        raise UserError(
            f"config.data.dir={data.dir}: there is no such folder; for the embedded pictures, kept there, set "
            "config.data.source='tfds'"
        )
    return True
