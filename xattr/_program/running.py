"""Run the equations of a traced program."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._core import trees
from xattr._program import versions
from xattr._program.jaxpr import Equation, Program, p, read


def run(equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Apply an equation to arrays. A derivative of its own (custom_jvp, custom_vjp) is kept."""
    primitive = equation.origin.primitive
    traced = equation.origin.invars
    operands = [
        trees.varying_like(value, var.aval) for value, var in zip(operands, traced, strict=True)
    ]
    with versions.reading():
        params = _bound(equation.origin)
    with jax.named_scope(equation.scope) if equation.scope else contextlib.nullcontext():
        result = primitive.bind(*operands, **params)
    return list(result) if primitive.multiple_results else [result]


def _bound(origin: Any) -> dict[str, Any]:
    """Return the parameters with which JAX binds the primitive of an equation."""
    return origin.primitive.get_bind_params(origin.params)


def run_in(dtype: Any, equation: Equation, operands: Sequence[Any]) -> list[Any]:
    """Apply the primitive of an equation in the dtype, or a wider one of its operands."""
    operands = [at_least(dtype, operand) for operand in operands]
    primitive, params = equation.origin.primitive, dict(equation.params)
    if primitive is p.reduce_precision_p:
        return operands
    if primitive in (p.scatter_p, p.scatter_add_p):  # their body is traced for one dtype
        scatter: Any = lax.scatter if primitive is p.scatter_p else lax.scatter_add
        keep = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
        return [scatter(*operands, **{name: params[name] for name in keep})]
    for name in ("preferred_element_type", "new_dtype"):
        if params.get(name) is not None and jnp.issubdtype(params[name], jnp.floating):
            params[name] = _wider(dtype, params[name])
    result = primitive.bind(*operands, **params)
    return list(result) if primitive.multiple_results else [result]


def at_least(dtype: Any, value: Any) -> jax.Array:
    """Return the value as an array. A floating one gets the dtype, unless its own is wider."""
    array = jnp.asarray(value)
    floating = jnp.issubdtype(array.dtype, jnp.floating)
    return array.astype(_wider(dtype, array.dtype)) if floating else array


def _wider(dtype: Any, other: Any) -> np.dtype:
    return max(np.dtype(dtype), np.dtype(other), key=lambda d: d.itemsize)


def evaluate(
    program: Program,
    operands: Sequence[Any],
    run: Callable[[Equation, Sequence[Any]], list[Any]] = run,
) -> list[Any]:
    """Return the outputs of a program. `run` applies one equation."""
    env: dict[Any, Any] = dict(program.constants)
    env.update(zip(program.inputs, operands, strict=True))
    for equation in program.equations:
        results = run(equation, [read(env, v) for v in equation.inputs])
        env.update(zip(equation.outputs, results, strict=True))
    return [read(env, v) for v in program.outputs]
