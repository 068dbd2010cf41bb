"""Sums of shifted products, Σₖ wₖ ⊙ slice(x, at sₖ): the gradient gathers and does not scatter.

A depthwise convolution is written so where XLA's grouped convolution is slow. JAX transposes every
slice to a padding and adds up the padded arrays. Here the cotangent is padded once and sliced:
Σₖ wₖ ⊙ slice(pad(g), at −sₖ) is the same sum in one pass. `replace` has the times.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._cpu import linear
from xattr._program import jaxpr
from xattr._program.graph import Graph, Replacement
from xattr._program.jaxpr import Equation, Value, p

_FEWEST = 4
"""The fewest products in a sum for which it pays."""


class _Product(NamedTuple):
    """One product: of a slice of the source and a weight, broadcast along `axes`."""

    source: Value
    start: tuple[int, ...]
    strides: tuple[int, ...]
    weight: Any
    axes: tuple[int, ...]
    shape: tuple[int, ...]
    equations: tuple[Equation, ...]


_Sum: TypeAlias = tuple[list[_Product], list[Equation]]
"""The products that a value is the sum of, and the additions."""


class _Geometry(NamedTuple):
    """Where the slices lie. It is static and hashable."""

    starts: tuple[tuple[int, ...], ...]
    strides: tuple[int, ...]
    axes: tuple[tuple[int, ...], ...]
    shape: tuple[int, ...]
    source: tuple[int, ...]


def found(graph: Graph) -> dict[Equation, Replacement]:
    """Return the sums of shifted products of one value, largest first."""
    sums: dict[Value, _Sum] = {}
    result: dict[Equation, Replacement] = {}
    for equation in graph.program.equations:
        terms = _terms(graph, equation, sums)
        if terms:
            sums[equation.output] = terms
    for value, (products, additions) in sums.items():
        if len(products) >= _FEWEST and not _goes_on(graph, value, sums):
            result[graph.producer[value]] = _replacement(graph, products, additions)
    return result


def _terms(graph: Graph, equation: Equation, sums: dict[Value, _Sum]) -> _Sum | None:
    """Return the products that an equation adds up, or the one product that it is."""
    if equation.primitive is p.mul_p:
        product = _product(graph, equation)
        return ([product], []) if product else None
    if equation.primitive is not p.add_p:
        return None
    parts = [_part(graph, v, sums) for v in equation.inputs]
    if parts[0] is None or parts[1] is None:
        return None
    products = [*parts[0][0], *parts[1][0]]
    if len({(product.source, product.strides) for product in products}) > 1:
        return None
    return products, [*parts[0][1], *parts[1][1], equation]


def _part(graph: Graph, atom: Any, sums: dict[Value, _Sum]) -> _Sum | None:
    """Return the products that an operand of an addition stands for: no product for a literal 0."""
    if isinstance(atom, jaxpr.Literal):
        return None if np.any(atom.value) else ([], [])
    return sums.get(atom) if _used_once(graph, atom) else None


def _product(graph: Graph, equation: Equation) -> _Product | None:
    """Return the product of a slice of x and a weight that is the same all over the slice."""
    if len(equation.dependents) != 1 or equation.inputs[0] is equation.inputs[1]:
        return None
    position = jaxpr.weight_position(equation)
    data, weight = equation.inputs[1 - position], equation.inputs[position]
    maker = graph.producer.get(data)
    if maker is None or maker.primitive is not p.slice_p or not data.floating or 0 in data.shape:
        return None
    source, start = maker.inputs[0], tuple(maker.params["start_indices"])
    strides = tuple(maker.params["strides"] or (1,) * len(start))
    moved = [i for i, n in enumerate(source.shape) if data.shape[i] != n or start[i]]
    broadcast = _broadcast(graph, weight, moved)
    if broadcast is None:
        return None
    own = (maker,) if _used_once(graph, data) else ()
    return _Product(source, start, strides, *broadcast, data.shape, (*own, equation))


def _broadcast(
    graph: Graph, weight: Any, moved: Sequence[int]
) -> tuple[Any, tuple[int, ...]] | None:
    """Return what a weight is broadcast from and to which axes, unless it varies along `moved`."""
    if isinstance(weight, jaxpr.Literal) or not weight.shape:
        return weight, ()
    maker = graph.producer.get(weight)
    if maker is not None and maker.primitive is p.broadcast_in_dim_p and len(maker.inputs) == 1:
        small, axes = maker.inputs[0], tuple(maker.params["broadcast_dimensions"])
        shape = () if isinstance(small, jaxpr.Literal) else small.shape
    else:
        small, axes, shape = weight, tuple(range(len(weight.shape))), weight.shape
    sizes = dict(zip(axes, shape, strict=True))
    return None if any(sizes.get(axis, 1) != 1 for axis in moved) else (small, axes)


def _used_once(graph: Graph, value: Any) -> bool:
    if not isinstance(value, Value) or value in graph.results:
        return False
    users = graph.uses.get(value, [])
    return len(users) == 1 and users[0].inputs.count(value) == 1


def _goes_on(graph: Graph, value: Value, sums: dict[Value, Any]) -> bool:
    """Tell whether a sum is part of a larger one."""
    return _used_once(graph, value) and graph.uses[value][0].output in sums


def _replacement(graph: Graph, products: list[_Product], additions: list[Equation]) -> Replacement:
    first = products[0]
    geometry = _Geometry(
        tuple(product.start for product in products),
        first.strides,
        tuple(product.axes for product in products),
        first.shape,
        first.source.shape,
    )
    inside = [e for product in products for e in product.equations] + additions[:-1]
    return Replacement(
        [first.source, *(product.weight for product in products)],
        functools.partial(_run, geometry),
        inside,
    )


def _run(geometry: _Geometry, inputs: Sequence[Any]) -> list[jax.Array]:
    source, *weights = inputs
    return [stencil(source, [jnp.asarray(w, source.dtype) for w in weights], geometry)]


def _forward(geometry: _Geometry, source: jax.Array, weights: list[jax.Array]) -> jax.Array:
    def taken(start: tuple[int, ...], weight: jax.Array, axes: tuple[int, ...]) -> jax.Array:
        stop = [
            low + (count - 1) * stride + 1
            for low, count, stride in zip(start, geometry.shape, geometry.strides, strict=True)
        ]
        part = lax.slice(source, start, stop, geometry.strides)
        return part * lax.broadcast_in_dim(weight, geometry.shape, axes)

    parts = zip(geometry.starts, weights, geometry.axes, strict=True)
    return functools.reduce(jnp.add, (taken(*part) for part in parts))


def _gathered(geometry: _Geometry, weights: list[jax.Array], cotangent: jax.Array) -> jax.Array:
    """Return Σₖ wₖ ⊙ put(g, at sₖ), the gradient of the sum with respect to the source.

    With strides each element of the source belongs to a phase: the remainder of its indices by the
    strides. Only products that start at that remainder reach it, each by a slice of the cotangent.
    """
    strides, source = geometry.strides, geometry.source
    sizes = tuple(-(-size // stride) for size, stride in zip(source, strides, strict=True))
    phases = [
        [
            ((np.array(phase) - start) // strides, weight, axes)
            for start, weight, axes in zip(geometry.starts, weights, geometry.axes, strict=True)
            if not np.any((np.array(phase) - start) % strides)
        ]
        for phase in np.ndindex(*strides)
    ]
    offsets = np.array([offset for parts in phases for offset, _, _ in parts])
    before = np.maximum(-offsets.min(0), 0)
    after = np.maximum(offsets.max(0) + sizes - geometry.shape, 0)
    padding = [(int(low), int(high), 0) for low, high in zip(before, after, strict=True)]
    padded = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), padding)

    def placed(offset: np.ndarray, weight: jax.Array, axes: tuple[int, ...]) -> jax.Array:
        part = lax.slice(padded, before + offset, before + offset + sizes)
        return part * lax.broadcast_in_dim(weight, sizes, axes)

    nothing = jnp.zeros(sizes, cotangent.dtype)
    sums = [functools.reduce(jnp.add, (placed(*p) for p in parts), nothing) for parts in phases]
    if len(sums) == 1:
        return sums[0]
    rank = len(strides)
    apart = jnp.stack(sums).reshape(*strides, *sizes)
    order = [axis for i in range(rank) for axis in (rank + i, i)]
    whole = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    return lax.slice(apart.transpose(order).reshape(whole), [0] * rank, source)


stencil = linear.product(_forward, _gathered)
"""`stencil(source, weights, geometry)`: Σₖ wₖ ⊙ slice(source, at sₖ)."""
