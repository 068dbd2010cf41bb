"""Attributions are differentiable, with respect to the input and the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import xattr
from tests import table

CASES = [
    (method, "tree" if number % 2 and "tree" in row.models else row.models[0])
    for number, (method, row) in enumerate(table.ROWS.items())
    if row.differentiable
]


@pytest.mark.parametrize(("method", "name"), CASES)
@pytest.mark.usefixtures("x64")
def test_gradient_equals_finite_difference(method, name):
    """In float64, with respect to the input and all parameters at once."""
    model, attribute, key = table.model(name), table.case(method, name), jax.random.key(2)
    label, *params = model.args(0, "float64")
    point = (model.inputs(0, "float64"), params)
    direction = jax.tree.map(
        lambda leaf: jnp.cos(jnp.arange(leaf.size * 1.0)).reshape(leaf.shape) + 0.1 * leaf, point
    )

    def loss(point):
        maps = attribute(point[0], key, label, *point[1])
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(maps))

    along = jax.jit(jax.value_and_grad(loss))
    move = lambda step: jax.tree.map(lambda leaf, d: leaf + step * d, point, direction)
    grads = along(point)[1]
    products = jax.tree.map(lambda g, d: float(jnp.sum(g * d)), grads, direction)
    step = 1e-5
    difference = float(along(move(step))[0] - along(move(-step))[0]) / (2 * step)
    assert abs(difference) > 1e-4
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), difference, rtol=1e-6, atol=1e-8)
    if CASES.index((method, name)) % 3 == 0:
        table.close(jax.grad(loss)(point), grads, 1e-12)  # the host drives the loops


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
