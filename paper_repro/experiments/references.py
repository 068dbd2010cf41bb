"""IG and deep Taylor with several reference points ("Unreliability of saliency", fig. 1)."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.demo import BASELINES
from paper_repro.experiments import maps
from paper_repro.experiments.maps import Scene, computed, free_scene, scene_of
from paper_repro.networks import efficientnet
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal
from xattr import metrics

COUNT = 30
STARTS = ("black", "mean", "blur", "noise")
OTHER = "another photograph"
ROOTS = ("deep Taylor, LRP root", "deep Taylor, PA root")
NAMES = (*(f"IG from {start}" for start in (*STARTS, OTHER)), *ROOTS)
DRAWN = "coffee"
ALIKE = 0.9
"""Maps whose rank correlation is below this diverge."""


def run(setting: Setting) -> Result:
    """Compare the maps of every two reference points."""
    whole, free = scene_of(setting), free_scene(setting)
    scene = whole.chosen(range(min(2 if setting.quick else COUNT, len(whole.photographs))))
    drawn = free.chosen([[each.name for each in free.photographs].index(DRAWN)])
    # The program that fits patterns compiles for most of a minute.
    patterns = None if setting.quick else _patterns(whole)
    found = _maps(scene, whole, patterns)
    likeness = {
        "pixel scores": _likeness(maps.pixel_scores(found)),
        "signed sums": _likeness(found.sum(axis=-1)),
    }
    numbers = {
        "photographs": [each.name for each in scene.photographs],
        "fitted_on": len(whole.photographs),
        "methods": NAMES[: len(found)],
        "spearman": likeness,
    }
    return Result(
        "Maps for several reference points",
        {
            "": _draw(drawn, _maps(drawn, whole, patterns)),
            "correlations": _draw_matrices(likeness),
        },
        numbers,
        _claims(likeness),
        [_table(name, matrix) for name, matrix in likeness.items()],
        [scene.source, *_notes(len(whole.photographs))],
    )


def _patterns(scene: Scene) -> dict[str, jax.Array]:
    """Fit the patterns on all photographs; those of one class serve for every other."""
    f = xattr.targets.logit(functools.partial(efficientnet.network, variant=scene.setting.network))
    images = scene.images
    batches = [images[i : i + maps.BATCH] for i in range(0, len(images), maps.BATCH)]
    return xattr.fit_patterns(
        f,
        batches,
        args=(0, scene.params),
        progress=lambda work: shown(work, "patterns", scene.setting.progress),
    )


def _maps(scene: Scene, others: Scene, patterns: dict[str, jax.Array] | None) -> np.ndarray:
    """Return the maps of every photograph and reference, (references, photographs, …, 3)."""
    integrated = _integrated(scene, _references(scene, others))
    return np.concatenate([integrated, *_relevance(scene, patterns)])


def _references(scene: Scene, others: Scene) -> np.ndarray:
    """Return the reference points of IG, (references, photographs, size, size, 3)."""
    seed = scene.setting.seed
    found = [[BASELINES[start](image, seed) for image in scene.images] for start in STARTS]
    draw, pool = np.random.default_rng(seed), others.photographs
    strangers = [[p.image for p in pool if p.name != each.name] for each in scene.photographs]
    found.append([images[draw.integers(len(images))] for images in strangers])
    return np.array(found, np.float32)


def _integrated(scene: Scene, references: np.ndarray) -> np.ndarray:
    """Integrate from every reference in one program."""
    count = len(references)
    function = functools.partial(_from, scene.setting.network)
    images, tops = np.concatenate([scene.images] * count), np.concatenate([scene.tops] * count)
    starts = references.reshape(images.shape)
    found: np.ndarray = computed(scene, "IG of references", function, images, starts, tops)
    return found.reshape(references.shape)


def _from(variant: str, image: Any, start: Any, label: Any, params: Any) -> Any:
    it = maps.explained("integrated gradients", variant, image, label, jax.random.key(0), params)
    return maps.integrated(it, start)


def _relevance(scene: Scene, patterns: dict[str, jax.Array] | None) -> Iterator[np.ndarray]:
    """Yield the maps of the roots of deep Taylor, with a leading axis of one."""
    f = xattr.targets.logit(functools.partial(efficientnet.network, variant=scene.setting.network))
    z_rule = xattr.composites.every_layer(xattr.rules.zero())
    methods = [functools.partial(xattr.lrp, f, composite=z_rule, bias="include")]
    if patterns is not None:
        methods.append(functools.partial(xattr.pattern_attribution, f, patterns=patterns))
    for method in methods:
        pairs = zip(scene.images, scene.tops, strict=True)
        work = shown(list(pairs), "deep Taylor", scene.setting.progress)
        yield np.array([[method(x=jnp.array(x), args=(top, scene.params)) for x, top in work]])


def _likeness(found: np.ndarray) -> np.ndarray:
    """Return the mean rank correlation of every two references, (references, references)."""
    flat = jnp.array(found.reshape(*found.shape[:2], -1))
    pair = jax.jit(jax.vmap(metrics.spearman))
    return np.array([[float(pair(a, b).mean()) for b in flat] for a in flat])


def _claims(likeness: dict[str, np.ndarray]) -> list[Claim]:
    scores = likeness["pixel scores"]
    starts = len(STARTS) + 1
    black = scores[0, 1:starts]
    claims = [
        Claim(
            "fig. 1: another reference point of IG makes the map diverge",
            "by eye",
            "rank correlation with IG from black: "
            + ", ".join(
                f"{start} {decimal(float(value))}"
                for start, value in zip((*STARTS[1:], OTHER), black, strict=True)
            ),
            bool(black.max() < ALIKE),
            f"below {decimal(ALIKE, 1)} counts as diverging; black pixels of the photograph get 0 "
            "from black alone",
        ),
    ]
    if len(scores) < len(NAMES):
        return claims
    roots = float(scores[starts, starts + 1])
    return [
        *claims,
        Claim(
            "fig. 1: another root point of deep Taylor makes the map diverge",
            "by eye",
            f"rank correlation of the LRP root and PatternAttribution's root {decimal(roots)}",
            bool(roots < ALIKE),
            "the paper's network is VGG-16",
        ),
    ]


def _table(name: str, matrix: np.ndarray) -> Table:
    rows = [
        [method, *(decimal(float(value)) for value in row)]
        for method, row in zip(NAMES, matrix, strict=False)
    ]
    return Table(f"Mean rank correlation of maps, {name}", ["", *NAMES[: len(matrix)]], rows)


def _notes(fitted: int) -> list[str]:
    return [
        "IG explains the probability, from: black; the mean colour of the photograph; the "
        "photograph blurred with a deviation of a tenth of its side; uniform noise; another of the "
        "photographs, drawn at random. Deep Taylor explains the logit. With the LRP root it is the "
        "z-rule with the bias in the denominator, as in the authors' code; without the bias it "
        "overflows in float32 after 49 layers. With PatternAttribution's root its patterns "
        f"(estimator for ReLUs) are fitted on {fitted} photographs.",
        "A pixel's score is Σ|A| over the colours, a signed sum ΣA. Correlations are Spearman's.",
    ]


def _draw(scene: Scene, found: np.ndarray) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.4, 5.2), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    maps.draw_picture(axes[0], scene.photographs[0])
    axes[0].set_title(scene.names[scene.tops[0]].split(",")[0], size=10)
    for ax, name, attributions in zip(axes[1:], NAMES, found[:, 0], strict=False):
        maps.draw_map(ax, maps.pixel_scores(attributions), scene.photographs[0])
        ax.set_title(name, size=10)
    return figure


def _draw_matrices(likeness: dict[str, np.ndarray]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (name, matrix) in zip(axes, likeness.items(), strict=True):
        ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                colour = "white" if abs(value) > 0.7 else "black"
                ax.text(j, i, decimal(float(value), 2), ha="center", va="center", color=colour)
        names = NAMES[: len(matrix)]
        ax.set_xticks(range(len(names)), names, rotation=40, ha="right", size=9)
        ax.set_yticks(range(len(names)), names, size=9)
        ax.set_title(f"rank correlation, {name}", size=10)
    return figure
