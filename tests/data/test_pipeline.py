import gc
import threading
import time

import numpy as np
import pytest
from PIL import Image

from attnseg_jax.data.pipeline import eval_batches, train_batches
from attnseg_jax.data.sources import load_source
from attnseg_jax.data.transforms import fields
from attnseg_jax.errors import UserError

SIZES = [(20, 24), (22, 30), (20, 24), (31, 26), (20, 24)]


@pytest.fixture
def source(folder, data_config):
    return load_source(data_config(dir=str(folder(SIZES))), "train")


def take(batches, count):
    found = [next(batches) for _ in range(count)]
    batches.close()
    return found


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key])


def threads_of_grain():
    return [t for t in threading.enumerate() if t.name.startswith("grain")]


def test_training_batches_have_the_agreed_form(source, data_config):
    (batch,) = take(train_batches(source, data_config(), batch_size=3, seed=0), 1)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "image": ((3, 13, 17, 3), "float32"),
        "label": ((3, 13, 17), "int32"),
        "valid": ((3,), "bool"),
    }
    assert batch["valid"].all() and set(np.unique(batch["label"])) <= {*range(7), 255}


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_threads_and_repetition_change_nothing(source, data_config, threads):
    def run(n):
        return take(train_batches(source, data_config(threads=n), batch_size=4, seed=7), 5)

    same(run(2), run(threads))


def test_no_more_threads_than_samples_read_ahead(source, data_config, caplog):
    """grain warns of the others, which have nothing to do."""
    take(train_batches(source, data_config(threads=5), batch_size=1, seed=7), 2)
    assert "num_threads" not in caplog.text


def test_seeds_and_steps_differ(source, data_config):
    a = take(train_batches(source, data_config(), batch_size=4, seed=7), 3)
    b = take(train_batches(source, data_config(), batch_size=4, seed=8), 1)
    assert not np.array_equal(a[0]["image"], b[0]["image"])
    assert not np.array_equal(a[0]["image"], a[1]["image"])


@pytest.mark.parametrize("step", [1, 2, 5])
def test_resuming_continues_exactly(source, data_config, step):
    whole = take(train_batches(source, data_config(), batch_size=4, seed=3), 8)
    same(whole[step:], take(train_batches(source, data_config(), batch_size=4, seed=3, start_step=step), 8 - step))


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_global_batch(source, data_config, count):
    whole = take(train_batches(source, data_config(), batch_size=8, seed=3, start_step=2), 3)
    parts = [
        take(
            train_batches(
                source, data_config(), batch_size=8, seed=3, start_step=2, process_index=p, process_count=count
            ),
            3,
        )
        for p in range(count)
    ]
    for step, batch in enumerate(whole):
        for p in range(count):
            same([{k: v[p::count] for k, v in batch.items()}], [parts[p][step]])


def ids(source, data_config, count, **options):
    """Which image each training row comes from: the first pixel's red tells."""
    config = data_config(
        crop=(31, 30), scale=(1.0, 1.0), flip=0.0, mean=(0, 0, 0), std=(1, 1, 1), max_class_share=1.0,
        brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0,
    )  # fmt: skip
    found = []
    for batch in take(train_batches(source, config, **options), count):
        for image, label in zip(batch["image"], batch["label"]):
            y, x = np.argwhere(label != 255)[0]
            assert image[y, x, 1] == image[y, x, 2] == image[y, x, 0]
            found.append(int(image[y, x, 0]))
    return found


def test_every_epoch_has_every_image_once_in_its_own_order(source, data_config):
    # Batches of 4 over 5 images: epochs do not end with batches.
    order = np.array(ids(source, data_config, 10, batch_size=4, seed=1)).reshape(8, 5)
    assert (np.sort(order, 1) == np.arange(5)).all()
    assert len({tuple(row) for row in order.tolist()}) > 4


def test_a_data_set_smaller_than_the_batch_is_repeated(source, data_config):
    found = ids(source, data_config, 1, batch_size=13, seed=1)
    assert sorted(found[:5]) == sorted(found[5:10]) == [0, 1, 2, 3, 4]


def test_repeated_images_are_augmented_anew(folder, data_config):
    lone = load_source(data_config(dir=str(folder([(20, 24)]))), "train")
    (batch,) = take(train_batches(lone, data_config(), batch_size=6, seed=1), 1)
    assert len({row.tobytes() for row in batch["image"]}) == 6


def test_threads_end_with_the_iterator(source, data_config):
    closed = train_batches(source, data_config(threads=3), batch_size=4, seed=0)
    dropped = train_batches(source, data_config(threads=3), batch_size=4, seed=0)
    next(closed), next(dropped)
    assert threads_of_grain()
    closed.close()
    del dropped
    gc.collect()
    deadline = time.monotonic() + 5
    while threads_of_grain() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads_of_grain()
    list(eval_batches(source, data_config(threads=3), batch_size=2))
    while threads_of_grain() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads_of_grain()


@pytest.mark.parametrize("threads", [0, 2])
def test_errors_come_through_the_threads(folder, save, data_config, threads):
    root = folder(SIZES)
    save(root / "trainannot" / "p003.png", np.full((31, 26), 77, np.uint8))
    bad = load_source(data_config(dir=str(root)), "train")
    config = data_config(threads=threads)
    with pytest.raises(UserError, match=r"p003\.png: the mask holds the value 77"):
        take(train_batches(bad, config, batch_size=5, seed=0), 2)
    with pytest.raises(UserError, match=r"p003\.png: the mask holds the value 77"):
        list(eval_batches(bad, config, batch_size=2))


def test_evaluation_sees_every_image_once_at_full_size(source, data_config):
    batches = list(eval_batches(source, data_config(), batch_size=2))
    assert [b["index"].tolist() for b in batches] == [[0, 2], [4, -1], [1], [3]]
    for batch in batches:
        assert {k: v.dtype.name for k, v in batch.items() if k != "id"} == {
            "image": "float32", "label": "int32", "valid": "bool", "index": "int32",
        }  # fmt: skip
        assert batch["id"].tolist() == [source[i]["id"] if i >= 0 else "" for i in batch["index"].tolist()]
        np.testing.assert_array_equal(batch["valid"], batch["index"] >= 0)
        for row, index in enumerate(batch["index"]):
            if index < 0:
                assert (batch["label"][row] == 255).all() and (batch["image"][row] == 0).all()
                continue
            sample = source[int(index)]
            np.testing.assert_array_equal(batch["label"][row], sample["label"])
            restored = batch["image"][row] * (58.395, 57.12, 57.375) + (123.675, 116.28, 103.53)
            np.testing.assert_allclose(restored, sample["image"], atol=1e-3)


def test_evaluation_pads_to_multiples(source, data_config):
    batches = list(eval_batches(source, data_config(), batch_size=2, multiple=16))
    assert all(size % 16 == 0 for b in batches for size in b["label"].shape[1:])
    assert sorted(i for b in batches for i in b["index"] if i >= 0) == [0, 1, 2, 3, 4]
    for batch in batches:
        for row, index in enumerate(batch["index"]):
            truth = source[int(index)]["label"] if index >= 0 else np.zeros((0, 0))
            h, w = truth.shape
            np.testing.assert_array_equal(batch["label"][row, :h, :w], truth)
            assert (batch["label"][row, h:] == 255).all() and (batch["label"][row, :, w:] == 255).all()
            assert (batch["image"][row, h:] == 0).all() and (batch["image"][row, :, w:] == 0).all()


def test_evaluation_pads_with_mirror_images(source, data_config):
    """As often as it takes: 16 rows of 5 are mirrored about the 5th, the 9th and the 13th."""
    rows = [n for b in eval_batches(source, data_config(), batch_size=2) for n in b["image"] if n.any()]
    multiple = 1 + 3 * max(max(row.shape[:2]) for row in rows)
    batches = eval_batches(source, data_config(), batch_size=2, multiple=multiple, padding="reflect")
    found = {i: b["image"][r] for b in batches for r, i in enumerate(b["index"].tolist()) if i >= 0}
    plain = eval_batches(source, data_config(), batch_size=2)
    for index, image in ((i, b["image"][r]) for b in plain for r, i in enumerate(b["index"].tolist()) if i >= 0):
        y, x = (np.abs((np.arange(multiple) + n - 1) % (2 * n - 2) - (n - 1)) for n in image.shape[:2])
        np.testing.assert_array_equal(found[index], image[y][:, x])
    labels = next(eval_batches(source, data_config(), batch_size=2, multiple=multiple, padding="reflect"))["label"]
    assert (labels[:, -1] == 255).all() and (labels[:, :, -1] == 255).all()


def test_evaluation_resizes_images_to_a_shorter_side(source, data_config):
    """As Pillow does; labels keep their size, and the images that share a batch are alike in both."""
    config = data_config(shorter_side=11)
    batches = list(eval_batches(source, config, batch_size=2, multiple=8))
    for batch in batches:
        assert batch[fields.SIZES].shape == (len(batch["valid"]), 2, 2)
        for row, index in enumerate(batch["index"]):
            if index < 0:
                assert (batch["label"][row] == 255).all() and not batch["image"][row].any()
                continue
            sample = source[int(index)]
            full = np.array(sample["label"].shape)
            inside = np.round(full * 11 / full.min()).astype(int)
            np.testing.assert_array_equal(batch[fields.SIZES][row], [inside, full])
            resized = Image.fromarray(sample["image"]).resize(inside[::-1].tolist(), Image.Resampling.BILINEAR)
            h, w = inside
            restored = batch["image"][row] * (58.395, 57.12, 57.375) + (123.675, 116.28, 103.53)
            np.testing.assert_allclose(restored[:h, :w], resized, atol=1e-3)
            assert not batch["image"][row, h:].any() and not batch["image"][row, :, w:].any()
            h, w = full
            np.testing.assert_array_equal(batch["label"][row, :h, :w], sample["label"])
            assert (batch["label"][row, h:] == 255).all() and (batch["label"][row, :, w:] == 255).all()
            assert batch["image"].shape[1:3] == tuple(-(-n // 8) * 8 for n in inside)
            assert batch["label"].shape[1:] == (256, 256)
    assert sorted(i for b in batches for i in b["index"] if i >= 0) == [0, 1, 2, 3, 4]
    assert fields.SIZES not in next(eval_batches(source, data_config(), batch_size=2))


def test_evaluation_batches_hold_what_is_there(source, data_config):
    """5 images of 3 sizes, 3 of which are alike."""
    batches = list(eval_batches(source, data_config(), batch_size=16))
    assert [b["index"].tolist() for b in batches] == [[0, 2, 4], [1], [3]]
    # All are 32 x 32 pixels of 16 bytes then.
    batches = list(eval_batches(source, data_config(), batch_size=16, multiple=16, max_bytes=2 * 16 * 32 * 32))
    assert [b["index"].tolist() for b in batches] == [[0, 1], [2, 3], [4, -1]]


@pytest.mark.parametrize("count", [2, 4])
def test_evaluation_over_processes(source, data_config, count):
    def rows(batches):
        return {int(i): {k: v[r] for k, v in b.items()} for b in batches for r, i in enumerate(b["index"]) if i >= 0}

    whole = rows(eval_batches(source, data_config(), batch_size=4))
    parts = [
        list(eval_batches(source, data_config(), batch_size=4, process_index=p, process_count=count))
        for p in range(count)
    ]
    # All processes enter the same programs together.
    assert len({tuple(batch["image"].shape for batch in part) for part in parts}) == 1
    found = [rows(part) for part in parts]
    assert sorted(index for part in found for index in part) == sorted(whole)
    for part in found:
        same([whole[index] for index in part], list(part.values()))


def test_crops_are_padded_as_images_are(source, data_config):
    """By what a model needs, at the bottom and right; where crops fit already nothing changes."""
    plain = take(train_batches(source, data_config(), batch_size=4, seed=7), 3)
    wide = take(train_batches(source, data_config(), batch_size=4, seed=7, multiple=8), 3)
    for a, b in zip(plain, wide):
        assert b["image"].shape == (4, 16, 24, 3) and b["label"].shape == (4, 16, 24)
        np.testing.assert_array_equal(b["image"][:, :13, :17], a["image"])
        np.testing.assert_array_equal(b["label"][:, :13, :17], a["label"])
        assert not b["image"][:, 13:].any() and not b["image"][:, :, 17:].any()
        assert (b["label"][:, 13:] == 255).all() and (b["label"][:, :, 17:] == 255).all()
    fitting = {"crop": (16, 24)}
    same(
        take(train_batches(source, data_config(**fitting), batch_size=4, seed=7), 2),
        take(train_batches(source, data_config(**fitting), batch_size=4, seed=7, multiple=8), 2),
    )
