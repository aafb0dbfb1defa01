"""Runs of the command as processes of their own."""

import pathlib
import subprocess
import sys

TESTS = pathlib.Path(__file__).parent

# Importing TensorFlow takes seconds, longer than many a run here, and only the files for TensorBoard need it.
_WITHOUT_TENSORBOARD = "import sys; sys.modules['clu'] = None; from jaxrobust import main; main.run()"


def start(workdir, *arguments, tensorboard=False, **options):
    """A run of tiny_config.py; its messages are in `stderr` as text."""
    program = ("-m", "jaxrobust.main") if tensorboard else ("-c", _WITHOUT_TENSORBOARD)
    command = [sys.executable, *program, "--config", TESTS / "tiny_config.py", "--workdir", workdir, *arguments]
    return subprocess.Popen(command, cwd=TESTS.parent, stderr=subprocess.PIPE, text=True, **options)
