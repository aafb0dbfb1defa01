import pytest

from jaxrobust.attacks import losses, suites, threats
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
    towards = only("pgd_t50x2").build("linf", 5)
    assert (towards.loss, towards.targets, towards.runs) == (losses.targeted_cross_entropy, 4, 8)
    assert only("apgd_cex5").build("linf", 10).runs == 5 and only("square1000").build("l2", 10).iterations == 1000


def test_a_suite_reports_each_member_and_itself():
    assert list(suites.parse("pgd20").stages) == ["pgd20"]
    assert list(suites.parse("fast").stages) == ["fast/pgd20", "fast/cw20"]
    assert list(suites.parse("fgsm+cw5x2").stages) == ["fgsm+cw5x2/fgsm", "fgsm+cw5x2/cw5x2"]


@pytest.mark.parametrize("norm", threats.NAMES)
def test_the_standard_suite_is_the_published_protocol(norm):
    """Steps, restarts and targets of AutoAttack's standard version; with three classes there are two targets."""
    members = {member.name: member.build(norm, 10) for member in suites.parse("standard", norm).members}
    ce = "apgd_cex5" if norm == "l1" else "apgd_ce"
    assert list(members) == [ce, "apgd_t", "fab_t", "square"]
    runs = {name: attack.runs for name, attack in members.items()}
    l1 = norm == "l1"
    assert runs == {ce: 5 if l1 else 1, "apgd_t": 5 if l1 else 9, "fab_t": 9, "square": 1}
    more = 2 if l1 else 0  # evaluations at the changes of the ball
    iterations = [attack.iterations for attack in members.values()]
    assert iterations == [100 + more, 100 + more, 100, 5000]
    assert [m.build(norm, 3).runs for m in suites.parse("apgd_t+fab_t", norm).members] == [2, 2]


def test_results_can_say_which_loss_is_climbed():
    (member,) = suites.parse("apgd_t").members
    assert [member.loss(classes) for classes in (2, 10)] == ["targeted margin", "targeted dlr"]
    assert only("fab").loss(10) is None and only("square").loss(10) == "margin"


def test_the_longer_suite_has_all_of_the_standard_one():
    assert {m.kind for m in suites.parse("standard").members} < {m.kind for m in suites.parse("plus").members}


def test_what_a_norm_has_no_form_of_is_refused():
    for name in ("spsa", "apgd_ce4"):
        assert suites.parse(name, "l2").members
        with pytest.raises(FieldError, match="L1"):
            suites.parse(name, "l1")


@pytest.mark.parametrize(
    "name",
    ["", "pgd", "pgd0", "pgd10x0", "PGD20", "pgd-20", "autoattack", "pgd20+", "pgd20+clean", "fgsm+fgsm", "fab+fab100"],
)
def test_unknown_names_are_refused(name):
    with pytest.raises(FieldError, match=r"eval\.attacks"):
        suites.parse(name)


def test_the_costliest_member_is_that_of_most_iterations():
    assert suites.costliest(("clean", "fgsm+pgd5x10", "cw20")).name == "pgd5x10"
    assert suites.costliest(("standard",)).kind == "square"
    assert suites.costliest(("clean",)) is None


def test_passes_of_an_example_that_withstands_everything():
    passes = {spec.name: spec.passes("linf", 10) for spec in suites.parse("standard").members}
    # A gradient is two passes, one to start Auto-PGD with and one a step; Square asks once a query.
    assert passes["apgd_ce"] == 2 + 100 * 2 and passes["square"] == 1 + 5000
    assert only("pgd20x10").passes("linf", 10) == 10 * only("pgd20").passes("linf", 10)
    assert only("fab_t").passes("linf", 3) == pytest.approx(passes["fab_t"] * 2 / 9)
