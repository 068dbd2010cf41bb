"""Paths γ from a baseline to an input: each function returns a path `alpha -> pytree like x`.

A function of your own is as good as one of these. Write it with operations of `jax.numpy`; its
velocity is taken by `jax.jvp`. `alpha` arrives as a scalar, in float32 at least: for half precision
under strict promotion, cast it to the dtype of x. Outside a trace, a path made of these functions
is sampled by one compiled program for its kind. Your own function is sampled operation by
operation: if that is slow, put the whole call under `jax.jit`.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._core import compilation, deprecated, trees
from xattr.types import Alpha, Array, ArrayTree, Path

__all__ = [
    "aumann_shapley",
    "blur",
    "concatenate",
    "coordinatewise",
    "embedding_waypoints",
    "monotone",
    "polyline",
    "reparametrize",
    "reverse",
    "serial",
    "straight_line",
]

Warp: TypeAlias = Callable[[Alpha], Alpha]
"""An increasing function from [0, 1] to [0, 1] that keeps both ends."""

_NUMBERS = (int, float, np.number, np.ndarray, jax.Array)


@deprecated.by_keyword
def straight_line(*, baseline: ArrayTree, x: ArrayTree) -> Path:
    """Return the straight line from the baseline to x, the path of integrated gradients.

    γ(α) = (1 − α) baseline + α x, exact at both ends.

    Args:
        baseline: the start, a pytree of floating arrays with the structure and shapes of x.
        x: the end, the input that is explained, a pytree of floating arrays.

    Returns:
        The path `alpha -> pytree like x`.

    Raises:
        ValueError: if structure or shapes of `baseline` and `x` differ.
        TypeError: if a leaf is not floating.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §3.

    Example:
        >>> import jax.numpy as jnp
        >>> path = straight_line(baseline=jnp.zeros(2), x=jnp.array([2.0, 4.0]))
        >>> path
        straight_line(baseline=f32[2], x=f32[2])
        >>> path(0.5)
        Array([1., 2.], dtype=float32)
    """
    x = trees.floating(x, "x")
    return compilation.Named(
        _straight_line, {"baseline": trees.like(baseline, x, "baseline"), "x": x}
    )


def _straight_line(alpha: Alpha, baseline: ArrayTree, x: ArrayTree) -> ArrayTree:
    return jax.tree.map(functools.partial(_between, alpha), baseline, x)


def _between(alpha: Any, start: jax.Array, end: jax.Array) -> jax.Array:
    """Return (1 − α) start + α end in the dtype of start, computed in float32 at least."""
    dtype = trees.wide(start.dtype)
    fraction = jnp.asarray(alpha, dtype)
    return ((1 - fraction) * start.astype(dtype) + fraction * end.astype(dtype)).astype(start.dtype)


def aumann_shapley(x: ArrayTree) -> Path:
    """Return the straight line from zero to x, the path of Aumann–Shapley pricing.

    γ(α) = α x.

    Args:
        x: the end, the input that is explained, a pytree of floating arrays.

    Returns:
        The path `alpha -> pytree like x`.

    Raises:
        TypeError: if a leaf of x is not floating.

    Source:
        Aumann & Shapley 1974, "Values of Non-Atomic Games"; Sundararajan et al. 2016, §2.4.

    Example:
        >>> import jax.numpy as jnp
        >>> aumann_shapley(jnp.array([2.0, 4.0]))(0.25)
        Array([0.5, 1. ], dtype=float32)
    """
    x = trees.floating(x, "x")
    return straight_line(baseline=jax.tree.map(jnp.zeros_like, x), x=x)


@deprecated.by_keyword
def monotone(*, baseline: ArrayTree, x: ArrayTree, exponents: ArrayTree | float) -> Path:
    """Return a path that moves each feature by a power of α of its own.

    γᵢ(α) = baselineᵢ + (xᵢ − baselineᵢ) α^pᵢ.

    A feature with p > 1 lags behind the straight line; one with p < 1 runs ahead of it. Where p < 1
    the velocity at α = 0 is infinite: use a quadrature without that node, such as Gauss–Legendre.

    Args:
        baseline: the start, a pytree of floating arrays with the structure and shapes of x.
        x: the end, the input that is explained, a pytree of floating arrays.
        exponents: p > 0: one number, or a pytree with the structure of x whose leaves broadcast to
            those of x.

    Returns:
        The path `alpha -> pytree like x`.

    Raises:
        ValueError: if p ≤ 0, or if structure or shapes do not fit those of x.
        TypeError: if a leaf is not floating.

    Source:
        Sundararajan, Taly & Yan 2017, §3, figure 1 (paths that are not straight).

    Example:
        >>> import jax.numpy as jnp
        >>> monotone(baseline=jnp.zeros(2), x=jnp.ones(2), exponents=jnp.array([1.0, 2.0]))(0.5)
        Array([0.5 , 0.25], dtype=float32)
    """
    x = trees.floating(x, "x")
    baseline = trees.like(baseline, x, "baseline")
    if isinstance(exponents, _NUMBERS) and jnp.ndim(exponents) == 0:
        number = exponents
        exponents = jax.tree.map(lambda leaf: jnp.asarray(number, trees.wide(leaf.dtype)), x)
    trees.same_structure(exponents, x, "exponents")
    exponents = jax.tree.map(_exponents_like, trees.floating(exponents, "exponents"), x)
    return compilation.Named(_monotone, {"baseline": baseline, "x": x, "exponents": exponents})


def _exponents_like(power: jax.Array, leaf: jax.Array) -> jax.Array:
    try:
        broadcast = jnp.broadcast_to(power, leaf.shape)
    except ValueError as error:
        raise ValueError(
            f"`exponents` has shape {power.shape}, which does not broadcast to the shape "
            f"{leaf.shape} of `x`: give one exponent for each feature, or one number for all"
        ) from error
    known = trees.on_host(power)
    if known is not None and not (known > 0).all():
        raise ValueError(
            "`exponents` must be greater than 0, or the path does not start at the baseline; "
            f"the smallest is {known.min():g}"
        )
    return broadcast.astype(trees.wide(leaf.dtype))


def _monotone(alpha: Alpha, baseline: ArrayTree, x: ArrayTree, exponents: ArrayTree) -> ArrayTree:
    return jax.tree.map(
        lambda start, end, power: _between(jnp.asarray(alpha, power.dtype) ** power, start, end),
        baseline,
        x,
        exponents,
    )


def polyline(points: ArrayTree) -> Path:
    """Return the path of straight segments through waypoints.

    γ(α) = (1 − t) points[k] + t points[k + 1], with k + t = α (m − 1).

    Every segment takes the same share of α. Give every segment its own nodes, with
    `xattr.quadrature.composite(quadrature, m - 1)`: a quadrature across a corner is less accurate.

    Args:
        points: a pytree like x whose leaves have a leading axis of m ≥ 2 waypoints. The first is
            the baseline, the last is the input.

    Returns:
        The path `alpha -> pytree like x`.

    Raises:
        ValueError: for fewer than 2 waypoints, or if the leading axes of the leaves differ.
        TypeError: if a leaf is not floating.

    Source:
        Sundararajan, Taly & Yan 2017, §3, figure 1 (the corner path P1).

    Example:
        >>> import jax.numpy as jnp
        >>> polyline(jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]))(0.75)
        Array([1. , 0.5], dtype=float32)
    """
    points = trees.floating(points, "points")
    counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(points)}
    if len(counts) > 1 or min(counts) < 2:
        raise ValueError(
            "`points` needs a leading axis of at least 2 waypoints, the same in every leaf, but "
            f"has {sorted(counts)}: stack the waypoints with jnp.stack"
        )
    return compilation.Named(_polyline, {"points": points})


def _polyline(alpha: Alpha, points: ArrayTree) -> ArrayTree:
    segment, fraction = _segment(alpha, jax.tree.leaves(points)[0].shape[0] - 1)
    return jax.tree.map(
        lambda leaf: _between(fraction, leaf[segment], leaf[segment + 1]),
        points,
    )


def _segment(alpha: Any, count: int) -> tuple[jax.Array, jax.Array]:
    """Return k and t with k + t = α · count; α = 1 is the end of the last segment."""
    scaled = jnp.asarray(alpha) * count
    index = jnp.clip(jnp.floor(scaled).astype(jnp.int32), 0, count - 1)
    return index, scaled - index.astype(scaled.dtype)


@deprecated.by_keyword
def coordinatewise(*, baseline: ArrayTree, x: ArrayTree, order: Sequence[int] | jax.Array) -> Path:
    """Return the path that moves one feature after the other, along the edges of a box.

    γᵢ(α) = baselineᵢ + (xᵢ − baselineᵢ) clip(α d − k, 0, 1) for i = order[k], of d features.

    The attribution of a feature is the change of f when the feature is added to those before it.
    The mean over all orders is the Shapley value. Give every feature its own nodes, with
    `xattr.quadrature.composite(quadrature, d)`. The product α d is computed in the dtype of α: in
    float32 a node is misplaced by up to d · 6e-8 of its feature's part.

    Args:
        baseline: the start, a pytree of floating arrays with the structure and shapes of x.
        x: the end, the input that is explained, a pytree of floating arrays.
        order: a permutation of the d features of x, of shape (d,). Features are counted through the
            leaves, in the order of `jax.tree.leaves`.

    Returns:
        The path `alpha -> pytree like x`.

    Raises:
        ValueError: if `order` is not a permutation of the features, or if structure or shapes of
            `baseline` and `x` differ.
        TypeError: if a leaf is not floating.

    Source:
        Sundararajan, Taly & Yan 2017, remark 5; Shapley & Shubik 1971.

    Example:
        >>> import jax.numpy as jnp
        >>> coordinatewise(baseline=jnp.zeros(2), x=jnp.ones(2), order=[1, 0])(0.75)
        Array([0.5, 1. ], dtype=float32)
    """
    x = trees.floating(x, "x")
    baseline = trees.like(baseline, x, "baseline")
    return compilation.Named(
        _coordinatewise, {"baseline": baseline, "x": x, "ranks": _ranks(order, x)}
    )


def _ranks(order: Any, x: ArrayTree) -> ArrayTree:
    """Return the place of every feature of x in the order, as a pytree like x."""
    leaves, treedef = jax.tree.flatten(x)
    sizes = [leaf.size for leaf in leaves]
    count = sum(sizes)
    order = order if isinstance(order, jax.core.Tracer) else np.asarray(order)
    known = isinstance(order, np.ndarray)
    if order.shape != (count,) or (known and not np.array_equal(np.sort(order), range(count))):
        raise ValueError(
            f"`order` must be a permutation of the {count} features of x, each of 0 … {count - 1} "
            f"once, but is {np.array2string(order, threshold=8) if known else order}: "
            f"for example jax.random.permutation(key, {count})"
        )
    ranks = jnp.argsort(jnp.asarray(order, jnp.int32)).astype(jnp.int32)
    parts = jnp.split(ranks, np.cumsum(sizes)[:-1].tolist())
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    return jax.tree.unflatten(treedef, shaped)


def _coordinatewise(alpha: Alpha, baseline: ArrayTree, x: ArrayTree, ranks: ArrayTree) -> ArrayTree:
    count = sum(leaf.size for leaf in jax.tree.leaves(x))
    moving, fraction = _segment(alpha, count)

    def feature(start: jax.Array, end: jax.Array, rank: jax.Array) -> jax.Array:
        passed = jnp.where(rank < moving, 1.0, 0.0).astype(fraction.dtype)
        return _between(jnp.where(rank == moving, fraction, passed), start, end)

    return jax.tree.map(feature, baseline, x, ranks)


def serial(*, baseline: ArrayTree, x: ArrayTree) -> Path:
    """Return the path of serial cost sharing: all features move alike until each is at its end.

    γᵢ(α) = baselineᵢ + sign(Δᵢ) min(τ, |Δᵢ|), with Δ = x − baseline and τ = α maxⱼ |Δⱼ|.

    From a baseline of zeros to x ≥ 0 this is γᵢ = min(τ, xᵢ). The path has a corner wherever a
    feature arrives, at α = |Δᵢ| / max |Δ|. A quadrature across a corner is less accurate: take more
    nodes, or `xattr.integrate_to_tolerance`.

    Args:
        baseline: the start, a pytree of floating arrays with the structure and shapes of x.
        x: the end, the input that is explained, a pytree of floating arrays. The features are
            compared with each other: they need one unit.

    Returns:
        The path `alpha -> pytree like x`.

    Raises:
        ValueError: if structure or shapes of `baseline` and `x` differ.
        TypeError: if a leaf is not floating.

    Source:
        Moulin & Shenker 1992, "Serial Cost Sharing"; Friedman & Moulin 1999, "Three Methods to
        Share Joint Costs or Surplus".

    Example:
        >>> import jax.numpy as jnp
        >>> serial(baseline=jnp.zeros(2), x=jnp.array([1.0, 4.0]))(0.5)
        Array([1., 2.], dtype=float32)
    """
    x = trees.floating(x, "x")
    return compilation.Named(_serial, {"baseline": trees.like(baseline, x, "baseline"), "x": x})


def _serial(alpha: Alpha, baseline: ArrayTree, x: ArrayTree) -> ArrayTree:
    changes = jax.tree.map(lambda a, b: jnp.abs(b - a), *map(trees.widen, (baseline, x)))
    dtype = trees.widest(jax.tree.leaves(changes))
    tops = [jnp.max(leaf, initial=0).astype(dtype) for leaf in jax.tree.leaves(changes)]
    level = jnp.asarray(alpha, dtype) * jnp.max(jnp.stack(tops))

    def feature(start: jax.Array, end: jax.Array, change: jax.Array) -> jax.Array:
        reached = level.astype(change.dtype)
        moving = reached < change
        fraction = reached / jnp.where(moving, change, 1)
        # At α = 1 the last features have the velocity with which they arrive.
        last = (change > 0) & (reached == change)
        arriving = 1 + (reached - change) / jnp.where(last, change, 1)
        return _between(jnp.where(moving, fraction, jnp.where(last, arriving, 1)), start, end)

    return jax.tree.map(feature, baseline, x, changes)


def blur(x: ArrayTree, *, max_sigma: float | Array, axes: Sequence[int] = (0, 1)) -> Path:
    """Return the path from a blurred image to the image, the path of Blur IG.

    γ(α) = Σⱼ K(i, j) xⱼ along each of the axes, with K(i, j) = exp(−(i − j)² / (2 σ²)) / Z(i) and
    σ = (1 − α) max_sigma.

    Z(i) makes the weights of a pixel sum to 1, so that an image of one colour stays as it is, up to
    its borders. (The authors' code pads with zeros: there the borders darken.) γ(1) is x. γ(0) is
    the baseline: give it to what needs one, as `path(0.0)` to `xattr.completeness_gap`. Below
    σ = 0.05 pixels the weights of other pixels are 0 in every precision.

    Args:
        x: the image, a pytree of floating arrays. All leaves have the axes.
        max_sigma: the width of the Gaussian at α = 0, in pixels, a number greater than 0. A new
            value does not recompile.
        axes: the axes along which x is blurred: those of height and width, not the channels.

    Returns:
        The path `alpha -> pytree like x`.

    Raises:
        ValueError: if `max_sigma` is not a number greater than 0, or if a leaf lacks one of the
            `axes` or has it twice.
        TypeError: if a leaf is not floating.

    Source:
        Xu, Venugopalan & Sundararajan 2020, "Attribution in Scale and Space".

    Example:
        >>> import jax.numpy as jnp
        >>> path = blur(jnp.array([0.0, 0.0, 1.0, 0.0, 0.0]), max_sigma=1.0, axes=[0])
        >>> path(1.0)
        Array([0., 0., 1., 0., 0.], dtype=float32)
        >>> (100 * path(0.0)).round()
        Array([ 8., 26., 40., 26.,  8.], dtype=float32)
    """
    x = trees.floating(x, "x")
    checked = tuple(axes)
    jax.tree_util.tree_map_with_path(functools.partial(_check_axes, checked), x)
    known = trees.on_host(max_sigma)
    if jnp.shape(max_sigma) or (known is not None and not (known > 0 and np.isfinite(known))):
        raise ValueError(
            f"`max_sigma` must be a finite number greater than 0, in pixels, not {max_sigma!r}: "
            "for example a quarter of the width of the image"
        )
    dtype = trees.widest(jax.tree.leaves(x))
    return compilation.Named(
        _blur, {"x": x, "max_sigma": jnp.asarray(max_sigma, dtype), "axes": checked}
    )


def _check_axes(axes: tuple[int, ...], path: Any, leaf: jax.Array) -> None:
    inside = all(isinstance(axis, int) and -leaf.ndim <= axis < leaf.ndim for axis in axes)
    if not inside or len({axis % max(leaf.ndim, 1) for axis in axes}) < max(len(axes), 1):
        raise ValueError(
            f"`axes` must be different axes of every leaf, at least one, but is {axes} where "
            f"{trees.leaf_name('x', path)} has shape {leaf.shape}: pass those of height and width, "
            "as (0, 1) for an image of shape (height, width, channels)"
        )


def _blur(alpha: Alpha, x: ArrayTree, max_sigma: jax.Array, axes: tuple[int, ...]) -> ArrayTree:
    sigma = (1 - jnp.asarray(alpha, max_sigma.dtype)) * max_sigma

    def blurred(leaf: jax.Array) -> jax.Array:
        values = trees.widen(leaf)
        for axis in axes:
            weights = _gaussian(leaf.shape[axis], sigma.astype(values.dtype))
            product = jnp.tensordot(weights, values, ([1], [axis]), precision="highest")
            values = jnp.moveaxis(product, 0, axis)
        return trees.cast(values, leaf)

    return jax.tree.map(blurred, x)


def _gaussian(size: int, sigma: jax.Array) -> jax.Array:
    """Return the matrix of a blur of one axis, whose rows sum to 1."""
    places = np.arange(size)
    squares = jnp.asarray((places[:, None] - places) ** 2, sigma.dtype)
    wide = sigma > 0.05  # below, exp(−1 / (2 σ²)) < 1e-86, and its slope would be 0 times infinity
    weights = jnp.exp(squares / (-2 * jnp.where(wide, sigma, 1) ** 2))
    weights = weights / jnp.sum(weights, axis=1, keepdims=True)
    return jnp.where(wide, weights, jnp.eye(size, dtype=sigma.dtype))


def embedding_waypoints(
    *,
    baseline: Array,
    x: Array,
    table: Array,
    steps: int = 30,
    neighbors: int = 500,
    variant: Literal["greedy", "max_count"] = "greedy",
) -> jax.Array:
    """Return waypoints from the baseline to x that are near rows of a table of embeddings.

    pₖ₊₁ = M(c), from p₀ = x, with M(c)ᵢ = cᵢ if cᵢ is between pₖᵢ and baselineᵢ, and else
    M(c)ᵢ = pₖᵢ + (baselineᵢ − pₖᵢ) / steps.

    c is chosen for each embedding of x apart, from the rows of the table that are nearest to pₖ:
    "greedy" takes the row with the smallest ‖c − M(c)‖, "max_count" the one of which M keeps the
    most coordinates. A row is taken once, and rows that are the baseline or pₖ are not taken. Every
    coordinate moves in one direction from the baseline to x. (The authors' code looks for the
    neighbours of the word taken last; here they are those of pₖ, so that x need not be a row.)

    Discretised integrated gradients are the sum of gradients at the waypoints w themselves:
    `xattr.integrate(f, PathSamples(w[1:], jnp.diff(w, axis=0), jnp.ones(steps + 1)))`. The integral
    along the `polyline` through them is complete: give every segment its own nodes, with
    `xattr.quadrature.composite(quadrature, steps + 1)`.

    Args:
        baseline: the start, an array like x.
        x: the end, the embeddings of a text, of shape (..., d): (tokens, d) or (d,).
        table: the embeddings of all tokens, of shape (n, d). A new one does not recompile.
        steps: the number of waypoints between the ends, at least 1.
        neighbors: how many rows to choose from, at least 1; all n if there are fewer.
        variant: "greedy" or "max_count".

    Returns:
        The waypoints, of shape (steps + 2, ..., d): the first is the baseline, the last is x.

    Raises:
        ValueError: if the shapes of `baseline` and `x` differ, `table` has no rows of the last axis
            of x, a number is less than 1, or the variant is unknown.
        TypeError: if an array is not floating.

    Source:
        Sanyal & Ren 2021, "Discretized Integrated Gradients for Explaining Language Models".

    Example:
        >>> import jax.numpy as jnp
        >>> table = jnp.array([[0.0, 0.0], [1.0, 3.0], [2.0, 4.0]])
        >>> embedding_waypoints(baseline=table[0], x=table[2], table=table, steps=1)
        Array([[0., 0.],
               [1., 3.],
               [2., 4.]], dtype=float32)
    """
    x = trees.floating(x, "x")
    baseline, table = trees.like(baseline, x, "baseline"), trees.floating(table, "table")
    if jnp.ndim(table) != 2 or not jnp.ndim(x) or table.shape[-1] != x.shape[-1] or not len(table):
        raise ValueError(
            f"`table` has shape {jnp.shape(table)}, but needs rows of the last axis of `x`, which "
            f"has shape {jnp.shape(x)}: pass the embeddings of all tokens, of shape (n, d)"
        )
    trees.check_count(steps, "steps")
    trees.check_count(neighbors, "neighbors")
    if variant not in ("greedy", "max_count"):
        raise ValueError(f'`variant` must be "greedy" or "max_count", not {variant!r}')
    return _waypoints(
        baseline, x, table, steps=steps, neighbors=min(neighbors, len(table)), variant=variant
    )


@functools.partial(jax.jit, static_argnames=("steps", "neighbors", "variant"))
def _waypoints(
    baseline: jax.Array, x: jax.Array, table: jax.Array, *, steps: int, neighbors: int, variant: str
) -> jax.Array:
    baseline, x, table = trees.with_same_varying_axes((baseline, x, table))
    dtype = trees.wide(x.dtype)
    rows = table.astype(dtype)

    def of_one(ends: tuple[jax.Array, jax.Array]) -> jax.Array:
        start, point = ends
        free = jnp.any(rows != start[None], axis=1)

        def step(state: tuple[jax.Array, jax.Array], _: None) -> Any:
            point, free = state
            taken, point = _next_waypoint(point, start, rows, free, steps, neighbors, variant)
            return (point, free & (jnp.arange(len(rows), dtype=jnp.int32) != taken)), point

        return lax.scan(step, (point, free), None, steps)[1]

    ends = [leaf.astype(dtype).reshape(-1, leaf.shape[-1]) for leaf in (baseline, x)]
    points = jnp.moveaxis(lax.map(of_one, (ends[0], ends[1])), 0, 1)[::-1]
    between = points.reshape(steps, *x.shape).astype(x.dtype)
    return jnp.concatenate([baseline[None], between, x[None]])


def _next_waypoint(
    point: jax.Array,
    start: jax.Array,
    rows: jax.Array,
    free: jax.Array,
    steps: int,
    neighbors: int,
    variant: str,
) -> tuple[jax.Array, jax.Array]:
    """Return which row is taken, and the next waypoint; a part of the way if no row is free."""
    distances = jnp.sum((rows - point[None]) ** 2, axis=1)
    usable = free & (distances > 0)
    chosen = lax.top_k(jnp.where(usable, -distances, -jnp.inf), neighbors)[1]
    near, part = rows[chosen], point + (start - point) / steps
    inside = (near - point[None]) * (near - start[None]) <= 0
    moved = jnp.where(inside, near, part[None])
    apart = jnp.sum((near - moved) ** 2, axis=1)
    lost = apart if variant == "greedy" else jnp.sum(~inside, axis=1).astype(apart.dtype)
    best = jnp.argmin(jnp.where(usable[chosen], lost, jnp.inf))
    found = usable[chosen[best]]
    return jnp.where(found, chosen[best], -1), jnp.where(found, moved[best], part)


def reparametrize(path: Path, warp: Warp) -> Path:
    """Return the same curve at another pace.

    γ'(α) = γ(warp(α)).

    The exact path integral does not change. The nodes of a quadrature move to other points.

    Args:
        path: the path γ, a function `alpha -> pytree like x`.
        warp: a function of a scalar in [0, 1] to a scalar in [0, 1]; it maps 0 to 0 and 1 to 1.

    Returns:
        The path `alpha -> path(warp(alpha))`.

    Raises:
        ValueError: if `warp` does not return a scalar or, outside a trace, moves an end.
        TypeError: if `path` or `warp` is not a function.

    Source:
        Sundararajan et al. 2016, §2.4 (path integrals do not depend on the parametrisation).

    Example:
        >>> import jax.numpy as jnp
        >>> reparametrize(aumann_shapley(jnp.array([4.0])), lambda alpha: alpha**2)(0.5)
        Array([1.], dtype=float32)
    """
    compilation.check_callable(path, "path")
    compilation.check_callable(warp, "warp")
    for end in (0.0, 1.0):
        value = warp(jnp.asarray(end))
        if jnp.shape(value) != ():
            raise ValueError(f"`warp` must return a scalar, but returned shape {jnp.shape(value)}")
        if not trees.is_traced(value) and abs(float(value) - end) > 1e-5:
            raise ValueError(
                f"`warp` must keep the ends, but maps {end:g} to {float(value):g}: for a part of a "
                "path compose it yourself, lambda alpha: path(warp(alpha))"
            )
    return compilation.Named(_reparametrize, {"path": path, "warp": warp})


def _reparametrize(alpha: Alpha, path: Path, warp: Warp) -> ArrayTree:
    return path(warp(alpha))


def reverse(path: Path) -> Path:
    """Return the path from the input back to the baseline.

    γ'(α) = γ(1 − α).

    The attributions change their sign.

    Args:
        path: the path γ, a function `alpha -> pytree like x`.

    Returns:
        The path `alpha -> path(1 - alpha)`.

    Raises:
        TypeError: if `path` is not a function.

    Source:
        Sundararajan et al. 2016, §2.4 (a path integral is odd under reversal).

    Example:
        >>> import jax.numpy as jnp
        >>> reverse(aumann_shapley(jnp.array([2.0])))(0.25)
        Array([1.5], dtype=float32)
    """
    compilation.check_callable(path, "path")
    return compilation.Named(_reverse, {"path": path})


def _reverse(alpha: Alpha, path: Path) -> ArrayTree:
    return path(1 - alpha)


def concatenate(paths: Sequence[Path]) -> Path:
    """Return several paths joined into one.

    γ(α) = paths[k](t), with k + t = α m for m paths.

    Every path takes the same share of α. Give every path its own nodes, with
    `xattr.quadrature.composite(quadrature, m)`: a quadrature across a corner is less accurate.

    Args:
        paths: at least one path, in order. All return pytrees of the same structure, shapes and
            dtypes, and each starts where the one before it ends.

    Returns:
        The path `alpha -> pytree like x`.

    Raises:
        ValueError: if there are no paths, if their pytrees differ, or if, outside a trace, one
            does not start where the one before it ends.
        TypeError: if one of them is not a function.

    Source:
        Sundararajan et al. 2016, §2.4 (a path integral adds over the parts of its path).

    Example:
        >>> import jax.numpy as jnp
        >>> there = aumann_shapley(jnp.array([2.0]))
        >>> concatenate([there, reverse(there)])(0.75)
        Array([1.], dtype=float32)
    """
    paths = tuple(paths)
    if not paths:
        raise ValueError("`paths` is empty: give at least one path")
    for index, path in enumerate(paths):
        compilation.check_callable(path, f"paths[{index}]")
    for index, (path, following) in enumerate(itertools.pairwise(paths)):
        _check_joint(path, following, index)
    return compilation.Named(_concatenate, {"paths": paths})


def _concatenate(alpha: Alpha, paths: tuple[Path, ...]) -> ArrayTree:
    segment, fraction = _segment(alpha, len(paths))
    value = paths[0](jnp.where(segment == 0, fraction, 0.5))
    for index, path in enumerate(paths[1:], start=1):
        # Where it is not this path's turn it is read at ½: `where` would turn an infinite slope at
        # an end into a NaN of the gradient.
        here = segment == index
        turn = path(jnp.where(here, fraction, 0.5))
        value = jax.tree.map(functools.partial(jnp.where, here), turn, value)
    return value


def _check_joint(path: Path, following: Path, index: int) -> None:
    """Raise if one path does not end where the next starts, up to rounding at the scale of both."""
    zero, one = jnp.asarray(0.0), jnp.asarray(1.0)
    ends = [path(one), following(zero), path(zero), following(one)]
    forms: list[Any] = [jax.tree.structure(tree) for tree in ends]
    leaves = [[*map(jnp.asarray, jax.tree.leaves(tree))] for tree in ends]
    if forms[0] != forms[1] or [v.shape for v in leaves[0]] != [v.shape for v in leaves[1]]:
        raise ValueError(
            f"`paths`[{index}] and `paths`[{index + 1}] return pytrees of different structure or "
            "shapes: all paths must return pytrees like x"
        )
    if trees.is_traced(leaves):
        return
    for here, there, *others in zip(*leaves, strict=True):
        tolerance = 2.0 ** (-4 if here.dtype.itemsize < 4 else -11)  # far above rounding
        end, start, *rest = (np.asarray(v, np.float64) for v in (here, there, *others))
        scale = max(np.abs(v).max(initial=0) for v in (end, start, *rest))
        if np.abs(end - start).max(initial=0) > tolerance * scale:
            raise ValueError(
                f"`paths`[{index + 1}] does not start where `paths`[{index}] ends: "
                "put the path that leads from one to the other between them"
            )
