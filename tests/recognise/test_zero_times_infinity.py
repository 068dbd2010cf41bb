"""An exact 0 times an infinite slope is 0: a feature that does not move has no share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from xattr import quadrature

X = jnp.array([3.0, 4.0, 0.0, 0.0])
W = jnp.asarray(np.random.default_rng(0).standard_normal((4, 5)), jnp.float32).at[:, 0].set(0)


def norms(x):
    return jnp.linalg.norm(x[:2]) + jnp.linalg.norm(x[2:])


def roots(x):
    return jnp.sum(jnp.sqrt(jax.nn.relu(x)))


def dead_group(x):
    """A norm of units of which none is active."""
    return jnp.linalg.norm(jax.nn.relu(x[:2])) + jnp.linalg.norm(jax.nn.relu(x @ W[:, :1]))


def cube_roots(x):
    return jnp.sum(jnp.cbrt(x))


METHODS = {
    "integrated_gradients": xattr.integrated_gradients,
    "aumann_shapley": xattr.aumann_shapley,
    "path_integral": lambda f, x: xattr.path_integral(
        f, xattr.paths.straight_line(baseline=jnp.zeros_like(x), x=x)
    ),
    "gradient_x_input": xattr.gradient_x_input,
    "deep_lift": xattr.deep_lift,
    "lrp": xattr.lrp,
}


@pytest.mark.parametrize("name", METHODS)
def test_a_norm_of_zeros(name):
    """By hand: ‖(3, 4)‖ = 5 is shared 9/5, 16/5; IG, DeepLIFT and LRP agree on a norm."""
    np.testing.assert_allclose(METHODS[name](norms, X), [1.8, 3.2, 0, 0], rtol=1e-5)


@pytest.mark.parametrize("f", [roots, dead_group, cube_roots])
@pytest.mark.parametrize("name", METHODS)
def test_what_is_zero_gets_zero(name, f):
    found = METHODS[name](f, X)
    assert np.isfinite(found).all()
    assert (found[2:] == 0).all()
    assert (found[:2] > 0).all()


@pytest.mark.parametrize("method", [xattr.guided_backprop, xattr.deconvnet])
def test_a_dead_unit_behind_a_square_root(method):
    """g is infinite at the dead unit and its slope 0; all weights of the others are positive."""
    weights = jnp.abs(W)
    f = lambda x: jnp.sum(jnp.sqrt(jax.nn.relu(x @ weights)))
    expected = jax.grad(f)(jnp.ones(4))
    assert np.isfinite(expected).all()
    found = xattr.guided_backprop(f, jnp.ones(4))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_slope_that_is_finite_is_kept_for_derivatives():
    """d/dx of (x − b) ∇f at x = b is ∇f, not 0."""
    total = lambda x: jnp.sum(
        xattr.integrated_gradients(
            lambda x: jnp.sum(x**2 + x), x, quadrature=quadrature.midpoint(4)
        )
    )
    np.testing.assert_allclose(jax.grad(total)(jnp.zeros(3)), 1, rtol=1e-6)


def test_a_value_that_is_not_finite_stays_seen():
    x = jnp.array([1.0, 0.0])
    assert not np.isfinite(xattr.gradient_x_input(lambda x: jnp.sum(x) / x[1], x)[0])
