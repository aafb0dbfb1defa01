"""Effects of interventions, found of what is drawn with a known one."""

import numpy as np
import pytest
from drawn_study import ORDER, plan, study, write

from jaxrobust.reports import study as study_pages, study_findings, study_tables
from jaxrobust.studies import answers, design, interventions, observed, product

ALL = ("cat", "dog", "car", "ship")
LEVELS = {"all": ALL, "cat+dog": ("cat", "dog"), "cat+vehicles": ("cat", "car", "ship")}
TRUTH = {"all": 0.2, "cat+dog": 0.2, "cat+vehicles": 0.6}  # of cat; all others 0.5
IMAGES = 100


def run(level, seed, hardness, rng, seed_spread=0.03):
    """A run on images that are withstood where the accuracy of their class exceeds their hardness [C, IMAGES]."""
    classes = LEVELS[level]
    truth = np.array([TRUTH[level] if name == "cat" else 0.5 for name in classes])
    accuracy = truth + seed_spread * rng.normal(size=len(classes))
    correct, count = (hardness < accuracy[:, None]).sum(1), np.full(len(classes), IMAGES)
    planned = design.Planned(f"{level}-{seed}", {"intervention": level, "seed": f"seed{seed}"}, None)
    return observed.Observed(planned, False, 0.1, classes, count, correct, correct, ((1, correct, correct),))


def effects(rng, seeds=3):
    runs = []
    for level, classes in LEVELS.items():
        hardness = rng.random((len(classes), IMAGES))
        runs += [run(level, seed, hardness, rng) for seed in range(seeds)]
    return interventions.effects(runs, list(LEVELS))


def test_levels_are_compared_with_the_first_and_those_that_share_one_class_with_each_other():
    found = effects(np.random.default_rng(0))
    assert [(of["from"], of["to"]) for of in found] == [
        ("all", "cat+dog"),
        ("all", "cat+vehicles"),
        ("cat+dog", "cat+vehicles"),
    ]
    assert [[row["name"] for row in of["classes"]] for of in found] == [["cat", "dog"], ["cat", "car", "ship"], ["cat"]]
    for of in found:
        assert of["pairs"] == 3
        for row in of["classes"]:
            assert row["change"] == pytest.approx(row["after"] - row["before"])
            assert row["interval"][0] < row["change"] < row["interval"][1]
    assert found[1]["classes"][0]["interval"][0] > 0.2


def test_intervals_hold_the_true_change():
    rng, held, number = np.random.default_rng(1), 0, 0
    for _ in range(150):
        for of in effects(rng)[:2]:
            for row in of["classes"]:
                true = TRUTH[of["to"]] - TRUTH["all"] if row["name"] == "cat" else 0.0
                held += row["interval"][0] <= true <= row["interval"][1]
                number += 1
    # Seeds share their images, and the two sides do not: what the interval is made for.
    assert 0.93 < held / number < 0.985


def test_one_pair_has_the_interval_of_its_images():
    low, high = interventions.interval([0.3], [0.2, 0.5], [100, 100])
    likely = np.array([21, 51]) / 102
    assert high - low == pytest.approx(2 * 1.959964 * np.sqrt((likely * (1 - likely) / 102).sum()), rel=1e-6)
    assert np.isfinite(interventions.interval([0.0], [0.0, 0.0], [50, 50])).all()


def test_the_single_class_is_said_to_be_the_matter():
    found = effects(np.random.default_rng(0))
    (said,) = study_findings.on_intervention(found[-1], "pgd20")
    assert said.what == "cat+dog to cat+vehicles: cat" and said.verdict == "higher"
    count, *classes = study_findings.on_intervention(found[1], "pgd20")
    assert count.value == f"{len(classes)} of 3" and classes[0].what == "all to cat+vehicles: cat"
    rows = study_tables.interventions(effects(np.random.default_rng(0)))
    assert ",".join(rows[0]) == "from,to,pairs of runs,class,before,after,change,low,high" and len(rows) == 2 + 3 + 1


def test_they_are_on_the_page(tmp_path):
    axes = {"intervention": {"all": {}, "without3": {"data.drop": ("3",)}}, "seed": {"seed0": {}}}
    of = study(axes=axes, runs=product(axes))
    planned, rng = plan(of), np.random.default_rng(6)
    for one in planned:
        write(tmp_path, one, rng, lambda run: ORDER)
    found = answers.answer(of, planned, tmp_path)
    assert found["data"][0]["interventions"][0]["to"] == "without3" and len(found["data"][0]["settings"]) == 1
    page = study_pages.write(tmp_path, found).read_text()
    assert "without3" in page and "What interventions change" in page
    assert (tmp_path / "interventions.svg").stat().st_size and (tmp_path / "interventions.csv").stat().st_size


def test_seeds_of_several_settings_do_not_make_the_settings_more():
    """Two architectures that react otherwise: three seeds of each are no six observations of the mean reaction."""
    rng, runs = np.random.default_rng(7), []
    for architecture, gain in (("cnn", 0.1), ("mlp", 0.4)):
        for seed in range(3):
            for level in ("all", "cat+vehicles"):
                of = run(level, seed, rng.random((len(LEVELS[level]), IMAGES)), rng, seed_spread=0.0)
                of.run.levels["architecture"] = architecture
                of.correct[0] = IMAGES * (0.2 + gain * (level != "all"))
                runs.append(of)
    (found,) = interventions.effects(runs, ["all", "cat+vehicles"])
    (cat,) = (row for row in found["classes"] if row["name"] == "cat")
    assert (found["pairs"], found["settings"]) == (6, 2) and cat["change"] == pytest.approx(0.25)
    assert (
        cat["interval"][0] < 0
        and "6 pairs of runs in 2 settings" in study_findings.on_intervention(found, "pgd20")[0].note
    )
