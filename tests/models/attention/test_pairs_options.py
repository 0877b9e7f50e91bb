"""Options, limits and errors of non-local, DANet, efficient, OCR and interlaced attention."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sown import FAST_COMPILE, with_records

from attnseg_jax import build_model
from attnseg_jax.errors import OptionError
from attnseg_jax.models import Features
from attnseg_jax.models.attention import OCR, DANet, EfficientAttention, Interlaced, NonLocal, Stack
from attnseg_jax.models.layers.conv import ConvBN
from attnseg_jax.models.records import DotProductMap
from attnseg_jax.ops import attention as attention_ops
from attnseg_jax.ops.attention import interlaced

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.standard_normal((2, 13, 17, 12)), jnp.float32)
FEATURES = Features({2: jnp.ones((2, 26, 34, 3)), 4: X})
NAMES = ("nonlocal", "danet", "efficient", "ocr", "interlaced")


def mechanism(name, dtype=jnp.float32, **options):
    return build_model({"attention": {"name": name, name: options}}, 7, dtype=dtype).attention


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("nonlocal", {}, r"sub_sample=True needs a map of at least 2x2 positions, not 1x5: set it to False, or"),
        ("efficient", {"heads": 5, "reduction": 1}, "heads=5 does not divide 64 channels: choose a divisor(?!,)"),
        ("efficient", {"dropout": 0.1, "impl": "chunked", "reduction": 1}, "impl='chunked' cannot drop weights"),
        ("efficient", {"reduction": 2}, r"reduction=2 does not fit a map of 1x5 positions: choose 1 to 1, or give"),
        ("ocr", {"scale": 2}, r"scale=2 does not fit a map of 1x5 positions: choose 1 to 1, or give larger"),
        (
            "ocr",
            {"aux_stride": 8},
            r"aux_stride=8 asks for a map of stride 8; the backbone has 2, 4: choose one of them, or 0",
        ),
        (
            "ocr",
            {"regions": "fcn"},
            r"regions='fcn' is no auxiliary prediction of an earlier mechanism \(there: none\): ",
        ),
        ("interlaced", {"factors": (2, 4)}, r"factors=\(2, 4\) does not fit a map of 1x5 positions: choose two"),
    ],
)
def test_errors(name, options, message):
    """All of them before anything is compiled."""
    model = build_model({"attention": {"name": name, name: options}}, 7)
    with pytest.raises(OptionError, match=rf"^config\.model\.attention\.{name}\.{message}") as error:
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, 4, 20, 3)))
    assert "\n" not in str(error.value)


def equations(jaxpr):
    """All equations of a jaxpr, at any depth."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from equations(getattr(value, "jaxpr", value))


@pytest.mark.parametrize("name", ["interlaced", "nonlocal"])
def test_no_array_of_all_pairs_exists(name):
    model = mechanism(name, **({"form": "dot_product"} if name == "nonlocal" else {}))
    features = Features({4: jnp.zeros((1, 64, 96, 12))})
    variables = jax.eval_shape(model.init, jax.random.key(0), features)
    jaxpr = jax.make_jaxpr(lambda *args: model.apply(*args).deepest)(variables, features).jaxpr
    sizes = [v.aval.size for e in equations(jaxpr) for v in e.outvars]
    assert max(sizes) <= 64 * 96 * 12 * 8  # of interlaced: 96 keys of a position


@pytest.mark.parametrize("name", NAMES)
def test_impl_reaches_the_softmax(name, monkeypatch):
    seen = []
    original = attention_ops.dot_product_attention

    def recorded(*args, impl, **keywords):
        seen.append(impl)
        return original(*args, **keywords)

    monkeypatch.setattr(attention_ops, "dot_product_attention", recorded)
    options = {"heads": 3} if name == "efficient" else {}
    jax.eval_shape(mechanism(name, impl="dense", **options).init, jax.random.key(0), FEATURES)
    assert set(seen) == {"dense"} and len(seen) == (2 if name == "interlaced" else 1)


@pytest.mark.parametrize("norm", [True, False])
def test_a_new_non_local_block_is_the_identity_and_learns(norm):
    model = NonLocal(norm=norm)
    variables = FAST_COMPILE(model.init)(jax.random.key(0), FEATURES)

    def value(params):
        y = model.apply({**variables, "params": params}, FEATURES).deepest
        return (y**2).sum(), y

    gradient, y = FAST_COMPILE(jax.grad(value, has_aux=True))(variables["params"])
    np.testing.assert_array_equal(y, X)
    assert abs(gradient["norm"]["scale"] if norm else gradient["out"]["kernel"]).max() > 1e-3


def test_new_gates_of_danet_are_closed_and_learn():
    model = DANet(num_classes=7, channels=10)
    variables = FAST_COMPILE(model.init)(jax.random.key(0), FEATURES)

    def value(params):
        out = model.apply({**variables, "params": params}, FEATURES)
        return (out.deepest**2).sum()

    gradient = FAST_COMPILE(jax.grad(value))(variables["params"])
    for branch in ("position", "channel"):
        assert variables["params"][f"{branch}_gamma"] == 0
        assert abs(gradient[f"{branch}_gamma"]).min() > 1e-3
    assert not gradient["query"]["kernel"].any()


def gradient_of_a_position(function, x, y, x_at):
    """Which positions of the map the result at one position of the first image depends on."""
    gradient = FAST_COMPILE(jax.grad(lambda x: (function(x)[0, y, x_at] ** 2).sum()))(x)
    assert not gradient[1:].any()
    return np.asarray(gradient[0] != 0).any(-1)


@pytest.mark.parametrize(
    "model", [EfficientAttention(heads=3, reduction=5, impl="dense"), NonLocal(), NonLocal(form="dot_product")]
)
def test_what_does_not_fill_a_kernel_is_no_key(model, random_variables):
    """13x17 positions: the last 3 rows and 2 columns of kernels of 5, the last one of each of kernels of 2."""
    function = functools.partial(model.apply, random_variables(model, X, method="attend"), method="attend")
    seen = gradient_of_a_position(function, X, 1, 2)
    step = 5 if isinstance(model, EfficientAttention) else 2
    expected = np.zeros((13, 17), bool)
    expected[: 13 // step * step, : 17 // step * step] = True
    assert not seen[~expected].any()
    assert seen.all(where=expected) or step == 2  # a maximum hides three of four
    seen = gradient_of_a_position(function, X, 12, 16)
    assert seen[12, 16] and not seen[12, :16].any()


@pytest.mark.parametrize("reach", interlaced.REACHES)
def test_a_stage_sees_exactly_its_group(reach, random_variables):
    factors = (3, 5)
    model = Interlaced(channels=11)
    x = X[:, :12, :15]
    groups = interlaced.split(x, factors, reach)
    options = {"key_channels": 8, "channels": 10, "method": "group"}
    variables = random_variables(model, groups, **options)

    def stage(x):
        y, _ = model.apply(variables, interlaced.split(x, factors, reach), **options)
        return interlaced.join(y, (12, 15), factors, reach)

    seen = gradient_of_a_position(stage, x, 7, 3)
    rows, columns = np.ogrid[:12, :15]
    if reach == "far":
        expected = (rows % 3 == 7 % 3) & (columns % 5 == 3 % 5)
    else:
        expected = (rows // 3 == 7 // 3) & (columns // 5 == 3 // 5)
    np.testing.assert_array_equal(seen, expected)


def test_both_stages_reach_everything(random_variables):
    model = Interlaced(channels=11, key_channels=8, factors=(4, 6))
    options = {"method": "stages", "channels": 10}
    variables = random_variables(model, X, **options)
    assert gradient_of_a_position(lambda x: model.apply(variables, x, **options), X, 12, 3).all()


def test_regions_of_an_earlier_mechanism(random_variables):
    first, second = DANet(num_classes=7, channels=10), OCR(num_classes=7, regions="danet_position", channels=9)
    model = Stack(parts=(first, second))
    variables = random_variables(model, FEATURES)
    out, records = with_records(model)(variables, FEATURES)
    assert sorted(out.aux) == ["danet_channel", "danet_position"]
    logits = np.asarray(out.aux["danet_position"], np.float64).reshape(2, 13 * 17, 7)
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    found = records["ocr_regions0"]
    np.testing.assert_allclose(found.weights[:, 0], expected.swapaxes(1, 2), atol=1e-6)
    assert found.query_size is None and found.key_size == (13, 17)
    assert records["ocr_pixels0"].query_size == (13, 17) and records["ocr_pixels0"].key_size is None
    assert "aux_classifier" not in variables["params"]["parts_1"]


@pytest.mark.parametrize("form", ["embedded_gaussian", "dot_product"])
def test_non_local_weights_are_computed_when_asked_for(form, random_variables):
    model = NonLocal(form=form, channels=9)
    _, records = with_records(model, method="attend")(random_variables(model, X, method="attend"), X)
    record = records["nonlocal0"]
    assert isinstance(record, DotProductMap)
    assert (record.query_size, record.key_size) == ((13, 17), (6, 8))
    weights = record.weights
    assert weights.shape == (2, 1, 221, 48)
    if form == "dot_product":
        assert weights.min() < 0
        expected = np.einsum("bnad,bmad->banm", *(np.asarray(t, np.float64) for t in (record.q, record.k))) / 48
        np.testing.assert_allclose(weights, expected, atol=1e-6)
    else:
        np.testing.assert_allclose(weights.sum(-1), np.ones((2, 1, 221)), rtol=1e-6)


@pytest.mark.parametrize(
    "model", [OCR(key_channels=8, dropout=0.5), Interlaced(channels=11, key_channels=8, factors=(4, 4), dropout=0.5)]
)
def test_dropout_takes_whole_channels_in_training_only(model, random_variables):
    inputs = (X, jnp.ones((2, 6, 12)))[: 1 + isinstance(model, OCR)]
    options = {"method": "context", "channels": 10}
    variables = random_variables(model, *inputs, **options)

    @FAST_COMPILE
    def run(variables, inputs):
        def apply(rate, train):
            one = dataclasses.replace(model, dropout=rate)
            rngs = {"dropout": jax.random.key(0)}
            return one.apply(variables, *inputs, train=train, rngs=rngs, mutable=["batch_stats"], **options)[0]

        return [apply(rate, train) for train in (False, True) for rate in (0.0, 0.5)]

    evaluated, unchanged, whole, dropped = (np.asarray(y) for y in run(variables, inputs))
    np.testing.assert_array_equal(unchanged, evaluated)
    zero = ~dropped.any((1, 2))
    assert 0 < zero.sum() < zero.size
    factor = np.where(zero, 0.0, 2.0)[:, None, None]
    np.testing.assert_allclose(dropped, whole * factor, rtol=1e-5, atol=1e-6)


def test_widths_follow_the_map():
    """At 64 channels as at 2048: nothing becomes 0, nothing grows beyond the original's 512."""
    for c, expected in ((2, 2), (64, 64), (2048, 512)):
        features = Features({8: jax.ShapeDtypeStruct((1, 12, 14, c), jnp.float32)})
        for name in NAMES:
            out, _ = jax.eval_shape(mechanism(name).init_with_output, jax.random.key(0), features)
            assert out.deepest.shape[-1] == (c if name in ("nonlocal", "efficient") else expected)


def test_several_factors_side_by_side(random_variables):
    """Each stage is that of its own factors; a 1x1 convolution stands for the position itself."""
    options = {"channels": 10, "key_channels": 8, "dropout": 0.0}
    model = Interlaced(factors=(4, 5), further=(2, 3), **options)
    variables = random_variables(model, FEATURES)

    def part(module, name, *args, **how):
        own = {collection: tree[name] for collection, tree in variables.items() if name in tree}
        return module.apply(own, *args, train=False, **how)

    @FAST_COMPILE
    def both(x):
        lead = part(ConvBN(10, use_bias=True), "lead_in", x)
        parts = [part(ConvBN(20, 1), "up", lead)]
        for i, factors in enumerate([(4, 5), (2, 3)]):
            parts.append(part(Interlaced(factors=factors, **options), f"stage{i}", lead, 10, method="stages"))
        return model.apply(variables, FEATURES.with_deepest(x)).deepest, part(
            ConvBN(10, 1), "out", jnp.concatenate(parts, -1)
        )

    found, expected = both(X)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(OptionError, match=r"further=\(2,\) must be pairs"):
        jax.eval_shape(Interlaced(further=(2,)).init, jax.random.key(0), FEATURES)
