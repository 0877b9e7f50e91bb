import numpy as np
import pytest

from attnseg_jax.data import datasets, mask_ids
from attnseg_jax.data.datasets import DATASETS
from attnseg_jax.errors import UserError
from attnseg_jax.plots import segmentation


@pytest.mark.parametrize("name", DATASETS)
def test_entries_are_consistent(name):
    entry = DATASETS[name]
    k = len(entry.class_names)
    assert len(set(entry.class_names)) == k
    assert len(set(entry.palette)) == len(entry.palette) == k
    # Every class can occur; exactly once, but for vessels, which any value is that is not 0.
    found = sorted(i for i in entry.ids if i != 255)
    assert found == (list(range(k)) if name != "drive" else [0] + [1] * 255)
    assert not entry.colors or len(entry.colors) == len({*entry.colors}) == len(entry.ids)


def test_cityscapes_table_follows_its_label_definitions():
    entry = DATASETS["cityscapes"]
    assert len(entry.ids) == 34
    by_name = {entry.class_names[t]: raw for raw, t in enumerate(entry.ids) if t != 255}
    wanted = {"road": 7, "sidewalk": 8, "building": 11, "pole": 17, "traffic light": 19, "sky": 23, "car": 26}
    assert {name: by_name[name] for name in wanted} == wanted
    assert by_name["train"] == 31 and by_name["bicycle"] == 33
    # ego vehicle, parking, guard rail, polegroup, caravan, trailer are not evaluated.
    assert [entry.ids[raw] for raw in (1, 9, 14, 18, 29, 30)] == [255] * 6


def test_camvid_void_is_ignored():
    assert DATASETS["camvid"].ids == (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255)
    assert DATASETS["camvid"].palette[3] == (128, 64, 128) and DATASETS["camvid"].class_names[3] == "road"


def test_keys_replace_the_entry(data_config):
    entry = datasets.from_config(data_config(name="camvid", classes=(), ids=(0, 255, 10)))
    assert entry.ids == (0, 255, 10) and len(entry.class_names) == 11
    info = datasets.info(data_config(classes=("x", "y"), palette=((1, 2, 3), (4, 5, 6))))
    assert info.class_names == ("x", "y") and info.num_classes == 2
    np.testing.assert_array_equal(info.palette, np.array([[1, 2, 3], [4, 5, 6]], np.uint8))
    assert info.palette.dtype == np.uint8


def test_without_a_name_ids_are_the_identity_and_a_palette_is_made_up(data_config):
    entry = datasets.from_config(data_config())
    assert entry.ids == tuple(range(7))
    assert entry.palette == datasets.default_palette(7)
    colours = np.array(datasets.default_palette(254), int)
    assert len({*map(tuple, colours)}) == 254 and colours.min() >= 0 and colours.max() <= 255
    # The first dozen can be told apart, and none of all is taken for an error in a picture.
    apart = np.abs(colours[:12, None] - colours[:12]).sum(-1) + 1000 * np.eye(12, dtype=int)
    assert apart.min() >= 75
    for error in (segmentation.FALSE_POSITIVE, segmentation.FALSE_NEGATIVE):
        assert np.abs(colours - error).sum(-1).min() >= 90


@pytest.mark.parametrize("raw", [-1, 65536])
def test_raw_ids_that_no_table_holds(data_config, raw):
    with pytest.raises(
        UserError, match=rf"config\.data\.ids maps raw id {raw}; raw ids are whole numbers from 0 to 65535"
    ):
        datasets.from_config(data_config(classes=("a", "b"), ids=((0, 0), (raw, 1))))


def test_ids_as_pairs(data_config):
    """What is not listed is unknown, which masks may not hold; 255 is ignored unless it is listed."""
    names = {"classes": ("background", "lesion")}
    ids = datasets.from_config(data_config(**names, ids=((0, 0), (255, 1)))).ids
    assert ids == (0, *[datasets.UNKNOWN] * 254, 1)
    ids = datasets.from_config(data_config(**names, ids=((300, 0), (7, 1), (8, 255)))).ids
    assert len(ids) == 301 and {raw: train for raw, train in enumerate(ids) if train != datasets.UNKNOWN} == {
        7: 1, 8: 255, 255: 255, 300: 0
    }  # fmt: skip
    with pytest.raises(UserError, match="maps raw id 7 to 2, but there are 2 classes"):
        datasets.from_config(data_config(**names, ids=((7, 2),)))


def test_what_is_ignored(data_config):
    """255 unless the key says otherwise; `ids` and the table of a known set hold where they say something."""

    def known(**changes):
        ids = datasets.from_config(data_config(classes=("a", "b"), **changes)).ids
        return {raw: train for raw, train in enumerate(ids) if train != datasets.UNKNOWN}, len(ids)

    table = mask_ids.id_table(datasets.from_config(data_config(classes=("a", "b"))).ids)
    assert {*np.flatnonzero(table != datasets.UNKNOWN)} == {0, 1, 255}
    assert known(ignore=(0, 300)) == ({0: 255, 1: 1, 300: 255}, 301)
    # A table as long as that has a place for 255, which is then unknown.
    assert known(ignore=()) == ({0: 0, 1: 1}, 256)
    assert known(ignore=(), ids=((0, 0), (255, 1))) == known(ids=((0, 0), (255, 1))) == ({0: 0, 255: 1}, 256)
    assert known(ignore=(3, 0), ids=((0, 1), (2, 0))) == ({0: 1, 2: 0, 3: 255}, 256)
    camvid = datasets.from_config(data_config(name="camvid", classes=(), ignore=(11, 12))).ids
    assert camvid[:13] == (*range(11), 255, 255) and set(camvid[13:]) == {datasets.UNKNOWN}


def test_a_folder_has_its_own_classes(data_config, tmp_path):
    """Not those of the embedded data set, but those that its file names or the config gives."""
    (tmp_path / "classes.txt").write_text("background\n\n  cell wall \nnucleus\n", encoding="utf-8-sig")
    found = {}
    for case, changes in {
        "file": {"name": "context"}, "given": {"name": "context", "classes": ("a", "b")}, "known": {"name": "camvid"},
        "tfds": {"name": "context", "source": "tfds"}, "elsewhere": {"dir": ""},
    }.items():  # fmt: skip
        config = data_config(**{"classes": (), "dir": str(tmp_path), **changes})
        datasets.of_folder(config)
        found[case] = config.name, config.classes
    assert found == {
        "file": ("", ("background", "cell wall", "nucleus")), "given": ("", ("a", "b")), "known": ("camvid", ()),
        "tfds": ("context", ()), "elsewhere": ("", ()),
    }  # fmt: skip
    (tmp_path / "classes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"classes\.txt cannot be read"):
        datasets.of_folder(data_config(classes=(), dir=str(tmp_path)))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"name": "camvit"}, "config.data.name='camvit' is not a known data set (did you mean 'camvid'?)"),
        ({"classes": ()}, "config.data.classes is empty"),
        ({"palette": ((1, 2, 3),)}, "config.data.palette has 1 colours for 7 classes"),
        ({"palette": ((1, 2),) * 7}, "config.data.palette holds (1, 2); a colour is"),
        ({"ids": (0, 7)}, "config.data.ids maps raw id 1 to 7, but there are 7 classes"),
        ({"classes": tuple(f"n{i}" for i in range(255))}, "config.data.classes has 255 names; at most 254"),
    ],
)
def test_bad_keys(data_config, changes, message):
    with pytest.raises(UserError) as error:
        datasets.from_config(data_config(**changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_colour_cannot_stand_for_two_ids(data_config):
    with pytest.raises(UserError, match=r"config.data.colors holds \(9, 9, 9\) twice"):
        datasets.raw_colours(data_config(colors=((9, 9, 9), (1, 1, 1), (9, 9, 9))))
