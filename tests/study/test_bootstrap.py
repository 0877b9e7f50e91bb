"""The paired bootstrap and Welch's t: by hand, against a loop over drawn images, and where the answer is known."""

import math

import numpy as np
import pytest
from scipy import stats

from attnseg_jax.study import bootstrap

N, K = 7, 4


def system(seed, truth=None, right=0.5):
    """Counts [N, K, 3] of a system that finds that share of the pixels."""
    rng = np.random.default_rng(seed)
    truth = np.random.default_rng(99).integers(0, 50, (N, K)) if truth is None else truth
    hits = rng.binomial(truth, right)
    return np.stack([hits, rng.integers(0, 9, (N, K)), truth - hits], -1)


def test_against_a_loop():
    """The same draws, one image after another, mIoU over the classes that occur."""
    systems = {"a": [system(1), system(2)], "b": [system(3, right=0.45)]}
    found = bootstrap.compare(systems, resamples=60, seed=5)
    draws = np.random.default_rng(5).multinomial(N, np.full(N, 1 / N), 60)

    def score(seeds, times):
        means = []
        for counts in seeds:
            ious = []
            for k in range(K):
                tp, fp, fn = (sum(int(times[i]) * int(counts[i, k, j]) for i in range(N)) for j in range(3))
                if tp + fp + fn:
                    ious.append(tp / (tp + fp + fn))
            means.append(sum(ious) / len(ious))
        return sum(means) / len(means)

    differences = [score(systems["a"], times) - score(systems["b"], times) for times in draws]
    pair = found["a", "b"]
    assert pair.difference == pytest.approx(score(systems["a"], [1] * N) - score(systems["b"], [1] * N), rel=1e-12)
    images = pair.images
    assert (images.low, images.high) == pytest.approx(tuple(np.quantile(differences, (0.025, 0.975))), rel=1e-9)
    assert images.confidence == sum(d > 0 for d in differences) / 60
    other = found["b", "a"]
    assert other.difference == -pair.difference and other.images.confidence == pytest.approx(1 - images.confidence)
    assert (other.images.low, other.images.high) == pytest.approx((-images.high, -images.low))
    # B has one seed.
    assert pair.seeds is None and other.seeds is None
    assert found.keys() == {("a", "b"), ("b", "a")}


def test_two_images_by_hand():
    """A is right in the first image, B in the second, of 10 pixels each: of splits, a quarter each favours one."""
    right, wrong = [10, 0, 0], [0, 0, 10]
    a, b = np.array([[right], [wrong]]), np.array([[wrong], [right]])
    pair = bootstrap.compare({"a": [a], "b": [b]}, resamples=20_000)["a", "b"]
    assert pair.difference == 0 and (pair.images.low, pair.images.high) == (-1, 1)
    # 1/4 + 1/2 * 1/2, and four standard deviations of that mean.
    assert pair.images.confidence == pytest.approx(0.5, abs=4 * math.sqrt(0.125 / 20_000))


def test_the_confidence_of_one_image_among_many():
    """A beats B in one of N images and equals it elsewhere: better exactly where that image is drawn."""
    counts = system(1)
    better = counts.copy()
    better[2, :, 0] += better[2, :, 2]
    better[2, :, 2] = 0
    pair = bootstrap.compare({"a": [better], "b": [counts]})["a", "b"]
    drawn = 1 - (1 - 1 / N) ** N
    assert pair.images.confidence == pytest.approx(drawn + (1 - drawn) / 2, abs=0.01)
    assert pair.images.low == 0 < pair.images.high


def test_the_interval_is_that_of_the_normal_distribution():
    """One class, many images of which all pixels are right or wrong: differences are means of n values."""
    rng, n = np.random.default_rng(0), 400
    correct = rng.random((2, n)) < [[0.7], [0.5]]
    a, b = (np.stack([100 * c, 0 * c, 100 * ~c], -1)[:, None] for c in correct)
    pair = bootstrap.compare({"a": [a], "b": [b]})["a", "b"]
    values = correct[0].astype(float) - correct[1]
    assert pair.difference == pytest.approx(values.mean())
    half = 1.96 * values.std() / math.sqrt(n)
    assert (pair.images.low, pair.images.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.006)
    assert pair.images.confidence > 0.999


def right(hits, of=100):
    """One seed, one class: so many pixels are right in each image."""
    hits = np.atleast_1d(hits)
    return np.stack([hits, 0 * hits, of - hits], -1)[:, None]


def test_seeds_on_one_image_are_welchs_test():
    """The image is in every draw: only the seeds are chance."""
    a, b = [80, 60], [70, 50, 61]
    pair = bootstrap.compare({"a": [right(h) for h in a], "b": [right(h) for h in b]}, resamples=50)["a", "b"]
    assert (pair.images.low, pair.images.high) == pytest.approx((0.7 - 181 / 300,) * 2) and pair.images.confidence == 1
    wanted = stats.ttest_ind(np.array(a) / 100, np.array(b) / 100, equal_var=False, alternative="greater")
    assert pair.seeds.confidence == pytest.approx(1 - wanted.pvalue)
    both = stats.ttest_ind(np.array(a) / 100, np.array(b) / 100, equal_var=False).confidence_interval()
    assert (pair.seeds.low, pair.seeds.high) == pytest.approx((both.low, both.high))


def test_seeds_that_are_all_alike_leave_the_images():
    rng = np.random.default_rng(2)
    a, b = (right(rng.binomial(100, p, 300)) for p in (0.505, 0.5))
    pair = bootstrap.compare({"a": [a, a], "b": [b, b, b]})["a", "b"]
    assert 0.7 < pair.images.confidence < 0.999
    assert pair.seeds.confidence == pytest.approx(pair.images.confidence, abs=0.01)
    assert (pair.seeds.low, pair.seeds.high) == pytest.approx((pair.images.low, pair.images.high), abs=3e-4)
    same = bootstrap.compare({"a": [right(50)] * 2, "b": [right(50)] * 2, "c": [right(40)] * 2}, resamples=9)
    assert same["a", "b"].seeds == bootstrap.Interval(0.0, 0.0, 0.5)
    assert same["a", "c"].seeds.confidence == 1 and same["c", "a"].seeds.confidence == 0


def test_how_often_the_intervals_hold_the_truth():
    """Images and seeds of equal systems are drawn 400 times; three seeds, which part unequally in the two systems."""
    rng = np.random.default_rng(11)
    held = {"images": 0, "seeds": 0}
    for _ in range(400):
        hard = rng.normal(0, 0.1, 30)

        def seeds(spread, hard=hard):
            shares = 0.5 + hard + rng.normal(0, spread, (3, 1)) + rng.normal(0, 0.02, (3, 30))
            return [right(np.round(1000 * share).astype(int), of=1000) for share in shares]

        pair = bootstrap.compare({"a": seeds(0.02), "b": seeds(0.01)}, resamples=200)["a", "b"]
        for name in held:
            spread = getattr(pair, name)
            held[name] += spread.low <= 0 <= spread.high
    assert held["images"] < 0.6 * 400
    # Five standard deviations below 95 %; a few seeds make Welch's interval rather too wide.
    assert 0.95 - 5 * math.sqrt(0.95 * 0.05 / 400) < held["seeds"] / 400 < 0.99


def test_other_systems_change_nothing():
    two = {"a": [system(1), system(2)], "b": [system(3), system(4)]}
    pair = bootstrap.compare(two, resamples=40)["a", "b"]
    assert bootstrap.compare({"c": [system(5)], **two}, resamples=40)["a", "b"] == pair


def test_identical_systems_and_repeated_calls():
    counts = system(1)
    for pair in bootstrap.compare({"a": [counts], "b": [counts, counts]}, resamples=700).values():
        assert pair.difference == pytest.approx(0, abs=1e-15) and pair.images.low <= 0 <= pair.images.high
    pair = bootstrap.compare({"a": [counts], "b": [counts.copy()]})["a", "b"]
    assert pair == bootstrap.Comparison(0.0, bootstrap.Interval(0.0, 0.0, 0.5), None)
    systems = {"a": [counts], "b": [system(2)]}
    assert bootstrap.compare(systems, resamples=600) == bootstrap.compare(systems, resamples=600)


def test_a_class_that_is_nowhere_counts_nowhere():
    counts, other = system(1), system(2)
    counts[:, 3] = other[:, 3] = 0
    full = bootstrap.compare({"a": [counts], "b": [other]}, resamples=50)
    assert full == bootstrap.compare({"a": [counts[:, :3]], "b": [other[:, :3]]}, resamples=50)


@pytest.mark.parametrize("other", [system(2)[:-1], system(2)[:, :-1], system(2)[::-1]])
def test_systems_on_other_images(other):
    with pytest.raises(ValueError, match="'b' was counted on other images than 'a'"):
        bootstrap.compare({"a": [system(1)], "b": [other]})


def test_nothing_and_one():
    assert bootstrap.compare({}) == {} == bootstrap.compare({"a": [system(1)]})
