"""Checksums of image files, which Pillow leaves alone where the pixels are."""

import struct
import zlib
from pathlib import Path

from attnseg_jax.errors import UserError

_PNG = b"\x89PNG\r\n\x1a\n"


def checked(data: Path | bytes, name: str) -> Path | bytes:
    """The bytes of an image file; a PNG file with a chunk that has changed since it was written raises UserError.

    What cannot be read is returned as it came, for the decoder to say why.
    """
    try:
        content = data.read_bytes() if isinstance(data, Path) else data
    except OSError:
        return data
    at = len(_PNG)
    while content.startswith(_PNG) and at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end = at + 8 + length
        # One that is cut short is the decoder's to name.
        if end + 4 > len(content):
            break
        if zlib.crc32(content[at + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise UserError(
                f"{name}: cannot be decoded (a checksum of the PNG file does not fit); the file is damaged: restore or "
                "remove it"
            )
        if content[at + 4 : at + 8] == b"IEND":
            break
        at = end + 4
    return content
