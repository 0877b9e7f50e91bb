"""UPerNet of transformers: its ConvNeXt, and its head on the stored maps of both encoders."""

import jax
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc
from sown import FAST_COMPILE

from attnseg_jax.models.backbones.base import variant
from attnseg_jax.models.backbones.convnext import ConvNeXt
from attnseg_jax.models.decoders.pyramid import UPer
from attnseg_jax.models.features import Features
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import from_torch, match

STRIDES = (4, 8, 16, 32)


def part(case, layout, name):
    """The variables of the decoder or the backbone; the auxiliary head is left out."""
    loaded = from_torch(case.state_dict(), rules_of(layout))
    assert loaded["params"].keys() == {"backbone", "decoder"}
    return {collection: tree[name] for collection, tree in loaded.items() if name in tree}


@pytest.mark.parametrize("encoder", ["swin", "convnext"])
def test_the_head(encoder):
    case = Golden(f"model_upernet_{encoder}_tiny")
    maps = {stride: nhwc(case.expected(f"stage{i}")) for i, stride in enumerate(STRIDES, 1)}
    model, features = UPer(7, channels=24), Features(maps)
    variables = part(case, f"transformers_upernet+transformers_{encoder}", "decoder")
    match(jax.eval_shape(model.init, jax.random.key(0), features), variables)
    assert_golden(case, "head_logits", nchw(FAST_COMPILE(model.apply)(variables, features).logits))


def test_its_convnext():
    case = Golden("model_upernet_convnext_tiny")
    tiny = variant(ConvNeXt, "Tiny", depths=(1, 1, 2, 1), widths=(8, 12, 20, 28))
    backbone, image = tiny(stage_norms=True), nhwc(case.inputs()["x"])
    variables = {"params": part(case, "transformers_upernet+transformers_convnext", "backbone")["params"]}
    match(jax.eval_shape(backbone.init, jax.random.key(0), image), variables)
    maps = FAST_COMPILE(lambda variables, image: backbone.apply(variables, image).maps)(variables, image)
    for i, stride in enumerate(STRIDES, 1):
        assert_golden(case, f"stage{i}", nchw(maps[stride]))
