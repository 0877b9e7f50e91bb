"""One pure step on many devices: `pmap` over all devices, or `jit` over a mesh of them, whose state may be split."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int, PyTree

from attnseg_jax.data.transforms.fields import SIZES
from attnseg_jax.errors import NotFinite, UserError, check_known
from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.norm import DATA_AXIS
from attnseg_jax.train.copies import global_array, local_copy
from attnseg_jax.train.rows import Rows
from attnseg_jax.train.sharding import ShardingRule, fully_sharded, replicated

# Batch fields that go to the devices -> their value in padding rows.
FIELDS: dict[str, Any] = {"image": 0, "label": IGNORE_LABEL, "valid": False}
# Beside them, those of an evaluation whose images have another size than their labels.
_EVALUATED = {SIZES: 1}
# Fields that stay on the host: the evaluation's own bookkeeping.
_ON_HOST = {"index"}


def check_batch_size(batch_size: int, *, accumulate: int = 1, devices: int | None = None) -> None:
    """Refuse a global batch that the devices (by default all) cannot share evenly; the message names the nearest."""
    devices = devices or jax.device_count()
    unit = devices * accumulate
    if batch_size > 0 and batch_size % unit == 0:
        return
    below, above = batch_size // unit * unit, (batch_size // unit + 1) * unit
    near = f"{below} or {above}" if below > 0 else str(max(above, unit))
    parts = f"{devices} devices" + (f" x config.train.accumulate={accumulate}" if accumulate > 1 else "")
    raise UserError(f"config.train.batch_size={batch_size} cannot be split evenly over {parts}: give {near}")


class Parallel:
    """Runs a pure train and evaluation step on many devices; steps, losses and norms know at most an axis to sum over.

    `put_state` must come before the first `train`, which donates the state that it is given.

    Args:
      train_step: (state, batch, *, axis_name=None) -> (state, metrics); None only evaluates.
      eval_step: (variables, batch, *, axis_name=None) -> counts (`confusion`, `cross_entropy`,
        `confidence`, `not_finite`), rows (`prediction`, `sure`, `finite`).
      devices: all by default.
      fields: batch fields that go to the devices -> their value in padding rows.
      rule: how the state is split.

    Attributes:
      fitting_rows: shapes of a batch's images and labels -> how many rows of it `train.memory` found to fit into the
        memory.
    """

    def __init__(
        self,
        train_step: Callable | None,
        eval_step: Callable,
        devices: Sequence[jax.Device] | None = None,
        *,
        fields: Mapping[str, Any] = FIELDS,
        rule: ShardingRule = replicated,
    ):
        self.devices = list(devices or jax.devices())
        self.local_devices = [d for d in self.devices if d.process_index == jax.process_index()]
        self._fields, self._rule = fields, rule
        self._padded_with = {**fields, **_EVALUATED}
        self.fitting_rows: dict[tuple[tuple[int, ...], ...], int] = {}
        self._build(train_step, eval_step)

    def put_state(self, state: PyTree) -> PyTree:
        """Copy a state (or variables) to the devices; `state` itself stays usable."""
        return jax.tree.map(self._put, state, self._shardings(state))

    def create_state(self, create: Callable[[], PyTree]) -> PyTree:
        """What `create` makes; a state that is split over the devices is never whole on any of them."""
        if self._rule is replicated:
            return create()
        return jax.jit(create, out_shardings=self._shardings(jax.eval_shape(create)))()

    def abstract_state(self, abstract: PyTree) -> PyTree:
        """Shapes and types of a state with the way in which it is split, if it is, for restoring it so."""
        if self._rule is replicated:
            return abstract
        shardings = self._shardings(abstract)
        return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)

    def shard_batch(self, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
        """Spread this process's rows over its devices, padded with invalid rows to a multiple of their number.

        Raises:
          UserError: a field that nothing declares, or one that is declared and missing.
        """
        if unknown := batch.keys() - self._fields.keys() - _ON_HOST:
            raise UserError(
                f"the batches have the field {min(unknown)!r}, which neither the model nor the objective declares "
                f"({', '.join(self._fields)}): add it to the objective's `fields`, or leave it out of the transform"
            )
        if missing := self._fields.keys() - batch.keys():
            raise UserError(
                f"the batches have no field {min(missing)!r}, which the model or the objective declares: a transform "
                "has to add it"
            )
        return self._spread(batch)

    def train(self, state: PyTree, batch: dict[str, Array]) -> tuple[PyTree, dict[str, Array]]:
        """One step on a batch from `shard_batch`; the old state is gone afterwards. Does not wait for the result."""
        return self._train(state, batch)

    def lower_train(self, state: PyTree, batch: Mapping[str, jax.ShapeDtypeStruct]) -> jax.stages.Lowered:
        """The program of `train`, not compiled yet, for shapes alone: of a state and of the global batch's fields.

        The devices may be those of `jax.experimental.topologies`.
        """
        return self._lower_train(state, dict(batch))

    def evaluate(self, variables: PyTree, batch: Mapping[str, np.ndarray]) -> tuple[Int[Array, "k k"], Rows]:
        """Start evaluating this process's NumPy batch: the confusion over all processes, its own rows' predictions.

        Does not wait: the counts are on the device, and `np.asarray` of the predictions `[b, h, w]` fetches them. It
        raises NotFinite, on all processes, where the logits of any row are not finite. Undeclared fields of the batch
        are not used, and an objective's own fields may be missing.
        """
        counts, rows = self._eval(variables, self._spread(batch))

        def fetch(name: str) -> np.ndarray:
            if int(counts["not_finite"]):
                bad = np.flatnonzero(~self._local_rows(rows["finite"])).tolist()
                raise NotFinite("the logits of the model are not finite", bad)
            return self._local_rows(rows[name])[: len(batch["valid"])]

        return counts["confusion"], Rows(fetch, counts["cross_entropy"], counts["confidence"])

    def evaluation_bytes(self, variables: PyTree, batch: Mapping[str, np.ndarray]) -> int:
        """What `evaluate` of such a batch takes on each device beside the variables; compiles it, and runs nothing."""
        rows = self._abstract(batch) if jax.process_count() == 1 else self._spread(batch)
        if (found := self._lower_eval(variables, rows).compile().memory_analysis()) is None:
            return 0
        given = sum(x.size * x.dtype.itemsize for x in rows.values()) // len(self.local_devices)
        return int(found.temp_size_in_bytes + found.output_size_in_bytes + given)

    def _abstract(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and shardings of what `_spread` makes, without any data."""
        count = -(-len(batch["valid"]) // len(self.local_devices)) * len(self.local_devices)

        def abstract(x: np.ndarray) -> jax.ShapeDtypeStruct:
            shape, dtype = self._row_shape((count, *x.shape[1:])), jax.dtypes.canonicalize_dtype(x.dtype)
            return jax.ShapeDtypeStruct(shape, dtype, sharding=self._rows)

        return {name: abstract(np.asarray(batch[name])) for name in self._padded_with if name in batch}

    def _spread(self, batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
        padding = -len(batch["valid"]) % len(self.local_devices)
        fields = {name: fill for name, fill in self._padded_with.items() if name in batch}
        return {name: self._shard(_pad(np.asarray(batch[name]), padding, fill)) for name, fill in fields.items()}

    def _shardings(self, tree: PyTree) -> PyTree:
        """A sharding for each array of a state."""

        def sharding(path: tuple[Any, ...], x: Any) -> NamedSharding:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            spec = self._rule(name, x.shape)
            if not isinstance(spec, PartitionSpec):
                raise UserError(f"config.sharding: the rule must return a PartitionSpec for {name}, not {spec!r}")
            try:
                # The shape of what each device holds: raises where the array cannot be split so.
                (result := NamedSharding(self._mesh, spec)).shard_shape(x.shape)
            except ValueError as error:
                raise UserError(f"config.sharding: {spec} does not split {name} {x.shape}: {error}") from error
            return result

        return jax.tree_util.tree_map_with_path(sharding, tree)


class PmapParallel(Parallel):
    """`jax.pmap` over all devices of all processes; the step adds its sums over the axis 'data' itself."""

    def _build(self, train_step, eval_step):
        if self._rule is not replicated:
            raise UserError("config.parallel='pmap' keeps the whole state on every device: set config.parallel='mesh'")
        # The state without a device axis: `in_axes=None` keeps it replicated over the devices of this process.
        self._mesh = Mesh(np.array(self.local_devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
        self._rows = NamedSharding(self._mesh, PartitionSpec(DATA_AXIS))
        pmap = functools.partial(jax.pmap, axis_name=DATA_AXIS, in_axes=(None, 0), devices=self.devices)
        if train_step is not None:
            step = functools.partial(train_step, axis_name=DATA_AXIS)
            self._train = pmap(step, out_axes=(None, None), donate_argnums=0)
        self._eval = pmap(functools.partial(eval_step, axis_name=DATA_AXIS), out_axes=(None, 0))

    def _put(self, x, sharding):
        return _copy(local_copy(x), sharding)

    def _shard(self, rows):
        return jax.device_put(rows.reshape(self._row_shape(rows.shape)), self._rows)

    def _row_shape(self, shape):
        count = len(self.local_devices)
        return (count, shape[0] // count, *shape[1:])

    def _lower_train(self, state, batch):
        local, all_devices = len(self.local_devices), len(self.devices)

        def rows(x):
            return jax.ShapeDtypeStruct((local, x.shape[0] // all_devices, *x.shape[1:]), x.dtype)

        return self._train.lower(state, jax.tree.map(rows, batch))

    def _lower_eval(self, variables, batch):
        return self._eval.lower(variables, batch)

    def _local_rows(self, x):
        x = np.asarray(x)
        return x.reshape(-1, *x.shape[2:])


class MeshParallel(Parallel):
    """`jax.jit` over a mesh of all devices; the compiler adds the sums because it sees one global batch."""

    def _build(self, train_step, eval_step):
        self._mesh = Mesh(np.array(self.devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))
        self._rows = NamedSharding(self._mesh, PartitionSpec(DATA_AXIS))
        self._whole = NamedSharding(self._mesh, PartitionSpec())
        self._train_step, self._compiled = train_step, None
        # Variables come as `put_state` or a train step left them.
        self._compiled_eval = jax.jit(
            eval_step, in_shardings=(None, self._rows), out_shardings=(self._whole, self._rows)
        )

    # Both run under the mesh, by which a kernel that needs one device learns how to spread itself.
    def _eval(self, variables, batch):
        with jax.set_mesh(self._mesh):
            return self._compiled_eval(variables, batch)

    def _lower_train(self, state, batch):
        with jax.set_mesh(self._mesh):
            return self._jitted(state).lower(state, batch)

    def _lower_eval(self, variables, batch):
        with jax.set_mesh(self._mesh):
            return self._compiled_eval.lower(variables, batch)

    def _row_shape(self, shape):
        return shape

    def _train(self, state, batch):
        # The first state says which arrays there are to split.
        if self._compiled is None:
            self._compiled = self._jitted(state)
        with jax.set_mesh(self._mesh):
            return self._compiled(state, batch)

    def _jitted(self, state):
        shardings = self._shardings(state)
        return jax.jit(
            self._train_step,
            in_shardings=(shardings, self._rows),
            out_shardings=(shardings, self._whole),
            donate_argnums=0,
        )

    def _put(self, x, sharding):
        return _copy(x, sharding) if jax.process_count() == 1 else global_array(x, sharding)

    def _shard(self, rows):
        return jax.make_array_from_process_local_data(self._rows, rows)

    def _local_rows(self, x):
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        return np.concatenate([np.asarray(shard.data) for shard in shards])


class FullyShardedParallel(MeshParallel):
    """`MeshParallel` with `fully_sharded` as its rule: parameters, moments and averages are split over the devices."""

    def _build(self, train_step, eval_step):
        if self._rule is not replicated:
            raise UserError(
                "config.parallel='fsdp' splits the state by a rule of its own: for another config.sharding set "
                "config.parallel='mesh'"
            )
        self._rule = functools.partial(fully_sharded, devices=len(self.devices))
        super()._build(train_step, eval_step)


MODES = {"pmap": PmapParallel, "mesh": MeshParallel, "fsdp": FullyShardedParallel}


def make_parallel(
    mode: str,
    train_step: Callable | None,
    eval_step: Callable,
    devices: Sequence[jax.Device] | None = None,
    **options: Any,
) -> Parallel:
    """`config.parallel` by name, of `MODES`; the other arguments are those of `Parallel`."""
    check_known("config", MODES, parallel=mode)
    return MODES[mode](train_step, eval_step, devices, **options)


def _pad(rows: np.ndarray, count: int, fill: Any) -> np.ndarray:
    if not count:
        return rows
    return np.concatenate([rows, np.full((count, *rows.shape[1:]), fill, rows.dtype)])


def _copy(x, sharding):
    # `device_put`, even with `may_alias=False`, shares the buffer of the first device with `x`: donating the new state
    # would take it away from the old one.
    return jax.device_put(jnp.copy(x), sharding)
