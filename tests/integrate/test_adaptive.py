"""Integration to a tolerance: closed forms, exact references, budgets, and every transformation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import xattr
from tests.integrate.test_kinks import layers, mlp
from xattr._integrate.adaptive import AdaptiveResult, integrate_to_tolerance
from xattr._integrate.exact import exact_quadrature
from xattr.testing import count_compilations


def line(x, baseline=None):
    x = jnp.asarray(x)
    return xattr.paths.straight_line(
        baseline=jnp.zeros_like(x) if baseline is None else baseline, x=x
    )


def check(result, expected, tolerance, budget=512):
    """Assert that a result converged, and that both of its promises are kept."""
    assert bool(result.converged)
    assert float(result.error_estimate) <= tolerance
    assert abs(float(result.gap)) <= tolerance
    assert int(result.evaluations) <= budget
    error = np.asarray(result.attributions, np.float64) - np.asarray(expected, np.float64)
    assert np.linalg.norm(error) <= tolerance


def logistic(z):
    return 0.5 + 0.5 * np.tanh(np.asarray(z, np.float64) / 2)


def bump(x):
    """Up at 0.3 and down again at 0.6: between nodes, so that no gradient and no gap shows it."""
    return jax.nn.sigmoid(900 * (x[0] - 0.3)) - jax.nn.sigmoid(900 * (x[1] - 0.6)) + x[2]


FORMS = {
    "product": lambda x: x[0] * x[1],
    "saturated": lambda x: 1 - jax.nn.relu(1 - x.sum()),
    "exp": lambda x: jnp.exp(x.sum()),
    "sigmoid": lambda x: jax.nn.sigmoid(100 * (x.sum() - 0.377)),
    "step": lambda x: jnp.clip((x.sum() - 0.7123) * 1000, 0, 1) + x[1],
    "bump": bump,
    "power": lambda x: x[0] ** 1.5,
    "constant": lambda x: 0 * x[0] + 3,
    "odd": lambda x: jnp.sin(8 * x[0]) - jnp.sin(8 * x[1]),
    "jump": lambda x: jnp.where(x[0] > 0.3, x[0] + 1, x[0]),
    "logarithm": lambda x: jnp.log(x[1]),
    "pole": lambda x: jnp.where(jnp.abs(x[0] - 0.5) < 1e-3, jnp.inf, jnp.abs(x[0] - 0.3)),
}


def forms(x, which, scale):
    """All of them in one program, with a further linear term."""
    return jax.lax.switch(which, list(FORMS.values()), x) + scale * x[3]


def solve(name, x, baseline=0.0, scale=0.0, rtol=1e-3, atol=0.0):
    """Integrate one of the functions along a straight line of four features."""
    x = jnp.pad(jnp.asarray(x, jnp.float32), (0, 4 - len(x)))
    args = (jnp.int32(list(FORMS).index(name)), jnp.float32(scale))
    path = line(x, jnp.full(4, baseline, jnp.float32))
    return integrate_to_tolerance(forms, path, atol=atol, rtol=rtol, args=args)


CLOSED = {
    "product": ([2.0, 3.0, 0.0], [3, 3, 0], 5),
    "saturated": ([2.0, 0.0, 0.0], [1, 0, 0], 30),
    "exp": ([1.0, 2.0, 0.0], np.expm1(3) / 3 * np.array([1, 2, 0]), 15),
    "sigmoid": (
        [0.25, 0.75, 0.0],
        (logistic(62.3) - logistic(-37.7)) * np.array([0.25, 0.75, 0]),
        120,
    ),
    "step": ([0.5, 0.5, 0.0], [0.5, 1.0, 0], 100),
    "bump": ([1.0, 1.0, 1.0], [1.0, -1.0, 1.0], 300),
}


@pytest.mark.parametrize("name", CLOSED)
def test_closed_forms(name):
    x, expected, most = CLOSED[name]
    change = float(FORMS[name](jnp.array(x)) - FORMS[name](jnp.zeros(3)))
    check(solve(name, x), [*expected, 0], 1e-3 * abs(change), most)


def test_a_gap_that_no_other_sign_tells_of():
    """The slope √α is infinitely steep at 0: five nodes are 1e-3 off and look better."""
    check(solve("power", [1.0], rtol=3e-4), [1, 0, 0, 0], 3e-4, 60)


def test_curved_paths():
    f = lambda x: x[0] * x[1] ** 2
    zeros, ones = jnp.zeros(2), jnp.ones(2)
    sine = 1 - 8 / np.pi**2  # ∫ α² (π/2) cos(πα/2) dα
    for path, expected in {
        xattr.paths.monotone(baseline=zeros, x=ones, exponents=jnp.array([1.0, 2.0])): [
            1 / 5,
            4 / 5,
        ],
        xattr.paths.monotone(baseline=zeros, x=ones, exponents=jnp.array([0.5, 1.0])): [
            1 / 5,
            4 / 5,
        ],
        xattr.paths.polyline(jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])): [0, 1],
        lambda alpha: jnp.stack([jnp.sin(alpha * np.pi / 2), alpha]): [sine, 1 - sine],
    }.items():
        check(integrate_to_tolerance(f, path, rtol=1e-3), expected, 1e-3)


@pytest.mark.usefixtures("x64")
def test_relu_networks_against_the_exact_reference():
    """As accurate as promised; Gauss–Legendre with no fewer nodes is not."""
    f = lambda x, params: mlp(x, params, 0)
    sizes, rtol, count = (20, 30, 30, 1), 1e-3, 4
    cases = [(jnp.asarray(_normal(seed, 20)), layers(seed, sizes)) for seed in range(count)]
    x, params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)
    solve = lambda x, params: integrate_to_tolerance(
        f, line(x), args=(params,), rtol=rtol, max_evaluations=1500
    )
    fixed = lambda x, params, rule: xattr.integrated_gradients(
        f, x, quadrature=xattr.Quadrature(*rule), args=(params,), chunk_size=100
    )
    result = jax.jit(jax.vmap(solve))(x, params)
    rules = [exact_quadrature(f, x, args=(params,)) for x, params in cases]
    ends = [np.pad(np.stack(rule), ((0, 0), (0, 420 - len(rule.nodes)))) for rule in rules]
    legendre = [np.stack(xattr.quadrature.gauss_legendre(420))] * count
    fixed = jax.jit(jax.vmap(fixed))
    exact, other = (fixed(x, params, jnp.asarray(np.stack(rule))) for rule in (ends, legendre))
    change = jax.vmap(f)(x, params) - jax.vmap(f)(0 * x, params)
    errors = np.linalg.norm(result.attributions - exact, axis=1) / rtol / np.abs(change)
    np.testing.assert_allclose(exact.sum(axis=1), change, rtol=1e-9)
    assert bool(result.converged.all())
    assert np.median(errors) < 0.5
    assert errors.max() < 3  # an estimate, no bound
    assert int(result.evaluations.max()) <= 420
    assert np.median(np.linalg.norm(other - exact, axis=1) / rtol / np.abs(change)) > 1


def _normal(seed, *shape):
    return np.random.default_rng(1000 + seed).standard_normal(shape)


@pytest.mark.usefixtures("x64")
def test_steps_anywhere():
    """Sigmoids of widths from 1e-1 to 1e-4 at random places, in one batch."""
    random = np.random.default_rng(0)
    places, widths = random.uniform(0.02, 0.98, 48), 10.0 ** random.uniform(-4, -1, 48)
    f = lambda x, place, width: jax.nn.sigmoid((x[0] - place) / width) + x[1]
    solve = lambda place, width: integrate_to_tolerance(
        f, line([1.0, 0.5]), args=(place, width), rtol=1e-4
    )
    found = jax.jit(jax.vmap(solve))(jnp.asarray(places), jnp.asarray(widths))
    assert bool(found.converged.all())
    assert (jnp.abs(found.gap) <= 1.001 * found.error_estimate + 1e-14).all()
    exact = logistic((1 - places) / widths) - logistic(-places / widths)
    np.testing.assert_allclose(found.attributions[:, 0], exact, rtol=0, atol=2e-4)
    np.testing.assert_allclose(found.attributions[:, 1], 0.5, rtol=0, atol=1e-12)
    assert int(found.evaluations.max()) < 350
    assert int(found.evaluations.min()) < 60


def test_a_smooth_function_takes_one_interval_of_nodes():
    params = {"w": jnp.asarray(_normal(0, 20, 50) / 5, jnp.float32), "v": jnp.ones(50) / 50}
    f = lambda x, params: jnp.tanh(x @ params["w"]) @ params["v"]
    x = jnp.asarray(_normal(1, 20), jnp.float32)
    result = integrate_to_tolerance(f, line(x), args=(params,))
    assert int(result.evaluations) == 5
    rule = xattr.quadrature.gauss_legendre(5)
    same = xattr.integrated_gradients(f, x, quadrature=rule, args=(params,))
    np.testing.assert_allclose(result.attributions, same, rtol=1e-5, atol=1e-7)


def test_saturated_softmax():
    weights = jnp.asarray(30 * _normal(2, 6, 4), jnp.float32)
    f = xattr.targets.probability(lambda x: x @ weights)
    x = jnp.asarray(_normal(3, 6), jnp.float32)
    label = int(jnp.argmax(x @ weights))
    result = integrate_to_tolerance(f, line(x), args=(label,), rtol=1e-3)
    assert f(x, label) > 0.999
    rule = xattr.quadrature.composite(xattr.quadrature.gauss_legendre(5), 500)
    fine = xattr.integrated_gradients(f, x, quadrature=rule, args=(label,), chunk_size=500)
    check(result, fine, 1e-3, 150)


def test_no_change_to_explain():
    constant = solve("constant", [1.0, 2.0])
    assert constant.attributions.tolist() == [0, 0, 0, 0]
    assert (int(constant.evaluations), bool(constant.converged)) == (5, True)
    assert float(constant.error_estimate) == float(constant.gap) == 0

    # u(a) − u(b) on the diagonal: neither f nor its slope along the path is ever anything but 0.
    odd = solve("odd", [1.0, 1.0], atol=1e-4)
    check(odd, np.sin(8) * np.array([1, -1, 0, 0]), 1e-4, budget=80)
    never = solve("odd", [1.0, 1.0])
    assert not bool(never.converged)
    assert 500 < int(never.evaluations) <= 512


@pytest.mark.parametrize("budget", [14, 400])
def test_budgets(budget):
    """The first feature is right on every quadrature of [0, 1], the second takes many gradients."""
    f = lambda x: 3 * x[0] + jnp.abs(jnp.sin(30 * x[1]))
    result = integrate_to_tolerance(f, line([2.0, 1.0]), rtol=1e-5, max_evaluations=budget)
    assert budget - 10 < int(result.evaluations) <= budget
    assert not bool(result.converged)
    assert float(result.error_estimate) >= abs(float(result.gap))
    np.testing.assert_allclose(result.attributions[0], 6, rtol=1e-6)
    if budget < 15:
        rule = xattr.quadrature.gauss_legendre(5)
        same = xattr.integrated_gradients(f, jnp.array([2.0, 1.0]), quadrature=rule)
        np.testing.assert_allclose(result.attributions, same, rtol=1e-5)
    else:
        assert abs(float(result.gap)) < 0.02


def test_a_jump_ends_at_the_shortest_interval():
    result = solve("jump", [1.0])
    np.testing.assert_allclose(result.attributions, [1, 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(result.gap, -1, rtol=1e-5)
    assert not bool(result.converged)
    assert int(result.evaluations) < 400


def test_not_finite():
    result = solve("logarithm", [1.0, 1.0])  # f(0) = −∞
    assert not bool(result.converged)
    assert not bool(jnp.isfinite(result.gap))
    assert int(result.evaluations) == 5
    result = solve("logarithm", [1.0, 1.0, 1.0, 1.0], baseline=0.5, scale=jnp.nan)
    assert not bool(result.converged)
    assert bool(jnp.isnan(result.attributions[3]))
    np.testing.assert_allclose(result.attributions[1], np.log(2), rtol=1e-3)
    assert int(result.evaluations) == 5
    result = solve("pole", [1.0])  # infinite at a node
    assert not bool(result.converged)
    assert not bool(jnp.isfinite(result.error_estimate))


def _steep(x, width):
    return jax.nn.sigmoid((x[0] - 0.3) / width) * x[1]


def _batch():
    """Easy, hard, hopeless and broken examples."""
    x = jnp.array(
        [[1.0, 1.0], [1.0, 2.0], [0.0, 0.0], [1.0, jnp.nan], [3.0, 1.0], *[[1.0, 0.5]] * 3]
    )
    widths = jnp.array([1.0, 1e-3, 1.0, 1.0, 1e-7, 0.1, 0.03, 0.01])
    solve = lambda x, width: integrate_to_tolerance(
        _steep, line(x), args=(width,), rtol=1e-3, max_evaluations=300
    )
    return solve, x, widths


def _same(part, expected):
    """Assert that results agree to rounding, and took the same decisions."""
    np.testing.assert_array_equal(part.evaluations, expected.evaluations)
    np.testing.assert_array_equal(part.converged, expected.converged)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), part, expected
    )


def test_an_example_is_the_same_in_a_batch():
    solve, x, widths = _batch()
    together = jax.vmap(solve)(x, widths)
    assert together.converged.tolist() == [True, True, True, False, False, True, True, True]
    assert len(set(together.evaluations.tolist())) >= 4
    for index in range(len(x)):
        part = jax.tree.map(lambda leaf, index=index: leaf[index], together)
        _same(part, solve(x[index], widths[index]))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_shard_map(axis_type):
    solve, x, widths = _batch()
    solve = jax.vmap(solve)
    expected = solve(x, widths)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    x, widths = jax.device_put((x, widths), NamedSharding(mesh, P("batch")))
    specs = {"in_specs": (P("batch"), P("batch")), "out_specs": P("batch")}
    _same(jax.jit(jax.shard_map(solve, mesh=mesh, **specs))(x, widths), expected)
    with jax.set_mesh(mesh):
        _same(jax.jit(solve)(x, widths), expected)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.bfloat16])
@pytest.mark.usefixtures("x64")
def test_pytrees_and_dtypes(dtype):
    def f(x, scale):
        (a, b), c = x["pair"], x["scalar"]
        return jnp.sum(a * b) * scale + jnp.square(c).astype(dtype)

    x = {
        "pair": (jnp.ones((2, 3), dtype), jnp.full((2, 3), 2, dtype)),
        "scalar": jnp.ones((), dtype),
    }
    result = integrate_to_tolerance(f, xattr.paths.aumann_shapley(x), args=(jnp.ones((), dtype),))
    assert isinstance(result, AdaptiveResult)
    assert bool(result.converged)
    assert jax.tree.structure(result.attributions) == jax.tree.structure(x)
    for leaf, reference in zip(*map(jax.tree.leaves, (result.attributions, x)), strict=True):
        assert (leaf.dtype, leaf.shape) == (dtype, reference.shape)
        np.testing.assert_allclose(np.asarray(leaf, np.float64), 1, rtol=2e-2)
    wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
    assert result.gap.dtype == result.error_estimate.dtype == wide
    assert result.evaluations.dtype == jnp.int32


def test_small_and_large_chunks():
    f = lambda x: jax.nn.relu(x[0] - 0.4) * x[1] + jnp.abs(x[1] - 0.15)
    found = [
        integrate_to_tolerance(f, line([1.0, 1.0]), rtol=1e-4, chunk_size=size) for size in (3, 5)
    ]
    # ∫ α over (0.4, 1) = 0.42; ∫ relu(α − 0.4) = 0.18, and |b − 0.15| adds 0.7.
    for result in found:
        check(result, [0.42, 0.88], 1e-4 * 1.3, 120)
    assert int(found[0].evaluations) == int(found[1].evaluations)
    np.testing.assert_allclose(found[0].attributions, found[1].attributions, rtol=1e-6)


def test_one_program_for_all_values():
    f = lambda x, label: jnp.abs(x - 0.3)[label] + x.sum()
    attribute = lambda seed: integrate_to_tolerance(
        f,
        xattr.paths.straight_line(
            baseline=jnp.asarray(_normal(seed, 3)), x=jnp.asarray(_normal(seed + 50, 3))
        ),
        atol=1e-3 * seed,
        rtol=0.1 / (1 + seed),
        args=(seed % 3,),
    )
    attribute(0)
    with count_compilations() as counts:
        found = [attribute(seed) for seed in range(1, 5)]
    assert not counts
    assert len({float(result.attributions[0]) for result in found}) == 4


def test_a_path_of_the_callers_may_read_what_changes():
    end = {"x": jnp.array([1.0, 2.0])}
    path = lambda alpha: alpha * end["x"]
    f = lambda x: x[0] * x[1]
    assert integrate_to_tolerance(f, path).attributions.round(4).tolist() == [1, 1]
    end["x"] = jnp.array([2.0, 4.0])
    assert integrate_to_tolerance(f, path).attributions.round(4).tolist() == [4, 4]
    eager = jax.vmap(lambda x: integrate_to_tolerance(f, lambda alpha: alpha * x).attributions)
    assert eager(jnp.array([[1.0, 3.0]])).round(4).tolist() == [[1.5, 1.5]]


def test_memory_is_a_few_trees_whatever_the_budget():
    features = 20_000
    solve = lambda budget: jax.jit(
        lambda x: (
            integrate_to_tolerance(
                lambda x: jnp.abs(x - 0.3).sum(), line(x), max_evaluations=budget
            ).attributions
        )
    )
    few, many = (
        solve(budget).lower(jnp.ones(features)).compile().memory_analysis().temp_size_in_bytes
        for budget in (50, 5000)
    )
    assert many - few < 5000 * 4 * 10
    assert few < 4 * features * 150


def test_derivatives():
    f = lambda x: jnp.exp(x[0]) * x[1]
    first = lambda x: integrate_to_tolerance(f, line(x), rtol=1e-4).attributions[0]
    x = jnp.array([1.0, 2.0])
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(first)(x)
    # A₀ = x₁ ∫ α x₀ exp(α x₀) dα = x₁ (exp(x₀) − (exp(x₀) − 1)/x₀), forward in x₁.
    _, tangent = jax.jvp(first, (x,), (jnp.array([0.0, 1.0]),))
    np.testing.assert_allclose(tangent, 1, rtol=1e-3)


def test_bad_input():
    f, path = lambda x: x.sum(), line([1.0, 2.0])
    for options, message in [
        ({"atol": -1.0}, "`atol` must be 0 or more"),
        ({"rtol": -1.0}, "`rtol` must be 0 or more"),
        ({"rtol": jnp.ones(2)}, "`rtol` must be one number"),
        ({"max_evaluations": 4}, "`max_evaluations` must be at least 5"),
        ({"max_evaluations": 1.5}, "`max_evaluations` must be a whole number"),
        ({"chunk_size": 0}, "`chunk_size` must be a whole number"),
    ]:
        with pytest.raises(ValueError, match=message):
            integrate_to_tolerance(f, path, **options)
    with pytest.raises(TypeError, match="`path` must be a function"):
        integrate_to_tolerance(f, jnp.ones(2))
    with pytest.raises(TypeError, match="`args` must be a tuple"):
        integrate_to_tolerance(f, path, args=3)
    with pytest.raises(ValueError, match="`f` must return one scalar"):
        integrate_to_tolerance(lambda x: x, path)
    with pytest.raises(TypeError, match="`path` must return a pytree of floating arrays"):
        integrate_to_tolerance(f, lambda alpha: jnp.arange(3))
    with pytest.raises(ValueError, match="`f` must return one scalar"):
        jax.jit(functools.partial(integrate_to_tolerance, lambda x: x, path))()
