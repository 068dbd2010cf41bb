"""Shapley, Banzhaf and their estimates, against sums over orders and coalitions by definition."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import xattr
from xattr._perturb import sampled
from xattr._perturb.exact import (
    ablation,
    banzhaf_values,
    shapley_interactions,
    shapley_values,
)
from xattr._perturb.sampled import kernel_shap, lime, shapley_sampling
from xattr._perturb.windows import occlusion, rise
from xattr.testing import count_compilations

KEY = jax.random.key(0)
SAMPLED = {
    "shapley_sampling": functools.partial(shapley_sampling, num_permutations=8),
    "kernel_shap": functools.partial(kernel_shap, num_samples=16),
    "lime": functools.partial(lime, num_samples=64),
}
EXACT = {"ablation": ablation, "shapley": shapley_values, "banzhaf": banzhaf_values}


def everything(f, x, baseline=None, **options):
    """The attributions of every method of coalitions."""
    found = {name: method(f, x, baseline, **options) for name, method in EXACT.items()}
    for name, method in SAMPLED.items():
        found[name] = method(f, x, baseline, KEY, **options).attributions
    return found


def close(actual, expected, tolerance=1e-9):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def by_orders(f, x, baseline):
    """Shapley values as the mean over all orders: the definition."""
    x, baseline = np.asarray(x, float), np.asarray(baseline, float)
    total = np.zeros(len(x))
    for order in itertools.permutations(range(len(x))):
        at = baseline.copy()
        for feature in order:
            before = float(f(jnp.array(at)))
            at[feature] = x[feature]
            total[feature] += float(f(jnp.array(at))) - before
    return total / math.factorial(len(x))


def by_coalitions(f, x, baseline):
    """Banzhaf values as the mean over all coalitions of the others."""
    x, baseline = np.asarray(x, float), np.asarray(baseline, float)
    n = len(x)
    total = np.zeros(n)
    for bits in itertools.product([False, True], repeat=n):
        at = np.where(bits, x, baseline)
        for feature in range(n):
            if not bits[feature]:
                more = at.copy()
                more[feature] = x[feature]
                total[feature] += float(f(jnp.array(more)) - f(jnp.array(at)))
    return total / 2 ** (n - 1)


def scored(x, w, b, v):
    """A network whose weights are arguments: the methods compile once for all examples."""
    return jnp.maximum(x @ w + b, 0) @ v


def weights(seed, inputs=4):
    random = np.random.default_rng(seed)
    shapes = (inputs, 6), (6,), (6,)
    return tuple(jnp.asarray(random.standard_normal(s)) for s in shapes)


def network(seed, inputs=4):
    drawn = weights(seed, inputs)
    return lambda x: scored(x, *drawn)


# Known answers ----------------------------------------------------------------------------------


def test_the_slides_minimum(x64):
    """min(x₁, x₂) from 0 to (1, 3): Shapley (½, ½), where integrated gradients have (1, 0)."""
    f, x = lambda x: jnp.minimum(x[0], x[1]), jnp.array([1.0, 3.0])
    for name in ("shapley", "shapley_sampling", "kernel_shap"):
        close(everything(f, x)[name], [0.5, 0.5])
    close(xattr.aumann_shapley(f, x), [1, 0])
    close(ablation(f, x), [1, 1])


def test_a_product_with_a_square(x64):
    f = lambda x: x[0] * x[1] ** 2
    close(shapley_values(f, jnp.ones(2)), [0.5, 0.5])
    close(xattr.aumann_shapley(f, jnp.ones(2)), [1 / 3, 2 / 3], 1e-6)


@pytest.mark.parametrize("name", [*EXACT, *SAMPLED])
def test_a_linear_function(name, x64):
    w = jnp.array([2.0, -1.0, 0.5, 3.0])
    x, baseline = jnp.array([1.0, 2.0, -3.0, 0.0]), jnp.array([0.5, 0.0, 1.0, -1.0])
    found = everything(lambda x: jnp.sum(w * x) + 7, x, baseline)
    close(found[name], w * (x - baseline))


def test_a_majority_of_three():
    """Of three with one vote each, each decides in 2 of 4 coalitions: Banzhaf ½, and Σ is not 1."""
    f = lambda x: jnp.where(x.sum() >= 2, 1.0, 0.0)
    close(banzhaf_values(f, jnp.ones(3)), [0.5] * 3, 1e-6)
    close(shapley_values(f, jnp.ones(3)), [1 / 3] * 3, 1e-6)
    close(ablation(f, jnp.ones(3)), [0] * 3)  # any two of the others are enough


@pytest.mark.parametrize("inputs", [1, 2, 3, 5])
def test_against_the_definitions(inputs, x64):
    f = network(inputs, inputs)
    random = np.random.default_rng(inputs)
    x, baseline = jnp.asarray(random.normal(size=(2, inputs)))
    close(shapley_values(f, x, baseline), by_orders(f, x, baseline))
    close(banzhaf_values(f, x, baseline), by_coalitions(f, x, baseline))
    exact = kernel_shap(f, x, baseline, KEY, num_samples=max(2, 2**inputs))
    close(exact.attributions, by_orders(f, x, baseline))
    close(exact.standard_error, 0)
    limit = lime(f, x, baseline, KEY, num_samples=2**inputs, kernel_width=jnp.inf)
    close(limit.attributions, by_coalitions(f, x, baseline))


def test_interventional_values_are_means_over_the_baselines(x64):
    f, x = network(1), jnp.array([1.0, -1.0, 2.0, 0.5])
    rows = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4)))
    for name, method in EXACT.items():
        expected = np.mean([method(f, x, row) for row in rows], axis=0)
        close(method(f, x, baselines=rows), expected), name
    estimate = shapley_sampling(f, x, None, KEY, baselines=rows, num_permutations=4)
    close(estimate.attributions.sum(), f(x) - jax.vmap(f)(rows).mean())


def test_lime_of_two_features_by_hand(x64):
    """f = x₁x₂, weights 1, π₁, π₁, π₀ of |S| = 2, 1, 1, 0; by symmetry one slope b:

    min (1 − a − 2b)² + 2π₁(a + b)² + π₀a².
    """
    width = 0.5
    one, none = np.exp(-(((1 - np.sqrt(0.5)) / width) ** 2)), np.exp(-((1 / width) ** 2))
    rows = np.array([[1, 2], [1, 1], [1, 0]])
    weights, target = np.array([1, 2 * one, none]), np.array([1, 0, 0])
    _, slope = np.linalg.solve(rows.T @ (weights[:, None] * rows), rows.T @ (weights * target))
    found = lime(lambda x: x[0] * x[1], jnp.ones(2), None, KEY, num_samples=4, kernel_width=width)
    close(found.attributions, [slope, slope])


def test_a_penalty_shrinks_the_slopes(x64):
    """With all coalitions alike, the variance of a feature is ¼: slope = w ¼ / (¼ + penalty)."""
    w = jnp.array([2.0, -1.0])
    options = {"num_samples": 4, "kernel_width": jnp.inf, "penalty": 0.25}
    found = lime(lambda x: jnp.sum(w * x), jnp.ones(2), None, KEY, **options)
    close(found.attributions, w / 2)


# Interactions -----------------------------------------------------------------------------------


def interactions_by_definition(f, x, baseline):
    """Half the weighted sum of second differences; the diagonal has what the values leave."""
    x, baseline, n = np.asarray(x, float), np.asarray(baseline, float), len(x)
    v = lambda chosen: float(f(jnp.array(np.where(np.isin(np.arange(n), chosen), x, baseline))))
    found = np.zeros((n, n))
    for i, j in itertools.permutations(range(n), 2):
        others = [k for k in range(n) if k not in (i, j)]
        for size in range(n - 1):
            weight = math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1)
            for s in itertools.combinations(others, size):
                both = v([*s, i, j]) - v([*s, i]) - v([*s, j]) + v([*s])
                found[i, j] += weight * both / 2
    return found + np.diag(by_orders(f, x, baseline) - found.sum(1))


@pytest.mark.parametrize("inputs", [1, 2, 4])
def test_interactions_against_the_definition(inputs, x64):
    f = network(inputs + 3, inputs)
    x, baseline = jnp.asarray(np.random.default_rng(inputs).normal(size=(2, inputs)))
    found = shapley_interactions(f, x, baseline)
    close(found, interactions_by_definition(f, x, baseline))
    close(found, found.T)
    close(found.sum(1), shapley_values(f, x, baseline))
    close(found.sum(), f(x) - f(baseline))


def test_a_sum_has_no_interactions(x64):
    f = lambda x: jnp.sin(x[0]) + x[1] ** 2 - x[2]
    found = np.asarray(shapley_interactions(f, jnp.array([1.0, 2.0, 3.0])))
    close(found - np.diag(np.diag(found)), 0)


# Axioms -----------------------------------------------------------------------------------------

numbers = st.floats(-2, 2, width=32)
inputs = st.lists(numbers, min_size=4, max_size=4).map(jnp.array)


def without_the_third(x, *args):
    return scored(x[jnp.array([0, 1, 3])], *args)


def symmetric(x, *args):
    return scored(jnp.stack([x[0] + x[1], x[0] * x[1], x[2]]), *args) + x[3]


def combined(x, factor, one, other):
    return factor * scored(x, *one) + scored(x, *other)


@given(st.integers(0, 20), inputs, inputs)
def test_efficiency(seed, x, baseline):
    args = weights(seed)
    gap = scored(x, *args) - scored(baseline, *args)
    found = everything(scored, x, baseline, args=args)
    for name in ("shapley", "shapley_sampling", "kernel_shap"):
        close(found[name].sum(), gap, 2e-4)


@given(st.integers(0, 20), inputs, inputs)
def test_a_feature_that_f_ignores_gets_nothing(seed, x, baseline):
    found = everything(without_the_third, x, baseline, args=weights(seed, 3))
    for name in ("ablation", "shapley", "banzhaf", "shapley_sampling"):
        assert found[name][2] == 0
    close(found["kernel_shap"][2], 0, 2e-4)


@given(st.integers(0, 20), numbers, numbers, inputs)
def test_symmetry(seed, value, start, x):
    x = x.at[:2].set(value)
    baseline = jnp.zeros(4).at[:2].set(start)
    found = everything(symmetric, x, baseline, args=weights(seed, 3))
    for name in EXACT:
        close(found[name][0], found[name][1], 2e-4)


@given(st.integers(0, 20), st.integers(0, 20), numbers, inputs)
def test_linearity(one, other, factor, x):
    one, other = weights(one), weights(other)
    mixed = everything(combined, x, args=(jnp.float32(factor), one, other))
    alone = everything(scored, x, args=one), everything(scored, x, args=other)
    for name, found in mixed.items():
        close(found, factor * alone[0][name] + alone[1][name], 1e-3)


def test_ablation_and_banzhaf_are_not_efficient():
    f = lambda x: x[0] * x[1] * x[2]
    assert float(ablation(f, jnp.ones(3)).sum()) == pytest.approx(3)
    assert float(banzhaf_values(f, jnp.ones(3)).sum()) == pytest.approx(0.75)


# Sampling ---------------------------------------------------------------------------------------


def spread_of(method, number, seeds, f, x):
    """Deviation of the estimates over seeds, and the mean of their standard errors."""
    keys = jax.random.split(jax.random.key(7), seeds)
    found = jax.jit(jax.vmap(lambda key: method(f, x, None, key, number)))(keys)
    return np.std(found.attributions, axis=0), np.mean(found.standard_error, axis=0), found


ESTIMATES = {
    "orders": lambda f, x, b, key, n: shapley_sampling(
        f, x, b, key, num_permutations=n, antithetic=False
    ),
    "pairs of orders": lambda f, x, b, key, n: shapley_sampling(f, x, b, key, num_permutations=n),
    "kernel": lambda f, x, b, key, n: kernel_shap(f, x, b, key, num_samples=7 * n),
    "LIME": lambda f, x, b, key, n: lime(f, x, b, key, num_samples=7 * n, kernel_width=1.0),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_standard_error_is_that_over_seeds_and_falls_as_the_root(name, x64):
    f = lambda x: jnp.prod(1 + x[:3]) * jnp.sin(x[3:].sum()) + x[0] * x[5] ** 2
    x = jnp.linspace(0.4, 1.2, 10)
    errors = {}
    for number in (20, 80):
        spread, errors[number], found = spread_of(ESTIMATES[name], number, 300, f, x)
        ratio = errors[number] / np.maximum(spread, 1e-12)
        assert (ratio > 0.75).all()
        assert (ratio < 1.3).all()
    fall = errors[20] / errors[80]
    assert (fall > 1.7).all()
    assert (fall < 2.4).all()
    if name != "LIME":
        exact = np.asarray(shapley_values(f, x))
        far = np.abs(np.asarray(found.attributions) - exact) / np.asarray(found.standard_error)
        assert 0.92 < (far < 2).mean() < 0.98


def test_pairs_have_a_smaller_error_than_orders_at_equal_cost(x64):
    f, x = network(3, 7), jnp.linspace(-1, 1, 7)
    alone, _, _ = spread_of(ESTIMATES["orders"], 40, 200, f, x)
    pairs, _, _ = spread_of(ESTIMATES["pairs of orders"], 40, 200, f, x)
    assert np.mean(pairs) < 0.8 * np.mean(alone)


def test_one_order_has_no_error_estimate():
    found = shapley_sampling(jnp.sum, jnp.ones(2), None, KEY, num_permutations=2)
    assert np.isnan(found.standard_error).all()


def test_coalitions_are_drawn_by_the_kernel():
    """Of 4 features, sizes 1, 2, 3 have chances ∝ 1/3, 1/4, 1/3."""
    drawn = jax.vmap(lambda k: sampled._by_kernel(2 * k, KEY, 4))(jnp.arange(20_000))
    shares = np.bincount(np.asarray(drawn.sum(1)), minlength=5) / 20_000
    np.testing.assert_allclose(shares, [0, 4 / 11, 3 / 11, 4 / 11, 0], atol=0.015)
    np.testing.assert_allclose(drawn.mean(0), 0.5, atol=0.015)


# Groups -----------------------------------------------------------------------------------------


def test_a_group_is_one_player_and_its_elements_share(x64):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 2)))
    groups = xattr.groups.grid(image, (2, 2))
    pooled = lambda present: jnp.prod(jnp.stack([jnp.sum(p) for p in present]))
    f = lambda x: pooled([x[:2, :2], x[:2, 2:], x[2:, :2], x[2:, 2:]])
    sums = jnp.stack([image[a, b].sum() for a in (slice(0, 2), slice(2, 4))
                      for b in (slice(0, 2), slice(2, 4))])  # fmt: skip
    for name, method in EXACT.items():
        found, expected = method(f, image, groups=groups), method(jnp.prod, sums)
        assert found.shape == image.shape
        for number in range(4):
            part = np.asarray(found)[groups == number]
            close(part, expected[number] / 8), name


def test_leaves_as_features(x64):
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0), "c": jnp.array([[0.5]])}
    f = lambda x: x["a"].sum() * x["b"] + x["c"].sum()
    found = shapley_values(f, x, groups=xattr.groups.leaves(x))
    close(found["a"], [2.25, 2.25])
    close(found["b"], 4.5)
    close(found["c"], [[0.5]])


def test_elements_of_all_leaves_are_features(x64):
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    f = lambda x: x["a"][0] * x["b"] + x["a"][1]
    close(ravel_pytree(shapley_values(f, x))[0], [1.5, 2, 1.5])


# Windows ----------------------------------------------------------------------------------------


def test_a_window_of_one_is_ablation(x64):
    f, x = network(2), jnp.array([1.0, -2.0, 0.5, 3.0])
    close(occlusion(f, x, 0 * x + 0.3, window=1), ablation(f, x, 0 * x + 0.3))


def test_windows_side_by_side_are_groups(x64):
    image = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 2)))
    f = lambda x: jnp.tanh(jnp.sum(x * jnp.cos(jnp.arange(6.0))[None, :, None]))
    groups = xattr.groups.grid(image, (2, 3))
    close(occlusion(f, image, window=(2, 3)), ablation(f, image, groups=groups))


def test_overlaps_are_averaged(x64):
    """Windows 0–1, 1–2 and 2–3 of x₁x₂ + x₃x₄: losses 1, 2, 1 (of ones), half for each element."""
    f = lambda x: x[0] * x[1] + x[2] * x[3]
    found = occlusion(f, jnp.ones(4), window=2, stride=1)
    close(found, [1 / 2, (1 / 2 + 1) / 2, (1 + 1 / 2) / 2, 1 / 2])


def test_the_last_window_ends_where_x_ends(x64):
    found = occlusion(jnp.sum, jnp.arange(5.0), window=2, stride=2)
    close(found, [0.5, 0.5, 2.5, (2.5 + 3.5) / 2, 3.5])


def test_rise_of_a_linear_function(x64):
    """S = E[f(x ⊙ M) M(λ)] / p, by the mean over many masks drawn elsewhere; for one cell, 1 and 0.

    With one cell the mask is soft only at its edge. With f = x(0, 0) and cells as large as the
    image, M(λ) M(0) / p is near 1 at the corner.
    """
    image = jnp.ones((6, 6, 1))
    scores, error = rise(lambda x: x[0, 0, 0], image, KEY, num_masks=4000, grid=3)
    again, _ = rise(lambda x: x[0, 0, 0], image, jax.random.key(1), num_masks=4000, grid=3)
    far = np.abs(scores - again) / np.maximum(error * 2**0.5, 1e-9)
    assert (far < 4).all()
    # E[M] = p everywhere, so that far away S = E[M(λ)] E[M(0)] / p = p.
    assert float(scores[5, 5]) == pytest.approx(0.5, abs=4 * float(error[5, 5]))
    assert float(scores[0, 0]) > float(scores[5, 5]) + 0.1


def test_rise_of_a_constant_is_the_constant(x64):
    scores, error = rise(lambda x: 0 * x.sum() + 3.0, jnp.ones((8, 8, 1)), KEY, num_masks=3000,
                         grid=4, probability=0.3)  # fmt: skip
    assert (np.abs(scores - 3) < 4 * error).all()


# Everything composes ----------------------------------------------------------------------------

ALL = {
    "ablation": lambda f, x, args: ablation(f, x, args=args),
    "shapley": lambda f, x, args: shapley_values(f, x, args=args),
    "banzhaf": lambda f, x, args: banzhaf_values(f, x, args=args),
    "occlusion": lambda f, x, args: occlusion(f, x, window=2, args=args),
    "sampling": lambda f, x, args: (
        shapley_sampling(f, x, None, KEY, num_permutations=4, args=args).attributions
    ),
    "kernel": lambda f, x, args: (
        kernel_shap(f, x, None, KEY, num_samples=16, args=args).attributions
    ),
    "lime": lambda f, x, args: lime(f, x, None, KEY, num_samples=20, args=args).attributions,
}


def weighed(x, w):
    return jnp.tanh(jnp.sum(w * x)) + x[0] * x[1]


XS = jnp.asarray(np.random.default_rng(4).normal(size=(3, 4)))
WS = jnp.asarray(np.random.default_rng(5).normal(size=(3, 4)))


@pytest.mark.parametrize("name", ALL)
def test_alone_in_a_batch_and_staged(name, x64):
    xs, ws = XS.astype(float), WS.astype(float)
    one = lambda x, w: ALL[name](weighed, x, (w,))
    alone = jnp.stack([one(x, w) for x, w in zip(xs, ws, strict=True)])
    close(jax.vmap(one)(xs, ws), alone)
    close(jax.jit(jax.vmap(one))(xs, ws), alone)
    assert np.isfinite(jax.grad(lambda w: one(xs[0], w)[0])(ws[0])).all()


@pytest.mark.parametrize("name", ALL)
def test_new_values_do_not_recompile(name):
    for shift in (0.0, 1.0):
        with count_compilations() as counts:
            ALL[name](weighed, XS[0] + shift, (WS[0] - shift,))
    kernels = [n for n in counts if n.endswith("_kernel")]
    assert not any(counts[n] for n in kernels), counts


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtypes(name, dtype):
    found = ALL[name](weighed, XS[0].astype(dtype), (WS[0].astype(dtype),))
    assert found.dtype == dtype
    expected = ALL[name](weighed, XS[0].astype(jnp.float32), (WS[0].astype(jnp.float32),))
    close(found.astype(jnp.float32), expected, 0.15 if dtype == jnp.bfloat16 else 1e-6)


def test_progress_counts_chunks_and_changes_nothing():
    seen = []

    def progress(work):
        seen.append(len(work))
        return work

    f, x = network(1), jnp.array([1.0, 2.0, -1.0, 0.5])
    found = shapley_values(f, x, chunk_size=5, progress=progress)
    assert seen == [4]
    close(found, shapley_values(f, x), 1e-5)


def test_a_function_without_a_gradient():
    f = lambda x: jnp.where(x[0] > 0.5, 1.0, 0.0) + jnp.round(x[1])
    close(shapley_values(f, jnp.array([1.0, 2.0])), [1, 2])


def test_groups_of_the_same_number_do_not_recompile():
    f = lambda x: jnp.tanh(x.sum())
    shapley_values(f, jnp.ones(6), groups=np.array([0, 0, 1, 1, 2, 2]))
    with count_compilations() as counts:
        shapley_values(f, jnp.ones(6), groups=np.array([2, 1, 0, 0, 1, 2]))
    assert counts["values_kernel"] == 0


# Errors -----------------------------------------------------------------------------------------

F, X = jnp.sum, jnp.ones(4)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: shapley_values(F, jnp.ones(21)), ValueError, "xattr.shapley_sampling"),
        (lambda: ablation(F, X, groups=np.array([0, 2, 2, 2])), ValueError, "1 is missing below 2"),
        (lambda: ablation(F, X, groups=np.ones(4)), TypeError, "`groups` must hold whole numbers"),
        (lambda: ablation(F, X, groups=np.zeros(3, int)), ValueError, "`groups` have shape (3,)"),
        (
            lambda: jax.jit(lambda g: ablation(F, X, groups=g))(np.zeros(4, int)),
            TypeError,
            "`groups` is traced",
        ),
        (
            lambda: ablation(F, X, X, baselines=X[None]),
            ValueError,
            "`baseline` and `baselines` exclude each other",
        ),
        (lambda: ablation(F, X, baselines=X), ValueError, "needs a leading axis of at least one"),
        (
            lambda: shapley_sampling(F, X, None, KEY, num_permutations=3),
            ValueError,
            "`num_permutations` must be even",
        ),
        (
            lambda: kernel_shap(F, jnp.ones(10), None, KEY, num_samples=12),
            ValueError,
            "at least 40 for 10 features",
        ),
        (lambda: lime(F, jnp.ones(9), None, KEY, num_samples=9), ValueError, "at least 18 for 9"),
        (
            lambda: lime(F, X, None, KEY, num_samples=16, kernel_width=0.0),
            ValueError,
            "`kernel_width` must be positive",
        ),
        (lambda: occlusion(F, X, window=5), ValueError, "`window` 5 does not fit"),
        (lambda: occlusion(F, X, window=1, stride=2), ValueError, "would leave gaps"),
        (lambda: occlusion(F, {"a": X}, window=1), TypeError, "`x` must be one array"),
        (
            lambda: rise(F, jnp.ones((4, 4, 1)), KEY, num_masks=2, grid=2, probability=1.0),
            ValueError,
            "`probability` must lie between 0 and 1",
        ),
        (lambda: ablation(jnp.sin, X), ValueError, "`f` must return one scalar"),
        (lambda: occlusion(jnp.sin, X, window=1), ValueError, "`f` must return one scalar"),
        (
            lambda: rise(lambda x: x[..., 0], jnp.ones((4, 4, 1)), KEY, num_masks=2, grid=2),
            ValueError,
            "`f` must return one scalar",
        ),
        (lambda: xattr.groups.grid(X, (2, 2)), ValueError, "`size` (2, 2) does not fit"),
    ],
)
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)
