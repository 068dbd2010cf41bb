"""How much a map moves when x hardly does."""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from xattr._core import compilation, trees
from xattr.types import Args, ArrayTree, Function, Method, PRNGKey

Noise: TypeAlias = Literal["uniform", "signs"]
"""Draws from the cube of radius r: anywhere in it, or its corners ±r."""


def max_sensitivity(
    method: Method,
    f: Function,
    x: ArrayTree,
    key: PRNGKey,
    *,
    radius: float = 0.02,
    num_samples: int = 10,
    noise: Noise = "uniform",
    args: Args = (),
) -> jax.Array:
    """Return the largest relative change of a map when x moves within a small cube.

    SENS = max_δ |Φ(x + δ) − Φ(x)| / |Φ(x)|, |δᵢ| ≤ radius, over random δ; |·| is the Euclidean norm
    over all of the map, and Φ the method.

    0 or more; smaller is steadier. A constant map has 0, and so has a method that ignores x: it
    does not say that a map is right. The maximum over draws is a lower bound of the true one, which
    "signs" comes nearer to where the map changes evenly.

    Args:
        method: the attribution method, called as `method(f, x, args=args)`. Bind further arguments
            with `functools.partial`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        key: a random key, `jax.random.key(seed)`.
        radius: the largest change of an element of x.
        num_samples: draws of δ.
        noise: "uniform" for δ anywhere in the cube, as in the paper, or "signs" for its corners.
        args: further arguments of f. A new value does not recompile.

    Returns:
        A scalar without a unit; NaN or infinite for a map of zeros.

    Raises:
        ValueError: if num_samples < 1, radius < 0, or `noise` is another.
        TypeError: if a leaf is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations", def. 3.1, divided by
        the norm of the map.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jnp.sum(x**2)
        >>> x, key = jnp.array([3.0, 4.0]), jax.random.key(0)
        >>> options = {"radius": 0.1, "noise": "signs"}
        >>> found = xattr.evaluation.max_sensitivity(xattr.gradient, f, x, key, **options)
        >>> round(float(found), 4)  # r √n / |x|
        0.0283
    """
    return _changes(method, f, x, key, radius, num_samples, noise, args).max()


def average_sensitivity(
    method: Method,
    f: Function,
    x: ArrayTree,
    key: PRNGKey,
    *,
    radius: float = 0.02,
    num_samples: int = 10,
    noise: Noise = "uniform",
    args: Args = (),
) -> jax.Array:
    """Return the mean relative change of a map when x moves within a small cube.

    SENS = mean_δ |Φ(x + δ) − Φ(x)| / |Φ(x)|, with δ as for `xattr.evaluation.max_sensitivity`.

    0 or more; smaller is steadier, and a method that ignores x has 0.

    Args:
        method: the attribution method, called as `method(f, x, args=args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        key: a random key, `jax.random.key(seed)`.
        radius: the largest change of an element of x.
        num_samples: draws of δ.
        noise: "uniform" or "signs".
        args: further arguments of f. A new value does not recompile.

    Returns:
        A scalar without a unit; NaN or infinite for a map of zeros.

    Raises:
        ValueError: if num_samples < 1, radius < 0, or `noise` is another.
        TypeError: if a leaf is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Yeh et al. 2019, def. 3.1, with the mean in place of the maximum; Bhatt et al. 2020, def. 2.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jnp.sum(x)
        >>> x, key = jnp.array([3.0, 4.0]), jax.random.key(0)
        >>> float(xattr.evaluation.average_sensitivity(xattr.gradient, f, x, key))
        0.0
    """
    return _changes(method, f, x, key, radius, num_samples, noise, args).mean()


def _changes(
    method: Method,
    f: Function,
    x: ArrayTree,
    key: PRNGKey,
    radius: Any,
    num_samples: int,
    noise: Noise,
    args: Args,
) -> jax.Array:
    """Return the relative change of the map for each draw, one after the other."""
    compilation.check_callable(method, "method")
    compilation.check_args(args)
    trees.check_key(key)
    trees.check_count(num_samples, "num_samples")
    trees.check_not_negative(radius, "radius")
    if noise not in ("uniform", "signs"):
        raise ValueError(f'`noise` must be "uniform" or "signs", not {noise!r}')
    x = trees.floating(x, "x")
    at_x = trees.widen(method(f, x, args=args))
    size = _norm(at_x)

    def change(index: jax.Array) -> jax.Array:
        moved = _moved(x, jax.random.fold_in(key, index), radius, noise)
        apart = jax.tree.map(jnp.subtract, trees.widen(method(f, moved, args=args)), at_x)
        return _norm(apart) / size

    return jax.lax.map(change, jnp.arange(num_samples, dtype=jnp.uint32))


def _norm(tree: ArrayTree) -> jax.Array:
    return jnp.sqrt(trees.total(jax.tree.map(jnp.square, tree)))


def _moved(x: ArrayTree, key: PRNGKey, radius: Any, noise: Noise) -> ArrayTree:
    """Add noise, drawn in float32 at least."""
    leaves, treedef = jax.tree.flatten(x)

    def moved(leaf: jax.Array, key: PRNGKey) -> jax.Array:
        dtype = trees.wide(leaf.dtype)
        draw = jax.random.uniform if noise == "uniform" else _signs
        drawn = draw(key, leaf.shape, dtype, -1, 1)
        return (leaf.astype(dtype) + jnp.asarray(radius, dtype) * drawn).astype(leaf.dtype)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(treedef, list(map(moved, leaves, keys)))


def _signs(key: PRNGKey, shape: tuple[int, ...], dtype: Any, low: int, high: int) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, shape=shape), high, low).astype(dtype)
