"""Wrong input ends in one line that names field, value and remedy, and exit code 2."""

import faulthandler
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxrobust import main

ROOT = pathlib.Path(__file__).parent.parent
TINY = "tests/tiny_config.py"


def run(*arguments, **environment):
    command = [sys.executable, "-m", "jaxrobust.main", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | environment, timeout=300)


@pytest.fixture
def run_here(monkeypatch, capfd):
    """As `run`, in this process: its exit code and what it wrote, to the streams or their descriptors."""

    def run_here(*arguments):
        monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["main", *arguments])
        monkeypatch.setattr(faulthandler, "enable", lambda: None)  # pytest's is kept
        capfd.readouterr()
        interrupted = signal.getsignal(signal.SIGINT)
        with pytest.raises(SystemExit) as ended:
            main.run()
        signal.signal(signal.SIGINT, interrupted)
        return subprocess.CompletedProcess(arguments, ended.value.code, *capfd.readouterr())

    return run_here


def tiny(*overrides):
    return ("--config", TINY, *overrides)


def npz(folder, **changes):
    """A small data set with some arrays replaced."""
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 256, (80, 8, 8, 1), dtype=np.uint8),
        "train_labels": np.arange(80) % 4,
        "test_images": rng.integers(0, 256, (20, 8, 8, 1), dtype=np.uint8),
        "test_labels": np.arange(20) % 4,
    }
    np.savez(folder / "data.npz", **arrays | changes)
    return ("--config", TINY, f"--config.data.name=arrays:{folder / 'data.npz'}")


def written(folder, body):
    """A config file."""
    path = folder / "written.py"
    path.write_text(f"from jaxrobust.config import default\ndef get_config():\n    {body}\n")
    return str(path)


def floats(pixel):
    images = np.full((80, 8, 8, 1), 0.5, np.float32)
    images[3, 2, 1] = pixel
    return images


CASES = {
    "no config": (lambda tmp: (), ["--config"]),
    "config file": (lambda tmp: ("--config", "configs/nope.py"), ["configs/nope.py"]),
    "config file with an unknown field": (
        lambda tmp: ("--config", written(tmp, "c = default()\n    c.train.epoch = 3\n    return c")),
        ["epoch", "line 4"],
    ),
    "config file without return": (lambda tmp: ("--config", written(tmp, "default()")), ["returned no config"]),
    "config file with a wrong type": (
        lambda tmp: ("--config", written(tmp, "c = default()\n    c.train.epochs = 'a'\n    return c")),
        ["epochs", "line 4"],
    ),
    "no option": (lambda tmp: tiny("foo"), ["foo"]),
    "field": (lambda tmp: tiny("--config.train.epoch=3"), ["train.epoch", "train.epochs"]),
    "type": (lambda tmp: tiny("--config.train.epochs=2.5"), ["train.epochs", "2.5"]),
    "data set": (lambda tmp: tiny("--config.data.name=cifar"), ["data.name", "cifar"]),
    "model": (lambda tmp: tiny("--config.model.name=vgg"), ["model.name", "vgg", "resnet18"]),
    "attack": (lambda tmp: tiny("--config.eval.attacks=('clean','pgdx')"), ["eval.attacks", "pgdx"]),
    "attack of an audit": (lambda tmp: tiny("--config.audit.attack=pgdx"), ["audit.attack", "pgdx"]),
    "nothing to audit": (lambda tmp: ("--mode", "audit", "--workdir", str(tmp)), ["workdir", "no run"]),
    "negative radius": (lambda tmp: tiny("--config.threat.eps_255=-8"), ["threat.eps_255", "-8"]),
    "radius as a fraction": (lambda tmp: tiny("--config.threat.eps_255=0.031"), ["threat.eps_255", "0.031", "7.9"]),
    "huge radius": (lambda tmp: tiny("--config.threat.eps_255=2000"), ["threat.eps_255", "2000"]),
    "replaced radius": (
        lambda tmp: tiny("--config.threat.eps=0.1", "--config.threat.eps_255=4"),
        ["threat.eps_255 = 4", "threat.eps = 0.1"],
    ),
    "devices": (lambda tmp: tiny("--config.train.batch_size=65"), ["train.batch_size", "65", "multiple of 8"]),
    "labels": (lambda tmp: npz(tmp, class_names=np.array(["a", "b", "c"])), ["data", "3"]),
    "image type": (lambda tmp: npz(tmp, train_images=np.zeros((80, 8, 8, 1), np.int32)), ["data", "int32"]),
    "image range": (lambda tmp: npz(tmp, train_images=floats(7.0), test_images=floats(0.0)[:20]), ["data", "255"]),
    "NaN": (lambda tmp: npz(tmp, train_images=floats(np.nan), test_images=floats(0.0)[:20]), ["data", "NaN"]),
    "class without examples": (lambda tmp: npz(tmp, class_names=np.array(list("abcde"))), ["data", "'e'"]),
    "workdir": (lambda tmp: tiny("--workdir", "/proc/nowhere"), ["cannot be written", "/proc/nowhere"]),
    "data not there": (
        lambda tmp: tiny("--config.data.name=tfds:cifar10", f"--config.data.data_dir={tmp}"),
        ["data.", "cifar10"],
    ),
    "nothing to evaluate": (lambda tmp: ("--mode", "evaluate", "--workdir", str(tmp)), ["workdir", "no run"]),
}


def test_training_needs_no_tensorflow_and_keeps_its_programs_in_the_users_cache(tmp_path):
    """TensorBoard files alone need clu and TensorFlow; without them there is a warning, and all the rest."""
    program = """
import sys
for name in ("tensorflow", "clu", "tensorflow_datasets", "tensorboard"):
    sys.modules[name] = None
from jaxrobust import main
main.run()
"""
    small = ("--config.model.name=linear", "--config.train.epochs=1", "--config.eval.attacks=('clean',)")
    workdir, cache = tmp_path / "run", tmp_path / "cache"
    arguments = [*tiny("--workdir", str(workdir)), *small, "--config.checkpoint.every_epochs=1"]
    # Empty is as good as unset, for both.
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": "", "XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-c", program, *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "no TensorBoard files" in result.stderr
    assert (workdir / "report.html").exists() and not (workdir / "tensorboard").exists()
    (processor,) = (cache / "jaxrobust" / "compiled").iterdir()
    assert any(path.name.startswith("jit_train_steps") for path in processor.iterdir())


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_ends_in_one_line(case, tmp_path, run_here):
    arguments, expected = CASES[case]
    arguments = arguments(tmp_path)
    workdir = () if "--workdir" in arguments else ("--workdir", str(tmp_path / "run"))
    assert_one_line(run_here(*arguments, *workdir), expected)
    assert not (tmp_path / "run" / "config.json").exists(), "a run that never began leaves no trace of its config"


def test_importing_the_command_adds_no_line():
    assert_one_line(run(*tiny("--config.model.name=vgg")), ["model.name", "vgg", "resnet18"])


def assert_one_line(result, expected):
    assert result.returncode == 2, result.stderr
    message = result.stderr.strip()
    assert message.startswith("error: ") and "\n" not in message and result.stdout == ""
    for part in expected:
        assert part in message


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 1, 4])
def test_an_interruption_before_the_training_is_one_line(tmp_path, seconds):
    """During imports, compilation and whatever else; later the training saves first."""
    # A process in the background, as these tests may be, ignores the signal, and passes that on.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{heard}; from jaxrobust import commands; print(flush=True); commands.run()"
    command = [sys.executable, "-c", program, "train", *tiny("--workdir", str(tmp_path / "run"))]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **options) as process:
        process.stdout.readline()  # Python itself has started
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "Traceback" not in said and len(said.splitlines()) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("name, value", [("JAX_PLATFORMS", "nowhere"), ("JAX_ENABLE_X64", "banana")])
def test_what_jax_cannot_use_in_the_environment_is_one_line(tmp_path, name, value):
    assert_one_line(run(*tiny("--workdir", str(tmp_path)), **{name: value}), [value])


def test_an_output_that_is_full_is_one_line():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "jaxrobust", "fields"]
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300)
    assert_one_line(subprocess.CompletedProcess(command, done.returncode + 1, "", done.stderr), ["the output"])
