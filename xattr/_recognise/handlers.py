"""What one equation is to a rule: its kind, or its role in an affine group.

`HANDLERS` is the table from primitives to functions that tell.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from xattr._program import jaxpr
from xattr._program.graph import Graph
from xattr._program.jaxpr import Equation, Value, p
from xattr._recognise.elementwise import Region
from xattr._recognise.operation import Mode


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """What is known of a program while its equations are read in order."""

    graph: Graph
    mode: Mode
    roots: frozenset[Value]
    """The values that a softmax is taken of."""
    shifts: frozenset[Value]
    """Values that a softmax is shifted by, which it does not depend on."""
    data: set[Value]
    """The values that carry relevance; grows as equations are read."""
    choices: dict[Value, Equation] = dataclasses.field(default_factory=dict)
    """Values that depend on x through a bool or a whole number alone, and the equation that made
    it; grows as equations are read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """An equation, or several that were already found to be one thing."""

    label: str
    """The kind or role; "" for an equation that is still to be looked at."""
    equations: list[Equation]
    inputs: list[Value]
    """The operands that depend on x; once the item has a label, those that carry relevance."""
    outputs: list[Value]
    region: Region | None = None
    """The function of each element that it is."""


Handler: TypeAlias = Callable[[Reading, Equation, list[Value]], str]
"""`handler(reading, equation, inputs)` returns the kind of an equation, or its role.

`inputs` are the operands that carry relevance, at least one.
"""


def _always(label: str) -> Handler:
    return lambda reading, equation, inputs: label


def unknown(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    return "other" if any(v.floating for v in equation.outputs) else "constant"


def _product(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    if len(_data(equation, inputs)) == 2:
        return "product"
    return "resampling" if _resamples(reading.graph, equation) else "weight"


def _sum(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    if len(_data(equation, inputs)) == 2:
        return "add"
    if _loses_relevance(reading, equation):
        return "other"
    return "shift" if any(v not in inputs for v in equation.dependents) else "offset"


def _loses_relevance(reading: Reading, equation: Equation) -> bool:
    """Tell whether a sum adds what is made of a choice: relevance cannot go back through it.

    A mask that is added to the scores of a softmax takes no share: it only drops some.
    """
    if reading.mode != "relevance" or reading.choices.keys().isdisjoint(equation.dependents):
        return False
    return equation.output not in reading.roots


def _factor(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    divides = equation.primitive is p.div_p
    if len(_data(equation, inputs)) == 2:
        return "quotient" if divides else "product"
    if divides and equation.inputs[1] in inputs:
        return "power"  # a constant over x
    factor = next(v for v in equation.inputs if v not in inputs)
    if reading.mode == "gradient" and factor in reading.choices:
        return "choice"  # a gate that x opens
    # A factor that depends on x is a normalizer, and not a weight.
    single = isinstance(factor, jaxpr.Literal) or factor.shape == () or jaxpr.depends(factor)
    number = reading.graph.static(factor, arrays=False)
    return "scalar" if single or number is not None else "array"


def _move(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    gathers = equation.primitive in (p.concatenate_p, p.stack_p) or len(inputs) > 1
    return "join" if len(equation.inputs) > 1 and gathers else "move"


def _padding(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    plain = len(inputs) == 1 and reading.graph.static(equation.inputs[1]) == 0
    return "move" if plain else "choice"


def _stop(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    return "constant" if equation.output in reading.shifts else "stop_gradient"


def _complex_of(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    if len(_data(equation, inputs)) == 2:
        return "complex"
    other = next(v for v in equation.inputs if v not in inputs)
    adds = reading.mode == "relevance" and reading.graph.static(other) != 0
    return "other" if adds else "complex"


def _elementwise(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    one = len(_data(equation, inputs)) == 1 and inputs[0].shape == equation.output.shape
    if one and equation.output.floating:
        return "elementwise"
    return unknown(reading, equation, inputs)


def _call(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    return (_elementwise if equation.activation else unknown)(reading, equation, inputs)


def _larger(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    two = len(_data(equation, inputs)) == 2
    return "max" if two else _elementwise(reading, equation, inputs)


HANDLERS: dict[Any, Handler] = {
    **dict.fromkeys(jaxpr.ELEMENTWISE, _elementwise),
    # Functions of each element of which more is known, and all that is not one.
    **dict.fromkeys(jaxpr.OWN_DERIVATIVE, _call),
    **dict.fromkeys(jaxpr.CONTROL, _always("control")),
    **dict.fromkeys(jaxpr.WEIGHTED, _product),
    **dict.fromkeys(jaxpr.ADDITIONS, _sum),
    **dict.fromkeys((p.mul_p, p.div_p), _factor),
    p.neg_p: _always("scalar"),
    **dict.fromkeys(jaxpr.SUMS, _always("reduce")),
    **dict.fromkeys(jaxpr.MOVES, _move),
    p.pad_p: _padding,
    **dict.fromkeys(jaxpr.SPLITS | jaxpr.COLLECTIVES, _always("split")),
    **dict.fromkeys((*jaxpr.UPDATES, p.select_n_p), _always("choice")),
    p.stop_gradient_p: _stop,
    **dict.fromkeys(jaxpr.LARGEST | jaxpr.SMALLEST | jaxpr.ORDERINGS, _always("max")),
    **dict.fromkeys((p.max_p, p.min_p), _larger),
    **dict.fromkeys(jaxpr.SPECTRAL, _always("complex")),
    p.complex_p: _complex_of,
}
"""What an equation is, by its primitive. Of two entries for one primitive the later counts."""

ARITHMETIC = jaxpr.CONTROL | jaxpr.WEIGHTED | jaxpr.AFFINE_ELEMENTWISE | jaxpr.SUMS | jaxpr.SPECTRAL
"""What may take another constant at the reference."""


def _data(equation: Equation, inputs: list[Value]) -> list[Any]:
    """Return the operands that carry relevance; x twice for x + x."""
    return [v for v in equation.inputs if isinstance(v, Value) and v in inputs]


def _resamples(graph: Graph, equation: Equation) -> bool:
    """Tell whether weights only move, copy or average: told by their values.

    They are 0 or 1, or have sums of one (a resize, patches), and JAX computes them: they are not
    trained.
    """
    position = jaxpr.weight_position(equation)
    weights = graph.computed(equation.inputs[position])
    if weights is None or np.iscomplexobj(weights):
        return False
    if np.isin(weights, (0, 1)).all():
        return True
    axes = _summed_axes(equation, position)
    return bool(np.allclose(weights.sum(axes), 1, atol=1e-3))


def _summed_axes(equation: Equation, position: int) -> tuple[int, ...]:
    """Return the axes of the weights over which a product sums."""
    numbers = equation.params["dimension_numbers"]
    if equation.primitive is p.conv_general_dilated_p:
        return tuple(a for a in numbers.rhs_spec if a != numbers.rhs_spec[0])
    return tuple(numbers[0][position])
