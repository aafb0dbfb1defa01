"""How a study is shown: sentences, and study.html with its figures and tables."""

import csv
import io
import pathlib

from jaxrobust import files, pages
from jaxrobust.figures import study as figures_study
from jaxrobust.pages import price_list as price_list_pages
from jaxrobust.pages import study_explain, study_interventions

PAGE = "study.html"
DATA = "study.json"
NAMED = 4  # classes that a sentence names
_LEVEL = 0.05


def sentences(answer: dict) -> list[str]:
    """What was found, a sentence for each finding, with its interval; all data sets after each other."""
    found = []
    for of in answer["data"]:
        prefix = f"{of['name']}: " if of["name"] else ""
        found += [prefix + sentence for sentence in findings(of, answer["attack"]) + _why(of)]
    if remedies := answer["price_list"]:
        found += on_remedies(remedies)
    if answer["done"] < answer["planned"]:
        missing = answer["planned"] - answer["done"]
        found.append(f"{missing} of {answer['planned']} runs are missing; all this is of the other {answer['done']}.")
    return found


def findings(of: dict, attack: str) -> list[str]:
    """The findings on one data set."""
    makers = (_on_agreement, _on_classes, _on_published, _on_components, _on_axes, _on_widening, _on_radius, _on_epochs)
    found = [sentence for maker in makers if (sentence := maker(of, attack))]
    return found + study_interventions.sentences(of["interventions"], attack)


def on_remedies(price_list: dict) -> list[str]:
    """What the price list says, or why there is none."""
    if "error" in price_list:
        return [f"The remedies cannot be compared: {price_list['error']}"]
    return price_list_pages.conclusion(price_list)


def _why(of: dict) -> list[str]:
    return study_explain.sentences(of["explanations"]) if of["explanations"] else []


def _on_agreement(of: dict, attack: str) -> str:
    found = of["agreement"]
    if found is None or found["w"] is None:
        return ""
    n = len(found["settings"])
    level = "alike" if found["p_value"] < _LEVEL else "no more alike than chance would"
    low, high = found["interval"]
    return (
        f"{n} adversarially trained settings order classes {level}: Kendall's W is {found['w']:.2f} "
        f"[{low:.2f}, {high:.2f}], p = {pages.p_value(found['p_value'])} under {attack}; rank correlations of two "
        f"settings have a median of {found['median_correlation']:.2f} and are at least "
        f"{found['least_correlation']:.2f}."
    )


def _on_classes(of: dict, attack: str) -> str:
    if of["agreement"] is None:
        return ""
    weakest = sorted(of["agreement"]["classes"], key=lambda row: row["mean_rank"])[:NAMED]
    named = ", ".join(f"{row['name']} ({100 * row['worst_in']:.0f} %)" for row in weakest)
    return f"The weakest classes by mean rank, and in how many of the settings each is the worst: {named}."


def _on_published(of: dict, attack: str) -> str:
    rows = [row for row in of["published"] if row["correlation"] is not None and None not in row["settings"]]
    said = [
        f"{row['correlation']:.2f} [{row['interval'][0]:.2f}, {row['interval'][1]:.2f}] with {row['source']} "
        f"(p = {pages.p_value(row['p_value'])}; single settings {row['settings'][0]:.2f} to {row['settings'][1]:.2f})"
        for row in rows
    ]
    start = "The rank correlation of the classes, by their means over settings, with what others published is"
    return f"{start} {'; '.join(said)}." if said else ""


def _on_components(of: dict, attack: str) -> str:
    found = of["components"]
    if found is None or "missing" in found:
        return ""
    largest = sorted(found["share"], key=lambda name: -found["share"][name])[:3]
    named = ", ".join(f"{name} {100 * found['share'][name]:.0f} %" for name in largest)
    said = f"Most of the variance of class accuracies goes with: {named}."
    if (order := found["explained_by_class_order"]) is not None:
        low, high = found["explained_interval"]
        said += (
            f" Of the differences between the classes of a run {100 * order:.0f} % "
            f"[{100 * low:.0f}, {100 * high:.0f}] are the same in all runs."
        )
    return said


def _on_axes(of: dict, attack: str) -> str:
    # Without Holm's correction: of tests that rest on few runs each, it would leave none.
    changing = [f"{row['axis']} (p = {pages.p_value(row['p_profile'])})" for row in of["axes"] if _is_sure(row)]
    others = [row for row in of["axes"] if not _is_sure(row)]
    blind = [f"{row['axis']} ({row['runs']} runs)" for row in others if row["least_p"] >= _LEVEL]
    same = [f"{row['axis']} (p = {pages.p_value(row['p_profile'])})" for row in others if row["least_p"] < _LEVEL]
    parts = [f"changes with {', '.join(changing)}"] if changing else []
    parts += [f"was not found to change with {', '.join(same)}"] if same else []
    parts += [f"cannot be tested of {', '.join(blind)}, too few for any p below {_LEVEL:g}"] if blind else []
    if not parts:
        return ""
    tests = "permutation tests, not corrected for their number"
    return f"Which classes are weak, and by how much, {'; '.join(parts)} ({tests})."


def _is_sure(row: dict) -> bool:
    return row["p_profile"] < _LEVEL


def _on_widening(of: dict, attack: str) -> str:
    found = of["widening"]
    if found is None:
        return ""
    gap, cv, clean = found["own"]["gap"], found["own"]["cv"], found["clean"]["gap"]
    return (
        f"From natural to adversarial training the gap between best and worst class, each in the accuracy that it is "
        f"trained for, goes from {pages.percent(gap['natural'])} to {pages.percent(gap['adversarial'])} points: "
        f"{pages.points(gap['change'])} {pages.interval(gap['interval'])}, p = {pages.p_value(gap['p_value'])}; in "
        f"relation to the average (coefficient of variation) from {cv['natural']:.2f} to {cv['adversarial']:.2f}; in "
        f"clean accuracy alone it changes by {pages.points(clean['change'])} {pages.interval(clean['interval'])} "
        f"({found['settings']} settings, {found['pairs']} pairs of runs)."
    )


def _on_radius(of: dict, attack: str) -> str:
    if of["radius"] is None:
        return ""
    gap = of["radius"]["figures"]["gap"]
    slope = gap["slope"] / 255
    ends = None if None in gap["interval"] else tuple(end / 255 for end in gap["interval"])
    grows = ("grows" if slope > 0 else "shrinks") if gap["p_value"] < _LEVEL else "does not change significantly"
    blind = f", too few for any p below {_LEVEL:g}" if gap["least_p"] >= _LEVEL else ""
    return (
        f"With the radius of the training the gap {grows}: {pages.points(slope)} points per 1/255 "
        f"{pages.interval(ends)}, p = {pages.p_value(gap['p_value'])}, {of['radius']['runs']} runs{blind}."
    )


def _on_epochs(of: dict, attack: str) -> str:
    robust = [kind for kind in of["epochs"] if not kind["natural"]]
    if not robust:
        return ""
    found = robust[0]
    return (
        f"Over adversarial training the gap goes from {pages.percent(found['gap'][0])} points at epoch "
        f"{found['epochs'][0]} to {pages.percent(found['gap'][-1])} at epoch {found['epochs'][-1]} "
        f"(mean of {found['runs']} runs)."
    )


def write(folder, answer: dict) -> pathlib.Path:
    """Write study.html, study.json, a CSV of each table and each figure as SVG and PNG; returns the page's path."""
    folder = pathlib.Path(folder)
    drawn = {}
    for number, of in enumerate(answer["data"]):
        stem = f"-{of['name'] or 'all'}" if len(answer["data"]) > 1 else ""
        drawn[number] = {}
        for name, figure in _figures(of, answer["attack"]):
            drawn[number][name] = pages.write_figure(folder, f"{name}{stem}", figure)
        files.write_atomically(folder / f"classes{stem}.csv", classes_csv(of))
        if of["interventions"]:
            path = folder / f"interventions{stem}.csv"
            files.write_atomically(path, study_interventions.to_csv(of["interventions"]))
        if of["explanations"]:
            files.write_atomically(folder / f"explain{stem}.csv", study_explain.to_csv(of["explanations"]))
    remedies = None
    if (found := answer["price_list"]) and "error" not in found:
        remedies = folder / "price-list"
        remedies.mkdir(exist_ok=True)
        price_list_pages.write(remedies, found)
    files.write_atomically(folder / DATA, files.to_json(answer))
    page = answer | {
        "figures": drawn,
        "findings": [findings(of, answer["attack"]) for of in answer["data"]],
        "sentences": sentences(answer),
        "why": [_why(of) for of in answer["data"]],
        "notes": [study_explain.notes(of["explanations"]) if of["explanations"] else [] for of in answer["data"]],
        "write": study_explain.WRITE,
        "remedies": on_remedies(found) if found else [],
        "remedies_figure": pages.figure(price_list_pages.draw(found)) if remedies else "",
    }
    path = folder / PAGE
    files.write_atomically(path, pages.render(PAGE, page))
    return path


def _figures(of: dict, attack: str):
    """(name, figure) of one data set."""
    for natural, name in ((False, "robust"), (True, "natural")):
        rows = [row for row in of["settings"] if row["natural"] == natural]
        if rows:
            accuracy = [row["clean" if natural else "attacked"]["class_accuracy"] for row in rows]
            title = "natural training, clean accuracy" if natural else f"adversarial training, under {attack}"
            yield (
                f"classes-{name}",
                figures_study.class_table(accuracy, [row["label"] for row in rows], of["classes"], title),
            )
    if of["agreement"]:
        names = of["agreement"]["settings"]
        yield "correlations", figures_study.correlations(of["agreement"]["correlations"], names, "rank correlation")
    if of["components"] and "missing" not in of["components"]:
        yield "variance", figures_study.shares(of["components"]["share"], of["components"]["intervals"])
    if of["explanations"] and (ranking := study_explain.draw(of["explanations"])):
        yield "ranking", ranking
    epochs = {"natural" if kind["natural"] else "adversarial": (kind["epochs"], kind["gap"]) for kind in of["epochs"]}
    radii = None
    if of["radius"]:
        rows = of["radius"]["figures"]["gap"]["by_radius"]
        radii = [255 * row["radius"] for row in rows], [row["mean"] for row in rows]
    if epochs or radii:
        yield "gap", figures_study.discrepancy(epochs, radii)
    if of["interventions"]:
        yield "interventions", figures_study.changes(of["interventions"], f"accuracy under {attack}")


def classes_csv(of: dict) -> str:
    """A line per setting and class: seeds, accuracy clean and under attack, as fractions."""
    axes = list(of["settings"][0]["levels"])
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*axes, "seeds", "class", "clean accuracy", "accuracy under attack"])
    for row in of["settings"]:
        for c, name in enumerate(of["classes"]):
            accuracies = [row[kind]["class_accuracy"][c] for kind in ("clean", "attacked")]
            writer.writerow([*row["levels"].values(), row["seeds"], name, *accuracies])
    return buffer.getvalue()
