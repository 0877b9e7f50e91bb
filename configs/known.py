"""Public data sets by name, each as it lies when it is unpacked, with the splits and scores that are usual for it.

    python train.py --config=known:voc --config.data.dir=path/to/VOCdevkit/VOC2012 --workdir=runs/voc

The model is that of the default config, and its training is a beginning: these are the data. The table below says where
each set is published; `attnseg_jax/data/known_sets.py` has classes, colours and raw ids.
"""

from typing import Any

from ml_collections import ConfigDict

from attnseg_jax.configs import default
from attnseg_jax.errors import UserError, nearest

_CITY = "leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png"
_CONTEXT = {
    "images": "JPEGImages/{stem}.jpg",
    "masks": "SegmentationClassContext/{stem}.png",
    "lists": "ImageSets/SegmentationContext/{split}.txt",
}

SETS: dict[str, dict[str, Any]] = {
    # sceneparsing.csail.mit.edu, ADEChallengeData2016: 20210 and 2000 images.
    "ade20k": {"layout": "ade20k", "train_split": "training", "eval_split": "validation"},
    # mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid: 701 frames of four videos, one of which is held out.
    "camvid32": {
        "images": "701_StillsRaw_full/{stem}.png",
        "masks": "LabeledApproved_full/{stem}_L.png",
        "split": ("hash", 0.25, "^([^_]+)_"),
    },
    # cityscapes-dataset.com, gtFine: 2975 and 500 images.
    "cityscapes": {"layout": "cityscapes", "crop": (512, 1024)},
    "cityscapes_trainids": {
        "images": _CITY,
        "masks": "gtFine/{split}/{city}/{stem}_gtFine_labelTrainIds.png",
        "crop": (512, 1024),
    },
    # github.com/nightrome/cocostuff10k, whose MATLAB files hold the labels: save `S` of each as a PNG beside it.
    "coco_stuff10k": {
        "images": "images/{stem}.jpg",
        "masks": "annotations/{stem}.png",
        "lists": "imageLists/{split}.txt",
        "eval_split": "test",
    },
    # github.com/nightrome/cocostuff, stuffthingmaps_trainval2017 beside the images of cocodataset.org.
    "coco_stuff164k": {
        "images": "images/{split}/{stem}.jpg",
        "masks": "stuffthingmaps/{split}/{stem}.png",
        "train_split": "train2017",
        "eval_split": "val2017",
    },
    # drive.grand-challenge.org: 20 and 20 images. The vessels count alone.
    "drive": {
        "images": "{split}/images/{stem}_*.tif",
        "masks": "{split}/1st_manual/{stem}_manual1.gif",
        "train_split": "training",
        "eval_split": "test",
        "ignored": ("background",),
    },
    # zenodo.org/records/5706578: cities and country of each split.
    "loveda": {
        "images": "{split}/**/images_png/{stem}.png",
        "masks": "{split}/{dir}/masks_png/{stem}.png",
        "train_split": "Train",
        "eval_split": "Val",
    },
    # www.robots.ox.ac.uk/~vgg/data/pets: 3680 and 3669 images.
    "oxford_iiit_pet": {
        "images": "images/{stem}.jpg",
        "masks": "annotations/trimaps/{stem}.png",
        "lists": "annotations/{split}.txt",
        "train_split": "trainval",
        "eval_split": "test",
    },
    # cs.stanford.edu/~roozbeh/pascal-context, as masks of 60 classes: 4996 and 5104 images of VOC 2010.
    "pascal_context59": _CONTEXT,
    "pascal_context60": _CONTEXT,
    # host.robots.ox.ac.uk/pascal/VOC/voc2012: 1464 and 1449 images; --config.data.train_split=trainaug where
    # SegmentationClassAug and its list, of Hariharan et al. 2011, are there too.
    "voc": {"layout": "voc"},
}


def get_config(name: str = "voc") -> ConfigDict:
    """Returns the config of a set of `SETS`."""
    if name not in SETS:
        raise UserError(f"--config=known:{name}: this is no set of configs/known.py ({nearest(name, SETS)})")
    keys = dict(SETS[name])
    config = default.get_config()
    with config.unlocked():
        config.eval.ignore_classes = keys.pop("ignored", ())
        config.data.update({"source": "folder", "name": name, "crop": (512, 512), "scale": (0.5, 2.0)} | keys)
        config.data.max_class_share = 0.75
        # Images have many sizes, each of which would be compiled for.
        config.eval.size_multiple = 64
        config.eval.batch_size = 1
        config.loss.class_weights = "none"
        config.train.update(steps=40000, eval_every=4000, log_every=50)
    return config


def distort_colours(config: ConfigDict) -> None:
    """The colours of mmsegmentation's PhotoMetricDistortion, which it changes in every other image, here in each."""
    config.data.update(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.1)
