"""What a rule is, and the rules of operations that are not layers.

`xattr.rules` has the rules of layers, and tells how to write one.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from xattr._recognise import affine
from xattr._recognise.operation import Operation

Bias: TypeAlias = Literal["exclude", "include"]


class Call(NamedTuple):
    """What a rule gets: an operation, and the values with which f ran it."""

    operation: Operation
    """What the operation is: its `kind`, whether it is the `first` or `last` layer, …"""
    inputs: tuple[jax.Array, ...]
    """The values that depend on x."""
    constants: tuple[Any, ...]
    """The other values: weights, biases, masks."""
    output: jax.Array
    bias: Bias
    """Whether the bias takes its share of the relevance."""
    references: tuple[Any, ...] | None
    """The inputs at the reference (DeepLIFT)."""
    reference_output: Any
    bounds: tuple[tuple[Any, ...], tuple[Any, ...]] | None
    """The smallest and largest values the inputs can have."""

    def linear(self, *inputs: Any) -> Any:
        """Return L x, the layer without its bias."""
        return affine.linear(self.operation, inputs or self.inputs, self.constants)

    def plain(self, *inputs: Any) -> Any:
        """Return what the operation computes."""
        return affine.apply(self.operation, inputs or self.inputs, self.constants)


class Direct(NamedTuple):
    """The relevance of the inputs itself, where it is not in the form x ⊙ g."""

    relevances: tuple[jax.Array, ...]


Cotangents: TypeAlias = Sequence[Any] | Direct
Backward: TypeAlias = Callable[[Call, Any], Cotangents]


def _never(operation: Operation, bias: Bias) -> bool:
    return False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Rule:
    """A backward function, and what the library has to know of it."""

    backward: Backward
    """`backward(call, g)` returns the gradients of `call.inputs`, or `Direct`."""
    name: str = dataclasses.field(metadata={"static": True})
    bounds: tuple[Any, Any] | None = None
    """The smallest and the largest x, which come to the rule as `call.bounds`."""
    is_own_gradient: Callable[[Operation, Bias], bool] = dataclasses.field(
        default=_never, metadata={"static": True}
    )
    """Tells for an operation and the option `bias` whether the rule is just JAX's own gradient."""

    def __call__(self, call: Call, g: Any) -> Cotangents:
        """Return the gradients of `call.inputs`, or their relevance."""
        return self.backward(call, g)

    def __repr__(self) -> str:
        return self.name


def as_rule(function: Rule | Backward) -> Rule:
    """Return a rule. A bare function becomes a rule of its own name."""
    if isinstance(function, Rule):
        return function
    return Rule(function, getattr(function, "__name__", repr(function)))


def _gradient(call: Call, g: jax.Array) -> Cotangents:
    return transposed(call.plain, call.inputs, g)


gradient = Rule(_gradient, "gradient", is_own_gradient=lambda operation, bias: True)
"""Leave the operation to JAX's own gradient."""


def _constant(call: Call, g: jax.Array) -> Cotangents:
    return [jnp.zeros_like(x) for x in call.inputs]


constant = Rule(_constant, "constant")
"""Take the result for a constant: no gradient goes back through it."""

share_largest = Rule(_constant, "share_largest")
"""Use the larger of value and reference at both ends, as a constant: the shift of a softmax."""


def transposed(function: Callable[..., Any], inputs: Sequence[Any], g: Any) -> Sequence[Any]:
    """Return the gradients of a function with respect to its inputs, for one of its output."""
    _, back = jax.vjp(function, *inputs)
    return back(g)


def rectifier_slope(operation: Operation, x: jax.Array) -> jax.Array:
    """Return the derivative of a ReLU, ReLU6 or leaky ReLU, with relu'(0) = 0."""
    active = (x > 0) & (x < 6) if operation.kind == "relu6" else x > 0
    return jnp.where(active, jnp.ones_like(x), jnp.full_like(x, operation.slope))


# Relevance: activations and products ---------------------------------------------------------


def pass_on(call: Call, g: jax.Array) -> Cotangents:
    """Give the input of an activation the relevance of its output.

    In gradient form it is g y / x, and where x = 0 the derivative. Source: Bach et al. 2015;
    Achtibat et al. 2024, "AttnLRP", §3.2, the identity rule.
    """
    (x,), y = call.inputs, call.output
    if call.operation.kind == "relu":
        return [jnp.where(x > 0, g, jnp.zeros_like(g))]
    slope = slope_of(call, x)
    zero = x == 0
    return [g * jnp.where(zero, slope, y / jnp.where(zero, jnp.ones_like(x), x))]


def slope_of(call: Call, at: jax.Array) -> jax.Array:
    """Return the derivative of a function of each element, and 0 where it is infinite.

    The slope is used where x does not move or is 0. An infinite slope times that 0 would be NaN,
    and a layer would pass the NaN on to all its inputs.
    """
    (slope,) = transposed(call.plain, (at,), jnp.ones_like(call.output))
    return jnp.where(jnp.isfinite(slope), slope, jnp.zeros_like(slope))


def halve(call: Call, g: jax.Array) -> Cotangents:
    """Share the relevance of a product equally between its factors.

    Source: Achtibat et al. 2024, "AttnLRP", §3.3.2, the uniform rule.
    """
    return [part / 2 for part in transposed(call.plain, call.inputs, g)]


def halve_quotient(call: Call, g: jax.Array) -> Cotangents:
    """Share the relevance of y = a/b equally between a and b, as that of a · (1/b).

    In gradient form a gets g / (2b), and b gets g y / (2b): what `pass_on` gives to it for 1/b.
    Source: Achtibat et al. 2024, "AttnLRP", §3.2 and §3.3.2, the identity and the uniform rule.
    """
    if len(call.inputs) == 1:  # x / x
        return pass_on(call, g)
    share = jnp.where(g == 0, jnp.zeros_like(g), g / call.inputs[1] / 2)
    return of_shapes(call, [share, share * call.output])


def of_shapes(call: Call, gradients: list[jax.Array]) -> Cotangents:
    """Sum gradients over the axes along which the operation broadcast an input."""
    shape = call.output.shape
    _, back = jax.vjp(lambda *x: [jnp.broadcast_to(v, shape) for v in x], *call.inputs)
    return back([jnp.broadcast_to(g, shape) for g in gradients])


def relevance_of(call: Call, g: jax.Array) -> jax.Array:
    """Return y ⊙ g, and 0 where g = 0: a mask may have made y infinite there."""
    return jnp.where(g == 0, jnp.zeros_like(g), g * call.output)


def _pass_scaled(call: Call, g: jax.Array) -> Cotangents:
    relevance = relevance_of(call, g)
    moved = functools.partial(_passed, call)
    return Direct(tuple(transposed(moved, call.inputs, relevance)))


def _passed(call: Call, *inputs: Any) -> Any:
    return affine.passed(call.operation, inputs, call.constants)


def _bias_is_in(operation: Operation, bias: Bias) -> bool:
    return bias == "include"


pass_scaled = Rule(_pass_scaled, "pass_scaled", is_own_gradient=_bias_is_in)
"""Give each element of x the relevance of its scaled and shifted copy."""
