"""Time integrated gradients against captum's, and along a polyline against a hand-written loop.

    pip install -e '.[bench]' && python tests/benchmarks/versus_captum.py

Both sides have the same weights, midpoint nodes and inputs, and each runs at its best settings:
ours at the best of `--chunks` and at the default, captum at the best `internal_batch_size` and
memory format. The runs take turns in one process, in alternating order. The table gives the median
and the quartiles of the ratios of neighbours; a ratio below 1 means that ours is faster.

Before that, the script checks that both give the same attributions: to 1e-3 in float32, or, for
EfficientNet-Lite0, to 1e-9 in float64 and to 1e-2 in float32. (In float32 either side of the latter
is 1e-3 to 4e-3 from its own result in float64, because rounding moves some inputs of ReLU6 across a
kink.)

Either library may use every core. JAX's idle threads sleep at once. By default torch's spin for
some milliseconds, which is good for torch and bad for what runs next. So torch keeps this default,
a pause comes before every run (`kernel.interleaved`), and the script first checks that the process
is idle after that pause. Torch has one thread between operations (`set_num_interop_threads`), all
cores within one, and parameters that do not ask for a gradient. The garbage collector is off during
a run.

The column *first call* is the time of our first call, which compiles, over that of a run of captum.
"""

import argparse
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import kernel
import models
import numpy as np
import torch
import torch_efficientnet

import xattr
from paper_repro.data import packages
from paper_repro.networks import efficientnet

BATCHES = {"MNIST": (16, 32, 64, 128, 256, 768), "ImageNet": (4, 8, 16, 32)}
CHUNKS = {"MNIST": (1, 2, 4, 8, 16, 48), "ImageNet": (1, 2, 4, 8)}
POLYLINE_CHUNKS = (4, 16, 48)
TARGETS = {"mlp": 0.5, "cnn": 0.9, "efficientnet": 0.8, "loop": 1.03}
TOLERANCE = {"MNIST": 1e-3, "ImageNet": 1e-2}
LABELS = (505, 254, 281, 967)  # of ImageNet, one for each photograph
MNIST = {
    "mlp": ("MLP 784–1024×3–10", models.mlp, models.mlp_params, models.torch_mlp),
    "cnn": ("CNN, two 5×5 convolutions", models.cnn, models.cnn_params, models.torch_cnn),
}


class Problem(NamedTuple):
    """What both sides explain."""

    name: str
    f: Callable[..., Any]
    images: jax.Array
    labels: jax.Array
    params: Any
    network: Any
    nodes: int
    kind: str
    target: float

    @property
    def work(self) -> str:
        return f"{self.name}: {self.nodes} nodes × {len(self.images)}"


class Row(NamedTuple):
    """One line of the table."""

    work: str
    ratios: np.ndarray
    target: float | None
    ours: str
    theirs: str
    first: float | None = None


def mnist(name: str) -> Problem:
    """16 images of MNIST size."""
    title, model, make_params, to_torch = MNIST[name]
    params = make_params()
    images = np.random.default_rng(1).random((kernel.IMAGES, 28, 28, 1), np.float32)
    return Problem(
        title,
        xattr.targets.logit(model),
        jnp.asarray(images),
        jnp.arange(kernel.IMAGES) % 10,
        jax.tree.map(jnp.asarray, params),
        to_torch(params).requires_grad_(False),
        kernel.NODES,
        "MNIST",
        TARGETS[name],
    )


def imagenet(count: int) -> Problem:
    """Photographs."""
    params, images = efficientnet.load(progress=False), torch_efficientnet.first_photographs(count)
    return Problem(
        "EfficientNet-Lite0",
        xattr.targets.logit(efficientnet.network),
        jnp.asarray(images),
        jnp.asarray(LABELS[:count]),
        params,
        torch_efficientnet.build(params, images),
        32,
        "ImageNet",
        TARGETS["efficientnet"],
    )


def problems(only: list[str]) -> Iterator[Problem]:
    """Yield what is to be explained."""
    yield from (mnist(name) for name in MNIST if name in only)
    if "efficientnet" in only:
        yield from (imagenet(count) for count in (1, 4))


def best_of(runs: dict[Any, kernel.Run]) -> tuple[Any, dict[Any, float]]:
    """Return the key of the fastest run, and the times of first calls.

    After its first call a run has three tries, or one if it takes longer than a second.
    """
    jax.clear_caches()  # so that a first call compiles all that it needs
    first = {key: kernel.seconds(run) for key, run in runs.items()}
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for _, key in itertools.product(range(3), runs):
        if not times[key] or min(times[key]) < 1:
            time.sleep(kernel.PAUSE)
            times[key].append(kernel.seconds(runs[key]))
    return min(times, key=lambda key: min(times[key])), first


def captum_settings(problem: Problem) -> dict[tuple[str, int], kernel.Run]:
    """Return captum's runs, by memory format and `internal_batch_size`."""
    inputs = kernel.channels_first(problem.images)
    sizes = [n for n in BATCHES[problem.kind] if n >= len(inputs)]

    def run(memory_format: str, size: int) -> kernel.Run:
        layout = torch_efficientnet.FORMATS[memory_format]
        batch = inputs.contiguous(memory_format=layout)
        attribute = kernel.captum_run(problem.network, batch, problem.labels, size, problem.nodes)

        def formatted() -> Any:
            problem.network.to(memory_format=layout)  # does nothing if the network has it
            return attribute()

        return formatted

    # The memory format makes no difference to a network without convolutions.
    formats = list(torch_efficientnet.FORMATS)[: 1 if problem.name.startswith("MLP") else 2]
    return {key: run(*key) for key in itertools.product(formats, sizes)}


def our_settings(
    problem: Problem, sizes: list[int | None]
) -> dict[str, dict[int | None, kernel.Run]]:
    """Return our runs, by the way of calling and `chunk_size`."""
    makers = {"in jit": kernel.jitted_run, "outside jit": kernel.kernel_run}
    one = (problem.f, problem.images, problem.labels, problem.params)
    return {
        way: {size: make(*one, size, problem.nodes) for size in sizes}
        for way, make in makers.items()
    }


def against_captum(problem: Problem, chunks: list[int] | None, repeats: int) -> list[Row]:
    """Compare our ways of calling, each at its best and at the default, with captum's best."""
    if problem.kind == "ImageNet":
        check_in_float64(problem)
    theirs = captum_settings(problem)
    (layout, size), _ = best_of(theirs)
    captum = theirs[layout, size]
    expected = np.asarray(captum().detach()).transpose(0, 2, 3, 1)
    runs: dict[str, kernel.Run] = {"captum": captum}
    facts = {}
    tried = chunks or CHUNKS[problem.kind]
    default = default_chunk(problem)
    sizes = [None, *(n for n in tried if n != default and n <= problem.nodes)]
    for way, settings in our_settings(problem, sizes).items():
        best, first = best_of(settings)
        found = np.asarray(settings[best]())
        check_equal(f"{problem.work}, {way}", found, expected, TOLERANCE[problem.kind])
        for chunk in dict.fromkeys((best, None)):
            runs[f"{way}, {chunk}"] = settings[chunk]
            facts[f"{way}, {chunk}"] = way, chunk, first[chunk]
    times = kernel.interleaved(runs, repeats)
    base = times.pop("captum")
    return [
        Row(
            f"{problem.work}, {facts[name][0]}",
            values / base,
            problem.target,
            str(facts[name][1] or f"{default}, the default"),
            f"{size}, {layout}",
            facts[name][2] / float(np.median(base)),
        )
        for name, values in times.items()
    ]


def default_chunk(problem: Problem) -> int:
    """Return the size of a chunk that the library chooses."""
    args = (problem.labels[0], problem.params)
    chosen = xattr._program.workload.chunk_size(None, problem.f, problem.images[0], args)
    size: int = xattr._core.chunks.split(problem.nodes, chosen)[0]
    return size


def check_in_float64(problem: Problem, nodes: int = 2) -> None:
    """Raise unless both sides are equal in float64, for the first image of EfficientNet-Lite0."""
    with jax.enable_x64(True):
        image, params = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64), (problem.images[:1], problem.params)
        )
        ours = kernel.jitted_run(problem.f, image, problem.labels[:1], params, nodes, nodes)
        found = np.asarray(ours())
        network = torch_efficientnet.EfficientNetLite0(params).eval()
        inputs = kernel.channels_first(image)
    expected = kernel.captum_run(network, inputs, problem.labels[:1], nodes, nodes)()
    work = f"{problem.name}, {nodes} nodes, float64"
    check_equal(work, found, expected.numpy().transpose(0, 2, 3, 1), 1e-9)


def check_equal(work: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Raise unless the attributions are equal."""
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    if not error < tolerance:
        raise AssertionError(f"{work}: attributions differ by {error:.1e}, relatively")
    print(f"{work}: attributions differ by {error:.1e}, relatively", flush=True)


def polyline_settings(
    problem: Problem, waypoints: jax.Array, chunks: list[int]
) -> tuple[dict[int, kernel.Run], dict[int, kernel.Run]]:
    """Return our runs and the hand-written loop's, by size of chunk; waypoints (n, 4, ...)."""
    pieces = waypoints.shape[1] - 1
    rule = xattr.quadrature.composite(
        xattr.quadrature.midpoint(problem.nodes // pieces), pieces=pieces
    )

    def ours(chunk: int) -> kernel.Run:
        @jax.jit
        def batch(waypoints: Any, labels: Any, params: Any) -> Any:
            return jax.vmap(
                lambda points, label: xattr.path_integral(
                    problem.f,
                    xattr.paths.polyline(points),
                    quadrature=rule,
                    args=(label, params),
                    chunk_size=chunk,
                )
            )(waypoints, labels)

        return lambda: batch(waypoints, problem.labels, problem.params)

    def loop(chunk: int) -> kernel.Run:
        return polyline_loop(problem, waypoints, chunk)

    return {n: ours(n) for n in chunks}, {n: loop(n) for n in chunks}


def polyline_loop(problem: Problem, waypoints: jax.Array, chunk: int) -> kernel.Run:
    """Return the loop written by hand: a jitted chunk of points, velocities and gradients."""
    pieces = waypoints.shape[1] - 1
    places = (np.arange(problem.nodes) + 0.5) * pieces / problem.nodes
    segments = places.astype(np.int32).reshape(-1, chunk)
    parts = jnp.asarray(places.reshape(-1, chunk) - segments, jnp.float32)
    segments = jnp.asarray(segments)

    @jax.jit
    def step(total: Any, segment: Any, part: Any, waypoints: Any, labels: Any, params: Any) -> Any:
        def one(points: Any, label: Any) -> Any:
            start, way = points[segment], points[segment + 1] - points[segment]
            along = start + part[:, None, None, None] * way
            slopes = jax.vmap(lambda point: jax.grad(problem.f)(point, label, params))(along)
            return (slopes * way).sum(0) * (pieces / problem.nodes)

        return total + jax.vmap(one)(waypoints, labels)

    def run() -> Any:
        total = jnp.zeros_like(waypoints[:, 0])
        for segment, part in zip(segments, parts, strict=True):
            total = step(total, segment, part, waypoints, problem.labels, problem.params)
        return total

    return run


def against_loop(problem: Problem, chunks: list[int] | None, repeats: int) -> list[Row]:
    """Compare the path integral along four waypoints, and the loop again, with the loop."""
    between = np.random.default_rng(2).random((len(problem.images), 2, 28, 28, 1), np.float32)
    waypoints = jnp.concatenate(
        [jnp.zeros_like(problem.images)[:, None], between, problem.images[:, None]], axis=1
    )
    sizes = [n for n in chunks or POLYLINE_CHUNKS if problem.nodes % n == 0]
    ours, loops = polyline_settings(problem, waypoints, sizes)
    (best, _), (size, _) = best_of(ours), best_of(loops)
    work = f"{problem.work}, polyline of 4 waypoints"
    check_equal(work, np.asarray(ours[best]()), np.asarray(loops[size]()), 1e-3)
    runs = {"loop": loops[size], "ours": ours[best], "again": loops[size]}
    times = kernel.interleaved(runs, repeats)
    theirs = f"loop: {size}"
    return [
        Row(f"{work}, in jit", times["ours"] / times["loop"], TARGETS["loop"], str(best), theirs),
        Row(f"{work}, loop again", times["again"] / times["loop"], None, "–", theirs),
    ]


def markdown(rows: list[Row], repeats: int) -> str:
    """Write the rows as a table, under a line about the machine."""
    lines = [
        f"{machine()}; {repeats} interleaved runs.",
        "",
        "| work | ours / theirs | quartiles | target | our chunk | captum's batch | first call |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, middle, high = np.percentile(row.ratios, (25, 50, 75))
        target = "–" if row.target is None else f"≤ {row.target:.2f}"
        first = "–" if row.first is None else f"{row.first:.1f}"
        cells = [row.work, f"{middle:.2f}", f"{low:.2f}–{high:.2f}", target, row.ours, row.theirs]
        lines.append(f"| {' | '.join([*cells, first])} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """Describe the processor and the versions."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "torch", "captum"))
    return f"{os.cpu_count()} cores, {processor()}; {packages}, float32"


def processor() -> str:
    """Name the model of the processor."""
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()} ({platform.machine()})"
    return platform.processor() or platform.machine()


def check_idle() -> None:
    """Raise if threads of either library still spin after the pause."""
    a = np.ones((1024, 1024), np.float32)
    work = jax.jit(lambda x: x @ x)
    for run in (lambda: work(a), lambda: torch.from_numpy(a) @ torch.from_numpy(a)):
        for _ in range(3):
            kernel.seconds(run)
        time.sleep(kernel.PAUSE)
        start = time.process_time()
        time.sleep(kernel.PAUSE)
        if (busy := time.process_time() - start) > kernel.PAUSE / 30:
            raise SystemExit(
                f"idle threads spin ({1e3 * busy:.0f} ms of processor time in a pause of "
                f"{1e3 * kernel.PAUSE:.0f} ms), and would slow down the other side: unset "
                "OMP_WAIT_POLICY, GOMP_SPINCOUNT and KMP_BLOCKTIME"
            )


def measured(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows of one measurement after the other."""
    for problem in problems(options.only):
        yield against_captum(problem, options.chunks, options.repeats)
    if "polyline" in options.only:
        for problem in map(mnist, MNIST):
            yield against_loop(problem, options.chunks, options.repeats)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--chunks", type=int, nargs="+", help="sizes to try, beside the default")
    names = [*MNIST, "efficientnet", "polyline"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--markdown", type=Path, help="a file to write the table to")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_num_interop_threads(1)
    check_idle()
    rows: list[Row] = []
    table = ""
    for part in measured(options):
        rows += part
        table = markdown(rows, options.repeats)
        print(f"\n{table}", flush=True)  # printed so far, because the whole takes many minutes
    if options.markdown:
        with packages.replacing(options.markdown) as part:
            part.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
