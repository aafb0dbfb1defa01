"""Train a model and evaluate its checkpoints, class by class.

    jaxrobust train --config configs/cifar10.py [--workdir DIR] [--config.FIELD=VALUE]

Everything is written to DIR: checkpoints, results, TensorBoard files, report.html. The same command continues a
training that was interrupted. `python -m jaxrobust.main --config FILE [--mode train|evaluate|audit]` is the same.
"""

from jaxrobust.commands import front_end, jobs
from jaxrobust.reports import run as run_page
from jaxrobust.training import loop

add_arguments = jobs.add_arguments


def run(given) -> int | None:
    """Train, and write the report. Returns 1 if the training diverged."""
    config, workdir = given.config.required(), jobs.workdir(given)
    try:
        with jobs.connected(given, command="train"):
            loop.train_and_evaluate(config, workdir)
            run_page.finish(workdir)
    except loop.Diverged as error:
        return front_end.fail(str(error), exit_code=1)
    return None
