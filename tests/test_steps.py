"""The same predictions on 1, 2 and 8 devices, whatever the batch."""

import jax
import numpy as np
import optax

from jaxrobust import models, remedies
from jaxrobust.attacks import losses, threats
from jaxrobust.attacks.pgd import PgdAttack
from jaxrobust.distributed import parallel
from jaxrobust.evaluation import steps
from jaxrobust.training import state as state_lib

CLASSES, SHAPE = 5, (8, 8, 3)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, size=(40, *SHAPE), dtype=np.uint8)
LABELS = RNG.integers(0, CLASSES, 40).astype(np.int32)


def evaluate(devices, batch):
    """Predictions and adversarial images of a PGD of five steps, in parts of two and three."""
    # Not an untrained network, which says one class whatever it is shown.
    model = models.create("linear", num_classes=CLASSES)
    state = state_lib.create(
        model, optax.sgd(0.1), remedies.none(), np.ones(CLASSES), SHAPE, jax.random.key(0), averaged=False
    )
    attack = PgdAttack(threats.NORMS["linf"], losses.cross_entropy, iterations=5)
    verify, prepared = steps.make_verify_step(steps.forward_of(model), threats.NORMS["linf"]), steps.prepared_of(model)
    mesh = parallel.make_mesh(jax.devices()[:devices])
    begin = parallel.spmd(steps.make_attack_steps(prepared, verify, attack, 2)[0], mesh)
    go_on = parallel.spmd(steps.make_attack_steps(prepared, verify, attack, 3)[1], mesh)
    weights = parallel.replicate(state.weights, mesh)
    radius, ids = np.full(40, 8 / 255, np.float32), np.arange(40, dtype=np.int32)
    predictions, adversarial = [], []
    for start in range(0, 40, batch):
        part = slice(start, start + batch)
        inputs = parallel.shard((IMAGES[part], LABELS[part], ids[part], radius[part]), mesh)
        arguments = weights, *inputs, jax.random.key(2), np.int32(0)
        state, _ = begin(*arguments)
        state, output = go_on(*arguments, np.int32(2), state)
        assert float(output["constraint_violation"]) <= 1e-6 and output["finite"]
        predictions.append(output["prediction"])
        adversarial.append(state.adversarial)
    return np.concatenate(predictions), np.concatenate(adversarial)


def test_predictions_do_not_depend_on_devices_or_batches():
    predictions, adversarial = evaluate(devices=1, batch=40)
    assert len(np.unique(predictions)) > 2
    for devices, batch in ((2, 10), (8, 8), (8, 40)):
        other_predictions, other_adversarial = evaluate(devices, batch)
        np.testing.assert_array_equal(other_predictions, predictions)
        # A pixel may differ where the sign of its gradient is a matter of rounding.
        assert np.isclose(other_adversarial, adversarial, atol=1e-5).mean() > 0.999
