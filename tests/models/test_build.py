"""From configs to models: every file in `configs/` builds and runs (abstractly); what cannot be built says why."""

import dataclasses
import importlib
import json
import pathlib
import types

import jax
import jax.numpy as jnp
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES, DECODERS, build
from attnseg_jax.models.attention import NoAttention, SelfAttention

ROOT = pathlib.Path(__file__).parents[2]
# Studies have tests of their own.
CONFIGS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "configs").rglob("*.py")
    if "def get_config(" in path.read_text()
)
IMAGE = jax.ShapeDtypeStruct((2, 61, 83, 3), jnp.float32)


def run(model, *inputs, train=False):
    """Shapes of the output and of the variables."""

    def both(key, *inputs):
        variables = model.init(key, *inputs)
        out, updated = model.apply(variables, *inputs, train=train, rngs={"dropout": key}, mutable=["batch_stats"])
        assert jax.tree.structure(updated) == jax.tree.structure({"batch_stats": variables["batch_stats"]})
        return out, variables

    return jax.eval_shape(both, jax.random.key(0), *(inputs or [IMAGE]))


def leaves(config, prefix=""):
    for key, value in config.items():
        yield from leaves(value, f"{prefix}{key}.") if hasattr(value, "items") else [(prefix + key, value)]


def test_every_file_in_configs_is_a_config_or_a_study():
    files = [path for path in (ROOT / "configs").rglob("*.py") if path.stem != "__init__"]
    assert len(files) == len(CONFIGS) + len(list((ROOT / "configs/studies").glob("[!_]*.py")))


@pytest.mark.thorough
@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_file(name):
    config = importlib.import_module(name).get_config()
    assert config.is_locked
    known = dict(leaves(build.default_config()))
    found = dict(leaves(config.model))
    assert sorted(found) == sorted(known)
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in known.items()}
    regions = 5 if build.takes_regions(config.model.kind) else 0
    inputs = [IMAGE, jax.ShapeDtypeStruct((2, 61, 83, 2), jnp.int32)] if regions else [IMAGE]
    out, _ = run(build_model(config.model, 7, dtype=config.dtype, num_regions=regions), *inputs, train=True)
    assert {x.shape for x in (out.logits, *out.aux.values())} == {(2, 61, 83, 7)}
    assert {x.dtype for x in (out.logits, *out.aux.values())} == {jnp.dtype(jnp.float32)}
    models = [build_model(model, 7, num_regions=regions) for model in (build.selected(config.model), config.model)]
    assert models[0] == models[1]


def test_every_option_has_a_plain_default():
    for key, value in leaves(build.default_config()):
        assert isinstance(value, (bool, int, float, str, tuple)), f"{key} has the default {value!r}"
        assert value is not dataclasses.MISSING
    assert "num_classes" not in build.options(DECODERS["fcn"]) and "dtype" not in build.options(SelfAttention)


def test_selected_drops_what_the_names_do_not_choose():
    config = build.default_config()
    config["attention"]["name"] = "self+none"
    found = build.selected(config)
    assert list(found["backbone"]) == ["name", "pretrained", "freeze", "tiny"]
    assert list(found["decoder"]) == ["name", "freeze", "align_corners", "aux", "aux_stride", "fcn"]
    assert list(found["attention"]) == ["name", "none", "self"] and found["kind"] == "segmenter"
    assert len(config["backbone"]) == 4 + len(BACKBONES)  # the argument stays whole


@pytest.mark.parametrize(
    "config, message",
    [
        ({"kind": "segmentr"}, "config.model.kind='segmentr' is unknown: did you mean 'segmenter'?"),
        ({"atention": {"name": "self"}}, "config.model.atention is unknown: did you mean 'attention'?"),
        (
            {"backbone": {"name": "resnet5"}},
            "config.model.backbone.name='resnet5' is unknown: did you mean 'resnet50'?",
        ),
        ({"attention": {"name": "self+slef"}}, "config.model.attention.name='slef' is unknown: did you mean 'self'?"),
        ({"attention": {"slef": {"heads": 4}}}, "config.model.attention.slef is unknown: did you mean 'self'?"),
        (
            {"attention": {"name": "self", "self": {"head": 4}}},
            "config.model.attention.self.head is unknown: did you mean 'heads'?",
        ),
        ({"decoder": {"fcn": {"dtype": 4}}}, "config.model.decoder.fcn.dtype is unknown: known: "),
        (
            {"attention": {"name": "danet", "danet": {"impl": "chunkd"}}},
            "config.model.attention.danet.impl='chunkd' is unknown: did you mean 'chunked'?",
        ),
        (
            {"decoder": {"name": "mask_transformer", "mask_transformer": {"impl": "cudnn"}}},
            "config.model.decoder.mask_transformer.impl='cudnn' needs an NVIDIA GPU, and this process runs on",
        ),
        ({"backbone": {"name": "tiny+tiny"}}, "config.model.backbone.name='tiny+tiny': only attention"),
        ({"decoder": {"name": "fcn+fcn"}}, "config.model.decoder.name='fcn+fcn': only attention"),
    ],
)
def test_unknown_names(config, message):
    with pytest.raises(UserError) as error:
        build_model(config, 7)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_too_few_classes():
    with pytest.raises(UserError, match=r"num_classes=0: .* at least 1"):
        build_model({}, 0)


def test_a_map_the_backbone_does_not_have():
    model = build_model({"decoder": {"aux": True}}, 7)
    message = r"config\.model\.decoder\.aux_stride=16 asks for a map of stride 16; .* has 2, 4: change"
    with pytest.raises(UserError, match=message):
        run(model)


def test_stacks_keep_their_order():
    first, second = (build_model({"attention": {"name": name}}, 7).attention for name in ("self+none", "none+self"))
    assert [type(part) for part in first.parts] == [SelfAttention, NoAttention]
    assert [type(part) for part in second.parts] == [NoAttention, SelfAttention]
    _, variables = run(build_model({"attention": {"name": "self+none+self"}}, 7))
    parts = variables["params"]["attention"]
    assert sorted(parts) == ["parts_0", "parts_2"]
    assert jax.tree.map(jnp.shape, parts["parts_0"]) == jax.tree.map(jnp.shape, parts["parts_2"])


def test_a_mechanism_twice_trains_the_predictions_of_both():
    names = {"danet": ["danet_channel", "danet_position"], "ocr": ["ocr"], "encnet": ["encnet"]}
    for name, expected in names.items():
        out, _ = run(build_model({"attention": {"name": f"{name}+{name}"}}, 7))
        assert sorted({**out.aux, **out.presence}) == sorted([*expected, *(f"{known}1" for known in expected)])


def test_a_map_named_twice_counts_once():
    for name, key in (("fcn", "skips"), ("masked_attention", "strides")):
        once, twice = (
            run(build_model({"decoder": {"name": name, name: {key: strides}}}, 7))[1] for strides in ((2, 4), (2, 4, 2))
        )
        assert jax.tree.map(jnp.shape, once) == jax.tree.map(jnp.shape, twice)


def test_a_head_has_at_least_one_channel():
    config = {"backbone": {"tiny": {"width": 6}}, "attention": {"name": "criss_cross"}}
    _, variables = run(build_model(config, 7))
    assert variables["params"]["decoder"]["head"]["classifier"]["kernel"].shape == (1, 1, 1, 7)


def test_lists_from_json_become_tuples():
    config = build.default_config()
    config["attention"]["name"] = "self"
    config["attention"]["self"].update(positions="learned", position_size=(3, 5))
    config["decoder"]["fcn"]["skips"] = (4, 2)
    model = build_model(config, 7)
    loaded = build_model(json.loads(json.dumps(config)), 7)
    assert loaded.decoder.skips == (4, 2) and loaded.attention.position_size == (3, 5)
    assert loaded == model and hash(loaded) == hash(model)
    _, variables = run(loaded)
    assert variables["params"]["attention"]["attention0"]["positions"].shape == (1, 3, 5, 64)


def test_the_config_may_be_read_only():
    config = types.MappingProxyType({"attention": types.MappingProxyType({"name": "none"})})
    assert isinstance(build_model(config, 7).attention, NoAttention)
