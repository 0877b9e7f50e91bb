import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data import windows as file_windows
from attnseg_jax.data.transforms import augment
from attnseg_jax.data.transforms.colour import jittered
from attnseg_jax.data.transforms.crop import class_share, random_window, scale_crop
from attnseg_jax.data.transforms.fields import fill_value, normalise, pad
from attnseg_jax.data.transforms.flip import flip
from attnseg_jax.errors import UserError

NO_JITTER = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def coded(h, w, classes=7, block=8, seed=0):
    """An image whose colour is a function of its label, in blocks, so that both can be compared after any geometry."""
    blocks = np.random.default_rng(seed).integers(0, classes, (-(-h // block), -(-w // block)))
    label = np.kron(blocks, np.ones((block, block), int))[:h, :w].astype(np.uint8)
    return np.repeat((label * 30 + 10)[..., None], 3, 2).astype(np.uint8), label


def test_image_and_label_stay_together(data_config):
    config = data_config(crop=(40, 56), scale=(0.5, 2.0), mean=(0, 0, 0), std=(1, 1, 1), **NO_JITTER)
    image, label = coded(64, 80)
    agreement = []
    for seed in range(40):
        out = augment({"image": image, "label": label}, np.random.default_rng(seed), config)
        assert out["image"].shape == (40, 56, 3) and out["image"].dtype == np.float32
        assert out["label"].shape == (40, 56) and out["label"].dtype == np.int32
        valid = out["label"] != 255
        assert (out["image"][~valid] == 0).all()
        agreement.append((np.abs(out["image"][..., 0] - (out["label"] * 30 + 10))[valid] < 15).mean())
    # Only blended pixels at the blocks' rims may differ; a shift of one block would agree in one seventh.
    assert min(agreement) > 0.6 and np.mean(agreement) > 0.85


@pytest.mark.parametrize("factor", [0.5, 0.77, 1.0, 1.3, 2.0])
def test_window_equals_resizing_everything_and_cutting(factor):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (61, 83, 3)).astype(np.uint8)
    label = rng.integers(0, 7, (61, 83)).astype(np.uint8)
    size = round(83 * factor), round(61 * factor)
    whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR)).astype(int)
    whole_label = np.asarray(Image.fromarray(label).resize(size, Image.Resampling.NEAREST))
    window = random_window(label, np.random.default_rng(8), crop=(19, 23), scale=(factor,) * 2)
    out, out_label = window.cut_field("image", image), window.cut_field("label", label)
    assert out.shape == (19, 23, 3) and window.offset == (0, 0)
    places = [
        (y, x)
        for y in range(size[1] - 18)
        for x in range(size[0] - 22)
        if np.abs(whole[y : y + 19, x : x + 23] - out).max() <= 1
    ]
    assert len(places) == 1
    (y, x) = places[0]
    assert (whole_label[y : y + 19, x : x + 23] == out_label).mean() > 0.99


def test_scale_is_log_uniform():
    _, label = coded(200, 200)
    windows = [random_window(label, np.random.default_rng(s), crop=(999, 999), scale=(0.5, 2.0)) for s in range(400)]
    heights = [window.cut(label).shape[0] for window in windows]
    assert min(heights) >= 100 and max(heights) <= 400 and min(heights) < 105 and max(heights) > 380
    # Half of the factors are below 1, where a uniform factor would put a third.
    assert 0.43 < np.mean(np.array(heights) < 200) < 0.57


def test_the_scale_is_on_top_of_a_shorter_side():
    """Of 40 x 60 pixels and a shorter side of 20 the factors are half of those of the image itself."""
    label = np.zeros((40, 60), np.uint8)
    options = {"crop": (8, 8), "scale": (0.5, 2.0)}
    plain = [random_window(label, np.random.default_rng(i), **options).scaled for i in range(50)]
    halved = [random_window(label, np.random.default_rng(i), shorter_side=20, **options).scaled for i in range(50)]
    np.testing.assert_allclose(np.array(halved), np.array(plain) / 2, atol=0.76)
    fixed = random_window(label, np.random.default_rng(0), crop=(8, 8), shorter_side=30)
    assert fixed.scaled == (30, 45)


@pytest.mark.parametrize(
    "transforms", [("mosaic", "scale_crop"), ("scale_crop", "class_mix"), ("class_mix", "scale_crop")]
)
def test_images_that_are_mixed_have_one_shorter_side(transforms, data_config):
    """Stripes of 16 rows are of two rows each, wherever they come from."""
    config = data_config(
        shorter_side=16, crop=(16, 16), scale=(1, 1), max_class_share=1.0, mosaic={"probability": 1.0},
        class_mix={"probability": 1.0}, transforms=(*transforms, "normalise_pad"),
    )  # fmt: skip
    label = np.broadcast_to((np.arange(128) // 16 % 2).astype(np.uint8)[:, None], (128, 128))
    sample = {"image": np.zeros((128, 128, 3), np.uint8), "label": label, "id": ""}
    sample["others"] = lambda rng: {**sample, "label": label.copy()}
    for seed in range(5):
        found = augment(sample, np.random.default_rng(seed), config)["label"]
        assert found.shape == (16, 16)
        # Rows of one class, one below the other; where images meet there may be one or three or four.
        for column in found.T:
            runs = np.diff(np.flatnonzero(np.concatenate([[True], column[1:] != column[:-1], [True]])))
            assert runs.max() <= 4 and np.median(runs) == 2


def test_smaller_images_are_padded_at_random_places(data_config):
    config = data_config(crop=(30, 41), scale=(1.0, 1.0), flip=0.0, mean=(5, 6, 7), std=(2, 2, 2), **NO_JITTER)
    image, label = coded(20, 29)
    places = set()
    for seed in range(30):
        out = augment({"image": image, "label": label}, np.random.default_rng(seed), config)
        rows, columns = (np.flatnonzero((out["label"] != 255).any(a)) for a in (1, 0))
        y, x = rows[0], columns[0]
        places.add((y, x))
        np.testing.assert_array_equal(out["label"][y : y + 20, x : x + 29], label)
        np.testing.assert_allclose(out["image"][y : y + 20, x : x + 29] * 2 + (5, 6, 7), image, atol=1e-4)
        outside = np.ones((30, 41), bool)
        outside[y : y + 20, x : x + 29] = False
        # Zero after normalisation is the mean colour.
        assert (out["label"][outside] == 255).all() and (out["image"][outside] == 0).all()
    assert len(places) > 15


def test_one_class_takes_at_most_its_share():
    label = np.zeros((60, 60), np.uint8)
    label[:, 40:] = 3
    label[:20] = 255

    def shares(limit):
        found = []
        for seed in range(100):
            rng = np.random.default_rng(seed)
            cut = random_window(label, rng, crop=(20, 20), scale=(0.8, 1.2), max_class_share=limit).cut(label)
            counts = np.bincount(cut[cut != 255], minlength=4)
            found.append(counts.max() / counts.sum() if counts.sum() else 1.0)
        return np.array(found)

    # About one window in five satisfies the limit, so ten tries nearly always find one.
    assert (shares(1.0) > 0.75).mean() > 0.5
    assert (shares(0.75) > 0.75).mean() < 0.2


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_foreground_is_sought(factor):
    """Two pixels of class 2 in a corner and one of class 3, far apart; even rows and columns are lost by halving."""
    label = np.zeros((300, 420), np.uint8)
    label[3, 3:5] = 2
    label[251, 401] = 3
    options = {"crop": (30, 41), "scale": (factor, factor), "wanted": (2, 3)}
    windows = [random_window(label, np.random.default_rng(seed), **options) for seed in range(200)]
    shown = [set(window.cut(label).ravel()) for window in windows]
    assert np.mean([bool(found & {2, 3}) for found in shown]) > (0.95 if factor < 1 else 0.999)
    # Of each of the three pixels alike, anywhere in the window where that fits.
    assert 0.55 < np.mean([2 in found for found in shown]) < 0.78
    starts = {window.start for window, found in zip(windows, shown) if 3 in found}
    assert len(starts) > 50
    assert all(window.start[1] + 41 <= window.scaled[1] for window in windows)


def test_foreground_with_its_probability(data_config):
    label = np.full((100, 120), 255, np.uint8)
    label[:, :119] = 0
    label[40, 60] = 5
    sample = {"image": np.zeros((100, 120, 3), np.uint8), "label": label}

    def shares(probability, classes=(), **changes):
        options = {"probability": probability, "classes": classes}
        config = data_config(crop=(10, 12), scale=(1.0, 1.0), foreground=options, max_class_share=1.0, **changes)
        return np.mean([5 in scale_crop(sample, np.random.default_rng(s), config)["label"] for s in range(300)])

    # By chance one in a hundred shows it.
    assert shares(0.0) < 0.05 and 0.4 < shares(0.5) < 0.6 and shares(1.0) == shares(1.0, ("c5", "c2")) == 1
    assert shares(1.0, ("c2",)) < 0.05
    with pytest.raises(UserError, match=r"config\.data\.foreground\.classes=\('cow',\): 'cow' is no class"):
        shares(1.0, ("cow",))


def test_foreground_of_very_large_images(monkeypatch):
    """Of ten windows one that shows it, where one in four does."""
    monkeypatch.setattr(file_windows, "LARGE", 100)
    label = np.zeros((40, 40), np.uint8)
    label[:, 20:24] = 1
    found = [
        random_window(label, np.random.default_rng(seed), crop=(8, 8), wanted=[1]).cut(label).any()
        for seed in range(100)
    ]
    assert np.mean(found) > 0.9


def test_share_counts_labelled_pixels_only():
    assert class_share(np.array([[255, 255, 2, 2], [255, 255, 2, 4]], np.uint8)) == 0.75
    assert class_share(np.full((2, 2), 255, np.uint8)) == 1


def test_flip_mirrors_both(data_config):
    image, label = coded(10, 14)
    sample = {"image": image, "label": label}
    for probability in (0.0, 1.0):
        out, out_label = flip(sample, np.random.default_rng(0), data_config(flip=probability)).values()
        mirrored = out_label[:, ::-1] if probability else out_label
        np.testing.assert_array_equal(mirrored, label)
        np.testing.assert_array_equal(out[..., 0], out_label * 30 + 10)
    config = data_config(flip=0.25)
    flips = [flip(sample, np.random.default_rng(s), config)["label"] is not label for s in range(400)]
    assert 0.18 < np.mean(flips) < 0.32


def test_without_jitter_colours_stay():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    np.testing.assert_array_equal(jittered(image, np.random.default_rng(0)), image)


class Draws:
    """A generator that draws what it is told."""

    def __init__(self, *values):
        self.values = values

    def uniform(self, low, high, count):
        assert (low, high, count) == (-1, 1, 4)
        return np.array(self.values)


def test_jitter_by_hand():
    pixel = np.array([[[100, 50, 200], [40, 60, 80]]], np.uint8)
    luma = pixel @ np.array([0.299, 0.587, 0.114])

    def jitter(*values, **strength):
        return jittered(pixel, Draws(*values), **strength)

    np.testing.assert_allclose(jitter(0, -0.5, 0, 0, brightness=0.4), pixel * 0.8, rtol=1e-5)
    mean = luma.mean()
    np.testing.assert_allclose(jitter(0, 0, 1, 0, contrast=0.5), (mean + 1.5 * (pixel - mean)).clip(0, 255), rtol=1e-5)
    gray = luma[..., None]
    np.testing.assert_allclose(jitter(0, 0, 0, -1, saturation=1.0), np.broadcast_to(gray, (1, 2, 3)), rtol=1e-5)
    # All three in their order, against a plain version.
    step = pixel * 1.1
    step = (step @ np.array([0.299, 0.587, 0.114])).mean() * 0.2 + step * 0.8
    gray = (step @ np.array([0.299, 0.587, 0.114]))[..., None]
    wanted = gray * -0.3 + step * 1.3
    result = jitter(0, 0.5, -0.5, 0.75, brightness=0.2, contrast=0.4, saturation=0.4)
    np.testing.assert_allclose(result, wanted.clip(0, 255), rtol=1e-5)
    assert jitter(0, 1, 0, 0, brightness=9.0).max() == 255


def test_hue_turns_the_circle():
    red = np.zeros((3, 4, 3), np.uint8)
    red[..., 0] = 200
    third = jittered(red, Draws(1, 0, 0, 0), hue=1 / 3)
    assert third[..., 1].min() >= 197 and third[..., [0, 2]].max() <= 6
    back = jittered(red, Draws(-1, 0, 0, 0), hue=1 / 3)
    assert back[..., 2].min() >= 197 and back[..., [0, 1]].max() <= 6
    gray = np.full((3, 4, 3), 90, np.uint8)
    np.testing.assert_array_equal(jittered(gray, Draws(0.7, 0, 0, 0), hue=0.5), gray)


def test_one_option_leaves_the_draws_of_the_others(data_config):
    image, label = coded(30, 30)
    config = data_config(crop=(20, 20))
    plain = augment({"image": image, "label": label}, np.random.default_rng(4), config)
    config.hue, config.brightness = 0.0, 0.0
    other = augment({"image": image, "label": label}, np.random.default_rng(4), config)
    np.testing.assert_array_equal(plain["label"], other["label"])


def test_normalise_and_pad():
    image = np.array([[[10, 20, 30]]], np.uint8)
    out = normalise(image, (10, 10, 10), (1, 2, 4))
    np.testing.assert_allclose(out, [[[0, 5, 5]]])
    assert out.dtype == np.float32
    pixels = pad(out, (2, 3), (1, 2), fill_value("image", out.dtype))
    labels = pad(np.array([[6]], np.uint8), (2, 3), (1, 2), fill_value("label", np.uint8))
    np.testing.assert_array_equal(labels, [[255, 255, 255], [255, 255, 6]])
    assert pixels[1, 2, 1] == 5 and np.abs(pixels).sum() == 10
