"""The layers of a program and their products with weights: what a pattern is fitted for."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from xattr._core import trees
from xattr._program import jaxpr
from xattr._program.jaxpr import Equation, p
from xattr._recognise import affine
from xattr._recognise.operation import Operation, Recognised

SIGNS = ("y>0", "y<=0")
"""The regimes of the two-point estimator, as they stand in the names of its patterns."""


class Product(NamedTuple):
    """A product of data with an array of weights.

    Its results, one for each unit and position, have axes of positions, along which the weights are
    shared, and axes of units. "By unit" below means shaped as the results, positions of length 1:
    of a convolution with results (batch, height, width, features) that is (1, 1, 1, features).
    """

    equation: Equation
    units: tuple[int, ...]
    """The axes of the weights that tell units apart, in the order they have in the results."""
    positions: tuple[int, ...]
    """The axes of the results that are positions."""

    @property
    def operand(self) -> int:
        """Which operand holds the weights, 0 or 1."""
        return jaxpr.weight_position(self.equation)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weights."""
        return self.equation.inputs[self.operand].shape

    @property
    def summed(self) -> tuple[int, ...]:
        """The axes of the weights that are summed over."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.units)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of an array by unit."""
        sizes = self.equation.output.shape
        return tuple(1 if axis in self.positions else n for axis, n in enumerate(sizes))

    @property
    def first(self) -> tuple[slice, ...]:
        """The index of the first position in an array shaped as the results."""
        axes = range(len(self.equation.output.shape))
        return tuple(slice(0, 1) if axis in self.positions else slice(None) for axis in axes)

    def by_weight(self, values: jax.Array) -> jax.Array:
        """Return values by unit, so that they broadcast to the shape of the weights."""
        ordered = jnp.transpose(jnp.squeeze(values, self.positions), _order(self.units))
        return jnp.expand_dims(ordered, self.summed)

    def by_unit(self, values: jax.Array) -> jax.Array:
        """Sum values shaped as the weights over the inputs of each unit; the result is by unit."""
        ranks = _order(_order(self.units))
        return jnp.expand_dims(jnp.transpose(values.sum(self.summed), ranks), self.positions)

    def over_positions(self, values: jax.Array) -> jax.Array:
        """Sum values shaped as the results over the positions; the result is by unit."""
        return values.sum(self.positions, keepdims=True)

    def largest(self, values: jax.Array) -> jax.Array:
        """Return the value of largest magnitude among the positions, with its sign; by unit."""
        high = values.max(self.positions, keepdims=True)
        low = values.min(self.positions, keepdims=True)
        return jnp.where(high >= -low, high, low)


def _order(values: Sequence[int]) -> list[int]:
    """Return the positions of the values in ascending order, as np.argsort does."""
    return sorted(range(len(values)), key=values.__getitem__)


class Layer(NamedTuple):
    """A dense or convolutional operation, up to where single units are picked out of it."""

    name: str
    operation: Operation
    core: Operation
    """The operation without its tail."""
    tail: Sequence[Equation]
    """Choices of single units (a class) and factors: units not chosen have patterns all the same,
    so that patterns fitted for one class serve for another."""
    products: list[Product]

    @property
    def equations(self) -> list[Equation]:
        """The equations of the products."""
        return [product.equation for product in self.products]

    @property
    def dtype(self) -> Any:
        """The dtype in which sums over the data are taken, float32 at least."""
        return trees.wide(self.core.output.dtype)

    def weights(self, constants: Sequence[Any]) -> list[Any]:
        """Return the arrays of weights, one for each product."""
        operands = zip(
            affine.weight_equations(self.operation),
            affine.weight_operands(self.operation, constants),
            strict=True,
        )
        return [operand for equation, operand in operands if equation in self.equations]

    def factor(self, constants: Sequence[Any]) -> jax.Array:
        """Return the factor that the tail multiplies by, a scalar."""
        ones = self.core.output.full(1)
        if not self.tail:
            return ones.ravel()[0]
        rest = Operation(
            "move", self.tail, [self.core.output], self.operation.constants, self.operation.outputs
        )
        return jnp.ravel(affine.linear(rest, [ones], constants))[0]

    def completed(self, results: Sequence[Any], constants: Sequence[Any]) -> Any:
        """Return the output of the core for given results of the products."""
        cast = [
            jnp.asarray(value, equation.output.dtype)
            for value, equation in zip(results, self.equations, strict=True)
        ]
        return affine.completed(self.core, cast, constants, True, self.equations)

    def back(self, constants: Sequence[Any]) -> Callable[[Any], list[jax.Array]]:
        """Return the function from values at the output of the core to values at the products."""
        back = _back(self.core, self.products, constants, scale=False)
        dtype = self.core.output.dtype
        return lambda values: [t.astype(self.dtype) for t in back(values.astype(dtype))]


def _back(
    operation: Operation, products: Sequence[Product], constants: Sequence[Any], scale: bool
) -> Callable[[Any], list[jax.Array]]:
    """Return the transpose of what comes after the products of an operation."""
    equations = [product.equation for product in products]
    zeros = [equation.output.full(0) for equation in equations]

    def completed(results: list[Any]) -> Any:
        return affine.completed(operation, results, constants, scale, equations)

    _, back = jax.vjp(completed, zeros)

    def found(values: Any) -> list[jax.Array]:
        (moved,) = back(values)
        return moved

    return found


def factors_of(
    operation: Operation, products: Sequence[Product], constants: Sequence[Any]
) -> list[jax.Array]:
    """Return the factors beside the weights, shaped as the results of each product or by unit.

    The transposes with and without factors move ones back; their quotient is the factor.
    """
    equations = [product.equation for product in products]
    if not any(e.primitive in _SCALING for e in operation.equations if e not in equations):
        # By unit: XLA would take seconds to fold the largest of as many ones as there are results.
        return [product.equation.output.full(1)[product.first] for product in products]
    ones = operation.output.full(1)
    scaled, plain = (_back(operation, products, constants, scale)(ones) for scale in (True, False))
    return [affine.ratio(top, bottom) for top, bottom in zip(scaled, plain, strict=True)]


_SCALING = frozenset({p.mul_p, p.div_p, p.neg_p, p.sub_p})


def layers_of(recognised: Recognised) -> list[Layer]:
    """Return the layers of a program in order; raise for one that is inside of a loop."""
    found: list[Layer] = []
    for operation in recognised.operations:
        for inner in _inside(operation):
            raise NotImplementedError(
                f"a layer inside {operation.equations[0].name} has no patterns: "
                f"{inner.describe()}; write scan as a Python loop, and leave out cond and "
                "checkpoint"
            )
        # Weights computed from x (behind stop_gradient) differ from one example to the next.
        if operation.is_layer and not any(v.dependent for v in operation.constants):
            scope = f" {operation.scope}" if operation.scope else ""
            core, tail = _without_tail(operation)
            name = f"{len(found):02d} {operation.kind}{scope}"
            found.append(Layer(name, operation, core, tail, products_of(operation)))
    if not found:
        raise ValueError("`f` has no dense or convolutional layer: there are no patterns to fit")
    return found


def _inside(operation: Operation) -> Iterator[Operation]:
    """Yield the layers in the bodies of control flow."""
    for body in operation.bodies:
        for inner in body.operations:
            if inner.is_layer:
                yield inner
            yield from _inside(inner)


def _without_tail(operation: Operation) -> tuple[Operation, Sequence[Equation]]:
    """Split off the equations at the end that choose units, with the factors after them."""
    cut = len(operation.equations)
    for index in reversed(range(1, len(operation.equations))):
        equation = operation.equations[index]
        if equation.primitive not in jaxpr.MOVES and not _is_factor(equation):
            break
        if equation.primitive in _CHOICES:
            cut = index
    head, tail = operation.equations[:cut], operation.equations[cut:]
    return Operation(
        operation.kind, head, operation.inputs, operation.constants, head[-1].outputs
    ), tail


_CHOICES = frozenset({p.slice_p, p.dynamic_slice_p, p.gather_p})


def _is_factor(equation: Equation) -> bool:
    scalar = any(isinstance(v, jaxpr.Literal) or v.shape == () for v in equation.inputs)
    return equation.primitive is p.neg_p or (equation.primitive in (p.mul_p, p.div_p) and scalar)


def products_of(operation: Operation) -> list[Product]:
    """Return the products with weights; a product of such a product is a factor beside them."""
    found: list[Product] = []
    weighed: set[Any] = set()
    candidates = affine.weight_equations(operation)
    for equation in operation.equations:
        if any(v in weighed for v in equation.dependents):
            weighed.update(equation.outputs)
        elif equation in candidates:
            weighed.update(equation.outputs)
            found.append(_product(equation))
    return found


def _product(equation: Equation) -> Product:
    rank = len(equation.output.shape)
    if equation.primitive is p.mul_p:
        # An axis of length 1 of the weights goes along a longer one of the data.
        weights = equation.inputs[jaxpr.weight_position(equation)].shape
        sizes = zip(equation.output.shape, weights, strict=True)
        shared = tuple(axis for axis, (size, length) in enumerate(sizes) if size != length)
        return Product(equation, tuple(a for a in range(rank) if a not in shared), shared)
    numbers = equation.params["dimension_numbers"]
    if equation.primitive is p.conv_general_dilated_p:
        feature = numbers.out_spec[1]
        positions = tuple(axis for axis in range(rank) if axis != feature)
        return Product(equation, (numbers.rhs_spec[0],), positions)
    weight = jaxpr.weight_position(equation)
    contracted, batch = (pair[weight] for pair in numbers)
    axes = range(len(equation.inputs[weight].shape))
    free = [axis for axis in axes if axis not in (*contracted, *batch)]
    first = len(batch) + (0 if weight else len(free))  # the operand on the left comes first
    count = rank - len(batch) - len(free)
    return Product(equation, (*batch, *free), tuple(range(first, first + count)))


# Names ------------------------------------------------------------------------------------------


def names_of(layer: Layer, two_point: bool) -> list[list[str]]:
    """Return the names of a layer's patterns, by regime and product."""
    several = len(layer.products) > 1
    names = [
        f"{layer.name} weights {number}" if several else layer.name
        for number in range(len(layer.products))
    ]
    return [[f"{name} {sign}" for name in names] for sign in SIGNS] if two_point else [names]


def assigned(layers: list[Layer], patterns: dict[str, Any]) -> list[list[list[Any]]]:
    """Return the patterns of each layer by regime and product; raise if they are of another f."""
    two_point = any(name.endswith(SIGNS) for name in patterns)
    names = [names_of(layer, two_point) for layer in layers]
    expected = {
        name: product.shape
        for layer, regimes in zip(layers, names, strict=True)
        for regime in regimes
        for name, product in zip(regime, layer.products, strict=True)
    }
    problems = [f"there is none for {name!r}" for name in expected if name not in patterns]
    problems += [f"f has no {name!r}" for name in patterns if name not in expected]
    problems += [
        f"{name!r} has shape {patterns[name].shape}, but the weights {shape}"
        for name, shape in expected.items()
        if name in patterns and patterns[name].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"`patterns` are of another network: {'; '.join(problems[:3])}{more}. "
            "Fit them on this f, with xattr.fit_patterns(f, data)"
        )
    return [[[patterns[name] for name in regime] for regime in regimes] for regimes in names]
