"""Runs make methods by their configs; methods are named by what differs, and paired by seed."""

import json

import pytest
from compared_runs import ROBUST_A, write

from jaxrobust import config as config_lib
from jaxrobust.comparison import methods
from jaxrobust.errors import UserError
from jaxrobust.runs import results
from jaxrobust.runs.reading import RunFiles


@pytest.fixture
def run(tmp_path):
    def make(name, fields=None, origin=None, **more):
        """A run with the default config but for those fields; without a config if they are None."""
        (tmp_path / name).mkdir(parents=True)
        workdir = write(tmp_path / name, ROBUST_A)
        if fields is not None:
            config = config_lib.default()
            config.update_from_flattened_dict(fields | more)
            (workdir / "config.json").write_text(json.dumps(config_lib.to_dict(config)))
        if origin:
            rest = {} if "file" in origin else {"run": "x", "weights": "raw", "step": 1, "settings": {}, "chosen": {}}
            results.ORIGIN.write(workdir, rest | origin)
        return RunFiles(workdir)

    return make


def _names(runs):
    return {method.name: list(method.seeds) for method in methods.group(runs)}


def seeded(run, stem, fields, seeds=(0, 1, 2)):
    return [run(f"{stem}-{seed}", fields | {"train.seed": seed}) for seed in seeds]


def test_seeds_of_a_config_are_one_method_whatever_their_order(run):
    plain = seeded(run, "plain", {})
    remedied = seeded(run, "x", {"remedy.name": "reweight"})
    runs = [plain[1], *remedied[::-1], plain[0], plain[2]]
    assert _names(runs) == {"pgd_at": [0, 1, 2], "reweight": [0, 1, 2]}
    assert methods.group(runs)[1].differs == {"remedy.name": "reweight"}


def test_what_does_not_change_the_model_makes_no_method(run):
    neutral = {"train.seed": 1, "eval.examples": 5, "checkpoint.keep": 3, "data.data_dir": "x", "audit.masking": False}
    assert _names([run("a", {}), run("b", neutral)]) == {"pgd_at": [0, 1]}


def test_an_older_config_lacks_fields_that_are_at_their_defaults(run):
    old = run("old", {"train.seed": 1})
    del old.config["remedy"]["begin"]
    assert _names([run("new", {}), old]) == {"pgd_at": [0, 1]}


def test_names_say_what_differs(run):
    runs = [
        run("base", {"remedy.name": "ldam"}),
        run("a", {"remedy.name": "reweight"}),
        run("b", {"remedy.name": "logit_adjustment", "remedy.logit_adjustment.tau": 0.5}),
        run("c", {"remedy.name": "logit_adjustment", "remedy.logit_adjustment.tau": 2.0}),
        run("d", {"remedy.name": "ldam", "remedy.begin": 0.8}),
        run("e", {"remedy.name": "none", "optimizer.learning_rate": 0.01}),
        run("f", {"remedy.name": "ldam", "model.hidden": (8, 8)}),
    ]
    assert list(_names(runs)) == [
        "pgd_at+ldam",
        "reweight",
        "logit_adjustment tau=0.5",
        "logit_adjustment tau=2.0",
        "remedy.begin=0.8",
        "optimizer.learning_rate=0.01 remedy.name=none",
        "model.hidden=[8,8]",
    ]


def test_weights_from_elsewhere_go_by_their_folders(run):
    origin = {"file": "x", "sha256": "0"}
    runs = [
        *seeded(run, "plain", {}, (0, 1)),
        *[run(f"tau_norm_{seed}", {}, origin) for seed in (0, 1)],
        *[run(f"crt/seed{seed}", {}, origin) for seed in (0, 1)],
        run("cnn1000", {}, origin),
    ]
    assert _names(runs) == {"pgd_at": [0, 1], "tau_norm": [0, 1], "crt": [0, 1], "cnn1000": [0]}


def test_heads_changed_after_training_are_named_by_what_changed_them(run):
    """Not by the averaged weights that the new run lacks; and apart from the remedy of the same name in training."""
    averaged = {"train.average_decay": 0.99}
    after = {"train.average_decay": 0.0, "posthoc.remedy": "logit_adjustment"}
    runs = [
        run("base", averaged),
        run("in", averaged | {"remedy.name": "logit_adjustment"}),
        run("after", after, {"remedy": "logit_adjustment"}),
        run("both", after | {"remedy.name": "cfa"}, {"remedy": "logit_adjustment"}),
        run("cfa_trades", averaged | {"objective.name": "trades", "remedy.name": "cfa"}),
    ]
    names = ["logit_adjustment", "posthoc logit_adjustment", "cfa+posthoc logit_adjustment", "trades+cfa"]
    assert list(_names(runs)) == ["pgd_at", *names]
    # A head as the base says nothing of averaged weights either.
    assert list(_names([runs[2], runs[4]])) == ["after", "trades+cfa+posthoc none"]


def test_runs_of_one_config_and_seed_go_by_their_folders(run):
    runs = [*seeded(run, "plain", {}, (0, 1)), *seeded(run, "tau", {}, (0, 1))]
    assert list(map(list, _names(runs).values())) == [[0, 1], [0, 1]] and set(_names(runs)) == {"plain", "tau"}


def test_one_method_and_seed_twice_is_refused(run):
    runs = [run("plain", {}), run("more/plain", {}), run("x", {"remedy.name": "reweight"})]
    with pytest.raises(UserError, match="are one method and seed, plain, seed 0; leave one out"):
        methods.group(runs)


def test_a_run_without_a_config_is_of_no_method(run):
    workdir = run("plain-s0").workdir
    (workdir / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        RunFiles(workdir)


def test_pairs_have_equal_seeds_and_then_ascending_ones(run):
    base, method = methods.group(
        [*seeded(run, "a", {}, (5, 0, 1)), *seeded(run, "b", {"remedy.name": "reweight"}, (7, 1, 9, 8))]
    )
    pairs = [(a.config["train"]["seed"], b.config["train"]["seed"]) for a, b in methods.pair(base, method)]
    assert pairs == [(1, 1), (0, 7), (5, 8)]


def test_seeds_that_start_from_seeds_of_one_method_are_one_method(run):
    """And neither the order of remedies nor the settings of unused ones make another."""
    plain = seeded(run, "plain", {})
    tuned = [
        run(f"tuned-{seed}", fields | {"train.seed": seed, "train.start_from": f"runs/plain-{seed}"})
        for seed, fields in enumerate(({"remedy.name": "faal+cfa"}, {"remedy.name": "cfa+faal", "remedy.wat.eta": 0.5}))
    ]
    assert len(methods.group([*plain, *tuned])) == 2
