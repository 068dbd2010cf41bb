"""The network with a softer corner: its ends are ReLU and the softplus of the other experiments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from paper_repro.experiments import smoothing
from paper_repro.networks import digits


@pytest.fixture(scope="module")
def network():
    params = digits.initialise("cnn", jax.random.key(0))
    return params, jnp.asarray(np.random.default_rng(0).random((28, 28, 1)), jnp.float32)


def test_a_corner_of_width_0_is_relu():
    z = jnp.array([-3.0, -1e-8, 0.0, 1e-8, 2.0])
    width = jnp.float32(0)
    np.testing.assert_array_equal(smoothing.rounded_relu(z, width), jax.nn.relu(z))
    slope = jax.vmap(jax.grad(smoothing.rounded_relu), (0, None))
    np.testing.assert_array_equal(slope(z, width), [0, 0, 0, 1, 1])
    second = jax.vmap(jax.grad(jax.grad(smoothing.rounded_relu)), (0, None))
    np.testing.assert_array_equal(second(z, width), 0)


@pytest.mark.parametrize("beta", [0.5, 20.0])
def test_a_wider_corner_is_softplus(beta):
    z = jnp.linspace(-4, 4, 9) / beta + 0.01
    expected = lambda z: jax.nn.softplus(beta * z) / beta
    found = lambda z: smoothing.rounded_relu(z, jnp.float32(1 / beta))
    np.testing.assert_allclose(found(z), expected(z), rtol=1e-5, atol=1e-7)
    for times in (1, 2):
        one, other = found, expected
        for _ in range(times):
            one, other = jax.grad(one), jax.grad(other)
        np.testing.assert_allclose(jax.vmap(one)(z), jax.vmap(other)(z), rtol=1e-3, atol=1e-4)


def test_both_ends_are_the_networks_of_the_other_experiments(network):
    params, image = network
    for width, expected in ((0, digits.logits("cnn")), (1 / 20, digits.smooth_logits("cnn"))):
        found = smoothing.model(image, params, jnp.float32(width))
        np.testing.assert_allclose(found, expected(image, params), rtol=1e-4, atol=1e-4)
    sharp, soft = (smoothing.guide(image, params, jnp.float32(w)) for w in (0, 1))
    np.testing.assert_allclose(sharp, digits.smooth_logits("cnn")(image, params), rtol=1e-4)
    np.testing.assert_array_equal(soft, smoothing.model(image, params, jnp.float32(1)))


def test_the_smoothest_good_network():
    accuracies = {1.0: 0.4, 5.0: 0.985, 10.0: 0.98, np.inf: 0.99}
    outcomes = {b: smoothing.Outcome(a, {}, {}, np.zeros(0)) for b, a in accuracies.items()}
    assert smoothing.good(outcomes) == 5.0
