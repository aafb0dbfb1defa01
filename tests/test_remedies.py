"""What remedies make of counts and statistics in the course of a training, together and one by one."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_config

from jaxrobust import remedies
from jaxrobust.config import default, objects
from jaxrobust.distributed import parallel
from jaxrobust.distributed.interruption import Interrupted
from jaxrobust.errors import FieldError
from jaxrobust.remedies import counts, knobs
from jaxrobust.runs import checkpoints, tensorboard
from jaxrobust.training import class_statistics, loop, setup as training_setup

FIFTIETH = jnp.array([5000.0, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100])
EQUAL = jnp.full(10, 400.0)


def create(name, epochs=10, objective="pgd_at", **changes):
    """A remedy by the defaults of the config, with changes to `remedy.` by dotted name, _ for the dot."""
    config = default()
    config.remedy.name, config.train.epochs, config.objective.name = name, epochs, objective
    config.update_from_flattened_dict({f"remedy.{field.replace('__', '.')}": v for field, v in changes.items()})
    return objects.remedy(config)


COUNTING = ("reweight", "resample", "ldam", "balanced_softmax", "logit_adjustment", "cdt", "vs", "robust_lt", "robal")
RULES = [name for name in remedies.NAMES if name != "none"]
SETTINGS = {"fixed": {"fixed__radius": ("1:1.5",)}}  # of rules that need some


@pytest.mark.parametrize("name", [name for name in COUNTING if name not in ("ldam", "robal")] + ["reweight+resample"])
def test_equal_counts_change_nothing(name):
    """The question that the kinds of counts answer: on balanced data, true counts are no remedy."""
    after, _ = create(name).init(EQUAL)
    # A prior that is the same for all classes leaves the softmax as it is.
    centred = after.replace(log_prior=after.log_prior - after.log_prior.mean())
    neutral = knobs.neutral(10, ("logit_scale",) if after.logit_scale is not None else ())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), centred, neutral)


def test_equal_counts_give_all_classes_the_margin_of_ldam():
    after, _ = create("ldam").init(EQUAL)
    np.testing.assert_allclose(after.margin, np.full(10, 0.5), rtol=1e-6)


@pytest.mark.parametrize(
    "name, counts_kind, observe, message",
    [
        ("reweight", "true", "training", "every class has 400 training images"),
        ("wat", "margin", "training", "does not use counts"),
        ("focal", "margin", "training", "does not use counts"),
        ("none", "margin", "validation", "does not use counts"),
        ("faal", "true", "validation", "does not use class statistics"),
        ("reweight", "margin", "validation", None),
        ("wat+ldam", "margin", "training", None),
        ("wat", "true", "validation", None),
        ("faal", "true", "training", None),
        ("none", "true", "training", None),
    ],
)
def test_settings_without_effect_are_named(name, counts_kind, observe, message):
    remedy = create(name, counts=counts_kind)
    found = remedies.without_effect(name, remedy, counts_kind, observe, np.full(10, 400))
    assert len(found) == bool(message) and all(message in line for line in found)


def test_true_counts_have_an_effect_where_they_are_not_equal():
    assert not remedies.without_effect("ldam", create("ldam"), "true", "training", np.array([400, 399]))


def test_each_rule_sets_its_knob_by_its_own_settings():
    """From a config to the knobs of long-tailed counts n, by hand."""
    n = np.asarray(FIFTIETH)
    size, log_prior = n / n.max(), np.log(n / n.sum())
    expected = {
        ("cdt", "cdt__tau", 0.3): {"logit_scale": size**0.3},
        ("vs", "vs__gamma", 0.4): {"logit_scale": size**0.4, "log_prior": log_prior},
        ("logit_adjustment", "logit_adjustment__tau", 2.0): {"log_prior": 2 * log_prior},
        ("ldam", "ldam__largest_margin", 0.3): {"margin": 0.3 * (n / n.min()) ** -0.25},
        ("reweight", "reweight__weighting", "inverse"): {"weight_robust": 10 / n / (1 / n).sum()},
        ("focal", "focal__gamma", 1.5): {"focusing": np.full(10, 1.5)},
    }
    for (name, field, value), values in expected.items():
        found, _ = create(name, **{field: value}).init(FIFTIETH)
        for knob, wanted in values.items():
            np.testing.assert_allclose(getattr(found, knob), wanted, rtol=1e-5, err_msg=name)


def draws(knobs):
    """Share of each class among the images drawn."""
    drawn = np.asarray(FIFTIETH * knobs.sampling)
    return drawn / drawn.sum()


def epochs_of(remedy, number, statistics):
    """Knobs before each of so many epochs."""
    knobs, state = remedy.init(FIFTIETH)
    found = [knobs]
    for _ in range(number - 1):
        knobs, state = remedy.update(statistics, state)
        found.append(knobs)
    return found


UNEVEN = {"count": FIFTIETH, "correct": FIFTIETH * jnp.linspace(0.9, 0.1, 10)}


def test_sampling_in_the_course_of_a_training():
    """Of 10 epochs: the classes as they are, then as they should be."""
    shares, even = np.asarray(FIFTIETH / FIFTIETH.sum()), np.full(10, 0.1)
    root = np.sqrt(shares) / np.sqrt(shares).sum()
    balanced = epochs_of(create("resample", resample__begin=0.8), 10, UNEVEN)
    for epoch, wanted in ((0, shares), (7, shares), (8, even), (9, even)):
        np.testing.assert_allclose(draws(balanced[epoch]), wanted, rtol=1e-5)
    np.testing.assert_allclose(
        draws(create("resample", resample__sampling="square_root").init(FIFTIETH)[0]), root, 1e-5
    )
    progressive = epochs_of(create("resample", resample__sampling="progressive"), 6, UNEVEN)
    for epoch in (0, 2, 5):
        wanted = (1 - epoch / 10) * shares + epoch / 10 * even
        np.testing.assert_allclose(draws(progressive[epoch]), wanted, rtol=1e-5)


def test_margins_are_of_the_head_that_the_config_names():
    """A cosine head multiplies cosines, and margins of cosines with them."""
    config = default()
    config.remedy.name, config.model.head, config.model.head_scale = "ldam", "cosine", 30.0
    knobs, _ = objects.remedy(config).init(FIFTIETH)
    np.testing.assert_allclose(knobs.margin.max(), 30 * 0.5, rtol=1e-6)


@pytest.mark.parametrize("name", ["cfol", "reat"])
def test_statistics_of_fewer_images_turn_knobs_as_far(name):
    """A validation split is a fraction of the training set: shares count, not its size."""
    confusion = jnp.full((10, 10), 4.0) + 60.0 * jnp.diag(jnp.linspace(1.0, 0.1, 10))
    count = confusion.sum(1)

    def seen(share):
        return {"count": share * count, "correct": share * jnp.diagonal(confusion), "confusion": share * confusion}

    large, small = (epochs_of(create(name, cfol__eta=1e-3), 8, seen(share))[-1] for share in (1.0, 1 / 16))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), large, small)
    knob = large.sampling if name == "cfol" else large.weight_robust
    assert knob.max() / knob.min() > 1.2


def test_no_weights_are_averaged_by_fairness_before_the_remedy_begins():
    config = default()
    config.remedy.name, config.train.epochs, config.remedy.begin = "cfa", 10, 0.5
    config.remedy.cfa.average, config.data.validation_per_class = True, 10
    remedy = objects.remedy(config)
    _, state = remedy.init(EQUAL)
    validation, decays = {"count": EQUAL, "correct": 0.5 * EQUAL}, []
    for _ in range(8):
        _, state = remedy.update(validation, state)
        decay, state = remedy.average(state, validation)
        decays.append(float(decay))
    # The raw weights until then and at first, from then on an average.
    np.testing.assert_allclose(decays, [0] * 5 + [0.85] * 3, atol=1e-6)


@pytest.mark.parametrize("name", COUNTING)
def test_only_ratios_of_counts_matter(name):
    """But for the effective number, whose point it is that they do not."""
    one, another = (create(name, reweight__weighting="inverse").init(n)[0] for n in (FIFTIETH, 3 * FIFTIETH))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, another)


def epoch(correct, count=None, **others):
    """Statistics of an epoch, with those that are not given at 0."""
    given = {"correct": correct, "count": np.full(len(correct), 100) if count is None else count} | others
    sums = class_statistics.zeros(class_statistics.NAMES, len(correct))
    return sums | {name: jnp.asarray(value, sums[name].dtype) for name, value in given.items()}


def test_counts_follow_robust_accuracy():
    """Two epochs by hand: half of the old counts, and half of the sum shared by accuracy."""
    after = counts.update("robust_accuracy", jnp.array([300.0, 300.0, 300.0]), epoch([60, 30, 10]), 0.5)
    np.testing.assert_allclose(after, [420.0, 285.0, 195.0], rtol=1e-6)
    after = counts.update("robust_accuracy", after, epoch([50, 25, 25]), 0.0)
    np.testing.assert_allclose(after, [450.0, 225.0, 225.0], rtol=1e-6)


def test_counts_of_classes_without_images_or_hits():
    before = jnp.array([100.0, 200.0, 300.0])
    after = counts.update("robust_accuracy", before, epoch([80, 0, 40], count=[100, 0, 100]), 0.0)
    np.testing.assert_allclose(after[1] / after.sum(), 200 / 600, rtol=1e-6)
    np.testing.assert_allclose(after[0] / after[2], 2.0, rtol=1e-6)
    nothing = counts.update("robust_accuracy", before, epoch([0, 0, 0]), 0.0)
    np.testing.assert_allclose(nothing, [200.0, 200.0, 200.0], rtol=1e-6)
    one_hopeless = counts.update("robust_accuracy", before, epoch([90, 90, 0]), 0.0)
    np.testing.assert_allclose(one_hopeless[2] / one_hopeless[0], counts.SMALLEST_SHARE, rtol=1e-5)
    assert counts.update("true", before, epoch([90, 90, 0]), 0.0) is before


def test_counts_by_predictions_and_by_margins():
    before = jnp.array([100.0, 100.0])
    confused = epoch([70, 40], confusion=[[70, 30], [60, 40]])
    np.testing.assert_allclose(counts.update("predicted", before, confused, 0.0), [130.0, 70.0], rtol=1e-6)
    # Mean margins 0.5 and -0.5: (1 + m) / 2 is 3/4 and 1/4.
    np.testing.assert_allclose(
        counts.update("margin", before, epoch([90, 40], margin=[50.0, -50.0]), 0.0), [150.0, 50.0], rtol=1e-6
    )


def test_the_hard_class_gets_the_help():
    remedy = create(
        "reweight+resample+ldam+logit_adjustment+robust_lt",
        counts="robust_accuracy",
        counts_decay=0.0,
        reweight__weighting="inverse",
    )
    _, state = remedy.init(EQUAL[:3])
    after, _ = jax.jit(remedy.update)(epoch([80, 40, 20]), state)
    for knob in ("weight_robust", "sampling", "margin", "radius_scale"):
        assert np.all(np.diff(getattr(after, knob)) > 0), knob
    np.testing.assert_allclose(after.weight_robust / after.weight_robust[0], [1.0, 2.0, 4.0], rtol=1e-5)
    np.testing.assert_allclose(after.log_prior, np.log([4 / 7, 2 / 7, 1 / 7]), rtol=1e-5)


@pytest.mark.parametrize("deferral", [{"begin": 0.8}, {"reweight__begin": 0.8}])
def test_deferred(deferral):
    """Neutral until the epoch has come, whatever is observed meanwhile (deferred re-weighting, Cao et al. 2019)."""
    remedy = create("reweight", epochs=10, **deferral)
    at, state = remedy.init(FIFTIETH)
    weights = [at.weight_robust]
    for _ in range(10):
        at, state = remedy.update(epoch(np.full(10, 50)), state)
        weights.append(at.weight_robust)
    assert all((w == 1).all() for w in weights[:8])
    assert all((w != 1).any() for w in weights[8:])


@pytest.mark.parametrize("name", ["wat", "frl", "cfol"])
def test_what_is_seen_before_a_remedy_begins_does_not_add_up(name):
    """It begins with what the last epoch showed, like one that is there from the first."""
    seen = epoch([80, 40, 20], natural_correct=[95, 70, 60], loss=[30.0, 90.0, 120.0])

    def after(observations, begin):
        remedy = create(name, objective="trades", begin=begin, frl__natural_tolerance=0.01, cfol__eta=0.01)
        state = remedy.init(jnp.array([300, 200, 100]))
        for _ in range(observations):
            state = remedy.update(seen, state[1])
        return state[0]

    jax.tree.map(np.testing.assert_array_equal, after(4, begin=0.4), after(1, begin=0.0))
    moved = jax.tree.map(np.array_equal, after(4, begin=0.4), after(5, begin=0.4))
    assert not all(jax.tree.leaves(moved))


def test_none_starts_neutral_and_never_moves():
    remedy = create("none")
    start, state = remedy.init(np.array([5, 50, 500]))
    jax.tree.map(np.testing.assert_array_equal, start, knobs.neutral(3))
    after, state = remedy.update(epoch([3, 2, 1]), state)
    jax.tree.map(np.testing.assert_array_equal, after, start)
    assert state == {}


def test_neutral_values():
    neutral = knobs.neutral(4)
    for name in ("weight_natural", "weight_robust", "radius_scale", "beta_scale", "sampling"):
        np.testing.assert_array_equal(getattr(neutral, name), np.ones(4))
    for name in ("margin", "log_prior"):
        np.testing.assert_array_equal(getattr(neutral, name), np.zeros(4))
    assert all(getattr(neutral, name) is None for name in knobs.OPTIONAL)


@pytest.mark.parametrize(
    "names, message",
    [
        ("magic", "'magic' is unknown"),
        ("none+ldam", "only none"),
        ("", "'' is unknown"),
        ("balanced_softmax+logit_adjustment", "both set log_prior"),
        ("('ldam', 'ldam')", "names a remedy twice"),
        ("('cfa', 'dafa')", "cfa and dafa both set radius_scale"),
    ],
)
def test_names_that_cannot_act(names, message):
    with pytest.raises(FieldError, match=message):
        create(names)


@pytest.mark.parametrize("name", RULES)
def test_every_remedy_keeps_the_shapes_of_its_state(name):
    """What a checkpoint before the first epoch holds is what one after it holds; numbers stay finite."""
    remedy = create(name, objective="trades", begin=0.2, **SETTINGS.get(name, {}))
    hits = [80, 40, 20]
    matrix = np.array([[80, 15, 5], [30, 40, 30], [20, 60, 20]])
    seen = epoch(
        hits,
        natural_correct=[95, 70, 60],
        loss=[30.0, 90.0, 120.0],
        margin=[50.0, -10.0, -40.0],
        confusion=matrix,
        shrunk_confusion=matrix,
        probability=matrix,
        steps_withstood=[900, 500, 300],
    )
    state = remedy.init(jnp.array([300, 200, 100]))
    for _ in range(4):
        after = jax.jit(remedy.update)(seen, state[1])
        assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
        state = after
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def config_of(name):
    config = tiny_config.get_config()
    config.model.name, config.model.hidden = "mlp", (16,)
    config.remedy.name, config.remedy.counts, config.remedy.begin = name, "margin", 0.34
    config.remedy.cfa.average, config.remedy.cfa.average_threshold = "cfa" in name, 0.0
    config.remedy.observe = "validation" if "frl" in name else "training"
    config.model.head = "cosine" if "robal" in name else "linear"
    config.remedy.dafa.begin = 0.34
    config.remedy.fixed.radius = ("1:1.5",)
    config.train.epochs, config.eval.every_epochs = 3, 0
    return config


# Every remedy, in as few trainings as their knobs allow; a new one has its own until it is entered here.
TOGETHER = (
    "reweight+resample+ldam+logit_adjustment+robust_lt",
    "cfa+wat+cdt+focal+faal",
    "frl+cfol+vs",
    "fair_ard+fair_tat",
    "dafa+balanced_softmax",
    "spectral+robal",
    "reat+fixed",
)
TOGETHER += tuple(name for name in RULES if name not in "+".join(TOGETHER).split("+"))

# One that averages weights, and one that observes the validation split.
FAST = ("cfa+wat+cdt+focal+faal", "frl+cfol+vs")


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in TOGETHER]
)
def test_a_training_with_remedies_resumes_where_it_was(name, tmp_path, monkeypatch):
    """Interrupted in the middle of the second epoch, it ends with the same bits; and the knobs have moved by then."""

    def final_state(workdir):
        mesh = parallel.make_mesh()
        like = training_setup.create(config_of(name), objects.dataset(config_of(name)), mesh, 54).abstract_state()
        return jax.device_get(checkpoints.Checkpoints(workdir, read_only=True).restore(54, like))

    loop.train_and_evaluate(config_of(name), tmp_path / "whole")
    scalars = tensorboard.Writer.scalars

    def scalars_and_signal(self, step, values):
        scalars(self, step, values)
        if step == 20:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(tensorboard.Writer, "scalars", scalars_and_signal)
        loop.train_and_evaluate(config_of(name), tmp_path / "parts")
    loop.train_and_evaluate(config_of(name), tmp_path / "parts")

    whole = final_state(tmp_path / "whole")
    jax.tree.map(np.testing.assert_array_equal, whole, final_state(tmp_path / "parts"))
    moved = [name for name, knob in vars(whole.knobs).items() if knob is not None and np.ptp(knob) > 0]
    assert moved and whole.memory["epoch"] == 3
