# ruff: noqa: E501 (lines of HLO text)
"""Counts read from programs compiled here, and from short texts in the forms of GPU and TPU compilers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrobust.attacks.pgd import LOOP
from jaxrobust.distributed import parallel
from jaxrobust.performance.compiled import flops, hlo
from jaxrobust.performance.compiled.program import Cost

X = jax.ShapeDtypeStruct((2, 16, 16, 8), jnp.float32)
KERNEL = jax.ShapeDtypeStruct((3, 3, 8, 8), jnp.float32)
CONVOLUTION = 2 * (2 * 16 * 16 * 8) * (3 * 3 * 8)


def conv2d(x, kernel, stride, padding):
    """NHWC by HWIO."""
    pads = [(padding, padding)] * 2
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def compiled(function, *arguments, **options):
    return hlo.read(jax.jit(function).lower(*arguments).compile().as_text(), **options)


def ascend(x, kernel, steps):
    """A loop as an attack is: forward pass and input gradient."""
    slope = jax.grad(lambda x: jnp.square(conv2d(x, kernel, 1, 1)).sum())
    with jax.named_scope(LOOP):
        return jax.lax.scan(lambda x, _: (x + jnp.sign(slope(x)), None), x, length=steps)[0]


def update(x, kernel, steps):
    """A training step: the attack, then forward pass and gradients of everything."""
    x = ascend(x, kernel, steps)
    gradients = jax.grad(lambda x, k: jnp.square(conv2d(x, k, 1, 1)).sum(), (0, 1))(x, kernel)
    return kernel + gradients[1], gradients[0]


def test_convolutions_and_gradients_cost_what_the_trace_says():
    def gradients(x, kernel):
        return jax.grad(lambda x, k: jnp.square(conv2d(x, k, 2, 1)).sum(), (0, 1))(x, kernel)

    program = compiled(gradients, X, KERNEL)
    assert program.total.flops == flops.forward(gradients, X, KERNEL) == 3 * CONVOLUTION / 4
    assert program.attack is None and program.attack_steps == 0
    assert program.rest == program.total and not program.unknown_loops and not program.unknown_calls


def test_the_attack_loop_counts_as_often_as_it_runs():
    program = compiled(lambda x, k: update(x, k, 5), X, KERNEL)
    assert program.attack_steps == 5
    assert program.attack.flops == 2 * CONVOLUTION
    assert program.rest.flops == 3 * CONVOLUTION
    assert program.total.flops == (2 * 5 + 3) * CONVOLUTION
    assert program.total.kernels == pytest.approx(5 * program.attack.kernels + program.rest.kernels)
    assert program.total.bytes == pytest.approx(5 * program.attack.bytes + program.rest.bytes)


def test_several_steps_in_one_program_are_reported_per_step():
    def updates(x, kernel):
        return jax.lax.scan(lambda k, _: (update(x, k, 5)[0], None), kernel, length=3)[0]

    program = compiled(updates, X, KERNEL, steps=3)
    assert program.attack_steps == 5 and program.attack.flops == 2 * CONVOLUTION
    # The images' gradient of the update goes nowhere and is not computed.
    assert program.total.flops == pytest.approx((2 * 5 + 2) * CONVOLUTION)

    def without_attack(x, kernel):
        slope = jax.grad(lambda k: jnp.square(conv2d(x, k, 1, 1)).sum())
        return jax.lax.scan(lambda k, _: (k - slope(k), None), kernel, length=3)[0]

    program = compiled(without_attack, X, KERNEL, steps=3)
    assert program.attack is None and program.total.flops == 2 * CONVOLUTION


def test_an_attack_that_is_unrolled_is_no_loop():
    program = compiled(lambda x, k: ascend(ascend(x, k, 1), k, 1), X, KERNEL)
    assert program.attack is None and program.total.flops == 4 * CONVOLUTION


@pytest.mark.parametrize("steps", [1, 2])
def test_the_loop_over_restarts_is_not_the_attack(steps):
    """One step from each start is inlined there."""

    def restarted(x, kernel):
        return jax.lax.scan(lambda x, _: (ascend(x, kernel, steps), None), x, length=2)[0]

    program = compiled(restarted, X, KERNEL)
    assert program.total.flops == 2 * steps * 2 * CONVOLUTION
    assert program.attack_steps == (0 if steps == 1 else 4)
    assert program.attack is None if steps == 1 else program.attack.flops == 2 * CONVOLUTION


def test_traffic_of_one_elementwise_kernel():
    program = compiled(lambda x: jnp.sin(x) + 1, jax.ShapeDtypeStruct((1024,), jnp.float32))
    assert program.total == Cost(0, 2 * 4096, 1, {"elementwise": (1, 2 * 4096)})


def test_a_slice_of_a_large_array_moves_the_slice():
    data = jax.ShapeDtypeStruct((50_000, 32), jnp.float32)
    index = jax.ShapeDtypeStruct((8,), jnp.int32)
    program = compiled(lambda data, index: data[index] * 2, data, index)
    assert program.total.bytes < 10 * (8 * 32 * 4)


def test_collectives_say_what_they_carry():
    mesh = parallel.make_mesh(jax.devices()[:4])

    @parallel.step(parallel.SHARDED, parallel.REPLICATED, out=parallel.REPLICATED)
    def step(x, kernel):
        x = ascend(x, kernel, 5)
        gradient = jax.grad(lambda k: jnp.square(conv2d(x, k, 1, 1)).sum())(kernel)
        return jax.lax.pmean(gradient, parallel.AXIS), jax.lax.psum((x > 0).sum(dtype=jnp.int32), parallel.AXIS)

    function = parallel.spmd(step, mesh)
    x = jax.ShapeDtypeStruct((8, 16, 16, 8), jnp.float32)
    program = hlo.read(function.lower(x, KERNEL).compile().as_text())
    found = {(c.kind, c.bytes, c.executions, c.in_attack, c.purpose) for c in program.collectives}
    gradient_bytes = 4 * np.prod(KERNEL.shape)
    assert found == {
        ("all-reduce", gradient_bytes, 1, False, "gradients and sums"),
        ("all-reduce", 4, 1, False, "class counts"),
    }


def test_a_collective_in_the_attack_loop_is_counted_there():
    mesh = parallel.make_mesh(jax.devices()[:2])

    @parallel.step(parallel.SHARDED, parallel.REPLICATED, out=parallel.SHARDED)
    def step(x, kernel):
        def body(x, _):
            y = conv2d(x, kernel, 1, 1)
            return y - jax.lax.pmean(y.mean((0, 1, 2), keepdims=True), parallel.AXIS), None

        with jax.named_scope(LOOP):
            return jax.lax.scan(body, x, length=5)[0]

    function = parallel.spmd(step, mesh)
    (collective,) = hlo.read(function.lower(X, KERNEL).compile().as_text()).collectives
    assert collective.in_attack and collective.executions == 5 and collective.bytes == 4 * 8
    assert collective.purpose == "batch statistics"


GPU = """HloModule jit_step, is_scheduled=true

%scaled (p: bf16[8,32,32,64]) -> bf16[8,32,32,64] {
  %p = bf16[8,32,32,64]{3,2,1,0} parameter(0)
  ROOT %t = bf16[8,32,32,64]{3,2,1,0} add(%p, %p)
}

%turned (p: f32[64,128]) -> f32[128,64] {
  %p = f32[64,128]{1,0} parameter(0)
  ROOT %t = f32[128,64]{1,0} transpose(%p), dimensions={1,0}
}

%body (s: (s32[], bf16[8,32,32,64], bf16[64,3,3,64])) -> (s32[], bf16[8,32,32,64], bf16[64,3,3,64]) {
  %s = (s32[], bf16[8,32,32,64]{3,2,1,0}, bf16[64,3,3,64]{3,2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = bf16[8,32,32,64]{3,2,1,0} get-tuple-element(%s), index=1
  %k = bf16[64,3,3,64]{3,2,1,0} get-tuple-element(%s), index=2
  %f = (bf16[8,16,16,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", backend_config={"a":{"b":0}}
  %y = bf16[8,16,16,64]{3,2,1,0} get-tuple-element(%f), index=0
  %b = (bf16[8,32,32,64]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %g = bf16[8,32,32,64]{3,2,1,0} get-tuple-element(%b), index=0
  %n = bf16[8,32,32,64]{3,2,1,0} fusion(%g), kind=kLoop, calls=%scaled
  ROOT %r = (s32[], bf16[8,32,32,64]{3,2,1,0}, bf16[64,3,3,64]{3,2,1,0}) tuple(%i, %n, %k)
}

%cond (s: (s32[], bf16[8,32,32,64], bf16[64,3,3,64])) -> pred[] {
  %s = (s32[], bf16[8,32,32,64]{3,2,1,0}, bf16[64,3,3,64]{3,2,1,0}) parameter(0)
  ROOT %c = pred[] constant(true)
}

ENTRY %main (x: bf16[8,32,32,64], k: bf16[64,3,3,64], m: f32[64,128]) -> f32[64,64] {
  %x = bf16[8,32,32,64]{3,2,1,0} parameter(0)
  %k = bf16[64,3,3,64]{0,3,2,1} parameter(1)
  %m = f32[64,128]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %l = bf16[64,3,3,64]{3,2,1,0} copy(%k)
  %t = (s32[], bf16[8,32,32,64]{3,2,1,0}, /*index=2*/bf16[64,3,3,64]{3,2,1,0}) tuple(%zero, %x, %l)
  %w = (s32[], bf16[8,32,32,64]{3,2,1,0}, bf16[64,3,3,64]{3,2,1,0}) while(%t), condition=%cond, body=%body, metadata={op_name="jit(step)/attack_loop/while"}, backend_config={"known_trip_count":{"n":"7"}}
  %a = bf16[8,32,32,64]{3,2,1,0} get-tuple-element(%w), index=1
  %h = bf16[8,16,16,64]{3,2,1,0} constant({...})
  %d = (bf16[64,3,3,64]{3,2,1,0}, u8[0]{0}) custom-call(%a, %h), window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %e = bf16[64,3,3,64]{3,2,1,0} get-tuple-element(%d), index=0
  %rs = bf16[64,3,3,64]{3,2,1,0} all-reduce-start(%e), channel_id=1, replica_groups={{0,1,2,3}}, metadata={op_name="jit(step)/psum"}
  %rd = bf16[64,3,3,64]{3,2,1,0} all-reduce-done(%rs)
  %u = f32[128,64]{1,0} fusion(%m), kind=kInput, calls=%turned
  %q = (f32[64,64]{1,0}, s8[33554432]{0}) custom-call(%m, %u), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
  %z = f32[64,64]{1,0} custom-call(%m, %u), custom_call_target="__cublas$new_gemm"
  ROOT %o = f32[64,64]{1,0} get-tuple-element(%q), index=0
}
"""


def test_library_calls_of_a_gpu():
    program = hlo.read(GPU)
    convolution, image = 2 * (8 * 16 * 16 * 64) * (3 * 3 * 64), 2 * 8 * 32 * 32 * 64
    assert program.attack_steps == 7
    assert program.attack.flops == 2 * convolution
    assert program.attack.kernels == 3 and program.attack.by_kind["elementwise"] == (1, 2 * image)
    assert program.rest.flops == convolution + 2 * 64 * 64 * 128
    kinds = {kind: count for kind, (count, _) in program.rest.by_kind.items()}
    # The copy brings the kernel into another layout.
    assert kinds == {"transpose": 2, "convolution": 1, "collective": 1, "matmul": 1, "other": 1}
    # Of a matrix product both operands and the result, not the room it works in.
    assert program.rest.by_kind["matmul"] == (1, 4 * (64 * 128 + 128 * 64 + 64 * 64))
    assert program.unknown_calls == ("__cublas$new_gemm",)
    (collective,) = program.collectives
    assert (collective.kind, collective.bytes) == ("all-reduce", 2 * 9 * 64 * 64)
    assert {k.dtype for k in program.kernels if k.kind == "convolution"} == {"bf16"}


TPU = """HloModule jit_step, is_scheduled=true

%convolve (a: bf16[8,32,32,64], b: bf16[3,3,64,64]) -> bf16[8,32,32,64] {
  %a = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %b = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %c = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)S(1)} convolution(%a, %b), window={size=3x3 pad=1_2x1_2 rhs_reversal=1x1}, dim_labels=b01f_01oi->b01f
}

%body (s: (s32[], bf16[8,32,32,64], bf16[3,3,64,64])) -> (s32[], bf16[8,32,32,64], bf16[3,3,64,64]) {
  %s = (s32[]{:T(128)}, bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)}, bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  %x = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)} get-tuple-element(%s), index=1
  %k = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)} get-tuple-element(%s), index=2
  %y = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)S(1)} fusion(%x, %k), kind=kOutput, calls=%convolve
  %cs = (bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)}, bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) copy-start(%y)
  %cd = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)} copy-done(%cs)
  %j = s32[]{:T(128)} add(%i, %one)
  ROOT %r = (s32[]{:T(128)}, bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)}, bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)}) tuple(%j, %cd, %k)
}

%cond (s: (s32[], bf16[8,32,32,64], bf16[3,3,64,64])) -> pred[] {
  %n = s32[]{:T(128)} constant(9)
  %s = (s32[]{:T(128)}, bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)}, bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%s), index=0
  ROOT %c = pred[]{:T(512)} compare(%i, %n), direction=LT
}

ENTRY %main (x: bf16[8,32,32,64], k: bf16[3,3,64,64], v: f32[8,64], m: f32[64,10]) -> f32[8,10] {
  %x = bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)} parameter(0)
  %k = bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)} parameter(1)
  %v = f32[8,64]{1,0:T(8,128)} parameter(2)
  %m = f32[64,10]{1,0:T(8,128)} parameter(3)
  %zero = s32[]{:T(128)} constant(0)
  %start = s32[]{:T(128)} copy(%zero)
  %t = (s32[]{:T(128)}, bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)}, bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)}) tuple(%start, %x, %k)
  %w = (s32[]{:T(128)}, bf16[8,32,32,64]{3,0,2,1:T(8,128)(2,1)}, bf16[3,3,64,64]{3,2,1,0:T(8,128)(2,1)}) while(%t), condition=%cond, body=%body, metadata={op_name="jit(step)/attack_loop/while"}
  ROOT %p = f32[8,10]{1,0:T(8,128)} convolution(%v, %m), dim_labels=bf_io->bf
}
"""


def test_a_tpu_program():
    """The number of iterations is read from the condition; tiles pad 64 channels to 128; S(1) is on the chip."""
    program = hlo.read(TPU)
    assert program.attack_steps == 9 and not program.unknown_loops
    assert program.attack.flops == 2 * (8 * 32 * 32 * 64) * (3 * 3 * 64)
    image, kernel = 2 * 8 * 32 * 32 * 128, 2 * 9 * 64 * 128
    assert program.attack.by_kind["convolution"] == (1, image + kernel)
    assert program.attack.by_kind["copy"] == (1, image)
    assert program.rest.by_kind["matmul"] == (1, 4 * 8 * 128 * 2 + 4 * 64 * 128)
    assert program.rest.flops == 2 * 8 * 64 * 10


def test_a_loop_of_unknown_length_is_named():
    program = hlo.read(TPU.replace("direction=LT", "direction=GT"))
    assert program.unknown_loops == ("jit(step)/attack_loop/while",) and program.attack_steps == 1


def test_a_loop_that_never_runs():
    program = hlo.read(GPU.replace('"n":"7"', '"n":"0"'))
    assert program.attack is None and program.attack_steps == 0
    assert program.total.flops == program.rest.flops == hlo.read(GPU).rest.flops


COLLECTIVES = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}

%fused (p: f32[64]) -> f32[64] {
  %p = f32[64]{0} parameter(0)
  %d = f32[64]{0} add(%p, %p)
  ROOT %r = f32[64]{0} all-reduce(%d), replica_groups={{0,1,2,3}}, to_apply=%add
}

%written (p: f32[1000,8], q: f32[1,8], i: s32[]) -> (f32[1000,8], f32[8]) {
  %p = f32[1000,8]{1,0} parameter(0)
  %q = f32[1,8]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %u = f32[1000,8]{1,0} dynamic-update-slice(%p, %q, %i, %i)
  %b = f32[8]{0} bitcast(%q)
  ROOT %t = (f32[1000,8]{1,0}, f32[8]{0}) tuple(%u, %b)
}

ENTRY %main (x: f32[2], y: f32[4], z: f32[64], m: f32[1000,8], n: f32[1,8], i: s32[]) -> f32[64] {
  %x = f32[2]{0} parameter(0)
  %y = f32[4]{0} parameter(1)
  %z = f32[64]{0} parameter(2)
  %m = f32[1000,8]{1,0} parameter(3)
  %n = f32[1,8]{1,0} parameter(4)
  %i = s32[] parameter(5)
  %g = ((f32[2]{0}, f32[4]{0}), (f32[16]{0}, /*index=1*/f32[32]{0})) all-gather-start(%x, %y), replica_groups=[1,8]<=[8], dimensions={0}
  %h = (f32[16]{0}, f32[32]{0}) all-gather-done(%g)
  %k = ((f32[64]{0}), f32[8]{0}, u32[]) reduce-scatter-start(%z), replica_groups=[1,8]<=[8], to_apply=%add
  %l = f32[8]{0} reduce-scatter-done(%k)
  %w = (f32[1000,8]{1,0}, f32[8]{0}) fusion(%m, %n, %i), kind=kLoop, calls=%written
  ROOT %f = f32[64]{0} fusion(%z), kind=kCustom, calls=%fused
}
"""


def test_collectives_with_several_operands_in_pieces_and_in_fusions():
    program = hlo.read(COLLECTIVES)
    found = {(c.kind, c.bytes) for c in program.collectives}
    assert found == {("all-gather", 4 * 48), ("reduce-scatter", 4 * 64), ("all-reduce", 4 * 64)}
    # What is done is the other half of what was started; a gathering reads its operands and writes its result.
    assert program.total.by_kind["collective"] == (3, 4 * (2 + 4 + 48) + 4 * (64 + 8) + 4 * (64 + 64))


def test_one_of_several_results_that_is_written_in_place():
    # The row twice, as operand and as result, its copy and the index.
    assert hlo.read(COLLECTIVES).total.by_kind["elementwise"] == (1, 4 * 8 * 3 + 4)


def test_the_highest_precision_shows_in_the_type():
    highest = GPU.replace(
        'b01f, custom_call_target="__cudnn$convF',
        'b01f, operand_precision={highest,highest}, custom_call_target="__cudnn$convF',
    )
    assert {k.dtype for k in hlo.read(highest).kernels if k.kind == "convolution"} == {"bf16", "bf16 highest"}


def test_a_text_of_something_else():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.read("module @jit_f {\n}\n")
