"""Parts, batches and compaction change what is spent, never a result."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_models import run as run_whole

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.attack import Examples
from jaxrobust.attacks.pgd import PgdAttack
from jaxrobust.distributed import parallel
from jaxrobust.evaluation import attack_runner, batching, steps
from jaxrobust.models.weights import Weights

KEY = jax.random.key(7)
RADIUS = 0.1


@pytest.mark.parametrize("iterations", [1, 3, 19, 20, 21, 97, 100, 150, 5000])
def test_parts_make_up_the_run(iterations):
    lengths = attack_runner.part_lengths(iterations)
    assert sum(lengths) == iterations and len(set(lengths)) <= 2
    assert max(lengths) <= max(20, iterations // 10)


@pytest.mark.parametrize("large, devices", [(512, 1), (512, 8), (37, 1), (8, 8), (24, 8)])
def test_batches_hold_every_example_once_and_little_else(large, devices):
    large, small = batching.batch_sizes(large, devices)
    assert small % devices == 0 and small <= large
    for count in range(2 * large + 2):
        packed = list(batching.pack(count, large, small))
        assert [start for start, _ in packed] == np.cumsum([0, *(size for _, size in packed)])[:-1].tolist()[
            : len(packed)
        ]
        assert count <= sum(size for _, size in packed) < count + small


class Model:
    """Two ReLU layers with fixed weights: enough for runs that succeed early, late and never."""

    rng = np.random.default_rng(0)
    first = jnp.asarray(rng.normal(size=(12, 16)), jnp.float32)
    second = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)

    def apply(self, variables, images, *, train, mutable=None, rngs=None):
        logits = jax.nn.relu((images.reshape(len(images), -1) - 0.5) @ self.first) @ self.second
        return logits if mutable is None else (logits, {})


WEIGHTS = Weights({}, {})
IMAGES = np.random.default_rng(1).integers(0, 256, (61, 2, 2, 3), dtype=np.uint8)
LABELS = np.asarray(Model().apply({}, jnp.float32(IMAGES) / 255, train=False).argmax(-1))


def attacker(attack, devices, batch_size):
    mesh = parallel.make_mesh(jax.devices()[:devices])
    verify = steps.make_verify_step(steps.forward_of(Model()), threats.NORMS["linf"])

    def compiled(length):
        made = steps.make_attack_steps(steps.prepared_of(Model()), verify, attack, length)
        return tuple(parallel.spmd(step, mesh) for step in made)

    return attack_runner.Attacker(attack, compiled, mesh, batch_size, KEY)


PGD = PgdAttack(threats.NORMS["linf"], losses.cross_entropy, iterations=50, restarts=3, relative_step=0.02)


@functools.cache
def in_one_program():
    """Which examples are misclassified after some run."""
    found = np.zeros(len(LABELS), bool)
    for run in range(PGD.runs):
        keys = jax.vmap(lambda i, run=run: jax.random.fold_in(jax.random.fold_in(KEY, i), run))(jnp.arange(61))
        examples = Examples(jnp.float32(IMAGES) / 255, jnp.asarray(LABELS), keys, jnp.full(61, RADIUS))
        found |= np.asarray(
            run_whole(PGD, lambda images: Model().apply({}, images, train=False), examples, run).is_adversarial
        )
    return found


@pytest.mark.parametrize(
    "devices, batch_size",
    [pytest.param(1, 64, marks=pytest.mark.slow), (1, 7), (8, 16)],
)
def test_results_are_those_of_one_program_for_all(devices, batch_size):
    reference = in_one_program()
    assert 5 < reference.sum() < 56
    attack = attacker(PGD, devices, batch_size)
    done = []
    outcome = attack(WEIGHTS, IMAGES, LABELS, np.arange(61), np.full(61, RADIUS), title="", keep=5, advance=done.append)
    np.testing.assert_array_equal(outcome.prediction != LABELS, reference)
    assert sum(done) == 61 * attack.parts, "progress ends at the end"
    verified = Model().apply({}, jnp.asarray(outcome.adversarial), train=False).argmax(-1)
    np.testing.assert_array_equal(verified, outcome.prediction[:5])
    assert np.abs(outcome.adversarial - IMAGES[:5] / 255).max() <= RADIUS + 1e-6


def test_misclassified_examples_leave():
    outcome = attacker(PGD, 1, 16)(WEIGHTS, IMAGES, LABELS, np.arange(61), np.full(61, RADIUS), title="")
    robust = (outcome.prediction == LABELS).sum()
    each = 2 * PGD.iterations * PGD.runs
    assert robust * each < outcome.forward_passes < 0.8 * 61 * each
    assert 0 < outcome.wasted_passes < 0.3 * outcome.forward_passes


def test_each_example_has_its_own_radius():
    radius = np.where(np.arange(61) % 2, 0.0, 0.5)
    outcome = attacker(PGD, 1, 64)(WEIGHTS, IMAGES, LABELS, np.arange(61), radius, title="")
    is_adversarial = outcome.prediction != LABELS
    assert not is_adversarial[1::2].any() and is_adversarial[::2].all()


def test_what_only_the_attacks_model_believes_does_not_count():
    """The float32 model is another one: an attack that has fooled its own is not yet over."""

    class Stubborn(NamedTuple):
        adversarial: jax.Array
        is_adversarial: jax.Array

    @dataclasses.dataclass(frozen=True)
    class Liar:
        runs = 1
        iterations = 2
        start_passes = step_passes = 1.0

        def start(self, logits_fn, examples, run):
            return Stubborn(examples.images, jnp.ones(len(examples.labels), bool))

        def step(self, logits_fn, examples, state, iteration):
            return state

    outcome = attacker(Liar(), 1, 61)(WEIGHTS, IMAGES, LABELS, np.arange(61), np.full(61, RADIUS), title="")
    np.testing.assert_array_equal(outcome.prediction, LABELS)
    assert outcome.wasted_passes >= 2 * 61


def test_of_no_examples_nothing_comes():
    nothing = np.arange(0)
    outcome = attacker(PGD, 1, 16)(WEIGHTS, IMAGES[:0], nothing, nothing, nothing, title="")
    assert outcome.prediction.shape == (0,) and outcome.forward_passes == 0
