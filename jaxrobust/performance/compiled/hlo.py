"""Counts in the optimised HLO text of a compiled program: arithmetic, memory traffic, kernels, collectives.

    program = hlo.read(compiled.as_text())
    program.total.flops, program.attack.bytes, program.collectives

It works for CPU, GPU and TPU programs, and counts for one device of an SPMD program. XLA's own cost analysis counts the
body of a loop once, and does not exist for a GPU that is not present; here all iterations of a loop count.

`flops` are those of convolutions and matrix products only, by the rule of flops.py, which counts traced functions too.

`bytes` are what kernels read from and write to device memory, each operand and result once. That is an upper bound if
caches are hit, or if a fusion reads part of an operand other than by slices. TPU on-chip memory is not counted.
"""

import collections
import dataclasses
import itertools
import math
import re

from jaxrobust.attacks.pgd import LOOP
from jaxrobust.performance.compiled import flops as flops_lib
from jaxrobust.performance.compiled.program import Collective, Cost, Kernel, Program

_ROW = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*?)\)(?:, (.*))?$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
# Bits of an element; other types (tokens, opaque) take no memory.
_BITS = {"pred": 8, "s2": 2, "u2": 2, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32}
_BITS |= {"s64": 64, "u64": 64, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128}
# Operations that take no time; copy-start and slice-start are counted at copy-done and slice-done.
_FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "replica-id"}
_FREE |= {"opt-barrier", "domain", "copy-start", "slice-start", "async-update"}
_FREE_TARGETS = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding"}
_COLLECTIVES = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"}
_COLLECTIVES |= {"collective-permute", "collective-broadcast"}
_COPIES = {"copy", "bitcast", "copy-done", "copy-start", "convert", "reshape"}
_SLICES = {"dynamic-slice", "slice", "gather"}
_SCATTERED = {"custom-call", "gather", "scatter", "sort", "rng-bit-generator"}


Array = tuple[str, tuple[int, ...], str]  # type, dimensions, layout


def read(text: str, *, steps: int = 1) -> Program:
    """Read the optimised HLO of a compiled program, `compiled.as_text()`.

    The attack loop is found by the name that attacks/pgd.py gives it.

    Args:
        steps: training steps in the program's outermost loop; everything is reported per step.

    Raises:
        ValueError: the text is not an HLO module.
    """
    module = _Module(text)
    kernels, collectives = [], []
    for rows, row, executions, in_attack in module.visits(module.entry, 1 / steps, False):
        flops, dtype = module.arithmetic(rows, row)
        kind, traffic = module.kind(rows, row), module.traffic(rows, row)
        kernels.append(Kernel(row.name, kind, flops, traffic, dtype, executions, in_attack))
        for inside, part in module.operations(rows, row):
            if part.op in _COLLECTIVES:
                payload = [part.shape] if part.op == "all-gather" else module.shapes(inside, part)
                size = sum(memory(shape, everywhere=True, tiled=False) for shape in payload)
                collectives.append(Collective(part.op, size, executions, in_attack, _purpose(part, in_attack)))
    iterations = sum(module.attack.values())
    return Program(
        kernels=tuple(kernels),
        attack=Cost.of((k for k in kernels if k.in_attack), 1 / iterations) if iterations else None,
        attack_steps=round(iterations),
        collectives=tuple(collectives),
        unknown_loops=tuple(sorted(module.unknown_loops)),
        unknown_calls=tuple(sorted(module.unknown_calls)),
    )


def _purpose(row, in_attack) -> str:
    # An attack needs gradients of images only, so nothing else is summed over devices in it. JAX names operations of
    # the model's own pass, and of its gradient, `jvp(...)`: these are synchronised batch statistics.
    if in_attack or "jvp(" in row.op_name:
        return "batch statistics"
    return "class counts" if all(dtype[0] in "su" for dtype, _, _ in row.shape) else "gradients and sums"


@dataclasses.dataclass(frozen=True)
class Row:
    """One instruction of an HLO computation. The start of an asynchronous operation represents the whole operation."""

    name: str
    shape: tuple[Array, ...]  # of a tuple several
    op: str
    operands: tuple[str, ...]
    rest: str  # attributes, after the operands
    literal: str  # the text in parentheses: the value of a constant, the number of a parameter

    def attribute(self, name: str, value: str = r"%?([\w.\-]+)") -> str:
        """The value of an attribute; empty if it is not there."""
        found = re.search(rf"\b{name}={value}", self.rest)
        return found[1] if found else ""

    @property
    def op_name(self) -> str:
        return self.attribute("op_name", '"([^"]*)"')

    @property
    def target(self) -> str:
        return self.attribute("custom_call_target", '"([^"]*)"')


class _Module:
    """The computations of a module, each a dict {instruction name: row} whose last row is the root."""

    def __init__(self, text: str):
        self.entry, self.computations = _parse(text)
        self.attack = collections.Counter()  # loop over attack steps -> executions of its body
        self.unknown_loops, self.unknown_calls = set(), set()

    def called(self, row: Row, by: str = "calls") -> dict[str, Row]:
        return self.computations.get(row.attribute(by), {})

    def visits(self, rows: dict, executions: float, in_attack: bool):
        """(computation, row, executions, in_attack) for every kernel that runs."""
        for row in rows.values():
            if row.op == "while":
                trips = self._trip_count(rows, row)
                if trips is None:
                    self.unknown_loops.add(row.op_name or row.name)
                inside = executions * (1 if trips is None else trips)
                is_attack = bool(re.search(rf"\b{LOOP}\)*/while$", row.op_name))
                if is_attack:
                    self.attack[id(row)] += inside
                yield from self.visits(self.called(row, "body"), inside, in_attack or is_attack)
            elif row.op in ("call", "async-start"):
                by = "to_apply" if row.op == "call" else "calls"
                yield from self.visits(self.called(row, by), executions, in_attack)
            elif row.op == "conditional":  # all branches: which one runs is unknown
                for name in re.findall(r"%([\w.\-]+)", row.rest):
                    yield from self.visits(self.computations.get(name, {}), executions, in_attack)
            elif row.op in ("copy-done", "slice-done") or not (
                row.op in _FREE or row.target in _FREE_TARGETS or row.op.endswith("-done")  # counted at its start
            ):
                yield rows, row, executions, in_attack

    def shapes(self, rows, row) -> list[tuple[Array, ...]]:
        """The shapes of the operands."""
        return [rows[name].shape if name in rows else () for name in row.operands]

    def operations(self, rows, row):
        """(computation, row) of an instruction, or of all instructions fused into it."""
        if row.op != "fusion":
            yield rows, row
            return
        called = self.called(row)
        for inner in called.values():
            yield from self.operations(called, inner)

    def arithmetic(self, rows, row) -> tuple[float, str]:
        """(flops, type of the operands) of the convolutions and matrix products in an instruction."""
        if row.op == "fusion":
            inside = [self.arithmetic(self.called(row), inner) for inner in self.called(row).values()]
            return sum(flops for flops, _ in inside), next((dtype for _, dtype in inside if dtype), "")
        shapes = [shape[0] for shape in self.shapes(rows, row)[:2] if shape]
        if row.op not in ("convolution", "dot", "custom-call") or len(shapes) < 2:
            return 0.0, ""
        (dtype, lhs, _), (_, rhs, _) = shapes
        if re.search(r'operand_precision(=\{highest|":\["HIGHEST)', row.rest):
            dtype += " highest"
        out = row.shape[0][1]
        contracted = row.attribute("lhs_contracting_dims", r"\{([\d,]*)\}")
        if found := re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', row.rest):
            contracted = found[1]
        if row.op == "convolution" or "conv" in row.target.lower():
            if "dim_labels=" in row.rest:
                # cuDNN's gradients carry the labels and the window of the forward convolution.
                if "convBackwardInput" in row.target:
                    lhs, out = out, lhs
                elif "convBackwardFilter" in row.target:
                    rhs, out = out, rhs
                return _convolution_flops(row.rest, lhs, rhs, out), dtype
        elif row.op == "dot" or contracted:
            return flops_lib.dot(out, lhs, [int(n) for n in re.findall(r"\d+", contracted)]), dtype
        if re.search(r"conv|gemm|matmul|blas|dnn|tpu_custom_call|triton", row.target, re.IGNORECASE):
            self.unknown_calls.add(row.target)
        return 0.0, ""

    def traffic(self, rows, row) -> float:
        """Bytes that an instruction moves to and from device memory."""
        shapes = self.shapes(rows, row)
        if row.op in ("copy-done", "slice-done"):
            source = rows[rows[row.operands[0]].operands[0]].shape
            return memory(row.shape, everywhere=True) * (bool(memory(row.shape)) + bool(memory(source)))
        if row.op == "dynamic-update-slice":
            return 2.0 * memory(shapes[1])
        if row.op in _SLICES:
            return memory(row.shape) + min(memory(shapes[0]), memory(row.shape)) + sum(map(memory, shapes[1:]))
        if row.op == "fusion" and (called := self.called(row)):
            return _fusion_traffic(called, shapes)
        written = memory(row.shape)
        if re.match(r"__cu(blas|dnn)", row.target):
            *results, last = row.shape
            if results and last[0] in ("s8", "u8"):  # a workspace, not a result
                written = memory(results)
        return sum(map(memory, shapes)) + written

    def kind(self, rows, row) -> str:
        inner = list(self.operations(rows, row))
        ops = {r.op for _, r in inner}
        if self.arithmetic(rows, row)[0]:
            # A TPU writes matrix products as convolutions without a window.
            windows = any("window=" in r.rest for _, r in inner if r.op == "convolution")
            return "convolution" if windows or "conv" in row.target.lower() else "matmul"
        if ops & _COLLECTIVES:
            return "collective"
        if "transpose" in ops or any(r.op == "copy" and _changes_layout(within, r) for within, r in inner):
            return "transpose"
        if ops & {"reduce", "reduce-window"}:
            return "reduction"
        if row.op in ("copy", "copy-done", "slice-done"):
            return "copy"
        return "other" if row.op in _SCATTERED else "elementwise"

    def _trip_count(self, rows, row) -> int | None:
        if found := re.search(r'"known_trip_count":\{"n":"(\d+)"', row.rest):
            return int(found[1])
        # JAX writes loops of static length as: while i < n, where i starts from a constant and increases by 1.
        condition, body = self.called(row, "condition"), self.called(row, "body")
        test, start, following = _root(condition), rows.get(row.operands[0]), _root(body)
        counter = condition.get(test.operands[0]) if "direction=LT" in test.rest else None
        if counter is None or not counter.attribute("index") or not start.op == following.op == "tuple":
            return None
        index = int(counter.attribute("index"))
        step = _source(body, following.operands[index])
        numbers = _constant(condition, test.operands[1]), _constant(rows, start.operands[index])
        if None in numbers or step.op != "add" or 1 not in [_constant(body, name) for name in step.operands]:
            return None
        return numbers[0] - numbers[1]


def _root(rows) -> Row:
    return next(reversed(rows.values()))


def _source(rows, name) -> Row | None:
    """The instruction that a name stands for, behind copies of it."""
    row = rows.get(name)
    while row is not None and row.op in _COPIES:
        row = rows.get(row.operands[0])
    return row


def _constant(rows, name) -> int | None:
    row = _source(rows, name)
    return int(row.literal) if row and row.op == "constant" and row.literal.lstrip("-").isdigit() else None


def _changes_layout(rows, row) -> bool:
    source = rows.get(row.operands[0])
    of = [[(dims, layout.split(":")[0]) for _, dims, layout in r.shape] for r in (row, source) if r]
    return len(of) < 2 or of[0] != of[1]


def _fusion_traffic(called, shapes) -> float:
    """Bytes that a fusion reads, of sliced operands the slices, and writes, of results updated in place the update."""
    total, users = 0.0, collections.defaultdict(list)
    for inner in called.values():
        for name in inner.operands:
            users[name].append(inner)
    for inner in called.values():
        if inner.op == "parameter":
            using = users[inner.name]
            whole, ops = memory(shapes[int(inner.literal)]), {user.op for user in using}
            if all(user.operands[0] == inner.name for user in using):
                if ops <= _SLICES:
                    whole = min(whole, sum(memory(user.shape, everywhere=True) for user in using))
                elif ops == {"dynamic-update-slice"}:
                    whole = 0.0
            total += whole
    root = _root(called)
    for name in root.operands if root.op == "tuple" else [root.name]:
        result = called[name]
        whole = memory(result.shape)
        if result.op == "dynamic-update-slice":
            whole = min(whole, memory(called[result.operands[1]].shape, everywhere=True))
        total += whole
    return total


def _convolution_flops(attributes: str, lhs, rhs, out) -> float:
    """Flops of a convolution of shapes lhs and rhs by its `window` and `dim_labels`."""
    lhs_labels, rhs_labels, out_labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes).groups()
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    labels = sorted(label for label in out_labels if label.isdigit())
    steps = [
        [int(n) for n in fields[name].split("x")] if name in fields else [1] * len(labels)
        for name in ("stride", "lhs_dilate", "rhs_dilate")
    ]
    spatial = [
        (lhs[lhs_labels.index(label)], rhs[rhs_labels.index(label)], out[out_labels.index(label)], *of_label)
        for label, *of_label in zip(labels, *steps, strict=True)
    ]
    outputs = out[out_labels.index("b")] * out[out_labels.index("f")]
    return flops_lib.convolution(outputs, rhs[rhs_labels.index("i")], spatial)


def _parse(text: str) -> tuple[dict[str, Row], dict[str, dict[str, Row]]]:
    """The entry computation, and all computations by name; the root of each comes last."""
    computations, entry, rows, root = {}, None, {}, ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) .* -> .*\{$", line):
            rows = computations[head[2]] = {}
            entry = rows if head[1] else entry
        elif line.startswith("}") and root in rows:
            rows[root] = rows.pop(root)
        elif found := _ROW.match(line):
            name, shape, op, inside, rest = found[2], found[3], found[4], found[5], found[6] or ""
            root = name if found[1] else root
            operands, arrays = tuple(re.findall(r"%([\w.\-]+)", inside)), _ARRAY.findall(shape)
            if op.endswith("-start") and op not in ("async-start", "copy-start", "slice-start"):
                # The start of any other asynchronous operation is read as the operation: its results alone, behind
                # the operands, and without counters.
                op = op.removesuffix("-start")
                if op != "all-reduce":
                    arrays = [array for array in arrays[len(operands) :] if array[:2] != ("u32", "")]
            shapes = [(t, tuple(int(n) for n in dims.split(",") if n), layout) for t, dims, layout in arrays]
            rows[name] = Row(name, tuple(shapes), op, operands, rest, inside)
    if entry is None:
        raise ValueError("no HLO module text: it has no ENTRY computation")
    return entry, computations


def memory(shape: tuple[Array, ...], *, everywhere: bool = False, tiled: bool = True) -> float:
    """Bytes of arrays in device memory, padded to their tiles; `everywhere` counts on-chip memory too."""
    total = 0.0
    for dtype, dims, layout in shape:
        if not everywhere and re.search(r"S\([1-9]", layout):
            continue
        order, _, tiles = layout.partition(":")
        tile = re.match(r"T\(([\d,]+)\)", tiles) if tiled else None
        if tile and order:
            sizes = [dims[int(n)] for n in order.split(",")]  # minor to major
            wanted = [int(n) for n in reversed(tile[1].split(","))]
            dims = [-(-size // t) * t for size, t in itertools.zip_longest(sizes, wanted[: len(sizes)], fillvalue=1)]
        bits = _BITS.get(dtype, 8 if dtype.startswith("f8") else 4 if dtype.startswith("f4") else 0)
        total += math.prod(dims) * bits / 8
    return total
