"""How every command starts: flags, help, logging, and one clear line for a user's mistake."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from attnseg_jax.errors import UserError


def run(main: Callable[[], Any], *, usage: str, check: Callable[[list[str]], None] | None = None) -> None:
    """Parses the command line, runs `main` and exits: 0, or 2 with one line `error: ...` for a `UserError`.

    Args:
      main: takes nothing; flags are parsed when it is called.
      usage: text of `--help`.
      check: looks at the raw arguments before they are parsed and raises `UserError`.
    """

    def parse(argv: list[str]) -> list[str]:
        if any(argument in ("--help", "-h", "-help") for argument in argv[1:]):
            print(usage.strip(), "\n\nflags:\n", flags.FLAGS[...] if False else _flag_help(), sep="")
            sys.exit(0)
        return _guarded(lambda: _parse(argv, check))

    def guarded_main(argv: list[str]) -> None:
        def start() -> None:
            if argv[1:]:
                raise UserError(f"unexpected argument {argv[1]!r}: flags look like --name=value")
            logging.set_verbosity(logging.INFO)
            main()

        _guarded(start)

    app.run(guarded_main, flags_parser=parse)


def _parse(argv: list[str], check: Callable[[list[str]], None] | None) -> list[str]:
    if check is not None:
        check(argv[1:])
    try:
        return flags.FLAGS(argv)
    except (flags.Error, TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(" ".join(str(error).split()).strip('"')) from None


def _guarded(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted: the same command continues from the last checkpoint", file=sys.stderr)
        sys.exit(130)


def _flag_help() -> str:
    module = sys.modules["__main__"]
    own = flags.FLAGS.flags_by_module_dict().get(module.__file__ or "", []) or flags.FLAGS.get_key_flags_for_module(
        sys.argv[0]
    )
    return "\n".join(f"  --{flag.name}: {flag.help} (default: {flag.default})" for flag in own)
