"""Output of a study: conclusions in sentences, and study.html with its figures and tables."""

import math
import pathlib

from jaxrobust import files, formatting, reports
from jaxrobust.figures import study as figures_study
from jaxrobust.reports import price_list as price_list_pages
from jaxrobust.reports import study_explain, study_interventions

PAGE = "study.html"
DATA = "study.json"
NAMED = 4  # classes that a sentence names
_LEVEL = 0.05
_BLIND = f", no p below {_LEVEL:g} being possible"


def sentences(answer: dict) -> list[str]:
    """What was found, a sentence for each finding, with its interval; all data sets after each other."""
    found = []
    for of in answer["data"]:
        prefix = f"{of['name']}: " if of["name"] else ""
        found += [prefix + sentence for sentence in findings(of, answer["attack"]) + _why(of)]
    if remedies := answer["price_list"]:
        found += on_remedies(remedies)
    if answer["done"] < answer["planned"]:
        found.append(f"{missing(answer)}; all this is of the other {answer['done']}.")
    return found


def missing(answer: dict) -> str:
    """How many runs are not done."""
    number = answer["planned"] - answer["done"]
    return f"{number} of {formatting.counted(answer['planned'], 'run')} {'is' if number == 1 else 'are'} missing"


def findings(of: dict, attack: str) -> list[str]:
    """The findings on one data set."""
    makers = (_on_agreement, _on_classes, _on_published, _on_components, _on_axes, _on_widening, _on_radius, _on_epochs)
    found = [sentence for maker in makers if (sentence := maker(of, attack))]
    return found + study_interventions.sentences(of["interventions"], attack)


def on_remedies(price_list: dict) -> list[str]:
    """What the price list says, or why there is none."""
    if "error" in price_list:
        return [f"The remedies cannot be compared: {price_list['error']}"]
    said = price_list_pages.conclusion(price_list)
    if price_list["settings"] > 1:
        said.append(
            f"That is of one of {price_list['settings']} settings with remedies alone: {price_list['setting']}."
        )
    return said


def _why(of: dict) -> list[str]:
    return study_explain.sentences(of["explanations"]) if of["explanations"] else []


def _on_agreement(of: dict, attack: str) -> str:
    found = of["agreement"]
    if found is None:
        return _on_one_setting([row for row in of["settings"] if not row["natural"]], of["classes"], attack)
    n, classes = len(found["settings"]), len(of["classes"])
    if found["w"] is None:
        return f"Under {attack} the classes are equal in each of {n} adversarially trained settings, so have no order."
    sure = found["p_value"] < _LEVEL
    # Of orders that have nothing in common, so many are the same.
    blind = math.factorial(min(classes, 20)) ** (1 - n) >= _LEVEL
    low, high = found["interval"]
    said = (
        f"{n} adversarially trained settings {'order' if sure else 'were not found to order'} classes more alike than "
        f"chance would: Kendall's W under {attack} is {found['w']:.2f} [{low:.2f}, {high:.2f}], where unrelated orders "
        f"give {1 / n:.2f} on average, p = {formatting.p_value(found['p_value'])}"
    )
    said += _BLIND if blind else ""
    if (median := found["median_correlation"]) is not None:
        write, least = study_explain.WRITE["correlation"], found["least_correlation"]
        said += (
            f"; rank correlations of two settings have a median of {write(median)} and are at least {write(least)}"
            if n > 2
            else f"; their rank correlation is {write(median)}"
        )
    return f"{said}.{_on_shared_seeds(of) if sure else ''}"


def _on_shared_seeds(of: dict) -> str:
    """A caution where what settings have in common is rather the seeds than the classes."""
    ceiling, shares = of["agreement"]["ceiling"], (of["components"] or {}).get("share", {})
    above = ceiling is not None and of["agreement"]["w"] > ceiling
    if above and shares.get("class x seed", 0.0) > shares.get("class", 1.0):
        return " But settings share their seeds and their test images, which alone can bring that about."
    return ""


def _on_one_setting(settings: list[dict], classes: list[str], attack: str) -> str:
    if not settings:
        return "No adversarially trained run is done, so nothing is said of the robustness of classes."
    (row,) = settings
    figures = row["attacked"]
    return (
        f"One adversarially trained setting is done ({formatting.counted(row['seeds'], 'seed')}), so there is no other "
        f"to compare the order of its classes with; under {attack} the weakest is {classes[figures['worst_class']]}, "
        f"with {formatting.percent(figures['worst_class_accuracy'])} %."
    )


def _on_classes(of: dict, attack: str) -> str:
    if of["agreement"] is None or of["agreement"]["w"] is None:
        return ""
    by_rank = sorted(of["agreement"]["classes"], key=lambda row: row["mean_rank"])
    number = min(NAMED, len(by_rank) - 1)
    weakest, left_out = by_rank[:number], [row["mean_rank"] for row in by_rank[number:]]
    tied = 0
    if weakest[-1]["mean_rank"] == left_out[0]:  # naming some of several equal classes would be arbitrary
        weakest = [row for row in weakest if row["mean_rank"] < left_out[0]]
        tied = sum(row["mean_rank"] == left_out[0] for row in by_rank)
    named = [f"{row['name']} ({100 * row['worst_in']:.0f} %)" for row in weakest]
    named += [f"then {tied} classes of equal rank" if named else f"{tied} classes of equal rank"] if tied else []
    shared = sum(row["worst_in"] for row in by_rank) > 1 + 1e-9
    equal = " Where several are equally weak, each counts." if shared else ""
    start = "The weakest classes by mean rank, and in how many of the settings each is the worst:"
    return f"{start} {', '.join(named)}.{equal}"


def _on_published(of: dict, attack: str) -> str:
    correlation, interval = study_explain.WRITE["correlation"], study_explain.WRITE["interval"]
    said = []
    for row in of["published"]:
        if row["correlation"] is not None and None not in row["settings"]:
            some = f"{row['classes']} classes, " if row["classes"] < len(of["classes"]) else ""
            least, most = map(correlation, row["settings"])
            said.append(
                f"{correlation(row['correlation'])} {interval(row['interval'])} with {row['source']} "
                f"({some}p = {formatting.p_value(row['p_value'])}; single settings {least} to {most})"
            )
    start = "The rank correlation of the classes, by their means over settings, with what others published is"
    return f"{start} {'; '.join(said)}." if said else ""


def _on_components(of: dict, attack: str) -> str:
    found = of["components"]
    if found is None or "missing" in found:
        return ""
    largest = sorted(found["share"], key=lambda name: -found["share"][name])[:3]
    shares = [(name, found["share"][name], found["intervals"][name]) for name in largest]
    named = ", ".join(f"{name} {_share(*figures)}" for name, *figures in shares if figures[0] >= 0.005)
    said = f"The largest shares of the variance of class accuracies, with intervals over classes: {named}."
    if (order := found["explained_by_class_order"]) is not None:
        share = _share(order, found["explained_interval"])
        said += f" Of the differences between the classes of a run {share} are the same in all runs."
    return said


def _share(value: float, ends) -> str:
    # None where a class left out leaves nothing that varies. Both ends are the same where components were cut off at 0.
    known = None not in ends and ends[0] < ends[1]
    return f"{100 * value:.0f} %" + (f" [{100 * ends[0]:.0f}, {100 * ends[1]:.0f}]" if known else "")


def _on_axes(of: dict, attack: str) -> str:
    # Without Holm's correction: of tests that rest on few runs each, it would leave none.
    changing = [f"{row['axis']} (p = {formatting.p_value(row['p_profile'])})" for row in of["axes"] if _is_sure(row)]
    others = [row for row in of["axes"] if not _is_sure(row)]
    blind = [f"{row['axis']} ({row['runs']} runs)" for row in others if row["least_p"] >= _LEVEL]
    same = [f"{row['axis']} (p = {formatting.p_value(row['p_profile'])})" for row in others if row["least_p"] < _LEVEL]
    parts = [f"changes with {', '.join(changing)}"] if changing else []
    parts += [f"was not found to change with {', '.join(same)}"] if same else []
    parts += [f"cannot be tested for a change with {', '.join(blind)}{_BLIND}"] if blind else []
    if not parts:
        return ""
    tests = "permutation tests, not corrected for their number" if len(of["axes"]) > 1 else "permutation test"
    return f"Which classes are weak, and by how much, {'; '.join(parts)} ({tests})."


def _is_sure(row: dict) -> bool:
    return row["p_profile"] < _LEVEL


def _on_widening(of: dict, attack: str) -> str:
    found = of["widening"]
    if found is None:
        return ""
    gap, cv, clean = found["own"]["gap"], found["own"]["cv"], found["clean"]["gap"]
    ends = f"{formatting.percent(gap['natural'])} to {formatting.percent(gap['adversarial'])}"
    shared = "; those that share natural runs count as one" if 1 < found["settings"] != found["units"] else ""
    relative = ""
    if cv["change"] is not None:
        interval = ", ".join(formatting.decimals(end, 2) for end in cv["interval"])
        relative = (
            f"in relation to the average (coefficient of variation) from {cv['natural']:.2f} to "
            f"{cv['adversarial']:.2f}: {formatting.decimals(cv['change'], 2, '+')} [{interval}]; "
        )
    return (
        f"From natural to adversarial training the gap between best and worst class, each in the accuracy that it is "
        f"trained for, goes from {ends} points: {_changed(gap)}; {relative}in clean accuracy alone it "
        f"changes by {formatting.points(clean['change'])} {formatting.interval(clean['interval'])} "
        f"({formatting.counted(found['settings'], 'setting')}, {found['pairs']} pairs of runs{shared})."
    )


def _changed(gap: dict) -> str:
    """A change in points, its interval and its p-value."""
    blind = _BLIND if gap["least_p"] >= _LEVEL else ""
    change = f"{formatting.points(gap['change'])} {formatting.interval(gap['interval'])}"
    return f"{change}, p = {formatting.p_value(gap['p_value'])}{blind}"


def _on_radius(of: dict, attack: str) -> str:
    if of["radius"] is None:
        return ""
    gap = of["radius"]["figures"]["gap"]
    unit = of["radius"]["unit"]
    slope = gap["slope"] * unit["length"]
    low, high = gap["interval"]
    ends = "" if low is None else f" {formatting.interval((low * unit['length'], high * unit['length']))}"
    holds_zero = low is None or low <= 0 <= high
    sure, blind = gap["p_value"] < _LEVEL, gap["least_p"] >= _LEVEL
    if sure and not holds_zero:
        moves = "grows: " if slope > 0 else "shrinks: "
    elif not sure and not blind and holds_zero:
        moves = "was not found to change: "
    else:  # the test sees nothing or speaks of these settings alone, the interval of others too
        moves = "moves by "
    return (
        f"With the radius of the training the gap {moves}{formatting.points(slope)} points per {unit['name']}{ends}, "
        f"p = {formatting.p_value(gap['p_value'])}, {of['radius']['runs']} runs{_BLIND if blind else ''}."
    )


def _on_epochs(of: dict, attack: str) -> str:
    robust = [kind for kind in of["epochs"] if not kind["natural"]]
    if not robust:
        return ""
    found = robust[0]
    change = f": {_changed(found['change'])}" if found["change"] else ""
    return (
        f"Over adversarial training the gap goes from {formatting.percent(found['gap'][0])} points at epoch "
        f"{found['epochs'][0]} to {formatting.percent(found['gap'][-1])} at epoch {found['epochs'][-1]}{change} "
        f"({formatting.counted(found['settings'], 'setting')}, {formatting.counted(found['runs'], 'run')})."
    )


def write(folder, answer: dict) -> pathlib.Path:
    """Write study.html, study.json, a CSV of each table and each figure as SVG and PNG; returns the page's path."""
    folder = pathlib.Path(folder)
    drawn, written = {}, []
    for number, of in enumerate(answer["data"]):
        # By the axis and not by how many data sets are done, so that no file of an earlier summary stays behind.
        stem = f"-{of['name']}" if of["name"] else ""
        drawn[number] = {}
        for name, figure in _figures(of, answer["attack"]):
            drawn[number][name] = reports.write_figure(folder, f"{name}{stem}", figure)
            written.append(f"{name}{stem}.svg")
        for name, table in _tables(of):
            files.write_atomically(folder / f"{name}{stem}.csv", table)
            written.append(f"{name}{stem}.csv")
    remedies = None
    if (found := answer["price_list"]) and "error" not in found:
        remedies = folder / "price-list"
        remedies.mkdir(exist_ok=True)
        price_list_pages.write(remedies, found)
    files.write_atomically(folder / DATA, files.to_json(answer))
    page = answer | {
        "figures": drawn,
        "files": written,
        "findings": [findings(of, answer["attack"]) for of in answer["data"]],
        "missing": missing(answer),
        "why": [_why(of) for of in answer["data"]],
        "notes": [study_explain.notes(of["explanations"]) if of["explanations"] else [] for of in answer["data"]],
        "write": study_explain.WRITE,
        "remedies": on_remedies(found) if found else [],
        "remedies_figure": reports.figure(price_list_pages.draw(found)) if remedies else "",
    }
    path = folder / PAGE
    files.write_atomically(path, reports.render(PAGE, page))
    return path


def _figures(of: dict, attack: str):
    """(name, figure) of one data set."""
    for natural, name in ((False, "robust"), (True, "natural")):
        rows = [row for row in of["settings"] if row["natural"] == natural]
        if rows:
            accuracy = [row["clean" if natural else "attacked"]["class_accuracy"] for row in rows]
            title = "natural training, clean" if natural else f"adversarial training, under {attack}"
            title = f"accuracy of each class, {title}"
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
        unit = of["radius"]["unit"]
        radii = [row["radius"] / unit["length"] for row in rows], [row["mean"] for row in rows], unit["name"]
    if epochs or radii:
        yield "gap", figures_study.discrepancy(epochs, radii)
    if of["interventions"]:
        yield "interventions", figures_study.changes(of["interventions"], f"accuracy under {attack}")


def _tables(of: dict):
    """(name, CSV) of one data set."""
    yield "classes", classes_csv(of)
    yield "settings", settings_csv(of)
    if of["agreement"]:
        columns = list(of["agreement"]["classes"][0])
        yield "order", reports.to_csv(columns, [list(row.values()) for row in of["agreement"]["classes"]])
    if of["axes"]:
        columns = [name for name in of["axes"][0] if name != "levels"]
        rows = [[row[name] for name in columns] + [" ".join(row["levels"])] for row in of["axes"]]
        yield "axes", reports.to_csv([*columns, "levels"], rows)
    if of["interventions"]:
        yield "interventions", study_interventions.to_csv(of["interventions"])
    if of["explanations"]:
        yield "explain", study_explain.to_csv(of["explanations"])
        yield "ranking", study_explain.ranking_csv(of["explanations"])


def classes_csv(of: dict) -> str:
    """A line per setting and class: seeds, accuracy clean and under attack, as fractions."""
    header = [*of["settings"][0]["levels"], "seeds", "class", "clean accuracy", "accuracy under attack"]
    rows = []
    for row in of["settings"]:
        for c, name in enumerate(of["classes"]):
            accuracies = [row[kind]["class_accuracy"][c] for kind in ("clean", "attacked")]
            rows.append([*row["levels"].values(), row["seeds"], name, *accuracies])
    return reports.to_csv(header, rows)


def settings_csv(of: dict) -> str:
    """A line per setting: its figures without and under attack, as fractions."""
    names = ("accuracy", "worst_class_accuracy", "gap", "std", "cv", "worst_class")
    header = [*of["settings"][0]["levels"], "radius of the training", "seeds"]
    header += [f"{name.replace('_', ' ')} {kind}" for kind in ("clean", "under attack") for name in names]
    rows = []
    for row in of["settings"]:
        named = [row[kind] | {"worst_class": of["classes"][row[kind]["worst_class"]]} for kind in ("clean", "attacked")]
        figures = [figures[name] for figures in named for name in names]
        rows.append([*row["levels"].values(), row["radius"], row["seeds"], *figures])
    return reports.to_csv(header, rows)
