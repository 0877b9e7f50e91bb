"""Counts of images: collected from padded batches, summed to the split's scores, written and read."""

import dataclasses
import json

import numpy as np
import pytest

from attnseg_jax.evaluation.boundary_iou import count_image
from attnseg_jax.evaluation.counts import Counter, ImageCounts, iou
from attnseg_jax.evaluation.scores import Scores
from attnseg_jax.evaluation.tables import table, to_json
from attnseg_jax.ops import metrics

K, SIZES = 3, [(9, 11), (9, 11), (7, 11), (9, 10), (9, 11)]


@pytest.fixture(scope="module")
def images():
    """Truth and prediction of five images, of three sizes."""
    rng = np.random.default_rng(0)
    truths = [rng.choice([0, 1, 2, 255], size) for size in SIZES]
    return [(truth, np.where(rng.random(truth.shape) < 0.5, truth % 3, rng.integers(0, 3, truth.shape)))
            for truth in truths]  # fmt: skip


def batches(images):
    """Batches of two, all padded to 9 x 11, the last one with a row that is no image; out of order."""
    for rows in ([3, 0], [2, 4], [1, -1]):
        label, guess = np.full((2, 9, 11), 255, np.int32), np.zeros((2, 9, 11), np.uint8)
        for row, index in enumerate(rows):
            truth, prediction = images[index]
            label[row, : truth.shape[0], : truth.shape[1]] = truth if index >= 0 else 255
            guess[row, : truth.shape[0], : truth.shape[1]] = prediction
        yield {"label": label, "index": np.array(rows), "valid": np.array(rows) >= 0}, guess


@pytest.fixture(scope="module")
def counts(images):
    counter = Counter(5, K, lambda index: SIZES[index])
    for batch, guess in batches(images):
        counter(batch, guess)
    return counter.result()


def test_every_image_is_counted_without_its_padding(images, counts):
    for index, (truth, prediction) in enumerate(images):
        region, near = count_image(truth, prediction, K)
        np.testing.assert_array_equal(counts.everywhere[index], region)
        np.testing.assert_array_equal(counts.near_contours[index], near)


def test_sums_give_the_scores_of_the_split(images, counts):
    confusion = np.zeros((K, K), int)
    for truth, prediction in images:
        np.add.at(confusion, (truth[truth < 255], prediction[truth < 255]), 1)
    np.testing.assert_allclose(counts.iou, metrics.scores(confusion)["iou"], rtol=1e-12)
    near = sum(count_image(*image, K)[1] for image in images)
    np.testing.assert_allclose(counts.boundary_iou, near[:, 0] / near.sum(1), rtol=1e-12)


def test_counts_of_several_processes(images):
    parts = []
    for rows in ([0], [1, 2]):
        counter = Counter(5, K, lambda index: SIZES[index])
        for number, batch in enumerate(batches(images)):
            if number in rows:
                counter(*batch)
        counter.result(lambda counts: parts.append(counts) or counts)
    whole = Counter(5, K, lambda index: SIZES[index])
    for batch in batches(images):
        whole(*batch)
    np.testing.assert_array_equal(whole.result(lambda _: sum(parts)).near_contours, whole.result().near_contours)


def test_classes_by_themselves_are_counted_like_those_that_exclude_one_another(images, counts):
    """Each pixel has one of them here, so that hits, false alarms and misses of every class are the same."""
    counter = Counter(5, K, lambda index: SIZES[index])
    for batch, guess in batches(images):
        label = np.where(batch["label"][..., None] == 255, 255, batch["label"][..., None] == np.arange(K))
        counter({**batch, "label": label}, (guess[..., None] == np.arange(K)).astype(np.uint8))
    found = counter.result()
    np.testing.assert_array_equal(found.everywhere, counts.everywhere)
    truth, prediction = ((image == 1).astype(int) for image in images[2])
    truth = np.where(images[2][0] == 255, 255, truth)
    np.testing.assert_array_equal(found.near_contours[2, 1], count_image(truth, prediction, 2)[1, 1])


def test_written_and_read(counts):
    read = ImageCounts.decode(json.loads(json.dumps(counts.encode())))
    np.testing.assert_array_equal(read.everywhere, counts.everywhere)
    np.testing.assert_array_equal(read.near_contours, counts.near_contours)
    assert read.everywhere.dtype == np.int64


def test_the_record_of_a_camvid_run_is_small():
    """101 images, 11 classes, numbers up to the pixels of 180 x 240 and half of the classes in an image."""
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 180 * 240 // 5, (2, 101, 11, 3)) * (rng.random((101, 11, 1)) < 0.5)
    assert len(json.dumps(ImageCounts(*numbers).encode())) < 20_000


def test_iou_of_absent_classes():
    np.testing.assert_array_equal(iou(np.array([[[0, 0, 0], [0, 2, 0]], [[1, 2, 1], [5, 0, 0]]])),
                                  [[np.nan, 0.0], [0.25, 1.0]])  # fmt: skip


def test_the_reports_of_counted_scores():
    near = np.array([[[3, 1, 0], [1, 0, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 0]]])
    scores = Scores.from_confusion(np.array([[4, 2, 0], [0, 3, 0], [0, 0, 0]]))
    counted = dataclasses.replace(scores, images=ImageCounts(near, near))
    np.testing.assert_allclose(counted.boundary_iou, [0.75, 0.5, np.nan])
    assert counted.boundary_miou == 0.625 and np.isnan(scores.boundary_miou)
    lines = table(counted, ("sky", "road", "tram")).splitlines()
    assert [line.split()[-1] for line in lines[:4]] == ["boundary", "0.7500", "0.5000", "absent"]
    assert lines[-2].split() == ["boundary", "mIoU", "0.6250"] and len(lines[0]) == len(lines[1])
    assert lines[-1] == "mIoU of 2 of 3 classes: tram is absent"
    values = json.loads(to_json("val", 1, counted, ("sky", "road", "tram")))
    assert values["boundary_miou"] == 0.625
    assert values["boundary_iou"] == {"sky": 0.75, "road": 0.5, "tram": None}
