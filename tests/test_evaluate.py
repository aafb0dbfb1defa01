"""Every example is scored once, whatever the sizes."""

import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from jaxrobust import config as config_lib, files
from jaxrobust.data.dataset import Dataset, Split
from jaxrobust.distributed import parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import UserError
from jaxrobust.evaluation import evaluator as evaluator_lib, loading
from jaxrobust.reports import run as run_page
from jaxrobust.runs import results
from jaxrobust.runs.tensorboard import Writer
from jaxrobust.training import setup as training_setup


def dataset(test_size=37, classes=("a", "b", "c")):
    """Three unequal classes; sizes that nothing divides."""
    rng = np.random.default_rng(0)

    def split(size):
        labels = rng.choice(3, size, p=(0.6, 0.3, 0.1)).astype(np.int32)
        return Split(rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8), labels)

    return Dataset("made up", classes, split(64), split(0), split(test_size))


def run(workdir, devices=1, data=None, stop=None, **overrides):
    import jax

    data = data or dataset()
    config = tiny_config.get_config()
    config.eval.batch_size = 16
    # Untrained networks say one class; a random linear map says all of them, and an attack turns some.
    config.model.name, config.threat.eps_255 = "linear", 4.0
    config.update_from_flattened_dict(overrides)
    workdir.mkdir(exist_ok=True)
    files.write_atomically(workdir / "config.json", files.to_json(config_lib.to_dict(config)))
    mesh = parallel.make_mesh(jax.devices()[:devices])
    state = training_setup.create(config, data, mesh, 10).initial_state()
    with Writer(workdir) as writer:
        classifier = loading.classifier(config, data.num_classes, mesh)
        stop = StopRequest() if stop is None else stop
        evaluator = evaluator_lib.Evaluator(config, workdir, data, classifier, writer, stop, state.weights)
        weights = {"raw": state.weights, "averaged": state.averaged}
        evaluator.evaluate({name: of for name, of in weights.items() if of is not None}, step=3, epoch=1)
    return results.read(workdir)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The folder of the run that others are compared with."""
    workdir = tmp_path_factory.mktemp("reference")
    run(workdir)
    return workdir


def test_counts_are_those_of_the_split(reference):
    data, records = dataset(), results.read(reference)
    clean, attacked = (sum(record["correct"]) for record in records[:2])
    assert 0 < attacked < clean < 37, "verdicts of all kinds, or the tests of this file say little"
    for record in records:
        assert record["count"] == np.bincount(data.test.labels, minlength=3).tolist()
        assert record["examples"] == 37 and record["split"] == "test"


@pytest.mark.parametrize("devices, batch", [(1, 37), (1, 64), (8, 8), (8, 24)])
def test_verdicts_do_not_depend_on_batch_or_devices(tmp_path, reference, devices, batch):
    run(tmp_path, devices, **{"eval.batch_size": batch})
    expected, found = (results.read_examples(workdir, 3, "raw", "test") for workdir in (reference, tmp_path))
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_a_subset_is_stratified_and_gives_the_verdicts_of_the_whole(tmp_path, reference):
    (record, *_) = run(tmp_path, **{"eval.examples": 20})
    assert (record["examples"], record["split_examples"]) == (20, 37)
    page = " ".join(run_page.write_report(tmp_path).read_text().split())
    assert "the 20 test images (a stratified subset of 37)" in page
    whole, part = (results.read_examples(workdir, 3, "raw", "test") for workdir in (reference, tmp_path))
    np.testing.assert_array_equal(part["labels"], whole["labels"][part["index"]])
    np.testing.assert_array_equal(part["pgd3"], whole["pgd3"][part["index"]])
    share = np.bincount(part["labels"], minlength=3) / 20 - np.bincount(whole["labels"], minlength=3) / 37
    assert (np.abs(share) <= 1 / 20).all()


@pytest.mark.usefixtures("drawn_for_tensorboard")
def test_a_class_without_test_examples_is_reported_as_such(tmp_path):
    for record in run(tmp_path, data=dataset(classes=("a", "b", "c", "nobody"))):
        assert record["count"][3] == 0 and record["class_accuracy"][3] is None and record["worst_class"] != "nobody"


def test_lost_verdicts_are_made_again(reference, tmp_path):
    """Without the clean predictions, what is added later could not be judged."""
    workdir = pathlib.Path(shutil.copytree(reference, tmp_path / "run"))
    before = results.read(workdir)
    results.examples_path(workdir, 3, "raw", "test").unlink()
    after = run(workdir, **{"eval.attacks": ("clean", "pgd3", "fgsm")})
    assert after[: len(before)] == before
    arrays = results.read_examples(workdir, 3, "raw", "test")
    assert {"clean", "pgd3", "fgsm", "clean_prediction"} <= arrays.keys()
    (fgsm,) = (record for record in after if (record["attack"], record["weights"]) == ("fgsm", "raw"))
    assert max(fgsm["boundary_error"]) > 0


def test_a_lost_suite_is_made_again(tmp_path):
    """Its lines and members are there, its own verdicts are not."""
    settings = {"eval.attacks": ("fgsm+cw3",), "train.average_decay": 0.0}
    before = run(tmp_path, **settings)
    path = results.examples_path(tmp_path, 3, "raw", "test")
    kept = results.read_examples(tmp_path, 3, "raw", "test")
    path.unlink()
    assert run(tmp_path, **settings) == before
    again = results.read_examples(tmp_path, 3, "raw", "test")
    assert kept.keys() == again.keys()
    for name in kept:
        np.testing.assert_array_equal(again[name], kept[name])


@pytest.mark.usefixtures("drawn_for_tensorboard")
def test_where_the_model_is_no_number_under_attack_the_example_is_broken(tmp_path, monkeypatch):
    """Clean images have logits, every other one has none: nothing withstands, and nothing is turned into a class."""
    from jaxrobust.evaluation import steps

    apply, images = steps.apply, dataset().test.images / np.float32(255)

    def fragile(model, weights, batch, *, train):
        logits, statistics = apply(model, weights, batch, train=train)
        clean = (jnp.abs(batch[:, None] - images[None]).max((2, 3, 4)) < 1e-6).any(1)
        return jnp.where(clean[:, None], logits, jnp.nan), statistics

    monkeypatch.setattr(steps, "apply", fragile)
    records = run(tmp_path, **{"train.average_decay": 0.0})
    clean, attacked = records
    assert clean["accuracy"] > 0 and attacked["accuracy"] == 0
    right = sum(clean["correct"])
    assert np.sum(attacked["confusion"]) == 37 - right and np.trace(attacked["confusion"]) == 0
    arrays = results.read_examples(tmp_path, 3, "raw", "test")
    np.testing.assert_array_equal(arrays["pgd3_prediction"] == -1, arrays["clean"])
    page = " ".join(run_page.write_report(tmp_path).read_text().split())
    assert f"{right} of 37 images have no class under pgd3" in page and page.count("no class") > 1


def test_logits_that_are_no_numbers_are_no_robustness(tmp_path, monkeypatch):
    from jaxrobust.evaluation import steps

    apply = steps.apply
    monkeypatch.setattr(steps, "apply", lambda *args, **kw: (apply(*args, **kw)[0] * float("nan"), None))
    with pytest.raises(UserError, match="not finite"):
        run(tmp_path)
    assert results.read(tmp_path) == []


class After(StopRequest):
    """Stops when it has been asked so often."""

    signal_number = 15

    def __init__(self, times):
        self.times = times

    def __bool__(self):
        self.times -= 1
        return self.times < 0


def assert_same(records, others):
    for one, other in zip(records, others, strict=True):
        assert one | {"seconds": 0} == other | {"seconds": 0}


def test_an_interrupted_evaluation_continues(tmp_path, reference):
    """The signal comes during the second attack: the first one is kept, and the end is the same."""
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", stop=After(4))
    assert [record["attack"] for record in results.read(tmp_path / "stopped")] == ["clean"]
    assert_same(run(tmp_path / "stopped"), results.read(reference))


def test_an_interrupted_attack_continues_at_the_block_it_was_at(tmp_path, monkeypatch):
    """The signal comes as soon as one of several blocks is done."""
    settings = {"eval.batch_size": 2, "eval.attacks": ("pgd25+cw3",), "train.average_decay": 0.0}
    verdicts = results.StoredResults(tmp_path / "stopped", 3, "raw", "test")

    class AfterABlock(After):
        def __bool__(self):
            return verdicts.unfinished("pgd25+cw3/pgd25") is not None

    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", data=dataset(100), stop=AfterABlock(0), **settings)
    assert verdicts.finished("clean") and not verdicts.finished("pgd25+cw3/pgd25")
    kept = verdicts.unfinished("pgd25+cw3/pgd25")
    assert len(kept["todo"]) > 0 and kept["work"]["passes"] > 0
    drawn = []
    monkeypatch.setattr(Writer, "figures", lambda self, *args: drawn.append(args[-1]))
    continued = run(tmp_path / "stopped", data=dataset(100), **settings)
    assert drawn == [None], "the images of the blocks before are not known"
    assert verdicts.unfinished("pgd25+cw3/pgd25") is None
    assert_same(continued, run(tmp_path / "reference", data=dataset(100), **settings))
    names = ("reference", "stopped")
    reference, other = (results.read_examples(tmp_path / name, 3, "raw", "test") for name in names)
    for name in reference:
        np.testing.assert_array_equal(reference[name], other[name])


def test_a_suite_is_the_worst_case_of_its_members(tmp_path):
    """Each member attacks what the ones before it left, and is as strong on that as alone."""
    run(tmp_path, **{"eval.attacks": ("clean", "fgsm", "cw3", "fgsm+cw3")})
    arrays = results.read_examples(tmp_path, 3, "raw", "test")
    np.testing.assert_array_equal(arrays["fgsm+cw3/fgsm"], arrays["fgsm"])
    np.testing.assert_array_equal(arrays["fgsm+cw3/cw3"], arrays["fgsm"] & arrays["cw3"])
    np.testing.assert_array_equal(arrays["fgsm+cw3"], arrays["fgsm+cw3/cw3"])
    records = results.StoredResults(tmp_path, 3, "raw", "test").records()
    members = [records[f"fgsm+cw3/{name}"] for name in ("fgsm", "cw3")]
    assert records["fgsm+cw3"]["members"] == ["fgsm", "cw3"]
    assert records["fgsm+cw3"]["passes"] == pytest.approx(sum(member["passes"] for member in members))
    assert members[1]["passes"] < records["cw3"]["passes"], "only survivors are attacked"


def test_an_attack_that_leaves_its_ball_is_a_defect_not_a_result(tmp_path, monkeypatch):
    from jaxrobust.attacks import threats

    cheat = threats.NORMS["linf"]._replace(shrink=lambda perturbation, radius: perturbation)
    monkeypatch.setitem(threats.NORMS, "linf", cheat)
    with pytest.raises(AssertionError, match="pgd3 left the allowed perturbations"):
        run(tmp_path, **{"eval.step_size": 0.1})
    assert [record["attack"] for record in results.read(tmp_path)] == ["clean"]
