"""Knobs set by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.errors import FieldError
from jaxrobust.remedies.fixed import fixed
from jaxrobust.remedies.rule import Run

RUN = Run(num_epochs=10, first_epoch=0, knobs=("weight_natural", "weight_robust", "radius_scale"), beta=6.0)
COUNTS = jnp.array([10.0, 20.0, 30.0])


def test_named_classes_have_their_factor_and_others_one():
    rule = fixed(RUN, radius=("2:1.5", "0:0"), weight=("1:2",))
    assert set(rule.knobs) == {"radius_scale", "weight_natural", "weight_robust"}
    values = rule.knob_values({}, COUNTS, 0.5)
    np.testing.assert_allclose(values["radius_scale"], [0.0, 1.0, 1.5])
    for knob in RUN.weights:
        np.testing.assert_allclose(values[knob], [1.0, 2.0, 1.0])


def test_what_is_not_named_is_left_to_others():
    rule = fixed(RUN, radius=("2:1.5",), weight=())
    assert rule.knobs == ("radius_scale",) and set(rule.knob_values({}, COUNTS, 0.0)) == {"radius_scale"}


@pytest.mark.parametrize("entry", ["cat:2", "1", "1:", ":2", "1:-1", "-1:2", "1:inf", "1:nan"])
def test_what_is_no_pair_is_named(entry):
    with pytest.raises(FieldError, match=r"remedy\.fixed\.weight"):
        fixed(RUN, radius=(), weight=(entry,))


def test_a_label_given_twice_is_named():
    with pytest.raises(FieldError, match=r"remedy\.fixed\.weight = .*gives label 1 twice"):
        fixed(RUN, radius=(), weight=("1:0", "1:2"))


def test_labels_beyond_the_classes_are_named():
    with pytest.raises(FieldError, match="there are 3 classes"):
        fixed(RUN, radius=("3:2",), weight=()).knob_values({}, COUNTS, 0.0)


def test_without_entries_it_would_do_nothing_and_says_so():
    with pytest.raises(FieldError, match=r"remedy\.name = 'fixed': sets nothing; give remedy\.fixed\.radius"):
        fixed(RUN, radius=(), weight=())
