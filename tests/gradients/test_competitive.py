"""Competition for pixels against a slow oracle, and the edge detector against scikit-image."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import skimage.filters
from hypothesis import given
from hypothesis import strategies as st

import xattr
from tests import table
from xattr._gradients.competitive import competitive_gradient_x_input
from xattr.sanity import edge_detector
from xattr.testing import count_compilations

SEEDS = st.integers(0, 10**6)


def linear(x, w):
    return x @ w


@pytest.mark.parametrize("chunk_size", [None, 2])  # two do not divide three: one is met again
def test_three_classes_by_hand(chunk_size):
    """One element a row; what is left of each class's product in brackets."""
    products = jnp.array(
        [
            [3.0, 2.0, -1.0],  # [3] for, beaten 2, [−1] against
            [-3.0, -2.0, -1.0],  # only the most negative counts
            [1.0, 2.0, 4.0],  # only the most positive
            [0.0, 5.0, 0.0],  # nothing from a class without a product
            [2.0, 2.0, -6.0],  # a tie: both are kept
            [-6.0, 2.0, -6.0],
        ]
    )
    kept = [
        [3.0, 0.0, -1.0],
        [-3.0, 0.0, 0.0],
        [0.0, 0.0, 4.0],
        [0.0, 5.0, 0.0],
        [2.0, 2.0, -6.0],
        [-6.0, 2.0, -6.0],
    ]
    x = jnp.array([1.0, -1.0, 2.0, 4.0, -2.0, 0.5])
    for label in range(3):
        found = competitive_gradient_x_input(
            linear, x, label, args=(products / x[:, None],), chunk_size=chunk_size
        )
        np.testing.assert_array_equal(found, np.array(kept)[:, label])


def oracle(x, params, label):
    """Class by class and element by element, with the gradient of tanh written out."""
    w1, b1, w2 = (np.asarray(params[name], np.float64) for name in ("w1", "b1", "w2"))
    x = np.asarray(x, np.float64)
    slope = 1 - np.tanh(x @ w1 + b1) ** 2
    products = np.zeros((w2.shape[1], len(x)))
    for c in range(len(products)):
        for i in range(len(x)):
            products[c, i] = x[i] * sum(w1[i, j] * slope[j] * w2[j, c] for j in range(len(b1)))
    result = np.zeros(len(x))
    for i, h in enumerate(products[label]):
        if (h > 0 and h == max(products[:, i])) or (h < 0 and h == min(products[:, i])):
            result[i] = h
    return result, products


@given(SEEDS, st.sampled_from([None, 1, 3]))
def test_against_the_oracle(seed, chunk_size):
    params, x = table.parameters(seed), table.inputs(seed)
    maps = np.stack(
        [
            competitive_gradient_x_input(table.mlp, x, label, args=(params,), chunk_size=chunk_size)
            for label in range(4)
        ]
    )
    expected, products = zip(*(oracle(x, params, label) for label in range(4)), strict=True)
    table.close(maps, np.stack(expected), 1e-5)
    # Of every element one class keeps the largest product and one the smallest.
    high, low = products[0].max(axis=0), products[0].min(axis=0)
    table.close(maps.sum(axis=0), np.maximum(high, 0) + np.minimum(low, 0), 1e-5)
    assert ((maps > 0).sum(axis=0) <= 1).all()
    assert ((maps < 0).sum(axis=0) <= 1).all()


def score(x, params):
    return table.mlp(x, params)[0]


def opposite(x, params):
    return jnp.stack([score(x, params), -score(x, params)])


def raised(x, params):
    return table.mlp(x, params) + 100 * jnp.sum(jnp.abs(x))


@given(SEEDS)
def test_two_opposite_classes_take_nothing_from_each_other(seed):
    with jax.enable_x64(True):
        params, x = table.parameters(seed, "float64"), table.inputs(seed, "float64")
        found = competitive_gradient_x_input(opposite, x, 0, args=(params,))
        table.close(found, xattr.gradient_x_input(score, x, args=(params,)), 1e-12)


@given(SEEDS)
def test_a_common_score_leaves_the_order_of_the_classes(seed):
    """x ⊙ ∂S_c/∂x moves by as much for every class, so its largest class stays its largest."""
    params, x = table.parameters(seed), table.inputs(seed)
    maps = np.stack(
        [competitive_gradient_x_input(raised, x, label, args=(params,)) for label in range(4)]
    )
    _, products = oracle(x, params, 0)
    np.testing.assert_array_equal(maps > 0, products == products.max(axis=0))  # all are positive
    assert (maps >= 0).all()


def test_classes_that_tie_in_a_network_are_all_kept():
    params = table.parameters()
    params["w2"] = jnp.tile(params["w2"][:, :1], (1, 20))  # 20 times one class, in two chunks
    x = table.inputs()
    expected = xattr.gradient_x_input(xattr.targets.logit(table.mlp), x, args=(0, params))
    for label in (0, 19):
        found = competitive_gradient_x_input(table.mlp, x, label, args=(params,))
        table.close(found, expected, 1e-6)


def test_inputs_of_several_leaves():
    def model(x, w):
        return jnp.concatenate([x["a"], x["b"].ravel()]) @ w

    w = jnp.asarray(np.random.default_rng(0).standard_normal((6, 3)), jnp.float32)
    x = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0, 1.0], [-1.0, 0.5]])}
    found = competitive_gradient_x_input(model, x, jnp.uint8(2), args=(w,))
    flat = competitive_gradient_x_input(
        linear, jnp.concatenate([x["a"], x["b"].ravel()]), 2, args=(w,)
    )
    assert found["b"].shape == (2, 2)
    np.testing.assert_array_equal(jnp.concatenate([found["a"], found["b"].ravel()]), flat)
    assert 0 < (flat == 0).sum() < 6


def test_a_new_label_or_weight_does_not_compile_again():
    model = lambda x, params: table.mlp(x, params)
    with count_compilations() as counts:
        for label in (0, np.int64(3), jnp.int32(1), jnp.uint8(2), 7):
            args = (table.parameters(int(label)),)
            competitive_gradient_x_input(model, table.inputs(int(label)), label, args=args)
        for weights in (table.parameters(8), table.parameters(9)):
            bound = functools.partial(model, params=weights)
            competitive_gradient_x_input(bound, table.inputs(), 0)
    assert counts["competitive_kernel"] == 2  # with the parameters as an argument, and bound


def test_jit_and_vmap_over_inputs_and_labels():
    params = table.parameters()
    x = jnp.stack([table.inputs(seed) for seed in range(3)])
    labels = jnp.array([2, 0, 9])
    run = lambda x, label: competitive_gradient_x_input(
        table.mlp, x, label, args=(params,), chunk_size=3
    )
    alone = jnp.stack([run(x[i], labels[i]) for i in range(3)])
    assert jnp.isnan(alone[2]).all()  # no such class
    table.close(jax.vmap(run)(x, labels), alone, 1e-6)
    table.close(jax.jit(jax.vmap(run))(x, labels), alone, 1e-6)


def test_shard_map_over_inputs():
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("batch")
    params = table.parameters()
    x = jnp.stack([table.inputs(seed) for seed in range(2)])
    run = lambda x: competitive_gradient_x_input(table.mlp, x, 1, args=(params,), chunk_size=2)
    sharded = jax.jit(jax.shard_map(jax.vmap(run), mesh=mesh, in_specs=spec, out_specs=spec))
    table.close(sharded(x), jnp.stack([run(x[0]), run(x[1])]), 1e-6)


@pytest.mark.parametrize("label", [-1, 4])
def test_no_class_gives_nan(label):
    found = competitive_gradient_x_input(
        table.mlp, table.inputs(), label, args=(table.parameters(),)
    )
    assert jnp.isnan(found).all()


def test_a_rival_that_is_nan_is_not_passed_over():
    def model(x, large):
        overflowing = large * (large * x) - large * (large * x)  # its gradient is ∞ − ∞
        return jnp.stack([jnp.sum(x), overflowing[0]])

    found = competitive_gradient_x_input(model, jnp.ones(2), 0, args=(jnp.float32(1e30),))
    np.testing.assert_array_equal(found, [np.nan, 1])


def test_half_precision_does_not_make_ties():
    x, w = jnp.full(1, 1.5, jnp.bfloat16), jnp.array([[1.515625, 1.5234375]], jnp.bfloat16)
    assert x * w[0, 0] == x * w[0, 1]
    for label, kept in enumerate((0, 2.28125)):
        assert competitive_gradient_x_input(linear, x, label, args=(w,)) == kept


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_precision(dtype):
    params, x = table.parameters(dtype=dtype), table.inputs(dtype=dtype)
    found = competitive_gradient_x_input(table.mlp, x, np.int64(0), args=(params,))
    assert found.dtype == dtype
    assert not found.weak_type
    expected, _ = oracle(x.astype("float64"), params, 0)
    assert (found != 0).any()
    table.close(found, expected, {"bfloat16": 0.03, "float32": 1e-5, "float64": 1e-12}[dtype])


@pytest.mark.usefixtures("x64")
def test_gradient_of_the_attribution():
    """Where an element is kept, x ⊙ ∂S/∂x can be differentiated; where it is not, 0."""
    params = table.parameters(dtype="float64")
    x = table.inputs(dtype="float64")
    run = lambda x: competitive_gradient_x_input(table.mlp, x, 0, args=(params,))
    plain = lambda x: xattr.gradient_x_input(xattr.targets.logit(table.mlp), x, args=(0, params))
    kept = run(x) != 0
    expected = jnp.where(kept[:, None], jax.jacobian(plain)(x), 0)
    assert 0 < kept.sum() < 3
    table.close(jax.jacobian(run)(x), expected, 1e-12)


BAD = {
    "one class": (lambda x: x[:1], jnp.ones(3), 0, ValueError, "`model` returns 1 score"),
    "scalar": (lambda x: x[0], jnp.ones(3), 0, ValueError, "class scores of shape"),
    "batch": (lambda x: x[None], jnp.ones(3), 0, ValueError, r"returned shape \(1, 3\)"),
    "integers": (lambda x: x > 0, jnp.ones(3), 0, TypeError, "`model` must return floating"),
    "label": (lambda x: x, jnp.ones(3), 0.0, TypeError, "`label` must be an integer scalar"),
    "labels": (lambda x: x, jnp.ones(3), jnp.arange(2), TypeError, "`label` must be an integer"),
    "input": (lambda x: x, jnp.arange(3), 0, TypeError, "`x` must be floating"),
    "model": (3, jnp.ones(3), 0, TypeError, "`model` must be a function"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    model, x, label, error, text = BAD[case]
    with pytest.raises(error, match=text):
        competitive_gradient_x_input(model, x, label)


def test_bad_options():
    with pytest.raises(ValueError, match="`chunk_size` must be a whole number"):
        competitive_gradient_x_input(lambda x: x, jnp.ones(3), 0, chunk_size=0)
    with pytest.raises(TypeError, match="`args` must be a tuple"):
        competitive_gradient_x_input(linear, jnp.ones(3), 0, args=jnp.ones((3, 2)))


def picture(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


@given(SEEDS, st.sampled_from([(7, 5), (1, 6), (2, 2), (1, 1), (9, 8)]))
def test_edges_are_those_of_scikit_image(seed, shape):
    image = picture(seed, *shape)
    expected = skimage.filters.sobel(image)
    np.testing.assert_allclose(edge_detector(image.astype(np.float32)), expected, atol=1e-6)


@pytest.mark.usefixtures("x64")
def test_edges_of_every_channel_and_in_every_precision():
    image = picture(0, 6, 5, 3)
    expected = np.stack([skimage.filters.sobel(image[..., c]) for c in range(3)], axis=-1)
    for dtype, tolerance in (("float64", 1e-14), ("float32", 1e-6)):
        found = edge_detector(jnp.asarray(image, dtype))
        assert found.dtype == dtype
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=tolerance)
    half = jnp.asarray(image, jnp.bfloat16)  # rounded once, at the end
    rounded = edge_detector(half.astype("float32")).astype("bfloat16")
    np.testing.assert_array_equal(edge_detector(half), rounded)
    batch = jnp.asarray(np.stack([image, 2 * image]))
    for found, factor in zip(jax.jit(jax.vmap(edge_detector))(batch), (1, 2), strict=True):
        np.testing.assert_allclose(found, factor * expected, atol=1e-14)


def test_edges_of_a_step_by_hand():
    image = jnp.zeros((4, 6)).at[:, 3:].set(2.0)
    found = edge_detector(image)
    np.testing.assert_allclose(found[:, 2:4], np.full((4, 2), 2 / np.sqrt(2)), rtol=1e-6)
    assert (found[:, :2] == 0).all()
    assert (found[:, 4:] == 0).all()


def test_gradient_of_edges_is_zero_on_flat_ground_and_right_elsewhere():
    flat = jax.grad(lambda image: jnp.sum(edge_detector(image)))(jnp.ones((3, 4)))
    assert (flat == 0).all()
    image = jnp.zeros((4, 6)).at[:, 3:].set(2.0)
    slope = jax.grad(lambda image: jnp.sum(edge_detector(image)))(image)
    assert jnp.isfinite(slope).all()
    # Homogeneous of degree 1, so that ⟨∇, image⟩ = Σ A: eight pixels of √2.
    np.testing.assert_allclose(jnp.sum(slope * image), 8 * np.sqrt(2), rtol=1e-6)


def test_edges_of_what_is_no_image():
    for image in (jnp.ones(4), jnp.ones((1, 4, 4, 3)), [jnp.ones((4, 4))]):
        with pytest.raises(ValueError, match=r"`image` must be of shape \(H, W\) or \(H, W, C\)"):
            edge_detector(image)
    with pytest.raises(TypeError, match="`image` must be floating, but has dtype uint8"):
        edge_detector(np.zeros((4, 4), np.uint8))
