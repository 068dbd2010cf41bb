"""Work in chunks: one reduction, driven from the host outside a trace and by a scan inside one.

The scan is rolled, so that memory is that of one chunk. Measured on CPU (JAX 0.10.2, 2 cores),
times to those of the same compiled chunk called from Python: rolled 0.9 to 1.0 for a CNN (with the
gradients of `convolutions`) and an MLP, 0.8 for EfficientNet-Lite0. Fully unrolled it would
hold the temporaries of *all* chunks at once.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr import trees
from xattr.types import Array, ArrayTree, Progress

DEFAULT_SIZE = 16
"""Nodes or samples taken together where the caller does not say.

Measured on CPU, one image, times to those at 16 for chunks of 1, 4, 64 and 256 nodes: an MLP 1.7,
1.4, 0.8, 0.6; a CNN 1.3, 1.2, 0.9, 0.9 (`tests/benchmarks/scaling.py`). EfficientNet-Lite0 is 1.2
times as fast with 4.
"""

Part = Callable[[Any, int, Array], ArrayTree]
"""`part(start, size, valid) -> pytree`: the contribution of items start … start + size − 1.

Where `valid` (bool, shape (size,)) is False the item has been counted before.
"""


def reduce(
    part: Part,
    combine: Callable[[ArrayTree, ArrayTree], ArrayTree],
    count: int,
    *,
    chunk_size: int | None = None,
    progress: Progress | None = None,
) -> ArrayTree:
    """Combine the contributions of `count` items, chunk by chunk.

    All chunks have one size, so that one program serves them: where `count` is no multiple of it
    the last chunk reaches back over items that are not valid then. A tree of zeros must be neutral
    for `combine`. Driven from the host, at most two chunks are under way at a time, except under
    an eager `vmap` or `grad`, whose arrays cannot be waited for.
    """
    size, starts, valid = split(count, chunk_size)
    if is_staged():
        return _scan(lambda start, mask: part(start, size, mask), combine, starts, valid)
    result, done = None, 0
    for chunk in progress(range(len(starts))) if progress else range(len(starts)):
        term = part(int(starts[chunk]), size, valid[chunk])
        if not trees.is_traced(result):
            jax.block_until_ready(result)  # or the host would run ahead and fill the memory
        result, done = (combine(result, term) if done else term), done + 1
    if done != len(starts):
        raise ValueError(
            f"`progress` went through {done} of {len(starts)} chunks: it must yield every item of "
            "the iterable that it is given, once, as tqdm.tqdm does"
        )
    return result


def split(count: int, chunk_size: int | None) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the size of the chunks, their first items and their masks; chunks are of even size."""
    size = DEFAULT_SIZE if chunk_size is None else chunk_size
    trees.check_count(size, "chunk_size", ": it is the number of gradients taken together")
    chunks = -(-count // size)
    size = -(-count // chunks)
    firsts = np.arange(chunks) * size
    starts = np.minimum(firsts, count - size)
    return size, starts, starts[:, None] + np.arange(size) >= firsts[:, None]


def take(tree: ArrayTree, start: Any, size: int) -> ArrayTree:
    """Return items start … start + size − 1 of the leading axis of every leaf."""

    def leaf_slice(leaf: Array) -> Array:
        if leaf.shape[0] == size:
            return leaf
        if isinstance(leaf, np.ndarray) and isinstance(start, int):
            return leaf[start : start + size]
        return lax.dynamic_slice_in_dim(jnp.asarray(leaf), start, size)

    return jax.tree.map(leaf_slice, tree)


def masked(weights: Array, valid: Array) -> Array:
    """Return the weights with 0 where an item is not valid; on the host if both are there."""
    if isinstance(weights, np.ndarray) and isinstance(valid, np.ndarray):
        return np.where(valid, weights, 0)
    return jnp.where(valid, weights, 0)


def is_staged() -> bool:
    """Tell whether operations are being recorded (jit, scan, shard_map), not carried out.

    Under an eager `vmap` or `grad` a new constant is concrete, and the host may drive the loop.
    """
    return isinstance(jnp.zeros(()), jax.core.Tracer)


def _scan(
    part: Callable[[Any, Array], ArrayTree],
    combine: Callable[[ArrayTree, ArrayTree], ArrayTree],
    starts: np.ndarray,
    valid: np.ndarray,
) -> ArrayTree:
    if len(starts) == 1:
        return part(0, valid[0])
    chunks = (jnp.asarray(starts, jnp.int32), jnp.asarray(valid))

    def body(result: ArrayTree, chunk: tuple[Array, Array]) -> tuple[ArrayTree, None]:
        return combine(result, part(*chunk)), None

    # Zeros of the contribution's own type: its sharding and varying mesh axes are the body's.
    form = jax.eval_shape(lambda: part(*jax.tree.map(lambda leaf: leaf[0], chunks)))
    return lax.scan(body, jax.tree.map(jnp.zeros_like, form), chunks)[0]
