"""How the interventions of a study are shown: sentences, and a table as CSV."""

import csv
import io

from jaxrobust import pages

NAMED = 3  # classes that a sentence names


def sentences(effects: list[dict], attack: str) -> list[str]:
    """A sentence for each pair of levels, see studies.interventions.effects."""
    return [_sentence(of, attack) for of in effects]


def _sentence(of: dict, attack: str) -> str:
    if len(of["classes"]) == 1:
        (row,) = of["classes"]
        return (
            f"{row['name']} keeps {pages.percent(row['before'])} % under {attack} with {of['from']} and "
            f"{pages.percent(row['after'])} % with {of['to']}: {pages.points(row['change'])} "
            f"{pages.interval(row['interval'])} ({of['pairs']} pairs of runs)."
        )
    sure = [row for row in of["classes"] if row["interval"][0] > 0 or row["interval"][1] < 0]
    sure.sort(key=lambda row: -abs(row["change"]))
    start = f"From {of['from']} to {of['to']}, of the {len(of['classes'])} classes that both have"
    if not sure:
        return f"{start}, none changes by more than chance under {attack} ({of['pairs']} pairs of runs)."
    named = ", ".join(
        f"{row['name']} {pages.points(row['change'])} {pages.interval(row['interval'])}" for row in sure[:NAMED]
    )
    rest = f" and {len(sure) - NAMED} more" if len(sure) > NAMED else ""
    change = "one changes" if len(sure) == 1 else f"{len(sure)} change"
    return f"{start}, {change} under {attack}: {named}{rest} ({of['pairs']} pairs of runs)."


def to_csv(effects: list[dict]) -> str:
    """A line for each pair of levels and class that both have; accuracies are fractions."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["from", "to", "pairs of runs", "class", "before", "after", "change", "low", "high"])
    for of in effects:
        for row in of["classes"]:
            figures = [row["before"], row["after"], row["change"], *row["interval"]]
            writer.writerow([of["from"], of["to"], of["pairs"], row["name"], *figures])
    return buffer.getvalue()
