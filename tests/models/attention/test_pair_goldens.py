"""Outputs of the originals: non-local, DANet, SegFormer's attention, OCR, ISA."""

import functools

import jax
import numpy as np
import pytest
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import DANET_CHANNEL, DANET_HEAD, DANET_POSITION, ISA, NONLOCAL
from sown import with_records

from attnseg_jax.models import Features, Segmenter
from attnseg_jax.models.attention import OCR, DANet, EfficientAttention, Interlaced, NonLocal
from attnseg_jax.models.decoders import FCN
from attnseg_jax.ops.attention.ocr import region_means, region_weights
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.mit import SEGFORMER_ATTENTION
from attnseg_jax.weights.rules.originals import OCR_MODULES


def apply(model, case, rules, *inputs, **options):
    """Output and records with the golden's parameters, which are all of the model's and no others."""
    target = jax.eval_shape(functools.partial(model.init, **options), jax.random.key(0), *inputs)
    target = {"batch_stats": {}, **target}
    return with_records(model, **options)(match(target, from_torch(case.state_dict(), rules)), *inputs)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, model, rules, options",
    [
        ("nonlocal_dot", NonLocal(form="dot_product", sub_sample=False), NONLOCAL, {"method": "attend"}),
        ("nonlocal_gauss", NonLocal(sub_sample=False), NONLOCAL, {"method": "attend"}),
        ("nonlocal_gauss_sub_nobn", NonLocal(channels=16, norm=False), NONLOCAL, {"method": "attend"}),
        ("danet_pam", DANet(), DANET_POSITION, {"method": "position"}),
        ("danet_cam", DANet(), DANET_CHANNEL, {"method": "channel"}),
        ("segformer_sr4", EfficientAttention(heads=2, reduction=4), SEGFORMER_ATTENTION, {"method": "attend"}),
        ("isa_block8", Interlaced(channels=32, key_channels=16), ISA, {"method": "stages", "channels": 48}),
        (
            "isa_module",
            Interlaced(channels=32, key_channels=16, factors=(4, 4)),
            ISA,
            {"method": "context", "channels": 48},
        ),
    ],
)
def test_block(name, model, rules, options):
    case = Golden(f"attn_{name}_13x17")
    y, records = apply(model, case, rules, nhwc(case.inputs()["x"]), **options)
    assert_golden(case, "y", nchw(y))
    if "weights" in case.info["outputs"]:
        (record,) = records.values()
        shape = case.info["outputs"]["weights"]["shape"]
        assert_golden(case, "weights", record.weights.reshape(shape))


@pytest.mark.parametrize(
    "name, options", [("object", {"method": "gather"}), ("module", {"method": "context", "channels": 48})]
)
def test_object_context(name, options):
    case = Golden(f"attn_ocr_{name}_13x17")
    x, logits = (nhwc(case.inputs()[name]) for name in ("x", "logits"))
    regions = region_means(x, region_weights(logits))
    y, _ = apply(OCR(key_channels=32), case, OCR_MODULES, x, regions, **options)
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
    model = Segmenter(Given(), DANet(num_classes=19, channels=64), FCN(num_classes=19, convs=0))
    out, _ = apply(model, case, DANET_HEAD, nhwc(case.inputs()["x"]))
    for name, logits in {"fused": out.logits, **out.aux}.items():
        assert_golden(case, name.removeprefix("danet_"), nchw(logits))
