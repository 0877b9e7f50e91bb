"""The memory that there is, and how much of a batch of an evaluation fits into it."""

import math
from collections.abc import Iterable, Iterator, Mapping

import jax
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from attnseg_jax.data.limits import host_bytes
from attnseg_jax.errors import UserError
from attnseg_jax.train.logging import say
from attnseg_jax.train.parallel import Parallel

Batch = Mapping[str, np.ndarray]


def is_exhausted(error: jax.errors.JaxRuntimeError) -> bool:
    """Whether XLA says that a program needs more memory than there is."""
    return "RESOURCE_EXHAUSTED" in str(error)


def free_bytes(device: jax.Device) -> float:
    """The memory that a device has left; on a CPU that of the machine, divided among its devices."""
    if device.platform == "cpu":
        return host_bytes() / jax.local_device_count("cpu")
    stats = device.memory_stats() or {}
    return stats["bytes_limit"] - stats["bytes_in_use"] if {"bytes_limit", "bytes_in_use"} <= {*stats} else math.inf


def shared(value: float) -> float:
    """The least of the processes' values, for decisions that all of them have to take alike."""
    return value if jax.process_count() == 1 else float(np.min(multihost_utils.process_allgather(np.float64(value))))


def fitting(batches: Iterable[Batch], parallel: Parallel, variables: PyTree) -> Iterator[Batch]:
    """Batches of an evaluation, those too large for the memory divided; the compiled program tells what it takes.

    Raises:
      UserError: one image on each device is too much.
    """
    for batch in batches:
        count, shapes = len(batch["image"]), (batch["image"].shape, batch["label"].shape)
        if shapes not in parallel.fitting_rows:
            parallel.fitting_rows[shapes] = _rows_that_fit(batch, parallel, variables)
        rows = parallel.fitting_rows[shapes]
        if rows >= count:
            yield batch
        else:
            yield from (_rows(batch, start, rows) for start in range(0, count, rows))


def _rows_that_fit(batch: Batch, parallel: Parallel, variables: PyTree) -> int:
    rows, sizes = len(batch["image"]), [batch[name].shape[1:3] for name in ("image", "label")]
    size = "{} x {} pixels".format(*sizes[0])
    size += " with masks of {} x {}".format(*sizes[1]) if sizes[0] != sizes[1] else ""
    least = len(parallel.local_devices)
    while True:
        say(f"evaluate: compiling for {rows * jax.process_count()} images of {size} at once")
        needed = parallel.evaluation_bytes(variables, _rows(batch, 0, rows))
        free = shared(min(map(free_bytes, parallel.local_devices)))
        if needed <= free:
            return rows
        if rows <= least:
            raise UserError(
                f"to evaluate an image of {size} ({batch['id'][0]}) takes about {needed / 2**30:.3g} GiB on a device "
                f"that has {free / 2**30:.3g} GiB left: set or lower config.data.shorter_side, or cut such images "
                "into smaller ones"
            )
        rows = max(rows // 2, least)
        logging.warning(
            "evaluate: %d images of %s at once would take %.3g GiB of the %.3g GiB left: %d at once",
            len(batch["image"]), size, needed / 2**30, free / 2**30, rows,
        )  # fmt: skip


def _rows(batch: Batch, start: int, count: int) -> dict[str, np.ndarray]:
    """`count` rows from `start` on; where there are fewer, the first one again, as rows of padding."""
    places = np.arange(start, start + count)
    inside = places < len(batch["image"])
    found = {name: x[np.where(inside, places, 0)] for name, x in batch.items()}
    found["valid"] = found["valid"] & inside
    if "index" in found:
        found["index"] = np.where(inside, found["index"], np.int32(-1))
    return found
