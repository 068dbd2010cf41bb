"""Time integrated gradients for more nodes, more images and larger chunks; draw the curves.

    pip install -e '.[bench]' && python tests/benchmarks/scaling.py

The MLP and the CNN are explained in the caller's jit, and by captum with the same weights, nodes
and inputs (without the extra, by a hand-written loop). Every point is timed beside the first point
of its curve, in alternating order, and the median of the ratios of neighbours is shown. The curve
over nodes has one image, that over images `NODES` nodes, and that over chunks `CHUNKED` nodes of
one image; captum's chunk is its `internal_batch_size`. Then comes the time to trace and compile,
from cold, for each network, and that of its plain gradient. The script prints tables in Markdown
and writes `scaling.png` beside this file.
"""

import argparse
import functools
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import kernel
import models
import numpy as np

import xattr
from paper_repro.data import packages
from paper_repro.networks import efficientnet

NODES, CHUNKED = 16, 256
AXES = {
    "nodes": tuple(4**k for k in range(2, 6)),
    "images": tuple(2**k for k in range(7)),
    "chunk": tuple(4**k for k in range(5)),
}
LABELS = {
    "nodes": ("nodes", "one image"),
    "images": ("images", f"{NODES} nodes an image"),
    "chunk": ("gradients taken together", f"one image, {CHUNKED} nodes"),
}
TORCH_BATCH = 64
COLOURS = {"xattr": "#0072B2", "captum": "#D55E00", "loop": "#D55E00"}
LINES = {"MLP": ("o", "--"), "CNN": ("s", "-")}
Curve = dict[int, np.ndarray]


def networks() -> dict[str, tuple[Any, Any, Callable[[Any], Any]]]:
    """Return name -> (f, parameters, builder of the same network in torch)."""
    return {
        "MLP": (xattr.targets.logit(models.mlp), models.mlp_params(), models.torch_mlp),
        "CNN": (xattr.targets.logit(models.cnn), models.cnn_params(), models.torch_cnn),
    }


def our_run(f: Any, params: Any, nodes: int, images: int, chunk: int | None) -> kernel.Run:
    """Return the library's run, in jit."""
    return kernel.jitted_run(f, *_inputs(images), params, chunk, nodes)


def loop_run(f: Any, params: Any, nodes: int, images: int, chunk: int | None) -> kernel.Run:
    """Return the hand-written loop."""
    return kernel.bare_run(f, *_inputs(images), params, chunk or NODES, nodes)


def captum_run(network: Any, nodes: int, images: int, chunk: int | None) -> kernel.Run:
    """Return captum's run."""
    x, labels = _inputs(images)
    batch = chunk or max(TORCH_BATCH, images)
    return kernel.captum_run(network, kernel.channels_first(x), labels, batch, nodes)


def _inputs(images: int) -> tuple[jax.Array, jax.Array]:
    x = np.random.default_rng(1).random((images, 28, 28, 1), np.float32)
    return jnp.asarray(x), jnp.arange(images) % 10


def sides() -> dict[tuple[str, str], Callable[..., kernel.Run]]:
    """Return (network, side) -> a function of nodes, images and chunk."""
    found: dict[tuple[str, str], Callable[..., kernel.Run]] = {}
    for name, (f, params, to_torch) in networks().items():
        arrays = jax.tree.map(jnp.asarray, params)
        found[name, "xattr"] = functools.partial(our_run, f, arrays)
        if importlib.util.find_spec("captum") is not None:
            torch_network = to_torch(params).requires_grad_(False)
            found[name, "captum"] = functools.partial(captum_run, torch_network)
        else:
            found[name, "loop"] = functools.partial(loop_run, f, arrays)
    return found


def curve(make: Callable[..., kernel.Run], axis: str, repeats: int) -> tuple[float, Curve]:
    """Return the seconds of the first point, and the ratios (repeats,) of each point to it."""
    point = {"nodes": NODES, "images": 1, "chunk": None}
    if axis == "chunk":
        point["nodes"] = CHUNKED
    runs = {value: make(**{**point, axis: value}) for value in AXES[axis]}
    reference = runs[AXES[axis][0]]
    firsts, ratios = [], {}
    for value, run in runs.items():
        times = kernel.interleaved({"first": reference, "this": run}, repeats)
        ratios[value] = times["this"] / times["first"]
        firsts.append(np.median(times["first"]))
    return float(np.median(firsts)), ratios


def table(axis: str, curves: dict[tuple[str, str], tuple[float, Curve]]) -> str:
    """Write the medians with their quartiles as Markdown."""
    values = AXES[axis]
    head = ["network", "side", *(f"{value:,}" for value in values), "first, ms"]
    label, rest = LABELS[axis]
    lines = [
        f"Time to that of the first column, by {label} ({rest})",
        "",
        _line(head),
        "|---" * len(head) + "|",
    ]
    for (name, side), (first, ratios) in curves.items():
        cells = [_quartiles(ratios[value]) for value in values]
        lines.append(_line([name, side, *cells, f"{1e3 * first:.1f}"]))
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _quartiles(ratios: np.ndarray) -> str:
    low, middle, high = np.percentile(ratios, (25, 50, 75))
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"


def draw(measured: dict[str, dict[tuple[str, str], tuple[float, Curve]]]) -> Any:
    """Draw a panel for each axis, with bars from quartile to quartile."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    figure = Figure(figsize=(9, 3.9), layout="constrained")
    for axes, (axis, curves) in zip(figure.subplots(1, 3), measured.items(), strict=True):
        label, rest = LABELS[axis]
        for (name, side), (_, ratios) in curves.items():
            low, middle, high = np.percentile(np.array(list(ratios.values())), (25, 50, 75), axis=1)
            marker, style = LINES[name]
            axes.errorbar(
                list(ratios),
                middle,
                (middle - low, high - middle),
                color=COLOURS[side],
                marker=marker,
                linestyle=style,
                markersize=5,
                markerfacecolor=COLOURS[side] if style == "-" else "white",
                capsize=3,
                label=f"{name}, {side}",
            )
        values = AXES[axis]
        if axis != "chunk":
            straight = [value / values[0] for value in values]
            axes.plot(values, straight, color="0.6", linestyle=":", label="in proportion")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel(label)
        axes.set_title(rest, fontsize="medium")
        axes.grid(color="0.9")
    figure.axes[0].set_ylabel("time (first point: 1)")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure


def compile_table() -> str:
    """Time tracing and compiling, from cold, of integrals and of the plain gradient."""
    image = jnp.zeros((28, 28, 1))
    cases = {name: (f, params, image) for name, (f, params, _) in networks().items()}
    big = xattr.targets.logit(efficientnet.network), efficientnet.load(progress=False)
    cases["EfficientNet-Lite0"] = (*big, jnp.zeros((224, 224, 3)))
    head = ["network", "gradient, s", "16 nodes, s", "1,024 nodes, s", "1,024 nodes / gradient"]
    lines = ["Time to trace and compile, from cold", "", _line(head), "|---" * len(head) + "|"]
    for name, (f, params, x) in cases.items():
        methods: list[Callable[..., Any]] = [xattr.gradient]
        for nodes in (16, 1024):
            rule = xattr.quadrature.midpoint(nodes)
            methods.append(functools.partial(xattr.integrated_gradients, quadrature=rule))
        gradient, *integrals = (_compiling(method, f, params, x) for method in methods)
        cells = [f"{seconds:.2f}" for seconds in (gradient, *integrals)]
        lines.append(_line([name, *cells, f"{integrals[-1] / gradient:.2f}"]))
    return "\n".join(lines) + "\n"


def _compiling(method: Callable[..., Any], f: Any, params: Any, x: Any) -> float:
    def attribute(x: Any, params: Any) -> Any:
        return method(f, x, args=(3, params))

    jax.jit(lambda x: x + 1)(x)  # lets JAX set up what it needs once
    jax.clear_caches()
    start = time.perf_counter()
    jax.jit(attribute).lower(x, params).compile()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print the tables and write the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--png", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()
    makers, measured = sides(), {}
    for axis in AXES:
        measured[axis] = {key: curve(make, axis, options.repeats) for key, make in makers.items()}
        print(table(axis, measured[axis]), flush=True)
    print(compile_table(), end="")
    with packages.replacing(options.png) as part:
        draw(measured).savefig(part, dpi=160)
    print(f"\nwritten: {options.png}")


if __name__ == "__main__":
    main()
