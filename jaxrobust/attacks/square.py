"""Square Attack: random search with windows, from the logits alone (Andriushchenko et al. 2020).

    attack = Square(norm="linf")
    state = attack.start(logits_fn, examples, run)
    state = attack.step(logits_fn, examples, state, iteration)   # one forward pass

It maximises the margin loss: a step proposes a change of one square window of the image and keeps the proposal if the
margin grows. Linf: in each channel the window is set to the upper or the lower edge of the ball; the start is vertical
stripes. L2 and L1: the perturbation in a second window is set to 0, and its norm is given to the first window, to which
two pyramids of opposite sign are added; the start is a grid of such patterns. The rules for L1 are those of Croce &
Hein (2021).

The side of the window becomes smaller with the iterations, by the authors' schedule. Rules and budget are those of the
AutoAttack package, with these differences: each example draws its own windows; a window may touch the lower and right
edge of the image; it is never larger than the image; and in Linf a window that would change nothing is set to the
opposite edge of the ball. (There the authors' code for the paper draws again, and the package wastes the query.)
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import ascent, threats
from jaxrobust.attacks.attack import fold_in

NORMS = ("linf", "l2", "l1")
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # iterations, of 10,000
_TINY = 1e-12


class SquareState(NamedTuple):
    adversarial: jax.Array  # [B, H, W, C]
    margin: jax.Array  # [B], its margin loss

    @property
    def is_adversarial(self):
        return self.margin > 0


@dataclasses.dataclass(frozen=True)
class Square(ascent.Runs):
    """Square Attack on the margin loss."""

    norm: str  # "linf", "l2" or "l1"
    iterations: int = 5000  # queries of a run. As in the AutoAttack package, the starting point is one query more.
    restarts: int = 1  # runs, each with its own random numbers
    p_init: float = 0.8  # share of the image's area that the first windows cover
    # rescale the schedule of the window, which is for 10,000 queries, to these. The AutoAttack protocol does not do it.
    rescale_schedule: bool = False

    targets, start_passes, step_passes = 0, 1.0, 1.0

    def __post_init__(self):
        if self.norm not in NORMS:
            raise ValueError(f"norm {self.norm!r} is not one of {NORMS}")
        if not 0 < self.p_init <= 1:
            raise ValueError(f"p_init {self.p_init} is not in (0, 1]")

    def start(self, logits_fn, examples, run) -> SquareState:
        """The first point. The keys differ from run to run, so the number of the run is not needed."""
        keys = fold_in(examples.keys, 0)
        if self.norm == "linf":
            adversarial = _stripes(keys, examples)
        else:
            adversarial = _BALLS[self.norm].into(examples, _grid_of_patterns(keys, examples.images.shape))
        return SquareState(adversarial, ascent.margin(logits_fn, adversarial, examples.labels))

    def step(self, logits_fn, examples, state, iteration) -> SquareState:
        """One proposal, kept where the margin grows. Also for adversarial images: float32 may not agree yet."""
        level = self.level(iteration)
        sides = self.sides(*examples.images.shape[1:3])
        keys = fold_in(examples.keys, iteration + 1)
        if self.norm == "linf":
            proposal = edge_of_the_ball(keys, examples, state.adversarial, jnp.asarray(sides)[level])
        else:
            proposal = _mass_transfer(_BALLS[self.norm], keys, examples, state.adversarial, sides, level)
        proposed = SquareState(proposal, ascent.margin(logits_fn, proposal, examples.labels))
        return ascent.choose(proposed.margin > state.margin, proposed, state)

    def level(self, iteration):
        """How many times the window's share of the area has been halved at that iteration; int32, traced or not."""
        first = [after + 1 for after in _HALVED_AFTER]
        if self.rescale_schedule:
            first = [math.ceil(iteration * self.iterations / 10_000) for iteration in first]
        return (iteration >= jnp.array(first)).sum()

    def sides(self, height: int, width: int) -> tuple[int, ...]:
        """Side of the window at each level, in pixels; odd and at least 3 for L2 and L1, if the image is."""
        sides = []
        for level in range(len(_HALVED_AFTER) + 1):
            side = round(math.sqrt(self.p_init / 2**level * height * width))
            side = max(side, 1) if self.norm == "linf" else max(side, 3) // 2 * 2 + 1
            sides.append(min(side, height, width))
        return tuple(sides)


def _uniforms(keys, count: int):
    """[B, count], in [0, 1)."""
    return jax.vmap(lambda key: jax.random.uniform(key, (count,)))(keys)


def _corner(uniforms, sizes, side):
    """Upper left corner, [B] rows and [B] columns, of a window within an image of these sizes, from [B, 2] uniforms."""
    places = jnp.array([sizes]) - side + 1
    corner = jnp.minimum((uniforms * places).astype(jnp.int32), places - 1)
    return corner[:, 0], corner[:, 1]


def _offsets(start, size: int):
    """[B, size]: how far each row (or column) of the image is from that of the window's corner, [B]."""
    return jnp.arange(size)[None] - start[:, None]


def _window(corner, sizes, side):
    """Mask [B, H, W, 1] of the window with that upper left corner."""
    offsets = [_offsets(start, size) for start, size in zip(corner, sizes, strict=True)]
    rows, columns = ((offset >= 0) & (offset < side) for offset in offsets)
    return (rows[:, :, None] & columns[:, None, :])[..., None]


def _signs(uniforms):
    return jnp.where(uniforms < 0.5, -1.0, 1.0)


# --- Linf


def _stripes(keys, examples):
    """Full radius up or down, drawn for each column and channel."""
    _, _, width, channels = examples.images.shape
    signs = _signs(_uniforms(keys, width * channels)).reshape(-1, 1, width, channels)
    return jnp.clip(examples.images + signs * threats.per_example(examples.radius, signs), 0.0, 1.0)


def edge_of_the_ball(keys, examples, adversarial, side):
    """A window moved to the highest or the lowest value that ball and box allow, as drawn for each channel."""
    sizes, channels = adversarial.shape[1:3], adversarial.shape[3]
    uniforms = _uniforms(keys, 2 + channels)
    window = _window(_corner(uniforms[:, :2], sizes, side), sizes, side)
    up = (uniforms[:, 2:] < 0.5)[:, None, None, :]
    radius = threats.per_example(examples.radius, adversarial)
    highest = jnp.minimum(examples.images + radius, 1.0)
    lowest = jnp.maximum(examples.images - radius, 0.0)
    idle = (~window | (jnp.where(up, highest, lowest) == adversarial)).all((1, 2, 3), keepdims=True)
    return jnp.where(window, jnp.where(up ^ idle, highest, lowest), adversarial)


# --- L2 and L1


class _Ball(NamedTuple):
    """The parts of the attack that differ between L2 and L1."""

    size: Callable  # (perturbation [B, H, W, C], axes) -> its norm over the axes, which are kept
    # (radius, norm of the image's perturbation, norm in both windows [.., C], C) -> the norm [.., C] that the first
    # window gets: that in both windows, and an equal share of the rest.
    budget: Callable
    into: Callable  # (examples, perturbation) -> image in ball and box


def _l2_size(perturbation, axes):
    return jnp.sqrt(jnp.square(perturbation).sum(axes, keepdims=True))


def _l2_budget(radius, whole, windows, channels):
    return jnp.sqrt(jnp.maximum(radius**2 - whole**2, 0.0) / channels + windows**2)


def _l2_into(examples, perturbation):
    """Stretched to the radius, then clipped to the box."""
    unit = perturbation / (_l2_size(perturbation, (1, 2, 3)) + _TINY)
    return jnp.clip(examples.images + unit * threats.per_example(examples.radius, unit), 0.0, 1.0)


def _l1_size(perturbation, axes):
    return jnp.abs(perturbation).sum(axes, keepdims=True)


def _l1_budget(radius, whole, windows, channels):
    return jnp.maximum(radius - whole, 0.0) + windows * channels  # too much: the projection makes it sparse


def l1_into(examples, perturbation):
    """The nearest image in both ball and box."""
    room = jnp.where(perturbation > 0, 1.0 - examples.images, examples.images)
    radius = examples.radius * (1 - 1e-6)  # leaves room for rounding, as the package does
    return examples.images + threats.l1_shrink(perturbation, radius, room)


_BALLS = {"l2": _Ball(_l2_size, _l2_budget, _l2_into), "l1": _Ball(_l1_size, _l1_budget, l1_into)}


def pattern_factors(side: int) -> np.ndarray:
    """The pattern of a window in three vectors: pattern[i, j] = scale[i] * min(half[i], whole[j]), of L2 norm 1.

    Two halves, one above the other and of opposite sign, each a pyramid about its centre with steps of 1/m^2: at a
    Chebyshev distance of d from the centre it is as high as the sum of 1/m^2 from m = d + 1 to side // 2 + 1. As this
    falls with d, the larger of the distances along rows and columns gives the smaller of two heights.

    Returns:
        [3, side]: scale, half and whole.
    """
    steps = 1.0 / np.arange(1, side // 2 + 2) ** 2
    height = np.cumsum(steps[::-1])[::-1]
    index, middle = np.arange(side), side // 2
    upper = index < middle
    half = height[np.abs(np.where(upper, index - middle // 2, index - middle - (side - middle) // 2))]
    whole = height[np.abs(index - middle)]
    squares = np.square(np.minimum(half[:, None], whole)).sum(1)
    norms = [np.sqrt(squares[part].sum()) for part in (upper, ~upper)]
    halves = 2 if upper.any() else 1
    return np.stack([np.where(upper, 1 / max(norms[0], _TINY), -1 / norms[1]) / np.sqrt(halves), half, whole])


def _grid_of_patterns(keys, shape):
    """Patterns side by side, a fifth of the image wide each, with their own signs and orientations."""
    batch, height, width, channels = shape
    side = max(min(height, width) // 5, 1)
    rows, columns = height // side, width // side
    scale, half, whole = pattern_factors(side)
    pattern = (scale[:, None] * np.minimum(half[:, None], whole)).astype(np.float32)[None, None, :, None, :, None]
    uniforms = _uniforms(keys, rows * columns * (1 + channels)).reshape(batch, rows, 1, columns, 1, -1)
    tiles = jnp.where(uniforms[..., :1] < 0.5, pattern, pattern.swapaxes(2, 4)) * _signs(uniforms[..., 1:])
    grid = tiles.reshape(batch, rows * side, columns * side, channels)
    above, left = height % side // 2, width % side // 2
    padding = ((0, 0), (above, height % side - above), (left, width % side - left), (0, 0))
    return jnp.pad(grid, padding)


def placed_pattern(corner, turned, sizes, side, factors):
    """[B, H, W, 1]: the pattern in the window with that corner, turned by a right angle where `turned` [B, 1].

    The factors [3, n] are those of `pattern_factors` in the first `side` columns.
    """

    def along(start, size, turned):
        offset = _offsets(start, size)
        inside = (offset >= 0) & (offset < side)
        scale, half, whole = factors[:, jnp.clip(offset, 0, factors.shape[1] - 1)]
        return jnp.where(turned, 1.0, scale), jnp.where(inside, jnp.where(turned, whole, half), 0.0)

    row_scale, row_height = along(corner[0], sizes[0], turned)
    column_scale, column_height = along(corner[1], sizes[1], ~turned)
    height = jnp.minimum(row_height[:, :, None], column_height[:, None, :])
    return (row_scale[:, :, None] * column_scale[:, None, :] * height)[..., None]


def _mass_transfer(ball, keys, examples, adversarial, sides, level):
    """A pattern is added to the perturbation in one window, and the perturbation in a second window is set to 0."""
    sizes, channels = adversarial.shape[1:3], adversarial.shape[3]
    table = np.zeros((len(sides), 3, max(sides)), np.float32)
    for row, side in zip(table, sides, strict=True):
        row[:, :side] = pattern_factors(side)
    side, factors = jnp.asarray(sides)[level], jnp.asarray(table)[level]

    uniforms = _uniforms(keys, 5 + channels)
    corner = _corner(uniforms[:, :2], sizes, side)
    first = _window(corner, sizes, side)
    second = _window(_corner(uniforms[:, 2:4], sizes, side), sizes, side)
    pattern = placed_pattern(corner, uniforms[:, 4:5] < 0.5, sizes, side, factors)
    signs = _signs(uniforms[:, 5:])[:, None, None, :]

    perturbation = adversarial - examples.images
    held = jnp.where(first, perturbation, 0.0)
    budget = ball.budget(
        threats.per_example(examples.radius, perturbation),
        ball.size(perturbation, (1, 2, 3)),
        ball.size(jnp.where(first | second, perturbation, 0.0), (1, 2)),
        channels,
    )
    moved = signs * pattern + held / (ball.size(held, (1, 2)) + _TINY)
    moved = moved * budget / (ball.size(moved, (1, 2)) + _TINY)
    return ball.into(examples, jnp.where(first, moved, jnp.where(second, 0.0, perturbation)))
