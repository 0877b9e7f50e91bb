"""What a program and a mechanism cost, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax import lax

from attnseg_jax import cost
from attnseg_jax.errors import UserError
from attnseg_jax.models.attention import Attention
from attnseg_jax.models.build import build_attention
from attnseg_jax.models.layers.conv import ConvBN

X, W = jax.ShapeDtypeStruct((64, 32), jnp.float32), jax.ShapeDtypeStruct((32, 32), jnp.float32)
PRODUCT = 2 * 64 * 32 * 32


def nested(x, w):
    """15 products in two loops; in the gradient the outer body is computed again."""

    @jax.checkpoint
    def outer(carry, _):
        return lax.scan(lambda c, _: (c @ w, None), carry, None, length=3)[0], None

    return lax.scan(outer, x, None, length=5)[0]


def gradient(x, w):
    y, pull_back = jax.vjp(nested, x, w)
    return y, pull_back(x)


def dead(x, w):
    lax.scan(lambda c, _: (c @ w, c @ w), x, None, length=7)
    return x @ w


def half_dead(x, w):
    """Only the carry of the loop is used."""
    return lax.scan(lambda c, _: (c @ w, c @ w @ w), x, None, length=7)[0]


def chunks(x, w):
    return lax.map(lambda rows: rows @ w, x.reshape(8, 8, 32))


@pytest.mark.parametrize(
    "function, products",
    [
        (lambda x, w: x @ w @ w, 2),
        (chunks, 1),
        (nested, 15),
        (gradient, 15 + 15 + 30),
        (dead, 1),
        (half_dead, 7),
        (lambda x, w: lax.fori_loop(0, 5, lambda _, c: c @ w, x), 5),
        (lambda x, w: jax.jit(lambda x: lax.cond(x[0, 0] > 0, lambda x: nested(x, w), lambda x: x, x))(x), 15),
    ],
)
def test_operations_are_those_of_all_iterations(function, products):
    found = cost.program_cost(function, X, W).flops / PRODUCT
    # Counters of loops and sums of gradients are a few operations more.
    assert products <= found < products * 1.005


def test_bytes_of_a_loop_are_those_of_all_iterations():
    """A product reads both factors and writes its result; what a loop copies beside that is the compiler's choice."""
    least = 4 * (64 * 32 * 2 + 32 * 32)
    found = cost.program_cost(nested, X, W).bytes_accessed
    assert 15 * least <= found < 40 * least
    assert cost.program_cost(lambda x, w: x @ w, X, W).bytes_accessed == least


def test_self_attention():
    """n = 8 * 12 tokens of 16 channels: two products of n x n x c, four projections."""
    n, c = 96, 16
    found = cost.attention_cost(build_attention("self", {}, 7), 8, 12, c)
    assert found.parameters == 4 * (c * c + c) + 2 * c
    products = 2 * 2 * n * n * c + 4 * 2 * n * c * c
    # The softmax of two heads takes some operations for each weight.
    assert products < found.forward.flops < products + 8 * 2 * n * n + 20 * n * c
    assert 2.8 * products < found.gradient.flops < 3.6 * products
    assert found.gradient.temp_bytes > found.forward.temp_bytes > 4 * n * n
    assert found.forward.milliseconds is None and found.gradient.milliseconds is None


class Gate(Attention):
    """One dense layer on a skip."""

    has_gate = True

    def __call__(self, features, *, train=False):
        return features

    @nn.compact
    def gate(self, skip, signal, *, stride, train=False):
        assert signal.shape[1:3] == (4, 6) and stride in (8,)
        return nn.Dense(skip.shape[-1], use_bias=False, name="dense")(skip), {}


class Refine(Attention):
    """One dense layer on the logits."""

    def __call__(self, features, *, train=False):
        return features

    @nn.compact
    def refine(self, logits, features):
        return nn.Dense(logits.shape[-1], use_bias=False, name="dense")(logits), {}


@pytest.mark.parametrize("mechanism, width", [(Gate(), 10), (Refine(), 7), (build_attention("none", {}, 7), 0)])
def test_gates_and_refinement_count(mechanism, width):
    found = cost.attention_cost(mechanism, 8, 12, 10, num_classes=7)
    assert found.parameters == width * width
    assert found.forward.flops == 2 * 8 * 12 * width * width
    # Either gradient costs as much as the product; the gate's skip has other uses, whose gradients are added.
    assert found.gradient.flops == pytest.approx(3 * found.forward.flops, abs=2 * 8 * 12 * 10)


class Block(nn.Module):
    """Statistics, dropout, and an auxiliary output in training only."""

    @nn.compact
    def __call__(self, x, *, train=False):
        y = ConvBN(6, name="conv")(x, train=train)
        y = nn.Dropout(0.5, deterministic=not train)(y)
        return (y, {"aux": y[..., :2] ** 2, "index": jnp.argmax(y, -1)}) if train else y


def test_a_module_with_statistics_and_dropout():
    image = jax.ShapeDtypeStruct((1, 9, 11, 3), jnp.float32)
    kept = cost.module_cost(Block(), image, input_gradient=False)
    assert kept.parameters == 9 * 3 * 6 + 2 * 6
    assert cost.module_cost(Block(), image).gradient.flops > kept.gradient.flops > kept.forward.flops


def test_timing():
    mechanism = build_attention("self", {}, 7)
    found = cost.attention_cost(mechanism, 4, 6, 8, repeats=2)
    assert 0 < found.forward.milliseconds < 1000 and 0 < found.gradient.milliseconds < 1000
    # Too large a program is not run.
    limit = (found.forward.temp_bytes + found.gradient.temp_bytes) / 2
    limited = cost.attention_cost(mechanism, 4, 6, 8, repeats=1, max_bytes=limit)
    assert limited.forward.milliseconds > 0 and limited.gradient.milliseconds is None


def test_a_refusal_comes_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr(cost, "program_cost", None)
    with pytest.raises(UserError, match="heads=3 does not divide 8"):
        cost.attention_cost(build_attention("self", {"self": {"heads": 3}}, 7), 4, 6, 8)
