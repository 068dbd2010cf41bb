"""What the equations of a traced program are: layers, activations, products, pools, sums.

A *site* is an equation, or a group of equations that one backward rule treats together: an affine
layer with its bias and normalization, an activation however it is spelled. Sites are found by what
the equations compute, never by the names of modules.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from xattr._program import jaxpr
from xattr._program.jaxpr import Equation, Program, Value, p
from xattr._recognise.grouping import sites_of
from xattr._recognise.operation import Mode, Recognised, Site


def recognise(
    program: Program,
    mode: Mode,
    zone: Sequence[bool] | None = None,
    inside: bool = False,
    data: Sequence[bool] | None = None,
) -> Recognised:
    """Find the sites of a program.

    `zone` tells which inputs are x itself, `data` which carry relevance; those that depend on x if
    None. `inside` is True where layers may come after the program.
    """
    sites, _ = sites_of(program, mode, data)
    _set_apart(program, sites, mode)
    flags = [v.dependent for v in program.inputs] if zone is None else zone
    seen = {v for v, flag in zip(program.inputs, flags, strict=True) if flag}
    _mark(program, sites, seen, inside)
    for site in sites:
        if site.kind == "control":
            _recognise_bodies(site, mode, inside)
    for index, site in enumerate(sites):
        site.index = index
    return Recognised(program, sites)


def _set_apart(program: Program, sites: list[Site], mode: Mode) -> None:
    """Make constants of what only leads to values that nothing goes back through."""
    reached = {v for v in program.outputs if isinstance(v, Value)}
    ends = {"constant", "stop_gradient", *(["normalizer"] if mode == "relevance" else [])}
    for site in reversed(sites):
        if site.kind in ends:
            continue
        if reached.intersection(site.outputs):
            reached.update(site.inputs)
            if mode == "difference":  # what a layer is multiplied by may have another reference
                reached.update(site.constants)
        else:
            site.kind = "constant"
            site.inputs, site.constants = [], [*site.inputs, *site.constants]


def _recognise_bodies(site: Site, mode: Mode, inside: bool) -> None:
    equation = site.equations[0]
    zone = [isinstance(v, Value) and v in site.zone_inputs for v in equation.inputs]
    data = [isinstance(v, Value) and v in site.inputs for v in equation.inputs]
    if equation.primitive is p.cond_p:
        zone, data = zone[1:], data[1:]
    known = None if mode == "difference" else data
    bodies = [(body, known) for body in equation.bodies]
    if equation.primitive is p.scan_p:
        constants, carried = jaxpr.scan_counts(equation)
        loop = slice(constants, constants + carried)
        zone[loop] = [False] * carried
        bodies = _steps(equation, mode, known, loop)
    inside = inside or equation.primitive is p.scan_p or not site.last
    site.bodies = [recognise(body, mode, zone, inside, flags) for body, flags in bodies]


def _steps(
    equation: Equation, mode: Mode, data: list[bool] | None, loop: slice
) -> list[tuple[Program, list[bool] | None]]:
    """Return the body of a loop and which inputs carry relevance, for its first steps and the rest.

    What a loop carries may be a constant at first, as the state of a recurrent network: its
    product with weights is then part of a bias, as it is where the steps are written one by one.
    """
    programs = [*equation.first_steps, *equation.bodies]
    if data is None:
        return [(program, None) for program in programs]
    steps: list[tuple[Program, list[bool] | None]] = []
    while True:
        program = programs[min(len(steps), len(programs) - 1)]
        steps.append((program, data))
        _, after = sites_of(program, mode, data)
        merged = [a or b for a, b in zip(data[loop], after, strict=False)]
        if merged == data[loop] and program is programs[-1]:
            return steps
        data = [*data[: loop.start], *merged, *data[loop.stop :]]


def _mark(program: Program, sites: list[Site], zone: set[Value], inside: bool) -> None:
    """Find first and last layers, sums that branch, and values that cannot be negative."""
    zone = set(zone)
    positive: set[Value] = set()
    readers = Counter(v for site in sites for v in {*site.inputs, *site.constants})
    for site in sites:
        several = site.kind == "sum" and len(site.inputs) > 1
        site.branches = several and readers[site.output] > 1
        seen = bool(site.inputs) and all(v in zone for v in site.inputs)
        site.sees_input = seen
        site.first = seen and site.is_layer
        site.zone_inputs = {v for v in site.inputs if v in zone}
        moves = site.kind == "move" or site.resamples or is_elementwise_affine(site)
        site.moves_input = seen and moves
        if site.moves_input:
            zone.update(site.outputs)
        site.nonnegative = bool(site.inputs) and all(v in positive for v in site.inputs)
        kept = site.nonnegative and site.kind in ("move", "max", "sum")
        if site.kind in ("relu", "relu6") or (
            kept and all(_keeps_sign(e, site.data) for e in site.equations)
        ):
            positive.update(site.outputs)
    reached: set[Value] = set()
    for site in reversed(sites):
        after = any(v in reached for v in site.outputs)
        site.last = not after and not inside
        if after or site.is_layer or _holds_layers(site):
            reached.update(site.inputs)


def _holds_layers(site: Site) -> bool:
    """Tell whether a loop, branch or checkpoint has a product with weights in it."""
    bodies = [body for e in site.equations if not e.is_call for body in e.bodies]
    return any(e.primitive in jaxpr.WEIGHTED for b in bodies for e in jaxpr.all_equations(b))


def _keeps_sign(equation: Equation, data: set[Value]) -> bool:
    """Tell whether an equation makes nothing negative of what is not."""
    if equation.primitive in (p.mul_p, p.div_p):
        factors = [v for v in equation.inputs if isinstance(v, jaxpr.Literal)]
        return bool(factors) and not np.any(np.asarray(factors[0].value) < 0)
    if equation.primitive in (p.neg_p, p.sub_p):
        return False
    needs = (p.add_p, p.add_jaxvals_p, p.min_p, p.concatenate_p, p.stack_p)
    return equation.primitive not in needs or all(v in data for v in equation.inputs)


def is_elementwise_affine(site: Site) -> bool:
    """Tell whether a site scales and shifts each element of one value: a normalization of x."""
    if site.kind not in ("sum", "scale") or len(site.inputs) != 1:
        return False
    plain = jaxpr.AFFINE_ELEMENTWISE | jaxpr.MOVES
    if not all(e.primitive in plain for e in site.equations):
        return False
    data = site.data
    return all(sum(v in data for v in e.inputs) == 1 for e in site.equations)  # not x + x
