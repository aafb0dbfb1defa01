"""The main command: train, evaluate or audit, depending on --mode.

python -m jaxrobust.main --config configs/cifar10.py [--workdir DIR] [--mode MODE] [--config.FIELD=VALUE]
"""

import pathlib

import jax
from absl import flags

from jaxrobust import config as config_lib
from jaxrobust import console, files
from jaxrobust.audit import auditor
from jaxrobust.commands import command_line
from jaxrobust.distributed import cluster, hosts, parallel
from jaxrobust.distributed.interruption import Interrupted
from jaxrobust.errors import UserError
from jaxrobust.evaluation import evaluator as evaluator_lib
from jaxrobust.evaluation import loading
from jaxrobust.reports import audit as audit_page
from jaxrobust.reports import run as run_page
from jaxrobust.training import loop

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/<name of the config file>.")
_MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ("train", "evaluate", "audit"),
    "train (and evaluate); evaluate existing checkpoints; or audit the best checkpoint, class by class.",
)
_FOLLOW = flags.DEFINE_bool("follow", False, "With --mode evaluate: wait for new checkpoints until the last one.")
# For several processes that share the work. Under SLURM and on Cloud TPU these values are found automatically.
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0. Default: $JAX_COORDINATOR_ADDRESS.")
_PROCESSES = flags.DEFINE_integer(
    "processes", None, "Number of processes; 1: only this one. Default: $JAX_NUM_PROCESSES."
)
_PROCESS = flags.DEFINE_integer("process", None, "Number of this process, from 0. Default: $JAX_PROCESS_ID.")
_START_TIMEOUT = flags.DEFINE_float("start_timeout", 300, "Seconds to wait for the other processes.", lower_bound=1)
_PROCESS_TIMEOUT = flags.DEFINE_float(
    "process_timeout", 60, "Seconds without a sign of life after which a process counts as lost.", lower_bound=5
)


def main() -> int | None:
    """Run what the flags say. Returns the exit code, None for success."""
    if _FOLLOW.value and _MODE.value != "evaluate":
        raise UserError("--follow waits for another process's checkpoints; use it with --mode evaluate")
    workdir = _workdir()
    job = cluster.find(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    timeouts = {"start_timeout": _START_TIMEOUT.value, "process_timeout": _PROCESS_TIMEOUT.value}
    try:
        with hosts.connected(job, agreed=Interrupted, **timeouts):
            if hosts.several():
                _meet()
            if _MODE.value == "evaluate":
                evaluator_lib.evaluate_checkpoints(workdir, command_line.overrides(), follow=_FOLLOW.value)
            elif _MODE.value == "audit":
                content = auditor.audit_run(workdir, command_line.overrides())
                if parallel.is_writer():
                    audit_page.show(content)
            else:
                loop.train_and_evaluate(command_line.config(), workdir)
            run_page.finish(workdir)
    except loop.Diverged as error:
        return command_line.fail(str(error), exit_code=1)
    return None


def _meet() -> None:
    """Check that all processes have the same settings; only one of them prints messages."""
    console.speak(parallel.is_writer())
    mode = {"--mode": _MODE.value, "--follow": _FOLLOW.value}
    given = command_line.config() if command_line.config_file() else config_lib.default()
    settings = mode | files.flatten(config_lib.to_dict(given)) | command_line.overrides()
    settings.pop("data.data_dir")  # may differ between hosts; the contents are compared when they are read
    hosts.check_alike(settings)
    console.say(
        f"{jax.process_count()} processes, {jax.device_count()} devices; if a process is lost, the others end within "
        f"{_PROCESS_TIMEOUT.value:g} s, and the same command continues from the last checkpoint"
    )


def _workdir() -> pathlib.Path:
    if _WORKDIR.value is not None:
        return loading.path(_WORKDIR.value)
    command_line.config()  # raises UserError if no config was given
    return pathlib.Path("runs") / command_line.config_file().stem


def run() -> None:
    """Entry point."""
    command_line.run(main)


if __name__ == "__main__":
    run()
