"""The mask transformer: the original's masks, a float64 oracle of a whole pass, its maps and options."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden, nchw, nhwc

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import Features
from attnseg_jax.models.decoders import MaskTransformer
from attnseg_jax.models.records import RECORDS, attention_records
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.originals import SEGMENTER_MASK

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
X = np.random.default_rng(0).standard_normal((2, 3, 5, 9)).astype(np.float32)
erf = np.vectorize(math.erf)
FEATURES = Features({4: jnp.asarray(X)})
SMALL = dict(num_classes=7, channels=12, layers=2, heads=3, mlp_ratio=1.5)


def with_records(model):
    """(variables, inputs) -> output and records."""

    @FAST_COMPILE
    def run(*args):
        out, state = model.apply(*args, mutable=[RECORDS])
        return out, attention_records(state[RECORDS])

    return run


def params(state):
    return {"params": from_torch(state, SEGMENTER_MASK)["params"]}


def test_masks_of_the_original():
    case = Golden("head_segmenter_mask_decoder")
    x = Features({16: nhwc(case.inputs()["x"])})
    model = MaskTransformer(7, channels=96, layers=2, heads=4, mlp_ratio=2.0)
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), params(case.state_dict()))
    out, records = with_records(model)(variables, x)
    assert_golden(case, "masks", nchw(out.logits))
    assert [records[f"mask_transformer{i}"].weights.shape for i in range(len(records))] == [(2, 4, 7, 35)] * 2


def norm(x, p, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def dense(x, leaf):
    return x @ leaf["kernel"] + leaf["bias"]


def tokens_by_hand(p, own):
    """Normalised tokens `[b, n, c]` after the layers, those of `own` last, and what these give to patches."""
    tokens, given = [], np.zeros((2, 2, 3, len(own), 15))
    for b in range(2):
        x = np.concatenate([dense(X[b].reshape(15, 9).astype(np.float64), p["proj_dec"]), own])
        for i in range(2):
            layer = p[f"layer{i}"]
            y = norm(x, layer["norm1"])
            q, k, v = (dense(y, layer[name]) for name in ("query", "key", "value"))
            mixed = []
            for a in range(3):
                one = slice(4 * a, 4 * a + 4)
                powers = np.exp(q[:, one] @ k[:, one].T / 2)
                mixed.append(powers / powers.sum(-1, keepdims=True) @ v[:, one])
                given[i, b, a] = powers[15:, :15] / powers[15:, :15].sum(-1, keepdims=True)
            x = x + dense(np.concatenate(mixed, -1), layer["out"])
            y = dense(norm(x, layer["norm2"]), layer["mlp_in"])
            x = x + dense(y * (1 + erf(y / np.sqrt(2))) / 2, layer["mlp_out"])
        tokens.append(norm(x, p["decoder_norm"]))
    return np.stack(tokens), given


def test_against_numpy(random_variables):
    model = MaskTransformer(**SMALL)
    variables = random_variables(model, FEATURES)
    p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])
    tokens, class_weights = tokens_by_hand(p, p["class_tokens"][0])
    expected = np.zeros((2, 15, 7))
    for b, n, k in np.ndindex(2, 15, 7):
        patch, of_class = tokens[b, n] @ p["proj_patch"], tokens[b, 15 + k] @ p["proj_classes"]
        expected[b, n, k] = patch @ of_class / np.linalg.norm(patch) / np.linalg.norm(of_class)
    expected = norm(expected, p["mask_norm"]).reshape(2, 3, 5, 7)
    out, records = with_records(model)(variables, FEATURES)
    np.testing.assert_allclose(out.logits, expected, atol=2e-5)
    assert sorted(records) == ["mask_transformer0", "mask_transformer1"]
    for record, weights in zip(map(records.get, sorted(records)), class_weights, strict=True):
        np.testing.assert_allclose(record.weights, weights, atol=1e-6)
        assert record.query_size is None and record.key_size == (3, 5)


def test_queries_against_numpy(random_variables):
    """Each of five tokens has a class and a mask; so it had before the second layer."""
    model = MaskTransformer(**SMALL, queries=5)
    variables = random_variables(model, FEATURES)
    p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])
    tokens, given = tokens_by_hand(p, p["query_tokens"][0])
    masks = np.einsum("bqc,bnc->bqn", tokens[:, 15:] @ p["proj_queries"], tokens[:, :15] @ p["proj_patch"])
    out, records = with_records(model)(variables, FEATURES)
    np.testing.assert_allclose(out.queries.masks, masks.reshape(2, 5, 3, 5) / np.sqrt(12), atol=2e-5)
    np.testing.assert_allclose(out.queries.classes, dense(tokens[:, 15:], p["classes"]), atol=2e-5)
    np.testing.assert_allclose(records["mask_transformer1"].weights, given[1], atol=1e-6)
    (name, earlier), *others = out.aux_queries.items()
    assert name == "mask_transformer0" and not others and out.logits is None
    shorter = MaskTransformer(**{**SMALL, "layers": 1}, queries=5)
    kept = {"params": {name: leaf for name, leaf in variables["params"].items() if name != "layer1"}}
    alone = with_records(shorter)(kept, FEATURES)[0].queries
    np.testing.assert_allclose(earlier.masks, alone.masks, atol=2e-5)


def test_gradients(random_variables):
    model = MaskTransformer(**{**SMALL, "layers": 1})
    variables = random_variables(model, FEATURES)
    function = jax.jit(lambda x: model.apply(variables, Features({4: x})).logits)
    check_grads(function, (X,), order=1, modes=["rev"], eps=1e-2, atol=1e-2, rtol=1e-2)


@pytest.mark.thorough
def test_of_a_whole_model(random_variables):
    """Another size than it was initialised at, in bfloat16; dropout in training only."""
    options = {"layers": 1, "heads": 3, "dropout": 0.5}
    config = {"backbone": {"tiny": {"width": 12}}, "attention": {"name": "none"}}
    config["decoder"] = {"name": "mask_transformer", "mask_transformer": options}
    model = build_model(config, 7, dtype=jnp.bfloat16)
    image = np.random.default_rng(1).standard_normal((2, 13, 17, 3)).astype(np.float32)
    variables = random_variables(model, image)
    out, records = with_records(model)(variables, image[:, :9])
    assert out.logits.shape == (2, 9, 17, 7) and out.logits.dtype == jnp.float32
    record = records["mask_transformer0"]
    assert record.weights.shape == (2, 3, 7, 15) and record.key_size == (3, 5)
    np.testing.assert_allclose(record.weights.sum(-1), np.ones((2, 3, 7)), rtol=1e-6)

    decoder = model.decoder
    inner = {"params": variables["params"]["decoder"]}
    features = Features({4: jnp.asarray(X[..., :1] * np.ones(12, np.float32))})

    @functools.partial(FAST_COMPILE, static_argnames="train")
    def run(seed, train=True):
        return decoder.apply(inner, features, train=train, rngs={"dropout": jax.random.key(seed)}).logits

    assert abs(run(0) - run(1)).max() > 1e-2
    np.testing.assert_array_equal(run(0, train=False), run(1, train=False))


@pytest.mark.thorough
def test_tokens_of_zeros_have_finite_gradients():
    model = MaskTransformer(**SMALL)
    variables = FAST_COMPILE(model.init)(jax.random.key(0), FEATURES)
    variables["params"]["class_tokens"] = jnp.zeros((1, 7, 12))
    zeros = Features({4: jnp.zeros_like(X)})
    loss = FAST_COMPILE(jax.grad(lambda p: (model.apply({"params": p}, zeros).logits ** 2).sum()))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(loss(variables["params"])))


@pytest.mark.parametrize("heads, reason", [(0, " must be at least 1"), (5, " does not divide 64 channels: choose")])
def test_heads_that_do_not_divide(heads, reason):
    message = rf"config\.model\.decoder\.mask_transformer\.heads={heads}{reason}"
    with pytest.raises(UserError, match=message):
        model = build_model({"decoder": {"name": "mask_transformer", "mask_transformer": {"heads": heads}}}, 7)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12, 3)))
