"""PyTorch's files that would run code, fill the memory or contradict themselves: all are refused."""

import os
import pickle
import struct
import zipfile

import pytest
from torch_opcodes import HOOKS, SIX, SOUND, holding, integer, storage, tensor, text, write_legacy, write_zip

from attnseg_jax.errors import UserError
from attnseg_jax.weights import torch_pickle
from attnseg_jax.weights.torch_file import read_torch


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def evil(marker, protocol):
    return pickle.dumps({"w": Evil(marker)}, protocol)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_code_is_refused_by_name_and_does_not_run(write, protocol, tmp_path):
    marker = tmp_path / "ran"
    pickle.loads(evil(marker, protocol))
    marker.rmdir()  # it does run where pickle reads it
    path = write(tmp_path / "w.pth", evil(marker, protocol))
    with pytest.raises(UserError, match=r"w\.pth .* asks for (posix|nt)\.mkdir"):
        read_torch(path)
    assert not marker.exists()


def nested(depth):
    return b"\x80\x02" + b"(" * depth + b"t" * depth + b"."


CODE = {
    "another class": (holding(("w", b"cbuiltins\neval\n" + text("1") + b"\x85R")), "asks for builtins.eval"),
    "through an allowed module": (holding(("w", b"ctorch\nload\n" + text("x") + b"\x85R")), "torch.load"),
    "by a dotted name": (b"\x80\x04" + text("collections") + text("OrderedDict.__init__") + b"\x93.", "__init__"),
    "a pickle in a pickle": (holding(("w", b"cpickle\nloads\nC\x01.\x85R")), "asks for pickle.loads"),
    "a call of a value": (holding(("w", text("a") + b")R")), "calls a"),
    "a call of a type": (holding(("w", b"ctorch\nFloatStorage\n)R")), "calls _Type"),
    "new objects": (holding(("w", HOOKS[:-2] + b")\x81")), "asks for NEWOBJ"),
    "registered extensions": (b"\x80\x02\x82\x01.", "asks for EXT1"),
    "an instance": (b"(ios\nsystem\n.", "asks for INST"),
    "too many arguments": (holding(("w", HOOKS[:-2] + b"NN\x86R")), "with 2 arguments"),
    "a state for a list": (holding(("w", b"]}b")), "has a list in the place of dict"),
    "a storage that is none": (holding(("w", storage(6, word="module"))), "no storage: module"),
    "an identity that is no tuple": (b"\x80\x02" + text("/etc/passwd") + b"Q.", "no storage: /etc/passwd"),
    "a text identity": (b"P/etc/passwd\n.", "asks for PERSID"),
    "a storage of no type": (holding(("w", tensor(storage(6, kind=text("f"))))), "of the type f"),
    "a type as storage": (holding(("w", tensor(storage(6, kind=b"ctorch\nfloat32\n")))), "of the type _Type"),
    "a storage outside": (holding(("w", tensor(storage(6, key="../0")))), "a storage named ../0"),
    "a storage that is missing": (holding(("w", tensor(storage(6, key="5")))), "no archive/data/5"),
    "a storage of two sizes": (holding(("v", storage(7)), ("w", tensor(storage(6)))), "two types or sizes"),
    "a storage view": (holding(("w", tensor(storage(6, more=b"K\x01")))), "another form"),
    "a storage with too many bytes": (holding(("w", tensor(storage(7)))), "has 24 bytes instead of 28"),
    "a storage with too few bytes": (
        holding(
            (
                "w",
                tensor(
                    storage(
                        5,
                    ),
                    shape=(1,),
                    strides=(1,),
                ),
            )
        ),
        "instead of 20",
    ),
    "an impossible storage": (holding(("w", tensor(storage(2**62)))), "impossible size"),
    "a negative storage": (holding(("w", tensor(storage(-1)))), "impossible size"),
    "a shape beyond the storage": (holding(("w", tensor(storage(6), shape=(2, 4)))), "6 elements cannot hold"),
    "strides beyond it": (holding(("w", tensor(storage(6), strides=(3, 2)))), "6 elements cannot hold"),
    "an offset beyond it": (holding(("w", tensor(storage(6), offset=1))), "6 elements cannot hold"),
    "repeated elements": (holding(("w", tensor(storage(6), shape=(2**30, 2**30), strides=(0, 0)))), "cannot hold"),
    "a negative stride": (holding(("w", tensor(storage(6), strides=(-3, 1), offset=3))), "impossible size, stride"),
    "an absurd size": (holding(("w", tensor(storage(6), shape=(0, 2**60)))), "impossible size, stride"),
    "many axes": (holding(("w", tensor(storage(6), shape=(1,) * 40, strides=(1,) * 40))), "40 axes"),
    "axes without strides": (holding(("w", tensor(storage(6), strides=(1,)))), "2 axes and 1 strides"),
    "a size that is no number": (holding(("w", tensor(storage(6)).replace(integer(2), text("2")))), "str in the place"),
    "a tensor of no storage": (holding(("w", tensor(b"N"))), "NoneType in the place of Storage"),
    "a name that is no text": (b"\x80\x02}K\x05" + tensor(storage(6)) + b"s.", "the name 5, which is no text"),
    "a key of many parts": (b"\x80\x02})" + b"2\x86" * 90 + b"Ns.", "asks for DUP"),
    "keys of one hash": (b"\x80\x02}(" + b"\x8a\x08" + struct.pack("<q", 2**61 - 1) + b"Nu.", "key of 2^60 or more"),
    "a key of parts": (b"\x80\x02}))\x86Ns.", "dictionary key of type tuple"),
    "depth": (nested(200_000), "it holds a tuple"),
    "a large memo": (b"\x80\x02Nr" + struct.pack("<I", 2**32 - 1) + b".", "it holds a NoneType"),
    "a memo of nothing": (b"\x80\x02h\x07.", "damaged"),
    "a text longer than the file": (b"\x80\x02X" + struct.pack("<I", 2**32 - 1) + b"a.", "damaged"),
    "bytes longer than any": (b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b"a.", "damaged"),
    "more marks than items": (b"\x80\x02tt.", "damaged"),
    "nothing": (b"", "damaged"),
    "no end": (b"\x80\x02N", "damaged"),
    "an unknown opcode": (b"\x80\x02\xff.", "damaged"),
    "an odd escape": (b"S'\\q'\n.", "it holds a "),
    "a memo of large numbers": (b"\x80\x02Np" + str(2**61 - 1).encode() + b"\n.", "an impossible number"),
    "a memo of nothing below": (b"\x80\x02Np-1\n.", "an impossible number"),
    "an empty tensor": (
        holding(("w", tensor(storage(6), shape=(0, 2**40, 2**40), strides=(1, 1, 1)))),
        "is not read as a PyTorch file: ",
    ),
    "a tensor of many names": (holding(*((f"w{i}", tensor(storage(6))) for i in range(65))), "64 times over"),
    "a long number": (b"I" + b"9" * 5000 + b"\n.", "damaged"),
}


@pytest.mark.parametrize("name", CODE)
def test_hostile_pickles(name, tmp_path):
    code, words = CODE[name]
    with pytest.raises(UserError) as error:
        read_torch(write_zip(tmp_path / "w.pth", code))
    message = str(error.value)
    assert words in message and message.startswith(f"{tmp_path / 'w.pth'} is not read") and "\n" not in message
    assert len(message) < 500


def test_values_that_contain_themselves_many_times(tmp_path):
    """2^60 leaves in a line each; only what is needed is visited."""
    for empty, end in ((b"]", b"(h%bh%be"), (b")", b"h%bh%b\x86")):
        deep = empty + b"q\x000"
        for i in range(60):
            deep += (empty if empty == b"]" else b"") + end % (bytes([i]), bytes([i])) + b"q%b0" % bytes([i + 1])
        deep += b"h\x3c"
        path = write_zip(tmp_path / "w.pth", holding(("deep", deep), ("w", tensor(storage(6)))))
        assert list(read_torch(path)) == ["w"]
        with pytest.raises(UserError, match="is not read"):
            read_torch(write_zip(path, b"\x80\x02}" + deep + b"Ns."))


@pytest.mark.parametrize(
    "function, given",
    [
        (b"ctorch\nSize\n", b"](" + b"N" * 20_000 + b"e"),
        (b"ccollections\nOrderedDict\n", b"](" + b"K\x01N\x86q\x03" + b"h\x03" * 19_999 + b"e"),
        (b"c_codecs\nencode\n", text("a" * 20_000)),
    ],
)
def test_few_bytes_do_not_become_many(function, given, tmp_path, monkeypatch):
    """A large list or text is there once and copied again and again, which would fill any memory."""
    monkeypatch.setattr(torch_pickle, "MAX_BYTES", 1 << 18)
    more = b"h\x02\x86" if b"encode" in function else b"\x85"
    code = b"\x80\x02" + function + b"q\x000" + given + b"q\x010" + text("latin1") + b"q\x020"
    for count, words in ((5, "no state dict"), (100, "copies more than 262144 elements")):
        with pytest.raises(UserError, match=words):
            read_torch(write_zip(tmp_path / "w.pth", code + (b"h\x00h\x01" + more + b"R") * count + b"}."))


def test_other_values_than_0_and_1_in_a_boolean(tmp_path):
    code = holding(("w", tensor(storage(6, kind=b"ctorch\nBoolStorage\n"))))
    with pytest.raises(UserError, match=r"w is boolean and has other values than 0 and 1"):
        read_torch(write_zip(tmp_path / "w.pth", code, {"0": bytes([0, 1, 1, 0, 2, 1])}))


@pytest.mark.parametrize(
    "given, words",
    [
        ({"folder": "../"}, "the path ../data.pkl"),
        ({"folder": "/tmp/"}, "the path /tmp/data.pkl"),
        ({"extra": [("archive/../../x", b"")]}, "the path archive/../../x"),
        ({"extra": [("C:\\x", b"")]}, "the path C:"),
        ({"extra": [("other/data.pkl", SOUND)]}, "2 files NAME/data.pkl"),
        ({"folder": ""}, "0 files NAME/data.pkl"),
        ({"compression": zipfile.ZIP_DEFLATED, "data": {"0": bytes(10**7)}}, "compressed"),
        ({"extra": [("archive/byteorder", b"big")]}, "not little-endian"),
        ({"code": bytes(5 << 20)}, "data.pkl is larger than 4 MiB"),
    ],
)
def test_hostile_archives(given, words, tmp_path):
    with pytest.raises(UserError) as error:
        read_torch(write_zip(tmp_path / "w.pth", **given))
    assert words in str(error.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_in_the_archive(tmp_path):
    with pytest.raises(UserError, match=r"has archive/data\.pkl twice"):
        read_torch(write_zip(tmp_path / "w.pth", extra=[("archive/data.pkl", SOUND)]))


@pytest.mark.parametrize("where, offset", [(b"PK\x01\x02", 20), (b"PK\x01\x02", 24), (b"PK\x01\x02", 42)])
@pytest.mark.parametrize("value", [0, 1, 2**31 - 1, 2**32 - 2])
def test_lying_numbers_in_the_archive(where, offset, value, tmp_path):
    """Compressed size, size and place of each entry of the central directory."""
    content = bytearray(write_zip(tmp_path / "w.pth").read_bytes())
    place = content.index(where)
    while place >= 0:
        changed = bytearray(content)
        struct.pack_into("<I", changed, place + offset, value)
        place = content.find(where, place + 1)
        if changed != content:
            (tmp_path / "w.pth").write_bytes(changed)
            with pytest.raises(UserError, match=r"w\.pth is not read"):
                read_torch(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "given, words",
    [
        ({"magic": 5}, "neither a zip archive nor a legacy file"),
        ({"system": {"little_endian": False}}, "not little-endian"),
        ({"system": [1]}, "not little-endian"),
        ({"keys": ()}, "is not that of its tensors"),
        ({"keys": ("0", "1")}, "is not that of its tensors"),
        ({"keys": ("0", "0")}, "list of storages is damaged"),
        ({"keys": (0,)}, "list of storages is damaged"),
        ({"data": ((7, SIX.tobytes()),)}, "storage 0 has 7 elements instead of 6"),
        ({"data": ((-1, b""),)}, "storage 0 has -1 elements"),
        ({"data": ((6, SIX.tobytes()[:-1]),)}, "ends within storage 0"),
        ({"data": ()}, "storage 0 has 0 elements"),
        ({"code": bytes(5 << 20)}, "damaged"),
        ({"code": b"\x80\x02" + text("a" * (5 << 20)) + b"."}, "larger than 4 MiB"),
    ],
)
def test_hostile_legacy_files(given, words, tmp_path):
    with pytest.raises(UserError) as error:
        read_torch(write_legacy(tmp_path / "w.pth", **given))
    assert words in str(error.value)
