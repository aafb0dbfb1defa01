"""Score the checkpoints of a run, class by class, as far as they are not scored yet.

    jaxrobust evaluate --workdir DIR [--config.eval.attacks="('pgd20','standard')"]
    jaxrobust evaluate --workdir DIR --follow         # beside a training: wait for new checkpoints until the last one

The config is that of the run; its `eval` fields may be set otherwise.
"""

from jaxrobust.commands import jobs
from jaxrobust.evaluation import evaluator
from jaxrobust.reports import run as run_page


def add_arguments(parser) -> None:
    jobs.add_arguments(parser)
    parser.add_switch("follow", "wait for new checkpoints until the last one")


def run(given) -> None:
    """Evaluate, and write the report."""
    workdir = jobs.workdir(given)
    with jobs.connected(given, command="evaluate", follow=given.follow):
        evaluator.evaluate_checkpoints(workdir, given.config.overrides, follow=given.follow)
        run_page.finish(workdir)
