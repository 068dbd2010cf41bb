"""The table of methods and models that every transformation is tested over."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import xattr

RULE = xattr.quadrature.gauss_legendre(6)


def _curved(x):
    return xattr.paths.monotone(jax.tree.map(jnp.zeros_like, x), x, 2.0)


def _own(x):
    """A user's lambda: x γ with γ = sin, closing over x."""
    return lambda alpha: jax.tree.map(
        lambda leaf: (jnp.sin(alpha * (np.pi / 2)).astype(leaf.dtype)) * leaf, x
    )


def _coordinates(x):
    count = sum(leaf.size for leaf in jax.tree.leaves(x))
    zeros = jax.tree.map(jnp.zeros_like, x)
    return xattr.paths.coordinatewise(zeros, x, np.arange(count)[::-1])


def _detour(x):
    """Over a corner and back by another way, at another pace."""
    zeros = jax.tree.map(lambda leaf: 0 * leaf, x)  # sharded as x is
    corner = jax.tree.map(lambda leaf: leaf * jnp.tanh(leaf), x)
    there = xattr.paths.polyline(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), zeros, jax.tree.map(jnp.sin, x), corner)
    )
    onward = xattr.paths.reparametrize(xattr.paths.straight_line(corner, x), jnp.square)
    return xattr.paths.concatenate([there, onward])


def _path_method(path):
    return lambda f, x, key, args: xattr.path_integral(
        f, path(x), quadrature=RULE, args=args, chunk_size=4
    )


def _sample_and_integrate(f, x, key, args):
    samples = xattr.sample(xattr.paths.aumann_shapley(x), RULE)
    return xattr.integrate(f, samples, args=args, chunk_size=2)


def _interior(f, x, key, args):
    stacked = xattr.interior_gradients(f, x, alphas=jnp.array([0.25, 1.0]), args=args)
    return jax.tree.map(lambda leaf: leaf[0] + leaf[-1], stacked)


def _baselines(x):
    return jax.tree.map(lambda leaf: jnp.stack([0 * leaf, leaf * 0.5, leaf + 1]), x)


def _gap(f, x, key, args):
    attributions = xattr.gradient_x_input(f, x, args=args)
    gap = xattr.completeness_gap(f, attributions, x, args=args)
    return jax.tree.map(lambda leaf: gap.astype(leaf.dtype) * jnp.ones_like(leaf), x)


def _noisy(average, **options):
    return lambda f, x, key, args: average(
        f, x, key, num_samples=5, chunk_size=2, args=args, **options
    )


METHODS = {
    "gradient": lambda f, x, key, args: xattr.gradient(f, x, args=args),
    "gradient_x_input": lambda f, x, key, args: xattr.gradient_x_input(f, x, args=args),
    "interior_gradients": _interior,
    "integrated_gradients": lambda f, x, key, args: xattr.integrated_gradients(
        f, x, quadrature=RULE, args=args, chunk_size=4
    ),
    "aumann_shapley": lambda f, x, key, args: xattr.aumann_shapley(f, x, args=args),
    "sample_and_integrate": _sample_and_integrate,
    "monotone": _path_method(_curved),
    "coordinatewise": _path_method(_coordinates),
    "own_path": _path_method(_own),
    "detour": _path_method(_detour),
    "reversed": _path_method(lambda x: xattr.paths.reverse(_own(x))),
    "expected_gradients": lambda f, x, key, args: xattr.expected_gradients(
        f, x, _baselines(x), key, num_samples=7, args=args, chunk_size=4
    ),
    "smooth_grad": _noisy(xattr.smooth_grad),
    "smooth_integrated_gradients": _noisy(
        xattr.smooth_grad,
        method=functools.partial(xattr.integrated_gradients, quadrature=RULE, chunk_size=4),
    ),
    "smooth_grad_squared": _noisy(xattr.smooth_grad_squared),
    "var_grad": _noisy(xattr.var_grad),
    "completeness_gap": _gap,
}


def parameters(seed=0, dtype=jnp.float32):
    """Parameters of `mlp`: 3 inputs, 5 hidden units, 4 classes."""
    random = np.random.default_rng(seed)
    return {
        "w1": jnp.asarray(random.standard_normal((3, 5)), dtype),
        "b1": jnp.asarray(random.standard_normal(5) * 0.1, dtype),
        "w2": jnp.asarray(random.standard_normal((5, 4)), dtype),
    }


def mlp(x, params):
    """A smooth network of 3 inputs with 4 scores."""
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


def _tree_function(x, label, params):
    image, (pair, scalar) = x["image"], x["rest"]
    features = jnp.concatenate([image.ravel(), pair[:1] * pair[1:]]) * jnp.exp(-(scalar**2))
    return mlp(features, params)[label]


class LinenMLP(linen.Module):
    """The network in flax linen."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(4)(jnp.tanh(linen.Dense(5)(x)))


class NnxMLP(nnx.Module):
    """The network in flax nnx."""

    def __init__(self, seed=0):
        rngs = nnx.Rngs(seed)
        self.hidden, self.out = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 4, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def _linen():
    model = LinenMLP()
    variables = model.init(jax.random.key(0), jnp.zeros(3))
    return xattr.targets.logit(lambda x, v: model.apply(v, x)), (jnp.int32(1), variables)


def inputs(seed=0, dtype=jnp.float32):
    """An input of `mlp`."""
    return jnp.asarray(np.random.default_rng(100 + seed).standard_normal(3), dtype)


def tree_inputs(seed=0, dtype=jnp.float32):
    """An input with a dict, a tuple and a scalar leaf."""
    random = np.random.default_rng(200 + seed)
    leaf = lambda *shape: jnp.asarray(random.standard_normal(shape), dtype)
    return {"image": leaf(2, 1), "rest": (leaf(2), leaf())}


def models(dtype=jnp.float32):
    """Name -> (f, inputs by seed, args)."""
    params = parameters(dtype=dtype)
    arrays = functools.partial(inputs, dtype=dtype)
    trees = functools.partial(tree_inputs, dtype=dtype)
    return {
        "plain": (xattr.targets.logit(mlp), arrays, (jnp.int32(2), params)),
        "tree": (_tree_function, trees, (jnp.int32(0), params)),
    }


def flax_models():
    """Name -> (f, inputs by seed, args), for flax linen and nnx (float32 only)."""
    linen_f, linen_args = _linen()
    return {
        "linen": (linen_f, inputs, linen_args),
        "nnx": (xattr.targets.logit(NnxMLP()), inputs, (jnp.int32(1),)),
    }


CASES = [(method, model) for method in METHODS for model in ("plain", "tree", "linen", "nnx")]


def case(method, model):
    """Return (attribute(x, key, *args), inputs by seed, args) of one entry of the table."""
    f, make, args = (models() | flax_models())[model]
    return lambda x, key, *args: METHODS[method](f, x, key, args), make, args


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
