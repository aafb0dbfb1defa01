"""Sentences, tables and page of a price list."""

import io

from parsed_page import Page
from price_list_figures import STUDY, figures_of, row
from rich.console import Console

from jaxrobust.reports import price_list as price_list_pages


def _shown(figures, width=160):
    console = Console(file=io.StringIO(), width=width)
    for title, table in price_list_pages.tables(figures):
        console.print(title)
        console.print(table)
    return console.file.getvalue()


def test_sentences_follow_from_the_numbers():
    helps, pgd, cost, training, scope = price_list_pages.conclusion(figures_of(*STUDY))
    assert helps.startswith("Under standard, 3 of 6 methods help the worst class beyond chance (at 5 %, Holm's")
    assert "cfa (+8.0 points [5.0, 11.0]), wat (+6.0" in helps and "1 hurts it: frl (-5.0" in helps
    assert "Only moves PGD: fake (+12.0 points under pgd20, +1.0 under standard)" in pgd
    assert "Seen under standard and not under pgd20: quiet (helps)." in pgd
    assert cost.startswith("2 cost average accuracy under standard: frl (-4.0 points, without a significant gain")
    assert "wat (-3.0 points, 0.50 points per point that the worst class gains under standard)" in cost
    assert "learnt (+20.0 points)" in training
    assert scope == "Intervals and tests cover the draw of the 1,000 test images and that of the training seeds."


def test_sentences_where_nothing_differs():
    helps, pgd, cost, scope = price_list_pages.conclusion(figures_of(row("one", 0.0, 0.0, 0.0, seeds=1)))
    assert helps.startswith("Under standard, none of 1 method helps the worst class beyond chance")
    assert pgd == "pgd20 would have given the same verdict on the worst class of each."
    assert cost == "None costs average accuracy under standard significantly."
    assert "training seed is NOT covered for all methods" in scope


def test_sentence_without_pgd():
    _, pgd, *_ = price_list_pages.conclusion(figures_of(STUDY[0], pgd=None))
    assert pgd.startswith("All were scored under no PGD beside standard")


def test_thirty_methods_fit_on_a_terminal():
    rows = [row(f"logit_adjustment tau={i}", 0.01 * i - 0.15, 0.0, 0.1) for i in range(30)]
    shown = _shown(figures_of(*rows)).splitlines()
    assert len(shown) <= 2 * 30 + 25 and max(map(len, shown)) <= 160
    assert all(any(f"tau={i} " in line for line in shown) for i in range(30))


def test_page_is_whole_and_defines_its_columns(tmp_path):
    figures = figures_of(*STUDY, notes=["plus is left out: why not."])
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
    figures = figures_of(row("<script>alert(1)</script>", 0.0, 0.0, 0.0), row("[bold]", 0.0, 0.0, 0.0))
    assert Page(price_list_pages.write(tmp_path, figures)).scripts == 1
    assert "[bold]" in _shown(figures)
