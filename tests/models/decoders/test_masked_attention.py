"""Masked attention: the original's layer, a float64 oracle of a whole pass, what masked queries may not see."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from jax.test_util import check_grads
from layout import assert_golden

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import Features
from attnseg_jax.models.decoders import MaskedAttentionDecoder, MaskedAttentionLayer
from attnseg_jax.models.decoders.masked_attention import open_pixels
from attnseg_jax.models.layers.attention import sincos_positions
from attnseg_jax.models.records import RECORDS, attention_records
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.mask2former import MASK2FORMER_LAYER

RNG = np.random.default_rng(0)
SIZES = {2: (10, 14), 4: (5, 7), 8: (3, 4)}
MAPS = {stride: RNG.standard_normal((2, *SIZES[stride], 9)).astype(np.float32) for stride in SIZES}
FEATURES = Features({stride: jnp.asarray(x) for stride, x in MAPS.items()})
SMALL = dict(num_classes=7, channels=12, queries=6, layers=2, heads=3, mlp_ratio=1.5)
FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def with_records(model, **keywords):
    """(variables, inputs) -> output and records."""

    @FAST_COMPILE
    def run(*args):
        out, state = model.apply(*args, mutable=[RECORDS], **keywords)
        return out, attention_records(state[RECORDS])

    return run


def test_layer_of_the_original():
    case = Golden("attn_mask2former_layer")
    inputs = {name: jnp.asarray(value) for name, value in case.inputs().items()}
    model = MaskedAttentionLayer(heads=4, hidden=128)
    args = (inputs["x"], inputs["memory"], (inputs["mask"] == 0)[:, None])
    positions = dict(query_positions=inputs["query_pos"], positions=inputs["pos"], size=(5, 7))
    target = jax.eval_shape(functools.partial(model.init, **positions), jax.random.key(0), *args)
    variables = match(target, {"params": from_torch(case.state_dict(), MASK2FORMER_LAYER)["params"]})
    y, records = with_records(model, **positions)(variables, *args)
    assert_golden(case, "y", y)
    weights = np.asarray(records["masked_attention0"].weights)
    assert weights.shape == (2, 4, 9, 35)
    assert (weights[np.broadcast_to(inputs["mask"][:, None] == 1, weights.shape)] == 0).all()


def test_gradients_are_true_and_exactly_zero_at_masked_pixels(random_variables):
    rng = np.random.default_rng(1)
    x, memory, query_positions, positions = (
        jnp.asarray(rng.standard_normal((2, n, 12)), jnp.float32) for n in (6, 20, 6, 20)
    )
    mask = jnp.asarray(rng.random((2, 1, 6, 20)) < 0.5).at[:, :, :, 13:].set(False)
    model = MaskedAttentionLayer(heads=3, hidden=8)
    keywords = dict(query_positions=query_positions, positions=positions, size=(4, 5))
    variables = random_variables(model, x, memory, mask, **keywords)
    weights = jnp.asarray(rng.standard_normal((2, 6, 12)), jnp.float32)

    def loss(x, memory):
        return (model.apply(variables, x, memory, mask, **keywords) * weights).sum()

    check_grads(jax.jit(loss), (x, memory), order=1, modes=["rev"], eps=1e-3, atol=2e-2, rtol=2e-2)
    gradient = FAST_COMPILE(jax.grad(loss, argnums=1))(x, memory)
    seen = np.asarray(mask.any(axis=(1, 2)))
    assert (gradient[~seen] == 0).all() and (gradient[seen] != 0).any(axis=-1).all() and seen.sum() > 20


def test_open_pixels():
    """Half-pixel bilinear scores of at least 0 (a mask of one half); a mask open nowhere is open everywhere."""
    mask_logits = np.full((1, 2, 4, 3), -1.0, np.float32)
    mask_logits[0, :, 2:, 0] = 1.0
    mask_logits[0, 0, :2, 1] = 1.5
    found = open_pixels(jnp.asarray(mask_logits), (1, 2))
    assert found.tolist() == [[[[False, True], [True, False], [True, True]]]]


def dense(x, leaf):
    return x @ leaf["kernel"] + leaf["bias"]


def attend(q, k, v, leaf, allowed):
    """Of three heads of width 4."""
    q, k, v = dense(q, leaf["query"]), dense(k, leaf["key"]), dense(v, leaf["value"])
    mixed = []
    for a in range(3):
        one = slice(4 * a, 4 * a + 4)
        powers = np.exp(q[:, one] @ k[:, one].T / 2) * allowed
        mixed.append(powers / powers.sum(-1, keepdims=True) @ v[:, one])
    return dense(np.concatenate(mixed, -1), leaf["out"])


def norm(x, p, eps=1e-5):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(x.var(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def bilinear(x, size):
    """Half-pixel centres, clamped at the borders; one pixel at a time."""
    out = np.zeros((*size, x.shape[-1]))
    for i, j in np.ndindex(*size):
        y = max((i + 0.5) * x.shape[0] / size[0] - 0.5, 0)
        z = max((j + 0.5) * x.shape[1] / size[1] - 0.5, 0)
        for row, column in np.ndindex(2, 2):
            r, c = min(int(y) + row, x.shape[0] - 1), min(int(z) + column, x.shape[1] - 1)
            out[i, j] += abs(1 - row - y % 1) * abs(1 - column - z % 1) * x[r, c]
    return out


def test_against_numpy(random_variables):
    """Three maps, of which two are attended to, image by image in float64."""
    model = MaskedAttentionDecoder(**SMALL, strides=(8, 2, 4))
    variables = random_variables(model, FEATURES)
    p, s = (jax.tree.map(lambda a: a.astype(np.float64), variables[name]) for name in ("params", "batch_stats"))

    def batch_norm(x, name):
        bn, stats = p[name]["bn"], s[name]["bn"]
        return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * bn["scale"] + bn["bias"]

    def predict(x, pixels):
        y = norm(x, p["norm"])
        powers = np.exp(dense(y, p["classes"]))
        classes = (powers / powers.sum(-1, keepdims=True))[:, :7]
        y = dense(np.maximum(dense(np.maximum(dense(y, p["mask0"]), 0), p["mask1"]), 0), p["mask2"])
        masks = pixels @ y.T
        return np.log(1 / (1 + np.exp(-masks)) @ classes), masks

    out, records = with_records(model)(variables, FEATURES)
    closed = 0
    for b in range(2):
        fused = []
        for stride in (8, 4, 2):
            x = MAPS[stride][b].astype(np.float64) @ p[f"lateral{stride}"]["conv"]["kernel"][0, 0]
            x = batch_norm(x, f"lateral{stride}")
            fused.append(x + bilinear(fused[-1], SIZES[stride]) if fused else x)
        padded = np.pad(fused[-1], ((1, 1), (1, 1), (0, 0)))
        kernel = p["smooth"]["conv"]["kernel"]
        smooth = sum(padded[i : i + 10, j : j + 14] @ kernel[i, j] for i in range(3) for j in range(3))
        pixels = np.maximum(batch_norm(smooth, "smooth"), 0) @ p["pixels"]["kernel"][0, 0] + p["pixels"]["bias"]
        x, at = p["query_tokens"][0], p["query_positions"][0]
        logits, masks = predict(x, pixels)
        for i, stride in enumerate((8, 4)):
            np.testing.assert_allclose(out.aux[f"masked_attention{i}"][b], logits, atol=1e-4)
            allowed = bilinear(masks, SIZES[stride]).reshape(-1, 6).T >= 0
            closed += (~allowed).sum()
            allowed[~allowed.any(-1)] = True
            memory = fused[i].reshape(-1, 12) + p["level_tokens"][0, i]
            positions = sincos_positions(*SIZES[stride], 12).reshape(-1, 12)
            leaf = p[f"layer{i}"]
            x = x + attend(x + at, memory + positions, memory, leaf["cross_attention"], allowed)
            x = norm(x, leaf["cross_norm"])
            x = norm(x + attend(x + at, x + at, x, leaf["self_attention"], True), leaf["self_norm"])
            x = norm(x + dense(np.maximum(dense(x, leaf["mlp1"]), 0), leaf["mlp2"]), leaf["mlp_norm"])
            record = records[f"masked_attention{i}"]
            np.testing.assert_array_equal(record.mask[b, 0], allowed)
            assert record.key_size == SIZES[stride] and record.query_size is None
            logits, masks = predict(x, pixels)
        np.testing.assert_allclose(out.logits[b], logits, atol=1e-4)
    assert closed > 20 and sorted(out.aux) == ["masked_attention0", "masked_attention1"]


def test_pre_norm_against_numpy(random_variables):
    """What goes into attention and MLP is normalised, the sums are not; keys and values are as they come."""
    rng = np.random.default_rng(2)
    x, memory, at, positions = (rng.standard_normal((1, n, 12)).astype(np.float32) for n in (6, 20, 6, 20))
    mask = rng.random((1, 1, 6, 20)) < 0.6
    model = MaskedAttentionLayer(heads=3, hidden=8, pre_norm=True)
    keywords = dict(query_positions=at, positions=positions, size=(4, 5))
    variables = random_variables(model, x, memory, mask, **keywords)
    found = FAST_COMPILE(functools.partial(model.apply, **keywords))(variables, x, memory, mask)
    p = jax.tree.map(lambda a: a.astype(np.float64), variables["params"])
    (x,), (memory,), (at,), (positions,) = x, memory, at, positions
    y = norm(x, p["cross_norm"]) + at
    x = x + attend(y, memory + positions, memory, p["cross_attention"], mask[0, 0])
    y = norm(x, p["self_norm"])
    x = x + attend(y + at, y + at, y, p["self_attention"], True)
    y = norm(x, p["mlp_norm"])
    x = x + dense(np.maximum(dense(y, p["mlp1"]), 0), p["mlp2"])
    np.testing.assert_allclose(found[0], x, atol=2e-5)


ONE_LAYER = dict(num_classes=7, queries=5, layers=1, heads=3, deep_supervision=False)


def test_another_size_and_bfloat16(random_variables):
    model = MaskedAttentionDecoder(**ONE_LAYER, dtype=jnp.bfloat16)
    variables = random_variables(model, Features({4: jnp.asarray(MAPS[4])}))
    out, records = with_records(model)(variables, Features({4: jnp.asarray(MAPS[4][:, :3], jnp.bfloat16)}))
    assert out.logits.shape == (2, 3, 7, 7) and out.logits.dtype == jnp.float32 and not out.aux
    record = records["masked_attention0"]
    assert record.q.dtype == jnp.bfloat16 and record.weights.dtype == jnp.float32
    np.testing.assert_allclose(record.weights.sum(-1), np.ones((2, 3, 5)), rtol=1e-5)


@pytest.mark.thorough
def test_every_parameter_learns(random_variables):
    model = MaskedAttentionDecoder(**ONE_LAYER)
    features = Features({4: jnp.asarray(MAPS[4])})
    variables = random_variables(model, features)

    @FAST_COMPILE
    @jax.grad
    def gradient(params):
        out, _ = model.apply({**variables, "params": params}, features, train=True, mutable=["batch_stats"])
        return -jax.nn.log_softmax(out.logits)[..., 0].sum()

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        # What is the same for every key does not change a softmax.
        if "['key']['bias']" not in jax.tree_util.keystr(path):
            assert np.isfinite(leaf).all() and (leaf != 0).any(), path


def test_which_maps():
    shapes = jax.eval_shape(MaskedAttentionDecoder(**SMALL).init, jax.random.key(0), FEATURES)["params"]
    assert [name for name in sorted(shapes) if "lateral" in name] == ["lateral4", "lateral8"]
    assert shapes["level_tokens"].shape == (1, 1, 12)
    fine = Features({2: FEATURES.maps[2]})
    assert "lateral2" in jax.eval_shape(MaskedAttentionDecoder(**SMALL).init, jax.random.key(0), fine)["params"]
    wide = Features({32: jnp.ones((1, 2, 3, 2048))})
    queries = jax.eval_shape(MaskedAttentionDecoder(7).init, jax.random.key(0), wide)["params"]["query_tokens"]
    assert queries.shape == (1, 100, 256)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"heads": 5}, r"heads=5 does not divide 64 channels: choose"),
        ({"queries": 0}, r"queries=0 must be at least 1"),
        ({"mlp_ratio": 0.0}, r"mlp_ratio=0\.0 must be at least 0\.015625"),
        ({"layers": 0}, r"layers=0 must be at least 1"),
        ({"strides": (4, 16)}, r"strides=\(4, 16\) asks for a map of stride 16; the backbone has 2, 4: choose"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=r"config\.model\.decoder\.masked_attention\." + message):
        model = build_model({"decoder": {"name": "masked_attention", "masked_attention": options}}, 7)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 12, 3)))
