"""Gradients at scaled-down photographs ("Counterfactuals", fig. 3 and the animation)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.experiments import maps
from paper_repro.experiments.maps import Scene, computed, free_scene, scene_of
from paper_repro.networks import efficientnet
from paper_repro.report.results import Claim, Result, Setting, Table, decimal

SHOWN = np.array([0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0], np.float32)
"""The values of α in the paper's figure."""
ALPHAS = np.linspace(0.02, 1, 50, dtype=np.float32)
FRAMES = np.r_[np.linspace(0.02, 0.2, 10), np.linspace(0.28, 1, 10)].astype(np.float32)
COUNT = 30
ANIMATED = "camera"
"""The free photograph that is most like the paper's reflex camera."""


def run(setting: Setting) -> Result:
    """Draw the interior gradients of free photographs, and measure those of many."""
    scene, free = scene_of(setting), free_scene(setting)
    free = free.chosen(range(3)) if setting.quick else free
    scene = scene.chosen(range(min(COUNT, len(scene.photographs))))
    shown = _along(free, "interior maps", SHOWN)
    values = computed(
        scene,
        "interior gradients",
        functools.partial(_measured, setting.network),
        scene.images,
        scene.tops,
        np.stack([each.mask for each in scene.photographs]),
    )
    boxed = [bool(each.mask.any()) for each in scene.photographs]
    numbers = {
        "photographs": [each.name for each in scene.photographs],
        "alpha": ALPHAS,
        "mean_score": values["mean"].mean(axis=0),
        "inside": values["inside"][boxed].mean(axis=0),
        "largest_at": ALPHAS[values["mean"].argmax(axis=1)],
        "ratio": values["mean"].max(axis=1) / values["mean"][:, -1],
    }
    return Result(
        "Interior gradients",
        {"": _draw_maps(free, shown), "trend": _draw_trend(values, boxed)},
        numbers,
        _claims(numbers),
        [_table(numbers)],
        [scene.source, *_notes(len(scene.photographs))],
        {"animation": _frames(setting)},
    )


def _along(scene: Scene, name: str, alphas: np.ndarray) -> np.ndarray:
    """Return the pixel scores at each α: (photographs, alphas, size, size)."""
    function = functools.partial(_pixels, scene.setting.network, tuple(alphas.tolist()))
    found: np.ndarray = computed(scene, name, function, scene.images, scene.tops)
    return found


def _pixels(variant: str, alphas: tuple[float, ...], image: Any, label: Any, params: Any) -> Any:
    """Return the pixel scores at all α, one gradient after the other."""
    f = xattr.targets.probability(functools.partial(efficientnet.network, variant=variant))

    def at(alpha: Any) -> Any:
        found = xattr.interior_gradients(f, image, alphas=alpha[None], args=(label, params))
        return maps.pixel_scores(found[0])

    return jax.lax.map(at, jnp.array(alphas))


def _measured(variant: str, image: Any, label: Any, mask: Any, params: Any) -> dict[str, Any]:
    """Return the mean pixel score and the share inside the boxes at each α."""
    f = xattr.targets.probability(functools.partial(efficientnet.network, variant=variant))

    def at(alpha: Any) -> dict[str, Any]:
        found = xattr.interior_gradients(f, image, alphas=alpha[None], args=(label, params))
        scores = maps.pixel_scores(found[0])
        return {"mean": scores.mean(), "inside": jnp.sum(scores * mask) / scores.sum()}

    measures: dict[str, Any] = jax.lax.map(at, ALPHAS)
    return measures


def _claims(numbers: dict[str, Any]) -> list[Claim]:
    ratio, mean, inside = numbers["ratio"], numbers["mean_score"], numbers["inside"]
    low, high = mean[ALPHAS <= 0.2 + 1e-6].max(), mean[-1]
    best = int(np.argmax(inside))
    return [
        Claim(
            "fig. 3: the mean pixel score is much larger at low α than at the photograph",
            "significantly larger",
            f"{low / high:.1f} times, in the mean over photographs; at its largest "
            f"{ratio.min():.1f} to {ratio.max():.0f} times (median {np.median(ratio):.0f})",
            bool(low > 3 * high),
        ),
        Claim(
            "fig. 3: it is nearly zero at high α",
            "nearly zero",
            f"at α = 1 {100 * high / mean.max():.0f} % of its largest mean",
            bool(high < 0.1 * mean.max()),
            "below a tenth counts as nearly zero; the paper shows one photograph",
        ),
        Claim(
            "fig. 3: maps at lower α show the important features better",
            "sharper, by eye",
            f"share inside the boxes: largest at α = {decimal(float(ALPHAS[best]), 2)} "
            f"({100 * inside[best]:.0f} %), at α = .1 {100 * inside[4]:.0f} %, at α = 1 "
            f"{100 * inside[-1]:.0f} %",
            bool(inside[ALPHAS <= 0.2 + 1e-6].max() > inside[-1]),
            "boxes stand in for the eye",
        ),
    ]


def _table(numbers: dict[str, Any]) -> Table:
    chosen = [int(np.abs(ALPHAS - alpha).argmin()) for alpha in SHOWN]
    head = ["", *(f"α = {decimal(float(ALPHAS[i]), 2)}" for i in chosen)]
    rows = [
        ["mean pixel score, 10⁻⁴", *(f"{1e4 * numbers['mean_score'][i]:.2f}" for i in chosen)],
        ["share inside the boxes", *(decimal(float(numbers["inside"][i]), 2) for i in chosen)],
    ]
    return Table("Means over the photographs", head, rows)


def _notes(count: int) -> list[str]:
    return [
        f"The numbers are of the first {count} photographs, the maps of free ones. A map is "
        "P(α img), the sum over the colours of the absolute gradient of the probability (eq. 1 "
        "and 4). Its picture is scaled as the authors' code does: it shows the largest scores, "
        "which make 30 % of the sum; those that make the first .1 % are white. Each map has a "
        "scale of its own.",
    ]


def _draw_maps(scene: Scene, shown: np.ndarray) -> Any:
    from matplotlib.figure import Figure

    count = len(scene.photographs)
    figure = Figure(figsize=(10, 0.95 * count + 0.3), layout="constrained")
    axes = figure.subplots(count, len(SHOWN) + 1, squeeze=False)
    for row, each, found in zip(axes, scene.photographs, shown, strict=True):
        row[0].imshow(each.image)
        for ax, scores in zip(row[1:], found, strict=True):
            ax.imshow(maps.scaled(scores), cmap="gray", vmin=0, vmax=1)
        for ax in row:
            ax.set(xticks=[], yticks=[])
    for ax, alpha in zip(axes[0][1:], SHOWN, strict=True):
        ax.set_title(f"α = {decimal(float(alpha), 2)}", size=9)
    return figure


def _draw_trend(values: dict[str, np.ndarray], boxed: list[bool]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    scaled = values["mean"] / values["mean"].max(axis=1, keepdims=True)
    for ax, curves in ((left, scaled), (right, values["inside"][boxed])):
        ax.plot(ALPHAS, curves.T, color="tab:blue", alpha=0.3, linewidth=0.8)
        ax.plot(ALPHAS, curves.mean(axis=0), color="black", label="mean")
        ax.set(xlabel="α", xlim=(0, 1))
        ax.legend()
    left.set_title("mean pixel score, of its largest", size=10)
    right.set_title("share of the pixel scores inside the boxes", size=10)
    return figure


def _frames(setting: Setting) -> list[Any]:
    """Draw α times one photograph beside its map, a frame for each α."""
    from matplotlib.figure import Figure

    free = free_scene(setting)
    place = [each.name for each in free.photographs].index(ANIMATED)
    scene, alphas = free.chosen([place]), FRAMES[::6] if setting.quick else FRAMES
    frames = []
    image = scene.photographs[0].image
    for alpha, scores in zip(alphas, _along(scene, "animation", alphas)[0], strict=True):
        figure = Figure(figsize=(5, 2.7), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.imshow(alpha * image, vmin=0, vmax=1)
        right.imshow(maps.scaled(scores), cmap="gray", vmin=0, vmax=1)
        left.set_title(f"α = {decimal(float(alpha), 2)}", size=10)
        right.set_title("pixel scores", size=10)
        for ax in (left, right):
            ax.set(xticks=[], yticks=[])
        frames.append(figure)
    return frames
