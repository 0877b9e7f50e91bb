"""The commands: each file is `python -m attnseg_jax.cli.NAME`, and `attnseg-NAME` where the package is installed."""

import importlib.util
import sys

# Of the extra `train`, in the order in which a command would miss them.
_NEEDED = (
    *("ml_collections", "optax", "orbax", "tensorflow_datasets", "grain"),
    *("PIL", "matplotlib", "tensorboardX", "tqdm", "scipy"),
)

_uncaught, _unraisable = sys.excepthook, sys.unraisablehook


def _one_line(kind, error, trace) -> None:
    """Ctrl-C while a command is imported, or after it has ended, is no fault either."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        _uncaught(kind, error, trace)


def _told_already(unraisable) -> None:
    """Leaves out what threads and coroutines of a save or a read that failed have to say when its error is known."""
    code = getattr(unraisable.object, "cr_code", None)
    if str(unraisable.exc_value) != "Event loop is closed" and not (code and "orbax" in code.co_filename):
        _unraisable(unraisable)


sys.excepthook, sys.unraisablehook = _one_line, _told_already

if _missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
    print(
        f"error: the commands need {', '.join(_missing)}: install attnseg_jax with the extra train, in a checkout "
        'pip install ".[train]"',
        file=sys.stderr,
    )
    sys.exit(2)
