"""Axioms that compare attributions of two functions, layers or curves: see `xattr.axioms`."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from xattr import paths
from xattr._core import compilation, trees
from xattr._layers import hidden
from xattr.axioms import gaps
from xattr.axioms.gaps import Gap
from xattr.types import Args, ArrayTree, Function, Method, Path


def implementation_invariance(
    method: Method,
    f: Function,
    g: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure how far apart the attributions of one function are that is written in two ways.

    gap = Σᵢ |Aᵢ(f) − Aᵢ(g)|, for f(x, *args) = g(x, *args) everywhere.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        g: the same function written in another way, `g(x, *args) -> scalar`.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions.

    Raises:
        ValueError: if the baseline is not like x.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §2.2.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> from jax.nn import relu
        >>> f = lambda x: relu(relu(x[0]) - 1 - relu(x[1]))  # figure 7 of the paper
        >>> g = lambda x: relu(relu(x[0] - 1) - relu(x[1]))
        >>> x = jnp.array([3.0, 1.0])
        >>> float(implementation_invariance(xattr.deep_lift, f, g, x))  # (1.5, −.5) against (2, −1)
        1.0
        >>> float(implementation_invariance(xattr.gradient, f, g, x))
        0.0
    """
    x, _, ends = gaps.ends_of(method, x, baseline)
    one, other = (gaps.attributed(method, refined, h, x, *ends, args=args) for h in (f, g))
    return gaps.gap(gaps.distance(one.maps, other.maps), one.error, other.error)


def linearity(
    method: Method,
    f: Function,
    g: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    a: Any = 1.0,
    b: Any = 1.0,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure how far the attributions of a sum are from the sum of the attributions.

    gap = Σᵢ |Aᵢ(a f + b g) − a Aᵢ(f) − b Aᵢ(g)|.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        g: the function that is added, `g(x, *args) -> scalar`.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        a: the factor of f, a scalar.
        b: the factor of g, a scalar.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions.

    Raises:
        ValueError: if the baseline is not like x.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", §3.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, g = lambda x: x[0] * x[1], lambda x: jnp.sum(x**2)
        >>> x = jnp.array([1.0, 2.0])
        >>> float(linearity(xattr.gradient, f, g, x, a=2.0, b=-1.0))
        0.0
        >>> squared = lambda f, x, *, args: xattr.gradient(f, x, args=args) ** 2
        >>> float(linearity(squared, f, g, x))  # 2 · (2 · 2) + 2 · (1 · 4)
        16.0
    """
    x, _, ends = gaps.ends_of(method, x, baseline)
    mixed = _Mixture(f, g)
    whole = gaps.attributed(method, refined, mixed, x, *ends, args=(a, b, *args))
    one, other = (gaps.attributed(method, refined, h, x, *ends, args=args) for h in (f, g))
    expected = jax.tree.map(lambda p, q: _mixed(a, p, b, q), one.maps, other.maps)
    sizes = [jnp.abs(jnp.asarray(factor).astype(one.error.dtype)) for factor in (a, b)]
    errors = [whole.error, sizes[0] * one.error, sizes[1] * other.error.astype(one.error.dtype)]
    return gaps.gap(gaps.distance(whole.maps, expected), *errors)


def input_invariance(
    method: Method,
    f: Function,
    shifted: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    shift: ArrayTree,
    shifted_baseline: ArrayTree | None = None,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure how a constant shift of the input moves attributions, where the network undoes it.

    gap = Σᵢ |Aᵢ(f, x) − Aᵢ(f₂, x + m)|, with f₂(x) = shifted(x, m, *args) and f₂(x + m) = f(x). The
    bias of the first layer takes up the shift: b₂ = b₁ − Wᵀ m.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        shifted: the network that undoes the shift, `shifted(x, m, *args) -> scalar`.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        shift: the shift m, a pytree like x.
        shifted_baseline: the baseline for f₂, a pytree like x. If None it is that of f, so the
            baseline is fixed; with baseline + m it moves along.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions.

    Raises:
        ValueError: if the baseline, the shift or the shifted baseline is not like x.

    Source:
        Kindermans, Hooker et al. 2017, "The (Un)reliability of saliency methods", §2.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f = lambda x, w: w @ x
        >>> shifted = lambda x, m, w: w @ x - w @ m
        >>> x, m, args = jnp.array([1.0, 2.0]), jnp.array([-1.0, -1.0]), (jnp.array([3.0, 1.0]),)
        >>> float(input_invariance(xattr.gradient, f, shifted, x, shift=m, args=args))
        0.0
        >>> float(input_invariance(xattr.gradient_x_input, f, shifted, x, shift=m, args=args))
        4.0
    """
    x, baseline, ends = gaps.ends_of(method, x, baseline)
    shift = trees.like(shift, x, "shift")
    moved = trees.add(x, shift)
    moved_ends = ends
    if ends and shifted_baseline is not None:
        moved_ends = (trees.like(shifted_baseline, x, "shifted_baseline"),)
    before = gaps.attributed(method, refined, f, x, *ends, args=args)
    after = gaps.attributed(method, refined, shifted, moved, *moved_ends, args=(shift, *args))
    return gaps.gap(gaps.distance(before.maps, after.maps), before.error, after.error)


def affine_scale_invariance(
    method: Method,
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    scale: ArrayTree,
    shift: ArrayTree,
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure how attributions depend on the units that the features are measured in.

    gap = Σᵢ |Aᵢ(f, x, x') − Aᵢ(f₂, s x + m, s x' + m)|, with f₂(z) = f((z − m) / s).

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x, or None for zeros.
        scale: the factors s, a pytree like x without zeros.
        shift: the shifts m, a pytree like x.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions.

    Raises:
        ValueError: if the baseline, the scale or the shift is not like x, or the scale has a 0.

    Source:
        Friedman 2004, "Paths and consistency in additive cost sharing"; Lundstrom & Razaviyayn
        2025, "Four axiomatic characterizations of the integrated gradients attribution method",
        where with others it characterizes integrated gradients.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, x = lambda x: x[0] * x[1], jnp.array([1.0, 2.0])
        >>> units = {"scale": jnp.array([2.0, 4.0]), "shift": jnp.array([0.0, 1.0])}
        >>> bool(affine_scale_invariance(xattr.integrated_gradients, f, x, **units).holds)
        True
        >>> float(affine_scale_invariance(xattr.gradient, f, x, **units))  # (2, 1) against (1, ¼)
        1.75
    """
    x, _, ends = gaps.ends_of(method, x, baseline)
    scale, shift = trees.like(scale, x, "scale"), trees.like(shift, x, "shift")
    known = [trees.on_host(leaf) for leaf in jax.tree.leaves(scale)]
    if any(leaf is not None and not leaf.all() for leaf in known):
        raise ValueError("`scale` must not be 0: divide by the size of each feature's unit")
    units = _InOtherUnits(f)
    moved = [jax.tree.map(lambda v, s, m: v * s + m, end, scale, shift) for end in (x, *ends)]
    before = gaps.attributed(method, refined, f, x, *ends, args=args)
    after = gaps.attributed(method, refined, units, *moved, args=(scale, shift, *args))
    return gaps.gap(gaps.distance(before.maps, after.maps), before.error, after.error)


def time_reparametrization(
    method: Callable[..., ArrayTree],
    f: Function,
    path: Path,
    *,
    warp: Callable[[Any], Any],
    args: Args = (),
    refined: Sequence[Callable[..., ArrayTree]] | None = None,
) -> Gap:
    """Measure how attributions depend on the pace at which a path is run through.

    gap = Σᵢ |Aᵢ(γ) − Aᵢ(γ ∘ τ)|, with τ the warp: a path integral depends on the curve alone.

    Args:
        method: a method along a path, `method(f, path, *, args)`, such as `xattr.path_integral`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        path: the path γ, a function `alpha -> pytree like x`.
        warp: the function τ, which takes [0, 1] onto itself, with τ(0) = 0 and τ(1) = 1.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of the attributions.

    Raises:
        ValueError: if the warp moves an end of [0, 1], as in `xattr.paths.reparametrize`.

    Source:
        Sundararajan et al. 2016, "Gradients of Counterfactuals", eq. 6 (a line integral); Friedman
        2004, "Paths and consistency in additive cost sharing".

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, path = lambda x: x[0] * x[1], lambda t: jnp.stack([t, t**2])
        >>> bool(time_reparametrization(xattr.path_integral, f, path, warp=lambda t: t**3).holds)
        True
    """
    warped = paths.reparametrize(path, warp)
    one, other = (gaps.attributed(method, refined, f, curve, args=args) for curve in (path, warped))
    return gaps.gap(gaps.distance(one.maps, other.maps), one.error, other.error)


def conservation(
    method: Method,
    f: Function,
    x: ArrayTree,
    *,
    layers: Sequence[str] = (),
    args: Args = (),
    refined: Sequence[Method] | None = None,
) -> Gap:
    """Measure the relevance that is lost or gained on the way from the score to the input.

    gap = maxₗ |Σⱼ Rⱼ⁽ˡ⁾ − f(x)|, over the input and the layers l: R⁽ˡ⁾ are the attributions of the
    rest of f to the values of layer l. A baseline is zero.

    Args:
        method: a method, `method(f, x, *, args)` or `method(f, x, baseline, *, args)`.
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        layers: names of layers, as for `xattr.at_layer`, that all of x goes through.
        args: further arguments of f, which are not attributed.
        refined: more precise versions of the method, whose change estimates its error; () for an
            exact one. If None, the `quadrature` of the method is repeated on pieces.

    Returns:
        A `Gap`, whose value and tolerance are scalars in units of f.

    Raises:
        ValueError: if f has no layer of such a name, or x reaches the score past it.

    Source:
        Bach et al. 2015, "On pixel-wise explanations for non-linear classifier decisions by
        layer-wise relevance propagation", eq. 2. LRP with a bias conserves only what the bias does
        not take, and relevance of units whose denominator is 0 is absorbed.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> def f(x):
        ...     with jax.named_scope("hidden"):
        ...         h = jax.nn.relu(x)
        ...     return h[0] - 2 * h[1]
        >>> x = jnp.array([3.0, 1.0])
        >>> float(conservation(xattr.lrp, f, x, layers=["hidden"]))
        0.0
        >>> float(conservation(xattr.gradient, f, x))  # −1 against 1
        2.0
    """
    x = trees.floating(x, "x")
    found = gaps.attributed(method, refined, f, x, *gaps.ends_of(method, x, None)[2], args=args)
    score = found.values[0]
    sums, errors = [trees.total(found.maps)], [found.error]
    for layer in layers:
        to_layer, from_layer = hidden.at_layer(f, layer)
        h = compilation.compiled(hidden.value_kernel, to_layer)(x, args)
        inside = gaps.attributed(
            method, refined, from_layer, h, *gaps.ends_of(method, h, None)[2], args=(x, *args)
        )
        sums.append(trees.total(inside.maps))
        errors.append(inside.error)
    wide = trees.widest([score, *sums])
    misses = jnp.stack([total.astype(wide) - score.astype(wide) for total in sums])
    return gaps.gap(jnp.max(jnp.abs(misses)), *errors)


def _mixed(a: Any, left: jax.Array, b: Any, right: jax.Array) -> jax.Array:
    return jnp.asarray(a).astype(left.dtype) * left + jnp.asarray(b).astype(right.dtype) * right


@dataclasses.dataclass(frozen=True, eq=False)
class _Mixture(compilation.Bound):
    """a f + b g."""

    f: Function
    g: Function

    def __call__(self, x: ArrayTree, a: Any, b: Any, *args: Any) -> jax.Array:
        return _mixed(a, jnp.asarray(self.f(x, *args)), b, jnp.asarray(self.g(x, *args)))


@dataclasses.dataclass(frozen=True, eq=False)
class _InOtherUnits(compilation.Bound):
    """f of features that are given in other units."""

    f: Function

    def __call__(self, x: ArrayTree, scale: ArrayTree, shift: ArrayTree, *args: Any) -> Any:
        return self.f(jax.tree.map(lambda z, s, m: (z - m) / s, x, scale, shift), *args)
