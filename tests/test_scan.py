"""Every method inside lax.scan, cond and checkpoint."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests import table


@pytest.mark.parametrize("method", table.METHODS)
def test_scan_over_examples(method):
    attribute, make, args = table.case(method, "plain")
    examples, key = jnp.stack([make(seed) for seed in range(3)]), jax.random.key(5)
    _, maps = lax.scan(lambda carry, x: (carry, attribute(x, key, *args)), 0, examples)
    table.close(maps, jnp.stack([attribute(x, key, *args) for x in examples]))


@pytest.mark.parametrize("model", ["tree", "linen", "nnx"])
@pytest.mark.parametrize("method", ["integrated_gradients", "smooth_grad", "expected_gradients"])
def test_scan_over_examples_of_every_model(method, model):
    attribute, make, args = table.case(method, model)
    examples = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[make(seed) for seed in range(2)])
    key = jax.random.key(5)
    _, maps = lax.scan(lambda carry, x: (carry, attribute(x, key, *args)), 0, examples)
    table.close(maps, jax.vmap(lambda x: attribute(x, key, *args))(examples))


@pytest.mark.parametrize("method", table.METHODS)
def test_branch_of_cond(method):
    attribute, make, args = table.case(method, "plain")
    x, key = make(), jax.random.key(5)
    chosen = jax.jit(
        lambda take, x: lax.cond(take, lambda: attribute(x, key, *args), lambda: jnp.zeros_like(x))
    )
    table.close(chosen(True, x), attribute(x, key, *args))


@pytest.mark.parametrize("method", table.METHODS)
def test_checkpoint_changes_nothing(method):
    attribute, make, args = table.case(method, "plain")
    x, key = make(), jax.random.key(5)
    loss = lambda attribute: lambda x: jnp.sum(attribute(x, key, *args) ** 2)
    plain, saved = loss(attribute), loss(jax.checkpoint(attribute))
    table.close(saved(x), plain(x))
    table.close(jax.grad(saved)(x), jax.grad(plain)(x), 1e-5)
