"""DeepLIFT: differences from a reference, shared out operation by operation.

The program runs on pairs (value, value at the reference). Every operation satisfies
Δy = Σᵢ mᵢ Δxᵢ with its own multipliers m, so completeness holds for the whole.
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from xattr._backward import rewrite
from xattr._backward.rewrite import Carried, OnUncovered, Settings
from xattr._core import compilation, completeness, deprecated, trees
from xattr._program.jaxpr import Value, p
from xattr._recognise import affine, backward
from xattr._recognise.affine import ratio
from xattr._recognise.backward import Call, Cotangents
from xattr._recognise.elementwise import RECTIFIERS
from xattr._recognise.operation import Operation, Recognised
from xattr.composites import SOFTMAX, Composite, kind
from xattr.rules import halves_by_sign, merged_by_sign
from xattr.types import Args, ArrayTree, Function

REVEALED = "layer and activation"

_REMEDY = (
    'see xattr.explain for operations without multipliers (`on_uncovered="gradient"` gives up '
    "completeness), casts to fewer bits and terms that cancel"
)


@deprecated.renamed(rule="variant")
def deep_lift(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    variant: Literal["rescale", "reveal_cancel"] = "rescale",
    args: Args = (),
    on_uncovered: OnUncovered = "error",
    warn_above: float | None = completeness.WARN_ABOVE,
) -> ArrayTree:
    """Attribute f(x) − f(baseline) to the inputs by DeepLIFT.

    Aᵢ = (xᵢ − xᵢ') mᵢ, Σ A = f(x) − f(baseline). The multipliers m follow the chain rule from mₖ =
    Δy / Δz at every function of one element (rescale). Products share by the means of their
    factors. Quotients, and with them normalizers, share by means that stay bounded where the
    reference has no variance. Softmax is attributed with one shift for x and baseline.

    A cast to fewer bits within f rounds both ways: the sum is then complete to its precision.
    Inside a trace nothing warns of sums that miss their change: look with `xattr.completeness_gap`.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: the reference, a pytree like x; zeros if None.
        variant: "rescale", or "reveal_cancel" to share Δy between the positive and the negative
            contributions to Δz instead.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        on_uncovered: "error", or "gradient" for JAX's own gradient at operations without
            multipliers (a sorting, a choice by x and what is computed from one): the sum is then
            not complete.
        warn_above: outside a trace, an `xattr.IncompleteWarning` tells of sums that miss more than
            this part of f(x) − f(baseline) (5 %), and of terms so large that rounding may. The
            check waits for the result; None leaves it out.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: for a baseline unlike x, another `variant`, and if f does not return a scalar.
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.
        UncoveredPrimitiveError: for an operation without multipliers, unless
            `on_uncovered="gradient"`.

    Source:
        Shrikumar, Greenside & Kundaje 2017, "Learning important features through propagating
        activation differences", §3.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jax.nn.relu(jax.nn.relu(x[0] - 1) - jax.nn.relu(x[1]))
        >>> xattr.deep_lift(f, jnp.array([3.0, 1.0]))
        Array([ 2., -1.], dtype=float32)
    """
    compilation.check_args(args)
    compilation.check_callable(f, "f")
    rewrite.check_options("exclude", on_uncovered)
    if variant not in ("rescale", "reveal_cancel"):
        raise ValueError(f'`variant` must be "rescale" or "reveal_cancel", not {variant!r}')
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    completeness.check_option(warn_above)
    static = {"variant": variant, "on_uncovered": on_uncovered}
    result, numbers = compilation.compiled(deep_lift_kernel, f, **static)(x, baseline, args)
    completeness.warn(numbers, warn_above, _REMEDY)
    return result


def deep_lift_kernel(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree,
    args: Args,
    *,
    variant: str,
    on_uncovered: OnUncovered,
) -> tuple[ArrayTree, tuple[Any, ...]]:
    """Return the attributions, and the numbers that tell whether they are complete."""
    recognised, operands = rewrite.traced(compilation.checked(f), x, args, "difference")
    if variant == "reveal_cancel":
        recognised = fused(recognised)
    leaves, structure = jax.tree.flatten(x)
    references = jax.tree.leaves(baseline)
    rest = [Carried(o) for o in operands[len(leaves) :]]
    settings = Settings(RULES, on_uncovered=on_uncovered)

    def value(leaves: list[Any]) -> tuple[Any, tuple[Any, Any]]:
        pairs = [Carried(*pair) for pair in zip(leaves, references, strict=True)]
        (result,) = rewrite.run(recognised, [*pairs, *rest], settings)
        start = result.value if result.reference is None else result.reference
        return result.value, (result.value, start)

    multipliers, ends = jax.grad(value, has_aux=True)(leaves)
    steps = [leaf - reference for leaf, reference in zip(leaves, references, strict=True)]
    attributions = jax.tree.unflatten(structure, trees.product(steps, multipliers))
    return attributions, completeness.numbers(attributions, x, *ends)


# Multipliers ------------------------------------------------------------------------------------


def _references(call: Call) -> tuple[Any, ...]:
    assert call.references is not None
    return call.references


def rescale(call: Call, g: jax.Array) -> Cotangents:
    """Return g Δy / Δx, and the derivative where Δx = 0."""
    (x,), (reference,) = call.inputs, _references(call)
    return [g * _secant(call, x, reference)]


def _secant(call: Call, x: jax.Array, reference: jax.Array) -> jax.Array:
    """Return (f(x) − f(x')) / (x − x').

    Where the two lie close together the quotient is mostly rounding. A smooth function then takes
    its derivative half way between them, which differs from the quotient by the third order of the
    step.
    """
    step = _step(x, reference)
    if call.operation.kind in RECTIFIERS or not call.operation.smooth:
        # Across a kink the quotient is not the derivative, however close the two lie.
        near, at = step == 0, x
    else:
        scale = jnp.minimum(jnp.abs(x), jnp.abs(reference))
        # A logarithm or root changes on the scale of x itself, down to 0; others on that of 1.
        scale = scale if call.operation.kind == "power" else 1 + scale
        # The quotient errs by eps / step, the derivative by step²: the two meet at eps^(1/3).
        near = jnp.abs(step) <= float(np.cbrt(float(jnp.finfo(x.dtype).eps))) * scale  # type: ignore[no-untyped-call]
        at = (x + reference) / 2
    slope = _derivative(call, at)
    difference = call.output - call.reference_output
    return jnp.where(near, slope, difference / jnp.where(near, jnp.ones_like(step), step))


def _step(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a − b, and 0 where both are the same infinity, as two maxima over nothing are."""
    return jnp.where(a == b, jnp.zeros_like(a), a - b)


def _derivative(call: Call, at: jax.Array) -> jax.Array:
    if call.operation.kind in RECTIFIERS:
        return backward.rectifier_slope(call.operation, at)
    return backward.slope_of(call, at)


def share_product(call: Call, g: jax.Array) -> Cotangents:
    """Return the multipliers of a product, Δ(ab) = Δa (b + b')/2 + (a + a')/2 Δb.

    A factor that is one over another value, as the 1/√variance of a normalizer, makes a quotient.
    """
    if call.operation.inverse is not None:
        return _share_inverse(call, g, call.operation.inverse)
    middle = [(x + r) / 2 for x, r in zip(call.inputs, _references(call), strict=True)]
    _, back = jax.vjp(call.plain, *middle)
    return back(g)


def share_quotient(call: Call, g: jax.Array) -> Cotangents:
    """Return the multipliers of y = a/b, Δy = ((b + b') Δa − (b'y + b y') Δb) / (b² + b'²).

    They are the mean of the two ways in which a and b can change one after the other, with the
    weights b² and b'². One way divides by b'. If b' is small and b is large, that way hardly
    counts: at a reference without variance the multipliers of a normalizer are those of x over its
    own deviation. They stay below 1.21 / max(|b|, |b'|), and none cancels another.
    """
    if len(call.inputs) == 1:
        return [jnp.zeros_like(call.inputs[0])]  # x / x is 1 at both ends
    b, b0 = call.inputs[1], _references(call)[1]
    largest, b, b0, squares = _scaled(b, b0)
    of_top = (b + b0) / (largest * squares)
    of_bottom = -(b0 * call.output + b * call.reference_output) / (largest * squares)
    return backward.of_shapes(call, [g * of_top, g * of_bottom])


def _share_inverse(call: Call, g: jax.Array, place: int) -> Cotangents:
    """Return the multipliers of y = a r with r = 1/b: those of the quotient a/b, written in r."""
    r0 = _references(call)[place]
    largest, p, p0, squares = _scaled(call.inputs[place], r0)
    of_inverse = (p * call.output + p0 * call.reference_output) / (largest * squares)
    of_other = p * r0 * (p + p0) / squares
    return backward.of_shapes(call, [g * of_inverse, g * of_other][:: 1 if place == 0 else -1])


def _scaled(b: jax.Array, b0: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return h = max(|b|, |b'|), b/h, b'/h and the sum of their squares, which cannot overflow.

    h and the sum are 1 where b and b' are 0, as in a normalizer with a scale of 0.
    """
    largest = jnp.maximum(jnp.abs(b), jnp.abs(b0))
    largest = jnp.where(largest == 0, jnp.ones_like(largest), largest).astype(b.dtype)
    b, b0 = b / largest, b0 / largest
    squares = b * b + b0 * b0
    return largest, b, b0, jnp.where(squares == 0, jnp.ones_like(b), squares)


def share_softmax(call: Call, g: jax.Array) -> Cotangents:
    """Return the multipliers of a softmax p, a log-softmax or a logsumexp L.

    With κᵢ = Δpᵢ / Δ log pᵢ (and log p = x − L): Δpᵢ = κᵢ (Δxᵢ − ΔL). Since Σ Δp = 0, ΔL =
    Σⱼ κⱼ Δxⱼ / Σⱼ κⱼ. The multipliers are the same for any shift of x, and no large numbers cancel.
    """
    (x,), (reference,) = call.inputs, _references(call)
    axes, kind = call.operation.axes, call.operation.kind
    total = functools.partial(jnp.sum, axis=axes, keepdims=True)
    ends = ((x, call.output), (reference, call.reference_output))
    logs, chances = zip(*(_logs(call.operation, *end) for end in ends), strict=True)
    mean = _logarithmic_mean(chances, logs)
    of_total = mean / total(mean)
    if kind == "logsumexp":
        return [of_total * jnp.reshape(g, total(x).shape)]
    if kind == "log_softmax":
        return [g - of_total * total(g)]
    return [mean * g - of_total * total(mean * g)]


def _logs(operation: Operation, x: jax.Array, result: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return log p and p, where `result` is p, log p or L."""
    if operation.kind == "softmax":
        # log(p) of a small p has lost digits. L has them, and x − log p is L at every p that is not
        # masked: take its mean under p, where the large p count, and return x − L.
        some = result > 0
        totals = x - jnp.log(jnp.where(some, result, jnp.ones_like(result)))
        shares = jnp.where(some, result * totals, jnp.zeros_like(x))
        return x - jnp.sum(shares, operation.axes, keepdims=True), result
    if operation.kind == "logsumexp":
        kept = [n for i, n in enumerate(x.shape) if i not in operation.axes]
        result = x - jnp.expand_dims(jnp.reshape(result, kept), operation.axes)
    return result, jnp.exp(result)


def _logarithmic_mean(values: Any, logs: Any) -> jax.Array:
    """Return (a − b) / (log a − log b)."""
    a, b = values
    masked = (a == 0) & (b == 0)  # both logarithms may be −∞ there, and −∞ less −∞ is NaN
    step = jnp.where(masked, jnp.zeros_like(a), logs[0] - logs[1])
    # Near 0 the quotient is mostly rounding; its series is √(ab) sinh(step/2) / (step/2).
    near = jnp.abs(step) < 1e-2
    series = jnp.sqrt(a) * jnp.sqrt(b) * (1 + step**2 / 24 + step**4 / 1920)
    return jnp.where(near, series, (a - b) / jnp.where(near, jnp.ones_like(step), step))


def share_selection(call: Call, g: jax.Array) -> Cotangents:
    """Return the multipliers of a maximum or minimum.

    If y > y', all of Δy goes to the element that is largest in x; if not, to the one that is
    largest in x'. The difference of that element is not 0 (SHAP's rule for DeepLIFT's max-pooling).
    """
    references = _references(call)
    change = _step(call.output, call.reference_output)
    # A maximum that rose did so by the element that is largest now: that one moved by Δy or more.
    rising = change >= 0 if call.operation.selects_largest else change <= 0
    zero = jnp.zeros_like(change)
    _, back = jax.vjp(call.plain, *call.inputs)
    _, back_reference = jax.vjp(call.plain, *references)
    here = back(jnp.where(rising, g * change, zero))
    there = back_reference(jnp.where(rising, zero, g * change))
    steps = map(_step, call.inputs, references)
    return [ratio(a + b, step) for a, b, step in zip(here, there, steps, strict=True)]


def share_modulus(call: Call, g: jax.Array) -> Cotangents:
    """Return the multipliers of |z|, Δ|z| = Re((z + z')* Δz) / (|z| + |z'|).

    |z| is the root of a sum of two squares; these are the multipliers of the three, chained.
    """
    total = call.output + call.reference_output
    around = jnp.conj(call.inputs[0] + _references(call)[0])
    return [ratio(g, total).astype(around.dtype) * around]


def reveal_cancel(call: Call, g: jax.Array) -> Cotangents:
    """Return the multipliers of a layer and its activation, positive and negative Δz apart.

    Δy⁺ = ½ (f(z'+Δz⁺) − f(z')) + ½ (f(z'+Δz⁺+Δz⁻) − f(z'+Δz⁻)), Δy⁻ likewise; contributions to Δz⁺
    get Δy⁺/Δz⁺. Source: Shrikumar et al. 2017, §3.5.2.
    """
    layer, activation = call.operation.parts  # `fused` has joined them
    references = _references(call)
    within = dict(zip(call.operation.constants, call.constants, strict=True))
    constants, of_activation = (
        tuple(within[v] for v in operation.constants) for operation in (layer, activation)
    )
    steps = tuple(x - r for x, r in zip(call.inputs, references, strict=True))

    def function(z: Any) -> Any:
        return affine.apply(activation, (z,), of_activation)

    def totals(parts: Any) -> Any:
        return halves_by_sign(layer, parts, constants)

    start = affine.apply(layer, references, constants)
    parts = (
        tuple(jnp.maximum(s, 0) for s in steps),
        tuple(jnp.minimum(s, 0) for s in steps),
    )
    (up, down), back = jax.vjp(totals, parts)
    # Each part is added first and last, and the mean taken: a Shapley value of two players.
    at_start, at_end = function(start), function(start + up + down)
    with_up, with_down = function(start + up), function(start + down)
    of_up = (with_up - at_start + at_end - with_down) / 2
    of_down = (with_down - at_start + at_end - with_up) / 2
    (gradients,) = back((g * ratio(of_up, up), g * ratio(of_down, down)))
    return merged_by_sign(steps, gradients)


def _can_select(operation: Operation) -> bool:
    return operation.kind == "max" and operation.selects


def _is_modulus(operation: Operation) -> bool:
    return operation.kind == "complex" and operation.main.primitive is p.abs_p


def _shifts(operation: Operation) -> bool:
    return operation.kind == "stop_gradient" and operation.is_largest


RULES = Composite(
    (
        (_is_modulus, share_modulus),
        (kind("dense", "conv", "sum", "scale", "choice", "shift", "complex"), backward.gradient),
        (kind("relu", "relu6", "leaky_relu", "activation", "power"), rescale),
        (kind("product"), share_product),
        (kind("quotient"), share_quotient),
        (kind(*SOFTMAX), share_softmax),
        (_can_select, share_selection),
        (_shifts, backward.share_largest),
        (kind(REVEALED), reveal_cancel),
    ),
    "difference",
)


def fused(recognised: Recognised) -> Recognised:
    """Join every affine operation to each of its activations, if activations are all that reads it.

    RevealCancel needs the contributions to Δz, which an activation on its own does not see.
    """
    users: dict[Value, list[Operation]] = {}
    for operation in recognised.operations:
        for value in (*operation.inputs, *operation.constants):
            users.setdefault(value, []).append(operation)
    results = {v for v in recognised.program.outputs if isinstance(v, Value)}
    layers = {
        operation.output: operation
        for operation in recognised.operations
        if operation.kind in ("dense", "conv", "sum", "scale")
        and operation.output not in results
        and all(user.kind in _ACTIVATIONS for user in users.get(operation.output, []))
    }
    operations = []
    for operation in recognised.operations:
        if operation.kind in _ACTIVATIONS and operation.inputs[0] in layers:
            operations.append(_joined(layers[operation.inputs[0]], operation))
        elif not (operation.outputs and operation.output in layers):
            bodies = [fused(body) for body in operation.bodies]
            operations.append(dataclasses.replace(operation, bodies=bodies))
    return Recognised(recognised.program, operations)


_ACTIVATIONS = frozenset({"relu", "relu6", "leaky_relu", "activation", "power"})


def _joined(layer: Operation, activation: Operation) -> Operation:
    constants = [*dict.fromkeys([*layer.constants, *activation.constants])]
    equations = [*layer.equations, *activation.equations]
    parts = (layer, activation)
    return Operation(REVEALED, equations, layer.inputs, constants, activation.outputs, parts=parts)
