"""EoMT beside its goldens: the annealing, shapes and types, records, numbers of parameters, mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models.backbones.base import variant
from attnseg_jax.models.backbones.dinov3 import DINOv3ViT
from attnseg_jax.models.backbones.vit import DINOv2
from attnseg_jax.models.records import RECORDS, attention_records


class TinyV3(DINOv3ViT):
    width, depth, heads, mlp_ratio = 32, 4, 2, 2.0


@functools.cache
def small(blocks=2, backbone="vit_ti", dtype=jnp.float32, **options):
    config = {
        "backbone": {"name": backbone},
        "attention": {"name": "none"},
        "decoder": {"name": "eomt", "eomt": {"queries": 5, "blocks": blocks} | options},
    }
    return build_model(config, 7, dtype=dtype)


def test_the_annealing_of_the_original():
    """Its table of probabilities at some steps of a run of 60."""
    case = Golden("train_llrd_eomt")
    model = small(anneal=(5 / 60, 20 / 60, 40 / 60))
    found = [model.scheduled({"decoder": {}}, jnp.float32(step) / 60) for step in case.expected("steps")]
    found = np.stack([np.asarray(statistics["decoder"]["mask_probability"]) for statistics in found])
    assert_golden(case, "mask_prob", found)
    # By default a sixth of the training for each of four blocks, as in the recipes for ADE20K, COCO and Cityscapes.
    even = small(blocks=4).scheduled({"decoder": {}}, 0.5)["decoder"]["mask_probability"]
    np.testing.assert_allclose(even, [0, 0, 1, 1], atol=1e-6)
    never = small(anneal=(1.0, 1.0, 1.0)).scheduled({"decoder": {}}, jnp.float32(0.99))
    np.testing.assert_allclose(never["decoder"]["mask_probability"], [1, 1], atol=1e-6)
    plain = {"backbone": {}}
    assert small(masked=False).scheduled(plain, 0.5) is plain


def abstract(model, train=True, size=(45, 70)):
    """Shapes of the output, the records and the variables."""

    def run(key, image):
        variables = model.init(key, image)
        out, updated = model.apply(
            variables, image, train=train, rngs={"dropout": key}, mutable=["batch_stats", RECORDS]
        )
        return out, attention_records(updated.get(RECORDS, {})), variables

    return jax.eval_shape(run, jax.random.key(0), jnp.zeros((2, *size, 3)))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "backbone, grid",
    [
        (variant(DINOv2, "Shallow", width=24, depth=2, heads=3), (4, 5)),
        (variant(DINOv3ViT, "Shallow", width=24, depth=3, heads=3), (3, 5)),
    ],
)
def test_shapes_types_and_records(backbone, grid):
    model = small(dtype=jnp.bfloat16)
    backbone = backbone(dtype=jnp.bfloat16)
    model = model.clone(backbone=backbone)
    out, records, variables = abstract(model)
    assert out.logits.shape == (2, 45, 70, 7) and list(out.aux_queries) == ["eomt0", "eomt1"]
    for queries in (out.queries, *out.aux_queries.values()):
        assert queries.classes.shape == (2, 5, 8) and queries.masks.shape == (2, 5, 4 * grid[0], 4 * grid[1])
        assert queries.classes.dtype == queries.masks.dtype == jnp.float32
    assert out.queries.size == tuple(n * backbone.patch_size for n in grid)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert list(records) == ["queries0", "queries1"]
    assert records["queries1"].key_size == grid
    assert records["queries1"].q.shape[1] == 5 and records["queries1"].k.shape[1] == grid[0] * grid[1]
    assert records["queries1"].mask.shape == (2, 1, 5, grid[0] * grid[1])
    assert abstract(model, train=False)[0].aux_queries == {}


@pytest.mark.thorough
def test_number_of_parameters():
    """Of the published model for ADE20K: DINOv2's large ViT with registers, patches of 16 pixels, 100 queries."""
    options = {"patch_size": 16, "position_size": (32, 32), "registers": 4, "class_position": False}
    config = {
        "backbone": {"name": "dinov2_vit_l", "dinov2_vit_l": options},
        "decoder": {"name": "eomt"},
    }
    _, _, variables = abstract(build_model(config, 150))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    c, block = 1024, 12 * 1024**2 + 15 * 1024
    backbone = 24 * block + 3 * 256 * c + c + c * (1 + 4 + 32 * 32) + 2 * c
    upsampling = 4 * c * c + c + 9 * c + 2 * c
    assert count == backbone + 100 * c + 2 * upsampling + 3 * (c * c + c) + 151 * (c + 1)


@pytest.mark.parametrize(
    "model, message",
    [
        (
            lambda: small(backbone="resnet18"),
            r"config\.model\.decoder\.eomt puts its queries into the last blocks of a plain vision transform",
        ),
        (
            lambda: small(blocks=13),
            r"config\.model\.decoder\.eomt\.blocks=13 is more than the 12 blocks of the backbone",
        ),
        (
            lambda: small().clone(backbone=TinyV3(pyramid=True)),
            r"config\.model\.decoder\.eomt compares queries with the map of the patches, of 32 channels, and got 4",
        ),
        (lambda: small(queries=0), r"config\.model\.decoder\.eomt\.queries=0 must be at least 1"),
    ],
)
def test_mistakes(model, message):
    with pytest.raises(UserError, match=message):
        abstract(model())


@pytest.mark.parametrize("anneal", [(0.5, 0.7), (0.5, 0.4, 0.9)])
def test_shares_that_do_not_fit(anneal):
    with pytest.raises(UserError, match=r"config\.model\.decoder\.eomt\.anneal=.* must be 3 shares of the training"):
        small(anneal=anneal).scheduled({"decoder": {}}, 0.0)
