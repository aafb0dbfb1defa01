"""Signs of gradient masking, overall and by class: in the measurements of attacks/masking.py, and in any evaluation.

    for sign in signs(labels, class_names, probes, is_robust):                  # of an audit
        print(sign.where, sign.message)
    notes(labels, class_names, predictions, zero_gradient)                      # of an evaluation, as sentences

Only given measurements are checked. A sign does not prove masking, and no sign does not prove robustness (Carlini et
al. 2019, arXiv:1902.06705).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxrobust.attacks import suites
from jaxrobust.attacks.masking import Probes
from jaxrobust.attacks.suites import ATTACKS, AttackSpec
from jaxrobust.classwise import paired_interval, wilson_interval
from jaxrobust.errors import FieldError

CONFIDENCE = 0.95  # an interval at this level must exceed the threshold; for classes, simultaneously over all of them
FEWEST_EXAMPLES = 20  # of a class, for signs in it
COMMON = 0.5  # share of examples, for signs that are absent without masking and nearly universal with it
ALL = "all images"
# Of all signs of an evaluation together, which is made for every checkpoint. As the intervals are approximate, chance
# alone gives one with a probability of up to 0.003 (a test computes it), if every measurement is at its threshold.
FALSE_ALARMS = 0.001


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

# Of two results of an evaluation: by how much the second may be below the first, of all images and of a class, and what
# it means. From PGD-20 to AutoAttack published models without masking lose up to 9 points (MART).
_EVALUATED = {
    "loss_gap": (*_LOSS_GAPS, ", more than on honest models: the cross-entropy has poor gradients here. Believe the "
                 "worst case over both, and run a suite."),
    "suite_gap": (0.12, 0.25, ", more than on honest models: gradients of the cross-entropy mislead. Believe the "
                  "suite."),
    "black_box": (0.01, 0.05, " though it has no gradients: they mislead the others, and the true accuracy may be much "
                  "lower. Give square more iterations, and adapt an attack to the model."),
    "more_iterations": (0.01, 0.05, ", with fewer iterations of the same: its steps do not lead uphill, as gradients "
                        "mislead or are noise. Judge by another loss, and by square."),
}  # fmt: skip


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
    rules = _probe_rules(Probes(*map(np.asarray, probes))) if probes is not None else []
    rules += _attack_rules({name: np.asarray(flags, bool) for name, flags in (is_robust or {}).items()})
    return _found(rules, np.asarray(labels), class_names, CONFIDENCE)


def _found(rules: list[_Rule], labels, class_names, confidence: float) -> list[Sign]:
    """The signs by some rules, see `signs`."""
    masks = {name: labels == c for c, name in enumerate(class_names) if (labels == c).sum() >= FEWEST_EXAMPLES}
    class_confidence = 1 - (1 - confidence) / max(len(masks), 1)
    found = []
    for rule in rules:
        whole, low = rule.of(np.ones(len(labels), bool), confidence)
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


class _Result(NamedTuple):
    """Which images withstand some attacks, one after the other."""

    name: str
    members: tuple[AttackSpec, ...]
    is_robust: np.ndarray

    def only(self, *kinds: Callable[[AttackSpec], bool]) -> bool:
        """Whether each attack is of one of the kinds."""
        return all(any(is_kind(spec) for is_kind in kinds) for spec in self.members)


def _queries(spec: AttackSpec) -> bool:
    return ATTACKS[spec.kind].queries


def _gradient(spec: AttackSpec) -> bool:
    return not _queries(spec) and spec.iterations >= 10  # fewer are too weak to be compared with


def _cross_entropy(spec: AttackSpec) -> bool:
    return _gradient(spec) and not spec.targets and ATTACKS[spec.kind].loss == "cross_entropy"


def _margin(spec: AttackSpec) -> bool:
    return _gradient(spec) and not spec.targets and ATTACKS[spec.kind].loss in ("margin", "dlr")


def of_evaluation(
    labels: np.ndarray,
    class_names: Sequence[str],
    is_robust: Mapping[str, np.ndarray],
    zero_gradient: np.ndarray | None = None,
) -> list[Sign]:
    """Signs in the results of an evaluation.

    Args:
        labels, class_names: as of `signs`.
        is_robust: the name of a result, as in results.jsonl -> bool [N]; those of a suite's members in their order.
        zero_gradient: bool [N], whether the cross-entropy's gradient at the image is exactly zero; None: not measured.
    """
    rules = []
    if zero_gradient is not None and "clean" in is_robust:
        correct = np.asarray(is_robust["clean"], bool)
        share = partial(_share, correct & zero_gradient, among=correct)
        message = _PROBED[0].message.replace("{way_out}", "Judge by cwK or apgd_dlr, and by square.")
        rules.append(_PROBED[0]._replace(of=share, threshold=0.01, class_threshold=0.05, message=message))
    for check, weak, strong in _compared(_results(is_robust)):
        if weak and strong:
            threshold, of_class, why = _EVALUATED[check]
            message = f"{strong.name} breaks {{value}} more of the images than {weak.name}{why}"
            rules.append(_Rule(check, partial(_gain, weak.is_robust, strong.is_robust), threshold, message, of_class))
    return _found(rules, np.asarray(labels), class_names, 1 - FALSE_ALARMS / max(len(rules), 1))


def _results(is_robust: Mapping[str, np.ndarray]) -> list[_Result]:
    """Of single attacks, and of suites up to each member; not of whole suites, which are up to their last."""
    found, members = [], {}
    for name, flags in is_robust.items():
        suite, _, attack = name.rpartition("/")
        try:
            specs = suites.parse(attack).members
        except FieldError:  # of another version
            continue
        if len(specs) == 1:
            members[suite] = (*(members.get(suite, ()) if suite else ()), *specs)
            found.append(_Result(name, members[suite], np.asarray(flags, bool)))
    return found


def _compared(results: list[_Result]) -> Iterator[tuple[str, _Result | None, _Result | None]]:
    """(rule, a result, another one that should not be lower, by more than the rule allows); None for a missing one."""

    def lowest(is_meant) -> _Result | None:
        return min(filter(is_meant, results), key=lambda result: result.is_robust.mean(), default=None)

    cross_entropy = lowest(lambda r: r.only(_cross_entropy))
    untargeted = {r.name for r in results if r.only(_cross_entropy, _margin)}
    yield "loss_gap", cross_entropy, lowest(lambda r: r.name in untargeted and not r.only(_cross_entropy))
    yield "suite_gap", cross_entropy, lowest(lambda r: r.name not in untargeted and not r.only(_queries))
    yield "black_box", lowest(lambda r: r.only(_gradient)), lowest(lambda r: r.only(_queries))
    for before, after in itertools.pairwise(results):
        # After the cross-entropy alone, any other loss finds something.
        is_next = after.members[:-1] == before.members and _queries(after.members[-1])
        if is_next and before.only(_gradient) and not before.only(_cross_entropy):
            yield "black_box", before, after
    alone = [result for result in results if len(result.members) == 1]
    for more, fewer in itertools.permutations(alone, 2):
        (one,), (other,) = more.members, fewer.members
        if one.iterations > other.iterations and replace(one, name=other.name, iterations=other.iterations) == other:
            yield "more_iterations", more, fewer


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


def notes(
    labels: np.ndarray,
    class_names: Sequence[str],
    predictions: Mapping[str, np.ndarray],
    zero_gradient: np.ndarray | None = None,
) -> tuple[str, ...]:
    """What is to be said beside the results of an evaluation, in sentences; usually nothing.

    Args:
        labels, class_names, zero_gradient: as of `of_evaluation`.
        predictions: the name of a result -> predictions [N], -1 for none.
    """
    said, by_check = [*without_class(predictions)], {}
    is_robust = {name: np.asarray(found) == labels for name, found in predictions.items()}
    for sign in of_evaluation(labels, class_names, is_robust, zero_gradient):
        by_check.setdefault(sign.check, []).append(sign)
    for check, found in by_check.items():
        worst = next((s for s in found if s.where == ALL), max(found, key=lambda s: s.value))
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        said.append(f"sign of gradient masking ({check.replace('_', ' ')}, {worst.where}{more}): {worst.message}")
    return tuple(said)


def without_class(predictions: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """How many predictions are of no class, and under which attack most, as a sentence; none if all are of a class."""
    missing = {name: int(np.sum(np.asarray(found) < 0)) for name, found in predictions.items()}
    most = max(missing, key=missing.__getitem__, default=None)
    if most is None or not missing[most]:
        return ()
    of = f"{missing[most]:,} of {len(predictions[most]):,} images have no class under {most}"
    return (f"{of}, as the logits are not finite there; they count as not robust",)


def of_examples(examples: Mapping[str, np.ndarray], class_names: Sequence[str]) -> tuple[str, ...]:
    """The notes on a (step, weights, split), from its examples file; none if there is no file."""
    end = "_prediction"
    predictions = {name.removesuffix(end): found for name, found in examples.items() if name.endswith(end)}
    return notes(examples["labels"], class_names, predictions, examples.get("zero_gradient")) if predictions else ()
