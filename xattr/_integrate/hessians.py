"""Interactions between features: integrated and expected Hessians, a group of features at a time.

The interactions of a group v with all features take one product of the Hessian with a vector at
each node, forward over reverse, and no Hessian:

    Σᵢ vᵢ Γᵢⱼ = Δⱼ E over t of [t (∇²f(x' + t Δ) (v ⊙ Δ))ⱼ + vⱼ ∂ⱼf(x' + t Δ)],    Δ = x − x'.

Here t is the product of two uniform variables. Its density on [0, 1] is −ln t, so that the double
integral over the two is a single one.
"""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from xattr import paths
from xattr._core import chunks, compilation, trees
from xattr._cpu import replace
from xattr._integrate import expected, kernel
from xattr._program import workload
from xattr.types import Args, Array, ArrayTree, Function, PathSamples, PRNGKey, Progress, Quadrature

Operands: TypeAlias = tuple[PathSamples, Array]
"""The samples of a straight line at the products t, and t."""


def integrated_hessians(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    group: ArrayTree,
    quadrature: Quadrature | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Attribute f(x) − f(baseline) to pairs of features: those of a group with every feature.

    Aⱼ = Σᵢ groupᵢ Γᵢⱼ, where with Δ = x − x' and x' the baseline

    Γᵢⱼ = Δᵢ Δⱼ ∫∫ αβ ∂ᵢ∂ⱼf(x' + αβ Δ) dα dβ + [i = j] Δᵢ ∫∫ ∂ᵢf(x' + αβ Δ) dα dβ.

    Γ is integrated gradients of integrated gradients. It is symmetric. Its row i sums to the
    integrated gradient of feature i, and all of it to f(x) − f(x'). This takes an f with a
    continuous gradient: the second derivative of a ReLU is 0 almost everywhere, and what its kink
    contributes is lost. Explain the network with `jax.nn.softplus` in the place of its ReLUs.

    A group that is 1 at one feature and 0 elsewhere gives a row of Γ. A mask gives the sum of
    several rows, at the same cost, and ones give integrated gradients. What two groups have between
    them is the sum of one's A over the other. All of Γ is the `jax.vmap` of rows over the identity
    matrix. At each node one product of the Hessian with a vector is taken, which costs a few
    gradients; the Hessian itself is never made.

    The double integral is a single one: t = αβ has the density −ln t. With t = s³ it becomes
    ∫₀¹ −9 s² ln(s) g(s³) ds, whose integrand is smooth enough for any quadrature on s. A node s of
    the quadrature is read at t = s³, with its weight times −9 s² ln s. The weights are then scaled
    to their old sum, so that a linear f is attributed exactly. For f = x₁² x₂, 64 nodes of
    Gauss–Legendre leave an error of 2e-11; a rule of 64 nodes for each of two integrals has 64².

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. Its second derivatives
            are taken.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x. None is zeros.
        group: the weight of each feature in the group, a pytree like x.
        quadrature: nodes and weights on [0, 1]. None is Gauss–Legendre with 64 nodes.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many nodes to take together; memory is that of one chunk. None chooses, see
            `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if the baseline or the group is not like x, or the quadrature is empty, not
            sorted, outside [0, 1] or of unequal lengths or, outside a trace, if x or the baseline
            is not finite.
        TypeError: if a leaf of x or of the group is not floating, or `args` is not a tuple.

    Source:
        Janizek, Sturmfels & Lee 2021, "Explaining Explanations: Axiomatic Feature Interactions for
        Deep Networks" (integrated Hessians).

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f, x = lambda x: x[0] * x[1], jnp.array([2.0, 4.0])
        >>> row = lambda group: xattr.integrated_hessians(f, x, group=group)
        >>> row(jnp.array([1.0, 0.0])).round(3)
        Array([2., 2.], dtype=float32)
        >>> jax.vmap(row)(jnp.eye(2)).round(3)
        Array([[2., 2.],
               [2., 2.]], dtype=float32)
    """
    x = trees.floating(x, "x")
    line = paths.straight_line(baseline=trees.baseline_like(baseline, x), x=x)
    rule = product_rule(kernel.quadrature_or_default(quadrature))
    samples_of = kernel.sampled(line, rule)

    def operands_of(start: Any, size: int, valid: Array) -> Operands:
        nodes = kernel.nodes_of(rule, start, size, valid).nodes
        return samples_of(start, size, valid), jnp.asarray(nodes)

    result = _accumulate(
        f,
        operands_of,
        rule.nodes.shape[0],
        x,
        trees.like(group, x, "group"),
        args=args,
        chunk_size=chunk_size,
        progress=progress,
    )
    if trees.has_nonfinite(result):
        kernel.check_finite(samples_of, rule.nodes.shape[0], chunks.DEFAULT_SIZE)
    return result


def expected_hessians(
    f: Function,
    x: ArrayTree,
    baselines: ArrayTree,
    key: PRNGKey,
    *,
    group: ArrayTree,
    num_samples: int,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Average integrated Hessians over baselines drawn from a data set, one product a sample.

    Aⱼ = E over x' ~ baselines and α, β ~ U[0, 1] of
    Δⱼ [αβ (∇²f(x' + αβ Δ) (group ⊙ Δ))ⱼ + groupⱼ ∂ⱼf(x' + αβ Δ)], with Δ = x − x'.

    Baselines and α are drawn as by `xattr.expected_gradients`. β is drawn from the k-th of
    `num_samples` equal parts of [0, 1], in an order of its own. Every triple (x', α, β) is equally
    likely. See `xattr.integrated_hessians` for groups, and for why f must not have kinks.

    In the limit of many samples the interactions of one feature sum to its expected gradient, and
    those of all features to f(x) − E f(x').

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. Its second derivatives
            are taken.
        x: the input, a pytree of floating arrays.
        baselines: a pytree like x, with a leading axis of m ≥ 1 baselines on every leaf.
        key: a random key, `jax.random.key(seed)`.
        group: the weight of each feature in the group, a pytree like x.
        num_samples: how many products to average.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many samples to take together; memory is that of one chunk. It changes the
            result by rounding only. None chooses, see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if the baselines or the group are not like x, or num_samples < 1.
        TypeError: if a leaf of x or of the group is not floating, `key` is not a key, or `args` is
            not a tuple.

    Source:
        Janizek, Sturmfels & Lee 2021, "Explaining Explanations: Axiomatic Feature Interactions for
        Deep Networks" (expected Hessians).

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f, x, baselines = lambda x: 3 * x[0] + x[1], jnp.array([1.0, 2.0]), jnp.zeros((1, 2))
        >>> group, key = jnp.array([1.0, 0.0]), jax.random.key(0)
        >>> xattr.expected_hessians(f, x, baselines, key, group=group, num_samples=4)
        Array([3., 0.], dtype=float32)
    """
    x = trees.floating(x, "x")
    baselines, baseline_count = expected.checked_baselines(baselines, x)
    trees.check_key(key)
    trees.check_count(num_samples, "num_samples")
    dtype = trees.widest(jax.tree.leaves(x))
    order, products = _draw(key, num_samples, baseline_count, dtype)

    def operands_of(start: Any, size: int, valid: Array) -> Operands:
        chosen, nodes = chunks.take((order, products), start, size)
        return expected.samples_from(x, baselines, chosen, nodes, valid, num_samples), nodes

    return _accumulate(
        f,
        operands_of,
        num_samples,
        x,
        trees.like(group, x, "group"),
        args=args,
        chunk_size=chunk_size,
        progress=progress,
    )


def _draw(key: PRNGKey, count: int, baselines: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Draw the index of a baseline and αβ for each of `count` samples, as the docstring says."""
    first, second, shuffle = jax.random.split(key, 3)
    order, alphas = expected.draw(first, count, baselines, dtype)
    betas = (jnp.arange(count, dtype=dtype) + jax.random.uniform(second, (count,), dtype)) / count
    return order, alphas * jax.random.permutation(shuffle, betas)


def product_rule(quadrature: Quadrature) -> Quadrature:
    """Return nodes t = s³ and weights for ∫₀¹ −ln(t) g(t) dt, from a quadrature on s.

    The factor −9 s² ln s is 0 at both ends, where the logarithm or its product is no number.
    """
    nodes, weights = quadrature
    numpy: Any = np if isinstance(nodes, np.ndarray) else jnp
    density = -9 * nodes**2 * numpy.log(numpy.where(nodes > 0, nodes, 1))
    scaled = weights * density
    total = numpy.sum(scaled)
    found = total != 0  # 0 if the only nodes are the ends
    factor = numpy.where(found, numpy.sum(weights) / numpy.where(found, total, 1), 0)
    return Quadrature(nodes**3, scaled * factor)


def _accumulate(
    f: Function,
    operands_of: Any,
    count: int,
    x: ArrayTree,
    group: ArrayTree,
    *,
    args: Args,
    chunk_size: int | None,
    progress: Progress | None,
) -> ArrayTree:
    """Return the compiled sum over the samples, made chunk by chunk, in the dtypes of x."""
    compilation.check_args(args)
    program = compilation.compiled(hessian_kernel, f)
    chunk_size = workload.chunk_size(chunk_size, f, x, args)
    result = kernel.sum_of_chunks(
        lambda operands: program(operands, group, args), operands_of, count, chunk_size, progress
    )
    return trees.cast_like(result, x)


def hessian_kernel(f: Function, operands: Operands, group: ArrayTree, args: Args) -> ArrayTree:
    """Return Σₖ wₖ Δₖ ⊙ [tₖ ∇²f(γₖ) (group ⊙ Δₖ) + group ⊙ ∇f(γₖ)], in float32 at least.

    The operands have two leading axes: the chunks, which run one after the other, and the nodes of
    a chunk.
    """
    gradient = jax.grad(replace.faster(compilation.staged(f)))

    def interactions(point: ArrayTree, change: ArrayTree, t: Array) -> ArrayTree:
        along = jax.tree.map(jnp.multiply, group, change)
        slopes, curvatures = jax.jvp(lambda x: gradient(x, *args), (point,), (along,))
        each = functools.partial(_interaction, t)
        terms = jax.tree.map(each, *map(trees.widen, (group, slopes, curvatures)))
        return trees.product(trees.widen(change), terms)

    def chunk_sum(operands: Operands) -> ArrayTree:
        (points, velocities, weights), nodes = operands
        terms = jax.vmap(interactions)(points, velocities, nodes)
        return kernel.weighted_sum(weights, terms)

    return chunks.total(chunk_sum, operands)


def _interaction(t: Array, weight: jax.Array, slope: jax.Array, curvature: jax.Array) -> jax.Array:
    """Return t ∇²f (group ⊙ Δ) + group ⊙ ∇f; a weight of 0 leaves out a slope without a value."""
    return jnp.asarray(t, curvature.dtype) * curvature + trees.product(weight, slope)
