"""Probes: numbers for each class that may go along with the robustness of the class.

    PROBES["separation"].measure(inputs)     # [C]; see inputs.Inputs

Each family of probes is a file with pure functions of arrays and, below them, its `PROBES`. `ranking` measures how
probes correlate with robustness.
"""

from jaxrobust.explanations import features, frequency, landscape, neighbours, transfer, verdicts
from jaxrobust.explanations.probe import Missing, Probe

PROBES: dict[str, Probe] = {
    probe.name: probe
    for family in (neighbours, features, landscape, frequency, verdicts, transfer)
    for probe in family.PROBES
}
