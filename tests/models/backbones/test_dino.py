"""DINOv2 with registers and DINOv3: numbers of timm and transformers, rotary positions, numbers of parameters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc

from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones.convnext import ConvNeXt, DINOv3ConvNeXt
from attnseg_jax.models.backbones.dinov3 import DINOv3ViT
from attnseg_jax.models.backbones.vit import ViT
from attnseg_jax.models.layers.vit import Block
from attnseg_jax.ops.rope import axial_angles, rotated
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.convnext import TRANSFORMERS_DINOV3_CONVNEXT
from attnseg_jax.weights.rules.vit import TIMM_VIT, TRANSFORMERS_DINOV3_VIT

FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Registers(ViT):
    width, depth, heads = 32, 3, 2


class Tiny(DINOv3ViT):
    width, depth, heads, mlp_ratio = 48, 3, 3, 2.0


class TinyGated(DINOv3ViT):
    width, depth, heads, mlp_ratio, gated = 32, 3, 4, 1.75, True


def watched(model):
    """(variables, image) -> features, what enters and leaves each block, and the last normalisation's tokens."""

    @FAST_COMPILE
    def run(variables, x):
        seen = {}

        def record(call, args, kwargs, context):
            y = call(*args, **kwargs)
            if isinstance(context.module, Block) or context.module.name == "norm":
                seen[context.module.name] = args[0], y
            return y

        with nn.intercept_methods(record):
            features = model.apply(variables, x)
        return features, seen

    return run


def loaded(model, case, rules, x):
    return match(jax.eval_shape(model.init, jax.random.key(0), x), from_torch(case.state_dict(), rules))


def test_dinov2_with_registers_of_timm():
    case = Golden("backbone_dinov2_reg4_timm_42x84")
    x = nhwc(case.inputs()["x"])
    model = Registers(patch_size=14, position_size=(5, 5), registers=4, class_position=False, layer_scale=1e-5)
    features, seen = watched(model)(loaded(model, case, TIMM_VIT, x), x)
    for i in range(3):
        assert_golden(case, f"block_{i}", nchw(seen[f"block{i}"][1][:, 5:].reshape(features.deepest.shape)))
    assert_golden(case, "tokens", seen["norm"][1])
    np.testing.assert_array_equal(features.extras["class_token"], seen["norm"][1][:, 0])


@pytest.mark.parametrize(
    "name, model, size",
    [
        ("backbone_dinov3_vit_tiny", Tiny(patch_size=8), (40, 56)),
        ("backbone_dinov3_vit_tiny_gated", TinyGated(registers=2), (96, 48)),
    ],
)
def test_dinov3(name, model, size):
    case = Golden(name)
    # The original does not see what is left over of the image; here it would be padded.
    x = nhwc(case.inputs()["x"])[:, : size[0], : size[1]]
    variables, run = loaded(model, case, TRANSFORMERS_DINOV3_VIT, x), watched(model)
    for gain, prefix in ((1, ""), (32, "gain/")):
        larger = jax.tree_util.tree_map_with_path(
            lambda path, leaf, gain=gain: leaf * gain if "layer_scale" in path[-1].key else leaf, variables
        )
        features, seen = run(larger, x)
        for i in (3,) if gain == 1 else (1, 2, 3):
            assert_golden(case, f"{prefix}hidden_{i}", seen[f"block{i - 1}"][1])
        assert_golden(case, f"{prefix}tokens", seen["norm"][1])
        if gain == 1:
            assert_golden(case, "embeddings", seen["block0"][0])
        else:
            assert_golden(case, "gain/map_3", nchw(features.deepest))
    p = model.patch_size
    angles = axial_angles(size[0] // p, size[1] // p, model.width // model.heads)
    assert_golden(case, "rope_cos", np.cos(angles))
    assert_golden(case, "rope_sin", np.sin(angles))


def test_rotary_positions_against_float64():
    """Channel by channel, and products depend on differences of positions alone."""
    x = np.random.default_rng(0).standard_normal((2, 9, 2, 8))
    found = rotated(jnp.asarray(x, jnp.float32), jnp.asarray(axial_angles(2, 3, 8, base=50.0)), first=2)
    expected = x.copy()
    for row, column, i in np.ndindex(2, 3, 4):
        centre = (2 * (row + 0.5) / 2 - 1, 2 * (column + 0.5) / 3 - 1)[i // 2]
        angle = 2 * np.pi * centre * 50.0 ** (-(i % 2) / 2)
        pair = x[:, 2 + 3 * row + column, :, i] + 1j * x[:, 2 + 3 * row + column, :, i + 4]
        pair = pair * np.exp(1j * angle)
        expected[:, 2 + 3 * row + column, :, i], expected[:, 2 + 3 * row + column, :, i + 4] = pair.real, pair.imag
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(found[:, [0, 1, 8]], jnp.asarray(x[:, [0, 1, 8]], jnp.float32))
    same = np.broadcast_to(x[:1, :1], (1, 12, 2, 8))
    turned = rotated(jnp.asarray(same, jnp.float32), jnp.asarray(axial_angles(3, 4, 8)))
    products = np.einsum("nad,mad->nm", turned[0], turned[0])
    np.testing.assert_allclose(products[0, 5], products[6, 11], rtol=1e-5)
    assert abs(products[0, 5] - products[0, 6]) > 1e-3


def count_of(name, size, **options):
    model = BACKBONES[name](**options)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *size, 3)))
    return sum(leaf.size for leaf in jax.tree.leaves(variables))


def published(c, depth, *, patch, registers, hidden, positions=0, key_bias=True, gated=False):
    """The numbers of a state dict of transformers, without the mask token: norms, LayerScale, attention, MLP."""
    mlp = (3 if gated else 2) * c * hidden + (2 if gated else 1) * hidden + c
    block = 4 * c + 2 * c + 4 * c * c + (4 if key_bias else 3) * c + mlp
    return depth * block + 3 * patch * patch * c + c + c * (1 + registers + positions) + 2 * c


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, options, expected",
    [
        # Without the mask token of the published 22,056,576, 86,580,480 and 304,368,640.
        ("dinov2_vit_s", {}, 22_056_192),
        ("dinov2_vit_s", {"registers": 4}, 22_057_728),
        ("dinov2_vit_b", {}, 86_579_712),
        ("dinov2_vit_l", {}, 304_367_616),
        ("dinov3_vit_s", {}, published(384, 12, patch=16, registers=4, hidden=1536, key_bias=False)),
        (
            "dinov3_vit_s_plus", {},
            published(384, 12, patch=16, registers=4, hidden=1536, key_bias=False, gated=True),
        ),
        ("dinov3_vit_b", {}, published(768, 12, patch=16, registers=4, hidden=3072, key_bias=False)),
        ("dinov3_vit_l", {}, published(1024, 24, patch=16, registers=4, hidden=4096, key_bias=False)),
        # torchvision's without their classifiers, but with the normalisation there; those of 192 channels are timm's.
        ("dinov3_convnext_t", {}, 28_589_128 - 769_000),
        pytest.param("dinov3_convnext_s", {}, 50_223_688 - 769_000, marks=pytest.mark.slow),
        pytest.param("dinov3_convnext_b", {}, 88_591_464 - 1_025_000, marks=pytest.mark.slow),
        ("dinov3_convnext_l", {}, 197_767_336 - 1_537_000),
    ],
)  # fmt: skip
def test_number_of_parameters(name, options, expected):
    assert count_of(name, (64, 58), **options) == expected


class TinyConvNeXt(DINOv3ConvNeXt):
    depths, widths = (1, 2, 2, 1), (8, 16, 24, 40)


class TinyStages(ConvNeXt):
    depths, widths = TinyConvNeXt.depths, TinyConvNeXt.widths


def test_dinov3_convnext():
    case = Golden("backbone_dinov3_convnext_tiny")
    x = nhwc(case.inputs()["x"])
    model = TinyConvNeXt()
    variables = loaded(model, case, TRANSFORMERS_DINOV3_CONVNEXT, x)
    without_norm = {"params": {name: leaf for name, leaf in variables["params"].items() if name != "norm"}}

    @FAST_COMPILE
    def run(x):
        plain = TinyStages().apply(without_norm, x)
        return plain, model.apply(variables, x)

    plain, features = run(x)
    for i, stride in enumerate((4, 8, 16, 32), 1):
        assert_golden(case, f"stage{i}", nchw(plain.maps[stride]))
    for stride in (4, 8, 16):
        np.testing.assert_allclose(features.maps[stride], plain.maps[stride], atol=1e-6)
    tokens = [features.extras["class_token"][:, None], features.deepest.reshape(2, -1, 40)]
    assert_golden(case, "tokens", jnp.concatenate(tokens, axis=1))


def normed(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def test_a_block_with_masked_last_tokens_against_float64(random_variables):
    """Rotation, keys without bias, a gated MLP, LayerScale; the masks of the last tokens are theirs alone."""
    rng = np.random.default_rng(3)
    x, mask = rng.standard_normal((1, 6, 8)).astype(np.float32), rng.random((1, 1, 2, 6)) < 0.6
    mask[..., 0] = True
    model = Block(2, mlp_ratio=1.5, gated=True, key_bias=False, layer_scale=0.5)
    angles = axial_angles(1, 3, 4)
    rotate = functools.partial(rotated, angles=jnp.asarray(angles), first=1)
    variables = random_variables(model, x)
    found = FAST_COMPILE(lambda v, x: model.apply(v, x, rotate=rotate, tail_mask=jnp.asarray(mask)))(variables, x)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    assert set(p["attention"]["key"]) == {"kernel"}

    def project(y, name):
        y = y @ p["attention"][name]["kernel"] + p["attention"][name].get("bias", 0)
        return y.reshape(6, 2, 4)

    def turned(y):
        y = y.copy()
        for n, i in np.ndindex(3, 2):
            pair = (y[1 + n, :, i] + 1j * y[1 + n, :, i + 2]) * np.exp(1j * np.float64(angles[n, i]))
            y[1 + n, :, i], y[1 + n, :, i + 2] = pair.real, pair.imag
        return y

    y = normed(x[0].astype(np.float64), p["norm1"])
    q, k, v = turned(project(y, "query")), turned(project(y, "key")), project(y, "value")
    scores = np.einsum("nad,mad->anm", q, k) / 2
    scores[:, 4:][:, ~mask[0, 0]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = np.einsum("anm,mad->nad", weights, v).reshape(6, 8) @ p["attention"]["out"]["kernel"]
    y = x[0] + p["layer_scale1"] * (y + p["attention"]["out"]["bias"])
    hidden = {name: normed(y, p["norm2"]) @ p[name]["kernel"] + p[name]["bias"] for name in ("mlp_gate", "mlp_in")}
    gate = hidden["mlp_gate"] / (1 + np.exp(-hidden["mlp_gate"]))
    assert gate.shape == (6, 12)
    y = y + p["layer_scale2"] * ((gate * hidden["mlp_in"]) @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"])
    np.testing.assert_allclose(found[0], y, atol=2e-5)


def test_derivatives_of_rotated_tokens():
    """The turned tokens' gradient is turned back, forward and backward, one image or several."""
    rng = np.random.default_rng(4)
    x, g = (jnp.asarray(rng.standard_normal((2, 5, 1, 8)), jnp.float32) for _ in range(2))
    angles = jnp.asarray(axial_angles(1, 3, 8))
    y, back = jax.vjp(lambda x: rotated(x, angles, first=1), x)
    _, forward = jax.jvp(lambda x: rotated(x, angles, first=1), (x,), (g,))
    np.testing.assert_allclose(back(g)[0], rotated(g, -angles, first=1), atol=1e-6)
    np.testing.assert_allclose(forward, rotated(g, angles, first=1), atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda x: rotated(x[None], angles, first=1)[0])(x), y, atol=1e-6)
