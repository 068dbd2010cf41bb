"""Not an experiment: maps of a network, and of one whose first bias undoes a shift of its inputs.

`input_invariance` draws and judges what is measured here.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import mnist
from paper_repro.networks import digits, training
from paper_repro.report.progress import shown
from paper_repro.report.results import Setting
from xattr import attacks, composites, metrics, quadrature, rules, targets

NETWORK = "mlp1024"
MODEL = digits.logits(NETWORK)
F = targets.logit(MODEL)
SHAPE = (28, 28, 1)
CELL = 4
"""Pixels along a side of the checkerboard's squares."""
CLIP = 0.3
"""The largest change of a pixel by the shift that hides the cat."""
NOISE = 0.15
"""SmoothGrad's deviation as a share of the range of the unshifted image."""
Z_RULE = composites.every_layer(rules.zero())

BATCH = 5
"""Images taken together."""


class Size(NamedTuple):
    """How much is measured."""

    images: int
    test_images: int
    pattern_images: int
    nodes: int
    samples: int


FULL = Size(images=50, test_images=10_000, pattern_images=10_000, nodes=64, samples=10)
QUICK = Size(images=5, test_images=500, pattern_images=200, nodes=16, samples=4)


class Case(NamedTuple):
    """An image, the first bias of its network, and what methods need; or many, along an axis."""

    image: Any
    label: Any
    bias: Any
    shift: Any
    """m, which was added to the image."""
    black: Any
    """The smallest pixel of the data set."""
    noise: Any
    """SmoothGrad's deviation as a share of the range of the image."""
    key: Any


Explained = Callable[..., Any]
"""An attribution method with its options bound: `method(f, x, *, args)`."""
Base = Callable[[Case, Mapping[str, Any], int], Explained]


def _integrated(nodes: int, baseline: Any = None) -> Explained:
    return functools.partial(
        xattr.integrated_gradients,
        baseline=baseline,
        quadrature=quadrature.gauss_legendre(nodes),
        chunk_size=nodes,
    )


BASES: dict[str, Base] = {
    "gradient": lambda case, patterns, nodes: xattr.gradient,
    "guided": lambda case, patterns, nodes: xattr.guided_backprop,
    "deconvnet": lambda case, patterns, nodes: xattr.deconvnet,
    "pn": lambda case, patterns, nodes: functools.partial(xattr.pattern_net, patterns=patterns),
    "gi": lambda case, patterns, nodes: xattr.gradient_x_input,
    "ig zero": lambda case, patterns, nodes: _integrated(nodes),
    "ig black": lambda case, patterns, nodes: _integrated(nodes, jnp.full(SHAPE, case.black)),
    "ig shifted": lambda case, patterns, nodes: _integrated(nodes, case.shift),
    "lrp": lambda case, patterns, nodes: functools.partial(xattr.lrp, composite=Z_RULE),
    "lrp bias": lambda case, patterns, nodes: functools.partial(
        xattr.lrp, composite=Z_RULE, bias="include"
    ),
    "pa": lambda case, patterns, nodes: functools.partial(
        xattr.pattern_attribution, patterns=patterns
    ),
}


class Method(NamedTuple):
    """A method of the figures, and whether the paper says that its maps are identical.

    `constant` is for a shift by one number, `vector` for one by an image; None where the paper does
    not say.
    """

    short: str
    group: str
    base: str
    constant: bool | None
    vector: bool | None


SIGNAL, ATTRIBUTION, SMOOTH = "gradient and signal methods", "attribution methods", "SmoothGrad"
METHODS = {
    "gradient": Method("gradient", SIGNAL, "gradient", True, True),
    "guided backprop": Method("guided\nbackprop", SIGNAL, "guided", True, True),
    "DeConvNet": Method("DeConvNet", SIGNAL, "deconvnet", None, None),
    "PatternNet": Method("PatternNet", SIGNAL, "pn", True, True),
    "gradient ⊙ input": Method("gradient\n⊙ input", ATTRIBUTION, "gi", False, False),
    "IG, zero baseline": Method("IG, zero", ATTRIBUTION, "ig zero", False, False),
    "IG, black baseline": Method("IG, black", ATTRIBUTION, "ig black", True, False),
    "IG, shifted baseline": Method("IG, shifted\nbaseline", ATTRIBUTION, "ig shifted", None, None),
    "DTD, LRP root": Method("DTD, LRP", ATTRIBUTION, "lrp", False, False),
    "DTD, LRP root, bias in": Method("DTD, LRP\n(bias in)", ATTRIBUTION, "lrp bias", None, None),
    "DTD, PA root": Method("DTD, PA", ATTRIBUTION, "pa", True, True),
    "SG-gradient": Method("SG-\ngradient", SMOOTH, "gradient", True, True),
    "SG-guided backprop": Method("SG-guided\nbackprop", SMOOTH, "guided", True, True),
    "SG-PA": Method("SG-PA", SMOOTH, "pa", True, True),
    "SG-gradient ⊙ input": Method("SG-grad.\n⊙ input", SMOOTH, "gi", False, False),
    "SG-IG, zero baseline": Method("SG-IG, zero", SMOOTH, "ig zero", False, False),
    "SG-LRP": Method("SG-LRP", SMOOTH, "lrp", False, False),
}
PLAIN = tuple(name for name, method in METHODS.items() if method.group != SMOOTH)
SMOOTHED = tuple(name for name, method in METHODS.items() if method.group == SMOOTH)
FIGURE_4 = [
    "gradient ⊙ input",
    "IG, zero baseline",
    "IG, black baseline",
    "DTD, LRP root",
    "DTD, PA root",
]
"""The columns of figures 4 and 5."""

CONSTANT, CHECKERS, CAT = "constant −1", "checkerboard", "cat"
OTHER_CHECKERS, WHOLE_CAT = "checkerboard of −1 and 0", "cat, not clipped"
SHIFTS = {
    "": PLAIN + SMOOTHED,
    CONSTANT: PLAIN + SMOOTHED,
    CHECKERS: PLAIN + SMOOTHED,
    CAT: PLAIN + SMOOTHED,
    OTHER_CHECKERS: PLAIN,
    WHOLE_CAT: PLAIN,
}
"""Shift -> methods tried on it. "" is network 1; the last two shifts are not in the paper."""


class Study(NamedTuple):
    """All measurements that figures, tables and claims are made of."""

    size: Size
    trained: training.Trained
    cases: dict[str, Case]
    """Shift -> the images as that network sees them; network 1 is under ""."""
    target: np.ndarray
    """The map, for each image, that the shift of the cat aims at."""
    maps: dict[tuple[str, str], np.ndarray]
    """(Method, shift) -> maps (n, 28, 28)."""
    predictions: dict[str, dict[str, dict[str, float]]]
    estimated: dict[str, dict[str, dict[str, Any]]]
    labels: np.ndarray
    chosen: np.ndarray

    @property
    def example(self) -> int:
        """The image that is drawn: the first whose label is predicted."""
        return int(np.argmax(self.labels == self.cases[""].label))

    def apart(self, name: str, shift: str) -> np.ndarray:
        """Return the relative difference of the maps of networks 1 and 2 for each image."""
        return relative(self.maps[name, ""], self.maps[name, shift])

    def likeness(self, name: str, shift: str, metric: Any = metrics.pearson) -> np.ndarray:
        """Return the correlation of each map with the cat hidden in the shift."""
        return _correlations(metric, self.maps[name, shift], self.target)

    def outline(self, name: str, shift: str) -> np.ndarray:
        """Return the rank correlation of each map's absolute values with the cat."""
        return _correlations(metrics.spearman, np.abs(self.maps[name, shift]), self.target)

    def checkered(self, name: str, shift: str) -> np.ndarray:
        """Return the correlation of each map's absolute values with the checkerboard."""
        board = self.cases[CHECKERS].shift[..., 0]
        return _correlations(metrics.pearson, np.abs(self.maps[name, shift]), board)


def _correlations(metric: Any, maps: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(metric)(maps, hidden))


def relative(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return max |A₁ − A₂| / max |A₁| of each pair of maps."""
    axes = tuple(range(1, first.ndim))
    return np.abs(first - second).max(axes) / np.abs(first).max(axes)


def study_of(setting: Setting) -> Study:
    """Train network 1, make a network 2 for each shift, and take all maps."""
    size = QUICK if setting.quick else FULL
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    trained = training.network(NETWORK, setting, data)
    chosen = np.random.default_rng(setting.seed).permutation(len(data.test_images))[: size.images]
    images, labels = training.training_set(training.recipe_of(NETWORK, setting), data)
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), trained.params)
        cases, target = _cases(params, data.test_images[chosen], data.train_images, setting.seed)
        fits = images[: size.pattern_images], labels[0]
        patterns = _fitted(params, *fits, setting.progress)
        maps = _all_maps(cases, params, patterns["relu", ""], size, setting.progress)
        estimated = _estimated(cases, params, patterns)
        double = _predicted(params, data, cases, size, np.float64)
    single = _predicted(trained.params, data, cases, size, np.float32)
    return Study(
        size,
        trained,
        cases,
        target,
        maps,
        {"float32": single, "float64": double},
        estimated,
        data.test_labels[chosen],
        chosen,
    )


def shifted(params: Any, shift: Any) -> Any:
    """Return the parameters of network 2, whose first bias undoes the shift."""
    return attacks.mean_shift(params, shift, layer="h1")


def checkerboard(low: float = 0.0) -> np.ndarray:
    """Return an image of squares of `low` and `low` + 1."""
    board = attacks.checkerboard(*SHAPE[:2], cell=CELL, low=low, high=low + 1)
    return np.asarray(board)[..., None]


def cat() -> np.ndarray:
    """Draw the face of a cat in 1 on 0; pixels at its edges lie in between."""
    from PIL import Image, ImageDraw

    fine = 8
    picture = Image.new("L", (28 * fine, 28 * fine))
    draw = ImageDraw.Draw(picture)

    def scaled(*numbers: float) -> list[float]:
        return [fine * number for number in numbers]

    draw.ellipse(scaled(4, 7, 24, 26), fill=255)
    for x in (-1, 1):  # the left and the right half
        draw.polygon(scaled(14 + 9 * x, 15, 14 + 9 * x, 2, 14 + x, 8), fill=255)
        eye = sorted((14 + 2.5 * x, 14 + 6.5 * x))
        draw.ellipse(scaled(eye[0], 12.5, eye[1], 17), fill=0)
        mouth = sorted((14 - 0.2 * x, 14 + 4.5 * x))
        draw.arc(scaled(mouth[0], 18, mouth[1], 23.5), 20, 160, fill=0, width=fine)
        for start, end in ((18.5, 17.5), (21, 21.5)):
            draw.line(scaled(14 + 9.5 * x, start, 14 + 13.5 * x, end), fill=255, width=fine)
    draw.polygon(scaled(12, 18, 16, 18, 14, 20.5), fill=0)
    small = picture.resize((28, 28), Image.Resampling.BOX)
    return np.asarray(small, np.float64)[..., None] / 255


def _cases(
    params: Any, images: np.ndarray, everything: np.ndarray, seed: int
) -> tuple[dict[str, Case], np.ndarray]:
    """Return the images as networks 1 and 2 see them, and the cat hidden for each map."""
    images = images.astype(np.float64)
    labels = np.asarray(training.predictions(MODEL, params, images), np.int32)
    lowest = everything.min(0).astype(np.float64)
    keys = jax.random.split(jax.random.key(seed), len(images))
    target, clipped, whole = map(np.asarray, _hiding(images, labels, params, cat()))
    shifts = {
        "": np.zeros(SHAPE),
        CONSTANT: np.full(SHAPE, -1.0),
        CHECKERS: checkerboard(),
        CAT: clipped,
        OTHER_CHECKERS: checkerboard(-1.0),
        WHOLE_CAT: whole,
    }
    cases = {}
    for name, shift in shifts.items():
        shift = np.broadcast_to(shift, images.shape)
        moved = images + shift
        cases[name] = Case(
            image=moved,
            label=labels,
            bias=np.asarray(jax.jit(jax.vmap(_bias, (None, 0)))(params, shift)),
            shift=shift,
            black=(lowest + shift).min((1, 2, 3)),
            noise=NOISE * np.ptp(images, (1, 2, 3)) / np.ptp(moved, (1, 2, 3)),
            key=keys,
        )
    return cases, target[..., 0]


def _bias(params: Any, shift: Any) -> Any:
    return shifted(params, shift)["h1"]["bias"]


@jax.jit
def _hiding(images: Any, labels: Any, params: Any, drawing: Any) -> Any:
    """Return the map that each image is to get, and the shifts for it, clipped and whole."""

    def one(image: Any, label: Any) -> Any:
        args = (label, params)
        target = drawing * jnp.max(jnp.abs(xattr.gradient_x_input(F, image, args=args)))
        clipped, whole = (
            attacks.targeted_shift(F, image, target, limit=limit, args=args)
            for limit in (CLIP, None)
        )
        return target, clipped, whole

    return jax.vmap(one)(images, labels)


def _all_maps(
    cases: dict[str, Case], params: Any, patterns: Any, size: Size, progress: bool
) -> dict[tuple[str, str], np.ndarray]:
    wanted = [(shift, PLAIN) for shift in cases]
    wanted += [(shift, SMOOTHED) for shift in cases if set(SMOOTHED) <= set(SHIFTS[shift])]
    found = {}
    for shift, names in shown(wanted, "maps", progress):
        maps = _maps(names, size, cases[shift], params, patterns)
        found.update({(name, shift): np.asarray(values) for name, values in maps.items()})
    return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _maps(
    names: tuple[str, ...], size: Size, cases: Case, params: Any, patterns: Any
) -> dict[str, jax.Array]:
    """Return name -> maps (n, 28, 28) of several methods, which are all SmoothGrad's or none."""

    def one(case: Case) -> Any:
        own = {**params, "h1": {**params["h1"], "bias": case.bias}}

        def together(f: Any, x: Any, *, args: Any) -> Any:
            methods = {n: BASES[METHODS[n].base](case, patterns, size.nodes) for n in names}
            return {name: method(f, x, args=args) for name, method in methods.items()}

        args = (case.label, own)
        if names != SMOOTHED:
            return together(F, case.image, args=args)
        # All methods share the noise, because its program is what takes long to compile.
        return xattr.smooth_grad(
            F,
            case.image,
            case.key,
            method=together,
            num_samples=size.samples,
            noise_scale=case.noise,
            args=args,
            chunk_size=size.samples,
        )

    maps = jax.lax.map(one, cases, batch_size=BATCH)
    return {name: values[..., 0] for name, values in maps.items()}


# Patterns -------------------------------------------------------------------------------------


def _fitted(
    params: Any, images: np.ndarray, label: int, progress: bool
) -> dict[tuple[str, str], Any]:
    """Return patterns by estimator and shift, fitted on the data that the network sees."""
    shifts = {"": np.zeros(SHAPE), CONSTANT: np.full(SHAPE, -1.0), CHECKERS: checkerboard()}
    wanted = [(kind, name) for kind in ("relu", "linear") for name in shifts]

    def batches(shift: np.ndarray) -> Iterator[np.ndarray]:
        for start in range(0, len(images), 100):
            yield images[start : start + 100].astype(np.float64) + shift

    return {
        (kind, name): xattr.fit_patterns(
            F,
            batches(shifts[name]),
            estimator=kind,
            args=(np.int32(label), shifted(params, shifts[name])),
        )
        for kind, name in shown(wanted, "patterns", progress)
    }


def _estimated(
    cases: dict[str, Case],
    params: Any,
    patterns: dict[tuple[str, str], Any],
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compare patterns fitted to network 1 with those fitted to network 2, and their maps."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    names = {"PN": "PatternNet", "PA": "DTD, PA root"}
    explain = functools.partial(_maps, tuple(names.values()), QUICK)
    for kind, shift in patterns:
        if not shift:
            continue
        before, after = patterns[kind, ""], patterns[kind, shift]
        first = explain(cases[""], params, before)
        second = explain(cases[shift], params, after)
        found.setdefault(kind, {})[shift] = {
            "patterns": {
                layer: summary(_changes(before[place], after[place]))
                for layer, place in zip(digits.NETWORKS[NETWORK].layers, before, strict=True)
            },
            **{
                short: summary(relative(np.asarray(first[name]), np.asarray(second[name])))
                for short, name in names.items()
            },
        }
    return found


def _changes(before: Any, after: Any) -> np.ndarray:
    """Return |a' − a| / |a| for each unit whose pattern is not 0."""
    sizes = np.linalg.norm(before, axis=0)
    return np.linalg.norm(after - before, axis=0)[sizes > 0] / sizes[sizes > 0]


# Predictions ----------------------------------------------------------------------------------


def _predicted(
    params: Any, data: mnist.Mnist, cases: dict[str, Case], size: Size, dtype: Any
) -> dict[str, dict[str, float]]:
    """Compare the scores of networks 1 and 2, in one precision, on the test images."""
    images = data.test_images[: size.test_images].astype(dtype)
    labels = data.test_labels[: size.test_images]
    first = _scores(params, images)
    found = {}
    for name in (CONSTANT, CHECKERS):
        shift = cases[name].shift[0].astype(dtype)
        second = _scores(shifted(params, shift), images + shift)
        found[name] = _agreement(first, second, labels)
    original, moved = (cases[name] for name in ("", CAT))
    shift = moved.shift.astype(dtype)
    before = original.image.astype(dtype)
    found[CAT] = _agreement(
        _scores(params, before), np.asarray(_own_scores(params, before, shift)), original.label
    )
    return found


def _scores(params: Any, images: np.ndarray) -> np.ndarray:
    parts = [_batch_scores(params, images[i : i + 500]) for i in range(0, len(images), 500)]
    return np.concatenate([np.asarray(part) for part in parts])


@jax.jit
def _batch_scores(params: Any, images: Any) -> jax.Array:
    return jax.vmap(MODEL, (0, None))(images, params)


@jax.jit
def _own_scores(params: Any, images: Any, shifts: Any) -> jax.Array:
    """Return the scores of images that each have a network 2 of their own."""

    def one(image: Any, shift: Any) -> jax.Array:
        return MODEL(image + shift, shifted(params, shift))

    return jax.vmap(one)(images, shifts)


def _agreement(first: np.ndarray, second: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    best = [scores.argmax(1) for scores in (first, second)]
    return {
        "images": len(first),
        "difference": float(np.abs(first - second).max()),
        "relative": float(np.abs(first - second).max() / np.abs(first).max()),
        "same class": float((best[0] == best[1]).mean()),
        "accuracy of network 1": float((best[0] == labels).mean()),
        "accuracy of network 2": float((best[1] == labels).mean()),
    }


# Reporting ------------------------------------------------------------------------------------


def summary(values: np.ndarray) -> dict[str, float]:
    """Return mean, median and range."""
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }
