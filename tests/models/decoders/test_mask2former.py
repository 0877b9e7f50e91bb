"""Mask2Former: the original's pixel decoder and whole models, pre-norm against float64, sizes, types, parameters."""

import functools

import jax
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc

from attnseg_jax.models import ATTENTION, Segmenter
from attnseg_jax.models.backbones.base import variant
from attnseg_jax.models.backbones.resnet import ResNet
from attnseg_jax.models.backbones.swin import Swin
from attnseg_jax.models.decoders.mask2former import Mask2Former, PixelDecoder
from attnseg_jax.models.layers.attention import sine_positions
from attnseg_jax.models.records import RECORDS, attention_records
from attnseg_jax.weights.fit import fit
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.mask2former import MASK2FORMER_PIXEL_DECODER

FAST = {"xla_backend_optimization_level": 0}  # it compiles faster
TinyResNet = variant(ResNet, "TinyResNet", depths=(1, 2, 1, 1), bottleneck=True, widths=(4, 6, 8, 10), stem_width=8)
TinySwin = variant(Swin, "TinySwin", width=12, depths=(1, 2, 1, 1), heads=(1, 2, 3, 4), mlp_ratio=2.0)
COMMON = dict(pixel_channels=32, mask_channels=16, heads=4, pixel_mlp_ratio=1.5)
MODELS = {
    "model_mask2former_resnet_tiny": (
        TinyResNet(),
        Mask2Former(7, channels=24, queries=6, layers=3, mlp_ratio=40 / 24, pixel_layers=1, **COMMON),
        "transformers_mask2former+transformers_resnet",
    ),
    "model_mask2former_swin_tiny": (
        TinySwin(form="transformers", window=4, stage_norms=True),
        Mask2Former(7, channels=32, queries=5, layers=4, mlp_ratio=40 / 32, pixel_layers=2, **COMMON),
        "transformers_mask2former+transformers_swin",
    ),
}


def test_pixel_decoder_of_the_original():
    case = Golden("head_mask2former_pixel_decoder")
    maps = {4 << i: nhwc(case.inputs()[f"stage{i + 1}"]) for i in range(4)}
    model = PixelDecoder(64, 24, layers=2, heads=4, points=4, hidden=48)
    target = jax.eval_shape(model.init, jax.random.key(0), maps)
    variables = match(target, {"params": from_torch(case.state_dict(), MASK2FORMER_PIXEL_DECODER)["params"]})
    levels, pixels = jax.jit(model.apply, compiler_options=FAST)(variables, maps)
    for i, level in enumerate(levels):
        assert_golden(case, f"multi_scale_{i}", nchw(level))
    assert_golden(case, "mask_features", nchw(pixels))
    assert_golden(case, "position_stage4", nchw(sine_positions(2, 3, 64)[None]))


@pytest.mark.parametrize("name", MODELS)
def test_the_original(name):
    """Through the layouts, as a file would be read."""
    case = Golden(name)
    image = nhwc(case.inputs()["x"])
    backbone, decoder, layout = MODELS[name]
    model = Segmenter(backbone, ATTENTION["none"](), decoder)
    target = jax.eval_shape(model.init, jax.random.key(0), image)
    fitted = fit(case.state_dict(), target, part="model", num_classes=7, backbone=backbone)
    assert fitted.layout == layout and fitted.unfilled == ()
    variables = match(target, fitted.variables if target.get("batch_stats") else {"params": fitted.variables["params"]})

    @functools.partial(jax.jit, compiler_options=FAST)
    def run(variables, image):
        def parts(model, image):
            features = model.backbone(image)
            return features, model.decoder(features)

        (features, out), state = model.apply(variables, image, method=parts, mutable=[RECORDS])
        masks = [record.mask for record in attention_records(state[RECORDS]).values()]
        return features.maps, [*out.aux_queries.values(), out.queries], masks

    maps, queries, masks = run(variables, image)
    for stage, stride in enumerate((4, 8, 16, 32), 1):
        assert_golden(case, f"stage{stage}", nchw(maps[stride]))
    for i, found in enumerate(queries):
        assert_golden(case, f"class_{i}", found.classes)
        assert_golden(case, f"mask_{i}", found.masks)
    assert len(queries) == len(masks) + 1 == decoder.layers + 1
    for i, mask in enumerate(masks):
        assert_golden(case, f"masked_{i}", 1 - mask[:, 0].astype(np.int32))
