"""Every method under jit gives what it gives outside; and every method is in the table."""

import inspect

import jax
import numpy as np
import pytest

import xattr
from tests import table

CASES = table.in_turn(0)  # other pairs of the grid are under jit in test_vmap


@pytest.mark.parametrize(("method", "name"), CASES)
def test_jit_equals_eager(method, name):
    model = table.model(name)
    x, key, args = model.inputs(), jax.random.key(3), model.args()
    expected = table.case(method, name)(x, key, *args)
    table.close(table.program(method, name)(x, key, *args), expected)
    if table.ROWS[method].like_x:
        assert jax.tree.structure(expected) == jax.tree.structure(x)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), expected) == jax.tree.map(
            lambda a: (a.shape, a.dtype), x
        )
    # What is finite and not 0 can be wrong.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
    assert table.size(expected) > 1e-3


def test_every_method_has_a_row(monkeypatch):
    """A function of the library is called by a row, or listed as outside the table."""
    functions = {n for n in xattr.__all__ if inspect.isfunction(getattr(xattr, n))}
    called = set()

    def recorded(name, function):
        def record(*args, **options):
            called.add(name)
            return function(*args, **options)

        return record

    for name in functions:
        monkeypatch.setattr(xattr, name, recorded(name, getattr(xattr, name)))
    for row in table.ROWS.values():
        model = table.model(row.models[0])
        prepared, key = row.prepare(model), jax.random.key(0)
        attribute = lambda x, key, *args: row.attribute(model, x, key, args, prepared)
        jax.eval_shape(attribute, model.inputs(), key, *model.args())
    assert functions - called == set(table.OUTSIDE)


def test_a_new_method_gets_its_row_from_its_signature(monkeypatch):
    def doubled(f, x, key, *, layer, args=()):
        return 2 * xattr.layer_gradient(f, x, layer=layer, args=args)

    monkeypatch.setattr(xattr, "doubled", doubled, raising=False)
    monkeypatch.setattr(xattr, "__all__", [*xattr.__all__, "doubled"])
    rows = table.rows()
    assert list(rows) == [*table.ROWS, "doubled"]
    model, row = table.model("conv"), rows["doubled"]
    assert (row.models, row.noisy, row.like_x) == (table.FEWER, True, False)
    found = row.attribute(model, model.inputs(), jax.random.key(0), model.args(), None)
    single = xattr.layer_gradient(model.f, model.inputs(), layer="hidden", args=model.args())
    table.close(found, 2 * single)
    assert table.size(found) > 1e-3
