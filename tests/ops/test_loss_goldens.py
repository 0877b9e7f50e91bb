"""Every loss golden but cross-entropy's: values and gradients of segmentation_models_pytorch and mmsegmentation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc

from attnseg_jax.ops import losses
from attnseg_jax.ops.losses.pixels import hard_pixels

load = functools.cache(Golden)
CLASS_WEIGHTS = jnp.array([0.5, 0.7, 0.9, 1.1, 1.3])


def as_one_image(logits, labels):
    """Lovasz over the whole batch is that of one image which holds all pixels."""
    b, h, w, k = logits.shape
    return losses.lovasz(logits.reshape(1, b * h, w, k), labels.reshape(1, b * h, w))


def option(function, **keywords):
    return functools.partial(function, **keywords)


def kept(pixels, threshold):
    """mmsegmentation keeps a number of pixels, counted for both images: here it is a share of the valid ones."""

    def loss(logits, labels):
        valid = int((np.asarray(labels) != 255).sum())
        share = min(2 * pixels / valid, 1.0) if valid else 0.0
        return losses.ohem(logits, labels, threshold=threshold, min_kept=share)

    return loss


LOSSES = {
    "dice": {
        "plain": losses.dice,
        "smooth1": option(losses.dice, smooth=1.0),
        "log": option(losses.dice, log=True),
        "classes13": option(losses.dice, classes=(1, 3)),
    },
    "jaccard": {
        "plain": losses.jaccard,
        "smooth1": option(losses.jaccard, smooth=1.0),
        "log": option(losses.jaccard, log=True),
    },
    "tversky": {
        "a0.5_b0.5": option(losses.tversky, alpha=0.5, beta=0.5),
        "a0.3_b0.7": losses.tversky,
        "a0.3_b0.7_g0.75": option(losses.tversky, gamma=0.75),
    },
    "focal": {
        "g2": losses.focal,
        "g2_a0.25": option(losses.focal, alpha=0.25),
        "g1.5_norm": option(losses.focal, gamma=1.5, normalized=True),
        "g2_weights": option(losses.focal, class_weights=CLASS_WEIGHTS),
    },
    "lovasz": {"batch": as_one_image, "per_image": losses.lovasz},
    "ohem": {"t0.3_k10": kept(10, 0.3), "t0.05_k30": kept(30, 0.05), "t0.7_k20": kept(20, 0.7), "top20": kept(20, 0.0)},
}


@functools.cache
def computed(case):
    """`{(kind, label set): (value, gradient)}`, compiled together."""
    inputs = load(f"loss_{case}").inputs()
    label_sets = {name: jnp.asarray(labels) for name, labels in inputs.items() if name not in ("x", "no_void")}

    def of(kind, labels):
        return jax.value_and_grad(lambda z: losses.mean(*LOSSES[case][kind](z, labels)))

    def everything(logits):
        return {(kind, name): of(kind, labels)(logits) for kind in LOSSES[case] for name, labels in label_sets.items()}

    return jax.jit(everything)(nhwc(inputs["x"]))


def is_value(case, name):
    part, kind = name.split("/")[:2]
    return part != "shape_note" and kind in LOSSES[case]


def cases():
    for case in LOSSES:
        yield from ((case, name) for name in load(f"loss_{case}").info["outputs"] if is_value(case, name))


def factor(case, name):
    """What the original's value and gradient are multiplied by, where its own division is a defect."""
    _, kind, label_set = name.split("/")
    golden = load(f"loss_{case}")
    pixels = (golden.inputs()[label_set] != 255).sum()
    if kind == "g1.5_norm":
        return pixels  # the original divides by the number of pixels after it divided by the sum of the factors
    if case == "ohem" and not name.startswith("loss_over_kept"):
        weight = golden.expected(f"weight/{kind}/{label_set}")
        return weight.size / max(weight.sum(), 1)  # the original divides by all pixels
    return 1.0


@pytest.mark.parametrize("case, name", list(cases()))
def test_losses(case, name):
    """With all pixels ignored some originals are NaN, in value or gradient; ours are 0."""
    golden = load(f"loss_{case}")
    part, kind, label_set = name.split("/")
    if part == "weight":
        labels = golden.inputs()[label_set]
        threshold = {"t0.3_k10": 0.3, "t0.05_k30": 0.05, "t0.7_k20": 0.7, "top20": 0.0}[kind]
        share = {"t0.3_k10": 20, "t0.05_k30": 60}.get(kind, 40) / max((labels != 255).sum(), 1)
        log_p = jax.nn.log_softmax(nhwc(golden.inputs()["x"]))
        nll = -jnp.take_along_axis(log_p, jnp.where(labels == 255, 0, labels)[..., None], -1)[..., 0]
        found = hard_pixels(nll, jnp.asarray(labels), threshold=threshold, min_kept=min(share, 1))
        np.testing.assert_array_equal(np.asarray(found), golden.expected(name) > 0)
        return
    value, gradient = computed(case)[kind, label_set]
    if label_set == "all_void":
        assert float(value) == 0 and (gradient == 0).all()
        assert np.nan_to_num(golden.expected(name)).max() == 0
    else:
        assert_golden(golden, name, (nchw(gradient) if part == "grad" else value) / factor(case, name))
