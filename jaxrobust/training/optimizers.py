"""Optimizers and learning-rate schedules, as optax chains."""

import optax

NAMES = ("sgd", "adamw")
SCHEDULES = ("constant", "piecewise", "cosine", "one_cycle")


def schedule(
    name: str,
    *,
    learning_rate: float,
    total_steps: int,
    milestones: tuple[float, ...] = (0.5, 0.75),
    decay_factor: float = 0.1,
    warmup: float = 0.0,
) -> optax.Schedule:
    """Learning rate by step.

    constant: the peak throughout. piecewise: multiplied by `decay_factor` at each of `milestones`, fractions of the
    training. cosine: half a cosine from the peak to 0. one_cycle: up to the peak, then down to 0, both linearly, as
    fast adversarial training uses it (Wong et al. 2020). `warmup` is the fraction of the training in which the rate
    rises linearly from 0 to the peak; for one_cycle, 0 means 0.4.
    """
    if name == "one_cycle":
        warmup = warmup or 0.4
    # At least one step, to avoid a division by zero in the warm-up of a very short run.
    warmup_steps = max(1, round(warmup * total_steps)) if warmup else 0
    rest = max(1, total_steps - warmup_steps)
    after = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "piecewise": lambda: optax.piecewise_constant_schedule(
            learning_rate, _boundaries(milestones, decay_factor, total_steps, warmup_steps)
        ),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, rest),
        "one_cycle": lambda: optax.linear_schedule(learning_rate, 0.0, rest),
    }[name]()
    if not warmup_steps:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), after], [warmup_steps])


def _boundaries(milestones, decay_factor, total_steps, warmup_steps) -> dict[int, float]:
    """Factor by step, counted from the end of the warm-up. In a short run several milestones may share a step."""
    factors = {}
    for milestone in milestones:
        step = max(0, round(milestone * total_steps) - warmup_steps)
        factors[step] = factors.get(step, 1.0) * decay_factor
    return factors


def create(
    name: str,
    learning_rate: optax.Schedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """The optimizer with this name, one of `NAMES`. Weight decay, of every parameter, works as in PyTorch: for sgd it
    is added to the gradient, after clipping, and so enters the momentum; for adamw it is decoupled.
    """
    update = {
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.sgd(learning_rate, momentum=momentum or None, nesterov=nesterov),
        ),
        "adamw": lambda: optax.adamw(learning_rate, weight_decay=weight_decay),
    }[name]()
    return optax.chain(optax.clip_by_global_norm(clip_norm), update) if clip_norm else update
