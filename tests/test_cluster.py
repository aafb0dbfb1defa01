"""A process knows which of how many it is."""

import types

import pytest

from jaxrobust.distributed import cluster
from jaxrobust.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({"SLURM_NTASKS": "2"}, None),  # in a batch script, outside of srun
        (SLURM, cluster.Job(None, 2, 1, (), "slurm")),
        (
            SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1", "CUDA_VISIBLE_DEVICES": "0,1"},
            cluster.Job(None, 2, 1, (1,), "slurm"),
        ),
        ({"JOB_COMPLETION_INDEX": "3"}, None),  # many runs by themselves
        (
            {"JAX_COORDINATOR_ADDRESS": "run-0.run:7777", "JAX_NUM_PROCESSES": "4", "JOB_COMPLETION_INDEX": "3"},
            cluster.Job("run-0.run:7777", 4, 3),
        ),
    ],
)
def test_environment_says_which_process_this_is(environment, expected, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cluster.find(None, None, None) == expected
    assert cluster.find(None, 1, None) is None


def test_flags_come_before_the_environment(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert cluster.find("[::1]:7777", 3, 2) == cluster.Job("[::1]:7777", 3, 2)
    assert cluster.find("[::1]:7777", None, None) == cluster.Job("[::1]:7777", 2, 1, (), "slurm")


def test_on_a_tpu_jax_finds_the_other_hosts(monkeypatch):
    monkeypatch.setattr(cluster, "jax", types.SimpleNamespace(config=types.SimpleNamespace(jax_platforms="tpu,cpu")))
    assert cluster.find(None, None, None) == cluster.Job(cluster=None)
    assert cluster.find(None, 1, None) is None


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (
            ("node1:7777", None, None),
            "processes = None: is missing beside coordinator = node1:7777; give coordinator, processes and process",
        ),
        ((None, 2, 0), "coordinator = None: is missing"),
        (("node1", 2, 0), "coordinator = 'node1'"),
        (("node1:http", 2, 0), "HOST:PORT"),
        (("node1:7777", 2, 2), "process = 2: must be from 0 to 1"),
        (("node1:7777", -1, 0), "processes = -1"),
    ],
)
def test_what_is_wrong_is_named(given, part):
    with pytest.raises(UserError) as error:
        cluster.find(*given)
    assert part in str(error.value)
