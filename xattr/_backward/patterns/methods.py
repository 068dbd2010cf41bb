"""PatternNet and PatternAttribution: the signal in the data of each layer, sent back to the input.

A layer's weights say how to filter its input, not where its signal lies: w = (1, −1) picks s out of
x = s (1, 0) + ε (1, 1) by cancelling ε. The pattern a of a unit is the direction in which its input
moves with its output, here (1, 0). Patterns are fitted once, on data, and then take the place of
the weights in the backward pass.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from xattr._backward import rewrite
from xattr._backward.patterns import fit
from xattr._backward.patterns.fit import Estimator
from xattr._backward.patterns.weights import assigned, factors_of, layers_of, products_of
from xattr._backward.rewrite import Carried, OnUncovered, Settings
from xattr._core import compilation, trees
from xattr._recognise import affine, backward
from xattr._recognise.backward import Call, Cotangents
from xattr._recognise.operation import Operation
from xattr.composites import SOFTMAX, Composite, kind
from xattr.types import Args, Array, ArrayTree, Function, Progress

Patterns: TypeAlias = Mapping[str, Array]
"""Patterns by layer: arrays shaped as the weights of the layer."""

ESTIMATORS = ("linear", "relu", "two_point")
BASE = (
    # The mask of the forward pass, also where max(x, 0) has a tie.
    (kind("relu"), backward.pass_on),
    (kind("relu6", "leaky_relu"), backward.gradient),
    (kind("sum", "scale", "product", "quotient", "power", "max", "choice"), backward.gradient),
    (kind(*SOFTMAX, "shift", "normalizer", "complex"), backward.gradient),
    (kind("stop_gradient"), backward.constant),
)
"""What happens to a signal beside the layers with weights."""


def fit_patterns(
    f: Function,
    data: ArrayTree | Iterable[ArrayTree],
    *,
    estimator: Estimator = "relu",
    args: Args = (),
    progress: Progress | None = None,
) -> dict[str, jax.Array]:
    """Estimate from data which direction of a layer's input carries the signal of each unit.

    a = c / (wᵀ c) for a unit y = wᵀ x + b, so that wᵀ a = 1. "linear": c = E[x y] − E[x] E[y], the
    covariance. "relu": c = E₊[x y] − E₊[x] E[y], with E₊ the mean where y > 0. "two_point": that
    one where y > 0 and the same with E₋, over y ≤ 0, elsewhere.

    A denominator of 0 counts as 1: a unit that never changes has the pattern 0, and with "relu" so
    has one that is never positive, also a class score. In a convolution x is the patch, and the
    mean is over samples and positions. A factor beside the weights (batch normalization) counts as
    part of w; where it is 0 (a mask) there is no sample.

    The patterns fit any f with the same layers: another class, another size of image. In dense
    layers the linear estimator does not depend on a shift of the data that the bias undoes; "relu"
    and "two_point" do if they are fitted anew.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        data: an array or a dict (any pytree but a list or a tuple) like x with a leading axis of
            examples, taken 64 at a time; or an iterable of such batches, gone through once.
        estimator: "linear", "relu" or "two_point", as above.
        args: further arguments of f, the same for all examples. A new value does not recompile.
        progress: wraps the loop over the batches, as `tqdm.tqdm` does.

    Returns:
        A dict of arrays, at least float32: one for each array of weights and shaped as it is ("00
        dense", "01 conv"; two for "two_point"). Save it with `np.savez("patterns.npz",
        **patterns)`; what `np.load("patterns.npz")` returns serves as well.

    Raises:
        ValueError: for data that are empty or unlike each other, another estimator, an f without
            layers.
        TypeError: if data are neither examples nor batches, or not floating, or `args` is not a
            tuple.
        NotImplementedError: for a layer inside a loop.

    Source:
        Kindermans et al. 2018, "Learning how to explain neural networks: PatternNet and
        PatternAttribution"; conventions of github.com/pikinder/nn-patterns.

    Example:
        >>> import jax.numpy as jnp, numpy as np, xattr
        >>> f = lambda x: x @ jnp.array([1.0, -1.0])
        >>> signal, noise = jnp.array([[1.0, 1, -1, -1]]), jnp.array([[1.0, -1, 1, -1]])
        >>> data = signal.T * jnp.array([[1.0, 0]]) + noise.T * jnp.array([[1.0, 1]])
        >>> patterns = xattr.fit_patterns(f, data, estimator="linear")
        >>> patterns
        {'00 dense': Array([1., 0.], dtype=float32)}
    """
    compilation.check_callable(f, "f")
    compilation.check_args(args)
    if estimator not in ESTIMATORS:
        names = ", ".join(f'"{name}"' for name in ESTIMATORS)
        raise ValueError(f"`estimator` must be one of {names}, not {estimator!r}")
    example: Any = None
    state: Any = None
    for number, batch in enumerate(fit.batches(data, progress)):
        batch = fit.checked_batch(batch, example, number)
        if state is None:
            example = fit.example_of(batch)
            state = fit.empty(f, example, args, estimator)
        jax.block_until_ready(state)  # or the host would run ahead and fill the memory
        add = compilation.compiled(fit.pattern_step, f, estimator=estimator)
        state = add(state, batch, args)
    if state is None:
        raise ValueError("`data` is empty: pass at least one batch of examples")
    end = compilation.compiled(fit.pattern_end, f, estimator=estimator)
    return end(state, example, args)


def pattern_net(
    f: Function,
    x: ArrayTree,
    patterns: Patterns,
    *,
    args: Args = (),
    on_uncovered: OnUncovered = "error",
) -> ArrayTree:
    """Return the signal of an input: the part of x that f responds to.

    The backward pass from s = f(x), sᵢ = Σₖ aᵢₖ sₖ through a layer with the patterns a, masked at
    each ReLU as in the forward pass. For a linear f it is a wᵀx, the estimated signal.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        patterns: those of `xattr.fit_patterns` for f, a dict of arrays shaped as the weights.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        on_uncovered: "error", or "gradient" for JAX's own gradient at activations that are not
            ReLUs.

    Returns:
        A pytree like x, in units of x.

    Raises:
        TypeError: if `patterns` is not a dict, a leaf of x is not floating, or `args` is not a
            tuple.
        ValueError: for patterns of another network, and if f does not return a scalar.
        UncoveredPrimitiveError: for an activation that is not a ReLU, unless
            `on_uncovered="gradient"`.

    Source:
        Kindermans et al. 2018, "Learning how to explain neural networks: PatternNet and
        PatternAttribution".

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f = lambda x: x @ jnp.array([1.0, -1.0])
        >>> patterns = {"00 dense": jnp.array([1.0, 0.0])}
        >>> xattr.pattern_net(f, jnp.array([2.0, 0.5]), patterns)
        Array([1.5, 0. ], dtype=float32)
    """
    return _explained(f, x, patterns, False, args, on_uncovered)


def pattern_attribution(
    f: Function,
    x: ArrayTree,
    patterns: Patterns,
    *,
    args: Args = (),
    on_uncovered: OnUncovered = "error",
) -> ArrayTree:
    """Return how much each dimension of the signal contributes to f.

    The backward pass from r = f(x), rᵢ = Σₖ wᵢₖ aᵢₖ rₖ through a layer with weights w and patterns
    a, masked at each ReLU as in the forward pass. For a linear f it is w ⊙ a f(x).

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        patterns: those of `xattr.fit_patterns` for f, a dict of arrays shaped as the weights.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        on_uncovered: "error", or "gradient" for JAX's own gradient at activations that are not
            ReLUs.

    Returns:
        A pytree like x, in units of f.

    Raises:
        TypeError: if `patterns` is not a dict, a leaf of x is not floating, or `args` is not a
            tuple.
        ValueError: for patterns of another network, and if f does not return a scalar.
        UncoveredPrimitiveError: for an activation that is not a ReLU, unless
            `on_uncovered="gradient"`.

    Source:
        Kindermans et al. 2018, "Learning how to explain neural networks: PatternNet and
        PatternAttribution".

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f = lambda x: x @ jnp.array([2.0, 1.0])
        >>> patterns = {"00 dense": jnp.array([0.5, 0.0])}
        >>> xattr.pattern_attribution(f, jnp.array([2.0, 0.5]), patterns)
        Array([4.5, 0. ], dtype=float32)
    """
    return _explained(f, x, patterns, True, args, on_uncovered)


# Explaining ---------------------------------------------------------------------------------------


def _explained(
    f: Function,
    x: ArrayTree,
    patterns: Patterns,
    attribution: bool,
    args: Args,
    on_uncovered: OnUncovered,
) -> ArrayTree:
    compilation.check_callable(f, "f")
    compilation.check_args(args)
    rewrite.check_options("exclude", on_uncovered)
    if not isinstance(patterns, Mapping):
        raise TypeError(
            "`patterns` must be a dict of arrays, as xattr.fit_patterns(f, data) returns it, but "
            f"is {trees.type_of(patterns)}"
        )
    x = trees.floating(x, "x")
    arrays = trees.floating(dict(patterns), "patterns")
    static = {"attribution": attribution, "on_uncovered": on_uncovered}
    return compilation.compiled(pattern_kernel, f, **static)(x, arrays, args)


def pattern_kernel(
    f: Function,
    x: ArrayTree,
    patterns: dict[str, Any],
    args: Args,
    *,
    attribution: bool,
    on_uncovered: OnUncovered,
) -> ArrayTree:
    """Return what comes back from f(x) through the patterns."""
    recognised = fit.traced(f, x, args)
    layers = layers_of(recognised)
    entries = tuple(
        (
            functools.partial(_is_at, index=layer.operation.index),
            functools.partial(
                _through_patterns,
                patterns=regimes,
                attribution=attribution,
            ),
        )
        for layer, regimes in zip(layers, assigned(layers, patterns), strict=True)
    )
    settings = Settings(Composite((*entries, *BASE), "gradient"), on_uncovered=on_uncovered)

    def value_of(x: ArrayTree) -> jax.Array:
        operands = [Carried(leaf) for leaf in jax.tree.leaves((x, args))]
        (result,) = rewrite.run(recognised, operands, settings)
        return result.value

    value, back = jax.vjp(value_of, x)
    (result,) = back(value)
    return result


def _is_at(operation: Operation, index: int) -> bool:
    return operation.is_layer and operation.index == index


def _through_patterns(
    call: Call, g: jax.Array, patterns: list[list[jax.Array]], attribution: bool
) -> Cotangents:
    """Send a signal back with patterns, or weights ⊙ patterns, instead of weights."""
    if len(patterns) == 1:
        signals = [g]
    else:
        above = call.output > 0
        signals = [jnp.where(above, g, jnp.zeros_like(g)), jnp.where(above, jnp.zeros_like(g), g)]
    weights = [_replaced(call, regime, attribution) for regime in patterns]

    def replaced(*inputs: Any) -> list[Any]:
        return [affine.weighted(call.operation, inputs, call.constants, w, True) for w in weights]

    _, back = jax.vjp(replaced, *call.inputs)
    return back(signals)


def _replaced(call: Call, patterns: list[jax.Array], attribution: bool) -> list[Any]:
    """Return w ⊙ a or a / s for the weights w, the patterns a and the factors s beside w.

    The factors are then applied as in the forward pass: one that is the same at all positions
    leaves a, one that masks positions out still does.
    """
    products = products_of(call.operation)
    replaced = dict(
        zip(
            affine.weight_equations(call.operation),
            map(jnp.asarray, affine.weight_operands(call.operation, call.constants)),
            strict=True,
        )
    )
    factors = factors_of(call.operation, products, call.constants)
    for product, pattern, factor in zip(products, patterns, factors, strict=True):
        weight = replaced[product.equation]
        if attribution:
            found = weight.astype(pattern.dtype) * pattern
        else:
            factor = product.by_weight(product.largest(factor)).astype(pattern.dtype)
            found = affine.ratio(pattern, jnp.broadcast_to(factor, pattern.shape))
        replaced[product.equation] = found.astype(weight.dtype)
    return list(replaced.values())
