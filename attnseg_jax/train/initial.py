"""The first state of a run: the checkpoint of its workdir, weights (`init_from`, `pretrained`), or random values."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import linen as nn
from flax import traverse_util
from jaxtyping import PyTree
from ml_collections import ConfigDict

from attnseg_jax.errors import UserError
from attnseg_jax.files import write_atomically
from attnseg_jax.train import config as configs
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.copies import global_array
from attnseg_jax.train.manifest import MANIFEST
from attnseg_jax.train.state import TrainState
from attnseg_jax.weights import catalogue, preprocessing
from attnseg_jax.weights.catalogue import at_path, wanted
from attnseg_jax.weights.fit import Fitted, fit
from attnseg_jax.weights.locate import locate
from attnseg_jax.weights.reading import read_located
from attnseg_jax.weights.rename import folded, listed

# What is recorded in the workdir.
RECORD = "initial.json"


@dataclass(frozen=True)
class Given:
    """Weights that a config asks for, read and not yet compared with the model.

    Attributes:
      key: of the config.
      part: `model` or `backbone`.
      arrays: by the names in the file.
      layout: of these names, where it is known.
      record: what is known of the source.
      known: keys of a config and the values with which the weights were trained.
    """

    key: str
    part: str
    arrays: Mapping[str, np.ndarray]
    layout: str
    record: dict[str, Any]
    known: dict[str, Any]


def read_given(config: ConfigDict) -> Given | None:
    """Reads what `config.init_from`, else `config.model.backbone.pretrained` names; None where both are empty.

    Args:
      config: the run's, after `weights.catalogue.apply`.

    Raises:
      UserError: it cannot be found or read.
    """
    whole, backbone = config.init_from, config.model.backbone.pretrained
    if not whole and not backbone:
        return None
    key, part = ("config.init_from", "model") if whole else ("config.model.backbone.pretrained", "backbone")
    if whole and backbone:
        logging.info("config.init_from is given, so config.model.backbone.pretrained is not used")
    located = locate(whole or backbone, key=key)
    record = {"key": key, "source": located.given, "path": str(located.path.absolute())}
    record |= {name: value for name in ("revision", "licence") if (value := getattr(located, name))}
    if located.path.is_dir():
        arrays, of_run = read_run(located.path, key)
        return Given(key, part, arrays, "", record | of_run, _trained_with(located.path))
    arrays, layout = read_located(located, key=key)
    return Given(key, part, arrays, layout, record | {"sha256": located.sha256()}, wanted(config))


def read_run(folder: Path, key: str, checkpoint: str = "latest") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The variables that a run is evaluated with, and what to record of them.

    Args:
      folder: the run's workdir or its `checkpoints`; or the folder of one checkpoint, which is read whatever
        `checkpoint` says.
      key: what named it, for messages.
      checkpoint: `latest` (the newest intact one), `best` (by validation mIoU) or a step.

    Returns:
      Arrays by their names in this package's files (`params.backbone. ...`); the checkpoint's step, whether its
      parameters are the average over steps, and the SHA-256 of its manifest.

    Raises:
      UserError: no checkpoint is there, or it is damaged.
    """
    if (folder / MANIFEST).exists():
        folder = folder.absolute()
        if not folder.name.isdecimal():
            raise UserError(f"{key}={folder} is a checkpoint, whose folder has to be called by its step, such as 300")
        folder, checkpoint = folder.parent, folder.name
    elif (folder / "checkpoints").is_dir():
        folder = folder / "checkpoints"
    with Checkpoints(folder, read_only=True) as checkpoints:
        restored = checkpoints.restore_arrays(checkpoint)
    if restored is None:
        raise UserError(f"{key}={folder} holds no checkpoint: name the workdir of a run, or a file")
    step, arrays, digest = restored
    averaged = any(name.startswith("ema/") for name in arrays)
    collections = {"ema" if averaged else "params": "params", "batch_stats": "batch_stats"}
    found = {}
    for name, array in arrays.items():
        first, _, rest = name.partition("/")
        if first in collections:
            found[f"{collections[first]}.{rest.replace('/', '.')}"] = array
    return found, {"step": step, "averaged": averaged, "manifest_sha256": digest}


def workdir_of(folder: Path) -> Path | None:
    """The workdir of the run that a folder is of, see `read_run`: itself or one above it; None without a config."""
    folder = folder.absolute()
    return next((path for path in (folder, *folder.parents[:2]) if (path / "config.json").exists()), None)


def _trained_with(folder: Path) -> dict[str, Any]:
    """The normalisation of the run that a folder is of, by key; nothing where its config is not there."""
    if not (workdir := workdir_of(folder)):
        return {}
    data = catalogue.apply(configs.load(workdir)).data
    return {"data.mean": data.mean, "data.std": data.std, "data.channel_order": data.channel_order}


def _compare(config: ConfigDict, trained_with: dict[str, Any]) -> dict[str, Any]:
    """What a config has as the training of its weights had it, and what it has otherwise: two entries of a record."""
    alike, unlike = {}, {}
    for key, value in trained_with.items():
        path, _, last = key.rpartition(".")
        here = at_path(config, path)[last]
        if here == value:
            alike[f"config.{key}"] = here
        else:
            unlike[f"config.{key}"] = {"config": here, "weights": value}
    return {"as_trained": alike, "unlike_trained": unlike}


@dataclass(frozen=True)
class Initial:
    """Weights in the form of a run's model, what `RECORD` holds of them, and `Given.known` or what the layout tells."""

    fitted: Fitted
    record: dict[str, Any]
    known: dict[str, Any]

    def prepared(self, config: ConfigDict) -> tuple[ConfigDict, "Initial"]:
        """A run's config in which the weights decide what it leaves open, and what is then as in their training.

        `config` is the one that was asked for: before `weights.catalogue.apply`.
        """
        config = catalogue.apply(config, self.known)
        record = self.record | _compare(config, self.known) | {"preprocessing": preprocessing.only(self.known)}
        return config, replace(self, record=record)

    def load_into(self, state: TrainState) -> TrainState:
        """`state` with these weights, in the average of the parameters too."""
        params = _replace(state.params, self.fitted.variables["params"])
        statistics = _replace(state.batch_stats, self.fitted.variables["batch_stats"])
        ema = None if state.ema is None else _replace(state.ema, self.fitted.variables["params"])
        return state.replace(params=params, batch_stats=statistics, ema=ema)

    def log(self) -> None:
        """Logs where the weights come from, and every name that is left over on either side."""
        record, fitted = self.record, self.fitted
        logging.info("initial state: %s=%s (layout %s)", record["key"], record["source"], record["layout"])
        if alike := record.get("as_trained"):
            settings = ", ".join(f"{key}={value}" for key, value in alike.items())
            logging.info("as in the training of these weights: %s", settings)
        for key, values in record.get("unlike_trained", {}).items():
            logging.warning(
                "%s=%s, but these weights were trained with %s: set that, or expect lower scores",
                key, values["config"], values["weights"],
            )  # fmt: skip
        if fitted.adapted:
            logging.info("adapted to another number of input channels: %s", listed(fitted.adapted))
        if fitted.resampled:
            logging.info("resampled to config.model.backbone's position_size: %s", listed(fitted.resampled))
        if fitted.unused:
            logging.info("of the file not used: %s", folded(fitted.unused))
        if fitted.unfilled:
            whole = record["key"] == "config.init_from"
            # Of a whole model that is a change of classes or of attention, which one should know of.
            report = logging.warning if whole else logging.info
            report("not in the file, left at their initialisation: %s", folded(fitted.unfilled))


def write_record(workdir: Path, initial: Initial | None) -> None:
    """Writes `RECORD` to `workdir`; without weights there is none."""
    if jax.process_index() != 0:
        return
    if initial is None:
        (workdir / RECORD).unlink(missing_ok=True)
    else:
        write_atomically(workdir / RECORD, (json.dumps(initial.record, indent=2) + "\n").encode())


def fit_given(given: Given, model: nn.Module, abstract: PyTree, num_classes: int) -> Initial:
    """Compares what was read with the model.

    `abstract` is the run's state or its `jax.eval_shape`.

    Raises:
      UserError: the weights are another model's; names from both sides.
    """
    variables = {"params": abstract.params, "batch_stats": abstract.batch_stats}
    try:
        fitted = fit(
            given.arrays,
            variables,
            part=given.part,
            backbone=model.backbone,
            layout=given.layout,
            num_classes=num_classes,
        )
    except UserError as error:
        raise UserError(f"{given.key}={given.record['source']}: {error}") from None
    names = {name: list(getattr(fitted, name)) for name in ("unused", "unfilled", "adapted", "resampled")}
    known = given.known or preprocessing.of_layout(fitted.layout)
    return Initial(fitted, {**given.record, "layout": fitted.layout, **names}, known)


def known_before(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """How the run in `workdir` prepares images for the weights that it started from, if `config` names the same."""
    try:
        record = read_record(workdir)
        same = record["source"] == (config.init_from or config.model.backbone.pretrained)
        found = record["preprocessing"].items() if same else ()
        return {key: tuple(value) if isinstance(value, list) else value for key, value in found}
    except (KeyError, TypeError, AttributeError):
        return {}


def read_record(workdir: Path) -> dict[str, Any]:
    """What `write_record` wrote; empty where there is nothing, or it cannot be read."""
    try:
        found = json.loads((workdir / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _replace(tree: PyTree, new: Mapping[str, Any]) -> PyTree:
    flat = traverse_util.flatten_dict(tree)
    for path, array in traverse_util.flatten_dict(new).items():
        # Copies: a step gives the memory of its arguments away.
        flat[path] = global_array(array, flat[path].sharding)
    return traverse_util.unflatten_dict(flat)


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run was saved in `workdir`, so that no weights need to be read."""
    try:
        return any(path.name.isdecimal() for path in (workdir / "checkpoints").iterdir())
    except OSError:
        return False


def initial_state(
    checkpoints: Checkpoints, abstract: PyTree, create: Callable[[], TrainState], initial: Initial | None, workdir: Path
) -> TrainState:
    """The latest checkpoint of the workdir, else a fresh state with the weights that were asked for; logs which."""
    restored = checkpoints.restore_latest(abstract)
    if restored is not None:
        step, state = restored
        logging.info("initial state: resumed from step %d of %s", step, workdir)
        return state
    write_record(workdir, initial)
    if initial is None:
        logging.info("initial state: from scratch; compiling it")
        return create()
    initial.log()
    logging.info("compiling the initial state")
    return initial.load_into(create())
