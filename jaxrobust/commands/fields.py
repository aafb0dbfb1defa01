"""List the config fields, each with its default, its meaning and what is allowed.

    jaxrobust fields                     # all
    jaxrobust fields eps                 # those whose name or meaning contains the word
    jaxrobust fields 'remedy.*.begin'    # those whose name matches the pattern

Set a field in a config file, or on the command line as --config.FIELD=VALUE.
"""

import fnmatch

from jaxrobust import console
from jaxrobust.commands.front_end import near
from jaxrobust.config.fields import FIELDS, SECTIONS
from jaxrobust.errors import UserError


def add_arguments(parser) -> None:
    parser.add_argument("pattern", metavar="PATTERN", nargs="?", default="*", help="part of a name, or with wildcards")


def run(given) -> None:
    """Print the fields that match."""
    found = matching(given.pattern)
    if not found:
        raise UserError(f"{given.pattern!r} matches no field{near(given.pattern, FIELDS)}; jaxrobust fields lists all")
    lines, section = [], None
    for field in found:
        if (parent := field.name.rpartition(".")[0]) != section:
            section = parent
            lines.append(f"\n{section}: {SECTIONS[section]}\n" if section in SECTIONS else "")
        lines += [f"{field.name} = {field.default!r}", f"    {field.meaning}"]
        if allowed := field.allowed_text():
            lines.append(f"    allowed: {allowed}")
    for line in "\n".join(lines).split("\n"):
        console.result(line)


def matching(pattern: str) -> list:
    """The fields whose name matches the pattern, or whose name or meaning contains it if it has no wildcard."""
    if any(wildcard in pattern for wildcard in "*?["):
        return [field for field in FIELDS.values() if fnmatch.fnmatchcase(field.name, pattern)]
    word = pattern.lower()
    return [field for field in FIELDS.values() if word in field.name or word in field.meaning.lower()]
