"""Everything that a training is made of, as plain objects: `setup.py` makes one from a config, `fit.py` from values."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import PgdAttack
from jaxrobust.data import Dataset, Description, batches, randomness
from jaxrobust.distributed import parallel
from jaxrobust.evaluation import steps
from jaxrobust.evaluation.classifier import Classifier
from jaxrobust.objectives import Objective
from jaxrobust.remedies import Remedy
from jaxrobust.training import observation, overfitting, state as state_lib, step as step_lib
from jaxrobust.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Training:
    """The parts of a training, and what is compiled of them."""

    model: Any  # Flax module, `apply(variables, images, train=...)` -> logits [B, C]
    verified: Any  # the model in float32; the same one, if it computes in float32
    data: Dataset | Description  # the data set; its description is enough for what is only compiled
    mesh: Mesh
    # objective, attack: what is minimised, and under which attack.
    objective: Objective
    attack: step_lib.TrainAttack
    remedy: Remedy  # controls the class knobs
    optimizer: optax.GradientTransformation  # with its schedule, which counts updates
    schedule: optax.Schedule  # the learning rate by batch, for the log
    augment: Callable  # (keys [B], images [B, H, W, C]) -> images
    epochs: int
    batch_size: int
    total_steps: int  # batches of the whole training
    seed: int = 0  # of the initial weights, the order of the data, augmentation and random starts
    # where the remedy sees how the classes do: "training", its batches, or "validation", that split.
    observe: str = "training"
    # arguments of streaming.train_batches, where the host augments as it decodes.
    decode: dict = dataclasses.field(default_factory=dict)
    average_decay: float = 0.0  # of the average of the weights; 0: none is kept
    in_batch_from: int = 0  # first step in which class weights computed from the batch act
    weight_perturbation: step_lib.WeightPerturbation | None = None
    steps_per_dispatch: int = 1  # updates in one program, with the training set on the devices
    eval_batch_size: int = 512  # of passes without an update, over all devices
    # whether to look for catastrophic overfitting, which a single-step attack may lead to.
    check_overfitting: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return batches.steps_per_epoch(len(self.data.train), self.batch_size)

    @property
    def learning_rates(self) -> np.ndarray:
        """The learning rate of every step [total_steps], on the host.

        A schedule called in the training loop would be computed on the device, behind the steps that wait there.
        """
        return np.asarray(jax.vmap(lambda step: jnp.asarray(self.schedule(step)))(jnp.arange(self.total_steps)))

    @property
    def _observed(self) -> tuple[str, ...]:
        """The statistics that the remedy wants of the training batches."""
        return self.remedy.statistics if self.observe == "training" else ()

    def initial_state(self) -> TrainState:
        """The state before the first step, on every device of the mesh."""
        counts = self.data.train.counts(self.data.num_classes)
        # As one program, which is compiled faster than its hundreds of operations, and once for all seeds.
        state = jax.jit(lambda key: self._state(counts, key))(
            randomness.key(self.seed, randomness.Purpose.INITIAL_WEIGHTS)
        )
        return parallel.replicate(state, self.mesh)

    def abstract_state(self) -> TrainState:
        """The shapes, types and devices of the training state."""
        counts = np.ones(self.data.num_classes, np.int64)
        return parallel.abstract(jax.eval_shape(lambda key: self._state(counts, key), jax.random.key(0)), self.mesh)

    def _state(self, class_counts, key) -> TrainState:
        return state_lib.create(
            self.model,
            self.optimizer,
            self.remedy,
            class_counts,
            self.data.image_shape,
            key,
            averaged=self.average_decay > 0,
            observed=self._observed,
        )

    def classifier(self, seed: int) -> Classifier:
        """The model, for any weights of it; `seed` is of the random numbers of attacks."""
        options = {"mesh": self.mesh, "batch_size": self.eval_batch_size, "seed": seed}
        return Classifier.of_model(self.model, self.data.num_classes, verified=self.verified, **options)

    def train_step(self) -> parallel.Step:
        """The update by one batch, see step.make_train_step."""
        return step_lib.make_train_step(
            self.model,
            self.objective,
            self.optimizer,
            self.attack,
            augment=self.augment,
            average_decay=None if self.remedy.average else self.average_decay,
            in_batch=self.remedy.in_batch,
            in_batch_from=self.in_batch_from,
            observed=self._observed,
            weight_perturbation=self.weight_perturbation,
        )

    def resident_steps(self):
        """The compiled updates with the training set on the devices, see step.over_resident."""
        return parallel.spmd(step_lib.over_resident(self.train_step(), self.data.image_shape), self.mesh)

    def streamed_step(self):
        """The compiled update by a batch that the host brings."""
        return parallel.spmd(self.train_step(), self.mesh)

    def end_of_epoch(self):
        """The compiled function that lets the remedy see how the classes did, and starts new sums.

        (state, statistics of the validation split, None where nobody needs them) -> state
        """

        @parallel.step(parallel.REPLICATED, parallel.REPLICATED, out=parallel.REPLICATED, donate=(0,))
        def end_epoch(state, validation):
            observed = state.class_sums if self.observe == "training" else validation
            knobs, memory = self.remedy.update(observed, state.memory)
            averaged = state.averaged
            if self.remedy.average:
                decay, memory = self.remedy.average(memory, validation)
                averaged = state_lib.blend(averaged, state.weights, decay)
            zeros = jax.tree.map(jnp.zeros_like, state.class_sums)
            return state.replace(knobs=knobs, memory=memory, averaged=averaged, class_sums=zeros)

        return parallel.spmd(end_epoch, self.mesh)

    def observer(self) -> observation.Observer | None:
        """What gathers the statistics of the validation split, at the end of each epoch; None if nobody needs them."""
        if self.observe == "training" and not self.remedy.average:
            return None
        attack = self.attack._replace(warmup_steps=0)
        step = step_lib.make_observe_step(self.model, self.objective, attack, self.remedy.statistics)
        return observation.Observer(
            parallel.spmd(step, self.mesh),
            self.data.validation,
            self.data.num_classes,
            batch_size=self.eval_batch_size,
            seed=self.seed,
            mesh=self.mesh,
        )

    def overfitting_check(self) -> overfitting.Check | None:
        """The check for catastrophic overfitting; None unless the training is against a single step, and wants it."""
        pgd, radius = self.attack.pgd, self.attack.radius
        if not self.check_overfitting or self.objective.perturb is None or pgd.steps > 1 or radius == 0:
            return None
        attack = {"norm": pgd.norm, "loss": losses.cross_entropy}
        single = PgdAttack(
            iterations=1,
            random_start=pgd.start is threats.random_start,
            relative_step=self.attack.step_size / radius,
            **attack,
        )
        step = steps.make_robust_counts_step(
            steps.prepared_of(self.model),
            steps.make_verify_step(steps.forward_of(self.verified), pgd.norm),
            (single, PgdAttack(iterations=overfitting.STEPS, **attack)),
        )
        return overfitting.Check(
            parallel.spmd(step, self.mesh),
            self.data.train,
            self.data.num_classes,
            radius=radius,
            batch_size=self.eval_batch_size,
            seed=self.seed,
            mesh=self.mesh,
        )
