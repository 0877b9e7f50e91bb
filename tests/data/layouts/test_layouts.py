"""Which images and masks a folder holds: templates, the table of layouts, lists, and splits by hash."""

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data import layouts
from attnseg_jax.data.layouts import Form, Layout, Tree
from attnseg_jax.data.layouts.guess import guesses
from attnseg_jax.data.layouts.pairing import paired
from attnseg_jax.data.layouts.split import held_out
from attnseg_jax.data.sources import load_source
from attnseg_jax.errors import UserError


@pytest.fixture
def files(tmp_path):
    """Makes empty files by their names, one a word; returns the folder."""

    def make(names):
        for name in names.split():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def pairs_of(root, layout, split=""):
    return [(pair.image, pair.mask) for pair in layout.pairing(Tree(root), split).pairs]


@pytest.mark.parametrize(
    "images, masks, names, expected",
    [
        (
            "img/*.tif",
            "lab/{stem}_mask.png",
            "img/b.TIF img/a.tif img/c.png lab/a_mask.png lab/b_mask.png lab/z_mask.png",
            [("img/a.tif", "lab/a_mask.png"), ("img/b.TIF", "lab/b_mask.png")],
        ),
        (
            "img/**/*",
            "lab/{dir}/{stem}.png",
            "img/x.png img/u/x.png img/u/v/x.jpg lab/x.png lab/u/x.png lab/u/v/x.png lab/v/x.png",
            [("img/u/v/x.jpg", "lab/u/v/x.png"), ("img/u/x.png", "lab/u/x.png"), ("img/x.png", "lab/x.png")],
        ),
        (
            "{stem}.*",
            "{stem}_L.*",
            "a.png a_L.png b.1.jpg b.1_L.png",
            [("a.png", "a_L.png"), ("b.1.jpg", "b.1_L.png")],
        ),
        # The images' names say more.
        ("{stem}_rgb.png", "{stem}.png", "a_rgb.png a.png", [("a_rgb.png", "a.png")]),
        (
            "{patient}/{stem}.*",
            "m/{patient}-{stem}.png",
            "p1/a.png p2/a.png m/p1-a.png m/p2-a.png",
            [("p1/a.png", "m/p1-a.png"), ("p2/a.png", "m/p2-a.png")],
        ),
    ],
)
def test_templates(files, images, masks, names, expected):
    assert pairs_of(files(names), Layout("templates", Form(images, masks))) == expected


def test_what_has_no_partner(files):
    root = files("i/a.png i/b.jpg i/c.png m/a.png m/d.png m/.hidden.png i/a.jpg i/e.tif i/e.png m/e.png i/sub.png/x")
    found = paired(Tree(root), Form("i/*", "m/*"))
    assert [pair.name for pair in found.pairs] == ["a", "e"]
    assert found.without_mask == [("i/b.jpg", "m/b.png"), ("i/c.png", "m/c.png")]
    assert found.without_image == ["m/d.png"] and found.images == 4
    # Of e.png and e.tif the first is meant; a.jpg and a.png could both be.
    assert found.doubles == [("i/a.png", "i/a.jpg")] and found.pairs[1].image == "i/e.png"


def test_a_link_to_a_folder_above_ends(files):
    root = files("i/a.png m/a.png")
    (root / "i" / "again").symlink_to(root, target_is_directory=True)
    assert pairs_of(root, Layout("templates", Form("i/**/*", "m/{dir}/{stem}.*"))) == [("i/a.png", "m/a.png")]


CASES = {
    "camvid": ("train/a.png trainannot/a.png test/b.png testannot/b.png valannot/c.png", {"train": 1, "test": 1}),
    "images_masks": ("images/train/a.png masks/train/a.png images/val/b.png masks/val/b.png", {"train": 1, "val": 1}),
    "images_masks ": ("train/images/a.png train/masks/a.png train/images/b.png train/masks/b.png", {"train": 2}),
    "images_masks  ": ("images/a.png masks/a.png images/b.png masks/b.png", {}),
    "cityscapes": (
        "leftImg8bit/train/ulm/ulm_1_leftImg8bit.png gtFine/train/ulm/ulm_1_gtFine_labelIds.png "
        "gtFine/train/ulm/ulm_1_gtFine_color.png leftImg8bit/val/bonn/b_1_leftImg8bit.png "
        "gtFine/val/bonn/b_1_gtFine_labelIds.png leftImg8bit/test/b/b_1_leftImg8bit.png",
        {"train": 1, "val": 1},
    ),
    "ade20k": (
        "images/training/a.jpg annotations/training/a.png images/validation/b.jpg annotations/validation/b.png",
        {"training": 1, "validation": 1},
    ),
    "flat": ("a.jpg a.png b.jpg b.png", {}),
    "objects": ("s/p/images/x.png s/p/masks/1.png s/p/masks/2.png s/q/images/y.png s/q/masks/3.png", {}),
    "flat ": ("train/a.png train/a_mask.png val/b.png val/b_mask.png val/c.png", {"train": 1, "val": 1}),
}


@pytest.mark.parametrize("name, case", CASES.items(), ids=CASES)
def test_layouts_of_the_table_are_found(files, name, case):
    names, counts = case
    tree = Tree(files(names))
    layout, _ = layouts.found(tree)
    assert layout.name == name.strip()
    assert {split: len(layout.pairing(tree, split).pairs) for split in layout.splits(tree)} == counts


def test_voc_lists_its_splits(files, data_config):
    root = files("JPEGImages/a.jpg JPEGImages/b.jpg JPEGImages/c.jpg SegmentationClass/a.png SegmentationClass/b.png")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("b\na\n")
    (root / "ImageSets/Segmentation/val.txt").write_text("b\nc\nd\n")
    layout, count = layouts.found(Tree(root))
    assert (layout.name, count) == ("voc", 3)
    assert [image for image, _ in pairs_of(root, layout, "train")] == ["JPEGImages/a.jpg", "JPEGImages/b.jpg"]
    found = layout.pairing(Tree(root), "val")
    assert found.missing == ["d"] and found.without_mask == [("JPEGImages/c.jpg", "SegmentationClass/c.png")]
    with pytest.raises(UserError, match=r"a list names d, of which there is no image"):
        load_source(data_config(dir=str(root), layout="voc", leave_out=("JPEGImages/c.jpg",)), "val")


@pytest.mark.parametrize(
    "name, text",
    [
        ("pairs.csv", "image,mask,split\nx/a b.png,y/1.png,train\nx/c.png,y/2.png,val\n"),
        ("pairs.csv", "split;label;filename\ntrain;y/1.png;x/a b.png\nval;y/2.png;x/c.png\n"),
        ("train.txt", "/x/a b.png\t/y/1.png\n"),
        ("lists/train.txt", "# image, mask\n../x/a b.png, ../y/1.png\n"),
    ],
)
def test_lists(files, data_config, save, tmp_path, name, text):
    for path in ("x/a b.png", "x/c.png"):
        save(tmp_path / path, np.zeros((4, 5, 3), np.uint8))
    for path in ("y/1.png", "y/2.png"):
        save(tmp_path / path, np.ones((4, 5), np.uint8))
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    source = load_source(data_config(dir=str(tmp_path), layout="lists"), "train")
    assert [source[i]["id"] for i in range(len(source))] == ["a b"] and source[0]["label"].max() == 1
    assert sorted(key.replace("lists/../", "") for key in source.files()) == ["x/a b.png", "y/1.png"]


def test_a_mask_for_each_object(data_config, save, tmp_path):
    for name, objects in (("p", (1, 2, 4)), ("q", (3,))):
        save(tmp_path / f"{name}/images/{name}.png", np.zeros((3, 6, 3), np.uint8))
        for i in objects:
            save(tmp_path / f"{name}/masks/{i}.png", np.array([[0] * i + [200] + [0] * (5 - i)] * 3, np.uint8))
    config = data_config(dir=str(tmp_path), layout="objects", split=("hash", 0.5), ids=((0, 0), (1, 1), (200, 1)))
    sources = [load_source(config, split) for split in ("train", "val")]
    labels = {sample["id"]: sample["label"][1].tolist() for source in sources for sample in (source[0],)}
    assert labels == {"p": [0, 1, 1, 0, 1, 0], "q": [0, 0, 0, 1, 0, 0]}
    assert len(sources[0].files()) + len(sources[1].files()) == 6
    save(tmp_path / "p/masks/2.png", np.zeros((3, 5), np.uint8))
    source = next(source for source in sources if source.files().keys() & {"p/images/p.png"})
    with pytest.raises(UserError, match=r"p/masks/2\.png: the mask is 5x3 pixels, another one of its image 6x3"):
        source[0]
    # Two images share a folder: whose are the objects?
    save(tmp_path / "p/images/other.png", np.zeros((3, 6, 3), np.uint8))
    found = layouts.LAYOUTS["objects"][0]
    assert [pair.name for pair in paired(Tree(tmp_path), found).pairs] == ["q/q"]


def test_names_of_ones_own(files):
    """Split words in names, endings of both, and folders of patients; the masks are the pictures of few colours."""
    rng = np.random.default_rng(0)
    root = files("readme.txt")
    for split, numbers in (("training", range(21, 25)), ("test", range(1, 3))):
        for i in numbers:
            for path, pixels in (
                (f"set/{split}/pics/{i}_{split}.tif", rng.integers(0, 256, (40, 50, 3))),
                (f"set/{split}/manual/{i}_manual1.png", rng.integers(0, 2, (40, 50))),
                (f"set/{split}/mask/{i}_{split}_mask.png", np.ones((40, 50))),
            ):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(root / path)
    first, *others = guesses(Tree(root))
    form = first.layout.form
    assert form == Form("set/{split}/pics/{stem}_{split}.*", "set/{split}/manual/{stem}_manual1.*")
    assert first.pairs == 6 and first.layout.splits(Tree(root)) == ["test", "training"]
    assert any("mask/" in other.layout.form.masks for other in others)
    for patient in range(3):
        for path, high in ((f"p{patient}/a.png", 256), (f"p{patient}/a_seg.png", 2)):
            (root / "mri" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, high, (40, 50)).astype(np.uint8)).save(root / "mri" / path)
    assert guesses(Tree(root / "mri"))[0].layout.form == Form("**/{stem}.*", "**/{stem}_seg.*")
    for tile in (7, 12):
        for path, high in ((f"{tile}_sat.jpg", 256), (f"{tile}_mask.png", 2)):
            (root / "land").mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, high, (40, 50)).astype(np.uint8)).save(root / "land" / path)
    assert guesses(Tree(root / "land"))[0].layout.form == Form("{stem}_sat.*", "{stem}_mask.*")


def test_a_split_by_hash_does_not_move_when_files_come():
    names = [f"frame{i}" for i in range(500)]
    held = held_out(names, ("hash", 0.2))
    assert 70 < len(held) < 130
    assert held_out(names[:250], ("hash", 0.2)) == {name for name in held if int(name[5:]) < 250}
    # SHA-256 of "frame0" begins with 0xbd, 0.74 of the way.
    import hashlib

    place = int(hashlib.sha256(b"frame0").hexdigest()[:16], 16) / 16**16
    assert ("frame0" in held_out(names, ("hash", place + 1e-6))) and "frame0" not in held_out(names, ("hash", place))
    for count in (2, 3, 5):
        for share in (0.001, 0.999):
            assert 0 < len(held_out(names[:count], ("hash", share))) < count


def test_a_group_stays_on_one_side():
    names = [f"video{i % 7}_{i}" for i in range(70)]
    held = held_out(names, ("hash", 0.4, r"(.*)_"))
    videos = {name.partition("_")[0] for name in held}
    assert held == {name for name in names if name.partition("_")[0] in videos} and 0 < len(videos) < 7


def test_a_folder_without_splits(data_config, save, tmp_path):
    for i in range(12):
        save(tmp_path / f"images/{i}.png", np.full((4, 5, 3), i, np.uint8))
        save(tmp_path / f"masks/{i}.png", np.full((4, 5), i % 7, np.uint8))
    config = data_config(dir=str(tmp_path))
    with pytest.raises(UserError, match=r"not divided into splits.*config\.data\.split=\"\('hash',0\.2\)\" holds"):
        load_source(config, "train")
    config.split = ("hash", 0.4)
    ids = {split: {path.stem for path in load_source(config, split).files().values()} for split in ("train", "val")}
    assert ids["train"] | ids["val"] == {str(i) for i in range(12)} and not ids["train"] & ids["val"]
    assert ids["val"] == held_out([str(i) for i in range(12)], ("hash", 0.4))
    config.leave_out = ("images/1*", f"images/{min(ids['val'] - {'1', '10', '11'})}.png")
    left = {path.stem for split in ("train", "val") for path in load_source(config, split).files().values()}
    assert len(left) == 8 and not left & {"1", "10", "11"}
    with pytest.raises(UserError, match="not divided into splits, and there is no 'test'"):
        load_source(config, "test")


def test_a_validation_split_out_of_the_training_split(data_config, save, tmp_path):
    for split, count in (("train", 6), ("test", 2)):
        for i in range(count):
            save(tmp_path / f"images/{split}/{i}.png", np.zeros((4, 5, 3), np.uint8))
            save(tmp_path / f"masks/{split}/{i}.png", np.zeros((4, 5), np.uint8))
    config = data_config(dir=str(tmp_path), split=("hash", 0.5))
    counts = {split: len(load_source(config, split)) for split in ("train", "val", "test")}
    assert counts["train"] + counts["val"] == 6 and counts["val"] > 0 and counts["test"] == 2


def test_images_that_are_left_out_need_no_mask(data_config, folder):
    root = folder([(5, 6)] * 4)
    (root / "trainannot/p001.png").unlink()
    (root / "train/p002.jpg").touch()
    config = data_config(dir=str(root), leave_out=("train/p001.png", "train/p002.jpg"))
    # Where one of two is left out the other one is taken.
    assert [load_source(config, "train")[i]["id"] for i in range(3)] == ["p000", "p002", "p003"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"images": "a/*"}, "config.data.images is given without config.data.masks"),
        ({"layout": "templates"}, "config.data.layout='templates' needs config.data.images"),
        ({"images": "a/*", "masks": "b/*", "layout": "voc"}, "is of layout='templates', not 'voc'"),
        ({"images": "a/x.png", "masks": "b/*"}, "config.data.images='a/x.png' tells no files apart"),
        ({"images": "a/*", "masks": "{p}/*"}, "config.data.masks='{p}/*' holds {p}, which config.data.images='a/*'"),
        ({"images": "a/*", "masks": "b/*"}, "no split 'train' in it; expected"),
        ({"layout": "lists"}, "expected a list"),
        ({"split": ("hash", 0)}, "config.data.split=('hash', 0) must be ()"),
        ({"split": ("hash", 0.2, "(")}, "the pattern is no regular expression"),
        ({"split": ("random", 0.2)}, "must be () or ('hash', share"),
    ],
)
def test_mistakes_in_a_config(data_config, tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        load_source(data_config(dir=str(tmp_path), **changes), "train")
    assert words in str(error.value) and "\n" not in str(error.value)
