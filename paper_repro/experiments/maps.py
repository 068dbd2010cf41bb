"""Not an experiment: maps of photographs by the methods that the papers compare.

A map here is one score for each pixel, the sum over the colours of absolute values (Sundararajan et
al. 2016, "Gradients of Counterfactuals", eq. 1). What is computed for a photograph goes to the
cache folder at once. So an interrupted run goes on where it stopped, and experiments share maps.
"""

import ast
import functools
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from paper_repro.data import imagenet
from paper_repro.data.imagenet import Photograph
from paper_repro.data.packages import cache_dir
from paper_repro.data.photographs import imagenet_classes
from paper_repro.networks import efficientnet
from paper_repro.report.progress import shown
from paper_repro.report.results import Setting

STEPS, SAMPLES = 51, 25
"""Nodes of IG (the authors' code: 50 intervals and the trapezoid rule), samples of SmoothGrad."""
BATCH = 5
"""Photographs taken together."""
FEW = 4
"""Labelled photographs of `--quick`: of one number, so that experiments share their maps."""
MEMORY = 1.5e9
"""Bytes that the gradients taken together may need."""


class Scene(NamedTuple):
    """A network and the photographs that it looks at."""

    setting: Setting
    params: Any
    photographs: list[Photograph]
    logits: np.ndarray
    """(photographs, 1000)."""
    names: list[str]
    """Of the classes."""

    @property
    def images(self) -> np.ndarray:
        """All pictures, (photographs, size, size, 3)."""
        return np.stack([each.image for each in self.photographs])

    @property
    def tops(self) -> np.ndarray:
        """The class that the network predicts for each photograph."""
        return self.logits.argmax(axis=1)

    @property
    def free(self) -> list[int]:
        """Which photographs a figure may show."""
        return [i for i, each in enumerate(self.photographs) if each.is_free]

    @property
    def source(self) -> str:
        """Say which photographs these are, and which network."""
        folder = self.setting.imagenet_dir
        which = (
            "They are of the packages scikit-image and foolbox; `--quick` takes the first of them."
            if folder is None
            else f"They are those of {folder.name}, the first if there are more than are needed."
        )
        right = [int(t == p.label) for t, p in zip(self.tops, self.photographs, strict=True)]
        return (
            f"EfficientNet-{self.setting.network.capitalize()} explains the class that it predicts "
            f"for {len(right)} labelled photographs; it is right for {100 * np.mean(right):.1f} % "
            f"of them. {which}"
        )

    def chosen(self, which: Any) -> "Scene":
        """Return the scene with some of its photographs, in this order."""
        photographs = [self.photographs[i] for i in which]
        return self._replace(photographs=photographs, logits=self.logits[list(which)])


def scene_of(setting: Setting, *, quick: int = FEW) -> Scene:
    """Load the network and all labelled photographs; with `--quick` the first few."""
    variant = setting.network
    params = efficientnet.load(variant=variant, progress=setting.progress)
    photographs = _photographs(setting, setting.imagenet_dir)
    photographs = [each for each in photographs if each.label is not None]
    photographs = photographs[:quick] if setting.quick else photographs
    scene = Scene(setting, params, photographs, np.zeros((len(photographs), 1000)), [])
    logits = computed(scene, "logits", functools.partial(_logits, variant), scene.images)
    return scene._replace(logits=logits, names=imagenet_classes(progress=setting.progress))


def free_scene(setting: Setting) -> Scene:
    """Load the network and the free photographs, which figures show, whatever the folder."""
    photographs = [each for each in _photographs(setting, None) if each.is_free]
    scene = scene_of(setting)._replace(photographs=photographs)
    logits = computed(scene, "logits", functools.partial(_logits, setting.network), scene.images)
    return scene._replace(logits=logits)


def _photographs(setting: Setting, folder: Path | None) -> list[Photograph]:
    size = efficientnet.VARIANTS[setting.network].size
    return imagenet.load(size, folder, progress=setting.progress)


def _logits(variant: str, image: jax.Array, params: Any) -> jax.Array:
    return efficientnet.network(image, params, variant=variant)


def computed(scene: Scene, name: str, function: Callable[..., Any], *operands: Any) -> Any:
    """Return `function(*operands of one example, params)` of all examples, stacked.

    The result of a function is an array or a dict of arrays. `name` is part of the folder's name
    and of the progress bar's text.
    """
    digest = _digest(scene, function, operands)
    folder = cache_dir() / "computed" / f"{name.replace(' ', '-')}-{digest}"
    count = len(operands[0])
    batches = [
        (*(operand[i : i + BATCH] for operand in operands), scene.params)
        for i in range(0, count, BATCH)
    ]
    files = xattr.attribute_dataset(
        function,
        batches,
        out=folder,
        in_axes=(*[0] * len(operands), None),
        progress=lambda numbers: shown(numbers, name, scene.setting.progress),
    )
    parts = [_read(file) for file in files]
    whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return whole.get("", whole)


def _read(file: Path) -> dict[str, np.ndarray]:
    with np.load(file) as stored:
        return {
            key.removeprefix("attributions").strip("[']"): stored[key]
            for key in stored.files
            if key != "digest"
        }


def _digest(scene: Scene, function: Any, operands: Any) -> str:
    """Return a digest of what decides a result: code, network and operands."""
    code = inspect.unwrap(function.func if isinstance(function, functools.partial) else function)
    digest = hashlib.blake2b(digest_of_library(), digest_size=10)
    digest.update(_code_of(Path(inspect.getfile(code))))
    digest.update(repr((function, scene.setting.network)).partition(" at 0x")[0].encode())
    if isinstance(function, functools.partial):
        digest.update(repr((code.__qualname__, function.args, function.keywords)).encode())
    for operand in operands:
        is_key = jnp.issubdtype(operand.dtype, jax.dtypes.prng_key)
        digest.update(np.asarray(jax.random.key_data(operand) if is_key else operand).tobytes())
    return digest.hexdigest()


@functools.cache
def digest_of_library() -> bytes:
    """Return a digest of the library, the network and this module, and of JAX's version."""
    digest = hashlib.blake2b(jax.__version__.encode())
    library = Path(inspect.getfile(xattr)).parent
    for file in [*sorted(library.rglob("*.py")), Path(efficientnet.__file__), Path(__file__)]:
        digest.update(_code_of(file))
    return digest.digest()


def _code_of(file: Path) -> bytes:
    """Return the code of a module without comments and docstrings, which decide nothing."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value.value = None
    return ast.dump(tree).encode()


def together(variant: str) -> int:
    """Return how many nodes or samples of each photograph of a batch fit in `MEMORY`, 4 at most."""
    side, values = efficientnet.VARIANTS[variant].size // 2, 0
    inputs = 32
    for features, _, stride, expand in efficientnet.blocks(variant):
        values += side**2 * inputs * expand
        side = -(-side // stride)
        values += side**2 * (inputs * expand + features)
        inputs = features
    # Two copies of each activation in float32: as it is, and as the gradient needs it.
    return int(np.clip(MEMORY / (BATCH * values * 8), 1, 4))


class Explained(NamedTuple):
    """What a method gets: f and its arguments, the image, a key, and how much is taken together."""

    f: Any
    args: Any
    image: jax.Array
    key: jax.Array
    chunk_size: int


def _gradient(it: Explained) -> Any:
    return xattr.gradient(it.f, it.image, args=it.args)


def _gradient_x_input(it: Explained) -> Any:
    return xattr.gradient_x_input(it.f, it.image, args=it.args)


def integrated(it: Explained, baseline: Any = None) -> Any:
    """Return integrated gradients with the nodes of the authors' code, from black by default."""
    return xattr.integrated_gradients(
        it.f,
        it.image,
        baseline,
        quadrature=xattr.quadrature.trapezoid(STEPS),
        args=it.args,
        chunk_size=it.chunk_size,
        warn_above=None,  # under vmap it cannot warn; saturation and ig-gallery print the gap
    )


def _smooth(it: Explained) -> Any:
    return xattr.smooth_grad(
        it.f, it.image, it.key, num_samples=SAMPLES, args=it.args, chunk_size=it.chunk_size
    )


def _guided(it: Explained) -> Any:
    return xattr.guided_backprop(it.f, it.image, args=it.args)


def _relevance(it: Explained) -> Any:
    return xattr.lrp(it.f, it.image, xattr.composites.epsilon_plus_flat(), args=it.args)


def _deep_lift(it: Explained) -> Any:
    return xattr.deep_lift(it.f, it.image, args=it.args)


def _edges(it: Explained) -> Any:
    return xattr.edge_detector(it.image)[..., None]


def _random(it: Explained) -> Any:
    return jax.random.uniform(it.key, (*it.image.shape[:2], 1))


class Kind(NamedTuple):
    """A method, and the score that it explains: a name in `xattr.targets`."""

    method: Callable[[Explained], Any]
    score: str


METHODS = {
    "integrated gradients": Kind(integrated, "probability"),
    "gradient": Kind(_gradient, "probability"),
    "gradient ⊙ input": Kind(_gradient_x_input, "probability"),
    "SmoothGrad": Kind(_smooth, "probability"),
    "guided backprop": Kind(_guided, "logit"),
    "LRP": Kind(_relevance, "logit"),
    "DeepLIFT": Kind(_deep_lift, "logit"),
    "edge detector": Kind(_edges, "logit"),
    "random": Kind(_random, "logit"),
}
"""The paper explains the probability. The rules of LRP and its kin are made for logits."""


def maps_of(scene: Scene, name: str, labels: np.ndarray | None = None) -> np.ndarray:
    """Return the method's pixel scores for the predicted class: (photographs, size, size)."""
    labels = scene.tops if labels is None else labels
    keys = jax.random.split(jax.random.key(scene.setting.seed), len(labels))
    function = functools.partial(_pixels, name, scene.setting.network)
    maps: np.ndarray = computed(scene, name, function, scene.images, labels, keys)
    return maps


def _pixels(
    name: str, variant: str, image: jax.Array, label: Any, key: jax.Array, params: Any
) -> Any:
    return pixel_scores(METHODS[name].method(explained(name, variant, image, label, key, params)))


def explained(
    name: str, variant: str, image: jax.Array, label: Any, key: jax.Array, params: Any
) -> Explained:
    """Return what the method of this name gets."""
    model = functools.partial(efficientnet.network, variant=variant)
    f = getattr(xattr.targets, METHODS[name].score)(model)
    return Explained(f, (label, params), image, key, together(variant))


def pixel_scores(attributions: Any) -> Any:
    """Return Σ_c |A_c|: (…, channels) to (…)."""
    return abs(attributions).sum(-1)


def most_relevant(scores: np.ndarray) -> np.ndarray:
    """Return the pixels of a map from the largest score down, as places in the flat map."""
    return np.argsort(-scores.ravel(), kind="stable")


def inside(scores: np.ndarray, mask: np.ndarray) -> float:
    """Return the share of a map's sum that lies inside the mask."""
    return float(scores[mask].sum(dtype=float) / scores.sum(dtype=float))


def scaled(scores: np.ndarray) -> np.ndarray:
    """Scale a map to [0, 1] for a picture, as the authors' code does.

    The largest scores, which make 30 % of the sum, go from .2 to 1; the others are 0. Those that
    make the first .1 % are clipped to 1. The authors call this the percentiles 70 and 99.9
    (github.com/ankurtaly/Integrated-Gradients).
    """
    high, low = _threshold(scores, 0.001), _threshold(scores, 0.3)
    values = 0.2 + 0.8 * (scores - low) / (high - low or 1.0)
    return np.where(scores >= low, np.clip(values, 0, 1), 0)


def _threshold(scores: np.ndarray, share: float) -> float:
    """Return the score down to which the largest ones make this share of the sum."""
    ordered = np.sort(scores.ravel().astype(float))[::-1]
    return float(ordered[np.searchsorted(np.cumsum(ordered), share * ordered.sum())])


def draw_picture(ax: Any, photograph: Photograph) -> None:
    """Draw a free photograph; of another one only the outline of its boxes."""
    image = photograph.image
    ax.imshow(image if photograph.is_free else np.ones_like(image))
    outline(ax, photograph)
    ax.set(xticks=[], yticks=[])


def draw_map(ax: Any, scores: np.ndarray, photograph: Photograph) -> None:
    """Draw a map in grey with the outline of the boxes."""
    ax.imshow(scaled(scores), cmap="gray", vmin=0, vmax=1)
    outline(ax, photograph)
    ax.set(xticks=[], yticks=[])


def outline(ax: Any, photograph: Photograph) -> None:
    """Draw the boxes of a photograph."""
    from matplotlib.patches import Rectangle

    for x0, y0, x1, y1 in photograph.boxes - 0.5:
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color="tab:orange", lw=0.8))
