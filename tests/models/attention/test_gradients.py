"""Gradients of whole mechanisms against finite differences, where other tests know only those of their ops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sown import FAST_COMPILE

from attnseg_jax.models import Features
from attnseg_jax.models.attention import (
    ContextEncoding,
    ConvolutionalAttention,
    CrissCrossAttention,
    ExpectationMaximization,
    Hamburger,
    LinearAttention,
    LiteMultiScaleAttention,
    LocalAttention,
    SelfAttention,
    ema,
)

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4, 6)).astype(np.float32)
LOGITS = RNG.standard_normal((2, 5, 7, 3)).astype(np.float32)
# A softmax of unscaled products or distances bends more sharply: its steps are smaller.
MODELS = {
    "self": (SelfAttention(heads=3, channels=9, mlp_ratio=1.5, positions="learned", position_size=(2, 3)), 1e-2),
    "linear elu": (LinearAttention(heads=3), 1e-2),
    "linear softmax": (LinearAttention(form="softmax", heads=3, head_dim=4, channels=5), 1e-2),
    "local": (LocalAttention(kernel=3, heads=3, head_dim=4, channels=5), 3e-3),
    "criss_cross": (CrissCrossAttention(reduction=2, channels=4, out_channels=5), 1e-3),
    "conv": (ConvolutionalAttention(kernel=3, strips=(3,)), 1e-2),
    "litemla": (LiteMultiScaleAttention(head_dim=3, scales=(3,)), 1e-3),
    "hamburger": (Hamburger(bases=3, groups=2, channels=4, eval_steps=2), 1e-3),
    "encnet": (ContextEncoding(num_classes=5, channels=4, codewords=3), 1e-3),
}


def away_from_corners(variables):
    """The variables, with biases that keep what ReLU gets from normalisations far from 0, on either side of it."""

    def change(path, leaf):
        bias = path[-1].key == "bias" and "bn" in path[-2].key
        return np.where(np.arange(len(leaf)) % 2, -6, 6).astype(np.float32) if bias else leaf

    return jax.tree_util.tree_map_with_path(change, variables)


def check(function, *args, eps=1e-2):
    check_grads(jax.jit(function), args, order=1, modes=["rev"], eps=eps, atol=2e-2, rtol=2e-2)


def applied(model, variables):
    def function(params, x):
        out = model.apply({**variables, "params": params}, Features({4: x}))
        return out.deepest, out.presence

    return function


@pytest.mark.thorough
@pytest.mark.parametrize("name", MODELS)
def test_of_parameters_and_map(name, random_variables):
    model, eps = MODELS[name]
    variables = away_from_corners(random_variables(model, Features({4: X})))
    check(applied(model, variables), variables["params"], X, eps=eps)


def test_of_averaged_logits(random_variables):
    model = LocalAttention(kernel=3, heads=3, value="logits", iterations=2)
    variables = random_variables(model, LOGITS, Features({4: X}), method="refine")

    def function(params, logits, x):
        return model.apply({"params": params}, logits, Features({4: x}), method="refine")

    check(function, variables["params"], LOGITS, X)


def test_of_what_passes_around_the_iterations_of_ema(random_variables, monkeypatch):
    """Like those of a function in which the result of the iterations is a constant."""
    model = ExpectationMaximization(channels=5, bases=4)
    variables = away_from_corners(random_variables(model, Features({4: X})))
    function, iterate, seen = applied(model, variables), ema.em_attention, []

    def recorded(*args, **options):
        seen.append(iterate(*args, **options))
        return seen[-1]

    def gradients():
        def total(params, x):
            return (function(params, x)[0] ** 2).sum()

        return FAST_COMPILE(jax.grad(total, argnums=(0, 1)))(variables["params"], jnp.asarray(X))

    found = gradients()
    monkeypatch.setattr(ema, "em_attention", recorded)
    function(variables["params"], X)
    monkeypatch.setattr(ema, "em_attention", lambda *_, **__: seen[0])
    check(function, variables["params"], X)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, gradients())
    assert not any(leaf.any() for leaf in jax.tree.leaves(found[0]["conv1"]))
    assert all(abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves((found[0]["lead"], found[0]["conv2"], found[1])))
