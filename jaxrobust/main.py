"""The main command: flags and dispatch on --mode.

python -m jaxrobust.main --config configs/cifar10.py [--workdir DIR] [--mode train|evaluate] [--config.FIELD=VALUE]
"""

import pathlib

from absl import flags

from jaxrobust import command_line, evaluate, train
from jaxrobust.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/<name of the config file>.")
_MODE = flags.DEFINE_enum("mode", "train", ("train", "evaluate"), "train (and evaluate), or evaluate what is there.")
_FOLLOW = flags.DEFINE_bool("follow", False, "With --mode evaluate: wait for new checkpoints until the last.")


def main() -> int | None:
    """Run what the flags say. Returns the exit code, None for success."""
    if _FOLLOW.value and _MODE.value != "evaluate":
        raise UserError("--follow waits for another process's checkpoints; use it with --mode evaluate")
    if _MODE.value == "evaluate":
        evaluate.evaluate_checkpoints(_workdir(), command_line.overrides(), follow=_FOLLOW.value)
        return None
    try:
        train.train_and_evaluate(command_line.config(), _workdir())
    except train.Diverged as error:
        return command_line.fail(str(error), exit_code=1)
    return None


def _workdir() -> pathlib.Path:
    if _WORKDIR.value is not None:
        return pathlib.Path(_WORKDIR.value)
    command_line.config()  # asks for one where there is none
    return pathlib.Path("runs") / command_line.config_file().stem


def run() -> None:
    """Entry point."""
    command_line.run(main)


if __name__ == "__main__":
    run()
