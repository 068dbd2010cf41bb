"""The gradient, its product with the input, and gradients on the way from the baseline."""

import jax
import jax.numpy as jnp
import numpy as np

from xattr import paths
from xattr._core import compilation, trees
from xattr._integrate import kernel
from xattr.types import Args, Array, ArrayTree, Function, PathSamples


def gradient(f: Function, x: ArrayTree, *, args: Args = ()) -> ArrayTree:
    """Return the gradient of f at x, also called saliency or sensitivity.

    Aᵢ = ∂ᵢf(x). The pixel score of an image is the sum of |Aᵢ| over its channels.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        args: further arguments of f. They are not attributed; a new value does not recompile.

    Returns:
        A pytree like x, in units of f per unit of x.

    Raises:
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Baehrens et al. 2010; Simonyan, Vedaldi & Zisserman 2013; Sundararajan et al. 2016, eq. 1.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.gradient(lambda x: x[0] * x[1], jnp.array([2.0, 3.0]))
        Array([3., 2.], dtype=float32)
    """
    x = trees.floating(x, "x")
    return _at_one_point(f, x, jax.tree.map(jnp.ones_like, x), args)


def gradient_x_input(f: Function, x: ArrayTree, *, args: Args = ()) -> ArrayTree:
    """Return the product of input and gradient.

    Aᵢ = xᵢ ∂ᵢf(x). For a linear f it equals integrated gradients from zero.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        args: further arguments of f. They are not attributed; a new value does not recompile.

    Returns:
        A pytree like x, in units of f.

    Raises:
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Shrikumar et al. 2016; Kindermans et al. 2017, "The (Un)reliability of saliency methods",
        §3.3.1.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.gradient_x_input(lambda x: x[0] * x[1], jnp.array([2.0, 3.0]))
        Array([6., 6.], dtype=float32)
    """
    x = trees.floating(x, "x")
    return _at_one_point(f, x, x, args)


def _at_one_point(f: Function, x: ArrayTree, factor: ArrayTree, args: Args) -> ArrayTree:
    """Return ∇f(x) ⊙ factor, by the path kernel with a single node of weight 1."""
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
    args: Args = (),
) -> ArrayTree:
    """Return the gradients of f at counterfactual inputs between the baseline and x.

    A[k] = ∇f(baseline + αₖ (x − baseline)). At α = 1 it is the gradient at x.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x. None is zeros.
        alphas: αₖ, of shape (n,), with values in [0, 1].
        args: further arguments of f. They are not attributed; a new value does not recompile.

    Returns:
        A pytree like x with a leading axis of n, in units of f per unit of x. All n are in memory.

    Raises:
        ValueError: if `alphas` is empty or outside [0, 1], or the baseline is not like x.
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", §2.3, eq. 3 and 4.

    Example:
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
