"""Another head for a checkpoint, in a run of its own."""

import pathlib

import jax
import numpy as np

from jaxrobust import config as config_lib, console, files
from jaxrobust.distributed.interruption import StopRequest
from jaxrobust.errors import FieldError, one_of
from jaxrobust.evaluation import loading
from jaxrobust.posthoc import remedies as posthoc_remedies
from jaxrobust.posthoc.model import TrainedModel
from jaxrobust.runs import checkpoints as checkpoints_lib, history, results
from jaxrobust.training import setup as training_setup

OWN_FIELDS = ("data.data_dir", "eval.batch_size", *config_lib.POSTHOC_FIELDS)


def change_head(
    workdir,
    remedy: str,
    overrides: dict | None = None,
    *,
    out=None,
    step: int | None = None,
    weights: str | None = None,
) -> pathlib.Path:
    """Make a run with the head that a remedy gives for a checkpoint of another run.

    Args:
        workdir: of the other run, which stays as it is.
        remedy: one of `posthoc_remedies.NAMES`.
        overrides: fields to set otherwise, by dotted name; `OWN_FIELDS` alone may differ from the run's.
        out: folder of the new run; None adds the remedy's name to that of the other.
        step, weights: as of checkpoints.choose.

    Returns:
        The folder of the new run.

    Raises:
        UserError: there is no such run or checkpoint, `out` holds one, a field is wrong, or the remedy needs what the
            run does not have. Nothing is written then.
        Interrupted: by a signal. Nothing is written.
    """
    one_of("remedy", remedy, posthoc_remedies.NAMES)
    workdir = files.folder(workdir, "workdir")
    out = files.writable(_beside(workdir, remedy) if out is None else out, "out")
    stored = history.read_config(workdir)
    checkpoints_lib.check_free(out, "out")
    if stored and stored.get("posthoc", {}).get("remedy", "none") != "none":
        # The settings there were those of another remedy.
        stored = stored | {"posthoc": config_lib.to_dict(config_lib.default())["posthoc"]}
    run = loading.open_run(workdir, overrides, OWN_FIELDS, stored=stored)
    step, weights = run.choose(step, weights, among=run.scored_steps())
    total_steps = run.steps_per_epoch * run.config.train.epochs
    like = training_setup.create(run.config, run.dataset, run.mesh, total_steps).abstract_state()
    state = run.checkpoints.restore(step, like)
    source = state.averaged if weights == "averaged" else state.weights
    with StopRequest() as stop:
        model = TrainedModel(run.config, run.dataset, run.mesh, jax.device_get(source), stop)
        changed = posthoc_remedies.REMEDIES[remedy].apply(model)
    if not all(np.isfinite(array).all() for array in changed.head):
        raise FieldError("remedy", remedy, "gives a head that is not finite numbers", "take another checkpoint")

    config = config_lib.from_dict(config_lib.to_dict(run.config))
    config.train.average_decay = 0.0
    config.posthoc.remedy = remedy
    config.model.head = changed.kind
    origin = {
        "remedy": remedy,
        "run": str(workdir),
        "step": step,
        "epoch": step // run.steps_per_epoch,
        "weights": weights,
        "checksum": checkpoints_lib.checksum(source),
        "settings": _settings(remedy, run.config.posthoc),
        "chosen": changed.chosen,
    }
    if before := results.ORIGIN.read(workdir):
        origin["origin"] = before
    state = state.replace(weights=model.with_head(changed.head), averaged=None)
    checkpoints_lib.write_run(out, config_lib.to_dict(config), step, state, origin, "out")
    said = [f"{name} = {value:.4g}" for name, value in changed.chosen.items() if isinstance(value, int | float)]
    console.say(f"{remedy} on the {weights} weights of step {step}" + (f": {', '.join(said)}" if said else ""))
    if "validation_after" in changed.chosen:
        before, after = (_in_percent(changed.chosen[f"validation_{when}"]) for when in ("before", "after"))
        console.say(f"on validation under {run.config.posthoc.attack}: {before} before, {after} now")
    console.say(f"score it: jaxrobust evaluate --workdir {out}")
    return out


def _beside(workdir: pathlib.Path, remedy: str) -> pathlib.Path:
    named = workdir if workdir.name not in ("", "..") else workdir.resolve()
    return named.parent / f"{named.name}-{remedy}"


def _in_percent(figures: dict) -> str:
    return f"average {100 * figures['average']:.1f} and worst class {100 * figures['worst']:.1f}"


def _settings(remedy: str, posthoc) -> dict:
    return {name: posthoc[name] for name in posthoc_remedies.REMEDIES[remedy].settings if posthoc[name] is not None}
