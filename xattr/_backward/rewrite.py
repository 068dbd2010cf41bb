"""Run a traced program with backward rules: the same values, another gradient.

`Carried` is what the program runs on, `run` the loop over its operations, `_claimed` the
`jax.custom_vjp` that puts a rule in the place of an operation's own gradient.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from xattr._core import compilation, trees
from xattr._program import jaxpr
from xattr._program.jaxpr import Value, p
from xattr._recognise import affine, backward
from xattr._recognise.backward import Bias, Call, Direct, Rule
from xattr._recognise.operation import Mode, Operation, Recognised
from xattr._recognise.recognise import recognise
from xattr.composites import Composite
from xattr.types import Args, ArrayTree, Function, UncoveredPrimitiveError

OnUncovered: TypeAlias = Literal["error", "gradient"]


class Carried(NamedTuple):
    """What is known of a value while the program runs."""

    value: Any
    reference: Any = None
    """The value at the reference, where the program is run on pairs (DeepLIFT)."""
    direct: Any = None
    """Zeros carried through the same moves and scalings as x; None behind any other operation. The
    gradient with respect to them is the relevance that rules return as `Direct`."""

    def plus(self, zeros: "Carried") -> "Carried":
        """Return this with zeros added: the gradient with respect to `zeros` is what comes back."""
        direct = None if self.direct is None else self.direct + zeros.direct
        return Carried(self.value + zeros.value, self.reference, direct)


class Zeros(NamedTuple):
    """Zeros to add to the inputs of an operation, and to its first output."""

    inputs: tuple[Carried, ...]
    output: Carried


class Settings(NamedTuple):
    """How a program is run."""

    composite: Composite
    bias: Bias = "exclude"
    on_uncovered: OnUncovered = "error"
    zeros: Mapping[int, Zeros] | None = None
    """Zeros to add, by the index of an operation: so `xattr.relevance_report` reads relevance."""
    bounded: Callable[[Operation, Any], list[Any]] | None = None
    """`bounded(operation, bound of x)` returns what the bound of x becomes at the operation's
    inputs."""

    @property
    def paired(self) -> bool:
        """Whether every value comes with the one at the reference."""
        return self.composite.mode == "difference"


def traced(f: Function, x: ArrayTree, args: Args, mode: Mode) -> tuple[Recognised, list[Any]]:
    """Return f as operations, and its inputs as a list."""
    program, operands = jaxpr.trace(f, x, args, whole=mode == "gradient")
    return recognise(program, mode), operands


def check_options(bias: Any, on_uncovered: Any) -> None:
    """Raise unless the options have one of their values."""
    if bias not in ("exclude", "include"):
        raise ValueError(f'`bias` must be "exclude" or "include", not {bias!r}')
    if on_uncovered not in ("error", "gradient"):
        raise ValueError(f'`on_uncovered` must be "error" or "gradient", not {on_uncovered!r}')


def check_composite(composite: Any) -> None:
    """Raise unless the value is a composite of rules that need no reference."""
    if not isinstance(composite, Composite):
        raise TypeError(
            f"`composite` must be a composite, but is {trees.type_of(composite)}: make one with "
            "xattr.composites, for example xattr.composites.epsilon_plus(), or of one rule "
            "xattr.composites.every_layer(rule)"
        )
    if composite.mode == "difference":
        raise ValueError("`composite` needs a reference: use xattr.deep_lift(f, x, baseline)")


def run(recognised: Recognised, operands: Sequence[Carried], settings: Settings) -> list[Carried]:
    """Run a program operation by operation; return its outputs."""
    env = run_all(recognised, operands, settings)
    return [read(env, v) for v in recognised.program.outputs]


def read(env: Mapping[Value, Carried], operand: Value | jaxpr.Literal) -> Carried:
    """Return what is known of an operand: a value of the program or a number written in it."""
    return env[operand] if isinstance(operand, Value) else Carried(operand.array)


def run_all(
    recognised: Recognised, operands: Sequence[Carried], settings: Settings
) -> dict[Value, Carried]:
    """Run a program operation by operation; return all its values."""
    program = recognised.program
    env: dict[Value, Carried] = {v: Carried(c) for v, c in program.constants.items()}
    for value, carried in zip(program.inputs, operands, strict=True):
        env[value] = _fit(carried, value, settings, direct=True)
    for operation in recognised.operations:
        results = _results_of(operation, env, settings)
        if operation.branches:
            results = [Carried(*map(_computed_once, result)) for result in results]
        for value, carried in zip(operation.outputs, results, strict=True):
            env[value] = _fit(carried, value, settings, direct=True)
    return env


def _computed_once(value: Any) -> Any:
    """Return the value, and its gradient, as operations that XLA does not repeat.

    XLA on CPU copies cheap operations into every fusion that reads them. Along a residual stream
    each block would then compute all blocks before it, and on the way back all behind it: programs,
    compile times and run times grow with the square of the depth. XLA does not copy divisions, and
    drops an `optimization_barrier` before it fuses. So divide by a one that XLA cannot recognise as
    one.
    """
    if value is None or jax.default_backend() != "cpu":
        return value
    return value / ((value == value) | (value != value)).astype(value.dtype)


def _fit(carried: Carried, value: Value, settings: Settings, direct: bool) -> Carried:
    """Give a value a reference exactly where it must have one; drop `direct` if told so.

    The branches of a cond and the steps of a scan must return pytrees of one structure. A value can
    be constant in one of them and depend on x in another: its reference is then the value itself.
    """
    paired = settings.paired and value.dependent
    reference = None
    if paired:
        reference = carried.value if carried.reference is None else carried.reference
    return Carried(carried.value, reference, carried.direct if direct else None)


def _results_of(
    operation: Operation, env: dict[Value, Carried], settings: Settings
) -> list[Carried]:
    """Run one operation with the rule that the composite has for it."""
    if operation.kind == "control":
        return _control(operation, env, settings)
    inputs = tuple(env[v] for v in operation.inputs)
    constants = tuple(env[v] for v in operation.constants)
    rule = None if operation.kind == "constant" else settings.composite.rule_for(operation)
    if rule is None and operation.kind not in ("constant", "move"):
        if settings.on_uncovered == "error":
            raise UncoveredPrimitiveError(_uncovered(operation, settings.composite.mode))
        rule = backward.gradient
    zeros = (settings.zeros or {}).get(operation.index)
    if zeros is None:
        return _applied(operation, rule, inputs, constants, settings)
    inputs = tuple(c.plus(zero) for c, zero in zip(inputs, zeros.inputs, strict=True))
    first, *others = _applied(operation, rule, inputs, constants, settings)
    return [first.plus(zeros.output), *others]


def _uncovered(operation: Operation, mode: Mode) -> str:
    reason = _NO_GRADIENT.get(operation.main.name)
    if reason is not None:
        return f"no rule covers {operation.describe()}: {reason}"
    if operation.choice is not None:
        made = Operation(
            "other", [operation.choice], operation.choice.dependents, [], operation.choice.outputs
        )
        return (
            f"no rule covers {operation.describe()}: it depends on x through {made.describe()}, a "
            "choice, which has no share in f that could go back to x; leave the choice out of f, "
            "or pass on_uncovered='gradient' to take it for a constant"
        )
    what = f"no rule covers {operation.describe()}, {_WHAT.get(operation.kind, operation.kind)}"
    return f"{what}: {_REMEDY[mode]}pass on_uncovered='gradient' to take its gradient"


_NO_GRADIENT = {
    "while": "a loop with a condition has no gradient backwards; write it with jax.lax.scan, or "
    "with jax.lax.fori_loop and bounds that are Python numbers",
    "pure_callback": "JAX cannot look into a function of the host; write it in JAX, or give it a "
    "derivative with jax.custom_vjp and pass on_uncovered='gradient'",
}

_REMEDY = {"relevance": "add a rule for it to the composite, or ", "gradient": "", "difference": ""}

_WHAT = {"other": "an operation without a rule", "activation": "an activation that is not a ReLU"}


def _applied(
    operation: Operation,
    rule: Rule | None,
    inputs: tuple[Carried, ...],
    constants: tuple[Carried, ...],
    settings: Settings,
) -> list[Carried]:
    """Run one operation with its rule, at the values and, for DeepLIFT, at the reference."""
    values = tuple(c.value for c in inputs)
    fixed = tuple(c.value for c in constants)
    references = None
    reference_outputs: list[Any] = [None] * len(operation.outputs)
    if settings.paired:
        references = tuple(c.value if c.reference is None else c.reference for c in inputs)
        others = tuple(c.value if c.reference is None else c.reference for c in constants)
        reference_outputs = affine.results(operation, references, others)
    if rule is backward.share_largest:
        # Softmax does not change with the shift, so one shift for both ends is exact; with two, the
        # difference of the shifts would be attributed to nothing.
        (value,), (reference,) = values, references or values
        shared = lax.stop_gradient(jnp.maximum(value, reference))
        return [Carried(shared, shared)]
    moved = _moved_direct(operation, inputs, fixed)
    if rule is None or rule.is_own_gradient(operation, settings.bias):
        outputs = affine.results(operation, values, fixed)
    elif rule is backward.constant:
        outputs = [lax.stop_gradient(o) for o in affine.results(operation, values, fixed)]
    else:
        at_reference = (references, reference_outputs[0])
        outputs = [_claimed(operation, rule, inputs, fixed, at_reference, settings)]
    return [Carried(*each) for each in zip(outputs, reference_outputs, moved, strict=True)]


def _moved_direct(
    operation: Operation, inputs: tuple[Carried, ...], constants: tuple[Any, ...]
) -> list[Any]:
    """Move the `direct` zeros of x as the operation moves x; None where they end."""
    nothing: list[Any] = [None] * len(operation.outputs)
    zeros = [c.direct for c in inputs]
    if not zeros or any(zero is None for zero in zeros) or not operation.moves_input:
        return nothing
    if len(operation.outputs) > 1:
        return affine.results(operation, zeros, constants)
    # Relevance goes through a scale whole (R of a x is R of x), but by the weights of a resize.
    moved = affine.linear if operation.resamples else affine.passed
    return [moved(operation, zeros, constants)]


def _claimed(
    operation: Operation,
    rule: Rule,
    inputs: tuple[Carried, ...],
    constants: tuple[Any, ...],
    at_reference: tuple[Any, Any],
    settings: Settings,
) -> Any:
    """Run an operation so that its gradient is the rule's.

    Every array goes in as an argument: what a `custom_vjp` closes over leaks.
    """
    bounds = None
    if rule.bounds is not None:
        _check_sees_input(operation, rule)
        bounds = _bounds(operation, rule, settings)
    arrays: list[Any] = []
    skeleton = compilation.split(rule.backward, arrays)
    with_direct = operation.sees_input and all(c.direct is not None for c in inputs)
    direct = tuple(c.direct for c in inputs) if with_direct else None

    @jax.custom_vjp
    def claimed(values: Any, direct: Any, constants: Any, extra: Any) -> Any:
        return affine.apply(operation, values, constants)

    def forward(values: Any, direct: Any, constants: Any, extra: Any) -> Any:
        output = affine.apply(operation, values, constants)
        return output, (values, constants, extra, output)

    def backward(saved: Any, g: Any) -> Any:
        values, constants, (at_reference, bounds, arrays), output = saved
        around = (*at_reference, bounds)
        call = Call(operation, values, constants, output, settings.bias, *around)
        found = compilation.join(skeleton, arrays)(call, g)
        if isinstance(found, Direct):
            _check_sees_input(operation, rule)
        gradients, relevances = _in_both_forms(found, values, with_direct)
        gradients = tuple(trees.cast(a, b) for a, b in zip(gradients, values, strict=True))
        return gradients, relevances, None, None

    claimed.defvjp(forward, backward)
    values = tuple(c.value for c in inputs)
    return claimed(values, direct, constants, (at_reference, bounds, arrays))


def _in_both_forms(found: Any, values: Any, with_direct: bool) -> tuple[Any, Any]:
    """Return gradients with respect to the values, and with respect to their `direct` zeros."""
    if not isinstance(found, Direct):
        return tuple(found), None
    if with_direct:
        return tuple(map(jnp.zeros_like, values)), tuple(found.relevances)
    # with_rules has the gradient only: R / x, which is lost where x is 0.
    return tuple(affine.ratio(r, x) for r, x in zip(found.relevances, values, strict=True)), None


def _check_sees_input(operation: Operation, rule: Rule) -> None:
    if not operation.sees_input:
        raise ValueError(
            f"a rule for first layers, {rule}, was given to a layer that does not see the input: "
            f"{operation.describe()}; give it to composites.first_layer"
        )


def _bounds(operation: Operation, rule: Rule, settings: Settings) -> Any:
    """Return the bounds of x as the layer sees them."""
    if settings.bounded is None:
        raise ValueError(f"{rule} has bounds, which need x: use it with xattr.lrp")
    low, high = (settings.bounded(operation, bound) for bound in rule.bounds or ())
    # A negative scale between x and the layer swaps them.
    pairs = [(jnp.minimum(a, b), jnp.maximum(a, b)) for a, b in zip(low, high, strict=True)]
    return tuple(tuple(side) for side in zip(*pairs, strict=True))


# Control flow -----------------------------------------------------------------------------------


def _control(operation: Operation, env: dict[Value, Carried], settings: Settings) -> list[Carried]:
    equation = operation.equations[0]
    operands = [read(env, v) for v in equation.inputs]
    settings = settings._replace(zeros=None)  # the indices of operations in a body are others
    if equation.primitive is p.scan_p:
        return _scan(operation, operands, settings)
    if equation.primitive is p.cond_p:
        return _cond(operation, operands, settings)
    body = functools.partial(_branch, operation, operation.bodies[0], settings)
    params = equation.params
    checkpointed = jax.checkpoint(body, policy=params["policy"], prevent_cse=params["prevent_cse"])
    return checkpointed(*operands)


def _branch(
    operation: Operation, body: Recognised, settings: Settings, *operands: Carried
) -> list[Carried]:
    # What comes out may be x in one branch and not in another: `direct` ends here.
    results = run(body, operands, settings)
    return [
        _fit(r, v, settings, direct=False) for r, v in zip(results, operation.outputs, strict=True)
    ]


def _cond(operation: Operation, operands: list[Carried], settings: Settings) -> list[Carried]:
    index = operands[0]
    # Under on_uncovered="gradient" both ends take the branch of x: completeness is given up.
    if index.reference is not None and settings.on_uncovered == "error":
        raise UncoveredPrimitiveError(
            f"no rule covers {operation.describe()}: which branch is taken depends on x, and input "
            "and reference may take different ones"
        )
    branches = [functools.partial(_branch, operation, body, settings) for body in operation.bodies]
    return lax.switch(index.value, branches, *operands[1:])


def _scan(operation: Operation, operands: list[Carried], settings: Settings) -> list[Carried]:
    equation, (*firsts, body) = operation.equations[0], operation.bodies
    params = equation.params
    constants, carried = jaxpr.scan_counts(equation)
    inputs = body.program.inputs
    # What the loop carries is x in no step but the first: a rule that returns `Direct` for it would
    # be right for that step only.
    fitted = [
        _fit(o, v, settings, direct=not constants <= i < constants + carried)
        for i, (o, v) in enumerate(zip(operands, inputs, strict=True))
    ]
    held, start, slices = (
        fitted[:constants],
        fitted[constants : constants + carried],
        fitted[constants + carried :],
    )
    carried_values = inputs[constants : constants + carried]

    def step(body: Recognised, carry: Any, part: Any) -> Any:
        results = run(body, [*held, *carry, *part], settings)
        after = [
            _fit(r, v, settings, direct=False)
            for r, v in zip(results[:carried], carried_values, strict=True)
        ]
        out = [
            _fit(r, v, settings, direct=False)
            for r, v in zip(results[carried:], operation.outputs[carried:], strict=True)
        ]
        return after, out

    # A state that is constant at first carries no relevance: its product with weights is part of a
    # bias, as where the steps are written out. So the first steps are programs of their own, run
    # one by one, and the loop does the rest.
    backwards, count = params["reverse"], params["length"]
    rows: list[Any] = []
    for first in firsts[:count]:  # from the end that the loop begins at
        part = jax.tree.map(lambda each: each[-1 if backwards else 0], slices)
        slices = jax.tree.map(lambda each: each[:-1] if backwards else each[1:], slices)
        start, row = step(first, start, part)
        rows.append(jax.tree.map(lambda each: jnp.expand_dims(each, 0), row))
    last, stacked = lax.scan(
        functools.partial(step, body),
        start,
        slices,
        length=count - len(rows),
        reverse=backwards,
        unroll=params["unroll"],
    )
    if rows:
        parts = [stacked, *rows[::-1]] if backwards else [*rows, stacked]
        stacked = jax.tree.map(lambda *each: jnp.concatenate(each), *parts)
    return [*last, *stacked]
