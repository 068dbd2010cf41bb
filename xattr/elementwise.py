"""Functions of each element, however they are spelled: found by their form, named by their values.

A value that is computed from another element by element belongs to it. Where such values meet
again, as in x * (x > 0) or where(x > 0, x, 0), all between is one function. Which one is seen by
evaluating it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from xattr import _jaxpr
from xattr._jaxpr import Equation, Value, p
from xattr.graph import BROADCASTS, Graph

KINKED = frozenset({*_jaxpr.SELECTIONS, p.abs_p, p.sign_p, p.floor_p, p.ceil_p, p.round_p})
_BENT = frozenset(
    {
        *(p.tanh_p, p.logistic_p, p.erf_p, p.erfc_p, p.expm1_p, p.custom_jvp_call_p),
        *(p.custom_vjp_call_p, p.atan_p, p.sin_p, p.cos_p),
    }
)

_PROBES = (1e-6, 0.5, 1.0, 3.0, 5.5, 6.5, 9.0, 1e4)
_RECTIFIERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
}


def roots(graph: Graph) -> dict[Value, Value]:
    """Return result -> the value it is a function of, for functions of several equations."""
    finder = _Finder(graph)
    for equation in graph.program.equations:
        finder.follow(equation)
    return finder.roots


class _Finder:
    """One pass over the equations."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.chains: dict[Value, list[Value]] = {}
        self.roots: dict[Value, Value] = {}

    def follow(self, equation: Equation) -> None:
        """Note of which value the result is a function element by element, and the joins."""
        elementwise = equation.primitive in _jaxpr.ELEMENTWISE or (equation.activation)
        dependents = equation.dependents
        if not elementwise or not dependents:
            return
        out = equation.output
        lines = [[v, *self.chains.get(v, [])] for v in dependents]
        common = [v for v in lines[0] if all(v in line for line in lines[1:])]
        common = [v for v in common if v.floating and v.shape == out.shape]
        if not common:
            return
        self.chains[out] = [common[0], *self.chains.get(common[0], [])]
        if not out.floating or not self._joins(equation, dependents):
            return
        self.roots[out] = common[0]

    def _joins(self, equation: Equation, dependents: list[Value]) -> bool:
        """Tell whether an equation makes one activation of all that leads to it."""
        if equation.primitive in _jaxpr.AFFINE_ELEMENTWISE | _jaxpr.COPIES:
            repeated = equation.inputs.count(dependents[0]) > 1
            nonlinear = equation.primitive in (p.mul_p, p.div_p)
            return nonlinear and (len(dependents) > 1 or repeated)
        if len(dependents) > 1:
            return True
        if equation.primitive in (p.max_p, p.min_p, p.clamp_p):  # min(max(x, 0), 6) is one thing
            maker = self.graph.producer.get(dependents[0])
            once = (
                len(self.graph.uses[dependents[0]]) == 1 and dependents[0] not in self.graph.results
            )
            if once and maker and maker.primitive in (p.max_p, p.min_p):
                first = maker.dependents
                if len(first) == 1 and first[0].shape == equation.output.shape:
                    self.chains[equation.output] = [first[0], *self.chains.get(first[0], [])]
                    self.roots[equation.output] = first[0]
        return False


def kind_of(graph: Graph, root: Value, equations: list[Equation]) -> tuple[str, float]:
    """Return the kind of a function of each element, found by evaluating it."""
    smooth = not any(e.primitive in KINKED for e in opened(equations))
    probes = _probes(graph, equations)
    values = _evaluated(equations, root, graph.static, probes)
    if values is not None:
        for kind, expected in _RECTIFIERS.items():
            if np.array_equal(values, expected(probes)):
                return kind, 0.0
        negative = probes < 0
        slope = values[0] / probes[0]
        linear = np.allclose(values[negative], slope * probes[negative], rtol=1e-6, atol=0)
        if linear and np.array_equal(values[~negative], probes[~negative]):
            kinds = {True: "leaky_relu", False: "move" if slope == 1 else "activation"}
            return kinds[bool(0 <= slope < 1)], float(slope)
    curved = any(e.primitive in _BENT for e in opened(equations))
    return ("activation" if curved or not smooth else "power"), 0.0


def _probes(graph: Graph, equations: list[Equation]) -> np.ndarray:
    """Return points on all sides of where a function can bend: its numbers, and what they make."""
    numbers = {1.0}
    for equation in opened(equations):
        found = (graph.static(v) for v in equation.inputs)
        numbers.update(abs(float(v)) for v in found if v is not None and np.isfinite(v) and v)
    first = sorted(numbers)[:8]
    bends = {op for a in first for b in first for op in (a, a * b, a / b, a + b, abs(a - b))}
    near = np.outer([*bends, *numbers], [1 - 1e-3, 1, 1 + 1e-3]).ravel()
    points = np.unique([*_PROBES, *near])
    return np.concatenate([-points[::-1], [0.0], points[points > 0]])


def _evaluated(
    equations: list[Equation], root: Value, static: Callable[[Any], Any], probes: np.ndarray
) -> np.ndarray | None:
    """Return the values of a piecewise linear function of each element, or None."""
    env: dict[Any, Any] = {root: probes}

    def operand(atom: Any) -> Any:
        if isinstance(atom, Value) and atom in env:
            return env[atom]
        return static(atom)

    for equation in equations:
        values = [operand(v) for v in equation.inputs]
        if any(v is None for v in values):
            return None
        if equation.is_call:
            body = equation.bodies[0]
            inner = dict(zip(body.inputs, values, strict=True))
            for step in body.equations:
                done = _step(
                    step, [inner.get(v) if isinstance(v, Value) else static(v) for v in step.inputs]
                )
                if done is None:
                    return None
                inner[step.output] = done
            result = _operand_of(body.outputs[0], inner)
        else:
            result = _step(equation, values)
        if result is None:
            return None
        env[equation.output] = result
    return np.asarray(np.ones_like(probes) * np.asarray(env[equations[-1].output], float))


def _operand_of(atom: Any, env: dict[Any, Any]) -> Any:
    """Return the value of an atom, or None."""
    return atom.value if isinstance(atom, _jaxpr.Literal) else env.get(atom)


def _step(equation: Equation, values: list[Any]) -> Any:
    function = _NUMPY.get(equation.primitive)
    if function is None or any(v is None for v in values):
        return None
    with np.errstate(all="ignore"):
        return function(*values)


def opened(equations: list[Equation]) -> Iterable[Equation]:
    """Yield equations and those in the bodies of calls."""
    for equation in equations:
        yield equation
        for body in equation.bodies:
            yield from _jaxpr.all_equations(body)


_NUMPY: dict[Any, Callable[..., Any]] = {
    p.max_p: np.maximum,
    p.min_p: np.minimum,
    p.clamp_p: lambda low, x, high: np.minimum(np.maximum(x, low), high),
    p.select_n_p: lambda which, *cases: np.choose(np.asarray(which, int), cases),
    p.mul_p: np.multiply,
    p.div_p: np.divide,
    p.add_p: np.add,
    p.sub_p: np.subtract,
    p.neg_p: np.negative,
    p.abs_p: np.abs,
    p.sign_p: np.sign,
    p.gt_p: np.greater,
    p.ge_p: np.greater_equal,
    p.lt_p: np.less,
    p.le_p: np.less_equal,
    p.ne_p: np.not_equal,
    p.eq_p: np.equal,
    p.and_p: np.logical_and,
    p.or_p: np.logical_or,
    p.not_p: np.logical_not,
    **dict.fromkeys(BROADCASTS - {p.reduce_precision_p}, lambda x: x),
}
"""Piecewise linear functions of one element: enough to tell a ReLU however it is spelled."""
