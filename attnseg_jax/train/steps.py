"""The steps of a run, and what comes between them: checkpoints, evaluations, signals, a loss that is not finite."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from attnseg_jax.data.sources import Source
from attnseg_jax.errors import NotFinite, UserError
from attnseg_jax.files import read_series
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.evaluation import Evaluation, evaluate_split
from attnseg_jax.train.hooks import Hook, Hooks
from attnseg_jax.train.logging import say
from attnseg_jax.train.orbax_arrays import of_process_0
from attnseg_jax.train.setup import Run
from attnseg_jax.train.state import TrainState, eval_variables
from attnseg_jax.train.stop import StopRequests


class Steps:
    """The steps of a run, with a checkpoint and an evaluation every `eval_every`."""

    def __init__(
        self,
        config: ConfigDict,
        train: Run,
        source: Source,
        checkpoints: Checkpoints,
        hooks: Hooks,
        stops: StopRequests,
    ):
        self._config, self._train, self._source = config, train, source
        self._checkpoints, self._hooks, self._stops = checkpoints, hooks, stops

    def run(self, state: TrainState, batches: Iterator[dict[str, np.ndarray]]) -> tuple[int, Evaluation]:
        """Runs the steps that remain after `state`, fewer by `config.train.patience`; returns the last, evaluated."""
        start, steps, every = int(state.step), self._config.train.steps, self._config.train.eval_every
        parallel = self._train.parallel
        state = parallel.put_state(state)
        pending: tuple[int, dict] | None = None
        evaluation: Evaluation | None = None
        if start and start % every == 0 and not self._checkpoints.metrics(start):
            # The run ended before this step was evaluated.
            evaluation = self._save_and_evaluate(start, state)
        if start and self._is_in_vain(start):
            steps = start
        for step in range(start + 1, steps + 1):
            self._hooks(Hook.before_step, step)
            state, metrics = parallel.train(state, parallel.shard_batch(next(batches)))
            # Step n is on its way; only now is it worth waiting for the metrics of step n - 1.
            if pending:
                self._absorb(*pending)
            pending = (step, metrics)

            stop = self._stops.now()
            if stop or step == steps or step % every == 0:
                self._absorb(*pending)
                pending = None
                if stop:
                    self._save(step, state)
                    self._checkpoints.wait()
                    raise self._stops.stopped(step)
                evaluation = self._save_and_evaluate(step, state)
                if step < steps and self._is_in_vain(step):
                    return step, evaluation
        # All steps may have been there already, and only the result was missing.
        return max(start, steps), evaluation or self._save_and_evaluate(start, state)

    def _is_in_vain(self, step: int) -> bool:
        """Whether so many evaluations up to `step` as `config.train.patience` says did not raise the best mIoU."""
        if not (patience := self._config.train.patience):
            return False
        # Process 0 writes the scores.
        path = self._checkpoints.directory.parent / "metrics.jsonl"
        evaluations = int(of_process_0(str(_without_gain(path) if jax.process_index() == 0 else 0)))
        if evaluations >= patience:
            say(
                f"step {step}: val mIoU has not risen for {evaluations} evaluations: the training ends, as "
                f"config.train.patience={patience} says"
            )
        return evaluations >= patience

    def _absorb(self, step: int, metrics: dict) -> None:
        metrics = jax.device_get(metrics)
        self._check_finite(step, metrics)
        self._hooks(Hook.after_step, step, metrics)
        if step - 1 == self._checkpoints.saved_step:
            # The checkpoint has proved itself: what came before it is not needed any more.
            self._checkpoints.prune()

    def _save(self, step: int, state: TrainState) -> None:
        self._hooks(Hook.before_pause, step)
        if not _all_finite(state):
            raise self._diverged(f"parameters that are not finite after step {step}")
        self._checkpoints.save(step, state)
        self._hooks(Hook.after_save, step)

    def _save_and_evaluate(self, step: int, state: TrainState) -> Evaluation:
        """Saves first: the evaluation may fail, or be stopped."""
        self._save(step, state)
        try:
            evaluation = evaluate_split(
                self._config,
                self._train.model,
                self._train.parallel,
                eval_variables(state),
                self._source,
                between=lambda: self._stops.within(step),
            )
        except NotFinite as error:
            if not self._checkpoints.metrics(step):
                self._checkpoints.discard(step)
            raise self._diverged(f"step {step} has logits that are not finite ({error})") from None
        self._hooks(Hook.after_evaluation, step, state, evaluation)
        miou = evaluation.scores.miou
        self._checkpoints.add_metrics(step, {"miou": miou if np.isfinite(miou) else 0.0})
        return evaluation

    def _check_finite(self, step: int, metrics: dict[str, Any]) -> None:
        if np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]):
            return
        steps = self._checkpoints.steps()
        # The very first loss of a checkpoint is not finite: to go back to it would end here again.
        if steps and steps[-1] == step - 1 and (len(steps) > 1 or not self._checkpoints.metrics(steps[-1])):
            self._checkpoints.discard(steps[-1])
        raise self._diverged(f"loss {metrics['loss']} with gradient norm {metrics['grad_norm']} at step {step}")

    def _diverged(self, what: str) -> UserError:
        latest = self._checkpoints.latest_step()
        kept = "there is no checkpoint yet, and the same command starts anew"
        if latest is not None:
            kept = f"the checkpoint of step {latest} is kept, and the same command goes back to it"
        return UserError(
            f"{what}: training stops, {kept}; lower config.optimizer.learning_rate, or set config.optimizer.clip_norm"
        )


def _without_gain(path: Path) -> int:
    """How many evaluations there were after the first one with the best mIoU; 0 where there is no file."""
    if not path.exists():
        return 0
    scores = read_series(path).get("val_miou", ([], []))[1]
    return len(scores) - 1 - int(np.argmax(scores)) if scores else 0


@jax.jit
def _finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.array([jnp.isfinite(x).all() for x in leaves]).all()


def _all_finite(state: TrainState) -> bool:
    """Whether parameters and statistics are finite numbers."""
    return bool(_finite(jax.tree.leaves((eval_variables(state), state.params))))
