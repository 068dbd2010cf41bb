"""Softmax, log-softmax and logsumexp: several equations that are one thing to a rule."""

from typing import Any

import numpy as np

from xattr._program import jaxpr
from xattr._program.graph import BROADCASTS, Graph
from xattr._program.jaxpr import Equation, Value, p

_SOFTMAX = (
    {p.exp_p, p.reduce_sum_p, p.div_p, p.sub_p, p.add_p, p.log_p, p.abs_p, p.sign_p, p.max_p}
    | {p.select_n_p, p.is_finite_p}
    | BROADCASTS
)


def find(graph: Graph) -> dict[Value, tuple[str, Value]]:
    """Find softmax, log-softmax and logsumexp: result -> (kind, what they are taken of)."""
    found = {}
    for equation in graph.program.equations:
        kind, exponential = _softmax_of(graph, equation)
        if exponential is None:
            continue
        root = _unshifted(graph, exponential.dependents[0])
        region = graph.between(root, equation.output)
        known = all(e.primitive in _SOFTMAX for e in region)
        if known and _is_aligned(region, root, equation):
            found[equation.output] = (kind, root)
    return found


def _softmax_of(graph: Graph, equation: Equation) -> tuple[str, Equation | None]:
    """Return the kind of softmax that an equation ends, and its exponential."""
    operands = equation.inputs
    pair = len(equation.dependents) == 2 and len(operands) == 2
    if equation.primitive is p.div_p and pair:
        exponential = _summed_exponential(graph, graph.source(operands[1], BROADCASTS))
        top = graph.source(operands[0], jaxpr.COPIES)
        if top is None or exponential is None or top.primitive is not p.exp_p:
            return "", None
        return "softmax", exponential if top.inputs[0] is exponential.inputs[0] else None
    if equation.primitive is p.sub_p and pair:
        exponential = _logged_exponential(graph, graph.source(operands[1], BROADCASTS))
        shifted = exponential is not None and exponential.inputs[0] is operands[0]
        return "log_softmax", exponential if shifted else None
    if equation.primitive is p.add_p and pair:
        for one, other in (operands, operands[::-1]):
            exponential = _logged_exponential(graph, graph.source(one, BROADCASTS))
            if exponential and _is_shift(graph, other, exponential.inputs[0]):
                return "logsumexp", exponential
    if equation.primitive is p.log_p and equation.dependents:
        exponential = _logged_exponential(graph, equation)
        if (
            exponential is not None
            and _unshifted(graph, exponential.inputs[0]) is exponential.inputs[0]
        ):
            return "logsumexp", exponential
    return "", None


def _summed_exponential(graph: Graph, total: Equation | None) -> Equation | None:
    if total is None or total.primitive is not p.reduce_sum_p or not total.dependents:
        return None
    mask = graph.source(total.dependents[0], jaxpr.COPIES)
    if mask is None or mask.primitive is not p.select_n_p:
        return mask if mask is not None and mask.primitive is p.exp_p else None
    exponential = graph.source(mask.dependents[0], jaxpr.COPIES)
    if exponential is None or exponential.primitive is not p.exp_p:
        return None
    return exponential if _masks_infinities(graph, mask, exponential) else None


def _masks_infinities(graph: Graph, mask: Equation, exponential: Equation) -> bool:
    """Tell whether a mask only drops terms that are exp(−∞), as jax.nn.softmax(where=...) does."""
    earlier = graph.producer.get(_unshifted(graph, exponential.dependents[0]))
    if earlier is None or earlier.primitive is not p.select_n_p:
        return False
    if len(mask.inputs) != 3 or mask.inputs[0] is not earlier.inputs[0]:
        return False
    for dropped, kept in ((1, 2), (2, 1)):
        values = [graph.static(e.inputs[dropped]) for e in (mask, earlier)]
        if all(v is not None for v in values) and values[0] == 0 and values[1] == -np.inf:
            return mask.inputs[kept] in mask.dependents
    return False


def _is_aligned(region: list[Equation], root: Value, last: Equation) -> bool:
    """Tell whether a sum over some axes comes back to just these axes."""
    total = next((e for e in region if e.primitive is p.reduce_sum_p), None)
    if total is None or total.dependents[0].shape != root.shape:
        return False
    axes = tuple(total.params["axes"])
    kept = tuple(i for i in range(len(root.shape)) if i not in axes)
    short = tuple(root.shape[i] for i in kept)
    long = tuple(1 if i in axes else n for i, n in enumerate(root.shape))
    forms = {total.output: "short"}
    for equation in region:
        source = next((forms[v] for v in equation.dependents if v in forms), None)
        if source is None or equation is total:
            continue
        if equation is last and equation.primitive in (p.div_p, p.sub_p):
            return source == "long" or not short
        shape = equation.output.shape
        if equation.primitive is p.broadcast_in_dim_p:
            dims = tuple(equation.params["broadcast_dimensions"])
            fits = dims == (kept if source == "short" else tuple(range(len(long))))
            source = "long" if fits and len(shape) == len(root.shape) else ""
        elif equation.primitive in (p.reshape_p, p.squeeze_p):
            source = {long: "long", short: "short"}.get(shape, "")
        if not source:
            return False
        forms[equation.output] = source
    return last.output.shape in (short, long)


def _logged_exponential(graph: Graph, log: Equation | None) -> Equation | None:
    if log is None or log.primitive is not p.log_p or not log.dependents:
        return None
    return _summed_exponential(graph, graph.source(log.dependents[0], BROADCASTS | {p.abs_p}))


def _unshifted(graph: Graph, value: Value) -> Value:
    """Return x where the value is x − max(x), else the value."""
    equation = graph.producer.get(value)
    if equation is None or equation.primitive is not p.sub_p or len(equation.dependents) != 2:
        return value
    left, right = equation.inputs
    stopped = graph.source(right, BROADCASTS)
    shifted = stopped is not None and stopped.primitive is p.stop_gradient_p
    return left if shifted and isinstance(left, Value) else value


def _is_shift(graph: Graph, value: Any, shifted: Value) -> bool:
    """Tell whether a value is what was subtracted from another."""
    equation = graph.producer.get(shifted)
    if equation is None or equation.primitive is not p.sub_p:
        return False
    stopped = [graph.source(v, BROADCASTS) for v in (value, equation.inputs[1])]
    return stopped[0] is stopped[1] and stopped[0] is not None


def only_in_softmax(graph: Graph, value: Value, within: set[Equation]) -> bool:
    """Tell whether a stopped value is but the shift of softmaxes, which do not depend on it."""
    if value in graph.results:
        return False
    return all(
        use in within
        or (use.primitive in BROADCASTS and only_in_softmax(graph, use.output, within))
        for use in graph.uses.get(value, [])
    )


def is_largest(graph: Graph, inputs: list[Value]) -> bool:
    """Tell whether a value is a maximum, copied or kept finite: max(x), as softmax shifts by."""
    equation = graph.producer.get(inputs[0]) if inputs else None
    while equation and equation.primitive in BROADCASTS | {p.max_p, p.select_n_p}:
        operands = [v for v in equation.inputs if isinstance(v, Value) and v.dependent]
        floats = [v for v in operands if v.floating]
        equation = graph.producer.get(floats[0]) if len(floats) == 1 else None
    return equation is not None and equation.primitive is p.reduce_max_p
