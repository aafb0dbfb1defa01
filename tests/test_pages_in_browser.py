"""The pages in a real browser: figures are seen, tables sort, nothing is loaded from elsewhere, all fits the window."""

import html
import json
import re
import shutil
import subprocess

import compared_figures
import drawn_study
import numpy as np
import price_list_figures
import pytest
import reported_runs

from jaxrobust.explanations import PROBES
from jaxrobust.explanations.measuring import rank
from jaxrobust.reports import (
    compare as compare_pages,
    explain as explain_pages,
    price_list as price_list_pages,
    run as run_page,
    study as study_pages,
)
from jaxrobust.studies import answers

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium or google-chrome")

DESKTOP, PHONE = 1300, 400  # widths in CSS pixels

BEFORE = """<script>
const errors = [];
window.onerror = (message, source, line) => { errors.push(`${message} (line ${line})`); };
</script>"""

# Inserted while the page loads, the frame holds up the end of loading, which the browser waits for.
AFTER = """<script>
const source = document.documentElement.outerHTML;
const tooWide = of => {
  const width = of.documentElement.clientWidth;
  if (of.documentElement.scrollWidth <= width) return [];
  const beyond = e => e.getBoundingClientRect().right > width + 0.5 && !e.closest(".scroll");
  return [`${of.documentElement.scrollWidth} > ${width}`, ...[...of.body.querySelectorAll("*")].filter(beyond)
    .slice(0, 5).map(e => e.outerHTML.slice(0, 80))];
};
document.querySelectorAll("details").forEach(details => { details.open = true; });
const seen = { errors, width: innerWidth, wide: tooWide(document), tables: [] };
seen.requested = performance.getEntriesByType("resource").map(entry => entry.name);
seen.images = [...document.querySelectorAll("img, svg")].map(image => {
  const box = image.getBoundingClientRect();
  return [box.width, box.height, image.complete === false || image.naturalWidth === 0];
});
for (const table of document.querySelectorAll("table.sortable")) {
  const state = header => ({
    rows: [...table.tBodies[0].rows].map(row => row.cells[header.cellIndex].dataset.value),
    marked: [...table.querySelectorAll("th")].map(th => th.getAttribute("aria-sort")),
    column: header.cellIndex, text: header.classList.contains("text"),
  });
  const given = table.querySelector("th[aria-sort]");
  seen.tables.push({ given: given && state(given), clicked: [...table.querySelectorAll("th button")].map(button =>
    [1, 2].map(() => { button.click(); return state(button.closest("th")); })) });
}
const frame = document.createElement("iframe");
frame.style.cssText = "border: 0; height: 800px; width: WIDTHpx";
frame.onload = () => {
  seen.phone = { width: frame.contentWindow.innerWidth, wide: tooWide(frame.contentDocument) };
  const result = document.createElement("pre");
  result.textContent = JSON.stringify(seen);
  document.body.replaceChildren(result);
};
frame.srcdoc = source.replaceAll(/<script>[^]*?<\\/script>/g, "");
document.body.append(frame);
</script>""".replace("WIDTH", str(PHONE))


def _study(folder):
    study, rng = drawn_study.study(), np.random.default_rng(0)
    planned = drawn_study.plan(study)
    for run in planned[:-1]:
        drawn_study.write(folder, run, rng)
    return study_pages.write(folder, answers.answer(study, planned, folder))


def _explain(folder):
    """Three runs in which some probes follow robustness, some do not, and one is known for a single run."""
    rng, classes = np.random.default_rng(0), 12
    robustness = np.linspace(0.1, 0.8, classes) + 0.05 * rng.random((3, classes))
    values = {name: list(robustness * (-1) ** n + 0.1 * n * rng.random((3, classes))) for n, name in enumerate(PROBES)}
    values["breaking_radius"] = [robustness[0], None, None]
    run = {"step": 3, "epoch": 3, "weights": "raw", "checkpoint": "best", "facts": {"data": "digits", "model": "cnn"}}
    run |= {"training_images": 100, "test_images": 240, "test_is_scored": True, "left_out": {"head_norm": "no head"}}
    runs = [
        run
        | {"workdir": f"runs/{name}", "name": name, "count": [20] * classes, "robustness": of.tolist()}
        | {"correct": (20 * of).round().tolist()}
        for name, of in zip(("plain", "remedied", "wide"), robustness, strict=True)
    ]
    about = {"unit": "run", "attack": "pgd20", "split": "test", "confidence": 0.95, "level": 0.05}
    about |= {"standard": None, "other": None}
    figures = about | {"classes": [f"class {c}" for c in range(classes)], "runs": runs}
    return explain_pages.write(folder, figures | rank(values, robustness))


def _compare(folder):
    return compare_pages.write(folder, compared_figures.simulated(50, gain=(-0.3, 0.4)))


def _price_list(folder):
    by_gain = sorted(price_list_figures.STUDY, key=lambda row: -row["attacks"]["standard"]["worst"]["difference"])
    return price_list_pages.write(folder, price_list_figures.figures_of(*by_gain))


def _report(folder):
    reported_runs.write_run(folder, standard=reported_runs.SUITE)
    return run_page.write_report(folder)


PAGES = {"study": _study, "explain": _explain, "compare": _compare, "price_list": _price_list, "report": _report}


@pytest.fixture(scope="module", params=PAGES)
def seen(request, tmp_path_factory):
    """What the browser finds on a page."""
    folder = tmp_path_factory.mktemp(request.param)
    page = PAGES[request.param](folder).read_text()
    # Not </body>: that would also be found in a script.
    head, end = page.index("<head>") + len("<head>"), page.rindex("</body>")
    (folder / "tried.html").write_text(page[:head] + BEFORE + page[head:end] + AFTER + page[end:])
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    options += [f"--window-size={DESKTOP},900", "--dump-dom", (folder / "tried.html").as_uri()]
    done = subprocess.run([BROWSER, *options], capture_output=True, text=True, timeout=180)
    found = re.search("<pre>(.*)</pre>", done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def test_scripts_run_and_nothing_is_loaded(seen):
    assert seen["errors"] == [] and seen["requested"] == []


def test_every_figure_is_seen(seen):
    assert seen["images"]
    for width, height, broken in seen["images"]:
        assert width > 100 and height > 50 and not broken


def test_nothing_but_tables_is_wider_than_the_window(seen):
    assert (seen["width"], seen["phone"]["width"]) == (DESKTOP, PHONE)
    assert seen["wide"] == [] and seen["phone"]["wide"] == []


def is_sorted(state) -> bool:
    """Whether the values that are there are, by the direction that the header tells."""
    descending = state["marked"][state["column"]] == "descending"
    filled = [value for value in state["rows"] if value != ""]
    key = (lambda text: text.casefold().replace("_", " ")) if state["text"] else float
    return filled == sorted(filled, key=key, reverse=descending)


def test_tables_sort(seen):
    assert seen["tables"]
    for table in seen["tables"]:
        if table["given"]:
            assert is_sorted(table["given"])
        assert table["clicked"]
        for column, states in enumerate(table["clicked"]):
            directions = {state["marked"][column] for state in states}
            assert directions == {"ascending", "descending"}
            for state in states:
                assert state["column"] == column and len(state["rows"]) > 1
                assert sum(mark is not None for mark in state["marked"]) == 1
                assert sorted(state["rows"]) == sorted(states[0]["rows"]) and is_sorted(state)
                assert "" not in state["rows"] or set(state["rows"][state["rows"].index("") :]) == {""}
