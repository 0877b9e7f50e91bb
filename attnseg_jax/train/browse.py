"""Training samples of a config before and after each transform, as one picture: `attnseg-doctor --browse`."""

from pathlib import Path
from typing import Any

import numpy as np

from attnseg_jax import configs
from attnseg_jax.data.class_masks import topmost
from attnseg_jax.data.pipeline import with_others
from attnseg_jax.data.sources import load_source
from attnseg_jax.data.transforms import needs_others, stages
from attnseg_jax.train import config as config_files

_SAMPLES = 4


def draw(name: str, path: Path) -> Path:
    """Draws the sheet of the config that `name` names; returns its path.

    Raises:
      UserError: the config or its data cannot be read.
    """
    # Matplotlib takes a second to import.
    from attnseg_jax.plots.drawing import write_png
    from attnseg_jax.plots.sheet import as_one_map
    from attnseg_jax.plots.transform_sheet import transform_sheet

    config = config_files.filled(config_files.read_file(configs.find(name)))
    config_files.check_values(config)
    data = config.data
    source = load_source(data, data.train_split)
    others = source if needs_others(data) else None
    chosen = sorted({i * len(source) // _SAMPLES for i in range(_SAMPLES)})
    rows: dict[str, list[Any]] = {}
    for index in chosen:
        rng = np.random.default_rng([config.seed, index])
        found = list(stages(with_others(source[index], others), rng, data))
        for number, (stage, sample) in enumerate(found):
            key = f"{number}  {stage}" if stage else "before"
            rows.setdefault(key, []).append(_shown(sample, data, source.info, stage))
    titles = [str(source[index]["id"]) for index in chosen]
    names = (*source.info.class_names, "nothing")
    _, palette = as_one_map(source[0]["label"], source.info.palette)
    write_png(path, transform_sheet(rows, titles, names[: len(palette)], palette))
    return path


def _shown(sample: dict[str, Any], data: Any, info: Any, stage: str) -> tuple[np.ndarray, np.ndarray]:
    image = sample["image"]
    if stage == "normalise_pad":
        image = image[..., ::-1] if data.channel_order == "bgr" else image
        image = image * np.asarray(data.std, np.float32) + np.asarray(data.mean, np.float32)
    picture = info.shown(image) if data.channels else image.round().clip(0, 255).astype(np.uint8)
    label = sample["label"]
    return np.ascontiguousarray(picture), topmost(label) if label.ndim == 3 else label
