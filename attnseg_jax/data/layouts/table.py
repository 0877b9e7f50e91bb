"""The layouts that are known by name."""

from collections.abc import Iterator

from attnseg_jax.data.layouts.templates import Form

MASK_MARKS = (
    *("_mask", "_masks", "_label", "_labels", "_gt", "_seg", "_segmentation", "_annotation", "_L", "_labelIds"),
    *("-mask", "-label", "-gt", ".mask", ".label"),
)
"""What names of masks end in where that of the image is before it."""

EXTENSIONS = (
    *(("jpg", "png"), ("jpeg", "png"), ("tif", "png"), ("tiff", "png"), ("bmp", "png")),
    *(("jpg", "gif"), ("tif", "gif"), ("jpg", "bmp"), ("jpg", "tif"), ("png", "bmp"), ("png", "tif")),
)
"""Suffixes of an image and of its mask where both have one name."""


def _flat() -> Iterator[Form]:
    for folder in ("", "{split}/"):
        yield from (Form(f"{folder}{{stem}}.*", f"{folder}{{stem}}{mark}.*") for mark in MASK_MARKS)
        for image, mask in EXTENSIONS:
            yield Form(f"{folder}{{stem}}.{image}", f"{folder}{{stem}}.{mask}")


def _labelme() -> Iterator[Form]:
    for folder in ("{split}/", ""):
        yield Form(f"{folder}{{stem}}.*", f"{folder}{{stem}}.json")
        for name in ("annotations", "labels", "json"):
            yield Form(f"images/{folder}{{stem}}.*", f"{name}/{folder}{{stem}}.json")


def _coco(file: str) -> Iterator[Form]:
    for images in ("{split}", "images/{split}"):
        yield Form(f"{images}/{{stem}}.*", f"annotations/{file}.json", coco=True)
    if "instances" in file:
        for images, masks in (
            *(("{split}", "{split}/_annotations.coco.json"), ("{split}", "annotations/{split}.json")),
            *(("images/{split}", "annotations/{split}.json"), ("images", "annotations/instances_default.json")),
            *(("images", "annotations.json"), ("images", "result.json")),
        ):
            yield Form(f"{images}/{{stem}}.*", masks, coco=True)


_CITY = "leftImg8bit/{split}/{city}/{stem}_leftImg8bit.*"
_VOC = "ImageSets/Segmentation/{split}.txt"

LAYOUTS: dict[str, tuple[Form, ...]] = {
    "camvid": (Form("{split}/{stem}.*", "{split}annot/{stem}.*"),),
    "images_masks": (
        Form("images/{split}/{stem}.*", "masks/{split}/{stem}.*"),
        Form("{split}/images/{stem}.*", "{split}/masks/{stem}.*"),
        Form("images/{stem}.*", "masks/{stem}.*"),
    ),
    "cityscapes": (
        Form(_CITY, "gtFine/{split}/{city}/{stem}_gtFine_labelIds.*"),
        Form(_CITY, "gtCoarse/{split}/{city}/{stem}_gtCoarse_labelIds.*"),
    ),
    "voc": (
        Form("JPEGImages/{stem}.*", "SegmentationClassAug/{stem}.*", _VOC),
        Form("JPEGImages/{stem}.*", "SegmentationClass/{stem}.*", _VOC),
    ),
    "ade20k": (Form("images/{split}/{stem}.*", "annotations/{split}/{stem}.*"),),
    "flat": tuple(_flat()),
    "labelme": tuple(_labelme()),
    "coco": tuple(_coco("instances_{split}")),
    "coco_panoptic": tuple(_coco("panoptic_{split}")),
    "objects": (Form("**/images/{stem}.*", "**/masks/{stem}.*", objects=True),),
}
"""Layouts by name (`config.data.layout`), each in the forms in which it is met. 'templates' and 'lists' are those of
`config.data.images`, `.masks` and `.lists`, 'parquet' and 'stacks' those of modules of their own."""

# These folders alone tell what is meant, even where a file is missing in them.
SURE = (*LAYOUTS["camvid"], LAYOUTS["images_masks"][0])
OF_TEMPLATES = ("templates", "stacks")
OTHERS = (*OF_TEMPLATES, "lists", "parquet")
