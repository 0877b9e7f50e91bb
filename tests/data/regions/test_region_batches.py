"""Region maps in training and evaluation batches."""

import itertools

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data import regions
from attnseg_jax.data.pipeline import eval_batches, evaluation_sample, train_batches
from attnseg_jax.data.sources import load_source
from attnseg_jax.data.transforms import augment
from attnseg_jax.errors import UserError

SIZES = [(20, 24), (22, 30), (20, 24), (31, 26), (20, 24)]


@pytest.fixture
def config(data_config, folder, tmp_path, save):
    """Pictures of blocks, so that there are regions."""
    root = folder(SIZES)
    rng = np.random.default_rng(5)
    for i, (h, w) in enumerate(SIZES):
        blocks = rng.integers(0, 256, (6, 5, 3)).astype(np.uint8)
        save(root / "train" / f"p{i:03d}.png", np.kron(blocks, np.ones((6, 7, 1), np.uint8))[:h, :w])
    config = data_config(dir=str(root))
    config.regions.update(method="felzenszwalb", cache=str(tmp_path / "cache"))
    return config


def without(config):
    other = config.copy_and_resolve_references()
    other.regions.method = "none"
    return other


def train(config, count=3, **options):
    batches = train_batches(load_source(config, "train"), config, batch_size=4, seed=7, **options)
    found = list(itertools.islice(batches, count))
    batches.close()
    return found


def evaluate(config, **options):
    return list(eval_batches(load_source(config, "train"), config, batch_size=2, **options))


@pytest.mark.parametrize("batches", [train, evaluate])
def test_nothing_else_changes(config, batches):
    found, plain = batches(config), batches(without(config))
    assert len(found) == len(plain)
    for a, b in zip(found, plain):
        assert set(a) - set(b) == {"regions"} and not set(b) - set(a)
        assert a["regions"].shape == (*a["label"].shape, 2) and a["regions"].dtype == np.int32
        for key in b:
            np.testing.assert_array_equal(a[key], b[key])


def test_ids_are_dense_and_of_one_level(config):
    config.regions.count = 5
    seen = set()
    for batch in train(config, 6):
        for found in batch["regions"]:
            ids = [set(np.unique(found[..., level]).tolist()) - {-1} for level in (0, 1)]
            assert not ids[0] & ids[1] and ids[1]
            assert ids[0] | ids[1] == set(range(len(ids[0] | ids[1])))
            seen.add(len(ids[0] | ids[1]))
    assert max(seen) == 5


def test_samples_of_the_regions(config):
    """Images stay; pixels of no region that was drawn lose their label; evaluation shows all."""
    full = train(config, 4)
    config.regions.sample = 3
    parts = train(config, 4)
    lost = 0
    for a, b in zip(full, parts, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
        shown = b["regions"] >= 0
        assert (a["regions"][shown] >= 0).all() and b["regions"].max() == 2
        np.testing.assert_array_equal(b["label"], np.where(shown.any(-1), a["label"], 255))
        lost += (a["label"] != b["label"]).sum()
        for whole_one, part in zip(a["regions"], b["regions"]):
            for new in np.unique(part[part >= 0]):
                (old,) = np.unique(whole_one[part == new])
                np.testing.assert_array_equal(whole_one == old, part == new)
    assert lost > 100
    assert any((a["regions"] != b["regions"]).any() for a, b in itertools.pairwise(parts))
    shown = evaluate(config)
    config.regions.sample = 0
    for a, b in zip(evaluate(config), shown, strict=True):
        np.testing.assert_array_equal(a["regions"], b["regions"])


@pytest.mark.parametrize("sample", [0, 4])
def test_threads_processes_and_resumes_change_nothing(config, sample):
    def same(a, b):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x["regions"], y["regions"])

    config.regions.sample = sample
    first = train(config, 4)
    config.threads = 4
    same(train(config, 4), first)
    config.threads = 0
    same(train(config, 3, start_step=1), first[1:])
    for p in (0, 1):
        part = train(config, 2, process_index=p, process_count=2)
        same(part, [{"regions": batch["regions"][p::2]} for batch in first[:2]])


def test_regions_follow_the_label(config):
    """The label's pixels are regions of their own: whatever geometry does, the two agree."""
    image = np.random.default_rng(1).integers(0, 256, (31, 45, 3)).astype(np.uint8)
    label = np.kron(np.arange(35).reshape(5, 7), np.ones((7, 7), int))[:31, :45].astype(np.uint8)
    found = np.stack([label, 35 + label // 7], -1).astype(np.int32)
    config.update(crop=(26, 37), scale=(0.4, 1.6), max_class_share=1.0)
    config.regions.count = 99
    padded = 0
    for seed in range(30):
        out = augment({"image": image, "label": label, "regions": found}, np.random.default_rng(seed), config)
        inside = out["label"] != 255
        np.testing.assert_array_equal(out["regions"] >= 0, np.stack([inside, inside], -1))
        padded += not inside.all()
        for level, truth in enumerate((out["label"], out["label"] // 7)):
            pairs = np.unique(np.stack([truth[inside], out["regions"][inside][:, level]]), axis=1)
            assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))
        assert np.unique(out["regions"]).max() + 1 == len(np.unique(out["regions"][inside]))
    assert 5 < padded < 30


class Single(list):
    """A source of one sample."""

    def __init__(self, sample, info):
        super().__init__([sample])
        self.info = info


def test_maps_are_those_of_the_image_before_its_colours_change(config):
    source = load_source(config, "train")
    sample = source[3]
    config.update(crop=(31, 26), scale=(1.0, 1.0), flip=1.0)
    config.regions.count = 99
    batch = next(itertools.islice(train_batches(Single(sample, source.info), config, batch_size=2, seed=1), 1))
    wanted = regions.coarse_and_large_first(regions.propose(sample["image"], config.regions), 99)[:, ::-1]
    for found in batch["regions"]:
        np.testing.assert_array_equal(found, wanted)


def test_evaluation_pads_with_no_region(config):
    config.regions.count = 6
    batches = evaluate(config, multiple=16)
    source, rows = load_source(config, "train"), 0
    for batch in batches:
        for index, found in zip(batch["index"], batch["regions"]):
            if index < 0:
                assert (found == -1).all()
                continue
            rows += 1
            h, w = source.size(int(index))
            assert (found[h:] == -1).all() and (found[:, w:] == -1).all()
            wanted = regions.coarse_and_large_first(regions.propose(source[int(index)]["image"], config.regions), 6)
            np.testing.assert_array_equal(found[:h, :w], wanted)
    assert rows == 5 and any((batch["index"] < 0).any() for batch in batches)


def test_one_sample_as_evaluation_sees_it(config):
    sample = load_source(config, "train")[1]
    row = evaluation_sample(sample, config)
    batch = next(batch for batch in evaluate(config) if 1 in batch["index"])
    place = batch["index"].tolist().index(1)
    assert set(row) == {"image", "label", "regions"}
    for key, value in row.items():
        np.testing.assert_array_equal(value, batch[key][place])
    assert set(evaluation_sample(sample, without(config))) == {"image", "label"}


def test_regions_of_resized_images(config):
    config.resolution = 0.5
    sample = load_source(config, "train")[1]
    assert sample["image"].shape == (11, 15, 3)
    wanted = regions.coarse_and_large_first(regions.propose(sample["image"], config.regions), config.regions.count)
    np.testing.assert_array_equal(evaluation_sample(sample, config)["regions"], wanted)


def test_errors_of_the_cache_come_through_the_threads(config, tmp_path):
    (tmp_path / "file").write_text("")
    config.regions.cache = str(tmp_path / "file")
    with pytest.raises(UserError, match="region maps cannot be kept here"):
        train(config)
    with pytest.raises(UserError, match="region maps cannot be kept here"):
        evaluate(config)


@pytest.mark.parametrize("factor", [0.5, 0.3, 1.7])
def test_resized_sources(config, factor):
    plain = load_source(config, "train")
    config.resolution = factor
    resized = load_source(config, "train")
    assert len(resized) == len(plain) and resized.info.class_names == plain.info.class_names
    for i, (h, w) in enumerate(SIZES):
        size = round(h * factor), round(w * factor)
        sample, whole_one = resized[i], plain[i]
        assert sample["id"] == whole_one["id"] and resized.size(i) == size == sample["label"].shape
        assert sample["image"].shape == (*size, 3) and sample["image"].dtype == sample["label"].dtype == np.uint8
        # Nearest: the label at the pixel's centre, where that is not on a border.
        centres = [(np.arange(n) + 0.5) * full / n for n, full in zip(size, (h, w))]
        wanted = whole_one["label"][np.ix_(*(centre.astype(int) for centre in centres))]
        clear = np.logical_and.outer(*(centre % 1 > 0 for centre in centres))
        np.testing.assert_array_equal(sample["label"][clear], wanted[clear])
        wanted = Image.fromarray(whole_one["image"]).resize(size[::-1], Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(sample["image"], wanted)
    batch = evaluate(config)[0]
    assert batch["image"].shape[1:3] == resized.size(int(batch["index"][0]))


def test_one_image_halved_by_hand(data_config, tmp_path, save):
    """Antialiased: every weight of the triangle, not the two nearest pixels."""
    image = np.zeros((5, 7, 3), np.uint8)
    image[2, 3] = 255
    save(tmp_path / "train" / "a.png", image)
    save(tmp_path / "trainannot" / "a.png", np.arange(35, dtype=np.uint8).reshape(5, 7) % 7)
    source = load_source(data_config(dir=str(tmp_path), resolution=0.5), "train")
    # round(2.5) is 2, round(3.5) is 4.
    assert source.size(0) == (2, 4)

    def weights(n, full):
        step = full / n
        rows = []
        for i in range(n):
            row = [max(0.0, 1 - abs((j + 0.5 - (i + 0.5) * step) / step)) for j in range(full)]
            rows.append([v / sum(row) for v in row])
        return np.array(rows)

    wanted = weights(2, 5) @ image[..., 0] @ weights(4, 7).T
    np.testing.assert_allclose(source[0]["image"][..., 1], wanted, atol=1.01)
    np.testing.assert_array_equal(source[0]["label"][:, 0], [1 * 7 % 7, 3 * 7 % 7])


def test_full_resolution_is_the_source_itself(config):
    assert type(load_source(config, "train")).__name__ == "FolderSource"
