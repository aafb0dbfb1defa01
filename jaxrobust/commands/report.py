"""Write the page of a run anew: `report.html`, on its robustness class by class.

    jaxrobust report WORKDIR

Reads the files of the run's folder, and prints the path of the page. For an unfinished run the page lists what is
missing.
"""

from jaxrobust import console
from jaxrobust.reports.run import write_report


def add_arguments(parser) -> None:
    parser.add_argument("workdir", metavar="WORKDIR", help="workdir of a run that has been evaluated")


def run(given) -> None:
    """Write the report, and print its path."""
    console.result(write_report(given.workdir))
