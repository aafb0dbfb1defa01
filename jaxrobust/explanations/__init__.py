"""What goes along with the robustness of a class: probes, each a number per class, by name.

    PROBES["separation"].measure(subject)     # [C]; see subject.Subject

A family of probes is a file, which holds pure functions of arrays and, below them, its `PROBES`: name, meaning, what is
looked at, and the sign of the correlation with robustness that theory lets expect. `ranking` says which of them do go
along with it.
"""

from jaxrobust.explanations import features, frequency, landscape, neighbours, transfer, verdicts
from jaxrobust.explanations.probe import Missing, Probe

PROBES: dict[str, Probe] = {
    probe.name: probe
    for family in (neighbours, features, landscape, frequency, verdicts, transfer)
    for probe in family.PROBES
}

__all__ = ["PROBES", "Missing", "Probe"]
