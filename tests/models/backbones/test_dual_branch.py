"""DDRNet and PIDNet: mmsegmentation's numbers, published sizes, images of any size, mistakes."""

import functools

import jax
import jax.numpy as jnp
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc
from sown import FAST_COMPILE

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES, Segmenter
from attnseg_jax.models.attention import ATTENTION
from attnseg_jax.models.decoders.ddr import DDR
from attnseg_jax.models.layers.context_pyramid import ContextPyramid
from attnseg_jax.ops.resize import resize
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.dual_branch import MMSEG_PPM

# Golden -> backbone, channels of the head, layout, whether logits are enlarged with aligned corners.
CASES = {
    "model_ddrnet23_slim": ("ddrnet23_slim", 64, "mmseg_ddr+mmseg_ddrnet", False),
    "model_pidnet_s": ("pidnet_s", 128, "mmseg_pid+mmseg_pidnet", True),
}
# In millions, with the head of inference for 19 classes, as the papers count them. Those of the goldens are exact.
PAPER = {"ddrnet23_slim": (5.7, 64), "pidnet_s": (7.6, 128), "pidnet_l": (36.9, 256)}


def abstract(model, size, channels=3):
    image = jnp.zeros((2, *size, channels))
    return jax.eval_shape(lambda key: model.init_with_output(key, image), jax.random.key(0))


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["model_ddrnet23_slim", pytest.param("model_pidnet_s", marks=pytest.mark.slow)])
def test_the_original(name):
    backbone, channels, layout, aligned = CASES[name]
    case = Golden(name)
    x = nhwc(case.inputs()["x"])
    decoder = DDR(7, channels=channels, auxiliary=True, boundary=backbone == "pidnet_s")
    model = Segmenter(BACKBONES[backbone](), ATTENTION["none"](), decoder)
    target = jax.eval_shape(model.init, jax.random.key(0), x)
    variables = match(target, from_torch(case.state_dict(), rules_of(layout)))

    def parts(model, x):
        features = model.backbone(x)
        return features.deepest, model.decoder(features)

    run = functools.partial(model.apply, method=parts, capture_intermediates=True, mutable=["intermediates"])
    (features, out), state = FAST_COMPILE(run)(variables, x)
    seen = {
        name: node["__call__"][0] for name, node in state["intermediates"]["backbone"].items() if name != "__call__"
    }
    found = {"features": features, "logits": out.logits, "spp": seen["pyramid"]}
    found["logits_full"] = resize(out.logits, x.shape[1:3], align_corners=aligned)
    if name == "model_pidnet_s":
        found |= {"pag_1": seen["fuse1"], "pag_2": seen["fuse2"], "train/p_logits": out.aux["ddr"]}
        found |= {"train/i_logits": out.logits, "train/d_logits": out.edges}
    else:
        found |= {"train/context_logits": out.logits, "train/spatial_logits": out.aux["ddr"]}
    assert {*found} == {*case.info["outputs"]}
    for name, value in found.items():
        assert_golden(case, name, nchw(value))


@pytest.mark.parametrize("name, serial", [("dappm", True), ("pappm", False)])
def test_the_pyramids_of_the_original(name, serial):
    case = Golden("head_ppm_ddrnet_pidnet")
    x = nhwc(case.inputs()["x"])
    state = {n.removeprefix(f"{name}."): array for n, array in case.state_dict().items() if n.startswith(name)}
    model = ContextPyramid(6, 10, serial)
    target = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), x)
    variables = match(target, from_torch(state, MMSEG_PPM))
    assert_golden(case, name, nchw(FAST_COMPILE(functools.partial(model.apply, train=False))(variables, x)))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "pidnet_l")) for n in PAPER])
def test_number_of_parameters(name):
    millions, channels = PAPER[name]
    model = Segmenter(BACKBONES[name](), ATTENTION["none"](), DDR(19, channels=channels))
    _, variables = abstract(model, (45, 58))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert abs(count / 1e6 - millions) < 0.11


@pytest.mark.parametrize("size, expected", [((45, 58), (6, 8)), ((1, 9), (1, 2))])
def test_sizes_of_the_maps(size, expected):
    features, variables = abstract(BACKBONES["ddrnet23_slim"](), size, 5)
    assert {stride: x.shape for stride, x in features.maps.items()} == {8: (2, *expected, 128)}
    assert features.extras["spatial"].shape == (2, *expected, 64)
    assert variables["params"]["stem1"]["conv"]["kernel"].shape == (3, 3, 5, 32)


def test_mistakes():
    for option, branch in (("auxiliary", "fine"), ("boundary", "boundary")):
        config = {"decoder": {"name": "ddr", "ddr": {option: True}}}
        with pytest.raises(
            UserError, match=rf"decoder\.ddr\.{option}=True needs a backbone with a {branch} branch, such"
        ):
            abstract(build_model(config, 7), (33, 45))
