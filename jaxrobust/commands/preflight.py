"""Compile a config for hardware that is not present: does it fit into memory, and what will it cost?

    jaxrobust preflight --config configs/cifar10.py --topology v5e:16x16 [--config.FIELD=VALUE] [--nosearch]
        [--images NxHxWxC --classes K]

The train step, and the evaluation step of the strongest attack, are the same as in a training. They are compiled by the
machine's own compiler for abstract arrays, so neither data nor devices are needed. Tables are shown on the terminal,
and one line of JSON is printed on standard output. The exit code is 1 if the config does not fit into the memory.

Memory, arithmetic, traffic and collectives are counted in the compiled program. Times are lower bounds by bandwidth and
peak rates, which no real program reaches. If a compiler aborts, its output is in jaxrobust-*.log in the folder for
temporary files.
"""

import json

from jaxrobust import console
from jaxrobust.commands import described, front_end
from jaxrobust.config import objects
from jaxrobust.performance import preflight
from jaxrobust.performance.compiled import machines, preflight_tables


def add_arguments(parser) -> None:
    parser.add_config()
    parser.add_argument("--topology", help="machine: v5e:16x16, v5p:2x2x4, v6e:4x4, h200:8, a100:16, ...")
    text = "do not find the largest batch that fits, which takes two or three more compilations"
    parser.add_switch("search", text, default=True)
    described.add_arguments(parser)


def run(given) -> int | None:
    """Report on the config and the topology. Returns 1 if the config does not fit."""
    front_end.require(given, "topology", "name a machine, for example --topology v5e:4x4 or --topology h200:8")
    config = given.config.required()
    machines.prepare_process()
    description = objects.description(config, **described.given(given))
    figures = preflight.examine(config, description, given.topology, search=given.search)
    for title, table in preflight_tables.tables(figures):
        console.say(title)
        console.show(table)
    console.result(json.dumps(figures, allow_nan=False))
    return None if figures["fits"] else front_end.fail(preflight.why_not(figures), exit_code=1)
