"""Counts in the optimised HLO text of a compiled program: arithmetic, memory traffic, kernels, collectives.

    program = hlo.read(compiled.as_text())
    program.total.flops, program.attack.bytes, program.collectives

It works for CPU, GPU and TPU programs, and counts for one device of an SPMD program. XLA's own cost analysis counts the
body of a loop once, and does not exist for a GPU that is not present; here all iterations of a loop count.

`flops` are those of convolutions and matrix products only, by the rule of flops.py. `forward_flops` counts a traced
function by the same rule, so the two can be compared.

`bytes` are what kernels read from and write to device memory, each operand and result once. That is an upper bound if
caches are hit, or if a fusion reads part of an operand other than by slices. TPU on-chip memory is not counted.
"""

import collections
import dataclasses
import re
from collections.abc import Iterable

from jaxrobust.attacks.pgd import LOOP
from jaxrobust.performance.compiled import flops as flops_lib
from jaxrobust.performance.compiled import hlo_text
from jaxrobust.performance.compiled.flops import forward as forward_flops
from jaxrobust.performance.compiled.hlo_text import Row, arrays, elements, memory

__all__ = ["Collective", "Cost", "Kernel", "Program", "forward_flops", "read"]

# Operations that take no time; copy-start and slice-start are counted at copy-done and slice-done.
_FREE = {
    *("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "replica-id"),
    *("opt-barrier", "domain", "copy-start", "slice-start", "async-update"),
}
_FREE_TARGETS = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound", "Sharding"}
_COLLECTIVES = {
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    *("collective-permute", "collective-broadcast"),
}
_SLICES = {"dynamic-slice", "slice", "gather"}
_SCATTERED = {"custom-call", "gather", "scatter", "sort", "rng-bit-generator"}
# Operations that only move parts of a collective's payload.
_MOVES = {
    *("concatenate", "bitcast", "copy", "copy-start", "copy-done", "reshape", "pad", "slice", "parameter", "constant"),
}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One operation that a device launches: a fusion, a library call, a collective.

    Attributes:
        kind: convolution | matmul | elementwise | reduction | transpose (also copies to another layout) | copy |
            collective | other.
        flops, bytes: of one execution.
        dtype: of the operands of a convolution or matrix product, such as "bf16", or "f32 highest" for the highest
            precision; empty for others.
        executions: per step.
        in_attack: whether it is in the attack loop.
    """

    name: str
    kind: str
    flops: float
    bytes: float
    dtype: str
    executions: float
    in_attack: bool


@dataclasses.dataclass(frozen=True)
class Cost:
    """Sums over kernels; `by_kind` maps a kind to (count, bytes)."""

    flops: float = 0.0
    bytes: float = 0.0
    kernels: float = 0.0
    by_kind: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, kernels: Iterable[Kernel], times: float = 1.0) -> "Cost":
        """The sum over all executions of the kernels, times `times`."""
        flops, traffic, count, by_kind = 0.0, 0.0, 0.0, collections.defaultdict(lambda: (0.0, 0.0))
        for kernel in kernels:
            n = kernel.executions * times
            flops, traffic, count = flops + n * kernel.flops, traffic + n * kernel.bytes, count + n
            of_kind = by_kind[kernel.kind]
            by_kind[kernel.kind] = (of_kind[0] + n, of_kind[1] + n * kernel.bytes)
        return cls(flops, traffic, count, dict(by_kind))

    def __add__(self, other: "Cost") -> "Cost":
        kinds = {
            kind: tuple(
                a + b for a, b in zip(self.by_kind.get(kind, (0, 0)), other.by_kind.get(kind, (0, 0)), strict=True)
            )
            for kind in {**self.by_kind, **other.by_kind}
        }
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.kernels + other.kernels, kinds)

    def __mul__(self, times: float) -> "Cost":
        kinds = {kind: (n * times, traffic * times) for kind, (n, traffic) in self.by_kind.items()}
        return Cost(self.flops * times, self.bytes * times, self.kernels * times, kinds)

    __rmul__ = __mul__


@dataclasses.dataclass(frozen=True)
class Collective:
    """A communication among devices.

    Attributes:
        kind: all-reduce, all-gather, ...
        bytes: payload of one device in one execution: what an all-reduce sums, what an all-gather returns.
        executions: per step.
        devices: number of devices in a group; 0 if the text names no groups, which means all.
        in_attack: whether it is in the attack loop.
        purpose: what it carries, inferred from the names of the operations that produce it.
    """

    kind: str
    bytes: float
    executions: float
    devices: int
    in_attack: bool
    purpose: str


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program, per device and step.

    Attributes:
        kernels: all kernels.
        total: their cost.
        attack: the cost of one iteration of the attack loop; None if there is no such loop.
        attack_steps: iterations per step; 0 without a loop, as compilers inline a single iteration.
        collectives: all collectives.
        unknown_loops: loops with an unknown number of iterations, counted as one.
        unknown_calls: library calls that look like arithmetic and cannot be counted.
    """

    kernels: tuple[Kernel, ...]
    total: Cost
    attack: Cost | None
    attack_steps: int
    collectives: tuple[Collective, ...]
    unknown_loops: tuple[str, ...]
    unknown_calls: tuple[str, ...]

    @property
    def rest(self) -> Cost:
        """The cost of a step outside the attack loop."""
        return Cost.of(kernel for kernel in self.kernels if not kernel.in_attack)


def read(text: str, *, steps: int = 1) -> Program:
    """Read the optimised HLO of a compiled program, `compiled.as_text()`.

    The attack loop is found by the name that attacks/pgd.py gives it.

    Args:
        steps: training steps in the program's outermost loop; everything is reported per step.
    """
    module = _Module(text)
    kernels, collectives = [], []
    for computation, row, executions, loops in module.visits(module.entry, 1 / steps, ()):
        in_attack = any(loop in module.attack for loop in loops)
        kernels.append(module.kernel(computation, row, executions, in_attack))
        for inside, part in module.operations(computation, row):
            if part.op in _COLLECTIVES:
                collectives.append(module.collective(inside, part, executions, in_attack))
    iterations = sum(module.attack.values())
    return Program(
        kernels=tuple(kernels),
        total=Cost.of(kernels),
        attack=Cost.of((k for k in kernels if k.in_attack), 1 / iterations) if iterations else None,
        attack_steps=round(iterations),
        collectives=tuple(collectives),
        unknown_loops=tuple(sorted(module.unknown_loops)),
        unknown_calls=tuple(sorted(module.unknown_calls)),
    )


class _Module:
    """The computations of a module: name -> {instruction name -> row}, in order."""

    def __init__(self, text: str):
        self.entry, self.computations, self._roots = hlo_text.parse(text)
        self.attack = {}  # loop over attack steps -> executions of its body
        self.unknown_loops, self.unknown_calls = set(), set()

    def visits(self, computation: str, executions: float, loops: tuple):
        """(computation, row, executions, loops around it) for every kernel that runs."""
        for row in self.computations[computation].values():
            if row.op == "while":
                trips = self._trip_count(computation, row)
                if trips is None:
                    self.unknown_loops.add(row.op_name or row.name)
                loop = f"{computation}/{row.name}"
                inside = executions * (1 if trips is None else trips)
                if re.search(rf"\b{LOOP}\)*/while$", row.op_name):
                    self.attack[loop] = self.attack.get(loop, 0) + inside
                yield from self.visits(row.attribute("body"), inside, (*loops, loop))
            elif row.op == "call":
                yield from self.visits(row.attribute("to_apply"), executions, loops)
            elif row.op == "conditional":
                # Which branch runs is unknown: count the most expensive one.
                branches = [list(self.visits(name, executions, loops)) for name in row.branches]
                yield from max(branches, key=self._weight)
            elif row.op == "async-start":
                yield from self.visits(row.attribute("calls"), executions, loops)
            elif row.op in _FREE or row.target in _FREE_TARGETS:
                continue
            elif row.op.endswith("-done") and row.op not in ("copy-done", "slice-done"):
                continue  # counted at its start
            else:
                yield computation, row, executions, loops

    def _weight(self, visits):
        costs = [(self.arithmetic(c, row)[0] * n, self.traffic(c, row) * n) for c, row, n, _ in visits]
        return sum(flops for flops, _ in costs), sum(traffic for _, traffic in costs)

    def kernel(self, computation, row, executions, in_attack) -> Kernel:
        flops, dtype = self.arithmetic(computation, row)
        traffic = self.traffic(computation, row)
        return Kernel(row.name, self._kind(computation, row), flops, traffic, dtype, executions, in_attack)

    def arithmetic(self, computation: str, row: Row) -> tuple[float, str]:
        """(flops, type of the operands) of the convolutions and matrix products in an instruction."""
        rows = self.computations[computation]
        if row.op == "fusion":
            name = row.attribute("calls")
            inside = [self.arithmetic(name, inner) for inner in self.computations.get(name, {}).values()]
            return sum(flops for flops, _ in inside), next((dtype for _, dtype in inside if dtype), "")
        if row.op not in ("convolution", "dot", "custom-call"):
            return 0.0, ""
        shapes = [arrays(rows[name].shape)[0] for name in row.operands[:2] if name in rows]
        if len(shapes) < 2:
            return 0.0, ""
        (dtype, lhs, _), (_, rhs, _) = shapes
        if re.search(r'operand_precision(=\{highest|":\["HIGHEST)', row.rest):
            dtype += " highest"
        out = arrays(row.shape)[0][1]
        if row.op == "dot":
            return flops_lib.dot(out, lhs, row.numbers("lhs_contracting_dims")), dtype
        if row.op == "convolution" or "conv" in row.target.lower():
            if "dim_labels=" not in row.rest:
                self.unknown_calls.add(row.target)
                return 0.0, ""
            # cuDNN's gradients carry the labels and the window of the forward convolution.
            if "convBackwardInput" in row.target:
                lhs, out = out, lhs
            elif "convBackwardFilter" in row.target:
                rhs, out = out, rhs
            return _convolution_flops(row.rest, lhs, rhs, out), dtype
        if found := re.search(r'"lhs_contracting_dimensions":\[([^\]]*)\]', row.rest):
            contracted = [int(n) for n in re.findall(r"\d+", found[1])]
            return flops_lib.dot(out, lhs, contracted), dtype
        if re.search(r"gemm|matmul|blas|dnn|tpu_custom_call|triton", row.target, re.IGNORECASE):
            self.unknown_calls.add(row.target)
        return 0.0, ""

    def traffic(self, computation: str, row: Row) -> float:
        """Bytes that an instruction moves to and from device memory."""
        rows = self.computations[computation]
        shapes = [rows[name].shape if name in rows else "" for name in row.operands]
        if row.op in ("copy-done", "slice-done"):
            start = rows[row.operands[0]]
            whole = memory(row.shape, everywhere=True)
            return whole * (bool(memory(row.shape)) + bool(memory(rows[start.operands[0]].shape)))
        if row.op == "dynamic-update-slice":
            return 2.0 * memory(shapes[1])
        if row.op in _SLICES:
            return memory(row.shape) + min(memory(shapes[0]), memory(row.shape)) + sum(map(memory, shapes[1:]))
        read, written = sum(map(memory, shapes)), memory(row.shape)
        if row.op == "fusion" and (called := self.computations.get(row.attribute("calls"))):
            read = 0.0
            users = collections.defaultdict(list)
            for inner in called.values():
                for name in inner.operands:
                    users[name].append(inner)
            for inner in called.values():
                if inner.op != "parameter":
                    continue
                whole = memory(shapes[int(inner.literal)])
                if all(user.op in _SLICES and user.operands[0] == inner.name for user in users[inner.name]):
                    whole = min(whole, sum(memory(user.shape, everywhere=True) for user in users[inner.name]))
                elif all(
                    user.op == "dynamic-update-slice" and user.operands[0] == inner.name for user in users[inner.name]
                ):
                    whole = 0.0  # updated in place
                read += whole
            root = self._roots[row.attribute("calls")]
            results = (
                zip(root.operands, elements(row.shape), strict=True) if root.op == "tuple" else [(root.name, row.shape)]
            )
            written = 0.0
            for name, shape in results:
                whole, result = memory(shape), called[name]
                if result.op == "dynamic-update-slice":
                    whole = min(whole, memory(called[result.operands[1]].shape, everywhere=True))
                written += whole
        if re.match(r"__cu(blas|dnn)", row.target):
            *results, last = elements(row.shape)
            if results and re.match("[su]8", last):  # a workspace, not a result
                written = sum(map(memory, results))
        return read + written

    def _kind(self, computation, row) -> str:
        inner = list(self.operations(computation, row))
        if any(r.op == "convolution" for _, r in inner) and self.arithmetic(computation, row)[0]:
            dot = all("window=" not in r.rest for _, r in inner if r.op == "convolution")  # a TPU's matrix product
            return "matmul" if dot else "convolution"
        if self.arithmetic(computation, row)[0]:
            return "convolution" if "conv" in row.target.lower() else "matmul"
        if any(r.op in _COLLECTIVES for _, r in inner):
            return "collective"
        if any(r.op == "transpose" or (r.op == "copy" and self._changes_layout(c, r)) for c, r in inner):
            return "transpose"
        if any(r.op in ("reduce", "reduce-window") for _, r in inner):
            return "reduction"
        if row.op in ("copy", "copy-done", "slice-done"):
            return "copy"
        return "other" if row.op in _SCATTERED else "elementwise"

    def operations(self, computation, row):
        """(computation, row) of an instruction, or of all instructions fused into it."""
        if row.op != "fusion":
            yield computation, row
            return
        called = row.attribute("calls")
        for inner in self.computations.get(called, {}).values():
            yield from self.operations(called, inner)

    def _changes_layout(self, computation, row) -> bool:
        source = self.computations[computation].get(row.operands[0])
        if source is None:
            return True
        of = [
            [(dims, layout and layout.split(":")[0]) for _, dims, layout in arrays(s)]
            for s in (row.shape, source.shape)
        ]
        return of[0] != of[1]

    def collective(self, computation, row, executions, in_attack) -> Collective:
        rows = self.computations[computation]
        payload = [rows[name].shape for name in row.operands if name in rows]
        if row.op == "all-gather":
            payload = [row.shape]
        return Collective(
            row.op,
            sum(memory(shape, everywhere=True, tiled=False) for shape in payload),
            executions,
            row.group_size,
            in_attack,
            # An attack needs gradients of images only, so nothing else is summed over devices in it.
            "batch statistics" if in_attack else self._purpose(computation, row),
        )

    def _purpose(self, computation, row) -> str:
        """What a collective carries, largest first, inferred from the operations that produce its parts."""
        if "jvp(" in row.op_name:  # inside the model's own pass: synchronised batch statistics, or their gradients
            return "batch statistics"
        rows, sizes, pieces = self.computations[computation], collections.Counter(), list(row.operands)
        while pieces:
            piece = rows.get(pieces.pop())
            if piece is None:
                continue
            if piece.operands and all(r.op in _MOVES for _, r in self.operations(computation, piece)):
                pieces += piece.operands
                continue
            sizes[self._origin(rows, piece)] += memory(piece.shape, everywhere=True)
        return ", ".join(name for name, _ in sizes.most_common()) or "unknown"

    def _origin(self, rows, piece) -> str:
        """What one part is, by the closest operation before it that has a name."""
        if all(dtype[0] in "su" for dtype, _, _ in arrays(piece.shape)):
            return "class counts"
        candidates = [piece]
        while candidates:
            row = candidates.pop(0)
            # JAX's names of derivatives: `jvp(...)` is the pass forward, `transpose(jvp(...))` the one back.
            if "transpose(jvp(" in row.op_name:
                return "gradients"
            if "jvp(" in row.op_name and "norm" in row.op_name.lower():
                return "batch statistics"
            if row.op_name or row.op in ("parameter", "while", "constant"):
                break
            candidates += [rows[name] for name in row.operands if name in rows]
        return "other sums"

    def _trip_count(self, computation, row) -> int | None:
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', row.rest)
        if found:
            return int(found[1])
        # JAX writes loops of static length as: while i < n, where i starts from a constant and increases by 1.
        condition, body = row.attribute("condition"), row.attribute("body")
        test = self._roots[condition]
        if test.op != "compare" or "direction=LT" not in test.rest:
            return None
        counter = self.computations[condition].get(test.operands[0])
        end = self._constant(condition, test.operands[1])
        if counter is None or counter.op != "get-tuple-element" or end is None:
            return None
        index = int(counter.attribute("index"))
        start_tuple = self.computations[computation].get(row.operands[0])
        if start_tuple is None or start_tuple.op != "tuple" or self._roots[body].op != "tuple":
            return None
        start = self._constant(computation, start_tuple.operands[index])
        step = self.computations[body].get(self._roots[body].operands[index])
        while step is not None and step.op in ("copy", "bitcast"):
            step = self.computations[body].get(step.operands[0])
        if start is None or step is None or step.op != "add":
            return None
        return end - start if any(self._constant(body, name) == 1 for name in step.operands) else None

    def _constant(self, computation, name) -> int | None:
        row = self.computations[computation].get(name)
        while row is not None and row.op in ("copy", "bitcast", "copy-done", "copy-start", "convert", "reshape"):
            row = self.computations[computation].get(row.operands[0])
        return (
            int(row.literal) if row is not None and row.op == "constant" and row.literal.lstrip("-").isdigit() else None
        )


def _convolution_flops(attributes: str, lhs, rhs, out) -> float:
    """Flops of a convolution of shapes lhs and rhs by its `window` and `dim_labels`."""
    lhs_labels, rhs_labels, out_labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes).groups()
    window = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    labels = sorted(label for label in out_labels if label.isdigit())

    def field(name):
        return [int(n) for n in fields[name].split("x")] if name in fields else [1] * len(labels)

    spatial = [
        (lhs[lhs_labels.index(label)], rhs[rhs_labels.index(label)], out[out_labels.index(label)], *steps)
        for label, *steps in zip(labels, field("stride"), field("lhs_dilate"), field("rhs_dilate"), strict=True)
    ]
    outputs = out[out_labels.index("b")] * out[out_labels.index("f")]
    return flops_lib.convolution(outputs, rhs[rhs_labels.index("i")], spatial)
