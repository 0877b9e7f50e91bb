"""Optimizers and learning-rate schedules, chosen by name from `config.optimizer`."""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util
from jaxtyping import Array, Float, PyTree

from attnseg_jax.errors import UserError, check_known
from attnseg_jax.ops.platforms import spread_by_the_compiler

Schedule = Callable[[Any], Float[Array, ""]]

# Two-axis parameters that are not weights of a product: flax keeps biases of attention heads as [a, d].
UNDECAYED = re.compile(r"(scale|bias|.*pos_embed.*|.*position.*|table|relative|.*_tokens?)")

# Numbers of an array that is copied beside others for a sum over all of them.
_SMALL = 1 << 18


def make_optimizer(
    config: Any, total_steps: int, frozen: frozenset[str] = frozenset(), layers: tuple[str, ...] = ()
) -> tuple[optax.GradientTransformation, Schedule]:
    """Build the optimizer and its schedule from `config.optimizer` and the number of steps of the run.

    In order: clipping of the global norm (`clip_norm`, 0 = off), the named rule with weight decay (see `decay_mask`),
    the multipliers of `layer_decay` and of `lr_multipliers`, the schedule; the backbone has one of its own where
    `backbone_warmup_steps` are set (`make_backbone_schedule`). SGD adds `weight_decay * p` to the gradient before the
    momentum, AdamW subtracts `learning_rate * weight_decay * p` beside it (Loshchilov & Hutter 2019); both as in
    PyTorch.
    An unknown name raises `UserError`.

    `frozen` are the paths of parameters (`backbone/conv1/kernel`) that stay as they are: no update, no decay, no
    moments, and their gradient does not count in the clipping. `layers` are those of the backbone, for `layer_decay`.
    """
    check_known("config.optimizer", OPTIMIZERS, name=config.name)
    schedule = make_schedule(config, total_steps)
    parts = OPTIMIZERS[config.name](config)
    if config.clip_norm:
        parts = [("clip", clip_by_norm(config.clip_norm)), *parts]
    if config.layer_decay != 1:
        parts = [*parts, ("layer_decay", scale_by_depth(config.layer_decay, layers))]
    if config.lr_multipliers:
        parts = [*parts, ("multipliers", scale_by_path(config.lr_multipliers))]
    # Named parts: a checkpoint of another optimizer is then told apart by readable names.
    scale = optax.scale_by_learning_rate(schedule)
    if config.backbone_warmup_steps:
        scale = scale_by_schedules(schedule, make_backbone_schedule(config, total_steps))
    rule = optax.named_chain(*parts, ("schedule", scale))
    if frozen:

        def group(params: PyTree) -> PyTree:
            return _by_path(lambda path, _: "frozen" if path in frozen else "trained", params)

        rule = optax.multi_transform({"trained": rule, "frozen": optax.set_to_zero()}, group)
    return rule, schedule


def make_schedule(config: Any, total_steps: int) -> Schedule:
    """The learning rate of step t = 0, 1, ..., total_steps - 1.

    For the first `warmup_steps` (w, at most half of the run) steps `learning_rate * (t + 1) / (w + 1)`; then, with
    `u = (t - w) / (total - w)`,
    `learning_rate * (end + (1 - end) * f(u))` where `end` is `end_factor` and `f` is `(1 - u)^power` for poly,
    `(1 + cos(pi u)) / 2` for cosine and 1 for constant.
    """
    return _schedule(config, total_steps, 0, min(config.warmup_steps, total_steps // 2))


def make_backbone_schedule(config: Any, total_steps: int) -> Schedule:
    """The learning rate of the backbone: 0 while the rest warms up, then as if the run began there.

    Its warm-up is `backbone_warmup_steps`, at most half of what is left. As in EoMT's training (Kerssies et al. 2025).
    """
    wait = min(config.warmup_steps, total_steps // 2)
    return _schedule(config, total_steps, wait, min(config.backbone_warmup_steps, (total_steps - wait) // 2))


def _schedule(config: Any, total_steps: int, wait: int, warmup: int) -> Schedule:
    check_known("config.optimizer", DECAYS, schedule=config.schedule)
    base, end, power = config.learning_rate, config.end_factor, config.power
    decay, begin = DECAYS[config.schedule], wait + warmup

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rest = jnp.clip((step - begin) / (total_steps - begin), 0.0, 1.0)
        falling = end + (1.0 - end) * decay(rest, power)
        rising = jnp.where(step < wait, 0.0, (step - wait + 1.0) / (warmup + 1.0))
        return base * jnp.where(step < begin, rising, falling)

    return schedule


def _sgd(config: Any) -> list:
    parts = [("decay", optax.add_decayed_weights(config.weight_decay, decay_mask))] if config.weight_decay else []
    if config.momentum:
        parts.append(("momentum", optax.trace(config.momentum, config.nesterov)))
    return parts


def _adamw(config: Any) -> list:
    parts = [("adam", optax.scale_by_adam(config.beta1, config.beta2, config.eps))]
    if config.weight_decay:
        parts.append(("decay", optax.add_decayed_weights(config.weight_decay, decay_mask)))
    return parts


OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}
DECAYS = {
    "poly": lambda rest, power: (1.0 - rest) ** power,
    "cosine": lambda rest, power: 0.5 * (1.0 + jnp.cos(jnp.pi * rest)),
    "constant": lambda rest, power: jnp.ones_like(rest),
}


def decay_mask(params: PyTree) -> PyTree:
    """True where weight decay acts: parameters of two axes or more that are no scale, bias, positions or tokens.

    One-axis parameters are biases and the scales of norms. Tables of positions and learned tokens are known by their
    names (`pos_embed`, `position...`, `table` of `window`, `relative` of `axial`; `class_tokens`).

    >>> import numpy as np
    >>> decay_mask({"conv": {"kernel": np.ones((3, 3)), "bias": np.ones(3)}, "pos_embed": np.ones((4, 3))})
    {'conv': {'bias': False, 'kernel': True}, 'pos_embed': False}
    """
    return _by_path(lambda path, p: jnp.ndim(p) > 1 and not UNDECAYED.fullmatch(path.rsplit("/", 1)[-1]), params)


def global_norm(tree: PyTree) -> Float[Array, ""]:
    """The Euclidean norm of all numbers of a tree.

    >>> float(global_norm({"kernel": jnp.array([[3.0]]), "bias": jnp.array([-4.0])}))
    5.0
    """

    if spread_by_the_compiler():
        # Side by side, arrays that are split over the devices would be gathered.
        return optax.tree.norm(tree)

    # On a CPU every shape of an array would take a few programs of its own, each as long to compile as a large one.
    def side_by_side(*arrays):
        small = [x.ravel() for x in arrays if x.size <= _SMALL]
        return optax.tree.norm([jnp.concatenate(small or [jnp.zeros(0)]), *(x for x in arrays if x.size > _SMALL)])

    return jax.lax.platform_dependent(
        *jax.tree.leaves(tree), cpu=side_by_side, default=lambda *arrays: optax.tree.norm(arrays)
    )


def clip_by_norm(most: float) -> optax.GradientTransformation:
    """Shrink updates whose `global_norm` is `most` or larger to that norm."""

    def update(updates, state, params=None):
        norm = global_norm(updates)
        return jax.tree.map(lambda u: jnp.where(norm < most, u, u / norm * most), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def depth_factor(decay: float, layers: tuple[str, ...], path: str) -> float:
    """The factor of a parameter's learning rate by how deep it lies: `decay^(n - i)` in layer i of the backbone's n.

    Layer 0 is what the image enters first, and what is in none of the layers, the head, has the factor 1; as in BEiT,
    MAE and mmsegmentation.

    Args:
      decay: of one layer to the one before it.
      layers: a regex for each layer, of paths within the backbone.
      path: of a parameter.

    >>> [depth_factor(0.5, ("stem/.*", "block0/.*"), f"backbone/{name}/kernel") for name in ("stem", "block0", "norm")]
    [0.25, 0.5, 1.0]
    """
    within = path.removeprefix("backbone/")
    found = (len(layers) - i for i, layer in enumerate(layers) if within != path and re.fullmatch(layer, within))
    return decay ** next(found, 0)


def scale_by_depth(decay: float, layers: tuple[str, ...]) -> optax.GradientTransformation:
    """Multiply the update of each parameter by `depth_factor`; `UserError` where there are no layers."""
    if not layers:
        raise UserError(
            f"config.optimizer.layer_decay={decay} needs a backbone that says what its layers are, such as vit_*, "
            "dinov2_*, dinov3_*, swin_* or convnext_*: set it to 1, or use config.optimizer.lr_multipliers"
        )

    def update(updates, state, params=None):
        return _by_path(lambda path, u: u * depth_factor(decay, layers, path), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def scale_by_schedules(schedule: Schedule, backbone: Schedule) -> optax.GradientTransformation:
    """Multiply the updates of the backbone by minus the one learning rate, all others by minus the other."""

    def init(params):
        if not jax.tree.leaves(params.get("backbone")):
            raise UserError("config.optimizer.backbone_warmup_steps is for a backbone that is trained: set it to 0")
        return optax.ScaleByScheduleState(jnp.zeros([], jnp.int32))

    def update(updates, state, params=None):
        rates = -schedule(state.count), -backbone(state.count)
        scaled = _by_path(lambda path, u: u * rates[path.startswith("backbone/")].astype(u.dtype), updates)
        return scaled, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.GradientTransformation(init, update)


def scale_by_path(rules: tuple[str, ...]) -> optax.GradientTransformation:
    """Multiply the update of each parameter by the factor of the first rule that matches its whole path.

    A rule is `regex=factor`, say `backbone/.*=0.1`; paths look like `backbone/conv1/kernel`; a factor of 0 freezes.
    A rule that cannot be read raises `UserError` at once, one that matches no parameter when the state is initialised.
    """
    parsed = [_parse_rule(rule) for rule in rules]

    def factor(path: str) -> float:
        return next((value for pattern, value in parsed if pattern.fullmatch(path)), 1.0)

    def init(params):
        paths = list(traverse_util.flatten_dict(params, sep="/"))
        for rule, (pattern, _) in zip(rules, parsed):
            if not any(map(pattern.fullmatch, paths)):
                some = ", ".join(paths[:: -(-len(paths) // 5)])
                raise UserError(
                    f"config.optimizer.lr_multipliers: {rule!r} matches no parameter; paths are like {some}"
                )
        return optax.EmptyState()

    def update(updates, state, params=None):
        return _by_path(lambda path, u: u * factor(path), updates), state

    return optax.GradientTransformation(init, update)


def _parse_rule(rule: str) -> tuple[re.Pattern, float]:
    pattern, _, value = rule.rpartition("=")
    try:
        return re.compile(pattern), float(value)
    except (re.error, ValueError) as error:
        raise UserError(
            f"config.optimizer.lr_multipliers: {rule!r} is not of the form 'regex=factor' ({error})"
        ) from error


def _by_path(function: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(jax.tree_util.keystr(path, simple=True, separator="/"), leaf), tree
    )
