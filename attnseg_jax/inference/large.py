"""TIFF files of any size, predicted in windows and written by tiles: memory holds a band of rows, not the picture."""

import contextlib
import functools
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from attnseg_jax.data import bands
from attnseg_jax.data.pipeline import padded_size
from attnseg_jax.data.tiff_pieces import PIECE, Pieces, as_rgb, is_rgb
from attnseg_jax.data.transforms.normalise_pad import normalised_and_padded
from attnseg_jax.errors import NotFinite, UserError
from attnseg_jax.inference.geotiff import place_of
from attnseg_jax.inference.predictor import Predictor
from attnseg_jax.inference.programs import TooLarge, within_memory
from attnseg_jax.ops.decision import Decision, class_logits
from attnseg_jax.ops.sliding import importance, starts
from attnseg_jax.train.forward import window_and_stride, windows_at_once
from attnseg_jax.train.step import model_inputs

# Rows and columns of a tile of the mask; bytes of logits that are summed at a time.
_TILE = 256
_LOGITS = 1 << 29


def predict_large(predictor: Predictor, path: Path, target: Path, *, band: int = _LOGITS) -> Int[np.ndarray, "k"]:
    """Predicts a TIFF file as `config.eval.mode='slide'` does, and writes its mask as a TIFF file.

    The mask is that of `Predictor`, has a palette, and lies where the file does on the map.

    Args:
      predictor: of a run, with `config.eval.mode='slide'`.
      path: of the file: 8 bits, gray or RGB, or of the model's channels.
      target: of the mask; whole or not there.
      band: bytes of logits that are summed at a time, at least for a window.

    Returns:
      The number of pixels of each class.

    Raises:
      UserError: the package tifffile is missing, or the config or the file is of another kind.
      NotFinite: logits are not finite.
    """
    _check(predictor, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _opened(path) as tiff, tempfile.TemporaryFile(dir=target.parent) as file:
        pieces = _pieces(path, tiff, predictor.config.data.channels)
        height, width, _ = pieces.shape
        dtype = np.dtype(np.uint8 if len(predictor.info.class_names) <= 256 else np.uint16)
        counts = np.zeros(len(predictor.info.class_names), np.int64)
        try:
            for top, left, mask in _bands(predictor, pieces, band):
                counts += np.bincount(mask.ravel(), minlength=len(counts))
                for row, values in enumerate(mask.astype(dtype), top):
                    file.seek((row * width + left) * dtype.itemsize)
                    file.write(values.tobytes())
        except TooLarge as error:
            raise UserError(f"{path}: its windows take {error}: lower config.eval.windows or window") from None
        _write(file, (height, width), dtype, predictor, path, target)
    return counts


def _check(predictor: Predictor, path: Path) -> None:
    config = getattr(predictor, "config", None)
    if config is None or config.eval.mode != "slide":
        raise UserError(
            f"{path}: a picture of this size is predicted in windows: give the folder of a run, and "
            "--config.eval.mode=slide"
        )
    views = tuple(config.eval.scales) != (1.0,) or config.eval.flip
    if views or config.data.shorter_side or config.data.resolution != 1:
        raise UserError(
            f"{path}: a picture of this size is predicted as it is: leave config.eval.scales and flip at their "
            "defaults, set config.data.shorter_side=0, and train with config.data.resolution=1"
        )
    if predictor.decision.multilabel:
        raise UserError(f"{path}: a picture of this size gets one mask, and config.data.mode='multilabel' has several")
    if len(model_inputs(predictor.model)) > 1:
        raise UserError(f"{path}: config.model.kind={config.model.kind!r} takes regions of whole pictures only")


def _bands(predictor: Predictor, pieces: Pieces, band: int) -> Iterator[tuple[int, int, Int[np.ndarray, "y x"]]]:
    """Parts of the mask with the row and column where they begin."""
    config, classes, decision = predictor.config, len(predictor.info.class_names), predictor.decision
    sizes = window_and_stride(config, predictor.multiple)
    height, width, _ = pieces.shape
    padded = padded_size((height, width), predictor.multiple)
    window = tuple(min(n, m) for n, m in zip(sizes["window"], padded))
    tops, lefts = (starts(n, m, s) for n, m, s in zip(padded, window, sizes["stride"]))
    weights = importance(window, config.eval.blend)
    count = windows_at_once(config, window, predictor.mesh.size if predictor.mesh else 1)
    logits = functools.partial(_logits, jax.jit(_weighted, static_argnums=(0, 1)), predictor, weights)
    wide = max(window[1], band // (window[0] * classes * 4))
    for left in range(0, width, wide):
        right = min(left + wide, width)
        columns = [x for x in lefts if x < right and x + window[1] > left]
        first, last = columns[0], columns[-1] + window[1]
        # The last channel is the sum of weights.
        total = np.zeros((window[0], last - first, classes + 1), np.float32)
        for top, following in zip(tops, [*tops[1:], padded[0]]):
            # As many rows more as the bottom may mirror.
            above = max(0, min(top, height - predictor.multiple))
            read = pieces.part(slice(above, min(top + window[0], height)), slice(0, width))
            read = bands.joined([pieces.path], [read]) if config.data.channels else as_rgb(read)
            rows = _padded(read, config, (top + window[0] - above, padded[1]))[top - above :]
            for part in range(0, len(columns), count):
                places = columns[part : part + count]
                found = logits(np.stack([rows[:, x : x + window[1]] for x in places]), count)
                for x, values in zip(places, found):
                    part_of = total[:, x - first : x - first + window[1]]
                    part_of[..., :-1] += values
                    part_of[..., -1] += weights
            # No later window reaches these rows.
            done = total[: min(following, height) - top, left - first : right - first]
            done = done[..., :-1] / done[..., -1:]
            if not np.isfinite(done).all():
                raise NotFinite(f"{pieces.path}: the logits of the model are not finite: take another checkpoint")
            yield top, left, decision.classes(decision.from_linear(done))
            total[: len(total) - (following - top)] = total[following - top :]
            total[len(total) - (following - top) :] = 0


def _padded(pixels: np.ndarray, config: Any, size: tuple[int, int]) -> Float[np.ndarray, "h w c"]:
    """Rows as the model takes them, padded at the bottom and right."""
    return normalised_and_padded({"image": pixels}, config.data, size, config.eval.padding)["image"]


def _weighted(
    model: Any, decision: Decision, variables: PyTree, weights: Array, windows: Array
) -> Float[Array, "n h w k"]:
    logits = class_logits(model.apply(variables, windows, train=False).logits).astype(jnp.float32)
    return decision.to_linear(logits) * weights[None, :, :, None]


def _logits(
    program: Callable, predictor: Predictor, weights: np.ndarray, windows: np.ndarray, count: int
) -> Float[np.ndarray, "n h w k"]:
    """Those of windows, in a program for `count` of them."""
    filled, mesh = np.concatenate([windows, np.repeat(windows[:1], count - len(windows), 0)]), predictor.mesh
    if mesh:
        filled = jax.device_put(filled, NamedSharding(mesh, PartitionSpec(mesh.axis_names)))
    with jax.set_mesh(mesh) if mesh else contextlib.nullcontext():
        found = within_memory(
            lambda: np.asarray(program(predictor.model, predictor.decision, predictor.placed, weights, filled))
        )
    return found[: len(windows)]


def _tifffile(path: Path) -> Any:
    try:
        import tifffile
    except ModuleNotFoundError:
        hint = "pip install 'attnseg_jax[tiff]'"
        raise UserError(f"{path}: a TIFF file of this size needs the package tifffile: {hint}") from None
    return tifffile


def _opened(path: Path) -> Any:
    tifffile = _tifffile(path)
    try:
        return tifffile.TiffFile(path)
    except (tifffile.TiffFileError, ValueError) as error:
        raise UserError(f"{path}: cannot be decoded ({' '.join(str(error).split())})") from error


def _pieces(path: Path, tiff: Any, channels: int) -> Pieces:
    """The picture in an open file, of `config.data.channels`."""
    pages = bands.pages_in_pieces(tiff) if channels else tiff.pages[:1]
    if not channels and not is_rgb(pages[0]):
        raise UserError(
            f"{path}: of this size TIFF files of 8 bits are read, gray or RGB, channels side by side, upright"
        )
    found = sum(page.samplesperpixel for page in pages)
    if channels and found != channels:
        raise UserError(
            f"{path}: the file has {found} channels that can be read in pieces, and config.data.channels={channels}"
        )
    pieces = Pieces(path, pages)
    if pieces.rows * math.prod(pieces.shape[1:]) > PIECE:
        raise UserError(f"{path}: its pieces have {pieces.rows} rows, too many for the memory: write it by tiles")
    return pieces


def _write(
    file: BinaryIO, size: tuple[int, int], dtype: np.dtype, predictor: Predictor, path: Path, target: Path
) -> None:
    """Writes the rows in `file` by tiles."""
    h, w = size

    def tiles() -> Iterator[np.ndarray]:
        for top in range(0, h, _TILE):
            file.seek(top * w * dtype.itemsize)
            rows = np.frombuffer(file.read(min(_TILE, h - top) * w * dtype.itemsize), dtype).reshape(-1, w)
            for left in range(0, w, _TILE):
                tile = np.zeros((_TILE, _TILE), dtype)
                part = rows[:, left : left + _TILE]
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile

    options: dict[str, Any] = {"photometric": "minisblack"}
    if dtype == np.uint8:
        colours = np.zeros((3, 256), np.uint16)
        colours[:, : len(predictor.info.palette)] = np.asarray(predictor.info.palette).T * np.uint16(257)
        options = {"photometric": "palette", "colormap": colours}
    place = place_of(path)
    tags = [(tag, kind, len(values), values, True) for tag, (kind, values) in place.tags.items()] if place else []
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        _tifffile(path).imwrite(
            temporary, tiles(), shape=size, dtype=dtype, tile=(_TILE, _TILE), compression="zlib", metadata=None,
            extratags=tags, **options,
        )  # fmt: skip
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
