"""The machines that a training can be planned for: what their chips can do, and compilers for those that are not here.

The figures are those of the makers' data sheets: Google's pages of each TPU version, NVIDIA's of each GPU. Rates are
peaks, of dense products in bfloat16; `links` is what one chip can send to the others.
"""

import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from attnseg_jax.errors import UserError, nearest


@dataclass(frozen=True)
class Chip:
    """What one chip can do.

    Attributes:
      name: as a topology is written.
      platform: of JAX.
      memory: bytes.
      bandwidth: of the memory, bytes per second.
      flops: operations per second.
      links: bytes per second to other chips.
      clock: Hz, of the compiler's cycles; 0 where no compiler tells cycles.
      cores: of a TPU chip.
    """

    name: str
    platform: str
    memory: float
    bandwidth: float
    flops: float
    links: float
    clock: float = 0.0
    cores: int = 1


GiB, GB, T = 2.0**30, 1e9, 1e12
# Clocks follow from the peak: operations per second / (2 x 128 x 128 x matrix units; on v6e 256 x 256).
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", "tpu", 32 * GiB, 1228 * GB, 275 * T, 300 * GB, 1.05e9, cores=2),
        Chip("v5e", "tpu", 16 * GiB, 819 * GB, 197 * T, 200 * GB, 1.5e9),
        Chip("v5p", "tpu", 95 * GiB, 2765 * GB, 459 * T, 600 * GB, 1.75e9, cores=2),
        Chip("v6e", "tpu", 32 * GiB, 1640 * GB, 918 * T, 400 * GB, 1.75e9),
        Chip("a100", "gpu", 80 * GB, 2039 * GB, 312 * T, 300 * GB),
        Chip("h100", "gpu", 80 * GB, 3350 * GB, 989 * T, 450 * GB),
        Chip("h200", "gpu", 141 * GB, 4800 * GB, 989 * T, 450 * GB),
    )
}


@dataclass(frozen=True)
class Slice:
    """Chips that train together.

    Attributes:
      name: as it was asked for.
      chip: what each can do.
      count: their number.
      devices: for the compiler; None where no compiler for them is here.
    """

    name: str
    chip: Chip
    count: int
    devices: Sequence[jax.Device] | None

    @property
    def hosts(self) -> int:
        """How many machines they are in, as far as that is known."""
        return len({device.process_index for device in self.devices}) if self.devices else 1

    def jit(self, function: Callable) -> Any:
        """`jax.jit` of a function for one of the chips, to be lowered and compiled."""
        one = NamedSharding(Mesh(np.array(self.devices[:1]), ("chip",)), PartitionSpec())
        return jax.jit(function, in_shardings=one, out_shardings=one)


def read(topology: str) -> Slice:
    """The chips that a topology means: `v5e:2x4`, a shape of TPU chips, or `h100:8`, a number of GPUs.

    Raises:
      UserError: no such chip or shape, or the compiler for it is not installed.
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise UserError(f"--topology={topology}: the chip {name!r} is not known: {nearest(name, CHIPS)}")
    chip = CHIPS[name]
    if chip.platform == "gpu":
        if not re.fullmatch(r"[1-9]\d*", shape):
            raise UserError(f"--topology={topology}: give the number of GPUs, such as {name}:8")
        return Slice(topology, chip, int(shape), None)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", shape):
        like = "2x4" if name in ("v5e", "v6e") else "2x2x2"
        raise UserError(f"--topology={topology}: give the shape of the slice, such as {name}:{like}")
    sides = [int(side) for side in shape.split("x")]
    return Slice(topology, chip, math.prod(sides), _tpu_devices(topology, sides, chip))


def _tpu_devices(topology: str, sides: Sequence[int], chip: Chip) -> Sequence[jax.Device]:
    # Without it the compiler asks a metadata server, which only a TPU machine has, for minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # A host has up to 2 x 2 chips.
    options: dict[str, Any] = {"chips_per_host_bounds": [*(min(2, side) for side in sides[:2]), 1]}
    if chip.cores > 1:
        # As on such a machine, where the cores of a chip are one device.
        options["chip_config_name"] = "megacore"
    try:
        description = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    # The library has no error type of its own for these.
    except Exception as error:
        text = " ".join(str(error).split())
        if "not installed" in text:
            raise UserError(
                f"--topology={topology} needs the compiler for TPUs: python -m pip install 'attnseg_jax[plan]'"
            ) from None
        raise UserError(f"--topology={topology}: the compiler does not know such a slice ({text[:200]})") from None
    return description.devices
