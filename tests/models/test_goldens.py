"""Outputs, gradients and statistics of the PyTorch originals, through the public modules and `pretrained`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc
from sown import recorded

from attnseg_jax import build_model
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.layers.attention import MultiHeadAttention
from attnseg_jax.models.layers.conv import BatchNorm
from attnseg_jax.ops import losses
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.mask2former import MULTI_HEAD_ATTENTION
from attnseg_jax.weights.rules.resnet import RESNET

load = functools.cache(Golden)


def variables_of(model, case, rules, *inputs, **keywords):
    """The golden's parameters, after a check that they are all of the model's and no others."""
    target = jax.eval_shape(functools.partial(model.init, **keywords), jax.random.key(0), *inputs)
    return match(target, from_torch(case.state_dict(), rules))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, model",
    [
        ("backbone_resnet18", BACKBONES["resnet18"]()),
        ("backbone_resnet50_os32", BACKBONES["resnet50"]()),
        ("backbone_resnet50_os8", BACKBONES["resnet50"](output_stride=8)),
    ],
)
def test_backbone(name, model):
    case = load(name)
    x = nhwc(case.inputs()["x"])
    maps = jax.jit(model.apply)(variables_of(model, case, RESNET, x), x).maps
    assert sorted(maps) == [2, 4, 8, 16, 32]
    for output, stride in zip(("stem", "layer1", "layer2", "layer3", "layer4"), sorted(maps), strict=True):
        assert_golden(case, output, nchw(maps[stride]))


def test_training_resnet18():
    case = load("train_resnet18")
    inputs, state = case.inputs(), case.state_dict()
    x, labels = nhwc(inputs["x"]), jnp.asarray(inputs["labels"]).reshape(2, 1, 1)
    model = BACKBONES["resnet18"]()
    variables = variables_of(model, case, RESNET, x)
    classifier = {"kernel": state["fc.weight"].T, "bias": state["fc.bias"]}

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # it compiles faster
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def loss(params, classifier):
        features, updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        logits = features.deepest.mean((1, 2)) @ classifier["kernel"] + classifier["bias"][None]
        value = losses.mean(*losses.cross_entropy(logits[:, None, None], labels))
        return value, (logits, value, updated["batch_stats"])

    (gradient, classifier_gradient), (logits, value, statistics) = loss(variables["params"], classifier)
    assert_golden(case, "logits", logits)
    assert_golden(case, "loss", value)

    # The outputs carry PyTorch's names; the tables that load parameters also say where their gradients are.
    names = [n for n in case.info["outputs"] if n.startswith(("grad/", "updated/"))]
    found = {"params": gradient, "batch_stats": statistics}
    for name in names:
        source = name.partition("/")[2]
        if source.startswith("fc."):
            assert_golden(case, name, np.transpose(classifier_gradient["kernel" if "weight" in source else "bias"]))
            continue
        path = from_torch({source: state[source]}, RESNET)
        (keys, _), *rest = jax.tree_util.tree_flatten_with_path(path)[0]
        assert not rest
        leaf = functools.reduce(lambda tree, key: tree[key.key], keys, found)
        assert_golden(case, name, np.transpose(leaf, (3, 2, 0, 1)) if leaf.ndim == 4 else leaf)
    assert len(names) == 45


def test_training_batch_norm():
    case = load("train_batchnorm")
    x, g = (nhwc(case.inputs()[name]) for name in "xg")
    model = BatchNorm()
    variables = variables_of(model, case, (), x, train=True)

    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def total(params, x):
        y, updated = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return (y * g).sum(), (y, updated["batch_stats"])

    (params, x_gradient), (y, statistics) = total(variables["params"], x)
    found = {
        "y": nchw(y),
        "input_grad": nchw(x_gradient),
        "weight_grad": params["scale"],
        "bias_grad": params["bias"],
        "updated/running_mean": statistics["mean"],
        "updated/running_var": statistics["var"],
    }
    assert sorted(found) == sorted(case.info["outputs"])
    for name, value in found.items():
        assert_golden(case, name, value)


def test_fcn_resnet50():
    case = load("model_fcn_resnet50")
    x = nhwc(case.inputs()["x"])
    config = {
        "backbone": {"name": "resnet50", "resnet50": {"output_stride": 8}},
        "attention": {"name": "none"},
        "decoder": {"name": "fcn", "aux": True},
    }
    model = build_model(config, num_classes=21)
    out = jax.jit(model.apply)(variables_of(model, case, rules_of("torchvision_fcn+torchvision_resnet"), x), x)
    assert_golden(case, "out", nchw(out.logits))
    assert_golden(case, "aux", nchw(out.aux["fcn"]))


def test_self_attention():
    case = load("attn_mha_self")
    x = jnp.asarray(case.inputs()["x"])
    model = MultiHeadAttention(heads=4, record="self")
    y, records = recorded(model)(variables_of(model, case, MULTI_HEAD_ATTENTION, x, x), x, x)
    assert_golden(case, "y", y)
    assert_golden(case, "weights", records["self0"].weights)


def test_masked_cross_attention():
    case = load("attn_mha_cross_masked")
    inputs = case.inputs()
    x, kv = jnp.asarray(inputs["x"]), jnp.asarray(inputs["kv"])
    mask = jnp.asarray(inputs["key_padding_mask"] == 0)[:, None, None]
    model = MultiHeadAttention(heads=4, record="cross")
    variables = variables_of(model, case, MULTI_HEAD_ATTENTION, x, kv)
    y, records = recorded(model, mask=mask)(variables, x, kv)
    assert_golden(case, "y", y)
    assert_golden(case, "weights", records["cross0"].weights)
