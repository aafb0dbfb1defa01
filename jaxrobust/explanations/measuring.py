"""Measure all probes of a run, and rank the probes of several runs, as JSON data."""

import math

import numpy as np

from jaxrobust import classwise, files
from jaxrobust.data import randomness
from jaxrobust.explanations import PROBES, Missing, ranking
from jaxrobust.explanations.subject import Subject

CONFIDENCE = 0.95
LEVEL = 0.05  # of the tests, after Holm's correction


def measure(subject: Subject, known: dict | None = None) -> tuple[dict, dict]:
    """({probe: [C]}, {probe: why it could not be measured}) of one run.

    Args:
        known: cache of the probes that depend on the data only, filled here; pass the same dict for several runs.
    """
    known = {} if known is None else known
    data_key = str((sorted(subject.dataset.fingerprint().items()), subject.config.eval.seed))
    found, left_out = {}, {}
    for name, probe in PROBES.items():
        try:
            if probe.looks_at != "data":
                found[name] = probe.measure(subject)
            else:
                if (data_key, name) not in known:
                    known[data_key, name] = probe.measure(subject)
                found[name] = known[data_key, name]
        except Missing as reason:
            left_out[name] = str(reason)
    return found, left_out


def images(subject: Subject) -> dict:
    """Which images the probes use, as JSON data."""
    return {
        "training_images": len(subject.train_ids),
        "test_images": len(subject.test_ids),
        "test_is_scored": subject.test_is_scored,
    }


def rank(values: dict, robustness) -> dict:
    """The probes as JSON data, sorted by how well they predict held-out runs; for a single run, by their correlation.

    Args:
        values: {probe: one entry for each run, [C] or None}.
        robustness: [R][C], accuracies; None for a class without images.

    Returns:
        probes: for each probe that at least one run has: its description, its `values` [R][C] and the results of
            `ranking`: `correlation`, `interval`, `p_value`, `p_holm`, `significant`, `as_expected` (None if theory
            predicts no sign), `of_runs` [R], and with several runs `held_out`, R^2 [R], `mean_held_out`, and
            `p_held_out` of those that are tested, see `ranking.held_out_p_values`;
        yardstick: R^2 [R] and their mean, if each class is predicted by its mean over the other runs; None for one run.
    """
    robustness = np.array(robustness, float)  # None becomes nan
    several = len(robustness) > 1
    rows = []
    for name, of_runs in values.items():
        has = [r for r, value in enumerate(of_runs) if value is not None]
        if not has:
            continue
        probe, value = PROBES[name], np.full(robustness.shape, np.nan)
        value[has] = [of_runs[r] for r in has]
        value[np.isinf(value)] = np.nan
        found = ranking.associate(value[has], robustness[has], randomness.generator(0, f"explain {name}"))
        row = {
            **{field: getattr(probe, field) for field in ("name", "meaning", "family", "looks_at", "sign", "built_in")},
            "correlation": found.correlation,
            "interval": [found.low, found.high],
            "p_value": found.p_value,
            "classes": found.classes,
            "runs": len(has),
            "of_runs": dict(zip(has, found.of_runs, strict=True)),
            "values": value.tolist(),
        }
        row["of_runs"] = [row["of_runs"].get(r, math.nan) for r in range(len(of_runs))]
        held_out = np.full(len(of_runs), np.nan)
        if len(has) > 1:
            held_out[has] = ranking.held_out(value[has], robustness[has])
        if several:
            row |= {"held_out": held_out.tolist(), "mean_held_out": _mean(held_out), "p_held_out": math.nan}
        rows.append(row)
    tested = [row for row in rows if not row["built_in"] and not math.isnan(row["p_value"])]
    holm = dict(
        zip([r["name"] for r in tested], classwise.holm_correction([r["p_value"] for r in tested]), strict=True)
    )
    for row in rows:
        row["p_holm"] = float(holm.get(row["name"], math.nan))
        row["significant"] = row["p_holm"] <= LEVEL
        defined = row["sign"] and not math.isnan(row["correlation"])
        row["as_expected"] = bool(row["correlation"] * row["sign"] > 0) if defined else None
    if predicted := [row for row in rows if not row["built_in"] and several]:
        probes = [np.array(row["values"]) for row in predicted]
        p_values = ranking.held_out_p_values(probes, robustness, randomness.generator(0, "explain held out"))
        for row, p_value in zip(predicted, p_values.tolist(), strict=True):
            row["p_held_out"] = p_value
    rows.sort(key=lambda row: _place(row, several))
    yardstick = ranking.held_out_by_class(robustness) if several else None
    of_classes = {"held_out": yardstick.tolist(), "mean_held_out": _mean(yardstick)} if several else None
    return files.nullable({"probes": rows, "tested": len(tested), "yardstick": of_classes})


def _place(row: dict, several: bool) -> tuple:
    of_order = row["mean_held_out"] if several else abs(row["correlation"])
    return row["built_in"], math.isnan(of_order), -of_order


def _mean(values) -> float:
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan
