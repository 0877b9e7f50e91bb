"""Scores of masks on disk, of any tool's making, against the truth of a split."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from attnseg_jax.data import datasets, decode, mask_ids
from attnseg_jax.data.layouts import SUFFIXES
from attnseg_jax.data.sources import Source
from attnseg_jax.errors import UserError
from attnseg_jax.evaluation.mistakes import Mistakes
from attnseg_jax.evaluation.scores import score_batches
from attnseg_jax.files import expanded
from attnseg_jax.inference.pictures import visible, with_pictures
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.metrics import confusion_matrix
from attnseg_jax.train.evaluation import Evaluation, Recorder


def evaluate_masks(
    folder: str | Path,
    config: ConfigDict,
    source: Source,
    *,
    raw_ids: bool = False,
    mistakes: Mistakes | None = None,
) -> Evaluation:
    """Scores the masks of `folder` for the images of `source`, by their names; `config` is a run's, for its samples.

    A mask is a gray or palette picture whose values are classes, named like its image, in any subfolder; of the outputs
    of `attnseg-predict` that is `mask/`. Of classes that may overlap each has a folder of its own, with masks of 0, 1.

    Args:
      folder: of the masks.
      config: `data` and `eval` of it are used.
      source: the split.
      raw_ids: the values, or colours, are those of the data set's own masks, before its table of ids.
      mistakes: looks at every image.

    Raises:
      UserError: a mask is missing, damaged, of another size, or holds what is no class.
    """
    root = inner if (inner := expanded(folder) / "mask").is_dir() else expanded(folder)
    paths = [_masks(root / name) for name in source.info.class_names] if source.info.multilabel else [_masks(root)]
    recorder = Recorder(config, source)

    def on_batch(batch: Mapping[str, Any], predictions: np.ndarray) -> None:
        recorder(batch, predictions)
        if mistakes:
            mistakes(batch, predictions, None)

    with recorder.bar:
        scores = score_batches(
            lambda batch: (
                confusion_matrix(batch["prediction"], batch["label"], source.info.num_classes),
                batch["prediction"],
            ),
            _rows(paths, folder, config, source, raw_ids),
            source.info.num_classes,
            on_batch=on_batch,
        )
    return recorder.evaluation(scores)


def _masks(folder: Path) -> dict[str, list[Path]]:
    """The masks of a folder by their names without ending."""
    if not folder.is_dir():
        raise UserError(f"--predictions={folder}: there is no such folder")
    found: dict[str, list[Path]] = {}
    for path in visible(folder, with_pictures(folder)):
        found.setdefault(path.stem, []).append(path)
    if not found:
        raise UserError(f"--predictions={folder} holds no masks ({', '.join(suffix[1:] for suffix in SUFFIXES)})")
    return found


def _rows(
    paths: Sequence[Mapping[str, list[Path]]],
    folder: str | Path,
    config: ConfigDict,
    source: Source,
    raw_ids: bool,
) -> Iterator[dict[str, Any]]:
    """Batches of one image, as `eval_batches` has them, without the image and with `prediction`.

    `paths` are those of all masks, or of the masks of each class.
    """
    read = functools.partial(_read, config=config, source=source, raw_ids=raw_ids)
    for index in range(len(source)):
        sample = source[index]
        name, label = sample["id"], sample["label"]
        truths = np.moveaxis(label, -1, 0) if source.info.multilabel else [label]
        found = [
            _checked(_path_of(of, folder, name), name, truth, read) for of, truth in zip(paths, truths, strict=True)
        ]
        prediction = np.stack(found, -1) if source.info.multilabel else found[0]
        yield {
            **{"label": label[None], "prediction": prediction[None], "valid": np.ones(1, bool)},
            **{"index": np.array([index], np.int32), "id": np.array([name])},
        }


def _path_of(paths: Mapping[str, list[Path]], folder: str | Path, name: str) -> Path:
    candidates = paths.get(Path(name).name, [])
    if len(candidates) > 1:
        # Of one name in several subfolders.
        candidates = [path for path in candidates if path.with_suffix("").as_posix().endswith(f"/{name}")]
    if len(candidates) != 1:
        some = next(iter(paths.values()))[0].name
        found = "several masks" if candidates else "no mask"
        raise UserError(f"{folder} holds {found} for the image {name!r}: each needs one of its name, as in {some}")
    return candidates[0]


def _checked(path: Path, name: str, truth: UInt8[np.ndarray, "h w"], read: Callable) -> UInt8[np.ndarray, "h w"]:
    """The mask of a file, with a class for every pixel of the image `name` where the truth has one."""
    prediction = read(path)
    if prediction.shape != truth.shape:
        raise UserError(
            f"{path}: the mask is {prediction.shape[1]}x{prediction.shape[0]} pixels, the truth of "
            f"{name!r} {truth.shape[1]}x{truth.shape[0]}; both must have one size"
        )
    undecided = (prediction == IGNORE_LABEL) & (truth != IGNORE_LABEL)
    if undecided.any():
        raise UserError(
            f"{path}: {int(undecided.sum())} pixels have no class (value {IGNORE_LABEL}) where the truth "
            "has one: every pixel needs a class"
        )
    return prediction


def _read(path: Path, config: ConfigDict, source: Source, raw_ids: bool) -> UInt8[np.ndarray, "h w"]:
    if raw_ids:
        nearest = decode.takes_nearest(config.data.mask_values)
        raw = decode.decode_mask(path, str(path), datasets.raw_colours(config.data), nearest=nearest)
        table = mask_ids.id_table(datasets.from_config(config.data).ids, nearest=nearest)
        return mask_ids.to_train_ids(raw, table, str(path))
    ids = decode.decode_mask(path, str(path))
    classes = source.info.num_values
    wrong = ids[(ids < 0) | ((ids >= classes) & (ids != IGNORE_LABEL))]
    if wrong.size:
        raise UserError(
            f"{path}: the value {wrong[0]} is none of the {classes} classes, 0 to {classes - 1}; for values, or "
            "colours, as in the masks of the data set itself: --raw_ids"
        )
    return ids.astype(np.uint8)
