"""Operations whose gradient XLA compiles to slow code on CPU, replaced by equal ones.

f is traced, and where `pooling`, `stencils` and `convolutions` find such an operation theirs takes
its place; the values stay what they were. A program without any is left as it is, and so is one for
another backend, where nothing was measured.
"""

from typing import Any

import jax

from xattr import _jaxpr, _versions, convolutions, pooling, running, stencils
from xattr.graph import Graph
from xattr.types import ArrayTree, Function, UnreadableProgramError


def faster(f: Function) -> Function:
    """Return f with a gradient that is computed faster; equal but for the order of sums."""
    if jax.default_backend() != "cpu":
        return f

    def value(x: ArrayTree, *args: Any) -> Any:
        try:
            return _replaced(f, x, args)
        except UnreadableProgramError as error:
            _versions.step_aside(error)
            return f(x, *args)

    return value


def _replaced(f: Function, x: ArrayTree, args: tuple[Any, ...]) -> Any:
    """Return f(x, *args), with other operations in the place of what is found."""
    program, operands = _jaxpr.trace(f, x, args, whole="always")
    graph = Graph(program)
    found = {}
    for finder in (pooling, stencils, convolutions):
        found.update(finder.found(graph))
    if not found:
        return f(x, *args)
    env: dict[Any, Any] = dict(program.constants)
    env.update(zip(program.inputs, operands, strict=True))
    inside = {e for replacement in found.values() for e in replacement.inside}
    for equation in program.equations:
        if equation in inside:
            continue
        replacement = found.get(equation)
        inputs = [_jaxpr.read(env, v) for v in (replacement or equation).inputs]
        run = replacement.run(inputs) if replacement else running.run(equation, inputs)
        env.update(zip(equation.outputs, run, strict=True))
    (result,) = (_jaxpr.read(env, v) for v in program.outputs)
    return result
