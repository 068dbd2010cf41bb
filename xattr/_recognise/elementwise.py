"""Functions of each element, however they are composed: found by their form, named by their values.

A value that is computed element by element from another one alone belongs to it. All that lies
between the two is one function, unless a layer, a bias or a ReLU has to be seen in it. Which
function it is, its values at some points tell.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from xattr._program import jaxpr
from xattr._program.graph import BROADCASTS, Graph
from xattr._program.jaxpr import Equation, Value, p

KINKED = frozenset(
    {
        *(*jaxpr.SELECTIONS, *jaxpr.COMPARISONS),
        *(p.abs_p, p.sign_p, p.floor_p, p.ceil_p, p.round_p),
    }
)
_BENT = frozenset(
    {
        *(p.tanh_p, p.logistic_p, p.erf_p, p.erfc_p, p.expm1_p, p.custom_jvp_call_p),
        *(p.custom_vjp_call_p, p.atan_p, p.sin_p, p.cos_p),
    }
)
_AFFINE = jaxpr.AFFINE_ELEMENTWISE | jaxpr.COPIES
_POLYNOMIAL = _AFFINE | {p.square_p, p.integer_pow_p}

RECTIFIERS = ("relu", "relu6", "leaky_relu")

_PROBES = (1e-6, 0.5, 1.0, 3.0, 5.5, 6.5, 9.0, 1e4)
_VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
}


class Regions:
    """Where a program computes functions of each element.

    `ends` are values that other groups make: no function reaches over them. `whole` takes
    relu(x) − relu(x − 1) and the like for one function, too, instead of ReLUs and a sum.
    """

    def __init__(self, graph: Graph, ends: Iterable[Value], whole: bool) -> None:
        self.graph = graph
        self.whole = whole
        self._ends = frozenset(ends)
        self._before: dict[Value, list[Value]] = {}
        for equation in graph.program.equations:
            self._follow(equation)

    def _follow(self, equation: Equation) -> None:
        """Note of which values the result is a function element by element, the nearest first."""
        dependents = equation.dependents
        elementwise = equation.primitive in jaxpr.ELEMENTWISE or equation.activation
        if not elementwise or not dependents or equation.output in self._ends:
            return
        if any(v.complex != equation.output.complex for v in dependents):
            return  # |z| z is a function of z, but has no derivative with respect to it
        lines = [[v, *self._before.get(v, [])] for v in dependents]
        shape = equation.output.shape
        common = [v for v in lines[0] if all(v in line for line in lines[1:]) and v.shape == shape]
        if common:
            self._before[equation.output] = common

    def root(self, out: Value) -> Value | None:
        """Return the value that `out` is a function of, or None if an affine group makes `out`."""
        if not out.floating or not (line := self._line(out)):
            return None
        root = line[-1]
        region = self.graph.between(root, out)
        if all(map(_is_affine, region)):
            return None
        if self._rectifier(root, out):
            return root
        if not self.whole and any(e.primitive in KINKED for e in opened(region)):
            pieces = self._pieces([*line[::-1], out])
            kinds = {kind for _, kind in pieces}
            if "activation" not in kinds and not kinds.isdisjoint(RECTIFIERS):
                root, kind = pieces[-1]
                if kind in ("affine", "sum"):
                    return None
        return root if root.dtype == out.dtype else None

    def _line(self, out: Value) -> list[Value]:
        """Return the values that `out` is made of one after the other, the nearest first.

        The line ends at a value that something else uses, and before a layer or a bias. Its last
        value has the type of `out`.
        """
        line: list[Value] = []
        value = out
        for root in self._before.get(out, []):
            if not root.floating or not self._belongs(root, value):
                break
            line.append(root)
            inside = self.graph.between(root, out)
            if root in self.graph.results or any(e not in inside for e in self.graph.uses[root]):
                break
            value = root
        while line and line[-1].dtype != out.dtype:
            line.pop()
        return line

    def _belongs(self, root: Value, value: Value) -> bool:
        """Tell whether all that makes a value from another is a part of one function.

        Arrays that scale or shift are weights and biases, except where they are joined with the
        value itself, as in x * sigmoid(β * x) and max(x, 0) + β * min(x, 0). What is added to a
        value because of a choice, as in x + where(x > 0, 0, -inf), is a term of its own.
        """
        last = self.graph.producer[value]
        if last.primitive is p.select_n_p and last.dependents == [root]:
            return last.inputs[0] in last.dependents  # else a mask
        if last.primitive not in _AFFINE or (_is_product(last) and not _is_affine(last)):
            return True
        if any(self._is_chosen(v, root) for v in last.dependents):
            return False
        bound = _AFFINE if last.dependents == [root] else jaxpr.ADDITIONS
        steps = (e for e in self.graph.between(root, value) if e.primitive in bound)
        fixed = (v for e in steps for v in e.inputs if v not in e.dependents)
        return all(self.graph.static(v, arrays=False) is not None for v in fixed)

    def _is_chosen(self, value: Value, root: Value) -> bool:
        """Tell whether a value depends on another through a bool or a whole number alone."""
        line = [value, *self._before.get(value, [])]
        return value is not root and not all(v.floating for v in line[: line.index(root)])

    def _rectifier(self, root: Value, out: Value) -> str:
        """Return which rectifier a function is, or ""."""
        if root.dtype != out.dtype:
            return ""
        return rectifier(self.graph, root, self.graph.between(root, out))[0]

    def _pieces(self, values: Sequence[Value]) -> list[tuple[Value, str]]:
        """Return what makes each value of a line from the one before: (where it begins, its kind).

        Rectifiers are as long as can be, and so is what lies between them.
        """
        pieces: list[tuple[Value, str]] = []
        place, last, open_ = 0, len(values) - 1, None
        while place < last:
            root = values[place]
            found = ((i, self._rectifier(root, values[i])) for i in range(last, place, -1))
            end, kind = next(((i, kind) for i, kind in found if kind), (place + 1, ""))
            terms = [] if kind else self._terms(root, values[end])
            if kind or terms:
                pieces += [self._piece(open_, root)] if open_ else []
                if kind == "relu6" and open_ and self._is_shifted(open_, root):
                    kind = "activation"  # a hard sigmoid
                pieces += terms or [(root, kind)]
            open_ = None if kind or terms else open_ or root
            place = end
        return [*pieces, self._piece(open_, values[-1])] if open_ else pieces

    def _piece(self, root: Value, out: Value) -> tuple[Value, str]:
        equations = self.graph.between(root, out)
        affine = all(map(_is_affine, equations))
        return root, "affine" if affine else kind_of(self.graph, root, equations)[0]

    def _terms(self, root: Value, out: Value) -> list[tuple[Value, str]]:
        """Return the pieces of the terms of a sum, and the sum; nothing if it is none."""
        last = self.graph.producer[out]
        if last.primitive not in jaxpr.ADDITIONS or last.dependents == [root]:
            return []
        pieces = []
        for term in last.dependents:
            line = [term, *self._before[term]] if term is not root else [root]
            pieces += self._pieces(line[: line.index(root) + 1][::-1])
        return [*pieces, (root, "sum")]

    def _is_shifted(self, root: Value, out: Value) -> bool:
        equations = self.graph.between(root, out)
        shifted = any(e.primitive in jaxpr.ADDITIONS for e in equations)
        return shifted and all(map(_is_affine, equations))


def _is_product(equation: Equation) -> bool:
    return equation.primitive in (p.mul_p, p.div_p)


def _is_affine(equation: Equation) -> bool:
    """Tell whether an equation is affine in all that depends on x."""
    if not _is_product(equation):
        return equation.primitive in _AFFINE
    places = [v for v in equation.inputs if v in equation.dependents]
    return len(places) == 1 and (equation.primitive is p.mul_p or places[0] is equation.inputs[0])


def _divides(equation: Equation) -> bool:
    """Tell whether something is divided by what depends on x."""
    return equation.primitive is p.div_p and not _is_affine(equation)


def kind_of(graph: Graph, root: Value, equations: list[Equation]) -> tuple[str, float]:
    """Return the kind of a function of each element, found by evaluating it, and its slope.

    A power, an exponential, a logarithm, a polynomial, and what negative numbers have no value of:
    "power". Any other function that is no rectifier gates or saturates: "activation".
    """
    kind, slope = rectifier(graph, root, equations)
    if kind:
        return kind, slope
    steps = list(opened(equations))
    if any(e.primitive in KINKED for e in steps):
        stops = any(e.origin.primitive is p.stop_gradient_p for e in steps)
        return ("move" if slope == 1 and not stops else "activation"), slope
    if any(e.primitive in _BENT for e in steps):
        return "activation", 0.0
    curves = [e for e in steps if e.primitive not in _POLYNOMIAL or _divides(e)]
    joined = any(e not in curves and not _is_affine(e) for e in steps)
    composed = len(curves) > 1 or (curves and joined)
    return ("activation" if composed and _is_defined(graph, root, equations) else "power"), 0.0


def rectifier(graph: Graph, root: Value, equations: list[Equation]) -> tuple[str, float]:
    """Return which rectifier a function is, or "", and the slope of its straight negative side."""
    if not any(e.primitive in KINKED for e in opened(equations)):
        return "", 0.0
    probes = _probes(graph, equations)
    values = _evaluated(equations, root, graph.static, probes)
    if values is None:
        return "", 0.0
    for kind, expected in _VALUES.items():
        if np.array_equal(values, expected(probes)):
            return kind, 0.0
    negative = probes < 0
    slope = float(values[0] / probes[0])
    straight = np.allclose(values[negative], slope * probes[negative], rtol=1e-6, atol=0)
    if not straight or not np.array_equal(values[~negative], probes[~negative]):
        return "", 0.0
    return ("leaky_relu" if 0 <= slope < 1 else ""), slope


def _is_defined(graph: Graph, root: Value, equations: list[Equation]) -> bool:
    """Tell whether a function has a finite value at every number, as far as can be seen."""

    def number(atom: Any) -> Any:
        known = graph.static(atom)
        return 1.0 if known is None else known

    values = _evaluated(equations, root, number, np.linspace(-9, 9, 37))
    return values is None or bool(np.isfinite(values).all())


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
    """Return the values of a function of each element, or None where it is not known."""
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
    return atom.value if isinstance(atom, jaxpr.Literal) else env.get(atom)


def _step(equation: Equation, values: list[Any]) -> Any:
    function = _NUMPY.get(equation.primitive)
    if equation.primitive is p.integer_pow_p:
        function = functools.partial(_power, equation.params["y"])
    if equation.primitive is p.convert_element_type_p and not equation.output.floating:
        function = np.trunc if equation.output.dtype != bool else lambda x: np.asarray(x) != 0
    if function is None or any(v is None for v in values):
        return None
    with np.errstate(all="ignore"):
        return function(*values)


def _power(exponent: int, x: Any) -> Any:
    return np.power(np.asarray(x, float), exponent)


def opened(equations: list[Equation]) -> Iterable[Equation]:
    """Yield equations and those in the bodies of calls."""
    for equation in equations:
        yield equation
        for body in equation.bodies:
            yield from jaxpr.all_equations(body)


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
    p.exp_p: np.exp,
    p.exp2_p: np.exp2,
    p.log_p: np.log,
    p.log1p_p: np.log1p,
    p.sqrt_p: np.sqrt,
    p.rsqrt_p: lambda x: 1 / np.sqrt(x),
    p.cbrt_p: np.cbrt,
    p.square_p: np.square,
    p.pow_p: np.power,
    p.cosh_p: np.cosh,
    p.sinh_p: np.sinh,
    **dict.fromkeys(BROADCASTS - {p.reduce_precision_p}, lambda x: x),
}
"""Functions of one element, without those that make an activation wherever they appear."""
