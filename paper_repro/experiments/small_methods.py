"""Not an experiment: the library's methods for one score of a small network, by the usual names.

A method is `method(case) -> map`, like the image. `truth` and `bam` use them; `methods_for` leaves
out those that need what a case does not have.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

import xattr
from xattr import composites, rules

SAMPLES, MANY = 50, 600
"""Samples of gradients, and evaluations of the methods that leave features out."""
EPSILON = 1e-3
"""Stabilizer of LRP-ε."""


class Case(NamedTuple):
    """What a method gets for one image; missing values stay None."""

    f: Callable[..., jax.Array]
    """The score, `f(image, *args)`."""
    image: jax.Array
    args: tuple[Any, ...]
    key: jax.Array
    references: Any = None
    """Images of the data set, for expected gradients."""
    patterns: Mapping[str, jax.Array] | None = None
    groups: Any = None
    """Groups of pixels that are left out together; single pixels where it is None."""
    layer: str | None = None
    """The last convolution, for Grad-CAM."""
    window: tuple[int, ...] | None = None
    """What occlusion covers; it moves by half of that."""
    model: Callable[..., jax.Array] | None = None
    """The logits, for CGI; `args` are then the label and what follows the image."""
    bounds: tuple[float, float] | None = None
    """The smallest and the largest pixel, where it is known."""


def _common(case: Case) -> tuple[Any, Any]:
    return case.f, case.image


def _noisy(name: str, case: Case) -> Any:
    average = getattr(xattr, name)
    return average(*_common(case), case.key, num_samples=SAMPLES, args=case.args)


def _plain(name: str, case: Case) -> Any:
    return getattr(xattr, name)(*_common(case), args=case.args)


def _integrated(case: Case) -> Any:
    return xattr.integrated_gradients(*_common(case), args=case.args, warn_above=None)


def _expected(case: Case) -> Any:
    return xattr.expected_gradients(
        *_common(case), case.references, case.key, num_samples=SAMPLES, args=case.args
    )


def _deep_lift(case: Case) -> Any:
    return xattr.deep_lift(*_common(case), args=case.args, warn_above=None)


def _deep_taylor(case: Case) -> Any:
    low, high = case.bounds or (None, None)
    return xattr.deep_taylor(*_common(case), low=low, high=high, args=case.args)


def _lrp(composite: Any, bias: Any, case: Case) -> Any:
    return xattr.lrp(*_common(case), composite, bias=bias, args=case.args)


def _pattern(name: str, case: Case) -> Any:
    return getattr(xattr, name)(*_common(case), case.patterns, args=case.args)


def _grad_cam(name: str, case: Case) -> Any:
    found = getattr(xattr, name)(*_common(case), layer=case.layer, args=case.args)
    return found.reshape(case.image.shape)


def _competitive(case: Case) -> Any:
    label, *rest = case.args
    model: Any = case.model
    return xattr.competitive_gradient_x_input(model, case.image, label, args=tuple(rest))


def _ablation(case: Case) -> Any:
    return xattr.ablation(*_common(case), groups=case.groups, args=case.args)


def _occlusion(case: Case) -> Any:
    window = case.window or ()
    stride = tuple(max(1, side // 2) for side in window)
    return xattr.occlusion(*_common(case), window=window, stride=stride, args=case.args)


def _sampled(name: str, count: dict[str, int], case: Case) -> Any:
    method = getattr(xattr, name)
    options = {"groups": case.groups, "args": case.args, **count}
    return method(*_common(case), None, case.key, **options).attributions


def _random(case: Case) -> Any:
    """Draw a map that depends on the network by its first number alone, as a hash would."""
    seed = jax.lax.bitcast_convert_type(jax.tree.leaves(case.args)[-1].ravel()[0], "int32")
    return jax.random.normal(jax.random.fold_in(case.key, seed), case.image.shape)


def _input(case: Case) -> Any:
    return case.image


def _edges(case: Case) -> Any:
    pixels = case.image if case.image.ndim == 3 else case.image[..., None]
    return xattr.edge_detector(pixels).reshape(case.image.shape)


METHODS: dict[str, Callable[[Case], Any]] = {
    "gradient": functools.partial(_plain, "gradient"),
    "SmoothGrad": functools.partial(_noisy, "smooth_grad"),
    "SmoothGrad²": functools.partial(_noisy, "smooth_grad_squared"),
    "VarGrad": functools.partial(_noisy, "var_grad"),
    "gradient ⊙ input": functools.partial(_plain, "gradient_x_input"),
    "integrated gradients": _integrated,
    "expected gradients": _expected,
    "DeConvNet": functools.partial(_plain, "deconvnet"),
    "guided backprop": functools.partial(_plain, "guided_backprop"),
    "Grad-CAM": functools.partial(_grad_cam, "grad_cam"),
    "guided Grad-CAM": functools.partial(_grad_cam, "guided_grad_cam"),
    "LRP-Z": functools.partial(_lrp, composites.every_layer(rules.zero()), "include"),
    "LRP-ε": functools.partial(_lrp, composites.every_layer(rules.epsilon(EPSILON)), "include"),
    "deep Taylor": _deep_taylor,
    "DeepLIFT": _deep_lift,
    "PatternNet": functools.partial(_pattern, "pattern_net"),
    "PatternAttribution": functools.partial(_pattern, "pattern_attribution"),
    "CGI": _competitive,
    "ablation": _ablation,
    "occlusion": _occlusion,
    "Shapley sampling": functools.partial(_sampled, "shapley_sampling", {"num_permutations": 6}),
    "KernelSHAP": functools.partial(_sampled, "kernel_shap", {"num_samples": MANY}),
    "LIME": functools.partial(_sampled, "lime", {"num_samples": MANY}),
    "edge detector": _edges,
    "the input": _input,
    "random": _random,
}
CONTROLS = ("edge detector", "the input", "random")
"""Maps that are no explanation of the network."""
NEEDS = {
    "expected gradients": "references",
    "occlusion": "window",
    "CGI": "model",
    "Grad-CAM": "layer",
    "guided Grad-CAM": "layer",
    "PatternNet": "patterns",
    "PatternAttribution": "patterns",
}


def methods_for(**has: Any) -> list[str]:
    """Return the names of the methods for cases that have these fields."""
    return [name for name in METHODS if name not in NEEDS or has.get(NEEDS[name]) is not None]
