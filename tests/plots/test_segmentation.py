import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.plots import segmentation, sheet
from attnseg_jax.plots.drawing import write_png
from attnseg_jax.plots.segmentation import (
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    comparison_sheet,
    prediction_picture,
    read_label_map,
    write_label_map,
)

NAMES = ("sky", "road", "tram")
PALETTE = np.array([[10, 200, 30], [200, 10, 250], [20, 30, 220]], np.uint8)
INPUT = (90, 120, 60)


def _row(height=13, width=17):
    """Left half sky, right half road, a void line on top; the prediction calls the lowest rows road."""
    image = np.full((height, width, 3), INPUT, np.uint8)
    label = np.zeros((height, width), np.uint8)
    label[:, width // 2 :] = 1
    label[0] = 255
    prediction = np.where(label == 255, 0, label).astype(np.int32)
    prediction[-4:] = 1
    return image, label, prediction


def _count(picture: np.ndarray, color) -> int:
    return int((picture == np.array(color, np.uint8)).all(-1).sum())


def prediction_sheet(*samples_and_path, **options):
    *samples, path = samples_and_path
    write_png(path, prediction_picture(*samples, **options))


def _draw(path, rows, **kwargs):
    images, labels, predictions = zip(*rows)
    prediction_sheet(images, labels, predictions, NAMES, PALETTE, path, **kwargs)
    return np.asarray(Image.open(path))


def test_sheet_shows_every_pixel_in_its_palette_colour(tmp_path):
    picture = _draw(tmp_path / "new" / "sheet.png", [_row()])
    factor = 15  # 17 pixels are enlarged to 255, the first multiple of 240 or more.
    cell = factor * factor
    swatch = 600  # bounds the pixels of a legend's swatch
    sky_truth, road_truth = 12 * 8, 12 * 9
    sky_guess, road_guess = 17 + 8 * 8, 8 * 9 + 4 * 17
    assert 0 <= _count(picture, INPUT) - 13 * 17 * cell < 10
    assert 0 < _count(picture, PALETTE[0]) - (sky_truth + sky_guess) * cell < swatch
    assert 0 < _count(picture, PALETTE[1]) - (road_truth + road_guess) * cell < swatch
    assert _count(picture, PALETTE[2]) == 0  # neither drawn nor in the legend
    # The sky, the rarer class, was missed there.
    assert 0 < _count(picture, FALSE_NEGATIVE) - 4 * 8 * cell < swatch
    assert 0 < _count(picture, FALSE_POSITIVE) < swatch
    assert 0 <= _count(picture, (200, 200, 200)) - 17 * cell < 200  # void in the errors


def test_false_positives_and_false_negatives_differ(tmp_path):
    """Of two classes those of the second, even where it is the more frequent one; of more those of the rarer one."""
    image = np.full((13, 17, 3), INPUT, np.uint8)
    cell, swatch = 15 * 15, 600
    for frequent, classes, missed, invented in ((0, 2, 5, 3), (1, 2, 3, 5), (0, 3, 5, 3), (1, 3, 5, 3)):
        label = np.full((13, 17), frequent)
        label[3, :9] = 1 - frequent
        label[12] = 255
        guess = label.copy()
        guess[3, :5] = frequent  # five pixels of the rarer class
        guess[7, :3] = 1 - frequent
        guess[12] = 0
        prediction_sheet([image], [label], [guess], NAMES[:classes], PALETTE[:classes], tmp_path / "sheet.png")
        picture = np.asarray(Image.open(tmp_path / "sheet.png"))
        assert 0 < _count(picture, FALSE_NEGATIVE) - missed * cell < swatch
        assert 0 < _count(picture, FALSE_POSITIVE) - invented * cell < swatch


@pytest.fixture
def composed(monkeypatch):
    """The arguments from which sheets were composed: panels, headers, captions, legend, heading."""
    calls = []
    compose = segmentation.compose
    monkeypatch.setattr(segmentation, "compose", lambda *given: (calls.append(given), compose(*given))[1])
    return calls


def test_captions_tell_scores_and_what_was_brightened(composed, tmp_path):
    image, label, prediction = _row()
    dark = np.full_like(image, 10)
    dark[0, 0] = 200  # a single bright pixel is a defect
    dark[1] = 40
    options = {"titles": ["first", "night"], "heading": "step 7"}
    # Sky: 8 columns, 12 rows, of which the last 4 are called road; road: 9 columns and these.
    sky, road = 8 * 8 / (12 * 8), 9 * 12 / (9 * 12 + 8 * 4)
    wanted = f"mIoU {(sky + road) / 2:.3f} of 2 classes (IoU: sky {sky:.2f}, road {road:.2f})"
    _draw(tmp_path / "one.png", [(image, label, prediction), (dark, label, prediction)], **options)
    panels, _, captions, _, heading = composed[0]
    assert captions == [f"first: {wanted}", f"night: {wanted}; drawn 6.38 times as bright"]
    assert heading == "step 7" and panels[0][0][20, 20].tolist() == [*INPUT]
    assert (panels[1][0][15, 0] == 255).all() and (panels[1][0][30, 0] == 64).all()  # 10 and 40, times 255 / 40
    pair = {"a": [prediction], "b": [np.where(label == 255, 2, label)]}
    prediction_sheet([image], [label], pair, NAMES, PALETTE, tmp_path / "two.png", titles=["first"])
    assert composed[1][2] == [f"first: mIoU a {(sky + road) / 2:.3f}, b 1.000"]
    void = np.full_like(label, 255)
    prediction_sheet([image], [void], [prediction], NAMES, PALETTE, tmp_path / "void.png", titles=["first"])
    assert composed[2][2] == ["first: nothing to score"]


def test_a_caption_wider_than_the_sheet_is_cut(tmp_path):
    assert _draw(tmp_path / "a.png", [_row()], titles=["x" * 900]).shape == _draw(
        tmp_path / "b.png", [_row()], titles=["x"]
    ).shape  # fmt: skip


def test_columns_stand_side_by_side_and_void_is_striped(tmp_path):
    picture = _draw(tmp_path / "sheet.png", [_row()])
    columns = np.flatnonzero((picture == np.uint8(INPUT)).all(-1).sum(0) > 100)
    assert columns.tolist() == list(range(24, 24 + 255))
    top = np.flatnonzero((picture == np.uint8(INPUT)).all(-1)[:, 24:279].all(1))[0]
    void = picture[top : top + 15, 24 + 255 + 12 : 24 + 2 * 255 + 12]
    assert len(np.unique(void.reshape(-1, 3), axis=0)) == 2
    np.testing.assert_array_equal(picture[top + 20, 24 + 255 + 12 + 5], PALETTE[0])
    np.testing.assert_array_equal(picture[top + 20, 24 + 2 * 255 + 12 - 5], PALETTE[1])
    np.testing.assert_array_equal(picture[top + 13 * 15 - 2, 24 + 3 * (255 + 12) + 5], FALSE_NEGATIVE)
    assert picture[top + 20, 24 + 3 * (255 + 12) + 5].max() < 100  # correct: dim and gray


def test_sheet_grows_with_rows_captions_and_columns(tmp_path):
    one = _draw(tmp_path / "one.png", [_row()])
    two = _draw(tmp_path / "two.png", [_row(), _row(14, 17)])
    assert two.shape[0] - one.shape[0] == 14 * 15 + 12
    assert two.shape[1] == one.shape[1] == 4 * 255 + 3 * 12 + 2 * 24
    assert _draw(tmp_path / "titles.png", [_row()], titles=["one"]).shape[0] > one.shape[0]
    assert _draw(tmp_path / "plain.png", [_row()], errors=False).shape[1] == one.shape[1] - 255 - 12


def test_named_predictions_get_a_column_each(tmp_path):
    image, label, prediction = _row()
    pair = {"without attention": [prediction], "with attention": [np.where(label == 255, 2, label)]}
    for errors, panels in ((False, 4), (True, 6)):
        path = tmp_path / f"{errors}.png"
        prediction_sheet([image], [label], pair, NAMES, PALETTE, path, errors=errors)
        picture = np.asarray(Image.open(path))
        assert picture.shape[1] == panels * 255 + (panels - 1) * 12 + 2 * 24
        assert (_count(picture, FALSE_NEGATIVE) > 0) == errors
        assert _count(picture, PALETTE[2]) > 17 * 225  # tram is in the last column only


def test_large_images_are_reduced_by_a_whole_factor(tmp_path):
    picture = _draw(tmp_path / "large.png", [_row(701, 1399)])
    assert picture.shape[1] == 4 * 466 + 3 * 12 + 2 * 24  # 1399 / 3, rounded
    assert _count(picture, INPUT) >= 466 * 233


def test_an_all_void_truth_can_be_drawn(tmp_path):
    image, label, prediction = _row()
    assert _draw(tmp_path / "void.png", [(image, np.full_like(label, 255), prediction)]).size


def test_sheet_refuses_what_does_not_fit(tmp_path):
    image, label, prediction = _row()
    with pytest.raises(ValueError, match="row 0"):
        prediction_sheet([image], [label[:-1]], [prediction], NAMES, PALETTE, tmp_path / "a.png")
    with pytest.raises(ValueError, match="argument"):
        prediction_sheet([image, image], [label], [prediction], NAMES, PALETTE, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_no_pyplot_and_no_training_libraries():
    code = (
        "import sys, attnseg_jax.plots.segmentation, attnseg_jax.evaluation.tables; "
        "print([m for m in ('matplotlib.pyplot', 'optax', 'orbax', 'tensorflow', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_a_map_is_written_as_its_numbers_and_shows_its_colours(tmp_path):
    labels = np.random.default_rng(0).integers(0, 3, (13, 17))
    write_label_map(labels, PALETTE, tmp_path / "new" / "map.png")
    np.testing.assert_array_equal(read_label_map(tmp_path / "new" / "map.png"), labels)
    with Image.open(tmp_path / "new" / "map.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), PALETTE[labels])


def test_comparison_sheet_has_a_column_for_each_image_and_a_row_for_each_system(tmp_path):
    (image, label, guess), (tall, other, more) = _row(), _row(29, 17)
    predictions = {"one": [guess, more], "two": [np.full_like(guess, 2), np.full_like(more, 2)]}
    path = tmp_path / "sheet.png"
    options = {"titles": ["first", "second"]}
    comparison_sheet([label, other], predictions, NAMES, PALETTE, path, **options)
    plain = np.asarray(Image.open(path))
    cell = 15 * 15
    assert _count(plain, INPUT) == 0
    assert 0 < _count(plain, PALETTE[2]) - (13 + 29) * 17 * cell < 600
    columns = np.flatnonzero((plain == PALETTE[2]).all(-1).sum(0) > 100)
    assert columns.tolist() == [*range(24, 24 + 255), *range(24 + 255 + 12, 24 + 2 * 255 + 12)]
    comparison_sheet([label, other], predictions, NAMES, PALETTE, path, images=[image, tall], **options)
    full = np.asarray(Image.open(path))
    assert 0 <= _count(full, INPUT) - (13 + 29) * 17 * cell < 10
    assert full.shape[1] == plain.shape[1] and full.shape[0] - plain.shape[0] >= 29 * 15
    with pytest.raises(ValueError):
        comparison_sheet([label], predictions, NAMES, PALETTE, path, titles=["first"])


def test_classes_that_overlap_mix_their_colours():
    """One pixel has two classes, one is not known; a class that is missed outweighs one that is invented."""
    truth = np.array([[[1, 1, 0], [255, 255, 255], [0, 0, 0], [0, 1, 0]]], np.uint8)
    guess = np.array([[[1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 0]]], np.uint8)
    drawn = sheet.coloured(truth, PALETTE)[0]
    assert drawn[0].tolist() == [105, 105, 140] and drawn[2].tolist() == list(sheet.NOTHING)
    assert drawn[1].tolist() in sheet.stripes(1, 4)[0].tolist() and drawn[3].tolist() == PALETTE[1].tolist()
    assert sheet.occurring(truth).tolist() == [0, 1, 255]
    image = np.full((1, 4, 3), INPUT, np.uint8)
    errors = segmentation._errors(image, truth, guess, np.arange(2))[0]
    assert errors[2].tolist() == list(FALSE_POSITIVE) and errors[3].tolist() == list(FALSE_NEGATIVE)
    laid = segmentation.laid_over(image, guess, PALETTE, 0.5)[0]
    assert laid[2].tolist() == [55, 75, 140]
    assert segmentation.laid_over(image, truth, PALETTE, 0.5)[0, 2].tolist() == list(INPUT)
    picture = prediction_picture([image], [truth], [guess], NAMES, PALETTE, titles=["t"])
    assert picture.width > 4 * 240
