"""The doctor on images that are not 8-bit RGB."""

import numpy as np
import pytest
import tifffile

from attnseg_jax.data.doctor import examine, facts
from attnseg_jax.data.sources import load_source, survey

RNG = np.random.default_rng(8)


def test_bands_are_measured_and_trained_on(tmp_path, save, data_config):
    """Four-band TIFFs and one of three bands, which is left out; mean and deviation against NumPy's."""
    images = RNG.integers(0, 4000, (6, 16, 24, 4), np.uint16)
    mask = np.zeros((16, 24), np.uint8)
    mask[2:9, 3:8] = 1
    for i, image in enumerate(images):
        split = "val" if i > 3 else "train"
        (tmp_path / f"images/{split}").mkdir(parents=True, exist_ok=True)
        part = image if i != 1 else image[..., :3]
        tifffile.imwrite(tmp_path / f"images/{split}/{i}.tif", part, photometric="minisblack", planarconfig="contig")
        save(tmp_path / f"masks/{split}/{i}.png", mask)
    diagnosis = examine.examine(examine.make_plan(tmp_path), threads=2)
    decided = {decision.key: decision.value for decision in diagnosis.decisions}
    pixels = images[[0, 2, 3]].reshape(-1, 4).astype(float)
    assert decided["data.channels"] == 4 and decided["data.leave_out"] == ("images/train/1.tif",)
    assert decided["data.mean"] == pytest.approx(pixels.mean(0), rel=1e-5)
    assert decided["data.std"] == pytest.approx(pixels.std(0), rel=1e-5)
    assert "1 image of other bits or channels than most: left out" in [f.text for f in diagnosis.findings]
    config = data_config(**{key[5:]: value for key, value in decided.items() if key.startswith("data.")})
    assert survey(load_source(config, "train")).pixel_counts.tolist() == [3 * (16 * 24 - 35), 3 * 35]


def test_kinds_of_images(tmp_path, save):
    """What is read as 8-bit RGB has no channels to count."""
    assert facts.read_image(save(tmp_path / "l.png", np.zeros((4, 5), np.uint8))).channels == 0
    found = facts.read_image(save(tmp_path / "d.png", np.full((4, 5), 700, np.uint16)))
    assert (found.channels, found.mode, found.moments.mean, found.moments.std) == (1, "1 x uint16", 700, 0)
