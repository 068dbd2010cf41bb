"""Not an experiment: maps of photographs while an ImageNet network is randomized.

`cascade_imagenet` draws and judges what is measured here. Maps are compared as soon as they are
made and then dropped: all of them would fill a disk. What is kept of a method goes to the cache
folder when the method is done, so that an interrupted run goes on there.
"""

import functools
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data.packages import cache_dir, replacing
from paper_repro.experiments.maps import Scene, digest_of_library, free_scene, scene_of
from paper_repro.experiments.methods import plain, relevance
from paper_repro.networks import efficientnet
from paper_repro.report import similarity
from paper_repro.report.progress import shown
from paper_repro.report.results import Setting
from xattr import composites, quadrature, rules, sanity

COUNT, SLOW_COUNT, FEW = 50, 11, 2
"""Photographs, those for the methods that need many gradients or slow ones, and those for the
learned mask, which takes hundreds of gradients."""
BATCH = 3
"""Pictures taken together; with the one that is drawn, all three numbers fill batches."""
STEPS, BLUR = 100, 10.0
"""Steps of learning a mask, and the deviation in pixels by which it blurs what it hides. Fong &
Vedaldi take 300 steps."""
NODES, SAMPLES, RIVALS = 16, 8, 8
"""Nodes of IG, samples of SmoothGrad, and classes that compete in CGI."""
EPSILON = 1e-3
"""Stabilizer of LRP-ε, in units of a layer's output."""
DRAWN = "chelsea"
"""The free photograph whose maps are drawn."""
SILENT = 100.0
"""A unit whose pattern has a larger entry does not change from photograph to photograph."""
START = 1e-30
"""The signal of PatternNet grows by 28 orders of magnitude on its way; it starts at this times
the logit to stay within float32. Its map is linear in the start."""


class Case(NamedTuple):
    """What a method gets for one picture."""

    variant: str
    image: jax.Array
    label: jax.Array
    rivals: jax.Array
    """The classes that compete in CGI, the label first."""
    key: jax.Array
    params: Any
    patterns: Any

    @property
    def common(self) -> tuple[Any, Any]:
        """The first two arguments of most methods."""
        return score(self.variant, "shifted"), self.image

    @property
    def args(self) -> tuple[Any, Any]:
        """What the score gets beside the image."""
        return self.label, self.params


@functools.cache
def score(variant: str, depthwise: efficientnet.Depthwise) -> Callable[..., jax.Array]:
    """Return f(image, label, params), a logit."""
    network = efficientnet.EfficientNetLite(depthwise=depthwise, variant=variant)
    return xattr.targets.logit(lambda image, params: network.apply({"params": params}, image))


def shared_score(variant: str) -> Callable[..., jax.Array]:
    """Return the score for patterns.

    XLA's grouped convolution has one array of weights, and one pattern, for all shifts of a kernel.
    """
    return score(variant, "conv")


def _smooth(it: Case) -> Any:
    f, image = it.common
    return xattr.smooth_grad(f, image, it.key, num_samples=SAMPLES, args=it.args, chunk_size=4)


def _pattern_net(it: Case) -> Any:
    last = max(it.patterns)  # names begin with the number of the layer
    patterns = it.patterns | {last: it.patterns[last] * START}
    return xattr.pattern_net(shared_score(it.variant), it.image, patterns, args=it.args)


def _pattern_attribution(it: Case) -> Any:
    f = shared_score(it.variant)
    return xattr.pattern_attribution(f, it.image, it.patterns, args=it.args)


def _integrated(it: Case) -> Any:
    nodes = quadrature.midpoint(NODES)
    return xattr.integrated_gradients(
        *it.common, quadrature=nodes, args=it.args, chunk_size=4, warn_above=None
    )


def _deep_taylor(it: Case) -> Any:
    return xattr.deep_taylor(*it.common, low=0.0, high=1.0, args=it.args)


def _grad_cam(it: Case) -> Any:
    return xattr.grad_cam(*it.common, layer="head", args=it.args)[..., None]


def _guided_grad_cam(it: Case) -> Any:
    return xattr.guided_grad_cam(*it.common, layer="head", args=it.args)


def _competitive(it: Case) -> Any:
    def rivals(image: jax.Array, params: Any, classes: jax.Array) -> jax.Array:
        return efficientnet.network(image, params, variant=it.variant)[classes]

    args = (it.params, it.rivals)
    return xattr.competitive_gradient_x_input(rivals, it.image, 0, args=args, chunk_size=4)


def _learned_mask(it: Case) -> Any:
    f = xattr.targets.probability(functools.partial(_network, it.variant))
    blurred = xattr.paths.blur(it.image, max_sigma=BLUR)(jnp.float32(0))
    mask = xattr.meaningful_perturbation(
        f, it.image, blurred, it.key, num_steps=STEPS, args=it.args
    )
    return mask[..., None]


def _network(variant: str, image: jax.Array, params: Any) -> jax.Array:
    return efficientnet.network(image, params, variant=variant)


def _edges(it: Case) -> Any:
    return xattr.edge_detector(it.image)


class Kind(NamedTuple):
    """A method, and the number of photographs: fewer where it takes long."""

    method: Callable[[Case], Any]
    photographs: int = COUNT


def _lrp(composite: Any, bias: Any = "exclude") -> Kind:
    return Kind(functools.partial(relevance, composite, bias), SLOW_COUNT)


PATTERN_NET = "PatternNet"
METHODS = {
    "gradient": Kind(functools.partial(plain, xattr.gradient)),
    "SmoothGrad": Kind(_smooth, SLOW_COUNT),
    "DeConvNet": Kind(functools.partial(plain, xattr.deconvnet)),
    "guided backprop": Kind(functools.partial(plain, xattr.guided_backprop)),
    "Grad-CAM": Kind(_grad_cam),
    "guided Grad-CAM": Kind(_guided_grad_cam),
    "gradient ⊙ input": Kind(functools.partial(plain, xattr.gradient_x_input)),
    "integrated gradients": Kind(_integrated, SLOW_COUNT),
    "edge detector": Kind(_edges),
    PATTERN_NET: Kind(_pattern_net, SLOW_COUNT),
    "PatternAttribution": Kind(_pattern_attribution, SLOW_COUNT),
    "deep Taylor": Kind(_deep_taylor, SLOW_COUNT),
    "LRP-Z": _lrp(composites.every_layer(rules.zero()), "include"),
    "LRP-ε": _lrp(composites.every_layer(rules.epsilon(EPSILON)), "include"),
    "LRP preset A, flat": _lrp(composites.preset_a_flat()),
    "LRP preset B, flat": _lrp(composites.preset_b_flat()),
    "DeepLIFT": Kind(functools.partial(plain, xattr.deep_lift), SLOW_COUNT),
    "CGI": Kind(_competitive, SLOW_COUNT),
    "learned mask": Kind(_learned_mask, FEW),
}
QUICK = ("gradient", "guided backprop", "Grad-CAM", "edge detector")

METRICS = ("signed", "abs", "HOG", "SSIM")
"""In the order of the paper's tuple."""
LIKENESS = ("picture", "edges")


def order_of(variant: str, *, quick: bool = False) -> dict[str, tuple[str, ...]]:
    """Return the units that are randomized together, from the output to the input.

    A unit of blocks is a stage of the network: blocks of one width.
    """
    groups = itertools.groupby(enumerate(efficientnet.blocks(variant)), lambda each: each[1][0])
    stages = [[index for index, _ in members] for _, members in groups]
    if quick:
        stages = [[index for stage in stages for index in stage]]
    blocks = {
        f"blocks {s[0]}–{s[-1]}" if s[1:] else f"block {s[0]}": tuple(f"block_{i}" for i in s)
        for s in reversed(stages)
    }
    return {"classifier": ("classifier",), "head": ("head",), **blocks, "stem": ("stem",)}


class Study(NamedTuple):
    """Maps of every method for every network, compared with the trained network's."""

    scene: Scene
    order: tuple[str, ...]
    cascading: dict[str, np.ndarray]
    """Method -> (units, metrics, photographs)."""
    independent: dict[str, np.ndarray]
    masks: dict[str, np.ndarray]
    """Method -> (metrics, photographs): the trained network's map and a Gaussian mask."""
    pairs: dict[str, np.ndarray]
    """Kind of mask -> (metrics, photographs): two masks."""
    likeness: dict[str, np.ndarray]
    """Method -> (trained and random, kinds of likeness to the picture, photographs)."""
    drawn: dict[str, np.ndarray]
    """Method -> (trained and cascading, height, width): Σ|A| of the free photograph."""
    picture: np.ndarray
    silent: float
    """Share of units that have no pattern."""
    pattern_photographs: int

    def mean(self, method: str, metric: str, *, independent: bool = False) -> np.ndarray:
        """Return the means over the photographs that have a value: (units,)."""
        values = (self.independent if independent else self.cascading)[method]
        return mean_of(values[:, METRICS.index(metric)])


def mean_of(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is defined, NaN where nothing is."""
    defined = np.isfinite(values)
    total = np.where(defined, values, 0).sum(-1)
    return np.where(defined.any(-1), total / np.maximum(defined.sum(-1), 1), np.nan)


def study_of(setting: Setting) -> Study:
    """Explain the trained network's top class by every method in every network, and compare."""
    scene = scene_of(setting, quick=2)
    scene = scene.chosen(range(min(COUNT, len(scene.photographs))))
    free = free_scene(setting)
    free = free.chosen([[each.name for each in free.photographs].index(DRAWN)])
    order = order_of(setting.network, quick=setting.quick)
    names = QUICK if setting.quick else tuple(METHODS)
    patterns, silent = patterns_of(scene) if PATTERN_NET in names else (None, 0.0)
    networks = _networks(scene, order)
    found = {name: _measured(scene, free, name, networks, patterns) for name in names}
    k = len(order)

    def part(key: str) -> dict[str, np.ndarray]:
        return {name: each[key] for name, each in found.items()}

    compared = part("compared")
    # The first unit alone is the first stage of the cascade, too.
    rest = {name: [each[:1], each[k:-1]] for name, each in compared.items()}
    return Study(
        scene,
        tuple(order),
        {name: each[:k] for name, each in compared.items()},
        {name: np.concatenate(each) for name, each in rest.items()},
        {name: each[-1] for name, each in compared.items()},
        _pairs(scene),
        part("likeness"),
        part("drawn"),
        free.images[0],
        silent,
        len(scene.photographs),
    )


def _networks(scene: Scene, order: dict[str, tuple[str, ...]]) -> list[Any]:
    """Return the trained network, the cascade, and the networks with one other unit random.

    `sanity.cascading` and `independent` would return the same as one stacked array.
    """
    network = efficientnet.EfficientNetLite(variant=scene.setting.network)
    key = jax.random.key(scene.setting.seed)
    fresh = jax.jit(network.init)(key, scene.images[0])["params"]
    units = list(order.values())
    chosen = [sum(units[:k], ()) for k in range(1, len(units) + 1)] + units[1:]

    def random(layers: tuple[str, ...]) -> Any:
        return sanity.randomize(scene.params, key, layers=layers, init=lambda *_: fresh)

    return [scene.params, *map(random, chosen)]


def patterns_of(scene: Scene) -> tuple[dict[str, jax.Array], float]:
    """Fit patterns on the photographs and the trained network; return them and the silent share."""
    images = scene.images
    # Two sizes of batch at most, so that the step compiles at most twice.
    batches = [images[i : i + 10] for i in range(0, len(images), 10)]
    found = xattr.fit_patterns(
        shared_score(scene.setting.network),
        batches,
        estimator="linear",
        args=(0, scene.params),
        progress=lambda work: shown(work, "patterns", scene.setting.progress),
    )
    # Σᵢ wᵢ aᵢ = 1: the pattern of a unit whose weights are almost 0 is huge and all rounding.
    heard = {name: _heard(pattern) for name, pattern in found.items()}
    silent = 1 - float(np.mean(np.concatenate([np.asarray(each) for each in heard.values()])))
    kept = {name: jnp.where(heard[name], pattern, 0) for name, pattern in found.items()}
    return kept, silent


def _heard(pattern: jax.Array) -> jax.Array:
    return jnp.abs(pattern).max(range(pattern.ndim - 1)) <= SILENT


# Maps of one method -------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 1))
def _maps(name: str, variant: str, operands: Any, params: Any, patterns: Any) -> jax.Array:
    """Return Σ_c A_c and Σ_c |A_c|: (pictures, 2, height, width)."""

    def one(image: Any, label: Any, rivals: Any, key: Any) -> jax.Array:
        case = Case(variant, image, label, rivals, key, params, patterns)
        attributions = METHODS[name].method(case)
        return jnp.stack([attributions.sum(-1), jnp.abs(attributions).sum(-1)])

    return jax.vmap(one)(*operands)


def _measured(
    scene: Scene, free: Scene, name: str, networks: list[Any], patterns: Any
) -> dict[str, np.ndarray]:
    """Return what is kept of a method, from the cache folder if it is there."""
    path = cache_dir() / "computed" / f"cascade-{_digest(scene, name, len(networks))}.npz"
    scene = scene.chosen(range(min(METHODS[name].photographs, len(scene.photographs))))
    if not path.is_file():
        found: dict[str, Any] = _compared(scene, free, name, networks, patterns)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as file:
            np.savez(file, **found)
    with np.load(path) as stored:
        return {key: stored[key] for key in stored.files}


def _digest(scene: Scene, name: str, networks: int) -> str:
    """Return a digest of what decides a result: code, network, seed, pictures and method."""
    digest = hashlib.blake2b(digest_of_library(), digest_size=10)
    for module in (__file__, similarity.__file__):
        digest.update(Path(module).read_bytes())
    digest.update(repr((scene.setting.network, scene.setting.seed, networks, name)).encode())
    digest.update(scene.images.tobytes())
    return digest.hexdigest()


def _compared(
    scene: Scene, free: Scene, name: str, networks: list[Any], patterns: Any
) -> dict[str, np.ndarray]:
    """Explain, compare and forget, batch by batch; the free photograph is in front."""
    operands = _operands(scene, free)
    count = len(operands[0])
    half = len(order_of(scene.setting.network, quick=scene.setting.quick)) + 1
    compared, likeness, drawn = [], [], []
    for start in shown(range(0, count, BATCH), name, scene.setting.progress):
        # The last batch repeats a picture: a batch of another shape would recompile.
        chosen = np.minimum(np.arange(start, start + BATCH), count - 1)
        batch = tuple(each[chosen] for each in operands)
        maps = np.stack(
            [
                np.asarray(_maps(name, scene.setting.network, batch, params, patterns))
                for params in (networks[:1] if name == "edge detector" else networks)
            ]
        )
        maps = np.broadcast_to(maps, (len(networks), *maps.shape[1:]))  # edges have no network
        if not start:
            drawn = [maps[:half, 0, 1]]
        for place in range(min(BATCH, count - start)):
            if start + place:
                of_one = maps[:, place]
                mask = _mask("Gaussian", scene.setting.seed, start + place, of_one.shape[-2:])
                reference = Reference(of_one[0])
                compared.append([reference.compare(each) for each in [*of_one[1:], mask]])
                ends = (of_one[0], of_one[half - 1])
                likeness.append([_likeness(each, batch[0][place]) for each in ends])
    return {
        "compared": np.moveaxis(np.array(compared), 0, -1),
        "likeness": np.moveaxis(np.array(likeness), 0, -1),
        "drawn": drawn[0],
    }


def _operands(scene: Scene, free: Scene) -> tuple[Any, ...]:
    """Return images, labels, rivals and keys of the free photograph and the others."""
    logits = np.concatenate([free.logits, scene.logits])
    rivals = np.argsort(-logits, axis=1, kind="stable")[:, :RIVALS]
    keys = jax.random.split(jax.random.key(scene.setting.seed + 1), len(logits))
    images = np.concatenate([free.images, scene.images])
    return images, rivals[:, 0], rivals, keys


# Comparisons --------------------------------------------------------------------------------------


class Reference:
    """The maps of the trained network, prepared once for many comparisons.

    `xattr.metrics.spearman` is the same correlation, but it would rank these maps every time.
    """

    def __init__(self, maps: np.ndarray) -> None:
        """Prepare (2, height, width): Σ_c A_c and Σ_c |A_c|."""
        self._is_finite = bool(np.isfinite(maps).all())
        maps = np.nan_to_num(maps)
        self._ranks = [_ranks(each) for each in maps]
        self._scaled = similarity.unit(maps[1])
        self._histograms = similarity.histograms(self._scaled, similarity.PHOTOGRAPH_CELL)

    def compare(self, maps: np.ndarray) -> list[float]:
        """Return each metric of `METRICS`; NaN where a map is constant or not finite."""
        if not (self._is_finite and np.isfinite(maps).all()):
            return [np.nan] * len(METRICS)
        ranks = [
            similarity.correlation(a, _ranks(b)) for a, b in zip(self._ranks, maps, strict=True)
        ]
        scaled = similarity.unit(maps[1])
        histograms = similarity.histograms(scaled, similarity.PHOTOGRAPH_CELL)
        hog = similarity.correlation(self._histograms, histograms)
        return [*ranks, hog, similarity.ssim(self._scaled, scaled)]


def _ranks(values: np.ndarray) -> np.ndarray:
    from scipy.stats import rankdata

    ranks: np.ndarray = rankdata(values.ravel()).astype(np.float32)
    return ranks


def _likeness(maps: np.ndarray, image: np.ndarray) -> list[float]:
    """Return |Pearson| of Σ_c A_c with the grey picture, Spearman of Σ_c |A_c| with its edges."""
    grey = image.mean(-1)
    edges = np.asarray(xattr.edge_detector(image)).sum(-1)
    return [
        abs(similarity.correlation(maps[0], grey)),
        similarity.correlation(_ranks(maps[1]), _ranks(edges)),
    ]


def _mask(kind: str, seed: int, index: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return Σ_c and Σ_c | | of a random mask of three colours."""
    draw = np.random.default_rng([seed, index])
    size = (*shape, 3)
    mask = draw.normal(size=size) if kind == "Gaussian" else draw.uniform(-1, 1, size)
    return np.stack([mask.sum(-1), np.abs(mask).sum(-1)])


def _pairs(scene: Scene) -> dict[str, np.ndarray]:
    """Compare two masks for each photograph, of two kinds."""
    seed, shape = scene.setting.seed, scene.images.shape[1:3]
    count = len(scene.photographs)
    return {
        kind: np.transpose(
            [
                Reference(_mask(kind, seed, 1000 + i, shape)).compare(
                    _mask(kind, seed, 2000 + i, shape)
                )
                for i in range(count)
            ]
        )
        for kind in ("uniform", "Gaussian")
    }
