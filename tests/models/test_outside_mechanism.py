"""A mechanism that stands outside the package, by its name in a config: its options, errors and records."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sown import traced_records, with_records
from toys.mechanism import Mine

from attnseg_jax import build_model
from attnseg_jax.errors import OptionError, UserError
from attnseg_jax.models import Features, Segmenter

NAME = "toys.mechanism:Mine"
IMAGE = np.random.default_rng(0).standard_normal((2, 24, 32, 3)).astype(np.float32)  # a map of 6 x 8 positions


def model_of(name=NAME, **options):
    parts = {"backbone": {"tiny": {"width": 12}}, "attention": {"name": name, "custom": options, "self": {"heads": 3}}}
    return build_model(parts, 7)


def test_it_acts_in_a_model(random_variables):
    model = model_of(kernel=5)
    assert model.attention == Mine(num_classes=7, kernel=5)
    variables = random_variables(model, IMAGE)
    out, records = with_records(model)(variables, IMAGE)
    assert list(records) == ["mine0"] and records["mine0"].values.shape == (2, 6, 8, 1)
    features = model.bind(variables).backbone(IMAGE)
    gate = {"params": variables["params"]["attention"]}
    gated, _ = with_records(Mine(kernel=5))(gate, Features({4: features.deepest}))
    np.testing.assert_allclose(gated.deepest, features.deepest * records["mine0"].values, atol=1e-6)
    opened = model_of(kernel=5, form="open")
    plain = Segmenter(opened.backbone, model_of("none").attention, opened.decoder)
    logits = plain.apply(variables, IMAGE).logits
    np.testing.assert_allclose(opened.apply(variables, IMAGE).logits, logits, atol=1e-6)
    assert abs(out.logits - logits).max() > 1e-3


def test_it_stacks():
    model = model_of(f"self+{NAME}", kernel=5)
    variables = jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    assert sorted(variables["params"]["attention"]["parts_1"]) == ["gate"]
    _, records = traced_records(model)(variables, IMAGE)
    assert list(records) == ["self0", "mine0"]


@pytest.mark.parametrize("name", [NAME, f"self+{NAME}"])
@pytest.mark.parametrize(
    "options, message",
    [
        ({"kernel": 4}, r"kernel=4 must be odd and at least 1"),
        ({"form": "sigmod"}, r"form='sigmod' is unknown: did you mean 'sigmoid'\?"),
        ({"kernl": 4}, r"kernl is unknown: did you mean 'kernel'\?"),
    ],
)
def test_options_are_checked_when_the_model_is_built(name, options, message):
    with pytest.raises(UserError, match=rf"^config\.model\.attention\.custom\.{message}$"):
        model_of(name, **options)


@pytest.mark.parametrize("name", [NAME, f"self+{NAME}"])
def test_its_own_errors_name_the_key(name):
    with pytest.raises(OptionError, match=r"^config\.model\.attention\.custom\.kernel=7 does not fit a map of 6x8: "):
        jax.eval_shape(model_of(name, kernel=7).init, jax.random.key(0), IMAGE)
    with pytest.raises(OptionError, match=r"^kernel=7 does not fit a map of 2x3: "):
        Mine(kernel=7).init(jax.random.key(0), jnp.zeros((1, 2, 3, 4)), method="attend")


def test_names_that_are_none():
    for name, message in (
        ("toys.mechanisms:Mine", r"the module 'toys.mechanisms' cannot be imported \(.*\): install it, or put its"),
        ("toys.mechanism:Mime", r"toys.mechanism has no 'Mime': did you mean 'Mine'\?"),
    ):
        with pytest.raises(UserError, match=rf"^config\.model\.attention\.name='{name}': {message}"):
            model_of(name)
