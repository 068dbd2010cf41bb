"""The value function: f of x where some features are present and the others are at the baseline.

Features are groups of elements of x, told apart by whole numbers. What is evaluated is a *design*:
which features are present at evaluation k, as a function of k. So nothing is stored for all
evaluations but the values of f, and one compiled program serves every x, baseline and grouping.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from xattr._core import chunks, compilation, trees
from xattr._integrate import expected
from xattr._program import workload
from xattr.types import Args, ArrayTree, Function, Progress

Design: TypeAlias = Callable[[Any, Any, int], jax.Array]
"""`design(index, operands, count) -> present`, bool (count,): the features of one evaluation."""


TOGETHER, MOST = 2**16, 1024
"""Elements of x in a chunk by default, and evaluations: small f would wait for each other."""


class Features(NamedTuple):
    """The groups of elements of x: their numbers, how many there are, and how large each is."""

    groups: ArrayTree
    """int32, each leaf of the shape of the leaf of x or of its first axes."""
    number: int
    sizes: jax.Array
    """How many elements of x each group has, (number,)."""

    def spread(self, values: jax.Array, x: ArrayTree) -> ArrayTree:
        """Give each element of x its share of its group's value: an equal one, in its dtype."""
        return _spread(values, self.groups, self.sizes, x)


@jax.jit
def _spread(values: jax.Array, groups: ArrayTree, sizes: jax.Array, x: ArrayTree) -> ArrayTree:
    shares = values / sizes.astype(values.dtype)

    def of(leaf: jax.Array, group: jax.Array) -> jax.Array:
        return jnp.broadcast_to(trees.as_first_axes(shares[group], leaf), leaf.shape).astype(
            leaf.dtype
        )

    return jax.tree.map(of, x, groups)


class Problem(NamedTuple):
    """What is explained, checked: x, the baselines with a leading axis, and the features."""

    f: Function
    x: ArrayTree
    baselines: ArrayTree
    features: Features
    args: Args
    chunk_size: int
    progress: Progress | None


def problem(
    f: Function,
    x: ArrayTree,
    baseline: ArrayTree | None,
    baselines: ArrayTree | None,
    groups: ArrayTree | None,
    args: Args,
    chunk_size: int | None,
    progress: Progress | None,
) -> Problem:
    """Check the arguments that every method of coalitions has."""
    compilation.check_callable(f, "f")
    compilation.check_args(args)
    x = trees.floating(x, "x")
    if baseline is not None and baselines is not None:
        raise ValueError(
            "`baseline` and `baselines` exclude each other: pass one baseline, or many of which "
            "the mean is taken"
        )
    if baselines is None:
        start = trees.baseline_like(baseline, x)
        rows, count = jax.tree.map(lambda leaf: leaf[None], start), 1
    else:
        rows, count = expected.checked_baselines(baselines, x)
    size = workload.chunk_size(chunk_size, f, x, args)
    if chunk_size is None:
        size = max(size, min(MOST, TOGETHER // sum(leaf.size for leaf in jax.tree.leaves(x))))
    # A chunk is a number of evaluations of f, and a coalition takes one for each baseline.
    size = max(1, size // count)
    return Problem(f, x, rows, features_of(x, groups), args, size, progress)


def features_of(x: ArrayTree, groups: ArrayTree | None, name: str = "x") -> Features:
    """Return the features of x: every element one, or those that the groups name."""
    if groups is None:
        leaves, treedef = jax.tree.flatten(x)
        ends = np.cumsum([0, *(leaf.size for leaf in leaves)])
        numbers = [
            np.arange(start, start + leaf.size, dtype=np.int32).reshape(leaf.shape)
            for start, leaf in zip(ends, leaves, strict=False)
        ]
        groups = jax.tree.unflatten(treedef, numbers)
    trees.same_structure(groups, x, "groups", name)
    pairs = list(zip(jax.tree.leaves(groups), jax.tree.leaves(x), strict=True))
    numbers = [_numbers(group, leaf, name) for group, leaf in pairs]
    count = 1 + max(int(group.max(initial=-1)) for group in numbers)
    sizes = np.zeros(count, np.int64)
    for group, (_, leaf) in zip(numbers, pairs, strict=True):
        sizes += np.bincount(group.ravel(), minlength=count) * (leaf.size // max(group.size, 1))
    if not sizes.all():
        raise ValueError(
            f"`groups` must number the groups 0, 1, … without a gap, but {int(sizes.argmin())} is "
            f"missing below {count - 1}: renumber by np.unique(groups, return_inverse=True)[1]"
        )
    tree = jax.tree.unflatten(jax.tree.structure(x), [jnp.asarray(g) for g in numbers])
    return Features(tree, count, jnp.asarray(sizes.astype(np.float32)))


def _numbers(group: Any, leaf: jax.Array, name: str) -> np.ndarray:
    if isinstance(group, jax.core.Tracer):
        raise TypeError(
            "`groups` is traced, but the number of groups decides the shape of the program: pass "
            "NumPy arrays, and close over them in what you jit or vmap"
        )
    numbers = np.asarray(group)
    if numbers.dtype.kind not in "iu" or (numbers < 0).any():
        raise TypeError(f"`groups` must hold whole numbers from 0 on, not {numbers.dtype}")
    if numbers.shape != leaf.shape[: numbers.ndim]:
        raise ValueError(
            f"`groups` have shape {numbers.shape}, but `{name}` has shape {leaf.shape}: pass a "
            f"number for each element of {name}, or for each place along its first axes"
        )
    return numbers.astype(np.int32)


def masked(x: ArrayTree, baseline: ArrayTree, groups: ArrayTree, present: jax.Array) -> ArrayTree:
    """Return x with the features that are not present at the baseline."""

    def of(leaf: jax.Array, start: jax.Array, group: jax.Array) -> jax.Array:
        return jnp.where(trees.as_first_axes(present[group], leaf), leaf, start)

    return jax.tree.map(of, x, baseline, groups)


def values(it: Problem, design: Design, operands: Any, number: int) -> jax.Array:
    """Return the mean over the baselines of f at each of `number` evaluations of a design."""
    arrays = (it.x, it.baselines, it.features.groups, operands, it.args)
    static = {"design": design, "count": it.features.number}
    if it.progress is None:
        run = compilation.compiled(
            values_kernel, it.f, **static, number=number, chunk_size=it.chunk_size
        )
        found: jax.Array = run(*arrays, np.int32(0))
        return found
    size, starts, valid = chunks.split(number, it.chunk_size)
    part = compilation.compiled(values_kernel, it.f, **static, number=size, chunk_size=size)
    parts = []
    for place in it.progress(range(len(starts))):
        parts.append(part(*arrays, np.int32(starts[place]))[valid[place]])
    return jnp.concatenate(parts)


def values_kernel(
    f: Function,
    x: ArrayTree,
    baselines: ArrayTree,
    groups: ArrayTree,
    operands: Any,
    args: Args,
    start: Any,
    *,
    design: Design,
    count: int,
    number: int,
    chunk_size: int,
) -> jax.Array:
    """Return the values of evaluations start … start + number − 1, chunk by chunk."""
    value = functools.partial(_value, f, x, baselines, groups, operands, args, design, count)
    return jax.lax.map(value, start + jnp.arange(number, dtype=jnp.int32), batch_size=chunk_size)


def _value(
    f: Function,
    x: ArrayTree,
    baselines: ArrayTree,
    groups: ArrayTree,
    operands: Any,
    args: Args,
    design: Design,
    count: int,
    index: jax.Array,
) -> jax.Array:
    present = design(index, operands, count)

    def at(baseline: ArrayTree) -> jax.Array:
        return trees.widen(compilation.scalar(f(masked(x, baseline, groups, present), *args)))

    return jax.vmap(at)(baselines).mean()


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def designs(design: Design, operands: Any, count: int, number: int) -> jax.Array:
    """Return which features are present at each evaluation, bool (number, count)."""
    return jax.vmap(lambda index: design(index, operands, count))(
        jnp.arange(number, dtype=jnp.int32)
    )


def ends(it: Problem) -> tuple[jax.Array, jax.Array]:
    """Return f of the baselines (their mean), and f of x."""
    first, last = values(it, _ends, None, 2)
    return first, last


def _ends(index: Any, operands: Any, count: int) -> jax.Array:
    return jnp.full(count, index == 1)


def subset(index: Any, operands: Any, count: int) -> jax.Array:
    """Return subset number `index`: feature i is present if bit i is set."""
    return (index >> jnp.arange(count, dtype=jnp.int32)) & 1 == 1


def all_but_one(index: Any, operands: Any, count: int) -> jax.Array:
    """Leave out feature `index`; at index `count` leave out none."""
    return jnp.arange(count, dtype=jnp.int32) != index
