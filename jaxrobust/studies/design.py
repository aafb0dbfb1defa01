"""What a study trains: axes, their levels, and which of them meet in a run."""

import dataclasses
import itertools
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence

from jaxrobust import config as config_lib
from jaxrobust import files
from jaxrobust.errors import FieldError, UserError
from jaxrobust.explanations import probe

Axes = Mapping[str, Mapping[str, Mapping]]
CONFIG = "config"  # in a level, beside fields: a config file in place of the study's base
_NAME = re.compile(r"[\w.+=,]{1,60}")  # of a level: it becomes part of the name of a folder


@dataclasses.dataclass(frozen=True)
class Study:
    """A declared matrix of trainings.

    Attributes:
        title: of its page.
        base: config file that all runs start from, relative to the study's file.
        axes: axis -> level -> the fields in which its runs differ from the base, by dotted name. A level may name
            another file to start from as `config`.
        runs: of each its level on every axis; made by `product` and `one_at_a_time`, or listed.
        question: what the study is to answer, a sentence or two for its page.
        fields: that all runs have otherwise than their base.
        attack: under which classes are compared; by default the strongest on the first run that is done, of those that
            all were scored under. Name it where runs do not agree on which that is.
        published: data level ("" without such an axis) -> name -> class -> published robust accuracy, for the order of
            the classes to be compared with; see published.py.
        probes: whether the probes of `explanations` are measured on every adversarially trained run, to say what goes
            along with the robustness of a class.
        probe_examples: how many images of a split these look at, stratified; 0 for all.
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
    """One run of a study.

    Attributes:
        name: its levels on all axes with more than one, joined by "-"; also that of its folder.
        levels: axis -> level.
        config: locked.
    """

    name: str
    levels: dict[str, str]
    config: object


def levels(field: str, values: Iterable, prefix: str = "") -> dict[str, dict]:
    """Levels of an axis that sets one field, called by their value after a prefix: `seed0`, `seed1`.

    Raises:
        FieldError: a value is there twice.
    """
    values = list(values)
    if len(set(map(str, values))) < len(values):
        raise FieldError(f"levels({field!r})", tuple(values), "has a value twice", "give each once")
    return {f"{prefix}{value}": {field: value} for value in values}


def product(axes: Axes) -> list[dict[str, str]]:
    """Every combination of levels; the last axis varies fastest."""
    return [dict(zip(axes, combination, strict=True)) for combination in itertools.product(*axes.values())]


def one_at_a_time(axes: Axes, across: Sequence[str] = ("seed",)) -> list[dict[str, str]]:
    """The first level of every axis, and from there each other level of each axis alone; all that with every
    combination of the levels of the axes `across`.

    Raises:
        FieldError: one of those is no axis, other than "seed", which a study may do without.
    """
    if unknown := set(across) - set(axes) - {"seed"}:
        raise FieldError("across", min(unknown), "is no axis", f"choose of {', '.join(axes)}")
    varied = [axis for axis in axes if axis not in across]
    first = {axis: next(iter(axes[axis])) for axis in varied}
    centres = [first, *(first | {axis: level} for axis in varied for level in list(axes[axis])[1:])]
    crossed = product({axis: axes[axis] for axis in axes if axis in across})
    return [{axis: (centre | cross)[axis] for axis in axes} for centre in centres for cross in crossed]


def load(path) -> Study:
    """The study that a file declares.

    Raises:
        UserError: there is no such file, or it holds no study.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FieldError("--study", str(path), "is not a file", "give a study, for example configs/studies/digits.py")
    try:
        study = files.imported(path).get_study()
    except UserError:
        raise
    except Exception as error:  # whatever the code of a study may raise
        raise FieldError("--study", str(path), f"{type(error).__name__}: {error}", "mend the file") from error
    if not isinstance(study, Study):
        raise FieldError("--study", str(path), "get_study() returned no Study", "let it end in `return Study(...)`")
    return study


def plan(study: Study, folder) -> list[Planned]:
    """The runs of a study, in its order, each once.

    Args:
        folder: of the study's file, to which config files are relative.

    Raises:
        UserError: names the axis, level or field that does not fit.
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
        planned.append(Planned("-".join(run[axis] for axis in varied) or "base", run, config))
    _check_distinct(planned)
    _check_scores(study, planned)
    return planned


def _check_types(study: Study) -> None:
    """What a file declares is whatever its code has made."""
    for name, kind, what in (
        ("title", str, "text"),
        ("question", str, "text"),
        ("attack", str, "the name of an attack"),
        ("base", str, "the path of a config file"),
        ("fields", Mapping, "a dict of fields by dotted name"),
        ("published", Mapping, "a dict of data levels"),
        ("axes", Mapping, "a dict of axes"),
        ("runs", Sequence, "a list of runs"),
        ("probe_examples", int, "a number, 0 for all"),
    ):
        _check_type(name, getattr(study, name), kind, what)
    for level, sources in study.published.items():
        _check_type(f"published[{level!r}]", sources, Mapping, "a dict of sources")
        for source, accuracies in sources.items():
            name = f"published[{level!r}][{source!r}]"
            _check_type(name, accuracies, Mapping, "a dict of class names and robust accuracies")
            for accuracy in accuracies.values():
                _check_type(name, accuracy, float | int, "robust accuracies as numbers")
    for axis, of_axis in study.axes.items():
        _check_type(f"axes[{axis!r}]", of_axis, Mapping, "a dict of levels")
        for level, fields in of_axis.items():
            _check_type(f"axes[{axis!r}][{level!r}]", fields, Mapping, "a dict of fields by dotted name")
    for position, run in enumerate(study.runs):
        _check_type(f"runs[{position}]", run, Mapping, "a dict of the level on each axis")


def _check_type(name: str, value, kind, what: str) -> None:
    if not isinstance(value, kind):
        raise FieldError(name, value, f"is of type {type(value).__name__}", f"give {what}")


def _check(study: Study) -> None:
    _check_types(study)
    if study.probe_examples < 0:
        raise FieldError("probe_examples", study.probe_examples, "is negative", "give a number, or 0 for all")
    data_levels = study.axes.get("data", {"": {}})
    for level in study.published:
        if level not in data_levels:
            known = ", ".join(map(repr, data_levels))
            raise FieldError("published", level, "is no level of the axis data", f"choose of {known}")
    if not study.runs:
        raise UserError("the study has no runs; give some, for example product(AXES)")
    for axis, of_axis in study.axes.items():
        for level in of_axis:
            if not (isinstance(level, str) and _NAME.fullmatch(level)):
                remedy = "use up to 60 letters, digits and _.+=, as it becomes part of a folder's name"
                raise FieldError(f"axes[{axis!r}]", level, "is no name of a level", remedy)
    for run in study.runs:
        if set(run) != set(study.axes):
            odd = ", ".join(sorted(set(run) ^ set(study.axes)))
            raise FieldError("runs", dict(run), f"has not the axes of the study ({odd})", "give one level for each")
        for axis, level in run.items():
            if level not in study.axes[axis]:
                known = ", ".join(study.axes[axis])
                raise FieldError(f"runs, axis {axis!r}", level, "is no level of it", f"choose of {known}")


def _config(base: pathlib.Path, fields: Mapping, bases: dict):
    if base not in bases:
        bases[base] = config_lib.to_dict(config_lib.given(base, "base"))
    config = config_lib.from_dict(bases[base])
    for field, value in fields.items():
        try:
            config.update_from_flattened_dict({field: value})
        except (KeyError, AttributeError) as error:
            raise FieldError(field, value, "is no field of a config", "see jaxrobust/config.py") from error
        except (TypeError, ValueError) as error:
            raise FieldError(field, value, "has the wrong type", "see jaxrobust/config.py") from error
    return config


def _check_distinct(planned: list[Planned]) -> None:
    """Two runs of one config would be the same training twice, counted as two."""
    seen: dict[str, str] = {}
    for run in planned:
        key = files.to_json(config_lib.to_dict(run.config))
        if key in seen:
            raise UserError(f"{seen[key]} and {run.name} have one config; their levels differ in no field")
        seen[key] = run.name


def _check_scores(study: Study, planned: list[Planned]) -> None:
    """What the runs are to be compared by is known before they are trained."""
    for run in planned:
        fields = run.config.eval
        if "test" not in fields.splits:
            problem = f"leaves out test in run {run.name}"
            raise FieldError("eval.splits", tuple(fields.splits), problem, "add test")
        if fields.every_epochs == 0:
            problem = f"leaves run {run.name} without results"
            raise FieldError("eval.every_epochs", 0, problem, "set it to train.epochs, say")
    attacks = [run.config.eval.attacks for run in planned]
    common = [name for name in attacks[0] if all(name in of for of in attacks)]
    if "clean" not in common or common == ["clean"]:
        remedy = "give all of them clean and an attack in common"
        raise FieldError("eval.attacks", tuple(attacks[0]), "are not shared by all runs", remedy)
    if study.attack and study.attack not in common:
        raise FieldError("attack", study.attack, "is not in eval.attacks of all runs", f"choose of {', '.join(common)}")
