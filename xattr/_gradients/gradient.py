"""The gradient, its product with the input, and gradients on the way from the baseline."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xattr import paths
from xattr._core import compilation, trees
from xattr._integrate import kernel
from xattr.types import Array, ArrayTree, Function, PathSamples


def gradient(f: Function, x: ArrayTree, *, args: tuple[Any, ...] = ()) -> ArrayTree:
    """Return the gradient of f at x, also called saliency or sensitivity.

    Aᵢ = ∂ᵢf(x). An image's pixel score is its sum of |Aᵢ| over the channels.

    Shapes: `f(x, *args)` returns a scalar for one example; the result is a pytree like x, in units
    of f per unit of x. Raises `TypeError` if a leaf of x is not floating or `args` is no tuple.
    Source: Baehrens et al. 2010; Simonyan, Vedaldi & Zisserman 2013; Sundararajan et al. 2016,
    eq. 1.

    >>> import jax.numpy as jnp, xattr
    >>> xattr.gradient(lambda x: x[0] * x[1], jnp.array([2.0, 3.0]))
    Array([3., 2.], dtype=float32)
    """
    x = trees.floating(x, "x")
    return _at_one_point(f, x, jax.tree.map(jnp.ones_like, x), args)


def gradient_x_input(f: Function, x: ArrayTree, *, args: tuple[Any, ...] = ()) -> ArrayTree:
    """Return the product of input and gradient.

    Aᵢ = xᵢ ∂ᵢf(x). For a linear f it is integrated gradients from zero.

    Shapes: `f(x, *args)` returns a scalar for one example; the result is a pytree like x, in units
    of f. Raises `TypeError` if a leaf of x is not floating or `args` is no tuple.
    Source: Shrikumar et al. 2016; Kindermans et al. 2017, "The (Un)reliability of saliency
    methods", §3.3.1.

    >>> import jax.numpy as jnp, xattr
    >>> xattr.gradient_x_input(lambda x: x[0] * x[1], jnp.array([2.0, 3.0]))
    Array([6., 6.], dtype=float32)
    """
    x = trees.floating(x, "x")
    return _at_one_point(f, x, x, args)


def _at_one_point(f: Function, x: ArrayTree, factor: ArrayTree, args: tuple[Any, ...]) -> ArrayTree:
    """Return ∇f(x) ⊙ factor: the kernel for a single node of weight 1."""
    compilation.check_args(args)
    points, velocities = jax.tree.map(lambda leaf: leaf[None, None], (x, factor))
    samples = PathSamples(points, velocities, np.ones((1, 1), np.float32))
    return trees.cast_like(compilation.compiled(kernel.path_kernel, f)(samples, args), x)


def interior_gradients(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    alphas: Array,
    args: tuple[Any, ...] = (),
) -> ArrayTree:
    """Return the gradients of f at counterfactual inputs between the baseline and x.

    A[k] = ∇f(baseline + αₖ (x − baseline)). The member at α = 1 is the gradient.

    Shapes: `alphas` has shape (n,), values in [0, 1]; the result is a pytree like x with a leading
    axis of n, all of it in memory. `baseline` is zeros if None. Raises `ValueError` for alphas that
    are empty or outside [0, 1] and for a baseline unlike x.
    Source: Sundararajan et al. 2016, "Gradients of Counterfactuals", §2.3, eq. 3 and 4.

    >>> import jax.numpy as jnp, xattr
    >>> xattr.interior_gradients(lambda x: x**3, jnp.array(2.0), alphas=jnp.array([0.5, 1.0]))
    Array([ 3., 12.], dtype=float32)
    """
    x = trees.floating(x, "x")
    path = paths.straight_line(baseline=trees.baseline_like(baseline, x), x=x)
    points = jax.vmap(path)(_checked(alphas))
    return jax.vmap(lambda point: gradient(f, point, args=args))(points)


def _checked(alphas: Array) -> jax.Array:
    values = jnp.asarray(alphas)
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"`alphas` must be one-dimensional and not empty, but has shape {values.shape}: "
            "pass for example jnp.linspace(0.1, 1.0, 10)"
        )
    known = trees.on_host(values)
    if known is not None and not ((known >= 0) & (known <= 1)).all():
        raise ValueError("`alphas` must lie in [0, 1]: 0 is the baseline, 1 the input")
    return values
