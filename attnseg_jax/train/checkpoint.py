"""Checkpoints with Orbax: saved in the background, verified before they are used; knows no model."""

import errno
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util
from jaxtyping import PyTree

from attnseg_jax.errors import UserError
from attnseg_jax.files import file_sha256, out_of_space
from attnseg_jax.train import manifest
from attnseg_jax.train.manifest import MANIFEST
from attnseg_jax.train.orbax_arrays import flatten, meet, of_process_0, read, saveable

T = TypeVar("T")

_UNFINISHED = "*.orbax-checkpoint-tmp*"
_REMOVED = ".removed"
# A training beside a reader removes a checkpoint about as often as it saves one.
_TRIES = 20


class Checkpoints:
    """The checkpoints of one run.

    A checkpoint is a tree of named arrays with a manifest: the SHA-256 of each file, and the names, shapes and types of
    the arrays. The manifest becomes visible together with the checkpoint, in one rename; a process killed
    during a save or a removal leaves the others as they were. Metrics are added when they are known. `prune` removes
    all but the latest and the `keep` best by the metric `miou`. `read_only` changes nothing on disk, and bears with a
    training that saves and removes checkpoints meanwhile.

    Attributes:
      saved_step: of the last checkpoint that was saved by this object.
    """

    def __init__(self, directory: str | Path, keep: int = 1, read_only: bool = False):
        self.directory = Path(directory).absolute()
        if read_only and not self.directory.is_dir():
            raise UserError(f"{self.directory}: no checkpoints here; train first, or give the --workdir of a run")
        self._keep = keep
        self.saved_step: int | None = None
        self._damaged: set[int] = set()
        self._warned: set[str] = set()
        # Of the save that runs: its step and the arrays.
        self._saving: tuple[int, dict[str, list]] | None = None
        self._writer = None
        if not read_only:
            self._clean()
            meet("clean")
            options = ocp.options.AsyncOptions(post_finalization_callback=self._complete)
            self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler("state"), async_options=options)

    def save(self, step: int, state: PyTree) -> None:
        """Start saving; returns as soon as `state` may be donated. An intact checkpoint of the same step stays.

        Raises:
          UserError: this save, or the one before, which runs in the background, finds no space.
        """
        if step in self.steps():
            if not self._verify(step):
                return
            self._damaged.add(step)
        # A run that fell back to an older checkpoint would otherwise take a damaged one for its latest.
        for damaged in sorted(self._damaged & set(self.steps())):
            self.discard(damaged)
        self._damaged.clear()
        named = flatten(state)
        tree = traverse_util.unflatten_dict({name: saveable(x) for name, x in named.items()}, sep="/")
        self.saved_step, size = step, sum(x.nbytes for x in named.values())
        self._saving = step, {name: manifest.describe(x) for name, x in named.items()}
        with self._naming_space():
            # Orbax would notice too, but leave its threads in disorder.
            if shutil.disk_usage(self.directory).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            arguments = ocp.args.Composite(state=ocp.args.StandardSave(tree))
            self._writer.save(self.directory / str(step), args=arguments)

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Completes a checkpoint without metrics, when it is on disk; `miou` decides which are the best."""
        if step in self.steps() and not self.metrics(step):
            if jax.process_index() == 0:
                manifest.write_metrics(self.directory / str(step), metrics)
            meet("metrics")

    def prune(self) -> None:
        """Removes all but the latest and the `keep` best; those without metrics are none of the best."""
        steps = self.steps()
        best = [step for step in self._ranking() if self.metrics(step)][: self._keep]
        for step in set(steps) - {*best, max(steps, default=None)}:
            self.discard(step)

    def discard(self, step: int) -> None:
        """Removes a checkpoint, in one rename."""
        self.wait()
        if jax.process_index() == 0:
            removed = self.directory / f"{step}{_REMOVED}"
            (self.directory / str(step)).rename(removed)
            shutil.rmtree(removed)
        meet("discard")

    def restore_latest(self, abstract_state: PyTree) -> tuple[int, PyTree] | None:
        """The newest intact checkpoint as (step, state); None where there is none at all.

        Damaged ones are passed over with a warning that names them; none intact raises `UserError`. `abstract_state`:
        the state or its `jax.eval_shape`; another architecture, optimizer or type raises `UserError`.
        """
        return self._restore_first(self._newest, lambda step: (step, self._load(step, abstract_state)))

    def restore_best(self, abstract_state: PyTree) -> tuple[int, PyTree] | None:
        """The intact checkpoint of the highest `miou` as (step, state), otherwise like `restore_latest`."""
        return self._restore_first(self._ranking, lambda step: (step, self._load(step, abstract_state)))

    def restore(self, step: int, abstract_state: PyTree) -> PyTree:
        """The checkpoint of one step; a missing or damaged one raises `UserError`."""
        return self._restore_one(step, lambda step: self._load(step, abstract_state))

    def restore_arrays(self, which: str | int = "latest") -> tuple[int, dict[str, np.ndarray], str] | None:
        """A checkpoint as (step, arrays by path such as `params/...`, SHA-256 of its manifest), of any model.

        Random keys are left out. `which` is `latest`, `best` or a step; errors and None as in `restore_named`.
        """
        return self._restore_named(which, self._load_arrays)

    def restore_named(self, which: str | int, abstract_state: PyTree) -> tuple[int, PyTree] | None:
        """What `restore_latest` or `restore_best` give, or the (step, state) of a step, as `which` says.

        Raises:
          UserError: `which` is none of these.
        """
        return self._restore_named(which, lambda step: (step, self._load(step, abstract_state)))

    def steps(self) -> list[int]:
        """The steps of all checkpoints, damaged ones included; waits for a running save."""
        self.wait()
        return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal() and path.is_dir())

    def latest_step(self) -> int | None:
        """The newest step, or None."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """The step of the highest `miou`, or None; of equals the newest."""
        return next(iter(self._ranking()), None)

    def metrics(self, step: int) -> dict[str, float]:
        """The metrics of a step, empty where there are none, and with a warning where their file is damaged or gone."""
        found: dict[str, float] = {}
        if jax.process_index() == 0:
            try:
                found = manifest.read_metrics(self.directory / str(step))
            except UserError as error:
                if str(error) not in self._warned:
                    logging.warning("%s: the score of this checkpoint is unknown", error)
                self._warned.add(str(error))
        return json.loads(of_process_0(json.dumps(found)))

    def wait(self) -> None:
        """Wait until the running save is on disk; errors as of `save`."""
        if self._writer is not None and self._saving is not None:
            with self._naming_space():
                self._writer.wait_until_finished()
            self._saving = None

    def close(self) -> None:
        """Wait for the running save and end the background threads; errors as of `save`."""
        if self._writer is not None:
            try:
                self.wait()
            finally:
                self._writer.close()
                self._writer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _clean(self) -> None:
        """Makes the folder, and removes what a killed process left of a save or a removal."""
        if jax.process_index() == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            for path in (*self.directory.glob(_UNFINISHED), *self.directory.glob(f"*{_REMOVED}")):
                shutil.rmtree(path)

    def _complete(self) -> None:
        """Called by Orbax when all files are written, before the rename that makes the checkpoint visible."""
        if jax.process_index():
            return
        (folder,) = self.directory.glob(_UNFINISHED)
        manifest.write_manifest(folder, self._saving[1])
        manifest.write_metrics(folder, {})

    @contextmanager
    def _naming_space(self) -> Iterator[None]:
        """Around a part of a save; where the disk is full, UserError says what that leaves."""
        try:
            yield
        except Exception as error:
            if not (reason := out_of_space(error)):
                raise
            step, self._saving = self._saving[0], None
            # Alone: the other processes may not know of it yet.
            self._clean()
            latest = self.latest_step()
            kept = "there is none before it" if latest is None else f"that of step {latest} is kept"
            raise UserError(
                f"{self.directory}: the checkpoint of step {step} cannot be written ({reason}), {kept}: make room, and "
                "the same command continues there"
            ) from None

    def _newest(self) -> list[int]:
        return self.steps()[::-1]

    def _ranking(self) -> list[int]:
        return sorted(self.steps(), key=lambda step: (_score(self.metrics(step)), step), reverse=True)

    def _verify(self, step: int) -> str:
        """What is wrong with the files of a checkpoint, or nothing; the same answer on all processes."""
        problem, folder = "", self.directory / str(step)
        if jax.process_index() == 0:
            problem = manifest.find_damage(folder)
            if problem and not folder.is_dir():
                problem = _REMOVED
        problem = of_process_0(problem)
        if problem == _REMOVED:
            raise _Removed
        return problem

    def _restore_named(self, which: str | int, load: Callable[[int], T]) -> T | None:
        rankings = {"latest": self._newest, "best": self._ranking}
        if which in rankings:
            return self._restore_first(rankings[which], load)
        if not str(which).isdecimal():
            raise UserError(f"--checkpoint={which} must be latest, best or a step ({self.steps()})")
        return self._restore_one(int(which), load)

    def _restore_one(self, step: int, load: Callable[[int], T]) -> T:
        missing = f"{self.directory}: no checkpoint of step {step}; there are "
        if step not in self.steps():
            raise UserError(missing + str(self.steps()))
        try:
            if problem := self._verify(step):
                raise UserError(f"{self.directory / str(step)} is damaged ({problem}); choose another step")
            return load(step)
        except _Removed:
            raise UserError(missing + str(self.steps())) from None

    def _restore_first(self, ranking: Callable[[], list[int]], load: Callable[[int], T]) -> T | None:
        for tried in range(_TRIES):
            try:
                step = self._first_intact(ranking())
                if step is not None:
                    return load(step)
                # A folder in which one replaces another while it is listed may look empty.
                if self._writer or tried:
                    return None
            except _Removed:
                pass
            time.sleep(0.1)
        raise UserError(f"{self.directory}: checkpoints are removed faster than they can be read: try again later")

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
        wanted = flatten(abstract_state)
        try:
            manifest.check_same(manifest.read_arrays(folder), wanted, folder)
            named = read(folder, wanted)
        except Exception as error:
            if not isinstance(error, UserError) and not folder.is_dir():
                raise _Removed from None
            raise
        return jax.tree.unflatten(jax.tree.structure(abstract_state), [named[name] for name in wanted])

    def _load_arrays(self, step: int) -> tuple[int, dict[str, np.ndarray], str]:
        folder = self.directory / str(step)
        try:
            arrays, digest = manifest.read_arrays(folder), file_sha256(folder / MANIFEST)
        except OSError:
            raise _Removed from None
        key = jax.eval_shape(lambda: jax.random.key(0)).dtype
        abstract = {
            name: jax.ShapeDtypeStruct(shape, key if dtype.startswith("key<") else jnp.dtype(dtype))
            for name, (dtype, shape) in arrays.items()
        }
        named = self._load(step, abstract)
        return step, {name: np.asarray(named[name]) for name in arrays if abstract[name].dtype != key}, digest


class _Removed(Exception):
    """A training removed the checkpoint while it was read."""


def _score(metrics: Mapping[str, float]) -> float:
    score = metrics.get("miou", -math.inf)
    return -math.inf if math.isnan(score) else score
