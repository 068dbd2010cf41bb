"""Pixels of high gradient outside the object can go ("Counterfactuals", fig. 1)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paper_repro.experiments import maps
from paper_repro.experiments.maps import Scene, computed, free_scene, scene_of
from paper_repro.networks import efficientnet
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, interval

SHARE = 0.1
"""Pixels that are blacked out, as a share of the picture."""
FEWEST = 0.01
"""A photograph counts if this share of it lies inside its boxes, and outside."""
KINDS = ("gradient, outside", "IG, inside", "gradient, inside", "IG, outside", "random, outside")
DRAWN = "camera"


def run(setting: Setting) -> Result:
    """Black out the top pixels of each map, inside or outside the boxes."""
    scene, free = scene_of(setting), free_scene(setting)
    scene = scene.chosen([i for i, each in enumerate(scene.photographs) if _is_usable(each)])
    changes, masks = _changes(scene)
    drawn = free.chosen([[each.name for each in free.photographs].index(DRAWN)])
    shown, cut = _changes(drawn)
    numbers = {
        "photographs": [each.name for each in scene.photographs],
        "share": masks.mean(axis=(2, 3))[0],
        "change": {kind: changes["change"][i] for i, kind in enumerate(KINDS)},
        "class_kept": {kind: changes["kept"][i].mean() for i, kind in enumerate(KINDS)},
        "shown": {
            "before": shown["before"][0],
            **{kind: shown["before"][0] + shown["change"][i, 0] for i, kind in enumerate(KINDS)},
        },
    }
    return Result(
        "Blacking out pixels inside and outside the object",
        {"": _draw(drawn, cut, shown), "changes": _draw_changes(numbers)},
        numbers,
        _claims(numbers, drawn, shown),
        [_table(numbers)],
        [scene.source, _note(len(scene.photographs))],
    )


def _is_usable(photograph: Any) -> bool:
    return bool(FEWEST <= photograph.mask.mean() <= 1 - FEWEST)


def _changes(scene: Scene) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the change of the probability for each kind, and the pixels kept.

    Changes are (kinds, photographs), pixels (kinds, photographs, size, size).
    """
    found = {
        "gradient": maps.maps_of(scene, "gradient"),
        "IG": maps.maps_of(scene, "integrated gradients"),
        "random": maps.maps_of(scene, "random"),
    }
    inside = np.stack([each.mask for each in scene.photographs])
    size = inside[0].size
    # The same number of pixels for every kind, so that changes can be compared.
    counts = [min(int(SHARE * size), m.sum(), size - m.sum()) for m in inside]
    masks = np.stack([_masks(found[k.split(",")[0]], inside, counts, k) for k in KINDS])
    measure = functools.partial(_scores, scene.setting.network)
    scores = computed(scene, "ablation", measure, scene.images, scene.tops, masks.swapaxes(0, 1))
    before = scores["probability"][:, :1]
    change = (scores["probability"][:, 1:] - before).T
    return {"change": change, "kept": scores["kept"][:, 1:].T, "before": before[:, 0]}, masks


def _masks(found: np.ndarray, inside: np.ndarray, counts: list[int], kind: str) -> np.ndarray:
    """Return False for the pixels that go: the top ones of the map inside or outside the boxes."""
    kept = np.ones_like(inside)
    for i, (scores, mask, count) in enumerate(zip(found, inside, counts, strict=True)):
        allowed = mask if kind.endswith("inside") else ~mask
        order = maps.most_relevant(np.where(allowed, scores, -1))
        kept[i].flat[order[:count]] = False
    return kept


def _scores(variant: str, image: Any, label: Any, masks: Any, params: Any) -> dict[str, Any]:
    """Return the probability of the picture and of each masked one, and whether the class stays."""

    def at(mask: Any) -> Any:
        return efficientnet.network(image * mask[..., None], params, variant=variant)

    logits = jax.lax.map(at, jnp.concatenate([jnp.ones_like(masks[:1]), masks]))
    return {
        "probability": jax.nn.softmax(logits)[:, label],
        "kept": jnp.argmax(logits, axis=1) == label,
    }


def _claims(numbers: dict[str, Any], drawn: Scene, shown: dict[str, Any]) -> list[Claim]:
    gradient, integrated = (numbers["change"][kind] for kind in KINDS[:2])
    kept = numbers["class_kept"][KINDS[0]]
    before, after = shown["before"][0], numbers["shown"][KINDS[0]]
    *_, high = interval(integrated - gradient)
    return [
        Claim(
            "fig. 1: without its high-gradient region outside the camera the class stays",
            "stays, .9938 to .9966",
            f"{'stays' if shown['kept'][0, 0] else 'changes'}, {decimal(float(before), 4)} to "
            f"{decimal(float(after), 4)}",
            bool(shown["kept"][0, 0]),
            f"the free photograph {DRAWN!r} ({drawn.names[drawn.tops[0]]}). The paper blacks out "
            "whole regions, left and above; here the top pixels go one by one, which makes a "
            "picture of specks that the network has never seen",
        ),
        Claim(
            "so it is for other photographs",
            "not stated",
            f"the class stays for {100 * kept:.0f} % of them; the probability changes by "
            f"{_points(gradient)}",
            None,
        ),
        Claim(
            "the top pixels of IG inside the object matter more than the top pixels of the "
            "gradient outside",
            "implied",
            f"{_points(integrated)} against {_points(gradient)}; difference "
            f"{_points(integrated - gradient)}",
            bool(high < 0),
            "the same number of pixels in each photograph",
        ),
    ]


def _points(change: np.ndarray) -> str:
    mean, low, high = (100 * value for value in interval(change))
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}] points".replace("-", "−")


def _table(numbers: dict[str, Any]) -> Table:
    rows = [
        [
            kind,
            _points(numbers["change"][kind]),
            f"{100 * np.median(numbers['change'][kind]):+.1f}".replace("-", "−"),
            f"{100 * (numbers['change'][kind] >= 0).mean():.0f} %",
            f"{100 * numbers['class_kept'][kind]:.0f} %",
        ]
        for kind in KINDS
    ]
    head = ["pixels that go", "mean change [95 %]", "median", "does not fall", "class stays"]
    return Table("Change of the probability, in points", head, rows)


def _note(count: int) -> str:
    return (
        f"For each of {count} photographs with boxes the top pixels of a map become black: a tenth "
        "of the picture, or as many as fit both inside the boxes and outside. A photograph counts "
        "if at least 1 % of it lies inside its boxes and 1 % outside. Maps explain the "
        "probability of the predicted class. Random pixels are the control."
    )


def _draw(scene: Scene, masks: np.ndarray, shown: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    photograph = scene.photographs[0]
    figure = Figure(figsize=(10.5, 2.6), layout="constrained")
    axes = figure.subplots(1, 4)
    maps.draw_picture(axes[0], photograph)
    name = scene.names[scene.tops[0]].split(",")[0]
    axes[0].set_title(f"{name}, {decimal(float(shown['before'][0]), 4)}", size=10)
    maps.draw_map(axes[1], maps.maps_of(scene, "gradient")[0], photograph)
    axes[1].set_title("gradient", size=10)
    for ax, i in zip(axes[2:], (0, 1), strict=True):
        ax.imshow(photograph.image * masks[i, 0][..., None])
        maps.outline(ax, photograph)
        score = decimal(float(shown["before"][0] + shown["change"][i, 0]), 4)
        ax.set_title(f"without top pixels of\n{KINDS[i]}: {score}", size=10)
        ax.set(xticks=[], yticks=[])
    return figure


def _draw_changes(numbers: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    ax = figure.subplots()
    values = [numbers["change"][kind] for kind in KINDS]
    ax.boxplot(values, tick_labels=[kind.replace(", ", "\n") for kind in KINDS], whis=(5, 95))
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_ylabel("change of the probability")
    ax.set_title("top pixels of a map blacked out, same number; whiskers from 5 to 95 %", size=10)
    return figure
