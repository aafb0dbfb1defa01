import re

import numpy as np
import pytest
from hypothesis import given, strategies as st
from rich.table import Table

from jaxrobust import classwise_table, console, reports
from jaxrobust.errors import FieldError, UserError
from jaxrobust.formatting import clean
from jaxrobust.reports import tables

# Clears the screen; C1; DEL; turns the writing round; another line; a lone surrogate.
HOSTILE = "cat\x1b[2J\x9b1m\x7f\u202eten\u2066\nerror: all is well\r\udce9"
ACTIVE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def test_a_log_file_gets_share_rate_and_time_left(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress("training", total=1000, unit="images", done=200) as advance:
        for _ in range(4):
            advance(100)
    first, second = capsys.readouterr().err.splitlines()
    # 200 images in 31 s, 600 left; then 400 in 62 s, 400 left.
    assert first == "training: 40%, 6.5 images/s, 1:33 left"
    assert second == "training: 60%, 6.5 images/s, 1:02 left"


@pytest.mark.parametrize("seconds, text", [(5, "0:05"), (65.4, "1:05"), (3600, "1:00:00"), (36061, "10:01:01")])
def test_durations(seconds, text):
    assert console.duration(seconds) == text


def test_messages_are_not_markup_and_not_folded(capsys):
    console.say("[b]class[/b] " + 300 * "x")
    console.warn("[/b]")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "[b]class[/b] " + 300 * "x" and second == "warning: [/b]"


def show(value) -> None:
    """By all ways to the terminal."""
    table = tables.Table([tables.Column("class", 0)], [[value]], title=value)
    rich = Table(title=value)
    rich.add_column(value)
    rich.add_row(value)
    for renderable in (table, rich):
        console.show(renderable)
    for write in (console.say, console.warn, console.fail, console.result):
        write(value)
    with console.progress(value, 1, value) as advance:
        advance(1)


@pytest.mark.parametrize("hostile", [HOSTILE, *(f"a{c}b" for c in "\x00\x07\x1b\x85\x9d\u2029\u061c"), "[/b] [red]x"])
def test_whatever_is_printed_is_cleaned(hostile, capsys, monkeypatch):
    monkeypatch.setattr(console, "LINE_SECONDS", -1)
    show(hostile)
    said = capsys.readouterr()
    assert not any(line.startswith("error: all is well") for line in (said.err + said.out).splitlines())
    try:
        raise ValueError(hostile)
    except ValueError:
        console.bug()
    assert not ACTIVE.search((said.err + said.out + capsys.readouterr().err).replace("\n", ""))


def test_whatever_is_written_for_people_is_cleaned():
    of_classes = classwise_table([0, 0, 1], np.array([True, False, True]), [HOSTILE, "dog"])
    texts = [
        *(str(of_classes), of_classes._repr_html_()),
        reports.to_csv(["class"], [[HOSTILE]]),
        str(UserError(HOSTILE)),
        str(FieldError("workdir", HOSTILE, HOSTILE, HOSTILE)),
        reports.render("macros.html", {}),
    ]
    assert not any(ACTIVE.search(text) for text in texts) and "cat" in texts[0]


@given(st.text())
def test_a_cleaned_text_is_one_printable_line_and_stays_as_it_is(text):
    assert not ACTIVE.search(clean(text)) and "\n" not in clean(text) and clean(clean(text)) == clean(text)
    if text.isprintable():
        assert clean(text) == text


def test_names_in_any_language_stay(capsys):
    names = "Kätzchen 貓 кот Γάτα \u06af\u0631\u0628\u0647\u200c\u0647\u0627 👩\u200d🔬 $5 [b]"
    console.say(names)
    assert capsys.readouterr().err == names + "\n"
