"""Outputs of the originals: non-local, DANet, SegFormer's attention, OCR, ISA."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import DANET_HEAD, DANET_MODULES, ISA, NONLOCAL

from attnseg_jax.models import Features, Segmenter
from attnseg_jax.models.attention import DANet
from attnseg_jax.models.attention.danet import ChannelAttention, PositionAttention
from attnseg_jax.models.attention.efficient import EfficientAttention
from attnseg_jax.models.attention.interlaced import InterlacedBlock, InterlacedContext
from attnseg_jax.models.attention.non_local import NonLocalBlock
from attnseg_jax.models.attention.ocr import ObjectAttention, ObjectContext
from attnseg_jax.models.decoders import FCN
from attnseg_jax.ops.attention.ocr import region_means, region_weights
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.mit import SEGFORMER_ATTENTION
from attnseg_jax.weights.rules.originals import OCR_MODULES


def apply(model, case, rules, *inputs):
    """The model's output with the golden's parameters, which are all of the model's and no others."""
    target = jax.eval_shape(model.init, jax.random.key(0), *inputs)
    target = {"batch_stats": {}, **target}
    variables = match(target, from_torch(case.state_dict(), rules))
    return functools.partial(jax.jit(model.apply), variables)(*inputs)


@pytest.mark.parametrize(
    "name, model, rules",
    [
        ("attn_nonlocal_dot_13x17", NonLocalBlock("dot_product", sub_sample=False), NONLOCAL),
        ("attn_nonlocal_gauss_13x17", NonLocalBlock(sub_sample=False), NONLOCAL),
        ("attn_nonlocal_gauss_sub_nobn_13x17", NonLocalBlock(channels=16, norm=False), NONLOCAL),
        ("attn_danet_pam_13x17", PositionAttention(), DANET_MODULES),
        ("attn_danet_cam_13x17", ChannelAttention(), DANET_MODULES),
        ("attn_segformer_sr4_13x17", EfficientAttention(heads=2, reduction=4), SEGFORMER_ATTENTION),
        ("attn_isa_block8_13x17", InterlacedBlock(16, 32, 48), ISA),
        ("attn_isa_module_13x17", InterlacedContext(16, 32, 48, factors=(4, 4)), ISA),
    ],
)
def test_block(name, model, rules):
    case = Golden(name)
    y, record = apply(model, case, rules, nhwc(case.inputs()["x"]))
    assert_golden(case, "y", nchw(y))
    if "weights" in case.info["outputs"]:
        shape = case.info["outputs"]["weights"]["shape"]
        assert_golden(case, "weights", record.weights.reshape(shape))


@pytest.mark.parametrize(
    "name, model",
    [("attn_ocr_object_13x17", ObjectAttention(32)), ("attn_ocr_module_13x17", ObjectContext(32, 48))],
)
def test_object_context(name, model):
    case = Golden(name)
    x, logits = (nhwc(case.inputs()[name]) for name in ("x", "logits"))
    y, _ = apply(model, case, OCR_MODULES, x, region_means(x, region_weights(logits)))
    assert_golden(case, "y", nchw(y))


def test_regions():
    case = Golden("attn_ocr_gather_13x17")
    x, logits = (nhwc(case.inputs()[name]) for name in ("x", "logits"))
    context = region_means(x, region_weights(logits))
    assert_golden(case, "context", np.swapaxes(context, 1, 2)[..., None])


class Given(nn.Module):
    """A backbone whose only map is the image."""

    def __call__(self, image, *, train=False):
        return Features({8: image})


def test_danet_head():
    case = Golden("head_danet")
    model = Segmenter(Given(), DANet(19, channels=64), FCN(19, convs=0))
    out = apply(model, case, DANET_HEAD, nhwc(case.inputs()["x"]))
    for name, logits in {"fused": out.logits, **out.aux}.items():
        assert_golden(case, name.removeprefix("danet_"), nchw(logits))
