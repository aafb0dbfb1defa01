"""Grouping runs that are seeds of one method, and naming the methods."""

import collections
import dataclasses
import json
import pathlib
import re

from jaxrobust import config as config_lib, files, remedies
from jaxrobust.errors import FieldError
from jaxrobust.runs.reading import RunFiles, field

# Fields that do not change the trained model: file locations, evaluation, checkpoints, logging. And the seed.
NEUTRAL = (
    "train.seed",
    "train.log_every_steps",
    "train.overfitting_check",
    "train.steps_per_dispatch",
    "data.data_dir",
    "eval.",
    "audit.",
    "checkpoint.",
)
_NUMBERED = re.compile(r"(?i)(.*?)(?:[-_.]?seed[-_]?|[-_]s?)(\d+)")


@dataclasses.dataclass(frozen=True)
class Method:
    """The runs of one config.

    Attributes:
        name: what it does otherwise than the base, or what the base is.
        differs: fields in which its config is not the base's, and their values; all are JSON data.
        seeds: of `runs`, ascending.
    """

    name: str
    differs: dict
    seeds: tuple[int, ...]
    runs: tuple[RunFiles, ...]


def group(runs: list[RunFiles]) -> list[Method]:
    """The methods among the runs, in the order in which they are given; the first is the base.

    Runs of imported or adjusted weights, whose config does not say what was done, are told apart by the names of
    their folders without the number of the seed; so are runs of one config and seed.

    Raises:
        FieldError: two runs are of one method and seed.
    """
    by_method = collections.defaultdict(list)
    for run in runs:
        by_method[_key(run)].append(run)
    for key, members in list(by_method.items()):
        if key[1] is None and len({_seed(run) for run in members}) < len(members):
            del by_method[key]
            for run in members:
                by_method[key[0], stem_and_seed(run.workdir)[0]].append(run)
    # Groups that were split come last: back in the order of the runs.
    keys = sorted(by_method, key=lambda key: min(runs.index(run) for run in by_method[key]))
    settings = {key: json.loads(key[0]) for key in keys}
    base = settings[keys[0]]
    differs = {key: _differs(settings[key], base) for key in keys}
    names = _names(keys, differs, base)
    return [_method(names[key], differs[key], by_method[key]) for key in keys]


def _key(run: RunFiles) -> tuple[str, str | None]:
    """What the runs of a method have in common: the config, and the folder's name where that does not tell all."""
    own = None if run.origin is None else stem_and_seed(run.workdir)[0]
    return json.dumps(_settings(run.config), sort_keys=True), own


def _settings(config: dict) -> dict:
    """The fields that say how a model is made, by dotted name; those that an older version lacked at their defaults."""
    default = files.flatten(config_lib.to_dict(config_lib.default()))
    flat = default | files.flatten(config)
    names = re.findall(r"\w+", flat["remedy.name"])
    # Settings of remedies that are not used say nothing, nor does the order of names.
    unused = tuple(f"remedy.{name}." for name in remedies.NAMES if name not in names)
    flat |= {name: value for name, value in default.items() if name.startswith(unused)}
    flat["remedy.name"] = "+".join(sorted(names))
    settings = {name: value for name, value in config_lib.comparable(flat).items() if not name.startswith(NEUTRAL)}
    if settings["posthoc.remedy"] != "none":
        # Weights of one kind are left, and 0 stands there whatever the training had.
        del settings["train.average_decay"]
    if source := settings["train.start_from"]:
        # Seeds of one method start from seeds of another.
        settings["train.start_from"] = stem_and_seed(pathlib.Path(source))[0]
    return settings


def _differs(settings: dict, base: dict) -> dict:
    """The settings that are not those of the base; of a base that does not say one nothing is known."""
    return {f: v for f, v in settings.items() if v != base.get(f, v)}


def _method(name: str, differs: dict, runs: list[RunFiles]) -> Method:
    runs = sorted(runs, key=_seed)
    seeds = [_seed(run) for run in runs]
    for i in range(1, len(runs)):
        if seeds[i] == seeds[i - 1]:
            where = f"{runs[i - 1].workdir} and {runs[i].workdir}"
            problem = f"are one method and seed, {name}, seed {seeds[i]}"
            raise FieldError("workdir", where, problem, "leave one out")
    return Method(name, differs, tuple(seeds), tuple(runs))


def _seed(run: RunFiles) -> int:
    """The training seed; of weights from elsewhere the number that ends the folder's name, else 0."""
    seed = field(run.config, "train.seed")
    return stem_and_seed(run.workdir)[1] if seed is None or run.origin is not None else seed


def stem_and_seed(workdir: pathlib.Path) -> tuple[str, int]:
    """The name of a run's folder without the seed that ends it, and that seed: `cfa-seed2`, `cfa_2`, `cfa/seed2`."""
    folder = workdir.resolve()
    match = _NUMBERED.fullmatch(folder.name)
    if not match:
        return folder.name, 0
    return match[1] or folder.parent.name, int(match[2])


def _names(keys, differs: dict, base: dict) -> dict:
    """A name for each method, no two alike: as short as that allows."""
    names = {keys[0]: keys[0][1] or _base_name(base)}
    names |= {key: _short(differs[key]) or _listed(differs[key]) or key[1] or "unnamed" for key in keys[1:]}
    for longer in (lambda key: _rest(differs[key]), lambda key: key[1], lambda key: str(keys.index(key))):
        alike = {name for name, number in collections.Counter(names.values()).items() if number > 1}
        names |= {key: f"{names[key]} {more}" for key in keys if names[key] in alike and (more := longer(key))}
    return names


def _base_name(base: dict) -> str:
    return "+".join(part for part in (base["objective.name"], base["remedy.name"]) if part != "none")


def _short(differs: dict) -> str:
    """The names of the sections that differ, as of an objective and a remedy, if each of them goes by another name."""
    sections = dict.fromkeys(field_name.split(".")[0] for field_name in differs)
    names = [differs.get(f"{section}.name") for section in sections if section != "posthoc"]
    if "posthoc" in sections:
        names.append(f"posthoc {differs['posthoc.remedy']}" if "posthoc.remedy" in differs else None)
    return "+".join(names) if all(names) else ""


def _rest(differs: dict) -> str:
    """What `_short` leaves out, fields without the section that they are in."""
    if not _short(differs):
        return ""
    rest = {name: value for name, value in differs.items() if not name.endswith(".name") and name != "posthoc.remedy"}
    own = f"{differs.get('remedy.name')}."
    return _listed({name.split(".", 1)[1].removeprefix(own): value for name, value in rest.items()})


def _listed(differs: dict) -> str:
    values = {name: v if isinstance(v, str) else json.dumps(v, separators=(",", ":")) for name, v in differs.items()}
    return " ".join(f"{name}={value}" for name, value in values.items())


def pair(base: Method, method: Method) -> list[tuple[RunFiles, RunFiles]]:
    """(run of the base, run of the method): a changed head with the run it comes from, then equal seeds where both have
    them, then the others in ascending order.

    A run is in one pair at most, so that the pairs' differences are independent draws of the seed.
    """
    pairs = [(a, b) for b in method.runs for a in base.runs if comes_from(b, a)]
    taken = {id(run) for pair_ in pairs for run in pair_}
    of_base, of_method = (
        {seed: run for seed, run in zip(of.seeds, of.runs, strict=True) if id(run) not in taken}
        for of in (base, method)
    )
    shared = sorted(of_base.keys() & of_method.keys())
    others = zip(sorted(of_base.keys() - set(shared)), sorted(of_method.keys() - set(shared)), strict=False)
    return [*pairs, *((of_base[a], of_method[b]) for a, b in [*((seed, seed) for seed in shared), *others])]


def comes_from(run: RunFiles, other: RunFiles) -> bool:
    """Whether a run is a head that was changed after training, of the other; told by the names of the folders."""
    origin = run.origin
    while origin is not None and "run" in origin:
        if pathlib.Path(origin["run"]).resolve().name == other.workdir.resolve().name:
            return True
        origin = origin.get("origin")
    return False
