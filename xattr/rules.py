"""Backward rules: what an operation of the program does to the gradient that comes back to it.

A rule is a function `rule(call, g)`. `call` describes one operation as it was computed; g is the
gradient that comes back to its output. The rule returns the gradients of `call.inputs`.

The rules of layer-wise relevance propagation (LRP) carry the relevance R of a value x in gradient
form, R = x ⊙ g. Copies, residual adds, reshapes, pooling and LRP-0 are then JAX's own gradient, and
only the other layers need a rule.

Write a rule in eight lines. A function of your own is as good as a rule of the library; here the
ε-rule of both:

>>> import jax, jax.numpy as jnp, xattr
>>> from xattr import composites, rules
>>> def my_epsilon(call, g):
...     z, back = jax.vjp(call.linear, *call.inputs)  # z = L x, the layer without its bias
...     relevance = g * call.output
...     return back(relevance / (z + jnp.where(z >= 0, 0.1, -0.1)))
>>> f = lambda x: jax.nn.relu(x @ jnp.array([[1.0, -1.0], [2.0, 0.5]]) + 1) @ jnp.array([1.0, -3.0])
>>> both = (composites.every_layer(rule) for rule in (my_epsilon, rules.epsilon(0.1)))
>>> mine, known = (xattr.lrp(f, jnp.array([4.0, 1.0]), composite) for composite in both)
>>> bool(jnp.allclose(mine, known))
True

Return `Direct` from a rule that gives relevance to inputs that are 0, as the flat rule does: there
x ⊙ g is 0, whatever g is. `Direct` holds the relevance itself. It is for operations that see x, or
x moved, resized or scaled element by element. From any other operation it is a `ValueError` that
names the operation.

>>> def my_flat(call, g):  # of a layer with one unit
...     x, relevance = call.inputs[0], g * call.output
...     return rules.Direct((jnp.full(x.shape, relevance / x.size),))
>>> f = lambda x: x @ jnp.array([1.0, -2.0])
>>> for rule in (my_flat, rules.flat()):
...     print(xattr.lrp(f, jnp.array([4.0, 0.0]), composites.every_layer(rule)))
[2. 2.]
[2. 2.]

Wrap the function in `Rule` to tell the library more. `name` is what the rule prints. `bounds` are
the smallest and the largest x: the library moves and scales them as f moves and scales x, and hands
them to the rule as `call.bounds`. `is_own_gradient` tells where the rule is JAX's own gradient: the
library then leaves the operation as it is, without a `jax.custom_vjp` around it.

>>> rules.Rule(my_epsilon, "my_epsilon(0.1)")
my_epsilon(0.1)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import trees
from xattr._recognise import affine
from xattr._recognise.affine import ratio
from xattr._recognise.backward import Bias, Call, Cotangents, Direct, Rule, relevance_of
from xattr._recognise.operation import Operation
from xattr.types import Array

__all__ = ["Call", "Direct", "Rule"]
__all__ += ["alpha_beta", "epsilon", "flat", "gamma", "w_square", "z_box", "z_plus", "zero"]


# Relevance: layers ---------------------------------------------------------------------------


def zero() -> Rule:
    """Return the z-rule, LRP-0: relevance by share in the sum.

    Rᵢ = Σₖ aᵢ wᵢₖ / (Σⱼ aⱼ wⱼₖ) Rₖ. With the bias in the denominator this is gradient ⊙ input.

    Returns:
        A `Rule` for any affine layer. The denominator holds the bias if `bias="include"`.

    Source:
        Bach et al. 2015, "On pixel-wise explanations", eq. 56.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> from xattr import composites, rules
        >>> f = lambda x: x @ jnp.array([1.0, -2.0]) + 3
        >>> xattr.lrp(f, jnp.array([4.0, 1.0]), composites.every_layer(rules.zero()))
        Array([10., -5.], dtype=float32)
    """
    return Rule(functools.partial(_epsilon, epsilon=0.0), "zero()", None, _has_whole_output)


def _has_whole_output(operation: Operation, bias: Bias) -> bool:
    """Tell whether the denominator is the output: y / y leaves JAX's own gradient."""
    return bias == "include" or not operation.has_offset


def epsilon(epsilon: float = 1e-6) -> Rule:
    """Return the ε-rule: the z-rule with its denominator kept away from zero.

    Rᵢ = Σₖ aᵢ wᵢₖ / (zₖ + ε sign zₖ) Rₖ, with sign 0 = +1.

    Args:
        epsilon: the stabilizer ε ≥ 0, in units of the layer's output. 0 gives `zero()`.

    Returns:
        A `Rule` for any affine layer. z holds the bias if `bias="include"`.

    Raises:
        ValueError: if `epsilon` is not a number of at least 0.

    Source:
        Bach et al. 2015, "On pixel-wise explanations", eq. 58.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> from xattr import composites, rules
        >>> f = lambda x: x @ jnp.array([1.0, -2.0])
        >>> xattr.lrp(f, jnp.array([4.0, 1.0]), composites.every_layer(rules.epsilon(2.0)))
        Array([ 2., -1.], dtype=float32)
    """
    epsilon = _at_least_zero(epsilon, "epsilon")
    return zero() if epsilon == 0 else _named(_epsilon, epsilon=epsilon)


def _named(backward: Callable[..., Cotangents], **options: float) -> Rule:
    """Return the rule with these options, named as it was called."""
    name = f"{backward.__name__.strip('_')}({', '.join(f'{v:g}' for v in options.values())})"
    return Rule(functools.partial(backward, **options), name)


def _at_least_zero(value: Any, name: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= 0:
        raise ValueError(f"`{name}` must be a number of at least 0, not {value!r}")
    return float(value)


def _epsilon(call: Call, g: jax.Array, epsilon: float) -> Cotangents:
    z, back = jax.vjp(call.linear, *call.inputs)
    base = z if call.bias == "exclude" else call.output
    share = ratio(call.output, base, epsilon)
    # A masked output can be infinite: nothing comes back to it, and 0 · inf is NaN.
    return back(jnp.where(g == 0, jnp.zeros_like(g), g * share))


def gamma(gamma: float = 0.25) -> Rule:
    """Return the γ-rule: contributions of the sign of the output count more.

    Rᵢ = Σₖ (cᵢₖ + γ cᵢₖˢ) / Σⱼ (cⱼₖ + γ cⱼₖˢ) Rₖ with cᵢₖ = aᵢ wᵢₖ. cˢ is the positive part of the
    contribution if yₖ > 0, and the negative part if not. For a ≥ 0 and y > 0 these are the weights
    w + γ w⁺ of the source.

    Args:
        gamma: how much more they count, γ ≥ 0. 0 is the z-rule; γ → ∞ is the z⁺-rule where y > 0.

    Returns:
        A `Rule` for any affine layer. The sum holds the bias if `bias="include"`.

    Raises:
        ValueError: if `gamma` is not a number of at least 0.

    Source:
        Montavon et al. 2019, "Layer-wise relevance propagation: an overview", §10.2.3; for inputs
        of both signs Andéol et al. 2021.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> from xattr import composites, rules
        >>> f = lambda x: x @ jnp.array([1.0, -2.0])
        >>> xattr.lrp(f, jnp.array([4.0, 1.0]), composites.every_layer(rules.gamma(1.0)))
        Array([ 2.6666667, -0.6666667], dtype=float32)
    """
    return _named(_gamma, gamma=_at_least_zero(gamma, "gamma"))


def _gamma(call: Call, g: jax.Array, gamma: float) -> Cotangents:
    above = call.output > 0

    def favoured(plain: Any, positive: Any, negative: Any) -> Any:
        return plain + gamma * jnp.where(above, positive, negative)

    def total(inputs: Any, parts: Any) -> Any:
        return favoured(
            call.linear(*inputs), *halves_by_sign(call.operation, parts, call.constants)
        )

    parts = _parts(call)
    z, back = jax.vjp(total, call.inputs, parts)
    c = affine.offset(call.operation, call.constants)
    if call.bias == "include" and c is not None:
        z = z + favoured(c, jnp.maximum(c, 0), jnp.minimum(c, 0))
    direct, signed = back(ratio(relevance_of(call, g), z))
    return [d + s for d, s in zip(direct, merged_by_sign(call.inputs, signed), strict=True)]


def alpha_beta(alpha: float = 2.0, beta: float = 1.0) -> Rule:
    """Return the αβ-rule: positive and negative contributions apart.

    Rᵢ = Σₖ (α cᵢₖ⁺ / Σⱼ cⱼₖ⁺ − β cᵢₖ⁻ / Σⱼ cⱼₖ⁻) Rₖ with cᵢₖ = aᵢ wᵢₖ and α − β = 1.

    Args:
        alpha: the weight of positive contributions, α = β + 1.
        beta: the weight of negative contributions, β ≥ 0.

    Returns:
        A `Rule` for any affine layer. If `bias="include"`, the positive part of the bias is in the
        first sum and the negative part in the second.

    Raises:
        ValueError: unless β ≥ 0 and α − β = 1.

    Source:
        Bach et al. 2015, "On pixel-wise explanations", eq. 60.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> from xattr import composites, rules
        >>> f = lambda x: x @ jnp.array([1.0, -2.0])
        >>> xattr.lrp(f, jnp.array([4.0, 1.0]), composites.every_layer(rules.alpha_beta(2.0, 1.0)))
        Array([ 4., -2.], dtype=float32)
    """
    alpha, beta = _at_least_zero(alpha, "alpha"), _at_least_zero(beta, "beta")
    if abs(alpha - beta - 1) > 1e-9:
        raise ValueError(f"`alpha` must be `beta` + 1, not {alpha} with {beta}: try (2.0, 1.0)")
    return _named(_alpha_beta, alpha=alpha, beta=beta)


def z_plus() -> Rule:
    """Return the z⁺-rule: positive contributions only; αβ with α = 1, β = 0.

    Rᵢ = Σₖ (aᵢ wᵢₖ)⁺ / Σⱼ (aⱼ wⱼₖ)⁺ Rₖ. With `bias="include"` the positive part of the bias is one
    more contribution in the sum, and keeps its share; a negative bias never counts. This is ZPlus
    of zennit. With `bias="exclude"`, the default of `xattr.lrp`, no bias counts, as in the source.

    Returns:
        A `Rule` for any affine layer. A unit without a positive contribution passes nothing on.

    Source:
        Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor
        decomposition", eq. 14.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> from xattr import composites, rules
        >>> f = lambda x: x @ jnp.array([1.0, -2.0])
        >>> xattr.lrp(f, jnp.array([4.0, 1.0]), composites.every_layer(rules.z_plus()))
        Array([2., 0.], dtype=float32)
    """
    return dataclasses.replace(alpha_beta(1.0, 0.0), name="z_plus()")


def _alpha_beta(call: Call, g: jax.Array, alpha: float, beta: float) -> Cotangents:
    relevance = relevance_of(call, g)
    c = affine.offset(call.operation, call.constants) if call.bias == "include" else None

    def totals(parts: Any) -> tuple[Any, ...]:
        # With β = 0 the negative half is neither computed nor differentiated.
        return halves_by_sign(call.operation, parts, call.constants)[: 2 if beta else 1]

    z, back = jax.vjp(totals, _parts(call))
    shares = [alpha * ratio(relevance, z[0] if c is None else z[0] + jnp.maximum(c, 0))]
    if beta:
        shares.append(-beta * ratio(relevance, z[1] if c is None else z[1] + jnp.minimum(c, 0)))
    (signed,) = back(tuple(shares))
    return merged_by_sign(call.inputs, signed)


def _parts(call: Call) -> tuple[Any, ...]:
    """Return the positive and the negative part of the inputs; one part if none is negative."""
    # After a ReLU the other half is 0: the layer is then computed half as often.
    positive = tuple(jnp.maximum(x, 0) for x in call.inputs)
    if call.operation.nonnegative:
        return (positive,)
    return positive, tuple(jnp.minimum(x, 0) for x in call.inputs)


def halves_by_sign(operation: Operation, parts: Any, constants: Any) -> tuple[Any, Any]:
    """Return Σ c⁺ and Σ c⁻ of the contributions, from the inputs' positive and negative parts.

    c = x w is positive where x and w have one sign: Σ c⁺ = x⁺ w⁺ + x⁻ w⁻.
    """
    positive, negative = affine.signed(operation, parts[0], constants)
    if len(parts) == 1:
        return positive, negative
    other = affine.signed(operation, parts[1], constants)
    return positive + other[1], negative + other[0]


def merged_by_sign(inputs: Sequence[Any], gradients: Any) -> list[Any]:
    """Take the gradient of the part that an input belongs to; for 0 the mean of both.

    0 is in both parts, as `jnp.maximum` and `jnp.minimum` share the gradient of a tie.
    """
    if len(gradients) == 1:
        return list(gradients[0])
    return [
        jnp.where(x > 0, above, jnp.where(x < 0, below, (above + below) / 2))
        for x, above, below in zip(inputs, *gradients, strict=True)
    ]


# Relevance: the layer that sees the input ----------------------------------------------------


def flat() -> Rule:
    """Return the flat rule, for a first layer: equal shares to all inputs of a unit.

    Rᵢ = Σₖ 1 / (number of inputs of k) Rₖ.

    Returns:
        A `Rule` for a first layer. It returns `Direct`: inputs that are 0 get their share too.

    Source:
        Lapuschkin et al. 2019, "Unmasking Clever Hans predictors", supplement.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> from xattr import composites, rules
        >>> f = lambda x: x @ jnp.array([1.0, -2.0])
        >>> xattr.lrp(f, jnp.array([4.0, 1.0]), composites.every_layer(rules.flat()))
        Array([1., 1.], dtype=float32)
    """
    return Rule(functools.partial(_by_weight, affine.connected), "flat()")


def w_square() -> Rule:
    """Return the w²-rule, for a first layer: shares by squared weight, whatever the input is.

    Rᵢ = Σₖ wᵢₖ² / (Σⱼ wⱼₖ²) Rₖ.

    Returns:
        A `Rule` for a first layer. It returns `Direct`: inputs that are 0 get their share too.

    Source:
        Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor
        decomposition", eq. 12.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> from xattr import composites, rules
        >>> f = lambda x: x @ jnp.array([1.0, -2.0])
        >>> xattr.lrp(f, jnp.array([4.0, 1.0]), composites.every_layer(rules.w_square()))
        Array([0.4, 1.6], dtype=float32)
    """
    return Rule(functools.partial(_by_weight, affine.squared), "w_square()")


def _by_weight(function: Callable[..., Any], call: Call, g: jax.Array) -> Cotangents:
    # The layer at ones: Σ 1 or Σ w², whatever the input is.
    ones = tuple(jnp.ones_like(x) for x in call.inputs)
    total, back = jax.vjp(lambda *inputs: function(call.operation, inputs, call.constants), *ones)
    return Direct(tuple(back(ratio(relevance_of(call, g), total))))


def z_box(low: Array | float, high: Array | float) -> Rule:
    """Return the z^B-rule, for a first layer whose inputs lie between two bounds.

    Rᵢ = Σₖ (xᵢ wᵢₖ − lᵢ wᵢₖ⁺ − hᵢ wᵢₖ⁻) / (Σⱼ …) Rₖ.

    Args:
        low: the smallest x, l: a number or an array that broadcasts to every leaf of x, in units of
            x. If the network scales and shifts x before its first layer, the bounds are scaled with
            it.
        high: the largest x, h: a number or an array, as `low` is.

    Returns:
        A `Rule` for a first layer outside of loops, under `xattr.lrp`: `xattr.with_rules` does not
        know x when it is called.

    Source:
        Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor
        decomposition", eq. 16.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> from xattr import composites, rules
        >>> f = lambda x: x @ jnp.array([1.0, -2.0])
        >>> bounded = composites.every_layer(rules.z_box(0.0, 5.0))
        >>> xattr.lrp(f, jnp.array([4.0, 1.0]), bounded).round(4)
        Array([0.6667, 1.3333], dtype=float32)
    """
    shown = ", ".join(f"{b:g}" if np.ndim(b) == 0 else str(np.shape(b)) for b in (low, high))
    return Rule(_z_box, f"z_box({shown})", (low, high))


def _z_box(call: Call, g: jax.Array) -> Cotangents:
    assert call.bounds is not None  # the rule has bounds
    lows, highs = call.bounds

    def total(inputs: Any, lows: Any, highs: Any) -> Any:
        above, _ = affine.signed(call.operation, lows, call.constants)
        _, below = affine.signed(call.operation, highs, call.constants)
        return call.linear(*inputs) - above - below

    z, back = jax.vjp(total, call.inputs, lows, highs)
    # z = (x − l) w⁺ + (x − h) w⁻, and Rᵢ its terms in xᵢ, lᵢ and hᵢ, each value ⊙ gradient.
    gradients = back(ratio(relevance_of(call, g), z))
    at = (call.inputs, lows, highs)
    products = trees.product(at, gradients)
    return Direct(tuple(a + b + c for a, b, c in zip(*products, strict=True)))
