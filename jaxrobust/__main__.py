"""`python -m jaxrobust COMMAND`."""

import runpy
import sys

_MODULES = {
    "report": "jaxrobust.reports.run",
    "compare": "jaxrobust.commands.compare",
    "study": "jaxrobust.commands.study",
    "explain": "jaxrobust.commands.explain",
    "posthoc": "jaxrobust.commands.posthoc",
    "weights": "jaxrobust.commands.weights",
    "benchmark": "jaxrobust.performance.benchmark",
    "preflight": "jaxrobust.performance.preflight",
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in _MODULES:
        sys.exit(f"error: give a command: {', '.join(_MODULES)}")
    runpy.run_module(_MODULES[sys.argv.pop(1)], run_name="__main__", alter_sys=True)
