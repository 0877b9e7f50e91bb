"""Batches for training and evaluation, from a source, through grain's threads."""

import contextlib
import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import grain
import numpy as np
from absl import logging

from attnseg_jax.data import regions
from attnseg_jax.data.sources import Source
from attnseg_jax.data.transforms import augment, normalise, pad, pad_regions
from attnseg_jax.errors import UserError
from attnseg_jax.ops.labels import IGNORE_LABEL

Batch = dict[str, np.ndarray]

_MANY_SIZES = 8
_SIZES_HINT = "the images have %d sizes, each of which is compiled for: config.eval.size_multiple=64 pads them to fewer"


def train_batches(
    source: Source,
    config: Any,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Endless augmented batches of this process: image float32 [b, h, w, 3], label int32 [b, h, w], valid bool [b].

    `batch_size` is global: row r of the global batch of a step goes to process r % process_count, so that the union
    over processes does not depend on their number.  Row and step decide everything (with `seed`): neither threads nor
    where the run was resumed (`start_step`) change a pixel.  Every epoch has its own order; a data set smaller than a
    batch is repeated within it.  Close the iterator to end its threads.  Raises UserError for sizes that do not divide.

    Where `config.regions` has a method there are 'regions' int32 [b, h, w, l] too, without any change to the others:
    ids from 0 to `config.regions.count` - 1 at each of l levels, -1 where a pixel has none (see `regions.numbered`).
    With `config.regions.sample` only so many are drawn, with ids below that, and pixels of none of them have no label.
    """
    rows = _local(batch_size, process_count)
    if not 0 <= seed < 2**32:
        raise UserError(f"config.seed={seed} is out of range; use 0 to {2**32 - 1}")
    # random_map before the slice: its randomness hangs on the global row, whatever process handles it.
    data = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(partial(_augment, config=config))
        .slice(slice(process_index + start_step * batch_size, None, process_count))
    )
    return _stacked(data, config.threads, rows)


def eval_batches(
    source: Source,
    config: Any,
    *,
    batch_size: int,
    multiple: int = 1,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """This process's batches over every image of `source` once, at full size, in one pass.

    Height and width are padded at the end to multiples of `multiple` with the mean colour and label 255.

    As `train_batches` (row r to process r % process_count; 'regions'), with 'index' int32 [b], the place in the source.
    Images of one size share batches, sizes in the order in which they first occur; what is missing of a size's last
    batch is padding: valid False, index -1, image 0, label 255, regions -1.  Every process gets the same number of
    batches.
    """
    rows = _local(batch_size, process_count)
    groups: dict[tuple[int, int], list[int]] = {}
    for index in range(len(source)):
        h, w = source.size(index)
        groups.setdefault((-(-h // multiple) * multiple, -(-w // multiple) * multiple), []).append(index)
    if len(groups) > _MANY_SIZES:
        logging.log_first_n(logging.WARNING, _SIZES_HINT, 1, len(groups))
    plan = []
    for size, members in groups.items():
        members += [-1] * (-len(members) % batch_size)
        plan += [(index, size) for index in members[process_index::process_count]]
    data = grain.MapDataset.source(plan).map(partial(_row, source=source, config=config))
    return _stacked(data, config.threads, rows)


def _local(batch_size: int, process_count: int) -> int:
    """Rows of a global batch that fall to one process."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size={batch_size} cannot be split over {process_count} processes; use a positive multiple of that"
        )
    return batch_size // process_count


def _augment(sample: dict[str, Any], rng: np.random.Generator, config: Any) -> Batch:
    if regions.used(config.regions):
        sample = {**sample, "regions": regions.cached(sample["image"], config.regions)}
    return {**augment(sample, rng, config), "valid": np.bool_(True)}


def evaluation_sample(sample: dict[str, Any], config: Any, size: tuple[int, int] | None = None) -> Batch:
    """A sample as evaluation sees it: 'image', 'label' and, with a method, 'regions' as in `eval_batches`, without b.

    Padded at the end to `size` (h, w) where that is given.
    """
    size = size or sample["label"].shape
    image, label = pad(normalise(sample["image"], config.mean, config.std), sample["label"], size, (0, 0))
    row = {"image": image, "label": label}
    if regions.used(config.regions):
        found = regions.cached(sample["image"], config.regions)
        row["regions"] = pad_regions(found, size, (0, 0), config.regions.count)
    return row


def _row(place: tuple[int, tuple[int, int]], source: Source, config: Any) -> Batch:
    index, size = place
    row = {"valid": np.bool_(index >= 0), "index": np.int32(index)}
    if index >= 0:
        return row | evaluation_sample(source[index], config, size)
    row |= {"image": np.zeros((*size, 3), np.float32), "label": np.full(size, IGNORE_LABEL, np.int32)}
    if regions.used(config.regions):
        row["regions"] = np.full((*size, regions.levels(config.regions)), regions.NO_REGION, np.int32)
    return row


def _stacked(data: grain.MapDataset, threads: int, rows: int) -> Iterator[Batch]:
    """Batches of `rows` consecutive elements; two batches are decoded ahead."""
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * rows if threads else 0)
    with contextlib.closing(iter(data.to_iter_dataset(options))) as elements:
        while batch := list(itertools.islice(elements, rows)):
            yield {key: np.stack([row[key] for row in batch]) for key in batch[0]}
