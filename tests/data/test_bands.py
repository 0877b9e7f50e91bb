"""Images that are not 8-bit RGB, read as they are; the writers of the files are others than their readers."""

import struct
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from attnseg_jax.data import png16
from attnseg_jax.data.bands import bands_size, decode_bands
from attnseg_jax.data.decode import decode_image, decode_mask
from attnseg_jax.data.doctor.facts import read_mask
from attnseg_jax.data.sources import load_source
from attnseg_jax.errors import UserError

RNG = np.random.default_rng(3)
DEEP = RNG.integers(0, 1 << 16, (7, 11, 4), np.uint16)


def tiff(path, array, **options):
    tifffile.imwrite(path, array, photometric="minisblack", **options)


@pytest.mark.parametrize(
    ("name", "write", "expected"),
    [
        ("gray.png", lambda path: Image.fromarray(DEEP[..., 0]).save(path), DEEP[..., :1]),
        ("gray.tif", lambda path: Image.fromarray(DEEP[..., 0]).save(path, compression="tiff_lzw"), DEEP[..., :1]),
        ("bands.tif", lambda path: tiff(path, DEEP, planarconfig="contig"), DEEP),
        ("planes.tif", lambda path: tiff(path, DEEP.transpose(2, 0, 1), planarconfig="separate"), DEEP),
        ("pages.tif", lambda path: tiff(path, DEEP.transpose(2, 0, 1)), DEEP),
        (
            "float.tif",
            lambda path: tiff(path, DEEP / np.float32(7), planarconfig="contig", compression=8),
            DEEP / 7,
        ),
        ("array.npy", lambda path: np.save(path, DEEP.astype(np.float64)), DEEP),
        ("flat.npy", lambda path: np.save(path, DEEP[..., 0].astype(np.int16)), DEEP[..., :1].astype(np.int16)),
        ("four.tif", lambda path: tiff(path, DEEP.astype(np.uint8), planarconfig="contig"), DEEP.astype(np.uint8)),
        ("rgba.png", lambda path: Image.fromarray(DEEP.astype(np.uint8)).save(path), DEEP.astype(np.uint8)),
    ],
)
def test_files_are_read_as_they_are(tmp_path, name, write, expected):
    write(tmp_path / name)
    found = decode_bands([tmp_path / name], expected.shape[2])
    assert found.dtype == (np.uint8 if expected.dtype == np.uint8 else np.float32)
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    assert bands_size(tmp_path / name) == (7, 11)


def test_a_stored_orientation_turns_a_tiff(tmp_path):
    """6: the first row of the file is the right column of the picture."""
    tiff(tmp_path / "a.tif", DEEP[..., 0], extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(decode_bands([tmp_path / "a.tif"])[..., 0], DEEP[..., 0].T[:, ::-1])


def test_several_files_of_an_image(tmp_path):
    for place in range(3):
        np.save(tmp_path / f"{place}.npy", DEEP[..., place])
    paths = [tmp_path / f"{place}.npy" for place in (2, 0)]
    np.testing.assert_array_equal(decode_bands(paths), DEEP[..., [2, 0]].astype(np.float32))
    np.save(paths[1], DEEP[:5, :, 0])
    with pytest.raises(UserError, match=r"0\.npy: the file is 11x5 pixels, 2\.npy of the same picture 11x7"):
        decode_bands(paths)


def png_of_16_bits(pixels, filters, interlaced=0):
    """A PNG by the specification, each row filtered as told; written byte by byte from their definition."""
    h, w, c = pixels.shape
    rows = pixels.astype(">u2").view(np.uint8).reshape(h, -1).astype(int)
    size, lines = 2 * c, b""
    for y, kind in enumerate(filters):
        out = []
        for x in range(rows.shape[1]):
            left = rows[y, x - size] if x >= size else 0
            above = rows[y - 1, x] if y else 0
            corner = rows[y - 1, x - size] if y and x >= size else 0
            p = left + above - corner
            paeth = min((left, above, corner), key=lambda near: abs(p - near))
            out.append((rows[y, x] - [0, left, above, (left + above) // 2, paeth][kind]) % 256)
        lines += bytes([kind, *out])
    header = struct.pack(">IIBBBBB", w, h, 16, {1: 0, 2: 4, 3: 2, 4: 6}[c], 0, 0, interlaced)
    packed = zlib.compress(lines)
    # In two chunks, as large files are.
    chunks = [(b"IHDR", header), (b"IDAT", packed[:20]), (b"IDAT", packed[20:]), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_png_files_of_16_bit_colours(tmp_path, channels):
    path = tmp_path / "a.png"
    path.write_bytes(png_of_16_bits(DEEP[..., :channels], [4, 3, 2, 1, 0, 3, 4]))
    np.testing.assert_array_equal(decode_bands([path], channels), DEEP[..., :channels].astype(np.float32))
    if channels == 3:
        # What Pillow keeps of it: the high bytes.
        np.testing.assert_array_equal(png16.read_png16(path) >> 8, np.asarray(Image.open(path)))
        path.write_bytes(png_of_16_bits(DEEP[..., :channels], [0] * 7, interlaced=1))
        with pytest.raises(UserError, match=r"a\.png: (an interlaced PNG|cannot be decoded)"):
            decode_bands([path])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.npy", b"no array", r"a\.npy: cannot be read as a NumPy array"),
        ("a.tif", b"II*\0 no tiff", r"a\.tif: this TIFF cannot be read"),
        ("a.png", b"\x89PNG\r\n\x1a\n", r"a\.png: cannot be decoded"),
        ("words.npy", np.array(["x"]), r"words\.npy: an array of <U1 \(1,\) is no picture"),
        ("nan.npy", np.array([[np.nan, 1]]), r"nan\.npy: the picture holds values that are not finite"),
        ("two.npy", np.ones((2, 3, 2)), r"two\.npy: the picture has 2 channels, and config\.data\.channels=1"),
    ],
)
def test_files_that_are_no_pictures(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(UserError, match=words):
        decode_bands([path], 1)


def test_numpy_files_as_masks(tmp_path):
    raw = np.array([[0, 300], [7, 0]])
    np.save(tmp_path / "m.npy", raw)
    np.testing.assert_array_equal(decode_mask(tmp_path / "m.npy", "m"), raw)
    assert read_mask(tmp_path / "m.npy").values == {0: 2, 7: 1, 300: 1}
    np.save(tmp_path / "f.npy", raw / 2)
    with pytest.raises(UserError, match=r"f\.npy: an array of float64 \(2, 2\) is no mask: whole numbers"):
        decode_mask(tmp_path / "f.npy", "f")
    with pytest.raises(UserError, match=r"f: a NumPy file is no RGB picture: config\.data\.channels"):
        decode_image(tmp_path / "f.npy", "f")


def test_without_tifffile_what_pillow_knows(tmp_path, monkeypatch):
    Image.fromarray(DEEP[..., 0]).save(tmp_path / "gray.tif")
    tiff(tmp_path / "bands.tif", DEEP, planarconfig="contig")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    np.testing.assert_array_equal(decode_bands([tmp_path / "gray.tif"])[..., 0], DEEP[..., 0].astype(np.float32))
    with pytest.raises(UserError, match=r'bands\.tif: .* takes tifffile, pip install "attnseg_jax\[tiff\]"'):
        decode_bands([tmp_path / "bands.tif"])


def test_a_folder_of_bands(tmp_path, data_config, save):
    for stem in ("x", "y"):
        for place, band in enumerate(("B02", "B08")):
            save(tmp_path / f"{stem}_{band}.png", DEEP[..., place] + np.uint16(stem == "y"))
        save(tmp_path / f"{stem}_mask.png", np.arange(77, dtype=np.uint8).reshape(7, 11) % 2)
    config = data_config(
        dir=str(tmp_path), images="{stem}_{band}.png", masks="{stem}_mask.png", bands=("B02", "B08"), channels=2
    )
    config.update(classes=("a", "b"), split=("hash", 0.5))
    train, val = (load_source(config, split) for split in ("train", "val"))
    assert len(train) == len(val) == 1 and sorted([*train.files(), *val.files()])[:2] == ["x_B02.png", "x_B08.png"]
    record = next(source[0] for source in (train, val) if source[0]["id"].startswith("x"))
    np.testing.assert_array_equal(record["image"], DEEP[..., :2].astype(np.float32))
    shown = train.info.shown(record["image"])
    # One channel, gray, the lowest and the highest values black and white.
    assert shown.shape == (7, 11, 3) and (shown[..., 0] == shown[..., 2]).all() and {0, 255} < {*shown.ravel()}
    (tmp_path / "y_B08.png").unlink()
    with pytest.raises(UserError, match=r"y_B02\.png: a band of the picture is missing, one of \{stem\}_B08\.png"):
        load_source(config, "train")
    config.bands = ()
    with pytest.raises(UserError, match=r"config\.data\.bands=\(\) and config\.data\.images=.* do not go together"):
        load_source(config, "train")
