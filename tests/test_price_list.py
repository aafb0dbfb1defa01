"""The trade-off table: its figures by hand, its statistics, and the command with its files and errors."""

import csv
import json
import pathlib
import re

import numpy as np
import pytest
from compared_runs import NAMES, SETTINGS, write

from jaxrobust import classwise, config as config_lib
from jaxrobust.commands import front_end
from jaxrobust.comparison import differences, methods, pairs as paired_runs, trade_off
from jaxrobust.comparison.pairs import compare_runs
from jaxrobust.errors import UserError
from jaxrobust.runs import results

LABELS = np.repeat([0, 1, 2], 400)
SUITE = SETTINGS | {"steps": None}


def robust(rates, number):
    """The first images of each class but for some that the number draws: seeds that differ a little."""
    rng = np.random.default_rng(number)
    rank = np.tile(np.arange(400), 3)
    noise = rng.random(LABELS.size) < 0.02
    return (rank < 400 * np.repeat(rates, 400)) ^ noise


@pytest.fixture
def make(tmp_path):
    def make(name, seed, pgd, suite=None, fields=(), rate=1000.0, train=(0.5, 0.6, 0.7), validation=False, **options):
        """A run whose classes are robust at those rates under pgd20 and under `standard`."""
        workdir = tmp_path / f"{name}-{seed}"
        for split in ("test", "validation") if validation else ("test",):
            write(workdir, robust(pgd, seed), labels=LABELS, split=split, **options)
            if suite is not None:
                _add(workdir, "standard", robust(pgd, seed) & robust(suite, seed), split=split, **options)
        config = config_lib.default()
        config.update_from_flattened_dict({"train.seed": seed, **dict(fields)})
        (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
        for epoch, speed in enumerate((1.0, rate, rate, 3 * rate), 1):
            line = {"epoch": epoch, "images_per_second": speed, "train_class_accuracy": train}
            results.append_training(workdir, line)
        return str(workdir)

    return make


def _add(workdir, attack, right, names=NAMES, labels=LABELS, members=("apgd_ce",), split="test", **_):
    prediction = np.where(right, labels, (labels + 1) % len(names))
    shared = {"step": 100, "epoch": 1, "weights": "raw", "split": split, "attack": attack, "class_names": names}
    shared |= {"labels": labels, "prediction": prediction, "clean_prediction": labels, "passes": 1.0, "idle": 0.0}
    results.append(workdir, results.make_record(**shared, seconds=1.0, members=members, **SUITE))
    arrays = {attack: prediction == labels, f"{attack}_prediction": prediction}
    results.add_examples(workdir, 100, "raw", split, arrays)


@pytest.fixture
def study(make):
    """Three seeds each: a base, one that helps, one that only moves PGD, one that costs, one that is alike."""
    rows = {
        "base": ((0.4, 0.7, 0.8), (0.3, 0.6, 0.7), {}),
        "helps": ((0.6, 0.7, 0.8), (0.5, 0.6, 0.7), {"remedy.name": "reweight"}),
        "fakes": ((0.6, 0.8, 0.9), (0.3, 0.6, 0.7), {"remedy.name": "ldam"}),
        "costs": ((0.5, 0.55, 0.6), (0.45, 0.5, 0.5), {"remedy.name": "resample"}),
        "alike": ((0.4, 0.7, 0.8), (0.3, 0.6, 0.7), {"remedy.name": "robust_lt"}),
    }
    return [
        make(name, seed, pgd, suite, fields.items(), rate=500.0 if name == "costs" else 1000.0, validation=True)
        for seed in (2, 0, 1)
        for name, (pgd, suite, fields) in rows.items()
    ]


def _rows(figures):
    return {row["name"]: row for row in figures["methods"]}


@pytest.mark.parametrize(
    "worst, average, rho",
    [(25.84, 44.68, 0.11), (27.62, 50.78, 0.32), (30.53, 49.05, 0.42)],
)
def test_rho_of_published_accuracies(worst, average, rho):
    """TRADES with FRL, CFA and DAFA under AutoAttack, ResNet-18 on CIFAR-10: Lee et al. (ICLR 2024)."""
    assert differences.rho(21.31, worst, 49.80, average) == pytest.approx(rho, abs=0.005)


def test_rho_without_a_base_is_none_and_of_the_base_zero():
    assert differences.rho(0.0, 0.2, 0.5, 0.5) is None
    assert differences.rho(0.2, 0.2, 0.5, 0.5) == 0


def test_pareto_front_is_what_nothing_beats():
    points = [[1, 1], [2, 0], [0, 3], [1, 0.5], [1, 1], [0, 2]]
    assert differences.pareto_front(points).tolist() == [True, True, True, False, True, False]


def test_verdicts_of_a_study(study):
    figures = trade_off.trade_off(study)
    assert (figures["base"], figures["judge"], figures["pgd"]) == ("pgd_at", "standard", "pgd20")
    assert figures["attacks"] == ["clean", "pgd20", "standard"] and figures["notes"] == []
    rows = _rows(figures)
    assert [row["name"] for row in figures["methods"][:3]] == ["pgd_at", "reweight", "resample"]
    assert {name: row["verdicts"]["judge"] for name, row in rows.items()} == {
        "pgd_at": None,
        "reweight": differences.HELPS,
        "resample": differences.HELPS,
        "ldam": differences.NO_DIFFERENCE,
        "robust_lt": differences.NO_DIFFERENCE,
    }
    assert rows["ldam"]["verdicts"]["disagreement"] == trade_off.ONLY_PGD
    assert rows["reweight"]["verdicts"]["disagreement"] is None
    for row in figures["methods"]:
        assert row["seeds"] == [0, 1, 2] and row["covers_seeds"]
    helped, costly = (rows[name]["attacks"]["standard"] for name in ("reweight", "resample"))
    assert helped["worst"]["difference"] == pytest.approx(0.2, abs=0.02)
    assert helped["worst"]["classes"] == [{"name": "cat", "seeds": 3}]
    assert costly["average"]["verdict"] == differences.HURTS and rows["reweight"]["cost_per_point"] == 0
    lost, gained = costly["average"]["difference"], costly["worst"]["difference"]
    assert rows["resample"]["cost_per_point"] == pytest.approx(-lost / gained)
    base = rows["pgd_at"]["attacks"]["standard"]
    assert helped["rho"] == pytest.approx(
        differences.rho(*(of[f]["accuracy"] for f in ("worst", "average") for of in (base, helped)))
    )
    assert [rows[name]["pareto"] for name in ("pgd_at", "reweight", "resample")] == [False, True, False]
    assert rows["resample"]["speed"] == {"images_per_second": 500.0, "relative": 0.5}
    assert rows["resample"]["training"] == {"worst_class_accuracy": 0.5, "worst_class": "cat", "difference": 0.0}
    for row in figures["methods"][1:]:
        for of in row["attacks"].values():
            for figure in (of["average"], of["worst"]):
                low, high = figure["difference_interval"]
                assert low <= figure["difference"] <= high and figure["p_holm"] >= figure["p_value"]
    json.dumps(figures, allow_nan=False)


def test_order_of_the_runs_does_not_matter(study):
    figures = trade_off.trade_off(study)
    again = trade_off.trade_off([study[0], *study[:0:-1]])
    assert again == figures


def test_one_pair_is_the_comparison_of_two(study):
    """The trade-off table of single seeds holds the figures of `compare`, and no verdict, as seeds are not covered."""
    base, other, third = study[0], study[1], study[2]
    row = _rows(trade_off.trade_off([base, other, third]))["reweight"]
    of_two = compare_runs(base, other)["attacks"]
    assert not row["covers_seeds"]
    for attack, of in row["attacks"].items():
        for name in ("average", "worst"):
            assert of[name]["difference"] == pytest.approx(of_two[attack][name]["difference"])
            np.testing.assert_allclose(of[name]["difference_interval"], of_two[attack][name]["interval"], atol=1e-9)
            assert of[name]["verdict"] == "too few seeds (1) to say" and not of[name]["significant"]
            assert of[name]["p_value"] is of[name]["p_holm"] is None
        assert of["worst"]["interval"] == pytest.approx(of_two[attack]["worst"]["b"]["interval"])


def test_two_seeds_have_no_verdict_and_take_no_level_from_the_others(study):
    """However large the gain: two runs of one config may differ by as much."""
    few = [run for run in study if not pathlib.Path(run).name.startswith("helps-2")]
    rows = _rows(trade_off.trade_off(few))
    verdicts = {row["verdicts"][role] for role in ("judge", "pgd") for row in [rows["reweight"]]}
    assert verdicts == {"too few seeds (2) to say"} and rows["reweight"]["verdicts"]["disagreement"] is None
    worst = {name: row["attacks"]["standard"]["worst"] for name, row in rows.items()}
    assert worst["reweight"]["difference"] > 0.15 and not worst["reweight"]["significant"]
    assert worst["resample"]["verdict"] == differences.HELPS
    all_methods = _rows(trade_off.trade_off(study))["resample"]["attacks"]["standard"]["worst"]
    assert worst["resample"]["p_holm"] / worst["resample"]["p_value"] < all_methods["p_holm"] / all_methods["p_value"]


def test_all_that_a_page_stars_is_corrected_together(study):
    """Half of the level is for the worst class under the attack that decides, half for the other five figures."""
    figures = trade_off.trade_off(study)
    rows, numbers = (
        figures["methods"][1:],
        {True: len(figures["methods"]) - 1, False: 5 * (len(figures["methods"]) - 1)},
    )
    figure_of = [
        (of, name == "worst" and attack == "standard")
        for row in rows
        for attack, both in row["attacks"].items()
        for name, of in both.items()
        if name != "rho"
    ]
    expected = classwise.holm_correction(
        [of["p_value"] for of, _ in figure_of], [1 / numbers[decides] for _, decides in figure_of]
    )
    np.testing.assert_allclose([of["p_holm"] for of, _ in figure_of], expected)
    assert all(of["significant"] == (of["p_holm"] <= 0.05) for of, _ in figure_of)
    assert {tuple(map(tuple, of["named"])) for of, decides in figure_of if decides} >= {(("cat",), ("cat",))}


def test_changed_heads_are_paired_with_the_run_they_come_from(make):
    """By its folder, whatever the seeds; their spread over seeds is that of heads of one checkpoint."""
    base = [make("base", seed, (0.4, 0.7, 0.8), (0.3, 0.6, 0.7)) for seed in (0, 1, 2)]
    heads = []
    for seed, folder in zip((7, 8, 9), reversed(base), strict=True):
        head = make("head", seed, (0.5, 0.7, 0.8), (0.4, 0.6, 0.7), {"posthoc.remedy": "tau_norm"}.items())
        origin = {"remedy": "tau_norm", "run": folder, "weights": "raw", "step": 100, "settings": {}, "chosen": {}}
        pathlib.Path(head, results.ORIGIN).write_text(json.dumps(origin))
        heads.append(head)
    found = methods.group(paired_runs.open_runs([*base, *heads], None))
    pairs = methods.pair(*found)
    assert [(a.workdir.name, b.workdir.name) for a, b in pairs] == [
        ("base-2", "head-7"),
        ("base-1", "head-8"),
        ("base-0", "head-9"),
    ]
    assert all(methods.comes_from(b, a) for a, b in pairs) and not methods.comes_from(pairs[0][1], pairs[1][0])
    row = _rows(trade_off.trade_off([*base, *heads]))["posthoc tau_norm"]
    assert row["pairs"] == 3 and row["covers_seeds"]


def test_attacks_may_be_chosen(study):
    figures = trade_off.trade_off(study, attacks=("pgd20",))
    assert (figures["attacks"], figures["judge"], figures["pgd"]) == (["pgd20"], "pgd20", None)
    assert all(row["verdicts"]["disagreement"] is None for row in figures["methods"])
    once = re.escape(f"attack = 'plus': not scored, or without results per image, in {study[0]};")
    with pytest.raises(UserError, match=once):
        trade_off.trade_off(study, attacks=("plus",))


def test_without_a_suite_the_strongest_attack_judges(make, tmp_path):
    workdirs = [make(f"m{i}", 0, (0.4, 0.7, 0.8), None, {"remedy.begin": 0.1 * i}.items()) for i in range(3)]
    for workdir in workdirs:
        _add(tmp_path / pathlib.Path(workdir).name, "cw20", robust((0.3, 0.7, 0.8), 0), members=None)
    figures = trade_off.trade_off(workdirs)
    assert (figures["judge"], figures["pgd"]) == ("cw20", "pgd20")
    figures = trade_off.trade_off(workdirs, attacks=("clean", "pgd20"))
    assert (figures["judge"], figures["pgd"]) == ("pgd20", None)


def test_seeds_and_images_that_are_not_alike_are_noted(make):
    base = [make("base", seed, (0.4, 0.7, 0.8), (0.3, 0.6, 0.7)) for seed in (0, 1)]
    helps = [
        make("helps", seed, (0.6, 0.7, 0.8), (0.5, 0.6, 0.7) if seed else None, {"remedy.name": "ldam"}.items())
        for seed in (0, 1, 7)
    ]
    part = make("part", 5, (0.4, 0.7, 0.8), None, {"remedy.name": "reweight"}.items(), subset=np.arange(0, 1200, 2))
    figures = trade_off.trade_off([*base, *helps, part])
    assert figures["examples"] == 600 and figures["judge"] == "pgd20" and figures["attacks"] == ["clean", "pgd20"]
    images, suite, ldam, reweight, names = figures["notes"]
    assert images == "Of up to 1,200 images that a run was scored on, 600 are common to all."
    assert (
        suite.startswith("standard is left out: not scored, or without results per image, in")
        and "(and 1 more)" in suite
    )
    assert ldam.startswith("ldam: 2 of its 3 seeds could be paired")
    assert reweight == "reweight: seed 5 of it paired with others of the base."
    assert names.startswith("No validation results of the base name a worst class")


def test_what_cannot_be_compared_is_refused(make, study, tmp_path):
    with pytest.raises(UserError, match="given twice"):
        trade_off.trade_off([*study, study[3]])
    with pytest.raises(UserError, match="all are seeds of one config, pgd_at"):
        trade_off.trade_off(study[::5])
    other = make("other", 9, (0.4, 0.7, 0.8), fields={"remedy.name": "ldam"}.items(), names=("cat", "dog", "elk"))
    with pytest.raises(UserError, match="class 2 is 'deer' and 'elk'"):
        trade_off.trade_off([*study[:3], other])
    for path in (tmp_path / "helps-0" / results.EXAMPLES).iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"helps-0.*no results per image"):
        trade_off.trade_off(study)
    assert paired_runs.open_runs(study, None)[0].split == "test"


def test_runs_that_are_alike_are_rarely_called_different(make):
    """Eight methods that do nothing, three seeds each that differ by chance: none is significant."""

    def chance(seed):
        rng = np.random.default_rng(100 + seed)
        return tuple(np.array([0.4, 0.6, 0.7]) + 0.03 * rng.normal(size=3))

    tried = [("base", {})] + [(f"m{i}", {"remedy.begin": 0.1 * (i + 1)}) for i in range(8)]
    workdirs = [
        make(name, seed, chance(10 * i + seed), fields=fields.items())
        for i, (name, fields) in enumerate(tried)
        for seed in range(3)
    ]
    figures = trade_off.trade_off(workdirs)
    assert {row["verdicts"]["judge"] for row in figures["methods"][1:]} == {differences.NO_DIFFERENCE}


def test_command(study, tmp_path, capsys):
    assert front_end.main(["compare", *study]) == 0
    shown = capsys.readouterr()
    folder = tmp_path / "base-2" / "price-list"
    assert shown.out.strip() == str(folder / "price_list.html")
    said = " ".join(shown.err.split())
    assert "methods that help the worst class 2 of 4" in said and re.search(r"reweight \+\S+ \[[^]]*\] helps", said)
    assert re.search(r"ldam \S+ \[[^]]*\] only moves PGD", said) and "resample: average under standard -" in said
    assert "scope 1,200 images" in said
    assert max(map(len, shown.err.splitlines()[:20])) <= 160
    assert json.loads((folder / "price_list.json").read_text()) == trade_off.trade_off(study)
    assert {path.name for path in folder.iterdir()} == {
        "price_list.html",
        "price_list.json",
        "price_list.csv",
        "average-against-worst.svg",
        "average-against-worst.png",
    }
    rows = list(csv.DictReader((folder / "price_list.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == list(_rows(trade_off.trade_off(study)))
    assert rows[1]["standard verdict"] == "helps" and float(rows[1]["standard worst difference"]) > 0.15
    assert rows[0]["standard worst difference"] == "" and None not in rows[1]
    assert rows[1]["standard worst verdict"] == "helps" and rows[1]["standard worst significant"] == "True"


@pytest.mark.parametrize(
    "option", [("--step_a", "3"), ("--step_b", "3"), ("--attack", "nothing"), ("--split", "train")]
)
def test_errors_are_one_line(study, option, capsys):
    assert front_end.main(["compare", *study, *option]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and len(shown.err.splitlines()) == 1 and option[0] in shown.err
