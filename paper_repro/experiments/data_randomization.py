"""Maps of networks trained on true and on random labels (slides; Adebayo et al. 2018, §5)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import xattr
from paper_repro.data import mnist
from paper_repro.experiments.saliency import explain, methods_for
from paper_repro.networks import digits, training
from paper_repro.report.accuracy import claim_of_accuracy
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, interval, with_interval
from paper_repro.report.similarity import compare

NETWORKS = ("cnn", "mlp")
PRINTED_ACCURACY = {"cnn": 0.992, "mlp": 0.987}
IMAGES, SMOOTH_IG_IMAGES, QUICK_IMAGES = 50, 10, 4
SHOWN_IMAGE = 3
"""The first 0 of the test set: the digit of the paper's figure."""
SIMILAR = 0.5
"""Maps with at least this mean rank correlation count as similar, others as changed."""
UNRELATED = 0.2
"""A mean signed correlation of at most this size counts as near 0."""
GUIDED_REMARKS = {
    "cnn": "both networks start from the same initial weights, which may make the maps more alike",
    "mlp": "guided backprop recovers the input where connections are local (Nie et al., on the "
    "slides), and those of a dense layer are not. In the authors' notebook, too, ρ abs falls to "
    ".044 when all layers of their MLP are random",
}

Scores = dict[str, dict[str, np.ndarray]]
"""Method -> metric -> its value for each image."""


class Study(NamedTuple):
    """A network trained on both labellings, and its maps of the same images."""

    true: training.Trained
    random: training.Trained
    maps: dict[str, tuple[np.ndarray, np.ndarray]]
    """Method -> maps of the logit of the true label, by the first and by the second network."""
    same_class: Scores
    own_class: Scores
    """The same, but each network explains the class that it predicts."""
    predicted: tuple[np.ndarray, np.ndarray]
    memorised: int
    """The number of images that the second network was trained on."""


def run(setting: Setting) -> Result:
    """Explain the same images by both networks, and compare the maps."""
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    count = QUICK_IMAGES if setting.quick else IMAGES
    images, labels = data.test_images[:count], data.test_labels[:count]
    studies = {network: _study(network, data, images, labels, setting) for network in NETWORKS}
    return Result(
        title="Data randomization: networks trained on true and on random labels (slides)",
        figures={
            "": _draw_bars(studies),
            **{f"maps-{net}": _draw_maps(study, images) for net, study in studies.items()},
        },
        numbers={net: _numbers(study) for net, study in studies.items()},
        claims=[claim for net in NETWORKS for claim in _claims(net, studies[net])],
        tables=[_table(net, study) for net, study in studies.items()],
        notes=_notes(studies, count, setting),
    )


def _study(
    network: str, data: mnist.Mnist, images: np.ndarray, labels: np.ndarray, setting: Setting
) -> Study:
    names = (network, f"{network}, random labels")
    both = [training.network(name, setting, data) for name in names]
    model = digits.logits(network)
    predicted = [training.predictions(model, trained.params, images) for trained in both]
    maps, same, own = {}, {}, {}
    for method in shown(_methods(network, setting), network, setting.progress):
        few = images[: SMOOTH_IG_IMAGES if method == "IG-SmoothGrad" else None]

        def explained(
            classes: Sequence[np.ndarray], method: str = method, few: np.ndarray = few
        ) -> tuple[np.ndarray, np.ndarray]:
            first, second = (
                # As in the authors' notebooks, the noise of the two networks differs.
                explain(method, model, few, wanted[: len(few)], trained.params, seed=seed)
                for trained, wanted, seed in zip(both, classes, _seeds(setting), strict=True)
            )
            return first, second

        maps[method] = explained([labels, labels])
        same[method] = compare(*maps[method], few)
        own[method] = compare(*explained(predicted), few)
    memorised = training.recipe_of(names[1], setting).images
    return Study(both[0], both[1], maps, same, own, (predicted[0], predicted[1]), memorised)


def _methods(network: str, setting: Setting) -> list[str]:
    names = methods_for(network)
    return [name for name in names if not (setting.quick and name == "IG-SmoothGrad")]


def _seeds(setting: Setting) -> tuple[int, int]:
    first, second = np.random.default_rng(setting.seed).integers(2**31, size=2)
    return int(first), int(second)


def _summary(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean, low and high; low and high are NaN if fewer than two images have a value."""
    if np.isfinite(values).sum() < 2:
        return (float(np.mean(values)), np.nan, np.nan)
    mean, low, high = interval(values)
    return float(mean), float(low), float(high)


def _numbers(study: Study) -> dict[str, Any]:
    def summarised(scores: Scores) -> dict[str, Any]:
        return {
            method: {
                metric: dict(zip(("mean", "low", "high"), _summary(values), strict=True))
                | {"images": int(np.isfinite(values).sum())}
                for metric, values in found.items()
            }
            for method, found in scores.items()
        }

    return {
        "accuracy": {
            "true labels": _accuracies(study.true),
            "random labels": _accuracies(study.random),
        },
        "images_memorised": study.memorised,
        "predicted": {"true labels": study.predicted[0], "random labels": study.predicted[1]},
        "true_class": summarised(study.same_class),
        "predicted_class": summarised(study.own_class),
    }


def _accuracies(trained: training.Trained) -> dict[str, Any]:
    return {
        "train": trained.train_accuracy,
        "test": trained.test_accuracy,
        "steps": trained.steps,
    }


def _claims(network: str, study: Study) -> list[Claim]:
    return [*_accuracy_claims(network, study), *_map_claims(network, study.same_class)]


def _accuracy_claims(network: str, study: Study) -> list[Claim]:
    printed, name = PRINTED_ACCURACY[network], network.upper()
    memory, chance = study.random.train_accuracy, study.random.test_accuracy
    return [
        claim_of_accuracy(f"{name}, true labels", printed, study.true),
        Claim(
            f"{name}, random labels: training accuracy",
            "over 95 %",
            _percent(memory),
            memory > 0.95,
            f"of {study.memorised:,} images; the paper's network memorises the whole training set",
        ),
        Claim(
            f"{name}, random labels: test accuracy",
            "chance, about 10 %",
            _percent(chance),
            abs(chance - 0.1) <= 0.03,
        ),
    ]


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def _map_claims(network: str, scores: Scores) -> list[Claim]:
    claims = [_changes(network, method, scores) for method in ("gradient", "SmoothGrad")]
    if network == "cnn":
        claims.append(_changes(network, "Grad-CAM", scores))
    claims.append(_guided_stays(network, scores))
    for method in ("integrated gradients", "gradient ⊙ input"):
        claims += [_size_stays(network, method, scores), _sign_changes(network, method, scores)]
    edges = _summary(scores["edge detector"]["abs"])[0]
    return [
        *claims,
        Claim(
            f"{network.upper()}, CGI: the map changes",
            "passes (Gupta & Arora, a later slide)",
            _said(scores["CGI"]),
            _summary(scores["CGI"]["signed"])[0] < SIMILAR,
            "judged by ρ signed, because ρ abs also counts the zeros of CGI maps, at black pixels "
            "and elsewhere",
        ),
        Claim(
            f"{network.upper()}, edge detector: the map stays (negative control)",
            "independent of the model",
            _said(scores["edge detector"]),
            edges > 1 - 1e-6,
            "by construction",
        ),
    ]


def _changes(network: str, method: str, scores: Scores) -> Claim:
    size, signed = (_summary(scores[method][metric])[0] for metric in ("abs", "signed"))
    return Claim(
        f"{network.upper()}, {method}: the map changes",
        "changes",
        _said(scores[method]),
        size < SIMILAR and signed < SIMILAR,
        f"ρ abs at pixels that are not black: {_mean(scores[method]['nonzero'])}",
    )


def _guided_stays(network: str, scores: Scores) -> Claim:
    guided, plain = scores["guided backprop"], scores["gradient"]
    mean, low, _ = _summary(guided["abs"])
    *_, high = _summary(plain["abs"])
    return Claim(
        f"{network.upper()}, guided backprop: the map stays similar, more than the gradient's",
        "visually similar",
        f"{_said(guided)}; gradient: ρ abs {_mean(plain['abs'])}",
        mean >= SIMILAR and low > high,
        GUIDED_REMARKS[network],
    )


def _size_stays(network: str, method: str, scores: Scores) -> Claim:
    return Claim(
        f"{network.upper()}, {method}: the absolute map still shows the digit",
        "similar in absolute value",
        f"ρ abs {_mean(scores[method]['abs'])}",
        _summary(scores[method]["abs"])[0] >= SIMILAR,
        "black pixels are 0 in both maps, which raises ρ (the note's objection); without them it "
        f"is {_mean(scores[method]['nonzero'])}",
    )


def _sign_changes(network: str, method: str, scores: Scores) -> Claim:
    mean = _summary(scores[method]["signed"])[0]
    return Claim(
        f"{network.upper()}, {method}: the signs change",
        "differs when drawn with signs (ρ near 0)",
        f"ρ signed {_mean(scores[method]['signed'])}",
        abs(mean) <= UNRELATED,
    )


def _said(found: dict[str, np.ndarray]) -> str:
    return f"ρ abs {_mean(found['abs'])}, signed {_mean(found['signed'])}"


def _mean(values: np.ndarray) -> str:
    """Write the mean over the images and its interval."""
    return with_interval(*_summary(values))


def _table(network: str, study: Study) -> Table:
    rows = []
    for method, same in study.same_class.items():
        own = study.own_class[method]
        defined = int(np.isfinite(same["abs"]).sum())
        number = f"{defined}" if defined == len(same["abs"]) else f"{defined}/{len(same['abs'])}"
        cells = [same["abs"], same["signed"], same["nonzero"], same["SSIM"]]
        cells += [own["abs"], own["signed"]]
        rows.append([method, number, *map(_mean, cells)])
    return Table(
        f"{network.upper()}: similarity of the maps of both networks, mean [95 % interval]",
        [
            "method",
            "images",
            "ρ abs",
            "ρ signed",
            "ρ abs, pixels not black",
            "SSIM abs",
            "own class: ρ abs",
            "own class: ρ signed",
        ],
        rows,
    )


def _notes(studies: dict[str, Study], count: int, setting: Setting) -> list[str]:
    memorised = studies["cnn"].memorised
    notes = [
        f"Two networks explain the first {count} test images: one trained on true labels, one on "
        "permuted labels. Both explain the logit of the image's true label. ρ is Spearman's rank "
        "correlation, with average ranks for ties, of absolute or of signed maps. A number is the "
        "mean over the images with its 95 % interval, which does not cover other trainings.",
        "The paper trains on the whole permuted training set for 100 epochs. Here the network "
        f"memorises {memorised:,} images, because all of them would take hours. Fewer images need "
        "smaller changes of the weights, which may leave the maps more alike. Both networks start "
        "from the same initial weights.",
        f"The slide shows bars without numbers. Here a mean ρ of at least {SIMILAR} is called "
        f"similar, a smaller one changed, and |ρ| ≤ {UNRELATED} near 0. These limits are ours; "
        "they were set before the networks were compared.",
        "The paper does not say which class it explains; the last columns of the table are for the "
        "class that each network predicts. SmoothGrad's noise differs between the networks. A map "
        "of zeros has no correlation and is left out (see the number of images).",
    ]
    if setting.quick:
        return [*notes, "IG-SmoothGrad takes 1,250 gradients an image and is left out by --quick."]
    return [
        *notes,
        "IG-SmoothGrad takes 1,250 gradients an image and is measured on "
        f"{SMOOTH_IG_IMAGES} images.",
    ]


def _draw_bars(studies: dict[str, Study]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.5), layout="constrained")
    axes = figure.subplots(2, 2, sharey=True)
    panels = (("abs", "rank correlation, abs"), ("signed", "rank correlation, no abs"))
    for row, (network, study) in zip(axes, studies.items(), strict=True):
        for ax, (metric, title) in zip(row, panels, strict=True):
            _draw_panel(ax, study.same_class, metric)
            ax.set_title(f"{network.upper()}: {title}", fontsize=11)
    for ax in axes[:, 0]:
        ax.set_ylabel("Spearman ρ of the maps")
    handles, _ = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=10)
    return figure


def _draw_panel(ax: Any, scores: Scores, metric: str) -> None:
    names = list(scores)
    mean, low, high = np.array([_summary(scores[name][metric]) for name in names]).T
    colours = ["0.6" if name == "edge detector" else "tab:blue" for name in names]
    places = np.arange(len(names))
    errors = np.nan_to_num([mean - low, high - mean])
    ax.bar(places, mean, 0.7, color=colours)
    ax.errorbar(places, mean, errors, fmt="none", color="black", capsize=3, label="95 % interval")
    if metric == "abs":
        others = [_summary(scores[name]["nonzero"])[0] for name in names]
        ax.plot(
            places, others, "D", color="tab:orange", label="mean over pixels that are not black"
        )
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks(places, names, rotation=35, ha="right", rotation_mode="anchor", fontsize=9)
    ax.set_ylim(-0.3, 1.08)
    ax.grid(axis="y", linewidth=0.4)
    ax.set_axisbelow(True)


def _draw_maps(study: Study, images: np.ndarray) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = 1 + len(study.maps)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(0.9 + 1.12 * columns, 5.4), layout=layout)
    axes = figure.subplots(4, columns)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    rows = [(which, absolute) for absolute in (True, False) for which in (0, 1)]
    for line, (which, absolute) in zip(axes, rows, strict=True):
        labels = ("true labels", "random labels")[which]
        line[0].set_ylabel(f"{labels}\n{'absolute' if absolute else 'diverging'}", fontsize=10)
        line[0].imshow(images[SHOWN_IMAGE, ..., 0], cmap="gray", interpolation="nearest")
        line[0].set_xlabel(f"predicts {study.predicted[which][SHOWN_IMAGE]}", fontsize=9)
        for ax, maps in zip(line[1:], study.maps.values(), strict=True):
            _draw_map(ax, maps[which][SHOWN_IMAGE], absolute)
    axes[0, 0].set_title("input", fontsize=10)
    for ax, name in zip(axes[0, 1:], study.maps, strict=True):
        ax.set_title(_two_lines(name), fontsize=10)
    return figure


def _draw_map(ax: Any, values: np.ndarray, absolute: bool) -> None:
    if absolute:
        limit = float(np.abs(values).max()) or 1.0
        ax.imshow(np.abs(values), cmap="gray", vmin=0, vmax=limit, interpolation="nearest")
    else:
        xattr.plot.heatmap(ax, values, percentile=100)


def _two_lines(name: str) -> str:
    """Break the name of a method at its first space, or after "IG-"."""
    return name.replace(" ", "\n", 1) if " " in name else name.replace("IG-", "IG-\n")
