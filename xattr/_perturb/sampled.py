"""Values of features from a sample of coalitions, with the standard error of each."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import trees
from xattr._perturb import coalitions
from xattr.types import Args, ArrayTree, Estimate, Function, PRNGKey, Progress


def shapley_sampling(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None,
    key: PRNGKey,
    *,
    baselines: ArrayTree | None = None,
    groups: ArrayTree | None = None,
    num_permutations: int,
    antithetic: bool = True,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """Estimate Shapley values by random orders in which the features come.

    φ_g = mean over orders of v(those before g and g) − v(those before g), with v as for
    `xattr.shapley_values`. An order takes n + 1 evaluations of f. The sum is f(x) − f(baseline) for
    any number of orders. Each element of a group gets an equal share of φ_g.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. It may have no
            gradient.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x. None is zeros.
        key: a random key, `jax.random.key(seed)`.
        baselines: instead of one baseline a pytree like x with a leading axis of them.
        groups: which elements are one feature, as for `xattr.ablation`.
        num_permutations: orders; with `antithetic` an even number.
        antithetic: take every order backwards, too, which lowers the variance.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many evaluations of f to take together. None chooses.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does.

    Returns:
        An `Estimate`: attributions like x in units of f, and the standard error of each, that of
        the mean over orders (over pairs of them). It is NaN for one order, or one pair.

    Raises:
        ValueError: if num_permutations < 1, or is odd with `antithetic`; else as `xattr.ablation`.
        TypeError: if `key` is not a key; else as `xattr.ablation`.

    Source:
        Castro et al. 2009, "Polynomial calculation of the Shapley value based on sampling"; pairs
        as in Mitchell et al. 2022, "Sampling permutations for Shapley value estimation", §4.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f, x, key = lambda x: x[0] * x[1], jnp.ones(2), jax.random.key(0)
        >>> xattr.shapley_sampling(f, x, None, key, num_permutations=4)
        Estimate(attributions=Array([0.5, 0.5], dtype=float32),
                 standard_error=Array([0., 0.], dtype=float32))
    """
    it = coalitions.problem(f, x, baseline, baselines, groups, args, chunk_size, progress)
    trees.check_key(key)
    trees.check_count(num_permutations, "num_permutations")
    if antithetic and num_permutations % 2:
        raise ValueError(
            f"`num_permutations` must be even, not {num_permutations}: each order is taken "
            "backwards, too; or pass antithetic=False"
        )
    count = it.features.number
    design = _before_in_pairs if antithetic else _before
    found = coalitions.values(it, design, key, num_permutations * (count + 1))
    gains = _gains(found.reshape(num_permutations, count + 1), key, antithetic)
    if antithetic:
        gains = (gains[::2] + gains[1::2]) / 2
    return _estimate(it, gains.mean(0), _error_of_mean(gains))


def _order(key: PRNGKey, number: Any, count: int, pairs: bool) -> jax.Array:
    """Return the place of each feature in an order; in pairs, every second is the one before."""
    drawn = jax.random.fold_in(key, number // 2 if pairs else number)
    places = jax.random.permutation(drawn, count).astype(jnp.int32)
    return jnp.where(number % 2 == 1, count - 1 - places, places) if pairs else places


def _before(index: Any, key: PRNGKey, count: int, pairs: bool = False) -> jax.Array:
    """Return the features that have come after so many steps of an order."""
    return _order(key, index // (count + 1), count, pairs) < index % (count + 1)


_before_in_pairs = functools.partial(_before, pairs=True)


@functools.partial(jax.jit, static_argnums=2)
def _gains(found: jax.Array, key: PRNGKey, pairs: bool) -> jax.Array:
    """Return what each feature adds in each order, (orders, features)."""
    number, count = found.shape[0], found.shape[1] - 1

    def of(values: jax.Array, order: jax.Array) -> jax.Array:
        return jnp.diff(values)[_order(key, order, count, pairs)]

    return jax.vmap(of)(found, jnp.arange(number, dtype=jnp.int32))


def _error_of_mean(samples: jax.Array) -> jax.Array:
    number = samples.shape[0]
    if number == 1:
        return jnp.full(samples.shape[1:], jnp.nan, samples.dtype)
    return samples.std(0, ddof=1) / number**0.5


def _estimate(it: coalitions.Problem, found: jax.Array, error: jax.Array) -> Estimate:
    return Estimate(it.features.spread(found, it.x), it.features.spread(error, it.x))


# Linear models of v -----------------------------------------------------------------------------


def kernel_shap(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None,
    key: PRNGKey,
    *,
    baselines: ArrayTree | None = None,
    groups: ArrayTree | None = None,
    num_samples: int,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """Estimate Shapley values as the best linear model of sampled coalitions.

    φ = argmin Σ_S (v(S) − v(∅) − Σ_{g∈S} φ_g)², with Σ_g φ_g = f(x) − f(baseline), over coalitions
    drawn with probability ∝ (n − 1) / (C(n, |S|) |S| (n − |S|)), each with its complement. v is as
    for `xattr.shapley_values`. All features are kept: none is selected before. If `num_samples` is
    at least 2ⁿ − 2, all coalitions are taken with their weights, and the values are exact.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. It may have no
            gradient.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x. None is zeros.
        key: a random key, `jax.random.key(seed)`.
        baselines: instead of one baseline a pytree like x with a leading axis of them.
        groups: which elements are one feature, as for `xattr.ablation`. A table of features ×
            features is in memory.
        num_samples: evaluations of f, beside two; an even number, at least four times the number of
            features.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many evaluations of f to take together. None chooses.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does.

    Returns:
        An `Estimate`: attributions like x in units of f, and the standard error of each, from the
        residuals of pairs (the sandwich of least squares); 0 where all coalitions are taken.

    Raises:
        ValueError: if num_samples is odd or too small; else as `xattr.ablation`.
        TypeError: if `key` is not a key; else as `xattr.ablation`.

    Source:
        Lundberg & Lee 2017, theorem 2; pairs and errors Covert & Lee 2021, "Improving KernelSHAP",
        §3 and 4.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f, x, key = lambda x: x[0] * x[1] + x[2], jnp.ones(3), jax.random.key(0)
        >>> xattr.kernel_shap(f, x, None, key, num_samples=6).attributions.round(4)
        Array([0.5, 0.5, 1. ], dtype=float32)
    """
    it = coalitions.problem(f, x, baseline, baselines, groups, args, chunk_size, progress)
    trees.check_key(key)
    trees.check_count(num_samples, "num_samples")
    count = it.features.number
    empty, full = coalitions.ends(it)
    if count == 1:
        return _estimate(it, (full - empty)[None], jnp.zeros((1,), full.dtype))
    if count <= 30 and num_samples >= 2**count - 2:
        number, design, weigh = 2**count - 2, _proper_subset, _kernel_of_subset
    else:
        _check_samples(num_samples, count)
        number, design, weigh = num_samples, _by_kernel, _one
    found = coalitions.values(it, design, key, number) - empty
    present = coalitions.designs(design, key, count, number).astype(found.dtype)
    weights = weigh(present.sum(1).astype(jnp.int32), count, found.dtype)
    fitted, errors = _constrained(present, found, weights, full - empty)
    exact = design is _proper_subset
    return _estimate(it, fitted, jnp.zeros_like(errors) if exact else errors)


def _check_samples(num_samples: int, count: int) -> None:
    if num_samples % 2 or num_samples < 4 * count:
        raise ValueError(
            f"`num_samples` must be even, and at least {4 * count} for {count} features, not "
            f"{num_samples}: else the linear model is not determined"
        )


def _proper_subset(index: Any, key: PRNGKey, count: int) -> jax.Array:
    return coalitions.subset(index + 1, key, count)


def _kernel_of_subset(present: jax.Array, count: int, dtype: Any) -> jax.Array:
    """Return the Shapley kernel (n − 1) / (C(n, s) s (n − s)) of coalitions of s features."""
    sizes = np.arange(1, count)
    log_binomial = np.cumsum(np.log((count - sizes + 1) / sizes))
    table = np.exp(np.log((count - 1) / (sizes * (count - sizes))) - log_binomial)
    return jnp.asarray(table, dtype)[present - 1]


def _one(present: jax.Array, count: int, dtype: Any) -> jax.Array:
    return jnp.ones(present.shape, dtype)


def _by_kernel(index: Any, key: PRNGKey, count: int) -> jax.Array:
    """Draw a coalition by the Shapley kernel; every second one is the complement of that before."""
    to_size, to_order = jax.random.split(jax.random.fold_in(key, index // 2))
    sizes = np.arange(1, count)
    chances = 1 / (sizes * (count - sizes))
    size = 1 + jax.random.categorical(to_size, jnp.asarray(np.log(chances), jnp.float32))
    present = jax.random.permutation(to_order, count) < size
    return present ^ (index % 2 == 1)


@jax.jit
def _constrained(
    present: jax.Array, found: jax.Array, weights: jax.Array, total: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return least squares with Σ φ = total, and the standard error of each coefficient.

    φ is equal shares of the total plus a part whose sum is 0, which rows without their mean fit.
    """
    weights = weights / weights.sum()
    equal = total / present.shape[1]
    target = found - equal * present.sum(1)
    rows = present - present.mean(1, keepdims=True)
    moments = jnp.einsum("ki,kj,k->ij", rows, rows, weights, precision="highest")
    mixed = jnp.einsum("ki,k,k->i", rows, target, weights, precision="highest")
    inverse = _inverse(moments)
    fitted = inverse(mixed)
    residuals = target - jnp.einsum("ki,i->k", rows, fitted, precision="highest")
    scores = rows * (residuals * weights)[:, None]
    pairs = inverse((scores[::2] + scores[1::2]).T)
    number = pairs.shape[1]
    spread = jnp.sum((pairs - pairs.mean(1, keepdims=True)) ** 2, axis=1)
    return fitted + equal, jnp.sqrt(spread * number / max(number - 1, 1))


def _inverse(moments: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return the product with the pseudoinverse: what the sample does not determine gets 0."""
    found = jnp.linalg.pinv(moments, hermitian=True)
    return functools.partial(jnp.matmul, found, precision="highest")


WIDTH = 0.25
"""LIME's kernel width for images, in the authors' code."""


def lime(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None,
    key: PRNGKey,
    *,
    baselines: ArrayTree | None = None,
    groups: ArrayTree | None = None,
    num_samples: int,
    kernel_width: float | None = None,
    penalty: float = 0.0,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """Return the slopes of a linear model of f around x, fitted on x with features left out.

    φ = argmin Σ_S π(S) (v(S) − φ₀ − Σ_{g∈S} φ_g)² + penalty · Σ_S π(S) · |φ|², π(S) = exp(−d²/w²),
    d = 1 − √(|S|/n), the cosine distance to all features. Every feature is present with probability
    ½, and the first sample is x itself. If `num_samples` is at least 2ⁿ, all coalitions are taken;
    with w = ∞ the slopes are then the Banzhaf values. The authors' code keeps a few features and
    fits again; here all are kept.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. It may have no
            gradient.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x, such as the mean colour of each superpixel. None is zeros.
        key: a random key, `jax.random.key(seed)`.
        baselines: instead of one baseline a pytree like x with a leading axis of them.
        groups: which elements are one feature, as for `xattr.ablation`. A table of features ×
            features is in memory.
        num_samples: evaluations of f, at least twice the number of features.
        kernel_width: w; None is .25, as in the authors' code for images. `jnp.inf` weighs all
            alike.
        penalty: of the squares of the slopes; 0 is least squares. The authors' code has 1 for the
            sum, which is 1 / Σ π here.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many evaluations of f to take together. None chooses.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does.

    Returns:
        An `Estimate`: attributions like x in units of f, and the standard error of each, from the
        residuals (the sandwich of least squares); 0 where all coalitions are taken.

    Raises:
        ValueError: if num_samples is too small, kernel_width is not positive, or penalty < 0; else
            as `xattr.ablation`.
        TypeError: if `key` is not a key; else as `xattr.ablation`.

    Source:
        Ribeiro et al. 2016, "Why should I trust you? Explaining the predictions of any classifier",
        eq. 2 and algorithm 1.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f, x, key = lambda x: 2 * x[0] - x[1], jnp.array([1.0, 3.0]), jax.random.key(0)
        >>> xattr.lime(f, x, None, key, num_samples=4).attributions.round(4)
        Array([ 2., -3.], dtype=float32)
    """
    it = coalitions.problem(f, x, baseline, baselines, groups, args, chunk_size, progress)
    trees.check_key(key)
    trees.check_count(num_samples, "num_samples")
    trees.check_not_negative(penalty, "penalty")
    width = trees.on_host(WIDTH if kernel_width is None else kernel_width)
    if width is not None and not width > 0:
        raise ValueError(f"`kernel_width` must be positive, not {kernel_width!r}; inf is allowed")
    count = it.features.number
    exact = count <= 30 and num_samples >= 2**count
    if not exact and num_samples < 2 * count:
        raise ValueError(
            f"`num_samples` must be at least {2 * count} for {count} features, not {num_samples}: "
            "else the linear model is not determined"
        )
    number, design = (2**count, coalitions.subset) if exact else (num_samples, _coins)
    found = coalitions.values(it, design, key, number)
    present = coalitions.designs(design, key, count, number).astype(found.dtype)
    distance = 1 - jnp.sqrt(present.mean(1))
    spread = jnp.asarray(WIDTH if kernel_width is None else kernel_width, found.dtype)
    fitted, errors = _ridge(present, found, jnp.exp(-((distance / spread) ** 2)), penalty)
    return _estimate(it, fitted, jnp.zeros_like(errors) if exact else errors)


def _coins(index: Any, key: PRNGKey, count: int) -> jax.Array:
    """Toss a coin for each feature; at first all are present."""
    return jax.random.bernoulli(jax.random.fold_in(key, index), shape=(count,)) | (index == 0)


@jax.jit
def _ridge(
    present: jax.Array, found: jax.Array, weights: jax.Array, penalty: Any
) -> tuple[jax.Array, jax.Array]:
    """Return weighted ridge regression with an intercept, and the standard error of each slope."""
    weights = weights / weights.sum()
    centred = present - jnp.einsum("ki,k->i", present, weights, precision="highest")[None]
    target = found - jnp.sum(found * weights)
    moments = jnp.einsum("ki,kj,k->ij", centred, centred, weights, precision="highest")
    moments = moments + jnp.asarray(penalty, found.dtype) * jnp.eye(moments.shape[0]).astype(
        found.dtype
    )
    mixed = jnp.einsum("ki,k,k->i", centred, target, weights, precision="highest")
    inverse = _inverse(moments)
    fitted = inverse(mixed)
    residuals = target - jnp.einsum("ki,i->k", centred, fitted, precision="highest")
    scores = inverse((centred * (residuals * weights)[:, None]).T)
    return fitted, jnp.sqrt(jnp.sum(scores**2, axis=1))
