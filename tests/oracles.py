"""Attribution rules written from their definitions, on the dense matrices of `tests.graphs`.

Everything is NumPy in float64 on flattened values. In the formulas i is an input of a node and k
an output of it, c_ik = a_i w_ik, z_k = Σ_i c_ik, y_k = z_k + b_k, v⁺ = max(v, 0), v⁻ = min(v, 0).
By convention relu'(0) = 0, sign(0) = +1, and a quotient with denominator 0 is 0. Matrices are
(outputs, inputs), so c_ik is in row k and column i.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tests.graphs import ACTIVATIONS, LINEAR, MOVEMENT


def _ratio(numerator, denominator):
    """n / d, and 0 where d = 0."""
    numerator, denominator = np.broadcast_arrays(numerator, denominator)
    out = np.zeros(numerator.shape)
    return np.divide(numerator, denominator, out=out, where=denominator != 0)


def _positive(v):
    return np.maximum(v, 0.0)


def _negative(v):
    return np.minimum(v, 0.0)


# --- the forward pass ---------------------------------------------------------------------------


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def _gelu_inner(z):
    return np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)


def _gelu_slope(z):
    t = np.tanh(_gelu_inner(z))
    inner_slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)
    return (1 + t) / 2 + z * (1 - t**2) * inner_slope / 2


# kind: (value, derivative), both of (z, slope)
_ACTIVATIONS = {
    "relu": (lambda z, s: np.maximum(z, 0.0), lambda z, s: 1.0 * (z > 0)),
    "relu6": (lambda z, s: np.clip(z, 0.0, 6.0), lambda z, s: 1.0 * ((z > 0) & (z < 6))),
    "leaky_relu": (lambda z, s: np.where(z > 0, z, s * z), lambda z, s: np.where(z > 0, 1.0, s)),
    "tanh": (lambda z, s: np.tanh(z), lambda z, s: 1 - np.tanh(z) ** 2),
    "sigmoid": (lambda z, s: _sigmoid(z), lambda z, s: _sigmoid(z) * (1 - _sigmoid(z))),
    "softplus": (lambda z, s: np.logaddexp(0.0, z), lambda z, s: _sigmoid(z)),
    "silu": (
        lambda z, s: z * _sigmoid(z),
        lambda z, s: _sigmoid(z) + z * _sigmoid(z) * (1 - _sigmoid(z)),
    ),
    "gelu": (lambda z, s: z * (1 + np.tanh(_gelu_inner(z))) / 2, lambda z, s: _gelu_slope(z)),
}


def _activate(node, z):
    return _ACTIVATIONS[node.kind][0](z, node.slope)


def _slope(node, z):
    return _ACTIVATIONS[node.kind][1](z, node.slope)


def forward(graph, x):
    """The flattened value of every node, in float64."""
    values = []
    for node in graph.nodes:
        parents = [values[p] for p in node.parents]
        if node.kind == "input":
            value = np.asarray(x, np.float64).ravel()
        elif node.kind in LINEAR:
            value = sum(w @ a for w, a in zip(node.matrices, parents, strict=True)) + node.bias
        elif node.kind == "maxpool":
            value = parents[0][node.windows].max(axis=1)
        else:
            value = _activate(node, parents[0])
        assert value.shape == (node.size,)
        values.append(value)
    return values


# --- the backward pass --------------------------------------------------------------------------


def _backward(graph, start, step):
    """The signal at every node, which is the sum of what its consumers send to it.

    `step(node, signal, signals)` returns what the node sends, one array for each parent.
    """
    signals = [np.zeros(node.size) for node in graph.nodes]
    signals[-1] = np.asarray(start, np.float64).reshape(1)
    for node in reversed(graph.nodes[1:]):
        sent = step(node, signals[node.index], signals)
        for parent, part in zip(node.parents, sent, strict=True):
            signals[parent] = signals[parent] + part
    return signals


def _at_input(graph, signals):
    return signals[0].reshape(graph.nodes[0].shape)


def _transposed(node, g):
    return [w.T @ g for w in node.matrices]


def _split(graph, node, v):
    """A vector over all inputs of a node, in one piece for each parent."""
    ends = np.cumsum([graph.nodes[p].size for p in node.parents])
    return np.split(v, ends[:-1])


def _to_winners(graph, node, a, g):
    """Send the signal of each window to its largest input, or to the first of equal ones."""
    sent = np.zeros(graph.nodes[node.parents[0]].size)
    for window, signal in zip(node.windows, g, strict=True):
        sent[window[np.argmax(a[window])]] += signal
    return [sent]


def _modified_gradient(graph, x, activation, start=1.0, linear=_transposed):
    """A gradient with the rules `activation(node, z, g)` and `linear(node, g)`."""
    values = forward(graph, x)

    def step(node, g, signals):
        z = values[node.parents[0]]
        if node.kind in LINEAR:
            return linear(node, g)
        if node.kind == "maxpool":
            return _to_winners(graph, node, z, g)
        return [activation(node, z, g)]

    return _at_input(graph, _backward(graph, start, step))


def gradient(graph, x):
    """∂f/∂x."""
    return _modified_gradient(graph, x, lambda node, z, g: g * _slope(node, z))


def guided(graph, x):
    """Guided backpropagation: g · relu'(z) · 1[g > 0] at ReLUs (ReLU6 and leaky ReLU alike)."""

    def activation(node, z, g):
        if node.kind in ("relu", "relu6", "leaky_relu"):
            g = _positive(g)
        return g * _slope(node, z)

    return _modified_gradient(graph, x, activation)


def deconv(graph, x):
    """Deconvolution: g · 1[g > 0] at ReLUs (ReLU6 and leaky ReLU alike), whatever z is."""

    def activation(node, z, g):
        if node.kind in ("relu", "relu6", "leaky_relu"):
            return _positive(g)
        return g * _slope(node, z)

    return _modified_gradient(graph, x, activation)


# --- layer-wise relevance propagation -----------------------------------------------------------


class Layer(NamedTuple):
    """What a rule sees of an affine node; i runs over the inputs from all parents."""

    a: np.ndarray  # (i,)
    w: np.ndarray  # (k, i)
    b: np.ndarray  # (k,)
    connected: np.ndarray  # (k, i), 1 where there is a weight
    include: bool  # whether the bias counts
    moved: Callable  # for a first layer: from a value at the network's input to `a`

    @property
    def c(self):
        return self.w * self.a

    @property
    def counted(self):
        """The bias where it counts, else 0."""
        return self.b if self.include else np.zeros_like(self.b)


# A rule returns (s_ki, s_kb). R_i = Σ_k s_ki R_k, and the bias absorbs s_kb R_k of output k.


def epsilon(eps):
    """c_ik / (d_k + ε sign(d_k)), d_k = z_k (bias excluded) or y_k (included)."""

    def rule(layer):
        c, b = layer.c, layer.counted
        d = c.sum(axis=1) + b
        d = d + eps * np.where(d >= 0, 1.0, -1.0)
        return _ratio(c, d[:, None]), _ratio(b, d)

    return rule


def zero():
    """c_ik / d_k, d_k = z_k (bias excluded) or y_k (included)."""
    return epsilon(0.0)


def gamma(g):
    """(c_ik + γ c_ik^s) / Σ_j (c_jk + γ c_jk^s), s the sign of y_k; included: + b_k + γ b_k^s."""

    def rule(layer):
        c, b = layer.c, layer.counted
        up = c.sum(axis=1) + layer.b > 0
        c = c + g * np.where(up[:, None], _positive(c), _negative(c))
        b = b + g * np.where(up, _positive(b), _negative(b))
        d = c.sum(axis=1) + b
        return _ratio(c, d[:, None]), _ratio(b, d)

    return rule


def alpha_beta(alpha, beta):
    """α c_ik⁺ / Σ_j c_jk⁺ - β c_ik⁻ / Σ_j c_jk⁻; included: + b_k⁺ and + b_k⁻ in the sums."""

    def rule(layer):
        c, b = layer.c, layer.counted
        up = _positive(c).sum(axis=1) + _positive(b)
        down = _negative(c).sum(axis=1) + _negative(b)
        shares = alpha * _ratio(_positive(c), up[:, None])
        shares = shares - beta * _ratio(_negative(c), down[:, None])
        return shares, alpha * _ratio(_positive(b), up) - beta * _ratio(_negative(b), down)

    return rule


def z_plus():
    """c_ik⁺ / Σ_j c_jk⁺; included: + b_k⁺ in the sum."""

    def rule(layer):
        total = _positive(layer.c).sum(axis=1) + _positive(layer.counted)
        return _ratio(_positive(layer.c), total[:, None]), _ratio(_positive(layer.counted), total)

    return rule


def _normalised(numerators):
    """n_ik / Σ_j n_jk, nothing to the bias."""
    shares = _ratio(numerators, numerators.sum(axis=1, keepdims=True))
    return shares, np.zeros(len(numerators))


def z_box(low, high):
    """n_ik / Σ_j n_jk, n_ik = x_i w_ik - l_i w_ik⁺ - h_i w_ik⁻; for first layers."""

    def rule(layer):
        w, low_, high_ = layer.w, layer.moved(low), layer.moved(high)
        return _normalised(layer.c - low_ * _positive(w) - high_ * _negative(w))

    return rule


def flat():
    """1 / (the number of inputs that k is connected to), padding not counted."""
    return lambda layer: _normalised(layer.connected)


def w_square():
    """w_ik² / Σ_j w_jk²."""
    return lambda layer: _normalised(layer.w**2)


class Flow(NamedTuple):
    """The relevance through a node."""

    received: np.ndarray  # R_k, at the node's value
    sent: list[np.ndarray]  # R_i, for each parent
    absorbed: np.ndarray  # what the bias takes of each R_k


def lrp_flows(graph, x, rule_of, bias):
    """The relevance through every node, a dict from its index; see `lrp`."""
    assert bias in ("include", "exclude")
    values = forward(graph, x)
    flows = {}

    def propagate(node, r):
        parents = [values[p] for p in node.parents]
        if node.kind in MOVEMENT:
            return _transposed(node, r), np.zeros(node.size)
        if node.kind in LINEAR:
            layer = Layer(
                a=np.concatenate(parents),
                w=np.hstack(node.matrices),
                b=node.bias,
                connected=np.hstack(node.connected or node.matrices),
                include=bias == "include",
                moved=lambda v: _seen(graph, node, v),
            )
            rule = rule_of(node) if node.kind == "affine" else zero()
            shares, of_bias = rule(layer)
            return _split(graph, node, shares.T @ r), of_bias * r
        if node.kind == "maxpool":
            return _to_winners(graph, node, parents[0], r), np.zeros(node.size)
        return [r], np.zeros(node.size)

    def step(node, r, signals):
        sent, absorbed = propagate(node, r)
        flows[node.index] = Flow(r, sent, absorbed)
        return sent

    signals = _backward(graph, values[-1], step)
    flows[0] = Flow(signals[0], [], np.zeros(graph.nodes[0].size))
    return flows


def _seen(graph, node, v):
    """What a first layer sees when the network's input is v (one number or an array)."""
    assert node.first, "the rule is for first layers"
    values = forward(graph, np.broadcast_to(np.asarray(v, np.float64), graph.nodes[0].shape))
    return np.concatenate([values[p] for p in node.parents])


def lrp(graph, x, rule_of, bias):
    """The relevance of the input, from R = f(x) at the output.

    `rule_of(node)` is the rule of a dense or conv node; `bias` is "include" or "exclude". Sums
    and average pools take the zero rule (a constant is the bias), maximum pools send all to the
    winner, activations and movement pass relevance on as it is.
    """
    return lrp_flows(graph, x, rule_of, bias)[0].received.reshape(graph.nodes[0].shape)


# --- DeepLIFT -----------------------------------------------------------------------------------


def _reveals(graph, node):
    """Whether a linear node's only consumers are activations, so that RevealCancel applies."""
    consumers = graph.consumers(node.index)
    return (
        node.kind in LINEAR - MOVEMENT
        and len(consumers) > 0
        and all(consumer.kind in ACTIVATIONS for consumer in consumers)
    )


def deep_lift(graph, x, x0, rule):
    """DeepLIFT contributions m_i (x_i - x0_i); `rule` is "rescale" or "reveal_cancel"."""
    assert rule in ("rescale", "reveal_cancel")
    values, reference = forward(graph, x), forward(graph, x0)

    def step(node, m, signals):
        parent = graph.nodes[node.parents[0]]
        z, z0 = values[parent.index], reference[parent.index]
        if node.kind in LINEAR:
            if rule == "reveal_cancel" and _reveals(graph, node):
                return _reveal_cancel(graph, node, values, reference, signals)
            return _transposed(node, m)
        if node.kind == "maxpool":
            return _max_pool_multipliers(node, z, z0, m)
        if rule == "reveal_cancel" and _reveals(graph, parent):
            # _reveal_cancel reads this node's multiplier when it comes to the parent.
            return [np.zeros(parent.size)]
        dz, dy = z - z0, _activate(node, z) - _activate(node, z0)
        return [m * np.where(dz == 0, _slope(node, z), _ratio(dy, dz))]

    signals = _backward(graph, 1.0, step)
    return (signals[0] * (values[0] - reference[0])).reshape(graph.nodes[0].shape)


def _max_pool_multipliers(node, a, a0, m):
    """(y - y0) / (a_i - a0_i) at one input i of each window, and 0 at the others.

    y and y0 are the maxima of the window in a and in the reference a0; i is argmax a if y ≥ y0,
    else argmax a0.
    """
    sent = np.zeros(a.size)
    for window, multiplier in zip(node.windows, m, strict=True):
        dy = a[window].max() - a0[window].max()
        i = window[np.argmax(a[window] if dy >= 0 else a0[window])]
        sent[i] += multiplier * _ratio(dy, a[i] - a0[i])
    return [sent]


def _reveal_cancel(graph, node, values, reference, signals):
    """The multipliers of the parents of a linear node, from those of its activations.

    dz⁺ and dz⁻ are the sums of the positive and the negative w_ik d_i, d = a - a0, and
    dy⁺ = ½ (f(z0 + dz⁺) - f(z0)) + ½ (f(z0 + dz⁺ + dz⁻) - f(z0 + dz⁻)), dy⁻ likewise;
    m_i = Σ_k w_ik m_k (dy⁺/dz⁺ if w_ik d_i > 0, dy⁻/dz⁻ if < 0, the mean of both if 0).
    """
    w = np.hstack(node.matrices)
    d = np.concatenate([values[p] - reference[p] for p in node.parents])
    change, z0 = w * d, reference[node.index]
    up, down = _positive(change).sum(axis=1), _negative(change).sum(axis=1)
    of_up, of_down = np.zeros(node.size), np.zeros(node.size)
    for consumer in graph.consumers(node.index):
        f = lambda z: _activate(consumer, z)
        y_up = (f(z0 + up) - f(z0)) / 2 + (f(z0 + up + down) - f(z0 + down)) / 2
        y_down = (f(z0 + down) - f(z0)) / 2 + (f(z0 + up + down) - f(z0 + up)) / 2
        of_up += signals[consumer.index] * _ratio(y_up, up)
        of_down += signals[consumer.index] * _ratio(y_down, down)
    of_up, of_down = of_up[:, None], of_down[:, None]
    chosen = np.where(change > 0, of_up, np.where(change < 0, of_down, (of_up + of_down) / 2))
    return _split(graph, node, (w * chosen).sum(axis=0))


# --- patterns -----------------------------------------------------------------------------------


def pattern_backward(graph, x, patterns, attribution):
    """PatternNet, or PatternAttribution: a gradient from f(x) with weights a, or w · a.

    `patterns` maps the index of each dense or conv node to its patterns a, shaped as its matrix.
    """

    def linear(node, g):
        if node.kind != "affine":
            return _transposed(node, g)
        (w,), a = node.matrices, np.asarray(patterns[node.index], np.float64)
        assert a.shape == w.shape
        return [(w * a if attribution else a).T @ g]

    activation = lambda node, z, g: g * _slope(node, z)
    return _modified_gradient(graph, x, activation, forward(graph, x)[-1], linear)


def fit_pattern_dense(xs, ys, w, estimator):
    """The patterns (i, k) of a dense layer, from inputs (n, i), outputs (n, k), weights (i, k).

    a_k = cov_k / (w_kᵀ cov_k), with 1 for the denominator 0. Here cov_k = E[x y_k] - E[x] E[y_k]
    for "linear" and E⁺[x y_k] - E⁺[x] E[y_k] for "relu", E⁺ the mean over the samples with
    y_k > 0. "two_point" is the pair of "relu" and the same with E⁻, over y_k ≤ 0.
    """
    xs, ys, w = (np.asarray(v, np.float64) for v in (xs, ys, w))
    regimes = {
        "linear": [np.ones(ys.shape, bool)],
        "relu": [ys > 0],
        "two_point": [ys > 0, ys <= 0],
    }[estimator]
    patterns = tuple(_pattern(xs, ys, w, regime) for regime in regimes)
    return patterns if estimator == "two_point" else patterns[0]


def _pattern(xs, ys, w, regime):
    pattern = np.zeros(w.shape)
    for k in range(ys.shape[1]):
        chosen = regime[:, k]
        if not chosen.any():
            continue
        x, y = xs[chosen], ys[chosen, k]
        cov = (x * y[:, None]).mean(axis=0) - x.mean(axis=0) * ys[:, k].mean()
        scale = w[:, k] @ cov
        pattern[:, k] = cov / (scale if scale != 0 else 1.0)
    return pattern
