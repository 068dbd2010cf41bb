"""The program as a graph: who makes a value, who uses it, which numbers are written in it."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from xattr._core import trees
from xattr._program import jaxpr, running
from xattr._program.jaxpr import Equation, Program, Value, p

BROADCASTS = frozenset({p.broadcast_in_dim_p, p.reshape_p, p.squeeze_p, *jaxpr.COPIES})

_CONSTANT = frozenset({p.broadcast_in_dim_p, p.convert_element_type_p, p.reshape_p, p.copy_p})


class Replacement(NamedTuple):
    """What to run in the place of an equation: other operands, another function of them."""

    inputs: Sequence[Any]
    run: Callable[[Sequence[Any]], list[Any]]
    inside: Sequence[Equation] = ()
    """Equations that are then of no use."""


class Graph:
    """A program with its producers and users."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.producer = {v: e for e in program.equations for v in e.outputs}
        self.place = {e: i for i, e in enumerate(program.equations)}
        self.uses: dict[Value, list[Equation]] = {}
        for equation in program.equations:
            for value in equation.operands:
                self.uses.setdefault(value, []).append(equation)
        self.results = {v for v in program.outputs if isinstance(v, Value)}

    def in_order(self, equations: Iterable[Equation]) -> list[Equation]:
        """Return equations in the order of the program, without a look at the others."""
        return sorted(equations, key=self.place.__getitem__)

    def between(self, root: Value, out: Value) -> list[Equation]:
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
        return self.in_order(found)

    def source(self, value: Any, through: frozenset[Any]) -> Equation | None:
        """Follow a value back through equations with one dependent operand."""
        equation = self.producer.get(value) if isinstance(value, Value) else None
        while equation and equation.primitive in through and len(equation.dependents) == 1:
            equation = self.producer.get(equation.dependents[0])
        return equation

    def static(self, atom: Any, *, arrays: bool = True) -> Any:
        """Return a number that is written in the program, or None.

        `arrays` counts a known array of equal numbers, too: np.zeros(8) in maximum(x, np.zeros(8)).
        """
        if isinstance(atom, jaxpr.Literal):
            return None if np.iscomplexobj(atom.value) else np.asarray(atom.value).astype(float)
        if arrays and atom in self.program.constants:
            return _uniform(self.program.constants[atom])
        maker = self.producer.get(atom)
        if maker is None or maker.primitive not in _CONSTANT or len(maker.inputs) != 1:
            return None
        return self.static(maker.inputs[0], arrays=arrays)

    def computed(self, atom: Any) -> np.ndarray | None:
        """Return an array that the program computes from indices (iota) or numbers, else None.

        JAX writes the weights of a resampling, of patches and of an identity so, and f those of an
        average, as jnp.ones(4) / 4. An array that f brings along may be trained: it is not one.
        """
        found: set[Equation] = set()
        brought: list[Any] = []
        todo = [atom]
        while todo:
            value = todo.pop()
            if isinstance(value, jaxpr.Literal):
                continue
            equation = self.producer.get(value)
            if equation is None:
                brought.append(self.program.constants.get(value))
                if brought[-1] is None or trees.is_traced(brought[-1]):
                    return None
            elif equation not in found:
                found.add(equation)
                todo += equation.inputs
        if brought and not any(e.primitive is p.iota_p for e in found):
            return None
        needed = self.in_order(found)
        with jax.ensure_compile_time_eval():
            part = self.program._replace(inputs=[], outputs=[atom], equations=needed)
            return np.asarray(running.evaluate(part, [])[0])


def _uniform(constant: Any) -> Any:
    """Return the number that all elements of a known array have, or None."""
    known = trees.on_host(constant) if isinstance(constant, (jax.Array, np.ndarray)) else None
    if known is None or not known.size or np.iscomplexobj(known):
        return None
    first = known.flat[0]
    return np.asarray(first).astype(float) if (known == first).all() else None
