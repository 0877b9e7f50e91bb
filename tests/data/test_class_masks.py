"""Masks of classes that may overlap: how files become labels, what is done to these, and what is refused by name."""

import re

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data import class_masks, datasets, pipeline, sampling
from attnseg_jax.data.doctor import examine
from attnseg_jax.data.sources import load_source, survey
from attnseg_jax.data.sources.counts import check_classes
from attnseg_jax.data.transforms import augment
from attnseg_jax.errors import UserError
from attnseg_jax.plots.sheet import NOTHING

NAMES = ("vein", "hard_spot", "spot")
H, W = 9, 14
PLAIN = {"masks": "lab/{stem}_vein.png"}
RNG = np.random.default_rng(4)
LABELS = {f"eye_{i}": (RNG.random((H, W, 3)) < 0.4).astype(np.uint8) for i in (1, 2, 10)}


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


@pytest.fixture
def files(tmp_path):
    """An image of each label and a mask of 0 and 255 of each class, whose name is part of the file's."""
    for name, label in LABELS.items():
        save(tmp_path / "img" / "train" / f"{name}.png", np.stack([label[..., 0] * 200] * 3, -1))
        for k, class_name in enumerate(NAMES):
            save(tmp_path / "lab" / f"{name}_{class_name}.png", 255 * label[..., k])
    return tmp_path


@pytest.fixture
def config(data_config, files):
    def make(**changes):
        given = {"dir": str(files), "mode": "multilabel", "classes": NAMES, "ids": ((0, 0), (255, 1))}
        given |= {"images": "img/{split}/{stem}.png", "masks": "lab/{stem}_{class}.png"}
        return data_config(**given | changes)

    return make


def labels_of(source):
    return {source[i]["id"]: source[i]["label"] for i in range(len(source))}


def test_a_file_for_each_class(config, files):
    """`eye_1_hard_spot.png` is the mask of `hard_spot` of `eye_1`, not that of `spot` of `eye_1_hard`."""
    source = load_source(config(), "train")
    found = labels_of(source)
    assert found.keys() == LABELS.keys() and len(source.files()) == 3 * 4
    for name, label in LABELS.items():
        np.testing.assert_array_equal(found[name], label)
    counts = survey(source, threads=1)
    np.testing.assert_array_equal(counts.pixel_counts, sum(label.sum((0, 1), dtype=int) for label in LABELS.values()))
    np.testing.assert_array_equal(counts.image_pixel_counts, [3 * H * W] * 3)
    # A folder for each class, as predictions are written.
    for name, label in LABELS.items():
        for k, class_name in enumerate(NAMES):
            save(files / "mask" / class_name / f"{name}.png", label[..., k])
    for name, label in labels_of(load_source(config(masks="mask/{class}/{stem}.png", ids=()), "train")).items():
        np.testing.assert_array_equal(label, LABELS[name])


@pytest.mark.parametrize("ending", [".npy", ".png"])
def test_a_band_for_each_class(config, files, ending):
    for name, label in LABELS.items():
        save(files / "bands" / f"{name}{ending}", 255 * label)
    for name, label in labels_of(load_source(config(masks=f"bands/{{stem}}{ending}"), "train")).items():
        np.testing.assert_array_equal(label, LABELS[name])
    with pytest.raises(UserError, match=r"bands/eye_1\.\w+: the mask has 3 bands, .* each of the 2 classes"):
        load_source(config(masks=f"bands/{{stem}}{ending}", classes=NAMES[:2]), "train")[0]


def test_a_class_without_a_file(config, files):
    (files / "lab" / "eye_2_vein.png").unlink()
    with pytest.raises(UserError, match=r"eye_2\.png: there is no mask of the class 'vein'; .*missing='absent'"):
        load_source(config(), "train")
    for missing, value in (("absent", 0), ("ignored", 255)):
        source = load_source(config(missing=missing), "train")
        label = labels_of(source)["eye_2"]
        assert (label[..., 0] == value).all()
        np.testing.assert_array_equal(label[..., 1:], LABELS["eye_2"][..., 1:])
    assert survey(source, threads=1).image_pixel_counts.tolist() == [2 * H * W, 3 * H * W, 3 * H * W]


def test_masks_of_0_and_255_are_no_silent_nothing(config):
    source = load_source(config(ids=()), "train")
    with pytest.raises(UserError, match=r"not one pixel .* the values 0 \(.*\), 255 \(.*ids='\(\(0,0\),\(255,1\)\)'"):
        check_classes(source, survey(source, threads=1))


def test_every_transform_keeps_labels_on_their_pixels(config):
    """A picture with the first three classes as its colours stays that picture of its label."""
    names = (
        "mosaic",
        "right_angle",
        "scale_crop",
        "vertical_flip",
        "affine",
        "copy_paste",
        "class_mix",
        "flip",
        "cutout",
    )
    made = config(
        transforms=(*names, "normalise_pad"), mean=(0.0,) * 3, std=(1.0,) * 3, crop=(12, 12), scale=(1.0, 1.0)
    )
    made.copy_paste.classes, made.cutout.ignore = NAMES[:1], False
    made.cutout.count = 0

    def sample(seed):
        rng = np.random.default_rng(seed)
        # Blocks, so that what is bilinear agrees inside them.
        label = np.kron((rng.random((3, 4, 3)) < 0.5), np.ones((8, 8, 1))).astype(np.uint8)
        return {"image": 200 * label, "label": label, "id": str(seed)}

    for seed in range(4):
        rng = np.random.default_rng(seed)
        found = augment({**sample(seed), "others": lambda rng: sample(int(rng.integers(99)))}, rng, made)
        image, label = found["image"], found["label"]
        assert label.shape == (12, 12, 3) and label.dtype == np.int32
        known, sure = label != 255, (image < 20) | (image > 180)
        assert sure.mean() > 0.5 and ((image > 100) == (label == 1))[known & sure].all()


def test_batches_have_the_classes_last_and_ignored_margins(config):
    made = config(crop=(16, 16), transforms=("scale_crop", "normalise_pad"), mean=(0.0,) * 3, std=(1.0,) * 3)
    made.scale = (1.0, 1.0)
    source = load_source(made, "train")
    batches = pipeline.train_batches(source, made, batch_size=3, seed=0)
    label = next(batches)["label"]
    batches.close()
    assert label.shape == (3, 16, 16, 3) and (label == 255).sum() == 3 * 3 * (16 * 16 - H * W)
    (batch,) = pipeline.eval_batches(source, made, batch_size=4, multiple=4)
    assert batch["label"].shape == (3, 12, 16, 3) and (batch["label"][:, H:] == 255).all()


def test_sampling_knows_which_images_show_a_class(config, files):
    for class_name in NAMES:
        save(files / "lab" / f"eye_10_{class_name}.png", np.zeros((H, W), np.uint8))
    made = config()
    made.sampling.empty = 0.0
    assert {*sampling.places(load_source(made, "train"), made)} == {0, 2}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mode": "multi", **PLAIN}, "config.data.mode='multi' is none of multiclass, binary, multilabel"),
        (
            {"mode": "binary", **PLAIN},
            "config.data.mode='binary' tells one class from the background, and there are 3 classes",
        ),
        ({"mode": "multiclass"}, r"holds {class}, which .* a mask for each class is of config.data.mode='multilabel'"),
        ({"classes": ("vein",)}, "is one class, .* config.data.mode='binary' tells one"),
        ({"classes": ("vein",), "mode": "multiclass", **PLAIN}, "is one class, .* config.data.mode='binary' tells one"),
        ({"ids": ((0, 0), (255, 2))}, r"maps raw id 255 to 2, but the mask of a class says whether it is there"),
        ({"colors": ((0, 0, 0), (9, 9, 9), (1, 1, 1))}, "config.data.colors is of masks with one class at a pixel"),
        ({"classes": ("vein", "a/b", "spot")}, "'a/b' names no file"),
    ],
)
def test_refusals(config, changes, message):
    with pytest.raises(UserError, match=message) as error:
        load_source(config(**changes), "train")
    assert "\n" not in str(error.value)


def test_masks_of_two_sizes(config, files):
    save(files / "lab" / "eye_1_spot.png", np.zeros((H, W + 1), np.uint8))
    with pytest.raises(UserError, match=re.escape("eye_1_spot.png: the mask is 15x9 pixels, that of another class")):
        load_source(config(), "train")[0]


def test_one_class_gets_a_background(data_config):
    info = datasets.info(data_config(mode="binary", classes=("disc",), palette=((1, 2, 3),)))
    assert info.class_names == ("background", "disc") and info.palette[1].tolist() == [1, 2, 3]
    assert (info.outputs, info.num_values, info.multilabel) == (1, 2, False)


def test_no_class_that_may_overlap_has_the_colour_of_pixels_without_any(config):
    assert list(NOTHING) not in datasets.info(config()).palette.tolist()


def test_classes_by_pixel_and_by_themselves_are_told_alike():
    label = np.array([[0, 1, 255], [2, 2, 0]], np.uint8)
    each = np.where((label == 255)[..., None], 255, label[..., None] == np.arange(3)).astype(np.uint8)
    np.testing.assert_array_equal(class_masks.pixels_of_classes(label, 3), class_masks.pixels_of_classes(each, 3))
    np.testing.assert_array_equal(class_masks.where(label, [0, 2]), class_masks.where(each, [0, 2]))
    assert class_masks.labelled_pixels(label).tolist() == [5]
    assert class_masks.labelled_pixels(each).tolist() == [5, 5, 5]


def test_the_doctor_finds_a_mask_for_each_class(files):
    """Whose config reads the labels back; a class may lack a file."""
    (files / "lab" / "eye_2_vein.png").unlink()
    diagnosis = examine.examine(examine.make_plan(files), threads=1)
    found = {decision.key: decision.value for decision in diagnosis.decisions}
    assert found["data.mode"] == "multilabel" and found["data.classes"] == ("hard_spot", "spot", "vein")
    assert found["data.ids"] == ((0, 0), (255, 1)) and found["data.missing"] == "absent"
    assert found["data.masks"] == "lab/{stem}_{class}.*" and "data.sampling.empty" not in found
    with Image.open(files / "lab" / "eye_1_vein.png") as mask:
        mask.point([i // 2 + 1 for i in range(256)]).save(files / "lab" / "eye_1_vein.png")
    (error, *_) = [f.text for f in examine.examine(examine.make_plan(files), threads=1).findings if f.level == "error"]
    assert "each class has a mask of its own, and these hold 0, 1, 128, 255" in error
