"""The format safetensors: the length of a JSON header, the header (names, types, shapes, places), then the data."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from attnseg_jax.errors import UserError
from attnseg_jax.weights.torch_values import MAX_AXES, MAX_LENGTH, describe

_TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}
_NOTES = "__metadata__"
# As in the library of this name.
_MAX_HEADER = 100_000_000


def read_safetensors(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name, read-only.

    Raises:
      UserError: there is no such file, its header is damaged, or it states other sizes than the file has.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"{path} is larger than the memory") from error
    try:
        return _parse(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no sound safetensors file ({error})") from error


def _parse(content: bytes) -> dict[str, np.ndarray]:
    length = int.from_bytes(content[:8], "little")
    if length > min(_MAX_HEADER, len(content) - 8):
        raise ValueError(f"its header of {length} bytes is longer than the file")
    header = json.loads(content[8 : 8 + length], object_pairs_hook=_unique)
    if not isinstance(header, dict):
        raise ValueError("its header is no dictionary")
    header.pop(_NOTES, None)
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    end, arrays = 0, {}
    for name in sorted(entries, key=lambda name: entries[name][2:]):
        dtype, shape, first, last = entries[name]
        # No holes and no overlaps.
        if first != end or last - first != math.prod(shape) * dtype.itemsize or 8 + length + last > len(content):
            raise ValueError(f"the place of {describe(name)} does not fit its type, its shape and the file")
        arrays[name] = np.ndarray(shape, dtype, content, 8 + length + first)
        if dtype == np.bool_ and (arrays[name].view(np.uint8) > 1).any():
            raise ValueError(f"{describe(name)} is boolean and has other values than 0 and 1")
        end = last
    if 8 + length + end != len(content):
        raise ValueError(f"{len(content) - 8 - length - end} bytes follow its last array")
    return {name: arrays[name] for name in header}


def _entry(name: str, entry: Any) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """Type, shape, begin and end of an array, of a form and size that can be."""
    match entry:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [first, last]}:
            numbers = (*shape, first, last)
        case _:
            raise ValueError(f"{describe(name)} is without a type, a shape or a place")
    if kind not in _TYPES:
        raise ValueError(f"{describe(name)} has the type {describe(kind)}, which is not known")
    if len(shape) > MAX_AXES or not all(type(number) is int and 0 <= number <= MAX_LENGTH for number in numbers):
        raise ValueError(f"{describe(name)} has an impossible shape or place")
    return _TYPES[kind], tuple(shape), first, last


def _unique(pairs: list) -> dict:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice in its header")
    return result


def safetensors_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a safetensors file that holds `arrays`; one of a type it does not have raises UserError."""
    types = {dtype: name for name, dtype in _TYPES.items()}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in arrays.items():
        if array.dtype not in types:
            raise UserError(f"{name} has the type {array.dtype}, which safetensors does not have: write .npz or .pth")
        if name == _NOTES:
            raise UserError(f"an array of a safetensors file cannot be called {name}")
    places, data, end = {}, [], 0
    # The widest elements first, so that all are aligned.
    for name in sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize):
        data.append(np.ascontiguousarray(arrays[name]).tobytes())
        places[name] = [end, end := end + arrays[name].nbytes]
    header = {
        name: {"dtype": types[array.dtype], "shape": list(array.shape), "data_offsets": places[name]}
        for name, array in arrays.items()
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(data)
