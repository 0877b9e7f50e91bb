"""DPT: the numbers of transformers and segmentation_models.pytorch, maps of other backbones, readouts, mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc
from sown import FAST_COMPILE

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import Features, Segmenter
from attnseg_jax.models.attention import ATTENTION
from attnseg_jax.models.backbones import vit
from attnseg_jax.models.decoders.dpt import DPT
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import from_torch, match


def seen(state, *path):
    """What a submodule returned."""
    return nchw(functools.reduce(lambda node, name: node[name], path, state["intermediates"])["__call__"][0])


def test_the_neck_and_heads_of_transformers():
    """Of tokens on a grid that is not square."""
    case = Golden("head_dpt_neck")
    tokens = [jnp.asarray(case.inputs()[f"tokens_{i}"]) for i in range(4)]
    outputs = tuple((x[:, 1:].reshape(2, 3, 5, 32), x[:, 0]) for x in tokens)
    features = Features({16: outputs[-1][0]}, {"outputs": outputs})
    model = DPT(7, channels=8, reassembled=(8, 12, 16, 20), batch_norm=False, auxiliary=True)
    loaded = from_torch(case.state_dict(), rules_of("transformers_dpt+transformers_vit"))
    variables = {name: tree["decoder"] for name, tree in loaded.items()}
    match(jax.eval_shape(model.init, jax.random.key(0), features), variables)
    run = FAST_COMPILE(functools.partial(model.apply, capture_intermediates=True, mutable=["intermediates"]))
    out, state = run(variables, features)
    found = {"logits": nchw(out.logits), "aux_logits": nchw(out.aux["dpt"])}
    found |= {"reassembled_1": seen(state, "resize1"), "reassembled_2": seen(state, "narrow2")}
    found |= {"reassembled_3": seen(state, "resize3"), "fused_0": seen(state, "project3")}
    found["fused_1"] = seen(state, "project2")
    assert sorted(found) == sorted(case.info["outputs"])
    for name, value in found.items():
        assert_golden(case, name, value)


def test_transformers():
    """The whole model; logits of an odd grid are larger than the image."""
    case = Golden("model_dpt_tiny_48x48")
    x = nhwc(case.inputs()["x"])
    sizes = vit.variant(vit.ViT, "Tiny", width=32, depth=5, heads=4, mlp_ratio=1.5)
    options = {"position_size": (4, 4), "position_resize": "bilinear", "position_antialias": False}
    backbone = sizes(norm_epsilon=1e-12, outputs=(0, 1, 3, 4), **options)
    decoder = DPT(7, channels=8, reassembled=(8, 12, 16, 20), batch_norm=False, auxiliary=True)
    model = Segmenter(backbone, ATTENTION["none"](), decoder)
    loaded = from_torch(case.state_dict(), rules_of("transformers_dpt+transformers_vit"))
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)

    def parts(model, x):
        features = model.backbone(x)
        return features.extras["outputs"], model.decoder(features)

    outputs, out = FAST_COMPILE(functools.partial(model.apply, method=parts))(variables, x)
    for i, (patches, token) in zip((1, 2, 4, 5), outputs):
        assert_golden(case, f"block_{i}", jnp.concatenate([token[:, None], patches.reshape(2, 9, 32)], axis=1))
    assert_golden(case, "logits", nchw(out.logits))
    assert_golden(case, "aux_logits", nchw(out.aux["dpt"]))
    whole = jax.eval_shape(model.apply, variables, x)
    assert whole.logits.shape == whole.aux["dpt"].shape == (2, 48, 48, 7)


@pytest.mark.thorough
def test_smp():
    case = Golden("model_smp_dpt_vit_tiny")
    x = nhwc(case.inputs()["x"])
    backbone = vit.variant(vit.ViT, "Tiny", width=24, depth=12, heads=2)(position_size=(4, 4), outputs=(2, 5, 8, 11))
    decoder = DPT(7, channels=12, reassembled=(8, 12, 16, 20), first_unit=True)
    model = Segmenter(backbone, ATTENTION["none"](), decoder)
    loaded = from_torch(case.state_dict(), rules_of("smp_dpt+timm_vit"))
    variables = match(jax.eval_shape(model.init, jax.random.key(0), x), loaded)
    assert_golden(case, "logits", nchw(FAST_COMPILE(model.apply)(variables, x).logits))


@pytest.mark.thorough
@pytest.mark.parametrize("readout, dtype", [("add", jnp.float32), ("ignore", jnp.bfloat16)])
def test_readouts(readout, dtype, random_variables):
    """The class token is added to every patch, or has no effect; images stay apart."""
    rng = np.random.default_rng(0)
    maps = [jnp.asarray(rng.standard_normal((2, 2, 3, 6)), jnp.float32) for _ in range(4)]
    tokens = [jnp.asarray(rng.standard_normal((2, 6)), jnp.float32) for _ in range(4)]
    model = DPT(3, channels=4, reassembled=(4, 5, 6, 7), readout=readout, dtype=dtype)

    def features(maps, tokens):
        return Features({16: maps[-1]}, {"outputs": tuple(zip(maps, tokens))})

    variables = random_variables(model, features(maps, tokens))
    run = FAST_COMPILE(model.apply)
    logits = run(variables, features(maps, tokens)).logits
    assert logits.shape == (2, 32, 64, 3) and logits.dtype == jnp.float32
    zeros = [jnp.zeros_like(token) for token in tokens]
    moved = [x + t[:, None, None] for x, t in zip(maps, tokens)] if readout == "add" else maps
    np.testing.assert_allclose(run(variables, features(moved, zeros)).logits, logits, atol=1e-5)


def test_options_that_do_not_fit():
    def trace(**backbone):
        config = {"backbone": {"name": "vit_ti", "vit_ti": backbone}, "decoder": {"name": "dpt"}}
        return jax.eval_shape(build_model(config, 7).init, jax.random.key(0), jnp.zeros((1, 32, 64, 3)))

    with pytest.raises(UserError, match=r"vit_ti\.outputs=\(2, 5, 8, 12\) must name blocks from 0 to 11"):
        trace(outputs=(2, 5, 8, 12))
    with pytest.raises(UserError, match=r"dpt\.reassembled=\(96, 192, 384, 768\) are those of 4 blocks; .* names 2:"):
        trace(outputs=(5, 11))
    with pytest.raises(UserError, match=r"dpt\.strides=.* asks for a map of stride 4; .* set its outputs to four"):
        trace()
    assert "readout3" in trace(outputs=(2, 5, 8, 11))["params"]["decoder"]
    # Of other maps nothing is reassembled.
    names = trace(pyramid=True)["params"]["decoder"]
    assert "lateral3" in names and not any(name.startswith(("readout", "narrow", "resize")) for name in names)
