"""Operations put in the place of slow ones: equal values, equal gradients, ties included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import xattr
from xattr._cpu import convolutions, pooling, replace, shifted_products
from xattr._program import jaxpr
from xattr._program.graph import Graph


def found(finder, f, *operands):
    program, _ = jaxpr.trace(f, operands[0], operands[1:], whole="always")
    return finder.found(Graph(program))


@functools.cache
def _both(f):
    """Return the program of all derivatives, of f as it is made faster and as it is."""

    def derivatives(f, x, direction, *args):
        slope = jax.grad(f)
        moved = jax.jvp(lambda x: f(x, *args), (x,), (direction,))
        curved = jax.grad(lambda x, *args: jnp.sum(slope(x, *args) ** 2), range(len(args) + 1))
        return moved, slope(x, *args), curved(x, *args)

    return jax.jit(lambda *operands: [derivatives(g, *operands) for g in (replace.faster(f), f)])


def same_gradients(f, x, *args, rtol=0.0, atol=0.0):
    """Compare value, tangent, gradient and the gradient of a function of the gradient."""
    random = np.random.default_rng(0)
    direction = jnp.asarray(random.normal(size=x.shape), x.dtype)

    fast, plain = _both(f)(x, direction, *args)
    for ours, jaxs in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, jaxs, rtol=rtol, atol=atol)
    assert np.abs(np.asarray(plain[1], np.float64)).max() > 0


# Max-pooling ----------------------------------------------------------------------------------


def pooled(window, x, strides=None, padding="VALID", **options):
    highest = lax.reduce_window(x, -jnp.inf, lax.max, window, strides or window, padding, **options)
    scale = 1 + np.arange(highest.size, dtype=np.float64).reshape(highest.shape)
    return jnp.sum(highest**2 * jnp.asarray(scale / highest.size, x.dtype))


WINDOWS = {
    (2, 2, 1): (6, 8, 3),
    (3, 2, 1): (7, 5, 2),  # what fills no window is left out
    (1, 4): (3, 9),
    (5,): (12,),
    (2, 2, 2): (4, 4, 6),
}


@given(st.sampled_from(list(WINDOWS)), st.integers(0, 5), st.integers(0, 99))
def test_max_pooling_with_ties(window, values, seed):
    """Few different values: at most ties the first element of the window is chosen, as by XLA."""
    x = np.random.default_rng(seed).integers(-values, values + 1, WINDOWS[window])
    x = jnp.asarray(x, jnp.float32) + 0.5
    f = _pooled(window)
    assert len(found(pooling, f, x)) == 1
    same_gradients(f, x, rtol=1e-6)


@functools.cache
def _pooled(window):
    return functools.partial(pooled, window)


def test_max_pooling_in_half_precision_of_infinities_and_nan():
    f = _pooled((2, 2, 1))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (6, 8, 3)), jnp.bfloat16)
    same_gradients(f, x)
    same_gradients(f, x.at[0, 0, 0].set(-jnp.inf).at[1, 1, 0].set(-jnp.inf))
    broken = x.at[1, 1, 0].set(jnp.nan)
    assert np.isnan(replace.faster(f)(broken))
    assert np.isnan(np.asarray(jax.grad(replace.faster(f))(broken))[:2, :2, 0]).any()


@pytest.mark.parametrize(
    ("window", "options"),
    [
        ((3, 3, 1), {"strides": (2, 2, 1)}),
        ((2, 2, 1), {"padding": ((0, 1), (0, 0), (0, 0))}),
        ((2, 2, 1), {"base_dilation": (1, 2, 1)}),
    ],
)
def test_overlapping_padded_and_dilated_pooling_is_left_alone(window, options):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 8, 3)), jnp.float32)
    f = functools.partial(pooled, window, **options)
    assert not found(pooling, f, x)
    same_gradients(f, x)
    dilated = functools.partial(pooled, window, window_dilation=(2, 1, 1))
    assert not found(pooling, dilated, x)  # JAX has no gradient of it


# Sums of shifted products ---------------------------------------------------------------------


def shifted(x, kernel, stride=1, size=3):
    """A depthwise convolution as a sum of shifted products, of (H, W, C) by (size, size, C)."""
    x = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
    total = 0
    for i in range(size):
        for j in range(size):
            stop = (i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, x.shape[2])
            part = lax.slice(x, (i, j, 0), stop, (stride, stride, 1))
            total = total + part * kernel[i, j][None, None]
    return total + 1


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_sums_of_shifted_products(stride, size, x64):
    random = np.random.default_rng(0)
    x, kernel = random.normal(size=(7, 8, 2)), random.normal(size=(size, size, 2))

    def f(x, kernel):
        return jnp.sum(jnp.tanh(shifted(x, kernel, stride, size)))

    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    (replacement,) = found(shifted_products, f, x, kernel).values()
    assert len(replacement.inputs) == 1 + size * size
    same_gradients(f, x, kernel, rtol=1e-11, atol=1e-12)


def test_weights_that_are_numbers_rows_or_known_arrays(x64):
    row = np.random.default_rng(1).normal(size=5)

    def f(x):
        part = functools.partial(lax.slice_in_dim, x)
        spread = part(0, 3) * jnp.broadcast_to(row, (3, 5)) + part(1, 4) * jnp.ones((1, 5))
        return jnp.sum(jnp.tanh((spread + 2 * part(2, 5)) + part(3, 6) * np.float64(0.5)))

    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)))
    assert len(found(shifted_products, f, x)) == 1
    same_gradients(f, x, rtol=1e-11, atol=1e-12)


def _varying(x):
    """Weights that differ along the axis of the shift: the product does not move with the slice."""
    weights = np.arange(1.0, 5.0)[:, None] * np.ones((4, 2))
    return sum(x[i : i + 4] * jnp.asarray(weights, x.dtype) for i in range(4))


def _two_sources(x):
    y = jnp.tanh(x)
    return sum(v[i : i + 4] * (2.0 + i) for i in range(2) for v in (x, y))


def _few(x):
    return x[:4] * 2.0 + x[1:5] * 3.0 + x[2:6] * 4.0


def _dependent(x):
    return sum(x[i : i + 4] * x[0, 0] for i in range(4))


@pytest.mark.parametrize("f", [_varying, _two_sources, _few, _dependent])
def test_other_sums_are_left_alone(f, x64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))
    assert not found(shifted_products, f, x)
    same_gradients(lambda x: jnp.sum(jnp.tanh(f(x))), x)


def test_a_partial_sum_that_is_used_elsewhere_ends_the_sum(x64):
    def f(x):
        first = sum(x[i : i + 4] * (1.0 + i) for i in range(4))
        rest = sum(x[i : i + 4] * (2.0 + i) for i in range(4))
        return jnp.sum(jnp.tanh(first + rest) * jnp.sin(first))

    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 2)))
    assert len(found(shifted_products, f, x)) == 2
    same_gradients(f, x, rtol=1e-11, atol=1e-12)


# Convolutions ---------------------------------------------------------------------------------

CONVOLUTIONS = {
    "same": {"window_strides": (1, 1), "padding": "SAME"},
    "strided": {"window_strides": (2, 3), "padding": "SAME"},
    "asymmetric": {"window_strides": (2, 2), "padding": ((0, 2), (3, 1))},
    "cropped": {"window_strides": (1, 2), "padding": ((-1, 0), (0, -2))},
    "dilated kernel": {"window_strides": (1, 2), "padding": "VALID", "rhs_dilation": (2, 1)},
    "transposed": {"window_strides": (1, 1), "padding": ((2, 1), (1, 1)), "lhs_dilation": (2, 3)},
}


@pytest.mark.parametrize("layout", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name, layout, x64):
    shapes = {"N": 1, "H": 7, "W": 9, "C": 2}, {"H": 3, "W": 2, "I": 2, "O": 4}
    random = np.random.default_rng(0)
    x, kernel = (
        jnp.asarray(random.normal(size=[sizes[axis] for axis in axes]))
        for sizes, axes in zip(shapes, layout[:2], strict=True)
    )

    def f(x, kernel):
        y = lax.conv_general_dilated(x, kernel, dimension_numbers=layout, **CONVOLUTIONS[name])
        return jnp.sum(jnp.tanh(y) ** 2)

    assert len(found(convolutions, f, x, kernel)) == 1
    same_gradients(f, x, kernel, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_a_convolution_keeps_the_layout_of_the_kernel():
    x, kernel = jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 4))
    layout = ("NHWC", "HWIO", "NHWC")
    f = lambda x: jnp.sum(
        lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout) ** 2
    )

    def kernels(f):
        equations = jaxpr.trace(lambda x: jax.grad(f)(x).sum(), x, ())[0].equations
        made = [e for e in equations if e.name == "conv_general_dilated"]
        return {e.params["dimension_numbers"].rhs_spec for e in made}

    assert kernels(replace.faster(f)) == {(3, 2, 0, 1)}
    assert len(kernels(f)) == 2  # what JAX derives exchanges the features


def test_grouped_convolutions_and_those_of_weights_by_data_are_left_alone():
    grouped = lambda x: lax.conv_general_dilated(
        x,
        jnp.ones((3, 3, 1, 4)),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    ).sum()
    x = jnp.ones((1, 6, 6, 2))
    assert not found(convolutions, grouped, x)
    filtered = lambda x: lax.conv(jnp.ones((1, 2, 6, 6)), x, (1, 1), "SAME").sum()
    assert not found(convolutions, filtered, jnp.ones((2, 2, 3, 3)))


def test_empty_results_are_left_alone(x64):
    x = jnp.arange(1.0, 4.0)
    f = lambda x: (
        jnp.sum(x**2)
        + jnp.sum(lax.conv(jnp.sin(x)[None, None], jnp.ones((1, 1, 6)), (2,), "VALID"))
    )
    g = lambda x: jnp.sum(x**2) + jnp.sum(sum(x[i:i:2] * (1.0 + i) for i in range(5)))
    for function in (f, g):
        np.testing.assert_array_equal(jax.grad(replace.faster(function))(x), 2 * x)


# Together -------------------------------------------------------------------------------------


def network(x, kernel):
    h = lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    h = jax.nn.relu(h)
    h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")[0]
    return jnp.sum(jnp.tanh(shifted(h, kernel[:, :, 0])))


def test_every_transformation_of_a_network_with_all_three(x64):
    random = np.random.default_rng(0)
    xs = jnp.asarray(random.normal(size=(3, 6, 8, 2)))
    kernel = jnp.asarray(random.normal(size=(3, 3, 2, 4)))
    for finder in (pooling, shifted_products, convolutions):
        assert len(found(finder, network, xs[0], kernel)) == 1
    same_gradients(network, xs[0], kernel, rtol=1e-10, atol=1e-12)
    fast = jax.grad(replace.faster(network))
    expected = jnp.stack([jax.grad(network)(x, kernel) for x in xs])
    batched = jax.jit(jax.vmap(fast, (0, None)))(xs, kernel)
    np.testing.assert_allclose(batched, expected, rtol=1e-10, atol=1e-12)
    _, looped = lax.scan(lambda _, x: (None, jax.checkpoint(fast)(x, kernel)), None, xs)
    np.testing.assert_allclose(looped, expected, rtol=1e-10, atol=1e-12)


def test_another_backend_keeps_its_operations(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert replace.faster(network) is network


def test_a_program_without_such_operations_is_called_as_it_is():
    calls = []

    def f(x):
        calls.append(x)
        return jnp.sum(jnp.tanh(x))

    xattr.gradient(f, jnp.ones(3))
    xattr.smooth_grad(f, jnp.ones(3), jax.random.key(0), num_samples=2)
    assert len(calls) == 1
