"""Attacks that keep the label of an image and change its map (slides; Ghorbani et al. 2019)."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import mnist
from paper_repro.networks import digits, training
from paper_repro.report.progress import shown
from paper_repro.report.results import (
    Claim,
    Result,
    Setting,
    Table,
    decimal,
    interval,
    with_interval,
)
from xattr import attacks, metrics

NETWORK = "cnn"
IMAGES, QUICK_IMAGES = 20, 3
ITERATIONS, QUICK_ITERATIONS = 100, 10
IG_STEPS = 10
LEADING = 78
"""A tenth of the 784 pixels."""
EPSILON, STRONG = 8 / 255, 0.1
EPSILONS = (4 / 255, EPSILON, 16 / 255, STRONG)
"""Sizes of the attacks; integrated gradients, the slowest method, takes the two named ones."""
STEP = 1 / 255

TOP_K, CENTRE, NOISE = "top-k attack", "mass-centre attack", "random signs"
OBJECTIVES = {TOP_K: "top_k", CENTRE: "mass_center"}
MEASURES = {
    "top_k": f"share of the leading {LEADING} pixels kept",
    "abs": "Spearman ρ, abs",
    "signed": "Spearman ρ, signed",
    "shift": "shift of the centre, pixels",
}


class Outcome(NamedTuple):
    """What one kind of perturbation of one size did to the maps of one method, for n images."""

    images: np.ndarray
    maps: np.ndarray
    values: dict[str, np.ndarray]
    """Each of `MEASURES` of the map and the original's, then label, confidence and sizes: (n,)."""


class Case(NamedTuple):
    """The digits that are attacked, with the network and the probability it gives their labels."""

    images: np.ndarray
    labels: np.ndarray
    confidences: np.ndarray
    params: Any


Outcomes = dict[str, dict[float, dict[str, Outcome]]]
"""Method -> ε -> kind of perturbation -> outcome; the originals are at ε = 0."""


def run(setting: Setting) -> Result:
    """Attack the maps of three methods, and compare with random signs of the same size."""
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    trained = training.network(NETWORK, setting, data)
    case = _case(data, trained.params, QUICK_IMAGES if setting.quick else IMAGES)
    outcomes = _outcomes(case, setting)
    figures = {
        "": _draw_maps(case, outcomes, EPSILON),
        "strong": _draw_maps(case, outcomes, STRONG),
    }
    return Result(
        title="Attacks on maps that keep the label (slides; Ghorbani, Abid & Zou 2019)",
        figures={**figures, "curves": _draw_curves(outcomes)},
        numbers=_numbers(trained, case, outcomes),
        claims=_claims(outcomes),
        tables=[_table(size, outcomes) for size in _sizes("gradient", setting)],
        notes=_notes(trained, case, setting),
    )


def _case(data: mnist.Mnist, params: Any, count: int) -> Case:
    """Take the first test images that the network gets right, as the authors' code does."""
    images, labels = data.test_images[: 2 * count + 10], data.test_labels[: 2 * count + 10]
    right = training.predictions(digits.logits(NETWORK), params, images) == labels
    images, labels = images[right][:count], labels[right][:count]
    _, confidences = _predict(images, labels, params)
    return Case(images, labels, np.asarray(confidences), params)


@jax.jit
def _predict(images: Any, labels: Any, params: Any) -> tuple[jax.Array, jax.Array]:
    """Return the predicted class and the probability of `labels`."""
    scores = jax.vmap(digits.logits(NETWORK), (0, None))(images, params)
    chances = jax.nn.softmax(scores)
    return jnp.argmax(scores, axis=1), jnp.take_along_axis(chances, labels[:, None], 1)[:, 0]


def _methods(setting: Setting) -> dict[str, Callable[..., Any]]:
    gradient = {"gradient": xattr.gradient}
    if setting.quick:  # each method needs a program of second derivatives: seconds to compile
        return gradient
    others = {"gradient ⊙ input": xattr.gradient_x_input, "integrated gradients": _integrated}
    return {**gradient, **others}


def _integrated(f: Any, x: Any, *, args: Any) -> Any:
    nodes = xattr.quadrature.midpoint(IG_STEPS)
    return xattr.integrated_gradients(f, x, quadrature=nodes, args=args, chunk_size=IG_STEPS)


def _outcomes(case: Case, setting: Setting) -> Outcomes:
    methods = _methods(setting)
    work = [(name, size) for name in methods for size in (0.0, *_sizes(name, setting))]
    outcomes: Outcomes = {name: {} for name in methods}
    for name, size in shown(work, "method and size", setting.progress):
        outcomes[name][size] = {
            kind: _outcome(kind, methods[name], size, case, setting) for kind in _kinds(size)
        }
    return outcomes


def _sizes(method: str, setting: Setting) -> tuple[float, ...]:
    few = setting.quick or method == "integrated gradients"
    return (EPSILON, STRONG) if few else EPSILONS


def _kinds(size: float) -> tuple[str, ...]:
    """Return the kinds of perturbation of a size; 0 stands for the original."""
    if size == 0:
        return ("original",)
    return (TOP_K, CENTRE, NOISE) if size in (EPSILON, STRONG) else (TOP_K, NOISE)


def _outcome(
    kind: str, method: Callable[..., Any], size: float, case: Case, setting: Setting
) -> Outcome:
    key = jax.random.fold_in(jax.random.key(setting.seed), kind == NOISE)
    keys = jax.random.split(key, len(case.images))
    images = jnp.asarray(case.images)
    if kind == NOISE:
        images = jax.vmap(lambda x, key: attacks.random_perturbation(x, key, epsilon=size))(
            images, keys
        )
    elif kind in OBJECTIVES:
        iterations = QUICK_ITERATIONS if setting.quick else ITERATIONS
        # With few iterations a small step could not cross the ball from its random start.
        step = max(STEP, 2 * size / iterations)
        attack = _attack(OBJECTIVES[kind], method, iterations)
        images = attack(images, keys, size, step, case.params)
    before, after = (
        _maps(method, x, case.labels, case.params) for x in (jnp.asarray(case.images), images)
    )
    values = _changes(before, after, case.images, images)
    predicted, confidence = _predict(images, case.labels, case.params)
    values = {
        **{key: np.asarray(value) for key, value in values.items()},
        "kept": np.asarray(predicted) == case.labels,
        "predicted": np.asarray(predicted),
        "confidence": np.asarray(confidence),
    }
    return Outcome(np.asarray(images)[..., 0], np.asarray(after), values)


@functools.cache
def _attack(objective: Any, method: Callable[..., Any], iterations: int) -> Callable[..., Any]:
    """Return the attack (images, keys, ε, step, params) -> images: one program for all sizes."""

    def one(image: Any, key: Any, size: Any, step: Any, params: Any) -> jax.Array:
        return attacks.attack_attributions(
            digits.logits(NETWORK),
            image,
            key,
            method=method,
            objective=objective,
            k=LEADING,
            epsilon=size,
            step_size=step,
            iterations=iterations,
            surrogate=digits.smooth_logits(NETWORK),
            args=(params,),
        ).x

    return jax.jit(jax.vmap(one, (0, 0, None, None, None)))


@functools.partial(jax.jit, static_argnums=0)
def _maps(method: Callable[..., Any], images: Any, labels: Any, params: Any) -> jax.Array:
    f = xattr.targets.logit(digits.logits(NETWORK))
    return jax.vmap(lambda x, label: method(f, x, args=(label, params)))(images, labels)[..., 0]


@jax.jit
@jax.vmap
def _changes(before: Any, after: Any, image: Any, moved: Any) -> dict[str, jax.Array]:
    """Return how far the maps (28, 28) differ, and the images."""
    way = metrics.center_of_mass(after) - metrics.center_of_mass(before)
    return {
        "top_k": metrics.top_k_intersection(before, after, LEADING),
        "abs": metrics.spearman(before, after, absolute=True),
        "signed": metrics.spearman(before, after),
        "shift": jnp.linalg.norm(way),
        "largest_change": jnp.max(jnp.abs(moved - image)),
        "l2_change": jnp.linalg.norm(jnp.ravel(moved - image)),
    }


def _numbers(trained: training.Trained, case: Case, outcomes: Outcomes) -> dict[str, Any]:
    def summarised(outcome: Outcome) -> dict[str, Any]:
        values = outcome.values
        found = {
            key: dict(zip(("mean", "low", "high"), interval(values[key]), strict=True))
            for key in MEASURES
        }
        return {
            **found,
            "label_kept": values["kept"].mean(),
            "probability": values["confidence"].mean(),
            "smallest_probability": values["confidence"].min(),
            "largest_change": values["largest_change"].max(),
            "l2_change": values["l2_change"].mean(),
        }

    return {
        "test_accuracy": trained.test_accuracy,
        "images": len(case.images),
        "probability": case.confidences.mean(),
        "leading_pixels": LEADING,
        "outcomes": {
            name: {
                f"{size:.6f}": {kind: summarised(outcome) for kind, outcome in kinds.items()}
                for size, kinds in sizes.items()
                if size > 0
            }
            for name, sizes in outcomes.items()
        },
    }


def _claims(outcomes: Outcomes) -> list[Claim]:
    claims = [_label_claim(outcomes)]
    for name, sizes in outcomes.items():
        for size in (EPSILON, STRONG):
            kinds = sizes[size]
            claims += [
                _compared(name, size, "top_k", kinds[TOP_K], kinds[NOISE]),
                _compared(name, size, "abs", kinds[TOP_K], kinds[NOISE]),
                _compared(name, size, "shift", kinds[CENTRE], kinds[NOISE]),
            ]
    return claims


def _label_claim(outcomes: Outcomes) -> Claim:
    attacked, noisy = (
        np.concatenate(
            [
                outcome.values["kept"]
                for sizes in outcomes.values()
                for kinds in sizes.values()
                for kind, outcome in kinds.items()
                if kind in chosen
            ]
        )
        for chosen in (OBJECTIVES, (NOISE,))
    )
    return Claim(
        "the attacked image has the original's label",
        "same label",
        f"{attacked.sum()} of {attacked.size}",
        bool(attacked.all()),
        "the attack returns only such images, and the ReLU network confirms it; random signs of "
        f"the same sizes keep the label in {noisy.sum()} of {noisy.size}",
    )


def _compared(name: str, size: float, key: str, attacked: Outcome, noisy: Outcome) -> Claim:
    """Compare attack and random signs on a measure; they differ if the intervals are apart."""
    sign = 1 if key == "shift" else -1
    changes = [sign * outcome.values[key] for outcome in (attacked, noisy)]
    (_, low, _), (*_, high) = map(interval, changes)
    paired = Outcome(*attacked[:2], {key: attacked.values[key] - noisy.values[key]})
    return Claim(
        f"{name}, ε = {_named(size)}: {MEASURES[key]}",
        f"{'more' if sign > 0 else 'less'} than with random signs of the same size",
        f"attack {_mean(attacked, key)}, random signs {_mean(noisy, key)}",
        bool(low > high),
        f"difference on the same image {_mean(paired, key)}{_reason(name, key, low > high)}",
    )


def _reason(name: str, key: str, agrees: bool) -> str:
    if agrees or name == "gradient" or key == "shift":
        return ""
    if key == "top_k":
        return (
            "; the factor x − x' decides which pixels lead: hardly any but the digit's can, and "
            "the attack barely changes these"
        )
    return "; most pixels are black, and any noise there turns zeros of the map into small values"


def _mean(outcome: Outcome, key: str) -> str:
    """Write the mean over the images and its interval."""
    return with_interval(*interval(outcome.values[key]), digits=2)


def _table(size: float, outcomes: Outcomes) -> Table:
    rows = [
        [
            name,
            kind,
            f"{100 * outcome.values['kept'].mean():.0f} %",
            f"{100 * outcome.values['confidence'].mean():.1f} %",
            *(_mean(outcome, key) for key in MEASURES),
        ]
        for name, sizes in outcomes.items()
        for kind, outcome in sizes.get(size, {}).items()
    ]
    head = ["method", "perturbation", "label kept", "mean probability", *MEASURES.values()]
    return Table(f"ε {_named(size)}: mean [95 % interval] over the images", head, rows)


def _named(size: float) -> str:
    return f"{STRONG}" if size == STRONG else f"{255 * size:.0f}/255"


def _notes(trained: training.Trained, case: Case, setting: Setting) -> list[str]:
    iterations = QUICK_ITERATIONS if setting.quick else ITERATIONS
    integrated = (
        "Gradient ⊙ input and integrated gradients are left out by --quick."
        if setting.quick
        else f"Integrated gradients start from black and take {IG_STEPS} midpoints."
    )
    return [
        "The network is the CNN of the sanity checks (test accuracy "
        f"{100 * trained.test_accuracy:.1f} %). The images are the first {len(case.images)} test "
        "images that it classifies correctly, with pixels in [0, 1]; the logit of the correct "
        f"class is explained. {integrated}",
        f"An attack takes {iterations} iterations of sign ascent with step {_step(setting)}, from "
        "a random point of the ball |x' − x| ≤ ε. Of the iterates with the original's label it "
        "returns the one that changes the map of the ReLU network most. The second derivative of "
        "ReLU is zero, so the ascent follows the maps of the network with softplus(βz)/β, "
        f"β = {digits.SMOOTHNESS:.0f}, in its place; the maps shown and measured are the ReLU "
        "network's.",
        f"Top-k attacks the leading {LEADING} of 784 pixels, a tenth. The authors take 1,000 of "
        "50,176 on ImageNet, 2 %, which would be 16 pixels here. The control adds one draw of ±ε "
        "to every pixel and clips to [0, 1], as the attacks do. "
        f"{100 * float(np.mean(case.images == 0)):.0f} % of the pixels of these images are black.",
        "The paper's results are on ImageNet and CIFAR-10, so their direction is compared and not "
        "their size. A direction agrees where the 95 % intervals of attack and control do not "
        "overlap.",
    ]


def _step(setting: Setting) -> str:
    return f"2 ε / {QUICK_ITERATIONS} (--quick)" if setting.quick else "1/255"


def _draw_maps(case: Case, outcomes: Outcomes, size: float) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.03, wspace=0.0, hspace=0.0)
    figure = Figure(figsize=(0.4 + 3.85 * len(outcomes), 6.6), layout=layout)
    figure.suptitle(f"ε = {_named(size)}", fontsize=11)
    axes = figure.subplots(4, 4 * len(outcomes) - 1, width_ratios=_widths(len(outcomes)))
    for ax in axes[:, 3::4].flat:
        ax.set_axis_off()
    for number, (name, sizes) in enumerate(outcomes.items()):
        block = axes[:, 4 * number : 4 * number + 3]
        rows = {**sizes[0.0], **sizes[size]}
        for line, (kind, outcome) in zip(block, rows.items(), strict=True):
            _draw_line(line, case, outcome, size)
            if number == 0:
                line[0].set_ylabel(kind, fontsize=10)
        for ax, title in zip(block[0], ("image", f"{name}\nperturbation", "map"), strict=True):
            ax.set_title(title, fontsize=10)
    return figure


def _widths(blocks: int) -> list[float]:
    """Return the columns' widths: three for a method, and a gap between methods."""
    return [1, 1, 1, *[0.12, 1, 1, 1] * (blocks - 1)]


def _draw_line(line: Any, case: Case, outcome: Outcome, size: float) -> None:
    for ax in line:
        ax.set(xticks=[], yticks=[])
    image, values = outcome.images[0], {key: value[0] for key, value in outcome.values.items()}
    change, found = image - case.images[0, ..., 0], outcome.maps[0]
    line[0].imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    line[1].imshow(change, cmap="RdBu_r", vmin=-size, vmax=size, interpolation="nearest")
    xattr.plot.heatmap(line[2], found, percentile=100)
    line[0].set_xlabel(f"{values['predicted']}: {100 * values['confidence']:.1f} %", fontsize=9)
    if change.any():
        kept, rho = f"{100 * values['top_k']:.0f} %", decimal(float(values["abs"]), 2)
        line[2].set_xlabel(f"top {LEADING}: {kept}, ρ {rho}", fontsize=8)


def _draw_curves(outcomes: Outcomes) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3 + 2.8 * len(outcomes), 6), layout="constrained")
    axes = figure.subplots(2, len(outcomes), sharex=True, sharey="row", squeeze=False)
    for column, (name, sizes) in zip(axes.T, outcomes.items(), strict=True):
        column[0].set_title(name, fontsize=11)
        column[1].set_xlabel("ε, in 1/255")
        for ax, key in zip(column, ("top_k", "abs"), strict=True):
            for kind, colour in ((TOP_K, "tab:red"), (CENTRE, "tab:orange"), (NOISE, "0.4")):
                _draw_curve(ax, sizes, kind, key, colour)
            ax.set(ylim=(0, 1.03), xlim=(0, 26.5))
            ax.grid(linewidth=0.4)
    for ax, key in zip(axes[:, 0], ("top_k", "abs"), strict=True):
        ax.set_ylabel(MEASURES[key], fontsize=9)
    handles, _ = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=10)
    return figure


def _draw_curve(ax: Any, sizes: Any, kind: str, key: str, colour: str) -> None:
    there = [size for size in sizes if kind in sizes[size]]
    points = np.array([interval(sizes[size][kind].values[key]) for size in there])
    if len(there) == len(sizes) - 1:  # begin at ε = 0, unless sizes between have no attack
        there, points = [0.0, *there], np.concatenate([np.ones((1, 3)), points])
    mean, low, high = points.T
    places = 255 * np.array(there)
    ax.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.plot(places, mean, "o-", color=colour, markersize=4, label=kind)
