import pytest

from jaxrobust.attacks import losses, suites
from jaxrobust.errors import FieldError


def only(name):
    (member,) = suites.parse(name).members
    return member


def test_names_say_what_is_done():
    assert suites.parse("clean").members == ()
    fgsm = only("fgsm").build("linf", 10)
    assert (fgsm.iterations, fgsm.runs, fgsm.random_start, fgsm.relative_step) == (1, 1, False, 1.0)
    pgd = only("pgd50x10").build("linf", 10, relative_step=0.1)
    assert pgd.loss is losses.cross_entropy
    assert (pgd.iterations, pgd.runs, pgd.random_start, pgd.relative_step) == (50, 10, True, 0.1)
    assert only("cw30").build("l2", 10).loss is losses.margin


def test_a_suite_reports_each_member_and_itself():
    assert list(suites.parse("pgd20").stages) == ["pgd20"]
    assert list(suites.parse("fast").stages) == ["fast/pgd20", "fast/cw20"]
    assert list(suites.parse("fgsm+cw5x2").stages) == ["fgsm+cw5x2/fgsm", "fgsm+cw5x2/cw5x2"]


@pytest.mark.parametrize(
    "name", ["", "pgd", "pgd0", "pgd10x0", "PGD20", "pgd-20", "autoattack", "pgd20+", "pgd20+clean", "fgsm+fgsm"]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(FieldError, match=r"eval\.attacks"):
        suites.parse(name)


def test_the_costliest_member_is_that_of_most_iterations():
    assert suites.costliest(("clean", "fgsm+pgd5x10", "cw20")).name == "pgd5x10"
    assert suites.costliest(("clean",)) is None
