"""A model as a safetensors file of its weights, with the config that builds it."""

from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from attnseg_jax.files import write_atomically
from attnseg_jax.inference.predictor import Predictor
from attnseg_jax.inference.pretrained import WEIGHTS
from attnseg_jax.train import config as configs
from attnseg_jax.weights.safetensors_file import safetensors_bytes


def write(predictor: Predictor, folder: Path) -> None:
    """Writes weights and config, which `read_back` reads."""
    arrays = traverse_util.flatten_dict(jax.device_get(predictor.variables), sep=".")
    write_atomically(folder / WEIGHTS, safetensors_bytes({name: np.asarray(x) for name, x in arrays.items()}))
    write_atomically(folder / "config.json", configs.to_json(predictor.config).encode())
