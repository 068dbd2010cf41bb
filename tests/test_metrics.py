"""Metrics between maps: against scipy, closed forms and counts by hand."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given

from xattr import metrics

SEEDS = st.integers(0, 2**31)
SIZE = 784
CORRELATIONS = {
    "spearman": (metrics.spearman, scipy.stats.spearmanr),
    "pearson": (metrics.pearson, scipy.stats.pearsonr),
    "kendall": (metrics.kendall, scipy.stats.kendalltau),
}
PAIRED = [metrics.spearman, metrics.pearson, metrics.kendall, metrics.sign_agreement]
# ρ of two unrelated positive maps of 784 elements by their number of common zeros.
COMMON_ZEROS = {
    0: 0, 56: 0.1991, 112: 0.3684, 168: 0.5101, 224: 0.6269, 280: 0.7217, 336: 0.7975, 392: 0.8571,
    448: 0.9032, 504: 0.9380, 560: 0.9633, 616: 0.9809, 672: 0.9921, 728: 0.9982, 783: 1,
}  # fmt: skip


def tied(seed, size=SIZE):
    """Related maps with ties, zeros of both signs and values of both signs, and a mask."""
    random = np.random.default_rng(seed)
    a = random.integers(-6, 7, size) * np.where(random.random(size) < 0.5, 0.5, 0.0)
    b = np.where(random.random(size) < 0.5, a, random.integers(-9, 10, size) / 3)
    return a, b, random.random(size) < 0.3


def value_of(scipys, a, b):
    return scipys(np.asarray(a, np.float64), np.asarray(b, np.float64))[0]


def zeros_and_others(draws, zeros, seed=0):
    """Pairs of positive maps with `zeros` elements that are 0 in both and others unrelated."""
    a, b = np.random.default_rng(seed).random((2, draws, SIZE)) + 0.1
    a[:, :zeros] = b[:, :zeros] = 0
    return a, b


def expected_with_common_zeros(zeros, rho_of_others=0.0):
    p, m = zeros / SIZE, SIZE - zeros
    between, within = p * (1 - p) * SIZE**2 / 4, (1 - p) * (m**2 - 1) / 12
    return (between + within * rho_of_others) / (between + within)


@pytest.mark.parametrize("name", CORRELATIONS)
@pytest.mark.usefixtures("x64")
def test_agrees_with_scipy_in_float64(name):
    ours, scipys = CORRELATIONS[name]
    for seed in range(5):
        a, b, mask = tied(seed)
        assert abs(ours(a, b) - value_of(scipys, a, b)) < 1e-12
        assert abs(ours(a, b, where=mask) - value_of(scipys, a[mask], b[mask])) < 1e-12


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", CORRELATIONS)
def test_agrees_with_scipy_in_less_precision(name, dtype):
    ours, scipys = CORRELATIONS[name]
    a, b, mask = tied(1)
    a, b = (jnp.asarray(value, dtype) for value in (a, b))  # bfloat16 rounds: scipy gets the same
    full, masked = ours(a, b), ours(a, b, where=mask)
    assert full.dtype == masked.dtype == jnp.float32
    assert abs(float(full) - value_of(scipys, a, b)) < 1e-6
    assert abs(float(masked) - value_of(scipys, a[mask], b[mask])) < 1e-6


def test_mixed_precisions_are_compared_in_the_wider():
    a, b, _ = tied(2)
    b = b + 1e-4 * np.arange(SIZE)  # apart in float32, but many are tied in bfloat16
    a, b = jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.float32)
    assert abs(metrics.spearman(a, b) - value_of(scipy.stats.spearmanr, a, b)) < 1e-6


def test_float32_is_exact_for_the_maps_of_a_whole_image():
    random = np.random.default_rng(0)
    shape = (224, 224, 3)
    a, noise = random.standard_normal((2, *shape)).astype(np.float32)
    off = random.random(shape) < 0.8
    a, b = np.where(off, 0, a), np.where(off, 0, a + noise)
    for absolute in (False, True):
        sized = [np.abs(v).ravel() if absolute else v.ravel() for v in (a, b)]
        expected = value_of(scipy.stats.spearmanr, *sized)
        assert abs(metrics.spearman(a, b, absolute=absolute) - expected) < 1e-6
    expected = value_of(scipy.stats.pearsonr, a.ravel() + 1000, b.ravel())
    assert abs(metrics.pearson(a + 1000, b) - expected) < 1e-5


def test_ranks_in_float32_are_those_of_whole_numbers():
    """2¹⁸ elements: Σ (rank differences)² of distinct ranks, in Python's whole numbers."""
    n = 2**18
    a = np.arange(n)
    order = np.argsort(np.argsort(a + np.random.default_rng(0).normal(0, 0.3 * n, n)))
    expected = 1 - 6 * int(np.sum((order - a) ** 2)) / (n * (n * n - 1))
    assert 0.5 < expected < 0.8
    assert abs(metrics.spearman(np.float32(a), np.float32(order)) - expected) < 5e-7


def test_common_zeros_alone_make_the_correlation_high():
    batched = jax.jit(jax.vmap(metrics.spearman))
    for zeros, printed in COMMON_ZEROS.items():
        exact = expected_with_common_zeros(zeros)
        assert abs(exact - printed) < 5.1e-5
        if zeros % 168 and zeros != 783:
            continue
        draws = np.asarray(batched(*zeros_and_others(100, zeros, seed=zeros)), np.float64)
        error = draws.std(ddof=1) / np.sqrt(draws.size)
        assert abs(draws.mean() - exact) < 4 * error + 1e-7
        if zeros >= 336:
            assert abs(draws.mean() - exact) < 3e-3
        if zeros < 780:  # ρ_nz of m unrelated elements has variance 1 / (m − 1)
            spread = (1 - exact) / np.sqrt(SIZE - zeros - 1)
            assert abs(draws.std() / spread - 1) < 0.25
    assert np.isnan(batched(*zeros_and_others(100, SIZE))).all()


@pytest.mark.usefixtures("x64")
def test_common_zeros_by_the_correlation_of_the_others():
    """ρ_abs = (B + W ρ_nz) / (B + W) with B, W the variances of ranks between and within."""
    for zeros in (56, 392, 700):
        a, b = (value[0] for value in zeros_and_others(1, zeros, seed=zeros))
        b = np.where(b > 0, b + 0.3 * a, 0)
        signs = np.random.default_rng(1).choice([-1.0, 1.0], (2, SIZE))
        x = np.where(np.arange(SIZE) < zeros, 0, 7)  # an image of whole numbers
        rho_nz = metrics.spearman_nonzero(a * signs[0], b * signs[1], x)
        assert abs(rho_nz - value_of(scipy.stats.spearmanr, a[zeros:], b[zeros:])) < 1e-12
        rho_abs = metrics.spearman(a * signs[0], b * signs[1], absolute=True)
        assert abs(rho_abs - expected_with_common_zeros(zeros, rho_nz)) < 1e-12
        p = zeros / SIZE
        rough = (3 * p + (1 - p) ** 2 * rho_nz) / (3 * p + (1 - p) ** 2)
        assert abs(rho_abs - rough) < 1e-4


@pytest.mark.usefixtures("x64")
def test_spearman_nonzero_leaves_out_what_is_at_the_baseline():
    a, b, mask = tied(3)
    baseline = np.random.default_rng(0).random(SIZE).astype(np.float32)
    x = np.where(mask, baseline + 1, baseline)
    expected = value_of(scipy.stats.spearmanr, abs(a[mask]), abs(b[mask]))
    ours = metrics.spearman_nonzero(np.float32(a), np.float32(b), x, baseline)
    assert abs(float(ours) - expected) < 1e-6
    wide = np.asarray(baseline, np.float64) + 1e-12  # the same numbers once x's dtype is taken
    assert metrics.spearman_nonzero(np.float32(a), np.float32(b), x, wide) == ours
    assert np.isnan(metrics.spearman_nonzero(np.float32(a), np.float32(b), baseline, baseline))


@pytest.mark.parametrize("metric", PAIRED)
def test_jit_and_vmap_equal_single_calls(metric):
    maps = [tied(seed, 60) for seed in range(6)]
    a, b, mask = (np.stack(values) for values in zip(*maps, strict=True))
    a, b = np.float32(a), np.float32(b)
    batched = jax.jit(jax.vmap(lambda a, b, mask: metric(a, b, where=mask)))(a, b, mask)
    single = [metric(a[i], b[i], where=mask[i]) for i in range(6)]
    np.testing.assert_allclose(batched, single, rtol=0, atol=2e-7)
    assert np.ptp(batched) > 0.01
    folded = (value[0].reshape(5, 4, 3) for value in (a, b, mask))
    assert metric(next(folded), next(folded), where=next(folded)) == single[0]


@given(SEEDS, st.sampled_from(sorted(CORRELATIONS)))
def test_symmetric_and_independent_of_the_order_of_elements(seed, name):
    metric = CORRELATIONS[name][0]
    a, b, mask = tied(seed, 60)
    a, b = np.float32(a), np.float32(b)
    order = np.random.default_rng(seed).permutation(60)
    rho = metric(a, b, where=mask)
    assert abs(rho - metric(b, a, where=mask)) < 5e-7
    assert abs(rho - metric(a[order], b[order], where=mask[order])) < 5e-7
    assert abs(rho + metric(a, -b, where=mask)) < 5e-7
    assert abs(rho) <= 1
    assert metric(a, a) == 1
    # Pearson's scaling rounds −a by itself; ranks are whole numbers.
    assert metric(a, -a) == pytest.approx(-1, abs=5e-7 if name == "pearson" else 0)


@given(SEEDS, st.sampled_from(["spearman", "kendall"]))
def test_monotone_transformations_leave_rank_correlations_exactly(seed, name):
    metric = CORRELATIONS[name][0]
    a, b, mask = tied(seed, 60)
    a, b = np.float32(a), np.float32(b)
    moved = np.float32(np.exp(a) + 1000 * (a > 2))
    assert metric(moved, b, where=mask) == metric(a, b, where=mask)
    garbage = np.where(mask, a, np.random.default_rng(seed).choice([np.inf, np.nan], 60))
    assert metric(garbage.astype(np.float32), b, where=mask) == metric(a, b, where=mask)


@given(SEEDS, st.sampled_from([1e-30, 1e-3, 1e30]), st.sampled_from([0.0, -3.0, 100.0]))
def test_pearson_does_not_depend_on_scale_and_shift(seed, scale, shift):
    a, b, mask = tied(seed, 60)
    expected = value_of(scipy.stats.pearsonr, a[mask], b[mask])
    moved = np.float32(scale * (a + shift))
    assert abs(metrics.pearson(moved, np.float32(b), where=mask) - expected) < 2e-5


def test_infinities_have_ranks():
    a = np.array([np.inf, 1, -np.inf, np.inf, 2, 0], np.float32)
    b = np.arange(6, dtype=np.float32)
    for name in ("spearman", "kendall"):
        ours, scipys = CORRELATIONS[name]
        assert abs(ours(a, b) - value_of(scipys, a, b)) < 1e-6
        mask = b < 5
        assert abs(ours(a, b, where=mask) - value_of(scipys, a[mask], b[mask])) < 1e-6


def test_zeros_of_both_signs_tie():
    a, b = np.float32([-0.0, 0.0, 1.0, -0.0, 0.0, 2.0]), np.float32([1, 2, 3, 4, 5, 6])
    for name in ("spearman", "kendall"):
        ours, scipys = CORRELATIONS[name]
        assert abs(ours(a, b) - value_of(scipys, a + 0.0, b)) < 1e-6
        assert abs(ours(a, b) - ours(abs(a), b)) == 0
    assert metrics.sign_agreement(a, abs(a)) == 1
    assert metrics.top_k_intersection(a, abs(a), 3, absolute=False) == 1


@pytest.mark.parametrize("name", CORRELATIONS)
def test_nan_exactly_where_undefined(name):
    metric = CORRELATIONS[name][0]
    b = np.arange(6, dtype=np.float32)
    constant, but_one, with_nan = (np.full(6, 0.1, np.float32) for _ in range(3))
    but_one[0], with_nan[2:] = 5, [np.nan, 1, 2, 3]
    undefined = [(constant, None), (b, b > 9), (b, b == 1), (with_nan, None), (but_one, b > 0)]
    for a, mask in undefined:
        assert np.isnan(metric(a, b, where=mask))
        assert np.isnan(metric(b, a, where=mask))
    assert metric(but_one, b) < -0.5
    assert metric(with_nan, b, where=b > 2) == 1
    assert metric(b, -b, where=b > 3) == -1  # 2 elements are enough
    assert np.isnan(metric(b[:0], b[:0]))


def test_sign_agreement():
    a, b, mask = tied(4)
    expected = np.mean(np.sign(a) == np.sign(b))
    assert 0.2 < expected < 0.9
    assert abs(metrics.sign_agreement(a, b) - expected) < 1e-7
    expected = np.mean(np.sign(a[mask]) == np.sign(b[mask]))
    assert abs(metrics.sign_agreement(a, b, where=mask) - expected) < 1e-7
    half = metrics.sign_agreement(*(jnp.asarray(v, jnp.bfloat16) for v in (a, b)), where=mask)
    assert half.dtype == jnp.float32
    assert abs(half - expected) < 1e-7
    assert np.isnan(metrics.sign_agreement(a, b, where=np.zeros(SIZE, bool)))
    assert np.isnan(metrics.sign_agreement(np.where(mask, np.nan, a), b))


@given(SEEDS, st.sampled_from([1, 7, 60]), st.booleans())
def test_top_k_intersection_counts_common_features(seed, k, absolute):
    a, b, _ = tied(seed, 60)

    def first(values):
        keys = np.abs(values) if absolute else values
        return {int(i) for i in np.argsort(-keys, kind="stable")[:k]}

    share = metrics.top_k_intersection(np.float32(a), np.float32(b), k, absolute=absolute)
    assert abs(share - len(first(a) & first(b)) / k) < 1e-7


def test_top_k_intersection_under_transformations():
    a, b = (np.float32(np.stack([tied(seed, 60)[i] for seed in range(4)])) for i in (0, 1))
    metric = lambda a, b: metrics.top_k_intersection(a, b, 7)
    batched = jax.jit(jax.vmap(metric))(a, b)
    assert batched.tolist() == [metric(*pair).tolist() for pair in zip(a, b, strict=True)]
    assert metric(a[0].reshape(6, 10), b[0].reshape(6, 10)) == batched[0]
    half = metric(jnp.asarray(a[0], jnp.bfloat16), jnp.asarray(b[0], jnp.bfloat16))
    assert half.dtype == jnp.float32
    assert jnp.isnan(metric(jnp.asarray(a[0]).at[5].set(jnp.nan), b[0]))


@pytest.mark.usefixtures("x64")
def test_center_of_mass_by_hand_and_its_gradient():
    a = np.random.default_rng(0).standard_normal((4, 6, 3))
    mass = np.abs(a).sum(2)
    expected = [
        sum(mass[i, j] * (i, j)[axis] for i in range(4) for j in range(6)) / mass.sum()
        for axis in (0, 1)
    ]
    np.testing.assert_allclose(metrics.center_of_mass(a), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.center_of_mass(mass), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.center_of_mass(mass.T), expected[::-1], rtol=1e-12)
    jacobian = jax.jit(jax.jacrev(metrics.center_of_mass))(a)
    for i, j, c in [(0, 0, 0), (3, 5, 1)]:
        by_hand = np.sign(a[i, j, c]) * (np.array([i, j]) - expected) / mass.sum()
        np.testing.assert_allclose(jacobian[:, i, j, c], by_hand, rtol=1e-10)


def test_center_of_mass_in_less_precision_and_in_a_batch():
    maps = np.zeros((3, 224, 200), np.float32)
    maps[0, 10:21, 40:43] = -1
    maps[1] = 1e36  # their sum would overflow
    means = [[15, 41], [111.5, 99.5]]
    batched = jax.vmap(metrics.center_of_mass)(maps)
    np.testing.assert_allclose(batched[:2], means, rtol=1e-6)
    assert jnp.isnan(batched[2]).all()
    half = metrics.center_of_mass(jnp.asarray(maps[0], jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, means[0], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_pearson_has_its_gradient():
    a, b, mask = tied(5, 60)
    u, v = a[mask] - a[mask].mean(), b[mask] - b[mask].mean()
    r = value_of(scipy.stats.pearsonr, u, v)
    by_hand = np.zeros(60)
    by_hand[mask] = (v / np.linalg.norm(v) - r * u / np.linalg.norm(u)) / np.linalg.norm(u)
    masked_out = np.where(mask, a, np.nan)
    differentiate = jax.jit(jax.grad(lambda a: metrics.pearson(a, b, where=mask)))
    for point in (a, masked_out):
        gradient = differentiate(point)
        np.testing.assert_allclose(gradient, by_hand, rtol=0, atol=1e-12)


def test_ranks_have_gradient_zero():
    a, b, mask = tied(5, 60)
    a, b = np.float32(a), np.float32(b)

    def loss(a):
        counts = sum(metric(a, b, where=mask) for metric in PAIRED if metric != metrics.pearson)
        return counts + metrics.top_k_intersection(a, b, 3) + jnp.sum(a)

    np.testing.assert_array_equal(jax.jit(jax.grad(loss))(a), np.ones(60))


X = jnp.arange(3.0)
BATCH = "`b` has shape (4,), but `a` has shape (3,): pass the maps of one example; for a batch"
BAD_INPUT = {
    "shapes": (lambda: metrics.spearman(X, jnp.ones(4)), ValueError, BATCH),
    "shapes of k": (lambda: metrics.top_k_intersection(X, jnp.ones(4), 1), ValueError, BATCH),
    "tree": (lambda: metrics.kendall({"x": X}, {"x": X}), TypeError, "`a` must be one array"),
    "list": (lambda: metrics.pearson(X, [X]), TypeError, "`b` must be one array, but is a list"),
    "whole": (lambda: metrics.sign_agreement(X, np.arange(3)), TypeError, "`b` must be floating"),
    "mask": (lambda: metrics.pearson(X, X, where=X), TypeError, "boolean mask, but is float32"),
    "mask of text": (lambda: metrics.pearson(X, X, where="all"), TypeError, "`where` must be"),
    "shape of mask": (
        lambda: metrics.spearman(X, X, where=jnp.ones(4, bool)),
        ValueError,
        "`where` has shape (4,), but `a` has shape (3,): pass one flag for every element",
    ),
    "k = 0": (lambda: metrics.top_k_intersection(X, X, 0), ValueError, "`k` must be a whole"),
    "k = 4": (lambda: metrics.top_k_intersection(X, X, 4), ValueError, "`k` is 4, but the maps"),
    "traced k": (lambda: jax.jit(metrics.top_k_intersection)(X, X, 2), ValueError, "static_argn"),
    "x of pixels": (
        lambda: metrics.spearman_nonzero(X, X, jnp.ones((3, 3))),
        ValueError,
        "`x` has shape (3, 3), but `a` has shape (3,): for maps summed over channels",
    ),
    "baseline": (
        lambda: metrics.spearman_nonzero(X, X, X, np.float32(0)),
        ValueError,
        "`baseline` has shape (), but `x` has shape (3,): for a constant pass jnp.full_like",
    ),
    "x of text": (lambda: metrics.spearman_nonzero(X, X, "cat"), TypeError, "`x` must be"),
    "vector": (lambda: metrics.center_of_mass(X), ValueError, "shape (height, width) or"),
    "batch": (lambda: metrics.center_of_mass(jnp.ones((2, 3, 3, 1))), ValueError, "use jax.vmap"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input(case):
    call, error, message = BAD_INPUT[case]
    with pytest.raises(error) as caught:
        call()
    assert message in str(caught.value)


def test_all_is_what_is_public():
    defined = {
        name for name, value in vars(metrics).items()
        if getattr(value, "__module__", "") == "xattr.metrics" and name[0] != "_"
    }  # fmt: skip
    assert defined == set(metrics.__all__)
