"""The errors that a user can mend: each is one line that names the field, its value and the remedy."""

from jaxrobust.formatting import clean


class UserError(Exception):
    """Wrong input from outside. The command line prints it as one line and exits with `exit_code`."""

    exit_code = 2

    def __str__(self) -> str:
        return clean(super().__str__())


class FieldError(UserError):
    """An argument, a field of the config, or of the data it names, holds something that cannot be used.

    Args:
        field: name of the argument, or dotted name of the field, for example `threat.eps_255`. Who has another name for
            it, such as the command line for an option, sets it anew.
        value: what it holds.
        problem: what is wrong with it, as a clause.
        remedy: what to write or do instead, as a clause.
    """

    def __init__(self, field: str, value, problem: str, remedy: str):
        super().__init__(field, value, problem, remedy)
        self.field = field

    def __str__(self) -> str:
        _, value, problem, remedy = self.args
        return clean(" ".join(f"{self.field} = {value!r}: {problem}; {remedy}".split()))
