"""Remove the leading pixels and retrain (slides; Hooker et al. 2019, ROAR and KAR)."""

import functools
from typing import Any, NamedTuple

import numpy as np

from paper_repro.data import fashion, mnist
from paper_repro.experiments import retraining
from paper_repro.experiments.retraining import (
    CONTROLS,
    ESTIMATORS,
    NOISY,
    PLAIN,
    RETRAININGS,
    Retraining,
)
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Shares of the pixels that are removed, or kept."""
MASKED = (0.1, 0.5, 0.9)
"""Shares of the pixels that masks show which are trained on alone."""
KINDS = {"ROAR": "removed", "KAR": "kept", "mask": "removed, and only this is shown"}
SQUARES = ("SmoothGrad²", "VarGrad")
CLOTHES = "Fashion-MNIST"


class Size(NamedTuple):
    """Pictures to train on and to test, and epochs of each training."""

    train: int
    test: int
    epochs: int


FULL, QUICK = Size(5_000, 1_000, 5), Size(1_000, 200, 4)
FEWER = (*PLAIN, *NOISY, *CONTROLS)
"""The estimators for Fashion-MNIST, to be cheap: without SmoothGrad of IG and guided backprop."""
QUICK_ESTIMATORS = ("gradient", "SmoothGrad", "SmoothGrad²", "VarGrad", *CONTROLS)

Curves = dict[str, dict[str, np.ndarray]]
"""Kind -> estimator -> accuracies (levels, retrainings)."""


class Found(NamedTuple):
    """What was measured on one data set."""

    original: np.ndarray
    """The accuracy of each retraining without removal."""
    curves: Curves
    images: np.ndarray
    """A few pictures (k, 784) with their ranks, for the figure."""
    ranks: dict[str, np.ndarray]
    mean: float


def run(setting: Setting) -> Result:
    """Rank pixels by every estimator, remove or keep the leading ones, and train anew."""
    size = QUICK if setting.quick else FULL
    sets = {"MNIST": mnist.load(setting.mnist_dir, progress=setting.progress)}
    clothes = None if setting.quick else fashion.load(setting.fashion_dir)
    if clothes is not None:
        sets[CLOTHES] = clothes
    found = {
        name: _measured(name, retraining.data_of(data, size.train, size.test), size, setting)
        for name, data in sets.items()
    }
    numbers = {
        name: {
            "original": each.original,
            "levels": LEVELS,
            "levels of masks": MASKED,
            **{kind: _summary(curves) for kind, curves in each.curves.items()},
        }
        for name, each in found.items()
    }
    figures = {"": _draw_curves(found), "pictures": _draw_pictures(found)}
    return Result(
        "ROAR: remove the leading pixels and retrain (slides; Hooker et al. 2019)",
        figures,
        numbers,
        [claim for name, each in found.items() for claim in _claims(name, each)],
        [_table(name, kind, each) for name, each in found.items() for kind in KINDS],
        _notes(size),
    )


def _measured(name: str, data: retraining.Data, size: Size, setting: Setting) -> Found:
    """Measure all estimators; each is kept in the cache folder when it is done."""
    work = Retraining(data, size.epochs, setting.seed)
    original, params = work.original()
    chosen = QUICK_ESTIMATORS if setting.quick else FEWER if name == CLOTHES else ESTIMATORS
    names = [e for e in ESTIMATORS if e in chosen]
    curves: Curves = {kind: {} for kind in KINDS}
    ranks: dict[str, dict[str, np.ndarray]] = {}

    def ranks_of(estimator: str) -> np.ndarray:
        if estimator in CONTROLS:
            return retraining.control(estimator, data.all, setting.seed)
        base = _base(estimator)
        if base not in ranks:  # one pass ranks by all estimators of a base
            ranks.clear()
            ranks[base] = retraining.rankings(base, data.all, params, setting.seed)
        return ranks[base][estimator]

    def points(estimator: str) -> dict[str, np.ndarray]:
        order = ranks_of(estimator)
        return {
            "ROAR": np.array([work.accuracies(order, level) for level in LEVELS]),
            "KAR": np.array([work.accuracies(order, level, keep=True) for level in LEVELS]),
            "mask": np.array([work.from_mask(order, level) for level in MASKED]),
            "few": order[: len(FIRST)],
        }

    few = {}
    by_base = sorted(names, key=_base)
    for estimator in shown(by_base, f"{name}, estimators", setting.progress):
        kept = work.kept(estimator, functools.partial(points, estimator))
        few[estimator] = kept["few"]
        for kind in KINDS:
            curves[kind][estimator] = kept[kind]
    ordered = {kind: {e: each[e] for e in names} for kind, each in curves.items()}
    return Found(original, ordered, data.train[: len(FIRST)], few, float(data.train.mean()))


FIRST = range(2)
"""The pictures that are drawn."""


def _base(estimator: str) -> str:
    """Return the prefix of the method that an estimator is made of; "zz" for a control."""
    if estimator in CONTROLS:
        return "zz"
    return PLAIN.get(estimator, estimator.partition("-")[0] + "-" if "-" in estimator else "")


def _summary(curves: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return means, the smallest and largest of the retrainings, and the mean over the levels."""
    return {
        name: {
            "mean": values.mean(axis=1),
            "low": values.min(axis=1),
            "high": values.max(axis=1),
            "area": values.mean(),
            "areas": values.mean(axis=0),
        }
        for name, values in curves.items()
    }


def _areas(found: Found, kind: str, name: str) -> np.ndarray:
    """Return the mean accuracy over the levels for each retraining."""
    areas: np.ndarray = found.curves[kind][name].mean(axis=0)
    return areas


def better(found: Found, kind: str, name: str) -> bool:
    """Tell whether all retrainings are on the right side of all of the random ranking's.

    That is less accuracy where pixels are removed, and more where they are kept.
    """
    ours, random = _areas(found, kind, name), _areas(found, kind, "random")
    return bool(ours.max() < random.min() if kind == "ROAR" else ours.min() > random.max())


# The page -----------------------------------------------------------------------------------------


def _claims(title: str, found: Found) -> list[Claim]:
    names = list(found.curves["ROAR"])
    squares = [n for n in names if n.endswith(SQUARES)]
    smooth = [n for n in names if n.endswith("SmoothGrad")]
    plain = [n for n in names if n in PLAIN]
    return [
        _compared(title, "plain estimators are no better than random", plain, found, wanted=False),
        _compared(title, "their SmoothGrad is no better than random", smooth, found, wanted=False),
        _compared(
            title, "SmoothGrad² and VarGrad are better than random", squares, found, wanted=True
        ),
        _leak(title, found),
        _beyond(title, found),
    ]


def _compared(title: str, what: str, names: list[str], found: Found, *, wanted: bool) -> Claim:
    verdicts = {name: better(found, "ROAR", name) for name in names}
    random = _areas(found, "ROAR", "random").mean()
    differing = [name for name, verdict in verdicts.items() if verdict != wanted]
    kept = [name for name in names if better(found, "KAR", name)]
    return Claim(
        f"{title}, ROAR: {what} (mean accuracy over the levels)",
        "less is better",
        f"random {100 * random:.1f} %; "
        + ", ".join(f"{n} {100 * _areas(found, 'ROAR', n).mean():.1f} %" for n in names),
        not differing,
        _reason(differing, found) + f"KAR, better than random: {', '.join(kept) or 'none'}",
    )


def _reason(differing: list[str], found: Found) -> str:
    """Name the estimators that do otherwise, and how much of the accuracy their masks give."""
    if not differing:
        return ""
    told = [100 * _areas(found, "mask", name).mean() for name in differing]
    return (
        f"otherwise: {', '.join(differing)}, whose masks alone give {min(told):.0f} to "
        f"{max(told):.0f} % by the mean over the levels; "
    )


def _leak(title: str, found: Found) -> Claim:
    """Report what the mask alone says of the class."""
    level = MASKED.index(0.5)
    masks = {name: values[level].mean() for name, values in found.curves["mask"].items()}
    least = min(masks[n] for n in masks if n not in CONTROLS)
    return Claim(
        f"{title}: which pixels are removed tells the class, without any pixel's value",
        "a known weakness (Rong et al. 2022)",
        "with half of the pixels removed, accuracy from the mask alone: "
        + ", ".join(f"{n} {100 * value:.1f} %" for n, value in masks.items()),
        bool(least > masks["random"] + 0.1),
        f"with the whole pictures {100 * found.original.mean():.1f} %",
    )


def _beyond(title: str, found: Found) -> Claim:
    """Compare the order by ROAR with the order by what the mask tells."""
    from scipy.stats import spearmanr

    names = [n for n in found.curves["ROAR"] if n not in CONTROLS]
    left, told = ([_areas(found, kind, n).mean() for n in names] for kind in ("ROAR", "mask"))
    rho = float(spearmanr(left, told).statistic)
    return Claim(
        f"{title}: the accuracy that ROAR measures follows what the mask tells",
        "not in the paper",
        f"rank correlation over {len(names)} estimators {rho:.2f}".replace("-", "−"),
        None,
        "where it is high, ROAR ranks the masks and not the pixels under them",
    )


def _table(title: str, kind: str, found: Found) -> Table:
    rows = []
    for name, values in found.curves[kind].items():
        cells = [
            f"{100 * each.mean():.1f} [{100 * each.min():.1f}, {100 * each.max():.1f}]"
            for each in values
        ]
        area = _areas(found, kind, name)
        verdict = "" if name == "random" or kind == "mask" else "no"
        if verdict and better(found, kind, name):
            verdict = "yes"
        rows.append([name, *cells, f"{100 * area.mean():.1f}", verdict])
    levels = MASKED if kind == "mask" else LEVELS
    head = ["estimator", *(f"{100 * level:.0f} %" for level in levels), "mean", "beats random"]
    return Table(
        f"{title}, {kind}: accuracy in %, mean [least, most] of the retrainings, by the share of "
        f"pixels {KINDS[kind]}",
        head,
        rows,
    )


def _notes(size: Size) -> list[str]:
    return [
        f"The first {size.train:,} pictures to train on and {size.test:,} to test. To be cheap, "
        "the network is small (dense layers of 64 and 32 with ReLU), each training takes "
        f"{size.epochs} epochs of Adam, and a point has {RETRAININGS} retrainings with seeds that "
        "all estimators share. Bands go from the least to the most accurate one. The paper "
        "retrains ResNet-50 on photographs five times. Fashion-MNIST has fewer estimators, and is "
        "left out by --quick and where its files are not installed.",
        "Pixels are ranked by |A| of the predicted class's logit, ties in random order. Removed "
        "pixels become the mean of all pixels to train on, in the pictures to train on and to "
        f"test. SmoothGrad, SmoothGrad² and VarGrad take {retraining.SAMPLES} noisy copies of "
        "deviation 0.15, of the gradient (no prefix), of integrated gradients (IG) with "
        f"{retraining.NODES} midpoints from black, and of guided backprop (GB).",
        "KAR keeps the leading pixels and removes the others. An estimator beats random if each of "
        "its retrainings does better than each of the random ranking, by the mean accuracy over "
        "the levels. As a control a network is trained on the masks alone: 1 where a pixel is "
        "removed and 0 elsewhere. The second figure shows pictures without half of their pixels.",
    ]


COLOURS = {"": "tab:blue", "IG-": "tab:orange", "GB-": "tab:green", "zz": "0.2"}
STYLES = {"SmoothGrad": "--", "SmoothGrad²": ":", "VarGrad": "-.", "edge detector": "--"}


def _draw_curves(found: dict[str, Found]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 0.6 + 3.6 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), len(KINDS), squeeze=False, sharey="row")
    for line, (title, each) in zip(axes, found.items(), strict=True):
        for ax, (kind, text) in zip(line, KINDS.items(), strict=True):
            for name, values in each.curves[kind].items():
                _draw_curve(ax, name, MASKED if kind == "mask" else LEVELS, values)
            ax.axhline(100 * each.original.mean(), color="0.7", linewidth=0.8)
            ax.set_title(f"{title}, {kind}", fontsize=11)
            ax.set_xlabel(f"% of pixels {text}", fontsize=9)
            ax.grid(linewidth=0.4)
        line[0].set_ylabel("accuracy, %")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=9, handlelength=3)
    return figure


def _draw_curve(ax: Any, name: str, shares: tuple[float, ...], values: np.ndarray) -> None:
    levels = 100 * np.array(shares)
    style = next(
        (STYLES[end] for end in (*NOISY[::-1], "edge detector") if name.endswith(end)), "-"
    )
    options = {"color": COLOURS[_base(name)], "linestyle": style}
    ax.plot(levels, 100 * values.mean(axis=1), label=name, linewidth=1.4, **options)
    ax.fill_between(
        levels, 100 * values.min(axis=1), 100 * values.max(axis=1), alpha=0.12,
        color=options["color"], linewidth=0,
    )  # fmt: skip


def _draw_pictures(found: dict[str, Found]) -> Any:
    from matplotlib.figure import Figure

    rows = [(each, k) for each in found.values() for k in FIRST]
    names = [n for n in ESTIMATORS if n in next(iter(found.values())).ranks]
    figure = Figure(figsize=(1.15 * (len(names) + 1), 1.3 * len(rows) + 0.4), layout="constrained")
    axes = figure.subplots(len(rows), len(names) + 1)
    for line, (each, k) in zip(axes, rows, strict=True):
        pixels = each.images[k]
        line[0].imshow(pixels.reshape(28, 28), cmap="gray", vmin=0, vmax=1)
        for ax, name in zip(line[1:], names, strict=True):
            if name not in each.ranks:
                ax.set_axis_off()
                continue
            left = retraining.degraded(pixels, each.ranks[name][k], 392, False, each.mean)
            ax.imshow(np.asarray(left).reshape(28, 28), cmap="gray", vmin=0, vmax=1)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    for ax, name in zip(axes[0], ("picture", *names), strict=True):
        ax.set_title(name.replace("-", "-\n").replace(" ", "\n"), fontsize=9)
    return figure
