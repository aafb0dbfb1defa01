"""The shipped study of Gaussians, really trained, against what quadrature says of its classes."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.special import logsumexp

from jaxrobust.studies import design

pytestmark = pytest.mark.slow  # six trainings; test_gaussians.py holds single ones against theory

PATH = pathlib.Path("configs/studies/gaussians.py")
# Fewer runs and images than shipped.
SHORTER = """
import dataclasses, pathlib
from jaxrobust.studies import design

def get_study():
    study = design.load({path!r})
    runs = [run for run in study.runs if run["momentum"] == "momentum0.9" and run["seed"] in ("seed0", "seed1")]
    fields = {{"train.epochs": 10, "eval.every_epochs": 10, "checkpoint.every_epochs": 10}}
    return dataclasses.replace(study, base={base!r}, runs=runs, fields=fields)
"""
COMMAND = "import sys; sys.modules['clu'] = None; from jaxrobust.commands import front_end; front_end.run()"
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def logits(parameters, t):
    """Of a linear classifier that sees t alone, [..., C]."""
    slopes, offsets = np.split(parameters, 2)
    return t[..., None] * slopes + offsets


def attacked(parameters, t, c, shift):
    """t after steps along the gradient of the cross-entropy, which is convex in t: all go the way of the first."""
    z = logits(parameters, t)
    probability = np.exp(z - logsumexp(z, axis=-1, keepdims=True))
    slopes = np.split(parameters, 2)[0]
    return t + shift * np.sign((probability * slopes).sum(-1) - slopes[c])


def trained(means, shift):
    """Parameters that minimise the expected cross-entropy under attack."""

    def loss(parameters):
        total = 0.0
        for c, mean in enumerate(means):
            z = logits(parameters, attacked(parameters, mean + NODES, c, shift))
            total += (logsumexp(z, axis=-1) - z[:, c]) @ WEIGHTS
        return total / len(means) + 1e-9 * parameters @ parameters

    return optimize.minimize(loss, np.concatenate([means, -(means**2) / 2]), method="BFGS").x


def accuracies(parameters, means, shift):
    """Share of each class that withstands."""
    t = np.linspace(-9, 9, 100_001)
    right = [logits(parameters, attacked(parameters, t, c, shift)).argmax(-1) == c for c in range(len(means))]
    return np.array(
        [(r * stats.norm.pdf(t - mean)).sum() * (t[1] - t[0]) for r, mean in zip(right, means, strict=True)]
    )


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaussians")
    study = folder / "study.py"
    study.write_text(SHORTER.format(path=str(PATH.resolve()), base=str(pathlib.Path("configs/gaussians.py").resolve())))
    command = [sys.executable, "-c", COMMAND, "study", "--study", study, "--workdir", folder / "out"]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((folder / "out" / "study.json").read_text())["data"][0]


@pytest.fixture(scope="module")
def theory():
    """Radius of the training in pixel units -> accuracies [C] at the radius of the threat."""
    run = design.plan(design.load(PATH), PATH.parent)[0]
    mixture, threat = run.config.data.gaussians, run.config.threat.eps
    root = np.sqrt(mixture.dimension)
    means, shift = root * np.array(mixture.means), root * threat / mixture.pixels_per_unit
    return {times * threat: accuracies(trained(means, times * shift), means, shift) for times in (0.0, 1.0, 2.0)}


def test_class_accuracies_are_those_of_theory(answer, theory):
    assert len(answer["settings"]) == 3
    for row in answer["settings"]:
        expected = theory[min(theory, key=lambda radius: abs(radius - row["radius"]))]
        # 10,000 test images of each class, and 10,000 to train on: standard errors of 0.005 and about 0.01.
        np.testing.assert_allclose(row["attacked"]["class_accuracy"], expected, atol=0.035)


def test_order_of_the_classes(answer, theory):
    classes = sorted(answer["agreement"]["classes"], key=lambda row: row["mean_rank"])
    order = np.argsort(theory[max(theory)])
    assert [row["name"] for row in classes] == [f"class {c}" for c in order]
    assert answer["agreement"]["w"] == pytest.approx(1) and answer["components"]["share"]["class"] > 0.9


def test_gap_widens_with_the_radius_of_the_training(answer, theory):
    found = [row["mean"] for row in answer["radius"]["figures"]["gap"]["by_radius"]]
    expected = [np.ptp(theory[radius]) for radius in sorted(theory)]
    assert found == sorted(found) and expected == sorted(expected)
    np.testing.assert_allclose(found, expected, atol=0.04)
    assert answer["radius"]["figures"]["gap"]["slope"] > 0
