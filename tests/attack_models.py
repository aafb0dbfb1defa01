"""Small models and images for tests of attacks, and what tests of several attacks check."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrobust.attacks import attack as attacks

ORDER = {"linf": np.inf, "l2": 2, "l1": 1}  # of each norm, for np.linalg.norm
DUAL_ORDER = {"linf": 1, "l2": 2, "l1": np.inf}


# Models are cached: a program is compiled once for each function.


@functools.cache
def two_class_linear_model(shape, seed=0):
    """Weights [D] and logits (-f/2, f/2) with f(x) = w.(x - 1/2): the margin of label 1 is -f, of label 0 it is f."""
    w = np.random.default_rng(seed).normal(size=np.prod(shape)).astype(np.float32)

    def logits_fn(x):
        f = (x.reshape(len(x), -1) - 0.5) @ w
        return jnp.stack([-f / 2, f / 2], axis=1)

    return w, logits_fn


@functools.cache
def linear_model(shape, classes, seed=0):
    """Weights [D, C] and logits w.(x - 1/2) + b, of which each is the largest for some images."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(np.prod(shape), classes)).astype(np.float32)
    b = rng.normal(size=classes).astype(np.float32) * 0.1
    return w, lambda x: (x.reshape(len(x), -1) - 0.5) @ w + b[None]


@functools.cache
def smooth_model(shape, classes=4, seed=0):
    """The logits of a small network with curvature."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(np.prod(shape), 20)).astype(np.float32)
    second = rng.normal(size=(20, classes)).astype(np.float32)
    return lambda x: jnp.tanh((x.reshape(len(x), -1) - 0.5) @ first) @ second


def images_of(n, shape, low=0.0, high=1.0, seed=1):
    """Images [n, *shape] with pixels drawn uniformly between `low` and `high`."""
    return np.random.default_rng(seed).uniform(low, high, (n, *shape)).astype(np.float32)


def examples_of(logits_fn, images, radius, seed=0):
    """The images, all classified correctly: the labels are the model's own predictions.

    Args:
        radius: a number, or [B].
        seed: of the keys.
    """
    labels = jnp.argmax(logits_fn(images), axis=1)
    radius = jnp.broadcast_to(jnp.asarray(radius, jnp.float32), len(images))
    return attacks.Examples(jnp.asarray(images), labels, jax.random.split(jax.random.key(seed), len(images)), radius)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(attack, logits_fn, examples, number=0):
    """The state at the end of one run."""

    def step(state, iteration):
        return attack.step(logits_fn, examples, state, iteration), None

    return jax.lax.scan(step, attack.start(logits_fn, examples, number), jnp.arange(attack.iterations))[0]


def rows(tree, index):
    """The rows of all arrays. Except for keys they are copied to the host, as between the parts of an evaluation."""
    return jax.tree.map(
        lambda x: x[index] if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)[index], tree
    )


def assert_regrouping_changes_nothing(attack, logits_fn, examples, steps, *, number=0, atol):
    """After `steps` of 2 x `steps` steps the states continue in another order and in two groups, with equal results.

    The same for an example that is attacked alone from the start.

    Args:
        number: of the run.
        atol: of the adversarial images; batches of different sizes round differently.
    """
    start = jax.jit(functools.partial(attack.start, logits_fn))

    @jax.jit
    def advance(examples, state, first):
        def step(state, iteration):
            return attack.step(logits_fn, examples, state, iteration), None

        return jax.lax.scan(step, state, first + jnp.arange(steps))[0]

    half = advance(examples, start(examples, number), 0)
    whole = advance(examples, half, steps)
    assert (half.adversarial != whole.adversarial).any()
    count = len(examples.labels)
    order = np.random.default_rng(0).permutation(count)
    for part in (order[: count // 2], order[count // 2 :]):
        ended = advance(*rows((examples, half), part), steps)
        np.testing.assert_allclose(ended.adversarial, whole.adversarial[part], atol=atol)
        np.testing.assert_array_equal(ended.is_adversarial, whole.is_adversarial[part])
    one = rows(examples, np.array([3]))
    ended = advance(one, advance(one, start(one, number), 0), steps)
    np.testing.assert_allclose(ended.adversarial, whole.adversarial[3:4], atol=atol)
