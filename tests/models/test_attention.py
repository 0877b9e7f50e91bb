"""Self-attention, its options, and the joints every mechanism has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from sown import FAST_COMPILE, with_records

from attnseg_jax import build_model
from attnseg_jax.errors import OptionError
from attnseg_jax.models import Features, Segmenter
from attnseg_jax.models.attention import Attention, NoAttention, SelfAttention, Stack
from attnseg_jax.models.layers.attention import sincos_positions
from attnseg_jax.ops.resize import resize

RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((2, 5, 7, 12)).astype(np.float32)
FEATURES = Features({2: jnp.ones((2, 10, 14, 3)), 4: jnp.asarray(MAP)})
FULL = dict(heads=3, layers=2, mlp_ratio=1.5)


def attend(model, variables, x):
    return np.asarray(FAST_COMPILE(model.apply)(variables, Features({4: jnp.asarray(x)})).deepest)


@pytest.mark.parametrize("positions, commutes", [("none", True), ("sincos", False), ("learned", False)])
def test_permuting_tokens(random_variables, positions, commutes):
    model = SelfAttention(**FULL, positions=positions, position_size=(3, 4))
    variables = random_variables(model, FEATURES)
    order = RNG.permutation(35)

    def permuted(x):
        return x.reshape(2, 35, 12)[:, order].reshape(x.shape)

    difference = abs(attend(model, variables, permuted(MAP)) - permuted(attend(model, variables, MAP))).max()
    assert difference < 1e-5 if commutes else difference > 1e-3


def test_against_numpy(random_variables):
    """One layer without projections of another width, written out in float64."""
    model = SelfAttention(heads=3, head_dim=5, positions="sincos")
    variables = random_variables(model, FEATURES)
    p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])
    x = MAP.astype(np.float64).reshape(2, 35, 12)
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    y = y * p["norm0"]["scale"] + p["norm0"]["bias"]
    at = y + sincos_positions(5, 7, 12).reshape(35, 12)

    def heads(x, name):
        leaf = p["attention0"][name]
        return (x @ leaf["kernel"] + leaf["bias"]).reshape(2, 35, 3, 5)

    scores = np.einsum("bnad,bmad->banm", heads(at, "query"), heads(at, "key")) / np.sqrt(5)
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("banm,bmad->bnad", weights, heads(y, "value")).reshape(2, 35, 15)
    expected = x + mixed @ p["attention0"]["out"]["kernel"] + p["attention0"]["out"]["bias"]
    out, records = with_records(model)(variables, FEATURES)
    np.testing.assert_allclose(out.deepest, expected.reshape(MAP.shape), atol=1e-5)
    np.testing.assert_allclose(records["self0"].weights, weights, atol=1e-6)
    np.testing.assert_array_equal(out.maps[2], FEATURES.maps[2])


def test_sincos_positions():
    table = sincos_positions(3, 5, 10)
    y, x, frequency = 2, 3, 1 / 100  # the second of two frequencies: 10000 ** -(1 / 2)
    one = [np.sin(y), np.sin(y * frequency), np.cos(y), np.cos(y * frequency)]
    two = [np.sin(x), np.sin(x * frequency), np.cos(x), np.cos(x * frequency)]
    np.testing.assert_allclose(table[y, x], [*one, *two, 0, 0], atol=1e-6)
    assert len(np.unique(table.reshape(15, 10), axis=0)) == 15


def test_learned_positions_are_resampled(random_variables):
    model = SelfAttention(heads=3, positions="learned", position_size=(3, 4))
    variables = random_variables(model, FEATURES)
    params = variables["params"]["attention0"]
    table = jnp.asarray(params["positions"])
    assert table.shape == (1, 3, 4, 12)
    layer = {**params, "positions": jax.jit(lambda table: resize(table, (5, 7), "bicubic"))(table)}
    resampled = {"params": {**variables["params"], "attention0": layer}}
    of_this_size = SelfAttention(heads=3, positions="learned", position_size=(5, 7))
    np.testing.assert_array_equal(attend(model, variables, MAP), attend(of_this_size, resampled, MAP))


def test_heads_that_do_not_divide():
    model = build_model({"attention": {"name": "self", "self": {"heads": 5}}}, 7)
    message = "heads=5 does not divide {} channels: choose a divisor, or set head_dim"
    with pytest.raises(OptionError, match=rf"^config\.model\.attention\.self\.{message.format(64)}"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12, 3)))
    with pytest.raises(OptionError, match=rf"^{message.format(12)}"):
        jax.eval_shape(SelfAttention(heads=5).init, jax.random.key(0), FEATURES)
    with pytest.raises(OptionError, match=r"^heads=0 must be at least 1"):
        jax.eval_shape(SelfAttention(heads=0, head_dim=4).init, jax.random.key(0), FEATURES)
    wide = jax.eval_shape(SelfAttention(heads=5, head_dim=4).init, jax.random.key(0), FEATURES)["params"]["attention0"]
    assert wide["query"]["kernel"].shape == (12, 20) and wide["out"]["kernel"].shape == (20, 12)


def test_dropped_weights_need_the_dense_form():
    with pytest.raises(OptionError, match=r"^impl='chunked' cannot drop weights \(dropout=0\.1\): set dropout=0"):
        SelfAttention(dropout=0.1, impl="chunked").init(jax.random.key(0), FEATURES)


def test_options_change_what_they_name():
    shapes = jax.eval_shape(SelfAttention(**FULL, channels=9, norm=False).init, jax.random.key(0), FEATURES)["params"]
    assert sorted(shapes) == [
        "attention0",
        "attention1",
        *(f"mlp_{n}{i}" for n in ("in", "norm", "out") for i in "01"),
        "project",
    ]
    model = SelfAttention(heads=3, layers=2, positions="learned", position_size=(3, 4))
    layers = jax.eval_shape(model.init, jax.random.key(0), FEATURES)["params"]
    assert [layers[f"attention{i}"]["positions"].shape for i in range(2)] == [(1, 3, 4, 12)] * 2
    assert shapes["project"]["kernel"].shape == (12, 9) and shapes["mlp_in1"]["kernel"].shape == (9, 13)


def test_the_weights_of_every_layer_sum_to_one(random_variables):
    model = build_model({"backbone": {"tiny": {"width": 12}}, "attention": {"name": "self+self", "self": FULL}}, 7)
    image = jnp.asarray(RNG.standard_normal((2, 13, 17, 3)), jnp.float32)
    _, weights = with_records(model)(random_variables(model, image), image)
    assert list(weights) == ["self0", "self1", "self2", "self3"]
    for record in weights.values():
        value = record.weights
        assert value.shape == (2, 3, 20, 20) and value.min() >= 0
        np.testing.assert_allclose(value.sum(-1), np.ones((2, 3, 20)), rtol=1e-6)
    assert abs(weights["self0"].weights - weights["self2"].weights).max() > 1e-3


def test_dropout_of_weights_acts_in_training_only(random_variables):
    model = SelfAttention(heads=3, dropout=0.5)
    variables = random_variables(model, FEATURES)

    def run(seed):
        found = model.apply(variables, FEATURES, train=True, rngs={"dropout": jax.random.key(seed)})
        return np.asarray(found.deepest)

    assert abs(run(0) - run(1)).max() > 1e-3
    np.testing.assert_array_equal(run(0), run(0))
    evaluated, without = model.apply(variables, FEATURES), SelfAttention(heads=3).apply(variables, FEATURES, train=True)
    np.testing.assert_array_equal(evaluated.deepest, without.deepest)


class Affine(Attention):
    """Adds auxiliary logits and refines the decoder's to `factor * logits + term`."""

    factor: float = 1.0
    term: float = 0.0

    def __call__(self, features, *, train=False):
        return features.replace(aux={**features.aux, "affine": features.deepest[..., :7]})

    def refine(self, logits, features):
        assert "affine" in features.aux  # the features after attention
        return self.factor * logits + self.term


class Closed(NoAttention):
    """Gates every skip to zero, unless a switch is off."""

    has_gate: bool = True

    def gate(self, skip, signal, *, stride, train=False):
        assert skip.shape[1] >= signal.shape[1] and stride in (2, 4)
        return jnp.zeros_like(skip)


class Learned(Attention):
    """A mechanism with parameters in its call and in its gate."""

    has_gate = True

    @nn.compact
    def __call__(self, features, *, train=False):
        return features.with_deepest(nn.Dense(12, name="mix")(features.deepest))

    @nn.compact
    def gate(self, skip, signal, *, stride, train=False):
        return nn.Dense(skip.shape[-1], name=f"gate{stride}")(skip)


IMAGE = RNG.standard_normal((2, 13, 17, 3)).astype(np.float32)


def segmenter(attention, skips=()):
    parts = build_model({"backbone": {"tiny": {"width": 12}}, "decoder": {"fcn": {"skips": skips}}}, 7)
    return Segmenter(parts.backbone, attention, parts.decoder)


@pytest.mark.thorough
def test_refine_acts_on_the_logits_and_in_order(random_variables):
    plain = segmenter(NoAttention())
    variables = random_variables(plain, IMAGE)
    logits = plain.apply(variables, IMAGE).logits

    def refined(attention):
        return segmenter(attention).apply(variables, IMAGE).logits

    plus, times = Affine(term=1.0), Affine(factor=2.0)
    np.testing.assert_allclose(refined(plus), logits + 1, atol=1e-5)
    np.testing.assert_allclose(refined(Stack(parts=(plus, times))), 2 * (logits + 1), atol=1e-5)
    np.testing.assert_allclose(refined(Stack(parts=(times, plus))), 2 * logits + 1, atol=1e-5)


@pytest.mark.parametrize("attention", [Closed(), Stack(parts=(NoAttention(), Closed()))])
def test_gate_acts_on_the_skips(random_variables, attention):
    plain = segmenter(NoAttention(), skips=(2,))
    variables = random_variables(plain, IMAGE)
    without = jax.tree.map(lambda a: a, variables)
    without["params"]["decoder"]["skip2"]["kernel"] = np.zeros((1, 1, 6, 7), np.float32)
    logits = plain.apply(variables, IMAGE).logits
    expected = plain.apply(without, IMAGE).logits
    assert abs(logits - expected).max() > 0.01
    np.testing.assert_allclose(segmenter(attention, (2,)).apply(variables, IMAGE).logits, expected, atol=1e-6)


@pytest.mark.parametrize("attention", [Closed(has_gate=False), Stack(parts=(Closed(has_gate=False),))])
def test_a_gate_that_is_off_is_not_called(random_variables, attention):
    model = segmenter(attention, skips=(2,))
    variables = random_variables(model, IMAGE)
    plain = segmenter(NoAttention(), skips=(2,))
    if isinstance(attention, Stack):
        assert not attention.has_gate
    np.testing.assert_array_equal(model.apply(variables, IMAGE).logits, plain.apply(variables, IMAGE).logits)


def test_call_and_gate_may_both_have_parameters():
    model = segmenter(Stack(parts=(Learned(), Learned())), skips=(4, 2))
    shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGE)["params"]["attention"]
    assert sorted(shapes) == ["parts_0", "parts_1"]
    for part in shapes.values():
        assert {name: leaf["kernel"].shape for name, leaf in part.items()} == {
            "mix": (12, 12),
            "gate4": (12, 12),
            "gate2": (6, 6),
        }
