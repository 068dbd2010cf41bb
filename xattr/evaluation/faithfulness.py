"""Whether attributions tell what f does when x is perturbed."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from xattr import metrics
from xattr._core import compilation, trees
from xattr._program import workload
from xattr.evaluation import curves
from xattr.types import Args, ArrayTree, Function, PRNGKey

Perturbation: TypeAlias = Callable[[PRNGKey, ArrayTree], ArrayTree]
"""`perturbation(key, x)` draws I, a pytree like x, that is taken from x."""


def infidelity(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    perturbation: Perturbation,
    key: PRNGKey,
    *,
    reference: ArrayTree | None = None,
    num_samples: int = 100,
    args: Args = (),
    chunk_size: int | None = None,
) -> jax.Array:
    """Return the mean squared error of attributions as a linear model of f's change.

    INFD = E_I[(Σᵢ Iᵢ φᵢ − (f(x) − f(x − I)))²], the mean over draws of the perturbation I.

    φ are attributions per unit of x, such as gradients. With `reference`, attributions A are in
    units of f, such as integrated gradients, and φᵢ = Aᵢ / (xᵢ − referenceᵢ), or 0 where both are
    equal. For the perturbation I = x − reference it is then the completeness gap, squared.

    0 or more, in units of f squared; smaller is better. It depends on the perturbation more than on
    anything else: large ones reward completeness, small ones the gradient. It says nothing about
    perturbations that are not drawn.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        attributions: a pytree like x.
        x: the input, a pytree of floating arrays.
        perturbation: `perturbation(key, x) -> I`, a pytree like x, such as `lambda key, x: 0.1 *
            jax.random.normal(key, x.shape)`, or `lambda key, x: x` for black.
        key: a random key, `jax.random.key(seed)`.
        reference: the baseline of attributions in units of f, a pytree like x. None for
            attributions per unit of x.
        num_samples: draws of I.
        args: further arguments of f. A new value does not recompile.
        chunk_size: how many draws to take together; memory is that of one chunk. None chooses.

    Returns:
        A scalar in units of f squared.

    Raises:
        ValueError: if the attributions are not like x, or num_samples < 1.
        TypeError: if a leaf is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Yeh et al. 2019, "On the (in)fidelity and sensitivity of explanations", def. 2.1.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f, one = lambda x: x[0] * x[1], jnp.ones(2)
        >>> attributions, to_zero = xattr.aumann_shapley(f, one), lambda key, x: x
        >>> float(xattr.evaluation.infidelity(f, attributions, one, to_zero, jax.random.key(0)))
        0.0
    """
    compilation.check_args(args)
    compilation.check_callable(perturbation, "perturbation")
    trees.check_key(key)
    trees.check_count(num_samples, "num_samples")
    x = trees.floating(x, "x")
    attributions = trees.like(attributions, x, "attributions")
    if reference is not None:
        attributions = _per_unit(attributions, x, trees.like(reference, x, "reference"))
    size = min(workload.chunk_size(chunk_size, f, x, args), num_samples)
    options = {"num_samples": num_samples, "chunk_size": size}
    run = compilation.compiled(infidelity_kernel, f, perturbation=perturbation, **options)
    found: jax.Array = run(attributions, x, key, args)
    return found


@jax.jit
def _per_unit(attributions: ArrayTree, x: ArrayTree, reference: ArrayTree) -> ArrayTree:
    """Divide by x − reference; 0 where both are equal."""

    def divided(leaf: jax.Array, at: jax.Array, start: jax.Array) -> jax.Array:
        apart = at - start
        return jnp.where(apart == 0, 0, leaf / jnp.where(apart == 0, 1, apart))

    return jax.tree.map(divided, attributions, x, reference)


def infidelity_kernel(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    key: PRNGKey,
    args: Args,
    *,
    perturbation: Perturbation,
    num_samples: int,
    chunk_size: int,
) -> jax.Array:
    """Return the mean squared error over the draws."""
    value = trees.widen(compilation.scalar(f(x, *args)))

    def error(index: jax.Array) -> jax.Array:
        drawn = trees.like(perturbation(jax.random.fold_in(key, index), x), x, "perturbation")
        left = jax.tree.map(jnp.subtract, x, drawn)
        change = value - compilation.scalar(f(left, *args)).astype(value.dtype)
        return (trees.total(jax.tree.map(jnp.multiply, drawn, attributions)) - change) ** 2

    indices = jnp.arange(num_samples, dtype=jnp.uint32)
    return jax.lax.map(error, indices, batch_size=chunk_size).mean()


def faithfulness_correlation(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree | None,
    key: PRNGKey,
    *,
    subset_size: int,
    num_samples: int = 100,
    args: Args = (),
    chunk_size: int | None = None,
) -> jax.Array:
    """Return the correlation of a subset's attributions with what f loses without the subset.

    corr_S(Σ_{i∈S} φᵢ, f(x) − f(x with the features S at the baseline)), over random subsets S of
    one size: Pearson's.

    From −1 to 1; larger is better. For a linear f it is 1 for attributions w ⊙ (x − baseline). It
    says nothing about the scale of the attributions, and where features act together in f no
    attribution has 1.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        attributions: φ, as for `xattr.evaluation.perturbation_curve`.
        x: the input, a pytree of floating arrays.
        baseline: a pytree like x. None is zeros.
        key: a random key, `jax.random.key(seed)`.
        subset_size: features in each subset, from 1 to one less than there are.
        num_samples: subsets, at least 2.
        args: further arguments of f. A new value does not recompile.
        chunk_size: how many subsets to take together. None chooses.

    Returns:
        A scalar in [−1, 1]; NaN if either side is constant.

    Raises:
        ValueError: if the attributions do not fit x, or a number is out of its range.
        TypeError: if a leaf is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Bhatt et al. 2020, "Evaluating and aggregating feature-based model explanations", def. 3.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> w = jnp.array([4.0, 3.0, 2.0, 1.0])
        >>> correlation = xattr.evaluation.faithfulness_correlation(
        ...     lambda x: jnp.sum(w * x), w, jnp.ones(4), None, jax.random.key(0), subset_size=2
        ... )
        >>> round(float(correlation), 4)
        1.0
    """
    compilation.check_args(args)
    trees.check_key(key)
    trees.check_count(subset_size, "subset_size")
    trees.check_count(num_samples, "num_samples")
    x, attributions, baseline = curves.checked(x, attributions, baseline)
    total = sum(leaf.size for leaf in jax.tree.leaves(attributions))
    if subset_size >= total:
        raise ValueError(
            f"`subset_size` must be less than the number of features, {total}, not {subset_size}: "
            "all subsets would be the same"
        )
    size = min(workload.chunk_size(chunk_size, f, x, args), num_samples)
    options = {"subset_size": subset_size, "num_samples": num_samples, "chunk_size": size}
    run = compilation.compiled(subsets_kernel, f, **options)
    return metrics.pearson(*run(attributions, x, baseline, key, args))


def subsets_kernel(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree,
    key: PRNGKey,
    args: Args,
    *,
    subset_size: int,
    num_samples: int,
    chunk_size: int,
) -> tuple[jax.Array, jax.Array]:
    """Return the sum of the attributions and the loss of f for each subset."""
    leaves, treedef = jax.tree.flatten(attributions)
    value = trees.widen(compilation.scalar(f(x, *args)))
    ends = np.cumsum([leaf.size for leaf in leaves])

    def at(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        order = jax.random.permutation(jax.random.fold_in(key, index), int(ends[-1]))
        parts = jnp.split(order, ends[:-1])
        ranks = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
        removed = [rank < subset_size for rank in ranks]
        left = curves.without(x, baseline, jax.tree.unflatten(treedef, removed))
        chosen = [jnp.where(gone, leaf, 0) for gone, leaf in zip(removed, leaves, strict=True)]
        return trees.total(chosen), value - compilation.scalar(f(left, *args)).astype(value.dtype)

    indices = jnp.arange(num_samples, dtype=jnp.uint32)
    found: tuple[jax.Array, jax.Array] = jax.lax.map(at, indices, batch_size=chunk_size)
    return found
