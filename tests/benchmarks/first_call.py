"""Where the time of a first call goes: tracing, hoisting, lowering, compiling.

    pip install -e '.[repro]' && python tests/benchmarks/first_call.py

Integrated gradients inside jit, outside jit, and the plain gradient of the same network take turns,
each in a process of its own. The table gives medians in seconds. *f* is the time in the network's
own Python code while it is traced, *hoisting* that of reading and splitting the program, *tracing*
the rest of tracing (derivatives, vmap, the loop), and *run* a second call. `--cache` times two more
processes that share a `jax_compilation_cache_dir`: the first finds it empty, the second filled.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

WAYS = ("gradient", "in jit", "outside jit")
PARTS = ("f", "hoisting", "tracing", "lowering", "XLA", "run", "all")


def timed(function: Callable[..., Any], total: list[float]) -> Callable[..., Any]:
    """Return the function with its time added to the total."""

    def run(*operands: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*operands, **options)
        finally:
            total[0] += time.perf_counter() - start

    return run


def one_process(network: str, way: str) -> dict[str, float]:
    """Make the first call of this process, and return the seconds of its parts."""
    import jax
    import kernel
    import rewrites

    import xattr
    from xattr._integrate import straight_line

    (work,) = rewrites.works([network])
    in_f, in_split, events = [0.0], [0.0], {"to_mlir": 0.0, "backend": 0.0}
    f = timed(work.make(), in_f)
    straight_line.split_program = timed(straight_line.split_program, in_split)

    def listen(name: str, seconds: float, **_: Any) -> None:
        for part in events:
            if part in name:
                events[part] += seconds

    if way == "gradient":
        gradient = jax.jit(jax.vmap(jax.grad(f), in_axes=(0, 0, None)))
        run: kernel.Run = lambda: gradient(work.images, work.labels, work.params)
    else:
        make = kernel.jitted_run if way == "in jit" else kernel.kernel_run
        run = make(f, work.images, work.labels, work.params, None, work.nodes)
    jax.block_until_ready(xattr.gradient(lambda x: x**2, 1.0))  # sets up what any first call needs
    jax.monitoring.register_event_duration_secs_listener(listen)
    in_f[0] = in_split[0] = 0.0
    start = time.perf_counter()
    kernel.seconds(run)
    whole = time.perf_counter() - start
    again = kernel.seconds(run)
    python = whole - events["to_mlir"] - events["backend"] - again
    splitting = max(in_split[0] - in_f[0], 0.0) if in_split[0] else 0.0
    parts = (in_f[0], splitting, python - in_f[0] - splitting, events["to_mlir"], events["backend"])
    return dict(zip(PARTS, (*parts, again, whole), strict=True))


def in_a_process(network: str, way: str, cache: str | None = None) -> dict[str, float]:
    """Make a first call in another process."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", network, way]
    command += ["--cache-dir", cache] if cache else []
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    parts: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return parts


def printed(name: str, rows: list[dict[str, float]]) -> None:
    """Print the medians."""
    medians = [np.median([row[part] for row in rows]) for part in PARTS]
    print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in medians) + " |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["cnn", "efficientnet 1"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cache", action="store_true", help="with a compilation cache, too")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--cache-dir", help=argparse.SUPPRESS)
    options = parser.parse_args()
    import jax

    if options.cache_dir:
        jax.config.update("jax_compilation_cache_dir", options.cache_dir)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if options.one:
        print(json.dumps(one_process(*options.one)))
        return
    print(f"JAX {jax.__version__}, medians of {options.repeats} processes, seconds\n")
    print(f"| first call | {' | '.join(PARTS)} |\n|{'---|' * (len(PARTS) + 1)}")
    for network in options.networks:
        rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                rows[way].append(in_a_process(network, way))
        for way in WAYS:
            printed(f"{network}, {way}", rows[way])
        if options.cache:
            with tempfile.TemporaryDirectory() as folder:
                for name in ("empty cache", "cache filled"):
                    printed(f"{network}, in jit, {name}", [in_a_process(network, "in jit", folder)])


if __name__ == "__main__":
    main()
