"""Functions of each element, however they are composed: found by their form, named by their values.

A value that is computed element by element from one other value alone is a function of it. All
equations between the two are one function, unless a layer, a bias or a ReLU has to be seen among
them. Values at some points tell which function it is: `where(x > 0, x, 0)`, `clip(x, 0)` and
`maximum(x, 0)` are the same ReLU.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from xattr._program import jaxpr
from xattr._program.graph import BROADCASTS, Graph
from xattr._program.jaxpr import Equation, Value, p

_KINKED = frozenset(
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
"""What makes an activation wherever it appears."""
_AFFINE = jaxpr.AFFINE_ELEMENTWISE | jaxpr.COPIES
_POLYNOMIAL = _AFFINE | {p.square_p, p.integer_pow_p}

RECTIFIERS = ("relu", "relu6", "leaky_relu")

_POINTS = (1e-6, 0.5, 1.0, 3.0, 5.5, 6.5, 9.0, 1e4)
_VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Region:
    """The equations, in order, that make a function of each element of `root`."""

    graph: Graph
    root: Value
    equations: list[Equation]

    @functools.cached_property
    def steps(self) -> list[Equation]:
        """The equations, and those in the bodies of calls."""
        return [*jaxpr.all_equations(self.equations)]

    @functools.cached_property
    def is_affine(self) -> bool:
        """Whether every equation is affine in what depends on x."""
        return all(map(_is_affine, self.equations))

    @functools.cached_property
    def has_kinks(self) -> bool:
        """Whether the derivative may jump."""
        return any(e.primitive in _KINKED for e in self.steps)

    @functools.cached_property
    def rectifier(self) -> tuple[str, float]:
        """Which rectifier it is, or "", and the slope of its straight negative side."""
        if not self.has_kinks:
            return "", 0.0
        points = self._points()
        values = _evaluated(self.equations, self.root, self.graph.static, points)
        if values is None:
            return "", 0.0
        for kind, expected in _VALUES.items():
            if np.array_equal(values, expected(points)):
                return kind, 0.0
        negative = points < 0
        slope = float(values[0] / points[0])
        straight = np.allclose(values[negative], slope * points[negative], rtol=1e-6, atol=0)
        if not straight or not np.array_equal(values[~negative], points[~negative]):
            return "", 0.0
        return ("leaky_relu" if 0 <= slope < 1 else ""), slope

    @functools.cached_property
    def kind(self) -> str:
        """The kind of operation.

        A power, an exponential, a logarithm, a polynomial, and a function that negative numbers
        have no value of is a "power". Any other function that is not a rectifier gates or
        saturates: it is an "activation".
        """
        kind, slope = self.rectifier
        if kind:
            return kind
        if self.has_kinks:
            stops = any(e.origin.primitive is p.stop_gradient_p for e in self.steps)
            return "move" if slope == 1 and not stops else "activation"
        if any(e.primitive in _BENT for e in self.steps):
            return "activation"
        curves = [e for e in self.steps if e.primitive not in _POLYNOMIAL or _divides(e)]
        joined = any(e not in curves and not _is_affine(e) for e in self.steps)
        composed = len(curves) > 1 or (curves and joined)
        return "activation" if composed and self._is_defined() else "power"

    @property
    def slope(self) -> float:
        """The slope below zero, if the function is straight there."""
        return self.rectifier[1]

    def _is_defined(self) -> bool:
        """Tell whether the function has a finite value at every number, as far as can be seen."""

        def number(atom: Any) -> Any:
            known = self.graph.static(atom)
            return 1.0 if known is None else known

        values = _evaluated(self.equations, self.root, number, np.linspace(-9, 9, 37))
        return values is None or bool(np.isfinite(values).all())

    def _points(self) -> np.ndarray:
        """Return points on all sides of where the function can bend.

        It bends at its own numbers, or at their sums, products and quotients.
        """
        numbers = {1.0}
        for equation in self.steps:
            found = (self.graph.static(v) for v in equation.inputs)
            numbers.update(abs(float(v)) for v in found if v is not None and np.isfinite(v) and v)
        first = sorted(numbers)[:8]
        bends = {op for a in first for b in first for op in (a, a * b, a / b, a + b, abs(a - b))}
        near = np.outer([*bends, *numbers], [1 - 1e-3, 1, 1 + 1e-3]).ravel()
        points = np.unique([*_POINTS, *near])
        return np.concatenate([-points[::-1], [0.0], points[points > 0]])


class Regions:
    """Where a program computes functions of each element.

    No function reaches over `ends`, the values that other groups make. `whole` takes
    relu(x) − relu(x − 1) and the like for one function, too, instead of ReLUs and a sum.
    """

    def __init__(self, graph: Graph, ends: Iterable[Value], whole: bool) -> None:
        self.graph = graph
        self.whole = whole
        self._ends = frozenset(ends)
        self._before: dict[Value, list[Value]] = {}
        """Of which values a value is a function element by element, the nearest first."""
        for equation in graph.program.equations:
            if values := self._functions_of(equation):
                self._before[equation.output] = values
        self._known: dict[tuple[Value, Value], Region] = {}

    def _functions_of(self, equation: Equation) -> list[Value]:
        """Return the values of which a result is a function element by element."""
        dependents = equation.dependents
        elementwise = equation.primitive in jaxpr.ELEMENTWISE or equation.activation
        if not elementwise or not dependents or equation.output in self._ends:
            return []
        if any(v.complex != equation.output.complex for v in dependents):
            return []  # |z| z is a function of z, but has no derivative with respect to it
        lines = [[v, *self._before.get(v, [])] for v in dependents]
        shape = equation.output.shape
        return [v for v in lines[0] if all(v in line for line in lines[1:]) and v.shape == shape]

    def find(self, out: Value) -> Region | None:
        """Return the function that makes `out`, or None if an affine group or another does."""
        if not out.floating or not (line := self._line(out)):
            return None
        region = self._region(line[-1], out)
        if region.is_affine:
            return None
        if self._rectifier(region.root, out):
            return region
        # A function made of ReLUs and sums is taken apart, so that rules see its ReLUs.
        if not self.whole and region.has_kinks:
            pieces = self._pieces([*line[::-1], out])
            kinds = {kind for _, kind in pieces}
            if "activation" not in kinds and not kinds.isdisjoint(RECTIFIERS):
                root, kind = pieces[-1]
                if kind in ("affine", "sum"):
                    return None
                region = self._region(root, out)
        return region if region.root.dtype == out.dtype else None

    def _region(self, root: Value, out: Value) -> Region:
        """Return the function from one value to another; each is looked at once."""
        if (root, out) not in self._known:
            self._known[root, out] = Region(self.graph, root, self.graph.between(root, out))
        return self._known[root, out]

    def _line(self, out: Value) -> list[Value]:
        """Return the values that `out` is made of one after the other, the nearest first.

        The line ends at a value that something else uses, and before a layer or a bias. Its last
        value has the type of `out`.
        """
        line: list[Value] = []
        inside: set[Equation] = set()
        value = out
        for root in self._before.get(out, []):
            if not root.floating or not self._belongs(root, value):
                break
            line.append(root)
            # Every way from the root to `out` leads through `value`: the rest is inside already.
            inside.update(self._region(root, value).equations)
            if root in self.graph.results or not inside.issuperset(self.graph.uses[root]):
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
        steps = (e for e in self._region(root, value).equations if e.primitive in bound)
        fixed = (v for e in steps for v in e.inputs if v not in e.dependents)
        return all(self.graph.static(v, arrays=False) is not None for v in fixed)

    def _is_chosen(self, value: Value, root: Value) -> bool:
        """Tell whether a value depends on another through a bool or a whole number alone."""
        line = [value, *self._before.get(value, [])]
        return value is not root and not all(v.floating for v in line[: line.index(root)])

    def _rectifier(self, root: Value, out: Value) -> str:
        """Return which rectifier a function is, or ""."""
        return self._region(root, out).rectifier[0] if root.dtype == out.dtype else ""

    def _pieces(self, values: Sequence[Value]) -> list[tuple[Value, str]]:
        """Return what makes each value of a line from the one before: (where it begins, its kind).

        Rectifiers are as long as can be, and so is what lies between them.
        """
        pieces: list[tuple[Value, str]] = []
        start, last, open_ = 0, len(values) - 1, None
        while start < last:
            root = values[start]
            found = ((i, self._rectifier(root, values[i])) for i in range(last, start, -1))
            end, kind = next(((i, kind) for i, kind in found if kind), (start + 1, ""))
            terms = [] if kind else self._terms(root, values[end])
            if kind or terms:
                pieces += [self._piece(open_, root)] if open_ else []
                if kind == "relu6" and open_ and self._is_shifted(open_, root):
                    kind = "activation"  # a hard sigmoid
                pieces += terms or [(root, kind)]
            open_ = None if kind or terms else open_ or root
            start = end
        return [*pieces, self._piece(open_, values[-1])] if open_ else pieces

    def _piece(self, root: Value, out: Value) -> tuple[Value, str]:
        region = self._region(root, out)
        return root, "affine" if region.is_affine else region.kind

    def _terms(self, root: Value, out: Value) -> list[tuple[Value, str]]:
        """Return the pieces of the terms of a sum, then the sum; nothing if `out` is not a sum."""
        last = self.graph.producer[out]
        if last.primitive not in jaxpr.ADDITIONS or last.dependents == [root]:
            return []
        pieces = []
        for term in last.dependents:
            line = [term, *self._before[term]] if term is not root else [root]
            pieces += self._pieces(line[: line.index(root) + 1][::-1])
        return [*pieces, (root, "sum")]

    def _is_shifted(self, root: Value, out: Value) -> bool:
        """Tell whether a value is affine in another, with a constant that is added."""
        region = self._region(root, out)
        return region.is_affine and any(e.primitive in jaxpr.ADDITIONS for e in region.equations)


# The equations ----------------------------------------------------------------------------------


def _is_product(equation: Equation) -> bool:
    return equation.primitive in (p.mul_p, p.div_p)


def _is_affine(equation: Equation) -> bool:
    """Tell whether an equation is affine in all that depends on x."""
    if not _is_product(equation):
        return equation.primitive in _AFFINE
    factors = [v for v in equation.inputs if v in equation.dependents]
    return len(factors) == 1 and (equation.primitive is p.mul_p or factors[0] is equation.inputs[0])


def _divides(equation: Equation) -> bool:
    """Tell whether something is divided by what depends on x."""
    return equation.primitive is p.div_p and not _is_affine(equation)


# Their values -----------------------------------------------------------------------------------


def _evaluated(
    equations: list[Equation], root: Value, static: Callable[[Any], Any], points: np.ndarray
) -> np.ndarray | None:
    """Return the values of a function of each element at some points, or None if one is unknown."""
    env: dict[Any, Any] = {root: points}

    def operand(atom: Any) -> Any:
        return env[atom] if isinstance(atom, Value) and atom in env else static(atom)

    for equation in equations:
        values = [operand(v) for v in equation.inputs]
        if any(v is None for v in values):
            return None
        result = (_of_call if equation.is_call else _step)(equation, values, static)
        if result is None:
            return None
        env[equation.output] = result
    return np.asarray(np.ones_like(points) * np.asarray(env[equations[-1].output], float))


def _of_call(call: Equation, values: list[Any], static: Callable[[Any], Any]) -> Any:
    """Return the value of a call, or None."""
    body = call.bodies[0]
    env: dict[Any, Any] = dict(zip(body.inputs, values, strict=True))
    for step in body.equations:
        operands = [env.get(v) if isinstance(v, Value) else static(v) for v in step.inputs]
        result = _step(step, operands, static)
        if result is None:
            return None
        env[step.output] = result
    out = body.outputs[0]
    return out.value if isinstance(out, jaxpr.Literal) else env.get(out)


def _step(equation: Equation, values: list[Any], static: Callable[[Any], Any]) -> Any:
    """Return the value of one equation, or None."""
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
