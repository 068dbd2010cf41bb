"""Maps while an ImageNet network is randomized (Adebayo et al., app. B; Nie et al.; slides)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from paper_repro.experiments.photograph_cascade import (
    BATCH,
    BLUR,
    COUNT,
    DRAWN,
    EPSILON,
    FEW,
    LIKENESS,
    METRICS,
    NODES,
    PATTERN_NET,
    RIVALS,
    SAMPLES,
    SILENT,
    SLOW_COUNT,
    STEPS,
    Study,
    mean_of,
    study_of,
)
from paper_repro.report.results import Claim, Result, Setting, Table, decimal
from paper_repro.report.similarity import PHOTOGRAPH_CELL, SSIM_WINDOW

TITLES = {
    "signed": "ρ of A with its signs",
    "abs": "ρ of |A|",
    "HOG": "HOG of |A|",
    "SSIM": "SSIM of |A|",
}
CALIBRATION = {
    "gradient": "(−.000, .000, −.002, .000)",
    "integrated gradients": "(.001, .001, .005, .000)",
    "gradient ⊙ input": "(.001, .001, −.002, .000)",
    "uniform": "(.000, −.002, .078, .001)",
    "Gaussian": "(.000, .000, −.001, .000)",
}
"""Printed means over 50 images: of a method's map and a Gaussian mask, or of two masks."""
NEAR_ZERO = 0.1
"""Unrelated masks are this near to 0 at most; the largest that the paper prints is .078."""
KEPT = 0.8
"""A rank correlation above which we say that a map hardly changes."""
HALF = 9
"""Methods that share a figure or a row of one."""
THUMBNAIL = 56
"""Pixels along a side of a drawn map."""
CONVERGING = ("deep Taylor", "PatternAttribution", "LRP preset A, flat")
"""Rules that keep to one sign, for which Sixt et al. show that later layers lose their say."""


def run(setting: Setting) -> Result:
    """Randomize units of blocks from the output down, and alone, and compare maps."""
    study = study_of(setting)
    return Result(
        title="Maps while an ImageNet network is randomized (sanity checks, app. B; Nie et al.)",
        figures={
            "": _draw_curves(study, independent=False),
            "independent": _draw_curves(study, independent=True),
            **_draw_maps(study),
            "input": _draw_likeness(study),
        },
        numbers=_numbers(study),
        claims=_claims(study),
        tables=[*_tables(study)],
        notes=_notes(study),
    )


def _numbers(study: Study) -> dict[str, Any]:
    def means(independent: bool) -> dict[str, Any]:
        return {
            name: {m: study.mean(name, m, independent=independent) for m in METRICS}
            for name in study.cascading
        }

    return {
        "units": study.order,
        "photographs": [each.name for each in study.scene.photographs],
        "photographs_of": {name: each.shape[-1] for name, each in study.masks.items()},
        "cascading": means(False),
        "independent": means(True),
        "deviation_of_abs": {
            name: each[:, METRICS.index("abs")].std(-1) for name, each in study.cascading.items()
        },
        "calibration": {
            name: dict(zip(METRICS, mean_of(each), strict=True))
            for name, each in (study.masks | study.pairs).items()
        },
        "likeness": {name: _ends(study, name) for name in study.likeness},
        "silent_units": study.silent,
    }


def _ends(study: Study, name: str) -> dict[str, dict[str, float]]:
    """Return the mean likeness to the picture: kind -> trained and random -> value."""
    trained, random = mean_of(study.likeness[name])
    return {
        kind: {"trained": float(trained[i]), "random": float(random[i])}
        for i, kind in enumerate(LIKENESS)
    }


# Claims -------------------------------------------------------------------------------------------


def _claims(study: Study) -> list[Claim]:
    return [
        *_claims_of_gradients(study),
        *_claims_of_products(study),
        *_claims_of_rules(study),
        *_claims_of_likeness(study),
        *_claims_of_masks(study),
    ]


def _text(study: Study, name: str, metrics: Sequence[str] = METRICS, count: int = 2) -> str:
    """Write the first values of a method's curves: by metric, classifier and head."""
    return "; ".join(
        f"{TITLES[metric]} {' '.join(map(decimal, study.mean(name, metric)[:count]))}"
        for metric in metrics
    )


def _claims_of_gradients(study: Study) -> Iterator[Claim]:
    guided, plain, cam = (
        {metric: study.mean(name, metric) for metric in METRICS}
        for name in ("guided backprop", "gradient", "Grad-CAM")
    )
    yield Claim(
        "guided backprop hardly changes when the top layers are random (classifier, head)",
        "nearly invariant",
        _text(study, "guided backprop"),
        bool(guided["abs"][:2].min() > KEPT),
        f"a ρ of |A| above {decimal(KEPT, 1)} counts as hardly changed. The paper's first version "
        "said invariant; the authors have since restricted it to the top layers",
    )
    yield Claim(
        "guided backprop changes less than the gradient when the top layers are random",
        "less",
        f"ρ of A with its signs {' '.join(map(decimal, guided['signed'][:2]))} against "
        f"{' '.join(map(decimal, plain['signed'][:2]))}",
        bool((guided["signed"][:2] > plain["signed"][:2]).all()),
    )
    yield Claim(
        "the gradient changes as soon as the classifier is random",
        "it does",
        _text(study, "gradient", count=1),
        bool(plain["signed"][0] < 0.5),
        "|A| keeps a correlation, because whatever the class the gradient is large where the "
        "layers below respond; the signs are lost at once",
    )
    yield Claim(
        "Grad-CAM changes as soon as the classifier is random",
        "it does",
        _text(study, "Grad-CAM", ("abs", "HOG", "SSIM"), 1),
        bool(cam["abs"][0] < 0.5),
    )
    edges = min(float(study.cascading["edge detector"].min()), 1.0)
    yield Claim(
        "the edge detector does not depend on the network (control)",
        "1",
        decimal(edges),
        bool(edges > 1 - 1e-6),
    )
    if "guided Grad-CAM" in study.cascading:
        product = study.mean("guided Grad-CAM", "abs")
        yield Claim(
            "guided Grad-CAM hardly changes when the top layers are random (classifier, head)",
            "nearly invariant",
            _text(study, "guided Grad-CAM"),
            bool(product[:2].min() > KEPT),
            "our Grad-CAM changes and has zeros where the class is opposed, and the product takes "
            "over these zeros",
        )


def _claims_of_products(study: Study) -> Iterator[Claim]:
    for name in ("gradient ⊙ input", "integrated gradients"):
        if name not in study.cascading:
            continue
        signed, size = (study.mean(name, metric)[-1] for metric in ("signed", "abs"))
        yield Claim(
            f"{name}: |A| keeps the picture when all layers are random, A with its signs does not",
            "ρ of |A| high, with signs near 0",
            f"ρ of |A| {decimal(size)}, with signs {decimal(signed)}",
            bool(size > 0.3 and abs(signed) < NEAR_ZERO),
            "a factor x is common to all networks (above .3 and below .1 count as agreement)",
        )


def _claims_of_rules(study: Study) -> Iterator[Claim]:
    for name in CONVERGING:
        if name in study.cascading:
            values = study.mean(name, "abs")
            yield Claim(
                f"{name} hardly depends on the later layers (Sixt et al. 2020)",
                "converges, so it hardly changes",
                _text(study, name),
                bool(values[:2].min() > KEPT),
                f"ρ of |A| by depth: {' '.join(map(decimal, values))}. {_why(name)}",
            )
    if PATTERN_NET in study.cascading:
        yield Claim(
            "PatternNet hardly changes when the top layers are random",
            "nearly invariant",
            _text(study, PATTERN_NET),
            bool(study.mean(PATTERN_NET, "abs")[:2].min() > KEPT),
            "its patterns stay those of the trained network: randomizing reaches the map by the "
            "masks of the ReLUs and a factor alone. This factor is the logit, whose sign a random "
            "classifier often turns",
        )
    if "DeepLIFT" in study.cascading:
        signed = study.mean("DeepLIFT", "signed")
        yield Claim(
            "DeepLIFT depends on the later layers (Sixt et al. 2020)",
            "it does not converge",
            _text(study, "DeepLIFT"),
            bool(signed[0] < 0.5),
        )
    if "CGI" in study.cascading:
        yield Claim(
            "CGI passes the test (Gupta & Arora)",
            "map changes with the top layer",
            _text(study, "CGI", count=1),
            bool(study.mean("CGI", "abs")[0] < 0.5),
            f"{RIVALS} classes compete here, 1000 in the paper",
        )


def _why(name: str) -> str:
    if name.startswith("LRP"):
        return "The ε-rule of the classifier lets both signs through, so that nothing converges yet"
    if name == "PatternAttribution":
        return (
            "The patterns stay while the weights change, and their products have both signs, so "
            "that nothing has to converge"
        )
    return "The map has the sign of the logit, which a random classifier often turns"


def _claims_of_likeness(study: Study) -> Iterator[Claim]:
    guided, plain = (_ends(study, name) for name in ("guided backprop", "gradient"))
    yield Claim(
        "guided backprop stays like the picture for random weights (Nie et al. 2018)",
        "partial recovery of the picture",
        _ends_text(guided),
        bool(guided["picture"]["random"] >= 0.5 * guided["picture"]["trained"]),
        "a half of the trained network's correlation with the picture counts as kept. The paper "
        "says that the picture itself is recovered, not its edges: strength is not high at edges",
    )
    yield Claim(
        "the gradient is not like the picture, for trained and for random weights "
        "(Nie et al. 2018)",
        "noise",
        _ends_text(plain),
        bool(max(plain["picture"].values()) < NEAR_ZERO),
        f"a correlation with the picture below {decimal(NEAR_ZERO, 1)} counts as none. Where the "
        "correlation with the edges is negative, the gradient is larger in smooth parts",
    )


def _ends_text(ends: dict[str, dict[str, float]]) -> str:
    return "; ".join(
        f"with {'its edges' if kind == 'edges' else 'the picture'} {decimal(values['trained'])} "
        f"trained, {decimal(values['random'])} random"
        for kind, values in ends.items()
    )


def _claims_of_masks(study: Study) -> Iterator[Claim]:
    for name, printed in CALIBRATION.items():
        values = study.pairs.get(name, study.masks.get(name))
        if values is None:
            continue
        means = mean_of(values)
        what = f"two {name} masks" if name in study.pairs else f"{name} and a Gaussian mask"
        yield Claim(
            f"app. B, calibration (signed, |A|, HOG, SSIM): {what}",
            printed,
            f"({', '.join(map(decimal, means))})",
            bool(np.abs(means).max() < NEAR_ZERO),
            f"below {decimal(NEAR_ZERO, 1)} in absolute value counts as 0",
        )


# Tables and notes ---------------------------------------------------------------------------------


def _tables(study: Study) -> Iterator[Table]:
    for independent in (False, True):
        found = study.independent if independent else study.cascading
        rows = [
            [
                name,
                str(values.shape[-1]),
                TITLES[metric],
                *map(decimal, study.mean(name, metric, independent=independent)),
            ]
            for name, values in found.items()
            for metric in METRICS
        ]
        yield Table(
            "Each unit random alone: mean over the photographs"
            if independent
            else "Cascading from the output down: mean over the photographs, by depth",
            ["method", "photographs", "metric", *study.order],
            rows,
        )
    yield _table_of_likeness(study)
    calibration = {f"{name} and a mask": values for name, values in study.masks.items()}
    calibration |= {f"two {name} masks": values for name, values in study.pairs.items()}
    yield Table(
        "Calibration: the trained network's map and a Gaussian mask, and two masks",
        ["pair", *(TITLES[metric] for metric in METRICS)],
        [[name, *map(decimal, mean_of(values))] for name, values in calibration.items()],
    )


def _table_of_likeness(study: Study) -> Table:
    ends = {name: _ends(study, name) for name in study.likeness}
    head = ["method", *(f"{kind}, {end}" for kind in LIKENESS for end in ("trained", "random"))]
    rows = [
        [name, *(decimal(each[kind][end]) for kind in LIKENESS for end in each[kind])]
        for name, each in ends.items()
    ]
    return Table("Correlation with the input picture, trained and random weights", head, rows)


def _notes(study: Study) -> list[str]:
    count = len(study.scene.photographs)
    notes = [
        study.scene.source + f" The first {count} are taken. Methods that need many gradients or "
        "slow ones take fewer of them, and the tables say how many.",
        "Every network explains the logit of the class that the trained network predicts. A unit "
        "of the tables is randomized as a whole: filters, biases and all four variables of its "
        "batch normalizations. Blocks of one width are one unit, which halves the time of a run. "
        "New values are those before training: filters of variance 2 / inputs, scale 1, "
        "bias 0, mean 0 and variance 1. The default of `xattr.sanity`, a normal distribution "
        "around 0, would make running variances negative.",
        "A pixel's score is Σ_c A_c over the colours with its signs and Σ_c |A_c| without them. ρ "
        "is Spearman's correlation. HOG and SSIM take Σ_c |A_c| scaled to [0, 1], HOG with cells "
        f"of {PHOTOGRAPH_CELL} pixels and Pearson's correlation, SSIM with windows of "
        f"{SSIM_WINDOW} pixels. A value that is not defined, such as a correlation with a map of "
        "zeros, is left out of the mean.",
        "Grad-CAM is that of the head's features before their ReLU. Likeness to the picture is "
        "the absolute Pearson correlation of the signed scores with the grey picture, and "
        "Spearman's ρ of the unsigned ones with the strength of the picture's edges. Random "
        "weights are those of the last stage of the cascade.",
        f"Figures show maps of the free photograph {DRAWN}, averaged over squares of pixels.",
    ]
    if PATTERN_NET in study.cascading:
        notes += [_settings(), _pattern_note(study)]
    return notes


def _settings() -> str:
    return (
        f"Full runs take at most {COUNT} photographs, {SLOW_COUNT} for the slow methods and {FEW} "
        f"for the learned mask, in batches of {BATCH}. The paper's 50 nodes and samples would take "
        f"longer than all else: IG has {NODES} midpoints from black here, and SmoothGrad {SAMPLES} "
        "samples of deviation .15 (max − min). CGI needs a gradient for every class; "
        f"{RIVALS} classes compete, those that "
        "the trained network finds most likely. LRP-Z and LRP-ε hold the biases in their "
        "denominators, as in iNNvestigate; without the biases their maps of the trained network "
        f"were NaN in float32. ε is {EPSILON:g}. Deep Taylor takes the bounds 0 and 1 at the first "
        "layer. The learned mask (Fong & Vedaldi; fig. 36 of the paper has it for AlexNet) lowers "
        f"the probability of the class in {STEPS} steps, a third of theirs; what it hides is "
        f"blurred by {BLUR:g} pixels. A network to which the class is as unlikely as any leaves it "
        "nothing to hide: the mask is empty, and its correlations are not defined."
    )


def _pattern_note(study: Study) -> str:
    return (
        "Patterns are fitted once, by the linear estimator, on the trained network and "
        f"{study.pattern_photographs} photographs, few for this purpose; they are kept for random "
        "networks. The estimator for ReLUs is not used: PatternNet was NaN with it, probably "
        f"because its denominators come near 0. Units with an entry above {SILENT:g} hardly change "
        "from photograph to photograph and get no pattern: "
        f"{100 * study.silent:.1f} % of all units. PatternNet's signal starts at a tiny multiple "
        "of the logit, because it grows by 28 orders of magnitude on its way; the map is the same "
        "up to that factor."
    )


# Figures ------------------------------------------------------------------------------------------


def _draw_curves(study: Study, *, independent: bool) -> Any:
    """Draw a row of metrics for each half of the methods."""
    from matplotlib.figure import Figure

    names = list(study.cascading)
    halves = [half for half in (names[:HALF], names[HALF:]) if half]
    figure = Figure(figsize=(13, 3.3 * len(halves) + 0.6), layout="constrained")
    figure.suptitle("Each unit random alone" if independent else "Cascading from the output down")
    axes = figure.subplots(len(halves), len(TITLES), squeeze=False, sharex=True, sharey="col")
    for row, half in zip(axes, halves, strict=True):
        for ax, metric in zip(row, TITLES, strict=True):
            _lines(ax, study, half, metric, independent)
        row[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), fontsize=8)
    for ax, title in zip(axes[0], TITLES.values(), strict=True):
        ax.set_title(title, size=11)
    text = "unit that is random" if independent else "units random from the output down to"
    figure.supxlabel(text, size=10)
    return figure


def _lines(ax: Any, study: Study, names: Sequence[str], metric: str, independent: bool) -> None:
    from matplotlib import colormaps

    places = np.arange(len(study.order))
    for i, name in enumerate(names):
        values = study.mean(name, metric, independent=independent)
        colour = colormaps["tab10"](i)
        style = "-" if i % 2 else "--"
        ax.plot(places, values, style, marker="o", markersize=3, color=colour, label=name)
    ax.axhline(0, color="0.7", linewidth=0.8)
    ax.set_xticks(places, study.order, rotation=60, ha="right", size=8)


def _draw_maps(study: Study) -> dict[str, Any]:
    """Draw the maps of the free photograph: a row for each method, columns for the stages."""
    names = list(study.drawn)
    return {
        suffix: _grid(study, part)
        for suffix, part in {"maps": names[:HALF], "maps-rules": names[HALF:]}.items()
        if part
    }


def _grid(study: Study, names: Sequence[str]) -> Any:
    from matplotlib.figure import Figure

    titles = ["trained", *study.order]
    columns = _some(len(titles))
    left, top, step = 135, 45, THUMBNAIL + 4
    width, height = left + step * len(columns), top + step * len(names)
    figure = Figure(figsize=(width / 100, height / 100))
    for i, name in enumerate(names):
        for j, column in enumerate(columns):
            # One pixel of the figure for each value: it stays sharp, and its file small.
            x, y = left + step * j, height - top - step * (i + 1) + 4
            place = (x / width, y / height, THUMBNAIL / width, THUMBNAIL / height)
            ax = figure.add_axes(place, xticks=[], yticks=[], frame_on=False)
            values = _thumbnail(study.drawn[name][column])
            ax.imshow(values, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
            if not j:
                ax.set_ylabel(name, rotation=0, ha="right", va="center", size=8)
            if not i:
                ax.set_title(titles[column].replace(" ", "\n"), size=8)
    return figure


def _some(count: int) -> list[int]:
    """Return seven stages at most: the first three, the last, and some between."""
    if count <= 7:
        return list(range(count))
    return [0, 1, 2, *np.linspace(2, count - 1, 5)[1:].round().astype(int).tolist()]


def _thumbnail(scores: np.ndarray, levels: int = 15) -> np.ndarray:
    """Average squares of pixels and keep few grey levels, so that a figure has few bytes."""
    square = len(scores) // THUMBNAIL
    side = THUMBNAIL * square
    scores = np.nan_to_num(scores[:side, :side].astype(float))
    small = scores.reshape(THUMBNAIL, square, THUMBNAIL, square).mean((1, 3))
    top = np.percentile(small, 99) or small.max() or 1.0
    return np.round(np.clip(small / top, 0, 1) * levels) / levels


def _draw_likeness(study: Study) -> Any:
    from matplotlib.figure import Figure

    names = list(study.likeness)
    figure = Figure(figsize=(9, 0.32 * len(names) + 1.6), layout="constrained")
    places = np.arange(len(names))
    titles = ("|correlation| of A with the grey picture", "ρ of |A| with the picture's edges")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, kind, title in zip(axes, LIKENESS, titles, strict=True):
        for shift, end in ((-0.2, "trained"), (0.2, "random")):
            values = [_ends(study, name)[kind][end] for name in names]
            ax.barh(places + shift, values, 0.38, label=f"{end} weights")
        ax.set_title(title, size=10)
        ax.axvline(0, color="0.5", linewidth=0.8)
    axes[0].set_yticks(places, names)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
