"""Heads changed after training: what is chosen, by which images, and that the evaluator scores it like any other."""

import pathlib
import shutil

import jax
import numpy as np
import pytest
import tiny_config

from jaxrobust import config as config_lib, files, models
from jaxrobust.commands import front_end
from jaxrobust.config import objects
from jaxrobust.errors import FieldError, UserError
from jaxrobust.evaluation import evaluator as evaluator_lib, loading
from jaxrobust.posthoc import remedies as posthoc_remedies, training as posthoc_training
from jaxrobust.posthoc.change import change_head
from jaxrobust.posthoc.model import TrainedModel
from jaxrobust.reports import run as run_page
from jaxrobust.runs import reading, results
from jaxrobust.training import loop, setup as training_setup, torch_files

ROOT = pathlib.Path(__file__).parent.parent
CLASSES = 3


def write_data(path, test_seed):
    """Three classes of striped images, the last one faint and rare; the training set is the same whatever the seed."""

    def draw(seed, counts):
        rng = np.random.default_rng(seed)
        labels = np.repeat(np.arange(CLASSES), counts)
        stripes = np.sin(np.arange(8)[None] * (1 + labels[:, None])) * np.array([0.3, 0.3, 0.15])[labels][:, None]
        noise = rng.normal(0, 0.15, (len(labels), 8, 8))
        return np.clip(0.5 + stripes[:, None] + noise, 0, 1)[..., None].astype(np.float32), labels

    train_images, train_labels = draw(0, [120, 80, 60])
    test_images, test_labels = draw(test_seed, [20, 20, 20])
    arrays = {"train_images": train_images, "train_labels": train_labels}
    np.savez(path, **arrays, test_images=test_images, test_labels=test_labels)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and the file of its data."""
    folder = tmp_path_factory.mktemp("posthoc")
    write_data(folder / "data.npz", test_seed=1)
    config = tiny_config.get_config()
    config.data.name = f"arrays:{folder / 'data.npz'}"
    config.data.augment = ()
    config.model.name = "mlp"
    config.model.hidden = (8,)
    config.train.epochs = 3
    config.train.batch_size = 40
    config.eval.attacks = ("clean", "pgd3")
    config.eval.every_epochs = 3
    config.posthoc.attack = "pgd3"
    config.posthoc.epochs = 2
    loop.train_and_evaluate(config, folder / "run")
    return folder / "run", folder / "data.npz"


def state_of(workdir):
    run = loading.open_run(workdir)
    (step,) = run.checkpoints.steps()[-1:]
    total_steps = run.steps_per_epoch * run.config.train.epochs
    like = training_setup.create(run.config, run.dataset, run.mesh, total_steps).abstract_state()
    return run, jax.device_get(run.checkpoints.restore(step, like))


def head_of(workdir):
    return state_of(workdir)[1].weights.params["head"]


def assert_only_the_head_differs(workdir, source):
    _, state = state_of(workdir)
    others = lambda weights: {name: tree for name, tree in weights.params.items() if name != "head"}  # noqa: E731
    equal = jax.tree.map(np.array_equal, others(state.weights), others(source))
    assert all(jax.tree.leaves(equal)) and state.averaged is None
    equal = jax.tree.map(np.array_equal, state.weights.batch_stats, source.batch_stats)
    assert all(jax.tree.leaves(equal))


def test_tau_is_chosen_on_validation_and_scored_by_the_evaluator(trained, tmp_path):
    workdir, _ = trained
    out = change_head(workdir, "tau_norm", out=tmp_path / "out", weights="averaged", step=15)
    assert_only_the_head_differs(out, state_of(workdir)[1].averaged)

    origin = files.read_json(out / results.ORIGIN)
    assert (origin["remedy"], origin["step"], origin["weights"]) == ("tau_norm", 15, "averaged")
    chosen = origin["chosen"]
    sums = {tau: figures["average"] + figures["worst"] for tau, figures in chosen["tried"].items()}
    assert len(sums) == 21 and max(sums, key=sums.get) == f"{chosen['tau']:g}"
    assert chosen["tried"][f"{chosen['tau']:g}"] == chosen["validation_after"]

    evaluator_lib.evaluate_checkpoints(out)
    records = {(r["split"], r["attack"]): r for r in results.read(out)}
    assert set(records) == {(split, attack) for split in ("validation", "test") for attack in ("clean", "pgd3")}
    assert {record["epoch"] for record in records.values()} == {3}
    # The deployed head under the same attack with the same random numbers.
    scored = records["validation", "pgd3"]
    assert scored["accuracy"] == pytest.approx(chosen["validation_after"]["average"], abs=1e-9)
    assert scored["worst_class_accuracy"] == pytest.approx(chosen["validation_after"]["worst"], abs=1e-9)
    before = [r for r in results.read(workdir) if results.key_of(r) == (15, "averaged", "validation", "pgd3")]
    assert before[0]["accuracy"] == pytest.approx(chosen["validation_before"]["average"], abs=1e-9)

    page = run_page.write_report(out).read_text()
    assert f"tau_norm on the averaged weights of step 15 of {workdir}" in page and f"tau = {chosen['tau']}" in page
    assert "The head was changed after training" in page and "imported" not in page

    # A head can be changed again, by settings of its own.
    again = change_head(out, "head_norm", out=tmp_path / "again")
    steps = dict(reading.facts(files.read_json(again / "config.json"), files.read_json(again / results.ORIGIN)))
    assert steps["after training"].count(" on the ") == 2 and "; then head_norm" in steps["after training"]
    assert files.read_json(again / "config.json")["posthoc"]["remedy"] == "head_norm"


def test_heads_of_imported_weights_are_changed_too(trained, tmp_path):
    """There is no validation split, so tau has to be given."""
    torch_files.export_torch(tmp_path / "file.safetensors", trained[0], step=15, weights="raw")
    config = config_lib.from_dict(files.read_json(trained[0] / "config.json"))
    config.train.batch_size = 48
    torch_files.import_run(tmp_path / "file.safetensors", config, tmp_path / "imported")
    with pytest.raises(FieldError, match=r"^data.validation_per_class = 0: .*\(or set posthoc.tau\)"):
        change_head(tmp_path / "imported", "tau_norm")
    out = change_head(tmp_path / "imported", "tau_norm", {"posthoc.tau": 0.5})
    assert out == tmp_path / "imported-tau_norm"
    before = state_of(trained[0])[1].weights.params["head"]["kernel"]
    expected = before / np.linalg.norm(before, axis=0, keepdims=True) ** 0.5
    np.testing.assert_allclose(head_of(out)["kernel"], expected, rtol=1e-5)
    facts = dict(reading.facts(files.read_json(out / "config.json"), files.read_json(out / results.ORIGIN)))
    assert facts["weights"].startswith("imported from file.safetensors")
    assert facts["after training"].startswith("tau_norm on the raw weights") and "tau = 0.5" in facts["after training"]


def test_the_test_split_plays_no_part(trained, tmp_path):
    """With other test images in the file every remedy that looks at images makes the same head."""
    workdir, data = trained
    heads = {}
    for name, seed in (("one", 1), ("other", 2)):
        write_data(data, test_seed=seed)
        for remedy in ("bias_balance", "ncm"):
            out = change_head(workdir, remedy, out=tmp_path / f"{name}-{remedy}")
            heads[name, remedy] = head_of(out), files.read_json(out / results.ORIGIN)["chosen"]
    write_data(data, test_seed=1)
    for remedy in ("bias_balance", "ncm"):
        (head, chosen), (other, other_chosen) = heads["one", remedy], heads["other", remedy]
        assert all(np.array_equal(head[name], other[name]) for name in head) and chosen == other_chosen
    chosen = heads["one", "bias_balance"][1]
    assert sum(chosen["validation_after"].values()) >= sum(chosen["validation_before"].values())


def test_no_tau_is_no_change(trained, tmp_path):
    workdir, _ = trained
    settings = {"posthoc.tau": 0.0, "posthoc.keep_bias": True}
    out = change_head(workdir, "tau_norm", settings, out=tmp_path / "out", step=15, weights="raw")
    for name, array in state_of(workdir)[1].weights.params["head"].items():
        np.testing.assert_array_equal(head_of(out)[name], array)


@pytest.mark.parametrize("deploy", [posthoc_training.deploy_crt, posthoc_training.deploy_lws])
def test_the_rest_of_the_model_is_frozen(deploy):
    """In a train step's hands, too: batch norm goes by running statistics, and gradients reach the head alone."""
    model = models.create("cnn", num_classes=CLASSES, width=2)
    images = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    factors = {posthoc_training.FACTORS: np.float32([1, 2, 3])} if deploy is posthoc_training.deploy_lws else {}
    trained = variables | {"params": variables["params"] | factors}
    frozen = posthoc_training.FrozenModel(model, deploy)
    logits, updates = jax.jit(lambda v: frozen.apply(v, images, train=True, mutable=["batch_stats"]))(trained)
    assert not updates
    expected = (
        jax.jit(model.apply)(variables, images) * factors.get(posthoc_training.FACTORS, np.ones(3, np.float32))[None]
    )
    np.testing.assert_allclose(logits, expected, rtol=1e-5)

    def forward(params, images):
        variables = trained | {"params": params}
        _, prepared = frozen.apply(variables, images[:1], train=False, mutable=["prepared"])
        logits = frozen.apply(variables | prepared, images)
        return logits.sum(), logits

    gradients, logits = jax.jit(jax.grad(forward, has_aux=True))(trained["params"], images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)
    moved = {name for name, tree in gradients.items() if any(map(np.any, jax.tree.leaves(tree)))}
    assert moved == ({posthoc_training.FACTORS} if factors else {"head"})


@pytest.mark.parametrize("remedy", ["lws", "crt"])
def test_trained_heads_are_functions_of_the_seed(trained, tmp_path, remedy):
    workdir, _ = trained
    arguments = {"step": 15, "weights": "raw"}
    outs = [change_head(workdir, remedy, out=tmp_path / name, **arguments) for name in ("one", "other")]
    before, (head, again) = state_of(workdir)[1].weights, map(head_of, outs)
    assert_only_the_head_differs(outs[0], before)
    for name in head:
        np.testing.assert_array_equal(head[name], again[name])
        assert not np.array_equal(head[name], before.params["head"][name])
    chosen = files.read_json(outs[0] / results.ORIGIN)["chosen"]
    assert np.isfinite(chosen["last_loss"]) and 0 < chosen["last_training_accuracy"] <= 1
    if remedy == "lws":
        factors = np.float32(chosen["factors"])
        np.testing.assert_allclose(head["kernel"], before.params["head"]["kernel"] * factors[None], rtol=1e-6)
        np.testing.assert_allclose(head["bias"], before.params["head"]["bias"] * factors, rtol=1e-6)


def test_heads_are_trained_on_as_many_images_of_each_class(trained):
    """Of 110, 70 and 50 images; an epoch of 5 batches of 40."""
    run, state = state_of(trained[0])
    _, factors, found = posthoc_training.train_head(run.config, run.dataset, run.mesh, state.weights, "crt", stop=False)
    assert factors is None and found["count"].sum() == 200
    np.testing.assert_allclose(found["count"], 200 / 3, atol=14)  # of 96, 61 and 43 as they are


def test_the_nearest_mean_of_features_as_computed_directly(trained, tmp_path):
    """By Euclid, and by angle, which is a cosine head that the evaluator scores too."""
    workdir, _ = trained
    run, state = state_of(workdir)
    model = objects.model(run.config, CLASSES, run.mesh)
    features = lambda split: np.float64(  # noqa: E731
        model.apply(state.weights.variables, split.images, method="features")
    )
    train_features, test_features = features(run.dataset.train), features(run.dataset.test)

    def means(features):
        return np.stack([features[run.dataset.train.labels == label].mean(0) for label in range(CLASSES)])

    def accuracy(out):
        evaluator_lib.evaluate_checkpoints(out, {"eval.splits": ("test",), "eval.attacks": ("clean",)})
        return results.read(out)[0]["accuracy"]

    arguments = {"step": 15, "weights": "raw"}
    out = change_head(workdir, "ncm", out=tmp_path / "raw", **arguments)
    distance = np.linalg.norm(test_features[:, None] - means(train_features)[None], axis=2)
    assert accuracy(out) == np.mean(distance.argmin(1) == run.dataset.test.labels)

    l2n = {"posthoc.features": "l2n"}
    out = change_head(workdir, "ncm", l2n, out=tmp_path / "l2n", **arguments)
    assert files.read_json(out / "config.json")["model"]["head"] == "cosine"
    unit = means(train_features / np.linalg.norm(train_features, axis=1, keepdims=True))
    cosine = test_features @ (unit / np.linalg.norm(unit, axis=1, keepdims=True)).T
    assert accuracy(out) == np.mean(cosine.argmax(1) == run.dataset.test.labels)

    for remedy in ("tau_norm", "head_norm", "lws"):
        with pytest.raises(FieldError, match=r"^model.head = 'cosine': .*take crt, ncm"):
            change_head(out, remedy, out=tmp_path / "none")


def test_logit_adjustment_moves_the_biases_alone(trained, tmp_path):
    workdir, _ = trained
    arguments = {"step": 15, "weights": "raw"}
    out = change_head(workdir, "logit_adjustment", {"posthoc.tau": 2.0}, out=tmp_path / "counts", **arguments)
    before, after = state_of(workdir)[1].weights.params["head"], head_of(out)
    np.testing.assert_array_equal(after["kernel"], before["kernel"])
    shift = -2 * np.log(np.array([110, 70, 50]))  # less ten of each class for validation
    np.testing.assert_allclose(after["bias"] - before["bias"], shift - shift.mean(), rtol=1e-4, atol=1e-6)

    measured = {"posthoc.prior": "robust_accuracy"}
    out = change_head(workdir, "logit_adjustment", measured, out=tmp_path / "accuracy", **arguments)
    record = next(r for r in results.read(workdir) if results.key_of(r) == (15, "raw", "validation", "pgd3"))
    prior = np.maximum(record["class_accuracy"], 0.01 * max(record["class_accuracy"]))
    chosen = files.read_json(out / results.ORIGIN)["chosen"]
    np.testing.assert_allclose(chosen["class_prior"], prior / prior.sum(), rtol=1e-6)

    measured = {"posthoc.prior": "predicted"}
    out = change_head(workdir, "logit_adjustment", measured, out=tmp_path / "predicted", **arguments)
    predicted = np.sum(record["confusion"], axis=0)
    prior = np.maximum(predicted, 0.01 * predicted.max())
    chosen = files.read_json(out / results.ORIGIN)["chosen"]
    np.testing.assert_allclose(chosen["class_prior"], prior / prior.sum(), rtol=1e-6)


def test_what_cannot_be_done_is_said_and_leaves_nothing(trained, tmp_path):
    workdir, _ = trained
    out = tmp_path / "out"

    def refused(match, remedy="tau_norm", overrides=None, source=workdir, **arguments):
        with pytest.raises(UserError, match=match) as error:
            change_head(source, remedy, overrides, **{"out": out} | arguments)
        assert "\n" not in str(error.value) and not out.exists()

    refused(r"^remedy = 'magic': is unknown; give one of tau_norm, head_norm, lws, crt, ncm", "magic")
    refused(r"^posthoc.tau = -1.0: must be from 0 to 100", overrides={"posthoc.tau": -1.0})
    refused(r"^posthoc.prior = 'luck'", "logit_adjustment", overrides={"posthoc.prior": "luck"})
    refused(r"^posthoc.attack = 'clean': is not an attack", overrides={"posthoc.attack": "clean"})
    refused(r"another config \(train.epochs = 9", overrides={"train.epochs": 9})
    refused(r"holds no run", source=tmp_path)
    refused(r"^step = 7: is no checkpoint of the run; give one of 5, 10, 15", step=7)
    refused(r"^out = .*holds a run already", out=workdir)

    # A run without validation split, as one of imported weights is.
    bare = tmp_path / "bare"
    shutil.copytree(workdir, bare)
    config = config_lib.from_dict(files.read_json(bare / "config.json"))
    config.data.validation_per_class, config.train.batch_size = 0, 48  # as many steps in an epoch
    files.write_atomically(bare / "config.json", files.to_json(config_lib.to_dict(config)))
    for remedy in ("tau_norm", "bias_balance"):
        refused(r"^data.validation_per_class = 0: the run has no validation split", remedy, source=bare)
    prior = {"posthoc.prior": "predicted"}
    refused(r"^data.validation_per_class = 0: .* the prior is measured", "logit_adjustment", prior, source=bare)
    change_head(bare, "tau_norm", {"posthoc.tau": 1.0}, out=out)

    # What it made is no training to go on with.
    made = config_lib.from_dict(files.read_json(out / "config.json"))
    with pytest.raises(FieldError, match=r"^posthoc.remedy = 'tau_norm': .*train with none"):
        loop.train_and_evaluate(made, out)
    with pytest.raises(UserError, match=r"another config \(.*posthoc.remedy = 'none', there 'tau_norm'"):
        loop.train_and_evaluate(config, out)


def test_a_prior_of_equal_counts_is_said_to_have_no_effect(trained, capsys):
    run, state = state_of(trained[0])
    of_each = [np.flatnonzero(run.dataset.train.labels == label)[:50] for label in range(CLASSES)]
    dataset = type(run.dataset)(**vars(run.dataset) | {"train": run.dataset.train.take(np.concatenate(of_each))})
    model = TrainedModel(run.config, dataset, run.mesh, state.weights, stop=False)
    changed = posthoc_remedies.REMEDIES["logit_adjustment"].apply(model)
    np.testing.assert_array_equal(changed.head.bias, model.head.bias)
    assert "every class has 50 training images" in " ".join(capsys.readouterr().err.split())


def test_a_class_without_validation_images_is_named(trained):
    workdir, _ = trained
    run, state = state_of(workdir)
    without = run.dataset.validation.take(run.dataset.validation.labels != 1)
    dataset = type(run.dataset)(**vars(run.dataset) | {"validation": without})
    model = TrainedModel(run.config, dataset, run.mesh, state.weights, stop=False)
    assert not len(model.dataset.test)
    with pytest.raises(FieldError, match=r"^data.validation_per_class = 10: class '1' has no validation image"):
        posthoc_remedies.REMEDIES["bias_balance"].apply(model)


def test_command(trained, tmp_path, capfd):
    source = tmp_path / "run"
    shutil.copytree(trained[0], source)
    arguments = ("posthoc", "--workdir", source, "--remedy", "head_norm")
    assert front_end.main(arguments) == 0
    assert f"jaxrobust evaluate --workdir {source}-head_norm" in capfd.readouterr().err
    assert front_end.main(arguments) == 2
    said = capfd.readouterr().err
    assert "holds a run already" in said and said.count("\n") == 1
