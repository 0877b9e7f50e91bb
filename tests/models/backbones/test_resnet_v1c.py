"""ResNets with the deep stem: published sizes, name tables, dilations of the blocks, mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones.resnet import Block
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.resnet import MMSEG_RESNET_V1C, SEMSEG_RESNET_V1C


def abstract(model, size=(61, 83)):
    return jax.eval_shape(lambda key: model.init_with_output(key, jnp.zeros((2, *size, 3))), jax.random.key(0))


@pytest.mark.parametrize("name, plain", [("resnet50_v1c", 25_557_032), ("resnet101_v1c", 44_549_160)])
def test_number_of_parameters(name, plain):
    # Beside torchvision's: three 3x3 convolutions and their norms in place of one 7x7 and its norm, no classifier.
    expected = plain - 2_049_000 - (49 * 3 * 64 + 128) + 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * (32 + 32 + 64)
    _, variables = abstract(BACKBONES[name]())
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected


def named(variables, stem, bn):
    """A state dict of ones in the spelling of an original: `stem` and `bn` name the i-th convolution and its norm."""
    names = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    state = {}
    for (_, *path), leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        *words, last = (word.key for word in path)
        words = [
            word.replace("downsample_conv", "downsample.0").replace("downsample_bn", "downsample.1") for word in words
        ]
        where = ".".join(words).replace("_", ".")
        for i in range(3):
            where = where.replace(f"stem{i + 1}.conv", stem[i]).replace(f"stem{i + 1}.bn", bn[i])
        shape = np.transpose(np.empty(leaf.shape), (3, 2, 0, 1)).shape if len(leaf.shape) == 4 else leaf.shape
        state[f"{where}.{names[last]}"] = np.broadcast_to(np.float32(1), shape)
    return state


@pytest.mark.parametrize(
    "rules, stem, bn",
    [
        (MMSEG_RESNET_V1C, ("stem.0", "stem.3", "stem.6"), ("stem.1", "stem.4", "stem.7")),
        (SEMSEG_RESNET_V1C, ("layer0.0", "layer0.3", "layer0.6"), ("layer0.1", "layer0.4", "layer0.7")),
    ],
)
def test_name_tables(rules, stem, bn):
    _, variables = abstract(BACKBONES["resnet50_v1c"]())
    loaded = from_torch({"fc.weight": np.ones((7, 2048))} | named(variables, stem, bn), rules)
    match(variables, loaded)


@pytest.mark.parametrize(
    "options, third, fourth",
    [
        ({}, [1, 2, 2, 2, 2, 2], [2, 4, 4]),
        ({"contract_dilation": False}, [2] * 6, [4, 4, 4]),
        ({"multi_grid": (1, 2, 4)}, [1, 2, 2, 2, 2, 2], [2, 8, 16]),
        ({"multi_grid": (1, 2, 4), "contract_dilation": False}, [2] * 6, [4, 8, 16]),
        ({"output_stride": 32, "multi_grid": (1, 2, 4)}, [1] * 6, [1, 2, 4]),
    ],
)
def test_dilations(options, third, fourth):
    dilations = {}

    def note(call, args, kwargs, context):
        if isinstance(context.module, Block):
            dilations[context.module.name] = context.module.dilation
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        abstract(BACKBONES["resnet50"](**{"output_stride": 8, **options}))
    found = [[d for name, d in dilations.items() if name.startswith(f"layer{i}")] for i in (1, 2, 3, 4)]
    assert found == [[1] * 3, [1] * 4, third, fourth]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"output_stride": 4}, r"config\.model\.backbone\.resnet101_v1c\.output_stride=4 .* 8, 16 or 32"),
        ({"multi_grid": (1, 2)}, r"config\.model\.backbone\.resnet101_v1c\.multi_grid=\(1, 2\) .* 3 blocks"),
        ({"multi_grid": (1, 0, 2)}, r"multi_grid=\(1, 0, 2\) must be numbers of at least 1"),
        (
            {"stem": (32, 64)},
            r"config\.model\.backbone\.resnet101_v1c\.stem=\(32, 64\) must be 3 numbers of at least 1",
        ),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        abstract(build_model({"backbone": {"name": "resnet101_v1c", "resnet101_v1c": options}}, 7))
