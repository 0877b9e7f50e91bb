"""Between PyTorch's layouts (the goldens) and this project's."""

import jax.numpy as jnp
import numpy as np


def nhwc(x):
    return jnp.asarray(np.moveaxis(np.asarray(x), 1, -1))


def nchw(x):
    return np.moveaxis(np.asarray(x), -1, 1)


def hwio(weight):
    """A convolution's weight `[o, c / groups, kh, kw]`."""
    return jnp.asarray(np.transpose(weight, (2, 3, 1, 0)))


def hwio_transposed(weight, groups=1):
    """A transposed convolution's weight `[c, o / groups, kh, kw]`."""
    c, o, kh, kw = weight.shape
    weight = np.reshape(weight, (groups, c // groups, o, kh, kw))
    return jnp.asarray(np.transpose(weight, (3, 4, 1, 0, 2)).reshape(kh, kw, c // groups, groups * o))


def assert_golden(case, name, value):
    """`value` is within the tolerance of output `name`."""
    error, tolerance = case.error(name, value)
    assert error <= tolerance, f"{name}: {error:.3g} > {tolerance:.3g}"
