"""Convolutions: every path against XLA's own and against float64 loops, values and gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from attnseg_jax.ops import depthwise
from attnseg_jax.ops.conv import conv, conv_transpose, same_padding


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def general(x, kernel, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        stride,
        [(p, p) if isinstance(p, int) else p for p in padding],
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


# name: (kernel shape, keywords); images are [2, 11, 13, 6].
FAST = {
    "pointwise": ((1, 1, 6, 5), {}),
    "pointwise stride": ((1, 1, 6, 5), {"stride": (2, 3)}),
    "depthwise": ((3, 3, 1, 6), {"padding": (1, 1), "groups": 6}),
    "depthwise stride": ((5, 3, 1, 6), {"padding": (2, 0), "stride": (2, 3), "groups": 6}),
    "depthwise dilated": ((3, 5, 1, 6), {"padding": (3, 4), "dilation": (3, 2), "groups": 6}),
    "depthwise multiplier": ((3, 3, 1, 12), {"padding": (0, 1), "stride": (1, 2), "groups": 6}),
    "depthwise sides": ((3, 5, 1, 6), {"padding": ((0, 1), (3, 2)), "stride": (2, 1), "groups": 6}),
    "depthwise 1x1": ((1, 1, 1, 6), {"groups": 6}),
    "depthwise gaps": ((2, 3, 1, 6), {"padding": (5, 1), "stride": (3, 2), "dilation": (3, 2), "groups": 6}),
    "dense beyond": ((3, 3, 6, 5), {"padding": (6, 7), "dilation": (6, 7)}),
    "dense beyond, sides": (
        (3, 2, 6, 5),
        {"padding": ((5, 3), (0, 4)), "stride": (2, 3), "dilation": (6, 13)},
    ),
    "depthwise strip": ((11, 1, 1, 6), {"padding": (5, 0), "groups": 6}),
    "depthwise strip across": ((1, 10, 1, 6), {"padding": (0, 5), "stride": (2, 2), "dilation": (1, 2), "groups": 6}),
    "depthwise in blocks": ((3, 3, 1, 6), {"padding": (1, 0), "stride": (1, 2), "groups": 6}),
}


@pytest.mark.parametrize(
    "channels, fit, expected",
    [(96, 96, 96), (96, 95, 48), (96, 40, 32), (96, 5, 16), (40, 39, 40), (18, 2, 18), (1152, 100, 96)],
)
def test_channels_of_a_block(channels, fit, expected):
    """The largest divisor of whole vectors that fits, 16 at least."""
    assert depthwise._channels_of_a_block(channels, depthwise._BLOCK / fit) == expected


def test_the_kernels_gradient_in_blocks_of_channels(monkeypatch):
    x, kernel, g = draw(2, 5, 7, 48), draw(3, 3, 1, 48, seed=1), draw(2, 5, 7, 48, seed=2)
    monkeypatch.setattr(depthwise, "_BLOCK", 16 * g[..., 0].nbytes)
    depthwise._convolution.cache_clear()
    found, wanted = (
        jax.vjp(lambda k, f=f: f(x, k, padding=(1, 1), groups=48), kernel)[1](g)[0] for f in (conv, general)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAST)
def test_fast_paths_equal_the_general_convolution(name, monkeypatch):
    shape, keywords = FAST[name]
    if name.endswith("blocks"):
        monkeypatch.setattr(depthwise, "_ROWS", 5)  # three blocks of 4 rows, of which the last has only 3
        depthwise._convolution.cache_clear()
    x, kernel = draw(2, 11, 13, 6), draw(*shape, seed=1)
    text = jax.jit(lambda x, k: conv(x, k, **keywords)).lower(x, kernel).as_text()
    assert "stablehlo.convolution" not in text  # or this would compare the convolution with itself

    @jax.jit
    def both(x, kernel, g):
        pairs = [jax.vjp(lambda x, k, f=f: f(x, k, **keywords), x, kernel) for f in (conv, general)]
        return [(y, *pull(g)) for y, pull in pairs]

    ours, theirs = both(x, kernel, draw(*jax.eval_shape(lambda: general(x, kernel, **keywords)).shape, seed=2))
    for ours_part, theirs_part in zip(ours, theirs):
        np.testing.assert_allclose(ours_part, theirs_part, atol=3e-5)


def loop(x, kernel, stride, padding, dilation, groups):
    """Direct sum over the window, in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    kh, kw, cg, o = kernel.shape
    x = np.pad(x, ((0, 0), (padding[0],) * 2, (padding[1],) * 2, (0, 0)))
    reach = (dilation[0] * (kh - 1) + 1, dilation[1] * (kw - 1) + 1)
    out = np.zeros((len(x), *((n - r) // s + 1 for n, r, s in zip(x.shape[1:3], reach, stride)), o))
    for b, i, j, t in np.ndindex(out.shape):
        top, left = i * stride[0], j * stride[1]
        window = x[b, top : top + reach[0] : dilation[0], left : left + reach[1] : dilation[1]]
        group = t // (o // groups)
        out[b, i, j, t] = (window[..., group * cg : (group + 1) * cg] * kernel[..., t]).sum()
    return out


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("stride, padding, dilation", [((1, 1), (1, 0), (1, 1)), ((2, 3), (2, 1), (2, 1))])
def test_equals_a_loop(stride, padding, dilation, groups):
    x, kernel = draw(1, 7, 9, 6), draw(3, 2, 6 // groups, 12, seed=1)
    keywords = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    found = jax.jit(lambda x, k: conv(x, k, **keywords))(x, kernel)
    np.testing.assert_allclose(found, loop(x, kernel, stride, padding, dilation, groups), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("kernel, stride, dilation", [(3, 2, 1), (5, 2, 1), (3, 1, 2), (2, 3, 1), (1, 2, 1)])
def test_same_padding_is_that_of_xla(kernel, stride, dilation, groups):
    weight = draw(kernel, kernel, 6 // groups, 6, seed=1)

    @jax.jit
    def both(x):
        sides = tuple(same_padding(n, kernel, stride, dilation) for n in x.shape[1:3])
        ours = conv(x, weight, stride=stride, padding=sides, dilation=dilation, groups=groups)
        theirs = lax.conv_general_dilated(
            x,
            weight,
            (stride, stride),
            "SAME",
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        return ours, theirs

    for size in ((10, 13), (11, 12)):
        np.testing.assert_allclose(*both(draw(1, *size, 6)), atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_is_the_adjoint(groups):
    """<conv(x, K), y> = <x, conv_transpose(y, K')> where K' swaps input and output channels in each group."""
    c, o, (stride, padding, extra) = 4, 6, ((2, 3), (1, 0), (1, 0))
    kernel = draw(3, 5, c // groups, o, seed=1)
    x = draw(2, 10, 11, c)
    y = draw(*conv(x, kernel, stride=stride, padding=padding, groups=groups).shape, seed=2)
    parts = jnp.split(kernel, groups, axis=-1)
    swapped = jnp.concatenate([part.swapaxes(2, 3) for part in parts], axis=-1)
    z = conv_transpose(y, swapped, stride=stride, padding=padding, output_padding=extra, groups=groups)
    assert z.shape == x.shape
    left = (conv(x, kernel, stride=stride, padding=padding, groups=groups) * y).sum()
    np.testing.assert_allclose((x * z).sum(), left, rtol=1e-5)
    gradient = jax.grad(lambda x: (conv(x, kernel, stride=stride, padding=padding, groups=groups) * y).sum())(x)
    np.testing.assert_allclose(z, gradient, atol=1e-5)


def test_transposed_gradients():
    x, kernel = draw(1, 3, 4, 2), draw(3, 3, 2, 5, seed=1)

    def function(x, k):
        return conv_transpose(x, k, stride=2, padding=1, output_padding=1)

    check_grads(jax.jit(function), (x, kernel), order=1, eps=1e-2, atol=1e-2, rtol=1e-2)
    gradient = jax.jit(jax.grad(lambda x, k: function(x, k).sum(), (0, 1)))
    # XLA's own convolution takes a hundred times as long for the kernel on a CPU.
    assert "convolution" not in gradient.lower(x, kernel).compile().as_text()


@pytest.mark.parametrize("name", ["pointwise stride", "depthwise stride"])
def test_vmap_equals_a_loop_and_bfloat16_stays(name):
    shape, keywords = FAST[name]
    x, kernel = draw(3, 2, 11, 13, 6), draw(*shape, seed=1)

    @jax.jit
    def function(x):
        return conv(x, kernel.astype(x.dtype), **keywords)

    np.testing.assert_allclose(jax.vmap(function)(x), jnp.stack([function(image) for image in x]), atol=1e-5)
    low = function(x[0].astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), function(x[0]), atol=0.15)


@jax.jit
def depthwise_gradients(x, kernel, g):
    return jax.vjp(lambda x, k: conv(x, k, padding=1, groups=3), x, kernel)[1](g)


def test_bfloat16_gradients_are_summed_in_float32():
    x, kernel, g = abs(draw(2, 9, 70, 3)), draw(3, 3, 1, 3, seed=1), abs(draw(2, 9, 70, 3, seed=2))
    low = [array.astype(jnp.bfloat16) for array in (x, kernel, g)]
    expected = depthwise_gradients(*(array.astype(jnp.float32) for array in low))
    for ours, theirs in zip(depthwise_gradients(*low), expected):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, rtol=2**-7, atol=1e-2)


def test_vmapped_gradients_equal_a_loop():
    x, kernel, g = draw(2, 2, 7, 5, 3), draw(2, 3, 3, 1, 3, seed=1), draw(2, 2, 7, 5, 3, seed=2)
    for ours, *theirs in zip(
        jax.vmap(depthwise_gradients)(x, kernel, g), *(depthwise_gradients(*row) for row in zip(x, kernel, g))
    ):
        np.testing.assert_allclose(ours, jnp.stack(theirs), atol=1e-5)


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_equals_one_device(check_vma):
    x, kernel, g = draw(4, 7, 5, 3), draw(3, 3, 1, 3, seed=1), draw(4, 7, 5, 3, seed=2)

    def spread(x, kernel, g):
        by_x, by_kernel = depthwise_gradients(x, kernel, g)
        # With the check on, the gradient of what all devices share is summed by itself.
        return by_x, by_kernel if check_vma else lax.psum(by_kernel, "data")

    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    whole, split = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(
        spread, mesh=mesh, in_specs=(split, whole, split), out_specs=(split, whole), check_vma=check_vma
    )
    for ours, theirs in zip(jax.jit(mapped)(x, kernel, g), depthwise_gradients(x, kernel, g)):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_batch_over_devices_stays_where_it_is():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    places = [NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), (), ("data",))]
    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place)
        for shape, place in zip([(4, 7, 5, 3), (3, 3, 1, 3), (4, 7, 5, 3)], places)
    ]
    text = depthwise_gradients.lower(*shapes).compile().as_text()
    names = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
    assert set(re.findall(rf"({names})(?:-start)?\(", text)) == {"all-reduce"}


@pytest.mark.parametrize(
    "window, stride, dtype, platform, count",
    [
        (3, 1, "float32", "cpu", (0, 0)),
        (3, 1, "float32", "cuda", (1, 2)),
        # On TPUs the slices are faster up to 3x3, in half precision up to 5x5, and by image without a stride only.
        (3, 1, "float32", "tpu", (0, 1)),
        (5, 1, "float32", "tpu", (1, 2)),
        (5, 1, "bfloat16", "tpu", (0, 1)),
        (7, 1, "bfloat16", "tpu", (1, 2)),
        (3, 2, "float32", "tpu", (0, 2)),
    ],
)
def test_accelerators_get_their_own_convolutions(window, stride, dtype, platform, count):
    """How many XLA's own are in the result, and in both gradients."""

    def function(x, kernel):
        return conv(x, kernel, stride=stride, padding=window // 2, groups=3)

    def gradients(x, kernel):
        return jax.grad(lambda *arrays: function(*arrays).sum(), argnums=(0, 1))(x, kernel)

    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((2, 9, 8, 3), (window, window, 1, 3))]
    texts = [jax.jit(f).trace(*shapes).lower(lowering_platforms=(platform,)).as_text() for f in (function, gradients)]
    assert tuple(text.count("stablehlo.convolution") for text in texts) == count


def test_wrong_channels():
    x = draw(1, 5, 7, 6)
    with pytest.raises(ValueError, match="do not fit"):
        conv(x, draw(3, 3, 5, 4))
    with pytest.raises(ValueError, match="do not fit"):
        conv(x, draw(3, 3, 3, 5), groups=2)
    with pytest.raises(ValueError, match="do not fit"):
        conv_transpose(x, draw(3, 3, 4, 4))
    with pytest.raises(ValueError, match="leaves nothing"):
        conv_transpose(draw(1, 1, 1, 2), draw(3, 3, 2, 4), padding=2)
