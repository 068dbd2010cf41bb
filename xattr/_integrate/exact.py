"""Exact quadratures for piecewise linear functions: one node for each linear piece of a line.

Along a straight line a network of dense and convolutional layers, ReLUs and maxima is piecewise
linear. The kinks of its program are taken in program order. A part of the line that no earlier kink
bends is a straight line for the next kink, too: the sides of that kink are linear there, and where
they cross is known from their values at both ends (`sides`). The part is cut at the crossings. Its
pieces then go on with the kinks after this one. A part that no kink bends is a piece of f.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import chunks, compilation, trees
from xattr._integrate import sides
from xattr.types import Args, Array, ArrayTree, Function, Quadrature, UncoveredPrimitiveError

_SHORTEST = 2.0**-48
"""Length of the shortest piece: 16 times the spacing of float64 at 1. Less may be rounding."""

_NUMBERS = 2**22
"""Numbers that one call of the program may return to the host; it takes at most 128 parts."""


def exact_quadrature(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    args: Args = (),
    max_pieces: int = 100_000,
) -> Quadrature:
    """Return the quadrature that integrates a piecewise linear f exactly from baseline to x.

    αₖ = (tₖ + tₖ₊₁)/2, wₖ = tₖ₊₁ − tₖ, with 0 = t₀ < t₁ < … < tₙ = 1 all points at which
    f(baseline + α (x − baseline)) can bend. Between them ∇f is constant, so that integrated
    gradients with this quadrature are exact, up to rounding.

    f may consist of dense and convolutional layers, sums, means, constant factors and moves, and of
    ReLU, leaky ReLU, abs, clip, max and min of values or over axes, max-pooling, comparisons and
    choices by them. If f has jumps, as `where(x > 0, x + 1, 0)` has, the gradient is integrated
    exactly, but the attributions do not sum to the change of f: they miss the jumps.

    The points are found in float64 whatever the dtype of f, with about three evaluations of f for
    each piece. Their number depends on values, so the host runs the search: call this outside
    `jax.jit` and `jax.vmap`, and pass the quadrature to the method. It holds for this f, x,
    baseline and args only.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x. None is zeros.
        args: further arguments of f. A new value does not recompile.
        max_pieces: the largest number of pieces to allow.

    Returns:
        `Quadrature`, with nodes and weights as NumPy arrays in float64.

    Raises:
        UncoveredPrimitiveError: if f has an operation that is not known to be piecewise linear, or
            a function with a derivative of its own that is not the derivative of its values. The
            error names the operation and its source line.
        ValueError: if there are more than `max_pieces` pieces, values are not finite, or the
            baseline is not like x.
        TypeError: inside a trace, or if a leaf of x is not floating.

    Source:
        Montúfar et al. 2014, "On the Number of Linear Regions of Deep Neural Networks";
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", eq. 1.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: 1 - jax.nn.relu(1 - x)
        >>> quadrature = xattr.exact_quadrature(f, jnp.array(4.0))
        >>> quadrature
        Quadrature(nodes=array([0.125, 0.625]), weights=array([0.25, 0.75]))
        >>> xattr.integrated_gradients(f, jnp.array(4.0), quadrature=quadrature)
        Array(1., dtype=float32)
    """
    compilation.check_callable(f, "f")
    compilation.check_args(args)
    trees.check_count(max_pieces, "max_pieces")
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    if chunks.is_staged() or trees.is_traced(x, baseline, args):
        raise TypeError(
            "`exact_quadrature` cannot be traced, since the number of pieces depends on values: "
            "call it outside jax.jit, jax.vmap and jax.grad, one example at a time, and pass the "
            "quadrature to xattr.integrated_gradients; xattr.integrate_to_tolerance can be traced"
        )
    x64 = jax.dtypes.canonicalize_dtype(np.float64).itemsize == 8
    args = jax.tree.map(jnp.asarray, args)  # in the dtypes that f is given without float64
    with jax.enable_x64(True):
        program = functools.partial(
            compilation.compiled(sides.sides_kernel, f, x64=x64), x, baseline, args
        )
        ends = _ends(program, max_pieces)
    return Quadrature((ends[:-1] + ends[1:]) / 2, np.diff(ends))


class _Parts(NamedTuple):
    """Parts of [0, 1], in order. No operation before the one with index `untested` bends a part."""

    start: np.ndarray
    end: np.ndarray
    untested: np.ndarray


def _ends(program: Callable[[Array, Array], Any], max_pieces: int) -> np.ndarray:
    """Return all points where a piece starts or ends, from 0 to 1."""
    shapes, _ = jax.eval_shape(program, jnp.zeros(1), jnp.ones(1))
    numbers = sum(shape.size for shape in shapes)
    size = int(np.clip(_NUMBERS // max(numbers, 1), 1, 128))
    todo = _Parts(np.zeros(1), np.ones(1), np.zeros(1, int))
    done: list[np.ndarray] = [np.ones(1)]
    count = 0
    while len(todo.start):
        if count + len(todo.start) > max_pieces:
            raise ValueError(
                f"the line from `baseline` to `x` has more than `max_pieces`={max_pieces} linear "
                "pieces: raise it, or use xattr.integrate_to_tolerance"
            )
        now, todo = (_Parts(*(a[part] for a in todo)) for part in (np.s_[:size], np.s_[size:]))
        # Padded, so that one compiled program serves every number of parts.
        padding = (0, size - len(now.start))
        padded = [jnp.asarray(np.pad(a, padding, mode="edge")) for a in (now.start, now.end)]
        kinks, differs = jax.device_get(program(*padded))
        if not all(np.isfinite(values).all() for values in kinks):
            raise ValueError(
                "`f` is not finite on the line from `baseline` to `x`: look for NaN in x, in the "
                "baseline and in `args`"
            )
        for call, wrong in differs.items():
            if wrong.any():
                raise UncoveredPrimitiveError(
                    f"`f` has a derivative of its own that is not that of its values: {call}. "
                    f"{sides.REMEDY}"
                )
        starts, parts = _cut(now, kinks)
        done.append(starts)
        count += len(starts)
        todo = _Parts(*map(np.concatenate, zip(parts, todo, strict=True)))
    return np.sort(np.concatenate(done))


def _cut(parts: _Parts, kinks: list[np.ndarray]) -> tuple[np.ndarray, _Parts]:
    """Cut each part at the first operation that bends it.

    Return the starts of the parts that no operation bends, and the parts that the others become.
    `kinks` has for each operation the sides of its kinks at both ends of every part.
    """
    straight = np.arange(len(parts.start))
    new: list[tuple[float, float, int]] = []
    for operation, values in enumerate(kinks):
        # `straight` has the parts that no earlier operation bends: in others the sides are wrong.
        # An operation that has cut a part is not tested again in its pieces.
        tested = straight[parts.untested[straight] <= operation]
        largest = values.argmax(axis=-1)[tested]
        rows, groups = np.nonzero(largest[:, 0] != largest[:, 1])
        crossed = tested[rows]
        found, fractions = crossings(values[crossed, 0, groups], values[crossed, 1, groups])
        crossed = crossed[found]
        bent = set()
        for part in np.unique(crossed):
            ends = _distinct(parts.start[part], parts.end[part], fractions[crossed == part])
            if len(ends) > 2:
                bent.add(part)
                new += [(a, b, operation + 1) for a, b in itertools.pairwise(ends)]
        straight = np.array([s for s in straight if s not in bent], int)
    new.sort()
    start, end, untested = np.array(new).reshape(-1, 3).T
    return parts.start[straight], _Parts(start, end, untested.astype(int))


def _distinct(start: float, end: float, fractions: np.ndarray) -> list[float]:
    """Return the ends of a part and the points in it, without points too close to be told apart."""
    ends = [start]
    for point in np.sort(start + (end - start) * fractions):
        if point - ends[-1] > _SHORTEST and end - point > _SHORTEST:
            ends.append(float(point))
    return [*ends, end]


def crossings(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the largest of several linear functions changes, for many groups of functions.

    `before` and `after`, of shape (groups, functions), are the values at both ends. The result is
    the index of the group and the place, 0 at the first end and 1 at the second, for each change.
    There may be more places than changes.
    """
    groups = np.arange(len(before))
    low, high = before.argmax(axis=1), after.argmax(axis=1)
    found = [(groups[:0], before[:0, 0])]
    while len(groups):
        differs = low != high
        groups, low, high = groups[differs], low[differs], high[differs]
        ahead = before[groups, low] - before[groups, high]
        behind = after[groups, high] - after[groups, low]
        meets = ahead + behind > 0  # not if both tie at both ends
        groups, low, high = groups[meets], low[meets], high[meets]
        place = ahead[meets] / (ahead + behind)[meets]
        # A third function may be larger where the two cross. Then it takes over from the first and
        # gives way to the second, and both crossings are looked for in the next round.
        values = before[groups] * (1 - place)[:, None] + after[groups] * place[:, None]
        top, rows = values.argmax(axis=1), np.arange(len(groups))
        here, there = values[rows, top], values[rows, low]
        # By more than rounding, or three lines through one point would go on for ever.
        above = here - there > 1e-13 * (np.abs(here) + np.abs(there))
        above &= (top != low) & (top != high)
        found.append((groups[~above], place[~above]))
        groups = np.concatenate([groups[above]] * 2)
        low, high = (
            np.concatenate(pair) for pair in ([low[above], top[above]], [top[above], high[above]])
        )
    rows, places = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return rows, places
