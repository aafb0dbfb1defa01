"""What the benchmark counts and how it reports; how fast the machine is, is no matter of a test."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
import tiny_config

from jaxrobust import benchmark, build, data, hlo, measuring, parallel

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
import runpy, sys
for name in {blocked!r}:
    sys.modules[name] = None
sys.argv[0] = "benchmark"
runpy.run_module("jaxrobust.benchmark", run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", program, *arguments]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=120)


def test_a_line_of_json_on_random_pixels_without_tensorflow(tmp_path):
    """CIFAR-10 is not there, nor is anything that could read it; a trace is written."""
    result = run(
        "--config=configs/cifar10_cnn.py",
        "--config.model.name=mlp",  # compiles quickly
        "--config.model.hidden=(16,)",
        "--config.eval.attacks=('clean','pgd20')",
        "--config.train.batch_size=8",
        "--config.eval.batch_size=8",
        "--config.attack.steps=3",
        f"--config.data.data_dir={tmp_path}",
        "--steps=1",
        f"--profile={tmp_path / 'trace'}",
        blocked=("tensorflow", "tensorflow_datasets", "clu", "tensorboard"),
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert all(figures[name] > 0 for name in POSITIVE)
    assert figures["model"] == "mlp" and figures["device"] == "cpu" and figures["devices"] == 1
    assert (figures["batch"], figures["attack_steps"], figures["eval_attack"]) == (8, 3, "pgd20")
    assert (figures["data"], figures["image_shape"]) == ("tfds:cifar10", [32, 32, 3])
    assert figures["train_examples"] == 49_000
    assert figures["s_per_epoch"] == pytest.approx(49_000 // 8 * figures["ms_per_step"] / 1e3)
    assert figures["epoch_over_clean_epoch"] == pytest.approx(figures["ms_per_step"] / figures["clean_ms_per_step"])
    assert figures["compile_s"] > figures["compile_warm_s"] > figures["trace_s"] / 10
    assert figures["floor_flops_per_image"] == 9 * figures["forward_flops_per_image"]
    assert "resident" in figures["peak_bytes_source"]
    assert "images/s" in result.stderr and "CPU" not in result.stdout
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((), "--config"),
        (("--config=configs/digits.py", "--config.train.epoch=3"), "train.epochs"),
        (("--config=configs/digits.py", "--images=10x8x8"), "--images"),
        (("--config=configs/digits.py", "--profile=/proc/nowhere"), "--profile"),
    ],
)
def test_wrong_input_ends_in_one_line(arguments, expected):
    result = run(*arguments)
    assert result.returncode == 2 and result.stdout == ""
    message = result.stderr.strip()
    assert message.startswith("error: ") and "\n" not in message and expected in message


@pytest.mark.parametrize(
    "model, objective, passes", [("cnn", "standard", 3), ("cnn", "pgd_at", 23), ("preact_resnet18", "pgd_at", 23)]
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
    description = data.Description("random", (16, 16, 3), 10, 80)
    mesh = parallel.make_mesh(jax.devices()[:1])
    program = hlo.read(build.lower_training(config, description, mesh, 10).compile().as_text())
    assert not program.unknown_loops and not program.unknown_calls
    assert build.floor_passes(config) == passes
    floor = passes * build.forward_flops(config, description, mesh)
    assert program.total.flops / 8 == pytest.approx(floor, rel=0.03)


def test_on_eight_devices():
    """Figures are of all devices together, arithmetic and memory of one."""
    config = tiny_config.get_config()
    config.model.name, config.model.hidden = "mlp", (16, 128)  # compiles quickly; the first layer is a small part
    config.eval.attacks = ("clean",)
    figures = benchmark.measure(config, build.description(config), seconds=0.1)
    assert figures["devices"] == 8 and figures["steps_per_dispatch"] == config.train.steps_per_dispatch
    assert figures["flops_over_floor"] == pytest.approx(1, abs=0.05)
    assert figures["images_per_s"] == pytest.approx(64e3 / figures["ms_per_step"])
    json.dumps(figures, allow_nan=False)


def test_plan_keeps_to_the_time_and_repeats_enough():
    done = []
    work = measuring.plan(done.append, seconds=0.5, times=3, least=2)
    assert work.times == 3 and work.repeats == 5
    measuring.in_turns([work])
    assert done == [1, 1, 3, 3, 3, 3, 3] and len(work.seconds) == 5
    assert measuring.plan(done.append, seconds=0.0, times=None, least=2).repeats == 2


def test_compilation_leaves_the_users_cache_alone(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    result = measuring.compilation(lambda: jax.jit(lambda x: jnp.sin(x) @ x).lower(jnp.ones((4, 4))))
    assert result.cold > 0 and result.warm > 0
    assert jax.config.jax_compilation_cache_dir == before
    assert result.compiled(jnp.ones((4, 4))).shape == (4, 4)
