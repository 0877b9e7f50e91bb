"""Point-wise spatial attention: the original, float64 loops, other sizes than the initial one, errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden, nchw, nhwc
from sown import FAST_COMPILE, with_records

from attnseg_jax import build_model
from attnseg_jax.errors import OptionError
from attnseg_jax.models import Features
from attnseg_jax.models.attention import PSA
from attnseg_jax.ops.resize import resize
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.originals import PSA as PSA_RULES

RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((2, 7, 8, 6)).astype(np.float32)  # shrinks to 4 x 4, or 3 x 3 by 3
LARGER = RNG.standard_normal((3, 9, 13, 6)).astype(np.float32)  # 5 x 7


def features(x):
    return Features({4: jnp.asarray(x)})


@pytest.mark.parametrize("kind, form", [(0, "compact"), (1, "compact"), (2, "compact"), (2, "over")])
def test_golden(kind, form):
    case = Golden(f"attn_psa{kind}_{form}_13x17")
    mask = (7, 9) if form == "compact" else (13, 17)
    state = case.state_dict()
    for name in [name for name in state if name.endswith(".3.weight")]:
        state[name] = state[name].reshape(*mask, 32)
    model = PSA(kind=("collect", "distribute", "both")[kind], compact=form == "compact", channels=32)
    x = nhwc(case.inputs()["x"])
    target = jax.eval_shape(functools.partial(model.init, method="attend"), jax.random.key(0), x)
    y = FAST_COMPILE(functools.partial(model.apply, method="attend"))(match(target, from_torch(state, PSA_RULES)), x)
    assert_golden(case, "y", nchw(y))


def aligned(image, height, width):
    """Resized so that corners stay corners, pixel by pixel."""
    h, w = image.shape[:2]
    out = np.zeros((height, width, image.shape[2]))
    for i, j in np.ndindex(height, width):
        y, x = (a * (n - 1) / (m - 1) if m > 1 else 0 for a, n, m in ((i, h, height), (j, w, width)))
        for row, column in np.ndindex(h, w):
            out[i, j] += max(0, 1 - abs(row - y)) * max(0, 1 - abs(column - x)) * image[row, column]
    return out


def conv_bn_relu(x, p, statistics):
    x = (x @ p["conv"]["kernel"][0, 0] - statistics["bn"]["mean"]) / np.sqrt(statistics["bn"]["var"] + 1e-5)
    return np.maximum(x * p["bn"]["scale"] + p["bn"]["bias"], 0)


def attended(image, p, statistics, distributes, model):
    """What one branch makes of an image, and its weights, target by target and source by source."""
    compact = model.compact
    h, w = ((n - 1) // model.shrink + 1 for n in image.shape[:2])
    x = aligned(conv_bn_relu(image, p["reduce"], statistics["reduce"]), h, w)
    y = conv_bn_relu(x, p["attention"], statistics["attention"])
    mask = np.einsum("hwc,ijc->hwij", y, p["planes"])
    if compact:
        mask = np.stack([aligned(m[..., None], h, w)[..., 0] for m in mask.reshape(-1, *mask.shape[2:])])
        mask = mask.reshape(h, w, h, w)
    out, weights = np.zeros((h, w, x.shape[-1])), np.zeros((h, w, h, w))
    for target in np.ndindex(h, w):
        scores = np.zeros((h, w))
        for source in np.ndindex(h, w):
            here, there = (source, target) if distributes else (target, source)
            if compact:
                scores[source] = mask[(*here, *there)]
                continue
            p_, q_ = (b - a + n // 2 for a, b, n in zip(here, there, mask.shape[2:]))
            if 0 <= p_ < mask.shape[2] and 0 <= q_ < mask.shape[3]:
                scores[source] = mask[(*here, p_, q_)]
        weights[target] = np.exp(scores) / np.exp(scores).sum() if model.softmax else scores
        out[target] = np.einsum("hw,hwc->c", weights[target], x)
    return out / (model.factor or p["planes"][..., 0].size), weights.reshape(h * w, h * w)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "x, options",
    [
        (LARGER, dict(kind="collect", mask_size=(3, 9), channels=5)),
        (LARGER, dict(kind="both", channels=4)),
        (MAP, dict(kind="both", channels=4, softmax=False, factor=0.0)),
        (MAP, dict(kind="both", compact=True, channels=4, softmax=False, factor=3.0)),
        (LARGER, dict(kind="both", compact=True, mask_size=(3, 4), channels=5)),
        (MAP, dict(kind="distribute", mask_size=(9, 3), channels=7, shrink=1)),
        (MAP, dict(kind="distribute", compact=True, channels=5, shrink=3)),
    ],
)
def test_against_loops(random_variables, x, options):
    model = PSA(**options)
    variables = random_variables(model, features(x))
    v = jax.tree.map(lambda a: a.astype(np.float64), variables)
    p, statistics = v["params"], v["batch_stats"]
    out, records = with_records(model)(variables, features(x))
    names = {"both": ["collect", "distribute"]}.get(model.kind, [model.kind])
    assert list(records) == [f"psa_{name}0" for name in names]
    for b in range(len(x)):
        parts = []
        for i, name in enumerate(names):
            branch = p[f"branch{i}"], statistics[f"branch{i}"]
            part, weights = attended(x[b], *branch, name == "distribute", model)
            parts.append(part)
            record = records[f"psa_{name}0"]
            assert record.query_size == record.key_size == part.shape[:2]
            np.testing.assert_allclose(record.weights[b, 0], weights, atol=1e-6)
        y = conv_bn_relu(np.concatenate(parts, -1), p["proj"], statistics["proj"])
        np.testing.assert_allclose(out.deepest[b], np.concatenate([x[b], aligned(y, *x.shape[1:3])], -1), atol=1e-5)


@pytest.mark.parametrize("compact", [False, True])
def test_parameters_keep_the_mask_of_the_initial_size(random_variables, compact):
    model = PSA(compact=compact, channels=5)
    variables = random_variables(model, features(MAP))
    assert variables["params"]["branch0"]["planes"].shape == ((4, 4, 5) if compact else (7, 7, 5))
    out, records = with_records(model)(variables, features(LARGER))
    assert out.deepest.shape == (3, 9, 13, 12)
    for record in records.values():
        np.testing.assert_allclose(record.weights.sum(-1), np.ones((3, 1, 35)), rtol=1e-5)
    fixed = PSA(compact=compact, channels=5, mask_size=(4, 4) if compact else (7, 7))
    np.testing.assert_array_equal(FAST_COMPILE(fixed.apply)(variables, features(LARGER)).deepest, out.deepest)
    if not compact:
        return

    def of_the_larger_map(path, leaf):
        return resize(jnp.asarray(leaf)[None], (5, 7), align_corners=True)[0] if path[-1].key == "planes" else leaf

    resampled = jax.tree_util.tree_map_with_path(of_the_larger_map, variables)
    np.testing.assert_allclose(FAST_COMPILE(model.apply)(resampled, features(LARGER)).deepest, out.deepest, atol=1e-6)


@pytest.mark.parametrize("compact", [False, True])
def test_gradients(random_variables, compact):
    model = PSA(compact=compact, channels=4, mask_size=(3, 5))
    variables = random_variables(model, features(MAP))

    def far_from_the_corner_of_relu(path, leaf):
        bias = path[-2].key == "bn" and path[-1].key == "bias"
        return np.where(np.arange(len(leaf)) % 2, -6, 6).astype(np.float32) if bias else leaf

    params = jax.tree_util.tree_map_with_path(far_from_the_corner_of_relu, variables["params"])

    def f(params, x):
        return model.apply({**variables, "params": params}, features(x)).deepest

    check_grads(jax.jit(f), (params, MAP), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("compact", [False, True])
def test_softmax_stays_float32_under_bfloat16(random_variables, compact):
    model = functools.partial(PSA, compact=compact, channels=5)
    variables = random_variables(model(), features(MAP))
    _, exact = with_records(model())(variables, features(MAP))
    rounded, records = with_records(model(dtype=jnp.bfloat16))(variables, features(MAP.astype(jnp.bfloat16)))
    assert rounded.deepest.dtype == jnp.bfloat16
    for name, record in records.items():
        assert record.weights.dtype == jnp.float32
        np.testing.assert_allclose(record.weights.sum(-1), np.ones((2, 1, 16)), rtol=1e-5)
        assert 0 < abs(record.weights - exact[name].weights).max() < 0.02


@pytest.mark.parametrize(
    "options, message",
    [
        ({"shrink": 5}, r"psa\.shrink=5 does not fit a map of 4x5 positions: choose 1 to 4, or"),
        ({"mask_size": (5, 4)}, r"psa\.mask_size=\(5, 4\) must be two odd numbers, or \(\), unless compact"),
    ],
)
def test_errors(options, message):
    model = build_model({"attention": {"name": "psa", "psa": options}}, 7)
    with pytest.raises(OptionError, match=rf"^config\.model\.attention\.{message}"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 13, 17, 3)))


def test_compact_masks_may_be_even():
    model = PSA(compact=True, mask_size=(2, 4))
    shapes = jax.eval_shape(model.init, jax.random.key(0), features(MAP))["params"]
    assert shapes["branch1"]["planes"].shape == (2, 4, 1)
