"""From equations to operations: what each equation is to a rule, and which make one layer.

Three steps, each over the whole program:

1. `_needed` collects what is on the way to the outputs. A softmax, a normalizer and a function of
   each element are one item from here on; every other item is one equation.
2. `_labelled` gives each item a label: its kind, one of `operation.KINDS`, or its role in an affine
   group, one of `groups.ROLES`. `handlers.HANDLERS` has a function for each primitive.
3. `groups.grouped` joins what has a role: a product with weights, its bias and its normalization
   become one layer.

To support a new primitive, add it to the set of `_program/jaxpr.py` that it belongs to, such as
`ELEMENTWISE`. If it
belongs to none, give it an entry in `handlers.HANDLERS`: a function that gets what is known so far,
the equation, and those operands that carry relevance, and returns a label. A primitive without an
entry is of the kind "other", for which most methods raise.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from xattr._program import jaxpr
from xattr._program.graph import BROADCASTS, Graph, operands_of
from xattr._program.jaxpr import Equation, Program, Value, p
from xattr._recognise import elementwise, groups, handlers, normalizer, softmax
from xattr._recognise.elementwise import Region
from xattr._recognise.groups import Group
from xattr._recognise.handlers import Item, Reading
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
        _of_group(each, reading) if isinstance(each, Group) else _of_item(each, reading)
        for each in groups.grouped(items, graph)
    ]
    found = [_with_choice(each, reading, whole=data is None) for each in found]
    return found, [v in reading.data for v in program.outputs]


# What is needed ---------------------------------------------------------------------------------


def _needed(graph: Graph, softmaxes: Mapping[Value, softmax.Softmax], mode: Mode) -> list[Item]:
    """Return equations and groups on the way to the outputs, in order."""
    whole = mode == "difference"
    norms = {} if whole else normalizer.find(graph)
    regions = elementwise.Regions(graph, [*norms, *softmaxes], whole)
    needed = set(graph.results)
    items: list[Item] = []
    for equation in reversed(graph.program.equations):
        if needed.isdisjoint(equation.outputs):
            continue
        out = equation.output
        if out in norms:
            item = Item("normalizer", norms[out], _entries(norms[out]), [out])
        elif out in softmaxes:
            kind, root, inside = softmaxes[out]
            item = Item(kind, inside, [root], [out])
        elif region := regions.find(out):
            item = Item("elementwise", region.equations, [region.root], [out], region)
        else:
            item = Item("", [equation], equation.dependents, equation.outputs)
        items.append(item)
        needed |= operands_of(item.equations)
    return items[::-1]


def _entries(equations: Sequence[Equation]) -> list[Value]:
    """Return the values that equations take and do not make, in order, if they depend on x."""
    made = {v for e in equations for v in e.outputs}
    return [*dict.fromkeys(v for e in equations for v in e.dependents if v not in made)]


# What each equation is --------------------------------------------------------------------------


def _labelled(items: list[Item], reading: Reading) -> list[Item]:
    """Return the items with their labels; `reading` notes what carries relevance on the way."""
    found: list[Item] = []
    for item in items:
        inputs = [v for v in item.inputs if v in reading.data]
        label = _label(item, inputs, reading)
        found.append(dataclasses.replace(item, label=label, inputs=inputs))
        if inputs and _lets_through(label, reading.mode):
            reading.data.update(v for v in item.outputs if v.floating)
        _note_choices(item, reading)
    return found


def _label(item: Item, inputs: list[Value], reading: Reading) -> str:
    if not inputs:
        return _without_data(item.equations[-1], reading)
    label = item.label or _label_of_equation(item.equations[0], inputs, reading)
    if any(v.complex for v in (*inputs, *item.outputs)):
        return _of_complex(label, item, inputs, reading)
    return label


def _label_of_equation(equation: Equation, inputs: list[Value], reading: Reading) -> str:
    handler = handlers.HANDLERS.get(equation.primitive, handlers.unknown)
    # An index or a condition may be another at the reference. A factor or a bias may be, too, but
    # the rules of differences know how to deal with those.
    steered = any(v not in inputs for v in equation.dependents)
    if reading.mode == "difference" and steered and equation.primitive not in handlers.ARITHMETIC:
        handler = handlers.unknown
    return handler(reading, equation, inputs)


def _without_data(equation: Equation, reading: Reading) -> str:
    """Return the kind of an equation that no gradient reaches.

    A difference reaches it nonetheless, through a whole number or a condition, unless it is
    the shift of a softmax.
    """
    if reading.mode == "difference" and not reading.shifts.issuperset(equation.dependents):
        return handlers.unknown(reading, equation, [])
    return "constant"


def _lets_through(label: str, mode: Mode) -> bool:
    """Tell whether relevance goes back through an operation."""
    frozen = label == "normalizer" and mode == "relevance"
    stopped = label == "stop_gradient" and mode != "difference"
    return label != "constant" and not frozen and not stopped


def _note_choices(item: Item, reading: Reading) -> None:
    """Note where a value that depends on x was made a bool or a whole number."""
    choices = reading.choices
    for equation in item.equations:
        known = next((choices[v] for v in equation.dependents if v in choices), None)
        for out in equation.outputs:
            if out.dependent and out not in reading.data and (known or not out.floating):
                choices[out] = known or equation


def _of_complex(label: str, item: Item, inputs: list[Value], reading: Reading) -> str:
    """Return the kind of an item that takes or makes complex values: no rule reads their signs.

    What is linear is a kind of its own, and so is |z|, the root of re² + im², whose relevance
    is its gradient, too. A constant that is added stays one.
    """
    linear = groups.ROLES.keys() - {"offset"} | {"split"}
    modulus = item.equations[-1].primitive is p.abs_p and len(item.equations) == 1
    if label in linear or modulus:
        return "complex"
    mixed = label == "elementwise" and inputs[0].complex != item.outputs[0].complex
    divides = label == "quotient" and reading.mode == "difference"  # b² + b'² may be 0
    return "other" if mixed or divides or label == "max" else label


# Operations -------------------------------------------------------------------------------------


def _of_group(group: Group, reading: Reading) -> Operation:
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


def _of_item(item: Item, reading: Reading) -> Operation:
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
