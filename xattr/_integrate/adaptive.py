"""Adaptive path integrals: nodes where the gradient changes, until the error is small enough.

On each interval of a path the exact sum of the attributions is known from f alone, f(γ(b)) −
f(γ(a)), and so it is between the nodes within the interval. The next nodes go where the quadrature
misses these sums.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr import quadrature
from xattr._core import chunks, compilation, trees
from xattr._cpu import replace
from xattr._integrate import kernel
from xattr.types import Array, ArrayTree, Function, Path

NODES = 5
"""Gauss–Legendre nodes of an interval.

Fewer take longer on smooth functions, more on kinks: in a trial in NumPy with 3, 5 and 7, for a
tolerance of 1e-3, a tanh network took 33, 21 and 29 gradients, a ReLU network 462, 584 and 922.
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

    One row each from the start to the first node, between neighbours, and to the end.
    """
    integrals = (np.polynomial.Legendre.basis(j).integ() for j in range(NODES))
    primitives = [integral(2 * _ENDS - 1) / 2 for integral in integrals]
    scales = np.sqrt(2 * np.arange(NODES) + 1)
    panels: np.ndarray = (np.diff(primitives, axis=1).T * scales) @ _MOMENTS
    return panels


_PANELS = _between_nodes()


class AdaptiveResult(NamedTuple):
    """Attributions with what is known of their error; see `xattr.integrate_to_tolerance`.

    `gap` is Σ attributions − (f(γ(1)) − f(γ(0))), `error_estimate` the sum of the estimates of all
    intervals, `evaluations` the number of gradients, `converged` whether the estimate is within
    the tolerance. The attributions are a pytree like x, the others scalars.
    """

    attributions: ArrayTree
    gap: Array
    error_estimate: Array
    evaluations: Array
    converged: Array


class _Intervals(NamedTuple):
    """Parts of the path: their ends, f there, and the error expected of each; −1 once done."""

    start: Array
    end: Array
    start_value: Array
    end_value: Array
    expected: Array


class _Finding(NamedTuple):
    """Of an interval: its error, where to cut it, and the part of the error left of the cut."""

    error: Array
    cut: Array
    left_part: Array


class _State(NamedTuple):
    """All intervals so far and how many they are; the sums over those that are done."""

    intervals: _Intervals
    made: Array
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
    args: tuple[Any, ...] = (),
    chunk_size: int | None = None,
) -> AdaptiveResult:
    """Attribute f(γ(1)) − f(γ(0)) along a path, with as many gradients as the tolerance needs.

    Aᵢ = ∫₀¹ ∂ᵢf(γ(α)) γᵢ'(α) dα, until error_estimate ≤ atol + rtol · |f(γ(1)) − f(γ(0))|.

    The path is cut into intervals of 5 Gauss–Legendre nodes. The error of an interval is taken to
    be the larger of two: the exact residual of its sum, |Σᵢ Aᵢ − Δf|, and T · min(1, T/L)². T is
    the Euclidean norm over the features of the two highest of the five Legendre coefficients of
    ∂ᵢf γᵢ', plus Σ |residual| over the parts between neighbouring nodes; L is the same with the two
    next lower coefficients. T/L is near 1 for a kink or a jump, and small for a smooth function,
    whose error is far below T. An interval that exceeds its share of the tolerance is cut in two
    where the residual is largest, at the kink that the slopes on both sides point to.
    `error_estimate`, the sum over all intervals, is never below |gap|, but for rounding, and
    estimates the Euclidean norm of the error of the attributions. It is no bound: what happens
    between two nodes and leaves no trace in f and its gradient at them is not seen. The sum of
    absolute errors over n features can be √n times that norm.

    Shapes: `path(alpha)` returns a pytree like x, what `f` takes; so are the attributions, in the
    dtype of x, summed in float32 at least. `atol`, in units of f, and `rtol` are scalars. Where
    f(γ(1)) = f(γ(0)), only an estimate of exactly 0 converges unless `atol` is given. Where f is
    rounded, as in bfloat16 to 0.4 %, a much smaller `rtol` does not converge.

    `evaluations` counts gradients and never exceeds `max_evaluations`, at least 5. Beside them f
    alone is evaluated twice, and once for each interval, which costs a fifteenth of its gradients
    if f costs a third of one. Where the budget ends, or an interval is as short as rounding
    allows, the rest is integrated as it stands and `converged` is False; so it is where f or its
    gradient is not finite, which shows in the attributions or the gap. At most `chunk_size`
    gradients are taken together (None: 16), as many intervals of 5 as fit in it, or the nodes of
    one interval in parts; memory is theirs, a few trees like x and five numbers for each interval.

    Outside a trace this is one compiled program for each `f`, kind of path, `max_evaluations` and
    `chunk_size`; a path that is a function of your own is traced at every call. Under `jax.vmap`
    every example has its own intervals, and its numbers are those that it has alone, to rounding;
    all go on together until the last is done, so that a batch takes as many rounds as its hardest
    example. A round computes a whole chunk, wanted or not; what is not wanted is not counted. There
    is no reverse-mode derivative: to differentiate attributions, use `xattr.path_integral` with a
    fixed quadrature.

    Raises `ValueError` for a negative tolerance, a budget below 5 and a `chunk_size` below 1,
    `TypeError` for a path that does not return floating arrays.
    Source: residual and completeness: Sundararajan et al. 2016, "Gradients of Counterfactuals",
    proposition 1; null rules and their decay: Berntsen & Espelid 1991, "Error estimation in
    automatic quadrature routines", ACM TOMS 17.

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
    path = path if compilation.is_library_callable(path) else _anew(path)
    static = {"path": path, "budget": max_evaluations, "size": size}
    return compilation.compiled(adaptive_kernel, f, **static)(*operands)


def _anew(path: Path) -> Path:
    """Return a path of the caller's under a new identity: what it reads may have changed."""
    return lambda alpha: path(alpha)


def adaptive_kernel(
    f: Function,
    atol: Array,
    rtol: Array,
    args: tuple[Any, ...],
    *,
    path: Path,
    budget: int,
    size: int,
) -> AdaptiveResult:
    """Run the whole search, as one program: at most `size` gradients together."""
    lanes = min(max(1, size // NODES), budget // NODES)
    ends = kernel.sample_path(path, jnp.arange(2.0), jnp.ones(2))
    dtype = ends.weights.dtype

    def values_at(points: ArrayTree) -> Array:
        value = functools.partial(compilation.function_value, f, args=args)
        return jax.vmap(value)(points).astype(dtype)

    first, last = values_at(ends.points)
    change = last - first
    tolerance = atol.astype(dtype) + rtol.astype(dtype) * jnp.abs(change)
    examine = jax.vmap(functools.partial(_examine, f, path, args, size))

    def go_on(state: _State) -> Array:
        return jnp.any(state.intervals.expected >= 0)

    def step(state: _State) -> _State:
        slots = lax.top_k(state.intervals.expected, lanes)[1]
        now = _at(state.intervals, slots)
        fields, found = examine(now)
        evaluations, rejected = _decide(state, now, found, tolerance, budget)
        middle = values_at(kernel.sample_path(path, found.cut, found.cut).points)
        intervals = _cut(state, slots, now, found, middle, rejected)
        add = functools.partial(_add_where, (now.expected >= 0) & ~rejected)
        return _State(
            intervals,
            state.made + jnp.sum(rejected, dtype=jnp.int32),
            jax.tree.map(add, state.attributions, fields),
            add(state.error, found.error),
            evaluations,
        )

    # Zeros that vary over the axes of a mesh as f does: under shard_map a loop's types are fixed.
    zero = jnp.where(change == change, jnp.zeros((), dtype), 0)
    # A cut takes ten gradients for its two parts, so that slots never run out.
    blank = jnp.full(max(lanes, budget // (2 * NODES) + 1), zero)
    expected = jnp.where(jnp.arange(len(blank)) == 0, blank + 1, blank - 1)
    intervals = _Intervals(blank, blank + 1, blank + first, blank + last, expected)
    form: ArrayTree = jax.eval_shape(lambda: examine(_at(intervals, jnp.arange(lanes)))[0])
    nothing = jax.tree.map(lambda leaf: jnp.sum(jnp.zeros_like(leaf), axis=0), form)
    count = zero.astype(jnp.int32)
    state = lax.while_loop(go_on, step, _State(intervals, count + 1, nothing, zero, count))
    total = trees.total(state.attributions)
    return AdaptiveResult(
        trees.cast_like(state.attributions, ends.points),
        total - change.astype(total.dtype),
        state.error,
        state.evaluations,
        (state.error <= tolerance) & jnp.isfinite(state.error) & jnp.isfinite(tolerance),
    )


def _at(intervals: _Intervals, slots: Array) -> _Intervals:
    chosen: _Intervals = jax.tree.map(lambda leaf: leaf[slots], intervals)
    return chosen


def _add_where(chosen: Array, total: Array, terms: Array) -> Array:
    """Add the chosen of the leading axis to the total; the others may be anything, even NaN."""
    mask = chosen.reshape(chosen.shape + (1,) * (terms.ndim - 1))
    return total + jnp.sum(jnp.where(mask, terms, 0), axis=0)


def _decide(
    state: _State, now: _Intervals, found: _Finding, tolerance: Array, budget: int
) -> tuple[Array, Array]:
    """Return the gradients taken by now, and which of the intervals examined are to be cut."""
    limits = np.finfo(tolerance.dtype)
    wanted = now.expected >= 0
    pending = state.intervals.expected >= 0
    evaluations = state.evaluations + NODES * jnp.sum(wanted, dtype=jnp.int32)

    # Shares of what is left of the tolerance: those accepted can never exceed it together.
    whole = jnp.sum(jnp.where(pending, state.intervals.expected, 0))
    rest = jnp.maximum(tolerance - state.error, 0)
    share = rest * (now.expected / jnp.maximum(whole, limits.tiny))
    short = now.end - now.start <= 64 * limits.eps
    rejected = wanted & (found.error > share) & ~short  # a NaN is not cut: it would not go away

    # All that waits, and the parts of what is cut, must remain affordable; the worst come first.
    waiting = jnp.sum(pending, dtype=jnp.int32) - jnp.sum(wanted, dtype=jnp.int32)
    affordable = (budget - evaluations - NODES * waiting) // (2 * NODES)
    return evaluations, rejected & (_rank(jnp.where(rejected, found.error, -1)) < affordable)


def _rank(values: Array) -> Array:
    """Return how many values come before each, the largest first."""
    order = jnp.arange(len(values))
    mine, others = values[:, None], values[None]
    before = (others > mine) | ((others == mine) & (order[None] < order[:, None]))
    return jnp.sum(before, axis=1, dtype=jnp.int32)


def _cut(
    state: _State,
    slots: Array,
    now: _Intervals,
    found: _Finding,
    middle: Array,
    rejected: Array,
) -> _Intervals:
    """Return all intervals, those examined done or replaced by their two parts."""
    left = now._replace(
        end=jnp.where(rejected, found.cut, now.end),
        end_value=jnp.where(rejected, middle, now.end_value),
        expected=jnp.where(rejected, found.error * found.left_part, -1),
    )
    right = now._replace(
        start=found.cut, start_value=middle, expected=found.error * (1 - found.left_part)
    )
    # A lane that cuts nothing writes beyond the last slot, where it is dropped.
    place = state.made + _rank(jnp.where(rejected, found.error, -1))
    place = jnp.where(rejected, place, len(state.intervals.start))

    where = jnp.concatenate([slots, place])

    def write(leaf: Any, here: Array, there: Array) -> Any:
        return leaf.at[where].set(jnp.concatenate([here, there]), mode="drop")

    intervals: _Intervals = jax.tree.map(write, state.intervals, left, right)
    return intervals


def _examine(
    f: Function, path: Path, args: tuple[Any, ...], size: int, interval: _Intervals
) -> tuple[ArrayTree, _Finding]:
    """Return the attributions of one interval, and what to think of them.

    `kernel.path_kernel` has no part in it: here f at the nodes and more sums than one are wanted.
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

    values, fields = _mapped(at, (samples.points, samples.velocities), size)
    weights = width * jnp.asarray(_MOMENTS, dtype)

    def moments(leaf: Array) -> Any:
        return jnp.einsum("jn,n...->j...", weights.astype(leaf.dtype), leaf, precision="highest")

    def over_features(leaf: Array) -> Array:
        return jnp.sum(leaf.reshape(NODES, -1), axis=1).astype(dtype)

    coefficients = jax.tree.map(moments, fields)
    leaves = jax.tree.leaves(coefficients)
    sums = functools.reduce(jnp.add, map(over_features, leaves))
    squares = functools.reduce(jnp.add, (over_features(jnp.square(leaf)) for leaf in leaves))
    attributions = jax.tree.map(lambda leaf: leaf[0], coefficients)
    return attributions, _judge(interval, values, sums, squares)


def _mapped(at: Callable[..., Any], operands: Any, size: int) -> Any:
    """Map over the nodes of an interval, at most so many together."""
    if size >= NODES:
        return jax.vmap(at)(*operands)
    return lax.map(lambda operand: at(*operand), operands, batch_size=size)


def _judge(interval: _Intervals, values: Array, sums: Array, squares: Array) -> _Finding:
    """Return what to think of an interval.

    Given are f at the nodes, and of the five Legendre coefficients of ∂ᵢf γᵢ', times the width of
    the interval, the sums over the features and those of squares.
    """
    dtype = values.dtype
    slopes = jnp.matmul(sums, jnp.asarray(_BASIS, dtype), precision="highest")
    panels = jnp.matmul(jnp.asarray(_PANELS, dtype), slopes, precision="highest")
    ends = jnp.concatenate([interval.start_value[None], values, interval.end_value[None]])
    changes = jnp.diff(ends)
    residuals = jnp.abs(panels - changes)
    trace = jnp.sum(residuals)
    high = jnp.sqrt(squares[4] + squares[3]) + trace
    low = jnp.sqrt(squares[2] + squares[1]) + trace
    decay = jnp.minimum(high / jnp.where(low > 0, low, 1), 1)
    gap = jnp.abs(sums[0] - (interval.end_value - interval.start_value))

    # The cut: where the tangents at the nodes on both sides of the largest residual meet, or
    # halfway between these nodes. Beyond the first and the last node the slope is not known.
    nodes = jnp.asarray(_NODES, dtype)
    length = jnp.diff(nodes)
    turn = (slopes[:-1] - slopes[1:]) * length
    meet = (changes[1:-1] - slopes[1:] * length) / jnp.where(turn == 0, 1, turn)
    meet = jnp.where((turn != 0) & (meet > 0.01) & (meet < 0.99), meet, 0.5)
    places = jnp.concatenate([nodes[:1], nodes[:-1] + length * meet, nodes[-1:]])
    parts = jnp.asarray([1, *[0.5] * (NODES - 1), 0], dtype)
    order, worst = jnp.arange(NODES + 1), jnp.argmax(residuals)
    place = jnp.sum(jnp.where(order == worst, places, 0))
    parts = jnp.where(order == worst, parts, jnp.where(order < worst, 1, 0))
    left_part = 0.001 + 0.998 * jnp.sum(parts * residuals) / jnp.where(trace > 0, trace, 1)

    blind = trace < 0.05 * high  # errors of features that cancel in f leave nothing to follow
    place, left_part = jnp.where(blind, 0.5, place), jnp.where(blind, 0.5, left_part)
    width = interval.end - interval.start
    return _Finding(jnp.maximum(gap, high * decay**2), interval.start + width * place, left_part)
