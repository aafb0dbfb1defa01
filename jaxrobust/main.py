"""The command line: flags, start-up, dispatch on --mode.

python -m jaxrobust.main --config configs/cifar10.py [--workdir DIR] [--mode train|evaluate] [--config.FIELD=VALUE]
"""

import difflib
import os
import pathlib
import re
import sys

# Before anything imports TensorFlow, which reports on its start at length.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from jaxrobust import config as config_lib
from jaxrobust import console, evaluate, train
from jaxrobust.errors import FieldError, UserError
from jaxrobust.interruption import Interrupted

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; in evaluate mode the run's own by default.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run. Default: runs/<name of the config file>.")
_MODE = flags.DEFINE_enum("mode", "train", ("train", "evaluate"), "train (and evaluate), or evaluate what is there.")
_FOLLOW = flags.DEFINE_bool("follow", False, "With --mode evaluate: wait for new checkpoints until the last.")


def main(_) -> None:
    """Run what the flags say; errors that a user can mend end in one line and exit code 2."""
    # Libraries log at length what a user cannot act on. --verbosity brings it back.
    if not flags.FLAGS["verbosity"].present:
        absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        _dispatch()
    except UserError as error:
        sys.exit(_fail(str(error)))
    except train.Diverged as error:
        console.warn(str(error))
        sys.exit(1)
    except Interrupted as error:
        console.say(str(error))
        sys.exit(error.exit_code)


def _dispatch() -> None:
    path = config_flags.get_config_filename(flags.FLAGS["config"]) if flags.FLAGS["config"].present else None
    if path is None and (_MODE.value == "train" or _WORKDIR.value is None):
        raise UserError("--config is missing; give a config file, for example --config configs/digits.py")
    if _FOLLOW.value and _MODE.value != "evaluate":
        raise UserError("--follow waits for another process's checkpoints; use it with --mode evaluate")
    workdir = _WORKDIR.value or pathlib.Path("runs") / pathlib.Path(path).stem
    if _MODE.value == "train":
        train.train_and_evaluate(_CONFIG.value, workdir)
    else:
        evaluate.evaluate_checkpoints(_CONFIG.value if path else None, workdir, follow=_FOLLOW.value)


def _parse_flags(arguments: list[str]) -> list[str]:
    """absl's parsing, with wrong config files, fields and values reported in one line."""
    try:
        _check_config_arguments(arguments)
        return flags.FLAGS(arguments)
    except (UserError, flags.Error) as error:
        sys.exit(_fail(" ".join(str(error).split())))


def _check_config_arguments(arguments: list[str]) -> None:
    """The config file exists, and so does every field that is overridden."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
            path = following if match[1] is None else match[1]
            if not pathlib.Path(path).is_file():
                raise FieldError("--config", path, "is no file", "give a config file, for example configs/digits.py")
        if match := re.match(r"--?config\.([^=]+)", argument):
            known = list(config_lib.flatten(config_lib.default().to_dict()))
            if match[1] not in known:
                near = difflib.get_close_matches(match[1], known, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}" if near else "jaxrobust/config.py lists the fields"
                raise UserError(f"--config.{match[1]}: no such field; {hint}")


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def run() -> None:
    """Entry point."""
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    run()
