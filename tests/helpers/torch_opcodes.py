"""Writes PyTorch files opcode by opcode, sound ones and others."""

import pickle
import struct
import zipfile

import numpy as np

REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
HOOKS = b"ccollections\nOrderedDict\n)R"


def integer(value):
    return b"\x8a\x08" + struct.pack("<q", value)


def integers(values):
    return b"(" + b"".join(map(integer, values)) + b"t"


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def storage(items, *, key="0", kind=b"ctorch\nFloatStorage\n", word="storage", more=b""):
    return b"(" + text(word) + kind + text(key) + text("cpu") + integer(items) + more + b"tQ"


def tensor(source, *, shape=(2, 3), strides=(3, 1), offset=0, function=REBUILD):
    parts = [function, b"(", source, integer(offset), integers(shape), integers(strides), b"\x89", HOOKS, b"tR"]
    return b"".join(parts)


def holding(*pairs):
    """A pickle of a dictionary of these (name, opcodes)."""
    return b"\x80\x02}(" + b"".join(text(name) + value for name, value in pairs) + b"u."


SIX = np.arange(6, dtype=np.float32)
ONE = ((6, SIX.tobytes()),)
SOUND = holding(("w", tensor(storage(6))))


def write_zip(path, code=SOUND, data=None, *, folder="archive/", extra=(), **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr(folder + "data.pkl", code)
        for key, value in ({"0": SIX.tobytes()} if data is None else data).items():
            archive.writestr(f"{folder}data/{key}", value)
        for name, value in extra:
            archive.writestr(name, value)
    return path


def write_legacy(path, code=SOUND, data=ONE, keys=("0",), system=None, magic=0x1950A86A20F9469CFC6C):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}} if system is None else system
    head = b"".join(pickle.dumps(x, 2) for x in (magic, 1001, system))
    body = b"".join(struct.pack("<q", count) + values for count, values in data)
    path.write_bytes(head + code.replace(b"tQ", b"NtQ") + pickle.dumps(list(keys), 2) + body)
    return path
