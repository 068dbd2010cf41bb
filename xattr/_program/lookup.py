"""The look-up of embeddings in a program of token ids: the value at which it is cut."""

import dataclasses
from collections.abc import Callable, Set
from typing import Any

import jax

from xattr._core import compilation
from xattr._program import cutting, jaxpr
from xattr._program.jaxpr import Equation, Program, Value, depends, p
from xattr.types import Args, ArrayTree

_LOOKUPS = frozenset({p.gather_p, p.dynamic_slice_p})
_MOVED = (
    jaxpr.MOVES
    | jaxpr.SPLITS
    | {p.add_p, p.sub_p, p.max_p, p.min_p, p.clamp_p, p.select_n_p, p.stop_gradient_p}
)
"""What leaves token ids token ids: moves, an offset, and how indices are wrapped or clipped."""
_HASHED = _MOVED | {p.mul_p, p.rem_p, p.and_p, p.or_p, p.xor_p, p.shift_right_logical_p}
"""What makes of each id another number that tells it: arithmetic, as of hashed vocabularies."""


@dataclasses.dataclass(frozen=True, eq=False)
class Embed(compilation.Bound):
    """The function from token ids to the embeddings that a model looks up."""

    model: Callable[..., Any]
    layer: str | None

    def __call__(self, ids: ArrayTree, *args: Any) -> jax.Array:
        """Return the embeddings of the ids."""
        return _cut(self.model, self.layer, ids, args).value(ids)


@dataclasses.dataclass(frozen=True, eq=False)
class FromEmbeddings(compilation.Bound):
    """The model, with embeddings in place of those that it looks up."""

    model: Callable[..., Any]
    layer: str | None

    def __call__(self, embeddings: Any, ids: ArrayTree, *args: Any) -> jax.Array:
        """Return model(ids, *args) with the embeddings in place of the look-up."""
        cut = _cut(self.model, self.layer, ids, args)
        h = cutting.checked_value(embeddings, cut.layer, "embeddings", "embed(ids)")
        return cut.score(h, ids)


def _cut(model: Callable[..., Any], layer: str | None, ids: ArrayTree, args: Args) -> cutting.Cut:
    def one_array(ids: ArrayTree, *args: Any) -> Any:
        value = compilation.run_copy(model, ids, *args)
        if len(jax.tree.leaves(value)) != 1:
            raise TypeError(
                "`model` must return one array, such as the scores of the classes: "
                "return it alone, lambda ids, *args: model(ids, *args)[0]"
            )
        return value

    finder = _Lookup() if layer is None else cutting.Named(layer)
    return cutting.cut(one_array, finder, ids, args)


class _Lookup:
    """Finds the rows of a table that does not depend on the ids, taken at the ids.

    A look-up whose indices are computed from each id, such as hashed ones, is taken only if there
    is no other. One whose indices are counted, such as the places of words that are not padding, is
    never taken.
    """

    def to_open(self, checkpoint: Equation) -> bool:
        """Tell whether there is a look-up in a checkpoint."""
        return any(map(_is_lookup, jaxpr.all_equations(checkpoint.bodies[0].equations)))

    def find(self, program: Program, whole: Program) -> Value:
        """Return the value of the one look-up, or raise."""
        found = [e for e in program.equations if _is_lookup(e)]
        inner = _inner_lookups(program)
        if inner:
            raise ValueError(
                "`model` looks the ids up inside a loop, a branch or a function with its own "
                f"derivative, at {inner[0].source}: look all of them up outside"
            )
        direct = _at(found, _made_of_ids(program, _MOVED)) or _at(
            found, _made_of_ids(program, _HASHED)
        )
        if not direct:
            raise ValueError(_missing(found))
        if len(direct) > 1:
            places = "; ".join(f"{e.output} at {e.source}" for e in direct[:5])
            raise ValueError(
                f"`model` looks the ids up {len(direct)} times: {places}; name the value at which "
                f"it is to be cut, and pass layer='name': {cutting.NAMING}"
            )
        return direct[0].output


def _is_lookup(equation: Equation) -> bool:
    """Tell whether an equation takes from a table what the ids say."""
    if equation.primitive not in _LOOKUPS or depends(equation.inputs[0]):
        return False
    return equation.output.floating and any(map(depends, equation.inputs[1:]))


def _inner_lookups(program: Program) -> list[Equation]:
    """Return the look-ups in the bodies of equations, where there is no one value to cut at."""
    inner = [e for each in program.equations for b in each.bodies for e in b.equations]
    return [e for e in jaxpr.all_equations(inner) if _is_lookup(e)]


def _at(lookups: list[Equation], ids: set[Value]) -> list[Equation]:
    return [e for e in lookups if any(v in ids for v in e.inputs[1:])]


def _made_of_ids(program: Program, primitives: Set[Any]) -> set[Value]:
    """Return the ids, and the values that these primitives make of ids alone."""
    ids = {value for value in program.inputs if value.dependent}
    for equation in program.equations:
        operands = equation.inputs[1:] if equation.primitive is p.select_n_p else equation.inputs
        data = [v for v in operands if depends(v)]
        if equation.primitive in primitives and data and ids.issuperset(data):
            ids.update(equation.outputs)
    return ids


def _missing(counted: list[Equation]) -> str:
    places = f", but only what it counts in them, at {counted[0].source}" if counted else ""
    return (
        f"`model` looks the ids up in no table{places}: if it multiplies a one-hot matrix by the "
        f"table, name the product, and pass layer='name': {cutting.NAMING}"
    )
