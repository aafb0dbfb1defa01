"""The audit of one checkpoint: at which radius each class breaks, and which classes it is turned into.

    jaxrobust audit --workdir DIR

It consists of parts, each a series of rounds in which every example is attacked at most once:

    curve     the smallest radius of a list that breaks each example, by bisection, as the balls are nested
    matrix    targeted attacks, one round for each target of an example
    masking   a part for each experiment that detects gradient masking; also probes of the model without an attack

The state is saved after every block of examples, so an interrupted audit continues.
"""

import functools
import json
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxrobust import config as config_lib, data, files
from jaxrobust.attacks import masking, suites, threats
from jaxrobust.audit import results as audit_results
from jaxrobust.config import validation
from jaxrobust.data import randomness, splits
from jaxrobust.distributed import hosts, parallel
from jaxrobust.distributed.interruption import StopRequest
from jaxrobust.errors import FieldError
from jaxrobust.evaluation import attack_runner, batching, loading, steps
from jaxrobust.runs import history, results

# Fields that an audit may set differently from the training.
OWN_FIELDS = ("data.data_dir", "eval.batch_size", *config_lib.AUDIT_FIELDS)


def audit_run(workdir, overrides: dict | None = None) -> None:
    """Audit the run's best checkpoint, else its last, and write audit.json and the report.

    Args:
        overrides: values of fields by dotted name; only `OWN_FIELDS` may differ from the run's config.

    Raises:
        UserError: the workdir holds no run or no checkpoint, or a value is wrong.
        Interrupted: a signal was received. The state is kept.
    """
    workdir = files.folder(workdir, "workdir")
    run = loading.open_run(workdir, overrides, OWN_FIELDS)
    if config_lib.radius(run.config) == 0:
        problem = "has a threat of radius 0, and an audit needs one as its unit"
        raise FieldError("workdir", str(workdir), problem, "give a run that was trained with attacks")
    validation.check_images(run.config, run.dataset.image_shape)
    chosen = run.choose(among=run.scored_steps())
    checksum = hosts.decide(lambda: history.checksums(workdir, chosen.step)).get(chosen.weights)
    checkpoint = chosen._asdict() | {"epoch": chosen.step // run.steps_per_epoch, "checksum": checksum}

    def weights():
        if parallel.is_writer():
            files.writable(workdir, "workdir")
        return run.weights(chosen)

    with StopRequest() as stop:
        content = Auditor(run.config, workdir, run.dataset, run.mesh, checkpoint, stop).run(weights)
    if parallel.is_writer():
        audit_results.AUDIT.write(workdir, content)
    return content


class _Part(NamedTuple):
    """A series of rounds of one attack on the examples."""

    name: str
    suite: suites.Suite
    targeted: bool
    settings: dict  # everything on which its arrays depend
    arrays: dict  # their values before the first round, [N, ...] each
    rounds: int
    open: Callable  # (arrays, round) -> ids of the examples to attack
    ask: Callable  # (arrays, round, ids) -> classes and radii [n] of their attacks
    learn: Callable  # (arrays, round, ids, success [n] bool) updates the arrays in place


class Auditor:
    """Audits given weights. With several processes each attacks its share of a batch; process 0 writes the files.

    `checkpoint` is the step, epoch, weights ("raw" or "averaged") and checksum of what is audited. Once `stop` is set,
    which is tested between batches, `Interrupted` is raised.
    """

    def __init__(self, config, workdir, dataset: data.Dataset, mesh, checkpoint: dict, stop: StopRequest):
        self._config, self._workdir, self._class_names = config, pathlib.Path(workdir), dataset.class_names
        self._checkpoint = checkpoint
        name, whole = ("test", dataset.test) if len(dataset.test) else ("validation", dataset.validation)
        if not len(whole):
            problem = "has neither test nor validation images to audit on"
            raise FieldError("data.name", config.data.name, problem, "give a run with some")
        rng = randomness.generator(config.eval.seed, "subset")
        index = splits.stratified_subset(whole.labels, config.audit.examples, dataset.num_classes, rng)
        self._split, self._index, self._split_name, self._whole = whole.take(index), index, name, len(whole)
        self._store = audit_results.Store(self._workdir, checkpoint["step"], checkpoint["weights"], name)
        self._title = f"audit, epoch {checkpoint['epoch']} {checkpoint['weights']} {name}"
        self._radius = config_lib.radius(config)
        self._radii = config_lib.audit_radii(config)
        self._targets = config_lib.audit_targets(config, dataset.num_classes)
        self._classifier = loading.classifier(config, dataset.num_classes, mesh)
        self._hooks = attack_runner.stopping_hooks(stop, "what was found is kept; run again to continue")

    def run(self, weights: Callable) -> dict:
        """Do what is not done yet, and return the content of audit.json; a UserError for logits that are not finite.

        `weights()` gives the weights on the devices; it is called only if there is anything to do.
        """
        load = functools.cache(weights)
        clean = self._clean(load)
        parts = [self._curve(clean), self._matrix(clean)]
        states, arrays = {}, clean
        if self._config.audit.masking:
            arrays = clean | self._probes(load)
            parts += [self._experiment(clean, experiment) for experiment in masking.EXPERIMENTS]
        for part in parts:
            states[part.name], found = self._run_part(part, load)
            arrays = arrays | found
        breaking = np.array([*self._radii, np.inf])[arrays["curve_high"]]
        breaking[clean["prediction"] != clean["labels"]] = 0.0
        arrays["breaking_radius"] = breaking
        if parallel.is_writer() and not np.array_equal(self._store.read().get("breaking_radius"), breaking):
            self._store.keep("curve", states["curve"], {"breaking_radius": breaking})
        about = self._checkpoint | {
            "split": self._split_name,
            "classes": list(self._class_names),
            "whole": self._whole,
            "norm": self._config.threat.norm,
            "eps": self._radius,
        }
        return audit_results.figures(arrays, states, about, self._validation())

    def _settings(self, **settings) -> dict:
        """The settings on which results depend, those common to all parts included."""
        common = {
            "checksum": self._checkpoint.get("checksum"),
            "norm": self._config.threat.norm,
            "eps": self._radius,
            "relative_step": config_lib.relative_step(self._config),
            "seed": self._config.eval.seed,
            "examples": len(self._split),
        }
        return json.loads(json.dumps(common | settings))

    def _clean(self, weights) -> dict:
        """labels, index and prediction [N] of the clean images, and targets [N, T], most likely first."""
        names, settings = ("labels", "index", "prediction", "targets"), self._settings(targets=self._targets)

        def compute():
            count, title = self._targets + 1, f"{self._title}, clean"
            labels, ranking = self._split.labels, np.zeros((len(self._split), count), np.int64)
            for mine, images in self._hooks.blocks(self._split, self._classifier.batch_size, title):
                batching.merge(ranking, mine, self._classifier.rank(weights(), images, count, title))
            # Remove the label from the ranking, or else the least likely class.
            is_label = ranking == labels[:, None]
            is_label[~is_label.any(1), -1] = True
            targets = ranking[~is_label].reshape(len(labels), self._targets)
            return {"labels": labels, "index": self._index, "prediction": ranking[:, 0], "targets": targets}

        return self._kept("clean", settings, names, compute)

    def _kept(self, name: str, settings: dict, names, compute: Callable[[], dict]) -> dict:
        """The arrays of a part that is one pass over the images: stored ones, or else computed and stored."""
        known = self._known(name, settings, names)
        if known is not None:
            return known[1]
        started, arrays = time.monotonic(), compute()
        self._store.keep(name, {"settings": settings, "seconds": time.monotonic() - started}, arrays)
        return arrays

    def _known(self, name: str, settings: dict, names) -> tuple[dict, dict] | None:
        """(state, arrays) of a part in the store, on all processes."""

        def read():
            known = self._store.part(name, settings, names)
            return known and (known[0], {name: array.tolist() for name, array in known[1].items()})

        known = hosts.decide(read)
        return known and (known[0], {name: np.array(values) for name, values in known[1].items()})

    def _curve(self, clean) -> _Part:
        """Bisection: `curve_low` <= index of the smallest breaking radius <= `curve_high`."""
        right = clean["prediction"] == clean["labels"]
        radii, most = np.array(self._radii), len(self._radii)
        suite = suites.parse(self._config.audit.attack, self._config.threat.norm)

        def middle(arrays, ids):
            return (arrays["curve_low"][ids] + arrays["curve_high"][ids]) // 2

        def learn(arrays, _, ids, success):
            tried = middle(arrays, ids)
            arrays["curve_high"][ids] = np.where(success, tried, arrays["curve_high"][ids])
            arrays["curve_low"][ids] = np.where(success, arrays["curve_low"][ids], tried + 1)

        return _Part(
            name="curve",
            suite=suite,
            targeted=False,
            settings=self._settings(attack=suite.name, members=[m.name for m in suite.members], radii=self._radii),
            arrays={"curve_low": np.zeros(len(right), np.int64), "curve_high": np.where(right, most, 0)},
            rounds=int(most).bit_length(),
            open=lambda arrays, _: np.flatnonzero(arrays["curve_low"] < arrays["curve_high"]),
            ask=lambda arrays, _, ids: (self._split.labels[ids], radii[middle(arrays, ids)]),
            learn=learn,
        )

    def _matrix(self, clean) -> _Part:
        """One targeted attack per round, towards the next target; one that is predicted already counts as reached."""
        targets = clean["targets"]
        suite = suites.parse(self._config.audit.matrix_attack, self._config.threat.norm)

        def learn(arrays, rank, ids, success):
            arrays["reached"][ids, rank] = success

        return _Part(
            name="matrix",
            suite=suite,
            targeted=True,
            settings=self._settings(attack=suite.name, members=[m.name for m in suite.members], targets=self._targets),
            arrays={"reached": targets == clean["prediction"][:, None]},
            rounds=self._targets,
            open=lambda arrays, rank: np.flatnonzero(~arrays["reached"][:, rank]),
            ask=lambda arrays, rank, ids: (targets[ids, rank], np.full(len(ids), self._radius)),
            learn=learn,
        )

    def _probes(self, weights) -> dict:
        """The results of masking.probe for each image, arrays [N]."""
        settings = self._settings(version=masking.VERSION)
        names = tuple(f"probe_{field}" for field in masking.Probes._fields)

        def compute():
            labels, model, arrays = self._split.labels, self._classifier, {}
            step = parallel.spmd(steps.make_probe_step(model.prepared), model.mesh)
            for mine, images in self._hooks.blocks(self._split, model.batch_size, f"{self._title}, gradients"):
                found = model.of_each(step, weights(), (images, labels[mine]))
                for name, values in zip(names, found, strict=True):
                    batching.merge(arrays.setdefault(name, np.zeros(len(labels), values.dtype)), mine, values)
            return arrays

        return self._kept("probes", settings, names, compute)

    def _experiment(self, clean, experiment: masking.Experiment) -> _Part:
        """One round: `survives_<name>`, whether an example is classified correctly, clean and in the experiment."""
        right = clean["prediction"] == clean["labels"]
        name = f"survives_{experiment.name}"
        largest = threats.largest_radius(self._config.threat.norm, self._split.images.shape[1:])
        radius = min(experiment.radius * self._radius, largest)

        def learn(arrays, _, ids, success):
            arrays[name][ids] = ~success

        return _Part(
            name=experiment.name,
            suite=suites.Suite(experiment.name, (experiment,)),
            targeted=False,
            settings=self._settings(attack=experiment.name, members=[experiment.attack], radius=radius),
            arrays={name: right.copy()},
            rounds=1,
            open=lambda arrays, _: np.flatnonzero(right),
            ask=lambda arrays, _, ids: (self._split.labels[ids], np.full(len(ids), radius)),
            learn=learn,
        )

    def _run_part(self, part: _Part, weights) -> tuple[dict, dict]:
        """Run the rounds that are left. Returns the final state and arrays."""
        state = {"settings": part.settings, "round": 0, "within": None, "passes": 0.0, "idle": 0.0, "seconds": 0.0}
        known = self._known(part.name, part.settings, tuple(part.arrays))
        state, arrays = (state, part.arrays) if known is None else known
        for turn in range(state["round"], part.rounds):
            ids = part.open(arrays, turn)
            success = self._run_round(part, weights, state, arrays, turn, ids)
            part.learn(arrays, turn, ids, success[ids])
            state["round"], state["within"] = turn + 1, None
            self._store.keep(part.name, state, arrays)
        return state, arrays

    def _run_round(self, part: _Part, weights, state: dict, arrays: dict, turn: int, ids) -> np.ndarray:
        """success [N] of attacks on the examples `ids`; the state is kept after every block."""
        size = len(self._split)
        goals, radius = np.zeros(size, np.int64), np.zeros(size)
        goals[ids], radius[ids] = part.ask(arrays, turn, ids)
        # Others count as attacked with success, so that none attacks them.
        prediction = np.where(np.isin(np.arange(size), ids) == part.targeted, -1, goals)
        within = state.get("within") or {"member": 0, "todo": None, "prediction": prediction}
        prediction[:], todo = within["prediction"], within["todo"]
        for progress in attack_runner.attack_suite(
            {spec.name: self.attacker(spec, part.targeted) for spec in part.suite.members},
            weights(),
            attack_runner.Task(self._split, goals, self._index, radius),
            prediction,
            member=within["member"],
            todo=None if todo is None else np.array(todo, np.int64),
            title=f"{self._title}, {part.name} {turn + 1}/{part.rounds},",
            hooks=self._hooks,
        ):
            for name, cost in zip(("passes", "idle", "seconds"), progress.work, strict=True):
                state[name] += cost
            within = {"member": progress.member, "todo": progress.todo.tolist(), "prediction": prediction.tolist()}
            state["round"], state["within"] = turn, within
            if len(progress.todo):
                self._store.keep(part.name, state, arrays)
        return (prediction == goals) == part.targeted

    def attacker(self, spec, targeted: bool) -> attack_runner.Attacker:
        """A member of a suite; see Classifier.attacker."""
        norm, relative_step = self._config.threat.norm, config_lib.relative_step(self._config)
        return self._classifier.attacker(spec, norm, relative_step, targeted=targeted)

    def _validation(self) -> dict | None:
        """The validation record of the strongest attack on this checkpoint; None without, if validation is audited, and
        on processes other than 0, which do not need it."""
        if self._split_name == "validation" or not parallel.is_writer():
            return None
        key = (self._checkpoint["step"], self._checkpoint["weights"], "validation")
        records = [r for r in results.read(self._workdir) if results.key_of(r)[:3] == key and r["attack"] != "clean"]
        records = [r for r in records if results.belongs(r.get("checksum"), self._checkpoint.get("checksum"))]
        return min(records, key=lambda record: record["accuracy"], default=None)
