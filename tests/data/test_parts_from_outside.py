"""Sources and transforms from outside the package, and what a list of transforms does."""

import itertools

import numpy as np
import pytest
import toy_data

from attnseg_jax.data import transforms
from attnseg_jax.data.datasets import DatasetInfo
from attnseg_jax.data.pipeline import eval_batches, train_batches
from attnseg_jax.data.sources import load_source, survey
from attnseg_jax.data.transforms import TRANSFORMS, augment
from attnseg_jax.data.transforms.colour import jittered
from attnseg_jax.data.transforms.crop import random_window
from attnseg_jax.data.transforms.fields import normalise
from attnseg_jax.errors import UserError

DEFAULT = ("scale_crop", "flip", "colour_jitter", "normalise_pad")
TWO_VIEWS = ("scale_crop", "flip", "toy_data:darker_view", "colour_jitter", "normalise_pad")
SIZES = [(20, 24), (31, 26), (20, 24)]


@pytest.fixture
def config(data_config):
    """Of the toy source; images are as they are, but for scale, crop and flip."""
    plain = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "mean": (0, 0, 0), "std": (1, 1, 1)}
    return data_config(source="toy_data:Stripes", custom={"seed": 5, "darkest": 0.3}, max_class_share=1.0, **plain)


def train(config, count=3, **options):
    batches = train_batches(load_source(config, "train"), config, batch_size=4, seed=7, **options)
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def same(a, b):
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


def test_a_source_is_trained_and_evaluated_on(config):
    source = load_source(config, "train")
    assert survey(source).sizes == tuple(SIZES)
    for batch in train(config):
        assert {name: (x.shape, x.dtype.name) for name, x in batch.items()} == {
            "image": ((4, 13, 17, 3), "float32"),
            "label": ((4, 13, 17), "int32"),
            "valid": ((4,), "bool"),
            "depth": ((4, 13, 17), "float64"),
            "place": ((4, 2), "int16"),
        }
    config.custom.seed = 6
    assert not np.array_equal(load_source(config, "train")[0]["label"], source[0]["label"])


def test_its_fields_follow_the_image(config):
    """Through resizing, scale, crop, flip and padding: the depth is told by the label."""
    config.update(crop=(22, 27), scale=(0.5, 2.0))
    for resolution in (1.0, 0.7):
        config.resolution = resolution
        padded = 0
        for batch in train(config, 6):
            inside = batch["label"] != 255
            np.testing.assert_array_equal(batch["depth"], np.where(inside, 100 + batch["label"], 0))
            padded += (~inside).sum()
        assert padded > 100


@pytest.mark.parametrize("count", [1, 4])
def test_evaluation_has_its_fields_too(config, count):
    """Also in rows and in whole batches of padding."""
    source = load_source(config, "train")
    parts = [
        list(eval_batches(source, config, batch_size=4, multiple=16, process_index=p, process_count=count))
        for p in range(count)
    ]
    seen = []
    for batch in itertools.chain(*parts):
        assert set(batch) == {"image", "label", "valid", "index", "id", "depth", "place"}
        for row, index in enumerate(batch["index"]):
            if index < 0:
                assert not batch["valid"][row] and not batch["depth"][row].any() and not batch["place"][row].any()
                assert not batch["image"][row].any() and (batch["label"][row] == 255).all()
                continue
            seen.append(int(index))
            h, w = SIZES[index]
            np.testing.assert_array_equal(batch["depth"][row, :h, :w], source[index]["depth"])
            assert not batch["depth"][row, h:].any() and not batch["depth"][row, :, w:].any()
            assert batch["place"][row].tolist() == [index, 7]
    assert sorted(seen) == [0, 1, 2]


def test_a_transform_adds_a_second_view(config):
    """Of the same pixels as the first, normalised and padded as it is."""
    config.update(crop=(24, 25), scale=(0.8, 1.3), transforms=TWO_VIEWS, mean=(8, 8, 8), std=(2, 2, 2))
    for batch in train(config):
        image, dark = (batch[name].astype(float) * 2 + 8 for name in ("image", "image_dark"))
        inside = batch["label"] != 255
        factor = np.broadcast_to(batch["factor"][:, None, None], inside.shape)[inside]
        np.testing.assert_allclose(dark[inside], image[inside] * factor[:, None], atol=1.001)
        assert not batch["image_dark"][~inside].any() and not inside.all()
        assert batch["factor"].shape == (4,) and len(set(batch["factor"].tolist())) == 4


def test_outside_transforms_draw_from_the_generator_of_the_sample(config):
    config.transforms = TWO_VIEWS
    first = train(config, 4)
    config.threads = 0
    same(train(config, 3, start_step=1), first[1:])
    part = train(config, 4, process_index=1, process_count=2)
    same(part, [{name: x[1::2] for name, x in batch.items()} for batch in first])
    # What comes before it in the list draws as without it.
    config.transforms = DEFAULT
    for a, b in zip(train(config, 4), first, strict=True):
        np.testing.assert_array_equal(a["label"], b["label"])


def test_the_default_list_draws_in_this_order(data_config):
    """Scale, window and offset; flip; colours: whatever else is built around them, these are the pixels of a seed."""
    config = data_config(transforms=DEFAULT, crop=(30, 41))
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (35, 33, 3)).astype(np.uint8)
    label = rng.integers(0, 7, (35, 33)).astype(np.uint8)
    flipped = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        window = random_window(label, rng, crop=(30, 41), scale=(0.5, 2.0), max_class_share=0.75)
        part, ids = window.cut_field("image", image), window.cut_field("label", label)
        if rng.random() < 0.5:
            part, ids, flipped = part[:, ::-1], ids[:, ::-1], flipped + 1
        part = jittered(part, rng, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
        (y, x), (h, w) = window.offset, ids.shape
        pixels, labels = np.zeros((30, 41, 3), np.float32), np.full((30, 41), 255, np.int32)
        pixels[y : y + h, x : x + w] = normalise(part, config.mean, config.std)
        labels[y : y + h, x : x + w] = ids
        out = augment({"image": image, "label": label, "id": "a"}, np.random.default_rng(seed), config)
        same([out], [{"image": pixels, "label": labels}])
    assert 0 < flipped < 8


@pytest.mark.parametrize("factor", [0.6, 1.7])
def test_any_order_of_colours_and_geometry(config, factor):
    """A picture that is no longer of 8 bits is scaled as one that is; other fields as the label, of any type."""
    rng = np.random.default_rng(0)
    image, label = rng.integers(0, 256, (35, 33, 3)).astype(np.uint8), rng.integers(0, 250, (35, 33)).astype(np.uint8)
    window = random_window(label, rng, crop=(13, 17), scale=(factor, factor))
    cut = window.cut_field("image", image)
    assert cut.shape == (13, 17, 3) and cut.dtype == np.uint8
    np.testing.assert_allclose(window.cut_field("image2", image.astype(np.float32)), cut, atol=1)
    cut = window.cut_field("label", label)
    for dtype in (bool, np.int16, np.int64, np.float16, np.complex64):
        field = np.stack([label, label // 2], -1).astype(dtype)
        np.testing.assert_array_equal(window.cut_field("any", field), np.stack([cut, cut // 2], -1).astype(dtype))
    config.transforms = ("colour_jitter", "scale_crop", "flip", "normalise_pad")
    config.update(scale=(factor, factor), hue=0.1)
    assert train(config, 1)[0]["image"].shape == (4, 13, 17, 3)


def test_the_table_holds_the_default(data_config):
    from attnseg_jax.configs import default

    assert default.get_config().data.transforms == DEFAULT == data_config().transforms
    assert set(TRANSFORMS) >= set(DEFAULT)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"source": "toy_data:Unmeasured"}, "config.data.source='toy_data:Unmeasured' has no info, size: see"),
        ({"source": "toy_data:Stripe"}, "config.data.source='toy_data:Stripe': toy_data has no 'Stripe': did you mean"),
        ({"source": "no_such_file:Mine"}, "config.data.source='no_such_file:Mine': the module 'no_such_file' cannot"),
        ({"transforms": ("scale_crop", "flop")}, "config.data.transforms='flop' is unknown: did you mean 'flip'?"),
        ({"transforms": (*TWO_VIEWS[:2], "toy_data:dark")}, "config.data.transforms='toy_data:dark': toy_data has no"),
        ({"transforms": ("toy_data:forgetful",)}, "'toy_data:forgetful' returned NoneType, not a sample"),
        ({"transforms": DEFAULT[:3]}, "leaves an image float32 (13, 17, 3) and a label uint8 (13, 17); a model needs"),
        ({"transforms": DEFAULT[1:]}, "an image of 20 x 24 pixels is larger than config.data.crop=(13, 17) when it"),
        (
            {"transforms": ("toy_data:ragged", *DEFAULT)},
            "the field 'marks' differs between samples of one batch ((2,), ",
        ),
    ],
)
def test_what_cannot_be(config, changes, words):
    config.update(changes)
    with pytest.raises(UserError) as error:
        train(config)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_unknown_transforms_are_named_before_anything_is_read(config):
    config.transforms = ("nothing:like_that",)
    with pytest.raises(UserError, match="the module 'nothing' cannot be imported"):
        train_batches([], config, batch_size=4, seed=0)


def altered(name, value):
    """Makes a sound source with one thing else: an attribute, `len`, or what is done to a `sample`."""

    class Source(toy_data.Stripes):
        def __len__(self):
            return value if name == "len" else super().__len__()

        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return value(sample) if name == "sample" else sample

    def make(config, split):
        source = Source(config, split)
        if name == "size":
            inner = toy_data.Stripes(config, split)
            source.__class__ = type("Mine", (Source,), {"__getitem__": lambda self, index: inner[index]})
        if name in ("info", "size", "files"):
            setattr(source, name, value)
        return source

    return make


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("info", None, "its info is NoneType, not a DatasetInfo: datasets.info(config.data) makes one"),
        ("info", DatasetInfo("x", ("a", "b"), ((0, 0, 0),) * 2), "info.palette must be an array uint8 (2, 3)"),
        ("len", 0, "its split 'train' is empty"),
        ("len", -3, "its length cannot be taken: "),
        ("len", 2.0, "its length cannot be taken: "),
        ("size", lambda: (20, 24), ".size cannot be called as it will be: too many positional arguments"),
        ("size", lambda index: (24, 20), "size(0) is (24, 20), and the image there is (h, w) = (20, 24)"),
        ("size", lambda index: None, "size(0) is None, and the image"),
        ("files", lambda: None, "files() must return a dict of names and paths"),
        ("sample", lambda sample: None, "config.data.source gives NoneType; a sample is a dict"),
        (
            "sample",
            lambda sample: {"image": 0, "label": 0},
            "gives ['image', 'label']; a sample is a dict with 'image'",
        ),
    ],
)
def test_what_is_no_source(config, monkeypatch, name, value, words):
    monkeypatch.setattr(toy_data, "Mine", altered(name, value), raising=False)
    config.source = "toy_data:Mine"
    with pytest.raises(UserError) as error:
        load_source(config, "train")
    assert "config.data.source" in str(error.value) and words in str(error.value)


def test_a_source_that_takes_something_else(config, monkeypatch):
    monkeypatch.setattr(toy_data, "Mine", lambda config: None, raising=False)
    config.source = "toy_data:Mine"
    with pytest.raises(UserError, match=r"config.data.source='toy_data:Mine' cannot be called as it will be: too many"):
        load_source(config, "train")


def test_samples_that_the_survey_refuses(config, monkeypatch):
    """Beyond the first, which `load_source` looks at."""

    def eighth_class(sample):
        return {**sample, "label": sample["label"] + 7 * (sample["id"] == "stripes1")}

    monkeypatch.setattr(toy_data, "Mine", altered("sample", eighth_class), raising=False)
    config.source = "toy_data:Mine"
    with pytest.raises(UserError, match=r"^stripes1: config.data.source gives the label \d+, and there are 7 classes"):
        survey(load_source(config, "train"))
    sizes = {0: (20, 24), 1: (31, 26), 2: (24, 20)}
    monkeypatch.setattr(toy_data, "Mine", altered("size", sizes.get))
    with pytest.raises(UserError, match=r"size\(2\) is \(24, 20\), and the image there is"):
        survey(load_source(config, "train"))


@pytest.mark.parametrize(
    "transform, words",
    [
        (lambda sample: sample, "'toy_data:mine' cannot be called as it will be: too many positional arguments"),
        (3, "'toy_data:mine' cannot be called as it will be: 3 is not a callable object"),
        (lambda s, rng, config: {**s, "label": s["label"] / 2}, "'toy_data:mine' returned a label of float64: it must"),
        (lambda s, rng, config: {**s, "image": s["image"] * 1j}, "'toy_data:mine' returned an image of complex128"),
        (lambda s, rng, config: {**s, "label": s["label"][:-1]}, "'toy_data:mine' returned an image (13, 17, 3) and a"),
        (lambda s, rng, config: {**s, "label": s["label"] + 70}, "'normalise_pad') give the label 7"),
        (lambda s, rng, config: {**s, "image": None}, "'toy_data:mine' returned an image of object"),
    ],
)
def test_what_is_no_transform(config, monkeypatch, transform, words):
    monkeypatch.setattr(toy_data, "mine", transform, raising=False)
    transforms._transform.cache_clear()
    config.transforms = ("scale_crop", "toy_data:mine", "normalise_pad")
    with pytest.raises(UserError) as error:
        train(config)
    assert "config.data.transforms" in str(error.value) and words in str(error.value)
    transforms._transform.cache_clear()
