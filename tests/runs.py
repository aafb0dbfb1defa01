"""Runs of the command as processes of their own."""

import functools
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile

import jax

from jaxrobust import commands, main
from jaxrobust.runs.tensorboard import Writer

TESTS = pathlib.Path(__file__).parent

# Forked from a process that has nothing but imported what they need, which takes longer than many a run here.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([f"jaxrobust.commands.{name}" for name in ("train", "evaluate", "audit", "study")])
# That processes which a study starts do without TensorFlow as well.
WITHOUT_TENSORBOARD = "import sys; sys.modules['clu'] = None; from jaxrobust import commands; commands.run()"


class Forked:
    """A process of the command line, as `subprocess.Popen` with its messages in `stderr` as text.

    Args:
        entry: of the command line, without arguments.
        arguments: of the command line.
        devices: number of CPU devices.
        prepare: called there before.
    """

    def __init__(self, entry, arguments, *, devices=1, prepare=None):
        self._messages = tempfile.NamedTemporaryFile("r")  # noqa: SIM115
        given = (entry, [*map(str, arguments)], self._messages.name, devices, prepare)
        self._process = PROCESSES.Process(target=_enter, args=given, daemon=True)
        self._process.start()
        self.pid, self.kill = self._process.pid, self._process.kill

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def send_signal(self, number):
        os.kill(self.pid, number)

    def communicate(self, timeout=None):
        self._process.join(timeout)
        assert self.returncode is not None, "it does not end"
        return None, self._messages.read()


def _enter(entry, arguments, messages, devices, prepare):
    # Importing TensorFlow takes seconds, and only the files for TensorBoard need it.
    sys.modules["clu"] = None
    os.chdir(TESTS.parent)
    os.dup2(os.open(messages, os.O_WRONLY), 2)
    jax.config.update("jax_num_cpu_devices", devices)
    if prepare:
        prepare()
    sys.argv, sys.orig_argv = ["jaxrobust", *arguments], [sys.executable, "-c", WITHOUT_TENSORBOARD, *arguments]
    entry()


def _signal_soon(number, after_step):
    """To this process; one from outside may come when the run has ended."""
    scalars = Writer.scalars

    def scalars_and_signal(self, step, values):
        scalars(self, step, values)
        if step == after_step:
            os.kill(os.getpid(), number)

    Writer.scalars = scalars_and_signal


def start(workdir, *arguments, tensorboard=False, signal=None, step=20, devices=1):
    """A run of tiny_config.py; its messages are in `stderr` as text.

    Args:
        tensorboard: write files for it, in a process started as users do.
        signal: that it sends itself soon after the step, one of those that are logged.
    """
    arguments = ("--config", TESTS / "tiny_config.py", "--workdir", workdir, *arguments)
    if tensorboard:
        command = [sys.executable, "-m", "jaxrobust.main", *arguments]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
        return subprocess.Popen(command, cwd=TESTS.parent, stderr=subprocess.PIPE, text=True, env=environment)
    prepare = functools.partial(_signal_soon, int(signal), step) if signal else None
    return Forked(main.run, arguments, devices=devices, prepare=prepare)


def start_study(path, workdir, *arguments, prepare=None):
    return Forked(commands.run, ("study", "--study", path, "--workdir", workdir, *arguments), prepare=prepare)


def run_study(*arguments, **options):
    """Its exit code and what it said."""
    process = start_study(*arguments, **options)
    _, said = process.communicate(timeout=300)
    return process.returncode, said
