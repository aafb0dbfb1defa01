"""A training that diverges: no learning rate that a config may hold is high enough to be sure of it."""

import jax.numpy as jnp

from jaxrobust.training import optimizers


def exploding(monkeypatch, share, rate):
    """Let the learning rate rise to `rate` after that share of the training."""

    def schedule(name, *, learning_rate, total_steps, **_):
        return lambda step: jnp.where(step < round(share * total_steps), learning_rate, rate)

    monkeypatch.setattr(optimizers, "schedule", schedule)
