"""Files of named arrays: hostile safetensors and NumPy archives, a short fuzz of them, and names."""

import json
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
from weight_files import weights_bytes

from attnseg_jax.errors import UserError
from attnseg_jax.weights.files import FORMATS, read_weights

SIX = np.arange(6, dtype=np.float32).reshape(2, 3)
DATA = SIX.tobytes()


def one(**changes):
    """The header of one float32 array `w` of 2 x 3."""
    return {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}}


def two(places):
    return {name: {"dtype": "F32", "shape": [3], "data_offsets": list(place)} for name, place in zip("vw", places)}


def safetensors(header, data=DATA, length=None):
    code = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(code) if length is None else length) + code + data


def npy(header, data=DATA):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + data


def shaped(shape, kind="<f4"):
    return npy(f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n")


def test_sound_files(tmp_path):
    """What the hostile ones are made of is right."""
    path = tmp_path / "w.safetensors"
    for header in (one(), {"__metadata__": {"format": "pt"}, **one()}):
        path.write_bytes(safetensors(header))
        np.testing.assert_array_equal(read_weights(path)["w"], SIX)
    path.write_bytes(safetensors(two([(12, 24), (0, 12)])))
    np.testing.assert_array_equal(read_weights(path)["v"], SIX[1])
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", shaped((2, 3)))
    np.testing.assert_array_equal(read_weights(path)["w"], SIX)
    np.savez_compressed(path, w=SIX.T, v=SIX)
    assert {name: array.shape for name, array in read_weights(path).items()} == {"w": (3, 2), "v": (2, 3)}


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "longer than the file"),
        (b"123", "longer than the file"),
        (safetensors(one(), length=2**63), "longer than the file"),
        (safetensors(b"[" * 100_000), "recursion"),
        (safetensors(b"\xff\xfe"), "is no sound"),
        (safetensors(b'{"w": 1, "w": 2}'), "a name stands twice"),
        (safetensors([1]), "its header is no dictionary"),
        (safetensors({"w": 5}), "w is without a type, a shape or a place"),
        (safetensors(one(shape="23")), "w is without a type, a shape or a place"),
        (safetensors(one(data_offsets=[0])), "w is without a type, a shape or a place"),
        (safetensors(one(dtype="F4")), "w has the type F4, which is not known"),
        (safetensors(one(dtype=["F32"])), "w is without a type"),
        (safetensors(one(shape=[-2, -3])), "w has an impossible shape or place"),
        (safetensors(one(shape=[2.0, 3])), "w has an impossible shape or place"),
        (safetensors(one(shape=[6, True])), "w has an impossible shape or place"),
        (safetensors(one(shape=[6] + [1] * 40)), "w has an impossible shape or place"),
        # Their product would take minutes.
        (safetensors(one(shape=[10**4000] * 500)), "w has an impossible shape or place"),
        (safetensors(one(shape=[0, 2**40, 2**40], data_offsets=[0, 0]), b""), "is no sound"),
        (safetensors(one(data_offsets=[0, float("inf")])), "w has an impossible shape or place"),
        (safetensors(one(data_offsets=["0", "24"])), "w has an impossible shape or place"),
        (safetensors(one(data_offsets=[-24, 0])), "w has an impossible shape or place"),
        (safetensors(one(data_offsets=[4, 28]), DATA + bytes(4)), "place of w does not fit"),
        (safetensors(one(shape=[2, 4])), "place of w does not fit"),
        (safetensors(one(), DATA[:-1]), "place of w does not fit"),
        (safetensors(one(), DATA + b"a"), "1 bytes follow its last array"),
        (safetensors(two([(0, 12), (8, 20)])), "place of w does not fit"),
        (safetensors(two([(0, 12), (0, 12)])), "place of w does not fit"),
        (safetensors(one(dtype="BOOL", shape=[24])), "other values than 0 and 1"),
        (safetensors({"a\n" + "b" * 999: 5}), r"is no sound safetensors file (a\nbb"),
    ],
)
def test_hostile_safetensors(content, words, tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_weights(path)
    message = str(error.value)
    assert words in message and message.startswith(str(path)) and "\n" not in message and len(message) < 500


@pytest.mark.parametrize(
    "members, words",
    [
        ({"w.npy": npy("{'descr': '<f4', 'shape': (")}, "is no sound NumPy archive ("),
        ({"w.npy": npy("  1\n 2\n")}, "is no sound NumPy archive ("),
        ({"w.npy": npy("-" * 9000 + "1")}, "is no sound NumPy archive ("),
        ({"w.npy": shaped((2, 4))}, "EOF"),
        ({"w.npy": shaped((2**70,))}, "is no sound"),
        ({"w.npy": shaped((-6,))}, "negative"),
        ({"w.npy": shaped((6,), "O")}, "Object arrays cannot be loaded"),
        ({"w.npy": shaped((2, 3)), "w": shaped((2, 3))}, "a name twice"),
        ({"w.npy": shaped((2, 3)) + bytes(1 << 20)}, "more than 100 times as large as the file"),
        ({"a" + ".b" * 101 + ".npy": shaped((2, 3))}, "name of more than 100 parts"),
        ({"w.txt": b"hello, not an array"}, "magic string"),
        ({"w.npy": shaped((2, 3)), "__types__.npy": shaped((2, 3))}, "is no sound"),
    ],
)
def test_hostile_archives(members, words, tmp_path):
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(UserError) as error:
        read_weights(path)
    assert words in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)


def test_what_is_no_archive(tmp_path):
    path = tmp_path / "w.npz"
    for content in (b"", b"hello", shaped((2, 3))):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"w\.npz is no sound NumPy archive \(File is not a zip file\)"):
            read_weights(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_damaged_files_raise_the_clear_error_only(suffix, tmp_path):
    rng, path = np.random.default_rng(5), tmp_path / f"w{suffix}"
    whole = weights_bytes({"w": SIX, "b": SIX.astype(jnp.bfloat16), "n": np.array(7)}, path)
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            place = int(rng.integers(len(content)))
            if rng.random() < 0.7:
                content[place] = rng.integers(256)
            else:
                del content[place : place + int(rng.integers(1, 9))]
        path.write_bytes(content)
        try:
            arrays = read_weights(path)
        except UserError as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert all(array.size <= 12 for array in arrays.values())
    assert refused > 100


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
def test_names(suffix, tmp_path):
    """Any that can be shown; others would break lines, colour the screen or end within other files."""
    path = tmp_path / f"w{suffix}"
    names = {"a=b": SIX.astype(jnp.bfloat16), "w": SIX, "w.npy": SIX + 1, "é/ß ": SIX + 2}
    path.write_bytes(weights_bytes(names, path))
    for name, array in read_weights(path).items():
        assert array.dtype == names[name].dtype
        np.testing.assert_array_equal(array, names[name])
    for name in ("a\nb", "a\x1b[31m"):
        path.write_bytes(weights_bytes({name: SIX}, path))
        with pytest.raises(UserError, match=r"has an array with an unprintable name: a\\(n|x1b)"):
            read_weights(path)


def test_names_that_a_format_needs():
    with pytest.raises(UserError, match="cannot be called __metadata__"):
        weights_bytes({"__metadata__": SIX}, "w.safetensors")
    with pytest.raises(UserError, match="cannot be called __types__"):
        weights_bytes({"__types__": SIX}, "w.npz")
    assert {".safetensors", ".npz", ".pth", ".pt"} <= FORMATS.keys()
