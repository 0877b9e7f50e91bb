"""What a model makes of one picture."""

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8, UInt16
from PIL import Image

from attnseg_jax.errors import UserError, nearest
from attnseg_jax.files import write_atomically
from attnseg_jax.inference.geotiff import is_large, mask_bytes, place_of
from attnseg_jax.inference.pictures import Picture
from attnseg_jax.inference.polygons import feature_collection
from attnseg_jax.models.records import AttentionRecord, GateMap
from attnseg_jax.plots import attention_maps, html, segmentation
from attnseg_jax.plots.drawing import png_bytes, write_png

Look = tuple[dict[str, AttentionRecord], tuple[int, int], tuple[int, int]]
"""Attention records by name; height and width of what their maps cover, and of the picture within that."""

KINDS = ("mask", "overlay", "probabilities", "probability_maps", "entropy", "polygons")
"""What a prediction can be saved as, each in a folder of its own."""


class Prediction:
    """The prediction of one picture.

    Attributes:
      picture: where it is from.
      image: uint8 `[h, w, 3]`.
      mask: class of each pixel, uint8 `[h, w]`, uint16 beyond 256 classes; of a model with
        `config.data.mode='multilabel'` of each class whether it is there, 1 or 0, uint8 `[h, w, k]`.
      names: of the classes.
      palette: their colours, uint8 `[k, 3]`.
      look: gives all attention records of the picture, see `Look`.
    """

    picture: Picture
    image: UInt8[np.ndarray, "h w 3"]
    mask: UInt8[np.ndarray, "h w *k"] | UInt16[np.ndarray, "h w"]
    names: tuple[str, ...]
    palette: UInt8[np.ndarray, "k 3"]
    look: Callable[[], Look]

    def __init__(
        self,
        picture: Picture,
        image: UInt8[np.ndarray, "h w 3"],
        mask: np.ndarray,
        names: tuple[str, ...],
        palette: UInt8[np.ndarray, "k 3"],
        *,
        extras: Mapping[str, np.ndarray],
        compute: Callable[[str], np.ndarray],
        look: Callable[[], Look],
    ):
        """`extras` are at hand, `compute` gives others, `look` what the model attends to."""
        self.picture, self.image, self.mask, self.names, self.palette = picture, image, mask, names, palette
        self._extras, self._compute, self.look = dict(extras), compute, look

    @property
    def probabilities(self) -> Float[np.ndarray, "h w k"]:
        """Those of the classes, float16."""
        return self._extra("probabilities")

    @property
    def entropy(self) -> Float[np.ndarray, "h w"]:
        """That of the probabilities, from 0 (sure) to 1 (all classes alike)."""
        return self._extra("entropy")

    def areas(self) -> dict[str, int]:
        """The number of pixels of each class."""
        return dict(zip(self.names, self._pixels(), strict=True))

    def _pixels(self) -> list[int]:
        if self.mask.ndim == 3:
            return self.mask.sum((0, 1)).tolist()
        return np.bincount(self.mask.ravel(), minlength=len(self.names)).tolist()

    def overlay(self, opacity: float = 0.5) -> UInt8[np.ndarray, "h w 3"]:
        """The picture with the colours of the classes over it."""
        return segmentation.laid_over(self.image, self.mask, self.palette, opacity)

    def attention(self, name: str = "", at: tuple[int, int] | None = None) -> Float[np.ndarray, "a y x"]:
        """What a point of the picture attends to, or what a gate lets through, over the whole picture.

        Args:
          name: of the record, such as `self0`; "" for the first.
          at: the point (y, x) in pixels; by default the centre.

        Returns:
          A map for each head, on the positions that the model attends to; of a gate, for each of its channels. The
          map covers the picture as it was padded at the bottom and right for the model.

        Raises:
          UserError: there is no such record, or it is none of positions.
        """
        records, padded, scaled = self.look()
        name = name or next(iter(records))
        record = record_of(records, name)
        if isinstance(record, GateMap):
            return np.moveaxis(np.asarray(record.values[0]), -1, 0)
        if record.query_size is None or record.key_size is None:
            raise UserError(f"attention {name!r} is none between positions: attnseg-attention draws it")
        h, w = self.mask.shape[:2]
        y, x = (h // 2, w // 2) if at is None else at
        if not (0 <= y < h and 0 <= x < w):
            raise UserError(f"at={(y, x)} is outside the picture of {h} x {w} pixels")
        # The picture may have been resized on its way to the model.
        place = attention_maps.position((y * scaled[0] // h, x * scaled[1] // w), padded, record.query_size)
        return attention_maps.heat_maps(record, np.array([place]))[0, :, 0]

    def save(self, folder: str | Path, kinds: Collection[str] = ("mask", "overlay")) -> list[Path]:
        """Writes `KIND/NAME.png` for each of `KINDS` that is asked for, probabilities as `.npz`; returns the paths.

        A mask is a palette PNG whose values are the classes, of 16 bits gray beyond 256 classes; of a picture that is a
        GeoTIFF file it is one, too. Where classes may overlap each has one of its own, `mask/CLASS/NAME.png`, of 0 and
        1. Probability maps are `probability_maps/CLASS/NAME.png` of 8 bits, 255 for 1. Polygons are `.geojson`, see
        `polygons.feature_collection`.

        Raises:
          UserError: an unknown kind.
        """
        paths = outputs(self.picture, folder, kinds, self.names, overlapping=self.mask.ndim == 3)
        for name, path in paths.items():
            kind, _, of_class = name.partition("/")
            k = self.names.index(of_class) if of_class else 0
            if kind == "mask" and of_class:
                self._write_mask(path, self.mask[..., k], segmentation.palette_of_one(self.palette[k]))
            elif kind == "mask":
                self._write_mask(path, self.mask, self.palette)
            elif kind == "probability_maps":
                _write_share(path, self.probabilities[..., k])
            elif kind == "overlay":
                write_png(path, self._with_legend())
            elif kind == "probabilities":
                buffer = io.BytesIO()
                np.savez(buffer, probabilities=self.probabilities)
                write_atomically(path, buffer.getvalue())
            elif kind == "polygons":
                write_atomically(path, feature_collection(self.mask, self.names, place_of(self.picture.path)))
            else:
                _write_share(path, self.entropy)
        return list(paths.values())

    def _write_mask(self, path: Path, mask: np.ndarray, palette: UInt8[np.ndarray, "k 3"]) -> None:
        if path.suffix == ".tif":
            write_atomically(path, mask_bytes(mask, palette, place_of(self.picture.path)))
        elif mask.dtype == np.uint8:
            segmentation.write_label_map(mask, palette, path)
        else:
            write_png(path, Image.fromarray(mask))

    def _extra(self, name: str) -> np.ndarray:
        if name not in self._extras:
            self._extras[name] = self._compute(name)
        return self._extras[name]

    def _repr_png_(self) -> bytes:
        """The overlay with its legend, which notebooks show."""
        return png_bytes(self._with_legend())

    def _repr_html_(self) -> str:
        """The overlay and how much of the picture each class has, the largest first; notebooks show it."""
        h, w = self.mask.shape[:2]
        found = sorted(zip(self._pixels(), self.names, self.palette, strict=True), key=lambda of: -of[0])
        rows = [(html.swatch(colour) + html.text(name), f"{n / (h * w):.2%}") for n, name, colour in found if n]
        return html.figure(self.picture.name, Image.fromarray(self.overlay())) + html.table(("class", "share"), rows)

    def _with_legend(self) -> Image.Image:
        return segmentation.with_legend(self.overlay(), self.mask, self.names, self.palette)


def record_of(records: Mapping[str, AttentionRecord], name: str) -> AttentionRecord:
    """The attention record of a name, such as `self0`.  Raises UserError for an unknown one."""
    if name not in records:
        raise UserError(f"attention {name!r} is unknown: {nearest(name, records)}")
    return records[name]


def _write_share(path: Path, values: Float[np.ndarray, "h w"]) -> None:
    """A gray PNG of numbers from 0 to 1."""
    write_png(path, Image.fromarray(np.round(values.astype(np.float32) * 255).astype(np.uint8)))


def outputs(
    picture: Picture, folder: str | Path, kinds: Collection[str], names: Sequence[str], *, overlapping: bool = False
) -> dict[str, Path]:
    """Where `Prediction.save` writes each kind; of probability maps, and masks of `overlapping` classes, 'KIND/CLASS'.

    Raises:
      UserError: an unknown kind.
    """
    if unknown := set(kinds) - set(KINDS):
        raise UserError(f"{min(unknown)!r} is no kind of output: {nearest(min(unknown), KINDS)}")
    target, endings = Path(folder), {"probabilities": ".npz", "polygons": ".geojson"}
    if "mask" in kinds and (place_of(picture.path) or is_large(picture.path)):
        endings["mask"] = ".tif"
    found = {}
    for kind in kinds:
        each = kind == "probability_maps" or (kind == "mask" and overlapping)
        file = picture.target.parent / f"{picture.target.name}{endings.get(kind, '.png')}"
        found |= {name: target / name / file for name in ([f"{kind}/{one}" for one in names] if each else [kind])}
    return found
