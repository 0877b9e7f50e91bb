"""What a hook of the training loop is: called before and after a step, a pause, a save, an evaluation, the end."""

import contextlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from attnseg_jax.data.sources import Source
from attnseg_jax.parts import check_subclass, check_takes, resolve
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.evaluation import Evaluation
from attnseg_jax.train.logging import Waits
from attnseg_jax.train.state import TrainState


@dataclass(frozen=True)
class Training:
    """What a hook may know of the run.

    `source` is the evaluated split, `start_step` is 0 for a new run, `waits` tells how long steps wait for batches.
    """

    config: ConfigDict
    workdir: Path
    source: Source
    checkpoints: Checkpoints
    start_step: int
    waits: Waits = field(default_factory=Waits)


class Hook:
    """Base of the hooks; its methods do nothing. Every process calls them, so write files in process 0 only."""

    def __init__(self, training: Training):
        self.training = training

    @classmethod
    def check(cls) -> None:
        """Raises UserError where it cannot be used here; called before the run reads or writes anything."""

    def before_step(self, step: int) -> None:
        """Step `step` (the first is 1) is about to be dispatched."""

    def after_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Step `step` is done and its metrics are on the host (NumPy); the next step is running already."""

    def before_pause(self, step: int) -> None:
        """The loop pauses after `step`, to evaluate or to stop; write now what was summed up since the last pause."""

    def after_evaluation(self, step: int, state: TrainState, evaluation: Evaluation) -> None:
        """The state after `step` was evaluated; its checkpoint is being written, still without the scores."""

    def after_save(self, step: int) -> None:
        """The checkpoint of `step` is being written; its evaluation, if any, comes next."""

    def after_training(self) -> None:
        """Every step is done and saved; `result.json`, by which a run is finished, is not there yet."""

    def close(self) -> None:
        """The training ends: finished, stopped or by an error."""


NAMED: dict[str, str] = {
    "wandb": "attnseg_jax.train.trackers:WandB",
    "mlflow": "attnseg_jax.train.trackers:MLflow",
}
"""Hooks that `config.hooks` may name without their module; named, not imported, since they need further packages."""


def classes_of(config: ConfigDict) -> list[Callable[[Training], Hook]]:
    """The hooks that `config.hooks` names, not made yet; a name that leads nowhere, or to none, raises UserError."""
    classes = [resolve(NAMED, name, "config.hooks") for name in config.hooks]
    for name, found in zip(config.hooks, classes):
        check_subclass(found, Hook, f"config.hooks: {name!r}")
        check_takes(found, f"config.hooks: {name!r}", None)
        for event, method in vars(Hook).items():
            if callable(method) and not event.startswith("_"):
                given = [None] * len(inspect.signature(method).parameters)
                check_takes(getattr(found, event), f"config.hooks: {name!r}.{event}", *given)
        found.check()
    return classes


class Hooks:
    """The hooks of a run, called one after another; a context that closes them."""

    def __init__(self, training: Training, classes: Sequence[Callable[[Training], Hook]]):
        self._hooks: list[Hook] = []
        try:
            for make in classes:
                self._hooks.append(make(training))
        except BaseException:
            self.__exit__()
            raise

    def __call__(self, event: Callable[..., None], *details: Any) -> None:
        """`hooks(Hook.after_step, step, metrics)` calls that method of each."""
        for hook in self._hooks:
            getattr(hook, event.__name__)(*details)

    def __enter__(self) -> "Hooks":
        return self

    def __exit__(self, *error: Any) -> None:
        with contextlib.ExitStack() as stack:
            for hook in self._hooks:
                stack.callback(hook.close)
