"""Curves of the score while features are taken away or put back, in the order of a map."""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import compilation, trees
from xattr._perturb import coalitions
from xattr._program import workload
from xattr.evaluation.filling import Fill
from xattr.types import Args, Array, ArrayTree, Function

Order: TypeAlias = Literal["most", "least"]
"""Whether the features with the largest or with the smallest scores go first."""

POINTS = 50
"""Steps of a curve by default; fewer where there are fewer features."""


def perturbation_curve(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree | Fill | None = None,
    *,
    groups: ArrayTree | None = None,
    counts: Array | None = None,
    order: Order = "most",
    insert: bool = False,
    args: Args = (),
    chunk_size: int | None = None,
) -> jax.Array:
    """Return f while features are replaced by the baseline's, those with the largest scores first.

    f_k = f(x with the first counts_k features of the order at the baseline); with `insert`, f(the
    baseline with those of x). Among equal scores the first in the array goes first.

    It is NaN throughout if a score is NaN: there is no order.

    A small change says that the order is bad, or that f is robust. A large one may say that the
    perturbed x is unlike any input that f knows.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        attributions: one score for each feature: a pytree like x, whose leaves have the shape of
            those of x or the first axes of it. A feature is what has one score, such as a pixel.
        x: the input, a pytree of floating arrays.
        baseline: what takes the place of features: a pytree like x, such as zeros, noise or a
            blurred image; or a function `(x, removed) -> x`, such as
            `xattr.evaluation.neighbour_mean`. None is zeros.
        groups: which scores are one feature, such as the pixels of a patch: whole numbers 0, 1, …
            in the shape of the attributions, see `xattr.groups`. A group is ordered by the sum of
            its scores. None makes every score a feature.
        counts: how many features are replaced at each point, whole numbers, of shape (n,). None is
            50 steps from none to all, or one for each feature if there are fewer.
        order: "most" for the largest scores first, "least" for the smallest.
        insert: start from the baseline, and put the features of x into it.
        args: further arguments of f. A new value does not recompile.
        chunk_size: how many points to take together; memory is that of one chunk. None chooses.

    Returns:
        f at each point, of shape (n,).

    Raises:
        ValueError: if the attributions do not fit x, the groups do not fit the attributions,
            `order` is another, `counts` is empty, or f does not return a scalar.
        TypeError: if a leaf is not floating, `counts` are not whole numbers, or `args` is not a
            tuple.

    Source:
        Samek et al. 2017, "Evaluating the visualization of what a deep neural network has learned",
        §III (most relevant first); Ancona et al. 2018 (least).

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> w = jnp.array([4.0, 3.0, 2.0, 1.0])
        >>> f = lambda x: jnp.sum(w * x)
        >>> xattr.evaluation.perturbation_curve(f, w, jnp.ones(4)).tolist()
        [10.0, 6.0, 3.0, 1.0, 0.0]
    """
    options: dict[str, Any] = {"groups": groups, "counts": counts, "order": order, "insert": insert}
    return _curve(f, attributions, x, baseline, **options, args=args, chunk_size=chunk_size)[0]


def _curve(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree | Fill | None,
    *,
    groups: ArrayTree | None,
    counts: Array | None,
    order: Order = "most",
    insert: bool = False,
    args: Args,
    chunk_size: int | None,
) -> tuple[jax.Array, jax.Array]:
    """Return f at each point, and how many features are replaced there."""
    compilation.check_args(args)
    if order not in ("most", "least"):
        raise ValueError(f'`order` must be "most" or "least", not {order!r}')
    fill = baseline if callable(baseline) else None
    x, attributions, start = checked(x, attributions, None if fill else baseline)
    features = coalitions.features_of(attributions, groups, "attributions")
    points = jnp.asarray(_counts(features.number) if counts is None else counts)
    if points.size and not jnp.issubdtype(points.dtype, jnp.integer):
        raise TypeError(
            f"`counts` must be whole numbers, but have dtype {points.dtype}: round them"
        )
    points = points.astype(jnp.int32)
    if points.ndim != 1 or not points.size:
        raise ValueError(
            f"`counts` must be numbers of features, of shape (n,) with n ≥ 1, not {points.shape}"
        )
    size = min(workload.chunk_size(chunk_size, f, x, args), len(points))
    options = {"fill": fill, "order": order, "insert": insert, "number": features.number}
    run = compilation.compiled(curve_kernel, f, **options, chunk_size=size)
    curve: jax.Array = run(attributions, features.groups, x, start, points, args)
    return curve, points


def _counts(total: int) -> np.ndarray:
    steps = min(POINTS, total)
    return np.rint(np.linspace(0, total, steps + 1)).astype(np.int32)


def checked(
    x: ArrayTree, attributions: ArrayTree, baseline: ArrayTree | None
) -> tuple[ArrayTree, ArrayTree, ArrayTree]:
    """Return all three as arrays; raise unless they fit together."""
    x = trees.floating(x, "x")
    attributions = trees.floating(attributions, "attributions")
    trees.same_structure(attributions, x, "attributions", "x")
    for scores, leaf in zip(jax.tree.leaves(attributions), jax.tree.leaves(x), strict=True):
        if scores.shape != leaf.shape[: scores.ndim]:
            raise ValueError(
                f"`attributions` have shape {scores.shape}, but `x` has shape {leaf.shape}: pass "
                "one score for each element of x, or for each place along its first axes"
            )
    return x, attributions, trees.baseline_like(baseline, x)


def curve_kernel(
    f: Function,
    attributions: ArrayTree,
    groups: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree,
    counts: jax.Array,
    args: Args,
    *,
    fill: Fill | None,
    order: Order,
    insert: bool,
    number: int,
    chunk_size: int,
) -> jax.Array:
    """Return f at each point."""
    ranks = _ranks(attributions, groups, order, number)

    def at(count: jax.Array) -> jax.Array:
        removed = jax.tree.map(lambda rank: (rank >= count) if insert else (rank < count), ranks)
        left = without(x, baseline, removed) if fill is None else fill(x, removed)
        value = compilation.scalar(f(left, *args))
        # Of a decision, such as whether the class is right, the curve is of zeros and ones.
        value = value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.float32)
        return jnp.where(unknown, jnp.nan, value)

    # Sorting puts NaN last, whichever end goes first.
    leaves = jax.tree.leaves(attributions)
    unknown = jnp.any(jnp.stack([jnp.isnan(leaf).any() for leaf in leaves]))
    return jax.lax.map(at, counts, batch_size=chunk_size)


def _ranks(attributions: ArrayTree, groups: ArrayTree, order: Order, number: int) -> ArrayTree:
    """Return for every score the place of its feature in the order, over all leaves."""
    pairs = list(zip(jax.tree.leaves(attributions), jax.tree.leaves(groups), strict=True))
    dtype = trees.wide(trees.widest([leaf for leaf, _ in pairs]))
    scores = jnp.zeros(number, dtype)
    for leaf, group in pairs:
        # A group of the first axes of a leaf has all scores along the others.
        within = leaf.astype(dtype).reshape(*group.shape, -1).sum(-1)
        scores = scores.at[group].add(within)
    chosen = jnp.argsort(-scores if order == "most" else scores, stable=True)
    places = jnp.zeros(number, jnp.int32).at[chosen].set(jnp.arange(number, dtype=jnp.int32))
    return jax.tree.map(lambda group: places[group], groups)


def without(x: ArrayTree, baseline: ArrayTree, removed: ArrayTree) -> ArrayTree:
    """Return x with the baseline's values where `removed`, in shape of the first axes, is True."""

    def of(leaf: jax.Array, start: jax.Array, gone: jax.Array) -> jax.Array:
        return jnp.where(trees.as_first_axes(gone, leaf), start, leaf)

    return jax.tree.map(of, x, baseline, removed)


def aopc(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree | Fill | None = None,
    *,
    groups: ArrayTree | None = None,
    counts: Array | None = None,
    order: Order = "most",
    args: Args = (),
    chunk_size: int | None = None,
) -> jax.Array:
    """Return the area over the perturbation curve: the mean drop of f.

    AOPC = 1/(L + 1) Σ_{k=0}^{L} (f(x) − f_k), with f_k of `xattr.evaluation.perturbation_curve`.

    In units of f, without bounds. With order "most", larger is better; with "least", smaller. It
    compares orders on one f and one baseline, and says nothing about signs or sizes of the scores.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        attributions: as for `xattr.evaluation.perturbation_curve`.
        x: the input, a pytree of floating arrays.
        baseline: as for `xattr.evaluation.perturbation_curve`.
        groups: as for `xattr.evaluation.perturbation_curve`.
        counts: how many features are gone at each point, the first of them 0. For L steps of s
            features it is `s * jnp.arange(L + 1)`. None is as for `perturbation_curve`.
        order: "most" or "least".
        args: further arguments of f. A new value does not recompile.
        chunk_size: how many points to take together. None chooses.

    Returns:
        A scalar in units of f.

    Raises:
        ValueError: as `xattr.evaluation.perturbation_curve`.
        TypeError: as `xattr.evaluation.perturbation_curve`.

    Source:
        Samek et al. 2017, eq. 12; Sundararajan et al. 2016, §2.5.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> w = jnp.array([4.0, 3.0, 2.0, 1.0])
        >>> float(xattr.evaluation.aopc(lambda x: jnp.sum(w * x), w, jnp.ones(4)))
        6.0
    """
    curve = perturbation_curve(
        f,
        attributions,
        x,
        baseline,
        groups=groups,
        counts=counts,
        order=order,
        args=args,
        chunk_size=chunk_size,
    )
    wide = trees.widen(curve)
    return jnp.mean(wide[0] - wide)


def deletion(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree | Fill | None = None,
    *,
    groups: ArrayTree | None = None,
    counts: Array | None = None,
    normalize: bool = True,
    args: Args = (),
    chunk_size: int | None = None,
) -> jax.Array:
    """Return the area under f while the features with the largest scores go.

    The trapezoid rule over the share of features that are gone, of (f_k − f_end) / (f(x) − f_end)
    with `normalize`, where f_end has none of the features of `counts` left; of f_k without.

    Smaller is better: the score falls early. Normalized, it is 1 for a score that falls only at the
    end, 0 for one that falls at once, and may leave [0, 1] if f rises. It is infinite or NaN where
    f(x) = f_end.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        attributions: as for `xattr.evaluation.perturbation_curve`.
        x: the input, a pytree of floating arrays.
        baseline: as for `xattr.evaluation.perturbation_curve`.
        groups: as for `xattr.evaluation.perturbation_curve`.
        counts: how many features are gone at each point. None is as for `perturbation_curve`.
        normalize: whether to scale the curve to 1 at x and 0 at its end. The paper does not.
        args: further arguments of f. A new value does not recompile.
        chunk_size: how many points to take together. None chooses.

    Returns:
        A scalar; in units of f without `normalize`.

    Raises:
        ValueError: as `xattr.evaluation.perturbation_curve`.
        TypeError: as `xattr.evaluation.perturbation_curve`.

    Source:
        Petsiuk et al. 2018, "RISE", §4.3.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> w = jnp.array([4.0, 3.0, 2.0, 1.0])
        >>> float(xattr.evaluation.deletion(lambda x: jnp.sum(w * x), w, jnp.ones(4)))
        0.375
    """
    options: dict[str, Any] = {
        "groups": groups,
        "counts": counts,
        "args": args,
        "chunk_size": chunk_size,
    }
    curve, points = _curve(f, attributions, x, baseline, **options)
    return _area(curve, points, (0, -1) if normalize else None)


def insertion(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree | Fill | None = None,
    *,
    groups: ArrayTree | None = None,
    counts: Array | None = None,
    normalize: bool = True,
    args: Args = (),
    chunk_size: int | None = None,
) -> jax.Array:
    """Return the area under f while the features with the largest scores come to the baseline.

    The trapezoid rule over the share of features that are there, of (f_k − f(baseline)) / (f_end −
    f(baseline)) with `normalize`, where f_end has all features of `counts`; of f_k without.

    Larger is better: the score rises early. Normalized, it lies in [0, 1] unless f passes its ends.
    It is infinite or NaN where f_end = f(baseline).

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        attributions: as for `xattr.evaluation.perturbation_curve`.
        x: the input, a pytree of floating arrays.
        baseline: as for `xattr.evaluation.perturbation_curve`. The paper takes a blurred image.
        groups: as for `xattr.evaluation.perturbation_curve`.
        counts: how many features are there at each point. None is as for `perturbation_curve`.
        normalize: whether to scale the curve to 0 at the baseline and 1 at its end. The paper does
            not.
        args: further arguments of f. A new value does not recompile.
        chunk_size: how many points to take together. None chooses.

    Returns:
        A scalar; in units of f without `normalize`.

    Raises:
        ValueError: as `xattr.evaluation.perturbation_curve`.
        TypeError: as `xattr.evaluation.perturbation_curve`.

    Source:
        Petsiuk et al. 2018, "RISE", §4.3.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> w = jnp.array([4.0, 3.0, 2.0, 1.0])
        >>> float(xattr.evaluation.insertion(lambda x: jnp.sum(w * x), w, jnp.ones(4)))
        0.625
    """
    options: dict[str, Any] = {
        "groups": groups,
        "counts": counts,
        "args": args,
        "chunk_size": chunk_size,
        "insert": True,
    }
    curve, points = _curve(f, attributions, x, baseline, **options)
    return _area(curve, points, (-1, 0) if normalize else None)


def _area(curve: jax.Array, counts: jax.Array, ends: tuple[int, int] | None) -> jax.Array:
    """Return the area over counts from 0 to 1, of a curve that is 1 and 0 at the given ends."""
    curve = trees.widen(curve)
    places = counts.astype(curve.dtype)
    width = places[-1] - places[0]
    if ends is not None:
        one, zero = ends
        curve = (curve - curve[zero]) / (curve[one] - curve[zero])
    return jnp.sum(jnp.diff(places) * (curve[1:] + curve[:-1])) / (2 * width)
