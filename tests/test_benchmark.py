"""What the benchmark counts and how it reports; how fast the machine is, is no matter of a test."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import time

import jax
import pytest
import tiny_config

from jaxrobust import console, data
from jaxrobust.commands import front_end
from jaxrobust.config import objects
from jaxrobust.distributed import parallel
from jaxrobust.errors import UserError
from jaxrobust.performance import benchmark
from jaxrobust.performance.compiled import costs, hlo, measuring
from jaxrobust.performance.compiled.program import Kernel, Program

ROOT = pathlib.Path(__file__).parent.parent
POSITIVE = (
    "batch",
    "images_per_s",
    "s_per_epoch",
    "ms_per_step",
    "ms_per_step_back_to_back",
    "clean_ms_per_step",
    "epoch_over_clean_epoch",
    "eval_examples_per_s",
    "compile_s",
    "compile_warm_s",
    "trace_s",
    "forward_flops_per_image",
    "flops_per_image",
    "flops_over_floor",
    "tflops_per_s",
    "matmul_tflops_per_s",
    "tflops_over_matmul",
    "peak_bytes",
    "program_argument_bytes",
    "step_kernels",
    "step_bytes_per_image",
)


def run(*arguments, blocked=()):
    program = f"""
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from jaxrobust.commands import front_end
front_end.run(["benchmark", *sys.argv[1:]])
"""
    command = [sys.executable, "-c", program, *arguments]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)


def test_a_line_of_json_on_random_pixels_without_tensorflow(tmp_path):
    """CIFAR-10 is not there, nor is anything that could read it; a trace is written."""
    result = run(
        "--config=configs/cifar10_cnn.py",
        "--config.model.name=linear",  # compiles quickly
        "--config.data.augment=()",
        "--config.eval.attacks=('clean','pgd20')",
        "--config.train.batch_size=8",
        "--config.eval.batch_size=8",
        "--config.attack.steps=3",
        "--config.remedy.name=dafa",  # sets a knob that the steps without attack do not have
        f"--config.data.data_dir={tmp_path}",
        "--steps=1",
        f"--profile={tmp_path / 'trace'}",
        blocked=("tensorflow", "tensorflow_datasets", "clu", "tensorboard"),
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert all(figures[name] > 0 for name in POSITIVE)
    assert (
        figures["model"] == figures["model_title"] == "linear"
        and figures["device"] == "cpu"
        and figures["devices"] == 1
    )
    assert (figures["batch"], figures["attack_steps"], figures["eval_attack"]) == (8, 3, "pgd20")
    assert (figures["data"], figures["image_shape"]) == ("tfds:cifar10", [32, 32, 3])
    assert figures["train_examples"] == 49_000
    assert figures["forward_flops_per_image"] == 2 * 3072 * 10
    assert figures["floor_flops_per_image"] == 9 * 2 * 3072 * 10
    assert "resident" in figures["peak_bytes_source"]
    assert figures["data_set_bytes_missing"] == 0 and figures["roofline_ms_per_step"] is None
    assert 0 <= figures["attack_step_layout_changes"] <= figures["attack_step_kernels"]
    assert 0 <= figures["step_layout_changes"] < figures["step_kernels"]
    assert "images/s" in result.stderr and "CPU" not in result.stdout
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("--config=configs/digits.py", "--images=10x8x8"), "--images"),
        (("--config=configs/digits.py", "--config.eval.batch_size=248", "--profile=/proc/nowhere"), "--profile"),
    ],
)
def test_wrong_input_ends_in_one_line(arguments, expected, capfd):
    assert front_end.main(["benchmark", *arguments]) == 2
    output, message = capfd.readouterr()
    assert output == ""
    assert message.startswith("error: ") and message.count("\n") == 1 and expected in message


@pytest.mark.parametrize(
    "model, objective, passes",
    [("cnn", "standard", 3), pytest.param("preact_resnet18", "pgd_at", 23, marks=pytest.mark.slow)],
)
def test_the_step_executes_no_more_arithmetic_than_the_floor(model, objective, passes):
    """Within 3 % of F times the passes, where the first layer is a small part of it.

    Below it, for training needs no gradient with respect to the images: one time the first layer less.
    """
    config = tiny_config.get_config()
    config.model.name, config.model.width = model, 32
    config.objective.name = objective
    config.attack.steps = 10
    config.train.batch_size = 8
    description = data.Description("random", (32, 32, 3), 10, 80)
    mesh = parallel.make_mesh(jax.devices()[:1])
    # What LLVM makes of it is no matter here, and most of the time.
    compiled = costs.lower_training(config, description, mesh, 10).compile({"xla_backend_optimization_level": 0})
    program = hlo.read(compiled.as_text(), steps=costs.dispatch_length(config, description, mesh))
    assert not program.unknown_loops and not program.unknown_calls
    assert costs.floor_passes(config) == passes
    floor = passes * costs.forward_flops(config, description, mesh)
    assert program.total.flops / 8 == pytest.approx(floor, rel=0.03)


def test_on_eight_devices(monkeypatch, capsys):
    """Figures are of all devices together, arithmetic and memory of one. What is not there or inlined is said."""
    monkeypatch.setattr(measuring, "LARGEST_PRODUCT", 512)  # eight devices in turns on a few cores
    config = tiny_config.get_config()
    config.model.name = "linear"  # compiles quickly
    config.data.augment = ()
    config.attack.steps = 1
    config.eval.attacks = ("clean",)
    monkeypatch.setattr(data, "random_dataset", functools.partial(data.random_dataset, largest_bytes=2**16))
    description = data.Description("large", (8, 8, 1), 10, 2**23)  # all but 1024 images are left out
    started = time.monotonic()
    figures = benchmark.measure(config, description, seconds=0.1)
    elapsed = time.monotonic() - started
    assert figures["devices"] == 8 and figures["steps_per_dispatch"] == config.train.steps_per_dispatch
    # Of the floor's 5 F, training leaves out the gradient of the only layer with respect to the images.
    assert figures["floor_passes"] == 5 and figures["flops_over_floor"] == pytest.approx(4 / 5)
    images = figures["repeats"] * figures["steps_per_repeat"] * 64
    assert images / elapsed < 64e3 / figures["ms_per_step_fastest"]
    assert figures["s_per_epoch"] == pytest.approx(2**23 / figures["images_per_s"], rel=1e-4)
    assert figures["data_set_bytes_missing"] == (2**23 - 2**10) * 68  # with labels of 4 bytes
    assert figures["attack_steps"] == 1 and figures["attack_step_kernels"] is None
    json.dumps(figures, allow_nan=False)
    console.show(benchmark.table(figures))
    shown = capsys.readouterr().err
    assert "inlined" in shown and "0.57 GB of the data set" in shown


def test_rates_of_known_devices():
    """A second of arithmetic and one of traffic, apart: in turn on a GPU, at the same time on a TPU."""
    h200 = Kernel("a", "matmul", 989e12, 0.0, "bf16", 1, False), Kernel("b", "copy", 0.0, 4.8e12, "", 1, False)
    v5e = Kernel("a", "matmul", 197e12, 0.0, "bf16", 1, False), Kernel("b", "copy", 0.0, 819e9, "", 1, False)
    for kind, kernels, seconds in (("NVIDIA H200", h200, 2), ("TPU v5 lite", v5e, 1), ("cpu", h200, None)):
        program = Program(kernels, None, 0, (), (), ())
        assert benchmark.roofline_seconds(kind, program, 1) == (seconds and pytest.approx(seconds))


def test_one_of_several_processes_measures_nothing(monkeypatch):
    for name, value in {"JAX_COORDINATOR_ADDRESS": "node:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="one of several processes"):
        benchmark.measure(tiny_config.get_config(), data.Description("random", (8, 8, 1), 10, 80))


def test_data_that_cannot_be_streamed_cost_no_measurement(folder, capsys):
    config = tiny_config.get_config()
    config.data.name, config.data.data_dir, config.data.streaming = "tfds:fixed", str(folder), True
    config.data.validation_per_class = 0
    config.train.batch_size = 8
    for shard in folder.rglob("*.array_record*"):
        shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError, match=r"^data.name = 'tfds:fixed'"):
        benchmark.measure(config, objects.description(config))
    assert "compiling" not in capsys.readouterr().err
