"""Tables of one model and of two: numbers by hand, displays, errors that name the argument, and light imports."""

import doctest
import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from jaxrobust import classwise
from jaxrobust.classwise import classwise_table, score, table
from jaxrobust.comparison import compare as comparison
from jaxrobust.comparison.compare import compare
from jaxrobust.errors import FieldError

# Of 20 cats A keeps 5 and B the same; of 20 dogs A keeps 5 and B all; no image of the third class.
LABELS = np.repeat([0, 1], 20)
ROBUST_A = np.tile(np.arange(20), 2) < 5
ROBUST_B = ROBUST_A | (LABELS == 1)
NAMES = ("cat", "[b]<dog>", "nobody")


def test_table_by_hand():
    found = classwise_table(LABELS, ROBUST_B, NAMES)
    assert (found.accuracy, found.balanced_accuracy, found.gap) == (0.625, 0.625, 0.75)
    assert (found.worst_name, found.best_name) == NAMES[:2] and found.worst.candidates == (0,)
    cat, dog, nobody = found.rows()
    assert (cat["images"], cat["correct"], cat["accuracy"], cat["may_be_worst"]) == (20, 5, 0.25, True)
    assert (dog["accuracy"], dog["may_be_worst"]) == (1.0, False)
    assert (nobody["images"], nobody["accuracy"], nobody["low"], nobody["high"]) == (0, None, 0, 1)
    low, high = classwise.wilson_interval([5], [20])
    assert (cat["low"], cat["high"]) == (low[0], high[0])
    assert found.worst.high > high[0], "the interval of the worst class accounts for its selection"


def test_table_takes_what_an_attack_returns_and_any_confidence():
    verdicts = SimpleNamespace(is_robust=ROBUST_A)
    found, wide = (classwise_table(LABELS.astype(np.uint8), verdicts, confidence=level) for level in (0.95, 0.99))
    assert found.class_names == ("0", "1") and found.accuracy == 0.25
    for narrow, wider in (
        (found.class_interval[0], wide.class_interval[0]),
        ((found.worst.low, found.worst.high), (wide.worst.low, wide.worst.high)),
    ):
        assert wider[0] < narrow[0] and narrow[1] < wider[1]


def test_comparison_by_hand():
    found = compare(LABELS, ROBUST_A, SimpleNamespace(is_robust=ROBUST_B), NAMES)
    np.testing.assert_array_equal(found.difference, [0, 0.75, np.nan])
    np.testing.assert_allclose(found.p_value, [1, 2**-14, np.nan])
    np.testing.assert_allclose(found.p_holm, [1, 2**-12, np.nan])
    assert found.is_significant.tolist() == [False, True, False]
    assert found.average.difference.tolist() == [0.375] and found.average.is_significant.all()
    assert found.worst.difference == 0 and not found.worst.is_significant
    assert (found.a.accuracy, found.b.accuracy) == (0.25, 0.625)
    back = compare(LABELS, ROBUST_B, ROBUST_A, NAMES)
    np.testing.assert_allclose(back.interval, -found.interval[:, ::-1], atol=1e-12)


@pytest.fixture(params=["one", "two"])
def shown(request):
    one = request.param == "one"
    return classwise_table(LABELS, ROBUST_B, NAMES) if one else compare(LABELS, ROBUST_A, ROBUST_B, NAMES)


def test_a_table_shows_itself(shown):
    text, page = str(shown), shown._repr_html_()
    assert repr(shown) == text and "[b]<dog>" in text
    rows = 7 if "gap without chance" in text else 6
    assert "[b]&lt;dog&gt;" in page and page.count("<tr>") == rows
    console = Console(width=160, file=io.StringIO())
    console.print(shown)
    for number in ("100.0", "worst class (", "average", "95 %"):
        assert number in text and number in console.file.getvalue() and number in page
    order = [text.index(name) for name in NAMES]
    assert order == sorted(order), "the lowest first, without images last"


def test_a_table_of_many_classes_is_short():
    labels = np.repeat(np.arange(100), 10)
    found = classwise_table(labels, np.tile(np.arange(10), 100) < labels // 10)
    assert len(str(found).splitlines()) < 30 and "... 80 classes between" in str(found)
    assert len(found.rows()) == 100


def test_pandas(shown):
    pandas = pytest.importorskip("pandas")
    frame = shown.to_pandas()
    assert isinstance(frame, pandas.DataFrame) and tuple(frame.index) == NAMES and len(frame) == 3
    for name in frame:
        expected = [np.nan if row[name] is None else row[name] for row in shown.rows()]
        np.testing.assert_array_equal(frame[name].to_numpy(float), np.array(expected, float))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"labels": LABELS[:, None]}, r"labels = 'int64 \[40, 1\]': is not one class per image"),
        ({"labels": LABELS.astype(float)}, r"labels = 'float64 \[40\]'"),
        ({"labels": LABELS - 1}, r"labels\[0\] = -1: is not in \[0, 3\)"),
        ({"labels": LABELS * 3}, r"labels\[20\] = 3: is not in \[0, 3\)"),
        ({"verdicts": ROBUST_A[1:]}, r"verdicts = 'bool \[39\]': is not bool \[40\]"),
        ({"verdicts": LABELS}, r"verdicts = 'int64 \[40\]': is not bool"),
        ({"labels": LABELS[:0], "verdicts": ROBUST_A[:0], "class_names": None}, "labels = .*pass class_names"),
        ({"confidence": 95}, "confidence = 95"),
    ],
)
def test_wrong_arguments_are_named(changes, message):
    given = {"labels": LABELS, "verdicts": ROBUST_A, "class_names": NAMES} | changes
    with pytest.raises(FieldError, match=message):
        classwise_table(**given)
    verdicts = given.pop("verdicts")
    with pytest.raises(FieldError, match=message.replace("verdicts", "verdicts_b")):
        compare(verdicts_a=np.zeros(np.shape(given["labels"]), bool), verdicts_b=verdicts, **given)


@pytest.mark.parametrize("module", [score, table, comparison])
def test_examples_in_docstrings(module):
    assert doctest.testmod(module).failed == 0


def test_imports_are_light():
    program = (
        "import sys, jaxrobust.comparison.compare, jaxrobust.classwise.curve, jaxrobust.classwise.seeds\n"
        "print({'scipy', 'pandas', 'rich', 'jax', 'matplotlib'} & {name.split('.')[0] for name in sys.modules})"
    )
    outcome = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert outcome.stdout.strip() == "set()"
