"""The program as a graph: which equation makes a value, which use it, which numbers are known."""

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
    """What to run instead of an equation: another function, of other operands."""

    inputs: Sequence[Any]
    run: Callable[[Sequence[Any]], list[Any]]
    inside: Sequence[Equation] = ()
    """Equations that need not be run then."""


def operands_of(equations: Sequence[Equation]) -> set[Value]:
    """Return the values that equations take and do not make."""
    made = {v for e in equations for v in e.outputs}
    return {v for e in equations for v in e.operands} - made


class Graph:
    """A program, with the equation that makes each value and those that use it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.producer = {v: e for e in program.equations for v in e.outputs}
        self.position = {e: i for i, e in enumerate(program.equations)}
        self.uses: dict[Value, list[Equation]] = {}
        for equation in program.equations:
            for value in equation.operands:
                self.uses.setdefault(value, []).append(equation)
        self.results = {v for v in program.outputs if isinstance(v, Value)}

    def in_order(self, equations: Iterable[Equation]) -> list[Equation]:
        """Return equations in the order of the program.

        The time does not grow with the program, so that many groups are found in linear time.
        """
        return sorted(equations, key=self.position.__getitem__)

    def between(self, root: Value, out: Value) -> list[Equation]:
        """Return the equations that make `out` from `root`, in order.

        Stopped gradients, and what stands behind them, are left out.
        """
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
        """Return the equation that makes a value, behind those of the primitives `through`.

        Only equations with one operand that depends on x are passed.
        """
        equation = self.producer.get(value) if isinstance(value, Value) else None
        while equation and equation.primitive in through and len(equation.dependents) == 1:
            equation = self.producer.get(equation.dependents[0])
        return equation

    def static(self, atom: Any, *, arrays: bool = True) -> Any:
        """Return a number that is written in the program, or None.

        With `arrays` a known array of equal numbers counts as one: that of maximum(x, np.zeros(8)).
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

        JAX writes the weights of a resampling, of patches and of an identity so. f writes those of
        an average so, as jnp.ones(4) / 4. An array that f brings along does not count: it may be
        trained.
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
