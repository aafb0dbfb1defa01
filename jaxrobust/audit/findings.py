"""Signs of gradient masking: thresholds for the measurements of attacks/masking.py, overall and by class.

    for finding in findings(labels, class_names, probes, survives):
        print(finding.where, finding.message)

Only given measurements are checked. A finding does not prove masking, and no finding does not prove robustness
(Carlini et al. 2019, arXiv:1902.06705).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxrobust.attacks.masking import Probes
from jaxrobust.attacks.suites import ATTACKS
from jaxrobust.classwise import paired_interval, wilson_interval

# Thresholds of the warnings in AutoAttack's code (Croce & Hein 2020).
ZERO_GRADIENTS = 0.0  # share of examples without a gradient: a single one is too many
LARGEST_CHANGE = 1e-4  # of normalised outputs for the same image
RANDOMISED = 0.0  # share of examples with a larger change: a single one is too many
BLACK_BOX_GAIN = 0.002  # share of examples that only attacks without gradients break

# Thresholds chosen here.
LARGEST_JUMP = 0.05  # bfloat16 rounds numbers to 0.4 %, and a deep network in it its logits to about 1 %
JUMPING = 0.05  # share of examples with a larger jump, of which quantised models have some
# float32 has 24 bits. If differences of logits keep less than half of them, small changes are lost.
COARSEST_RESOLUTION = 2.0**-12
SATURATED = 0.1  # share of examples whose probability is 1 in float32, which is rare in a model without masking
COMMON = 0.5  # share of examples, for signs that are absent without masking and nearly universal with it
# PGD-20 and CW differ by up to 2.7 points, in a class up to 11, on 13 published adversarially trained CIFAR-10 models.
LOSS_GAP, CLASS_LOSS_GAP = 0.05, 0.15
UNCONVERGED = 0.01  # allowed gain of more steps or restarts: less than typical differences between methods
RADIUS_ORDER = 0.01  # share of examples on which random starts may disagree
HUGE_RADIUS_ACCURACY = 0.01  # should be 0 (Carlini et al. 2019)

CONFIDENCE = 0.95  # an interval at this level must exceed the threshold; for classes, simultaneously over all of them
FEWEST_EXAMPLES = 20  # of a class, for findings about it
# Prefixes of the names of attacks without gradients, and with gradients.
BLACK_BOX, WHITE_BOX = (
    tuple(kind for kind in ATTACKS if ATTACKS[kind].queries is queries) for queries in (True, False)
)
ALL = "all images"
CHECKS = (
    "zero_gradient",
    "saturated_loss",
    "randomised",
    "discontinuous",
    "probabilities",
    "resolution",
    "black_box",
    "loss_gap",
    "logit_scale",
    "more_steps",
    "more_restarts",
    "radius_order",
    "huge_radius",
)


class Finding(NamedTuple):
    """One suspicious measurement.

    Attributes:
        check: one of CHECKS.
        where: ALL, or the name of a class.
        value: what was measured, a share of the examples.
        threshold: which it should not exceed.
        message: what it means, and what to do.
    """

    check: str
    where: str
    value: float
    threshold: float
    message: str


class _Check(NamedTuple):
    """A rule.

    Attributes:
        name: one of CHECKS.
        estimate: (mask [N] of the examples, confidence) -> (value, lower bound of its interval).
        threshold: for the bound, over all images.
        message: with {value} as a placeholder for the value in percent.
        class_threshold: for the bound, within a class; None: the same.
    """

    name: str
    estimate: Callable
    threshold: float
    message: str
    class_threshold: float | None = None


def findings(
    labels: np.ndarray,
    class_names: Sequence[str],
    probes: Probes | None = None,
    survives: Mapping[str, np.ndarray] | None = None,
) -> list[Finding]:
    """Suspicious measurements, in the order of CHECKS, for all images together and for each class.

    A class gets a finding if it exceeds a threshold that all images do not exceed, or is clearly worse than all images.

    Args:
        labels: [N] int.
        probes: of these examples, arrays [N]; None: not measured.
        survives: the name of an experiment, or of any attack at the threat's radius -> bool [N], whether the example is
            classified correctly clean and attacked.
    """
    labels = np.asarray(labels)
    checks = _probe_checks(Probes(*map(np.asarray, probes))) if probes is not None else []
    checks += _attack_checks({name: np.asarray(flags, bool) for name, flags in (survives or {}).items()})
    masks = {name: labels == c for c, name in enumerate(class_names) if (labels == c).sum() >= FEWEST_EXAMPLES}
    class_confidence = 1 - (1 - CONFIDENCE) / max(len(masks), 1)
    found = []
    for check in checks:
        whole, low = check.estimate(np.ones(len(labels), bool), CONFIDENCE)
        is_everywhere = low > check.threshold
        if is_everywhere:
            found.append(_finding(check, ALL, whole, check.threshold))
        threshold = check.threshold if check.class_threshold is None else check.class_threshold
        for name, mask in masks.items():
            value, low = check.estimate(mask, class_confidence)
            if low > threshold and not (is_everywhere and low <= whole):
                found.append(_finding(check, name, value, threshold))
    return found


def _finding(check, where, value, threshold):
    message = check.message.format(value=f"{100 * value:.1f} %")
    return Finding(check.name, where, float(value), threshold, message)


def _probe_checks(probes: Probes) -> list[_Check]:
    right = probes.correct  # only robustness claimed for these can be false
    no_gradient = right & (probes.gradient == 0)
    has_margin = no_gradient.any() and (probes.margin_gradient[no_gradient] > 0).mean() > COMMON
    way_out = (
        "The margin loss still has one there: judge by cwK or apgd_dlr."
        if has_margin
        else "The margin loss has none either: judge by attacks without gradients (square), or remove what stops them."
    )
    return [
        _Check(
            "zero_gradient",
            partial(_share, no_gradient, among=right),
            ZERO_GRADIENTS,
            "{value} of the correct images have a cross-entropy gradient of exactly zero, where PGD cannot move. "
            + way_out,
        ),
        _Check(
            "saturated_loss",
            partial(_share, probes.saturated, among=right),
            SATURATED,
            "For {value} of the correct images the probability is exactly 1 in float32, so that the cross-entropy has "
            "lost the gradient of the true logit. Judge by losses that ignore the scale of the logits: cwK, apgd_dlr.",
        ),
        _Check(
            "randomised",
            partial(_share, probes.change > LARGEST_CHANGE),
            RANDOMISED,
            "The outputs for {value} of the images change when the same image is evaluated again, so verdicts vary. "
            "Evaluate without the randomness, or attack the average over many draws.",
        ),
        _Check(
            "discontinuous",
            partial(_share, probes.jump > LARGEST_JUMP),
            JUMPING,
            "For {value} of the images a change of a millionth in the pixels makes the logits jump, as with noise that "
            "depends on the pixels. Gradients say little about such a model: attack it without what makes it jump.",
        ),
        _Check(
            "probabilities",
            partial(_share, probes.probability),
            COMMON,
            "The outputs for {value} of the images are probabilities and not logits, which flattens the gradients of "
            "every loss. Take the softmax out of the model.",
        ),
        _Check(
            "resolution",
            partial(_share, probes.resolution > COARSEST_RESOLUTION),
            COMMON,
            "For {value} of the images the logits are so large that float32 keeps less than half of its digits in "
            "their differences, and small changes do not show. Take the common offset out of the logits.",
        ),
    ]


def _attack_checks(survives: dict[str, np.ndarray]) -> list[_Check]:
    loss_gaps = {"threshold": LOSS_GAP, "class_threshold": CLASS_LOSS_GAP}
    gains = [
        _gain_check(
            survives,
            "loss_gap",
            ("pgd20", "cw20"),
            "PGD on the cross-entropy and on the margin differ by {value} of the images, more than on honest models. "
            "One loss has poor gradients here: believe the worst case over both, and run a suite.",
            **loss_gaps,
            either=True,
        ),
        _gain_check(
            survives,
            "logit_scale",
            ("pgd20", "pgd20_scale_free"),
            "PGD breaks {value} more of the images when the logits are brought to a usual scale. Their scale hides "
            "gradients: judge by losses that ignore it, cwK or apgd_dlr.",
            **loss_gaps,
        ),
        *(
            _gain_check(
                survives,
                f"more_{what}",
                ("pgd20", strong),
                f"{strong} breaks {{value}} more of the images than pgd20, which has not converged. Report an attack "
                f"with more {what}, until the accuracy no longer falls.",
                UNCONVERGED,
            )
            for what, strong in (("steps", "pgd100"), ("restarts", "pgd20x5"))
        ),
        *(
            _gain_check(
                survives,
                "radius_order",
                (larger, smaller),
                f"{{value}} more of the images withstand {larger} than {smaller}, whose ball is a part of its own. The "
                "attack misses existing adversarial images: judge by more steps, or by another loss.",
                RADIUS_ORDER,
            )
            for smaller, larger in _by_radius(survives)
        ),
    ]
    huge = [
        _Check(
            "huge_radius",
            partial(_share, flags),
            HUGE_RADIUS_ACCURACY,
            f"{{value}} of the images withstand {name.removesuffix('@inf')} though any image is allowed. Either the "
            "attack fails because gradients are missing, or the model predicts one class for nearly every image.",
        )
        for name, flags in survives.items()
        if name.endswith("@inf")
    ]
    return [check for check in (_black_box_check(survives), *gains, *huge) if check is not None]


def _black_box_check(survives) -> _Check | None:
    # Without attacks at other radii, and without suites, whose members may be of both kinds.
    attacks = {name: flags for name, flags in survives.items() if not set("@+/") & set(name)}
    black = [flags for name, flags in attacks.items() if name.startswith(BLACK_BOX)]
    white = [flags for name, flags in attacks.items() if name.startswith(WHITE_BOX)]
    if not black or not white:
        return None
    return _Check(
        "black_box",
        partial(_share, np.all(white, axis=0) & ~np.all(black, axis=0)),
        BLACK_BOX_GAIN,
        "{value} of the images fall to attacks without gradients alone: gradients mislead the others, and the true "
        "accuracy may be much lower. Give square more iterations, and adapt an attack to the model.",
    )


def _gain_check(survives, name, attacks, message, threshold, class_threshold=None, either=False) -> _Check | None:
    """The check that the second attack breaks no more than the first (`either`: nor less). None if one was not run."""
    if not all(attack in survives for attack in attacks):
        return None
    weak, strong = (survives[attack] for attack in attacks)
    return _Check(name, partial(_gain, weak, strong, either=either), threshold, message, class_threshold)


def _by_radius(survives) -> list[tuple[str, str]]:
    """(name at one radius, name at the next larger radius) for each attack."""
    radii = {}
    for name in survives:
        attack, _, radius = name.partition("@")
        radii.setdefault(attack, []).append((float(radius or 1), name))
    return [
        (smaller, larger)
        for names in radii.values()
        for (_, smaller), (_, larger) in zip(sorted(names), sorted(names)[1:], strict=False)
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
