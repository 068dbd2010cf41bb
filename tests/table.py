"""The table of methods and models that every transformation is tested over.

A row is named after the function of `xattr` that it calls, or after what sets it apart from the
other rows of that function. A method `method(f, x, ...)` added to the library gets its row from its
signature; write one where it takes more than that, or to try it on other models.
`tests/transformations/test_jit.py` asserts that no function is forgotten.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax import lax
from jax.nn import relu

import xattr
from xattr import composites, rules

RULE = xattr.quadrature.gauss_legendre(6)

# Models -----------------------------------------------------------------------------------------


class Model(NamedTuple):
    """A model of the menu; in each of them the scope "hidden" names a layer."""

    scores: Callable[..., Any]
    """`scores(x, *parameters)`: one for each of 4 classes."""
    f: Callable[..., Any]
    """`f(x, label, *parameters)`: that of a class."""
    inputs: Callable[..., Any]
    """`inputs(seed, dtype)`: an example."""
    parameters: Callable[..., tuple[Any, ...]]
    """`parameters(seed, dtype)`: a tuple; () if f carries them."""

    def args(self, seed=0, dtype=jnp.float32):
        """Return a label and parameters: the further arguments of f."""
        return jnp.int32((seed + 3) % 4), *self.parameters(seed, dtype)


def parameters(seed=0, dtype=jnp.float32, units=5):
    """Parameters of `mlp`: 3 inputs, 5 hidden units, 4 classes."""
    random = np.random.default_rng(seed)
    return {
        "w1": jnp.asarray(random.standard_normal((3, units)), dtype),
        "b1": jnp.asarray(random.standard_normal(units) * 0.1, dtype),
        "w2": jnp.asarray(random.standard_normal((units, 4)), dtype),
    }


def mlp(x, params, activation=jnp.tanh):
    """A smooth network of 3 inputs with 4 scores."""
    with jax.named_scope("hidden"):
        h = activation(x @ params["w1"] + params["b1"])
    return h @ params["w2"]


def _relu_mlp(x, params):
    return mlp(x, params, relu)


def _leaves(x, params):
    """All numbers of a tree: those of the image, the pair and the scalar."""
    dtype = params["w1"].dtype
    leaves = (x["image"].ravel(), x["rest"][0], x["rest"][1][None])
    return jnp.concatenate([leaf.astype(dtype) for leaf in leaves])


def _tree(x, params):
    leaves = _leaves(x, params)
    features = jnp.concatenate([leaves[:2], leaves[2:3] * leaves[3:4]]) * jnp.exp(-(leaves[4] ** 2))
    return mlp(features, params)


def _relu_tree(x, params):
    """Layers see the leaves themselves, as rules for first layers need it."""
    leaves = _leaves(x, params)
    return _relu_mlp(leaves[:3], params) + leaves[3:] @ params["w2"][:2]


def _convolutional_parameters(seed=0, dtype=jnp.float32):
    random = np.random.default_rng(300 + seed)
    return {
        "kernel": jnp.asarray(random.standard_normal((3, 3, 2, 4)) / 3, dtype),
        "bias": jnp.asarray(random.standard_normal(4) * 0.1, dtype),
        "head": jnp.asarray(random.standard_normal((16, 4)), dtype),
    }


def _convolutional(x, params):
    dims = ("NHWC", "HWIO", "NHWC")
    maps = lax.conv_general_dilated(x[None], params["kernel"], (1, 1), "VALID", None, None, dims)
    with jax.named_scope("hidden"):
        h = relu(maps[0] + params["bias"][None, None])
    window, zero = (2, 2, 1), np.zeros((), h.dtype)
    means = lax.reduce_window(h, zero, lax.add, window, window, "VALID") / 4
    return means.ravel() @ params["head"]


class LinenMLP(linen.Module):
    """The network in flax linen."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(4)(jnp.tanh(linen.Dense(5)(x)))


class NnxMLP(nnx.Module):
    """The network in flax nnx."""

    def __init__(self, seed=0, units=5, **options):
        options["rngs"] = nnx.Rngs(seed)
        self.hidden, self.out = nnx.Linear(3, units, **options), nnx.Linear(units, 4, **options)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


BIAS = linen.initializers.normal(0.2)


class _LinenReLU(linen.Module):
    @linen.compact
    def __call__(self, x):
        h = relu(linen.Dense(8, name="hidden", bias_init=BIAS)(x))
        return linen.Dense(4, bias_init=BIAS)(h)


class _NnxReLU(NnxMLP):
    def __call__(self, x):
        with jax.named_scope("hidden"):
            h = relu(self.hidden(x))
        return self.out(h)


def _linen_scores(x, variables):
    return _LinenReLU().apply(variables, x)


def _linen_parameters(seed=0, dtype=jnp.float32):
    variables = _LinenReLU().init(jax.random.key(seed), jnp.zeros(3, jnp.float32))
    return jax.tree.map(lambda leaf: leaf.astype(dtype), variables)


def inputs(seed=0, dtype=jnp.float32):
    """An input of `mlp`."""
    return jnp.asarray(np.random.default_rng(100 + seed).standard_normal(3), dtype)


def tree_inputs(seed=0, dtype=jnp.float32):
    """An input with a dict, a tuple and a scalar leaf."""
    random = np.random.default_rng(200 + seed)
    leaf = lambda *shape: jnp.asarray(random.standard_normal(shape), dtype)
    return {"image": leaf(2, 1), "rest": (leaf(2), leaf())}


def _images(seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(400 + seed).standard_normal((6, 6, 2)), dtype)


def _one(make):
    return lambda seed=0, dtype=jnp.float32: (make(seed, dtype),)


def _model(scores, make, params):
    return Model(scores, xattr.targets.logit(scores), make, params)


@functools.cache
def model(name):
    """Return a model of the menu."""
    if name == "nnx":
        return _model(
            _NnxReLU(3, units=8, bias_init=BIAS), inputs, lambda seed=0, dtype=jnp.float32: ()
        )
    wider = functools.partial(parameters, units=8)  # or for most inputs no ReLU is open
    return {
        "tanh": _model(mlp, inputs, _one(parameters)),
        "relu": _model(_relu_mlp, inputs, _one(wider)),
        "tree": _model(_tree, tree_inputs, _one(parameters)),
        "relu_tree": _model(_relu_tree, tree_inputs, _one(wider)),
        "conv": _model(_convolutional, _images, _one(_convolutional_parameters)),
        "linen": _model(_linen_scores, inputs, _one(_linen_parameters)),
    }[name]


def models(dtype=jnp.float32):
    """Name -> (f, inputs by seed, args)."""
    params = parameters(dtype=dtype)
    arrays = functools.partial(inputs, dtype=dtype)
    trees = functools.partial(tree_inputs, dtype=dtype)
    return {
        "plain": (xattr.targets.logit(mlp), arrays, (jnp.int32(2), params)),
        "tree": (xattr.targets.logit(_tree), trees, (jnp.int32(0), params)),
    }


def flax_models():
    """Name -> (f, inputs by seed, args), for flax linen and nnx (float32 only)."""
    network = LinenMLP()
    variables = network.init(jax.random.key(0), jnp.zeros(3))
    linen_f = xattr.targets.logit(lambda x, v: network.apply(v, x))
    return {
        "linen": (linen_f, inputs, (jnp.int32(1), variables)),
        "nnx": (xattr.targets.logit(NnxMLP()), inputs, (jnp.int32(1),)),
    }


# Methods ----------------------------------------------------------------------------------------


class Row(NamedTuple):
    """A method, the models it is tested on, and what is special about it."""

    attribute: Callable[..., Any]
    """`attribute(model, x, key, args, prepared)`."""
    models: tuple[str, ...]
    prepare: Callable[[Model], Any] = lambda model: None
    """`prepared`, made of a model on the host, outside all transformations."""
    like_x: bool = True
    """Whether the result has the structure, the shapes and the dtypes of x."""
    noisy: bool = False
    """Whether it depends on noise: for another dtype or structure of x that is other noise."""
    differentiable: bool = True
    in_checkpoint: str = ""
    """What it says, in an error, of layers inside a checkpoint, where it cannot see into them."""


SMOOTH = ("tanh", "tree", "linen", "nnx")
IN_LINEN, IN_NNX = ("tanh", "tree", "linen"), ("tanh", "tree", "nnx")
LAYERED = ("tanh", "tree", "conv")
RECTIFIED = ("relu", "relu_tree", "conv", "linen", "nnx")
FEWER = ("relu_tree", "conv")


def _call(name, **options):
    """Call a method `method(f, x, *, args, **options)`."""
    return lambda model, x, key, args, _: getattr(xattr, name)(model.f, x, args=args, **options)


def _average(name, method=xattr.gradient, **options):
    """Call a mean over noise of such a method."""
    return lambda model, x, key, args, _: getattr(xattr, name)(
        model.f,
        x,
        key,
        method=functools.partial(method, **options),
        num_samples=5,
        noise_scale=0.3,
        chunk_size=2,
        args=args,
    )


def _along(path):
    return lambda model, x, key, args, _: xattr.path_integral(
        model.f, path(x), quadrature=RULE, args=args, chunk_size=4
    )


def _curved(x):
    return xattr.paths.monotone(baseline=jax.tree.map(jnp.zeros_like, x), x=x, exponents=2.0)


def _own(x):
    """A user's lambda: x γ with γ = sin, closing over x."""
    return lambda alpha: jax.tree.map(
        lambda leaf: (jnp.sin(alpha * (np.pi / 2)).astype(leaf.dtype)) * leaf, x
    )


def _coordinates(x):
    count = sum(leaf.size for leaf in jax.tree.leaves(x))
    zeros = jax.tree.map(jnp.zeros_like, x)
    return xattr.paths.coordinatewise(baseline=zeros, x=x, order=np.arange(count)[::-1])


def _serial(x):
    return xattr.paths.serial(baseline=jax.tree.map(jnp.zeros_like, x), x=x)


def _directional(model, x, key, args, _):
    return xattr.integrated_directional_gradients(
        model.f, _own(x), steps=6, args=args, chunk_size=4
    )


def _detour(x):
    """Over a corner and back by another way, at another pace."""
    zeros = jax.tree.map(lambda leaf: 0 * leaf, x)  # sharded as x is
    corner = jax.tree.map(lambda leaf: leaf * jnp.tanh(leaf), x)
    there = xattr.paths.polyline(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), zeros, jax.tree.map(jnp.sin, x), corner)
    )
    onward = xattr.paths.reparametrize(xattr.paths.straight_line(baseline=corner, x=x), jnp.square)
    return xattr.paths.concatenate([there, onward])


def _sample_and_integrate(model, x, key, args, _):
    samples = xattr.sample(xattr.paths.aumann_shapley(x), RULE)
    return xattr.integrate(model.f, samples, args=args, chunk_size=2)


def _variants(x):
    return jax.tree.map(lambda leaf: jnp.stack([0 * leaf, leaf * 0.5, leaf + 1]), x)


def _expected(model, x, key, args, _):
    return xattr.expected_gradients(
        model.f, x, _variants(x), key, num_samples=7, args=args, chunk_size=4
    )


def _groups(x):
    """Return few enough features for all coalitions: patches of an image, else single numbers."""
    return xattr.groups.grid(x, (3, 3)) if isinstance(x, jax.Array) and x.ndim == 3 else None


def _coalitions(name, **options):
    return lambda model, x, key, args, _: getattr(xattr, name)(
        model.f, x, groups=_groups(x), args=args, **options
    )


def _estimated(name, **options):
    return lambda model, x, key, args, _: (
        getattr(xattr, name)(
            model.f, x, None, key, groups=_groups(x), args=args, chunk_size=3, **options
        ).attributions
    )


def _sensitivity(model, x, key, args, _):
    method = functools.partial(xattr.integrated_gradients, **_STEPS)
    return xattr.baseline_sensitivity(model.f, x, _variants(x), method=method, args=args)


def _group(x):
    """Weights of all features: half of them are 0."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.arange(leaf.size).reshape(leaf.shape) % 2, leaf.dtype) * 2, x
    )


def _integrated_hessians(model, x, key, args, _):
    return xattr.integrated_hessians(model.f, x, group=_group(x), args=args, **_STEPS)


def _expected_hessians(model, x, key, args, _):
    return xattr.expected_hessians(
        model.f, x, _variants(x), key, group=_group(x), num_samples=7, args=args, chunk_size=4
    )


def _to_tolerance(model, x, key, args, _):
    path = xattr.paths.aumann_shapley(x)
    return xattr.integrate_to_tolerance(
        model.f, path, rtol=1e-6, max_evaluations=20, args=args
    ).attributions


def _exact(model, x, key, args, rule):
    return xattr.integrated_gradients(model.f, x, quadrature=rule, args=args, chunk_size=2)


def _gap(model, x, key, args, _):
    attributions = xattr.gradient_x_input(model.f, x, args=args)
    return xattr.completeness_gap(model.f, attributions, x, args=args)


def _with_rules(model, x, key, args, _):
    composite = composites.every_layer(rules.alpha_beta(2.0, 1.0))
    return jax.grad(xattr.with_rules(model.f, composite))(x, *args)


def _at_layer(model, x, key, args, _):
    to_layer, from_layer = xattr.at_layer(model.f, "hidden")
    h = to_layer(x, *args)
    return xattr.integrated_gradients(from_layer, h, quadrature=RULE, args=(x, *args))


def _patterns_of(model):
    """Return patterns in float64, good for every precision."""
    with jax.enable_x64(True):
        data = stack([model.inputs(seed, "float64") for seed in range(16)])
        patterns = xattr.fit_patterns(model.f, data, args=model.args(0, "float64"))
        return {name: np.asarray(pattern) for name, pattern in patterns.items()}


_STEPS = {"quadrature": RULE, "chunk_size": 4}
_LAYER = {"layer": "hidden"}

LISTED = {
    # One gradient.
    "gradient": Row(_call("gradient"), (*SMOOTH, "conv")),
    "gradient_x_input": Row(_call("gradient_x_input"), IN_NNX),
    "interior_gradients": Row(
        _call("interior_gradients", alphas=np.array([0.25, 1.0], np.float32)),
        IN_LINEN,
        like_x=False,
    ),
    "completeness_gap": Row(_gap, IN_LINEN, like_x=False),
    "competitive_gradient_x_input": Row(
        lambda model, x, key, args, _: xattr.competitive_gradient_x_input(
            model.scores, x, args[0], args=args[1:], chunk_size=3
        ),
        (*LAYERED, "linen"),
    ),
    "edge_detector": Row(lambda model, x, key, args, _: xattr.edge_detector(x), ("conv",)),
    # Along a path.
    "integrated_gradients": Row(_call("integrated_gradients", **_STEPS), (*SMOOTH, "conv")),
    "aumann_shapley": Row(_call("aumann_shapley"), IN_NNX),
    "sample_and_integrate": Row(_sample_and_integrate, IN_LINEN),
    "monotone": Row(_along(_curved), IN_NNX),
    "coordinatewise": Row(_along(_coordinates), IN_LINEN),
    "guided_integrated_gradients": Row(
        _call("guided_integrated_gradients", steps=5, fraction=0.4, max_distance=0.15), SMOOTH
    ),
    "integrated_directional_gradients": Row(_directional, SMOOTH),
    "serial": Row(_along(_serial), IN_LINEN),
    "blur": Row(_along(lambda x: xattr.paths.blur(x, max_sigma=2.0)), ("conv",)),
    "own_path": Row(_along(_own), IN_NNX),
    "detour": Row(_along(_detour), IN_LINEN),
    "reversed": Row(_along(lambda x: xattr.paths.reverse(_own(x))), IN_NNX),
    "integrate_to_tolerance": Row(_to_tolerance, IN_NNX, differentiable=False),
    "exact_quadrature": Row(
        _exact, FEWER, lambda m: xattr.exact_quadrature(m.f, m.inputs(), args=m.args())
    ),
    "baseline_sensitivity": Row(_sensitivity, IN_LINEN, like_x=False),
    # Of pairs of features.
    "integrated_hessians": Row(_integrated_hessians, SMOOTH),
    "expected_hessians": Row(_expected_hessians, IN_LINEN, noisy=True),
    # Averages.
    "expected_gradients": Row(_expected, IN_LINEN, noisy=True),
    "smooth_grad": Row(_average("smooth_grad"), SMOOTH, noisy=True),
    "smooth_integrated_gradients": Row(
        _average("smooth_grad", xattr.integrated_gradients, **_STEPS), IN_LINEN, noisy=True
    ),
    "smooth_lrp": Row(_average("smooth_grad", xattr.lrp), FEWER, noisy=True),
    "smooth_layer": Row(
        _average("smooth_grad", xattr.layer_gradient, **_LAYER),
        ("tanh", "conv"),
        noisy=True,
        like_x=False,
    ),
    "smooth_grad_squared": Row(_average("smooth_grad_squared"), IN_NNX, noisy=True),
    "smooth_guided_squared": Row(
        _average("smooth_grad_squared", xattr.guided_backprop), FEWER, noisy=True
    ),
    "var_grad": Row(_average("var_grad"), IN_LINEN, noisy=True),
    # Features left out.
    "ablation": Row(_coalitions("ablation"), (*IN_LINEN, "conv")),
    "occlusion": Row(_call("occlusion", window=2, stride=1), ("tanh", "conv", "linen")),
    "shapley_values": Row(_coalitions("shapley_values"), (*IN_NNX, "conv")),
    "shapley_interactions": Row(
        _coalitions("shapley_interactions"), ("tree", "conv"), like_x=False
    ),
    "banzhaf_values": Row(_coalitions("banzhaf_values"), (*IN_LINEN, "conv")),
    "shapley_sampling": Row(
        _estimated("shapley_sampling", num_permutations=4), (*IN_LINEN, "conv"), noisy=True
    ),
    "kernel_shap": Row(_estimated("kernel_shap", num_samples=20), ("tree", "conv"), noisy=True),
    "lime": Row(_estimated("lime", num_samples=12), ("tree", "conv"), noisy=True),
    "rise": Row(
        lambda model, x, key, args, _: tuple(
            xattr.rise(model.f, x, key, num_masks=5, grid=3, args=args, chunk_size=2)
        ),
        ("conv",),
        like_x=False,
        noisy=True,
    ),
    "meaningful_perturbation": Row(
        lambda model, x, key, args, _: xattr.meaningful_perturbation(
            model.f, x, None, key, num_steps=3, grid=(3, 3), jitter=1, args=args
        ),
        ("conv",),
        like_x=False,
        noisy=True,
    ),
    # Under other rules.
    "guided_backprop": Row(_call("guided_backprop"), RECTIFIED),
    "deconvnet": Row(_call("deconvnet"), ("relu", *FEWER)),
    "lrp": Row(_call("lrp"), (*RECTIFIED, "tanh")),
    "lrp_zero_with_bias": Row(
        _call("lrp", composite=composites.every_layer(rules.zero()), bias="include"), FEWER
    ),
    "lrp_gamma": Row(_call("lrp", composite=composites.every_layer(rules.gamma(0.5))), FEWER),
    "lrp_epsilon_plus_flat": Row(_call("lrp", composite=composites.epsilon_plus_flat()), FEWER),
    "lrp_epsilon_alpha2_beta1": Row(
        _call("lrp", composite=composites.epsilon_alpha2_beta1()), FEWER
    ),
    "lrp_epsilon_gamma_box": Row(
        _call("lrp", composite=composites.epsilon_gamma_box(-3.0, 3.0)),
        FEWER,
        in_checkpoint="inside a loop",
    ),
    "relevance_report": Row(_call("relevance_report"), FEWER, like_x=False),
    "with_rules": Row(_with_rules, FEWER),
    "deep_taylor": Row(_call("deep_taylor"), (*FEWER, "nnx")),
    "deep_taylor_bounded": Row(
        _call("deep_taylor", low=-3.0, high=3.0), FEWER, in_checkpoint="inside a loop"
    ),
    "deep_lift": Row(_call("deep_lift"), (*RECTIFIED, "tanh")),
    "deep_lift_reveal_cancel": Row(_call("deep_lift", variant="reveal_cancel"), FEWER),
    "fit_patterns": Row(
        lambda model, x, key, args, _: xattr.fit_patterns(model.f, _variants(x), args=args),
        FEWER,
        like_x=False,
        in_checkpoint="inside remat2",
    ),
    "pattern_net": Row(
        lambda model, x, key, args, patterns: xattr.pattern_net(model.f, x, patterns, args=args),
        ("relu", *FEWER, "linen"),
        _patterns_of,
        in_checkpoint="inside remat2",
    ),
    "pattern_attribution": Row(
        lambda model, x, key, args, patterns: xattr.pattern_attribution(
            model.f, x, patterns, args=args
        ),
        FEWER,
        _patterns_of,
        in_checkpoint="inside remat2",
    ),
    # At a hidden layer.
    "at_layer": Row(_at_layer, (*LAYERED, "linen"), like_x=False),
    "layer_gradient": Row(_call("layer_gradient", **_LAYER), (*LAYERED, "nnx"), like_x=False),
    "layer_integrated_gradients": Row(
        _call("layer_integrated_gradients", **_LAYER, **_STEPS), (*LAYERED, "nnx"), like_x=False
    ),
    "conductance": Row(_call("conductance", **_LAYER, **_STEPS), (*LAYERED, "linen"), like_x=False),
    "internal_influence": Row(
        _call("internal_influence", **_LAYER, **_STEPS), LAYERED, like_x=False
    ),
    "grad_cam": Row(_call("grad_cam", **_LAYER), ("conv",), like_x=False),
    "guided_grad_cam": Row(_call("guided_grad_cam", **_LAYER), ("conv",)),
}

OUTSIDE = {
    "attribute_dataset": "writes files",
    "citation": "looks up the paper of a method",
    "explain": "describes the program: its result holds no arrays",
    "sharded": "is a transformation itself",
}
"""Functions of `xattr` that have no row, and why."""


def derived(name):
    """Return the row of a method by its signature: every argument that it asks for has a word."""
    parameters = inspect.signature(getattr(xattr, name)).parameters.values()
    asked = [p.name for p in parameters if p.default is p.empty and p.name not in ("f", "x")]

    def attribute(model, x, key, args, patterns):
        words = {"baselines": _variants(x), "key": key, "patterns": patterns, "num_samples": 5}
        words |= _LAYER
        options = {word: words[word] for word in asked}
        return getattr(xattr, name)(model.f, x, args=args, **options)

    prepare = _patterns_of if "patterns" in asked else lambda model: None
    return Row(attribute, FEWER, prepare, like_x="layer" not in asked, noisy="key" in asked)


def rows():
    """Return the rows that are listed, and those of the other methods of xattr."""
    functions = {n: getattr(xattr, n) for n in xattr.__all__ if n not in {*LISTED, *OUTSIDE}}
    of_x = [
        name
        for name, function in functions.items()
        if inspect.isfunction(function) and [*inspect.signature(function).parameters][:2] == F_AND_X
    ]
    return {**LISTED, **{name: derived(name) for name in of_x}}


F_AND_X = ["f", "x"]
ROWS = rows()
CASES = [(method, name) for method, row in ROWS.items() for name in row.models]


def in_turn(offset=0):
    """Return every method with one of its models: other offsets give other models."""
    rows = enumerate(ROWS.items(), offset)
    return [(method, row.models[number % len(row.models)]) for number, (method, row) in rows]


def first(method):
    """Return the first model of a method."""
    return ROWS[method].models[0]


@functools.cache
def case(method, name):
    """Return `attribute(x, key, *args)` of one entry of the table."""
    row, chosen = ROWS[method], model(name)
    prepared = row.prepare(chosen)
    return lambda x, key, *args: row.attribute(chosen, x, key, args, prepared)


@functools.cache
def program(method, name):
    """Return the same under jit: one compilation for all tests that need single results."""
    return jax.jit(case(method, name))


def batch(name, count, dtype=jnp.float32):
    """Return examples of a model and keys, stacked, and the further arguments, not stacked."""
    chosen = model(name)
    xs = stack([chosen.inputs(seed, dtype) for seed in range(count)])
    return xs, jax.random.split(jax.random.key(5), count), chosen.args(0, dtype)


def singles(method, name, xs, keys, args):
    """Return the results of examples one by one, stacked."""
    take = lambda i: jax.tree.map(lambda leaf: leaf[i], (xs, keys))
    return stack([program(method, name)(*take(i), *args) for i in range(len(keys))])


def stack(trees):
    """Stack trees of one structure."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def size(tree):
    """Return the largest magnitude in a tree."""
    return max(float(np.abs(np.asarray(leaf, np.float64)).max()) for leaf in jax.tree.leaves(tree))


def close(left, right, tolerance=2e-6):
    """Assert that two trees agree, relative to the size of the second."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float64),
            np.asarray(b, np.float64),
            rtol=tolerance,
            atol=tolerance * max(1.0, float(np.abs(np.asarray(b, np.float64)).max(initial=0))),
        ),
        left,
        right,
    )
