"""Findings, tables and page of a price list."""

import io

from parsed_page import Page
from price_list_figures import STUDY, figures_of, method_row
from rich.console import Console

from jaxrobust.reports import price_list as price_list_pages


def _shown(figures, width=160):
    console = Console(file=io.StringIO(), width=width)
    for title, table in price_list_pages.tables(figures):
        console.print(title)
        console.print(table)
    return console.file.getvalue()


def test_findings_follow_from_the_numbers():
    rows = [tuple(row) for row in price_list_pages.findings(figures_of(*STUDY))]
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
    found = price_list_pages.findings(figures_of(method_row("one", 0.0, 0.0, 0.0, seeds=1)))
    assert [row.value for row in found] == ["0 of 1", "0 of 1", "0 of 1", "1,000 images"]
    assert found[0].verdict == "too few seeds (1) to say"
    assert found[-1].verdict == "caution" and "no verdict on all methods" in found[-1].note


def test_findings_without_pgd():
    found = {row.what: row for row in price_list_pages.findings(figures_of(STUDY[0], pgd=None))}
    assert found["verdicts by PGD"].verdict == "caution"


def test_thirty_methods_fit_on_a_terminal():
    rows = [method_row(f"logit_adjustment tau={i}", 0.01 * i - 0.15, 0.0, 0.1) for i in range(30)]
    shown = _shown(figures_of(*rows)).splitlines()
    assert len(shown) <= 2 * 30 + 25 + 20 and max(map(len, shown)) <= 160
    assert all(any(f"tau={i} " in line for line in shown) for i in range(30))


def test_page_is_whole_and_defines_its_columns(tmp_path):
    figures = figures_of(*STUDY, notes=["plus is left out: why not."])
    page = Page(price_list_pages.write(tmp_path, figures))
    assert not (page.open or page.misnested or page.outside) and len(page.ids) == len(set(page.ids))
    assert all(list(row) in page.rows for row in price_list_pages.findings(figures))
    assert figures["notes"][0] in page.text
    verdicts = [row for row in page.rows if len(row) == 14]
    ranked = sorted(STUDY, key=lambda row: -row["attacks"]["standard"]["worst"]["difference"])
    assert [row[0] for row in verdicts] == ["method", "pgd_at (base)", *(row["name"] for row in ranked)]
    cfa, fake = verdicts[2], verdicts[5]
    assert cfa[5] == "+8.0 * [5.0, 11.0]" and cfa[7:9] == ["helps", "helps"] and cfa[11] == "0.00"
    assert fake[7:10] == ["no difference", "helps", "only moves PGD"]
    for word in ("rho", "cost per point", "in training", "Pareto", "interval", "speed"):
        assert f"<dt>{word}</dt>" in page.source
    assert "runs/wat-2" in page.text and "remedy.name = wat" in page.text


def test_the_front_is_named_behind_a_verdict_or_alone(tmp_path):
    figures = figures_of(*STUDY[:2])
    for row in figures["methods"]:
        row["pareto"] = True
    page = Page(price_list_pages.write(tmp_path, figures))
    assert {row[7] for row in page.rows if len(row) == 14} == {"verdict", "Pareto", "helps, Pareto"}


def test_hostile_names(tmp_path):
    figures = figures_of(method_row("<script>alert(1)</script>", 0.0, 0.0, 0.0), method_row("[bold]", 0.0, 0.0, 0.0))
    assert Page(price_list_pages.write(tmp_path, figures)).scripts == 1
    assert "[bold]" in _shown(figures)
