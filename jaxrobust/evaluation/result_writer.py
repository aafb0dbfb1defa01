"""Writes what an evaluation yields to the files of a run: results, predictions and TensorBoard."""

from jaxrobust import console
from jaxrobust.classwise import unequal
from jaxrobust.evaluation import signs
from jaxrobust.evaluation.scoring import Result, Scoring
from jaxrobust.runs import results
from jaxrobust.runs.tensorboard import Writer


class ResultWriter:
    """Writes the results of one (step, weights, split). Process 0 alone makes use of it.

    `about` has step, epoch, weights ("raw" or "averaged"), checksum, split and split_examples, as results record them.
    """

    def __init__(self, config, class_names, about: dict, store: results.StoredResults, tensorboard: Writer):
        self._config, self._class_names, self._about = config, class_names, about
        self._store, self._tensorboard = store, tensorboard

    def write(self, scoring: Scoring, result: Result) -> None:
        """Write a result to the examples file, TensorBoard and results.jsonl."""
        labels = scoring.split.labels
        self._store.add(result.attack, labels, scoring.ids, result.prediction)
        records = self._store.records()
        if result.attack in records:  # only its predictions were lost
            return
        if result.work is None:
            work = results.total_work([records[f"{result.attack}/{member.name}"] for member in result.members])
        else:
            work = result.work.of_each(len(labels))
        record = results.make_record(
            **self._about,
            attack=result.attack,
            class_names=self._class_names,
            labels=labels,
            prediction=result.prediction,
            clean_prediction=scoring.predictions.get("clean", result.prediction),
            **work,
            **self._settings(scoring, result.members),
        )
        self._tensorboard.evaluation(record)
        # The line is written last, so that it proves that everything else is there.
        self._store.append(record)

    def _settings(self, scoring: Scoring, members) -> dict:
        """The settings that a result records, of its attack or of its suite of several."""
        settings = dict.fromkeys(("norm", "eps", "step_size", "steps", "restarts", "targets", "loss"))
        if not members:  # clean
            return settings
        threat, classes = scoring.threat, len(self._class_names)
        settings |= {"norm": threat.norm, "eps": threat.eps}
        if len(members) > 1:
            return settings | {"members": [member.name for member in members]}
        (spec,) = members
        relative = spec.relative_step(scoring.relative_step)
        return settings | {
            "step_size": None if relative is None else relative * threat.eps,
            "steps": spec.iterations,
            "restarts": spec.restarts,
            "targets": min(spec.targets, classes - 1),
            "loss": spec.loss(classes),
        }

    def present(self, scoring: Scoring, suites) -> None:
        """Draw the figures of a scored split, and print its accuracies in one line."""
        records, split = self._store.records(), scoring.split
        scored = [records[suite.name] for suite in suites]
        shown = scoring.shown if len(scoring.shown) else None
        self._tensorboard.figures(scored, scoring.predictions, split.images, split.labels, shown)
        console.say(_one_line(scoring.title, records, self._config.eval.attacks))
        # Masking is told of the checkpoint that is reported: of a net that has hardly learnt, losses differ more.
        for note in signs.without_class(scoring.predictions):
            console.warn(f"{scoring.title}: {note}")


def _one_line(title, records, attacks) -> str:
    parts = [
        f"{name} {100 * record['accuracy']:.1f} ("
        + (f"balanced: {100 * record['balanced_accuracy']:.1f}, " if unequal(record["count"]) else "")
        + f"worst: {record['worst_class']} {100 * record['worst_class_accuracy']:.1f})"
        for name, record in ((name, records[name]) for name in attacks)
    ]
    return f"{title}: {', '.join(parts)}"
