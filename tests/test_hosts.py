"""Two processes on this machine that share one training: as separate as two hosts, but for the network."""

import os
import shutil
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny_config
from runs import start

from jaxrobust import files
from jaxrobust.config import objects
from jaxrobust.distributed import hosts, parallel
from jaxrobust.runs import checkpoints, results
from jaxrobust.training import setup as training_setup

STEPS_PER_EPOCH = (1297 - 100) // 64
EPOCHS = 6
ARGUMENTS = (
    "--config.objective.name=standard",
    "--config.train.average_decay=0",
    "--config.eval.attacks=('clean',)",
    f"--config.train.epochs={EPOCHS}",
    f"--config.eval.every_epochs={EPOCHS}",
)


# Two processes that agree, stop, and lose one of them, without a training.
SMALL = """
import os, pathlib, signal, sys, time
from jaxrobust.distributed import cluster, hosts
from jaxrobust.distributed.interruption import StopRequest
from jaxrobust.errors import UserError

coordinator, process, lost, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), pathlib.Path(sys.argv[4])

def refused(function, *arguments):
    try:
        function(*arguments)
    except UserError as error:
        return str(error)

def unreadable():
    assert process == 0
    raise UserError("unreadable")

try:
    with hosts.connected(cluster.find(coordinator, 2, process), process_timeout=100):
        assert hosts.gather({"mine": process * 100 * "x"}) == [{"mine": ""}, {"mine": 100 * "x"}]
        assert hosts.decide(lambda: process) == 0 and refused(hosts.decide, unreadable) == "unreadable"
        assert "seed = " in refused(hosts.check_alike, {"seed": process})
        assert refused(hosts.check_alike, {"seed": 1}) is None
        hosts.SHARED_SECONDS = 0.5
        (folder / str(process)).mkdir()
        assert refused(hosts.check_shared, folder) is None
        assert "process 1 of 2" in refused(hosts.check_shared, folder / str(process))
        with StopRequest() as outer:
            for step in range(1000):
                with StopRequest() as stop:
                    if step == 3 and process:
                        os.kill(os.getpid(), signal.SIGINT)
                    if stop:
                        break
                time.sleep(0.01)
            assert stop.signal_number == signal.SIGTERM and outer
        assert step > 3 and hosts.gather(step) == [step, step]
        if process == lost:
            os.kill(os.getpid(), signal.SIGKILL)
        if lost == 0:
            time.sleep(300)  # no collective that could fail
        hosts.gather("end")
except UserError as error:
    print(error, file=sys.stderr)
    hosts.leave(error.exit_code)
"""


def test_alone_everything_is_agreed():
    assert hosts.decide(lambda: 3) == 3 and hosts.gather(4) == [4]


@pytest.mark.parametrize(
    ("lost", "exit_code", "message"),
    [
        (1, hosts.GONE, "another process has ended"),
        pytest.param(0, -signal.SIGABRT, "another task died", marks=pytest.mark.slow),  # JAX's own
    ],
)
def test_two_processes_agree_and_stop_together_and_one_does_not_outlive_the_other(tmp_path, lost, exit_code, message):
    command = [sys.executable, "-c", SMALL, f"localhost:{free_port()}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    processes = [
        subprocess.Popen([*command, str(i), str(lost), tmp_path], env=environment, stderr=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert processes[lost].returncode == -signal.SIGKILL, said
    assert processes[1 - lost].returncode == exit_code and message in said[1 - lost], said


RESERVED = []


@pytest.fixture(scope="module", autouse=True)
def reserved_ports():
    yield
    for probe in RESERVED:
        probe.close()


def free_port():
    """A port that no other program is given meanwhile: it stays bound, and the coordinator may bind it as well."""
    RESERVED.append(probe := socket.socket())
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        probe.setsockopt(socket.SOL_SOCKET, option, 1)
    probe.bind(("localhost", 0))
    return probe.getsockname()[1]


def start_two(workdir, *arguments, signal=None, **options):
    """On two devices each; the second sends itself the signal."""
    job = (f"--coordinator=localhost:{free_port()}", "--processes=2", *arguments)
    return [start(workdir, *job, f"--process={i}", devices=2, signal=i and signal, **options) for i in range(2)]


def finish(processes, *exit_codes):
    """What they said, when they have ended as expected."""
    said = [process.communicate(timeout=300)[1] for process in processes]
    for process, text in zip(processes, said, strict=True):
        assert process.returncode in (exit_codes or (0,)), text
    return said


def arrays(workdir, epochs=EPOCHS):
    config = tiny_config.get_config()
    config.train.average_decay = 0.0
    mesh = parallel.make_mesh(jax.devices()[:1])
    like = training_setup.create(config, objects.dataset(config), mesh, 1).abstract_state()
    kept = checkpoints.Checkpoints(workdir, read_only=True)
    return jax.tree.leaves(kept.restore(STEPS_PER_EPOCH * epochs, like))


def counts(workdir):
    return {results.key_of(record): record["correct"] for record in results.read(workdir)}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """A run on two processes with two devices each."""
    workdir = tmp_path_factory.mktemp("two")
    said = finish(start_two(workdir, *ARGUMENTS, tensorboard=True))
    assert "2 processes, 4 devices" in said[0] and "epoch 1" in said[0] and "epoch 1" not in said[1]
    return workdir


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The same on one process with all four devices."""
    workdir = tmp_path_factory.mktemp("one")
    finish([start(workdir, *ARGUMENTS, devices=4)])
    return workdir


@pytest.mark.slow
def test_two_processes_train_as_one_with_all_of_their_devices(one_process, two_processes):
    # Sums over processes are rounded otherwise. In later epochs some ReLU comes to lie on the other side of zero, and
    # the runs part: as far as two runs of one process do, if the initial weights of one are changed by 1e-7.
    for ours, theirs in zip(arrays(two_processes, 1), arrays(one_process, 1), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_asked_to_stop_on_one_host_both_save_the_same_step_and_go_on(tmp_path, two_processes):
    processes = start_two(tmp_path, *ARGUMENTS, signal=signal.SIGTERM)
    said = finish(processes, 128 + signal.SIGTERM)
    assert all("the same command continues" in text for text in said)
    assert said[0].splitlines()[-1] == said[1].splitlines()[-1]
    assert "continuing at step" in finish(start_two(tmp_path, *ARGUMENTS))[0]
    for ours, theirs in zip(arrays(tmp_path), arrays(two_processes), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert counts(tmp_path) == counts(two_processes)
    assert [record["epoch"] for record in files.read_records(tmp_path / "training.jsonl")] == [*range(1, EPOCHS + 1)]


@pytest.mark.slow
def test_without_one_process_the_other_ends_and_any_number_goes_on(tmp_path):
    # In the third epoch, when the checkpoint of the first is there.
    processes = start_two(tmp_path, *ARGUMENTS, "--process_timeout=10", signal=signal.SIGKILL, step=40)
    finish(processes[1:], -signal.SIGKILL)
    said = finish(processes[:1], hosts.GONE, -signal.SIGABRT)[0]
    # Whether a collective fails, waits until JAX ends the process, or fails on one of its devices alone, whereupon Gloo
    # finds the two at odds, is decided by the moment.
    assert any(
        text in said for text in ("error: another process has ended", "another task died", "gloo::EnforceNotMet")
    )
    assert "continuing at step" in finish([start(tmp_path, *ARGUMENTS)])[0]
    assert {record["step"] for record in results.read(tmp_path)} == {STEPS_PER_EPOCH * EPOCHS}


@pytest.mark.slow
def test_two_processes_score_as_one_and_pass_over_a_damaged_checkpoint(tmp_path, one_process):
    (tmp_path / "config.json").write_bytes((one_process / "config.json").read_bytes())
    first, last = STEPS_PER_EPOCH, STEPS_PER_EPOCH * EPOCHS
    for step in (first, last):
        shutil.copytree(one_process / "checkpoints" / str(step), tmp_path / "checkpoints" / str(step))
    (tmp_path / "checkpoints" / str(first) / "state" / "manifest.ocdbt").write_bytes(b"")
    # A suite of which one member has two parts, with small batches, so that the processes have to pack anew together.
    evaluation = ("--mode=evaluate", *ARGUMENTS, "--config.eval.attacks=('fgsm+pgd21',)", "--config.eval.batch_size=32")
    said = finish(start_two(tmp_path, *evaluation))
    assert f"checkpoints/{first} cannot be read" in said[0] and "warning" not in said[1]
    finish([start(one_process, *evaluation, "--config.eval.checkpoints=last", devices=4)])
    attacks = [record["attack"] for record in results.read(tmp_path)]
    assert attacks == 2 * ["clean", "fgsm+pgd21/fgsm", "fgsm+pgd21/pgd21", "fgsm+pgd21"]
    assert counts(tmp_path) == counts(one_process)


@pytest.mark.slow
def test_two_processes_audit_as_one(tmp_path, one_process):
    audited = ("--mode=audit", *ARGUMENTS, "--config.audit.attack=cw3", "--config.audit.matrix_attack=cw3")
    audited += ("--config.audit.masking=False",)
    # One image on each device: one size of batches, and little to compile.
    small = ("--config.audit.examples=31", "--config.audit.targets=2", "--config.eval.batch_size=4")
    for name in ("one", "two"):
        shutil.copytree(one_process, tmp_path / name)
    finish([start(tmp_path / "one", *audited, *small, devices=4)])
    said = finish(start_two(tmp_path / "two", *audited, *small))
    assert "audit under" in said[0] and "audit" not in said[1]
    one, two = (files.read_json(tmp_path / name / "audit.json") for name in ("one", "two"))
    for audit in (one, two):
        for part in ("curve", "matrix"):
            del audit[part]["seconds"], audit[part]["passes"], audit[part]["idle"]  # of other batches
    assert one == two


@pytest.mark.slow
def test_who_cannot_join_says_so_in_one_line(tmp_path):
    alone = ("--processes=2", "--start_timeout=4")
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::", 0))
        taken.listen()
        port = taken.getsockname()[1]
        processes = [
            start(tmp_path, *alone, f"--coordinator=localhost:{port}", "--process=0"),
            start(tmp_path, *alone, f"--coordinator=localhost:{free_port()}", "--process=0"),
            start(tmp_path, *alone, f"--coordinator=localhost:{free_port()}", "--process=1"),
        ]
        said = finish(processes[:1], 2) + finish(processes[1:], hosts.GONE)
    for text, part in zip(
        said, ["the port cannot be opened", "not all processes have connected", "cannot reach process 0"], strict=True
    ):
        assert text.startswith("error: ") and text.count("\n") == 1 and part in text


@pytest.mark.slow
def test_processes_of_different_commands_are_refused(tmp_path):
    port = free_port()
    job = (f"--coordinator=localhost:{port}", "--processes=2")
    processes = [start(tmp_path, *job, f"--process={i}", f"--config.train.seed={i}") for i in range(2)]
    said = finish(processes, 2)
    assert all("train.seed = " in text and "the same command" in text for text in said)
    assert not (tmp_path / "config.json").exists()
