"""A product of data and weights whose transpose is written by hand.

JAX derives the transpose of a linear operation, and XLA compiles some of them to slow code. Here
the caller gives another expression of the same sum. The tangent is the *transpose of the given
transpose*, so reverse mode runs what is given, and every transformation keeps working.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xattr.types import ArrayTree


def product(
    forward: Callable[[Any, jax.Array, ArrayTree], jax.Array],
    backward: Callable[[Any, ArrayTree, jax.Array], jax.Array],
) -> Callable[[jax.Array, ArrayTree, Any], jax.Array]:
    """Return `(data, weights, form) -> forward(form, data, weights)`, linear in both operands.

    `backward(form, weights, cotangent)` is its transpose with respect to the data. `form` is
    static and must be hashable.
    """

    @functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
    def apply(data: jax.Array, weights: ArrayTree, form: Any) -> jax.Array:
        return forward(form, data, weights)

    def jvp(form: Any, primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
        (data, weights), (moved, changed) = primals, tangents
        result = apply(data, weights, form)
        tangent = jnp.zeros_like(result)
        if not _is_zero(moved):
            transpose = functools.partial(backward, form, weights)
            tangent += jax.linear_transpose(transpose, result)(moved)[0]
        if not all(map(_is_zero, jax.tree.leaves(changed, is_leaf=_is_zero))):
            changed = jax.tree.map(_filled, changed, weights, is_leaf=_is_zero)
            tangent += apply(data, changed, form)
        return result, tangent

    apply.defjvp(jvp, symbolic_zeros=True)
    return apply


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, jax.custom_derivatives.SymbolicZero)


def _filled(tangent: Any, weight: jax.Array) -> jax.Array:
    return jnp.zeros_like(weight) if _is_zero(tangent) else tangent
