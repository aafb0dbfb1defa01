"""Shared by the commands that take no config: a parser with one-line errors, and the output folder.

parser = arguments.Parser("jaxrobust compare", __doc__)
parser.add_argument("run", metavar="RUN")
parser.add_out("RUN/compare")
given = parser.parse_args()
with arguments.writing_to(given.out or default):
    ...
"""

import argparse
import contextlib
import pathlib

from jaxrobust.errors import FieldError, UserError


class Parser(argparse.ArgumentParser):
    """Parser of `python -m <module>`; its help shows the first line of the docstring. Errors raise UserError."""

    def __init__(self, module: str, docstring: str):
        super().__init__(f"python -m {module}", description=docstring.splitlines()[0], allow_abbrev=False)

    def error(self, message):
        raise UserError(f"{message}; {self.prog} --help shows the options")

    def add_out(self, default: str) -> None:
        """Add the option --out, a pathlib.Path. `default` is the text that describes its default."""
        self.add_argument("--out", type=pathlib.Path, help=f"folder to write to; default: {default}")


@contextlib.contextmanager
def writing_to(folder: pathlib.Path):
    """Create the folder of --out. Errors of writing inside this context are reported as errors of --out.

    Raises:
        FieldError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise FieldError("--out", str(folder), error.strerror or str(error), "give a folder to write to") from error
