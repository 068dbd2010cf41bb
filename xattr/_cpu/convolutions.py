"""Convolutions whose gradient with respect to the data is a convolution in the usual layout.

JAX writes that gradient with the kernel's input and output features exchanged in the dimension
numbers. Inside a loop XLA keeps that layout, and on CPU compiles the convolution to its slowest
form: 6.5 times the time for 5×5 kernels and 64 features. Here the kernel itself is transposed.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from xattr._cpu import linear
from xattr._program.graph import Graph, Replacement
from xattr._program.jaxpr import Equation, p

_OPTIONS = (
    *("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers"),
    *("precision", "preferred_element_type"),
)


def found(graph: Graph) -> dict[Equation, Replacement]:
    """Return the convolutions of x with weights that do not depend on it, in one group."""
    return {
        equation: Replacement(equation.inputs, functools.partial(_run, _form(equation)))
        for equation in graph.program.equations
        if equation.primitive is p.conv_general_dilated_p and _is_plain(equation)
    }


def _is_plain(equation: Equation) -> bool:
    params = equation.params
    grouped = params["feature_group_count"] > 1 or params["batch_group_count"] > 1
    dependent = [v.dependent for v in equation.inputs]
    same = len({v.dtype for v in (*equation.inputs, equation.output)}) == 1
    empty = 0 in equation.output.shape
    plain = dependent == [True, False] and not grouped and not empty
    return plain and same and equation.output.floating


def _form(equation: Equation) -> tuple[Any, ...]:
    options = [equation.params[name] for name in _OPTIONS]
    return (equation.inputs[0].shape, *(tuple(o) if isinstance(o, list) else o for o in options))


def _run(form: tuple[Any, ...], inputs: Sequence[Any]) -> list[jax.Array]:
    data, kernel = inputs
    return [convolve(data, kernel, form)]


def _forward(form: tuple[Any, ...], data: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(data, kernel, **dict(zip(_OPTIONS, form[1:], strict=True)))


def _backward(form: tuple[Any, ...], kernel: jax.Array, cotangent: jax.Array) -> jax.Array:
    shape, strides, padding, dilation, spread, layout, precision, element_type = form
    data, weights, result = layout.lhs_spec, layout.rhs_spec, layout.out_spec
    turned = jnp.swapaxes(jnp.flip(kernel, weights[2:]), weights[0], weights[1])
    pads = []
    for axis, (low, _) in enumerate(padding):
        size = (shape[data[2 + axis]] - 1) * dilation[axis] + 1
        reach = (kernel.shape[weights[2 + axis]] - 1) * spread[axis]
        length = (cotangent.shape[result[2 + axis]] - 1) * strides[axis] + 1
        pads.append((reach - low, size - length + low))
    return lax.conv_general_dilated(
        cotangent,
        turned,
        window_strides=dilation,
        padding=pads,
        lhs_dilation=strides,
        rhs_dilation=spread,
        dimension_numbers=lax.ConvDimensionNumbers(result, weights, data),
        precision=precision,
        preferred_element_type=element_type,
    )


convolve = linear.product(_forward, _backward)
"""`convolve(data, kernel, form)`: `lax.conv_general_dilated` of the options in `form`."""
