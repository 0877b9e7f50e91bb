"""Context encoding: the original's layer, the module around it in float64, what it predicts of the whole image."""

import jax
import jax.numpy as jnp
import numpy as np
from golden import Golden
from layout import assert_golden, nhwc
from layout_rules import ENCODING
from sown import FAST_COMPILE, with_records

from attnseg_jax import build_model
from attnseg_jax.models import Features
from attnseg_jax.models.attention.encnet import ContextEncoding, Encoding
from attnseg_jax.weights.rename import from_torch, match

X = np.random.default_rng(0).standard_normal((2, 5, 7, 12)).astype(np.float32)
FEATURES = Features({2: jnp.ones((2, 10, 14, 3)), 4: jnp.asarray(X)})


def test_layer_of_the_original():
    case = Golden("attn_encnet")
    x, model = nhwc(case.inputs()["x"]), Encoding(codewords=8)
    target = jax.eval_shape(model.init, jax.random.key(0), x)
    state = case.state_dict()
    gain = case.info["parameter_gain"]
    for prefix, factors in (("", {}), (gain["prefix"], gain)):
        scaled = {name: value * np.float32(factors.get(name, 1)) for name, value in state.items()}
        y, weights = FAST_COMPILE(model.apply)({"params": match(target, _params(scaled))["params"]}, x)
        assert_golden(case, f"{prefix}y", y)
        assert_golden(case, f"{prefix}weights", weights)


def _params(state):
    return {"params": from_torch(state, ENCODING)["params"]}


def test_against_numpy(random_variables):
    model = ContextEncoding(num_classes=6, channels=9, codewords=4)
    variables = random_variables(model, FEATURES)
    p, s = (jax.tree.map(lambda a: a.astype(np.float64), variables[name]) for name in ("params", "batch_stats"))

    def norm(x, params, stats):
        return (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]

    padded = np.pad(X.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [padded[:, i : i + 5, j : j + 7] @ p["lead"]["conv"]["kernel"][i, j] for i in range(3) for j in range(3)]
    x = np.maximum(norm(sum(windows), p["lead"]["bn"], s["lead"]["bn"]), 0)
    y = x @ p["project"]["conv"]["kernel"][0, 0]
    y = np.maximum(norm(y, p["project"]["bn"], s["project"]["bn"]), 0).reshape(2, 35, 1, 9)
    residuals = y - p["encoding"]["codewords"]
    powers = np.exp(p["encoding"]["scale"] * (residuals**2).sum(-1))
    weights = powers / powers.sum(-1, keepdims=True)
    encoded = np.einsum("bnk,bnkc->bck", weights, residuals)
    context = np.maximum(norm(encoded, p["bn"], s["bn"]), 0).mean(-1)
    gate = 1 / (1 + np.exp(-(context @ p["gate"]["kernel"] + p["gate"]["bias"])))
    presence = context @ p["presence"]["kernel"] + p["presence"]["bias"]

    out, records = with_records(model)(variables, FEATURES)
    np.testing.assert_allclose(out.deepest, x * (1 + gate.reshape(2, 1, 1, 9)), atol=3e-5)
    np.testing.assert_allclose(out.presence["encnet"], presence, atol=3e-5)
    np.testing.assert_allclose(records["encnet0"].weights[:, 0], weights, atol=1e-5)
    np.testing.assert_allclose(records["encnet_gate0"].values, gate.reshape(2, 1, 1, 9), atol=1e-5)
    assert records["encnet0"].query_size == (5, 7) and records["encnet0"].key_size is None


def test_presence_teaches_the_codewords(random_variables):
    """Whether a class is shown is known to the whole model and its gradient alone reaches the encoding layer."""
    model = build_model({"backbone": {"tiny": {"width": 12}}, "attention": {"name": "encnet"}}, 7)
    image = np.random.default_rng(1).standard_normal((2, 13, 17, 3)).astype(np.float32)
    variables = random_variables(model, image)

    @FAST_COMPILE
    @jax.grad
    def gradient(params):
        out, _ = model.apply(
            {**variables, "params": params},
            image,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        assert out.presence["encnet"].shape == (2, 7) and out.presence["encnet"].dtype == jnp.float32
        return (out.presence["encnet"] ** 2).sum()

    found = gradient(variables["params"])
    encoding = found["attention"]["encoding"]
    assert (encoding["codewords"] != 0).any(axis=-1).all() and (encoding["scale"] != 0).all()
    assert (found["attention"]["gate"]["kernel"] == 0).all()
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found["decoder"]))


def test_start():
    variables = FAST_COMPILE(Encoding(codewords=4).init)(jax.random.key(0), jnp.asarray(X))["params"]
    assert (variables["scale"] < 0).all() and (variables["scale"] > -1).all()
    assert 0.5 / 48**0.5 < abs(variables["codewords"]).max() <= 1 / 48**0.5
