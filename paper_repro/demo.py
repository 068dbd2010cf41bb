"""The demo: which pixels of a photograph decide its class for EfficientNet-Lite0."""

import argparse
import functools
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm
from PIL import Image, ImageFilter

import xattr
from paper_repro.data import packages, photographs
from paper_repro.networks.efficientnet import load, network
from paper_repro.report.results import UsageError, check_folder, check_seed, writing_to
from xattr.testing import KERNELS, count_compilations

CHUNK = 8
"""Gradients taken together; on two cores an image takes 50 ms from 8 on, and no less with more."""

SCORES = {
    "probability": xattr.targets.probability,
    "log-probability": xattr.targets.log_probability,
    "log-odds": xattr.targets.log_odds,
    "logit": xattr.targets.logit,
}


class Scene(NamedTuple):
    """What is explained: the function, its arguments, the image, its baseline and other images."""

    f: Callable[..., Any]
    args: tuple[Any, ...]
    image: jax.Array
    baseline: jax.Array
    others: jax.Array
    key: jax.Array


class Row(NamedTuple):
    """One line of the table."""

    name: str
    attributions: np.ndarray
    gap: float
    evaluations: int
    seconds: float
    compilations: int


def run(options: argparse.Namespace) -> None:
    """Explain a photograph: print the table, write the figure and the arrays."""
    for name in ("steps", "samples"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} must be at least 1, not {getattr(options, name)}")
    check_seed(options.seed)
    chosen = find_methods(options.methods)
    shown = {"progress": options.progress}
    picture = photographs.photograph(options.image, **shown)
    params, names = load(**shown), photographs.imagenet_classes(**shown)
    image = photographs.center_crop(picture)
    logits = np.asarray(jax.jit(network)(image, params))
    label = int(logits.argmax()) if options.label is None else find_class(options.label, names)
    scene = make_scene(options, image, label, params)
    check_folder(options.out)
    print(describe(options, logits, label, names, scene), flush=True)
    rows = [measure(name, scene, options) for name in chosen]
    print(table(rows))
    written = write(options, scene, rows, names[label])
    print("\n".join(f"written: {path}" for path in written))


def find_class(text: str, names: list[str]) -> int:
    """Return the class with this index or name, or the only one with this part of a name."""
    text = text.strip()
    if re.fullmatch(r"-?[0-9]+", text):
        if not 0 <= int(text) < len(names):
            raise UsageError(f"--class {text}: the classes are numbered 0 to {len(names) - 1}")
        return int(text)
    wanted = text.casefold() or "\0"  # an empty text would be a part of every name
    exact = [i for i, name in enumerate(names) if wanted in map(str.strip, _words(name))]
    found = exact or [i for i, name in enumerate(names) if wanted in name.casefold()]
    if not found:
        raise UsageError(
            f"--class {text!r}: no ImageNet class has this name: give an index from 0 to 999"
        )
    if len(found) > 1:
        several = ", ".join(f"{i} ({names[i]})" for i in found[:5])
        raise UsageError(f"--class {text!r}: could be {several}: give the index")
    return found[0]


def find_methods(texts: list[str] | None) -> list[str]:
    """Return the methods with these names, or unique parts of names, in the table's order.

    None gives `DEFAULT`, and ["all"] all of them.
    """
    if texts is None:
        return DEFAULT
    if [text.strip().casefold() for text in texts] == ["all"]:
        return list(METHODS)
    found = {_find_method(text) for text in texts}
    return [name for name in METHODS if name in found]


def _find_method(text: str) -> str:
    wanted = text.strip().casefold() or "\0"  # an empty text would be a part of every name
    exact = [name for name in METHODS if wanted == name.casefold()]
    found = exact or [name for name in METHODS if wanted in name.casefold()]
    if not found:
        raise UsageError(f"--methods {text!r}: no such method; there are {'; '.join(METHODS)}")
    if len(found) > 1:
        raise UsageError(f"--methods {text!r}: could be {'; '.join(found)}: give more of the name")
    return found[0]


def _words(name: str) -> list[str]:
    return [name.casefold(), *name.casefold().split(",")]


def make_scene(options: argparse.Namespace, image: np.ndarray, label: int, params: Any) -> Scene:
    """Collect what is explained."""
    others = [name for name in photographs.PHOTOGRAPHS if name != str(options.image)]
    crops = [
        photographs.center_crop(photographs.photograph(name, progress=options.progress))
        for name in others
    ]
    return Scene(
        f=SCORES[options.score](network),
        args=(label, params),
        image=jnp.asarray(image),
        baseline=jnp.asarray(BASELINES[options.baseline](image, options.seed), jnp.float32),
        others=jnp.asarray(np.stack(crops)),
        key=jax.random.key(options.seed),
    )


def _black(image: np.ndarray, seed: int) -> np.ndarray:
    return np.zeros_like(image)


def _mean(image: np.ndarray, seed: int) -> np.ndarray:
    return np.broadcast_to(image.mean((0, 1)), image.shape)


def _noise(image: np.ndarray, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(image.shape)


def _blur(image: np.ndarray, seed: int) -> np.ndarray:
    picture = Image.fromarray(np.rint(image * 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(image.shape[0] / 10))) / 255


BASELINES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "black": _black,
    "mean": _mean,
    "noise": _noise,
    "blur": _blur,
}

Method = Callable[[Scene, argparse.Namespace, Any], jax.Array]


def _gradient(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return xattr.gradient(scene.f, scene.image, args=scene.args)


def _gradient_x_input(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return xattr.gradient_x_input(scene.f, scene.image, args=scene.args)


def _guided(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return xattr.guided_backprop(scene.f, scene.image, args=scene.args)


def _lrp(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    composite = xattr.composites.epsilon_plus_flat()
    return xattr.lrp(scene.f, scene.image, composite, args=scene.args)


def _deep_lift(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return xattr.deep_lift(scene.f, scene.image, scene.baseline, args=scene.args)


def _along(path: Any, scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return xattr.path_integral(
        scene.f,
        path,
        quadrature=xattr.quadrature.gauss_legendre(options.steps),
        args=scene.args,
        chunk_size=CHUNK,
        progress=progress,
        warn_above=None,  # the table shows the gap
    )


def _straight(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    path = xattr.paths.straight_line(baseline=scene.baseline, x=scene.image)
    return _along(path, scene, options, progress)


def _monotone(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    """Take a path on which red runs ahead of green, and blue behind it."""
    exponents = jnp.array([0.5, 1.0, 2.0])[None, None]
    path = xattr.paths.monotone(baseline=scene.baseline, x=scene.image, exponents=exponents)
    return _along(path, scene, options, progress)


def _aumann_shapley(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return _along(xattr.paths.aumann_shapley(scene.image), scene, options, progress)


def _expected(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return xattr.expected_gradients(
        scene.f,
        scene.image,
        scene.others,
        scene.key,
        num_samples=options.steps,
        args=scene.args,
        chunk_size=CHUNK,
        progress=progress,
    )


def _smooth(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return xattr.smooth_grad(
        scene.f,
        scene.image,
        scene.key,
        num_samples=options.samples,
        args=scene.args,
        chunk_size=CHUNK,
        progress=progress,
    )


def _superpixels(scene: Scene) -> np.ndarray:
    """Return about 196 segments of the image, numbered from 0."""
    from skimage.segmentation import slic

    found = slic(np.asarray(scene.image), n_segments=196, compactness=10, start_label=0)
    return np.unique(found, return_inverse=True)[1].reshape(found.shape).astype(np.int32)


def _evaluations(options: argparse.Namespace) -> int:
    """Return how many masked images the samplers evaluate: 1,024 for the default 64 steps."""
    return 16 * options.steps


def _grouped(name: str, scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    """Call a method that leaves out superpixels."""
    shared = {"groups": _superpixels(scene), "args": scene.args, "progress": progress}
    shared["chunk_size"] = CHUNK
    if name == "ablation":
        return xattr.ablation(scene.f, scene.image, scene.baseline, **shared)
    number = _evaluations(options)
    count = {"num_samples": number}
    if name == "shapley_sampling":
        count = {"num_permutations": 2 * max(1, number // 400)}
    method = getattr(xattr, name)
    found = method(scene.f, scene.image, scene.baseline, scene.key, **count, **shared)
    return found.attributions


def _occlusion(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return xattr.occlusion(
        scene.f,
        scene.image,
        scene.baseline,
        window=(32, 32),
        stride=(16, 16),
        args=scene.args,
        chunk_size=CHUNK,
        progress=progress,
    )


def _rise(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    scores, _ = xattr.rise(
        scene.f,
        scene.image,
        scene.key,
        num_masks=_evaluations(options),
        grid=7,
        args=scene.args,
        chunk_size=CHUNK,
        progress=progress,
    )
    return scores[..., None]


def _learned_mask(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    mask = xattr.meaningful_perturbation(
        scene.f,
        scene.image,
        scene.baseline,
        scene.key,
        num_steps=4 * options.steps,
        args=scene.args,
    )
    return mask[..., None]


def _guided_path(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return xattr.guided_integrated_gradients(
        scene.f,
        scene.image,
        scene.baseline,
        steps=options.steps,
        args=scene.args,
        warn_above=None,
    )


def _blur_path(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    return _along(_blurring(scene), scene, options, progress)


def _blurring(scene: Scene) -> Any:
    return xattr.paths.blur(scene.image, max_sigma=scene.image.shape[0] / 10)


def _directional(scene: Scene, options: argparse.Namespace, progress: Any) -> Any:
    path = xattr.paths.straight_line(baseline=scene.baseline, x=scene.image)
    return xattr.integrated_directional_gradients(
        scene.f,
        path,
        steps=options.steps,
        args=scene.args,
        chunk_size=CHUNK,
        progress=progress,
        warn_above=None,
    )


METHODS: dict[str, tuple[Method, Callable[[argparse.Namespace], int]]] = {
    "gradient": (_gradient, lambda options: 1),
    "gradient x input": (_gradient_x_input, lambda options: 1),
    "guided backprop": (_guided, lambda options: 1),
    "LRP": (_lrp, lambda options: 1),
    "DeepLIFT": (_deep_lift, lambda options: 1),
    "IG, straight line": (_straight, lambda options: options.steps),
    "IG, monotone path": (_monotone, lambda options: options.steps),
    "Aumann-Shapley": (_aumann_shapley, lambda options: options.steps),
    "expected gradients": (_expected, lambda options: options.steps),
    "SmoothGrad": (_smooth, lambda options: options.samples),
    "guided IG": (_guided_path, lambda options: options.steps + 1),
    "blur IG": (_blur_path, lambda options: options.steps),
    "IDGI": (_directional, lambda options: options.steps),
    "ablation": (functools.partial(_grouped, "ablation"), lambda options: 0),
    "occlusion": (_occlusion, lambda options: 0),
    "Shapley sampling": (functools.partial(_grouped, "shapley_sampling"), lambda options: 0),
    "KernelSHAP": (functools.partial(_grouped, "kernel_shap"), lambda options: 0),
    "LIME": (functools.partial(_grouped, "lime"), lambda options: 0),
    "RISE": (_rise, lambda options: 0),
    "learned mask": (_learned_mask, lambda options: 4 * options.steps),
}
"""Name -> method, and the number of gradients that it takes."""
DEFAULT = list(METHODS)[:10]
"""The rows that run in one or two minutes; `--methods all` runs every row."""
WITHOUT_GAP = ("RISE", "learned mask")
"""Scores that are not shares of f: their sum says nothing."""


def measure(name: str, scene: Scene, options: argparse.Namespace) -> Row:
    """Run one method; take its time and count how often its kernel was compiled."""
    method, evaluations = METHODS[name]
    progress = functools.partial(_bar, name, options.progress)
    start = time.perf_counter()
    with count_compilations() as counts:
        attributions = jax.block_until_ready(method(scene, options, progress))
    seconds = time.perf_counter() - start
    return Row(
        name,
        np.asarray(attributions),
        gap_of(name, scene, attributions),
        evaluations(options),
        seconds,
        sum(counts[kernel] for kernel in KERNELS),
    )


def _bar(name: str, shown: bool, chunks: Iterable[int]) -> Iterable[int]:
    return tqdm.tqdm(chunks, desc=f"{name:18}", unit="chunk", leave=False, disable=not shown)


def gap_of(name: str, scene: Scene, attributions: jax.Array) -> float:
    """Return how far the sum of the map is from f(x) − f(baseline), for the method's baseline.

    LRP has no baseline; its map is compared with f(x).
    """
    gap = functools.partial(
        xattr.completeness_gap, scene.f, attributions, scene.image, args=scene.args
    )
    if name in WITHOUT_GAP:
        return float("nan")
    if name == "blur IG":
        return float(gap(_blurring(scene)(0.0)))
    if name == "expected gradients":
        return float(np.mean([gap(other) for other in scene.others]))
    if name == "LRP":
        value = jax.jit(scene.f)(scene.image, *scene.args)
        return float(attributions.sum() - value)
    return float(gap(None if name == "Aumann-Shapley" else scene.baseline))


def describe(
    options: argparse.Namespace, logits: np.ndarray, label: int, names: list[str], scene: Scene
) -> str:
    """Say what is explained."""
    score = jax.jit(scene.f)
    value, start = (float(score(x, *scene.args)) for x in (scene.image, scene.baseline))
    top = int(logits.argmax())
    lines = [
        f"image      {options.image}, on {jax.devices()[0].device_kind}",
        f"class      {label} ({names[label]})"
        + ("" if top == label else f"; the top class is {top} ({names[top]})"),
        f"score      {options.score} {value:.4f}, at the {options.baseline} baseline {start:.4f}",
    ]
    return "\n".join(lines) + "\n"


def table(rows: list[Row]) -> str:
    """Set the rows in columns."""
    head = f"{'method':20}{'sum':>10}{'gap':>10}{'gradients':>11}{'seconds':>9}{'compiled':>10}"
    lines = [
        f"{row.name:20}{row.attributions.sum(dtype=np.float64):>10.4f}{row.gap:>10.4f}"
        f"{row.evaluations:>11}{row.seconds:>9.1f}{row.compilations:>10}"
        for row in rows
    ]
    return "\n".join([head, "-" * len(head), *lines]) + "\n"


def write(options: argparse.Namespace, scene: Scene, rows: list[Row], name: str) -> list[Any]:
    """Write the figure and the arrays; no file is left half-written."""
    targets = [options.out / "attributions.png", options.out / "attributions.npz"]
    arrays = {row.name: row.attributions for row in rows}
    named: dict[str, Any] = {"_".join(re.findall(r"\w+", key)): a for key, a in arrays.items()}
    with writing_to(options.out):
        with packages.replacing(targets[0]) as path:
            draw(options, scene, arrays, name).savefig(path, dpi=100)
        with packages.replacing(targets[1]) as path:
            np.savez_compressed(path, image=np.asarray(scene.image), **named)
    return targets


def draw(
    options: argparse.Namespace, scene: Scene, arrays: dict[str, np.ndarray], name: str
) -> Any:
    """Draw the photograph and every map."""
    from matplotlib.figure import Figure

    count = len(arrays) + 1
    rows = -(-count // 4)
    columns = -(-count // rows)
    figure = Figure(figsize=(3.375 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns).ravel()
    xattr.plot.panel(axes, np.asarray(scene.image), arrays, title=name, channels=options.channels)
    return figure
