"""What the equations of a traced program are: layers, activations, products, pools, sums.

A *site* is an equation, or a group of equations that one backward rule treats together: an affine
layer with its bias and normalization, an activation however it is spelled. Sites are found by what
the equations compute, never by the names of modules.
"""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
from xattr import _jaxpr, trees
from xattr._jaxpr import Equation, Program, Value, p

Mode: TypeAlias = Literal["gradient", "relevance", "difference"]
"""Whose rules the program is read for: of signals, of relevance, or of differences to a reference.

For relevance a normalizer (the 1/√variance of a LayerNorm) and what stands behind `stop_gradient`
are constants; for differences nothing is.
"""

KINDS = {
    "dense": "a product with a weight matrix, with its bias and scale",
    "conv": "a convolution, with its bias and normalization",
    "sum": "a sum, mean or average pool, with its constants",
    "scale": "a product with an array of constants, with its bias",
    "move": "elements moved or copied, signs, scalar factors",
    "relu": "max(x, 0)",
    "relu6": "min(max(x, 0), 6)",
    "leaky_relu": "x or a fraction of it",
    "activation": "a function of each element",
    "power": "a power, exponential or logarithm of each element",
    "product": "a product of two values that depend on x",
    "quotient": "a quotient of two values that depend on x",
    "max": "a maximum, minimum or sorting",
    "choice": "a choice between values, or a mask",
    "softmax": "exp(x) / Σ exp(x)",
    "log_softmax": "x − log Σ exp(x)",
    "logsumexp": "log Σ exp(x)",
    "shift": "a value without a gradient, added",
    "normalizer": "one over a deviation or a norm",
    "stop_gradient": "a value without a gradient",
    "control": "scan, cond or checkpoint",
    "layer and activation": "an affine site and the activation behind it, as one",
    "constant": "does not depend on x",
    "other": "anything else",
}


class Site:
    """Equations that one rule treats together."""

    def __init__(
        self,
        kind: str,
        equations: list[Equation],
        inputs: list[Value],
        constants: list[Value],
        outputs: list[Value],
    ) -> None:
        self.kind = kind
        self.equations = equations
        self.inputs = inputs
        """The values that depend on x and carry relevance."""
        self.constants = constants
        """The other values: weights, biases, masks."""
        self.outputs = outputs
        self.nonnegative = False
        """Whether no input can be negative."""
        self.sees_input = False
        """Whether the inputs are x, moved or scaled element by element."""
        self.zone_inputs: set[Value] = set()
        self.moves_input = False
        """Whether the outputs, too, are x moved or scaled element by element."""
        self.first = False
        self.last = False
        self.slope = 0.0
        """Of a leaky ReLU, below zero."""
        self.smooth = True
        """Whether a function of each element has no kink."""
        self.is_largest = False
        """Whether it is a maximum over an axis: the shift of a softmax."""
        self.bodies: list[Recognised] = []
        self.parts: tuple[Site, ...] = ()
        self.index = -1

    @property
    def main(self) -> Equation:
        """The equation that names the site: that with the weights, or the last."""
        weighted = [e for e in self.equations if e.primitive in _jaxpr.WEIGHTED]
        return weighted[0] if weighted else self.equations[-1]

    @property
    def output(self) -> Value:
        """The result."""
        return self.outputs[0]

    @property
    def scope(self) -> str:
        """The named scopes around it."""
        return self.main.scope

    @property
    def is_layer(self) -> bool:
        """Whether it has weights."""
        return self.kind in ("dense", "conv")

    @property
    def is_affine(self) -> bool:
        """Whether it is a linear map of its inputs plus a constant."""
        return self.kind in ("dense", "conv", "sum", "scale", "move")

    @property
    def has_offset(self) -> bool:
        """Whether an affine site adds a constant."""
        sums = (p.add_p, p.add_jaxvals_p, p.sub_p)
        data = {*self.inputs, *(v for e in self.equations for v in e.outputs)}
        return any(
            e.primitive in sums and not all(v in data for v in e.inputs) for e in self.equations
        )

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that a softmax sums over."""
        sums = [e for e in self.equations if e.primitive is p.reduce_sum_p]
        return tuple(sums[-1].params["axes"]) if sums else ()

    @property
    def selects(self) -> bool:
        """Whether it picks the largest or the smallest of several elements."""
        pair = (p.max_p, p.min_p)
        return self.main.primitive in {*_jaxpr.LARGEST, *_jaxpr.SMALLEST, *pair}

    @property
    def selects_largest(self) -> bool:
        """Whether it is the largest that it picks."""
        return self.main.primitive in {*_jaxpr.LARGEST, p.max_p}

    def describe(self) -> str:
        """Name primitives, shapes and the source line."""
        names = [e.name for e in self.equations]
        short = names if len(names) <= 4 else [*names[:2], "...", names[-1]]
        shapes = ", ".join(map(str, self.inputs or self.constants))
        return f"{' '.join(short)} ({shapes} -> {self.outputs[0]}) at {self.main.source}"


class Recognised(NamedTuple):
    """A program as a list of sites."""

    program: Program
    sites: list[Site]


def recognise(
    program: Program, mode: Mode, zone: Iterable[bool] | None = None, inside: bool = False
) -> Recognised:
    """Find the sites of a program; `zone` tells which inputs are x itself."""
    reader = _Reader(program, mode)
    sites = reader.read()
    flags = [v.dependent for v in program.inputs] if zone is None else list(zone)
    _mark(program, sites, {v for v, flag in zip(program.inputs, flags, strict=True) if flag}, inside)
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
        zone = [
            flag and not constants <= i < constants + carried for i, flag in enumerate(zone)
        ]
    site.bodies = [recognise(body, mode, zone, looped or not site.last) for body in equation.bodies]


class _Item(NamedTuple):
    """An equation, or a group already found to be one thing."""

    kind: str  # "" where the equation is still to be looked at
    equations: list[Equation]
    inputs: list[Value]  # dependent
    output: list[Value]


class _Group:
    """An affine group that may still grow."""

    def __init__(self, kind: str, equations: list[Equation], biased: bool = False) -> None:
        self.kind = kind
        self.equations = equations
        self.biased = biased


class _Reader:
    """One pass over a program."""

    def __init__(self, program: Program, mode: Mode) -> None:
        self.program = program
        self.mode = mode
        self.producer = {v: e for e in program.equations for v in e.outputs}
        self.uses: dict[Value, list[Equation]] = {}
        for equation in program.equations:
            for value in equation.operands:
                self.uses.setdefault(value, []).append(equation)
        self.results = {v for v in program.outputs if isinstance(v, Value)}
        self.chains: dict[Value, list[Value]] = {}
        self.roots: dict[Value, Value] = {}
        self.softmaxes: dict[Value, tuple[str, Value]] = {}
        self.within_softmax: set[Equation] = set()
        self.shifts: set[Value] = set()

    def read(self) -> list[Site]:
        """Find elementwise functions, then what is needed, then affine groups."""
        for equation in self.program.equations:
            self._follow(equation)
        self.softmaxes = self._softmaxes()
        normalizers = {} if self.mode == "difference" else self._normalizers()
        return self._group(self._needed(normalizers))

    # Functions of each element -------------------------------------------------------------

    def _follow(self, equation: Equation) -> None:
        """Note of which value the result is a function element by element, and the joins."""
        elementwise = equation.primitive in _jaxpr.ELEMENTWISE or (
            equation.activation
        )
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
            maker = self.producer.get(dependents[0])
            once = len(self.uses[dependents[0]]) == 1 and dependents[0] not in self.results
            if once and maker and maker.primitive in (p.max_p, p.min_p):
                first = maker.dependents
                if len(first) == 1 and first[0].shape == equation.output.shape:
                    self.chains[equation.output] = [first[0], *self.chains.get(first[0], [])]
                    self.roots[equation.output] = first[0]
        return False

    def _between(self, root: Value, out: Value) -> list[Equation]:
        """Return the equations that make `out` from `root`, in order, up to stopped gradients."""
        found: set[Equation] = set()
        todo = [out]
        while todo:
            value = todo.pop()
            equation = self.producer.get(value)
            if value is root or equation is None or equation in found or not value.dependent:
                continue
            if equation.primitive is p.stop_gradient_p:
                continue
            found.add(equation)
            todo += equation.dependents
        return [e for e in self.program.equations if e in found]

    def static(self, atom: Any) -> Any:
        """Return a number that is written in the program, or None."""
        if isinstance(atom, _jaxpr.Literal):
            return np.asarray(atom.value).astype(float)
        if atom in self.program.constants:
            return _uniform(self.program.constants[atom])
        maker = self.producer.get(atom)
        if maker is None or maker.primitive not in _CONSTANT or len(maker.inputs) != 1:
            return None
        return self.static(maker.inputs[0])

    def _shape_of(self, root: Value, equations: list[Equation]) -> tuple[str, float]:
        """Return the kind of a function of each element, found by evaluating it."""
        values = _evaluated(equations, root, self.static)
        smooth = not any(e.primitive in _KINKED for e in _opened(equations))
        if values is not None:
            for kind, expected in _RECTIFIERS.items():
                if np.array_equal(values, expected(_PROBES)):
                    return kind, 0.0
            below, above = values[_PROBES < 0], values[_PROBES >= 0]
            slope = below[0] / _PROBES[0]
            if np.array_equal(above, _PROBES[_PROBES >= 0]) and np.allclose(
                below, slope * _PROBES[_PROBES < 0], rtol=1e-6
            ):
                kinds = {True: "leaky_relu", False: "move" if slope == 1 else "activation"}
                return kinds[bool(0 <= slope < 1)], float(slope)
        curved = any(e.primitive in _BENT for e in _opened(equations))
        return ("activation" if curved or not smooth else "power"), 0.0

    # Softmax and normalizers ----------------------------------------------------------------

    def _source(self, value: Any, through: frozenset[Any]) -> Equation | None:
        """Follow a value back through equations with one dependent operand."""
        equation = self.producer.get(value) if isinstance(value, Value) else None
        while equation and equation.primitive in through and len(equation.dependents) == 1:
            equation = self.producer.get(equation.dependents[0])
        return equation

    def _is_largest(self, inputs: list[Value]) -> bool:
        """Tell whether a value is a maximum, copied or kept finite: max(x), as softmax shifts by."""
        equation = self.producer.get(inputs[0]) if inputs else None
        while equation and equation.primitive in _BROADCAST | {p.max_p, p.select_n_p}:
            operands = [v for v in equation.inputs if isinstance(v, Value) and v.dependent]
            floats = [v for v in operands if v.floating]
            equation = self.producer.get(floats[0]) if len(floats) == 1 else None
        return equation is not None and equation.primitive is p.reduce_max_p

    def _softmaxes(self) -> dict[Value, tuple[str, Value]]:
        """Find softmax, log-softmax and logsumexp: result -> (kind, what they are taken of)."""
        found = {}
        for equation in self.program.equations:
            kind, exponential = self._softmax_of(equation)
            if exponential is None:
                continue
            root = self._unshifted(exponential.dependents[0])
            region = self._between(root, equation.output)
            if all(e.primitive in _SOFTMAX for e in region):
                found[equation.output] = (kind, root)
                self.within_softmax.update(region)
        return found

    def _softmax_of(self, equation: Equation) -> tuple[str, Equation | None]:
        """Return the kind of softmax that an equation ends, and its exponential."""
        operands = equation.inputs
        pair = len(equation.dependents) == 2 and len(operands) == 2
        if equation.primitive is p.div_p and pair:
            exponential = self._summed_exponential(self._source(operands[1], _BROADCAST))
            top = self._source(operands[0], _MASKED)
            same = top and exponential and top.primitive is p.exp_p
            same = same and top.inputs[0] is exponential.inputs[0]
            return "softmax", exponential if same else None
        if equation.primitive is p.sub_p and pair:
            exponential = self._logged_exponential(self._source(operands[1], _BROADCAST))
            shifted = exponential is not None and exponential.inputs[0] is operands[0]
            return "log_softmax", exponential if shifted else None
        if equation.primitive is p.add_p and pair:
            for one, other in (operands, operands[::-1]):
                exponential = self._logged_exponential(self._source(one, _BROADCAST))
                if exponential and self._is_shift(other, exponential.inputs[0]):
                    return "logsumexp", exponential
        if equation.primitive is p.log_p and equation.dependents:
            exponential = self._logged_exponential(equation)
            shifted = exponential and self._unshifted(exponential.inputs[0])
            return "logsumexp", exponential if exponential and shifted is exponential.inputs[0] else None
        return "", None

    def _summed_exponential(self, total: Equation | None) -> Equation | None:
        if total is None or total.primitive is not p.reduce_sum_p or not total.dependents:
            return None
        exponential = self._source(total.dependents[0], _MASKED)
        return exponential if exponential and exponential.primitive is p.exp_p else None

    def _logged_exponential(self, log: Equation | None) -> Equation | None:
        if log is None or log.primitive is not p.log_p or not log.dependents:
            return None
        return self._summed_exponential(self._source(log.dependents[0], _BROADCAST | {p.abs_p}))

    def _unshifted(self, value: Value) -> Value:
        """Return x where the value is x − max(x), else the value."""
        equation = self.producer.get(value)
        if equation is None or equation.primitive is not p.sub_p or len(equation.dependents) != 2:
            return value
        left, right = equation.inputs
        stopped = self._source(right, _BROADCAST)
        shifted = stopped is not None and stopped.primitive is p.stop_gradient_p
        return left if shifted and isinstance(left, Value) else value

    def _only_in_softmax(self, value: Value) -> bool:
        """Tell whether a stopped value is but the shift of softmaxes, which do not depend on it."""
        if value in self.results:
            return False
        return all(
            use in self.within_softmax
            or (use.primitive in _BROADCAST and self._only_in_softmax(use.output))
            for use in self.uses.get(value, [])
        )

    def _is_shift(self, value: Any, shifted: Value) -> bool:
        """Tell whether a value is what was subtracted from another."""
        equation = self.producer.get(shifted)
        if equation is None or equation.primitive is not p.sub_p:
            return False
        stopped = [self._source(v, _BROADCAST) for v in (value, equation.inputs[1])]
        return stopped[0] is stopped[1] and stopped[0] is not None

    def _normalizers(self) -> dict[Value, list[Equation]]:
        """Find 1/√(mean of squares) where another value is multiplied by it."""
        found = {}
        for equation in self.program.equations:
            if equation.primitive not in (p.rsqrt_p, p.sqrt_p) or not equation.dependents:
                continue
            if not self._only_scales(equation.output, equation.primitive is p.sqrt_p):
                continue
            region = self._statistics(equation)
            if any(e.primitive in _jaxpr.SUMS | {p.dot_general_p} for e in region):
                found[equation.output] = region
        return found

    def _only_scales(self, value: Value, divides: bool) -> bool:
        """Tell whether a value is used only to scale other values that depend on x."""
        if value in self.results or value not in self.uses:
            return False
        for use in self.uses[value]:
            if use.primitive in _BROADCAST | {p.max_p, p.add_p} and len(use.dependents) == 1:
                if not self._only_scales(use.output, divides):
                    return False
            elif use.primitive is p.div_p and divides:
                if use.inputs[1] is not value or len(use.dependents) < 2:
                    return False
            elif use.primitive is p.mul_p and not divides:
                if len(use.dependents) == 1 and not self._only_scales(use.output, divides):
                    return False
            else:
                return False
        return True

    def _statistics(self, last: Equation) -> list[Equation]:
        """Return the equations whose results serve this one alone, in order."""
        region = {last}
        for equation in reversed(self.program.equations):
            if equation in region or not equation.dependents:
                continue
            uses = [use for out in equation.outputs for use in self.uses.get(out, [])]
            private = bool(uses) and all(use in region for use in uses)
            private &= not any(out in self.results for out in equation.outputs)
            if private and (equation.primitive in _STATISTICS or _is_self_product(equation)):
                region.add(equation)
        return [e for e in self.program.equations if e in region]

    # What is needed -------------------------------------------------------------------------

    def _needed(self, normalizers: dict[Value, list[Equation]]) -> list[_Item]:
        """Return equations and groups on the way to the outputs, in order."""
        needed = set(self.results)
        items: list[_Item] = []
        for equation in reversed(self.program.equations):
            if not needed.intersection(equation.outputs):
                continue
            out = equation.output
            if out in normalizers:
                region = normalizers[out]
                item = _Item("normalizer", region, _entries(region), [out])
            elif out in self.softmaxes:
                kind, root = self.softmaxes[out]
                item = _Item(kind, self._between(root, out), [root], [out])
            elif out in self.roots:
                region = self._between(self.roots[out], out)
                item = _Item("elementwise", region, [self.roots[out]], [out])
            else:
                item = _Item("", [equation], equation.dependents, equation.outputs)
            items.append(item)
            made = {v for e in item.equations for v in e.outputs}
            needed.update(v for e in item.equations for v in e.operands if v not in made)
        return items[::-1]

    # Affine groups --------------------------------------------------------------------------

    def _group(self, items: list[_Item]) -> list[Site]:
        data = {v for v in self.program.inputs if v.dependent and v.floating}
        uses: dict[Value, int] = {}
        for item in items:
            made = {v for e in item.equations for v in e.outputs}
            for value in {v for e in item.equations for v in e.operands} - made:
                uses[value] = uses.get(value, 0) + 1
        for value in self.results:
            uses[value] = uses.get(value, 0) + 2
        open_groups: dict[Value, _Group] = {}
        sites: list[Site | _Group] = []
        for item in items:
            inputs = [v for v in item.inputs if v in data]
            kind = item.kind or self._kind(item.equations[0], inputs)
            if self._carries(kind, inputs):
                data.update(v for v in item.output if v.floating)
            grouped = None
            if kind in _AFFINE_ROLES:
                grouped = self._affine(item.equations[0], kind, inputs, open_groups, uses)
            if grouped is None:
                sites.append(self._site(kind, item, inputs))
                continue
            for taken in grouped[1]:
                sites.remove(taken)
            sites.append(grouped[0])
            open_groups[item.output[0]] = grouped[0]
        return [s if isinstance(s, Site) else self._closed(s, data) for s in sites]

    def _carries(self, kind: str, inputs: list[Value]) -> bool:
        if not inputs or kind == "constant":
            return False
        frozen = kind == "normalizer" and self.mode == "relevance"
        stopped = kind == "stop_gradient" and self.mode != "difference"
        return not frozen and not stopped

    def _kind(self, equation: Equation, inputs: list[Value]) -> str:
        """Return the kind of one equation, or its role in an affine group."""
        prim = equation.primitive
        if not inputs:
            return self._without_data(equation)
        if prim in _jaxpr.CONTROL:
            return "control"
        if prim in _jaxpr.WEIGHTED:
            return "weight" if len(inputs) == 1 and len(_data(equation, inputs)) == 1 else "product"
        if prim in (p.add_p, p.add_jaxvals_p, p.sub_p):
            if len(_data(equation, inputs)) == 2:
                return "add"
            return "shift" if _dependent_constant(equation, inputs) else "offset"
        if prim is p.neg_p:
            return "scalar"
        if prim in (p.mul_p, p.div_p):
            if len(_data(equation, inputs)) == 2:
                return "product" if prim is p.mul_p else "quotient"
            if prim is p.div_p and equation.inputs[1] in inputs:
                return "power"  # a constant over x
            factor = next(v for v in equation.inputs if v not in inputs)
            single = isinstance(factor, _jaxpr.Literal) or factor.shape in ((), equation.output.shape[:0])
            return "scalar" if single or self.static(factor) is not None else "array"
        if prim in _jaxpr.SUMS:
            return "reduce"
        steered = any(v not in inputs for v in equation.dependents)  # by an index or a condition
        if self.mode == "difference" and steered:
            return "other" if any(v.floating for v in equation.outputs) else "constant"
        if prim in _jaxpr.MOVES:
            return "multiple" if len(equation.operands) > 1 and prim in _GATHERING else "move"
        if prim is p.pad_p:
            plain = len(inputs) == 1 and self.static(equation.inputs[1]) == 0
            return "move" if plain else "choice"
        if prim in _jaxpr.SPLITS | _jaxpr.COLLECTIVES:
            return "moves"
        if prim in _jaxpr.UPDATES:
            return "choice"
        if prim is p.stop_gradient_p:
            if not self._only_in_softmax(equation.output):
                return "stop_gradient"
            self.shifts.update(equation.outputs)
            return "constant"
        if prim in _jaxpr.LARGEST | _jaxpr.SMALLEST | _jaxpr.ORDERINGS:
            return "max"
        if prim in (p.max_p, p.min_p) and len(_data(equation, inputs)) == 2:
            return "max"
        if prim is p.select_n_p:
            return "choice"
        one = len(_data(equation, inputs)) == 1 and inputs[0].shape == equation.output.shape
        if one and (prim in _jaxpr.ELEMENTWISE or equation.activation) and equation.output.floating:
            return "elementwise"
        return "other" if any(v.floating for v in equation.outputs) else "constant"

    def _without_data(self, equation: Equation) -> str:
        """Return the kind of an equation that no gradient reaches.

        A difference reaches it nonetheless, through a whole number or a condition, unless it is
        the shift of a softmax.
        """
        if self.mode == "difference" and not self.shifts.issuperset(equation.dependents):
            return "other" if any(v.floating for v in equation.outputs) else "constant"
        self.shifts.update(equation.outputs)
        return "constant"

    def _affine(
        self,
        equation: Equation,
        role: str,
        inputs: list[Value],
        open_groups: dict[Value, _Group],
        uses: dict[Value, int],
    ) -> tuple[_Group, list[_Group]] | None:
        """Join an equation to the groups that make its operands, or begin a group."""
        groups = [open_groups.get(v) if uses.get(v, 0) == 1 else None for v in inputs]
        first = groups[0]
        if role == "weight":
            kind = "conv" if _is_convolution(equation) else "dense"
            return _Group(kind, [equation]), []
        if role == "reduce":
            if first and first.kind in ("move", "scale") and not first.biased:
                kind = "dense" if first.kind == "scale" else "sum"
                return _Group(kind, [*first.equations, equation]), [first]
            return _Group("sum", [equation]), []
        if role == "add":
            return self._added(equation, inputs, groups)
        if role == "multiple":
            return _Group("move", [equation]), []
        biased = role == "offset" or bool(first and first.biased)
        kind = first.kind if first else "move"
        if role == "array" and kind == "move":
            kind = "scale"
        return _Group(kind, [*(first.equations if first else []), equation], biased), (
            [first] if first else []
        )

    def _added(
        self, equation: Equation, inputs: list[Value], groups: list[_Group | None]
    ) -> tuple[_Group, list[_Group]]:
        """Join the terms of a sum: all plain, or all products with arrays of weights."""
        kinds = [g.kind if g and g.kind in _TERMS else "value" for g in groups]
        weighted = [k in ("scale", "taps") for k in kinds]
        finished = [bool(g and g.biased and k == "taps") for g, k in zip(groups, kinds, strict=True)]
        if all(weighted) and not any(finished):
            taken = [g for g in groups if g]
            kind = "taps"
        else:
            taken = [
                g for g, k in zip(groups, kinds, strict=True) if g and k in ("move", "sum")
            ] if not any(weighted) else []
            kind = "sum"
        unique = [*dict.fromkeys(taken)]
        members = {e for g in unique for e in g.equations} | {equation}
        ordered = [e for e in self.program.equations if e in members]
        return _Group(kind, ordered, any(g.biased for g in unique)), unique

    def _closed(self, group: _Group, data: set[Value]) -> Site:
        made = {v for e in group.equations for v in e.outputs}
        operands = [*dict.fromkeys(v for e in group.equations for v in e.operands)]
        inputs = [v for v in operands if v in data and v not in made]
        constants = [v for v in operands if v not in data and v not in made]
        kind = {"taps": "conv"}.get(group.kind, group.kind)
        if kind == "move" and group.biased:
            kind = "sum"
        return Site(kind, group.equations, inputs, constants, group.equations[-1].outputs)

    def _site(self, kind: str, item: _Item, inputs: list[Value]) -> Site:
        made = {v for e in item.equations for v in e.outputs}
        operands = [*dict.fromkeys(v for e in item.equations for v in e.operands)]
        constants = [v for v in operands if v not in inputs and v not in made]
        slope, smooth = 0.0, True
        if kind == "elementwise":
            kind, slope = self._shape_of(inputs[0], item.equations)
            smooth = not any(e.primitive in _KINKED for e in _opened(item.equations))
        kind = {"moves": "move", "multiple": "move"}.get(kind, kind)
        site = Site(kind, item.equations, inputs, constants, item.output)
        site.slope, site.smooth = slope, smooth
        site.is_largest = kind == "stop_gradient" and self._is_largest(inputs)
        return site


_AFFINE_ROLES = frozenset(
    {"weight", "reduce", "add", "offset", "scalar", "array", "move", "multiple"}
)
_TERMS = frozenset({"move", "sum", "scale", "taps"})
_GATHERING = frozenset({p.concatenate_p})
_CONSTANT = frozenset({p.broadcast_in_dim_p, p.convert_element_type_p, p.reshape_p, p.copy_p})
_BROADCAST = frozenset({p.broadcast_in_dim_p, p.reshape_p, p.squeeze_p, *_jaxpr.COPIES})
_MASKED = _jaxpr.COPIES | {p.select_n_p}
_SOFTMAX = (
    {p.exp_p, p.reduce_sum_p, p.div_p, p.sub_p, p.add_p, p.log_p, p.abs_p, p.sign_p, p.max_p}
    | {p.select_n_p, p.is_finite_p}
    | _BROADCAST
)
_STATISTICS = (
    (_jaxpr.ELEMENTWISE - {p.exp_p, p.tanh_p, p.logistic_p}) | _jaxpr.SUMS | _BROADCAST
) - {p.mul_p}
_KINKED = frozenset({*_jaxpr.SELECTIONS, p.abs_p, p.sign_p, p.floor_p, p.ceil_p, p.round_p})
_BENT = frozenset(
    {
        *(p.tanh_p, p.logistic_p, p.erf_p, p.erfc_p, p.expm1_p, p.custom_jvp_call_p),
        *(p.custom_vjp_call_p, p.atan_p, p.sin_p, p.cos_p),
    }
)

_PROBES = np.array([-9.0, -3.0, -1.0, -0.5, -(2.0**-20), 0.0, 2.0**-20, 0.5, 1.0, 3.0, 5.5, 6.5, 9.0])
_RECTIFIERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
}


def _evaluated(
    equations: list[Equation], root: Value, static: Callable[[Any], Any]
) -> np.ndarray | None:
    """Return the values of a piecewise linear function of each element, or None."""
    env: dict[Any, Any] = {root: _PROBES}

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
                done = _step(step, [inner.get(v) if isinstance(v, Value) else static(v) for v in step.inputs])
                if done is None:
                    return None
                inner[step.output] = done
            result = operand_of(body.outputs[0], inner)
        else:
            result = _step(equation, values)
        if result is None:
            return None
        env[equation.output] = result
    return np.asarray(env[equations[-1].output], float) * np.ones_like(_PROBES)


def _uniform(constant: Any) -> Any:
    """Return the number that all elements of a known array have, or None."""
    known = trees.on_host(constant) if isinstance(constant, (jax.Array, np.ndarray)) else None
    if known is None or not known.size or not np.issubdtype(known.dtype, np.number):
        return None
    first = known.flat[0]
    return np.asarray(first).astype(float) if (known == first).all() else None


def operand_of(atom: Any, env: dict[Any, Any]) -> Any:
    """Return the value of an atom, or None."""
    return atom.value if isinstance(atom, _jaxpr.Literal) else env.get(atom)


def _step(equation: Equation, values: list[Any]) -> Any:
    function = _jaxpr.NUMPY.get(equation.primitive)
    if function is None or any(v is None for v in values):
        return None
    with np.errstate(all="ignore"):
        return function(*values)


def _opened(equations: list[Equation]) -> Iterable[Equation]:
    for equation in equations:
        yield equation
        for body in equation.bodies:
            yield from _jaxpr.all_equations(body)


def _data(equation: Equation, inputs: list[Value]) -> list[Any]:
    """Return the operands that are data, one entry for each place."""
    return [v for v in equation.inputs if isinstance(v, Value) and v in inputs]


def _dependent_constant(equation: Equation, inputs: list[Value]) -> bool:
    return any(v not in inputs for v in equation.dependents)


def _is_self_product(equation: Equation) -> bool:
    return equation.primitive is p.mul_p and len(equation.operands) == 1 or (
        equation.primitive is p.mul_p and len(equation.dependents) == 1
    )


def _entries(region: list[Equation]) -> list[Value]:
    made = {v for e in region for v in e.outputs}
    return [*dict.fromkeys(v for e in region for v in e.dependents if v not in made)]


def _is_convolution(equation: Equation) -> bool:
    """Tell whether weights are applied at the places of a grid: a convolution, also one of 1×1.

    A product with a matrix counts as one where the data have two or more axes beside those summed
    over and those of a batch: height and width. Tokens have one: that is a dense layer.
    """
    if equation.primitive is p.conv_general_dilated_p:
        return True
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    if _jaxpr.weight_position(equation) == 0:
        contracted, batch = (pair[1] for pair in equation.params["dimension_numbers"])
    data = equation.inputs[1 - _jaxpr.weight_position(equation)]
    return len(data.shape) - len(contracted) - len(batch) >= 2


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
        if site.kind == "sum" and site.nonnegative and all(
            e.primitive in _jaxpr.SUMS | _jaxpr.MOVES or _plain_add(e) or _positive_division(e)
            for e in site.equations
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
