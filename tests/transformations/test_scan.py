"""Every method inside lax.scan and lax.cond."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests import table


@pytest.mark.parametrize(("method", "name"), table.in_turn(1))
def test_branch_of_a_cond_in_a_scan(method, name):
    """Over three examples, of which the second is left out."""
    attribute = table.case(method, name)
    xs, keys, args = table.batch(name, 3)
    expected = table.singles(method, name, xs, keys, args)

    def body(number, example):
        x, key, take = example
        form = jax.eval_shape(attribute, x, key, *args)
        nothing = lambda: jax.tree.map(lambda leaf: jnp.full(leaf.shape, 7, leaf.dtype), form)
        return number + 1, lax.cond(take, lambda: attribute(x, key, *args), nothing)

    number, maps = lax.scan(body, 0, (xs, keys, jnp.array([True, False, True])))
    assert number == 3
    table.close(maps, jax.tree.map(lambda leaf: leaf.at[1].set(7), expected))
