"""Sentences, tables and page of a price list."""

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


def test_sentences_follow_from_the_numbers():
    helps, pgd, cost, training, scope = price_list_pages.conclusion(_figures(*STUDY))
    assert helps.startswith("Under standard, 3 of 6 methods help the worst class beyond chance (at 5 %, Holm's")
    assert "cfa (+8.0 points [5.0, 11.0]), wat (+6.0" in helps and "1 hurts it: frl (-5.0" in helps
    assert "Only moves PGD: fake (+12.0 points under pgd20, +1.0 under standard)" in pgd
    assert "Seen under standard and not under pgd20: quiet (helps)." in pgd
    assert cost.startswith("2 cost average accuracy under standard: frl (-4.0 points, without a significant gain")
    assert "wat (-3.0 points, 0.50 points per point that the worst class gains under standard)" in cost
    assert "learnt (+20.0 points)" in training
    assert scope == "Intervals and tests cover the draw of the 1,000 test images and that of the training seeds."


def test_sentences_where_nothing_differs():
    helps, pgd, cost, scope = price_list_pages.conclusion(_figures(_row("one", 0.0, 0.0, 0.0, seeds=1)))
    assert helps.startswith("Under standard, none of 1 method helps the worst class beyond chance")
    assert pgd == "pgd20 would have given the same verdict on the worst class of each."
    assert cost == "None costs average accuracy under standard significantly."
    assert "training seed is NOT covered for all methods" in scope


def test_sentence_without_pgd():
    _, pgd, *_ = price_list_pages.conclusion(_figures(STUDY[0], pgd=None))
    assert pgd.startswith("All were scored under no PGD beside standard")


def test_thirty_methods_fit_on_a_terminal():
    rows = [_row(f"logit_adjustment tau={i}", 0.01 * i - 0.15, 0.0, 0.1) for i in range(30)]
    shown = _shown(_figures(*rows)).splitlines()
    assert len(shown) <= 2 * 30 + 25 and max(map(len, shown)) <= 160
    assert all(any(f"tau={i} " in line for line in shown) for i in range(30))


def test_page_is_whole_and_defines_its_columns(tmp_path):
    figures = _figures(*STUDY, notes=["plus is left out: why not."])
    page = Page(price_list_pages.write(tmp_path, figures))
    assert not (page.open or page.misnested or page.outside) and len(page.ids) == len(set(page.ids))
    for sentence in (*price_list_pages.conclusion(figures), *figures["notes"]):
        assert sentence in page.text
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
