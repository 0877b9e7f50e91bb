"""The mechanism `criss_cross`: the original's numbers, what one and two passes reach, options."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import CCNET
from sown import FAST_COMPILE, with_records

from attnseg_jax import build_model
from attnseg_jax.models import Features, Segmenter
from attnseg_jax.models.attention import CrissCrossAttention
from attnseg_jax.models.decoders import DECODERS
from attnseg_jax.weights.rename import from_torch, match

RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((2, 5, 8, 12)).astype(np.float32)
FEATURES = Features({2: jnp.ones((2, 10, 16, 3)), 4: jnp.asarray(MAP)})


class Identity(nn.Module):
    """A backbone whose map is the image."""

    def __call__(self, image, *, train=False):
        return Features({8: image})


def variables_of(model, case, x, **keywords):
    target = jax.eval_shape(functools.partial(model.init, **keywords), jax.random.key(0), x)
    return match(target, from_torch(case.state_dict(), CCNET))


def cross(model):
    return functools.partial(model.apply, method="cross")


@pytest.mark.parametrize("recurrence", [1, 2])
def test_the_original(recurrence):
    case = Golden(f"attn_ccnet_r{recurrence}_13x17")
    x = nhwc(case.inputs()["x"])
    model = CrissCrossAttention(recurrence=recurrence)
    y, records = with_records(model, method="cross")(variables_of(model, case, x, method="cross"), x)
    assert_golden(case, "y", nchw(y))
    assert len(records) == recurrence


def test_the_original_head():
    case = Golden("head_ccnet_rcca")
    x = nhwc(case.inputs()["x"])
    head = CrissCrossAttention(channels=32, out_channels=512)
    model = Segmenter(Identity(), head, DECODERS["fcn"](19, convs=0))
    assert_golden(case, "logits", nchw(FAST_COMPILE(model.apply)(variables_of(model, case, x), x).logits))


def test_against_numpy(random_variables):
    """Two passes in float64, one pixel at a time."""
    model = CrissCrossAttention(reduction=5)
    variables = random_variables(model, MAP, method="cross")
    p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])
    assert p["query"]["kernel"].shape == (1, 1, 12, 2) and p["gamma"].shape == (1,)
    y = MAP.astype(np.float64)
    for _ in range(2):
        q, k, v = (y @ p[name]["kernel"][0, 0] + p[name]["bias"] for name in ("query", "key", "value"))
        mixed = np.zeros_like(y)
        for b, i, j in np.ndindex(y.shape[:3]):
            seen = [(g, j) for g in range(5) if g != i] + [(i, u) for u in range(8)]
            powers = np.exp([q[b, i, j] @ k[b, *at] for at in seen])
            mixed[b, i, j] = sum(power * v[b, *at] for at, power in zip(seen, powers)) / powers.sum()
        y = y + p["gamma"] * mixed
    found = FAST_COMPILE(cross(model))(variables, MAP)
    np.testing.assert_allclose(found, y, atol=1e-5)


def gradient_of_a_pixel(model, variables):
    return FAST_COMPILE(jax.grad(lambda x: (cross(model)(variables, x)[:, 3, 2] ** 2).sum()))(jnp.asarray(MAP))


@pytest.mark.thorough
@pytest.mark.parametrize("recurrence", [1, 2])
def test_reach(random_variables, recurrence):
    """One pass sees exactly the row and the column, two see everything."""
    model = CrissCrossAttention(recurrence=recurrence, reduction=2)
    variables = random_variables(model, MAP, method="cross")
    variables["params"]["gamma"] = np.float32([0.7])
    gradient = gradient_of_a_pixel(model, variables)
    cross = np.zeros((5, 8), bool)
    cross[3] = cross[:, 2] = True
    assert (gradient[:, cross] != 0).all()
    assert (gradient[:, ~cross] == 0).all() if recurrence == 1 else (gradient[:, ~cross] != 0).all()


def test_at_first_it_reaches_everything():
    """Behind a closed gate nothing beyond a cross would have a gradient, and the corner would not be learned."""
    model = CrissCrossAttention()
    variables = FAST_COMPILE(functools.partial(model.init, method="cross"))(jax.random.key(0), MAP)
    assert (gradient_of_a_pixel(model, variables) != 0).all()


def test_at_first_it_looks_around():
    """A one-hot softmax would have no gradient, and with unscaled products it takes little to get one."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 13, 17, 64)), jnp.float32)
    model = CrissCrossAttention()
    variables = FAST_COMPILE(functools.partial(model.init, method="cross"))(jax.random.key(0), x)
    _, records = with_records(model, method="cross")(variables, x)
    assert records["criss_cross0"].weights.max(-1).mean() < 0.2


def test_what_goes_out(random_variables):
    model = CrissCrossAttention(recurrence=3)
    out, records = with_records(model, train=True)(random_variables(model, FEATURES), FEATURES)
    assert out.deepest.shape == (2, 5, 8, 3) and list(records) == [f"criss_cross{i}" for i in range(3)]
    np.testing.assert_array_equal(out.maps[2], FEATURES.maps[2])
    for record in records.values():
        assert record.weights.shape == (2, 1, 40, 13) and record.keys.shape == (40, 13)
        np.testing.assert_allclose(record.weights.sum(-1), np.ones((2, 1, 40)), rtol=1e-5)
        assert (record.weights[:, 0][:, record.keys < 0] == 0).all()


@pytest.mark.parametrize("backbone, channels, key", [("tiny", 64, 8), ("resnet50", 512, 64)])
def test_default_widths(backbone, channels, key):
    model = build_model({"backbone": {"name": backbone}, "attention": {"name": "criss_cross"}}, 7)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 96, 3)))["params"]["attention"]
    assert shapes["conva"]["conv"]["kernel"].shape[-1] == channels
    assert shapes["query"]["kernel"].shape == (1, 1, channels, key)
