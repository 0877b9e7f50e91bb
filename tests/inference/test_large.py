"""Large TIFF files: by bands as in memory, however they are written; on the map; in bounded memory."""

import csv
import subprocess
import sys

import jax
import numpy as np
import pytest
import tifffile
from PIL import Image
from workdirs import save_random_run

from attnseg_jax import Predictor
from attnseg_jax.errors import UserError
from attnseg_jax.inference import geotiff, large
from attnseg_jax.inference.geotiff import place_of

WINDOWS = {"eval.mode": "slide", "eval.window": (12, 16), "eval.stride": (8, 10), "eval.blend": "gaussian"}
TAGS = [(33550, 12, 3, (30.0, 20.0, 0.0), True), (33922, 12, 6, (0, 0, 0, 500.0, 800.0, 0), True),
        (34735, 3, 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True)]  # fmt: skip


@pytest.fixture(scope="module")
def workdir(make_config, tmp_path_factory):
    return save_random_run(make_config(optimizer__ema_decay=0.0), tmp_path_factory.mktemp("large") / "run")


@pytest.fixture(scope="module")
def predictor(workdir):
    return Predictor(workdir, changes={**WINDOWS, "eval.windows": 3})


@pytest.fixture(scope="module")
def picture(predictor):
    """Pixels and what is predicted in memory; the size is no multiple of anything."""
    pixels = np.random.default_rng(1).integers(0, 256, (45, 70, 3), np.uint8)
    mask = predictor(pixels).mask
    assert len(np.unique(mask)) > 2
    return pixels, mask


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (16, 32), "compression": "zlib", "extratags": TAGS},
        {"rowsperstrip": 7, "compression": "zlib"},
        {"rowsperstrip": 45},
    ],
)
def test_as_in_memory(options, predictor, picture, tmp_path):
    pixels, mask = picture
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb", **options)
    counts = large.predict_large(predictor, tmp_path / "in.tif", tmp_path / "deep/out.tif")
    with Image.open(tmp_path / "deep/out.tif") as found:
        np.testing.assert_array_equal(np.asarray(found), mask)
        assert found.mode == "P"
        np.testing.assert_array_equal(np.reshape(found.getpalette(), (-1, 3))[:5], predictor.info.palette)
    assert counts.tolist() == np.bincount(mask.ravel(), minlength=5).tolist()
    with tifffile.TiffFile(tmp_path / "deep/out.tif") as tiff:
        assert tiff.pages[0].tile == (256, 256)
    place = place_of(tmp_path / "deep/out.tif")
    assert place.epsg == 32633 and place.affine[0].tolist() == [30, 0, 500] if "tile" in options else place is None
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out.tif"]


@pytest.mark.parametrize("decoder", ["fcn", pytest.param("masked_attention", marks=pytest.mark.thorough)])
def test_averages_are_held_against_a_threshold(decoder, make_config, tmp_path):
    """Not sums over windows; of queries those of scores, not of their logarithms."""
    changes = {"data__classes": ("a", "b"), "data__palette": (), "model__decoder__name": decoder}
    workdir = save_random_run(make_config(optimizer__ema_decay=0.0, **changes), tmp_path / "run", classes=2)
    pixels = np.random.default_rng(3).integers(0, 256, (30, 40, 3), np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb")
    second = Predictor(workdir, changes=WINDOWS)(pixels).probabilities[..., 1]
    predictor = Predictor(workdir, changes={**WINDOWS, "eval.threshold": float(np.quantile(second, 0.7))})
    large.predict_large(predictor, tmp_path / "in.tif", tmp_path / "out.tif")
    found = np.asarray(Image.open(tmp_path / "out.tif"))
    assert 0.25 < found.mean() < 0.35 and (found != predictor(pixels).mask).mean() < 0.002


@pytest.mark.parametrize("rows", [15, 45])
def test_mirrored_edges(rows, workdir, tmp_path):
    """Of 15 rows, the last window sees three and mirrors some above it. Padded with a colour, others come out."""
    blocks = np.random.default_rng(2).integers(0, 256, (23, 35, 3), np.uint8)
    pixels, found = blocks.repeat(2, 0).repeat(2, 1)[:rows], []
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb")
    for padding in ("reflect", "mean"):
        changes = {"eval.size_multiple": 12, "eval.window": (12, 24), "eval.stride": (12, 10), "eval.padding": padding}
        predictor = Predictor(workdir, changes=WINDOWS | changes)
        large.predict_large(predictor, tmp_path / "in.tif", tmp_path / "out.tif")
        found.append(np.asarray(Image.open(tmp_path / "out.tif")))
        np.testing.assert_array_equal(found[-1], predictor(pixels).mask)
    assert (found[0] != found[1]).any()


def test_in_columns(predictor, picture, tmp_path):
    """Logits of a whole row of windows would be too many; gray files are read as colours."""
    pixels, mask = picture
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="rgb")
    large.predict_large(predictor, tmp_path / "in.tif", tmp_path / "out.tif", band=20 * 12 * 5 * 4)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.tif")), mask)
    tifffile.imwrite(tmp_path / "gray.tif", pixels[..., 0], rowsperstrip=4, compression="zlib")
    large.predict_large(predictor, tmp_path / "gray.tif", tmp_path / "out.tif")
    gray = predictor(pixels[..., 0]).mask
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.tif")), gray)


def test_bands_of_16_bits(make_config, tmp_path):
    """As in memory, and no picture of other channels."""
    changes = {"optimizer__ema_decay": 0.0, "data__channels": 2, "data__mean": (3e4, 2e4), "data__std": (2e4, 1e4)}
    changes |= {"model__attention__name": "none"}
    config = make_config(**changes)
    predictor = Predictor(save_random_run(config, tmp_path / "run"), changes={**WINDOWS, "eval.windows": 3})
    pixels = np.random.default_rng(2).integers(0, 1 << 16, (45, 70, 2), np.uint16)
    tifffile.imwrite(tmp_path / "in.tif", pixels, photometric="minisblack", planarconfig="contig", tile=(16, 32))
    large.predict_large(predictor, tmp_path / "in.tif", tmp_path / "out.tif")
    mask = predictor(pixels).mask
    assert len(np.unique(mask)) > 1
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.tif")), mask)
    tifffile.imwrite(tmp_path / "in.tif", pixels[..., 0])
    with pytest.raises(UserError, match=r"in\.tif: the file has 1 channels .* config\.data\.channels=2"):
        large.predict_large(predictor, tmp_path / "in.tif", tmp_path / "out.tif")


def test_windows_spread_over_devices(workdir, picture, monkeypatch):
    """Eight devices give what one does, in memory and by bands (above); the program is theirs together."""
    pixels, mask = picture
    eight = Predictor(workdir, changes=WINDOWS)
    assert eight.mesh.size == len(jax.devices()) == 8
    with monkeypatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda *_: jax.devices()[:1])
        one = Predictor(workdir, changes=WINDOWS)
        assert one.mesh is None
        single = one(pixels, extras=["probabilities"])
    found = eight(pixels, extras=["probabilities"])
    np.testing.assert_array_equal(found.mask, single.mask)
    np.testing.assert_array_equal(found.mask, mask)
    np.testing.assert_allclose(
        found.probabilities.astype(np.float32), single.probabilities.astype(np.float32), rtol=0, atol=1e-3
    )
    program, *_ = eight._programs.kept.values()
    assert "num_partitions=8" in program.as_text()


def test_what_is_refused(workdir, predictor, picture, tmp_path, monkeypatch):
    path = tmp_path / "in.tif"
    tifffile.imwrite(path, picture[0], photometric="rgb")
    with pytest.raises(UserError, match=r"in\.tif: .*--config\.eval\.mode=slide"):
        large.predict_large(Predictor(workdir), path, tmp_path / "out.tif")
    with pytest.raises(UserError, match=r"leave config\.eval\.scales and flip at their defaults"):
        large.predict_large(Predictor(workdir, changes={**WINDOWS, "eval.flip": True}), path, tmp_path / "out.tif")
    with monkeypatch.context() as patch:
        full = "RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"
        patch.setattr(large, "_weighted", lambda *_: (_ for _ in ()).throw(jax.errors.JaxRuntimeError(full)))
        with pytest.raises(
            UserError, match=r"in\.tif: its windows take more memory than .*: lower config\.eval\.windows"
        ):
            large.predict_large(predictor, path, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()
    tifffile.imwrite(tmp_path / "deep.tif", picture[0].astype(np.uint16), photometric="rgb")
    with pytest.raises(UserError, match=r"deep\.tif: of this size TIFF files of 8 bits are read"):
        large.predict_large(predictor, tmp_path / "deep.tif", tmp_path / "out.tif")
    # As gray, or as they lie, they would be read as something else.
    turned = [(274, "H", 1, 6, True)]
    for options in ({"photometric": "palette", "colormap": np.zeros((3, 256), np.uint16)}, {"extratags": turned}):
        tifffile.imwrite(tmp_path / "other.tif", picture[0][..., 0], **options)
        with pytest.raises(UserError, match=r"other\.tif: .* gray or RGB, channels side by side, upright"):
            large.predict_large(predictor, tmp_path / "other.tif", tmp_path / "out.tif")
    tifffile.imwrite(path, picture[0], photometric="rgb", tile=(16, 16), compression="zlib")
    damaged = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].dataoffsets[3]
    damaged[place : place + 9] = b"\xff" * 9
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"in\.tif: cannot be decoded"):
        large.predict_large(predictor, path, tmp_path / "out.tif")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(UserError, match=r"needs the package tifffile: pip install"):
        large.predict_large(predictor, path, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


def test_the_command(call, workdir, picture, tmp_path, monkeypatch):
    """A large file beside one on the map, which has all other outputs, too; polygons lie on the map."""
    monkeypatch.setattr(geotiff, "LARGE", 45 * 70)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/large.tif", picture[0], photometric="rgb")
    tifffile.imwrite(tmp_path / "in/small.tif", picture[0][:20, :30], photometric="rgb", extratags=TAGS)
    options = [f"--config.{key}={value}" for key, value in WINDOWS.items()]
    arguments = [f"--model={workdir}", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--polygons"]
    code, _, err = call("attnseg_jax/cli/predict.py", *arguments, *options)
    assert code == 0, err
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert files == {
        *("mask/large.tif", "mask/small.tif", "overlay/small.png", "polygons/small.geojson"),
        *("areas.csv", "classes.csv", "predict.json"),
    }
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/mask/large.tif")), picture[1])
    place = place_of(tmp_path / "out/mask/small.tif")
    assert place.epsg == 32633 and place.affine[1].tolist() == [0, -20, 800]
    assert "EPSG::32633" in (tmp_path / "out/polygons/small.geojson").read_text()
    rows = {row["output"]: row for row in csv.DictReader((tmp_path / "out/areas.csv").read_text().splitlines())}
    assert (rows["large"]["height"], rows["large"]["width"]) == ("45", "70")
    assert [int(rows["large"][f"{name} pixels"]) for name in ("red", "black")] == [
        (picture[1] == k).sum() for k in (0, 4)
    ]
    assert ": 0 pictures predicted" in call("attnseg_jax/cli/predict.py", *arguments, *options)[1]


PREDICT = """
import resource, sys
from pathlib import Path
from attnseg_jax import Predictor
from attnseg_jax.inference.large import predict_large
changes = {"eval.mode": "slide", "eval.window": (512, 512), "eval.stride": (512, 512)}
counts = predict_large(Predictor(sys.argv[1], changes=changes), Path(sys.argv[2]), Path(sys.argv[3]))
assert counts.sum() == 20_000**2
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_20000_rows_and_columns_in_2_gib(make_config, tmp_path):
    # Attention would take long in windows of this size.
    changes = {"optimizer__ema_decay": 0.0, "model__attention__name": "none"}
    workdir = save_random_run(make_config(**changes), tmp_path / "run")
    rng = np.random.default_rng(0)
    some = rng.integers(0, 256, (4, 32, 32, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    tiles = (some[i % 4] for i in range(40 * 40))
    options = {"shape": (20_000, 20_000, 3), "dtype": np.uint8, "tile": (512, 512), "photometric": "rgb"}
    tifffile.imwrite(tmp_path / "in.tif", tiles, compression="zlib", compressionargs={"level": 1}, **options)
    command = [sys.executable, "-c", PREDICT, workdir, tmp_path / "in.tif", tmp_path / "out.tif"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 2 << 20, "KiB"
    with tifffile.TiffFile(tmp_path / "out.tif") as found:
        assert found.pages[0].shape == (20_000, 20_000)
