"""f with another gradient: the public face of `rewrite.py`."""

import dataclasses
from typing import Any

import jax

from xattr._backward.rewrite import (
    Carried,
    OnUncovered,
    Settings,
    check_composite,
    check_options,
    run,
    traced,
)
from xattr._core import compilation, trees
from xattr._recognise.backward import Bias
from xattr.composites import Composite
from xattr.types import ArrayTree, Function


def with_rules(
    f: Function,
    composite: Composite,
    *,
    bias: Bias = "exclude",
    on_uncovered: OnUncovered = "error",
) -> Function:
    """Return a function with the values of f whose gradient follows the rules of a composite.

    g(x) = f(x); ∇g = what comes back through the rules. For a relevance composite the relevance is
    x ⊙ ∇g; what rules such as flat give to inputs that are 0 is missing from it (use `xattr.lrp`).

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        composite: which rule goes to which operation, one of `xattr.composites`.
        bias: "include" puts the bias into the denominators of LRP rules: it absorbs its share.
        on_uncovered: "error", or "gradient" for JAX's own gradient where no rule covers an
            operation.

    Returns:
        A function `g(x, *args)` for `jax.grad`, `jax.jit` and any method that takes f.
        Differentiate it with respect to x alone: other arguments get zeros at the operations that a
        rule has claimed.

    Raises:
        TypeError: unless `composite` is one of `xattr.composites` and f can be called.
        ValueError: for other values of the options, and a composite that needs a reference.
        UncoveredPrimitiveError: when g is traced, for an operation that no rule covers.

    Source:
        Ancona et al. 2018, "Towards better understanding of gradient-based attribution methods":
        attribution methods as gradients under other rules.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jnp.sum(jax.nn.relu(x @ jnp.array([[1.0, -1.0], [2.0, 0.5]])))
        >>> g = xattr.with_rules(f, xattr.composites.every_layer(xattr.rules.alpha_beta(2.0, 1.0)))
        >>> jax.grad(g)(jnp.array([1.0, 2.0]))
        Array([2., 4.], dtype=float32)
    """
    compilation.check_callable(f, "f")
    check_options(bias, on_uncovered)
    check_composite(composite)
    return Ruled(f, composite, bias, on_uncovered)


@dataclasses.dataclass(frozen=True, eq=False)
class Ruled(compilation.Bound):
    """f, with the gradient of the rules of a composite."""

    f: Function
    composite: Composite
    bias: Bias
    on_uncovered: OnUncovered

    def __call__(self, x: ArrayTree, *args: Any) -> jax.Array:
        """Return f(x, *args)."""
        x = trees.floating(x, "x")
        recognised, operands = traced(compilation.checked(self.f), x, args, self.composite.mode)
        settings = Settings(self.composite, self.bias, self.on_uncovered)
        (result,) = run(recognised, [Carried(o) for o in operands], settings)
        return result.value
