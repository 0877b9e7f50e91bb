"""`config.optimizer.layer_decay`: the tables of mmpretrain, mmsegmentation and EoMT, and who has no layers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden import Golden
from tiny import optimizer_config

from attnseg_jax.errors import UserError
from attnseg_jax.models.backbones.convnext import ConvNeXt
from attnseg_jax.models.backbones.swin import Swin
from attnseg_jax.models.backbones.vit import ViT
from attnseg_jax.train.optimizer import depth_factor, make_optimizer


class FourBlocks(ViT):
    width, depth, heads = 8, 4, 2


class SmallSwin(Swin):
    width, depths, heads = 4, (2, 2, 6, 2), (1, 2, 4, 8)


class SmallConvNeXt(ConvNeXt):
    depths, widths = (1, 1, 9, 2), (4, 6, 8, 10)


# The names there as paths of modules here.
VIT = (
    (r"^(layers|blocks)\.(\d+)\..*", r"backbone/block\2/x"),
    (r"^patch_embed\..*", "backbone/patch_embed/x"),
    (r"^cls_token$", "backbone/class_token"),
    (r"^reg_token$", "backbone/register_tokens"),
    (r"^pos_embed$", "backbone/positions"),
    (r"^(ln1|norm)\..*", "backbone/norm/x"),
)
SWIN = (
    (r"^patch_embed\.(projection|norm)\..*", r"backbone/patch_embed/x"),
    (r"^stages\.(\d)\.blocks\.(\d)\..*", lambda found: f"backbone/stage{int(found[1]) + 1}_{found[2]}/x"),
    (r"^stages\.(\d)\.downsample\..*", lambda found: f"backbone/merge{int(found[1]) + 1}/x"),
    (r"^norm3\..*", "backbone/norm/x"),
)
CONVNEXT = (
    (r"^backbone\.downsample_layers\.(\d)\..*", lambda found: f"backbone/down{int(found[1]) + 1}_conv/x"),
    (r"^backbone\.stages\.(\d)\.(\d)\..*", lambda found: f"backbone/stage{int(found[1]) + 1}_{found[2]}/x"),
    (r"^backbone\.norm(\d)\..*", r"backbone/map_norm\1/x"),
    (r"^decode_head\..*", "decoder/x"),
)


def renamed(name, rules):
    for pattern, replacement in rules:
        name, count = re.subn(pattern, replacement, name)
        if count:
            return name
    raise AssertionError(name)


@pytest.mark.parametrize(
    "case, backbone, rules, decay",
    [
        ("train_llrd_mmpretrain_vit", FourBlocks(), VIT, 0.75),
        ("train_llrd_mmpretrain_swin", SmallSwin(), SWIN, 0.8),
        ("train_llrd_mmseg_convnext", SmallConvNeXt(), CONVNEXT, 0.9),
    ],
)
def test_tables_of_the_originals(case, backbone, rules, decay):
    table = Golden(case).info["multipliers"]["layer_wise"]
    for name, factor in table.items():
        assert depth_factor(decay, backbone.layer_paths, renamed(name, rules)) == pytest.approx(factor, rel=1e-5), name
    found = jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    used = [layer for layer in backbone.layer_paths if any(re.match(layer, f"{name}/x") for name in found)]
    assert used[1:] == list(backbone.layer_paths)[1:]


def test_eomt_counts_from_the_last_block():
    """As its authors do, by `lr_multipliers` beside it: a layer less for blocks, two for what comes before them."""
    factors = Golden("train_llrd_eomt").info["multipliers"]["llrd"]
    rules = (f"backbone/block.*={1 / 0.8}", f"backbone/(?!norm).*={1 / 0.8**2}")
    paths = {}
    for name in factors:
        inner = name.removeprefix("network.encoder.backbone.")
        paths[name] = "decoder/x" if inner == name else renamed(inner, VIT)
    params = traverse_util.unflatten_dict({path: jnp.zeros(2) for path in paths.values()}, sep="/")
    config = optimizer_config(
        learning_rate=1.0, momentum=0.0, weight_decay=0.0, schedule="constant", layer_decay=0.8, lr_multipliers=rules
    )
    rule, _ = make_optimizer(config, 10, layers=FourBlocks().layer_paths)
    updates, _ = rule.update(jax.tree.map(jnp.ones_like, params), rule.init(params), params)
    updates = traverse_util.flatten_dict(updates, sep="/")
    for name, factor in factors.items():
        np.testing.assert_allclose(-updates[paths[name]], factor, rtol=1e-5, err_msg=name)


def test_a_backbone_without_layers():
    with pytest.raises(
        UserError, match=r"config\.optimizer\.layer_decay=0\.5 needs a backbone that says what its layer"
    ):
        make_optimizer(optimizer_config(layer_decay=0.5), 10)
