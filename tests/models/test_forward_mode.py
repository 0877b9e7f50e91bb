"""Forward mode through whole models, abstractly: one model of each family, every operation with its own gradient."""

import jax
import jax.numpy as jnp
import pytest

from attnseg_jax import build_model

# backbone, attention, decoder, options
MODELS = {
    "tiny local": ("tiny", "local", "fcn", {}),
    "resnet self": ("resnet18", "self", "fcn", {"attention": {"self": {"impl": "chunked"}}}),
    "efficientnet": ("efficientnet_lite0", "ema", "fpn", {}),
    "segformer": ("mit_b0", "none", "segformer", {"backbone": {"mit_b0": {"impl": "chunked"}}}),
    "mobilenet criss-cross": ("mobilenet_v3_large", "criss_cross", "lraspp", {}),
    "vit": ("vit_ti", "none", "mask_transformer", {"backbone": {"vit_ti": {"impl": "chunked"}}}),
    "swin": ("swin_t", "none", "fcn", {}),
    "convnext": ("convnext_t", "none", "deeplabv3plus", {}),
    "mscan": ("mscan_t", "litemla", "ham", {}),
    "efficientvit": ("efficientvit_b0", "hamburger", "fcn", {}),
    "dpt": ("vit_ti", "none", "dpt", {"backbone": {"vit_ti": {"outputs": (2, 5, 8, 11)}}}),
    "pidnet": ("pidnet_s", "none", "ddr", {"decoder": {"ddr": {"auxiliary": True}}}),
    "manet": ("resnet18", "conv", "manet", {}),
    "unet": ("unet", "gate", "unet", {}),
    "segnet": ("vgg16", "none", "segnet", {"backbone": {"vgg16": {"output_stride": 32}}}),
    "vgg": ("vgg16", "encnet", "fcn", {}),
}
FAST = ("tiny local", "resnet self", "efficientnet", "segformer")


@pytest.mark.thorough
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in MODELS])
def test_tangent_of_the_logits(name):
    """By image and parameters, in training."""
    backbone, attention, decoder, options = MODELS[name]
    names = {"backbone": backbone, "attention": attention, "decoder": decoder}
    model = build_model({part: {"name": name, **options.get(part, {})} for part, name in names.items()}, 7)
    image = jax.ShapeDtypeStruct((2, 64, 96, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def tangent(variables, image):
        statistics = {name: values for name, values in variables.items() if name != "params"}

        def logits(params, image):
            rngs = {"dropout": jax.random.key(0)}
            out, _ = model.apply(
                {"params": params, **statistics}, image, train=True, rngs=rngs, mutable=["batch_stats"]
            )
            return out.logits

        arrays = variables["params"], image
        return jax.jvp(logits, arrays, arrays)[1]

    assert jax.eval_shape(tangent, variables, image).shape == (2, 64, 96, 7)
