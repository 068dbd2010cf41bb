"""Not an experiment: every method for any classifier, as the conundrum compares them.

A method is a function of a `Case`: one input, and what a method may need beside it. Its map has the
shape of the input or of its first axes.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from xattr import composites, quadrature, rules

NODES, SAMPLES, NOISY, COALITIONS, MASKS, STEPS = 16, 16, 8, 256, 256, 100
"""Nodes of IG, samples of SmoothGrad, of SmoothGrad of IG, coalitions of LIME and of SHAP, masks of
RISE, and steps of guided IG (a quarter of it) and of the learned mask."""
RIVALS = 8
"""Classes that compete in CGI."""
EPSILON = 1e-3
"""Stabilizer of LRP-ε, in units of a layer's output."""
Meaning: TypeAlias = Literal["share", "slope", "signed score", "score"]
"""Of a map: a share of f, a change of f for a unit of x, or a score for an order alone.

A signed score is largest where f is, and may be below 0 where f is.
"""


class Subject(NamedTuple):
    """A classifier, the inputs that it is asked about, and what methods and measures need."""

    name: str
    source: str
    """Says what it is, and which inputs these are."""
    model: Callable[..., jax.Array]
    """`model(x, params) -> (classes,)`."""
    params: Any
    inputs: np.ndarray
    labels: np.ndarray
    """The classes that are explained, (inputs,)."""
    groups: np.ndarray
    """Which elements along the first axes of x are one feature: patches, or words."""
    random: dict[str, Any]
    """What is random -> parameters: the layer at the output, and all of them."""
    pattern_model: Callable[..., jax.Array] | None = None
    """The model in a form that has one pattern for each kernel."""
    patterns: Any = None
    layer: Any = None
    """The name of the features of Grad-CAM."""
    cells: Any = None
    """Cells of the masks of RISE and of the learned mask, for images."""
    bounds: tuple[float, float] | None = None
    """Of an element of x, for z^B."""
    background: np.ndarray | None = None
    """Other inputs, the baselines of expected gradients."""
    start: float = 1.0
    """What PatternNet's signal is multiplied by, to stay within float32."""
    objects: np.ndarray | None = None
    """Where the object is, bool of the shape of the inputs without their channels."""

    @property
    def f(self) -> Callable[..., jax.Array]:
        """The logit of a class: `f(x, label, params)`."""
        return xattr.targets.logit(self.model)


class Case(NamedTuple):
    """What a method gets for one input."""

    it: Subject
    """Of it, the functions and other things that are not arrays."""
    x: jax.Array
    label: jax.Array
    key: jax.Array
    params: Any
    patterns: Any

    @property
    def common(self) -> tuple[Any, Any]:
        """The first two arguments of most methods."""
        return self.it.f, self.x

    @property
    def args(self) -> tuple[Any, Any]:
        """What f gets beside x."""
        return self.label, self.params


class Asked(Protocol):
    """What a method needs at least: the first two arguments of most, and what f gets beside x."""

    @property
    def common(self) -> tuple[Any, Any]:
        """Return f and x."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Return the further arguments of f."""


def plain(method: Callable[..., Any], it: Asked) -> Any:
    """Return the map of a method that takes nothing else."""
    return method(*it.common, args=it.args)


def relevance(composite: Any, bias: Any, it: Asked) -> Any:
    """Return the map of LRP under a composite."""
    return xattr.lrp(*it.common, composite, bias=bias, args=it.args)


def _noisy(method: Any, it: Case) -> Any:
    return method(*it.common, it.key, num_samples=SAMPLES, args=it.args, chunk_size=4)


def _pattern_net(it: Case) -> Any:
    last = max(it.patterns)  # names begin with the number of the layer
    patterns = it.patterns | {last: it.patterns[last] * it.it.start}
    return xattr.pattern_net(_pattern_f(it), it.x, patterns, args=it.args)


def _pattern_attribution(it: Case) -> Any:
    return xattr.pattern_attribution(_pattern_f(it), it.x, it.patterns, args=it.args)


def _pattern_f(it: Case) -> Any:
    return xattr.targets.logit(it.it.pattern_model or it.it.model)


def _integrated(it: Case) -> Any:
    return integrated(*it.common, args=it.args)


integrated = functools.partial(
    xattr.integrated_gradients,
    quadrature=quadrature.midpoint(NODES),
    chunk_size=4,
    warn_above=None,
)


def _smooth_integrated(it: Case) -> Any:
    return xattr.smooth_grad(
        *it.common, it.key, method=integrated, num_samples=NOISY, args=it.args, chunk_size=1
    )


def _expected(it: Case) -> Any:
    baselines = jnp.asarray(it.it.background)
    return xattr.expected_gradients(
        *it.common, baselines, it.key, num_samples=2 * NODES, args=it.args, chunk_size=4
    )


def _guided_path(it: Case) -> Any:
    return xattr.guided_integrated_gradients(
        *it.common, steps=STEPS // 4, args=it.args, warn_above=None
    )


def _directional(it: Case) -> Any:
    path = xattr.paths.straight_line(baseline=jnp.zeros_like(it.x), x=it.x)
    return xattr.integrated_directional_gradients(
        it.it.f, path, steps=NODES, args=it.args, chunk_size=4, warn_above=None
    )


def _deep_taylor(it: Case) -> Any:
    low, high = it.it.bounds or (None, None)
    return xattr.deep_taylor(*it.common, low=low, high=high, args=it.args)


def _grad_cam(it: Case) -> Any:
    return xattr.grad_cam(*it.common, layer=it.it.layer, args=it.args)


def _guided_grad_cam(it: Case) -> Any:
    return xattr.guided_grad_cam(*it.common, layer=it.it.layer, args=it.args)


def _competitive(it: Case) -> Any:
    logits = it.it.model(it.x, it.params)
    # The class that is explained comes first, whatever its place is in another network.
    first = logits.at[it.label].set(jnp.inf)
    classes = jax.lax.top_k(first, min(RIVALS, len(logits)))[1]

    def scores(x: jax.Array, params: Any, classes: jax.Array) -> jax.Array:
        return it.it.model(x, params)[classes]

    args = (it.params, classes)
    return xattr.competitive_gradient_x_input(scores, it.x, 0, args=args, chunk_size=4)


def _ablation(it: Case) -> Any:
    return xattr.ablation(*it.common, groups=it.it.groups, args=it.args, chunk_size=8)


def _sampled(method: Any, it: Case) -> Any:
    options = {"groups": it.it.groups, "args": it.args, "chunk_size": 8}
    return method(*it.common, None, it.key, num_samples=COALITIONS, **options).attributions


def _rise(it: Case) -> Any:
    found = xattr.rise(
        *it.common, it.key, num_masks=MASKS, grid=it.it.cells, args=it.args, chunk_size=8
    )
    return found.attributions


def _learned_mask(it: Case) -> Any:
    f = xattr.targets.probability(it.it.model)
    return xattr.meaningful_perturbation(
        f, it.x, None, it.key, grid=it.it.cells, num_steps=STEPS, jitter=1, args=it.args
    )


def _edges(it: Case) -> Any:
    return xattr.edge_detector(it.x)


def _random(it: Case) -> Any:
    return jax.random.normal(it.key, it.x.shape)


def _input(it: Case) -> Any:
    return it.x


class Kind(NamedTuple):
    """A method, what its map means, its name in `axioms.json`, and what it costs.

    It has a name there only if the row is of this method: with these rules, these bounds of x, this
    treatment of biases, and these patterns.
    """

    method: Callable[[Case], Any]
    meaning: Meaning
    axioms: str | None = None
    gradients: int = 1
    evaluations: int = 0
    needs: tuple[str, ...] = ()
    """Fields of the subject without which the method does not apply."""
    is_control: bool = False


def _lrp(composite: Any, axioms: str | None = None, bias: Any = "exclude") -> Kind:
    return Kind(functools.partial(relevance, composite, bias), "share", axioms)


IMAGES = ("cells",)
METHODS = {
    "LIME": Kind(functools.partial(_sampled, xattr.lime), "share", "lime", 0, COALITIONS),
    "SHAP (kernel)": Kind(
        functools.partial(_sampled, xattr.kernel_shap), "share", "kernel_shap", 0, COALITIONS
    ),
    "ablation": Kind(_ablation, "share", "ablation", 0, 50),
    "RISE": Kind(_rise, "signed score", None, 0, MASKS, IMAGES),
    "learned mask": Kind(_learned_mask, "score", None, STEPS, 0, IMAGES),
    "gradient": Kind(functools.partial(plain, xattr.gradient), "slope", "gradient"),
    "SmoothGrad": Kind(
        functools.partial(_noisy, xattr.smooth_grad), "slope", "smooth_grad", SAMPLES
    ),
    "SmoothGrad²": Kind(
        functools.partial(_noisy, xattr.smooth_grad_squared),
        "score",
        "smooth_grad_squared",
        SAMPLES,
    ),
    "VarGrad": Kind(functools.partial(_noisy, xattr.var_grad), "score", "var_grad", SAMPLES),
    "DeConvNet": Kind(functools.partial(plain, xattr.deconvnet), "slope", "deconvnet"),
    "guided backprop": Kind(
        functools.partial(plain, xattr.guided_backprop), "slope", "guided_backprop"
    ),
    "PatternNet": Kind(_pattern_net, "slope", needs=("patterns",)),
    "PatternAttribution": Kind(
        _pattern_attribution, "share", "pattern_attribution, linear", needs=("patterns",)
    ),
    "deep Taylor": Kind(_deep_taylor, "share"),
    "gradient ⊙ input": Kind(
        functools.partial(plain, xattr.gradient_x_input), "share", "gradient_x_input"
    ),
    "integrated gradients": Kind(_integrated, "share", "integrated_gradients", NODES),
    "IG-SmoothGrad": Kind(
        _smooth_integrated, "share", "smooth_grad, integrated_gradients", NODES * NOISY
    ),
    "expected gradients": Kind(
        _expected, "share", "expected_gradients, 3 baselines", 2 * NODES, 0, ("background",)
    ),
    "guided IG": Kind(_guided_path, "share", "guided_integrated_gradients", STEPS // 4),
    "IDGI": Kind(_directional, "share", "integrated_directional_gradients", NODES),
    "LRP-Z": _lrp(composites.every_layer(rules.zero()), "lrp, zero, bias included", "include"),
    "LRP-EPS": _lrp(composites.every_layer(rules.epsilon(EPSILON)), bias="include"),
    "LRP-PA": _lrp(composites.preset_a_flat()),
    "LRP-PB": _lrp(composites.preset_b_flat()),
    "DeepLIFT": Kind(functools.partial(plain, xattr.deep_lift), "share", "deep_lift, rescale", 2),
    "Grad-CAM": Kind(_grad_cam, "score", "grad_cam", needs=("layer",)),
    "guided Grad-CAM": Kind(_guided_grad_cam, "score", "guided_grad_cam", 2, 0, ("layer",)),
    "CGI": Kind(_competitive, "share", None, RIVALS),
    "edge detector": Kind(_edges, "score", "edge_detector", 0, 0, IMAGES, is_control=True),
    "random": Kind(_random, "score", None, 0, is_control=True),
    "input": Kind(_input, "score", None, 0, is_control=True),
}
"""Name -> method: the slides' list, the rest of the library, and three controls."""

QUICK = ("ablation", "gradient", "integrated gradients", "guided backprop", "random")


def methods_for(it: Subject, *, quick: bool = False) -> list[str]:
    """Return the names of the methods that apply to a subject."""
    return [
        name
        for name, kind in METHODS.items()
        if all(getattr(it, need) is not None for need in kind.needs)
        and (not quick or name in QUICK)
    ]


def explainer(it: Subject, name: str) -> Callable[..., jax.Array]:
    """Return the compiled method: `(x, label, key, params, patterns) -> map`, one for an element.

    Channels and dimensions of embeddings are kept.
    """
    # Without its arrays, the subject is the same for every call.
    fixed = it._replace(params=None, random={}, patterns=None)

    @jax.jit
    def explain(x: Any, label: Any, key: Any, params: Any, patterns: Any) -> jax.Array:
        found = METHODS[name].method(Case(fixed, x, label, key, params, patterns))
        found = jnp.reshape(found, found.shape + (1,) * (x.ndim - found.ndim))
        return found.astype(jnp.float32)

    return explain


def pixel_scores(name: str, found: np.ndarray) -> np.ndarray:
    """Sum a map over its last axis: with signs if these say what f gains, else absolute values."""
    signed = METHODS[name].meaning in ("share", "signed score")
    summed: np.ndarray = (found if signed else np.abs(found)).sum(-1)
    return summed
