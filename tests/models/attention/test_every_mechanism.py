"""What holds for every mechanism: sizes, images apart, types, and what it says of a misspelt choice."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sown import recorded, with_records

from attnseg_jax import build_model
from attnseg_jax.errors import OptionError
from attnseg_jax.models import ATTENTION, Features
from attnseg_jax.models.options import ranges
from attnseg_jax.models.records import GateMap

RNG = np.random.default_rng(0)
TRAINED, OTHER = (2, 45, 61, 3), (3, 61, 85, 3)
# With skips, so that gates have something to do.
PARTS = {"backbone": {"tiny": {"width": 16}}, "decoder": {"fcn": {"skips": (2,)}}}


def model_of(name, dtype=jnp.float32, **options):
    if name in ("se", "cbam", "scse"):
        options |= {"reduction": 4}  # a single hidden unit may be dead
    return build_model({**PARTS, "attention": {"name": name, name: options}}, 7, dtype=dtype)


def image(shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ATTENTION)
def test_another_size_images_apart_and_bfloat16(name, random_variables):
    x, others = image(OTHER), image(OTHER)
    variables = random_variables(model_of(name), image(TRAINED))
    apply = with_records(model_of(name))
    out, records = apply(variables, x)
    logits = np.asarray(out.logits)
    assert logits.shape == (*OTHER[:3], 7) and np.isfinite(logits).all()
    for i in range(len(x)):
        beside = others.copy()
        beside[i] = x[i]
        apart = apply(variables, beside)[0].logits
        np.testing.assert_allclose(apart[i], logits[i], atol=2e-5 * abs(logits).max())
        assert abs(apart - logits).max() > 1e-3
    rounded, rounded_records = with_records(model_of(name, jnp.bfloat16))(variables, x)
    assert 1e-4 < abs(rounded.logits - logits).max() / abs(logits).max() < 0.05
    for key, record in records.items():
        if isinstance(record, GateMap):
            assert 0 < abs(record.values - rounded_records[key].values).max() < 0.02


def equations(jaxpr):
    """All equations of a jaxpr, at any depth."""
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            if hasattr(value, "eqns") or hasattr(value, "jaxpr"):
                yield from equations(getattr(value, "jaxpr", value))


@pytest.mark.thorough
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", [name for name, mechanism in ATTENTION.items() if not mechanism.has_gate])
def test_types_under_bfloat16(name, train):
    """Parameters, softmax, gates, records and predictions are float32, the map is not; other maps are left alone."""
    options = {"dropout": 0.1} if "dropout" in ATTENTION[name].__dataclass_fields__ else {}
    model = model_of(name, jnp.bfloat16, **options).attention
    maps = {2: jnp.ones((2, 24, 32, 8), jnp.bfloat16), 4: jnp.ones((2, 12, 16, 64), jnp.bfloat16)}
    variables = jax.eval_shape(model.init, jax.random.key(0), Features(maps))
    run = recorded(model, train=train, rngs={"dropout": jax.random.key(0)})

    def apply(variables, features):
        out, records = run(variables, features)
        assert out.maps[2] is features.maps[2]
        gates = [record.values for record in records.values() if isinstance(record, GateMap)]
        return out, gates + [record.weights for record in records.values() if not isinstance(record, GateMap)]

    jaxpr, (out, weights) = jax.make_jaxpr(apply, return_shape=True)(variables, Features(maps))
    exact = {e.invars[0].aval.dtype for e in equations(jaxpr.jaxpr) if e.primitive.name in ("exp", "logistic")}
    # Those without an exponential have no softmax and no gate.
    assert exact == (set() if name in ("none", "conv", "litemla") else {jnp.dtype(jnp.float32)})
    assert out.deepest.dtype == jnp.bfloat16
    others = jax.tree.leaves((variables, weights, out.aux, out.presence))
    assert {leaf.dtype for leaf in others} <= {jnp.dtype(jnp.float32)}


CHOICES = [
    (name, field, choice)
    for name, mechanism in ATTENTION.items()
    for field, limits in ranges(mechanism).items()
    for choice in limits.choices
]


@pytest.mark.parametrize("name, field, choice", CHOICES)
def test_a_misspelt_choice(name, field, choice):
    message = f"config.model.attention.{name}.{field}={choice[:-1]!r} is unknown: did you mean {choice!r}?"
    with pytest.raises(OptionError, match=f"^{re.escape(message)}$"):
        build_model({"attention": {"name": name, name: {field: choice[:-1]}}}, 7)
