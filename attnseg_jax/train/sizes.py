"""The sizes to which a run pads its images: those that its model is right for, unless the config says otherwise."""

import math

from flax import linen as nn
from ml_collections import ConfigDict


def evaluation_multiple(config: ConfigDict, model: nn.Module) -> int:
    """What height and width of evaluated images are padded to a multiple of.

    That is `config.eval.size_multiple`, or where it is 0 what the model needs (`models.geometry`).
    """
    return config.eval.size_multiple or model.size_multiple


def crop_multiple(config: ConfigDict, model: nn.Module) -> int:
    """The same for training crops, which see the padding of the model but no wider one that the config asks for.

    >>> from attnseg_jax.configs import default
    >>> from attnseg_jax.models import build_model
    >>> config, model = default.get_config().unlock(), build_model({"backbone": {"name": "unet"}}, 5)
    >>> for config.eval.size_multiple in (0, 64, 1):
    ...     print(evaluation_multiple(config, model), crop_multiple(config, model))
    16 16
    64 16
    1 1
    """
    return math.gcd(model.size_multiple, evaluation_multiple(config, model))
