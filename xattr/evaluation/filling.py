"""What takes the place of features that are taken away."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from xattr._core import trees
from xattr.types import Array, ArrayTree

Fill: TypeAlias = Callable[[ArrayTree, ArrayTree], ArrayTree]
"""`fill(x, removed) -> x`: x with other values where `removed`, a pytree of booleans, is True."""

WEIGHTS = {(0, 1): 1 / 6, (1, 0): 1 / 6, (1, 1): 1 / 12, (1, -1): 1 / 12}
"""Of a neighbour at (rows, columns), and of the one opposite to it."""


def neighbour_mean(x: Array, removed: Array) -> jax.Array:
    """Replace pixels of an image by the weighted mean of their neighbours.

    vᵢ = Σⱼ wᵢⱼ vⱼ / Σⱼ wᵢⱼ for every removed pixel i, over its eight neighbours j in the image,
    with w = 1/6 beside and 1/12 across, and vⱼ = xⱼ where j is not removed. The equations are
    solved together, by conjugate gradients to a relative residual of 1e-4.

    An image filled so keeps to its surroundings: black squares would say where pixels were taken.
    Rong et al. add a little noise to the result. We do not.

    Args:
        x: an image (H, W) or (H, W, C), floating.
        removed: which pixels to replace, boolean (H, W).

    Returns:
        An array like x; 0 if all pixels are removed.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if x is not floating, or `removed` is not boolean.

    Source:
        Rong et al. 2022, "A consistent and efficient evaluation strategy for attribution methods",
        §4.2 (noisy linear imputation).

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> x = jnp.array([[1.0, 0.0, 3.0]])
        >>> xattr.evaluation.neighbour_mean(x, jnp.array([[False, True, False]])).tolist()
        [[1.0, 2.0, 3.0]]
    """
    x = trees.floating(x, "x")
    if not jax.tree_util.all_leaves([x]) or x.ndim not in (2, 3):
        raise ValueError("`x` must be an image (H, W) or (H, W, C)")
    if not isinstance(removed, Array) or removed.dtype != bool:
        raise TypeError("`removed` must be a boolean array: pass a comparison")
    if removed.shape != x.shape[:2]:
        raise ValueError(f"`removed` has shape {removed.shape}, but the image {x.shape[:2]}")
    filled = _filled(trees.widen(x.reshape(*x.shape[:2], -1)), jnp.asarray(removed)[..., None])
    return filled.reshape(x.shape).astype(x.dtype)


@jax.jit
def _filled(x: jax.Array, removed: jax.Array) -> jax.Array:
    degree = _around(jnp.ones_like(x))
    number = jnp.sum(~removed, dtype=x.dtype)
    mean = jnp.sum(jnp.where(removed, 0, x), (0, 1), keepdims=True) / jnp.maximum(number, 1)
    # Around the mean, since the residual is relative: on 1000 ± 1 all of ± 1 would be lost.
    kept = jnp.where(removed, 0, x - mean)

    def apply(values: jax.Array) -> jax.Array:
        return jnp.where(removed, degree * values - _around(values), 0)

    right = jnp.where(removed, _around(kept), 0)
    values: Any = jax.scipy.sparse.linalg.cg(apply, right, tol=1e-4)[0]
    return jnp.where(removed, mean + values, x)


def _around(x: jax.Array) -> jax.Array:
    """Return the weighted sum of the eight neighbours; there is nothing beyond the border."""
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    height, width = x.shape[:2]

    def moved(down: int, right: int) -> jax.Array:
        return padded[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    parts = [w * (moved(*at) + moved(-at[0], -at[1])) for at, w in WEIGHTS.items()]
    return parts[0] + parts[1] + parts[2] + parts[3]
