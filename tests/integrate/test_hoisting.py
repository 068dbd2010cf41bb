"""The affine prefix: found, taken out of the sum over the nodes, and equal to what it replaces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import xattr
from tests import table
from xattr._integrate import straight_line
from xattr.testing import KERNEL, count_compilations

RULE = xattr.quadrature.midpoint(5)
W = np.random.default_rng(0).normal(size=(6, 6))
V = np.random.default_rng(1).normal(size=(6,))
K = np.random.default_rng(2).normal(size=(3, 3, 2, 4))
IMAGE = (6, 6, 2)


def array(values, x):
    return jnp.asarray(values, x.dtype)


def dense(x):
    return jnp.sum(jax.nn.relu(array(W, x) @ x - 1) * array(V, x))


def deep(x):
    h = (x @ array(W, x) + array(V, x)) / 2
    return jnp.sum(jnp.tanh(h @ array(W, x)))


def branches(x):
    """Affine values that are taken in several places, x itself among them."""
    h = array(W, x) @ x
    return jnp.sum(jnp.tanh(h) * x) + jnp.sum(jnp.exp(0.1 * (h + x))) + x[0] + h[1]


def moved(x):
    h = jnp.concatenate([x.reshape(2, 3), x[::-1].reshape(2, 3)], axis=1).T
    h = jnp.pad(h, ((1, 0), (0, 1)))[jnp.array([2, 0, 4])] - jnp.cumsum(h[:3, :1], axis=0)
    h = jnp.where(np.array([True, False, True]), h, -h)
    return jnp.sum(jnp.sin(jnp.einsum("ij,jk->ik", h, array(W[:3, :2], x))))


def affine(x):
    return V.astype(x.dtype) @ (array(W, x) @ x) + 2


def stopped(x):
    h = array(W, x) @ x
    return jnp.sum(jnp.tanh(h) * lax.stop_gradient(h))


def convolved(x):
    """Normalised input, convolution, batch normalisation, mean: all affine; then a ReLU."""
    h = (255 * x - 127) / 128
    h = lax.conv_general_dilated(
        h[None], array(K, x), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = (h - array(K[:1, :1, :1, :] * 2, x)) * array(np.abs(K[1:2, :1, :1]), x) + x.mean()
    return jnp.sum(jax.nn.relu(h) ** 2) + jnp.max(h.mean((1, 2)))


def attended(x):
    """Products of two values that depend on x are not affine."""
    h = x.reshape(3, 2) @ array(W[:2, :2], x)
    return jnp.sum(jax.nn.softmax(h @ h.T) @ h)


def divided(x):
    """A quotient is affine in its numerator alone."""
    return jnp.sum(jnp.tanh(array(W, x) @ x / (x[::-1] + 5)))


_FUNCTIONS = (dense, deep, branches, moved, affine, stopped, attended, divided)
PROGRAMS = {f.__name__: f for f in _FUNCTIONS}


def inputs(f, dtype, seed=3):
    shape = IMAGE if f is convolved else (6,)
    values = np.random.default_rng(seed).normal(size=(2, *shape))
    return jnp.asarray(values, dtype)


@pytest.mark.parametrize("f", [*PROGRAMS.values(), convolved])
def test_equal_to_the_path_integral(f, x64):
    baseline, x = inputs(f, jnp.float64)
    assert straight_line.split_program(f, x, ()) is not None
    hoisted = xattr.integrated_gradients(f, x, baseline, quadrature=RULE, chunk_size=2)
    path = xattr.paths.straight_line(baseline=baseline, x=x)
    expected = xattr.path_integral(f, path, quadrature=RULE)
    np.testing.assert_allclose(hoisted, expected, rtol=1e-11, atol=1e-12)
    assert np.abs(expected).max() > 1e-3


def masked(x):
    """Minus infinity beside affine values: where a line is at its ends it must not become NaN."""
    kept = np.array([True, True, False, True, False, True])
    return jax.nn.softmax(jnp.where(kept, array(W, x) @ x, -jnp.inf)) @ array(V, x)


def padded(x):
    h = jnp.pad(array(W, x) @ x, 1, constant_values=-jnp.inf)
    return jnp.sum(jnp.tanh(lax.reduce_window(h, -jnp.inf, lax.max, (2,), (2,), "VALID")))


def coarse(x):
    """Rounded on purpose: a staircase, which is not affine."""
    return jnp.sum(lax.reduce_precision(array(W, x) @ x, 8, 1) ** 2)


def quantised(x):
    return jnp.sum((array(W, x) @ x / 8).astype(jnp.float8_e4m3fn).astype(x.dtype) ** 2)


def complex_valued(x):
    return jnp.sum(jnp.abs(jnp.fft.fft(array(W, x) @ x)))


def printed(x):
    h = array(W, x) @ x
    y = jnp.tanh(h)
    jax.debug.callback(lambda *_: None, h)
    jax.debug.callback(lambda *_: None, y)
    return jnp.sum(y)


@pytest.mark.parametrize("f", [masked, padded, coarse, quantised, complex_valued, printed])
def test_what_a_review_found(f, x64):
    """At the nodes 0 and 1, too, and next to what is not affine, equal to a loop over the nodes."""
    baseline, x = inputs(f, jnp.float64)
    rule = xattr.quadrature.trapezoid(5)
    attributions = xattr.integrated_gradients(f, x, baseline, quadrature=rule)
    slopes = [jax.grad(f)(baseline + a * (x - baseline)) for a in rule.nodes]
    expected = (x - baseline) * sum(w * s for w, s in zip(rule.weights, slopes, strict=True))
    np.testing.assert_allclose(attributions, expected, rtol=1e-9, atol=1e-10)


def test_a_leaf_of_no_elements():
    def f(x):
        return jnp.sum(jnp.tanh(W.astype(np.float32) @ x["a"])) + jnp.sum(jnp.sin(x["none"]))

    x = {"a": jnp.arange(6.0), "none": jnp.zeros(0)}
    path = xattr.paths.aumann_shapley(x)
    table.close(
        xattr.integrated_gradients(f, x, quadrature=RULE),
        xattr.path_integral(f, path, quadrature=RULE),
    )


def test_sums_over_a_named_axis():
    """Collectives are effects, and no part of the prefix."""
    xs = jnp.stack([inputs(None, jnp.float32, seed)[0] for seed in range(4)])

    def attribute(method):
        def one(x):
            h = lambda x: W.astype(np.float32) @ x
            return method(lambda x: jnp.sum(jnp.tanh(h(x) - lax.pmean(h(x), "b"))), x)

        return jax.jit(jax.vmap(one, axis_name="b"))(xs)

    hoisted = attribute(lambda f, x: xattr.integrated_gradients(f, x, quadrature=RULE))
    plain = attribute(lambda f, x: xattr.path_integral(f, lambda a: a * x, quadrature=RULE))
    table.close(hoisted, plain)


def test_weights_that_vary_over_devices_beside_an_input_that_does_not():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
    x, weights = inputs(dense, jnp.float32)[1], jnp.asarray(W, jnp.float32)
    f = lambda x, w: jnp.sum(jnp.tanh(w @ x))

    def part(w, x):
        return xattr.integrated_gradients(f, x, args=(w,), quadrature=RULE)[None]

    mapped = jax.shard_map(part, mesh=mesh, in_specs=(P("d", None), P()), out_specs=P("d"))
    expected = jnp.stack([part(half, x)[0] for half in (weights[:3], weights[3:])])
    table.close(jax.jit(mapped)(weights, x), expected)


def test_examples_sharded_over_an_explicit_mesh():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
    xs = jnp.stack([inputs(dense, jnp.float32, seed)[0] for seed in range(4)])
    f = lambda xs: jnp.sum(jnp.tanh(xs @ W.astype(np.float32)))
    run = functools.partial(xattr.integrated_gradients, f, quadrature=RULE)
    with jax.set_mesh(mesh):
        sharded = jax.jit(run)(jax.device_put(xs, NamedSharding(mesh, P("d", None))))
    table.close(sharded, run(xs))


@given(order=st.permutations(range(6)), seed=st.integers(0, 99))
def test_any_chain_of_affine_operations_is_hoisted_whole(order, seed):
    operations = [
        lambda h: W.astype(np.float32) @ h,
        lambda h: h[::-1],
        lambda h: 2 * h - 1,
        lambda h: jnp.where(np.arange(6) % 2 == 0, h, -h),
        lambda h: h + jnp.cumsum(h),
        lambda h: jnp.roll(h, 2).reshape(3, 2).T.reshape(6),
    ]

    def prefix(x):
        return functools.reduce(lambda h, i: operations[i](h), order, x)

    x = inputs(None, jnp.float32, seed)[0]
    split = straight_line.split_program(lambda x: jnp.sum(jnp.tanh(prefix(x))), x, ())
    (value,) = split.prefix(x)
    np.testing.assert_allclose(value, prefix(x), rtol=1e-5, atol=1e-5)
    assert next(e.name for e in split.after.equations if e.dependents) == "tanh"


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.sum(jnp.tanh(2 * x)),  # affine, but no product with weights to save
        lambda x: jnp.sum(jnp.tanh(x) @ W.astype(x.dtype)),
        lambda x: (x * jnp.exp(x)) @ V.astype(x.dtype),
        lambda x: lax.dynamic_slice(x, (jnp.argmax(x),), (1,))[0],
        jax.checkpoint(lambda x: jnp.sum(jnp.tanh(W.astype(x.dtype) @ x))),
    ],
)
def test_where_nothing_can_be_hoisted_the_kernel_is_the_one_of_all_paths(f):
    baseline, x = inputs(f, jnp.float32)
    assert straight_line.split_program(f, x, ()) is None
    with count_compilations() as counts:
        xattr.integrated_gradients(f, x, baseline, quadrature=RULE)
        xattr.path_integral(f, lambda a: a**2 * x, quadrature=RULE)
    assert counts[KERNEL] == 1


def test_no_product_of_the_prefix_is_made_per_node():
    """The kernel of the first layer alone holds none; that of two layers only the second's."""
    x = jnp.ones(6)

    def products(f):
        rule = xattr.quadrature.midpoint(48)
        run = lambda x: xattr.integrated_gradients(f, x, quadrature=rule, chunk_size=16)
        (scan,) = [e for e in jax.make_jaxpr(run)(x).eqns if e.primitive.name == "scan"]
        return str(scan.params["jaxpr"]).count("dot_general")

    def two(x):
        return jnp.sum(jnp.tanh(W.astype(np.float32) @ jnp.tanh(W.astype(np.float32) @ x)))

    assert products(dense) == 1  # the sum over the nodes
    assert products(two) == 3  # and the second layer, forward and backward
    baseline = lambda x: xattr.path_integral(two, lambda a: a * x)
    assert str(jax.make_jaxpr(baseline)(x)).count("dot_general") == 5


def test_pytrees_labels_and_parameters(x64):
    def f(x, label, weights):
        h = x["a"] @ weights + x["b"][0]
        return jnp.tanh(h)[label] * x["b"][1][0]

    x = {"a": jnp.arange(1.0, 7.0), "b": (jnp.ones(6), jnp.full(3, 2.0))}
    x, weights = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), x), jnp.asarray(W)
    path = xattr.paths.aumann_shapley(x)
    with count_compilations() as counts:
        for label in range(3):
            args = (label, weights * (label + 1))
            table.close(
                xattr.integrated_gradients(f, x, args=args, quadrature=RULE),
                xattr.path_integral(f, path, args=args, quadrature=RULE),
            )
            xattr.aumann_shapley(f, x, args=args, quadrature=RULE)
    assert counts[KERNEL] == 2  # one for the straight line, one for all other paths
    assert counts["prefix_kernel"] == counts["transposed_kernel"] == 1


def test_alone_in_a_batch_and_differentiated():
    xs = jnp.stack([inputs(branches, jnp.float32, seed)[0] for seed in range(3)])
    run = functools.partial(xattr.integrated_gradients, branches, quadrature=RULE)
    alone = jnp.stack([run(x) for x in xs])
    table.close(jax.vmap(run)(xs), alone)
    table.close(jax.jit(jax.vmap(run))(xs), alone)
    unhoisted = lambda x: xattr.path_integral(
        branches, xattr.paths.aumann_shapley(x), quadrature=RULE
    )
    table.close(jax.jacrev(run)(xs[0]), jax.jacrev(unhoisted)(xs[0]))


def test_derivatives_where_the_prefix_does_not_change(x64):
    """A value of L that is the same at both ends still moves with x."""
    blocks = np.kron(np.eye(2), W[:3, :3])
    f = lambda x: jnp.prod(jnp.tanh((blocks @ x).reshape(2, 3)).sum(1))
    baseline, x = inputs(dense, jnp.float64)
    x = x.at[:3].set(baseline[:3])
    hoisted = lambda x: xattr.integrated_gradients(f, x, baseline, quadrature=RULE)
    path = lambda x: xattr.paths.straight_line(baseline=baseline, x=x)
    plain = lambda x: xattr.path_integral(f, path(x), quadrature=RULE)
    expected = jax.jacrev(plain)(x)
    np.testing.assert_allclose(jax.jacrev(hoisted)(x), expected, rtol=1e-10, atol=1e-12)
    assert np.abs(expected[3:, :3]).max() > 1e-3


def test_a_feature_at_its_baseline_gets_exactly_nothing():
    baseline, x = inputs(dense, jnp.float32)
    x = x.at[2].set(baseline[2])
    attributions = xattr.integrated_gradients(dense, x, baseline)
    assert attributions[2] == 0
    assert (np.delete(attributions, 2) != 0).all()


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_examples_and_nodes_over_devices(axis_type):
    mesh = jax.make_mesh((2, 4), ("batch", "node"), axis_types=(axis_type, axis_type))
    xs = jnp.stack([inputs(branches, jnp.float32, seed)[0] for seed in range(4)])
    rule = jax.tree.map(jnp.asarray, xattr.quadrature.midpoint(8))

    def part(xs, rule):
        run = functools.partial(xattr.integrated_gradients, branches, quadrature=rule)
        return lax.psum(jax.vmap(run)(xs), "node")

    specs = (P("batch"), P("node"))
    mapped = jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=P("batch"))
    alone = functools.partial(xattr.integrated_gradients, branches, quadrature=rule)
    expected = jnp.stack([alone(x) for x in xs])
    placed = [
        jax.device_put(v, NamedSharding(mesh, s)) for v, s in zip((xs, rule), specs, strict=True)
    ]
    table.close(jax.jit(mapped)(*placed), expected)


def test_a_half_precision_prefix_is_applied_in_float32():
    """The sum over the nodes is not rounded to bfloat16 on its way back through the prefix."""
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)), jnp.bfloat16)

    def f(x):
        return jnp.sum(jnp.tanh(x.astype(jnp.bfloat16) @ weights / 8).astype(jnp.float32) ** 2)

    xs = jnp.asarray(np.random.default_rng(1).normal(size=(16, 64)), jnp.float32)
    many = xattr.quadrature.midpoint(256)

    def attributions(method, f, xs):
        return np.asarray(jax.vmap(lambda x: method(f, x))(xs))

    hoisted = attributions(lambda f, x: xattr.integrated_gradients(f, x, quadrature=many), f, xs)
    plain = attributions(
        lambda f, x: xattr.path_integral(f, lambda a: a * x, quadrature=many), f, xs
    )
    with jax.enable_x64(True):
        wide = lambda x: jnp.sum(jnp.tanh(x @ np.asarray(weights, float) / 8) ** 2)
        exact = attributions(
            lambda f, x: xattr.integrated_gradients(f, x), wide, jnp.asarray(xs, float)
        )
    assert np.linalg.norm(hoisted - exact) < np.linalg.norm(plain - exact)


def test_bfloat16_sums_in_float32():
    """Many nodes lose nothing: the sum over them is not taken in the dtype of x."""
    x = jnp.asarray(inputs(dense, jnp.float32)[0], jnp.bfloat16)
    many = xattr.integrated_gradients(dense, x, quadrature=xattr.quadrature.midpoint(2048))
    wide = xattr.integrated_gradients(dense, x.astype(jnp.float32))
    assert many.dtype == jnp.bfloat16
    np.testing.assert_allclose(many.astype(jnp.float32), wide, rtol=0.04, atol=0.02)
