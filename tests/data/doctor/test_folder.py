"""Folders that archives put around a data set."""

import pytest

from attnseg_jax.data.doctor.folder import inner, layout_of
from attnseg_jax.data.layouts import Tree


def make(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return Tree(root)


def test_a_set_inside_its_archive(tmp_path):
    """As it is unpacked, the archive and macOS's own folder beside it: its lists tell the splits."""
    inside = "VOCdevkit/VOC2012"
    tree = make(tmp_path, [
        "VOCtrainval_11-May-2012.tar", "__MACOSX/VOCdevkit/._a.jpg",
        *(f"{inside}/{folder}/a.{suffix}" for folder, suffix in (("JPEGImages", "jpg"), ("SegmentationClass", "png"))),
        f"{inside}/ImageSets/Segmentation/train.txt",
    ])  # fmt: skip
    (tmp_path / inside / "ImageSets/Segmentation/train.txt").write_text("a\n")
    found = inner(tree)
    assert found.root == tmp_path / inside
    layout, others = layout_of(found)
    assert (layout.name, layout.splits(found), others) == ("voc", ["train"], ())


@pytest.mark.parametrize(
    "names",
    [
        ["training/images/a.tif", "training/manual/a.gif"],
        ["set/images/a.png", "set/masks/a.png", "classes.txt"],
        ["images/a.png", "masks/a.png"],
        ["a.jpg", "a.png"],
    ],
)
def test_a_folder_that_says_something_itself(tmp_path, names):
    assert inner(make(tmp_path, names)).root == tmp_path
