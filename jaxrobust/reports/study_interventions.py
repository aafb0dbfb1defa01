"""How the interventions of a study are shown: sentences, and a table as CSV."""

from jaxrobust import formatting, reports

NAMED = 3  # classes that a sentence names


def sentences(effects: list[dict], attack: str) -> list[str]:
    """A sentence for each pair of levels, see studies.interventions.effects."""
    return [_sentence(of, attack) for of in effects]


def _sentence(of: dict, attack: str) -> str:
    if len(of["classes"]) == 1:
        (row,) = of["classes"]
        return (
            f"{row['name']} keeps {formatting.percent(row['before'])} % under {attack} with {of['from']} and "
            f"{formatting.percent(row['after'])} % with {of['to']}: {formatting.points(row['change'])} "
            f"{formatting.interval(row['interval'])} ({_pairs(of)})."
        )
    sure = [row for row in of["classes"] if row["interval"][0] > 0 or row["interval"][1] < 0]
    sure.sort(key=lambda row: -abs(row["change"]))
    start = f"From {of['from']} to {of['to']}, of the {len(of['classes'])} classes that both have"
    if not sure:
        return f"{start}, none was found to change under {attack}: all intervals contain 0 ({_pairs(of)})."
    named = ", ".join(
        f"{row['name']}: {formatting.points(row['change'])} {formatting.interval(row['interval'])}"
        for row in sure[:NAMED]
    )
    rest = f" and {len(sure) - NAMED} more" if len(sure) > NAMED else ""
    change = "one changes" if len(sure) == 1 else f"{len(sure)} change"
    return (
        f"{start}, {change} under {attack} with an interval that excludes 0, each class separately: {named}{rest} "
        f"({_pairs(of)})."
    )


def _pairs(of: dict) -> str:
    alone = ", so intervals are of other images alone, not of other seeds" if of["pairs"] == 1 else ""
    settings = f" in {of['settings']} settings" if of["settings"] > 1 else ""
    return f"{formatting.counted(of['pairs'], 'pair')} of runs{settings}{alone}"


def to_csv(effects: list[dict]) -> str:
    """A line for each pair of levels and class that both have; accuracies are fractions."""
    header = ["from", "to", "pairs of runs", "class", "before", "after", "change", "low", "high"]
    rows = [
        [of["from"], of["to"], of["pairs"], row["name"], row["before"], row["after"], row["change"], *row["interval"]]
        for of in effects
        for row in of["classes"]
    ]
    return reports.to_csv(header, rows)
