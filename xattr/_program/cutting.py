"""A program, cut at a named value into what makes the value and what takes it."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from xattr._core import compilation, trees
from xattr._program import jaxpr, running
from xattr._program.jaxpr import Equation, Program, Value, p
from xattr.types import Args, ArrayTree, Function

NAMING = 'from jax.ad_checkpoint import checkpoint_name; h = checkpoint_name(h, "name")'
"""How to name a value, for error messages."""

_MAX_NAMES = 30
"""How many names an error message lists."""


def check_name(layer: Any) -> None:
    """Raise unless the value is a name of a layer."""
    if not isinstance(layer, str) or not parts(layer):
        raise TypeError(
            f"`layer` must be the name of a layer, not {layer!r}: a name given by "
            f'`{NAMING}`, or a scope such as "Dense_0"'
        )


class Cut(NamedTuple):
    """A program in two: one makes the layer, the other takes it as its last input."""

    before: Program
    after: Program
    others: list[Any]
    """The inputs that are not x."""

    @property
    def layer(self) -> Value:
        """The input of the second part that stands for the layer."""
        return self.after.inputs[-1]

    def value(self, x: ArrayTree) -> jax.Array:
        """Return h(x)."""
        (value,) = running.evaluate(self.before, [*jax.tree.leaves(x), *self.others])
        return jnp.asarray(value)

    def score(self, h: Any, x: ArrayTree) -> jax.Array:
        """Return f with h in place of the layer."""
        (score,) = running.evaluate(self.after, [*jax.tree.leaves(x), *self.others, h])
        return jnp.asarray(score)


@dataclasses.dataclass(frozen=True, eq=False)
class ToLayer(compilation.Bound):
    """The function from the input of f to the value of a layer."""

    f: Function
    layer: str

    def __call__(self, x: ArrayTree, *args: Any) -> jax.Array:
        """Return the value of the layer at x."""
        x = trees.floating(x, "x")
        return cut_at(self.f, self.layer, x, args).value(x)


@dataclasses.dataclass(frozen=True, eq=False)
class FromLayer(compilation.Bound):
    """The function from the value of a layer, and the input, to f."""

    f: Function
    layer: str

    def __call__(self, h: Any, x: ArrayTree, *args: Any) -> jax.Array:
        """Return f(x) with h in place of the layer."""
        x = trees.floating(x, "x")
        cut = cut_at(self.f, self.layer, x, args)
        return cut.score(checked_value(h, cut.layer, "h", "to_layer(x)"), x)


def checked_value(h: Any, layer: Value, name: str, like: str) -> jax.Array:
    """Return an array to put in place of a layer, in its dtype; raise if the shapes differ."""
    h = trees.floating(h, name)
    if jnp.shape(h) != layer.shape:
        raise ValueError(
            f"`{name}` must have the shape of the layer, {layer.shape}, but has shape "
            f"{jnp.shape(h)}: pass what {like} returns, or an array like it"
        )
    return trees.cast(h, layer)


def cut_at(f: Function, layer: str, x: ArrayTree, args: Args) -> Cut:
    """Trace f and cut it at the layer."""
    return cut(compilation.checked(f), Named(layer), x, args)


def cut(f: Callable[..., Any], finder: "Finder", x: ArrayTree, args: Args) -> Cut:
    """Trace f, which returns one array, and cut it at the value that the finder finds."""
    program, operands = jaxpr.trace(f, x, args, whole="always")
    opened = _opened(program, program.inputs, finder.to_open)
    program = jaxpr.pruned(opened)
    value = finder.find(program, opened)
    before = jaxpr.pruned(
        Program(program.inputs, [value], _until(program, value), program.constants)
    )
    layer_input = Value(value, True)
    names = {value: layer_input}
    after = Program(
        [*program.inputs, layer_input],
        [names.get(v, v) for v in program.outputs],
        [_renamed(e, names) for e in program.equations],
        program.constants,
    )
    return Cut(before, jaxpr.pruned(after), operands[len(jax.tree.leaves(x)) :])


def _until(program: Program, value: Value) -> list[Equation]:
    """Return the equations up to the one that makes a value."""
    makers = [i for i, e in enumerate(program.equations) if value in e.outputs]
    return program.equations[: makers[0] + 1] if makers else []


def _renamed(equation: Equation, names: Mapping[Any, Any]) -> Equation:
    """Return the equation with other operands."""
    return equation.changed(inputs=[names.get(v, v) for v in equation.inputs])


def _opened(
    program: Program, operands: Sequence[Any], to_open: Callable[[Equation], bool]
) -> Program:
    """Return the program for given operands, its checkpoints opened for which `to_open` holds."""
    names: dict[Any, Any] = dict(zip(program.inputs, operands, strict=True))
    constants = dict(program.constants)
    equations: list[Equation] = []
    for each in program.equations:
        equation = _renamed(each, names)
        if equation.primitive is not p.remat_p or not to_open(equation):
            equations.append(equation)
            continue
        inner = _opened(equation.bodies[0], equation.inputs, to_open)
        equations += inner.equations
        constants.update(inner.constants)
        names.update(zip(equation.outputs, inner.outputs, strict=True))
    outputs = [names.get(v, v) for v in program.outputs]
    return Program([*operands], outputs, equations, constants)


class Finder(Protocol):
    """Finds the value at which a program is cut."""

    def to_open(self, checkpoint: Equation, /) -> bool:
        """Tell whether the value may lie inside a checkpoint."""

    def find(self, program: Program, whole: Program, /) -> Value:
        """Return the value, or raise. `whole` is the same program, not yet pruned."""


# The layer's name -------------------------------------------------------------------------------


class Named:
    """Finds the value of a layer by its name, or by the scope that makes it."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.parts = parts(layer)

    def is_inside(self, equation: Equation) -> bool:
        """Tell whether an equation lies in the scope."""
        return _contains(parts(equation.scope), self.parts)

    def is_named(self, equation: Equation) -> bool:
        """Tell whether an equation gives the name. Scopes may stand before it."""
        return equation.primitive is p.name_p and _path(equation)[-len(self.parts) :] == self.parts

    def to_open(self, checkpoint: Equation) -> bool:
        """Tell whether the layer may lie inside a checkpoint."""
        inside = [*_inner(checkpoint)]
        if any(map(self.is_named, inside)):
            return True
        return not self.is_inside(checkpoint) and any(map(self.is_inside, inside))

    def find(self, program: Program, whole: Program) -> Value:
        """Return the one value that has the name, or raise.

        `whole` is the same program, not yet pruned: it tells whether f only does not use the layer.
        """
        named = [e for e in _everywhere(program.equations) if self.is_named(e)]
        matches = self.is_named if named else self.is_inside
        self._check_outside_loops(program, matches)
        values = {e.output: e for e in named} if named else self._used_outside(program)
        if not values:
            raise ValueError(self._missing(whole))
        dependent = {v: e for v, e in values.items() if v.dependent}
        if len(dependent) > 1:
            raise ValueError(self._several(dependent))
        if not dependent:
            raise ValueError(f"the layer {self.layer!r} does not depend on x: {_listed(values)}")
        (value,) = dependent
        if not value.floating:
            raise ValueError(
                f"the layer {self.layer!r} is not floating, and has no gradient: "
                f"{_listed(dependent)}"
            )
        return value

    def _used_outside(self, program: Program) -> dict[Value, Equation]:
        """Return the values that are made in the scope and used outside, with their equations."""
        makers = {v: e for e in program.equations if self.is_inside(e) for v in e.outputs}
        outside = [v for e in program.equations if not self.is_inside(e) for v in e.operands]
        used = {*outside, *(v for v in program.outputs if isinstance(v, Value))}
        return {v: e for v, e in makers.items() if v in used}

    def _check_outside_loops(self, program: Program, matches: Callable[[Equation], bool]) -> None:
        for equation in program.equations:
            if not matches(equation) and any(map(matches, _inner(equation))):
                where = _WHERE.get(equation.primitive, "inside a function with its own derivative")
                raise ValueError(
                    f"the layer {self.layer!r} lies {where}, and has no one value ({equation.name} "
                    f"at {equation.source}): name a value outside it, for example the result"
                )

    def _several(self, values: dict[Value, Equation]) -> str:
        all_paths = [_path(e) for e in values.values()]
        longer = [path for path in all_paths if sum(_contains(q, path) for q in all_paths) == 1]
        longer_path = [
            f"pass a longer part of the path, such as {'/'.join(q)!r}, or " for q in longer
        ]
        remedy = "".join(longer_path[:1])
        return (
            f"the layer {self.layer!r} is {len(values)} values that are used outside of it, and "
            f"must be one: {_listed(values)}; {remedy}name one of them, each by "
            f"a name of its own: {NAMING}"
        )

    def _missing(self, whole: Program) -> str:
        if any(self.is_named(e) or self.is_inside(e) for e in _everywhere(whole.equations)):
            return (
                f"f does not use the layer {self.layer!r}: go on with the value that was named: "
                f"{NAMING}"
            )
        return f"there is no layer {self.layer!r} in f: {_known(whole)}"


_WHERE = {
    p.scan_p: "inside a loop",
    p.while_p: "inside a loop",
    p.cond_p: "inside a branch",
}


def parts(scope: str) -> tuple[str, ...]:
    """Return the path of scopes, without what `jax.vmap` writes around them."""
    while (plain := re.sub(r"vmap\(([^()]*)\)", r"\1", scope)) != scope:
        scope = plain
    return tuple(part for part in scope.split("/") if part)


def _contains(path: tuple[str, ...], part: tuple[str, ...]) -> bool:
    count = len(part)
    return any(path[i : i + count] == part for i in range(len(path) - count + 1))


def _path(equation: Equation) -> tuple[str, ...]:
    """Return the path of scopes of an equation, with the name that it gives."""
    scope = parts(equation.scope)
    return (*scope, *parts(equation.name)) if equation.primitive is p.name_p else scope


def _inner(equation: Equation) -> Iterator[Equation]:
    """Yield the equations of the bodies of an equation, at any depth."""
    bodies = equation.bodies
    if equation.primitive is p.while_p:
        bodies = [jaxpr.while_body(equation)]
    for each in bodies:
        yield from _everywhere(each.equations)


def _everywhere(equations: Iterable[Equation]) -> Iterator[Equation]:
    for equation in equations:
        yield equation
        yield from _inner(equation)


def _listed(values: Mapping[Value, Equation]) -> str:
    shown = [
        f"{value} from {equation.name} in {'/'.join(_path(equation))!r} at {equation.source}"
        for value, equation in [*values.items()][:5]
    ]
    return "; ".join(shown) + ("; ..." if len(values) > len(shown) else "")


def _known(program: Program) -> str:
    """List the names that there are, in the order of the program."""
    equations = [*_everywhere(program.equations)]
    named = dict.fromkeys("/".join(_path(e)) for e in equations if e.primitive is p.name_p)
    scopes = dict.fromkeys(part for e in equations for part in parts(e.scope))
    if not named and not scopes:
        return (
            f"it has neither names nor scopes; write `{NAMING}`, or "
            '`with jax.named_scope("name"):` around the layer'
        )
    texts = []
    for title, names in (("names", [*named]), ("scopes", [*scopes])):
        if names:
            more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
            texts.append(f"its {title} are {', '.join(names[:_MAX_NAMES])}{more}")
    return "; ".join(texts)
