"""The findings of a study, from the data of `studies.answers.answer`."""

from jaxrobust.comparison.differences import too_few
from jaxrobust.formatting import counted, decimals, interval as interval_of, percent, points
from jaxrobust.reports import explain as explain_pages, findings as findings_lib, price_list as price_list_pages
from jaxrobust.reports.findings import CAUTION, NOT_SIGNIFICANT, SIGNIFICANT, UNTESTABLE, Finding, p_of, tested, under

NAMED = 4  # classes among the findings on their order
CHANGED = 3  # classes that an intervention changes, among the findings


def findings(answer: dict) -> list[Finding]:
    """What was found; all data sets after each other."""
    found = []
    for of in answer["data"]:
        prefix = f"{of['name']}: " if of["name"] else ""
        rows = on_data(of, answer["attack"]) + (_why(of["explanations"]) if of["explanations"] else [])
        found += [row._replace(what=prefix + row.what) for row in rows]
    found += on_remedies(answer["price_list"]) if answer["price_list"] else []
    if lacking := answer["planned"] - answer["done"]:
        found.append(Finding("runs missing", f"{lacking} of {answer['planned']}", verdict=CAUTION))
    return found


def on_data(of: dict, attack: str) -> list[Finding]:
    """The findings on one data set, without those of the probes."""
    found = _on_order(of, attack) + _on_published(of) + _on_components(of) + _on_axes(of)
    found += _on_widening(of) + _on_radius(of) + _on_epochs(of)
    return found + [row for effect in of["interventions"] for row in on_intervention(effect, attack)]


def _on_order(of: dict, attack: str) -> list[Finding]:
    found = of["agreement"]
    if found is None:
        return _on_one_setting([row for row in of["settings"] if not row["natural"]], of["classes"], attack)
    number = len(found["settings"])
    what = f"Kendall's W of {number} settings {under(attack)}"
    if found["w"] is None:
        return [Finding(what, verdict=UNTESTABLE, note="the classes are equal in each, so have no order")]
    verdict, ends, p = (
        findings_lib.UNCORRECTED,
        "",
        "what settings share by the same images is in it: files of examples are missing",
    )
    if found["corrected"]:
        (low, high), p = found["interval"], p_of(found["p_value"], "no common order of classes")
        ends = f"[{low:.2f}, {high:.2f}]"
        sure = low > 1 / number and found["p_value"] < findings_lib.LEVEL
        verdict = too_few(number, "setting") or (SIGNIFICANT if sure else NOT_SIGNIFICANT)
    note = f"{p}; unrelated orders give {1 / number:.2f}"
    if (median := found["median_correlation"]) is not None:
        least = f", at least {explain_pages.correlation(found['least_correlation'])}" if number > 2 else ""
        note += f"; rank correlations of two settings: median {explain_pages.correlation(median)}{least}"
    rows = [Finding(what, f"{found['w']:.2f}", ends, verdict, note)]
    shares = (of["components"] or {}).get("share", {})
    if shares.get("class x seed", 0.0) > shares.get("class", 1.0):
        note = "shared by the settings, and enough to bring about the agreement"
        rows.append(Finding("seeds", verdict=CAUTION, note=note))
    return rows + _on_weakest(found["classes"])


def _on_one_setting(settings: list[dict], classes: list[str], attack: str) -> list[Finding]:
    what = "adversarially trained settings"
    if not settings:
        return [Finding(what, "0", verdict=CAUTION, note="nothing is known of the robustness of classes")]
    (row,) = settings
    figures = row["attacked"]
    weakest, accuracy = classes[figures["worst_class"]], percent(figures["worst_class_accuracy"])
    note = f"{counted(row['seeds'], 'seed')}; no other setting to compare the order of the classes with"
    return [
        Finding(what, "1", verdict=CAUTION, note=note),
        Finding(f"weakest class: {weakest}", f"{accuracy} %", note=under(attack)),
    ]


def _on_weakest(classes: list[dict]) -> list[Finding]:
    by_rank = sorted(classes, key=lambda row: row["mean_rank"])
    number = min(NAMED, len(by_rank) - 1)
    weakest, next_rank = by_rank[:number], by_rank[number]["mean_rank"]
    tied = weakest[-1]["mean_rank"] == next_rank  # naming some of several equal classes would be arbitrary
    rows = [
        Finding(
            f"weak class: {row['name']}",
            f"{100 * row['worst_in']:.0f} %",
            note="of the settings have it as the worst class",
        )
        for row in weakest
        if not tied or row["mean_rank"] < next_rank
    ]
    if tied:
        rows.append(Finding("classes of equal rank", str(sum(row["mean_rank"] == next_rank for row in by_rank))))
    return rows


def _on_published(of: dict) -> list[Finding]:
    rows = []
    for row in of["published"]:
        if row["correlation"] is not None and None not in row["settings"]:
            least, most = map(explain_pages.correlation, row["settings"])
            note = f"{p_of(row['p_value'], 'unrelated orders of classes')}; single settings {least} to {most}"
            note += f"; {row['classes']} classes" if row["classes"] < len(of["classes"]) else ""
            values = explain_pages.correlation(row["correlation"]), explain_pages.interval(row["interval"])
            rows.append(Finding(f"rank correlation with {row['source']}", *values, tested(row["p_value"]), note))
    return rows


def _on_components(of: dict) -> list[Finding]:
    found = of["components"]
    if found is None or "missing" in found:
        return []
    verdict = "" if found["corrected"] else findings_lib.UNCORRECTED
    largest = [name for name in sorted(found["share"], key=lambda name: -found["share"][name])[:3]]
    rows = [
        Finding(
            f"variance of class accuracies: {name}", *_share(found["share"][name], found["intervals"][name]), verdict
        )
        for name in largest
        if found["share"][name] >= 0.005
    ]
    if (order := found["explained_by_class_order"]) is not None:
        share = _share(order, found["explained_interval"])
        note = "intervals cover other classes and images, not other settings and seeds"
        rows.append(Finding("differences between classes that all runs share", *share, verdict, note))
    return rows


def _share(value: float, ends) -> tuple[str, str]:
    # None where a class left out leaves nothing that varies. Both ends are the same where nothing else varies.
    known = None not in ends and ends[0] < ends[1]
    return f"{100 * value:.0f} %", f"[{100 * ends[0]:.0f}, {100 * ends[1]:.0f}]" if known else ""


def _on_axes(of: dict) -> list[Finding]:
    # Without Holm's correction: of tests that rest on few runs each, it would leave none.
    corrected = ", not corrected for the number of axes" if len(of["axes"]) > 1 else ""
    return [
        Finding(
            f"weak classes change with {row['axis']}",
            f"{row['runs']} runs",
            "",
            tested(row["p_profile"], row["least_p"]),
            p_of(row["p_profile"], f"{row['axis']} has no effect") + corrected,
        )
        for row in of["axes"]
    ]


def _on_widening(of: dict) -> list[Finding]:
    found = of["widening"]
    if found is None:
        return []
    gap, cv, clean = found["own"]["gap"], found["own"]["cv"], found["clean"]["gap"]
    runs = f"{counted(found['settings'], 'setting')}, {found['pairs']} pairs of runs"
    if 1 < found["settings"] != found["units"]:
        runs += "; those that share natural runs count as one"
    few = too_few(found["units"], "setting" if found["settings"] > 1 else "seed")
    rows = [_changed("gap, from natural to adversarial training", gap, (gap["natural"], gap["adversarial"]), runs, few)]
    if cv["change"] is not None:
        ends = f"[{', '.join(decimals(end, 2) for end in cv['interval'])}]"
        note = f"{cv['natural']:.2f} to {cv['adversarial']:.2f}"
        rows.append(Finding("coefficient of variation, likewise", decimals(cv["change"], 2, "+"), ends, note=note))
    return [*rows, Finding("gap in clean accuracy, likewise", points(clean["change"]), interval_of(clean["interval"]))]


def _changed(what: str, of: dict | None, ends, runs: str, few: str) -> Finding:
    """A change of the gap, from one end to another; `few` is the verdict if there are too few observations."""
    note = f"{percent(ends[0])} to {percent(ends[1])} points; {runs}, on these images"
    if of is None:
        return Finding(what, verdict=few, note=note)
    verdict = few or tested(of["p_value"], of["least_p"])
    note = f"{p_of(of['p_value'], 'changes as often down')}; {note}"
    return Finding(what, points(of["change"]), interval_of(of["interval"]), verdict, note)


def _on_radius(of: dict) -> list[Finding]:
    if of["radius"] is None:
        return []
    gap, unit = of["radius"]["figures"]["gap"], of["radius"]["unit"]
    slope, (low, high) = gap["slope"] * unit["length"], gap["interval"]
    ends = "" if low is None else interval_of((low * unit["length"], high * unit["length"]))
    holds_zero = low is None or low <= 0 <= high
    verdict = tested(gap["p_value"], gap["least_p"])
    note = f"{p_of(gap['p_value'], 'gap unrelated to radius')}; {of['radius']['runs']} runs, on these images"
    # The test speaks of these settings alone, the interval of others too.
    if verdict != UNTESTABLE and (verdict == NOT_SIGNIFICANT) != holds_zero:
        verdict, note = CAUTION, f"{note}; test and interval disagree"
    return [Finding(f"gap by radius of the training, per {unit['name']}", points(slope), ends, verdict, note)]


def _on_epochs(of: dict) -> list[Finding]:
    robust = [kind for kind in of["epochs"] if not kind["natural"]]
    if not robust:
        return []
    found = robust[0]
    what = f"gap over adversarial training, epoch {found['epochs'][0]} to {found['epochs'][-1]}"
    runs = f"{counted(found['settings'], 'setting')}, {counted(found['runs'], 'run')}"
    few = too_few(*((found["settings"], "setting") if found["settings"] > 1 else (found["runs"], "seed")))
    return [_changed(what, found["change"], (found["gap"][0], found["gap"][-1]), runs, few)]


def on_intervention(of: dict, attack: str) -> list[Finding]:
    """The classes that differ between two levels, see studies.interventions.effects."""
    pairs = f"{counted(of['pairs'], 'pair')} of runs" + (f" in {of['settings']} settings" if of["settings"] > 1 else "")
    pairs += "; intervals cover other images alone, not other seeds" if of["pairs"] == 1 else ""
    few = too_few(*((of["settings"], "setting") if of["settings"] > 1 else (of["pairs"], "seed")))
    sure = [row for row in of["classes"] if _is_sure(row)]
    shown, rows = sorted(sure, key=lambda row: -abs(row["change"]))[:CHANGED], []
    if len(of["classes"]) == 1:
        shown = of["classes"]
    else:
        note = f"{under(attack)}; intervals that exclude 0, each class separately; {pairs}"
        what = f"{of['from']} to {of['to']}: classes that change"
        rows = [Finding(what, f"{len(sure)} of {len(of['classes'])}", verdict=few, note=note)]
    return rows + [
        Finding(
            f"{of['from']} to {of['to']}: {row['name']}",
            points(row["change"]),
            interval_of(row["interval"]),
            few or findings_lib.direction(row["change"], _is_sure(row)),
            f"{percent(row['before'])} % to {percent(row['after'])} %" + ("" if rows else f" {under(attack)}; {pairs}"),
        )
        for row in shown
    ]


def _is_sure(row: dict) -> bool:
    return row["interval"][0] > 0 or row["interval"][1] < 0


def _why(figures: dict) -> list[Finding]:
    """The findings of a study's `explanations`."""
    more = []
    if figures["yardstick"] is None:
        note = "all runs are of one setting; probes are in order of their correlation"
        more.append(Finding("R² on a held-out setting", verdict=UNTESTABLE, note=note))
    if ceiling := figures["ceiling"]:
        # Estimates of a share, which chance may take below 0.
        seeds, images = (explain_pages.share(max(0.0, ceiling[of])) for of in ("seeds", "images"))
        note = f"of means over seeds; {images} by what knows nothing of the test images drawn; the rest is chance"
        more.append(Finding("R² that can be reached", seeds, note=note))
    if figures["lacking"]:
        more.append(Finding("adversarially trained runs not probed", str(figures["lacking"]), verdict=CAUTION))
    return explain_pages.findings(figures, more)


def on_remedies(price_list: dict) -> list[Finding]:
    """What the price list says, or why there is none."""
    if "error" in price_list:
        return [Finding("remedies", verdict=CAUTION, note=f"cannot be compared: {price_list['error']}")]
    rows = [row._replace(what=f"remedies: {row.what}") for row in price_list_pages.findings(price_list)]
    if price_list["settings"] > 1:
        rows.append(Finding("remedies: setting", f"1 of {price_list['settings']}", note=price_list["setting"]))
    return rows
