"""The embedded data set as a TFDS builder, which registers itself on import."""

import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from attnseg_jax.data.context import scenes


def _png(array: np.ndarray) -> io.BytesIO:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    stream.seek(0)
    return stream


@dataclasses.dataclass
class ContextConfig(tfds.core.BuilderConfig):
    """A size of the set: the number of scenes in train, val and test."""

    sizes: tuple[int, int, int] = (2000, 200, 200)


class AttnsegContext(tfds.core.GeneratorBasedBuilder):
    """The scenes as the TFDS data set `attnseg_context` (`attnseg_context/small` for a quick look)."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First scenes."}  # noqa: RUF012  (TFDS's own convention)
    BUILDER_CONFIGS = [  # noqa: RUF012
        ContextConfig(name="full", description="The whole set.", sizes=(2000, 200, 200)),
        ContextConfig(name="small", description="A few scenes for trying things out.", sizes=(48, 12, 12)),
    ]

    # Nothing is downloaded; this also spares TFDS's search for checksums, which needs a package it does not install.
    url_infos = None

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=scenes.__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(scenes.HEIGHT, scenes.WIDTH, 3), encoding_format="png"),
                    "label": tfds.features.Image(shape=(scenes.HEIGHT, scenes.WIDTH, 1), encoding_format="png"),
                    "key": tfds.features.Scalar(np.int32),
                    "key_box": tfds.features.Tensor(shape=(4,), dtype=np.int32),
                    "index": tfds.features.Scalar(np.int32),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager
        return {split: self._generate_examples(split, n) for split, n in zip(scenes.SPLITS, self.builder_config.sizes)}

    def _generate_examples(self, split: str, count: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(count):
            scene = scenes.draw_scene(split, index)
            # Encoded bytes pass through TFDS as they are; arrays would need TensorFlow or OpenCV.
            yield (
                index,
                {
                    "image": _png(scene.image),
                    "label": _png(scene.label),
                    "key": scene.key,
                    "key_box": np.array(scene.key_box, np.int32),
                    "index": index,
                },
            )
