"""Video files, frame by frame, by PyAV: read as pictures, and written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import UInt8

from attnseg_jax.errors import UserError
from attnseg_jax.inference.pictures import Picture

SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")


def is_video(path: Path | None) -> bool:
    """Whether a file is named like a video."""
    return path is not None and path.suffix.lower() in SUFFIXES


def frames(video: Picture) -> Iterator[Picture]:
    """The frames of a video, in order; their outputs go to a folder of its name, by numbers from 0.

    Raises:
      UserError: PyAV is missing, or the file is damaged or has no video.
    """
    with _opened(video.path) as container:
        for number, frame in enumerate(container.decode(video=0)):
            pixels = frame.to_ndarray(format="rgb24")
            yield Picture(f"{video.name}, frame {number}", None, video.target / f"{number:06d}", pixels)


class Film:
    """Writes an MP4 file with the rate of another video; whole, or not there.

    Args:
      path: of the file.
      source: the other video.
    """

    def __init__(self, path: Path, source: Path):
        self._path, self._temporary = path, path.with_name(f".{os.getpid()}.{path.name}")
        self._av = _av(source)
        with _opened(source) as container:
            self._rate = container.streams.video[0].average_rate or 25
        path.parent.mkdir(parents=True, exist_ok=True)
        self._container = self._av.open(str(self._temporary), "w")
        self._stream: Any = None

    def add(self, pixels: UInt8[np.ndarray, "h w 3"]) -> None:
        """Appends a frame; all have one size."""
        # The colours of a codec are those of two by two pixels.
        pixels = np.pad(pixels, [(0, n % 2) for n in pixels.shape[:2]] + [(0, 0)], "edge")
        if self._stream is None:
            codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.height, self._stream.width = pixels.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        self._container.mux(self._stream.encode(self._av.VideoFrame.from_ndarray(pixels, format="rgb24")))

    def __enter__(self) -> "Film":
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, where: TracebackType | None) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode())
            self._container.close()
            if kind is None:
                os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A video that is read."""
    av = _av(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise UserError(f"{path} has no video in it")
            yield container
    except av.FFmpegError as error:
        raise UserError(f"{path}: cannot be decoded ({error.strerror}); restore or remove it") from error


def _av(path: Path) -> Any:
    try:
        import av
    except ModuleNotFoundError:
        raise UserError(f"{path}: a video needs the package av (PyAV): pip install av") from None
    return av
