"""A source and transforms as a user would write them, in a module of their own outside the package."""

import numpy as np

from attnseg_jax.data import datasets


class Stripes:
    """Pictures of vertical stripes whose class is told by their grey value, with a depth for each pixel."""

    def __init__(self, config, split):
        self.info = datasets.info(config)
        self._seed = config.custom.seed + (split == "val")
        self._sizes = [(20, 24), (31, 26), (20, 24)]

    def __len__(self):
        return len(self._sizes)

    def __getitem__(self, index):
        h, w = self.size(index)
        rng = np.random.default_rng([self._seed, index])
        label = np.tile(np.repeat(rng.integers(0, len(self.info.class_names), -(-w // 4)), 4)[:w], (h, 1))
        image = np.repeat((30 * label + 10)[..., None], 3, 2)
        return {
            "image": image.astype(np.uint8),
            "label": label.astype(np.uint8),
            "id": f"stripes{index}",
            "depth": 100 + label.astype(np.float64),
            "place": np.array([index, 7], np.int16),
        }

    def size(self, index):
        return self._sizes[index]


def darker_view(sample, rng, config):
    """A second picture of the same crop: `config.custom.darkest` to 1 times as bright."""
    factor = rng.uniform(config.custom.darkest, 1)
    return {**sample, "image_dark": (sample["image"] * factor).astype(np.uint8), "factor": np.float32(factor)}


def forgetful(sample, rng, config):
    sample["label"] = sample["label"].copy()


def ragged(sample, rng, config):
    return {**sample, "marks": np.zeros(rng.integers(2, 5))}


class Unmeasured:
    """A source that lacks two things."""

    def __init__(self, config, split):
        pass

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return {}
