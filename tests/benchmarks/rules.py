"""Time backward methods against `jax.grad` of the same jitted network, side by side.

    pip install -e '.[bench]' && python tests/benchmarks/rules.py

A batch of images goes through the MNIST CNN and EfficientNet-Lite0 (published weights); every
method is jitted and vmapped. Runs are interleaved and repeated. The table gives the median of the
ratios of neighbouring runs, and the ratio of the times to trace and compile.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import models
import numpy as np
from kernel import ratio_table

import xattr
from paper_repro.networks import efficientnet

COMPOSITES = {
    "epsilon": xattr.composites.every_layer(xattr.rules.epsilon(1e-6)),
    "epsilon_plus": xattr.composites.epsilon_plus(),
    "epsilon_plus_flat": xattr.composites.epsilon_plus_flat(),
    "epsilon_alpha2_beta1_flat": xattr.composites.epsilon_alpha2_beta1_flat(),
    "epsilon_gamma_box": xattr.composites.epsilon_gamma_box(0.0, 1.0),
}
METHODS: dict[str, Callable[..., Any]] = {
    "gradient": lambda f, x, args: jax.grad(f)(x, *args),
    "gradient again": lambda f, x, args: jax.grad(f)(x, *args),
    "gradient of the library": xattr.gradient,
    "guided_backprop": xattr.guided_backprop,
    "deconvnet": xattr.deconvnet,
    **{
        f"lrp {name}": functools.partial(xattr.lrp, composite=composite)
        for name, composite in COMPOSITES.items()
    },
    "deep_lift rescale": xattr.deep_lift,
    "deep_lift reveal_cancel": functools.partial(xattr.deep_lift, variant="reveal_cancel"),
}


def networks(batch: int) -> dict[str, tuple[Any, Any, Any]]:
    """Return name -> (f, images, args)."""
    random = np.random.default_rng(0)
    cnn = jax.tree.map(jnp.asarray, models.cnn_params())
    digits = jnp.asarray(random.random((4 * batch, 28, 28, 1)), jnp.float32)
    pictures = jnp.asarray(random.random((batch, 224, 224, 3)), jnp.float32)
    return {
        "CNN": (xattr.targets.logit(models.cnn), digits, (3, cnn)),
        "EfficientNet-Lite0": (
            xattr.targets.logit(efficientnet.network),
            pictures,
            (3, efficientnet.load(progress=False)),
        ),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--networks", nargs="+")
    parser.add_argument("--methods", nargs="+")
    options = parser.parse_args()
    for name, (f, images, args) in networks(options.batch).items():
        if options.networks and name not in options.networks:
            continue
        runs, compiling = {}, {}
        for method, function in METHODS.items():
            if options.methods and method not in options.methods and method != "gradient":
                continue
            attribute = functools.partial(_one, function, f)
            program = jax.jit(jax.vmap(attribute, (0, None)))
            start = time.perf_counter()
            compiled = program.lower(images, args).compile()
            compiling[method] = time.perf_counter() - start
            runs[method] = functools.partial(compiled, images, args)
        rows = ratio_table(runs, "gradient", options.repeats)
        print(f"\n{name}, {len(images)} images: method, time / gradient, compiling / gradient")
        for method, ratio in rows.items():
            print(f"{method:32}{ratio:8.2f}{compiling[method] / compiling['gradient']:8.2f}")


def _one(function: Callable[..., Any], f: Any, x: Any, args: Any) -> Any:
    return function(f, x, args=args)


if __name__ == "__main__":
    main()
