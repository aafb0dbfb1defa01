"""Topologies by name, rates by hand, and compilers that may not be installed."""

import importlib.util
import os
import tempfile

import pytest

from jaxrobust.errors import FieldError
from jaxrobust.performance.compiled import machines
from jaxrobust.performance.compiled.program import Collective, Kernel


@pytest.mark.parametrize(
    "topology, name, count",
    [
        ("v5e:16x16", "v5e", 256),
        ("v5p:2x2x4", "v5p", 16),
        ("v6e:2x4", "v6e", 8),
        ("h200:8", "h200", 8),
        ("a100:1", "a100", 1),
    ],
)
def test_topologies(topology, name, count):
    machine, found = machines.parse(topology)
    assert machine.name == name and found == count


@pytest.mark.parametrize(
    "topology, problem",
    [
        ("v5e", "2 numbers"),
        ("v5e:8", "2 numbers"),
        ("v5p:4x4", "3 numbers"),
        ("h200:2x4", "1 numbers"),
        ("h200:0", "1 numbers"),
        ("h200:12", "multiple of 8"),
        ("b300:8", "none of"),
    ],
)
def test_topologies_that_are_none(topology, problem):
    with pytest.raises(FieldError, match=problem):
        machines.parse(topology)


def test_the_table_is_whole():
    for machine in machines.MACHINES.values():
        if machine.platform == "cpu":
            continue
        assert machine.source.startswith("https://") and machine.memory > 1e10
        assert machine.peak["bf16"] >= machine.peak["f32"] > machine.peak["f32 highest"] > 1e13
        # What a byte of memory traffic is worth in arithmetic, and of communication in memory traffic.
        assert 100 < machine.peak["bf16"] / machine.bandwidth < 600
        assert 2 < machine.bandwidth / machine.link < 12


def test_a_gpu_is_used_as_far_as_jax_takes_it(monkeypatch):
    machine = machines.MACHINES["h200"]
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    assert machine.capacity == 0.75 * machine.memory
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.9")
    assert machine.capacity == 0.9 * machine.memory
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")
    assert machine.capacity == 0.5 * machine.memory
    assert machines.MACHINES["v5e"].capacity == machines.MACHINES["v5e"].memory


@pytest.mark.parametrize("name", machines.MEMORY_FRACTION)
@pytest.mark.parametrize("value", ["half", "75", "0", "nan"])
def test_a_share_of_the_memory_that_is_none(name, value, monkeypatch):
    monkeypatch.delenv(machines.MEMORY_FRACTION[0], raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(FieldError, match=f"^{name} = '{value}'"):
        _ = machines.MACHINES["h200"].capacity


@pytest.mark.parametrize(
    "topology, share",
    [
        ("v5e:16x16", 1),
        ("v6e:8x16", 0.75),
        ("v5e:2x4", 0.5),
        ("v5e:4x4", 0.5),
        ("v5e:1x4", 0.25),
        ("v5e:1x1", 0),
        ("v5p:4x4x8", 1),
        ("v5p:2x2x4", 0.5),
        ("v4:2x4x4", 0.5),
        ("v4:2x2x1", 1 / 3),
        ("h200:16", 1),
    ],
)
def test_small_slices_have_no_links_around(topology, share):
    machine, _ = machines.parse(topology)
    assert machine.link == pytest.approx(share * machines.MACHINES[machine.name].link)


def kernel(kind, flops, traffic, executions=1.0, dtype=""):
    return Kernel("k", kind, flops, traffic, dtype, executions, False)


def test_roofline():
    machine = machines.MACHINES["v5e"]
    kernels = (
        kernel("convolution", 197e12, 0.5 * 819e9, executions=2, dtype="bf16"),  # 1 s of arithmetic, half of traffic
        kernel("elementwise", 0.0, 819e9, executions=3),  # 1 s of traffic
        kernel("matmul", 197e12 / 6, 0.0, dtype="f32 highest"),  # 1 s
        kernel("collective", 0.0, 819e9),
    )
    assert machines.roofline(machine, kernels) == pytest.approx(
        {"arithmetic": 3.0, "traffic": 4.0, "whole": 4.0, "kernels": 6.0}
    )
    assert machines.roofline(machines.MACHINES["cpu"], kernels) is None


def test_a_ring_sends_nearly_twice_the_payload():
    h200 = machines.MACHINES["h200"]
    assert machines.all_reduce_seconds(h200, 450e9, 1) == 0
    assert machines.all_reduce_seconds(h200, 450e9, 8) == pytest.approx(2 * 7 / 8)
    # Two nodes: each of eight GPUs brings its eighth to the other node through its own adapter.
    both = 2 * 7 / 8 * 400e9 / 450e9 + 2 * 1 / 2 * 50e9 / 50e9
    assert machines.all_reduce_seconds(h200, 400e9, 16) == pytest.approx(both)
    both = 2 * 7 / 8 * 400e9 / 450e9 + 2 * 31 / 32 * 50e9 / 50e9
    assert machines.all_reduce_seconds(h200, 400e9, 256) == pytest.approx(both)
    v5e = machines.MACHINES["v5e"]
    assert machines.all_reduce_seconds(v5e, 200e9, 256) == pytest.approx(2 * 255 / 256)


def test_communication_of_a_step():
    collectives = (
        Collective("all-reduce", 450e9, 3.0, True, "batch statistics"),
        Collective("all-gather", 450e9, 1.0, False, "gradients and sums"),
    )
    assert machines.collective_seconds(machines.MACHINES["h200"], collectives, 8) == pytest.approx(3.5 * 2 * 7 / 8)


@pytest.mark.parametrize("topology, extra", [("v5e:2x4", "tpu"), ("h200:8", "cuda")])
def test_a_compiler_that_is_missing_is_named_with_its_extra(topology, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FieldError, match=rf"^topology.*not installed.*\.\[{extra}\]"):
        machines.devices(topology)


def test_a_gpu_compiler_that_does_not_load(monkeypatch):
    """As where a CUDA wheel is missing: JAX leaves the platform out."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)

    def absent(platform, **_):
        raise NotImplementedError(f"topology not implemented for {platform}")

    monkeypatch.setattr(machines.topologies, "get_topology_desc", absent)
    with pytest.raises(FieldError, match=r"h200:8.*CUDA compiler did not load; .*wheels"):
        machines.devices("h200:8")


def test_more_cpu_devices_than_there_are():
    assert len(machines.devices("cpu:2")) == 2
    with pytest.raises(FieldError, match="8 CPU devices"):
        machines.devices("cpu:16")


def test_quiet_hides_what_libraries_print(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    os.write(2, b"before\n")
    with pytest.raises(ValueError, match="kept"), machines.quiet():
        os.write(2, b"noise\n")
        (kept,) = tmp_path.glob("jaxrobust-*.log")  # what an abort would leave
        assert kept.read_bytes() == b"noise\n"
        raise ValueError("kept")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n" and not list(tmp_path.iterdir())
