"""Every method under jit gives what it gives outside."""

import jax
import pytest

from tests import table


@pytest.mark.parametrize(("method", "model"), table.CASES)
def test_jit_equals_eager(method, model):
    attribute, make, args = table.case(method, model)
    x, key = make(), jax.random.key(3)
    expected = attribute(x, key, *args)
    table.close(jax.jit(attribute)(x, key, *args), expected)
    assert jax.tree.structure(expected) == jax.tree.structure(x)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), expected) == jax.tree.map(
        lambda a: (a.shape, a.dtype), x
    )
