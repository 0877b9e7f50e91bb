"""Hooks that send what a run logs to an experiment tracker: `config.hooks=('wandb',)` or `('mlflow',)`.

They send the lines of WORKDIR/metrics.jsonl, the pictures of evaluations and the config. A run that goes on in its
workdir goes on there, too: the tracker's name of it is in WORKDIR/wandb.json or mlflow.json. Servers, projects and keys
are set by the trackers' own environment variables.
"""

import abc
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
from absl import logging
from flax.traverse_util import flatten_dict

from attnseg_jax.errors import UserError
from attnseg_jax.files import write_atomically
from attnseg_jax.train import config as configs
from attnseg_jax.train.hooks import Hook, Training


class Tracker(Hook, abc.ABC):
    """What both have in common; process 0 sends."""

    package: str
    """To import; also the name of this project's extra that installs it, and of the hook."""

    def __init__(self, training: Training):
        super().__init__(training)
        self._active = False
        if jax.process_index() != 0:
            return
        self._library = importlib.import_module(self.package)
        self._metrics = training.workdir / "metrics.jsonl"
        # Lines of an earlier part of the run are there already.
        self._sent = self._metrics.stat().st_size if self._metrics.exists() else 0
        known = training.workdir / f"{self.package}.json"
        values = flatten_dict(configs.resolve(training.config), sep=".")
        try:
            name = json.loads(known.read_text())["run"] if known.exists() and training.start_step else None
            name = self.start(self._library, name, values)
        except Exception as error:
            raise UserError(f"config.hooks: {self.package!r} cannot begin a run: {_one_line(error)}") from error
        write_atomically(known, (json.dumps({"run": name}) + "\n").encode())
        self._active = True

    @classmethod
    def check(cls):
        """The package has to be there."""
        if importlib.util.find_spec(cls.package) is None:
            raise UserError(f"config.hooks: {cls.package!r} needs a package: pip install 'attnseg_jax[{cls.package}]'")

    def after_step(self, step, metrics):
        """Sends the lines that were written since the last time."""
        if step % self.training.config.train.log_every == 0:
            self._going_on(self._send)

    def after_evaluation(self, step, state, evaluation):
        """Sends the scores, and the picture of the samples."""
        self._going_on(self._send)
        picture = self.training.workdir / "predictions" / f"step_{step}.png"
        if picture.exists():
            self._going_on(self.send_picture, step, picture)

    def close(self):
        """Ends the tracker's run, which another part of this one may go on with."""
        self._going_on(self.end)
        self._active = False

    def _going_on(self, action: Callable[..., None], *given: Any) -> None:
        """Does something in process 0; a server that does not answer is no reason to end a training."""
        try:
            if self._active:
                action(*given)
        except Exception as error:
            logging.warning(
                "%s cannot be reached: %s; the files of the run have it all", self.package, _one_line(error)
            )

    def _send(self) -> None:
        with self._metrics.open("rb") as file:
            file.seek(self._sent)
            lines = file.read()
        self._sent += len(lines)
        for line in lines.splitlines():
            values = json.loads(line)
            step = values.pop("step")
            self.send(step, {name: value for name, value in values.items() if value is not None})

    @abc.abstractmethod
    def start(self, library: ModuleType, name: str | None, config: dict[str, Any]) -> str:
        """Begins a run, or goes on with that of `name`; returns its name."""

    @abc.abstractmethod
    def send(self, step: int, values: dict[str, float]) -> None:
        """Sends values by name."""

    @abc.abstractmethod
    def send_picture(self, step: int, path: Path) -> None:
        """Sends the picture of an evaluation."""

    @abc.abstractmethod
    def end(self) -> None:
        """Ends the run."""


class WandB(Tracker):
    """Weights & Biases; `WANDB_PROJECT`, `WANDB_MODE=offline` and others are read by its own library."""

    package = "wandb"

    def start(self, library, name, config):
        """As of `Tracker`."""
        workdir = self.training.workdir
        self._run = library.init(id=name, resume="allow", name=workdir.name, dir=str(workdir), config=config)
        return self._run.id

    def send(self, step, values):
        """As of `Tracker`."""
        self._run.log(values, step=step)

    def send_picture(self, step, path):
        """As of `Tracker`."""
        self._run.log({"predictions": self._library.Image(str(path))}, step=step)

    def end(self):
        """As of `Tracker`."""
        self._run.finish()


class MLflow(Tracker):
    """MLflow; `MLFLOW_TRACKING_URI` and `MLFLOW_EXPERIMENT_NAME` are read by its own library."""

    package = "mlflow"

    def start(self, library, name, config):
        """As of `Tracker`."""
        run = library.start_run(run_id=name, run_name=None if name else self.training.workdir.name)
        if name is None:
            # It takes no value of more than 500 characters.
            library.log_params({key: str(value)[:500] for key, value in config.items()})
        return run.info.run_id

    def send(self, step, values):
        """As of `Tracker`."""
        # Its names have letters, digits and few other characters.
        named = {re.sub(r"[^\w\-. /:]", "_", name, flags=re.ASCII): value for name, value in values.items()}
        self._library.log_metrics(named, step=step)

    def send_picture(self, step, path):
        """As of `Tracker`."""
        self._library.log_artifact(str(path), "predictions")

    def end(self):
        """As of `Tracker`."""
        self._library.end_run()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
