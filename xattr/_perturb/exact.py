"""Values of features by all coalitions, or by leaving one feature out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import trees
from xattr._perturb import coalitions
from xattr.types import Args, Array, ArrayTree, Function, Progress

MOST = 20
"""Features of which all coalitions are evaluated: 2²⁰ are a million evaluations."""


def ablation(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    baselines: ArrayTree | None = None,
    groups: ArrayTree | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Return what f loses without each feature.

    φ_g = f(x) − f(x with group g at the baseline). Each element of a group gets φ_g / (elements of
    the group), so that the attributions of a group sum to φ_g.

    The attributions do not sum to f(x) − f(baseline) unless f is a sum over the groups: of two
    features that can stand in for each other both get 0.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. It may have no
            gradient.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x. None is zeros.
        baselines: instead of one baseline a pytree like x with a leading axis of them, of which f
            is averaged.
        groups: which elements are one feature: a pytree like x of whole numbers 0, 1, …, each leaf
            of the shape of x's leaf or of its first axes, such as (H, W) for an image (H, W, C).
            None makes every element a feature. See `xattr.groups`.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many evaluations of f to take together; memory is that of one chunk. None
            chooses, see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if the baseline or the groups are not like x, a number of a group is missing, or
            both `baseline` and `baselines` are given.
        TypeError: if a leaf of x is not floating, `groups` is traced or has no whole numbers, or
            `args` is not a tuple.

    Source:
        Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", §3.2.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.ablation(lambda x: x[0] * x[1] + x[2], jnp.array([2.0, 3.0, 1.0]))
        Array([6., 6., 1.], dtype=float32)
    """
    it = coalitions.problem(f, x, baseline, baselines, groups, args, chunk_size, progress)
    found = coalitions.values(it, coalitions.all_but_one, None, it.features.number + 1)
    return it.features.spread(found[-1] - found[:-1], it.x)


def shapley_values(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    baselines: ArrayTree | None = None,
    groups: ArrayTree | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Return the Shapley values of features, from all 2ⁿ coalitions.

    φ_g = Σ_S |S|! (n − |S| − 1)! / n! (v(S ∪ g) − v(S)), over the coalitions S without g, where
    v(S) is f of x with the features outside S at the baseline. Each element of a group gets an
    equal share of φ_g.

    The attributions sum to f(x) − f(baseline). With `baselines` v is the mean over them
    (interventional values), and they sum to f(x) − mean f(baselines).

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. It may have no
            gradient.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x. None is zeros.
        baselines: instead of one baseline a pytree like x with a leading axis of them.
        groups: which elements are one feature, as for `xattr.ablation`; at most 20 features.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many evaluations of f to take together. None chooses.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: for more than 20 features; else as `xattr.ablation`.
        TypeError: as `xattr.ablation`.

    Source:
        Shapley 1953, "A value for n-person games"; for explanations Lundberg & Lee 2017, "A unified
        approach to interpreting model predictions", eq. 8.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.shapley_values(lambda x: jnp.minimum(x[0], x[1]), jnp.array([1.0, 3.0]))
        Array([0.5, 0.5], dtype=float32)
    """
    it = coalitions.problem(f, x, baseline, baselines, groups, args, chunk_size, progress)
    found = _all_values(it, "shapley_values")
    return it.features.spread(_weighted(found, _shapley_weights(it.features.number)), it.x)


def banzhaf_values(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    baselines: ArrayTree | None = None,
    groups: ArrayTree | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Return the Banzhaf values of features, from all 2ⁿ coalitions.

    φ_g = 1/2ⁿ⁻¹ Σ_S (v(S ∪ g) − v(S)), over the coalitions S without g, with v as for
    `xattr.shapley_values`. Each element of a group gets an equal share of φ_g.

    They are the slopes of the best linear model of v over all coalitions alike, which is the limit
    of LIME. They do not sum to f(x) − f(baseline).

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. It may have no
            gradient.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x. None is zeros.
        baselines: instead of one baseline a pytree like x with a leading axis of them.
        groups: which elements are one feature, as for `xattr.ablation`; at most 20 features.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many evaluations of f to take together. None chooses.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: for more than 20 features; else as `xattr.ablation`.
        TypeError: as `xattr.ablation`.

    Source:
        Banzhaf 1965, "Weighted voting doesn't work"; Hammer & Holzman 1992, "Approximations of
        pseudo-Boolean functions", for the linear model.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.banzhaf_values(lambda x: x[0] * x[1] * x[2], jnp.ones(3))
        Array([0.25, 0.25, 0.25], dtype=float32)
    """
    it = coalitions.problem(f, x, baseline, baselines, groups, args, chunk_size, progress)
    found = _all_values(it, "banzhaf_values")
    count = it.features.number
    return it.features.spread(_weighted(found, np.full(count, 0.5 ** (count - 1))), it.x)


def shapley_interactions(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    baselines: ArrayTree | None = None,
    groups: ArrayTree | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> jax.Array:
    """Return the Shapley interactions of every two features, from all 2ⁿ coalitions.

    Φᵢⱼ = ½ Σ_S |S|! (n − |S| − 2)! / (n − 1)! (v(S ∪ ij) − v(S ∪ i) − v(S ∪ j) + v(S)), over the
    coalitions S without i and j, with v as for `xattr.shapley_values`; Φᵢᵢ = φᵢ − Σ_{j≠i} Φᵢⱼ, what
    the Shapley value of i has left.

    Φ is symmetric. Its rows sum to the Shapley values, and all of it to f(x) − f(baseline). It is 0
    off the diagonal where f is a sum over features.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. It may have no
            gradient.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x. None is zeros.
        baselines: instead of one baseline a pytree like x with a leading axis of them.
        groups: which elements are one feature, as for `xattr.ablation`; at most 20 features.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many evaluations of f to take together. None chooses.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does.

    Returns:
        An array (n, n), in units of f: features in the order of their numbers in `groups`, or of
        the elements of x, leaf after leaf.

    Raises:
        ValueError: for more than 20 features; else as `xattr.ablation`.
        TypeError: as `xattr.ablation`.

    Source:
        Grabisch & Roubens 1999, "An axiomatic approach to the concept of interaction among players
        in cooperative games"; halves and diagonal Lundberg et al. 2020, "From local explanations to
        global understanding with explainable AI for trees".

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.shapley_interactions(lambda x: x[0] * x[1] + 3 * x[0], jnp.ones(2))
        Array([[3. , 0.5],
               [0.5, 0. ]], dtype=float32)
    """
    it = coalitions.problem(f, x, baseline, baselines, groups, args, chunk_size, progress)
    count = it.features.number
    found = _all_values(it, "shapley_interactions")
    values = _weighted(found, _shapley_weights(count))
    if count > 1:
        halves = _pairs(found, _shapley_weights(count - 1)) / 2
    else:
        halves = jnp.zeros((1, 1), values.dtype)
    own = jnp.diag(values - halves.sum(1))
    return (halves + own).astype(trees.widest(jax.tree.leaves(it.x)))


def _all_values(it: coalitions.Problem, name: str) -> jax.Array:
    """Return v of every coalition; the bits of its number say who is in it."""
    count = it.features.number
    if count > MOST:
        raise ValueError(
            f"`{name}` evaluates all coalitions of at most {MOST} features, but x has {count}: "
            "join elements by `groups`, or sample with xattr.shapley_sampling or xattr.kernel_shap"
        )
    return coalitions.values(it, coalitions.subset, None, 2**count)


def _shapley_weights(count: int) -> np.ndarray:
    """Return |S|! (n − |S| − 1)! / n! for |S| = 0, …, n − 1."""
    weights = [1 / count]
    for size in range(1, count):
        weights.append(weights[-1] * size / (count - size))
    return np.array(weights)


@jax.jit
def _weighted(found: jax.Array, weights: Array) -> jax.Array:
    """Return Σ_S weight(|S|) (v(S ∪ i) − v(S)) for each i."""
    factors = _by_size(weights, found)

    def of(feature: int) -> Any:
        # Axis 1 is the feature's own bit; the others are the coalition of the rest.
        split = found.reshape(-1, 2, 2**feature)
        return jnp.sum(factors * (split[:, 1] - split[:, 0]).ravel())

    return jnp.stack([of(feature) for feature in range(len(weights))])


@jax.jit
def _pairs(found: jax.Array, weights: Array) -> jax.Array:
    """Return Σ_S weight(|S|) of the second difference of v, for every two features; diagonal 0."""
    count = len(weights) + 1
    factors = _by_size(weights, found)

    def of(high: int, low: int) -> jax.Array:
        # Axes 1 and 3 are the two bits; the others are the coalition of the rest.
        split = found.reshape(-1, 2, 2 ** (high - low - 1), 2, 2**low)
        both = split[:, 1, :, 1] - split[:, 1, :, 0] - split[:, 0, :, 1] + split[:, 0, :, 0]
        return jnp.sum(factors * both.ravel())

    highs, lows = np.tril_indices(count, -1)
    places = np.zeros((count, count), np.int32)
    places[highs, lows] = places[lows, highs] = np.arange(len(highs))
    pairs = jnp.stack(
        [of(high, low) for high, low in zip(highs.tolist(), lows.tolist(), strict=True)]
    )
    return jnp.where(np.eye(count, dtype=bool), 0, pairs[places])


def _by_size(weights: Array, like: jax.Array) -> jax.Array:
    """Return the weight of the size of each coalition of the other features."""
    bits = len(weights) - 1
    sizes = np.zeros(2**bits, np.int64)
    for bit in range(bits):
        sizes += (np.arange(sizes.size) >> bit) & 1
    return jnp.asarray(weights)[sizes].astype(like.dtype)
