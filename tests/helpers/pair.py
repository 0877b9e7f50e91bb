"""Two processes of one run on loopback."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def listening_to_interrupts():
    """SIGINT is not ignored here, nor by processes that are started meanwhile: a shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Pair:
    """Processes that join each other; their output is in `INDEX.out` and `INDEX.err` of `folder`.

    Args:
      command: of the process of an index.
      folder: their working directory.
      environment: beside this process's.
    """

    def __init__(self, command: Callable[[int], list], folder: Path, **environment: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        common = dict(
            os.environ,
            PYTHONPATH=str(ROOT),
            JAX_PLATFORMS="cpu",
            JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo",
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_DISABLE_MOST_OPTIMIZATIONS="1",
            XLA_FLAGS="",
        )
        self.folder, self.processes = folder, []
        with listening_to_interrupts():
            for index in range(2):
                with (folder / f"{index}.out").open("w") as out, (folder / f"{index}.err").open("w") as err:
                    environ = {**common, "JAX_PROCESS_ID": str(index), **environment}
                    given = list(map(str, command(index)))
                    self.processes.append(subprocess.Popen(given, cwd=folder, env=environ, stdout=out, stderr=err))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()

    def errors(self, index: int) -> str:
        """Standard error of a process until now."""
        return (self.folder / f"{index}.err").read_text()

    def wait_for(self, text: str, index: int = 0, seconds: float = 300) -> None:
        """Waits until a process has written `text` to standard error."""
        until = time.monotonic() + seconds
        while text not in self.errors(index):
            assert time.monotonic() < until and self.processes[index].poll() is None, self.errors(index)
            time.sleep(0.1)

    def end(self, seconds: float) -> list[int]:
        """Waits for the end of both, which has to come within `seconds`; their exit codes."""
        until = time.monotonic() + seconds
        try:
            return [process.wait(max(0, until - time.monotonic())) for process in self.processes]
        except subprocess.TimeoutExpired:
            raise AssertionError("\n".join(map(self.errors, range(2)))) from None
