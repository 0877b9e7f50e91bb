"""An interpreter that has its packages loaded and runs each command in a fork of itself: they take seconds to load."""

import json
import os
import subprocess
import tempfile
from types import SimpleNamespace

# Takes commands `[..., script or -c text, arguments]`, one a line, as the interpreter itself would; answers exit codes.
_SERVER = """
import importlib, json, os, runpy, signal, sys, traceback

for name in sys.argv[1:]:
    importlib.import_module(name)
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(asked["said"], os.O_WRONLY), 2)
        os.dup2(2, 1)
        os.environ.update(asked["env"])
        os.chdir(asked["cwd"] or "/")
        signal.alarm(asked["seconds"])
        first, *rest = asked["command"]
        sys.argv = ["-c", *rest[1:]] if first == "-c" else [first, *rest]
        code = 0
        try:
            if first == "-c":
                exec(rest[0], {"__name__": "__main__"})
            else:
                runpy.run_path(first, run_name="__main__")
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
            code = 1 if isinstance(stop.code, str) else stop.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
_ALARM = -14


class WarmPython:
    """Stands for the module `subprocess` where an interpreter is run with `-I`.

    Args:
      python: the interpreter.
      modules: that it loads first.
    """

    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self, python, modules):
        self._process = subprocess.Popen(
            [python, "-I", "-c", _SERVER, *modules],
            env=dict(os.environ) | {"TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, command, *, env=None, cwd=None, timeout=1800, capture_output, text):
        """As `subprocess.run`, with both kinds of output in one."""
        assert command[1] == "-I" and capture_output and text
        with tempfile.NamedTemporaryFile("r") as said:
            asked = {"command": command[2:], "env": env or {}, "cwd": cwd and str(cwd), "seconds": int(timeout)}
            self._process.stdin.write(json.dumps(asked | {"said": said.name}) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            if code == _ALARM:
                raise self.TimeoutExpired(command, timeout)
            words = said.read()
            return SimpleNamespace(returncode=code, stdout=words, stderr=words)

    def end(self):
        """Ends the interpreter."""
        self._process.stdin.close()
        self._process.wait()
