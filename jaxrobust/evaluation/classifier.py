"""The compiled programs of a model: predictions, rankings, features and attacks, for any weights of it."""

from collections.abc import Callable
from functools import cache, cached_property

import jax
import numpy as np

from jaxrobust.attacks import threats
from jaxrobust.attacks.suites import AttackSpec
from jaxrobust.data import randomness
from jaxrobust.distributed import parallel
from jaxrobust.evaluation import attack_runner, batching, steps


class Classifier:
    """A model on devices. Every program is compiled when it is first used, for two sizes of batches, and kept.

    Each process passes its own images; all call the methods together.

    Args:
        forward: (weights, images [B, H, W, C] in [0, 1]) -> logits [B, C], float32, which is what is reported.
        prepared: (weights, images) -> (images -> logits), the model that attacks see; see steps.prepared_of.
        features: (weights, images) -> (features [B, D], logits [B, C]); None: the model shows none.
        batch_size: over all devices, a multiple of their number.
        seed: of the random numbers of attacks.
    """

    def __init__(
        self,
        forward: Callable,
        prepared: Callable,
        num_classes: int,
        *,
        features: Callable | None = None,
        mesh=None,
        batch_size: int = 512,
        seed: int = 0,
    ):
        self.forward, self.prepared, self.num_classes = forward, prepared, num_classes
        self.mesh, self.batch_size, self.seed = mesh or parallel.make_mesh(), batch_size, seed
        self._features = features
        self._verify_step = cache(lambda norm: steps.make_verify_step(forward, threats.NORMS[norm]))
        self._ranking = cache(lambda count: parallel.spmd(steps.make_ranking_step(forward, count), self.mesh))
        self._attackers = {}

    @classmethod
    def of_model(cls, model, num_classes: int, *, verified=None, **options) -> "Classifier":
        """Of a Flax model; `verified` is the same in float32 if the model computes in a lower precision."""
        verified = verified or model
        return cls(
            steps.forward_of(verified),
            steps.prepared_of(model),
            num_classes,
            features=steps.features_of(verified),
            **options,
        )

    @cached_property
    def predict_step(self):
        """The compiled step, see steps.make_predict_step."""
        return parallel.spmd(steps.make_predict_step(self.forward), self.mesh)

    @cached_property
    def _features_step(self):
        return parallel.spmd(steps.make_features_step(self._features), self.mesh)

    @cached_property
    def zero_gradient_step(self):
        """The compiled step, see steps.make_zero_gradient_step."""
        return parallel.spmd(steps.make_zero_gradient_step(self.prepared), self.mesh)

    def predict(self, weights, images, title: str) -> np.ndarray:
        """Predictions [n] for images [n, H, W, C]. Raises UserError if the model's logits are not finite."""
        prediction = np.zeros(len(images), np.int64)
        for rows, predicted in self._in_batches(self.predict_step, weights, (images,)):
            attack_runner.check_finite(predicted, title)
            prediction[rows] = parallel.local(predicted["prediction"])[: len(rows)]
        return prediction

    def is_finite(self, weights, images) -> bool:
        """Whether all logits of the images are finite."""
        predictions = self._in_batches(self.predict_step, weights, (images,))
        return all(bool(predicted["finite"]) for _, predicted in predictions)

    def rank(self, weights, images, count: int, title: str) -> np.ndarray:
        """The `count` most likely classes [n, count] for images [n, H, W, C], likeliest first. Raises as `predict`."""
        ranking = []
        for rows, ranked in self._in_batches(self._ranking(count), weights, (images,)):
            attack_runner.check_finite(ranked, title)
            ranking.append(parallel.local(ranked["ranking"])[: len(rows)])
        return np.concatenate(ranking)

    def features(self, weights, images) -> tuple[np.ndarray, np.ndarray]:
        """Features [n, D], which is what the head sees, and logits [n, C], for images [n, H, W, C]."""
        return self.of_each(self._features_step, weights, (images,))

    def of_each(self, compiled, weights, arrays):
        """Results of a compiled step (weights, *arrays [B, ...]) -> pytree of [B, ...], for each of n > 0 examples."""
        kept = [
            jax.tree.map(lambda array, rows=rows: array[: len(rows)], parallel.local(found))
            for rows, found in self._in_batches(compiled, weights, arrays)
        ]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *kept)

    def _in_batches(self, compiled, weights, arrays):
        """Yields (rows, result on the devices) of a compiled step on all examples."""

        def launched():
            sizes = batching.batch_sizes(self.batch_size, self.mesh.size)
            for rows, size in batching.row_batches(len(arrays[0]), sizes):
                yield rows, compiled(weights, *batching.padded(tuple(a[rows] for a in arrays), size, self.mesh))

        return parallel.one_behind(launched())

    def attacker(
        self, spec: AttackSpec, norm: str, relative_step: float = 0.25, *, targeted: bool = False
    ) -> attack_runner.Attacker:
        """An attack, with its programs, which are shared by attacks that differ in their names alone.

        `relative_step` is of PGD, as a share of the radius; a `targeted` one is for given classes, on a model of two:
        that class, and any other.
        """
        attack, compiled = self.attack_steps(spec, norm, relative_step, targeted=targeted)
        # One object for each attack, since its programs take long to trace and compile.
        known = attack, norm, targeted
        if known not in self._attackers:
            key = randomness.key(self.seed, randomness.Purpose.EVALUATION)
            self._attackers[known] = attack_runner.Attacker(
                attack, compiled, self.mesh, self.batch_size, key, targeted=targeted
            )
        return self._attackers[known]

    def attack_steps(self, spec: AttackSpec, norm: str, relative_step: float = 0.25, *, targeted: bool = False):
        """(attack, length -> its compiled parts of that many iterations), see steps.make_attack_steps."""
        attack = spec.build(norm, 2 if targeted else self.num_classes, relative_step)

        def compiled(length):
            made = steps.make_attack_steps(self.prepared, self._verify_step(norm), attack, length, targeted=targeted)
            return tuple(parallel.spmd(step, self.mesh) for step in made)

        return attack, compiled
