"""The module around linear attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sown import with_records

from attnseg_jax.models import Features
from attnseg_jax.models.attention import LinearAttention

X = np.random.default_rng(0).standard_normal((2, 5, 7, 12)).astype(np.float32)


@pytest.mark.parametrize("form", ["elu", "softmax"])
def test_against_numpy(random_variables, form):
    """Written out in float64, with the weights of all pairs."""
    model = LinearAttention(form=form, heads=3, head_dim=4, channels=9)
    features = Features({2: jnp.ones((2, 10, 14, 3)), 4: jnp.asarray(X)})
    variables = random_variables(model, features)
    p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])

    def dense(x, name, p=p):
        return x @ p[name]["kernel"] + p[name]["bias"]

    x = dense(X.astype(np.float64).reshape(2, 35, 12), "project")
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    y = y * p["norm0"]["scale"] + p["norm0"]["bias"]
    q, k, v = (dense(y, name, p["attention0"]).reshape(2, 35, 3, 4) for name in ("query", "key", "value"))
    if form == "elu":
        q, k = (np.where(t > 0, t + 1, np.exp(t)) for t in (q, k))
        weights = np.einsum("bnad,bmad->banm", q, k)
        weights = weights / weights.sum(-1, keepdims=True)
    else:
        q, k = np.exp(q) / np.exp(q).sum(-1, keepdims=True), np.exp(k) / np.exp(k).sum(1, keepdims=True)
        weights = np.einsum("bnad,bmad->banm", q, k)
    expected = x + dense(np.einsum("banm,bmad->bnad", weights, v).reshape(2, 35, 12), "out", p["attention0"])
    out, records = with_records(model)(variables, features)
    np.testing.assert_allclose(out.deepest, expected.reshape(2, 5, 7, 9), atol=1e-5)
    np.testing.assert_array_equal(out.maps[2], features.maps[2])
    record = records["linear0"]
    np.testing.assert_allclose(record.weights, weights, atol=1e-6)
    np.testing.assert_allclose(record.rows(jnp.array([30, 4])), weights[:, :, [30, 4]], atol=1e-6)
    assert record.query_size == record.key_size == (5, 7) and record.keys is None
