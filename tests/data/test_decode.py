import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from absl import logging
from PIL import Image

from attnseg_jax.data import decode, mask_ids
from attnseg_jax.data.doctor.facts import read_mask
from attnseg_jax.errors import UserError

RNG = np.random.default_rng(5)
COLOURS = ((10, 20, 30), (200, 0, 5), (0, 0, 0), (10, 20, 31))


def encoded(array, kind="PNG", mode=None):
    stream = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, kind)
    return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_gray_masks_of_8_and_16_bits():
    raw = RNG.integers(0, 256, (13, 17)).astype(np.uint8)
    np.testing.assert_array_equal(decode.decode_mask(encoded(raw), "m"), raw)
    deep = RNG.integers(0, 65536, (13, 17)).astype(np.uint16)
    np.testing.assert_array_equal(decode.decode_mask(encoded(deep), "m"), deep)


def test_one_bit_masks():
    raw = RNG.integers(0, 2, (13, 17)).astype(bool)
    np.testing.assert_array_equal(decode.decode_mask(encoded(raw), "m"), raw.astype(np.uint8))


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("colour_type", [0, 3], ids=["gray", "palette"])
def test_masks_of_2_and_4_bits(bits, colour_type, tmp_path):
    """Written here: Pillow reads them and does not write them. The doctor counts the same values."""
    raw = RNG.integers(0, 1 << bits, (13, 16)).astype(np.uint8)
    digits = np.unpackbits(raw[..., None], axis=-1)[..., -bits:].reshape(13, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in np.packbits(digits, axis=-1))

    header = struct.pack(">IIBBBBB", 16, 13, bits, colour_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * (1 << bits)))) if colour_type == 3 else b""
    chunks = chunk(b"IHDR", header), palette, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    np.testing.assert_array_equal(decode.decode_mask(data, "m"), raw)
    (tmp_path / "m.png").write_bytes(data)
    assert read_mask(tmp_path / "m.png").values == Counter(raw.ravel().tolist())


def test_palette_masks_give_indices_not_colours(save, tmp_path):
    raw = RNG.integers(0, 5, (13, 17)).astype(np.uint8)
    palette = [v for i in range(256) for v in (255 - i, 7 * i % 256, 13)]
    path = save(tmp_path / "m.png", raw, palette=palette)
    with Image.open(path) as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(decode.decode_mask(path, "m"), raw)


def test_where_colours_are_given_every_mask_is_a_picture(save, tmp_path):
    """The same picture as RGB, by a palette of another order, and in gray, gives the same ids."""
    raw = RNG.integers(0, 4, (13, 17)).astype(np.uint8)
    order = [2, 0, 3, 1]
    palette = [v for i in order for v in COLOURS[i]]
    path = save(tmp_path / "m.png", np.argsort(order)[raw].astype(np.uint8), palette=palette)
    np.testing.assert_array_equal(decode.decode_mask(path, "m", COLOURS), raw)
    with pytest.raises(UserError, match=r"the colour \(0, 0, 5\), .*config.data.colors; without those"):
        decode.decode_mask(save(tmp_path / "n.png", raw, palette=[0, 0, 5] * 256), "n", COLOURS)
    gray = np.array([7, 255, 90], np.uint8)
    grays = [(v, v, v) for v in gray.tolist()]
    label = RNG.integers(0, 3, (5, 6))
    np.testing.assert_array_equal(decode.decode_mask(encoded(gray[label]), "m", grays), label)
    black_and_white = encoded(label > 0)
    np.testing.assert_array_equal(decode.decode_mask(black_and_white, "m", [(0, 0, 0), (255, 255, 255)]), label > 0)
    with pytest.raises(UserError, match="more than 8 bits"):
        decode.decode_mask(encoded(label.astype(np.uint16)), "m", grays)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000"])
def test_masks_in_files_that_do_not_keep_values_are_refused(kind):
    with pytest.raises(UserError, match=rf"^m: {kind} changes the values of a mask: save it as PNG"):
        decode.decode_mask(encoded(np.full((16, 16), 255, np.uint8), kind), "m")


def test_rgb_masks_by_colour():
    raw = RNG.integers(0, 4, (13, 17))
    rgb = np.array(COLOURS, np.uint8)[raw]
    np.testing.assert_array_equal(decode.decode_mask(encoded(rgb), "m", COLOURS), raw)
    np.testing.assert_array_equal(decode.decode_mask(encoded(rgb, mode="RGBA"), "m", COLOURS), raw)


def test_rgb_mask_without_colours():
    with pytest.raises(UserError, match=r"^m\.png: the mask is an RGB picture; .*config\.data\.colors"):
        decode.decode_mask(encoded(np.zeros((3, 4, 3), np.uint8)), "m.png")


def test_rgb_mask_with_an_unknown_colour():
    rgb = np.full((3, 4, 3), (200, 0, 5), np.uint8)
    rgb[1, 2] = (200, 0, 6)
    with pytest.raises(UserError, match=r"^m\.png: the mask holds the colour \(200, 0, 6\), .*config\.data\.colors"):
        decode.decode_mask(encoded(rgb), "m.png", COLOURS)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_images_become_rgb(mode):
    gray = RNG.integers(0, 256, (13, 17)).astype(np.uint8)
    image = decode.decode_image(encoded(np.stack([gray] * 3, -1), mode=mode), "i")
    assert image.shape == (13, 17, 3) and image.dtype == np.uint8
    if mode != "P":
        np.testing.assert_array_equal(image, np.stack([gray] * 3, -1))


def test_deep_images_are_refused_rather_than_clipped():
    with pytest.raises(UserError, match=r"^deep: images of more than 8 bits"):
        decode.decode_image(encoded(np.full((3, 4), 4000, np.uint16)), "deep")


def deep_png(values, colour_type):
    """A PNG of 16 bits a channel, which Pillow does not write with several channels."""
    h, w, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", w, h, 16, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("channels, colour_type", [(2, 4), (3, 2), (4, 6)])
def test_deep_channels_are_refused_rather_than_cut(channels, colour_type):
    """Values of 12 bits have high bytes up to 15, which is a black picture."""
    data = deep_png(np.linspace(0, 4095, 8 * 9 * channels).round().reshape(8, 9, channels), colour_type)
    with pytest.raises(UserError, match=r"^deep: images of more than 8 bits a channel"):
        decode.decode_image(data, "deep")
    for colours in ((), COLOURS):
        with pytest.raises(UserError, match=r"^deep: colour masks of more than 8 bits a channel"):
            decode.decode_mask(data, "deep", colours)


def test_a_fourth_channel_is_not_dropped_without_a_word(caplog):
    logging.set_verbosity(logging.WARNING)
    pixels = RNG.integers(0, 255, (13, 17, 4)).astype(np.uint8)
    opaque = pixels.copy()
    opaque[..., 3] = 255
    decode.decode_image(encoded(opaque), "opaque.png")
    assert not caplog.text
    np.testing.assert_array_equal(decode.decode_image(encoded(pixels), "near_infrared.png"), pixels[..., :3])
    assert "near_infrared.png: the channel behind the colours (alpha) is not used" in caplog.text


def test_pictures_beyond_the_limit_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    data = encoded(np.zeros((10, 11), np.uint8))
    for read in (decode.decode_image, decode.decode_mask, decode.decode_size):
        with pytest.raises(UserError, match=r"^big: a picture of more than 100 pixels is not read: cut it into tiles"):
            read(data, "big")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_files_at_any_place(kind):
    data = encoded(RNG.integers(0, 256, (64, 48, 3)).astype(np.uint8), kind)
    for keep in (0, 3, 10, 20, 30, 40, len(data) // 3, len(data) // 2, len(data) - 60):
        with pytest.raises(UserError) as error:
            decode.decode_image(data[:keep], "dir/a.x")
        message = str(error.value)
        assert message.startswith("dir/a.x: cannot be decoded") and "\n" not in message and "restore" in message


def test_a_flipped_bit_in_a_png_is_noticed():
    data = bytearray(encoded(RNG.integers(0, 256, (64, 48)).astype(np.uint8)))
    data[len(data) // 2] ^= 4
    with pytest.raises(UserError, match=r"^m: cannot be decoded"):
        decode.decode_mask(bytes(data), "m")


def test_the_table_maps_raw_ids():
    table = mask_ids.id_table((3, 255, 0))
    raw = np.array([[0, 1, 2, 255], [2, 2, 0, 1]], np.uint8)
    np.testing.assert_array_equal(mask_ids.to_train_ids(raw, table, "m"), [[3, 255, 0, 255], [0, 0, 3, 255]])
    deep = mask_ids.id_table((255,) * 1000 + (4,))
    np.testing.assert_array_equal(mask_ids.to_train_ids(np.array([[1000, 999]], np.uint16), deep, "m"), [[4, 255]])
    assert mask_ids.to_train_ids(raw, table, "m").dtype == np.uint8


@pytest.mark.parametrize(
    "value, dtype", [(3, np.uint8), (254, np.uint8), (700, np.uint16), (70000, np.int32), (-1, np.int32)]
)
def test_values_outside_the_table(value, dtype):
    raw = np.zeros((3, 4), dtype)
    raw[2, 1] = value
    with pytest.raises(UserError, match=rf"^a/m\.png: the mask holds the value {value}, .*0-2, 255.*config\.data\.ids"):
        mask_ids.to_train_ids(raw, mask_ids.id_table((0, 1, 255)), "a/m.png")


def test_image_and_mask_of_different_sizes():
    image, mask = encoded(np.zeros((5, 7, 3), np.uint8)), encoded(np.zeros((5, 8), np.uint8))
    with pytest.raises(UserError, match=r"^m\.png: the mask is 8x5 pixels, its image i\.png is 7x5"):
        decode.decode_pair(image, mask, "i.png", "m.png", mask_ids.id_table((0,)), ())


def test_size_comes_from_the_header():
    data = encoded(np.zeros((50, 70, 3), np.uint8))
    assert decode.decode_size(data[:60], "i") == (50, 70)
    with pytest.raises(UserError, match=r"^i: cannot be decoded"):
        decode.decode_size(b"no image", "i")


# Rows then columns of an image of 2 x 3 pixels, numbered in reading order, as each orientation means them to be seen
# (EXIF 2.32, section 4.6.5: where the first row and the first column of what is stored belong).
SEEN = {
    1: [[0, 1, 2], [3, 4, 5]],
    2: [[2, 1, 0], [5, 4, 3]],
    3: [[5, 4, 3], [2, 1, 0]],
    4: [[3, 4, 5], [0, 1, 2]],
    5: [[0, 3], [1, 4], [2, 5]],
    6: [[3, 0], [4, 1], [5, 2]],
    7: [[5, 2], [4, 1], [3, 0]],
    8: [[2, 5], [1, 4], [0, 3]],
}


def turned(array, orientation, kind="PNG", **options):
    exif, stream = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(array).save(stream, kind, exif=exif, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind, options", [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
@pytest.mark.parametrize("orientation", SEEN)
def test_photographs_are_turned_upright(orientation, kind, options):
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)
    data = turned(np.stack([40 * stored] * 3, -1), orientation, kind, **options)
    found = decode.decode_image(data, "photo")
    np.testing.assert_array_equal(found[..., 1], 40 * np.array(SEEN[orientation]))
    assert decode.decode_size(data, "photo") == found.shape[:2]
    if kind == "PNG":
        for array in (stored, stored.astype(np.uint16) * 300):
            mask = decode.decode_mask(turned(array, orientation), "mask")
            np.testing.assert_array_equal(mask, np.array(SEEN[orientation]) * (300 if array.itemsize == 2 else 1))


def test_a_photograph_held_upright_and_its_mask():
    image, upright = np.zeros((4, 6, 3), np.uint8), np.ones((6, 4), np.uint8)
    table = mask_ids.id_table((0, 1))
    for orientation in (6, 8):
        photo = turned(image, orientation, "JPEG")
        pixels, label = decode.decode_pair(photo, encoded(upright), "photo.jpg", "mask.png", table, ())
        assert pixels.shape[:2] == label.shape == (6, 4)
        with pytest.raises(UserError, match=rf"mask is 6x4 pixels.*photo.jpg is 4x6 when.*orientation {orientation}"):
            decode.decode_pair(photo, encoded(upright.T), "photo.jpg", "mask.png", table, ())


def test_a_mask_at_another_scale():
    """Each pixel takes the nearest; what is cut, or turned, is no scale."""
    image, table = encoded(np.zeros((4, 6, 3), np.uint8)), mask_ids.id_table((0, 1, 2, 3, 4, 5))
    mask = np.arange(6, dtype=np.uint8).reshape(2, 3)
    _, label = decode.decode_pair(image, encoded(mask), "i.png", "m.png", table, (), resized=True)
    np.testing.assert_array_equal(label, mask.repeat(2, 0).repeat(2, 1))
    _, label = decode.decode_pair(
        image, encoded(label.repeat(3, 0).repeat(3, 1)), "i.png", "m.png", table, (), resized=True
    )
    np.testing.assert_array_equal(label, mask.repeat(2, 0).repeat(2, 1))
    for wrong in (mask.T, np.zeros((4, 5), np.uint8), np.zeros((6, 6), np.uint8)):
        with pytest.raises(UserError, match="both must have one size"):
            decode.decode_pair(image, encoded(wrong), "i.png", "m.png", table, (), resized=True)


@pytest.mark.parametrize("orientation", [0, 9, 4000])
def test_an_orientation_that_means_nothing(orientation):
    image = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    data = turned(image, orientation)
    np.testing.assert_array_equal(decode.decode_image(data, "photo"), image)
    assert decode.decode_size(data, "photo") == (2, 3)


def test_no_flipped_bit_of_a_png_gives_other_pixels():
    """Pillow alone reads other pixels from most of them."""
    rng = np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 3, (2, 2)), np.ones((12, 16), int)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG")
    content = stream.getvalue()
    np.testing.assert_array_equal(decode.decode_mask(content, "m.png"), mask)
    silent = 0
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        try:
            np.testing.assert_array_equal(decode.decode_mask(bytes(flipped), "m.png"), mask)
            silent += 1
        except UserError as error:
            assert str(error).startswith("m.png: ")
    # Lengths, and the last chunk, which holds nothing.
    assert silent <= 16


@pytest.mark.parametrize(
    "known, raw, expected", [((0, 1, 2), 1, 1), ((0, 9), 4, 0), ((0, 9), 5, 9), ((3, 200), 255, 200)]
)
def test_the_nearest_known_value(known, raw, expected):
    ids = [mask_ids.UNKNOWN] * (max(known) + 1)
    for train, value in enumerate(known):
        ids[value] = train
    table = mask_ids.id_table(ids, nearest=True)
    assert known[table[raw]] == expected and table[65535] == len(known) - 1


def test_masks_of_lossy_files_by_their_nearest_values():
    raw = np.kron(RNG.integers(0, 2, (4, 4)), np.ones((16, 16), int))
    data = encoded((255 * raw).astype(np.uint8), "JPEG")
    table = mask_ids.id_table([0, *[mask_ids.UNKNOWN] * 254, 1], nearest=True)
    label = mask_ids.to_train_ids(decode.decode_mask(data, "m", nearest=True), table, "m")
    np.testing.assert_array_equal(label, raw)
    colours = ((0, 0, 0), (200, 30, 30), (30, 200, 30))
    rgb = np.array(colours, np.int64)[label.astype(int)] + RNG.integers(-9, 10, (64, 64, 3))
    rgb = rgb.clip(0, 255).astype(np.uint8)
    np.testing.assert_array_equal(decode.decode_mask(encoded(rgb), "m", colours, nearest=True), raw)
    with pytest.raises(UserError, match="which is not in config"):
        decode.decode_mask(encoded(rgb), "m", colours)


def test_an_unknown_way_to_read_masks():
    with pytest.raises(UserError, match=r"config\.data\.mask_values='near' is unknown: did you mean 'nearest'\?"):
        decode.takes_nearest("near")
