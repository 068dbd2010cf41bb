"""Attribution for JAX: the inputs that made the model say this.

A method is a function `method(f, x, ..., *, args=())`. It attributes one example, and composes with
`jax.jit`, `jax.vmap`, `jax.grad` and `jax.shard_map`. It is made of up to four things:

- f, the function explained, `f(x, *args) -> scalar`: `targets` makes it from a model;
- γ, a path from a baseline to x, `alpha -> pytree like x`: `paths`;
- a quadrature, the nodes and weights of a sum over α: `quadrature`;
- a rule, what an operation does to the gradient that comes back to it: `rules`, `composites`.

`axioms` and `testing` measure what attributions are held to. `metrics`, `sanity` and `attacks`
compare maps and change them, and `plot` draws them. `citation` gives the papers.
`xattr/README.md` is the map of the files.
"""

from importlib.metadata import version as _version

from xattr import (
    attacks,
    axioms,
    composites,
    evaluation,
    groups,
    metrics,
    paths,
    plot,
    quadrature,
    rules,
    sanity,
    targets,
    testing,
    tokens,
    types,
)
from xattr._backward.deeplift import deep_lift
from xattr._backward.guided import deconvnet, guided_backprop
from xattr._backward.lrp import deep_taylor, lrp
from xattr._backward.patterns.methods import fit_patterns, pattern_attribution, pattern_net
from xattr._backward.report import explain, relevance_report
from xattr._backward.with_rules import with_rules
from xattr._citation import citation
from xattr._gradients.competitive import competitive_gradient_x_input
from xattr._gradients.gradient import gradient, gradient_x_input, interior_gradients
from xattr._gradients.noise import smooth_grad, smooth_grad_squared, var_grad
from xattr._integrate.adaptive import AdaptiveResult, integrate_to_tolerance
from xattr._integrate.baselines import baseline_sensitivity
from xattr._integrate.directional import integrated_directional_gradients
from xattr._integrate.exact import exact_quadrature
from xattr._integrate.expected import expected_gradients
from xattr._integrate.guided import guided_integrated_gradients
from xattr._integrate.hessians import expected_hessians, integrated_hessians
from xattr._integrate.kernel import integrate, path_integral, sample
from xattr._integrate.straight_line import aumann_shapley, integrated_gradients
from xattr._layers.cam import grad_cam, guided_grad_cam
from xattr._layers.hidden import (
    at_layer,
    conductance,
    internal_influence,
    layer_gradient,
    layer_integrated_gradients,
)
from xattr._perturb.exact import (
    ablation,
    banzhaf_values,
    shapley_interactions,
    shapley_values,
)
from xattr._perturb.masks import meaningful_perturbation
from xattr._perturb.sampled import kernel_shap, lime, shapley_sampling
from xattr._perturb.windows import occlusion, rise
from xattr._scale.dataset import attribute_dataset
from xattr._scale.sharding import sharded
from xattr.axioms import completeness_gap
from xattr.sanity import edge_detector
from xattr.types import (
    Estimate,
    IncompleteWarning,
    PathSamples,
    Quadrature,
    UncoveredPrimitiveError,
    UnreadableProgramError,
)

__version__ = _version("xattr-jax")

__all__ = [
    "AdaptiveResult",
    "Estimate",
    "IncompleteWarning",
    "PathSamples",
    "Quadrature",
    "UncoveredPrimitiveError",
    "UnreadableProgramError",
    "ablation",
    "at_layer",
    "attacks",
    "attribute_dataset",
    "aumann_shapley",
    "axioms",
    "banzhaf_values",
    "baseline_sensitivity",
    "citation",
    "competitive_gradient_x_input",
    "completeness_gap",
    "composites",
    "conductance",
    "deconvnet",
    "deep_lift",
    "deep_taylor",
    "edge_detector",
    "evaluation",
    "exact_quadrature",
    "expected_gradients",
    "expected_hessians",
    "explain",
    "fit_patterns",
    "grad_cam",
    "gradient",
    "gradient_x_input",
    "groups",
    "guided_backprop",
    "guided_grad_cam",
    "guided_integrated_gradients",
    "integrate",
    "integrate_to_tolerance",
    "integrated_directional_gradients",
    "integrated_gradients",
    "integrated_hessians",
    "interior_gradients",
    "internal_influence",
    "kernel_shap",
    "layer_gradient",
    "layer_integrated_gradients",
    "lime",
    "lrp",
    "meaningful_perturbation",
    "metrics",
    "occlusion",
    "path_integral",
    "paths",
    "pattern_attribution",
    "pattern_net",
    "plot",
    "quadrature",
    "relevance_report",
    "rise",
    "rules",
    "sample",
    "sanity",
    "shapley_interactions",
    "shapley_sampling",
    "shapley_values",
    "sharded",
    "smooth_grad",
    "smooth_grad_squared",
    "targets",
    "testing",
    "tokens",
    "types",
    "var_grad",
    "with_rules",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
