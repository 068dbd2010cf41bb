"""The share of a map inside the object's boxes ("Counterfactuals", §2.5, localization)."""

import functools
from typing import Any

import jax
import numpy as np

from paper_repro.experiments import maps
from paper_repro.experiments.maps import Scene, computed, scene_of
from paper_repro.networks import efficientnet
from paper_repro.report.results import Claim, Result, Setting, Table, interval

LARGEST = 2 / 3
"""Boxes cover less than this share of the picture."""
DROPS = (0.1, 0.5, 0.9)
"""Without its boxes a photograph loses at least this share of its probability."""
MAIN = 0.5
COUNT = 100
METHODS = ("gradient", "integrated gradients", "gradient ⊙ input", "guided backprop", "LRP")


def run(setting: Setting) -> Result:
    """Compare methods by the share of Σ P inside the boxes."""
    whole = scene_of(setting)
    counting = [i for i in range(len(whole.photographs)) if _counts(whole, i)]
    scene = whole.chosen(counting)
    masks = np.stack([each.mask for each in scene.photographs])
    measure = functools.partial(_drop, setting.network)
    drops = computed(scene, "without boxes", measure, scene.images, scene.tops, masks)
    names = METHODS[:2] if setting.quick else METHODS
    shares = {
        name: np.array(
            [
                maps.inside(scores, mask)
                for scores, mask in zip(maps.maps_of(whole, name)[counting], masks, strict=True)
            ]
        )
        for name in names
    }
    chosen = {drop: np.flatnonzero(drops >= drop)[:COUNT] for drop in DROPS}
    numbers = {
        "photographs": [each.name for each in scene.photographs],
        "area": masks.mean(axis=(1, 2)),
        "drop": drops,
        "inside": shares,
        "thresholds": {str(drop): _compared(shares, which) for drop, which in chosen.items()},
    }
    return Result(
        "Localization: how much of a map lies inside the object's boxes",
        {"": _draw(shares, chosen[MAIN])},
        numbers,
        _claims(numbers),
        [_table(shares, masks, chosen)],
        [scene.source, _note()],
    )


def _counts(scene: Scene, i: int) -> bool:
    """Tell whether the boxes are small enough, and are those of the class that is explained."""
    photograph = scene.photographs[i]
    return bool(0 < photograph.mask.mean() < LARGEST and scene.tops[i] == photograph.label)


def _drop(variant: str, image: Any, label: Any, mask: Any, params: Any) -> Any:
    """Return the share of the probability that is lost without the boxes."""

    def chance(image: Any) -> Any:
        return jax.nn.softmax(efficientnet.network(image, params, variant=variant))[label]

    return 1 - chance(image * ~mask[..., None]) / chance(image)


def _compared(shares: dict[str, np.ndarray], which: np.ndarray) -> dict[str, Any]:
    apart = (shares["integrated gradients"] - shares["gradient"])[which]
    mean, low, high = interval(apart)
    return {
        "photographs": len(which),
        "better": int((apart > 0).sum()),
        "difference": {"mean": mean, "low": low, "high": high},
    }


def _claims(numbers: dict[str, Any]) -> list[Claim]:
    claims = []
    for drop, found in numbers["thresholds"].items():
        better, count, apart = found["better"], found["photographs"], found["difference"]
        share = better / count
        error = 3 * np.sqrt(0.82 * 0.18 / count)
        claims.append(
            Claim(
                f"§2.5: IG has more of its map inside the boxes; drop of at least "
                f"{100 * float(drop):.0f} % without them",
                "82 of 100",
                f"{better} of {count} ({100 * share:.0f} %)",
                bool(abs(share - 0.82) <= error),
                "the paper does not say which drop counts as significant; three standard errors "
                "count as agreement. Lite0 saturates later than the paper's network (see "
                "`saturation`), so that its gradient at the photograph says more",
            )
        )
        claims.append(
            Claim(
                f"§2.5: mean difference; drop of at least {100 * float(drop):.0f} %",
                "8.4 points",
                _points(apart["mean"], apart["low"], apart["high"]),
                bool(apart["low"] <= 0.084 <= apart["high"]),
                "the 95 % interval has to contain the paper's number; the direction is "
                + ("the paper's" if apart["low"] > 0 else "not certain"),
            )
        )
    return claims


def _table(
    shares: dict[str, np.ndarray], masks: np.ndarray, chosen: dict[float, np.ndarray]
) -> Table:
    rows = [
        [name, *(_percent(values[which]) for which in chosen.values())]
        for name, values in shares.items()
    ]
    area = masks.mean(axis=(1, 2))
    rows.append(["a map without structure", *(_percent(area[which]) for which in chosen.values())])
    head = [
        "method",
        *(f"drop ≥ {100 * drop:.0f} %, {len(which)} pictures" for drop, which in chosen.items()),
    ]
    return Table("Mean share of the pixel scores inside the boxes", head, rows)


def _percent(values: np.ndarray) -> str:
    return _points(*interval(values), unit=" %")


def _points(mean: float, low: float, high: float, unit: str = " points") -> str:
    text = f"{100 * mean:.1f}{unit} [{100 * low:.1f}, {100 * high:.1f}]"
    return text.replace("-", "−")


def _note() -> str:
    return (
        "A photograph counts if its boxes cover less than two thirds of it, the network predicts "
        "its label, and blacking out the boxes takes a share of the probability; of those that "
        f"count, the first {COUNT} are taken. A pixel's score is Σ|A| over the colours. The last "
        "row is the share of the picture that the boxes cover."
    )


def _draw(shares: dict[str, np.ndarray], which: np.ndarray) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    gradient, integrated = (shares[name][which] for name in METHODS[:2])
    left.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
    left.scatter(gradient, integrated, s=14, alpha=0.7)
    left.set(xlabel="gradient", ylabel="integrated gradients", xlim=(0, 1), ylim=(0, 1))
    left.set_title("share inside the boxes, each photograph", size=10)
    left.set_aspect("equal")
    right.hist(100 * (integrated - gradient), bins=25)
    right.axvline(0, color="black", linewidth=0.8)
    right.set(xlabel="IG less gradient, in points", ylabel="photographs")
    return figure
