"""The remedies after training by name: what each looks at, and what it chooses. See __init__.py for what they are."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust import console
from jaxrobust.errors import FieldError
from jaxrobust.posthoc import heads, training as posthoc_training
from jaxrobust.posthoc.heads import Head
from jaxrobust.posthoc.model import Measured, TrainedModel


class Changed(NamedTuple):
    """What a remedy gives: the head, what it chose for weights.json, and the head's kind."""

    head: Head
    chosen: dict
    kind: str = "linear"


def _tau_norm(model: TrainedModel) -> Changed:
    _check_linear(model, "the weights of each class count by their direction alone")
    fields = model.fields
    if fields.tau is not None:
        return Changed(heads.tau_norm(model.head, fields.tau, keep_bias=fields.keep_bias), {})
    model.check_validation("tau is chosen (or set posthoc.tau)")
    before = model.measure(model.head)
    trials = heads.try_taus(model.head, model.measure, keep_bias=fields.keep_bias)
    best = heads.best(trials, lambda measured: measured.score)
    tried = {f"{trial.setting:g}": trial.measured.figures() for trial in trials}
    return Changed(best.head, {"tau": best.setting} | _change(before, best.measured) | {"tried": tried})


def _head_norm(model: TrainedModel) -> Changed:
    _check_linear(model, "the weights of each class count by their direction alone")
    return Changed(heads.head_norm(model.head), {})


def _lws(model: TrainedModel) -> Changed:
    _check_linear(model, "factors on the weights of a class change nothing")
    head, factors, found = _train(model, "lws")
    return Changed(head, found | {"factors": factors.tolist()})


def _crt(model: TrainedModel) -> Changed:
    head, _, found = _train(model, "crt")
    return Changed(head, found, model.kind)


def _train(model: TrainedModel, kind: str):
    args = model.config, model.dataset, model.mesh, model.weights, kind, model.stop
    head, factors, found = posthoc_training.train_head(*args)
    return head, factors, {"last_loss": round(found["loss"], 4), "last_training_accuracy": round(found["accuracy"], 4)}


def _ncm(model: TrainedModel) -> Changed:
    l2n = model.fields.features == "l2n"
    sums = np.zeros((model.dataset.num_classes, len(model.head.kernel)))
    for labels, features, _ in model.features(model.dataset.train):
        features = np.float64(features)
        if l2n:
            features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
        np.add.at(sums, labels, features)
    means = sums / model.dataset.train.counts(model.dataset.num_classes)[:, None]
    return Changed(heads.nearest_direction(means), {}, "cosine") if l2n else Changed(heads.nearest_mean(means), {})


def _logit_adjustment(model: TrainedModel) -> Changed:
    fields, chosen = model.fields, {}
    tau = 1.0 if fields.tau is None else fields.tau
    if fields.prior == "counts":
        values = model.dataset.train.counts(model.dataset.num_classes)
        if (values == values[0]).all():
            console.warn(
                f"posthoc.prior = 'counts' changes no prediction, as every class has {values[0]:,} training images; "
                "posthoc.prior = robust_accuracy goes by how hard they are"
            )
    else:
        model.check_validation("the prior is measured (or set posthoc.prior = counts)")
        before = model.measure(model.head)
        values = before.accuracy if fields.prior == "robust_accuracy" else before.predicted
    prior = heads.prior_of(values) if fields.prior != "counts" else values / values.sum()
    head = heads.logit_adjusted(model.head, prior, tau)
    if fields.prior != "counts":
        chosen = _change(before, model.measure(head))
    return Changed(head, {"tau": tau, "class_prior": prior.tolist()} | chosen, model.kind)


def _bias_balance(model: TrainedModel) -> Changed:
    model.check_validation("the biases are balanced")
    fields = model.fields
    # A step that means the same whatever the scale of the logits.
    top = [np.sort(logits, axis=1)[:, -2:] for _, _, logits in model.features(model.dataset.validation)]
    margin = float(np.diff(np.concatenate(top), axis=1).mean())
    trials = heads.balance_bias(
        model.head,
        model.measure,
        lambda measured: measured.accuracy,
        size=fields.bias_size * margin,
        iterations=fields.bias_steps,
    )
    best = heads.best(trials, lambda measured: measured.score)
    chosen = {"steps": best.setting} | _change(trials[0].measured, best.measured)
    change = (best.head.bias - model.head.bias).tolist()
    return Changed(best.head, chosen | {"mean_margin": margin, "bias_change": change}, model.kind)


def _change(before: Measured, after: Measured) -> dict:
    return {"validation_before": before.figures(), "validation_after": after.figures()}


def _check_linear(model: TrainedModel, why: str) -> None:
    if model.kind != "linear":
        remedy = "take crt, ncm, logit_adjustment or bias_balance"
        raise FieldError("model.head", model.kind, f"of this head {why}", remedy)


class Remedy(NamedTuple):
    """TrainedModel -> Changed, and the fields of `posthoc` that it goes by."""

    apply: Callable
    settings: tuple[str, ...] = ()


_TRAINING = ("epochs", "learning_rate", "momentum")
REMEDIES = {
    "tau_norm": Remedy(_tau_norm, ("tau", "keep_bias", "attack")),
    "head_norm": Remedy(_head_norm),
    "lws": Remedy(_lws, _TRAINING),
    "crt": Remedy(_crt, (*_TRAINING, "weight_decay")),
    "ncm": Remedy(_ncm, ("features",)),
    "logit_adjustment": Remedy(_logit_adjustment, ("tau", "prior", "attack")),
    "bias_balance": Remedy(_bias_balance, ("bias_size", "bias_steps", "attack")),
}
NAMES = tuple(REMEDIES)
