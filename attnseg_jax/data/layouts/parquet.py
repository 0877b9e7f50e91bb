"""Data sets in parquet files, as Hugging Face `datasets` writes them: their pictures become files once, in a cache."""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attnseg_jax.data.layouts.templates import Form
from attnseg_jax.data.layouts.unpack import cache_folder, write_once
from attnseg_jax.errors import UserError

FORM = Form("{split}/images/{stem}.*", "{split}/masks/{stem}.*")
"""How the unpacked files are named; stems are the numbers of rows."""

# What columns are called.
_IMAGES = ("image", "images", "img", "pixel_values", "picture", "input")
_MASKS = ("label", "labels", "annotation", "annotations", "mask", "masks", "segmentation", "seg", "semantic", "target")
_NAME = re.compile(r"(.+?)(?:-\d+-of-\d+)?(?:-[0-9a-f]{8,})?")
_STARTS = {
    **{b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp"},
    **{b"II*\0": ".tif", b"MM\0*": ".tif", b"II+\0": ".tif", b"MM\0+": ".tif"},
}
_ROWS = 32


def shards(root: Path) -> dict[str, list[Path]]:
    """The parquet files below a folder by the split that their names tell, such as data/train-00000-of-00002.parquet.

    Raises:
      UserError: a split is in several folders, as several data sets are.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.parquet")):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            stem = path.parent.name if path.stem.isdigit() and path.parent != root else path.stem
            found.setdefault(_NAME.fullmatch(stem)[1], []).append(path)
    for split, paths in found.items():
        folders = dict.fromkeys(str(path.parent) for path in paths)
        if len(folders) > 1:
            raise UserError(
                f"{root}: parquet files of {split!r} are in several folders, {', '.join(folders)}: give one of them as "
                "the folder of the data"
            )
    return found


def unpacked(root: Path, splits: Sequence[str] = (), images: str = "", masks: str = "") -> Path:
    """The folder with the pictures of some splits as files, which are written where they are not there yet.

    Args:
      root: the folder of the parquet files.
      splits: all by default.
      images: column of the images; "" finds it by its name and type.
      masks: that of the masks.

    Raises:
      UserError: there is no such split, a file cannot be read, or nothing can be written.
    """
    files = shards(root)
    if missing := [split for split in splits if split not in files]:
        raise UserError(
            f"{root}: no parquet file of the split {missing[0]!r}; there {'are' if len(files) != 1 else 'is'} "
            f"{', '.join(map(repr, files)) or 'none of any'}"
        )
    folder = cache_folder("parquet", root, [path for paths in files.values() for path in paths], [images, masks])
    for split in splits or files:
        write = functools.partial(_unpack, files[split], images, masks)
        write_once(folder / split, f"{len(files[split])} parquet file(s) of {root}", write)
    return folder


def _unpack(files: Sequence[Path], images: str, masks: str, folder: Path) -> None:
    """Writes the pictures of a split."""
    for part in ("images", "masks"):
        (folder / part).mkdir()
    pairs = (pair for path in files for pair in _pairs(path, images, masks))
    for row, pair in enumerate(pairs):
        for part, (data, what) in zip(("images", "masks"), pair):
            (folder / part / f"{row:07d}{_suffix(data, what)}").write_bytes(data)


def _pairs(path: Path, images: str, masks: str) -> Iterator[list[tuple[bytes, str]]]:
    """The encoded image and mask of each row, each with its place in words."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(f'{path}: parquet files take pyarrow, pip install "attnseg_jax[parquet]"') from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = _columns(path, file.schema_arrow, images, masks)
            row = 0
            for batch in file.iter_batches(_ROWS, columns=columns):
                for values in zip(*(batch.column(name).to_pylist() for name in columns)):
                    yield [_encoded(path, row, *pair) for pair in zip(columns, values)]
                    row += 1
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be read as parquet ({reason}): restore or remove it") from error


def _columns(path: Path, schema: Any, images: str, masks: str) -> list[str]:
    """The columns of images and masks."""
    pictures = [field.name for field in schema if _holds_pictures(field.type)]
    given = images or masks
    chosen = [
        name or next((usual for usual in usual_names if usual in pictures), "")
        for name, usual_names in ((images, _IMAGES), (masks, _MASKS))
    ]
    if len(pictures) == 2 and not given and any(chosen) and not all(chosen):
        other = next(name for name in pictures if name not in chosen)
        chosen = [name or other for name in chosen]
    if any(name not in pictures for name in chosen):
        found = f"columns with pictures are {', '.join(map(repr, pictures))}" if pictures else "no column has pictures"
        raise UserError(
            f"{path}: {found} (of {', '.join(schema.names)}): name that of the images and that of the masks by "
            "--config.data.layout=parquet --config.data.images=COLUMN --config.data.masks=COLUMN"
        )
    return chosen


def _holds_pictures(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)


def _encoded(path: Path, row: int, column: str, value: Any) -> tuple[bytes, str]:
    what = f"{path}: row {row}, column {column!r}"
    data = value.get("bytes") if isinstance(value, dict) else value
    beside = path.parent / (value.get("path") or "") if isinstance(value, dict) else path.parent
    if data is None and beside.is_file():
        data = beside.read_bytes()
    if not data:
        raise UserError(f"{what} holds no picture: a file of parquet must bring the bytes along")
    return data, what


def _suffix(data: bytes, what: str) -> str:
    for start, suffix in _STARTS.items():
        if data.startswith(start):
            return suffix
    raise UserError(f"{what} is no picture of a kind that is read: PNG, JPEG, TIFF, WebP, GIF and BMP are")
