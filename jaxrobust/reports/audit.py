"""Output of an audit: its findings, and the report's sections "Security curve" and "Class to class"."""

from jaxrobust import console, figures, reports
from jaxrobust.figures import audit as figures_audit
from jaxrobust.formatting import interval, norm as symbol, percent, percentage, points, radius as length, spaced
from jaxrobust.reports.findings import CAUTION, Finding, table
from jaxrobust.reports.tables import Column, Table

LISTED_NAMES = 3  # classes named in a finding
LISTED_PAIRS = 8
_AT = "at the threat radius"


def page(content: dict) -> dict:
    """What the template `audit.html` shows of the content of audit.json."""
    matrix = content["matrix"]
    drawn = {
        "curve": figures_audit.security_curves(content["curve"], content["classes"], content["eps"], content["norm"])
    }
    if len(content["classes"]) <= figures.NAMED_CLASSES:
        values = (matrix[name] for name in ("share", "ease", "exposure"))
        drawn["matrix"] = figures_audit.class_to_class(*values, content["classes"])
    return content | {
        "figures": {name: reports.figure(figure) for name, figure in drawn.items()},
        "half": _half_table(content),
        "pairs": _pair_table(matrix),
        "masking_tables": masking_tables(content.get("masking")),
    }


def findings(content: dict) -> list[Finding]:
    """The main results of an audit."""
    curve, norm = content["curve"], content["norm"]
    at = curve["radii"].index(content["eps"])
    images = f"{content['examples']:,} of {content['whole']:,}" if content["examples"] < content["whole"] else "all"
    of = f"epoch {content['epoch']}, {content['weights']} weights, {images} {content['split']} images"
    what = f"audit under {curve['attack']}, radius {length(content['eps'], norm)} in {symbol(norm)}"
    half = curve["half"]["radius"]
    fall = f"beyond {length(curve['radii'][-1], norm)}" if half is None else length(half, norm)
    return [
        Finding(what, percentage(curve["accuracy"][at]), interval(curve["interval"][at]), note=of),
        Finding(f"weakest class in it: {curve['worst_class'][at]}", percentage(curve["worst_class_accuracy"][at])),
        Finding("radius at which all classes together fall to 50 %", fall),
        *_on_class(content["focused"]["class"]),
        *_on_pairs(content),
        *_on_masking(content.get("masking")),
    ]


def _on_class(of: dict | None) -> list[Finding]:
    if not of:
        return []
    note = f"breaks {percentage(of['success'])} of it, {percentage(of['average'])} of all images; "
    note += "the interval allows for the choice" if of["simultaneous"] else f"the weakest on {of['chosen_on']}"
    ends = interval(of["interval"])
    return [Finding(f"gain of attacking {of['target']} alone", points(of["gain"]), ends, note=note)]


def _on_pairs(content: dict) -> list[Finding]:
    matrix, classes, pair = content["matrix"], content["classes"], content["focused"]["pair"]
    bound = "" if matrix["complete"] else "at least "
    found = []
    if pair:
        note = f"{percentage(pair['average'])} over all pairs"
        note += "; the interval allows for the choice" if pair["interval"] else ""
        what, ends = f"most often turned: {pair['source']} into {pair['target']}", interval(pair["interval"])
        found.append(Finding(what, bound + percentage(pair["share"]), ends, note=note))
    for what, ranked, values in (
        ("most exposed classes", matrix["most_exposed"], matrix["exposure"]),
        ("easiest targets", matrix["easiest_targets"], matrix["ease"]),
    ):
        shares = dict(zip(classes, values, strict=True))
        if named := [f"{name} {percentage(shares[name])}" for name in ranked[:LISTED_NAMES]]:
            found.append(Finding(what, note=bound + ", ".join(named)))
    for lean in matrix["asymmetric"][:1]:
        what, back = f"most one-sided pair: {lean['source']} into {lean['target']}", percentage(lean["back"])
        found.append(Finding(what, percentage(lean["share"]), note=f"back {back}"))
    if missed := matrix["missed_by_curve"]:
        note = f"withstand {content['curve']['attack']}, which is too weak to that extent"
        found.append(Finding("images turned by the targeted attack alone", f"{missed:,}", verdict=CAUTION, note=note))
    return found


def _on_masking(masking: dict | None) -> list[Finding]:
    if not masking:
        return []
    if number := len(masking["findings"]):
        note = "true robustness may be lower than measured; no sign is a proof"
        return [Finding("signs of gradient masking", str(number), verdict=CAUTION, note=note)]
    return [Finding("signs of gradient masking", "0", note="no proof of robustness")]


def _half_table(content: dict) -> Table:
    """Each class with images: its accuracy at the threat radius, and the radius at which it falls to 50 %."""
    curve, half, of_norm = content["curve"], content["curve"]["half"], content["norm"]
    at = curve["radii"].index(content["eps"])

    def reached(value: float | None) -> str:
        last = length(curve["radii"][-1], of_norm)
        return f"beyond {last}" if value is None else length(value, of_norm)

    def ends(row) -> str:
        low, high = half["class_interval"][row]
        return reached(low) if low is None else f"{reached(low)} to {reached(high)}"

    columns = [
        Column("class", lambda c: content["classes"][c]),
        Column("clean", lambda c: curve["class_accuracy"][0][c], percent),
        Column(
            _AT, lambda c: curve["class_accuracy"][at][c], percent, lambda c: interval(curve["class_interval"][at][c])
        ),
        Column("falls to 50 % at", lambda c: half["class_radius"][c], reached, ends),
    ]
    return Table(columns, [c for c, count in enumerate(content["count"]) if count], by=_AT)


def _pair_table(matrix: dict) -> Table:
    bound = "" if matrix["complete"] else "at least "
    columns = [
        Column("class", "source"),
        Column("into", "target"),
        Column("share", "share", lambda share: bound + percentage(share), "interval"),
        Column("images", "turned", lambda number: f"{number:,}", lambda pair: f"of {pair['of']:,}"),
    ]
    return Table(columns, [p for p in matrix["pairs"][:LISTED_PAIRS] if p["turned"]], title="Pairs most often turned")


def masking_tables(masking: dict | None) -> dict[str, Table]:
    """The signs of gradient masking, and the accuracies that they were looked for in."""
    if not masking:
        return {}
    signs = [
        Column("check", "check", spaced),
        Column("where", "where"),
        Column("measured", "value", percentage),
        Column("threshold", "threshold", percentage),
        Column("what it means", "message"),
    ]
    experiments = [Column("experiment", 0, spaced), Column("accuracy", 1, percentage)]
    return {
        "signs": Table(signs, masking["findings"]),
        "experiments": Table(experiments, list(masking["accuracy"].items())),
    }


def show(content: dict) -> None:
    """Print the findings of an audit, and warn of each sign of gradient masking."""
    console.show(table(findings(content)))
    for sign in (content["masking"] or {}).get("findings", ()):
        console.warn(f"{sign['check']}, {sign['where']}: {sign['message']}")
