"""The attack of `fragility` on the same network with softplus of growing sharpness for ReLU."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import mnist
from paper_repro.networks import digits, training
from paper_repro.report.progress import shown
from paper_repro.report.results import Claim, Result, Setting, Table, decimal, interval
from paper_repro.report.results import with_interval as written
from xattr import attacks, metrics

NETWORK = "cnn"
SHARPNESS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, np.inf)
"""β of softplus(βz)/β; ∞ is ReLU."""
LEADING, EPSILON, STEP = 78, 8 / 255, 1 / 255
"""As in `fragility`: a tenth of the pixels, the size of the attack and of a step."""
KEPT = 0.01
"""A smooth network counts as good if its accuracy is at most this below that of ReLU."""
ATTACK, NOISE = "attack", "random signs"
MEASURES = {"top_k": f"share of the leading {LEADING} pixels kept", "rho": "Spearman ρ, abs"}


class Size(NamedTuple):
    """How much is attacked and measured."""

    images: int
    iterations: int
    tested: int


FULL, QUICK = Size(16, 60, 2_000), Size(3, 5, 200)


class Outcome(NamedTuple):
    """What one network's maps do; every array has a value for each image."""

    accuracy: float
    values: dict[str, dict[str, np.ndarray]]
    """Attack or random signs -> measure -> values, and whether the label is kept."""
    likeness: dict[str, np.ndarray]
    """Another map -> Spearman ρ of |A| with it."""
    maps: np.ndarray
    """The map of the image, the attacked one and the one with random signs: (3, n, 28, 28)."""


def rounded_relu(values: jax.Array, width: Any) -> jax.Array:
    """Return softplus(z / width) · width: ReLU with a corner of this width, exact at width 0."""
    # The floor keeps the derivatives finite where the width is 0 and the term is none.
    size = jnp.abs(values) / jnp.maximum(width, 1e-6)
    return jax.nn.relu(values) + width * jnp.log1p(jnp.exp(-size))


def model(image: jax.Array, params: Any, width: Any) -> jax.Array:
    """Return the logits of the network with corners of this width, 1/β."""
    activation = functools.partial(rounded_relu, width=width)
    network = digits.NETWORKS[NETWORK].clone(activation=activation)
    return network.apply({"params": params}, image)


def guide(image: jax.Array, params: Any, width: Any) -> jax.Array:
    """Return the logits of the network whose maps the ascent follows: itself, or that of β = 20."""
    return model(image, params, jnp.maximum(width, 1 / digits.SMOOTHNESS))


def run(setting: Setting) -> Result:
    """Attack the gradient map of the network at every sharpness."""
    size = QUICK if setting.quick else FULL
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    trained = training.network(NETWORK, setting, data)
    images = _images(data, trained.params, size)
    tested = (data.test_images[: size.tested], data.test_labels[: size.tested])
    shown_ = shown(SHARPNESS, "sharpness", setting.progress)
    outcomes = {
        beta: _outcome(beta, images, tested, trained.params, size, setting) for beta in shown_
    }
    outcomes = _compared(outcomes, images, trained.params, setting)
    return Result(
        "Smoothing: the same network with a softer corner, and the attack on its maps",
        {"": _draw_curves(outcomes), "maps": _draw_maps(images, outcomes)},
        _numbers(outcomes, size),
        _claims(outcomes),
        [_table(outcomes)],
        _notes(size, setting),
    )


def _images(data: mnist.Mnist, params: Any, size: Size) -> np.ndarray:
    """Return the first test images that the ReLU network gets right."""
    images, labels = data.test_images[: 2 * size.images + 10], data.test_labels
    right = training.predictions(digits.logits(NETWORK), params, images) == labels[: len(images)]
    return images[right][: size.images]


def _outcome(
    beta: float, images: np.ndarray, tested: Any, params: Any, size: Size, setting: Setting
) -> Outcome:
    width = jnp.float32(1 / beta)
    keys = jax.random.split(jax.random.key(setting.seed), len(images))
    moved = {
        ATTACK: _attacked(size.iterations, images, keys, params, width),
        NOISE: _noisy(images, keys),
    }
    before, label = _mapped(images, params, width, None)
    values, maps = {}, [before]
    for kind, others in moved.items():
        after, predicted = _mapped(others, params, width, label)
        values[kind] = {key: np.asarray(v) for key, v in _changes(before, after).items()}
        values[kind]["kept"] = np.asarray(predicted == label)
        maps.append(after)
    return Outcome(_accuracy(tested, params, width), values, {}, np.array(maps))


@functools.partial(jax.jit, static_argnums=0)
def _attacked(iterations: int, images: Any, keys: Any, params: Any, width: Any) -> jax.Array:
    """Attack every image; one program serves all sharpnesses."""
    # With few iterations a small step could not cross the ball from its random start.
    step = max(STEP, 2 * EPSILON / iterations)

    def one(image: Any, key: Any) -> jax.Array:
        return attacks.attack_attributions(
            model, image, key, k=LEADING, epsilon=EPSILON, step_size=step,
            iterations=iterations, surrogate=guide, args=(params, width),
        ).x  # fmt: skip

    return jax.vmap(one)(images, keys)


@jax.jit
@jax.vmap
def _noisy(image: Any, key: Any) -> jax.Array:
    return attacks.random_perturbation(image, jax.random.fold_in(key, 1), epsilon=EPSILON)


@jax.jit
def _mapped(images: Any, params: Any, width: Any, labels: Any) -> tuple[jax.Array, jax.Array]:
    """Return the gradients (n, 28, 28) of the labels' logits, and the predictions.

    Without labels the predictions are explained.
    """
    predicted = jnp.argmax(jax.vmap(model, (0, None, None))(images, params, width), axis=1)
    f = xattr.targets.logit(model)

    def one(image: Any, label: Any) -> Any:
        return xattr.gradient(f, image, args=(label, params, width))[..., 0]

    return jax.vmap(one)(images, predicted if labels is None else labels), predicted


@jax.jit
@jax.vmap
def _changes(before: Any, after: Any) -> dict[str, jax.Array]:
    return {
        "top_k": metrics.top_k_intersection(before, after, LEADING),
        "rho": metrics.spearman(before, after, absolute=True),
    }


def _accuracy(tested: Any, params: Any, width: Any) -> float:
    images, labels = tested
    batches = np.split(images, range(200, len(images), 200))
    found = [np.asarray(_predicted(batch, params, width)) for batch in batches]
    return float((np.concatenate(found) == labels).mean())


@jax.jit
def _predicted(images: Any, params: Any, width: Any) -> jax.Array:
    return jnp.argmax(jax.vmap(model, (0, None, None))(images, params, width), axis=1)


def _compared(
    outcomes: dict[float, Outcome], images: np.ndarray, params: Any, setting: Setting
) -> dict[float, Outcome]:
    """Add how like each network's maps are to those of ReLU, and to its SmoothGrad."""
    keys = jax.random.split(jax.random.key(setting.seed), len(images))
    others = {
        "gradient of ReLU": outcomes[np.inf].maps[0],
        "SmoothGrad of ReLU": _smooth(images, keys, params),
    }
    return {
        beta: outcome._replace(
            likeness={
                name: np.asarray(_changes(outcome.maps[0], other)["rho"])
                for name, other in others.items()
            }
        )
        for beta, outcome in outcomes.items()
    }


@jax.jit
def _smooth(images: Any, keys: Any, params: Any) -> jax.Array:
    width = jnp.float32(0)
    predicted = _predicted(images, params, width)
    f = xattr.targets.logit(model)

    def one(each: Any) -> Any:
        image, label, key = each
        args = (label, params, width)
        return xattr.smooth_grad(f, image, key, num_samples=25, args=args, chunk_size=25)[..., 0]

    return jax.lax.map(one, (images, predicted, keys))


# The page -----------------------------------------------------------------------------------------


def _named(beta: float) -> str:
    return "ReLU" if beta == np.inf else f"β = {beta:.0f}"


def _numbers(outcomes: dict[float, Outcome], size: Size) -> dict[str, Any]:
    def summary(values: np.ndarray) -> dict[str, float]:
        return dict(zip(("mean", "low", "high"), interval(values), strict=True))

    return {
        "images": size.images,
        "iterations": size.iterations,
        "sharpness": {
            _named(beta): {
                "accuracy": outcome.accuracy,
                **{
                    kind: {key: summary(each) for key, each in values.items()}
                    for kind, values in outcome.values.items()
                },
                "likeness": {name: summary(v) for name, v in outcome.likeness.items()},
            }
            for beta, outcome in outcomes.items()
        },
    }


def good(outcomes: dict[float, Outcome]) -> float:
    """Return the smallest β at which the network is almost as accurate as with ReLU."""
    limit = outcomes[np.inf].accuracy - KEPT
    return min(beta for beta, outcome in outcomes.items() if outcome.accuracy >= limit)


def _claims(outcomes: dict[float, Outcome]) -> list[Claim]:
    smoothest, relu = good(outcomes), outcomes[np.inf]
    smooth = outcomes[smoothest]
    kept = np.concatenate([each.values[ATTACK]["kept"] for each in outcomes.values()])
    claims = [
        Claim(
            "the attacked image has the original's label",
            "same label",
            f"{kept.sum()} of {kept.size}",
            bool(kept.all()),
        ),
        Claim(
            "with softplus in place of ReLU the trained network is as accurate",
            "a sharp softplus hardly differs (Dombrowski et al. 2019)",
            ", ".join(f"{_named(b)} {100 * o.accuracy:.1f} %" for b, o in outcomes.items()),
            bool(abs(outcomes[50.0].accuracy - relu.accuracy) <= KEPT),
            f"the smoothest network within {100 * KEPT:.0f} % of ReLU has {_named(smoothest)}",
        ),
    ]
    claims += [_weaker(key, smooth, relu, smoothest) for key in MEASURES]
    likeness = {beta: outcome.likeness for beta, outcome in outcomes.items()}
    best = max(likeness, key=lambda b: float(np.mean(likeness[b]["SmoothGrad of ReLU"])))
    alike = {b: decimal(float(np.mean(likeness[b]["SmoothGrad of ReLU"])), 2) for b in likeness}
    claims.append(
        Claim(
            "the gradient of a smooth network is like SmoothGrad of the ReLU network",
            "smoothing and SmoothGrad do the same (Dombrowski et al. 2019)",
            ", ".join(f"{_named(b)} {text}" for b, text in alike.items()) + " (Spearman ρ, abs)",
            best != np.inf,
            f"most alike: {_named(best)}",
        )
    )
    return claims


def _weaker(key: str, smooth: Outcome, relu: Outcome, smoothest: float) -> Claim:
    """Compare the attack on the smoothest good network with that on ReLU."""
    apart = interval(smooth.values[ATTACK][key] - relu.values[ATTACK][key])
    noise = interval(smooth.values[NOISE][key] - relu.values[NOISE][key])
    return Claim(
        f"the attack changes maps of the smooth network less: {MEASURES[key]}",
        "smooth networks resist it (Dombrowski et al. 2019)",
        f"{_named(smoothest)} {written(*interval(smooth.values[ATTACK][key]), digits=2)}, ReLU "
        f"{written(*interval(relu.values[ATTACK][key]), digits=2)}",
        bool(apart[1] > 0),
        f"difference on the same image {written(*apart, digits=2)}; random signs of the same "
        f"size {written(*noise, digits=2)}",
    )


def _table(outcomes: dict[float, Outcome]) -> Table:
    rows = []
    for beta, outcome in outcomes.items():
        cells = [_named(beta), f"{100 * outcome.accuracy:.1f} %"]
        for key in MEASURES:
            for kind in (ATTACK, NOISE):
                cells.append(written(*interval(outcome.values[kind][key]), digits=2))
        cells += [f"{100 * outcome.values[kind]['kept'].mean():.0f} %" for kind in (ATTACK, NOISE)]
        cells += [written(*interval(values), digits=2) for values in outcome.likeness.values()]
        rows.append(cells)
    head = ["network", "accuracy"]
    head += [f"{text}: {kind}" for text in MEASURES.values() for kind in (ATTACK, NOISE)]
    head += [f"label kept: {kind}" for kind in (ATTACK, NOISE)]
    head += [f"ρ with {name}" for name in outcomes[np.inf].likeness]
    return Table("Mean [95 % interval] over the images", head, rows)


def _notes(size: Size, setting: Setting) -> list[str]:
    return [
        "The network is the CNN of the sanity checks with its trained parameters; every ReLU is "
        "replaced by softplus(βz)/β, which is at most log(2)/β larger. Nothing is trained anew. "
        f"Accuracy is that of the first {size.tested:,} test images. The logit of the class that "
        "each network predicts is explained by its own gradient.",
        f"Top-k attack on {size.images} images, ε = 8/255, {size.iterations} iterations. The "
        "ascent follows the maps of the attacked network itself, or those of β = 20 where it is "
        "sharper or has ReLU, since a sharp corner has almost no second derivative. The images are "
        "the first that the ReLU network gets right.",
        "Dombrowski et al. smooth the explained network and keep ReLU for the prediction. Here one "
        "network does both, so that its accuracy says how far smoothing can go.",
    ]


def _draw_curves(outcomes: dict[float, Outcome]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    axes = figure.subplots(1, 4)
    places = np.arange(len(outcomes))
    for ax, (key, title) in zip(axes, MEASURES.items(), strict=False):
        for kind, colour in ((ATTACK, "tab:red"), (NOISE, "0.4")):
            found = [interval(outcome.values[kind][key]) for outcome in outcomes.values()]
            mean, low, high = np.array(found).T
            ax.plot(places, mean, color=colour, marker="o", markersize=3, label=kind)
            ax.fill_between(places, low, high, color=colour, alpha=0.2)
        ax.set_title(title, fontsize=10)
        ax.legend(fontsize=8, loc="lower left")
    for name, colour in (("gradient of ReLU", "tab:blue"), ("SmoothGrad of ReLU", "tab:green")):
        found = [interval(outcome.likeness[name]) for outcome in outcomes.values()]
        mean, low, high = np.array(found).T
        axes[2].plot(places, mean, color=colour, marker="o", markersize=3, label=name)
        axes[2].fill_between(places, low, high, color=colour, alpha=0.2)
    axes[2].set_title("Spearman ρ of the map with", fontsize=10)
    axes[2].legend(fontsize=8, loc="lower right")
    axes[3].plot(places, [o.accuracy for o in outcomes.values()], "ko-", markersize=3)
    axes[3].set_title("accuracy", fontsize=10)
    for ax in axes:
        labels = ["ReLU" if beta == np.inf else f"{beta:.0f}" for beta in outcomes]
        ax.set(ylim=(0, 1.03), xticks=places, xticklabels=labels, xlabel="β")
        ax.grid(linewidth=0.4)
    return figure


def _draw_maps(images: np.ndarray, outcomes: dict[float, Outcome]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.5 * (len(outcomes) + 1), 5), layout="constrained")
    axes = figure.subplots(3, len(outcomes) + 1)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    axes[0, 0].imshow(images[0, ..., 0], cmap="gray", vmin=0, vmax=1)
    for ax in axes[1:, 0]:
        ax.set_axis_off()
    for column, (beta, outcome) in zip(axes[:, 1:].T, outcomes.items(), strict=True):
        column[0].set_title(_named(beta), fontsize=10)
        for ax, found in zip(column, outcome.maps[:, 0], strict=True):
            xattr.plot.heatmap(ax, found, percentile=100)
        for ax, kind in zip(column[1:], (ATTACK, NOISE), strict=True):
            kept = outcome.values[kind]["top_k"][0]
            ax.set_xlabel(f"{kind}: {100 * kept:.0f} % kept", fontsize=8)
    axes[0, 0].set_title("image", fontsize=10)
    return figure
