"""Flops of convolutions and matrix products, by the same rule for traced functions and for compiled programs.

A convolution costs 2 x outputs x taps x input channels. Padding counts like pixels, the zeros between the pixels of a
dilated input do not count. So the gradient of a convolution with respect to its input costs as much as the convolution,
also if it is strided.
"""

import collections
import math

import jax
from jax.extend import core as jax_core


def dot(out_shape, lhs_shape, contracted) -> float:
    """Flops of a matrix product that sums over the dimensions `contracted` of its left operand."""
    return 2.0 * math.prod(out_shape) * math.prod(lhs_shape[d] for d in contracted)


def convolution(outputs: int, channels: int, spatial) -> float:
    """Flops of a convolution.

    Args:
        outputs: batch x output channels.
        channels: input channels of one group, over which each output sums.
        spatial: for each spatial dimension (pixels, taps, positions of the output, stride, dilation of the input,
            dilation of the kernel).
    """
    return 2.0 * outputs * channels * math.prod(_meetings(*sizes) for sizes in spatial)


def _meetings(pixels: int, taps: int, outputs: int, stride: int, lhs_dilation: int, rhs_dilation: int) -> int:
    """Number of contributing (output, tap, pixel) triples in one dimension; padding counts, dilation zeros do not."""
    # Two of the three determine the third, so each product of two is an upper bound. In the forward pass outputs x taps
    # is the smallest; compilers also write convolutions with image, kernel and result exchanged, where another one is.
    met = outputs * taps
    if lhs_dilation > 1:
        # Padding shifts all positions, and so the zeros; the shift with the most contributions counts.
        rests = collections.Counter(
            (o * stride + t * rhs_dilation) % lhs_dilation for o in range(outputs) for t in range(taps)
        )
        met = max(rests.values())
    return min(met, outputs * pixels, taps * pixels)


def forward(function, *arguments) -> float:
    """Flops of the convolutions and matrix products of a traced function, with all loop iterations. Compiles nothing.

    The arguments are arrays or `jax.ShapeDtypeStruct`s. A ValueError for such arithmetic in a loop of unknown length.
    """
    return _jaxpr_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _jaxpr_flops(jaxpr) -> float:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return dot(equation.outvars[0].aval.shape, equation.invars[0].aval.shape, contracted)
    if name == "conv_general_dilated":
        numbers = params["dimension_numbers"]
        lhs, rhs = (variable.aval.shape for variable in equation.invars)
        out = equation.outvars[0].aval.shape
        spatial = [
            (lhs[numbers.lhs_spec[i]], rhs[numbers.rhs_spec[i]], out[numbers.out_spec[i]], *steps)
            for i, steps in enumerate(
                zip(params["window_strides"], params["lhs_dilation"], params["rhs_dilation"], strict=True), 2
            )
        ]
        outputs = out[numbers.out_spec[0]] * out[numbers.out_spec[1]]
        return convolution(outputs, rhs[numbers.rhs_spec[1]], spatial)
    if name == "cond":
        return max(_jaxpr_flops(branch.jaxpr) for branch in params["branches"])
    inner = [
        getattr(value, "jaxpr", value)
        for value in params.values()
        if isinstance(value, (jax_core.ClosedJaxpr, jax_core.Jaxpr))
    ]
    flops = sum(map(_jaxpr_flops, inner))
    if name == "while" and flops:
        raise ValueError(
            "a while loop of unknown length contains convolutions or matrix products: they cannot be counted"
        )
    return flops * params["length"] if name == "scan" else flops
