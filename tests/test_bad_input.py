"""An error for bad input names the argument in backticks and says what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xattr
from xattr import Quadrature, paths, quadrature

F = lambda x: jnp.sum(x**2)
X = jnp.ones(3)
KEY = jax.random.key(0)
IG = xattr.integrated_gradients
LINE = paths.aumann_shapley(X)
RULE = quadrature.midpoint(4)

CASES = {
    "baseline of another structure": (
        lambda: IG(F, X, {"a": X}),
        ValueError,
        "`baseline` must have the structure of `x`",
    ),
    "baseline of another shape": (
        lambda: IG(F, X, jnp.zeros(4)),
        ValueError,
        "`baseline` has shape (4,), but `x` has shape (3,): pass arrays of the same shapes",
    ),
    "baseline's leaf is named": (
        lambda: IG(lambda x: F(x["a"]), {"a": X}, {"a": jnp.zeros(4)}),
        ValueError,
        "`baseline`['a'] has shape (4,)",
    ),
    "scalar baseline": (lambda: IG(F, X, 0.0), ValueError, "jnp.full_like(v, constant)"),
    "integer x": (
        lambda: IG(F, jnp.arange(3)),
        TypeError,
        "`x` must be floating, but has dtype int32: there is no gradient with respect to it. "
        "For tokens or categories attribute at the embedding",
    ),
    "integer leaf of x": (
        lambda: xattr.gradient(F, {"tokens": np.arange(3)}),
        TypeError,
        "`x`['tokens'] must be floating",
    ),
    "complex x": (
        lambda: xattr.gradient(F, X.astype(jnp.complex64)),
        TypeError,
        "but has dtype complex64: split it into two leaves of x, its real and imaginary parts",
    ),
    "integer baseline": (
        lambda: IG(F, X, jnp.zeros(3, int)),
        TypeError,
        "`baseline` must be floating",
    ),
    "text": (lambda: xattr.gradient(F, "cat"), TypeError, "`x` must be a floating array"),
    "no arrays": (lambda: xattr.gradient(F, {}), ValueError, "`x` has no arrays"),
    "scores with the statistics of a flax module": (
        lambda: IG(xattr.targets.logit(lambda x: (x, {"mean": X})), X, args=(1,)),
        TypeError,
        "but returned a tuple: return the scores alone, lambda x, *args: model(x, *args)[0]; a "
        "flax module with `mutable` trains, build it with use_running_average=True",
    ),
    "f not scalar": (
        lambda: xattr.gradient(lambda x: x**2, X),
        ValueError,
        "`f` must return one scalar for one example, but returned float32[3]: pick a class",
    ),
    "f returns one element": (
        lambda: IG(lambda x: jnp.sum(x, keepdims=True), X),
        ValueError,
        "but returned float32[1]",
    ),
    "f returns a tuple": (
        lambda: IG(lambda x: (jnp.sum(x), 1.0), X),
        ValueError,
        "but returned a tuple",
    ),
    "f returns an integer": (
        lambda: IG(lambda x: jnp.argmax(x), X),
        TypeError,
        "`f` must return a floating scalar, but returned int32[]: return the score itself",
    ),
    "args not a tuple": (
        lambda: IG(F, X, args=[1]),
        TypeError,
        "`args` must be a tuple of further arguments of f, but is a list: for one argument write "
        "args=(label,)",
    ),
    "args not a tuple, gradient": (lambda: xattr.gradient(F, X, args=1), TypeError, "`args` must"),
    "args not a tuple, gap": (
        lambda: xattr.completeness_gap(F, X, X, args=1),
        TypeError,
        "`args` must",
    ),
    "args not a tuple, noise": (
        lambda: xattr.smooth_grad(F, X, KEY, args=1),
        TypeError,
        "`args` must",
    ),
    "empty quadrature": (
        lambda: IG(F, X, quadrature=Quadrature(np.zeros(0), np.zeros(0))),
        ValueError,
        "`quadrature` is empty: give at least one node",
    ),
    "nodes outside": (
        lambda: IG(F, X, quadrature=Quadrature([0.5, 1.5], [0.5, 0.5])),
        ValueError,
        "`quadrature` has nodes outside [0, 1], from 0.5 to 1.5",
    ),
    "nodes not sorted": (
        lambda: xattr.sample(LINE, Quadrature([0.75, 0.25], [0.5, 0.5])),
        ValueError,
        "`quadrature` has nodes that are not sorted",
    ),
    "NaN node": (
        lambda: xattr.sample(LINE, Quadrature([jnp.nan], [1.0])),
        ValueError,
        "`quadrature` has a node or a weight that is not finite",
    ),
    "unequal lengths": (
        lambda: IG(F, X, quadrature=Quadrature([0.5], [0.5, 0.5])),
        ValueError,
        "`quadrature` needs one weight for each node",
    ),
    "chunk_size 0": (
        lambda: IG(F, X, chunk_size=0),
        ValueError,
        "`chunk_size` must be a whole number of at least 1, not 0",
    ),
    "chunk_size 1.5": (lambda: IG(F, X, chunk_size=1.5), ValueError, "`chunk_size` must be"),
    "n 0": (
        lambda: quadrature.gauss_legendre(0),
        ValueError,
        "`n` must be a whole number of at least 1, not 0",
    ),
    "trapezoid 1": (lambda: quadrature.trapezoid(1), ValueError, "`n` must be at least 2"),
    "pieces 0": (lambda: quadrature.composite(RULE, 0), ValueError, "`pieces` must be"),
    "exponent 0": (
        lambda: paths.monotone(baseline=X, x=X, exponents=0.0),
        ValueError,
        "`exponents` must be greater than 0",
    ),
    "negative exponent": (
        lambda: paths.monotone(baseline=X, x=X, exponents=jnp.array([1.0, -1.0, 2.0])),
        ValueError,
        "the smallest is -1",
    ),
    "exponents do not broadcast": (
        lambda: paths.monotone(baseline=X, x=X, exponents=jnp.ones(2)),
        ValueError,
        "`exponents` has shape (2,), which does not broadcast to the shape (3,) of `x`",
    ),
    "order repeats": (
        lambda: paths.coordinatewise(baseline=X, x=X, order=[0, 1, 1]),
        ValueError,
        "`order` must be a permutation of the 3 features of x, each of 0 … 2 once, but is [0 1 1]",
    ),
    "order too short": (
        lambda: paths.coordinatewise(baseline=X, x=X, order=[1, 0]),
        ValueError,
        "`order` must be",
    ),
    "blur of width 0": (
        lambda: paths.blur(jnp.ones((2, 2)), max_sigma=0.0),
        ValueError,
        "`max_sigma` must be a finite number greater than 0, in pixels, not 0.0",
    ),
    "two widths of a blur": (
        lambda: paths.blur(jnp.ones((2, 2)), max_sigma=jnp.ones(2)),
        ValueError,
        "`max_sigma` must be a finite number greater than 0",
    ),
    "blur of a vector": (
        lambda: paths.blur({"a": X}, max_sigma=1.0),
        ValueError,
        "`axes` must be different axes of every leaf, at least one, but is (0, 1) where `x`['a'] "
        "has shape (3,): pass those of height and width",
    ),
    "blur twice": (
        lambda: paths.blur(jnp.ones((2, 2)), max_sigma=1.0, axes=[1, -1]),
        ValueError,
        "`axes` must be different axes",
    ),
    "blur of no axes": (lambda: paths.blur(X, max_sigma=1.0, axes=[]), ValueError, "`axes` must"),
    "serial of two shapes": (
        lambda: paths.serial(baseline=jnp.zeros(2), x=X),
        ValueError,
        "`baseline` has shape (2,)",
    ),
    "one waypoint": (
        lambda: paths.polyline(X[None]),
        ValueError,
        "`points` needs a leading axis of at least 2 waypoints",
    ),
    "scalar waypoints": (lambda: paths.polyline(jnp.array(1.0)), ValueError, "`points` needs"),
    "no paths": (lambda: paths.concatenate([]), ValueError, "`paths` is empty"),
    "paths that do not meet": (
        lambda: paths.concatenate([LINE, LINE]),
        ValueError,
        "`paths`[1] does not start where `paths`[0] ends",
    ),
    "paths of two shapes": (
        lambda: paths.concatenate([LINE, paths.aumann_shapley(jnp.ones(2))]),
        ValueError,
        "return pytrees of different structure or shapes",
    ),
    "warp moves an end": (
        lambda: paths.reparametrize(LINE, lambda a: a / 2),
        ValueError,
        "`warp` must keep the ends, but maps 1 to 0.5",
    ),
    "warp not scalar": (
        lambda: paths.reparametrize(LINE, lambda a: a * X),
        ValueError,
        "`warp` must return a scalar, but returned shape (3,)",
    ),
    "path of integers": (
        lambda: xattr.path_integral(F, lambda a: jnp.arange(3)),
        TypeError,
        "`path` must return a pytree of floating arrays like x, but returned int32[3]",
    ),
    "path of nothing": (
        lambda: xattr.path_integral(F, lambda a: None),
        TypeError,
        "but returned none",
    ),
    "NaN in the path": (
        lambda: xattr.path_integral(F, lambda a: jnp.nan * a * X, quadrature=RULE),
        ValueError,
        "the path is not finite at node 0 of 4, in its value or its velocity: look for "
        "NaN in x, in the baseline and in `path`",
    ),
    "infinite velocity": (
        lambda: xattr.path_integral(
            F,
            paths.monotone(baseline=0 * X, x=X, exponents=0.5),
            quadrature=quadrature.trapezoid(5),
        ),
        ValueError,
        "use a quadrature without that node, such as gauss_legendre",
    ),
    "NaN in samples": (
        lambda: xattr.integrate(F, xattr.sample(lambda a: jnp.nan * a * X, RULE)),
        ValueError,
        "the path is not finite at node 0",
    ),
    "NaN in the baseline": (
        lambda: IG(F, X, jnp.full(3, jnp.nan), quadrature=RULE),
        ValueError,
        "the path is not finite",
    ),
    "samples of two lengths": (
        lambda: xattr.integrate(F, xattr.sample(LINE, RULE)._replace(weights=jnp.ones(3))),
        ValueError,
        "`samples` needs one leading axis of at least one node",
    ),
    "samples of two shapes": (
        lambda: xattr.integrate(F, xattr.sample(LINE, RULE)._replace(velocities=jnp.ones((4, 2)))),
        ValueError,
        "`samples.velocities` has shape (4, 2), but `samples.points` has shape (4, 3)",
    ),
    "alphas outside": (
        lambda: xattr.interior_gradients(F, X, alphas=jnp.array([0.5, 2.0])),
        ValueError,
        "`alphas` must lie in [0, 1]",
    ),
    "alphas empty": (
        lambda: xattr.interior_gradients(F, X, alphas=jnp.zeros(0)),
        ValueError,
        "`alphas` must be one-dimensional and not empty",
    ),
    "baselines without an axis": (
        lambda: xattr.expected_gradients(F, X, X, KEY, num_samples=3),
        ValueError,
        "`baselines` has a leaf of shape (3,), but needs a leading axis",
    ),
    "no samples": (
        lambda: xattr.expected_gradients(F, X, X[None], KEY, num_samples=0),
        ValueError,
        "`num_samples` must be a whole number of at least 1",
    ),
    "no noise samples": (
        lambda: xattr.smooth_grad(F, X, KEY, num_samples=0),
        ValueError,
        "`num_samples` must be a whole number of at least 1",
    ),
    "negative noise": (
        lambda: xattr.var_grad(F, X, KEY, noise_scale=-0.1),
        ValueError,
        "`noise_scale` must be 0 or more, not -0.1",
    ),
    "a seed for a key": (
        lambda: xattr.smooth_grad(F, X, 3),
        TypeError,
        "`key` must be one random key: pass jax.random.key(3)",
    ),
    "a seed for a key, expected gradients": (
        lambda: xattr.expected_gradients(F, X, X[None], 3, num_samples=2),
        TypeError,
        "`key` must be one random key",
    ),
    "attributions of another shape": (
        lambda: xattr.completeness_gap(F, jnp.ones(2), X),
        ValueError,
        "`attributions` has shape (2,)",
    ),
    "scores of a batch": (
        lambda: xattr.gradient(xattr.targets.logit(lambda x: x[None]), X, args=(0,)),
        ValueError,
        "`model` must return class scores of shape (classes,) for one example, but returned shape "
        "(1, 3): for a model of batches pass lambda x, *args: model(x[None], *args)[0]",
    ),
    "label not an integer": (
        lambda: xattr.gradient(xattr.targets.logit(lambda x: x), X, args=(0.0,)),
        TypeError,
        "`label` must be an integer scalar",
    ),
    "odds of one class": (
        lambda: xattr.gradient(xattr.targets.log_odds(lambda x: x[:1]), X, args=(0,)),
        ValueError,
        "has no other class",
    ),
    "quadrature is a number": (
        lambda: IG(F, X, quadrature=32),
        TypeError,
        "`quadrature` must be a Quadrature(nodes, weights), but is an int: pass for example "
        "xattr.quadrature.gauss_legendre(32)",
    ),
    "quadrature is its maker": (
        lambda: xattr.sample(LINE, quadrature.midpoint),
        TypeError,
        "`quadrature` must be a Quadrature(nodes, weights)",
    ),
    "f is not a function": (lambda: IG(X, X), TypeError, "`f` must be a function, but is a"),
    "path is not a function": (
        lambda: xattr.path_integral(F, X),
        TypeError,
        "`path` must be a function",
    ),
    "method is a name": (
        lambda: xattr.smooth_grad(F, X, KEY, method="gradient"),
        TypeError,
        "`method` must be a function, but is a str",
    ),
    "text in args": (
        lambda: IG(F, X, args=("relu",)),
        TypeError,
        "`args` must hold arrays and numbers, but has a str: bind anything else to f",
    ),
    "progress stops early": (
        lambda: IG(F, X, quadrature=RULE, chunk_size=1, progress=lambda chunks: list(chunks)[:2]),
        ValueError,
        "`progress` went through 2 of 4 chunks",
    ),
    "integer exponents": (
        lambda: paths.monotone(baseline=X, x=X, exponents=jnp.ones(3, int)),
        TypeError,
        "`exponents` must be floating, but has dtype int32: pass floats",
    ),
    "a fraction of 25": (
        lambda: xattr.guided_integrated_gradients(F, X, fraction=25),
        ValueError,
        "`fraction` must be a share, one number in [0, 1], not 25",
    ),
    "a negative distance": (
        lambda: xattr.guided_integrated_gradients(F, X, max_distance=-0.1),
        ValueError,
        "`max_distance` must be a share",
    ),
    "guided by no steps": (
        lambda: xattr.guided_integrated_gradients(F, X, steps=0),
        ValueError,
        "`steps` must be a whole number of at least 1, not 0",
    ),
    "directional steps": (
        lambda: xattr.integrated_directional_gradients(F, LINE, steps=1.5),
        ValueError,
        "`steps` must be a whole number of at least 1, not 1.5",
    ),
    "directional along an array": (
        lambda: xattr.integrated_directional_gradients(F, X),
        TypeError,
        "`path` must be a function",
    ),
    "embeddings of another width": (
        lambda: paths.embedding_waypoints(baseline=X, x=X, table=jnp.ones((5, 2))),
        ValueError,
        "`table` has shape (5, 2), but needs rows of the last axis of `x`, which has shape (3,)",
    ),
    "no waypoints": (
        lambda: paths.embedding_waypoints(baseline=X, x=X, table=X[None], steps=0),
        ValueError,
        "`steps` must be a whole number of at least 1",
    ),
    "unknown way to choose words": (
        lambda: paths.embedding_waypoints(baseline=X, x=X, table=X[None], variant="nearest"),
        ValueError,
        '`variant` must be "greedy" or "max_count", not \'nearest\'',
    ),
    "one baseline for a menu": (
        lambda: xattr.baseline_sensitivity(F, X, X, method=IG),
        ValueError,
        "`baselines` has a leaf of shape (3,), but needs a leading axis",
    ),
    "sensitivity of a name": (
        lambda: xattr.baseline_sensitivity(F, X, X[None], method="integrated_gradients"),
        TypeError,
        "`method` must be a function, but is a str",
    ),
    "group of another shape": (
        lambda: xattr.integrated_hessians(F, X, group=jnp.ones(2)),
        ValueError,
        "`group` has shape (2,), but `x` has shape (3,)",
    ),
    "a mask for a group": (
        lambda: xattr.expected_hessians(F, X, X[None], KEY, group=X > 0, num_samples=2),
        TypeError,
        "`group` must be floating, but has dtype bool: pass floats",
    ),
    "NaN in x, interactions": (
        lambda: xattr.integrated_hessians(F, jnp.nan * X, group=X),
        ValueError,
        "the path is not finite at node 0 of 64",
    ),
    "several keys": (
        lambda: xattr.smooth_grad(F, X, jax.random.split(KEY, 3)),
        TypeError,
        "`key` must be one random key",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_error_names_the_argument(name):
    call, kind, text = CASES[name]
    with pytest.raises(kind) as error:
        call()
    assert text in str(error.value)
    assert "`" in str(error.value)


@pytest.mark.parametrize("label", [-1, 4, 1000])
@pytest.mark.parametrize("target", ["logit", "probability", "log_probability", "log_odds"])
def test_unknown_label_is_nan_not_another_class(target, label):
    f = getattr(xattr.targets, target)(lambda x: x)
    assert jnp.isnan(f(jnp.ones(4), label))
    assert jnp.isnan(xattr.gradient(f, jnp.ones(4), args=(label,))).any()
