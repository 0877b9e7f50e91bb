"""EfficientViT: timm's numbers and sizes, images of any size, the attention of its deeper stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc
from sown import FAST_COMPILE, with_records

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES, Features
from attnseg_jax.models.attention import ATTENTION
from attnseg_jax.models.backbones.efficientvit import EfficientViTB0
from attnseg_jax.weights.rename import from_torch, match
from attnseg_jax.weights.rules.efficientvit import TIMM_EFFICIENTVIT

# timm's numbers in millions, with the channels of its classifier's two hidden layers and 1000 classes.
TIMM = {
    "efficientvit_b0": (3.41, 1024, 1280),
    "efficientvit_b1": (9.10, 1536, 1600),
    "efficientvit_b2": (24.33, 2304, 2560),
    "efficientvit_b3": (48.65, 2304, 2560),
}


def abstract(model, size, channels=3):
    image = jnp.zeros((2, *size, channels))
    return jax.eval_shape(lambda key: model.init_with_output(key, image), jax.random.key(0))


@pytest.mark.thorough
def test_the_original():
    case = Golden("backbone_efficientvit_b0")
    x = nhwc(case.inputs()["x"])
    model = EfficientViTB0()
    variables = match(
        jax.eval_shape(model.init, jax.random.key(0), x), from_torch(case.state_dict(), TIMM_EFFICIENTVIT)
    )
    maps = FAST_COMPILE(model.apply)(variables, x).maps
    for i in range(4):
        assert_golden(case, f"feat{i}", nchw(maps[4 << i]))


def published(widths, depths, head_dim):
    """The sum over the original's layers: convolutions, norms and biases as timm lists them."""

    def block(before, after, norm, expansion=4):
        c = expansion * before
        hidden = 2 * c if norm else c
        return (before * c + hidden if expansion > 1 else 0) + 9 * c + hidden + c * after + 2 * after

    total = 27 * widths[0] + 2 * widths[0] + depths[0] * block(widths[0], widths[0], True, 1)
    for stage in (1, 2, 3, 4):
        before, c, deep = widths[stage - 1], widths[stage], stage > 2
        heads = 3 * (c // head_dim)
        width = heads * head_dim
        attention = c * width + 25 * width + width * head_dim + 2 * (width // 3) * c + 2 * c
        total += block(before, c, not deep)
        repeated = block(c, c, not deep) + (attention if deep else 0)
        total += (depths[stage] if deep else depths[stage] - 1) * repeated
    return total


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n[-1] in "23")) for n in TIMM])
def test_number_of_parameters(name):
    backbone = BACKBONES[name]
    _, variables = abstract(backbone(), (45, 58))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == published(backbone.widths, backbone.depths, backbone.head_dim)
    millions, first, second = TIMM[name]
    head = backbone.widths[-1] * first + 2 * first + first * second + 2 * second + second * 1000 + 1000
    assert abs((count + head) / 1e6 - millions) < 0.005


@pytest.mark.parametrize(
    "size, sizes", [((45, 58), [(23, 29), (12, 15), (6, 8), (3, 4), (2, 2)]), ((1, 2), [(1, 1)] * 5)]
)
def test_sizes_of_the_maps(size, sizes):
    features, variables = abstract(EfficientViTB0(), size, 5)
    expected = [(2, *s, c) for s, c in zip(sizes, (8, 16, 32, 64, 128))]
    assert [features.maps[s].shape for s in (2, 4, 8, 16, 32)] == expected
    assert variables["params"]["stem"]["conv"]["kernel"].shape == (3, 3, 5, 8)


def test_the_mechanism_against_numpy(random_variables):
    """In float64, with the weights of all pairs; a head of a scale has its query, key and value side by side."""
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 7)).astype(np.float32)
    model = ATTENTION["litemla"](head_dim=3, scales=(3,))
    features = Features({4: jnp.asarray(x)})
    variables = random_variables(model, features)
    scope = {name: tree["attention0"]["lite_mla"] for name, tree in variables.items()}
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), scope["params"])
    qkv = x.astype(np.float64) @ p["qkv"]["kernel"][0, 0]
    padded = np.pad(qkv, [(0, 0), (1, 1), (1, 1), (0, 0)])
    taps = p["around3"]["kernel"][:, :, 0]
    around = sum(padded[:, i : i + 4, j : j + 5] * taps[i, j] for i in range(3) for j in range(3))
    groups = np.split(around, 6, axis=-1)
    mixed = [g @ k for g, k in zip(groups, np.split(p["mix3"]["kernel"][0, 0], 6, axis=-1))]
    heads = np.concatenate([qkv, *mixed], axis=-1).reshape(2, 20, 4, 3, 3)
    q, k, v = (heads[:, :, :, i] for i in range(3))
    weights = np.einsum("bnad,bmad->banm", np.maximum(q, 0), np.maximum(k, 0))
    weights = weights / (weights.sum(-1, keepdims=True) + 1e-5)
    y = np.einsum("banm,bmad->bnad", weights, v).reshape(2, 4, 5, 12) @ p["out"]["conv"]["kernel"][0, 0]
    norm, stats = p["out"]["bn"], scope["batch_stats"]["out"]["bn"]
    y = (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * norm["scale"] + norm["bias"]
    out, records = with_records(model)(variables, features)
    np.testing.assert_allclose(out.deepest, x + y, atol=1e-5)
    np.testing.assert_allclose(records["litemla0"].weights, weights, atol=1e-5)


def test_mistakes():
    config = {"attention": {"name": "litemla", "litemla": {"head_dim": 65}}}
    with pytest.raises(UserError, match=r"attention\.litemla\.head_dim=65 is wider than the map: choose at most 64"):
        abstract(build_model(config, 7), (33, 45))
