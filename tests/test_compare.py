"""Two runs on disk compared: the right checkpoints, images and attacks, known numbers, and errors in one line."""

import json

import numpy as np
import pytest
from compared_runs import LABELS, NAMES, ROBUST_A, ROBUST_B, SETTINGS, write

from jaxrobust.classwise import classwise_table
from jaxrobust.commands import front_end
from jaxrobust.comparison.compare import compare as compare_verdicts
from jaxrobust.comparison.pairs import compare_runs
from jaxrobust.errors import FieldError, UserError
from jaxrobust.reports.run import write_report
from jaxrobust.runs import results


@pytest.fixture
def runs(tmp_path):
    return write(tmp_path / "plain", ROBUST_A), write(tmp_path / "remedied", ROBUST_B)


def test_numbers_by_hand(runs):
    figures = compare_runs(*runs)
    of = figures["attacks"]["pgd20"]
    assert figures["headline"] == "pgd20" and figures["examples"] == 100 and figures["notes"] == []
    cat, dog, deer = of["classes"]
    assert (cat["a"], cat["b"], cat["only_a"], cat["only_b"], cat["difference"]) == (0.25, 0.625, 0, 15, 0.375)
    # Half of the level is for three classes under two attacks.
    assert cat["p_value"] == pytest.approx(2**-14) and cat["p_holm"] == pytest.approx(2 * 6 * 2**-14)
    assert (dog["only_a"], dog["only_b"], dog["difference"]) == (1, 3, pytest.approx(0.05))
    assert dog["p_value"] == pytest.approx(0.625) and dog["p_holm"] == 1
    assert (deer["only_a"], deer["only_b"], deer["p_value"]) == (1, 0, 1)
    assert [row["significant"] for row in of["classes"]] == [True, False, False]
    for row in of["classes"]:
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]
    assert of["average"]["a"] == pytest.approx(0.6) and of["average"]["difference"] == pytest.approx(0.16)
    assert (of["average"]["only_a"], of["average"]["only_b"]) == (2, 18)
    assert of["worst"]["a"]["classes"] == ["cat"] and of["worst"]["b"]["classes"] == ["cat"]
    low, high = of["worst"]["interval"]
    # No class of A is near its cats, so the upper end is near that of the cats by themselves; B's may all be its worst.
    assert of["worst"]["difference"] == 0.375 and low < 0.25 and high == pytest.approx(cat["interval"][1], abs=0.05)
    assert of["worst"]["significant"] == (low > 0)
    assert of["worst"]["a"]["candidates"] == [{"name": "cat", "probability": 1.0}]
    assert [c["name"] for c in of["worst"]["b"]["candidates"]] == ["cat", "dog", "deer"]
    clean = figures["attacks"]["clean"]
    assert clean["average"]["difference"] == 0 and clean["average"]["p_value"] == 1
    json.dumps(figures, allow_nan=False)


def test_validation_names_the_worst_class(runs):
    """Of each run; of a run without validation results any class may be, and the interval is wider."""
    wide = compare_runs(*runs)["attacks"]["pgd20"]["worst"]
    assert wide["named"] == {"a": None, "b": None}
    write(runs[0], ROBUST_A, split="validation")
    half = compare_runs(*runs)["attacks"]["pgd20"]["worst"]
    assert half["named"] == {"a": ["cat"], "b": None}
    assert half["interval"][0] > wide["interval"][0] and half["interval"][1] == wide["interval"][1]
    write(runs[1], ROBUST_B, split="validation")
    of = compare_runs(*runs)["attacks"]["pgd20"]["worst"]
    assert of["named"] == {"a": ["cat"], "b": ["cat"]}
    named = compare_verdicts(LABELS, ROBUST_A, ROBUST_B, NAMES, worst_a="cat", worst_b=0).worst
    assert of["interval"] == [named.low, named.high] and of["p_value"] <= half["p_value"] <= wide["p_value"]
    with pytest.raises(FieldError, match="worst_a = 'elk': is not a class; give one of cat, dog, deer"):
        compare_verdicts(LABELS, ROBUST_A, ROBUST_B, NAMES, worst_a="elk")


def test_swapping_the_runs_mirrors_the_figures(runs):
    forth, back = (compare_runs(*pair)["attacks"]["pgd20"] for pair in (runs, runs[::-1]))
    for x, y in [
        (forth["average"], back["average"]),
        (forth["worst"], back["worst"]),
        *zip(*map(_rows, (forth, back)), strict=True),
    ]:
        assert x["difference"] == pytest.approx(-y["difference"])
        np.testing.assert_allclose(x["interval"], [-end for end in y["interval"][::-1]], atol=1e-12)


def _rows(of):
    return of["classes"]


def test_images_are_paired_by_their_index(runs, tmp_path):
    """The order of one run is another, and it lacks images: the common ones are compared."""
    subset = np.random.default_rng(0).permutation(100)[:60]
    part = write(tmp_path / "part", ROBUST_B, subset=subset)
    figures = compare_runs(runs[0], part)
    assert figures["examples"] == 60
    assert "Of the 100 images that A was scored on, 60 are common to both." in figures["notes"]
    only_b = (ROBUST_B & ~ROBUST_A)[subset].sum()
    assert figures["attacks"]["pgd20"]["average"]["only_b"] == only_b
    same = compare_runs(write(tmp_path / "again", ROBUST_A, subset=subset), part)
    assert same["attacks"] == figures["attacks"] and same["notes"] == []


def test_a_class_without_images_is_left_out(tmp_path):
    subset = np.arange(80)  # no deer
    pair = [write(tmp_path / name, s, subset=subset) for name, s in (("a", ROBUST_A), ("b", ROBUST_B))]
    deer = compare_runs(*pair)["attacks"]["pgd20"]["classes"][2]
    assert (deer["examples"], deer["a"], deer["difference"], deer["p_holm"], deer["significant"]) == (
        0,
        *[None] * 3,
        False,
    )


def test_checkpoints_are_the_best_or_the_last_or_given(runs):
    a, b = runs
    for step in (200, 300):
        write(a, ROBUST_A, step=step)
        write(a, ROBUST_A, step=step, weights="averaged")

    def chosen(**options):
        of = compare_runs(a, b, **options)["a"]
        return of["step"], of["weights"], of["checkpoint"]

    assert chosen() == (300, "averaged", "last")
    best = {"step": 200, "epoch": 2, "weights": "averaged", "criterion": "sum", "score": 0.6}
    (a / results.BEST).write_text(json.dumps(best))
    assert chosen() == (200, "averaged", "best")
    assert chosen(weights="raw") == (200, "raw", "given")
    assert chosen(step_a=100) == (100, "raw", "given")
    assert chosen(step_a=300) == (300, "averaged", "given")
    with pytest.raises(UserError, match=r"^step_a = 150: .* give one of 100, 200, 300"):
        chosen(step_a=150)
    with pytest.raises(UserError, match=r"^weights = 'averaged'.*remedied"):
        chosen(weights="averaged")
    assert compare_runs(a, a, step_b=300)["b"]["step"] == 300
    with pytest.raises(UserError, match="same checkpoint"):
        compare_runs(a, a)


def test_raw_weights_beside_averaged_ones_are_said(runs):
    """Unless they are of a head that was changed after training."""
    a, b = runs
    write(b, ROBUST_B, weights="averaged")
    (note,) = compare_runs(a, b)["notes"]
    assert str(a) in note and str(b) not in note and "weights = raw" in note
    assert compare_runs(a, b, weights="raw")["notes"] == []
    origin = {"remedy": "tau_norm", "run": "x", "weights": "raw", "step": 1, "settings": {}, "chosen": {}}
    results.ORIGIN.write(a, origin)
    assert compare_runs(a, b)["notes"] == []


def test_split_is_one_that_both_have(runs):
    a, b = runs
    write(a, ROBUST_A, split="validation")
    write(b, ROBUST_B, split="validation")
    assert compare_runs(a, b)["split"] == "test"
    assert compare_runs(a, b, split="validation")["split"] == "validation"
    lines = [line for line in (a / results.RESULTS).read_text().splitlines() if '"test"' not in line]
    (a / results.RESULTS).write_text("\n".join(lines) + "\n")
    assert compare_runs(a, b)["split"] == "validation"
    with pytest.raises(UserError, match=r"split = 'test': .* has no results of it; give one of validation"):
        compare_runs(a, b, split="test")


def test_attacks_of_one_name_and_other_settings_are_not_compared(tmp_path):
    a = write(tmp_path / "a", ROBUST_A, cw20=SETTINGS, own=SETTINGS)
    b = write(tmp_path / "b", ROBUST_B, cw20=SETTINGS | {"eps": 4 / 255})
    figures = compare_runs(a, b)
    assert list(figures["attacks"]) == ["clean", "pgd20"]
    different, lacking = figures["notes"]
    assert different.startswith("cw20 is left out: another attack in either run, with eps 0.03")
    assert lacking == f"own is left out: not scored, or without results per image, in {b}."
    with pytest.raises(UserError, match=r"^attack = 'cw20': another attack"):
        compare_runs(a, b, attacks=("cw20",))
    assert list(compare_runs(a, b, attacks=("pgd20",))["attacks"]) == ["pgd20"]


def test_a_suite_comes_before_its_last_member(tmp_path):
    members = {"standard/apgd_ce": SETTINGS, "standard": SETTINGS}
    pair = [write(tmp_path / name, s, **members) for name, s in (("a", ROBUST_A), ("b", ROBUST_B))]
    assert compare_runs(*pair, attacks=("standard/apgd_ce", "standard"))["headline"] == "standard"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"names": ("cat", "dog", "elk")}, "class 2 is 'deer' and 'elk'"),
        ({"names": (*NAMES, "elk")}, "3 and 4 classes"),
        ({"labels": LABELS[::-1]}, "labels of 80 of 100 images differ"),
    ],
)
def test_other_data_sets_are_refused(runs, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        compare_runs(runs[0], write(tmp_path / "other", ROBUST_B, **changes))


def test_disjoint_subsets_and_missing_results_are_refused(runs, tmp_path):
    first = write(tmp_path / "first", ROBUST_A, subset=np.arange(50))
    second = write(tmp_path / "second", ROBUST_B, subset=np.arange(50, 100))
    with pytest.raises(UserError, match="no image of the test split was scored in both"):
        compare_runs(first, second)
    for path in (runs[1] / results.EXAMPLES).iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no results per image"):
        compare_runs(*runs)


def test_data_sets_of_other_names_are_noted(runs):
    for run, name in zip(runs, ("tfds:cifar10", "npz:photos"), strict=True):
        (run / "config.json").write_text(json.dumps({"data": {"name": name}, "train": {"epochs": 1, "seed": 0}}))
    assert "different names, tfds:cifar10 and npz:photos" in compare_runs(*runs)["notes"][0]


def test_command(runs, capsys):
    a, b = map(str, runs)
    assert front_end.main(["compare", a, b]) == 0
    shown = capsys.readouterr()
    folder = runs[1] / "compare-plain"
    assert shown.out.strip() == str(folder / "compare.html")
    assert "classes that differ" in shown.err and "training seed is not covered" in shown.err
    stored = json.loads((folder / "compare.json").read_text())
    assert stored == compare_runs(a, b)
    assert {path.name for path in folder.iterdir()} == {
        "compare.html",
        "compare.json",
        *(f"differences-{attack}.{kind}" for attack in ("clean", "pgd20") for kind in ("svg", "png")),
    }


def test_command_writes_where_it_is_told(runs, tmp_path, capsys):
    folder = tmp_path / "some" / "where"
    assert front_end.main(["compare", *runs, "--attack", "pgd20", "--out", str(folder)]) == 0
    assert not (folder / "differences-clean.svg").exists() and (folder / "differences-pgd20.svg").exists()
    (tmp_path / "file").write_text("")
    assert front_end.main(["compare", *runs, "--out", str(tmp_path / "file" / "x")]) == 2
    assert "--out" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments", [[], ["one"], ["absent", "absent"], ["a", "b", "--weights", "mean"], ["a", "b", "--at"]]
)
def test_errors_are_one_line(arguments, capsys):
    assert front_end.main(["compare", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1 and shown.err.startswith("error: ")


def test_the_library_gives_the_numbers_of_the_commands(runs):
    """On the stored arrays of a run: those of results.jsonl, classes.json, and compare.json."""
    for run in runs:
        write_report(run)
        arrays = results.read_examples(run, 100, "raw", "test")
        table = classwise_table(arrays["labels"], arrays["pgd20"], NAMES)
        (record,) = [record for record in results.read(run) if record["attack"] == "pgd20"]
        assert json.loads(json.dumps(table.to_record())).items() <= record.items()
        of = json.loads((run / results.CLASSES).read_text())["attacks"]["pgd20"]
        assert (list(table.interval), table.worst_record()) == (of["interval"], of["worst"])
        assert table.balanced_interval == tuple(of["balanced_interval"])
    found = compare_verdicts(LABELS, ROBUST_A, ROBUST_B, NAMES)
    stored = compare_runs(*runs, attacks=("pgd20",))["attacks"]["pgd20"]
    assert found.to_json() == stored
    for row, expected in zip(found.rows(), stored["classes"], strict=True):
        assert [row["low"], row["high"]] == expected["interval"] and row["p_holm"] == expected["p_holm"]
