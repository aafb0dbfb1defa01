"""Probes: numbers for each class that may go along with the robustness of the class.

    PROBES["separation"].measure(subject)     # [C]; see subject.Subject

Each family of probes is a file with pure functions of arrays and, below them, its `PROBES`. A probe has a name, a
meaning, the kind of its inputs, and the sign of the correlation with robustness that theory predicts. `ranking`
measures how probes correlate with robustness.
"""

from jaxrobust.explanations import features, frequency, landscape, neighbours, transfer, verdicts
from jaxrobust.explanations.probe import Missing, Probe

PROBES: dict[str, Probe] = {
    probe.name: probe
    for family in (neighbours, features, landscape, frequency, verdicts, transfer)
    for probe in family.PROBES
}

__all__ = ["PROBES", "Missing", "Probe"]
