"""What a pickle inside a PyTorch file may name: storages, tensors and ordered dictionaries, as plain descriptions."""

import collections
import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

# Kind of storage -> type of its elements.
STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(jnp.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexDoubleStorage": np.dtype(np.complex128),
    "ComplexFloatStorage": np.dtype(np.complex64),
}
# Types without a storage of their own lie in untyped ones.
TYPES = {str(dtype): dtype for dtype in STORAGES.values()} | {
    str(np.dtype(t)): np.dtype(t)
    for t in (
        np.uint16,
        np.uint32,
        np.uint64,
        jnp.float8_e4m3fn,
        jnp.float8_e5m2,
        jnp.float8_e4m3fnuz,
        jnp.float8_e5m2fnuz,
    )
}

MAX_AXES = 32
MAX_LENGTH = 1 << 40


class Refused(ValueError):
    """Why a file is not read; becomes a `UserError` where the file's name is known."""


@dataclass(frozen=True)
class Storage:
    """A one-dimensional array of a file: its key, the type and number of its elements."""

    key: str
    dtype: np.dtype
    items: int

    @property
    def nbytes(self) -> int:
        """Size in the file."""
        return self.items * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; offset and strides count elements of `dtype`."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of an array of its own."""
        return math.prod(self.shape) * self.dtype.itemsize

    def view(self, data: bytes) -> np.ndarray:
        """The tensor as an array, given the bytes of its storage."""
        if not math.prod(self.shape):
            return np.zeros(self.shape, self.dtype)
        item = self.dtype.itemsize
        return np.ndarray(self.shape, self.dtype, data, self.offset * item, tuple(s * item for s in self.strides))


@dataclass(frozen=True)
class Builder:
    """A function that a pickle may call, with the numbers of arguments it may give."""

    name: str
    build: Any
    counts: range


@dataclass(frozen=True)
class _Type:
    """A type of elements, of a storage where `storage` is set."""

    dtype: np.dtype
    storage: bool


def find(module: str, name: str) -> Any:
    """What stands for a class or function that a pickle names."""
    try:
        return _ALLOWED[f"{module}.{name}"]
    except KeyError:
        raise Refused(
            f"it asks for {describe(f'{module}.{name}')}, and only tensors and plain containers are read; save "
            "model.state_dict() alone"
        ) from None


def describe(value: Any) -> str:
    """A short, printable form of something from a file."""
    text = value if isinstance(value, str) else type(value).__name__
    return ascii(text)[1:-1][:80]


def expect(value: Any, kind: Any) -> Any:
    """`value` if it is of that kind; a bool is no int."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise Refused(
            f"its pickle has a {describe(type(value).__name__)} in the place of {getattr(kind, '__name__', kind)}"
        )
    return value


def fill(target: dict, items: list) -> dict:
    """`target` with the keys and values that follow one another in `items`."""
    if len(items) % 2:
        raise Refused("its pickle has a key without a value")
    for key, value in zip(items[::2], items[1::2]):
        # A tuple may hold itself many times over, and its hash would visit each.
        if not isinstance(key, str | int | float | bytes | None):
            raise Refused(f"its pickle has a dictionary key of type {describe(type(key).__name__)}")
        # Larger ones can have equal hashes, and a dictionary of many such takes hours.
        if isinstance(key, int) and abs(key) >= 1 << 60:
            raise Refused("its pickle has a dictionary key of 2^60 or more")
        target[key] = value
    return target


def read_storage(identity: Any) -> Storage:
    """The storage a persistent id names: `('storage', type, key, device, elements[, view])`."""
    if not isinstance(identity, tuple) or not identity or identity[0] != "storage":
        kind = identity[0] if isinstance(identity, tuple) and identity else identity
        raise Refused(f"its pickle refers to something outside that is no storage: {describe(kind)}")
    if len(identity) not in (5, 6) or (len(identity) == 6 and identity[5] is not None):
        raise Refused("its pickle has a storage of another form than PyTorch's")
    _, kind, key, _, items = identity[:5]
    if not (isinstance(kind, _Type) and kind.storage):
        raise Refused(f"its pickle has a storage of the type {describe(kind)}")
    key, items = expect(key, str), expect(items, int)
    if not (len(key) <= 20 and key.isascii() and key.isdecimal()):
        raise Refused(f"its pickle has a storage named {describe(key)}; names are numbers")
    if not 0 <= items <= MAX_LENGTH:
        raise Refused("its pickle has a storage of impossible size")
    return Storage(key, kind.dtype, items)


def _tensor(storage, offset, shape, strides, *rest, dtype=None) -> Tensor:
    storage = expect(storage, Storage)
    dtype = storage.dtype if dtype is None else dtype
    shape, strides = expect(shape, tuple), expect(strides, tuple)
    if len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise Refused(f"its pickle has a tensor of {len(shape)} axes and {len(strides)} strides")
    for number in (offset, *shape, *strides):
        if not 0 <= expect(number, int) <= MAX_LENGTH:
            raise Refused("its pickle has a tensor of impossible size, stride or offset")
    items, count = storage.nbytes // dtype.itemsize, math.prod(shape)
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides))
    if count and (count > items or last >= items):
        raise Refused(f"its pickle has a tensor of shape {shape} that its storage of {items} elements cannot hold")
    return Tensor(storage, dtype, offset, shape, strides)


def _typed_tensor(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None) -> Tensor:
    kind = expect(dtype, _Type)
    if kind.storage:
        raise Refused("its pickle has a storage's type where a tensor's must be")
    return _tensor(storage, offset, shape, strides, dtype=kind.dtype)


def _ordered(pairs=()) -> dict:
    items = []
    for pair in pairs if pairs == () else expect(pairs, list):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise Refused("its pickle has an OrderedDict of something else than pairs")
        items += pair
    return fill(collections.OrderedDict(), items)


_BUILDERS = [
    Builder("collections.OrderedDict", _ordered, range(2)),
    # How protocol 2 writes bytes.
    Builder("_codecs.encode", lambda text, encoding: expect(text, str).encode("latin-1"), range(2, 3)),
    Builder("torch.Size", lambda sizes: tuple(expect(sizes, list | tuple)), range(1, 2)),
    Builder("torch._utils._rebuild_tensor", _tensor, range(4, 5)),
    Builder("torch._utils._rebuild_tensor_v2", _tensor, range(6, 8)),
    Builder("torch._utils._rebuild_tensor_v3", _typed_tensor, range(7, 9)),
    Builder("torch._utils._rebuild_parameter", lambda data, *_: expect(data, Tensor), range(3, 4)),
]
_ALLOWED = {
    **{builder.name: builder for builder in _BUILDERS},
    **{f"torch.{name}": _Type(dtype, True) for name, dtype in STORAGES.items()},
    "torch.storage.UntypedStorage": _Type(np.dtype(np.uint8), True),
    **{f"torch.{name}": _Type(dtype, False) for name, dtype in TYPES.items()},
}
