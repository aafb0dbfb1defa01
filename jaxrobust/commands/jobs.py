"""Shared by train, evaluate and audit: the run's folder, and the options of several processes that share the work."""

import contextlib
import pathlib

import jax

from jaxrobust import config as config_lib, console, files
from jaxrobust.distributed import cluster, hosts, parallel
from jaxrobust.distributed.interruption import Interrupted


def add_arguments(parser) -> None:
    """Add --workdir, --config, and the options of a job of several processes."""
    parser.add_argument("--workdir", metavar="DIR", help="folder of the run; default: runs/<name of the config file>")
    parser.add_config()
    # Under SLURM and on Cloud TPU these values are found automatically.
    text = "HOST:PORT of process 0; default: $JAX_COORDINATOR_ADDRESS"
    parser.add_argument("--coordinator", metavar="HOST:PORT", help=text)
    text = "number of processes; 1: only this one; default: $JAX_NUM_PROCESSES"
    parser.add_number("--processes", int, 1, text)
    text = "number of this process, from 0; default: $JAX_PROCESS_ID"
    parser.add_number("--process", int, 0, text)
    text = "seconds to wait for the other processes; default: %(default)s"
    parser.add_number("--start_timeout", float, 1, text, default=300.0)
    text = "seconds without a sign of life after which a process counts as lost; default: %(default)s"
    parser.add_number("--process_timeout", float, 5, text, default=60.0)


def workdir(given) -> pathlib.Path:
    """The run's folder."""
    if given.workdir is None:
        given.config.required()
    return files.folder(given.workdir if given.workdir is not None else f"runs/{given.config.file.stem}", "workdir")


@contextlib.contextmanager
def connected(given, **settings):
    """Connect to the other processes of the job, if there are any, and check that all of them do the same: by their
    config, and by `settings`.
    """
    job = cluster.find(given.coordinator, given.processes, given.process)
    timeouts = {"start_timeout": given.start_timeout, "process_timeout": given.process_timeout}
    with hosts.connected(job, agreed=Interrupted, **timeouts):
        if hosts.several():
            console.speak(parallel.is_writer())  # only one of them prints messages
            settings |= files.flatten(config_lib.to_dict(given.config.values)) | given.config.overrides
            settings.pop("data.data_dir")  # may differ between hosts; the contents are compared when they are read
            hosts.check_alike(settings)
            console.say(
                f"{jax.process_count()} processes, {jax.device_count()} devices; if a process is lost, the others end "
                f"within {given.process_timeout:g} s, and the same command continues from the last checkpoint"
            )
        yield
