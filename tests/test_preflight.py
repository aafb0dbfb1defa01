"""The whole report on CPU devices, what happens where memory runs out, and real topologies if there is a compiler."""

import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys

import jax
import pytest
import tiny_config

from jaxrobust import console, data
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError
from jaxrobust.performance import preflight
from jaxrobust.performance.compiled import costs, machines, preflight_tables

DESCRIPTION = data.Description("digits", (8, 8, 1), 10, 1047)
ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture
def machine(monkeypatch):
    """A CPU with the rates and the memory of a machine."""

    def make(memory=1e9):
        cpu = machines.Machine("cpu", "cpu", memory, 1e9, {"f32": 1e12, "bf16": 1e12}, 1e8, 0, 0.0, "imagination")
        monkeypatch.setitem(machines.MACHINES, "cpu", cpu)

    return make


@pytest.fixture(scope="module")
def figures():
    config = tiny_config.get_config()
    return preflight.examine(config, DESCRIPTION, "cpu:8")


def test_the_report_without_rates(figures):
    assert figures["chips"] == 8 and figures["batch_per_chip"] == 8 and figures["fits"]
    step = figures["step"]
    # The floor leaves out what a CPU multiplies in vain: the padding of maps of two by two pixels.
    assert step["floor_passes"] == 2 * 2 + 3 and 1.1 < step["flops_over_floor"] < 1.3
    assert step["attack_steps"] == 2 and step["attack_step"]["kernels"] > 10 and step["attack_note"] is None
    assert not any(collective["in_attack"] for collective in step["collectives"])
    assert {"gradients" in c["purpose"] or "counts" in c["purpose"] for c in step["collectives"]} == {True}
    assert figures["memory"]["data_set_bytes"] == 1047 * (64 + 4)
    assert figures["memory"]["arguments_bytes"] > 1047 * 68
    assert figures["evaluation"]["attack"] == "pgd3"
    assert step["estimate"] is None and figures["largest_batch_per_chip"] is None
    json.dumps(figures, allow_nan=False)


def test_the_tables_can_be_shown(figures, capsys):
    for title, table in preflight_tables.tables(figures):
        console.say(title)
        console.show(table)
    shown = capsys.readouterr().err
    assert (
        "one training step, counted" in shown
        and "7 forward passes" in shown
        and "all-reduce" in shown
        and "rates of a cpu are not known" in shown
    )


def test_steps_are_put_together_as_in_training(figures):
    config = tiny_config.get_config()
    mesh = parallel.make_mesh()
    assert figures["steps_per_dispatch"] == config.train.steps_per_dispatch == 6
    indices = costs.lower_training(config, DESCRIPTION, mesh, 10).args_info[0][3]
    assert indices.shape == (6, 64)
    config.train.steps_per_dispatch = 100
    assert costs.dispatch_length(config, DESCRIPTION, mesh) == figures["steps_per_epoch"] == 1047 // 64
    config.data.streaming = True
    assert costs.dispatch_length(config, DESCRIPTION, mesh) == 1


def test_what_a_dispatch_does_once_is_shared_among_its_steps():
    """The data set is copied once, if at all; the figures of a step do not grow with the steps of a dispatch."""
    config = small_config()
    steps = []
    for config.train.steps_per_dispatch in (1, 8):
        steps.append(preflight.examine(config, DESCRIPTION, "cpu:8", search=False)["step"])
    one, eight = steps
    assert eight["flops_per_image"] == one["flops_per_image"]
    assert eight["communication_bytes"] == one["communication_bytes"]
    assert eight["bytes_per_image"] == pytest.approx(one["bytes_per_image"], rel=0.5)


@pytest.mark.parametrize("restarts", [1, 2])
def test_one_attack_step_is_inlined_and_says_so(restarts, capsys):
    config = small_config()
    config.attack.steps, config.attack.restarts = 1, restarts
    figures = preflight.examine(config, DESCRIPTION, "cpu:8", search=False)
    step = figures["step"]
    assert step["attack_step"] is None and step["attack_steps"] == 0
    assert step["attack_note"] == "inlined: counted in the whole step"
    assert step["rest_of_step"]["kernels"] == step["kernels"]
    for _, table in preflight_tables.tables(figures):
        console.show(table)
    shown = capsys.readouterr().err
    assert "inlined: counted in the whole step" in shown and "rest of the step" not in shown
    config.objective.name = "standard"
    assert preflight.examine(config, DESCRIPTION, "cpu:8", search=False)["step"]["attack_note"] is None


def test_estimates_and_the_largest_batch(machine, capsys):
    machine()
    figures = preflight.examine(small_config(), DESCRIPTION, "cpu:8")
    estimate, step = figures["step"]["estimate"], figures["step"]
    assert estimate["arithmetic_ms"] == pytest.approx(1e3 * step["flops_per_chip"] / 1e12)
    payload = sum(c["bytes"] * c["per_step"] for c in step["collectives"])
    assert estimate["communication_ms"] == pytest.approx(1e3 * 2 * 7 / 8 * payload / 1e8)
    assert estimate["epoch_s"] == pytest.approx(1e-3 * estimate["step_ms"] * figures["steps_per_epoch"])
    assert estimate["weak_scaling"]["8"] > estimate["weak_scaling"]["256"] > 0
    assert (figures["largest_batch_per_chip"], figures["largest_batch_limit"]) == (128, "training examples")
    for title, table in preflight_tables.tables(figures):
        console.say(title)
        console.show(table)
    assert "weak scaling" in capsys.readouterr().err


def test_a_config_that_does_not_fit(machine, monkeypatch):
    config = small_config()
    config.train.batch_size = 1024
    machine(1e7)
    needed = preflight.examine(config, DESCRIPTION, "cpu:8", search=False)["memory"]["total_bytes"]
    machine(0.7 * needed)
    figures = preflight.examine(config, DESCRIPTION, "cpu:8")
    largest = figures["largest_batch_per_chip"]
    assert not figures["fits"] and figures["largest_batch_limit"] == "memory"
    assert 8 <= largest < 128 and largest % 8 == 0
    assert f"the largest batch that fits is {largest} per chip, {8 * largest} in all" in preflight.why_not(figures)


def test_the_line_over_the_batch_finds_the_largest():
    def search(needs, start, capacity=1000.0, limit=4096):
        known = {start: needs(start)}
        while (batch := preflight.predict(known, capacity, limit)) is not None:
            assert batch not in known
            known[batch] = needs(batch)
            if len(known) == 5:
                break
        return max((b for b, needed in known.items() if needed <= capacity), default=0)

    assert search(lambda b: 100 + 2 * b, 64) == 448  # 450, rounded down
    assert search(lambda b: 100 + 2 * b, 2048) == 448
    assert search(lambda b: 100 + 0.001 * b, 64) == 4096
    assert search(lambda b: 100 + 0.001 * b, 64, limit=190) == 184
    assert search(lambda b: 1100 + b, 64) == 0
    assert search(lambda b: 100 + 2 * b if b < 600 else math.inf, 2048) == 448
    assert 1500 < search(lambda b: 100 + 0.0002 * b**2, 64) <= 2120  # sqrt(900 / 0.0002) = 2121
    assert search(lambda b: 100 + 2 * b, 3) == 448
    assert search(lambda b: 990 + 2 * b, 4) == 5


def test_what_a_compiler_says_of_memory():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 20.50G of"
    )
    assert preflight.bytes_needed(message + " 15.75G hbm.") == 20.5 * 2**30
    message = (
        "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (770.00G) exceeds available HBM (15.75G)."
    )
    assert preflight.bytes_needed(message) == 770 * 2**30
    assert preflight.bytes_needed("RESOURCE_EXHAUSTED: something") == math.inf
    assert preflight.bytes_needed("INTERNAL: a defect") is None


def test_a_batch_that_does_not_divide():
    config = tiny_config.get_config()
    config.train.batch_size = 60
    with pytest.raises(FieldError, match=r"train.batch_size = 60.*8 devices"):
        preflight.examine(config, DESCRIPTION, "cpu:8")


def small_config():
    """Compiles in a second: the search makes several programs."""
    config = tiny_config.get_config()
    config.model.name, config.model.hidden, config.eval.attacks = "mlp", (8,), ("clean",)
    config.data.augment, config.attack.random_start = (), False
    return config


def run(*arguments):
    command = [sys.executable, "-m", "jaxrobust", "preflight", *arguments]
    return subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)


def test_wrong_use_ends_in_one_line():
    result = run("--config=configs/digits.py")
    assert result.returncode == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: --topology is missing")


def compiles(name):
    """Marks a test that needs a compiler for another machine."""
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


@pytest.mark.parametrize(
    "topology",
    [
        pytest.param("v5e:2x2", marks=compiles("libtpu")),
        pytest.param("v5p:1x1x1", marks=compiles("libtpu")),
        pytest.param("h200:4", marks=compiles("jax_cuda13_plugin")),
    ],
)
def test_a_machine_that_is_not_there(topology):
    result = run(
        *("--config=tests/tiny_config.py", f"--topology={topology}", "--config.train.batch_size=64", "--nosearch")
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert figures["chips"] == machines.parse(topology)[1] and figures["fits"]
    # Where a map is smaller than the kernel, XLA exchanges the two and writes the holes of a stride out as pixels.
    assert 0.95 < figures["step"]["flops_over_floor"] < 1.4
    assert figures["step"]["attack_steps"] == 2 and not figures["step"]["uncounted"]
    assert "libtpu" not in result.stderr, "the compiler's noise is hidden"


def test_nothing_is_left_of_the_fake_machine():
    assert machines.MACHINES["cpu"].bandwidth == 0 and jax.devices()[0].platform == "cpu"
