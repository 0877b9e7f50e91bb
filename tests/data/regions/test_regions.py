"""Region proposals, their numbering and what they allow."""

import sys

import numpy as np
import pytest
from region_oracle import region_oracle

from attnseg_jax.data import regions
from attnseg_jax.errors import UserError

METHODS = ("felzenszwalb", "slic")


@pytest.fixture
def region_config(data_config):
    def make(method, **options):
        config = data_config().regions
        config.method = method
        if options:
            config[method].update(options)
        return config

    return make


def squares():
    """23 x 31 pixels of red with a green and a blue square, one of them in a corner; which is where."""
    where = np.zeros((23, 31), int)
    where[3:10, 5:14] = 1
    where[14:, 20:] = 2
    return np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)[where], where


def noise(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3)).astype(np.uint8)


def same_partition(a, b):
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1).shape[1]
    return pairs == len(np.unique(a)) == len(np.unique(b))


def test_felzenszwalb_finds_what_is_there(region_config):
    image, where = squares()
    found = regions.propose(image, region_config("felzenszwalb", sigma=0.0, scales=(20.0, 50.0)))
    assert found.shape == (23, 31, 2) and found.dtype == np.int32
    assert same_partition(found[..., 0], where) and same_partition(found[..., 1], where)
    # Distinct ids at the two levels although the partitions are the same.
    assert sorted(np.unique(found)) == [0, 1, 2, 3, 4, 5] and found[..., 1].min() == 3


def test_slic_does_not_cross_sharp_borders(region_config):
    image, where = squares()
    found = regions.propose(image, region_config("slic", segments=(12,), compactness=1.0))[..., 0]
    for region in np.unique(found):
        assert len(np.unique(where[found == region])) == 1


@pytest.mark.parametrize("method", METHODS)
def test_levels_are_partitions_of_connected_regions_from_fine_to_coarse(region_config, method):
    from skimage.measure import label

    image = np.kron(noise(5, 7), np.ones((6, 5, 1), np.uint8))[:29, :33]
    found = regions.propose(image, region_config(method))
    fine, coarse = (np.unique(found[..., level]) for level in (0, 1))
    assert len(fine) > len(coarse) >= 2
    np.testing.assert_array_equal([*fine, *coarse], np.arange(len(fine) + len(coarse)))
    for region in (*fine, *coarse):
        assert label((found == region).any(-1), connectivity=2).max() == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1), (2, 3)])
def test_images_of_a_few_pixels(region_config, method, size):
    found = regions.propose(noise(*size), region_config(method))
    assert found.shape == (*size, 2)
    assert sorted(np.unique(found)) == list(range(found.max() + 1))


def test_levels(region_config):
    config = region_config("slic", segments=(40, 20, 5))
    assert regions.levels(config) == 3 and regions.used(config) and not regions.used(region_config("none"))


@pytest.mark.parametrize(
    "method, options, words",
    [
        ("slik", {}, "config.data.regions.method='slik' is unknown: did you mean 'slic'?"),
        ("slic", {"sample": 12}, r"regions.sample=12 must be at most config.data.regions.count=11; 0 takes all"),
        ("slic", {"segments": ()}, r"config.data.regions.slic.segments=\(\) must be integers above 0 from large to"),
        ("slic", {"segments": (20, 40)}, "from large to small"),
        ("slic", {"segments": (20.5,)}, "integers"),
        ("slic", {"segments": (20, 0)}, "above 0"),
        (
            "felzenszwalb",
            {"scales": (300.0, 20.0)},
            "felzenszwalb.scales=.* must be numbers above 0 from small to large",
        ),
        ("felzenszwalb", {"scales": (20.0, 20.0)}, "from small to large"),
        ("felzenszwalb", {"scales": (0.0, 20.0)}, "above 0"),
    ],
)
def test_values_that_cannot_be(region_config, method, options, words):
    config = region_config("slic")
    config.method = method
    for key, value in options.items():
        (config if key in config else config[method])[key] = value
    with pytest.raises(UserError, match=words):
        regions.check(config)


@pytest.mark.parametrize("method", ("none", *METHODS))
def test_values_that_can_be(region_config, method):
    regions.check(region_config(method))


def test_without_scikit_image(region_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    regions.check(region_config("none"))
    with pytest.raises(UserError, match="not installed: pip install scikit-image"):
        regions.check(region_config("slic"))


def numbered_by_loops(found, count):
    """The rule read aloud: of every region its level and its area, coarse before fine, large before small."""
    h, w, levels = found.shape
    keys = {}
    for y in range(h):
        for x in range(w):
            for level in range(levels):
                if (region := int(found[y, x, level])) >= 0:
                    keys[region] = (-level, keys.get(region, (0, 0))[1] - 1)
    order = sorted(keys, key=lambda region: (*keys[region], region))
    new = {region: place for place, region in enumerate(order[:count])}
    out = np.empty_like(found)
    for place in np.ndindex(found.shape):
        out[place] = new.get(int(found[place]), -1)
    return out


@pytest.mark.parametrize("count", [1, 3, 4, 9, 100])
@pytest.mark.parametrize("seed", range(4))
def test_numbering_against_loops(count, seed):
    rng = np.random.default_rng(seed)
    found = np.stack([rng.integers(0, 14, (7, 11)), rng.integers(20, 25, (7, 11)), rng.integers(30, 32, (7, 11))], -1)
    found = np.where(rng.random(found.shape) < 0.2, -1, found).astype(np.int32)
    out = regions.coarse_and_large_first(found, count)
    assert out.dtype == np.int32
    np.testing.assert_array_equal(out, numbered_by_loops(found, count))
    ids = np.unique(out[out >= 0])
    np.testing.assert_array_equal(ids, np.arange(min(count, len(np.unique(found[found >= 0])))))


def test_numbering_keeps_coarse_regions_then_large_ones():
    fine = [[0, 1, 1, 2, 2, 2]]
    coarse = [[3, 3, 3, 3, 3, 4]]
    found = np.stack([fine, coarse], -1).astype(np.int32)
    assert regions.coarse_and_large_first(found, 9)[0].T.tolist() == [[4, 3, 3, 2, 2, 2], [0, 0, 0, 0, 0, 1]]
    assert regions.coarse_and_large_first(found, 3)[0].T.tolist() == [[-1, -1, -1, 2, 2, 2], [0, 0, 0, 0, 0, 1]]
    assert regions.coarse_and_large_first(found, 1)[0].T.tolist() == [[-1] * 6, [0, 0, 0, 0, 0, -1]]
    nothing = np.full((2, 3, 2), -1, np.int32)
    np.testing.assert_array_equal(regions.coarse_and_large_first(nothing, 3), nothing)


def test_a_sample_of_the_regions():
    """Parts of the whole, in its order; each region as often as any other."""
    whole = regions.coarse_and_large_first(np.random.default_rng(3).integers(-1, 9, (6, 7, 2)).astype(np.int32), 99)
    assert whole.min() == -1 and whole.max() == 8
    seen = np.zeros(9)
    for seed in range(300):
        found = regions.sampled(whole, 4, np.random.default_rng(seed))
        assert found.dtype == np.int32 and found.max() == 3
        assert (found[whole < 0] == -1).all()
        drawn = [np.unique(whole[found == new]) for new in range(4)]
        assert all(len(old) == 1 and ((whole == old) == (found == new)).all() for new, old in enumerate(drawn))
        drawn = np.concatenate(drawn)
        assert (np.diff(drawn) > 0).all()
        seen[drawn] += 1
    # Binomial: five standard deviations.
    assert np.abs(seen - 300 * 4 / 9).max() < 5 * np.sqrt(300 * 4 / 9 * 5 / 9)
    for number in (9, 20):
        np.testing.assert_array_equal(regions.sampled(whole, number, np.random.default_rng(0)), whole)
    nothing = np.full((2, 3, 1), -1, np.int32)
    np.testing.assert_array_equal(regions.sampled(nothing, 4, np.random.default_rng(0)), nothing)


def oracle_by_loops(label, found, k):
    h, w = label.shape
    finest = {(y, x): next((int(r) for r in found[y, x] if r >= 0), None) for y in range(h) for x in range(w)}
    out = np.full((h, w), 255)
    for place, region in finest.items():
        votes = [0] * k
        for other, theirs in finest.items():
            if theirs == region and label[other] != 255:
                votes[label[other]] += 1
        if region is not None and max(votes):
            out[place] = votes.index(max(votes))
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.int32])
@pytest.mark.parametrize("seed", range(4))
def test_oracle_against_loops(seed, dtype):
    rng = np.random.default_rng(seed)
    label = np.where(rng.random((6, 9)) < 0.4, 255, rng.integers(0, 5, (6, 9))).astype(dtype)
    found = np.stack([rng.integers(0, 17, (6, 9)), rng.integers(17, 20, (6, 9))], -1)
    found = np.where(rng.random(found.shape) < 0.3, -1, found).astype(np.int32)
    out = region_oracle(label, found, 5)
    assert out.dtype == np.int32
    np.testing.assert_array_equal(out, oracle_by_loops(label, found, 5))


def test_oracle_by_hand():
    #         one region  | lost, in a coarse one | void | without any
    fine = [[0, 0, 0, 1, 1, -1, -1, 2, -1]]
    coarse = [[3, 3, 3, 3, 3, 3, 3, 3, -1]]
    label = [[4, 4, 0, 1, 255, 2, 2, 255, 3]]
    found = np.stack([fine, coarse], -1).astype(np.int32)
    assert region_oracle(np.array(label), found, 5).tolist() == [[4, 4, 4, 1, 1, 2, 2, 255, 255]]
    void = np.full((1, 9), 255, np.uint8)
    np.testing.assert_array_equal(region_oracle(void, found, 5), void)
    nothing = np.full((1, 9, 2), -1, np.int32)
    np.testing.assert_array_equal(region_oracle(np.array(label), nothing, 5), void)


def test_regions_of_one_pixel_allow_everything():
    label = np.random.default_rng(0).integers(0, 5, (6, 9))
    found = np.arange(54, dtype=np.int32).reshape(6, 9, 1)
    np.testing.assert_array_equal(region_oracle(label, found, 5), label)


@pytest.mark.parametrize("seed", range(3))
def test_no_other_labelling_of_the_finest_regions_is_right_more_often(seed):
    rng = np.random.default_rng(seed)
    label, found = rng.integers(0, 3, (5, 7)), rng.integers(0, 4, (5, 7, 1)).astype(np.int32)
    best = (region_oracle(label, found, 3) == label).sum()
    others = [(np.array(classes)[found[..., 0]] == label).sum() for classes in np.ndindex(3, 3, 3, 3)]
    assert best == max(others)
