"""What an evaluation keeps and times: samples, the worst images, seconds."""

import numpy as np
import pytest

from attnseg_jax.evaluation.counts import Counter
from attnseg_jax.train.evaluation import Extreme, Pace, sample_indices


@pytest.mark.parametrize("length, samples, wanted", [(5, 2, [0, 4]), (3, 7, [0, 1, 2]), (1, 4, [0]), (9, 0, [])])
def test_sample_indices(length, samples, wanted):
    assert sample_indices(length, samples) == wanted


def test_the_worst_images_are_kept():
    """By mIoU, over all batches; neither padding nor an image without labels is one."""
    sizes = [(4, 5), (4, 5), (3, 5), (4, 5), (4, 5)]
    truth = np.full((5, 4, 5), 255)
    for index, (h, w) in enumerate(sizes[:4]):
        truth[index, :h, :w] = 0
        truth[index, :h, :2] = 1
    guess = np.where(truth == 255, 0, truth)
    wrong = {0: 2, 1: 4, 2: 4, 3: 0, 4: 5}  # pixels of class 1 that are overlooked
    for index, count in wrong.items():
        rows = guess[index, : sizes[index][0], :2]
        guess[index, : sizes[index][0], :2] = np.where(np.arange(rows.size).reshape(rows.shape) < count, 0, rows)
    counter = Counter(5, 2, sizes.__getitem__)
    worst, none = (Extreme(number, counter, sizes.__getitem__) for number in (2, 0))
    for rows in ([3, 0], [1, 2], [4, -1]):
        batch = {"index": np.array(rows), "label": truth[rows]}
        for part in (counter, worst, none):
            part(batch, guess[rows])
    # mIoU of image 2: (2 / 6 + 9 / 13) / 2, of image 1: (4 / 8 + 12 / 16) / 2, of image 0: (6 / 8 + 12 / 14) / 2.
    assert list(worst.predictions()) == [2, 1]
    np.testing.assert_array_equal(worst.predictions()[2], guess[2, :3])
    assert none.predictions() == {}


def test_pace():
    now = iter([100.0, 101.0, 104.0])
    pace = Pace(lambda: next(now))
    assert np.isnan(pace.image_seconds)
    for valid in ([True] * 4, [True] * 4, [True, True, False, False]):
        pace({"valid": np.array(valid)}, None)
    assert pace.image_seconds == 4 / 6
