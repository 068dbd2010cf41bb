"""Attribution to a hidden layer and from it. The layer is named; the network is not rewritten.

A layer is a value of the traced program. Its name is one that
`jax.ad_checkpoint.checkpoint_name(h, "name")` gives, or a scope of `jax.named_scope`: any part of
the path of scopes, such as "Dense_0" or "block_3/project". Modules of flax linen make scopes.
Modules of flax nnx do not: write `with jax.named_scope("name"):` around the call, or name the
value.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xattr import paths
from xattr._core import chunks, compilation, completeness, trees
from xattr._integrate import kernel
from xattr._program import cutting, workload
from xattr.types import Args, Array, ArrayTree, Function, PathSamples, Progress, Quadrature


def at_layer(f: Function, layer: str) -> tuple[Function, Function]:
    """Return the functions from the input to a layer, and from the layer to the score.

    f(x) = from_layer(to_layer(x), x).

    Both functions compose with the transformations of JAX and with every method of this library:
    `xattr.integrated_gradients(from_layer, h, args=(x, *args))`. Those of the same f and layer are
    equal, so that `jax.jit` with them as static arguments does not recompile.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        layer: a name that `jax.ad_checkpoint.checkpoint_name(h, "name")` gives, or else a scope of
            `jax.named_scope` or of a flax linen module: any part of the path of scopes, such as
            "Dense_0" or "block_3/project". The layer of a scope is the one value that is made
            inside and used outside.

    Returns:
        `to_layer(x, *args)`, the value h of the layer, and `from_layer(h, x, *args)`, which is f(x)
        with h in place of the layer. What does not go through the layer still depends on x. h has
        the shape and dtype of the layer. When they are called they raise `ValueError` if there is
        no such layer, it is several values, does not depend on x, is not floating or lies in a
        loop, or if h has another shape.

    Raises:
        TypeError: if f is not a function, or `layer` is not a name.

    Source:
        Dhamdhere, Sundararajan & Yan 2018, "How important is a neuron?", §2 (F split at a hidden
        layer).

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> def f(x):
        ...     with jax.named_scope("hidden"):
        ...         h = jax.nn.relu(x)
        ...     return h[0] - 2 * h[1]
        >>> to_layer, from_layer = xattr.at_layer(f, "hidden")
        >>> x = jnp.array([3.0, -1.0])
        >>> to_layer(x), from_layer(jnp.ones(2), x)
        (Array([3., 0.], dtype=float32), Array(-1., dtype=float32))
    """
    check_layer(f, layer)
    return cutting.ToLayer(f, layer), cutting.FromLayer(f, layer)


def check_layer(f: Function, layer: str) -> None:
    """Raise unless f is a function and `layer` is a name."""
    compilation.check_callable(f, "f")
    cutting.check_name(layer)


def layer_gradient(f: Function, x: ArrayTree, *, layer: str, args: Args = ()) -> Array:
    """Return the gradient of f with respect to a hidden layer.

    Aⱼ = ∂f/∂hⱼ at h = h(x).

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        layer: the name of the layer, see `xattr.at_layer`.
        args: further arguments of f. They are not attributed; a new value does not recompile.

    Returns:
        An array like the layer, in units of f per unit of h.

    Raises:
        ValueError: if there is no such layer, it is several values, does not depend on x, is not
            floating or lies in a loop.
        TypeError: if `layer` is not a name, a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Selvaraju et al. 2017, "Grad-CAM", §3 (its ∂y/∂A); Leino et al. 2018, "Influence-directed
        explanations", for a distribution at one point.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> from jax.ad_checkpoint import checkpoint_name
        >>> def f(x):
        ...     h = checkpoint_name(jnp.sin(x), "hidden")
        ...     return h[0] * h[1]
        >>> xattr.layer_gradient(f, jnp.array([0.0, jnp.pi / 2]), layer="hidden")
        Array([1., 0.], dtype=float32)
    """
    return at_layer_of(gradient_kernel, f, x, layer, args)


def layer_integrated_gradients(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    layer: str,
    quadrature: Quadrature | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
    warn_above: float | None = completeness.WARN_ABOVE,
) -> Array:
    """Integrate the gradient along the straight line between two values of a hidden layer.

    Aⱼ = (hⱼ − h'ⱼ) ∫₀¹ ∂f/∂hⱼ(h' + α (h − h'), x) dα, with h = h(x), h' = h(baseline).

    The attributions sum to the change of f between the two values of the layer. What does not go
    through the layer depends on x all along. Compare `xattr.conductance`, where it moves.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x. None is zeros.
        layer: the name of the layer, see `xattr.at_layer`.
        quadrature: nodes and weights on [0, 1]. None is Gauss–Legendre with 64 nodes.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.
        warn_above: the gap to warn of, as a share of the change of f. None does not check, see
            `xattr.integrated_gradients`.

    Returns:
        An array like the layer, in units of f.

    Raises:
        ValueError: if there is no such layer, it is several values, does not depend on x, is not
            floating or lies in a loop, or if the baseline is not like x, the quadrature is not
            valid or, outside a trace, the path is not finite.
        TypeError: if `layer` is not a name, a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", eq. 1, with the
        layer as the input.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> from jax.ad_checkpoint import checkpoint_name
        >>> def f(x):
        ...     h = checkpoint_name(x**2, "hidden")
        ...     return h[0] * h[1]
        >>> xattr.layer_integrated_gradients(f, jnp.array([1.0, 2.0]), layer="hidden").round(4)
        Array([2., 2.], dtype=float32)
    """
    compilation.check_args(args)
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    to_layer, from_layer = at_layer(f, layer)
    value = compilation.compiled(value_kernel, to_layer)
    end, start = value(x, args), value(baseline, args)
    return kernel.path_integral(
        from_layer,
        paths.straight_line(baseline=start, x=end),
        quadrature=quadrature,
        args=(x, *args),
        chunk_size=chunk_size,
        progress=progress,
        warn_above=warn_above,
    )


def conductance(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    layer: str,
    quadrature: Quadrature | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Return how much of f(x) − f(baseline) flows through each unit of a hidden layer.

    Aⱼ = ∫₀¹ ∂f/∂hⱼ dhⱼ(γ(α))/dα dα along the straight line γ from the baseline to x.

    If all of f goes through the layer, the attributions sum to f(x) − f(baseline), and what they
    miss of it is the gap of the quadrature. What does not go through the layer moves along γ, too.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x. None is zeros.
        layer: the name of the layer, see `xattr.at_layer`.
        quadrature: nodes and weights on [0, 1]. None is Gauss–Legendre with 64 nodes.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.

    Returns:
        An array like the layer, in units of f.

    Raises:
        ValueError: if there is no such layer, it is several values, does not depend on x, is not
            floating or lies in a loop, or if the baseline is not like x, the quadrature is not
            valid or, outside a trace, the path is not finite.
        TypeError: if `layer` is not a name, a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Dhamdhere, Sundararajan & Yan 2018, "How important is a neuron?", eq. 3.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> from jax.ad_checkpoint import checkpoint_name
        >>> def f(x):
        ...     h = checkpoint_name(jax.nn.relu(x), "hidden")
        ...     return jax.nn.relu(h[0] - 1 - h[1])
        >>> xattr.conductance(f, jnp.array([3.0, 1.0]), layer="hidden").round(4)
        Array([ 1.5, -0.5], dtype=float32)
    """
    return _along_path(
        conductance_kernel, f, x, baseline, layer, quadrature, args, chunk_size, progress
    )


def internal_influence(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    layer: str,
    quadrature: Quadrature | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Return the mean gradient with respect to a hidden layer on the way from the baseline to x.

    Aⱼ = ∫₀¹ ∂f/∂hⱼ(γ(α)) dα along the straight line γ.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baseline: x', a pytree like x. None is zeros.
        layer: the name of the layer, see `xattr.at_layer`.
        quadrature: nodes and weights on [0, 1]. None is Gauss–Legendre with 64 nodes.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.

    Returns:
        An array like the layer, in units of f per unit of h.

    Raises:
        ValueError: if there is no such layer, it is several values, does not depend on x, is not
            floating or lies in a loop, or if the baseline is not like x, the quadrature is not
            valid or, outside a trace, the path is not finite.
        TypeError: if `layer` is not a name, a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Leino et al. 2018, "Influence-directed explanations for deep convolutional networks",
        definition 1, for points on a line.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> from jax.ad_checkpoint import checkpoint_name
        >>> def f(x):
        ...     h = checkpoint_name(jax.nn.relu(x), "hidden")
        ...     return jax.nn.relu(h[0] - 1 - h[1])
        >>> xattr.internal_influence(f, jnp.array([3.0, 1.0]), layer="hidden").round(4)
        Array([ 0.5, -0.5], dtype=float32)
    """
    return _along_path(
        influence_kernel, f, x, baseline, layer, quadrature, args, chunk_size, progress
    )


# Kernels ----------------------------------------------------------------------------------------


def value_kernel(to_layer: Function, x: ArrayTree, args: Args) -> Array:
    """Return h(x)."""
    return to_layer(x, *args)


def gradient_kernel(f: Function, x: ArrayTree, args: Args, *, layer: str) -> Array:
    """Return ∂f/∂h at h(x)."""
    return value_and_gradient(f, layer, x, args)[1]


def value_and_gradient(
    f: Function, layer: str, x: ArrayTree, args: Args
) -> tuple[jax.Array, jax.Array]:
    """Return h(x), and ∂f/∂h there."""
    cut = cutting.cut_at(f, layer, x, args)
    value = cut.value(x)
    return value, jax.grad(cut.score)(value, x)


def conductance_kernel(
    f: Function,
    ends: tuple[ArrayTree, ArrayTree],
    nodes: Quadrature,
    args: Args,
    *,
    layer: str,
) -> tuple[Array, Array]:
    """Return Σₖ wₖ ∂f/∂h dh/dα over the nodes of one chunk, and a scalar zero in the dtype of h."""
    return _path_kernel(f, layer, ends, nodes, args, lambda velocity: velocity)


def influence_kernel(
    f: Function,
    ends: tuple[ArrayTree, ArrayTree],
    nodes: Quadrature,
    args: Args,
    *,
    layer: str,
) -> tuple[Array, Array]:
    """Return Σₖ wₖ ∂f/∂h over the nodes of one chunk, and a scalar zero in the dtype of h."""
    return _path_kernel(f, layer, ends, nodes, args, jnp.ones_like)


def _path_kernel(
    f: Function,
    layer: str,
    ends: tuple[ArrayTree, ArrayTree],
    nodes: Quadrature,
    args: Args,
    factor: Callable[[jax.Array], jax.Array],
) -> tuple[Array, Array]:
    """Return Σₖ wₖ ∂f/∂h · factor(dh/dα), by the path kernel on the pair (h, x)."""
    line = paths.straight_line(baseline=ends[0], x=ends[1])
    points, velocities, weights = kernel.sample_path(line, *nodes)
    cut = cutting.cut_at(f, layer, ends[1], args)
    value = functools.partial(jax.jvp, cut.value)
    values, changes = jax.vmap(lambda x, v: value((x,), (v,)))(points, velocities)
    samples = PathSamples((values, points), (factor(changes), velocities), weights)
    # The gradient with respect to x is not used; jit removes it.
    one_chunk = jax.tree.map(lambda leaf: leaf[None], samples)
    total, _ = kernel.path_kernel(lambda point: cut.score(*point), one_chunk, ())
    return total, jnp.zeros((), values.dtype)


def at_layer_of(
    function: Callable[..., Any], f: Function, x: ArrayTree, layer: str, args: Args
) -> Array:
    """Run a kernel that takes one point, compiled for f and the layer."""
    compilation.check_args(args)
    x = trees.floating(x, "x")
    check_layer(f, layer)
    return compilation.compiled(function, f, layer=layer)(x, args)


def _along_path(
    function: Callable[..., Any],
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None,
    layer: str,
    quadrature: Quadrature | None,
    args: Args,
    chunk_size: int | None,
    progress: Progress | None,
) -> Array:
    """Sum a kernel, compiled for f and the layer, over nodes on the straight line."""
    compilation.check_args(args)
    x = trees.floating(x, "x")
    check_layer(f, layer)
    ends = (trees.baseline_like(baseline, x), x)
    chosen = kernel.quadrature_or_default(quadrature)
    program = compilation.compiled(function, f, layer=layer)

    def part(start: Any, size: int, valid: Array) -> tuple[Array, Array]:
        return program(ends, kernel.nodes_of(chosen, start, size, valid), args)

    chunk_size = workload.chunk_size(chunk_size, f, x, args)
    total, zero = chunks.reduce(
        part, trees.add, len(chosen.nodes), chunk_size=chunk_size, progress=progress
    )
    if trees.has_nonfinite(total) and trees.has_nonfinite(ends):
        raise ValueError("the path is not finite: look for NaN in x and in the baseline")
    return trees.cast(total, zero)
