"""The probes of whole runs, and of a data set before training, with their correlations with class robustness."""

from jaxrobust import console, files
from jaxrobust.comparison.pairs import check_distinct, open_runs, open_side
from jaxrobust.config import objects, validation
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, listed
from jaxrobust.explanations import PROBES, measuring
from jaxrobust.explanations.inputs import DataInputs, Inputs, open_model
from jaxrobust.explanations.measuring import measure, rank
from jaxrobust.explanations.probe import EXAMPLES
from jaxrobust.runs import reading


def explain(
    workdirs,
    *,
    attack: str | None = None,
    weights: str = "best",
    split: str | None = None,
    standard=None,
    other=None,
    examples: int = EXAMPLES,
    overrides: dict | None = None,
) -> dict:
    """Measure every probe of every run, and its correlation with the robustness of the classes. Returns JSON data.

    Args:
        workdirs: of runs on the same classes.
        attack: defines robustness; None: the strongest attack that all runs were scored under.
        weights, split: as of comparison.pairs.compare_runs.
        standard, other: workdirs of other models on the same images: one trained without attack, and one on which the
            adversarial images are tried.
        examples: number of images of each split to use, a stratified subset; 0 for all.
        overrides: of inputs.OWN_FIELDS, by dotted name.

    Raises:
        UserError: a run, result, attack or checkpoint does not exist, or the runs have different classes.
    """
    overrides = overrides or {}
    _check_examples(examples)
    check_distinct(workdirs)
    sides = [open_side("", run, weights) for run in open_runs(workdirs, split)]
    for side in sides[1:]:
        if side.class_names != sides[0].class_names:
            where = f"{sides[0].run.workdir} and {side.run.workdir}"
            raise FieldError("workdir", where, "are of different classes", "explain runs on the same classes together")
    attack = _attack(sides, attack)
    given = {"standard": standard, "other": other}
    others = {name: open_model(path, overrides, field=name) for name, path in given.items() if path is not None}
    if "standard" in others and others["standard"].config.objective.name != "standard":
        objective = others["standard"].config.objective.name
        console.warn(f"standard = {standard}: trained with objective {objective}, not without attack")
    described, values, known = [], {name: [] for name in PROBES}, {}
    for side in sides:
        inputs = Inputs(side.run, side.checkpoint, attack, overrides, examples, others)
        found, left_out = measure(inputs, known)
        described.append(
            {
                **side.description(),
                "count": inputs.count.tolist(),
                "correct": inputs.correct.tolist(),
                "robustness": files.nullable(inputs.robustness.tolist()),
                **measuring.images(inputs),
                "left_out": left_out,
            }
        )
        for name in PROBES:
            values[name].append(found.get(name))
    return {
        "unit": "run",
        "attack": attack,
        "split": sides[0].run.split,
        "classes": list(sides[0].class_names),
        "confidence": measuring.CONFIDENCE,
        "level": measuring.LEVEL,
        **{name: None if path is None else str(path) for name, path in given.items()},
        "runs": described,
        **rank(values, [run["robustness"] for run in described]),
    }


def before_training(config, title: str, *, examples: int = EXAMPLES) -> dict:
    """Measure the probes that need only data, for a config. Returns JSON data: `classes`, `probes` {name: [C]}.

    Args:
        title: what stands for the config in messages.
        examples: as of `explain`.
    """
    _check_examples(examples)
    validation.validate(config, parallel.make_mesh().size, training=False)
    inputs = DataInputs(config, objects.dataset(config), examples, title)
    found = {name: probe.measure(inputs) for name, probe in PROBES.items() if probe.looks_at == "data"}
    return {
        "classes": list(inputs.class_names),
        "training_images": len(inputs.train_ids),
        "probes": files.nullable({name: values.tolist() for name, values in found.items()}),
    }


def _check_examples(examples: int) -> None:
    if examples < 0:
        raise FieldError("examples", examples, "is negative", "give a number, or 0 for all")


def _attack(sides, asked: str | None) -> str:
    """The attack that defines robustness: the requested one, or the common one that is strongest on the first run."""
    scored = [set(side.scores) for side in sides]
    common = {name: score for name, score in sides[0].scores.items() if all(name in names for names in scored)}
    if asked is not None:
        if asked not in common:
            lacking = next(side for side in sides if asked not in side.scores)
            raise FieldError("attack", asked, f"{lacking.run.workdir} was not scored under it", listed(lacking.scores))
        return asked
    if not common:
        where = " and ".join(str(side.run.workdir) for side in sides)
        raise FieldError("workdir", where, "share no attack", "evaluate all alike")
    return reading.strongest(common)
