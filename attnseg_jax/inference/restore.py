"""A run read back from its workdir, and what it makes of images."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from flax import linen as nn
from jaxtyping import Float, Int, PyTree, UInt8
from ml_collections import ConfigDict

from attnseg_jax.data.pipeline import evaluation_sample, unlabelled
from attnseg_jax.data.regions import cache as region_cache
from attnseg_jax.data.sources import Source, load_source
from attnseg_jax.data.transforms.fields import SIZES, Window
from attnseg_jax.errors import NotFinite, UserError
from attnseg_jax.files import expanded
from attnseg_jax.inference.attention import covered_by, make_look, make_records
from attnseg_jax.inference.pretrained import read_back
from attnseg_jax.models.records import AttentionRecord
from attnseg_jax.train import config as configs
from attnseg_jax.train import processes
from attnseg_jax.train.checkpoint import Checkpoints
from attnseg_jax.train.evaluation import naming_images
from attnseg_jax.train.parallel import Parallel
from attnseg_jax.train.setup import make_run
from attnseg_jax.train.sizes import evaluation_multiple
from attnseg_jax.train.state import eval_variables
from attnseg_jax.train.step import model_inputs
from attnseg_jax.weights import catalogue


@dataclass(frozen=True)
class Restored:
    """A run read back from its workdir, or a published model.

    `source` has the images of `split`, `variables` lie on the devices of `parallel`, and `step` is the checkpoint's, 0
    of a published model.
    """

    config: ConfigDict
    split: str
    source: Source
    model: nn.Module
    parallel: Parallel
    variables: PyTree
    step: int


def restore_run(
    workdir: str | None,
    *,
    split: str = "val",
    checkpoint: str = "latest",
    data_dir: str | None = None,
    distributed: bool = False,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> Restored:
    """Reads a run back; changes nothing on disk.

    Args:
      workdir: folder of the run; or a whole model of the catalogue, as in `load_pretrained`.
      split: name of a split; `val` is the run's own validation split, whatever its name.
      checkpoint: `latest`, `best` (by validation mIoU) or a step.
      data_dir: stands for the run's `config.data.dir`.
      distributed: join the other processes of a pod, which all call this.
      changes: keys of the config, such as `eval.batch_size`, and values that stand for the run's.

    Raises:
      UserError: workdir, checkpoint, split or data are not there.
    """
    if not workdir:
        raise UserError("--workdir is missing: name the folder of a run of train.py")
    folder, variables = expanded(workdir), None
    if catalogue.entry(str(workdir)):
        _, variables, _, config = read_back(workdir, checkpoint=checkpoint)
    else:
        config = configs.load(folder)
    if data_dir is not None:
        config.data.dir = data_dir
    configs.apply_changes(config, changes)
    # Not the run's own value: what a pod trained may be scored on one machine.
    processes.initialize_distributed(distributed)
    processes.check_same_run(config, folder, **{"--split": split, "--checkpoint": checkpoint})
    region_cache.settle(config.data.regions)
    split = config.data.eval_split if split == "val" else split
    source = load_source(config.data, split)
    processes.check_same_inputs({split: source})
    run = make_run(config, len(source.info.class_names), training=False)
    if variables is not None:
        return Restored(config, split, source, run.model, run.parallel, run.parallel.put_state(variables), 0)
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore_named(checkpoint, run.abstract)
    if restored is None:
        raise UserError(f"{checkpoints.directory} holds no checkpoint: train first")
    step, state = restored
    variables = run.parallel.put_state(eval_variables(state))
    return Restored(config, split, source, run.model, run.parallel, variables, step)


def predict(restored: Restored, records: Sequence[dict[str, Any]]) -> list[UInt8[np.ndarray, "h w"]]:
    """The predicted train ids of records of any source, one after another, at full size: as they are scored."""
    predictions = []
    for record in records:
        h, w = record["label"].shape[:2]
        batch = {name: x[None] for name, x in _prepared(restored, record).items()} | {"valid": np.ones(1, bool)}
        with naming_images(lambda row, record=record: record["id"]):
            predictions.append(np.asarray(restored.parallel.evaluate(restored.variables, batch)[1])[0, :h, :w])
    return predictions


def predict_with_records(
    restored: Restored, image: UInt8[np.ndarray, "h w 3"]
) -> tuple[Int[np.ndarray, "h w"], dict[str, AttentionRecord], tuple[int, int]]:
    """The predicted train ids of one image of any origin, and what the model attended to on the way, by name.

    The maps of the latter cover the image as it was padded, whose height and width come last.

    Raises:
      UserError: no part of the model leaves anything to look at.
    """
    h, w = image.shape[:2]
    padded = _prepared(restored, unlabelled(image, "", restored.config.data))["image"]
    prediction, finite, records = make_records(restored.model, restored.variables, restored.config)(padded)
    if not finite:
        raise NotFinite(f"the logits of step {restored.step} are not finite: take another --checkpoint")
    return np.asarray(prediction)[:h, :w], records, padded.shape[:2]


def make_restored_look(
    restored: Restored,
) -> Callable[[dict[str, Any]], tuple[Float[np.ndarray, "h w"], dict[str, AttentionRecord], tuple[int, int]]]:
    """A function of a record of the source: confidence, attention records by name, and what their maps cover.

    The last are height and width in pixels of the image, as it was padded.
    """
    look = make_look(restored.model, restored.variables, restored.config)

    def looked(record: dict[str, Any]) -> tuple[np.ndarray, dict[str, AttentionRecord], tuple[int, int]]:
        full = record["label"].shape[:2]
        fields = _prepared(restored, record)
        sure, records = look(*(fields[name] for name in model_inputs(restored.model)))
        h, w = fields[SIZES][0] if SIZES in fields else full
        sure = Window(full, (0, 0), full).cut_field("image", sure[:h, :w, None])[..., 0]
        return sure, records, covered_by(fields["image"].shape[:2], (h, w), full)

    return looked


def _prepared(restored: Restored, record: dict[str, Any]) -> dict[str, np.ndarray]:
    """A record as the evaluation of the run sees it, without an axis for the batch."""
    config = restored.config
    return evaluation_sample(record, config.data, evaluation_multiple(config, restored.model), config.eval.padding)
