"""What is known of weights that others published."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from attnseg_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD


@dataclass(frozen=True)
class Published:
    """Weights of a backbone that others published.

    Attributes:
      source: `hf://owner/name/file` (see `locate`), `https://...`, or `package:NAME/FILE` of an installed Python
        package.
      layout: the name in `layouts.ENCODERS` of what the file holds.
      licence: of the weights.
      mean: of the channels, on the scale 0..255, by which the images of their training were normalised.
      std: deviation likewise.
      channel_order: 'rgb' or 'bgr', in which the weights take them; mean and deviation are of red, green and blue.
      input_size: height and width of those images.
      interpolation: by which they were resized to that, where it is known.
      options: of the backbone, where they are not its defaults.
      sha256: first hexadecimal digits of the file's SHA-256, as many as are known.
    """

    source: str
    layout: str
    licence: str
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    channel_order: str = "rgb"
    input_size: tuple[int, int] = (224, 224)
    interpolation: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    sha256: str = ""


@dataclass(frozen=True)
class PublishedModel(Published):
    """Weights of a whole model; its `layout` is `HEAD+ENCODER`, `input_size` that of its training's crops.

    Attributes:
      data: the name in `data.known_sets.DATASETS` of its classes and colours.
      config: keys of a config and the values that make the model and its evaluation.
      miou: percent, as its authors published it, at one scale; None where they did not.
      scored_on: what that was measured on.
      base: the name in `CATALOGUE` of the weights that the file is a difference from; "" where it is whole.
    """

    data: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    miou: float | None = None
    scored_on: str = ""
    base: str = ""
