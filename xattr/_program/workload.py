"""How much work one example is, and the chunk size that is chosen if the caller gives none.

Several gradients at once fill the processor. Too many no longer fit into its caches, and one large
image fills them alone. So the largest array that f makes of one example decides.
`tests/benchmarks/rewrites.py --settings all none --chunks 1 4 16 64` measures it.
"""

import jax
import jax.numpy as jnp

from xattr._core import chunks, compilation
from xattr._program import jaxpr, versions
from xattr.types import Args, ArrayTree, Function, UnreadableProgramError

CACHE = 4 * 2**20
"""Bytes that the largest arrays of one chunk may have on a CPU.

Times in ms for chunks of 1, 2, 4, 8, 16, 32, 64 (JAX 0.12.0.1, 2 cores): EfficientNet-Lite0 of 96
pixels (largest array .9 MB) 385, 272, 237, 245; a CNN (.1 MB), one image, –, –, 147, –, 72, 63, 57,
16 images –, –, 796, 721, 669, 672, 894. EfficientNet-Lite0 of 224 pixels (4.8 MB) is fastest at 1.
"""

MOST = 64
"""The largest chunk size: a larger one gains little, and needs more memory."""


def chunk_size(given: int | None, f: Function, x: ArrayTree, args: Args) -> int:
    """Return the number of gradients of f to take together: as given, or chosen for x and args.

    x and args may be shapes. Backends other than CPU were not measured: they get
    `chunks.DEFAULT_SIZE`.
    """
    if given is not None or jax.default_backend() != "cpu":
        return chunks.DEFAULT_SIZE if given is None else given
    (counted,) = compilation.shapes(chosen, f, x, args).shape
    return int(counted)


def chosen(f: Function, x: ArrayTree, args: Args) -> jax.Array:
    """Return an array as long as a chunk: `jax.eval_shape` finds the length without computing."""
    try:
        largest = largest_array(f, x, args)
    except UnreadableProgramError as error:
        versions.step_aside(error)
        return jnp.zeros(chunks.DEFAULT_SIZE)
    except (TypeError, ValueError):
        # f is not a scalar function. The method that is called next raises, or can do without.
        return jnp.zeros(chunks.DEFAULT_SIZE)
    return jnp.zeros(min(max(CACHE // max(largest, 1), 1), MOST))


def largest_array(f: Function, x: ArrayTree, args: Args) -> int:
    """Return the bytes of the largest array that depends on x in the program of f."""
    program, _ = jaxpr.trace(compilation.staged(f), x, args, whole="always")
    made = [v for e in jaxpr.all_equations(program.equations) for v in e.outputs]
    return max((v.size for v in [*program.inputs, *made] if v.dependent), default=1)
