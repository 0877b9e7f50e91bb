"""Public data sets in the layout in which they are unpacked: tiny ones, with classes counted by hand."""

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.configs import known
from attnseg_jax.data import datasets
from attnseg_jax.data.sources import load_source, survey
from attnseg_jax.errors import UserError
from attnseg_jax.train.config import check_values

# Of each set: images and masks of training and validation, lists, the raw values of a row of the masks and the classes
# that they are (None: ignored).
CASES = {
    "ade20k": (
        ["images/training/a.jpg", "images/validation/b.jpg"],
        ["annotations/training/a.png", "annotations/validation/b.png"],
        {},
        {0: None, 1: "wall", 13: "person", 150: "flag"},
    ),
    "camvid32": (
        ["701_StillsRaw_full/0001TP_006690.png", "701_StillsRaw_full/Seq05VD_f00000.png"],
        ["LabeledApproved_full/0001TP_006690_L.png", "LabeledApproved_full/Seq05VD_f00000_L.png"],
        {},
        {(0, 0, 0): None, (128, 64, 128): "Road", (64, 192, 0): "Wall", (64, 128, 64): "Animal"},
    ),
    "cityscapes": (
        ["leftImg8bit/train/ulm/ulm_0_leftImg8bit.png", "leftImg8bit/val/bonn/bonn_1_leftImg8bit.png"],
        ["gtFine/train/ulm/ulm_0_gtFine_labelIds.png", "gtFine/val/bonn/bonn_1_gtFine_labelIds.png"],
        {},
        {7: "road", 26: "car", 33: "bicycle", 4: None, 255: None},
    ),
    "cityscapes_trainids": (
        ["leftImg8bit/train/ulm/ulm_0_leftImg8bit.png", "leftImg8bit/val/bonn/bonn_1_leftImg8bit.png"],
        ["gtFine/train/ulm/ulm_0_gtFine_labelTrainIds.png", "gtFine/val/bonn/bonn_1_gtFine_labelTrainIds.png"],
        {},
        {0: "road", 13: "car", 18: "bicycle", 255: None},
    ),
    "coco_stuff10k": (
        ["images/a.jpg", "images/b.jpg"],
        ["annotations/a.png", "annotations/b.png"],
        {"imageLists/train.txt": "a", "imageLists/test.txt": "b"},
        {0: None, 1: "person", 90: "toothbrush", 92: "banner", 182: "wood"},
    ),
    "coco_stuff164k": (
        ["images/train2017/a.jpg", "images/val2017/b.jpg"],
        ["stuffthingmaps/train2017/a.png", "stuffthingmaps/val2017/b.png"],
        {},
        {255: None, 0: "person", 12: "stop sign", 89: "toothbrush", 91: "banner", 181: "wood"},
    ),
    "drive": (
        ["training/images/21_training.tif", "test/images/01_test.tif"],
        ["training/1st_manual/21_manual1.gif", "test/1st_manual/01_manual1.gif"],
        {},
        {0: "background", 251: "vessel"},
    ),
    "loveda": (
        ["Train/Rural/images_png/0.png", "Train/Urban/images_png/0.png", "Val/Urban/images_png/7.png"],
        ["Train/Rural/masks_png/0.png", "Train/Urban/masks_png/0.png", "Val/Urban/masks_png/7.png"],
        {},
        {0: None, 1: "background", 3: "road", 7: "agriculture"},
    ),
    "oxford_iiit_pet": (
        ["images/Bengal_1.jpg", "images/pug_2.jpg"],
        ["annotations/trimaps/Bengal_1.png", "annotations/trimaps/pug_2.png"],
        {"annotations/trainval.txt": "Bengal_1 1 1 1", "annotations/test.txt": "pug_2 26 2 21"},
        {1: "pet", 2: "background", 3: "border"},
    ),
    "pascal_context59": (
        ["JPEGImages/2008_1.jpg", "JPEGImages/2008_2.jpg"],
        ["SegmentationClassContext/2008_1.png", "SegmentationClassContext/2008_2.png"],
        {"ImageSets/SegmentationContext/train.txt": "2008_1", "ImageSets/SegmentationContext/val.txt": "2008_2"},
        {0: None, 1: "aeroplane", 59: "wood"},
    ),
    "voc": (
        ["JPEGImages/2007_1.jpg", "JPEGImages/2007_2.jpg"],
        ["SegmentationClass/2007_1.png", "SegmentationClass/2007_2.png"],
        {"ImageSets/Segmentation/train.txt": "2007_1", "ImageSets/Segmentation/val.txt": "2007_2"},
        {0: "background", 15: "person", 20: "tvmonitor", 255: None},
    ),
}
CASES["pascal_context60"] = (*CASES["pascal_context59"][:3], {0: "background", 1: "aeroplane", 59: "wood"})


def test_every_config_has_a_case():
    assert CASES.keys() == known.SETS.keys() and known.SETS.keys() <= datasets.DATASETS.keys()
    with pytest.raises(UserError, match=r"--config=known:vok: this is no set of configs/known.py \(did you mean 'voc'"):
        known.get_config("vok")


@pytest.mark.parametrize("name", CASES)
def test_classes_counted_by_hand(tmp_path, name):
    """Each value fills as many columns of 8 pixels as its place, plus one."""
    images, masks, lists, values = CASES[name]
    columns = [value for place, value in enumerate(values) for _ in range(place + 1)]
    for path, text in lists.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    for path in (*images, *masks):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    for path in images:
        Image.fromarray(np.full((8, len(columns), 3), 99, np.uint8)).save(tmp_path / path)
    for path in masks:
        Image.fromarray(np.array([columns] * 8, np.uint8)).save(tmp_path / path)
    config = known.get_config(name)
    config.data.dir = str(tmp_path)
    check_values(config)
    for split in (config.data.train_split, config.data.eval_split):
        source = load_source(config.data, split)
        found = survey(source)
        counted = {source.info.class_names[k]: int(n) for k, n in enumerate(found.pixel_counts) if n}
        expected = {label: 8 * (place + 1) * len(source) for place, label in enumerate(values.values()) if label}
        assert counted == expected
    assert len(source) == 1 and {*config.eval.ignore_classes} <= {*source.info.class_names}
