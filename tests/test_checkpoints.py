import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxrobust.distributed import parallel
from jaxrobust.errors import FieldError, UserError
from jaxrobust.models.weights import Weights
from jaxrobust.remedies import knobs
from jaxrobust.runs import checkpoints
from jaxrobust.training import class_statistics, state as state_lib


def state(value, averaged=True):
    rng = np.random.default_rng(int(value))
    params = {"dense": {"kernel": jnp.asarray(rng.normal(size=(50, 20)), jnp.float32)}}
    weights = Weights(params, {"norm": {"mean": jnp.full(3, value)}})
    made = state_lib.TrainState(
        step=jnp.asarray(int(value)),
        weights=weights,
        averaged=weights if averaged else None,
        opt_state=optax.sgd(optax.constant_schedule(0.1), momentum=0.9).init(params),
        knobs=knobs.neutral(3),
        memory={},
        class_sums=class_statistics.zeros((), 3),
    )
    return parallel.replicate(made, parallel.make_mesh(jax.devices()[:2]))


def saved(folder, steps, **options):
    manager = checkpoints.Checkpoints(folder, **options)
    for step in steps:
        manager.save(step, state(float(step)))
    manager.wait()
    return manager


def damage(folder, step, bits=1):
    """Flip bits in the largest file of a checkpoint, at equal distances."""
    path = max((folder / "checkpoints" / str(step)).rglob("*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    content = bytearray(path.read_bytes())
    for number in range(bits):
        content[(2 * number + 1) * len(content) // (2 * bits)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("averaged", [True, False])
def test_round_trip_is_bit_for_bit(tmp_path, averaged):
    manager = checkpoints.Checkpoints(tmp_path)
    original = state(7.0, averaged)
    manager.save(7, original)
    manager.wait()
    restored = checkpoints.Checkpoints(tmp_path).restore(7, state(0.0, averaged))
    assert jax.tree.structure(restored.weights) == jax.tree.structure(original.weights)
    assert (restored.averaged is None) == (not averaged)
    for a, b in zip(jax.tree.leaves(original), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.sharding == b.sharding


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoints.Checkpoints(tmp_path).restore_latest(state(0.0)) is None


def test_preserve_decides_what_stays_and_the_newest_always_does(tmp_path):
    manager = saved(tmp_path, [1, 2, 3, 4, 5], preserve=lambda steps: [2])
    assert manager.steps() == [2, 5]


def test_damaged_newest_falls_back_and_makes_room(tmp_path, capsys):
    saved(tmp_path, [1, 2, 3]).close()
    damage(tmp_path, 3)
    manager = checkpoints.Checkpoints(tmp_path)
    assert int(manager.restore_latest(state(0.0)).step) == 2
    assert "falling back" in capsys.readouterr().err
    assert (tmp_path / "damaged_checkpoints" / "3").is_dir()
    manager.save(3, state(3.0))
    manager.wait()
    assert int(checkpoints.Checkpoints(tmp_path).restore_latest(state(0.0)).step) == 3


def test_when_none_can_be_restored_nothing_is_touched(tmp_path):
    """As after an upgrade that changed the state: not damage, and no reason to train anew over it."""
    saved(tmp_path, [1, 2]).close()
    other = state(0.0).replace(memory={"new": jnp.zeros(3)})
    with pytest.raises(UserError, match=r"none of its 2 checkpoints can be restored.*another folder to train anew"):
        checkpoints.Checkpoints(tmp_path).restore_latest(other)
    assert int(checkpoints.Checkpoints(tmp_path).restore_latest(state(0.0)).step) == 2


def test_every_single_bit_is_watched(tmp_path):
    """Arrays are compared with their checksum, whatever the storage format lets through."""
    before, after = state(1.0), state(1.0)
    kernel = np.array(after.weights.params["dense"]["kernel"])
    kernel.view(np.int32)[3, 4] ^= 1
    after = after.replace(weights=after.weights.replace(params={"dense": {"kernel": jnp.asarray(kernel)}}))
    assert checkpoints.checksum(before) != checkpoints.checksum(after)


def test_damaged_checkpoint_is_named(tmp_path):
    saved(tmp_path, [1]).close()
    damage(tmp_path, 1)
    with pytest.raises(checkpoints.DamagedCheckpoint, match="checkpoints/1"):
        checkpoints.Checkpoints(tmp_path, read_only=True).restore(1, state(0.0))


def test_a_reader_sees_new_checkpoints_and_writes_nothing(tmp_path):
    reader = checkpoints.Checkpoints(tmp_path / "later", read_only=True)
    assert reader.steps() == [] and not (tmp_path / "later").exists()
    writer = saved(tmp_path / "later", [1])
    assert reader.steps() == [1]
    writer.save(2, state(2.0))
    writer.wait()
    assert reader.steps() == [1, 2]


def abstract_weights():
    like = state(0.0).weights
    return parallel.abstract(like, parallel.make_mesh(jax.devices()[:2]))


@pytest.mark.parametrize("earlier", [False, True])
def test_weights_are_read_without_the_rest_and_compared(tmp_path, monkeypatch, earlier):
    """Also of checkpoints of an earlier version, which have one checksum for the whole state."""
    if earlier:
        monkeypatch.setattr(checkpoints, "checksums_of_weights", lambda state: {})
    manager = checkpoints.Checkpoints(tmp_path)
    original = state(7.0)
    original = original.replace(averaged=jax.tree.map(lambda leaf: leaf + 1, original.weights))
    manager.save(7, original)
    manager.close()
    reader = checkpoints.Checkpoints(tmp_path, read_only=True)
    for name, expected in (("raw", original.weights), ("averaged", original.averaged)):
        found = reader.restore_weights(7, abstract_weights(), name)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.sharding == b.sharding
    mesh = parallel.make_mesh(jax.devices()[:2])
    other = abstract_weights().replace(batch_stats={"norm": {"mean": parallel.abstract(jnp.zeros(4), mesh)}})
    with pytest.raises(checkpoints.UnlikeCheckpoint, match=r"mean.*in the given one"):
        reader.restore_weights(7, other, "raw")
    damage(tmp_path, 7, bits=256)  # of all arrays, since only the weights are read
    with pytest.raises(checkpoints.DamagedCheckpoint, match="checkpoints/7"):
        reader.restore_weights(7, abstract_weights(), "raw")


def test_the_one_rule_for_choosing(tmp_path):
    """The best where there is one, else the last; weights as asked for, else of the best, else averaged ones."""
    choose = checkpoints.choose
    assert choose(tmp_path, [1, 2], averaged=True) == (2, "averaged")
    assert choose(tmp_path, [1, 2], averaged=False) == (2, "raw")
    (tmp_path / "best.json").write_text('{"step": 1, "weights": "raw"}')
    assert choose(tmp_path, [1, 2], averaged=True) == (1, "raw")
    assert choose(tmp_path, [1, 2], averaged=True, weights="averaged") == (1, "averaged")
    assert choose(tmp_path, [1, 2], averaged=True, step=2) == (2, "averaged")
    assert choose(tmp_path, [2], averaged=True, step=2) == (2, "averaged")
    with pytest.raises(FieldError, match=r"its best checkpoint by best\.json, the raw weights of step 1, is not there"):
        choose(tmp_path, [2], averaged=True)
    with pytest.raises(UserError, match=r"^step = 3: is no checkpoint.*1, 2"):
        choose(tmp_path, [1, 2], averaged=True, step=3)
    with pytest.raises(UserError, match=r"^weights = 'averaged': the run has none"):
        choose(tmp_path, [1], averaged=False, weights="averaged")
    with pytest.raises(UserError, match="no complete checkpoint"):
        choose(tmp_path, [], averaged=True)
