"""What a study says of runs whose truth is known: accuracies are drawn, and written as a training and an evaluation
write them."""

import csv
import dataclasses
import html
import io
import json
import zlib

import numpy as np
import pytest
from drawn_study import AXES, FIELDS, IMAGES, NAMES, ORDER, RUNS, plan, study, truth, write

from jaxrobust import classwise, files
from jaxrobust.errors import UserError
from jaxrobust.figures import study as figures_study
from jaxrobust.reports import study as study_pages, study_findings
from jaxrobust.runs import results
from jaxrobust.studies import answers, levels, observed, product, running


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    for run in plan(study()):
        write(folder, run, rng)
    return folder


@pytest.fixture(scope="module")
def answer(workdir):
    return answers.answer(study(), plan(study()), workdir)


def test_the_order_of_the_classes_is_found(answer):
    found = answer["data"][0]["agreement"]
    assert (
        found["w"] > 0.95
        and found["p_value"] < 0.01
        and 0.8 < found["interval"][0] <= found["w"]
        and found["corrected"]
    )
    assert [row["name"] for row in sorted(found["classes"], key=lambda row: row["mean_rank"])] == list(NAMES)
    assert found["classes"][0]["worst_in"] == 1.0


def test_means_are_those_of_the_files(answer, workdir):
    runs, attack = observed.observe(study(), plan(study()), workdir)
    assert attack == "pgd20" and len(runs) == len(RUNS)
    for row in answer["data"][0]["settings"]:
        of = [run for run in runs if run.run.name in row["runs"]]
        assert len(of) == row["seeds"] == 3
        np.testing.assert_allclose(row["attacked"]["class_accuracy"], np.mean([run.accuracy for run in of], axis=0))
        assert row["attacked"]["gap"] == pytest.approx(np.ptp(np.mean([run.accuracy for run in of], axis=0)))


def test_variance_goes_to_the_class_and_to_its_change_with_the_radius(answer):
    share = answer["data"][0]["components"]["share"]
    assert sum(share.values()) == pytest.approx(1)
    # Class: of 1 and 0.5 times the deviations, the part in common is their product, 0.5; the rest is class x radius.
    deviations = np.var(ORDER, ddof=1)
    expected = {"class": 0.5, "class x radius": (1 + 0.25) / 2 - 0.5}
    total = sum(expected.values())
    for name, value in expected.items():
        assert share[name] == pytest.approx(value / total, abs=0.08), name
    assert deviations > 0 and share["architecture"] < 0.02 and share["class x architecture"] < 0.02


def test_axes_with_and_without_effect_are_told_apart(answer):
    p = {row["axis"]: row["p_profile"] for row in answer["data"][0]["axes"]}
    assert p["radius"] < 0.02 and p["architecture"] > 0.05


def test_gaps_widen_with_attack_and_radius(answer):
    of = answer["data"][0]
    gap = of["widening"]["own"]["gap"]
    # Of the whole radius and of half of it; natural runs are compared with both, though trained with neither.
    assert gap["adversarial"] == pytest.approx(0.6 * (1 + 0.5) / 2, abs=0.04) and gap["natural"] < 0.03
    assert gap["interval"][0] > 0 and of["widening"]["settings"] == 4 and of["widening"]["pairs"] == 12
    slope = of["radius"]["figures"]["gap"]["slope"] * (38 / 255)
    assert slope == pytest.approx(0.6, abs=0.08) and of["radius"]["figures"]["gap"]["p_value"] < 0.05


def test_the_change_over_epochs_is_that_of_the_gaps_with_its_interval(answer):
    (robust,) = [kind for kind in answer["data"][0]["epochs"] if not kind["natural"]]
    change = robust["change"]["change"]
    assert change == pytest.approx(robust["gap"][-1] - robust["gap"][0])
    assert robust["change"]["interval"][0] < change < robust["change"]["interval"][1] and robust["settings"] == 4


def test_no_effect_gives_uniform_p_values():
    """Of an axis that does nothing, over repeated studies: the mean of uniform numbers is 1/2."""
    axes = {"nuisance": {"a": {}, "b": {"train.log_every_steps": 11}}, "seed": levels("train.seed", range(4), "seed")}
    of = study(axes=axes, runs=product(axes))
    planned, rng, found = plan(of), np.random.default_rng(1), []
    for _ in range(60):
        runs = []
        for run in planned:
            correct = rng.binomial(IMAGES, np.clip(ORDER + 0.03 * rng.normal(size=ORDER.size), 0, 1))
            count = np.full(ORDER.size, IMAGES)
            runs.append(observed.Observed(run, False, 0.1, NAMES, count, correct, correct, ((1, correct, correct),)))
        found.append(answers.axis_effects(runs)[0]["p_profile"])
    assert abs(np.mean(found) - 0.5) < 4 * np.sqrt(1 / 12 / len(found)) and min(found) < 0.2 and max(found) > 0.8


def test_page_tables_and_findings(answer, tmp_path):
    path = study_pages.write(tmp_path, answer)
    page = path.read_text()
    assert "http" not in page.replace("http://www.w3.org", "") and "<script src" not in page
    for word in ("Kendall", *NAMES, "whole", "mlp"):
        assert word in page
    rows = {
        name: list(csv.DictReader(io.StringIO((tmp_path / f"{name}.csv").read_text())))
        for name in ("classes", "settings", "order", "axes")
    }
    settings = answer["data"][0]["settings"]
    assert len(rows["classes"]) == len(settings) * len(NAMES)
    assert [float(row["gap under attack"]) for row in rows["settings"]] == [row["attacked"]["gap"] for row in settings]
    assert [row["name"] for row in rows["order"]] == list(NAMES)
    assert {row["axis"] for row in rows["axes"]} == {"architecture", "radius"}
    assert all(f"{name}.csv" in page for name in rows)
    assert json.loads((tmp_path / "study.json").read_text()) == json.loads(files.to_json(answer))
    found = study_findings.findings(answer)
    page = html.unescape(page)
    assert all(row.what in page and row.value in page and row.interval in page for row in found)
    rows = {row.what: row for row in found}
    assert rows["weak class: cat"].value == "100 %" and rows["weak classes change with radius"].verdict == "significant"
    assert rows["weak classes change with architecture"].verdict == "not significant"
    for name in ("classes-robust", "classes-natural", "correlations", "variance", "gap"):
        assert (tmp_path / f"{name}.svg").stat().st_size and (tmp_path / f"{name}.png").stat().st_size


def test_the_same_files_give_the_same_answer(answer, workdir):
    assert answers.answer(study(), plan(study()), workdir) == answer


def test_what_is_missing_is_said(workdir, tmp_path):
    planned, rng = plan(study()), np.random.default_rng(2)
    with pytest.raises(UserError, match="none of the"):
        answers.answer(study(), planned, tmp_path)
    write(tmp_path, planned[0], rng)
    failed = running.folder(tmp_path, planned[1])
    failed.mkdir()
    files.write_atomically(failed / running.FAILED, files.to_json({"error": "disk full"}))
    found = answers.answer(study(), planned, tmp_path)
    assert found["done"] == 1 and found["failed"] == [{"run": planned[1].name, "error": "disk full"}]
    assert found["data"][0]["agreement"] is None
    page = study_pages.write(tmp_path, found).read_text()
    assert "disk full" in page and "runs missing" in page and f"{len(planned) - 1} of {len(planned)}" in page


@pytest.mark.parametrize("name", ["config.json", results.RESULTS, results.TRAINING, results.BEST])
def test_a_damaged_file_concerns_its_run_alone(name, tmp_path):
    planned, rng = plan(study()), np.random.default_rng(6)
    for run in planned[:2]:
        write(tmp_path, run, rng)
    damaged = running.folder(tmp_path, planned[0]) / name
    text = damaged.read_text() if damaged.exists() else "{}"
    damaged.write_text(text[: len(text) // 2] + "\n" + text[len(text) // 2 :] * 2)
    found = answers.answer(study(), planned, tmp_path)
    (failed,) = found["failed"]
    assert found["done"] == 1 and failed["run"] == planned[0].name and str(damaged) in failed["error"]


def test_runs_of_other_classes_are_not_mixed(tmp_path):
    planned, rng = plan(study()), np.random.default_rng(3)
    write(tmp_path, planned[0], rng)
    write(tmp_path, planned[1], rng)
    where = running.folder(tmp_path, planned[1]) / results.RESULTS
    where.write_text(where.read_text().replace('"cat"', '"lynx"'))
    with pytest.raises(UserError, match="the same classes"):
        answers.answer(study(), planned, tmp_path)


def test_estimates_go_by_what_is_done(workdir):
    planned = plan(study())
    states = running.statuses(workdir, planned)
    seconds = running.estimates(running.flops(planned), states)
    # Two epochs of 320 images at 100 a second, and four evaluations of a second.
    assert all(value == pytest.approx(2 * 3.2 + 4) for value in seconds.values())
    assert {status.state for status in states.values()} == {"done"}


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_a_run_is_done_when_all_of_its_last_evaluation_is_written(tmp_path, average_decay):
    """However many lines a killed process had written; and it has chosen the best checkpoint."""
    (run, *_) = plan(study(fields=FIELDS | {"train.average_decay": average_decay, "data.validation_per_class": 5}))
    write(tmp_path, run, np.random.default_rng(7))
    where = running.folder(tmp_path, run)
    lines = [json.loads(line) for line in (where / results.RESULTS).read_text().splitlines()]
    lines = [line | {"split": split} for line in lines for split in ("validation", "test")]
    if average_decay:
        lines = [line | {"weights": weights} for line in lines for weights in ("raw", "averaged")]
        lines.sort(key=lambda line: (line["step"], line["weights"] != "raw", line["split"] == "test"))
    best = results.find_best(lines, attack="pgd20", criterion="sum")
    files.write_atomically(where / results.BEST, files.to_json(best))
    for number in range(len(lines) + 1):
        (where / results.RESULTS).write_text("".join(json.dumps(line) + "\n" for line in lines[:number]))
        assert (running.status(tmp_path, run).state == "done") == (number == len(lines)), number
    (where / results.BEST).unlink()
    assert running.status(tmp_path, run).state == "begun"


def test_results_of_another_config_are_not_taken_for_done(tmp_path):
    planned, rng = plan(study()), np.random.default_rng(4)
    for run in planned[:2]:
        write(tmp_path, run, rng)
    changed = plan(study(fields=FIELDS | {"train.batch_size": 32, "train.log_every_steps": 7}))
    found = running.status(tmp_path, changed[0])
    assert (
        found.state == "failed" and "train.batch_size = 32, there 64" in found.error and "log_every" not in found.error
    )
    assert running.status(tmp_path, plan(study(fields=FIELDS | {"train.log_every_steps": 7}))[0]).state == "done"


def test_classes_without_test_images_are_left_out(tmp_path):
    planned, rng = plan(study()), np.random.default_rng(5)
    for run in planned[:6]:
        write(tmp_path, run, rng)
        where = running.folder(tmp_path, run) / results.RESULTS
        records = [json.loads(line) for line in where.read_text().splitlines()]
        for record in records:
            record["count"][1] = record["correct"][1] = 0
            score = classwise.Score(record["correct"], record["count"], record["classes"])
            record |= score.to_record() | {"examples": sum(record["count"])}
            del record["confusion"]
        where.write_text("".join(json.dumps(record) + "\n" for record in records))
    found = answers.answer(study(), planned, tmp_path)["data"][0]
    assert found["classes"] == [NAMES[0], *NAMES[2:]]
    assert all(len(row["attacked"]["class_accuracy"]) == len(NAMES) - 1 for row in found["settings"])


def test_the_order_is_compared_with_what_others_found(workdir):
    published = {"same": dict(zip(NAMES, ORDER, strict=True)), "other way": dict(zip(NAMES, 1 - ORDER, strict=True))}
    of = study(published={"": published | {"without cat": dict(zip(NAMES[1:], ORDER[1:], strict=True))}})
    found = answers.answer(of, plan(of), workdir)
    rows = {row["source"]: row for row in found["data"][0]["published"]}
    assert rows["same"]["correlation"] == -rows["other way"]["correlation"] == pytest.approx(1)
    assert rows["without cat"]["classes"] == len(NAMES) - 1
    # Of 5! orders one is that of the classes, and one its reverse.
    assert rows["same"]["p_value"] == pytest.approx(2 / 120)
    said = {row.what: row for row in study_findings.findings(found)}["rank correlation with other way"]
    assert said.value == "-1.00" and said.verdict == "significant" and "single settings" in said.note


def test_a_single_setting_or_none_is_said_to_be_no_answer(workdir):
    runs = observed.observe(study(), plan(study()), workdir)[0]
    of_kind = {
        "0": [run for run in runs if run.natural],
        "1": [run for run in runs if not run.natural][:1],
    }
    for number, some in of_kind.items():
        said = study_findings.on_data(_of(some), "pgd20")[0]
        assert said[:2] == ("adversarially trained settings", number) and said.verdict == "caution"


def test_what_nothing_withstands_has_no_relative_gap_and_no_order():
    runs = [_drawn(run, np.zeros(5) if run.config.objective.name != "standard" else ORDER) for run in plan(study())]
    found = _of(runs)
    assert found["agreement"]["w"] is None and found["components"] == {"missing": "nothing varies"}
    assert found["widening"]["own"]["cv"]["change"] is None and found["radius"]["figures"]["cv"] is None
    said = {row.what: row for row in study_findings.on_data(found, "pgd20")}
    assert "have no order" in said["Kendall's W of 4 settings under pgd20"].note
    assert "coefficient of variation, likewise" not in said
    assert said["gap by radius of the training, per 1/255"].verdict != "significant"
    # One class that always withstands, the others never: all runs have this in common. Without that class nothing
    # varies, and the shares have no ends.
    found = _of([_drawn(run, np.array([1, 0, 0, 0, 0])) for run in plan(study())])
    assert found["components"]["explained_interval"] == [1.0, 1.0]
    assert found["components"]["intervals"]["class"] == [None, None]
    said = {row.what: row for row in study_findings.on_data(found, "pgd20")}
    assert said["differences between classes that all runs share"][1:3] == ("100 %", "")
    figures_study.shares(found["components"]["share"], found["components"]["intervals"])


def test_images_that_are_hard_for_all_are_no_agreement_on_classes():
    """Four settings on the same images: equal classes that happen to get images of unequal difficulty."""
    correct = np.array([180, 190, 200, 210, 220])
    found = _of([_drawn(run, correct / IMAGES, same_images=True) for run in plan(study())])
    order = found["agreement"]
    assert order["classes"][0]["worst_in"] == 1 and order["p_value"] > 0.01 and order["w"] < 0.9
    found = _of([_drawn(run, np.full(5, 0.5), same_images=True) for run in plan(study())])
    assert found["agreement"]["p_value"] > 0.05


def test_without_the_verdicts_on_single_images_nothing_is_corrected_and_the_page_says_so():
    runs = [dataclasses.replace(_drawn(run, truth(run)), images=None) for run in plan(study())]
    found = _of(runs)
    said = {row.what: row for row in study_findings.on_data(found, "pgd20")}
    rows = [said["Kendall's W of 4 settings under pgd20"], said["differences between classes that all runs share"]]
    assert [row.verdict for row in rows] == ["not corrected"] * 2 and not rows[0].interval
    assert found["components"]["share"]["sampling"] == 0 and found["agreement"]["w"] == pytest.approx(1)


def test_the_file_of_examples_is_read_and_checked(workdir, tmp_path):
    planned = plan(study())[:1]
    write(tmp_path, planned[0], np.random.default_rng(8))
    (run,), _ = observed.observe(study(), planned, tmp_path)
    is_robust, labels = observed.verdicts([run])
    assert np.bincount(labels[is_robust[0] == 1]).tolist() == run.correct.tolist()
    path = results.examples_path(running.folder(tmp_path, planned[0]), 2, "raw", "test")
    arrays = results.read_arrays(path)
    results.add_arrays(path, {"pgd20": ~arrays["pgd20"]})  # does not fit results.jsonl
    assert observed.verdicts(observed.observe(study(), planned, tmp_path)[0]) is None
    path.unlink()
    assert observed.verdicts(observed.observe(study(), planned, tmp_path)[0]) is None


def test_runs_on_other_images_are_joined_by_index():
    first, second = (_drawn(run, ORDER) for run in plan(study())[:2])
    index, labels, robust = second.images
    second = dataclasses.replace(second, images=(index[::2], labels[::2], robust[::2]))
    is_robust, joined = observed.verdicts([first, second])
    np.testing.assert_array_equal(joined, labels)
    np.testing.assert_array_equal(is_robust[1, ::2], robust[::2])
    assert (is_robust[1, 1::2] == -1).all()


def test_pairs_that_share_their_natural_runs_count_as_one(answer):
    of = answer["data"][0]["widening"]
    assert (of["pairs"], of["settings"], of["units"]) == (12, 4, 2)  # two radii of each of two architectures
    assert of["own"]["gap"]["least_p"] == pytest.approx(2 / 2**2)


def test_slopes_are_told_by_a_unit_that_means_something():
    """A 255th of an L2 radius of 0.5 is next to nothing."""
    l2 = {"threat.norm": "l2", "threat.eps": 0.5}
    for fields, unit, length in ((FIELDS, "1/255", 1 / 255), (FIELDS | l2, "threat radius", 0.5)):
        runs = [_drawn(run, truth(run)) for run in plan(study(fields=fields))]
        found = _of(runs)
        slope = found["radius"]["figures"]["gap"]["slope"]
        (said,) = [row for row in study_findings.on_data(found, "pgd20") if "radius of the training" in row.what]
        assert said.what.endswith(f"per {unit}") and said.value == f"{100 * slope * length:+.1f}"
        assert said.verdict == "significant" and said.interval
        assert found["radius"]["unit"] == {"length": length, "name": unit}


def test_the_page_says_what_runs_are_judged_against(answer, tmp_path):
    assert answer["data"][0]["threat"] == {"norm": "linf", "radius": 38 / 255}
    assert "Judged at a radius of 38/255 (L∞)." in study_pages.write(tmp_path, answer).read_text()


def test_training_with_a_radius_of_0_cannot_widen_the_gap():
    axes = AXES | {"radius": {"whole": {}, "none": {"attack.radius": 0.0}}}
    runs = [run for run in product(axes) if not (run["objective"] == "natural" and run["radius"] == "none")]
    found = _of([_drawn(run, truth(run)) for run in plan(study(axes=axes, runs=runs))])
    assert found["widening"]["pairs"] == 6
    assert found["widening"]["own"]["gap"]["adversarial"] == pytest.approx(0.6, abs=0.01)
    assert [row["radius"] for row in found["radius"]["figures"]["gap"]["by_radius"]] == [0.0, 1.0]
    assert all(
        row["interval"][0] <= row["mean"] <= row["interval"][1]
        for row in found["radius"]["figures"]["gap"]["by_radius"]
    )


def test_of_equal_classes_none_is_named():
    accuracy = np.array([0.1, *[0.5] * 4])
    said = study_findings.on_data(_of([_drawn(run, accuracy) for run in plan(study())]), "pgd20")
    assert [row[:2] for row in said[1:3]] == [("weak class: cat", "100 %"), ("classes of equal rank", "4")]


def test_what_seeds_have_in_common_is_not_taken_for_the_classes():
    """Orders that differ from seed to seed and not from setting to setting."""
    orders = np.random.default_rng(0).permuted(np.tile(ORDER, (3, 1)), axis=1)
    settings = product({"architecture": AXES["architecture"], "radius": AXES["radius"], "seed": AXES["seed"]})
    of = study(axes={name: AXES[name] for name in ("architecture", "radius", "seed")}, runs=settings)
    found = _of([_drawn(run, orders[run.config.train.seed]) for run in plan(of)])
    said = study_findings.on_data(found, "pgd20")[1]
    assert found["agreement"]["w"] > 0.9
    assert (said.what, said.verdict) == ("seeds", "caution")


def test_levels_of_one_name_are_told_apart_by_their_axis():
    axes = {
        "nesterov": {"off": {"optimizer.nesterov": False}, "on": {"optimizer.nesterov": True}},
        "decay": {"off": {"optimizer.weight_decay": 0.0}, "on": {"optimizer.weight_decay": 1e-3}},
    }
    runs = [_drawn(run, ORDER) for run in plan(study(axes=axes, runs=product(axes)))]
    labels = [row["label"] for row in _of(runs)["settings"]]
    assert labels == ["nesterov off, decay off", "decay on", "nesterov on", "nesterov on, decay on"]


def _drawn(run, accuracy, names=NAMES, same_images=False) -> observed.Observed:
    """A run that meets these accuracies exactly, at two checkpoints; `same_images` are robust in every run."""
    count = np.full(len(names), IMAGES)
    correct = np.round(IMAGES * np.asarray(accuracy)).astype(int)
    clean = np.maximum(correct, IMAGES // 2)
    natural = run.config.objective.name == "standard"
    radius = 0.0 if natural else run.config.attack.radius
    labels, rng = (
        np.repeat(np.arange(len(names)), IMAGES),
        np.random.default_rng(0 if same_images else zlib.crc32(run.name.encode())),
    )
    robust = np.concatenate([rng.permutation(IMAGES) < k for k in correct])
    return observed.Observed(
        **{"run": run, "natural": natural, "radius": radius, "classes": tuple(names), "count": count},
        **{"correct": correct, "clean": clean, "epochs": ((1, correct, clean), (2, correct, clean))},
        images=(np.arange(labels.size), labels, robust),
    )


def _of(runs) -> dict:
    """The answers of one data set, as the page is given them."""
    return files.nullable(answers.of_data("", runs, {}, "pgd20") | {"published": [], "interventions": []})
