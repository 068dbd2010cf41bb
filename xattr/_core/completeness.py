"""A warning where the attributions of a path method miss the change of f that they should sum to.

It is given outside a trace only, where values are concrete. With Δ = f(x) − f(x') and
s = |f(x)| + |f(x')|, the method warns if

    |Σ A − Δ| > w |Δ| + min(r, w s)    or    ε Σ|A| > s.

Here w is the option `warn_above`, and ε the relative spacing of the coarsest numbers in use.
r = min(1024 ε, 1/16) (Σ|A| + s) is what rounding may cost. The first condition excuses by rounding
a gap where Δ is nearly 0, but not a gap that is large beside f itself. The second finds
attributions that cancel to less than their rounding, even where their sum happens to be right. If f
is 0 at both ends, there is nothing to measure by, and no warning. A gap that is not finite warns.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xattr._core import caller, compilation, trees
from xattr.types import Args, ArrayTree, Function, IncompleteWarning

WARN_ABOVE = 0.05
"""The gap above which a method warns, relative to the change of f.

Sundararajan, Taly & Yan 2017, §5, take as many steps as bring the sum within 5 %.
"""

ULPS = 1024
"""Units in the last place of the largest term that rounding may cost the sum of attributions."""

MORE_NODES = (
    "give a `quadrature` with more nodes, as xattr.quadrature.gauss_legendre(256), or use "
    "xattr.integrate_to_tolerance"
)

MORE_STEPS = "take more `steps`"


def rounding_share(spacing: float) -> float:
    """Return the share of the largest term that rounding may cost, for numbers of this spacing."""
    return min(ULPS * spacing, 1 / 16)


def check_option(warn_above: float | None) -> None:
    """Raise if the limit is not a number of at least 0 or None."""
    if warn_above is None:
        return
    if not isinstance(warn_above, (int, float)) or not warn_above >= 0:
        raise ValueError(
            "`warn_above` must be the gap to warn of, relative to the change of f, such as 0.05, "
            f"or None, not {warn_above!r}"
        )


def checked(
    attributions: ArrayTree,
    f: Function,
    ends: Callable[[], tuple[ArrayTree, ArrayTree]],
    args: Args,
    warn_above: float | None,
    remedy: str = MORE_NODES,
) -> ArrayTree:
    """Return the attributions; outside a trace, warn if their sum misses the change of f."""
    if warn_above is not None and not trees.is_traced(attributions):
        points = ends()
        values = [compilation.value_of(f, point, args) for point in points]
        warn(completeness_kernel(attributions, points, *values), warn_above, remedy)
    return attributions


def numbers(attributions: ArrayTree, inputs: ArrayTree, end: Any, start: Any) -> tuple[Any, ...]:
    """Return Σ A, Σ|A|, f(x), f(x') and the ε of the coarsest dtype among all arrays."""
    size = trees.total(jax.tree.map(jnp.abs, attributions))
    spacing = max(trees.eps(leaf) for leaf in jax.tree.leaves((attributions, inputs, end)))
    return trees.total(attributions), size, end, start, spacing


@jax.jit
def completeness_kernel(*operands: Any) -> tuple[Any, ...]:
    """Return `numbers`, by one program; tests count its compilations by this name."""
    return numbers(*operands)


def warn(numbers: tuple[Any, ...], warn_above: float | None, remedy: str) -> None:
    """Warn if the numbers are concrete and meet the condition that this module describes."""
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
            "f or its gradient is not finite on the path: keep roots, logarithms and quotients "
            "away from where they or their slopes are infinite"
        )
    elif gap <= spacing * size:
        remedy = "they cancel, and rounding is left: compute in more bits, or use another baseline"
    caller.warn(
        f"the attributions sum to {total:.4g} (their absolute values to {size:.4g}), but f changes "
        f"by {change:.4g} from the baseline to x: {remedy}. The limit, `warn_above`, is "
        f"{warn_above:g} of the change; with None there is no check",
        IncompleteWarning,
    )
