"""Derivatives of every mode and order, on every platform, of the operations that bring a gradient of their own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads
from neighbourhood import local_attention

from attnseg_jax.ops.attention import local
from attnseg_jax.ops.attention.accelerators import with_all_derivatives
from attnseg_jax.ops.attention.chunked import chunked
from attnseg_jax.ops.attention.dense import dense
from attnseg_jax.ops.conv import conv, conv_transpose
from attnseg_jax.ops.gelu import gelu
from attnseg_jax.ops.linear_map import bilinear
from attnseg_jax.ops.pointwise import linear
from attnseg_jax.ops.transposed import plain_transposed

MASK = np.random.default_rng(5).random((2, 3, 5, 7)) < 0.6
MASK[1, 2, 3] = False  # a query that may attend to nothing


def plain_conv(x, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    sides = [(p, p) for p in padding]
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, stride, sides, rhs_dilation=dilation, dimension_numbers=axes, feature_group_count=groups
    )


def plain_local_attention(q, k, v, kernel, dilation):
    """All keys and values of a pixel gathered, as it is usually written."""
    b, h, w, a, _ = q.shape
    keys = local.local_keys((h, w), kernel, dilation)
    q, k, v = (t.reshape(b, h * w, a, -1) for t in (q, k, v))
    scores = jnp.einsum("bnad,bnsad->bnas", q, k[:, keys]) * q.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(keys[None, :, None] < 0, -jnp.inf, scores), axis=-1)
    return jnp.einsum("bnas,bnsae->bnae", weights, v[:, keys]).reshape(b, h, w, a, -1)


def of_conv(**keywords):
    return functools.partial(conv, **keywords), functools.partial(plain_conv, **keywords)


def of_attention(function, **keywords):
    return lambda q, k, v, bias: function(q, k, v, bias, jnp.asarray(MASK), 0.7, **keywords)


# name: the function, the same without a gradient of its own, shapes of the arguments.
CASES = {
    "pointwise": (*of_conv(stride=(2, 1)), [(2, 5, 7, 3), (1, 1, 3, 4)]),
    "pointwise to fewer": (*of_conv(), [(2, 3, 4, 5), (1, 1, 5, 2)]),
    "depthwise": (*of_conv(padding=(1, 0), groups=3), [(2, 5, 7, 3), (3, 2, 1, 3)]),
    "depthwise stride": (
        *of_conv(stride=(2, 3), dilation=(1, 2), padding=(2, 1), groups=3),
        [(2, 8, 9, 3), (3, 3, 1, 3)],
    ),
    "beyond the map": (*of_conv(padding=(4, 5), dilation=(4, 5)), [(2, 3, 4, 2), (3, 3, 2, 3)]),
    "transposed": (
        functools.partial(conv_transpose, stride=(2, 3), padding=(1, 0), output_padding=(1, 0)),
        lambda x, kernel: plain_transposed(x, kernel, (2, 3), ((-1, 0), (0, 0)), 1),
        [(2, 3, 4, 2), (3, 5, 2, 3)],
    ),
    "linear": (linear, jnp.matmul, [(2, 3, 5), (5, 4)]),
    "gelu": (gelu, functools.partial(jax.nn.gelu, approximate=False), [(4, 5)]),
    "chunked": (
        of_attention(chunked, rows=2),
        of_attention(dense),
        [(2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 6), (1, 3, 5, 7)],
    ),
    "local": (
        functools.partial(local_attention, kernel=3, dilation=2),
        functools.partial(plain_local_attention, kernel=3, dilation=2),
        [(2, 4, 5, 2, 3), (2, 4, 5, 2, 3), (2, 4, 5, 2, 4)],
    ),
}
every_case = pytest.mark.parametrize("name", CASES)


def draw(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)


def check_close(found, expected):
    """Within the rounding of each array's largest number."""
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert abs(ours - theirs).max() <= 1e-5 * max(1, abs(theirs).max())


def derivatives(function, arrays, directions):
    """Results and tangents, mapped over two values of the last argument; the Hessian's product with the directions."""

    def loss(*arrays):
        return (function(*arrays) ** 2).sum()

    mapped = jax.vmap(lambda last: jax.jvp(function, (*arrays[:-1], last), directions))
    gradient = jax.grad(loss, tuple(range(len(arrays))))
    return mapped(jnp.stack([arrays[-1], 2 * arrays[-1]])), jax.jvp(gradient, arrays, directions)


@pytest.mark.thorough
@every_case
def test_equal_those_of_the_plain_form(name):
    """And forward mode is the adjoint of reverse mode: <J' u, v> = <u, J v>, u twice the result."""
    function, plain, shapes = CASES[name]
    arrays, directions = draw(shapes), draw(shapes, seed=1)
    found, expected = (
        jax.jit(functools.partial(derivatives, function))(arrays, directions) for function in (function, plain)
    )
    check_close(found, expected)
    (out, tangent), (gradients, _) = found
    reverse = sum(map(jnp.vdot, gradients, directions))
    np.testing.assert_allclose(reverse, jnp.vdot(2 * out[0], tangent[0]), rtol=1e-4)


@pytest.mark.parametrize("name", ["pointwise", "depthwise stride", "beyond the map"])
def test_finite_differences_in_float64(name):
    function, _, shapes = CASES[name]
    with jax.enable_x64(True):
        arrays = tuple(jnp.asarray(x, jnp.float64) for x in draw(shapes))
        check_grads(jax.jit(function), arrays, order=1, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6)


@every_case
def test_lowers_for_other_platforms(name):
    function, _, shapes = CASES[name]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]

    def program(*arrays):
        gradient = jax.grad(lambda x: function(x, *arrays[1:]).sum())
        return jax.jvp(function, arrays, arrays), jax.jvp(gradient, arrays[:1], arrays[:1])

    assert jax.jit(program).trace(*arrays).lower(lowering_platforms=("tpu", "cuda")).as_text()


def kernel(q, k, v, bias, mask, scale):
    """Stands for the kernels of accelerators, which have a gradient in reverse mode only."""

    @jax.custom_vjp
    def of_device(q, k, v, bias, mask):
        return dense(q, k, v, bias, mask, scale)

    def backward(residuals, g):
        *arrays, mask = residuals
        return *jax.vjp(lambda *arrays: dense(*arrays, mask, scale), *arrays)[1](g), None

    of_device.defvjp(lambda *arrays: (of_device(*arrays), arrays), backward)
    return with_all_derivatives(of_device, scale)(q, k, v, bias, mask)


def test_kernels_with_a_gradient_only_get_the_other_derivatives():
    q, k, v, bias = draw([(2, 5, 3, 4), (2, 7, 3, 4), (2, 7, 3, 6), (2, 3, 5, 7)])

    def derivatives(function):
        attend = of_attention(function)
        return jax.jvp(jax.grad(lambda k, bias: (attend(q, k, v, bias) ** 2).sum(), (0, 1)), (k, bias), (-k, bias))

    check_close(*jax.jit(lambda: (derivatives(kernel), derivatives(dense)))())


def test_memory_of_forward_mode_grows_linearly():
    """Of chunked attention, compiled and not run."""

    def memory(tokens):
        shapes = [jax.ShapeDtypeStruct((1, tokens, 8, 64), jnp.float32)] * 3
        program = jax.jit(lambda *arrays: jax.jvp(chunked, arrays, arrays))
        return program.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    assert memory(65536) <= 17 * memory(4096)


def product(x, y):
    return bilinear(jnp.matmul, lambda y, g: g @ y.T, lambda x, g: x.T @ g)(x, y)


def test_inside_loops():
    """Forward, reverse and both over each other, through `lax.scan` and `jax.checkpoint`."""
    x, y = draw([(3, 4), (4, 4)])

    def both(function):
        def loss(y):
            def step(carry, _):
                return jnp.tanh(jax.checkpoint(function)(carry, y)), None

            return lax.scan(step, x, None, length=3)[0].sum()

        return jax.jvp(jax.grad(loss), (y,), (jnp.cos(y),)), jax.grad(lambda y: jax.grad(loss)(y).sum())(y)

    found, expected = jax.jit(lambda: (both(product), both(jnp.matmul)))()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


def test_pmap():
    x, y = draw([(8, 3, 4), (4, 5)])
    mapped = jax.pmap(lambda x: lax.psum(jax.grad(lambda y: jnp.sin(product(x, y)).sum())(y), "data"), "data")(x)
    expected = jax.grad(lambda y: jnp.sin(x.reshape(24, 4) @ y).sum())(y)
    np.testing.assert_allclose(mapped[0], expected, atol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    """Second derivatives too; the kernel is shared by all devices."""
    x, y = draw([(8, 4), (4, 5)])
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = jax.sharding.PartitionSpec("data"), jax.sharding.PartitionSpec()

    def both(function, x, y):
        gradient = jax.grad(lambda x, y: jnp.sin(function(x, y)).sum(), (0, 1))
        return gradient(x, y), jax.jvp(gradient, (x, y), (x, y))[1]

    def spread(x, y):
        (d_x, d_y), (dd_x, dd_y) = both(product, x, y)
        if not check_vma:
            d_y, dd_y = lax.psum((d_y, dd_y), "data")
        return (d_x, d_y), (dd_x, dd_y)

    specs = ((split, whole), (split, whole))
    mapped = jax.shard_map(spread, mesh=mesh, in_specs=(split, whole), out_specs=specs, check_vma=check_vma)
    expected = both(jnp.matmul, x, y)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), jax.jit(mapped)(x, y), expected)
