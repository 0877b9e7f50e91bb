"""What of a frozen backbone or decoder works, is counted and learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models.freeze import frozen_modules, frozen_paths, without_gradients

IMAGE = np.random.default_rng(0).normal(size=(3, 17, 21, 3)).astype(np.float32)


def config(freeze):
    return {
        "backbone": {"name": "tiny", "tiny": {"width": 8}, "freeze": freeze},
        "attention": {"name": "none"},
        "decoder": {"name": "fcn", "fcn": {"channels": 5, "dropout": 0.0}},
    }


MODEL = build_model(config("none"), 7)


def train_step(model, variables, params, frozen):
    """Output and statistics of a training step of which some parameters are frozen."""
    with frozen_modules(frozen):
        given = {**variables, "params": without_gradients(params, frozen)}
        out, updated = model.apply(given, IMAGE, train=True, mutable=["batch_stats"])
    return out, updated["batch_stats"]


@functools.cache
def variables():
    """Statistics and scales that are not those of a fresh model."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0), IMAGE)
    return jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.5, 1.5, x.shape), x.dtype), shapes)


@functools.cache
def trained(freeze):
    """Logits, gradients by path and statistics by path of one training step."""

    @functools.partial(jax.grad, has_aux=True)
    def loss(params):
        out, statistics = train_step(MODEL, variables(), params, frozen_paths(config(freeze), variables()))
        return (out.logits**2).mean(), (out.logits, statistics)

    gradients, (logits, statistics) = jax.jit(loss)(variables()["params"])
    return logits, *(traverse_util.flatten_dict(x, sep="/") for x in (gradients, statistics))


def norms(names):
    """The paths of scales and biases of batch norms."""
    statistics = traverse_util.flatten_dict(variables()["batch_stats"], sep="/")
    return {name for name in names if f"{name.rpartition('/')[0]}/mean" in statistics}


@pytest.mark.parametrize("freeze", ["none", "bn", "all"])
def test_which_gradients_are_exactly_zero(freeze):
    _, gradients, _ = trained(freeze)
    backbone = {name for name in gradients if name.startswith("backbone/")}
    still = {"none": set(), "bn": backbone & norms(gradients), "all": backbone}[freeze]
    assert {name for name, x in gradients.items() if not np.any(x)} == still
    assert 0 < len(norms(backbone)) < len(backbone) < len(gradients)


@pytest.mark.parametrize("freeze", ["none", "bn", "all"])
def test_which_statistics_move(freeze):
    _, _, statistics = trained(freeze)
    before = traverse_util.flatten_dict(variables()["batch_stats"], sep="/")
    moved = {name for name, x in statistics.items() if np.any(x != before[name])}
    assert moved == {name for name in before if freeze == "none" or not name.startswith("backbone/")}


def test_frozen_norms_use_running_statistics():
    """The features of the backbone in training are those in evaluation; the decoder still normalises by its batch."""
    bn, everything, none = (trained(freeze)[0] for freeze in ("bn", "all", "none"))
    np.testing.assert_array_equal(bn, everything)
    assert np.abs(bn - none).max() > 0.01
    features = MODEL.bind(variables()).backbone(IMAGE, train=False)
    head = MODEL.bind(variables(), mutable=["batch_stats"]).decoder(features, train=True)
    np.testing.assert_allclose(
        jax.image.resize(head.logits, bn.shape, "linear", antialias=False), bn, rtol=1e-4, atol=1e-4
    )


def test_the_gradient_of_a_frozen_backbone_is_not_computed():
    def operations(freeze):
        def loss(params):
            return train_step(MODEL, variables(), params, frozen_paths(config(freeze), variables()))[0].logits.sum()

        return str(jax.make_jaxpr(jax.grad(loss))(variables()["params"])).count("conv_general_dilated")

    forward = str(jax.make_jaxpr(lambda v: MODEL.apply(v, IMAGE).logits)(variables())).count("conv_general_dilated")
    # Beside the forward pass only the decoder's: of its kernels, and of what lies between them.
    assert operations("all") < forward + 5 < operations("none")


def test_evaluation_and_names_are_the_same():
    outputs = []
    for freeze in ("none", "bn", "all"):
        model = build_model(config(freeze), 7)
        assert jax.tree.map(jnp.shape, variables()) == jax.tree.map(
            jnp.shape, jax.eval_shape(model.init, jax.random.key(0), IMAGE)
        )
        with frozen_modules(frozen_paths(config(freeze), variables())):
            outputs.append(model.apply(variables(), IMAGE).logits)
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[0], outputs[2])


@pytest.mark.thorough
@pytest.mark.parametrize("attention, decoder", [("cbam", {"name": "fcn"}), ("gate", {"name": "unet"})])
def test_attention_learns_around_a_frozen_decoder(attention, decoder, random_variables):
    """Before it through it, and in it as a gate; its own statistics move, the decoder's do not."""
    decoder = {**decoder, "freeze": "all", "unet": {"channels": (4, 3)}}
    config = {"backbone": {"name": "tiny", "tiny": {"width": 8}, "freeze": "all"}, "attention": {"name": attention}}
    # The reduction of `cbam` leaves one channel, and a norm of one channel in one batch is as good as any.
    config["attention"] |= {"gate": {"form": "leejunhyun"}, "cbam": {"reduction": 4}}
    config = {**config, "decoder": decoder}
    both = build_model(config, 7)
    given = random_variables(both, IMAGE)

    @functools.partial(jax.grad, has_aux=True)
    def loss(params):
        out, statistics = train_step(both, given, params, frozen_paths(config, given))
        return (out.logits**2).mean(), statistics

    gradients, statistics = jax.jit(loss)(given["params"])
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), statistics, given["batch_stats"])
    still = {part: set(jax.tree.leaves(tree)) for part, tree in moved.items()}
    assert still == {"backbone": {False}, "decoder": {False}, "attention": {True}}
    assert any(np.abs(x).max() > 1e-6 for x in jax.tree.leaves(gradients["attention"]))
    assert not any(np.any(x) for part in ("backbone", "decoder") for x in jax.tree.leaves(gradients[part]))


def test_the_auxiliary_head_is_frozen_with_the_decoder(random_variables):
    frozen_decoder = config("none") | {"decoder": {"aux": True, "aux_stride": 2, "freeze": "all"}}
    model = build_model(frozen_decoder, 7)
    given = random_variables(model, IMAGE)
    frozen = frozen_paths(frozen_decoder, given)
    assert {path.partition("/")[0] for path in frozen} == {"decoder", "aux_head"}

    @functools.partial(jax.grad, has_aux=True)
    def loss(params):
        out, statistics = train_step(model, given, params, frozen)
        return (out.logits**2).mean() + (out.aux["fcn"] ** 2).mean(), statistics

    gradients, statistics = jax.jit(loss)(given["params"])
    moved = jax.tree.map(lambda new, old: bool(np.any(new != old)), statistics, given["batch_stats"])
    assert {part: set(jax.tree.leaves(tree)) for part, tree in moved.items()} == {
        "backbone": {True},
        "decoder": {False},
        "aux_head": {False},
    }
    for path, x in traverse_util.flatten_dict(gradients, sep="/").items():
        assert np.any(x) == (path not in frozen), path


def test_mistakes_are_named():
    with pytest.raises(UserError, match=r"config\.model\.backbone\.freeze='al' is unknown: did you mean 'all'\?"):
        build_model(config("al"), 7)
    with pytest.raises(UserError, match=r"config\.model\.decoder\.freeze='bn' is unknown: known: none, all"):
        build_model({"decoder": {"freeze": "bn"}}, 7)
