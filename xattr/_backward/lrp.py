"""Layer-wise relevance propagation and deep Taylor decomposition."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from xattr import composites, rules
from xattr._backward import rewrite
from xattr._backward.rewrite import Carried, OnUncovered, Settings
from xattr._core import compilation, trees
from xattr._recognise import affine
from xattr._recognise.backward import Bias
from xattr._recognise.operation import Operation, Recognised
from xattr.composites import Composite
from xattr.types import Args, Array, ArrayTree, Function

DEFAULT = composites.every_layer(rules.epsilon(1e-6))
"""The composite where none is given: the ε-rule, with ε = 1e-6."""


def lrp(
    f: Function,
    x: ArrayTree,
    composite: Composite | None = None,
    *,
    bias: Bias = "exclude",
    args: Args = (),
    on_uncovered: OnUncovered = "error",
) -> ArrayTree:
    """Return the relevance of every input by layer-wise relevance propagation.

    R = f(x) at the output; a layer y = W a + b gives Rᵢ = Σₖ aᵢ wᵢₖ / Σⱼ aⱼ wⱼₖ Rₖ to its inputs,
    or what the composite's rule for it says. Activations pass relevance on; products and quotients
    of two values share it equally; softmax and LayerNorm follow AttnLRP.

    The bias b is all that does not depend on x. A state that is still constant adds its product
    with weights to b, in a scan as where the steps are written out. In x W + h U + b, where x and h
    depend on x, both belong to the sum.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        composite: which rule goes to which operation, one of `xattr.composites`; None is the ε-rule
            with ε = 1e-6 for every layer.
        bias: "include" adds b to the denominators: it absorbs its share, and LRP-0 is gradient ⊙
            input. "exclude" leaves all relevance to the inputs. It then explodes where a sum
            without b is near 0, as in the LayerNorms of transformers: take "include" there.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        on_uncovered: "error", or "gradient" for JAX's own gradient where no rule covers an
            operation.

    Returns:
        A pytree like x, in units of f.

    Raises:
        TypeError: if `composite` is not one of `xattr.composites`, a leaf of x is not floating, or
            `args` is not a tuple.
        ValueError: for a rule for first layers given to another, and if f does not return a scalar.
        UncoveredPrimitiveError: for an operation that no rule covers, unless
            `on_uncovered="gradient"`.

    Source:
        Bach et al. 2015, "On pixel-wise explanations for non-linear classifier decisions";
        Achtibat et al. 2024, "AttnLRP".

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jax.nn.relu(jax.nn.relu(x[0] - 1) - jax.nn.relu(x[1]))
        >>> xattr.lrp(f, jnp.array([3.0, 1.0])).round(4)
        Array([ 2., -1.], dtype=float32)
    """
    compilation.check_args(args)
    x = trees.floating(x, "x")
    rewrite.check_options(bias, on_uncovered)
    chosen = DEFAULT if composite is None else composite
    rewrite.check_composite(chosen)
    static = {"composite": chosen, "bias": bias, "on_uncovered": on_uncovered}
    return compilation.compiled(relevance_kernel, f, **static)(x, args)


def relevance_kernel(
    f: Function, x: ArrayTree, args: Args, *, composite: Composite, **options: Any
) -> ArrayTree:
    """Return x ⊙ ∇f(x) under the rules, and what they give to x itself."""
    recognised, operands, settings = prepared(f, x, args, composite, **options)
    leaves, structure = jax.tree.flatten(x)
    inputs = [Carried(leaf, direct=jnp.zeros_like(leaf)) for leaf in leaves]
    rest = [Carried(o) for o in operands[len(leaves) :]]

    def value(inputs: list[Carried]) -> jax.Array:
        (result,) = rewrite.run(recognised, [*inputs, *rest], settings)
        return result.value

    relevances = [
        trees.product(leaf, gradient.value) + gradient.direct
        for leaf, gradient in zip(leaves, jax.grad(value)(inputs), strict=True)
    ]
    return jax.tree.unflatten(structure, relevances)


def prepared(
    f: Function, x: ArrayTree, args: Args, composite: Composite, **options: Any
) -> tuple[Recognised, list[Any], Settings]:
    """Return the operations of f, its inputs, and the settings under which it is run."""
    settings = Settings(composite, **options)
    recognised, operands = rewrite.traced(compilation.checked(f), x, args, composite.mode)
    return recognised, operands, settings._replace(bounded=_bounds_at(recognised, x, operands))


def _bounds_at(
    recognised: Recognised, x: ArrayTree, operands: Sequence[Any]
) -> Callable[[Operation, Any], list[Any]]:
    """Return the function from an operation and a bound of x to that bound of its inputs.

    It runs f on the bound in the place of x, as far as f only moves and scales x.
    """
    leaves = jax.tree.leaves(x)
    program = recognised.program

    def bounded(operation: Operation, bound: Any) -> list[Any]:
        if (
            operation not in recognised.operations
        ):  # it is in a body, whose values this does not compute
            raise ValueError(
                "a rule with bounds cannot be used inside a loop, a branch or a checkpoint: "
                f"{operation.describe()} is in one"
            )
        env: dict[Any, Any] = {
            **program.constants,
            **dict(zip(program.inputs, operands, strict=True)),
        }
        for value, leaf in zip(program.inputs, leaves, strict=False):  # those after x are of args
            env[value] = jnp.broadcast_to(jnp.asarray(bound, leaf.dtype), leaf.shape)
        # Constants too: x may be shifted by what the program computes from its parameters.
        for each in recognised.operations:
            if each.moves_input or each.kind == "constant":
                inputs = [env[v] for v in (*each.inputs, *each.constants)]
                count = len(each.inputs)
                results = affine.results(each, inputs[:count], inputs[count:])
                env.update(zip(each.outputs, results, strict=True))
            if each is operation:
                break
        return [env[v] for v in operation.inputs]

    return bounded


def deep_taylor(
    f: Function,
    x: ArrayTree,
    *,
    low: Array | float | None = None,
    high: Array | float | None = None,
    args: Args = (),
    on_uncovered: OnUncovered = "error",
) -> ArrayTree:
    """Return the relevance of every input by deep Taylor decomposition.

    Each layer's root point lies where its inputs can be: hidden layers Rᵢ = Σₖ (aᵢ wᵢₖ)⁺ / Σⱼ (aⱼ
    wⱼₖ)⁺ Rₖ (z⁺), the first layer Rᵢ = Σₖ wᵢₖ² / Σⱼ wⱼₖ² Rₖ (w²) or, if x is known to lie between
    `low` and `high`, the z^B-rule. Biases take no part.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        low: the smallest x, a number or an array that broadcasts to x. Give it together with
            `high`.
        high: the largest x, a number or an array that broadcasts to x.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        on_uncovered: "error", or "gradient" for JAX's own gradient where no rule covers an
            operation.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if only one of `low` and `high` is given.
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.
        UncoveredPrimitiveError: for an operation that no rule covers, unless
            `on_uncovered="gradient"`.

    Source:
        Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor
        decomposition", eq. 12, 14 and 16.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f = lambda x: jax.nn.relu(x @ jnp.array([1.0, -2.0]) + 1)
        >>> xattr.deep_taylor(f, jnp.array([4.0, 1.0]))
        Array([0.6, 2.4], dtype=float32)
    """
    if (low is None) != (high is None):
        raise ValueError("`low` and `high` go together: give both bounds of x, or neither")
    first = rules.w_square() if low is None or high is None else rules.z_box(low, high)
    composite = composites.compose(
        (composites.first_layer, first), (composites.kind("dense", "conv"), rules.z_plus())
    )
    return lrp(f, x, composite, args=args, on_uncovered=on_uncovered)
