import jax
import jax.numpy as jnp
import numpy as np
import pytest
from attack_models import ORDER
from scipy import optimize

from jaxrobust.attacks import hyperplane, threats

displacement = jax.jit(hyperplane.displacement, static_argnums=0)


def random_planes(n, dimension, seed):
    """Points, normals and values: some pixels at an edge of the box, some entries of the normal 0 or equal to others.

    A third of the planes lies near, a third at a random distance, and the last third may be out of the box's reach.
    """
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(n, dimension))
    points[rng.random(points.shape) < 0.2] = 0.0
    points[rng.random(points.shape) < 0.2] = 1.0
    normals = rng.normal(size=(n, dimension)) * 10.0 ** rng.uniform(-3, 3, size=(n, 1))
    normals[rng.random(normals.shape) < 0.2] = 0.0
    normals[::4] = np.sign(normals[::4])
    reach = np.abs(normals).sum(1)
    values = rng.normal(size=n) * reach * np.resize([0.02, 0.2, 1.0], n)
    return points.astype(np.float32), normals.astype(np.float32), values.astype(np.float32)


def least(norm, point, normal, value):
    """The least norm of a move onto the plane inside the box, by a solver that knows nothing of the method; None if
    the box does not reach it."""
    point, normal, d = point.astype(float), normal.astype(float), len(point)
    if norm == "l2":
        room = np.where(-np.sign(value) * normal > 0, 1 - point, point)
        if np.abs(normal) @ room < abs(value):
            return None
        solution = optimize.minimize(
            lambda move: (move**2).sum() / 2,
            np.zeros(d),
            jac=lambda move: move,
            bounds=list(zip(-point, 1 - point, strict=True)),
            constraints={"type": "eq", "fun": lambda move: normal @ move + value, "jac": lambda move: normal},
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert solution.success
        return np.linalg.norm(solution.x)
    # Variables: the moves up and down, and for linf their bound.
    costs = np.concatenate([np.zeros(2 * d), [1.0]]) if norm == "linf" else np.concatenate([np.ones(2 * d), [0.0]])
    within = np.concatenate([np.eye(d), np.eye(d), -np.ones((d, 1))], axis=1) if norm == "linf" else None
    solution = optimize.linprog(
        costs,
        A_ub=within,
        b_ub=None if within is None else np.zeros(d),
        A_eq=np.concatenate([normal, -normal, [0.0]])[None],
        b_eq=[-value],
        bounds=[*zip(np.zeros(d), 1 - point, strict=True), *zip(np.zeros(d), point, strict=True), (0, None)],
    )
    return solution.fun if solution.status == 0 else None


@pytest.mark.parametrize("norm", threats.NAMES)
def test_move_is_the_least_that_a_general_solver_finds(norm):
    points, normals, values = random_planes(n=60, dimension=12, seed=1)
    scale = np.abs(normals).max(1)
    moves = np.asarray(displacement(norm, points, normals, values))
    reached = (moves * normals).sum(1) + values
    room = np.where(-np.sign(values[:, None]) * normals > 0, 1 - points, np.where(normals != 0, points, 0))
    out_of_reach = 0
    for i in range(len(points)):
        expected = least(norm, points[i], normals[i] / scale[i], values[i] / scale[i])
        if expected is None:
            out_of_reach += 1
            np.testing.assert_allclose(np.abs(moves[i]), room[i], atol=1e-6)  # the corner nearest to the plane
        else:
            assert abs(reached[i]) <= 1e-5 * scale[i]
            np.testing.assert_allclose(np.linalg.norm(moves[i], ORDER[norm]), expected, rtol=1e-4, atol=1e-6)
    assert 5 < out_of_reach < 30
    assert (points + moves).min() >= 0 and (points + moves).max() <= 1


@pytest.mark.parametrize("norm", threats.NAMES)
@pytest.mark.parametrize("dimension", [4, 150_528])
def test_any_number_of_pixels(norm, dimension):
    """Against the same problem in float64: its multiplier by Brent's method, for l1 the largest weights first."""
    points, normals, values = random_planes(n=6, dimension=dimension, seed=2)
    values[2::3] /= 10  # all but perhaps the largest within reach
    moves = np.asarray(displacement(norm, points, normals, values), float)
    for point, normal, value, move in zip(points.astype(float), normals.astype(float), values, moves, strict=True):
        weights, need = np.abs(normal), abs(value)
        room = np.where(-np.sign(value) * normal > 0, 1 - point, np.where(normal != 0, point, 0))
        if weights @ room <= need:
            expected = room
        elif norm == "l1":
            order = np.argsort(-weights)
            before = np.cumsum((weights * room)[order]) - (weights * room)[order]
            expected = np.clip((need - before) / np.maximum(weights[order], 1e-30), 0, room[order])
        else:
            unit = weights if norm == "l2" else np.ones_like(weights)
            most = (room / np.maximum(unit, 1e-30))[weights > 0].max()
            t = optimize.brentq(lambda t: weights @ np.minimum(t * unit, room) - need, 0, most, xtol=1e-15)  # noqa: B023
            expected = np.where(weights > 0, np.minimum(t * unit, room), 0)
        np.testing.assert_allclose(np.linalg.norm(move, ORDER[norm]), np.linalg.norm(expected, ORDER[norm]), rtol=1e-4)
        if norm != "l1":  # where equal weights leave a choice
            np.testing.assert_allclose(np.abs(move), expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("norm", threats.NAMES)
def test_degenerate_planes_move_nothing_or_to_the_corner(norm):
    points = np.full((6, 4), 0.25, np.float32)
    normals = np.array([[1, -1, 0, 2], [0, 0, 0, 0], [1, 0, 0, 0], [np.nan, 0, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]])
    values = np.array([0.0, 1.0, -1e30, -0.1, np.nan, np.inf])
    moves = displacement(norm, points, normals.astype(np.float32), values.astype(np.float32))
    # On the plane; no plane; out of reach; an entry that is not a number; no value; infinitely far.
    expected = [[0] * 4, [0] * 4, [0.75, 0, 0, 0], [0, 0, 0.1, 0], [0] * 4, [-0.25, -0.25, 0, 0]]
    np.testing.assert_allclose(moves, expected, atol=1e-7)


@pytest.mark.parametrize("norm", threats.NAMES)
def test_move_does_not_depend_on_the_scale_of_the_plane_nor_on_the_batch(norm):
    points, normals, values = random_planes(n=8, dimension=50, seed=3)
    moves = displacement(norm, points, normals, values)
    for scale in (2.0**-80, 2.0**80):
        np.testing.assert_array_equal(displacement(norm, points, normals * scale, values * scale), moves)
    np.testing.assert_array_equal(displacement(norm, points[5:6], normals[5:6], values[5:6])[0], moves[5])
    in_rows = [array.reshape(8, 5, 5, 2) for array in (points, normals)]
    np.testing.assert_allclose(displacement(norm, *in_rows, values).reshape(8, 50), moves, atol=1e-6)


@pytest.mark.parametrize("norm, dual", [("linf", 1), ("l2", 2), ("l1", np.inf)])
def test_distance_is_the_value_over_the_dual_norm(norm, dual):
    _, normals, values = random_planes(n=9, dimension=50, seed=4)
    for scale in (1.0, 2.0**-80):
        distance = hyperplane.distance(norm, normals * np.float32(scale), values * np.float32(scale))
        np.testing.assert_allclose(distance, np.abs(values) / np.linalg.norm(normals, dual, axis=1), rtol=1e-5)
    none = hyperplane.distance(norm, jnp.zeros((2, 3)), jnp.array([1.0, 0.0]))
    assert np.isinf(none).all()
    assert np.isinf(hyperplane.distance(norm, jnp.ones((1, 3)), jnp.array([jnp.nan]))).all()
