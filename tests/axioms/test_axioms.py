"""The axioms measure what they say: gaps worked out by hand."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.nn import relu

import xattr
from tests import table
from xattr import axioms, composites, paths, quadrature, rules, testing
from xattr.testing import functions

pytestmark = pytest.mark.usefixtures("x64")
IG = xattr.integrated_gradients
LRP = functools.partial(xattr.lrp, composite=composites.every_layer(rules.zero()))
SEEDS = st.integers(0, 2**31)


def product(x):
    return x[0] * x[1]


def shows_input(f, x, *, args):
    """A method that looks at no network."""
    return x


def along(path, rule=None):
    """The path integral as a method with a baseline."""

    def method(f, x, baseline, *, args, quadrature=rule):
        return xattr.path_integral(f, path(baseline, x), quadrature=quadrature, args=args)

    return method


def measures(gap, value, tolerance=1e-9):
    np.testing.assert_allclose(float(gap), value, rtol=0, atol=tolerance)
    assert bool(gap.holds) == (abs(value) < tolerance)
    assert float(gap.tolerance) >= 0


# --- each axiom on examples worked out by hand ---------------------------------------------------


def test_completeness():
    x, baseline = jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])
    measures(axioms.completeness(IG, product, x), 0)
    measures(axioms.completeness(IG, product, x, baseline), 0)
    # (2, 1) sums to 3; f rises by 2, and from the baseline by 3.
    measures(axioms.completeness(xattr.gradient, product, x), 1)
    measures(axioms.completeness(xattr.gradient, product, x, baseline), 0)
    measures(axioms.completeness(xattr.gradient_x_input, product, x, baseline), 4 - 3)
    fixed = functools.partial(IG, baseline=baseline)  # its own baseline, not the one asked about
    measures(axioms.completeness(fixed, product, x), 3 - 2)


def test_sensitivity_a_of_the_saturated_function():
    x = jnp.array([2.0])
    f = functions.saturated
    for silent in (xattr.gradient, xattr.gradient_x_input, xattr.guided_backprop, LRP):
        measures(axioms.sensitivity_a(silent, f, x, feature=0), 1)
    for heard in (IG, xattr.deep_lift):
        measures(axioms.sensitivity_a(heard, f, x, feature=0), 0)
    # No change, no claim: where f is 1 at both ends nothing is owed.
    measures(axioms.sensitivity_a(xattr.gradient, f, x, jnp.array([3.0]), feature=0), 0)


@pytest.mark.parametrize("second", [0.5, 1.0, 1.5])
def test_sensitivity_a_of_the_gated_function(second):
    """ReLU(x₁ − 1 − ReLU(x₂)) at (3, x₂): f falls by x₂ and the signal never says so."""
    x, baseline = jnp.array([3.0, second]), jnp.array([5.0, 0.0])  # x₁ stays: one feature differs
    for silent in (xattr.guided_backprop, xattr.deconvnet):
        measures(axioms.sensitivity_a(silent, functions.gated, x, baseline, feature=1), second)
        measures(axioms.sensitivity_a(silent, functions.gated, x, baseline, feature=0), 0)
    for heard in (xattr.gradient, IG, xattr.deep_lift):
        measures(axioms.sensitivity_a(heard, functions.gated, x, baseline, feature=1), 0)


def test_sensitivity_b_where_nothing_is_written_as_a_difference():
    """Figure 7's networks cancel, but DeepLIFT and LRP give (1.5, −.5) − (2, −1) for them."""
    f = lambda x: functions.figure_7f(x) - functions.figure_7g(x) + x[2]
    x = jnp.array([3.0, 1.0, 7.0])
    for feature in (0, 1):
        for broken in (xattr.deep_lift, LRP):
            measures(axioms.sensitivity_b(broken, f, x, feature=feature), 0.5)
        measures(axioms.dummy(IG, f, x, feature=feature), 0)
    measures(axioms.sensitivity_b(shows_input, f, x, feature=1), 1)


def test_implementation_invariance():
    """Figures 7 and 14: the published numbers of each method for both networks."""
    seven = (functions.figure_7f, functions.figure_7g, jnp.array([3.0, 1.0]))
    fourteen = (functions.figure_14a, functions.figure_14b, jnp.ones(2))
    gap = axioms.implementation_invariance
    for method in (IG, xattr.gradient, xattr.gradient_x_input):
        measures(gap(method, *seven), 0)
        measures(gap(method, *fourteen), 0)
    for method in (xattr.deep_lift, LRP):
        measures(gap(method, *seven), 0.5 + 0.5)
        measures(gap(method, *fourteen), 1 / 12 + 1 / 12)  # (1/6, 1/3) against (¼, ¼)
    for method in (xattr.guided_backprop, xattr.deconvnet):
        measures(gap(method, *seven), 0)  # (1, 0) for both
        measures(gap(method, *fourteen), 0.25 + 0.25)  # (1.25, .75) against (1, 1)


def test_linearity():
    f, g, x = product, lambda x: jnp.sum(x**2), jnp.array([1.0, 2.0])
    squared = lambda f, x, *, args: xattr.gradient(f, x, args=args) ** 2
    for method in (IG, xattr.gradient, xattr.deep_lift):
        measures(axioms.linearity(method, f, g, x, a=2.0, b=-0.5), 0)
    # (2, 1) and (2, 4): (2a + 2b)² − 4a − 4b and (a + 4b)² − a − 16b at a = 2, b = −1.
    measures(axioms.linearity(squared, f, g, x, a=2.0, b=-1.0), abs(4 - 8 + 4) + abs(4 - 2 + 16))
    measures(axioms.linearity(squared, f, g, x), abs(16 - 8) + abs(25 - 17))


CORNERS = np.array([[0.0, 0.0], [0.25, 0.25], [0.75, 0.75], [1.0, 1.0]])


def bent(baseline, x):
    """Theorem 1's path: between ¼ and ¾ the first feature runs ahead; α = s² keeps it smooth."""
    ahead = lambda s: jnp.stack([0.25 + jnp.sqrt(s) / 2, 0.25 + s**2 / 2])
    corners = jnp.asarray(CORNERS)
    start, end = (paths.polyline(corners[i : i + 2]) for i in (0, 2))
    return paths.concatenate([start, paths.reparametrize(ahead, jnp.square), end])


def endpoint_dependent(baseline, x):
    return paths.monotone(baseline=baseline, x=x, exponents=1 + jnp.abs(x - baseline))


def test_symmetry():
    clipped = testing.problem("clipped-product").f
    rule = quadrature.composite(quadrature.gauss_legendre(8), 12)
    x, ends = jnp.ones(2), {"i": 0, "j": 1}
    measures(axioms.symmetry(along(bent, rule), clipped, x, **ends), 0.20 - 0.05)
    measures(axioms.symmetry(functools.partial(IG, quadrature=rule), clipped, x, **ends), 0)
    powers = along(lambda b, x: paths.monotone(baseline=b, x=x, exponents=jnp.array([1.0, 2.0])))
    measures(axioms.symmetry(powers, product, x, **ends), 1 / 3)
    corner = along(lambda b, x: paths.coordinatewise(baseline=b, x=x, order=[0, 1]), rule)
    measures(axioms.symmetry(corner, product, x, **ends), 1)
    # A path that depends on its ends treats equal features equally, and is not straight.
    measures(axioms.symmetry(along(endpoint_dependent), product, 2 * x, **ends), 0)
    maps = along(endpoint_dependent)(product, jnp.array([1.0, 2.0]), jnp.zeros(2), args=())
    np.testing.assert_allclose(maps, [0.8, 1.2], rtol=0, atol=1e-9)
    # The premise is made to hold: feature j is set to feature i's value, at both ends.
    unequal = axioms.symmetry(shows_input, product, jnp.array([1.0, 5.0]), **ends)
    measures(unequal, 0)
    apart = axioms.symmetry(IG, product, jnp.array([1.0, 5.0]), jnp.array([0.5, 3.0]), **ends)
    measures(apart, 0)


def test_input_invariance():
    """Kindermans: x = (2, ½), w = (1, −1): gradient ⊙ input (2, −½), shifted by −1 (1, ½)."""
    f = lambda x, w: x @ w
    shifted = lambda x, m, w: x @ w - m @ w
    x, m, args = jnp.array([2.0, 0.5]), jnp.array([-1.0, -1.0]), (jnp.array([1.0, -1.0]),)
    gap = functools.partial(axioms.input_invariance, shift=m, args=args)
    measures(gap(xattr.gradient, f, shifted, x), 0)
    measures(gap(xattr.gradient_x_input, f, shifted, x), 2)
    measures(gap(IG, f, shifted, x), 2)  # the zero baseline stays where it is
    measures(gap(IG, f, shifted, x, jnp.ones(2), shifted_baseline=jnp.ones(2) + m), 0)
    # The z-rule with m = (−1, −.3): (1.875, −.375).
    other = axioms.input_invariance(LRP, f, shifted, x, shift=jnp.array([-1.0, -0.3]), args=args)
    measures(other, 0.125 + 0.125)


def test_affine_scale_invariance():
    x, baseline = jnp.array([1.0, 2.0]), jnp.array([3.0, -1.0])
    units = {"scale": jnp.array([2.0, -4.0]), "shift": jnp.array([1.0, 5.0])}
    measures(axioms.affine_scale_invariance(IG, product, x, baseline, **units), 0)
    # ∂f = (2, 1), in other units (2/2, 1/−4).
    gradients = axioms.affine_scale_invariance(xattr.gradient, product, x, **units)
    measures(gradients, 1 + 1.25)
    # x ⊙ ∂f = (2, 2); (2·1 + 1)·1 = 3 and (−8 + 5)·(−¼) = ¾.
    products = axioms.affine_scale_invariance(xattr.gradient_x_input, product, x, **units)
    measures(products, 1 + 1.25)
    powers = along(lambda b, x: paths.monotone(baseline=b, x=x, exponents=jnp.array([1.0, 3.0])))
    measures(axioms.affine_scale_invariance(powers, product, x, baseline, **units), 0)
    # Time runs differently for features that are farther from their baseline.
    uneven = axioms.affine_scale_invariance(along(endpoint_dependent), product, x, **units)
    assert float(uneven) > 0.1
    assert not uneven.holds


def test_zero_at_baseline():
    x = jnp.array([1.0, -2.0])
    measures(axioms.zero_at_baseline(IG, product, x), 0)
    measures(axioms.zero_at_baseline(xattr.deep_lift, product, x), 0)
    no_difference = lambda f, x, baseline, *, args: xattr.gradient(f, x, args=args)
    measures(axioms.zero_at_baseline(no_difference, product, x), 3)
    there_and_back = along(lambda b, x: paths.polyline(jnp.stack([b, b + 1, x])))
    measures(axioms.zero_at_baseline(there_and_back, product, x), 0)


def layered(x):
    with jax.named_scope("hidden"):
        h = relu(2 * x[0] + jnp.array([1.0, 4.0]))
    return 3 * h[0] - h[1]


def test_conservation():
    """3 ReLU(2x + 1) − ReLU(2x + 4) at x = 1: 9 − 6. With the biases in, 6 and −2 of it arrive."""
    x = jnp.array([1.0])
    included = functools.partial(LRP, bias="include")
    for layers in ((), ("hidden",)):
        measures(axioms.conservation(LRP, layered, x, layers=layers), 0)
        measures(axioms.conservation(included, layered, x, layers=layers), 6 - 2 - 3, 1e-8)
        # IG is complete for the rise from f(0) = 3 − 4.
        measures(axioms.conservation(IG, layered, x, layers=layers), 1)


def test_conservation_sees_what_is_lost_inside_and_found_again():
    """A method whose sums are right at the input and wrong at a hidden layer."""

    def method(f, h, *, args):
        return jnp.full_like(h, (6.0 if h.size == 2 else 3.0) / h.size)

    measures(axioms.conservation(method, layered, jnp.array([1.0])), 0)
    measures(axioms.conservation(method, layered, jnp.array([1.0]), layers=("hidden",)), 3)


def test_positivity():
    f, x = lambda x: relu(x[0] + x[1] - 1), jnp.array([2.0, 3.0])
    for method in (IG, xattr.gradient, xattr.deep_lift):
        measures(axioms.positivity(method, f, x), 0)
    signed = lambda f, x, *, args: jnp.array([-2.0, 5.0])
    measures(axioms.positivity(signed, f, x), 2)
    # Up along the first feature and back: 5 − 1 for it alone, and what the way back takes.
    detour = along(lambda b, x: paths.polyline(jnp.stack([b, jnp.array([2.0, 9.0]), x])))
    rule = quadrature.composite(quadrature.midpoint(4000), 2)
    gap = axioms.positivity(functools.partial(detour, quadrature=rule), product, x)
    # x₁x₂ to (2, 9): 9 and 9; back to (2, 3): −12 for the second, 9 − 12 < 0.
    measures(gap, 3, 1e-5)


def test_proportionality():
    f, x = lambda x: jnp.sum(x) ** 2, jnp.array([1.0, 3.0])
    for method in (IG, xattr.deep_lift):
        measures(axioms.proportionality(method, f, x), 0)
        measures(axioms.proportionality(method, f, x, jnp.array([2.0, -1.0])), 0)
    # (8, 8): a quarter and three quarters of 16 would be 4 and 12.
    measures(axioms.proportionality(xattr.gradient, f, x), 4 + 4)
    # s = α + 3α², A = ∫ 2s (1, 6α) dα = (1 + 2, 4 + 9), not 4 and 12.
    powers = along(lambda b, x: paths.monotone(baseline=b, x=x, exponents=jnp.array([1.0, 2.0])))
    measures(axioms.proportionality(powers, f, x), 1 + 1)
    measures(axioms.proportionality(IG, f, x, x), 0)  # nothing to share


def test_time_reparametrization():
    path = paths.monotone(baseline=jnp.zeros(2), x=jnp.ones(2), exponents=jnp.array([1.0, 2.0]))
    for warp in (lambda t: t**3, lambda t: t * (2 - t)):
        measures(axioms.time_reparametrization(xattr.path_integral, product, path, warp=warp), 0)

    def no_velocity(f, path, *, args):
        nodes, weights = quadrature.gauss_legendre(16)
        points = jax.vmap(path)(jnp.asarray(nodes))
        return jnp.asarray(weights) @ jax.vmap(jax.grad(f))(points)

    # ∫ (γ₂, γ₁) dα = (1/3, ½) for γ = (α, α²), and (1/5, 1/3) for (α², α⁴).
    gap = axioms.time_reparametrization(no_velocity, product, path, warp=jnp.square)
    measures(gap, (1 / 3 - 1 / 5) + (1 / 2 - 1 / 3))


# --- the tolerance -------------------------------------------------------------------------------


@given(SEEDS, st.sampled_from([4, 16, 64]))
def test_tolerance_covers_the_quadrature_of_a_kinked_function(seed, n):
    random = np.random.default_rng(seed)
    p = testing.problem(
        "dense-relu", seed=seed % 1000, x=random.normal(size=4), baseline=random.normal(size=4)
    )
    gap = p.gap("completeness", functools.partial(IG, quadrature=quadrature.gauss_legendre(n)))
    assert gap.holds
    # The estimate is one of the error, not of the size of everything.
    assert float(gap.tolerance) < 30 / n * (1 + float(jnp.abs(IG(p.f, p.x, args=p.args)).sum()))


@given(SEEDS)
def test_tolerance_does_not_cover_a_mistake(seed):
    """On a smooth function the rule converges: weights that are wrong by 1e-9 are seen."""
    p = testing.problem("dense-tanh", seed=seed % 1000, x=np.ones(4))
    rule = quadrature.gauss_legendre(24)
    wrong = lambda f, x, baseline, *, args, quadrature=rule: (
        IG(f, x, baseline, quadrature=quadrature, args=args) * (1 + 1e-9)
    )
    exact, broken = (
        p.gap("completeness", m) for m in (functools.partial(IG, quadrature=rule), wrong)
    )
    assert exact.holds
    change = abs(float(p.f(p.x, *p.args) - p.f(0 * p.x, *p.args)))
    assert broken.holds == (1e-9 * change < float(broken.tolerance))
    assert float(broken.tolerance) < 1e-10


def test_coarse_rule_has_a_tolerance_as_large_as_its_error():
    """∫₀¹ 4α³ dα by one midpoint: ½ for 1; on pieces a midpoint each."""
    one = functools.partial(IG, quadrature=quadrature.midpoint(1))
    gap = axioms.completeness(one, lambda x: x[0] ** 4, jnp.ones(1))
    np.testing.assert_allclose(float(gap), 0.5)
    three = [0.2828 / 2, (0.2828 + 0.6928) / 2, (0.6928 + 1) / 2]
    by_hand = np.dot([0.2828, 0.41, 0.3072], 4 * np.array(three) ** 3)
    np.testing.assert_allclose(float(gap.tolerance), 8 * (by_hand - 0.5), rtol=1e-9)
    assert gap.holds
    # A caller who says that the method is exact gets no benefit of the doubt.
    strict = axioms.completeness(one, lambda x: x[0] ** 4, jnp.ones(1), refined=())
    assert not strict.holds
    other = axioms.completeness(
        one, lambda x: x[0] ** 4, jnp.ones(1), refined=[functools.partial(IG)]
    )
    np.testing.assert_allclose(float(other.tolerance), 8 * 0.5, rtol=1e-9)


def test_a_kink_missed_in_float32_and_not_by_the_adaptive_rule():
    """50 Gauss–Legendre nodes miss a kink of ReLU by what can be seen, adaptive ones do not."""
    f, x = lambda x: relu(x[0] - 0.51), jnp.ones(1, jnp.float32)
    fifty = functools.partial(IG, quadrature=quadrature.gauss_legendre(50))
    gap = axioms.completeness(fifty, f, x)
    assert 5e-3 < float(gap) < float(gap.tolerance)

    def adaptive(f, x, baseline, *, args):
        path = paths.straight_line(baseline=baseline, x=x)
        return xattr.integrate_to_tolerance(f, path, rtol=1e-4, args=args).attributions

    assert float(axioms.completeness(adaptive, f, x)) < 5e-5


@pytest.mark.parametrize("rule", [quadrature.midpoint, quadrature.riemann_right])
def test_tolerance_sees_kinks_that_rules_of_equal_steps_miss_alike(rule):
    """ReLU(x − c): of 2n and 3n equal steps a third of all c have the same error as of n."""
    f = lambda x, c: relu(x[0] - c)
    measure = lambda c: axioms.completeness(
        functools.partial(IG, quadrature=rule(64)), f, jnp.ones(1), args=(c,)
    )
    gaps = jax.jit(jax.vmap(measure))(jnp.asarray(np.random.default_rng(0).uniform(size=4000)))
    assert float(gaps.value.max()) > 1e-3
    assert float(gaps.holds.mean()) > 0.985  # measured: .994


def test_the_rounding_of_f_is_counted_once():
    """1024 units in the last place of Σ|A|, f(x) = 6 and f(0, 2) = 0: not of f(x) twice."""
    x, unit = jnp.array([3.0, 2.0]), 1024 * float(jnp.finfo(jnp.float64).eps)
    for measure, method, size in (
        (axioms.completeness, IG, 6),
        (axioms.completeness, xattr.gradient, 5),
        (functools.partial(axioms.sensitivity_a, feature=0), IG, 6),
        (functools.partial(axioms.sensitivity_a, feature=0), xattr.gradient, 5),
        (axioms.conservation, xattr.gradient, 5),
        (axioms.zero_at_baseline, IG, 0),
    ):
        tolerance = measure(method, product, x, refined=()).tolerance
        np.testing.assert_allclose(float(tolerance), unit * (size + 6), rtol=1e-12)
    # What f is at the baseline counts too, also for a method that takes no baseline.
    for method, size in ((IG, 2), (xattr.gradient, 5)):
        gap = axioms.completeness(method, product, x, jnp.array([2.0, 2.0]), refined=())
        np.testing.assert_allclose(float(gap.tolerance), unit * (size + 6 + 4), rtol=1e-12)


def test_infinity_never_holds():
    infinite = lambda f, x, *, args: jnp.full_like(x, jnp.inf).at[0].set(5)
    assert not axioms.sensitivity_b(infinite, product, jnp.ones(2), feature=0).holds
    assert not axioms.completeness(infinite, product, jnp.ones(2)).holds
    assert not axioms.positivity(infinite, product, jnp.ones(2)).holds


def test_features_and_factors_of_any_dtype():
    x = jnp.array([1.0, 2.0], jnp.float32)
    for feature in (np.int32(1), np.uint8(1), jnp.int32(1)):
        assert float(axioms.sensitivity_b(shows_input, product, x, feature=feature)) == 2
    gap = axioms.linearity(IG, product, product, x, a=np.float64(2), b=jnp.array(3.0))
    assert gap.holds
    wide = lambda f, x, *, args: IG(f, x, args=args).astype(jnp.float64)
    assert axioms.linearity(wide, product, lambda x: jnp.sum(jnp.sin(x)), x, a=0.3, b=0.7).holds


def test_nan_never_holds():
    f = lambda x: jnp.log(x[0]) + x[1]
    x = jnp.array([-1.0, 1.0])
    nan = lambda f, x, *, args: jnp.full_like(x, jnp.nan)
    for name, extra in (
        ("completeness", {}),
        ("sensitivity_a", {"feature": 0}),
        ("symmetry", {"i": 0, "j": 1}),
    ):
        gap = getattr(axioms, name)(nan, product, x, **extra)
        assert not gap.holds
        assert np.isnan(float(gap))
    assert not axioms.completeness(IG, f, x).holds
    assert not axioms.positivity(nan, product, x).holds


# --- transformations -----------------------------------------------------------------------------

PROBLEMS = {
    "completeness": ("dense-tanh", {}),
    "sensitivity_a": ("gated", {"feature": 1}),
    "sensitivity_b": ("unseen-tanh", {}),
    "implementation_invariance": ("figure-7", {}),
    "linearity": ("relu-tanh", {"a": 2.0, "b": -1.0}),
    "symmetry": ("tied-tanh", {}),
    "input_invariance": ("shifted-tanh", {"shift": [1.0, 0.0, -1.0, 2.0]}),
    "affine_scale_invariance": ("dense-tanh", {"shift": np.ones(4), "scale": np.full(4, 2.0)}),
    "zero_at_baseline": ("dense-tanh", {}),
    "conservation": ("dense-tanh", {}),
    "positivity": ("rising-tanh", {}),
    "proportionality": ("of-sum-tanh", {}),
    "time_reparametrization": ("dense-tanh", {"path": "monotone"}),
}


def test_every_axiom_is_here():
    assert list(PROBLEMS) == list(testing.AXIOMS)
    for name, (specimen, _) in PROBLEMS.items():
        assert specimen in testing.AXIOMS[name].functions


@pytest.mark.parametrize("axiom", PROBLEMS)
def test_jit_vmap_and_float32(axiom):
    """Inside jit and in a batch as alone; in float32 and bfloat16 scalars of float32."""
    name, options = PROBLEMS[axiom]
    method = xattr.gradient_x_input
    if axiom == "time_reparametrization":
        method = functools.partial(xattr.path_integral, quadrature=quadrature.midpoint(4))
    elif axiom == "zero_at_baseline":
        method = lambda f, x, baseline, *, args: xattr.gradient(f, x, args=args)
    shape = testing.problem(name).x.shape
    xs = jnp.asarray(np.random.default_rng(0).normal(size=(3, *shape)) + 1)

    def measure(x, seed=1):
        p = testing.problem(name, seed=seed, x=x, **options)
        return p.gap(axiom, method)

    alone = [measure(x) for x in xs]
    assert any(float(gap) > 1e-6 for gap in alone) == (axiom in BROKEN)
    batch = jax.jit(jax.vmap(measure))(xs)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    table.close(batch, stacked, 1e-12)
    assert batch.holds.shape == (3,)
    for dtype in (jnp.float32, jnp.bfloat16):
        low = measure(xs[0].astype(dtype))
        assert low.value.dtype == low.tolerance.dtype
        assert low.value.dtype == jnp.float32
        assert abs(float(low) - float(alone[0])) <= 10 * float(low.tolerance) + 0.05 * float(
            alone[0]
        )


BROKEN = ("completeness", "sensitivity_a", "input_invariance", "affine_scale_invariance")
BROKEN += ("zero_at_baseline", "conservation", "positivity", "time_reparametrization")


def test_gradient_of_a_gap():
    """d/dw of Σᵢ wᵢ − w·x where attributions are the weights: a gap can be trained away."""
    x, w = jnp.array([1.0, 3.0]), jnp.array([2.0, 5.0])
    loss = lambda w: axioms.completeness(xattr.gradient, lambda x, w: w @ x, x, args=(w,)).value
    assert float(loss(w)) == 17 - 7
    np.testing.assert_allclose(jax.grad(loss)(w), x - 1)


def test_pytrees():
    """Features are counted through the leaves: here a, then b."""
    x = {"a": jnp.array([[1.0], [2.0]]), "b": jnp.array(3.0)}
    f = lambda x: x["a"][0, 0] * x["b"]
    for feature, value in ((0, 1.0), (1, 2.0), (2, 3.0)):
        assert float(axioms.sensitivity_b(shows_input, f, x, feature=feature)) == value
    measures(axioms.sensitivity_b(IG, f, x, feature=1), 0)
    measures(axioms.completeness(xattr.gradient_x_input, f, x), 3)
    measures(axioms.symmetry(IG, f, x, i=0, j=2), 0)
    doubled = {"a": jnp.full((2, 1), 2.0), "b": jnp.array(2.0)}
    shift = jax.tree.map(jnp.ones_like, x)
    measures(axioms.affine_scale_invariance(IG, f, x, scale=doubled, shift=shift), 0)
    measures(axioms.proportionality(shows_input, lambda x: f(x), x), 0)
    assert float(axioms.sensitivity_a(xattr.gradient, f, x, feature=2)) == 0


# --- bad input -----------------------------------------------------------------------------------

X = np.ones(2)
BAD = {
    "feature that is not there": (
        lambda: axioms.sensitivity_b(IG, product, X, feature=2),
        ValueError,
        "`feature` must be one feature of x, 0 … 1",
    ),
    "feature that is no number": (
        lambda: axioms.sensitivity_a(IG, product, X, feature=0.5),
        ValueError,
        "`feature` must be one feature",
    ),
    "j": (
        lambda: axioms.symmetry(IG, product, X, i=0, j=-1),
        ValueError,
        "`j` must be one feature",
    ),
    "no baseline to be at": (
        lambda: axioms.zero_at_baseline(xattr.gradient, product, X),
        ValueError,
        "`method` takes no baseline",
    ),
    "scale of zero": (
        lambda: axioms.affine_scale_invariance(
            IG, product, X, scale=np.array([1.0, 0.0]), shift=np.zeros(2)
        ),
        ValueError,
        "`scale` must not be 0",
    ),
    "shift of another shape": (
        lambda: axioms.input_invariance(IG, product, lambda x, m: x[0], X, shift=np.zeros(3)),
        ValueError,
        "`shift` has shape (3,)",
    ),
    "attributions of another shape": (
        lambda: axioms.completeness(lambda f, x, *, args: x[:1], product, X),
        ValueError,
        "`attributions` has shape (1,)",
    ),
    "no method": (lambda: axioms.completeness("IG", product, X), TypeError, "`method` must be"),
    "no layer": (
        lambda: axioms.conservation(IG, product, X, layers=["hidden"]),
        ValueError,
        "hidden",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, kind, words = BAD[case]
    with pytest.raises(kind) as caught:
        call()
    assert words in str(caught.value)


# --- what the axioms say of finite differences, and what noise does not depend on -----------------


def test_chain_rule_fails_for_discrete_gradients():
    """[f(x₁) − f(x₀)] / [g(x₁) − g(x₀)] is not the product of its factors (slides, eq. 2).

    Figure 7's networks are one function; finite differences through their inner units are not.
    """
    x, zero = jnp.array([3.0, 1.0]), jnp.zeros(2)
    inner = lambda x: jnp.stack([jax.nn.relu(x[0] - 1), jax.nn.relu(x[1])])
    factor = (functions.figure_7g(x) - functions.figure_7g(zero)) / (x - zero)
    steps = (inner(x) - inner(zero)) / (x - zero)
    through = jnp.array([1.0, -1.0]) * steps
    assert not np.allclose(factor, through)
    # The product of differences gives DeepLIFT's (2, −1), the gradients' chain rule (1.5, −.5).
    np.testing.assert_allclose(through * x, [2, -1])
    for network in (functions.figure_7f, functions.figure_7g):
        ig = xattr.integrated_gradients(network, x, quadrature=quadrature.midpoint(1200))
        np.testing.assert_allclose(ig, [1.5, -0.5], atol=1e-9)


@given(SEEDS, st.sampled_from([xattr.smooth_grad, xattr.smooth_grad_squared, xattr.var_grad]))
def test_chunks_do_not_change_the_noise(seed, method):
    p = testing.problem("dense-tanh", seed=seed % 1000)
    run = lambda size: method(
        p.f, p.x, jax.random.key(seed % 1000), num_samples=7, args=p.args, chunk_size=size
    )
    np.testing.assert_allclose(run(3), run(7), rtol=1e-9, atol=1e-12)


def test_differences_of_f_cancel_to_its_rounding():
    """What is left of f(y) − f(x) where y is x but for rounding is no attribution."""

    def differences(f, x, baseline, *, args=()):
        def score(k):
            y = jnp.where(jnp.arange(x.size) < k, x, baseline)
            return f(jnp.where(k % 2 == 0, y, y * (1 + 2**-51)), *args)

        return jnp.diff(jax.vmap(score)(jnp.arange(x.size + 1)))

    f, x = lambda x: x[0] ** 2, jnp.array([2.9, 1.2])
    rounding = differences(f, x, x.at[1].set(0.0))
    assert 0 < abs(float(rounding[1])) < 1e-14
    assert axioms.sensitivity_b(differences, f, x, x.at[1].set(0.0), feature=1).holds
    assert axioms.zero_at_baseline(differences, f, x).holds
    x32 = x.astype(jnp.float32)
    gap = axioms.zero_at_baseline(lambda f, x, b, *, args: (x - b) + 1, f, x32)
    assert gap.value.dtype == gap.tolerance.dtype == jnp.float32
