"""The transforms that no config has by default: geometry, degradation, mixing; and how often images are drawn."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from attnseg_jax.data import sampling
from attnseg_jax.data.datasets import DatasetInfo
from attnseg_jax.data.pipeline import train_batches
from attnseg_jax.data.transforms import TRANSFORMS, augment, degrade, geometry, mixing, needs_others
from attnseg_jax.errors import UserError
from tests.data.test_transforms import NO_JITTER, coded

NEW = [name for name in TRANSFORMS if name not in ("scale_crop", "flip", "colour_jitter", "normalise_pad")]
MIXING = ("copy_paste", "class_mix", "mosaic")
MEAN = (123.675, 116.28, 103.53)


def sample_of(seed=0, size=(64, 80)):
    image, label = coded(*size, block=16, seed=seed)
    return {"image": image, "label": label, "depth": label.astype(np.float32) + 0.5}


def with_others(sample):
    return sample | {"others": lambda rng: sample_of(int(rng.integers(5, 9)), (48, 100))}


@pytest.mark.parametrize("name", NEW)
def test_fields_stay_together_and_draws_repeat(data_config, name):
    """The colour of a pixel, and its depth, are functions of its label, before and after."""
    order = ("right_angle", "scale_crop") if name == "right_angle" else ("mosaic", "scale_crop")
    order = order if name in order else ("scale_crop", name)
    config = data_config(
        crop=(40, 56), scale=(0.8, 1.25), mean=(0, 0, 0), std=(1, 1, 1), transforms=(*order, "normalise_pad")
    )
    config.update(gamma=0.02, noise=1.0, blur=0.4, copy_paste={"classes": ("c2", "c3")})
    sample = with_others(sample_of())
    before = {key: value.copy() for key, value in sample.items() if key != "others"}
    agreement, changed = [], 0
    for seed in range(8):
        out = augment(sample, np.random.default_rng(seed), config)
        again = augment(sample, np.random.default_rng(seed), config)
        assert out.keys() == {"image", "label", "depth"}
        assert all(np.array_equal(out[key], again[key]) for key in out)
        assert out["image"].shape == (40, 56, 3) and out["label"].shape == (40, 56)
        valid = out["label"] != 255
        if name != "cutout":
            np.testing.assert_array_equal(out["depth"][valid], out["label"][valid] + 0.5)
        agreement.append((np.abs(out["image"][..., 0] - (out["label"] * 30 + 10))[valid] < 15).mean())
        plain = augment(
            sample,
            np.random.default_rng(seed),
            data_config(**(config.to_dict() | {"transforms": ("scale_crop", "normalise_pad")})),
        )
        changed += any(not np.array_equal(out[key], plain[key]) for key in out)
    assert min(agreement) > 0.6 and np.mean(agreement) > 0.8 and changed >= 3
    assert all(np.array_equal(sample[key], before[key]) for key in before)


def test_a_quarter_turn_by_the_affine_map(data_config):
    """Resampling by exactly 90 degrees is NumPy's turn of the array, in every field."""
    rng = np.random.default_rng(1)
    inverse = np.array([[0.0, -1.0, 31.0], [1.0, 0.0, 0.0]])
    for name, array in (
        ("image", rng.integers(0, 256, (31, 31, 3)).astype(np.uint8)),
        ("image", rng.normal(size=(31, 31, 5)).astype(np.float32)),
        ("label", rng.integers(0, 7, (31, 31)).astype(np.uint8)),
        ("normals", rng.normal(size=(31, 31, 2))),
    ):
        mean = 0.0 if array.shape[-1] == 5 else (0, 0, 0)
        np.testing.assert_allclose(geometry.resampled(name, array, inverse, mean), np.rot90(array, 1), atol=1e-5)


def test_what_comes_from_outside_is_padding(data_config):
    """A shift by a fifth of the width, without anything else."""
    options = {"degrees": 0.0, "shear": 0.0, "aspect": 0.0, "shift": 0.2, "probability": 1.0}
    sample = sample_of() | {"regions": np.zeros((64, 80, 2), np.int32)}
    out = geometry.affine(sample, np.random.default_rng(4), data_config(affine=options))
    outside = out["label"] == 255
    assert 0.02 < outside.mean() < 0.4 and (out["regions"][outside] == -1).all() and (out["depth"][outside] == 0).all()
    corner = out["image"][outside]
    assert (np.abs(corner.astype(float) - MEAN).max(1) < 1).mean() > 0.9


def test_what_degrades_an_image_leaves_its_label(data_config):
    config, sample = data_config(), sample_of()
    sample["image"] = np.random.default_rng(0).integers(0, 256, (64, 80, 3)).astype(np.uint8)
    for name in ("gamma", "blur", "noise", "jpeg"):
        out = TRANSFORMS[name](sample, np.random.default_rng(0), config)
        assert out["label"] is sample["label"] and not np.array_equal(out["image"], sample["image"])
    # Black and white stay.
    ends = {"image": np.array([[[0, 255, 0], [255, 0, 255]]], np.uint8), "label": np.zeros((1, 2), np.uint8)}
    np.testing.assert_array_equal(degrade.gamma(ends, np.random.default_rng(3), config)["image"], ends["image"])
    with pytest.raises(UserError, match="'jpeg' is for 8-bit RGB"):
        degrade.jpeg(sample, np.random.default_rng(0), data_config(channels=4))


def test_what_is_cut_out(data_config):
    sample = sample_of()
    out = degrade.cutout(sample, np.random.default_rng(5), data_config())
    gone = out["label"] == 255
    assert 0 < gone.sum() <= 2 * 0.16 * gone.size and (out["image"][gone] == np.round(MEAN)).all()
    np.testing.assert_array_equal(out["image"][~gone], sample["image"][~gone])
    kept = degrade.cutout(
        sample, np.random.default_rng(5), data_config(cutout={"count": 2, "size": 0.4, "ignore": False})
    )
    np.testing.assert_array_equal(kept["label"], sample["label"])
    np.testing.assert_array_equal(kept["image"], out["image"])


def flat(value, size, fill=0):
    label = np.full(size, fill, np.uint8)
    label[3:9, 4:12] = value
    return {"image": np.repeat((label * 30 + 10)[..., None], 3, 2).astype(np.uint8), "label": label}


def test_only_the_wanted_classes_are_pasted(data_config):
    """The other image shows 48 pixels of class 2, and of class 1 elsewhere, which stays behind."""
    sample = flat(0, (20, 30)) | {"others": lambda rng: flat(2, (20, 30), fill=1)}
    config = data_config(copy_paste={"classes": ("c2",), "probability": 1.0})
    out = mixing.copy_paste(sample, np.random.default_rng(0), config)
    assert np.bincount(out["label"].ravel()).tolist() == [600 - 48, 0, 48]
    np.testing.assert_array_equal(out["image"][..., 0], out["label"] * 30 + 10)
    # A smaller image lies anywhere, and what is not of it stays.
    sample["others"] = lambda rng: flat(2, (10, 14), fill=1)
    places = {
        tuple(np.argwhere(mixing.copy_paste(sample, np.random.default_rng(s), config)["label"] == 2)[0])
        for s in range(20)
    }
    assert len(places) > 10
    for classes, words in (((), "is empty"), (("cow",), r"'cow' is no class")):
        with pytest.raises(UserError, match=words):
            mixing.copy_paste(sample, np.random.default_rng(0), data_config(copy_paste={"classes": classes}))


def test_half_of_the_classes_of_another_image(data_config):
    other = sample_of(3)
    sample = flat(0, (64, 80), fill=6) | {"others": lambda rng: {"image": other["image"], "label": other["label"] % 4}}
    out = mixing.class_mix(sample, np.random.default_rng(0), data_config())
    new = {*np.unique(out["label"])} - {0, 6}
    pasted = np.isin(other["label"] % 4, [*new]) if 0 not in np.unique(out["label"][10:]) else None
    assert len({*np.unique(out["label"][10:])} - {6}) == 2
    if pasted is not None:
        np.testing.assert_array_equal(out["label"][pasted], (other["label"] % 4)[pasted])


def test_a_mosaic_of_four(data_config):
    fills = iter(range(1, 100))
    sample = flat(0, (60, 70)) | {"others": lambda rng: flat(v := next(fills) % 7, (60, 70), fill=v)}
    out = mixing.mosaic(sample, np.random.default_rng(0), data_config(crop=(40, 56), scale=(1.0, 1.0)))
    corners = [out["label"][y, x] for y, x in ((0, -1), (-1, 0), (-1, -1))]
    assert out["label"].shape == (40, 56) and corners == [1, 2, 3]
    row = out["label"][0]
    assert 14 <= (row == 1).sum() <= 42 and "depth" not in out


def test_regions_are_of_one_image(data_config):
    config = data_config(transforms=("scale_crop", "class_mix", "normalise_pad"))
    assert needs_others(config)
    config.regions.method = "slic"
    with pytest.raises(UserError, match=r"'class_mix' mixes images, and config\.data\.regions are of one"):
        needs_others(config)


def test_repeat_factors_by_hand():
    """Class 1 in a half, class 2 in one of eight images; three show class 0 alone."""
    present = np.zeros((8, 3), bool)
    present[:, 0] = True
    present[:4, 1] = present[4, 2] = True
    options = SimpleNamespace(power=0.5, threshold=0.5, empty=0.25)
    np.testing.assert_allclose(sampling.repeat_factors(present, options), [1, 1, 1, 1, 2, 0.25, 0.25, 0.25])
    options = SimpleNamespace(power=1.0, threshold=0.25, empty=0.0)
    np.testing.assert_allclose(sampling.repeat_factors(present, options), [1, 1, 1, 1, 2, 0, 0, 0])


class Source:
    """Ten images, the last of which shows class 3; its image tells its number."""

    info = DatasetInfo("letters", tuple("abcdefg"), np.zeros((7, 3), np.uint8))

    def __len__(self):
        return 10

    def __getitem__(self, index):
        label = np.full((13, 17), 1, np.uint8)
        label[0, 0] = 3 if index == 9 else 1
        return {"image": np.full((13, 17, 3), index, np.uint8), "label": label, "id": str(index)}


def drawn(config, count, **options):
    batches = train_batches(Source(), config, batch_size=4, seed=2, **options)
    found = [batch["image"][:, 0, 0, 0].round().astype(int) for batch in itertools.islice(batches, count)]
    batches.close()
    return np.concatenate(found)


def test_rare_classes_are_drawn_more_often(data_config, monkeypatch):
    """sqrt(0.9 / 0.1) = 3: three of twelve draws; resuming goes on with the same ones."""
    config = data_config(
        mean=(0, 0, 0),
        std=(1, 1, 1),
        scale=(1.0, 1.0),
        sampling={"power": 0.5, "threshold": 0.9, "empty": 1.0},
        **NO_JITTER,
    )
    said = []
    monkeypatch.setattr(sampling.logging, "info", lambda text, *values: said.append(text % values))
    found = drawn(config, 12)
    assert np.bincount(found).tolist() == [4] * 9 + [12]
    assert said == ["sampling: of the images drawn 25.0% show d (10.0% of all)"]
    np.testing.assert_array_equal(drawn(config, 7, start_step=5), found[20:])


def test_mixed_batches_do_not_depend_on_threads_or_start(data_config):
    config = data_config(transforms=("mosaic", "scale_crop", "class_mix", "flip", "normalise_pad"))
    whole = drawn(config, 4)
    np.testing.assert_array_equal(drawn(data_config(**(config.to_dict() | {"threads": 0})), 4), whole)
    np.testing.assert_array_equal(drawn(config, 2, start_step=2), whole[8:])
