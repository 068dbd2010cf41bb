"""A word where attributions miss the change of f that they are to sum to.

A method that is complete in theory is looked at outside a trace, where numbers can be. With
Δ = f(x) − f(x') and s = |f(x)| + |f(x')| a warning is due if

    |Σ A − Δ| > w |Δ| + min(r, w s)    or    ε Σ|A| > s,

where w is the option `warn_above`, ε the spacing of the coarsest numbers in use, relative to 1, and
r = min(1024 ε, 1/16) (Σ|A| + s) what rounding may account for. Rounding excuses a gap where Δ is
nearly 0, but none that is large beside f itself: there the attributions cancel, and what is left of
them is rounding. That is so by the second condition even where the sum happens to be right. Where f
is 0 at both ends there is no measure, and no warning. What is not finite is a gap.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xattr._core import caller, compilation, trees
from xattr.types import ArrayTree, Function, IncompleteWarning

WARN_ABOVE = 0.05
"""The gap that is warned of, relative to the change of f.

Sundararajan, Taly & Yan 2017, §5, take as many steps as bring the sum within 5 %.
"""

ULPS = 1024
"""Units in the last place of the largest term that rounding may cost a network's attributions."""

MORE_NODES = (
    "give a `quadrature` with more nodes, as xattr.quadrature.gauss_legendre(256), or use "
    "xattr.integrate_to_tolerance"
)


def rounding_share(spacing: float) -> float:
    """Return the part of the largest term that rounding may cost, for numbers of this spacing."""
    return min(ULPS * spacing, 1 / 16)


def check_option(warn_above: float | None) -> None:
    """Raise unless the limit is a number or None."""
    if warn_above is None:
        return
    if not isinstance(warn_above, (int, float)) or not warn_above >= 0:
        raise ValueError(
            "`warn_above` must be the gap to warn of, relative to the change of f, as 0.05, or "
            f"None, not {warn_above!r}"
        )


def checked(
    attributions: ArrayTree,
    f: Function,
    ends: Callable[[], tuple[ArrayTree, ArrayTree]],
    args: tuple[Any, ...],
    warn_above: float | None,
) -> ArrayTree:
    """Return a path's attributions; outside a trace, warn if they miss the change of f."""
    if warn_above is not None and not trees.is_traced(attributions):
        points = ends()
        values = [compilation.value_of(f, point, args) for point in points]
        warn(completeness_kernel(attributions, points, *values), warn_above, MORE_NODES)
    return attributions


def numbers(attributions: ArrayTree, inputs: ArrayTree, end: Any, start: Any) -> tuple[Any, ...]:
    """Return Σ A, Σ|A|, f(x), f(x') and the coarsest ε among those of all arrays."""
    size = trees.total(jax.tree.map(jnp.abs, attributions))
    spacing = max(trees.eps(leaf) for leaf in jax.tree.leaves((attributions, inputs, end)))
    return trees.total(attributions), size, end, start, spacing


@jax.jit
def completeness_kernel(*operands: Any) -> tuple[Any, ...]:
    """Return the numbers, by one program; its name is that under which it is counted."""
    return numbers(*operands)


def warn(numbers: tuple[Any, ...], warn_above: float | None, remedy: str) -> None:
    """Warn if the numbers can be looked at and tell of a gap above the limit."""
    if warn_above is None or trees.is_traced(numbers):
        return
    total, size, end, start, spacing = map(float, jax.device_get(numbers))
    change, scale = end - start, abs(end) + abs(start)
    rounding = rounding_share(spacing) * (size + scale)
    gap = abs(total - change)
    limit = warn_above * abs(change) + min(rounding, warn_above * scale)
    finite = math.isfinite(gap)
    misses = gap > limit or not finite
    if not scale or not (misses or spacing * size > scale):
        return
    if not finite:
        remedy = (
            "f or a slope of it is not finite on the way: keep roots, logarithms and quotients "
            "from where theirs are not"
        )
    elif gap <= spacing * size:
        remedy = "they cancel to their rounding: compute in more bits, or choose another baseline"
    caller.warn(
        f"the attributions sum to {total:.4g} (their absolute values to {size:.4g}), but f changes "
        f"by {change:.4g} from the baseline to x: {remedy}. `warn_above` is {warn_above:g} of the "
        "change; None does not look",
        IncompleteWarning,
    )
