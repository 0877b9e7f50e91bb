"""Images that look alike, and what the doctor proposes for rare classes."""

import numpy as np
from PIL import Image

from attnseg_jax.data.doctor import examine
from attnseg_jax.data.doctor.near import look_of


def scene(seed, size=(120, 90)):
    """Smooth blobs, as photographs have them."""
    rough = np.random.default_rng(seed).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    return Image.fromarray(rough).resize(size, Image.Resampling.BICUBIC)


def test_what_hardly_changes_a_picture_hardly_changes_its_look(tmp_path):
    for seed in range(20):
        image = scene(seed)
        image.save(tmp_path / "a.jpg", quality=60)
        darker = Image.fromarray((np.asarray(image) * 0.7 + 9).astype(np.uint8))
        for other in (Image.open(tmp_path / "a.jpg"), image.resize((240, 181)), darker):
            assert (look_of(image) ^ look_of(other)).bit_count() <= 3
        assert (look_of(image) ^ look_of(scene(seed + 100))).bit_count() > 10
    assert look_of(Image.new("RGB", (50, 40), (9, 9, 9))) is None


def test_images_that_look_alike_are_named(tmp_path, save):
    mask = np.zeros((90, 120), np.uint8)
    mask[5:20, 5:20] = 1
    for split, seeds in (("train", (0, 1, 2, 3, 4)), ("val", (5, 6, 2, 7))):
        for i, seed in enumerate(seeds):
            (tmp_path / f"images/{split}").mkdir(parents=True, exist_ok=True)
            # Image 2 of both is one scene, saved twice; image 3 of training is image 1 of it.
            scene(1 if (split, i) == ("train", 3) else seed).save(
                tmp_path / f"images/{split}/{i}.jpg", quality=95 if split == "train" and i != 3 else 70
            )
            save(tmp_path / f"masks/{split}/{i}.png", mask)
    plan = examine.make_plan(tmp_path)
    found = {finding.text: finding.files for finding in examine.examine(plan, threads=2).findings}
    assert found["1 image nearly equal to one of another split: validation then sees what was trained on"] == (
        "images/val/2.jpg ~ images/train/2.jpg",
    )
    assert found["1 image nearly equal to one of the same split"] == ("images/train/3.jpg ~ images/train/1.jpg",)
    without = examine.examine(plan, threads=2, near_duplicates=False)
    assert not any("nearly" in finding.text for finding in without.findings)


def decided(root):
    return {decision.key: decision.value for decision in examine.examine(examine.make_plan(root), threads=2).decisions}


def test_sparse_foreground_of_large_images_is_to_be_sought(tmp_path, save):
    """80 x 100 of 800 x 1200 pixels are 0.83 %; in images that a crop shows whole nothing is to be sought."""
    for size, expected in (((800, 1200), 0.5), ((200, 300), None)):
        root = tmp_path / str(size[0])
        for i in range(3):
            mask = np.zeros(size, np.uint8)
            mask[50 : 50 + size[0] // 10, 20 * i : 20 * i + size[1] // 12] = 1
            for split in ("train", "val"):
                save(root / split / f"{i}.png", np.full((*size, 3), 50 * i, np.uint8))
                save(root / f"{split}annot" / f"{i}.png", mask)
        decisions = examine.examine(examine.make_plan(root), near_duplicates=False).decisions
        found = {decision.key: decision for decision in decisions}.get("data.foreground.probability")
        assert (found and found.value) == expected
        assert not found or found.reason.startswith("0.83% of the pixels are not 'background'")


def test_rare_classes_are_to_be_drawn_more_often(tmp_path, save):
    """Class 2 in one of 40 training images; then 8 of 40 that show any foreground."""
    rng = np.random.default_rng(0)
    for root, value in (("rare", 2), ("empty", 1)):
        for i in range(44):
            split, mask = "train" if i < 40 else "val", np.zeros((16, 24), np.uint8)
            mask[2:6, 2:6] = 1 if root == "rare" or i % 5 == 0 else 0
            mask[8:10, 8:10] = value if (root == "rare" and i in (7, 42)) else 0
            save(tmp_path / root / f"images/{split}/{i}.png", rng.integers(0, 256, (16, 24, 3)).astype(np.uint8))
            save(tmp_path / root / f"masks/{split}/{i}.png", mask)
    rare, empty = decided(tmp_path / "rare"), decided(tmp_path / "empty")
    assert rare["data.sampling.power"] == 0.5 and "data.sampling.empty" not in rare
    # 8 with foreground for 32 without: a quarter makes them as many.
    assert empty["data.sampling.empty"] == 0.25 and "data.sampling.power" not in empty
