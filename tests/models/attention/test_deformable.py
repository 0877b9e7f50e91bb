"""Deformable attention over a map: the weights that it records, and its output, pixel by pixel in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sown import with_records

from attnseg_jax.models.attention import Deformable
from attnseg_jax.models.layers.attention import sine_positions

B, H, W, C, A, P = 2, 4, 5, 12, 3, 2
X = np.random.default_rng(0).standard_normal((B, H, W, C)).astype(np.float32)


def dense(x, leaf):
    return x @ leaf["kernel"] + leaf["bias"]


@pytest.mark.thorough
def test_against_numpy(random_variables):
    model = Deformable(heads=A, points=P)
    variables = random_variables(model, X, method="attend")
    y, records = with_records(model, method="attend")(variables, X)
    record = records["deformable0"]
    assert record.query_size == record.key_size == (H, W)
    p = jax.tree.map(lambda leaf: leaf.astype(np.float64), variables["params"]["points"])
    tokens = X.reshape(B, H * W, C).astype(np.float64)
    query = tokens + sine_positions(H, W, C).reshape(1, H * W, C)
    offsets = dense(query, p["offsets"]).reshape(B, H * W, A, P, 2)
    powers = np.exp(dense(query, p["weights"]).reshape(B, H * W, A, P))
    rows, columns = (place.ravel()[None, :, None, None] for place in np.indices((H, W)))
    # A point counts for a pixel by what is left of 1 pixel of distance, in each direction.
    seen = np.zeros((B, A, H * W, H * W))
    for m, (i, j) in enumerate(np.ndindex(H, W)):
        left = 1 - abs(rows + offsets[..., 1] - i), 1 - abs(columns + offsets[..., 0] - j)
        share = np.maximum(left[0], 0) * np.maximum(left[1], 0) * powers / powers.sum(-1, keepdims=True)
        seen[..., m] = share.sum(-1).swapaxes(1, 2)
    np.testing.assert_allclose(record.weights, seen, atol=2e-6)
    some = jnp.array([7, 0])
    np.testing.assert_allclose(record.rows(some), seen[:, :, [7, 0]], atol=2e-6)
    assert seen.sum(-1).min() < 0.9 < 1 - 1e-9 < seen.sum(-1).max() < 1 + 1e-9
    values = dense(tokens, p["value"]).reshape(B, H * W, A, C // A)
    gathered = np.einsum("banm,bmad->bnad", seen, values).reshape(B, H * W, C)
    np.testing.assert_allclose(y.reshape(B, H * W, C), dense(gathered, p["out"]), atol=2e-5)


def test_where_training_begins():
    """Each head looks in a direction of its own, 1 and 2 pixels far, with equal weights, whatever the map shows."""
    model = Deformable(heads=4, points=2, positions="none")
    variables = model.init(jax.random.key(0), X, method="attend")
    _, records = with_records(model, method="attend")(variables, X)
    record = records["deformable0"]
    np.testing.assert_allclose(record.point_weights, 0.5)
    centre = 2 * W + 2
    moved = (record.locations[0, centre] - jnp.array([2.5 / W, 2.5 / H])[None, None]) * jnp.array([W, H])[None, None]
    directions = [(1, 0), (0, 1), (-1, 0), (0, -1)]
    np.testing.assert_allclose(moved, [[(x, y), (2 * x, 2 * y)] for x, y in directions], atol=1e-5)
