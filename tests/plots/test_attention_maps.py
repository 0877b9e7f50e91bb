import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax.models.records import AttentionMap, DotProductMap
from attnseg_jax.plots import attention_maps


def _dot_product(rng, n=15, m=6, **options):
    q, k = (jnp.asarray(rng.normal(size=(2, count, 3, 4)), jnp.float32) for count in (n, m))
    return DotProductMap(q, k, query_size=(3, 5), key_size=(2, 3), **options)


def _sparse():
    """Queries on a 1 x 3 map look at two positions each of a 2 x 2 map; the last sees one of them only."""
    weights = jnp.array([[0.25, 0.75], [0.5, 0.5], [0.0, 1.0]]).reshape(1, 1, 3, 2)
    return AttentionMap(weights, np.array([[0, 3], [2, 2], [-1, 1]]), (1, 3), (2, 2))


def test_a_pixel_belongs_to_a_cell_of_the_map():
    assert attention_maps.position((0, 0), (13, 17), (3, 5)) == 0
    assert attention_maps.position((12, 16), (13, 17), (3, 5)) == 14
    # Rows 0 to 4, 5 to 8 and 9 to 12; columns 0 to 3, 4 to 6, ...
    assert attention_maps.position((4, 3), (13, 17), (3, 5)) == 0
    assert attention_maps.position((5, 4), (13, 17), (3, 5)) == 6
    assert attention_maps.position((2, 1), (4, 6), (8, 12)) == 4 * 12 + 2  # a map finer than the image


@pytest.mark.parametrize("bias", [None, (1, 3, 15, 6), (2, 1, 1, 6)])
@pytest.mark.parametrize("mask", [None, (2, 1, 15, 6), (1, 1, 1, 6)])
def test_rows_of_a_dot_product_are_those_of_all_weights(bias, mask):
    rng = np.random.default_rng(0)
    options = {
        "bias": None if bias is None else jnp.asarray(rng.normal(size=bias), jnp.float32),
        "mask": None if mask is None else jnp.asarray(rng.random(mask) < 0.7),
    }
    record = _dot_product(rng, scale=0.7, **options)
    queries = np.array([14, 0, 7, 7])
    np.testing.assert_allclose(record.rows(queries), record.weights[:, :, queries], atol=1e-6)
    assert record.rows(queries).shape == (2, 3, 4, 6)


def test_weights_that_nobody_asks_for_are_not_computed(monkeypatch):
    monkeypatch.setattr(attention_maps, "_CHUNK", 3 * 40 * 8)
    record = DotProductMap(jnp.zeros((1, 35, 3, 4)), jnp.zeros((1, 40, 3, 4)), None, None, None, (5, 7), (5, 8))
    chunks = list(attention_maps._chunks(record))
    assert [len(chunk) for chunk in chunks] == [8, 8, 8, 8, 3]
    text = str(jax.make_jaxpr(attention_maps._relative_entropy)(record, chunks[0]))
    assert "3,8,40]" in text and "3,35,40]" not in text


def test_sparse_keys_are_placed_and_those_outside_left_out():
    maps = attention_maps.heat_maps(_sparse(), np.array([0, 1, 2]))
    assert maps.shape == (1, 1, 3, 2, 2)
    wanted = [[[0.25, 0], [0, 0.75]], [[0, 0], [1.0, 0]], [[0, 1.0], [0, 0]]]
    np.testing.assert_array_equal(maps[0, 0], wanted)
    np.testing.assert_array_equal(attention_maps.heat_maps(_sparse(), np.array([2]))[0, 0], wanted[2:])


def test_heads_and_images_are_placed_alike():
    rng = np.random.default_rng(1)
    rows, keys = rng.random((2, 3, 4, 5)), rng.integers(-1, 6, (4, 5))
    placed = attention_maps.on_map(rows, keys, (2, 3))
    wanted = np.zeros((2, 3, 4, 7))
    for i in np.ndindex(2, 3, 4, 5):
        wanted[i[0], i[1], i[2], keys[i[2], i[3]]] += rows[i]  # -1 is the last
    np.testing.assert_allclose(placed.reshape(2, 3, 4, 6), wanted[..., :6], atol=1e-12)


def test_dense_rows_keep_their_sum():
    record = _dot_product(np.random.default_rng(2))
    maps = attention_maps.heat_maps(record, np.array([3, 9]))
    assert maps.shape == (2, 3, 2, 2, 3)
    np.testing.assert_allclose(maps.sum((-2, -1)), 1, atol=1e-6)
    np.testing.assert_allclose(maps[1, 2, 1].ravel(), np.asarray(record.weights)[1, 2, 9], atol=1e-6)


def test_regions_by_position():
    weights = jnp.arange(2 * 6 * 4.0).reshape(1, 2, 6, 4)
    maps = attention_maps.key_maps(AttentionMap(weights, query_size=(2, 3)))
    assert maps.shape == (1, 2, 4, 2, 3)
    for head, region, y, x in np.ndindex(2, 4, 2, 3):
        assert maps[0, head, region, y, x] == weights[0, head, y * 3 + x, region]


@pytest.mark.parametrize(
    "weights, wanted",
    [
        ([0.25, 0.25, 0.25, 0.25], 1.0),
        ([0.0, 1.0, 0.0, 0.0], 0.0),
        ([0.5, 0.0, 0.5, 0.0], math.log(2) / math.log(4)),
        ([0.5, 0.25, 0.25, 0.0], 1.5 * math.log(2) / math.log(4)),
        ([0.1, 0.1, 0.1, 0.1], 1.0),  # the sum does not count
        ([0.0, 0.0, 0.0, 0.0], math.nan),
        ([0.5, -0.1, 0.3, 0.3], math.nan),
    ],
)
def test_entropy(weights, wanted):
    weights = jnp.array(weights).reshape(1, 1, 1, 4)
    np.testing.assert_allclose(attention_maps.relative_entropy(AttentionMap(weights)).item(), wanted, atol=1e-6)
    assert attention_maps.relative_entropy(AttentionMap(jnp.ones((1, 1, 1, 1)))).item() == 0  # a single key


def test_entropy_counts_the_keys_inside_and_those_with_weight():
    keys = np.array([[4, -1, 2, -1], [4, 1, 2, 3], [4, -1, 2, -1]])
    weights = jnp.array([[0.5, 0, 0.5, 0], [0.5, 0, 0.5, 0], [0.25, 0.5, 0.25, 0]]).reshape(1, 1, 3, 4)
    entropy = attention_maps.relative_entropy(AttentionMap(weights, keys, (1, 3), (2, 3)))
    np.testing.assert_allclose(entropy[0, 0], [1, 0.5, 1.5 * math.log(2) / math.log(3)], atol=1e-6)


def test_entropy_in_chunks_is_the_entropy_of_the_weights(monkeypatch):
    record = _dot_product(np.random.default_rng(3))
    monkeypatch.setattr(attention_maps, "_CHUNK", 3 * 6 * 4)
    weights = np.asarray(record.weights, np.float64)
    wanted = -(weights * np.log(weights)).sum(-1) / math.log(6)
    np.testing.assert_allclose(attention_maps.relative_entropy(record), wanted, atol=1e-5)
    assert attention_maps.relative_entropy(record).shape == (2, 3, 15)
