"""Fitting patterns: one pass over the data sums input-output covariances of each layer."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._backward import rewrite
from xattr._backward.patterns.weights import Layer, Product, factors_of, layers_of, names_of
from xattr._core import compilation, trees
from xattr._program import jaxpr, running
from xattr._recognise import affine
from xattr._recognise.operation import Recognised
from xattr.types import Args, Array, ArrayTree, Function, Progress

Estimator: TypeAlias = Literal["linear", "relu", "two_point"]

CHUNK = 64
"""Examples taken together where the data are not in batches."""


def batches(data: Any, progress: Progress | None) -> Iterator[Any]:
    """Yield the batches of the data; of an array or a pytree of examples, 64 at a time."""
    if not _is_examples(data):
        if not isinstance(data, Iterable):
            raise TypeError(
                f"`data` must be an array of examples or an iterable of batches, but is "
                f"{trees.type_of(data)}"
            )
        yield from progress(data) if progress else data
        return
    count = min((np.shape(leaf) or (0,))[0] for leaf in jax.tree.leaves(data) or [0])
    _same_count(data)
    starts: Iterable[int] = range(0, count, CHUNK)
    for start in progress(starts) if progress else starts:
        yield jax.tree.map(lambda leaf, at=start: leaf[at : at + CHUNK], data)


def _is_examples(data: Any) -> bool:
    """Tell whether data are one pytree of examples; a list, tuple or iterator holds batches."""
    if isinstance(data, (jax.Array, np.ndarray)):
        return True
    batches = isinstance(data, (list, tuple)) and not hasattr(data, "_fields")
    if batches or isinstance(data, Iterator):
        return False
    found: Any = jax.tree.structure(data)
    return bool(found != jax.tree.structure(0))


def _same_count(batch: ArrayTree) -> None:
    """Raise unless all leaves have the same number of examples, at least one."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if counts == {0} or not all(shapes):
        raise ValueError(
            "`data` has no examples: arrays must be like x with a leading axis of at least one, "
            f"but have shapes {', '.join(map(str, shapes))}"
        )
    if len(counts) > 1:
        raise ValueError(f"`data` has leaves of {sorted(counts)} examples: give all as many")


def checked_batch(batch: ArrayTree, example: ArrayTree | None, number: int) -> ArrayTree:
    """Return a batch in the form of the first; raise if an example of it is unlike."""
    batch = trees.floating(batch, "data")
    _same_count(batch)
    if example is None:
        return batch
    name = f"data[{number}]"
    trees.same_structure(batch, example, name, "data[0]")
    for leaf, target in zip(jax.tree.leaves(batch), jax.tree.leaves(example), strict=True):
        if leaf.shape[1:] != target.shape:
            raise ValueError(
                f"`{name}` has examples of shape {leaf.shape[1:]}, but those of `data[0]` have "
                f"shape {target.shape}: batches must be alike but for their number of examples"
            )
    return trees.cast_like(batch, example)


# Fitting ----------------------------------------------------------------------------------------


class _Regime(NamedTuple):
    """Sums over the samples and positions of one regime, such as y > 0."""

    number: Array
    """How many, by unit."""
    x: Array
    """Σ x, shaped as the weights."""
    xy: Array
    """Σ x (y − origin), shaped as the weights."""


class _Sums(NamedTuple):
    """What is kept of the data at one product; counts and y by unit."""

    origin: Array
    """The first y. The patterns do not depend on it: it keeps large means out of the sums, and
    makes the sums of a unit that never changes exactly 0."""
    number: Array
    y: Array
    """Σ (y − origin)."""
    regimes: tuple[_Regime, ...]


class _Seen(NamedTuple):
    """One example at one product."""

    data: jax.Array
    weight: jax.Array
    """1 for each result, 0 where it goes nowhere."""
    y: jax.Array
    """The output of the layer, at the results."""
    regimes: tuple[tuple[jax.Array, jax.Array], ...]
    """The same two, 0 outside of each regime."""


def traced(f: Function, example: ArrayTree, args: Args) -> Recognised:
    """Return f as operations."""
    recognised, _ = rewrite.traced(compilation.checked(f), example, args, "gradient")
    return recognised


def empty(f: Function, example: ArrayTree, args: Args, estimator: Estimator) -> list[list[_Sums]]:
    """Return the sums over no data, by layer and product."""
    try:
        layers = layers_of(traced(f, example, args))
    except Exception as error:
        forms = jax.tree.map(jax.typeof, example)
        error.add_note(f"f was given one example of `data`, the first without its axis: {forms}")
        raise
    regimes = 2 if estimator == "two_point" else 1

    def sums(product: Product, dtype: Any) -> _Sums:
        units, weights = np.zeros(product.unit_shape, dtype), np.zeros(product.shape, dtype)
        return _Sums(units, units, units, (_Regime(units, weights, weights),) * regimes)

    return [[sums(product, layer.dtype) for product in layer.products] for layer in layers]


def example_of(batch: ArrayTree) -> ArrayTree:
    """Return an example to trace f with: under shard_map one of the data's own type."""
    if trees.is_traced(batch):
        return jax.tree.map(lambda leaf: leaf[0], batch)
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), batch)


def pattern_step(
    f: Function,
    state: list[list[_Sums]],
    batch: ArrayTree,
    args: Args,
    *,
    estimator: Estimator,
) -> list[list[_Sums]]:
    """Add a batch to the sums."""
    example = jax.tree.map(lambda leaf: leaf[0], batch)
    recognised = traced(f, example, args)
    layers = layers_of(recognised)

    def seen(x: ArrayTree) -> list[list[_Seen]]:
        calls = _calls(recognised, layers, x, args)
        return [_see(layer, *calls[layer.name], estimator) for layer in layers]

    return [
        [_added(*each) for each in zip(sums, layer.products, parts, strict=True)]
        for sums, layer, parts in zip(state, layers, jax.vmap(seen)(batch), strict=True)
    ]


def _calls(
    recognised: Recognised, layers: list[Layer], x: ArrayTree, args: Args
) -> dict[str, tuple[list[Any], list[Any]]]:
    """Run a program; return inputs and constants of its layers."""
    program = recognised.program
    env: dict[Any, Any] = dict(program.constants)
    env.update(zip(program.inputs, jax.tree.leaves((x, args)), strict=True))
    for operation in recognised.operations:
        inputs, constants = (
            [env[v] for v in values] for values in (operation.inputs, operation.constants)
        )
        results = affine.results(operation, inputs, constants)
        env.update(zip(operation.outputs, results, strict=True))
    return {
        layer.name: (
            [env[v] for v in layer.operation.inputs],
            [env[v] for v in layer.operation.constants],
        )
        for layer in layers
    }


def _see(
    layer: Layer, inputs: Sequence[Any], constants: Sequence[Any], estimator: Estimator
) -> list[_Seen]:
    """Return the data of each product of a layer, and the layer's output moved back to it."""
    env = dict(zip(layer.operation.inputs, inputs, strict=True))
    env.update(zip(layer.operation.constants, constants, strict=True))
    for equation in layer.core.equations:
        results = running.run(equation, [jaxpr.read(env, v) for v in equation.inputs])
        env.update(zip(equation.outputs, results, strict=True))
    y = env[layer.core.output] * layer.factor(constants)
    # A factor of 0 masks a position out: it is not a sample.
    live = [t != 0 for t in factors_of(layer.core, layer.products, constants)]
    moved = layer.back(constants)

    def back(values: jax.Array) -> list[jax.Array]:
        return [t * kept.astype(t.dtype) for t, kept in zip(moved(values), live, strict=True)]

    all_ones, all_y = back(jnp.ones_like(y)), back(y)
    chosen = [(back(mask), back(jnp.where(mask, y, 0))) for mask in _masks(y, estimator)]
    return [
        _Seen(
            env[product.equation.inputs[1 - product.operand]].astype(layer.dtype),
            all_ones[number],
            all_y[number],
            tuple((ones[number], values[number]) for ones, values in chosen),
        )
        for number, product in enumerate(layer.products)
    ]


def _masks(y: jax.Array, estimator: Estimator) -> list[jax.Array]:
    """Return which outputs are in each regime of the estimator."""
    if estimator == "linear":
        return [jnp.ones_like(y, bool)]
    return [y > 0] if estimator == "relu" else [y > 0, y <= 0]


def _added(sums: _Sums, product: Product, seen: _Seen) -> _Sums:
    """Add a batch of examples to the sums at one product."""
    origin = jnp.where(sums.number > 0, sums.origin, seen.y[0][product.first])
    by_weight = _sum_of_products(product, seen.data, origin.dtype)

    def by_unit(values: jax.Array) -> jax.Array:
        return product.over_positions(values.sum(0))

    regimes = tuple(
        _Regime(
            kept.number + by_unit(weight),
            kept.x + by_weight(weight),
            kept.xy + by_weight(y - origin[None] * weight),
        )
        for kept, (weight, y) in zip(sums.regimes, seen.regimes, strict=True)
    )
    shifted = seen.y - origin[None] * seen.weight
    return _Sums(origin, sums.number + by_unit(seen.weight), sums.y + by_unit(shifted), regimes)


def _sum_of_products(
    product: Product, data: jax.Array, dtype: Any
) -> Callable[[jax.Array], jax.Array]:
    """Return the function from t to Σ x t, shaped as the weights: the gradient of Σ t wᵀx."""
    apply = jax.vmap(functools.partial(_weighted, product), (0, None))
    # Marked as the data are, or under shard_map what comes back is summed over the mesh.
    zeros = trees.varying_like(jnp.zeros(product.shape, dtype), jax.typeof(data))
    _, back = jax.vjp(functools.partial(apply, data), zeros)

    def total(values: jax.Array) -> jax.Array:
        (found,) = back(values)
        return found

    return total


def _weighted(product: Product, data: jax.Array, weights: jax.Array) -> jax.Array:
    """Apply weights in the dtype of sums, with nothing rounded on the way."""
    equation = product.equation
    params = dict(equation.params)
    if equation.primitive in jaxpr.WEIGHTED:
        params.update(precision=(lax.Precision.HIGHEST,) * 2, preferred_element_type=weights.dtype)
    operands = (data, weights) if product.operand else (weights, data)
    return equation.primitive.bind(*operands, **params)


def pattern_end(
    f: Function,
    state: list[list[_Sums]],
    example: ArrayTree,
    args: Args,
    *,
    estimator: Estimator,
) -> dict[str, jax.Array]:
    """Return the patterns for the sums."""
    recognised = traced(f, example, args)
    layers = layers_of(recognised)
    calls = _calls(recognised, layers, example, args)
    patterns: dict[str, jax.Array] = {}
    for layer, sums in zip(layers, state, strict=True):
        _, constants = calls[layer.name]
        for regime, names in enumerate(names_of(layer, estimator == "two_point")):
            directions = [
                _direction(*each, regime) for each in zip(layer.products, sums, strict=True)
            ]
            patterns.update(zip(names, _scaled(layer, directions, constants), strict=True))
    return patterns


def _direction(product: Product, sums: _Sums, regime: int) -> jax.Array:
    """Return c = E[x y] − E[x] E[y], the first two over a regime."""
    number, x, xy = map(jnp.asarray, sums.regimes[regime])
    mean = affine.ratio(jnp.asarray(sums.y), jnp.asarray(sums.number))
    inverse = affine.ratio(jnp.ones_like(number), number)
    return product.by_weight(inverse) * (xy - x * product.by_weight(mean))


def _scaled(layer: Layer, directions: list[jax.Array], constants: Sequence[Any]) -> list[jax.Array]:
    """Divide c by wᵀ c, w with the factors beside it."""
    weights = [jnp.asarray(w).astype(layer.dtype) for w in layer.weights(constants)]
    results = [
        jnp.broadcast_to(product.by_unit(w * c), product.equation.output.shape)
        for product, w, c in zip(layer.products, weights, directions, strict=True)
    ]
    # Relative to the largest, for layers in float16: squares of their values leave its range.
    unit = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(each)) for each in results])
    unit = jnp.where(unit == 0, jnp.ones_like(unit), unit)
    total = layer.completed([each / unit for each in results], constants)
    back = layer.back(constants)
    tops, counts = back(total * layer.factor(constants)), back(jnp.ones_like(total))
    scaled = []
    for product, c, top, count in zip(layer.products, directions, tops, counts, strict=True):
        bottom = unit * product.largest(affine.ratio(top, count))
        scaled.append(c / product.by_weight(jnp.where(bottom == 0, jnp.ones_like(bottom), bottom)))
    return scaled
