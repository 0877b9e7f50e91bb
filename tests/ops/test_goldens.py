"""Every output of the operator, batch-norm, loss and metric goldens (values and gradients from PyTorch)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden, hwio, hwio_transposed, nchw, nhwc

from attnseg_jax.ops import attention, conv, losses, metrics, norm, pool, resize

load = functools.cache(Golden)


def outputs(case):
    return list(load(case).info["outputs"])


def parse_resize(name):
    """Golden name -> (size, keywords), for an input of 13x17."""
    head, *tail = name.split("_")
    keywords = {"method": head}
    for word in tail:
        if word == "ac":
            keywords["align_corners"] = True
        elif word == "aa":
            keywords["antialias"] = True
        elif word.startswith("scale"):
            scale = float(word.removeprefix("scale"))
            size, keywords["scale"] = (int(13 * scale), int(17 * scale)), scale
        elif word == "recompute":
            del keywords["scale"]
        else:
            size = tuple(int(n) for n in word.split("x"))
    return size, keywords


@functools.cache
def computed(case, function):
    """`{output: function(output, x)}` for the outputs of a case, compiled together: one by one takes minutes."""
    names = outputs(case)
    return jax.jit(lambda x: {name: function(name, x) for name in names})(nhwc(load(case).inputs()["x"]))


def resized(name, x):
    size, keywords = parse_resize(name)
    return resize.resize(x, size, **keywords)


@pytest.mark.parametrize("name", outputs("op_resize"))
def test_resize(name):
    assert_golden(load("op_resize"), name, nchw(computed("op_resize", resized)[name]))


POOLING = {
    "adaptive_avg_1": lambda x: pool.adaptive_avg_pool(x, 1),
    "adaptive_avg_2": lambda x: pool.adaptive_avg_pool(x, 2),
    "adaptive_avg_3": lambda x: pool.adaptive_avg_pool(x, 3),
    "adaptive_avg_6": lambda x: pool.adaptive_avg_pool(x, 6),
    "adaptive_avg_4x5": lambda x: pool.adaptive_avg_pool(x, (4, 5)),
    "adaptive_avg_20x25": lambda x: pool.adaptive_avg_pool(x, (20, 25)),
    "max_3_2_1": lambda x: pool.max_pool(x, 3, 2, 1),
    "max_3_2_1_ceil": lambda x: pool.max_pool(x, 3, 2, 1, ceil_mode=True),
    "max_2_2_ceil": lambda x: pool.max_pool(x, 2, 2, ceil_mode=True),
}


def pooled(name, x):
    return POOLING[name](x)


@pytest.mark.parametrize("name", outputs("op_pooling"))
def test_pooling(name):
    assert_golden(load("op_pooling"), name, nchw(computed("op_pooling", pooled)[name]))


CONVOLUTIONS = {
    "stem": {"stride": 2, "padding": 3},
    "even": {"stride": 2},
    "dilated": {"padding": 6, "dilation": 6},
    "grouped": {"stride": 2, "padding": 1, "groups": 4},
    "depthwise": {"padding": 2, "groups": 8},
    "asym": {"padding": (0, 3)},
}
TRANSPOSED = {
    "up4": {"stride": 2, "padding": 1},
    "up3": {"stride": 2, "padding": 1, "output_padding": 1},
    "up2": {"stride": 2},
    "up16": {"stride": 8, "padding": 4},
    "upg": {"stride": 2, "padding": 1, "groups": 8},
}


def convolved(name, x):
    params = load("op_conv").state_dict()
    weight, bias = params[f"{name}.weight"], params.get(f"{name}.bias", np.zeros(1, np.float32))
    if name in CONVOLUTIONS:
        y = conv.conv(x, hwio(weight), **CONVOLUTIONS[name])
    else:
        keywords = TRANSPOSED[name]
        y = conv.conv_transpose(x, hwio_transposed(weight, keywords.get("groups", 1)), **keywords)
    return y + bias.reshape(1, 1, 1, -1)


@pytest.mark.parametrize("name", outputs("op_conv"))
def test_conv(name):
    assert_golden(load("op_conv"), name, nchw(computed("op_conv", convolved)[name]))


def linen_norm(name, params, module):
    """Apply a flax norm with the golden's parameters."""
    leaves = {"scale": params[f"{name}.weight"], "bias": params[f"{name}.bias"]}
    return lambda x: module.apply({"params": leaves}, x)


def inference(name, params, eps):
    leaves = [jnp.asarray(params[f"{name}.{leaf}"]) for leaf in ("weight", "bias", "running_mean", "running_var")]
    return lambda x: norm.batch_norm_inference(x, *leaves, eps=eps)


ACTIVATIONS = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": jax.nn.gelu,
    "relu6": jax.nn.relu6,
    "hardswish": jax.nn.hard_swish,
    "hardsigmoid": jax.nn.hard_sigmoid,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "leaky_relu": jax.nn.leaky_relu,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
}


def pixel_shuffle(x, r=2):
    b, h, w, c = x.shape
    return x.reshape(b, h, w, c // r**2, r, r).transpose(0, 1, 4, 2, 5, 3).reshape(b, h * r, w * r, c // r**2)


def unfold(x):
    patches = jax.lax.conv_general_dilated_patches(
        x, (3, 3), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return patches.reshape(x.shape[0], -1, patches.shape[-1])


def norm_act(name, x):
    params = load("op_norm_act").state_dict()
    if name in ACTIVATIONS:
        return ACTIVATIONS[name](4 * x)
    layers = {
        "ln": linen_norm("ln", params, nn.LayerNorm(epsilon=1e-5, use_fast_variance=False)),
        "ln6": linen_norm("ln6", params, nn.LayerNorm(epsilon=1e-6, use_fast_variance=False)),
        "gn": linen_norm("gn", params, nn.GroupNorm(num_groups=6, epsilon=1e-5, use_fast_variance=False)),
        "inorm": linen_norm("inorm", params, nn.InstanceNorm(epsilon=1e-5, use_fast_variance=False)),
        "bn": inference("bn", params, 1e-5),
        "bn3": inference("bn3", params, 1e-3),
        "prelu": lambda x: jnp.where(x > 0, x, x * params["prelu.weight"].reshape(1, 1, 1, -1)),
        "l2_normalize": lambda x: x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12),
        "pixel_shuffle2": pixel_shuffle,
        "unfold3": unfold,
    }
    return layers[name.removesuffix("_small")](0.001 * x if name.endswith("_small") else x)


@pytest.mark.parametrize("name", outputs("op_norm_act"))
def test_norms_and_activations(name):
    assert_golden(load("op_norm_act"), name, nchw(computed("op_norm_act", norm_act)[name]))


def test_batch_norm_training():
    case = load("train_batchnorm")
    inputs, params = case.inputs(), {k: jnp.asarray(v) for k, v in case.state_dict().items()}
    x, g = nhwc(inputs["x"]), nhwc(inputs["g"])

    def total(x, scale, bias):
        y, mean, var = norm.batch_norm(x, scale, bias, params["running_mean"], params["running_var"])
        return (y * g).sum(), (y, mean, var)

    gradients, (y, mean, var) = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(x, params["weight"], params["bias"])
    found = {"y": nchw(y), "input_grad": nchw(gradients[0]), "weight_grad": gradients[1], "bias_grad": gradients[2]}
    found |= {"updated/running_mean": mean, "updated/running_var": var}
    assert sorted(found) == sorted(outputs("train_batchnorm"))
    for name, value in found.items():
        assert_golden(case, name, value)


CLASS_WEIGHTS = jnp.array([0.5, 0.7, 0.9, 1.1, 1.3])
LOSSES = {
    "mean": {},
    "sum": {},
    "weighted": {"class_weights": CLASS_WEIGHTS},
    "smooth0.1": {"label_smoothing": 0.1},
    "weighted_smooth0.1": {"class_weights": CLASS_WEIGHTS, "label_smoothing": 0.1},
    "smp_soft_ce0.1": {"label_smoothing": 0.1},
}


def loss(logits, labels, kind):
    loss_sum, count = losses.cross_entropy(logits, labels, **LOSSES[kind])
    if kind == "sum":
        return loss_sum
    return loss_sum / labels.size if kind.startswith("smp") else losses.mean(loss_sum, count)


@functools.cache
def values_and_gradients():
    inputs = load("loss_ce").inputs()
    label_sets = {name: jnp.asarray(labels) for name, labels in inputs.items() if name != "x"}
    evaluate = jax.value_and_grad(loss)

    def everything(logits):
        return {(kind, name): evaluate(logits, labels, kind) for kind in LOSSES for name, labels in label_sets.items()}

    return jax.jit(everything)(nhwc(inputs["x"]))


@pytest.mark.parametrize("name", outputs("loss_ce"))
def test_cross_entropy(name):
    """Where every pixel is ignored PyTorch's means are NaN with zero gradient; ours are 0 with zero gradient."""
    case = load("loss_ce")
    part, kind, label_set = name.split("/")
    value, gradient = values_and_gradients()[kind, label_set]
    if part == "grad":
        assert_golden(case, name, nchw(gradient))
    elif np.isnan(case.expected(name)):
        assert label_set == "all_void" and float(value) == 0.0
    else:
        assert_golden(case, name, value)


def test_confusion_and_scores():
    """Those of the golden's definitions that are ours: the counts and mmsegmentation's scores."""
    case = load("metrics_confusion")
    inputs = case.inputs()
    confusion = metrics.confusion_matrix(jnp.asarray(inputs["pred"]), jnp.asarray(inputs["gt"]), 6)
    scores = metrics.scores(np.asarray(confusion, np.int64))
    assert np.isnan(scores["iou"]).tolist() == [False] * 5 + [True] and scores["iou"][4] == 0
    truth, predicted = np.asarray(confusion).sum(1), np.asarray(confusion).sum(0)
    right = np.diag(confusion)
    found = {
        "confusion": confusion,
        "mmseg/intersect": right,
        "mmseg/union": truth + predicted - right,
        "mmseg/pred_area": predicted,
        "mmseg/label_area": truth,
        "mmseg/aAcc": scores["pixel_accuracy"],
        "mmseg/IoU": scores["iou"],
        "mIoU": scores["miou"],
        "mmseg/Dice": scores["dice"],
        "fwIoU": scores["frequency_weighted_iou"],
        "mAcc": scores["class_accuracy"],
        "smp/recall/micro": scores["pixel_accuracy"],
    }
    for name, value in found.items():
        assert_golden(case, name, value)


def test_dice_and_precision():
    """mmsegmentation's, from the totals over all images."""
    case = load("metrics_dice")
    inputs = case.inputs()
    confusion = metrics.confusion_matrix(jnp.asarray(inputs["pred"]), jnp.asarray(inputs["labels"]), 7)
    scores = metrics.scores(np.asarray(confusion, np.int64))
    names = {"mmseg/IoU": "iou", "mmseg/Dice": "dice", "mmseg/Precision": "precision"}
    for name, ours in (names | {"fwIoU": "frequency_weighted_iou", "mmseg/aAcc": "pixel_accuracy"}).items():
        assert_golden(case, name, scores[ours])


def project(x, weight, bias, heads=4):
    y = np.asarray(x) @ weight.T + bias
    return jnp.asarray(y.reshape(*y.shape[:2], heads, -1))


@pytest.mark.parametrize("name", ["attn_mha_self", "attn_mha_cross_masked"])
def test_multi_head_attention(name):
    case = load(name)
    inputs, params = case.inputs(), case.state_dict()
    x, mask = inputs["x"], None
    memory = inputs.get("kv", x)
    if "in_proj_weight" in params:
        weights = np.split(params["in_proj_weight"], 3)
    else:
        weights = [params[f"{leaf}_proj_weight"] for leaf in "qkv"]
        mask = jnp.asarray(inputs["key_padding_mask"] == 0)[:, None, None]
    biases = np.split(params["in_proj_bias"], 3)
    q, k, v = (project(t, w, b) for t, w, b in zip((x, memory, memory), weights, biases))
    assert_golden(case, "weights", attention.attention_weights(q, k, mask=mask))
    y = attention.dot_product_attention(q, k, v, mask=mask).reshape(*x.shape)
    assert_golden(case, "y", np.asarray(y) @ params["out_proj.weight"].T + params["out_proj.bias"])
