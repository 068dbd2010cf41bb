"""Patterns against their definitions on explicit samples and patches, and the backward pass."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.nn import relu

from tests import oracles
from tests.graphs import network
from xattr import targets
from xattr._backward.patterns.methods import fit_patterns, pattern_attribution, pattern_net
from xattr.testing import count_compilations
from xattr.types import UncoveredPrimitiveError

ESTIMATORS = ("linear", "relu", "two_point")
SIGNAL, NOISE = np.array([1.0, 0.0]), np.array([1.0, 1.0])
W = jnp.array([1.0, -1.0])  # cancels the noise


def close(actual, expected, tolerance=1e-12):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def normal(seed, *shape, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def factorial(levels_s=(-2.0, 2.0), levels_noise=(-3.0, 1.0, 2.0)):
    """Every pair of levels once, so that signal and noise are exactly uncorrelated."""
    s, noise = (v.reshape(-1, 1) for v in np.meshgrid(levels_s, levels_noise))
    return (s * SIGNAL + noise * NOISE).astype(np.float32)


def signal(x):
    return x @ W


def arrays(patterns):
    return [np.asarray(patterns[name]) for name in patterns]


# Known answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_pattern_is_the_direction_of_the_signal(estimator):
    patterns = fit_patterns(signal, factorial(), estimator=estimator)
    names = ["00 dense y>0", "00 dense y<=0"] if estimator == "two_point" else ["00 dense"]
    assert sorted(patterns) == sorted(names)
    for a in arrays(patterns):
        close(a, [1, 0], 1e-6)
    x = jnp.array([2.0, 0.5])  # s = 1.5, ε = 0.5
    close(pattern_attribution(signal, x, patterns), [1.5, 0], 1e-6)
    close(pattern_net(signal, x, patterns), [1.5, 0], 1e-6)


def test_two_point_patterns_are_used_by_the_sign_of_their_unit():
    w = jnp.array([[1.0, 1.0], [0.0, -1.0]])
    f = lambda x: jnp.sum(x @ w * jnp.array([3.0, 1.0]))  # units 3 x₁ and x₁ − x₂
    above, below = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([[5.0, 6.0], [7.0, 8.0]])
    patterns = {"00 dense y>0": above, "00 dense y<=0": below}
    x = jnp.array([1.0, 5.0])  # units 3 and −4, f = −1
    close(pattern_net(f, x, patterns), -np.array([1.0 + 6, 3 + 8]))
    # w = [[3, 1], [0, −1]] with the factor
    close(pattern_attribution(f, x, patterns), -np.array([3 * 1.0 + 6, -8]))
    zero = jnp.zeros(2)
    close(pattern_net(lambda x: f(x) + 2, zero, patterns), 2 * np.array([5 + 6, 7 + 8]))


def small_network(x, w1, b1, w2):
    return (relu(x @ w1 + b1) @ w2)[0]


def test_shifted_data(x64):
    """x → x + m with b → b − wᵀm: what changes, and by how much."""
    shapes = ((4, 3), (3,), (3, 1), (60, 4), (4,))
    w1, b1, w2, data, m = (normal(i, *shape, dtype=float) for i, shape in enumerate(shapes))
    f, args, args2 = small_network, (w1, b1, w2), (w1, b1 - m @ w1, w2)
    x = data[0]
    for estimator in ("linear", "two_point"):
        fitted = fit_patterns(f, data, estimator=estimator, args=args)
        again = fit_patterns(f, data + m, estimator=estimator, args=args2)
        before = pattern_attribution(f, x, fitted, args=args)
        close(pattern_attribution(f, x + m, fitted, args=args2), before)
        if estimator == "linear":
            jax.tree.map(close, fitted, again)
            continue
        name = "00 dense y>0"  # the same as by "relu"
        y = data @ w1 + b1
        for k in range(y.shape[1]):
            chosen = y[:, k] > 0
            mean, above = y[:, k].mean(), y[chosen, k].mean()
            c = (data[chosen] * y[chosen, k : k + 1]).mean(0) - data[chosen].mean(0) * mean
            moved = c + m * (above - mean)
            close(fitted[name][:, k], c / (w1[:, k] @ c), 1e-10)
            close(again[name][:, k], moved / (w1[:, k] @ moved), 1e-10)
            assert np.abs(again[name][:, k] - fitted[name][:, k]).max() > 1e-3


def test_large_means_do_not_spoil_float32():
    data = factorial(np.linspace(-1, 1, 21), np.linspace(-1, 1, 21))
    patterns = fit_patterns(lambda x: x @ W + 1000, data + 100, estimator="linear")
    close(patterns["00 dense"], [1, 0], 2e-3)


@pytest.mark.parametrize("estimator", ["linear", "two_point"])
def test_units_that_never_change_have_no_pattern(estimator):
    identity = jnp.eye(3)  # not within f, where it would be a copy and no layer
    f = lambda x: jnp.sum(relu(x @ identity + jnp.array([0.0, -100.0, 0.0])))
    data = normal(0, 50, 3)
    data[:, 2] = 0.1  # a constant; the second unit is dead
    patterns = fit_patterns(f, data, estimator=estimator)
    for name, a in patterns.items():
        assert np.isfinite(a).all()
        close(a[:, 2], 0)
        if name.endswith("y>0"):
            close(a[:, 1], 0)
        else:
            assert a[1, 1] == pytest.approx(1, abs=1e-5)


# Fits against the oracle ------------------------------------------------------------------------


def unequal(data):
    """The data in batches of different sizes, once."""
    yield from np.split(data, [15])


def of_oracle(xs, ys, w, estimator):
    found = oracles.fit_pattern_dense(xs, ys, w, estimator)
    if estimator == "two_point":
        return dict(zip((" y>0", " y<=0"), found, strict=True))
    return {"": found}


def test_dense_layers_with_batch_normalization(x64):
    graph = network("dense_batchnorm")
    data = normal(0, 40, 6, dtype=np.float64)
    patterns = fit_patterns(graph.f, unequal(data), estimator="two_point")
    values = [np.stack(v) for v in zip(*(oracles.forward(graph, x) for x in data), strict=True)]
    expected = {}
    for number, node in enumerate(graph.layers()):
        xs, ys, (w,) = values[node.parents[0]], values[node.index], node.matrices
        found = of_oracle(xs, ys, w.T, "two_point")
        expected |= {f"{number:02d} dense{sign}": a for sign, a in found.items()}
    assert set(patterns) == set(expected)
    for name, a in expected.items():
        close(patterns[name], a, 1e-9)


def one_unit(x, w, b):
    return (x @ w + b)[0]


@pytest.mark.parametrize(
    ("xs", "bias"),
    [
        ([[1, 0], [3, 2], [-2, 1]], -1.0),  # y = 0, 2, −3: 0 is in the second regime
        ([[0, 5], [-3, 1], [-4, 2]], 1.0),  # y = 1, −2, −3: c = (0, 35/3), wᵀc = 0 counts as 1
    ],
)
def test_cases_at_the_edge(x64, xs, bias):
    xs, w = np.array(xs, float), np.array([[1.0], [0.0]])
    found = fit_patterns(one_unit, xs, estimator="two_point", args=(w, bias))
    for sign, a in of_oracle(xs, xs @ w + bias, w, "two_point").items():
        close(found[f"00 dense{sign}"], a)


def patches(images, size, stride, dilation, groups):
    """Patches (n · places, groups, size · size · channels) under SAME padding with zeros."""
    height, width = images.shape[1:3]
    reach = (size - 1) * dilation + 1
    counts = [-(-length // stride) for length in (height, width)]
    pads = [
        max((count - 1) * stride + reach - length, 0)
        for count, length in zip(counts, (height, width), strict=True)
    ]
    around = [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)]
    padded = np.pad(images, around)
    found = []
    for image in padded:
        for i in range(counts[0]):
            for j in range(counts[1]):
                rows, columns = i * stride, j * stride
                cut = image[rows : rows + reach : dilation, columns : columns + reach : dilation]
                parts = np.split(cut, groups, axis=-1)
                found.append([part.ravel() for part in parts])
    return np.array(found)


@pytest.mark.parametrize(
    ("estimator", "options"),
    [
        ("linear", {}),
        ("relu", {"stride": 2, "dilation": 2}),
        ("linear", {"norm": True}),
        ("two_point", {"norm": True, "groups": 2}),
    ],
)
def test_convolutions(x64, estimator, options):
    stride, dilation, groups = (options.get(n, 1) for n in ("stride", "dilation", "groups"))
    kernel, b = normal(0, 3, 3, 4 // groups, 6, dtype=float), normal(1, 6, dtype=float)
    scale, shift = (b + 2, b / 3) if options.get("norm") else (np.ones(6), np.zeros(6))

    def layer(x):
        y = lax.conv_general_dilated(
            x[None],
            jnp.asarray(kernel),
            (stride, stride),
            "SAME",
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
        y = y + b.reshape(1, 1, 1, -1)
        return y * scale.reshape(1, 1, 1, -1) + shift.reshape(1, 1, 1, -1)

    images = normal(2, 9, 5, 6, 4, dtype=float) + 0.5
    found = fit_patterns(lambda x: jnp.sum(relu(layer(x))), images, estimator=estimator)
    rows = patches(images, 3, stride, dilation, groups)
    matrix = (kernel * scale).reshape(-1, 6)
    for group in range(groups):
        chosen = slice(group * 6 // groups, (group + 1) * 6 // groups)
        w = matrix[:, chosen]
        ys = rows[:, group] @ w + (b * scale + shift)[chosen]
        for sign, a in of_oracle(rows[:, group], ys, w, estimator).items():
            close(found[f"00 conv{sign}"].reshape(-1, 6)[:, chosen], a, 1e-9)


# Ways to write a layer --------------------------------------------------------------------------

MATRIX = normal(5, 4, 3)
BIAS = np.array([0.5, -0.5, 1.0], np.float32)
SPELLINGS = {
    "left": lambda x: MATRIX.T @ x + BIAS,
    "scaled": lambda x: 0.5 * (x @ (MATRIX / 2)) * jnp.array([4.0, 4, 4]) + BIAS,
    "negated": lambda x: BIAS - x @ -MATRIX,
    "column": lambda x: (x[None] @ MATRIX).T + BIAS[:, None],
    "summed": lambda x: jnp.sum(x[:, None] * (2 * MATRIX) * np.full((4, 3), 0.5), 0) + BIAS,
    "shifted": lambda x: (
        x[:3] * np.diag(MATRIX) + jnp.roll(x, -1)[:3] * np.diag(np.roll(MATRIX, -1, 0))
    ),
    "heads": lambda x: jnp.einsum("hd,dkh->kh", x.reshape(2, 2), HEADS.transpose(1, 2, 0)),
}
HEADS = normal(6, 2, 2, 2)


DATA = normal(1, 80, 4) + 0.25


def active_units(layer):
    return lambda x: jnp.sum(relu(layer(x)))


@functools.cache
def explained(layer):
    """Signals and attributions of the first examples, with patterns fitted on all."""
    f = active_units(layer)
    patterns = fit_patterns(f, DATA, estimator="two_point")
    both = lambda x: (pattern_net(f, x, patterns), pattern_attribution(f, x, patterns))
    return jax.vmap(both)(DATA[:5])


def plain_layer(x):
    return x @ MATRIX + BIAS


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_layer_however_it_is_written(spelling):
    layer = SPELLINGS[spelling]
    signals, attributions = explained(layer)
    # Σ w ⊙ a = 1 for each unit: attributions add up to f times the number of active units.
    units = np.array([np.sum(np.asarray(layer(x)) > 0) for x in DATA[:5]], np.float32)
    close(attributions.sum(1), jax.vmap(active_units(layer))(DATA[:5]) * units, 1e-4)
    assert np.abs(signals).max() > 0.1
    if spelling not in ("shifted", "heads"):
        close(signals, explained(plain_layer)[0], 1e-4)
        close(attributions, explained(plain_layer)[1], 1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_depthwise_convolution_as_shifted_products_has_the_patterns_of_the_convolution(
    estimator, x64
):
    kernel, data = normal(7, 3, 3, 1, 4, dtype=float), normal(8, 12, 6, 6, 4, dtype=float)
    layout = ("NHWC", "HWIO", "NHWC")
    convolved = lambda x: lax.conv_general_dilated(x[None], kernel, (1, 1), "VALID", None, None,
                                                   layout, 4)[0]  # fmt: skip
    places = [(i, j) for i in range(3) for j in range(3)]
    shifted = lambda x: functools.reduce(
        jnp.add, [x[i : i + 4, j : j + 4] * kernel[i, j, 0][None, None] for i, j in places]
    )
    fs = [lambda x, layer=layer: jnp.sum(relu(layer(x) + 0.3)) for layer in (convolved, shifted)]
    whole, parts = (fit_patterns(f, data, estimator=estimator) for f in fs)
    for sign in (" y>0", " y<=0") if estimator == "two_point" else ("",):
        found = [parts[f"00 conv weights {n}{sign}"] for n in range(9)]
        assert {a.shape for a in found} == {(1, 1, 4)}
        close(np.reshape(found, (3, 3, 1, 4)), whole[f"00 conv{sign}"], 1e-9)
    for method in (pattern_net, pattern_attribution):
        one, other = (method(f, data[0], a) for f, a in zip(fs, (whole, parts), strict=True))
        close(one, other, 1e-9)
        assert np.abs(one).max() > 0.1


def test_masked_positions_are_no_samples_and_get_no_signal():
    def f(tokens, mask):
        hidden = relu((tokens @ MATRIX) * mask[:, None] + BIAS[None])
        return jnp.sum((hidden @ MATRIX.T) * mask[:, None])

    tokens, mask = normal(2, 30, 5, 4), np.array([1, 0, 1, 1, 0], np.float32)
    patterns = fit_patterns(f, tokens, args=(mask,))
    valid, ones = tokens[:, mask > 0], np.ones(3, np.float32)
    jax.tree.map(lambda a, b: close(a, b, 1e-4), patterns, fit_patterns(f, valid, args=(ones,)))
    for method in (pattern_net, pattern_attribution):
        found = method(f, tokens[0], patterns, args=(mask,))
        close(found[mask == 0], 0)
        close(found[mask > 0], method(f, valid[0], patterns, args=(ones,)), 1e-4)
        assert np.abs(found).max() > 0.1


def model(x, weights):
    return relu(x @ weights[0]) @ weights[1] + weights[2]


WEIGHTS = (normal(0, 4, 5), normal(1, 5, 3), normal(2, 3))


def test_patterns_of_one_class_serve_for_another():
    f, data = targets.logit(model), normal(3, 50, 4)
    fitted = [fit_patterns(f, data, args=(label, WEIGHTS)) for label in (0, 2)]
    jax.tree.map(close, *fitted)
    other = fit_patterns(targets.log_probability(model), data, args=(1, WEIGHTS))
    jax.tree.map(lambda a, b: close(a, b, 1e-6), fitted[0], other)
    explain = lambda label: jax.vmap(lambda x: pattern_net(f, x, fitted[0], args=(label, WEIGHTS)))(
        data
    )
    maps = [explain(label) for label in (0, 1, 2)]
    assert all(np.abs(a).max() > 1e-2 for a in maps)
    assert np.abs(maps[0] - maps[2]).max() > 1e-2


def test_factors_after_the_class_was_picked():
    data, (w1, w2, b) = normal(3, 50, 4), WEIGHTS
    after = lambda x: -(model(x, WEIGHTS)[1]) * 2
    before = lambda x: model(x, (w1, -2 * w2, -2 * b))[1]
    fitted = [fit_patterns(f, data) for f in (after, before)]
    for name, a in fitted[0].items():
        close(a[..., 1], fitted[1][name][..., 1], 1e-5)  # of the units with a class
    for method in (pattern_net, pattern_attribution):
        close(method(after, data[0], fitted[0]), method(before, data[0], fitted[1]), 1e-4)


# The backward pass ------------------------------------------------------------------------------

BACKWARD = (
    "dense_batchnorm concat relu6 leaky_relu conv_stride_valid depthwise max_pool residual_conv"
)


def layer_and_weights(node):
    """The function of a node's parent and weights, and an array of such weights."""
    closed = inspect.getclosurevars(node.ones).nonlocals
    return closed["linear"], closed["ones"]


@functools.partial(jax.jit, static_argnums=0)
def pattern_matrices(graph, patterns):
    """The matrices of the layers with patterns in the place of weights."""
    found = []
    for node, pattern in zip(graph.layers(), patterns, strict=True):
        linear, _ = layer_and_weights(node)
        zeros = jnp.zeros(graph.nodes[node.parents[0]].shape)
        matrix = jax.jacobian(lambda h, p=pattern, linear=linear: linear(h, p))(zeros)
        found.append(matrix.reshape(node.size, -1))
    return found


@pytest.mark.parametrize("structure", BACKWARD.split())
def test_backward_pass(x64, structure):
    graph = network(structure)
    x = graph.inputs(0)
    layers = graph.layers()
    shapes = [layer_and_weights(node)[1].shape for node in layers]
    drawn = [jnp.asarray(normal(i, *shape, dtype=float)) for i, shape in enumerate(shapes)]
    patterns = {
        f"{i:02d} {node.layer}": a for i, (node, a) in enumerate(zip(layers, drawn, strict=True))
    }
    matrices = dict(zip([n.index for n in layers], pattern_matrices(graph, drawn), strict=True))
    for method, attribution in ((pattern_net, False), (pattern_attribution, True)):
        expected = oracles.pattern_backward(graph, x, matrices, attribution)
        close(method(graph.f, x, patterns), expected, 1e-9)
        assert np.abs(expected).max() > 1e-3


def test_the_mask_of_a_maximum_with_zero_is_closed_at_zero():
    identity = jnp.eye(2)
    f = lambda x: jnp.sum(jnp.maximum(x @ identity, 0.0)) + 1
    patterns = {"00 dense": identity}
    close(pattern_net(f, jnp.array([0.0, 2.0]), patterns), [0, 3])


# Transformations, dtypes, libraries -------------------------------------------------------------


def test_under_jit_vmap_and_grad(x64):
    weights = jax.tree.map(lambda w: w.astype(float), WEIGHTS)
    f, data = targets.logit(model), normal(3, 30, 4, dtype=float)
    args = (1, weights)
    patterns = fit_patterns(f, data, args=args, estimator="two_point")
    for method in (pattern_net, pattern_attribution):
        explain = lambda x, method=method: method(f, x, patterns, args=args)
        single = np.stack([explain(x) for x in data[:5]])
        close(jax.jit(jax.vmap(explain))(data[:5]), single)
        if method is pattern_net:
            continue  # the rest is the same for both
        close(jax.vmap(explain)(data[:5]), single)
        x, step = jnp.asarray(data[0]), 1e-6 * jnp.asarray(data[1])
        slope = jax.grad(lambda x: explain(x).sum())(x) @ step
        change = (explain(x + step) - explain(x - step)).sum() / 2
        close(slope, change, 1e-9)
        assert abs(slope) > 1e-9
    traced = jax.jit(lambda d: fit_patterns(f, d, args=args, estimator="two_point"))(data)
    jax.tree.map(close, traced, patterns)


def test_what_is_compiled_once():
    mine = lambda x, weights: model(x, weights)  # not compiled by another test
    f, data = targets.logit(mine), normal(3, 30, 4)
    with count_compilations() as counts:
        patterns = fit_patterns(f, np.split(data, [20]), args=(1, WEIGHTS))
    assert counts["pattern_step"] == 2
    assert counts["pattern_end"] == 1
    pattern_net(f, data[0], patterns, args=(1, WEIGHTS))
    other = jax.tree.map(lambda w: w + 1, WEIGHTS)
    with count_compilations() as counts:
        patterns = fit_patterns(f, np.split(data, [20]), args=(2, other))
        pattern_net(f, data[1], patterns, args=(2, other))
        pattern_net(targets.logit(mine), data[1], patterns, args=(2, other))
    assert not counts


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_dtypes(dtype):
    """Exact data, whose sums are not exact in the dtype, and whose squares leave its range."""
    levels = np.arange(-8.0, 9) * 64
    data, f = jnp.asarray(factorial(levels, levels), dtype), lambda x: x @ W.astype(dtype)
    patterns = fit_patterns(f, data, estimator="linear")
    assert patterns["00 dense"].dtype == np.float32
    close(patterns["00 dense"], [1, 0], 1e-6)
    x = jnp.array([2.0, 0.5], dtype)
    for method in (pattern_net, pattern_attribution):
        found = method(f, x, patterns)
        assert found.dtype == dtype
        close(found.astype(np.float32), [1.5, 0], 1e-6)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = relu(nn.BatchNorm(use_running_average=True)(nn.Conv(3, (3, 3))(x)))
        return nn.Dense(2)(x.mean((0, 1)))


class Nnx(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(3, use_running_average=True, rngs=nnx.Rngs(0))
        self.dense = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dense(relu(self.norm(self.conv(x[None])))[0].mean((0, 1)))


def plain(x, kernel, b, w, c):
    y = lax.conv_general_dilated(
        x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = (y + b.reshape(1, 1, 1, -1)) * np.float32(1 / np.sqrt(1 + 1e-5))
    return relu(y)[0].mean((0, 1)) @ w + c


def test_flax_modules_and_plain_functions_agree():
    data = normal(0, 20, 4, 5, 2)
    linen, module = Linen(), Nnx()
    params = linen.init(jax.random.key(0), data[0])
    conv, dense = params["params"]["Conv_0"], params["params"]["Dense_0"]
    module.conv.kernel[...], module.conv.bias[...] = conv["kernel"], conv["bias"] + 0.1
    module.dense.kernel[...], module.dense.bias[...] = dense["kernel"], dense["bias"]
    params["params"]["Conv_0"]["bias"] = conv["bias"] + 0.1
    weights = (conv["kernel"], module.conv.bias[...], dense["kernel"], dense["bias"])
    found = []
    for f, args in (
        (lambda x, params: linen.apply(params, x)[1], (params,)),
        (lambda x: module(x)[1], ()),
        (lambda x, *weights: plain(x, *weights)[1], weights),
    ):
        patterns = fit_patterns(f, data, args=args)
        found.append((patterns, pattern_attribution(f, data[0], patterns, args=args)))
    assert list(found[0][0]) == ["00 conv Linen/Conv_0", "01 dense Linen/Dense_0"]
    assert list(found[2][0]) == ["00 conv", "01 dense"]
    for patterns, attribution in found[:2]:
        close(arrays(patterns)[0], arrays(found[2][0])[0], 1e-4)
        close(arrays(patterns)[1], arrays(found[2][0])[1], 1e-4)
        close(attribution, found[2][1], 1e-4)


# Data -------------------------------------------------------------------------------------------


def test_forms_of_data_and_progress():
    f = lambda x: jnp.sum(relu(x["a"] @ MATRIX)) + jnp.sum(relu(x["b"] @ MATRIX))
    data = {"a": normal(0, 150, 4), "b": normal(1, 150, 4)}
    seen = []

    def progress(items):
        seen.append(len(items))
        return items

    whole = fit_patterns(f, data, progress=progress)
    parts = [jax.tree.map(lambda v, at=at: v[at : at + 64], data) for at in (0, 64, 128)]
    for batches in (parts, tuple(parts)):
        found = fit_patterns(f, batches, progress=progress)
        jax.tree.map(close, found, whole)
    assert seen == [3, 3, 3]
    assert list(whole) == ["00 dense", "01 dense"]


def test_save_and_load(tmp_path):
    f = lambda x: jnp.sum(relu(SPELLINGS["shifted"](x)))
    with jax.named_scope("not part of f"):
        patterns = fit_patterns(f, normal(0, 20, 4), estimator="two_point")
    np.savez(tmp_path / "patterns.npz", **patterns)
    x = normal(1, 4)
    expected = pattern_attribution(f, x, patterns)
    with np.load(tmp_path / "patterns.npz") as loaded:
        assert len(loaded) == 4
        close(pattern_attribution(f, x, loaded), expected, 0)
        close(pattern_attribution(f, x, dict(loaded)), expected, 0)


# Errors -----------------------------------------------------------------------------------------


def scanned(x):
    return lax.scan(lambda h, w: (relu(h @ w), None), x, jnp.ones((3, 2, 2)))[0].sum()


@pytest.mark.parametrize(
    ("f", "data", "options", "error", "message"),
    [
        (signal, np.ones((3, 2)), {"estimator": "lin"}, ValueError, '"linear", "relu", "two_'),
        (signal, np.ones((0, 2)), {}, ValueError, "`data` has no examples"),
        (signal, [], {}, ValueError, "`data` is empty"),
        (signal, np.zeros((), "f4"), {}, ValueError, "`data` has no examples"),
        (signal, 1.0, {}, TypeError, "iterable of batches"),
        (signal, np.ones((3, 2), int), {}, TypeError, "`data` must be floating"),
        (signal, [np.ones((3, 2)), np.ones((3, 4))], {}, ValueError, r"`data\[1\]` has examples"),
        (signal, [np.ones((3, 2)), {"a": np.ones((3, 2))}], {}, ValueError, "structure"),
        (signal, {"a": np.ones((3, 2)), "b": np.ones((2, 2))}, {}, ValueError, r"\[2, 3\] exam"),
        (lambda x: x.sum(), np.ones((3, 2)), {}, ValueError, "no dense or convolutional layer"),
        (lambda x: x @ jnp.eye(2), np.ones((3, 2)), {}, ValueError, "must return one scalar"),
        (scanned, np.ones((3, 2)), {}, NotImplementedError, r"inside scan.*test_patterns\.py:\d+"),
        (signal, np.ones((3, 2)), {"args": [1]}, TypeError, "`args` must be a tuple"),
    ],
)
def test_bad_arguments_of_fit(f, data, options, error, message):
    with pytest.raises(error, match=message):
        fit_patterns(f, data, **options)


def test_data_unlike_x_are_named():
    with pytest.raises(TypeError) as raised:
        fit_patterns(signal, np.ones((4, 3), np.float32))
    assert "float32[3]" in "".join(raised.value.__notes__)


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ({"00 dense": np.ones(3)}, ValueError, r"'00 dense' has shape \(3,\).*\(2,\).*fit_pat"),
        ({"00 conv": np.ones(2)}, ValueError, "none for '00 dense'; f has no '00 conv'"),
        ({"00 dense": np.ones(2), "01 dense": np.ones(2)}, ValueError, "f has no '01 dense'"),
        ({"00 dense y>0": np.ones(2)}, ValueError, "there is none for '00 dense y<=0'"),
        ({}, ValueError, "`patterns` has no arrays"),
        (np.ones(2), TypeError, "`patterns` must be a dict"),
        ({"00 dense": np.ones(2, int)}, TypeError, "must be floating"),
    ],
)
def test_patterns_of_another_network(patterns, error, message):
    with pytest.raises(error, match=message):
        pattern_net(signal, jnp.ones(2), patterns)


def test_activations_that_are_no_rectifier():
    f = lambda x: jnp.tanh(x @ W)
    patterns, x = {"00 dense": jnp.array([1.0, 0.0])}, jnp.array([0.75, 0.25])
    with pytest.raises(UncoveredPrimitiveError, match=r"tanh.*on_uncovered='gradient'"):
        pattern_attribution(f, x, patterns)
    expected = np.tanh(0.5) * (1 - np.tanh(0.5) ** 2) * np.array([1.0, 0.0])
    found = pattern_attribution(f, x, patterns, on_uncovered="gradient")
    close(found, expected, 1e-6)
    with pytest.raises(ValueError, match="`on_uncovered` must be"):
        pattern_net(f, x, patterns, on_uncovered="ignore")


def test_weights_that_depend_on_x_are_no_layer():
    gate = lambda x: lax.stop_gradient(jnp.stack([x, x[::-1]]))
    f = lambda x: jnp.sum(relu(gate(x) @ relu(x @ MATRIX[:, :3] @ MATRIX.T)))
    x = normal(0, 4)
    patterns = fit_patterns(f, normal(1, 30, 4))
    assert list(patterns) == ["00 dense", "01 dense"]
    with pytest.raises(UncoveredPrimitiveError, match="dot_general"):
        pattern_net(f, x, patterns)
    assert np.isfinite(pattern_net(f, x, patterns, on_uncovered="gradient")).all()
