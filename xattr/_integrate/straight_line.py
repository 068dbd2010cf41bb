"""Integrated gradients: the path integral along the straight line."""

from typing import Any

from xattr._core import completeness, trees
from xattr._integrate import hoisting
from xattr.types import ArrayTree, Function, Progress, Quadrature


def integrated_gradients(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    quadrature: Quadrature | None = None,
    args: tuple[Any, ...] = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
    warn_above: float | None = completeness.WARN_ABOVE,
) -> ArrayTree:
    """Attribute f(x) − f(baseline) to the features of x, along the straight line.

    Aᵢ = (xᵢ − x'ᵢ) ∫₀¹ ∂ᵢf(x' + α (x − x')) dα, with x' the baseline. The attributions sum to
    f(x) − f(x') up to the error of the quadrature; a feature equal to its baseline gets exactly 0.

    Outside a trace an `xattr.IncompleteWarning` tells of sums that miss more than `warn_above` of
    f(x) − f(x') (5 %). It costs two evaluations of f, and at the first call the compilation of f;
    None does not look. Inside a trace, look with `xattr.completeness_gap`.

    Shapes: `f(x, *args)` returns a scalar for one example; the result is a pytree like x, in units
    of f. `baseline` is zeros if None, `quadrature` Gauss–Legendre with 64 nodes. `chunk_size` and
    `progress` as for `xattr.integrate`. Raises `ValueError` for a baseline unlike x, and as
    `xattr.path_integral` does.
    Source: Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", eq. 1;
    Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 5.

    >>> import jax, jax.numpy as jnp, xattr
    >>> f = lambda x: 1 - jax.nn.relu(1 - x)  # saturated at 2, where its gradient is 0
    >>> xattr.integrated_gradients(f, jnp.array(2.0), quadrature=xattr.quadrature.midpoint(8))
    Array(1., dtype=float32)
    """
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    completeness.check_option(warn_above)
    result = hoisting.line_integral(
        f,
        baseline,
        x,
        quadrature=quadrature,
        args=args,
        chunk_size=chunk_size,
        progress=progress,
    )
    return completeness.checked(result, f, lambda: (x, baseline), args, warn_above)


def aumann_shapley(
    f: Function,
    x: ArrayTree,
    *,
    quadrature: Quadrature | None = None,
    args: tuple[Any, ...] = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
    warn_above: float | None = completeness.WARN_ABOVE,
) -> ArrayTree:
    """Share the cost f(x) − f(0) among the quantities x, by Aumann–Shapley pricing.

    Aᵢ = xᵢ ∫₀¹ ∂ᵢf(α x) dα: integrated gradients from zero. The Aumann–Shapley *prices* are costs
    per unit, `attributions / x`.

    Shapes: `f(x, *args)` returns a scalar for one example; the result is a pytree like x, in units
    of f. Options, `warn_above` among them, as for `xattr.integrated_gradients`; raises as
    `xattr.path_integral` does.
    Source: Aumann & Shapley 1974; Sundararajan et al. 2016, "Gradients of Counterfactuals", §2.4.

    >>> import jax.numpy as jnp, xattr
    >>> xattr.aumann_shapley(lambda x: x[0] * x[1] ** 2, jnp.ones(2)).round(4)
    Array([0.3333, 0.6667], dtype=float32)
    """
    return integrated_gradients(
        f,
        x,
        quadrature=quadrature,
        args=args,
        chunk_size=chunk_size,
        progress=progress,
        warn_above=warn_above,
    )
