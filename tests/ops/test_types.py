"""Every public function takes and returns what its annotation says, checked by beartype."""

import inspect
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from beartype import beartype
from jaxtyping import TypeCheckError, jaxtyped

from attnseg_jax.ops import attention, conv, losses, metrics, norm, pool, resize, separable

MODULES = (attention, conv, losses, metrics, norm, pool, resize, separable)
IMAGE, TOKENS, CHANNELS = jnp.ones((2, 7, 5, 4)), jnp.ones((2, 6, 3, 4)), jnp.ones(4)
LABELS = jnp.zeros((2, 7, 5), jnp.int32)
CALLS = {
    attention.dot_product_attention: (
        (TOKENS, TOKENS, TOKENS),
        {"bias": jnp.ones((1, 3, 6, 6)), "mask": jnp.ones((2, 1, 1, 6), bool)},
    ),
    attention.attention_weights: ((TOKENS, TOKENS), {"mask": jnp.ones((2, 1, 1, 6), bool)}),
    attention.check_impl: (
        ("chunked",),
        {"dtype": "float32", "widths": (64, 32), "tokens": (6, 5), "mask_shape": (2, 1, 1, 5)},
    ),
    conv.conv: ((IMAGE, jnp.ones((3, 3, 2, 6))), {"groups": 2, "stride": (1, 2)}),
    conv.conv_transpose: ((IMAGE, jnp.ones((3, 3, 2, 6))), {"groups": 2, "stride": 2}),
    losses.cross_entropy: ((IMAGE, LABELS), {"class_weights": CHANNELS}),
    losses.mean: ((jnp.float32(1), jnp.float32(2)), {}),
    losses.median_frequency_weights: ((np.arange(4),), {}),
    metrics.confusion_matrix: ((LABELS, LABELS, 4), {}),
    metrics.scores: ((np.eye(4, dtype=np.int64),), {}),
    norm.batch_norm: ((IMAGE, *4 * [CHANNELS]), {}),
    norm.batch_norm_inference: ((IMAGE, *4 * [CHANNELS]), {}),
    pool.pair: ((3,), {}),
    pool.max_pool: ((IMAGE, 2), {}),
    pool.avg_pool: ((IMAGE, (2, 3)), {}),
    pool.adaptive_avg_pool: ((IMAGE, 3), {}),
    pool.adaptive_max_pool: ((IMAGE, (3, 2)), {}),
    resize.resize: ((IMAGE, (9, 3)), {"scale": (1.2, 0.7)}),
    resize.interpolation_matrix: ((3, 4, "bicubic"), {}),
    separable.apply_separable: ((IMAGE, np.ones((3, 7), np.float32), None), {}),
}


def public_functions():
    for module in MODULES:
        for name, function in vars(module).items():
            if (
                inspect.isfunction(function)
                and function.__module__.startswith(module.__name__)
                and not name.startswith("_")
            ):
                yield function


@pytest.mark.parametrize("function", list(public_functions()), ids=lambda f: f.__name__)
def test_annotations(function):
    args, keywords = CALLS[function]
    checked = jaxtyped(typechecker=beartype)(function)
    checked(*args, **keywords)
    assert all(name in typing.get_type_hints(function) for name in [*inspect.signature(function).parameters, "return"])
    assert ">>>" in function.__doc__ or function is pool.pair


def test_the_checker_is_awake():
    with pytest.raises(TypeCheckError):
        jaxtyped(typechecker=beartype)(losses.cross_entropy)(IMAGE, LABELS[:, 1:])


@pytest.mark.parametrize("function", [attention.dot_product_attention, resize.resize, pool.max_pool, conv.conv])
def test_shapes_come_without_computing(function):
    args, keywords = CALLS[function]
    static = {name: value for name, value in keywords.items() if not hasattr(value, "shape")}
    arrays = {name: value for name, value in keywords.items() if hasattr(value, "shape")}
    count = sum(hasattr(arg, "shape") for arg in args)
    traced = jax.eval_shape(lambda *a, **k: function(*a, *args[count:], **static, **k), *args[:count], **arrays)
    assert traced.shape == function(*args, **keywords).shape
