"""The command on tiny runs: every probe, what its files say, and errors in one line."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import tiny_config

from jaxrobust import files
from jaxrobust.audit import results as audit_results
from jaxrobust.commands import front_end
from jaxrobust.errors import FieldError, UserError
from jaxrobust.explanations import PROBES
from jaxrobust.explanations.explaining import explain
from jaxrobust.runs import results
from jaxrobust.training import loop


def config_of(**changes):
    config = tiny_config.get_config()
    config.model.name = "mlp"
    config.model.hidden = (16,)
    config.train.epochs = 2
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with averaged weights, and one in another norm that was trained without attack."""
    folder = tmp_path_factory.mktemp("explain")
    loop.train_and_evaluate(config_of(), folder / "run")
    standard = {"objective.name": "standard", "threat.norm": "l2", "threat.eps": 0.5, "train.average_decay": 0.0}
    standard |= {"eval.splits": ("test",)}
    loop.train_and_evaluate(config_of(**standard), folder / "standard")
    return folder / "run", folder / "standard"


@pytest.fixture(scope="module")
def explained(trained, tmp_path_factory):
    """What the command writes about both runs."""
    out = tmp_path_factory.mktemp("out")
    options = ("--standard", trained[1], "--other", trained[1], "--examples", 200, "--out", out)
    assert front_end.main(["explain", *trained, *options]) == 0
    return out, files.read_json(out / "explain.json")


def test_every_probe_is_measured(explained, trained):
    _, figures = explained
    rows = {row["name"]: row for row in figures["probes"]}
    assert set(PROBES) - set(rows) == {"breaking_radius"} == set(figures["runs"][0]["left_out"])
    assert figures["attack"] == "pgd3" and [run["name"] for run in figures["runs"]] == ["run", "standard"]
    for row in rows.values():
        assert np.shape(row["values"]) == (2, 10)
        if row["correlation"] is not None:
            assert row["interval"][0] <= row["correlation"] <= row["interval"][1]
            assert (row["p_holm"] is None) == row["built_in"]
    assert rows["flow_out"]["correlation"] == pytest.approx(-1)
    for run, values in zip(figures["runs"], rows["flow_out"]["values"], strict=True):
        np.testing.assert_allclose(values, 1 - np.array(run["robustness"]))
    # Data are the same; adversarial images made on one are passed to the other.
    assert rows["pixel_overlap"]["values"][0] == rows["pixel_overlap"]["values"][1]
    assert rows["transfer_out"]["values"][0] != rows["transfer_in"]["values"][0]
    assert rows["transfer_out"]["values"][1] == [None] * 10 and rows["transfer_out"]["runs"] == 1
    assert figures["runs"][1]["left_out"]["transfer_in"] == "the other model is this one"
    last = files.read_records(trained[0] / results.TRAINING)[-1]
    assert rows["train_robustness"]["values"][0] == last["train_class_accuracy"]
    held_out = [r["mean_held_out"] for r in figures["probes"] if not r["built_in"] and r["mean_held_out"] is not None]
    assert held_out == sorted(held_out, reverse=True)


def test_before_training(explained, tmp_path, capfd):
    arguments = ["--config", tiny_config.__file__, "--examples", "200", "--out", str(tmp_path)]
    assert front_end.main(["explain", *arguments]) == 0
    with open(tmp_path / "data_probes.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    names = {name for name, probe in PROBES.items() if probe.looks_at == "data"}
    assert set(lines[0]) == {"class"} | names and "pixel_overlap" in names
    for row in explained[1]["probes"]:
        if row["name"] in names:
            assert [float(line[row["name"]]) for line in lines] == row["values"][0]
    assert "before training, 200 training images" in capfd.readouterr().err


def test_its_files(explained):
    out, figures = explained
    with open(out / "explain.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 20 and set(PROBES) - set(lines[0]) == {"breaking_radius"}
    assert float(lines[3]["robustness"]) == figures["runs"][0]["robustness"][3]
    page = (out / "explain.html").read_text()
    assert page.count("<svg") == 2 and not re.search(r'(src|href)="http', page)
    assert "probes that go along with class accuracy" in page and "probes left out" in page
    assert "nan" not in re.sub(r"<[^>]*>", "", page).lower().split()
    for stem in ("ranking", "classes"):
        assert (out / f"{stem}.svg").stat().st_size and (out / f"{stem}.png").stat().st_size


def test_one_run_whose_training_nobody_knows(trained, tmp_path, capfd):
    run = shutil.copytree(trained[0], tmp_path / "imported")
    (run / results.TRAINING).unlink()
    step = files.read_json(run / results.BEST)["step"]
    names = [str(c) for c in range(10)]
    labels = np.repeat(np.arange(10), 5)
    arrays = {"labels": labels, "targets": (labels[:, None] + 1) % 10, "reached": np.zeros((50, 1), bool)}
    arrays["breaking_radius"] = np.array([0.1, np.inf, *[0.2] * 8])[labels]
    about = {"step": step, "epoch": 1, "weights": "averaged", "split": "test", "classes": names, "whole": 50}
    state = {"settings": {"attack": "a", "members": ["a"], "radii": [0.1, 0.2]}, "passes": 1, "idle": 0, "seconds": 1}
    states = {"curve": state, "matrix": state}
    figures = audit_results.figures(arrays, states, about | {"norm": "linf", "eps": 0.1}, None)
    audit_results.AUDIT.write(run, figures)
    arguments = [str(run), "--examples", "100", "--attack", "clean", "--weights", "averaged"]
    assert front_end.main(["explain", *arguments]) == 0
    figures = files.read_json(run / "explain" / "explain.json")
    assert figures["attack"] == "clean" and figures["yardstick"] is None
    left_out = figures["runs"][0]["left_out"]
    (radius,) = [row["values"][0] for row in figures["probes"] if row["name"] == "breaking_radius"]
    assert radius[0] == 0.1 and radius[1] > 0.2 and figures["runs"][0]["weights"] == "averaged"
    assert "trained elsewhere" in left_out["train_robustness"] and left_out["transfer_in"] == "give --other RUN"
    said = " ".join(capfd.readouterr().err.split())
    assert re.search(r"probes left out \d+ train_robustness, train_test_gap", said)


def test_errors_in_one_line(trained, tmp_path, capsys):
    run, standard = map(str, trained)

    def said(*arguments):
        assert front_end.main(["explain", *arguments]) == 2
        *notes, line = capsys.readouterr().err.splitlines()
        assert all("taking the last" in text for text in notes)
        return line

    assert "no such folder" in said(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    assert "no results.jsonl" in said(tmp_path / "empty")
    assert "--attack = 'pgd7'" in said(run, "--attack", "pgd7") and "clean, pgd3" in said(run, "--attack", "pgd7")
    assert "--other" in said(run, "--other", tmp_path / "empty") and "holds no run" in said(run, "--other", tmp_path)
    assert "twice" in said(run, standard, run)
    assert "--config FILE" in said() and "--config FILE" in said(run, "--config", tiny_config.__file__)
    assert "is no existing .py file" in said("--config", tmp_path / "nothing.py")
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(): return 1 / 0")
    assert "broken.py': ZeroDivisionError: division by zero (line 1); correct the file" in said("--config", broken)
    assert "--examples" in said(run, "--examples", -1)
    assert "no such option" in said(run, "--nonsense")

    other = tmp_path / "other"
    shutil.copytree(standard, other)
    content = json.loads((other / "config.json").read_text())
    write_two_classes(tmp_path / "two.npz")
    content["data"] |= {"name": f"arrays:{tmp_path / 'two.npz'}", "validation_per_class": 0}
    (other / "config.json").write_text(json.dumps(content))
    assert "float32[10] there, and float32[2] in the given one" in said(run, "--other", other)


def write_two_classes(path):
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1], 60)
    images = np.clip(0.5 + 0.15 * (2 * labels - 1)[:, None, None, None] + rng.normal(0, 0.2, (120, 6, 6, 1)), 0, 1)
    images = images.astype(np.float32)
    arrays = {"train_images": images[:80], "train_labels": labels[:80]}
    np.savez(path, **arrays, test_images=images[80:], test_labels=labels[80:])


def test_two_classes_in_l1(trained, tmp_path):
    write_two_classes(tmp_path / "two.npz")
    changes = {"data.name": f"arrays:{tmp_path / 'two.npz'}", "data.augment": (), "model.name": "linear"}
    threat = {"threat.norm": "l1", "threat.eps": 1.0, "train.batch_size": 40, "data.validation_per_class": 0}
    loop.train_and_evaluate(config_of(**changes, **threat), tmp_path / "two")
    figures = explain([tmp_path / "two"])
    rows = {row["name"]: row for row in figures["probes"]}
    assert "largest_rival" not in rows and not any(row["significant"] for row in figures["probes"])
    # A linear model of two classes has one gradient, which does not change.
    gradients = rows["gradient_norm"]["values"][0]
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)
    np.testing.assert_allclose(rows["curvature"]["values"], 0, atol=1e-4)
    with pytest.raises(FieldError, match="has other classes"):
        explain([trained[0]], other=tmp_path / "two")
    with pytest.raises(UserError, match="different classes"):
        explain([trained[0], tmp_path / "two"])
