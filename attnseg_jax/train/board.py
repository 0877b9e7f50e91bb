"""Scalars in TensorBoard's format, written at once: a thread of its own could only fail, or wait for ever, unseen."""

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog


class Board:
    """An event file in `folder`; TensorBoard hides what earlier files hold from `purge_step` on."""

    def __init__(self, folder: Path, *, purge_step: int):
        folder.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._writer.write_event(Event(step=purge_step, session_log=SessionLog(status=SessionLog.START)))
        self._writer.flush()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes values by name; OSError where they cannot be written."""
        for name, value in values.items():
            # A space is no letter of a TensorBoard tag; left in, it is reported at each call.
            scalar = summary.scalar(name.replace(" ", "_"), value)
            self._writer.write_event(Event(step=step, wall_time=time.time(), summary=scalar))
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()
