"""The pickles inside PyTorch files, read without running anything that they name.

A pickle is a program for a small stack machine. Here it can build numbers, strings, lists, tuples, dictionaries and
descriptions of tensors; whatever else it asks for is refused by name. No class is looked up and nothing is imported.
"""

import pickletools
import warnings
from typing import Any, BinaryIO

from attnseg_jax.weights.torch_values import Builder, Refused, Storage, describe, expect, fill, find, read_storage

# A state dict takes about 150 bytes for each tensor.
MAX_BYTES = 4 << 20


def load(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """What the pickle at the file's position describes, and all storages it names; leaves the file behind its end.

    Raises:
      Refused: it asks for anything but plain values and tensors, or is no pickle.
    """
    try:
        with warnings.catch_warnings():
            # `pickletools` warns of odd escapes in strings.
            warnings.simplefilter("ignore")
            machine = _Machine()
            return machine.run(_Bounded(file)), machine.storages
    except (ValueError, LookupError, OverflowError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"its pickle is damaged ({error})") from error


class _Bounded:
    """What `pickletools` needs of a file, up to `MAX_BYTES`."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._left = MAX_BYTES

    def read(self, size: int) -> bytes:
        return self._count(self._file.read(min(size, self._left)), size)

    def readline(self) -> bytes:
        return self._count(self._file.readline(self._left), 1)

    def tell(self) -> int:
        return self._file.tell()

    def _count(self, data: bytes, asked: int) -> bytes:
        self._left -= len(data)
        if len(data) < asked and not self._left:
            raise Refused(f"its pickle is larger than {MAX_BYTES >> 20} MiB")
        return data


class _Machine:
    """The stack machine; one method for each group of opcodes."""

    def __init__(self):
        self.stack: list = []
        self.below: list[list] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.copied = 0

    def run(self, file: _Bounded) -> Any:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _VALUES:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise Refused(f"its pickle asks for {name}, which state dicts do not need")
        raise Refused("its pickle has no end")

    def mark(self, _):
        self.below.append(self.stack)
        self.stack = []

    def to_mark(self) -> list:
        items, self.stack = self.stack, self.below.pop()
        return items

    def pop(self, _):
        self.stack.pop()

    def put(self, index):
        # As the keys of `fill`: large numbers can have equal hashes.
        if not 0 <= expect(index, int) < 1 << 32:
            raise Refused("its pickle remembers a value under an impossible number")
        self.memo[index] = self.stack[-1]

    def memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def get(self, index):
        self.stack.append(self.memo[index])

    def tuple_of(self, count):
        items = self.to_mark() if count is None else [self.stack.pop() for _ in range(count)][::-1]
        self.stack.append(tuple(items))

    def list_of(self, _):
        items = self.to_mark()
        self.stack.append(items)

    def dict_of(self, _):
        items = self.to_mark()
        self.stack.append(fill({}, items))

    def append(self, _):
        item = self.stack.pop()
        expect(self.stack[-1], list).append(item)

    def appends(self, _):
        items = self.to_mark()
        expect(self.stack[-1], list).extend(items)

    def set_item(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        fill(expect(self.stack[-1], dict), [key, value])

    def set_items(self, _):
        items = self.to_mark()
        fill(expect(self.stack[-1], dict), items)

    def global_(self, argument):
        self.stack.append(find(*argument.split(" ", 1)))

    def stack_global(self, _):
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(find(expect(module, str), expect(name, str)))

    def reduce(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Builder):
            raise Refused(f"its pickle calls {describe(function)}")
        arguments = expect(arguments, tuple)
        if len(arguments) not in function.counts:
            raise Refused(f"its pickle calls {function.name} with {len(arguments)} arguments")
        # A function copies what it is given, and a few bytes can give it the same large list again and again.
        self.copied += sum(len(argument) for argument in arguments if isinstance(argument, list | str))
        if self.copied > MAX_BYTES:
            raise Refused(f"its pickle copies more than {MAX_BYTES} elements")
        self.stack.append(function.build(*arguments))

    def build(self, _):
        # The module versions that a PyTorch state dict carries as an attribute; not used.
        self.stack.pop()
        expect(self.stack[-1], dict)

    def persistent(self, _):
        storage = read_storage(self.stack.pop())
        if self.storages.setdefault(storage.key, storage) != storage:
            raise Refused(f"its pickle gives storage {storage.key} two types or sizes")
        self.stack.append(storage)


_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_ACTIONS = {
    "MARK": _Machine.mark,
    "POP": _Machine.pop,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": lambda machine, _: machine.tuple_of(None),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "LIST": _Machine.list_of,
    "DICT": _Machine.dict_of,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "SETITEM": _Machine.set_item,
    "SETITEMS": _Machine.set_items,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
