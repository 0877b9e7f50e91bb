"""Scripts of formats in an interpreter that has their packages, which need not be this one."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from attnseg_jax.errors import UserError

# Versions of the packages that hold the modules named; none of one that is not there.
_VERSIONS = """
import importlib.metadata, importlib.util, json, sys
held = importlib.metadata.packages_distributions()
here = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
print(json.dumps({name: importlib.metadata.version(held[name][0]) for name in here}))
"""


def versions(python: str, form: str, needed: Sequence[str], extra: str) -> dict[str, str]:
    """Versions of the modules that a format needs, in an interpreter.

    Raises:
      UserError: it has not all of them, or is none.
    """
    try:
        done = subprocess.run([python, "-I", "-c", _VERSIONS, *needed], capture_output=True, text=True)
        found = json.loads(done.stdout)
    except (OSError, ValueError):
        raise UserError(f"--python={python} is no interpreter of Python that runs") from None
    if missing := [name for name in needed if name not in found]:
        raise UserError(
            f"--format={form} needs {' and '.join(missing)}, which {python} does not have: install the extra {extra} "
            f"(pip install 'attnseg_jax[{extra}]'), in an environment of its own if you like, and give its interpreter "
            "as --python=ENVIRONMENT/bin/python"
        )
    return found


def run_script(python: str, script: Path, *arguments: object, minutes: float) -> None:
    """Runs a script of this folder by an interpreter, for so many minutes at most.

    Raises:
      UserError: it fails, in the words of its last line, or takes longer.
    """
    # Messages of libraries are left out; what was lowered here is not lowered for another device there.
    environment = dict(os.environ) | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    command = [python, "-I", str(script), *map(str, arguments)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{script.name} was ended after {minutes:g} minutes without a file: give it more, --max_minutes="
            f"{2 * minutes:g}, or take another format"
        ) from None
    if done.returncode:
        raise UserError(last_line(done.stderr))


def last_line(text: str) -> str:
    """What a process said last."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no message")
