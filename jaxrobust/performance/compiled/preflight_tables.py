"""The results of a preflight as tables."""

import collections

from rich.table import Column, Table

from jaxrobust.performance.compiled.machines import GIB, MEMORY_FRACTION


def tables(figures: dict) -> list[tuple[str, Table]]:
    """(title, table): memory; arithmetic, traffic and communication; estimates."""
    result = [_memory(figures)]
    if figures["step"]:
        result += [_counted(figures), _estimated(figures)]
    return result


def _table() -> Table:
    return Table("quantity", Column("value", justify="right"), "")


def _gib(value: float | None) -> str:
    return "too much" if value is None else f"{value / GIB:,.3f} GiB"


def _memory(f: dict) -> tuple[str, Table]:
    memory, evaluation = f["memory"], f["evaluation"]
    title = (
        f"{f['model']} in {f['dtype']}, {f['data']}, batch {f['batch']:,} = {f['chips']} x {f['batch_per_chip']}, on "
        f"{f['topology']}: memory per chip, as compiled"
    )
    table = _table()
    if memory["arguments_bytes"] is not None:
        table.add_row("arguments", _gib(memory["arguments_bytes"]), f"data set {_gib(memory['data_set_bytes'])}")
        outputs = memory["outputs_bytes"] - memory["aliased_bytes"]
        table.add_row("outputs", _gib(outputs), "without those that reuse the memory of arguments")
        gpu = "without cuDNN's workspaces, which the device chooses" if f["machine"]["platform"] == "gpu" else ""
        table.add_row("temporaries", _gib(memory["temporaries_bytes"]), gpu)
        table.add_row("code", _gib(memory["code_bytes"]))
    capacity = memory["capacity_bytes"]
    of = f"of {_gib(capacity)}" if capacity else ""
    if f["machine"]["platform"] == "gpu":
        of += f", the share that JAX reserves of {_gib(f['machine']['memory_bytes'])} ({MEMORY_FRACTION[0]})"
    table.add_row("training, all", _gib(memory["total_bytes"]), of)
    note = f"{evaluation['attack']}, batch {evaluation['batch']:,}, with the training's state and data in memory"
    table.add_row("evaluation, all", _gib(evaluation["total_bytes"]), note)
    table.add_row("fits", "yes" if f["fits"] else "NO")
    if f["largest_batch_per_chip"] is not None:
        table.add_row(
            "largest batch that fits", f"{f['largest_batch_per_chip']:,}", f"limited by {f['largest_batch_limit']}"
        )
    return title, table


def _counted(f: dict) -> tuple[str, Table]:
    step = f["step"]
    title, table = "one training step, counted in the compiled program", _table()
    table.add_row("steps in a program", str(f["steps_per_dispatch"]), "work done once per program is divided by it")
    table.add_row("arithmetic", f"{1e-9 * step['flops_per_image']:,.4g} GFLOP/image", "convolutions, matrix products")
    if step["flops_over_floor"]:
        floor = f"{step['floor_passes']} forward passes of {1e-9 * step['forward_flops_per_image']:.4g} GFLOP"
        table.add_row("  over the floor", f"{step['flops_over_floor']:.3f} x", floor)
    table.add_row("memory traffic", f"{1e-6 * step['bytes_per_image']:,.1f} MB/image", "operands and results")
    if step["attack_note"]:
        table.add_row("attack", "", step["attack_note"])
    rest = "rest of the step" if step["attack_step"] else "whole step"
    for name, part in (("attack step", step["attack_step"]), (rest, step["rest_of_step"])):
        if part is None:
            continue
        times = f" (x {step['attack_steps']})" if part is step["attack_step"] else ""
        table.add_row(f"{name}{times}", f"{1e-6 * part['bytes_per_image']:,.2f} MB/image", _kinds(part))
        table.add_row("  operations", f"{part['kernels']:,.0f}", f"layout changes: {part['layout_changes']:,.0f}")
    groups = collections.defaultdict(list)
    for c in step["collectives"]:
        where = "in the attack loop" if c["in_attack"] else "outside the attack loop"
        groups[c["kind"], f"{c['purpose']}; {where}"].append(c)
    for (kind, purpose), members in groups.items():
        times = sum(c["per_step"] for c in members)
        total = sum(c["per_step"] * c["bytes"] for c in members)
        table.add_row(f"{kind} (x {times:g})", f"{1e-6 * total:,.4g} MB/chip", purpose)
    if step["uncounted"]:
        table.add_row("not counted", str(len(step["uncounted"])), ", ".join(step["uncounted"]))
    return title, table


def _kinds(part: dict) -> str:
    kinds = sorted(part["by_kind"].items(), key=lambda item: -item[1]["bytes_per_image"])
    return ", ".join(f"{kind} {1e-6 * of['bytes_per_image']:.2f}" for kind, of in kinds[:4])


def _estimated(f: dict) -> tuple[str, Table]:
    machine, estimate, evaluation = f["machine"], f["step"]["estimate"], f["evaluation"]
    title, table = "estimates: limits by bandwidth and peak rates, which a run will not reach", _table()
    if estimate is None:
        table.add_row("not available", "", f"the rates of a {machine['name']} are not known")
        return title, table
    rates = f"{1e-12 * machine['bf16_flops_per_s']:,.4g} TFLOP/s, {1e-12 * machine['bandwidth_bytes_per_s']:,.4g} TB/s"
    table.add_row("arithmetic", f"{estimate['arithmetic_ms']:,.2f} ms", f"at {rates}: {machine['source']}")
    table.add_row("memory traffic", f"{estimate['traffic_ms']:,.2f} ms")
    table.add_row("larger of both, each operation", f"{estimate['kernels_in_turn_ms']:,.2f} ms", "one after another")
    ring = f"ring at {1e-9 * machine['link_bytes_per_s']:,.4g} GB/s per direction, without overlap"
    table.add_row("communication", f"{estimate['communication_ms']:,.3f} ms", ring)
    what = "operations in turn" if machine["platform"] == "gpu" else "larger of arithmetic and traffic"
    table.add_row(
        "step", f"{estimate['step_ms']:,.2f} ms", f"{what}, and communication; {estimate['share_of_peak']:.0%} of peak"
    )
    fed = ", which the hosts must feed" if f["streamed"] else ""
    table.add_row("images", f"{estimate['images_per_s']:,.0f} /s", f"on all chips{fed}")
    table.add_row("epoch", f"{estimate['epoch_s']:,.1f} s", f"{f['steps_per_epoch']:,} steps, without evaluation")
    if estimate["weak_scaling"]:
        scaling = ", ".join(f"{chips}: {share:.1%}" for chips, share in estimate["weak_scaling"].items())
        assumed = f"chips: efficiency against one, same batch per chip, {estimate['weak_scaling_assumes']}"
        table.add_row("weak scaling", scaling, assumed)
    if evaluation["s_per_1000_examples"]:
        table.add_row(
            "evaluation", f"{evaluation['s_per_1000_examples']:.3f} s", f"1,000 images, {evaluation['attack']}"
        )
    return title, table
