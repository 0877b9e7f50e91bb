"""A thread by which each process of a run learns that another one failed, and how they end then.

It talks to the others through the key-value store of jax's coordination service, which process 0 holds.
"""

import atexit
import ctypes
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import jax
from jax._src import distributed  # the store has no public name

from attnseg_jax.errors import UserError
from attnseg_jax.files import out_of_space

# Seconds between two looks at the others.
_PERIOD = 1.0
# So many looks without a sign of life, and a process is lost. Threads of Python give it, while jax compiles too.
_LOOKS = 20
# Seconds that a process which failed has to clean up, and that process 0 waits for the others to end before it.
_GRACE = 10.0
# Seconds that a process which is ready waits for the others.
_PATIENCE = 300.0
# Words of errors that may only say that another process is gone.
_ECHOES = ("gloo", "nccl", "barrier", "coordination", "peer", "socket", "unavailable")
_SHOWN = 3
_DIFFER = "the processes differ"


def start() -> "Watch | None":
    """The watch of this process, if it has joined others."""
    return Watch() if distributed.global_state.num_processes > 1 else None


class Watch:
    """What this process knows of the others, and tells them; a thread that ends the process when another one failed.

    Attributes:
      failure: what this process failed of, as the others are told; "" before.
    """

    def __init__(self):
        state = distributed.global_state
        self._client, self._address = state.client, state.coordinator_address
        self._index, self._count = state.process_id, state.num_processes
        self._meetings = 0
        self.failure, self._since, self._leaving, self._crash = "", 0.0, False, ""
        # When process 0 answered last.
        self._heard = time.monotonic()
        # Whoever has it speaks the last words.
        self._speaking = threading.Lock()
        self._ready = threading.Event()
        self._lost = Lost(set(range(1, self._count)))
        self._thread = threading.Thread(target=self._look, name="processes", daemon=True)
        self._thread.start()
        atexit.register(self._finish)
        # A handler of Python's would not run any more.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)
        self._signal = ctypes.CDLL(None).signal
        self._signal.restype, self._signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
        self._before = self._signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))

    def named(self, message: str, index: int | None = None) -> str:
        """`message` as one of a process, unless it is about all of them."""
        if message.startswith(_DIFFER):
            return message
        return f"process {self._index if index is None else index} of {self._count}: {message}"

    def failed(self, error: BaseException) -> None:
        """Tells the others, once."""
        if self.failure or (isinstance(error, SystemExit) and not error.code):
            return
        if _is_echo(error):
            # Meanwhile the thread learns what this is the echo of, and ends the process.
            time.sleep((_LOOKS + 5) * _PERIOD)
        if not self._speaking.acquire(blocking=False):
            # The thread ends the process for the failure of another one.
            time.sleep(_PATIENCE)
        self.failure, self._since = self.named(_words(error)), time.monotonic()
        with suppress(RuntimeError):
            self._set(f"failed/{self._index}", self.failure)

    def check_same(self, mine: Mapping[str, Any]) -> None:
        """Raises UserError in all processes unless the values are the same in all."""
        self._meetings += 1
        key, first = f"same/{self._meetings}", json.dumps(mine, default=str)
        self._set(f"{key}/{self._index}", first)
        if self._index == 0:
            found = [difference(first, self._get(f"{key}/{i}"), i) for i in range(1, self._count)]
            self._set(f"{key}/verdict", next(filter(None, found), "same"))
        if (verdict := self._get(f"{key}/verdict")) != "same":
            raise UserError(verdict)

    def leave(self, code: int) -> None:
        """Ends this process, process 0 after the others, which would abort without it."""
        self._leaving = True
        sys.stdout.flush()
        sys.stderr.flush()
        with suppress(RuntimeError):
            self._set(f"gone/{self._index}", "")
            until = time.monotonic() + _GRACE + 2 * _PERIOD
            while self._index == 0 and time.monotonic() < until and not self._all("gone"):
                time.sleep(0.1)
        os._exit(code)

    def _finish(self) -> None:
        """At the regular end: waits for the others while the thread still looks after them, then stops it."""
        until = time.monotonic() + _PATIENCE
        with suppress(RuntimeError):
            self._set(f"done/{self._index}", "")
            while time.monotonic() < until and not self._all("done"):
                time.sleep(0.1)
        self._ready.set()
        self._thread.join(2 * _PERIOD)

    def _look(self) -> None:
        looks = 0
        while not self._ready.wait(_PERIOD):
            looks += 1
            try:
                self._set(f"alive/{self._index}", str(looks))
                if self._index == 0:
                    for index in self._lost.look(self._dir("alive")):
                        why = f"no sign of life for {_LOOKS * _PERIOD:.0f} s: it was killed, or its host is gone"
                        self._set(f"failed/{index}", self.named(why, index))
                if self._crash:
                    self._set(f"failed/{self._index}", self._crash)
                notices = self._dir("failed")
            except RuntimeError:
                # If process 0 is gone jax aborts this one.
                continue
            self._heard = time.monotonic()
            if self.failure:
                if not self._leaving and time.monotonic() > self._since + _GRACE:
                    self._end(self.failure)
            elif notices and not self._crash:
                # This process may be about to find the same, and says it as its own.
                time.sleep(_PERIOD)
                if self._speaking.acquire(blocking=False):
                    self._end(notices[min(notices)])

    def _end(self, line: str) -> None:
        # Not `print`, whose lock the main thread may hold.
        os.write(2, f"error: {line}\n".encode())
        self.leave(2)

    def _aborted(self, number: int) -> None:
        """The C handler of SIGABRT, by which jax and its collectives end a process that has lost another one."""
        if self._leaving:
            os._exit(2)
        if self._index and (time.monotonic() > self._heard + _LOOKS * _PERIOD or not self._reachable()):
            why = "no sign of life: it was killed, or its host is gone"
            os.write(2, f"error: {self.failure or self.named(why, 0)}\n".encode())
            os._exit(2)
        # Meanwhile the thread learns what this is the echo of, and ends the process.
        time.sleep((_LOOKS + 5) * _PERIOD)
        # The thread tells the others. Here that could wait for a lock that whatever aborts holds.
        self._crash = self.named("aborted; its own output may tell why")
        time.sleep(2 * _PERIOD)
        os.write(2, f"error: {self._crash}\n".encode())
        self._signal(signal.SIGABRT, self._before)
        signal.raise_signal(signal.SIGABRT)

    def _reachable(self) -> bool:
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
        except OSError:
            return False
        return True

    def _all(self, what: str) -> bool:
        """Whether all processes but the lost ones have set a key."""
        return len(self._dir(what).keys() | self._lost.found) >= self._count

    def _set(self, key: str, value: str) -> None:
        # An empty value cannot be read back.
        self._client.key_value_set(f"attnseg/{key}", value or "-", allow_overwrite=True)

    def _get(self, key: str) -> str:
        while True:
            try:
                return self._client.blocking_key_value_get(f"attnseg/{key}", 2000)
            except RuntimeError as error:
                # If that process fails the thread ends this one.
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise

    def _dir(self, name: str) -> dict[int, str]:
        """The values of the processes that have set a key."""
        found = self._client.key_value_dir_get(f"attnseg/{name}/")
        return {int(key.rpartition("/")[2]): value for key, value in found}


class Lost:
    """Which processes have given no new sign of life for many looks; looks, not seconds, since this one may sleep too.

    Attributes:
      found: all that were lost.
    """

    def __init__(self, indices: set[int]):
        self.found: set[int] = set()
        self._last = dict.fromkeys(indices, ("", 0))

    def look(self, signs: Mapping[int, str]) -> list[int]:
        """The processes that this look finds lost."""
        new = []
        for index, (sign, looks) in self._last.items():
            looks = looks + 1 if signs.get(index, "") == sign else 0
            self._last[index] = signs.get(index, ""), looks
            if looks >= _LOOKS and index not in self.found:
                new.append(index)
        self.found.update(new)
        return new


def difference(first: str, other: str, index: int) -> str:
    """In which values, as JSON, a process differs from process 0, in words; "" for none."""
    ours, theirs = json.loads(first), json.loads(other)
    keys = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    if not keys:
        return ""
    words = [f"{key} is {theirs.get(key)!r} in process {index} and {ours.get(key)!r} in process 0" for key in keys]
    more = f", and {len(keys) - _SHOWN} more differ" if len(keys) > _SHOWN else ""
    return f"{_DIFFER}: {'; '.join(words[:_SHOWN])}{more}: give all the same command, data and packages"


def _is_echo(error: BaseException) -> bool:
    if not isinstance(error, Exception) or isinstance(error, UserError):
        return False
    return isinstance(error, jax.errors.JaxRuntimeError) or any(word in str(error).lower() for word in _ECHOES)


def _words(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if not isinstance(error, UserError) and (reason := out_of_space(error)):
        return f"a file cannot be written ({reason}): make room"
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text
    return f"{type(error).__name__}: {text}" if not isinstance(error, SystemExit) else f"ended with {error.code}"
