"""Answers known from the papers and from closed forms, in float64 to 1e-9."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from tests import networks
from xattr import paths, quadrature

pytestmark = pytest.mark.usefixtures("x64")
GAUSS = quadrature.gauss_legendre(32)
MIDPOINTS = quadrature.midpoint(1200)


def product(x):
    return x[0] * x[1]


def exactly(actual, expected, tolerance=1e-9):
    assert actual.dtype == jnp.float64
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


def along(path, f, rule=GAUSS):
    return xattr.path_integral(f, path, quadrature=rule)


# --- the papers' toy networks --------------------------------------------------------------------


def test_gradient_misses_a_saturated_input_and_ig_does_not():
    x = jnp.array(2.0)
    exactly(networks.saturated(x), 1)
    exactly(xattr.gradient(networks.saturated, x), 0)
    exactly(xattr.gradient_x_input(networks.saturated, x), 0)
    # Nodes at odd multiples of 1/2400: the kink at α = ½ lies between two of them.
    exactly(xattr.integrated_gradients(networks.saturated, x, quadrature=MIDPOINTS), 1)


@pytest.mark.parametrize("network", [networks.figure_14a, networks.figure_14b])
def test_figure_14(network):
    x = jnp.ones(2)
    exactly(network(x), 0.5)
    exactly(xattr.gradient(network, x), [0.5, 0.5])
    exactly(xattr.integrated_gradients(network, x, quadrature=MIDPOINTS), [0.25, 0.25])


@pytest.mark.parametrize("network", [networks.figure_7f, networks.figure_7g])
def test_figure_7(network):
    x = jnp.array([3.0, 1.0])
    exactly(network(x), 1)
    exactly(xattr.gradient(network, x), [1, -1])
    exactly(xattr.integrated_gradients(network, x, quadrature=MIDPOINTS), [1.5, -0.5])


@pytest.mark.parametrize(("second", "value"), [(0, 2), (0.5, 1.5), (1, 1), (1.5, 0.5), (2, 0)])
def test_gated_network_from_the_slides(second, value):
    x, baseline = jnp.array([3.0, second]), jnp.array([3.0, 0.0])
    exactly(networks.gated(x), value)
    ig = xattr.integrated_gradients(networks.gated, x, baseline, quadrature=MIDPOINTS)
    exactly(ig, [0, -second])
    if 0 < second < 2:
        exactly(xattr.gradient(networks.gated, x), [1, -1])


def test_relu_has_no_slope_at_zero():
    exactly(xattr.gradient(jax.nn.relu, jnp.array(0.0)), 0)


# --- paths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 2), (1, 3), (3, 2), (0.5, 2)])
def test_product_along_powers(p, q):
    exponents = jnp.array([p, q], float)
    # For p = ½ the integrand α^(p+q−1) is no polynomial: α = t² makes it one.
    path = paths.reparametrize(
        paths.monotone(baseline=jnp.zeros(2), x=jnp.ones(2), exponents=exponents), jnp.square
    )
    exactly(along(path, product), [p / (p + q), q / (p + q)])


def test_powers_without_reparametrization():
    path = paths.monotone(baseline=jnp.zeros(2), x=jnp.ones(2), exponents=jnp.array([1.0, 2.0]))
    exactly(along(path, product), [1 / 3, 2 / 3])


def test_straight_product():
    exactly(xattr.integrated_gradients(product, jnp.array([1.0, 2.0]), quadrature=GAUSS), [1, 1])


@pytest.mark.parametrize(("order", "expected"), [([0, 1], [0, 2]), ([1, 0], [2, 0])])
def test_product_along_corners(order, expected):
    """The feature that moves first gets nothing: the other is still zero."""
    rule = quadrature.composite(quadrature.gauss_legendre(4), 2)
    x = jnp.array([1.0, 2.0])
    exactly(
        along(paths.coordinatewise(baseline=jnp.zeros(2), x=x, order=order), product, rule),
        expected,
    )
    corner = jnp.zeros(2).at[order[0]].set(x[order[0]])
    polyline = paths.polyline(jnp.stack([jnp.zeros(2), corner, x]))
    exactly(along(polyline, product, rule), expected)


def test_minimum():
    """min(x₁, x₂) at (1, 3): IG (1, 0), corner paths (0, 1) and (1, 0), Shapley (½, ½)."""
    f, x = lambda x: jnp.minimum(x[0], x[1]), jnp.array([1.0, 3.0])
    exactly(xattr.integrated_gradients(f, x, quadrature=GAUSS), [1, 0])
    rule = quadrature.composite(quadrature.midpoint(30), 2)  # kinks between the nodes
    first, second = (
        along(paths.coordinatewise(baseline=jnp.zeros(2), x=x, order=order), f, rule)
        for order in ([0, 1], [1, 0])
    )
    exactly(first, [0, 1])
    exactly(second, [1, 0])
    exactly((first + second) / 2, [0.5, 0.5])


def test_square_of_the_second():
    """x₁ x₂² at (1, 1): IG (1/3, 2/3), the mean over both orders (½, ½)."""
    f, x = lambda x: x[0] * x[1] ** 2, jnp.ones(2)
    exactly(xattr.aumann_shapley(f, x, quadrature=GAUSS), [1 / 3, 2 / 3])
    rule = quadrature.composite(quadrature.gauss_legendre(4), 2)
    orders = [
        along(paths.coordinatewise(baseline=jnp.zeros(2), x=x, order=o), f, rule)
        for o in ([0, 1], [1, 0])
    ]
    exactly(sum(orders) / 2, [0.5, 0.5])


def test_symmetric_function_off_the_straight_line():
    """Theorem 1's witness: on a path on which one feature runs ahead, the other gets more."""
    a, b = 0.25, 0.75
    f = lambda x: (jnp.clip(x[0], a, b) - a) * (jnp.clip(x[1], a, b) - a)
    ahead = lambda s: jnp.stack([a + (b - a) * jnp.sqrt(s), a + (b - a) * s**2])
    corners = jnp.array([[0.0, 0.0], [a, a], [b, b], [1.0, 1.0]])
    start, end = (paths.polyline(corners[i : i + 2]) for i in (0, 2))
    bent = paths.concatenate([start, paths.reparametrize(ahead, jnp.square), end])
    rule = quadrature.composite(quadrature.gauss_legendre(8), 3)
    exactly(along(bent, f, rule), [0.05, 0.20])
    whole = quadrature.composite(quadrature.gauss_legendre(8), 4)  # kinks at ¼ and ¾
    exactly(xattr.aumann_shapley(f, jnp.ones(2), quadrature=whole), [0.125, 0.125])


def test_another_path_that_preserves_symmetry():
    """Exponents 1 + |xᵢ − x'ᵢ| treat equal features equally, yet give (.8, 1.2), not (1, 1)."""
    x = jnp.array([1.0, 2.0])
    path = paths.monotone(baseline=jnp.zeros(2), x=x, exponents=1 + jnp.abs(x))
    exactly(along(path, product), [0.8, 1.2])
    equal = paths.monotone(baseline=jnp.zeros(2), x=jnp.ones(2), exponents=1 + jnp.abs(jnp.ones(2)))
    exactly(along(equal, product), [0.5, 0.5])


@pytest.mark.parametrize("warp", [lambda t: t**3, lambda t: t * (2 - t)])
def test_pace_changes_nothing(warp):
    path = paths.monotone(
        baseline=jnp.zeros(2), x=jnp.array([1.0, 2.0]), exponents=jnp.array([1.0, 3.0])
    )
    exactly(along(paths.reparametrize(path, warp), product), along(path, product))


def test_reverse_changes_the_sign_and_there_and_back_is_nothing():
    path = paths.monotone(baseline=jnp.zeros(2), x=jnp.ones(2), exponents=jnp.array([1.0, 3.0]))
    exactly(along(paths.reverse(path), product), [-0.25, -0.75])
    rule = quadrature.composite(GAUSS, 2)
    exactly(along(paths.concatenate([path, paths.reverse(path)]), product, rule), [0, 0])


# --- expected gradients, interior gradients, noise -----------------------------------------------


def test_expected_gradients_is_the_mean_of_ig_over_baselines():
    """x₁x₂ at (1, 2), baselines (0, 0) and (1, 0): (.5, 1.5), to the error of its stratification.

    With k nodes for each baseline, one anywhere in each k-th of [0, 1], Σ ∫ |g'| / k bounds the
    error: here g' is 2 for the first baseline's first feature.
    """
    baselines = jnp.array([[0.0, 0.0], [1.0, 0.0]])
    x = jnp.array([1.0, 2.0])
    for rounds in (8, 512):
        result = xattr.expected_gradients(
            product, x, baselines, jax.random.key(0), num_samples=2 * rounds
        )
        exactly(result, [0.5, 1.5], 2 / rounds)
    run = lambda key: xattr.expected_gradients(product, x, baselines, key, num_samples=64)
    means = jax.vmap(run)(jax.random.split(jax.random.key(1), 400))
    error = means.std(0) / 20
    assert (jnp.abs(means.mean(0) - jnp.array([0.5, 1.5])) < 4 * error + 1e-12).all()
    assert (error < 1e-3).all()


def test_expected_gradients_of_a_linear_function_is_exact():
    """It is w ⊙ (x − E x'): the gradient is w everywhere, and the path drops out."""
    w, x = jnp.array([2.0, -1.0, 3.0]), jnp.array([1.0, 0.5, -2.0])
    baselines = jax.random.normal(jax.random.key(0), (5, 3))
    result = xattr.expected_gradients(
        lambda x: w @ x, x, baselines, jax.random.key(1), num_samples=15
    )
    exactly(result, w * (x - baselines.mean(0)))


def test_interior_gradients_of_a_cube():
    x = jnp.array([1.0, 2.0])
    alphas = jnp.array([0.02, 0.5, 1.0])
    result = xattr.interior_gradients(lambda x: jnp.sum(x**3), x, x / 2, alphas=alphas)
    at = (x / 2)[None] + alphas[:, None] * (x / 2)[None]
    exactly(result, 3 * at**2)
    exactly(result[-1], xattr.gradient(lambda x: jnp.sum(x**3), x))


def test_noise_on_a_linear_function_is_exact():
    w, x = jax.random.normal(jax.random.key(0), (7,)), jax.random.normal(jax.random.key(1), (7,))
    f, key = lambda x: w @ x, jax.random.key(2)
    assert (xattr.smooth_grad(f, x, key) == w).all()
    assert (xattr.var_grad(f, x, key) == 0).all()
    exactly(xattr.smooth_grad_squared(f, x, key), w**2, 1e-15)


def test_noise_on_a_quadratic_has_known_moments():
    """∇ = x + g: mean x, variance σ², mean square x² + σ², σ = .15 (max − min)."""
    x = jnp.array([1.0, 3.0, -1.0])
    f, key = lambda x: jnp.sum(x**2) / 2, jax.random.key(2)
    sigma, n = 0.15 * 4, 40_000
    options = {"num_samples": n, "chunk_size": 4000}
    error = 5 / n**0.5
    exactly(xattr.smooth_grad(f, x, key, **options), x, sigma * error)
    exactly(xattr.var_grad(f, x, key, **options), [sigma**2] * 3, 2 * sigma**2 * error)
    squared = xattr.smooth_grad_squared(f, x, key, **options)
    exactly(squared, x**2 + sigma**2, 8 * sigma * error)
    smooth, var = xattr.smooth_grad(f, x, key), xattr.var_grad(f, x, key)
    exactly(xattr.smooth_grad_squared(f, x, key), smooth**2 + var)


def test_noise_scale_is_a_share_of_the_range_over_all_leaves():
    x = {"a": jnp.array([0.0, 10.0]), "b": jnp.array(-10.0)}
    f = lambda x: jnp.sum(x["a"] ** 2) / 2 + x["b"] ** 2 / 2
    options = {"num_samples": 20_000, "chunk_size": 4000}
    var = xattr.var_grad(f, x, jax.random.key(0), noise_scale=0.1, **options)
    exactly(var["b"], 4.0, 0.2)
    exactly(var["a"], [4.0, 4.0], 0.2)


def test_smooth_integrated_gradients_is_the_mean_of_integrated_gradients():
    """For f = Σ x²/2, IG from zero is x²/2: E (x + g)²/2 = (x² + σ²)/2."""
    x, f = jnp.array([1.0, 2.0, -1.0]), lambda x: jnp.sum(x**2) / 2
    method = lambda f, x, *, args: xattr.integrated_gradients(
        f, x, quadrature=quadrature.gauss_legendre(2), args=args
    )
    n, sigma = 20_000, 0.45
    result = xattr.smooth_grad(
        f, x, jax.random.key(0), method=method, num_samples=n, chunk_size=4000
    )
    exactly(result, (x**2 + sigma**2) / 2, 5 * 2 * sigma / n**0.5)


@pytest.mark.parametrize("chunk_size", [1, 2, None])
def test_moments_of_few_samples_are_those_of_their_maps(chunk_size):
    """Map k is k times the mean of the first k less k − 1 times that of the first k − 1."""
    x, f, key = jnp.array([1.0, 3.0, -1.0]), lambda x: jnp.sum(x**2) / 2, jax.random.key(3)
    sums = [n * xattr.smooth_grad(f, x, key, num_samples=n) for n in range(1, 6)]
    maps = np.diff([np.zeros(3), *sums], axis=0)
    assert maps.std(0).min() > 0.1
    options = {"num_samples": 5, "chunk_size": chunk_size}
    exactly(xattr.var_grad(f, x, key, **options), maps.var(0))
    exactly(xattr.smooth_grad_squared(f, x, key, **options), (maps**2).mean(0))


def test_leaves_have_noise_of_their_own():
    x = {"a": jnp.arange(3.0), "b": jnp.arange(3.0)}
    f = lambda x: jnp.sum(x["a"] ** 2 + x["b"] ** 2) / 2  # whose gradient is the noisy x
    noisy = xattr.smooth_grad(f, x, jax.random.key(0), num_samples=1)
    assert (noisy["a"] != noisy["b"]).all()


def test_expected_gradients_draws_alpha_from_all_of_its_part():
    """∂f = cos 2πnα: the middles of the n parts give −1, their ends 1, the mean over them 0."""
    n, x = 8, jnp.array([1.0])
    f = lambda x: jnp.sum(jnp.sin(2 * jnp.pi * n * x)) / (2 * jnp.pi * n)
    run = lambda key: xattr.expected_gradients(f, x, jnp.zeros((1, 1)), key, num_samples=n)
    means = jax.vmap(run)(jax.random.split(jax.random.key(0), 400))[:, 0]
    assert abs(means.mean()) < 4 * means.std() / 20
    assert abs(means.std() * (2 * n) ** 0.5 - 1) < 0.2  # of n independent α: cos² has mean ½


# --- scores -------------------------------------------------------------------------------------


def test_scores_of_a_class():
    scores = jnp.array([1.0, 2.0, 4.0])
    p = np.exp(scores) / np.exp(scores).sum()
    targets = xattr.targets
    exactly(targets.logit(lambda x: x)(scores, 1), 2)
    exactly(targets.probability(lambda x: x)(scores, 1), p[1])
    exactly(targets.log_probability(lambda x: x)(scores, 1), np.log(p[1]))
    exactly(targets.log_odds(lambda x: x)(scores, 1), np.log(p[1] / (1 - p[1])))
    exactly(targets.log_odds(lambda x: x)(jnp.array([0.0, 60.0]), 1), 60)  # p = 1 in float64


def test_model_arguments_follow_the_label():
    f = xattr.targets.logit(lambda x, scale, shift: scale * x + shift)
    x = jnp.array([1.0, 2.0])
    exactly(f(x, 1, 3.0, jnp.array([0.0, 5.0])), 11)
    exactly(xattr.gradient(f, x, args=(1, 3.0, jnp.array([0.0, 5.0]))), [0, 3])


def test_gap_is_the_sum_that_is_missing():
    f, x, baseline = product, jnp.array([2.0, 3.0]), jnp.array([1.0, 1.0])
    exactly(xattr.completeness_gap(f, jnp.array([1.0, 0.0]), x, baseline), 1 - (6 - 1))
    ig = xattr.integrated_gradients(f, x, baseline, quadrature=GAUSS)
    exactly(xattr.completeness_gap(f, ig, x, baseline), 0)
    exactly(xattr.completeness_gap(f, ig, x), 5 - 6)


@pytest.mark.parametrize("label", [3, -1, np.int64(2**32), np.uint64(2**63 + 1)])
def test_a_label_that_is_no_class_is_never_another_class(label):
    x = jnp.arange(3.0)
    for target in (
        xattr.targets.logit,
        xattr.targets.probability,
        xattr.targets.log_probability,
        xattr.targets.log_odds,
    ):
        value, slope = jax.value_and_grad(target(lambda x: x * 2))(x, label)
        assert jnp.isnan(value)
        assert jnp.isnan(slope).any()
    assert jnp.isnan(slope).all()  # of the log-odds
    assert jnp.isnan(xattr.competitive_gradient_x_input(lambda x: x * 2, x, label)).all()


def test_a_traced_label_of_64_bits_is_never_another_class(x64):
    f = jax.jit(xattr.targets.logit(lambda x: x))
    for label, expected in ((2, 2.0), (2**32 + 2, np.nan), (-1, np.nan)):
        np.testing.assert_equal(float(f(jnp.arange(3.0), jnp.asarray(label))), expected)
