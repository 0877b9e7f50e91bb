"""What the doctor reads from files and what it makes of it; counts of the small masks are by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data.datasets import DATASETS
from attnseg_jax.data.doctor import examine, facts, mask_facts, text
from attnseg_jax.data.doctor.config_text import config_text
from attnseg_jax.data.doctor.names import find_names
from attnseg_jax.data.doctor.proposal import Decision
from attnseg_jax.data.doctor.splits import propose_splits
from attnseg_jax.data.layouts import Tree
from attnseg_jax.data.sources import check_classes, load_source, survey
from attnseg_jax.errors import UserError

RNG = np.random.default_rng(0)


def photo(h=16, w=24):
    return RNG.integers(0, 256, (h, w, 3)).astype(np.uint8)


@pytest.fixture
def write(tmp_path, save):
    """Writes pairs `images/SPLIT/i.png` and `masks/SPLIT/i.png` from masks by split; returns the folder."""

    def make(masks, image=lambda split, i, mask: photo(*mask.shape[:2]), **options):
        for split, of_split in masks.items():
            for i, mask in enumerate(of_split):
                mask = np.asarray(mask, np.uint8) if not isinstance(mask, np.ndarray) else mask
                save(tmp_path / f"images/{split}/{i}.png", image(split, i, mask))
                save(tmp_path / f"masks/{split}/{i}.png", mask, **options)
        return tmp_path

    return make


def diagnose(root):
    return examine.examine(examine.make_plan(root), threads=2)


def decided(diagnosis):
    return {decision.key: decision.value for decision in diagnosis.decisions}


def sentences(diagnosis, level):
    return [finding.text for finding in diagnosis.findings if finding.level == level]


def trained_on(diagnosis, data_config):
    """Pixels of each class in both splits as training reads them by the decisions, all of them with a pixel."""
    values = {key[5:]: value for key, value in decided(diagnosis).items() if key.startswith("data.")}
    config = data_config(classes=(), **values) if "classes" not in values else data_config(**values)
    source = load_source(config, config.train_split)
    check_classes(source, found := survey(source))
    return found.pixel_counts.tolist(), survey(load_source(config, config.eval_split)).pixel_counts.tolist()


def square(value=1, size=5, shape=(16, 24), at=(2, 3)):
    mask = np.zeros(shape, np.uint8)
    mask[at[0] : at[0] + size, at[1] : at[1] + size] = value
    return mask


def test_facts_of_files(tmp_path, save):
    mask = np.array([[0, 0, 7], [7, 7, 255]], np.uint8)
    path = save(tmp_path / "l.png", mask)
    found = mask_facts.read_mask(path)
    assert (found.format, found.mode, found.size, found.values) == ("PNG", "L", (2, 3), {0: 2, 7: 3, 255: 1})
    assert found.colours == {(0, 0, 0): 2, (7, 7, 7): 3, (255, 255, 255): 1} and not found.lossy
    palette = [0, 0, 0, 9, 8, 7] + [0] * 762
    found = mask_facts.read_mask(save(tmp_path / "p.png", np.array([[0, 1, 1]], np.uint8), palette=palette))
    assert found.values == {0: 1, 1: 2} and found.colours == {(0, 0, 0): 1, (9, 8, 7): 2}
    assert found.palette == {0: (0, 0, 0), 1: (9, 8, 7)}
    found = mask_facts.read_mask(save(tmp_path / "rgb.png", np.array([[[9, 8, 7], [9, 8, 7], [0, 0, 1]]], np.uint8)))
    assert found.values is None and found.colours == {(9, 8, 7): 2, (0, 0, 1): 1}
    found = mask_facts.read_mask(save(tmp_path / "deep.png", np.array([[3, 3, 900]], np.uint16)))
    assert found.values == {3: 2, 900: 1} and found.colours is None
    Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1").save(tmp_path / "bit.png")
    assert mask_facts.read_mask(tmp_path / "bit.png").values == {0: 1, 1: 2}
    assert mask_facts.read_mask(save(tmp_path / "j.jpg", mask)).lossy
    many = RNG.integers(0, 256, (100, 100, 3)).astype(np.uint8)
    many[:10] = (1, 2, 3)
    found = mask_facts.read_mask(save(tmp_path / "many.png", many))
    assert found.colours[(1, 2, 3)] >= 1000 and found.colours.total() + found.rest == 10000


def test_facts_of_the_masks_of_objects(tmp_path, save):
    masks = [save(tmp_path / f"{i}.png", np.array([[0] * i + [9, 9] + [0] * (4 - i)], np.uint8)) for i in (0, 1, 4)]
    assert mask_facts.read_masks(masks).values == {0: 1, 1: 5}


def test_folders_that_are_no_splits(tmp_path, save):
    for site in "ab":
        for i in range(6):
            save(tmp_path / f"site_{site}/images/{i}.png", photo(40, 50))
            save(tmp_path / f"site_{site}/masks/{i}.png", S(1, 20, (40, 50)))
    plan = examine.make_plan(tmp_path)
    assert plan.layout.name == "templates" and sum(map(len, plan.pairs.values())) == 12
    assert plan.splits.split and {*plan.pairs} == {"train", "val"}


def test_facts_of_images(tmp_path, save):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (("a.jpg", {"exif": exif}), ("a.png", {"exif": exif})):
        Image.fromarray(photo(10, 20)).save(tmp_path / name, **options)
        found = facts.read_image(tmp_path / name)
        assert (found.stored, found.size, found.orientation, found.bits) == ((10, 20), (20, 10), 6, 8)
    assert facts.read_image(save(tmp_path / "d.png", np.full((4, 5), 700, np.uint16))).bits == 16
    assert facts.read_image(save(tmp_path / "rgba.png", np.zeros((4, 5, 4), np.uint8))).alpha
    pages = [Image.fromarray(photo()) for _ in range(3)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    assert facts.read_image(tmp_path / "p.tif").pages == 3
    whole = (tmp_path / "a.jpg").read_bytes()
    for name, data in (("cut.jpg", whole[:-40]), ("cut.png", (tmp_path / "a.png").read_bytes()[:-60])):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=rf"{name}: cannot be decoded"):
            facts.read_image(tmp_path / name)


def case(masks, classes, ids, counts, **options):
    return pytest.param(masks, classes, ids, counts, options, id=options.pop("id"))


S = square
RED, GREEN = (200, 30, 30), (30, 200, 30)


def coloured(mask, *colours):
    return np.array(colours, np.uint8)[mask]


@pytest.mark.parametrize(
    "masks, classes, ids, counts, options",
    [
        case([S(1), S(1)], ("background", "foreground"), (), [718, 50], id="0 and 1"),
        case([S(255), S(255)], ("background", "foreground"), ((0, 0), (255, 1)), [718, 50], id="0 and 255"),
        case([S(7), S(7)], ("background", "foreground"), ((0, 0), (7, 1)), [718, 50], id="0 and 7"),
        case([S(1), S(2), S(255)], ("background", "class_1", "class_2"), (), [1077, 25, 25], id="255 is void"),
        case(
            [S(1) + 1, S(2) + 1], ("class_1", "class_2", "class_3"), ((1, 0), (2, 1), (3, 2)), [718, 25, 25],
            id="from 1",
        ),
        case([S(1), S(2)], ("ground", "cat", "dog"), (), [718, 25, 25], id="named", names="ground\ncat\ndog\n"),
        case(
            [S(1), S(2)], ("cat", "dog"), ((0, 255), (1, 0), (2, 1)), [25, 25],
            id="names without the background", names="cat\ndog\n",
        ),
        case(
            [S(1), S(3)], ("ground", "cat", "cow"), ((0, 0), (1, 1), (3, 2)), [718, 25, 25],
            id="a name that no mask shows", names="ground\ncat\ndog\ncow\n",
        ),
        case(
            [coloured(S(1), (0, 0, 0), RED), coloured(S(1), (0, 0, 0), GREEN)],
            ("colour_0_0_0", "colour_200_30_30", "colour_30_200_30"), (), [718, 25, 25], id="colours",
        ),
        case(
            [coloured(S(1), (0, 0, 0), RED), coloured(S(1), GREEN, RED)], ("cow", "grass"),
            ((0, 0), (1, 1), (2, 255)), [50, 359],
            id="named colours", names="name,r,g,b\ncow,200,30,30\ngrass,30,200,30\nVoid,0,0,0\n", file="class_dict.csv",
        ),
        case(
            [coloured(S(1), (0, 0, 0), (255, 255, 255))] * 2, ("background", "foreground"), (), [718, 50],
            id="black and white",
        ),
    ],
)  # fmt: skip
def test_what_masks_mean(write, data_config, masks, classes, ids, counts, options):
    root = write({"train": masks, "val": masks[:1]})
    if "names" in options:
        (root / options.get("file", "classes.txt")).write_text(options["names"])
    diagnosis = diagnose(root)
    assert not sentences(diagnosis, "error")
    found = decided(diagnosis)
    assert found["data.classes"] == classes and found["data.ids"] == ids and found["data.name"] == ""
    assert trained_on(diagnosis, data_config)[0] == counts


def test_a_palette_names_colours(write, data_config):
    palette = [0, 0, 0, 128, 0, 0, 0, 128, 0] + [5, 5, 5] * 253
    root = write({"train": [S(1), S(2)], "val": [S(1)]}, palette=palette)
    found = decided(diagnosis := diagnose(root))
    assert found["data.palette"] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert "data.colors" not in found
    # The same index in another colour: the colours are what is meant.
    Image.open(root / "masks/val/0.png").close()
    other = Image.fromarray(S(2)).convert("P")
    other.putpalette([0, 0, 0, 0, 128, 0, 128, 0, 0] + [5, 5, 5] * 253)
    other.save(root / "masks/val/0.png")
    diagnosis = diagnose(root)
    assert decided(diagnosis)["data.colors"] == ((0, 0, 0), (128, 0, 0), (0, 128, 0))
    assert trained_on(diagnosis, data_config) == ([718, 25, 25], [359, 25, 0])


@pytest.mark.parametrize("kind", ["jpeg", "smooth", "colours"])
def test_masks_that_were_not_saved_as_drawn(tmp_path, save, data_config, kind):
    """Twelve 32 x 32 squares in 96 x 128 pixels, black elsewhere; borders alone may come out as the other class."""
    colours = ((0, 0, 0), RED) if kind == "colours" else ((0, 0, 0), (255, 255, 255))
    for i in range(6):
        save(tmp_path / f"images/{i}.png", photo(96, 128))
        picture = Image.fromarray(coloured(S(1, 32, (96, 128), (8 * i + 3, 15 * i + 2)), *colours))
        (tmp_path / "masks").mkdir(exist_ok=True)
        if kind == "smooth":
            picture = picture.resize((64, 48)).resize((128, 96), Image.Resampling.BILINEAR).convert("L")
        picture.save(tmp_path / f"masks/{i}.{'png' if kind == 'smooth' else 'jpg'}", quality=85)
    found = decided(diagnosis := diagnose(tmp_path))
    assert found["data.mask_values"] == "nearest" and len(found["data.classes"]) == 2
    assert any("were not saved as drawn" in doubt for doubt in sentences(diagnosis, "warning"))
    train, val = trained_on(diagnosis, data_config)
    assert train[1] + val[1] == pytest.approx(6 * 32 * 32, rel=0.05)
    assert sum(train) + sum(val) == 6 * 96 * 128


def test_ids_of_many_classes_are_not_taken_for_smoothing(write):
    """VOC's 0 to 20 and 255, of which 0 is most and the others are few."""
    masks = [S(value, 3) for value in (*range(1, 21), 255)]
    diagnosis = diagnose(write({"train": masks, "val": masks[:2]}))
    assert "data.mask_values" not in decided(diagnosis) and len(decided(diagnosis)["data.classes"]) == 21


def test_known_data_sets(tmp_path, save, data_config):
    for split in ("train", "val"):
        for i in range(2):
            save(tmp_path / f"{split}/{i}.png", photo(12, 12))
            save(tmp_path / f"{split}annot/{i}.png", np.arange(12, dtype=np.uint8)[None].repeat(12, 0))
    diagnosis = diagnose(tmp_path)
    assert decided(diagnosis)["data.name"] == "camvid" and diagnosis.labels.names == DATASETS["camvid"].class_names
    assert trained_on(diagnosis, data_config) == ([24] * 11, [24] * 11)
    # Without a bicyclist to learn from it is no longer that data set whole.
    for i in range(2):
        save(tmp_path / f"trainannot/{i}.png", np.minimum(np.arange(12), 9).astype(np.uint8)[None].repeat(12, 0))
    diagnosis = diagnose(tmp_path)
    assert decided(diagnosis)["data.classes"] == DATASETS["camvid"].class_names[:10]
    assert trained_on(diagnosis, data_config)[1] == [24] * 10


def test_what_cannot_be_used_is_left_out(write, data_config):
    root = write({"train": [S()] * 8, "val": [S()] * 3})
    (root / "masks/train/0.png").unlink()
    (root / "images/train/1.png").write_bytes((root / "images/train/1.png").read_bytes()[:200])
    (root / "masks/train/2.png").write_bytes(b"no picture")
    Image.fromarray(S(shape=(16, 23))).save(root / "masks/train/3.png")
    turned, exif = Image.fromarray(photo(24, 16)), Image.Exif()
    exif[0x0112] = 6
    turned.save(root / "images/train/4.png", exif=exif)  # 16 x 24 upright
    Image.fromarray(photo()).save(root / "images/val/0.png", exif=exif)  # 24 x 16 upright
    Image.fromarray(S()).save(root / "masks/val/orphan.png")
    (root / "images/val/2.png").write_bytes((root / "images/train/5.png").read_bytes())
    diagnosis = diagnose(root)
    assert decided(diagnosis)["data.leave_out"] == (
        *(f"images/train/{i}.png" for i in range(4)), "images/val/0.png",
    )  # fmt: skip
    errors = "\n".join(sentences(diagnosis, "error"))
    for words in (
        "1 image of 'train' without a mask", "1 image that cannot be read", "1 mask that cannot be read",
        "1 mask of another size than the image", "1 mask that lie as the camera stored the photograph",
    ):  # fmt: skip
        assert words in errors
    warnings = sentences(diagnosis, "warning")
    assert any("1 mask of 'val' without an image" in words for words in warnings)
    assert any("1 image equal to one of another split" in words for words in warnings)
    assert diagnosis.summary.duplicates == [(("images/val/2.png", "val"), ("images/train/5.png", "train"))]
    assert trained_on(diagnosis, data_config) == ([4 * 359, 4 * 25], [2 * 359, 2 * 25])


@pytest.mark.parametrize(
    "masks, words",
    [
        ([S(0)] * 3, "the masks of the training pairs hold one class alone, 0 (100.0%): there is nothing to learn"),
        ([np.arange(300, dtype=np.uint16).reshape(15, 20)] * 3, "the masks hold 300 values, and at most 254"),
    ],
)
def test_nothing_to_train_on(write, masks, words):
    diagnosis = diagnose(write({"train": masks, "val": masks}))
    assert not diagnosis.decisions and any(words in error for error in sentences(diagnosis, "error"))


def test_values_beyond_every_table_are_refused(tmp_path, save):
    for i in range(4):
        save(tmp_path / f"images/{i}.png", photo())
        save(tmp_path / f"masks/{i}.tif", (S(1) * np.int32(70000)).astype(np.int32))
    diagnosis = diagnose(tmp_path)
    assert not diagnosis.decisions
    assert diagnosis.labels.refusal.startswith(
        "the masks hold the value 70000, and raw ids are whole numbers from 0 to"
    )


def test_numbers_of_objects_are_not_classes(write):
    masks = []
    for count in range(6, 20):
        mask = np.zeros((16, 24), np.uint8)
        mask.ravel()[:count] = np.arange(1, count + 1)
        masks.append(mask)
    diagnosis = diagnose(write({"train": masks, "val": masks[:2]}))
    assert any("look like numbers of objects" in words for words in sentences(diagnosis, "warning"))


def test_classes_and_foreground_that_are_missing(write):
    diagnosis = diagnose(write({"train": [S(1), S(2), S(0)], "val": [S(1), S(0)]}))
    assert "no mask of 'val' shows 'class_2': no score will tell of it" in sentences(diagnosis, "warning")
    assert "2 of 5 masks show 'background' alone" in sentences(diagnosis, "note")


@pytest.mark.parametrize(
    "splits, expected",
    [
        (["test", "train", "val"], ("train", "val", ())),
        (["training", "validation"], ("training", "validation", ())),
        (["test", "train"], ("train", "val", ("hash", 0.2))),
        ([], ("train", "val", ("hash", 0.2))),
        (["fold1", "fold2"], ("fold1", "val", ("hash", 0.2))),
    ],
)
def test_splits(splits, expected):
    found = propose_splits(splits, [f"{i:03}" for i in range(20)])
    assert (found.train, found.validation, found.split) == expected


def test_sequences_stay_together_where_there_are_enough():
    many = [f"video{v}_{i:03}" for v in "abcdefghijklmnop" for i in range(6)]
    found = propose_splits([], many)
    assert len(found.split) == 3 and "whole sequences" in found.reason and not found.doubt
    few = [f"video{v}_{i:03}" for v in "ab" for i in range(20)]
    found = propose_splits([], few)
    assert found.split == ("hash", 0.2) and "2 sequences of numbered pictures" in found.doubt


@pytest.mark.parametrize(
    "file, content, expected",
    [
        ("classes.txt", "road\nside walk\n\n", [("road", None, None), ("side walk", None, None)]),
        ("labels.txt", "0 sky\n7\troad\n", [("sky", 0, None), ("road", 7, None)]),
        (
            "label_colors.txt",
            "64 128 64\tAnimal\n0 0 0 Void",
            [("Animal", None, (64, 128, 64)), ("Void", None, (0, 0, 0))],
        ),
        ("class_dict.csv", "name, r, g, b\nCar_2, 1, 2, 3\n", [("Car_2", None, (1, 2, 3))]),
        ("labelmap.txt", "# label:color_rgb:parts:actions\ncat:9,8,7::\n", [("cat", None, (9, 8, 7))]),
    ],
)
def test_files_of_names(tmp_path, file, content, expected):
    (tmp_path / file).write_text(content)
    found = find_names(Tree(tmp_path))
    assert found.path == file and [(c.name, c.id, c.colour) for c in found.classes] == expected


def test_the_text_of_a_config_is_python():
    decisions = [
        Decision("data.classes", tuple(f"class number {i}" for i in range(20)), "why " * 60),
        Decision("data.dir", 'a "quoted" folder\\with', ""),
        Decision("data.ids", ((0, 0), (255, 1)), "x"),
    ]
    written = config_text('"""a\\b', "train", "so it is", decisions, ())
    assert max(map(len, written.splitlines())) <= 120
    config = {}
    compile(written, "file", "exec")
    exec(written, config)
    data = config["get_config"]().data
    assert data.classes == decisions[0].value and data.dir == decisions[1].value and data.ids == ((0, 0), (255, 1))


def test_the_words_of_a_terminal(write):
    diagnosis = diagnose(write({"train": [S(255)] * 5, "val": [S(255)]}))
    lines = "\n".join(text.lines(diagnosis))
    assert "values of train: 0 (93.5%), 255 (6.5%)" in lines and "classes: background (0), foreground (255)" in lines
    assert text.plan_lines(diagnosis.plan)[1] == "pairs: train 5, val 1"
    found = text.as_values(diagnosis)
    assert found["values"]["train"] == [
        {"value": 0, "pixels": 1795, "masks": 5}, {"value": 255, "pixels": 125, "masks": 5},
    ]  # fmt: skip


def test_folders_that_hold_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for path, words in (
        (tmp_path / "none", "there is no such folder"),
        (tmp_path / "a.txt", "is a file: give the folder"),
        (tmp_path, "there are no pictures in this folder"),
    ):
        with pytest.raises(UserError, match=words):
            examine.make_plan(path)
    stream = io.BytesIO()
    Image.fromarray(photo()).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    with pytest.raises(UserError, match="no masks are found for its 1 pictures"):
        examine.make_plan(tmp_path)
