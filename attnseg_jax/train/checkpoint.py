"""Checkpoints with Orbax: saved in the background, verified before they are used; knows no model."""

import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from attnseg_jax.errors import UserError
from attnseg_jax.files import file_sha256

MANIFEST = "manifest.json"
# Orbax writes this one again while it commits; it holds times and the kind of checkpoint, nothing that is restored.
UNHASHED = {MANIFEST, "_CHECKPOINT_METADATA"}


class Checkpoints:
    """The checkpoints of one run: the latest and the `keep` best by the metric `miou`.

    A checkpoint is a tree of named arrays with a manifest: the SHA-256 of each file, and the names, shapes and types of
    the arrays. The manifest becomes visible together with the checkpoint, in one rename; a process killed
    during a save leaves the checkpoints before it as they were. `read_only` changes nothing on disk.
    """

    def __init__(self, directory: str | Path, keep: int = 1, read_only: bool = False):
        self.directory = Path(directory).absolute()
        if read_only and not self.directory.is_dir():
            raise UserError(f"{self.directory}: no checkpoints here; train first, or give the --workdir of a run")
        self._arrays: dict = {}
        self._damaged: set[int] = set()
        options = ocp.CheckpointManagerOptions(
            best_fn=_score,
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(1),
                    policies.BestN(get_metric_fn=_score, n=keep, keep_checkpoints_without_metrics=False),
                ]
            ),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._write_manifest),
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_names=("state",))

    def save(self, step: int, state: PyTree, metrics: dict[str, float] | None = None) -> None:
        """Start saving; returns as soon as `state` may be donated. `metrics` needs `miou` to count among the best.

        An intact checkpoint of the same step stays, unless only the new one has metrics.
        """
        if step in self.steps():
            if not self._verify(step) and (self.metrics(step) or not metrics):
                return
            self._damaged.add(step)
        # A run that fell back to an older checkpoint would otherwise take a damaged one for its latest.
        for damaged in sorted(self._damaged & set(self.steps())):
            self._manager.delete(damaged)
        self._damaged.clear()
        named = _flatten(state)
        self._arrays = {name: _describe(x) for name, x in named.items()}
        tree = traverse_util.unflatten_dict({name: _saveable(x) for name, x in named.items()}, sep="/")
        self._manager.save(
            step, args=ocp.args.Composite(state=ocp.args.StandardSave(tree)), metrics=metrics, force=True
        )

    def restore_latest(self, abstract_state: PyTree) -> tuple[int, PyTree] | None:
        """The newest intact checkpoint as (step, state); None where there is none at all.

        Damaged ones are passed over with a warning that names them; none intact raises `UserError`. `abstract_state`:
        the state or its `jax.eval_shape`; another architecture, optimizer or type raises `UserError`.
        """
        return self._restore_first(sorted(self.steps(), reverse=True), abstract_state)

    def restore_best(self, abstract_state: PyTree) -> tuple[int, PyTree] | None:
        """The intact checkpoint of the highest `miou` as (step, state), otherwise like `restore_latest`."""
        return self._restore_first(self._ranking(), abstract_state)

    def restore(self, step: int, abstract_state: PyTree) -> PyTree:
        """The checkpoint of one step; a missing or damaged one raises `UserError`."""
        self._check_intact(step)
        return self._load(step, abstract_state)

    def restore_arrays(self, step: int | None = None) -> tuple[int, dict[str, np.ndarray]] | None:
        """A checkpoint as (step, arrays by path such as `params/...`), whatever they belong to.

        Random keys are left out. `step` names another than the newest intact one; errors and None as in `restore` and
        `restore_latest`.
        """
        if step is None:
            step = self._first_intact(sorted(self.steps(), reverse=True))
        else:
            self._check_intact(step)
        if step is None:
            return None
        arrays = json.loads((self.directory / str(step) / MANIFEST).read_text())["arrays"]
        key = jax.eval_shape(lambda: jax.random.key(0)).dtype
        abstract = {
            name: jax.ShapeDtypeStruct(shape, key if dtype.startswith("key<") else jnp.dtype(dtype))
            for name, (dtype, shape) in arrays.items()
        }
        named = self._load(step, abstract)
        return step, {name: np.asarray(named[name]) for name in arrays if abstract[name].dtype != key}

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones included; waits for a running save."""
        self.wait()
        return list(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step of the highest `miou`, or None; of equals the newest."""
        return next(iter(self._ranking()), None)

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics saved with a step, empty where there are none."""
        return dict(self._manager.metrics(step) or {})

    def wait(self) -> None:
        """Wait until the running save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for the running save and end the background threads."""
        self._manager.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _ranking(self) -> list[int]:
        return sorted(self.steps(), key=lambda step: (_score(self.metrics(step)), step), reverse=True)

    def _write_manifest(self) -> None:
        """Called by Orbax when all files are written, before the rename that makes the checkpoint visible."""
        if jax.process_index():
            return
        (folder,) = self.directory.glob("*.orbax-checkpoint-tmp*")
        manifest = {"arrays": self._arrays, "files": _hashes(folder)}
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))

    def _verify(self, step: int) -> str:
        """What is wrong with the files of a checkpoint, or nothing; the same answer on all processes."""
        problem = ""
        if jax.process_index() == 0:
            problem = _find_damage(self.directory / str(step))
        if jax.process_count() > 1:
            length = 200
            padded = np.frombuffer(problem.encode()[:length].ljust(length), np.uint8)
            problem = bytes(multihost_utils.broadcast_one_to_all(padded)).decode(errors="replace").strip()
        return problem

    def _check_intact(self, step: int) -> None:
        if step not in self.steps():
            raise UserError(f"{self.directory}: no checkpoint of step {step}; there are {sorted(self.steps())}")
        if problem := self._verify(step):
            raise UserError(f"{self.directory / str(step)} is damaged ({problem}); choose another step")

    def _restore_first(self, steps: list[int], abstract_state: PyTree) -> tuple[int, PyTree] | None:
        step = self._first_intact(steps)
        return None if step is None else (step, self._load(step, abstract_state))

    def _first_intact(self, steps: list[int]) -> int | None:
        for step in steps:
            if not (problem := self._verify(step)):
                return step
            logging.warning("checkpoint %s is damaged (%s); trying another", self.directory / str(step), problem)
            self._damaged.add(step)
        if steps:
            raise UserError(f"{self.directory}: no checkpoint is intact; restore a copy, or give another --workdir")
        return None

    def _load(self, step: int, abstract_state: PyTree) -> PyTree:
        folder = self.directory / str(step)
        wanted = _flatten(abstract_state)
        _check_same(json.loads((folder / MANIFEST).read_text())["arrays"], wanted, folder)
        # Every process reads a whole copy; the sharding is given, since the saved one may name devices that are gone.
        replicated = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec())
        abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated) for name, x in wanted.items()}
        tree = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(traverse_util.unflatten_dict(abstract, sep="/"))),
        )["state"]
        named = traverse_util.flatten_dict(tree, sep="/")
        return jax.tree.unflatten(jax.tree.structure(abstract_state), [named[name] for name in wanted])


def _score(metrics: dict[str, float] | None) -> float:
    score = (metrics or {}).get("miou", -math.inf)
    return -math.inf if math.isnan(score) else score


def _flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path, in the order of `jax.tree.leaves`; empty parts vanish."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in paths}


def _describe(x: Any) -> list:
    return [str(x.dtype), list(x.shape)]


def _saveable(x: jax.Array) -> jax.Array:
    """An array that Orbax can save: of several processes, one that belongs to all of them."""
    if jax.process_count() > 1 and x.is_fully_addressable:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(_saveable(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        # Orbax refuses the local arrays that pmap gives.
        mesh = Mesh(np.array(jax.devices()), ("data",))
        return multihost_utils.host_local_array_to_global_array(np.asarray(x), mesh, PartitionSpec())
    return x


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in UNHASHED)
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _find_damage(folder: Path) -> str:
    try:
        expected = json.loads((folder / MANIFEST).read_text())["files"]
        actual = _hashes(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} or a file cannot be read: {type(error).__name__}"
    for name in sorted(expected):
        if name not in actual:
            return f"{name} is missing"
        if actual[name] != expected[name]:
            return f"{name} has changed since it was written"
    return ""


def _check_same(saved: dict[str, list], wanted: dict[str, Any], folder: Path) -> None:
    """Refuse a checkpoint whose arrays are not those of the state, naming a few from both sides."""
    asked = {name: _describe(x) for name, x in wanted.items()}
    if saved == asked:
        return

    def some(names: list[str], table: dict) -> str:
        shown = ", ".join(f"{name} {table[name][0]}{table[name][1]}" for name in names[:4])
        return shown + (f", ... ({len(names)} in all)" if len(names) > 4 else "")

    parts = []
    if only := sorted(saved.keys() - asked.keys()):
        parts.append(f"only in the checkpoint: {some(only, saved)}")
    if only := sorted(asked.keys() - saved.keys()):
        parts.append(f"only in this config: {some(only, asked)}")
    if differing := sorted(name for name in saved.keys() & asked.keys() if saved[name] != asked[name]):
        parts.append(f"in the checkpoint: {some(differing, saved)}; in this config: {some(differing, asked)}")
    raise UserError(
        f"{folder} belongs to another architecture, optimizer or type ({'; '.join(parts)}): "
        "give another --workdir, or the config that it was trained with"
    )
