"""Rules against published numbers and invariants; and what they make of counts in the course of a training."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from jaxrobust import build, checkpoints, parallel, remedies, train, writers
from jaxrobust.config import default
from jaxrobust.errors import FieldError
from jaxrobust.interruption import Interrupted
from jaxrobust.remedies import Settings, counts, knobs, long_tail
from jaxrobust.train_state import ClassSums


def settings_with(**changes):
    """The defaults of the config, with changes."""
    fields = default().remedy.to_dict() | {"epochs": 10} | changes
    return Settings(**{name: fields[name] for name in Settings._fields})


# Of CIFAR-10 with an exponential imbalance of 0.01 and of 0.02.
HUNDREDTH = jnp.array([5000.0, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
FIFTIETH = jnp.array([5000.0, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100])
EQUAL = jnp.full(10, 400.0)


def test_effective_number_against_the_published_code():
    weights = long_tail.effective_number(HUNDREDTH, 0.9999)
    expected = [0.05061, 0.0769, 0.12113, 0.19504, 0.31881, 0.52459, 0.86835, 1.44263, 2.40922, 3.99272]
    np.testing.assert_allclose(weights, expected, rtol=2e-4)


def test_effective_number_lies_between_no_weighting_and_inverse_frequency():
    np.testing.assert_allclose(long_tail.effective_number(HUNDREDTH, 0.0), np.ones(10), rtol=1e-6)
    almost_one = long_tail.effective_number(HUNDREDTH, 1 - 1e-7)
    np.testing.assert_allclose(almost_one, long_tail.inverse_frequency(HUNDREDTH), rtol=1e-3)


def test_ldam_margins_against_the_published_code():
    expected = [0.15811, 0.1797, 0.20424, 0.23209, 0.26383, 0.29977, 0.34068, 0.38722, 0.4405, 0.5]
    np.testing.assert_allclose(long_tail.ldam_margin(HUNDREDTH, 0.5), expected, atol=1e-5)


def test_radius_by_rarity_against_the_published_code():
    expected = [0.7, 1.0033, 1.1289, 1.2253, 1.3066, 1.3783, 1.4429, 1.5026, 1.558, 1.6097]
    scale = long_tail.radius_by_rarity(FIFTIETH, 0.3)
    np.testing.assert_allclose(scale, expected, atol=1e-4)
    np.testing.assert_allclose((scale * FIFTIETH).sum() / FIFTIETH.sum(), 1.0, rtol=1e-6)


@pytest.mark.parametrize("power, shares", [(1.0, FIFTIETH / FIFTIETH.sum()), (0.0, jnp.full(10, 0.1))])
def test_sampling_draws_classes_in_proportion_to_a_power(power, shares):
    drawn = FIFTIETH * long_tail.sampling(FIFTIETH, power)
    np.testing.assert_allclose(drawn / drawn.sum(), shares, rtol=1e-5)


def test_progressive_sampling_mixes_the_shares_of_classes():
    drawn = FIFTIETH * long_tail.progressive_sampling(FIFTIETH, 0.25)
    expected = 0.75 * FIFTIETH / FIFTIETH.sum() + 0.25 / 10
    np.testing.assert_allclose(drawn / drawn.sum(), expected, rtol=1e-5)


RULES = [name for name in remedies.NAMES if name != "none"]


@pytest.mark.parametrize("name", [name for name in RULES if name != "ldam"] + ["reweight+resample"])
def test_equal_counts_change_nothing(name):
    """The question that the kinds of counts answer: on balanced data, true counts are no remedy."""
    settings = settings_with(radius_warmup=0.0)
    after, _ = remedies.create(name, settings).start(EQUAL)
    # A prior that is the same for all classes leaves the softmax as it is.
    centred = after.replace(log_prior=after.log_prior - after.log_prior.mean())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), centred, knobs.neutral(10))


def test_equal_counts_give_all_classes_the_margin_of_ldam():
    after, _ = remedies.create("ldam", settings_with()).start(EQUAL)
    np.testing.assert_allclose(after.margin, np.full(10, 0.5), rtol=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_only_ratios_of_counts_matter(name):
    """But for the effective number, whose point it is that they do not."""
    settings = settings_with(weighting="inverse", radius_warmup=0.0)
    one, another = (remedies.create(name, settings).start(n)[0] for n in (FIFTIETH, 3 * FIFTIETH))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, another)


def epoch(correct, count=None):
    correct = jnp.asarray(correct)
    count = jnp.full(len(correct), 100) if count is None else jnp.asarray(count)
    return ClassSums(count=count, correct=correct, loss=jnp.zeros(len(correct)))


def test_counts_follow_robust_accuracy():
    """Two epochs by hand: half of the old counts, and half of the sum shared by accuracy."""
    after = counts.observe("robust_accuracy", jnp.array([300.0, 300.0, 300.0]), epoch([60, 30, 10]), 0.5)
    np.testing.assert_allclose(after, [420.0, 285.0, 195.0], rtol=1e-6)
    after = counts.observe("robust_accuracy", after, epoch([50, 25, 25]), 0.0)
    np.testing.assert_allclose(after, [450.0, 225.0, 225.0], rtol=1e-6)


def test_counts_of_classes_without_images_or_hits():
    before = jnp.array([100.0, 200.0, 300.0])
    after = counts.observe("robust_accuracy", before, epoch([80, 0, 40], count=[100, 0, 100]), 0.0)
    np.testing.assert_allclose(after[1] / after.sum(), 200 / 600, rtol=1e-6)
    np.testing.assert_allclose(after[0] / after[2], 2.0, rtol=1e-6)
    nothing = counts.observe("robust_accuracy", before, epoch([0, 0, 0]), 0.0)
    np.testing.assert_allclose(nothing, [200.0, 200.0, 200.0], rtol=1e-6)
    one_hopeless = counts.observe("robust_accuracy", before, epoch([90, 90, 0]), 0.0)
    np.testing.assert_allclose(one_hopeless[2] / one_hopeless[0], counts.SMALLEST_SHARE, rtol=1e-5)
    assert counts.observe("true", before, epoch([90, 90, 0]), 0.0) is before


def test_the_hard_class_gets_the_help():
    settings = settings_with(counts="robust_accuracy", counts_decay=0.0, weighting="inverse", radius_warmup=0.0)
    remedy = remedies.create("reweight+resample+ldam+logit_adjustment+robust_lt", settings)
    start, memory = remedy.start(EQUAL[:3])
    after, _ = jax.jit(remedy.observe)(start, memory, epoch([80, 40, 20]))
    for knob in ("weight_natural", "weight_robust", "sampling", "margin", "radius_scale"):
        assert np.all(np.diff(getattr(after, knob)) > 0), knob
    np.testing.assert_allclose(after.weight_robust / after.weight_robust[0], [1.0, 2.0, 4.0], rtol=1e-5)
    np.testing.assert_allclose(after.log_prior, np.log([4 / 7, 2 / 7, 1 / 7]), rtol=1e-5)


def test_deferred():
    """Neutral until the epoch has come, whatever is observed meanwhile (deferred re-weighting, Cao et al. 2019)."""
    remedy = remedies.create("reweight", settings_with(begin=0.8, epochs=10))
    at, memory = remedy.start(FIFTIETH)
    weights = [at.weight_robust]
    for _ in range(10):
        at, memory = remedy.observe(at, memory, epoch(np.full(10, 50)))
        weights.append(at.weight_robust)
    assert all((w == 1).all() for w in weights[:8])
    assert all((w != 1).any() for w in weights[8:])


def test_warm_up_of_the_radius():
    remedy = remedies.create("robust_lt", settings_with(epochs=10, radius_warmup=0.5))
    at, memory = remedy.start(FIFTIETH)
    means = []
    for _ in range(7):
        means.append(float((at.radius_scale * FIFTIETH).sum() / FIFTIETH.sum()))
        at, memory = remedy.observe(at, memory, epoch(np.full(10, 50)))
    np.testing.assert_allclose(means, [0, 0.2, 0.4, 0.6, 0.8, 1, 1], atol=1e-6)


def test_none_starts_neutral_and_never_moves():
    remedy = remedies.create("none", settings_with())
    start, memory = remedy.start(np.array([5, 50, 500]))
    jax.tree.map(np.testing.assert_array_equal, start, knobs.neutral(3))
    after, memory = remedy.observe(start, memory, statistics=None)
    assert after is start and memory == {}


def test_neutral_values():
    neutral = knobs.neutral(4)
    for name in ("weight_natural", "weight_robust", "radius_scale", "beta_scale", "sampling"):
        np.testing.assert_array_equal(getattr(neutral, name), np.ones(4))
    for name in ("margin", "log_prior"):
        np.testing.assert_array_equal(getattr(neutral, name), np.zeros(4))


@pytest.mark.parametrize(
    "names, message",
    [
        ("magic", "'magic' is unknown"),
        ("none+ldam", "none alone"),
        ("", "is no choice"),
        ("balanced_softmax+logit_adjustment", "both set log_prior"),
        ("('ldam', 'ldam')", "both set margin"),
    ],
)
def test_names_that_cannot_act(names, message):
    with pytest.raises(FieldError, match=message):
        remedies.create(names, settings_with())


def test_a_training_with_remedies_resumes_where_it_was(tmp_path, monkeypatch):
    """Interrupted in the middle of the second epoch, it ends with the same bits; and the knobs have moved by then."""

    def config(name):
        config = tiny_config.get_config()
        config.remedy.name, config.remedy.counts = name, "robust_accuracy"
        config.train.epochs, config.eval.every_epochs = 3, 0
        return config

    def final_state(workdir):
        mesh = parallel.make_mesh()
        like = build.abstract_state(config(name), build.dataset(config(name)), mesh, 54)
        return jax.device_get(checkpoints.Checkpoints(workdir, read_only=True).restore(54, like))

    name = "reweight+resample+ldam+logit_adjustment+robust_lt"
    train.train_and_evaluate(config(name), tmp_path / "whole")
    scalars = writers.Writer.scalars

    def scalars_and_signal(self, step, values):
        scalars(self, step, values)
        if step == 25:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(writers.Writer, "scalars", scalars_and_signal)
        train.train_and_evaluate(config(name), tmp_path / "parts")
    train.train_and_evaluate(config(name), tmp_path / "parts")

    whole = final_state(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, whole, final_state(tmp_path / "parts"))
    for knob in ("weight_robust", "sampling", "margin", "log_prior", "radius_scale"):
        assert np.ptp(getattr(whole.knobs, knob)) > 0, knob
    hardest = whole.memory["counts"].argmin()
    assert whole.knobs.weight_robust.argmax() == whole.knobs.radius_scale.argmax() == hardest
