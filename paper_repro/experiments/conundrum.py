"""Which method to take: every method by every measure (the question that ends the slides)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from scipy.stats import rankdata

import paper_repro
from paper_repro.experiments import judgement, methods, subjects
from paper_repro.experiments.methods import METHODS
from paper_repro.report.results import Claim, Result, Setting, Table, UsageError, decimal, interval

RESULTS = Path(paper_repro.__file__).with_name("results")


class Measure(NamedTuple):
    """A column: which direction is good, and the question that it answers."""

    larger_is_better: bool
    group: str
    text: str


MEASURES = {
    "axioms": Measure(True, "axioms", "share of the axioms that hold, of those that apply"),
    "input invariance": Measure(True, "axioms", "1 if a shift of the input changes nothing"),
    "top layer": Measure(False, "randomization", "ρ of |A| with the layer at the output random"),
    "all layers": Measure(False, "randomization", "ρ of |A| with all layers random"),
    "random labels": Measure(False, "randomization", "ρ of |A| with a network of random labels"),
    "AOPC": Measure(True, "order", "mean drop of the probability, largest scores first"),
    "insertion": Measure(True, "order", "area under the probability, largest scores put back"),
    "deletion": Measure(False, "order", "area under the probability, largest scores removed"),
    "infidelity": Measure(False, "shares", "what the best multiple of A leaves of f's changes"),
    "max-sensitivity": Measure(False, "steadiness", "largest relative change within ±2 %"),
    "localization": Measure(True, "place", "share of |A| inside the object's boxes"),
    "ROAR": Measure(True, "retraining", "accuracy lost by retraining, less that of random pixels"),
    "BAM": Measure(True, "constructed truth", "model contrast score, of digits pasted on scenes"),
    "seconds": Measure(False, "cost", "time in gradients, the median and the extremes of 3 runs"),
}
"""The columns of the table."""

NEEDS = {
    "the order in which the score depends on features": ("AOPC", "insertion", "deletion"),
    "shares of the score, which add up": ("infidelity",),
    "an answer that depends on what was learned": ("top layer", "all layers", "random labels"),
    "the place of the object": ("localization",),
    "a map that stays when the input hardly moves": ("max-sensitivity",),
}
"""A need, and the measures that speak of it."""
OTHER_NAMES = {"LRP-ε": "LRP-EPS", "KernelSHAP": "SHAP (kernel)", "the input": "input"}
"""What other experiments call a method -> its name here."""
CHEAP = 2.5
"""Times of a gradient that count as cheap."""
TOP = 3
"""Places named in the text."""


Row: TypeAlias = dict[str, tuple[float, float, float]]
"""Measure, or method -> mean, low and high."""


class Judged(NamedTuple):
    """A subject with the measures of every method: method -> measure -> mean, low and high."""

    name: str
    source: str
    inputs: int
    values: dict[str, Row]

    @property
    def measures(self) -> list[str]:
        """The measures that at least two methods have."""
        return [m for m in MEASURES if sum(m in v for v in self.values.values()) > 1]

    def means(self, measure: str) -> dict[str, float]:
        """Return the mean of every method that has a value."""
        return {
            name: values[measure][0]
            for name, values in self.values.items()
            if measure in values and np.isfinite(values[measure][0])
        }

    def ranks(self, measure: str, *, controls: bool = True) -> dict[str, float]:
        """Return places: 0 for the best method, 1 for the last."""
        means = {
            name: value
            for name, value in self.means(measure).items()
            if controls or not METHODS[name].is_control
        }
        sign = -1 if MEASURES[measure].larger_is_better else 1
        places = rankdata([sign * value for value in means.values()]) - 1
        return dict(zip(means, places / max(len(means) - 1, 1), strict=True))


def run(setting: Setting) -> Result:
    """Measure every method on each network, and say what follows."""
    found = [_judged(subject, setting) for subject in _subjects(setting)]
    return Result(
        "The conundrum: which method for which task (slides)",
        {
            **{"" if i == 0 else _slug(each.name): _draw(each) for i, each in enumerate(found)},
            "agreement": _draw_agreement(found),
        },
        {each.name: {"inputs": each.inputs, "values": each.values} for each in found},
        [claim for each in found for claim in _claims(each)],
        [table for each in found for table in _tables(each)],
        _notes(found),
    )


def _subjects(setting: Setting) -> list[methods.Subject]:
    makers = [subjects.digits_subject, subjects.questions_subject]
    if not setting.quick:
        makers.insert(1, subjects.photographs_subject)
    return [make(setting) for make in makers]


def _judged(it: methods.Subject, setting: Setting) -> Judged:
    found = judgement.judged(it, quick=setting.quick, seed=setting.seed, progress=setting.progress)
    axioms = _axioms()
    # Their networks are small ones of digits.
    elsewhere = {"ROAR": _roar(), "BAM": _bam()} if it.name == "MNIST CNN" else {}
    values: dict[str, Row] = {}
    for name, measured in found.items():
        row = {key: _interval(measured[key]) for key in judgement.MEASURED if key in measured}
        ours, gradients = measured["seconds"]
        row["seconds"] = _interval(ours / gradients, spread=True)
        others = {m: table[name] for m, table in elsewhere.items() if name in table}
        values[name] = row | _of_axioms(axioms, name) | others
    return Judged(it.name, it.source, len(it.inputs), values)


def _interval(values: np.ndarray, *, spread: bool = False) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval; with `spread`, the median and the extremes."""
    if spread:
        return float(np.median(values)), float(values.min()), float(values.max())
    if not np.isfinite(values).any():
        return (float("nan"),) * 3
    if np.isfinite(values).sum() == 1:
        return float(np.nanmean(values)), float("nan"), float("nan")
    mean, low, high = interval(values)
    return float(mean), float(low), float(high)


def _claims(it: Judged) -> list[Claim]:
    """Return what the papers say of pairs of methods, beside the table."""
    return [
        *_claim(it, "AOPC", "integrated gradients", "gradient", "S3, §2.5: IG is above"),
        *_claim(it, "localization", "integrated gradients", "gradient", "S3, §2.5: IG is above"),
        *_claim(it, "top layer", "guided backprop", "gradient", "sanity checks: it changes less"),
        *_claim(it, "all layers", "guided backprop", "CGI", "CGI: it passes the test"),
        *_claim(it, "max-sensitivity", "gradient", "SmoothGrad", "smoothing steadies"),
    ]


def _claim(it: Judged, measure: str, higher: str, lower: str, paper: str) -> list[Claim]:
    means = it.means(measure)
    if not {higher, lower} <= {*means}:
        return []
    a, b = means[higher], means[lower]
    what = f"{it.name}: {measure} of {higher} above that of {lower}"
    return [Claim(what, paper, f"{decimal(a, 2)} and {decimal(b, 2)}", a > b)]


# Columns that other experiments fill --------------------------------------------------------------


def _read(name: str) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["numbers"] if path.is_file() else None


def _axioms() -> Any:
    found = _read("axioms")
    if found is None:
        raise UsageError(
            f"{RESULTS / 'axioms.json'} is missing: run `python -m paper_repro axioms`"
        )
    return found


def _of_axioms(table: Any, name: str) -> Row:
    """Return the share of axioms that hold, and whether input invariance does."""
    signs = table["grid"].get(METHODS[name].axioms or "", "").replace(".", "")
    if not signs:
        return {}
    unknown = float("nan")
    row = {"axioms": (signs.count("+") / len(signs), unknown, unknown)}
    sign = table["grid"][METHODS[name].axioms][table["axioms"].index("input_invariance")]
    if sign != ".":
        row["input invariance"] = (float(sign == "+"), unknown, unknown)
    return row


def _roar() -> Row:
    """Return the accuracy that random removal leaves, less that of a method: mean over levels."""
    found = _read("roar")
    if found is None:
        return {}
    areas = {name: np.array(each["areas"]) for name, each in found["MNIST"]["ROAR"].items()}
    return {_name(name): _interval(areas["random"] - each) for name, each in areas.items()}


def _bam() -> Row:
    """Return the model contrast scores."""
    found = _read("bam")
    if found is None:
        return {}
    scores = {name: each["MCS"] for name, each in found["scores"].items()}
    return {_name(n): (each["mean"], each["low"], each["high"]) for n, each in scores.items()}


def _name(name: str) -> str:
    return OTHER_NAMES.get(name, name)


# Text ---------------------------------------------------------------------------------------------


def _tables(it: Judged) -> list[Table]:
    measures = it.measures
    rows = [
        [
            f"{name} (control)" if METHODS[name].is_control else name,
            *(_cell(values, measure) for measure in measures),
            _cost(name),
        ]
        for name, values in it.values.items()
    ]
    head = ["method", *(f"{m} {'↑' if MEASURES[m].larger_is_better else '↓'}" for m in measures)]
    table = Table(
        f"{it.name}: means over {it.inputs} inputs, with 95 % intervals; ↑ larger is better",
        [*head, "gradients, evaluations"],
        rows,
    )
    agreement = Table(
        f"{it.name}: rank correlation between the measures, over the methods",
        ["", *measures],
        [
            [a, *(decimal(_agreement(it, a, b), 2) if a != b else "" for b in measures)]
            for a in measures
        ],
    )
    needs = Table(f"{it.name}: which method for which need", ["need", "take"], _advice(it))
    return [needs, table, agreement]


def _cell(values: Row, measure: str) -> str:
    if measure not in values:
        return "–"
    mean, low, high = values[measure]
    digits = 1 if measure == "seconds" else 2
    if measure == "input invariance":
        return "yes" if mean else "no"
    text = decimal(mean, digits)
    return (
        text
        if not np.isfinite(low)
        else f"{text} [{decimal(low, digits)}, {decimal(high, digits)}]"
    )


def _cost(name: str) -> str:
    kind = METHODS[name]
    return f"{kind.gradients}, {kind.evaluations}"


def _agreement(it: Judged, a: str, b: str) -> float:
    """Return ρ of the places of the methods, controls left out, that have both measures."""
    first, second = (it.ranks(measure, controls=False) for measure in (a, b))
    both = [name for name in first if name in second]
    x, y = rankdata([first[n] for n in both]), rankdata([second[n] for n in both])
    if len(both) < 3 or not x.std() or not y.std():
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _mean_ranks(it: Judged, measures: Sequence[str], among: Sequence[str]) -> dict[str, float]:
    """Return the mean place over the measures, of methods that have all of them; best first."""
    present = [m for m in measures if m in it.measures]
    ranks = [it.ranks(m, controls=False) for m in present]
    means = {
        name: float(np.mean([r[name] for r in ranks]))
        for name in among
        if ranks and all(name in r for r in ranks)
    }
    return dict(sorted(means.items(), key=lambda each: each[1]))


def _first(means: Mapping[str, float]) -> str:
    return ", ".join(list(means)[:TOP]) or "–"


def _advice(it: Judged) -> list[tuple[str, str]]:
    names = [name for name in it.values if not METHODS[name].is_control]
    order = NEEDS["the order in which the score depends on features"]
    cheap = [n for n in names if it.values[n]["seconds"][0] <= CHEAP]
    blind = [n for n in names if not METHODS[n].gradients]
    rows = [(need, _first(_mean_ranks(it, measures, names))) for need, measures in NEEDS.items()]
    rows.append(
        (f"the same order for at most {CHEAP:g} gradients", _first(_mean_ranks(it, order, cheap)))
    )
    rows.append(("the same order without gradients", _first(_mean_ranks(it, order, blind))))
    return [row for row in rows if row[1] != "–"]


def _notes(found: Sequence[Judged]) -> list[str]:
    return [
        " ".join(each.source for each in found),
        *(_sentence(each) for each in found),
        *(_disagreement(each) for each in found),
        *(_fooled(each) for each in found),
        "No measure is the truth. A method is to be trusted where measures of different kinds "
        "agree on it. Where they do not, the table says which question it answers.",
        "Measures: "
        + "; ".join(f"*{name}*: {MEASURES[name].text}" for name in MEASURES)
        + ". Maps in shares of f (LRP, IG, SHAP and the like) are ordered with their signs, others "
        "by absolute values; scores of a pixel are sums over its colours. ρ is over elements that "
        "differ from the baseline; a map of one value has no ρ, and is left out. The baseline is "
        "0; for expected gradients it is other inputs. Axioms are left out where the table of "
        "axioms has another variant of a method. PatternNet and PatternAttribution keep the "
        "patterns of the trained network when its weights are random. AOPC and deletion are two "
        "forms of nearly one measure. The multiple of infidelity may be negative. Curves have "
        f"{judgement.POINTS} points, infidelity {judgement.DRAWS} random sets of patches, and "
        f"max-sensitivity {judgement.MOVES} changes.",
        f"IG has {methods.NODES} midpoints, SmoothGrad {methods.SAMPLES} samples, its copy of IG "
        f"{methods.NOISY}; LIME and SHAP {methods.COALITIONS} coalitions of 7 × 7 patches (or "
        f"words), RISE {methods.MASKS} masks, guided IG {methods.STEPS // 4} steps, the learned "
        f"mask {methods.STEPS}. Methods explain the logit of the class that the network predicts; "
        "the learned mask explains its probability, as do the curves.",
    ]


def _sentence(it: Judged) -> str:
    """Say which method is first in most measures, and which is first for each need."""
    names = [name for name in it.values if not METHODS[name].is_control]
    wins: dict[str, int] = dict.fromkeys(names, 0)
    for measure in it.measures:
        ranks = it.ranks(measure, controls=False)
        for name, place in ranks.items():
            wins[name] += place == min(ranks.values())  # several that are equal have a mean place
    most = max(wins, key=lambda name: wins[name])
    rows = dict(_advice(it))
    texts = [f"for {need}: {take.split(', ')[0]}" for need, take in rows.items()]
    return (
        f"**{it.name}.** No method is best throughout: {most} is first, alone or with others, in "
        f"{wins[most]} of {len(it.measures)} measures. Take {'; '.join(texts)}."
        if wins[most] < len(it.measures)
        else f"**{it.name}.** {most} is first in all measures."
    )


def _disagreement(it: Judged) -> str:
    pairs = {
        (a, b): _agreement(it, a, b)
        for i, a in enumerate(it.measures)
        for b in it.measures[:i]
        if np.isfinite(_agreement(it, a, b))
    }
    if not pairs:
        return f"**{it.name}.** Too few methods for correlations between measures."
    worst = min(pairs, key=lambda pair: pairs[pair])
    best = max(pairs, key=lambda pair: pairs[pair])
    against = sum(value < 0 for value in pairs.values())
    return (
        f"**Where measures disagree, {it.name}.** {against} of {len(pairs)} pairs order the "
        f"methods against each other. The worst are {worst[0]} and {worst[1]} (ρ = "
        f"{decimal(pairs[worst], 2)}); {best[0]} and {best[1]} agree most "
        f"({decimal(pairs[best], 2)})."
    )


def _fooled(it: Judged) -> str:
    """Name the measures in whose best third a control is."""
    hits = [
        f"{name} in {measure}"
        for measure in it.measures
        if measure not in ("axioms", "input invariance", "seconds")
        for name, place in it.ranks(measure).items()
        if METHODS[name].is_control and place < 1 / 3
    ]
    if not hits:
        return f"**Controls, {it.name}.** None is in the best third of a measure."
    return (
        f"**Controls, {it.name}.** These are in the best third of a measure, which so cannot be "
        f"trusted alone: {', '.join(hits)}."
    )


# Figures ------------------------------------------------------------------------------------------


def _slug(name: str) -> str:
    return name.lower().replace(" ", "-")


def _draw(it: Judged) -> Any:
    """Draw the table, coloured by rank."""
    from matplotlib.figure import Figure

    names, measures = list(it.values), it.measures
    places = np.full((len(names), len(measures)), np.nan)
    for j, measure in enumerate(measures):
        for name, place in it.ranks(measure).items():
            places[names.index(name), j] = 1 - place
    figure = Figure(
        figsize=(2.6 + 0.75 * len(measures), 1.6 + 0.27 * len(names)), layout="constrained"
    )
    ax = figure.subplots()
    ax.imshow(places, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for i, name in enumerate(names):
        for j, measure in enumerate(measures):
            text = _cell(it.values[name], measure).partition(" [")[0]
            ax.text(j, i, text.replace("undefined", "?"), ha="center", va="center", size=7)
    labels = [f"{name} (control)" if METHODS[name].is_control else name for name in names]
    ax.set_yticks(range(len(names)), labels, size=8)
    arrows = [f"{m} {'↑' if MEASURES[m].larger_is_better else '↓'}" for m in measures]
    ax.set_xticks(range(len(measures)), arrows, rotation=45, ha="left", size=8)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_xlabel(f"{it.name}, {it.inputs} inputs; green is best in its column", size=9)
    return figure


def _draw_agreement(found: Sequence[Judged]) -> Any:
    """Draw the rank correlations between the measures."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(found), 5), layout="constrained")
    for ax, it in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        matrix = np.array([[_agreement(it, a, b) for b in it.measures] for a in it.measures])
        ax.imshow(matrix, cmap="RdBu", vmin=-1, vmax=1)
        for (i, j), value in np.ndenumerate(matrix):
            if i != j and np.isfinite(value):
                ax.text(j, i, decimal(value, 1), ha="center", va="center", size=7)
        ax.set_xticks(range(len(it.measures)), it.measures, rotation=60, ha="right", size=8)
        ax.set_yticks(range(len(it.measures)), it.measures, size=8)
        ax.set_title(it.name, size=10)
    figure.suptitle("Do measures order the methods alike? Spearman's ρ over the methods", size=11)
    return figure
