"""The axioms that attributions are held to."""

from typing import Any

import jax
import jax.numpy as jnp

from xattr import functions, trees
from xattr.types import ArrayTree, Function


def completeness_gap(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    args: tuple[Any, ...] = (),
) -> jax.Array:
    """Return by how much attributions miss the change of f that they should sum to.

    gap = Σᵢ Aᵢ − (f(x) − f(baseline)); 0 for exact path attributions.

    Shapes: `attributions` and `baseline` (zeros if None) are pytrees like x; the result is a
    scalar in units of f, summed in float32 at least. Raises `ValueError` for trees unlike x.
    Source: Sundararajan et al. 2016, "Gradients of Counterfactuals", proposition 1.

    >>> import jax.numpy as jnp, xattr
    >>> f, x = lambda x: x[0] * x[1], jnp.array([1.0, 2.0])
    >>> xattr.completeness_gap(f, xattr.gradient(f, x), x)
    Array(1., dtype=float32)
    """
    functions.check_args(args)
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    trees.like(attributions, x, "attributions")
    total = trees.total(attributions)
    end, start = (functions.value_of(f, point, args) for point in (x, baseline))
    dtype = trees.widest([total, end])
    change = end.astype(dtype) - start.astype(dtype)
    return jnp.subtract(total.astype(dtype), change)
