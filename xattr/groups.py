"""Groups of elements of x that are one feature, for the methods that leave features out.

Groups are whole numbers 0, 1, … in a pytree like x: each leaf has the shape of the leaf of x or of
its first axes. Superpixels of an image are groups as they are, such as those of scikit-image's
`slic(image, start_label=0)`.
"""

from collections.abc import Sequence

import jax
import numpy as np

from xattr.types import Array, ArrayTree

__all__ = ["grid", "leaves"]


def grid(x: Array, size: int | Sequence[int]) -> np.ndarray:
    """Return a checkerboard of windows: one group for each.

    Args:
        x: an array, such as an image (H, W, C).
        size: the size of a window along the first axes, such as (16, 16); a number is for the first
            axis. Windows at the end may be smaller.

    Returns:
        int32 of the shape of x along these axes, with numbers 0, 1, … in the order of the array.

    Raises:
        ValueError: if there are more sizes than axes, or one is below 1.

    Source:
        Patches of Zeiler & Fergus 2014, §3.2, side by side.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.groups.grid(jnp.zeros((4, 4, 3)), (2, 3)).tolist()
        [[0, 0, 0, 1], [0, 0, 0, 1], [2, 2, 2, 3], [2, 2, 2, 3]]
    """
    sizes = (size,) if isinstance(size, (int, np.integer)) else tuple(size)
    shape = np.shape(x)
    if len(sizes) > len(shape) or any(n < 1 for n in sizes):
        raise ValueError(
            f"`size` {size} does not fit `x` of shape {shape}: at most one for an axis"
        )
    numbers = np.zeros((), np.int32)
    for length, step in zip(shape, sizes, strict=False):
        places = np.arange(length, dtype=np.int32) // step
        numbers = numbers[..., None] * np.int32(-(-length // step)) + places
    return numbers


def leaves(x: ArrayTree) -> ArrayTree:
    """Return groups that make each leaf of a pytree one feature.

    Args:
        x: a pytree of arrays.

    Returns:
        A pytree like x of int32 scalars 0, 1, …, one for each leaf.

    Raises:
        ValueError: if x has no leaves.

    Source:
        Features that are inputs of their own, as in `shap.maskers.Composite`.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> {name: int(n) for name, n in xattr.groups.leaves({"a": 1.0, "b": jnp.ones(3)}).items()}
        {'a': 0, 'b': 1}
    """
    found, treedef = jax.tree.flatten(x)
    if not found:
        raise ValueError("`x` has no leaves: there is nothing to group")
    return jax.tree.unflatten(treedef, [np.int32(i) for i in range(len(found))])
