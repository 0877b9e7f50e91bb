"""The largest batch or crop that the memory of a chip holds, found by few plans."""

import math
from collections.abc import Callable

from absl import logging
from ml_collections import ConfigDict

from attnseg_jax.data import datasets
from attnseg_jax.errors import UserError
from attnseg_jax.planning.chips import Slice
from attnseg_jax.planning.plan import Plan, describe_size, make_plan
from attnseg_jax.train.setup import make_model

# Programs that are compiled, at most.
_TRIES = 6
# Pixels by which crops differ, at least.
_STEP = 32


def largest_batch(config: ConfigDict, where: Slice) -> Plan:
    """The plan with the most images on each chip that its memory holds."""
    accumulate = config.train.accumulate
    start = max(1, config.train.batch_size // where.count // accumulate)
    return largest(lambda n: make_plan(config, where, rows=n * accumulate), start, lambda n: n)


def largest_crop(config: ConfigDict, where: Slice) -> Plan:
    """The plan with the largest crops of the config's proportions that the memory of each chip holds."""
    multiple = make_model(config, datasets.info(config.data).num_classes).size_multiple
    step = multiple * math.ceil(_STEP / multiple)
    height, width = config.data.crop

    def plan(n: int) -> Plan:
        return make_plan(config, where, crop=(n * step, max(1, round(n * width / height)) * step))

    return largest(plan, max(1, height // step), lambda n: n * n)


def largest(plan: Callable[[int], Plan], start: int, size: Callable[[int], int]) -> Plan:
    """The last of `plan(1), plan(2), ...` that fits, whose memory grows with `size`; few of them are looked at."""
    best, too_large, n = None, None, start
    found: dict[int, int] = {}
    for _ in range(_TRIES):
        current = plan(n)
        logging.info("%s", describe_size(current))
        if current.fits:
            best = (n, current)
        else:
            too_large = n
        if current.memory is not None:
            found[n] = current.memory.total
        n = _next(found, size, best and best[0], too_large, current.slice.chip.memory)
        if n is None or n in found:
            break
    if best is None:
        raise UserError(
            f"--topology={current.slice.name}: not even {describe_size(current)} fits: choose chips with more memory, "
            "config.parallel='fsdp', config.remat='blocks' or a smaller crop"
        )
    return best[1]


def _next(
    found: dict[int, int], size: Callable[[int], int], fitting: int | None, too_large: int | None, memory: float
) -> int | None:
    """What to try after these; None when the answer is known."""
    if fitting is None:
        return too_large // 2 or None
    if too_large == fitting + 1:
        return None
    if len(found) < 2:
        return fitting * 2 if too_large is None else (fitting + too_large) // 2
    (a, bytes_a), (b, bytes_b) = sorted(found.items())[-2:]
    each = max((bytes_b - bytes_a) / (size(b) - size(a)), 1.0)
    n = fitting
    # A fiftieth is left: the compiler's choices are not quite proportional.
    while bytes_a + each * (size(n + 1) - size(a)) <= 0.98 * memory and n + 1 != too_large:
        n += 1
    return n if n > fitting else None
