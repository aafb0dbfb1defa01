"""Worst-case attacks that drop each example as soon as it is misclassified.

A run of an attack is split into parts of some iterations. After each part every example is classified by the float32
model. Misclassified examples are dropped, and the others are packed into full batches again, of one of two sizes for
which the programs are compiled. So little work is wasted on them, and no result depends on other examples.

    for progress in attack_suite(attackers, weights, task, prediction):     # changes `prediction` block by block
        ...                                                                 # save it, so that it can continue
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import jax
import numpy as np

from jaxrobust import console
from jaxrobust.data.augment import to_float
from jaxrobust.data.dataset import Split
from jaxrobust.distributed import hosts, parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import UserError
from jaxrobust.evaluation import batching

PART_ITERATIONS = 20  # of a part, at least; a tenth of the run if that is more
# Allows for float32 rounding of image + perturbation, and of an L2 norm over many pixels; the error of a wrong
# projection is far larger.
LARGEST_VIOLATION = 1e-5


class Work(NamedTuple):
    """The cost of an attack: forward passes of one image, and those of them spent on wrong examples and on padding."""

    forward_passes: float = 0.0
    wasted_passes: float = 0.0
    seconds: float = 0.0

    def __add__(self, other):
        return Work(*(one + another for one, another in zip(self, other, strict=True)))

    def of_each(self, examples: int) -> dict:
        """As results.jsonl has it: passes per example, the share of them that is wasted, and seconds."""
        idle = self.wasted_passes / self.forward_passes if self.forward_passes else 0.0
        return {"passes": self.forward_passes / examples, "idle": idle, "seconds": self.seconds}


@dataclasses.dataclass
class Outcome:
    """The outcome of an attack on `n` examples: the `prediction` [n] int64, -1 where the logits are not finite or a
    targeted attack was not made; the perturbed images `adversarial` [k, H, W, C] of the first `k`; and the passes, as
    in `Work`.
    """

    prediction: np.ndarray
    adversarial: np.ndarray
    forward_passes: float = 0.0
    wasted_passes: float = 0.0


class Attacker:
    """An attack on given weights.

    Args:
        steps: length -> the compiled (begin, go_on) of that many iterations, see steps.make_attack_steps.
        batch_size: over all devices.
        key: of the evaluation; the keys of all examples and runs are derived from it.
        targeted: whether labels are classes to be predicted instead of true ones. `steps` must agree.
    """

    def __init__(self, attack, steps: Callable, mesh, batch_size: int, key, *, targeted: bool = False):
        self._attack, self._steps, self._mesh, self._key = attack, cache(steps), mesh, key
        self.targeted, self.batch_size = targeted, batch_size
        self._sizes = batching.batch_sizes(batch_size, mesh.size)
        self._lengths = part_lengths(attack.iterations)
        self._firsts = np.cumsum([0, *self._lengths[:-1]]).tolist()

    @property
    def forward_passes(self) -> float:
        """Those of an example that stays correct, without those of the float32 check."""
        return self._attack.runs * (self._attack.start_passes + self._attack.iterations * self._attack.step_passes)

    @property
    def parts(self) -> int:
        """Number of parts for an example that stays correct."""
        return self._attack.runs * len(self._lengths)

    @property
    def has_parts(self) -> bool:
        """Whether a run has several parts, between which examples leave."""
        return len(self._lengths) > 1

    def first_part(self) -> tuple[Callable, float]:
        """The compiled step of the first part, and its share of the whole attack."""
        length = self._lengths[0]
        return self._steps(length)[0], length / (self._attack.iterations * self._attack.runs)

    def whole_run(self) -> Callable:
        """The compiled step of all iterations of a run."""
        return self._steps(self._attack.iterations)[0]

    def __call__(self, weights, images, labels, ids, radius, *, title: str, keep: int = 0, advance=None) -> Outcome:
        """Attack examples until they are misclassified or the attack is over; each process passes its own.

        Args:
            weights: on the devices.
            images: [n, H, W, C], uint8 or float32 in [0, 1], all classified correctly; if targeted, none as its
                target.
            labels, ids: [n] int; ids identify examples, to seed their random numbers.
            radius: [n] in pixel units.
            title: for messages.
            keep: return the perturbed images of the first `keep` examples.
            advance: called with the number of parts done; may raise an exception to stop.
        """
        advance = advance or (lambda parts: None)
        before = np.full(len(labels), -1) if self.targeted else np.array(labels, np.int64)
        outcome = Outcome(before, np.array(to_float(images[:keep])))
        examples = (images, np.asarray(labels, np.int32), np.asarray(ids, np.int32), np.asarray(radius, np.float32))
        left = np.arange(len(labels))
        parts_left = self.parts
        for run in range(self._attack.runs):
            states = None
            for first, length in zip(self._firsts, self._lengths, strict=True):
                if max(hosts.gather(left.size)) == 0:
                    return outcome
                part = _Part(run, first, length, first + length == self._attack.iterations)
                done, states = self._attack_part(weights, examples, left, states, part, outcome, title, advance)
                left, states = left[~done], jax.tree.map(lambda rows, done=done: rows[~done], states)
                parts_left -= 1
                advance(int(done.sum()) * parts_left)
        return outcome

    def _attack_part(self, weights, examples, left, states, part, outcome, title, advance):
        """(success, states) of the examples `left` after a part of a run; states are None after the last part."""
        begin, go_on = self._steps(part.length)
        run, first = parallel.replicate((np.int32(part.run), np.int32(part.first)), self._mesh)
        passes = part.length * self._attack.step_passes + (self._attack.start_passes if states is None else 0) + 1

        def launched():
            for rows, size in batching.row_batches(left.size, self._sizes):
                batch = batching.padded(tuple(array[left[rows]] for array in examples), size, self._mesh)
                state = ()
                if states is not None:
                    state = jax.tree.map(lambda array, rows=rows: array[rows], states)
                    state = (first, batching.padded(state, size, self._mesh))
                step = begin if states is None else go_on
                # All inputs are on the devices, put there explicitly.
                with jax.transfer_guard_host_to_device("disallow"):
                    found = step(weights, *batch, self._key, run, *state)
                yield rows, size, found

        success, kept = np.zeros(left.size, bool), []
        for rows, size, (state, verified) in parallel.one_behind(launched()):
            check_allowed(verified, title)
            here = slice(0, len(rows))
            prediction, wasted = parallel.local((verified["prediction"], verified["wasted_steps"]))
            prediction, wasted = prediction[here], wasted[here]
            shown = left[rows] < len(outcome.adversarial)
            if shown.any():
                outcome.adversarial[left[rows][shown]] = parallel.local(state.adversarial)[here][shown]
            success[rows] = (prediction == examples[1][left[rows]]) == self.targeted
            outcome.prediction[left[rows]] = prediction
            outcome.forward_passes += size * passes
            outcome.wasted_passes += (size - len(rows)) * passes + wasted.sum() * self._attack.step_passes
            if not part.is_last:
                kept.append(jax.tree.map(lambda array, here=here: array[here], parallel.local(state)))
            advance(len(rows))
        return success, jax.tree.map(lambda *parts: np.concatenate(parts), *kept) if kept else None


class _Part(NamedTuple):
    """`length` iterations of run number `run`, from iteration `first`."""

    run: int
    first: int
    length: int
    is_last: bool


class Task(NamedTuple):
    """The examples of a split that are attacked: `labels` [N], the true ones, or classes to be predicted if the attacks
    are targeted; `ids` [N], which seed their random numbers; `radius` [N] in pixel units. Images are decoded block by
    block.
    """

    split: Split
    labels: np.ndarray
    ids: np.ndarray
    radius: np.ndarray


class Progress(NamedTuple):
    """Where a suite stands after a block: number of the attack, indices still to attack, work of all processes."""

    member: int
    todo: np.ndarray
    work: Work


class Hooks(NamedTuple):
    """What a caller does meanwhile: show progress (as console.progress), and `check` each batch, which may raise."""

    progress: Callable = lambda title, total, unit, done=0: contextlib.nullcontext(lambda amount: None)
    check: Callable = lambda title: None

    def blocks(self, split: Split, batch_size: int, title: str, ids=None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(ids, images) of this process for all of a split, or the given ids, block by block, with progress."""
        ids = np.arange(len(split)) if ids is None else ids
        with self.progress(title, max(len(ids), 1), "images") as advance:
            for block, mine, images in batching.each(split, ids, batch_size):
                yield mine, images
                advance(len(block))
                self.check(title)


SILENT, SHOWN = Hooks(), Hooks(console.progress)


def stopping_hooks(stop: StopRequest, kept: str) -> Hooks:
    """Progress on the terminal, and `Interrupted` once a stop is requested, which says what was `kept`."""

    def check(title):
        if stop:
            raise Interrupted(stop.signal_number, f"stopped in {title}, {kept}")

    return Hooks(console.progress, check)


def attack_suite(
    attackers: dict[str, Attacker],
    weights,
    task: Task,
    prediction: np.ndarray,
    *,
    member: int = 0,
    todo: np.ndarray | None = None,
    title: str = "",
    hooks: Hooks = SILENT,
    adversarial: np.ndarray | None = None,
) -> Iterator[Progress]:
    """The one loop of a suite: each attack on the examples that those before it have left, block by block.

    All processes call it with the same arguments.

    Args:
        attackers: by the name of each member, for titles.
        prediction: [N] int, before the attack; changed in place, whenever it yields. An example is left as long as its
            prediction is its label, or for targeted attacks any other class than the target.
        member, todo: where to continue: number of the attack, and indices of the examples that it has not attacked yet;
            None for all that are left.
        adversarial: [k, H, W, C], the first k images; replaced by the perturbed ones as far as this process made them.

    Yields:
        After each block of examples where it stands; once if nothing was left.
    """
    for number, (name, attacker) in list(enumerate(attackers.items()))[member:]:
        left = np.flatnonzero((prediction == task.labels) != attacker.targeted)
        todo = left if todo is None else todo
        of_member = f"{title} {name}".strip()

        with hooks.progress(of_member, max(len(left), 1), "images", len(left) - len(todo)) as advance:

            def parts_done(parts, advance=advance, attacker=attacker, of_member=of_member):
                advance(parts / attacker.parts)
                hooks.check(of_member)

            if not len(todo):
                yield Progress(number, todo, Work())
            for block, mine, images in batching.each(task.split, todo, attacker.batch_size, attacker.forward_passes):
                started = time.monotonic()
                outcome = attacker(
                    weights,
                    images,
                    task.labels[mine],
                    task.ids[mine],
                    task.radius[mine],
                    title=of_member,
                    keep=0 if adversarial is None else int((mine < len(adversarial)).sum()),
                    advance=parts_done,
                )
                if adversarial is not None:
                    adversarial[mine[: len(outcome.adversarial)]] = outcome.adversarial
                batching.merge(prediction, mine, outcome.prediction)
                passes = np.sum(hosts.gather([outcome.forward_passes, outcome.wasted_passes]), axis=0).tolist()
                todo = todo[len(block) :]
                yield Progress(number, todo, Work(*passes, time.monotonic() - started))
        todo = None


def check_finite(predicted: dict, title: str) -> None:
    """Raises UserError unless the logits of clean images are finite."""
    if not predicted["finite"]:
        raise UserError(f"{title}: the model's logits are not finite, so nothing can be scored; give other weights")


def check_allowed(verified: dict, title: str) -> None:
    """Raises AssertionError if the perturbations are not allowed, which is a defect of the attack."""
    violation = float(verified["constraint_violation"])
    if not violation <= LARGEST_VIOLATION:  # not `>`, so that NaN fails too
        raise AssertionError(f"{title} left the allowed perturbations by {violation}: this is a bug, please report it")


def part_lengths(iterations: int) -> list[int]:
    """Iterations of each part of a run: at most two lengths, which differ by one, longer parts first."""
    parts = -(-iterations // max(PART_ITERATIONS, iterations // 10))
    short, rest = divmod(iterations, parts)
    return [short + 1] * rest + [short] * (parts - rest)
