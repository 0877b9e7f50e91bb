"""Region maps on disk."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from attnseg_jax.data import regions
from attnseg_jax.data.regions import cache, methods
from attnseg_jax.errors import UserError

IMAGE = np.random.default_rng(0).integers(0, 256, (13, 19, 3)).astype(np.uint8)


@pytest.fixture
def config(data_config, tmp_path):
    config = data_config().regions
    config.update(method="felzenszwalb", cache=str(tmp_path / "deep" / "cache"))
    return config


@pytest.fixture
def proposals(monkeypatch):
    """The images that were not found in the cache."""
    seen, propose = [], methods.propose

    def counted(image, config):
        seen.append(image)
        return propose(image, config)

    monkeypatch.setattr(methods, "propose", counted)
    return seen


def files(config):
    return sorted(cache.folder(config.cache).iterdir())


def test_the_second_time_it_is_read(config, proposals):
    first, second = regions.cached(IMAGE, config), regions.cached(IMAGE.copy(), config)
    assert len(proposals) == 1 and len(files(config)) == 1
    assert first.dtype == second.dtype == np.int32 and first.shape == (13, 19, 2)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, regions.propose(IMAGE, config))
    second[:] = 0  # what is read can be written to


def test_what_changes_the_map_changes_the_file(config, proposals, monkeypatch):
    def count():
        regions.cached(IMAGE, config)
        return len(files(config))

    assert count() == 1
    config.count, config.slic.compactness = 3, 0.5  # of no account
    assert count() == 1
    config.felzenszwalb.min_size = 5
    assert count() == 2
    config.felzenszwalb.scales = (10.0, 20.0, 300.0)
    assert count() == 3 and regions.cached(IMAGE, config).shape == (13, 19, 3)
    config.method = "slic"
    assert count() == 4
    monkeypatch.setattr("skimage.__version__", "99.1")
    assert count() == 5
    other = IMAGE.copy()
    other[7, 5, 2] ^= 1
    regions.cached(other, config)
    # The same bytes in another shape.
    regions.cached(IMAGE.reshape(19, 13, 3), config)
    assert len(files(config)) == 7 == len(proposals)
    regions.cached(IMAGE[::-1], config)
    assert len(files(config)) == 8


@pytest.mark.parametrize("damage", ["empty", "short", "cut", "bit", "other"])
def test_a_damaged_file_is_made_anew(config, proposals, damage):
    wanted = regions.cached(IMAGE, config)
    (path,) = files(config)
    data = path.read_bytes()
    bit = bytearray(data)
    bit[len(bit) // 2] ^= 4
    damaged = {"empty": b"", "short": data[:20], "cut": data[:-3], "bit": bytes(bit)}
    if damage == "other":
        cache.write(path, wanted[:5])
    else:
        path.write_bytes(damaged[damage])
    np.testing.assert_array_equal(regions.cached(IMAGE, config), wanted)
    assert len(proposals) == 2 and path.read_bytes() == data


def test_threads_may_race(config, proposals):
    barrier = threading.Barrier(8)

    def get(i):
        barrier.wait()
        return [regions.cached(np.roll(IMAGE, j, 0), config) for j in (0, i % 3)]

    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(get, range(8)))
    for i, maps in enumerate(found):
        for j, out in zip((0, i % 3), maps):
            np.testing.assert_array_equal(out, regions.propose(np.roll(IMAGE, j, 0), config))
    assert len(files(config)) == 3 and all(path.suffix == ".regions" for path in files(config))


def test_a_folder_that_cannot_be_written(config, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file", tmp_path / "file" / "inside"):
        config.cache = str(place)
        with pytest.raises(
            UserError, match=r"region maps cannot be kept here \(.*config\.data\.regions\.cache"
        ) as error:
            regions.cached(IMAGE, config)
        assert str(error.value).startswith(f"{place}: ") and "\n" not in str(error.value)
        with pytest.raises(UserError, match="cannot be kept here"):
            cache.check(str(place))
    with pytest.raises(UserError, match=r"config\.data\.regions\.cache=~nobody-like-that/x: .*home directory"):
        cache.check("~nobody-like-that/x")
    cache.check(str(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []


def test_a_failed_write_leaves_nothing(config, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="No space left on device"):
        regions.cached(IMAGE, config)
    assert files(config) == []


def test_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder("") == tmp_path / ".cache" / "attnseg_jax" / "regions"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache.folder("") == tmp_path / ".cache" / "attnseg_jax" / "regions"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.folder("") == tmp_path / "x" / "attnseg_jax" / "regions"
    assert cache.folder("~/here") == tmp_path / "here"
