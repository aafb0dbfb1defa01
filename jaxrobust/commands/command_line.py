"""Shared by the commands that take a config: the flag --config with its overrides, and one-line errors.

    def main():
        config = command_line.config()
        ...

    if __name__ == "__main__":
        command_line.run(main)

A command defines its own flags with absl at module level.
"""

import contextlib
import difflib
import functools
import hashlib
import os
import pathlib
import platform
import re
import sys
import traceback
from collections.abc import Callable

# Before anything imports TensorFlow, which reports on its start at length.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import jax
import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from jaxrobust import config as config_lib
from jaxrobust import console, files
from jaxrobust.distributed import hosts
from jaxrobust.distributed.interruption import Interrupted
from jaxrobust.errors import FieldError, UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file; evaluations of a run take its own by default.")


def run(main: Callable[[], int | None]) -> None:
    """Parse the flags, call `main` and exit with the code it returns (None: 0).

    Errors that a user can fix print one line and exit with code 2; an interruption prints one line and exits with the
    code of the signal.
    """

    def guarded(_):
        # Libraries log many messages that a user cannot act on. --verbosity shows them again.
        if not flags.FLAGS["verbosity"].present:
            absl_logging.set_verbosity(absl_logging.ERROR)
        _keep_compiled_programs()
        hosts.leave(exit_code(main))

    def exit_code(main):
        try:
            return main()
        except UserError as error:
            return fail(str(error), error.exit_code)
        except KeyboardInterrupt:  # before there is anything to save
            console.speak(True)
            console.say("interrupted")
            return 130
        except Interrupted as error:
            console.speak(True)
            console.say(str(error))
            return error.exit_code
        except Exception:
            traceback.print_exc()
            return 1

    absl_logging.set_verbosity(absl_logging.ERROR)  # until the flags say otherwise
    app.run(guarded, flags_parser=_parse_flags)


def _keep_compiled_programs() -> None:
    """Make JAX keep compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR is set."""
    if jax.config.jax_compilation_cache_dir:
        return
    # A program compiled for one processor may use instructions that another lacks, and home folders are shared.
    processor = platform.machine()
    with contextlib.suppress(OSError):  # Linux alone has this file
        processor += re.search(r"^(flags|Features)\s*:.*$|\Z", pathlib.Path("/proc/cpuinfo").read_text(), re.M)[0]
    with contextlib.suppress(OSError):  # no home, or a full disk: then nothing is kept
        folder = files.user_cache() / "compiled" / hashlib.sha256(processor.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def fail(message: str, exit_code: int = 2) -> int:
    """Print an error in one line; returns the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return exit_code


def config_file() -> pathlib.Path | None:
    """The config file that was given, None without one."""
    path = config_flags.get_config_filename(flags.FLAGS["config"])
    return None if path == config_lib.__file__ else pathlib.Path(path)


def config() -> ml_collections.ConfigDict:
    """The config from the given file, with the overrides applied.

    Raises:
        UserError: none was given.
    """
    if config_file() is None:
        raise UserError("--config is missing; give a config file, for example --config configs/digits.py")
    return _CONFIG.value


def overrides() -> dict:
    """The fields set on the command line, by dotted name."""
    return config_flags.get_override_values(flags.FLAGS["config"])


@functools.cache
def define_description() -> Callable[[], dict]:
    """Define --images and --classes, which describe a data set that is not there; once for all modules that ask.

    Returns:
        A function that gives the arguments `images` and `num_classes` of `data.describe`, as far as flags were given.
    """
    images = flags.DEFINE_string("images", None, "Size of a data set nothing is known of, as 50000x32x32x3.")
    classes = flags.DEFINE_integer("classes", None, "Its number of classes.")

    def given() -> dict:
        if classes.value is not None and classes.value < 2:
            raise FieldError("--classes", classes.value, "is too few", "give at least 2")
        if images.value is None:
            return {"num_classes": classes.value}
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}", images.value):
            remedy = "write examples, height, width and channels, for example 50000x32x32x3"
            raise FieldError("--images", images.value, "is no size of a data set", remedy)
        return {"images": tuple(map(int, images.value.split("x"))), "num_classes": classes.value}

    return given


def _parse_flags(arguments: list[str]) -> list[str]:
    """absl's parsing, with wrong config files, fields and values reported in one line."""
    try:
        if not any(re.match(r"--?config(=|$)", argument) for argument in arguments):
            arguments = [*arguments[:1], f"--config={config_lib.__file__}", *arguments[1:]]
        path = _check_config_arguments(arguments)
        rest = flags.FLAGS(arguments)
        if isinstance(_CONFIG.value, ml_collections.ConfigDict):
            _check_units(_CONFIG.value, overrides())
    except (UserError, flags.Error) as error:
        sys.exit(fail(" ".join(str(error).split())))
    except Exception as error:  # whatever the code of a config file may raise
        sys.exit(fail(f"--config = {path!r}: {type(error).__name__}: {error}{_line_in(path, error)}; mend the file"))
    if len(rest) > 1:
        sys.exit(fail(f"{rest[1]!r} is no option; write --option=value"))
    if not isinstance(_CONFIG.value, ml_collections.ConfigDict):
        sys.exit(fail(f"--config = {path!r}: get_config() returned no config; let it end in `return config`"))
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
            config_lib.check_file(config_path, "--config")
        if match := re.match(r"--?config\.([^=]+)", argument):
            known = list(files.flatten(config_lib.default().to_dict()))
            if match[1] not in known:
                near = difflib.get_close_matches(match[1], known, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}" if near else "jaxrobust/config/__init__.py lists the fields"
                raise UserError(f"--config.{match[1]}: no such field; {hint}")
    return config_path


def _check_units(config, given: dict) -> None:
    """An override in 1/255 must not be lost to a value in pixel units, which replaces it."""
    for field in ("threat.eps", "attack.step_size", "eval.step_size"):
        section, name = field.split(".")
        if f"{field}_255" in given and config[section][name] is not None:
            raise FieldError(
                f"--config.{field}_255",
                given[f"{field}_255"],
                f"is replaced by {field} = {config[section][name]}, which is set too",
                f"give --config.{field} in pixel units of [0, 1] instead",
            )
