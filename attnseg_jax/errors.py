"""The one error class for mistakes a user can mend."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from signal import SIGTERM
from typing import Any


class UserError(ValueError):
    """A mistake in a config, a file or a command; its message is one line that names the culprit and what to do."""


class OptionError(UserError):
    """A part's option that cannot be, raised by the part, which does not know where in a config it stands.

    Whoever does know puts the path in front, see `option_path`. Without one the message begins with the option.

    Attributes:
      field: name of the option; "" for the part as a whole.
      value: what it is set to, or the name of the part.
      hint: why that cannot be and what to do about it: the rest of the sentence.
      path: of the part in a config, such as `config.model.attention.local`.

    >>> raise OptionError("heads", 5, "does not divide 64 channels: choose a divisor")
    Traceback (most recent call last):
    attnseg_jax.errors.OptionError: heads=5 does not divide 64 channels: choose a divisor
    """

    def __init__(self, field: str, value: Any, hint: str, path: str = ""):
        where = ".".join(filter(None, [path, field]))
        super().__init__(f"{where}={value!r} {hint}" if field else f"{path or value} {hint}")
        self.field, self.value, self.hint, self.path = field, value, hint, path


@contextmanager
def option_path(path: str) -> Iterator[None]:
    """Puts `path` in front of the options that errors from within name, unless a path stands there already.

    >>> with option_path("config.model.attention.self"):
    ...     raise OptionError("heads", 5, "does not divide 64 channels: choose a divisor")
    Traceback (most recent call last):
    attnseg_jax.errors.OptionError: config.model.attention.self.heads=5 does not divide 64 channels: choose a divisor
    """
    try:
        yield
    except OptionError as error:
        if error.path or not path:
            raise
        raise OptionError(error.field, error.value, error.hint, path) from None


class UserErrors(UserError):
    """Several mistakes at once: a line that says how many, and one for each.

    >>> raise UserErrors("2 files cannot be read:", ["a.png: cut short", "b.png: no picture"])
    Traceback (most recent call last):
    attnseg_jax.errors.UserErrors: 2 files cannot be read:
      a.png: cut short
      b.png: no picture
    """

    def __init__(self, what: str, mistakes: Iterable[str]):
        super().__init__("\n  ".join([what, *(" ".join(line.split()) for line in mistakes)]))


class Stopped(Exception):
    """A run ended early because it was told to, with everything saved; the message says how to go on.

    Attributes:
      signal: number of the signal that told it.
    """

    def __init__(self, message: str, signal: int = SIGTERM):
        super().__init__(message)
        self.signal = signal


class NotFinite(UserError):
    """A model whose logits are not finite numbers; the message names step and image where these are known.

    Attributes:
      rows: of the batch that it was seen in.
    """

    def __init__(self, message: str, rows: Sequence[int] = ()):
        super().__init__(message)
        self.rows = tuple(rows)


def check_known(path: str, known: Iterable[str], **values: str) -> None:
    """Refuses values that are not among the `known` ones; `path` leads to their keys.

    >>> check_known("config.model.decoder.unet", ("smp", "leejunhyun"), form="leejunhyn")
    Traceback (most recent call last):
    attnseg_jax.errors.UserError: config.model.decoder.unet.form='leejunhyn' is unknown: did you mean 'leejunhyun'?
    """
    for key, value in values.items():
        if value not in known:
            raise UserError(f"{path}.{key}={value!r} is unknown: {nearest(value, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: the nearest known one, or the list of all.

    >>> nearest("slef", ["none", "self"])
    "did you mean 'self'?"
    >>> nearest("xyz", ["none", "self"])
    'known: none, self'
    """
    known = list(known)
    if not known:
        return "there are none"
    # A value of a config file can be anything.
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
