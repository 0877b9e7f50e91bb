"""The configs of the project, wherever it is installed: `from attnseg_jax.configs import default`.

`default.py` has every key; the others are differences from it. They stand in `configs/` at the top of a checkout, and
a wheel carries them in this folder.
"""

from pathlib import Path

from attnseg_jax.errors import UserError, nearest

# A wheel was built with the files beside this one.
FOLDER = Path(__file__).parent
if not (FOLDER / "default.py").is_file():
    FOLDER = FOLDER.parents[1] / "configs"
    __path__.append(str(FOLDER))


def names() -> list[str]:
    """What `find` knows: 'camvid', 'compare/fcn', 'studies/reach' and so on."""
    files = (path.relative_to(FOLDER).with_suffix("") for path in FOLDER.rglob("[!_]*.py"))
    return sorted(path.as_posix() for path in files)


def find(given: str, flag: str = "--config") -> str:
    """The path of a config or study that is given by its path, or by the name of one of the project's own.

    Args:
      given: 'configs/camvid.py', 'camvid' or 'compare/fcn'; what follows a colon stays as it is.
      flag: where it is given, for messages.

    Raises:
      UserError: it is neither a Python file nor one of those names.
    """
    path, colon, argument = given.partition(":")
    if path.endswith(".py"):
        return given
    if path in names():
        return f"{FOLDER / path}.py{colon}{argument}"
    raise UserError(f"{flag}={given} is neither a file whose name ends in .py nor a name: {nearest(path, names())}")
