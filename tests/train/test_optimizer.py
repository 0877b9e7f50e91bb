"""Optimizers and schedules against PyTorch's own results and values worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from golden import Golden
from tiny import optimizer_config

from attnseg_jax.errors import UserError
from attnseg_jax.train.optimizer import (
    clip_by_norm,
    decay_mask,
    global_norm,
    make_backbone_schedule,
    make_optimizer,
    make_schedule,
)

CONSTANT = {"schedule": "constant", "weight_decay": 0.0, "learning_rate": 0.01}
GOLDEN_CASES = {
    "sgd": dict(CONSTANT, momentum=0.0),
    "sgd_mom_wd": dict(CONSTANT, weight_decay=1e-2),
    "sgd_nesterov_wd": dict(CONSTANT, weight_decay=1e-2, nesterov=True),
    "sgd_poly0.9": dict(CONSTANT, schedule="poly", learning_rate=0.02),
    "sgd_clip1": dict(CONSTANT, clip_norm=1.0, learning_rate=0.05),
    "adamw": dict(CONSTANT, name="adamw", learning_rate=0.02, weight_decay=0.1),
    "adamw_eps": dict(CONSTANT, name="adamw", learning_rate=0.02, weight_decay=0.1, beta1=0.8, beta2=0.95, eps=1e-3),
}


def run_golden(config):
    """The five steps of the golden: loss_t = 0.5 * sum((x * a + b)^2) * (1 + 0.5 * t)."""
    inputs = Golden("train_optimizers").inputs()
    optimizer, _ = make_optimizer(config, total_steps=10)
    params = {"x": jnp.asarray(inputs["x"]), "b": jnp.asarray(inputs["b"])}
    state = optimizer.init(params)
    norms = []
    for t in range(5):
        grads = jax.grad(lambda p, t=t: 0.5 * ((p["x"] * inputs["a"] + p["b"]) ** 2).sum() * (1 + 0.5 * t))(params)
        norms.append(float(optax.tree.norm(grads)))
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, norms


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_equals_pytorch(case):
    golden = Golden("train_optimizers")
    params, norms = run_golden(optimizer_config(**GOLDEN_CASES[case]))
    for name, value in params.items():
        error, tolerance = golden.error(f"{case}/{name}", value)
        assert error <= tolerance, (name, error)
    if case == "sgd_clip1":
        for t, norm in enumerate(norms):
            error, tolerance = golden.error(f"{case}/norm{t}", np.float32(norm))
            assert error <= tolerance


def test_goldens_tell_the_rules_apart():
    golden = Golden("train_optimizers")
    params, _ = run_golden(optimizer_config(**GOLDEN_CASES["sgd_mom_wd"]))
    for case in ("sgd_nesterov_wd/x", "adam_wd/x", "sgd/x"):
        error, tolerance = golden.error(case, params["x"])
        assert error > 100 * tolerance


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # (1 - t / 8)^2 of 0.8
        ({"schedule": "poly", "power": 2.0}, {0: 0.8, 2: 0.45, 4: 0.2, 7: 0.0125, 8: 0.0, 9: 0.0}),
        # (1 + cos(pi t / 8)) / 2 of 0.8
        ({"schedule": "cosine"}, {0: 0.8, 2: 0.6828427, 4: 0.4, 6: 0.1171573, 8: 0.0}),
        ({"schedule": "constant"}, {0: 0.8, 5: 0.8, 8: 0.8}),
        # three rising steps a quarter apart, then five of poly
        ({"schedule": "poly", "power": 1.0, "warmup_steps": 3}, {0: 0.2, 1: 0.4, 2: 0.6, 3: 0.8, 4: 0.64, 7: 0.16}),
        # at most half of the run: four rising steps a fifth apart
        ({"schedule": "constant", "warmup_steps": 50}, {0: 0.16, 3: 0.64, 4: 0.8, 8: 0.8}),
        # falls from 0.8 to a quarter of it
        ({"schedule": "poly", "power": 1.0, "end_factor": 0.25}, {0: 0.8, 4: 0.5, 8: 0.2}),
        ({"schedule": "constant", "warmup_steps": 1}, {0: 0.4, 1: 0.8, 8: 0.8}),
    ],
)
def test_schedule_by_hand(changes, expected):
    schedule = make_schedule(optimizer_config(learning_rate=0.8, **changes), total_steps=8)
    values = {step: float(schedule(jnp.int32(step))) for step in expected}
    assert values == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("warmup", "backbone", "expected"),
    [
        # two steps still, three rising ones a quarter apart, three of poly from 0.8
        (2, 3, {0: 0.0, 1: 0.0, 2: 0.2, 3: 0.4, 4: 0.6, 5: 0.8, 6: 0.8 * 2 / 3, 7: 0.8 / 3, 8: 0.0}),
        # at most half of the run, and half of the rest
        (50, 50, {0: 0.0, 3: 0.0, 4: 0.8 / 3, 5: 1.6 / 3, 6: 0.8, 7: 0.4}),
        (0, 1, {0: 0.4, 1: 0.8, 2: 0.8 * 6 / 7}),
    ],
)
def test_backbone_schedule_by_hand(warmup, backbone, expected):
    changes = {"warmup_steps": warmup, "backbone_warmup_steps": backbone, "power": 1.0}
    schedule = make_backbone_schedule(optimizer_config(learning_rate=0.8, **changes), total_steps=8)
    values = {step: float(schedule(jnp.int32(step))) for step in expected}
    assert values == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_new_parts_move_first(name):
    """Each by its schedule and multiplier; decay, too, leaves the backbone as it is; a frozen part has no say in it."""
    changes = {"warmup_steps": 2, "backbone_warmup_steps": 3, "lr_multipliers": ("backbone/.*=0.5",), "momentum": 0.0}
    config = optimizer_config(name=name, weight_decay=0.25, learning_rate=0.1, **changes)
    optimizer, schedule = make_optimizer(config, 10, frozenset({"decoder/bias"}))
    backbone, params, state = make_backbone_schedule(config, 10), PARAMS, optimizer.init(PARAMS)
    for step in range(6):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, PARAMS), state, params)
        # Adam's steps are as long as those by a gradient of 1, since all gradients are alike.
        kernels = updates["backbone"]["conv1"]["kernel"], updates["decoder"]["kernel"]
        for kernel, rate in zip(kernels, (0.5 * backbone(step), schedule(step))):
            np.testing.assert_allclose(kernel, -rate * (1 + 0.25 * 2), rtol=1e-5)
        assert not updates["decoder"]["bias"].any()
        assert bool(updates["backbone"]["bn1"]["scale"].any()) == (step >= 2)


PARAMS = {
    "backbone": {
        "conv1": {"kernel": jnp.full((3, 3, 2, 5), 2.0)},
        "bn1": {"scale": jnp.full(5, 2.0), "bias": jnp.full(5, 2.0)},
    },
    "attention": {"query": {"kernel": jnp.full((5, 2, 3), 2.0), "bias": jnp.full((2, 3), 2.0)}},
    "pos_embed": jnp.full((13, 5), 2.0),
    "decoder": {"kernel": jnp.full((5, 7), 2.0), "bias": jnp.full(7, 2.0)},
    "class_tokens": jnp.full((1, 7, 5), 2.0),
    "window": {"table": jnp.full((9, 5), 2.0)},
    "axial": {"relative": jnp.full((10, 7), 2.0)},
}


def first_update(config):
    optimizer, _ = make_optimizer(config, total_steps=10)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, PARAMS), optimizer.init(PARAMS), PARAMS)
    return jax.tree.map(lambda u: float(np.unique(u).item()), updates)


def test_decay_spares_norms_biases_positions_and_tokens():
    assert decay_mask(PARAMS) == {
        "backbone": {"conv1": {"kernel": True}, "bn1": {"scale": False, "bias": False}},
        "attention": {"query": {"kernel": True, "bias": False}},
        "pos_embed": False,
        "decoder": {"kernel": True, "bias": False},
        "class_tokens": False,
        "window": {"table": False},
        "axial": {"relative": False},
    }


def test_sgd_decay_and_multipliers_by_hand():
    config = optimizer_config(
        schedule="constant",
        weight_decay=0.25,
        momentum=0.0,
        learning_rate=0.1,
        lr_multipliers=("backbone/bn.*=0", "backbone/.*=0.1", "decoder/bias=10"),
    )
    updates = first_update(config)
    # gradient 1, parameter 2: 1 + 0.25 * 2 = 1.5 where decayed
    assert updates["backbone"]["conv1"]["kernel"] == pytest.approx(-0.1 * 0.1 * 1.5)
    assert updates["backbone"]["bn1"] == {"scale": 0.0, "bias": 0.0}  # the first rule that matches wins
    assert updates["attention"]["query"] == pytest.approx({"kernel": -0.1 * 1.5, "bias": -0.1})
    assert updates["pos_embed"] == pytest.approx(-0.1)
    assert updates["decoder"] == pytest.approx({"kernel": -0.1 * 1.5, "bias": -0.1 * 10})


def test_adamw_decay_by_hand():
    updates = first_update(optimizer_config(name="adamw", schedule="constant", weight_decay=0.25, learning_rate=0.1))
    # Adam's first step is the gradient's sign; the decay beside it is 0.25 * 2
    assert updates["decoder"] == pytest.approx({"kernel": -0.1 * 1.5, "bias": -0.1}, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "sdg"}, ["config.optimizer.name='sdg'", "'sgd'"]),
        ({"schedule": "cosin"}, ["config.optimizer.schedule='cosin'", "'cosine'"]),
        ({"lr_multipliers": ("backbone/.*:0.1",)}, ["'backbone/.*:0.1'", "regex=factor"]),
        ({"lr_multipliers": ("backbone/(=0.1",)}, ["'backbone/(=0.1'", "regex=factor"]),
        # a part of a path is no match
        ({"lr_multipliers": ("backbone=0.1",)}, ["'backbone=0.1'", "matches no parameter", "decoder/kernel"]),
    ],
)
def test_mistakes_are_named(changes, words):
    with pytest.raises(UserError) as error:
        first_update(optimizer_config(**changes))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_warm_up_of_no_backbone():
    """All of it is frozen."""
    frozen = frozenset(f"backbone/{path}" for path in traverse_util.flatten_dict(PARAMS["backbone"], sep="/"))
    optimizer, _ = make_optimizer(optimizer_config(backbone_warmup_steps=3), 10, frozen)
    with pytest.raises(UserError, match="backbone_warmup_steps is for a backbone that is trained"):
        optimizer.init(PARAMS)


@pytest.mark.parametrize("changes", [{"momentum": 0.5}, {"name": "adamw", "clip_norm": 1.0}])
def test_frozen_parameters_stay_and_keep_no_moments(changes):
    config = optimizer_config(schedule="constant", weight_decay=0.25, lr_multipliers=("backbone/.*=0.1",), **changes)
    paths = traverse_util.flatten_dict(PARAMS, sep="/")
    frozen, _ = make_optimizer(
        config, 10, frozenset(path for path in paths if path.startswith(("backbone/", "window/")))
    )
    state = jax.jit(frozen.init)(PARAMS)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert any("decoder" in name for name in names)
    assert not any("backbone" in name or "window" in name for name in names)
    # What is frozen does not count in the clipping either.
    gradients = jax.tree.map(lambda p: jnp.full_like(p, 3.0), PARAMS)
    updates, _ = jax.jit(frozen.update)(gradients, state, PARAMS)
    rest = {name: value for name, value in PARAMS.items() if name not in ("backbone", "window")}
    config.lr_multipliers = ()
    alone, _ = make_optimizer(config, 10)
    expected, _ = jax.jit(alone.update)({name: gradients[name] for name in rest}, jax.jit(alone.init)(rest), rest)
    for name, tree in updates.items():
        if name in rest:
            jax.tree.map(np.testing.assert_array_equal, tree, expected[name])
        else:
            assert not any(np.any(x) for x in jax.tree.leaves(tree))


def test_norm_of_many_small_arrays_is_few_programs(monkeypatch):
    """On a CPU each shape would compile programs of its own. Large arrays are not copied beside the others."""
    monkeypatch.setattr("attnseg_jax.train.optimizer._SMALL", 40)
    many = [np.linspace(1, n, n, dtype=np.float32) for n in range(3, 14)]
    large = [np.full((6, 7), 2, np.float32)]
    assert jax.jit(global_norm).lower(many + large).compile().as_text().count(" fusion(") < 5
    squares = sum((x.astype(np.float64) ** 2).sum() for x in many + large)
    np.testing.assert_allclose(global_norm(many + large), squares**0.5, rtol=1e-6)
    for most in (10, 100):
        found, want = (rule(most).update(many, ())[0] for rule in (clip_by_norm, optax.clip_by_global_norm))
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), found, want)
