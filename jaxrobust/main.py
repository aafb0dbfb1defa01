"""The command line: flags, start-up, dispatch on --mode.

python -m jaxrobust.main --config configs/cifar10.py [--workdir DIR] [--mode train|evaluate] [--config.FIELD=VALUE]
"""

import difflib
import os
import pathlib
import re
import sys
import traceback

# Before anything imports TensorFlow, which reports on its start at length.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from jaxrobust import config as config_lib
from jaxrobust import console, evaluate, files, train
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
        _fail(str(error))
        sys.exit(1)
    except KeyboardInterrupt:  # before there is anything to save
        console.say("interrupted")
        sys.exit(130)
    except Interrupted as error:
        console.say(str(error))
        sys.exit(error.exit_code)


def _dispatch() -> None:
    given = flags.FLAGS["config"]
    path = config_flags.get_config_filename(given)
    own_config = path == config_lib.__file__
    if own_config and (_MODE.value == "train" or _WORKDIR.value is None):
        raise UserError("--config is missing; give a config file, for example --config configs/digits.py")
    if _FOLLOW.value and _MODE.value != "evaluate":
        raise UserError("--follow waits for another process's checkpoints; use it with --mode evaluate")
    overrides = config_flags.get_override_values(given)
    _check_units(_CONFIG.value, overrides)
    workdir = _WORKDIR.value or pathlib.Path("runs") / pathlib.Path(path).stem
    if _MODE.value == "train":
        train.train_and_evaluate(_CONFIG.value, workdir)
    else:
        evaluate.evaluate_checkpoints(workdir, overrides, follow=_FOLLOW.value)


def _parse_flags(arguments: list[str]) -> list[str]:
    """absl's parsing, with wrong config files, fields and values reported in one line."""
    try:
        if not any(re.match(r"--?config(=|$)", argument) for argument in arguments):
            arguments = [*arguments[:1], f"--config={config_lib.__file__}", *arguments[1:]]
        path = _check_config_arguments(arguments)
        rest = flags.FLAGS(arguments)
    except (UserError, flags.Error) as error:
        sys.exit(_fail(" ".join(str(error).split())))
    except Exception as error:  # whatever the code of a config file may raise
        sys.exit(_fail(f"--config = {path!r}: {type(error).__name__}: {error}{_line_in(path, error)}; mend the file"))
    if len(rest) > 1:
        sys.exit(_fail(f"{rest[1]!r} is no option; write --option=value"))
    if not isinstance(_CONFIG.value, ml_collections.ConfigDict):
        sys.exit(_fail(f"--config = {path!r}: get_config() returned no config; let it end in `return config`"))
    return rest


def _line_in(path: str, error: Exception) -> str:
    """Where in the config file an error came about, if it did there."""
    name = pathlib.Path(path).resolve()
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if pathlib.Path(f.filename).resolve() == name]
    return f" (line {lines[-1]})" if lines else ""


def _check_config_arguments(arguments: list[str]) -> str:
    """The config file exists, and so does every field that is overridden. Returns the file's path."""
    config_path = ""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if match := re.fullmatch(r"--?config(?:=(.*))?", argument):
            config_path = following if match[1] is None else match[1]
            if not pathlib.Path(config_path).is_file():
                raise FieldError(
                    "--config", config_path, "is no file", "give a config file, for example configs/digits.py"
                )
        if match := re.match(r"--?config\.([^=]+)", argument):
            known = list(files.flatten(config_lib.default().to_dict()))
            if match[1] not in known:
                near = difflib.get_close_matches(match[1], known, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}" if near else "jaxrobust/config.py lists the fields"
                raise UserError(f"--config.{match[1]}: no such field; {hint}")
    return config_path


def _check_units(config, overrides: dict) -> None:
    """An override in 1/255 must not be lost to a value in pixel units, which replaces it."""
    for field in ("threat.eps", "attack.step_size", "eval.step_size"):
        section, name = field.split(".")
        if f"{field}_255" in overrides and config[section][name] is not None:
            raise FieldError(
                f"--config.{field}_255",
                overrides[f"{field}_255"],
                f"is replaced by {field} = {config[section][name]}, which is set too",
                f"give --config.{field} in pixel units of [0, 1] instead",
            )


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def run() -> None:
    """Entry point."""
    absl_logging.set_verbosity(absl_logging.ERROR)  # until the flags say otherwise
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    run()
