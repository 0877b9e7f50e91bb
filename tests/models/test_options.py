"""Numbers that no option may have, and an `impl` that cannot serve: refused by their full key when traced."""

import re

import jax
import jax.numpy as jnp
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import UserError
from attnseg_jax.models import ATTENTION, DECODERS, build
from attnseg_jax.ops.attention import dispatch

IMAGE = jax.ShapeDtypeStruct((1, 45, 61, 3), jnp.float32)  # a map of 12 x 16 positions and 64 channels
RATE = (-0.1, 1.0, float("nan"))
WIDTH = (-8,)
BAD = {
    ("attention", "self"): {
        "heads": (0, -2, 5),
        "head_dim": WIDTH,
        "channels": WIDTH,
        "layers": (0, -1),
        "mlp_ratio": (-0.5, 0.001, float("nan")),
        "position_size": ((0, 24), (16,), (4, -1)),
        "dropout": RATE,
    },
    ("attention", "local"): {
        "kernel": (0, 4, -3, 33),
        "dilation": (0, -1),
        "heads": (0, 5),
        "head_dim": WIDTH,
        "channels": WIDTH,
        "iterations": (0, -1),
        "stride": (-1, 4),
    },
    ("attention", "nonlocal"): {"channels": WIDTH},
    ("attention", "danet"): {"channels": WIDTH, "reduction": (0, -8), "dropout": RATE},
    ("attention", "criss_cross"): {
        "recurrence": (0, -2),
        "reduction": (0, -8),
        "channels": WIDTH,
        "out_channels": WIDTH,
    },
    ("attention", "axial"): {"heads": (0, 5, 32), "channels": WIDTH},
    ("attention", "window"): {
        "window": (0, -7, 13),
        "heads": (0, 5),
        "channels": WIDTH,
        "layers": (0, -2),
        "mlp_ratio": (0.0, -4.0),
    },
    ("attention", "interlaced"): {
        "factors": ((0, 8), (8, -8), (13, 8), (8,)),
        "channels": WIDTH,
        "key_channels": WIDTH,
        "dropout": RATE,
    },
    ("attention", "efficient"): {
        "heads": (0, 5),
        "reduction": (0, -4, 13),
        "channels": WIDTH,
        "layers": (0, -1),
        "dropout": RATE,
    },
    ("attention", "ocr"): {
        "aux_stride": (-16, 3),
        "channels": WIDTH,
        "key_channels": WIDTH,
        "scale": (0, -1, 13),
        "dropout": RATE,
    },
    ("attention", "se"): {"reduction": (0, -16)},
    ("attention", "cbam"): {"reduction": (0, -16), "kernel_size": (0, 4, -7)},
    ("attention", "scse"): {"reduction": (0, -16)},
    ("attention", "gate"): {"channels": WIDTH},
    ("attention", "psa"): {"channels": WIDTH, "shrink": (0, -2, 13), "mask_size": ((0, 3), (3, 4), (3,))},
    ("attention", "linear"): {"heads": (0, 5), "head_dim": WIDTH, "channels": WIDTH},
    ("attention", "ema"): {"channels": WIDTH, "bases": (0, -64), "stages": (0, -3), "momentum": (-0.1, 1.5)},
    ("attention", "encnet"): {"channels": WIDTH, "codewords": (0, -32)},
    ("decoder", "fcn"): {
        "channels": WIDTH,
        "convs": (-1,),
        "dropout": RATE,
        "skips": ((3,), (2, -4)),
        "aux_stride": (0, -16, 3),
    },
    ("decoder", "mask_transformer"): {
        "channels": WIDTH,
        "layers": (0, -2),
        "heads": (0, 5),
        "mlp_ratio": (0.0, -4.0),
        "dropout": RATE,
    },
    ("decoder", "masked_attention"): {
        "channels": WIDTH,
        "queries": (0, -100),
        "layers": (0, -3),
        "heads": (0, 5),
        "mlp_ratio": (0.0, -8.0),
        "strides": ((3,), (4, -8)),
    },
}
# What an option needs to be looked at.
BESIDE = {
    ("self", "position_size"): {"positions": "learned"},
    ("fcn", "aux_stride"): {"aux": True},
    ("psa", "impl"): {"compact": True},
}
# Their message names the stride instead, which several options may ask for.
OF_A_STRIDE = {("fcn", "skips"), ("fcn", "aux_stride"), ("masked_attention", "strides")}
TABLES = {"attention": ATTENTION, "decoder": DECODERS}


def message(part, name, key, value):
    """What a model of this option says when it is traced."""
    config = {"attention": {"name": "none"}, "decoder": {"name": "fcn", "fcn": {"skips": (2,)}}}
    options = {**BESIDE.get((name, key), {}), key: value}
    config[part] = {**config[part], "name": name, name: {**config[part].get(name, {}), **options}}
    model = build_model(config, 7, dtype=jnp.bfloat16)
    with pytest.raises(UserError) as error:
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    return str(error.value)


@pytest.mark.parametrize(
    "part, name, key, value",
    [(*where, key, value) for where, keys in BAD.items() for key, values in keys.items() for value in values],
)
def test_a_bad_number(part, name, key, value):
    found = message(part, name, key, value)
    start = f"config.model.{part}.{name} asks for" if (name, key) in OF_A_STRIDE else f"{part}.{name}.{key}={value}"
    assert found.startswith(start if start.startswith("config") else f"config.model.{start}") and "\n" not in found
    assert re.search(r"must be|at least|choose|change", found)


def test_no_number_is_left_out():
    known = {
        (part, name): {key for key, value in build.options(module).items() if type(value) in (int, float, tuple)}
        for part, table in TABLES.items()
        for name, module in table.items()
        if part == "attention" or (part, name) in BAD
    }
    assert {where: keys for where, keys in known.items() if keys} == {where: set(keys) for where, keys in BAD.items()}


@pytest.mark.parametrize(
    "part, name",
    [(part, name) for part, table in TABLES.items() for name in table if "impl" in build.options(table[name])],
)
def test_an_impl_that_is_refused_for_what_only_tracing_tells(part, name, monkeypatch):
    def refusal(impl, dtype, widths, *_):
        return "takes other widths than these" if widths else None

    monkeypatch.setattr(dispatch, "_refusal", refusal)
    assert message(part, name, "impl", "cudnn") == (
        f"config.model.{part}.{name}.impl='cudnn' takes other widths than these: choose 'auto' or 'chunked'"
    )
