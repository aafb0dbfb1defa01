"""Worst-case attacks that drop each example as soon as it is misclassified.

A run of an attack is split into parts of some iterations. After each part every example is judged by the float32 model.
Misclassified (broken) examples are dropped, and the others are packed into full batches again, of one of two sizes for
which the programs are compiled. So little work is spent on broken examples, and no verdict depends on other examples.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import jax
import numpy as np

from jaxrobust.data.augment import to_float
from jaxrobust.distributed import hosts, parallel
from jaxrobust.errors import UserError

SMALL_SHARE = 8  # the small batch is the large one divided by this
PART_ITERATIONS = 20  # of a part, at least; a tenth of the run if that is more
# Allows for float32 rounding of image + perturbation, and of an L2 norm over many pixels; the error of a wrong
# projection is far larger.
LARGEST_EXCESS = 1e-5


class Work(NamedTuple):
    """The cost of an attack.

    Attributes:
        passes: arithmetic, in forward passes of one image.
        idle: the part of `passes` spent on examples already broken, and on padding of batches.
        seconds: duration.
    """

    passes: float = 0.0
    idle: float = 0.0
    seconds: float = 0.0

    def __add__(self, other):
        return Work(*(one + another for one, another in zip(self, other, strict=True)))

    def of_each(self, examples: int) -> dict:
        """Passes per example, the idle share of all passes, and seconds."""
        share = self.idle / self.passes if self.passes else 0.0
        return {"passes": self.passes / examples, "idle": share, "seconds": self.seconds}


@dataclasses.dataclass
class Outcome:
    """The outcome of an attack on `n` examples.

    Attributes:
        prediction: [n] int64 classes. Where the attack succeeded: not the label, or the target class of a targeted
            attack. -1: the logits are NaN, or a targeted attack was not made.
        adversarial: [k, H, W, C] the perturbed images of the first `k` examples, to which the predictions belong.
        passes, idle: as in `Work`.
    """

    prediction: np.ndarray
    adversarial: np.ndarray
    passes: float = 0.0
    idle: float = 0.0


class Judge:
    """Classifies images.

    Args:
        step: the compiled verdict, see steps.make_judge_step.
        batch_size: over all devices.
    """

    def __init__(self, step, mesh, batch_size: int):
        self._step, self._mesh, self._batch_size = step, mesh, batch_size

    def __call__(self, weights, images, title: str) -> np.ndarray:
        """Predictions [n] for images [n, H, W, C]; each process passes its own.

        Raises:
            UserError: the model's logits are not finite.
        """
        prediction = np.zeros(len(images), np.int64)
        for rows, verdict in self._verdicts(weights, images):
            check_finite(verdict, title)
            prediction[rows] = parallel.local(verdict["prediction"])[: len(rows)]
        return prediction

    def is_finite(self, weights, images) -> bool:
        """Whether all logits are finite."""
        return all(bool(verdict["finite"]) for _, verdict in self._verdicts(weights, images))

    def _verdicts(self, weights, images):
        def judge(weights, images, radius):
            return self._step(weights, images, images, radius)

        radius = np.zeros(len(images), np.float32)
        return _in_batches(judge, weights, (images, radius), self._mesh, self._batch_size)


def rank(step, weights, images, mesh, batch_size: int, title: str) -> np.ndarray:
    """Classes [n, count] for images [n, H, W, C], most likely first; each process passes its own images.

    Args:
        step: the compiled ranking of `count` classes, see steps.make_ranking_step.
        batch_size: over all devices.

    Raises:
        UserError: the model's logits are not finite.
    """
    ranking = []
    for rows, verdict in _in_batches(step, weights, (images,), mesh, batch_size):
        check_finite(verdict, title)
        ranking.append(parallel.local(verdict["ranking"])[: len(rows)])
    return np.concatenate(ranking)


def of_each(step, weights, arrays, mesh, batch_size: int):
    """The results of a compiled step for each example, a pytree of arrays [n, ...]; each process passes its own.

    Args:
        step: (weights, *arrays) -> a pytree of arrays [B, ...].
        arrays: [n, ...] each, n > 0 examples.
        batch_size: over all devices.
    """
    kept = [
        jax.tree.map(lambda array, rows=rows: array[: len(rows)], parallel.local(found))
        for rows, found in _in_batches(step, weights, arrays, mesh, batch_size)
    ]
    return jax.tree.map(lambda *chunks: np.concatenate(chunks), *kept)


class Attacker:
    """An attack on given weights.

    Args:
        attack: see attacks.attack.Attack.
        steps: length -> the compiled (begin, go_on) of that many iterations, see steps.make_attack_steps.
        batch_size: over all devices.
        key: of the evaluation; the keys of all examples and runs are derived from it.
        towards: whether the attack is targeted: labels are classes to reach instead of true ones. `steps` must agree.
    """

    def __init__(self, attack, steps: Callable, mesh, batch_size: int, key, *, towards: bool = False):
        self._attack, self._steps, self._mesh, self._key = attack, cache(steps), mesh, key
        self._towards = towards
        self._sizes = batch_sizes(batch_size, mesh.size)
        self._lengths = part_lengths(attack.iterations)
        self._firsts = np.cumsum([0, *self._lengths[:-1]]).tolist()

    @property
    def passes(self) -> float:
        """Forward passes for an example that is never broken, without those of the judge."""
        return self._attack.runs * (self._attack.start_passes + self._attack.iterations * self._attack.step_passes)

    @property
    def parts(self) -> int:
        """Number of parts for an example that is never broken."""
        return self._attack.runs * len(self._lengths)

    def __call__(self, weights, images, labels, ids, radius, *, title: str, keep: int = 0, advance=None) -> Outcome:
        """Attack examples until they are broken or the attack is over; each process passes its own.

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
        before = np.full(len(labels), -1) if self._towards else np.array(labels, np.int64)
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
                broken, states = self._attack_part(weights, examples, left, states, part, outcome, title, advance)
                left, states = left[~broken], jax.tree.map(lambda rows, broken=broken: rows[~broken], states)
                parts_left -= 1
                advance(int(broken.sum()) * parts_left)
        return outcome

    def _attack_part(self, weights, examples, left, states, part, outcome, title, advance):
        """(broken, states) of the examples `left` after a part of a run; states are None after the last part."""
        begin, go_on = self._steps(part.length)
        run, first = np.int32(part.run), np.int32(part.first)
        passes = part.length * self._attack.step_passes + (self._attack.start_passes if states is None else 0) + 1

        def launched():
            for rows, size in _chunks(left.size, self._sizes):
                chunk = _batch(tuple(array[left[rows]] for array in examples), size, self._mesh)
                if states is None:
                    yield rows, size, begin(weights, *chunk, self._key, run)
                else:
                    state = _batch(jax.tree.map(lambda array, rows=rows: array[rows], states), size, self._mesh)
                    yield rows, size, go_on(weights, *chunk, self._key, run, first, state)

        broken, kept = np.zeros(left.size, bool), []
        for rows, size, (state, verdict) in parallel.one_behind(launched()):
            check_allowed(verdict, title)
            here = slice(0, len(rows))
            prediction, idle = (array[here] for array in parallel.local((verdict["prediction"], verdict["idle"])))
            shown = left[rows] < len(outcome.adversarial)
            if shown.any():
                outcome.adversarial[left[rows][shown]] = parallel.local(state.adversarial)[here][shown]
            broken[rows] = (prediction == examples[1][left[rows]]) == self._towards
            outcome.prediction[left[rows]] = prediction
            outcome.passes += size * passes
            outcome.idle += (size - len(rows)) * passes + idle.sum() * self._attack.step_passes
            if not part.is_last:
                kept.append(jax.tree.map(lambda array, here=here: array[here], parallel.local(state)))
            advance(len(rows))
        return broken, jax.tree.map(lambda *chunks: np.concatenate(chunks), *kept) if kept else None


class _Part(NamedTuple):
    """`length` iterations of run number `run`, from iteration `first`."""

    run: int
    first: int
    length: int
    is_last: bool


def check_finite(verdict: dict, title: str) -> None:
    """Check that the logits of clean images are finite.

    Raises:
        UserError: they are not.
    """
    if not verdict["finite"]:
        raise UserError(f"{title}: the model's logits are not finite numbers, so nothing can be scored")


def check_allowed(verdict: dict, title: str) -> None:
    """Check that the perturbations are allowed.

    Raises:
        AssertionError: they are not, which is a defect of the attack.
    """
    excess = float(verdict["excess"])
    if not excess <= LARGEST_EXCESS:  # not `>`, so that NaN fails too
        raise AssertionError(f"{title} left the allowed perturbations by {excess}: this is a bug, please report it")


def batch_sizes(batch_size: int, devices: int) -> tuple[int, int]:
    """The large and the small batch size, multiples of the number of devices."""
    return batch_size, -(-batch_size // (SMALL_SHARE * devices)) * devices


def part_lengths(iterations: int) -> list[int]:
    """Iterations of each part of a run: at most two lengths, which differ by one, longer parts first."""
    parts = -(-iterations // max(PART_ITERATIONS, iterations // 10))
    short, rest = divmod(iterations, parts)
    return [short + 1] * rest + [short] * (parts - rest)


def pack(count: int, large: int, small: int) -> Iterator[tuple[int, int]]:
    """Batches for `count` examples, as (first example, size): large ones, then small ones if these suffice."""
    start = 0
    while start < count:
        size = large if count - start > large - small else small
        yield start, size
        start += size


def _chunks(count: int, sizes) -> Iterator[tuple[np.ndarray, int]]:
    """Batches for the `count` examples of this process: (rows, size); the number of batches is equal on all processes.

    Args:
        sizes: of batches over all devices.
    """
    for start, size in pack(max(hosts.gather(count)), *(size // jax.process_count() for size in sizes)):
        yield np.arange(start, min(start + size, count)), size


def _in_batches(step, weights, arrays, mesh, batch_size: int):
    """Run a compiled step on all examples in batches; yields (rows, result on the devices)."""

    def launched():
        for rows, size in _chunks(len(arrays[0]), batch_sizes(batch_size, mesh.size)):
            yield rows, step(weights, *_batch(tuple(array[rows] for array in arrays), size, mesh))

    return parallel.one_behind(launched())


def _batch(tree, size: int, mesh):
    """Global arrays, to which this process contributes `size` rows: those of the arrays in `tree`, and padding."""

    def filled(rows):
        fill = rows[:1] if len(rows) else np.zeros((1, *rows.shape[1:]), rows.dtype)
        return np.concatenate([rows, np.repeat(fill, size - len(rows), axis=0)]) if len(rows) < size else rows

    return parallel.join(jax.tree.map(filled, tree), mesh, size * jax.process_count())
