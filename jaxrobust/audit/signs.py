"""Signs of gradient masking: thresholds for the measurements of attacks/masking.py, overall and by class.

    for sign in signs(labels, class_names, probes, is_robust):
        print(sign.where, sign.message)

Only given measurements are checked. A sign does not prove masking, and no sign does not prove robustness (Carlini et
al. 2019, arXiv:1902.06705).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxrobust.attacks.masking import Probes
from jaxrobust.attacks.suites import ATTACKS
from jaxrobust.classwise import paired_interval, wilson_interval

CONFIDENCE = 0.95  # an interval at this level must exceed the threshold; for classes, simultaneously over all of them
FEWEST_EXAMPLES = 20  # of a class, for signs in it
COMMON = 0.5  # share of examples, for signs that are absent without masking and nearly universal with it
ALL = "all images"


class Sign(NamedTuple):
    """One suspicious measurement."""

    check: str  # name of the rule
    where: str  # ALL, or the name of a class
    value: float  # what was measured, a share of the examples
    threshold: float  # which it should not exceed
    message: str  # what it means, and what to do


class _Rule(NamedTuple):
    """A rule."""

    check: str
    of: Callable  # measurements -> (mask [N] of the examples, confidence) -> (value, lower bound of its interval)
    threshold: float  # for the bound, over all images
    message: str  # with {value} as a placeholder for the value in percent
    class_threshold: float | None = None  # for the bound, within a class; None: the same


# Of the probes. Thresholds without a reason are those of the warnings in AutoAttack's code (Croce & Hein 2020), where a
# single example is too many.
_PROBED = (
    _Rule("zero_gradient", lambda p: partial(_share, p.correct & (p.gradient == 0), among=p.correct), 0.0,
          "{value} of the correct images have a cross-entropy gradient of exactly zero, where PGD cannot move. "
          "{way_out}"),
    # Rare in a model without masking.
    _Rule("saturated_loss", lambda p: partial(_share, p.saturated, among=p.correct), 0.1,
          "For {value} of the correct images the probability is exactly 1 in float32, so that the cross-entropy has "
          "lost the gradient of the true logit. Judge by losses that ignore the scale of the logits: cwK, apgd_dlr."),
    _Rule("randomised", lambda p: partial(_share, p.change > 1e-4), 0.0,
          "The outputs for {value} of the images change when the same image is evaluated again, so verdicts vary. "
          "Evaluate without the randomness, or attack the average over many draws."),
    # bfloat16 rounds numbers to 0.4 %, and a deep network in it its logits to about 1 %. Quantised models have some
    # larger jumps.
    _Rule("discontinuous", lambda p: partial(_share, p.jump > 0.05), 0.05,
          "For {value} of the images a change of a millionth in the pixels makes the logits jump, as with noise that "
          "depends on the pixels. Gradients say little about such a model: attack it without what makes it jump."),
    _Rule("probabilities", lambda p: partial(_share, p.probability), COMMON,
          "The outputs for {value} of the images are probabilities and not logits, which flattens the gradients of "
          "every loss. Take the softmax out of the model."),
    # float32 has 24 bits. If differences of logits keep less than half of them, small changes are lost.
    _Rule("resolution", lambda p: partial(_share, p.resolution > 2.0**-12), COMMON,
          "For {value} of the images the logits are so large that float32 keeps less than half of its digits in "
          "their differences, and small changes do not show. Take the common offset out of the logits."),
)  # fmt: skip

# PGD-20 and CW differ by up to 2.7 points, in a class up to 11, on 13 published adversarially trained CIFAR-10 models.
_LOSS_GAPS = 0.05, 0.15
_UNCONVERGED = 0.01  # allowed gain of more steps or restarts: less than typical differences between methods
# Pairs of attacks, of which the second should not break more; of the first rule nor less.
_COMPARED = (
    ("loss_gap", "pgd20", "cw20", *_LOSS_GAPS,
     "PGD on the cross-entropy and on the margin differ by {value} of the images, more than on honest models. "
     "One loss has poor gradients here: believe the worst case over both, and run a suite."),
    ("logit_scale", "pgd20", "pgd20_scale_free", *_LOSS_GAPS,
     "PGD breaks {value} more of the images when the logits are brought to a usual scale. Their scale hides "
     "gradients: judge by losses that ignore it, cwK or apgd_dlr."),
    *((f"more_{what}", "pgd20", strong, _UNCONVERGED, None,
       f"{strong} breaks {{value}} more of the images than pgd20, which has not converged. Report an attack "
       f"with more {what}, until the accuracy no longer falls.")
      for what, strong in (("steps", "pgd100"), ("restarts", "pgd20x5"))),
)  # fmt: skip


def signs(
    labels: np.ndarray,
    class_names: Sequence[str],
    probes: Probes | None = None,
    is_robust: Mapping[str, np.ndarray] | None = None,
) -> list[Sign]:
    """Suspicious measurements, in the order of the rules, for all images together and for each class.

    A class has a sign if it exceeds a threshold that all images do not exceed, or is clearly worse than all images.

    Args:
        labels: [N] int.
        probes: of these examples, arrays [N]; None: not measured.
        is_robust: the name of an experiment, or of any attack at the threat's radius -> bool [N], whether the example
            is classified correctly clean and attacked.
    """
    labels = np.asarray(labels)
    rules = _probe_rules(Probes(*map(np.asarray, probes))) if probes is not None else []
    rules += _attack_rules({name: np.asarray(flags, bool) for name, flags in (is_robust or {}).items()})
    masks = {name: labels == c for c, name in enumerate(class_names) if (labels == c).sum() >= FEWEST_EXAMPLES}
    class_confidence = 1 - (1 - CONFIDENCE) / max(len(masks), 1)
    found = []
    for rule in rules:
        whole, low = rule.of(np.ones(len(labels), bool), CONFIDENCE)
        is_everywhere = low > rule.threshold
        if is_everywhere:
            found.append(_sign(rule, ALL, whole, rule.threshold))
        threshold = rule.threshold if rule.class_threshold is None else rule.class_threshold
        for name, mask in masks.items():
            value, low = rule.of(mask, class_confidence)
            if low > threshold and not (is_everywhere and low <= whole):
                found.append(_sign(rule, name, value, threshold))
    return found


def _sign(rule: _Rule, where: str, value: float, threshold: float) -> Sign:
    return Sign(rule.check, where, float(value), threshold, rule.message.format(value=f"{100 * value:.1f} %"))


def _probe_rules(probes: Probes) -> list[_Rule]:
    no_gradient = probes.correct & (probes.gradient == 0)  # only robustness claimed for correct ones can be false
    has_margin = no_gradient.any() and (probes.margin_gradient[no_gradient] > 0).mean() > COMMON
    way_out = (
        "The margin loss still has one there: judge by cwK or apgd_dlr."
        if has_margin
        else "The margin loss has none either: judge by attacks without gradients (square), or remove what stops them."
    )
    return [rule._replace(of=rule.of(probes), message=rule.message.replace("{way_out}", way_out)) for rule in _PROBED]


def _attack_rules(is_robust: dict[str, np.ndarray]) -> Iterator[_Rule]:
    # Without attacks at other radii, and without suites, whose members may be of both kinds.
    alone = {name: flags for name, flags in is_robust.items() if not set("@+/") & set(name)}
    white, black = (
        [flags for name, flags in alone.items() if name.startswith(_kinds(queries))] for queries in (False, True)
    )
    if white and black:
        yield _Rule(
            "black_box",
            partial(_share, np.all(white, axis=0) & ~np.all(black, axis=0)),
            0.002,  # as in AutoAttack's code
            "{value} of the images fall to attacks without gradients alone: gradients mislead the others, and the true "
            "accuracy may be much lower. Give square more iterations, and adapt an attack to the model.",
        )
    for check, weak, strong, threshold, class_threshold, message in _COMPARED:
        if weak in is_robust and strong in is_robust:
            estimate = partial(_gain, is_robust[weak], is_robust[strong], either=check == "loss_gap")
            yield _Rule(check, estimate, threshold, message, class_threshold)
    for smaller, larger in _by_radius(is_robust):
        yield _Rule(
            "radius_order",
            partial(_gain, is_robust[larger], is_robust[smaller]),
            0.01,  # share of examples on which random starts may disagree
            f"{{value}} more of the images withstand {larger} than {smaller}, whose ball is a part of its own. The "
            "attack misses existing adversarial images: judge by more steps, or by another loss.",
        )
    for name in is_robust:
        if name.endswith("@inf"):
            yield _Rule(
                "huge_radius",
                partial(_share, is_robust[name]),
                0.01,  # should be 0 (Carlini et al. 2019)
                f"{{value}} of the images withstand {name.removesuffix('@inf')} though any image is allowed. Either "
                "the attack fails because gradients are missing, or the model predicts one class for nearly every "
                "image.",
            )


def _kinds(queries: bool) -> tuple[str, ...]:
    return tuple(kind for kind, entry in ATTACKS.items() if entry.queries is queries)


def _by_radius(names) -> list[tuple[str, str]]:
    """(name at one radius, name at the next larger radius) for each attack."""
    radii = {}
    for name in names:
        attack, _, radius = name.partition("@")
        radii.setdefault(attack, []).append((float(radius or 1), name))
    return [
        (smaller, larger)
        for of_attack in map(sorted, radii.values())
        for (_, smaller), (_, larger) in itertools.pairwise(of_attack)
    ]


def _share(flags, mask, confidence, among=None) -> tuple[float, float]:
    """Share of true flags among the examples in `mask` (and in `among`), and its lower Wilson bound."""
    mask = mask if among is None else mask & among
    if not mask.any():
        return 0.0, 0.0
    count, of = (flags & mask).sum(), mask.sum()
    return count / of, wilson_interval([count], [of], confidence)[0][0]


def _gain(weak, strong, mask, confidence, either=False) -> tuple[float, float]:
    """How much lower the accuracy is under the stronger attack on the same examples, and its lower bound."""
    lost, won = (weak & ~strong & mask).sum(), (strong & ~weak & mask).sum()
    low, high = paired_interval([won], [lost], [mask.sum()], confidence)
    gain = (lost - won) / max(mask.sum(), 1)
    return (abs(gain), max(low[0], -high[0])) if either else (gain, low[0])
