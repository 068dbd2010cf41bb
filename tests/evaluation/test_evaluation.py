"""Measures of attributions on functions whose values can be worked out by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import xattr
from xattr import evaluation
from xattr.testing import count_compilations

W = jnp.array([4.0, 3.0, 2.0, 1.0])
ONES = jnp.ones(4)
KEY = jax.random.key(0)


def linear(x, w=W):
    return jnp.sum(w * x)


def product(x):
    return x[0] * x[1]


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


# Curves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [10, 6, 3, 1, 0]),
        ({"order": "least"}, [10, 9, 7, 4, 0]),
        ({"insert": True}, [0, 4, 7, 9, 10]),
        ({"insert": True, "order": "least"}, [0, 1, 3, 6, 10]),
        ({"counts": jnp.array([0, 3])}, [10, 1]),
        ({"chunk_size": 2}, [10, 6, 3, 1, 0]),
    ],
)
def test_curves_of_a_linear_function(options, expected):
    close(evaluation.perturbation_curve(linear, W, ONES, **options), expected)
    close(evaluation.perturbation_curve(linear, W, ONES, ONES / 2, **options),
          5 + np.array(expected) / 2)  # fmt: skip


def test_areas_of_a_linear_function():
    close(evaluation.deletion(linear, W, ONES), 0.375)
    close(evaluation.insertion(linear, W, ONES), 0.625)
    close(evaluation.deletion(linear, W, ONES, normalize=False), 3.75)
    close(evaluation.insertion(linear, W, ONES, normalize=False), 6.25)
    close(evaluation.aopc(linear, W, ONES), 6.0)
    close(evaluation.aopc(linear, W, ONES, order="least"), (0 + 1 + 3 + 6 + 10) / 5)
    # Two features at a time: drops 0, 7, 10.
    close(evaluation.aopc(linear, W, ONES, counts=jnp.array([0, 2, 4])), 17 / 3)


def test_uneven_steps_count_by_their_width():
    """f = 10, 6, 0 after 0, 1 and 4 of 4: ¼ (10 + 6)/2 + ¾ (6 + 0)/2."""
    counts = jnp.array([0, 1, 4])
    close(evaluation.deletion(linear, W, ONES, counts=counts, normalize=False), 4.25)


def test_a_score_may_stand_for_a_pixel():
    image = jnp.arange(12.0).reshape(2, 2, 3)
    scores = jnp.array([[1.0, 4.0], [3.0, 2.0]])
    curve = evaluation.perturbation_curve(jnp.sum, scores, image)
    gone = [image[0, 1], image[1, 0], image[1, 1], image[0, 0]]
    close(curve, [66 - sum(float(p.sum()) for p in gone[:k]) for k in range(5)])


def test_features_of_all_leaves_are_in_one_order():
    x = {"a": jnp.array([1.0, 10.0]), "b": jnp.array([[100.0, 1000.0]])}
    scores = {"a": jnp.array([4.0, 1.0]), "b": jnp.array([3.0])}
    f = lambda x: x["a"].sum() + x["b"].sum()
    close(evaluation.perturbation_curve(f, scores, x), [1111, 1110, 10, 0])


def test_equal_scores_go_in_the_order_of_the_array():
    close(evaluation.perturbation_curve(linear, jnp.zeros(4), ONES), [10, 6, 3, 1, 0])


@given(st.permutations(range(4)))
def test_no_order_beats_that_of_the_weights(order):
    scores = jnp.array([float(n) for n in order])
    best = {"aopc": 6.0, "insertion": 0.625}
    for name, value in best.items():
        assert getattr(evaluation, name)(linear, scores, ONES) <= value + 1e-6
    assert evaluation.deletion(linear, scores, ONES) >= 0.375 - 1e-6


# Faithfulness -----------------------------------------------------------------------------------


def test_infidelity_by_hand():
    half = jnp.array([0.5, 0.5])
    fixed = lambda *value: lambda key, x: jnp.array(value)
    find = lambda i: evaluation.infidelity(product, half, jnp.ones(2), fixed(*i), KEY)
    close(find((1.0, 1.0)), 0)
    close(find((1.0, 0.0)), 0.25)
    close(find((0.5, 0.5)), (0.5 - 0.75) ** 2)


@given(st.lists(st.floats(-2, 2, width=32), min_size=3, max_size=3), st.integers(0, 5))
def test_infidelity_to_the_baseline_is_the_completeness_gap_squared(values, seed):
    f = lambda x: jnp.sum(jnp.sin(x) * x) + x[0] * x[2]
    x, start = jnp.array(values) + 3, jnp.array([0.1, -0.2, 0.3])
    attributions = jax.random.normal(jax.random.key(seed), (3,))
    found = evaluation.infidelity(
        f, attributions, x, lambda key, x: x - start, KEY, reference=start, num_samples=2
    )
    gap = xattr.completeness_gap(f, attributions, x, start)
    close(found, gap**2, 1e-4)


def test_a_reference_that_is_x_gives_that_feature_nothing():
    x, start = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])
    found = evaluation.infidelity(
        jnp.sum, jnp.array([7.0, 2.0]), x, lambda key, x: x - start, KEY, reference=start
    )
    close(found, 0)


def test_infidelity_of_the_gradient_of_a_quadratic():
    """f(x) − f(x − I) = 2 xᵀI − |I|²: the error is E|I|⁴ = 3σ⁴n + σ⁴n(n − 1) for Gaussian I."""
    f, x, sigma = lambda x: jnp.sum(x**2), jnp.array([1.0, -2.0]), 0.5
    noise = lambda key, x: sigma * jax.random.normal(key, x.shape)
    found = evaluation.infidelity(f, 2 * x, x, noise, KEY, num_samples=20_000)
    close(found, 8 * sigma**4, 0.05)


def test_faithfulness_of_a_linear_function_is_1():
    for seed in range(3):
        found = evaluation.faithfulness_correlation(
            linear, W * (ONES - 0.5), ONES, ONES / 2, jax.random.key(seed), subset_size=2
        )
        close(found, 1, 1e-5)
        turned = evaluation.faithfulness_correlation(
            linear, -W, ONES, None, jax.random.key(seed), subset_size=1
        )
        close(turned, -1, 1e-5)


# Stability --------------------------------------------------------------------------------------


def test_sensitivity_of_the_gradient_of_a_quadratic():
    """∇|x|² moves by 2δ: at a corner of the cube by 2 r √n, of 2 |x|."""
    f, x = lambda x: jnp.sum(x**2), jnp.array([3.0, 4.0, 12.0])
    options = {"radius": 0.1, "noise": "signs"}
    for measure in (evaluation.max_sensitivity, evaluation.average_sensitivity):
        close(measure(xattr.gradient, f, x, KEY, **options), 0.1 * 3**0.5 / 13, 1e-4)
    inside = evaluation.max_sensitivity(xattr.gradient, f, x, KEY, radius=0.1, num_samples=200)
    assert 0.5 * 0.1 * 3**0.5 / 13 < inside < 0.1 * 3**0.5 / 13
    mean = evaluation.average_sensitivity(xattr.gradient, f, x, KEY, radius=0.1, num_samples=4000)
    assert mean == pytest.approx(0.1 * 0.9606 / 13, rel=0.03)  # E|u|, u uniform in the cube


def test_a_method_that_ignores_x_is_steady():
    close(evaluation.max_sensitivity(xattr.gradient, linear, ONES, KEY), 0)


# Maps -------------------------------------------------------------------------------------------


def test_places():
    scores = jnp.array([[1.0, -5.0], [3.0, 1.0]])
    mask = jnp.array([[False, True], [True, False]])
    close(evaluation.pointing_game(scores, mask), 1)
    close(evaluation.pointing_game(scores, ~mask), 0)
    close(evaluation.relevance_mass(scores, mask), 0.8)
    close(evaluation.relevance_rank(scores, mask), 0.5)  # 3 is in the mask, 1 is not
    close(evaluation.relevance_mass(jnp.ones((2, 2)), jnp.ones((2, 2), bool)), 1)
    assert np.isnan(evaluation.relevance_rank(scores, jnp.zeros((2, 2), bool)))


@pytest.mark.parametrize("n", [1, 2, 7])
def test_sparseness_and_complexity_at_their_ends(n):
    single = jnp.zeros(n).at[0].set(-3.0)
    close(evaluation.sparseness(single), 1 - 1 / n)
    close(evaluation.complexity(single), 0)
    close(evaluation.sparseness(jnp.full(n, 2.0)), 0)
    close(evaluation.complexity(jnp.full(n, -2.0)), np.log(n))


def gini(values):
    """Half the mean absolute difference, relative to the mean: the definition."""
    a = np.abs(values)
    return np.abs(a[:, None] - a[None]).mean() / (2 * a.mean())


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=8).filter(np.any))
def test_gini_and_entropy_by_their_definitions(values):
    values = np.array(values, np.float64)
    p = np.abs(values) / np.abs(values).sum()
    entropy = -sum(q * np.log(q) for q in p if q > 0)
    close(evaluation.sparseness(jnp.array(values)), gini(values), 1e-4)
    close(evaluation.complexity(jnp.array(values)), entropy, 1e-4)


def test_scores_may_be_large():
    """Their sum is beyond the range of float32."""
    large = 1e37 * jnp.arange(1.0, 9.0)
    close(evaluation.sparseness(large), gini(np.arange(1.0, 9.0)), 1e-5)
    assert np.isfinite(evaluation.complexity(large))


def test_a_copy_of_the_input_recovers_it():
    x = jax.random.normal(KEY, (5, 5))
    close(evaluation.input_recovery(-3 * x, x), 1)
    assert evaluation.input_recovery(jax.random.normal(jax.random.key(1), (5, 5)), x) < 0.5


# Everything composes ----------------------------------------------------------------------------

TO_ZERO = lambda key, x: x
MEASURES = {
    "curve": lambda x, w: evaluation.perturbation_curve(linear, x * w, x, args=(w,)),
    "aopc": lambda x, w: evaluation.aopc(linear, x * w, x, args=(w,)),
    "deletion": lambda x, w: evaluation.deletion(linear, x * w, x, args=(w,)),
    "insertion": lambda x, w: evaluation.insertion(linear, x * w, x, args=(w,)),
    "infidelity": lambda x, w: evaluation.infidelity(linear, w / 2, x, TO_ZERO, KEY, args=(w,)),
    "correlation": lambda x, w: evaluation.faithfulness_correlation(
        linear, x * w + x**2, x, None, KEY, subset_size=2, args=(w,)
    ),
    "max": lambda x, w: evaluation.max_sensitivity(
        xattr.gradient_x_input, linear, x, KEY, args=(w,)
    ),
    "average": lambda x, w: evaluation.average_sensitivity(
        xattr.gradient_x_input, linear, x, KEY, args=(w,)
    ),
    "pointing": lambda x, w: evaluation.pointing_game(x * w, x > 0),
    "mass": lambda x, w: evaluation.relevance_mass(x * w, x > 0),
    "rank": lambda x, w: evaluation.relevance_rank(x * w, x > 0),
    "sparseness": lambda x, w: evaluation.sparseness(x * w),
    "complexity": lambda x, w: evaluation.complexity(x * w),
    "recovery": lambda x, w: evaluation.input_recovery(x * w, x),
}
XS = jax.random.normal(jax.random.key(5), (3, 4)) + 0.5


@pytest.mark.parametrize("name", MEASURES)
def test_alone_in_a_batch_and_staged(name):
    measure = MEASURES[name]
    alone = jnp.stack([measure(x, W) for x in XS])
    close(jax.vmap(measure, (0, None))(XS, W), alone, 1e-5)
    close(jax.jit(jax.vmap(measure, (0, None)))(XS, W), alone, 1e-5)
    assert np.isfinite(jax.grad(lambda x: measure(x, W).sum())(XS[0])).all()


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_dtypes(name, dtype, x64):
    x, w = jnp.array(XS[0], dtype), jnp.array(W, dtype)
    found = MEASURES[name](x, w)
    expected = MEASURES[name](jnp.array(x, float), jnp.array(w, float))
    if name in ("max", "average") and dtype == jnp.bfloat16:
        return  # the noise is smaller than the steps of bfloat16
    close(found.astype(float), expected, 0.1 if dtype == jnp.bfloat16 else 1e-12)


def test_new_values_do_not_recompile():
    run = functools.partial(evaluation.perturbation_curve, linear)
    run(W, ONES, args=(W,))
    with count_compilations() as counts:
        run(-W, 2 * ONES, ONES / 3, counts=jnp.array([0, 1, 2, 3, 4]), args=(W + 1,))
    assert counts["curve_kernel"] == 0


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: evaluation.aopc(linear, jnp.ones(3), ONES),
            ValueError,
            "`attributions` have shape (3,), but `x` has shape (4,)",
        ),
        (
            lambda: evaluation.perturbation_curve(linear, W, ONES, order="best"),
            ValueError,
            '`order` must be "most" or "least"',
        ),
        (
            lambda: evaluation.deletion(linear, W, ONES, counts=jnp.array([], int)),
            ValueError,
            "`counts` must be numbers of features",
        ),
        (
            lambda: evaluation.faithfulness_correlation(linear, W, ONES, None, KEY, subset_size=4),
            ValueError,
            "`subset_size` must be less than the number of features, 4",
        ),
        (
            lambda: evaluation.infidelity(linear, W, ONES, 0.1, KEY),
            TypeError,
            "`perturbation` must be a function",
        ),
        (
            lambda: evaluation.max_sensitivity(xattr.gradient, linear, ONES, KEY, noise="big"),
            ValueError,
            '`noise` must be "uniform" or "signs"',
        ),
        (
            lambda: evaluation.relevance_mass(W, ONES),
            TypeError,
            "`mask` must be boolean, but is float32",
        ),
        (
            lambda: evaluation.relevance_mass(W, jnp.ones(3, bool)),
            ValueError,
            "`mask` has shape (3,), but `attributions` have shape (4,)",
        ),
        (
            lambda: evaluation.sparseness({"a": W}),
            TypeError,
            "`attributions` must be one array, but is a dict",
        ),
    ],
)
def test_errors_name_the_argument(call, error, text):
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)
