"""What the weights of the catalogue decide where a config leaves it open."""

import importlib.util

import jax
import numpy as np
import pytest
import skimage.data
from flax.traverse_util import flatten_dict
from PIL import Image

from attnseg_jax.configs import camvid_efficientnet_lite0, default
from attnseg_jax.data.known_sets import DATASETS
from attnseg_jax.data.transforms.fields import normalise
from attnseg_jax.errors import UserError
from attnseg_jax.inference.pretrained import load_pretrained
from attnseg_jax.models import BACKBONES
from attnseg_jax.train import config as configs
from attnseg_jax.weights import reading
from attnseg_jax.weights.catalogue import CATALOGUE, MODELS, apply, wanted
from attnseg_jax.weights.files import npz_bytes
from attnseg_jax.weights.layouts import HEADS
from attnseg_jax.weights.locate import Located
from attnseg_jax.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD


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


def test_every_whole_model_has_a_config_of_its_data():
    """That the files fit these models is tested where the originals are; this builds nothing."""
    default_keys = flatten_dict(default.get_config().to_dict(), sep=".")
    for name, model in MODELS.items():
        head, encoder = model.layout.split("+")
        assert head in HEADS and encoder in BACKBONES[model.config["model.backbone.name"]].layouts, name
        assert name.endswith(f"-{model.data}") and model.config.keys() <= default_keys.keys(), name
        assert model.data in DATASETS and (model.miou is None or 30 < model.miou < 90) and model.scored_on
        assert not model.base or model.base in CATALOGUE
    config = configs.published("segmenter_b-ade20k")
    assert (config.data.name, config.data.mean, config.data.crop) == ("ade20k", (127.5,) * 3, (512, 512))
    assert config.init_from == "segmenter_b-ade20k" and config.eval.window == (512, 512)
    assert config.model.decoder.mask_transformer.heads == 12 and config.model.backbone.name == "vit_b"
    with pytest.raises(UserError, match=r"published:segformer_b9-ade20k: .*did you mean 'segformer_b.-ade20k'"):
        configs.published("segformer_b9-ade20k")


def test_differences_from_other_weights(monkeypatch, tmp_path):
    """They are added; those of another encoder are refused."""
    names = ("patch_embed.cls_token", "patch_embed.patch_embeddings.weight", "blocks.0.mlp.up_proj.bias", "norm.weight")
    own = ("embeddings.cls_token", "embeddings.patch_embeddings.weight", "layer.0.mlp.up_proj.bias", "norm.weight")
    shapes = ((1, 1, 4), (4, 3, 2, 2), (6,), (4,))
    rng = np.random.default_rng(0)
    whole = {name: rng.normal(size=shape).astype(np.float32) for name, shape in zip(own, shapes)}
    moved = {f"network.encoder.backbone.{name}": np.full(shape, 0.5, np.float32) for name, shape in zip(names, shapes)}
    moved |= {"network.q.weight": np.ones((2, 4), np.float32), "network.encoder.pixel_mean": np.ones((3, 1, 1))}
    for name, arrays in (("whole", whole), ("moved", moved)):
        (tmp_path / f"{name}.npz").write_bytes(npz_bytes(arrays))
    monkeypatch.setattr(reading, "locate", lambda name, key: Located(name, tmp_path / "whole.npz"))
    located = Located("eomt_dinov3_l_delta-ade20k", tmp_path / "moved.npz")
    arrays, layout = reading.read_located(located, key="source")
    assert layout == "" and set(arrays) == {
        *("params.backbone.class_token", "params.backbone.patch_embed.kernel", "params.backbone.block0.mlp_in.bias"),
        *("params.backbone.norm.scale", "params.decoder.start.query_tokens"),
    }
    np.testing.assert_array_equal(arrays["params.backbone.norm.scale"], whole["norm.weight"] + np.float32(0.5))
    (tmp_path / "whole.npz").write_bytes(npz_bytes({name: whole[name] for name in own[1:]}))
    with pytest.raises(UserError, match=r"differences are not from these weights: params\.backbone\.class_token"):
        reading.read_located(located, key="source")


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
