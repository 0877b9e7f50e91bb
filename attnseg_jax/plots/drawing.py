"""The one way from a figure or a picture to a PNG file; needs no display and changes no global state."""

import base64
import io
import os

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from attnseg_jax.files import write_atomically

# Below this value of that percentile an image is dark.
_DARK, _BRIGHT = 80, 99.5


def rendered(figure: Figure) -> Image.Image:
    """A matplotlib figure as an RGB picture."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def write_png(path: str | os.PathLike, picture: Image.Image | Figure, *, optimize: bool = False) -> None:
    """Writes one PNG, whole or not at all; `optimize` takes longer for a smaller file."""
    if isinstance(picture, Figure):
        picture = rendered(picture)
    write_atomically(path, png_bytes(picture, optimize=optimize))


def png_bytes(picture: Image.Image, *, optimize: bool = False) -> bytes:
    """The bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=optimize)
    return buffer.getvalue()


def data_uri(data: bytes, kind: str = "png") -> str:
    """A picture as an address that a page can hold; `kind` is its format."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def brightened(image: UInt8[np.ndarray, "h w 3"]) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
    """An image whose brightest pixels are dark, such as one of few photons, times a factor; any other as it is.

    Returns:
      The image, and the factor; 1 where nothing was changed.
    """
    # Single bright pixels are defects of a sensor.
    bright = float(np.percentile(image, _BRIGHT)) if image.size else 0.0
    if not 0 < bright < _DARK:
        return image, 1.0
    factor = 255 / bright
    return np.minimum(np.round(image * factor), 255).astype(np.uint8), factor


def plain_axes(axes: Axes, title: str, label: str) -> None:
    """Gives axes a title, a label of the horizontal axis, a faint grid, and no frame above and on the right."""
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
