"""What the equations of a traced program are: layers, activations, products, pools, sums.

An *operation* is an equation, or a group of equations, that one backward rule treats together: an
affine layer with its bias and normalization, an activation however it is spelled. Operations are
found by what the equations compute, never by the names of modules.

`grouping` finds the operations. The passes here add what only the whole program tells: what the
outputs need, which layer sees x, which layer is the last, and what the bodies of loops are. A pass
returns new operations and changes none.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from xattr._program import jaxpr
from xattr._program.jaxpr import Equation, Program, Value, p
from xattr._recognise.grouping import operations_of
from xattr._recognise.operation import Mode, Operation, Recognised


def recognise(
    program: Program,
    mode: Mode,
    zone: Sequence[bool] | None = None,
    inside: bool = False,
    data: Sequence[bool] | None = None,
) -> Recognised:
    """Return a program as a list of operations.

    `zone` tells which inputs are x itself, and `data` which inputs carry relevance. If None, both
    are the inputs that depend on x. `inside` is True where layers may come after the program.
    """
    found, _ = operations_of(program, mode, data)
    needed = _set_apart(program, found, mode)
    flags = [v.dependent for v in program.inputs] if zone is None else zone
    seen = {v for v, flag in zip(program.inputs, flags, strict=True) if flag}
    operations, seen = _placed(needed, seen, inside)
    return Recognised(program, [_with_bodies(each, mode, seen, inside) for each in operations])


def _set_apart(program: Program, operations: list[Operation], mode: Mode) -> list[Operation]:
    """Make a constant of each operation whose results reach f only where no relevance goes back."""
    reached = {v for v in program.outputs if isinstance(v, Value)}
    ends = {"constant", "stop_gradient", *(["normalizer"] if mode == "relevance" else [])}
    found: list[Operation] = []
    for operation in reversed(operations):
        if operation.kind in ends:
            found.append(operation)
        elif reached.isdisjoint(operation.outputs):
            constants = [*operation.inputs, *operation.constants]
            found.append(
                dataclasses.replace(operation, kind="constant", inputs=[], constants=constants)
            )
        else:
            found.append(operation)
            reached.update(operation.inputs)
            if mode == "difference":  # a factor of a layer may differ at the reference
                reached.update(operation.constants)
    return found[::-1]


# The place in the program -----------------------------------------------------------------------


def _placed(
    operations: list[Operation], zone: set[Value], inside: bool
) -> tuple[list[Operation], set[Value]]:
    """Return the operations with what their places tell, and the zone of x.

    `zone` are the inputs that are x itself; the zone of x is they, and what is x moved or scaled.
    """
    zone = set(zone)
    positive: set[Value] = set()
    readers = Counter(v for each in operations for v in {*each.inputs, *each.constants})
    found: list[Operation] = []
    for operation, last in zip(operations, _are_last(operations, inside), strict=True):
        inputs, kind = operation.inputs, operation.kind
        seen = bool(inputs) and all(v in zone for v in inputs)
        moves = kind == "move" or operation.resamples or is_elementwise_affine(operation)
        nonnegative = bool(inputs) and all(v in positive for v in inputs)
        if seen and moves:
            zone.update(operation.outputs)
        if kind in ("relu", "relu6") or (nonnegative and _keeps_signs(operation)):
            positive.update(operation.outputs)
        found.append(
            dataclasses.replace(
                operation,
                index=len(found),
                sees_input=seen,
                moves_input=seen and moves,
                nonnegative=nonnegative,
                branches=kind == "sum" and len(inputs) > 1 and readers[operation.output] > 1,
                last=last,
            )
        )
    return found, zone


def _are_last(operations: list[Operation], inside: bool) -> list[bool]:
    """Tell for each operation whether no layer comes after it."""
    flags: list[bool] = []
    reached: set[Value] = set()
    for operation in reversed(operations):
        after = any(v in reached for v in operation.outputs)
        flags.append(not after and not inside)
        if after or operation.is_layer or _holds_layers(operation):
            reached.update(operation.inputs)
    return flags[::-1]


def _holds_layers(operation: Operation) -> bool:
    """Tell whether a loop, branch or checkpoint has a product with weights in it."""
    bodies = [body for e in operation.equations if not e.is_call for body in e.bodies]
    return any(
        e.primitive in jaxpr.WEIGHTED for b in bodies for e in jaxpr.all_equations(b.equations)
    )


def _keeps_signs(operation: Operation) -> bool:
    """Tell whether an operation makes no negative number of numbers that are not."""
    data = operation.data
    keeps = operation.kind in ("move", "max", "sum")
    return keeps and all(_keeps_sign(e, data) for e in operation.equations)


def _keeps_sign(equation: Equation, data: set[Value]) -> bool:
    if equation.primitive in (p.mul_p, p.div_p):
        factors = [v for v in equation.inputs if isinstance(v, jaxpr.Literal)]
        return bool(factors) and not np.any(np.asarray(factors[0].value) < 0)
    if equation.primitive in (p.neg_p, p.sub_p):
        return False
    # These join values. A constant among them may be negative.
    joins = (p.add_p, p.add_jaxvals_p, p.min_p, p.concatenate_p, p.stack_p)
    return equation.primitive not in joins or all(v in data for v in equation.inputs)


def is_elementwise_affine(operation: Operation) -> bool:
    """Tell whether each element of one value is scaled and shifted: a normalization of x."""
    if operation.kind not in ("sum", "scale") or len(operation.inputs) != 1:
        return False
    plain = jaxpr.AFFINE_ELEMENTWISE | jaxpr.MOVES
    if not all(e.primitive in plain for e in operation.equations):
        return False
    data = operation.data
    return all(sum(v in data for v in e.inputs) == 1 for e in operation.equations)  # not x + x


# Loops, branches and checkpoints ----------------------------------------------------------------


def _with_bodies(operation: Operation, mode: Mode, seen: set[Value], inside: bool) -> Operation:
    """Return a loop, branch or checkpoint with its bodies recognised; others as they are."""
    if operation.kind != "control":
        return operation
    equation = operation.equations[0]
    data = [isinstance(v, Value) and v in operation.inputs for v in equation.inputs]
    zone = [flag and v in seen for v, flag in zip(equation.inputs, data, strict=True)]
    if equation.primitive is p.cond_p:  # its first operand is the number of the branch
        zone, data = zone[1:], data[1:]
    known = None if mode == "difference" else data
    bodies = [(body, known) for body in equation.bodies]
    if equation.primitive is p.scan_p:
        constants, carried = jaxpr.scan_counts(equation)
        loop = slice(constants, constants + carried)
        zone[loop] = [False] * carried
        bodies = _steps(equation, mode, known, loop)
    inside = inside or equation.primitive is p.scan_p or not operation.last
    return dataclasses.replace(
        operation, bodies=[recognise(body, mode, zone, inside, flags) for body, flags in bodies]
    )


def _steps(
    equation: Equation, mode: Mode, data: list[bool] | None, loop: slice
) -> list[tuple[Program, list[bool] | None]]:
    """Return the body of a loop and which inputs carry relevance, for its first steps and the rest.

    What a loop carries may be a constant at first, as the state of a recurrent network is. Its
    product with weights is then part of a bias, as it is where the steps are written one by one.
    """
    programs = [*equation.first_steps, *equation.bodies]
    if data is None:
        return [(program, None) for program in programs]
    steps: list[tuple[Program, list[bool] | None]] = []
    while True:
        program = programs[min(len(steps), len(programs) - 1)]
        steps.append((program, data))
        _, after = operations_of(program, mode, data)
        merged = [a or b for a, b in zip(data[loop], after, strict=False)]
        if merged == data[loop] and program is programs[-1]:
            return steps
        data = [*data[: loop.start], *merged, *data[loop.stop :]]
