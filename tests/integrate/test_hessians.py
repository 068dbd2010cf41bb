"""Interactions: known answers, their sums, what kinks lose, and what is compiled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xattr
from tests import table
from xattr._integrate import hessians
from xattr.testing import count_compilations

SEEDS = st.sampled_from(range(8))
F, PARAMS = xattr.targets.logit(table.mlp), table.parameters


def matrix(f, x, baseline=None, **options):
    """All of Γ: the rows, over the identity."""
    row = lambda group: xattr.integrated_hessians(f, x, baseline, group=group, **options)
    return jax.vmap(row)(jnp.eye(x.size, dtype=x.dtype))


def oracle(gradient, hessian, x, baseline, nodes=24):
    """Γ from its definition: the dense Hessian at the nodes of a square, in NumPy."""
    alphas, weights = np.polynomial.legendre.leggauss(nodes)
    alphas, weights = (alphas + 1) / 2, weights / 2
    change, result = x - baseline, np.zeros((x.size, x.size))
    for a, wa in zip(alphas, weights, strict=True):
        for b, wb in zip(alphas, weights, strict=True):
            point = baseline + a * b * change
            result += wa * wb * a * b * np.outer(change, change) * hessian(point)
            result += wa * wb * np.diag(change * gradient(point))
    return result


@pytest.mark.usefixtures("x64")
def test_known_answers():
    ones = jnp.ones(2)
    table.close(matrix(lambda x: x[0] ** 2 * x[1], ones), np.array([[4, 2], [2, 1]]) / 9, 1e-10)
    x = jnp.array([2.0, -3.0])
    table.close(matrix(lambda x: x[0] * x[1], x), np.full((2, 2), -6 / 4), 1e-10)
    weights = jnp.array([2.0, 5.0])
    table.close(matrix(lambda x: weights @ x, x), np.diag([4.0, -15.0]), 1e-14)


def exponential(x):
    return jnp.exp(x[0] * x[1]) + jnp.sin(x[1] - 2 * x[2])


def exponential_gradient(x):
    e, c = np.exp(x[0] * x[1]), np.cos(x[1] - 2 * x[2])
    return np.array([x[1] * e, x[0] * e + c, -2 * c])


def exponential_hessian(x):
    e, s = np.exp(x[0] * x[1]), np.sin(x[1] - 2 * x[2])
    mixed = e * (1 + x[0] * x[1])
    return np.array(
        [
            [x[1] ** 2 * e, mixed, 0],
            [mixed, x[0] ** 2 * e - s, 2 * s],
            [0, 2 * s, -4 * s],
        ]
    )


@pytest.mark.usefixtures("x64")
def test_the_single_integral_is_the_double_one():
    x, baseline = np.array([0.7, -1.1, 0.4]), np.array([0.2, 0.3, -0.5])
    expected = oracle(exponential_gradient, exponential_hessian, x, baseline)
    table.close(matrix(exponential, jnp.asarray(x), jnp.asarray(baseline)), expected, 1e-9)


@pytest.mark.parametrize("name", ["midpoint", "trapezoid", "gauss_legendre", "riemann_right"])
def test_weights_of_the_product(name):
    """∫₀¹ −ln(t) tᵐ dt = 1/(m + 1)²; with more nodes the error falls."""
    make = getattr(xattr.quadrature, name)
    for power in range(1, 5):
        errors = []
        for n in (8, 32):
            nodes, weights = hessians.product_rule(make(n))
            assert weights.sum() == pytest.approx(1)
            errors.append(abs(weights @ nodes**power - 1 / (power + 1) ** 2))
        assert errors[1] < errors[0] / 4


def test_a_rule_of_both_ends_has_no_weight():
    nodes, weights = hessians.product_rule(xattr.quadrature.trapezoid(2))
    np.testing.assert_array_equal(nodes, [0, 1])
    np.testing.assert_array_equal(weights, 0)


@given(seed=SEEDS)
@pytest.mark.usefixtures("x64")
def test_axioms(seed):
    """Rows sum to integrated gradients, all to f(x) − f(x'); Γ is symmetric, linear in f."""
    x, baseline = table.inputs(seed, "float64"), table.inputs(seed + 20, "float64")
    args = (jnp.int32(seed % 4), PARAMS(seed, "float64"))
    full = matrix(F, x, baseline, args=args)
    table.close(full, full.T, 1e-12)
    table.close(full.sum(1), xattr.integrated_gradients(F, x, baseline, args=args), 1e-8)
    change = F(x, *args) - F(baseline, *args)
    table.close(full.sum(), change, 1e-8)
    other = (jnp.int32((seed + 1) % 4), args[1])
    combined = lambda x, params: 2 * F(x, args[0], params) - 3 * F(x, other[0], params)
    table.close(
        matrix(combined, x, baseline, args=args[1:]),
        2 * full - 3 * matrix(F, x, baseline, args=other),
        1e-12,
    )


@given(seed=SEEDS)
def test_dummies_and_features_at_the_baseline_have_no_interactions(seed):
    x, params = table.inputs(seed), PARAMS(seed)
    without = dict(params, w1=params["w1"].at[1].set(0))
    dummy = matrix(F, x, args=(0, without))
    at_baseline = matrix(F, x, (x - 1).at[1].set(x[1]), args=(0, params))
    for full in (dummy, at_baseline):
        np.testing.assert_array_equal(full[1], 0)
        np.testing.assert_array_equal(full[:, 1], 0)
        assert table.size(full) > 1e-3


@given(seed=SEEDS)
@pytest.mark.usefixtures("x64")
def test_symmetric_features_interact_alike(seed):
    third, both = jax.random.normal(jax.random.key(seed), (2,))
    f = lambda x: jnp.tanh(x[0] * x[1] + x[2]) * x[0] * x[1]
    full = matrix(f, jnp.array([both, both, third]))
    table.close(full, full[np.ix_([1, 0, 2], [1, 0, 2])], 1e-12)


@pytest.mark.usefixtures("x64")
def test_a_sum_of_functions_of_one_feature_has_no_interactions():
    full = matrix(lambda x: jnp.sum(jnp.exp(x) * x), jnp.array([1.0, -0.5, 0.3]))
    np.testing.assert_array_equal(full - jnp.diag(jnp.diag(full)), 0)


@pytest.mark.usefixtures("x64")
def test_kinks_lose_what_softplus_keeps():
    """Theory says so: ReLU has no second derivative, and completeness fails; softplus has one."""
    x = jnp.array([1.0, 1.0])
    rough = lambda x: jax.nn.relu(x[0] + x[1] - 1)
    smooth = lambda x: jax.nn.softplus(20 * (x[0] + x[1] - 1)) / 20
    # ∫∫ [2 αβ > 1] dα dβ = ½ − ½ ln 2, and the second derivative is 0 beside the kink.
    lost = matrix(rough, x, quadrature=xattr.quadrature.midpoint(20_001))
    table.close(lost, np.diag([0.5 - 0.5 * np.log(2)] * 2), 1e-3)
    assert float(lost.sum()) < 0.4 < float(rough(x))
    rule = xattr.quadrature.gauss_legendre(256)
    table.close(matrix(smooth, x, quadrature=rule).sum(), smooth(x) - smooth(0 * x), 1e-6)


def test_a_group_is_the_sum_of_its_rows():
    x, args = table.tree_inputs(1), (2, PARAMS(1))
    f = table.model("tree").f
    ones = jax.tree.map(jnp.ones_like, x)
    everything = xattr.integrated_hessians(f, x, group=ones, args=args)
    table.close(everything, xattr.integrated_gradients(f, x, args=args), 1e-5)
    zero = jax.tree.map(jnp.zeros_like, x)
    image = xattr.integrated_hessians(f, x, group=dict(zero, image=ones["image"]), args=args)
    rest = xattr.integrated_hessians(f, x, group=dict(ones, image=zero["image"]), args=args)
    table.close(jax.tree.map(jnp.add, image, rest), everything, 1e-5)


def test_nothing_new_is_compiled_for_new_values():
    f = lambda x, label, params: F(x, label, params)

    def attribute(seed):
        x, group, baseline = (table.inputs(seed + shift) for shift in (0, 5, 10))
        args, key = (seed % 4, PARAMS(seed)), jax.random.key(seed)
        xattr.integrated_hessians(f, x, baseline, group=group, args=args, chunk_size=4)
        baselines = jnp.stack([x, baseline])
        xattr.expected_hessians(
            f, x, baselines, key, group=group, num_samples=8, args=args, chunk_size=4
        )

    with count_compilations() as counts:
        attribute(0)
    assert counts["hessian_kernel"] == 2  # blocks of 16 nodes, and of 8 samples
    with count_compilations() as counts:
        attribute(1)
    assert not counts


def test_memory_does_not_grow_with_the_nodes():
    def size(n):
        rule = xattr.quadrature.midpoint(n)
        run = jax.jit(
            lambda x: xattr.integrated_hessians(
                lambda x: jnp.sum(jnp.tanh(x) ** 2), x, group=x, quadrature=rule, chunk_size=4
            )
        )
        return run.lower(jnp.ones(10_000)).compile().memory_analysis().temp_size_in_bytes

    assert size(256) < 1.1 * size(32)


def test_dense_hessian_is_never_made():
    x = jnp.ones(3_000)
    run = lambda x: xattr.integrated_hessians(
        lambda x: jnp.sum(jnp.tanh(x)), x, group=x, chunk_size=1
    )
    used = jax.jit(run).lower(x).compile().memory_analysis().temp_size_in_bytes
    assert used < x.size**2 / 4


@pytest.mark.usefixtures("x64")
def test_expected_is_the_mean_over_the_baselines():
    x, args = table.inputs(0, "float64"), (1, PARAMS(0, "float64"))
    baselines, group = table.stack([table.inputs(s, "float64") for s in (3, 4)]), x**2
    each = [xattr.integrated_hessians(F, x, b, group=group, args=args) for b in baselines]
    expect = functools.partial(
        xattr.expected_hessians, F, x, baselines, group=group, num_samples=4096, args=args
    )
    maps = jnp.stack([expect(jax.random.key(seed)) for seed in range(4)])
    table.close(maps.mean(0), jnp.stack(each).mean(0), 0.02)
    assert table.size(maps[0] - maps[1]) > 0


def test_expected_of_a_linear_function_is_exact():
    x, baselines = jnp.array([1.0, 2.0]), jnp.array([[0.0, 0.0], [1.0, 0.0]])
    f = lambda x: 3 * x[0] + x[1]
    found = xattr.expected_hessians(
        f, x, baselines, jax.random.key(0), group=jnp.array([1.0, 10.0]), num_samples=4
    )
    table.close(found, jnp.array([1.5, 20.0]))
