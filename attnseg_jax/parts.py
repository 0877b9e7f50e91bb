"""Names of a config -> parts: one of a table, or one from outside the package, written `package.module:Name`."""

import importlib
from collections.abc import Mapping
from typing import Any

from attnseg_jax.errors import UserError, nearest


def is_outside(name: str) -> bool:
    """Whether a name is that of a part from outside the package."""
    return ":" in name


def resolve(table: Mapping[str, Any], name: str, key: str) -> Any:
    """The part called `name`: an entry of `table`, or what `package.module:Name` names.

    Args:
      table: the parts of the package, by name.
      name: of a part.
      key: where a config names it, for messages.

    Raises:
      UserError: the table has no such name (names the nearest), or there is no such module or nothing of that name in
        it.

    >>> resolve({"sum": sum}, "sum", "config.x.name") is sum
    True
    >>> resolve({}, "math:sqrt", "config.x.name")(9.0)
    3.0
    """
    if name in table:
        return table[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise UserError(f"{key}={name!r} is unknown: {nearest(name, table)}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"{key}={name!r}: the module {module_name!r} cannot be imported ({error}): install it, or put its folder "
            "on PYTHONPATH"
        ) from error
    if not hasattr(module, attribute):
        names = [found for found in vars(module) if not found.startswith("_")]
        raise UserError(f"{key}={name!r}: {module_name} has no {attribute!r}: {nearest(attribute, names)}")
    return getattr(module, attribute)
