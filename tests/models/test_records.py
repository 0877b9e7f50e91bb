"""Attention records: their names and numbers, and that they cost nothing where nobody asks for them."""

import jax
import jax.numpy as jnp
import pytest

from attnseg_jax import build_model
from attnseg_jax.models import ATTENTION, Features
from attnseg_jax.models.build import build_attention
from attnseg_jax.models.records import RECORDS, attention_records

IMAGE = jax.ShapeDtypeStruct((2, 45, 61, 3), jnp.float32)  # a map of 12 x 16 positions


def traced(model, image=IMAGE, train=False):
    """Variables, output and collection of records, as shapes."""
    variables = jax.eval_shape(model.init, jax.random.key(0), image)

    def apply(variables, image):
        mutable = [RECORDS, "batch_stats"]
        return model.apply(variables, image, train=train, mutable=mutable, rngs={"dropout": jax.random.key(0)})

    out, state = jax.eval_shape(apply, variables, image)
    return variables, out, state.get(RECORDS, {})


def test_numbers_follow_the_layers_and_the_parts_of_a_stack():
    parts = {"name": "self+axial+self", "self": {"layers": 11}}
    _, _, collection = traced(build_model({"attention": parts}, 7))
    records = attention_records(collection)
    assert list(records) == [
        *(f"self{i}" for i in range(11)),
        "axial_height0",
        "axial_width0",
        *(f"self{i}" for i in range(11, 22)),
    ]
    first, second = (collection["attention"][f"parts_{i}"] for i in (0, 2))
    # As text, attention10 would come before attention2.
    assert records["self2"] is first["attention2"]["self"][0] and records["self10"] is first["attention10"]["self"][0]
    assert records["self13"] is second["attention2"]["self"][0]


def test_numbers_follow_the_calls_of_a_module():
    _, _, collection = traced(build_model({"attention": {"name": "criss_cross", "criss_cross": {"recurrence": 3}}}, 7))
    records = attention_records(collection)
    assert list(records) == [f"criss_cross{i}" for i in range(3)]
    assert all(records[f"criss_cross{i}"] is record for i, record in enumerate(collection["attention"]["criss_cross"]))


@pytest.mark.parametrize(
    "decoder, options, names",
    [
        ("mask_transformer", {"layers": 2}, ["mask_transformer0", "mask_transformer1"]),
        ("masked_attention", {"layers": 3}, [f"masked_attention{i}" for i in range(3)]),
        ("lraspp", {"low_stride": 2}, ["lraspp0"]),
        ("fcn", {"skips": (2,)}, []),
    ],
)
def test_those_of_decoders_come_after_those_of_the_attention(decoder, options, names):
    model = build_model({"attention": {"name": "se"}, "decoder": {"name": decoder, decoder: options}}, 7)
    assert list(attention_records(traced(model)[2])) == ["se0", *names]


def test_training_records_too():
    model = build_model({"attention": {"name": "gate+psa"}, "decoder": {"fcn": {"skips": (2,)}}}, 7)
    _, _, collection = traced(model, train=True)
    assert list(attention_records(collection)) == ["gate2_0", "psa_collect0", "psa_distribute0"]


def test_a_model_without_attention_has_none():
    variables, out, collection = traced(build_model({}, 7))
    assert attention_records(collection) == {} and not hasattr(out, "attention")
    assert sorted(variables) == ["batch_stats", "params"]


# These compute weights for the record alone; all others have them anyway, or compute them when they are read.
COMPUTED = {"conv", "criss_cross", "hamburger", "interlaced", "linear", "litemla", "local", "window"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in ATTENTION if name not in ("none", "gate")])
def test_nothing_is_computed_unless_asked_for(name):
    model = build_attention(name, {}, 7)
    features = Features({4: jax.ShapeDtypeStruct((2, 12, 16, 64), jnp.float32)})
    variables = jax.eval_shape(model.init, jax.random.key(0), features)
    assert RECORDS not in variables

    def flops(mutable):
        lowered = jax.jit(lambda *args: model.apply(*args, mutable=mutable)).lower(variables, features)
        return lowered.cost_analysis()["flops"]

    plain, recorded = flops(False), flops([RECORDS])
    assert recorded > plain if name in COMPUTED else recorded == plain
