"""What is said of weights is of weights that exist: after a fallback to an older checkpoint, other bits, or a kill."""

import errno
import json
import os
import shutil

import jax
import numpy as np
import pytest
import tiny_config
from exploding import exploding

from jaxrobust import config as config_lib, files
from jaxrobust.audit import auditor, results as audit_results
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import evaluator as evaluator_lib, loading, run as run_lib
from jaxrobust.posthoc.change import change_head
from jaxrobust.reports import run as run_page
from jaxrobust.runs import checkpoints, history, results
from jaxrobust.runs.reading import RunFiles
from jaxrobust.training import loop, torch_files

EPOCH = (1297 - 100) // 64


def config_of(**train):
    config = tiny_config.get_config()
    config.model.name, config.model.hidden = "mlp", (16,)
    config.eval.every_epochs, config.eval.attacks, config.eval.examples = 1, ("clean", "fgsm"), 100
    config.train.update(train)
    return config


def on_devices(monkeypatch, number):
    """Other bits, as another machine gives them: sums over the shares of a batch are added in another order."""
    mesh = parallel.make_mesh
    monkeypatch.setattr(parallel, "make_mesh", lambda devices=None: mesh(devices or jax.devices()[:number]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one device, with an audit and a page; do not change it."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 1)
        loop.train_and_evaluate(config_of(), workdir)
        auditor.audit_run(workdir, AUDIT)
        run_page.write_report(workdir)
    return workdir


AUDIT = {"audit.examples": 20, "audit.attack": "fgsm", "audit.matrix_attack": "fgsm", "audit.masking": False}


@pytest.fixture
def workdir(trained, tmp_path, monkeypatch):
    on_devices(monkeypatch, 1)
    return shutil.copytree(trained, tmp_path / "run")


def damage(workdir, *epochs):
    for epoch in epochs:
        for path in (workdir / "checkpoints" / str(epoch * EPOCH) / "state").rglob("*"):
            if path.is_file() and path.stat().st_size > 1000:
                path.write_bytes(path.read_bytes()[::-1])


def lines_of(workdir):
    return {results.key_of(line): (line["correct"], line["checksum"]) for line in results.read(workdir)}


def assert_all_is_of_its_checkpoint(workdir, tmp_path):
    """Each line has the checksum of the checkpoint of its step, and another evaluation of it gives the same counts."""
    for line in results.read(workdir):
        assert line["checksum"] == history.checksums(workdir, line["step"])[line["weights"]]
        arrays = results.read_examples(workdir, line["step"], line["weights"], line["split"], {line["attack"]: line})
        assert arrays["checksum"] == line["checksum"]
    best = results.BEST.read(workdir)
    assert best["checksum"] == history.checksums(workdir, best["step"])[best["weights"]]
    again = tmp_path / "again"
    again.mkdir()
    shutil.copytree(workdir / "checkpoints", again / "checkpoints")
    shutil.copy(workdir / "config.json", again)
    evaluator_lib.evaluate_checkpoints(again)
    assert lines_of(again) == lines_of(workdir)
    assert results.BEST.read(again) == best


def test_after_a_fallback_to_other_bits_no_line_is_of_weights_that_are_gone(workdir, tmp_path, monkeypatch, capsys):
    before = lines_of(workdir)
    damage(workdir, 2, 3, 4)
    on_devices(monkeypatch, 2)
    loop.train_and_evaluate(config_of(), workdir)
    said = capsys.readouterr().err
    assert f"dropped, to be made again, what is of steps after {EPOCH}: 3 epochs, 24 results" in said
    after = lines_of(workdir)
    assert after.keys() == before.keys()
    assert all((after[key] == before[key]) == (key[0] == EPOCH) for key in before)
    assert [line["epoch"] for line in results.read_training(workdir)] == [1, 2, 3, 4]
    assert_all_is_of_its_checkpoint(workdir, tmp_path)


def test_nothing_of_lost_weights_is_left_while_the_training_goes_on(workdir, monkeypatch):
    """Until the later epochs come again, in whatever way the training ends."""
    damage(workdir, 3, 4)
    monkeypatch.setattr(loop.epochs_lib, "prepare", lambda training: lambda *_, **__: iter(()))
    loop.train_and_evaluate(config_of(), workdir)
    assert {line["step"] for line in results.read(workdir)} == {EPOCH, 2 * EPOCH}
    assert [line["epoch"] for line in results.read_training(workdir)] == [1, 2]
    assert results.BEST.read(workdir)["step"] <= 2 * EPOCH
    left = [path for folder in ("examples", "audit") for path in (workdir / folder).iterdir()]
    assert left and all(int(path.name.partition("-")[0]) <= 2 * EPOCH for path in left)
    for name in ("audit.json", "classes.json", "report.html"):
        assert not (workdir / name).exists(), name


def test_a_run_that_goes_on_alike_drops_nothing(workdir, capsys):
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    loop.train_and_evaluate(config_of(), workdir)
    assert "dropped" not in capsys.readouterr().err
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def replace_last(workdir):
    """Put another checkpoint in the place of the last, as a copied folder would."""
    saved = checkpoints.Checkpoints(workdir)
    config = config_of()
    like = loop.training_setup.create(
        config, loop.objects.dataset(config), parallel.make_mesh(), 4 * EPOCH
    ).abstract_state()
    state = saved.restore(3 * EPOCH, like)
    saved.close()
    shutil.rmtree(workdir / "checkpoints" / str(4 * EPOCH))
    saved = checkpoints.Checkpoints(workdir)
    saved.save(4 * EPOCH, state.replace(step=state.step + EPOCH))
    saved.close()


def test_another_checkpoint_in_the_place_of_one_is_scored_anew(workdir, tmp_path, capsys):
    replace_last(workdir)
    with pytest.raises(UserError, match=rf"other .* weights .* step {4 * EPOCH} has; run jaxrobust evaluate"):
        RunFiles(workdir)
    evaluator_lib.evaluate_checkpoints(workdir)
    assert f"step {4 * EPOCH} has other raw weights than its results: these are dropped" in capsys.readouterr().err
    assert_all_is_of_its_checkpoint(workdir, tmp_path)
    RunFiles(workdir)


def test_an_audit_is_of_its_weights(workdir, capsys):
    best, page = results.BEST.read(workdir), (workdir / "report.html").read_text()
    content = audit_results.AUDIT.read(workdir)
    assert (content["step"], content["checksum"]) == (best["step"], best["checksum"]) and "audit" in page
    audit_results.AUDIT.write(workdir, content | {"checksum": 5})
    capsys.readouterr()
    run_page.write_report(workdir)
    assert "audit.json is of other weights, and left out" in capsys.readouterr().err
    assert json.loads((workdir / "classes.json").read_text())["checksum"] == best["checksum"]
    assert f"CRC-32 {best['checksum']:08x}" in page


def test_a_stale_file_of_predictions_is_never_used(workdir):
    line = results.read(workdir)[-1]
    path = results.examples_path(workdir, line["step"], line["weights"], line["split"])
    arrays = results.read_arrays(path)
    files.write_atomically(path, b"")
    path.unlink()
    results.add_arrays(path, arrays | {"checksum": np.int64(1)})
    run = RunFiles(workdir)
    assert run.examples(history.Checkpoint(line["step"], line["weights"])) == {}
    evaluator_lib.evaluate_checkpoints(workdir)
    assert int(results.read_arrays(path)["checksum"]) == line["checksum"]


def opened_by(tmp_path):
    """Whatever opens the best checkpoint of a run."""
    return {
        "audit": lambda workdir: auditor.audit_run(workdir, AUDIT),
        "export": lambda workdir: torch_files.export_torch(tmp_path / "weights.npz", workdir),
        "posthoc": lambda workdir: change_head(workdir, "head_norm", out=tmp_path / "changed"),
        "load_run": run_lib.load_run,
    }


@pytest.mark.parametrize("command", ["audit", "export", "posthoc", "load_run"])
def test_a_best_checkpoint_that_is_not_there_is_never_replaced_in_silence(workdir, tmp_path, command, capsys):
    opens, best = opened_by(tmp_path)[command], results.BEST.read(workdir)
    for wrong in ({"step": 7}, {"checksum": 5}):
        results.BEST.write(workdir, best | wrong)
        with pytest.raises(FieldError, match=r"its best checkpoint by best\.json, .* is not there; put it back"):
            opens(workdir)
    (workdir / "best.json").write_text('{"step": "x"}')
    with pytest.raises(UserError, match=r"best\.json does not hold what it should"):
        opens(workdir)
    (workdir / "best.json").unlink()
    capsys.readouterr()
    opens(workdir)
    assert "has no best.json, by which the best of 4 is known: taking the last" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "null", "{", "5"])
def test_a_run_whose_config_is_gone_is_refused(workdir, tmp_path, content):
    (workdir / "config.json").unlink()
    if content is not None:
        (workdir / "config.json").write_text(content)
    what = {
        "train": lambda workdir: loop.train_and_evaluate(config_of(seed=3), workdir),
        "evaluate": evaluator_lib.evaluate_checkpoints,
        "report": run_page.write_report,
        "import": checkpoints.check_free,
    }
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    for name, opens in (what | opened_by(tmp_path)).items():
        with pytest.raises(UserError, match=r"config\.json"):
            opens(workdir)
            pytest.fail(name)
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


def test_results_without_checkpoints_are_not_dropped(workdir):
    shutil.rmtree(workdir / "checkpoints")
    with pytest.raises(
        FieldError, match=r"has results\.jsonl, and no checkpoint to go on from; put the checkpoints back"
    ):
        loop.train_and_evaluate(config_of(), workdir)
    assert lines_of(workdir)


def test_best_is_marked_after_a_kill_before_it(workdir):
    best = results.BEST.read(workdir)
    (workdir / "best.json").unlink()
    evaluator_lib.evaluate_checkpoints(workdir)
    assert results.BEST.read(workdir) == best
    assert config_lib.best_attack(config_of()) == best["attack"]


def test_what_is_saved_first_is_read_back(tmp_path, monkeypatch):
    """Storage from which nothing can be read is found at the first checkpoint, and not at the next start."""
    written = checkpoints.Checkpoints.wait

    def wait_and_damage(self):
        written(self)
        damage(tmp_path / "run", 1)

    monkeypatch.setattr(checkpoints.Checkpoints, "wait", wait_and_damage)
    with pytest.raises(FieldError, match=rf"cannot be read again: checkpoint .*/{EPOCH} .*; give another folder"):
        loop.train_and_evaluate(config_of(epochs=2), tmp_path / "run")
    assert len(results.read_training(tmp_path / "run")) == 1 and results.read(tmp_path / "run") == []


@pytest.mark.parametrize("name", ["a[1]", "a[", "a]", "a\\b", "gs:", "a\nb", "a\x1bb", "a\udc80"])
def test_a_path_under_which_nothing_could_be_read_is_refused_at_once(tmp_path, name):
    where = tmp_path / name / "run"
    said = r"^workdir = .*(checkpoints cannot be kept under .*; give a folder|is not UTF-8)"
    for begins in (
        lambda: loop.train_and_evaluate(config_of(), where),
        lambda: checkpoints.check_free(where),
        lambda: checkpoints.Checkpoints(where, read_only=True),
    ):
        with pytest.raises(FieldError, match=said):
            begins()
    assert list(tmp_path.iterdir()) == []


def test_every_other_path_works_throughout(trained, tmp_path, monkeypatch):
    """Training, resume, evaluation, audit, report."""
    on_devices(monkeypatch, 1)
    workdir = tmp_path / "a *?{b}%20 %s" / "ä日本 'x' #1&;$~" / "run"
    loop.train_and_evaluate(config_of(epochs=1), workdir)
    loop.train_and_evaluate(config_of(epochs=1), workdir)
    evaluator_lib.evaluate_checkpoints(workdir, {"eval.attacks": ("pgd2",)})
    auditor.audit_run(workdir, AUDIT)
    assert run_page.write_report(workdir).exists() and lines_of(workdir)
    assert run_lib.load_run(workdir).class_names


@pytest.mark.parametrize("finite_epochs", [0, 1])
def test_a_loss_that_is_not_finite_speaks_of_a_checkpoint_only_if_there_is_one(tmp_path, monkeypatch, finite_epochs):
    config = config_of(epochs=2)
    config.eval.every_epochs = 0
    exploding(monkeypatch, 0.1 + 0.5 * finite_epochs, 1e29)
    with pytest.raises(loop.Diverged) as error:
        loop.train_and_evaluate(config, tmp_path)
    kept = f"; the last checkpoint before it, of step {EPOCH}, is kept: lower"
    assert (kept in str(error.value)) == bool(finite_epochs) == ("checkpoint" in str(error.value))
    assert checkpoints.Checkpoints(tmp_path, read_only=True).steps() == [EPOCH] * finite_epochs


def full(monkeypatch, after: int = 0):
    """Every file that is written from now on ends at its first byte, of those after the first few."""
    replace, left = os.replace, [after]

    def full_disk(*paths):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(*paths)

    monkeypatch.setattr(os, "replace", full_disk)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_full_disk_leaves_nothing_half_written_and_goes_on(workdir, tmp_path, after):
    whole = {path for path in workdir.rglob("*")}
    attacks = {"eval.attacks": ("pgd2",), "eval.checkpoints": "last"}
    with pytest.MonkeyPatch.context() as patch:
        full(patch, after)
        with pytest.raises(files.NotWritten, match=r"\.npz: cannot be written \(No space left on device\); make room"):
            evaluator_lib.evaluate_checkpoints(workdir, attacks)
    left = [path for path in workdir.rglob("*") if path not in whole and "tfevents" not in path.name]
    assert left in ([], [workdir / ".examples"])
    evaluator_lib.evaluate_checkpoints(workdir, attacks)
    assert_all_is_of_its_checkpoint_in_short(workdir)


def assert_all_is_of_its_checkpoint_in_short(workdir):
    assert not history.of_others(workdir, results.read(workdir))
    assert len({key[3] for key in lines_of(workdir)}) == 3


def test_what_a_killed_process_was_writing_is_cleaned_and_nothing_else(workdir):
    """Not what a process that is alive is writing."""
    dead = [workdir / ".best.json.7.1", workdir / "examples" / ".x.npz.7.1", workdir / "audit" / ".x.npz.7.1"]
    alive, own = workdir / ".best.json.8.1", workdir / ".notes.txt"
    for path in (*dead, alive, own):
        path.write_text("{")
    part = workdir / "checkpoints" / "90.orbax-checkpoint-tmp"
    part.mkdir()
    with files.locked(alive), files.locked(workdir / ".training"):
        loading.open_run(workdir)
        assert part.exists()
    alive.write_text("{")
    with files.locked(alive):
        loading.open_run(workdir)
        assert alive.exists() and own.exists() and not any(path.exists() for path in (*dead, part))
    loading.open_run(workdir)
    assert own.exists() and not alive.exists()
