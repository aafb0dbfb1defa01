"""Audits of linear models against closed forms, and audits that are interrupted, divided, or of few examples."""

import json

import jax
import numpy as np
import pytest
import tiny_config
from scipy.optimize import linprog

from jaxrobust import config as config_lib, files
from jaxrobust.attacks import masking
from jaxrobust.audit import auditor as auditing, results as audit_results
from jaxrobust.config import validation
from jaxrobust.data.dataset import Dataset, Split
from jaxrobust.distributed import parallel
from jaxrobust.distributed.interruption import Interrupted, StopRequest
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import steps
from jaxrobust.reports import run as run_page
from jaxrobust.training import loop, setup as training_setup

NAMES = ("a", "b", "c")
QUICK = {"audit.attack": "cw3", "audit.matrix_attack": "cw3"}
CHECKPOINT = {"step": 3, "epoch": 1, "weights": "raw"}


# Enough to tell a model without gradients.
EXPERIMENTS = (
    masking.Experiment("pgd20"),
    masking.Experiment("square40"),
    masking.Experiment("pgd20", radius=float("inf")),
)


def dataset(low=0, high=256, classes=3):
    """37 test images of three unequal classes, or of two."""
    rng = np.random.default_rng(0)

    def split(size):
        images = rng.integers(low, high, (size, 4, 4, 1), dtype=np.uint8)
        return Split(images, rng.choice(3, size, p=(0.6, 0.3, 0.1)).astype(np.int32) % classes)

    return Dataset("made up", NAMES[:classes], split(64), split(0), split(37))


def config_of(**overrides):
    config = tiny_config.get_config()
    config.audit.masking = False  # the experiments take longer than all the rest; see the test of them
    config.model.name, config.threat.eps_255 = "linear", 10.0
    config.eval.batch_size = 8  # on as many devices, so that there is one size of batches, and little to compile
    config.audit.attack, config.audit.matrix_attack = "cw20", "cw20"
    config.update_from_flattened_dict(overrides)
    validation.validate(config, 1)
    return config


def run(workdir, devices=8, data=None, stop=None, **overrides):
    """(content of audit.json, the kept arrays, weights [D, C] of the linear model and its biases)."""
    config, data = config_of(**overrides), data or dataset()
    workdir.mkdir(exist_ok=True)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    weights = training_setup.create(config, data, mesh, 10).initial_state().weights
    # Without the part of a kernel that sees but the mean brightness, which would settle most predictions.
    centred = jax.tree.map(lambda p: p - p.mean(0, keepdims=True) if p.ndim == 2 else p, weights.params)
    weights = weights.replace(params=centred)
    stop = StopRequest() if stop is None else stop
    auditor = auditing.Auditor(config, workdir, data, mesh, CHECKPOINT, stop)
    content = json.loads(files.to_json(auditor.run(lambda: weights)))
    kernel, bias = (np.asarray(p, np.float64) for p in sorted(jax.tree.leaves(weights.params), key=lambda p: -p.ndim))
    return content, audit_results.Store(workdir, 3, "raw", "test").read(), kernel, bias


def without_times(value):
    """Without seconds, anywhere."""
    if isinstance(value, dict):
        return {name: without_times(v) for name, v in value.items() if name != "seconds"}
    return value


def test_breaking_radius_is_the_margin_over_the_l1_norm(tmp_path):
    """Of a linear model of two classes, in the middle of the pixel range, where the box takes no part."""
    data = dataset(90, 166, classes=2)
    radii = {"audit.radii_255": tuple(float(radius) for radius in range(3, 90, 3))}
    _, arrays, kernel, bias = run(tmp_path, data=data, **radii)
    images = data.test.images.reshape(37, -1) / 255
    logits, labels = images @ kernel + bias, data.test.labels
    margin = (logits[:, 0] - logits[:, 1]) * np.where(labels == 0, 1, -1)
    exact = np.maximum(margin, 0) / np.abs(kernel[:, 0] - kernel[:, 1]).sum()
    grid = np.array([0, *config_lib.audit_radii(config_of(**radii)), np.inf])
    expected = grid[np.searchsorted(grid, exact)]  # the next radius of the grid
    found = arrays["breaking_radius"]
    assert len(set(found.tolist())) > 6, "radii of all kinds, or the test says little"
    np.testing.assert_array_equal(found, expected)


def can_be_turned(image, kernel, bias, target, radius):
    """The largest lead of the target's logit within the ball and the box, by linear programming."""
    others = [k for k in range(len(bias)) if k != target]
    # Variables: the pixels, and the lead t <= logit_target - logit_k for every other k.
    rows = np.column_stack([(kernel[:, others] - kernel[:, [target]]).T, np.ones(len(others))])
    bounds = [(max(0, p - radius), min(1, p + radius)) for p in image] + [(None, None)]
    solved = linprog(-np.eye(len(image) + 1)[-1], rows, bias[target] - bias[others], bounds=bounds)
    assert solved.status == 0
    return -solved.fun


def test_matrix_is_that_of_linear_programming(tmp_path):
    data = dataset()
    content, arrays, kernel, bias = run(tmp_path, **{"threat.eps_255": 30.0, "audit.matrix_attack": "cw20x3"})
    images = data.test.images.reshape(37, -1) / 255
    lead = np.array(
        [
            [can_be_turned(image, kernel, bias, target, 30 / 255) for target in targets]
            for image, targets in zip(images, arrays["targets"], strict=True)
        ]
    )
    possible, reached = lead > 0, arrays["reached"]
    assert 10 < possible.sum() < 64
    assert not (reached & (lead < -1e-5)).any(), "what cannot be turned is not"
    assert (reached == possible).mean() >= 0.97
    turned = np.zeros((3, 3), int)
    np.add.at(turned, (data.test.labels[:, None].repeat(2, 1)[reached], arrays["targets"][reached]), 1)
    assert content["matrix"]["complete"] and content["matrix"]["turned"] == turned.tolist()
    np.fill_diagonal(turned, -1)
    shares = [[None if n < 0 else n / count for n in row] for row, count in zip(turned, content["count"], strict=True)]
    assert content["matrix"]["share"] == shares


def test_curve_at_the_threat_radius_is_the_share_that_withstands(tmp_path):
    content, arrays, *_ = run(tmp_path, **{"audit.attack": "pgd3+cw20"})
    curve = content["curve"]
    assert curve["radii"][0] == 0 and content["eps"] in curve["radii"]
    assert (np.diff(curve["accuracy"]) <= 0).all() and curve["accuracy"][0] > curve["accuracy"][-1]
    at = curve["radii"].index(content["eps"])
    withstands = arrays["breaking_radius"] > content["eps"]
    np.testing.assert_array_equal(curve["correct"][at], np.bincount(arrays["labels"][withstands], minlength=3))
    assert curve["attack"] == "pgd3+cw20" and curve["members"] == ["pgd3", "cw20"]
    worst = np.argmin(curve["class_accuracy"][at])
    one = content["focused"]["class"]
    assert one["target"] == NAMES[worst] and one["simultaneous"] and one["chosen_on"] == "test"
    assert one["success"] == pytest.approx(1 - curve["class_accuracy"][at][worst])


def test_audits_do_not_depend_on_batch_or_devices(tmp_path):
    _, reference, *_ = run(tmp_path / "eight")
    _, other, *_ = run(tmp_path / "one", 1, **{"eval.batch_size": 37})
    for name in ("prediction", "targets", "reached", "breaking_radius"):
        np.testing.assert_array_equal(reference[name], other[name])


class After(StopRequest):
    """A signal that comes when it has been looked for so often."""

    signal_number = 15

    def __init__(self, looks):
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks < 0


def test_an_interrupted_audit_continues(tmp_path):
    """Again and again, at other places, until it is done: the end is that of one that was left alone."""
    small = QUICK | {"eval.batch_size": 1}  # five blocks a round
    interruptions = 0
    while interruptions < 50:
        try:
            content, arrays, *_ = run(tmp_path / "stopped", 1, stop=After(30), **small)
            break
        except Interrupted:
            interruptions += 1
    assert interruptions >= 3
    reference, whole, *_ = run(tmp_path / "reference", 1, **small)
    assert without_times(content) == without_times(reference)
    for name, array in whole.items():
        if not name.endswith("_state"):
            np.testing.assert_array_equal(arrays[name], array)


def test_other_settings_are_another_audit_of_the_part_they_concern(tmp_path):
    before, *_ = run(tmp_path)
    path = audit_results.Store(tmp_path, 3, "raw", "test").path
    untouched = path.read_bytes()
    again, *_ = run(tmp_path)
    assert again == before and path.read_bytes() == untouched, "a finished audit does nothing"
    after, *_ = run(tmp_path, **{"audit.radii_255": (5.0, 20.0)})
    assert after["matrix"] | {"missed_by_curve": 0} == before["matrix"] | {"missed_by_curve": 0}
    np.testing.assert_allclose(after["curve"]["radii"], np.array([0, 5, 10, 20]) / 255)


def test_subsets_and_few_targets_say_so(tmp_path):
    whole, all_arrays, *_ = run(tmp_path / "whole")
    content, arrays, *_ = run(tmp_path / "part", **{"audit.examples": 20, "audit.targets": 1})
    assert (content["examples"], content["whole"]) == (20, 37)
    index = arrays["index"]
    np.testing.assert_array_equal(arrays["breaking_radius"], all_arrays["breaking_radius"][index])
    np.testing.assert_array_equal(arrays["targets"], all_arrays["targets"][index, :1])
    np.testing.assert_array_equal(arrays["reached"], all_arrays["reached"][index, :1])
    matrix = content["matrix"]
    assert not matrix["complete"] and np.sum(matrix["tried"]) == 20 and whole["matrix"]["complete"]
    unknown = [share is None for row in matrix["share"] for share in row]
    assert sum(unknown) > 3, "more than the diagonal"


def test_other_norms(tmp_path):
    content, *_ = run(tmp_path, **{"threat.norm": "l2", "threat.eps": 0.5, "audit.radii": (0.5, 2.0)}, **QUICK)
    assert content["norm"] == "l2" and content["curve"]["radii"] == [0, 0.25, 0.5, 1]


@pytest.mark.parametrize(
    "field, value",
    [
        ("audit.attack", "clean"),
        ("audit.attack", "pgdx"),
        ("audit.matrix_attack", "cw"),
        ("audit.radii", (0.0, 1.0)),
        ("audit.radii", ()),
        ("audit.radii_255", (-1.0,)),
        ("audit.targets", -1),
        ("audit.examples", -1),
    ],
)
def test_wrong_fields_are_named(field, value):
    with pytest.raises(FieldError, match=field.replace(".", r"\.")):
        config_of(**{field: value})


def test_command_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(masking, "EXPERIMENTS", EXPERIMENTS)
    config = tiny_config.get_config()
    config.model.name = "linear"
    config.train.epochs = 1
    config.eval.every_epochs = 1
    config.eval.attacks = ("clean", "fgsm")
    config.objective.name = "standard"
    config.train.average_decay = 0.0
    with pytest.raises(UserError, match="no run"):
        auditing.audit_run(tmp_path)
    loop.train_and_evaluate(config, tmp_path)
    assert 'id="matrix"' not in run_page.write_report(tmp_path).read_text()
    # Of a run that is older than the section.
    stored = files.read_json(tmp_path / "config.json")
    del stored["audit"]
    files.write_atomically(tmp_path / "config.json", files.to_json(stored))
    with pytest.raises(UserError, match=r"train\.epochs"):
        auditing.audit_run(tmp_path, {"train.epochs": 2})
    auditing.audit_run(tmp_path, QUICK | {"audit.examples": 100})
    content, best = audit_results.AUDIT.read(tmp_path), files.read_json(tmp_path / "best.json")
    assert [content[name] for name in ("step", "weights")] == [best[name] for name in ("step", "weights")]
    assert content["examples"] == 100 and content["focused"]["class"]["chosen_on"] == "validation"
    page = run_page.write_report(tmp_path).read_text()
    assert 'id="matrix"' in page and 'id="curve"' in page and "subset of 100" in page
    assert "nan" not in page.split('id="curve"')[1].split('id="definitions"')[0].replace("dominant", "")


def test_programs_of_an_attack_are_made_once_for_all_radii(tmp_path):
    auditor = auditing.Auditor(config_of(), tmp_path, dataset(), parallel.make_mesh(), CHECKPOINT, StopRequest())
    attackers = {e.name: auditor.attacker(e, False) for e in masking.EXPERIMENTS if e.attack == "pgd20"}
    assert len(attackers) == 5 and len(set(attackers.values())) == 2
    assert attackers["pgd20"] is attackers["pgd20@inf"] is not attackers["pgd20_scale_free"]
    assert auditor.attacker(masking.EXPERIMENTS[0], True) not in attackers.values()


def test_masking_is_looked_for_and_found(tmp_path, monkeypatch):
    """An honest linear model, and one whose gradient is killed, audited alike."""
    monkeypatch.setattr(masking, "EXPERIMENTS", EXPERIMENTS)
    settings = QUICK | {"audit.masking": True, "audit.radii": (1.0,)}
    content, arrays, kernel, bias = run(tmp_path / "honest", **settings)
    logits = dataset().test.images.reshape(37, -1) / 255 @ kernel + bias
    np.testing.assert_array_equal(arrays["probe_correct"], logits.argmax(1) == arrays["labels"])
    assert content["masking"]["accuracy"].keys() == {"pgd20", "square40", "pgd20@inf"}
    assert [f["check"] for f in content["masking"]["findings"]] == []
    assert 0 < content["masking"]["accuracy"]["pgd20"] < arrays["probe_correct"].mean()

    prepared = steps.prepared_logits_fn

    def killed(*args, **kwargs):
        logits_fn = prepared(*args, **kwargs)
        return lambda images: logits_fn(jax.lax.stop_gradient(images))

    monkeypatch.setattr(steps, "prepared_logits_fn", killed)
    content, *_ = run(tmp_path / "killed", **settings)
    found = {f["check"] for f in content["masking"]["findings"]}
    assert {"zero_gradient", "black_box", "huge_radius"} <= found
