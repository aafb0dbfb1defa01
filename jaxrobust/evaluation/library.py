"""The public functions that measure any model: `attack` and `predict`. They know no config, no files and no flags."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxrobust.attacks import suites
from jaxrobust.attacks.threats import Threat
from jaxrobust.data.augment import to_float
from jaxrobust.data.dataset import Split
from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, as_array, number
from jaxrobust.evaluation import batching
from jaxrobust.evaluation.attack_runner import SILENT
from jaxrobust.evaluation.classifier import Classifier
from jaxrobust.evaluation.scoring import attack_split
from jaxrobust.evaluation.verdicts import Verdicts

LogitsFn = Callable[[jax.Array], jax.Array]
ArrayLike = np.ndarray | jax.Array | Sequence

_REMEMBERED = 4  # models whose programs are kept between calls
_known: list["_Known"] = []


def attack(
    logits_fn: LogitsFn,
    images: ArrayLike,
    labels: ArrayLike,
    attack: str = "standard",
    *,
    norm: str = "linf",
    eps: float = 8 / 255,
    step_size: float | None = None,
    batch_size: int = 512,
    seed: int = 0,
    verify_fn: LogitsFn | None = None,
    keep_adversarial: bool = True,
) -> Verdicts:
    """Attack images and say which of them stay classified correctly.

    The attacks of a suite go one after the other, each on the images that those before it have left. An image counts as
    misclassified only if `verify_fn` misclassifies it, at the highest matmul precision. All devices take part. The
    result does not depend on the batch size, nor for an image on the other images: its random numbers are a function
    of `seed` and its index.

    Args:
        logits_fn: images [B, H, W, C], float32 in [0, 1] -> logits [B, C]; any function that JAX can trace and
            differentiate: a Flax Linen module with variables bound, an NNX module in evaluation mode, a composition. It
            normalises the pixels itself, and must not depend on which images are in a batch.
        images: [N, H, W, C], floats in [0, 1], or uint8, which is divided by 255.
        labels: [N] integers, the true classes.
        attack: one attack or several joined by +, for example "pgd20", "apgd_ce+square1000", "standard" (AutoAttack),
            or "clean"; see jaxrobust.attacks.suites.
        norm: "linf", "l2" or "l1".
        eps: radius of the threat, in pixel units of [0, 1].
        step_size: of pgdK and cwK, in pixel units; None: a quarter of eps.
        batch_size: images at a time, over all devices; rounded up to a multiple of their number.
        seed: of the random starts.
        verify_fn: the same model in float32, if `logits_fn` computes in a lower precision; None: `logits_fn`.
        keep_adversarial: whether to return the perturbed images. With several processes they are not returned.

    Returns:
        Verdicts, one row per image; its `notes` say what makes them doubtful, such as signs of gradient masking.

    Raises:
        FieldError, UserError: name the argument; an array has another shape, type or range, the attack or the norm is
            unknown, the radius is in another unit, or logits are not finite numbers.

    Example:
        >>> import jax, jax.numpy as jnp, jaxrobust as jr
        >>> images = jax.random.uniform(jax.random.key(0), (64, 4, 4, 1), minval=0.3, maxval=0.7)
        >>> weights = jax.random.normal(jax.random.key(1), (16, 3))
        >>> logits_fn = lambda images: images.reshape(len(images), -1) @ weights
        >>> labels = jr.predict(logits_fn, images)
        >>> verdicts = jr.attack(logits_fn, images, labels, "apgd_ce20+square50", eps=4 / 255)
        >>> verdicts.is_robust.shape, verdicts.adversarial.shape
        ((64,), (64, 4, 4, 1))
        >>> list(verdicts.members), bool(verdicts.members["clean"].all())
        (['clean', 'apgd_ce20', 'square50'], True)

    References:
        Croce & Hein 2020, arXiv:2003.01690 (the suite "standard"); 2021, arXiv:2103.01208 (in L1).
    """
    images, labels = _checked_images(images), _checked_labels(labels, images)
    threat = Threat(norm, eps)
    threat.check(images.shape[1:])
    if step_size is not None:
        step_size = checked_step(step_size, threat)
    suite = suites.parse(attack, norm, "attack")
    classifier, constants = _classifier(logits_fn, verify_fn, images, batch_size, seed)
    if labels.max() >= classifier.num_classes:
        problem = f"logits_fn has {classifier.num_classes} logits"
        raise FieldError("labels", int(labels.max()), problem, "give labels from 0 to the number of logits minus 1")
    relative_step = 0.25 if step_size is None or not threat.eps else step_size / threat.eps
    names = tuple(map(str, range(classifier.num_classes)))
    known = classifier, constants, Split(images, labels), suite, threat, relative_step
    return attack_split(*known, class_names=names, title="logits_fn:", keep_adversarial=keep_adversarial)


def predict(logits_fn: LogitsFn, images: ArrayLike, *, batch_size: int = 512) -> np.ndarray:
    """Classify images, at the highest matmul precision, on all devices.

    Args:
        logits_fn, images, batch_size: as of `attack`.

    Returns:
        Classes [N], int64.

    Raises:
        FieldError, UserError: as of `attack`.

    Example:
        >>> import jax.numpy as jnp, jaxrobust as jr
        >>> brightness = lambda images: jnp.stack([images.mean((1, 2, 3)), 1 - images.mean((1, 2, 3))], axis=-1)
        >>> jr.predict(brightness, jnp.linspace(0, 1, 4).reshape(4, 1, 1, 1)).tolist()
        [1, 1, 0, 0]
    """
    images = _checked_images(images)
    classifier, constants = _classifier(logits_fn, None, images, batch_size, 0)
    prediction = np.zeros(len(images), np.int64)
    for mine, block in SILENT.blocks(Split(images, prediction), classifier.batch_size, "logits_fn"):
        batching.merge(prediction, mine, classifier.predict(constants, block, "logits_fn"))
    return prediction


def checked_step(step_size: float, threat: Threat) -> float:
    """A step in pixel units. Raises FieldError if it is longer than the ball of the threat is wide."""
    step_size = number("step_size", step_size, 0, 10**6, remedy="give a step in pixel units, for example 2/255")
    if not step_size or (threat.eps and step_size > 2 * threat.eps):
        problem = f"is no sensible step for the radius {threat.eps:.4g}"
        raise FieldError("step_size", step_size, problem, "give a quarter of the radius, for example")
    return step_size


def _described(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


def _checked_images(images: ArrayLike) -> np.ndarray:
    array = as_array("images", images)
    if array.ndim != 4 or not array.size:
        raise FieldError("images", _described(array), "is no batch of images", "give an array [N, H, W, C], N > 0")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) and array.dtype != jax.numpy.bfloat16:
        raise FieldError("images", _described(array), "has another type", "give floats in [0, 1], or uint8")
    array = np.asarray(array, np.float32)
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and high <= 1):  # not `<` and `>`, so that NaN fails too
        remedy = "divide by 255" if 1 < high <= 255 and low >= 0 else "undo the normalisation, which is the model's own"
        raise FieldError("images", _described(array), f"has values from {low:.3g} to {high:.3g}, not in [0, 1]", remedy)
    return array


def _checked_labels(labels: ArrayLike, images: np.ndarray) -> np.ndarray:
    array = as_array("labels", labels)
    if array.shape != (len(images),):
        raise FieldError("labels", _described(array), f"there are {len(images)} images", "give one label for each, [N]")
    if not np.issubdtype(array.dtype, np.integer) or not 0 <= array.min() <= array.max() < 2**31:
        raise FieldError("labels", _described(array), "are no classes", "give integers of at least 0")
    return array.astype(np.int32)


class _Known:
    """A classifier of functions, and what its programs depend on beside the arrays that are passed to them."""

    def __init__(self, key: tuple, functions: tuple, traced: list, classifier: Classifier):
        self.key, self.functions, self.classifier = key, functions, classifier
        self._texts, self._compiled_in = _program(traced)

    def is_for(self, key: tuple, functions: tuple, traced: list) -> bool:
        """Whether its programs are those of the functions as they are now."""
        if key != self.key or any(one is not other for one, other in zip(functions, self.functions, strict=True)):
            return False
        texts, compiled_in = _program(traced)
        return texts == self._texts and all(map(np.array_equal, compiled_in, self._compiled_in))


def _program(traced: list) -> tuple[list[str], list]:
    """The text of traced functions, and the arrays within it that are not passed to the compiled program."""
    inner = [constant for jaxpr in traced for constant in _constants(jaxpr)[len(jaxpr.consts) :]]
    return [str(jaxpr) for jaxpr in traced], [np.array(constant) for constant in inner]


def _with_constants(function: LogitsFn) -> Callable:
    """(arrays that the function closes over, images) -> logits."""

    # As constants of the compiled program, weights would make its compilation long, and weights that have been trained
    # on would need another program.
    def forward(constants: list, images: jax.Array) -> jax.Array:
        traced = jax.make_jaxpr(function)(images)
        return core.jaxpr_as_fun(core.ClosedJaxpr(traced.jaxpr, constants))(images)[0]

    return forward


def _constants(jaxpr: Any) -> list:
    """All arrays that a traced function closes over, those of the programs within it included."""
    found = list(getattr(jaxpr, "consts", ()))
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        found += [value.val for value in equation.invars if isinstance(value, core.Literal) and np.ndim(value.val)]
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(inner):
                found += _constants(inner)
    return found


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, core.Jaxpr | core.ClosedJaxpr)


def _classifier(
    logits_fn: LogitsFn, verify_fn: LogitsFn | None, images: np.ndarray, batch_size: int, seed: int
) -> tuple[Classifier, list]:
    """The compiled programs of a function, from an earlier call if they are still right, and what to call them with."""
    batch_size = number("batch_size", batch_size, 1, 10**9, kind=int)
    seed = number("seed", seed, 0, 2**32 - 1, kind=int)
    mesh = parallel.make_mesh()
    size = -(-min(batch_size, len(images)) // mesh.size) * mesh.size
    traced = [_traced("logits_fn", logits_fn, images)]
    if verify_fn is not None and verify_fn is not logits_fn:
        traced.append(_traced("verify_fn", verify_fn, images))
    classes = [jaxpr.out_avals[0].shape[1] for jaxpr in traced]
    if classes[0] != classes[-1]:
        raise FieldError("verify_fn", f"{classes[-1]} logits", f"logits_fn has {classes[0]}", "give the same model")
    functions = (logits_fn, verify_fn or logits_fn)
    key = images.shape[1:], images.dtype, size, seed
    constants = [parallel.replicate(jaxpr.consts, mesh) for jaxpr in traced]
    for known in _known:
        if known.is_for(key, functions, traced):
            return known.classifier, constants
    attacked, verified = map(_with_constants, functions)
    classifier = Classifier(
        lambda constants, images: verified(constants[-1], images),
        lambda constants, images: partial(attacked, constants[0]),
        classes[0],
        mesh=mesh,
        batch_size=size,
        seed=seed,
    )
    _known.append(_Known(key, functions, traced, classifier))
    del _known[:-_REMEMBERED]
    return classifier, constants


def _traced(name: str, function: LogitsFn, images: np.ndarray) -> Any:
    """The jaxpr of a function for two images; raises FieldError, which names the argument, if it gives no logits."""
    remedy = "give a function of images [B, H, W, C] that returns logits [B, C], of a module in evaluation mode"
    example = jax.ShapeDtypeStruct((2, *images.shape[1:]), np.float32)
    if not callable(function):
        raise FieldError(name, type(function).__name__, "cannot be called", remedy)
    called = getattr(function, "__qualname__", type(function).__name__)
    try:
        traced = jax.make_jaxpr(lambda images: function(to_float(images)))(example)
    except Exception as error:
        problem = f"fails on images {list(example.shape)} with {type(error).__name__}: {error}"[:500]
        raise FieldError(name, called, problem, remedy) from error
    shapes = [aval.shape for aval in traced.out_avals]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][0] != 2 or shapes[0][1] < 2:
        found = ", ".join(str(list(shape)) for shape in shapes) or "nothing"
        raise FieldError(name, called, f"returns {found} for images {list(example.shape)}", remedy)
    return traced
