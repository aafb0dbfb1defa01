"""Measure the speed of training and evaluation steps on this machine, and compare it with the minimum arithmetic.

    jaxrobust benchmark --config configs/cifar10.py [--config.FIELD=VALUE]
        [--seconds S | --steps N] [--profile DIR] [--images NxHxWxC --classes K]

Prints a table on the terminal, and one line of JSON on standard output. All devices of one host are measured. The data
are random pixels in the shape of the data set, which need not be available.

The floor is the minimum arithmetic, see performance/benchmark.py.
"""

import json

from jaxrobust import console
from jaxrobust.commands import described
from jaxrobust.config import objects
from jaxrobust.performance import benchmark


def add_arguments(parser) -> None:
    parser.add_config()
    text = "seconds to spend on measuring each quantity; default: %(default)s"
    parser.add_number("--seconds", float, 0, text, default=10.0)
    parser.add_number("--steps", int, 1, "steps in each of at least three repeats, instead of --seconds")
    parser.add_argument("--profile", metavar="DIR", help="folder for a profiler's trace of a few steps")
    described.add_arguments(parser)


def run(given) -> None:
    """Measure; print a table and a line of JSON."""
    config = given.config.required()
    description = objects.description(config, **described.given(given))
    chosen = {"seconds": given.seconds, "steps_per_repeat": given.steps, "profile": given.profile}
    figures = benchmark.measure(config, description, **chosen)
    console.show(benchmark.table(figures))
    console.result(json.dumps(figures, allow_nan=False))
