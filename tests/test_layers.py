"""Hidden layers: known answers, slow oracles, names of every kind, and what cannot be a layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.ad_checkpoint import checkpoint_name
from jax.nn import relu

import xattr
from paper_repro.networks.efficientnet import EfficientNetLite0
from tests import table
from xattr._backward import guided
from xattr.testing import count_compilations

ATTRIBUTIONS = {
    "gradient": xattr.layer_gradient,
    "integrated_gradients": xattr.layer_integrated_gradients,
    "conductance": xattr.conductance,
    "influence": xattr.internal_influence,
}


def gated(x):
    h = checkpoint_name(relu(x), "hidden")
    return relu(h[0] - 1 - h[1])


def bypassed(x, scale=1.0):
    """Of h = tanh(W x) and of x itself: h₀ x₁ + h₁² x₀."""
    with jax.named_scope("hidden"):
        h = jnp.tanh(jnp.asarray(WEIGHTS, x.dtype) @ x)
    return (h[0] * x[1] + h[1] ** 2 * x[0]) * jnp.asarray(scale, x.dtype)


WEIGHTS = np.array([[0.8, -0.5], [0.3, 1.1]])
X, START = np.array([1.2, -0.7]), np.array([0.2, 0.5])


# Known answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gradient", (1, -1)),
        ("integrated_gradients", (1.5, -0.5)),
        ("conductance", (1.5, -0.5)),
        ("influence", (0.5, -0.5)),
    ],
)
def test_gated_network(name, expected):
    found = ATTRIBUTIONS[name](gated, jnp.array([3.0, 1.0]), layer="hidden")
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gradient", (1, 1)),
        ("integrated_gradients", (1 / 2, 1 / 2)),
        ("conductance", (1 / 3, 2 / 3)),
        ("influence", (1 / 3, 1 / 2)),
    ],
)
def test_the_methods_differ_where_the_layer_does_not_move_straight(name, expected):
    def f(x):
        h = checkpoint_name(jnp.stack([x, x**2]), "h")  # (α, α²)
        return h[0] * h[1]

    np.testing.assert_allclose(
        ATTRIBUTIONS[name](f, jnp.array(1.0), layer="h"), expected, atol=1e-6
    )


def _oracle(n=4000):
    """Integrate, by sums over midpoints, the hidden layer's share and its mean gradient."""
    conductance, influence = np.zeros(2), np.zeros(2)
    for k in range(n):
        x = START + (k + 0.5) / n * (X - START)
        h = np.tanh(WEIGHTS @ x)
        slope = np.array([x[1], 2 * h[1] * x[0]])
        velocity = (1 - h**2) * (WEIGHTS @ (X - START))
        conductance += slope * velocity / n
        influence += slope / n
    return conductance, influence


def test_what_bypasses_the_layer_varies_along_the_path(x64):
    conductance, influence = _oracle()
    x, start = jnp.asarray(X), jnp.asarray(START)
    found = xattr.conductance(bypassed, x, start, layer="hidden", chunk_size=7)
    np.testing.assert_allclose(found, conductance, atol=1e-7)
    found = xattr.internal_influence(bypassed, x, start, layer="hidden", chunk_size=7)
    np.testing.assert_allclose(found, influence, atol=1e-7)


def test_layer_integrated_gradients_hold_what_bypasses_the_layer_at_x(x64):
    x, start = jnp.asarray(X), jnp.asarray(START)
    end, begin = np.tanh(WEIGHTS @ X), np.tanh(WEIGHTS @ START)
    expected = (end[0] - begin[0]) * X[1], (end[1] ** 2 - begin[1] ** 2) * X[0]
    found = xattr.layer_integrated_gradients(bypassed, x, start, layer="hidden")
    np.testing.assert_allclose(found, expected, atol=1e-12)
    to_layer, from_layer = xattr.at_layer(bypassed, "hidden")
    change = bypassed(x) - from_layer(to_layer(start), x)
    np.testing.assert_allclose(found.sum(), change, atol=1e-12)


def test_conductance_is_complete_where_nothing_bypasses_the_layer():
    (f, _, args), x = table.flax_models()["linen"], table.inputs()
    start = x * 0.5
    found = xattr.conductance(f, x, start, layer="Dense_1", args=args)  # the first, of 5 units
    assert found.shape == (5,)
    np.testing.assert_allclose(found.sum(), f(x, *args) - f(start, *args), atol=2e-6)


def test_every_method_of_the_library_takes_the_rest_of_the_network():
    x = jnp.asarray(X, jnp.float32)
    to_layer, from_layer = xattr.at_layer(bypassed, "hidden")
    h = to_layer(x)
    np.testing.assert_allclose(h, np.tanh(WEIGHTS @ X), rtol=1e-6)
    np.testing.assert_allclose(from_layer(h, x), bypassed(x), rtol=1e-6)
    np.testing.assert_allclose(from_layer(h + 1, x, 2.0), 2 * (h[0] + 1) * x[1] + _second(h, x))
    found = xattr.integrated_gradients(from_layer, h, args=(x,))
    zero_h = jnp.zeros(2)  # h of x = 0
    np.testing.assert_allclose(from_layer(zero_h, x), 0)
    expected = xattr.layer_integrated_gradients(bypassed, x, layer="hidden")
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def _second(h, x):
    return 2 * (h[1] + 1) ** 2 * x[0]


# Grad-CAM ---------------------------------------------------------------------------------------


def _kernels():
    random = np.random.default_rng(8)
    return random.normal(size=(3, 3, 2, 4)) / 3, random.normal(size=(3, 3, 4, 3)) / 3


def _convolve(x, kernel, stride=1):
    dims = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x[None], kernel, (stride,) * 2, "SAME", None, None, dims)[0]


def plain_cnn(x, kernels):
    h = checkpoint_name(relu(_convolve(x, kernels[0], 2)), "features")
    return jnp.tanh(_convolve(h, kernels[1])).mean((0, 1))[1]


class Features(linen.Module):
    @linen.compact
    def __call__(self, x):
        return relu(linen.Conv(4, (3, 3), 2, use_bias=False)(x))


class LinenCNN(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = Features(name="features")(x)
        return jnp.tanh(linen.Conv(3, (3, 3), use_bias=False)(x)).mean((-3, -2))


def linen_cnn(x, kernels):
    first, second = ({"kernel": kernel} for kernel in kernels)
    params = {"features": {"Conv_0": first}, "Conv_0": second}
    return LinenCNN().apply({"params": params}, x[None])[0, 1]  # with an axis of 1 example


class NnxCNN(nnx.Module):
    def __init__(self, kernels):
        options = {"use_bias": False, "param_dtype": jnp.float64, "rngs": nnx.Rngs(0)}
        conv = functools.partial(nnx.Conv, kernel_size=(3, 3), **options)
        self.first, self.second = conv(2, 4, strides=2), conv(4, 3)
        self.first.kernel[...], self.second.kernel[...] = kernels

    def __call__(self, x):
        with jax.named_scope("features"):
            x = relu(self.first(x))
        return jnp.tanh(self.second(x)).mean((0, 1))


def nnx_cnn(x, kernels):
    return NnxCNN(kernels)(x)[1]


def _slow_convolve(x, kernel, stride):
    size = x.shape[0] // stride
    before = 0 if stride == 2 else 1  # SAME: an even size at stride 2 pads after
    padded = np.pad(x, ((before, 2), (before, 2), (0, 0)))
    out = np.zeros((size, size, kernel.shape[3]))
    for i in range(size):
        for j in range(size):
            patch = padded[stride * i : stride * i + 3, stride * j : stride * j + 3]
            out[i, j] = np.einsum("abc,abcd->d", patch, kernel)
    return out


def _slow_grad_cam(x, kernels, step=1e-6):
    maps = np.maximum(_slow_convolve(x, kernels[0], 2), 0)
    score = lambda h: np.tanh(_slow_convolve(h, kernels[1], 1)).mean((0, 1))[1]
    slopes = np.zeros_like(maps)
    for place in np.ndindex(*maps.shape):
        moved = np.zeros_like(maps)
        moved[place] = step
        slopes[place] = (score(maps + moved) - score(maps - moved)) / (2 * step)
    return np.maximum((maps * slopes.mean((0, 1))).sum(2), 0)


def _slow_upsample(cam, size):
    """Read the map at the centres of the pixels, between its own centres."""
    out = np.zeros((size, size))
    for i, j in np.ndindex(size, size):
        places = [(k + 0.5) * cam.shape[0] / size - 0.5 for k in (i, j)]
        low, high = np.clip(np.floor(places), 0, None), np.floor(places) + 1
        high = np.clip(high, None, cam.shape[0] - 1)
        t = np.asarray(places) - np.floor(places)
        low, high = low.astype(int), high.astype(int)
        out[i, j] = (1 - t[0]) * ((1 - t[1]) * cam[low[0], low[1]] + t[1] * cam[low[0], high[1]])
        out[i, j] += t[0] * ((1 - t[1]) * cam[high[0], low[1]] + t[1] * cam[high[0], high[1]])
    return out


@pytest.mark.parametrize("f", [plain_cnn, linen_cnn, nnx_cnn])
def test_grad_cam_against_loops(f, x64):
    x = np.random.default_rng(0).normal(size=(8, 8, 2))
    kernels = _kernels()
    expected = _slow_grad_cam(x, kernels)
    assert (expected > 0).sum() > 3
    assert (expected == 0).any()
    options = {"layer": "features", "args": (jax.tree.map(jnp.asarray, kernels),)}
    found = xattr.grad_cam(f, jnp.asarray(x), upsample=False, **options)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    found = xattr.grad_cam(f, jnp.asarray(x), **options)
    np.testing.assert_allclose(found, _slow_upsample(expected, 8), atol=1e-9)


def test_grad_cam_and_its_guided_form_of_one_layer_by_hand():
    # h = ReLU of two channels, f = mean h₁ - 2 mean h₂: α = (1, -2) / 4. The signal that comes back
    # at x₂ is negative and dropped.
    def f(x):
        h = checkpoint_name(relu(x), "h")
        return (h[0].mean((0, 1)) * jnp.array([1.0, -2.0])).sum()

    x = jnp.array([[[4.0, 1.0], [-3.0, 0.0]], [[2.0, 8.0], [8.0, -4.0]]])[None]
    cam = np.array([[0.5, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(xattr.grad_cam(f, x, layer="h"), cam)
    expected = np.stack([cam / 4 * np.asarray(x[0, ..., 0] > 0), np.zeros((2, 2))], -1)[None]
    np.testing.assert_allclose(xattr.guided_grad_cam(f, x, layer="h"), expected)


@pytest.mark.parametrize("shape", [(9,), (4, 6), (3, 4, 5), (2, 3, 2, 3)])
def test_grad_cam_of_any_number_of_spatial_axes(shape, x64):
    """Σₖ αₖ Aᵏ by NumPy, for the layer h = (x₁, x₁ x₂, −x₂) and f = Σ v · mean(h²) / 2."""
    x = np.random.default_rng(0).normal(size=(*shape, 2))
    v = np.array([1.0, -2.0, 0.5])
    layer = lambda x: np.stack([x[..., 0], x[..., 0] * x[..., 1], -x[..., 1]], -1)
    axes, h = tuple(range(len(shape))), layer(x)
    cam = h @ (v * h).mean(axes) / np.prod(shape)

    def f(x):
        parts = [x[..., 0], x[..., 0] * x[..., 1], -x[..., 1]]
        h = checkpoint_name(jnp.stack(parts, -1), "h")
        return (h**2).mean(tuple(range(h.ndim - 1))) @ jnp.asarray(v) / 2

    for image in (x, x[None]):
        options = {"layer": "h", "spatial_axes": len(shape)}
        found = xattr.grad_cam(f, jnp.asarray(image), **options, relu=False)
        np.testing.assert_allclose(found, cam, atol=1e-12)
        found = xattr.grad_cam(f, jnp.asarray(image), **options)
        np.testing.assert_allclose(found, np.maximum(cam, 0), atol=1e-12)
    options["on_uncovered"] = "gradient"
    signal = jax.grad(f)(jnp.asarray(x))
    found = xattr.guided_grad_cam(f, jnp.asarray(x), **options)
    np.testing.assert_allclose(found, np.maximum(cam, 0)[..., None] * signal, atol=1e-12)


def test_guided_grad_cam_is_the_product():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 2)), jnp.float32)
    kernels = tuple(jnp.asarray(k, jnp.float32) for k in _kernels())
    options = {"args": (kernels,), "on_uncovered": "gradient"}
    cam = xattr.grad_cam(plain_cnn, x, layer="features", args=(kernels,))
    signal = guided.guided_backprop(plain_cnn, x, **options)
    found = xattr.guided_grad_cam(plain_cnn, x, layer="features", **options)
    np.testing.assert_allclose(found, cam[..., None] * signal, rtol=1e-6)
    assert np.abs(found).max() > 0


# Names ------------------------------------------------------------------------------------------


def residual(x):
    def block(x):
        with jax.named_scope("inner"):
            y = jnp.sin(x) * 2
            y = y + 1
        return x + y

    for index in range(2):
        with jax.named_scope(f"block_{index}"):
            x = block(x)
            checkpoint_name(jnp.cos(x), "unused")
    return checkpoint_name(x, "block_1").sum()


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("block_0", lambda x: x + 2 * np.sin(x) + 1),
        ("block_0/inner", lambda x: 2 * np.sin(x) + 1),
        ("inner", None),
    ],
)
def test_residual_blocks(layer, expected):
    x = jnp.array([0.3, -1.0])
    to_layer, from_layer = xattr.at_layer(residual, layer)
    if expected is None:
        with pytest.raises(ValueError, match=r"2 values.*longer.*'block_0/inner'"):
            to_layer(x)
        return
    h = to_layer(x)
    np.testing.assert_allclose(h, expected(np.asarray(x)), rtol=1e-6)
    np.testing.assert_allclose(from_layer(h, x), residual(x), rtol=1e-6)
    first = h if layer == "block_0" else x + h
    slope = 1 + 2 * np.cos(first)  # through the bypass and through the second block
    np.testing.assert_allclose(xattr.layer_gradient(residual, x, layer=layer), slope, rtol=1e-6)


def test_a_name_comes_before_a_scope_and_can_be_told_by_its_scope():
    x = jnp.array([0.3, -1.0])
    np.testing.assert_allclose(xattr.layer_gradient(residual, x, layer="block_1"), 1)

    def twice(x):
        for name in "ab":
            with jax.named_scope(name):
                x = checkpoint_name(jnp.sin(x), "h")
        return x.sum()

    to_layer, _ = xattr.at_layer(twice, "a/h")
    np.testing.assert_allclose(to_layer(x), jnp.sin(x), rtol=1e-6)
    with pytest.raises(ValueError, match=r"2 values.*such as 'a/h'"):
        xattr.layer_gradient(twice, x, layer="h")


def test_a_shared_module_is_ambiguous():
    class Shared(linen.Module):
        @linen.compact
        def __call__(self, x):
            dense = linen.Dense(3, name="shared")
            return dense(jnp.tanh(dense(x))).sum()

    variables = Shared().init(jax.random.key(0), jnp.ones(3))
    f = lambda x: Shared().apply(variables, x)
    with pytest.raises(ValueError, match=r"'shared' is 2 values.*; name one of them.*checkpoint_n"):
        xattr.layer_gradient(f, jnp.ones(3), layer="shared")


@pytest.mark.parametrize("wrap", [jax.checkpoint, jax.jit, lambda f: lambda x: jax.vmap(f)(x)])
@pytest.mark.parametrize("layer", ["outer/inner", "named"])
def test_layers_inside_checkpoint_jit_and_vmap(wrap, layer):
    def block(x):
        with jax.named_scope("inner"):
            y = jnp.sin(x) * 3
        return checkpoint_name(x * y, "named")

    def f(x, wrap=wrap):
        with jax.named_scope("outer"):
            return jnp.exp(wrap(block)(x)).sum()

    x = jnp.array([0.5, -0.3])
    y = np.sin(x) * 3
    slope = np.exp(x * y) * (x if layer == "outer/inner" else 1)
    np.testing.assert_allclose(xattr.layer_gradient(f, x, layer=layer), slope, rtol=1e-6)
    to_layer, from_layer = xattr.at_layer(f, layer)
    np.testing.assert_allclose(from_layer(to_layer(x), x), f(x), rtol=1e-6)


def test_a_rematerialized_module_of_linen():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return jnp.cos(linen.remat(table.LinenMLP)(name="block")(x)).sum()

    variables = Net().init(jax.random.key(0), jnp.ones(3))
    f, x = lambda x: Net().apply(variables, x), table.inputs()
    to_layer, _ = xattr.at_layer(f, "block")
    h = table.LinenMLP().apply({"params": variables["params"]["block"]}, x)
    np.testing.assert_allclose(to_layer(x), h, rtol=1e-6)
    found = xattr.layer_gradient(f, x, layer="block")
    np.testing.assert_allclose(found, -jnp.sin(h), rtol=1e-6)
    assert xattr.layer_gradient(f, x, layer="block/Dense_1").shape == (5,)


def test_a_derivative_of_its_own_stays():
    @jax.custom_vjp
    def straight_through(h):
        return jnp.maximum(h @ jnp.eye(2), 0)

    straight_through.defvjp(lambda h: (straight_through(h), None), lambda _, g: (7 * g,))
    f = lambda x: straight_through(checkpoint_name(jnp.sin(x), "h")).sum()
    np.testing.assert_allclose(xattr.layer_gradient(f, jnp.array([1.0, -1.0]), layer="h"), 7)


def test_what_is_not_needed_is_not_run():
    calls = []

    def noted(x, name):
        return jax.pure_callback(lambda x: calls.append(name) or x, x, x)

    def f(x):
        before, aside = noted(x, "before"), noted(x, "aside")
        h = checkpoint_name(jnp.sin(before), "h")
        return noted(h, "after").sum() + aside.sum()

    to_layer, from_layer = xattr.at_layer(f, "h")
    x = np.ones(2, np.float32)
    to_layer(x).block_until_ready()
    assert calls == ["before"]
    from_layer(x, x).block_until_ready()
    assert sorted(calls[1:]) == ["after", "aside"]


def test_layers_of_efficientnet():
    model, x = EfficientNetLite0(depthwise="conv"), jnp.full((32, 32, 3), 0.4)
    form = jax.eval_shape(model.init, jax.random.key(0), x)
    random = np.random.default_rng(0)
    variables = jax.tree.map(lambda a: jnp.asarray(random.random(a.shape) / 10, a.dtype), form)
    f = lambda x, v: model.apply(v, x)[3]
    to_layer, from_layer = xattr.at_layer(f, "block_10")
    there = lambda x, v: (h := to_layer(x, v), from_layer(h, x, v), f(x, v))
    h, score, expected = jax.jit(there)(x, variables)
    assert h.shape == (2, 2, 112)
    np.testing.assert_allclose(score, expected, rtol=1e-5)
    assert jax.eval_shape(xattr.at_layer(f, "block_3/project")[0], x, variables).shape[2] == 40
    with pytest.raises(ValueError, match=r"16 values.*'EfficientNetLite/block_0/project'"):
        jax.eval_shape(xattr.at_layer(f, "project")[0], x, variables)
    with pytest.raises(ValueError, match=r"no layer 'Dense_0'.*stem.*block_2.* and \d+ more"):
        jax.eval_shape(xattr.at_layer(f, "Dense_0")[0], x, variables)


# Transformations --------------------------------------------------------------------------------


def tree_net(x, label, params):
    with jax.named_scope("hidden"):
        h = jnp.tanh(x["a"] @ params["w1"] + params["b1"])
    scores = h @ params["w2"] * x["b"]
    return scores[label]


def tree_case(seed=0, dtype=jnp.float32):
    x = {"a": table.inputs(seed, dtype), "b": jnp.asarray(1.5 + seed, dtype)}
    return x, (jnp.int32(seed + 1), table.parameters(seed, dtype))


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_jit_vmap_and_a_second_call(name):
    options = {"layer": "hidden"} if name == "gradient" else {"layer": "hidden", "chunk_size": 24}
    attribute = lambda x, label, params: ATTRIBUTIONS[name](
        tree_net, x, args=(label, params), **options
    )
    cases = [tree_case(seed) for seed in range(3)]
    expected = [attribute(x, *args) for x, args in cases[:1]]
    with count_compilations() as counts:
        expected += [attribute(x, *args) for x, args in cases[1:]]
    assert not counts
    assert all(a.shape == (5,) for a in expected)
    x, args = cases[1]
    table.close(jax.jit(attribute)(x, *args), expected[1])
    xs, batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *cases)
    table.close(jax.vmap(attribute)(xs, *batch), jnp.stack(expected))
    table.close(jax.jit(jax.vmap(attribute))(xs, *batch), jnp.stack(expected))


def test_a_second_call_of_the_maps_compiles_nothing():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 2)), jnp.float32)
    kernels = tuple(jnp.asarray(k, jnp.float32) for k in _kernels())
    f = lambda kernels, x: plain_cnn(x, kernels)
    attribute = lambda x, kernels: xattr.guided_grad_cam(
        functools.partial(f, kernels), x, layer="features", on_uncovered="gradient"
    )
    first = attribute(x, kernels)
    doubled = tuple(2 * k for k in kernels)
    with count_compilations() as counts:
        second = attribute(x, doubled)
    assert not counts
    assert not np.allclose(first, second)
    batch = jax.vmap(attribute, (0, None))(jnp.stack([x, x]), doubled)
    table.close(batch, jnp.stack([second, second]))
    table.close(jax.jit(attribute)(x, doubled), second)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_grad(name, x64):
    direction = jnp.array([0.6, -0.8])
    attribute = lambda t: (
        ATTRIBUTIONS[name](bypassed, jnp.asarray(X) + t * direction, layer="hidden", args=(1.3,))
    ).prod()
    slope = (attribute(1e-5) - attribute(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(attribute))(0.0), slope, rtol=1e-6)


@pytest.mark.parametrize("name", ATTRIBUTIONS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_dtypes(name, dtype, x64):
    x, args = tree_case(dtype=jnp.float64)
    expected = ATTRIBUTIONS[name](tree_net, x, layer="hidden", args=args)
    cast = lambda a: a.astype(dtype) if jnp.issubdtype(a.dtype, jnp.floating) else a
    x, args = jax.tree.map(cast, (x, args))
    found = ATTRIBUTIONS[name](tree_net, x, layer="hidden", args=args)
    assert found.dtype == dtype
    table.close(found, expected, 1e-12 if dtype == jnp.float64 else 0.03)


# What cannot be a layer -------------------------------------------------------------------------


def _scan(x):
    def step(carry, _):
        with jax.named_scope("body"):
            carry = jnp.sin(carry)
        return carry, None

    return jax.lax.scan(step, x, None, length=2)[0].sum()


def _while(x):
    def step(state):
        return state[0] + 1, checkpoint_name(jnp.sin(state[1]), "body")

    return jax.lax.while_loop(lambda state: state[0] < 2, step, (0, x))[1].sum()


def _cond(x):
    return jax.lax.cond(x[0] > 0, jax.named_scope("body")(jnp.sin), jnp.cos, x).sum()


def _own_derivative(x):
    @jax.custom_jvp
    def g(x):
        return checkpoint_name(jnp.sin(x), "body") * 2

    g.defjvps(lambda t, out, x: t)
    return g(x).sum()


def _whole_numbers(x):
    with jax.named_scope("body"):
        index = jnp.argmax(x)
    return x[index]


def _independent(x):
    with jax.named_scope("body"):
        scale = jnp.arange(2.0) + 1
    return (x * scale).sum()


def _unused(x):
    checkpoint_name(jnp.sin(x), "body")
    return x.sum()


def _two_results(x):
    with jax.named_scope("body"):
        pair = jnp.sin(x), jnp.cos(x)
    return (pair[0] * pair[1]).sum()


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (_scan, "inside a loop.*scan"),
        (_while, "inside a loop.*while"),
        (_cond, "inside a branch"),
        (_own_derivative, "inside a function with its own derivative"),
        (_whole_numbers, r"not floating.*int32\[\] from argmax"),
        (_independent, "does not depend on x"),
        (_unused, "does not use the layer 'body': go on with"),
        (_two_results, "2 values.*sin in 'body'.*cos in 'body'.*checkpoint_name"),
        (lambda x: x.sum(), "neither names nor scopes.*checkpoint_name.*named_scope"),
        (residual, r"no layer 'body'.*names are block_0/unused, .*scopes are block_0, inner, blo"),
    ],
)
def test_what_is_no_layer(f, message):
    with pytest.raises(ValueError, match=message):
        xattr.layer_gradient(f, jnp.array([0.5, 1.0]), layer="body")


def test_a_scope_around_a_loop_is_a_layer():
    f = lambda x: jnp.exp(jax.named_scope("around")(_scan)(x))
    x = jnp.array([0.5, 1.0])
    found = xattr.layer_gradient(f, x, layer="around")
    np.testing.assert_allclose(found, np.exp(np.sin(np.sin(x)).sum()), rtol=1e-6)


def test_arguments():
    x = jnp.array([3.0, 1.0])
    with pytest.raises(TypeError, match="`layer` must be the name of a layer, not 3"):
        xattr.at_layer(gated, 3)
    with pytest.raises(TypeError, match="not ''"):
        xattr.conductance(gated, x, layer="")
    with pytest.raises(ValueError, match=r"`h` must have the shape .*\(2,\), but has shape \(3,\)"):
        xattr.at_layer(gated, "hidden")[1](jnp.ones(3), x)
    with pytest.raises(ValueError, match=r"layer of shape \(H, W, C\).*has shape \(\) before"):
        xattr.grad_cam(gated, x, layer="hidden", upsample=False)
    with pytest.raises(ValueError, match=r"one image.*has shape \(2,\)"):
        xattr.grad_cam(gated, x, layer="hidden")
    with pytest.raises(ValueError, match=r"not finite.*NaN"):
        xattr.conductance(bypassed, x.at[0].set(jnp.nan), layer="hidden")
