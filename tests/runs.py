"""Runs of the command as processes of their own."""

import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent

# Importing TensorFlow takes seconds, longer than many a run here, and only the files for TensorBoard need it.
_WITHOUT_TENSORBOARD = "import sys; sys.modules['clu'] = None; from jaxrobust import main"
# One from outside may come when the run has ended.
_SIGNAL = """
import os
from jaxrobust.runs.tensorboard import Writer
scalars = Writer.scalars
def scalars_and_signal(self, step, values):
    scalars(self, step, values)
    if step == {step}:
        os.kill(os.getpid(), {signal})
Writer.scalars = scalars_and_signal
"""


def start(workdir, *arguments, tensorboard=False, signal=None, step=20, **options):
    """A run of tiny_config.py; its messages are in `stderr` as text.

    Args:
        signal: that it sends itself soon after the step, one of those that are logged.
    """
    prepared = _SIGNAL.format(signal=int(signal), step=step) if signal else ""
    program = ("-m", "jaxrobust.main")
    if not tensorboard:
        program = ("-c", f"{_WITHOUT_TENSORBOARD}\n{prepared}\nmain.run()")
    command = [sys.executable, *program, "--config", TESTS / "tiny_config.py", "--workdir", workdir, *arguments]
    return subprocess.Popen(command, cwd=TESTS.parent, stderr=subprocess.PIPE, text=True, **options)
