"""Maps of two networks that are one but for a shift of their inputs (unreliability, figs. 2–5)."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro import digits, mnist, training
from paper_repro.results import Claim, Result, Setting, Table, decimal
from paper_repro.saliency import shown
from xattr import attacks, composites, metrics, quadrature, rules, targets

NETWORK = "mlp1024"
MODEL = digits.logits(NETWORK)
F = targets.logit(MODEL)
SHAPE = (28, 28, 1)
CELL = 4
"""Pixels along a side of the checkerboard's squares."""
CLIP = 0.3
NOISE = 0.15
Z_RULE = composites.every_layer(rules.zero())

EXACT = 1e-10
"""Maps in float64 that differ by less, relative to their largest value, count as identical."""
APART = 1e-2
"""Maps that differ by more on every image count as different."""
VISIBLE = 0.1
"""What is hidden in the shift counts as visible if the map's correlation with it rises by more."""
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
    """An image, the first bias of its network, and what methods take; of many, with an axis."""

    image: Any
    label: Any
    bias: Any
    shift: Any
    """What was added to the image."""
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
    """A method of the figures, and what the paper says: identical maps, or different ones.

    `constant` for a shift by one number, `vector` for one by an image; None: it does not say.
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
"""Shifts, and the methods tried on them; "" is network 1, the last two are not the paper's."""


class Study(NamedTuple):
    """Everything measured that figures, tables and claims are made of."""

    size: Size
    trained: training.Trained
    cases: dict[str, Case]
    """Of network 1 under "", of each network 2 under its shift."""
    target: np.ndarray
    """The drawing that the cat's shift puts in the map, for each image."""
    maps: dict[tuple[str, str], np.ndarray]
    """Of a method on a shift, (n, 28, 28)."""
    predictions: dict[str, dict[str, dict[str, float]]]
    estimated: dict[str, dict[str, dict[str, Any]]]
    labels: np.ndarray
    chosen: np.ndarray

    @property
    def example(self) -> int:
        """The first image whose class is predicted: the one drawn."""
        return int(np.argmax(self.labels == self.cases[""].label))

    def apart(self, name: str, shift: str) -> np.ndarray:
        """Return the difference of the maps of networks 1 and 2, relative, for each image."""
        return relative(self.maps[name, ""], self.maps[name, shift])

    def likeness(self, name: str, shift: str, metric: Any = metrics.pearson) -> np.ndarray:
        """Return the correlation of each map with the cat it should show."""
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
    found: np.ndarray = np.abs(first - second).max(axes) / np.abs(first).max(axes)
    return found


def run(setting: Setting) -> Result:
    """Compare the maps of network 1 at x and of network 2 at x + m, for three kinds of m."""
    study = _study(setting)
    return Result(
        title="Input invariance: the same network on shifted inputs (unreliability, figures 2–5)",
        figures={
            "": _constant_figure(study),
            "checkerboard": _vector_figure(study, CHECKERS),
            "cat": _vector_figure(study, CAT),
        },
        numbers=_numbers(study),
        claims=_claims(study, setting.quick),
        tables=[_map_table(study), _hidden_table(study), _pattern_table(study)],
        notes=_notes(study, setting),
    )


# Measuring ------------------------------------------------------------------------------------


def _study(setting: Setting) -> Study:
    size = QUICK if setting.quick else FULL
    recipe = (training.QUICK if setting.quick else training.FULL)[NETWORK]
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    trained = training.train(recipe, data, progress=setting.progress)
    chosen = np.random.default_rng(setting.seed).permutation(len(data.test_images))[: size.images]
    images, labels = training.training_set(recipe, data)
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
    """Return network 2: its first bias undoes the shift."""
    return attacks.mean_shift(params, shift, layer="h1")


def checkerboard(low: float = 0.0) -> np.ndarray:
    """Return an image of squares of `low` and `low` + 1."""
    board = attacks.checkerboard(*SHAPE[:2], cell=CELL, low=low, high=low + 1)
    return np.asarray(board)[..., None]


def cat() -> np.ndarray:
    """Draw the face of a cat: 1 on 0, its edges in between."""
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
    """Return the images as networks 1 and 2 see them, and the cat that each map shall show."""
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
    """Return the map wanted of each image, and the shifts that give it, clipped and not."""

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
    """Return the maps of several methods, all of them SmoothGrad's or none, each (n, 28, 28)."""

    def one(case: Case) -> Any:
        own = {**params, "h1": {**params["h1"], "bias": case.bias}}

        def together(f: Any, x: Any, *, args: Any) -> Any:
            methods = {n: BASES[METHODS[n].base](case, patterns, size.nodes) for n in names}
            return {name: method(f, x, args=args) for name, method in methods.items()}

        args = (case.label, own)
        if names != SMOOTHED:
            return together(F, case.image, args=args)
        # One noise for all of them: its program is what takes long to compile.
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
    """Compare patterns fitted for network 1 and anew for network 2, and the maps they give."""
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
                layer: _summary(_changes(before[place], after[place]))
                for layer, place in zip(digits.NETWORKS[NETWORK].layers, before, strict=True)
            },
            **{
                short: _summary(relative(np.asarray(first[name]), np.asarray(second[name])))
                for short, name in names.items()
            },
        }
    return found


def _changes(before: Any, after: Any) -> np.ndarray:
    """Return |a' − a| / |a| of each unit that has a pattern."""
    sizes = np.linalg.norm(before, axis=0)
    changes: np.ndarray = np.linalg.norm(after - before, axis=0)[sizes > 0] / sizes[sizes > 0]
    return changes


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
    found: jax.Array = jax.vmap(MODEL, (0, None))(images, params)
    return found


@jax.jit
def _own_scores(params: Any, images: Any, shifts: Any) -> jax.Array:
    """Return the scores of images that have a network 2 each."""

    def one(image: Any, shift: Any) -> jax.Array:
        return MODEL(image + shift, shifted(params, shift))

    found: jax.Array = jax.vmap(one)(images, shifts)
    return found


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


def _summary(values: np.ndarray) -> dict[str, float]:
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _stated(name: str, shift: str) -> bool | None:
    if shift not in (CONSTANT, CHECKERS, CAT):
        return None
    method = METHODS[name]
    return method.constant if shift == CONSTANT else method.vector


def _agrees(stated: bool | None, apart: np.ndarray) -> bool | None:
    """Tell whether maps are identical where that is stated, or differ on every image."""
    if stated is None:
        return None
    return bool(apart.max() < EXACT if stated else apart.min() > APART)


def _number(value: float) -> str:
    """Write a relative difference: to three digits, or as a power of ten if it is tiny."""
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


def _claims(study: Study, quick: bool) -> list[Claim]:
    return [
        *_network_claims(study, quick),
        *_map_claims(study),
        *_hidden_claims(study),
        *_pattern_claims(study),
    ]


def _network_claims(study: Study, quick: bool) -> list[Claim]:
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
            abs(first - 98.3) <= 0.5 and abs(second - first) < 0.05,
            "rate and batch are not given; within half a point counts"
            + (", and this network was trained for seconds" if quick else ""),
        ),
        Claim(
            "f₂(x + m) = f₁(x), three shifts (§2)",
            "equal",
            f"largest relative difference {_number(worst)} in float32, {_number(exact)} in "
            f"float64; the same class for {100 * same:.2f} % of the images",
            worst <= 1e-5 and exact <= EXACT,
            "largest difference of a logit over largest logit; 1e−5 counts in float32",
        ),
    ]


DRAWN = [
    ("fig. 2, constant shift", CONSTANT, [n for n in PLAIN if METHODS[n].group == SIGNAL]),
    ("fig. 3, constant shift", CONSTANT, FIGURE_4),
    ("fig. 4, checkerboard", CHECKERS, FIGURE_4),
    ("fig. 5, cat", CAT, FIGURE_4),
    ("arXiv version 1, constant shift", CONSTANT, SMOOTHED),
]
"""The paper's figures: what is shifted how, and which methods are drawn."""


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
            f"black is 0 on this board, so this is IG from zero; on a board of −1 and 0: {other}; "
            f"with the baseline shifted by the board, too: {followed}"
        )
    if name == "DTD, LRP root" and shift == CONSTANT:
        included = _measured(study.apart("DTD, LRP root, bias in", shift))
        return (
            "bias left out of the denominator; with it the rule is gradient ⊙ input, as in the "
            f"authors' code: {included}"
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
            f"the drawing ŝ, to a relative {_number(float(gap.max()))}",
            bool(gap.max() < 1e-6),
        )
    )
    return claims


def _hidden_remark(study: Study, shift: str, likeness: Any) -> str:
    included = float(likeness("DTD, LRP root, bias in", shift).mean())
    remark = f"with the bias, as in the authors' code: {decimal(included, 2)} after"
    if shift != CAT:
        return remark
    before, after = (float(study.outline("DTD, LRP root", at).mean()) for at in ("", shift))
    return (
        f"its outline does (rank correlation of absolute values {decimal(before, 2)} before, "
        f"{decimal(after, 2)} after), but denominators near 0 give both signs; {remark}"
    )


def _pattern_claims(study: Study) -> list[Claim]:
    claims = []
    reasons = {
        "linear": "",
        "relu": "E₊[x y] − E₊[x] E[y] moves by m (E₊[y] − E[y]): the covariance of a part of the "
        "data does not undo the shift; patterns kept from network 1 do",
    }
    for kind, text in (("linear", "eq. 2, linear"), ("relu", "the estimator for ReLUs")):
        row = study.estimated[kind][CONSTANT]
        first, worst = row["patterns"]["h1"], row["PA"]["max"]
        claims.append(
            Claim(
                f"PA is invariant by construction, patterns estimated anew on the shifted data "
                f"({text}) (§3.3.2)",
                "identical maps",
                f"the first layer's patterns change by a relative {_number(first['median'])} "
                f"(median unit), PA by {_number(row['PA']['mean'])} (max {_number(worst)}), PN by "
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
            shift: {name: _summary(study.apart(name, shift)) for name in names}
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
    recipe = (training.QUICK if setting.quick else training.FULL)[NETWORK]
    return [
        f"Network 1: 784-1024-1024-1024-10, ReLU, SGD at rate {recipe.learning_rate} with batches "
        f"of {recipe.batch}, {study.trained.steps:,} steps, test accuracy "
        f"{100 * study.trained.test_accuracy:.2f} %. Network 2: the same weights, "
        "b₂ = b₁ − Wᵀm in the first layer (`xattr.attacks.mean_shift`). Explained: the logit of "
        f"the predicted class, which is the label for {right} of the {size.images} test images "
        "(drawn by the seed).",
        "The claims are exact, so maps are computed in float64: identical means a relative "
        f"difference below {_number(EXACT)} on every image, different means above {_number(APART)} "
        "on every image.",
        f"Shifts: −1; a checkerboard of 0 and 1 in squares of {CELL}×{CELL} pixels (the paper "
        "gives neither values nor size), and one of −1 and 0, where black is not zero; the cat "
        f"m = clip(ŝ / ∇f₁(x) − x, ±{CLIP}), one for each image, ŝ a drawing whose largest value "
        f"is that of |gradient ⊙ input| ({100 * share:.0f} % of the pixels are clipped). The black "
        "baseline is the smallest pixel of the shifted data set; the shifted one is zero + m.",
        f"IG: Gauss–Legendre, {size.nodes} nodes. DTD with the LRP root: the z-rule, bias left out "
        "of the denominator; the authors' code is gradient ⊙ input, the z-rule with the bias. "
        f"Patterns: ReLU estimator, {size.pattern_images:,} training images of network 1, kept for "
        f"network 2. SmoothGrad: {size.samples} samples, the same noise for both networks, of "
        f"deviation {NOISE} (max − min) of the image before the shift: the range of x + m is "
        "another under the checkerboard and the cat. SmoothGrad is in version 1 "
        "of the paper on arXiv (its figure 4).",
        f"A hidden image counts as visible if the correlation with it rises by more than "
        f"{VISIBLE}: of the map with the cat, of its absolute values with the checkerboard.",
        "Colours: red positive, blue negative, each panel scaled to its own 99.5th percentile.",
    ]


# Figures --------------------------------------------------------------------------------------


def _constant_figure(study: Study) -> Any:
    """Draw figures 2 and 3, and SmoothGrad: a band of two rows for each group of methods."""
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
        limit = float(np.percentile(np.abs(values), 99.5)) or 1.0
        cell.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    else:
        cell.imshow(values, cmap="gray")
    cell.set(xticks=[], yticks=[])
