"""The mechanism `window`: the original's numbers, what a window hides, other sizes, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden, nchw, nhwc
from sown import FAST_COMPILE, with_records

from attnseg_jax import build_model
from attnseg_jax.errors import OptionError
from attnseg_jax.models import Features
from attnseg_jax.models.attention import WindowAttention
from attnseg_jax.models.layers.swin import ShiftedWindowAttention, SwinBlock
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.swin import SWIN

RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((2, 5, 8, 12)).astype(np.float32)
FEATURES = Features({2: jnp.ones((2, 10, 16, 3)), 4: jnp.asarray(MAP)})


@pytest.mark.parametrize("name, shift", [("attn_swin_block_13x17", 0), ("attn_swin_block_shift_13x17", 3)])
def test_the_original(name, shift):
    case = Golden(name)
    x = nhwc(case.inputs()["x"])
    model = SwinBlock(7, shift, heads=4)
    loaded = from_torch(case.state_dict(), SWIN)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)
    y = FAST_COMPILE(model.apply)(variables, x)
    assert_golden(case, "y", nchw(y))
    attend = ShiftedWindowAttention(7, shift, heads=4)
    y = FAST_COMPILE(attend.apply)({"params": variables["params"]["attn"]}, x)
    assert_golden(case, "attn", nchw(y))


def seen_from(y, x, size, window, shift):
    """Pixels (and, beyond the map, padding) in the window of one pixel, by the borders of the unrolled windows."""
    ranges = []
    for at, n in zip((y, x), size):
        padded = -(-n // window) * window
        shift_here = 0 if window >= n else shift
        first = (at - shift_here) // window * window + shift_here
        # What the roll wraps around is cut off.
        ranges.append(range(max(first, 0), min(first + window, padded)))
    return [(i, j) for i in ranges[0] for j in ranges[1]]


@pytest.mark.parametrize("size, window, shift", [((5, 8), 3, 1), ((5, 8), 6, 3), ((5, 8), 9, 4)])
def test_against_numpy(random_variables, size, window, shift):
    """One query of one head at a time in float64, from the borders of the windows on the unrolled map."""
    model = ShiftedWindowAttention(window, shift, heads=3, record="window")
    variables = random_variables(model, MAP)
    p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])
    padded = np.zeros((2, 20, 20, 12))
    padded[:, :5, :8] = MAP
    q, k, v = np.split(padded @ p["qkv"]["kernel"] + p["qkv"]["bias"], 3, axis=-1)
    expected = np.zeros(MAP.shape)
    found, records = with_records(model)(variables, MAP)
    record = records["window0"]
    weights, keys = np.asarray(record.weights), np.asarray(record.keys)
    for b, y, x in np.ndindex(2, *size):
        seen = seen_from(y, x, size, window, shift)
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            rows = [(y - i + window - 1) * (2 * window - 1) + x - j + window - 1 for i, j in seen]
            scores = [
                q[b, y, x, part] @ k[b, i, j, part] / 2 + p["table"][row, head] for row, (i, j) in zip(rows, seen)
            ]
            powers = np.exp(scores) / np.exp(scores).sum()
            expected[b, y, x, part] = sum(power * v[b, i, j, part] for power, (i, j) in zip(powers, seen))
            n = y * 8 + x
            shown = {divmod(int(key), 8): w for key, w in zip(keys[n], weights[b, head, n]) if key >= 0 and w}
            inside = {at: power for power, at in zip(powers, seen) if at[0] < 5 and at[1] < 8}
            assert sorted(shown) == sorted(inside)
            np.testing.assert_allclose([shown[at] for at in inside], list(inside.values()), atol=1e-6)
    np.testing.assert_allclose(found, expected @ p["proj"]["kernel"] + p["proj"]["bias"], atol=1e-5)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("shift", [0, 1])
def test_what_lies_outside_the_window_has_exactly_zero_gradient(random_variables, shift):
    model = SwinBlock(3, shift, heads=3)
    variables = random_variables(model, MAP)
    gradient_of = FAST_COMPILE(jax.grad(lambda m, y, x: (model.apply(variables, m)[:, y, x] ** 2).sum()))
    for y, x in ((0, 0), (4, 7), (2, 3)):
        gradient = gradient_of(jnp.asarray(MAP), y, x)
        seen = np.zeros((5, 8), bool)
        for i, j in seen_from(y, x, (5, 8), 3, shift):
            if i < 5 and j < 8:
                seen[i, j] = True
        assert 0 < seen.sum() <= 9
        assert (gradient[:, seen] != 0).all() and (gradient[:, ~seen] == 0).all()


def test_gradients(random_variables):
    model = SwinBlock(3, 1, heads=3, mlp_ratio=1.5)
    variables = random_variables(model, MAP)

    @jax.jit
    def function(params, x):
        return model.apply({"params": params}, x)

    check_grads(function, (variables["params"], MAP), order=1, modes=["rev"], eps=1e-2, atol=2e-2, rtol=2e-2)


def test_a_pair_of_blocks_by_default(random_variables):
    model = WindowAttention(window=4)
    variables = random_variables(model, FEATURES)
    out, records = with_records(model, train=True)(variables, FEATURES)
    assert list(records) == ["window0", "window1"]
    np.testing.assert_array_equal(out.maps[2], FEATURES.maps[2])
    x = jnp.asarray(MAP)
    for i, shift in enumerate((0, 2)):
        block = SwinBlock(4, shift, heads=4)
        x = FAST_COMPILE(block.apply)({"params": variables["params"][f"block{i}"]}, x)
    np.testing.assert_allclose(out.deepest, x, atol=1e-5)


def test_a_map_smaller_than_the_window_is_padded_after_training(random_variables):
    """As the original does, so that what was trained on crops evaluates on anything."""
    model = WindowAttention(window=5)
    variables = random_variables(model, FEATURES)
    small = Features({4: jnp.asarray(MAP[:, :3, :4])})
    assert jax.eval_shape(model.apply, variables, small).deepest.shape == (2, 3, 4, 12)
    with pytest.raises(OptionError, match=r"^window=5 does not fit the map of 3x4"):
        model.init(jax.random.key(0), small)


def test_memory_is_linear_in_pixels(random_variables):
    model = SwinBlock(7, 3, heads=2, mlp_ratio=1.0)
    variables = random_variables(model, jnp.zeros((1, 8, 8, 16)))

    def loss(variables, x):
        return (model.apply(variables, x) ** 2).sum()

    def temp(function, n):
        x = jax.ShapeDtypeStruct((1, n, n, 16), jnp.float32)
        return jax.jit(function).lower(variables, x).compile().memory_analysis().temp_size_in_bytes

    small, large = temp(jax.grad(loss), 35), temp(jax.grad(loss), 70)  # whole windows
    assert temp(loss, 70) < large < 4.5 * small
    assert large < 70**4 * 4 / 10


@pytest.mark.parametrize(
    "options, message",
    [
        ({"window": 7}, r"window\.window=7 does not fit the map of 6x8: choose 1 to 6, "),
        ({"window": 3, "mlp_ratio": 0.0}, r"window\.mlp_ratio=0.0 must be at least 0\.015625"),
        ({"window": 3, "heads": 5}, r"window\.heads=5 does not divide 64 channels: choose"),
    ],
)
def test_mistakes(options, message):
    model = build_model({"attention": {"name": "window", "window": options}}, 7)
    with pytest.raises(OptionError, match=r"config\.model\.attention\." + message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 24, 32, 3)))
