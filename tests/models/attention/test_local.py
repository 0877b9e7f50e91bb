"""The mechanism `local`: of features and of logits, against float64 by pixel, and by its properties."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sown import FAST_COMPILE, with_records

from attnseg_jax import build_model
from attnseg_jax.errors import OptionError
from attnseg_jax.models import Features
from attnseg_jax.models.attention import LocalAttention, NoAttention
from attnseg_jax.ops.resize import resize

RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((2, 5, 8, 12)).astype(np.float32)
FINE = RNG.standard_normal((2, 10, 16, 15)).astype(np.float32)
FEATURES = Features({2: jnp.asarray(FINE), 4: jnp.asarray(MAP)})
LOGITS = RNG.standard_normal((2, 9, 7, 6)).astype(np.float32)


def refine(model, variables, logits, features=FEATURES):
    """The refined logits and the records."""
    return with_records(model, method="refine")(variables, jnp.asarray(logits), features)


def refine_variables(model, random_variables):
    return random_variables(model, jnp.asarray(LOGITS), FEATURES, method="refine")


def exact(variables):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), variables["params"])


def normalise(x, p):
    x = np.asarray(x, np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def weigh(q, k, kernel, dilation):
    """`[b, h, w, a] -> {neighbour: weight}` of `[b, h, w, a, d]`, one query at a time."""
    weights = {}
    reach = [dilation * i for i in range(-(kernel // 2), kernel // 2 + 1)]
    for b, y, x, a in np.ndindex(q.shape[:4]):
        around = [(y + i, x + j) for i in reach for j in reach]
        around = [(i, j) for i, j in around if 0 <= i < q.shape[1] and 0 <= j < q.shape[2]]
        powers = np.exp([q[b, y, x, a] @ k[b, i, j, a] / np.sqrt(q.shape[-1]) for i, j in around])
        weights[b, y, x, a] = dict(zip(around, powers / powers.sum()))
    return weights


def average(weights, v):
    out = np.zeros(v.shape)
    for (b, y, x, a), row in weights.items():
        out[b, y, x, a] = sum(weight * v[b, i, j, a] for (i, j), weight in row.items())
    return out


def test_features_against_numpy(random_variables):
    model = LocalAttention(kernel=3, dilation=2, heads=3, head_dim=5)
    variables = random_variables(model, FEATURES)
    p = exact(variables)
    y, own = normalise(MAP, p["norm0"]), p["attention0"]

    def embed(name):
        return (y @ own[name]["kernel"] + own[name]["bias"]).reshape(2, 5, 8, 3, 5)

    weights = weigh(embed("query"), embed("key"), 3, 2)
    mixed = average(weights, embed("value")).reshape(2, 5, 8, 15)
    out, records = with_records(model)(variables, FEATURES)
    np.testing.assert_allclose(out.deepest, MAP + mixed @ own["out"]["kernel"] + own["out"]["bias"], atol=1e-5)
    np.testing.assert_array_equal(out.maps[2], FEATURES.maps[2])
    record = records["local0"]
    assert record.query_size == record.key_size == (5, 8) and record.weights.shape == (2, 3, 40, 9)
    np.testing.assert_allclose(record.weights.sum(-1), np.ones((2, 3, 40)), rtol=1e-5)
    shares, keys = np.asarray(record.weights), np.asarray(record.keys)
    for (b, y, x, a), row in weights.items():
        n = y * 8 + x
        shown = {divmod(int(key), 8): w for key, w in zip(keys[n], shares[b, a, n]) if key >= 0}
        assert sorted(shown) == sorted(row)
        np.testing.assert_allclose([shown[key] for key in row], list(row.values()), atol=1e-5)


@pytest.mark.parametrize("stride, compared", [(0, MAP), (2, FINE), (4, MAP)])
def test_logits_against_numpy(random_variables, stride, compared):
    """Twice averaged scores of another size than the map, from the resampled map, the heads' weights averaged."""
    model = LocalAttention(kernel=3, heads=3, value="logits", iterations=2, stride=stride)
    variables = refine_variables(model, random_variables)
    p = exact(variables)
    y = np.asarray(resize(jnp.asarray(normalise(compared, p["refine_norm"]), jnp.float32), (9, 7)), np.float64)

    def embed(name):
        return (y @ p[name]["kernel"] + p[name]["bias"]).reshape(2, 9, 7, 3, compared.shape[-1] // 3)

    by_head = weigh(embed("refine_query"), embed("refine_key"), 3, 1)
    mean = {
        (b, y, x, 0): {key: np.mean([by_head[b, y, x, a][key] for a in range(3)]) for key in by_head[b, y, x, 0]}
        for b, y, x in np.ndindex(2, 9, 7)
    }
    expected = average(mean, average(mean, LOGITS[:, :, :, None].astype(np.float64)))[:, :, :, 0]
    scores, maps = refine(model, variables, LOGITS)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert abs(scores - LOGITS).max() > 0.1
    assert list(maps) == ["local0"] and maps["local0"].weights.shape == (2, 1, 63, 9)
    np.testing.assert_allclose(maps["local0"].weights.sum(-1), np.ones((2, 1, 63)), rtol=1e-5)


@pytest.mark.parametrize("kernel, dilation, iterations", [(3, 1, 1), (3, 2, 3), (5, 2, 2)])
def test_refined_scores_stay_within_their_neighbourhood(random_variables, kernel, dilation, iterations):
    """Every time within the smallest and the largest score that the time before left around a pixel."""
    options = dict(kernel=kernel, dilation=dilation, heads=2, value="logits")
    variables = refine_variables(LocalAttention(**options), random_variables)
    results = [LOGITS]
    for i in range(iterations):
        scores, maps = refine(LocalAttention(**options, iterations=i + 1), variables, LOGITS)
        results.append(np.asarray(scores))
        shares = np.asarray(maps["local0"].weights)
        assert shares.min() >= 0
        np.testing.assert_allclose(shares.sum(-1), np.ones((2, 1, 63)), rtol=1e-5)
    reach = [dilation * i for i in range(-(kernel // 2), kernel // 2 + 1)]
    for before, scores in itertools.pairwise(results):
        for y, x in np.ndindex(9, 7):
            rows, columns = ([p + i for i in reach if 0 <= p + i < n] for p, n in ((y, 9), (x, 7)))
            around = before[np.ix_(range(2), rows, columns)]
            assert (scores[:, y, x] <= around.max((1, 2)) + 1e-5).all()
            assert (scores[:, y, x] >= around.min((1, 2)) - 1e-5).all()
        assert np.abs(scores - before).max() > 0.01


@pytest.mark.parametrize("iterations", [1, 2])
def test_iterations_widen_what_a_score_sees(random_variables, iterations):
    model = LocalAttention(kernel=3, heads=2, value="logits", iterations=iterations)
    variables = refine_variables(model, random_variables)

    def loss(x):
        return (model.apply(variables, x, FEATURES, method="refine")[:, 4, 3] ** 2).sum()

    gradient = FAST_COMPILE(jax.grad(loss))(jnp.asarray(LOGITS))
    seen = np.zeros((9, 7), bool)
    seen[4 - iterations : 5 + iterations, 3 - iterations : 4 + iterations] = True
    assert (gradient[:, seen] != 0).all() and (gradient[:, ~seen] == 0).all()


def test_a_model_with_refined_logits(random_variables):
    config = {
        "backbone": {"name": "tiny", "tiny": {"width": 12}},
        "attention": {"name": "local", "local": {"value": "logits", "kernel": 3, "heads": 3}},
        "decoder": {"fcn": {"skips": (2,)}},
    }
    model = build_model(config, 7)
    image = jnp.asarray(RNG.standard_normal((2, 13, 17, 3)), jnp.float32)
    variables = random_variables(model, image)
    assert sorted(variables["params"]["attention"]) == ["refine_key", "refine_norm", "refine_query"]
    out, records = with_records(model)(variables, image)
    assert list(records) == ["local0"] and records["local0"].query_size == (7, 9)
    plain = model.clone(attention=NoAttention())
    without = {**variables, "params": {key: variables["params"][key] for key in ("backbone", "decoder")}}
    assert abs(out.logits - FAST_COMPILE(plain.apply)(without, image).logits).max() > 1e-3


def test_the_features_stay_when_logits_are_the_values(random_variables):
    model = LocalAttention(value="logits")
    assert model.apply({}, FEATURES) is FEATURES
    logits = jnp.asarray(LOGITS)
    assert LocalAttention().apply({}, logits, FEATURES, method="refine") is logits


def test_logits_under_bfloat16(random_variables):
    features = FEATURES.with_deepest(FEATURES.deepest.astype(jnp.bfloat16))
    model = LocalAttention(kernel=3, heads=3, dtype=jnp.bfloat16, value="logits")
    scores, maps = refine(model, refine_variables(model, random_variables), LOGITS, features)
    assert scores.dtype == maps["local0"].weights.dtype == jnp.float32


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stride": 4}, r"local\.stride=4 is for value='logits'"),
        ({"stride": 16, "value": "logits"}, r"local\.stride=16 asks for a map of stride 16; the backbone has 2, 4: "),
        ({"kernel": 7}, r"local\.kernel=7 with dilation=1 reaches beyond a map of 2x3 positions from everywhere"),
        ({"kernel": 3, "dilation": 3}, r"local\.kernel=3 with dilation=3 reaches beyond a map of 2x3 positions"),
        ({"kernel": 7, "value": "logits"}, r"local\.kernel=7 with dilation=1 reaches beyond a map of 2x3"),
        ({"heads": 5}, r"local\.heads=5 does not divide 64 channels: choose"),
        ({"heads": 5, "value": "logits"}, r"local\.heads=5 does not divide 64 channels: choose"),
    ],
)
def test_mistakes(options, message):
    model = build_model({"attention": {"name": "local", "local": options}}, 7)
    with pytest.raises(OptionError, match=r"config\.model\.attention\." + message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12, 3)))
