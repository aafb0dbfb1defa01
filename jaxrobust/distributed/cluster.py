"""Find the number of processes and the number of this process: from flags, the environment, SLURM or Cloud TPU."""

import dataclasses
import os
import re

import jax

from jaxrobust.errors import FieldError


@dataclasses.dataclass(frozen=True)
class Job:
    """The processes that share the work: arguments of `jax.distributed.initialize`, which finds what is None."""

    coordinator: str | None = None  # host:port of process 0
    processes: int | None = None
    process: int | None = None
    local_device_ids: tuple[int, ...] = ()  # the GPUs of this process; (): all that it sees
    # where JAX looks for what is None: "slurm", or None on a Cloud TPU, which may be of a single host.
    cluster: str | None = "deactivate"


def find(coordinator: str | None, processes: int | None, process: int | None) -> Job | None:
    """The job this process belongs to; None if there is only one process.

    Arguments that are None are read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (in an indexed
    Kubernetes job JOB_COMPLETION_INDEX), else from SLURM or Cloud TPU, if this is a job of several tasks or hosts.

    Raises:
        FieldError: one of these values is missing or wrong.
    """
    if processes is None:
        processes = _integer("JAX_NUM_PROCESSES", 1)
    if processes == 1:
        return None
    coordinator = coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS")
    if process is None:
        process = _integer("JAX_PROCESS_ID")
    if process is None and coordinator:
        process = _integer("JOB_COMPLETION_INDEX")
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [name for name, value in given.items() if value is None]
    found = Job()
    if missing:
        if (found := _cluster()) is None and len(missing) == len(given):
            return None
        if found is None:
            there = " and ".join(f"{name} = {value}" for name, value in given.items() if value is not None)
            raise FieldError(missing[0], None, f"is missing beside {there}", "give coordinator, processes and process")
        processes = found.processes if processes is None else processes
        process = found.process if process is None else process
    _check(coordinator, processes, process)
    return dataclasses.replace(found, coordinator=coordinator, processes=processes, process=process)


def _integer(name: str, least: int = 0, most: int = 10**9) -> int | None:
    """The value of an environment variable as an integer; None if it is not set."""
    value = os.environ.get(name)
    if value is None:
        return None
    if not re.fullmatch(r"\s*[+-]?[0-9]{1,10}\s*", value) or not least <= int(value) <= most:
        raise FieldError(name, value, f"is no whole number from {least} to {most:,}", "correct or unset it")
    return int(value)


def _check(coordinator, processes, process):
    """Check what is known of the three."""
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
            raise FieldError("coordinator", coordinator, "is not HOST:PORT", "write for example node1:7777")
    if processes is not None and processes < 1:
        raise FieldError("processes", processes, "must be at least 1", "give the number of all processes")
    if None not in (processes, process) and not 0 <= process < processes:
        remedy = "number the processes from 0 without gaps"
        raise FieldError("process", process, f"must be from 0 to {processes - 1}", remedy)


def _cluster() -> Job | None:
    """What JAX will find in the cluster this process runs in; None if it does not run in a cluster."""
    # JAX is not left to find that out: it would take a single SLURM task for a cluster, and uses the network.
    step = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")  # not set outside of srun
    if all(name in os.environ for name in step) and (processes := _integer("SLURM_NTASKS", 1) or 1) > 1:
        _integer("SLURM_JOB_ID")  # JAX reads it
        return Job(None, processes, _integer("SLURM_PROCID", 0, processes - 1), _slurm_gpus(), "slurm")
    # On the machines of Cloud TPU, JAX itself sets the platforms when it is imported.
    return Job(cluster=None) if "tpu" in (jax.config.jax_platforms or "") else None


def _slurm_gpus() -> tuple[int, ...]:
    """If several tasks on a node all see all of its GPUs: the GPU for this task, the one with its local number."""
    # JAX would give each task one GPU also where a task has the node, or only its own GPU, to itself.
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    local = _integer("SLURM_LOCALID")
    return (local,) if tasks != "1" and len(visible) > 1 else ()
