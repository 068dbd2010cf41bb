"""By how much an axiom is missed, and by how much the numbers alone may miss it."""

import functools
import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xattr import quadrature as quadratures
from xattr._core import compilation, completeness, trees
from xattr._integrate import kernel
from xattr.types import Args, ArrayTree, Function, Method, Quadrature

SAFETY = 8
"""Times the largest change under refinement that the error of a quadrature is taken for.

This is an estimate, not a bound. Three refinements can change a sum by less than an eighth of its
error: at a kink between two nodes the error can have any size up to a limit. They do so for less
than 1 % of single kinks with midpoint and Riemann sums, and for .2 % with Gauss–Legendre.
"""

REFINEMENTS = ((0.382,), (0.2828, 0.6928), (0.4488,))
"""Where pieces end on which a quadrature is repeated."""


class Gap(NamedTuple):
    """By how much an axiom is missed: 0 where it holds.

    `value` is the miss. `tolerance` is the part of it that quadrature and rounding can account for.
    Both are scalars in units of the attributions. `holds` compares them; `float(gap)` is the value.
    """

    value: jax.Array
    tolerance: jax.Array

    @property
    def holds(self) -> jax.Array:
        """Tell whether the numbers can account for the miss; False for NaN and infinity."""
        return (self.value <= self.tolerance) & jnp.isfinite(self.tolerance)

    def __float__(self) -> float:
        return float(self.value)

    def __bool__(self) -> bool:
        raise TypeError("a gap is not a truth value: write gap.holds")


class Attributed(NamedTuple):
    """Attributions, the sum of the errors of quadrature and rounding in them, and f at their ends.

    `error` includes the rounding of `values`, f at x and at the operands that the method takes.
    """

    maps: ArrayTree
    error: jax.Array
    values: list[jax.Array]


def attributed(
    method: Method,
    refined: Sequence[Method] | None,
    f: Function,
    x: ArrayTree,
    *operands: ArrayTree,
    args: Args,
) -> Attributed:
    """Return the method's attributions with an estimate of their error."""
    result = _checked(method(f, x, *operands, args=args))
    # Where differences of f cancel, attributions are smaller than the rounding of f.
    # The baseline may be x itself: f is evaluated, and its rounding counted, once for each point.
    points = (x(0.0), x(1.0)) if callable(x) else (x, *(p for p in operands if p is not x))
    values = [compilation.value_of(f, point, args) for point in points]
    maps, error = trees.widen(result), rounding((result, values), points)
    if callable(refined):
        raise TypeError("`refined` must be a sequence of methods: pass [refined]")
    finer = refinements(method) if refined is None else refined
    others = [trees.widen(other(f, x, *operands, args=args)) for other in finer]
    if others:
        changes = jnp.stack([distance(maps, other) for other in others])
        error += SAFETY * jnp.max(changes).astype(error.dtype)
    return Attributed(maps, error, values)


def change(
    found: Attributed, f: Function, baseline: ArrayTree, args: Args
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return f at x and at the baseline, and what rounding may cost those that `error` lacks.

    A method that takes no baseline was not called with one, so f was not evaluated there.
    """
    end, *others = found.values
    missing = [] if others else [compilation.value_of(f, baseline, args)]
    (start,) = others or missing
    return end, start, rounding(missing) if missing else jnp.zeros_like(found.error)


def _checked(attributions: ArrayTree) -> ArrayTree:
    """Return what a method returned; raise unless it is a pytree of floating arrays."""
    leaves = jax.tree.leaves(attributions)
    dtypes = [jnp.result_type(leaf) for leaf in leaves if hasattr(leaf, "dtype")]
    if not dtypes or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise TypeError(
            f"`method` must return a pytree of floating attributions, but returned {leaves!r:.80}"
        )
    return attributions


def rounding(tree: ArrayTree, inputs: ArrayTree = ()) -> jax.Array:
    """Return the rounding error of numbers of this size, in the coarsest dtype among all."""
    coarsest = max((trees.eps(leaf) for leaf in jax.tree.leaves(inputs)), default=0.0)

    def cost(leaf: Any) -> jax.Array:
        share = completeness.rounding_share(max(trees.eps(leaf), coarsest))
        return share * jnp.abs(trees.widen(leaf))

    return trees.total(jax.tree.map(cost, tree))


def gap(value: Any, *errors: Any) -> Gap:
    """Return a gap whose tolerance is the sum of the errors."""
    terms = [jnp.asarray(term) for term in (value, *errors)]
    wide = trees.widest(terms)
    miss, *tolerances = (term.astype(wide) for term in terms)
    return Gap(jnp.abs(miss), jnp.sum(jnp.stack(tolerances)))


def total(tree: ArrayTree) -> jax.Array:
    """Return Σ|tree| over all leaves."""
    return trees.total(jax.tree.map(jnp.abs, tree))


def distance(left: ArrayTree, right: ArrayTree) -> jax.Array:
    """Return Σ|left − right| over all leaves."""
    trees.same_structure(right, left, "attributions", "the attributions they are compared with")
    return total(jax.tree.map(jnp.subtract, left, right))


def like_x(maps: ArrayTree, x: ArrayTree) -> ArrayTree:
    """Return the attributions, or raise where they are not one number for each feature of x."""
    wide = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, trees.wide(leaf.dtype)), x)
    return trees.like(maps, wide, "attributions")


def is_feature(x: ArrayTree, index: Any, name: str) -> ArrayTree:
    """Return a tree like x that is true at one feature, counted through the leaves of x."""
    leaves, treedef = jax.tree.flatten(x)
    count = sum(leaf.size for leaf in leaves)
    known = trees.on_host(index)
    if known is not None and (known.ndim or known.dtype.kind not in "iu" or not 0 <= known < count):
        raise ValueError(
            f"`{name}` must be one feature of x, 0 … {count - 1} counted through its leaves, "
            f"not {index!r}"
        )
    place = jnp.asarray(index).astype(jnp.arange(0).dtype)
    starts = np.cumsum([0, *(leaf.size for leaf in leaves[:-1])])
    masks = [
        (jnp.arange(leaf.size) == place - int(start)).reshape(leaf.shape)
        for start, leaf in zip(starts, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, masks)


def pick(mask: ArrayTree, tree: ArrayTree) -> jax.Array:
    """Return the element of the tree at the one place where the mask is true; NaN if it is none."""
    found = jnp.any(jnp.stack([jnp.any(at) for at in jax.tree.leaves(mask)]))
    value = trees.total(jax.tree.map(lambda at, leaf: jnp.where(at, leaf, 0), mask, tree))
    return jnp.where(found, value, jnp.nan)


def put(mask: ArrayTree, values: ArrayTree, tree: ArrayTree) -> ArrayTree:
    """Return the tree with its elements where the mask is true taken from another."""
    return jax.tree.map(jnp.where, mask, values, tree)


def put_one(mask: ArrayTree, value: jax.Array, tree: ArrayTree) -> ArrayTree:
    """Return the tree with one number at the place where the mask is true."""
    return jax.tree.map(lambda at, leaf: jnp.where(at, value.astype(leaf.dtype), leaf), mask, tree)


def ends_of(
    method: Method, x: ArrayTree, baseline: ArrayTree | None
) -> tuple[ArrayTree, ArrayTree, tuple[ArrayTree, ...]]:
    """Return input, baseline, and what a method is to be called with after x."""
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    return x, baseline, (baseline,) if takes_baseline(method) else ()


# What kind of method a method is, told from its signature ---------------------------------------


def refinements(method: Method) -> tuple[Method, ...]:
    """Return versions of a method whose `quadrature` is repeated on unequal pieces.

    On equal pieces the nodes of midpoint and Riemann sums are nested, and all would miss a kink
    alike.
    """
    parameter = inspect.signature(method).parameters.get("quadrature")
    if parameter is None:
        return ()
    quadrature = parameter.default
    if quadrature is None or quadrature is parameter.empty:
        quadrature = quadratures.gauss_legendre(kernel.DEFAULT_NODES)
    return tuple(
        functools.partial(method, quadrature=_on_pieces(quadrature, ends)) for ends in REFINEMENTS
    )


def _on_pieces(quadrature: Quadrature, ends: tuple[float, ...]) -> Quadrature:
    """Return a quadrature repeated on the pieces of [0, 1] that end there."""
    nodes, weights = quadratures.checked(quadrature)
    starts = np.array([0.0, *ends])
    sizes = np.diff([*starts, 1.0])
    placed = starts[:, None] + sizes[:, None] * nodes
    return Quadrature(placed.ravel(), (sizes[:, None] * weights).ravel())


def takes_baseline(method: Method) -> bool:
    """Tell whether a method is one of `method(f, x, baseline, *, args)`.

    It is if its third argument is called `baseline` or must be given.
    """
    return any(p.name == "baseline" or p.default is p.empty for p in _positional(method)[2:3])


def takes_path(method: Method) -> bool:
    """Tell whether a method is one of `method(f, path, *, args)`: by its argument's name."""
    return any(parameter.name == "path" for parameter in _positional(method)[1:2])


def _positional(method: Method) -> list[inspect.Parameter]:
    compilation.check_callable(method, "method")
    parameters = inspect.signature(method).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if "args" not in parameters and not takes_any:
        raise TypeError(
            "`method` must take the further arguments of f as `args`: write "
            "def method(f, x, *, args=()) or def method(f, x, baseline, *, args=())"
        )
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter for parameter in parameters.values() if parameter.kind in kinds]
