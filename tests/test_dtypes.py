"""Every method in every precision: the result has the dtype of x, and its accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import table

TOLERANCE = {"bfloat16": 0.1, "float16": 0.02, "float32": 1e-4, "float64": 1e-12}


def run(method, model, dtype):
    f, make, (label, params) = table.models(dtype)[model]
    args = (label, jax.tree.map(lambda leaf: leaf.astype(dtype), params))
    return table.METHODS[method](f, make(dtype=dtype), jax.random.key(0), args)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("model", ["plain", "tree"])
@pytest.mark.parametrize("method", table.METHODS)
@pytest.mark.usefixtures("x64")
def test_precision(method, model, dtype):
    result = run(method, model, dtype)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(result)} == {dtype}
    for leaf in jax.tree.leaves(result):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()
        assert not leaf.weak_type
    # The noise of a key depends on the precision it is drawn in: compare where there is none.
    if not method.startswith(("smooth", "var", "expected")):
        expected = run(method, model, "float64")
        size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
        difference = [
            np.abs(np.asarray(a, np.float64) - np.asarray(b)).max()
            for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True)
        ]
        assert max(difference) <= TOLERANCE[dtype] * max(1.0, size)


@pytest.mark.parametrize("method", table.METHODS)
def test_half_precision_inside_jit_equals_eager(method):
    f, make, args = table.models(jnp.bfloat16)["plain"]
    attribute = lambda x: table.METHODS[method](f, x, jax.random.key(0), args)
    x = make()
    inside, outside = jax.jit(attribute)(x), attribute(x)
    assert inside.dtype == outside.dtype == jnp.bfloat16
    # XLA may keep float32 between fused operations inside jit: a few units in the last place.
    table.close(inside, outside, 0.06)
