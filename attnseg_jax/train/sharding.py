"""How the arrays of a state are split over the devices: rules, and their names in a config."""

import math
from collections.abc import Callable

from jax.sharding import PartitionSpec

from attnseg_jax.ops.norm import DATA_AXIS

# (path such as 'params/backbone/conv1/kernel', shape) -> how that array of the state is split over the devices.
ShardingRule = Callable[[str, tuple[int, ...]], PartitionSpec]


def replicated(path: str, shape: tuple[int, ...]) -> PartitionSpec:
    """The default rule: every device has the whole state."""
    return PartitionSpec()


SHARDINGS: dict[str, ShardingRule] = {"replicated": replicated}

# Elements of an array that is worth splitting: gathering less takes longer than what it saves is worth.
_WORTH_SPLITTING = 1024


def fully_sharded(path: str, shape: tuple[int, ...], *, devices: int) -> PartitionSpec:
    """The rule of `config.parallel='fsdp'`: an array is split along its largest axis that the devices divide.

    Of equal axes it is the last. Small arrays, and those without such an axis, are whole on every device.

    >>> tuple(fully_sharded("params/head/kernel", (3, 3, 64, 256), devices=8))
    (None, None, None, 'data')
    >>> tuple(fully_sharded("params/head/bias", (256,), devices=8))
    ()
    """
    axes = [axis for axis, length in enumerate(shape) if length % devices == 0]
    if math.prod(shape) < _WORTH_SPLITTING or not axes:
        return PartitionSpec()
    split = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*(DATA_AXIS if axis == split else None for axis in range(len(shape))))
