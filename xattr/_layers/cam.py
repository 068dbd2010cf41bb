"""Class activation maps of a convolutional layer."""

import functools

import jax
import jax.numpy as jnp

from xattr._backward import guided
from xattr._backward.rewrite import OnUncovered
from xattr._core import trees
from xattr._layers import hidden
from xattr.types import Args, Array, ArrayTree, Function


def grad_cam(
    f: Function,
    x: ArrayTree,
    *,
    layer: str,
    args: Args = (),
    upsample: bool = True,
    spatial_axes: int = 2,
    relu: bool = True,
) -> Array:
    """Return the class activation map of a convolutional layer.

    L = ReLU(Σₖ αₖ Aᵏ), αₖ = mean over the pixels of ∂f/∂Aᵏ, with Aᵏ channel k of the layer.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, one image (H, W, C) or (1, H, W, C); with `upsample=False` any pytree.
        layer: the name of the layer, see `xattr.at_layer`. It has the shape (h, w, C), perhaps
            with axes of size 1 before these.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        upsample: interpolate the map linearly to the size of the image.
        spatial_axes: the number of axes of the map: 2 for images, 1 for signals and sequences
            (L, C), 3 for volumes (D, H, W, C).
        relu: keep what is positive. False returns the sum itself, which is negative where the layer
            opposes the class.

    Returns:
        An array (H, W) or, with `upsample=False`, (h, w), in units of f.

    Raises:
        ValueError: if there is no such layer, it is several values, does not depend on x, is not
            floating or lies in a loop. Also if the layer or, with `upsample`, x has another shape.
        TypeError: if `layer` is not a name, a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Selvaraju et al. 2017, "Grad-CAM", eq. 1 and 2; as a method to be checked, Adebayo et al.
        2018, "Sanity checks for saliency maps".

    Example:
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
    sums = hidden.at_layer_of(cam_kernel, f, x, layer, args)
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
    args: Args = (),
    on_uncovered: OnUncovered = "error",
    spatial_axes: int = 2,
) -> Array:
    """Return guided backpropagation where the class activation map of a layer is bright.

    A = L ⊙ G, with L of `xattr.grad_cam`, upsampled, and G of `xattr.guided_backprop`.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: one image (H, W, C) or (1, H, W, C); see `spatial_axes`.
        layer: the name of the layer, see `xattr.at_layer`.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        on_uncovered: "error" raises at an operation that guided backpropagation has no rule for;
            "gradient" uses its gradient.
        spatial_axes: 2 for images, 1 for signals and sequences (L, C), 3 for volumes (D, H, W, C).

    Returns:
        An array like x.

    Raises:
        ValueError: if there is no such layer, it is several values, does not depend on x, is not
            floating or lies in a loop, or if the layer or x has another shape.
        TypeError: if `layer` is not a name, x is not floating, or `args` is not a tuple.
        UncoveredPrimitiveError: if no rule covers an operation and `on_uncovered` is "error".

    Source:
        Selvaraju et al. 2017, "Grad-CAM", §3.2.

    Example:
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
    return signal * cam.reshape(*signal.shape[:-1], 1).astype(signal.dtype)


def cam_kernel(f: Function, x: ArrayTree, args: Args, *, layer: str) -> Array:
    """Return Σₖ αₖ Aᵏ, in the dtype of the layer, computed in float32 at least."""
    value, slope = hidden.value_and_gradient(f, layer, x, args)
    if not value.ndim:
        raise ValueError("Grad-CAM needs a layer with channels, but this one is a number")
    maps, slopes = trees.widen((value, slope))
    weights = slopes.mean(range(value.ndim - 1))
    cam = jnp.einsum("...c,c->...", maps, weights, precision="highest")
    return cam.astype(value.dtype)


def _size_of_image(x: ArrayTree, spatial_axes: int) -> tuple[int, ...]:
    """Return the spatial shape of x, which must be one image, signal or volume."""
    shape = jnp.shape(x) if isinstance(x, Array) else ()
    rank = spatial_axes + 1
    if len(shape) == rank or (len(shape) == rank + 1 and shape[0] == 1):
        return shape[-rank:-1]
    found = f"has shape {shape}" if isinstance(x, Array) else f"is {trees.type_of(x)}"
    one = _image_of(spatial_axes)
    raise ValueError(
        f"to upsample the map `x` must be one image, {one} or (1, {one[1:]}, but it {found}: pass "
        "one image, the number of its `spatial_axes`, or upsample=False where the method has it"
    )


def _image_of(spatial_axes: int) -> str:
    """Return the shape of an image with these spatial axes in words, as "(H, W, C)"."""
    names = ("L", "HW", "DHW")
    axes = names[spatial_axes - 1] if spatial_axes <= len(names) else "?" * spatial_axes
    return f"({', '.join((*axes, 'C'))})"


@functools.partial(jax.jit, static_argnums=1)
def _resized(cam: jax.Array, size: tuple[int, ...]) -> jax.Array:
    return jax.image.resize(cam, size, "linear")
