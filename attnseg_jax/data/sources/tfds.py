"""A source of TFDS data by name, read from ArrayRecord files without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from attnseg_jax.data import datasets, decode, limits, mask_ids
from attnseg_jax.data.sources import embedded
from attnseg_jax.errors import UserError


class TfdsSource:
    """One split of a TFDS data set; images and masks are decoded from their stored bytes, so palettes survive.

    The embedded set is drawn on first use; anything else must have been prepared.  Raises UserError, when made, for an
    unknown name, data that is not there or not readable without TensorFlow, and unknown splits or features.
    """

    prepared = True

    def __init__(self, config: Any, split: str):
        if config.channels:
            raise UserError(f"config.data.channels={config.channels} is for a 'folder' source: TFDS gives 8-bit RGB")
        self.info = datasets.info(config)
        if self.info.multilabel:
            raise UserError(
                "config.data.mode='multilabel' is for a 'folder' source, or one of yours: masks of TFDS have one class "
                "at a pixel"
            )
        dataset = datasets.from_config(config)
        self._nearest = decode.takes_nearest(config.mask_values)
        self._table = mask_ids.id_table(dataset.ids, nearest=self._nearest)
        self._colors = datasets.raw_colours(config)
        builder = _builder(dataset.tfds_name, config.dir)
        features = builder.info.features
        self._image = _feature(builder, dataset.image_key, channels=3)
        self._label = _feature(builder, dataset.label_key, channels=1)
        # TFDS decodes nothing: the two images in use are decoded here, the other images of a record not at all.
        skip = {key: tfds.decode.SkipDecoding() for key, f in features.items() if isinstance(f, tfds.features.Image)}
        self._records = _records(builder, split, skip)
        self._place = f"{builder.info.full_name} {split}"
        self._folder, self._split = Path(builder.data_path), split
        self._sizes: dict[int, tuple[int, int]] = {}
        self._max_pixels = config.max_pixels
        limits.allow(config.max_pixels)
        self._damage: UserError | None = None

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record, name = self._read(index), f"{self._place}[{index}]"
        names = f"{name} {self._image}", f"{name} {self._label}"
        files = _bytes(record[self._image]), _bytes(record[self._label])
        for data, of_file in zip(files, names):
            limits.check_pixels(data, of_file, self._max_pixels)
        image, label = decode.decode_pair(*files, *names, self._table, self._colors, nearest=self._nearest)
        self._sizes[index] = label.shape
        return {"image": image, "label": label, "id": name}

    def files(self) -> dict[str, Path]:
        """The record files by their names."""
        return {path.name: Path(path) for path in self._folder.iterdir() if ".array_record" in path.name}

    def raw(self, index: int) -> np.ndarray:
        """The mask at `index` before the table of ids."""
        data = _bytes(self._read(index)[self._label])
        return decode.decode_mask(data, f"{self._place}[{index}] {self._label}", self._colors, nearest=self._nearest)

    def _read(self, index: int) -> dict[str, Any]:
        try:
            return self._records[int(index)]
        except (RuntimeError, OSError, ValueError) as error:
            # One file is damaged, however many records of it cannot be read.
            self._damage = self._damage or _damaged(self._folder, self._split, error)
            raise self._damage from error

    def size(self, index: int) -> tuple[int, int]:
        """(h, w) of the image at `index`, from its header."""
        # Every evaluation asks for all sizes, and for each a whole record must be read.
        if index not in self._sizes:
            data = _bytes(self._read(index)[self._image])
            self._sizes[index] = decode.decode_size(data, f"{self._place}[{index}]")
        return self._sizes[index]


def _bytes(value: Any) -> bytes:
    return value.item() if isinstance(value, np.ndarray) else bytes(value)


def _builder(name: str, directory: str) -> tfds.core.DatasetBuilder:
    if not name:
        raise UserError("config.data.tfds_name is empty: give the name of a TFDS data set, or use data.source=folder")
    where = {"data_dir": directory} if directory else {}
    try:
        if name.partition("/")[0].partition(":")[0] == embedded.NAME:
            embedded.ensure(name, directory)
        builder = tfds.builder(name, **where)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise UserError(
            f"config.data.tfds_name={name!r} is no data set that TFDS knows or finds in config.data.dir={directory!r}"
        ) from error
    except UserError:
        raise
    except (ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"config.data.tfds_name={name!r}: {_line(error)}") from error
    except Exception as error:
        # Of the readers of its metadata.
        raise UserError(
            f"config.data.tfds_name={name!r}: the dataset_info.json or features.json of the prepared data is damaged "
            f"({_line(error)}); restore it, or remove its folder and prepare the data again"
        ) from error
    if not _prepared(builder):
        arguments = f"{name!r}" + (f", data_dir={directory!r}" if directory else "")
        raise UserError(
            f"config.data.tfds_name={name!r}: no data at {builder.data_path}; prepare it once with "
            f'python -c "import tensorflow_datasets as t; t.builder({arguments})'
            ".download_and_prepare(file_format='array_record')\""
        )
    return builder


def _prepared(builder: tfds.core.DatasetBuilder) -> bool:
    # TFDS moves a finished folder into place; its own `is_prepared` logs a warning where there is none.
    return (builder.data_path / "dataset_info.json").exists()


def _feature(builder: tfds.core.DatasetBuilder, wanted: str, channels: int) -> str:
    """The key of the image or mask in a record; without a wanted one, the only image of that many channels."""
    features = builder.info.features
    if wanted in features:
        return wanted
    images = {key: f.shape[-1] for key, f in features.items() if isinstance(f, tfds.features.Image)}
    found = [key for key, c in images.items() if c == channels]
    if len(found) != 1:
        what = "image" if channels == 3 else "mask"
        raise UserError(
            f"TFDS data set {builder.name!r}: which feature is the {what} is unclear; it has the images "
            f"{', '.join(images) or '(none)'} and one with {channels} channel(s) is needed"
        )
    return found[0]


def _records(builder: tfds.core.DatasetBuilder, split: str, decoders: dict[str, Any]) -> Any:
    known = ", ".join(builder.info.splits)
    try:
        records = builder.as_data_source(split=split, decoders=decoders)
        count = len(records)
    except NotImplementedError as error:
        raise UserError(
            f"{builder.data_path}: prepared as {builder.info.file_format.value}, which is not read without TensorFlow; "
            "prepare it again elsewhere (config.data.dir) with file_format='array_record'"
        ) from error
    except (ValueError, KeyError) as error:
        raise UserError(f"TFDS data set {builder.name!r} has no split {split!r}; known: {known}") from error
    except (RuntimeError, OSError) as error:
        raise _damaged(builder.data_path, split, error) from error
    if not count:
        raise UserError(f"TFDS data set {builder.name!r}: split {split!r} holds no images; known splits: {known}")
    return records


def _damaged(folder: Any, split: str, error: Exception) -> UserError:
    return UserError(
        f"{folder}: a file with the records of split {split!r} is damaged or missing ({_line(error)}); restore it, or "
        "remove that folder and prepare the data set again"
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
