"""Work in chunks: one reduction, by a loop on the host, or by `lax.scan` inside a trace.

The scan is rolled, so that its memory is that of one chunk. Unrolled it would hold the temporaries
of all chunks at once.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr._core import trees
from xattr.types import Array, ArrayTree, Progress

DEFAULT_SIZE = 16
"""Items taken together by default; on a CPU `workload` chooses another number."""

BLOCK = 16
"""Items that one call from the host covers at most, by a scan over smaller chunks.

Every call allocates its temporaries anew, and the system has to clear their pages. With a call for
each node, EfficientNet-Lite0 with 32 nodes in chunks of 1 took 1.9 times as long (CPU, JAX
0.12.0.1).
"""

Part: TypeAlias = Callable[[Any, int, Array], ArrayTree]
"""`part(start, size, valid) -> pytree`: the contribution of items start … start + size − 1.

`valid` (bool, shape (size,)) is False where an item is a repeat that must not count.
"""


def reduce(
    part: Part,
    combine: Callable[[ArrayTree, ArrayTree], ArrayTree],
    count: int,
    *,
    chunk_size: int,
    progress: Progress | None = None,
    blocks: bool = False,
) -> ArrayTree:
    """Combine the contributions of `count` items, chunk by chunk.

    All chunks have the same size, so that one program serves them. If `count` is not a multiple of
    the chunk size, the last chunk overlaps the previous one and `valid` masks the repeats. A tree
    of zeros must be neutral for `combine`.

    Outside a trace the host calls `part` for each chunk; at most two chunks are under way at a
    time. Under an eager `vmap` or `grad` there may be more, since their arrays cannot be waited
    for. With `blocks`, and without `progress`, one call covers several small chunks: `part(indices,
    size, valid)`.
    """
    size, starts, valid = split(count, chunk_size)
    if is_staged():
        if len(starts) == 1:
            return part(0, size, valid[0])
        each = (jnp.asarray(starts, jnp.int32), jnp.asarray(valid))
        return scan(lambda chunk: part(chunk[0], size, chunk[1]), combine, each)
    calls: list[tuple[Any, np.ndarray]] = list(zip(map(int, starts), valid, strict=True))
    if blocks and not progress and len(starts) > 1 and size <= BLOCK // 4:
        calls = list(_blocks(starts, valid))
    result, done = None, 0
    for call in progress(range(len(calls))) if progress else range(len(calls)):
        start, mask = calls[call]
        term = part(start, len(mask), mask)
        if not trees.is_traced(result):
            jax.block_until_ready(result)  # else the host would run ahead and fill the memory
        result, done = (combine(result, term) if done else term), done + 1
    if done != len(calls):
        raise ValueError(
            f"`progress` went through {done} of {len(calls)} chunks: it must yield every item of "
            "the iterable that it is given, once, as tqdm.tqdm does"
        )
    return result


def _blocks(starts: np.ndarray, valid: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Join chunks to blocks of the same size; yield the items of each and their mask."""
    count, size = valid.shape
    blocks = -(-count // (BLOCK // size))
    together = -(-count // blocks)
    items = starts[:, None] + np.arange(size)
    for first in range(0, count, together):
        chunks = np.arange(first, first + together)
        inside = np.minimum(chunks, count - 1)  # the last block repeats its last chunk
        yield items[inside].ravel(), (valid[inside] & (chunks < count)[:, None]).ravel()


def split(count: int, chunk_size: int) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the size of the chunks, as even as it can be, the first item of each and its mask."""
    trees.check_count(chunk_size, "chunk_size", ": it is the number of gradients taken together")
    chunks = -(-count // chunk_size)
    size = -(-count // chunks)
    firsts = np.arange(chunks) * size
    starts = np.minimum(firsts, count - size)
    return size, starts, starts[:, None] + np.arange(size) >= firsts[:, None]


def take(tree: ArrayTree, start: Any, size: int) -> ArrayTree:
    """Return items start … start + size − 1 of the leading axis of every leaf.

    If start is an array of indices, return the items that it lists.
    """

    def leaf_slice(leaf: Array) -> Array:
        if isinstance(start, np.ndarray):
            return leaf[start]
        if leaf.shape[0] == size:
            return leaf
        if isinstance(leaf, np.ndarray) and isinstance(start, int):
            return leaf[start : start + size]
        return lax.dynamic_slice_in_dim(jnp.asarray(leaf), start, size)

    return jax.tree.map(leaf_slice, tree)


def masked(weights: Array, valid: Array) -> Array:
    """Return the weights, 0 where an item is not valid; as NumPy if both arguments are."""
    if isinstance(weights, np.ndarray) and isinstance(valid, np.ndarray):
        return np.where(valid, weights, 0)
    return jnp.where(valid, weights, 0)


def is_staged() -> bool:
    """Tell whether JAX stages operations (jit, scan, shard_map) and does not run them.

    False under an eager `vmap` or `grad`: a new constant is concrete there, and the host can drive
    a loop.
    """
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def stacked(tree: ArrayTree, size: int) -> ArrayTree:
    """Return the tree with its leading axis split in two: the chunk, and the item in the chunk."""

    def leaf_stack(leaf: Array) -> Array:  # no -1, which is ambiguous if a leaf is empty
        return leaf.reshape(leaf.shape[0] // size, size, *leaf.shape[1:])

    return jax.tree.map(leaf_stack, tree)


def total(term: Callable[[ArrayTree], ArrayTree], stack: ArrayTree) -> ArrayTree:
    """Return Σ term(chunk) over the chunks of a stack."""
    if jax.tree.leaves(stack)[0].shape[0] == 1:
        return term(_first(stack))
    return scan(jax.jit(term), trees.add, stack)  # under jit, so that it is traced once


def scan(
    part: Callable[[ArrayTree], ArrayTree],
    combine: Callable[[ArrayTree, ArrayTree], ArrayTree],
    stack: ArrayTree,
) -> ArrayTree:
    """Combine the contributions of the items of a stack, one after the other, in a rolled loop."""

    def body(result: ArrayTree, item: ArrayTree) -> tuple[ArrayTree, None]:
        return combine(result, part(item)), None

    # zeros_like keeps the sharding and the varying mesh axes, which the type of the carry includes.
    form = jax.eval_shape(lambda: part(_first(stack)))
    return lax.scan(body, jax.tree.map(jnp.zeros_like, form), stack)[0]


def _first(stack: ArrayTree) -> ArrayTree:
    return jax.tree.map(lambda leaf: leaf[0], stack)
