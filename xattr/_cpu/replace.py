"""Operations whose gradient XLA compiles to slow code on CPU, replaced by equal ones.

f is traced, and `pooling`, `shifted_products` and `convolutions` replace what they find in it. The
values of f do not change. A program without such an operation is left as it is. So is any program
for another backend, where nothing was measured.
"""

from collections.abc import Sequence
from typing import Any

import jax

from xattr._cpu import convolutions, pooling, shifted_products
from xattr._program import jaxpr, running, versions
from xattr._program.graph import Graph, Replacement
from xattr._program.jaxpr import Equation, Program
from xattr.types import ArrayTree, Function, UnreadableProgramError

REWRITES: Any = (pooling, shifted_products, convolutions)
"""The rewrites that pay on every JAX that was measured.

The table has the time without one over the time with it, for integrated gradients inside jit, the
other two being on (two CPU cores, `tests/benchmarks/rewrites.py`).

                                             JAX 0.10.2   JAX 0.12.0.1
pooling (CNN, chunks of 16)                         1.3            1.6
convolutions (CNN, chunks of 16)                    1.5            9.0
shifted_products (EfficientNet-Lite0, chunks of 1)  1.7            2.1
"""


def faster(f: Function) -> Function:
    """Return f with a gradient that is computed faster. It differs only in the order of sums."""
    if jax.default_backend() != "cpu":
        return f

    def value(x: ArrayTree, *args: Any) -> Any:
        try:
            program, operands = jaxpr.trace(f, x, args, whole="always")
            found = _found(program)
            return _run(program, operands, found)[0] if found else f(x, *args)
        except UnreadableProgramError as error:
            versions.step_aside(error)
            return f(x, *args)

    return value


def evaluate(program: Program, operands: Sequence[Any]) -> list[Any]:
    """Return the outputs of a program, its slow operations replaced."""
    return _run(program, operands, _found(program) if jax.default_backend() == "cpu" else {})


def _found(program: Program) -> dict[Equation, Replacement]:
    graph = Graph(program)
    found = {}
    for finder in REWRITES:
        found.update(finder.found(graph))
    return found


def _run(
    program: Program, operands: Sequence[Any], found: dict[Equation, Replacement]
) -> list[Any]:
    env: dict[Any, Any] = dict(program.constants)
    env.update(zip(program.inputs, operands, strict=True))
    inside = {e for replacement in found.values() for e in replacement.inside}
    for equation in program.equations:
        if equation in inside:
            continue
        replacement = found.get(equation)
        inputs = [jaxpr.read(env, v) for v in (replacement or equation).inputs]
        run = replacement.run(inputs) if replacement else running.run(equation, inputs)
        env.update(zip(equation.outputs, run, strict=True))
    return [jaxpr.read(env, v) for v in program.outputs]
