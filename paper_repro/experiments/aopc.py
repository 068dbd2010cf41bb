"""How fast the score falls as the top pixels go ("Counterfactuals", fig. 5)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paper_repro.experiments import maps
from paper_repro.experiments.maps import METHODS, computed, scene_of
from paper_repro.networks import efficientnet
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, interval

STEP, STEPS, COUNT = 100, 50, 150
SCORES = ("probability", "logit")
QUICK = ("integrated gradients", "gradient", "random")


def run(setting: Setting) -> Result:
    """Black out the top 5,000 pixels, 100 at a time, by the order of each method."""
    whole = scene_of(setting)
    scene = whole.chosen(range(min(COUNT, len(whole.photographs))))
    names = QUICK if setting.quick else tuple(METHODS)
    curves = {name: _curves(scene, name, maps.maps_of(whole, name)) for name in names}
    numbers = {
        "photographs": [each.name for each in scene.photographs],
        "step": STEP,
        "aopc": {
            name: {score: interval(aopc(found[score])) for score in SCORES}
            for name, found in curves.items()
        },
        "drop": {
            name: {score: np.mean(found[score][:, :1] - found[score], axis=0) for score in SCORES}
            for name, found in curves.items()
        },
    }
    return Result(
        "Blacking out the top pixels: area over the perturbation curve",
        {"": _draw(curves)},
        numbers,
        _claims(curves),
        [_table(curves)],
        [scene.source, *_notes()],
    )


def _curves(scene: maps.Scene, name: str, found: np.ndarray) -> dict[str, np.ndarray]:
    """Return both scores after each step, (photographs, steps + 1), for maps of all photographs."""
    orders = np.stack([maps.most_relevant(found[i]) for i in range(len(scene.photographs))])
    orders = orders[:, : STEP * STEPS].astype(np.int32)
    function = functools.partial(_perturbed, scene.setting.network)
    curves: dict[str, np.ndarray] = computed(
        scene, f"curves of {name}", function, scene.images, scene.tops, orders
    )
    return curves


def _perturbed(variant: str, image: Any, label: Any, order: Any, params: Any) -> dict[str, Any]:
    """Return the scores after 0, 1, … steps; a step makes the next 100 pixels black."""
    place = (
        jnp.full(image.shape[0] * image.shape[1], STEPS)
        .at[order]
        .set(jnp.arange(order.size) // STEP)
    )
    place = place.reshape(image.shape[:2])[..., None]

    def after(steps: Any) -> dict[str, Any]:
        picture = jnp.where(place < steps, 0, image)
        logits = efficientnet.network(picture, params, variant=variant)
        return {"probability": jax.nn.softmax(logits)[label], "logit": logits[label]}

    scores: dict[str, Any] = jax.lax.map(after, jnp.arange(STEPS + 1))
    return scores


def aopc(scores: np.ndarray) -> np.ndarray:
    """Return AOPC(k) = Σ_{j=0}^{k} (f(x⁰) − f(xʲ)) / (k + 1) for k = 0, …, STEPS."""
    drops = scores[:, :1] - scores
    return np.cumsum(drops, axis=1) / np.arange(1, scores.shape[1] + 1)


def _last(curves: dict[str, dict[str, np.ndarray]], name: str, score: str) -> np.ndarray:
    return aopc(curves[name][score])[:, -1]


def _claims(curves: dict[str, dict[str, np.ndarray]]) -> list[Claim]:
    claims = []
    for score, figure in zip(SCORES, ("fig. 5", "not in the paper"), strict=True):
        apart = _last(curves, "integrated gradients", score) - _last(curves, "gradient", score)
        mean, low, high = interval(apart)
        claims.append(
            Claim(
                f"{figure}: by the {score}, IG's curve lies above the gradient's",
                "above" if score == "probability" else "not stated",
                f"after {STEPS} steps {decimal(mean)} [{decimal(low)}, {decimal(high)}] above",
                bool(low > 0) if score == "probability" else None,
                "the paired difference over photographs with its 95 % interval",
            )
        )
    apart = _last(curves, "gradient", "probability") - _last(curves, "random", "probability")
    mean, low, high = interval(apart)
    claims.append(
        Claim(
            "the gradient's curve lies above that of random pixels",
            "not stated",
            f"{decimal(mean)} [{decimal(low)}, {decimal(high)}] above",
            None,
            "random pixels are everywhere, and a picture with specks everywhere is unlike any "
            "that the network has seen",
        )
    )
    return claims


def _table(curves: dict[str, dict[str, np.ndarray]]) -> Table:
    rows = []
    for name in curves:
        cells = []
        for score in SCORES:
            mean, low, high = interval(_last(curves, name, score))
            cells.append(f"{decimal(mean)} [{decimal(low)}, {decimal(high)}]")
        rows.append([name, METHODS[name].score, *cells])
    head = ["method", "explains the", *(f"by the {score}" for score in SCORES)]
    return Table(f"AOPC after {STEPS} steps, and its 95 % interval", head, rows)


def _notes() -> list[str]:
    return [
        "The top 5,000 pixels by Σ|A| over the colours become black, 100 a step, in 50 steps. AOPC "
        "after k steps is the mean drop of the score after 0, …, k steps (Samek et al.); the paper "
        "calls it the average drop up to step k. The drop is that of the probability, and of the "
        "score before the softmax. The order is the same for both.",
        "IG, the gradient, their product with the input and SmoothGrad explain the probability, "
        "as in the paper; guided backprop, LRP and DeepLIFT explain the logit, which their rules "
        "are made for. A large drop says that pixels matter, or that the picture no longer looks "
        "like a photograph; the control by random pixels shows how much is due to that.",
    ]


def _draw(curves: dict[str, dict[str, np.ndarray]]) -> Any:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots(1, 2)
    steps = np.arange(STEPS + 1)
    for ax, score in zip(axes, SCORES, strict=True):
        for i, (name, found) in enumerate(curves.items()):
            mean, low, high = interval(aopc(found[score]))
            colour, style = colormaps["tab10"](i), "--" if METHODS[name].score == "logit" else "-"
            ax.plot(steps, mean, style, color=colour, label=name)
            ax.fill_between(steps, low, high, color=colour, alpha=0.12, linewidth=0)
        ax.set(xlabel="steps of 100 pixels", ylabel="AOPC", title=f"drop of the {score}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)
    return figure
