"""Quadratures on [0, 1]: nodes and weights, as arrays, made on the host in float64.

The weights sum to 1 to machine precision, so that a linear function is attributed exactly. A
quadrature of your own is `Quadrature(nodes, weights)`. `concentrated` is the only one here that
looks at the function.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._core import chunks, compilation, sampling, trees
from xattr.types import Args, Array, ArrayTree, Function, Path, Quadrature

__all__ = [
    "Quadrature",
    "composite",
    "concentrated",
    "gauss_legendre",
    "midpoint",
    "riemann_left",
    "riemann_right",
    "trapezoid",
]

UNIFORM = 0.25
"""The share of the nodes of `concentrated` that is spread evenly, wherever f changes."""


def riemann_left(n: int) -> Quadrature:
    """Return the left Riemann sum with n nodes.

    αₖ = k/n, wₖ = 1/n, k = 0 … n−1. The error is O(1/n).

    Args:
        n: the number of nodes, at least 1.

    Returns:
        A `Quadrature`: nodes and weights of shape (n,).

    Raises:
        ValueError: if n < 1.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 6, with the other end.

    Example:
        >>> riemann_left(4).nodes
        array([0.  , 0.25, 0.5 , 0.75])
    """
    return Quadrature(np.arange(_count(n)) / n, np.full(n, 1 / n))


def riemann_right(n: int) -> Quadrature:
    """Return the right Riemann sum with n nodes, as the integrated-gradients papers use it.

    αₖ = k/n, wₖ = 1/n, k = 1 … n. The error is O(1/n).

    Args:
        n: the number of nodes, at least 1.

    Returns:
        A `Quadrature`: nodes and weights of shape (n,).

    Raises:
        ValueError: if n < 1.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 6.

    Example:
        >>> riemann_right(4).nodes
        array([0.25, 0.5 , 0.75, 1.  ])
    """
    return Quadrature(np.arange(1, _count(n) + 1) / n, np.full(n, 1 / n))


def midpoint(n: int) -> Quadrature:
    """Return the midpoint quadrature with n nodes.

    αₖ = (k + ½)/n, wₖ = 1/n, k = 0 … n−1. The error is O(1/n²) for a smooth integrand.

    Args:
        n: the number of nodes, at least 1.

    Returns:
        A `Quadrature`: nodes and weights of shape (n,).

    Raises:
        ValueError: if n < 1.

    Source:
        Davis & Rabinowitz, "Methods of Numerical Integration", §2.1.

    Example:
        >>> midpoint(2)
        Quadrature(nodes=array([0.25, 0.75]), weights=array([0.5, 0.5]))
    """
    return Quadrature((np.arange(_count(n)) + 0.5) / n, np.full(n, 1 / n))


def trapezoid(n: int) -> Quadrature:
    """Return the trapezoidal quadrature with n nodes, which include both ends.

    αₖ = k/(n−1), wₖ = 1/(n−1), halved at both ends, k = 0 … n−1. The error is O(1/n²) for a smooth
    integrand.

    Args:
        n: the number of nodes, at least 2.

    Returns:
        A `Quadrature`: nodes and weights of shape (n,).

    Raises:
        ValueError: if n < 2.

    Source:
        Davis & Rabinowitz, "Methods of Numerical Integration", §2.1.

    Example:
        >>> trapezoid(3)
        Quadrature(nodes=array([0. , 0.5, 1. ]), weights=array([0.25, 0.5 , 0.25]))
    """
    if _count(n) < 2:
        raise ValueError(
            f"`n` must be at least 2 for the trapezoidal quadrature, not {n}: use midpoint(1)"
        )
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return Quadrature(np.linspace(0.0, 1.0, n), weights)


def gauss_legendre(n: int) -> Quadrature:
    """Return the Gauss–Legendre quadrature with n nodes.

    αₖ = (1 + tₖ)/2 for the roots tₖ of the Legendre polynomial Pₙ, wₖ = 1/((1 − tₖ²) P'ₙ(tₖ)²).

    It is exact for polynomials of degree 2n − 1. No node lies at 0 or 1.

    Args:
        n: the number of nodes, at least 1.

    Returns:
        A `Quadrature`: nodes and weights of shape (n,).

    Raises:
        ValueError: if n < 1.

    Source:
        Davis & Rabinowitz, "Methods of Numerical Integration", §2.7.

    Example:
        >>> gauss_legendre(2).nodes.round(4)
        array([0.2113, 0.7887])
        >>> gauss_legendre(64)
        Quadrature(64 nodes in [0.0003475, 0.9997])
    """
    nodes, weights = _legendre(_count(n))
    return Quadrature(nodes.copy(), weights.copy())


@functools.lru_cache(maxsize=64)  # leggauss finds eigenvalues, in O(n³)
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) / 2, weights / weights.sum()


def composite(quadrature: Quadrature, pieces: int) -> Quadrature:
    """Return the quadrature repeated on equal pieces of [0, 1].

    α = (j + αₖ)/m, w = wₖ/m, for the pieces j = 0 … m−1.

    Use one piece for each segment of a polyline or path of a concatenation. Then no corner lies
    inside a piece, and the quadrature keeps its order of convergence.

    Args:
        quadrature: the quadrature of one piece, with n nodes.
        pieces: m, the number of pieces, at least 1.

    Returns:
        A `Quadrature`: nodes and weights of shape (n · pieces,).

    Raises:
        ValueError: if pieces < 1, or if nodes and weights do not fit together.
        TypeError: if `quadrature` is not a pair of nodes and weights.

    Source:
        Davis & Rabinowitz, "Methods of Numerical Integration", §2.1 (compound rules).

    Example:
        >>> composite(midpoint(1), 2)
        Quadrature(nodes=array([0.25, 0.75]), weights=array([0.5, 0.5]))
    """
    _count(pieces, "pieces")
    nodes, weights = checked(quadrature)
    starts = np.arange(pieces)[:, None]
    return Quadrature(((starts + nodes) / pieces).ravel(), np.tile(weights, pieces) / pieces)


def concentrated(
    f: Function, path: Path, n: int, *, probes: int = 15, args: Args = ()
) -> Quadrature:
    """Return a midpoint quadrature of n cells that are narrow where f changes along the path.

    αₖ is the centre and wₖ the width of a cell with ∫ ρ = 1/n. The density ρ is constant between
    neighbours of m + 1 evenly spaced probes, with ∫ ρ = ¼ / m + ¾ √|Δⱼf| / Σᵢ √|Δᵢf| there.

    Use it for rough gradients and for scores that saturate, where any quadrature errs by O(1/n).
    Where f is smooth, Gauss–Legendre is better. For EfficientNet-Lite0 on photographs, at the work
    of 64 gradients, the error of the map is 0.7 (probability), 0.6 (log-probability) or 0.9 (logit)
    times that of Gauss–Legendre.

    f is evaluated at `probes` + 1 points, without gradients. This costs as much as a fifth to a
    half of so many gradients. A new label, input or path of the same shapes runs the same compiled
    programs. Derivatives take the nodes as constants. Where f is constant, or is not finite at a
    probe, all cells are equal.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        path: the path γ, a function `alpha -> pytree like x`.
        n: the number of nodes, at least 1.
        probes: m, the number of parts of [0, 1] between the places where f is evaluated, at least
            1.
        args: further arguments of f. They are not attributed; a new value does not recompile.

    Returns:
        A `Quadrature`: nodes and weights of shape (n,), arrays of JAX.

    Raises:
        ValueError: if n < 1 or probes < 1, or if f does not return a scalar.
        TypeError: if the path does not return floating arrays, or `args` is not a tuple.

    Source:
        The equal sharing of de Boor 1973, "Good approximation by splines with variable knots"; the
        square root and the numbers by measurement, tests/benchmarks/quadratures.md.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jax.nn.sigmoid(60 * x - 30)
        >>> quadrature = concentrated(f, xattr.paths.aumann_shapley(jnp.array(1.0)), 4)
        >>> (100 * quadrature.nodes).round()
        Array([22., 47., 53., 78.], dtype=float32)
    """
    n, count = _count(n), _count(probes, "probes") + 1
    compilation.check_args(args)
    evaluate = compilation.compiled(probe_kernel, f)
    points_at = sampling.sampler(sampling.path_points, path)
    alphas = np.linspace(0, 1, count)

    def part(start: Any, size: int, valid: Array) -> Array:
        points = points_at(jnp.asarray(chunks.take(alphas, start, size)))
        places = jnp.asarray(start, jnp.int32) + jnp.arange(size, dtype=jnp.int32)
        mine = places[:, None] == jnp.arange(count, dtype=jnp.int32)[None]
        return evaluate(points, mine & jnp.asarray(valid)[:, None], args)

    return Quadrature(
        *_cells(chunks.reduce(part, trees.add, count, chunk_size=chunks.DEFAULT_SIZE), n)
    )


def probe_kernel(f: Function, points: ArrayTree, mine: Array, args: Args) -> Array:
    """Return f at the probes of a chunk, each at its place among all probes, and 0 elsewhere."""
    value = compilation.checked(f)
    values = trees.widen(jax.vmap(lambda point: value(point, *args))(points))
    return jnp.sum(jnp.where(mine, values[:, None], 0), axis=0)


@functools.partial(jax.jit, static_argnames="n")
def _cells(values: Array, n: int) -> tuple[Array, Array]:
    """Return centres and widths of the cells, from the values at evenly spaced probes."""
    shares = jnp.sqrt(jnp.abs(jnp.diff(lax.stop_gradient(values))))
    total = jnp.sum(shares)
    changing = jnp.isfinite(total) & (total > 0)
    shares = jnp.where(changing, shares / jnp.where(changing, total, 1), 1 / shares.size)
    density = UNIFORM / shares.size + (1 - UNIFORM) * shares
    zero = jnp.zeros_like(density[:1])
    filled = jnp.concatenate([zero, jnp.cumsum(density)])
    levels = jnp.arange(1, n, dtype=filled.dtype) / n
    inner = jnp.interp(levels, filled, jnp.linspace(0, 1, filled.size, dtype=filled.dtype))
    # Rounding could put an edge before its neighbour, or outside [0, 1].
    edges = lax.cummax(jnp.concatenate([zero, jnp.clip(inner, 0, 1), zero + 1]))
    return (edges[1:] + edges[:-1]) / 2, jnp.diff(edges)


def checked(quadrature: Quadrature) -> Quadrature:
    """Return the quadrature as arrays; raise if nodes and weights do not fit together."""
    if not isinstance(quadrature, tuple) or len(quadrature) != 2:
        raise TypeError(
            f"`quadrature` must be a Quadrature(nodes, weights), but is "
            f"{trees.type_of(quadrature)}: pass for example xattr.quadrature.gauss_legendre(32)"
        )
    nodes, weights = (_array(values) for values in quadrature)
    if nodes.ndim != 1 or nodes.shape != weights.shape:
        raise ValueError(
            "`quadrature` needs one weight for each node, in one dimension, but has nodes of shape "
            f"{nodes.shape} and weights of shape {weights.shape}: pass Quadrature(nodes, weights)"
        )
    if not nodes.size:
        raise ValueError("`quadrature` is empty: give at least one node")
    if isinstance(nodes, np.ndarray) and isinstance(weights, np.ndarray):
        _check_values(nodes, weights)
    return Quadrature(nodes, weights)


def _array(values: Array) -> Array:
    """Return concrete values as NumPy, and tracers as they are."""
    return values if isinstance(values, jax.core.Tracer) else np.asarray(values)


def _check_values(nodes: np.ndarray, weights: np.ndarray) -> None:
    if not (np.isfinite(nodes).all() and np.isfinite(weights).all()):
        raise ValueError("`quadrature` has a node or a weight that is not finite")
    if nodes.min() < 0 or nodes.max() > 1:
        raise ValueError(
            f"`quadrature` has nodes outside [0, 1], from {nodes.min():g} to {nodes.max():g}: "
            "map them to [0, 1]; for a part of a path compose it, lambda alpha: path(warp(alpha))"
        )
    if (np.diff(nodes) < 0).any():
        raise ValueError(
            "`quadrature` has nodes that are not sorted: sort them, with their weights"
        )


def _count(n: int, name: str = "n") -> int:
    trees.check_count(n, name)
    return int(n)
