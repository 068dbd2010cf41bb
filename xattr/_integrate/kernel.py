"""The kernel: Σₖ wₖ ∇f(γ(αₖ)) ⊙ γ'(αₖ), one compiled program for every path γ.

The path is sampled outside jit. The program takes points, velocities and weights as arrays, never
γ. Straight, curved and Aumann–Shapley paths and expected gradients therefore share one executable
for each chunk size. Memory does not grow with the number of nodes.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from xattr import quadrature as quadratures
from xattr._core import chunks, compilation, completeness, sampling, trees
from xattr._cpu import replace
from xattr._program import workload
from xattr.types import Args, Array, ArrayTree, Function, Path, PathSamples, Progress, Quadrature

SamplesOf: TypeAlias = Callable[[Any, int, Array], PathSamples]
"""`samples_of(start, size, valid)`: the samples of one chunk, with weight 0 where not `valid`."""

DEFAULT_NODES = 64
"""Nodes of the default quadrature, which is Gauss–Legendre.

The 2017 paper reports 20 to 300 Riemann steps for a gap of 5 %. On the softmax score of
EfficientNet-Lite0 for a photograph, 64 Gauss–Legendre nodes leave 6 % (the demo's table).
"""


def sample(path: Path, quadrature: Quadrature) -> PathSamples:
    """Sample a path and its velocity at the nodes of a quadrature.

    points[k] = γ(αₖ), velocities[k] = γ'(αₖ), weights[k] = wₖ; γ' by `jax.jvp`.

    Args:
        path: γ, a function `alpha -> pytree like x` on [0, 1].
        quadrature: nodes and weights, each of shape (n,).

    Returns:
        `PathSamples`. Leaves of `points` and `velocities` have a leading axis of n nodes, in the
        dtype that γ returns for a Python float. `weights` has shape (n,).

    Raises:
        ValueError: if the quadrature is empty, not sorted, outside [0, 1] or of unequal lengths.
        TypeError: if the path does not return a pytree of floating arrays.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 5 and 6.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.sample(lambda a: a**2 * jnp.array([3.0]), xattr.quadrature.midpoint(1))
        PathSamples(points=Array([[0.75]], dtype=float32),
                    velocities=Array([[3.]], dtype=float32),
                    weights=Array([1.], dtype=float32))
    """
    return sampling.sampler(sample_path, path)(*map(jnp.asarray, quadrature_or_default(quadrature)))


def sample_path(path: Path, nodes: Array, weights: Array) -> PathSamples:
    """Return the path's values and velocities at the nodes, with the weights."""
    points, velocities = sampling.points_and_velocities(path, nodes)
    dtype = trees.widest(jax.tree.leaves(points))
    return PathSamples(points, velocities, jnp.asarray(weights, dtype))


def path_kernel(f: Function, samples: PathSamples, args: Args) -> ArrayTree:
    """Return Σₖ wₖ ∇f(γₖ) ⊙ γ'ₖ over the nodes, in float32 at least.

    The samples have two leading axes: the chunks, which run one after the other, and the nodes of a
    chunk.
    """
    gradient = jax.grad(replace.faster(compilation.staged(f)))

    def chunk_sum(samples: PathSamples) -> ArrayTree:
        gradients = trees.widen(jax.vmap(lambda point: gradient(point, *args))(samples.points))
        slopes = trees.product(trees.widen(samples.velocities), gradients)
        return weighted_sum(samples.weights, slopes)

    return chunks.total(chunk_sum, samples)


def weighted_sum(weights: Array, terms: ArrayTree) -> ArrayTree:
    """Return Σₖ wₖ termsₖ over the leading axis.

    It is a matrix product, because XLA on CPU fuses a multiplication and a sum over nodes badly:
    for a batch that takes six times as long. `precision` keeps a TPU from rounding to bfloat16.
    """

    def leaf_sum(leaf: Array) -> Array:
        factors = jnp.asarray(weights, leaf.dtype)
        return jnp.einsum("n,n...->...", factors, leaf, precision="highest")

    return jax.tree.map(leaf_sum, terms)


def integrate(
    f: Function,
    samples: PathSamples,
    *,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Integrate the gradient of f along a sampled path.

    Aᵢ = Σₖ wₖ ∂ᵢf(γ(αₖ)) γᵢ'(αₖ).

    `xattr.completeness_gap` returns what the sum of the attributions misses of f(γ(1)) − f(γ(0)).
    Outside a trace this function waits for the result, to check that the path is finite. Call it
    under `jax.jit` where it must not wait for the device.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        samples: the sampled path, as `xattr.sample` returns it.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together; memory is that of one chunk. It changes the
            result by rounding only. None chooses: on a CPU by the size of the largest array that f
            makes (1 for EfficientNet-Lite0, 64 for a small dense network), elsewhere 16.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if the samples do not fit together or, outside a trace, are not finite.
        TypeError: if `args` is not a tuple.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 6.

    Example:
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
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
    warn_above: float | None = completeness.WARN_ABOVE,
) -> ArrayTree:
    """Attribute f(γ(1)) − f(γ(0)) to the inputs, along any path γ.

    Aᵢ = ∫₀¹ ∂ᵢf(γ(α)) γᵢ'(α) dα.

    The path is sampled chunk by chunk: the samples and gradients of all nodes are never alive
    together. A new path, label or parameter tree of the same shapes does not recompile.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        path: γ, a function `alpha -> pytree like x` on [0, 1].
        quadrature: nodes and weights on [0, 1]. None is Gauss–Legendre with 64 nodes.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.
        warn_above: the gap to warn of, as a share of f(γ(1)) − f(γ(0)). None does not check, see
            `xattr.integrated_gradients`.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if the quadrature is empty, not sorted, outside [0, 1] or of unequal lengths or,
            outside a trace, if the path is not finite.
        TypeError: if the path does not return a pytree of floating arrays, or `args` is not a
            tuple.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 5; Friedman 2004.

    Example:
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
        sampling.form_of(path),
        args=args,
        chunk_size=chunk_size,
        progress=progress,
    )
    return completeness.checked(result, f, functools.partial(ends_of, path), args, warn_above)


def ends_of(path: Path) -> tuple[ArrayTree, ArrayTree]:
    """Return γ(1) and γ(0)."""
    value = compilation.compiled_if_library(path_value, path)
    return value(jnp.asarray(1.0)), value(jnp.asarray(0.0))


def path_value(path: Path, alpha: Array) -> ArrayTree:
    """Return γ(α)."""
    return path(alpha)


def quadrature_or_default(quadrature: Quadrature | None) -> Quadrature:
    """Return the quadrature, or the default one, as arrays in a dtype that JAX uses now."""
    if quadrature is None:
        quadrature = quadratures.gauss_legendre(DEFAULT_NODES)
    return Quadrature(*map(_canonical, quadratures.checked(quadrature)))


def _canonical(values: Array) -> Array:
    """Cast on the host: JAX 0.10.2 does not always notice a change of jax_enable_x64."""
    if not isinstance(values, np.ndarray):
        return values
    return values.astype(jax.dtypes.canonicalize_dtype(values.dtype))


def nodes_of(quadrature: Quadrature, start: Any, size: int, valid: Array) -> Quadrature:
    """Return the nodes and weights of one chunk, with weight 0 where not `valid`."""
    nodes, weights = (chunks.take(values, start, size) for values in quadrature)
    # JAX arrays, since a jitted program that is given float64 of NumPy does not always notice a
    # change of jax_enable_x64 (JAX 0.10.2).
    return Quadrature(jnp.asarray(nodes), jnp.asarray(chunks.masked(weights, valid)))


def sampled(path: Path, quadrature: Quadrature) -> SamplesOf:
    """Return the function that samples a path chunk by chunk."""
    sampler = sampling.sampler(sample_path, path)
    return lambda start, size, valid: sampler(*nodes_of(quadrature, start, size, valid))


def accumulate(
    f: Function,
    samples_of: SamplesOf,
    count: int,
    x: ArrayTree,
    *,
    args: Args,
    chunk_size: int | None,
    progress: Progress | None,
) -> ArrayTree:
    """Return the compiled kernel's sum over `count` samples, made chunk by chunk, in dtypes of x.

    Of x only the shapes and dtypes are used.
    """
    compilation.check_args(args)
    kernel = compilation.compiled(path_kernel, f)
    chunk_size = workload.chunk_size(chunk_size, f, x, args)
    result = sum_of_chunks(
        lambda samples: kernel(samples, args), samples_of, count, chunk_size, progress
    )
    if trees.has_nonfinite(result):
        check_finite(samples_of, count, chunk_size)
    return trees.cast_like(result, x)


def sum_of_chunks(
    kernel: Callable[[Any], ArrayTree],
    operands_of: Callable[[Any, int, Array], Any],
    count: int,
    chunk_size: int,
    progress: Progress | None,
) -> ArrayTree:
    """Return Σ kernel(operands of a block of chunks), for operands that are made when needed.

    `operands_of(start, size, valid)` has one leading axis of nodes; the kernel is given two, the
    chunks of the block and the nodes of each.
    """
    size = chunks.split(count, chunk_size)[0]

    def part(start: Any, number: int, valid: Array) -> ArrayTree:
        return kernel(chunks.stacked(operands_of(start, number, valid), size))

    return chunks.reduce(
        part, trees.add, count, chunk_size=chunk_size, progress=progress, blocks=True
    )


def check_finite(samples_of: SamplesOf, count: int, chunk_size: int) -> None:
    """Raise if the path is not finite; an infinite gradient of f is not an error."""
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
