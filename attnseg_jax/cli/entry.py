"""How every command starts: flags, help, logging, and one clear line for a user's mistake."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from logging import WARNING, LogRecord
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from attnseg_jax.cli import compiled
from attnseg_jax.errors import Stopped, UserError, UserErrors, nearest
from attnseg_jax.parts import outside_frames
from attnseg_jax.train import processes

_HELP = ("--help", "-h", "-help", "--helpfull")
_PACKAGE = Path(__file__).parents[1]


def run(
    action: Callable[[], Any],
    define_flags: Callable[[], Any],
    *,
    usage: str,
    check: Callable[[list[str]], list[str]] = lambda argv: argv,
    more_help: Callable[[str], str] | None = None,
) -> None:
    """Parses the command line, runs `action` and exits with 0, or with one line on stderr and another code.

    2 and `error: ...` for a `UserError` or, after the lines of the part that it came through, for an error in a part
    from outside the package; `stopped ...` and 143 after SIGTERM, 130 after an interrupt from the keyboard (SIGINT).

    Args:
      action: takes nothing; flags are parsed when it is called.
      define_flags: defines the command's own flags, which `--help` explains. It is called here, not on import, where
        they would meet those of another command.
      usage: first part of `--help`.
      check: looks at the arguments before they are parsed, may add to them, and raises `UserError`.
      more_help: of the topic in `--help=TOPIC` that is all to print; of "", what `--help` ends with.
    """
    others = set(flags.FLAGS)
    define_flags()
    compiled.define_flag()
    own = [name for name in flags.FLAGS if name not in others]

    def parse(argv: list[str]) -> list[str]:
        asked = [argument.partition("=") for argument in argv[1:] if argument.partition("=")[0] in _HELP]
        if asked:
            topic = asked[0][2] if more_help else ""
            text = _guarded(lambda: more_help(topic)) if more_help else ""
            if not topic:
                # absl's own page lists the flags of every imported package.
                own_flags = "".join(f"  --{name}: {flags.FLAGS[name].help}\n" for name in own)
                text = f"{usage.strip()}\n\nflags:\n{own_flags}{text}"
            try:
                print(text, end="", flush=True)
            except BrokenPipeError:
                # `| head` has closed the pipe, into which Python would write the rest at its end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        return _guarded(lambda: _parse([argv[0], *check(argv[1:])]))

    def start(argv: list[str]) -> None:
        logging.set_verbosity(logging.INFO)
        logging.get_absl_handler().addFilter(_ours)
        # What a save that failed has left undone, which its error says.
        warnings.filterwarnings("ignore", r"coroutine 'async_serialize\S* was never awaited", RuntimeWarning)
        with processes.leaving_together():
            _guarded(lambda: run_main(argv[1:]))

    def run_main(rest: list[str]) -> None:
        if rest:
            raise UserError(f"unexpected argument {rest[0]!r}: flags are written --name=value")
        compiled.keep_programs()
        with processes.failing_together():
            action()

    app.run(start, flags_parser=parse)


def _ours(record: LogRecord) -> bool:
    """Keeps our lines and the warnings of libraries, which are talkative below that.

    What fails in a thread of Orbax is raised again where it is waited for, which asyncio does not know.
    """
    if Path(record.pathname).is_relative_to(_PACKAGE):
        return True
    told_again = record.exc_info and ("orbax" in record.pathname or record.name == "asyncio")
    return record.levelno >= WARNING and not told_again


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        hint = nearest(error.flagname, [name for name in flags.FLAGS if not name.startswith("config.")])
        raise UserError(f"unknown flag --{error.flagname}: {hint if 'mean' in hint else 'see --help'}") from None
    except (flags.Error, TypeError, ValueError) as error:
        raise UserError(" ".join(str(error).split())) from None


def _guarded(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except UserError as error:
        message = str(error) if isinstance(error, UserErrors) else " ".join(str(error).split())
        print("error:", processes.naming_process(message), file=sys.stderr)
        sys.exit(2)
    except Stopped as stop:
        print("stopped", stop, file=sys.stderr)
        sys.exit(128 + stop.signal)
    except KeyboardInterrupt:
        print(processes.naming_process("interrupted"), file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not (frames := outside_frames(error)):
            raise
        # The part's own lines, and none of what lies between them.
        print("".join(traceback.format_list(frames)), end="", file=sys.stderr)
        message = " ".join(str(error).split())
        last = frames[-1]
        print(
            f"error: {last.filename}:{last.lineno}, in {last.name}: {type(error).__name__}: {message}", file=sys.stderr
        )
        sys.exit(2)
