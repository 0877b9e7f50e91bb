"""Windows and views: against the originals, against a loop, and one program whatever the number of windows."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import Golden
from layout import assert_golden, nchw, nhwc

from attnseg_jax.ops.resize import resize
from attnseg_jax.ops.sliding import average_views, importance, slide, starts


def net(case):
    """The originals' small net of stride 4, its logits resized to its image."""
    weights = {name: jnp.asarray(value) for name, value in case.state_dict().items()}

    def conv(x, name, stride, padding):
        kernel = weights[f"{name}.weight"].transpose(2, 3, 1, 0)
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=dims)
        return x + weights[f"{name}.bias"].reshape(1, 1, 1, -1)

    def apply(image):
        x = jax.nn.relu(conv(image, "conv1", 2, 1))
        x = jax.nn.relu(conv(x, "conv2", 2, 1))
        return resize(conv(x, "conv3", 1, 0), image.shape[1:3])

    return apply


@pytest.mark.parametrize("window, stride", [((32, 48), (21, 32)), ((64, 40), (64, 40))])
def test_uniform_windows_are_mmsegmentations(window, stride):
    case = Golden("op_slide_mmseg")
    image = nhwc(case.inputs()["x"])
    got = slide(net(case), image, window=window, stride=stride, rows=3)
    assert_golden(case, f"crop{window[0]}x{window[1]}_stride{stride[0]}x{stride[1]}", nchw(got))


@pytest.mark.parametrize("blend, name", [("uniform", "constant_32x48"), ("gaussian", "gaussian_32x48")])
def test_windows_are_monais(blend, name):
    case = Golden("op_slide_monai")
    got = slide(net(case), nhwc(case.inputs()["x"]), window=(32, 48), stride=(24, 36), blend=blend)
    assert_golden(case, name, nchw(got))


@pytest.mark.parametrize("window", [(32, 48), (72, 40)])
def test_gaussian_weights_are_monais(window):
    name = f"gaussian_{window[0]}x{window[1]}/importance"
    assert_golden(Golden("op_slide_monai"), name, importance(window, "gaussian"))


def test_views_are_mmsegmentations():
    case = Golden("op_tta_mmseg")
    image = jnp.asarray(case.inputs()["image"])[None]
    got = average_views(net(case), image, scales=(0.75, 1.0, 1.25), flip=True)[0]
    assert_golden(case, "mean", np.exp(got).transpose(2, 0, 1))
    if case.info["outputs"]["map"]["stored"] == "full":
        np.testing.assert_array_equal(case.expected("map"), got.argmax(-1))


def test_one_view():
    image = jnp.ones((1, 5, 6, 3))
    assert average_views(lambda x: x, image) is image


def test_views_are_padded_for_the_model_and_cut_again():
    sizes = []

    def apply(image):
        sizes.append(image.shape[1:3])
        return image

    image = jnp.asarray(np.random.default_rng(0).normal(size=(2, 17, 22, 4)), jnp.float32)
    got = average_views(apply, image, scales=(1.0, 0.5), flip=True, multiple=8)
    assert set(sizes) == {(24, 24), (16, 16)}
    half = resize(resize(image, (9, 11)), (17, 22))
    want = (jax.nn.softmax(image) + jax.nn.softmax(half)) / 2
    np.testing.assert_allclose(got, np.log(want), rtol=1e-4, atol=1e-5)


def test_views_are_padded_with_their_mirror_image():
    """The last pixel is not repeated; what is mirrored is the view, not the image."""
    seen = []

    def apply(image):
        seen.append(np.asarray(image[0, ..., 0]))
        return image

    image = jnp.asarray([[[[0.0], [1], [2]], [[10], [11], [12]]]])
    average_views(apply, image, flip=True, multiple=4, padding="reflect")
    rows = np.array([[0, 10, 0, 10]]).T
    np.testing.assert_array_equal(seen, [rows + [[0, 1, 2, 1]], rows + [[2, 1, 0, 1]]])


def test_views_that_are_sure_of_another_class_stay_finite():
    got = average_views(lambda x: 1e4 * x, jnp.eye(3).reshape(1, 1, 3, 3), flip=True)
    assert np.isfinite(got).all()


def windows_by_a_loop(apply, image, window, stride, weights):
    """In float64, one window at a time."""
    b, h, w, _ = image.shape
    total, weight = None, np.zeros((h, w, 1))
    tops, lefts = (sorted({min(s, n - v) for s in range(0, n - v + t, t)}) for n, v, t in zip((h, w), window, stride))
    for y in tops:
        for x in lefts:
            part = (slice(y, y + window[0]), slice(x, x + window[1]))
            logits = np.asarray(apply(image[:, *part]), np.float64) * weights[..., None]
            total = np.zeros((b, h, w, logits.shape[-1])) if total is None else total
            total[:, *part] += logits
            weight[part] += weights[..., None]
    return total / weight


@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_windows_are_those_of_a_loop(blend, rows):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(2, 23, 31, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)

    def apply(x):  # depends on the window as a whole
        return x @ kernel - x.mean((1, 2), keepdims=True) @ kernel

    window, stride = (9, 12), (6, 7)
    got = slide(apply, image, window=window, stride=stride, blend=blend, rows=rows)
    want = windows_by_a_loop(apply, image, window, stride, importance(window, blend))
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_an_image_smaller_than_a_window_is_one():
    image = jnp.arange(24.0).reshape(1, 4, 6, 1)
    got = slide(lambda x: x, image, window=(8, 8), stride=(4, 4), blend="gaussian")
    np.testing.assert_allclose(got, image, rtol=1e-6)


def test_the_program_does_not_grow_with_the_number_of_windows():
    case = Golden("op_slide_mmseg")

    def convolutions(height):
        image = jax.ShapeDtypeStruct((1, height, 64, 3), jnp.float32)
        go = functools.partial(slide, net(case), window=(32, 32), stride=(16, 16), rows=2)
        return len(re.findall("stablehlo.convolution", jax.jit(go).lower(image).as_text()))

    assert convolutions(48) == convolutions(320) == 3


def test_where_windows_begin():
    assert starts(61, 32, 21) == [0, 21, 29]
    assert starts(61, 61, 21) == starts(40, 61, 21) == [0]
    with pytest.raises(ValueError, match="unknown blend 'gauss', known: uniform, gaussian"):
        importance((4, 4), "gauss")
