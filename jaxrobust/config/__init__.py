"""Configs: plain, locked ml_collections data. The fields are in the table of `fields.py`.

A file under configs/ is the default plus a few lines:

    from jaxrobust.config import default

    def get_config():
        config = default()
        config.data.name = "tfds:cifar10"
        return config

Radii and step sizes have two fields each: `eps_255` in 1/255, as papers write them, and `eps` in pixel units of
[0, 1]. `eps`, where it is given, replaces `eps_255`. `radius()` and `step_size()` resolve them.
"""

import difflib
import json
import math
import os
import pathlib
import traceback
from collections.abc import Collection, Mapping

import ml_collections

from jaxrobust import files, models, objectives
from jaxrobust.config import fields
from jaxrobust.config.fields import FIELDS, default
from jaxrobust.errors import FieldError

# An audit pushes every example to every other class, if there are no more than this.
ALL_TARGETS_UP_TO = 20


def from_file(path) -> ml_collections.ConfigDict:
    """The config of a file under configs/, for another one to build on."""
    return files.imported(path).get_config()


def given(path, field: str) -> ml_collections.ConfigDict:
    """The config of a file that the user has named.

    Raises:
        FieldError: names the `field`: there is no such file, its code fails, or it returns no config; or an option that
            its model does not have.
    """
    path = str(files.path(path, field))
    if not os.path.isfile(path) or not path.endswith(".py"):
        raise FieldError(field, path, "is no existing .py file", "give a config file, for example configs/digits.py")
    try:
        config = from_file(path)
        values = files.flatten(config.to_dict()) if isinstance(config, ml_collections.ConfigDict) else None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the code of a config file may raise, sys.exit() included
        problem = f"{type(error).__name__}: {error}{_line_in(path, error)}"
        raise FieldError(field, path, problem, "correct the file") from error
    if values is None:
        raise FieldError(field, path, "get_config() returned no config", "let it end in `return config`")
    if missing := FIELDS.keys() - values.keys():
        problem = f"its config has no {min(missing)}"
        raise FieldError(field, path, problem, "let get_config() begin with `config = default()`")
    config = default()
    put(config, values)
    check_options(config, [name for name, value in values.items() if value != FIELDS[name].default])
    return config


def put(config, values: Mapping, remedy: str = "") -> None:
    """Set fields by dotted name.

    Raises:
        FieldError: names the first that does not exist, for which there is a `remedy`, or that is of another type.
    """
    for name, value in values.items():
        if name not in FIELDS:
            near = difflib.get_close_matches(str(name), FIELDS, 1)
            hint = f"did you mean {near[0]}?" if near else "jaxrobust fields lists them"
            raise FieldError(name, value, "is not a field of a config", remedy or hint)
        config.update_from_flattened_dict({name: FIELDS[name].typed(value)})


def check_options(config, given: Collection[str]) -> None:
    """Raises FieldError if one of the fields `given` is an option of models other than that of the config."""
    options = [name for name in models.OPTIONS if f"model.{name}" in given]
    models.check(config.model.name, **{name: config.model[name] for name in options})


def _line_in(path: str, error: Exception) -> str:
    """Where in the config file an error came about, if it did there."""
    name = pathlib.Path(path).resolve()
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if pathlib.Path(f.filename).resolve() == name]
    return f" (line {lines[-1]})" if lines else ""


def radius(config) -> float:
    """The threat radius in pixel units of [0, 1]."""
    threat = config.threat
    return threat.eps if threat.eps is not None else threat.eps_255 / 255


def attack_radius(config, section: str) -> float:
    """The radius that `attack` trains with, or `eval` judges by, in pixel units of [0, 1]."""
    return radius(config) * (config.attack.radius if section == "attack" else 1.0)


def step_size(config, section: str) -> float:
    """The attack step of `attack` or `eval` in pixel units: as given, else a quarter of the radius.

    In training with an objective of one step it is what that was published with.
    """
    fields = config[section]
    if fields.step_size is not None:
        return fields.step_size
    if fields.step_size_255 is not None:
        return fields.step_size_255 / 255
    single = objectives.OBJECTIVES[config.objective.name].single_step if section == "attack" else 0
    return (single or 0.25) * attack_radius(config, section)


def attack_batch_norm(objective: str, given: str) -> str:
    """Mode of batch normalisation during the attack of the training, "train" or "eval": as given, or as published."""
    if given != "as_published":
        return given
    return "eval" if objective in objectives.ATTACK_IN_EVALUATION else "train"


def audit_radii(config) -> tuple[float, ...]:
    """The radii of an audit's security curve in pixel units, rising; that of the threat is one of them."""
    threat, audit = radius(config), config.audit
    radii = [r / 255 for r in audit.radii_255] or [r * threat for r in audit.radii]
    # Without the neighbours that only rounding keeps apart from it.
    return tuple(sorted({r for r in radii if not math.isclose(r, threat, rel_tol=1e-6)} | {threat}))


def audit_targets(config, num_classes: int) -> int:
    """How many classes an audit pushes each example to."""
    return min(num_classes - 1, config.audit.targets or (num_classes if num_classes <= ALL_TARGETS_UP_TO else 9))


def relative_step(config) -> float:
    """The step of an evaluation's PGD as a share of the radius, which it goes with at other radii."""
    return step_size(config, "eval") / radius(config) if radius(config) > 0 else 0.25


def checkpoint_due(config, epoch: int) -> bool:
    """Whether a checkpoint is to be saved, and kept, after that many epochs."""
    return epoch % config.checkpoint.every_epochs == 0 or epoch == config.train.epochs


def best_attack(config) -> str:
    """Name of the attack under which the best checkpoint is chosen."""
    return config.checkpoint.best_attack or config.eval.attacks[-1]


AUDIT_FIELDS = fields.section("audit")
POSTHOC_FIELDS = tuple(name for name in fields.section("posthoc") if name != "posthoc.remedy")


def to_dict(config) -> dict:
    """The config as plain JSON data: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def from_dict(values: dict) -> ml_collections.ConfigDict:
    """The inverse of `to_dict`: the default config with every stored value put in. Raises FieldError if this version
    lacks one.
    """
    config = default()
    put(config, files.flatten(values), "use the version that wrote it")
    return config


def type_problem(values: dict) -> str | None:
    """The first field of stored values that is of another type than in the table, as a clause; None if none is."""
    for name, field in FIELDS.items():
        value = values
        for part in name.split("."):
            if not isinstance(value, dict):
                return f"the section of {name} is {value!r}"
            if part not in value:  # as of an earlier version
                break
            value = value[part]
        else:
            try:
                field.typed(value)
            except FieldError:
                return f"{name} is {value!r}"
    return None


def comparable(flat: dict) -> dict:
    """A config by dotted names, with `as_published` in the place of a mode of the attack that is the published one."""
    name, default = "attack.batch_norm", "as_published"
    is_default = flat.get(name) == attack_batch_norm(flat.get("objective.name", ""), default)
    return flat | {name: default} if is_default else flat


def differences(one: dict, other: dict) -> dict:
    """The fields, by dotted name, in which two `to_dict` configs differ: name -> (value in one, value in other)."""
    one, other = (comparable(files.flatten(config)) for config in (one, other))
    return {name: (one.get(name), other.get(name)) for name in sorted(one | other) if one.get(name) != other.get(name)}
