"""Non-local, DANet, efficient, OCR and interlaced attention against oracles: float64, one position at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from sown import with_records

from attnseg_jax.models import Features
from attnseg_jax.models.attention import OCR, DANet, EfficientAttention, Interlaced, NonLocal
from attnseg_jax.models.attention.non_local import FORMS

RNG = np.random.default_rng(0)
B, H, W, C = 2, 5, 7, 12
FEATURES = Features({2: RNG.standard_normal((B, 10, 14, 3)), 4: RNG.standard_normal((B, H, W, C))})
FEATURES = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), FEATURES)
MODELS = {
    **{f"nonlocal {form}": NonLocal(form=form, channels=9) for form in FORMS},
    "nonlocal whole": NonLocal(sub_sample=False, norm=False),
    "danet": DANet(num_classes=6, channels=10, reduction=3),
    "efficient": EfficientAttention(heads=3, reduction=2),
    "ocr": OCR(num_classes=6, aux_stride=2, channels=10, key_channels=8, scale=2),
    "interlaced": Interlaced(factors=(2, 3), channels=10, key_channels=8),
}


class Oracle:
    """The layers of a model's float64 parameters; a name is a path with dots."""

    def __init__(self, variables):
        self.variables = jax.tree.map(lambda a: np.asarray(a, np.float64), variables)

    def leaf(self, name, collection="params"):
        return functools.reduce(lambda node, word: node[word], name.split("."), self.variables[collection])

    def conv(self, name, x, stride=1, padding=None):
        p = self.leaf(name)
        kernel = p["kernel"]
        k = len(kernel)
        pad = (k // 2 if padding is None else padding,) * 2
        x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
        shape = [(n - k) // stride + 1 for n in x.shape[1:3]]
        y = np.zeros((len(x), *shape, kernel.shape[-1]))
        for i, j in np.ndindex(*shape):
            patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, i, j] = np.einsum("bijc,ijco->bo", patch, kernel)
        return y + p.get("bias", 0.0)

    def dense(self, name, x):
        return x @ self.leaf(name)["kernel"] + self.leaf(name)["bias"]

    def batch_norm(self, name, x):
        p, s = self.leaf(name), self.leaf(name, "batch_stats")
        return (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]

    def layer_norm(self, name, x, epsilon):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return y * self.leaf(name)["scale"] + self.leaf(name)["bias"]

    def conv_bn(self, name, x):
        return self.batch_norm(f"{name}.bn", self.conv(f"{name}.conv", x)).clip(0)


def weigh(q, keys, scale):
    scores = np.array([q @ k for k in keys]) * scale
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def attend(query, key, value, scale, softmax=True):
    """Each position of `query` [b, h, w, d] over all of `key` and `value`; result and weights."""
    b, h, w, _ = query.shape
    keys, values = (t.reshape(b, -1, t.shape[-1]) for t in (key, value))
    weights = np.zeros((b, h, w, keys.shape[1]))
    for i, y, x in np.ndindex(b, h, w):
        q = query[i, y, x]
        weights[i, y, x] = weigh(q, keys[i], scale) if softmax else [q @ k * scale for k in keys[i]]
    return np.einsum("bhwm,bme->bhwe", weights, values), weights.reshape(b, h * w, -1)


def pool(x, f):
    """Maxima of whole blocks."""
    h, w = (n // f for n in x.shape[1:3])
    return np.stack(
        [np.stack([x[:, i * f : i * f + f, j * f : j * f + f].max((1, 2)) for j in range(w)], 1) for i in range(h)], 1
    )


def resize_aligned(x, size):
    """Bilinear; corner positions meet."""
    y = np.zeros((len(x), *size, x.shape[-1]))
    for i, j in np.ndindex(*size):
        at = [t * (n - 1) / (s - 1) for t, n, s in zip((i, j), x.shape[1:3], size)]
        for di, dj in np.ndindex(*x.shape[1:3]):
            y[:, i, j] += max(0, 1 - abs(at[0] - di)) * max(0, 1 - abs(at[1] - dj)) * x[:, di, dj]
    return y


def non_local_oracle(model, o, maps):
    x = maps[4]
    value = o.conv("value", x)
    query, key = (x, x) if model.form == "gaussian" else (o.conv(name, x) for name in ("query", "key"))
    if model.sub_sample:
        key, value = pool(key, 2), pool(value, 2)
    if model.form == "concatenation":
        q, k, v = (t.reshape(B, -1, t.shape[-1]) for t in (query, key, value))
        a, b = q @ o.leaf("score_query.kernel"), k @ o.leaf("score_key.kernel")
        weights = np.maximum(a + np.moveaxis(b, 1, 2), 0)
        y = (weights @ v / k.shape[1]).reshape(*x.shape[:3], -1)
        weights = (weights / np.maximum(weights.sum(-1, keepdims=True), 1e-12))[:, None]
    else:
        softmax = model.form != "dot_product"
        y, weights = attend(query, key, value, 1.0 if softmax else 1 / (key.shape[1] * key.shape[2]), softmax)
    y = o.conv("out", y)
    return x + (o.batch_norm("norm", y) if model.norm else y), {"nonlocal0": weights}, {}


def danet_oracle(model, o, maps):
    x = o.conv_bn("position_in", maps[4])
    query, key, value = (o.conv(name, x) for name in ("query", "key", "value"))
    y, weights = attend(query, key, value, 1.0)
    position = o.conv_bn("position_out", x + o.leaf("position_gamma") * y)
    x = o.conv_bn("channel_in", maps[4])
    channels = np.moveaxis(x, -1, 1).reshape(B, model.channels, 1, H * W)
    y, channel_weights = attend(channels, channels, channels, -1.0)
    y = np.moveaxis(y.reshape(B, model.channels, H, W), 1, -1)
    channel = o.conv_bn("channel_out", x + o.leaf("channel_gamma") * y)
    aux = {
        "danet_position": o.conv("position_classifier", position),
        "danet_channel": o.conv("channel_classifier", channel),
    }
    return position + channel, {"danet_position0": weights, "danet_channel0": channel_weights}, aux


def efficient_oracle(model, o, maps):
    x = maps[4]
    y = o.layer_norm("norm0", x, 1e-6)
    reduced = o.layer_norm("attention0.norm", o.conv("attention0.reduce", y, model.reduction, 0), 1e-5)
    query = o.dense("attention0.query", y)
    key, value = (o.dense(f"attention0.{name}", reduced) for name in ("key", "value"))
    d = C // model.heads
    parts = [slice(d * a, d * a + d) for a in range(model.heads)]
    heads = [attend(query[..., s], key[..., s], value[..., s], d**-0.5) for s in parts]
    y = o.dense("attention0.out", np.concatenate([head for head, _ in heads], -1))
    return x + y, {"efficient0": np.stack([weights for _, weights in heads], 1)}, {}


def ocr_oracle(model, o, maps):
    logits = o.conv("aux_classifier", o.conv_bn("aux_conv", maps[2]))
    # Half as large with half-pixel centres: between the pixels of 2x2 blocks.
    small = sum(logits[:, i::2, j::2] for i in range(2) for j in range(2)) / 4
    x = o.conv_bn("lead_in", maps[4])
    regions, region_weights = np.zeros((B, 1, model.num_classes, 10)), np.zeros((B, model.num_classes, H * W))
    for b, k in np.ndindex(B, model.num_classes):
        powers = np.exp(small[b, ..., k])
        share = powers / powers.sum()
        region_weights[b, k] = share.ravel()
        regions[b, 0, k] = sum(share[i, j] * x[b, i, j] for i, j in np.ndindex(H, W))
    query = o.conv_bn("pixel1", o.conv_bn("pixel0", pool(x, model.scale)))
    key = o.conv_bn("object1", o.conv_bn("object0", regions))
    y, weights = attend(query, key, o.conv_bn("down", regions), model.key_channels**-0.5)
    y = resize_aligned(o.conv_bn("up", y), (H, W))
    y = o.conv_bn("out", np.concatenate([y, x], -1))
    return y, {"ocr_regions0": region_weights, "ocr_pixels0": weights}, {"ocr": logits}


def interlaced_oracle(model, o, maps):
    lead = o.conv_bn("lead_in", maps[4])
    x = np.pad(lead, ((0, 0), (0, 1), (1, 1), (0, 0)))  # 6x9: what is odd goes to the end
    seen = {}
    for reach in ("far", "near"):

        def group(position, reach=reach):
            return tuple(p % f if reach == "far" else p // f for p, f in zip(position, model.factors))

        name = reach
        query, key = (o.conv_bn(f"{name}.{n}1", o.conv_bn(f"{name}.{n}0", x)) for n in ("query", "key"))
        value = o.leaf(f"{name}.value")["kernel"][0, 0]
        y, dense = np.zeros((B, 6, 9, 10)), np.zeros((B, H * W, H * W))
        for b, i, j in np.ndindex(B, 6, 9):
            members = [p for p in np.ndindex(6, 9) if group(p) == group((i, j))]
            weights = weigh(query[b, i, j], [key[b][p] for p in members], model.key_channels**-0.5)
            y[b, i, j] = sum(weight * (x[b][p] @ value) for weight, p in zip(weights, members))
            if i < H and 1 <= j <= W:
                for weight, (u, v) in zip(weights, members):
                    if u < H and 1 <= v <= W:
                        dense[b, i * W + j - 1, u * W + v - 1] = weight
        seen[f"interlaced_{reach}0"] = dense
        x = o.conv_bn(f"{name}.out", y)
    return o.conv_bn("out", np.concatenate([lead, x[:, :H, 1 : W + 1]], -1)), seen, {}


ORACLES = {
    NonLocal: non_local_oracle,
    DANet: danet_oracle,
    EfficientAttention: efficient_oracle,
    OCR: ocr_oracle,
    Interlaced: interlaced_oracle,
}


def dense(record):
    """Weights `[b, a, n, m]`; keys outside the map are left out."""
    weights = np.asarray(record.weights)
    if record.keys is None:
        return weights
    result = np.zeros((*weights.shape[:3], np.prod(record.key_size) + 1))
    np.put_along_axis(result, np.broadcast_to(record.keys, weights.shape), weights, -1)
    return result[..., :-1]  # -1 is the one beyond


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_oracle(name, random_variables):
    model = MODELS[name]
    variables = random_variables(model, FEATURES)
    out, records = with_records(model)(variables, FEATURES)
    maps = {stride: np.asarray(x, np.float64) for stride, x in FEATURES.maps.items()}
    expected, weights, aux = ORACLES[type(model)](model, Oracle(variables), maps)
    np.testing.assert_allclose(out.deepest, expected, atol=5e-6 * abs(expected).max())
    np.testing.assert_array_equal(out.maps[2], FEATURES.maps[2])
    assert sorted(records) == sorted(weights) and sorted(out.aux) == sorted(aux)
    for key, value in weights.items():
        found = dense(records[key])
        np.testing.assert_allclose(found, value.reshape(found.shape), atol=5e-6)
    for key, value in aux.items():
        np.testing.assert_allclose(out.aux[key], value, atol=5e-6)


X, REGIONS = FEATURES.deepest, jnp.asarray(RNG.standard_normal((B, 6, C)), jnp.float32)
# Maxima and ReLU have kinks, which the step must not reach.
GRADIENTS = {
    "embedded_gaussian": (NonLocal(sub_sample=False), "attend", (X,), 1e-3),
    "gaussian": (NonLocal(form="gaussian", channels=9), "attend", (X,), 3e-4),
    "dot_product": (NonLocal(form="dot_product", channels=9), "attend", (X,), 3e-4),
    "concatenation": (NonLocal(form="concatenation", channels=9, sub_sample=False), "attend", (X[:1, :2, :3],), 3e-4),
    "position": (DANet(reduction=3), "position", (X,), 1e-2),
    "channel": (DANet(), "channel", (X,), 1e-3),
    "efficient": (EfficientAttention(heads=3, reduction=2), "attend", (X,), 1e-2),
    "ocr": (OCR(key_channels=8, scale=2), "gather", (X, REGIONS), 3e-5),
    "interlaced": (Interlaced(channels=11, key_channels=8, factors=(2, 3)), "stages", (X,), 3e-5),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name, random_variables):
    model, method, inputs, eps = GRADIENTS[name]
    options = {"method": method, **({"channels": 10} if method == "stages" else {})}
    variables = jax.tree.map(jnp.asarray, random_variables(model, *inputs, **options))

    @jax.jit
    def value(params, inputs):
        return model.apply({**variables, "params": params}, *inputs, **options)

    check_grads(value, (variables["params"], inputs), order=1, modes=["rev"], eps=eps, atol=1e-2, rtol=1e-2)
