"""Maps of a network, and of one that undoes a shift of its inputs (unreliability, figs. 2–5)."""

from typing import Any

import numpy as np

from paper_repro.experiments.shift_study import (
    ATTRIBUTION,
    CAT,
    CELL,
    CHECKERS,
    CLIP,
    CONSTANT,
    FIGURE_4,
    METHODS,
    NETWORK,
    NOISE,
    OTHER_CHECKERS,
    PLAIN,
    SHIFTS,
    SIGNAL,
    SMOOTH,
    SMOOTHED,
    WHOLE_CAT,
    Study,
    relative,
    study_of,
    summary,
)
from paper_repro.networks import digits, training
from paper_repro.report.accuracy import close_to
from paper_repro.report.results import Claim, Result, Setting, Table, decimal
from xattr import metrics, plot

EXACT = 1e-10
"""Maps in float64 are identical if they differ by less, relative to their largest value."""
APART = 1e-2
"""Maps are different if they differ by more on every image."""
VISIBLE = 0.1
"""An image hidden in the shift is visible if the map's correlation with it rises by more."""


def run(setting: Setting) -> Result:
    """Compare the maps of network 1 at x and of network 2 at x + m, for three kinds of m."""
    study = study_of(setting)
    return Result(
        title="Input invariance: the same network on shifted inputs (unreliability, figures 2–5)",
        figures={
            "": _constant_figure(study),
            "checkerboard": _vector_figure(study, CHECKERS),
            "cat": _vector_figure(study, CAT),
        },
        numbers=_numbers(study),
        claims=_claims(study),
        tables=[_map_table(study), _hidden_table(study), _pattern_table(study)],
        notes=_notes(study, setting),
    )


def _stated(name: str, shift: str) -> bool | None:
    if shift not in (CONSTANT, CHECKERS, CAT):
        return None
    method = METHODS[name]
    return method.constant if shift == CONSTANT else method.vector


def _agrees(stated: bool | None, apart: np.ndarray) -> bool | None:
    """Tell whether maps are identical, if that is stated, or else differ on every image."""
    if stated is None:
        return None
    return bool(apart.max() < EXACT if stated else apart.min() > APART)


def _number(value: float) -> str:
    """Write a relative difference with three digits, or with one if it is tiny: 6e−7."""
    if value == 0:
        return "0"
    if value < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", "−")
    return f"{value:.3g}" if value < 1_000 else f"{value:.1e}".replace("e+0", "e")


def _measured(apart: np.ndarray) -> str:
    if apart.max() == 0:
        return "0"
    if apart.max() < EXACT:
        return f"0 (at most {_number(float(apart.max()))})"
    return f"{_number(float(apart.mean()))} (max {_number(float(apart.max()))})"


def _claims(study: Study) -> list[Claim]:
    return [
        *_network_claims(study),
        *_map_claims(study),
        *_hidden_claims(study),
        *_pattern_claims(study),
    ]


def _network_claims(study: Study) -> list[Claim]:
    single, double = study.predictions["float32"], study.predictions["float64"]
    first, second = (100 * single[CONSTANT][f"accuracy of network {number}"] for number in (1, 2))
    worst = max(row["relative"] for row in single.values())
    exact = max(row["relative"] for row in double.values())
    same = min(row["same class"] for row in single.values())
    count = study.size.test_images
    return [
        Claim(
            "test accuracy of both networks (§2.1)",
            "98.3 % for both",
            f"{first:.2f} % and {second:.2f} % ({count:,} images; network 1 on all 10,000: "
            f"{100 * study.trained.test_accuracy:.2f} %)",
            close_to(first / 100, 0.983, count) and abs(second - first) < 0.05,
            "the paper does not give rate and batch size; a difference of at most three standard "
            "errors counts as agreement",
        ),
        Claim(
            "f₂(x + m) = f₁(x), three shifts (§2)",
            "equal",
            f"largest relative difference {_number(worst)} in float32, {_number(exact)} in "
            f"float64; the same class for {100 * same:.2f} % of the images",
            worst <= 1e-5 and exact <= EXACT,
            "the largest difference of a logit, divided by the largest logit; at most 1e−5 counts "
            "as equal in float32",
        ),
    ]


DRAWN = [
    ("fig. 2, constant shift", CONSTANT, [n for n in PLAIN if METHODS[n].group == SIGNAL]),
    ("fig. 3, constant shift", CONSTANT, FIGURE_4),
    ("fig. 4, checkerboard", CHECKERS, FIGURE_4),
    ("fig. 5, cat", CAT, FIGURE_4),
    ("arXiv version 1, constant shift", CONSTANT, SMOOTHED),
]
"""The paper's figures: (name, shift, methods that it shows)."""


def _map_claims(study: Study) -> list[Claim]:
    claims = []
    for where, shift, names in DRAWN:
        for name in names:
            stated, apart = _stated(name, shift), study.apart(name, shift)
            if stated is None:
                continue
            claims.append(
                Claim(
                    f"{where}: {name}",
                    "identical maps" if stated else "different maps",
                    _measured(apart),
                    _agrees(stated, apart),
                    _remark(name, shift, study),
                )
            )
    return claims


def _remark(name: str, shift: str, study: Study) -> str:
    if name == "IG, black baseline" and shift == CHECKERS:
        other = _measured(study.apart(name, OTHER_CHECKERS))
        followed = _measured(study.apart("IG, shifted baseline", shift))
        return (
            "black is 0 on this board, so this is IG from zero. On a board of −1 and 0 the "
            f"difference is {other}; with the baseline shifted by the board, too, it is {followed}"
        )
    if name == "DTD, LRP root" and shift == CONSTANT:
        included = _measured(study.apart("DTD, LRP root, bias in", shift))
        return (
            "the bias is left out of the denominator. With it, as in the authors' code, the rule "
            f"is gradient ⊙ input, and the difference is {included}"
        )
    return ""


def _hidden_claims(study: Study) -> list[Claim]:
    claims = []
    for shift, likeness, what in (
        (CHECKERS, study.checkered, "fig. 4: the checkerboard shows in the map"),
        (CAT, study.likeness, "fig. 5: the cat shows in the map"),
    ):
        for name in FIGURE_4:
            before, after = (float(likeness(name, at).mean()) for at in ("", shift))
            expected = METHODS[name].base != "pa"
            remark = _hidden_remark(study, shift, likeness) if METHODS[name].base == "lrp" else ""
            claims.append(
                Claim(
                    f"{what}: {name}",
                    "it does" if expected else "it does not",
                    f"correlation {decimal(before, 2)} before, {decimal(after, 2)} after",
                    (after - before > VISIBLE) == expected,
                    remark,
                )
            )
    gap = relative(study.target, study.maps["gradient ⊙ input", WHOLE_CAT])
    claims.append(
        Claim(
            "without clipping, gradient ⊙ input would show only the cat (§4)",
            "the cat alone",
            f"the drawing ŝ, with a relative difference of {_number(float(gap.max()))}",
            bool(gap.max() < 1e-6),
        )
    )
    return claims


def _hidden_remark(study: Study, shift: str, likeness: Any) -> str:
    included = float(likeness("DTD, LRP root, bias in", shift).mean())
    remark = f"with the bias, as in the authors' code, it is {decimal(included, 2)} after"
    if shift != CAT:
        return remark
    before, after = (float(study.outline("DTD, LRP root", at).mean()) for at in ("", shift))
    return (
        f"the outline of the cat shows (rank correlation of absolute values {decimal(before, 2)} "
        f"before, {decimal(after, 2)} after), but denominators near 0 give both signs; {remark}"
    )


def _pattern_claims(study: Study) -> list[Claim]:
    claims = []
    reasons = {
        "linear": "",
        "relu": "a shift by m changes E₊[x y] − E₊[x] E[y] by m (E₊[y] − E[y]), because E₊ is over "
        "a part of the data. With patterns kept from network 1, PA is invariant",
    }
    for kind, text in (("linear", "eq. 2, linear"), ("relu", "the estimator for ReLUs")):
        row = study.estimated[kind][CONSTANT]
        first, worst = row["patterns"]["h1"], row["PA"]["max"]
        claims.append(
            Claim(
                "PA is invariant by construction (§3.3.2), with patterns estimated anew on the "
                f"shifted data: {text}",
                "identical maps",
                f"relative change of the first layer's patterns {_number(first['median'])} (median "
                f"unit), of PA {_number(row['PA']['mean'])} (max {_number(worst)}), of PN "
                f"{_number(row['PN']['mean'])}",
                worst < EXACT,
                reasons[kind],
            )
        )
    return claims


def _map_table(study: Study) -> Table:
    shifts = [CONSTANT, CHECKERS, CAT, OTHER_CHECKERS]
    rows = []
    for name in METHODS:
        cells = [name]
        for shift in shifts:
            if name not in SHIFTS[shift]:
                cells.append("")
                continue
            apart, stated = study.apart(name, shift), _stated(name, shift)
            verdict = {True: ", agrees", False: ", **differs**", None: ""}[_agrees(stated, apart)]
            cells.append(_measured(apart) + verdict)
        rows.append(cells)
    return Table(
        f"max |A₁ − A₂| / max |A₁|, mean and largest over {study.size.images} images (float64)",
        ["method", *shifts],
        rows,
    )


def _hidden_table(study: Study) -> Table:
    rows = []
    for name in FIGURE_4:
        cells = [name]
        for metric in (metrics.pearson, metrics.spearman):
            for shift in ("", CAT, WHOLE_CAT):
                cells.append(decimal(float(study.likeness(name, shift, metric).mean()), 2))
        cells += [decimal(float(study.checkered(name, at).mean()), 2) for at in ("", CHECKERS)]
        rows.append(cells)
    return Table(
        "Correlation of the map with the cat ŝ, and of its absolute values with the checkerboard",
        [
            "method",
            *(
                f"{metric}, {state}"
                for metric in ("Pearson", "Spearman")
                for state in ("network 1", "clipped", "not clipped")
            ),
            "checkerboard, network 1",
            "network 2",
        ],
        rows,
    )


def _pattern_table(study: Study) -> Table:
    rows = [
        [
            kind,
            shift,
            *(_number(layer["median"]) for layer in row["patterns"].values()),
            *(
                f"{_number(row[short]['mean'])} (max {_number(row[short]['max'])})"
                for short in ("PN", "PA")
            ),
        ]
        for kind, by_shift in study.estimated.items()
        for shift, row in by_shift.items()
    ]
    layers = digits.NETWORKS[NETWORK].layers
    return Table(
        "Patterns estimated anew on the shifted data: relative change of the patterns (median "
        "unit) and of the maps",
        ["estimator", "shift", *(f"patterns of {layer}" for layer in layers), "PN", "PA"],
        rows,
    )


def _numbers(study: Study) -> dict[str, Any]:
    return {
        "accuracy": study.trained.test_accuracy,
        "images": study.chosen,
        "explained_class": study.cases[""].label,
        "label": study.labels,
        "size": study.size._asdict(),
        "relative_difference": {
            shift: {name: summary(study.apart(name, shift)) for name in names}
            for shift, names in SHIFTS.items()
            if shift
        },
        "predictions": study.predictions,
        "patterns": study.estimated,
        "clipped_share": float((np.abs(study.cases[CAT].shift) >= CLIP).mean()),
        "likeness": {
            name: {
                shift or "network 1": {
                    "pearson": float(study.likeness(name, shift).mean()),
                    "spearman": float(study.likeness(name, shift, metrics.spearman).mean()),
                    "spearman of absolute values": float(study.outline(name, shift).mean()),
                    "checkered": float(study.checkered(name, shift).mean()),
                }
                for shift in ("", CHECKERS, CAT, WHOLE_CAT)
            }
            for name in FIGURE_4
        },
    }


def _notes(study: Study, setting: Setting) -> list[str]:
    size, labels = study.size, study.cases[""].label
    right = int((labels == study.labels).sum())
    share = float((np.abs(study.cases[CAT].shift) >= CLIP).mean())
    recipe = training.recipe_of(NETWORK, setting)
    return [
        "Network 1 is 784-1024-1024-1024-10 with ReLU. It is trained by SGD at rate "
        f"{recipe.learning_rate} with batches of {recipe.batch} for {study.trained.steps:,} steps; "
        f"its test accuracy is {100 * study.trained.test_accuracy:.2f} %. Network 2 has the same "
        "weights, and b₂ = b₁ − Wᵀm in the first layer (`xattr.attacks.mean_shift`). The maps "
        f"explain the logit of the predicted class, which is the label for {right} of the "
        f"{size.images} test images (drawn by the seed).",
        "The claims are exact, so maps are computed in float64. Maps are identical if their "
        f"relative difference is below {_number(EXACT)} on every image, and different if it is "
        f"above {_number(APART)} on every image.",
        "The shifts are −1, checkerboards and a cat. One checkerboard has squares of "
        f"{CELL}×{CELL} pixels with 0 and 1 (the paper gives neither values nor size); another has "
        "−1 and 0, so that black is not zero. The cat is a shift for each image, "
        f"m = clip(ŝ / ∇f₁(x) − x, ±{CLIP}): ŝ is a drawing whose largest value is that of "
        f"|gradient ⊙ input|, and {100 * share:.0f} % of the pixels are clipped. The black "
        "baseline is the smallest pixel of the shifted data set; the shifted baseline is zero + m.",
        f"IG takes {size.nodes} Gauss–Legendre nodes. DTD with the LRP root is the z-rule with the "
        "bias left out of the denominator; the authors' code is gradient ⊙ input, which is the "
        "z-rule with the bias. Patterns are fitted to "
        f"{size.pattern_images:,} training images of network 1 by the ReLU estimator, and kept for "
        f"network 2. SmoothGrad takes {size.samples} samples, with the same noise for both "
        f"networks. Its deviation is {NOISE} (max − min) of the image before the shift, because "
        "checkerboard and cat change the range of x + m. SmoothGrad is in version 1 of the paper "
        "on arXiv (its figure 4).",
        f"A hidden image is visible if the correlation with it rises by more than {VISIBLE}: that "
        "of the map with the cat, that of its absolute values with the checkerboard.",
        "Red is positive and blue negative; each panel is scaled to its own 99.5th percentile.",
    ]


def _constant_figure(study: Study) -> Any:
    """Draw figures 2 and 3, and SmoothGrad: two rows for each group of methods."""
    from matplotlib.figure import Figure

    titles = {
        SIGNAL: "Gradient and signal methods (figure 2)",
        ATTRIBUTION: "Attribution methods (figure 3)",
        SMOOTH: "SmoothGrad of some of them",
    }
    columns = 1 + max(sum(method.group == group for method in METHODS.values()) for group in titles)
    figure = Figure(figsize=(1.15 * columns + 0.5, 9.4), layout="constrained")
    bands: Any = figure.subfigures(len(titles), 1)
    for band, group in zip(bands, titles, strict=True):
        band.suptitle(titles[group], fontsize=11)
        names = [name for name, method in METHODS.items() if method.group == group]
        rows = {"network 1\n[0, 1]": "", "network 2\n[−1, 0]": CONSTANT}
        _draw_rows(band.subplots(2, columns, squeeze=False), study, names, rows)
    return figure


def _vector_figure(study: Study, shift: str) -> Any:
    """Draw figure 4 or 5: the methods that use the input, and what was hidden in the shift."""
    from matplotlib.figure import Figure

    rows = {"network 1": "", "network 2": shift}
    if shift == CAT:
        rows |= {"network 2,\nnot clipped": WHOLE_CAT}
    figure = Figure(figsize=(9, 1.42 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(FIGURE_4) + 2, squeeze=False)
    _draw_rows(axes[:, :-1], study, FIGURE_4, rows)
    _draw_shift(axes[:, -1], study, rows.values(), shift)
    return figure


def _draw_rows(axes: Any, study: Study, names: list[str], rows: dict[str, str]) -> None:
    for number, (title, shift) in enumerate(rows.items()):
        cells = axes[number]
        _show(cells[0], study.cases[shift].image[study.example, ..., 0], signed=False)
        cells[0].set_ylabel(title, fontsize=9)
        for cell, name in zip(cells[1:], names, strict=False):
            _show(cell, study.maps[name, shift][study.example], signed=True)
        for cell in cells[1 + len(names) :]:
            cell.axis("off")
        if number == 0:
            cells[0].set_title("input", fontsize=9)
            for cell, name in zip(cells[1:], names, strict=False):
                cell.set_title(METHODS[name].short, fontsize=9)


def _draw_shift(cells: Any, study: Study, shifts: Any, shift: str) -> None:
    cells[0].set_title("ŝ" if shift == CAT else "", fontsize=9)
    for cell, at in zip(cells, shifts, strict=True):
        if at:
            _show(cell, study.cases[at].shift[study.example, ..., 0], signed=shift == CAT)
            cell.set_title("m", fontsize=9)
        elif shift == CAT:
            _show(cell, study.target[study.example], signed=True)
        else:
            cell.axis("off")


def _show(cell: Any, values: np.ndarray, *, signed: bool) -> None:
    if signed:
        plot.heatmap(cell, values)
    else:
        cell.imshow(values, cmap="gray")
    cell.set(xticks=[], yticks=[])
