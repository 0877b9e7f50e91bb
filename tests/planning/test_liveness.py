"""How much of a program lives at once, against what is counted by hand."""

import jax
import jax.numpy as jnp

from attnseg_jax.planning.liveness import peak_bytes

X = jnp.ones((3, 5))
EACH = 3 * 5 * 4


def peak(function, *arguments):
    return peak_bytes(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_a_result_lives_until_it_was_last_read():
    # Of a chain two at a time; of three that are needed in the end three, and the sum of the first two.
    assert peak(lambda x: jnp.sin(jnp.cos(jnp.tan(x))), X) == 2 * EACH
    assert peak(lambda x: (jnp.sin(x) + jnp.cos(x)) * jnp.tan(x), X) == 3 * EACH


def test_views_take_nothing_and_keep_what_they_show():
    assert peak(lambda x: jnp.sin(x).reshape(5, 3), X) == EACH
    assert peak(lambda x: (jnp.sin(x).reshape(15), jnp.cos(x)), X) == 2 * EACH


def test_calls_and_loops_take_what_their_bodies_take():
    inner = jax.jit(lambda x: jnp.sin(x) + jnp.cos(x))
    assert peak(inner, X) == peak(lambda x: inner(x), X) == 3 * EACH

    def body(carry, _):
        return jnp.sin(carry) + jnp.cos(carry), carry.sum()

    # In the body sine and cosine beside the next carry; and all the time the four sums.
    assert peak(lambda x: jax.lax.scan(body, x, length=4), X) == 3 * EACH + 4 * 4


def test_gradients_keep_what_they_need():
    def chain(x):
        for _ in range(6):
            x = jnp.sin(x)
        return x.sum()

    # The cosine of each of six inputs; forward alone two arrays.
    assert peak(chain, X) == 2 * EACH
    assert peak(jax.grad(chain), X) >= 6 * EACH
