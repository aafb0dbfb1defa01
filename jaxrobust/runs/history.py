"""Which files of a workdir belong to its checkpoints: the rule of results.py, applied."""

import contextlib
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from jaxrobust import config as config_lib, files
from jaxrobust.errors import FieldError, UserError
from jaxrobust.formatting import counted
from jaxrobust.runs import results, schemas

CHECKPOINTS = "checkpoints"
TRAINING_LOCK = ".training"
UNFINISHED = ".unfinished"  # locked while an import, or another head, makes a run; what a killed one left has it still
_PARTS = "*.orbax-checkpoint-tmp*"
AUDIT, AUDITS, EXPLAIN = "audit.json", "audit", "explain"
# Made of all results, and made again at the end of a training or by the command of that name.
_DERIVED = (results.BEST, results.CLASSES, "report.html", f"{EXPLAIN}/explain.json", f"{EXPLAIN}/explain.html")


def read_config(workdir) -> dict | None:
    """The content of config.json; None where there is no run. What a process left that was killed as it made one is
    removed.

    Raises:
        FieldError: there are checkpoints or results, and nothing that says what they are of.
    """
    folder = pathlib.Path(workdir)
    remove_unfinished(folder)
    config = results.CONFIG.read(folder)
    left = [name for name in (CHECKPOINTS, results.RESULTS, results.BEST, results.ORIGIN) if (folder / name).exists()]
    if config is None and left:
        problem = f"has {' and '.join(left)}, and no {results.CONFIG}, which says what they are of"
        raise FieldError("workdir", str(workdir), problem, "put that of the training back, or give another folder")
    return config


def clean(workdir) -> None:
    """Remove the temporary files of processes that were killed as they wrote in the folder."""
    folder = pathlib.Path(workdir)
    files.clean(folder, folder / results.EXAMPLES, folder / AUDITS, folder / EXPLAIN)
    if any((folder / CHECKPOINTS).glob(_PARTS)):
        with contextlib.suppress(OSError), files.locked(folder / TRAINING_LOCK, wait=False):  # a training has its own
            remove_parts(folder)


def remove_parts(folder: pathlib.Path) -> None:
    """Remove the checkpoints that orbax has not completed; none may be in the making."""
    for part in (folder / CHECKPOINTS).glob(_PARTS):
        shutil.rmtree(part, ignore_errors=True)


def remove_unfinished(folder: pathlib.Path) -> None:
    """Remove what is there of a run that nobody is making any more, and that has no config.json yet."""
    if (folder / UNFINISHED).exists():
        with contextlib.suppress(OSError), files.locked(folder / UNFINISHED, wait=False):
            if not (folder / results.CONFIG).exists():
                if (folder / CHECKPOINTS).exists():
                    shutil.rmtree(folder / CHECKPOINTS)
                (folder / results.ORIGIN).unlink(missing_ok=True)
            (folder / UNFINISHED).unlink()


def checksums(workdir, step: int) -> dict[str, int]:
    """Those of the weights "raw" and "averaged" as the checkpoint of the step stores them; empty if it is not there, or
    of an earlier version.
    """
    path = pathlib.Path(workdir) / CHECKPOINTS / str(step) / "checksum" / "metadata"
    try:
        stored = files.read_json(path, dict[str, int]) or {}
    except UserError:  # damaged ones are reported where they are restored
        return {}
    return {name: stored[field] for name, field in (("raw", "weights"), ("averaged", "averaged")) if field in stored}


class Checkpoint(NamedTuple):
    """One set of weights of a run."""

    step: int
    weights: str  # "raw" or "averaged"


def of_others(workdir, said: Iterable[dict]) -> Checkpoint | None:
    """The first checkpoint that is there with other weights than those that something, with `step`, `weights` and
    `checksum`, is said of; None if there is none.
    """
    named = {(Checkpoint(line["step"], line["weights"]), line["checksum"]) for line in said if line.get("checksum")}
    there = {step: checksums(workdir, step) for step in sorted({checkpoint.step for checkpoint, _ in named})}
    wrong = (of for of, checksum in named if not results.belongs(checksum, there[of.step].get(of.weights)))
    return min(wrong, default=None)


def drop_after(workdir, step: int) -> str:
    """Drop what is of later steps than the one that a training goes on from; returns what it was, for the user."""
    folder = pathlib.Path(workdir)
    stale = [path for path, (of, _) in _arrays(folder) if of > step]
    epochs = results.training_log(folder).keep(lambda line: line.get("step", 0) <= step)
    dropped = _drop(folder, stale, lambda of, weights, checksum: of <= step)
    return ", ".join(([counted(epochs, "epoch")] if epochs else []) + dropped)


def drop_others(workdir, step: int, weights: str, checksum: int | None) -> str:
    """Drop what is of other weights than those of the checkpoint of the step; returns what it was, for the user."""
    folder = pathlib.Path(workdir)

    def belongs(of, name, its):
        return (of, name) != (step, weights) or results.belongs(its, checksum)

    stale = [path for path, of in _arrays(folder) if of == (step, weights) and not belongs(*of, _checksum(path))]
    return ", ".join(_drop(folder, stale, belongs))


def _drop(folder: pathlib.Path, stale: list[pathlib.Path], belongs: Callable) -> list[str]:
    """Drop these files, and the lines and the audit of (step, weights, checksum) that do not belong."""

    def is_kept(record):
        return belongs(record["step"], record["weights"], record.get("checksum"))

    lines = sum(not is_kept(record) for record in results.read(folder))
    audit = results.JsonFile(AUDIT, schemas.OfWeights).read(folder)
    if audit and not is_kept(audit):
        stale.append(folder / AUDIT)
    if lines:
        stale += [folder / name for name in _DERIVED if (folder / name).exists()]
    for path in stale:
        with files.writing(path):
            path.unlink(missing_ok=True)
    # Last, so that what a kill cuts short is seen again by the same command.
    results.log(folder).keep(is_kept)
    if lines:
        mark_best(folder)
    return [counted(number, what) for number, what in ((lines, "result"), (len(stale), "file")) if number]


def _arrays(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, tuple[int, str]]]:
    """The files of arrays and of unfinished attacks, and the (step, weights) in their names."""
    for path in (*(folder / results.EXAMPLES).glob("*"), *(folder / AUDITS).glob("*")):
        if found := re.match(r"(\d+)-(raw|averaged)-", path.name):
            yield path, (int(found[1]), found[2])


def _checksum(path: pathlib.Path) -> int | None:
    """That in such a file; None for an audit, whose parts have theirs in their settings."""
    if path.suffix == ".json":
        return (files.read_json(path, schemas.Unfinished) or {}).get("checksum")
    return results.read_arrays(path).get("checksum")


def mark_best(workdir) -> None:
    """Write best.json, by the attack and the score of the run's own config; not without validation results."""
    trained = config_lib.from_dict(read_config(workdir))
    attack, criterion = config_lib.best_attack(trained), trained.checkpoint.best
    best = results.find_best(results.read(workdir), attack=attack, criterion=criterion)
    if best is not None:
        results.BEST.write(workdir, best)
