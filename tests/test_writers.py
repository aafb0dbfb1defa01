import time

import numpy as np
import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from jaxrobust.runs import results
from jaxrobust.runs.tensorboard import Writer


def test_scalars_of_a_result_are_on_disk_before_the_writer_is_closed(tmp_path):
    """A run may be killed the moment after; its lines in results.jsonl are not written again."""
    labels, clean, attacked = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), np.array([0, 1, 1, 0])
    record = results.make_record(
        step=7,
        epoch=1,
        weights="averaged",
        split="test",
        attack="pgd20",
        class_names=("cat", "dog", "nobody"),
        labels=labels,
        prediction=attacked,
        clean_prediction=clean,
        passes=1.0,
        idle=0.0,
        seconds=0.0,
    )
    with Writer(tmp_path) as writer:
        writer.evaluation(record)
        events = EventAccumulator(str(tmp_path / "tensorboard" / "averaged")).Reload()
        tags = set(events.Tags()["tensors"])
        names = ["accuracy", "balanced_accuracy", "worst_class_accuracy", "gap", "std", "cv", "nsd", "bottom_k_mean"]
        figures = {tag.rpartition("/")[2] for tag in tags if tag.count("/") == 2}
        assert figures >= set(names), "tags that users have on their dashboards"
        for tag, value in (("class_accuracy/0_cat", 0.5), ("boundary_error/0_cat", 0.5), ("boundary_error/1_dog", 0.0)):
            (event,) = events.Tensors(f"test/pgd20/{tag}")
            assert event.step == 7 and make_ndarray(event.tensor_proto) == pytest.approx(value)
        assert "test/pgd20/class_accuracy/2_nobody" not in tags, "a class without examples has no accuracy"


def test_what_comes_again_after_a_fallback_takes_the_place_of_what_was(tmp_path):
    """In TensorBoard, of every tag of later steps."""
    for first, value in ((1, 0.25), (3, 0.5)):
        with Writer(tmp_path) as writer:
            writer.continue_after(first - 1)
            for step in range(first, 6):
                writer.scalars(step, {"train/loss": value})
        time.sleep(1)  # files are named by the second, and read in that order
    # That of the program; the other one never forgets a tensor, as which clu writes scalars.
    folder = str(tmp_path / "tensorboard" / "raw")
    events = plugin_event_accumulator.EventAccumulator(folder).Reload().Tensors("train/loss")
    assert [(event.step, float(make_ndarray(event.tensor_proto))) for event in events] == [
        *((step, 0.25) for step in (1, 2)),
        *((step, 0.5) for step in (3, 4, 5)),
    ]
