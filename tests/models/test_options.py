"""Options out of their range: refused by their full key, when the model is built or, where only a map tells, traced."""

import jax
import jax.numpy as jnp
import pytest

from attnseg_jax import build_model
from attnseg_jax.errors import OptionError, UserError, option_path
from attnseg_jax.models import ATTENTION, BACKBONES, DECODERS
from attnseg_jax.models.build import KINDS
from attnseg_jax.models.options import Range, options, ranges
from attnseg_jax.models.regions.fast_rcnn import FastRCNN
from attnseg_jax.models.regions.rcnn import RCNN
from attnseg_jax.ops.attention import dispatch

IMAGE = jax.ShapeDtypeStruct((1, 45, 61, 3), jnp.float32)  # a map of 12 x 16 positions and 64 channels
TABLES = {"backbone": BACKBONES, "attention": ATTENTION, "decoder": DECODERS}
REGION_MODELS = {"rcnn": RCNN, "fast_rcnn": FastRCNN}
# Every option that is neither a switch nor `impl`, which the attention operator checks, has a declared range but these:
# what they may be only the backbone's maps, or an earlier mechanism, can tell.
UNDECLARED = {
    ("attention", "ocr", "regions"),
    ("decoder", "fcn", "skips"),
    *(("decoder", name, "strides") for name in ("fpn", "mask2former", "masked_attention", "segformer", "uper")),
    *(("decoder", name, "strides") for name in ("ham", "pan", "dpt", "linear")),
    *(("decoder", name, "low_stride") for name in ("deeplabv3plus", "lraspp")),
}
# Of the backbones one of each family that has the option.
WITH_IMPL = [
    (part, name)
    for part, table in TABLES.items()
    for name in table
    if "impl" in options(table[name]) and (part != "backbone" or name in ("vit_ti", "swin_t", "mit_b0"))
]
# Refused when traced, with the options beside it that they need.
TRACED = [
    ("attention", "self", "heads", 5, "does not divide 64 channels: choose a divisor, or set head_dim", {}),
    ("attention", "self", "mlp_ratio", 0.001, "must be at least 0.015625", {}),
    ("attention", "self", "impl", "chunked", "cannot drop weights (dropout=0.5): set dropout=0", {"dropout": 0.5}),
    ("attention", "local", "kernel", 33, "with dilation=1 reaches beyond a map of 12x16 positions from everywhere", {}),
    ("attention", "local", "heads", 5, "does not divide 64 channels", {}),
    ("attention", "local", "stride", 4, "is for value='logits': choose 0, or that value", {}),
    ("attention", "local", "stride", 3, "asks for a map of stride 3; the backbone has 2, 4:", {"value": "logits"}),
    ("attention", "axial", "heads", 5, "does not divide 32 channels", {}),
    ("attention", "axial", "heads", 32, "gives each head 1 of 32 channels, an odd number", {}),
    ("attention", "window", "window", 13, "does not fit the map of 12x16: choose 1 to 12", {}),
    ("attention", "window", "heads", 5, "does not divide 64 channels", {}),
    ("attention", "window", "mlp_ratio", 0.0, "must be at least 0.015625", {}),
    ("attention", "interlaced", "factors", (13, 8), "does not fit a map of 12x16 positions: choose two numbers", {}),
    ("attention", "efficient", "heads", 5, "does not divide 64 channels: choose a divisor", {}),
    ("attention", "efficient", "reduction", 13, "does not fit a map of 12x16 positions: choose 1 to 12", {}),
    ("attention", "ocr", "aux_stride", 3, "asks for a map of stride 3; the backbone has 2, 4: choose one of them", {}),
    ("attention", "ocr", "scale", 13, "does not fit a map of 12x16 positions: choose 1 to 12", {}),
    ("attention", "ocr", "regions", "fcn", "is no auxiliary prediction of an earlier mechanism (there: none)", {}),
    ("attention", "psa", "shrink", 13, "does not fit a map of 12x16 positions: choose 1 to 12", {}),
    ("attention", "psa", "mask_size", (3, 4), "must be two odd numbers, or ()", {}),
    ("attention", "deformable", "heads", 5, "does not divide 64 channels", {}),
    ("attention", "linear", "heads", 5, "does not divide 64 channels", {}),
    ("decoder", "fcn", "skips", (3,), "asks for a map of stride 3; the backbone has 2, 4: change skips", {}),
    ("decoder", "mask_transformer", "heads", 5, "does not divide 64 channels", {}),
    ("decoder", "mask_transformer", "mlp_ratio", 0.001, "must be at least 0.015625", {}),
    ("decoder", "masked_attention", "heads", 5, "does not divide 64 channels", {}),
    ("decoder", "masked_attention", "mlp_ratio", 0.001, "must be at least 0.015625", {}),
    ("decoder", "mask2former", "heads", 5, "does not divide 256 channels", {}),
    ("decoder", "mask2former", "groups", 5, "does not divide 256 channels: choose a divisor", {}),
    ("decoder", "mask2former", "mlp_ratio", 0.001, "must be at least 0.00390625", {}),
    ("decoder", "mask2former", "strides", (3,), "asks for a map of stride 3; the backbone has 2, 4:", {}),
    ("decoder", "masked_attention", "strides", (3,), "asks for a map of stride 3; the backbone has 2, 4:", {}),
]


def config_of(part, name, given):
    config = {"attention": {"name": "none"}, "decoder": {"name": "fcn", "fcn": {"skips": (2,)}}}
    config[part] = {"name": name, name: {**config.get(part, {}).get(name, {}), **given}}
    return config


def outside(limits, default):
    """Values just beyond each bound of a range, of the default's type."""
    if limits.choices:
        return ["xyz"] if isinstance(default, str) else [max(limits.choices) + 1]
    step = 0.25 if isinstance(default, float) else 1
    numbers = [] if limits.at_least is None else [limits.at_least - step]
    numbers += [] if limits.at_most is None else [limits.at_most + step]
    numbers += [] if limits.below is None else [limits.below]
    numbers += [limits.at_least + 1] if limits.odd else []
    numbers += [float("nan")] if isinstance(default, float) else []
    if not isinstance(default, tuple):
        return numbers
    length = max(limits.lengths, default=2)
    fitting = limits.at_least or 1
    wrong = next((n for n in (1, 3, 2) if limits.lengths and n not in limits.lengths), None)
    return [(fitting,) * (length - 1) + (n,) for n in numbers] + ([(fitting,) * wrong] if wrong else [])


DECLARED = [
    (part, name, field, value)
    for part, table in TABLES.items()
    for name, module in table.items()
    for field, limits in ranges(module).items()
    for value in outside(limits, options(module)[field])
]


@pytest.mark.parametrize("part, name", [(part, name) for part, table in TABLES.items() for name in table])
def test_declared_ranges(part, name):
    """Every value beyond a declared bound is refused before anything is traced, by its full key and what is wanted."""
    cases = [(field, value) for its_part, its_name, field, value in DECLARED if (its_part, its_name) == (part, name)]
    assert cases or not ranges(TABLES[part][name])
    for field, value in cases:
        with pytest.raises(OptionError) as error:
            build_model(config_of(part, name, {field: value}), 7)
        message = str(error.value)
        assert message.startswith(f"config.model.{part}.{name}.{field}={value!r} ") and "\n" not in message
        limits = ranges(TABLES[part][name])[field]
        bounds = [f"{bound:g}" for bound in (limits.at_least, limits.at_most, limits.below) if bound is not None]
        wanted = ["is unknown"] if limits.choices else ["must be", *bounds, *(["odd"] if limits.odd else [])]
        assert all(word in message for word in wanted), message


@pytest.mark.parametrize("kind", REGION_MODELS)
def test_declared_ranges_of_region_models(kind):
    for field, limits in ranges(REGION_MODELS[kind]).items():
        for value in outside(limits, KINDS[kind].options[field]):
            with pytest.raises(OptionError) as error:
                build_model({"kind": kind, kind: {field: value}}, 7, num_regions=5)
            assert str(error.value).startswith(f"config.model.{kind}.{field}={value!r} ")


def test_no_option_is_left_without_a_range():
    without = {
        (part, name, field)
        for part, table in TABLES.items()
        for name, module in table.items()
        for field, default in options(module).items()
        if not isinstance(default, bool) and field not in ranges(module) and field != "impl"
    }
    assert without == UNDECLARED
    assert set(KINDS["rcnn"].options) == set(ranges(RCNN)) and set(KINDS["fast_rcnn"].options) == set(ranges(FastRCNN))


@pytest.mark.parametrize("part, name, field, value, words, beside", TRACED)
def test_what_only_a_map_tells(part, name, field, value, words, beside):
    model = build_model(config_of(part, name, {field: value, **beside}), 7)
    with pytest.raises(OptionError) as error:
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    message = str(error.value)
    assert message.startswith(f"config.model.{part}.{name}.{field}={value!r} ") and "\n" not in message
    assert words in message


@pytest.mark.parametrize("part, name", WITH_IMPL)
def test_an_impl_that_is_refused_for_what_only_tracing_tells(part, name, monkeypatch):
    def refusal(impl, dtype, widths, *_):
        return "takes other widths than these" if widths else None

    monkeypatch.setattr(dispatch, "_refusal", refusal)
    given = {"impl": "cudnn"} | ({"compact": True} if name == "psa" else {})
    config = config_of(part, name, given)
    if part == "backbone":
        config["decoder"] = {"name": "fcn"}
    model = build_model(config, 7, dtype=jnp.bfloat16)
    with pytest.raises(UserError) as error:
        jax.eval_shape(model.init, jax.random.key(0), IMAGE)
    assert str(error.value) == (
        f"config.model.{part}.{name}.impl='cudnn' takes other widths than these: choose 'auto' or 'chunked'"
    )


def test_a_path_is_put_in_front_once():
    with pytest.raises(OptionError) as error, option_path("outer"), option_path("inner"):
        raise OptionError("heads", 0, "must be at least 1")
    assert str(error.value) == "inner.heads=0 must be at least 1" and error.value.field == "heads"
    with pytest.raises(OptionError, match=r"^config\.x needs larger images$"), option_path("config.x"):
        raise OptionError("", "Tiny", "needs larger images")


@pytest.mark.parametrize(
    "limits, value, refusal",
    [
        ({"at_least": 1}, 0, "must be at least 1"),
        ({"at_least": 1}, 1, ""),
        ({"at_least": 0, "below": 1}, float("nan"), "must be at least 0 and below 1"),
        ({"at_least": 0, "at_most": 1}, 1.5, "must be at least 0 and at most 1"),
        ({"at_least": 1, "odd": True}, 4, "must be odd and at least 1"),
        ({"at_least": 1, "lengths": (2,)}, (4, 0), "must be 2 numbers of at least 1"),
        ({"at_least": 1, "lengths": (0, 2)}, (4,), "must be 0 or 2 numbers of at least 1"),
        ({"at_least": 1, "lengths": (0, 2)}, (), ""),
        ({"choices": (8, 16, 32)}, 4, "is unknown: choose 8, 16 or 32"),
        ({"choices": ("sum", "mean")}, "men", "is unknown: did you mean 'mean'?"),
        ({"at_least": 1}, "many", "must be at least 1"),
    ],
)
def test_a_range_says_what_it_wants(limits, value, refusal):
    assert Range(**limits).refusal(value) == refusal
