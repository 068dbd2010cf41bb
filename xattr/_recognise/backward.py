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
from xattr.types import Array

Bias: TypeAlias = Literal["exclude", "include"]


class Call(NamedTuple):
    """One operation as it was computed: what a rule receives.

    For a layer y = L x + c, `inputs` is x, `output` is y and `linear` is L. A rule that shares by
    contribution takes `z, back = jax.vjp(call.linear, *call.inputs)`: `back` multiplies by Lᵀ.
    """

    operation: Operation
    """What the operation is: its `kind`, whether it is the `first` or `last` layer, …"""
    inputs: tuple[jax.Array, ...]
    """The values that depend on x."""
    constants: tuple[Any, ...]
    """The other values: weights, biases, masks."""
    output: jax.Array
    """The result, with the bias."""
    bias: Bias
    """The caller's option: "include" if the bias is to take its share of the relevance."""
    references: tuple[Any, ...] | None
    """The inputs at the reference, for DeepLIFT."""
    reference_output: Any
    """The output at the reference, for DeepLIFT."""
    bounds: tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]] | None
    """The smallest and the largest values that the inputs can have, if the rule has `bounds`: those
    of x, moved and scaled as f does. One array for each of `inputs`, shaped as it is."""

    def linear(self, *inputs: Any) -> Any:
        """Return L x, the layer without its bias; of `call.inputs` if no others are given."""
        return affine.linear(self.operation, inputs or self.inputs, self.constants)

    def plain(self, *inputs: Any) -> Any:
        """Return what the operation computes, y; of `call.inputs` if no others are given."""
        return affine.apply(self.operation, inputs or self.inputs, self.constants)


class Direct(NamedTuple):
    """The relevance of the inputs itself, from a rule that gives some to inputs that are 0.

    The usual result of a rule is a gradient g that stands for the relevance x ⊙ g, which is 0 where
    x is 0. Only operations that see x, moved, resized or scaled element by element at most, can
    return `Direct`; any other raises `ValueError`. `xattr.with_rules`, which has no result but a
    gradient, gives R / x there, and 0 where x = 0.
    """

    relevances: tuple[jax.Array, ...]
    """One for each of `call.inputs`, shaped as it is."""


Cotangents: TypeAlias = Sequence[Any] | Direct
Backward: TypeAlias = Callable[[Call, Any], Cotangents]


def _never(operation: Operation, bias: Bias) -> bool:
    return False


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Rule:
    """A backward function, and what the library has to know of it.

    `compose` and `every_layer` take a bare function `(call, g) -> gradients`, too, and wrap it.

    Example:
        >>> from xattr import composites, rules
        >>> def mine(call, g):
        ...     return [2 * x for x in call.inputs]
        >>> composites.every_layer(rules.Rule(mine, "mine(2)"))
        Composite(kind('dense', 'conv'): mine(2), ...)
    """

    backward: Backward
    """`backward(call, g)` returns the gradients of `call.inputs`, or `Direct`. g is the gradient
    that comes back to `call.output`."""
    name: str = dataclasses.field(metadata={"static": True})
    """What the rule prints, such as "gamma(0.25)"."""
    bounds: tuple[Array | float, Array | float] | None = None
    """The smallest and the largest x: numbers, or arrays that broadcast to every leaf of x. A rule
    with bounds is for first layers under `xattr.lrp`."""
    is_own_gradient: Callable[[Operation, Bias], bool] = dataclasses.field(
        default=_never, metadata={"static": True}
    )
    """`is_own_gradient(operation, bias)` tells where the rule is JAX's own gradient. The operation
    is then left as it is, without a `jax.custom_vjp` around it."""

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
