"""Mutated configs: whatever a value is, a run is built (abstractly) or refused in words, within seconds."""

import re
import time

import pytest
from flax.traverse_util import flatten_dict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attnseg_jax.configs import default
from attnseg_jax.errors import UserError
from attnseg_jax.models.build import PARTS
from attnseg_jax.train import config as configs
from attnseg_jax.train.setup import make_run

DEFAULTS = {
    key: value
    for key, value in flatten_dict(default.get_config().to_dict(), sep=".").items()
    # Several processes, and parts that import what is named.
    if key not in ("distributed", "hooks")
}
# As long as the slowest model takes to trace on a machine with other work.
SECONDS = 60

whole = st.sampled_from([0, 1, 2, 3, 7, 16, 255, -1, -7, 1000, 65537, 2**31, 2**63, 10**30])
numbers = st.sampled_from([0.0, 0.5, 1.0, -1.0, 1e-30, 1e6, 1e38, 1e300, float("nan"), float("inf"), -float("inf")])
words = st.sampled_from(
    ["", "none", "self", "a", "self+window", "resnet18", "dice+", "x" * 300, "no_such.module:Part", "é"]
)
items = st.one_of(whole, numbers, words, st.booleans(), st.none())
tuples = st.lists(items, max_size=4).map(tuple)
anything = st.one_of(items, tuples)


def values_of(value):
    """Mostly of the type that the key has, else of any."""
    kind = {bool: st.booleans(), int: whole, float: st.one_of(numbers, whole), str: words, tuple: tuples}[type(value)]
    if isinstance(value, tuple) and value:
        kind = st.one_of(tuples, st.tuples(*[values_of(value[0])] * len(value)))
    return st.one_of(kind, kind, kind, anything)


@st.composite
def mutations(draw):
    """One to three keys with other values; the part whose option that is gets chosen."""
    changes = {}
    for key in draw(st.lists(st.sampled_from(sorted(DEFAULTS)), min_size=1, max_size=3, unique=True)):
        changes[key] = draw(values_of(DEFAULTS[key]))
        group, _, part = key.partition(".")[2].rpartition(".")[0].partition(".")
        if key.startswith("model.") and group in PARTS and part in PARTS[group]:
            changes.setdefault(f"model.{group}.name", part)
    return changes


def check(changes):
    config = default.get_config()
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    start = time.perf_counter()
    try:
        configs.check_values(config)
        make_run(config, 7)
    except UserError as error:
        assert "\n" not in str(error)
    assert time.perf_counter() - start < SECONDS


def fuzz(count):
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=quiet)


@pytest.mark.thorough
@fuzz(30)
@given(mutations())
def test_30_mutated_configs(changes):
    check(changes)


@pytest.mark.slow
@fuzz(500)
@given(mutations())
def test_500_mutated_configs(changes):
    check(changes)


@pytest.mark.parametrize("key", [f"model.{part}.name" for part in PARTS] + ["loss.name", "objective.name"])
@pytest.mark.parametrize("value", [None, 3.0, ("self",)])
def test_a_name_that_is_no_text(key, value):
    config = default.get_config()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=re.escape(f"config.{key}={value!r} ")):
        configs.check_values(config)
        make_run(config, 7)
    with pytest.raises(UserError, match=re.escape(f"config.{key}={value!r} ")):
        configs.config_hash(config)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.steps", 10**30),
        ("train.batch_size", 2**63),
        ("eval.batch_size", 10**12),
        ("eval.size_multiple", 10**12),
        ("data.resolution", 1e300),
        ("model.decoder.fcn.channels", 2**40),
        ("model.decoder.deeplabv3.rates", ("a",)),
        ("model.decoder.deeplabv3.rates", (1.5, 2.5)),
        ("model.attention.psa.mask_size", "31"),
        ("model.attention.criss_cross.recurrence", 10**6),
        ("model.backbone.vit_ti.position_size", (10**6, 10**6)),
        ("loss.jaccard.classes", (True, False)),
        ("loss.boundary.width", 10**6),
        ("loss.boundary.tolerance", 10**6),
        ("optimizer.learning_rate", -1.0),
        ("optimizer.learning_rate", float("nan")),
        ("optimizer.beta1", float("nan")),
        ("optimizer.beta2", 1.0),
        ("optimizer.eps", -1e-8),
        ("optimizer.momentum", -0.9),
        ("optimizer.weight_decay", float("inf")),
        ("optimizer.power", -1.0),
        ("optimizer.end_factor", float("nan")),
        ("optimizer.clip_norm", float("nan")),
        ("loss.aux_weight", -1.0),
        ("loss.scales", (float("nan"),)),
        ("loss.ohem.threshold", float("nan")),
        ("data.mean", (float("nan"), 0.0, 0.0)),
    ],
)
def test_what_cannot_be_is_refused_by_its_key(key, value):
    config = default.get_config()
    changes = {key: value}
    if key.startswith("model."):
        changes[".".join([*key.split(".")[:2], "name"])] = key.split(".")[2]
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as error:
        configs.check_values(config)
        make_run(config, 7)
    assert str(error.value).startswith(f"config.{key}=")
