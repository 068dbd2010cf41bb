"""Softmax, log-softmax and logsumexp: several equations that are one operation to a rule.

They are found from their ends: a quotient, a difference or a logarithm, behind which there is a sum
of exponentials. `jax.nn` writes them with the maximum of x subtracted from x, behind a
`stop_gradient`, and with masks. Their values do not depend on that shift, so a rule need not see
it. By hand they are often written without it.
"""

from typing import Any, NamedTuple

import numpy as np

from xattr._program import jaxpr
from xattr._program.graph import BROADCASTS, Graph
from xattr._program.jaxpr import Equation, Value, p

_SOFTMAX = (
    {p.exp_p, p.reduce_sum_p, p.div_p, p.sub_p, p.add_p, p.log_p, p.abs_p, p.sign_p, p.max_p}
    | {p.select_n_p, p.is_finite_p}
    | BROADCASTS
)
"""What may lie between x and its softmax."""


class Softmax(NamedTuple):
    """What a value was found to be."""

    kind: str
    root: Value
    """What the softmax is taken of."""
    equations: list[Equation]
    """The equations between the two, in order."""


def find(graph: Graph) -> dict[Value, Softmax]:
    """Return the values that are a softmax, a log-softmax or a logsumexp."""
    found = {}
    for equation in graph.program.equations:
        kind, exponential = _softmax_of(graph, equation)
        if exponential is None:
            continue
        root = _unshifted(graph, exponential.dependents[0])
        inside = graph.between(root, equation.output)
        known = all(e.primitive in _SOFTMAX for e in inside)
        if known and _is_aligned(inside, root, equation):
            found[equation.output] = Softmax(kind, root, inside)
    return found


def _softmax_of(graph: Graph, equation: Equation) -> tuple[str, Equation | None]:
    """Return the kind of softmax that an equation ends, and its exponential."""
    operands = equation.inputs
    pair = len(equation.dependents) == 2 and len(operands) == 2
    if equation.primitive is p.div_p and pair:  # exp(x − m) / Σ exp(x − m)
        exponential = _summed_exponential(graph, graph.source(operands[1], BROADCASTS))
        top = graph.source(operands[0], jaxpr.COPIES)
        if top is None or exponential is None or top.primitive is not p.exp_p:
            return "", None
        return "softmax", exponential if top.inputs[0] is exponential.inputs[0] else None
    if equation.primitive is p.sub_p and pair:  # (x − m) − log Σ exp(x − m)
        exponential = _logged_exponential(graph, graph.source(operands[1], BROADCASTS))
        shifted = exponential is not None and exponential.inputs[0] is operands[0]
        return "log_softmax", exponential if shifted else None
    if equation.primitive is p.add_p and pair:  # m + log Σ exp(x − m)
        for one, other in (operands, operands[::-1]):
            exponential = _logged_exponential(graph, graph.source(one, BROADCASTS))
            if exponential and _is_shift(graph, other, exponential.inputs[0]):
                return "logsumexp", exponential
    if equation.primitive is p.log_p and equation.dependents:  # log Σ exp(x), written without m
        exponential = _logged_exponential(graph, equation)
        if (
            exponential is not None
            and _unshifted(graph, exponential.inputs[0]) is exponential.inputs[0]
        ):
            return "logsumexp", exponential
    return "", None


def _summed_exponential(graph: Graph, total: Equation | None) -> Equation | None:
    """Return the exponential that a sum is taken of, also under a mask; None if there is none."""
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
    """Tell whether a mask only drops terms that are exp(−∞), as jax.nn.softmax(where=...) does.

    A mask that drops others makes a sum over a part: what is divided by it is not a softmax.
    """
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


def _is_aligned(inside: list[Equation], root: Value, last: Equation) -> bool:
    """Tell whether a sum over some axes comes back to just these axes.

    exp(x) / exp(x).sum(1)[None] divides by the sums of other rows: it is not a softmax. The sums
    are followed on their way to the end. They have a "short" form, without the axes that were
    summed over, and a "long" form, in which those axes have length 1 or are repeated.
    """
    total = next((e for e in inside if e.primitive is p.reduce_sum_p), None)
    if total is None or total.dependents[0].shape != root.shape:
        return False
    axes = tuple(total.params["axes"])
    kept = tuple(i for i in range(len(root.shape)) if i not in axes)
    short = tuple(root.shape[i] for i in kept)
    long = tuple(1 if i in axes else n for i, n in enumerate(root.shape))
    forms = {total.output: "short"}
    for equation in inside:
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
    """Return the exponential of log Σ exp(x), or of log |Σ exp(x)| as jax.nn.logsumexp writes."""
    if log is None or log.primitive is not p.log_p or not log.dependents:
        return None
    return _summed_exponential(graph, graph.source(log.dependents[0], BROADCASTS | {p.abs_p}))


# The shift --------------------------------------------------------------------------------------


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


def shifts(graph: Graph, softmaxes: dict[Value, Softmax]) -> frozenset[Value]:
    """Return the values that softmaxes are shifted by, and nothing else is made of.

    Any other stopped gradient is an operation of its own: f depends on its value.
    """
    within = {e for each in softmaxes.values() for e in each.equations}
    found: set[Value] = set()
    for equation in graph.program.equations:
        shift = equation.primitive is p.stop_gradient_p and _only_in_softmax(
            graph, equation.output, within
        )
        if shift or (found and equation.dependents and found.issuperset(equation.dependents)):
            found.update(equation.outputs)
    return frozenset(found)


def _only_in_softmax(graph: Graph, value: Value, within: set[Equation]) -> bool:
    """Tell whether a value is read by softmaxes alone, copied or broadcast at most."""
    if value in graph.results:
        return False
    return all(
        use in within
        or (use.primitive in BROADCASTS and _only_in_softmax(graph, use.output, within))
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
