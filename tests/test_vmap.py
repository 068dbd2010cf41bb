"""Each example's result is the same alone and in a batch: of inputs, labels, parameters."""

import jax
import jax.numpy as jnp
import pytest

import xattr
from tests import table

F = xattr.targets.logit(table.mlp)


def stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize(("method", "model"), table.CASES)
def test_batch_equals_single(method, model, jitted):
    attribute, make, args = table.case(method, model)
    examples, keys = [make(seed) for seed in range(3)], jax.random.split(jax.random.key(5), 3)
    batched = jax.vmap(lambda x, key: attribute(x, key, *args))
    result = (jax.jit(batched) if jitted else batched)(stack(examples), keys)
    single = [attribute(x, key, *args) for x, key in zip(examples, keys, strict=True)]
    table.close(result, stack(single))


@pytest.mark.parametrize("method", table.METHODS)
def test_batch_of_labels_and_parameters(method):
    x, key = table.inputs(), jax.random.key(1)
    labels, params = jnp.arange(4), [table.parameters(seed) for seed in range(4)]
    attribute = lambda label, params: table.METHODS[method](F, x, key, (label, params))
    single = [attribute(label, p) for label, p in zip(labels, params, strict=True)]
    table.close(jax.vmap(attribute)(labels, stack(params)), stack(single))


def test_batch_of_baselines():
    x, args = table.inputs(), (1, table.parameters())
    baselines = jnp.stack([table.inputs(seed) for seed in range(5)])
    attribute = lambda baseline: xattr.integrated_gradients(F, x, baseline, args=args)
    table.close(jax.vmap(attribute)(baselines), jnp.stack([attribute(b) for b in baselines]))


def test_batch_of_orders_gives_the_shapley_value():
    f, x = lambda x: jnp.minimum(x[0], x[1]), jnp.array([1.0, 3.0])
    rule = xattr.quadrature.composite(xattr.quadrature.midpoint(6), 2)
    attribute = lambda order: xattr.path_integral(
        f, xattr.paths.coordinatewise(jnp.zeros(2), x, order), quadrature=rule
    )
    maps = jax.vmap(attribute)(jnp.array([[0, 1], [1, 0]]))
    table.close(maps, jnp.array([[0.0, 1.0], [1.0, 0.0]]))
