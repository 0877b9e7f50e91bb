"""Batches for training and evaluation, from a source, through grain's threads."""

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from attnseg_jax.data import regions, sampling
from attnseg_jax.data.sources import ByWindow, Source, check_sample
from attnseg_jax.data.transforms import augment, needs_others
from attnseg_jax.data.transforms.fields import (
    SIZES,
    batch_fields,
    canvas,
    fill_value,
    map_pixels,
    pad,
    padded,
    padded_size,
    pixel_fields,
    shortened,
)
from attnseg_jax.data.transforms.normalise_pad import normalised_and_padded
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL

Batch = dict[str, np.ndarray]

# Of a pixel's image and label in a batch.
_PIXEL_BYTES = 3 * 4 + 4
# Of the images that an evaluation decodes ahead, at most.
_AHEAD_BYTES = 1 << 30


def train_batches(
    source: Source,
    config: Any,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    multiple: int = 1,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Endless augmented batches of this process: image float32 [b, h, w, 3], label int32 [b, h, w], valid bool [b].

    `batch_size` is global, a multiple of `process_count`: row r of the global batch of a step goes to process
    r % process_count, so that the union over processes does not depend on their number.  Row and step decide everything
    (with `seed`): neither threads nor where the run was resumed (`start_step`) change a pixel.  Every epoch has its own
    order; a data set smaller than a batch is repeated within it, and `config.sampling` draws some images more often.
    Close the iterator to end its threads.

    Crops are padded at the end to multiples of `multiple`.  Whatever else the source and the transforms
    (`config.transforms`) put into a sample is stacked too, under its name.
    Where `config.regions` has a method there are 'regions' int32 [b, h, w, l], without any change to the others: ids
    from 0 to `config.regions.count` - 1 on each of l levels, -1 where a pixel has none.  With `config.regions.sample`
    only that many are drawn, with ids below that, and pixels of none of them have no label.

    Raises:
      UserError: an unknown transform, samples of a batch that do not fit together.
    """
    rows = batch_size // process_count
    others = source if needs_others(config) else None
    samples = training_samples(source, config)
    drawn = sampling.Drawn(samples, sampling.places(samples, config)) if sampling.is_used(config.sampling) else samples
    make = functools.partial(
        _training_row, config=config, values=source.info.num_values, multiple=multiple, others=others
    )
    # random_map before the slice: its randomness depends on the global row, not on the process that handles it.
    data = (
        grain.MapDataset.source(drawn)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(make)
        .slice(slice(process_index + start_step * batch_size, None, process_count))
    )
    return _stacked(data, config.threads, rows, ahead=2 * rows)


def training_samples(source: Source, config: Any) -> Source:
    """The source, by window (`windows.FileArray`) where nothing but a crop looks at its pictures."""
    crops_first = config.transforms[:1] == ("scale_crop",) and not regions.used(config.regions)
    return ByWindow(source) if crops_first else source


def eval_batches(
    source: Source,
    config: Any,
    *,
    batch_size: int,
    multiple: int = 1,
    padding: str = "mean",
    max_bytes: float = math.inf,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's batches over every image of `source` once, at full size, in one pass.

    Height and width are padded at the end to multiples of `multiple`, images with the mean colour or, where `padding`
    is 'reflect', with their mirror image, labels with 255. Where `config.shorter_side` resizes images before that,
    labels keep their size: `SIZES` int32 [b, 2, 2] has height and width, without padding, of each image and its label.

    As `train_batches` (row r to process r % process_count; further fields of the source; 'regions'), with 'index'
    int32 [b], the place in the source, and 'id' [b], the name there.  No transform is applied.  Images of one padded
    size, whose labels have one too, share batches, sizes in the order in which they first occur.  The batches of a size
    have one number of rows: `batch_size`, or fewer where that leaves fewer of them empty or images and labels of so
    many take more than `max_bytes`.  Empty rows have valid False, index -1, id "", image 0, label 255, regions -1,
    other fields 0.  Every process gets the same number of batches.
    """
    groups: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = {}
    for index in range(len(source)):
        size = source.size(index)
        image = padded_size(shortened(size, config, f"image {index}").scaled, multiple)
        sizes = image, canvas(size) if config.shorter_side else image
        groups.setdefault(sizes, []).append(index)
    for sizes, members in groups.items():
        image_bytes = _PIXEL_BYTES * max(map(math.prod, sizes))
        most = int(min(batch_size, max_bytes // image_bytes))
        rows = _even_rows(len(members), most, process_count)
        places = members + [-1] * (-len(members) % rows)
        data = grain.MapDataset.source(places[process_index::process_count])
        data = data.map(functools.partial(_evaluation_row, source, members[0], config, multiple, padding))
        ahead = min(2 * rows, max(1, _AHEAD_BYTES // image_bytes))
        yield from _stacked(data, config.threads, rows // process_count, ahead=ahead)


def _even_rows(count: int, most: int, unit: int) -> int:
    """Rows of each batch when `count` are spread evenly over as few batches of at most `most` as there can be.

    They are a multiple of `unit`, and at least that.

    >>> _even_rows(101, 16, 1), _even_rows(101, 16, 4), _even_rows(1, 16, 4), _even_rows(7, 0, 2)
    (15, 16, 4, 2)
    """
    most = max(most // unit, 1) * unit
    rows = -(-count // -(-count // most))
    return -(-rows // unit) * unit


def _evaluation_row(source: Source, first: int, config: Any, multiple: int, padding: str, index: int) -> Batch:
    """The row of an image, or an empty one like that of the image `first` where `index` is below 0."""
    sample = source[first if index < 0 else index]
    row = evaluation_sample(sample, config, multiple, padding)
    if index < 0:
        return _padding_row(row) | {"id": np.str_("")}
    return row | {"valid": np.bool_(True), "index": np.int32(index), "id": np.str_(sample["id"])}


def _training_row(
    sample: dict[str, Any],
    rng: np.random.Generator,
    *,
    config: Any,
    values: int,
    multiple: int,
    others: Source | None = None,
) -> Batch:
    check_sample(sample, config.channels, multilabel=config.mode == "multilabel")
    sample = with_others(sample, others)
    name, sample = sample["id"], regions.with_regions(sample, config.regions)
    row = {**padded(augment(sample, rng, config), multiple), "valid": np.bool_(True)}
    # The loss would be NaN, which has many reasons.
    unknown = row["label"][((row["label"] < 0) | (row["label"] >= values)) & (row["label"] != IGNORE_LABEL)]
    if unknown.size:
        raise UserError(
            f"{name}: config.data.source and config.data.transforms={tuple(config.transforms)} give the label "
            f"{unknown[0]}, and there are {values} classes: use 0 to {values - 1}, or {IGNORE_LABEL} to ignore it"
        )
    return row


def with_others(sample: dict[str, Any], source: Source | None) -> dict[str, Any]:
    """The sample with what transforms that mix samples draw others with, where a source of them is given."""
    if source is None:
        return sample
    return {**sample, "others": lambda rng: source[int(rng.integers(len(source)))]}


def evaluation_sample(sample: dict[str, Any], config: Any, multiple: int = 1, padding: str = "mean") -> Batch:
    """A sample as every evaluation and prediction sees it: a row of `eval_batches`, without 'valid' and 'index'."""
    check_sample(sample, config.channels, multilabel=config.mode == "multilabel")
    label, window = sample["label"], shortened(sample["label"].shape[:2], config, sample["id"])
    sample = map_pixels(sample, window.cut_field)
    sample = regions.for_model(regions.with_regions(sample, config.regions), config.regions)
    size = padded_size(window.scaled, multiple)
    row = batch_fields(normalised_and_padded(sample, config, size, padding))
    if not config.shorter_side:
        return row
    full = label.shape[:2]
    label = pad(label, canvas(full), (0, 0), fill_value("label", label.dtype))
    return row | {"label": label, SIZES: np.int32([window.scaled, full])}


def unlabelled(image: np.ndarray, name: str, config: Any) -> dict[str, Any]:
    """The sample of an image whose label is not known."""
    classes = (1,) if config.mode == "multilabel" else ()
    return {"image": image, "label": np.full((*image.shape[:2], *classes), IGNORE_LABEL, np.uint8), "id": name}


def _padding_row(row: Batch) -> Batch:
    """A row of padding with the fields of `row`."""
    # A label may have a size of its own.
    pixels = {**pixel_fields(row), "label": row["label"]}
    pixels = {name: np.full_like(x, fill_value(name, x.dtype)) for name, x in pixels.items()}
    blank = {name: np.zeros_like(x) for name, x in row.items()}
    return blank | pixels | {"valid": np.bool_(False), "index": np.int32(-1)}


def _stacked(data: grain.MapDataset, threads: int, rows: int, *, ahead: int) -> Iterator[Batch]:
    """Batches of `rows` consecutive elements; `ahead` elements are decoded ahead."""
    # Of more threads than elements ahead the others would have nothing to do.
    options = grain.ReadOptions(min(threads, ahead), prefetch_buffer_size=ahead if threads else 0)
    with contextlib.closing(iter(data.to_iter_dataset(options))) as elements:
        while batch := list(itertools.islice(elements, rows)):
            yield {name: _stack(name, batch) for name in dict.fromkeys(itertools.chain(*batch))}


def _stack(name: str, rows: Sequence[Batch]) -> np.ndarray:
    """A field of all rows; raises UserError where it is missing in one or has another shape there."""
    shapes = {np.shape(row[name]) if name in row else None for row in rows}
    if len(shapes) > 1:
        found = ", ".join(sorted("missing" if shape is None else str(shape) for shape in shapes))
        raise UserError(
            f"the field {name!r} differs between samples of one batch ({found}): config.data.source and "
            "config.data.transforms must give it one shape in every sample"
        )
    return np.stack([row[name] for row in rows])
