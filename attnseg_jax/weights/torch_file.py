"""PyTorch's own files (`.pth`, `.pt`), in zip and legacy form, read and written without PyTorch.

Reading runs nothing that the file holds (see `torch_pickle`), and every size it states is compared with the bytes that
are there before an array is made.
"""

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from attnseg_jax.errors import UserError
from attnseg_jax.weights import torch_pickle
from attnseg_jax.weights.torch_values import STORAGES, TYPES, Refused, Storage, Tensor, describe

# Keys under which training scripts keep a state dict, in the order in which they are tried.
NESTS = ("state_dict", "model", "model_state_dict", "module", "net", "network", "params", "model_ema", "ema")

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
# Of one storage, on average; models that share layers have one for each use.
_MOST_NAMES = 64
_Read = Callable[[Storage], bytes]


def read_torch(path: str | Path) -> dict[str, np.ndarray]:
    """The state dict of a PyTorch file as NumPy arrays under their names, without PyTorch.

    The state dict is the dictionary under the first of `NESTS`, or under one of them there, and so on, the innermost
    that holds a tensor; without any the outermost. Its values that are no tensors are left out. Arrays are read-only;
    tensors that share a storage share its memory; bfloat16 and float8 are JAX's types.

    Args:
      path: a file of `torch.save`, in zip form (PyTorch 1.6 and later) or the older one.

    Raises:
      UserError: there is no such file, it is damaged, states sizes that it does not have, holds no state dict, or asks
        for anything but tensors and plain containers.
    """
    try:
        with Path(path).open("rb") as file:
            return _read(file)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    # Refusals, and what NumPy and Python raise for numbers beyond them.
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path} is not read as a PyTorch file: {error}") from error
    except MemoryError as error:
        raise UserError(f"{path} is larger than the memory") from error


def torch_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a PyTorch file in zip form that holds `arrays` as a state dict (an `OrderedDict` of CPU tensors).

    `torch.load(weights_only=True)` reads it; types as in `read_torch`. Every array gets a storage of its own.

    Raises:
      UserError: a type that PyTorch does not have.
    """
    buffer = io.BytesIO()
    code = [b"\x80\x02", _named("collections", "OrderedDict"), b")R("]
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:

        def write(name: str, data: bytes) -> None:
            # A fixed time: equal weights make equal files.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data)

        for number, (name, array) in enumerate(arrays.items()):
            code += [_text(name), *_rebuild(name, str(number), np.asarray(array))]
        write("data.pkl", b"".join([*code, b"u."]))
        write("byteorder", b"little")
        for number, array in enumerate(arrays.values()):
            write(f"data/{number}", np.ascontiguousarray(array).tobytes())
        write("version", b"3\n")
    return buffer.getvalue()


def _rebuild(name: str, key: str, array: np.ndarray) -> list[bytes]:
    """The opcodes that make a tensor of the storage `key`."""
    kind = next((kind for kind, dtype in STORAGES.items() if dtype == array.dtype), None)
    if kind is None and str(array.dtype) not in TYPES:
        raise UserError(f"{name} has the type {array.dtype}, which PyTorch does not have")
    strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
    function, storage = ("_rebuild_tensor_v2", _named("torch", kind)) if kind else (
        "_rebuild_tensor_v3", _named("torch.storage", "UntypedStorage"))  # fmt: skip
    items = array.size if kind else array.nbytes
    return [
        _named("torch._utils", function), b"((", _text("storage"), storage, _text(key), _text("cpu"), _integer(items),
        b"tQ", _integer(0), _integers(array.shape), _integers(strides), b"\x89", _named("collections", "OrderedDict"),
        b")R", b"" if kind else _named("torch", str(array.dtype)), b"tR",
    ]  # fmt: skip


def _named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _integer(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def _integers(values: Iterable[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(4)
    file.seek(0)
    if start == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(file) as archive:
                return _read_zip(archive, size)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, UnicodeError) as error:
            raise Refused(f"its zip archive is damaged ({error})") from error
    return _read_legacy(file, size)


def _read_zip(archive: zipfile.ZipFile, size: int) -> dict[str, np.ndarray]:
    entries = {entry.filename: entry for entry in archive.infolist()}
    _check_entries(archive.infolist(), size)
    pickles = [name for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise Refused(f"its zip archive has {len(pickles)} files NAME/data.pkl instead of one")
    if entries[pickles[0]].file_size > torch_pickle.MAX_BYTES:
        raise Refused(f"{describe(pickles[0])} is larger than {torch_pickle.MAX_BYTES >> 20} MiB")
    folder = pickles[0].removesuffix("data.pkl")
    if (order := folder + "byteorder") in entries and archive.read(order) != b"little":
        raise Refused("its byte order is not little-endian")
    # The whole entry: only then is its checksum verified.
    content, _ = torch_pickle.load(io.BytesIO(archive.read(pickles[0])))

    def read(storage: Storage) -> bytes:
        name = f"{folder}data/{storage.key}"
        if name not in entries:
            raise Refused(f"its zip archive has no {name}")
        if entries[name].file_size != storage.nbytes:
            raise Refused(f"{name} has {entries[name].file_size} bytes instead of {storage.nbytes}")
        return archive.read(name)

    return _arrays(content, read)


def _check_entries(entries: list[zipfile.ZipInfo], size: int) -> None:
    """Refuses archives that PyTorch does not write: compressed, larger than the file, with misleading names."""
    seen = set()
    for entry in entries:
        name = entry.filename
        if name in seen:
            raise Refused(f"its zip archive has {describe(name)} twice")
        seen.add(name)
        if name.startswith("/") or "\\" in name or ":" in name or {"", ".", ".."} & set(name.rstrip("/").split("/")):
            raise Refused(f"its zip archive has a file with the path {describe(name)}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise Refused(f"{describe(name)} is compressed or encrypted in its zip archive")
        if entry.file_size != entry.compress_size:
            raise Refused(f"{describe(name)} has two sizes in its zip archive")
    if sum(entry.file_size for entry in entries) > size:
        raise Refused("the files in its zip archive are larger than the archive")


def _read_legacy(file: BinaryIO, size: int) -> dict[str, np.ndarray]:
    try:
        magic, _ = torch_pickle.load(file)
    except Refused:
        magic = None
    if magic != _MAGIC:
        raise Refused("it is neither a zip archive nor a legacy file of torch.save")
    (protocol, _), (system, _) = torch_pickle.load(file), torch_pickle.load(file)
    if protocol != _PROTOCOL:
        raise Refused(f"its protocol is not {_PROTOCOL}")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("its byte order is not little-endian")
    (content, storages), (keys, _) = torch_pickle.load(file), torch_pickle.load(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len({*keys}) != len(keys):
        raise Refused("its list of storages is damaged")
    if {*keys} != storages.keys():
        raise Refused("its list of storages is not that of its tensors")
    places = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little", signed=True)
        if count != storages[key].items:
            raise Refused(f"storage {key} has {count} elements instead of {storages[key].items}")
        places[key] = file.tell()
        if file.seek(storages[key].nbytes, os.SEEK_CUR) > size:
            raise Refused(f"it ends within storage {key}")

    def read(storage: Storage) -> bytes:
        file.seek(places[storage.key])
        return file.read(storage.nbytes)

    return _arrays(content, read)


def _arrays(content: Any, read: _Read) -> dict[str, np.ndarray]:
    tensors = {name: value for name, value in _state_dict(content).items() if isinstance(value, Tensor)}
    if odd := [name for name in tensors if not isinstance(name, str)]:
        raise Refused(f"its state dict has the name {odd[0]!r}, which is no text")
    # A name more for a tensor takes a few bytes of the file, and a copy of it wherever the array is converted.
    held = sum(storage.nbytes for storage in {tensor.storage for tensor in tensors.values()})
    if sum(tensor.nbytes for tensor in tensors.values()) > _MOST_NAMES * held:
        raise Refused(f"its tensors share their memory more than {_MOST_NAMES} times over")
    data: dict[Storage, bytes] = {}
    arrays = {}
    for name, tensor in tensors.items():
        if tensor.storage not in data:
            data[tensor.storage] = read(tensor.storage)
        arrays[name] = tensor.view(data[tensor.storage])
        if tensor.dtype == np.bool_ and (arrays[name].view(np.uint8) > 1).any():
            raise Refused(f"{describe(name)} is boolean and has other values than 0 and 1")
    return arrays


def _state_dict(content: Any) -> Mapping[Any, Any]:
    found = None
    # No deeper, because a dictionary may hold itself.
    for _ in range(len(NESTS)):
        if not isinstance(content, Mapping):
            break
        # Scripts keep their best score beside the state dict, as a tensor.
        if any(isinstance(value, Tensor) for value in content.values()):
            found = content
        nest = next((key for key in NESTS if isinstance(content.get(key), Mapping)), None)
        if nest is None:
            break
        content = content[nest]
    if found is not None:
        return found
    held = ", ".join(sorted(map(describe, content))[:8]) if isinstance(content, Mapping) else f"a {describe(content)}"
    raise Refused(f"it holds no state dict at its top or under {', '.join(NESTS)}; it holds {held or 'nothing'}")
