"""Occlusion by windows, and by random soft masks."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import chunks, compilation, trees
from xattr._program import workload
from xattr.types import Args, Array, ArrayTree, Estimate, Function, PRNGKey, Progress


def occlusion(
    f: Function,
    x: Array,
    baseline: Array | None = None,
    *,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> jax.Array:
    """Return what f loses without each window of the input, spread over the window.

    Aᵢ = mean over the windows W with i of (f(x) − f(x with W at the baseline)) / |W|.

    A window of 1 is `xattr.ablation`. Where windows do not overlap, the attributions of each sum to
    what f loses without it.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. It may have no
            gradient.
        x: the input, one floating array.
        baseline: an array that broadcasts to x. None is zeros.
        window: the size of a window along the first axes, such as (15, 15) for an image (H, W, C);
            it is as long as x along the others. A number is for the first axis.
        stride: how far windows are apart along the same axes. None is the window's size. The last
            window ends where x ends, so that each element lies in one.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many evaluations of f to take together; memory is that of one chunk. None
            chooses, see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does.

    Returns:
        An array like x, in units of f.

    Raises:
        ValueError: if a window is larger than x, a size or stride is below 1, the stride leaves
            gaps, or f does not return a scalar.
        TypeError: if x is not one floating array, or `args` is not a tuple.

    Source:
        Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", §3.2.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> xattr.occlusion(lambda x: x[0] * x[1] + x[2], jnp.array([2.0, 3.0, 1.0, 5.0]), window=2)
        Array([3. , 3. , 0.5, 0.5], dtype=float32)
    """
    compilation.check_args(args)
    x = _one_array(x)
    start = trees.baseline_like(
        None if baseline is None else jnp.broadcast_to(baseline, x.shape), x
    )
    sizes = _along_axes(window, "window", x.shape)
    steps = sizes if stride is None else _along_axes(stride, "stride", x.shape)
    if len(steps) != len(sizes) or any(s > w for s, w in zip(steps, sizes, strict=False)):
        raise ValueError(
            f"`stride` must be one number for each of `window`, and none larger: {stride} would "
            f"leave gaps between windows of {window}"
        )
    corners = _corners(x.shape, sizes, steps)
    together = workload.chunk_size(chunk_size, f, x, args)
    operands = (x, start, args)
    sums = _summed(
        windows_kernel, f, corners, operands, together, progress, shared=_whole, sizes=sizes
    )
    size = math.prod(sizes) * math.prod(x.shape[len(sizes) :])
    mean = _mean_over_windows(sums, size).astype(x.dtype)
    return jnp.broadcast_to(mean, x.shape)


def _one_array(x: Any) -> jax.Array:
    if not jax.tree_util.all_leaves([x]):
        raise TypeError(f"`x` must be one array, but is {trees.type_of(x)}: see xattr.ablation")
    found: jax.Array = trees.floating(x, "x")
    return found


def _along_axes(value: Any, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    numbers = (value,) if isinstance(value, (int, np.integer)) else tuple(value)
    for number in numbers:
        trees.check_count(number, name)
    if len(numbers) > len(shape) or any(n > m for n, m in zip(numbers, shape, strict=False)):
        raise ValueError(f"`{name}` {value} does not fit into `x` of shape {shape}")
    return tuple(map(int, numbers))


def _corners(shape: tuple[int, ...], sizes: tuple[int, ...], steps: tuple[int, ...]) -> np.ndarray:
    """Return the first corner of every window, (windows, axes)."""
    along = [
        sorted({*range(0, length - size, step), length - size})
        for length, size, step in zip(shape, sizes, steps, strict=False)
    ]
    grid = np.meshgrid(*along, indexing="ij")
    return np.stack([each.ravel() for each in grid], axis=1).astype(np.int32)


def _summed(
    kernel: Callable[..., ArrayTree],
    f: Function,
    items: np.ndarray,
    operands: tuple[Any, ...],
    size: int,
    progress: Progress | None,
    *,
    shared: Callable[..., Any] | None = None,
    **static: Any,
) -> Any:
    """Return the sum of `kernel(f, items, valid, *operands)` over chunks of the items."""
    if progress is None and not chunks.is_staged():
        options = {"kernel": kernel, "shared": shared, "chunk_size": size}
        whole = compilation.compiled(whole_kernel, f, **options, **static)
        return whole(jnp.asarray(items), operands)
    run = compilation.compiled(kernel, f, **static)

    def part(first: Any, number: int, valid: Array) -> Any:
        return run(chunks.take(items, first, number), jnp.asarray(valid), *operands)

    return chunks.reduce(part, trees.add, len(items), chunk_size=size, progress=progress)


def whole_kernel(
    f: Function,
    items: jax.Array,
    operands: tuple[Any, ...],
    *,
    kernel: Callable[..., ArrayTree],
    shared: Callable[..., Any] | None,
    chunk_size: int,
    **static: Any,
) -> ArrayTree:
    """Sum all chunks in one program: from the host a call for each chunk takes twice as long.

    What all chunks need, `shared(f, *operands)`, is then computed once.
    """
    known = () if shared is None else (shared(f, *operands),)

    def part(first: Any, number: int, valid: Array) -> ArrayTree:
        each = chunks.take(items, first, number)
        return kernel(f, each, jnp.asarray(valid), *operands, *known, **static)

    return chunks.reduce(part, trees.add, len(items), chunk_size=chunk_size)


def windows_kernel(
    f: Function,
    corners: jax.Array,
    valid: jax.Array,
    x: jax.Array,
    baseline: jax.Array,
    args: Args,
    whole: jax.Array | None = None,
    *,
    sizes: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
    """Return the sum of what f loses over the windows of each element, and their number."""
    whole = _whole(f, x, baseline, args) if whole is None else whole

    def of(corner: jax.Array, counts: jax.Array) -> tuple[jax.Array, jax.Array]:
        inside = _window(x.shape, corner, sizes)
        value = compilation.scalar(f(jnp.where(inside, baseline, x), *args)).astype(whole.dtype)
        mask = (inside & counts).astype(whole.dtype)
        return mask * (whole - value), mask

    losses, numbers = jax.vmap(of)(corners, valid)
    return losses.sum(0), numbers.sum(0)


def _whole(f: Function, x: jax.Array, baseline: jax.Array, args: Args) -> Any:
    return trees.widen(compilation.scalar(f(x, *args)))


def _window(shape: tuple[int, ...], corner: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """Return where a window is, with an axis of length 1 where it is as long as x."""
    inside = jnp.ones((1,) * len(shape), bool)
    for axis, size in enumerate(sizes):
        places = jnp.arange(shape[axis], dtype=jnp.int32)
        along = (places >= corner[axis]) & (places < corner[axis] + size)
        others = (1,) * axis, (1,) * (len(shape) - axis - 1)
        inside = jnp.logical_and(inside, along.reshape(*others[0], -1, *others[1]))
    return inside


def _mean_over_windows(sums: tuple[jax.Array, jax.Array], size: int) -> jax.Array:
    losses, numbers = sums
    return losses / (numbers * size)


def rise(
    f: Function,
    x: Array,
    key: PRNGKey,
    *,
    num_masks: int,
    grid: int | tuple[int, int],
    probability: float = 0.5,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> Estimate:
    """Return the mean score of random soft masks that show a pixel.

    S(λ) = 1 / (p N) Σₖ f(x ⊙ Mₖ) Mₖ(λ). Mₖ is a grid of cells, each open with probability p,
    interpolated linearly and moved by a random part of a cell.

    It is a score for ordering pixels: for a constant f it is that constant everywhere, not 0.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example. It may have no
            gradient.
        x: the input, one image (H, W, C), floating. What is masked is 0.
        key: a random key, `jax.random.key(seed)`. Mask k depends on `key` and k only.
        num_masks: N.
        grid: the number of cells along both axes, or a pair.
        probability: p, that a cell is open.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many evaluations of f to take together. None chooses.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does.

    Returns:
        An `Estimate`: scores (H, W) in units of f, and the standard error of each (NaN for one
        mask).

    Raises:
        ValueError: if x is not one image, num_masks < 1, the probability is not between 0 and 1, or
            f does not return a scalar.
        TypeError: if x is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Petsiuk et al. 2018, "RISE: randomized input sampling for explanation of black-box models",
        eq. 6 and §3.2.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f, x, key = lambda x: x[:4, :4].mean(), jnp.ones((8, 8, 1)), jax.random.key(0)
        >>> scores, error = xattr.rise(f, x, key, num_masks=500, grid=4)
        >>> bool(scores[:4, :4].mean() > scores[4:, 4:].mean())
        True
    """
    compilation.check_args(args)
    trees.check_key(key)
    trees.check_count(num_masks, "num_masks")
    x = _one_array(x)
    if x.ndim != 3:
        raise ValueError(f"`x` must be one image (H, W, C), not of shape {x.shape}: use jax.vmap")
    pair = (grid, grid) if isinstance(grid, (int, np.integer)) else tuple(grid)
    cells = _along_axes(pair, "grid", x.shape[:2])
    known = trees.on_host(probability)
    if known is not None and not 0 < known < 1:
        raise ValueError(f"`probability` must lie between 0 and 1, not {probability!r}")
    indices = np.arange(num_masks, dtype=np.uint32)
    size = workload.chunk_size(chunk_size, f, x, args)
    operands = (x, key, jnp.asarray(probability, jnp.float32), args)
    sums = _summed(soft_masks_kernel, f, indices, operands, size, progress, cells=cells)
    return Estimate(*(a.astype(x.dtype) for a in _rise_of(sums, num_masks, probability)))


def soft_masks_kernel(
    f: Function,
    indices: jax.Array,
    valid: jax.Array,
    x: jax.Array,
    key: PRNGKey,
    probability: jax.Array,
    args: Args,
    *,
    cells: tuple[int, int],
) -> tuple[jax.Array, jax.Array]:
    """Return Σ f M and Σ (f M)² over a chunk of masks."""
    dtype = trees.wide(x.dtype)

    def of(index: jax.Array, counts: jax.Array) -> jax.Array:
        mask = _soft_mask(jax.random.fold_in(key, index), probability, cells, x.shape[:2], dtype)
        picture = (x.astype(dtype) * mask[..., None]).astype(x.dtype)
        return jnp.where(counts, compilation.scalar(f(picture, *args)).astype(dtype) * mask, 0)

    scores = jax.vmap(of)(indices, valid)
    return scores.sum(0), jnp.square(scores).sum(0)


def _soft_mask(
    key: PRNGKey,
    probability: jax.Array,
    cells: tuple[int, int],
    size: tuple[int, ...],
    dtype: Any,
) -> jax.Array:
    """Draw cells, enlarge them by one more than fits, and cut out a random part."""
    to_cells, to_place = jax.random.split(key)
    # One more cell each way, so that there is something to move by.
    drawn = jax.random.bernoulli(to_cells, probability, [n + 1 for n in cells]).astype(dtype)
    steps = [-(-length // n) for length, n in zip(size, cells, strict=True)]
    enlarged = [(n + 1) * step for n, step in zip(cells, steps, strict=True)]
    soft = jax.image.resize(drawn, enlarged, "linear")
    place = jax.random.randint(to_place, (2,), 0, jnp.asarray(steps, jnp.int32))
    return jax.lax.dynamic_slice(soft, place, size)


def _rise_of(
    sums: tuple[jax.Array, jax.Array], number: int, probability: Any
) -> tuple[jax.Array, jax.Array]:
    total, squares = sums
    chance = jnp.asarray(probability, total.dtype)
    mean = total / number
    spread = jnp.maximum(squares / number - mean**2, 0) / (number - 1 or jnp.nan)
    return mean / chance, jnp.sqrt(spread) / chance
