"""Paths: ends, derivatives, joints, dtypes, trees."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import table
from xattr import paths

BASELINE, X = table.tree_inputs(1), table.tree_inputs(2)


def every_path():
    middle = jax.tree.map(lambda a, b: jnp.stack([a, a * b, b]), BASELINE, X)
    line = paths.straight_line(baseline=BASELINE, x=X)
    return {
        "straight_line": line,
        "monotone": paths.monotone(baseline=BASELINE, x=X, exponents=2.0),
        "monotone by leaf": paths.monotone(
            baseline=BASELINE, x=X, exponents=jax.tree.map(lambda a: jnp.float32(3), X)
        ),
        "polyline": paths.polyline(middle),
        "coordinatewise": paths.coordinatewise(baseline=BASELINE, x=X, order=[3, 0, 4, 1, 2]),
        "reparametrize": paths.reparametrize(line, jnp.square),
        "reverse": paths.reverse(paths.straight_line(baseline=X, x=BASELINE)),
        "concatenate": paths.concatenate(
            [line, paths.reverse(line), paths.monotone(baseline=BASELINE, x=X, exponents=3.0)]
        ),
    }


@pytest.mark.parametrize("name", every_path())
def test_ends_are_exact(name):
    path = every_path()[name]
    for alpha, end in ((0.0, BASELINE), (1.0, X)):
        value = path(jnp.float32(alpha))
        assert jax.tree.structure(value) == jax.tree.structure(end)
        jax.tree.map(np.testing.assert_array_equal, value, end)


@pytest.mark.parametrize("name", every_path())
@pytest.mark.usefixtures("x64")
def test_velocity_is_the_slope(name):
    path = every_path()[name]
    for alpha in (0.11, 0.37, 0.71, 0.93):
        step = 1e-4
        _, velocity = jax.jvp(path, (jnp.float32(alpha),), (jnp.float32(1),))
        high, low = path(np.float32(alpha + step)), path(np.float32(alpha - step))
        slope = jax.tree.map(lambda a, b: (a - b) / (2 * step), high, low)
        table.close(velocity, slope, 5e-3)


@pytest.mark.parametrize("name", ["polyline", "coordinatewise", "concatenate"])
def test_velocity_at_the_end_is_that_of_the_last_segment(name):
    path = every_path()[name]
    slope = lambda alpha: jax.jvp(path, (jnp.float32(alpha),), (jnp.float32(1),))[1]
    last, before = slope(1.0), slope(0.99)
    size = lambda tree: sum(float(jnp.sum(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))
    assert size(last) > 0.5 * size(before) > 0


def test_equal_features_do_not_move():
    path = paths.straight_line(baseline=X, x=X)
    _, velocity = jax.jvp(path, (jnp.float32(0.3),), (jnp.float32(1),))
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), velocity)


def test_half_precision_is_interpolated_in_float32():
    """α = 0.501 is not a bfloat16: the point must be rounded once, at the end."""
    x = jnp.full(1, 256.0, jnp.bfloat16)
    point = paths.aumann_shapley(x)(jnp.float32(0.501))
    assert point.dtype == jnp.bfloat16
    assert point == jnp.float32(0.501 * 256).astype(jnp.bfloat16)


def test_polyline_passes_its_waypoints_in_equal_time():
    points = jnp.array([[0.0, 1.0], [2.0, 2.0], [5.0, -1.0], [7.0, 7.0]])
    path = paths.polyline(points)
    for index in range(4):
        np.testing.assert_allclose(path(jnp.float32(index / 3)), points[index], atol=1e-5)
    np.testing.assert_allclose(path(jnp.float32(0.5)), (points[1] + points[2]) / 2, atol=1e-6)


def test_coordinatewise_moves_one_feature_at_a_time():
    baseline, x, order = jnp.zeros(4), jnp.array([1.0, 2.0, 3.0, 4.0]), [2, 0, 3, 1]
    path = paths.coordinatewise(baseline=baseline, x=x, order=order)
    for step, feature in enumerate(order):
        _, velocity = jax.jvp(path, (jnp.float32((step + 0.5) / 4),), (jnp.float32(1),))
        assert jnp.flatnonzero(velocity).tolist() == [feature]
        assert velocity[feature] == 4 * x[feature]


def test_gradients_through_a_concatenation_are_finite():
    """The branch that is not taken has an infinite slope at its start."""

    def loss(x):
        root = paths.monotone(baseline=0 * x, x=x, exponents=0.5)
        path = paths.concatenate([root, paths.straight_line(baseline=x, x=2 * x)])
        return jnp.sum(path(jnp.float32(0.75)))

    np.testing.assert_allclose(jax.grad(loss)(jnp.ones(2)), 1.5, rtol=1e-6)


def test_joints_are_compared_at_the_scale_of_the_paths():
    x = jnp.array([3.0, 2.0])
    loop = lambda alpha: jnp.sin(jnp.pi * alpha) * x  # ends at −9e-8 x, not at 0
    joined = paths.concatenate([loop, paths.aumann_shapley(x)])
    np.testing.assert_allclose(joined(jnp.float32(1)), x)
    small = 1e-4 * x  # a gap as wide as the whole path is no rounding
    with pytest.raises(ValueError, match="does not start where"):
        paths.concatenate([paths.aumann_shapley(small), paths.aumann_shapley(small)])


@pytest.mark.parametrize("name", every_path())
def test_a_path_is_written_as_the_call_that_makes_it(name):
    text = repr(every_path()[name])
    assert text.startswith(f"{name.split()[0]}(")
    assert "0x" not in text
    assert "f32[" in text


def test_arrays_in_a_path_are_written_short():
    x = {"a": jnp.ones(3), "b": jnp.array(0.5)}
    line = paths.aumann_shapley(x)
    text = "straight_line(baseline={'a': f32[3], 'b': 0.0}, x={'a': f32[3], 'b': 0.5})"
    assert repr(line) == text
    assert repr(paths.reverse(line)) == f"reverse(path={text})"
    assert repr(paths.concatenate([line, lambda alpha: x])) == (
        f"concatenate(paths=({text}, <lambda>))"
    )
    own = functools.partial(line, jnp.ones(()))
    assert repr(paths.reparametrize(own, jnp.square)) == (
        f"reparametrize(path=partial({text}, 1.0), warp=square)"
    )


def test_a_path_may_hold_tracers():
    seen = []

    def at(x):
        path = paths.aumann_shapley(x)
        seen.append(repr(path))
        return path(0.5)

    np.testing.assert_array_equal(jax.jit(at)(X["image"]), at(X["image"]))
    assert seen[0] == seen[1]
