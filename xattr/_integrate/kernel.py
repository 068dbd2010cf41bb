"""The kernel: Σₖ wₖ ∇f(γ(αₖ)) ⊙ γ'(αₖ), one compiled program for every path γ.

The boundary of jit lies after the sampling of the path: the program sees points, velocities and
weights as arrays, never γ. Straight, curved and Aumann–Shapley paths and expected gradients share
one executable for each chunk size, therefore, and memory does not grow with the nodes.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from xattr import quadrature as quadratures
from xattr._core import chunks, compilation, completeness, trees
from xattr._cpu import peephole
from xattr._program import workload
from xattr.types import Array, ArrayTree, Function, Path, PathSamples, Progress, Quadrature

SamplesOf: TypeAlias = Callable[[Any, int, Array], PathSamples]
"""`samples_of(start, size, valid)`: the samples of one chunk, of weight 0 where not valid."""

DEFAULT_NODES = 64
"""Nodes of the Gauss–Legendre quadrature where no quadrature is given.

The 2017 paper reports 20 to 300 Riemann steps for a gap of 5 %. On the softmax score of
EfficientNet-Lite0 for a photograph, 64 Gauss–Legendre nodes leave 6 % (the demo's table).
"""


def sample(path: Path, quadrature: Quadrature) -> PathSamples:
    """Sample a path and its velocity at the nodes of a quadrature.

    points[k] = γ(αₖ), velocities[k] = γ'(αₖ), weights[k] = wₖ; γ' by `jax.jvp`.

    Shapes: leaves of `points` and `velocities` have a leading axis of n nodes, in the dtype that γ
    returns for a Python float; `weights` has shape (n,). Raises `ValueError` for a quadrature that
    is empty, not sorted, outside [0, 1] or of unequal lengths, `TypeError` for a path that does not
    return a pytree of floating arrays.
    Source: Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 5 and 6.

    >>> import jax.numpy as jnp, xattr
    >>> xattr.sample(lambda a: a**2 * jnp.array([3.0]), xattr.quadrature.midpoint(1))
    PathSamples(points=Array([[0.75]], dtype=float32), velocities=Array([[3.]], dtype=float32),
                weights=Array([1.], dtype=float32))
    """
    return _sampler(path)(*map(jnp.asarray, quadrature_or_default(quadrature)))


def _sampler(path: Path) -> Callable[[Array, Array], PathSamples]:
    """Return the function from nodes and weights to samples; a path of ours is compiled."""
    compilation.check_callable(path, "path")
    if chunks.is_staged():
        return functools.partial(sample_path, path)
    return compilation.compiled_if_library(sample_path, path)


def sample_path(path: Path, nodes: Array, weights: Array) -> PathSamples:
    """Return the path's values and velocities at the nodes, with the weights."""
    form = _form(path)
    dtype = trees.widest(jax.tree.leaves(form))

    def at(alpha: Array) -> tuple[ArrayTree, ArrayTree]:
        value, velocity = jax.jvp(path, (alpha,), (jnp.ones_like(alpha),))
        return trees.cast_like(value, form), trees.cast_like(velocity, form)

    points, velocities = jax.vmap(at)(jnp.asarray(nodes, dtype))
    return PathSamples(points, velocities, jnp.asarray(weights, dtype))


def _form(path: Path) -> ArrayTree:
    """Return shapes and dtypes of the path's values; raise unless they are floating arrays."""
    form = jax.eval_shape(path, 0.5)  # for a weakly typed alpha the path keeps the dtype of x
    leaves = jax.tree_util.tree_leaves_with_path(form)
    if not leaves:
        raise TypeError("`path` must return a pytree of floating arrays like x, but returned none")
    for where, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(
                "`path` must return a pytree of floating arrays like x, but returned "
                f"{leaf.dtype}{list(leaf.shape)} at {trees.leaf_name('path(alpha)', where)}"
            )
    return form


def path_kernel(f: Function, samples: PathSamples, args: tuple[Any, ...]) -> ArrayTree:
    """Return Σₖ wₖ ∇f(γₖ) ⊙ γ'ₖ over the nodes, in float32 at least.

    The samples have two leading axes: chunks, taken one after the other, and the nodes of each.
    """
    gradient = jax.grad(peephole.faster(compilation.staged(f)))

    def chunk_sum(samples: PathSamples) -> ArrayTree:
        gradients = trees.widen(jax.vmap(lambda point: gradient(point, *args))(samples.points))
        slopes = trees.product(trees.widen(samples.velocities), gradients)
        return weighted_sum(samples.weights, slopes)

    return chunks.total(chunk_sum, samples)


def weighted_sum(weights: Array, terms: ArrayTree) -> ArrayTree:
    """Return Σₖ wₖ termsₖ over the leading axis.

    A product with the weights, since XLA fuses a multiplied sum over nodes badly on CPU: for a
    batch it takes six times as long. A TPU would round to bfloat16 unless told otherwise.
    """

    def leaf_sum(leaf: Array) -> Array:
        factors = jnp.asarray(weights, leaf.dtype)
        return jnp.einsum("n,n...->...", factors, leaf, precision="highest")

    return jax.tree.map(leaf_sum, terms)


def integrate(
    f: Function,
    samples: PathSamples,
    *,
    args: tuple[Any, ...] = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Integrate the gradient of f along a sampled path.

    Aᵢ = Σₖ wₖ ∂ᵢf(γ(αₖ)) γᵢ'(αₖ).

    Shapes: `f(x, *args)` returns a scalar for one example; the result is a pytree like x.
    At most `chunk_size` gradients are taken together; memory is a chunk's. None chooses it: on a
    CPU from the size of the largest array that f makes (1 for EfficientNet-Lite0, 64 for a small
    dense network), elsewhere 16. It changes no result beyond rounding. `progress` wraps the loop
    over the chunks, as `tqdm.tqdm` does; inside a trace it is not used. `xattr.completeness_gap`
    tells the gap to f(γ(1)) − f(γ(0)). Outside a trace the result
    is looked at, to find a path that is not finite: put the call under `jax.jit`
    where it must not wait for the device.
    Raises `ValueError` for samples that do not fit together and, outside a trace, for a path that
    is not finite; `TypeError` if `args` is no tuple.
    Source: Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 6.

    >>> import jax.numpy as jnp, xattr
    >>> path = xattr.paths.straight_line(baseline=jnp.zeros(2), x=jnp.array([1.0, 2.0]))
    >>> samples = xattr.sample(path, xattr.quadrature.midpoint(8))
    >>> xattr.integrate(lambda x: x[0] * x[1], samples)
    Array([1., 1.], dtype=float32)
    """
    samples = _checked(samples)

    def samples_of(start: Any, size: int, valid: Array) -> PathSamples:
        points, velocities, weights = (chunks.take(tree, start, size) for tree in samples)
        return PathSamples(points, velocities, chunks.masked(weights, valid))

    point = jax.tree.map(lambda leaf: leaf[0], samples.points)
    return accumulate(
        f,
        samples_of,
        samples.weights.shape[0],
        jax.eval_shape(lambda: point),
        args=args,
        chunk_size=chunk_size,
        progress=progress,
    )


def path_integral(
    f: Function,
    path: Path,
    *,
    quadrature: Quadrature | None = None,
    args: tuple[Any, ...] = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
    warn_above: float | None = completeness.WARN_ABOVE,
) -> ArrayTree:
    """Attribute f(γ(1)) − f(γ(0)) to the inputs, along any path γ.

    Aᵢ = ∫₀¹ ∂ᵢf(γ(α)) γᵢ'(α) dα. The path is sampled chunk by chunk: neither its samples nor the
    gradients of all nodes are alive at once. A new path, label or parameter tree of the same shapes
    runs the same compiled program.

    Shapes: `path(alpha)` returns a pytree like x, what `f` takes; so is the result. `quadrature` is
    Gauss–Legendre
    with 64 nodes if None. `chunk_size` and `progress` as for `xattr.integrate`, `warn_above` as for
    `xattr.integrated_gradients`.
    Raises as `xattr.sample` and `xattr.integrate` do.
    Source: Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 5; Friedman 2004.

    >>> import jax.numpy as jnp, xattr
    >>> f = lambda x: x[0] * x[1]
    >>> powers = jnp.array([1.0, 2.0])
    >>> path = xattr.paths.monotone(baseline=jnp.zeros(2), x=jnp.ones(2), exponents=powers)
    >>> xattr.path_integral(f, path).round(4)
    Array([0.3333, 0.6667], dtype=float32)
    """
    compilation.check_callable(path, "path")
    completeness.check_option(warn_above)
    quadrature = quadrature_or_default(quadrature)
    result = accumulate(
        f,
        sampled(path, quadrature),
        quadrature.nodes.shape[0],
        _form(path),
        args=args,
        chunk_size=chunk_size,
        progress=progress,
    )
    return completeness.checked(result, f, functools.partial(_ends, path), args, warn_above)


def _ends(path: Path) -> tuple[ArrayTree, ArrayTree]:
    """Return γ(1) and γ(0)."""
    value = compilation.compiled_if_library(path_value, path)
    return value(jnp.asarray(1.0)), value(jnp.asarray(0.0))


def path_value(path: Path, alpha: Array) -> ArrayTree:
    """Return γ(α)."""
    return path(alpha)


def quadrature_or_default(quadrature: Quadrature | None) -> Quadrature:
    """Return the quadrature as arrays in a dtype of JAX's, or the default one."""
    if quadrature is None:
        quadrature = quadratures.gauss_legendre(DEFAULT_NODES)
    return Quadrature(*map(_canonical, quadratures.checked(quadrature)))


def _canonical(values: Array) -> Array:
    """Cast values on the host: JAX 0.10.2 may not notice that jax_enable_x64 was switched."""
    if not isinstance(values, np.ndarray):
        return values
    return values.astype(jax.dtypes.canonicalize_dtype(values.dtype))


def nodes_of(quadrature: Quadrature, start: Any, size: int, valid: Array) -> Quadrature:
    """Return the nodes and weights of one chunk; the weight of what has been counted is 0."""
    nodes, weights = (chunks.take(values, start, size) for values in quadrature)
    # As arrays of JAX: a jitted program given float64 of NumPy does not always notice that
    # jax_enable_x64 was switched meanwhile (JAX 0.10.2).
    return Quadrature(jnp.asarray(nodes), jnp.asarray(chunks.masked(weights, valid)))


def sampled(path: Path, quadrature: Quadrature) -> SamplesOf:
    """Return the function that samples a path chunk by chunk."""
    sampler = _sampler(path)
    return lambda start, size, valid: sampler(*nodes_of(quadrature, start, size, valid))


def accumulate(
    f: Function,
    samples_of: SamplesOf,
    count: int,
    form: ArrayTree,
    *,
    args: tuple[Any, ...],
    chunk_size: int | None,
    progress: Progress | None,
) -> ArrayTree:
    """Sum the compiled kernel over samples made chunk by chunk by `samples_of(start, size, valid)`.

    `valid` tells which of the items count; the others must be given weight 0. `form` is a point of
    the samples, or its shapes and dtypes.
    """
    compilation.check_args(args)
    kernel = compilation.compiled(path_kernel, f)
    chunk_size = workload.chunk_size(chunk_size, f, form, args)
    size = chunks.split(count, chunk_size)[0]

    def part(start: Any, number: int, valid: Array) -> ArrayTree:
        return kernel(chunks.stacked(samples_of(start, number, valid), size), args)

    result = chunks.reduce(
        part, trees.add, count, chunk_size=chunk_size, progress=progress, blocks=True
    )
    if trees.has_nonfinite(result):
        check_finite(samples_of, count, chunk_size)
    return trees.cast_like(result, form)


def check_finite(samples_of: SamplesOf, count: int, chunk_size: int) -> None:
    """Raise if it is the path, not the gradient of f, that is not finite."""
    size, starts, valid = chunks.split(count, chunk_size)
    for start, mask in zip(starts, valid, strict=True):
        samples = samples_of(int(start), size, mask)
        if not trees.has_nonfinite(samples):
            continue
        leaves = [np.asarray(leaf).reshape(size, -1) for leaf in jax.tree.leaves(samples)]
        finite = np.stack([np.isfinite(leaf).all(axis=1) for leaf in leaves]).all(axis=0)
        raise ValueError(
            f"the path is not finite at node {start + int(np.argmin(finite))} of {count}, in its "
            "value or its velocity: look for NaN in x, in the baseline and in `path`, or use a "
            "quadrature without that node, such as gauss_legendre"
        )


def _checked(samples: PathSamples) -> PathSamples:
    points = trees.floating(samples.points, "samples.points")
    velocities = trees.like(samples.velocities, points, "samples.velocities", "samples.points")
    weights = jnp.asarray(samples.weights)
    counts = {leaf.shape[:1] for leaf in (*jax.tree.leaves(points), weights)}
    if len(counts) > 1 or weights.ndim != 1 or not weights.size:
        raise ValueError(
            "`samples` needs one leading axis of at least one node, the same for points, "
            f"velocities and weights, but has {sorted(counts)}: "
            "make them with xattr.sample(path, quadrature)"
        )
    return PathSamples(points, velocities, weights)
