"""From equations to sites: what is needed, and which affine equations make one layer."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xattr._program import jaxpr
from xattr._program.graph import BROADCASTS, Graph
from xattr._program.jaxpr import Equation, Program, Value, p
from xattr._recognise import elementwise, normalizer, softmax
from xattr._recognise.operation import Mode, Site

_AFFINE_ROLES = frozenset(
    {"weight", "reduce", "add", "offset", "scalar", "array", "move", "multiple"}
)
_TERMS = frozenset({"move", "sum", "scale", "taps"})
_GATHERING = frozenset({p.concatenate_p, p.stack_p})


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


def sites_of(
    program: Program, mode: Mode, data: Sequence[bool] | None = None
) -> tuple[list[Site], list[bool]]:
    """Return the sites of a program, in order, and which outputs carry relevance.

    What nothing needs is left out. `data` tells which inputs carry relevance; those that depend on
    x if None.
    """
    reader = _Reader(program, mode, data)
    return reader.read(), [v in reader.data for v in program.outputs]


class _Reader:
    """One pass over a program."""

    def __init__(self, program: Program, mode: Mode, data: Sequence[bool] | None) -> None:
        flags = [True] * len(program.inputs) if data is None else data
        seen = {v for v, flag in zip(program.inputs, flags, strict=True) if flag}
        self.data = {v for v in seen if v.dependent and v.floating}
        self.is_whole = data is None
        self.resampling: set[Equation] = set()
        self.program = program
        self.mode = mode
        self.graph = Graph(program)
        self.softmaxes = softmax.find(self.graph)
        self.within_softmax = {
            e for out, (_, root) in self.softmaxes.items() for e in self.graph.between(root, out)
        }
        self.shifts: set[Value] = set()
        """Values that a softmax is shifted by, which it does not depend on."""
        self.choices: dict[Value, Equation] = {}
        """Values that depend on x through a bool or a whole number alone, and where it was made."""

    def read(self) -> list[Site]:
        """Find what is needed, then affine groups."""
        found = {} if self.mode == "difference" else normalizer.find(self.graph)
        ends = [*found, *self.softmaxes]
        regions = elementwise.Regions(self.graph, ends, whole=self.mode == "difference")
        return self._group(self._needed(found, regions))

    def _needed(
        self, norms: dict[Value, list[Equation]], regions: elementwise.Regions
    ) -> list[_Item]:
        """Return equations and groups on the way to the outputs, in order."""
        needed = set(self.graph.results)
        items: list[_Item] = []
        for equation in reversed(self.program.equations):
            if not needed.intersection(equation.outputs):
                continue
            out = equation.output
            if out in norms:
                region = norms[out]
                item = _Item("normalizer", region, _entries(region), [out])
            elif out in self.softmaxes:
                kind, root = self.softmaxes[out]
                item = _Item(kind, self.graph.between(root, out), [root], [out])
            elif start := regions.root(out):
                item = _Item("elementwise", self.graph.between(start, out), [start], [out])
            else:
                item = _Item("", [equation], equation.dependents, equation.outputs)
            items.append(item)
            made = {v for e in item.equations for v in e.outputs}
            needed.update(v for e in item.equations for v in e.operands if v not in made)
        return items[::-1]

    def _group(self, items: list[_Item]) -> list[Site]:
        data = self.data
        uses: dict[Value, int] = {}
        for item in items:
            made = {v for e in item.equations for v in e.outputs}
            for value in {v for e in item.equations for v in e.operands} - made:
                uses[value] = uses.get(value, 0) + 1
        for value in self.graph.results:
            uses[value] = uses.get(value, 0) + 2
        open_groups: dict[Value, _Group] = {}
        sites: list[Site | _Group] = []
        for item in items:
            inputs = [v for v in item.inputs if v in data]
            if inputs or not item.kind:
                kind = item.kind or self._kind(item.equations[0], inputs)
                if any(v.complex for v in (*inputs, *item.output)):
                    kind = self._kind_of_complex(kind, item, inputs)
            else:
                kind = self._without_data(item.equations[-1])
            if self._carries(kind, inputs):
                data.update(v for v in item.output if v.floating)
            self._note_choice(item)
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
        found = [s if isinstance(s, Site) else self._closed(s, data) for s in sites]
        for site in found:
            values = (*site.outputs, *site.constants)
            site.choice = next((self.choices[v] for v in values if v in self.choices), None)
            if site.choice and self.is_whole and site.kind == "constant" and self._is_score(site):
                site.kind = "other"
        return found

    def _is_score(self, site: Site) -> bool:
        """Tell whether f itself is made of a choice: no relevance would be left."""
        scores = [v for v in site.outputs if v in self.graph.results and v.floating]
        return self.mode == "relevance" and not self.data.issuperset(scores)

    def _note_choice(self, item: _Item) -> None:
        """Remember where a value that depends on x was made a bool or a whole number."""
        for equation in item.equations:
            known = [self.choices[v] for v in equation.dependents if v in self.choices]
            for out in equation.outputs:
                if out.dependent and out not in self.data and (known or not out.floating):
                    self.choices[out] = known[0] if known else equation

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
        if prim in jaxpr.CONTROL:
            return "control"
        if prim in jaxpr.WEIGHTED:
            return "weight" if len(inputs) == 1 and len(_data(equation, inputs)) == 1 else "product"
        if prim in jaxpr.ADDITIONS:
            if len(_data(equation, inputs)) == 2:
                return "add"
            if self._loses_relevance(equation):
                return "other"
            return "shift" if _dependent_constant(equation, inputs) else "offset"
        if prim is p.neg_p:
            return "scalar"
        if prim in (p.mul_p, p.div_p):
            if len(_data(equation, inputs)) == 2:
                return "product" if prim is p.mul_p else "quotient"
            if prim is p.div_p and equation.inputs[1] in inputs:
                return "power"  # a constant over x
            factor = next(v for v in equation.inputs if v not in inputs)
            if self.mode == "gradient" and factor in self.choices:
                return "choice"  # a gate that x opens
            single = isinstance(factor, jaxpr.Literal) or factor.shape == ()
            single = single or _depends(factor)  # a normalizer is no weight
            number = self.graph.static(factor, arrays=False)
            return "scalar" if single or number is not None else "array"
        if prim in jaxpr.SUMS:
            return "reduce"
        steered = any(v not in inputs for v in equation.dependents)  # by an index or a condition
        if self.mode == "difference" and steered:
            return "other" if any(v.floating for v in equation.outputs) else "constant"
        if prim in jaxpr.MOVES:
            several = len(equation.inputs) > 1 and (prim in _GATHERING or len(inputs) > 1)
            return "multiple" if several else "move"
        if prim is p.pad_p:
            plain = len(inputs) == 1 and self.graph.static(equation.inputs[1]) == 0
            return "move" if plain else "choice"
        if prim in jaxpr.SPLITS | jaxpr.COLLECTIVES:
            return "moves"
        if prim in jaxpr.UPDATES:
            return "choice"
        if prim is p.stop_gradient_p:
            if not softmax.only_in_softmax(self.graph, equation.output, self.within_softmax):
                return "stop_gradient"
            self.shifts.update(equation.outputs)
            return "constant"
        if prim in jaxpr.LARGEST | jaxpr.SMALLEST | jaxpr.ORDERINGS:
            return "max"
        if prim in (p.max_p, p.min_p) and len(_data(equation, inputs)) == 2:
            return "max"
        if prim is p.select_n_p:
            return "choice"
        one = len(_data(equation, inputs)) == 1 and inputs[0].shape == equation.output.shape
        if one and (prim in jaxpr.ELEMENTWISE or equation.activation) and equation.output.floating:
            return "elementwise"
        return "other" if any(v.floating for v in equation.outputs) else "constant"

    def _kind_of_complex(self, kind: str, item: _Item, inputs: list[Value]) -> str:
        """Return the kind of what takes or makes complex values: no rule reads their signs.

        What is linear is a kind of its own, and so is |z|, the root of re² + im², whose relevance
        is its gradient, too. A constant that is added stays one.
        """
        equation, linear = item.equations[-1], (_AFFINE_ROLES | {"moves"}) - {"offset"}
        if equation.primitive is p.complex_p and len(_data(equation, inputs)) == 1:
            other = next(v for v in equation.inputs if v not in inputs)
            adds = self.mode == "relevance" and self.graph.static(other) != 0
            return "other" if adds else "complex"
        modulus = equation.primitive is p.abs_p and len(item.equations) == 1
        if equation.primitive in jaxpr.SPECTRAL or kind in linear or modulus:
            return "complex"
        mixed = kind == "elementwise" and inputs[0].complex != item.output[0].complex
        divides = kind == "quotient" and self.mode == "difference"  # b² + b'² may be 0
        return "other" if mixed or divides or kind == "max" else kind

    def _loses_relevance(self, equation: Equation) -> bool:
        """Tell whether a sum adds what is made of a choice: relevance cannot go back through it.

        A mask that is added to the scores of a softmax takes no share: it only drops some.
        """
        if self.mode != "relevance" or self.choices.keys().isdisjoint(equation.dependents):
            return False
        roots = {root for _, root in self.softmaxes.values()}
        return equation.output not in roots

    def _resamples(self, equation: Equation) -> bool:
        """Tell whether weights only move, copy or average: told by their values.

        0 or 1, or with sums of one (a resize, patches), and computed by JAX: these are not trained.
        """
        place = jaxpr.weight_position(equation)
        weights = self.graph.computed(equation.inputs[place])
        if weights is None or np.iscomplexobj(weights):
            return False
        if np.isin(weights, (0, 1)).all():
            return True
        axes = _summed_axes(equation, place)
        return bool(np.allclose(weights.sum(axes), 1, atol=1e-3))

    def _is_inverse(self, value: Value) -> bool:
        """Tell whether a value is one over another, copied or scaled: 1/√variance, a / ‖x‖.

        So are its root and its powers.
        """
        scales = BROADCASTS | {p.mul_p, p.neg_p, p.square_p, p.sqrt_p}
        equation = self.graph.source(value, scales)
        while equation and equation.primitive is p.div_p and not _depends(equation.inputs[1]):
            equation = self.graph.source(equation.inputs[0], scales)
        if equation is None or len(equation.dependents) != 1 or equation.output.complex:
            return False
        if equation.primitive is p.div_p:
            return _depends(equation.inputs[1])
        if equation.primitive is p.pow_p:
            exponent = self.graph.static(equation.inputs[1])
            negative = exponent is not None and bool(exponent < 0)
            return negative or self._is_inverse(equation.inputs[0])
        if equation.primitive is p.integer_pow_p:
            return bool(equation.params["y"] < 0) or self._is_inverse(equation.inputs[0])
        return equation.primitive is p.rsqrt_p

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
        if role == "weight" and self._resamples(equation):
            self.resampling.add(equation)
            return _Group("sum", [equation]), []
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
        finished = [
            bool(g and g.biased and k == "taps") for g, k in zip(groups, kinds, strict=True)
        ]
        if all(weighted) and not any(finished):
            taken = [g for g in groups if g]
            kind = "taps"
        else:
            taken = (
                [g for g, k in zip(groups, kinds, strict=True) if g and k in ("move", "sum")]
                if not any(weighted)
                else []
            )
            kind = "sum"
        unique = [*dict.fromkeys(taken)]
        members = {e for g in unique for e in g.equations} | {equation}
        ordered = self.graph.in_order(members)
        return _Group(kind, ordered, any(g.biased for g in unique)), unique

    def _closed(self, group: _Group, data: set[Value]) -> Site:
        made = {v for e in group.equations for v in e.outputs}
        operands = [*dict.fromkeys(v for e in group.equations for v in e.operands)]
        inputs = [v for v in operands if v in data and v not in made]
        constants = [v for v in operands if v not in data and v not in made]
        kind = {"taps": "conv"}.get(group.kind, group.kind)
        if kind == "move" and group.biased:
            kind = "sum"
        site = Site(kind, group.equations, inputs, constants, group.equations[-1].outputs)
        moves = all(e in self.resampling or e.primitive in jaxpr.MOVES for e in group.equations)
        site.resamples = moves and not self.resampling.isdisjoint(group.equations)
        return site

    def _site(self, kind: str, item: _Item, inputs: list[Value]) -> Site:
        made = {v for e in item.equations for v in e.outputs}
        operands = [*dict.fromkeys(v for e in item.equations for v in e.operands)]
        constants = [v for v in operands if v not in inputs and v not in made]
        slope, smooth = 0.0, True
        if kind == "elementwise":
            kind, slope = elementwise.kind_of(self.graph, inputs[0], item.equations)
            smooth = not any(
                e.primitive in elementwise.KINKED for e in elementwise.opened(item.equations)
            )
        kind = {"moves": "move", "multiple": "move"}.get(kind, kind)
        site = Site(kind, item.equations, inputs, constants, item.output)
        site.slope, site.smooth = slope, smooth
        if kind == "product" and len(inputs) == 2:
            site.inverse = next((i for i, v in enumerate(inputs) if self._is_inverse(v)), None)
        site.is_largest = kind == "stop_gradient" and softmax.is_largest(self.graph, inputs)
        return site


def _data(equation: Equation, inputs: list[Value]) -> list[Any]:
    """Return the operands that are data, one entry for each place."""
    return [v for v in equation.inputs if isinstance(v, Value) and v in inputs]


def _depends(atom: Any) -> bool:
    return isinstance(atom, Value) and atom.dependent


def _dependent_constant(equation: Equation, inputs: list[Value]) -> bool:
    return any(v not in inputs for v in equation.dependents)


def _entries(region: list[Equation]) -> list[Value]:
    made = {v for e in region for v in e.outputs}
    return [*dict.fromkeys(v for e in region for v in e.dependents if v not in made)]


def _summed_axes(equation: Equation, place: int) -> tuple[int, ...]:
    """Return the axes of the weights over which a product sums."""
    numbers = equation.params["dimension_numbers"]
    if equation.primitive is p.conv_general_dilated_p:
        return tuple(a for a in numbers.rhs_spec if a != numbers.rhs_spec[0])
    return tuple(numbers[0][place])


def _is_convolution(equation: Equation) -> bool:
    """Tell whether weights are applied at the places of a grid: a convolution, also one of 1×1.

    A product with a matrix counts as one where the data have two or more axes beside those summed
    over and those of a batch: height and width. Tokens have one: that is a dense layer.
    """
    if equation.primitive is p.conv_general_dilated_p:
        return True
    (contracted, _), (batch, _) = equation.params["dimension_numbers"]
    if jaxpr.weight_position(equation) == 0:
        contracted, batch = (pair[1] for pair in equation.params["dimension_numbers"])
    data = equation.inputs[1 - jaxpr.weight_position(equation)]
    return len(data.shape) - len(contracted) - len(batch) >= 2
