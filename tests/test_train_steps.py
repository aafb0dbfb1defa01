"""One program, whatever the devices: the same gradients and counts on 1, 2 and 8, mapped or pmapped."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust import models, objectives, parallel, remedies, train_state, train_steps
from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import Pgd
from jaxrobust.data.augment import augment

CLASSES, SHAPE, BATCH = 5, (8, 8, 3), 16
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, size=(40, *SHAPE), dtype=np.uint8)
LABELS = RNG.integers(0, CLASSES, 40).astype(np.int32)
WHOLE, SHARE = parallel.REPLICATED, parallel.SHARDED


def make(attack_batch_norm="train", objective="pgd_at"):
    model = models.create("cnn", num_classes=CLASSES, width=4, batch_norm_axis=parallel.AXIS, canonical_gradients=True)
    optimizer = optax.sgd(0.1, momentum=0.9)
    attack = train_steps.TrainAttack(Pgd(threats.NORMS["linf"], steps=3), 8 / 255, 2 / 255, attack_batch_norm)
    step = train_steps.make_train_step(
        model,
        objectives.create(objective, objectives.Settings()),
        optimizer,
        attack,
        augment=partial(augment, operations=("crop", "flip"), pad=2, pad_mode="zero"),
        average_decay=0.9,
    )
    state = train_state.create(
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


def train(devices, steps_to_make=3, knobs=None, **options):
    _, step, state = make(**options)
    if knobs:
        state = state.replace(knobs=state.knobs.replace(**knobs))
    mesh = parallel.make_mesh(jax.devices()[:devices])
    step = parallel.spmd(step, mesh, in_specs=(WHOLE, SHARE, SHARE, WHOLE), out_specs=(WHOLE, WHOLE))
    state = parallel.replicate(state, mesh)
    losses = []
    for indices in orders(steps_to_make):
        state, loss = step(state, *parallel.shard((IMAGES[indices], LABELS[indices]), mesh), jax.random.key(1))
        losses.append(float(loss))
    return jax.device_get(state), losses


def assert_trees_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, other)


@pytest.mark.parametrize("attack_batch_norm", ["train", "eval"])
def test_one_update_is_the_same_on_1_2_and_8_devices(attack_batch_norm):
    """With synchronised batch norm. The first momentum is the gradient itself.

    More than one step is no fair comparison: the sign of a gradient that rounds to either side of 0 moves a pixel.
    """
    one, (loss,) = train(1, 1, attack_batch_norm=attack_batch_norm)
    for devices in (2, 8):
        many, (loss_of_many,) = train(devices, 1, attack_batch_norm=attack_batch_norm)
        np.testing.assert_allclose(loss_of_many, loss, rtol=1e-5)
        assert_trees_close(many.opt_state, one.opt_state, atol=2e-6, rtol=1e-4)
        assert_trees_close(many.weights, one.weights, atol=2e-6, rtol=1e-4)
        np.testing.assert_array_equal(many.class_sums["count"], one.class_sums["count"])


@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_the_attack_sees_batch_norm_in_the_mode_asked_for(batch_norm):
    """The loss of an update, from an attack and a forward pass written out."""
    _, step, state = make(batch_norm)
    rng = np.random.default_rng(0)  # running statistics far from those of the batch
    statistics = jax.tree.map(lambda v: jnp.float32(rng.uniform(0.2, 3, v.shape)), state.weights.batch_stats)
    state = state.replace(weights=state.weights.replace(batch_stats=statistics))
    mesh = parallel.make_mesh(jax.devices()[:1])
    step = parallel.spmd(step, mesh, in_specs=(WHOLE, SHARE, SHARE, WHOLE), out_specs=(WHOLE, WHOLE))
    _, loss = step(*parallel.replicate((state, IMAGES[:BATCH], LABELS[:BATCH]), mesh), jax.random.key(1))

    def loss_by_hand(mode):
        model = models.create("cnn", num_classes=CLASSES, width=4)
        step_key = jax.random.fold_in(jax.random.key(1), 0)
        keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(step_key, i)))(jnp.arange(BATCH))
        images = augment(
            keys[:, 0], IMAGES[:BATCH] / np.float32(255), operations=("crop", "flip"), pad=2, pad_mode="zero"
        )
        adversarial = Pgd(threats.NORMS["linf"], steps=3)(
            lambda images: model.apply(state.weights.variables, images, train=mode == "train"),
            losses.cross_entropy,
            images,
            LABELS[:BATCH],
            keys[:, 1],
            jnp.full(BATCH, 8 / 255),
            jnp.full(BATCH, 2 / 255),
        )
        logits = model.apply(state.weights.variables, adversarial, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS[:BATCH]).mean()

    np.testing.assert_allclose(loss, loss_by_hand(batch_norm), rtol=1e-5)
    other = {"train": "eval", "eval": "train"}[batch_norm]
    assert abs(loss - loss_by_hand(other)) > 1e-4


def test_pmap_runs_the_same_step():
    _, step, state = make()
    images, labels = IMAGES[:BATCH], LABELS[:BATCH]
    mapped = jax.pmap(step, axis_name=parallel.AXIS, in_axes=(None, 0, 0, None), devices=jax.devices()[:2])
    by_pmap, _ = mapped(state, images.reshape(2, -1, *SHAPE), labels.reshape(2, -1), jax.random.key(1))
    mesh = parallel.make_mesh(jax.devices()[:2])
    spmd = parallel.spmd(step, mesh, in_specs=(WHOLE, SHARE, SHARE, WHOLE), out_specs=(WHOLE, WHOLE))
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
    many = parallel.spmd(
        train_steps.over_resident(step, SHAPE),
        mesh,
        in_specs=(WHOLE, WHOLE, WHOLE, parallel.SHARDED_STEPS, WHOLE),
        out_specs=(WHOLE, WHOLE),
    )
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


def test_neutral_knobs_are_plain_adversarial_training_bit_for_bit(monkeypatch):
    """Against an objective written without knobs: adding 0 and multiplying by 1 change no bit."""

    def plain(settings):
        def loss(forward, batch_stats, images, attacked, labels, knobs):
            logits, batch_stats = forward(batch_stats, attacked.images)
            losses_B = optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, CLASSES))
            return objectives.LossOutput(losses_B, losses_B, logits, None, batch_stats)

        return objectives.pgd_at(0.0)._replace(loss=loss)

    with_knobs, _ = train(1)
    monkeypatch.setitem(objectives._OBJECTIVES, "pgd_at", plain)
    without, _ = train(1)
    jax.tree.map(np.testing.assert_array_equal, with_knobs.weights, without.weights)


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
