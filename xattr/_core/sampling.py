"""Values and velocities of a path at nodes, in the dtypes that it returns for a Python float."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xattr._core import chunks, compilation, trees
from xattr.types import Array, ArrayTree, Path


def form_of(path: Path) -> ArrayTree:
    """Return shapes and dtypes of the values of a path; raise if they are not floating arrays."""
    form = jax.eval_shape(path, 0.5)  # for a weakly typed alpha the path keeps the dtype of x
    leaves = jax.tree_util.tree_leaves_with_path(form)
    if not leaves:
        raise TypeError("`path` must return a pytree of floating arrays like x, but returned none")
    for where, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                "`path` must return a pytree of floating arrays like x, but returned "
                f"{leaf.dtype}{list(leaf.shape)} at {trees.leaf_name('path(alpha)', where)}"
            )
    return form


def path_points(path: Path, nodes: Array) -> ArrayTree:
    """Return γ(αₖ) at the nodes αₖ, with a leading axis of nodes."""
    form = form_of(path)
    return trees.cast_like(jax.vmap(path)(_as_alpha(nodes, form)), form)


def points_and_velocities(path: Path, nodes: Array) -> tuple[ArrayTree, ArrayTree]:
    """Return γ(αₖ) and γ'(αₖ) at the nodes αₖ, with a leading axis of nodes."""
    form = form_of(path)

    def at(alpha: Array) -> tuple[ArrayTree, ArrayTree]:
        value, velocity = jax.jvp(path, (alpha,), (jnp.ones_like(alpha),))
        return trees.cast_like(value, form), trees.cast_like(velocity, form)

    return jax.vmap(at)(_as_alpha(nodes, form))


def _as_alpha(nodes: Array, form: ArrayTree) -> jax.Array:
    """Return the nodes in the widest dtype of the path, float32 at least."""
    return jnp.asarray(nodes, trees.widest(jax.tree.leaves(form)))


def sampler(read: Callable[..., Any], path: Path) -> Callable[..., Any]:
    """Return `read(path, ...)`, compiled where the path is made of this library's functions."""
    compilation.check_callable(path, "path")
    if chunks.is_staged():
        return functools.partial(read, path)
    return compilation.compiled_if_library(read, path)
