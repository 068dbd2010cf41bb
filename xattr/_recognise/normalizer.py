"""Normalizers: one over a deviation or a norm, by which other values are multiplied.

LRP takes a normalizer for a constant (Achtibat et al. 2024, "AttnLRP"): the layer is then linear.
So all that computes it must be found, however it is written: 1/√v, v ** -0.5, or a division by √v.
"""

from xattr._program import jaxpr
from xattr._program.graph import BROADCASTS, Graph
from xattr._program.jaxpr import Equation, Value, p

_STATISTICS = (
    (jaxpr.ELEMENTWISE - {p.exp_p, p.tanh_p, p.logistic_p}) | jaxpr.SUMS | BROADCASTS
) - {p.mul_p}


def find(graph: Graph) -> dict[Value, list[Equation]]:
    """Return the values that only normalize others, each with the equations that make it."""
    found = {}
    for equation in graph.program.equations:
        power = _power(graph, equation)
        if not power or not _only_scales(graph, equation.output, divides=power > 0):
            continue
        region = _statistics(graph, equation)
        if any(e.primitive in jaxpr.SUMS | {p.dot_general_p} for e in region):
            found[equation.output] = region
    return found


def _power(graph: Graph, equation: Equation) -> float:
    """Return 1/2 for a root of a value that depends on x, -1/2 for one over a root, else 0."""
    if not equation.dependents:
        return 0
    if equation.primitive is p.pow_p:
        exponent = graph.static(equation.inputs[1])
        return 0 if exponent is None or abs(exponent) != 1 / 2 else float(exponent)
    return {p.sqrt_p: 0.5, p.rsqrt_p: -0.5}.get(equation.primitive, 0)


def _only_scales(graph: Graph, value: Value, divides: bool) -> bool:
    """Tell whether a value is used only to scale other values that depend on x.

    `divides` is True for a root, by which others are divided, and False for one over a root.
    """
    if value in graph.results or value not in graph.uses:
        return False
    for use in graph.uses[value]:
        if use.primitive in BROADCASTS | {p.max_p, p.add_p} and len(use.dependents) == 1:
            if not _only_scales(graph, use.output, divides):
                return False
        elif use.primitive is p.div_p and divides:
            if use.inputs[1] is not value:
                return False
            alone = len(use.dependents) == 1  # 1 / ‖x‖ must then scale others in its turn
            if alone and not _only_scales(graph, use.output, divides=False):
                return False
        elif use.primitive is p.mul_p and not divides:
            if len(use.dependents) == 1 and not _only_scales(graph, use.output, divides):
                return False
        else:
            return False
    return True


def _statistics(graph: Graph, last: Equation) -> list[Equation]:
    """Return the equations whose results are used for this one alone, in order.

    The centred values of a LayerNorm also go on to the output: they stay outside.
    """
    region = {last}
    todo = [last]
    while todo:
        for value in todo.pop().dependents:
            maker = graph.producer.get(value)
            if maker is None or maker in region:
                continue
            private = all(out not in graph.results for out in maker.outputs) and all(
                use in region for out in maker.outputs for use in graph.uses.get(out, [])
            )
            if private and (maker.primitive in _STATISTICS or _is_square_or_multiple(maker)):
                region.add(maker)
                todo.append(maker)
    return graph.in_order(region)


def _is_square_or_multiple(equation: Equation) -> bool:
    """Tell whether an equation is x · x, or scales one value by a constant."""
    return equation.primitive is p.mul_p and len(equation.dependents) == 1
