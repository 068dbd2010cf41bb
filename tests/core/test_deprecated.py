"""Spellings of an earlier release work, warn, and give the same numbers."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from xattr import paths

X, BASELINE = jnp.array([3.0, 1.0]), jnp.array([0.5, 0.0])


def f(x):
    return jax.nn.relu(jax.nn.relu(x[0] - 1) - jax.nn.relu(x[1]))


@pytest.mark.parametrize(
    ("make", "more"),
    [
        (paths.straight_line, {}),
        (paths.monotone, {"exponents": 2.0}),
        (paths.coordinatewise, {"order": [1, 0]}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_ends_of_a_path_by_position(make, more):
    expected = make(baseline=BASELINE, x=X, **more)(0.3)
    with pytest.warns(DeprecationWarning, match="by keyword: write baseline=..., x=...") as caught:
        found = make(BASELINE, X, *more.values())(0.3)
    np.testing.assert_array_equal(found, expected)
    assert [each.filename for each in caught] == [__file__]  # of the caller, not of the library
    kinds = {p.kind for p in inspect.signature(make).parameters.values()}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}


def test_an_end_twice_is_an_error():
    with pytest.raises(TypeError):
        paths.straight_line(BASELINE, X, baseline=X)
    with pytest.raises(TypeError):
        paths.straight_line(BASELINE, X, X)


def test_the_old_name_of_the_variant():
    expected = xattr.deep_lift(f, X, BASELINE, variant="reveal_cancel")
    with pytest.warns(
        DeprecationWarning, match=r"deep_lift\(rule=...\)` is now .*variant="
    ) as caught:
        found = xattr.deep_lift(f, X, BASELINE, rule="reveal_cancel")
    np.testing.assert_array_equal(found, expected)
    assert [each.filename for each in caught] == [__file__]
    with pytest.raises(TypeError, match="`variant` and its old name `rule`"):
        xattr.deep_lift(f, X, rule="rescale", variant="rescale")


def test_the_old_name_of_the_axis_of_nodes():
    method = lambda x, **options: xattr.integrated_gradients(f, x, **options)
    expected = jax.vmap(method)(X[None])
    mesh = jax.make_mesh((4,), ("step",), axis_types=(jax.sharding.AxisType.Auto,))
    match = 'the axis "step" of a mesh is now called "node"'
    with pytest.warns(DeprecationWarning, match=match) as caught:
        found = xattr.sharded(method, mesh)(X[None])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert [each.filename for each in caught] == [__file__]
    with pytest.warns(DeprecationWarning, match=r"sharded\(step_axis=...\)` is now"):
        found = xattr.sharded(method, mesh, step_axis="step")(X[None])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
