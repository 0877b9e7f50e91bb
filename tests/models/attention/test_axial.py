"""The mechanism `axial`: the original's numbers, what each axis sees, tables at other sizes, and what it costs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden, nchw, nhwc
from layout_rules import AXIAL
from sown import FAST_COMPILE, traced_records

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import Features
from attnseg_jax.models.attention.axial import AxialAttention, AxisAttention
from attnseg_jax.ops.attention.axial import fit_offsets
from attnseg_jax.weights.rename import from_torch, match

RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((2, 5, 8, 12)).astype(np.float32)
FEATURES = Features({2: jnp.ones((2, 10, 16, 3)), 4: jnp.asarray(MAP)})


def variables_of(model, state, x):
    return match(jax.eval_shape(model.init, jax.random.key(0), x), from_torch(state, AXIAL))


@pytest.mark.parametrize("width", [False, True])
def test_the_original(width):
    """The golden is of the height; the width of the transposed map is the same."""
    case = Golden("attn_axial_h_13x17")
    x = nhwc(case.inputs()["x"])
    x = x.swapaxes(1, 2) if width else x
    model = AxisAttention(heads=4, width=width)
    y, _ = FAST_COMPILE(model.apply)(variables_of(model, case.state_dict(), x), x)
    assert_golden(case, "y", nchw(y.swapaxes(1, 2) if width else y))


def normalise(x, p, statistics):
    """Over the last axis, by running statistics or, where these are None, by the batch's."""
    axes = tuple(range(x.ndim - 1))
    mean, var = (x.mean(axes), x.var(axes)) if statistics is None else (statistics["mean"], statistics["var"])
    return (x - mean) / np.sqrt(var + 1e-5) * p["scale"] + p["bias"]


@pytest.mark.parametrize("train", [False, True])
def test_against_numpy(random_variables, train):
    """Along the width, one pair of positions at a time in float64; in training to fewer channels than the map has."""
    model = AxisAttention(heads=3, width=True, channels=6 if train else 0)
    variables = random_variables(model, MAP)
    p, statistics = (
        jax.tree.map(lambda a: a.astype(np.float64), variables[name]) for name in ("params", "batch_stats")
    )

    def norm(x, name):
        return normalise(x, p[name], None if train else statistics[name])

    c, d = (6, 1) if train else (12, 2)
    qkv = norm(MAP @ p["qkv"]["kernel"][0], "bn_qkv").reshape(2, 5, 8, 3, 4 * d)
    q, k, v = qkv[..., :d], qkv[..., d : 2 * d], qkv[..., 2 * d :]
    scores = np.zeros((2, 5, 8, 8, 3, 3))  # b y query key kind head
    for b, y, i, j, a in np.ndindex(2, 5, 8, 8, 3):
        scores[b, y, i, j, 0, a] = q[b, y, i, a] @ k[b, y, j, a]
        scores[b, y, i, j, 1, a] = q[b, y, i, a] @ p["relative"][:d, i - j + 7]
        scores[b, y, i, j, 2, a] = k[b, y, j, a] @ p["relative"][d : 2 * d, j - i + 7]
    powers = np.exp(norm(scores.reshape(2, 5, 8, 8, 9), "bn_similarity").reshape(scores.shape).sum(-2))
    weights = powers / powers.sum(3, keepdims=True)
    both = np.zeros((2, 5, 8, 3, 2 * d, 2))
    for b, y, i, j, a in np.ndindex(2, 5, 8, 8, 3):
        both[b, y, i, a, :, 0] += weights[b, y, i, j, a] * v[b, y, j, a]
        both[b, y, i, a, :, 1] += weights[b, y, i, j, a] * p["relative"][2 * d :, i - j + 7]
    expected = norm(both.reshape(2, 5, 8, 2 * c), "bn_output").reshape(2, 5, 8, c, 2).sum(-1)
    run = FAST_COMPILE(functools.partial(model.apply, train=train, mutable=["batch_stats"]))
    (found, record), _ = run(variables, MAP)
    np.testing.assert_allclose(found, expected, atol=3e-5)
    np.testing.assert_allclose(record.weights, weights.transpose(0, 4, 1, 2, 3).reshape(2, 3, 40, 8), atol=1e-5)
    np.testing.assert_array_equal(record.keys[13], 8 + np.arange(8))


@pytest.mark.parametrize("width", [False, True])
def test_an_axis_sees_exactly_its_line(random_variables, width):
    model = AxisAttention(heads=3, width=width)
    variables = random_variables(model, MAP)
    gradient = FAST_COMPILE(jax.grad(lambda x: (model.apply(variables, x)[0][:, 3, 2] ** 2).sum()))(MAP)
    line = np.zeros((5, 8), bool)
    line[(3,) if width else (slice(None), 2)] = True
    assert (gradient[:, line] != 0).all() and (gradient[:, ~line] == 0).all()


def test_both_axes_see_everything(random_variables):
    model = AxialAttention(heads=3, channels=30, out_channels=10)  # of which ReLU leaves some everywhere
    variables = random_variables(model, FEATURES)

    def loss(x):
        return (model.apply(variables, FEATURES.with_deepest(x)).deepest[:, 3, 2] ** 2).sum()

    assert jax.eval_shape(model.apply, variables, FEATURES).deepest.shape == (2, 5, 8, 10)
    assert (abs(FAST_COMPILE(jax.grad(loss))(jnp.asarray(MAP))).max(-1) > 0).all()


def test_gradients(random_variables):
    model = AxisAttention(heads=3)
    x = MAP[:, :3, :4]
    variables = random_variables(model, x)

    @jax.jit
    def function(params, x):
        return model.apply({**variables, "params": params}, x)[0]

    check_grads(function, (variables["params"], x), order=1, modes=["rev"], eps=1e-2, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("size", [(3, 8), (7, 8)])
def test_the_table_fits_another_size(random_variables, size):
    """Initialised on 5 rows; on 3 and on 7 it acts as a model of that size with the cropped or stretched table."""
    model = AxisAttention(heads=3)
    variables = random_variables(model, MAP)
    table = jnp.asarray(variables["params"]["relative"])
    assert table.shape == (8, 9)
    x = jnp.asarray(RNG.standard_normal((2, *size, 12)), jnp.float32)
    fitted = {**variables, "params": {**variables["params"], "relative": fit_offsets(table, size[0])}}
    assert match(jax.eval_shape(model.init, jax.random.key(0), x), fitted) is fitted
    apply = FAST_COMPILE(model.apply)
    np.testing.assert_array_equal(apply(variables, x)[0], apply(fitted, x)[0])


def test_at_first_it_reaches_everything():
    """Behind a last normalisation of scale 0 the context is not learned in hundreds of steps."""
    model = AxialAttention(heads=3)
    variables = FAST_COMPILE(model.init)(jax.random.key(0), FEATURES)

    def loss(x):
        return (model.apply(variables, FEATURES.with_deepest(x)).deepest[:, 3, 2] ** 2).sum()

    # But for positions whose projection ReLU makes 0 altogether.
    assert (FAST_COMPILE(jax.grad(loss))(FEATURES.deepest) != 0).any(-1).mean() > 0.9
    _, records = traced_records(model)(variables, FEATURES)
    assert list(records) == ["axial_height0", "axial_width0"]
    for name, length in (("axial_height0", 5), ("axial_width0", 8)):
        record = records[name]
        assert record.weights.shape == (2, 3, 40, length) and record.keys.shape == (40, length)


def test_memory_grows_as_pixels_times_lines(random_variables):
    model = AxisAttention(heads=1)
    variables = random_variables(model, jnp.zeros((1, 8, 8, 16)))

    def loss(variables, x):
        return (model.apply(variables, x)[0] ** 2).sum()

    def temp(function, n):
        x = jax.ShapeDtypeStruct((1, n, n, 16), jnp.float32)
        return jax.jit(function).lower(variables, x).compile().memory_analysis().temp_size_in_bytes

    small, large = temp(jax.grad(loss), 64), temp(jax.grad(loss), 128)
    assert large < 8.2 * small
    assert large < 128**4 * 4 / 6 and temp(loss, 128) < 128**4 * 4 / 15


@pytest.mark.parametrize(
    "options, message",
    [
        ({"heads": 5}, r"axial\.heads=5 does not divide 32 channels: choose"),
        ({"heads": 32}, r"axial\.heads=32 gives each head 1 of 32 channels, an odd number: change"),
    ],
)
def test_mistakes(options, message):
    model = build_model({"attention": {"name": "axial", "axial": options}}, 7)
    with pytest.raises(UserError, match=r"config\.model\.attention\." + message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 24, 32, 3)))
