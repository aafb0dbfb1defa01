"""Nearest points on a hyperplane inside the box [0, 1], by norm: the inner problem of FAB (Croce & Hein 2020, eq. 4).

Of all displacements that stay in the box and reach the hyperplane, the one of least norm moves coordinate i, against
the sign of the plane's value, by

    linf   min(t, room_i)
    l2     min(t |normal_i|, room_i)
    l1     room_i where |normal_i| > t, a share of it where |normal_i| = t, else 0

with one multiplier t for each example. The change of the plane's value is monotone in t, so t is found by bisection.
"""

import jax
import jax.numpy as jnp

from jaxrobust.attacks import threats


def distance(norm: str, normals, values):
    """Distance [B] of each point to its hyperplane, ignoring the box.

    Infinite where the normal is 0 or the value is not finite. See `displacement`.
    """
    normals, values = _scaled(normals, values)
    dual = threats.NORMS[threats.DUAL[norm]].size(normals)  # at least 1, unless the normal is 0
    return jnp.where((dual > 0) & jnp.isfinite(values), jnp.abs(values) / jnp.maximum(dual, 1.0), jnp.inf)


def displacement(norm: str, points, normals, values):
    """From each point to the nearest point of the box with <normal, z - point> + value = 0.

    If the hyperplane does not meet the box, to the point of the box nearest to it. 0 where the normal is 0 or the value
    is NaN; an entry of the normal that is not finite counts as 0.

    Args:
        norm: linf, l2 or l1; the displacement [B, ...] is the smallest in this norm.
        points, normals: [B, ...] float32, the points in [0, 1].
        values: [B], value of the plane's equation at the point. The value is given, not the constant term: near the
            plane, computing the value from the constant term would lose digits by cancellation.
    """
    normals, values = _scaled(normals, jnp.nan_to_num(values, nan=0.0))
    sign = -jnp.sign(threats.per_example(values, normals)) * jnp.sign(normals)
    room = jnp.where(sign > 0, 1.0 - points, jnp.where(sign < 0, points, 0.0))
    moves = _MOVES[norm](jnp.abs(normals), room, jnp.abs(values))
    return sign * jnp.clip(moves, 0.0, room)


def _even_moves(weights, room, need, slopes):
    def moves(t):
        return jnp.minimum(threats.per_example(t, room) * slopes, room)

    return moves(_largest(lambda t: _sum(weights * moves(t)) <= need, need.shape))


def _l1_moves(weights, room, need):
    """The entries of largest weight move first: they change the value most per unit of movement."""
    gains = weights * room

    def reached(t):
        return _sum(jnp.where(weights >= threats.per_example(t, room), gains, 0.0)) >= need

    threshold = threats.per_example(_largest(reached, need.shape), room)
    rest = need - _sum(jnp.where(weights > threshold, gains, 0.0))
    # Which of the entries with equal weights move does not change the norm, so all of them move.
    share = rest / jnp.maximum(_sum(jnp.where(weights == threshold, gains, 0.0)), 1e-30)
    share = threats.per_example(jnp.clip(share, 0.0, 1.0), room)
    return jnp.where(weights > threshold, room, jnp.where(weights == threshold, share * room, 0.0))


_MOVES = {
    "linf": lambda weights, room, need: _even_moves(weights, room, need, slopes=1.0),
    "l2": lambda weights, room, need: _even_moves(weights, room, need, slopes=weights),
    "l1": _l1_moves,
}


def _largest(holds, shape):
    """For each example the largest float32 t for which `holds(t [B]) -> [B]` is true; it is true from 0 up to there."""

    # Non-negative floats have the same order as their bits read as integers. Bisection of the bits finds t exactly in
    # 31 evaluations, for any magnitude.
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
    """The same hyperplanes, scaled so that the largest entry of a normal is 1: squares of tiny gradients underflow."""
    normals = jnp.where(jnp.isfinite(normals), normals, 0.0)
    scale = jnp.maximum(threats.NORMS["linf"].size(normals), 1e-30)
    return normals / threats.per_example(scale, normals), values / scale


def _sum(values):
    return values.sum(axis=tuple(range(1, values.ndim)))
