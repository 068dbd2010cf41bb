"""One interval of an adaptive path integral: its attributions, their error, and where to cut it.

f and its gradient are computed at 5 Gauss–Legendre nodes. Two sources tell of the error.

- The sum over the features is known exactly. Between any two values of α it is the change of f. The
  polynomial through the slopes at the nodes gives another value for the same change. The difference
  is the *residual*; there is one for each of the six parts between neighbouring nodes and ends.
- Errors of single features can cancel in the sum. They show in the Legendre coefficients of each
  feature's integrand. These fall quickly where the integrand is smooth, and slowly at a kink.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr import quadrature
from xattr._core import compilation, trees
from xattr._cpu import replace
from xattr._integrate import kernel
from xattr.types import Args, Array, ArrayTree, Function, Path

NODES = 5
"""Gauss–Legendre nodes of an interval.

Fewer take longer on smooth functions, more take longer on kinks. Gradients for a tolerance of 1e-3,
in a trial in NumPy with 3, 5 and 7 nodes: a tanh network 33, 21 and 29, a ReLU network 462, 584 and
922.
"""

_NODES, _WEIGHTS = map(np.asarray, quadrature.gauss_legendre(NODES))
_ENDS: np.ndarray = np.concatenate([[0.0], _NODES, [1.0]])
_BASIS: np.ndarray = np.stack(
    [np.sqrt(2 * j + 1) * np.polynomial.Legendre.basis(j)(2 * _NODES - 1) for j in range(NODES)]
)
_MOMENTS: np.ndarray = _BASIS * _WEIGHTS
"""Values at the nodes -> coefficients of the orthonormal Legendre polynomials on [0, 1]."""


def _between_nodes() -> np.ndarray:
    """Return the map from values at the nodes to the integrals of their interpolant between them.

    It has a row for each part: start to first node, between neighbours, last node to end.
    """
    integrals = (np.polynomial.Legendre.basis(j).integ() for j in range(NODES))
    primitives = [integral(2 * _ENDS - 1) / 2 for integral in integrals]
    scales = np.sqrt(2 * np.arange(NODES) + 1)
    parts: np.ndarray = (np.diff(primitives, axis=1).T * scales) @ _MOMENTS
    return parts


_PARTS = _between_nodes()


class Interval(NamedTuple):
    """A part of the path: its ends, f there, and the error expected of it, −1 once it is done."""

    start: Array
    end: Array
    start_value: Array
    end_value: Array
    expected: Array


class Estimate(NamedTuple):
    """The error of an interval, where to cut it, and the share of the error left of the cut."""

    error: Array
    cut: Array
    left_share: Array


def examine(
    f: Function, path: Path, args: Args, size: int, interval: Interval
) -> tuple[ArrayTree, Estimate]:
    """Return the attributions of one interval, with at most `size` gradients taken together.

    `kernel.path_kernel` returns the sum over the nodes alone; here the terms are needed, and f.
    """
    width = interval.end - interval.start
    dtype = width.dtype
    nodes = interval.start + width * jnp.asarray(_NODES, dtype)
    samples = kernel.sample_path(path, nodes, nodes)
    gradient = jax.value_and_grad(replace.faster(compilation.staged(f)))

    def at(point: ArrayTree, velocity: ArrayTree) -> tuple[Array, ArrayTree]:
        value, slope = gradient(point, *args)
        slope, velocity = trees.widen((slope, velocity))
        return value.astype(dtype), trees.product(velocity, slope)

    values, integrands = _mapped(at, (samples.points, samples.velocities), size)
    weights = width * jnp.asarray(_MOMENTS, dtype)

    def moments(leaf: Array) -> Any:
        return jnp.einsum("jn,n...->j...", weights.astype(leaf.dtype), leaf, precision="highest")

    def over_features(leaf: Array) -> Array:
        return jnp.sum(leaf.reshape(NODES, -1), axis=1).astype(dtype)

    coefficients = jax.tree.map(moments, integrands)
    leaves = jax.tree.leaves(coefficients)
    sums = functools.reduce(jnp.add, map(over_features, leaves))
    squares = functools.reduce(jnp.add, (over_features(jnp.square(leaf)) for leaf in leaves))
    attributions = jax.tree.map(lambda leaf: leaf[0], coefficients)  # the integral itself
    return attributions, _estimate(interval, values, sums, squares)


def _mapped(at: Callable[..., Any], operands: Any, size: int) -> Any:
    """Map over the nodes of an interval, at most `size` together."""
    if size >= NODES:
        return jax.vmap(at)(*operands)
    return lax.map(lambda operand: at(*operand), operands, batch_size=size)


def _estimate(interval: Interval, values: Array, sums: Array, squares: Array) -> Estimate:
    """Return the error of an interval, and where to cut it.

    `values` are those of f at the nodes. `sums` and `squares` are the sums over the features of the
    five Legendre coefficients of ∂ᵢf γᵢ' times the width, and of their squares.
    """
    dtype = values.dtype
    slopes = jnp.matmul(sums, jnp.asarray(_BASIS, dtype), precision="highest")
    integrals = jnp.matmul(jnp.asarray(_PARTS, dtype), slopes, precision="highest")
    ends = jnp.concatenate([interval.start_value[None], values, interval.end_value[None]])
    changes = jnp.diff(ends)
    residuals = jnp.abs(integrals - changes)
    misfit = jnp.sum(residuals)
    error = _error(interval, sums, squares, misfit)

    nodes = jnp.asarray(_NODES, dtype)
    places = _places_to_cut(nodes, slopes, changes)
    order, worst = jnp.arange(NODES + 1), jnp.argmax(residuals)
    place = jnp.sum(jnp.where(order == worst, places, 0))

    # Each part's share of the error goes to the side of the cut that it is on. A cut between two
    # nodes halves that part; the first part is cut at its right end, and the last at its left end.
    left = jnp.asarray([1, *[0.5] * (NODES - 1), 0], dtype)
    left = jnp.where(order == worst, left, jnp.where(order < worst, 1, 0))
    # Never exactly 0: shares of the tolerance are in proportion to the expected error, and with
    # a share of 0 an interval could not be accepted.
    left_share = 0.001 + 0.998 * jnp.sum(left * residuals) / jnp.where(misfit > 0, misfit, 1)

    # The residuals show errors of the sum alone. Where features err but their errors cancel in the
    # sum, the residuals are small beside the coefficients and do not tell where: cut in the middle.
    cancels = misfit < 0.05 * (jnp.sqrt(squares[4] + squares[3]) + misfit)
    place, left_share = jnp.where(cancels, 0.5, place), jnp.where(cancels, 0.5, left_share)
    width = interval.end - interval.start
    return Estimate(error, interval.start + width * place, left_share)


def _error(interval: Interval, sums: Array, squares: Array, misfit: Array) -> Array:
    """Return the larger of the exact gap of the sum and T · min(1, T/L)².

    T is the norm of the two highest coefficients plus the misfit, L that of the two next lower.
    """
    # Two coefficients together: of an integrand that is even or odd about the middle of the
    # interval every other coefficient is 0, and says nothing about its smoothness.
    high = jnp.sqrt(squares[4] + squares[3]) + misfit
    low = jnp.sqrt(squares[2] + squares[1]) + misfit
    # Suppose that each pair of coefficients is T/L times the pair before. Then T (T/L)² is the size
    # of the pair of degrees 7 and 8, and 5 nodes are exact up to degree 9: the estimate is cautious
    # for a smooth integrand (by T alone a difference of two sines took 555 gradients, not 65). At a
    # kink or a jump T/L is near 1, and T remains. The misfit is in both: where it is the larger
    # term, T/L is near 1 and claims no smoothness.
    decay = jnp.minimum(high / jnp.where(low > 0, low, 1), 1)
    gap = jnp.abs(sums[0] - (interval.end_value - interval.start_value))
    return jnp.maximum(gap, high * decay**2)


def _places_to_cut(nodes: Array, slopes: Array, changes: Array) -> Array:
    """Return for each of the six parts the place, from 0 to 1, at which it is to be cut.

    Between two nodes it is where the tangents of f at both meet. If f is linear on both sides of a
    kink, that is the kink, and no further gradients are spent on locating it.
    """
    length = jnp.diff(nodes)
    turn = (slopes[:-1] - slopes[1:]) * length
    meet = (changes[1:-1] - slopes[1:] * length) / jnp.where(turn == 0, 1, turn)
    # Parallel tangents do not meet, and others may meet outside or next to a node: then halfway.
    meet = jnp.where((turn != 0) & (meet > 0.01) & (meet < 0.99), meet, 0.5)
    # The slope at the ends of the interval is not known: the outer parts are cut at their node.
    return jnp.concatenate([nodes[:1], nodes[:-1] + length * meet, nodes[-1:]])
