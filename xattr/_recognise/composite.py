"""What a composite and a predicate are; `xattr.composites` has those that a user picks."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax

from xattr._recognise import backward
from xattr._recognise.backward import Backward, Rule
from xattr._recognise.operation import Mode, Operation

Predicate: TypeAlias = Callable[[Operation], bool]
Entries: TypeAlias = tuple[tuple[Predicate, Backward], ...]


class Composite(NamedTuple):
    """An ordered list of (predicate, rule): the first predicate that holds decides.

    `xattr.composites.compose`, `every_layer` and the presets make one for LRP: your entries, and
    behind them those that all share (activations, products, softmax). `composite + other` has the
    entries of both, in this order. `composite.rule_for(operation)` tells which rule an operation
    gets.

    Example:
        >>> from xattr import composites, rules
        >>> composites.compose((composites.first_layer, rules.flat())) + composites.epsilon_plus()
        Composite(first_layer: flat(), kind('conv'): z_plus(), kind('dense'): epsilon(1e-06), ...)
    """

    entries: Entries
    mode: Mode = "relevance"
    """Which family of rules the entries are of; a composite of your own is of "relevance"."""
    shared: Entries = ()
    """Entries that come after all others, printed as "..."."""

    def rule_for(self, operation: Operation) -> Rule | None:
        """Return the rule of the first predicate that holds, or None."""
        entries = (*self.entries, *self.shared)
        return next((backward.as_rule(rule) for holds, rule in entries if holds(operation)), None)

    def __add__(self, other: Any) -> "Composite":
        """Return the entries of this composite, then those of another."""
        if not isinstance(other, Composite):
            return NotImplemented
        # What is shared covers every layer: it stays behind the entries of the other.
        return Composite((*self.entries, *other.entries), self.mode, self.shared or other.shared)

    def __repr__(self) -> str:
        own = [f"{shown(holds)}: {backward.as_rule(rule)}" for holds, rule in self.entries]
        return f"Composite({', '.join([*own, *(['...'] if self.shared else [])])})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class NamedPredicate:
    """A predicate that prints as it was made."""

    holds: Predicate
    name: str = dataclasses.field(metadata={"static": True})

    def __call__(self, operation: Operation) -> bool:
        """Tell whether the predicate holds."""
        return self.holds(operation)

    def __repr__(self) -> str:
        return self.name


def shown(predicate: Predicate) -> str:
    """Return how a predicate prints: a function by its name."""
    return getattr(predicate, "__name__", None) or repr(predicate)
