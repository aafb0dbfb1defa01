"""Parses the HLO text of a compiled program into computations and instructions with shapes."""

import dataclasses
import math
import re

# Bits of an element; other types (tokens, opaque) take no memory.
_BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32}
_BITS |= {"s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
_ROW = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")
_CALL = re.compile(r"\s*([\w\-]+)\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")


@dataclasses.dataclass(frozen=True)
class Row:
    """One instruction of an HLO computation. The start of an asynchronous operation represents the whole operation."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    rest: str  # attributes, after the operands
    literal: str  # the text in parentheses: the value of a constant, the number of a parameter

    def attribute(self, name: str) -> str | None:
        found = re.search(rf"\b{name}=%?([\w.\-]+)", self.rest)
        return found and found[1]

    @property
    def op_name(self) -> str:
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        found = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return found[1] if found else ""

    def numbers(self, name: str) -> list[int]:
        """The numbers of an attribute such as dimensions={0,1}."""
        found = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.rest)
        return [int(n) for n in found[1].split(",") if n] if found else []

    @property
    def branches(self) -> list[str]:
        """The computations of a conditional."""
        found = re.search(r"branch_computations=\{([^}]*)\}", self.rest)
        if found:
            return re.findall(r"%?([\w.\-]+)", found[1])
        return [self.attribute("true_computation"), self.attribute("false_computation")]

    @property
    def group_size(self) -> int:
        """Devices per group of a collective; 0 if the text does not contain it.

        Groups are written as lists {{0,1},{2,3}}, as an iota [groups,size]<=[devices], or by axes of a mesh.
        """
        if found := re.search(r"replica_groups=\{\{([\d,]+)\}", self.rest):
            return found[1].count(",") + 1
        if found := re.search(r"replica_groups=\[\d+,(\d+)\]", self.rest):
            return int(found[1])
        if found := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", self.rest):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", found[1]))
            return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", found[2]))
        return 0


def parse(text: str) -> tuple[str, dict[str, dict[str, Row]], dict[str, Row]]:
    """(name of the entry computation, {computation: {instruction: row}} in order, {computation: root row}).

    Raises:
        ValueError: the text is not an HLO module.
    """
    computations, roots, entry = {}, {}, None
    rows = name = None
    for line in text.splitlines():
        if line[:1] not in (" ", "}", "") and line.endswith("{") and " -> " in line:
            head = re.match(r"(ENTRY )?%?([\w.\-]+) ", line)
            name = head[2]
            rows = computations[name] = {}
            entry = name if head[1] else entry
        elif line.startswith("}"):
            rows = None
        elif rows is not None and (row := _parse_row(line)):
            rows[row.name] = row
            if line.lstrip().startswith("ROOT "):
                roots[name] = row
    if entry is None:
        raise ValueError("no HLO module text: it has no ENTRY computation")
    return entry, computations, roots


def _parse_row(line: str) -> Row | None:
    head = _ROW.match(line)
    if not head:
        return None
    at = head.end()
    end = _closing(line, at) if line[at] == "(" else line.find(" ", at)
    shape = line[at:end]
    call = _CALL.match(line, end)
    if not call:
        return None
    close = _closing(line, call.end() - 1)
    inside = line[call.end() : close - 1]
    operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    op = call[1]
    if op.endswith("-start") and op not in ("async-start", "copy-start", "slice-start"):
        # The start of any other asynchronous operation is read as the operation, its result without the operands.
        op = op.removesuffix("-start")
        shape = shape if op == "all-reduce" else [*elements(shape), shape][1]
    return Row(head[1], shape, op, operands, line[close:], inside)


def _closing(line: str, at: int) -> int:
    """The position after the parenthesis that closes the one at `at`."""
    depth = 0
    for position in range(at, len(line)):
        depth += (line[position] == "(") - (line[position] == ")")
        if depth == 0:
            return position + 1
    return len(line)


def arrays(shape: str) -> list[tuple[str, tuple[int, ...], str]]:
    """(type, dimensions, layout) of each array of a shape, which may be a tuple."""
    return [(t, tuple(int(n) for n in dims.split(",") if n), layout) for t, dims, layout in _ARRAY.findall(shape)]


def memory(shape: str, *, everywhere: bool = False, tiled: bool = True) -> float:
    """Bytes of a shape in device memory, padded to its tiles; `everywhere` counts on-chip memory too."""
    total = 0.0
    for dtype, dims, layout in arrays(shape):
        bits = _BITS.get(dtype, 8 if dtype.startswith("f8") else 4 if dtype.startswith("f4") else 0)
        if not everywhere and re.search(r"S\([1-9]", layout):
            continue
        order, _, tiles = layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiles) if tiled else None
        if tile and order:
            sizes = [dims[int(n)] for n in reversed(order.split(","))]  # major to minor
            tile = [int(n) for n in tile[1].split(",")]
            for i, t in enumerate(reversed(tile[-len(sizes) :]), 1):
                sizes[-i] = -(-sizes[-i] // t) * t
            dims = sizes
        total += math.prod(dims) * bits / 8
    return total


def elements(shape: str) -> list[str]:
    """The shapes in a tuple, one level deep; a shape that is not a tuple is returned as a list of one."""
    if not shape.startswith("("):
        return [shape]
    shape = re.sub(r"/\*.*?\*/", "", shape)  # the numbers of elements
    found, depth, start = [], 0, 1
    for position, letter in enumerate(shape):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0 or (depth == 1 and letter == ","):
            found.append(shape[start:position].strip())
            start = position + 1
    return found
