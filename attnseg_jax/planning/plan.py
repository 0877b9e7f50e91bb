"""What the training step of a config takes on chips that need not be here."""

import dataclasses
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from attnseg_jax.cost import Alone, program_flops
from attnseg_jax.data import datasets
from attnseg_jax.errors import UserError
from attnseg_jax.models.attention import Attention
from attnseg_jax.ops.attention.dispatch import portable
from attnseg_jax.ops.platforms import tracing_for
from attnseg_jax.planning import hlo
from attnseg_jax.planning.chips import Slice
from attnseg_jax.planning.liveness import peak_bytes
from attnseg_jax.train.setup import Run, abstract_inputs, make_model, make_run
from attnseg_jax.train.step import model_inputs

# Programs that are compiled, at most, to find the largest batch or crop.
_TRIES = 6
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
        return sum(self.taken.cycles.values()) / clock if self.taken is not None and clock else None

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


@dataclass(frozen=True)
class AttentionPlan:
    """What one form of an attention mechanism takes alone: its outputs and the gradients, on one chip.

    Attributes:
      impl: the form.
      temporaries: bytes; None where it cannot serve, or needs more than the chip has.
      milliseconds: by the compiler's cycles; None where they are not told.
      reason: why there are no figures.
    """

    impl: str
    temporaries: int | None = None
    milliseconds: float | None = None
    reason: str = ""


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
        try:
            compiled = run.parallel.lower_train(run.abstract, _batch(run, config, size)).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return done(None, needed=_needed(str(error)))
        seconds = time.perf_counter() - start
    stats = compiled.memory_analysis()
    memory = Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    return done(memory, taken=hlo.taken(hlo.parse(compiled.as_text())), seconds=seconds)


def _needed(message: str) -> str:
    """What a compiler says of the memory that a program needs.

    >>> _needed("Ran out of memory on HBM, HLO temporaries (32.66G) exceeds available HBM (15.75G).")
    '32.66 GiB of 15.75 GiB'
    >>> _needed("Used 20.1G of 15.75G hbm.")
    '20.1 GiB of 15.75 GiB'
    """
    sizes = re.findall(r"\b([\d.]+)([KMGT])\b", message)
    return " of ".join(f"{size} {unit}iB" for size, unit in sizes[:2]) or "more than there is"


def largest_batch(config: ConfigDict, where: Slice) -> Plan:
    """The plan with the most images on each chip that its memory holds."""
    accumulate = config.train.accumulate
    start = max(1, config.train.batch_size // where.count // accumulate)
    return _largest(lambda n: make_plan(config, where, rows=n * accumulate), start, lambda n: n)


def largest_crop(config: ConfigDict, where: Slice) -> Plan:
    """The plan with the largest crops of the config's proportions that the memory of each chip holds."""
    multiple = make_model(config, datasets.info(config.data).num_classes).size_multiple
    step = max(multiple, 32)
    height, width = config.data.crop

    def plan(n: int) -> Plan:
        return make_plan(config, where, crop=(n * step, max(1, round(n * width / height)) * step))

    return _largest(plan, max(1, height // step), lambda n: n * n)


def _largest(plan: Callable[[int], Plan], start: int, size: Callable[[int], int]) -> Plan:
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


def describe_size(plan: Plan) -> str:
    """Batch and crop of a plan, and the memory that they take."""
    needed = f"{plan.memory.total / 2**30:.3g} GiB" if plan.memory else plan.needed
    height, width = plan.crop
    return f"{plan.rows} images of {height} x {width} on each chip ({needed})"


def attention_plans(config: ConfigDict, where: Slice, rows: int) -> list[AttentionPlan]:
    """What each form of the config's attention takes alone on one chip; empty for a mechanism that has but one."""
    if where.devices is None or "impl" not in _fields(config):
        return []
    plans = []
    for impl in ("dense", "chunked", "splash"):
        try:
            plans.append(_attention_plan(config, where, rows, impl))
        except UserError as error:
            plans.append(AttentionPlan(impl, reason=str(error)))
    return plans


def _fields(config: ConfigDict) -> set[str]:
    mechanism = make_model(config, datasets.info(config.data).num_classes)
    attention = getattr(mechanism, "attention", None)
    return {field.name for field in dataclasses.fields(attention)} if attention is not None else set()


def _attention_plan(config: ConfigDict, where: Slice, rows: int, impl: str) -> AttentionPlan:
    classes = datasets.info(config.data).num_classes
    with tracing_for(where.chip.platform, 1):
        model = make_model(config, classes)
        shape = _attended(model, abstract_inputs(config, rows))
        mechanism = Alone(model.attention.clone(impl=impl, parent=None))
        one = NamedSharding(Mesh(np.array(where.devices[:1]), ("data",)), PartitionSpec())
        inputs = [
            jax.ShapeDtypeStruct(shape, jnp.dtype(config.dtype)),
            jax.ShapeDtypeStruct((*shape[:3], classes), "float32"),
        ]
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        variables = jax.eval_shape(partial(mechanism.init, train=False), keys, *inputs)

        def loss(variables: Any, *inputs: jax.Array) -> jax.Array:
            out, _ = mechanism.apply(
                variables, *inputs, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
            )
            return sum(jnp.sum(x.astype(jnp.float32) ** 2) for x in jax.tree.leaves(out))

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), in_shardings=one, out_shardings=one)
        try:
            compiled = gradient.lower(variables, *inputs).compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return AttentionPlan(impl, reason="needs more memory than a chip has")
    taken = hlo.taken(hlo.parse(compiled.as_text()))
    known = where.chip.clock and not taken.kernels
    milliseconds = 1e3 * sum(taken.cycles.values()) / where.chip.clock if known else None
    reason = "" if known else "the compiler does not look into its kernel"
    return AttentionPlan(impl, compiled.memory_analysis().temp_size_in_bytes, milliseconds, reason)


def _attended(model: nn.Module, inputs: Sequence[jax.ShapeDtypeStruct]) -> tuple[int, ...]:
    """The shape of the map that a model's attention mechanism is given."""
    shapes = []

    def look(call: Callable, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, Attention) and context.method_name == "__call__":
            shapes.append(args[0].deepest.shape)
        return call(*args, **kwargs)

    def forward(*inputs: jax.Array) -> Any:
        with nn.intercept_methods(look):
            return model.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, *inputs, train=False)

    jax.eval_shape(forward, *inputs)
    return shapes[0]


def _run(config: ConfigDict, devices: Sequence[jax.Device]) -> Run:
    classes = datasets.info(config.data).num_classes
    # What they are takes data to know, and changes nothing here.
    weights = None if config.loss.class_weights == "none" else np.ones(classes, np.float32)
    return make_run(config, classes, lambda: weights, devices=devices)


def _batch(run: Run, config: ConfigDict, size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The fields of a batch of so many images."""
    batch = dict(zip(model_inputs(run.model), abstract_inputs(config, size), strict=True))
    batch["label"] = jax.ShapeDtypeStruct((size, *config.data.crop), jnp.int32)
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
