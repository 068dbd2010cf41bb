"""How maps change while the layers of a network are randomized, MNIST (note, fig. 2; slides)."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import xattr
from paper_repro.data import mnist
from paper_repro.experiments.cascade import Study, label_of, note_curves, random_floor, study_of
from paper_repro.networks import training
from paper_repro.report.accuracy import claim_of_accuracy
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, with_interval
from paper_repro.report.similarity import METRICS

PRINTED = {
    "cnn": {
        "gradient": (0.601, 0.396, 0.106, 0.082),
        "SmoothGrad": (0.536, 0.330, 0.180, 0.213),
        "guided backprop": (0.888, 0.773, 0.628, 0.444),
        "integrated gradients": (0.9940, 0.9932, 0.9926, 0.9920),
        "gradient ⊙ input": (0.9932, 0.9930, 0.9927, 0.9916),
        "IG-SmoothGrad": (0.577, 0.429, 0.379, 0.361),
        "Grad-CAM": (0.556, 0.344, 0.290, 0.299),
        "guided Grad-CAM": (0.555, 0.359, 0.329, 0.282),
    },
    "mlp": {
        "gradient": (0.234, 0.099, 0.015, 0.020),
        "SmoothGrad": (0.255, 0.124, 0.007, 0.025),
        "guided backprop": (0.903, 0.823, 0.439, 0.044),
        "integrated gradients": (0.9937, 0.9927, 0.9919, 0.9927),
        "gradient ⊙ input": (0.9936, 0.9927, 0.9918, 0.9927),
        "IG-SmoothGrad": (0.407, 0.368, 0.335, 0.345),
    },
}
"""Mean Spearman correlation of |A| over the first ten test images, as printed in the authors'
notebooks: layers are randomized from the output down and initialised as before training."""

CLOSE = 0.1
"""Largest difference from a printed correlation of ten images that still counts as agreement."""
CLOSE_BY_ZEROS = 0.005
"""The same where common zeros alone give .992: the printed deviation between images."""


def run(setting: Setting) -> Result:
    """Randomize the CNN and the MLP layer by layer, and compare maps with the trained ones."""
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    trained = {name: training.network(name, setting, data) for name in ("cnn", "mlp")}
    curves = note_curves(setting, data, trained["cnn"].params)
    floor = random_floor(setting, data, trained["cnn"].params)
    studies = {
        "cnn": study_of(setting, data, "cnn", trained["cnn"].params),
        "cnn, independent": study_of(setting, data, "cnn", trained["cnn"].params, independent=True),
        "mlp": study_of(setting, data, "mlp", trained["mlp"].params),
    }
    if not setting.quick:
        for name in ("cnn", "mlp"):
            studies[f"{name}, N(0, .01), true class"] = study_of(
                setting, data, name, trained[name].params, note=True
            )
    return Result(
        title="Maps while the layers of a network are randomized, MNIST (note, figure 2; slides)",
        figures={
            "": _draw_note(curves),
            "methods": _draw_studies(studies),
            "maps": _draw_maps(studies["cnn"]),
        },
        numbers={
            "accuracy": {name: net.test_accuracy for name, net in trained.items()},
            "training_steps": {name: net.steps for name, net in trained.items()},
            "training_seconds": {name: net.seconds for name, net in trained.items()},
            "note": curves,
            "random_networks": floor,
            "studies": {name: study.numbers() for name, study in studies.items()},
            "printed": PRINTED,
        },
        claims=[
            *_claims_of_accuracy(trained),
            *_claims_of_note(curves, floor),
            *_claims_of_studies(studies),
        ],
        tables=[*_tables(studies)],
        notes=_notes(studies["cnn"]),
    )


def _claims_of_accuracy(trained: dict[str, training.Trained]) -> Iterator[Claim]:
    yield claim_of_accuracy("CNN", 0.992, trained["cnn"])
    yield claim_of_accuracy("MLP", 0.987, trained["mlp"])


def _claims_of_note(curves: dict[str, Any], floor: dict[str, Any]) -> list[Claim]:
    signed, size, nonzero = (curves[name]["mean"] for name in ("signed", "abs", "nonzero"))
    plateau = nonzero[1:]

    def text(values: dict[str, Any]) -> str:
        return with_interval(values["mean"], values["low99"], values["high99"])

    return [
        Claim(
            "note, fig. 2: signed IG falls to 0 (remark 2)",
            "0.0",
            " ".join(map(decimal, signed)),
            bool(abs(signed[-1]) < 0.1),
        ),
        Claim(
            "note, fig. 2: |IG| stays near 1",
            "nearly 1.0",
            " ".join(map(decimal, size)),
            bool(size.min() > 0.98),
            f"{100 * curves['black']:.1f} % of these pixels are black",
        ),
        Claim(
            "note, fig. 2: |IG| at pixels that are not black drops sharply at the output layer",
            "sharp drop",
            decimal(nonzero[0]),
            bool(nonzero[0] < 0.6),
        ),
        Claim(
            "note, remark 1: it stays at about .4 when more layers are randomized",
            "about .4",
            " ".join(map(decimal, plateau)),
            bool(plateau.min() > 0.33 and plateau.max() < 0.47),
        ),
        Claim(
            "note, remark 1: correlation of |image ⊙ random vector| for two random vectors, at "
            "pixels that are not black",
            ".424 [.413, .437] (99 %)",
            f"uniform numbers {text(floor['uniform'])}",
            bool(floor["uniform"]["high99"] >= 0.413 and floor["uniform"]["low99"] <= 0.437),
            f"{floor['pairs']} of vectors for each of {floor['images']} images, counted as "
            "independent. The note does not say how its vectors are drawn; its number is "
            "consistent with uniform vectors and not with Gaussian ones, which give "
            f"{text(floor['normal'])}",
        ),
        Claim(
            "note, remark 1: correlation of |IG| of two random networks, at pixels that are not "
            "black",
            "about .424",
            text(floor["networks"]),
            None,
            f"{floor['pairs']} of networks drawn from N(0, .01); the interval counts images and "
            "pairs as independent. Gradients of random networks are more like Gaussian vectors "
            "than like uniform ones",
        ),
    ]


def _claims_of_studies(studies: dict[str, Study]) -> list[Claim]:
    claims = []
    for network, printed in PRINTED.items():
        means = {name: found["abs"] for name, found in studies[network].means().items()}
        claims += [
            _compared(network, method, numbers, means[method])
            for method, numbers in printed.items()
            if method in means
        ]
        gradients = [name for name in ("gradient", "SmoothGrad") if name in means]
        top = {name: float(means[name][0]) for name in (*gradients, "guided backprop")}
        claims.append(
            Claim(
                f"slides, {network.upper()}: guided backprop hardly changes at the top layer",
                "highest of the gradient methods",
                ", ".join(f"{name} {decimal(value)}" for name, value in top.items()),
                top["guided backprop"] > max(top[name] for name in gradients),
            )
        )
    return [*claims, *_controls(studies["cnn"])]


def _compared(network: str, method: str, numbers: Sequence[float], means: np.ndarray) -> Claim:
    """Set the printed correlations beside ours."""
    by_zeros = method in ("integrated gradients", "gradient ⊙ input")
    agrees = bool(np.abs(means - numbers).max() <= (CLOSE_BY_ZEROS if by_zeros else CLOSE))
    zeros = "the common zeros decide this: unrelated maps with the same zeros have .992"
    remark = zeros if by_zeros else ""
    return Claim(
        f"notebooks, {network.upper()}, {method}: ρ of |A| by depth",
        " ".join(map(decimal, numbers)),
        " ".join(map(decimal, means)),
        agrees,
        remark if agrees else "; ".join(filter(None, [remark, _why(method)])),
    )


def _controls(study: Study) -> list[Claim]:
    edges = study.values["edge detector"]["abs"]
    rivals, products = (study.means()[name] for name in ("CGI", "gradient ⊙ input"))
    return [
        Claim(
            "edge detector (control): independent of the network",
            "1",
            decimal(float(edges.min())),
            bool(np.allclose(edges, 1, atol=1e-6)),
        ),
        Claim(
            "CGI passes the test (Gupta & Arora)",
            "map changes with the top layer",
            f"ρ of |A| {decimal(float(rivals['abs'][0]))}, with signs "
            f"{decimal(float(rivals['signed'][0]))}, at pixels that are not black "
            f"{decimal(float(rivals['nonzero'][0]))}",
            None,
            "the paper prints no number; those of gradient ⊙ input are "
            f"{decimal(float(products['abs'][0]))}, {decimal(float(products['signed'][0]))} and "
            f"{decimal(float(products['nonzero'][0]))}",
        ),
    ]


def _why(method: str) -> str:
    if method in ("Grad-CAM", "guided Grad-CAM"):
        return "the ReLU's zeros are ties, and the notebook does not say which activation it takes"
    return (
        "either side has one network, one draw of the layers and ten images, and other networks "
        "give other numbers"
    )


def _tables(studies: dict[str, Study]) -> Iterator[Table]:
    for name, study in studies.items():
        rows = [
            [method, metric, *map(_cell, found[metric])]
            for method, found in study.values.items()
            for metric in METRICS
        ]
        head = ["method", "metric", *map(label_of, study.stages)]
        title = f"{name}: mean over {len(study.images)} images, by depth"
        yield Table(
            f"{title}; in brackets the number of images, where constant maps leave some out",
            head,
            rows,
        )


def _cell(values: np.ndarray) -> str:
    """Write the mean over the images, and their number where some have no value."""
    defined = values[np.isfinite(values)]
    if defined.size == values.size:
        return decimal(float(values.mean()))
    return f"{decimal(float(defined.mean()))} ({defined.size})" if defined.size else "undefined"


def _notes(study: Study) -> list[str]:
    return [
        "*The note* (figure 2 and remarks) is followed with the CNN and test images drawn at "
        "random. IG explains the logit of the true class from black, with 50 midpoints. Weights "
        "and biases of a layer are drawn from N(0, 0.01²), cut at two deviations. The note does "
        "not say which images and how many nodes it takes, nor how its network was trained.",
        f"*The notebooks* (the other tables) are followed with the first {len(study.images)} test "
        "images. Each randomized network explains the logit of the class that it predicts. Layers "
        "are drawn by the initialiser they were trained from (CNN: deviation 0.1, biases 0.1; "
        "MLP: deviation 2/√inputs, biases 0). SmoothGrad takes 50 samples of deviation .15 "
        "(max − min), IG the mean of 50 gradients from black to the image, with both ends, and "
        "IG-SmoothGrad 25 samples. The learned mask (Fong & Vedaldi; the paper has it for AlexNet, "
        "fig. 36) lowers the probability of the class in 300 steps, by a mask of 14 × 14 cells. "
        "Tables named N(0, .01), true class, follow the note instead; there the probabilities of a "
        "random network are nearly equal, and a mask has little to lower.",
        "abs and signed are Spearman's ρ of |A| and of A, with average ranks for ties. nonzero is "
        "that of |A| where the image is not black. SSIM takes |A| in [0, 1] and windows of 5 "
        "pixels. HOG is Pearson's correlation, with cells of 7 pixels (the paper's 16 are for "
        "ImageNet). Bands are 95 % intervals over the images. A correlation with a constant map, "
        "such as a Grad-CAM of zeros, is undefined and left out of the mean.",
        f"A printed correlation agrees if ours differs by at most {decimal(CLOSE, 1)} at every "
        f"depth, or by {decimal(CLOSE_BY_ZEROS)} where common zeros decide it. An accuracy agrees "
        "within three standard errors of 10,000 images.",
    ]


def _draw_note(curves: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(curves["stages"]))
    styles = {
        "abs": ("tab:green", "|IG|"),
        "nonzero": ("tab:red", "|IG|, pixels that are not black"),
        "signed": ("tab:blue", "IG with its signs"),
    }
    for name, (colour, text) in styles.items():
        curve = curves[name]
        ax.fill_between(places, curve["low"], curve["high"], color=colour, alpha=0.2, linewidth=0)
        ax.plot(places, curve["mean"], "o-", color=colour, label=text)
    ax.set_xticks(places, list(map(label_of, curves["stages"])))
    ax.set(xlabel="layers randomized from the output down to", ylim=(-0.15, 1.05))
    ax.set_ylabel("Spearman correlation with the trained network")
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.set_title(f"Integrated gradients, mean over {curves['images']} images, 95 % bands", size=10)
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.68), framealpha=0.9)
    return figure


SHOWN_METRICS = {"abs": "ρ of |A|", "signed": "ρ of A", "SSIM": "SSIM of |A|", "HOG": "HOG of |A|"}


def _draw_studies(studies: dict[str, Study]) -> Any:
    from matplotlib.figure import Figure

    chosen = [name for name in ("cnn", "cnn, independent", "mlp") if name in studies]
    figure = Figure(figsize=(11, 2.9 * len(chosen) + 0.7), layout="constrained")
    axes = figure.subplots(len(chosen), len(SHOWN_METRICS), squeeze=False, sharey="col")
    names = list(studies["cnn"].values)
    for row, name in zip(axes, chosen, strict=True):
        study = studies[name]
        for ax, (metric, title) in zip(row, SHOWN_METRICS.items(), strict=True):
            _lines(ax, study, metric, names)
            ax.set_title(f"{name.replace('cnn', 'CNN').replace('mlp', 'MLP')}: {title}", size=10)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)
    return figure


def _lines(ax: Any, study: Study, metric: str, names: Sequence[str]) -> None:
    from matplotlib import colormaps

    places = np.arange(len(study.stages) + 1)
    for i, name in enumerate(names):
        if name in study.values:
            means = [1.0, *study.means()[name][metric]]
            style = "--" if i >= 5 else "-"
            colour = colormaps["tab10"](i % 10)
            ax.plot(places, means, style, marker="o", markersize=3, color=colour, label=name)
    ax.set_xticks(places, ["none", *map(label_of, study.stages)], size=8)
    ax.axhline(0, color="0.7", linewidth=0.8)


def _draw_maps(study: Study) -> Any:
    """Draw the maps of one image: a row for each method, columns for the stages.

    The left half has |A|, the right half A with its signs.
    """
    from matplotlib.figure import Figure

    names, columns = list(study.maps), ["trained", *map(label_of, study.stages)]
    width = len(columns)
    figure = Figure(figsize=(0.92 * 2 * width + 2.2, 0.92 * len(names) + 0.7))
    grid = figure.add_gridspec(
        len(names),
        2 * width + 1,
        width_ratios=[*[1] * width, 0.25, *[1] * width],
        left=0.135,
        right=0.995,
        top=1 - 0.45 / (0.92 * len(names) + 0.7),
        bottom=0.01,
        wspace=0.05,
        hspace=0.05,
    )
    for row, name in enumerate(names):
        for column, values in enumerate(study.maps[name]):
            left = figure.add_subplot(grid[row, column])
            right = figure.add_subplot(grid[row, width + 1 + column])
            xattr.plot.heatmap(left, values, channels="absolute", percentile=99)
            xattr.plot.heatmap(right, values, percentile=99)
            if column == 0:
                left.set_ylabel(name, rotation=0, ha="right", va="center", size=9)
            if row == 0:
                left.set_title(columns[column], size=9)
                right.set_title(columns[column], size=9)
    for x, text in ((0.135 + 0.43 / 2, "|A|"), (0.995 - 0.43 / 2, "A with its signs")):
        figure.text(x, 0.995, text, ha="center", va="top", size=10)
    return figure
