"""The axioms that a method claims, as properties of random networks; and where one must fail."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

import xattr
from tests import networks
from xattr import paths, quadrature

pytestmark = pytest.mark.usefixtures("x64")
SEEDS = st.integers(0, 2**31)
SIZE = 4
RULE = quadrature.composite(quadrature.gauss_legendre(48), SIZE)  # a piece for every coordinate
PATHS = {
    "straight": lambda b, x: paths.straight_line(b, x),
    "monotone": lambda b, x: paths.monotone(b, x, jnp.array([1.0, 2.0, 3.0, 2.0])),
    "coordinatewise": lambda b, x: paths.coordinatewise(b, x, [2, 0, 3, 1]),
    "polyline": lambda b, x: paths.polyline(jnp.stack([b, x - b, b * x, x + b, x])),
}
KINDS = st.sampled_from(sorted(PATHS))


def draw(seed):
    random = np.random.default_rng(seed)
    array = lambda *shape: jnp.asarray(random.standard_normal(shape))
    params = {"w1": 0.4 * array(SIZE, 6), "b1": array(6), "w2": array(6)}
    return params, array(SIZE), array(SIZE)


def network(x, params):
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


def twice(x, params):
    """The same function, built otherwise: half of every unit doubled."""
    both = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf], axis=-1), params)
    return network(x, both) / 2


def attribute(kind, f, baseline, x, args):
    return xattr.path_integral(
        f, PATHS[kind](baseline, x), quadrature=RULE, args=args, chunk_size=96
    )


@given(SEEDS, KINDS)
def test_completeness(seed, kind):
    params, baseline, x = draw(seed)
    maps = attribute(kind, network, baseline, x, (params,))
    gap = xattr.completeness_gap(network, maps, x, baseline, args=(params,))
    assert abs(gap) < 1e-9 * (1 + float(jnp.abs(maps).sum()))


@given(SEEDS, KINDS)
def test_dummy_feature_gets_exactly_nothing(seed, kind):
    params, baseline, x = draw(seed)
    params["w1"] = params["w1"].at[1].set(0)
    assert attribute(kind, network, baseline, x, (params,))[1] == 0


@given(SEEDS)
def test_feature_at_its_baseline_gets_exactly_nothing(seed):
    params, baseline, x = draw(seed)
    maps = xattr.integrated_gradients(network, x.at[2].set(baseline[2]), baseline, args=(params,))
    assert maps[2] == 0


def mixture(x, first, second, a, b):
    return a * network(x, first) + b * network(x, second)


@given(SEEDS, KINDS, st.floats(-3, 3), st.floats(-3, 3))
def test_linearity(seed, kind, a, b):
    (first, baseline, x), (second, _, _) = draw(seed), draw(seed + 1)
    whole = attribute(kind, mixture, baseline, x, (first, second, jnp.float64(a), jnp.float64(b)))
    one, two = (attribute(kind, network, baseline, x, (p,)) for p in (first, second))
    np.testing.assert_allclose(whole, a * one + b * two, rtol=0, atol=1e-10)


@given(SEEDS, KINDS)
def test_implementation_invariance(seed, kind):
    params, baseline, x = draw(seed)
    one, two = (attribute(kind, f, baseline, x, (params,)) for f in (network, twice))
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-10)
    gradients = [xattr.gradient(f, x, args=(params,)) for f in (network, twice)]
    np.testing.assert_allclose(*gradients, rtol=0, atol=1e-10)


def symmetric(x, params):
    return network(x, params) + network(x[jnp.array([1, 0, 2, 3])], params)


@given(SEEDS)
def test_ig_preserves_symmetry_and_other_paths_need_not(seed):
    params, baseline, x = draw(seed)
    baseline, x = baseline.at[1].set(baseline[0]), x.at[1].set(x[0])
    ig = attribute("straight", symmetric, baseline, x, (params,))
    assert abs(ig[0] - ig[1]) < 1e-10
    bent = attribute("monotone", symmetric, baseline, x, (params,))
    corner = attribute("coordinatewise", symmetric, baseline, x, (params,))
    assert abs(bent[0] - bent[1]) > 1e-9
    assert abs(corner[0] - corner[1]) > 1e-9


def affine(x, factor, shift, params):
    return network((x - shift) / factor, params)


@given(SEEDS)
def test_ig_does_not_depend_on_the_units_of_the_input(seed):
    """Affine scale invariance, one of the axioms that single out the straight line."""
    params, baseline, x = draw(seed)
    factor, shift = jnp.array([2.0, 0.5, -3.0, 10.0]), jnp.array([1.0, -2.0, 0.0, 5.0])
    ours = attribute("straight", network, baseline, x, (params,))
    theirs = attribute(
        "straight", affine, factor * baseline + shift, factor * x + shift, (factor, shift, params)
    )
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-9)


def test_gradients_violate_sensitivity():
    """x and its baseline differ in one feature and f differs, but the gradient is 0."""
    x = jnp.array(2.0)
    assert networks.saturated(x) != networks.saturated(0 * x)
    assert xattr.gradient(networks.saturated, x) == 0
    assert xattr.gradient_x_input(networks.saturated, x) == 0
    assert xattr.integrated_gradients(networks.saturated, x) > 0.9


def test_gradient_x_input_violates_completeness():
    f, x = lambda x: x[0] * x[1], jnp.array([1.0, 2.0])
    maps = xattr.gradient_x_input(f, x)
    assert xattr.completeness_gap(f, maps, x) == 2  # 2 + 2 against 2


def test_chain_rule_fails_for_discrete_gradients():
    """[f(x₁) − f(x₀)] / [g(x₁) − g(x₀)] is not the product of its factors (slides, eq. 2).

    Figure 7's networks are one function; finite differences through their inner units are not.
    """
    x, zero = jnp.array([3.0, 1.0]), jnp.zeros(2)
    inner = lambda x: jnp.stack([jax.nn.relu(x[0] - 1), jax.nn.relu(x[1])])
    factor = (networks.figure_7g(x) - networks.figure_7g(zero)) / (x - zero)
    steps = (inner(x) - inner(zero)) / (x - zero)
    through = jnp.array([1.0, -1.0]) * steps
    assert not np.allclose(factor, through)
    # The product of differences gives DeepLIFT's (2, −1), the gradients' chain rule (1.5, −.5).
    np.testing.assert_allclose(through * x, [2, -1])
    for network in (networks.figure_7f, networks.figure_7g):
        ig = xattr.integrated_gradients(network, x, quadrature=quadrature.midpoint(1200))
        np.testing.assert_allclose(ig, [1.5, -0.5], atol=1e-9)


@given(SEEDS, st.sampled_from([xattr.smooth_grad, xattr.smooth_grad_squared, xattr.var_grad]))
def test_chunks_do_not_change_the_noise(seed, method):
    params, _, x = draw(seed)
    run = lambda size: method(
        network, x, jax.random.key(seed % 1000), num_samples=7, args=(params,), chunk_size=size
    )
    np.testing.assert_allclose(run(3), run(7), rtol=1e-9, atol=1e-12)
