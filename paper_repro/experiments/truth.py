"""Networks whose relevant pixels are known by construction, and what measures say of maps."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

import xattr
from paper_repro.experiments import constructed
from paper_repro.experiments.constructed import Problem, network
from paper_repro.experiments.small_methods import CONTROLS, METHODS, Case, methods_for
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, interval
from paper_repro.report.results import with_interval as written


class Size(NamedTuple):
    """Pictures that are explained, and those that patterns are fitted on."""

    pictures: int
    fitted: int


FULL, QUICK = Size(100, 4_000), Size(10, 400)
REFERENCES = 12
"""Pictures that expected gradients start from."""
LATER = ("SmoothGrad²", "LRP-ε", "deep Taylor", "Shapley sampling", "KernelSHAP", "guided backprop")
"""Methods that `--quick` leaves out, since each takes a second to compile."""
WINDOW = (constructed.PATCH, constructed.PATCH)
"""What occlusion covers."""
MEASURES = ("AUC", "mass", "rank")


def run(setting: Setting) -> Result:
    """Explain all problems by all methods, and measure the maps against the truth."""
    size = QUICK if setting.quick else FULL
    problems = constructed.problems(size.fitted, np.random.default_rng(setting.seed))
    maps = _maps(problems, size, setting)
    scores = {
        question: {name: _measured(found[name], truth[: size.pictures]) for name in found}
        for key, problem in problems.items()
        for found in [maps[key]]
        for question, truth in problem.truths.items()
    }
    alike = _alike(maps["decoy"], maps["random network"])
    numbers = {
        "pictures": size.pictures,
        "scores": {q: {n: _summary(v) for n, v in each.items()} for q, each in scores.items()},
        "largest": {
            key: {name: np.abs(found).max() for name, found in each.items()}
            for key, each in maps.items()
        },
        "alike after randomization": {name: _mean(values)[0] for name, values in alike.items()},
    }
    return Result(
        "Scores on constructed truth: networks whose relevant pixels are known",
        {"": _draw_maps(problems, maps), "scores": _draw_scores(scores)},
        numbers,
        _claims(numbers, scores, alike),
        [_verdicts(scores), *(_table(measure, scores) for measure in MEASURES)],
        _notes(size),
    )


# Maps and measures --------------------------------------------------------------------------------


def _methods(setting: Setting) -> list[str]:
    names = methods_for(references=True, patterns=True, window=True)
    return [name for name in names if not (setting.quick and name in LATER)]


def _maps(
    problems: dict[str, Problem], size: Size, setting: Setting
) -> dict[str, dict[str, np.ndarray]]:
    """Return the maps of all methods for the first pictures of each problem."""
    patterns = {
        key: xattr.fit_patterns(network, problem.data, args=(problem.params,))
        for key, problem in problems.items()
    }
    keys = jax.random.split(jax.random.key(setting.seed), size.pictures)
    found: dict[str, dict[str, np.ndarray]] = {key: {} for key in problems}
    for name in shown(_methods(setting), "methods", setting.progress):
        for key, problem in problems.items():
            images = problem.images[: size.pictures]
            rest = (keys, problem.params, problem.data[-REFERENCES:], patterns[key])
            found[key][name] = np.asarray(_explained(name, images, *rest))
    return found


@functools.partial(jax.jit, static_argnums=0)
def _explained(
    name: str, images: Any, keys: Any, params: Any, references: Any, patterns: Any
) -> jax.Array:
    """Run a method; one program serves all problems."""

    def one(image: Any, key: Any) -> Any:
        case = Case(network, image, (params,), key, references, patterns, window=WINDOW)
        return METHODS[name](case)

    return jax.vmap(one)(images, keys)


def auc(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return the area under the ROC curve of |A| as a score of the mask, for each picture.

    It is the chance that a pixel of the mask has more than one beside it; ties count one half.
    """
    from scipy.stats import rankdata

    ranks = rankdata(np.abs(maps).reshape(len(maps), -1), axis=1)
    inside = masks.reshape(len(maps), -1)
    hits = inside.sum(1)
    above = (ranks * inside).sum(1) - hits * (hits + 1) / 2
    return above / (hits * (inside.shape[1] - hits))


@jax.jit
@jax.vmap
def _mass_and_rank(scores: Any, mask: Any) -> tuple[jax.Array, jax.Array]:
    return xattr.evaluation.relevance_mass(scores, mask), xattr.evaluation.relevance_rank(
        scores, mask
    )


def _measured(maps: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Return each measure for each picture; a map of zeros has no mass and no rank."""
    mass, rank = (np.array(each) for each in _mass_and_rank(np.abs(maps), masks))
    rank[np.abs(maps).max(axis=(1, 2)) == 0] = np.nan
    return {"AUC": auc(maps, masks), "mass": mass, "rank": rank}


def _alike(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return |Spearman ρ| of |A| before and after the network's weights are drawn anew."""
    compare = jax.jit(jax.vmap(functools.partial(xattr.metrics.spearman, absolute=True)))
    return {name: np.abs(np.asarray(compare(before[name], after[name]))) for name in before}


def _mean(values: np.ndarray) -> tuple[float, float, float]:
    """Return mean and interval; NaN throughout where no picture has a value."""
    count = np.isfinite(values).sum()
    if count < 2:
        return (float(values[np.isfinite(values)][0]) if count else np.nan, np.nan, np.nan)
    return interval(values)


def _summary(measured: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    return {
        measure: dict(zip(("mean", "low", "high"), _mean(values), strict=True))
        for measure, values in measured.items()
    }


# The page -----------------------------------------------------------------------------------------


def _claims(numbers: Any, scores: Any, alike: Any) -> list[Claim]:
    area = {q: {n: v["AUC"].mean() for n, v in each.items()} for q, each in scores.items()}
    patch, decoy, saturated, _, equal, label, read = area
    largest = numbers["largest"]["equal"]
    complete = ("integrated gradients", "DeepLIFT", "LRP-Z", "gradient ⊙ input")
    on_label = {name: each["mass"]["mean"] for name, each in numbers["scores"][label].items()}

    def of(question: str, *names: str) -> str:
        return ", ".join(f"{name} {decimal(area[question][name], 2)}" for name in names)

    names = ("gradient", "gradient ⊙ input", "LRP-Z")
    patterns = ("PatternNet", "PatternAttribution")
    leading = numbers["scores"][decoy]["the input"]["rank"]["mean"]
    likeness = {name: float(np.nanmean(alike[name])) for name in ("random", "gradient")}
    return [
        Claim(
            "where the score saturates the gradient is zero, and integrated gradients find "
            "the patch (AUC)",
            "counterfactuals, §2: gradients saturate",
            of(saturated, "gradient", "integrated gradients"),
            bool(area[saturated]["gradient"] < 0.6 < 0.9 < area[saturated]["integrated gradients"]),
        ),
        Claim(
            "DeConvNet passes the signal to windows whose unit is off (AUC)",
            "slides: it ignores the forward pass",
            of(patch, "DeConvNet", "gradient"),
            bool(area[patch]["DeConvNet"] < 0.9 < area[patch]["gradient"]),
        ),
        Claim(
            "XOR of equal patches: methods whose sum is f(x) − f(0) = 0 give zeros everywhere "
            "(largest |A|)",
            "completeness and symmetry allow the patches no share",
            ", ".join(f"{name} {largest[name]:.2g}" for name in complete),
            all(largest[name] == 0 for name in complete),
            f"AUC of others: {of(equal, 'occlusion', 'expected gradients', 'SmoothGrad', 'LIME')}",
        ),
        Claim(
            "distractor: share of the map on the patch that tells the label",
            "PatternNet and PatternAttribution 1, gradient ½ (Kindermans et al. 2018)",
            ", ".join(f"{name} {decimal(on_label[name], 2)}" for name in (*names, *patterns)),
            bool(
                min(on_label[name] for name in patterns) > 0.95
                and abs(on_label["gradient"] - 0.5) < 0.01
            ),
        ),
        Claim(
            "distractor: the same maps against the pixels that the network reads (AUC)",
            "the order is turned around",
            of(read, *names, *patterns),
            bool(max(area[read][n] for n in patterns) < min(area[read][n] for n in names)),
            "both are truths: without the second patch the network could not subtract the "
            "distractor, and that patch alone says nothing of the label",
        ),
        Claim(
            "a map that never sees the network has a high AUC",
            "not in the papers",
            f"the input: {decimal(area[patch]['the input'], 2)} on a patch alone, "
            f"{decimal(area[decoy]['the input'], 2)} beside a brighter decoy, where "
            f"{100 * leading:.0f} % of its leading pixels are right",
            None,
            "a patch is 9 of 144 pixels, so that an equally large error costs the AUC 9/135; "
            "mass and rank see it",
        ),
        Claim(
            "a map without information passes a randomization test as a right one does",
            "such maps score high (Binder et al. 2023)",
            "|ρ| with the map of a network of random weights: "
            + ", ".join(f"{name} {decimal(value, 2)}" for name, value in likeness.items())
            + f"; AUC: {of(decoy, *likeness)}",
            bool(
                likeness["random"] < likeness["gradient"] + 0.05
                and area[decoy]["random"] < 0.6 < 0.9 < area[decoy]["gradient"]
            ),
        ),
    ]


RIGHT = 0.95
"""An AUC above this counts as right."""


def _verdicts(scores: Any) -> Table:
    rows = []
    for question, each in scores.items():
        means = {n: _mean(v["AUC"]) for n, v in each.items() if n not in CONTROLS}
        right = [name for name, (mean, *_) in means.items() if mean > RIGHT]
        none = [n for n, (mean, low, high) in means.items() if low <= 0.5 <= high or mean < 0.5]
        fooled = [n for n in CONTROLS if each[n]["AUC"].mean() > RIGHT]
        rows.append([question, *(", ".join(names) or "none" for names in (right, none, fooled))])
    head = ["question", f"methods with AUC > {decimal(RIGHT, 2)}", "no better than chance",
            f"controls with AUC > {decimal(RIGHT, 2)}"]  # fmt: skip
    return Table("Which methods are right where", head, rows)


def _table(measure: str, scores: Any) -> Table:
    titles = {
        "AUC": "AUC of |A| against the truth (chance: .50)",
        "mass": "Share of Σ|A| on the true pixels (relevance mass)",
        "rank": "Share of the leading pixels that are true (relevance rank)",
    }
    rows = [
        [name, *(written(*_mean(each[name][measure]), digits=2) for each in scores.values())]
        for name in next(iter(scores.values()))
    ]
    return Table(titles[measure], ["method", *scores], rows)


def _notes(size: Size) -> list[str]:
    return [
        "All networks are two ReLU layers whose weights are set by hand, on 12 × 12 pixels with "
        f"noise of deviation {constructed.NOISE}. The planted patch of 3 × 3 pixels is a "
        "cross of norm 3 and sum 0, anywhere in the picture. A unit for each window is on where "
        f"the cross reaches {constructed.THRESHOLD:.0f}, and the score is the sum of the units. "
        "The saturated score is its minimum with ½. The decoy is a square of value "
        f"{constructed.DECOY:.0f}, brighter than the patch, to which no unit answers.",
        "XOR reads two fixed patches u and v, each +1 or −1, and gives ReLU(|u − v| − ½). The "
        "distractor ε is in both patches and the signal s in the first: the score is the first "
        "less the second, which is s. The second patch has no covariance with the label, and the "
        "network needs it.",
        f"{size.pictures} pictures a problem, intervals of 95 % over them. References are zeros; "
        "expected gradients take pictures of the problem, of XOR both kinds. Patterns are fitted "
        f"on {size.fitted:,} pictures. Occlusion covers 3 × 3 pixels; other methods that leave out "
        "pixels take single ones. Grad-CAM needs a convolution and is left out. A map of zeros has "
        "AUC ½, and neither mass nor rank. The number below a map is its AUC.",
    ]


def _draw_maps(problems: dict[str, Problem], maps: dict[str, dict[str, np.ndarray]]) -> Any:
    from matplotlib.figure import Figure

    chosen = ("gradient", "SmoothGrad", "VarGrad", "integrated gradients", "DeConvNet", "LRP-Z",
              "PatternAttribution", "occlusion", "LIME")  # fmt: skip
    rows = [(key, problem) for key, problem in problems.items() if problem.truths]
    figure = Figure(figsize=(13.2, 1.25 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(chosen) + 2)
    for line, (key, problem) in zip(axes, rows, strict=True):
        question, truth = next(iter(problem.truths.items()))
        line[0].imshow(problem.images[0], cmap="RdBu_r", vmin=-2, vmax=2)
        line[0].set_ylabel(question.replace(", ", ",\n").removesuffix(",\nlabel"), fontsize=9)
        line[1].imshow(_shade(problem), cmap="Greys", vmin=0, vmax=1)
        for ax, name in zip(line[2:], chosen, strict=True):
            found = maps[key][name][0]
            xattr.plot.heatmap(ax, found, percentile=100)
            area = auc(found[None], truth[:1])[0]
            ax.set_xlabel(decimal(float(area), 2), fontsize=8, labelpad=1)
        for ax in line:
            ax.set(xticks=[], yticks=[])
    for ax, name in zip(axes[0], ("picture", "truth", *chosen), strict=True):
        ax.set_title(name, fontsize=9)
    return figure


def _shade(problem: Problem) -> np.ndarray:
    """Return the first picture's truth: what answers the first question is black."""
    masks = [truth[0] for truth in problem.truths.values()]
    return np.mean(masks, axis=0)


def _draw_scores(scores: Any) -> Any:
    from matplotlib.figure import Figure

    methods = list(next(iter(scores.values())))
    figure = Figure(figsize=(12.5, 7.2), layout="constrained")
    for ax, measure in zip(figure.subplots(1, 2, sharey=True), ("AUC", "mass"), strict=True):
        values = np.array(
            [[_mean(each[name][measure])[0] for each in scores.values()] for name in methods]
        )
        ax.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(values):
            text = decimal(float(value), 2) if np.isfinite(value) else "no map"
            ax.text(j, i, text, ha="center", va="center", fontsize=8)
        names = [question.replace(", ", ",\n") for question in scores]
        ax.set_xticks(range(len(scores)), names, rotation=35, ha="right", fontsize=8)
        ax.set_yticks(range(len(methods)), methods, fontsize=9)
        ax.axhline(len(methods) - len(CONTROLS) - 0.5, color="black")
        title = {"AUC": "AUC of |A| (chance .50)", "mass": "share of Σ|A| on true pixels"}
        ax.set_title(title[measure], fontsize=11)
    return figure
