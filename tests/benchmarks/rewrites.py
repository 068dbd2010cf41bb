"""Time each rewrite of `xattr._cpu.replace` with and without, side by side.

    pip install -e '.[repro]' && python tests/benchmarks/rewrites.py

Integrated gradients inside jit of the networks of `versus_captum.py`, with no rewrite, with each
alone, with all but each, and with all. The runs take turns in one process, in alternating order.
The table gives the median and the quartiles of the ratios to the run without a rewrite. Rewrites
that win are kept in the module's table of rewrites and versions of JAX.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import kernel
import models
import numpy as np

import xattr
from paper_repro.networks import efficientnet
from xattr._cpu import replace

REWRITES = {each.__name__.rpartition(".")[2]: each for each in replace.REWRITES}


class Work(NamedTuple):
    """What is explained."""

    name: str
    make: Callable[[], Any]
    """Returns a new f, which is in no cache."""
    images: jax.Array
    labels: jax.Array
    params: Any
    nodes: int


def works(only: list[str]) -> Iterator[Work]:
    """Yield what is explained."""
    random = np.random.default_rng(1)
    digits = jnp.asarray(random.random((kernel.IMAGES, 28, 28, 1), np.float32))
    labels = jnp.arange(kernel.IMAGES) % 10
    for name, model, make_params in (
        ("mlp", models.mlp, models.mlp_params),
        ("cnn", models.cnn, models.cnn_params),
    ):
        if name in only:
            params = jax.tree.map(jnp.asarray, make_params())
            make = lambda model=model: xattr.targets.logit(lambda x, p: model(x, p))
            yield Work(name, make, digits, labels, params, kernel.NODES)
    pictures = jnp.asarray(random.random((4, 224, 224, 3), np.float32))
    for count in (1, 4):
        if f"efficientnet {count}" in only:
            params = efficientnet.load(progress=False)
            make = lambda: xattr.targets.logit(lambda x, p: efficientnet.network(x, p))
            labels = jnp.arange(count)
            yield Work(f"efficientnet {count}", make, pictures[:count], labels, params, 32)


def settings() -> dict[str, tuple[Any, ...]]:
    """Return name of a setting -> the rewrites that are on."""
    everything = tuple(REWRITES.values())
    alone = {f"{name} alone": (each,) for name, each in REWRITES.items()}
    without = {
        f"all but {name}": tuple(e for e in everything if e is not each)
        for name, each in REWRITES.items()
    }
    return {"none": (), **alone, **without, "all": everything, "none again": ()}


def runs(
    work: Work, chunk: int | None, names: list[str], make_run: Callable[..., kernel.Run]
) -> dict[str, kernel.Run]:
    """Return a compiled run for each setting."""
    result = {}
    for name, rewrites in settings().items():
        if name not in names:
            continue
        replace.REWRITES = rewrites
        run = make_run(work.make(), work.images, work.labels, work.params, chunk, work.nodes)
        kernel.seconds(run)  # compiles while the setting is on
        result[name] = run
    return result


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = ["mlp", "cnn", "efficientnet 1", "efficientnet 4"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--settings", nargs="+", default=list(settings()))
    parser.add_argument("--chunks", type=int, nargs="+", default=[None])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--host", action="store_true", help="outside jit, chunk by chunk")
    options = parser.parse_args()
    print(f"JAX {jax.__version__}; {options.repeats} interleaved runs; ratios to no rewrite")
    for work in works(options.only):
        for chunk in options.chunks:
            make_run = kernel.kernel_run if options.host else kernel.jitted_run
            compiled = runs(work, chunk, options.settings, make_run)
            times = kernel.interleaved(compiled, options.repeats)
            base = times["none"]
            for name, values in times.items():
                low, middle, high = np.percentile(values / base, (25, 50, 75))
                cells = f"{work.name} | {chunk or 'default'} | {name}"
                seconds = f"{1e3 * np.median(values):.0f} ms"
                print(f"{cells} | {middle:.2f} ({low:.2f}-{high:.2f}) | {seconds}", flush=True)


if __name__ == "__main__":
    main()
