"""Attribution to a hidden layer, and from it: the layer is named, the network is not rewritten.

A layer is a value of the traced program. Its name is one given by
`jax.ad_checkpoint.checkpoint_name(h, "name")`, or a scope of `jax.named_scope`: any part of the
path of scopes, such as "Dense_0" or "block_3/project". Modules of flax linen make scopes; those of
flax nnx do not: write `with jax.named_scope("name"):` around the call, or name the value.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from xattr import paths
from xattr._backward import guided
from xattr._backward.rewrite import OnUncovered
from xattr._core import chunks, compilation, completeness, trees
from xattr._integrate import kernel
from xattr._program import cutting, workload
from xattr.types import Array, ArrayTree, Function, PathSamples, Progress, Quadrature


def at_layer(f: Function, layer: str) -> tuple[Function, Function]:
    """Return the functions from the input to a layer, and from the layer to the score.

    f(x) = from_layer(to_layer(x), x): `to_layer(x, *args)` is the value h of the layer,
    `from_layer(h, x, *args)` is f with h put in place. x still feeds what does not go through the
    layer. Both compose with the transformations of JAX and with every method of this library:
    `xattr.integrated_gradients(from_layer, h, args=(x, *args))`.

    `layer` is a name given by `jax.ad_checkpoint.checkpoint_name(h, "name")`, or else a scope of
    `jax.named_scope` or of a flax linen module ("Dense_0", "block_3/project": any part of the path
    of scopes). The layer of a scope is the one value that is made inside and used outside.

    Shapes: `f(x, *args)` returns a scalar for one example; h has the shape and dtype of the layer.
    Raises `TypeError` for a layer that is no name. When they are called: `ValueError` for a layer
    that is not there, is several values, does not depend on x, is not floating or lies in a loop,
    and for an h of another shape.
    Source: Dhamdhere, Sundararajan & Yan 2018, "How important is a neuron?", §2 (F split at a
    hidden layer).

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
    """Raise unless f can be called and `layer` is a name."""
    compilation.check_callable(f, "f")
    if not isinstance(layer, str) or not cutting.parts(layer):
        raise TypeError(
            f"`layer` must be the name of a layer, not {layer!r}: a name given by "
            f'`{cutting.NAMING}`, or a scope such as "Dense_0"'
        )


def layer_gradient(f: Function, x: ArrayTree, *, layer: str, args: tuple[Any, ...] = ()) -> Array:
    """Return the gradient of f with respect to a hidden layer.

    Aⱼ = ∂f/∂hⱼ at h = h(x).

    Shapes: `f(x, *args)` returns a scalar for one example; the result is like the layer, in units
    of f per unit of h. `layer` and what it raises as for `xattr.at_layer`.
    Source: Selvaraju et al. 2017, "Grad-CAM", §3 (its ∂y/∂A); Leino et al. 2018, "Influence-
    directed explanations", for a distribution at one point.

    >>> import jax, jax.numpy as jnp, xattr
    >>> from jax.ad_checkpoint import checkpoint_name
    >>> def f(x):
    ...     h = checkpoint_name(jnp.sin(x), "hidden")
    ...     return h[0] * h[1]
    >>> xattr.layer_gradient(f, jnp.array([0.0, jnp.pi / 2]), layer="hidden")
    Array([1., 0.], dtype=float32)
    """
    return _at_layer_of(gradient_kernel, f, x, layer, args)


def layer_integrated_gradients(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    layer: str,
    quadrature: Quadrature | None = None,
    args: tuple[Any, ...] = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
    warn_above: float | None = completeness.WARN_ABOVE,
) -> Array:
    """Integrate the gradient along the straight line between two values of a hidden layer.

    Aⱼ = (hⱼ − h'ⱼ) ∫₀¹ ∂f/∂hⱼ(h' + α (h − h'), x) dα, with h = h(x), h' = h(baseline); what does
    not go through the layer sees x. The attributions sum to the change of f between the two values;
    `warn_above` as for `xattr.integrated_gradients`.

    Shapes: `f(x, *args)` returns a scalar for one example; the result is like the layer, in units
    of f. `layer` and what it raises as for `xattr.at_layer`, the rest as for
    `xattr.integrated_gradients`.
    Source: Sundararajan, Taly & Yan 2017, "Axiomatic Attribution for Deep Networks", eq. 1, with
    the layer as the input; compare `xattr.conductance`.

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
    args: tuple[Any, ...] = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Return how much of f(x) − f(baseline) flows through each unit of a hidden layer.

    Aⱼ = ∫₀¹ ∂f/∂hⱼ dhⱼ(γ(α))/dα dα along the straight line γ from the baseline to x. Where all of f
    goes through the layer they sum to f(x) − f(baseline), and the sum tells the gap; what does not
    varies along γ, too.

    Shapes: `f(x, *args)` returns a scalar for one example; the result is like the layer, in units
    of f. `layer` and what it raises as for `xattr.at_layer`, the rest as for
    `xattr.integrated_gradients`.
    Source: Dhamdhere, Sundararajan & Yan 2018, "How important is a neuron?", eq. 3.

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
    args: tuple[Any, ...] = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> Array:
    """Return the mean gradient with respect to a hidden layer on the way from the baseline to x.

    Aⱼ = ∫₀¹ ∂f/∂hⱼ(γ(α)) dα along the straight line γ.

    Shapes: `f(x, *args)` returns a scalar for one example; the result is like the layer, in units
    of f per unit of h. `layer` and what it raises as for `xattr.at_layer`, the rest as for
    `xattr.integrated_gradients`.
    Source: Leino et al. 2018, "Influence-directed explanations for deep convolutional networks",
    definition 1, for points on a line.

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


def grad_cam(
    f: Function,
    x: ArrayTree,
    *,
    layer: str,
    args: tuple[Any, ...] = (),
    upsample: bool = True,
    spatial_axes: int = 2,
    relu: bool = True,
) -> Array:
    """Return the class activation map of a convolutional layer.

    L = ReLU(Σₖ αₖ Aᵏ), αₖ = mean over the pixels of ∂f/∂Aᵏ, with Aᵏ channel k of the layer.
    `relu=False` returns the sum itself, with what speaks against the class.

    Shapes: the layer is (H, W, C), or has axes of size 1 before these; the result is (H, W) of x,
    one image (H, W, C) or (1, H, W, C), by linear interpolation, or with `upsample=False` (H, W)
    of the layer for any x. `spatial_axes` is their number, here two: 1 for signals and sequences
    (L, C), 3 for volumes (D, H, W, C). Raises `ValueError` for a layer and, with `upsample`, for an
    x of another shape, and as `xattr.at_layer` does.
    Source: Selvaraju et al. 2017, "Grad-CAM", eq. 1 and 2; as a method to be checked, Adebayo et
    al. 2018, "Sanity checks for saliency maps".

    >>> import jax, jax.numpy as jnp, xattr
    >>> from jax.ad_checkpoint import checkpoint_name
    >>> def f(x):
    ...     h = checkpoint_name(jnp.concatenate([x, -x], axis=2), "conv")
    ...     return jnp.dot(h.mean((0, 1)), jnp.array([3.0, 1.0]))
    >>> xattr.grad_cam(f, jnp.array([[1.0, -2.0], [2.0, 0.0]])[..., None], layer="conv")
    Array([[0.5, 0. ], [1. , 0. ]], dtype=float32)
    """
    trees.check_count(spatial_axes, "spatial_axes")
    size = _size_of_image(x, spatial_axes) if upsample else None
    sums = _at_layer_of(cam_kernel, f, x, layer, args)
    if sums.ndim < spatial_axes or any(n != 1 for n in sums.shape[: sums.ndim - spatial_axes]):
        raise ValueError(
            f"Grad-CAM needs a layer of shape {_image_of(spatial_axes)}, but this one has shape "
            f"{sums.shape} before its channels: name a convolution's output, for one example, or "
            "pass the number of its `spatial_axes`"
        )
    cam = sums.reshape(sums.shape[sums.ndim - spatial_axes :])
    cam = jax.nn.relu(cam) if relu else cam
    return cam if size is None else _resized(cam, size)


def guided_grad_cam(
    f: Function,
    x: ArrayTree,
    *,
    layer: str,
    args: tuple[Any, ...] = (),
    on_uncovered: OnUncovered = "error",
    spatial_axes: int = 2,
) -> Array:
    """Return guided backpropagation where the class activation map of a layer is bright.

    A = L ⊙ G, with L of `xattr.grad_cam`, upsampled, and G of `xattr.guided_backprop`.

    Shapes: x is one image, (H, W, C) or (1, H, W, C), and so is the result; with `spatial_axes`
    other than 2 a signal or a volume. Raises as `xattr.grad_cam` and `xattr.guided_backprop` do.
    Source: Selvaraju et al. 2017, "Grad-CAM", §3.2.

    >>> import jax, jax.numpy as jnp, xattr
    >>> from jax.ad_checkpoint import checkpoint_name
    >>> def f(x):
    ...     h = checkpoint_name(jax.nn.relu(x), "conv")
    ...     return h.sum()
    >>> x = jnp.array([[1.0, -2.0], [2.0, 0.0]])[..., None]
    >>> xattr.guided_grad_cam(f, x, layer="conv")[..., 0]
    Array([[1., 0.], [2., 0.]], dtype=float32)
    """
    cam = grad_cam(f, x, layer=layer, args=args, spatial_axes=spatial_axes)
    signal = guided.guided_backprop(f, x, args=args, on_uncovered=on_uncovered)
    product: Array = signal * cam.reshape(*signal.shape[:-1], 1).astype(signal.dtype)
    return product


# Kernels ----------------------------------------------------------------------------------------


def value_kernel(to_layer: Function, x: ArrayTree, args: tuple[Any, ...]) -> Array:
    """Return h(x)."""
    value: Array = to_layer(x, *args)
    return value


def gradient_kernel(f: Function, x: ArrayTree, args: tuple[Any, ...], *, layer: str) -> Array:
    """Return ∂f/∂h at h(x)."""
    return _value_and_gradient(f, layer, x, args)[1]


def cam_kernel(f: Function, x: ArrayTree, args: tuple[Any, ...], *, layer: str) -> Array:
    """Return Σₖ αₖ Aᵏ, in the dtype of the layer, computed in float32 at least."""
    value, slope = _value_and_gradient(f, layer, x, args)
    if not value.ndim:
        raise ValueError("Grad-CAM needs a layer with channels, but this one is a number")
    maps, slopes = trees.widen((value, slope))
    weights = slopes.mean(range(value.ndim - 1))
    cam = jnp.einsum("...c,c->...", maps, weights, precision="highest")
    return cam.astype(value.dtype)


def _value_and_gradient(
    f: Function, layer: str, x: ArrayTree, args: tuple[Any, ...]
) -> tuple[jax.Array, jax.Array]:
    cut = cutting.cut_at(f, layer, x, args)
    value = cut.value(x)
    return value, jax.grad(cut.score)(value, x)


def conductance_kernel(
    f: Function,
    ends: tuple[ArrayTree, ArrayTree],
    nodes: Quadrature,
    args: tuple[Any, ...],
    *,
    layer: str,
) -> tuple[Array, Array]:
    """Return Σₖ wₖ ∂f/∂h dh/dα over the nodes of one chunk, and a zero in the dtype of h."""
    return _path_kernel(f, layer, ends, nodes, args, lambda velocity: velocity)


def influence_kernel(
    f: Function,
    ends: tuple[ArrayTree, ArrayTree],
    nodes: Quadrature,
    args: tuple[Any, ...],
    *,
    layer: str,
) -> tuple[Array, Array]:
    """Return Σₖ wₖ ∂f/∂h over the nodes of one chunk, and a zero in the dtype of h."""
    return _path_kernel(f, layer, ends, nodes, args, jnp.ones_like)


def _path_kernel(
    f: Function,
    layer: str,
    ends: tuple[ArrayTree, ArrayTree],
    nodes: Quadrature,
    args: tuple[Any, ...],
    factor: Callable[[jax.Array], jax.Array],
) -> tuple[Array, Array]:
    line = paths.straight_line(baseline=ends[0], x=ends[1])
    points, velocities, weights = kernel.sample_path(line, *nodes)
    cut = cutting.cut_at(f, layer, ends[1], args)
    value = functools.partial(jax.jvp, cut.value)
    values, changes = jax.vmap(lambda x, v: value((x,), (v,)))(points, velocities)
    samples = PathSamples((values, points), (factor(changes), velocities), weights)
    # The gradient with respect to x is not used, and under jit not computed.
    one_chunk = jax.tree.map(lambda leaf: leaf[None], samples)
    total, _ = kernel.path_kernel(lambda point: cut.score(*point), one_chunk, ())
    return total, jnp.zeros((), values.dtype)


def _at_layer_of(
    function: Callable[..., Any], f: Function, x: ArrayTree, layer: str, args: tuple[Any, ...]
) -> Array:
    """Run a kernel of one point, compiled."""
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
    args: tuple[Any, ...],
    chunk_size: int | None,
    progress: Progress | None,
) -> Array:
    """Sum a compiled kernel over the nodes on the straight line, chunk by chunk."""
    compilation.check_args(args)
    x = trees.floating(x, "x")
    check_layer(f, layer)
    ends = (trees.baseline_like(baseline, x), x)
    chosen = kernel.quadrature_or_default(quadrature)
    program = compilation.compiled(function, f, layer=layer)

    def part(start: Any, size: int, valid: Array) -> tuple[Array, Array]:
        return program(ends, kernel.nodes_of(chosen, start, size, valid), args)

    chunk_size = workload.chunk_size(chunk_size, f, x, args)
    total, form = chunks.reduce(
        part, trees.add, len(chosen.nodes), chunk_size=chunk_size, progress=progress
    )
    if trees.has_nonfinite(total) and trees.has_nonfinite(ends):
        raise ValueError("the path is not finite: look for NaN in x and in the baseline")
    return trees.cast(total, form)


def _size_of_image(x: ArrayTree, spatial_axes: int) -> tuple[int, ...]:
    shape = jnp.shape(x) if isinstance(x, Array) else ()
    rank = spatial_axes + 1
    if len(shape) == rank or (len(shape) == rank + 1 and shape[0] == 1):
        return shape[-rank:-1]
    found = f"has shape {shape}" if isinstance(x, Array) else f"is a {type(x).__name__}"
    one = _image_of(spatial_axes)
    raise ValueError(
        f"to upsample the map `x` must be one image, {one} or (1, {one[1:]}, but it {found}: pass "
        "one image, the number of its `spatial_axes`, or upsample=False where the method has it"
    )


def _image_of(spatial_axes: int) -> str:
    names = ("L", "HW", "DHW")
    axes = names[spatial_axes - 1] if spatial_axes <= len(names) else "?" * spatial_axes
    return f"({', '.join((*axes, 'C'))})"


@functools.partial(jax.jit, static_argnums=1)
def _resized(cam: jax.Array, size: tuple[int, ...]) -> jax.Array:
    resized: jax.Array = jax.image.resize(cam, size, "linear")
    return resized
