"""Axes of a mesh that an array varies over, inside `jax.shard_map`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from xattr.types import ArrayTree


def _axes(aval: Any) -> frozenset[Any]:
    """Return the axes of a mesh that an array varies over inside `jax.shard_map`."""
    kind = getattr(aval, "manual_axis_type", None)
    axes: frozenset[Any] = getattr(kind, "varying", frozenset())
    return axes


def marked(operand: Any, aval: Any) -> Any:
    """Return an array of ours as varying over the axes of the mesh that a traced one does."""
    missing = _axes(aval) - _axes(jax.typeof(operand)) if _axes(aval) else None
    return lax.pcast(operand, tuple(missing), to="varying") if missing else operand


def alike(tree: ArrayTree) -> ArrayTree:
    """Return the tree with all arrays marked as varying over the axes that any of them does.

    Inside `jax.shard_map` the gradient with respect to an array that is the same on all devices is
    summed over them: of a shared x with a label for each device none would have its own.
    """
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.core.Tracer)]
    axes = frozenset[Any]().union(*(_axes(jax.typeof(leaf)) for leaf in leaves))
    if not axes:
        return tree

    def mark(leaf: Any) -> Any:
        if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
            return leaf
        missing = axes - _axes(jax.typeof(leaf))
        return lax.pcast(leaf, tuple(missing), to="varying") if missing else leaf

    return jax.tree.map(mark, tree)
