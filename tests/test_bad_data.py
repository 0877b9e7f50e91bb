"""train.py on data that cannot be used: the words for it, and nothing written."""

import shutil

import numpy as np
import pytest
from PIL import Image
from refusals import assert_refused

# ml_collections reads config files that way.
pytestmark = pytest.mark.filterwarnings(r"ignore:the load_module\(\) method is deprecated:DeprecationWarning")


def missing_folder(root):
    return f"config.data.dir={shutil.move(root, root.parent / 'away') and root}", "there is no such folder"


def no_split(root):
    shutil.rmtree(root / "images/val")
    return f"config.data.dir={root}", "no split 'val'"


def image_without_mask(root):
    (root / "masks/train/b3.png").unlink()
    return root / "images/train/b3.png", "has no mask", root / "masks/train/b3.png"


def sizes_differ(root):
    path = root / "masks/val/b2.png"
    Image.fromarray(np.zeros((24, 31), np.uint8)).save(path)
    return path, "31x24", "32x24"


def value_outside_the_table(root):
    path = root / "masks/train/b5.png"
    mask = np.array(Image.open(path))
    mask[3, 4] = 5
    Image.fromarray(mask).save(path)
    return path, "holds the value 5", "config.data.ids"


def truncated_image(root):
    path = root / "images/train/b7.png"
    path.write_bytes(path.read_bytes()[:-400])
    return path, "truncated"


def truncated_mask(root):
    path = root / "masks/val/b0.png"
    path.write_bytes(path.read_bytes()[:60])
    return path, "truncated"


def colours_without_a_table(root):
    path = root / "masks/train/b1.png"
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(path)
    return path, "RGB", "config.data.colors"


def no_images(root):
    for path in (root / "images/train").iterdir():
        path.unlink()
    return root / "images/train", "no images"


def nothing_labelled(root):
    for path in (root / "masks/train").iterdir():
        Image.fromarray(np.full((24, 32), 255, np.uint8)).save(path)
    return "all are ignored", "config.data.ids"


@pytest.mark.parametrize(
    "spoil",
    [
        missing_folder,
        no_split,
        image_without_mask,
        sizes_differ,
        value_outside_the_table,
        truncated_image,
        truncated_mask,
        colours_without_a_table,
        no_images,
        nothing_labelled,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_bad_data(spoil, train, blocks, tmp_path):
    root = shutil.copytree(blocks, tmp_path / "data")
    words = spoil(root)
    assert_refused(train(tmp_path / "run", data__dir=root), *words)
    assert not (tmp_path / "run").exists()
