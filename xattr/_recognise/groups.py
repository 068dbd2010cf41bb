"""Affine groups: a product with weights, its bias and its normalization become one layer."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from xattr._program import jaxpr
from xattr._program.graph import Graph, operands_of
from xattr._program.jaxpr import Equation, Value, p
from xattr._recognise.handlers import Item


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """An affine group that may still grow."""

    kind: str
    """One of `operation.KINDS`, or "products": a sum of products with arrays of weights."""
    equations: list[Equation]
    biased: bool = False
    """Whether a constant was added."""
    resampling: tuple[Equation, ...] = ()
    """Those equations whose weights only move, copy or average."""


_Joined: TypeAlias = tuple[Group, list[Group]]
"""A group, and those that it takes in."""


def grouped(items: list[Item], graph: Graph) -> list[Item | Group]:
    """Return the items, in order, with affine groups in the place of those that have a role."""
    uses = Counter(v for item in items for v in operands_of(item.equations))
    uses.update(dict.fromkeys(graph.results, 2))  # f's results stay what they are
    makers: dict[Value, Group] = {}
    found: dict[Item | Group, None] = {}
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


def _layer(graph: Graph, equation: Equation, groups: Sequence[Group | None]) -> _Joined:
    return Group("conv" if _is_convolution(equation) else "dense", [equation]), []


def _resampled(graph: Graph, equation: Equation, groups: Sequence[Group | None]) -> _Joined:
    return Group("sum", [equation], resampling=(equation,)), []


def _alone(graph: Graph, equation: Equation, groups: Sequence[Group | None]) -> _Joined:
    return Group("move", [equation]), []


def _reduced(graph: Graph, equation: Equation, groups: Sequence[Group | None]) -> _Joined:
    """Return a sum over axes: of products with an array of weights it makes a dense layer."""
    group = groups[0]
    if group and not group.biased and group.kind in ("move", "scale"):
        return _extended(group, equation, "dense" if group.kind == "scale" else "sum")
    return Group("sum", [equation]), []


def _continued(graph: Graph, equation: Equation, groups: Sequence[Group | None]) -> _Joined:
    return _extended(groups[0], equation)


def _scaled(graph: Graph, equation: Equation, groups: Sequence[Group | None]) -> _Joined:
    group = groups[0]
    return _extended(group, equation, group.kind if group and group.kind != "move" else "scale")


def _shifted(graph: Graph, equation: Equation, groups: Sequence[Group | None]) -> _Joined:
    return _extended(groups[0], equation, biased=True)


def _extended(
    group: Group | None, equation: Equation, kind: str = "", biased: bool = False
) -> _Joined:
    """Return the group with one more equation, or a new one of the equation alone."""
    before = group or Group("move", [])
    grown = Group(
        kind or before.kind,
        [*before.equations, equation],
        before.biased or biased,
        before.resampling,
    )
    return grown, [group] if group else []


def _added(graph: Graph, equation: Equation, groups: Sequence[Group | None]) -> _Joined:
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
    return Group(kind, graph.in_order(members), biased, resampling), taken


ROLES: dict[str, Callable[[Graph, Equation, Sequence[Group | None]], _Joined]] = {
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
