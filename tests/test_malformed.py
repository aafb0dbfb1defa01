"""No file of a run is used that is not what it should be: one line says which, what is wrong, and what to do."""

import json

import malformed_files as malformed
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from malformed_files import EXAMPLES, READERS, RESULTS, TRAINING, said

from jaxrobust.runs import results

JSON_FILES = [name for name in READERS if name != EXAMPLES]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("malformed")
    malformed.write(folder / "other")
    return malformed.write(folder / "run")


def refused(name: str, run, by=None) -> None:
    for reader, read in (by or READERS[name]).items():
        error = said(read, run)
        assert error != "read", f"{reader} takes it"
        assert name in error and ";" in error and error.isprintable() and len(error) < 700, f"{reader}: {error}"


def test_the_run_is_one(run):
    assert {said(read, run) for readers in READERS.values() for read in readers.values()} == {"read"}


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize("content", malformed.CONTENTS)
def test_what_is_no_such_file_is_refused(name, content, run):
    with malformed.replaced(run / name) as path:
        path.write_bytes(malformed.content_of(name, malformed.CONTENTS[content]))
        refused(name, run)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("thing", malformed.THINGS)
def test_what_is_no_file_is_refused(name, thing, run):
    with malformed.replaced(run / name) as path:
        malformed.THINGS[thing](path)
        refused(name, run)


@pytest.mark.parametrize("name", JSON_FILES)
def test_what_holds_something_else_is_refused_or_harmless(name, run):
    """Each key in turn is left out, or holds something else; what is taken leads nowhere to another exception."""
    before = (run / name).read_text().splitlines() if name.endswith("l") else [(run / name).read_text()]
    first, *others = READERS[name].values()
    number, taken = 0, 0
    with malformed.replaced(run / name) as path:
        few = {"values": (None, "x", -1, [[]], {}), "inner": 3} if name == "config.json" else {}
        for what, document in malformed.changed(json.loads(before[-1]), **few):
            lines = [*before[:-1], json.dumps(document)]
            path.write_text("".join(line + "\n" for line in lines))
            error = said(first, run)
            number, taken = number + 1, taken + (error == "read")
            assert error == "read" or (name in error and ";" in error), what
            for read in others if error == "read" else ():
                said(read, run)
    assert number > 15 and taken < number / 2


def line_of(run, attack="pgd20"):
    lines = results.read(run)
    return lines, next(at for at, line in enumerate(lines) if line["attack"] == attack)


@pytest.mark.parametrize(
    "change",
    [
        {"correct": [21, 5, 8]},
        {"correct": [11, 5, 8]},
        {"correct": [10, 5]},
        {"correct": [10.0, 5, 8]},
        {"correct": [10, 5, None]},
        {"count": [20, 20, 21]},
        {"count": [20, -20, 20]},
        {"count": [10**400, 20, 20]},
        {"examples": 61},
        {"classes": ["cat", "dog"]},
        {"classes": ["cat", "dog", "deer", "ox"]},
        {"confusion": [[20, 0, 0], [0, 20, 0], [0, 0, 20]]},
        {"confusion": [[10, 11, 0], [0, 5, 15], [12, 0, 8]]},
        {"confusion": [[10, 10], [0, 5], [12, 8]]},
        {"confusion": [[10, 10, 0], [0, 5, 15]]},
        {"accuracy": 0.9},
        {"worst_class_accuracy": 0.9},
        {"balanced_accuracy": None},
        {"class_accuracy": [0.5]},
        {"boundary_error": [0.5]},
        {"weights": "best"},
        {"split": "train"},
        {"members": []},
        {"eps": -1},
        {"epoch": 9},
    ],
    ids=str,
)
def test_counts_that_contradict_each_other_are_refused(change, run):
    lines, at = line_of(run)
    assert lines[at]["correct"] == [10, 5, 8] and lines[at]["count"] == [20, 20, 20]
    lines[at] = lines[at] | change
    with malformed.replaced(run / RESULTS) as path:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        readers = READERS[RESULTS]
        # That reads its own checkpoint alone.
        refused(RESULTS, run, {name: read for name, read in readers.items() if name != "evaluate"})


def test_a_result_that_is_there_twice_is_refused(run):
    with malformed.replaced(run / RESULTS) as path:
        path.write_text(path.read_text() * 2)
        refused(RESULTS, run)


def test_results_of_two_runs_in_one_file_are_refused(run):
    with malformed.replaced(run / RESULTS) as path:
        other = path.read_text().replace('"dog"', '"wolf"').replace('"step": 100', '"step": 200')
        path.write_text(path.read_text() + other)
        refused(RESULTS, run, malformed._RUN)


@pytest.mark.parametrize("change", [{"train_class_accuracy": [0.5] * 2}, {"knobs": {"margin": [0.0] * 7}}], ids=str)
def test_lines_of_a_training_on_other_classes_are_refused(change, run):
    with malformed.replaced(run / TRAINING) as path:
        path.write_text(json.dumps(json.loads(path.read_text()) | change) + "\n")
        refused(TRAINING, run, malformed._RUN)


FLIPPED = {
    "another length": lambda arrays: {name: array[:-1] for name, array in arrays.items()},
    "one of another length": lambda arrays: {"pgd20": arrays["pgd20"][:-1]},
    "flags turned": lambda arrays: {"pgd20": ~arrays["pgd20"]},
    "a flag turned with its prediction": lambda arrays: {
        "pgd20": np.append(~arrays["pgd20"][:1], arrays["pgd20"][1:]),
        "pgd20_prediction": np.append(
            (arrays["labels"][:1] + ~arrays["pgd20"][:1]) % 3, arrays["pgd20_prediction"][1:]
        ),
    },
    "labels shuffled": lambda arrays: {"labels": arrays["labels"][::-1]},
    "labels of more classes": lambda arrays: {"labels": arrays["labels"] + 3},
    "a label below 0": lambda arrays: {"labels": arrays["labels"] - 1},
    "predictions of more classes": lambda arrays: {"pgd20_prediction": arrays["pgd20_prediction"] + 3},
    "flags as numbers": lambda arrays: {"pgd20": arrays["pgd20"] * 1.0},
    "labels as NaN": lambda arrays: {"labels": arrays["labels"] * np.nan},
    "a scalar": lambda arrays: {"labels": np.int64(1)},
    "an index twice": lambda arrays: {"index": np.zeros(60, int)},
}


@pytest.mark.parametrize("change", FLIPPED)
def test_examples_that_contradict_each_other_or_the_results_are_refused(change, run):
    with malformed.replaced(run / EXAMPLES) as path:
        arrays = results.read_arrays(path)
        with open(path, "wb") as file:
            np.savez(file, **arrays | FLIPPED[change](arrays))
        refused(EXAMPLES, run)


def test_labels_that_are_missing_are_said_to_be(run):
    with malformed.replaced(run / EXAMPLES) as path:
        arrays = results.read_arrays(path)
        del arrays["labels"]
        with open(path, "wb") as file:
            np.savez(file, **arrays)
        refused(EXAMPLES, run)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize("name", JSON_FILES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(content=st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_a_file_holds_its_readers_say_so(name, content, run):
    with malformed.replaced(run / name) as path:
        path.write_bytes(malformed.content_of(name, content))
        for read in READERS[name].values():
            said(read, run)


@pytest.mark.parametrize("name", JSON_FILES)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_whatever_a_place_in_a_file_holds_its_readers_say_so(name, data, run):
    """At any depth."""
    *before, last = (run / name).read_text().splitlines() if name.endswith("l") else [(run / name).read_text()]
    document = holder = json.loads(last)
    while True:
        key = data.draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
        if not isinstance(holder[key], dict | list) or not holder[key] or data.draw(st.booleans()):
            break
        holder = holder[key]
    holder[key] = data.draw(json_values)
    with malformed.replaced(run / name) as path:
        path.write_text("".join(line + "\n" for line in [*before, json.dumps(document)]))
        for read in READERS[name].values():
            said(read, run)
