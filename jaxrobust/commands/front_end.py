"""The command line `jaxrobust COMMAND ...`: options, the config with its overrides, and errors in one line.

A command is a module of this folder, which is imported when it is asked for. Its docstring is its help.

    def add_arguments(parser): ...    # its options; parser.add_config() if it takes a config
    def run(given) -> int | None: ... # given.NAME for each option; returns the exit code, None for 0
"""

import argparse
import contextlib
import difflib
import errno
import faulthandler
import hashlib
import importlib
import logging
import os
import pathlib
import platform
import re
import signal
import sys
import traceback
from typing import NamedTuple

from jaxrobust import commands, console, files
from jaxrobust.errors import FieldError, UserError, listed, number

COMMANDS = {
    "train": "train a model and evaluate it, class by class",
    "evaluate": "score existing checkpoints, under more attacks for example",
    "audit": "where and how the classes of a run are attacked most easily",
    "report": "write the page of a run anew",
    "compare": "compare two runs class by class, or many methods with a base",
    "explain": "why are some classes weak? what is measured of them, ranked",
    "posthoc": "another head for a trained model, in a run of its own",
    "weights": "import weights from PyTorch as a run, or export those of a run",
    "study": "train and analyse the runs of a study",
    "benchmark": "measure the speed of a config on this machine",
    "preflight": "compile a config for a machine that is not here: does it fit?",
    "fields": "list the config fields with their defaults, meanings and allowed values",
}
_CONFIG_HELP = "--config.FIELD=VALUE sets a field; `jaxrobust fields [PATTERN]` lists them."


class GivenConfig(NamedTuple):
    """What --config and --config.FIELD=VALUE gave: the file, None without one; its config, else the default, with the
    overrides; and the overrides, by dotted name.
    """

    file: pathlib.Path | None
    values: object
    overrides: dict

    def required(self):
        """The config. Raises UserError if no file was given."""
        if self.file is None:
            raise UserError("--config is missing; give a config file, for example --config configs/digits.py")
        return self.values


class Parser(argparse.ArgumentParser):
    """The options of a command. Errors raise UserError."""

    def __init__(self, command: str, docstring: str):
        self.takes_config, self._options, self.flags = False, [], {}
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(f"jaxrobust {command}", description=docstring, formatter_class=raw, allow_abbrev=False)
        self.add_number("--verbosity", int, -10, "of libraries: -2 errors (the default), -1 warnings, 0 more", 10)

    def add_argument(self, *names, **options):
        action = super().add_argument(*names, **options)
        if names[0].startswith("--"):
            self._options += names
            self.flags.setdefault(action.dest, names[0])
        return action

    def add_switch(self, name: str, text: str, default: bool = False) -> None:
        """An option that is on or off: --NAME, --noNAME or --NAME=false. Its help is shown for what is no default."""
        shown = {False: {"help": text}, True: {"help": argparse.SUPPRESS}}
        truth = {"nargs": "?", "const": True, "type": _truth, "default": default, "metavar": "BOOL"}
        self.add_argument(f"--{name}", **truth, **shown[default])
        self.add_argument(f"--no{name}", dest=name, action="store_false", **shown[not default])

    def add_config(self, text: str = "config file, for example configs/digits.py") -> None:
        """The option --config FILE, with overrides --config.FIELD=VALUE; `given.config` is a GivenConfig."""
        self.add_overrides()
        self.add_argument("--config", metavar="FILE", help=text)

    def add_overrides(self) -> None:
        """The overrides alone, for a command that takes its config from a run."""
        self.takes_config, self.epilog = True, _CONFIG_HELP

    def add_number(self, name: str, kind: type, least: float, text: str, most: float = 10**9, **options) -> None:
        """An option that holds an int or a float from `least` to `most`; `text` is its help."""

        def parsed(given: str):
            with contextlib.suppress(ValueError):
                given = kind(given)
            return number(name, given, least, most, kind=kind)

        self.add_argument(name, metavar="N", type=parsed, help=text, **options)

    def add_out(self, default: str) -> None:
        """The option --out, a path that can be written to. `default` is the text that describes its default."""
        text = f"folder to write to; default: {default}"
        self.add_argument("--out", metavar="DIR", type=lambda given: files.writable(given, "--out"), help=text)

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Raises UserError for whatever is wrong."""
        # absl, which read them before, took options with one dash too.
        arguments = [re.sub(r"^-(?=[a-z]\w)", "--", argument) for argument in arguments]
        if self.takes_config:
            file, arguments = _without_file(arguments)
            if file is not None and "--config" not in self._options:
                self._refuse("--config")
            overrides, arguments = _overrides(arguments)
        given, unknown = self.parse_known_args(arguments)
        if unknown:
            self._refuse(unknown[0])
        if self.takes_config:
            given.config = _config(file, overrides)
        return given

    def error(self, message):
        raise UserError(f"{message}; {self.prog} --help shows the options")

    def _refuse(self, argument: str):
        if not argument.startswith("-"):
            raise UserError(f"{argument!r} is no option; write --option=value")
        name = argument.partition("=")[0]
        if name.startswith("--config"):
            self.error(f"{name} has no effect on {self.prog}")
        self.error(f"{name}: no such option{near(name, self._options)}")


def near(name: str, known) -> str:
    """The text that asks whether something alike was meant, if anything is."""
    found = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(found)}?)" if found else ""


def require(given: argparse.Namespace, name: str, remedy: str) -> None:
    """Raises UserError unless the option was given."""
    if getattr(given, name) is None:
        raise UserError(f"--{name} is missing; {remedy}")


@contextlib.contextmanager
def naming(**flags: str):
    """Let errors that name one of these arguments of the library name its option, `argument="--option"`."""
    try:
        yield
    except FieldError as error:
        error.field = flags.get(error.field, error.field)
        raise


@contextlib.contextmanager
def writing_to(folder: pathlib.Path):
    """Create the folder of --out; errors of writing inside this context are raised as FieldError of --out."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise FieldError("--out", str(folder), error.strerror or str(error), "give a folder to write to") from error


def fail(message: str, exit_code: int = 2) -> int:
    """Print an error in one line; returns the exit code."""
    console.fail(message)
    return exit_code


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name (None: those of the process); returns the exit code.

    Errors that a user can fix print one line and give 2; an interruption prints one line and gives the code of the
    signal.
    """
    try:
        name, *arguments = sys.argv[1:] if arguments is None else map(str, arguments)
    except ValueError:
        return fail(f"there is no command; {listed(COMMANDS)}")
    if name in ("-h", "--help", "-help"):
        print(_listing())
        return 0
    if name not in COMMANDS:
        return fail(f"{name!r} is no command{near(name, COMMANDS)}; jaxrobust --help lists them")
    # Before anything imports TensorFlow, which reports on its start at length.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        from jaxrobust.distributed.interruption import Interrupted  # here: --help and wrong commands need no JAX
    except ValueError as error:  # JAX reads its settings when it is imported
        return fail(f"JAX: {error}; correct or unset the environment variable")

    try:
        return _run(name, arguments) or 0
    except UserError as error:
        return fail(str(error), error.exit_code)
    except KeyboardInterrupt:  # before there is anything to save
        return _interrupted()
    except Interrupted as error:
        console.speak(True)
        console.say(str(error))
        return error.exit_code
    except Exception as error:
        if isinstance(error, OSError) and error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC):
            raise  # of the standard output
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """Show an error that no check foresaw: in one line if its cause is outside of the program, else with its stack."""
    cause: BaseException | None = error
    while cause is not None:  # a library may raise another error where Ctrl-C met it
        if isinstance(cause, KeyboardInterrupt):
            return _interrupted()
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return fail(f"the memory is too small ({text[:200]}); lower the batch size, or take smaller data", exit_code=1)
    if isinstance(error, OSError) and error.filename:
        remedy = "make room, or mend its permissions, and give the same command again"
        return fail(f"{error.filename}: {error.strerror}; {remedy}", exit_code=1)
    at = traceback.extract_tb(error.__traceback__)[-1].filename
    if "Unable to initialize backend" in text or at.endswith("xla_bridge.py"):  # where JAX looks for devices
        found = FieldError(
            "JAX_PLATFORMS", os.environ.get("JAX_PLATFORMS"), text[:200] or "no device", "set it to cpu, or unset it"
        )
        return fail(str(found))
    console.bug()
    return 1


def _interrupted() -> int:
    console.restore()
    console.speak(True)
    console.say("interrupted")
    return 128 + signal.SIGINT


def run(arguments: list[str] | None = None) -> None:
    """The entry point: as `main`, and exit with its code."""
    faulthandler.enable()
    sys.unraisablehook = _unraisable
    try:
        try:
            exit_code = main(arguments)
        except SystemExit as done:  # after --help
            exit_code = done.code
        sys.stdout.flush()
    except OSError as error:  # of `jaxrobust fields | head`, or a full disk
        exit_code = 1 if error.errno == errno.EPIPE else fail(f"the output: {error.strerror}; make room", 1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _receive_interrupts(commands.end_at_once)
    if "jax" not in sys.modules:
        sys.exit(exit_code)
    from jaxrobust.distributed import hosts

    hosts.leave(exit_code)


def _receive_interrupts(handler) -> None:
    """Replace the entry point's handler of Ctrl-C, if this process has one."""
    if signal.getsignal(signal.SIGINT) in {commands.end_at_once, signal.default_int_handler} - {handler}:
        signal.signal(signal.SIGINT, handler)


def _unraisable(unraisable) -> None:
    """Ctrl-C in code that cannot raise, such as a finalizer, is not lost.

    Orbax closes its event loop at the first array that cannot be read or written, and TensorStore reports the others to
    it later: the first has been told.
    """
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        commands.end_at_once()
    if "Event loop is closed" not in str(unraisable.exc_value):
        sys.__unraisablehook__(unraisable)


def _not_of_orbax(record) -> bool:
    """Orbax logs the traces of errors that it raises as well."""
    where = record.pathname if record.name == "absl" else record.getMessage()
    return record.levelno < logging.ERROR or "orbax" not in where


def _run(name: str, arguments: list[str]) -> int | None:
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)  # libraries log many messages that a user cannot act on
    for logger in ("absl", "asyncio"):
        logging.getLogger(logger).addFilter(_not_of_orbax)
    command = importlib.import_module(f"jaxrobust.commands.{name}")
    parser = Parser(name, command.__doc__)
    command.add_arguments(parser)
    given = parser.parse(arguments)
    if given.verbosity is not None:
        absl_logging.set_verbosity(given.verbosity)
    _keep_compiled_programs()
    _receive_interrupts(signal.default_int_handler)  # raises KeyboardInterrupt, on which files are cleaned up
    with naming(**parser.flags):
        return command.run(given)


def _listing() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: jaxrobust COMMAND ...", "", *lines, "", "jaxrobust COMMAND --help shows its options."])


def _truth(text: str) -> bool:
    truths = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in truths:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return truths[text.lower()]


def _overrides(arguments: list[str]) -> tuple[dict, list[str]]:
    """The values of --config.FIELD=VALUE by dotted name, and the other arguments. Raises UserError for a wrong one."""
    from absl import flags
    from ml_collections import config_flags

    from jaxrobust.config import fields

    for argument in arguments:
        match = re.match(r"--(?:no)?config\.([^=]+)", argument)
        if match and match[1] not in fields.FIELDS:
            hint = near(match[1], fields.FIELDS)
            raise UserError(f"--config.{match[1]}: no such field{hint}; jaxrobust fields lists them")
    # The types of the fields are the same in every config, so the default stands for the file's.
    values = flags.FlagValues()
    values.set_gnu_getopt(True)
    try:
        config_flags.DEFINE_config_dict("config", fields.default(), flag_values=values, sys_argv=arguments)
        rest = values(["jaxrobust", *arguments], known_only=True)[1:]
    except (flags.Error, ValueError) as error:
        text = " ".join(str(error).split())
        if wrong := re.match(r"flag --config\.([\w.]+)=(.*?): ", text):
            fields.FIELDS[wrong[1]].typed(wrong[2])  # raises what is wrong with it
        raise UserError(f"{text}; write --config.FIELD=VALUE, as jaxrobust fields shows them") from error
    return config_flags.get_override_values(values["config"]), rest


def _without_file(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The FILE of --config FILE or --config=FILE, None without, and the other arguments."""
    file, rest, following = None, [], iter(arguments)
    for argument in following:
        if argument == "--config":
            file = next(following, "")
        elif argument.startswith("--config="):
            file = argument.removeprefix("--config=")
        else:
            rest.append(argument)
    return file, rest


def _config(path: str | None, overrides: dict) -> GivenConfig:
    """The config of --config FILE, the default without one, with the overrides. Raises FieldError if one is wrong, or
    without effect.
    """
    from jaxrobust import config as config_lib
    from jaxrobust.config import validation

    config = config_lib.default() if path is None else config_lib.given(path, "--config")
    config.lock()
    config_lib.put(config, overrides)
    config_lib.check_options(config, overrides)
    # An override in 1/255 must not be lost to a value in pixel units, which replaces it.
    for field in ("threat.eps", "attack.step_size", "eval.step_size"):
        section, name = field.split(".")
        if f"{field}_255" in overrides and config[section][name] is not None:
            problem = f"is replaced by {field} = {config[section][name]}, which is set too"
            remedy = f"give --config.{field} in pixel units of [0, 1] instead"
            raise FieldError(f"--config.{field}_255", overrides[f"{field}_255"], problem, remedy)
    validation.check_fields(config)
    return GivenConfig(None if path is None else pathlib.Path(path), config, overrides)


def _keep_compiled_programs() -> None:
    """Make JAX keep compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR is set."""
    import jax

    if jax.config.jax_compilation_cache_dir:
        return
    # A program compiled for one processor may use instructions that another lacks, and home folders are shared.
    processor = platform.machine()
    with contextlib.suppress(OSError):  # Linux alone has this file
        processor += re.search(r"^(flags|Features)\s*:.*$|\Z", pathlib.Path("/proc/cpuinfo").read_text(), re.M)[0]
    with contextlib.suppress(OSError, RuntimeError):  # no home, or a full disk: then nothing is kept
        folder = files.user_cache() / "compiled" / hashlib.sha256(processor.encode()).hexdigest()[:16]
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
