"""What a compiled program takes, read from its text: the compiler's cycles, bytes of the memory, communication.

`cost_analysis` counts the body of a loop once and what lies in a chip's fast memory as if it came from the large one.
Here a body counts as often as it runs, and only the large memory counts.
"""

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# What moves nothing itself.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](\{[^{}]*\})?")
_FAST = re.compile(r"S\([1-9]")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a program.

    Attributes:
      name: of its result.
      kind: its type, as text.
      opcode: such as `fusion`.
      operands: names of its operands.
      rest: what follows the operands: attributes and what the compiler noted.
    """

    name: str
    kind: str
    opcode: str
    operands: tuple[str, ...]
    rest: str

    @functools.cached_property
    def path(self) -> str:
        """Where in the program as it was written this comes from; empty where that is not known."""
        return found[1] if (found := re.search(r'op_name="([^"]*)"', self.rest)) else ""

    @functools.cached_property
    def cycles(self) -> int:
        """The compiler's estimate."""
        return int(found[1]) if (found := re.search(r'"estimated_cycles":"(\d+)"', self.rest)) else 0

    @functools.cached_property
    def channel(self) -> str:
        """The number that all pieces of one collective share; its name where it has none."""
        return found[1] if (found := re.search(r"channel_id=(\d+)", self.rest)) else self.name

    def called(self, *names: str) -> list[str]:
        """Computations that it runs by attributes of such names."""
        return re.findall(rf"\b(?:{'|'.join(names)})=%?([\w.\-]+)", self.rest)


@dataclass(frozen=True)
class Program:
    """Computations by name, each of them instructions by name in order, and the name of the one that runs."""

    computations: dict[str, dict[str, Instruction]]
    entry: str


@dataclass
class Taken:
    """What a program takes in one run on one device.

    Attributes:
      cycles: by the path of the instruction; 0 for what the compiler does not estimate.
      bytes: read from and written to the large memory.
      collectives: kind -> their number and the bytes that go into them on each device.
      kernels: custom calls, such as a Pallas kernel, into which no estimate looks: path or name -> how often they run.
      unknown_loops: loops whose length only the data tell; their bodies count once.
    """

    cycles: dict[str, float] = field(default_factory=dict)
    bytes: float = 0.0
    collectives: dict[str, tuple[int, float]] = field(default_factory=dict)
    kernels: dict[str, int] = field(default_factory=dict)
    unknown_loops: int = 0

    @property
    def all_cycles(self) -> float:
        """Of all instructions."""
        return sum(self.cycles.values())


def parse(text: str) -> Program:
    """The computations in the text of a compiled program."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry = ""
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
        if found := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            current = computations[found[2]] = {}
            if found[1]:
                entry = found[2]
        elif instruction := _instruction(line):
            current[instruction.name] = instruction
    return Program(computations, entry)


def _instruction(line: str) -> Instruction | None:
    if not (found := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)):
        return None
    at = found.end()
    kind = line[at : (end := _end(line, at) if line[at] == "(" else line.index(" ", at))]
    if not (opcode := re.match(r"\s*([\w\-]+)\(", line[end:])):
        return None
    start = end + opcode.end() - 1
    stop = _end(line, start)
    operands = tuple(re.findall(r"%([\w.\-]+)", line[start:stop]))
    return Instruction(found[1], kind, opcode[1], operands, line[stop:])


def _end(line: str, start: int) -> int:
    """The place behind the bracket that closes the one at `start`."""
    depth = 0
    for at in range(start, len(line)):
        depth += (line[at] == "(") - (line[at] == ")")
        if not depth:
            return at + 1
    return len(line)


def array_bytes(kind: str, *, large_only: bool = True) -> int:
    """The bytes of all arrays of a type, of those in the large memory alone unless told otherwise.

    >>> array_bytes("(f32[2,3]{1,0:T(8,128)}, bf16[5]{0:T(128)S(1)})"), array_bytes("bf16[5]{0}", large_only=False)
    (24, 10)
    """
    total = 0
    for name, sizes, layout in _ARRAY.findall(kind):
        if large_only and _FAST.search(layout):
            continue
        bits = 8 if name == "pred" else int(re.search(r"\d+", name)[0])
        total += math.prod(int(n) for n in sizes.split(",") if n) * bits // 8
    return total


def taken(text: str) -> Taken:
    """What one run of a program takes on each device, from its text (`compiled.as_text()`)."""
    program, result, seen = parse(text), Taken(), set()
    _take(program, program.entry, 1, result, seen)
    return result


def _take(program: Program, name: str, times: int, result: Taken, seen: set[tuple[str, int]]) -> None:
    computation = program.computations[name]
    for instruction in computation.values():
        opcode = instruction.opcode
        result.cycles[instruction.path] = result.cycles.get(instruction.path, 0.0) + times * instruction.cycles
        if opcode == "while":
            often = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.rest)
            result.unknown_loops += not often
            _take(program, instruction.called("body")[0], times * (int(often[1]) if often else 1), result, seen)
        elif opcode in ("call", "conditional"):
            for called in instruction.called("to_apply", "true_computation", "false_computation", "calls"):
                _take(program, called, times, result, seen)
        elif opcode == "custom-call" and "tpu_custom_call" in instruction.rest:
            where = instruction.path or instruction.name
            result.kernels[where] = result.kernels.get(where, 0) + times
        for collective in _collectives(program, instruction):
            # The pieces of an asynchronous one are spread over fusions, each of which holds it.
            piece = (collective.channel, size := _payload(collective))
            if collective is instruction or piece not in seen:
                seen.add(piece)
                kind = collective.opcode.removesuffix("-start")
                count, total = result.collectives.get(kind, (0, 0.0))
                result.collectives[kind] = count + times, total + times * size
        result.bytes += times * _moved(program, computation, instruction)


def _collectives(program: Program, instruction: Instruction) -> Iterator[Instruction]:
    """The collectives that an instruction is, or runs within a fusion or an asynchronous call."""
    if instruction.opcode.removesuffix("-start") in COLLECTIVES:
        yield instruction
    elif instruction.opcode in ("fusion", "async-start"):
        for called in instruction.called("calls"):
            for inner in program.computations.get(called, {}).values():
                yield from _collectives(program, inner)


def _payload(collective: Instruction) -> int:
    """The bytes of the whole array that a collective makes or takes, wherever they lie."""
    kinds = _ARRAY.finditer(collective.kind)
    sizes = [array_bytes(kind[0], large_only=False) for kind in kinds]
    if collective.opcode == "all-reduce":
        return sum(sizes)
    return max(sizes, default=0)


def _moved(program: Program, computation: dict[str, Instruction], instruction: Instruction) -> int:
    """Bytes that an instruction reads from the large memory and writes there."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith("-done"):
        return 0
    if opcode.endswith("-start"):
        # The result names its source again; what arrives has been read once and written once.
        arrays = [array_bytes(found[0], large_only=False) for found in _ARRAY.finditer(instruction.kind)]
        target = arrays[1] if opcode == "slice-start" and len(arrays) > 1 else arrays[0] if arrays else 0
        fast = _FAST.search(instruction.kind) is not None
        return target * (1 if fast else 2)
    called = instruction.called("calls") if opcode == "fusion" else []
    inner = program.computations.get(called[0], {}) if called else {}
    parameters = {
        int(found[1]): inside
        for inside in inner.values()
        if inside.opcode == "parameter" and (found := re.match(r"param_(\d+)", inside.name))
    }
    total = _written(inner, instruction)
    for place, operand in enumerate(instruction.operands):
        if operand not in computation:
            continue
        whole = array_bytes(computation[operand].kind)
        total += min(whole, _read(inner, parameters[place])) if place in parameters and whole else whole
    return total


def _read(inner: dict[str, Instruction], parameter: Instruction) -> int:
    """The bytes that a fusion reads of a parameter: those of its slices where nothing else is read."""
    users = [user for user in inner.values() if parameter.name in user.operands]
    total = 0
    for user in users:
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            total += array_bytes(user.kind, large_only=False)
        elif not (user.opcode == "dynamic-update-slice" and user.operands[0] == parameter.name):
            return array_bytes(parameter.kind, large_only=False)
    return total


def _written(inner: dict[str, Instruction], instruction: Instruction) -> int:
    """The bytes of a result, of one that is updated in place those of the update."""
    if inner and (root := list(inner.values())[-1]).opcode == "dynamic-update-slice" and root.operands[1] in inner:
        return array_bytes(inner[root.operands[1]].kind, large_only=False)
    return array_bytes(instruction.kind)
