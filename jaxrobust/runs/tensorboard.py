"""TensorBoard, through clu metric writers.

Raw and averaged weights are two runs side by side in TensorBoard, `tensorboard/raw` and `tensorboard/averaged`, with
the same tags.
"""

import os
import pathlib
import socket
import time

import numpy as np

from jaxrobust import console, figures, files
from jaxrobust.classwise import METRICS
from jaxrobust.data.augment import to_float
from jaxrobust.distributed import parallel
from jaxrobust.figures.classes import class_bars
from jaxrobust.figures.images import adversarial_images
from jaxrobust.figures.matrix import confusion_matrix

# Of a line of training.jsonl, where there is a check for catastrophic overfitting.
CHECKS = ("single_step_check_accuracy", "pgd_check_accuracy")


def _open(folder):
    """A clu writer; None, with a warning, if clu or TensorFlow is not installed. Nothing else needs them."""
    try:
        # Imported here because it imports TensorFlow, which takes seconds and may not be installed.
        from clu import metric_writers
    except ImportError as error:
        console.warn(f"no TensorBoard files: {error}")
        return None
    return metric_writers.SummaryWriter(str(folder))


class Writer:
    """Writes scalars, figures and texts of a run. Use as a context. Does nothing on processes that do not write."""

    def __init__(self, workdir):
        self._folder = pathlib.Path(workdir) / "tensorboard"
        self._writers = {}
        self._enabled = parallel.is_writer()

    def _writer(self, weights: str):
        if self._enabled and weights not in self._writers:
            self._writers[weights] = _open(self._folder / weights)
            self._enabled = self._writers[weights] is not None
        return self._writers.get(weights)

    def start(self, fields: dict, params) -> None:
        """The run's hyper-parameters (flat) and an overview of its parameters."""
        if writer := self._writer("raw"):
            from clu import parameter_overview

            plain = {
                name: value if isinstance(value, int | float | str) else str(value) for name, value in fields.items()
            }
            writer.write_hparams(plain)
            writer.write_texts(0, {"parameters": f"```\n{parameter_overview.get_parameter_overview(params)}\n```"})

    def continue_after(self, step: int) -> None:
        """Let TensorBoard forget what was written of later steps, which come again."""
        for folder in self._folder.glob("*") if self._enabled else ():
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.summary.writer.record_writer import RecordWriter

            restart = Event(step=step + 1, session_log=SessionLog(status=SessionLog.START), wall_time=time.time())
            # Read after the files before and, as the beginning of its name, before the one to come.
            path = folder / f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
            with files.writing(path), open(path, "wb") as file:
                # The first of a folder's is taken for its beginning.
                for event in (Event(file_version="brain.Event:2", wall_time=time.time()), restart, restart):
                    RecordWriter(file).write(event.SerializeToString())

    def scalars(self, step: int, scalars: dict) -> None:
        """Scalars of the training."""
        if writer := self._writer("raw"):
            writer.write_scalars(step, scalars)

    def training(self, record: dict, class_names) -> None:
        """An epoch's line of training.jsonl."""
        by_class = {
            f"train/class_accuracy/{c}_{name}": accuracy
            for c, (name, accuracy) in enumerate(zip(class_names, record["train_class_accuracy"], strict=True))
            if accuracy is not None
        }
        knobs = {
            f"train/{knob}/{c}_{name}": value
            for knob, values in record.get("knobs", {}).items()
            for c, (name, value) in enumerate(zip(class_names, values, strict=True))
        }
        self.scalars(
            record["step"],
            {
                "train/epoch": record["epoch"],
                "train/accuracy": record["accuracy"],
                "train/images_per_second": record["images_per_second"],
                **{f"train/{name}": record[name] for name in CHECKS if name in record},
                **by_class,
                **knobs,
            },
        )

    def evaluation(self, record: dict) -> None:
        """A line of results.jsonl. The clu writer has flushed when this returns; a test keeps that so."""
        if writer := self._writer(record["weights"]):
            prefix = f"{record['split']}/{record['attack']}"
            values = {f"{prefix}/{metric.name}": record[metric.name] for metric in METRICS if metric.is_scalar}
            for c, name in enumerate(record["classes"]):
                values[f"{prefix}/class_accuracy/{c}_{name}"] = record["class_accuracy"][c]
                if record["boundary_error"]:
                    values[f"{prefix}/boundary_error/{c}_{name}"] = record["boundary_error"][c]
            writer.write_scalars(record["step"], {tag: value for tag, value in values.items() if value is not None})

    def figures(self, records: list[dict], predictions: dict, images, labels, adversarial) -> None:
        """Figures of one (step, weights, split). Only for the test split, to avoid nearly identical figures.

        Args:
            records: one per attack, the clean one first.
            predictions: attack -> [N].
            labels: [N].
            images: [N, H, W, C] of the split.
            adversarial: [n, H, W, C] of the first n images under the last attack, or None.
        """
        if records[0]["split"] != "test" or not (writer := self._writer(records[0]["weights"])):
            return
        classes = records[0]["classes"]
        bars = {
            record["attack"]: (record["class_accuracy"], *zip(*record["class_interval"], strict=True))
            for record in records
        }
        drawn = {"test/classes": class_bars(classes, bars, "accuracy by class")}
        for record in (records[0], records[-1]):
            if "confusion" in record:
                title = f"confusion, {record['attack']}"
                drawn[f"test/{record['attack']}/confusion"] = confusion_matrix(
                    record["confusion"], classes, title, record["count"]
                )
        attack = records[-1]["attack"]
        if adversarial is not None and attack != "clean":
            n = len(adversarial)
            clean = to_float(np.asarray(images[:n]))
            drawn[f"test/{attack}/examples"] = adversarial_images(
                clean, adversarial, labels[:n], predictions[attack][:n], classes
            )
        writer.write_images(
            records[0]["step"], {tag: figures.to_rgb(figure)[np.newaxis] for tag, figure in drawn.items()}
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for writer in self._writers.values():
            if writer:
                writer.close()
