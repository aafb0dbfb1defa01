"""What the commands without a config share: arguments whose errors end in one line, and a folder to write to.

parser = arguments.Parser("jaxrobust.compare", __doc__)
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
    """Of `python -m <module>`, described by the first line of its docstring. What is wrong raises UserError."""

    def __init__(self, module: str, docstring: str):
        super().__init__(f"python -m {module}", description=docstring.splitlines()[0], allow_abbrev=False)

    def error(self, message):
        raise UserError(f"{message}; {self.prog} --help shows the options")

    def add_out(self, default: str) -> None:
        """The option --out, a pathlib.Path; `default` says what it is without."""
        self.add_argument("--out", type=pathlib.Path, help=f"folder to write to; default: {default}")


@contextlib.contextmanager
def writing_to(folder: pathlib.Path):
    """Make the folder of --out, and write to it inside this context.

    Raises:
        FieldError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise FieldError("--out", str(folder), error.strerror or str(error), "give a folder to write to") from error
