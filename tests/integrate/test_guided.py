"""Guided integrated gradients, and directional ones: oracles in NumPy, axioms, programs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xattr
from tests import table
from xattr.testing import count_compilations

SEEDS = st.sampled_from(range(8))
F, PARAMS = xattr.targets.logit(table.mlp), table.parameters
W = np.random.default_rng(0).normal(size=(6, 6))
guided = xattr.guided_integrated_gradients
directional = xattr.integrated_directional_gradients


def network(x):
    return jnp.sum(jnp.tanh(jnp.asarray(W, x.dtype) @ x) ** 3 + x * jnp.sin(x[::-1]))


def inputs(seed):
    return jnp.asarray(np.random.default_rng(50 + seed).normal(size=6))


def guided_oracle(gradient, x, baseline, steps, fraction, distance):
    """The loop of the paper: raise those behind, then groups of the smallest gradients in turn."""
    point, result, total = baseline.copy(), np.zeros_like(x), np.abs(x - baseline).sum()
    slope = gradient(point)
    for number in range(1, steps + 1):
        alpha, old, ranked = number / steps, point.copy(), np.abs(slope)
        low, high = max(alpha - distance, 0), min(alpha + distance, 1)
        lowest, highest = baseline + (x - baseline) * low, baseline + (x - baseline) * high
        behind = (point - baseline) / (x - baseline) < low
        point[behind] = lowest[behind]
        while np.abs(x - point).sum() > total * (1 - alpha) + 1e-12:
            free = ~np.isclose(point, highest, rtol=0, atol=1e-13)
            ranked = np.where(free, ranked, np.inf)
            chosen = free & (ranked <= np.quantile(ranked, fraction, method="lower"))
            possible = np.abs(highest - point)[chosen].sum()
            share = min(1, (np.abs(x - point).sum() - total * (1 - alpha)) / possible)
            point[chosen] += share * (highest - point)[chosen]
        after = gradient(point)
        result += (point - old) * (slope + after) / 2
        slope = after
    return result


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("distance", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.usefixtures("x64")
def test_guided_is_the_loop_of_the_paper(fraction, distance):
    slope = jax.jit(jax.grad(network))
    for seed in range(2):
        x, baseline = inputs(seed), inputs(seed + 10)
        expected = guided_oracle(
            lambda p: np.asarray(slope(jnp.asarray(p))),
            np.asarray(x), np.asarray(baseline), 20, fraction, distance,
        )  # fmt: skip
        found = guided(
            network, x, baseline, steps=20, fraction=fraction, max_distance=distance,
            warn_above=None,
        )  # fmt: skip
        table.close(found, expected, 1e-9)


@given(seed=SEEDS)
@pytest.mark.usefixtures("x64")
def test_no_distance_is_integrated_gradients(seed):
    x, baseline = table.inputs(seed, "float64"), table.inputs(seed + 9, "float64")
    args = (seed % 4, PARAMS(seed, "float64"))
    found = guided(F, x, baseline, steps=16, max_distance=0.0, args=args)
    rule = xattr.quadrature.trapezoid(17)
    table.close(
        found, xattr.integrated_gradients(F, x, baseline, quadrature=rule, args=args), 1e-12
    )


def test_what_it_is_for_the_small_gradient_moves_first():
    """f = x₀ x₁² from 0: with free rein x₁ gets all, since x₀ moves where x₁ is still 0."""
    f, x = lambda x: x[0] * x[1] ** 2, jnp.ones(2)
    slopes = [guided(f, x, max_distance=d)[0] for d in (0.0, 0.1, 0.5, 1.0)]
    assert slopes[0] == pytest.approx(1 / 3, abs=1e-3)
    assert slopes[3] == pytest.approx(0, abs=1e-3)
    assert slopes == sorted(slopes, reverse=True)


@given(seed=SEEDS, distance=st.sampled_from([0.02, 0.2, 1.0]))
@pytest.mark.usefixtures("x64")
def test_guided_axioms(seed, distance):
    """Completeness; dummies, and features at the baseline, get exactly 0."""
    x, params = table.inputs(seed, "float64"), PARAMS(seed, "float64")
    params["w1"] = params["w1"].at[1].set(0)
    baseline = (x - 1).at[2].set(x[2])
    method = functools.partial(
        guided, F, x, baseline, max_distance=distance, steps=128, args=(0, params)
    )
    found = method()
    np.testing.assert_array_equal(found[1:], 0)
    gap = xattr.completeness_gap(F, found, x, baseline, args=(0, params))
    assert abs(float(gap)) < 1e-3 * max(1, table.size(found))


def test_too_few_steps_are_told():
    with pytest.warns(xattr.IncompleteWarning, match="take more `steps`") as told:
        guided(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]), steps=1)
    assert [each.filename for each in told] == [__file__]


@given(seed=SEEDS)
@pytest.mark.usefixtures("x64")
def test_features_with_one_gradient_move_together(seed):
    both, other = jax.random.normal(jax.random.key(seed), (2,))
    x = jnp.array([both, other, both])
    f = lambda x: jnp.tanh(x[0] + x[2]) * x[1] + x[0] * x[2] * jnp.sin(x[1])
    found = guided(f, x, steps=30, fraction=0.0, max_distance=1.0, warn_above=None)
    assert float(found[0]) == pytest.approx(float(found[2]), abs=1e-14)


@pytest.mark.parametrize("method", ["guided", "directional"])
@pytest.mark.usefixtures("x64")
def test_neither_is_linear_in_f(method):
    """Theory says so: path and shares depend on f."""
    x = jnp.array([1.0, 2.0])
    line = xattr.paths.aumann_shapley(x)
    each = {
        "guided": lambda f: guided(f, x, max_distance=1.0),
        "directional": lambda f: directional(f, line),
    }[method]
    f, g = lambda x: x[0] * x[1] ** 2, lambda x: x[0] ** 2
    difference = each(lambda x: f(x) + g(x)) - each(f) - each(g)
    assert table.size(difference) > 0.05
    assert abs(float(difference.sum())) < 1e-3


def directional_oracle(f, gradient, points):
    """The algorithm of the paper."""
    result = np.zeros(points.shape[1])
    for here, there in itertools.pairwise(points):
        g = np.asarray(gradient(here))
        result += g * g * (f(there) - f(here)) / (g @ g)
    return result


@pytest.mark.usefixtures("x64")
def test_directional_is_the_algorithm_of_the_paper():
    x, baseline = inputs(1), inputs(2)
    for path in (
        xattr.paths.straight_line(baseline=baseline, x=x),
        xattr.paths.coordinatewise(baseline=baseline, x=x, order=range(6)),
    ):
        points = jnp.stack([path(k / 12) for k in range(13)])
        expected = directional_oracle(network, jax.grad(network), points)
        found = directional(network, path, steps=12, chunk_size=5)
        table.close(found, expected, 1e-12)


def test_directional_of_a_linear_function():
    weights = jnp.array([3.0, -1.0, 0.0])
    found = directional(
        lambda x: weights @ x, xattr.paths.aumann_shapley(jnp.array([2.0, 4.0, 1.0]))
    )
    table.close(found, jnp.array([9.0, 1.0, 0.0]) / 10 * 2.0)


@given(seed=SEEDS, steps=st.sampled_from([1, 3, 16]))
@pytest.mark.usefixtures("x64")
def test_directional_axioms(seed, steps):
    """Complete with any number of steps; dummies get exactly 0."""
    x, params = table.inputs(seed, "float64"), PARAMS(seed, "float64")
    params["w1"] = params["w1"].at[1].set(0)
    path = xattr.paths.straight_line(baseline=x - 1, x=x)
    found = directional(F, path, steps=steps, args=(1, params))
    assert float(found[1]) == 0
    assert abs(float(xattr.completeness_gap(F, found, x, x - 1, args=(1, params)))) < 1e-12


def test_directional_gives_to_what_does_not_move():
    """Theory says so: a feature equal to its baseline gets a share."""
    path = xattr.paths.straight_line(baseline=jnp.array([0.0, 1.0]), x=jnp.ones(2))
    found = directional(lambda x: x[0] * x[1], path)
    assert float(found[1]) > 0.1


def test_directional_where_the_gradient_is_zero():
    """0/0 is 0; what a plateau's last step changes is left out, and said."""
    f, path = lambda x: jax.nn.relu(x - 0.5), xattr.paths.aumann_shapley(jnp.float32(1))
    assert float(directional(f, path, steps=4, warn_above=None)) == pytest.approx(0.25)
    with pytest.warns(xattr.IncompleteWarning, match="take more `steps`"):
        directional(f, path, steps=3)
    flat = lambda x: directional(lambda x: 0 * x, xattr.paths.aumann_shapley(x))
    assert float(flat(jnp.float32(2))) == 0
    assert float(jax.grad(flat)(jnp.float32(2))) == 0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_directional_squares_do_not_over_or_underflow(scale):
    found = directional(
        lambda x: scale * (x[0] + 2 * x[1]), xattr.paths.aumann_shapley(jnp.ones(2))
    )
    table.close(found / scale, jnp.array([0.6, 2.4]), 1e-5)


def test_nothing_new_is_compiled_for_new_values():
    f = lambda x, label, params: F(x, label, params)

    def attribute(seed):
        x, baseline, args = table.inputs(seed), table.inputs(seed + 5), (seed % 4, PARAMS(seed))
        shares = {"fraction": 0.1 + seed / 10, "max_distance": seed / 10}
        guided(f, x, baseline, steps=5, args=args, **shares)
        for path in (
            xattr.paths.straight_line(baseline=baseline, x=x),
            xattr.paths.monotone(baseline=baseline, x=x, exponents=2.0),
            xattr.paths.blur(x, max_sigma=1.0 + seed, axes=[0]),
        ):
            directional(f, path, steps=16, args=args, chunk_size=4)

    with count_compilations() as counts:
        attribute(0)
    assert counts["guided_kernel"] == counts["directional_kernel"] == 1
    with count_compilations() as counts:
        attribute(1)
    assert not counts


@pytest.mark.parametrize("method", ["guided", "directional"])
def test_memory_does_not_grow_with_the_steps(method):
    f = lambda x: jnp.sum(jnp.tanh(x) ** 2)

    def size(steps):
        run = {
            "guided": lambda x: guided(f, x, steps=steps),
            "directional": lambda x: directional(
                f, xattr.paths.aumann_shapley(x), steps=steps, chunk_size=4
            ),
        }[method]
        compiled = jax.jit(run).lower(jnp.ones(10_000)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert size(256) < 1.1 * size(32)


def test_guided_takes_many_leaves_as_one_vector():
    x, args = table.tree_inputs(3), (2, PARAMS(1))
    f = table.model("tree").f
    flat, build = jax.flatten_util.ravel_pytree(x)
    found = guided(f, x, steps=12, max_distance=0.3, args=args, warn_above=None)
    other = guided(
        lambda v, *args: f(build(v), *args), flat, steps=12, max_distance=0.3, args=args,
        warn_above=None,
    )  # fmt: skip
    table.close(jax.flatten_util.ravel_pytree(found)[0], other, 1e-5)
