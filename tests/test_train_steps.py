"""One program, whatever the devices: the same gradients and counts on 1, 2 and 8, mapped or pmapped."""

import dataclasses
import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import models, objectives, remedies
from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Pgd
from jaxrobust.data.augment import augment
from jaxrobust.data.dataset import Split
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError
from jaxrobust.objectives.objective import LossOutput
from jaxrobust.remedies import in_batch
from jaxrobust.training import observation, state as state_lib, step as step_lib

CLASSES, SHAPE, BATCH = 5, (8, 8, 3), 16
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, size=(40, *SHAPE), dtype=np.uint8)
LABELS = RNG.integers(0, CLASSES, 40).astype(np.int32)


def make(attack_batch_norm="train", objective="pgd_at", model="cnn", random_start=True, warmup_steps=0, **options):
    size = {"cnn": {"width": 4}, "mlp": {"hidden": (8,)}}[model]
    model = models.create(model, num_classes=CLASSES, batch_norm_axis=parallel.AXIS, canonical_gradients=True, **size)
    optimizer = optax.sgd(0.1, momentum=0.9)
    attack = step_lib.TrainAttack(
        Pgd(threats.NORMS["linf"], steps=3, start=threats.random_start if random_start else threats.at_image),
        8 / 255,
        2 / 255,
        attack_batch_norm,
        warmup_steps,
    )
    if isinstance(objective, str):
        objective = objectives.create(objective, replays=3)
    step = step_lib.make_train_step(
        model,
        objective,
        optimizer,
        attack,
        augment=partial(augment, operations=("crop", "flip"), pad=2, pad_mode="zero"),
        average_decay=0.9,
        **options,
    )
    state = state_lib.create(
        model,
        optimizer,
        remedies.none(),
        np.bincount(LABELS, minlength=CLASSES),
        SHAPE,
        jax.random.key(0),
        averaged=True,
    )
    return model, step, state


def orders(steps_to_make):
    """Indices [steps, BATCH] of the examples in each batch."""
    return np.stack([np.random.default_rng(i).permutation(40)[:BATCH] for i in range(steps_to_make)])


def compiled(devices, **options):
    """The step and its first state, made once for all tests."""
    return compiled_once(devices, **{"attack_batch_norm": "train", "objective": "pgd_at", "model": "cnn"} | options)


@functools.cache
def compiled_once(devices, **options):
    _, step, state = make(**options)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    return parallel.spmd(step, mesh), jax.device_get(state), mesh


def train(devices, steps_to_make=3, knobs=None, first_step=0, **options):
    step, state, mesh = compiled(devices, **options)
    state = state.replace(step=jnp.int32(first_step))
    if knobs:
        state = state.replace(knobs=state.knobs.replace(**knobs))
    state = parallel.replicate(state, mesh)
    losses = []
    for indices in orders(steps_to_make):
        state, loss = step(state, *parallel.shard((IMAGES[indices], LABELS[indices]), mesh), jax.random.key(1))
        losses.append(float(loss))
    return jax.device_get(state), losses


def assert_trees_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


@pytest.mark.parametrize("attack_batch_norm, numbers", [("train", (2, 8)), ("eval", (8,))])
def test_one_update_is_the_same_on_any_number_of_devices(attack_batch_norm, numbers):
    """With synchronised batch norm. The first momentum is the gradient itself.

    More than one step is no fair comparison: the sign of a gradient that rounds to either side of 0 moves a pixel.
    """
    one, (loss,) = train(1, 1, attack_batch_norm=attack_batch_norm)
    for devices in numbers:
        many, (loss_of_many,) = train(devices, 1, attack_batch_norm=attack_batch_norm)
        np.testing.assert_allclose(loss_of_many, loss, rtol=1e-5)
        assert_trees_close(many.opt_state, one.opt_state, atol=2e-6, rtol=1e-4)
        assert_trees_close(many.weights, one.weights, atol=2e-6, rtol=1e-4)
        np.testing.assert_array_equal(many.class_sums["count"], one.class_sums["count"])


@functools.partial(jax.jit, static_argnums=1)
def loss_by_hand(variables, mode):
    """Of the first update, from an attack and a forward pass written out."""
    model = models.create("cnn", num_classes=CLASSES, width=4)
    step_key = jax.random.fold_in(jax.random.key(1), 0)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(step_key, i)))(jnp.arange(BATCH))
    images = augment(keys[:, 0], IMAGES[:BATCH] / np.float32(255), operations=("crop", "flip"), pad=2, pad_mode="zero")
    adversarial = Pgd(threats.NORMS["linf"], steps=3)(
        lambda images: model.apply(variables, images, train=mode == "train"),
        losses.cross_entropy,
        images,
        LABELS[:BATCH],
        keys[:, 1],
        jnp.full(BATCH, 8 / 255),
        jnp.full(BATCH, 2 / 255),
    )
    logits = model.apply(variables, adversarial, train=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[:BATCH]).mean()


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_the_attack_sees_batch_norm_in_the_mode_asked_for(batch_norm):
    step, state, mesh = compiled(1, attack_batch_norm=batch_norm)
    rng = np.random.default_rng(0)  # running statistics far from those of the batch
    statistics = jax.tree.map(lambda v: np.float32(rng.uniform(0.2, 3, v.shape)), state.weights.batch_stats)
    state = state.replace(weights=state.weights.replace(batch_stats=statistics))
    _, loss = step(*parallel.replicate((state, IMAGES[:BATCH], LABELS[:BATCH]), mesh), jax.random.key(1))
    by_hand = {mode: loss_by_hand(state.weights.variables, mode) for mode in ("train", "eval")}
    np.testing.assert_allclose(loss, by_hand.pop(batch_norm), rtol=1e-5)
    assert abs(loss - by_hand.popitem()[1]) > 1e-4


def test_pmap_runs_the_same_step():
    _, step, _ = make()
    spmd, state, mesh = compiled(2)
    images, labels = IMAGES[:BATCH], LABELS[:BATCH]
    mapped = jax.pmap(step, axis_name=parallel.AXIS, in_axes=(None, 0, 0, None), devices=jax.devices()[:2])
    by_pmap, _ = mapped(state, images.reshape(2, -1, *SHAPE), labels.reshape(2, -1), jax.random.key(1))
    by_spmd, _ = spmd(parallel.replicate(state, mesh), *parallel.shard((images, labels), mesh), jax.random.key(1))
    assert_trees_close(jax.tree.map(lambda x: x[0], by_pmap.weights), by_spmd.weights, rtol=1e-6, atol=1e-7)


def test_class_sums_count_every_example_of_the_batches():
    state, losses = train(2)
    seen = orders(3).ravel()
    np.testing.assert_array_equal(state.class_sums["count"], np.bincount(LABELS[seen], minlength=CLASSES))
    np.testing.assert_allclose(
        state.class_sums["loss"].sum() / state.class_sums["count"].sum(), np.mean(losses), rtol=1e-5
    )
    assert (state.class_sums["correct"] <= state.class_sums["count"]).all()


def test_several_updates_in_one_program_are_the_same_updates():
    _, step, state = make()
    mesh = parallel.make_mesh(jax.devices()[:2])
    many = parallel.spmd(step_lib.over_resident(step, SHAPE), mesh)
    indices = parallel.shard(orders(2), mesh, parallel.SHARDED_STEPS)
    together, losses = many(
        *parallel.replicate((state, IMAGES.reshape(40, -1), LABELS), mesh), indices, jax.random.key(1)
    )
    one_by_one, losses_one_by_one = train(2, 2)
    np.testing.assert_allclose(losses, losses_one_by_one, rtol=1e-5)
    assert_trees_close(together.weights, one_by_one.weights, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(together.class_sums["count"], one_by_one.class_sums["count"])


def test_same_seed_same_bits():
    one, other = train(2)[0], train(2)[0]
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.usefixtures("optimised")
def test_neutral_knobs_are_plain_adversarial_training_bit_for_bit():
    """Against an objective written without knobs: adding 0 and multiplying by 1 change no bit."""

    def loss(forward, batch_stats, images, attacked, labels, knobs):
        logits, batch_stats = forward(batch_stats, attacked.images)
        losses_B = optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, CLASSES))
        return LossOutput(losses_B, losses_B, logits, None, batch_stats)

    with_knobs = objectives.create("pgd_at")  # compiled anew, with all optimisations
    one, other = (train(1, **MLP, objective=of)[0] for of in (with_knobs, with_knobs._replace(loss=loss)))
    jax.tree.map(np.testing.assert_array_equal, one.weights, other.weights)


def test_radius_scale_zero_is_training_on_clean_images():
    """The class knob reaches radius and step: with radius 0 adversarial training is standard training."""
    adversarial, _ = train(1, 1, knobs={"radius_scale": jnp.zeros(CLASSES)})
    standard, _ = train(1, 1, objective="standard")
    assert_trees_close(adversarial.weights, standard.weights, rtol=1e-4, atol=1e-6)


def test_radius_scale_acts_on_its_class_alone():
    robust, _ = train(1, 1)
    scaled, _ = train(1, 1, knobs={"radius_scale": jnp.ones(CLASSES).at[2].set(2.0)})
    changed = ~np.isclose(robust.class_sums["loss"], scaled.class_sums["loss"], rtol=1e-3)
    assert changed[2], "a larger radius must show in the loss of the class"
    # The others change only through the shared batch statistics.
    assert np.abs(robust.class_sums["loss"] - scaled.class_sums["loss"]).argmax() == 2


MLP = {"model": "mlp"}
CASES = {
    "awp": {"objective": "trades", "weight_perturbation": step_lib.WeightPerturbation(0.01, 0)},
    "weights in the batch": {"objective": "variance_penalty", "in_batch": (in_batch.faal(0.5),)},
    "free": {"objective": "free"},
    "bat": {"objective": "bat"},
}


@pytest.mark.parametrize("case", CASES)
def test_one_update_of_other_objectives_is_the_same_on_1_and_4_devices(case):
    one, (loss,) = train(1, 1, **MLP, **CASES[case])
    many, (loss_of_many,) = train(4, 1, **MLP, **CASES[case])
    np.testing.assert_allclose(loss_of_many, loss, rtol=1e-5)
    assert_trees_close(many.weights, one.weights, atol=2e-6, rtol=1e-4)
    assert_trees_close(many.class_sums, one.class_sums, rtol=1e-5)


def test_weights_in_the_batch_begin_when_they_are_due():
    """Before, training is plain; the penalty of an objective does not wait."""
    waiting = {"in_batch": (in_batch.faal(0.5),), "in_batch_from": 1}
    (plain, then), (waited, changed) = (train(1, 2, **MLP, **case)[1] for case in ({}, waiting))
    np.testing.assert_allclose(waited, plain, rtol=1e-6)
    assert not np.isclose(changed, then, rtol=1e-3)
    penalty = {"objective": "variance_penalty", **MLP}
    np.testing.assert_allclose(train(1, 1, **penalty, **waiting)[1], train(1, 1, **penalty)[1], rtol=1e-6)


def test_free_by_hand():
    """Three updates, each at images moved by the gradient of the one before, which the same pass gave."""
    model, _, state = make(objective="free", random_start=False, **MLP)
    after, _ = train(1, 1, objective="free", random_start=False, **MLP)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(1), 0), i)))
    batch = orders(1)[0]
    images = augment(
        keys(jnp.arange(BATCH))[:, 0],
        IMAGES[batch] / np.float32(255),
        operations=("crop", "flip"),
        pad=2,
        pad_mode="zero",
    )
    optimizer = optax.sgd(0.1, momentum=0.9)
    params, opt_state, adversarial = state.weights.params, state.opt_state, images
    for _ in range(3):

        def loss(params, adversarial):
            logits = model.apply({"params": params, "batch_stats": {}}, adversarial, train=True)
            return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[batch]).mean()

        gradients, ascent = jax.grad(loss, argnums=(0, 1))(params, adversarial)
        adversarial = jnp.clip(adversarial + 2 / 255 * jnp.sign(ascent), images - 8 / 255, images + 8 / 255).clip(0, 1)
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    assert_trees_close(after.weights.params, params, rtol=1e-4, atol=1e-6)
    assert after.step == 1 and after.class_sums["count"].sum() == BATCH


def test_weights_are_perturbed_uphill_by_their_share():
    params = {"kernel": jnp.array([[3.0, 0.0], [0.0, 4.0]]), "bias": jnp.array([1.0, 2.0])}
    gradients = {"kernel": jnp.array([[0.0, 6.0], [8.0, 0.0]]), "bias": jnp.array([1.0, 1.0])}
    moved = step_lib.perturb_weights(params, gradients, 0.1)
    np.testing.assert_allclose(moved["kernel"], params["kernel"] + 0.1 * 5 * gradients["kernel"] / 10, rtol=1e-6)
    np.testing.assert_array_equal(moved["bias"], params["bias"])


def test_weight_perturbation_begins_when_it_is_due_and_raises_the_loss():
    _, (plain,) = train(1, 1, **MLP)
    _, (later,) = train(1, 1, **MLP, weight_perturbation=step_lib.WeightPerturbation(0.1, 1))
    _, (now,) = train(1, 1, **MLP, weight_perturbation=step_lib.WeightPerturbation(0.1, 0))
    assert later == pytest.approx(plain, rel=1e-6) and now > 1.01 * plain


def test_the_radius_warms_up_from_nothing():
    warm, _ = train(1, 1, **MLP, warmup_steps=10)
    clean, _ = train(1, 1, **MLP, objective="standard")
    assert_trees_close(warm.weights, clean.weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("step, share", [(5, 0.5), (20, 1.0)])
def test_the_radius_rises_in_proportion_and_then_stays(step, share):
    warm, _ = train(1, 1, **MLP, warmup_steps=10, first_step=step)
    scaled, _ = train(1, 1, **MLP, knobs={"radius_scale": jnp.full(CLASSES, share)}, first_step=step)
    assert_trees_close(warm.weights, scaled.weights, rtol=1e-5, atol=1e-7)


def test_targets_are_wrong_classes_as_often_as_they_should_be():
    logit = jnp.array([0.0, 1.0, 2.0])
    labels = jnp.repeat(jnp.arange(3), 4000)
    keys = jax.random.split(jax.random.key(0), 12000)
    targets = np.asarray(step_lib.draw_targets(keys, logit, labels)).reshape(3, 4000)
    for label in range(3):
        weight = np.exp(np.asarray(logit)) * (np.arange(3) != label)
        share = np.bincount(targets[label], minlength=3) / 4000
        np.testing.assert_allclose(share, weight / weight.sum(), atol=0.03)  # four standard errors
        assert share[label] == 0


@pytest.mark.parametrize("name", ["pgd_at", "trades", "free"])
def test_an_observation_counts_every_image_once_on_any_number_of_devices(name):
    """The counts are those of the model applied by hand; images that fill up the last batch do not count."""
    model, _, state = make(**MLP)
    pgd = Pgd(threats.NORMS["linf"], steps=3, start=threats.at_image)
    attack = step_lib.TrainAttack(pgd, 8 / 255, 2 / 255, "eval")
    objective = objectives.create(name)
    names = ("natural_correct", "confusion", "steps_withstood")
    found = []
    for devices in (1, 4):
        mesh = parallel.make_mesh(jax.devices()[:devices])
        observe = parallel.spmd(step_lib.make_observe_step(model, objective, attack, names), mesh)
        observer = observation.Observer(observe, Split(IMAGES, LABELS), CLASSES, batch_size=16, seed=0, mesh=mesh)
        found.append(jax.device_get(observer(parallel.replicate(state.weights, mesh))))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), *found)

    def logits_fn(images):
        return model.apply(state.weights.variables, images, train=False)

    def correct_at(images):
        return np.bincount(LABELS[logits_fn(images).argmax(1) == LABELS], minlength=CLASSES)

    images = IMAGES / np.float32(255)
    np.testing.assert_array_equal(found[0]["natural_correct"], correct_at(images))
    np.testing.assert_array_equal(found[0]["count"], np.bincount(LABELS, minlength=CLASSES))
    np.testing.assert_array_equal(found[0]["confusion"].sum(1), found[0]["count"])
    if name != "trades":  # which starts at random
        radius, step_size = np.full(len(LABELS), 8 / 255, np.float32), np.full(len(LABELS), 2 / 255, np.float32)
        keys = jax.random.split(jax.random.key(0), len(LABELS))  # of no effect without a random start
        iterates = [images] + [
            dataclasses.replace(pgd, steps=steps)(
                logits_fn, losses.cross_entropy, images, LABELS, keys, radius, step_size
            )
            for steps in (1, 2)
        ]
        np.testing.assert_array_equal(found[0]["steps_withstood"], sum(map(correct_at, iterates)))


def test_a_class_that_cannot_be_observed_is_named():
    with pytest.raises(FieldError, match="leaves class 5 without a validation image"):
        observation.Observer(None, Split(IMAGES, LABELS), CLASSES + 1, batch_size=16, seed=0, mesh=parallel.make_mesh())
