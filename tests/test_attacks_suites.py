import pytest

from jaxrobust.attacks import losses, suites
from jaxrobust.errors import FieldError


def test_names_say_what_is_done():
    assert suites.parse("clean").steps == 0
    fgsm = suites.parse("fgsm")
    assert (fgsm.steps, fgsm.random_start, fgsm.step_size(0.1, 0.02)) == (1, False, 0.1)
    pgd = suites.parse("pgd50x10")
    assert (pgd.loss, pgd.steps, pgd.restarts, pgd.random_start) == ("cross_entropy", 50, 10, True)
    assert pgd.step_size(0.1, 0.02) == 0.02
    assert suites.parse("cw30").build("l2")[1] is losses.margin


@pytest.mark.parametrize("name", ["", "pgd", "pgd0", "pgd10x0", "PGD20", "pgd-20", "autoattack"])
def test_unknown_names_are_refused(name):
    with pytest.raises(FieldError, match=r"eval\.attacks"):
        suites.parse(name)
