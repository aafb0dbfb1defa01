"""Audit the best checkpoint of a run: where and how each class is attacked most easily.

    jaxrobust audit --workdir DIR [--config.audit.FIELD=VALUE]

Writes what it finds to DIR and adds it to the report. The config is that of the run; its `audit` fields may be set
otherwise.
"""

from jaxrobust.audit import auditor
from jaxrobust.commands import jobs
from jaxrobust.distributed import parallel
from jaxrobust.reports import audit as audit_page, run as run_page

add_arguments = jobs.add_arguments


def run(given) -> None:
    """Audit, show the result, and write the report."""
    workdir = jobs.workdir(given)
    with jobs.connected(given, command="audit"):
        content = auditor.audit_run(workdir, given.config.overrides)
        if parallel.is_writer():
            audit_page.show(content)
        run_page.finish(workdir)
