"""Whole models of the originals: their names into ours, their logits."""

import functools

import jax
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc

from attnseg_jax import build_model
from attnseg_jax.models.decoders.fpn import SMP_FPN
from attnseg_jax.models.pretrained import RESNET, from_torch, match
from attnseg_jax.ops.resize import resize

LEVEL_0 = {"xla_backend_optimization_level": 0}  # it compiles faster


def variables_of(model, case, rules, image):
    """The golden's parameters, after a check that they are all of the model's and no others."""
    target = jax.eval_shape(model.init, jax.random.key(0), image)
    return match(target, from_torch(case.state_dict(), rules))


@functools.cache
def encoded(backbone, case_name):
    """Features of the encoder of a case; cases share its weights and image, and so a compilation."""
    case = Golden(case_name)
    rules = (*RESNET, (r"^(decoder|segmentation_head)\..*", None), (r"^encoder\.", ""))
    return jax.jit(backbone.apply, compiler_options=LEVEL_0)(from_torch(case.state_dict(), rules), image_of(case))


def image_of(case):
    return nhwc(case.inputs()["x"])


def decode(model, variables, features):
    """The decoder alone: its logits have the size of its maps, and the originals enlarge them differently."""
    own = {collection: tree["decoder"] for collection, tree in variables.items() if "decoder" in tree}
    return jax.jit(model.decoder.apply, compiler_options=LEVEL_0)(own, features)


@pytest.mark.parametrize("name, rules, encoder, config", [("model_smp_fpn_resnet18", SMP_FPN, {}, {"name": "fpn"})])
def test_smp(name, rules, encoder, config):
    case = Golden(name)
    image = image_of(case)
    config = {"backbone": {"name": "resnet18", "resnet18": encoder}, "attention": {"name": "none"}, "decoder": config}
    model = build_model(config, num_classes=19)
    variables = variables_of(model, case, (*RESNET, *rules), image)
    out = decode(model, variables, encoded(model.backbone, name))
    assert_golden(case, "logits", nchw(resize(out.logits, image.shape[1:3], align_corners=True)))
