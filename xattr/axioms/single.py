"""Axioms of one function, which compare a method with itself or with f."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from xattr._core import compilation, trees
from xattr.axioms import gaps
from xattr.axioms.gaps import Gap
from xattr.types import Args, ArrayTree, Function, Method

__all__ = [
    "completeness",
    "completeness_gap",
    "dummy",
    "positivity",
    "proportionality",
    "sensitivity_a",
    "sensitivity_b",
    "symmetry",
    "zero_at_baseline",
]


def completeness_gap(
    f: Function,
    attributions: ArrayTree,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    args: Args = (),
) -> jax.Array:
    """Return by how much attributions miss the change of f that they should sum to.

    gap = Σᵢ Aᵢ − (f(x) − f(baseline)); 0 for exact path attributions.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        attributions: the attributions A, a pytree like x.
        x: the input, a pytree of floating arrays.
        baseline: the baseline, a pytree like x; zeros if None.
        args: further arguments of f; a new value does not recompile.

    Returns:
        A scalar in units of f, summed in float32 at least.

    Raises:
        ValueError: if the attributions or the baseline are not like x.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", proposition 1.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, x = lambda x: x[0] * x[1], jnp.array([1.0, 2.0])
        >>> xattr.completeness_gap(f, xattr.gradient(f, x), x)
        Array(1., dtype=float32)
    """
    compilation.check_args(args)
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    trees.like(attributions, x, "attributions")
    total = trees.total(attributions)
    end, start = (compilation.value_of(f, point, args) for point in (x, baseline))
    dtype = trees.widest([total, end])
    change = end.astype(dtype) - start.astype(dtype)
    return jnp.subtract(total.astype(dtype), change)


def completeness(
    method: Method,
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure by how much a method's attributions miss the change of f.

    gap = |Σᵢ Aᵢ − (f(x) − f(x'))|, with x' the baseline. The axiom is also called additivity, or
    efficiency of cost shares.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of f.

    Raises:
        ValueError: if the baseline or the attributions are not like x.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", proposition 1, which asks too
        little of f: differentiable almost everywhere is not enough on a path along a kink. Lerma &
        Lucas 2021, "Symmetry-preserving paths in integrated gradients", have a proof.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, x = lambda x: x[0] * x[1], jnp.array([1.0, 2.0])
        >>> float(completeness(xattr.gradient_x_input, f, x))  # 2 + 2 against 2
        2.0
        >>> bool(completeness(xattr.integrated_gradients, f, x).holds)
        True
    """
    x, baseline, ends = gaps.ends_of(method, x, baseline)
    found = gaps.attributed(method, refined, f, x, *ends, args=args)
    end, start, rounding = gaps.change(found, f, baseline, args)
    total = trees.total(gaps.like_x(found.maps, x))
    wide = trees.widest([total, end, start])
    change = end.astype(wide) - start.astype(wide)
    return gaps.gap(total.astype(wide) - change, found.error, rounding)


def sensitivity_a(
    method: Method,
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    feature: Any,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure the change of f that one feature makes alone and gets nothing for.

    gap = |f(x) − f(x″)| if Aᵢ(x, x″) = 0, else 0. x″ equals x in all features but i, which it has
    from the baseline. If input and baseline differ in one feature and f differs, that feature must
    get some attribution.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        feature: the feature i, counted through the leaves of x; static or traced.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of f. An Aᵢ within its rounding of 0
        counts as 0.

    Raises:
        ValueError: if there is no such feature, or the baseline or the attributions are not like x.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §2.1.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: 1 - jax.nn.relu(1 - x)  # from 0 to 1, and flat from there on
        >>> float(sensitivity_a(xattr.gradient, f, jnp.array(2.0), feature=0))
        1.0
        >>> float(sensitivity_a(xattr.integrated_gradients, f, jnp.array(2.0), feature=0))
        0.0
    """
    x, baseline, _ = gaps.ends_of(method, x, baseline)
    at = gaps.is_feature(x, feature, "feature")
    baseline = gaps.put(at, baseline, x)
    ends = (baseline,) if gaps.takes_baseline(method) else ()
    found = gaps.attributed(method, refined, f, x, *ends, args=args)
    own = gaps.pick(at, gaps.like_x(found.maps, x))
    end, start, rounding = gaps.change(found, f, baseline, args)
    is_nothing = jnp.abs(own) <= gaps.rounding(found.maps)
    # A NaN is no attribution: it is kept, and does not count as one that is there.
    value = jnp.where(is_nothing | jnp.isnan(own), trees.widen(end) - trees.widen(start), 0)
    value = jnp.where(jnp.isnan(own), jnp.nan, value)
    return gaps.gap(value, found.error, rounding)


def sensitivity_b(
    method: Method,
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    feature: Any,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure what a feature gets that f does not depend on: the axiom of the dummy.

    gap = |Aᵢ|, for an f that is the same whatever xᵢ.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        feature: the feature i, counted through the leaves of x; static or traced.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions.

    Raises:
        ValueError: if there is no such feature, or the baseline or the attributions are not like x.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §3; Friedman 2004,
        "Paths and consistency in additive cost sharing" (dummy).

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, x = lambda x: x[0] ** 2, jnp.array([1.0, 2.0])
        >>> float(sensitivity_b(xattr.integrated_gradients, f, x, feature=1))
        0.0
        >>> float(sensitivity_b(lambda f, x, *, args: x, f, x, feature=1))  # shows the input
        2.0
    """
    x, baseline, ends = gaps.ends_of(method, x, baseline)
    at = gaps.is_feature(x, feature, "feature")
    found = gaps.attributed(method, refined, f, x, *ends, args=args)
    return gaps.gap(gaps.pick(at, gaps.like_x(found.maps, x)), found.error)


def symmetry(
    method: Method,
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    i: Any,
    j: Any,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure how differently two features are treated that play the same part.

    gap = |Aᵢ − Aⱼ|, for an f that is the same when xᵢ and xⱼ change places, at xⱼ := xᵢ and x'ⱼ :=
    x'ᵢ.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        i: a feature, counted through the leaves of x; static or traced.
        j: the other feature; its values in x and in the baseline are set to those of i.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions.

    Raises:
        ValueError: if there is no such feature, or the baseline or the attributions are not like x.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §4.1. Its theorem
        1, that only the straight line preserves symmetry, is proved for one pair of ends. A path
        that depends on them preserves it too, such as γᵢ = x'ᵢ + Δᵢ α^(1 + |Δᵢ|), Δ = x − x'.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, x = lambda x: x[0] * x[1], jnp.ones(2)
        >>> bool(symmetry(xattr.integrated_gradients, f, x, i=0, j=1).holds)
        True
        >>> first = lambda f, x, b, *, args: xattr.path_integral(
        ...     f, xattr.paths.monotone(baseline=b, x=x, exponents=jnp.array([1.0, 2.0])), args=args
        ... )
        >>> round(float(symmetry(first, f, x, i=0, j=1)), 5)  # (1/3, 2/3)
        0.33333
    """
    x, baseline, ends = gaps.ends_of(method, x, baseline)
    first, second = (gaps.is_feature(x, k, name) for k, name in ((i, "i"), (j, "j")))
    x = gaps.put_one(second, gaps.pick(first, x), x)
    ends = tuple(gaps.put_one(second, gaps.pick(first, end), end) for end in ends)
    found = gaps.attributed(method, refined, f, x, *ends, args=args)
    maps = gaps.like_x(found.maps, x)
    return gaps.gap(gaps.pick(first, maps) - gaps.pick(second, maps), found.error)


def zero_at_baseline(
    method: Method,
    f: Function,
    x: ArrayTree,
    *,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure what is attributed where input and baseline are the same.

    gap = Σᵢ |Aᵢ(x, x)|.

    Args:
        method: the attribution method, `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input and the baseline, a pytree of floating arrays.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions.

    Raises:
        ValueError: if the method takes no baseline.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 5, whose integral is over
        nothing; for a method with completeness and dummy it follows feature by feature.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, x = lambda x: x[0] * x[1], jnp.array([1.0, 2.0])
        >>> float(zero_at_baseline(xattr.integrated_gradients, f, x))
        0.0
    """
    if not gaps.takes_baseline(method):
        raise ValueError("`method` takes no baseline: pass one of method(f, x, baseline, *, args)")
    x = trees.floating(x, "x")
    found = gaps.attributed(method, refined, f, x, x, args=args)
    return gaps.gap(gaps.total(found.maps), found.error)


def positivity(
    method: Method,
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure what is held against features of a function that only rises.

    gap = Σᵢ max(0, −Aᵢ), for an f that does not fall along any monotone path from x' to x.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions.

    Raises:
        ValueError: if the baseline or the attributions are not like x.

    Source:
        Lundstrom, Huang & Razaviyayn 2022, "A rigorous study of integrated gradients method and
        extensions to internal neuron attributions" (non-decreasing positivity: what the uniqueness
        of path methods needs besides the axioms of the 2017 paper).

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, x = lambda x: x[0] * x[1], jnp.array([1.0, 2.0])
        >>> float(positivity(xattr.integrated_gradients, f, x))
        0.0
        >>> float(positivity(lambda f, x, *, args: -x, f, x))
        3.0
    """
    x, _, ends = gaps.ends_of(method, x, baseline)
    found = gaps.attributed(method, refined, f, x, *ends, args=args)
    below = jax.tree.map(lambda a: jnp.maximum(-a, 0), gaps.like_x(found.maps, x))
    return gaps.gap(trees.total(below), found.error)


def proportionality(
    method: Method,
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure how far shares in a function of the sum of x are from proportional.

    gap = Σᵢ |Aᵢ Σⱼ Δⱼ − Δᵢ Σⱼ Aⱼ| / Σⱼ |Δⱼ|, Δ = x − x', for f(x) = h(Σᵢ xᵢ). Features that can be
    added get equal prices.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions. The value is 0
        where x is the baseline.

    Raises:
        ValueError: if the baseline or the attributions are not like x.

    Source:
        Friedman & Moulin 1999, "Three methods to share joint costs or surplus" (homogeneous goods);
        Lundstrom & Razaviyayn 2025, "Four axiomatic characterizations of the integrated gradients
        attribution method".

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, x = lambda x: jnp.sum(x) ** 2, jnp.array([1.0, 3.0])
        >>> bool(proportionality(xattr.integrated_gradients, f, x).holds)  # 4 and 12 of 16
        True
        >>> float(proportionality(xattr.gradient, f, x))  # 8 and 8, not 4 and 12: 4 + 4
        8.0
    """
    x, baseline, ends = gaps.ends_of(method, x, baseline)
    found = gaps.attributed(method, refined, f, x, *ends, args=args)
    maps = gaps.like_x(found.maps, x)
    moves = trees.widen(jax.tree.map(jnp.subtract, x, baseline))
    size = gaps.total(moves)
    shares = jax.tree.map(
        lambda move: move / jnp.where(size == 0, 1, size).astype(move.dtype), moves
    )
    whole, moved = trees.total(maps), trees.total(shares)
    misses = jax.tree.map(
        lambda a, share: a * moved.astype(a.dtype) - share.astype(a.dtype) * whole.astype(a.dtype),
        maps,
        shares,
    )
    return gaps.gap(gaps.total(misses), found.error, found.error)


dummy = sensitivity_b
