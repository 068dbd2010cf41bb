"""Guided backpropagation and DeConvNet: gradients that drop negative signals at ReLUs."""

import jax
import jax.numpy as jnp

from xattr._backward.rewrite import OnUncovered
from xattr._backward.with_rules import with_rules
from xattr._core import compilation, trees
from xattr._recognise import backward
from xattr._recognise.backward import Backward, Call, Cotangents
from xattr._recognise.elementwise import RECTIFIERS
from xattr._recognise.operation import Operation
from xattr.composites import SOFTMAX, Composite, kind
from xattr.types import Args, ArrayTree, Function


def guided_rectifier(call: Call, g: jax.Array) -> Cotangents:
    """Pass the signal where it is positive and the unit was active."""
    slope = backward.rectifier_slope(call.operation, call.inputs[0])
    return [trees.product(slope, jnp.maximum(g, 0))]


def deconvolved_rectifier(call: Call, g: jax.Array) -> Cotangents:
    """Pass the signal where it is positive, whether the unit was active or not."""
    return [jnp.maximum(g, 0)]


def _of_rectifiers(rule: Backward) -> Composite:
    """Return the composite with a rule for rectifiers and the gradient elsewhere.

    It covers neither other activations, for which neither method is defined, nor a gate that x
    opens or closes (`jnp.select`, a table read at x > 0): such a gate may be an activation.
    """
    entries = (
        (kind(*RECTIFIERS), rule),
        (_is_smooth, backward.gradient),
        (kind("stop_gradient"), backward.constant),
    )
    return Composite(entries, "gradient")


_SMOOTH = kind(
    *("dense", "conv", "sum", "scale", "product", "quotient", "power", *SOFTMAX, "max", "choice"),
    *("shift", "normalizer", "complex"),
)


def _is_smooth(operation: Operation) -> bool:
    return _SMOOTH(operation) and operation.choice is None


GUIDED = _of_rectifiers(guided_rectifier)
DECONVOLVED = _of_rectifiers(deconvolved_rectifier)


def guided_backprop(
    f: Function, x: ArrayTree, *, args: Args = (), on_uncovered: OnUncovered = "error"
) -> ArrayTree:
    """Return the gradient of f by guided backpropagation.

    At every ReLU, gᵢ = 1[zᵢ > 0] 1[gᵢ > 0] gᵢ; the gradient elsewhere. ReLU6 and leaky ReLU pass
    positive signals by their own slope.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        on_uncovered: "error", or "gradient" for JAX's own gradient at activations that are not
            ReLUs.

    Returns:
        A pytree like x, in units of f per unit of x.

    Raises:
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.
        ValueError: if f does not return a scalar, and for other values of `on_uncovered`.
        UncoveredPrimitiveError: for an activation that is not a ReLU, unless
            `on_uncovered="gradient"`.

    Source:
        Springenberg et al. 2015, "Striving for simplicity", §3.4.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jax.nn.relu(x[0] - 1 - jax.nn.relu(x[1]))
        >>> xattr.guided_backprop(f, jnp.array([3.0, 1.0]))
        Array([1., 0.], dtype=float32)
    """
    return ruled_gradient(f, x, GUIDED, args, on_uncovered)


def deconvnet(
    f: Function, x: ArrayTree, *, args: Args = (), on_uncovered: OnUncovered = "error"
) -> ArrayTree:
    """Return the signal that a deconvolutional network sends back to the input.

    At every ReLU, gᵢ = 1[gᵢ > 0] gᵢ, whatever its input was; the gradient elsewhere.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        on_uncovered: "error", or "gradient" for JAX's own gradient at activations that are not
            ReLUs.

    Returns:
        A pytree like x, in units of f per unit of x.

    Raises:
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.
        ValueError: if f does not return a scalar, and for other values of `on_uncovered`.
        UncoveredPrimitiveError: for an activation that is not a ReLU, unless
            `on_uncovered="gradient"`.

    Source:
        Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", §2.1.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jax.nn.relu(x[0] - 1 - jax.nn.relu(x[1]))
        >>> xattr.deconvnet(f, jnp.array([3.0, 5.0]))
        Array([1., 0.], dtype=float32)
    """
    return ruled_gradient(f, x, DECONVOLVED, args, on_uncovered)


def ruled_gradient(
    f: Function,
    x: ArrayTree,
    composite: Composite,
    args: Args,
    on_uncovered: OnUncovered,
) -> ArrayTree:
    """Return the gradient under a composite's rules, compiled."""
    compilation.check_args(args)
    x = trees.floating(x, "x")
    modified = with_rules(f, composite, on_uncovered=on_uncovered)
    return compilation.compiled(ruled_kernel, modified)(x, args)


def ruled_kernel(f: Function, x: ArrayTree, args: Args) -> ArrayTree:
    """Return ∇f(x)."""
    return jax.grad(f)(x, *args)
