"""Small random networks as graphs: JAX code, and every affine node as a dense matrix.

A node computes a value from the values of its parents. `Graph.f` runs the JAX functions of the
nodes in order, as a user would write them. `Node.matrices` and `Node.bias` give the same node as an
affine map of its flattened parents, y = Σ_p W_p a_p + b, in NumPy and float64.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

MOVEMENT = {"reshape", "concat", "index"}
LINEAR = MOVEMENT | {"affine", "sum", "avgpool"}
ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "gelu": jax.nn.gelu,
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
}
NHWC = ("NHWC", "HWIO", "NHWC")
BATCH_NORM_EPSILON = 1e-3


@dataclasses.dataclass
class Node:
    """A value of the network; its matrices are (outputs, inputs), one for each parent."""

    index: int
    kind: str  # "input", "maxpool", or one of LINEAR or of ACTIVATIONS
    fn: Callable
    parents: tuple[int, ...]
    shape: tuple[int, ...]
    layer: str | None = None  # "dense" or "conv" for kind "affine"
    first: bool = False  # an affine node that sees only the input, perhaps reshaped or indexed
    slope: float = 0.0  # of leaky_relu where z ≤ 0
    windows: np.ndarray | None = None  # of maxpool: (outputs, window) flat indices of the parent
    matrices: tuple[np.ndarray, ...] = ()
    bias: np.ndarray | None = None
    ones: Callable | None = None  # of affine: the function with all weights 1 and no bias
    connected: tuple[np.ndarray, ...] = ()  # of affine: the matrices of `ones`

    @property
    def size(self):
        return int(np.prod(self.shape))


class Graph:
    """Nodes in topological order, from the input to the scalar output.

    A method that adds a node returns its index. Call `finish` after the last one.
    """

    def __init__(self, shape, dtype):
        self.dtype = jnp.dtype(dtype)
        self.nodes = [Node(0, "input", lambda x: x, (), tuple(shape))]

    def f(self, x):
        """The network as a user would write it."""
        values = [x]
        for node in self.nodes[1:]:
            values.append(node.fn(*(values[p] for p in node.parents)))
        return values[-1]

    def inputs(self, seed):
        """A random input with entries of both signs."""
        x = np.random.default_rng([seed, 1]).normal(size=self.nodes[0].shape)
        x.flat[0], x.flat[-1] = abs(x.flat[0]), -abs(x.flat[-1])
        return jnp.asarray(x, self.dtype)

    def consumers(self, index):
        """The nodes that this one is a parent of."""
        return [node for node in self.nodes if index in node.parents]

    def layers(self):
        """The dense and conv nodes."""
        return [node for node in self.nodes if node.layer]

    def add(self, kind, fn, *parents, **extra):
        """Add a node with this function of its parents' values, and return its index."""
        like = [jax.ShapeDtypeStruct(self.nodes[p].shape, self.dtype) for p in parents]
        shape = jax.eval_shape(fn, *like).shape
        self.nodes.append(Node(len(self.nodes), kind, fn, parents, shape, **extra))
        return len(self.nodes) - 1

    def array(self, values):
        return jnp.asarray(np.asarray(values, np.float64), self.dtype)

    def dense(self, h, w, b=None, norm=None):
        """`h @ w + b`, then batch normalisation (mean, var, scale, bias) if given."""
        return self._affine("dense", lambda h, w: h @ w, h, w, b, norm)

    def conv(self, h, kernel, b=None, norm=None, *, strides=(1, 1), padding="SAME", **options):
        """A convolution (NHWC, HWIO) with bias, then batch normalisation if given."""
        linear = lambda h, w: lax.conv_general_dilated(
            h, w, strides, padding, dimension_numbers=NHWC, **options
        )
        return self._affine("conv", linear, h, kernel, b, norm)

    def _affine(self, layer, linear, h, w, b, norm):
        w, ones = self.array(w), self.array(np.ones(np.shape(w)))
        ndim = len(self.nodes[h].shape)
        channels = lambda v: self.array(np.reshape(v, (1,) * (ndim - 1) + (-1,)))
        b = None if b is None else channels(b)
        norm = None if norm is None else [channels(v) for v in norm]

        def fn(h):
            h = linear(h, w)
            if b is not None:
                h = h + b
            if norm is not None:
                mean, var, scale, bias = norm
                h = (h - mean) * (scale * lax.rsqrt(var + BATCH_NORM_EPSILON)) + bias
            return h

        return self.add("affine", fn, h, layer=layer, ones=lambda h: linear(h, ones))

    def sum(self, *parents, signs=None, constant=None):
        """The sum of values, each with a sign, and of a constant (one number or an array)."""
        signs = signs or (1,) * len(parents)
        if constant is not None:
            constant = float(constant) if np.ndim(constant) == 0 else self.array(constant)

        def fn(*values):
            total = values[0] if signs[0] > 0 else -values[0]
            for value, sign in zip(values[1:], signs[1:], strict=True):
                total = total + value if sign > 0 else total - value
            return total if constant is None else total + constant

        return self.add("sum", fn, *parents)

    def concat(self, *parents):
        """Values side by side, along the last axis."""
        return self.add("concat", lambda *values: jnp.concatenate(values, axis=-1), *parents)

    def reshape(self, h, shape):
        return self.add("reshape", lambda h: h.reshape(shape), h)

    def index(self, h, *at):
        """`h[at]`, for a class score or for one feature."""
        return self.add("index", lambda h: h[at], h)

    def max_pool(self, h, window, stride):
        """The maximum over square windows of an NHWC value, without padding."""
        sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
        fn = lambda h: lax.reduce_window(h, -jnp.inf, lax.max, sizes, strides, "VALID")
        windows = _windows(self.nodes[h].shape, window, stride)
        return self.add("maxpool", fn, h, windows=windows)

    def avg_pool(self, h, window, stride):
        """The mean over square windows of an NHWC value, without padding."""
        sizes, strides = (1, window, window, 1), (1, stride, stride, 1)
        fn = lambda h: lax.reduce_window(h, 0.0, lax.add, sizes, strides, "VALID") / window**2
        return self.add("avgpool", fn, h)

    def mean(self, h):
        """The mean over the pixels of an NHWC value."""
        return self.add("avgpool", lambda h: jnp.mean(h, axis=(1, 2)), h)

    def activation(self, h, kind, slope=0.01):
        if kind == "leaky_relu":
            fn = lambda h: jax.nn.leaky_relu(h, slope)
            return self.add(kind, fn, h, slope=slope)
        return self.add(kind, ACTIVATIONS[kind], h)

    def relu(self, h):
        return self.activation(h, "relu")

    def finish(self):
        """Fill in matrices, biases and connections, and return the graph."""
        assert self.nodes[-1].shape == (), "the output is a scalar"
        moved = {0}
        for node in self.nodes[1:]:
            from_input = moved.issuperset(node.parents)
            if node.kind in MOVEMENT and from_input:
                moved.add(node.index)
            node.first = node.kind == "affine" and from_input
        linear = [node for node in self.nodes if node.kind in LINEAR]
        rng = np.random.default_rng(0)
        shapes = [[self.nodes[p].shape for p in node.parents] for node in linear]
        zeros = [[self.array(np.zeros(shape)) for shape in some] for some in shapes]
        probes = [[self.array(rng.normal(size=shape)) for shape in some] for some in shapes]

        @jax.jit
        def collect(zeros, probes):
            collected = []
            for node, at, probe in zip(linear, zeros, probes, strict=True):
                every = tuple(range(len(at)))
                matrices = jax.jacfwd(node.fn, every)(*at)
                ones = jax.jacfwd(node.ones, every)(*at) if node.ones else ()
                collected.append((node.fn(*at), matrices, ones, node.fn(*probe)))
            return collected

        collected = collect(zeros, probes)
        tolerance = 1e4 * float(jnp.finfo(self.dtype).eps)
        flat = lambda v: np.asarray(v, np.float64).ravel()
        for node, probe, (bias, matrices, ones, y) in zip(linear, probes, collected, strict=True):
            node.bias = flat(bias)
            node.matrices = tuple(flat(m).reshape(node.size, -1) for m in matrices)
            node.connected = tuple(flat(m).reshape(node.size, -1) for m in ones)
            terms = [w @ flat(a) for w, a in zip(node.matrices, probe, strict=True)]
            affine = sum(terms) + node.bias
            np.testing.assert_allclose(affine, flat(y), rtol=tolerance, atol=tolerance)
        return self


def _windows(shape, window, stride):
    """The flat indices under each window of a max-pool, in row-major order."""
    _, height, width, channels = shape
    flat = np.arange(int(np.prod(shape))).reshape(height, width, channels)
    rows = range(0, height - window + 1, stride)
    columns = range(0, width - window + 1, stride)
    return np.array(
        [
            flat[r : r + window, s : s + window, c].ravel()
            for r, s, c in itertools.product(rows, columns, range(channels))
        ]
    )


# --- the menu -----------------------------------------------------------------------------------


class _Random:
    """Random weights for a graph."""

    def __init__(self, graph, rng):
        self.graph, self.rng = graph, rng

    def norm(self, k):
        """Mean, variance, scale and bias of a batch normalisation in evaluation."""
        normal = self.rng.normal
        return (
            normal(size=k) / 2,
            self.rng.uniform(0.5, 2, k),
            1 + normal(size=k) / 4,
            normal(size=k) / 2 + 0.5,
        )

    def dense(self, h, k, *, bias=True, norm=False, gain=1.0):
        n = self.graph.nodes[h].shape[-1]
        w = gain * self.rng.normal(size=(n, k)) * (2 / n) ** 0.5
        b = self.rng.normal(size=k) / 2 if bias else None
        return self.graph.dense(h, w, b, self.norm(k) if norm else None)

    def conv(self, h, k, *, size=3, bias=True, norm=False, **options):
        n = self.graph.nodes[h].shape[-1] // options.get("feature_group_count", 1)
        w = self.rng.normal(size=(size, size, n, k)) * (2 / (size * size * n)) ** 0.5
        b = self.rng.normal(size=k) / 2 if bias else None
        return self.graph.conv(h, w, b, self.norm(k) if norm else None, **options)

    def classify(self, h, bias=True):
        """Three class scores from a value of any shape, then the score of the second."""
        if len(self.graph.nodes[h].shape) > 2:
            h = self.graph.reshape(h, (1, -1))
        at = (0,) * (len(self.graph.nodes[h].shape) - 1)
        self.graph.index(self.dense(h, 3, bias=bias), *at, 1)


def _image(g, size=4):
    """The NHWC value for an image of shape (size, size, 2)."""
    return g.reshape(0, (1, size, size, 2))


def _dense(g, r):
    h = g.relu(r.dense(0, 8))
    r.classify(g.relu(r.dense(h, 5)))


def _dense_no_bias(g, r):
    h = g.relu(r.dense(0, 8, bias=False))
    r.classify(g.relu(r.dense(h, 5, bias=False)), bias=False)


def _dense_batchnorm(g, r):
    h = g.relu(r.dense(0, 8, norm=True))
    r.classify(g.relu(r.dense(h, 5, bias=False, norm=True)))


def _signed(g, r):
    h = r.dense(r.dense(0, 7), 8)
    r.classify(g.relu(h))


def _reused(g, r):
    w = r.rng.normal(size=(6, 6)) / 2
    h = g.relu(g.dense(0, w))
    r.classify(g.relu(g.dense(h, w, r.rng.normal(size=6) / 2)))


def _residual_dense(g, r):
    h = g.relu(r.dense(0, 7))
    r.classify(g.relu(g.sum(h, r.dense(h, 7))))


def _sum_constant(g, r):
    h = g.relu(r.dense(0, 7))
    r.classify(g.relu(g.sum(h, g.relu(r.dense(h, 7)), signs=(1, -1), constant=0.5)))


def _concat(g, r):
    h = g.concat(g.relu(r.dense(0, 5)), g.relu(r.dense(0, 4)), 0)
    r.classify(g.relu(r.dense(h, 6)))


def _relu6(g, r):
    h = g.activation(r.dense(0, 8, gain=3), "relu6")
    r.classify(g.activation(r.dense(h, 6, gain=2), "relu6"))


def _leaky_relu(g, r):
    h = g.activation(r.dense(0, 8), "leaky_relu", 0.2)
    r.classify(g.activation(r.dense(h, 5), "leaky_relu"))


def _activations(g, r):
    h = 0
    for kind in ("gelu", "tanh", "silu", "softplus", "sigmoid"):
        h = g.activation(r.dense(h, 6), kind)
    r.classify(h)


def _convolution(**options):
    def build(g, r):
        h = g.relu(r.conv(_image(g), 4, bias=False))
        r.classify(g.relu(r.conv(h, 4, **options)))

    return build


def _conv(g, r):
    h = g.relu(r.conv(_image(g), 3))
    r.classify(g.relu(r.conv(h, 2)))


def _conv_stride_valid(g, r):
    h = g.relu(r.conv(_image(g, 5), 4, strides=(2, 2), padding="VALID"))
    r.classify(g.relu(r.conv(h, 3, size=2, padding="VALID")))


def _depthwise(g, r):
    h = g.relu(r.conv(_image(g), 4, feature_group_count=2))
    r.classify(g.relu(r.conv(h, 4, feature_group_count=4)))


def _conv_batchnorm(g, r):
    h = g.relu(r.conv(_image(g), 3, norm=True))
    r.classify(g.relu(r.conv(h, 2, bias=False, norm=True)))


def _max_pool(g, r):
    h = g.max_pool(g.relu(r.conv(_image(g, 5), 3)), 3, 2)  # the windows overlap
    r.classify(g.relu(r.conv(h, 3, size=2)))


def _pool_then_relu(g, r):
    r.classify(g.relu(g.max_pool(r.conv(_image(g), 3), 2, 2)))


def _avg_pool(g, r):
    h = g.avg_pool(g.relu(r.conv(_image(g), 3)), 2, 2)
    r.classify(g.relu(r.conv(h, 3, size=2)))


def _mean(g, r):
    r.classify(g.mean(g.relu(r.conv(_image(g), 4))))


def _residual_conv(g, r):
    x = _image(g)
    h = g.relu(r.conv(x, 3, bias=False, norm=True))
    inner = g.relu(r.conv(h, 2, bias=False, norm=True))
    h = g.relu(g.sum(h, r.conv(inner, 3, bias=False, norm=True)))
    shortcut = r.conv(h, 2, size=1, strides=(2, 2), norm=True)
    h = g.relu(g.sum(r.conv(h, 2, strides=(2, 2), norm=True), shortcut))
    r.classify(g.mean(h))


FLAT, IMAGE, IMAGE5 = (6,), (4, 4, 2), (5, 5, 2)
STRUCTURES = {
    "dense": (FLAT, _dense),
    "dense_no_bias": (FLAT, _dense_no_bias),
    "dense_batchnorm": (FLAT, _dense_batchnorm),
    "signed": (FLAT, _signed),
    "reused": (FLAT, _reused),
    "residual_dense": (FLAT, _residual_dense),
    "sum_constant": (FLAT, _sum_constant),
    "concat": (FLAT, _concat),
    "relu6": (FLAT, _relu6),
    "leaky_relu": (FLAT, _leaky_relu),
    "activations": (FLAT, _activations),
    "conv": (IMAGE, _conv),
    "conv_stride_valid": (IMAGE5, _conv_stride_valid),
    "conv_groups": (IMAGE, _convolution(feature_group_count=2)),
    "conv_dilation": (IMAGE, _convolution(rhs_dilation=(2, 2))),
    "depthwise": (IMAGE, _depthwise),
    "conv_batchnorm": (IMAGE, _conv_batchnorm),
    "max_pool": (IMAGE5, _max_pool),
    "pool_then_relu": (IMAGE, _pool_then_relu),
    "avg_pool": (IMAGE, _avg_pool),
    "mean": (IMAGE, _mean),
    "residual_conv": (IMAGE, _residual_conv),
}

# Structures whose activations (ReLU, leaky ReLU) are positively homogeneous, y = z · dy/dz.
HOMOGENEOUS = [name for name in STRUCTURES if name not in ("relu6", "activations")]


def network(structure, seed=0, dtype=np.float64):
    """A random network of a structure in STRUCTURES; float64 needs the fixture `x64`."""
    return _network(structure, seed, np.dtype(dtype))


@functools.cache
def _network(structure, seed, dtype):
    shape, build = STRUCTURES[structure]
    graph = Graph(shape, dtype)
    build(graph, _Random(graph, np.random.default_rng([seed, 0])))
    return graph.finish()
