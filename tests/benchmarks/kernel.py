"""Time the kernel against a hand-written jitted loop and against captum, side by side.

    pip install -e '.[bench]' && python tests/benchmarks/kernel.py

Integrated gradients of 16 images of MNIST size with 48 midpoint nodes. All sides have the same
weights, nodes and inputs, in one process. Runs are interleaved and repeated; the table gives the
median of the ratios of neighbouring runs. Captum takes the best `internal_batch_size` of those
tried; without the extra its column is left out.
"""

import argparse
import gc
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import models
import numpy as np

import xattr

IMAGES, NODES = 16, 48
PAUSE = 0.03  # seconds, in which torch's threads stop spinning for more work (7 ms on Linux)
Run = Callable[[], Any]


def kernel_run(
    f: Any, images: Any, labels: Any, params: Any, chunk: int | None, nodes: int = NODES
) -> Run:
    """Return the library's run as a user writes it, vmapped and outside jit."""
    rule = xattr.quadrature.midpoint(nodes)

    def one(x: Any, label: Any) -> Any:
        return xattr.integrated_gradients(
            f, x, args=(label, params), quadrature=rule, chunk_size=chunk
        )

    return lambda: jax.vmap(one)(images, labels)


def jitted_run(
    f: Any, images: Any, labels: Any, params: Any, chunk: int | None, nodes: int = NODES
) -> Run:
    """Return the library's run inside the caller's jit."""
    rule = xattr.quadrature.midpoint(nodes)

    @jax.jit
    def batch(images: Any, labels: Any, params: Any) -> Any:
        return jax.vmap(
            lambda x, label: xattr.integrated_gradients(
                f, x, args=(label, params), quadrature=rule, chunk_size=chunk
            )
        )(images, labels)

    return lambda: batch(images, labels, params)


def bare_run(f: Any, images: Any, labels: Any, params: Any, chunk: int, nodes: int = NODES) -> Run:
    """Return the loop written by hand: a jitted chunk of interpolated gradients."""

    @jax.jit
    def step(total: Any, alphas: Any, images: Any, labels: Any, params: Any) -> Any:
        def one(x: Any, label: Any) -> Any:
            slopes = jax.vmap(lambda a: jax.grad(f)(a * x, label, params))(alphas)
            return x * slopes.sum(0) / nodes

        return total + jax.vmap(one)(images, labels)

    alphas = jnp.asarray(xattr.quadrature.midpoint(nodes).nodes, jnp.float32).reshape(-1, chunk)

    def run() -> Any:
        total = jnp.zeros_like(images)
        for part in alphas:
            total = step(total, part, images, labels, params)
        return total

    return run


def captum_run(network: Any, inputs: Any, labels: Any, batch: int | None, nodes: int) -> Run:
    """Return captum's run on a tensor; its riemann_middle has our nodes and weights."""
    import captum.attr
    import torch

    method = captum.attr.IntegratedGradients(network)
    target = torch.tensor(np.asarray(labels).astype(np.int64))
    return lambda: method.attribute(
        inputs, target=target, n_steps=nodes, method="riemann_middle", internal_batch_size=batch
    )


def channels_first(images: Any) -> Any:
    """Return images (n, height, width, channels) as a tensor (n, channels, height, width)."""
    import torch

    return torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy())


def seconds(run: Run) -> float:
    """Return the seconds of one run, until its result is there."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def interleaved(runs: dict[str, Run], repeats: int) -> dict[str, np.ndarray]:
    """Return the seconds (repeats,) of each run; all runs take turns, in alternating order.

    Each run is warmed up, and the garbage collector is off. A pause comes before every run, so that
    no thread that still spins from the run before takes a core from it.
    """
    for run in runs.values():
        seconds(run)
    times: dict[str, list[float]] = {name: [] for name in runs}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for repeat in range(repeats):
            for name in list(runs) if repeat % 2 else list(reversed(runs)):
                time.sleep(PAUSE)
                times[name].append(seconds(runs[name]))
            gc.collect()
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(values) for name, values in times.items()}


def ratio_table(runs: dict[str, Run], reference: str, repeats: int) -> dict[str, float]:
    """Return the median ratio of each run's time to the reference's, interleaved."""
    times = interleaved(runs, repeats)
    base = times[reference]
    return {name: float(np.median(values / base)) for name, values in times.items()}


def best_batch(network: Any, inputs: Any, labels: Any) -> int:
    """Return the fastest of captum's batch sizes."""
    sizes = (16, 32, 64, 128, 256, 768)
    timed = {}
    for size in sizes:
        run = captum_run(network, inputs, labels, size, NODES)
        seconds(run)
        timed[size] = min(seconds(run), seconds(run))
    return min(timed, key=timed.__getitem__)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 4, 16])
    options = parser.parse_args()
    with_captum = importlib.util.find_spec("captum") is not None
    random = np.random.default_rng(1)
    images = jnp.asarray(random.random((IMAGES, 28, 28, 1)), jnp.float32)
    labels = jnp.arange(IMAGES) % 10
    print(
        f"IG, {NODES} nodes x {IMAGES} images, median of {options.repeats} ratios to the bare loop"
    )
    print("network chunk | kernel (host) | kernel (in jit) | bare loop again | captum")
    for name, model, params, to_torch in (
        ("MLP", models.mlp, models.mlp_params(), models.torch_mlp),
        ("CNN", models.cnn, models.cnn_params(), models.torch_cnn),
    ):
        params = jax.tree.map(jnp.asarray, params)
        f = xattr.targets.logit(model)
        network, inputs, batch = None, None, 0
        if with_captum:
            network, inputs = to_torch(jax.tree.map(np.asarray, params)), channels_first(images)
            batch = best_batch(network, inputs, labels)
        for chunk in options.chunks:
            runs = {
                "host": kernel_run(f, images, labels, params, chunk),
                "jit": jitted_run(f, images, labels, params, chunk),
                "bare": bare_run(f, images, labels, params, chunk),
            }
            runs["again"] = runs["bare"]  # its ratio shows the noise of the measurement
            if with_captum:
                runs["captum"] = captum_run(network, inputs, labels, batch, NODES)
            _check_equal(runs)
            row = ratio_table(runs, "bare", options.repeats)
            captum = f"{row['captum']:.2f} (batch {batch})" if with_captum else "-"
            cells = [f"{name} {chunk:2d}", *(f"{row[k]:.3f}" for k in ("host", "jit", "again"))]
            print(" | ".join([*cells, captum]), flush=True)


def _check_equal(runs: dict[str, Run]) -> None:
    """Raise unless all runs give the same attributions."""
    expected = np.asarray(runs["bare"]())
    for name, run in runs.items():
        value = run()
        if name == "captum":
            value = value.detach().numpy().transpose(0, 2, 3, 1)
        error = np.linalg.norm(np.asarray(value) - expected) / np.linalg.norm(expected)
        assert error < 1e-3, (name, error)  # in float32 a ReLU may be on either side of its kink


if __name__ == "__main__":
    main()
