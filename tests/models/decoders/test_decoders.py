"""What decoders do beyond their originals' goldens: sizes, rates, gates, auxiliary heads, options that cannot be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import UserError, option_path
from attnseg_jax.models import DECODERS, Features
from attnseg_jax.models.decoders.deeplab import atrous_rates, real_stride

RNG = np.random.default_rng(0)
SIZES = {2: (21, 14), 4: (11, 7), 8: (6, 4), 16: (3, 2), 32: (2, 1)}


def features(*strides, sizes=SIZES):
    maps = {s: RNG.standard_normal((2, *sizes[s], 3 + i)).astype(np.float32) for i, s in enumerate(strides)}
    return Features({stride: jnp.asarray(x) for stride, x in maps.items()})


ALL = features(*SIZES)
LIGHT = ("deeplabv3plus", {"channels": 4, "low_channels": 3, "rates": (2,)}, [4])


def parameters(model, given):
    return jax.eval_shape(model.init, jax.random.key(0), given)["params"]


@pytest.mark.parametrize(
    "name, options, given, size",
    [
        ("deeplabv3", {}, ALL, (2, 1)),
        ("deeplabv3plus", {}, ALL, (11, 7)),
        ("deeplabv3plus", {"low_stride": 8}, ALL, (6, 4)),
        ("fpn", {}, ALL, (11, 7)),
        ("fpn", {"strides": (16, 8)}, ALL, (6, 4)),
        ("psp", {}, ALL, (2, 1)),
        ("uper", {}, ALL, (11, 7)),
        ("uper", {"strides": (32,)}, ALL, (2, 1)),
        ("segformer", {}, ALL, (11, 7)),
        ("lraspp", {}, ALL, (6, 4)),
        ("unet", {}, ALL, (42, 28)),
        ("unet", {}, features(4, 8, 16, 32), (44, 28)),  # as of a transformer
        ("unet", {}, features(16), (48, 32)),
    ],
)
def test_sizes(name, options, given, size):
    out, _ = jax.eval_shape(DECODERS[name](5, **options).init_with_output, jax.random.key(0), given)
    assert out.logits.shape == (2, *size, 5)


@pytest.mark.parametrize("name, options", [("deeplabv3plus", {"low_stride": 8}), ("fpn", {"strides": (8, 16)})])
def test_one_stage_of_maps_changes_nothing_else(name, options):
    given, decoder = features(8, 16), DECODERS[name](5, **options)
    assert jax.eval_shape(decoder.init_with_output, jax.random.key(0), given)[0].logits.shape == (2, 6, 4, 5)


def test_rates_follow_the_stride():
    usual = {2: (64, 96), 4: (32, 48), 8: (16, 24), 16: (8, 12), 32: (4, 6)}
    dilated = {8: {16: (16, 24), 32: (16, 24)}, 16: {32: (8, 12)}, 32: {}}
    found = {stride: atrous_rates(features(*SIZES, sizes={**usual, **sizes}), ()) for stride, sizes in dilated.items()}
    assert found == {8: (12, 24, 36), 16: (6, 12, 18), 32: (3, 6, 9)}
    assert atrous_rates(ALL, (2, 5)) == (2, 5)
    # Odd sizes, for which ratios of sizes say little.
    assert [real_stride(features(*SIZES, sizes={**SIZES, 32: size})) for size in ((2, 1), (3, 2))] == [32, 16]


def test_unet_takes_the_last_channels_and_every_skip():
    found = parameters(DECODERS["unet"](5), features(2, 4))
    assert {name: block["conv1"]["conv"]["kernel"].shape for name, block in found.items() if "block" in name} == {
        "block2": (3, 3, 4 + 3, 32),
        "block1": (3, 3, 32, 16),
    }


@pytest.mark.parametrize("form", ["smp", "leejunhyun"])
def test_unet_against_an_oracle(form, random_variables):
    given = features(2, 4)
    model = DECODERS["unet"](5, form=form, channels=(6, 5))
    variables = random_variables(model, given)
    p, stats = (jax.tree.map(lambda x: np.asarray(x, np.float64), variables[k]) for k in ("params", "batch_stats"))

    def conv(x, p):
        k = p["kernel"].shape[0]
        padded = np.pad(x, ((0, 0), (k // 2,) * 2, (k // 2,) * 2, (0, 0)))
        y = np.zeros((*x.shape[:3], p["kernel"].shape[-1]))
        for i, j in np.ndindex(*x.shape[1:3]):
            y[:, i, j] = np.einsum("byxc,yxco->bo", padded[:, i : i + k, j : j + k], p["kernel"])
        return y + p.get("bias", 0)

    def layer(x, block, name):
        q, s = p[block][name], stats[block][name]["bn"]
        y = (conv(x, q["conv"]) - s["mean"]) / np.sqrt(s["var"] + 1e-5)
        return np.maximum(y * q["bn"]["scale"] + q["bn"]["bias"], 0)

    def enlarged(x, h, w):
        return np.stack(
            [x[:, i * x.shape[1] // h, j * x.shape[2] // w] for i in range(h) for j in range(w)], 1
        ).reshape(len(x), h, w, -1)

    fine, x = (np.asarray(given.maps[stride], np.float64) for stride in (2, 4))
    for block, skip, size in (("block2", fine, (21, 14)), ("block1", None, (42, 28))):
        x = enlarged(x, *size)
        x = layer(x, block, "up") if form == "leejunhyun" else x
        if skip is not None:
            x = np.concatenate([skip, x] if form == "leejunhyun" else [x, skip], axis=-1)
        x = layer(layer(x, block, "conv1"), block, "conv2")
    logits = model.apply(variables, given).logits
    np.testing.assert_allclose(logits, conv(x, p["classifier"]), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name, options, strides", [("unet", {"channels": (4,) * 5}, [2, 4, 8, 16]), LIGHT])
def test_a_gate_that_closes_hides_the_skips(name, options, strides, random_variables):
    seen = []

    def gate(skip, signal, *, stride, train=False):
        seen.append(stride)
        assert signal.shape[1] <= skip.shape[1]
        return opening * skip

    model = DECODERS[name](5, **options)
    variables = random_variables(model, ALL)
    others = ALL.replace(maps={**features(*SIZES).maps, 32: ALL.deepest})
    for opening in (0, 1):
        run = jax.jit(functools.partial(model.apply, gate=gate), compiler_options={"xla_backend_optimization_level": 0})
        assert np.array_equal(run(variables, ALL).logits, run(variables, others).logits) == (opening == 0)
        assert sorted(set(seen)) == strides


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
@pytest.mark.parametrize("name", ["deeplabv3", "deeplabv3plus", "fpn", "psp", "segformer", "uper"])
def test_bad_rates(name, rate):
    with pytest.raises(
        UserError, match=rf"config\.model\.decoder\.{name}\.dropout={rate} must be at least 0 and below 1"
    ):
        build_model({"decoder": {"name": name, name: {"dropout": rate}}}, 5)


@pytest.mark.parametrize("name", ["fcn", "deeplabv3", "psp", "uper"])
def test_auxiliary_heads(name):
    image = jnp.zeros((2, 42, 28, 3))
    config = {"backbone": {"name": "resnet18"}, "decoder": {"name": name, "aux": True, "aux_stride": 8}}
    out, _ = jax.eval_shape(build_model(config, 5).init_with_output, jax.random.key(0), image)
    assert {key: x.shape for key, x in out.aux.items()} == {"fcn": (2, 42, 28, 5)}
    config["decoder"]["aux_stride"] = 64
    message = r"config\.model\.decoder\.aux_stride=64 asks for a map of stride 64; .*: change aux_stride, or set"
    with pytest.raises(UserError, match=message):
        parameters(build_model(config, 5), image)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("deeplabv3", {"channels": 0}, r"\.channels=0 must be at least 1"),
        ("deeplabv3", {"rates": (6, 0)}, r"\.rates=\(6, 0\) must be numbers of at least 1"),
        ("deeplabv3plus", {"low_channels": 0}, r"\.low_channels=0 must be at least 1"),
        (
            "deeplabv3plus",
            {"low_stride": 3},
            r"\.low_stride=3 asks for a map of stride 3; .* has 2, 4, 8, 16, 32: change low_stride",
        ),
        ("psp", {"bins": ()}, r"\.bins=\(\) names no grid: name some"),
        ("psp", {"bin_channels": -8}, r"\.bin_channels=-8 must be at least 0"),
        ("psp", {"bins": (2, 2)}, r"\.bins=\(2, 2\) names a grid twice"),
        (
            "uper",
            {"strides": (4, 64)},
            r"\.strides=\(4, 64\) asks for a map of stride 64; .*: change strides, or choose another",
        ),
        ("uper", {"strides": ()}, r"\.strides=\(\) names no map: name some"),
        ("segformer", {"channels": 0}, r"\.channels=0 must be at least 1"),
        ("segformer", {"strides": (64,)}, r"\.strides=\(64,\) asks for a map of stride 64"),
        ("lraspp", {"channels": 0}, r"\.channels=0 must be at least 1"),
        ("lraspp", {"low_stride": 64}, r"\.low_stride=64 asks for a map of stride 64"),
        ("unet", {"form": "spm"}, r"\.form='spm' is unknown: did you mean 'smp'\?"),
        ("unet", {"channels": ()}, r"\.channels=\(\) are those of 0 blocks; .*: name so many"),
        ("unet", {"channels": (8, 8, 8, 8)}, r"\.channels=\(8, 8, 8, 8\) are those of 4 .* stride 32 takes 5: name"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(UserError, match=rf"config\.model\.decoder\.{name}" + message):
        decoder = build_model({"decoder": {"name": name, name: options}}, 5).decoder
        with option_path(f"config.model.decoder.{name}"):
            parameters(decoder, ALL)


LEARNERS = {
    "deeplabv3": {"channels": 4, "rates": (1, 2)},
    "deeplabv3plus": {"channels": 4, "low_channels": 3, "rates": (1, 2)},
    "fpn": {"pyramid_channels": 4, "channels": 4, "groups": 2},
    "lraspp": {"channels": 4},
    "psp": {"channels": 4, "bins": (1, 2)},
    "segformer": {"channels": 4},
    "unet": {"channels": (4, 4, 4, 4, 4)},
    "uper": {"channels": 4, "bins": (1, 2), "norm_maps": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_every_parameter_learns(name, random_variables):
    model = DECODERS[name](5, **LEARNERS[name])
    given = features(*SIZES, sizes={stride: (192 // stride, 128 // stride) for stride in SIZES})
    variables = random_variables(model, given)
    rng = np.random.default_rng(1)

    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        out, _ = model.apply({**variables, "params": params}, given, train=True, rngs=rngs, mutable=["batch_stats"])
        parts = (out.logits, *out.aux.values())
        return sum((x * rng.standard_normal(x.shape)).sum() for x in parts)

    gradient = jax.jit(jax.grad(loss), compiler_options={"xla_backend_optimization_level": 0})(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all() and abs(leaf).max() > 0, jax.tree_util.keystr(path)
