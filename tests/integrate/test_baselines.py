"""How far maps for several baselines are apart."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xattr
from tests import table
from xattr.testing import KERNEL, count_compilations

IG = functools.partial(xattr.integrated_gradients, quadrature=table.RULE)
F, PARAMS = xattr.targets.logit(table.mlp), table.parameters


@pytest.mark.usefixtures("x64")
def test_of_a_linear_function():
    """IG is w ⊙ (x − x'), whose distances NumPy finds."""
    random = np.random.default_rng(0)
    w, x = random.normal(size=(2, 5))
    baselines = random.normal(size=(4, 5))
    found = xattr.baseline_sensitivity(
        lambda x, w: w @ x,
        jnp.asarray(x),
        jnp.asarray(baselines),
        method=IG,
        args=(jnp.asarray(w),),
    )
    maps = w * (x - baselines)
    for a, b in np.ndindex(4, 4):
        mean = (np.abs(maps[a]).sum() + np.abs(maps[b]).sum()) / 2
        assert float(found[a, b]) == pytest.approx(np.abs(maps[a] - maps[b]).sum() / mean)


@given(seed=st.sampled_from(range(6)))
def test_properties(seed):
    """Symmetric, 0 for the same baseline, between 0 and 2; a scale of f does not matter."""
    x, args = table.inputs(seed), (seed % 4, PARAMS(seed))
    baselines = jnp.stack([table.inputs(seed + shift) for shift in (7, 8, 7)])
    found = xattr.baseline_sensitivity(F, x, baselines, method=IG, args=args)
    table.close(found, found.T)
    np.testing.assert_allclose(jnp.diag(found), 0, atol=1e-6)
    np.testing.assert_allclose(found[0, 2], 0, atol=1e-6)
    assert 0 < float(found[0, 1]) <= 2
    scaled = lambda x, *args: -3 * F(x, *args)
    table.close(xattr.baseline_sensitivity(scaled, x, baselines, method=IG, args=args), found, 1e-5)


def test_known_ends_of_the_scale():
    x, baselines = jnp.ones(2), jnp.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    found = xattr.baseline_sensitivity(jnp.sum, x, baselines, method=IG)
    table.close(found[0], jnp.array([0.0, 2.0, 2.0]), 1e-6)  # no feature in common; another sign
    still = xattr.baseline_sensitivity(lambda x: 0 * jnp.sum(x), x, baselines, method=IG)
    np.testing.assert_array_equal(still, 0)


def test_leaves_count_together():
    x, args = table.tree_inputs(1), (1, PARAMS(0))
    f = table.model("tree").f
    baselines = table.stack([table.tree_inputs(seed) for seed in (2, 3)])
    found = xattr.baseline_sensitivity(f, x, baselines, method=IG, args=args)
    maps = [IG(f, x, table.tree_inputs(seed), args=args) for seed in (2, 3)]
    left, right = (np.concatenate([np.ravel(v) for v in jax.tree.leaves(m)]) for m in maps)
    expected = np.abs(left - right).sum() / ((np.abs(left) + np.abs(right)).sum() / 2)
    assert float(found[0, 1]) == pytest.approx(expected, rel=1e-5)


def test_nothing_new_is_compiled_for_new_values():
    f = lambda x, label, params: F(x, label, params)

    def measure(seed):
        x, args = table.inputs(seed), (seed % 4, PARAMS(seed))
        baselines = jnp.stack([table.inputs(seed + 1), table.inputs(seed + 2)])
        return xattr.baseline_sensitivity(f, x, baselines, method=IG, args=args)

    with count_compilations() as counts:
        measure(0)
    assert counts[KERNEL] == 1
    with count_compilations() as counts:
        measure(5)
    assert not counts
