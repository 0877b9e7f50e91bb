"""Pickles of NumPy arrays (`.pkl`), as detectron2 publishes them, read without running anything that they name.

`pickle` builds plain values and containers itself, and asks for everything else by name: it gets the descriptions below
for NumPy's arrays and types, and nothing for other names.
"""

import math
import os
import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from attnseg_jax.errors import UserError
from attnseg_jax.weights.torch_values import Refused, describe, expect

_TYPES = {"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"}


def read_numpy_pickle(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays under the key 'model' of a pickled dictionary, by name; without such a key those of the dictionary.

    Values that are no arrays are left out. The arrays are read-only.

    Raises:
      UserError: there is no such file, it is damaged, or holds anything but plain values and arrays of numbers.
    """
    try:
        with Path(path).open("rb") as file:
            _check_numbers(file)
            content = _Unpickler(file).load()
        model = content.get("model", content) if isinstance(content, dict) else content
        found = {name: value.made() for name, value in expect(model, Mapping).items() if isinstance(value, _Array)}
        if odd := [name for name in found if not isinstance(name, str)]:
            raise Refused(f"it has the name {odd[0]!r}, which is no text")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise UserError(f"{path} is larger than the memory") from error
    # What `pickle` raises on damaged files has no common class.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is not read as a pickle of NumPy arrays: {reason[:200]}") from error
    if not found:
        raise UserError(f"{path} holds no NumPy arrays, at its top or under 'model'")
    return found


def no_pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Refuses: safetensors do all that a pickle does, and nothing else."""
    raise UserError("pickles are read, not written: write a file that ends in .safetensors")


def _check_numbers(file: BinaryIO) -> None:
    """Refuses values remembered under numbers that no pickle comes to: `pickle` makes room for all below."""
    for count, (opcode, number, _) in enumerate(pickletools.genops(file)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and number > count:
            raise Refused("it remembers a value under an impossible number")
    file.seek(0)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self._left = os.fstat(file.fileno()).st_size

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encoded
        found = _NAMES.get((module.replace("numpy._core.", "numpy.core."), name))
        if found is None:
            raise Refused(f"it asks for {describe(f'{module}.{name}')}, which arrays do not need")
        return found

    def _encoded(self, text: str, _: str) -> bytes:
        """In the place of `_codecs.encode`, by which protocols below 3 write bytes."""
        # It copies, and a few bytes can give it the same large text again and again.
        self._left -= len(expect(text, str))
        if self._left < 0:
            raise Refused("its arrays are larger than the file")
        return text.encode("latin1")


class _Type:
    """In the place of a `numpy.dtype`."""

    def __init__(self, name: str, *_: Any):
        if name not in _TYPES:
            raise Refused(f"it has an array of the type {describe(name)}")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: tuple):
        if expect(state, tuple)[1] == ">":
            raise Refused("its byte order is not little-endian")


class _Array:
    """In the place of a `numpy.ndarray`; `made` compares what it says of itself with the bytes that are there."""

    state: tuple = ()

    def __setstate__(self, state: tuple):
        self.state = expect(state, tuple)

    def made(self) -> np.ndarray:
        _, shape, kind, fortran, data = self.state
        dtype, data = expect(kind, _Type).dtype, expect(data, bytes | memoryview)
        if any(expect(n, int) < 0 for n in expect(shape, tuple)) or math.prod(shape) * dtype.itemsize != len(data):
            raise Refused(f"it has an array of the shape {shape} in {len(data)} bytes")
        return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def _started(*_: Any) -> _Array:
    """In the place of `_reconstruct`, which makes an array that its state then fills."""
    return _Array()


def _of_buffer(data: bytes | bytearray, kind: _Type, shape: tuple, order: str) -> _Array:
    """In the place of `_frombuffer`, by which protocol 5 writes arrays."""
    array = _Array()
    array.state = (1, shape, kind, order == "F", memoryview(data).toreadonly())
    return array


def _no_bytes() -> bytes:
    """In the place of `bytes`, which protocols below 3 call for empty ones; given a number it would fill the memory."""
    return b""


_NAMES = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _started,
    ("numpy.core.numeric", "_frombuffer"): _of_buffer,
    **dict.fromkeys((("builtins", "bytes"), ("__builtin__", "bytes")), _no_bytes),
    ("collections", "OrderedDict"): dict,
}
