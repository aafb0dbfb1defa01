"""Studies as data: which runs they hold, what these are called, and how far they are."""

import json
import pathlib
import textwrap

import compared_runs
import numpy as np
import pytest

from jaxrobust import config as config_lib, files
from jaxrobust.errors import FieldError, UserError
from jaxrobust.studies import Study, design, levels, one_at_a_time, product, running

AXES = {
    "architecture": {"cnn": {}, "mlp": {"model.name": "mlp"}, "linear": {"model.name": "linear"}},
    "radius": {"one": {}, "half": {"attack.radius": 0.5}},
    "seed": levels("train.seed", (0, 1), "seed"),
}
BASE = "../configs/digits.py"


def planned(**changes):
    study = {"title": "", "base": BASE, "axes": AXES, "runs": product(AXES)} | changes
    return design.plan(Study(**study), __file__.rsplit("/", 1)[0])


def test_a_product_holds_every_combination_once():
    runs = planned()
    assert len({run.name for run in runs}) == len(runs) == 3 * 2 * 2
    assert runs[0].name == "cnn-one-seed0" and runs[-1].name == "linear-half-seed1"
    config = runs[-1].config
    assert (config.model.name, config.attack.radius, config.train.seed) == ("linear", 0.5, 1)
    assert config.threat.eps_255 == config_lib.from_file("configs/digits.py").threat.eps_255


def test_one_at_a_time_differs_from_the_first_setting_in_one_axis():
    runs = one_at_a_time(AXES)
    assert len(runs) == (1 + 2 + 1) * 2
    first = {"architecture": "cnn", "radius": "one"}
    assert all(sum(run[axis] != first[axis] for axis in first) <= 1 for run in runs)
    # Every level is met, with both seeds.
    for axis in first:
        met = {(run[axis], run["seed"]) for run in runs}
        assert met == {(level, seed) for level in AXES[axis] for seed in AXES["seed"]}


def test_what_goes_across_is_an_axis():
    with pytest.raises(UserError, match=r"across = 'sed'.*give one of architecture, radius, seed"):
        one_at_a_time(AXES, across=("sed",))


def test_axes_of_one_level_are_not_in_names_and_doubles_are_one_run():
    runs = planned(
        runs=[{"architecture": "cnn", "radius": "one", "seed": seed} for seed in ("seed0", "seed1", "seed0")]
    )
    assert [run.name for run in runs] == ["seed0", "seed1"]


def test_a_level_may_start_from_another_config(tmp_path):
    axes = {"data": {"digits": {}, "mixture": {"config": str(pathlib.Path("configs/gaussians.py").resolve())}}}
    digits, mixture = planned(axes=axes, runs=product(axes), fields={"eval.attacks": ("clean", "pgd10")})
    assert (digits.config.data.name, mixture.config.data.name) == ("digits", "gaussians")
    assert mixture.config.model.name == "linear"


LONG = {a: a * 60 for a in "abcde"}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"runs": []}, ("no runs",)),
        ({"runs": [{"architecture": "cnn"}]}, ("radius", "seed")),
        ({"runs": [{"architecture": "vgg", "radius": "one", "seed": "seed0"}]}, ("vgg", "cnn, mlp")),
        ({"base": "nowhere.py"}, ("nowhere.py", "is no existing .py file")),
        ({"fields": {"model.nome": "mlp"}}, ("model.nome", "not a field")),
        ({"fields": {"train.epochs": "many"}}, ("train.epochs", "is not a whole number")),
        *(
            ({"axes": {"a": {level: {}}}, "runs": [{"a": level}]}, (repr(level), "letters"))
            for level in ("x/y", "..", ".", "", "a b", "a\0", "a-b", "x" * 61, "\x1b[2J", "a\n", "/etc")
        ),
        (
            {
                "axes": {a: {a * 60: {}, "x": {"train.seed": 1}} for a in "abcde"},
                "runs": [LONG, dict.fromkeys(LONG, "x")],
            },
            ("too long", "255"),
        ),
        ({"axes": {"a": {"x": {}, "y": {}}}, "runs": [{"a": "x"}, {"a": "y"}]}, ("x and y", "no field")),
        ({"axes": ["seed"]}, ("axes", "type list", "dict of axes")),
        ({"axes": AXES | {"seed": (0, 1)}}, ("axes['seed']", "type tuple", "dict of levels")),
        ({"axes": {"a": {"x": 0.5}}, "runs": [{"a": "x"}]}, ("axes['a']['x']", "type float", "dict of fields")),
        ({"runs": ["cnn"]}, ("runs[0]", "type str", "level on each axis")),
        ({"fields": {5: 5}}, ("5 = 5", "not a field")),
        ({"fields": {"config": 5}}, ("fields['config'] = 5", "type int")),
        ({"axes": {"a": {"x": {"config": 5}}}, "runs": [{"a": "x"}]}, ("axes['a']['x']['config'] = 5", "type int")),
        ({"axes": {5: {"x": {}}}, "runs": [{5: "x"}]}, ("axes = 5", "name of an axis")),
        ({"axes": {"a": {"x": {}}}, "runs": [{"a": []}]}, ("runs, axis 'a' = []", "give one of x")),
        ({"axes": {"a": {"x": {}}}, "runs": [{"b": "x", 5: 5}]}, ("runs", "(5, a, b)")),
        ({"probes": "x"}, ("probes = 'x'", "True or False")),
        ({"published": {"": {"paper": {"0": 7}}}}, ("published['']['paper'] = 7", "from 0 to 1")),
        ({"published": {"": {"paper": {0: 0.5}}}}, ("published['']['paper'] = 0", "class names as texts")),
        ({"published": {"cifar10": {}}}, ("published", "cifar10", "axis data")),
        ({"attack": "pgd50"}, ("attack = 'pgd50'", "give one of clean, fgsm")),
        ({"fields": {"eval.attacks": ("clean",)}}, ("eval.attacks", "one common attack")),
        ({"axes": AXES | {"radius": {"one": {}, "half": {"eval.attacks": ("pgd20",)}}}}, ("eval.attacks", "give all")),
        ({"fields": {"eval.splits": ("train",)}}, ("eval.splits", "cnn-one-seed0", "add test")),
        ({"fields": {"eval.every_epochs": 0}}, ("eval.every_epochs", "cnn-one-seed0", "train.epochs")),
    ],
)
def test_what_does_not_fit_is_named(changes, words):
    with pytest.raises(UserError) as error:
        planned(**changes)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_base_that_cannot_be_read_is_named(tmp_path):
    base = tmp_path / "base.py"
    base.write_text("def get_config(): return 1 / 0")
    with pytest.raises(UserError, match=r"base\.py.*ZeroDivisionError.*correct the file"):
        planned(base=str(base))


def test_a_wrong_config_names_its_run_before_anything_is_trained():
    runs = planned(axes={"a": {"good": {}, "bad": {"attack.steps": 0}}}, runs=[{"a": "good"}, {"a": "bad"}])
    with pytest.raises(UserError, match=r"run bad: attack\.steps = 0"):
        running.check(runs, 1)


def test_values_that_would_be_one_level_are_named():
    with pytest.raises(FieldError, match=r"train\.seed.*has a value twice"):
        levels("train.seed", (0, 1, 0), "seed")


def test_parts_are_a_partition():
    runs = planned()
    parts = [running.part(runs, f"{i}/5") for i in range(1, 6)]
    assert sorted(run.name for part in parts for run in part) == sorted(run.name for run in runs)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for shard in ("0/5", "6/5", "1", "a/b", "1/0"):
        with pytest.raises(UserError, match=r"^shard"):
            running.part(runs, shard)


def test_parts_hold_what_the_whole_holds():
    """Where levels alternate, every second run of the plan would be of one level alone."""
    axes = {"rate": levels("optimizer.learning_rate", [0.1 + 0.01 * i for i in range(20)]), "kind": AXES["radius"]}
    runs = planned(axes=axes, runs=product(axes))
    for number in (2, 4):
        for i in range(1, number + 1):
            of_part = running.part(runs, f"{i}/{number}")
            assert [run.name for run in runs if run in of_part] == [run.name for run in of_part]
            share = np.mean([run.levels["kind"] == runs[0].levels["kind"] for run in of_part])
            assert 0.2 <= share <= 0.8


@pytest.mark.parametrize(
    "published", [{"": {"me": 3}}, {"": {"me": {"cat": "high"}}}, {"": [0.1]}, {"": {"me": [0.1, 0.2]}}]
)
def test_published_tables_are_checked_before_anything_is_trained(published):
    with pytest.raises(FieldError, match=r"^published\[''\]"):
        planned(published=published)


def test_a_run_that_another_process_trains_is_left_alone(tmp_path):
    runs = [{"architecture": "linear", "radius": "one", "seed": "seed0"}]
    (run,) = planned(runs=runs, fields={"eval.batch_size": 200})  # of the tests' 8 devices
    where = running.folder(tmp_path, run)
    where.mkdir(parents=True)
    with files.locked(where / ".training", wait=False):
        assert "another training is running there" in running.attempt(run, where)
    assert not (where / running.FAILED).exists()


def test_arithmetic_goes_by_model_attack_and_epochs():
    axes = {"a": {"pgd": {}, "natural": {"objective.name": "standard"}, "twice": {"train.epochs": 60}}}
    work = running.flops(planned(axes=axes, runs=product(axes)))
    # PGD-10 costs 23 forward passes of each image, natural training 3.
    assert work["pgd"] / work["natural"] == pytest.approx(23 / 3)
    assert work["twice"] / work["pgd"] == pytest.approx(2)


def test_a_file_that_holds_no_study_is_refused(tmp_path):
    file = tmp_path / "study.py"
    for text, words in (
        ("", "get_study"),
        ("def get_study(): return 1", "not return a Study"),
        ("1 / 0", "ZeroDivisionError"),
    ):
        file.write_text(textwrap.dedent(text))
        with pytest.raises(UserError, match=words):
            design.load(file)
    with pytest.raises(UserError, match="is not a file"):
        design.load(tmp_path / "nowhere.py")


@pytest.mark.parametrize("path", sorted(pathlib.Path("configs/studies").glob("*.py")), ids=lambda path: path.stem)
def test_shipped_studies_are_valid(path):
    runs = design.plan(design.load(path), path.parent)
    running.check(runs, 1)
    assert json.dumps([config_lib.to_dict(run.config) for run in runs])


def test_screening_keeps_a_third_of_the_remedies_by_their_worst_class_on_validation(tmp_path, monkeypatch):
    """A remedy that is better on test images alone does not stay."""
    screening = files.imported(pathlib.Path("configs/studies/screen_remedies.py").resolve())
    monkeypatch.setattr(screening, "FOLDER", tmp_path)
    names = ["base", *(f"m{i}" for i in range(8))]

    def train(runs):
        for name, seed in runs:
            kept = 0 if name == "base" else 4 * int(name[1:])
            right = np.where(compared_runs.LABELS == 0, compared_runs.rank_of() < kept, True)
            folder = tmp_path / "runs" / f"{name}-seed{seed}"
            if not folder.exists():
                folder.mkdir(parents=True)
                for split, of in (("validation", right), ("test", ~right)):
                    compared_runs.write(folder, of, split=split, fast={})

    for planned, left in ((3 + 8, 8), (3 + 8 + 3 * 2, 3)):
        runs, names_left = screening.screened(names)
        assert (len(runs), len(names_left)) == (planned, left)
        train(runs)
    assert screening.screened(names)[1] == ["m7"]
