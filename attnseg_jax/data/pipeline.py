"""Batches for training and evaluation, from a source, through grain's threads."""

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import logging

from attnseg_jax.data import regions
from attnseg_jax.data.sources import Source, check_sample
from attnseg_jax.data.transforms import augment, batch_fields, chosen, normalised_and_padded, padding, pixel_fields
from attnseg_jax.errors import UserError

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
    batch is repeated within it.  Close the iterator to end its threads.

    Whatever else the source and the transforms (`config.transforms`) put into a sample is stacked too, under its name.
    Where `config.regions` has a method there are 'regions' int32 [b, h, w, l], without any change to the others: ids
    from 0 to `config.regions.count` - 1 on each of l levels, -1 where a pixel has none.  With `config.regions.sample`
    only that many are drawn, with ids below that, and pixels of none of them have no label.

    Raises:
      UserError: sizes that do not divide, an unknown transform, samples of a batch that do not fit together.
    """
    rows = _rows_of_process(batch_size, process_count)
    chosen(config)
    if not 0 <= seed < 2**32:
        raise UserError(f"config.seed={seed} is out of range; use 0 to {2**32 - 1}")
    # random_map before the slice: its randomness depends on the global row, not on the process that handles it.
    data = (
        grain.MapDataset.source(source)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(functools.partial(_training_row, config=config))
        .slice(slice(process_index + start_step * batch_size, None, process_count))
    )
    return _stacked(data, config.threads, rows)


def eval_batches(
    source: Source, config: Any, *, batch_size: int, multiple: int = 1, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """This process's batches over every image of `source` once, at full size, in one pass.

    Height and width are padded at the end to multiples of `multiple` with the mean colour and label 255.

    As `train_batches` (row r to process r % process_count; further fields of the source; 'regions'), with 'index'
    int32 [b], the place in the source.  No transform is applied.  Images of one size share batches, sizes in the order
    in which they first occur; a size's last batch is filled up with rows of padding: valid False, index -1, image 0,
    label 255, regions -1, other fields 0.  Every process gets the same number of batches.
    """
    rows = _rows_of_process(batch_size, process_count)
    groups: dict[tuple[int, int], list[int]] = {}
    for index in range(len(source)):
        h, w = source.size(index)
        groups.setdefault((-(-h // multiple) * multiple, -(-w // multiple) * multiple), []).append(index)
    if len(groups) > _MANY_SIZES:
        logging.log_first_n(logging.WARNING, _SIZES_HINT, 1, len(groups))
    first = {size: members[0] for size, members in groups.items()}

    def row(place: tuple[int, tuple[int, int]]) -> Batch:
        index, size = place
        if index < 0:
            return padding_row(size)
        found = evaluation_sample(source[index], config, size)
        return found | {"valid": np.bool_(True), "index": np.int32(index)}

    @functools.cache
    def padding_row(size: tuple[int, int]) -> Batch:
        # Has the fields and shapes of a row that holds an image of that size.
        return _padding_row(evaluation_sample(source[first[size]], config, size))

    plan = []
    for size, members in groups.items():
        members += [-1] * (-len(members) % batch_size)
        plan += [(index, size) for index in members[process_index::process_count]]
    return _stacked(grain.MapDataset.source(plan).map(row), config.threads, rows)


def _rows_of_process(batch_size: int, process_count: int) -> int:
    """Rows of a global batch that fall to one process."""
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size={batch_size} cannot be split over {process_count} processes; use a positive multiple of that"
        )
    return batch_size // process_count


def _training_row(sample: dict[str, Any], rng: np.random.Generator, config: Any) -> Batch:
    check_sample(sample)
    sample = regions.with_regions(sample, config.regions)
    return {**augment(sample, rng, config), "valid": np.bool_(True)}


def evaluation_sample(sample: dict[str, Any], config: Any, size: tuple[int, int] | None = None) -> Batch:
    """A sample as evaluation sees it: a row of `eval_batches`, without 'valid' and 'index'.

    Padded at the end to `size` (h, w) where that is given.
    """
    check_sample(sample)
    sample = regions.for_model(regions.with_regions(sample, config.regions), config.regions)
    return batch_fields(normalised_and_padded(sample, config, size or sample["label"].shape))


def _padding_row(row: Batch) -> Batch:
    """A row of padding with the fields of `row`."""
    pixels = {name: np.full_like(x, padding(name, x.dtype)) for name, x in pixel_fields(row).items()}
    blank = {name: np.zeros_like(x) for name, x in row.items()}
    return blank | pixels | {"valid": np.bool_(False), "index": np.int32(-1)}


def _stacked(data: grain.MapDataset, threads: int, rows: int) -> Iterator[Batch]:
    """Batches of `rows` consecutive elements; two batches are decoded ahead."""
    # Of more threads than elements ahead the others would have nothing to do.
    options = grain.ReadOptions(min(threads, 2 * rows), prefetch_buffer_size=2 * rows if threads else 0)
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
