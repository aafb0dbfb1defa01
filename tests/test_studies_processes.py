"""Several runs of a study at a time: one is killed, all are stopped."""

import os
import pathlib
import signal
import time

import pytest
import small_study
from runs import start_study as start

from jaxrobust.studies import design, processes, running


def workers(workdir):
    """The processes that train, by the name of the run."""
    found = {}
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            log = pathlib.Path(os.readlink(process / "fd" / "2"))
        except OSError:  # it has ended, or is another user's
            continue
        # Said after signals are heeded and before anything is compiled.
        if log.is_relative_to(workdir) and "no TensorBoard" in log.read_text():
            found[log.parent.name] = int(process.name)
    return found


def until_at_work(workdir, process):
    while len(found := workers(workdir)) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    return found


@pytest.mark.slow
def test_a_killed_process_fails_its_run_and_ends_no_other(tmp_path):
    path, workdir = small_study.declare(tmp_path / "study.py"), tmp_path / "study"
    process = start(path, workdir, "--processes", "2")
    os.kill(until_at_work(workdir, process)["slow"], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 1 and "runs missing" in said and "1 of 2" in said
    assert "run slow failed: its process was ended by SIGKILL; see" in said and "run fast took" in said
    states = {planned.name: running.status(workdir, planned).state for planned in small_study.plan(path)}
    assert states == {"fast": "done", "slow": "failed"}


@pytest.mark.slow
def test_processes_save_when_asked_to_stop_and_when_the_parent_is_gone(tmp_path):
    # Without end, if nobody ends them.
    fields = {"train.epochs": 10**6, "eval.every_epochs": 10**6, "checkpoint.every_epochs": 10**6}
    path, workdir = small_study.declare(tmp_path / "study.py", **fields), tmp_path / "study"
    logs = [workdir / "runs" / name / processes.LOG for name in ("fast", "slow")]

    process = start(path, workdir, "--processes", "2")
    first, second = (os.sched_getaffinity(pid) for pid in until_at_work(workdir, process).values())
    assert len(os.sched_getaffinity(0)) == 1 or not first & second
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130 and "the same command continues" in said and not workers(workdir)
    for log in logs:
        assert "saved step" in log.read_text()
        log.unlink()

    process = start(path, workdir, "--processes", "2")
    until_at_work(workdir, process)
    process.kill()
    process.communicate()
    while workers(workdir):
        time.sleep(0.02)
    for log in logs:
        assert "continuing at step" in log.read_text() and "saved step" in log.read_text()


def test_cores_and_gpus_are_dealt_out():
    assert [processes.share(range(8), i, 3) for i in range(3)] == [[0, 1], [2, 3, 4], [5, 6, 7]]
    assert [processes.share("ab", i, 4) for i in range(4)] == [["a"], ["a"], ["b"], ["b"]]
    assert [processes.share([], i, 2) for i in range(2)] == [[], []]


def test_processes_compute_with_the_threads_and_gpus_of_one(monkeypatch):
    """Which a sum is cut up by: 3 of 5 GPUs would round otherwise than 2 of them, a thread otherwise than two."""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3,4")
    monkeypatch.delenv("NPROC", raising=False)
    shares = processes.shares_of(2)
    assert {environment["NPROC"] for _, environment in shares} == {str(len(os.sched_getaffinity(0)))}
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in shares] == ["0,1", "2,3"]
    monkeypatch.setenv("NPROC", "1")
    assert processes.shares_of(2)[0][1]["NPROC"] == "1"


def test_processes_on_one_gpu_share_its_memory_unless_the_user_has_said_how():
    fraction = "XLA_CLIENT_MEM_FRACTION"
    assert processes.environment({"A": "b"}, [], 0, 4) == {"A": "b"}
    assert processes.environment({}, ["3"], 4, 4) == {"CUDA_VISIBLE_DEVICES": "3"}
    assert processes.environment({}, ["0"], 1, 3) == {"CUDA_VISIBLE_DEVICES": "0", fraction: "0.300"}
    for name in (fraction, "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_PREALLOCATE"):
        assert set(processes.environment({name: "x"}, ["0"], 1, 3)) == {name, "CUDA_VISIBLE_DEVICES"}


def test_the_time_left_goes_by_arithmetic_and_what_every_run_takes_beside_it(monkeypatch):
    planned = [design.Planned(name, {}, None) for name in "abcd"]
    monkeypatch.setattr(running, "flops", lambda _: {"a": 1.0, "b": 4.0, "c": 2.0, "d": 3.0})
    clock = processes.Clock(planned, 2)
    assert clock.tick(planned[0], 20.0, [15.0, 5.0]) == "; 3 left, about 1:20"  # (9 * 20 - 20) / 2
    assert clock.tick(planned[1], 50.0, [5.0, 5.0]) == "; 2 left, about 0:30"  # (30 + 40 - 10) / 2: 10 and 10 each
    assert clock.tick(planned[2], 0, [10.0]) == "; 1 left, about 0:15"
    assert clock.tick(planned[3], 40.0, []) == ""
