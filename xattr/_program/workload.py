"""How much work one example is, and how many gradients to take together where nobody says.

Several at once fill the processor; too many no longer fit into its caches, where a large image
already fills them alone. What decides is the largest array that f makes of one example.
`tests/benchmarks/rewrites.py --settings all none --chunks 1 4 16 64` measures it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from xattr._core import chunks, compilation
from xattr._program import jaxpr, versions
from xattr.types import ArrayTree, Function, UnreadableProgramError

CACHE = 4 * 2**20
"""Bytes that the largest arrays of one chunk may have on a CPU.

Times in ms for chunks of 1, 2, 4, 8, 16, 32, 64 (JAX 0.12.0.1, 2 cores): EfficientNet-Lite0 of 96
pixels (largest array .9 MB) 385, 272, 237, 245; a CNN (.1 MB), one image, –, –, 147, –, 72, 63, 57,
16 images –, –, 796, 721, 669, 672, 894. EfficientNet-Lite0 of 224 pixels (4.8 MB) is fastest at 1.
"""

MOST = 64
"""Gradients taken together at most: more of them gain little, and need more memory."""


def chunk_size(given: int | None, f: Function, x: ArrayTree, args: tuple[Any, ...]) -> int:
    """Return the number of gradients of f to take together: as given, or chosen for x like these.

    x and args may be shapes. On backends other than CPU, where nothing was measured, it is
    `chunks.DEFAULT_SIZE`.
    """
    if given is not None or jax.default_backend() != "cpu":
        return chunks.DEFAULT_SIZE if given is None else given
    (counted,) = compilation.shapes(chosen, f, x, args).shape
    return int(counted)


def chosen(f: Function, x: ArrayTree, args: tuple[Any, ...]) -> jax.Array:
    """Return an array as long as a chunk: its shape is known without anything being computed."""
    try:
        largest = largest_array(f, x, args)
    except UnreadableProgramError as error:
        versions.step_aside(error)
        return jnp.zeros(chunks.DEFAULT_SIZE)
    except (TypeError, ValueError):
        # f is not a score. The method that takes it next says so, or does not mind.
        return jnp.zeros(chunks.DEFAULT_SIZE)
    return jnp.zeros(min(max(CACHE // max(largest, 1), 1), MOST))


def largest_array(f: Function, x: ArrayTree, args: tuple[Any, ...]) -> int:
    """Return the bytes of the largest array that depends on x in the program of f."""
    program, _ = jaxpr.trace(compilation.staged(f), x, args, whole="always")
    made = [v for e in jaxpr.all_equations(program.equations) for v in e.outputs]
    return max((v.size for v in [*program.inputs, *made] if v.dependent), default=1)
