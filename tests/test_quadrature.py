"""Quadratures: weights that sum to one, and the order that each promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import polynomial

from xattr import quadrature

RULES = [
    quadrature.riemann_left,
    quadrature.riemann_right,
    quadrature.midpoint,
    quadrature.trapezoid,
    quadrature.gauss_legendre,
]


@pytest.mark.parametrize("n", [2, 3, 7, 50, 64, 1000])
@pytest.mark.parametrize("rule", RULES)
def test_weights_sum_to_one_and_nodes_are_in_order(rule, n):
    nodes, weights = rule(n)
    assert nodes.shape == weights.shape == (n,)
    assert abs(weights.sum() - 1) <= 4e-16 * max(1, np.log2(n))
    assert (np.diff(nodes) > 0).all()
    assert nodes[0] >= 0
    assert nodes[-1] <= 1


@pytest.mark.parametrize("n", [1, 2, 5, 16])
def test_gauss_legendre_is_exact_to_degree_2n_minus_1_and_no_further(n):
    nodes, weights = quadrature.gauss_legendre(n)
    for degree in range(2 * n):
        assert abs(weights @ nodes**degree - 1 / (degree + 1)) < 1e-14
    if n <= 5:  # beyond, the error is below rounding
        assert abs(weights @ nodes ** (2 * n) - 1 / (2 * n + 1)) > 1e-10


@pytest.mark.parametrize(
    ("rule", "order"),
    [
        (quadrature.riemann_left, 1),
        (quadrature.riemann_right, 1),
        (quadrature.midpoint, 2),
        (quadrature.trapezoid, 2),
    ],
)
def test_order_of_convergence(rule, order):
    def error(n):
        nodes, weights = rule(n)
        return abs(weights @ np.exp(nodes) - (np.e - 1))

    assert np.log2(error(200) / error(400)) == pytest.approx(order, abs=0.05)


def test_composite_is_the_rule_on_each_piece():
    nodes, weights = quadrature.composite(quadrature.gauss_legendre(3), 4)
    coefficients = np.arange(1.0, 7.0)  # degree 5, a different polynomial on each piece
    pieces = np.floor(nodes * 4)
    values = polynomial.polyval(nodes, coefficients) * pieces
    antiderivative = polynomial.polyint(coefficients)
    ends = polynomial.polyval(np.arange(5) / 4, antiderivative)
    assert weights @ values == pytest.approx((np.diff(ends) * np.arange(4)).sum(), abs=1e-13)


def test_rules_are_the_callers_to_change():
    first = quadrature.gauss_legendre(4)
    first.weights[0] = 9
    assert quadrature.gauss_legendre(4).weights[0] < 1


def test_riemann_sums_take_the_ends_of_their_names():
    for n in (1, 4):
        np.testing.assert_array_equal(quadrature.riemann_left(n).nodes, np.arange(n) / n)
        np.testing.assert_array_equal(quadrature.riemann_right(n).nodes, (np.arange(n) + 1) / n)


def test_a_long_quadrature_is_written_short():
    assert repr(quadrature.midpoint(64)) == "Quadrature(64 nodes in [0.007812, 0.9922])"
    eight = quadrature.midpoint(8)
    assert repr(eight) == f"Quadrature(nodes={eight.nodes!r}, weights={eight.weights!r})"
    on_device = jax.tree.map(jnp.asarray, quadrature.midpoint(64))
    seen = []
    jax.jit(lambda rule: seen.append((repr(on_device), repr(rule))))(on_device)
    assert seen[0][0] == repr(quadrature.midpoint(64))
    assert seen[0][1].startswith("Quadrature(nodes=")
