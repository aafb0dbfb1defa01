"""Imported weights are scored like a checkpoint, exported ones are those of the run."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny_config

from jaxrobust import config as config_lib, files
from jaxrobust.commands import front_end, weights
from jaxrobust.config import objects
from jaxrobust.data import load
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import evaluator as evaluator_lib
from jaxrobust.evaluation.run import load_run
from jaxrobust.models import torch_weights
from jaxrobust.reports import run as run_page
from jaxrobust.runs import checkpoints, results
from jaxrobust.training import setup as training_setup, torch_files

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = (8, 8, 1)


def state_dict(num_classes=10, hidden=6):
    """Of a small perceptron for the digits."""
    rng = np.random.default_rng(0)
    shapes = {"hidden1.weight": (hidden, 64), "hidden1.bias": (hidden,)}
    shapes |= {"linear.weight": (num_classes, hidden), "linear.bias": (num_classes,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def config():
    config = tiny_config.get_config()
    config.model.name = "mlp"
    config.model.hidden = (6,)
    config.eval.attacks = ("clean", "fgsm")
    config.eval.examples = 100
    return config


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "published.safetensors"
    path.write_bytes(torch_weights.encode(path.suffix, state_dict()))
    return path


def test_imported_weights_are_scored_and_exported_as_they_were(tmp_path, config, file):
    workdir = tmp_path / "run"
    torch_files.import_run(file, config, workdir)
    evaluator_lib.evaluate_checkpoints(workdir)
    records = {record["attack"]: record for record in results.read(workdir)}
    assert set(records) == {"clean", "fgsm"}
    assert {(record["weights"], record["split"], record["epoch"]) for record in records.values()} == {
        ("raw", "test", config.train.epochs)
    }

    dataset = objects.dataset(config)
    index = results.read_examples(workdir, records["clean"]["step"], "raw", "test")["index"]
    images = np.float32(dataset.test.images[index]).reshape(len(index), -1)  # one channel: the same in both layouts
    images /= 255 if dataset.test.images.dtype == np.uint8 else 1
    arrays = state_dict()
    hidden = np.maximum(images @ arrays["hidden1.weight"].T + arrays["hidden1.bias"], 0)
    prediction = np.argmax(hidden @ arrays["linear.weight"].T + arrays["linear.bias"], 1)
    assert records["clean"]["accuracy"] == np.mean(prediction == dataset.test.labels[index])
    assert "imported from published.safetensors" in run_page.write_report(workdir).read_text()
    assert files.read_json(workdir / results.ORIGIN)["file"] == "published.safetensors"

    torch_files.export_torch(tmp_path / "again.npz", workdir)
    for name, array in torch_weights.load(tmp_path / "again.npz").items():
        np.testing.assert_array_equal(array, state_dict()[name])
    with pytest.raises(UserError, match="holds a run already"):
        torch_files.import_run(file, config, workdir)


def test_an_import_that_was_killed_is_begun_anew(tmp_path, config, file, monkeypatch):
    """At each write: what is there at that moment is what a kill leaves."""
    left, write = [], files.write_atomically

    def write_and_copy(path, content):
        for moment in ("before", "after"):
            left.append(tmp_path / f"{moment} {path.name}")
            shutil.copytree(tmp_path / "run", left[-1])
            if moment == "before":
                write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", write_and_copy)
        torch_files.import_run(file, config, tmp_path / "run")
    wanted = sorted(path.name for path in (tmp_path / "run").iterdir())
    for folder in left[:-1]:
        with pytest.raises(FieldError, match="holds no run"):
            load_run(folder)
        assert list(folder.iterdir()) == []
        torch_files.import_run(file, config, folder)
        assert sorted(path.name for path in folder.iterdir()) == wanted
    with pytest.raises(FieldError, match="holds a run already"):
        torch_files.import_run(file, config, left[-1])
    assert sorted(path.name for path in left[-1].iterdir()) == wanted

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "write_atomically", interrupt)
        torch_files.import_run(file, config, tmp_path / "interrupted")
    torch_files.import_run(file, config, tmp_path / "interrupted")
    assert sorted(path.name for path in (tmp_path / "interrupted").iterdir()) == wanted


def test_imported_by_plain_values(tmp_path, config, file):
    """The same run as of a config, and in memory."""
    torch_files.import_run(file, config, tmp_path / "run")
    stored, digits = load_run(tmp_path / "run"), load("digits")
    given = {"model": "mlp", "dataset": digits, "threat": stored.threat, "model_options": {"hidden": (6,)}}
    for workdir in (None, tmp_path / "again"):
        run = torch_files.import_torch(file, workdir=workdir, **given)
        jax.tree.map(np.testing.assert_array_equal, run.weights, stored.weights)
    again = load_run(tmp_path / "again")
    images = digits.test.images[:20]
    np.testing.assert_array_equal(again.logits_fn(images), run.logits_fn(images))
    wrong = {
        r"^workdir = .*holds a run already": {"workdir": tmp_path / "again"},
        r"^path = '[a-z0-9.]+': its shape": {"model_options": {"hidden": (8,)}},
        r"^path = '.*': there is no such file": {"path": tmp_path / "no.npz"},
        r"^model = 'vgg': is unknown": {"model": "vgg"},
        r"^mean of model_options = \(0.0,\): differs": {"path": tmp_path / "shifted.safetensors"},
        r"^learning_rte = 1: is no argument; did you mean learning_rate": {"learning_rte": 1},
    }
    content = torch_weights.encode(".safetensors", state_dict(), mean=(0.1307,), std=(1.0,))
    (tmp_path / "shifted.safetensors").write_bytes(content)
    for message, change in wrong.items():
        with pytest.raises(FieldError, match=message) as error:
            torch_files.import_torch(**{"path": file} | given | change)
        assert "--" not in str(error.value)


def test_the_best_checkpoint_is_exported_unless_another_is_named(tmp_path, config):
    """A run of two checkpoints, whose weights tell which they are."""
    workdir, mesh = tmp_path / "run", parallel.make_mesh()
    dataset = objects.dataset(config)
    state = training_setup.create(config, dataset, mesh, 8).initial_state()
    fill = lambda tree, value: jax.tree.map(lambda leaf: np.full(leaf.shape, value, np.float32), tree)  # noqa: E731
    saved = checkpoints.Checkpoints(workdir)
    for step, raw in ((4, 1.0), (8, 3.0)):
        saved.save(step, state.replace(weights=fill(state.weights, raw), averaged=fill(state.averaged, raw + 1)))
    saved.close()
    files.write_atomically(workdir / "config.json", files.to_json(config_lib.to_dict(config)))

    def exported(**options):
        torch_files.export_run(tmp_path / "out.safetensors", workdir, {**options.pop("overrides", {})}, **options)
        return float(torch_weights.load(tmp_path / "out.safetensors")["linear.bias"][0])

    assert exported() == 4, "the last, averaged"
    files.write_atomically(workdir / results.BEST, json.dumps({"step": 4, "weights": "raw"}))
    assert exported() == 1
    assert exported(weights="averaged") == 2
    assert exported(step=8) == 4
    assert exported(step=8, weights="raw") == 3
    with pytest.raises(FieldError, match=r"^step = 5: is no checkpoint of the run; give one of 4, 8"):
        exported(step=5)
    with pytest.raises(UserError, match=r"another config \(train.epochs = 9"):
        exported(overrides={"train.epochs": 9})
    with pytest.raises(UserError, match="holds no run"):
        torch_files.export_torch(tmp_path / "out.npz", tmp_path)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(FieldError, match=r"^path = .*folder.npz': cannot be written"):
        torch_files.export_torch(tmp_path / "folder.npz", tmp_path / "run")


def test_what_does_not_fit_is_refused_and_leaves_no_run(tmp_path, config, file):
    def refused(match, path):
        with pytest.raises(FieldError, match=match):
            torch_files.import_run(path, config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def written(name, arrays, **normalisation):
        (tmp_path / name).write_bytes(torch_weights.encode(".safetensors", arrays, **normalisation))
        return tmp_path / name

    refused(r"^data.name = 'digits': has 10 classes, and six.safetensors 6", written("six.safetensors", state_dict(6)))
    refused(r"^path = '[a-z0-9.]+': its shape", written("wide.safetensors", state_dict(hidden=8)))
    shifted = written("shifted.safetensors", state_dict(), mean=(0.1307,), std=(1.0,))
    refused(r"^model.mean = \(0.0,\): differs from the file of weights; set it to \(0.1307,\)$", shifted)
    broken = state_dict()
    broken["linear.bias"][:] = np.nan
    refused(r"^path = 'linear.bias': holds values that are no finite", written("broken.safetensors", broken))
    large = {name: array * np.float32(1e30) for name, array in state_dict().items()}
    refused(r"^path = 'large.safetensors': gives logits that are not finite", written("large.safetensors", large))
    nowhere = written("nowhere.safetensors", state_dict(), mean=(np.nan,), std=(1.0,))
    refused(r"^path = 'mean': holds no finite numbers", nowhere)
    config.model.mean = (0.1307,)
    config.model.head = "cosine"
    refused(r"^model.head = 'cosine': is not a layer of PyTorch", shifted)
    config.model.head = "linear"
    torch_files.import_run(shifted, config, tmp_path / "run")


def test_a_preact_resnet_needs_a_word_on_its_shortcut():
    model = config_lib.default().model
    weights.check_shortcut(model, {})
    model.name = "preact_resnet18"
    with pytest.raises(FieldError, match=r"^model.shortcut = .*=activation .*=input"):
        weights.check_shortcut(model, {})
    weights.check_shortcut(model, {"model.shortcut": "activation"})


def test_commands(tmp_path, file, capfd):
    workdir = tmp_path / "run"
    model = ("--config.model.name=mlp", "--config.model.hidden=(6,)")
    given = ("--import", file, "--config", tiny_config.__file__, *model, "--workdir", workdir)
    assert front_end.main(["weights", *given]) == 0
    assert f"jaxrobust evaluate --workdir {workdir}" in capfd.readouterr().err
    assert front_end.main(["weights", "--export", tmp_path / "out.txt", "--workdir", workdir]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"error: --export = '{tmp_path / 'out.txt'}'") and said.count("\n") == 1
    assert front_end.main(["weights", "--import", tmp_path / "x.bin", "--config", tiny_config.__file__]) == 2
    assert capfd.readouterr().err.startswith("error: --import = ")
    assert front_end.main(["weights", "--export", tmp_path / "out.npz", "--workdir", workdir, "--step", "7"]) == 2
    assert capfd.readouterr().err.startswith("error: --step = 7: is no checkpoint of the run")
