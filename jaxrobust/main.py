"""Train, evaluate or audit: `python -m jaxrobust.main --config FILE` is `jaxrobust train --config FILE`.

python -m jaxrobust.main --config configs/cifar10.py [--workdir DIR] [--mode MODE] [--config.FIELD=VALUE]
"""

import re
import sys

from jaxrobust import commands


def run() -> None:
    """Entry point: --mode train (the default), evaluate or audit is the command."""
    arguments, mode = sys.argv[1:], "train"
    for i, argument in enumerate(arguments):
        if match := re.fullmatch(r"--?mode(?:=(.*))?", argument):
            mode = match[1] if match[1] is not None else "".join(arguments[i + 1 : i + 2])
            del arguments[i : i + (1 if match[1] is not None else 2)]
            break
    if mode not in ("train", "evaluate", "audit"):
        print(f"error: --mode = {mode!r}: is unknown; give one of train, evaluate, audit", file=sys.stderr)
        sys.exit(2)
    commands.run([mode, *arguments])


if __name__ == "__main__":
    run()
