"""A benchmark with known truth: digits pasted on photographs, and networks for either (BAM)."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

import xattr
from paper_repro.experiments import pasted
from paper_repro.experiments.pasted import CLASSES, SCENES, Pictures
from paper_repro.experiments.small_methods import CONTROLS, METHODS, Case, methods_for
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, interval
from paper_repro.report.results import with_interval as written

MEASURES = {
    "MCS": "model contrast score",
    "IDR": "input dependence rate",
    "IIR": "input independence rate",
}
ORDER = (
    "Grad-CAM",
    "gradient",
    "SmoothGrad",
    "integrated gradients",
    "gradient ⊙ input",
    "guided backprop",
    "guided Grad-CAM",
)
"""The authors' list "roughly in the best to worst performance": a comment of their metrics.py."""
QUICK_METHODS = (*ORDER, "DeConvNet", *CONTROLS)
CHANGE = 0.1
"""A map is independent of a patch if its mean over the patch changes by less than this share."""
WINDOW = (4, 4, 1)


class Size(NamedTuple):
    """Pictures to train on and steps of training; pictures that are explained."""

    training: int
    steps: int
    pictures: int
    descent: int


FULL, QUICK = Size(30_000, 5_000, 80, 200), Size(3_000, 300, 6, 40)


class Study(NamedTuple):
    """Three networks, and pictures that those on whole pictures get right."""

    params: dict[str, Any]
    """By what the network was trained on: "object", "scene", "scene only"."""
    patterns: dict[str, Any]
    accuracy: dict[str, float]
    chosen: Pictures
    patched: np.ndarray
    """The scenes with a digit that does not change the logits."""
    apart: dict[str, np.ndarray]
    """How far the logits are from those of the scene: with the digit, and with the patch."""


def run(setting: Setting) -> Result:
    """Train the three networks, explain all pictures by all methods, and measure."""
    size = QUICK if setting.quick else FULL
    study = _study(size, setting)
    has = {"patterns": True, "window": True, "layer": True, "references": True, "model": True}
    names = [n for n in methods_for(**has) if not setting.quick or n in QUICK_METHODS]
    maps = {name: _maps(name, study, setting) for name in shown(names, "maps", setting.progress)}
    values = {name: _measured(each, study.chosen.masks) for name, each in maps.items()}
    numbers = {
        "accuracy": study.accuracy,
        "pictures": len(study.chosen.masks),
        "patch": {name: each.mean() for name, each in study.apart.items()},
        "scores": {
            name: {
                key: dict(zip(("mean", "low", "high"), interval(found), strict=True))
                for key, found in each.items()
            }
            for name, each in values.items()
        },
    }
    numbers["rank"] = _ranks(numbers["scores"])
    return Result(
        "BAM: digits on photographs, where it is known what must not matter (Yang & Kim 2019)",
        {"": _draw(study, maps), "scores": _draw_scores(values)},
        numbers,
        _claims(numbers, values),
        [_table(numbers)],
        _notes(size, study),
    )


def _study(size: Size, setting: Setting) -> Study:
    train, test = pasted.pictures(setting, size.training, 10 * size.pictures)
    labelled = {
        "object": ("images", "objects"),
        "scene": ("images", "places"),
        "scene only": ("scenes", "places"),
    }
    params, accuracy, right = {}, {}, np.ones(len(test.objects), bool)
    for name, (images, labels) in labelled.items():
        given, wanted = getattr(train, images), getattr(train, labels)
        params[name] = pasted.trained(given, wanted, size.steps, setting)
        hits = _hits(params[name], getattr(test, images), getattr(test, labels))
        accuracy[name] = float(hits.mean())
        right &= hits
    # The scene's network has to be right without the digit, too.
    right &= _hits(params["scene"], test.scenes, test.places)
    chosen = Pictures(*(each[right][: size.pictures] for each in test))
    few = train.images[:1_000]
    f = xattr.targets.logit(pasted.model)
    patterns = {n: xattr.fit_patterns(f, few, args=(0, each)) for n, each in params.items()}
    alone = params["scene only"]
    patched = pasted.insignificant(alone, chosen.scenes, chosen.images, chosen.masks, size.descent)
    wanted = np.asarray(pasted.logits(chosen.scenes, alone))
    apart = {
        name: np.linalg.norm(np.asarray(pasted.logits(images, alone)) - wanted, axis=1)
        for name, images in (("digit", chosen.images), ("patch", patched))
    }
    return Study(params, patterns, accuracy, chosen, patched, apart)


def _hits(params: Any, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.asarray(pasted.logits(images, params)).argmax(1) == labels
    return found


def _maps(name: str, study: Study, setting: Setting) -> dict[str, np.ndarray]:
    """Return the maps (n, 32, 32) of the five pairs of network and pictures."""
    chosen = study.chosen
    keys = jax.random.split(jax.random.key(setting.seed), len(chosen.objects))
    pairs = {
        "object, whole": ("object", chosen.images, chosen.objects),
        "scene, whole": ("scene", chosen.images, chosen.places),
        "scene, without": ("scene", chosen.scenes, chosen.places),
        "scene only, without": ("scene only", chosen.scenes, chosen.places),
        "scene only, patched": ("scene only", study.patched, chosen.places),
    }
    found = {}
    for pair, (network, images, labels) in pairs.items():
        rest = (study.params[network], study.patterns[network], chosen.images[:8])
        found[pair] = np.asarray(_explained(name, images, labels, keys, *rest))[..., 0]
    return found


@functools.partial(jax.jit, static_argnums=0)
def _explained(
    name: str, images: Any, labels: Any, keys: Any, params: Any, patterns: Any, references: Any
) -> jax.Array:
    """Run a method, eight pictures at a time."""
    f = xattr.targets.logit(pasted.model)
    groups = xattr.groups.grid(images[0], WINDOW[:2])

    def one(each: Any) -> Any:
        image, label, key = each
        case = Case(
            f, image, (label, params), key, references, patterns, groups, pasted.LAYER, WINDOW,
            pasted.model, (0.0, 1.0),
        )  # fmt: skip
        return METHODS[name](case)

    return jax.lax.map(one, (images, labels, keys), batch_size=8)


# Measures -----------------------------------------------------------------------------------------


def scaled(maps: np.ndarray) -> np.ndarray:
    """Return max(A, 0), stretched so that 0 is the smallest and 1 the 99th percentile, clipped.

    It is the authors' scale. A constant map becomes zeros.
    """
    positive = np.maximum(maps, 0)
    low = positive.min(axis=(1, 2), keepdims=True)
    high = np.percentile(positive, 99, axis=(1, 2), keepdims=True)
    wide = high > low
    return np.clip(np.where(wide, (positive - low) / np.where(wide, high - low, 1), 0), 0, 1)


def on_object(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the mean of each scaled map over its object's pixels."""
    return (scaled(maps) * masks).sum(axis=(1, 2)) / masks.sum(axis=(1, 2))


def _measured(maps: dict[str, np.ndarray], masks: np.ndarray) -> dict[str, np.ndarray]:
    """Return each measure's value for each picture; rates are means of zeros and ones."""
    g = {pair: on_object(found, masks) for pair, found in maps.items()}
    before, after = g["scene only, without"], g["scene only, patched"]
    return {
        "MCS": g["object, whole"] - g["scene, whole"],
        "IDR": (g["scene, without"] > g["scene, whole"]).astype(float),
        "IIR": (np.abs(before - after) < CHANGE * before).astype(float),
    }


def _ranks(scores: Any) -> dict[str, dict[str, float]]:
    """Return each explanation's rank by each measure, 1 for the best; ties share a rank."""
    from scipy.stats import rankdata

    names = [name for name in scores if name not in CONTROLS]
    ranks = {m: rankdata([-scores[n][m]["mean"] for n in names]) for m in MEASURES}
    found = {n: {m: float(ranks[m][k]) for m in MEASURES} for k, n in enumerate(names)}
    return {n: {**each, "mean": sum(each.values()) / len(each)} for n, each in found.items()}


# The page -----------------------------------------------------------------------------------------


def _claims(numbers: Any, values: Any) -> list[Claim]:
    accuracy, scores = numbers["accuracy"], numbers["scores"]
    claims = [
        Claim(
            "the same pictures teach one network the objects and another the scenes",
            "both are learned",
            ", ".join(f"{name} {100 * value:.1f} %" for name, value in accuracy.items())
            + f"; chance {100 / CLASSES:.1f} %",
            min(accuracy.values()) > 0.8,
        ),
        Claim(
            "controls that do not see the network have no contrast (MCS)",
            "0 by definition",
            ", ".join(f"{n} {decimal(scores[n]['MCS']['mean'], 2)}" for n in CONTROLS[:2]),
            all(not values[n]["MCS"].any() for n in CONTROLS[:2]),
        ),
        _contrast(values),
    ]
    blind = ("random", "DeConvNet")
    claims.append(
        Claim(
            "input independence alone rewards a map that does not look at the picture (IIR)",
            "not in the papers",
            ", ".join(
                f"{n} {decimal(scores[n]['IIR']['mean'], 2)}, IDR "
                f"{decimal(scores[n]['IDR']['mean'], 2)}"
                for n in blind
            ),
            None,
            "without pooling the signal of DeConvNet depends on the weights alone",
        )
    )
    claims += [_order(measure, numbers) for measure in (*MEASURES, "mean")]
    return claims


def _contrast(values: Any) -> Claim:
    apart = interval(values["gradient"]["MCS"] - values["guided backprop"]["MCS"])
    return Claim(
        "guided backprop contrasts the networks less than the gradient (MCS)",
        "behind it in the authors' list",
        ", ".join(
            f"{n} {written(*interval(values[n]['MCS']), digits=2)}"
            for n in ("gradient", "guided backprop")
        ),
        bool(apart[1] > 0),
        f"difference on the same picture {written(*apart, digits=2)}",
    )


def _order(measure: str, numbers: Any) -> Claim:
    from scipy.stats import spearmanr

    ranks = [numbers["rank"][name][measure] for name in ORDER]
    rho = float(spearmanr(range(len(ORDER)), ranks).statistic)
    best = sorted(ORDER, key=lambda name: numbers["rank"][name][measure])
    what = MEASURES.get(measure, "mean of the three ranks")
    return Claim(
        f"the order of the authors' seven methods by {what}",
        " > ".join(ORDER),
        " > ".join(best) + f"; rank correlation {decimal(rho, 2)}",
        rho > 0.5,
        "the authors' order is a comment in their code, over all measures and rough; their "
        "numbers could not be checked here",
    )


def _table(numbers: Any) -> Table:
    rows = []
    for name, each in numbers["scores"].items():
        cells = [written(*each[m].values(), digits=2) for m in MEASURES]
        rank = numbers["rank"].get(name)
        place = str(ORDER.index(name) + 1) if name in ORDER else ""
        rows.append([name, *cells, f"{rank['mean']:.1f}" if rank else "control", place])
    rows.sort(key=lambda row: float(row[4]) if row[4] != "control" else np.inf)
    head = ["method", *(f"{m} ({text})" for m, text in MEASURES.items()), "mean rank here",
            "place in the authors' list"]  # fmt: skip
    return Table("Mean [95 % interval] over the pictures; more is better", head, rows)


def _notes(size: Size, study: Study) -> list[str]:
    return [
        f"White digits 0 to 7 of MNIST stand on crops of 32 × 32 pixels of eight free pictures of "
        f"scikit-image ({', '.join(SCENES)}), object and scene drawn independently. One small "
        "network (two convolutions of stride 2, 64 hidden units) learns the digits, the same "
        "network learns the scenes on the same pictures, and a third the scenes without digits; "
        f"{size.training:,} pictures, {size.steps:,} steps of 64. Crops to train and to test on "
        "come from the same pictures.",
        "A map is max(A, 0), stretched to [0, 1] with its 99th percentile at 1, and g is its mean "
        "over the digit's pixels (the number below a map), as in the authors' code. MCS is g of "
        "the network of objects less g of the network of scenes, for the same picture. IDR is the "
        "share of pictures in which the network of scenes gives the digit less than the scene that "
        "it covers. IIR is the share in which g changes by less than a tenth when a digit is "
        "pasted that leaves the logits of the third network almost unchanged.",
        "Such a digit is found by descent on its pixels. The logits move by "
        f"{study.apart['patch'].mean():.2f} (L2), and by {study.apart['digit'].mean():.1f} with "
        f"the white digit. {len(study.chosen.masks)} test pictures are explained that all networks "
        "get right, each by the logit of its class; methods that leave out patches take 4 × 4 "
        "pixels. The authors paste objects of MSCOCO on scenes of MiniPlaces.",
    ]


def _draw(study: Study, maps: dict[str, dict[str, np.ndarray]]) -> Any:
    from matplotlib.figure import Figure

    chosen = (*ORDER, "DeConvNet", "edge detector")
    rows = {
        "object, whole": ("network of objects", study.chosen.images),
        "scene, whole": ("network of scenes", study.chosen.images),
        "scene, without": ("the same,\nwithout the digit", study.chosen.scenes),
        "scene only, patched": ("third network,\nfaint digit", study.patched),
    }
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    axes = figure.subplots(len(rows), len(chosen) + 1)
    for line, (pair, (text, images)) in zip(axes, rows.items(), strict=True):
        line[0].imshow(images[0, ..., 0], cmap="gray", vmin=0, vmax=1)
        line[0].set_ylabel(text, fontsize=9)
        for ax, name in zip(line[1:], chosen, strict=True):
            ax.imshow(scaled(maps[name][pair][:1])[0], cmap="inferno", vmin=0, vmax=1)
            value = on_object(maps[name][pair][:1], study.chosen.masks[:1])[0]
            ax.set_xlabel(decimal(float(value), 2), fontsize=8, labelpad=1)
        for ax in line:
            ax.set(xticks=[], yticks=[])
    for ax, name in zip(axes[0], ("picture", *chosen), strict=True):
        ax.set_title(name, fontsize=9)
    return figure


def _draw_scores(values: Any) -> Any:
    from matplotlib.figure import Figure

    names = list(values)[::-1]
    figure = Figure(figsize=(11, 0.9 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    for ax, (measure, text) in zip(axes, MEASURES.items(), strict=True):
        found = np.array([interval(values[name][measure]) for name in names])
        colours = ["0.6" if name in CONTROLS else "tab:blue" for name in names]
        ax.barh(range(len(names)), found[:, 0], color=colours)
        error = np.abs(found[:, 1:] - found[:, :1]).T
        ax.errorbar(found[:, 0], range(len(names)), xerr=error, fmt="none", ecolor="black", lw=0.8)
        ax.set_title(f"{text} ({measure})", fontsize=10)
        ax.set_yticks(range(len(names)), names, fontsize=9)
        ax.axvline(0, color="black", linewidth=0.6)
        ax.grid(axis="x", linewidth=0.4)
    return figure
