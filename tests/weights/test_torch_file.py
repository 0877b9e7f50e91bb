"""PyTorch's files: sound ones in both forms, what is none, and a short fuzz."""

import collections
import io
import pickle
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from torch_opcodes import (
    HOOKS,
    SIX,
    SOUND,
    holding,
    integer,
    integers,
    storage,
    tensor,
    text,
    write_legacy,
    write_zip,
)

from attnseg_jax.errors import UserError
from attnseg_jax.weights.torch_file import read_torch, torch_bytes

RNG = np.random.default_rng(0)


def state():
    dtypes = [*"dfeqihbB?FD", jnp.bfloat16, jnp.float8_e4m3fn, np.uint16, np.uint64]
    arrays = {f"a.{np.dtype(t)}": RNG.integers(0, 2, (2, 3)).astype(t) for t in dtypes}
    return {**arrays, "number": np.array(7), "empty": np.zeros((0, 3), np.float16), "transposed": SIX.reshape(2, 3).T}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.ascontiguousarray(found[name]).tobytes() == np.ascontiguousarray(array).tobytes()


def test_what_is_written_is_read_again(tmp_path):
    expected = state()
    (tmp_path / "w.pth").write_bytes(torch_bytes(expected))
    assert_same(read_torch(tmp_path / "w.pth"), expected)
    assert torch_bytes(expected) == torch_bytes(expected)
    with pytest.raises(UserError, match=r"w has the type <U1, which PyTorch does not have"):
        torch_bytes({"w": np.array("a")})


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_views_share_their_storage(write, tmp_path):
    """Non-contiguous, overlapping and typed views; a tensor of no elements reaches nothing."""
    half = storage(6)
    untyped = storage(24, key="1", kind=b"ctorch.storage\nUntypedStorage\n")
    typed = [b"ctorch._utils\n_rebuild_tensor_v3\n(", untyped, integer(2), integers([2]), integers([2]), b"\x89", HOOKS]
    code = holding(
        ("whole", tensor(half)),
        ("transposed", tensor(half, shape=(3, 2), strides=(1, 3))),
        ("part", tensor(half, shape=(2,), strides=(2,), offset=1)),
        ("parameter", b"ctorch._utils\n_rebuild_parameter\n(" + tensor(half) + b"\x88" + HOOKS + b"tR"),
        ("older", b"ctorch._utils\n_rebuild_tensor\n(" + half + integer(5) + b"))tR"),
        ("empty", tensor(half, shape=(0, 9), strides=(9, 1), offset=40)),
        ("typed", b"".join([*typed, b"ctorch\nuint16\ntR"])),
    )
    if write is write_zip:
        path = write(tmp_path / "w.pth", code, {"0": SIX.tobytes(), "1": SIX.tobytes()})
    else:
        path = write(tmp_path / "w.pth", code, ((6, SIX.tobytes()), (24, SIX.tobytes())), ("0", "1"))
    found, matrix = read_torch(path), SIX.reshape(2, 3)
    expected = {"whole": matrix, "transposed": matrix.T, "part": SIX[[1, 3]], "parameter": matrix}
    expected |= {"older": SIX[5], "empty": np.zeros((0, 9), np.float32), "typed": SIX.view(np.uint16)[[2, 4]]}
    assert_same(found, expected)
    assert np.shares_memory(found["whole"], found["part"]) and not found["whole"].flags.writeable


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_plain_values_beside_the_tensors(protocol, tmp_path):
    """Of what else a training script keeps; the opcodes of every protocol."""
    plain = {"epoch": 3, "big": 2**70, "best": 0.5, "done": True, "no": None, "raw": b"\x00\xff", 7: [1, (2, 3, "é")]}
    plain["history"] = plain["again"] = [{"loss": 0.1 * i} for i in range(9)]
    plain["names"] = collections.OrderedDict(a=1)
    code = pickle.dumps(plain, protocol).removesuffix(b".") + text("state_dict") + SOUND[2:-1] + b"s."
    for write in (write_zip, write_legacy):
        np.testing.assert_array_equal(read_torch(write(tmp_path / "w.pth", code))["w"], SIX.reshape(2, 3))


def test_where_a_state_dict_is_looked_for(tmp_path):
    def read(code):
        return sorted(read_torch(write_zip(tmp_path / "w.pth", b"\x80\x02" + code + b".")))

    def group(*pairs):
        return holding(*pairs)[2:-1]

    inner = group(("w", tensor(storage(6))), ("epoch", b"K\x01"))
    other = group(("v", tensor(storage(6))))
    assert read(inner) == ["w"]
    assert read(group(("model", other), ("optimizer", other), ("state_dict", inner))) == ["w"]
    assert read(group(("model", group(("state_dict", inner))), ("epoch", b"K\x01"))) == ["w"]
    # Tensors beside it, of which the best accuracy is one in PyTorch's own example.
    assert read(group(("state_dict", inner), ("best", tensor(storage(6))))) == ["w"]
    assert read(group(("net", group(("epoch", b"K\x01"))), ("best", tensor(storage(6))))) == ["best"]
    assert read(b"}q\x01" + text("model") + b"h\x01s" + text("w") + tensor(storage(6)) + b"s") == ["w"]
    # The module versions that PyTorch keeps as an attribute of the dictionary.
    metadata = b"}" + text("_metadata") + b"}sb"
    ordered = b"ccollections\nOrderedDict\n)R" + text("w") + tensor(storage(6)) + b"s"
    assert read(ordered + metadata) == ["w"]
    for code, held in ((group(("optimizer", other)), "it holds optimizer"), (tensor(storage(6)), "a Tensor")):
        with pytest.raises(UserError, match=f"no state dict at its top or under state_dict, model, .*; .*{held}"):
            read(code)


def test_what_is_no_file_of_weights(tmp_path):
    for name, content in (
        ("empty", b""),
        ("page", b"<!DOCTYPE html>\n<html>"),
        ("zip", b"PK\x03\x04"),
        ("tar", bytes(600)),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not read as a PyTorch file"):
            read_torch(tmp_path / name)
    for path in (tmp_path / "nowhere.pth", tmp_path):
        with pytest.raises(UserError, match="cannot be read: "):
            read_torch(path)


def mutate(content, rng, most=4):
    """Up to `most` times: a byte changed, a piece cut out or repeated, or a number at the bounds put in."""
    content = bytearray(content)
    for _ in range(rng.integers(1, most + 1)):
        place = int(rng.integers(len(content)))
        kind = rng.integers(5)
        if kind < 2:
            content[place] = rng.integers(256)
        elif kind == 2:
            del content[place : place + int(rng.integers(1, 40))]
        elif kind == 3:
            content[place:place] = content[place : place + int(rng.integers(1, 40))]
        else:
            content[place : place + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1])))
    return bytes(content)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_damaged_files_raise_the_clear_error_only(form, tmp_path):
    rng, path = np.random.default_rng(5), tmp_path / "w.pth"
    code = holding(("state_dict", holding(("w", tensor(storage(6))), ("v", tensor(storage(6))))[2:-1]), ("n", b"K\x01"))
    write_zip(path, code)
    assert sorted(read_torch(path)) == ["v", "w"]
    whole = (write_legacy if form == "legacy" else write_zip)(path, code).read_bytes()
    outcomes = collections.Counter()
    for _ in range(250):
        if form == "pickle":
            write_zip(path, mutate(code, rng, most=1))
        else:
            path.write_bytes(mutate(whole, rng))
        try:
            arrays = read_torch(path)
        except UserError as error:
            outcomes["refused"] += 1
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            outcomes["read"] += 1
            assert all(array.size <= 6 for array in arrays.values())
    assert outcomes["refused"] > 100 and outcomes["read"] > 0


def test_the_writer_of_these_tests_is_pythons_own_pickle(tmp_path):
    """The hand-made opcodes mean what `pickle` takes them for."""

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            return {"OrderedDict": collections.OrderedDict}.get(name, lambda *given: (name, given))

        def persistent_load(self, identity):
            return identity[2:]

    name, given = Reader(io.BytesIO(SOUND)).load()["w"]
    assert name == "_rebuild_tensor_v2" and given[:4] == (("0", "cpu", 6), 0, (2, 3), (3, 1))
