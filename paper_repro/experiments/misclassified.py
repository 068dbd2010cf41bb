"""Maps for the predicted and the true class of a mistake ("Counterfactuals", fig. 6)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paper_repro.experiments import maps
from paper_repro.experiments.maps import Scene, scene_of
from paper_repro.report.results import Claim, Result, Setting, Table, UsageError, decimal
from xattr import metrics

BEST = 5
METHOD = "integrated gradients"


def run(setting: Setting) -> Result:
    """Compare the two maps of each photograph whose label is not among the top classes."""
    scene = scene_of(setting, quick=25)
    ranks = _ranks(scene)
    beyond = BEST if (ranks >= BEST).any() else 1
    scene, ranks = scene.chosen(np.flatnonzero(ranks >= beyond)), ranks[ranks >= beyond]
    if not len(ranks):
        raise UsageError(
            f"--imagenet-dir {setting.imagenet_dir}: the network classifies every photograph "
            "rightly; pass a folder with more of them"
        )
    labels = np.array([each.label for each in scene.photographs])
    predicted, true = (maps.maps_of(scene, METHOD, which) for which in (scene.tops, labels))
    likeness = np.asarray(jax.vmap(metrics.spearman)(jnp.array(predicted), jnp.array(true)))
    linear = np.asarray(jax.vmap(metrics.pearson)(jnp.array(predicted), jnp.array(true)))
    chances = np.asarray(jax.nn.softmax(scene.logits, axis=1))
    rows = np.arange(len(labels))
    numbers = {
        "beyond_top": beyond,
        "photographs": [each.name for each in scene.photographs],
        "predicted": [scene.names[top] for top in scene.tops],
        "true": [scene.names[label] for label in labels],
        "probability": {"predicted": chances[rows, scene.tops], "true": chances[rows, labels]},
        "rank": ranks + 1,
        "spearman": likeness,
        "pearson": linear,
    }
    kinds = (int(np.argmin(linear)), int(np.argmax(linear)))
    return Result(
        "Mistakes: maps for the predicted and for the true class",
        {"": _draw(scene, predicted, true, numbers, kinds)},
        numbers,
        _claims(numbers, kinds),
        [_table(numbers)],
        [_note(beyond, len(labels))],
    )


def _ranks(scene: Scene) -> np.ndarray:
    """Return how many classes the network finds more likely than the label."""
    labels = np.array([each.label for each in scene.photographs])
    own = scene.logits[np.arange(len(labels)), labels]
    return (scene.logits > own[:, None]).sum(axis=1)


def _claims(numbers: dict[str, Any], kinds: tuple[int, int]) -> list[Claim]:
    linear = numbers["pearson"]
    names = [f"{numbers['predicted'][i]} for {numbers['true'][i]}" for i in kinds]
    return [
        Claim(
            "fig. 6, first kind: two objects, and a map for each",
            "maps differ",
            f"smallest correlation {decimal(float(linear[kinds[0]]))} ({names[0]})",
            None,
            "the paper shows two photographs by eye; here the correlation of the maps decides",
        ),
        Claim(
            "fig. 6, second kind: one object, and the same map for both classes",
            "maps largely similar",
            f"largest correlation {decimal(float(linear[kinds[1]]))} ({names[1]})",
            None,
        ),
        Claim(
            "the second kind is the common one",
            "not stated",
            f"correlation above .5 for {(linear > 0.5).sum()} of {len(linear)}, median "
            f"{decimal(float(np.median(linear)))}",
            None,
            "two classes share most of the network, and a pixel's score ignores signs",
        ),
    ]


def _table(numbers: dict[str, Any]) -> Table:
    chances = numbers["probability"]
    rows = [
        [
            name,
            f"{numbers['predicted'][i]}, {decimal(float(chances['predicted'][i]))}",
            f"{numbers['true'][i]}, {decimal(float(chances['true'][i]), 4)}",
            str(numbers["rank"][i]),
            decimal(float(numbers["pearson"][i])),
            decimal(float(numbers["spearman"][i])),
        ]
        for i, name in enumerate(numbers["photographs"])
    ]
    head = ["photograph", "predicted", "true", "rank of the true class", "Pearson", "Spearman"]
    return Table("Every mistake: correlation of the two maps", head, rows)


def _note(beyond: int, count: int) -> str:
    return (
        f"There are {count} photographs whose label is not among the first {beyond} of the classes "
        "by their logits. IG explains the probability of either class from black; a pixel's score "
        "is Σ|A| over the colours. The figure shows the two mistakes whose maps are least alike "
        "and most alike, and their photographs if those are free. The true class is in the orange "
        "boxes."
    )


def _draw(
    scene: Scene,
    predicted: np.ndarray,
    true: np.ndarray,
    numbers: dict[str, Any],
    kinds: tuple[int, int],
) -> Any:
    from matplotlib.figure import Figure

    free = any(scene.photographs[i].is_free for i in kinds)
    figure = Figure(figsize=(12.5 if free else 10, 5.2), layout="constrained")
    grid = figure.add_gridspec(2, 4 if free else 3, width_ratios=[1, 1, *[1] * free, 1.1])
    titles = ("least alike", "most alike")
    for row, (i, title) in enumerate(zip(kinds, titles, strict=True)):
        photograph = scene.photographs[i]
        for column, which in enumerate(("predicted", "true")):
            ax = figure.add_subplot(grid[row, column])
            maps.draw_map(ax, (predicted, true)[column][i], photograph)
            chance = decimal(float(numbers["probability"][which][i]))
            ax.set_title(f"{which}: {_short(numbers[which][i])}, {chance}", size=10)
            if column == 0:
                ax.set_ylabel(f"{title}: {decimal(float(numbers['pearson'][i]), 2)}")
        if free:
            maps.draw_picture(figure.add_subplot(grid[row, 2]), photograph)
    _draw_all(figure.add_subplot(grid[:, -1]), numbers)
    return figure


def _draw_all(ax: Any, numbers: dict[str, Any]) -> None:
    """Draw the correlation of every mistake, the largest at the top."""
    order = np.argsort(numbers["pearson"])[-25:]
    names = [f"{_short(numbers['predicted'][i])}\nfor {_short(numbers['true'][i])}" for i in order]
    ax.barh(range(len(order)), numbers["pearson"][order], color="tab:blue", height=0.6)
    ax.set_yticks(range(len(order)), names, size=8)
    ax.set(xlabel="correlation of the two maps", xlim=(min(0, numbers["pearson"].min()), 1))


def _short(name: str) -> str:
    return name.split(",")[0]
