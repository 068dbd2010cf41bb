"""Scores and layers on the way from black to a photograph ("Counterfactuals", figs. 2 and 12)."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from paper_repro.experiments.maps import Scene, computed, scene_of
from paper_repro.networks import efficientnet
from paper_repro.report.results import Claim, Result, Setting, Table, decimal

ALPHAS = np.linspace(0, 1, 51, dtype=np.float32)
COUNT = 30
STARTS = (0.2, 0.4, 0.6)
WITHIN = 0.1


def run(setting: Setting) -> Result:
    """Measure scores and activations at α times the photograph."""
    scene = scene_of(setting)
    scene = scene.chosen(range(min(COUNT, len(scene.photographs))))
    along = functools.partial(_along, setting.network)
    found = computed(scene, "saturation", along, scene.images, scene.tops)
    numbers: dict[str, Any] = {
        "photographs": [each.name for each in scene.photographs],
        "alpha": ALPHAS,
        "probability": found["probability"],
        "logit": found["logit"],
        "flat": {name: _flat(found[name]) for name in ("probability", "logit")},
        "layers": {
            name: {
                measure: np.mean(found[f"{measure} {name}"], axis=0)
                for measure in ("distance", "cosine")
            }
            for name in layers_of(setting.network)
        },
    }
    last = list(layers_of(setting.network))[-1]
    late = found[f"cosine {last}"][:, ALPHAS > 0.6 + 1e-6]
    numbers["last_layer"] = {"mean": late.mean(), "max": late.max(), "of_means": late.mean(0).max()}
    return Result(
        "Saturation along the path from black",
        {"": _draw_scores(scene, found), "layers": _draw_layers(setting.network, found)},
        numbers,
        _claims(numbers, found),
        [_table(found)],
        [scene.source, _note(setting.network)],
    )


def layers_of(variant: str) -> dict[str, str]:
    """Name four layers, from early to last: blocks before the picture is halved, and the head."""
    blocks = efficientnet.blocks(variant)
    ends = [i for i, (*_, stride, _) in enumerate(blocks[1:]) if stride == 2]
    return {**{f"block {i}": f"block_{i}" for i in ends[1:]}, "head": "head"}


def _along(variant: str, image: jax.Array, label: Any, params: Any) -> dict[str, jax.Array]:
    """Return scores and distances of layers to those at α = 1, at each α."""
    layers = layers_of(variant)
    network = efficientnet.EfficientNetLite(variant=variant)

    def at(alpha: Any) -> tuple[Any, dict[str, Any]]:
        logits, state = network.apply(
            {"params": params},
            alpha * image,
            capture_intermediates=lambda module, _: module.name in layers.values(),
        )
        kept = state["intermediates"]
        found = {name: kept[place]["__call__"][0] for name, place in layers.items()}
        return logits, found | {"head": jax.nn.relu6(found["head"])}

    _, ends = at(1.0)

    def measured(alpha: Any) -> dict[str, Any]:
        logits, activations = at(alpha)
        found = {"probability": jax.nn.softmax(logits)[label], "logit": logits[label]}
        for name, h in activations.items():
            end = ends[name]
            found[f"distance {name}"] = jnp.linalg.norm(h - end)
            product = jnp.linalg.norm(h) * jnp.linalg.norm(end)
            found[f"cosine {name}"] = 1 - jnp.vdot(h, end) / product
        return found

    measures: dict[str, jax.Array] = jax.lax.map(measured, ALPHAS)
    return measures


def _flat(scores: np.ndarray) -> dict[str, float]:
    """Return the share of curves that stay within 10 % of their last value from α on."""
    last = scores[:, -1:]
    near = np.abs(scores - last) <= WITHIN * np.abs(last)
    return {f"{start}": near[:, start - 1e-6 <= ALPHAS].all(axis=1).mean() for start in STARTS}


def _claims(numbers: dict[str, Any], found: dict[str, Any]) -> list[Claim]:
    flat, last = numbers["flat"], numbers["last_layer"]
    early = float(flat["probability"]["0.2"])
    rise = [_share_of_rise(found[name]) for name in ("probability", "logit")]
    return [
        Claim(
            "fig. 2a: for most photographs the probability is flat from α = .2 on",
            "a majority",
            f"{100 * early:.0f} % within 10 % of the last value from .2 on, "
            f"{100 * flat['probability']['0.4']:.0f} % from .4, "
            f"{100 * flat['probability']['0.6']:.0f} % from .6",
            early > 0.5,
            "the paper's network is Inception-v1, and it does not say how near counts as flat. "
            "Lite0's classifier is less sure of dark pictures",
        ),
        Claim(
            "fig. 2a: the probability flattens before α = 1",
            "every curve",
            f"{100 * rise[0]:.0f} % of curves change by less than 10 % of their last value over "
            "the last tenth of the path",
            rise[0] >= 0.9,
        ),
        Claim(
            "fig. 2b: so does the score before the softmax",
            "every curve",
            f"{100 * rise[1]:.0f} % of curves; within 10 % of the last value from α = .6 on: "
            f"{100 * flat['logit']['0.6']:.0f} %",
            rise[1] >= 0.9,
        ),
        Claim(
            "fig. 12: cosine distance of the last layer to its end, α above .6",
            "< .01",
            f"at most {decimal(last['of_means'], 4)} in the mean over photographs, "
            f"{decimal(last['max'], 4)} for one photograph",
            bool(last["of_means"] < 0.01),
            "our last layer is the rectified head (7 × 7 × 1280 for Lite0), theirs is mixed5b (7 × "
            "7 × 1024). Without biases α would only scale a layer, and the distance would be 0. "
            "Lite0's batch normalizations have biases that are not small beside a dark picture",
        ),
    ]


def _share_of_rise(scores: np.ndarray) -> float:
    """Return the share of curves that move by less than 10 % of their end from α = .9 on."""
    late = scores[:, ALPHAS >= 0.9 - 1e-6]
    return float((np.ptp(late, axis=1) <= WITHIN * np.abs(scores[:, -1])).mean())


def _table(found: dict[str, Any]) -> Table:
    names = [key.removeprefix("cosine ") for key in found if key.startswith("cosine ")]
    chosen = [int(np.abs(ALPHAS - alpha).argmin()) for alpha in (0.02, 0.2, 0.4, 0.6, 0.8)]
    rows = [
        [name, *(decimal(float(found[f"cosine {name}"][:, i].mean()), 4) for i in chosen)]
        for name in sorted(names, key=lambda name: (name == "head", len(name), name))
    ]
    head = ["layer", *(f"α = {decimal(float(ALPHAS[i]), 2)}" for i in chosen)]
    return Table("Mean cosine distance of a layer to its activations at α = 1", head, rows)


def _note(variant: str) -> str:
    return (
        "The score is that of the predicted class at α times the photograph, for 51 values of α. "
        "A curve is flat from α on if it stays within 10 % of its last value. The layers are the "
        f"outputs of {', '.join(layers_of(variant))}: blocks before the picture is halved, and the "
        "features before the mean over the picture."
    )


def _draw_scores(scene: Scene, found: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    titles = {"probability": "probability", "logit": "score before the softmax"}
    for ax, (name, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        ax.plot(ALPHAS, found[name].T, color="tab:blue", alpha=0.35, linewidth=0.9)
        ax.plot(ALPHAS, np.median(found[name], axis=0), color="black", label="median")
        ax.set(xlabel="α", title=f"{title}, {len(scene.photographs)} photographs", xlim=(0, 1))
        ax.legend(loc="lower right")
    return figure


def _draw_layers(variant: str, found: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    names = list(layers_of(variant))
    figure = Figure(figsize=(2.9 * len(names), 4.8), layout="constrained")
    axes = figure.subplots(2, len(names), sharex=True, sharey="row")
    for column, name in zip(axes.T, names, strict=True):
        for ax, measure in zip(column, ("cosine", "distance"), strict=True):
            values = found[f"{measure} {name}"]
            values = values / values[:, :1] if measure == "distance" else values
            ax.plot(ALPHAS, values.T, color="tab:red", alpha=0.3, linewidth=0.8)
            ax.plot(ALPHAS, values.mean(axis=0), color="black")
        column[0].set_title(name, size=10)
        column[1].set_xlabel("α")
    axes[0][0].set_ylabel("cosine distance to α = 1")
    axes[1][0].set_ylabel("L2 distance, of that at α = 0")
    return figure
