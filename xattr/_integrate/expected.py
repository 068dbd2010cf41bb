"""Expected gradients: integrated gradients averaged over a distribution of baselines."""

from typing import Any

import jax
import jax.numpy as jnp

from xattr import paths
from xattr._core import chunks, trees
from xattr._integrate import kernel
from xattr.types import Array, ArrayTree, Function, PathSamples, PRNGKey, Progress


def expected_gradients(
    f: Function,
    x: ArrayTree,
    baselines: ArrayTree,
    key: PRNGKey,
    *,
    num_samples: int,
    args: tuple[Any, ...] = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Average integrated gradients over baselines drawn from a data set, one gradient a sample.

    Aᵢ = E over x' ~ baselines, α ~ U[0, 1] of (xᵢ − x'ᵢ) ∂ᵢf(x' + α (x − x')). Sample k takes α
    from the k-th of `num_samples` equal parts of [0, 1], and baselines are dealt in shuffled
    rounds, each used once a round. Every (x', α) is as likely as any other, so the mean is that of
    independent draws, usually with less variance.

    Shapes: `f(x, *args)` returns a scalar for one example; leaves of `baselines` are those of x
    with a leading axis of m ≥ 1 baselines; the result is a pytree like x, in units of f. Its sum
    tends to f(x) − E f(x'): the mean of `xattr.completeness_gap` over the baselines is the gap.
    `chunk_size` and `progress` as for `xattr.integrate`; the result does not depend on them. Raises
    `ValueError` for baselines unlike x and for num_samples < 1.
    Source: Erion et al. 2019, "Improving performance of deep learning models with axiomatic
    attribution priors and expected gradients", eq. 4.

    >>> import jax, jax.numpy as jnp, xattr
    >>> baselines = jnp.array([[0.0, 0.0], [1.0, 0.0]])
    >>> xattr.expected_gradients(
    ...     lambda x: 3 * x[0] + x[1], jnp.array([1.0, 2.0]), baselines, jax.random.key(0),
    ...     num_samples=4)
    Array([1.5, 2. ], dtype=float32)
    """
    x = trees.floating(x, "x")
    baselines, rows = _checked(baselines, x)
    trees.check_key(key)
    trees.check_count(num_samples, "num_samples")
    order, alphas = _draw(key, num_samples, rows, trees.widest(jax.tree.leaves(x)))

    def samples_of(start: Any, size: int, valid: Array) -> PathSamples:
        row, alpha = chunks.take((order, alphas), start, size)
        chosen = jax.tree.map(lambda leaf: leaf[row], baselines)
        points = jax.vmap(lambda baseline, a: paths.straight_line(baseline=baseline, x=x)(a))(
            chosen, alpha
        )
        velocities = jax.vmap(lambda baseline: jax.tree.map(jnp.subtract, x, baseline))(chosen)
        weights = jnp.where(jnp.asarray(valid), jnp.asarray(1 / num_samples, alphas.dtype), 0)
        return PathSamples(points, velocities, weights)

    return kernel.accumulate(
        f, samples_of, num_samples, x, args=args, chunk_size=chunk_size, progress=progress
    )


def _draw(key: PRNGKey, count: int, rows: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Draw the rows of the baselines, in shuffled rounds, and α, one from each of `count` parts."""
    deal, shift = jax.random.split(key)
    rounds = jax.random.split(deal, -(-count // rows))
    order = jax.vmap(lambda turn: jax.random.permutation(turn, rows))(rounds).ravel()[:count]
    shifts = jax.random.uniform(shift, (count,), dtype)
    return order, (jnp.arange(count, dtype=dtype) + shifts) / count


def _checked(baselines: ArrayTree, x: ArrayTree) -> tuple[ArrayTree, int]:
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
