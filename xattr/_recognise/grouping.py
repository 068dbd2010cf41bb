"""From equations to operations: what each equation is to a rule, and which make one layer.

Three steps, each over the whole program:

1. `_needed` collects what is on the way to the outputs. A softmax, a normalizer and a function of
   each element are one item from here on; every other item is one equation.
2. `_labelled` gives each item a label: its kind, one of `operation.KINDS`, or its role in an affine
   group, one of `ROLES`. `HANDLERS` says for each primitive how.
3. `_grouped` joins what has a role: a product with weights, its bias and its normalization become
   one layer.

To support a new primitive, add it to the set of `_program/jaxpr.py` that it belongs to. If it
belongs to none, give it an entry in `HANDLERS`: a function that gets what is known so far, the
equation, and those operands that carry relevance, and returns a label. A primitive without an entry
is of the kind "other", for which most methods raise.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from xattr._program import jaxpr
from xattr._program.graph import BROADCASTS, Graph
from xattr._program.jaxpr import Equation, Program, Value, p
from xattr._recognise import elementwise, normalizer, softmax
from xattr._recognise.elementwise import Region
from xattr._recognise.operation import Mode, Operation


def operations_of(
    program: Program, mode: Mode, data: Sequence[bool] | None = None
) -> tuple[list[Operation], list[bool]]:
    """Return the operations of a program, in order, and which outputs carry relevance.

    What no output needs is left out. `data` tells which inputs carry relevance; if None, those that
    depend on x do.
    """
    graph = Graph(program)
    softmaxes = softmax.find(graph)
    flags = [True] * len(program.inputs) if data is None else data
    carrying = {v for v, f in zip(program.inputs, flags, strict=True) if f and v.dependent}
    reading = Reading(
        graph,
        mode,
        roots=frozenset(each.root for each in softmaxes.values()),
        shifts=softmax.shifts(graph, softmaxes),
        data={v for v in carrying if v.floating},
    )
    items = _labelled(_needed(graph, softmaxes, mode), reading)
    found = [
        _of_group(each, reading) if isinstance(each, _Group) else _of_item(each, reading)
        for each in _grouped(items, graph)
    ]
    found = [_with_choice(each, reading, whole=data is None) for each in found]
    return found, [v in reading.data for v in program.outputs]


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
class _Item:
    """An equation, or several that were already found to be one thing."""

    label: str
    """The kind or role; "" for an equation that is still to be looked at."""
    equations: list[Equation]
    inputs: list[Value]
    """The operands that depend on x; once the item has a label, those that carry relevance."""
    outputs: list[Value]
    region: Region | None = None
    """The function of each element that it is."""


# What is needed ---------------------------------------------------------------------------------


def _needed(graph: Graph, softmaxes: Mapping[Value, softmax.Softmax], mode: Mode) -> list[_Item]:
    """Return equations and groups on the way to the outputs, in order."""
    whole = mode == "difference"
    norms = {} if whole else normalizer.find(graph)
    regions = elementwise.Regions(graph, [*norms, *softmaxes], whole)
    needed = set(graph.results)
    items: list[_Item] = []
    for equation in reversed(graph.program.equations):
        if needed.isdisjoint(equation.outputs):
            continue
        out = equation.output
        if out in norms:
            item = _Item("normalizer", norms[out], _entries(norms[out]), [out])
        elif out in softmaxes:
            kind, root, inside = softmaxes[out]
            item = _Item(kind, inside, [root], [out])
        elif region := regions.find(out):
            item = _Item("elementwise", region.equations, [region.root], [out], region)
        else:
            item = _Item("", [equation], equation.dependents, equation.outputs)
        items.append(item)
        needed |= _operands(item.equations)
    return items[::-1]


def _operands(equations: Sequence[Equation]) -> set[Value]:
    """Return the values that equations take and do not make."""
    made = {v for e in equations for v in e.outputs}
    return {v for e in equations for v in e.operands} - made


def _entries(equations: Sequence[Equation]) -> list[Value]:
    """Return the values that equations take and do not make, in order, if they depend on x."""
    made = {v for e in equations for v in e.outputs}
    return [*dict.fromkeys(v for e in equations for v in e.dependents if v not in made)]


# What each equation is --------------------------------------------------------------------------


def _labelled(items: list[_Item], reading: Reading) -> list[_Item]:
    """Return the items with their labels; `reading` notes what carries relevance on the way."""
    found: list[_Item] = []
    for item in items:
        inputs = [v for v in item.inputs if v in reading.data]
        label = _label(item, inputs, reading)
        found.append(dataclasses.replace(item, label=label, inputs=inputs))
        if inputs and _lets_through(label, reading.mode):
            reading.data.update(v for v in item.outputs if v.floating)
        _note_choices(item, reading)
    return found


def _label(item: _Item, inputs: list[Value], reading: Reading) -> str:
    if not inputs:
        return _without_data(item.equations[-1], reading)
    label = item.label or _label_of_equation(item.equations[0], inputs, reading)
    if any(v.complex for v in (*inputs, *item.outputs)):
        return _of_complex(label, item, inputs, reading)
    return label


def _label_of_equation(equation: Equation, inputs: list[Value], reading: Reading) -> str:
    handler = HANDLERS.get(equation.primitive, _unknown)
    # An index or a condition may be another at the reference. A factor or a bias may be, too, but
    # the rules of differences know how to deal with those.
    steered = any(v not in inputs for v in equation.dependents)
    if reading.mode == "difference" and steered and equation.primitive not in _ARITHMETIC:
        handler = _unknown
    return handler(reading, equation, inputs)


def _without_data(equation: Equation, reading: Reading) -> str:
    """Return the kind of an equation that no gradient reaches.

    A difference reaches it nonetheless, through a whole number or a condition, unless it is
    the shift of a softmax.
    """
    if reading.mode == "difference" and not reading.shifts.issuperset(equation.dependents):
        return _unknown(reading, equation, [])
    return "constant"


def _lets_through(label: str, mode: Mode) -> bool:
    """Tell whether relevance goes back through an operation."""
    frozen = label == "normalizer" and mode == "relevance"
    stopped = label == "stop_gradient" and mode != "difference"
    return label != "constant" and not frozen and not stopped


def _note_choices(item: _Item, reading: Reading) -> None:
    """Note where a value that depends on x was made a bool or a whole number."""
    choices = reading.choices
    for equation in item.equations:
        known = next((choices[v] for v in equation.dependents if v in choices), None)
        for out in equation.outputs:
            if out.dependent and out not in reading.data and (known or not out.floating):
                choices[out] = known or equation


def _of_complex(label: str, item: _Item, inputs: list[Value], reading: Reading) -> str:
    """Return the kind of an item that takes or makes complex values: no rule reads their signs.

    What is linear is a kind of its own, and so is |z|, the root of re² + im², whose relevance
    is its gradient, too. A constant that is added stays one.
    """
    linear = ROLES.keys() - {"offset"} | {"split"}
    modulus = item.equations[-1].primitive is p.abs_p and len(item.equations) == 1
    if label in linear or modulus:
        return "complex"
    mixed = label == "elementwise" and inputs[0].complex != item.outputs[0].complex
    divides = label == "quotient" and reading.mode == "difference"  # b² + b'² may be 0
    return "other" if mixed or divides or label == "max" else label


Handler: TypeAlias = Callable[[Reading, Equation, list[Value]], str]
"""`handler(reading, equation, inputs)` returns the kind of an equation, or its role.

`inputs` are the operands that carry relevance, at least one.
"""


def _always(label: str) -> Handler:
    return lambda reading, equation, inputs: label


def _unknown(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
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
    return _unknown(reading, equation, inputs)


def _call(reading: Reading, equation: Equation, inputs: list[Value]) -> str:
    return (_elementwise if equation.activation else _unknown)(reading, equation, inputs)


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

_ARITHMETIC = (
    jaxpr.CONTROL | jaxpr.WEIGHTED | jaxpr.AFFINE_ELEMENTWISE | jaxpr.SUMS | jaxpr.SPECTRAL
)
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


# Affine groups ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class _Group:
    """An affine group that may still grow."""

    kind: str
    """One of `operation.KINDS`, or "products": a sum of products with arrays of weights."""
    equations: list[Equation]
    biased: bool = False
    """Whether a constant was added."""
    resampling: tuple[Equation, ...] = ()
    """Those equations whose weights only move, copy or average."""


_Joined: TypeAlias = tuple[_Group, list[_Group]]
"""A group, and those that it takes in."""


def _grouped(items: list[_Item], graph: Graph) -> list[_Item | _Group]:
    """Return the items, in order, with affine groups in the place of those that have a role."""
    uses = Counter(v for item in items for v in _operands(item.equations))
    uses.update(dict.fromkeys(graph.results, 2))  # f's results stay what they are
    makers: dict[Value, _Group] = {}
    found: dict[_Item | _Group, None] = {}
    for item in items:
        if item.label not in ROLES:
            found[item] = None
            continue
        # A group grows only over values that nothing else uses.
        groups = [makers.get(v) if uses[v] == 1 else None for v in item.inputs]
        group, taken = ROLES[item.label](graph, item.equations[0], groups)
        for each in taken:
            del found[each]
        found[group] = None
        makers[item.outputs[0]] = group
    return [*found]


def _layer(graph: Graph, equation: Equation, groups: Sequence[_Group | None]) -> _Joined:
    return _Group("conv" if _is_convolution(equation) else "dense", [equation]), []


def _resampled(graph: Graph, equation: Equation, groups: Sequence[_Group | None]) -> _Joined:
    return _Group("sum", [equation], resampling=(equation,)), []


def _alone(graph: Graph, equation: Equation, groups: Sequence[_Group | None]) -> _Joined:
    return _Group("move", [equation]), []


def _reduced(graph: Graph, equation: Equation, groups: Sequence[_Group | None]) -> _Joined:
    """Return a sum over axes: of products with an array of weights it makes a dense layer."""
    group = groups[0]
    if group and not group.biased and group.kind in ("move", "scale"):
        return _extended(group, equation, "dense" if group.kind == "scale" else "sum")
    return _Group("sum", [equation]), []


def _continued(graph: Graph, equation: Equation, groups: Sequence[_Group | None]) -> _Joined:
    return _extended(groups[0], equation)


def _scaled(graph: Graph, equation: Equation, groups: Sequence[_Group | None]) -> _Joined:
    group = groups[0]
    return _extended(group, equation, group.kind if group and group.kind != "move" else "scale")


def _shifted(graph: Graph, equation: Equation, groups: Sequence[_Group | None]) -> _Joined:
    return _extended(groups[0], equation, biased=True)


def _extended(
    group: _Group | None, equation: Equation, kind: str = "", biased: bool = False
) -> _Joined:
    """Return the group with one more equation, or a new one of the equation alone."""
    before = group or _Group("move", [])
    grown = _Group(
        kind or before.kind,
        [*before.equations, equation],
        before.biased or biased,
        before.resampling,
    )
    return grown, [group] if group else []


def _added(graph: Graph, equation: Equation, groups: Sequence[_Group | None]) -> _Joined:
    """Join the terms of a sum: all plain, or all products with arrays of weights.

    Other terms, such as layers, stay operations of their own: each has its own bias, and its own
    share of the relevance of the sum.
    """
    present = [group for group in groups if group]
    weighted = [group for group in present if group.kind in ("scale", "products")]
    finished = any(group.biased and group.kind == "products" for group in weighted)
    if len(weighted) == len(groups) and not finished:
        kind, taken = "products", weighted
    elif weighted:
        kind, taken = "sum", []
    else:
        kind, taken = "sum", [group for group in present if group.kind in ("move", "sum")]
    taken = [*dict.fromkeys(taken)]
    members = {e for group in taken for e in group.equations} | {equation}
    resampling = tuple(e for group in taken for e in group.resampling)
    biased = any(group.biased for group in taken)
    return _Group(kind, graph.in_order(members), biased, resampling), taken


ROLES: dict[str, Callable[[Graph, Equation, Sequence[_Group | None]], _Joined]] = {
    "weight": _layer,
    "resampling": _resampled,
    "reduce": _reduced,
    "add": _added,
    "join": _alone,
    "move": _continued,
    "scalar": _continued,
    "array": _scaled,
    "offset": _shifted,
}
"""How an equation of each role joins the groups that make its operands, or begins a group.

A group is None where a value is not made by an affine group, or something else uses it, too.
"""


def _is_convolution(equation: Equation) -> bool:
    """Tell whether weights are applied at each point of a grid: a convolution, also one of 1×1.

    A product with a matrix counts as one where the data have two or more axes beside those summed
    over and those of a batch: height and width. Tokens have one: that is a dense layer.
    """
    if equation.primitive is p.conv_general_dilated_p:
        return True
    data = 1 - jaxpr.weight_position(equation)
    contracted, batch = (pair[data] for pair in equation.params["dimension_numbers"])
    return len(equation.inputs[data].shape) - len(contracted) - len(batch) >= 2


# Operations -------------------------------------------------------------------------------------


def _of_group(group: _Group, reading: Reading) -> Operation:
    """Return the operation of an affine group."""
    made = {v for e in group.equations for v in e.outputs}
    operands = [*dict.fromkeys(v for e in group.equations for v in e.operands if v not in made)]
    kind = {"products": "conv"}.get(group.kind, group.kind)
    moves = all(e in group.resampling or e.primitive in jaxpr.MOVES for e in group.equations)
    return Operation(
        "sum" if kind == "move" and group.biased else kind,
        group.equations,
        [v for v in operands if v in reading.data],
        [v for v in operands if v not in reading.data],
        group.equations[-1].outputs,
        resamples=moves and bool(group.resampling),
    )


def _of_item(item: _Item, reading: Reading) -> Operation:
    """Return the operation of an item that has no role in an affine group."""
    graph, inputs, kind = reading.graph, item.inputs, item.label
    made = {v for e in item.equations for v in e.outputs}
    operands = dict.fromkeys(v for e in item.equations for v in e.operands)
    constants = [v for v in operands if v not in inputs and v not in made]
    operation = Operation(
        "move" if kind == "split" else kind, item.equations, inputs, constants, item.outputs
    )
    if kind == "elementwise":
        region = item.region or Region(graph, inputs[0], item.equations)
        return dataclasses.replace(
            operation, kind=region.kind, slope=region.slope, smooth=not region.has_kinks
        )
    if kind == "product" and len(inputs) == 2:
        inverse = next((i for i, v in enumerate(inputs) if _is_inverse(graph, v)), None)
        return dataclasses.replace(operation, inverse=inverse)
    if kind == "stop_gradient":
        return dataclasses.replace(operation, is_largest=softmax.is_largest(graph, inputs))
    return operation


def _is_inverse(graph: Graph, value: Value) -> bool:
    """Tell whether a value is one over another, copied or scaled: 1/√variance, a / ‖x‖.

    So are its root and its powers.
    """
    scales = BROADCASTS | {p.mul_p, p.neg_p, p.square_p, p.sqrt_p}
    equation = graph.source(value, scales)
    while equation and equation.primitive is p.div_p and not jaxpr.depends(equation.inputs[1]):
        equation = graph.source(equation.inputs[0], scales)
    if equation is None or len(equation.dependents) != 1 or equation.output.complex:
        return False
    if equation.primitive is p.div_p:
        return jaxpr.depends(equation.inputs[1])
    if equation.primitive is p.pow_p:
        exponent = graph.static(equation.inputs[1])
        negative = exponent is not None and bool(exponent < 0)
        return negative or _is_inverse(graph, equation.inputs[0])
    if equation.primitive is p.integer_pow_p:
        return bool(equation.params["y"] < 0) or _is_inverse(graph, equation.inputs[0])
    return equation.primitive is p.rsqrt_p


def _with_choice(operation: Operation, reading: Reading, whole: bool) -> Operation:
    """Return the operation with the choice that it depends on x through, if there is one.

    Where f itself is made of a choice no relevance would be left. `whole` is True if the program is
    all of f: the constant that its score then is becomes "other", so that the rules raise.
    """
    choices = reading.choices
    values = (*operation.outputs, *operation.constants)
    choice = next((choices[v] for v in values if v in choices), None)
    if choice is None:
        return operation
    lost = whole and operation.kind == "constant" and _is_score(operation, reading)
    return dataclasses.replace(operation, choice=choice, kind="other" if lost else operation.kind)


def _is_score(operation: Operation, reading: Reading) -> bool:
    """Tell whether an operation makes a result of f that carries no relevance, though it should."""
    scores = [v for v in operation.outputs if v in reading.graph.results and v.floating]
    return reading.mode == "relevance" and not reading.data.issuperset(scores)
