"""Compare quadratures on photographs: the error of an attribution map for its cost.

    pip install -e '.[repro]' && python tests/benchmarks/quadratures.py --images FOLDER --out FOLDER

Integrated gradients of EfficientNet-Lite0 (published weights) from the black image, along the
straight line, for the predicted class and three scores. The error of a quadrature is
Σᵢ |Aᵢ − Aᵢ*| / Σᵢ |Aᵢ*|. A* is by a reference that has the nodes of all fixed quadratures and more.
Every photograph has a file of its own in `--out`, so a run that was stopped continues where it was.
The table is written to `--table`.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

import xattr
from paper_repro import demo
from paper_repro.data import packages, photographs
from paper_repro.networks import efficientnet
from xattr import quadrature

FIXED = {
    "Riemann right 64": quadrature.riemann_right(64),
    "midpoint 64": quadrature.midpoint(64),
    "Gauss–Legendre 64": quadrature.gauss_legendre(64),
    "midpoint 32": quadrature.midpoint(32),
    "Gauss–Legendre 32": quadrature.gauss_legendre(32),
}
CONCENTRATED = {f"concentrated {n}": n for n in (28, 60)}
PROBES = 15
SCORES = ("probability", "log-probability", "logit")
BASES = ("midpoint 64", "Gauss–Legendre 64")
RULES = (*CONCENTRATED, *FIXED)
FORMATS = (".jpeg", ".jpg", ".png")


def _both(point: Any, label: Any, params: Any) -> Any:
    """Return log-probability and logit; the gradient of the probability follows from the first."""
    logits = efficientnet.network(point, params)
    return jax.nn.log_softmax(logits)[label], logits[label]


_logits = jax.jit(efficientnet.network)


@jax.jit
def _step(totals: Any, nodes: Any, weights: Any, x: Any, label: Any, params: Any) -> Any:
    """Add a chunk: weights (quadratures, nodes) to totals (scores, quadratures, *x)."""

    def at(alpha: Any) -> Any:
        (log_probability, _), pull = jax.vjp(lambda y: _both(y, label, params), alpha * x)
        (first,), (second,) = pull((1.0, 0.0)), pull((0.0, 1.0))
        return jnp.stack([jnp.exp(log_probability) * first, first, second]) * x[None]

    maps = jnp.einsum("rn,ns...->sr...", weights, jax.vmap(at)(nodes), precision="highest")
    return totals + maps


def reference_rule(extra: int) -> quadrature.Quadrature:
    """Return the quadrature of all nodes of the fixed ones and of `extra` Gauss–Legendre nodes.

    The weight of a node is the width of the part of [0, 1] that is nearer to it than to others.
    """
    rules = [*FIXED.values(), quadrature.gauss_legendre(extra)]
    nodes = np.unique(np.concatenate([rule.nodes for rule in rules]))
    edges = np.concatenate([[0], (nodes[1:] + nodes[:-1]) / 2, [1]])
    return quadrature.Quadrature(nodes, np.diff(edges))


def fixed_maps(rules: dict[str, Any], x: Any, label: Any, params: Any) -> np.ndarray:
    """Return the maps (scores, quadratures, *x); a shared node is evaluated once."""
    nodes = np.unique(np.concatenate([rule.nodes for rule in rules.values()]))
    nodes = np.pad(nodes, (0, -len(nodes) % demo.CHUNK), mode="edge")
    weights = np.zeros((len(rules), len(nodes)))
    for row, rule in zip(weights, rules.values(), strict=True):
        row[np.searchsorted(nodes, rule.nodes)] = rule.weights
    totals = jnp.zeros((len(SCORES), len(rules), *x.shape))
    for start in range(0, len(nodes), demo.CHUNK):
        part = slice(start, start + demo.CHUNK)
        chunk = (jnp.asarray(a, jnp.float32) for a in (nodes[part], weights[:, part]))
        totals = jax.block_until_ready(_step(totals, *chunk, x, label, params))
    return np.asarray(totals)


def concentrated_map(score: str, n: int, x: Any, args: Any) -> np.ndarray:
    """Return one map as the library computes it."""
    f = demo.SCORES[score](efficientnet.network)
    path = xattr.paths.aumann_shapley(x)
    rule = quadrature.concentrated(f, path, n, probes=PROBES, args=args)
    return np.asarray(
        xattr.path_integral(f, path, quadrature=rule, args=args, chunk_size=demo.CHUNK)
    )


@functools.cache
def _programs() -> tuple[Any, Any]:
    value = demo.SCORES["probability"](efficientnet.network)
    axes = (0, None, None)
    forward = jax.jit(jax.vmap(value, axes))
    slope = lambda x, *args: xattr.gradient(value, x, args=args)
    return forward, jax.jit(jax.vmap(slope, axes))


def cost_ratio(x: Any, label: Any, params: Any, repeats: int = 7) -> float:
    """Return the time of a forward evaluation over that of a gradient, run beside each other."""
    points = jnp.linspace(0.1, 1, demo.CHUNK)[:, None, None, None] * x[None]
    ratios = []
    for repeat in range(repeats + 1):
        seconds = []
        for program in _programs():
            start = time.perf_counter()
            jax.block_until_ready(program(points, label, params))
            seconds.append(time.perf_counter() - start)
        ratios += [seconds[0] / seconds[1]] if repeat else []  # the first repeat may compile
    return float(np.median(ratios))


def measure(path: Path, extra: int, params: Any) -> dict[str, Any]:
    """Return the errors and gaps of all quadratures for one photograph."""
    x = jnp.asarray(photographs.center_crop(photographs.photograph(path)))
    label = jnp.asarray(int(np.argmax(_logits(x, params))))
    args = (label, params)
    rules = {"reference": reference_rule(extra), **FIXED}
    maps = fixed_maps(rules, x, label, params)
    result: dict[str, Any] = {
        "setting": setting(extra),
        "label": int(label),
    }
    for score, found in zip(SCORES, maps, strict=True):
        exact, *others = found
        by_rule = dict(zip(FIXED, others, strict=True))
        for name, n in CONCENTRATED.items():
            by_rule[name] = concentrated_map(score, n, x, args)
        f = demo.SCORES[score](lambda point, _: _logits(point, params))
        change = float(f(x, label, None)) - float(f(jnp.zeros_like(x), label, None))
        result[score] = {
            name: {
                "error": float(np.abs(a - exact).sum() / np.abs(exact).sum()),
                "gap": abs(float(a.sum()) - change) / abs(change),
            }
            for name, a in {**by_rule, "reference": exact}.items()
        }
    return result


def setting(extra: int) -> dict[str, Any]:
    """Return what the numbers of one photograph depend on."""
    return {"extra": extra, "probes": PROBES, "rules": list(RULES)}


def kept(path: Path, out: Path, extra: int, params: Any) -> dict[str, Any]:
    """Return the result for one photograph, from its file or measured and written there."""
    file = out / f"{path.stem}.json"
    if file.exists():
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if result["setting"] == setting(extra):
            return result
    result = measure(path, extra, params)
    with packages.replacing(file) as part:
        part.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def report(results: list[dict[str, Any]], extra: int, ratio: float) -> str:
    """Return the table in Markdown; `ratio` is the cost of f over that of its gradient."""
    nodes = len(reference_rule(extra).nodes)
    lines = [
        "# Quadratures: the error of a map for its cost",
        "",
        "    python tests/benchmarks/quadratures.py --images FOLDER --out FOLDER "
        f"--count {len(results)} --extra {extra}",
        "",
        f"Integrated gradients of EfficientNet-Lite0 for {len(results)} photographs of ImageNet's "
        "validation set (the first of the folder by name), along the straight line from black, for "
        f"the predicted class. Run on two cores of an x86-64 CPU, JAX {jax.__version__}.",
        "",
        f"The error is Σᵢ |Aᵢ − Aᵢ*| / Σᵢ |Aᵢ*|. The reference A* takes {nodes} nodes: those of "
        f"all fixed quadratures and {extra} of Gauss–Legendre, weighted by their cells. It shares "
        "nodes with the fixed quadratures and not with the concentrated ones, which makes these "
        "look a little worse than they are. The gap is |Σᵢ Aᵢ − Δf| / |Δf|. Both are given as "
        "median [quartiles] over the photographs. The cost counts one gradient for each node and, "
        f"for concentrated quadratures, {PROBES + 1} forward evaluations at {ratio:.2f} gradients "
        "each (measured side by side). The ratio is the median over the photographs of one error "
        "over the other; *lower* says on how many photographs the error is lower.",
    ]
    for score in SCORES:
        lines += ["", f"## {score.capitalize()}", "", *_table(results, score, ratio, extra)]
    return "\n".join(lines) + "\n"


def _table(results: list[dict[str, Any]], score: str, ratio: float, extra: int) -> list[str]:
    def column(name: str, what: str) -> np.ndarray:
        return np.array([result[score][name][what] for result in results])

    head = ["quadrature", "cost", "error, %", "gap, %"]
    for base in BASES:
        head += [f"ratio to {base}", "lower"]
    rows = [head, ["---"] * len(head)]
    for name in RULES:
        nodes, probes = int(name.split()[-1]), (PROBES + 1) * (name in CONCENTRATED)
        errors = column(name, "error")
        row = [name, f"{nodes + ratio * probes:.1f}", _spread(errors), _spread(column(name, "gap"))]
        for base in BASES:
            others = column(base, "error")
            same = name == base
            row += [f"{np.median(errors / others):.2f}"]
            row += ["" if same else f"{np.sum(errors < others)} of {len(results)}"]
        rows.append(row)
    gap = _spread(column("reference", "gap"))
    rows.append(["reference", str(len(reference_rule(extra).nodes)), "", gap, *[""] * 4])
    return [f"| {' | '.join(row)} |" for row in rows]


def _spread(values: np.ndarray) -> str:
    low, middle, high = np.percentile(100 * values, (25, 50, 75))
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    """Measure, photograph by photograph, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--out", type=Path, required=True, help="where each one's numbers are kept")
    parser.add_argument("--count", type=int, default=30, help="of the photographs")
    parser.add_argument("--extra", type=int, default=96, help="nodes of the reference")
    parser.add_argument("--table", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    found = [path for path in options.images.iterdir() if path.suffix.lower() in FORMATS]
    if len(found) < options.count:
        parser.error(f"--images: {len(found)} photographs there, fewer than --count")
    params = efficientnet.load()
    results = [
        kept(path, options.out, options.extra, params)
        for path in tqdm.tqdm(sorted(found)[: options.count], unit="photograph")
    ]
    x = jnp.asarray(photographs.center_crop(photographs.photograph(sorted(found)[0])))
    ratio = cost_ratio(x, jnp.asarray(results[0]["label"]), params)
    with packages.replacing(options.table) as part:
        part.write_text(report(results, options.extra, ratio), encoding="utf-8")
    print(f"written: {options.table}")


if __name__ == "__main__":
    main()
