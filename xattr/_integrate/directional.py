"""Integrated directional gradients: what each step along a path changes f by, shared out."""

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import chunks, compilation, completeness, sampling, trees
from xattr._cpu import replace
from xattr._integrate import kernel
from xattr._program import workload
from xattr.types import Args, Array, ArrayTree, Function, Path, Progress

Steps: TypeAlias = tuple[ArrayTree, ArrayTree, Array]
"""Where steps start, where they end, and their weights: 1, or 0 for a repeat."""


def integrated_directional_gradients(
    f: Function,
    path: Path,
    *,
    steps: int = 64,
    args: Args = (),
    chunk_size: int | None = None,
    progress: Progress | None = None,
    warn_above: float | None = completeness.WARN_ABOVE,
) -> ArrayTree:
    """Attribute f(γ(1)) − f(γ(0)): each step's change of f is shared by the squares of ∂f.

    Aᵢ = Σₖ gₖᵢ² / Σⱼ gₖⱼ² · (f(γₖ₊₁) − f(γₖ)), with gₖ = ∇f(γₖ) and γₖ = γ(k/n), k = 0 … n−1.

    Integrated gradients share the same change by gₖᵢ (γₖ₊₁ − γₖ)ᵢ. The part of the step that is
    across the gradient, which the paper calls noise, then changes the shares; here it has no part.
    Shares have the sign of the change of f, and a feature that does not move can have one. The sum
    is f(γ(1)) − f(γ(0)) with any number of steps, up to rounding. Where the gradient is 0 at the
    start of a step, 0/0 is 0: what f changes by on that step is left out.

    It is not linear in f. The paths of the library, and any other, run one program of f, which is
    not that of `xattr.path_integral`.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        path: γ, a function `alpha -> pytree like x` on [0, 1].
        steps: n, the number of steps. For each, f is evaluated twice and differentiated once.
        args: further arguments of f. They are not attributed; a new value does not recompile.
        chunk_size: how many gradients to take together; memory is that of one chunk. None chooses,
            see `xattr.integrate`.
        progress: wraps the loop over the chunks, as `tqdm.tqdm` does. Not used inside a trace.
        warn_above: the gap to warn of, as a share of f(γ(1)) − f(γ(0)). None does not check, see
            `xattr.integrated_gradients`.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if steps < 1.
        TypeError: if the path does not return a pytree of floating arrays, or `args` is not a
            tuple.

    Source:
        Yang, Wang & Bilgic 2023, "IDGI: A Framework to Eliminate Explanation Noise from Integrated
        Gradients".

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> path = xattr.paths.aumann_shapley(jnp.array([2.0, 4.0]))
        >>> xattr.integrated_directional_gradients(lambda x: 3 * x[0] + x[1], path).round(2)
        Array([9., 1.], dtype=float32)
    """
    compilation.check_callable(path, "path")
    compilation.check_args(args)
    completeness.check_option(warn_above)
    trees.check_count(steps, "steps")
    form = sampling.form_of(path)
    points_at = sampling.sampler(sampling.path_points, path)
    program = compilation.compiled(directional_kernel, f)
    alphas = np.arange(steps + 1) / steps

    def operands_of(start: Any, size: int, valid: Array) -> Steps:
        starts, stops = (chunks.take(part, start, size) for part in (alphas[:-1], alphas[1:]))
        points = points_at(jnp.asarray(starts)), points_at(jnp.asarray(stops))
        return *points, jnp.asarray(valid)

    result = kernel.sum_of_chunks(
        lambda operands: program(operands, args),
        operands_of,
        steps,
        workload.chunk_size(chunk_size, f, form, args),
        progress,
    )
    result = trees.cast_like(result, form)
    ends = functools.partial(kernel.ends_of, path)
    return completeness.checked(result, f, ends, args, warn_above, completeness.MORE_STEPS)


def directional_kernel(f: Function, steps: Steps, args: Args) -> ArrayTree:
    """Return the sum of the shares of the steps, in float32 at least.

    The operands have two leading axes: the chunks, which run one after the other, and the steps of
    a chunk.
    """
    value = compilation.staged(f)
    slope = jax.value_and_grad(replace.faster(value))

    def shares(start: ArrayTree, end: ArrayTree) -> ArrayTree:
        before, gradient = slope(start, *args)
        change = trees.widen(value(end, *args)) - trees.widen(before)
        return jax.tree.map(lambda part: part * change.astype(part.dtype), _squares(gradient))

    def chunk_sum(steps: Steps) -> ArrayTree:
        starts, ends, weights = steps
        return kernel.weighted_sum(weights, jax.vmap(shares)(starts, ends))

    return chunks.total(chunk_sum, steps)


def _squares(gradient: ArrayTree) -> ArrayTree:
    """Return gᵢ² / Σⱼ gⱼ², or 0 where all are 0; the largest is 1 when it is squared."""
    gradient = trees.widen(gradient)
    dtype = trees.widest(jax.tree.leaves(gradient))
    tops = [jnp.max(jnp.abs(g), initial=0).astype(dtype) for g in jax.tree.leaves(gradient)]
    top = jax.lax.stop_gradient(jnp.max(jnp.stack(tops)))
    scale = jnp.where(top > 0, top, 1)
    scaled = jax.tree.map(lambda g: (g / scale.astype(g.dtype)) ** 2, gradient)
    total = trees.total(scaled)
    total = jnp.where(total > 0, total, 1)
    return jax.tree.map(lambda g: g / total.astype(g.dtype), scaled)
