"""What a user adds to training from outside the package: an objective and its transform, a loss, a hook, a sharding."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from attnseg_jax.ops.labels import IGNORE_LABEL
from attnseg_jax.ops.losses import pixel_count
from attnseg_jax.train.hooks import Hook
from attnseg_jax.train.objective import Supervised


class TwoViews(Supervised):
    """The losses of the labelled view, and the squared difference of the predictions for two views of a picture."""

    fields: ClassVar = {**Supervised.fields, "image2": 0}

    def __init__(self, *arguments, weight=1.0, **options):
        super().__init__(*arguments, **options)
        self.weight = weight

    def outputs(self, forward, batch):
        return forward(batch), forward({**batch, "image": batch["image2"]})

    def __call__(self, output, batch, *, axis_name=None):
        one, two = output
        sums, counts = super().__call__(one, batch, axis_name=axis_name)
        difference = jnp.square(one.logits - two.logits).mean(-1)
        valid = batch["valid"][:, None, None]
        sums["consistency"] = jnp.where(valid, difference, 0.0).sum()
        counts["consistency"] = jnp.broadcast_to(valid, difference.shape).sum().astype(jnp.float32)
        return sums, counts

    def metrics(self, means):
        metrics = super().metrics(means)
        loss = metrics["loss"] + self.weight * means["consistency"]
        return {**metrics, "loss": loss, "consistency": means["consistency"]}


class Teacher(TwoViews):
    """The same, but what the second view has to agree with is said by the average of the parameters."""

    def outputs(self, forward, batch):
        return forward(batch), forward.averaged({**batch, "image": batch["image2"]})


def second_view(sample, rng, config):
    """A transform: another view of the picture, as field `image2`; half of the pictures lose their labels."""
    noise = rng.normal(0, config.custom.noise, sample["image"].shape).astype(np.float32)
    label = sample["label"] if rng.random() < 0.5 else np.full_like(sample["label"], IGNORE_LABEL)
    return {**sample, "label": label, "image2": sample["image"] + noise}


def squared_error(logits, labels, *, power=2.0):
    """(1 - probability of the label) to a power, over the valid pixels."""
    valid = labels != IGNORE_LABEL
    logits = jnp.where(valid[..., None], logits, 0.0)
    probability = jnp.exp(logits - jnp.max(logits, -1, keepdims=True))
    probability = probability / probability.sum(-1, keepdims=True)
    at = jnp.take_along_axis(probability, jnp.where(valid, labels, 0)[..., None], -1)[..., 0]
    return jnp.where(valid, (1.0 - at) ** power, 0.0).sum(), pixel_count(labels)


class Notes(Hook):
    """Writes down what happens, in the folder of the run."""

    def _note(self, *words):
        with (self.training.workdir / "notes.txt").open("a") as file:
            print(*words, file=file)

    def before_step(self, step):
        self._note("before", step)

    def after_step(self, step, metrics):
        assert isinstance(metrics["loss"], np.generic | np.ndarray)
        self._note("step", step)

    def after_evaluation(self, step, state, evaluation):
        self._note("evaluation", step, int(state.step), len(evaluation.samples))

    def after_save(self, step):
        self._note("save", step)

    def after_training(self):
        assert not (self.training.workdir / "result.json").exists()
        self._note("end")

    def close(self):
        self._note("close")


def split_kernels(path, shape):
    """Kernels over the devices, by their last axis where that can be divided by eight; everything else whole."""
    if path.endswith("kernel") and shape[-1] % 8 == 0:
        return PartitionSpec(*[None] * (len(shape) - 1), "data")
    return PartitionSpec()
