"""Attributions are differentiable, with respect to the input and the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import xattr
from tests import table


@pytest.mark.parametrize("method", table.METHODS)
@pytest.mark.parametrize("model", ["plain", "tree"])
@pytest.mark.usefixtures("x64")
def test_gradient_equals_finite_difference(method, model):
    f, make, args = table.models(jnp.float64)[model]
    x, key = make(), jax.random.key(2)
    direction = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size * 1.0)).reshape(leaf.shape), x
    )
    slope = jax.tree.map(lambda leaf: 0.3 + 0.1 * leaf, args[1])

    def loss(x, params):
        maps = table.METHODS[method](f, x, key, (args[0], params))
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(maps))

    def along(t):
        move = lambda leaf, step: leaf + t * step
        return loss(jax.tree.map(move, x, direction), jax.tree.map(move, args[1], slope))

    grads = jax.grad(loss, argnums=(0, 1))(x, args[1])
    dot = sum(
        float(jnp.sum(g * d))
        for g, d in zip(jax.tree.leaves(grads), jax.tree.leaves((direction, slope)), strict=True)
    )
    step = 1e-5
    difference = float(along(step) - along(-step)) / (2 * step)
    np.testing.assert_allclose(dot, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("method", table.METHODS)
def test_gradient_under_jit_equals_eager(method):
    f, make, args = table.models()["plain"]

    def loss(x):
        return jnp.sum(table.METHODS[method](f, x, jax.random.key(2), args) ** 2)

    table.close(jax.jit(jax.grad(loss))(make()), jax.grad(loss)(make()), 1e-5)


def test_gradient_with_respect_to_an_nnx_module():
    """A loss of attributions trains the module: the same slope as of its arrays, passed as args."""
    net, x = table.NnxMLP(), table.inputs()

    def loss(net):
        return jnp.sum(xattr.integrated_gradients(xattr.targets.logit(net), x, args=(1,)) ** 2)

    graph, state = nnx.split(net)
    f = lambda x, state: nnx.merge(graph, state)(x)[1]
    expected = jax.grad(lambda s: jnp.sum(xattr.integrated_gradients(f, x, args=(s,)) ** 2))(state)
    slopes = nnx.grad(loss)(net)
    assert len(jax.tree.leaves(slopes)) == 4
    for ours, theirs in zip(jax.tree.leaves(slopes), jax.tree.leaves(expected), strict=True):
        table.close(ours, theirs, 1e-5)
    assert float(jnp.abs(slopes.hidden.kernel[...]).max()) > 1e-3


def test_gradient_with_respect_to_the_baseline():
    f, make, args = table.models()["plain"]
    x = make()
    total = lambda b: jnp.sum(xattr.integrated_gradients(f, x, b, args=args))
    # The sum is f(x) − f(baseline), so its slope is −∇f(baseline).
    baseline = make(3)
    table.close(jax.grad(total)(baseline), -xattr.gradient(f, baseline, args=args), 1e-4)
