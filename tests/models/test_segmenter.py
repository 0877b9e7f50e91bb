"""The composed model: sizes, auxiliary logits, dropout, first loss, and use inside JAX's transformations."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models.attention import Attention
from attnseg_jax.models.features import Output, Queries, check_returned
from attnseg_jax.ops import losses
from attnseg_jax.ops.mask_classification import semantic_logits
from attnseg_jax.ops.resize import resize

RNG = np.random.default_rng(0)
IMAGE = RNG.standard_normal((3, 13, 17, 3)).astype(np.float32)
FAST_COMPILE = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SMALL = {
    "backbone": {"tiny": {"width": 8}},
    "attention": {"name": "self"},
    "decoder": {"fcn": {"dropout": 0.0}},
}


class WithAux(Attention):
    """Adds auxiliary logits of a map's size and passes the map on."""

    def __call__(self, features, *, train=False):
        x = features.deepest[..., :7]
        return features.replace(aux={**features.aux, "early": x.astype(jnp.bfloat16)})


def test_auxiliary_logits_of_both_parts_arrive_at_input_size(random_variables):
    config = {**SMALL, "decoder": {"aux": True, "aux_stride": 2}}
    parts = build_model(config, 7)
    model = parts.clone(attention=WithAux())
    variables = random_variables(model, IMAGE)
    out = model.apply(variables, IMAGE)
    assert sorted(out.aux) == ["early", "fcn"]
    for logits in out.aux.values():
        assert logits.shape == (3, 13, 17, 7) and logits.dtype == jnp.float32
    features = parts.backbone.bind(
        {"params": variables["params"]["backbone"], "batch_stats": variables["batch_stats"]["backbone"]}
    )(IMAGE)
    early = features.deepest[..., :7].astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(out.aux["early"], resize(early, (13, 17)), atol=1e-6)
    assert abs(out.aux["fcn"] - out.logits).max() > 0.01


def test_aligned_corners_of_the_logits(random_variables):
    """The corner pixels have the values of the map's corners, which half-pixel centres give to their neighbours too."""
    config = {**SMALL, "decoder": {"align_corners": True, "fcn": {"dropout": 0.0}}}
    model = build_model(config, 7)
    variables = random_variables(model, IMAGE)
    small = model.apply(variables, IMAGE, method=lambda m, x: m.decoder(m.attention(m.backbone(x))).logits)
    found = model.apply(variables, IMAGE).logits
    np.testing.assert_allclose(found, resize(small, (13, 17), align_corners=True), atol=1e-6)
    np.testing.assert_allclose(found[:, ::12, ::16], small[:, ::3, ::4], atol=1e-6)
    plain = build_model(SMALL, 7).apply(variables, IMAGE).logits
    np.testing.assert_allclose(plain, resize(small, (13, 17)), atol=1e-6)
    assert abs(found - plain).max() > 0.01


class Doubles(Attention):
    """Refines logits."""

    def refine(self, logits, features):
        return 2 * logits


def test_masks_of_queries_are_resized_before_their_scores_unless_these_are_refined(random_variables):
    config = {**SMALL, "decoder": {"name": "mask_transformer", "mask_transformer": {"queries": 5}}}
    model = build_model(config, 7)
    variables = random_variables(model, IMAGE)
    run = FAST_COMPILE(lambda v, x: (model.apply(v, x), model.clone(attention=Doubles()).apply(v, x)))
    out, refined = run(variables, IMAGE)
    for found in (out, refined):
        queries = found.queries
        assert queries.masks.shape == (3, 5, 4, 5) and queries.size == found.aux_queries["mask_transformer0"].size
        assert queries.size == (13, 17) and found.logits.shape == (3, 13, 17, 7)
    masks = jnp.moveaxis(out.queries.masks, 1, 3)
    np.testing.assert_allclose(out.logits, semantic_logits(out.queries.classes, resize(masks, (13, 17))), atol=1e-5)
    small = semantic_logits(refined.queries.classes, jnp.moveaxis(refined.queries.masks, 1, 3))
    np.testing.assert_allclose(refined.logits, resize(2 * small, (13, 17)), atol=1e-5)


def test_queries_that_do_not_fit_are_refused():
    queries = Queries(np.zeros((2, 5, 7)), np.zeros((2, 5, 3, 4)))
    check_returned(Output(None, queries=queries), Output, "Mine", channels=6)
    with pytest.raises(UserError, match=r"Mine returned queries .* they must be \[b, q, 7 \+ 1\] and \[b, q, y, x\]"):
        check_returned(Output(None, queries=queries), Output, "Mine", channels=7)
    with pytest.raises(UserError, match=r"Mine returned NoneType; it must return an array"):
        check_returned(Output(None), Output, "Mine")


@pytest.mark.parametrize("skips, size", [((), (4, 5)), ((4,), (4, 5)), ((2, 4), (7, 9))])
def test_the_decoder_works_at_its_finest_map(skips, size):
    parts = build_model({**SMALL, "decoder": {"fcn": {"skips": skips}}}, 7)

    def logits(key):
        features = parts.backbone.init_with_output(key, IMAGE)[0]
        return parts.decoder.init_with_output(key, features)[0].logits

    assert jax.eval_shape(logits, jax.random.key(0)).shape == (3, *size, 7)


@pytest.mark.parametrize("convs, names", [(0, []), (1, ["conv"]), (3, ["conv", "conv1", "conv2"])])
def test_the_head_has_as_many_convolutions_as_asked(convs, names):
    model = build_model({**SMALL, "decoder": {"fcn": {"convs": convs, "channels": 5}}}, 7)
    head = jax.eval_shape(model.init, jax.random.key(0), IMAGE)["params"]["decoder"]["head"]
    assert sorted(head) == sorted(["classifier", *names])
    assert head["classifier"]["kernel"].shape == (1, 1, 5 if convs else 8, 7)


@pytest.mark.parametrize("where", ["decoder", "attention"])
def test_dropout_acts_in_training_only(random_variables, where):
    options = {"decoder": {"fcn": {"dropout": 0.0}}, "attention": {"name": "self", "self": {"dropout": 0.0}}}
    options[where][{"decoder": "fcn", "attention": "self"}[where]]["dropout"] = 0.5
    model = build_model({**SMALL, **options}, 7)
    variables = random_variables(model, IMAGE)

    @FAST_COMPILE
    def train(seed):
        rngs = {"dropout": jax.random.key(seed, impl="unsafe_rbg")}
        return model.apply(variables, IMAGE, train=True, rngs=rngs, mutable=["batch_stats"])[0].logits

    assert abs(train(0) - train(1)).max() > 1e-3
    np.testing.assert_array_equal(train(0), train(0))
    # Evaluation needs no key and takes no notice of the rate.
    plain = build_model(SMALL, 7)
    np.testing.assert_array_equal(model.apply(variables, IMAGE).logits, plain.apply(variables, IMAGE).logits)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["default", pytest.param("camvid_resnet18_attention", marks=pytest.mark.slow)])
def test_the_first_loss_is_that_of_a_guess(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    model = build_model(config.model, 7)
    image = RNG.standard_normal((2, 33, 49, 3)).astype(np.float32)
    labels = RNG.integers(0, 7, (2, 33, 49)).astype(np.int32)

    @FAST_COMPILE
    def loss(key):
        variables = model.init(key, image)
        out, _ = model.apply(variables, image, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
        return [losses.mean(*losses.cross_entropy(logits, labels)) for logits in (out.logits, *out.aux.values())]

    for value in loss(jax.random.key(0, impl="unsafe_rbg")):  # compiles in half the time
        assert abs(float(value) - np.log(7)) < 0.05


@pytest.mark.thorough
def test_gradients_reach_every_parameter(random_variables):
    config = {**SMALL, "attention": {"name": "self", "self": {"positions": "learned", "mlp_ratio": 1.0}}}
    decoder = {"fcn": {"skips": (2,), "dropout": 0.0}, "aux": True, "aux_stride": 4}
    model = build_model({**config, "decoder": decoder}, 7)
    variables = random_variables(model, IMAGE)

    @FAST_COMPILE
    @jax.grad
    def gradient(params):
        given, rngs = {**variables, "params": params}, {"dropout": jax.random.key(0, impl="unsafe_rbg")}
        out, _ = model.apply(given, IMAGE, train=True, rngs=rngs, mutable=["batch_stats"])
        return jnp.square(out.logits).mean() + jnp.square(out.aux["fcn"]).mean()

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(leaf).all(), name
        # A key's bias shifts all scores of a query alike, which the softmax does not see.
        assert name.endswith("key/bias") or abs(leaf).max() > 1e-7, name


def test_vmap_over_images_equals_a_batch(random_variables):
    model = build_model(SMALL, 7)
    variables = random_variables(model, IMAGE)
    one_by_one = FAST_COMPILE(jax.vmap(lambda image: model.apply(variables, image[None]).logits[0]))(IMAGE)
    np.testing.assert_allclose(one_by_one, FAST_COMPILE(model.apply)(variables, IMAGE).logits, atol=1e-5)


def test_evaluation_changes_nothing(random_variables):
    model = build_model(SMALL, 7)
    variables = random_variables(model, IMAGE)
    _, updated = model.apply(variables, IMAGE, mutable=["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, updated["batch_stats"], variables["batch_stats"])


def test_bfloat16_is_near_float32(random_variables):
    model = build_model(SMALL, 7)
    variables = random_variables(model, IMAGE)
    half = build_model(SMALL, 7, dtype=jnp.bfloat16)
    exact, rounded = (FAST_COMPILE(one.apply)(variables, IMAGE).logits for one in (model, half))
    error = abs(rounded - exact).max() / abs(exact).max()
    assert 1e-4 < error < 0.05  # it does compute in bfloat16, and nothing overflows
