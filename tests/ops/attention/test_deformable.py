"""Deformable attention against the original with its gradients, one point at a time in float64, and what it costs."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden

from attnseg_jax.ops.attention import deformable_attention

SIZES = ((3, 5), (2, 1), (4, 3))
B, N, A, D, P = 2, 7, 3, 4, 2


def draw(dtype=np.float32):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((B, sum(h * w for h, w in SIZES), A, D))
    locations = rng.uniform(-0.4, 1.4, (B, N, A, len(SIZES), P, 2))
    locations[0, 0, 0, 0, 0] = 1e9, -1e9
    weights = rng.standard_normal((B, N, A, len(SIZES), P))
    return [jnp.asarray(x, dtype) for x in (values, locations, weights)]


def oracle(values, locations, weights, sizes):
    """Four pixels of one point of one head of one query at a time."""
    values, locations, weights = (np.asarray(x, np.float64) for x in (values, locations, weights))
    out = np.zeros((*locations.shape[:3], values.shape[-1]))
    starts = np.cumsum([0] + [h * w for h, w in sizes])
    for i, n, a, level, point in np.ndindex(weights.shape):
        (h, w), (x, y) = sizes[level], locations[i, n, a, level, point]
        x, y = x * w - 0.5, y * h - 0.5
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                if 0 <= row < h and 0 <= column < w:
                    share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[i, n, a, level, point]
                    out[i, n, a] += share * values[i, starts[level] + row * w + column, a]
    return out


@pytest.mark.parametrize("rows", [0, 3])
def test_equals_the_oracle(rows):
    """In one block, and in three of which the last is not full."""
    attend = jax.jit(functools.partial(deformable_attention, sizes=SIZES, rows=rows))
    np.testing.assert_allclose(attend(*draw()), oracle(*draw(), SIZES), atol=2e-6)


def test_the_original_and_its_gradients():
    case = Golden("op_msdeform_attn")
    inputs = {name: jnp.asarray(x) for name, x in case.inputs().items()}
    attend = functools.partial(deformable_attention, sizes=((3, 5), (6, 9), (11, 17)), rows=5)
    arrays = [inputs[name] for name in ("value", "locations", "weights")]
    y, pull = jax.vjp(jax.jit(attend), *arrays)
    assert_golden(case, "y", y.reshape(*y.shape[:2], -1))
    for name, gradient in zip(("value", "locations", "weights"), pull(inputs["g"].reshape(y.shape)), strict=True):
        assert_golden(case, f"grad/{name}", gradient)


def test_forward_mode_and_vmap():
    values, locations, weights = draw()
    # Bilinear weights have a corner at every pixel's centre: stay between them.
    size = np.array([(w, h) for h, w in SIZES]).reshape(1, 1, 1, -1, 1, 2)
    pixel = jnp.floor(locations.clip(-0.2, 1.2) * size) + np.random.default_rng(1).uniform(0.8, 1.2, locations.shape)
    locations = (pixel / size).astype(jnp.float32)
    attend = functools.partial(deformable_attention, sizes=SIZES, rows=3)
    # Of reverse mode there is the original.
    check_grads(jax.jit(attend), (values, locations, weights), order=1, modes=["fwd"], eps=1e-3, atol=2e-2, rtol=2e-2)
    several = [jnp.stack([x, x[::-1]]) for x in (locations, weights)]
    found = jax.jit(jax.vmap(attend, in_axes=(None, 0, 0)))(values, *several)
    for one, *others in zip(found, *several, strict=True):
        np.testing.assert_allclose(one, oracle(values, *others, SIZES), atol=3e-6)


def test_bfloat16_is_summed_in_float32():
    values, locations, weights = draw()
    rounded = values.astype(jnp.bfloat16)
    attend = jax.jit(functools.partial(deformable_attention, sizes=SIZES))
    y, pull = jax.vjp(attend, rounded, locations, weights)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), oracle(rounded, locations, weights, SIZES), rtol=2**-8, atol=1e-5)
    assert [x.dtype for x in pull(y)] == [jnp.bfloat16, jnp.float32, jnp.float32]


def test_memory_does_not_grow_with_the_points():
    """The values around all points, 252 MB here, are never there together."""
    sizes, n = ((32, 32), (16, 16)), 3840
    shapes = [(1, 1280, 8, 64), (1, n, 8, 2, 4, 2), (1, n, 8, 2, 4)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def gradient(*arrays):
        out, pull = jax.vjp(functools.partial(deformable_attention, sizes=sizes), *arrays)
        return pull(out)

    compiled = jax.jit(gradient).lower(*arrays).compile()
    around = 4 * n * 8 * 2 * 4 * 64
    assert 4 * around > 250e6 > 10 * compiled.memory_analysis().temp_size_in_bytes
