import io
import zlib

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data.context import FORMS, HEIGHT, KEY_COLOURS, KEY_DISTANCE, WIDTH, builder, draw_scene
from attnseg_jax.data.datasets import DATASETS

COUNT = 300


@pytest.fixture(scope="module")
def scenes():
    return [draw_scene("train", i) for i in range(COUNT)]


def near(mask, by):
    """`mask` grown by `by` pixels (Chebyshev), pixel by pixel."""
    out = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        out[max(0, y - by) : y + by + 1, max(0, x - by) : x + by + 1] = True
    return out


def patch(scene):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    top, left, bottom, right = scene.key_box
    mask[top:bottom, left:right] = True
    return mask


def test_a_scene_is_always_the_same():
    a, b = draw_scene("val", 3), draw_scene("val", 3)
    np.testing.assert_array_equal(a.image, b.image)
    np.testing.assert_array_equal(a.label, b.label)
    assert a.key_box == b.key_box
    others = [draw_scene("val", 4), draw_scene("train", 3), draw_scene("test", 3)]
    assert not any(np.array_equal(a.image, other.image) for other in others)


@pytest.mark.parametrize(
    ("split", "labels", "mean"),
    [
        ("train", [2755094645, 3181588809, 464926787], [74.82, 92.27, 63.38]),
        ("val", [1112710820, 2492984543, 2297424484], [93.25, 69.75, 68.33]),
        ("test", [1851386228, 2933070993, 2555779653], [70.88, 85.39, 85.53]),
    ],
)
def test_the_drawing_belongs_to_its_version(split, labels, mean):
    drawn = [draw_scene(split, i) for i in range(3)]
    same = [zlib.crc32(scene.label.tobytes()) for scene in drawn] == labels
    same &= [scene.image.mean() for scene in drawn] == pytest.approx(mean, abs=0.01)
    assert same, "other scenes than before: raise AttnsegContext.VERSION, for people keep the old ones cached; then pin"


def test_sizes_and_types(scenes):
    for scene in scenes[:20]:
        assert scene.image.shape == (64, 96, 3) and scene.image.dtype == np.uint8
        assert scene.label.shape == (64, 96) and scene.label.dtype == np.uint8
        assert scene.key in (0, 1)


def test_every_shape_is_far_from_the_key(scenes):
    least = WIDTH
    for scene in scenes:
        _, left, _, right = scene.key_box
        assert 0 <= left < right <= WIDTH
        shapes = np.zeros((HEIGHT, WIDTH), bool)
        for _, mask in scene.shapes:
            shapes |= mask
        columns = np.flatnonzero(shapes.any(0))
        distance = np.minimum(abs(columns[:, None] - np.array([left, right - 1])).min(1), WIDTH).min()
        least = min(least, distance)
        # Labels of classes lie within the drawn shapes.
        assert not ((scene.label > 0) & (scene.label < 255) & ~shapes).any()
    # The bound is kept, and not by much: the scene is no larger than it must be.
    assert KEY_DISTANCE == 30 <= least <= 32


def test_class_is_form_and_key(scenes):
    for scene in scenes[:100]:
        for form, mask in scene.shapes:
            found = np.unique(scene.label[mask])
            assert set(found) == {1 + form + 3 * scene.key, 255}
            assert (scene.label[mask] != 255).mean() > 0.55
    names = DATASETS["context"].class_names
    assert [names[1 + form + 3 * key].split("_")[0] for key in (0, 1) for form in range(3)] == list(FORMS) * 2


def test_void_rims(scenes):
    for scene in scenes[:40]:
        classes = (scene.label > 0) & (scene.label < 255)
        void = scene.label == 255
        key = patch(scene)
        shapes = np.logical_or.reduce([mask for _, mask in scene.shapes])
        # A shape's labels never touch the background, nor another shape's.
        assert not (near(classes, 1) & (scene.label == 0)).any()
        for _, mask in scene.shapes:
            others = shapes & ~mask
            assert not (near(mask & classes, 1) & others & classes).any()
        # The rims are one or two pixels wide, outside and inside counted together.
        assert not (void & ~near(shapes, 1) & ~near(key, 1)).any()
        assert not (void & shapes & ~near(~shapes, 2)).any()
        # The patch is background with a rim of one pixel.
        assert (scene.label[key] == 0).all()
        assert void[near(key, 1) & ~key].all()


def test_two_or_three_shapes_apart(scenes):
    counts = [len(scene.shapes) for scene in scenes]
    assert set(counts) == {2, 3} and 0.15 < np.mean(np.array(counts) == 3) < 0.85
    for scene in scenes[:60]:
        for i, (_, mask) in enumerate(scene.shapes):
            assert mask.sum() > 60
            for _, other in scene.shapes[:i]:
                assert not (near(mask, 1) & other).any()


def test_every_class_is_frequent(scenes):
    counts = np.bincount(np.concatenate([scene.label.ravel() for scene in scenes]), minlength=256)
    shares = counts[:7] / counts[:7].sum()
    assert (shares[1:] > 0.005).all() and 0.8 < shares[0] < 0.95 and counts[7:255].sum() == 0


def test_the_key_is_the_patch_and_nothing_else(scenes):
    for index in range(30):
        one, two = (draw_scene("train", index, key=key) for key in (0, 1))
        differs = (one.image != two.image).any(-1)
        np.testing.assert_array_equal(differs & ~patch(one), False)
        assert differs[patch(one)].all() and one.key_box == two.key_box
        np.testing.assert_array_equal(
            np.where((one.label > 0) & (one.label < 255), one.label + 3, one.label), two.label
        )
        for scene in (one, two):
            colour = scene.image[patch(scene)].mean(0)
            assert np.abs(colour - KEY_COLOURS[scene.key]).max() < 8
        # `key` overrides what is drawn, which is one of the two.
        np.testing.assert_array_equal(scenes[index].image, (one, two)[scenes[index].key].image)


def test_only_the_patch_is_vivid(scenes):
    for scene in scenes[:60]:
        image = scene.image.astype(int)
        spread = image.max(-1) - image.min(-1)
        assert spread[patch(scene)].min() > 120 and spread[~patch(scene)].max() < 100


def test_key_is_independent_of_what_a_local_model_sees(scenes):
    keys = np.array([scene.key for scene in scenes], float)
    features = {
        "side": [scene.key_box[1] > WIDTH / 2 for scene in scenes],
        "row": [scene.key_box[0] for scene in scenes],
        "patch size": [patch(scene).sum() for scene in scenes],
        "count": [len(scene.shapes) for scene in scenes],
        "first form is a disc": [scene.shapes[0][0] == 0 for scene in scenes],
        "crosses": [sum(form == 2 for form, _ in scene.shapes) for scene in scenes],
        "area": [sum(mask.sum() for _, mask in scene.shapes) for scene in scenes],
        "place": [np.argwhere(scene.shapes[0][1])[:, 0].mean() for scene in scenes],
        "shape red": [scene.image[scene.shapes[0][1]][:, 0].mean() for scene in scenes],
        "shape blue": [scene.image[scene.shapes[0][1]][:, 2].mean() for scene in scenes],
        "background": [scene.image[scene.label == 255].mean() for scene in scenes],
    }
    assert abs(keys.mean() - 0.5) < 4 * 0.5 / np.sqrt(COUNT)
    for name, values in features.items():
        correlation = np.corrcoef(keys, np.array(values, float))[0, 1]
        assert abs(correlation) < 4 / np.sqrt(COUNT), (name, correlation)


def test_both_sides_occur(scenes):
    side = np.mean([scene.key_box[1] > WIDTH / 2 for scene in scenes])
    assert 0.38 < side < 0.62


def test_png_round_trip():
    scene = draw_scene("test", 0)
    for array in (scene.image, scene.label):
        stream = builder._png(array)
        assert isinstance(stream, io.BytesIO)
        with Image.open(stream) as image:
            np.testing.assert_array_equal(np.asarray(image), array)
