"""SmoothGrad and its relatives: moments of any attribution method over noisy inputs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import chunks, compilation, trees
from xattr._gradients.gradient import gradient
from xattr._program import workload
from xattr.types import Args, Array, ArrayTree, Function, Method, PRNGKey, Progress


class _Moments(NamedTuple):
    """Number, mean and sum of squared deviations of the maps so far."""

    number: jax.Array
    mean: ArrayTree
    deviation: ArrayTree
    zeros: ArrayTree
    """A scalar zero for each leaf, in the dtype that the method returns."""


def smooth_grad(
    f: Function,
    x: ArrayTree,
    key: PRNGKey,
    *,
    method: Method = gradient,
    num_samples: int = 50,
    noise_scale: float = 0.15,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Average an attribution method over noisy copies of the input.

    A = 1/N Σₖ method(f, x + gₖ), gₖ ~ N(0, σ²), σ = noise_scale · (max x − min x) over all of x.

    It is exact for a linear f. The default options are those of the paper's experiments and of the
    sanity checks.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        key: a random key, `jax.random.key(seed)`. Noise k depends on `key` and k only: not on
            `chunk_size`, and not on a batch around the call.
        method: the attribution method, called as `method(f, x, args=args)`. Bind further arguments
            with `functools.partial`.
        num_samples: N, the number of noisy copies.
        noise_scale: the standard deviation of the noise, as a share of max x − min x.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many samples to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.

    Returns:
        A pytree like what the method returns, in its units.

    Raises:
        ValueError: if num_samples < 1 or noise_scale < 0.
        TypeError: if a leaf of x is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise", §3.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> w = jnp.array([1.0, -2.0])
        >>> xattr.smooth_grad(lambda x: jnp.sum(w * x), jnp.array([3.0, 5.0]), jax.random.key(0))
        Array([ 1., -2.], dtype=float32)
    """
    moments = _moments(f, x, key, method, num_samples, noise_scale, args, chunk_size, progress)
    return trees.cast_like(moments.mean, moments.zeros)


def smooth_grad_squared(
    f: Function,
    x: ArrayTree,
    key: PRNGKey,
    *,
    method: Method = gradient,
    num_samples: int = 50,
    noise_scale: float = 0.15,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Average the square of an attribution method over noisy copies of the input.

    A = 1/N Σₖ method(f, x + gₖ)², with the noise of `xattr.smooth_grad` for the same key.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        key: a random key, `jax.random.key(seed)`. Noise k depends on `key` and k only: not on
            `chunk_size`, and not on a batch around the call.
        method: the attribution method, called as `method(f, x, args=args)`. Bind further arguments
            with `functools.partial`.
        num_samples: N, the number of noisy copies.
        noise_scale: the standard deviation of the noise, as a share of max x − min x.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many samples to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.

    Returns:
        A pytree like what the method returns, in its units squared.

    Raises:
        ValueError: if num_samples < 1 or noise_scale < 0.
        TypeError: if a leaf of x is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Hooker et al. 2019, "A Benchmark for Interpretability Methods in Deep Neural Networks", §3
        (SmoothGrad-Squared).

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> w = jnp.array([1.0, -2.0])
        >>> xattr.smooth_grad_squared(lambda x: jnp.sum(w * x), jnp.ones(2), jax.random.key(0))
        Array([1., 4.], dtype=float32)
    """
    moments = _moments(f, x, key, method, num_samples, noise_scale, args, chunk_size, progress)
    squares = jax.tree.map(lambda mean, var: mean**2 + var, moments.mean, _variance(moments))
    return trees.cast_like(squares, moments.zeros)


def var_grad(
    f: Function,
    x: ArrayTree,
    key: PRNGKey,
    *,
    method: Method = gradient,
    num_samples: int = 50,
    noise_scale: float = 0.15,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Return the variance of an attribution method over noisy copies of the input.

    A = 1/N Σₖ (method(f, x + gₖ) − mean)², with the noise of `xattr.smooth_grad` for the same key.

    It is exactly 0 for a linear f.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        key: a random key, `jax.random.key(seed)`. Noise k depends on `key` and k only: not on
            `chunk_size`, and not on a batch around the call.
        method: the attribution method, called as `method(f, x, args=args)`. Bind further arguments
            with `functools.partial`.
        num_samples: N, the number of noisy copies.
        noise_scale: the standard deviation of the noise, as a share of max x − min x.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many samples to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.

    Returns:
        A pytree like what the method returns, in its units squared.

    Raises:
        ValueError: if num_samples < 1 or noise_scale < 0.
        TypeError: if a leaf of x is not floating, `key` is not a key, or `args` is not a tuple.

    Source:
        Adebayo et al. 2018, "Sanity Checks for Saliency Maps", appendix A.7.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> xattr.var_grad(lambda x: jnp.sum(x), jnp.array([3.0, 5.0]), jax.random.key(0))
        Array([0., 0.], dtype=float32)
    """
    moments = _moments(f, x, key, method, num_samples, noise_scale, args, chunk_size, progress)
    return trees.cast_like(_variance(moments), moments.zeros)


def _variance(moments: _Moments) -> ArrayTree:
    return jax.tree.map(lambda leaf: leaf / moments.number.astype(leaf.dtype), moments.deviation)


def _moments(
    f: Function,
    x: ArrayTree,
    key: PRNGKey,
    method: Method,
    num_samples: int,
    noise_scale: float,
    args: Args,
    chunk_size: int | None,
    progress: Progress | None,
) -> _Moments:
    """Return the moments of the method over the noise."""
    compilation.check_args(args)
    trees.check_key(key)
    trees.check_count(num_samples, "num_samples")
    compilation.check_callable(method, "method")
    known = trees.on_host(noise_scale)
    if known is not None and not known >= 0:
        raise ValueError(
            f"`noise_scale` must be 0 or more, not {noise_scale!r}: a share of max − min"
        )
    x = trees.floating(x, "x")
    extent = _range(x)
    scale = jnp.asarray(noise_scale, extent.dtype) * extent
    indices = np.arange(num_samples, dtype=np.uint32)

    def at(index: Array) -> ArrayTree:
        return method(f, _noisy(x, jax.random.fold_in(key, index), scale), args=args)

    def part(start: Any, size: int, valid: Array) -> _Moments:
        maps = jax.vmap(at)(chunks.take(indices, start, size))
        return _moments_of(maps, jnp.asarray(valid))

    chunk_size = workload.chunk_size(chunk_size, f, x, args)
    return chunks.reduce(part, _merge, num_samples, chunk_size=chunk_size, progress=progress)


def _range(x: ArrayTree) -> jax.Array:
    """Return max x − min x over all leaves."""
    leaves = jax.tree.leaves(x)
    dtype = trees.widest(leaves)
    highest, lowest = (
        [bound(leaf).astype(dtype) for leaf in leaves] for bound in (jnp.max, jnp.min)
    )
    return jnp.max(jnp.stack(highest)) - jnp.min(jnp.stack(lowest))


def _noisy(x: ArrayTree, key: PRNGKey, scale: jax.Array) -> ArrayTree:
    """Add Gaussian noise, drawn in float32 at least."""
    leaves, treedef = jax.tree.flatten(x)

    def noisy(leaf: jax.Array, key: PRNGKey) -> jax.Array:
        noise = jax.random.normal(key, leaf.shape, trees.wide(leaf.dtype))
        return (leaf.astype(noise.dtype) + scale.astype(noise.dtype) * noise).astype(leaf.dtype)

    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(treedef, list(map(noisy, leaves, keys)))


@jax.jit
def _moments_of(maps: ArrayTree, valid: jax.Array) -> _Moments:
    """Return the moments of a chunk of maps.

    Sums are of differences to the first map, so that equal maps have exactly that mean.
    """
    zeros = jax.tree.map(lambda leaf: jnp.zeros((), leaf.dtype), maps)
    maps = trees.widen(maps)
    number = jnp.sum(valid, dtype=jnp.int32)

    def masked_sum(leaf: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(jnp.expand_dims(valid, range(1, leaf.ndim)), leaf, 0), axis=0)

    def mean_of(leaf: jax.Array) -> jax.Array:
        return leaf[0] + masked_sum(leaf - leaf[:1]) / number.astype(leaf.dtype)

    mean = jax.tree.map(mean_of, maps)
    deviation = jax.tree.map(lambda leaf, m: masked_sum((leaf - m[None]) ** 2), maps, mean)
    return _Moments(number, mean, deviation, zeros)


@jax.jit
def _merge(left: _Moments, right: _Moments) -> _Moments:
    """Merge the moments of two sets of maps (Chan, Golub & LeVeque 1979)."""
    number = left.number + right.number

    def share(leaf: jax.Array) -> jax.Array:
        return right.number.astype(leaf.dtype) / number.astype(leaf.dtype)

    def between(apart: jax.Array) -> jax.Array:
        weight = left.number.astype(apart.dtype) * share(apart)
        # One set may be empty. The square may then overflow, and infinity times 0 is NaN.
        return jnp.where(weight > 0, apart**2, 0) * weight

    apart = jax.tree.map(jnp.subtract, right.mean, left.mean)
    mean = jax.tree.map(lambda m, d: m + d * share(d), left.mean, apart)
    within = trees.add(left.deviation, right.deviation)
    deviation = trees.add(within, jax.tree.map(between, apart))
    return _Moments(number, mean, deviation, left.zeros)
