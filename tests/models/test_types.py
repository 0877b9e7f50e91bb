"""All annotations of the room, checked by beartype in a fresh process while every kind of part runs."""

import pathlib
import subprocess
import sys

import pytest

CODE = """
import jax, jax.numpy as jnp
from jaxtyping import TypeCheckError, install_import_hook
with install_import_hook("attnseg_jax.models", "beartype.beartype"):
    from attnseg_jax import models
    import attnseg_jax.weights.rename

def run(model, train):
    def logits(key, image):  # a struct would leave eval_shape with abstract fields, which are no arrays
        variables = model.init(key, image)
        out, _ = model.apply(variables, image, train=train, rngs={"dropout": key}, mutable=["batch_stats"])
        return out.logits
    return jax.eval_shape(logits, jax.random.key(0), jnp.zeros((2, 61, 83, 3)))

options = {"positions": "learned", "mlp_ratio": 1.5, "dropout": 0.1, "channels": 12, "heads": 3}
attention = {"name": "self+none", "self": options}
for backbone, skips in (("tiny", (2,)), ("resnet18", (8, 4))):
    decoder = {"fcn": {"skips": skips}, "aux": True, "aux_stride": 4}
    config = {"backbone": {"name": backbone}, "attention": attention, "decoder": decoder}
    for dtype, train in ((jnp.float32, False), (jnp.bfloat16, True)):
        assert run(models.build_model(config, 7, dtype=dtype), train).shape == (2, 61, 83, 7)
skips = {"fcn": {"skips": (2,)}}
for attention in models.ATTENTION:
    config = {"backbone": {"tiny": {"width": 16}}, "attention": {"name": attention}, "decoder": skips}
    assert run(models.build_model(config, 7, dtype=jnp.bfloat16), True).shape == (2, 61, 83, 7)
for decoder in models.DECODERS:
    backbone = {"name": {"segnet": "vgg16_bn", "eomt": "dinov3_vit_s"}.get(decoder, "resnet18")}
    config = {"backbone": backbone, "attention": {"name": "none"}, "decoder": {"name": decoder}}
    assert run(models.build_model(config, 7, dtype=jnp.bfloat16), True).shape == (2, 61, 83, 7)
try:
    models.BACKBONES["tiny"]().init(jax.random.key(0), jnp.zeros((61, 83, 3)))
except TypeCheckError:
    print("checked")
"""


@pytest.mark.thorough
def test_annotations_are_true():
    root = pathlib.Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", CODE], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "checked\n"
