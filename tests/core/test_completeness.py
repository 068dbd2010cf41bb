"""A method that is complete in theory says where its sum misses the change of f."""

import functools
import inspect
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import xattr
from xattr._core import completeness
from xattr.testing import count_compilations

ONE = xattr.quadrature.riemann_right(1)


def cubes(x, scale=1.0):
    return scale * jnp.sum(checkpoint_name(x, "layer") ** 3)


def curved(x, baseline):
    return xattr.paths.monotone(baseline=baseline, x=x, exponents=1.0)


# With one node at x: Σ A = (x − x')·3x², for x = (1, 2) from zero 27, where f changes by 9.
COARSE = {
    "integrated_gradients": lambda f, x, **o: xattr.integrated_gradients(f, x, **o),
    "aumann_shapley": lambda f, x, **o: xattr.aumann_shapley(f, x, **o),
    "path of the library": lambda f, x, **o: xattr.path_integral(f, curved(x, 0 * x), **o),
    "path of one's own": lambda f, x, **o: xattr.path_integral(f, lambda a: a * x, **o),
    "layer": lambda f, x, **o: xattr.layer_integrated_gradients(f, x, layer="layer", **o),
}
MISSED = r"sum to 27 \(.* to 27\), but f changes by 9 .*`quadrature`"


@pytest.fixture
def silent():
    """Turn the warning, which the other tests do not see, into an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", xattr.IncompleteWarning)
        yield


@pytest.mark.parametrize("name", COARSE)
def test_few_nodes_are_told(name):
    with pytest.warns(xattr.IncompleteWarning, match=MISSED) as told:
        COARSE[name](cubes, jnp.array([1.0, 2.0]), quadrature=ONE)
    assert [each.filename for each in told] == [__file__]  # of the caller, not of the library


@pytest.mark.parametrize("name", COARSE)
def test_the_limit_is_relative_to_the_change(name, silent):
    run = functools.partial(COARSE[name], cubes, jnp.array([1.0, 2.0]), quadrature=ONE)
    with pytest.raises(xattr.IncompleteWarning, match=MISSED):
        run(warn_above=1.99)
    table = [run(warn_above=above) for above in (2.01, None)]
    np.testing.assert_allclose(table, [[3, 24], [3, 24]])


@pytest.mark.parametrize("name", COARSE)
def test_enough_nodes_are_silent(name, silent):
    COARSE[name](cubes, jnp.array([1.0, 2.0]))


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.vmap])
def test_in_a_trace_nothing_is_looked_at(transform, silent):
    x = jnp.ones((2, 2)) if transform is jax.vmap else jnp.ones(2)
    total = lambda x: jnp.sum(xattr.integrated_gradients(cubes, x, quadrature=ONE))
    transform(total)(x)
    transform(lambda x: jnp.sum(xattr.deep_lift(nearly_singular, x, STRANGE)))(x)


def _normalized(x):
    centred = x - jnp.mean(x)
    return (centred * jax.lax.rsqrt(jnp.mean(centred**2) + 1e-6))[0]


def test_a_path_through_a_point_without_variance():
    """Half way (1, 2, 3) and (3, 2, 1) are equal: all of the change lies between two nodes."""
    x, baseline = jnp.array([3.0, 2.0, 1.0]), jnp.array([1.0, 2.0, 3.0])
    with pytest.warns(xattr.IncompleteWarning, match="f changes by 2.449 .*integrate_to_tolerance"):
        found = xattr.integrated_gradients(_normalized, x, baseline)
    assert abs(found.sum()) < 0.1


def test_rounding_is_no_gap(silent):
    """An even function: f(x) = f(−x), and what is left of sums and values is rounding."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal(500), jnp.float32)
    for factor in (1.0, 1 + 1e-6):
        f = lambda x: jnp.sum(jnp.cos(x)) * 1e-3 + 100
        found = xattr.integrated_gradients(f, factor * x, -x)
        assert found.sum() != f(factor * x) - f(-x)
        xattr.deep_lift(f, factor * x, -x)
    # There and back from a zero: f is 0 at both ends, and nothing can be compared.
    there = xattr.paths.aumann_shapley(jnp.array([1.0, 0.3]))
    back = xattr.paths.concatenate([there, xattr.paths.reverse(there)])
    xattr.path_integral(cubes, back)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_and_trees(dtype):
    random = np.random.default_rng(1)
    x = {name: jnp.asarray(random.random(50), dtype) for name in "ab"}
    f = lambda x: jnp.sum(x["a"] ** 2 * x["b"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xattr.integrated_gradients(f, x)
        xattr.deep_lift(f, x)
    with pytest.warns(xattr.IncompleteWarning, match="`quadrature`"):
        xattr.integrated_gradients(f, x, quadrature=ONE)


NUMBERS = {  # Σ A, Σ|A|, f(x), f(x'); in float32 r = 1.22e-4 (Σ|A| + |f(x)| + |f(x')|)
    "a gap": ((1.0503, 1, 1, 0), True),
    "5 % and rounding": ((1.0502, 1, 1, 0), False),
    "of a negative change": ((-1.0503, 1, 0, 1), True),
    "more than 5 % of f is no rounding": ((1.101, 1e6, 1, 0), True),
    "less may be": ((1.099, 1e6, 1, 0), False),
    "rounding of large values": ((1e-3, 1, 5, 5), False),
    "more than their rounding": ((2e-3, 1, 5, 5), True),
    "a unit in the last place is more than f": ((1, 8.5e6, 1, 0), True),
    "a unit in the last place is less than f": ((1, 8.3e6, 1, 0), False),
    "no measure": ((0.3, 1, 0, 0), False),
    "not a number": ((np.nan, np.nan, 1, 0), True),
    "an infinite change": ((1, 1, 0, -np.inf), True),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_a_gap(name):
    numbers, told = NUMBERS[name]
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        completeness.warn((*numbers, 2.0**-23), 0.05, "")
    assert [each.category for each in found] == [xattr.IncompleteWarning] * told
    if not np.isfinite(numbers).all():
        assert "not finite" in str(found[0].message)


# A quotient that is none to DeepLIFT: from r' = 1/b' = 1e9 the product a · r shares by means.
STRANGE = jnp.array([0.0, 1e-9])


def nearly_singular(x):
    return x[0] * jnp.exp(-jnp.log(x[1]))


def test_terms_that_cancel(silent):
    """A = (½ (1 + 1e9), ½ (1 − 1e9)): of the change of 1 float32 leaves nothing, float64 all."""
    with pytest.raises(
        xattr.IncompleteWarning, match=r"to 1e\+09.*changes by 1 .*cancel.*more bits"
    ):
        xattr.deep_lift(nearly_singular, jnp.ones(2), STRANGE)
    with jax.enable_x64(True):
        found = xattr.deep_lift(nearly_singular, jnp.ones(2, float), STRANGE.astype(float))
    np.testing.assert_allclose(found, [(1 + 1e9) / 2, (1 - 1e9) / 2], rtol=1e-6)


def test_terms_that_cancel_to_the_right_sum(silent):
    """2³⁰ a − 2³⁰ b + c: the sum is right, but one bit more or less of a term is 100 of it."""
    f = lambda x: 2.0**30 * x[0] - 2.0**30 * x[1] + x[2]
    assert xattr.deep_lift(f, jnp.ones(3), warn_above=None).sum() == 1
    for method in (xattr.deep_lift, xattr.integrated_gradients):
        with pytest.raises(xattr.IncompleteWarning, match="they cancel"):
            method(f, jnp.ones(3))
    g = lambda x: 2.0**12 * x[0] - 2.0**12 * x[1] + x[2]  # here it is .001
    xattr.deep_lift(g, jnp.ones(3))


def test_completeness_given_up():
    """The factor that is stopped has no multiplier: x keeps its mean, half of what f changes."""
    f = lambda x: x * jax.lax.stop_gradient(jnp.sin(x))
    with pytest.warns(xattr.IncompleteWarning, match="`on_uncovered"):
        xattr.deep_lift(f, jnp.array(1.0), on_uncovered="gradient")


def test_nothing_is_compiled_again():
    with count_compilations() as counts:
        for seed in range(3):
            x = jnp.asarray(np.random.default_rng(seed).standard_normal(7), jnp.float32)
            xattr.integrated_gradients(cubes, x, x / 2, args=(jnp.float32(seed + 1),))
            xattr.path_integral(cubes, curved(x, x / 2), args=(jnp.float32(seed + 1),))
    assert counts["completeness_kernel"] == counts["function_value"] == 1


@pytest.mark.parametrize("above", [-0.1, "warn", float("nan")])
def test_the_limit_is_a_number(above):
    with pytest.raises(ValueError, match="`warn_above` must be the gap to warn of"):
        jax.jit(lambda x: xattr.integrated_gradients(cubes, x, warn_above=above))(jnp.ones(2))


def test_every_complete_method_says_how_to_see_its_gap():
    complete = "integrated_gradients aumann_shapley path_integral deep_lift "
    complete += "layer_integrated_gradients guided_integrated_gradients "
    complete += "integrated_directional_gradients"
    methods = [m for m in vars(xattr).values() if inspect.isfunction(m)]
    found = {m.__name__ for m in methods if "warn_above" in inspect.signature(m).parameters}
    assert found == {*complete.split()}
    others = {"integrate", "expected_gradients", "conductance", "integrate_to_tolerance"}
    for name in found | others:
        assert re.search("gap|warn_above", inspect.getdoc(getattr(xattr, name))), name
