"""A dependence on x through a bool or a whole number: complete, or an error that names it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xattr

X, BASELINE = jnp.array([1.0, 3.0, 2.0]), jnp.array([2.0, 0.0, 1.0])
V = jnp.array([1.0, 10.0, 100.0])

PRODUCTS = {
    "argmax": lambda x: jnp.sum(jax.nn.one_hot(jnp.argmax(x), 3) * x * V),
    "top_k": lambda x: jnp.sum(jax.nn.one_hot(lax.top_k(x, 1)[1][0], 3) * x * V),
    "argsort": lambda x: jnp.sum(jnp.argsort(x).astype(jnp.float32) * x * V),
    "lt": lambda x: jnp.sum((x < x[::-1]).astype(jnp.float32) * x * V),
    "gt": lambda x: jnp.sum(x * V) / (1 + (x[0] > 1.5).astype(jnp.float32)),
    "count": lambda x: jnp.sum(x * V) * jnp.sum(x > 1).astype(jnp.float32),
}
"""x times what is chosen by x: f(x) is shared among x, the difference to a baseline is not."""


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_factor_that_is_chosen(name):
    f = PRODUCTS[name]
    with pytest.raises(xattr.UncoveredPrimitiveError, match=r"(?s)choice.*on_uncovered='gradient'"):
        xattr.deep_lift(f, X, BASELINE)
    kept = xattr.deep_lift(f, X, BASELINE, on_uncovered="gradient")
    assert np.isfinite(kept).all()
    np.testing.assert_allclose(xattr.lrp(f, X), X * jax.grad(f)(X), rtol=1e-6)  # f is linear in x
    np.testing.assert_allclose(xattr.lrp(f, X).sum(), f(X), rtol=1e-6)


SUMS = {
    "int8": lambda x: jnp.sum(jnp.round(x * 10).astype(jnp.int8).astype(jnp.float32)) / 5,
    "gt": lambda x: jnp.sum((x > 1).astype(jnp.float32)),
    "embedding": lambda x: jnp.sum(x) + V[jnp.argmax(x)],
    "bucket": lambda x: jnp.sum(x + V[jnp.searchsorted(jnp.array([1.5, 2.5]), x)]),
    "layer": lambda x: jnp.sum(jax.nn.relu(jnp.floor(x).astype(jnp.int32).astype(jnp.float32) @ W)),
    "minus": lambda x: jnp.sum(x) - jnp.sum(jnp.sign(x) > 0).astype(jnp.float32),
}
"""What is chosen by x is part of the sum: relevance of it cannot go back to x."""

W = jnp.array([[1.0, -1.0], [2.0, 0.5], [0.0, 1.0]])


@pytest.mark.parametrize("name", SUMS)
@pytest.mark.parametrize("method", [xattr.lrp, xattr.deep_taylor, xattr.deep_lift])
def test_a_term_that_is_chosen(name, method):
    with pytest.raises(xattr.UncoveredPrimitiveError, match=r"(?s)test_choices.py.*a\s+choice"):
        method(SUMS[name], X)
    assert np.isfinite(method(SUMS[name], X, on_uncovered="gradient")).all()


def test_the_place_of_the_choice_is_named():
    with pytest.raises(
        xattr.UncoveredPrimitiveError, match=r"argmax \(float32\[3\] -> int32\[\]\)"
    ):
        xattr.deep_lift(PRODUCTS["argmax"], X)
    with pytest.raises(xattr.UncoveredPrimitiveError, match=r"\(float32\[3\] -> int8\[3\]\)"):
        xattr.lrp(SUMS["int8"], X)


def test_masks_stay_what_they_were():
    """A ReLU written with a mask, a mask of attention, a mask that x has no part in."""
    rectified = lambda x: jnp.sum(x * (x > 1).astype(x.dtype) * V)
    np.testing.assert_allclose(xattr.lrp(rectified, X), [0, 30, 200])
    np.testing.assert_allclose(xattr.deep_lift(rectified, X).sum(), 230, rtol=1e-6)
    attended = lambda x: jax.nn.softmax(x + jnp.where(x > 1, 0.0, -1e9)) @ x
    found = xattr.lrp(attended, X)
    assert np.isfinite(found).all()
    assert found[0] == 0
    lowered = lambda x, by: jax.nn.softmax(x + by) @ x
    by = lambda x: jnp.where(x > 1, 0.0, -2.0)  # like a bias that is given
    found = xattr.lrp(lambda x: lowered(x, by(x)), X, bias="include")
    np.testing.assert_allclose(
        found, xattr.lrp(lowered, X, args=(by(X),), bias="include"), rtol=1e-6
    )
    given = lambda x, mask: jnp.sum(jnp.where(mask, x, 0) * V + mask.astype(x.dtype))
    mask = jnp.array([True, False, True])
    np.testing.assert_allclose(xattr.lrp(given, X, args=(mask,), bias="include"), [1, 0, 200])


@pytest.mark.parametrize(
    ("dtype", "error"), [(jnp.bfloat16, 2**-8), (jnp.float16, 2**-11), (jnp.float8_e4m3fn, 2**-4)]
)
def test_a_cast_to_fewer_bits_is_complete_to_its_precision(dtype, error):
    f = lambda x: jnp.sum(x.astype(dtype).astype(jnp.float32) * V)
    x = 1.07 * X
    found = xattr.deep_lift(f, x, BASELINE).sum()
    # Values are rounded on the way there, multipliers on the way back.
    assert abs(found - (f(x) - f(BASELINE))) <= 2 * error * float(jnp.sum(jnp.abs(x * V)))
    assert abs(xattr.lrp(f, x).sum() - f(x)) <= 2 * error * float(f(x))
