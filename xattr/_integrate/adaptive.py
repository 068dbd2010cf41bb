"""Adaptive path integrals: more nodes where the gradient changes, until the error is small enough.

The path is cut into intervals of 5 nodes each. A round takes the intervals of the largest expected
errors, and computes f and its gradient at their nodes; `interval` estimates the error of each. An
interval whose error is within its share of the tolerance is done: its attributions are added to the
result. The share is that which it has in the expected errors of all that wait. Any other interval
is cut in two, and both parts wait. The search ends when no interval waits, or the
budget of gradients is spent: then nothing more is cut.

The search is one `lax.while_loop` over arrays of fixed size, so that it works under jit, vmap and
shard_map. The arrays have a slot for every interval that the budget allows. Of an interval only
scalars are kept. Its attributions, which are as large as x, are added at once or dropped.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._core import chunks, compilation, trees
from xattr._integrate import kernel
from xattr._integrate.interval import NODES, Estimate, Interval, examine
from xattr.types import Args, Array, ArrayTree, Function, Path


class AdaptiveResult(NamedTuple):
    """Attributions with what is known of their error; see `xattr.integrate_to_tolerance`.

    Attributes:
        attributions: a pytree like x, in units of f.
        gap: Σ attributions − (f(γ(1)) − f(γ(0))), a scalar.
        error_estimate: the sum of the estimates of all intervals, a scalar in units of f.
        evaluations: the number of gradients, an integer scalar.
        converged: whether the estimate is within the tolerance, a boolean scalar.
    """

    attributions: ArrayTree
    gap: Array
    error_estimate: Array
    evaluations: Array
    converged: Array


class _State(NamedTuple):
    """The intervals, one in each slot; the slots in use; the sums over intervals that are done."""

    intervals: Interval
    used: Array
    attributions: ArrayTree
    error: Array
    evaluations: Array


def integrate_to_tolerance(
    f: Function,
    path: Path,
    *,
    atol: float | Array = 0.0,
    rtol: float | Array = 1e-2,
    max_evaluations: int = 512,
    args: Args = (),
    chunk_size: int | None = None,
) -> AdaptiveResult:
    """Attribute f(γ(1)) − f(γ(0)) along a path, with as many gradients as the tolerance needs.

    Aᵢ = ∫₀¹ ∂ᵢf(γ(α)) γᵢ'(α) dα, until error_estimate ≤ atol + rtol · |f(γ(1)) − f(γ(0))|.

    The path is cut into intervals of 5 Gauss–Legendre nodes. The error of an interval is taken to
    be the larger of two numbers: the exact gap of its sum, |Σᵢ Aᵢ − Δf|, and T · min(1, T/L)². T is
    the Euclidean norm over the features of the two highest of the five Legendre coefficients of
    ∂ᵢf γᵢ', plus Σ |residual| over the parts between neighbouring nodes. L is the same with the two
    next lower coefficients. T/L is near 1 for a kink or a jump. It is small for a smooth function,
    whose error is far below T. An interval that exceeds its share of the tolerance is cut in two
    where the residual is largest, at the kink that the slopes on both sides point to.

    `error_estimate`, the sum over all intervals, is at least |gap|, up to rounding. It estimates
    the Euclidean norm of the error of the attributions. This is an estimate, not a bound: variation
    between two nodes can be missed. The sum of absolute errors over n features can be √n times that
    norm. `converged` is False where the budget ends, where an interval is as short as rounding
    allows, and where f or its gradient is not finite; the attributions or the gap show which.

    Beside the gradients f alone is evaluated twice, and once for each interval. That adds a
    fifteenth to the cost of the gradients if f costs a third of one. Memory is that of a chunk of
    gradients, a few trees like x, and five numbers for each interval.

    Outside a trace this is one compiled program for each `f`, kind of path, `max_evaluations` and
    `chunk_size`. A path that is a function of your own recompiles at every call. Under `jax.vmap`
    every example has its own intervals, and its numbers are those that it has alone, up to
    rounding. A batch takes as many rounds as its hardest example. A round computes a whole chunk,
    even if fewer intervals wait; `evaluations` counts only gradients that are used. There is no
    reverse-mode derivative. To differentiate attributions, use `xattr.path_integral` with a fixed
    quadrature.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        path: γ, a function `alpha -> pytree like x` on [0, 1].
        atol: the absolute tolerance, a scalar in units of f. Where f(γ(1)) = f(γ(0)) and `atol` is
            0, only an estimate of exactly 0 converges.
        rtol: the tolerance relative to the change of f, a scalar. Where f is rounded, as in
            bfloat16 to 0.4 %, a much smaller `rtol` does not converge.
        max_evaluations: the budget of gradients, at least 5. It is never exceeded.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together: as many intervals of 5 as fit, or the nodes
            of one interval in parts. None is 16.

    Returns:
        `AdaptiveResult`. The attributions are a pytree like x, in its dtypes and in units of f,
        summed in float32 at least.

    Raises:
        ValueError: if a tolerance is negative, the budget below 5, or `chunk_size` below 1.
        TypeError: if the path does not return floating arrays, or `args` is not a tuple.

    Source:
        Residual and completeness: Sundararajan et al. 2016, "Gradients of Counterfactuals",
        proposition 1. Null rules and their decay: Berntsen & Espelid 1991, "Error estimation in
        automatic quadrature routines", ACM TOMS 17.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jax.nn.sigmoid((x - 0.3) / 1e-3)  # rises within a thousandth of the path
        >>> path = xattr.paths.straight_line(baseline=jnp.array(0.0), x=jnp.array(1.0))
        >>> result = xattr.integrate_to_tolerance(f, path, rtol=1e-3)
        >>> result.attributions.round(3), bool(result.converged)
        (Array(1., dtype=float32), True)
    """
    compilation.check_callable(f, "f")
    compilation.check_callable(path, "path")
    compilation.check_args(args)
    for tolerance, name in ((atol, "atol"), (rtol, "rtol")):
        trees.check_not_negative(tolerance, name)
        if jnp.ndim(tolerance):
            raise ValueError(f"`{name}` must be one number, not {jnp.shape(tolerance)} of them")
    trees.check_count(max_evaluations, "max_evaluations")
    if max_evaluations < NODES:
        raise ValueError(
            f"`max_evaluations` must be at least {NODES}, the gradients of one interval, not "
            f"{max_evaluations}"
        )
    size = chunks.DEFAULT_SIZE if chunk_size is None else chunk_size
    trees.check_count(size, "chunk_size", ": it is the number of gradients taken together")
    operands = (jnp.asarray(atol), jnp.asarray(rtol), args)
    if chunks.is_staged():
        return adaptive_kernel(f, *operands, path=path, budget=max_evaluations, size=size)
    path = path if compilation.is_library_callable(path) else _recompiled(path)
    static = {"path": path, "budget": max_evaluations, "size": size}
    return compilation.compiled(adaptive_kernel, f, **static)(*operands)


def _recompiled(path: Path) -> Path:
    """Return a caller's path as a new function: what it reads may have changed, so recompile."""
    return lambda alpha: path(alpha)


def adaptive_kernel(
    f: Function,
    atol: Array,
    rtol: Array,
    args: Args,
    *,
    path: Path,
    budget: int,
    size: int,
) -> AdaptiveResult:
    """Run the whole search as one program, with at most `size` gradients together."""
    lanes = min(max(1, size // NODES), budget // NODES)  # intervals of one round
    ends = kernel.sample_path(path, jnp.arange(2.0), jnp.ones(2))
    dtype = ends.weights.dtype

    def values_at(points: ArrayTree) -> Array:
        value = functools.partial(compilation.function_value, f, args=args)
        return jax.vmap(value)(points).astype(dtype)

    first, last = values_at(ends.points)
    change = last - first
    tolerance = atol.astype(dtype) + rtol.astype(dtype) * jnp.abs(change)
    examine_all = jax.vmap(functools.partial(examine, f, path, args, size))

    def go_on(state: _State) -> Array:
        return jnp.any(state.intervals.expected >= 0)

    def one_round(state: _State) -> _State:
        slots = lax.top_k(state.intervals.expected, lanes)[1]
        examined = _at(state.intervals, slots)
        attributions, estimate = examine_all(examined)
        evaluations, rejected = _decide(state, examined, estimate, tolerance, budget)
        middle = values_at(kernel.sample_path(path, estimate.cut, estimate.cut).points)
        intervals = _cut(state, slots, examined, estimate, middle, rejected)
        # Fewer may wait than there are lanes: the others hold slots that are done or not in use.
        add = functools.partial(_add_where, (examined.expected >= 0) & ~rejected)
        return _State(
            intervals,
            state.used + jnp.sum(rejected, dtype=jnp.int32),
            jax.tree.map(add, state.attributions, attributions),
            add(state.error, estimate.error),
            evaluations,
        )

    # Under shard_map the types of a loop are fixed: this zero varies over the mesh axes as f does.
    zero = jnp.where(change == change, jnp.zeros((), dtype), 0)
    # A cut adds one interval and costs ten gradients, for two parts: the slots suffice.
    blank = jnp.full(max(lanes, budget // (2 * NODES) + 1), zero)
    expected = jnp.where(jnp.arange(len(blank)) == 0, blank + 1, blank - 1)
    intervals = Interval(blank, blank + 1, blank + first, blank + last, expected)
    shapes: ArrayTree = jax.eval_shape(lambda: examine_all(_at(intervals, jnp.arange(lanes)))[0])
    nothing = jax.tree.map(lambda leaf: jnp.sum(jnp.zeros_like(leaf), axis=0), shapes)
    count = zero.astype(jnp.int32)
    state = lax.while_loop(go_on, one_round, _State(intervals, count + 1, nothing, zero, count))
    total = trees.total(state.attributions)
    return AdaptiveResult(
        trees.cast_like(state.attributions, ends.points),
        total - change.astype(total.dtype),
        state.error,
        state.evaluations,
        (state.error <= tolerance) & jnp.isfinite(state.error) & jnp.isfinite(tolerance),
    )


def _at(intervals: Interval, slots: Array) -> Interval:
    return jax.tree.map(lambda leaf: leaf[slots], intervals)


def _add_where(chosen: Array, total: Array, terms: Array) -> Array:
    """Add those chosen of the leading axis to the total; the others may hold anything, even NaN."""
    mask = chosen.reshape(chosen.shape + (1,) * (terms.ndim - 1))
    return total + jnp.sum(jnp.where(mask, terms, 0), axis=0)


def _decide(
    state: _State, examined: Interval, estimate: Estimate, tolerance: Array, budget: int
) -> tuple[Array, Array]:
    """Return the gradients taken so far, and which of the intervals examined are to be cut."""
    limits = np.finfo(tolerance.dtype)
    wanted = examined.expected >= 0
    pending = state.intervals.expected >= 0
    evaluations = state.evaluations + NODES * jnp.sum(wanted, dtype=jnp.int32)

    # What is left of the tolerance is shared among all that wait, in proportion to the error
    # expected of each. The errors accepted can therefore never exceed the tolerance together.
    whole = jnp.sum(jnp.where(pending, state.intervals.expected, 0))
    rest = jnp.maximum(tolerance - state.error, 0)
    share = rest * (examined.expected / jnp.maximum(whole, limits.tiny))
    # Values of α next to 1 are eps / 2 apart. The outer nodes of an interval lie 0.047 of its width
    # from its ends, which is 3 eps here: in a shorter interval nodes would soon coincide.
    short = examined.end - examined.start <= 64 * limits.eps
    # A NaN compares as False, and is not cut: no number of nodes would remove it.
    rejected = wanted & (estimate.error > share) & ~short

    # Every interval that waits must still be examined once, and so must both parts of one that is
    # cut. If not all can be cut, those of the largest errors are.
    waiting = jnp.sum(pending, dtype=jnp.int32) - jnp.sum(wanted, dtype=jnp.int32)
    affordable = (budget - evaluations - NODES * waiting) // (2 * NODES)
    return evaluations, rejected & (_rank(jnp.where(rejected, estimate.error, -1)) < affordable)


def _rank(values: Array) -> Array:
    """Return the place of each value in descending order; equal values keep their order."""
    order = jnp.arange(len(values))
    mine, others = values[:, None], values[None]
    before = (others > mine) | ((others == mine) & (order[None] < order[:, None]))
    return jnp.sum(before, axis=1, dtype=jnp.int32)


def _cut(
    state: _State,
    slots: Array,
    examined: Interval,
    estimate: Estimate,
    middle: Array,
    rejected: Array,
) -> Interval:
    """Return all intervals; those examined are marked as done, or replaced by their two parts.

    The left part takes the slot of the interval, the right part a new one.
    """
    left = examined._replace(
        end=jnp.where(rejected, estimate.cut, examined.end),
        end_value=jnp.where(rejected, middle, examined.end_value),
        expected=jnp.where(rejected, estimate.error * estimate.left_share, -1),
    )
    right = examined._replace(
        start=estimate.cut,
        start_value=middle,
        expected=estimate.error * (1 - estimate.left_share),
    )
    # The right part of an interval that is not cut goes beyond the last slot, and is dropped.
    place = state.used + _rank(jnp.where(rejected, estimate.error, -1))
    place = jnp.where(rejected, place, len(state.intervals.start))

    where = jnp.concatenate([slots, place])

    def write(leaf: Any, here: Array, there: Array) -> Any:
        return leaf.at[where].set(jnp.concatenate([here, there]), mode="drop")

    return jax.tree.map(write, state.intervals, left, right)
