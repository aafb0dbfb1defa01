"""Give the package what a user should not, and count what comes of it, by kind. Run by hand:

    PYTHONPATH=. python tests/fuzz/drive.py [--kind KIND] [--shown N] [--seconds S]

Counted are: one line (an error as documented), traceback (any other exception, or an error of several lines), accepted
nonsense (an input that nobody can want went on to training), hang (more than S seconds), and accepted (it may be
wanted). Nothing is trained: the driver stops where the first program would be compiled. The exit code is 1 if there is
anything but one line and accepted.
"""

import argparse
import collections
import importlib.util
import pathlib
import signal
import sys
import tempfile
import warnings

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import cases as cases_lib  # noqa: E402

from jaxrobust.errors import UserError  # noqa: E402
from jaxrobust.training import epochs  # noqa: E402


class Accepted(BaseException):
    """Instead of the compilation of the training."""


class Hang(BaseException):
    """Raised by the alarm."""


def stop(*_, **__):
    """In the place of what compiles a training."""
    raise Accepted


def late(*_):
    """The handler of the alarm."""
    raise Hang


def outcome(case, seconds: int) -> tuple[str, str]:
    """What came of a case, and the message."""
    signal.alarm(seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            case.call()
    except Hang:
        return "hang", ""
    except Accepted:
        pass
    except cases_lib.Refused as error:
        return ("one line" if error.is_one_line and not error.is_traceback else "traceback"), str(error)
    except UserError as error:
        return ("one line" if "\n" not in str(error) else "traceback"), str(error)
    except SystemExit as error:
        return ("accepted nonsense" if not error.code else "traceback"), f"exit {error.code}"
    except BaseException as error:
        return "traceback", f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
    return ("accepted nonsense" if case.is_nonsense else "accepted"), ""


def tables(folder: pathlib.Path):
    """The cases of this folder's modules."""
    yield from cases_lib.cases(folder)
    for path in sorted(HERE.glob("tables_*.py")):
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from module.cases(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", default="", help="only cases whose kind contains this")
    parser.add_argument("--shown", type=int, default=1000, help="failures to print")
    parser.add_argument("--lines", action="store_true", help="print the messages that are in order, too")
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args()
    signal.signal(signal.SIGALRM, late)
    epochs.prepare = stop
    counts = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as folder:
        for case in tables(pathlib.Path(folder)):
            if options.kind not in case.kind:
                continue
            found, message = outcome(case, options.seconds)
            counts[case.kind][found] += 1
            failed = found not in ("one line", "accepted")
            if (failed and sum(c["traceback"] + c["hang"] for c in counts.values()) <= options.shown) or options.lines:
                last = message.strip().splitlines()[-1:] or [""]
                print(
                    f"{found}: {case.kind}: {case.name}: {last[0][:300]}".encode(errors="replace").decode(), flush=True
                )
    kinds = ("one line", "accepted", "traceback", "accepted nonsense", "hang")
    print(f"{'':26}" + "".join(f"{kind:>19}" for kind in kinds))
    total = collections.Counter()
    for kind, found in counts.items():
        total += found
        print(f"{kind:26}" + "".join(f"{found[outcome]:19}" for outcome in kinds))
    print(f"{'all ' + str(total.total()):26}" + "".join(f"{total[outcome]:19}" for outcome in kinds))
    return int(any(total[kind] for kind in kinds[2:]))


if __name__ == "__main__":
    sys.exit(main())
