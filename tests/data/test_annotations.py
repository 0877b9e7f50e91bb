"""Masks drawn from annotation files, with areas counted by hand."""

import base64
import io
import json

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image

from attnseg_jax.data import annotations, shapes
from attnseg_jax.data.doctor import examine
from attnseg_jax.data.sources import load_source, survey
from attnseg_jax.errors import UserError

LABELS = ("background", "cat", "dog")
SIZE = (10, 12)


def box(x, y, w, h):
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def corners(x, y, w, h):
    return np.array(box(x, y, w, h)).reshape(-1, 2).tolist()


def labelme(*found, size=SIZE):
    parts = [{"label": label, "points": points, **more} for label, points, more in found]
    return {"imageHeight": size[0], "imageWidth": size[1], "imagePath": "x.png", "shapes": parts}


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_polygons_against_matplotlib():
    """Random ones, crossing themselves and the edges of the image; pixel centres that lie on no edge."""
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:23, :31] + 0.5
    for _ in range(20):
        points = rng.uniform(-5, 36, (3, 2))
        inside = Outline([*points, points[0]], closed=True).contains_points(np.stack([x, y], -1).reshape(-1, 2))
        np.testing.assert_array_equal(shapes.polygon(points, (23, 31)), inside.reshape(23, 31))
    star = np.array([[15, 1], [22, 20], [3, 8], [27, 8], [8, 20]]) + 0.25
    found = shapes.polygon(star, (23, 31))
    # Even-odd: the middle of a pentagram is outside, its points are inside.
    assert not found[11, 15] and found[4, 15]


def coco_text(counts):
    """Run lengths as the text of COCO, written from its description: groups of five bits, the last with the sign."""
    text = ""
    for i, count in enumerate(counts):
        value, more = count - (counts[i - 2] if i > 2 else 0), True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text += chr((bits | 32 if more else bits) + 48)
    return text


def test_run_lengths():
    counts = [3, 700, 2, 40, 1, 1000, 254]
    pixels = shapes.run_lengths(counts, (40, 50))
    assert pixels.sum() == 700 + 40 + 1000 and pixels[3, 0] and not pixels[2, 0] and not pixels[39, 49]
    np.testing.assert_array_equal(shapes.run_lengths(coco_text(counts), (40, 50)), pixels)
    with pytest.raises(UserError, match="run lengths are of 2000 pixels, and the image has 2050"):
        shapes.run_lengths(counts, (41, 50))


def test_shapes_of_labelme(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 255], [255, 255]], np.uint8)).save(stream, "PNG")
    mask = {"shape_type": "mask", "mask": base64.b64encode(stream.getvalue()).decode()}
    path = written(
        tmp_path / "x.json",
        labelme(
            ("cat", corners(1, 1, 6, 5), {"shape_type": "polygon"}),
            # On top of the cat: 2 x 3 of it.
            ("dog", [[5, 2], [9, 5]], {"shape_type": "rectangle"}),
            ("dog", [[10, 7], [11, 8]], mask),
        ),
    )
    found = annotations.draw(path, tmp_path / "x.png", LABELS)
    assert np.bincount(found.ravel()).tolist() == [120 - 24 - 12 - 3, 30 - 6, 12 + 3]
    assert found[7, 10] == 0 and found[8, 11] == 2
    # Without that label, what no shape covers has no class.
    assert (annotations.draw(path, tmp_path / "x.png", ("dog", "cat"))[0] == 255).all()
    circle = written(
        tmp_path / "c.json", labelme(("cat", [[20, 20], [20, 30]], {"shape_type": "circle"}), size=(40, 40))
    )
    assert (annotations.draw(circle, tmp_path / "c.png", LABELS) == 1).sum() == pytest.approx(np.pi * 100, rel=0.02)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", r"x\.json: cannot be read as JSON"),
        ({"shapes": []}, r"x\.json: not as labelme or COCO write it \(KeyError: 'imageHeight'\)"),
        (labelme(("cow", corners(0, 0, 2, 2), {})), r"x\.json: the label 'cow' is none of config\.data\.labels"),
        (
            labelme(("cat", [[1, 1], [2, 2]], {"shape_type": "line"})),
            r"x\.json: a shape of type 'line' \('cat'\) has no",
        ),
        ({"images": []}, r"x\.json: not as labelme or COCO write it \(KeyError: 'categories'\)"),
        ({"images": [], "categories": [], "annotations": []}, r"x\.json: no image is named x\.png"),
    ],
)
def test_files_that_are_none(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=words):
        annotations.draw(path, tmp_path / "x.png", LABELS)


@pytest.fixture
def pictures(save):
    def make(folder, names, size=SIZE):
        for i, name in enumerate(names):
            save(folder / name, np.random.default_rng(i).integers(0, 256, (*size, 3)).astype(np.uint8))

    return make


def coco(names, found):
    """A file of polygons: of each image its (category, segmentation, iscrowd)."""
    images = [{"id": 7 + i, "file_name": name, "height": 10, "width": 12} for i, name in enumerate(names)]
    parts = [
        {"id": i, "image_id": 7 + image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}
        for i, (image, category, segmentation, crowd) in enumerate(found)
    ]
    categories = [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "yak"}]
    return {"images": images, "annotations": parts, "categories": categories}


def diagnosed(root, data_config):
    """The decisions of the doctor, and the pixels of each class of both splits as training reads them."""
    diagnosis = examine.examine(examine.make_plan(root), threads=1)
    decided = {decision.key: decision.value for decision in diagnosis.decisions}
    config = data_config(**{key[5:]: value for key, value in decided.items() if key.startswith("data.")})
    sources = [load_source(config, split) for split in (config.train_split, config.eval_split)]
    return decided, [survey(source).pixel_counts.tolist() for source in sources], sources


def test_coco_from_the_folder_to_classes(tmp_path, pictures, data_config):
    for split, names in (("train2017", ("a.jpg", "b.jpg")), ("val2017", ("c.jpg",))):
        pictures(tmp_path / split, names)
    crowd = {"counts": [0, 20, 100], "size": [10, 12]}
    train = coco(
        ("a.jpg", "b.jpg"),
        # The smaller cat stays on the dog whichever comes first; a crowd of two columns has no class.
        [(0, 3, [box(2, 2, 3, 3)], 0), (0, 18, [box(1, 1, 8, 6)], 0), (1, 18, [box(0, 0, 2, 2), box(5, 5, 2, 2)], 0),
         (1, 18, crowd, 1)],
    )  # fmt: skip
    written(tmp_path / "annotations/instances_train2017.json", train)
    # A yak is in no training image.
    val = coco(("c.jpg",), [(0, 90, [box(0, 0, 12, 1)], 0), (0, 3, [box(0, 5, 4, 4)], 0)])
    written(tmp_path / "annotations/instances_val2017.json", val)
    decided, (in_train, in_val), sources = diagnosed(tmp_path, data_config)
    assert decided["data.layout"] == "coco" and decided["data.train_split"] == "train2017"
    assert decided["data.classes"] == ("background", "dog", "cat")
    assert decided["data.labels"] == ("background", "dog", "cat", "yak")
    # b: 20 pixels of the crowd lie over 4 of the dog's 8, or under them: the larger one is below.
    assert in_train == [(120 - 48) + (120 - 20 - 4), (48 - 9) + 8, 9]
    assert in_val == [120 - 12 - 16, 0, 16] and len(sources[0].files()) == 3


def test_json_files_of_other_tools(tmp_path, pictures, save, data_config):
    """They are no layout, unless that is asked for."""
    for split in ("train", "val"):
        pictures(tmp_path / "images" / split, ("a.png", "b.png"))
        for name in ("a.png", "b.png"):
            save(tmp_path / "masks" / split / name, np.eye(10, 12, dtype=np.uint8))
            written(tmp_path / "images" / split / name.replace("png", "json"), {"camera": 5})
        written(tmp_path / f"annotations/instances_{split}.json", {"images": []})
    decided, (in_train, _), _ = diagnosed(tmp_path, data_config)
    assert decided["data.layout"] == "images_masks" and in_train == [220, 20]
    with pytest.raises(UserError, match=r"instances_train\.json: not as labelme or COCO write it"):
        load_source(data_config(dir=str(tmp_path), layout="coco"), "train")


def test_panoptic_pictures(tmp_path, pictures, data_config):
    ids = np.zeros((10, 12), np.int32)
    ids[:4], ids[6:, :5] = 70000, 300
    for split in ("train", "val"):
        pictures(tmp_path / split, ("a.jpg",))
        picture = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
        (tmp_path / f"annotations/panoptic_{split}").mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / f"annotations/panoptic_{split}/a.png")
        found = coco(("a.jpg",), [])
        segments = [{"id": 70000, "category_id": 3}, {"id": 300, "category_id": 18}]
        found["annotations"] = [{"image_id": 7, "file_name": "a.png", "segments_info": segments}]
        written(tmp_path / f"annotations/panoptic_{split}.json", found)
    decided, (in_train, in_val), _ = diagnosed(tmp_path, data_config)
    assert decided["data.layout"] == "coco_panoptic" and decided["data.classes"] == ("background", "dog", "cat")
    assert in_train == in_val == [120 - 48 - 20, 20, 48]


def test_labelme_from_the_folder_to_classes(tmp_path, pictures, data_config):
    names = [f"{letter}.png" for letter in "abcdefgh"]
    pictures(tmp_path, names)
    for name in names:
        path = tmp_path / name.replace("png", "json")
        written(path, labelme(("cat", corners(1, 1, 3, 3), {}), ("ignore", corners(6, 1, 2, 2), {})))
    decided, (in_train, in_val), _ = diagnosed(tmp_path, data_config)
    assert decided["data.layout"] == "labelme" and decided["data.classes"] == ("background", "cat")
    held = len(in_val) and in_val[1] // 9
    assert in_train == [(8 - held) * 107, (8 - held) * 9] and in_val == [held * 107, held * 9] and 0 < held < 8
