"""An edge detector: the control that knows neither the model nor the labels."""

import jax
import jax.numpy as jnp

from xattr._core import trees
from xattr.types import Array


def edge_detector(image: Array) -> jax.Array:
    """Return the strength of an image's edges, a map that looks like an explanation of any model.

    A = √((h² + v²) / 2), h and v the image convolved with the Sobel kernel [1, 2, 1]ᵀ[1, 0, −1] / 4
    and its transpose; beyond the border the image goes on as its outermost pixels do.

    Shapes: `image` is (H, W) or (H, W, C), each channel by itself; so is the result, in units of
    the image. Nothing is random and nothing learned: it stays as it is when parameters or labels
    are randomised. Its own gradient is 0 where A = 0. Raises `ValueError` for other shapes and
    `TypeError` if the image is not floating.
    Source: Adebayo et al. 2018, "Sanity Checks for Saliency Maps", §1 and §5 (edge detector);
    Sobel & Feldman 1968; the scale is that of scikit-image's `filters.sobel`.

    >>> import jax.numpy as jnp, xattr
    >>> xattr.edge_detector(jnp.array([[0.0, 0.0, 1.0, 1.0]])).round(4)
    Array([[0.    , 0.7071, 0.7071, 0.    ]], dtype=float32)
    """
    image = trees.floating(image, "image")
    if not isinstance(image, jax.Array) or image.ndim not in (2, 3):
        found = f"has shape {image.shape}" if isinstance(image, jax.Array) else "is no array"
        raise ValueError(
            f"`image` must be of shape (H, W) or (H, W, C), but {found}: jax.vmap over a batch"
        )
    edges: jax.Array = _sobel(image)
    return edges


@jax.jit
def _sobel(image: jax.Array) -> jax.Array:
    wide = trees.widen(image)
    square = (_slope(wide, 0) ** 2 + _slope(wide, 1) ** 2) / 2
    # The root has no gradient at 0, and an infinite one times 0 would be NaN.
    is_flat = square == 0
    root = jnp.sqrt(jnp.where(is_flat, 1, square))
    return trees.cast(jnp.where(is_flat, 0, root), image)


def _slope(image: jax.Array, axis: int) -> jax.Array:
    """Return differences over two pixels along one axis, smoothed along the other."""
    before, _, after = _neighbours(image, axis)
    left, middle, right = _neighbours(after - before, 1 - axis)
    return (left + 2 * middle + right) / 4


def _neighbours(image: jax.Array, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the pixel before every pixel, the pixel itself, and the one after."""
    widths = [(int(i == axis), int(i == axis)) for i in range(image.ndim)]
    padded, size = jnp.pad(image, widths, mode="edge"), image.shape[axis]
    before, here, after = (
        jax.lax.slice_in_dim(padded, start, start + size, axis=axis) for start in range(3)
    )
    return before, here, after
