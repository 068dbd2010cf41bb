"""Maxima and minima of segments, as graph networks take them: those of masked rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from xattr import composites, rules

NODES, FEATURES, SEGMENTS = 6, 3, 4
OF_NODE = np.array([0, 2, 0, 0, 2, 3])  # segment 1 is empty
RANDOM = np.random.default_rng(0)
X, BASELINE = RANDOM.standard_normal((2, NODES, FEATURES))
W = RANDOM.standard_normal((FEATURES, FEATURES))
HEAD = RANDOM.standard_normal((SEGMENTS, FEATURES))
Z = composites.every_layer(rules.zero())
EXTREMES = {
    "max": (jax.ops.segment_max, jnp.max, -np.inf, "max"),
    "min": (jax.ops.segment_min, jnp.min, np.inf, "min"),
}


def pooled(h, largest):
    return EXTREMES[largest][0](h, OF_NODE, SEGMENTS)


def pooled_by_mask(h, largest, start=None):
    """The same over rows of which all but those of a segment are infinite."""
    _, extreme, none, _ = EXTREMES[largest]
    mask = np.equal.outer(range(SEGMENTS), OF_NODE)[..., None]
    rows = jnp.where(mask, h[None], none)
    if start is not None:
        rows = jnp.concatenate([start[:, None], rows], 1)
    return extreme(rows, axis=1)


def updated(h, largest):
    """From an array that depends on h, too."""
    return getattr((h[:SEGMENTS] - 0.2).at[OF_NODE], EXTREMES[largest][3])(h)


def updated_by_mask(h, largest):
    return pooled_by_mask(h, largest, h[:SEGMENTS] - 0.2)


def from_numbers(h, largest):
    """From an array of numbers, some of which stay."""
    return getattr(jnp.full((SEGMENTS, FEATURES), 0.1).at[OF_NODE], EXTREMES[largest][3])(h)


def from_numbers_by_mask(h, largest):
    return pooled_by_mask(h, largest, jnp.full((SEGMENTS, FEATURES), 0.1))


def finite(read, pooled):
    """Empty segments read as 0, as in jraph: by value, or by a test of all numbers."""
    if read == "by value":
        return jnp.where(jnp.isinf(pooled), 0.0, pooled)
    if read == "by a test":
        return jnp.where(jnp.isfinite(pooled), pooled, 0.0)
    return pooled[np.array([0, 2, 3])]


METHODS = {
    "lrp": lambda f, x: xattr.lrp(f, x, Z),
    "lrp with biases": lambda f, x: xattr.lrp(f, x, Z, bias="include"),
    "z_plus": lambda f, x: xattr.lrp(f, x, composites.every_layer(rules.z_plus())),
    "deep_taylor": xattr.deep_taylor,
    "deep_lift": lambda f, x: xattr.deep_lift(f, x, jnp.asarray(BASELINE)),
    "guided": xattr.guided_backprop,
    "deconvnet": xattr.deconvnet,
}
PAIRS = [(pooled, pooled_by_mask), (updated, updated_by_mask), (from_numbers, from_numbers_by_mask)]


@pytest.mark.parametrize("largest", EXTREMES)
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].__name__)
def test_a_segment_is_a_masked_row(pair, largest, x64):
    """Also where two nodes are largest together."""

    def f(pool, x):
        kept = finite("by choice", pool(jax.nn.relu(x @ W) + x, largest))
        return jnp.sum(kept**2 * HEAD[1:])

    segments, rows = (functools.partial(f, pool) for pool in pair)
    tied = X.copy()
    tied[2] = tied[0]
    for x in map(jnp.asarray, (X, tied)):
        np.testing.assert_allclose(segments(x), rows(x))
        for method in METHODS.values():
            found = method(segments, x)
            assert np.abs(found).max() > 1e-3
            np.testing.assert_allclose(found, method(rows, x), atol=1e-12)
        found = METHODS["deep_lift"](segments, x)
        np.testing.assert_allclose(found.sum(), segments(x) - segments(BASELINE), rtol=1e-10)


@pytest.mark.parametrize("read", ["by value", "by a test", "by choice"])
def test_an_empty_segment_gets_nothing(read, x64):
    """The maximum of nothing is −∞ for input and reference; 0 · ∞ must not become NaN."""
    f = lambda x: jnp.sum(finite(read, pooled(x, "max")) ** 2)
    without = lambda x: jnp.sum(pooled(x, "max")[np.array([0, 2, 3])] ** 2)
    assert pooled(jnp.asarray(X), "max")[1, 0] == -np.inf
    for name in ("lrp", "lrp with biases", "deep_lift"):
        found = METHODS[name](f, jnp.asarray(X))
        np.testing.assert_allclose(found, METHODS[name](without, jnp.asarray(X)), atol=1e-12)


@pytest.mark.parametrize("mask", ["chosen", "added"])
def test_masked_nodes(mask, x64):
    """A padded node is −∞, alone in its segment or beside others."""
    valid = np.array([True, True, True, False, True, False])[:, None]
    masked = {
        "chosen": lambda x: jnp.where(valid, x, -jnp.inf),
        "added": lambda x: x + jnp.broadcast_to(np.where(valid, 0, -np.inf), x.shape),
    }[mask]
    f = lambda x: jnp.sum(finite("by a test", pooled(masked(x), "max")) ** 2)
    short = lambda x: jnp.sum(
        jax.ops.segment_max(x[valid[:, 0]], OF_NODE[valid[:, 0]], SEGMENTS)[np.array([0, 2])] ** 2
    )
    for name in ("lrp", "deep_lift"):
        found = METHODS[name](f, jnp.asarray(X))
        np.testing.assert_allclose(found, METHODS[name](short, jnp.asarray(X)), atol=1e-12)


def test_by_hand(x64):
    """Of (3, 1) the first has all; from a reference (0, 2) it has the whole change 3 − 2."""
    f = lambda x: jax.ops.segment_max(x, np.array([0, 0]), 1)[0]
    x = jnp.array([3.0, 1.0])
    np.testing.assert_allclose(xattr.lrp(f, x), [3, 0])
    np.testing.assert_allclose(xattr.deep_lift(f, x, jnp.array([0.0, 2.0])), [1, 0])
    np.testing.assert_allclose(xattr.deep_lift(f, x, jnp.array([0.0, 4.0])), [0, -1])


def test_under_jit_and_vmap():
    f = lambda x: jnp.sum(finite("by value", pooled(x @ W, "max")) * HEAD)
    xs = jnp.asarray(RANDOM.standard_normal((3, NODES, FEATURES)), jnp.float32)
    for method in (xattr.lrp, xattr.deep_lift, xattr.guided_backprop):
        batch = jax.jit(jax.vmap(functools.partial(method, f)))(xs)
        np.testing.assert_allclose(batch[1], method(f, xs[1]), rtol=2e-4, atol=1e-5)
    kinds = {row.kind: row for row in xattr.explain(f, xs[0]).operations}
    assert kinds["max"].covered == ("guided", "lrp", "deep_lift", "patterns")


@pytest.mark.parametrize("method", [xattr.lrp, xattr.deep_lift, xattr.guided_backprop])
def test_a_product_of_segments_has_no_rule(method):
    x = jnp.asarray(X[:, 0], jnp.float32)
    for f in (
        lambda x: jnp.sum(jax.ops.segment_prod(x, OF_NODE, SEGMENTS)),
        lambda x: jnp.sum(jnp.ones(SEGMENTS).at[OF_NODE].mul(x)),
    ):
        with pytest.raises(xattr.UncoveredPrimitiveError, match=r"scatter-mul.*test_segments"):
            method(f, x)
