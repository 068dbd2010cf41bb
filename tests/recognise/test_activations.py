"""A function of each element is one operation, however it is composed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from xattr import composites, rules

pytestmark = pytest.mark.usefixtures("x64")

RANDOM = np.random.default_rng(0)
W, V, X, BASELINE = (RANDOM.standard_normal(shape) for shape in ((6, 8), 8, 6, 6))
zero = functools.partial(xattr.lrp, composite=composites.every_layer(rules.zero()))
reveal_cancel = functools.partial(xattr.deep_lift, variant="reveal_cancel")


def network(activation):
    """Return a network without any bias."""
    return lambda x: activation(x @ W) @ V


def kinds(activation):
    return [row.kind for row in xattr.explain(network(activation), X).operations][1:-1]


ACTIVATIONS = {
    "squareplus": jax.nn.squareplus,
    "hard sigmoid": jax.nn.hard_sigmoid,
    "2 sigmoid(2x) - 1": lambda z: 2 * jax.nn.sigmoid(2 * z) - 1,
    "1 / (1 + exp(-x))": lambda z: 1 / (1 + jnp.exp(-z)),
    "x / (1 + exp(-x))": lambda z: z / (1 + jnp.exp(-z)),
    "log cosh": lambda z: jnp.log(jnp.cosh(z)),
    "log(1 + exp(x))": lambda z: jnp.log(1 + jnp.exp(z)),
    "log(1 + exp(relu(x)))": lambda z: jnp.log(1 + jnp.exp(jax.nn.relu(z))),
    "tanh of exponentials": lambda z: (jnp.exp(z) - jnp.exp(-z)) / (jnp.exp(z) + jnp.exp(-z)),
    "smooth |x|": lambda z: jnp.sqrt(z**2 + 1) - 1,
    "Gaussian": lambda z: 1 - jnp.exp(-(z**2)),
    "x + tanh(x)": lambda z: z + jnp.tanh(z),
    "celu": jax.nn.celu,
    "PReLU of terms": lambda z: jnp.maximum(z, 0) + V * jnp.minimum(z, 0),
    "sparse_plus": jax.nn.sparse_plus,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_one_operation(name):
    """Its own numbers are not biases, and no method that is for ReLU alone passes it."""
    activation = ACTIVATIONS[name]
    f = network(activation)
    assert kinds(activation) == ["activation"]
    with_bias, without = (
        xattr.lrp(f, X, composites.every_layer(rules.epsilon(0.1)), bias=bias)
        for bias in ("include", "exclude")
    )
    np.testing.assert_allclose(with_bias, without, rtol=1e-12)
    np.testing.assert_allclose(zero(f, X).sum(), f(X), rtol=1e-9)
    difference = xattr.deep_lift(f, X, BASELINE).sum()
    np.testing.assert_allclose(difference, f(X) - f(BASELINE), rtol=1e-9)
    for method in (xattr.guided_backprop, xattr.deconvnet):
        with pytest.raises(xattr.UncoveredPrimitiveError, match="an activation that is not a ReLU"):
            method(f, X)


SPELLINGS = {
    "elu": (jax.nn.elu, jax.nn.celu),
    "tanh": (jnp.tanh, ACTIVATIONS["2 sigmoid(2x) - 1"]),
    "tanh of exponentials": (jnp.tanh, ACTIVATIONS["tanh of exponentials"]),
    "sigmoid": (jax.nn.sigmoid, ACTIVATIONS["1 / (1 + exp(-x))"]),
    "swish": (jax.nn.silu, ACTIVATIONS["x / (1 + exp(-x))"]),
    "softplus": (jax.nn.softplus, ACTIVATIONS["log(1 + exp(x))"]),
    "squareplus": (jax.nn.squareplus, lambda z: z / 2 + jnp.sqrt(1 + (z / 2) ** 2)),
    "hard sigmoid": (jax.nn.hard_sigmoid, lambda z: jnp.clip(z / 6 + 0.5, 0, 1)),
    "PReLU": (lambda z: jnp.where(z > 0, z, V * z), ACTIVATIONS["PReLU of terms"]),
    "cube": (lambda z: z**3, lambda z: z * z * z),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_two_spellings_of_a_function_give_one_map(name):
    one, other = map(network, SPELLINGS[name])
    np.testing.assert_allclose(one(X), other(X), rtol=1e-9)
    plus = composites.every_layer(rules.z_plus())
    methods = (
        zero,
        lambda f, x: xattr.lrp(f, x, plus, bias="include"),
        lambda f, x: xattr.deep_lift(f, x, BASELINE),
        lambda f, x: reveal_cancel(f, x, BASELINE),
    )
    for method in methods:
        np.testing.assert_allclose(method(one, X), method(other, X), rtol=1e-7)


def _of_branches(z):
    """Return relu(z), element by element by `lax.cond`."""
    return jax.vmap(lambda z: jax.lax.cond(z > 0, lambda z: z, lambda z: 0 * z, z))(z)


RECTIFIERS = {
    "cond, vmapped": (_of_branches, jax.nn.relu),
    "min(relu(x), 6)": (lambda z: jnp.minimum(jax.nn.relu(z), 6), jax.nn.relu6),
    "relu(x) - relu(x - 6)": (lambda z: jax.nn.relu(z) - jax.nn.relu(z - 6), jax.nn.relu6),
    "(x + |x|) / 2": (lambda z: (z + jnp.abs(z)) / 2, jax.nn.relu),
    "-min(-x, 0)": (lambda z: -jnp.minimum(-z, 0), jax.nn.relu),
    "x - min(x, 0)": (lambda z: z - jnp.minimum(z, 0), jax.nn.relu),
    "relu(relu(x))": (lambda z: jax.nn.relu(jax.nn.relu(z)), jax.nn.relu),
    "0.75 x + 0.25 |x|": (
        lambda z: 0.75 * z + 0.25 * jnp.abs(z),
        functools.partial(jax.nn.leaky_relu, negative_slope=0.5),
    ),
}


@pytest.mark.parametrize("name", RECTIFIERS)
def test_a_rectifier_is_one_however_it_is_composed(name):
    one, other = map(network, RECTIFIERS[name])
    assert {*kinds(RECTIFIERS[name][1])} <= {*kinds(RECTIFIERS[name][0])}
    x = 4 * X  # beyond 6
    for method in (xattr.guided_backprop, xattr.deconvnet, xattr.lrp, reveal_cancel):
        np.testing.assert_allclose(method(one, x), method(other, x), rtol=1e-12)


def test_a_gradient_that_f_stops():
    """DeepLIFT is complete where x itself chooses, and an error where a mask does."""
    by_value = network(lambda z: jnp.where(z > 0, z, jax.lax.stop_gradient(z)))
    by_mask = network(lambda z: jnp.where(V > 0, z, jax.lax.stop_gradient(z)))
    for f in (by_value, by_mask):
        np.testing.assert_allclose(xattr.gradient(f, X), jax.grad(f)(X), rtol=1e-12)
    np.testing.assert_allclose(xattr.deep_lift(by_value, X).sum(), by_value(X), rtol=1e-9)
    with pytest.raises(xattr.UncoveredPrimitiveError, match="stop_gradient"):
        xattr.deep_lift(by_mask, X)


COMPOSED = {
    "1 - relu(1 - x)": (lambda z: 1 - jax.nn.relu(1 - z), ["relu", "sum"]),
    "2 relu(x) + 1": (lambda z: 2 * jax.nn.relu(z) + 1, ["relu", "sum"]),
    "relu(x - 1)": (lambda z: jax.nn.relu(z - 1), ["relu"]),
    "relu(x) - relu(x - 1)": (
        lambda z: jax.nn.relu(z) - jax.nn.relu(z - 1),
        ["relu", "sum", "relu", "sum"],
    ),
    "sqrt(relu(x))": (lambda z: jnp.sqrt(jax.nn.relu(z)), ["relu", "power"]),
    "relu(x)²": (lambda z: jax.nn.relu(z) ** 2, ["relu", "power"]),
    "relu(x) + x²": (lambda z: jax.nn.relu(z) + z**2, ["relu", "power", "sum"]),
    "scaled": (lambda z: jax.nn.relu(z) * V + V, ["relu", "scale"]),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_what_is_made_of_relus_stays_so(name):
    """Each ReLU takes its rule: the oracle is the gradient with the ReLU's own replaced."""
    activation, expected = COMPOSED[name]
    assert kinds(activation) == expected

    @jax.custom_vjp
    def guided(z):
        return jnp.maximum(z, 0)

    guided.defvjp(
        lambda z: (guided(z), z),
        lambda z, g: (jnp.where((z > 0) & (g > 0), g, 0),),
    )
    f = network(activation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.nn, "relu", guided)
        oracle = jax.grad(f)(X)
    np.testing.assert_allclose(xattr.guided_backprop(f, X), oracle, rtol=1e-12)


def test_reveal_cancel_takes_a_function_of_relus_for_one():
    """Clipping to (0, 1), spelled with ReLUs and with min and max."""
    spelled = network(lambda z: jax.nn.relu(z) - jax.nn.relu(z - 1))
    clipped = network(lambda z: jnp.clip(z, 0, 1))
    maps = [reveal_cancel(f, X, BASELINE) for f in (spelled, clipped)]
    np.testing.assert_allclose(*maps, rtol=1e-12)


POWERS = {
    "exp(x / 2) + 1": lambda z: jnp.exp(z / 2) + 1,
    "x + x²": lambda z: z + z * z,
    "x log x": lambda z: z * jnp.log(z),
    "1 / sqrt(x)": lambda z: 1 / jnp.sqrt(z + 1e-6),
    "1 / x": lambda z: 1 / z,
}


@pytest.mark.parametrize("name", POWERS)
def test_powers_and_what_negative_numbers_have_no_value_of_keep_their_gradient(name):
    assert kinds(POWERS[name]) == ["power"]
    f = lambda x: POWERS[name](x @ jnp.abs(W)) @ V
    x = jnp.abs(X)
    np.testing.assert_allclose(xattr.guided_backprop(f, x), jax.grad(f)(x), rtol=1e-12)


GATES = {
    "jnp.select": lambda z: jnp.select([z > 0], [z], 0.0),
    "jnp.piecewise": lambda z: jnp.piecewise(z, [z > 0], [lambda z: z, 0.0]),
    "a table": lambda z: z * jnp.array([0.0, 1.0])[(z > 0).astype(int)],
    "a gate of another value": lambda z: jnp.where(z[::-1] > 0, z, 0),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_that_x_opens_is_no_gradient(name):
    """It may be an activation: guided backpropagation says so, LRP and the gradient pass it."""
    f = network(GATES[name])
    for method in (xattr.guided_backprop, xattr.deconvnet):
        with pytest.raises(xattr.UncoveredPrimitiveError, match=r"x through gt \("):
            method(f, X)
    open_ = xattr.guided_backprop(f, X, on_uncovered="gradient")
    np.testing.assert_allclose(open_, jax.grad(f)(X), rtol=1e-12)
    np.testing.assert_allclose(zero(f, X).sum(), f(X), rtol=1e-9)


def test_the_function_begins_where_a_value_is_mixed_or_used_again():
    """A bias that is an array, a value that f uses twice, a cast: what lies before is not in it."""
    biased = lambda x: jax.nn.sigmoid(2 * (x @ W + V)) @ V
    assert [r.kind for r in xattr.explain(biased, X).operations] == ["dense", "activation", "dense"]
    assert abs(zero(biased, X, bias="include").sum() - biased(X)) > 1e-3  # the bias has its share

    def twice(x):
        shifted = x @ W + 1
        return jnp.sum(jnp.exp(shifted)[::-1] * shifted)

    assert [r.kind for r in xattr.explain(twice, X).operations][:2] == ["dense", "power"]
    half = lambda x: jax.nn.relu((x @ W).astype(jnp.bfloat16) + 1).astype(x.dtype) @ V
    swish = lambda x: jnp.sum(jax.nn.silu((x @ W).astype(jnp.bfloat16)))
    assert "product" not in [r.kind for r in xattr.explain(swish, X).operations]
    full = lambda x: jax.nn.relu(x @ W + 1) @ V
    for method in (xattr.guided_backprop, zero, reveal_cancel):
        np.testing.assert_allclose(method(half, X), method(full, X), rtol=0.05, atol=0.02)
