"""A price list of methods with chosen differences."""

from jaxrobust.comparison import trade_off
from jaxrobust.comparison.differences import HELPS, HURTS, NO_DIFFERENCE, too_few

BASE = {"worst": 0.2, "average": 0.5}


def score_of(accuracy, difference, verdict, **more):
    around = None if difference is None else [difference - 0.03, difference + 0.03]
    tested = {"p_value": 0.01, "p_holm": 0.02, "significant": verdict in (HELPS, HURTS)}
    return {
        "accuracy": accuracy,
        "interval": [accuracy - 0.05, accuracy + 0.05],
        "difference": difference,
        "difference_interval": around,
        **(tested if verdict else dict.fromkeys(tested)),
        "verdict": verdict,
        **more,
    }


def verdict_of(difference, seeds):
    if difference is None or seeds < 3 or abs(difference) < 0.03:
        return None if difference is None else too_few(seeds, "seed") or NO_DIFFERENCE
    return HELPS if difference > 0 else HURTS


def method_row(name, worst=None, average=None, pgd=None, training=0.0, seeds=3):
    """A method by its differences under the suite, and of the worst class under PGD."""
    classes = [{"name": "cat", "seeds": seeds}]
    attacks = {}
    for attack, gain in (("pgd20", pgd), ("standard", worst)):
        attacks[attack] = {
            "average": score_of(BASE["average"] + (average or 0), average, verdict_of(average, seeds)),
            "worst": score_of(BASE["worst"] + (gain or 0), gain, verdict_of(gain, seeds), classes=classes),
            "rho": None if gain is None else 0.1,
        }
    row = {
        "name": name,
        "is_base": worst is None,
        "differs": {} if worst is None else {"remedy.name": name},
        "seeds": list(range(seeds)),
        "pairs": 0 if worst is None else seeds,
        "covers_seeds": seeds >= 3,
        "runs": [
            {"workdir": f"runs/{name}-{i}", "seed": i, "step": 9, "epoch": 3, "weights": "raw", "checkpoint": "best"}
            for i in range(seeds)
        ],
        "attacks": attacks,
        "speed": {"images_per_second": 100.0, "relative": 1.0},
        "training": {"worst_class_accuracy": 0.4 + training, "worst_class": "cat", "difference": training},
        "pareto": False,
    }
    row["verdicts"] = trade_off.verdicts_of(attacks, "standard", "pgd20")
    row["cost_per_point"] = trade_off.cost_per_point_of(attacks["standard"])
    return row


def figures_of(*rows, **changes):
    return {
        "base": "pgd_at",
        "judge": "standard",
        "pgd": "pgd20",
        "split": "test",
        "examples": 1000,
        "classes": 10,
        "confidence": 0.95,
        "level": 0.05,
        "min_seeds": 3,
        "attacks": ["pgd20", "standard"],
        "methods": [method_row("pgd_at"), *rows],
        "notes": [],
    } | changes


STUDY = (
    method_row("cfa", 0.08, 0.0, 0.08),
    method_row("wat", 0.06, -0.03, 0.06),
    method_row("fake", 0.01, 0.0, 0.12),
    method_row("quiet", 0.05, 0.0, 0.01),
    method_row("learnt", 0.0, 0.0, 0.0, training=0.2),
    method_row("frl", -0.05, -0.04, -0.05),
)
