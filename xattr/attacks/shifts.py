"""Shifts of the data that the bias of the first layer undoes: the prediction does not change."""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._core import trees
from xattr._gradients.gradient import gradient
from xattr.types import Args, Array, ArrayTree, Function


def mean_shift(
    params: ArrayTree,
    m: Array | float,
    *,
    layer: str,
    strides: int | Sequence[int] = 1,
    padding: Literal["VALID", "SAME"] | Sequence[tuple[int, int]] | None = None,
) -> ArrayTree:
    """Return the parameters of the same network for data that are shifted by m.

    b₂ = b₁ − Wᵀm in the first layer, so that f₂(x + m) = f₁(x) for every x, up to rounding.

    A dense layer has a kernel (in, out), a convolution (*window, in, out), channels last and
    without dilation. The bias is (out,) where m adds the same at every position, as a constant m
    does with padding "VALID"; else it is untied, of the shape of the output.

    Args:
        params: the parameters, a pytree.
        m: the shift, in units of the data. Dense: a number, or any shape with `in` elements, in the
            order of x flattened row by row. Convolution: a number, shape (in,), or the shape of one
            x.
        layer: the keys, joined by "/", to the `kernel` and `bias` of the layer that takes the data.
        strides: the layer's strides, for a convolution.
        padding: the layer's padding, for a convolution: "VALID", "SAME" (the default of flax) or a
            pair of numbers for each axis of the window. It has no default.

    Returns:
        A pytree like `params` with another bias; all other leaves are the same objects.

    Raises:
        ValueError: for an unknown layer or one without bias, an m that does not fit, and a bias
            that cannot undo the shift exactly. Inside a trace a bias (out,) needs a number or m
            (in,).
        TypeError: if m is not numbers.

    Source:
        Kindermans, Hooker et al. 2017, "The (Un)reliability of saliency methods", §2.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> params = {"Dense_0": {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.zeros(1)}}
        >>> xattr.attacks.mean_shift(params, -1.0, layer="Dense_0")["Dense_0"]["bias"]
        Array([3.], dtype=float32)
    """
    name, kernel, bias = _layer(params, layer)
    if kernel.ndim < 2:
        raise ValueError(f"the `kernel` must have two axes or more, but has shape {kernel.shape}")
    if padding is None and kernel.ndim > 2:
        raise ValueError(
            'convolutions need `padding`, the layer\'s own: "VALID", "SAME" or pairs of numbers'
        )
    m = m if isinstance(m, jax.Array) else np.asarray(m)
    if not any(jnp.issubdtype(m.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"`m` must be numbers to add to the data, but has dtype {m.dtype}")
    wide = kernel.astype(trees.widest([kernel, bias]))
    if kernel.ndim == 2:  # a window of one
        wide, m, strides, padding = wide[None], m.reshape(-1) if m.ndim else m, 1, "VALID"
    change = _response(wide, m, bias.shape, strides, padding)
    if change.shape != bias.shape:
        raise ValueError(f"`bias` must have shape {change.shape}, but has {bias.shape}")
    shifted = (bias.astype(wide.dtype) - change).astype(bias.dtype)
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: shifted if _name(path) == name else leaf, params
    )


def _layer(params: ArrayTree, layer: str) -> tuple[str, jax.Array, jax.Array]:
    """Return the name of a layer's bias, its kernel and its bias."""
    leaves = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    names = [name[:-7] for name in leaves if f"/{name}".endswith("/kernel")]
    if layer not in names:
        raise ValueError(
            f"`layer` {layer!r} is not in `params`: the layers with a kernel are {sorted(names)}"
        )
    kernel, bias = (f"{layer}/{part}".removeprefix("/") for part in ("kernel", "bias"))
    if bias not in leaves:
        raise ValueError(f"`layer` {layer!r} has no `bias` to undo the shift: add one of zeros")
    return bias, jnp.asarray(leaves[kernel]), jnp.asarray(leaves[bias])


def _name(path: tuple[Any, ...]) -> str:
    """Name a leaf by its keys; a variable of flax nnx has the name of the variable itself."""
    return str(jax.tree_util.keystr(path, simple=True, separator="/")).removesuffix("/value")


_NOT_EXACT = (
    '`m` cannot be undone by the `bias`, since {}: use padding "VALID" with a constant m and a '
    "bias per channel, or m in the shape of one example with an untied bias, like the output"
)


def _response(
    kernel: jax.Array, m: Array, bias: tuple[int, ...], strides: Any, padding: Any
) -> jax.Array:
    """Return what the shift adds to the output: per channel, or per position for an untied bias."""
    *window, channels, out = kernel.shape
    constant = m.ndim <= 1
    shape = (*window, channels) if constant else m.shape  # one window stands for all
    if m.shape[-1:] not in ((), (channels,)) or len(shape) != kernel.ndim - 1:
        raise ValueError(
            f"`m` has shape {m.shape}, which does not fit {channels} features or channels: "
            f"pass a number, shape ({channels},) or the shape of one example"
        )
    steps, pads = _geometry(shape, window, strides, padding)
    if constant and bias != (out,):
        raise ValueError(_NOT_EXACT.format(f"it is constant, but the bias has shape {bias}"))
    if constant and (np.any(pads) or (padding == "SAME" and max(window) > 1)):
        raise ValueError(_NOT_EXACT.format("the padding adds zeros, not m, at the borders"))
    axes = "".join(map(chr, range(ord("a"), ord("a") + len(window))))
    layout = (f"N{axes}C", f"{axes}IO", f"N{axes}C")
    image = jnp.broadcast_to(jnp.asarray(m).astype(kernel.dtype), shape)[None]
    response: jax.Array = lax.conv_general_dilated(
        image, kernel, steps, pads, dimension_numbers=layout, precision="highest"
    )[0]
    if not response.size:
        raise ValueError(f"`m` has shape {shape}, smaller than the window {tuple(window)}")
    if bias != (out,):
        return response
    if response.size > out:  # more positions than one
        if trees.is_traced(m):
            raise ValueError(_NOT_EXACT.format("inside a trace the values of m are not known"))
        if not _same_everywhere(np.asarray(m), window, steps, pads):
            raise ValueError(_NOT_EXACT.format("what it adds differs from position to position"))
    return response.reshape(-1, out)[0]


def _geometry(
    shape: tuple[int, ...], window: list[int], strides: Any, padding: Any
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Return strides and padding for every axis of the window."""
    axes = len(window)
    steps = tuple(np.broadcast_to(strides, axes).tolist()) if np.ndim(strides) == 0 else (*strides,)
    if len(steps) != axes or min(steps) < 1:
        raise ValueError(f"`strides` must be {axes} whole numbers of at least 1, not {strides!r}")
    if padding in ("VALID", "SAME"):
        return steps, list(lax.padtype_to_pads(shape[:-1], window, steps, padding))
    if isinstance(padding, str) or np.shape(padding) != (axes, 2) or np.min(padding) < 0:
        raise ValueError(f'`padding` must be "VALID", "SAME" or {axes} pairs, not {padding!r}')
    return steps, [(before, after) for before, after in padding]


def _same_everywhere(
    m: np.ndarray, window: list[int], strides: tuple[int, ...], pads: list[tuple[int, int]]
) -> bool:
    """Tell whether the kernel sees the same values at every position."""
    padded, axes = np.pad(m, [*pads, (0, 0)]), tuple(range(len(window)))
    views = np.lib.stride_tricks.sliding_window_view(padded, tuple(window), axes)
    seen = views[tuple(slice(None, None, step) for step in strides)]
    return bool((seen == seen[(slice(1),) * len(axes)]).all())


def targeted_shift(
    f: Function,
    x: ArrayTree,
    target: ArrayTree,
    *,
    limit: float | None = 0.3,
    args: Args = (),
) -> ArrayTree:
    """Return the shift of the data after which gradient × input of x is a map of your choice.

    m = clip(ŝ / ∇f(x) − x, −limit, limit), with ŝ the target; m = 0 where ∂ᵢf = 0.

    Shift the network by `xattr.attacks.mean_shift`. Its gradient × input at x + m is then ŝ
    wherever ∂ᵢf ≠ 0 and nothing was clipped.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        target: ŝ, a pytree like x, in units of f.
        limit: the largest |m|, in units of x, 0 or more; no limit if None. Then m is 0 where it
            would be too large for its dtype.
        args: further arguments of f. They are not attributed; a new value does not recompile.

    Returns:
        m, a pytree like x, in units of x.

    Raises:
        ValueError: if `target` is not like x, or limit < 0.
        TypeError: if a leaf of x or of `target` is not floating, or `args` is not a tuple.

    Source:
        Kindermans, Hooker et al. 2017, "The (Un)reliability of saliency methods", §4, fig. 5.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f = lambda x: 2 * x[0] - x[1]
        >>> xattr.attacks.targeted_shift(f, jnp.ones(3), jnp.full(3, 2.5), limit=1.0)
        Array([ 0.25, -1.  ,  0.  ], dtype=float32)
    """
    x = trees.floating(x, "x")
    target = trees.like(target, x, "target")
    limit = np.inf if limit is None else limit
    trees.check_not_negative(limit, "limit")
    slopes = gradient(f, x, args=args)
    shifts = jax.tree.map(functools.partial(_shift, limit), *trees.widen((x, target, slopes)))
    return trees.cast_like(shifts, x)


@jax.jit
def _shift(limit: Any, x: jax.Array, target: jax.Array, slope: jax.Array) -> jax.Array:
    bound = jnp.asarray(limit, x.dtype)
    raw = lax.stop_gradient(target / jnp.where(slope == 0, 1, slope) - x)
    inside = (slope != 0) & (jnp.abs(raw) <= bound) & jnp.isfinite(raw)
    clipped = jnp.clip(raw, -bound, bound)
    outside = jnp.where((slope == 0) | jnp.isinf(clipped), 0, clipped)
    # `raw` has no derivative; the quotient is taken anew with 1 for the slope where clipped, so
    # that the derivative there is 0, not 0 · ∞.
    return jnp.where(inside, target / jnp.where(inside, slope, 1) - x, outside)
