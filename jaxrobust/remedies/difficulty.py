"""Remedies for hard classes: weights, radii and sampling from the accuracies or losses of the classes.

t_c is the accuracy of class c on adversarial images.
"""

import jax
import jax.numpy as jnp

from jaxrobust.remedies import in_batch
from jaxrobust.remedies.rule import Rule, Run, accuracy, by_last_epoch, epoch_scale, first_epoch, mean_one

FRL_VARIANTS = ("reweight", "remargin", "both")
_FRL_RADII = (0.98, 2.5)  # smallest and largest factor on the radius
_FAIR_ARD_WEIGHTS = (5 / 6, 5 / 2)
_FAIR_ARD_EXPONENT = 2.0


def cfa(
    run: Run,
    *,
    radius_base: float,
    beta_base: float,
    average: bool,
    average_begin: float,
    average_threshold: float,
    average_decay: float,
) -> Rule:
    """Radius and trade-off by class (CFA, Wei et al. 2023).

    The radius is (radius_base + t_c) times the threat's radius. If the objective has a trade-off beta, class c has
    beta_c = (beta_base + t_c) beta, and its loss [CE + beta_c KL] is divided by (1 + beta_c) / (1 + beta), not by 1 +
    beta_c as in the paper: this keeps the effective learning rate of plain training. With `average`, weights are
    averaged once an epoch, from the fraction `average_begin` of the training on, and only if no class has an accuracy
    below `average_threshold` on the validation split. Before the first averaging, the averaged weights are the raw
    weights.
    """

    def neutral(num_classes):
        ones = jnp.ones(num_classes)
        return {"radius_scale": ones} | ({"beta_scale": ones} | run.weigh(ones) if run.beta else {})

    def values(statistics):
        robust = accuracy(statistics)
        values = {"radius_scale": radius_base + robust}
        if run.beta:
            weight = (1.0 + run.beta) / (1.0 + (beta_base + robust) * run.beta)
            values |= {"beta_scale": beta_base + robust} | run.weigh(weight)
        return values

    rule = by_last_epoch(neutral, values)
    if not average:
        return rule

    def init(counts):
        return {"knobs": neutral(len(counts)), "averaged": jnp.zeros((), bool), "epoch": jnp.zeros((), jnp.int32)}

    def decay(state, validation):
        come = state["epoch"] >= first_epoch(average_begin, run.num_epochs)
        fair = come & (accuracy(validation, unseen=1.0).min() >= average_threshold)
        begun = state["averaged"]
        decay = jnp.where(fair, jnp.where(begun, average_decay, 0.0), jnp.where(begun, 1.0, 0.0))
        return decay, state | {"averaged": state["averaged"] | fair}

    return rule._replace(
        init=init,
        update=lambda state, statistics, epoch: state | {"knobs": values(statistics), "epoch": jnp.int32(epoch)},
        knob_values=lambda state, counts, progress: state["knobs"],
        average=decay,
    )


def wat(run: Run, *, eta: float) -> Rule:
    """Weights by no-regret dynamics (Hedge) on the class losses and their mean (WAT, Li & Liu 2023).

    Hedge gives probabilities p to C + 1 arms, one for the mean loss of each class, and a last one for that of all
    images. Their game has the value sum_c p_c L_c + p_{C+1} L, so an image of class c has the weight C p_c + p_{C+1},
    1 on average over the classes. The published code has C p_{C+1} for the last arm, so at its start every loss is
    multiplied by 2 C / (C + 1), and the class weights count less.
    """

    def update(state, statistics, epoch):
        count, loss = statistics["count"], statistics["loss"]
        of_class = jnp.where(count > 0, loss / jnp.maximum(count, 1), 0.0)
        return {"loss": state["loss"] + jnp.append(of_class, loss.sum() / count.sum())}

    def knob_values(state, counts, progress):
        arms = hedge(state["loss"], eta)
        return run.weigh(len(counts) * arms[:-1] + arms[-1])

    return Rule(
        run.weights, init=lambda counts: {"loss": jnp.zeros(len(counts) + 1)}, update=update, knob_values=knob_values
    )


def hedge(total_losses, eta: float):
    """Probabilities [C + 1] of the arms: softmax(eta * total_losses)."""
    return jax.nn.softmax(eta * total_losses)


def frl(
    run: Run,
    *,
    variant: str,
    natural_tolerance: float,
    boundary_tolerance: float,
    weight_rate: float,
    radius_rate: float,
    limit: float,
) -> Rule:
    """Weights and radii by Lagrange multipliers of two constraints on each class (FRL, Xu et al. 2021).

    The natural error of a class may exceed the average by `natural_tolerance`, and its boundary error, natural minus
    robust accuracy, by `boundary_tolerance`. Weights are scaled to 1 on average over the classes; the published method
    divides by the sum of the weights in the batch. An objective with a single loss uses the mean of the two weights.
    Statistics are best measured on the validation split.
    """

    def init(counts):
        zeros = jnp.zeros(len(counts))
        return {"natural": zeros, "boundary": zeros, "log_radius": zeros}

    def update(state, statistics, epoch):
        natural, boundary = frl_violations(statistics, natural_tolerance, boundary_tolerance)
        if variant == "remargin":
            return state | {"log_radius": state["log_radius"] + radius_rate * boundary}
        return {
            "natural": frl_multipliers(state["natural"] + weight_rate * natural, limit),
            "boundary": frl_multipliers(state["boundary"] + 2 * weight_rate * boundary, limit),
            "log_radius": state["log_radius"] + (radius_rate * boundary if variant == "both" else 0.0),
        }

    def knob_values(state, counts, progress):
        natural, boundary = frl_weights(state["natural"]), frl_weights(state["boundary"])
        if len(run.weights) == 2:
            values = {"weight_natural": natural, "weight_robust": boundary}
        else:
            values = run.weigh((natural + boundary) / 2)
        if variant != "reweight":
            values["radius_scale"] = jnp.clip(jnp.exp(2 * state["log_radius"]), *_FRL_RADII)
        return values

    radius = () if variant == "reweight" else ("radius_scale",)
    return Rule((*run.weights, *radius), knob_values, init, update, statistics=("natural_correct",))


def frl_violations(statistics, natural_tolerance: float, boundary_tolerance: float):
    """How much the natural and boundary errors [C] exceed their limits; averages are over all images."""
    count = statistics["count"]
    natural, robust = accuracy(statistics, "natural_correct"), accuracy(statistics)
    natural_average = statistics["natural_correct"].sum() / count.sum()
    robust_average = statistics["correct"].sum() / count.sum()
    boundary, boundary_average = natural - robust, natural_average - robust_average
    return natural_average - natural - natural_tolerance, boundary - boundary_average - boundary_tolerance


def frl_multipliers(values, limit: float):
    """The values clipped to at least 0, and scaled to the sum `limit` if their sum is larger."""
    positive = jnp.maximum(values, 0.0)
    return positive * jnp.minimum(1.0, limit / jnp.maximum(positive.sum(), 1e-12))


def frl_weights(multipliers):
    """C times 1/C + l_c - mean l: 1 on average, and above 0 for multipliers that add up to less than 1."""
    return 1.0 + len(multipliers) * (multipliers - multipliers.mean())


def fair_ard(run: Run) -> Rule:
    """Weights from the number of attack steps that the images of a class withstand (Fair-ARD, Yue et al. 2023)."""

    def neutral(num_classes):
        return run.weigh(jnp.ones(num_classes))

    def values(statistics):
        return run.weigh(fair_ard_weights(statistics["steps_withstood"], statistics["count"]))

    return by_last_epoch(neutral, values, ("steps_withstood",))


def fair_ard_weights(steps, count):
    """(1 / mean steps)^2 scaled to 1 on average, then clipped to [5/6, 5/2]; 1 for a class without images. `steps` [C]
    is the sum over the images of a class of the steps that they withstand, `count` [C] their number.
    """
    seen = count > 0
    weights = jnp.where(seen, (1.0 / (steps / jnp.maximum(count, 1) + 1e-5)) ** _FAIR_ARD_EXPONENT, 0.0)
    return jnp.where(seen, jnp.clip(weights * (seen.sum() / weights.sum()), *_FAIR_ARD_WEIGHTS), 1.0)


def cfol(run: Run, *, gamma: float, eta: float) -> Rule:
    """Classes drawn by the bandit Exp3 on their adversarial errors (CFOL, Pethick et al. 2023).

    A class is drawn with probability p_c = gamma / C + (1 - gamma) softmax(w)_c. Each drawn image that the attack
    breaks adds eta / p_c to w_c. Here w is updated at the end of the epoch, not after each batch. The errors are scaled
    to the size of the training set, since a validation split has fewer images.
    """

    def update(state, statistics, epoch):
        # The observed frequencies, since before the remedy begins every image is drawn equally often.
        drawn = statistics["count"] / statistics["count"].sum()
        errors = (statistics["count"] - statistics["correct"]) * epoch_scale(state["images"], statistics)
        return state | {"score": state["score"] + eta * errors / jnp.maximum(drawn, 1e-6)}

    def knob_values(state, counts, progress):
        of_class = gamma / len(state["score"]) + (1 - gamma) * jax.nn.softmax(state["score"])
        return {"sampling": mean_one(of_class / state["images"])}

    return Rule(
        ("sampling",),
        knob_values,
        init=lambda counts: {"score": jnp.zeros(len(counts)), "images": jnp.asarray(counts, jnp.float32)},
        update=update,
    )


def faal(run: Run, *, divergence: float) -> Rule:
    """Weights within each batch, see `in_batch.faal`."""
    return Rule((), knob_values=lambda state, counts, progress: {}, in_batch=in_batch.faal(divergence))


RULES = {rule.__name__: rule for rule in (frl, cfa, wat, faal, fair_ard, cfol)}
