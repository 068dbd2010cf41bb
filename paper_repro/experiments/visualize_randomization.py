"""Signed maps of integrated gradients while a network is randomized (note, fig. 3)."""

from typing import Any

import jax
import numpy as np

import xattr
from paper_repro.data import mnist
from paper_repro.experiments.cascade import integrated, label_of, order_of, sampled, stages_of
from paper_repro.networks import digits, training
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table

ROWS = (8, 3, 5, 2, 4)
"""The figure shows one digit of each class that was drawn; the note speaks of an "8"."""


def run(setting: Setting) -> Result:
    """Draw the maps of a few digits at every stage, and sum the maps of many."""
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    trained = training.network("cnn", setting, data)
    images, labels = sampled(data, 50, setting.seed)
    drawn = [int(np.argmax(labels == digit)) for digit in ROWS if (labels == digit).any()]
    if setting.quick:
        images, labels, drawn = images[drawn], labels[drawn], list(range(len(drawn)))
    maps, changes = _stages(setting, images, labels, trained.params, original=False)
    sums = maps.sum((2, 3), dtype=np.float64)
    kept = _signs(maps)
    gap = np.abs(sums - changes).max(axis=1)
    own, _ = _stages(setting, images, labels, trained.params, original=True)
    own_sums = own.sum((2, 3), dtype=np.float64)
    size, own_size = (np.abs(values).mean(axis=1) for values in (sums, own_sums))
    stages = ["trained", *map(label_of, order_of("cnn"))]
    return Result(
        title="Signed integrated gradients while a network is randomized (note, figure 3)",
        figures={"": _draw(images[drawn], maps[:, drawn], stages)},
        numbers={
            "accuracy": trained.test_accuracy,
            "stages": stages,
            "images": len(images),
            "drawn": {"labels": labels[drawn], "sums": sums[:, drawn]},
            "mean_absolute_sum": size,
            "mean_absolute_sum, original initialiser": own_size,
            "largest_completeness_gap": gap,
            "sign_kept": kept,
        },
        claims=[
            Claim(
                "the sum of the map approaches 0 as the network is randomized",
                "approaches 0",
                f"mean |Σ| {size[0]:.2f} trained, then {', '.join(f'{v:.2g}' for v in size[1:])}",
                bool(size[-1] < 0.01 * size[0]),
                "this follows from the note's N(0, 0.01²); layers drawn as before training "
                f"(deviation 0.1, biases 0.1) end at {own_size[-1]:.2f}",
            ),
            Claim(
                "the sum is about logit(image) − logit(black)",
                "approximately",
                f"largest difference {gap[0]:.2g} trained, {gap[1:].max():.1g} randomized",
                bool(gap[0] < 0.05 * size[0]),
                "50 midpoints",
            ),
            Claim(
                "signs are highly sensitive to the parameters",
                "parts of the 8 flip",
                "share of non-black pixels that keep their sign: "
                + ", ".join(f"{v:.2f}" for v in kept),
                bool(kept[-1] < 0.6),
                "chance is about .5",
            ),
        ],
        tables=[
            Table(
                "Sum of the map of each digit in the figure",
                ["digit", *stages],
                [[str(labels[i]), *(f"{value:.3g}" for value in sums[:, i])] for i in drawn],
            )
        ],
        notes=[
            "The network is the CNN of the sanity checks. Integrated gradients explain the logit "
            "of the true class from black, with 50 midpoints. Layers are drawn from N(0, 0.01²), "
            "cut at two deviations, from the output down. Green pixels speak for the class and red "
            "ones against it. Each map has its own scale; Σ is the sum of the raw values. The note "
            "does not say which digits it shows.",
        ],
    )


def _stages(
    setting: Setting, images: np.ndarray, labels: np.ndarray, params: Any, *, original: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the maps (stages, n, 28, 28) and logit(image) − logit(black) (stages, n)."""
    model = digits.logits("cnn")
    stages = stages_of("cnn", params, jax.random.key(setting.seed), original=original)
    scores_of = jax.jit(jax.vmap(model, (0, None)))
    maps, changes = [], []
    for stage in shown(list(stages), "stages", setting.progress):
        maps.append(integrated(model, images, labels, stage))
        scores = scores_of(images, stage) - scores_of(np.zeros_like(images[:1]), stage)
        changes.append(np.asarray(scores)[np.arange(len(labels)), labels])
    return np.stack(maps), np.stack(changes)


def _signs(maps: np.ndarray) -> np.ndarray:
    """Return, for each randomized stage, the share of nonzero pixels that keep their sign."""
    kept = [((maps[0] * later) > 0).sum() / (maps[0] * later != 0).sum() for later in maps[1:]]
    return np.array(kept)


def _draw(images: np.ndarray, maps: np.ndarray, stages: list[str]) -> Any:
    from matplotlib.figure import Figure

    columns = len(stages) + 1
    figure = Figure(figsize=(1.25 * columns, 1.5 * len(images) + 0.2), layout="constrained")
    axes = figure.subplots(len(images), columns, squeeze=False)
    for row, image, across in zip(axes, images, np.swapaxes(maps, 0, 1), strict=True):
        row[0].imshow(image[..., 0], cmap="gray", vmin=0, vmax=1)
        row[0].set(xticks=[], yticks=[])
        for ax, values in zip(row[1:], across, strict=True):
            xattr.plot.signed_channels(ax, values)
            ax.set_xlabel(f"Σ = {values.sum(dtype=np.float64):.3g}", size=9)
    for ax, title in zip(axes[0], ["image", *stages], strict=True):
        ax.set_title(title, size=10)
    return figure
