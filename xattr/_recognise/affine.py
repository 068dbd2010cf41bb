"""Affine layers with parts left out or changed: without the bias, by sign, with other weights.

A layer is a group of equations, y = L x + c. Each function here runs its equations again with
other numbers for the weights. So a rule is the same for a dense layer, a convolution of any kind
and a hand-written sum of products.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from xattr._program import jaxpr, running
from xattr._program.jaxpr import Equation, p
from xattr._recognise.operation import Operation

State = Any
"""What `read` carries for one value: an array, or a pair of arrays or None."""


def apply(operation: Operation, inputs: Sequence[Any], constants: Sequence[Any]) -> Any:
    """Return what the operation computes, as a list if it has several results."""
    found = results(operation, inputs, constants)
    return found[0] if len(found) == 1 else found


def results(operation: Operation, inputs: Sequence[Any], constants: Sequence[Any]) -> list[Any]:
    """Return the results of the operation."""
    env = dict(zip(operation.inputs, inputs, strict=True))
    env.update(zip(operation.constants, constants, strict=True))
    for equation in operation.equations:
        found = running.run(equation, [jaxpr.read(env, v) for v in equation.inputs])
        env.update(zip(equation.outputs, found, strict=True))
    return [env[v] for v in operation.outputs]


def read(
    operation: Operation,
    states: Sequence[State],
    constants: Sequence[Any],
    step: Callable[..., State],
) -> State:
    """Run the equations of an affine operation on states instead of values.

    `step(equation, states, operands)` returns the state of a result. An operand is in one of the
    two lists, and None in the other: among the states if it is made of the inputs.
    """
    env = dict(zip(operation.constants, constants, strict=True))
    found: dict[Any, State] = dict(zip(operation.inputs, states, strict=True))
    for equation in operation.equations:
        mine = [found.get(v) if isinstance(v, jaxpr.Value) else None for v in equation.inputs]
        others = [
            None if isinstance(v, jaxpr.Value) and v in found else jaxpr.read(env, v)
            for v in equation.inputs
        ]
        found[equation.output] = step(equation, mine, others)
    return found[operation.output]


def linear(operation: Operation, inputs: Sequence[Any], constants: Sequence[Any]) -> Any:
    """Return L x."""
    return read(operation, inputs, constants, _linear)


def signed(
    operation: Operation, inputs: Sequence[Any], constants: Sequence[Any]
) -> tuple[Any, Any]:
    """Return L⁺ x and L⁻ x: L with its positive weights only, and with its negative ones only."""
    positive, negative = read(operation, [(x, None) for x in inputs], constants, _signed)
    shape, dtype = operation.output.shape, operation.output.dtype
    zero = jnp.zeros(shape, dtype)
    return (zero if positive is None else positive), (zero if negative is None else negative)


def squared(operation: Operation, inputs: Sequence[Any], constants: Sequence[Any]) -> Any:
    """Return the layer with its weights squared."""
    return read(operation, inputs, constants, functools.partial(_with_weights, change=jnp.square))


def connected(operation: Operation, inputs: Sequence[Any], constants: Sequence[Any]) -> Any:
    """Return the layer with every weight 1."""
    return read(
        operation, inputs, constants, functools.partial(_with_weights, change=jnp.ones_like)
    )


def passed(operation: Operation, inputs: Sequence[Any], constants: Sequence[Any]) -> Any:
    """Return the inputs, moved as the operation moves them but not scaled or shifted."""
    return connected(operation, inputs, constants)


def weighted(
    operation: Operation,
    inputs: Sequence[Any],
    constants: Sequence[Any],
    weights: Sequence[Any],
    scale: bool,
) -> Any:
    """Return the layer with other weights. `scale` keeps the factors beside them."""
    given = dict(zip(weight_equations(operation), weights, strict=True))
    beside = _linear if scale else functools.partial(_with_weights, change=jnp.ones_like)

    def step(equation: Equation, states: list[State], operands: list[Any]) -> State:
        if equation in given:
            return _replaced(equation, states, operands, given[equation])
        return beside(equation, states, operands)

    return read(operation, inputs, constants, step)


def completed(
    operation: Operation,
    products: Sequence[Any],
    constants: Sequence[Any],
    scale: bool,
    equations: Sequence[Equation],
) -> Any:
    """Return the output of the layer for given products with its weights, without its constants.

    `equations` are those of the products. `scale` keeps the factors beside the weights.
    """
    given = dict(zip(equations, products, strict=True))
    beside = _linear if scale else functools.partial(_with_weights, change=jnp.ones_like)

    def step(equation: Equation, states: list[State], operands: list[Any]) -> State:
        return given[equation] if equation in given else beside(equation, states, operands)

    zeros = [value.full(0) for value in operation.inputs]
    return read(operation, zeros, constants, step)


def weight_equations(operation: Operation) -> list[Equation]:
    """Return the equations that hold the weights of a layer."""
    products = [e for e in operation.equations if e.primitive in jaxpr.WEIGHTED]
    if products:
        return products
    return [e for e in operation.equations if e.primitive is p.mul_p and not _is_scalar(e)]


def weight_operands(operation: Operation, constants: Sequence[Any]) -> list[Any]:
    """Return the arrays of weights of a layer."""
    env = dict(zip(operation.constants, constants, strict=True))
    data = operation.data
    return [
        jaxpr.read(env, next(v for v in e.inputs if v not in data))
        for e in weight_equations(operation)
    ]


def _is_scalar(equation: Equation) -> bool:
    return any(isinstance(v, jaxpr.Literal) or v.shape == () for v in equation.inputs)


def _like_output(equation: Equation, value: Any) -> Any:
    return jnp.broadcast_to(value, equation.output.shape)


def _linear(equation: Equation, states: list[State], operands: list[Any]) -> State:
    """Apply one equation without the constant it adds."""
    if _is_sum(equation):
        if all(s is not None for s in states):
            return _bind(equation, states, operands)
        state = next(s for s in states if s is not None)
        negative = equation.primitive is p.sub_p and states[0] is None
        return _like_output(equation, -state if negative else state)
    return _bind(equation, states, operands)


def _is_sum(equation: Equation) -> bool:
    return equation.primitive in jaxpr.ADDITIONS


def _bind(equation: Equation, states: list[State], operands: list[Any]) -> Any:
    merged = [s if s is not None else o for s, o in zip(states, operands, strict=True)]
    return running.run(equation, merged)[0]


def _weight(equation: Equation, operands: list[Any]) -> Any:
    """Return the array that an equation multiplies by, or None."""
    if equation.primitive in jaxpr.WEIGHTED | {p.mul_p, p.div_p}:
        return next(o for o in operands if o is not None)
    return None


def _replaced(equation: Equation, states: list[State], operands: list[Any], weight: Any) -> Any:
    return _bind(equation, states, [None if o is None else weight for o in operands])


def _with_weights(
    equation: Equation,
    states: list[State],
    operands: list[Any],
    change: Callable[[Any], Any],
) -> State:
    """Apply one equation with its weights changed and its signs left out."""
    if equation.primitive is p.neg_p:
        return states[0]
    if equation.primitive is p.sub_p:
        present = [s for s in states if s is not None]
        total = present[0] if len(present) == 1 else present[0] + present[1]
        return _like_output(equation, total)
    weight = _weight(equation, operands)
    if weight is None:
        return _linear(equation, states, operands)
    return _replaced(equation, states, operands, change(jnp.asarray(weight)))


def _signed(equation: Equation, states: list[State], operands: list[Any]) -> State:
    """Apply one equation to a pair: what came by positive weights, what by negative ones."""
    present = [s for s in states if s is not None]
    if equation.primitive is p.neg_p:
        positive, negative = present[0]
        return _negated(negative), _negated(positive)
    if _is_sum(equation):
        return _signed_sum(equation, states)
    weight = _weight(equation, operands)
    if weight is None:
        return tuple(
            None if part is None else _bind(equation, _each(states, index), operands)
            for index, part in enumerate(present[0])
        )
    weight = jnp.asarray(weight)
    above, below = jnp.maximum(weight, 0), jnp.minimum(weight, 0)
    if equation.primitive is p.div_p:  # where the weight has the other sign it is 0 here
        above, below = _reciprocal(above), _reciprocal(below)

    def equation_scale(part: Any, w: Any) -> Any:
        if equation.primitive is p.div_p:
            return part * w
        return _replaced(equation, [None if s is None else part for s in states], operands, w)

    positive, negative = present[0]
    return (
        _plus(_scaled(positive, above, equation_scale), _scaled(negative, below, equation_scale)),
        _plus(_scaled(positive, below, equation_scale), _scaled(negative, above, equation_scale)),
    )


def _each(states: list[State], index: int) -> list[Any]:
    return [None if s is None else s[index] for s in states]


def _signed_sum(equation: Equation, states: list[State]) -> State:
    left, right = states
    if right is not None and equation.primitive is p.sub_p:
        right = (_negated(right[1]), _negated(right[0]))
    pairs = [s for s in (left, right) if s is not None]
    total = pairs[0] if len(pairs) == 1 else tuple(map(_plus, *pairs))
    return tuple(None if part is None else _like_output(equation, part) for part in total)


def _scaled(part: Any, weight: Any, scale: Callable[[Any, Any], Any]) -> Any:
    return None if part is None else scale(part, weight)


def _negated(part: Any) -> Any:
    return None if part is None else -part


def _plus(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    return left + right


def _reciprocal(weight: Any) -> Any:
    return jnp.where(
        weight == 0,
        jnp.zeros_like(weight),
        1 / jnp.where(weight == 0, jnp.ones_like(weight), weight),
    )


def ratio(top: jax.Array, bottom: jax.Array, epsilon: float = 0.0) -> jax.Array:
    """Return top / (bottom + ε sign(bottom)), with sign(0) = +1, and 0 for 0 / 0."""
    if epsilon:
        bottom = bottom + jnp.where(bottom >= 0, epsilon, -epsilon).astype(bottom.dtype)
    empty = bottom == 0
    return jnp.where(
        empty, jnp.zeros_like(top), top / jnp.where(empty, jnp.ones_like(bottom), bottom)
    )


def offset(operation: Operation, constants: Sequence[Any]) -> Any:
    """Return c of y = L x + c, or None if the operation adds no constant."""
    env = dict(zip(operation.constants, constants, strict=True))
    found: dict[Any, Any] = dict.fromkeys(operation.inputs)
    for equation in operation.equations:
        found[equation.output] = _offset(equation, found, env)
    return found[operation.output]


def _offset(equation: Equation, found: dict[Any, Any], env: dict[Any, Any]) -> Any:
    inside = [isinstance(v, jaxpr.Value) and v in found for v in equation.inputs]
    values = [
        found[v] if mine else jaxpr.read(env, v)
        for v, mine in zip(equation.inputs, inside, strict=True)
    ]
    if not _is_sum(equation):
        return None if any(v is None for v in values) else running.run(equation, values)[0]
    left, right = values
    if left is None and right is None:
        return None
    if equation.primitive is p.sub_p and right is not None:
        right = -jnp.asarray(right)
    return _like_output(equation, _plus(left, right))
