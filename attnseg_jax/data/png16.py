"""PNG files of 16-bit colours, whose low bytes Pillow drops."""

import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16

from attnseg_jax.errors import UserError

# Type of the colours in a header -> samples of a pixel.
_SAMPLES = {0: 1, 2: 3, 4: 2, 6: 4}


def read_png16(path: Path) -> UInt16[np.ndarray, "h w c"]:
    """The samples of a PNG of 16 bits, by the format's specification (ISO/IEC 15948).

    Raises:
      UserError: it is interlaced, or damaged.
    """
    data = path.read_bytes()
    header, stream = b"", b""
    place = 8
    while place + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + length]
        header, stream = body if kind == b"IHDR" else header, stream + body if kind == b"IDAT" else stream
        place += 12 + length
    w, h, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if interlaced or depth != 16:
        raise UserError(f"{path}: an interlaced PNG of 16-bit colours is not read: save it without interlacing")
    samples = _SAMPLES[colour]
    rows = np.frombuffer(zlib.decompress(stream), np.uint8).reshape(h, 1 + 2 * samples * w)
    if rows[:, 0].max(initial=0) > 4:
        raise UserError(f"{path}: cannot be decoded (unknown filter); the file is damaged: restore or remove it")
    pixels = _unfiltered(rows[:, 0], rows[:, 1:].reshape(h, w, 2 * samples))
    return np.ascontiguousarray(pixels).view(">u2").astype(np.uint16)


def _unfiltered(filters: UInt8[np.ndarray, "h"], coded: UInt8[np.ndarray, "h w b"]) -> UInt8[np.ndarray, "h w b"]:
    """The bytes before the filter of each row: 0 none, 1 left, 2 above, 3 mean of both, 4 Paeth's.

    A pixel needs those on its left, above and between; all pixels of a diagonal are decoded at once.
    """
    h, w, size = coded.shape
    # A row above and a column on the left of zeros.
    out = np.zeros((h + 1, w + 1, size), np.int16)
    for diagonal in range(h + w - 1):
        y = np.arange(max(0, diagonal - w + 1), min(h, diagonal + 1))
        x = diagonal - y
        left, above, corner = out[y + 1, x], out[y, x + 1], out[y, x]
        guess = left + above - corner
        far = [np.abs(guess - near) for near in (left, above, corner)]
        paeth = np.where((far[0] <= far[1]) & (far[0] <= far[2]), left, np.where(far[1] <= far[2], above, corner))
        kind = filters[y, None]
        predicted = np.select(
            [kind == 1, kind == 2, kind == 3, kind == 4], [left, above, (left + above) >> 1, paeth], np.int16(0)
        )
        out[y + 1, x + 1] = (coded[y, x] + predicted) & 255
    return out[1:, 1:].astype(np.uint8)
