"""What the training step of a config takes on chips that need not be here."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from attnseg_jax.cost import program_flops
from attnseg_jax.data import datasets
from attnseg_jax.ops.platforms import portable, tracing_for
from attnseg_jax.planning import hlo
from attnseg_jax.planning.chips import Slice
from attnseg_jax.planning.liveness import peak_bytes
from attnseg_jax.train.memory import is_exhausted
from attnseg_jax.train.setup import Run, abstract_inputs, make_run
from attnseg_jax.train.step import model_inputs

_PARTS = re.compile(r"/(backbone|attention|decoder|auxiliary)(?=[/.0-9])")


@dataclass(frozen=True)
class Memory:
    """Bytes on each chip.

    Attributes:
      arguments: state and batch.
      results: what is not written over the arguments.
      temporaries: beside both, at the peak.
      program: its code.
    """

    arguments: int
    results: int
    temporaries: int
    program: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.arguments + self.results + self.temporaries + self.program


@dataclass(frozen=True)
class Plan:
    """What one training step takes on each chip of a slice.

    Attributes:
      slice: the chips.
      rows: images on each chip.
      crop: their size.
      memory: from the compiled program, or estimated without a compiler; None where it did not compile for want of
        memory.
      needed: what the compiler says of a program that is too large, in its own words.
      flops: operations of the program as it is written.
      taken: of the compiled program; None without a compiler.
      seconds: that compiling took.
    """

    slice: Slice
    rows: int
    crop: tuple[int, int]
    memory: Memory | None
    flops: float
    taken: hlo.Taken | None = None
    seconds: float = 0.0
    needed: str = ""

    @property
    def fits(self) -> bool:
        """Whether the memory of a chip is enough."""
        return self.memory is not None and self.memory.total <= self.slice.chip.memory

    @property
    def bounds(self) -> dict[str, float]:
        """Seconds that a step takes at least: for arithmetic, for the memory, for the links between the chips."""
        chip = self.slice.chip
        bounds = {"arithmetic": self.flops / chip.flops}
        if self.taken is not None:
            bounds["memory"] = self.taken.bytes / chip.bandwidth
            bounds["links"] = self.link_seconds(self.slice.count)
        return bounds

    @property
    def estimate(self) -> float | None:
        """Seconds of a step on one chip by the compiler's own cycles, its communication and kernels not counted."""
        clock = self.slice.chip.clock
        return self.taken.all_cycles / clock if self.taken is not None and clock else None

    @property
    def parts(self) -> dict[str, float]:
        """The share of the model's parts in the compiler's cycles."""
        cycles: dict[str, float] = {}
        for path, count in self.taken.cycles.items() if self.taken is not None else ():
            found = _PARTS.search(path)
            part = found[1] if found else "loss, optimizer and the rest"
            cycles[part] = cycles.get(part, 0.0) + count
        whole = sum(cycles.values())
        return {part: count / whole for part, count in sorted(cycles.items(), key=lambda item: -item[1]) if count}

    def link_seconds(self, chips: int) -> float:
        """Seconds for the step's communication among so many chips, each of which sends over all of its links."""
        if self.taken is None or chips < 2:
            return 0.0
        # Of a ring; a gather or a scatter is half of a sum.
        sent = sum((2 if kind == "all-reduce" else 1) * size for kind, (_, size) in self.taken.collectives.items())
        return sent * (chips - 1) / chips / self.slice.chip.links


def make_plan(
    config: ConfigDict, where: Slice, *, rows: int | None = None, crop: tuple[int, int] | None = None
) -> Plan:
    """Compiles the training step of a config for chips, or estimates it where there is no compiler for them.

    Args:
      config: a run's.
      where: the chips.
      rows: images on each chip; by default what `config.train.batch_size` gives it.
      crop: by default the config's.

    Raises:
      UserError: the config cannot be trained, or not on so many chips.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        if rows is not None:
            config.train.batch_size = rows * where.count
        if crop is not None:
            config.data.crop = crop
    with tracing_for(where.chip.platform, where.count):
        # Without a compiler one chip stands for all.
        run = _run(config, where.devices or [jax.devices()[0]] * where.count)
        size = config.train.batch_size
        rows = size // where.count
        flops = _flops(run, config, rows)
        done = partial(Plan, where, rows, tuple(config.data.crop), flops=flops)
        if where.devices is None:
            return done(_estimated(run, config, rows, where.count))
        start = time.perf_counter()
        logging.info("compiling for %s, %d images a chip; a large model takes minutes", where.name, rows)
        compiled, needed = compile_if_it_fits(run.parallel.lower_train(run.abstract, _batch(run, config, size)))
        if compiled is None:
            return done(None, needed=needed)
        seconds = time.perf_counter() - start
    stats = compiled.memory_analysis()
    memory = Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    return done(memory, taken=hlo.taken(compiled.as_text()), seconds=seconds)


def compile_if_it_fits(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled | None, str]:
    """The compiled program and ""; where it needs more memory than a chip has, None and the sizes."""
    try:
        return lowered.compile(), ""
    except jax.errors.JaxRuntimeError as error:
        if not is_exhausted(error):
            raise
        return None, _needed(str(error))


def _needed(message: str) -> str:
    """What a compiler says of the memory that a program needs.

    >>> _needed("Ran out of memory on HBM, HLO temporaries (32.66G) exceeds available HBM (15.75G).")
    '32.66 GiB of 15.75 GiB'
    >>> _needed("Used 20.1G of 15.75G hbm.")
    '20.1 GiB of 15.75 GiB'
    """
    sizes = re.findall(r"\b([\d.]+)([KMGT])\b", message)
    return " of ".join(f"{size} {unit}iB" for size, unit in sizes[:2]) or "more than there is"


def describe_size(plan: Plan) -> str:
    """Batch and crop of a plan, and the memory that they take."""
    needed = f"{plan.memory.total / 2**30:.3g} GiB" if plan.memory else plan.needed
    height, width = plan.crop
    return f"{plan.rows} images of {height} x {width} on each chip ({needed})"


def _run(config: ConfigDict, devices: Sequence[jax.Device]) -> Run:
    classes = datasets.info(config.data).num_classes
    # What they are takes data to know, and changes nothing here.
    weights = None if config.loss.class_weights == "none" else np.ones(classes, np.float32)
    return make_run(config, classes, lambda: weights, devices=devices)


def _batch(run: Run, config: ConfigDict, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a batch of so many images."""
    batch = dict(zip(model_inputs(run.model), abstract_inputs(config, size), strict=True))
    info = datasets.info(config.data)
    each = (info.num_classes,) if info.multilabel else ()
    batch["label"] = jax.ShapeDtypeStruct((size, *config.data.crop, *each), jnp.int32)
    batch["valid"] = jax.ShapeDtypeStruct((size,), jnp.bool_)
    return batch


def _flops(run: Run, config: ConfigDict, rows: int) -> float:
    # The kernels of accelerators tell nothing.
    with portable():
        return program_flops(run.step, run.abstract, _batch(run, config, rows))


def _estimated(run: Run, config: ConfigDict, rows: int, chips: int) -> Memory:
    batch = _batch(run, config, rows)
    state = sum(_bytes(x) for x in jax.tree.leaves(run.abstract))
    jaxpr = jax.make_jaxpr(run.step)(run.abstract, batch).jaxpr
    held = state / chips if config.parallel == "fsdp" else state
    return Memory(int(held) + sum(_bytes(x) for x in jax.tree.leaves(batch)), 0, peak_bytes(jaxpr), 0)


def _bytes(x: jax.ShapeDtypeStruct) -> int:
    return int(np.prod(x.shape)) * (8 if jnp.issubdtype(x.dtype, jax.dtypes.extended) else x.dtype.itemsize)
