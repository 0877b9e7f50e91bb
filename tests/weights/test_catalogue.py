"""What the weights of the catalogue decide where a config leaves it open."""

import importlib.util

import jax
import numpy as np
import pytest
import skimage.data
from PIL import Image

from attnseg_jax.configs import camvid_efficientnet_lite0, default
from attnseg_jax.data.transforms.fields import normalise
from attnseg_jax.inference.pretrained import load_pretrained
from attnseg_jax.models import BACKBONES
from attnseg_jax.weights.catalogue import CATALOGUE, IMAGENET_MEAN, IMAGENET_STD, apply, wanted


def config_of(name="", **changes):
    config = default.get_config()
    config.model.backbone.update(name=name.split("-")[0] or "tiny", pretrained=name)
    config.update_from_flattened_dict({key.replace("__", "."): value for key, value in changes.items()})
    return config


def test_every_entry_is_of_a_backbone_with_these_options():
    for name, published in CATALOGUE.items():
        backbone = BACKBONES[name.split("-")[0]]
        assert published.layout in backbone.layouts and published.licence
        assert all(getattr(backbone, option) != value for option, value in published.options.items())
        assert len(published.mean) == len(published.std) == 3 and len(published.input_size) == 2


@pytest.mark.parametrize(
    "name, mean, std",
    [
        ("", IMAGENET_MEAN, IMAGENET_STD),
        ("resnet18-imagenet", IMAGENET_MEAN, IMAGENET_STD),
        # 0.485 and 0.229 of 255, and so on.
        ("mit_b2-imagenet", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("vit_s-imagenet", (127.5,) * 3, (127.5,) * 3),
        ("efficientnet_lite1-imagenet", (127.0,) * 3, (128.0,) * 3),
    ],
)
def test_the_normalisation_that_is_left_open(name, mean, std):
    config = config_of(name)
    assert config.data.mean == config.data.std == ()
    found = apply(config)
    assert (found.data.mean, found.data.std) == (mean, std)
    assert config.data.mean == () and found.is_locked
    assert apply(found) == found


def test_what_a_config_sets_stays():
    given = dict(data__mean=(1.0, 2.0, 3.0), model__backbone__vit_s__position_size=(5, 7))
    found = apply(config_of("vit_s-dinov2", **given))
    assert found.data.mean == (1.0, 2.0, 3.0) and found.data.std == IMAGENET_STD
    assert found.model.backbone.vit_s.position_size == (5, 7)
    assert found.model.backbone.vit_s.patch_size == 14


def test_the_options_of_dinov2():
    found = apply(config_of("vit_b-dinov2")).model.backbone
    options = {"patch_size": 14, "position_size": (37, 37), "layer_scale": 1e-5, "position_antialias": False}
    assert {name: found.vit_b[name] for name in options} == options
    assert found.vit_s.patch_size == 16
    # Weights of another backbone than the config's do not fit anyway, which is said when they are read.
    assert wanted(config_of("vit_b-dinov2", model__backbone__name="vit_s")).keys() == {
        "data.mean",
        "data.std",
        "data.channel_order",
    }


def test_a_run_that_continues_from_another_is_normalised_as_its_backbone_was():
    assert apply(config_of("vit_s-imagenet", init_from="runs/first")).data.mean == (127.5,) * 3
    assert apply(config_of("vit_s-imagenet", init_from="mit_b0-imagenet")).data.mean == IMAGENET_MEAN


def test_a_config_that_starts_from_weights_leaves_the_normalisation_to_these():
    """Those of the comparison do not: its figures were measured with ImageNet's."""
    config = camvid_efficientnet_lite0.get_config()
    name = config.model.backbone.pretrained
    found = apply(config).data
    assert (found.mean, found.std) == (CATALOGUE[name].mean, CATALOGUE[name].std) == ((127.0,) * 3, (128.0,) * 3)


def at_hand(published):
    package, _, file = published.source.removeprefix("package:").partition("/")
    return published.source.startswith("package:") and importlib.util.find_spec(package) and file


@pytest.mark.parametrize("name", [name for name, published in CATALOGUE.items() if at_hand(published)])
def test_photographs_have_the_statistics_of_the_training(name):
    """Behind the first convolution their variances are about those that its normalisation was trained with.

    With ImageNet's deviations they would be five times as large; 127 and 128 are those that fit.
    """
    backbone, variables, info = load_pretrained(name)
    side = max(info.input_size)
    features = []
    for photo in ("coffee", "chelsea", "astronaut", "rocket"):
        picture = Image.fromarray(getattr(skimage.data, photo)()).convert("RGB")
        edge = min(picture.size)
        pixels = np.asarray(picture.crop((0, 0, edge, edge)).resize((side, side), Image.Resampling.BICUBIC))
        features.append(normalise(pixels, info.mean, info.std, info.channel_order))

    def inside(module, name):
        return module.path == ("stem", "conv") and name == "__call__"

    def before_norm(variables, x):
        _, state = backbone.apply(variables, x, capture_intermediates=inside, mutable=["intermediates"])
        return state["intermediates"]["stem"]["conv"]["__call__"][0]

    x = jax.jit(before_norm, compiler_options={"xla_backend_optimization_level": 0})(variables, np.stack(features))
    stored = variables["batch_stats"]["stem"]["bn"]
    used = stored["var"] > 1e-3
    ratio = np.asarray(x).reshape(-1, used.size).var(0)[used] / stored["var"][used]
    assert 0.5 < np.exp(np.log(ratio).mean()) < 2
