"""How the time of a first call of backward methods grows with the depth of the network.

    pip install -e '.[bench]' && python tests/benchmarks/depth.py

Transformers of 6 to 24 unrolled pre-norm blocks (LayerNorm, attention, MLP; flax). A first call
traces, lowers and compiles while JAX holds no programs. The table gives the CPU time of a method's
first call, and of a later run, as multiples of those of `jax.grad` of the same network.
"""

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen

import xattr

METHODS: dict[str, Callable[..., Any]] = {
    "jax.grad": lambda f, x, args: jax.grad(f)(x, *args),
    "lrp": lambda f, x, args: xattr.lrp(f, x, args=args),
    "deep_lift": lambda f, x, args: xattr.deep_lift(f, x, args=args),
    "relevance_report": lambda f, x, args: xattr.relevance_report(f, x, args=args),
}
RUNS = 20


class Transformer(linen.Module):
    """Pre-norm blocks of width 16 over 8 tokens."""

    depth: int

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the mean of the last tokens."""
        for _ in range(self.depth):
            h = linen.LayerNorm()(x)
            x = x + linen.MultiHeadDotProductAttention(num_heads=2)(h, h)
            h = linen.LayerNorm()(x)
            x = x + linen.Dense(16)(linen.gelu(linen.Dense(32)(h)))
        return jnp.mean(x, 0)


def seconds(name: str, depth: int) -> tuple[float, float]:
    """Return the CPU time of the first call, and of a later one."""
    network, x = Transformer(depth), jnp.ones((8, 16)) + jnp.arange(16.0)
    params = network.init(jax.random.key(0), x)
    f = lambda x, params: network.apply(params, x)[3]
    jax.clear_caches()
    gc.collect()
    start = time.process_time()
    method = jax.jit(lambda x, params: METHODS[name](f, x, (params,)))
    program = method.lower(x, params).compile()
    first = time.process_time() - start
    start = time.process_time()
    for _ in range(RUNS):
        jax.block_until_ready(program(x, params))
    return first, (time.process_time() - start) / RUNS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[6, 12, 24])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    for name in METHODS:
        seconds(name, 1)  # sets up what any first call needs
    print(f"JAX {jax.__version__}, medians of {options.repeats}: first call (run)\n")
    print(f"| blocks | {' | '.join(METHODS)} |\n|{'---|' * (len(METHODS) + 1)}")
    for depth in options.depths:
        times = np.array(
            [[seconds(name, depth) for name in METHODS] for _ in range(options.repeats)]
        )
        ratios = np.median(times / times[:, :1], axis=0)
        first, run = np.median(times[:, 0], axis=0)
        cells = [
            f"{first:.1f} s ({1000 * run:.1f} ms)",
            *(f"{a:.1f} ({b:.1f})" for a, b in ratios[1:]),
        ]
        print(f"| {depth} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
