"""Whole runs: what they leave behind, and that an interruption changes nothing of it."""

import json
import os
import random
import shutil
import signal
import time

import jax
import numpy as np
import pytest
import tiny_config
from exploding import exploding
from runs import start

from jaxrobust import files
from jaxrobust.config import objects
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import evaluator as evaluator_lib, loading
from jaxrobust.runs import checkpoints, results
from jaxrobust.training import loop, setup as training_setup

STEPS_PER_EPOCH = (1297 - 100) // 64
TOTAL_STEPS = 4 * STEPS_PER_EPOCH


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    finish(start(workdir, tensorboard=True))
    return workdir


def final_arrays(workdir):
    """Every array of the last checkpoint, without knowing the model."""
    config = tiny_config.get_config()
    mesh = parallel.make_mesh(jax.devices()[:1])
    like = training_setup.create(config, objects.dataset(config), mesh, TOTAL_STEPS).abstract_state()
    return jax.tree.leaves(checkpoints.Checkpoints(workdir, read_only=True).restore(TOTAL_STEPS, like))


def without_times(workdir):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in results.read(workdir)]


def assert_same_run(workdir, reference):
    for a, b in zip(final_arrays(workdir), final_arrays(reference), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_times(workdir) == without_times(reference)
    # Not the hidden files, which a killed run was writing.
    verdicts, found = (sorted(p.name for p in (of / "examples").glob("[!.]*")) for of in (reference, workdir))
    assert found == verdicts
    for name in verdicts:
        with np.load(workdir / "examples" / name) as a, np.load(reference / "examples" / name) as b:
            assert a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)
    epochs = [record["epoch"] for record in files.read_records(workdir / "training.jsonl")]
    assert epochs == [1, 2, 3, 4]


def test_what_a_run_leaves_behind(uninterrupted):
    data = results.DATA.read(uninterrupted)
    assert [sum(data[split]) for split in ("train", "validation", "test")] == [1197, 100, 500]
    assert data["classes"] == list("0123456789") and data["skipped"] == []
    records = results.read(uninterrupted)
    expected = [
        (epoch * STEPS_PER_EPOCH, weights, split, attack)
        for epoch in (2, 4)
        for weights in ("raw", "averaged")
        for split in ("validation", "test")
        for attack in ("clean", "pgd3")
    ]
    assert [results.key_of(record) for record in records] == expected
    for record in records:
        assert record["examples"] == sum(record["count"]) == {"validation": 100, "test": 500}[record["split"]]
        assert np.sum(record["confusion"], axis=1).tolist() == record["count"]
        assert np.diagonal(record["confusion"]).tolist() == record["correct"]
        arrays = results.read_examples(uninterrupted, record["step"], record["weights"], record["split"])
        survives = arrays[record["attack"]]
        assert survives.dtype == bool and survives.mean() == pytest.approx(record["accuracy"])
        np.testing.assert_array_equal(survives, arrays[f"{record['attack']}_prediction"] == arrays["labels"])
        assert (arrays["clean"] | ~survives).all(), "robust examples are right when clean"
    best = files.read_json(uninterrupted / "best.json")
    scores = {
        (r["step"], r["weights"]): r["accuracy"] + r["worst_class_accuracy"]
        for r in records
        if r["split"] == "validation" and r["attack"] == "pgd3"
    }
    assert best["score"] == max(scores.values()) == scores[best["step"], best["weights"]]
    assert (uninterrupted / "report.html").read_text().count("pgd3")
    assert json.loads((uninterrupted / "config.json").read_text())["train"]["epochs"] == 4


def test_tensorboard_tags(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    for weights in ("raw", "averaged"):
        events = EventAccumulator(str(uninterrupted / "tensorboard" / weights)).Reload()
        tags = set(events.Tags()["tensors"])  # clu writes scalars and images as tensors
        for split in ("validation", "test"):
            for attack in ("clean", "pgd3"):
                assert {f"{split}/{attack}/accuracy", f"{split}/{attack}/worst_class_accuracy"} <= tags
                assert {f"{split}/{attack}/class_accuracy/{c}_{c}" for c in range(10)} <= tags
        assert {"test/classes", "test/clean/confusion", "test/pgd3/confusion", "test/pgd3/examples"} <= tags
        assert (weights == "raw") == ({"train/loss", "train/images_per_second", "parameters"} <= tags)
    written = {event.step: make_ndarray(event.tensor_proto) for event in events.Tensors("test/pgd3/accuracy")}
    for record in results.read(uninterrupted):
        if results.key_of(record)[1:] == ("averaged", "test", "pgd3"):
            assert written.pop(record["step"]) == pytest.approx(record["accuracy"])
    assert not written


def wait_for_step(process, workdir, step):
    """Until the log of epochs shows that the step is near."""
    while process.poll() is None and len(files.read_records(workdir / "training.jsonl")) * STEPS_PER_EPOCH < step:
        time.sleep(0.01)


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_continues(tmp_path, uninterrupted):
    process = start(tmp_path, signal=signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM and "same command continues" in errors
    assert "continuing at step" in finish(start(tmp_path))
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.slow
def test_kill_at_random_moments_changes_nothing(tmp_path, uninterrupted):
    moments = random.Random(0)
    for _ in range(4):
        process = start(tmp_path)
        epochs = len(files.read_records(tmp_path / "training.jsonl"))
        wait_for_step(process, tmp_path, min(epochs + 1, 4) * STEPS_PER_EPOCH)
        time.sleep(moments.uniform(0, 1.5))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finish(start(tmp_path))
    assert_same_run(tmp_path, uninterrupted)


@pytest.mark.slow
def test_two_trainings_in_one_workdir(tmp_path):
    """The second is told so and leaves the first alone."""
    endless = (
        "--config.train.epochs=1000000",
        "--config.eval.every_epochs=0",
        "--config.checkpoint.every_epochs=1000000",
    )
    first = start(tmp_path, *endless)
    wait_for_step(first, tmp_path, STEPS_PER_EPOCH)
    second = start(tmp_path, *endless)
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 2 and "another training is running there" in errors
    first.send_signal(signal.SIGTERM)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 128 + signal.SIGTERM and "the same command continues" in errors


@pytest.mark.slow
def test_a_stop_between_checkpoints_leaves_none_of_its_own(tmp_path):
    """A checkpoint made only because of a signal is neither kept nor scored once the next one that is due is there."""
    arguments = ("--config.checkpoint.every_epochs=2",)
    process = start(tmp_path, *arguments, signal=signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    finish(start(tmp_path, *arguments))
    kept = checkpoints.Checkpoints(tmp_path, read_only=True).steps()
    assert kept == [2 * STEPS_PER_EPOCH, 4 * STEPS_PER_EPOCH]
    assert {record["step"] for record in results.read(tmp_path)} == set(kept)


@pytest.mark.slow
def test_damaged_newest_checkpoint_is_reported_and_replaced(tmp_path, uninterrupted):
    """Without its last results, as if the damage had come before they were written."""
    shutil.copytree(uninterrupted, tmp_path / "run")
    path = tmp_path / "run" / "checkpoints" / str(TOTAL_STEPS) / "state" / "manifest.ocdbt"
    path.write_bytes(path.read_bytes()[:-5])
    lines = (tmp_path / "run" / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run" / "results.jsonl").write_text("".join(lines[:-3]) + lines[-3][:50])
    errors = finish(start(tmp_path / "run"))
    assert f"falling back to step {3 * STEPS_PER_EPOCH}" in errors
    assert_same_run(tmp_path / "run", uninterrupted)


def test_finished_run_trains_nothing_more(uninterrupted, capsys):
    before = (uninterrupted / "results.jsonl").read_bytes()
    loop.train_and_evaluate(tiny_config.get_config(), uninterrupted)
    assert "images/s" not in capsys.readouterr().err
    assert (uninterrupted / "results.jsonl").read_bytes() == before


def test_a_workdir_in_use_is_refused(tmp_path):
    config = tiny_config.get_config()
    with (
        loop.training_in(tmp_path, config),
        pytest.raises(loop.InUse, match="another training is running there; wait for it"),
    ):
        loop.train_and_evaluate(config, tmp_path)


def test_another_config_is_refused(uninterrupted):
    config = tiny_config.get_config()
    config.train.seed, config.threat.eps_255 = 5, 20.0
    with pytest.raises(UserError) as error:
        loop.train_and_evaluate(config, uninterrupted)
    assert "train.seed = 5, there 0" in str(error.value) and "threat.eps_255 = 20.0, there 25.5" in str(error.value)


def test_a_field_younger_than_the_run_has_its_default_there(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    stored = json.loads((uninterrupted / "config.json").read_text())
    del stored["eval"]["examples"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(stored))
    loading.check_same_config(tmp_path, tiny_config.get_config(), stored, ())
    evaluator_lib.evaluate_checkpoints(tmp_path / "run", {"eval.checkpoints": "last"})


def test_evaluate_mode_adds_only_what_is_missing(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "run")
    before = (tmp_path / "run" / "results.jsonl").read_text()
    evaluator_lib.evaluate_checkpoints(tmp_path / "run", {"eval.attacks": ("fgsm",)})
    with pytest.raises(UserError, match=r"eval\.step_size_255 = 3\.0, there None"):
        evaluator_lib.evaluate_checkpoints(tmp_path / "run", {"eval.step_size_255": 3.0})
    after = (tmp_path / "run" / "results.jsonl").read_text()
    assert after.startswith(before)
    added = [results.key_of(json.loads(line)) for line in after[len(before) :].splitlines()]
    # Training leaves epochs 1 and 3 unscored; evaluate mode scores every checkpoint.
    steps = {step for step, *_ in added}
    assert steps == {epoch * STEPS_PER_EPOCH for epoch in range(1, 5)}
    assert len(added) == len(set(added))
    for epoch, attacks in ((3, {"clean", "fgsm"}), (4, {"fgsm"})):
        assert {attack for step, _, _, attack in added if step == epoch * STEPS_PER_EPOCH} == attacks
    assert (tmp_path / "run" / "best.json").exists()


def test_eight_devices_give_the_results_of_one(uninterrupted, tmp_path):
    """The evaluation of the same checkpoint, on all devices of this process: the same counts."""
    (tmp_path / "config.json").write_bytes((uninterrupted / "config.json").read_bytes())
    (tmp_path / "checkpoints").symlink_to(uninterrupted / "checkpoints")
    evaluator_lib.evaluate_checkpoints(tmp_path, {"eval.checkpoints": "last"})
    one = {results.key_of(r): r["correct"] for r in results.read(uninterrupted)}
    eight = {results.key_of(r): r["correct"] for r in results.read(tmp_path)}
    assert len(eight) == 8
    for key, correct in eight.items():
        # One example of 500 may sit on the boundary to within float32 rounding.
        assert np.abs(np.subtract(one[key], correct)).sum() <= 1, key


@pytest.mark.slow
def test_follow_waits_for_the_last_checkpoint(tmp_path, uninterrupted, monkeypatch):
    """Another process trains without evaluating; this one scores what appears, to the last."""
    monkeypatch.setattr(evaluator_lib, "FOLLOW_SECONDS", 0.2)
    process = start(tmp_path, "--config.eval.every_epochs=0")
    evaluator_lib.evaluate_checkpoints(tmp_path, follow=True)
    finish(process)
    scored = {record["step"] for record in results.read(tmp_path)}
    assert TOTAL_STEPS in scored
    final = [r["correct"] for r in results.read(uninterrupted) if r["step"] == TOTAL_STEPS]
    followed = [r["correct"] for r in results.read(tmp_path) if r["step"] == TOTAL_STEPS]
    assert np.abs(np.subtract(final, followed)).sum() <= len(final)


def unscored_mlp():
    config = tiny_config.get_config()
    config.model.name, config.model.hidden, config.eval.every_epochs = "mlp", (16,), 0
    return config


def test_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    """The learning rate explodes at half time; what was saved before is kept and sound."""
    config = unscored_mlp()
    exploding(monkeypatch, 0.6, 1e29)
    with pytest.raises(loop.Diverged, match=r"after step \d+; the last checkpoint"):
        loop.train_and_evaluate(config, tmp_path)
    assert saved_weights_are_finite(config, tmp_path) == [STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]


def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    """The very last update overflows: no later loss would show it."""
    config = unscored_mlp()
    config.train.epochs, config.eval.every_epochs = 1, 1
    # An update of Adam has about the size of the learning rate, here that of the largest float32.
    config.optimizer.name, config.optimizer.learning_rate = "adamw", 1.0
    exploding(monkeypatch, (STEPS_PER_EPOCH - 1) / STEPS_PER_EPOCH, 3.3e38)
    with pytest.raises(loop.Diverged, match=rf"no longer finite numbers after step {STEPS_PER_EPOCH}"):
        loop.train_and_evaluate(config, tmp_path)
    assert saved_weights_are_finite(config, tmp_path) == [] and results.read(tmp_path) == []


def saved_weights_are_finite(config, workdir):
    """The steps saved, after checking each."""
    like = training_setup.create(config, objects.dataset(config), parallel.make_mesh(), TOTAL_STEPS).abstract_state()
    kept = checkpoints.Checkpoints(workdir, read_only=True)
    for step in kept.steps():
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.restore(step, like).weights))
    return kept.steps()


def test_a_training_starts_from_the_weights_of_another_run(uninterrupted, tmp_path):
    """With a rate of 0 it ends where it started: at the other run's best weights, raw and averaged."""
    other, config = tiny_config.get_config(), tiny_config.get_config()
    config.train.epochs, config.train.start_from = 1, str(uninterrupted)
    config.optimizer.learning_rate, config.eval.every_epochs, config.remedy.name = 0.0, 0, "cfa"
    loop.train_and_evaluate(config, tmp_path / "tuned")

    def params(workdir, of, step):
        mesh = parallel.make_mesh()
        like = training_setup.create(of, objects.dataset(of), mesh, 1).abstract_state()
        return checkpoints.Checkpoints(workdir, read_only=True).restore(step, like)

    best = files.read_json(uninterrupted / results.BEST)
    source = params(uninterrupted, other, best["step"])
    source = source.averaged if best["weights"] == "averaged" else source.weights
    tuned = params(tmp_path / "tuned", config, STEPS_PER_EPOCH)
    for weights in (tuned.weights, tuned.averaged):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), weights.params, source.params)
    config.data.validation_per_class = 20
    with pytest.raises(FieldError, match=r"has trained on images held out here; set data\.validation_per_class = 10"):
        loop.train_and_evaluate(config, tmp_path / "peeks")
    config.model.width = 8
    with pytest.raises(FieldError, match=r"train\.start_from.*its model\.width is 4, here 8"):
        loop.train_and_evaluate(config, tmp_path / "wider")
    config.model.width, config.data.validation_per_class, config.data.drop = 4, 0, ("3",)
    with pytest.raises(FieldError, match=r"train\.start_from.*is float32\[10\] there, and float32\[9\]"):
        loop.train_and_evaluate(config, tmp_path / "fewer classes")
