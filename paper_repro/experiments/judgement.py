"""Not an experiment: measures every method on one classifier, for `conundrum`.

What is measured of a method goes to the cache folder when the method is done, so that an
interrupted run goes on there.
"""

import functools
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data.packages import cache_dir, replacing
from paper_repro.experiments import methods
from paper_repro.experiments.maps import digest_of_library
from paper_repro.experiments.methods import METHODS, Subject
from paper_repro.report.progress import shown
from xattr import evaluation, metrics

POINTS = 21
"""Points of the curves of AOPC, insertion and deletion."""
DRAWS = 100
"""Sets of features left out, for infidelity."""
RADIUS, MOVES = 0.02, 3
"""Of max-sensitivity: the largest change of an element of x, and how many changes are tried."""
SECONDS = 3
"""Runs that are timed, each beside a gradient."""

MEASURED = (
    "top layer",
    "all layers",
    "AOPC",
    "insertion",
    "deletion",
    "infidelity",
    "max-sensitivity",
    "localization",
    "random labels",
)


def judged(it: Subject, *, quick: bool, seed: int, progress: bool) -> dict[str, dict[str, Any]]:
    """Return for each method its measures: name -> measure -> (inputs,), and "seconds"."""
    names = methods.methods_for(it, quick=quick)
    gradient = methods.explainer(it, "gradient")
    return {name: _stored(it, name, gradient, seed) for name in shown(names, it.name, progress)}


def _stored(
    it: Subject, name: str, gradient: Callable[..., jax.Array], seed: int
) -> dict[str, Any]:
    digest = hashlib.blake2b(digest_of_library(), digest_size=10)
    for module in (__file__, methods.__file__):
        digest.update(Path(module).read_bytes())
    digest.update(repr((it.name, name, seed)).encode())
    digest.update(repr((it.layer, it.cells, it.bounds, it.start, [*it.random])).encode())
    given = (it.inputs, it.labels, it.params, it.groups, it.random, it.patterns)
    for leaf in jax.tree.leaves((*given, it.background, it.objects)):
        digest.update(np.asarray(leaf).tobytes())
    path = cache_dir() / "computed" / f"conundrum-{digest.hexdigest()}.npz"
    if not path.is_file():
        found = _judge(it, name, gradient, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **found)
    with np.load(path) as stored:
        return dict(stored)


def _judge(it: Subject, name: str, gradient: Callable[..., jax.Array], seed: int) -> dict[str, Any]:
    """Explain every input by the trained and the random networks, and measure the maps."""
    explain = methods.explainer(it, name)
    keys = jax.random.split(jax.random.key(seed), len(it.inputs))

    def maps_of(params: Any, inputs: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                np.asarray(explain(x, label, key, params, it.patterns))
                for x, label, key in zip(inputs, it.labels, keys, strict=True)
            ]
        )

    maps = maps_of(it.params, it.inputs)
    scores = methods.pixel_scores(name, maps)
    found: dict[str, Any] = {}
    for what, params in it.random.items():
        others = methods.pixel_scores(name, maps_of(params, it.inputs))
        found[what] = np.array(
            [_alike(*each) for each in zip(scores, others, it.inputs, strict=True)]
        )
    found |= _faithfulness(it, name, maps, scores)
    found["max-sensitivity"] = _sensitivity(it, maps, maps_of, seed)
    if it.objects is not None:
        found["localization"] = np.array(
            [
                float(evaluation.relevance_mass(s, m))
                for s, m in zip(scores, it.objects, strict=True)
            ]
        )
    first = (it.inputs[0], it.labels[0], keys[0], it.params, it.patterns)
    found["seconds"] = _seconds(lambda: explain(*first), lambda: gradient(*first))
    return found


def _alike(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> float:
    """Return ρ of absolute scores where x differs from the baseline (the note's correlation)."""
    seen = jnp.asarray(np.abs(x).sum(-1), jnp.float32)
    return float(metrics.spearman_nonzero(jnp.abs(a), jnp.abs(b), seen))


def _faithfulness(
    it: Subject, name: str, maps: np.ndarray, scores: np.ndarray
) -> dict[str, np.ndarray]:
    f = xattr.targets.probability(it.model)
    counts = np.rint(np.linspace(0, scores[0].size, POINTS)).astype(np.int32)
    values: dict[str, list[float]] = {}
    for x, label, found, order in zip(it.inputs, it.labels, maps, scores, strict=True):
        options: Any = {"counts": counts, "args": (label, it.params), "chunk_size": 8}
        # Divided by what x adds to the baseline, an input that adds next to nothing, or less than
        # nothing, would decide over all others.
        area = options | {"normalize": False}
        curves = {
            "AOPC": evaluation.aopc(f, order, x, **options),
            "insertion": evaluation.insertion(f, order, x, **area),
            "deletion": evaluation.deletion(f, order, x, **area),
        }
        for title, value in curves.items():
            values.setdefault(title, []).append(float(value))
        values.setdefault("infidelity", []).append(_infidelity(it, name, found, x, label))
    return {title: np.array(each) for title, each in values.items()}


def _infidelity(it: Subject, name: str, found: np.ndarray, x: np.ndarray, label: Any) -> float:
    """Return min_β E(β Σ_S A − (f(x) − f(x without S)))² / E(f(x) − f(x without S))².

    S are random sets of features, each left out with chance ½, and f is the logit. The measure is
    a quadratic function of β, so three values of it give its minimum. Maps that are slopes are
    multiplied by x.
    """
    product = found * x if METHODS[name].meaning == "slope" else np.broadcast_to(found, x.shape)
    of_groups = np.bincount(it.groups.ravel(), product.sum(-1).ravel())
    # Its size would decide whether squares stay within float32.
    of_groups = (of_groups / (np.abs(of_groups).max() or 1.0)).astype(np.float32)
    # f does not depend on the map: under vmap its values are computed once for all three.
    run = jax.vmap(_of_groups, (None, 0, None))
    scaled = jnp.stack([0 * of_groups, of_groups, -of_groups])
    args = (jnp.asarray(it.groups), x, label, it.params)
    zero, plus, minus = np.asarray(run(it.model, scaled, args), float)
    square, both = (plus + minus) / 2 - zero, (minus - plus) / 4
    return float((zero - both**2 / square) / zero) if square > 0 else 1.0


def _of_groups(model: Any, of_groups: jax.Array, args: Any) -> jax.Array:
    present = jnp.ones_like(of_groups)
    return evaluation.infidelity(
        functools.partial(_with_groups, model),
        of_groups,
        present,
        _some_groups,
        jax.random.key(0),
        reference=jnp.zeros_like(present),
        num_samples=DRAWS,
        args=args,
        chunk_size=8,
    )


def _with_groups(
    model: Any, present: jax.Array, groups: Any, x: Any, label: Any, params: Any
) -> jax.Array:
    kept = present[groups]
    return model(x * kept.reshape(kept.shape + (1,) * (x.ndim - kept.ndim)), params)[label]


def _some_groups(key: Any, present: jax.Array) -> jax.Array:
    return jax.random.bernoulli(key, 0.5, present.shape).astype(present.dtype)


def _sensitivity(
    it: Subject, maps: np.ndarray, maps_of: Callable[..., np.ndarray], seed: int
) -> np.ndarray:
    """Return max |Φ(x + δ) − Φ(x)| / |Φ(x)| over δ, as `xattr.evaluation.max_sensitivity`.

    That would trace every method a second time. Here the compiled method runs on moved inputs. The
    radius is a share of the range of x.
    """
    random = np.random.default_rng(seed)
    radius = RADIUS * np.ptp(it.inputs)
    largest = np.zeros(len(maps))
    for _ in range(MOVES):
        moved = it.inputs + random.uniform(-radius, radius, it.inputs.shape).astype(np.float32)
        apart = _norms(maps_of(it.params, moved) - maps)
        with np.errstate(divide="ignore", invalid="ignore"):  # of a map of zeros
            largest = np.maximum(largest, apart / _norms(maps))
    return largest


def _norms(maps: np.ndarray) -> np.ndarray:
    return np.linalg.norm(maps.reshape(len(maps), -1).astype(float), axis=1)


def _seconds(ours: Callable[[], Any], gradient: Callable[[], Any]) -> np.ndarray:
    """Return the times of a method and of the gradient, side by side: (2, runs)."""
    times: list[list[float]] = [[], []]
    for _ in range(SECONDS):
        for run, taken in zip((ours, gradient), times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(run())
            taken.append(time.perf_counter() - start)
    return np.array(times)
