"""The encoders of SegNet-Basic and U-Net: sizes of maps, indices, numbers of parameters, images too small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.models.backbones.vgg import POOL_INDICES

SEGNET_BASIC = {
    "backbone": {"name": "segnet_basic"},
    "attention": {"name": "none"},
    "decoder": {
        "name": "segnet",
        "segnet": {"depths": (2, 1, 1, 1), "kernel_size": 7, "classifier_size": 1, "relu": False},
    },
}


def abstract(model, *inputs):
    return jax.eval_shape(model.init_with_output, jax.random.key(0), *inputs)


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    "name, channels", [("segnet_basic", [64, 64, 64, 64, 64]), ("unet", [64, 128, 256, 512, 1024])]
)
def test_sizes_of_the_maps(name, channels):
    features, _ = abstract(BACKBONES[name](), jnp.zeros((2, 61, 83, 3)))
    sizes = [(61, 83), (30, 41), (15, 20), (7, 10), (3, 5)]
    assert {s: m.shape for s, m in features.maps.items()} == {
        2**i: (2, *size, c) for i, (size, c) in enumerate(zip(sizes, channels, strict=True))
    }
    indices = features.extras.get(POOL_INDICES, {})
    assert {s: x.shape[1:3] for s, x in indices.items()} == (
        dict(zip((1, 2, 4, 8), sizes[1:])) if name == "segnet_basic" else {}
    )


def test_segnet_basic_has_the_convolutions_of_the_original():
    """Eight of 7x7 (caffe-segnet's segnet_basic_train.prototxt, whose biases before a norm are 512 more numbers).

    The paper's table says 1.425 million for the 11 classes of CamVid.
    """
    out, variables = abstract(build_model(SEGNET_BASIC, 11), jnp.zeros((2, 61, 83, 3)))
    assert out.logits.shape == (2, 61, 83, 11)
    kernels = {part: jax.tree.map(jnp.shape, variables["params"][part]) for part in ("backbone", "decoder")}
    assert kernels["decoder"].pop("classifier") == {"kernel": (1, 1, 64, 11), "bias": (11,)}
    found = {name: block["conv"] for part in kernels.values() for name, block in part.items()}
    assert found.pop("conv1") == {"kernel": (7, 7, 3, 64)}
    names = ["conv2", "conv3", "conv4", *(f"stage{stride}_0" for stride in (8, 4, 2, 1))]
    assert found == {name: {"kernel": (7, 7, 64, 64)} for name in names}
    total = count(variables["params"])
    assert total == 49 * 64 * (3 + 7 * 64) + 8 * 2 * 64 + 64 * 11 + 11 == 1_416_075
    assert abs(total / 1.425e6 - 1) < 0.01


def test_indices_stand_at_the_maxima(random_variables):
    image = np.random.default_rng(0).standard_normal((2, 19, 37, 3)).astype(np.float32)
    model = BACKBONES["segnet_basic"](width=5)
    features = jax.jit(model.apply)(random_variables(model, image), image)
    maps = {stride: np.asarray(x) for stride, x in features.maps.items()}
    last = np.asarray(features.extras[POOL_INDICES][8])
    for b, i, j, c in np.ndindex(maps[16].shape):
        window = maps[8][b, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
        assert maps[16][b, i, j, c] == window.max() == maps[8][b, :, :, c].reshape(-1)[last[b, i, j, c]]
    assert maps[16].std() > 0


@pytest.mark.parametrize("name", ["segnet_basic", "unet"])
def test_the_least_size(name):
    features, _ = abstract(BACKBONES[name](width=3), jnp.zeros((1, 16, 17, 3)))
    assert features.deepest.shape[1:3] == (1, 1)
    with pytest.raises(UserError, match=rf"\.backbone\.{name} needs images of at least 16x16 pixels, not 40x15: "):
        abstract(build_model({"backbone": {"name": name}}, 7), jnp.zeros((1, 40, 15, 3)))
    with pytest.raises(UserError, match=rf"config\.model\.backbone\.{name}\.width=0 must be at least 1"):
        build_model({"backbone": {"name": name, name: {"width": 0}}}, 7)
