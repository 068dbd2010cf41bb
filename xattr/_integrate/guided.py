"""Guided integrated gradients: a path that is chosen step by step, by the gradients on it.

The path depends on f. It is therefore no γ of `paths`, and f has a program of its own for it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr import paths
from xattr._core import compilation, completeness, trees
from xattr._cpu import replace
from xattr.types import Args, Array, ArrayTree, Function


def guided_integrated_gradients(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None = None,
    *,
    steps: int = 64,
    fraction: float | Array = 0.25,
    max_distance: float | Array = 0.02,
    args: Args = (),
    warn_above: float | None = completeness.WARN_ABOVE,
) -> ArrayTree:
    """Attribute f(x) − f(baseline) along a path that moves features of small gradients first.

    Aᵢ = Σₖ (γₖ₊₁ − γₖ)ᵢ (∂ᵢf(γₖ) + ∂ᵢf(γₖ₊₁)) / 2, with γ₀ the baseline and γₙ = x.

    Step k brings the L1 distance to x down to (1 − k/n) of the whole. A feature may be as far on
    its way as k/n ± `max_distance` and no further, so that the path stays near the straight line.
    Features that fall behind are moved first. Then those with the smallest |∂f(γₖ)| move as far as
    they may: a `fraction` of all features at a time, until the distance is reached. Features with
    the same |∂f| move together. With `max_distance` 0 the path is the straight line, and A is
    integrated gradients with a trapezoidal quadrature of n + 1 nodes.

    The path depends on f, and the result is not linear in f. Where features have different
    gradients, a small change of x can change which of them move first: derivatives of A take that
    order as given. The authors' code takes ∂f(γₖ) alone; the mean of both ends costs one gradient
    more in all, and has an error of O(1/n²) where f is smooth. Memory does not grow with n.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays. L1 distances add over all leaves.
        baseline: γ₀, a pytree like x. None is zeros.
        steps: n, the number of steps; n + 1 gradients are taken, one after the other. The
            authors take 200.
        fraction: the share of all features that is moved together, in [0, 1].
        max_distance: how far ahead of the straight line a feature may be, or behind it, as a share
            of its way, in [0, 1].
        args: further arguments of f. They are not attributed; a new value does not recompile.
        warn_above: the gap to warn of, as a share of f(x) − f(baseline). None does not check, see
            `xattr.integrated_gradients`.

    Returns:
        A pytree like x, in units of f.

    Raises:
        ValueError: if the baseline is not like x, steps < 1, or `fraction` or `max_distance` is
            outside [0, 1].
        TypeError: if a leaf of x is not floating, or `args` is not a tuple.

    Source:
        Kapishnikov et al. 2021, "Guided Integrated Gradients: an Adaptive Path Method for Removing
        Noise", and the authors' code.

    Example:
        >>> import jax, jax.numpy as jnp, xattr
        >>> f, x = lambda x: x[0] * x[1] ** 2, jnp.ones(2)
        >>> (100 * xattr.guided_integrated_gradients(f, x, max_distance=0.0)).round()
        Array([33., 67.], dtype=float32)
        >>> (100 * xattr.guided_integrated_gradients(f, x, max_distance=1.0)).round()
        Array([  0., 100.], dtype=float32)
    """
    x = trees.floating(x, "x")
    baseline = trees.baseline_like(baseline, x)
    trees.check_count(steps, "steps")
    _check_share(fraction, "fraction")
    _check_share(max_distance, "max_distance")
    compilation.check_args(args)
    completeness.check_option(warn_above)
    dtype = trees.widest(jax.tree.leaves(x))
    shares = [jnp.asarray(share, dtype) for share in (fraction, max_distance)]
    program = compilation.compiled(guided_kernel, f, steps=int(steps))
    result = trees.cast_like(program(baseline, x, *shares, args), x)
    return completeness.checked(
        result, f, lambda: (x, baseline), args, warn_above, completeness.MORE_STEPS
    )


def _check_share(value: Any, name: str) -> None:
    known = trees.on_host(value)
    if jnp.shape(value) or (known is not None and not 0 <= known <= 1):
        raise ValueError(f"`{name}` must be a share, one number in [0, 1], not {value!r}")


class State(NamedTuple):
    """Where the path is after a step."""

    progress: ArrayTree
    """For each feature, which part of its way from the baseline to x is done."""
    gradient: ArrayTree
    total: ArrayTree
    """The attributions of the steps so far."""


def guided_kernel(
    f: Function,
    baseline: ArrayTree,
    x: ArrayTree,
    fraction: jax.Array,
    max_distance: jax.Array,
    args: Args,
    *,
    steps: int,
) -> ArrayTree:
    """Return the attributions along the guided path, in float32 at least."""
    slope = jax.grad(replace.faster(compilation.staged(f)))
    changes = jax.tree.map(jnp.subtract, *map(trees.widen, (x, baseline)))

    def gradient_at(progress: ArrayTree) -> ArrayTree:
        return trees.widen(slope(jax.tree.map(_point, progress, baseline, x), *args))

    def step(state: State, number: jax.Array) -> tuple[State, None]:
        done = number.astype(fraction.dtype) / steps
        sizes = _moves(state, changes, done, fraction, max_distance)
        progress = jax.tree.map(lambda part: jnp.where(number == steps, 1, part), sizes)
        gradient = gradient_at(progress)
        mean = jax.tree.map(lambda a, b: (a + b) / 2, state.gradient, gradient)
        moved = jax.tree.map(
            lambda new, old, change: (new - old) * change, progress, state.progress, changes
        )
        total = trees.add(state.total, trees.product(moved, mean))
        return State(progress, gradient, total), None

    # zeros_like keeps the sharding and the varying mesh axes.
    start = jax.tree.map(jnp.zeros_like, changes)
    numbers = jnp.arange(1, steps + 1, dtype=jnp.int32)
    first = State(start, gradient_at(start), start)
    return lax.scan(step, first, numbers)[0].total


def _point(progress: jax.Array, start: jax.Array, end: jax.Array) -> Any:
    return paths.straight_line(baseline=start, x=end)(progress)


def _moves(
    state: State,
    changes: ArrayTree,
    done: jax.Array,
    fraction: jax.Array,
    max_distance: jax.Array,
) -> ArrayTree:
    """Return the progress of the features after a step that ends at `done` of the whole way."""
    lengths = jnp.abs(_flat(changes, fraction.dtype))
    lowest, highest = jnp.maximum(done - max_distance, 0), jnp.minimum(done + max_distance, 1)
    progress = jnp.clip(_flat(state.progress, fraction.dtype), lowest, highest)
    room = (highest - progress) * lengths
    needed = jnp.sum((done - progress) * lengths)
    shares = _filled(jnp.abs(_flat(state.gradient, fraction.dtype)), room, needed, fraction)
    return _shaped(progress + shares * (highest - progress), state.progress)


def _filled(
    slopes: jax.Array, room: jax.Array, needed: jax.Array, fraction: jax.Array
) -> jax.Array:
    """Return which part of its room each feature takes, in the order of the slopes.

    The features form groups, by rank. A group takes all of its room before the next one takes any,
    and the group in which `needed` is reached takes a part of it. Features of equal slopes have one
    rank, so that they are in one group.
    """
    count = slopes.size
    slopes = lax.stop_gradient(jnp.where(room > 0, slopes, jnp.inf))
    ranks = jnp.searchsorted(jnp.sort(slopes), slopes).astype(jnp.int32)
    size = 1 + jnp.floor(lax.stop_gradient(fraction) * (count - 1)).astype(jnp.int32)
    groups = ranks // size
    rooms = jax.ops.segment_sum(room, groups, count)
    left = needed - (jnp.cumsum(rooms) - rooms)
    some = rooms > 0
    shares = jnp.where(some, jnp.clip(left / jnp.where(some, rooms, 1), 0, 1), 0)
    return shares[groups]


def _flat(tree: ArrayTree, dtype: Any) -> jax.Array:
    return jnp.concatenate([leaf.ravel().astype(dtype) for leaf in jax.tree.leaves(tree)])


def _shaped(values: jax.Array, tree: ArrayTree) -> ArrayTree:
    """Return the values in the structure, shapes and dtypes of a tree."""
    leaves, treedef = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
    parts = zip(jnp.split(values, ends), leaves, strict=True)
    return jax.tree.unflatten(
        treedef, [part.reshape(leaf.shape).astype(leaf.dtype) for part, leaf in parts]
    )
