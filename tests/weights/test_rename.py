"""Name rules, leaf handling and the comparison with a model's variables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from attnseg_jax.errors import UserError
from attnseg_jax.models import BACKBONES
from attnseg_jax.weights.layouts import rules_of
from attnseg_jax.weights.rename import Part, from_torch, match
from attnseg_jax.weights.rules.mask2former import MULTI_HEAD_ATTENTION
from attnseg_jax.weights.rules.resnet import RESNET

RNG = np.random.default_rng(0)
FCN = rules_of("torchvision_fcn+torchvision_resnet")


def test_leaves():
    state = {
        "a.weight": RNG.normal(size=(2, 3, 5, 7)),
        "b.weight": RNG.normal(size=(2, 3)),
        "b.bias": RNG.normal(size=2),
        "c.d.weight": RNG.normal(size=4),
        "c.d.running_mean": RNG.normal(size=4),
        "c.d.running_var": RNG.normal(size=4),
        "c.d.num_batches_tracked": np.array(9),
        "token": RNG.normal(size=(1, 1, 6)),
        "e.pointwise": RNG.normal(size=(2, 3)),
        "e.layer_scale": RNG.normal(size=(4, 1, 1)),
    }
    found = from_torch(state, ())
    assert found["params"]["a"]["kernel"].shape == (5, 7, 3, 2)
    assert found["params"]["a"]["kernel"][4, 6, 2, 1] == state["a.weight"][1, 2, 4, 6]
    np.testing.assert_array_equal(found["params"]["b"]["kernel"], state["b.weight"].T)
    np.testing.assert_array_equal(found["params"]["b"]["bias"], state["b.bias"])
    np.testing.assert_array_equal(found["params"]["token"], state["token"])
    np.testing.assert_array_equal(found["params"]["e"]["kernel"], state["e.pointwise"].T.reshape(1, 1, 3, 2))
    np.testing.assert_array_equal(found["params"]["e"]["layer_scale"], state["e.layer_scale"].ravel())
    assert list(found["params"]["c"]["d"]) == ["scale"]
    np.testing.assert_array_equal(found["batch_stats"]["c"]["d"]["mean"], state["c.d.running_mean"])
    np.testing.assert_array_equal(found["batch_stats"]["c"]["d"]["var"], state["c.d.running_var"])


def names(tree, prefix=""):
    for key, value in tree.items():
        yield from names(value, f"{prefix}{key}/") if isinstance(value, dict) else [prefix + key]


@pytest.mark.parametrize(
    "rules, source, expected",
    [
        (RESNET, "layer3.11.downsample.0.weight", ["params/layer3_11/downsample_conv/kernel"]),
        (RESNET, "layer3.0.conv2.weight", ["params/layer3_0/conv2/kernel"]),
        (RESNET, "fc.weight", []),
        (FCN, "backbone.layer4.1.conv1.weight", ["params/backbone/layer4_1/conv1/kernel"]),
        (FCN, "classifier.4.weight", ["params/decoder/head/classifier/kernel"]),
        (FCN, "aux_classifier.0.weight", ["params/aux_head/conv/conv/kernel"]),
        (MULTI_HEAD_ATTENTION, "block.attn.out_proj.weight", ["params/block/attn/out/kernel"]),
        ((*RESNET, (r"^", "backbone.")), "layer1.0.conv1.weight", ["params/backbone/layer1_0/conv1/kernel"]),
    ],
)
def test_rules(rules, source, expected):
    assert list(names(from_torch({source: np.ones((3, 3, 1, 1))}, rules))) == expected


def test_stacked_projections_are_cut_in_torchs_order():
    weight = RNG.normal(size=(15, 4))
    params = from_torch({"attn.in_proj_weight": weight}, MULTI_HEAD_ATTENTION)["params"]["attn"]
    for i, name in enumerate(("query", "key", "value")):
        np.testing.assert_array_equal(params[name]["kernel"], weight[5 * i : 5 * i + 5].T)
    with pytest.raises(UserError, match=r"in_proj_weight of shape \(16, 4\) does not divide into 3 pieces"):
        from_torch({"in_proj_weight": np.ones((16, 4))}, MULTI_HEAD_ATTENTION)


def test_arrays_that_are_apart_are_joined_in_order():
    rules = tuple((rf"\b{name}\.", f"qkv@{i}.") for i, name in enumerate(("q", "k", "v")))
    pieces = {name: RNG.normal(size=(5, 4)) for name in "vqk"}
    params = from_torch({f"attn.{name}.weight": x for name, x in pieces.items()}, rules)["params"]["attn"]
    np.testing.assert_array_equal(params["qkv"]["kernel"], np.concatenate([pieces[name].T for name in "qkv"], axis=1))
    with pytest.raises(UserError, match=r"q.weight, k.weight cannot be joined: \(5, 4\), \(5, 3\)"):
        from_torch({"k.weight": np.ones((5, 3)), "q.weight": np.ones((5, 4))}, rules)
    with pytest.raises(UserError, match=r"l.weight: another name became qkv@1.weight too"):
        from_torch({"k.weight": np.ones(2), "l.weight": np.ones(2)}, (*rules, (r"\bl\.", "qkv@1.")))


def test_two_names_for_one_parameter_are_refused():
    with pytest.raises(UserError, match=r"q_proj_weight: another name became query.kernel too"):
        from_torch({"in_proj_weight": np.ones((6, 4)), "q_proj_weight": np.ones((2, 4))}, MULTI_HEAD_ATTENTION)


def test_match_names_both_sides_and_shapes():
    model = BACKBONES["resnet18"]()
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 49, 3)))
    exact = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), variables)
    assert match(variables, exact) is exact
    wrong = jax.tree.map(lambda a: a, exact)
    wrong["params"]["fc"] = {"kernel": np.zeros((512, 5))}
    wrong["params"]["bn1"]["scale"] = np.zeros(65)
    del wrong["batch_stats"]["layer4_1"]
    with pytest.raises(UserError) as error:
        match(variables, wrong)
    message = str(error.value)
    assert "\n" not in message
    missing, unused, shapes = message.split("; ")[1:]
    expected = [f"batch_stats.layer4_1.bn{i}.{leaf}" for i in (1, 2) for leaf in ("mean", "var")]
    assert sorted(missing.removeprefix("missing: ").split(", ")) == expected
    assert unused == "unused: params.fc.kernel"
    assert shapes == "other shape: params.bn1.scale (65,) instead of (64,)"
    with pytest.raises(UserError, match=r"unused: .* and 92 more"):
        match({"params": {}}, exact)


def test_a_mapping_without_statistics_fits_a_model_without_them():
    variables = {"params": {"bias": np.ones(3)}}
    match(variables, from_torch({"bias": np.ones(3)}, ()))


def test_a_part_has_a_table_of_its_own():
    inner = ((r"^fc\..*", None), (r"^block\.(\d)\.", r"block\1."), (r"\.qkv$", (r".query", r".key")))
    rules = (Part(r"^encoder\.(model\.)?", inner, "backbone."), (r"^block\.", "decoder.block."))
    names = ("encoder.block.1.a", "encoder.model.block.2.a", "encoder.fc.b", "block.3.a", "other.encoder.a")
    found = flatten_dict(from_torch({name: np.ones(2) for name in names}, rules)["params"], sep=".")
    expected = ["backbone.block1.a", "backbone.block2.a", "decoder.block.3.a", "other.encoder.a"]
    assert sorted(found) == expected
    cut = from_torch({"encoder.block.1.qkv": np.arange(4)}, rules)["params"]["backbone"]["block1"]
    np.testing.assert_array_equal(cut["key"], [2, 3])
