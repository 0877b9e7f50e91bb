"""Sets of classes that may overlap as the doctor finds them, and sets that look like them; counts are by hand."""

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data.doctor import examine, text
from attnseg_jax.data.sources import load_source, survey

NAMES = ("disc", "cup", "spot", "vein")
H, W = 9, 14


def label(i):
    """The disc has 22 pixels, the cup 6 in it, the vein a row of 14 with 4 in the disc; the first has no spot."""
    made = np.zeros((H, W, 4), np.uint8)
    made[2:6, 1:7, 0] = made[3:5, 2:5, 1] = made[5, :, 3] = 1
    made[5, 5:7, 0] = 0
    made[7, 3, 2] = i > 0
    return made


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".tif" and array.ndim == 3:
        pages = [Image.fromarray(array[..., k]) for k in range(array.shape[-1])]
        pages[0].save(path, save_all=True, append_images=pages[1:])
    else:
        Image.fromarray(array).save(path)


def write(root, masks, *, images="images/{split}/{stem}.png", value=255):
    """Two pairs to train on and one to validate on; `masks` names a file, with or without `{class}`."""
    for split, i in (("train", 0), ("train", 1), ("val", 2)):
        values = {"split": split, "stem": f"eye{i}"}
        put(root / images.format(**values), np.random.default_rng(i).integers(0, 256, (H, W, 3)).astype(np.uint8))
        if "{class}" not in masks:
            put(root / masks.format(**values), value * label(i))
            continue
        for k, name in enumerate(NAMES):
            put(root / masks.format(**values, **{"class": name}), value * label(i)[..., k])


def diagnose(root):
    diagnosis = examine.examine(examine.make_plan(root), threads=1)
    return diagnosis, {decision.key: decision.value for decision in diagnosis.decisions}


@pytest.mark.parametrize(
    "masks, images, found",
    [
        ("masks/{class}/{split}/{stem}.png", "images/{split}/{stem}.png", "masks/{class}/{split}/{stem}.*"),
        ("lab/{split}/{class}/{stem}_{class}.png", "img/{split}/{stem}.png", "lab/{split}/{class}/{stem}_{class}.*"),
        ("{split}/{stem}_{class}.png", "{split}/{stem}.jpg", "{split}/{stem}_{class}.*"),
        ("masks/{split}/{stem}.npy", "images/{split}/{stem}.png", None),
        ("masks/{split}/{stem}.tif", "images/{split}/{stem}.png", None),
    ],
)
def test_a_folder_a_name_or_a_band_for_each_class(tmp_path, data_config, masks, images, found):
    """The config that is written reads the labels back."""
    write(tmp_path, masks, images=images)
    diagnosis, decided = diagnose(tmp_path)
    assert decided["data.mode"] == "multilabel" and decided.get("data.masks") == found
    assert decided["data.ids"] == ((0, 0), (255, 1))
    # 22 + 6 + 1 + 14 pixels are of a class, of which the cup and 4 of the vein are of the disc too.
    order = sorted(NAMES) if found else [f"class_{k}" for k in (1, 2, 3, 4)]
    assert [*decided["data.classes"]] == order
    places = [NAMES.index(name) for name in order] if found else range(4)
    config = data_config(**{key[5:]: value for key, value in decided.items() if key.startswith("data.")})
    counted = survey(load_source(config, "train"), threads=1).pixel_counts
    assert counted.tolist() == [[44, 12, 1, 28][k] for k in places]
    words = text.lines(diagnosis)
    shares = [line for line in words if "of the pixels that have a class have several" in line]
    assert shares == [f"- {(3 * 10) / (3 * (22 + 14 - 4) + 2):.1%} of the pixels that have a class have several"]
    assert any(
        line.startswith("classes of train: ") and f"{order[places.index(2)]} in 1 images" in line for line in words
    )


def test_classes_that_are_nowhere_are_left_out(tmp_path):
    write(tmp_path, "masks/{class}/{split}/{stem}.png")
    for split, i in (("train", 1), ("val", 2)):
        put(tmp_path / f"masks/spot/{split}/eye{i}.png", np.zeros((H, W), np.uint8))
    diagnosis, decided = diagnose(tmp_path)
    assert decided["data.classes"] == ("cup", "disc", "vein") and "data.missing" not in decided
    assert "no training mask shows 'spot': left out of the classes" in [found.text for found in diagnosis.findings]


def test_bands_cannot_be_left_out(tmp_path):
    write(tmp_path, "masks/{split}/{stem}.npy", value=1)
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    put(tmp_path / "masks/train/eye1.npy", label(0))
    diagnosis, decided = diagnose(tmp_path)
    assert not decided and "no training mask shows 'spot'" in diagnosis.labels.refusal


@pytest.mark.parametrize("kind", ["colours", "objects", "annotators", "ids", "stack", "alpha"])
def test_what_looks_like_them(tmp_path, kind):
    """Colours, a mask for each object, masks beside the images, a mask and its ids, pictures and masks by page."""
    for i in range(4):
        image, of_classes = np.random.default_rng(i).integers(0, 256, (H, W, 3)).astype(np.uint8), label(1)
        mask = 255 * of_classes[..., 0]
        put(tmp_path / (f"{i}/images/{i}.png" if kind == "objects" else f"images/{i}.png"), image)
        if kind == "colours":
            put(tmp_path / f"masks/{i}.png", 200 * of_classes[..., :3])
        elif kind == "objects":
            for k in range(3):
                put(tmp_path / f"{i}/masks/m{k}.png", 255 * of_classes[..., k])
        elif kind == "annotators":
            put(tmp_path / f"first/{i}.png", mask)
            put(tmp_path / f"second/{i}.png", mask)
        elif kind == "ids":
            put(tmp_path / f"masks/any/{i}.png", mask)
            put(tmp_path / f"masks/ids/{i}.png", of_classes.argmax(-1).astype(np.uint8))
        elif kind == "stack":
            (tmp_path / f"images/{i}.png").unlink()
            put(tmp_path / f"images/{i}.tif", image)
            put(tmp_path / f"masks/{i}.tif", 255 * of_classes[..., :3])
        else:
            alpha = np.full((H, W, 1), 255, np.uint8)
            (tmp_path / "masks").mkdir(exist_ok=True)
            Image.fromarray(np.concatenate([200 * of_classes[..., :3], alpha], -1)).save(tmp_path / f"masks/{i}.tif")
    diagnosis, decided = diagnose(tmp_path)
    assert diagnosis.plan.classes == () and "data.mode" not in decided
    assert diagnosis.plan.layout.name == {
        "objects": "objects",
        "ids": "templates",
        "annotators": "templates",
        "stack": "stacks",
    }.get(kind, "images_masks")
