"""What the equations of a traced program are: layers, activations, products, pools, sums.

A *site* is an equation, or a group of equations that one backward rule treats together: an affine
layer with its bias and normalization, an activation however it is spelled. Sites are found by what
the equations compute, never by the names of modules.
"""

from collections.abc import Iterable

import numpy as np

from xattr import _jaxpr
from xattr._jaxpr import Equation, Program, Value, p
from xattr.grouping import sites_of
from xattr.sites import Mode, Recognised, Site


def recognise(
    program: Program, mode: Mode, zone: Iterable[bool] | None = None, inside: bool = False
) -> Recognised:
    """Find the sites of a program; `zone` tells which inputs are x itself."""
    sites = sites_of(program, mode)
    flags = [v.dependent for v in program.inputs] if zone is None else list(zone)
    _mark(
        program, sites, {v for v, flag in zip(program.inputs, flags, strict=True) if flag}, inside
    )
    for site in sites:
        if site.kind == "control":
            _recognise_bodies(site, mode, inside)
    for index, site in enumerate(sites):
        site.index = index
    return Recognised(program, sites)


def _recognise_bodies(site: Site, mode: Mode, inside: bool) -> None:
    equation = site.equations[0]
    zone = [isinstance(v, Value) and v in site.zone_inputs for v in equation.inputs]
    looped = inside or equation.primitive is p.scan_p
    if equation.primitive is p.cond_p:
        zone = zone[1:]
    if equation.primitive is p.scan_p:
        constants, carried = _jaxpr.scan_counts(equation.params)
        zone = [flag and not constants <= i < constants + carried for i, flag in enumerate(zone)]
    site.bodies = [recognise(body, mode, zone, looped or not site.last) for body in equation.bodies]


def _mark(program: Program, sites: list[Site], zone: set[Value], inside: bool) -> None:
    """Find first and last layers, and values that cannot be negative."""
    zone = set(zone)
    positive: set[Value] = set()
    for site in sites:
        seen = bool(site.inputs) and all(v in zone for v in site.inputs)
        site.sees_input = seen
        site.first = seen and site.is_layer
        site.zone_inputs = {v for v in site.inputs if v in zone}
        site.moves_input = seen and (site.kind == "move" or is_elementwise_affine(site))
        if site.moves_input:
            zone.update(site.outputs)
        site.nonnegative = bool(site.inputs) and all(v in positive for v in site.inputs)
        keeps = site.kind in ("move", "max") and site.nonnegative
        if keeps and not any(e.primitive is p.neg_p or _negative_factor(e) for e in site.equations):
            positive.update(site.outputs)
        if site.kind in ("relu", "relu6"):
            positive.update(site.outputs)
        if (
            site.kind == "sum"
            and site.nonnegative
            and all(
                e.primitive in _jaxpr.SUMS | _jaxpr.MOVES or _plain_add(e) or _positive_division(e)
                for e in site.equations
            )
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
    return any(e.primitive in _jaxpr.WEIGHTED for b in bodies for e in _jaxpr.all_equations(b))


def _plain_add(equation: Equation) -> bool:
    return equation.primitive in (p.add_p, p.add_jaxvals_p) and len(equation.dependents) == 2


def _positive_division(equation: Equation) -> bool:
    return equation.primitive in (p.div_p, p.mul_p) and not _negative_factor(equation)


def _negative_factor(equation: Equation) -> bool:
    """Tell whether an equation multiplies by what is not known to be positive."""
    if equation.primitive not in (p.mul_p, p.div_p):
        return False
    factors = [v for v in equation.inputs if isinstance(v, _jaxpr.Literal)]
    return not factors or bool(np.any(np.asarray(factors[0].value) < 0))


def is_elementwise_affine(site: Site) -> bool:
    """Tell whether a site scales and shifts each element of one value: a normalization of x."""
    if site.kind not in ("sum", "scale") or len(site.inputs) != 1:
        return False
    plain = _jaxpr.AFFINE_ELEMENTWISE | _jaxpr.MOVES
    if not all(e.primitive in plain for e in site.equations):
        return False
    data = {*site.inputs, *(v for e in site.equations for v in e.outputs)}
    return all(sum(v in data for v in e.inputs) == 1 for e in site.equations)  # not x + x
