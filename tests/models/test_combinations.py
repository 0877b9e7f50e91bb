"""Every backbone, mechanism and decoder together (abstractly, at odd sizes); a pair that makes no sense says why."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import ATTENTION, BACKBONES, DECODERS
from attnseg_jax.models.attention.base import Attention
from attnseg_jax.models.backbones.base import variant
from attnseg_jax.models.records import RECORDS, attention_records

SMALL = (61, 83)
# Its map of stride 32 is larger than any window or reduction, also where every halving leaves out an odd row.
LARGE = (293, 347)
# The first backbone of every family.
FAMILIES = list({module.__module__: name for name, module in reversed(BACKBONES.items())}.values())[::-1]
# What decoders tell apart: which strides there are, whether odd sizes are rounded up, pooling indices, class tokens.
DIFFERENT = ["tiny", "resnet18", "segnet_basic", "unet", "vit_ti", "convnext_t"]
# Mechanisms that also act in or after the decoder.
JOINTS = [
    name
    for name, module in ATTENTION.items()
    if module.gate is not Attention.gate or module.refine is not Attention.refine
]
# Those that return more channels, with which queries from within the backbone cannot be compared.
WIDENING = ("criss_cross", "psa")
GATED = ("fcn", "unet", "deeplabv3plus", "manet", "linknet")
SAMPLE = [
    ("tiny", "gate", "unet"),
    ("mobilenet_v3_large", "self", "lraspp"),
    pytest.param("mit_b0", "none", "fpn", marks=pytest.mark.slow),
]
# Layers that repeat take time to trace.
SHALLOW = {
    "masked_attention": {"layers": 2},
    "mask2former": {"layers": 1, "pixel_layers": 1},
    "eomt": {"blocks": 2},
}


def build(dtype=jnp.float32, **names):
    config = {part: {"name": name} for part, name in names.items()}
    # The gate acts on skips, which the fcn has on request.
    fcn = {"skips": (4,)} if names.get("attention") == "gate" else {}
    config["decoder"] = {"name": "fcn", **config.get("decoder", {}), **SHALLOW, "fcn": fcn}
    return build_model(config, num_classes=7, dtype=dtype)


@functools.cache
def maps_of(backbone, size=SMALL, dtype=jnp.float32):
    """Shapes of the features of a backbone and of its variables."""
    model = build(dtype, backbone=backbone).backbone
    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    return jax.eval_shape(model.init_with_output, jax.random.key(0), image)


class Given(nn.Module):
    """Stands for a backbone whose features are known, so that pairs are cheap to try."""

    of: str
    size: tuple[int, int]
    dtype: type = jnp.float32

    def __call__(self, image, *, train=False):
        features, _ = maps_of(self.of, self.size, self.dtype)
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), features)


def check(model, size=SMALL, train=True):
    """Runs the model abstractly, in evaluation and, with `train`, in training; returns its output and records."""

    def both(key, image):
        variables = model.init(key, image)  # in evaluation
        mutable = ["batch_stats", RECORDS]
        out, updated = model.apply(variables, image, train=train, rngs={"dropout": key}, mutable=mutable)
        records = attention_records(updated.pop(RECORDS, {}))
        assert jax.tree.structure(updated) == jax.tree.structure({k: v for k, v in variables.items() if k != "params"})
        return out, records, variables

    image = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    out, records, variables = jax.eval_shape(both, jax.random.key(0), image)
    for logits in (out.logits, *out.aux.values()):
        assert logits.shape == (2, *size, 7) and logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    return out, records


def served(backbone, decoder, attention="none", size=SMALL, dtype=jnp.float32, train=True):
    """Whether a combination runs; where it does not, the reason must be one a user can act on, and true."""
    maps = maps_of(backbone, size, dtype)[0].maps  # now, since a module cannot be built inside another's call
    model = build(dtype, backbone=backbone, attention=attention, decoder=decoder)
    if DECODERS[decoder].visits and BACKBONES[backbone].takes_visitors:
        # What visits the blocks of a backbone needs blocks, if only as many.
        model = model.clone(backbone=variant(BACKBONES[backbone], "Shallow", depth=2)(dtype=dtype))
    else:
        model = model.clone(backbone=Given(backbone, size, dtype))
    try:
        _, records = check(model, size, train)
    except UserError as error:
        message = str(error)
        if "weights a decoder's skips" in message:
            assert message.startswith("config.model.attention.")
            assert model.attention.has_gate and not (decoder in GATED and len(maps) > 1)
            assert ("pyramid=True" in message) == BACKBONES[backbone].takes_visitors
            return False
        assert re.fullmatch(rf"config\.model\.decoder\.{decoder}\b[^\n]+: [^\n]+", message), message
        if asked := re.search(r"asks for a map of stride (\d+); the backbone has ([\d, ]+):", message):
            assert int(asked[1]) not in maps and asked[2] == ", ".join(map(str, sorted(maps)))
        return False
    assert not model.attention.has_gate or any(name.startswith("gate") for name in records)
    return True


@functools.cache
def first_served(decoder):
    """A family that serves the decoder, ResNet if it does."""
    return next(family for family in ("resnet18", *FAMILIES) if served(family, decoder, train=False))


# The other sizes are traced where their parameters are counted.
@pytest.mark.thorough
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAMILIES)) for n in BACKBONES])
def test_every_backbone(name):
    features, variables = maps_of(name, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert {x.dtype for x in features.maps.values()} == {jnp.dtype(jnp.bfloat16)}
    sizes = [features.maps[stride].shape for stride in sorted(features.maps)]
    assert all(b == 2 for b, *_ in sizes)
    assert sorted(sizes, key=lambda size: -size[1] * size[2]) == sizes
    assert served(name, "fcn", dtype=jnp.bfloat16)


@pytest.mark.parametrize("name", ATTENTION)
def test_every_mechanism(name):
    assert served("tiny", "fcn", name, LARGE, jnp.bfloat16)


@pytest.mark.thorough
@pytest.mark.parametrize("families", [DIFFERENT, pytest.param(FAMILIES, marks=pytest.mark.slow)], ids=["some", "all"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_after_every_family(decoder, families):
    found = [family for family in families if served(family, decoder, train=False)]
    if DECODERS[decoder].visits:
        assert found == [family for family in families if BACKBONES[family].takes_visitors]
    elif len(found) > 1:
        assert "resnet18" in found
    assert served(found[0] if found else first_served(decoder), decoder, dtype=jnp.bfloat16)


@pytest.mark.thorough
@pytest.mark.parametrize("attention", JOINTS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_mechanisms_that_act_in_every_decoder(attention, decoder):
    runs = served(first_served(decoder), decoder, attention, LARGE)
    assert runs == (decoder in GATED or not ATTENTION[attention].has_gate)


@pytest.mark.thorough
def test_a_stack_of_different_mechanisms():
    assert served("tiny", "fcn", "+".join(name for name in ATTENTION if name != "gate"), LARGE)


@pytest.mark.thorough
@pytest.mark.parametrize("backbone, attention, decoder", SAMPLE)
def test_a_sample_runs(backbone, attention, decoder, random_variables):
    model = build(backbone=backbone, attention=attention, decoder=decoder)
    image = np.random.default_rng(0).standard_normal((1, 45, 70, 3)).astype(np.float32)
    variables = random_variables(model, image)
    out = jax.jit(model.apply, compiler_options={"xla_backend_optimization_level": 0})(variables, image)
    assert out.logits.shape == (1, 45, 70, 7)
    assert np.isfinite(out.logits).all() and np.std(out.logits, axis=(1, 2)).min() > 0


@pytest.mark.slow
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_pair_as_a_whole(backbone, decoder):
    if served(backbone, decoder):
        check(build(backbone=backbone, attention="none", decoder=decoder))


@pytest.mark.slow
@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("backbone, decoder", [*itertools.product(FAMILIES, DECODERS)])
def test_every_combination(backbone, attention, decoder):
    runs = served(backbone, decoder, attention, LARGE)
    has_skips = decoder in GATED and len(maps_of(backbone, LARGE)[0].maps) > 1
    if runs is False and DECODERS[decoder].visits and attention in WIDENING:
        return
    assert runs == ((has_skips or not ATTENTION[attention].has_gate) and served(backbone, decoder, size=LARGE))
