"""Nearest points on a hyperplane inside the box [0, 1], by norm: the inner problem of FAB (Croce & Hein 2020, eq. 4).

Of all displacements that stay in the box, the one of least norm that takes a point onto the hyperplane moves coordinate
i against the sign of the plane's value, by

    linf   min(t, room_i)
    l2     min(t |normal_i|, room_i)
    l1     room_i where |normal_i| > t, a share of it where |normal_i| = t, else 0

with one multiplier t for each example. What the plane's value changes by is monotone in t, so t is found by bisection.
"""

import jax
import jax.numpy as jnp

from jaxrobust.attacks import threats


def distance(norm: str, normals, values):
    """How far each point is from its hyperplane if no box bounds it [B]; infinite where that is not a number.

    Args:
        norm: one of threats.NAMES.
        normals: [B, ...]; an entry that is not a number counts as 0.
        values: [B], of the plane's equation at the point.
    """
    normals, values = _scaled(normals, values)
    dual = threats.NORMS[threats.DUAL[norm]].size(normals)  # at least 1, unless the normal is 0
    return jnp.where((dual > 0) & jnp.isfinite(values), jnp.abs(values) / jnp.maximum(dual, 1.0), jnp.inf)


def displacement(norm: str, points, normals, values):
    """From each point to the nearest point of the box with <normal, z - point> + value = 0.

    Where the box does not reach the hyperplane, to the point of the box nearest to the hyperplane. 0 where the normal
    is 0 or the value is not a number; an entry of the normal that is not a number counts as 0.

    Args:
        norm: linf, l2 or l1; what is least about the displacement.
        points: [B, ...] float32 in [0, 1].
        normals: [B, ...].
        values: [B], of the plane's equation at the point. Given instead of its constant term, which would lose them by
            cancellation where the point is near the plane.

    Returns:
        [B, ...]
    """
    normals, values = _scaled(normals, jnp.nan_to_num(values, nan=0.0))
    sign = -jnp.sign(threats.per_example(values, normals)) * jnp.sign(normals)
    room = jnp.where(sign > 0, 1.0 - points, jnp.where(sign < 0, points, 0.0))
    moves = _MOVES[norm](jnp.abs(normals), room, jnp.abs(values))
    return sign * jnp.clip(moves, 0.0, room)


def _linf_moves(weights, room, need):
    def moves(t):
        return jnp.minimum(threats.per_example(t, room), room)

    return moves(_largest(lambda t: _sum(weights * moves(t)) <= need, need.shape))


def _l2_moves(weights, room, need):
    def moves(t):
        return jnp.minimum(threats.per_example(t, room) * weights, room)

    return moves(_largest(lambda t: _sum(weights * moves(t)) <= need, need.shape))


def _l1_moves(weights, room, need):
    """The largest weights first: where they gain most per unit of movement."""
    gains = weights * room

    def reached(t):
        return _sum(jnp.where(weights >= threats.per_example(t, room), gains, 0.0)) >= need

    threshold = threats.per_example(_largest(reached, need.shape), room)
    rest = need - _sum(jnp.where(weights > threshold, gains, 0.0))
    # Of equal weights it is all the same to the norm which of them moves, so all do.
    share = rest / jnp.maximum(_sum(jnp.where(weights == threshold, gains, 0.0)), 1e-30)
    share = threats.per_example(jnp.clip(share, 0.0, 1.0), room)
    return jnp.where(weights > threshold, room, jnp.where(weights == threshold, share * room, 0.0))


_MOVES = {"linf": _linf_moves, "l2": _l2_moves, "l1": _l1_moves}


def _largest(holds, shape):
    """The largest float32 of each example at which `holds(t [B]) -> [B]` does, which is true from 0 up to there.

    Floats that are not negative are ordered as their bits are. Bisecting these finds the number to the last bit in 31
    evaluations, whatever its magnitude.
    """

    def as_float(bits):
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        inside = holds(as_float(middle))
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    infinity = jax.lax.bitcast_convert_type(jnp.full(shape, jnp.inf, jnp.float32), jnp.int32)
    return as_float(jax.lax.fori_loop(0, 31, halve, (jnp.zeros(shape, jnp.int32), infinity))[0])


def _scaled(normals, values):
    """The same hyperplanes with 1 as the largest entry of a normal: the squares of a saturated model's underflow."""
    normals = jnp.where(jnp.isfinite(normals), normals, 0.0)
    scale = jnp.maximum(threats.NORMS["linf"].size(normals), 1e-30)
    return normals / threats.per_example(scale, normals), values / scale


def _sum(values):
    return values.sum(axis=tuple(range(1, values.ndim)))
