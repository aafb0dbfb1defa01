"""A config compiled for hardware that is not present: does it fit into memory, and what will it cost?

The train step, and the evaluation step of the strongest attack, are the same as in a training. They are compiled by the
machine's own compiler for abstract arrays, so neither data nor devices are needed.

Memory, arithmetic, traffic and collectives are counted in the compiled program. Times are lower bounds by bandwidth and
peak rates, which no real program reaches. If a compiler aborts, its output is in jaxrobust-*.log in the folder for
temporary files.
"""

import math
import re
import time
from typing import NamedTuple

import jax

from jaxrobust import config as config_lib, console, files, models
from jaxrobust.attacks import suites
from jaxrobust.config import validation
from jaxrobust.data import batches
from jaxrobust.distributed import parallel
from jaxrobust.performance.compiled import costs, hlo, machines
from jaxrobust.performance.compiled.program import Cost, Program

# Parts of the memory, by JAX's names; aliased are outputs that reuse the memory of arguments.
_MEMORY = {
    "arguments": "argument",
    "outputs": "output",
    "aliased": "alias",
    "temporaries": "temp",
    "code": "generated_code",
}
_ATTEMPTS = 4  # compilations in the search, at most
_LARGEST = 2**16  # examples per chip; the search ends here
_SCALES = (8, 64, 256)  # numbers of chips for which weak scaling is estimated, beside the requested one


class Compiled(NamedTuple):
    """A compiled program; if it did not fit, `program` and `memory` are None, and `total` is the memory it needs."""

    program: Program | None
    memory: dict[str, float] | None  # bytes per chip, by name
    total: float  # bytes per chip, which must fit into its memory
    seconds: float


def examine(config, description, topology: str, *, search: bool = True) -> dict:
    """Compile the config's steps for a topology; returns JSON data, with units in the names.

    Args:
        description: of the data set.
        search: whether to find the largest batch that fits.

    Raises:
        UserError: the config or the topology is wrong, or its compiler is not installed.
    """
    machine, count = machines.parse(topology)
    validation.validate(config, count)
    validation.check_images(config, description.image_shape)
    steps_per_epoch = batches.steps_per_epoch(description.train_examples, config.train.batch_size)
    mesh = parallel.make_mesh(machines.devices(topology))
    capacity = machine.capacity or math.inf
    spec = suites.costliest(config.eval.attacks, config.threat.norm)
    attack = spec.name if spec else "clean"
    training = _compile_training(config, description, mesh)
    title = f"evaluation under {attack}, batch {config.eval.batch_size} on {count} chips"
    evaluation = _compile(lambda: costs.lower_evaluation(config, description, mesh, spec), title)
    streamed = config.data.streaming
    resident = 0 if streamed else description.train_examples * (_image_bytes(description) + 4)
    beside = _beside_training(config, description, mesh, training, evaluation)
    figures = {
        "model": models.title(config.model.name, config.model),
        "dtype": config.model.dtype,
        "objective": config.objective.name,
        "attack_batch_norm": config_lib.attack_batch_norm(config.objective.name, config.attack.batch_norm),
        "data": description.name,
        "streamed": streamed,
        "image_shape": list(description.image_shape),
        "topology": topology,
        "machine": _machine(machine),
        "chips": count,
        "batch": config.train.batch_size,
        "batch_per_chip": config.train.batch_size // count,
        "steps_per_epoch": steps_per_epoch,
        "steps_per_dispatch": costs.dispatch_length(config, description, mesh),
        "compile_s": training.seconds,
        "fits": training.total <= capacity and beside <= capacity,
        "memory": _memory(training, resident, machine),
        "step": None,
        "evaluation": _evaluation(config, attack, beside, evaluation, machine),
        "largest_batch_per_chip": None,
        "largest_batch_limit": None,
    }
    if training.program is not None:
        figures["step"] = _step(config, description, mesh, machine, training.program, steps_per_epoch)
    if search and capacity < math.inf:
        largest, limit = _largest_batch(config, description, mesh, capacity, training)
        figures |= {"largest_batch_per_chip": largest, "largest_batch_limit": limit}
    return figures


def _compile_training(config, description, mesh) -> Compiled:
    batch = config.train.batch_size
    total_steps = batches.steps_per_epoch(description.train_examples, batch) * config.train.epochs
    return _compile(
        lambda: costs.lower_training(config, description, mesh, total_steps),
        f"training, batch {batch // mesh.size} on each of {mesh.size} chips",
        steps=costs.dispatch_length(config, description, mesh),
    )


def _compile(lower, title: str, steps: int = 1) -> Compiled:
    """Compile, and count per step. If the memory is too small, only the needed memory is known, from the error."""
    console.say(f"compiling: {title}")
    started = time.monotonic()
    try:
        with machines.quiet():
            compiled = lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = bytes_needed(str(error))
        if needed is None:
            raise
        return Compiled(None, None, needed, time.monotonic() - started)
    seconds, found = time.monotonic() - started, compiled.memory_analysis()
    memory = {name: getattr(found, f"{part}_size_in_bytes") for name, part in _MEMORY.items()}
    memory["code"] = float(memory["code"])
    total = float(sum(memory.values()) - 2 * memory["aliased"])
    return Compiled(hlo.read(compiled.as_text(), steps=steps), memory, total, seconds)


def bytes_needed(message: str) -> float | None:
    """Bytes that a program would need, from the compiler's error message; None if it is another error."""
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    found = re.search(r"Used ([\d.]+)([KMGT]?) of", message) or re.search(r"\(([\d.]+)([KMGT]?)\) exceeds", message)
    return float(found[1]) * 1024 ** " KMGT".index(found[2] or " ") if found else math.inf


def _image_bytes(description) -> int:
    return math.prod(description.image_shape) * (1 if description.pixel_type == "uint8" else 4)


def _machine(machine) -> dict:
    return {
        "name": machine.name,
        "platform": machine.platform,
        "memory_bytes": machine.memory,
        "usable_bytes": machine.capacity,
        "bandwidth_bytes_per_s": machine.bandwidth,
        "bf16_flops_per_s": machine.peak.get("bf16"),
        "link_bytes_per_s": machine.link,
        "source": machine.source,
    }


def _memory(training: Compiled, resident: int, machine) -> dict:
    parts = training.memory or dict.fromkeys(_MEMORY)
    return {
        **{f"{name}_bytes": value for name, value in parts.items()},
        "data_set_bytes": resident,
        "total_bytes": files.nullable(training.total),
        "capacity_bytes": machine.capacity or None,
    }


def _step(config, description, mesh, machine, program: Program, steps_per_epoch: int) -> dict:
    """The cost of an update: counted, and estimated."""
    count, batch = mesh.size, config.train.batch_size // mesh.size
    forward = costs.forward_flops(config, description, mesh)
    passes = costs.floor_passes(config)
    executed = program.total.flops / batch
    attack = program.attack
    inlined = attack is None and config.objective.name != "standard"
    return {
        "flops_per_chip": program.total.flops,
        "flops_per_image": executed,
        "forward_flops_per_image": forward,
        "floor_passes": passes,
        "flops_over_floor": passes and executed / (passes * forward),
        "bytes_per_chip": program.total.bytes,
        "bytes_per_image": program.total.bytes / batch,
        "kernels": program.total.kernels,
        "attack_steps": program.attack_steps,
        "attack_step": attack and _kernels(attack, batch),
        "attack_note": "inlined: counted in the whole step" if inlined else None,
        "rest_of_step": _kernels(program.rest, batch),
        "communication_bytes": sum(c.bytes * c.executions for c in program.collectives),
        "collectives_in_attack": sum(c.executions for c in program.collectives if c.in_attack),
        "collectives": [
            {"kind": c.kind, "bytes": c.bytes, "per_step": c.executions, "in_attack": c.in_attack, "purpose": c.purpose}
            for c in program.collectives
        ],
        "uncounted": [*program.unknown_loops, *program.unknown_calls],
        "estimate": _estimate(machine, program, count, config.train.batch_size, steps_per_epoch),
    }


def _kernels(cost: Cost, batch: int) -> dict:
    """Kernels and traffic per image, of an attack step or of the rest of the step."""
    return {
        "kernels": cost.kernels,
        "layout_changes": cost.layout_changes,
        "bytes_per_image": cost.bytes / batch,
        "by_kind": {kind: {"kernels": n, "bytes_per_image": b / batch} for kind, (n, b) in cost.by_kind.items()},
    }


def _estimate(machine, program: Program, count: int, images: int, steps_per_epoch: int) -> dict | None:
    """Times of a step of `images` by the machine's rates; weak scaling keeps the batch per chip."""
    least = machines.roofline(machine, program.kernels)
    if least is None:
        return None
    alone = machines.seconds_alone(machine, least)

    def communication(chips):
        return machines.collective_seconds(machine, program.collectives, chips)

    step = alone + communication(count)
    return {
        "images_per_s": images / step,
        "arithmetic_ms": 1e3 * least["arithmetic"],
        "traffic_ms": 1e3 * least["traffic"],
        "kernels_in_turn_ms": 1e3 * least["kernels"],
        "communication_ms": 1e3 * communication(count),
        "step_ms": 1e3 * step,
        "epoch_s": step * steps_per_epoch,
        "share_of_peak": least["arithmetic"] / step,
        "weak_scaling": {
            # A program for one chip has no communication from which to estimate.
            str(chips): alone / (alone + communication(chips))
            for chips in sorted({*_SCALES, count})
            if count > 1
        },
        "weak_scaling_assumes": f"nodes of {machine.node}" if machine.node else "links per chip as in this shape",
    }


def _beside_training(config, description, mesh, training: Compiled, evaluation: Compiled) -> float:
    """Bytes during an evaluation within a training: its state, which contains the weights, and data stay in memory."""
    if training.memory is None or evaluation.memory is None:
        return max(training.total, evaluation.total)
    examples = config.eval.batch_size // mesh.size * (_image_bytes(description) + 12)
    weights = evaluation.memory["arguments"] - examples
    return training.memory["arguments"] + evaluation.total - weights


def _evaluation(config, attack: str, total: float, evaluation: Compiled, machine) -> dict:
    batch, program = config.eval.batch_size, evaluation.program
    least = program and machines.roofline(machine, program.kernels)
    seconds = least and machines.seconds_alone(machine, least)
    return {
        "attack": attack,
        "batch": batch,
        "compile_s": evaluation.seconds,
        "total_bytes": files.nullable(total),
        "flops_per_chip": program and program.total.flops,
        "bytes_per_chip": program and program.total.bytes,
        "collectives": program and len(program.collectives),
        "s_per_1000_examples": seconds and 1000 * seconds / batch,
    }


def _largest_batch(config, description, mesh, capacity, first: Compiled):
    """(largest batch per chip that fits, what limits it: "memory" or "training examples")."""
    # Memory is nearly linear in the batch, so two compilations predict the result and a third confirms it.
    limit = min(description.train_examples // mesh.size, _LARGEST)
    known = {config.train.batch_size // mesh.size: first.total}

    def total(batch):
        if batch not in known:
            changed = config.copy_and_resolve_references()
            changed.train.batch_size = batch * mesh.size
            known[batch] = _compile_training(changed, description, mesh).total
        return known[batch]

    for _ in range(_ATTEMPTS):
        candidate = predict(known, capacity, limit)
        if candidate is None or candidate in known:
            break
        total(candidate)
    fitting = [batch for batch, needed in known.items() if needed <= capacity]
    largest = max(fitting, default=0)
    return largest, "training examples" if largest and round_down(limit) <= largest else "memory"


def predict(known: dict[int, float], capacity: float, limit: int) -> int | None:
    """The next batch per chip to try, given the memory of known batches; None if none is left to try.

    With one known batch: twice its size if it needs less than half the capacity, else half its size. With more: where
    the line through the two batches next to the capacity reaches the capacity.
    """
    sizes = sorted(known)
    fitting = sum(known[size] <= capacity for size in sizes)
    largest, ceiling = ([0, *sizes][fitting], min([limit, *(size - 1 for size in sizes[fitting : fitting + 1])]))
    if len(sizes) == 1:
        guess, largest = (2 * sizes[0] if known[sizes[0]] < capacity / 2 else sizes[0] // 2), 0
    else:
        start = min(max(fitting - 1, 0), len(sizes) - 2)
        one, other = sizes[start : start + 2]
        slope = (known[other] - known[one]) / (other - one)
        if not math.isfinite(slope):  # the memory of the larger one is unknown
            guess = (largest + ceiling) // 2
        else:
            guess = one + (capacity - known[one]) / slope if slope > 0 else ceiling
    guess = round_down(math.floor(min(max(guess, 1), ceiling))) if ceiling > 0 else 0
    return guess if guess > largest and guess not in known else None


def round_down(batch: int) -> int:
    """To a multiple of 8, unless that is 0."""
    return batch - batch % 8 if batch >= 8 else batch


def why_not(figures: dict) -> str:
    """Why the config does not fit, and what would."""
    memory, evaluation = figures["memory"], figures["evaluation"]
    capacity = memory["capacity_bytes"] / machines.GIB

    def needs(total):
        return "more" if total is None else f"{total / machines.GIB:.2f} GiB"

    if memory["total_bytes"] is None or memory["total_bytes"] > memory["capacity_bytes"]:
        what = f"training takes {needs(memory['total_bytes'])} of {capacity:.2f} GiB per chip"
        largest = figures["largest_batch_per_chip"]
        if largest is None:
            remedy = "lower it, or leave out --nosearch to find the largest that fits"
        elif largest == 0:
            remedy = "no batch fits: use another machine, or another model"
        else:
            remedy = f"the largest batch that fits is {largest} per chip, {largest * figures['chips']} in all"
        return f"train.batch_size = {figures['batch']}: {what}; {remedy}"
    what = f"evaluation under {evaluation['attack']} takes {needs(evaluation['total_bytes'])} of {capacity:.2f} GiB"
    return f"eval.batch_size = {evaluation['batch']}: {what} per chip; lower it"
