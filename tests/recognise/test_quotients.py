"""Relevance of a quotient of two values: that of the product of the one and one over the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xattr
from xattr import composites, rules

RANDOM = np.random.default_rng(0)
W = RANDOM.standard_normal((4, 5))
V = RANDOM.standard_normal(5)
X = RANDOM.uniform(0.5, 2.0, 4)
Z = composites.every_layer(rules.zero())


def test_by_hand(x64):
    """2 / (3 + 1) = 1/2, of which each has a half; 3 has that of 3 + 1 whole without the bias."""
    f = lambda x: x[0] / (x[1] + 1)
    np.testing.assert_allclose(xattr.lrp(f, jnp.array([2.0, 3.0])), [0.25, 0.25], rtol=1e-6)
    with_bias = xattr.lrp(f, jnp.array([2.0, 3.0]), Z, bias="include")
    np.testing.assert_allclose(with_bias, [0.25, 0.25 * 3 / 4])


QUOTIENTS = {
    "of arrays": lambda h, over: over(h, 1 + h[::-1] ** 2),
    "by a scalar": lambda h, over: over(h, jnp.sum(h * h)),
    "of a scalar": lambda h, over: over(jnp.sum(h), 3 + h**2),
    "by rows": lambda h, over: over(h[:, None], jnp.stack([h**2 + 1, h**2 + 2], 1)).sum(1),
    "of a vector by rows": lambda h, over: over(jnp.stack([h, h**2]), (h**2 + 1)[None]).sum(0),
    "of functions": lambda h, over: over(jnp.tanh(h), 1 + jnp.exp(h[::-1])),
    "by a norm that serves twice": lambda h, over: over(h, n := jnp.linalg.norm(h)) + n,
    "in a loop": lambda h, over: lax.scan(
        lambda c, _: (over(c, 2 + c[::-1] ** 2), None), h, None, 2
    )[0],
}


@pytest.mark.parametrize("name", QUOTIENTS)
def test_a_quotient_is_a_product_with_an_inverse(name, x64):
    def f(over, x):
        return QUOTIENTS[name](x @ W + 3, over) @ V

    forms = [
        lambda x: f(lambda a, b: a / b, x),
        lambda x: f(lambda a, b: a * (1 / b), x),
        lambda x: f(lambda a, b: b**-1 * a, x),
    ]
    with jax.numpy_rank_promotion("allow"):
        found, *others = (xattr.lrp(form, X, Z, bias="include") for form in forms)
    for expected in others:
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_relevance_is_conserved(x64):
    """Nothing here has a constant of its own."""
    f = lambda x: jnp.tanh(x @ W) / jnp.sum(jnp.abs(x @ W)) @ V + jnp.sum(x[:2]) / x[2]
    found = xattr.lrp(f, X, Z)
    np.testing.assert_allclose(found.sum(), f(X), rtol=1e-9)


def test_zeros(x64):
    """0 above the line is no trouble, and 0 below it none where a mask has dropped the quotient."""
    f = lambda x: x[0] / (x[1] + 1) + jnp.where(x[0] > 0, x[2] / x[0], 0.0)
    found = xattr.lrp(f, jnp.array([0.0, 3.0, 2.0]), Z)
    np.testing.assert_array_equal(found, [0, 0, 0])


def test_a_mean_over_valid_tokens_is_affine(x64):
    mask = jnp.array([1.0, 0.0, 1.0, 1.0])
    f = lambda x, mask: jnp.sum(x * mask) / jnp.sum(mask)
    for composite in (None, composites.every_layer(rules.zero())):
        found = xattr.lrp(f, X, composite, args=(mask,))
        np.testing.assert_allclose(found, X * mask / 3, rtol=1e-5)
    kinds = {row.kind for row in xattr.explain(f, X, args=(mask,)).operations}
    assert "quotient" not in kinds


@pytest.mark.parametrize(
    ("f", "kind"),
    [
        (lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x)), "softmax"),
        (lambda x: x / jnp.sqrt(jnp.sum(x * x)), "normalizer"),
    ],
)
def test_what_is_recognised_as_a_whole_stays_so(f, kind):
    kinds = {row.kind for row in xattr.explain(lambda x: f(x)[0], X).operations}
    assert kind in kinds
    assert "quotient" not in kinds
