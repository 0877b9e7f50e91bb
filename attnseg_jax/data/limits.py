"""How many pixels a picture may have that is decoded whole, by its header alone; the memory that there is."""

import io
import math
import re
from pathlib import Path

from PIL import Image

from attnseg_jax.data import arrays, bands
from attnseg_jax.errors import UserError

_CGROUP = Path("/sys/fs/cgroup")
MAX_PIXELS = 178_956_970
"""The default of `config.data.max_pixels`, which is Pillow's own limit."""


def allow(limit: int) -> None:
    """Lets Pillow open pictures of so many pixels."""
    if Image.MAX_IMAGE_PIXELS is not None and limit > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = limit


def is_beyond(path: Path, limit: int) -> bool:
    """Whether a picture has more pixels, by its header."""
    return _pixels(path)[0] > limit


def check_pixels(data: Path | bytes, name: str, limit: int) -> None:
    """Raises UserError for a picture of more pixels; one that cannot be read is left to what decodes it."""
    pixels, words = _pixels(data)
    if pixels > limit:
        raise UserError(
            f"{name}: the picture has {words}{pixels:,} pixels, and config.data.max_pixels={limit:,}: cut it into "
            f"smaller ones, or where the memory holds it set --config.data.max_pixels={pixels}; to be trained on, but "
            "not evaluated, it may be a TIFF in tiles"
        )


def _pixels(data: Path | bytes) -> tuple[int, str]:
    """How many there are, and their rows and columns in words."""
    try:
        if arrays.is_npy(data):
            h, w = arrays.load(data, mmap_mode="r").shape[:2]
        else:
            with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
                w, h = image.size
    except Image.DecompressionBombError as error:
        # Pillow does not tell its rows and columns.
        return int(re.search(r"\d+", str(error))[0]), ""
    except Exception:
        # Kinds of TIFF that Pillow does not know, and what is damaged.
        h, w = (bands.header_size(data) if isinstance(data, Path) else None) or (0, 0)
    return h * w, f"{w:,} x {h:,} = "


def host_bytes() -> float:
    """The memory that this machine, or the container, has left; infinite where it does not tell."""
    left = [math.inf]
    if found := re.search(r"^MemAvailable:\s*(\d+) kB", _text(Path("/proc/meminfo")), re.MULTILINE):
        left.append(int(found[1]) * 1024)
    limit, used = (_text(_CGROUP / f"memory.{name}").strip() for name in ("max", "current"))
    if limit.isdecimal() and used.isdecimal():
        # Cached files count as used and are given up when memory is asked for.
        cached = re.search(r"^inactive_file (\d+)", _text(_CGROUP / "memory.stat"), re.MULTILINE)
        left.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))
    return min(left)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
