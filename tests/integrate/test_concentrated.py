"""Concentrated rules: a quadrature in every case, with its nodes where f changes."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from tests import table
from xattr.quadrature import UNIFORM, concentrated, midpoint
from xattr.testing import count_compilations

LINE = xattr.paths.aumann_shapley(jnp.array(1.0))  # γ(α) = α


def step(x, place, slope):
    """A sigmoid along [0, 1]; what it gains is known."""
    return jax.nn.sigmoid(slope * (x - place))


def gain(place, slope):
    return 1 / (1 + np.exp(slope * (place - 1))) - 1 / (1 + np.exp(slope * place))


def read(x, values):
    """A function that is known only at evenly spaced places."""
    index = jnp.round(x * (values.size - 1)).astype(jnp.int32)
    return values[index]


def slow_rule(values, n):
    """Nodes and weights from the definition, one cell after the other, in float64."""
    changes = np.sqrt(np.abs(np.diff(np.asarray(values, np.float64))))
    if not (np.isfinite(changes).all() and changes.any()):
        changes = np.ones_like(changes)
    m = len(changes)
    masses = [UNIFORM / m + (1 - UNIFORM) * change / changes.sum() for change in changes]
    edges = [0.0]
    for k in range(1, n):
        left, j = k / n, 0
        while left > masses[j]:
            left, j = left - masses[j], j + 1
        edges.append((j + left / masses[j]) / m)
    edges = np.array([*edges, 1.0])
    return (edges[:-1] + edges[1:]) / 2, np.diff(edges)


def assert_is_quadrature(rule, n):
    nodes, weights = (np.asarray(values, np.float64) for values in rule)
    assert nodes.shape == weights.shape == (n,)
    assert abs(weights.sum() - 1) < 2e-7 * np.sqrt(n)
    assert (weights >= 0).all()
    assert (np.diff(nodes) >= 0).all()
    assert nodes.min() >= 0
    assert nodes.max() <= 1
    xattr.quadrature.checked(rule)


@hypothesis.given(
    n=st.sampled_from([1, 7, 40]),
    probes=st.sampled_from([1, 15, 32]),
    kind=st.sampled_from(["normal", "heavy", "one step", "far from zero"]),
    seed=st.integers(0, 10**6),
)
def test_it_is_the_rule_of_its_definition(n, probes, kind, seed):
    random = np.random.default_rng(seed)
    values = {
        "normal": random.standard_normal(probes + 1),
        "heavy": np.exp(8 * random.standard_normal(probes + 1)),
        "one step": (np.arange(probes + 1) > random.integers(probes)) * 1e-6,
        "far from zero": 1e4 + random.standard_normal(probes + 1),
    }[kind].astype(np.float32)
    rule = concentrated(read, LINE, n, probes=probes, args=(jnp.asarray(values),))
    assert_is_quadrature(rule, n)
    nodes, weights = slow_rule(values, n)
    np.testing.assert_allclose(rule.nodes, nodes, atol=2e-5)
    np.testing.assert_allclose(rule.weights, weights, atol=4e-5)


@pytest.mark.parametrize(
    "values",
    [
        np.full(16, 3.0),
        np.full(16, np.nan),
        np.where(np.arange(16) == 7, np.nan, np.arange(16)),
        np.where(np.arange(16) == 15, np.inf, np.arange(16)),
        np.where(np.arange(16) % 2, 3e38, -3e38),  # the change overflows
    ],
    ids=["constant", "NaN", "one NaN", "infinite", "overflow"],
)
def test_without_a_change_to_follow_the_cells_are_equal(values):
    rule = concentrated(read, LINE, 6, args=(jnp.asarray(values, jnp.float32),))
    np.testing.assert_allclose(rule.nodes, midpoint(6).nodes, atol=1e-6)
    np.testing.assert_allclose(rule.weights, midpoint(6).weights, atol=1e-6)


@pytest.mark.parametrize("size", [3e38, 1e-30])
def test_changes_of_any_size_are_followed(size):
    values = np.where(np.arange(16) < 8, 0.0, size).astype(np.float32)
    rule = concentrated(read, LINE, 6, args=(jnp.asarray(values),))
    np.testing.assert_allclose(rule.nodes, slow_rule(values, 6)[0], atol=1e-5)


def test_changes_below_the_smallest_number_spoil_nothing():
    values = (np.arange(16) % 3 * 1e-42).astype(np.float32)
    assert_is_quadrature(concentrated(read, LINE, 6, args=(jnp.asarray(values),)), 6)


def test_one_node_is_the_centre():
    rule = concentrated(step, LINE, 1, args=(0.2, 50.0))
    assert (float(rule.nodes[0]), float(rule.weights[0])) == (0.5, 1.0)


def test_f_is_evaluated_at_the_probes_alone():
    seen = []

    def f(x):
        jax.debug.callback(lambda value: seen.append(float(value)), x)
        return x**2

    concentrated(f, LINE, 5)
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen), np.arange(16) / 15, atol=1e-6)
    seen.clear()
    concentrated(f, LINE, 5, probes=19)  # two chunks of ten
    jax.effects_barrier()
    np.testing.assert_allclose(sorted(seen), np.arange(20) / 19, atol=1e-6)


@pytest.mark.parametrize("slope", [100.0, 400.0])
def test_a_step_at_an_unknown_place_is_integrated_better_than_by_even_nodes(slope):
    places = np.random.default_rng(0).uniform(0.05, 0.95, 64).astype(np.float32)

    @jax.jit
    @jax.vmap
    def integrals(place):
        args = (place, slope)
        rules = (concentrated(step, LINE, 16, args=args), midpoint(16), midpoint(32))
        return [xattr.path_integral(step, LINE, quadrature=rule, args=args) for rule in rules]

    exact = gain(np.float64(places), slope)
    ours, even, twice = (
        np.sqrt(np.mean((np.asarray(values) - exact) ** 2)) for values in integrals(places)
    )
    assert ours < 0.05 * even
    assert ours < 0.5 * twice  # sixteen forward evaluations are less than sixteen gradients


def test_a_linear_function_is_attributed_exactly_by_any_rule():
    rule = concentrated(step, LINE, 9, args=(0.3, 300.0))
    assert np.ptp(np.asarray(rule.weights)) > 0.05
    slope, x = jnp.array([2.0, -3.0, 0.5]), jnp.array([1.0, 2.0, -4.0])
    attributions = xattr.integrated_gradients(lambda v: slope @ v, x, x - 1, quadrature=rule)
    np.testing.assert_allclose(attributions, slope, rtol=3e-7)


def of_input(x, label, params):
    """The rule of the table's network along the diagonal, and what is integrated by it."""
    path = xattr.paths.aumann_shapley(x)
    f = xattr.targets.logit(table.mlp)
    rule = concentrated(f, path, 6, args=(label, params))
    return rule, xattr.path_integral(f, path, quadrature=rule, args=(label, params))


def test_alone_in_a_batch_and_compiled_it_is_the_same():
    params, labels = table.parameters(), jnp.array([0, 2, 3])
    x = 4 * jnp.stack([table.inputs(seed) for seed in range(3)])
    alone = jax.tree.map(
        lambda *leaves: jnp.stack(leaves),
        *(of_input(row, label, params) for row, label in zip(x, labels, strict=True)),
    )
    batch = jax.vmap(of_input, (0, 0, None))
    for together in (batch(x, labels, params), jax.jit(batch)(x, labels, params)):
        for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(together), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    nodes = alone[0].nodes
    assert np.abs(np.diff(nodes, axis=0)).max() > 0.01  # each example has its own


def test_under_shard_map():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("data")
    x = 4 * jnp.stack([table.inputs(seed) for seed in range(2)])
    each = jax.vmap(lambda row: of_input(row, 1, table.parameters()))
    sharded = jax.jit(jax.shard_map(each, mesh=mesh, in_specs=spec, out_specs=spec))
    for one, other in zip(jax.tree.leaves(each(x)), jax.tree.leaves(sharded(x)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_derivative_takes_the_nodes_as_constants():
    x, params = 4 * table.inputs(), table.parameters()
    f, args = xattr.targets.logit(table.mlp), (1, table.parameters())
    frozen, _ = of_input(x, 1, params)

    def by_frozen(x):
        path = xattr.paths.aumann_shapley(x)
        return jnp.sum(xattr.path_integral(f, path, quadrature=frozen, args=args) ** 2)

    through = jax.grad(lambda x: jnp.sum(of_input(x, 1, params)[1] ** 2))(x)
    np.testing.assert_allclose(through, jax.grad(by_frozen)(x), rtol=1e-4)
    flat = jax.grad(
        lambda x: jnp.sum(
            concentrated(lambda v, w: w * v[0], lambda a: a * x, 3, args=(0 * x[0],))[0]
        )
    )
    assert not flat(x).any()  # where the square root has an infinite slope


def test_new_labels_inputs_and_paths_compile_nothing():
    f = xattr.targets.logit(lambda x, params: table.mlp(x, params))

    def rule(seed, path):
        return concentrated(f, path, 5, args=(seed % 4, table.parameters(seed)))

    def rules(seed):
        x = table.inputs(seed)
        return [
            rule(seed, xattr.paths.aumann_shapley(x)),
            rule(seed, xattr.paths.monotone(baseline=0 * x, x=x, exponents=2.0 + seed)),
        ]

    with count_compilations() as first:
        rules(0)
    with count_compilations() as again:
        rules(1), rules(2)
    assert first["probe_kernel"] == 1
    assert not again


def test_a_curved_path_is_probed_where_it_runs():
    """f(γ(α)) with γ = α³ is the step of f at the cube root of its place."""
    place, slope = 0.3, 400.0
    nodes, weights = concentrated(step, lambda alpha: alpha**3, 12, probes=40, args=(place, slope))
    assert_is_quadrature((nodes, weights), 12)
    values = 1 / (1 + np.exp(-slope * (np.linspace(0, 1, 41) ** 3 - place)))
    np.testing.assert_allclose(nodes, slow_rule(values, 12)[0], atol=1e-4)


def test_pytrees_of_several_dtypes():
    x = {"a": jnp.ones(3), "b": (jnp.ones((), jnp.bfloat16),)}

    def f(x):
        return jnp.sum(x["a"]) ** 2 + 1e-6 * x["b"][0].astype(jnp.float32)

    rule = concentrated(f, xattr.paths.aumann_shapley(x), 5, probes=300)
    assert rule.nodes.dtype == jnp.float32
    nodes, _ = slow_rule((3 * np.linspace(0, 1, 301)) ** 2, 5)
    np.testing.assert_allclose(rule.nodes, nodes, atol=1e-4)  # in bfloat16 probes would coincide
    attributions = xattr.path_integral(f, xattr.paths.aumann_shapley(x), quadrature=rule)
    assert jax.tree.map(lambda leaf: leaf.dtype, attributions) == jax.tree.map(
        lambda leaf: leaf.dtype, x
    )


def test_float64(x64):
    x = jnp.array(1.0, jnp.float64)
    rule = concentrated(step, xattr.paths.aumann_shapley(x), 7, args=(0.4, 50.0))
    assert rule.nodes.dtype == rule.weights.dtype == jnp.float64
    values = 1 / (1 + np.exp(-50 * (np.linspace(0, 1, 16) - 0.4)))
    nodes, weights = slow_rule(values, 7)
    np.testing.assert_allclose(rule.nodes, nodes, atol=1e-12)
    np.testing.assert_allclose(rule.weights, weights, atol=1e-12)
    assert abs(float(rule.weights.sum()) - 1) < 1e-15


def test_a_model_in_bfloat16():
    x, params = table.inputs(), table.parameters()
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (4 * x, 0, params)[::2])
    (nodes, weights), attributions = of_input(low[0], 0, low[1])
    assert_is_quadrature((nodes, weights), 6)
    assert nodes.dtype == weights.dtype == jnp.float32
    assert attributions.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"n": 0}, ValueError, "`n` must be a whole number"),
        ({"n": 2.0}, ValueError, "`n` must be a whole number"),
        ({"probes": 0}, ValueError, "`probes` must be a whole number"),
        ({"probes": True}, ValueError, "`probes` must be a whole number"),
        ({"args": 3}, TypeError, "`args` must be a tuple"),
        ({"f": 1.0}, TypeError, "`f` must be a function"),
        ({"path": 1.0}, TypeError, "`path` must be a function"),
        (
            {"path": lambda alpha: jnp.int32(alpha)},
            TypeError,
            "`path` must return a pytree of floating arrays",
        ),
        ({"f": lambda x: jnp.stack([x, x])}, ValueError, "`f` must return one scalar"),
    ],
)
def test_what_is_wrong_is_named(change, error, text):
    given = {"f": lambda x: x, "path": LINE, "n": 4, **change}
    with pytest.raises(error, match=text):
        concentrated(**given)
