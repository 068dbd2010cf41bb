"""Not an experiment: maps while the layers of a network are randomized, and how alike they are.

`cascade_mnist` and `visualize_randomization` draw and judge what is measured here.
"""

import operator
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import xattr
from paper_repro.data import mnist
from paper_repro.experiments.saliency import explain, methods_for
from paper_repro.networks import digits, training
from paper_repro.report.progress import shown
from paper_repro.report.results import Setting, interval
from paper_repro.report.similarity import METRICS, compare
from xattr import metrics, sanity

QUICK_METHODS = {
    "cnn": (
        "gradient",
        "guided backprop",
        "integrated gradients",
        "gradient ⊙ input",
        "Grad-CAM",
        "CGI",
        "edge detector",
    ),
    "mlp": ("gradient", "guided backprop", "integrated gradients"),
}


def order_of(network: str) -> tuple[str, ...]:
    """Return the layers from the output to the input."""
    return tuple(reversed(digits.NETWORKS[network].layers))


def stages_of(
    network: str, params: Any, key: Any, *, original: bool = False, independent: bool = False
) -> Iterator[Any]:
    """Yield the trained network, then the network with one layer more randomized each time.

    With `independent`, each stage randomizes one layer alone. Values are drawn from N(0, 0.01²)
    cut at two deviations, as in the note and the paper; with `original` by the initialiser before
    training, as in the authors' notebooks.
    """
    fresh = (lambda _, key: digits.initialise(network, key)) if original else None
    randomized = sanity.independent if independent else sanity.cascading
    stages = randomized(params, key, order=order_of(network), init=fresh)
    count = len(jax.tree.leaves(stages)[0])
    for k in range(count):
        yield jax.tree.map(operator.itemgetter(k), stages)


@jax.jit(static_argnums=0)
def _integrated(model: Any, images: Any, labels: Any, params: Any) -> jax.Array:
    def one(image: Any, label: Any) -> jax.Array:
        found = xattr.integrated_gradients(
            xattr.targets.logit(model),
            image,
            quadrature=xattr.quadrature.midpoint(50),
            args=(label, params),
        )
        return found[..., 0]

    return jax.vmap(one)(images, labels)


def integrated(model: Any, images: np.ndarray, labels: np.ndarray, params: Any) -> np.ndarray:
    """Return integrated gradients of the labels' logits, from black, 50 midpoints: (n, 28, 28)."""
    maps = [
        np.asarray(_integrated(model, images[i : i + 5], labels[i : i + 5], params))
        for i in range(0, len(images), 5)
    ]
    return np.concatenate(maps)


def sampled(digits_: mnist.Mnist, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return test images drawn without replacement, and their labels."""
    chosen = np.random.default_rng(seed).choice(len(digits_.test_images), count, replace=False)
    return digits_.test_images[chosen], digits_.test_labels[chosen]


def label_of(layer: str) -> str:
    """Return a layer's name as the papers write it."""
    return layer.upper() if layer.startswith("f") else layer.capitalize()


class Study(NamedTuple):
    """Maps of every method at every stage, compared with the trained network's."""

    network: str
    stages: tuple[str, ...]
    images: np.ndarray
    maps: dict[str, np.ndarray]
    """Method -> (stages + 1, 28, 28): maps of the first image, the trained network's first."""
    values: dict[str, dict[str, np.ndarray]]
    """Method -> metric -> (stages, images)."""

    def means(self) -> dict[str, dict[str, np.ndarray]]:
        """Return the means over the images that have a value: method -> metric -> (stages,)."""
        return {
            method: {metric: mean_of(values) for metric, values in found.items()}
            for method, found in self.values.items()
        }

    def numbers(self) -> dict[str, Any]:
        """Return the means and deviations over the images for JSON."""
        deviations = {
            method: [np.std(row[np.isfinite(row)]) for row in found["abs"]]
            for method, found in self.values.items()
        }
        return {"stages": self.stages, "means": self.means(), "deviation_of_abs": deviations}


def mean_of(values: np.ndarray) -> np.ndarray:
    """Return the mean of each row's values that are defined, NaN if none is."""
    rows = [row[np.isfinite(row)] for row in values]
    return np.array([row.mean() if row.size else np.nan for row in rows])


def study_of(
    setting: Setting,
    data: mnist.Mnist,
    network: str,
    params: Any,
    *,
    independent: bool = False,
    note: bool = False,
) -> Study:
    """Compare maps of the first test images between the trained network and each stage.

    As in the notebooks, each network explains the class that it predicts, and layers are drawn by
    the initialiser before training. With `note` as in the note: the true class and N(0, 0.01²);
    IG-SmoothGrad is then left out.
    """
    model = digits.logits(network)
    images = data.test_images[: 2 if setting.quick else 10]
    labels = data.test_labels[: len(images)]
    names = QUICK_METHODS[network] if setting.quick else methods_for(network, learned=True)
    names = [name for name in names if not (note and name == "IG-SmoothGrad")]
    key = jax.random.key(setting.seed + 1)
    maps: dict[str, list[np.ndarray]] = {name: [] for name in names}
    stages = stages_of(network, params, key, original=not note, independent=independent)
    text = f"{network}{', independent' if independent else ''}"
    for stage in shown(list(stages), text, setting.progress):
        explained = labels if note else training.predictions(model, stage, images)
        for name in names:
            found = explain(name, model, images, explained, stage, seed=setting.seed)
            maps[name].append(found)
    values = {name: _compared(np.stack(found), images) for name, found in maps.items()}
    first = {name: np.stack(found)[:, 0] for name, found in maps.items()}
    return Study(network, order_of(network), images, first, values)


def _compared(maps: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    """Compare maps (stages + 1, n, 28, 28) with the first of them: metric -> (stages, n)."""
    found = [compare(maps[0], later, images) for later in maps[1:]]
    return {metric: np.stack([each[metric] for each in found]) for metric in METRICS}


def note_curves(setting: Setting, data: mnist.Mnist, params: Any) -> dict[str, Any]:
    """Return the note's three curves: for each stage the mean over images and its 95 % interval."""
    images, labels = sampled(data, 10 if setting.quick else 50, setting.seed)
    model = digits.logits("cnn")
    stages = stages_of("cnn", params, jax.random.key(setting.seed))
    maps = [
        integrated(model, images, labels, stage)
        for stage in shown(list(stages), "note, figure 2", setting.progress)
    ]
    found = _compared(np.stack(maps), images)
    curves = {metric: interval(found[metric], axis=1) for metric in ("signed", "abs", "nonzero")}
    return {
        "stages": order_of("cnn"),
        "images": len(images),
        "black": float((images == 0).mean()),
        **{
            metric: dict(zip(("mean", "low", "high"), c, strict=True))
            for metric, c in curves.items()
        },
    }


def random_floor(setting: Setting, data: mnist.Mnist, params: Any) -> dict[str, Any]:
    """Return how alike maps of two random networks are, and images times two random vectors."""
    images, labels = sampled(data, 10 if setting.quick else 50, setting.seed)
    pairs = 1 if setting.quick else 10
    model, key = digits.logits("cnn"), jax.random.key(setting.seed + 2)
    found: dict[str, list[np.ndarray]] = {}

    def record(name: str, a: Any, b: Any) -> None:
        values = jax.vmap(metrics.spearman_nonzero)(a, b, images[..., 0])
        found.setdefault(name, []).append(np.asarray(values))

    draws = {"uniform": jax.random.uniform, "normal": jax.random.normal}
    for pair in shown(range(pairs), "pairs of random networks", setting.progress):
        keys = jax.random.split(jax.random.fold_in(key, pair), 2)
        layers = order_of("cnn")
        random = [sanity.randomize(params, k, layers=layers) for k in keys]
        record("networks", *(integrated(model, images, labels, each) for each in random))
        for name, draw in draws.items():
            record(name, *(images[..., 0] * draw(k, images[..., 0].shape) for k in keys))
    names = ("mean", "low99", "high99")
    intervals = {name: interval(np.concatenate(v), 0.99) for name, v in found.items()}
    return {
        "images": len(images),
        "pairs": f"{pairs} pair{'s' if pairs > 1 else ''}",
        **{name: dict(zip(names, values, strict=True)) for name, values in intervals.items()},
    }
