"""Names of a config -> parts: one of a table, or one from outside the package, written `package.module:Name`."""

import importlib
import inspect
import traceback
from collections.abc import Mapping
from typing import Any

from attnseg_jax.errors import UserError, nearest

# First names of the modules from outside the package that parts were taken from.
_OUTSIDE: set[str] = set()


def is_outside(name: str) -> bool:
    """Whether a name is that of a part from outside the package."""
    return ":" in name


def split_names(path: str, names: Any) -> list[str]:
    """The names that "+" joins in a key of a config, to which `path` leads; UserError for what is no text.

    >>> split_names("config.model.attention.name", "self+window")
    ['self', 'window']
    """
    if not isinstance(names, str):
        raise UserError(f"{path}={names!r} must be a name")
    return names.split("+")


def resolve(table: Mapping[str, Any], name: str, key: str) -> Any:
    """The part called `name`: an entry of `table`, or what `package.module:Name` names.

    Args:
      table: the parts of the package, by name; those that are better not imported before they are asked for by where
        they are, `attnseg_jax.package.module:Name`.
      name: of a part.
      key: where a config names it, for messages.

    Raises:
      UserError: the table has no such name (names the nearest), or there is no such module or nothing of that name in
        it.

    >>> resolve({"sum": sum}, "sum", "config.x.name") is sum
    True
    >>> resolve({}, "math:sqrt", "config.x.name")(9.0)
    3.0
    >>> resolve({"root": "math:sqrt"}, "root", "config.x.name")(9.0)
    3.0
    """
    if name in table and not isinstance(table[name], str):
        return table[name]
    name = table.get(name, name)
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"{key}={name!r} is unknown: {nearest(name, table)}")
    if not all(map(str.isidentifier, module_name.split("."))):
        raise UserError(f"{key}={name!r} names no module before the colon: write 'my_package.my_file:Mine'")
    # Before the import, which may itself go wrong in that module.
    _OUTSIDE.add(module_name.partition(".")[0])
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{key}={name!r}: the module {module_name!r} cannot be imported ({error}): install it, or put its folder "
            "on PYTHONPATH"
        ) from error
    except SyntaxError as error:
        raise UserError(f"{key}={name!r}: the module {module_name!r} cannot be imported: {error}") from error
    if not hasattr(module, attribute):
        names = [found for found in vars(module) if not found.startswith("_")]
        raise UserError(f"{key}={name!r}: {module_name} has no {attribute!r}: {nearest(attribute, names)}")
    return getattr(module, attribute)


def check_subclass(part: Any, base: type, named: str) -> None:
    """Raises UserError where a part is no subclass of the base that its kind has; `named` is its `key=name`."""
    if not (isinstance(part, type) and issubclass(part, base)):
        raise UserError(f"{named} must be a subclass of {base.__module__}.{base.__name__}")


def check_takes(function: Any, named: str, *args: Any, **options: Any) -> None:
    """Raises UserError where a part is no function that can be called so; `named` says which.

    >>> check_takes(lambda x: x, "Mine.attend", None, train=False)
    Traceback (most recent call last):
    attnseg_jax.errors.UserError: Mine.attend cannot be called as it will be: got an unexpected keyword argument 'train'
    """
    try:
        inspect.signature(function).bind(*args, **options)
    except TypeError as error:
        raise UserError(f"{named} cannot be called as it will be: {error}") from error


def outside_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Where in modules of parts from outside the package an error came through, the innermost last; [] for none."""
    own = _OUTSIDE - {__package__}
    return [
        traceback.FrameSummary(frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] in own
    ]
