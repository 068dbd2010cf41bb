"""Print the temporaries of the compiled integral for more and more nodes: they do not grow.

pip install -e '.[repro]' && python tests/benchmarks/memory.py
"""

import jax
import jax.numpy as jnp
import models

import xattr


def main() -> None:
    """Print one line for each number of nodes."""
    x, params = jnp.ones((28, 28, 1)), jax.tree.map(jnp.asarray, models.cnn_params())
    f = xattr.targets.logit(models.cnn)
    for nodes in (16, 64, 256, 1024):
        rule = xattr.quadrature.midpoint(nodes)
        program = jax.jit(
            lambda x, params, rule=rule: xattr.integrated_gradients(
                f, x, quadrature=rule, args=(1, params), chunk_size=16
            )
        )
        size = program.lower(x, params).compile().memory_analysis().temp_size_in_bytes
        print(f"{nodes:5} nodes: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
