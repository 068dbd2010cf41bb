"""Maps of other classes and of random networks, by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from xattr import evaluation

KEY = jax.random.key(0)
WEIGHTS = jnp.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
X = jnp.array([1.0, 2.0, 4.0])


def scores(x, weights=WEIGHTS):
    return weights @ x


def linear(x, w):
    return jnp.sum(w * x)


def test_the_other_class_is_never_the_same_and_is_each_of_the_others():
    """ρ of the rows: 0 and 1 are opposite, 0 and 2 have ½, 1 and 2 have −½."""
    measure = functools.partial(evaluation.random_logit, xattr.gradient, scores, X)
    found = jax.vmap(measure, (None, 0))(0, jax.random.split(KEY, 40))
    assert {*np.round(np.asarray(found), 4).tolist()} == {-1.0, 0.5}
    found = jax.vmap(measure, (None, 0))(2, jax.random.split(KEY, 40))
    assert {*np.round(np.asarray(found), 4).tolist()} == {-0.5, 0.5}


def test_a_map_that_ignores_the_class_is_the_same_for_all():
    edges = lambda f, x, args=(): x**2
    assert evaluation.random_logit(edges, scores, X, 1, KEY) == 1


def test_another_similarity_sees_the_maps_themselves():
    found = evaluation.random_logit(
        xattr.gradient, scores, X, 0, KEY, similarity=lambda a, b: jnp.max(jnp.abs(a - b))
    )
    assert found in (2.0, 1.0)


def test_one_class_has_no_other():
    with pytest.raises(ValueError, match="at least two classes"):
        evaluation.random_logit(xattr.gradient, lambda x: x[:1], X, 0, KEY)
    with pytest.raises(ValueError, match="not a tuple"):
        evaluation.random_logit(xattr.gradient, lambda x: (x, x), X, 0, KEY)


def test_smoothing_averages_the_maps_before_they_are_compared():
    """The mean of ∇(w·x²) over noise is 2w ⊙ (x + mean noise), for all networks with one noise."""

    def square(x, w):
        return jnp.sum(w * x**2)

    stages = [(jnp.array([1.0, -1.0, 2.0]),), (jnp.array([1.0, 2.0, -3.0]),)]
    found = evaluation.smooth_mprt(
        xattr.gradient, square, X, KEY, args=stages[0], stages=stages[1:], num_samples=7,
        similarity=lambda a, b: jnp.stack([a, b]),
    )  # fmt: skip
    a, b = found[0]
    np.testing.assert_allclose(a / stages[0][0], b / stages[1][0], rtol=1e-6)
    assert (a != 2 * stages[0][0] * X).all()
    alone = xattr.smooth_grad(square, X, KEY, num_samples=7, noise_scale=0.1, args=stages[0])
    np.testing.assert_allclose(a, alone, rtol=1e-6)


def test_smooth_mprt_of_a_pytree_and_under_jit():
    f = lambda x, w: jnp.sum(x["a"] * w) + x["b"].sum()
    x = {"a": X, "b": jnp.ones(2)}
    stages = [(X,), (-X,)]
    found = jax.jit(
        lambda x: evaluation.smooth_mprt(
            xattr.gradient, f, x, KEY, args=(X,), stages=stages, num_samples=3
        )
    )(x)
    assert found.shape == (2,)
    assert found[0] == 1
    # Ranks of (1, 2, 4, 1, 1) and (−1, −2, −4, 1, 1), with means of ties: worked out by hand.
    first, second = np.array([2, 4, 5, 2, 2.0]), np.array([3, 2, 1, 4.5, 4.5])
    np.testing.assert_allclose(found[1], np.corrcoef(first, second)[0, 1], rtol=1e-5)


def test_smooth_mprt_needs_a_random_network():
    with pytest.raises(ValueError, match="at least one"):
        evaluation.smooth_mprt(xattr.gradient, linear, X, KEY, args=(X,), stages=[])


def test_entropy_is_that_of_a_histogram():
    """Against NumPy's histogram; two bins for (0, 0, 1, 1), one value a bin for 0, 1, 2, 3."""
    trained, random = (np.random.default_rng(i).normal(size=300).astype(np.float32) for i in (0, 1))

    def entropy(values, bins):
        share = np.histogram(values, bins=bins)[0] / values.size
        return -sum(p * np.log(p) for p in share if p)

    for bins in (1, 10, 100):
        found = evaluation.efficient_mprt(
            xattr.gradient, linear, jnp.ones(300), args=(trained,), random_args=(random,), bins=bins
        )
        before, after = entropy(trained, bins), entropy(random, bins)
        if bins == 1:
            assert np.isnan(found)
        else:
            np.testing.assert_allclose(found, (after - before) / before, rtol=1e-4)


def test_bins_must_be_a_number():
    with pytest.raises(ValueError, match="bins"):
        evaluation.efficient_mprt(
            xattr.gradient, linear, X, args=(X,), random_args=(X,), bins=0
        )  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_entropy_of_a_map_that_is_not_finite_is_unknown(bad):
    """A map of NaN would lie in one bin, with entropy 0: the simplest of all."""
    measure = functools.partial(evaluation.efficient_mprt, xattr.gradient, linear, X)
    assert np.isnan(measure(args=(X,), random_args=(X.at[0].set(bad),)))
    assert np.isnan(measure(args=(X.at[0].set(bad),), random_args=(X,)))


def test_maps_of_two_dtypes_are_compared(x64):
    x = {"a": jnp.arange(3.0, dtype=jnp.float32), "b": jnp.arange(3.0, dtype=jnp.float64)}

    def model(x):
        one = jnp.sum(x["a"] ** 2).astype(jnp.float64) + jnp.sum(x["b"])
        return jnp.stack([one, -one])

    assert evaluation.random_logit(xattr.gradient, model, x, 0, KEY) == -1
