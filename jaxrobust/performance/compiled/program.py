"""What a compiled program executes on one device: kernels, their cost, and collectives; hlo.py reads it."""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One operation that a device launches: a fusion, a library call, a collective."""

    name: str
    # convolution | matmul | elementwise | reduction | transpose (also copies to another layout) | copy | collective |
    # other.
    kind: str
    flops: float  # of one execution
    bytes: float  # of one execution
    # of the operands of a convolution or matrix product, such as "bf16", or "f32 highest" for the highest precision;
    # empty for others.
    dtype: str
    executions: float  # per step
    in_attack: bool  # whether it is in the attack loop


@dataclasses.dataclass(frozen=True)
class Cost:
    """Sums over kernels; `by_kind` maps a kind to (count, bytes)."""

    flops: float
    bytes: float
    kernels: float
    by_kind: dict[str, tuple[float, float]]

    @property
    def layout_changes(self) -> float:
        return self.by_kind.get("transpose", (0, 0))[0]

    @classmethod
    def of(cls, kernels: Iterable[Kernel], times: float = 1.0) -> "Cost":
        """The sum over all executions of the kernels, times `times`."""
        flops, by_kind = 0.0, {}
        for kernel in kernels:
            n = kernel.executions * times
            flops += n * kernel.flops
            count, traffic = by_kind.get(kernel.kind, (0.0, 0.0))
            by_kind[kernel.kind] = (count + n, traffic + n * kernel.bytes)
        return cls(flops, sum(b for _, b in by_kind.values()), sum(n for n, _ in by_kind.values()), by_kind)


@dataclasses.dataclass(frozen=True)
class Collective:
    """A communication among devices."""

    kind: str  # all-reduce, all-gather, ...
    bytes: float  # payload of one device in one execution: what an all-reduce sums, what an all-gather returns
    executions: float  # per step
    in_attack: bool  # whether it is in the attack loop
    purpose: str  # batch statistics | class counts | gradients and sums


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program, per device and step."""

    kernels: tuple[Kernel, ...]  # all kernels
    attack: Cost | None  # the cost of one iteration of the attack loop; None if there is no such loop
    attack_steps: int  # iterations per step; 0 without a loop, as compilers inline a single iteration
    collectives: tuple[Collective, ...]  # all collectives
    unknown_loops: tuple[str, ...]  # loops with an unknown number of iterations, counted as one
    unknown_calls: tuple[str, ...]  # library calls that look like arithmetic and cannot be counted

    @property
    def total(self) -> Cost:
        """The cost of a step."""
        return Cost.of(self.kernels)

    @property
    def rest(self) -> Cost:
        """The cost of a step outside the attack loop."""
        return Cost.of(kernel for kernel in self.kernels if not kernel.in_attack)
