"""The arguments of `fit` and `import_torch`: the config that they stand for, and errors that name them."""

import contextlib
import difflib
import re
from collections.abc import Mapping

from jaxrobust import config as config_lib, objectives
from jaxrobust.attacks.threats import Threat
from jaxrobust.data import Dataset
from jaxrobust.errors import FieldError

_BY_SECTION = {
    "train": "epochs batch_size seed average_decay",
    "optimizer": "learning_rate momentum nesterov weight_decay schedule milestones decay_factor warmup clip_norm",
    "objective": " ".join((*objectives.SETTINGS, "awp_gamma", "awp_begin")),
    "attack": "step_size random_start radius_warmup",
    "remedy": "observe counts counts_decay",
    "model": "dtype batch_norm",
    "data": "augment pad",
    "eval": "attacks",
}
# The config field of each argument.
FIELDS = {
    **{name: f"{section}.{name}" for section, names in _BY_SECTION.items() for name in names.split()},
    "model": "model.name",
    "threat": "threat.eps",
    "objective": "objective.name",
    "remedy": "remedy.name",
    "optimizer": "optimizer.name",
    "attack_steps": "attack.steps",
    "attack_restarts": "attack.restarts",
    "attack_batch_norm": "attack.batch_norm",
    "remedy_begin": "remedy.begin",
    "eval_batch_size": "eval.batch_size",
    "eval_every_epochs": "eval.every_epochs",
    "checkpoint_every_epochs": "checkpoint.every_epochs",
}
# What stands for a field in messages.
_NAMES = {field: name for name, field in FIELDS.items()} | {
    "data.validation_per_class": "validation_per_class of the dataset",
    "data.name": "dataset",
    "threat.norm": "threat",
}


def config_of(
    given: dict, threat: Threat, dataset: Dataset, model_options: dict | None = None, remedy_options: dict | None = None
):
    """The default config with the arguments put in. Raises FieldError if one does not exist, or has another type."""
    if not isinstance(threat, Threat):
        raise FieldError("threat", threat, "is no threat", "give one, for example Linf(8/255)")
    threat.check(dataset.image_shape)
    for name, options in (("model_options", model_options), ("remedy_options", remedy_options)):
        if options is not None and not (isinstance(options, Mapping) and all(isinstance(key, str) for key in options)):
            raise FieldError(name, options, "is no dict of options by name", "give one, for example {'width': 4}")
    fields = {"threat.norm": threat.norm, "threat.eps": float(threat.eps)}
    for name, value in given.items():
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, 1)
            raise FieldError(name, value, "is no argument", f"did you mean {near[0]}?" if near else "see the help")
        fields[FIELDS[name]] = value
    fields |= {f"model.{name}": value for name, value in (model_options or {}).items()}
    for name, value in (remedy_options or {}).items():
        fields[f"remedy.{name}" if "." in name else f"remedy.{given.get('remedy')}.{name}"] = value
    config = config_lib.default()
    config_lib.put(config, fields)
    config_lib.check_options(config, fields)
    if len(dataset.validation):
        config.data.validation_per_class = int(dataset.validation.counts(dataset.num_classes).min())
    # What a workdir is evaluated on, of the splits that the data have.
    config.eval.splits = tuple(name for name in ("validation", "test") if len(getattr(dataset, name))) or ("test",)
    return config


def renamed(text: str) -> str:
    """The text with arguments in the place of config fields."""

    def name(match):
        section, _, rest = match[1].partition(".")
        if match[1] in _NAMES:
            return _NAMES[match[1]]
        of_options = section == "model" or (section == "remedy" and "." in rest)
        return f"{rest} of {section}_options" if of_options else match[0]

    return re.sub(r"\b([a-z]+(?:\.[a-z_0-9]+)+)\b", name, text)


@contextlib.contextmanager
def named():
    """Let errors name arguments instead of config fields."""
    try:
        yield
    except FieldError as error:
        _, value, problem, remedy = error.args
        raise type(error)(renamed(error.field), value, renamed(problem), renamed(remedy)) from None
