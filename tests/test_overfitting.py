"""Catastrophic overfitting: when it is said, and that what is said of a training's weights is so."""

import jax
import numpy as np
import pytest
import tiny_config

from jaxrobust import config as config_lib, files
from jaxrobust.attacks import suites
from jaxrobust.config import objects
from jaxrobust.data import randomness, splits
from jaxrobust.distributed import parallel
from jaxrobust.evaluation import attack_runner, loading
from jaxrobust.runs import checkpoints
from jaxrobust.training import loop, overfitting, setup as training_setup

N = overfitting.EXAMPLES
STEPS_PER_EPOCH = (1297 - 100) // 64

# Courses of one-step training on CIFAR-10 at 8/255 by epoch: accuracy under the training's step, and under PGD.
SOUND = [(0.29, 0.27), (0.35, 0.33), (0.41, 0.37), (0.44, 0.40), (0.47, 0.42), (0.52, 0.45), (0.57, 0.47)]
BROKEN_DOWN = [*SOUND[:5], (0.78, 0.02), (0.86, 0.0), (0.88, 0.0)]


def first_found(course, examples=N):
    return overfitting.first_overfitted(course, examples)


def test_a_breakdown_is_found_in_its_epoch():
    assert first_found(SOUND) is None
    assert first_found(BROKEN_DOWN) == 5


def test_a_breakdown_within_the_first_epoch():
    assert first_found([(0.7, 0.01), (0.8, 0.0)]) == 0


def test_a_recovery_does_not_end_it():
    assert first_found([*BROKEN_DOWN, (0.5, 0.4), (0.52, 0.41)]) == 5


def test_a_wide_gap_is_enough():
    """Also where the accuracy under PGD has never been higher than it is now."""
    assert first_found([(0.40, 0.15), (0.60, 0.18), (0.73, 0.21)]) == 2
    assert first_found([(0.73, 0.40), (0.76, 0.41)]) is None


# Recorded on 6,000 MNIST images of 14 x 14 pixels: percent under one step and under PGD, after each of 10 epochs.
SOUND_ON_MNIST = {  # by a random start and a step of
    "1.25 radii, radius 0.1": "53/52 70/67 83/82 89/86 88/88 94/93 95/92 95/93 94/93 94/93",
    "1.25 radii, radius 0.2": "17/15 53/39 61/43 79/62 80/68 85/71 86/70 85/75 87/73 87/72",
    "1.25 radii, radius 0.3": "12/11 30/20 41/12 52/31 58/31 69/50 73/58 73/56 73/56 73/56",
    "2 radii, radius 0.1": "51/50 73/73 84/84 85/84 88/87 93/92 91/91 93/91 93/92 93/93",
    "2 radii, radius 0.2": "15/14 45/34 68/55 75/65 74/63 80/72 84/76 83/74 84/74 85/74",
}
# Without a random start, step and radius 0.35. The accuracy under PGD was never high, and both fall in the end.
BROKEN_ON_MNIST = "11/3 19/0 23/0 20/0 7/0 13/0 9/0 15/0 10/0 11/0"


def recorded(text):
    return [tuple(int(percent) / 100 for percent in epoch.split("/")) for epoch in text.split()]


@pytest.mark.parametrize("course", SOUND_ON_MNIST.values(), ids=SOUND_ON_MNIST)
def test_no_false_alarm_on_recorded_trainings(course):
    assert first_found(recorded(course)) is None


def test_a_recorded_breakdown_stays_found():
    course = recorded(BROKEN_ON_MNIST)
    assert [first_found(course[:epochs]) for epochs in range(1, 11)] == [None, *[1] * 9]


def test_on_hard_data():
    """Where few images withstand PGD at the best of times."""
    assert first_found([(0.08, 0.06), (0.12, 0.10), (0.35, 0.0)]) == 2


@pytest.mark.parametrize(
    "course",
    [
        [(0.12, 0.11), (0.10, 0.08), (0.11, 0.07)],  # hardly better than chance, and noise
        [(0.8, 0.35), (0.85, 0.36), (0.9, 0.35)],  # the one step is a weak attack from the start
        [(0.5, 0.45), (0.15, 0.14), (0.1, 0.1)],  # it learns nothing any more: both fall
        [(0.0, 0.0), (0.02, 0.0)],
    ],
)
def test_what_is_something_else(course):
    assert first_found(course) is None


def test_few_images_do_not_raise_false_alarms():
    rng = np.random.default_rng(0)
    drawn = [[rng.binomial(N, both) / N for both in SOUND] for _ in range(1000)]
    assert {first_found(course) for course in drawn} == {None}
    drawn = [[rng.binomial(N, both) / N for both in BROKEN_DOWN] for _ in range(1000)]
    assert {first_found(course) for course in drawn} == {5}


def test_it_is_said_once_when_it_comes():
    """From the records of earlier epochs; one that is trained again, as after a restart, does not count twice."""
    records = []
    again = {"single_step_check_accuracy": 1.0, "pgd_check_accuracy": 1.0}
    for epoch, found in enumerate([*BROKEN_DOWN, *SOUND[-1:]], start=1):
        record = {"epoch": epoch}
        warning = overfitting.add_check(record, found, [*records, again | {"epoch": epoch}], N)
        records.append(record)
        assert record["catastrophic_overfitting"] == (epoch > 5)
        assert (warning is not None) == (epoch == 6)
        if epoch == 6:
            assert "78.0 %" in warning and "2.0 %" in warning and "at best 42.0 %" in warning


def config():
    """Against FGSM, with images and batches that do not divide among the devices nor each other."""
    config = tiny_config.get_config()
    config.model.name, config.model.hidden = "mlp", (16,)
    config.threat.eps_255 = 8.0
    config.attack.steps, config.attack.random_start, config.attack.step_size_255 = 1, False, 8.0
    config.train.epochs, config.eval.every_epochs = 2, 0
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    loop.train_and_evaluate(config(), workdir)
    return workdir


def states(workdir, mesh):
    like = training_setup.create(config(), objects.dataset(config()), mesh, 2 * STEPS_PER_EPOCH).abstract_state()
    kept = checkpoints.Checkpoints(workdir, read_only=True)
    return [kept.restore(step, like) for step in kept.steps()]


def by_evaluation(state, mesh, name):
    """Accuracy of the same images under an attack, as evaluations find it."""
    settings, dataset = config(), objects.dataset(config())
    rng = randomness.generator(settings.train.seed, "overfitting check")
    index = splits.stratified_subset(dataset.train.labels, N, 10, rng)
    images, labels = dataset.train.images[index], dataset.train.labels[index]
    classifier = loading.classifier(settings, 10, mesh)
    prediction = classifier.predict(state.weights, images, name)
    right = np.flatnonzero(prediction == labels)
    (spec,) = suites.parse(name).members
    key = jax.random.fold_in(jax.random.key(settings.train.seed), 3)
    compiled = classifier.attack_steps(spec, "linf", config_lib.relative_step(settings))
    attacker = attack_runner.Attacker(*compiled, mesh, 136, key)
    radius = np.full(len(right), config_lib.radius(settings))
    outcome = attacker(state.weights, images[right], labels[right], index[right], radius, title=name)
    return (outcome.prediction == labels[right]).sum() / N


def test_the_log_says_what_an_evaluation_of_the_weights_finds(run):
    mesh = parallel.make_mesh(jax.devices()[:1])
    lines = files.read_records(run / "training.jsonl")
    assert [line["catastrophic_overfitting"] for line in lines] == [False, False]
    for line, state in zip(lines, states(run, mesh), strict=True):
        assert line["single_step_check_accuracy"] == pytest.approx(by_evaluation(state, mesh, "fgsm"), abs=1.5 / N)
        assert line["pgd_check_accuracy"] == pytest.approx(by_evaluation(state, mesh, "pgd5"), abs=1.5 / N)
        assert 0.1 < line["pgd_check_accuracy"] < 0.9


def test_the_check_changes_nothing(run, tmp_path):
    without = config()
    without.train.overfitting_check = False
    loop.train_and_evaluate(without, tmp_path)
    assert "pgd_check_accuracy" not in files.read_records(tmp_path / "training.jsonl")[0]
    mesh = parallel.make_mesh(jax.devices()[:1])
    for one, other in zip(states(run, mesh), states(tmp_path, mesh), strict=True):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(one), jax.tree.leaves(other))


@pytest.mark.parametrize("devices", [1, 3])
def test_any_number_of_devices_finds_the_same(run, devices):
    """The run had eight. Batches are those of the evaluation, so that what fits there fits here."""
    mesh, settings = parallel.make_mesh(jax.devices()[:devices]), config()
    settings.eval.batch_size = 60
    check = training_setup.create(settings, objects.dataset(settings), mesh).overfitting_check()
    for line, state in zip(files.read_records(run / "training.jsonl"), states(run, mesh), strict=True):
        logged = line["single_step_check_accuracy"], line["pgd_check_accuracy"]
        assert check(state) == pytest.approx(logged, abs=1.5 / N)


def test_it_is_shown(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(str(run / "tensorboard" / "raw")).Reload().Tags()["tensors"]
    assert {"train/pgd_check_accuracy", "train/single_step_check_accuracy"} <= set(tags)


@pytest.mark.parametrize(
    "field, value", [("attack.steps", 2), ("objective.name", "standard"), ("train.overfitting_check", False)]
)
def test_where_there_is_no_check(field, value):
    settings = config()
    settings.update_from_flattened_dict({field: value})
    assert training_setup.create(settings, objects.dataset(settings), parallel.make_mesh()).overfitting_check() is None
