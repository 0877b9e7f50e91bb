"""What programs for GPUs have in another form. It is chosen when they are lowered, which needs no GPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.ops.conv import conv
from attnseg_jax.ops.linear_map import bilinear
from attnseg_jax.ops.losses import dice
from attnseg_jax.ops.platforms import fence, unless_on_gpus

PLATFORMS = {"cpu": False, "tpu": False, "cuda": True, "rocm": True}
every_platform = pytest.mark.parametrize("platform, gpu", PLATFORMS.items())


def shape(*sizes, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(sizes, dtype)


def lowered(function, *shapes, platforms):
    return jax.jit(function).trace(*shapes).lower(lowering_platforms=platforms).as_text()


def with_gradients(function):
    return lambda *arrays: jax.value_and_grad(lambda *arrays: (function(*arrays) ** 2).sum(), (0, 1))(*arrays)


def operations(text):
    """How often each one of interest stands in a program."""
    return {name: len(re.findall(rf"stablehlo\.{name}\b", text)) for name in ("convolution", "dot_general", "case")}


@every_platform
@pytest.mark.parametrize("stride", [1, 2])
def test_pointwise_convolutions_are_products_except_on_gpus(platform, gpu, stride):
    """Result and both gradients. A product whose pixels are a strided slice aborts XLA on GPUs up to jax 0.11."""
    program = with_gradients(lambda x, kernel: conv(x, kernel, stride=stride))
    found = operations(lowered(program, shape(2, 7, 6, 4), shape(1, 1, 4, 3), platforms=(platform,)))
    assert found == {"convolution": 3 * gpu, "dot_general": 3 * (not gpu), "case": 0}


def test_one_program_holds_both():
    found = operations(lowered(conv, shape(2, 7, 6, 4), shape(1, 1, 4, 3), platforms=("cpu", "cuda")))
    assert found["convolution"] == found["dot_general"] == 1 and found["case"]


@pytest.mark.thorough
@pytest.mark.parametrize("stride", [1, (2, 3)])
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 1e-5), (jnp.bfloat16, 2e-2)])
def test_the_form_of_gpus_computes_the_same(monkeypatch, stride, dtype, tolerance):
    """On a CPU, where it stands in for the other."""
    from attnseg_jax.ops import pointwise as module

    native = bilinear(module._product_on_gpus, module._input_gradient_on_gpus, module._kernel_gradient_on_gpus)
    rng = np.random.default_rng(0)
    x, kernel = (jnp.asarray(rng.standard_normal(sizes), dtype) for sizes in ((2, 7, 6, 4), (1, 1, 4, 3)))

    def derivatives(x, kernel):
        function = with_gradients(lambda x, kernel: conv(x, kernel, stride=stride))
        return jax.jvp(function, (x, kernel), (kernel.sum() * x, kernel)), jax.vmap(function, (None, 0))(
            x, kernel[None]
        )

    expected = jax.jit(derivatives)(x, kernel)
    monkeypatch.setattr(module, "_bilinear", native)
    for ours, theirs in zip(jax.tree.leaves(jax.jit(lambda *a: derivatives(*a))(x, kernel)), jax.tree.leaves(expected)):
        ours, theirs = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
        assert ours.shape == theirs.shape and abs(ours - theirs).max() <= tolerance * max(1, abs(theirs).max())


@every_platform
def test_a_fence_stands_on_gpus_alone(platform, gpu):
    """Once around the value and once around its gradient."""
    text = lowered(jax.value_and_grad(lambda x: fence(x) ** 2), shape(), platforms=(platform,))
    assert text.count("optimization_barrier") == 2 * gpu


def test_a_fence_has_every_derivative():
    assert jax.hessian(lambda x: fence(x) ** 3)(2.0) == 12.0
    assert jax.vmap(jax.grad(lambda x: fence(x) ** 2))(jnp.arange(3.0)).tolist() == [0.0, 2.0, 4.0]
    assert fence(jnp.arange(3)).tolist() == [0, 1, 2]


@every_platform
def test_sums_over_classes_are_fenced_from_their_gradient(platform, gpu):
    """Else XLA takes minutes to decide that the quotient of each class is computed anew for every pixel."""
    program = jax.grad(lambda logits, labels: dice(logits, labels)[0])
    text = lowered(program, shape(1, 4, 4, 3), shape(1, 4, 4, dtype=jnp.int32), platforms=(platform,))
    fenced = re.findall(r"optimization_barrier .*: (\S+)", text)
    assert fenced == ["tensor<3x3xf32>"] * 2 * gpu


def test_it_runs_outside_of_jit_and_mapped():
    function = unless_on_gpus(jnp.add, jnp.subtract)
    assert function(1.0, 2.0) == 3.0
    assert jax.vmap(function, (0, None))(jnp.arange(3.0), 2.0).tolist() == [2.0, 3.0, 4.0]
