"""Expected gradients: integrated gradients averaged over a distribution of baselines."""

from typing import Any

import jax
import jax.numpy as jnp

from xattr import paths
from xattr._core import chunks, trees
from xattr._integrate import kernel
from xattr.types import Args, Array, ArrayTree, Function, PathSamples, PRNGKey, Progress


def expected_gradients(
    f: Function,
    x: ArrayTree,
    baselines: ArrayTree,
    key: PRNGKey,
    *,
    num_samples: int,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Average integrated gradients over baselines drawn from a data set, one gradient a sample.

    Aᵢ = E over x' ~ baselines, α ~ U[0, 1] of (xᵢ − x'ᵢ) ∂ᵢf(x' + α (x − x')).

    Sample k draws α from the k-th of `num_samples` equal parts of [0, 1]. Baselines are drawn in
    rounds; each round is a new shuffle of all of them. Every pair (x', α) is equally likely, so the
    expectation is that of independent draws. The variance is usually smaller.

    The attributions sum to f(x) − E f(x') in the limit of many samples. The mean of
    `xattr.completeness_gap` over the baselines is what they miss.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baselines: a pytree like x, with a leading axis of m ≥ 1 baselines on every leaf.
        key: a random key, `jax.random.key(seed)`.
        num_samples: how many gradients to average.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together; memory is that of one chunk. It changes the
            result by rounding only. None chooses, see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if the baselines are not like x, or num_samples < 1.
        TypeError: if a leaf of x is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Erion et al. 2019, "Improving performance of deep learning models with axiomatic attribution
        priors and expected gradients", eq. 4.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: 3 * x[0] + x[1]
        >>> x, baselines = jnp.array([1.0, 2.0]), jnp.array([[0.0, 0.0], [1.0, 0.0]])
        >>> xattr.expected_gradients(f, x, baselines, jax.random.key(0), num_samples=4)
        Array([1.5, 2. ], dtype=float32)
    """
    x = trees.floating(x, "x")
    baselines, baseline_count = checked_baselines(baselines, x)
    trees.check_key(key)
    trees.check_count(num_samples, "num_samples")
    order, alphas = draw(key, num_samples, baseline_count, trees.widest(jax.tree.leaves(x)))

    def samples_of(start: Any, size: int, valid: Array) -> PathSamples:
        chosen, alpha = chunks.take((order, alphas), start, size)
        return samples_from(x, baselines, chosen, alpha, valid, num_samples)

    return kernel.accumulate(
        f, samples_of, num_samples, x, args=args, chunk_size=chunk_size, progress=progress
    )


def samples_from(
    x: ArrayTree, baselines: ArrayTree, chosen: Array, alphas: Array, valid: Array, count: int
) -> PathSamples:
    """Return samples of the lines from the chosen baselines to x, each with weight 1 / count."""
    starts = jax.tree.map(lambda leaf: leaf[chosen], baselines)
    points = jax.vmap(lambda baseline, a: paths.straight_line(baseline=baseline, x=x)(a))(
        starts, alphas
    )
    velocities = jax.vmap(lambda baseline: jax.tree.map(jnp.subtract, x, baseline))(starts)
    weights = jnp.where(jnp.asarray(valid), jnp.asarray(1 / count, alphas.dtype), 0)
    return PathSamples(points, velocities, weights)


def draw(key: PRNGKey, count: int, baselines: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Draw the index of a baseline and α for each of `count` samples, as the docstring above says.

    Stratified in both: a baseline is drawn again only after all others, and α covers [0, 1] evenly.
    """
    shuffle, shift = jax.random.split(key)
    rounds = jax.random.split(shuffle, -(-count // baselines))
    order = jax.vmap(lambda key: jax.random.permutation(key, baselines))(rounds).ravel()[:count]
    shifts = jax.random.uniform(shift, (count,), dtype)
    return order, (jnp.arange(count, dtype=dtype) + shifts) / count


def checked_baselines(baselines: ArrayTree, x: ArrayTree) -> tuple[ArrayTree, int]:
    """Return the baselines in the dtypes of x, and their number."""
    baselines = trees.floating(baselines, "baselines")
    trees.same_structure(baselines, x, "baselines")
    for leaf, target in zip(jax.tree.leaves(baselines), jax.tree.leaves(x), strict=True):
        if leaf.ndim != target.ndim + 1 or leaf.shape[1:] != target.shape or not leaf.shape[0]:
            raise ValueError(
                f"`baselines` has a leaf of shape {leaf.shape}, but needs a leading axis of at "
                f"least one baseline before the shape {target.shape} of `x`: for one baseline pass "
                "jax.tree.map(lambda leaf: leaf[None], baseline)"
            )
    counts = {leaf.shape[0] for leaf in jax.tree.leaves(baselines)}
    if len(counts) > 1:
        raise ValueError(f"`baselines` has leaves of {sorted(counts)} baselines: give all as many")
    return trees.cast_like(baselines, x), counts.pop()
