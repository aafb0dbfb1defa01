"""The ranking of probes in a study, of runs whose truth is known: no training, values are drawn."""

import numpy as np
import pytest
from drawn_study import plan, study

from jaxrobust import files
from jaxrobust.explanations.probe import EXAMPLES
from jaxrobust.reports import study_findings
from jaxrobust.studies import answers, explaining, observed

CLASSES = 12
IMAGES = 1000
TRUTH = np.linspace(0.2, 0.8, CLASSES)
NAMES = tuple(f"class {c}" for c in range(CLASSES))
LEFT_OUT = {"head_cosine": "a cosine head"}


def draw(rng, of=lambda run: True):
    """(runs, contents of their probes): `separation` is the truth with noise, all others noise."""
    runs, contents = [], {}
    count = np.full(CLASSES, IMAGES)
    for run in plan(study()):
        if run.config.objective.name != "standard" and of(run):
            correct = rng.binomial(IMAGES, TRUTH)
            runs.append(observed.Observed(run, False, 0.1, NAMES, count, correct, correct, ((1, correct, correct),)))
            noise = {name: rng.normal(size=CLASSES).tolist() for name in ("head_norm", "curvature", "flow_in")}
            values = noise | {"separation": (10 * TRUTH + rng.normal(0, 0.1, CLASSES))[::-1].tolist()}
            images = {"training_images": 10, "test_images": 20, "test_is_scored": False}
            contents[run.name] = {"values": values, "classes": NAMES[::-1], "images": images, "left_out": LEFT_OUT}
    return runs, contents


def why(found):
    """The findings of a study that has nothing but explanations."""
    data = {"name": "", "settings": [], "classes": NAMES, "explanations": found, "interventions": [], "published": []}
    data |= dict.fromkeys(("agreement", "components", "widening", "radius")) | {"axes": [], "epochs": []}
    return study_findings.findings({"data": [data], "attack": "pgd20", "price_list": None, "planned": 1, "done": 1})


def explanations(runs, contents):
    return explaining.explanations(
        runs, contents, "pgd20", lambda levels: answers.label(levels, answers.varied_axes(runs), runs[0].run.levels)
    )


def test_what_predicts_settings_comes_first_and_reaches_the_ceiling():
    runs, contents = draw(np.random.default_rng(0))
    found = explanations(runs, contents)
    assert len(found["runs"]) == 4 and all(len(of["runs"]) == 3 for of in found["runs"])
    best, *others = [row for row in found["probes"] if not row["built_in"]]
    assert best["name"] == "separation" and best["significant"] and best["mean_held_out"] > 0.98
    assert all(row["mean_held_out"] < 0.3 for row in others)
    # Means over seeds, and of nothing else.
    of = [run for run in runs if run.run.name in found["runs"][1]["runs"]]
    np.testing.assert_allclose(found["runs"][1]["robustness"], np.mean([run.accuracy for run in of], axis=0))
    np.testing.assert_allclose(
        best["values"][1], np.mean([contents[run.run.name]["values"]["separation"][::-1] for run in of], axis=0)
    )
    # Binomial noise of 1,000 images and 3 seeds leaves this much.
    chance = (TRUTH * (1 - TRUTH)).mean() / IMAGES / 3 / TRUTH.var()
    assert found["ceiling"]["seeds"] == pytest.approx(1 - chance, abs=chance / 2)
    assert found["ceiling"]["images"] < found["ceiling"]["seeds"]
    assert files.to_json(found)
    said = {row.what: row for row in why(found)}
    assert "in 4 settings" in said["probes that go along with class accuracy"].note
    assert "R² on a held-out class of a held-out setting: separation" in said and "R² that can be reached" in said
    assert said["probes left out"].note == "head_cosine: a cosine head"


def test_seeds_of_one_setting_are_no_held_out_runs():
    first = {"architecture": "cnn", "radius": "whole"}
    runs, contents = draw(np.random.default_rng(1), lambda run: first.items() <= run.levels.items())
    found = explanations(runs, contents)
    assert len(runs) == 3 and len(found["runs"]) == 1 and found["yardstick"] is None
    assert "mean_held_out" not in found["probes"][0] and found["probes"][0]["name"] == "separation"
    said = [row for row in why(found) if "held-out" in row.what]
    assert len(said) == 1 and "of one setting" in said[0].note and not said[0].value


def test_seeds_that_lack_a_probe_or_a_class():
    runs, contents = draw(np.random.default_rng(2))
    lacking, partial, *_ = (run.run.name for run in runs)
    del contents[lacking]["values"]["curvature"]
    contents[lacking]["left_out"] = LEFT_OUT | {"curvature": "why"}
    contents[partial]["values"]["head_norm"][4] = None  # in the reverse order of the classes
    of_setting = [contents[run.run.name]["values"] for run in runs[:3]]
    found = explanations(runs, contents)
    rows = {row["name"]: row["values"][0] for row in found["probes"]}
    np.testing.assert_allclose(rows["curvature"][::-1], np.mean([of["curvature"] for of in of_setting[1:]], axis=0))
    assert rows["head_norm"][::-1][4] == pytest.approx(
        (of_setting[0]["head_norm"][4] + of_setting[2]["head_norm"][4]) / 2
    )
    assert "curvature" not in found["runs"][0]["left_out"]
    del contents[lacking]
    assert explanations(runs, contents)["lacking"] == 1 and explanations(runs, {}) is None
    assert study().probe_examples == EXAMPLES
