"""Each example's result is the same alone and in a batch: of inputs, labels, parameters."""

import jax
import jax.numpy as jnp
import pytest

import xattr
from tests import table

CASES = sorted({*table.in_turn(0), *table.in_turn(1)})  # every method; two models, where it has two


@pytest.mark.parametrize(("method", "name"), CASES)
def test_batch_equals_single(method, name):
    """Patterns are quotients of small differences: of one example, JAX 0.12 rounds them to 6e-6.

    In float64 they are compared, therefore, where batch and single agree to 1e-13.
    """
    wide = method == "fit_patterns"
    with jax.enable_x64(wide):
        xs, keys, args = table.batch(name, 3, jnp.float64 if wide else jnp.float32)
        batched = jax.vmap(table.case(method, name), (0, 0, *[None] * len(args)))
        expected = table.singles(method, name, xs, keys, args)
        table.close(jax.jit(batched)(xs, keys, *args), expected, 1e-11 if wide else 2e-6)


@pytest.mark.parametrize("method", list(table.ROWS)[::3])  # the most expensive way to run
def test_batch_of_everything_outside_jit(method):
    """Inputs, keys, labels and parameters, one operation after the other."""
    name = table.first(method)
    xs, keys, _ = table.batch(name, 3)
    args = [table.model(name).args(seed) for seed in range(3)]
    take = lambda seed: jax.tree.map(lambda leaf: leaf[seed], (xs, keys))
    expected = [table.program(method, name)(*take(seed), *args[seed]) for seed in range(3)]
    found = jax.vmap(table.case(method, name))(xs, keys, *table.stack(args))
    table.close(found, table.stack(expected))


def test_batch_of_baselines():
    f, x, args = xattr.targets.logit(table.mlp), table.inputs(), (1, table.parameters())
    baselines = jnp.stack([table.inputs(seed) for seed in range(5)])
    attribute = lambda baseline: xattr.integrated_gradients(f, x, baseline, args=args)
    table.close(jax.vmap(attribute)(baselines), jnp.stack([attribute(b) for b in baselines]))


def test_batch_of_orders_gives_the_shapley_value():
    f, x = lambda x: jnp.minimum(x[0], x[1]), jnp.array([1.0, 3.0])
    rule = xattr.quadrature.composite(xattr.quadrature.midpoint(6), 2)
    attribute = lambda order: xattr.path_integral(
        f, xattr.paths.coordinatewise(baseline=jnp.zeros(2), x=x, order=order), quadrature=rule
    )
    maps = jax.vmap(attribute)(jnp.array([[0, 1], [1, 0]]))
    table.close(maps, jnp.array([[0.0, 1.0], [1.0, 0.0]]))
