"""Measure all probes of a run, and rank the probes of several runs, as JSON data."""

import math

import numpy as np

from jaxrobust import classwise, files
from jaxrobust.data import randomness
from jaxrobust.explanations import PROBES, Missing, ranking
from jaxrobust.explanations.inputs import Inputs

CONFIDENCE = 0.95
LEVEL = 0.05  # of the tests, after Holm's correction


def measure(inputs: Inputs, known: dict) -> tuple[dict, dict]:
    """({probe: [C]}, {probe: why it could not be measured}) of one run; several are given the same dict `known`, where
    the probes that depend on the data only are kept.
    """
    data_key = str((sorted(inputs.dataset.fingerprint().items()), inputs.config.eval.seed))
    of_data, found, left_out = known.setdefault(data_key, {}), {}, {}
    for name, probe in PROBES.items():
        try:
            found[name] = of_data[name] if name in of_data else probe.measure(inputs)
        except Missing as reason:
            left_out[name] = str(reason)
        else:
            if probe.looks_at == "data":
                of_data[name] = found[name]
    return found, left_out


def images(inputs: Inputs) -> dict:
    """Which images the probes use, as JSON data."""
    return {
        "training_images": len(inputs.train_ids),
        "test_images": len(inputs.test_ids),
        "test_is_scored": inputs.test_is_scored,
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
            **{field: value for field, value in probe._asdict().items() if field != "measure"},
            "correlation": found.correlation,
            "interval": [found.low, found.high],
            "p_value": found.p_value,
            "classes": found.classes,
            "runs": len(has),
            "of_runs": _spread(found.of_runs, has, len(of_runs)),
            "values": value.tolist(),
        }
        if several:
            held_out = ranking.held_out(value[has], robustness[has]) if len(has) > 1 else np.nan
            row["held_out"] = _spread(held_out, has, len(of_runs))
            row["mean_held_out"] = _mean(row["held_out"])
            row["p_held_out"] = math.nan
        rows.append(row)
    tested = [row for row in rows if not row["built_in"] and not math.isnan(row["p_value"])]
    corrected = classwise.holm_correction([row["p_value"] for row in tested])
    holm = {row["name"]: float(p_value) for row, p_value in zip(tested, corrected, strict=True)}
    for row in rows:
        row["p_holm"] = holm.get(row["name"], math.nan)
        row["significant"] = row["p_holm"] <= LEVEL
        defined = row["sign"] and not math.isnan(row["correlation"])
        row["as_expected"] = bool(row["correlation"] * row["sign"] > 0) if defined else None
    if predicted := [row for row in rows if not row["built_in"] and several]:
        probes = [np.array(row["values"]) for row in predicted]
        p_values = ranking.held_out_p_values(probes, robustness, randomness.generator(0, "explain held out"))
        for row, p_value in zip(predicted, p_values.tolist(), strict=True):
            row["p_held_out"] = p_value

    def place(row):
        of_order = row["mean_held_out"] if several else abs(row["correlation"])
        return row["built_in"], math.isnan(of_order), -of_order

    rows.sort(key=place)
    yardstick = ranking.held_out_by_class(robustness) if several else None
    of_classes = {"held_out": yardstick.tolist(), "mean_held_out": _mean(yardstick)} if several else None
    return files.nullable({"probes": rows, "tested": len(tested), "yardstick": of_classes})


def _spread(values, positions, length: int) -> list[float]:
    """The values at their positions in a list of that length, nan elsewhere."""
    spread = np.full(length, np.nan)
    spread[positions] = values
    return spread.tolist()


def _mean(values) -> float:
    values = np.asarray(values, float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan
