"""The oracles of `tests.oracles` against answers computed by hand, and their axioms."""

import jax
import numpy as np
import pytest

from tests import oracles
from tests.graphs import HOMOGENEOUS, STRUCTURES, Graph, network

pytestmark = pytest.mark.usefixtures("x64")


def close(actual, expected, tolerance=1e-9):
    assert np.asarray(actual).dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def cases(structures):
    return pytest.mark.parametrize("structure", list(structures))


def lrp(graph, x, rule, bias="exclude"):
    return oracles.lrp(graph, x, lambda node: rule, bias)


def one_dense(x, w, b, activation="relu"):
    """ReLU(w · x + b), its input x."""
    g = Graph((len(x),), float)
    g.index(g.activation(g.dense(0, np.reshape(w, (-1, 1)), [b]), activation), 0)
    return g.finish(), np.asarray(x, float)


# --- the papers' toy networks -------------------------------------------------------------------


def figure_14a():
    g = Graph((2,), float)
    first = g.relu(g.dense(0, [[1], [0.5]], [-0.5]))
    second = g.relu(g.dense(0, [[0.25], [0.25]]))
    third = g.relu(g.dense(0, [[0.75], [0.25]]))
    g.index(g.relu(g.sum(first, second, third, signs=(1, 1, -1))), 0)
    return g.finish()


def figure_14b():
    g = Graph((2,), float)
    first = g.relu(g.dense(0, [[1], [1]], [-0.5]))
    second = g.relu(g.dense(0, [[0.5], [0.5]]))
    g.index(g.relu(g.sum(first, second, signs=(1, -1))), 0)
    return g.finish()


def figure_7f():
    g = Graph((2,), float)
    a, b = g.relu(g.index(0, 0)), g.relu(g.index(0, 1))
    g.relu(g.sum(a, b, signs=(1, -1), constant=-1))
    return g.finish()


def figure_7g():
    g = Graph((2,), float)
    a, b = g.relu(g.sum(g.index(0, 0), constant=-1)), g.relu(g.index(0, 1))
    g.relu(g.sum(a, b, signs=(1, -1)))
    return g.finish()


@pytest.mark.parametrize(
    ("build", "x", "value", "relevance", "signal"),
    [
        (figure_14a, (1, 1), 0.5, (1 / 6, 1 / 3), (1.25, 0.75)),
        (figure_14b, (1, 1), 0.5, (0.25, 0.25), (1, 1)),
        (figure_7f, (3, 1), 1, (1.5, -0.5), (1, 0)),
        (figure_7g, (3, 1), 1, (2, -1), (1, 0)),
    ],
)
def test_toy_networks(build, x, value, relevance, signal):
    graph, x = build(), np.asarray(x, float)
    close(graph.f(x), value)
    close(lrp(graph, x, oracles.zero()), relevance)
    close(oracles.deep_lift(graph, x, np.zeros(2), "rescale"), relevance)
    close(oracles.guided(graph, x), signal)
    close(oracles.deconv(graph, x), signal)


def test_saturation():
    g = Graph((), float)  # 1 - ReLU(1 - x)
    g.sum(g.relu(g.sum(0, signs=(-1,), constant=1)), signs=(-1,), constant=1)
    graph, x = g.finish(), np.asarray(2.0)
    close(graph.f(x), 1.0)
    close(lrp(graph, x, oracles.zero()), 0.0)
    close(oracles.guided(graph, x), 0.0)
    close(oracles.deep_lift(graph, x, np.asarray(0.0), "rescale"), 1.0)


@pytest.mark.parametrize("x", [(3.0, 1.0), (1.0, 4.0)])
def test_reveal_cancel_of_a_minimum(x):
    g = Graph((2,), float)  # min(x1, x2) = x1 - ReLU(x1 - x2)
    first = g.index(0, slice(0, 1))
    g.index(g.sum(first, g.relu(g.dense(0, [[1], [-1]])), signs=(1, -1)), 0)
    graph, x = g.finish(), np.asarray(x)
    half = min(x) / 2
    close(graph.f(x), min(x))
    close(oracles.deep_lift(graph, x, np.zeros(2), "reveal_cancel"), (half, half))


# --- one layer by hand --------------------------------------------------------------------------

# c = (2, -3, 4), z = 3; the bias makes y = 4 or, negative, an output of -1.
X, W = (1.0, -1.0, 2.0), (2.0, 3.0, 2.0)


@pytest.mark.parametrize(
    ("rule", "exclude", "include"),
    [
        (oracles.zero(), np.divide([8, -12, 16], 3), (2, -3, 4)),
        (oracles.epsilon(1.0), (2, -3, 4), np.multiply([8, -12, 16], 1 / 5)),
        # c + γ c⁺ = (3, -3, 6); b + γ b⁺ = 1.5
        (oracles.gamma(0.5), (2, -2, 4), np.multiply([12, -12, 24], 1 / 7.5)),
        # c⁺ = (2, 0, 4), c⁻ = (0, -3, 0), b⁺ = 1
        (oracles.alpha_beta(2.0, 1.0), (8 / 3, -4, 16 / 3), (16 / 7, -4, 32 / 7)),
        (oracles.z_plus(), (4 / 3, 0, 8 / 3), (8 / 7, 0, 16 / 7)),
        # x w - l w⁺ = (2 + 4, -3 + 6, 4 + 4)
        (oracles.z_box(-2.0, 3.0), np.multiply([6, 3, 8], 4 / 17), np.multiply([6, 3, 8], 4 / 17)),
        (oracles.flat(), (4 / 3,) * 3, (4 / 3,) * 3),
        (oracles.w_square(), np.multiply([4, 9, 4], 4 / 17), np.multiply([4, 9, 4], 4 / 17)),
    ],
    ids=["zero", "epsilon", "gamma", "alpha_beta", "z_plus", "z_box", "flat", "w_square"],
)
def test_rules_of_one_layer(rule, exclude, include):
    graph, x = one_dense(X, W, 1.0)
    close(graph.f(x), 4.0)
    close(lrp(graph, x, rule, "exclude"), exclude)
    close(lrp(graph, x, rule, "include"), include)


def test_rules_where_the_output_is_negative():
    # slope 0.5: c = (2, -3, 4), y = z - 5 = -2, f = -1
    g = Graph((3,), float)
    h = g.dense(0, np.reshape(W, (-1, 1)), [-5.0])
    g.index(g.activation(h, "leaky_relu", 0.5), 0)
    graph, x = g.finish(), np.asarray(X)
    close(graph.f(x), -1.0)
    close(lrp(graph, x, oracles.epsilon(1.0), "exclude"), (-0.5, 0.75, -1))  # d = 3 + 1
    close(lrp(graph, x, oracles.epsilon(1.0), "include"), (2 / 3, -1, 4 / 3))  # d = -2 - 1
    # c + γ c⁻ = (2, -4.5, 4), b + γ b⁻ = -7.5
    close(lrp(graph, x, oracles.gamma(0.5), "exclude"), (-4 / 3, 3, -8 / 3))
    close(lrp(graph, x, oracles.gamma(0.5), "include"), (1 / 3, -0.75, 2 / 3))
    # 2 c⁺ / 6 - c⁻ / -8; the bias takes -(5 / 8) of -1
    both = oracles.alpha_beta(2.0, 1.0)
    close(lrp(graph, x, both, "include"), (-2 / 3, 3 / 8, -4 / 3))
    close(oracles.lrp_flows(graph, x, lambda node: both, "include")[h].absorbed, [5 / 8])
    # w (x - l) = (2 · 2, 3 · 0, 2 · 3)
    close(lrp(graph, x, oracles.z_box(-1.0, 5.0)), (-0.4, 0, -0.6))
    # c⁺ = (2, 0, 4), b⁺ = 0
    for bias in ("exclude", "include"):
        close(lrp(graph, x, oracles.z_plus(), bias), (-1 / 3, 0, -2 / 3))


def test_z_box_of_negative_weights_and_array_bounds():
    graph, x = one_dense((1.0, 2.0), (1.0, -1.0), 3.0)
    low, high = np.array([0.0, -5.0]), np.array([9.0, 4.0])  # n = (1 - 0, -2 + 4)
    close(lrp(graph, x, oracles.z_box(low, high)), (2 / 3, 4 / 3))


def test_what_the_bias_absorbs():
    graph, x = one_dense(X, W, 1.0)
    node = graph.layers()[0].index
    for rule, absorbed in [
        (oracles.zero(), 1.0),
        (oracles.epsilon(1.0), 0.8),
        (oracles.gamma(0.5), 0.8),
        (oracles.alpha_beta(2.0, 1.0), 8 / 7),
        (oracles.z_plus(), 4 / 7),
    ]:
        for bias, expected in [("include", absorbed), ("exclude", 0.0)]:
            flow = oracles.lrp_flows(graph, x, lambda node, rule=rule: rule, bias)[node]
            close(flow.received, [4.0])
            close(flow.absorbed, [expected])


def test_flat_counts_zero_weights_but_no_padding():
    g = Graph((1, 3, 3, 1), float)
    kernel = np.full((3, 3, 1, 1), 7.0)
    kernel[1, 1] = 0.0  # a connection all the same
    h = g.conv(0, kernel, [1.0])
    g.index(h, 0, 0, 0, 0)
    graph, x = g.finish(), np.ones((1, 3, 3, 1))
    close(graph.f(x), 22.0)
    expected = np.zeros((3, 3))
    expected[:2, :2] = 22 / 4  # a corner sees four pixels
    close(lrp(graph, x, oracles.flat())[0, :, :, 0], expected)


def test_max_pool_sends_all_to_the_first_winner():
    g = Graph((1, 2, 2, 1), float)
    g.index(g.max_pool(0, 2, 2), 0, 0, 0, 0)
    graph, x = g.finish(), np.reshape([1.0, 5.0, 5.0, 2.0], (1, 2, 2, 1))
    close(graph.f(x), 5.0)
    close(lrp(graph, x, oracles.zero()).ravel(), (0, 5, 0, 0))
    close(oracles.gradient(graph, x), jax.grad(graph.f)(x))
    # y = 5 falls from y0 = 9: the argmax of the reference is charged
    x0 = np.reshape([9.0, 0.0, 0.0, 0.0], (1, 2, 2, 1))
    close(oracles.deep_lift(graph, x, x0, "rescale").ravel(), (-4, 0, 0, 0))
    close(oracles.deep_lift(graph, x0, x, "rescale").ravel(), (4, 0, 0, 0))


@pytest.mark.parametrize(
    ("kind", "x", "sign", "guided", "deconv"),
    [
        ("relu", 2.0, 1, 3, 3),
        ("relu", -2.0, 1, 0, 3),
        ("relu", 2.0, -1, 0, 0),
        ("relu6", 1.0, 1, 3, 3),
        ("relu6", 5.0, 1, 0, 3),  # 3 · 5 > 6
        ("relu6", -5.0, 1, 0, 3),
        ("leaky_relu", 2.0, 1, 3, 3),
        ("leaky_relu", -2.0, 1, 0.75, 3),
        ("leaky_relu", -2.0, -1, 0, 0),
    ],
)
def test_guided_and_deconv_by_hand(kind, x, sign, guided, deconv):
    g = Graph((1,), float)  # sign · activation(3 x)
    h = g.activation(g.dense(0, [[3]]), kind, 0.25)
    g.index(g.dense(h, [[sign]]), 0)
    graph, x = g.finish(), np.asarray([x])
    close(oracles.guided(graph, x), [guided])
    close(oracles.deconv(graph, x), [deconv])


def test_reveal_cancel_by_hand():
    # ReLU(x1 - x2 - x3 + 1) from 0 to (4, 1, 1): z0 = 1, dz⁺ = 4, dz⁻ = -2;
    # dy⁺ = ½ (5 - 1) + ½ (3 - 0) = 3.5, dy⁻ = ½ (0 - 1) + ½ (3 - 5) = -1.5
    graph, x = one_dense((4.0, 1.0, 1.0), (1.0, -1.0, -1.0), 1.0)
    close(oracles.deep_lift(graph, x, np.zeros(3), "reveal_cancel"), (3.5, -0.75, -0.75))
    close(oracles.deep_lift(graph, x, np.zeros(3), "rescale"), (4, -1, -1))


# --- patterns -----------------------------------------------------------------------------------


@cases(("dense", "conv", "residual_conv"))
def test_patterns_of_weights_and_of_ones_give_the_gradient(structure):
    graph = network(structure)
    x = graph.inputs(0)
    expected = float(graph.f(x)) * oracles.gradient(graph, x)
    weights = {node.index: node.matrices[0] for node in graph.layers()}
    ones = {index: np.ones_like(w) for index, w in weights.items()}
    close(oracles.pattern_backward(graph, x, weights, attribution=False), expected)
    close(oracles.pattern_backward(graph, x, ones, attribution=True), expected)


def test_pattern_backward_by_hand():
    graph, x = one_dense(X, W, 1.0)  # f = 4
    patterns = {1: np.array([[1.0, 2.0, -1.0]])}
    close(oracles.pattern_backward(graph, x, patterns, attribution=False), (4, 8, -4))
    close(oracles.pattern_backward(graph, x, patterns, attribution=True), (8, 24, -8))


def test_fit_pattern_by_hand():
    xs = np.array([[1.0, 0.0], [3.0, 2.0], [-2.0, 1.0]])
    w, b = np.array([[1.0], [0.0]]), -0.5
    ys = xs @ w + b  # 0.5, 2.5, -2.5: two positive, E[y] = 1/6
    # E[x y] = (13/3, 2.5/3), E[x] E[y] = (1/9, 1/6)
    close(oracles.fit_pattern_dense(xs, ys, w, "linear"), [[1.0], [(2.5 / 3 - 1 / 6) / (38 / 9)]])
    # E⁺[x y] = (4, 2.5), E⁺[x] E[y] = (1/3, 1/6)
    positive = [[1.0], [(2.5 - 1 / 6) / (11 / 3)]]
    close(oracles.fit_pattern_dense(xs, ys, w, "relu"), positive)
    # E⁻[x y] = (5, -2.5), E⁻[x] E[y] = (-1/3, 1/6)
    negative = [[1.0], [(-2.5 - 1 / 6) / (16 / 3)]]
    close(oracles.fit_pattern_dense(xs, ys, w, "two_point"), (positive, negative))


def test_fit_pattern_recovers_a_signal_direction():
    rng = np.random.default_rng(0)
    signal, distractor = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    xs = rng.normal(size=(4000, 1)) * signal + rng.normal(size=(4000, 1)) * distractor
    w = np.array([[1.0], [-1.0]])  # cancels the distractor
    close(oracles.fit_pattern_dense(xs, xs @ w, w, "linear")[:, 0], signal, 0.05)


def test_fit_pattern_without_a_regime_or_scale_is_finite():
    xs = np.array([[1.0], [1.0]])
    close(oracles.fit_pattern_dense(xs, xs, np.ones((1, 1)), "linear"), [[0.0]])
    up, down = oracles.fit_pattern_dense(xs, xs, np.ones((1, 1)), "two_point")
    close((up, down), np.zeros((2, 1, 1)))


# --- every structure ----------------------------------------------------------------------------


@cases(STRUCTURES)
def test_the_dense_graph_is_the_jax_program(structure):
    graph = network(structure)
    x = graph.inputs(0)
    value, slope = jax.jit(jax.value_and_grad(graph.f))(x)
    close(oracles.forward(graph, x)[-1][0], value)
    close(oracles.gradient(graph, x), slope)
    assert np.any(slope != 0)
    assert np.any(x > 0)
    assert np.any(x < 0)
    assert any(node.first for node in graph.layers())
    assert not all(node.first for node in graph.layers())
    for node in graph.layers():
        (w,), (connected,) = node.matrices, node.connected
        np.testing.assert_array_equal(connected, w != 0)


@cases(HOMOGENEOUS)
def test_bias_included_zero_rule_is_gradient_times_input(structure):
    graph = network(structure)
    x = np.asarray(graph.inputs(0))
    expected = x * oracles.gradient(graph, x)
    close(lrp(graph, x, oracles.zero(), "include"), expected)


@cases(STRUCTURES)
@pytest.mark.parametrize("rule", ["rescale", "reveal_cancel"])
def test_deep_lift_completeness(structure, rule):
    graph = network(structure)
    for seed in range(5):
        x, x0 = graph.inputs(seed), graph.inputs(seed + 10)
        total = oracles.deep_lift(graph, x, x0, rule).sum()
        values, reference = oracles.forward(graph, x), oracles.forward(graph, x0)
        close(total, (values[-1] - reference[-1])[0])


@cases(STRUCTURES)
@pytest.mark.parametrize("rule", ["zero", "z_plus", "gamma"])
def test_conservation_at_every_layer(structure, rule):
    rule = {"zero": oracles.zero, "z_plus": oracles.z_plus, "gamma": lambda: oracles.gamma(0.3)}[
        rule
    ]()
    graph = network(structure)
    x = graph.inputs(0)
    values = oracles.forward(graph, x)
    flows = oracles.lrp_flows(graph, x, lambda node: rule, "exclude")
    for node in graph.layers():
        flow, (parent,) = flows[node.index], node.parents
        shares, _ = rule(
            oracles.Layer(values[parent], *node.matrices, node.bias, *node.connected, False, None)
        )
        shared = shares.any(axis=1)  # an output with nothing to share with loses its relevance
        close(flow.sent[0].sum(), flow.received[shared].sum())
        close(flow.absorbed.sum(), 0.0)
        close(shares[shared].sum(axis=1), np.ones(shared.sum()))


@cases(STRUCTURES)
def test_included_bias_absorbs_what_is_missing(structure):
    graph = network(structure)
    flows = oracles.lrp_flows(graph, graph.inputs(0), lambda node: oracles.zero(), "include")
    for flow in list(flows.values())[:-1]:
        sent = sum(part.sum() for part in flow.sent)
        close(sent + flow.absorbed.sum(), flow.received.sum(), 1e-8)


def test_gamma_zero_is_zero_and_alpha_one_is_z_plus():
    graph = network("conv")
    x = graph.inputs(0)
    for bias in ("include", "exclude"):
        close(lrp(graph, x, oracles.gamma(0.0), bias), lrp(graph, x, oracles.zero(), bias))
    close(lrp(graph, x, oracles.alpha_beta(1.0, 0.0)), lrp(graph, x, oracles.z_plus()))


def test_gamma_of_a_positive_output_tends_to_z_plus():
    graph, x = one_dense(X, W, 1.0)
    close(lrp(graph, x, oracles.gamma(1e8)), lrp(graph, x, oracles.z_plus()), 1e-6)


def test_z_box_moves_its_bounds_with_the_input():
    graph = network("conv")
    x = np.asarray(graph.inputs(0))
    first = [node.index for node in graph.layers() if node.first]
    low, high = x - 1, x + 2
    rule_of = lambda n: oracles.z_box(low, high) if n.index in first else oracles.zero()
    flows = oracles.lrp_flows(graph, x, rule_of, "exclude")
    (index,) = first
    (w,), r = graph.nodes[index].matrices, flows[index].received
    n = np.where(w > 0, w, -2 * w)  # x - l = 1 and x - h = -2
    close(flows[index].sent[0], (n / n.sum(axis=1, keepdims=True)).T @ r)
    assert flows[0].received.shape == (x.size,)


def test_single_precision_is_the_same_network():
    graph = network("conv_batchnorm", 0, np.float32)
    x = graph.inputs(0)
    assert x.dtype == np.float32
    close(oracles.forward(graph, x)[-1][0], np.float64(graph.f(x)), 1e-4)
    double = network("conv_batchnorm", 0)
    close(graph.layers()[0].matrices[0], double.layers()[0].matrices[0], 1e-5)
