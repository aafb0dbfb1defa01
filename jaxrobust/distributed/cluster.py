"""Find the number of processes and the number of this process: from flags, the environment, SLURM or Cloud TPU."""

import dataclasses
import os

import jax

from jaxrobust.errors import FieldError, UserError


@dataclasses.dataclass(frozen=True)
class Job:
    """The processes that share the work, and the position of this one among them."""

    coordinator: str  # host:port of process 0
    processes: int
    process: int
    local_device_ids: tuple[int, ...] | None = None  # None: all devices that the process sees


def find(coordinator: str | None, processes: int | None, process: int | None) -> Job | None:
    """The job this process belongs to; None if there is only one process.

    Arguments that are None are read from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID (in an indexed
    Kubernetes job JOB_COMPLETION_INDEX), else from SLURM or Cloud TPU, if this is a job of several tasks or hosts.

    Raises:
        UserError: one of these values is missing or wrong.
    """
    environment = os.environ
    if processes is None:
        processes = _integer("JAX_NUM_PROCESSES")
    if processes == 1:
        return None
    coordinator = coordinator or environment.get("JAX_COORDINATOR_ADDRESS")
    if process is None:
        process = _integer("JAX_PROCESS_ID")
    if process is None and coordinator:
        process = _integer("JOB_COMPLETION_INDEX")
    local_device_ids = None
    if None in (coordinator, processes, process):
        cluster = _cluster()
        if cluster is not None:
            processes = cluster.get_process_count() if processes is None else processes
            if processes == 1 and not coordinator:
                return None
            process = cluster.get_process_id() if process is None else process
            coordinator = coordinator or cluster.get_coordinator_address(
                timeout_secs=60, override_coordinator_port=environment.get("JAX_COORDINATOR_PORT")
            )
            local_device_ids = _slurm_gpus() if cluster.name == "slurm" else None
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        there = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
        raise UserError(f"{' and '.join(missing)}: missing, given {there}; several processes need all three")
    _check(coordinator, processes, process)
    return Job(coordinator, processes, process, local_device_ids)


def _integer(name: str) -> int | None:
    """The value of an environment variable as an integer; None if it is not set."""
    value = os.environ.get(name)
    try:
        return None if value is None else int(value)
    except ValueError as error:
        raise FieldError(name, value, "is not an integer", "set it to an integer, or unset it") from error


def _check(coordinator, processes, process):
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise FieldError("--coordinator", coordinator, "is not HOST:PORT", "for example --coordinator=node1:7777")
    if processes < 1:
        raise FieldError("--processes", processes, "must be at least 1", "give the number of all processes")
    if not 0 <= process < processes:
        raise FieldError(
            "--process", process, f"must be from 0 to {processes - 1}", "number the processes from 0 without gaps"
        )


def _cluster():
    """JAX's description of the cluster this process runs in; None if it does not run in a cluster.

    `jax.distributed.initialize()` can detect the cluster, but it would start a service for a single task too, and it
    uses the network before it knows whether this is a cluster.
    """
    from jax._src import cloud_tpu_init, clusters

    candidates = []
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        candidates.append(clusters.SlurmCluster)
    platforms = jax.config.jax_platforms
    if cloud_tpu_init.running_in_cloud_tpu_vm and (not platforms or "tpu" in platforms):
        candidates += [clusters.GkeTpuCluster, clusters.GceTpuCluster]
    return next((cluster for cluster in candidates if cluster.is_env_present()), None)


def _slurm_gpus() -> tuple[int, ...] | None:
    """If several tasks on a node all see all of its GPUs: the GPU for this task, the one with its local number."""
    tasks = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split("(")[0]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return (int(os.environ["SLURM_LOCALID"]),) if tasks != "1" and len(visible) > 1 else None
