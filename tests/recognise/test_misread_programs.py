"""Programs that are easily misread: wrong masks, clips far out, what only looks like a softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xattr
from xattr import composites, rules

RANDOM = np.random.default_rng(0)
W, C, V = (RANDOM.standard_normal(shape) for shape in ((6, 6), 6, 6))
X, BASELINE = RANDOM.standard_normal((2, 6))
MASK = np.arange(6) < 4
Z_RULE = composites.every_layer(rules.zero())
ALPHA_BETA = composites.every_layer(rules.alpha_beta(2.0, 1.0))
WIDE = np.array([25.0, 5.0, -1.0])

CLIPS = {  # function, its values' shares under LRP and DeepLIFT from zero
    "clip(x, 0, 20)": (lambda x: jnp.clip(x, 0, 20), [20, 5, 0]),
    "clip(x, -20, 20)": (lambda x: jnp.clip(x, -20, 20), [20, 5, -1]),
    "clip(x, -10, 10)": (lambda x: jnp.clip(x, -10, 10), [10, 5, -1]),
    "where(2 x > 30)": (lambda x: jnp.where(2 * x > 30, 15.0, jnp.maximum(x, 0)), [15, 5, 0]),
    "maximum(x, -10)": (lambda x: jnp.maximum(x, -10), [25, 5, -1]),
}


@pytest.mark.parametrize("name", CLIPS)
def test_a_bound_far_out_is_seen(name, x64):
    function, expected = CLIPS[name]
    f, x = lambda x: jnp.sum(function(x)), jnp.asarray(WIDE)
    np.testing.assert_allclose(xattr.lrp(f, x, Z_RULE), expected, rtol=1e-12)
    np.testing.assert_allclose(xattr.deep_lift(f, x), expected, rtol=1e-12)
    with pytest.raises(xattr.UncoveredPrimitiveError):
        xattr.guided_backprop(f, x)


SQUARE = lambda x: jnp.outer(x[:3], x[3:])
NO_SOFTMAX = {
    "logsumexp(where)": lambda x: jax.nn.logsumexp(x, where=MASK),
    "sum(where)": lambda x: jnp.log(jnp.sum(jnp.exp(x), where=MASK)),
    "a mask of ones": lambda x: jnp.log(jnp.sum(jnp.where(MASK, jnp.exp(x), 1.0))),
    "log of a part": lambda x: (x - jnp.log(jnp.sum(jnp.where(MASK, jnp.exp(x), 0)))) @ V,
    "over a part": lambda x: (jnp.exp(x) / jnp.sum(jnp.where(MASK, jnp.exp(x), 0))) @ V,
    "a part over all": lambda x: (jnp.where(MASK, jnp.exp(x), 0) / jnp.sum(jnp.exp(x))) @ V,
    "another axis": lambda x: jnp.sum(
        (jnp.exp(SQUARE(x)) / jnp.exp(SQUARE(x)).sum(1)[None]) @ V[:3]
    ),
    "log, another axis": lambda x: jnp.sum(
        (SQUARE(x) - jnp.log(jnp.exp(SQUARE(x)).sum(1))[None]) @ V[:3]
    ),
    "broadcast": lambda x: jnp.log(jnp.broadcast_to(jnp.exp(x).sum(), (6,))) @ V,
}
SOFTMAX = {
    "softmax(where)": lambda x: jax.nn.softmax(x, where=MASK) @ V,
    "log_softmax(where)": lambda x: jax.nn.log_softmax(x, where=MASK)[:4] @ V[:4],
    "axis 0": lambda x: jnp.sum(jax.nn.softmax(SQUARE(x), axis=0) @ V[:3]),
    "both axes": lambda x: jnp.sum(jax.nn.softmax(SQUARE(x), axis=(0, 1)) @ V[:3]),
    "logsumexp(axis, keepdims)": lambda x: jnp.sum(
        jax.nn.logsumexp(SQUARE(x), axis=0, keepdims=True) @ V[:3]
    ),
}


@pytest.mark.parametrize("name", [*NO_SOFTMAX, *SOFTMAX])
def test_what_is_no_softmax_is_complete_too(name, x64):
    f = {**NO_SOFTMAX, **SOFTMAX}[name]
    found = xattr.deep_lift(f, X, BASELINE)
    np.testing.assert_allclose(found.sum(), f(X) - f(BASELINE), atol=1e-9)
    kinds = {row.kind for row in xattr.explain(f, jnp.asarray(X)).operations}
    within = name in SOFTMAX or name == "log, another axis"  # a logsumexp, then a difference
    assert bool(kinds & set(composites.SOFTMAX)) == within


@pytest.mark.parametrize("value", [-jnp.inf, jnp.finfo(jnp.float64).min])
@pytest.mark.parametrize("composite", [None, Z_RULE, ALPHA_BETA])
def test_additive_masks(value, composite, x64):
    added = lambda x: jax.nn.softmax(x @ W + jnp.where(MASK, 0.0, value)) @ V
    chosen = lambda x: jax.nn.softmax(jnp.where(MASK, x @ W, -jnp.inf)) @ V
    found = xattr.lrp(added, X, composite)
    np.testing.assert_allclose(found, xattr.lrp(chosen, X, composite), rtol=1e-5)


def test_stacked_units_are_a_layer(x64):
    stacked = lambda x: jax.nn.relu(jnp.stack([x @ W[:, i] for i in range(4)])) @ V[:4]
    plain = lambda x: jax.nn.relu(x @ W[:, :4]) @ V[:4]
    for composite in (ALPHA_BETA, composites.every_layer(rules.gamma(0.5)), Z_RULE):
        found, expected = (xattr.lrp(f, X, composite) for f in (stacked, plain))
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def _stopped(x):
    return lax.stop_gradient(jnp.tanh(x))


PRODUCTS = {
    "checkpoint": lambda x: jnp.sum(jax.checkpoint(lambda h, s: h * s)(x @ W, _stopped(x))),
    "scan": lambda x: lax.scan(
        lambda total, pair: (total + pair[0] * pair[1], None), 0.0, (x @ W, _stopped(x))
    )[0],
    "scan, carried": lambda x: jnp.sum(
        lax.scan(lambda c, h: ((c[0], c[1]), h * c[1][0]), (x, _stopped(x)), x @ W)[1]
        * _stopped(x)
        / _stopped(x)[0]
    ),
    "cond": lambda x: lax.cond(
        W[0, 0] < 9, lambda h, s: h @ s, lambda h, s: 0.0, x @ W, _stopped(x)
    ),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_stopped_factor_takes_no_relevance(name, x64):
    plain = lambda x: jnp.sum((x @ W) * _stopped(x))
    found = xattr.lrp(PRODUCTS[name], X, Z_RULE)
    np.testing.assert_allclose(found, xattr.lrp(plain, X, Z_RULE), rtol=1e-9)


def test_constants_may_be_negative(x64):
    w = jnp.array([1.0, 1.0, -2.0])
    joined = lambda x: jnp.concatenate([jax.nn.relu(x), -jnp.ones(1)]) @ w
    padded = lambda x: jnp.pad(jax.nn.relu(x), (0, 1), constant_values=-1.0) @ w
    for f in (joined, padded):
        np.testing.assert_allclose(xattr.lrp(f, jnp.ones(2), ALPHA_BETA), [2, 2])


@pytest.mark.parametrize("score", ["logit", "probability", "log_probability", "log_odds"])
def test_every_score_is_covered(score, x64):
    """The stopped shift of a logsumexp is kept finite by a select that needs no rule."""
    f = getattr(xattr.targets, score)(lambda x: jax.nn.relu(x @ W) @ W)
    for method in (xattr.guided_backprop, xattr.deconvnet, xattr.lrp, xattr.deep_lift):
        assert np.isfinite(method(f, X, args=(2,))).all()
    found = xattr.deep_lift(f, X, BASELINE, args=(2,))
    np.testing.assert_allclose(found.sum(), f(X, 2) - f(BASELINE, 2), atol=1e-9)


CRASHED = {
    "a gate of a stopped value": lambda x: jnp.sum((x @ W) * jax.nn.silu(lax.stop_gradient(x))),
    "interpolation": lambda x: jnp.sum(jnp.interp(x, jnp.arange(3.0), jnp.arange(3.0) ** 2)),
    "a number from a branch": lambda x: lax.cond(
        V[0] < 9, lambda x: jnp.sum(x), lambda x: jnp.float32(0.0), x
    ),
}


@pytest.mark.parametrize("name", CRASHED)
def test_does_not_crash(name, x64):
    f, x = CRASHED[name], jnp.asarray(X, jnp.float32 if "branch" in name else jnp.float64)
    assert np.isfinite(xattr.lrp(f, x, on_uncovered="gradient")).all()
    xattr.explain(f, x)


def test_deep_lift_of_an_activation_with_a_derivative_of_its_own(x64):
    own = jax.custom_vjp(jnp.tanh)
    own.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))
    found = xattr.deep_lift(lambda x: own(x @ W) @ V, X, BASELINE)
    expected = xattr.deep_lift(lambda x: jnp.tanh(x @ W) @ V, X, BASELINE)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
