"""Every method in every precision: the result has the dtype of x, and its accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import table

TOLERANCE = {"bfloat16": 0.05, "float16": 5e-3, "float32": 5e-6}
JITTED = [("bfloat16", "float32"), ("float16",)]
"""In turn: to compile is what takes the time."""
MODELS = {m: n for m, n in table.in_turn(1) if n not in ("linen", "nnx")}  # in float32


@pytest.mark.parametrize(("number", "method"), list(enumerate(table.ROWS)))
@pytest.mark.usefixtures("x64")
def test_precision(number, method):
    name = MODELS.get(method, table.first(method))
    row, model, key = table.ROWS[method], table.model(name), jax.random.key(0)
    eager, jitted = table.case(method, name), table.program(method, name)
    run = lambda call, dtype: call(model.inputs(0, dtype), key, *model.args(0, dtype))
    results = [(dtype, run(jitted, dtype)) for dtype in JITTED[number % 2]]
    results.append(("bfloat16", run(eager, "bfloat16")))
    # Noise is drawn in float32 at least, and is other noise in float64.
    expected = run(jitted, "float32" if row.noisy else "float64")
    bound = max(1.0, table.size(expected))
    for dtype, result in results:
        wide = "float32"  # some results that are not like x are at least in float32
        for ours, theirs in zip(*map(jax.tree.leaves, (result, expected)), strict=True):
            assert ours.dtype == dtype or (ours.dtype == wide and not row.like_x)
            assert not ours.weak_type
            difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
            assert np.abs(difference).max() <= TOLERANCE[dtype] * bound
    assert {leaf.dtype for leaf in jax.tree.leaves(expected)} == {
        np.dtype("float32" if row.noisy else "float64")
    }


@pytest.mark.parametrize("method", ["conductance", "internal_influence", "sample_and_integrate"])
def test_float32_before_leaves_no_trace_in_float64(method):
    """JAX keeps a constant of NumPy as it was cast at first: the nodes of a quadrature, here."""
    model, key = table.model("tanh"), jax.random.key(0)
    table.program(method, "tanh")(model.inputs(), key, *model.args())
    with jax.enable_x64(True):
        x, args = model.inputs(0, "float64"), model.args(0, "float64")
        loss = lambda x: jnp.sum(jnp.sin(table.case(method, "tanh")(x, key, *args)))
        table.close(jax.jit(jax.grad(loss))(x), jax.grad(loss)(x), 1e-13)
