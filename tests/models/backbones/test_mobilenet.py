"""MobileNetV3: the original's numbers inside torchvision's LR-ASPP, published size, sizes of the maps, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import MobileNetV3Head
from flax import linen as nn
from golden import Golden
from layout import assert_golden, nchw, nhwc
from layout_rules import TORCHVISION_MOBILENET_V3_HEAD

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models.backbones.mobilenet import MobileNetV3Large
from attnseg_jax.models.layers.conv import Conv, ConvBN, classifier
from attnseg_jax.ops.resize import resize
from attnseg_jax.weights.rename import Part, from_torch, match
from attnseg_jax.weights.rules.mobilenet import TORCHVISION_MOBILENET_V3


def abstract(model, *inputs):
    return jax.eval_shape(lambda key, *inputs: model.init_with_output(key, *inputs), jax.random.key(0), *inputs)


def image(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


class Lraspp(nn.Module):
    """torchvision's segmentation head around the backbone, step by step."""

    backbone: nn.Module

    @nn.compact
    def __call__(self, x):
        maps = self.backbone(x).maps
        low, high = maps[8], maps[32]
        gate = nn.sigmoid(Conv(128, 1, name="scale")(high.mean((1, 2), keepdims=True)))
        high = resize(ConvBN(128, 1, name="cbr")(high, train=False) * gate, low.shape[1:3])
        logits = classifier(21, "low_classifier")(low) + classifier(21, "high_classifier")(high)
        return resize(logits, x.shape[1:3])


@pytest.mark.thorough
def test_the_original():
    case = Golden("model_lraspp_mobilenet_v3_large")
    rules = (
        Part(r"^backbone\.", TORCHVISION_MOBILENET_V3, "backbone."),
        (r"^classifier\.cbr\.0\.", "cbr.conv."),
        (r"^classifier\.cbr\.1\.", "cbr.bn."),
        (r"^classifier\.scale\.1\.", "scale."),
        (r"^classifier\.", ""),
    )
    x = nhwc(case.inputs()["x"])
    model = Lraspp(MobileNetV3Large(output_stride=16))
    _, variables = abstract(model, x)
    variables = match(variables, from_torch(case.state_dict(), rules))
    apply = jax.jit(model.apply, compiler_options={"xla_backend_optimization_level": 0})  # it compiles faster
    assert_golden(case, "out", nchw(apply(variables, x)))


def test_number_of_parameters():
    features, variables = abstract(MobileNetV3Large(), image(2, 61, 83, 3))
    _, head = abstract(MobileNetV3Head(1000), features)
    assert sum(leaf.size for leaf in jax.tree.leaves((variables["params"], head["params"]))) == 5_483_032


def test_the_names_of_the_classifier():
    case = Golden("model_lraspp_mobilenet_v3_large")
    state = {
        name.replace("backbone.", "features."): array
        for name, array in case.state_dict().items()
        if name.startswith("backbone.")
    }
    for i, shape in ((0, (1280, 960)), (3, (1000, 1280))):
        state |= {f"classifier.{i}.weight": np.ones(shape), f"classifier.{i}.bias": np.ones(shape[0])}
    features, variables = abstract(MobileNetV3Large(), image(2, 61, 83, 3))
    match(variables, from_torch(state, TORCHVISION_MOBILENET_V3))
    _, head = abstract(MobileNetV3Head(1000), features)
    match(head, {"params": from_torch(state, TORCHVISION_MOBILENET_V3_HEAD)["params"]})


@pytest.mark.parametrize(
    "output_stride, sizes",
    [
        (32, [(31, 42), (16, 21), (8, 11), (4, 6), (2, 3)]),
        (8, [(31, 42), (16, 21), (8, 11), (8, 11), (8, 11)]),
    ],
)
def test_sizes_of_the_maps(output_stride, sizes):
    features, _ = abstract(MobileNetV3Large(output_stride=output_stride), image(2, 61, 83, 5))
    assert {stride: found.shape for stride, found in features.maps.items()} == {
        2 ** (i + 1): (2, *size, c) for i, (size, c) in enumerate(zip(sizes, (16, 24, 40, 80, 960), strict=True))
    }


def test_unknown_output_stride():
    with pytest.raises(
        UserError, match=r"config\.model\.backbone\.mobilenet_v3_large\.output_stride=4 is unknown: choose 8, 16 or 32"
    ):
        build_model({"backbone": {"name": "mobilenet_v3_large", "mobilenet_v3_large": {"output_stride": 4}}}, 7)
