"""A model of a few hundred parameters, a batch with unevenly ignored labels, and default settings."""

import functools

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from flax import struct

from attnseg_jax.train.losses import make_losses
from attnseg_jax.train.objective import Supervised
from attnseg_jax.train.optimizer import make_optimizer
from attnseg_jax.train.state import create_state
from attnseg_jax.train.step import eval_step, train_step

CLASSES = 7
SIZE = (9, 11)
IMAGE = [jax.ShapeDtypeStruct((1, *SIZE, 3), np.float32)]


@struct.dataclass
class Output:
    logits: jax.Array
    aux: dict
    presence: dict


class Tiny(nn.Module):
    """A convolution, a norm, two outputs; little to compile."""

    norm: str = "batch"
    dropout: float = 0.0
    width: int = 5
    presence: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(self.width, (3, 3), name="stem")(x)
        if self.norm == "batch":
            x = nn.BatchNorm(not train, momentum=0.9, axis_name=_bound_axis(), name="norm")(x)
        x = nn.relu(x)
        x = nn.Dropout(self.dropout)(x, deterministic=not train)
        aux = nn.Dense(CLASSES, name="aux")(x)
        presence = {"shown": nn.Dense(CLASSES, name="shown")(x.mean((1, 2)))} if self.presence else {}
        return Output(logits=nn.Dense(CLASSES, name="head")(x), aux={"stem": aux}, presence=presence)


def _bound_axis():
    try:
        jax.lax.axis_size("data")
    except NameError:
        return None
    return "data"


def batch(seed=0, size=16, share=0.9):
    """The share of ignored pixels falls from `share` in the first image to nothing in the last."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, (size, *SIZE)).astype(np.int32)
    label[rng.random(label.shape) < np.linspace(share, 0, size)[:, None, None]] = 255
    image = rng.standard_normal((size, *SIZE, 3)).astype(np.float32)
    # A class is visible in the image, so that there is something to learn.
    image[..., 0] += label % CLASSES - 3
    return {"image": image, "label": label, "valid": np.ones(size, bool)}


def optimizer_config(**changes):
    settings = {
        "name": "sgd",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "nesterov": False,
        "weight_decay": 1e-3,
        "schedule": "poly",
        "power": 0.9,
        "warmup_steps": 0,
        "backbone_warmup_steps": 0,
        "end_factor": 0.0,
        "clip_norm": 0.0,
        "layer_decay": 1.0,
        "lr_multipliers": (),
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "ema_decay": 0.0,
    }
    return ml_collections.ConfigDict({**settings, **changes})


_STATES, _SETUPS = {}, {}


def setup(model=None, optimizer=None, ema_decay=0.0, frozen=frozenset(), accumulate=1, scheduled=None, **options):
    """(state, train_step, eval_step) of the tiny model; equal calls give the same ones, compiled once."""
    model, optimizer = model or Tiny(), optimizer or optimizer_config()
    rule, schedule = make_optimizer(optimizer, total_steps=10)
    key = repr((model, optimizer.to_dict(), ema_decay))
    if key not in _STATES:
        _STATES[key] = create(model, rule, ema_decay)
    full = key + repr((sorted(frozen), accumulate, scheduled, options))
    if full not in _SETUPS:
        step = functools.partial(
            train_step,
            model=model,
            optimizer=rule,
            objective=objective(**options),
            schedule=schedule,
            frozen=frozen,
            ema_decay=ema_decay,
            accumulate=accumulate,
            scheduled=scheduled,
        )
        evaluate = functools.partial(eval_step, model=model, num_classes=CLASSES)
        _SETUPS[full] = jax.jit(step, static_argnames="axis_name"), evaluate
    return _STATES[key], *_SETUPS[full]


def create(model, rule=None, ema_decay=0.0):
    """The first state of a model, which `setup` gives too; by default for the optimizer of `optimizer_config()`."""
    rule = rule or make_optimizer(optimizer_config(), total_steps=10)[0]
    return create_state(model, rule, jax.random.key(0), IMAGE, ema=ema_decay > 0)


def forget():
    """Lets go of the states that `setup` has made."""
    _STATES.clear()


def objective(
    loss="cross_entropy", loss_scales=(), loss_options=None, class_weights=None, label_smoothing=0.0, **weights
):
    """The supervised objective of the tiny model."""
    options = {"num_classes": CLASSES, "label_smoothing": label_smoothing}
    made = Supervised(
        CLASSES, make_losses(loss, loss_scales, loss_options, **options), label_smoothing=label_smoothing, **weights
    )
    made.class_weights = class_weights
    return made


def largest_difference(a, b):
    """The largest difference of two trees of arrays."""
    return max(
        float(np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max())
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
