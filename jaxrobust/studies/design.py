"""The design of a study: axes, their levels, and the combinations of levels that are trained."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from jaxrobust import config as config_lib, files
from jaxrobust.errors import FieldError, UserError, listed, number, one_of
from jaxrobust.explanations import probe

Axes = Mapping[str, Mapping[str, Mapping]]
CONFIG = "config"  # key of a level, next to its fields: a config file that replaces the base of the study
_NAME = re.compile(r"(?!\.+$)[\w.+=,]{1,60}")  # name of a level, which becomes part of the name of a folder


@dataclasses.dataclass(frozen=True)
class Study:
    """The declaration of a study.

    Attributes:
        title: title of the page.
        base: config file that all runs start from, relative to the study's file.
        axes: axis -> level -> the fields in which its runs differ from the base, by dotted name. A level may give
            another config file to start from, under the key `config`.
        runs: for each run its level on every axis; made by `product` and `one_at_a_time`, or listed.
        question: the question of the study, one or two sentences for the page.
        fields: fields that all runs set differently from their base.
        attack: the attack under which classes are compared; by default, of the attacks that all runs were scored under,
            the strongest one on the first finished run. Set it if the strongest attack differs between runs.
        published: data level ("" without such an axis) -> name -> class -> published robust accuracy. The order of the
            classes is compared with these; see published.py.
        probes: whether the probes of `explanations` are measured on every adversarially trained run, to find which
            properties of a class go along with its robustness.
        probe_examples: number of images of a split that the probes use, stratified by class; 0 for all.
    """

    title: str
    base: str
    axes: Axes
    runs: Sequence[Mapping[str, str]]
    question: str = ""
    fields: Mapping = dataclasses.field(default_factory=dict)
    attack: str = ""
    published: Mapping[str, Mapping[str, Mapping[str, float]]] = dataclasses.field(default_factory=dict)
    probes: bool = False
    probe_examples: int = probe.EXAMPLES


@dataclasses.dataclass(frozen=True)
class Planned:
    """One run of a study."""

    name: str  # its levels on all axes with more than one level, joined by "-"; also the name of its folder
    levels: dict[str, str]  # axis -> level
    config: object  # the config, locked


def levels(field: str, values: Iterable, prefix: str = "") -> dict[str, dict]:
    """Levels of an axis that sets one field. Their names are a prefix and the value: `seed0`, `seed1`.

    Raises:
        FieldError: a value is given twice.
    """
    values = list(values)
    if len(set(map(str, values))) < len(values):
        raise FieldError(f"levels({field!r})", tuple(values), "has a value twice", "give each value once")
    return {f"{prefix}{value}": {field: value} for value in values}


def product(axes: Axes) -> list[dict[str, str]]:
    """Every combination of levels; the last axis varies fastest."""
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values())]


def one_at_a_time(axes: Axes, across: Sequence[str] = ("seed",)) -> list[dict[str, str]]:
    """Runs that differ from a reference run on at most one axis.

    The reference run has the first level of every axis. All these runs are repeated for every combination of the levels
    of the axes `across`.

    Raises:
        FieldError: a name in `across` is not an axis. "seed" is always allowed, even if the study has no such axis.
    """
    if unknown := set(across) - set(axes) - {"seed"}:
        raise FieldError("across", min(unknown), "is not an axis", listed(axes))
    varied = [axis for axis in axes if axis not in across]
    first = {axis: next(iter(axes[axis])) for axis in varied}
    centres = [first, *(first | {axis: level} for axis in varied for level in list(axes[axis])[1:])]
    crossed = product({axis: axes[axis] for axis in axes if axis in across})
    return [{axis: (centre | cross)[axis] for axis in axes} for centre in centres for cross in crossed]


def load(path) -> Study:
    """The study that a file declares.

    Raises:
        UserError: the file does not exist, or does not declare a study.
    """
    path = files.path(path, "study")
    if not path.is_file():
        raise FieldError("study", str(path), "is not a file", "give a study, for example configs/studies/digits.py")
    try:
        study = files.imported(path).get_study()
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # the code of a study may raise anything, sys.exit() included
        raise FieldError("study", str(path), f"{type(error).__name__}: {error}", "correct the file") from error
    if not isinstance(study, Study):
        raise FieldError("study", str(path), "get_study() did not return a Study", "end it with `return Study(...)`")
    return study


def plan(study: Study, folder) -> list[Planned]:
    """The runs of a study, in the order of the study, without duplicates.

    Args:
        folder: folder of the study's file; paths of config files are relative to it.

    Raises:
        UserError: names the axis, level or field that is wrong.
    """
    _check(study)
    runs = {tuple(run[axis] for axis in study.axes): dict(run) for run in study.runs}
    varied = [axis for axis in study.axes if len({run[axis] for run in runs.values()}) > 1]
    bases: dict[pathlib.Path, object] = {}
    planned = []
    for run in runs.values():
        run = {axis: run[axis] for axis in study.axes}
        fields = dict(study.fields)
        for axis, level in run.items():
            fields |= study.axes[axis][level]
        config = _config(pathlib.Path(folder) / fields.pop(CONFIG, study.base), fields, bases)
        name = "-".join(run[axis] for axis in varied) or "base"
        files.path(name, "runs")  # of its folder
        planned.append(Planned(name, run, config))
    _check_distinct(planned)
    _check_scores(study, planned)
    return planned


def _check_types(study: Study) -> None:
    """Check the types, since the code of a study's file can produce any value."""
    for name, kind, what in (
        ("title", str, "text"),
        ("question", str, "text"),
        ("attack", str, "the name of an attack"),
        ("probes", bool, "True or False"),
        ("base", str, "the path of a config file"),
        ("fields", Mapping, "a dict of fields by dotted name"),
        ("published", Mapping, "a dict of data levels"),
        ("axes", Mapping, "a dict of axes"),
        ("runs", Sequence, "a list of runs"),
    ):
        _check_type(name, getattr(study, name), kind, what)
    for level, sources in study.published.items():
        _check_type(f"published[{level!r}]", sources, Mapping, "a dict of sources")
        for source, accuracies in sources.items():
            name = f"published[{level!r}][{source!r}]"
            _check_type(name, accuracies, Mapping, "a dict of class names and robust accuracies")
            for class_name, accuracy in accuracies.items():
                _check_type(name, class_name, str, "class names as texts")
                number(name, accuracy, 0, 1)
    _check_type("fields['config']", study.fields.get(CONFIG, ""), str, "the path of a config file")
    for axis, of_axis in study.axes.items():
        _check_type("axes", axis, str, "a text as the name of an axis")
        _check_type(f"axes[{axis!r}]", of_axis, Mapping, "a dict of levels")
        for level, fields in of_axis.items():
            name = f"axes[{axis!r}][{level!r}]"
            _check_type(name, fields, Mapping, "a dict of fields by dotted name")
            _check_type(f"{name}['config']", fields.get(CONFIG, ""), str, "the path of a config file")
    for position, run in enumerate(study.runs):
        _check_type(f"runs[{position}]", run, Mapping, "a dict of the level on each axis")


def _check_type(name: str, value, kind, what: str) -> None:
    if not isinstance(value, kind):
        raise FieldError(name, value, f"is of type {type(value).__name__}", f"give {what}")


def _check(study: Study) -> None:
    _check_types(study)
    number("probe_examples", study.probe_examples, 0, 10**9, kind=int, remedy="give a number, or 0 for all")
    data_levels = study.axes.get("data", {"": {}})
    for level in study.published:
        if level not in data_levels:
            raise FieldError("published", level, "is not a level of the axis data", listed(data_levels))
    if not study.runs:
        raise FieldError("runs", study.runs, "has no runs", "give some, for example product(AXES)")
    for axis, of_axis in study.axes.items():
        for level in of_axis:
            if not (isinstance(level, str) and _NAME.fullmatch(level)):
                remedy = "use up to 60 letters, digits and _.+=, as it becomes part of a folder's name"
                raise FieldError(f"axes[{axis!r}]", level, "is not a valid name of a level", remedy)
    for run in study.runs:
        if set(run) != set(study.axes):
            odd = ", ".join(sorted(map(str, set(run) ^ set(study.axes))))
            raise FieldError(
                "runs", dict(run), f"does not have the axes of the study ({odd})", "give one level for each"
            )
        for axis, level in run.items():
            one_of(f"runs, axis {axis!r}", level, study.axes[axis], "is not a level of this axis")


def _config(base: pathlib.Path, fields: Mapping, bases: dict):
    if base not in bases:
        bases[base] = config_lib.to_dict(config_lib.given(base, "base"))
    config = config_lib.from_dict(bases[base])
    config_lib.put(config, fields)
    config_lib.check_options(config, fields)
    return config


def _check_distinct(planned: list[Planned]) -> None:
    """Check that configs differ: two runs with equal configs would be one training counted twice."""
    seen: dict[str, str] = {}
    for run in planned:
        key = files.to_json(config_lib.to_dict(run.config))
        if key in seen:
            names = f"{seen[key]} and {run.name}"
            raise FieldError("runs", names, "have the same config", "leave one out, as their levels differ in no field")
        seen[key] = run.name


def _check_scores(study: Study, planned: list[Planned]) -> None:
    """Check before training that the evaluations of the runs will allow a comparison."""
    for run in planned:
        fields = run.config.eval
        if "test" not in fields.splits:
            problem = f"does not contain test in run {run.name}"
            raise FieldError("eval.splits", tuple(fields.splits), problem, "add test")
        if fields.every_epochs == 0:
            problem = f"leaves run {run.name} without results"
            raise FieldError("eval.every_epochs", 0, problem, "set it, for example to train.epochs")
    attacks = [run.config.eval.attacks for run in planned]
    common = [name for name in attacks[0] if all(name in of for of in attacks)]
    if "clean" not in common or common == ["clean"]:
        remedy = "give all runs clean and one common attack"
        raise FieldError("eval.attacks", tuple(attacks[0]), "are not shared by all runs", remedy)
    if study.attack and study.attack not in common:
        raise FieldError("attack", study.attack, "is not in eval.attacks of all runs", listed(common))
