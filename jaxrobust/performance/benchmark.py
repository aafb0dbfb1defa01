"""The speed of training and evaluation steps on this machine, beside the minimum arithmetic.

The floor is the minimum arithmetic. For PGD with k steps it is k forward passes with gradients with respect to the
images (2F each), and one forward pass with gradients with respect to images and weights (3F), where F is one forward
pass. Only convolutions and matrix products are counted, both in F and in the compiled program. Rates of arithmetic use
the floor: arithmetic beyond it does not count as useful. A step can execute less than the floor, because an update does
not need the gradient of the first layer with respect to the images; the difference is large if the rest of the model is
small.
"""

import math

import jax
import numpy as np
from rich.table import Table

from jaxrobust import config as config_lib, console, data, files, models
from jaxrobust.attacks import suites
from jaxrobust.config import objects, validation
from jaxrobust.data import batches, randomness
from jaxrobust.distributed import cluster, parallel
from jaxrobust.errors import UserError
from jaxrobust.evaluation import loading
from jaxrobust.performance.compiled import costs, hlo, machines, measuring
from jaxrobust.performance.compiled.program import Cost, Program
from jaxrobust.training import epochs, input_pipeline, setup as training_setup

_PROFILED_DISPATCHES = 3
# JAX's names of the devices with known rates. Other devices of the same family have different memory or clock rates.
_MACHINES = {"NVIDIA H200": "h200", "NVIDIA H100 80GB HBM3": "h100", "NVIDIA A100-SXM4-80GB": "a100"}
_MACHINES |= {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p"}
_MACHINES |= {"TPU v6 lite": "v6e", "TPU v6e": "v6e"}


def measure(config, description: data.Description, *, seconds=10.0, steps_per_repeat=None, profile=None) -> dict:
    """Run the config's train and evaluation steps on random pixels, on all devices of this host.

    Args:
        seconds: approximate time to spend on each quantity; more if three repeats of one step take longer.
        steps_per_repeat: number of training steps in each repeat; replaces `seconds`.
        profile: folder for a trace.

    Returns:
        JSON data by name; names include the units, and unknown values are None.

    Raises:
        UserError: the config is wrong, data cannot be streamed, or this is one of several processes.
    """
    _check_alone()
    mesh = parallel.make_mesh()
    validation.validate(config, mesh.size)
    validation.check_images(config, description.image_shape)
    if profile is not None:
        files.writable(profile, "profile").mkdir(parents=True, exist_ok=True)
    batch, local_batch = config.train.batch_size, config.train.batch_size // mesh.size
    steps_per_epoch = batches.steps_per_epoch(description.train_examples, batch)
    dataset = data.random_dataset(description)
    train = dataset.train  # of limited size: `missing` bytes of the training set are not on the device
    missing = (description.train_examples - len(train)) * (train.images[0].nbytes + train.labels[0].nbytes)
    input_rate = _input_rate(config, seconds)  # first, so that an error in the data is found before long measurements

    console.say(f"compiling {config.model.name} for {mesh.size} x {mesh.devices.flat[0].device_kind}, cold and warm")
    training = Training(config, dataset, mesh, steps_per_epoch * config.train.epochs)
    forward = costs.forward_flops(config, description, mesh)
    passes = costs.floor_passes(config)
    compilation = measuring.compilation(training.lower)
    training.compiled = compilation.compiled
    program = hlo.read(compilation.compiled.as_text(), steps=training.length)

    console.say(f"training steps, batch {batch}")
    dispatches = steps_per_repeat and math.ceil(steps_per_repeat / training.length)
    budget = {"seconds": seconds, "times": dispatches}
    loop = measuring.plan(training.loop, least=3, **budget)
    bare = measuring.Work(training.back_to_back, loop.times, loop.repeats)  # same counts, since both are compared
    # Read now, before the other measurements allocate memory that a training does not need.
    peak_bytes, peak_source = measuring.peak_memory(mesh)
    attacked = config.objective.name != "standard"
    standard = measuring.plan(_without_attack(config, dataset, training).loop, least=3, **budget) if attacked else loop
    spec = suites.costliest(config.eval.attacks, config.threat.norm)
    eval_attack = spec.name if spec else "clean"
    console.say(f"evaluation under {eval_attack}, batch {config.eval.batch_size}")
    evaluating, share = _evaluation(config, dataset, mesh, spec, training)
    evaluation = measuring.plan(evaluating, least=3, seconds=seconds, times=steps_per_repeat)
    console.say("measuring all of them in turns")
    measuring.in_turns([loop, bare, *([standard] if attacked else []), evaluation])
    product = measuring.matrix_product(mesh, config.model.dtype)
    if profile:
        with jax.profiler.trace(profile):
            training.loop(_PROFILED_DISPATCHES)
        traced = _PROFILED_DISPATCHES * training.length
        console.say(f"trace of {traced} steps: pip install xprof; xprof --logdir {profile}")

    per_step = [s / training.length for s in loop.seconds]
    step_s, bare_s = loop.median / training.length, bare.median / training.length
    images_per_s = batch / step_s
    floor = passes and passes * forward
    executed = program.total.flops / local_batch
    memory = compilation.compiled.memory_analysis()
    roofline_s = roofline_seconds(mesh.devices.flat[0].device_kind, program, mesh.size)
    return files.nullable(
        _settings(config, description, mesh)
        | {
            "steps_per_dispatch": training.length,
            "repeats": loop.repeats,
            "steps_per_repeat": loop.times * training.length,
            "images_per_s": images_per_s,
            "s_per_epoch": steps_per_epoch * step_s,
            "ms_per_step": 1e3 * step_s,
            "ms_per_step_fastest": 1e3 * min(per_step),
            "ms_per_step_slowest": 1e3 * max(per_step),
            "ms_per_step_back_to_back": 1e3 * bare_s,
            "roofline_ms_per_step": roofline_s and 1e3 * roofline_s,
            "host_gap_ms_per_step": 1e3 * (step_s - bare_s),
            "host_gap_percent": 100 * (step_s - bare_s) / step_s,
            "clean_ms_per_step": 1e3 * standard.median / training.length,
            "epoch_over_clean_epoch": loop.median / standard.median,
            "eval_attack": eval_attack,
            "eval_batch": config.eval.batch_size,
            "eval_examples_per_s": config.eval.batch_size * share / evaluation.median,
            "compile_s": compilation.cold,
            "compile_warm_s": compilation.warm,
            "trace_s": compilation.traced,
            "forward_flops_per_image": forward,
            "floor_passes": passes,
            "floor_flops_per_image": floor,
            "flops_per_image": executed,
            "flops_over_floor": floor and executed / floor,
            "uncounted": sorted(program.unknown_loops + program.unknown_calls),
            "tflops_per_s": floor and 1e-12 * floor * images_per_s,
            "matmul_tflops_per_s": 1e-12 * product.flops_per_second,
            "matmul_size": product.size,
            "tflops_over_matmul": floor and floor * images_per_s / product.flops_per_second,
            "peak_bytes": peak_bytes,
            "peak_bytes_source": peak_source,
            "program_argument_bytes": memory and memory.argument_size_in_bytes,
            "program_temporary_bytes": memory and memory.temp_size_in_bytes,
            "data_set_bytes_missing": 0 if config.data.streaming else missing,
            **_kernels("attack_step", program.attack if attacked else None, local_batch),
            **_kernels("step", program.total, local_batch),
            "input_images_per_s": input_rate,
            "needed_images_per_s": None if input_rate is None else images_per_s,
            "profile": profile,
        }
    )


def _settings(config, description: data.Description, mesh) -> dict:
    """What is measured, and where."""
    device = mesh.devices.flat[0]
    return {
        "model": config.model.name,
        "model_title": models.title(config.model.name, config.model),
        "dtype": config.model.dtype,
        "objective": config.objective.name,
        "batch": config.train.batch_size,
        "attack_steps": config.attack.steps if config.objective.name != "standard" else 0,
        "attack_restarts": config.attack.restarts,
        "attack_batch_norm": config_lib.attack_batch_norm(config.objective.name, config.attack.batch_norm),
        "data": description.name,
        "image_shape": description.image_shape,
        "classes": description.num_classes,
        "train_examples": description.train_examples,
        "device": device.device_kind,
        "platform": device.platform,
        "devices": mesh.size,
        "jax": jax.__version__,
        "streamed": config.data.streaming,
    }


def _kernels(name: str, cost: Cost | None, local_batch: int) -> dict:
    of = cost and (cost.kernels, cost.layout_changes, cost.bytes / local_batch)
    names = (f"{name}_kernels", f"{name}_layout_changes", f"{name}_bytes_per_image")
    return dict(zip(names, of or [None] * 3, strict=True))


class Training:
    """The updates of a config, `length` in a dispatch, and a `state` to run them on; the caller sets `compiled`."""

    def __init__(self, config, dataset, mesh, total_steps: int):
        self.mesh, self.total_steps = mesh, total_steps
        training = training_setup.create(config, dataset, mesh, total_steps)
        self.state = training.initial_state()
        prepare = _streamed if config.data.streaming else input_pipeline.resident
        self._updates, self._inputs = prepare(training)
        self._key = randomness.key(config.train.seed, randomness.Purpose.TRAINING)
        self.length = 1 if prepare is _streamed else training.steps_per_dispatch
        rng = np.random.default_rng(config.train.seed)
        self._order = rng.integers(0, len(dataset.train), (self.length, config.train.batch_size), np.int32)
        _, self._arguments = next(self._inputs(self._order, 0))
        self.compiled = None

    def lower(self) -> jax.stages.Lowered:
        """Lower the updates to XLA's input, which can be compiled."""
        return self._updates.lower(self.state, *self._arguments, self._key)

    def loop(self, dispatches: int) -> None:
        """Run the loop of a training: indices come from the host, which reads each loss one dispatch later."""
        inputs = self._inputs(np.tile(self._order, (dispatches, 1)), 0)
        silent = {"log_loss": lambda step, loss: None, "advance": lambda length: None, "stop": False}
        self.state, _ = epochs.update(self.state, 0, self.compiled, inputs, self._key, **silent)

    def back_to_back(self, dispatches: int) -> None:
        """Train without the host's work between dispatches: all of them are started at once."""
        for _ in range(dispatches):
            self.state, losses = self.compiled(self.state, *self._arguments, self._key)
        jax.block_until_ready(losses)


def _without_attack(config, dataset, training: Training) -> Training:
    """The same training by the objective standard, compiled."""
    console.say("training steps without an attack")
    clean = config.copy_and_resolve_references()
    clean.objective.name = "standard"
    clean.remedy.name = "none"  # a remedy may set knobs that only an attack has
    cleanly = Training(clean, dataset, training.mesh, training.total_steps)
    cleanly.compiled = cleanly.lower().compile()
    return cleanly


def _streamed(training):
    """As `input_pipeline.streamed`, but without reading: the host sends decoded images."""

    def inputs(order, first_step):
        for indices in order:
            part = training.data.train.take(indices)
            yield 1, parallel.shard((part.images, part.labels), training.mesh)

    return training.streamed_step(), inputs


def _evaluation(config, dataset, mesh, spec, training: Training):
    """Compile an evaluation step: run(number of batches sent from the host), and the share of the attack in it: if it
    is divided into parts, that of the first, for an example that withstands it."""
    size = config.eval.batch_size
    part = dataset.train.take(np.arange(size) % len(dataset.train))
    ids = np.arange(size, dtype=np.int32)
    radius = np.full(size, config_lib.radius(config), np.float32)
    key = randomness.key(config.eval.seed, randomness.Purpose.EVALUATION)
    classifier = loading.classifier(config, dataset.num_classes, mesh)
    if spec is None:
        step, share, keeps_state = classifier.predict_step, 1.0, True
    else:
        attacker = classifier.attacker(spec, config.threat.norm, config_lib.relative_step(config))
        (step, share), keeps_state = attacker.first_part(), attacker.has_parts

    def arguments():
        if spec is None:
            return training.state.weights, parallel.shard(part.images, mesh)
        batch = parallel.shard((part.images, part.labels, ids, radius), mesh)
        return training.state.weights, *batch, key, np.int32(0)

    step = step.lower(*arguments()).compile()

    def run(times):
        def outputs():
            for _ in range(times):
                yield step(*arguments())

        for output in parallel.one_behind(outputs()):
            # The outputs that an evaluation copies to the host: the verdict, and the state if another part follows.
            jax.tree.map(np.asarray, output if keeps_state else output[-1])

    return run, share


def _input_rate(config, seconds: float) -> float | None:
    """Images per second that this host reads and decodes; None if the data are not streamed or not available."""
    if not config.data.streaming:
        return None
    if not data.is_there(config.data.name, config.data.data_dir):
        console.say(f"{config.data.name} is not available: the input pipeline is not measured")
        return None
    from jaxrobust.data import streaming

    console.say("input pipeline")
    options = {"operations": tuple(config.data.augment), "crop_scale": tuple(config.data.crop_scale)}
    split, batch_size = objects.dataset(config).train, config.train.batch_size
    return streaming.images_per_second(split, batch_size=batch_size, seconds=seconds, **options)


def roofline_seconds(device_kind: str, program: Program, count: int) -> float | None:
    """Minimum time of a step on `count` devices, as in preflight; None if the rates of the device are unknown."""
    if device_kind not in _MACHINES:
        return None
    machine = machines.MACHINES[_MACHINES[device_kind]]
    alone = machines.seconds_alone(machine, machines.roofline(machine, program.kernels))
    return alone + machines.collective_seconds(machine, program.collectives, count)


def _check_alone() -> None:
    job = cluster.find(None, None, None)
    if (job is not None and job.processes is not None) or jax.process_count() > 1:
        remedy = "start it in a job of one process, under SLURM with --ntasks=1"
        raise UserError(f"this is one of several processes: the benchmark measures one host; {remedy}")


def table(figures: dict) -> Table:
    """The figures as a table for the terminal."""
    f = figures
    attack = f"PGD-{f['attack_steps']}" if f["attack_steps"] else "no attack"
    title = f"{f['model_title']} in {f['dtype']}, {f['objective']}, {attack}, batch {f['batch']}"
    shape = " x ".join(map(str, f["image_shape"]))
    result = Table(title=f"{title}, random {shape} pixels, on {f['devices']} x {f['device']}", show_header=False)
    launches = "launches" if f["platform"] == "gpu" else "operations of the compiled program (on a GPU: launches)"
    repeats = f"{f['repeats']} x {f['steps_per_repeat']} steps"
    floor = f"floor {f['floor_passes']} F, F = {_number(f['forward_flops_per_image'] / 1e9)} GFLOP"

    def row(name, unit, key, note="", scale=1.0):
        value = "unknown" if f[key] is None else f"{_number(f[key] / scale)} {unit}"
        result.add_row(name, value, note)

    of_loop = "images decoded beforehand" if f["streamed"] else "without evaluation and checkpoints"
    row("training", "images/s", "images_per_s", f"the training loop, {of_loop}")
    row("  epoch", "s", "s_per_epoch", f"of the {f['train_examples']:,} images of {f['data']}")
    row("  step, median", "ms", "ms_per_step", f"of {repeats}, {f['steps_per_dispatch']} a dispatch")
    row("  step, fastest", "ms", "ms_per_step_fastest")
    row("  step, slowest", "ms", "ms_per_step_slowest")
    if f["roofline_ms_per_step"] is not None:
        row("  step, roofline", "ms", "roofline_ms_per_step", "estimated limit by bandwidth and peak rates")
    gap = f"{f['host_gap_percent']:.1f} %: time of the loop beyond the device's time"
    row("  host gap of a step", "ms", "host_gap_ms_per_step", gap)
    if f["attack_steps"]:
        row("  over one without attack", "x", "epoch_over_clean_epoch", "same batch, objective standard")
    row("evaluation", "images/s", "eval_examples_per_s", f"{f['eval_attack']}, batch {f['eval_batch']}")
    if f["input_images_per_s"] is not None:
        need = f"the step needs {_number(f['needed_images_per_s'])}"
        row("input of this host", "images/s", "input_images_per_s", need)
    row("compilation, cold", "s", "compile_s", "empty persistent cache")
    row("compilation, warm", "s", "compile_warm_s", "from the persistent cache")
    missing = f["data_set_bytes_missing"]
    less = f"; {_number(missing / 1e9)} GB of the data set are not included" if missing else ""
    row("peak memory", "GB", "peak_bytes", f["peak_bytes_source"] + less, 1e9)
    row("  arguments of the step", "GB", "program_argument_bytes", f"on one device, including its data{less}", 1e9)
    row("  temporaries of the step", "GB", "program_temporary_bytes", "on one device", 1e9)
    row("arithmetic of an image", "GFLOP", "flops_per_image", "executed", 1e9)
    row("  over the floor", "x", "flops_over_floor", floor)
    row("useful arithmetic", "TFLOP/s", "tflops_per_s", "arithmetic of the floor, all devices")
    product = f"{_number(f['matmul_tflops_per_s'])} TFLOP/s, {f['matmul_size']} x {f['matmul_size']}"
    row("  of a matrix product", "%", "tflops_over_matmul", product, 0.01)
    for name, part in (("attack step", "attack_step"), ("whole step", "step")):
        if part == "attack_step" and f["attack_step_kernels"] is None:
            if f["attack_steps"]:
                result.add_row(name, "", "inlined: counted in the whole step")
            continue
        row(name, "kernels", f"{part}_kernels", launches)
        row("  layout changes", "kernels", f"{part}_layout_changes", "transposes and copies to another layout")
        row("  memory traffic", "MB/image", f"{part}_bytes_per_image", "operands and results of every kernel", 1e6)
    return result


def _number(value: float) -> str:
    """With three significant digits, or all digits of the integer part."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
