"""Findings, tables and page of a price list."""

import io

from rich.console import Console
from test_report import Page

from jaxrobust.comparison import trade_off
from jaxrobust.comparison.differences import HELPS, HURTS, NO_DIFFERENCE
from jaxrobust.reports import price_list as price_list_pages

BASE = {"worst": 0.2, "average": 0.5}


def _of(accuracy, difference, verdict, **more):
    around = None if difference is None else [difference - 0.03, difference + 0.03]
    tested = {"p_value": 0.01, "p_holm": 0.02, "significant": verdict not in (None, NO_DIFFERENCE)}
    return {
        "accuracy": accuracy,
        "interval": [accuracy - 0.05, accuracy + 0.05],
        "difference": difference,
        "difference_interval": around,
        **(tested if verdict else dict.fromkeys(tested)),
        "verdict": verdict,
        **more,
    }


def _verdict(difference):
    if difference is None or abs(difference) < 0.03:
        return None if difference is None else NO_DIFFERENCE
    return HELPS if difference > 0 else HURTS


def _row(name, worst=None, average=None, pgd=None, training=0.0, seeds=3):
    """A method by its differences under the suite, and of the worst class under PGD."""
    classes = [{"name": "cat", "seeds": seeds}]
    attacks = {}
    for attack, gain in (("pgd20", pgd), ("standard", worst)):
        attacks[attack] = {
            "average": _of(BASE["average"] + (average or 0), average, _verdict(average)),
            "worst": _of(BASE["worst"] + (gain or 0), gain, _verdict(gain), classes=classes),
            "rho": None if gain is None else 0.1,
        }
    row = {
        "name": name,
        "is_base": worst is None,
        "differs": {} if worst is None else {"remedy.name": name},
        "seeds": list(range(seeds)),
        "pairs": 0 if worst is None else seeds,
        "covers_seeds": seeds >= 3,
        "runs": [
            {"workdir": f"runs/{name}-{i}", "seed": i, "step": 9, "epoch": 3, "weights": "raw", "checkpoint": "best"}
            for i in range(seeds)
        ],
        "attacks": attacks,
        "speed": {"images_per_second": 100.0, "relative": 1.0},
        "training": {"worst_class_accuracy": 0.4 + training, "worst_class": "cat", "difference": training},
        "pareto": False,
    }
    row["verdicts"] = trade_off.verdicts_of(attacks, "standard", "pgd20")
    row["cost_per_point"] = trade_off.cost_per_point_of(attacks["standard"])
    return row


def _figures(*rows, **changes):
    return {
        "base": "pgd_at",
        "judge": "standard",
        "pgd": "pgd20",
        "split": "test",
        "examples": 1000,
        "classes": 10,
        "confidence": 0.95,
        "level": 0.05,
        "min_seeds": 3,
        "attacks": ["pgd20", "standard"],
        "methods": [_row("pgd_at"), *rows],
        "notes": [],
    } | changes


STUDY = (
    _row("cfa", 0.08, 0.0, 0.08),
    _row("wat", 0.06, -0.03, 0.06),
    _row("fake", 0.01, 0.0, 0.12),
    _row("quiet", 0.05, 0.0, 0.01),
    _row("learnt", 0.0, 0.0, 0.0, training=0.2),
    _row("frl", -0.05, -0.04, -0.05),
)


def _shown(figures, width=160):
    console = Console(file=io.StringIO(), width=width)
    for title, table in price_list_pages.tables(figures):
        console.print(title)
        console.print(table)
    return console.file.getvalue()


def test_findings_follow_from_the_numbers():
    rows = [tuple(row) for row in price_list_pages.findings(_figures(*STUDY))]
    found = {row[0]: row[1:] for row in rows}
    assert found["methods that help the worst class"][0] == "3 of 6"
    assert found["cfa"] == ("+8.0", "[5.0, 11.0]", "helps", "") and found["frl"][2] == "hurts"
    assert found["fake"] == ("+1.0", "[-2.0, 4.0]", "only moves PGD", "+12.0 under pgd20")
    assert found["quiet"][2:] == ("helps", "PGD misses the gain: +1.0 under pgd20")
    assert found["other verdicts by pgd20 alone"][0] == "2 of 6"
    assert found["methods that cost average accuracy under standard"][0] == "2 of 6"
    assert (
        found["frl: average under standard"][0] == "-4.0"
        and "no significant gain" in found["frl: average under standard"][3]
    )
    assert found["wat: average under standard"][3] == "0.50 per point of the worst class"
    assert found["learnt: worst class in training"][0] == "+20.0"
    assert found["scope"][0] == "1,000 images" and not found["scope"][2] and "training seeds" in found["scope"][3]


def test_findings_where_nothing_differs():
    found = price_list_pages.findings(_figures(_row("one", 0.0, 0.0, 0.0, seeds=1)))
    assert [row.value for row in found] == ["0 of 1", "0 of 1", "0 of 1", "1,000 images"]
    assert found[-1].verdict == "caution" and "not covered for all methods" in found[-1].note


def test_findings_without_pgd():
    found = {row.what: row for row in price_list_pages.findings(_figures(STUDY[0], pgd=None))}
    assert found["verdicts by PGD"].verdict == "caution"


def test_thirty_methods_fit_on_a_terminal():
    rows = [_row(f"logit_adjustment tau={i}", 0.01 * i - 0.15, 0.0, 0.1) for i in range(30)]
    shown = _shown(_figures(*rows)).splitlines()
    assert len(shown) <= 2 * 30 + 25 + 20 and max(map(len, shown)) <= 160
    assert all(any(f"tau={i} " in line for line in shown) for i in range(30))


def test_page_is_whole_and_defines_its_columns(tmp_path):
    figures = _figures(*STUDY, notes=["plus is left out: why not."])
    page = Page(price_list_pages.write(tmp_path, figures))
    assert not (page.open or page.misnested or page.outside) and len(page.ids) == len(set(page.ids))
    assert all(list(row) in page.rows for row in price_list_pages.findings(figures))
    assert figures["notes"][0] in page.text
    verdicts = [row for row in page.rows if len(row) == 14]
    assert [row[0] for row in verdicts] == ["method", "pgd_at (base)", *(row["name"] for row in STUDY)]
    cfa, fake = verdicts[2], verdicts[4]
    assert cfa[5] == "+8.0* [5.0, 11.0]" and cfa[7:9] == ["helps", "helps"] and cfa[11] == "0.00"
    assert fake[7:10] == ["no difference", "helps", "only moves PGD"]
    for word in ("rho", "cost per point", "in training", "Pareto", "interval", "speed"):
        assert f"<dt>{word}</dt>" in page.source
    assert "runs/wat-2" in page.text and "remedy.name = wat" in page.text


def test_hostile_names(tmp_path):
    figures = _figures(_row("<script>alert(1)</script>", 0.0, 0.0, 0.0), _row("[bold]", 0.0, 0.0, 0.0))
    assert Page(price_list_pages.write(tmp_path, figures)).scripts == 1
    assert "[bold]" in _shown(figures)
