"""Arrays as Orbax takes and gives them, of one process or of several that agree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from attnseg_jax.train.copies import global_array


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, in the order of `jax.tree.leaves`; empty parts vanish."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def read(folder: Path, wanted: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The arrays of a checkpoint, whose names, shapes and types are `wanted`.

    Those for which `wanted` has a `ShapeDtypeStruct` with a sharding get it, the others are whole on every device.
    """

    # The sharding is given, since the saved one may name devices that are gone.
    def abstract_array(x):
        given = x.sharding if isinstance(x, jax.ShapeDtypeStruct) else None
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=given or _on_all())

    abstract = {name: abstract_array(x) for name, x in wanted.items()}
    tree = traverse_util.unflatten_dict(abstract, sep="/")
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        restored = reader.restore(folder / "state", args=ocp.args.StandardRestore(tree))
    return traverse_util.flatten_dict(restored, sep="/")


def saveable(x: jax.Array) -> jax.Array:
    """An array that Orbax can save: of several processes, one that belongs to all of them."""
    # It refuses the local arrays that pmap gives.
    return global_array(x, _on_all()) if jax.process_count() > 1 and x.is_fully_addressable else x


def of_process_0(text: str) -> str:
    """What process 0 has to say, on all processes."""
    if jax.process_count() == 1:
        return text
    padded = np.frombuffer(text.encode()[:1000].ljust(1000), np.uint8)
    return bytes(multihost_utils.broadcast_one_to_all(padded)).decode(errors="replace").strip()


def meet(name: str) -> None:
    """Waits for the other processes, which see what process 0 did to the folder."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"checkpoints {name}")


def _on_all() -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())
