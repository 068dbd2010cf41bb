"""The style guide as a test over every public function."""

import inspect
import types
from pathlib import Path

import pytest

import xattr

MODULES = ["paths", "quadrature", "targets", "plot", "testing", "rules", "composites"]
MODULES += ["sanity", "metrics", "attacks", "axioms"]
EXPECTED = {
    "xattr": (
        "sample integrate path_integral gradient gradient_x_input integrated_gradients "
        "interior_gradients aumann_shapley expected_gradients smooth_grad smooth_grad_squared "
        "var_grad completeness_gap guided_backprop deconvnet lrp deep_taylor deep_lift "
        "fit_patterns pattern_net pattern_attribution grad_cam guided_grad_cam at_layer "
        "layer_gradient layer_integrated_gradients conductance internal_influence with_rules "
        "explain relevance_report competitive_gradient_x_input edge_detector "
        "integrate_to_tolerance exact_quadrature sharded attribute_dataset citation"
    ),
    "sanity": "randomize cascading independent truncated_normal randomize_labels",
    "metrics": (
        "spearman spearman_nonzero pearson kendall top_k_intersection sign_agreement center_of_mass"
    ),
    "attacks": "mean_shift targeted_shift checkerboard attack_attributions random_perturbation",
    "rules": "zero epsilon gamma alpha_beta z_plus z_box flat w_square",
    "composites": (
        "epsilon_plus epsilon_plus_flat epsilon_alpha2_beta1 epsilon_alpha2_beta1_flat preset_a "
        "preset_a_flat preset_b preset_b_flat epsilon_gamma_box compose every_layer kind named both"
    ),
    "paths": (
        "straight_line aumann_shapley monotone polyline coordinatewise reparametrize reverse "
        "concatenate"
    ),
    "quadrature": (
        "riemann_left riemann_right midpoint trapezoid gauss_legendre composite concentrated"
    ),
    "targets": "logit probability log_probability log_odds",
    "plot": "heatmap overlay signed_channels panel",
    "axioms": (
        "completeness sensitivity_a sensitivity_b dummy implementation_invariance linearity "
        "symmetry input_invariance affine_scale_invariance zero_at_baseline conservation "
        "positivity proportionality time_reparametrization completeness_gap"
    ),
    "testing": (
        "networks symmetric_functions dummy_functions equivalent_pairs shifted_pairs paths "
        "quadratures inputs problems problem falsify assert_axioms count_compilations "
        "assert_completeness assert_sensitivity_a assert_sensitivity_b assert_dummy "
        "assert_implementation_invariance assert_linearity assert_symmetry "
        "assert_input_invariance assert_affine_scale_invariance assert_zero_at_baseline "
        "assert_conservation assert_positivity assert_proportionality "
        "assert_time_reparametrization"
    ),
}
WORK = {"chunk_size", "progress", "on_uncovered", "upsample", "warn_above"}
SIGNATURES = {
    "sample": "path quadrature",
    "integrate": "f samples * args chunk_size",
    "path_integral": "f path * quadrature args chunk_size",
    "gradient": "f x * args",
    "gradient_x_input": "f x * args",
    "integrated_gradients": "f x baseline * quadrature args chunk_size",
    "interior_gradients": "f x baseline * alphas args",
    "aumann_shapley": "f x * quadrature args chunk_size",
    "expected_gradients": "f x baselines key * num_samples args",
    "smooth_grad": "f x key * method num_samples noise_scale args",
    "smooth_grad_squared": "f x key * method num_samples noise_scale args",
    "var_grad": "f x key * method num_samples noise_scale args",
    "completeness_gap": "f attributions x baseline * args",
    "guided_backprop": "f x * args",
    "deconvnet": "f x * args",
    "lrp": "f x composite * bias args",
    "deep_taylor": "f x * low high args",
    "deep_lift": "f x baseline * variant args",
    "fit_patterns": "f data * estimator args",
    "pattern_net": "f x patterns * args",
    "pattern_attribution": "f x patterns * args",
    "grad_cam": "f x * layer args spatial_axes relu",
    "guided_grad_cam": "f x * layer args spatial_axes",
    "at_layer": "f layer *",
    "layer_gradient": "f x * layer args",
    "layer_integrated_gradients": "f x baseline * layer quadrature args",
    "conductance": "f x baseline * layer quadrature args",
    "internal_influence": "f x baseline * layer quadrature args",
    "with_rules": "f composite *",
    "explain": "f x * args",
    "relevance_report": "f x composite * bias args",
    "competitive_gradient_x_input": "model x label * args",
    "edge_detector": "image *",
    "integrate_to_tolerance": "f path * atol rtol max_evaluations args chunk_size",
    "exact_quadrature": "f x baseline * args max_pieces",
    "sharded": "method mesh * in_axes batch_axis node_axis",
    "attribute_dataset": "method batches * out mesh in_axes",
    "citation": "method",
}


def _public():
    for module in [xattr, *(getattr(xattr, name) for name in MODULES)]:
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        for name in names:
            value = getattr(module, name)
            if isinstance(value, types.FunctionType) and value.__module__.startswith("xattr"):
                yield pytest.param(value, id=f"{module.__name__}.{name}")


PUBLIC = list(_public())


@pytest.mark.parametrize("module", EXPECTED)
def test_all_that_is_promised_is_there(module):
    owner = xattr if module == "xattr" else getattr(xattr, module)
    for name in EXPECTED[module].split():
        assert name in owner.__all__
        assert isinstance(getattr(owner, name), types.FunctionType)


OTHERS = {
    "sanity.randomize": "params key layers init",
    "sanity.cascading": "params key order init",
    "sanity.independent": "params key order init",
    "sanity.randomize_labels": "labels key",
    "metrics.spearman": "a b absolute where",
    "metrics.spearman_nonzero": "a b x baseline",
    "metrics.pearson": "a b where",
    "metrics.top_k_intersection": "a b k absolute",
    "attacks.mean_shift": "params m layer strides padding",
    "axioms.completeness": "method f x baseline args refined",
    "axioms.sensitivity_a": "method f x baseline feature args refined",
    "axioms.sensitivity_b": "method f x baseline feature args refined",
    "axioms.implementation_invariance": "method f g x baseline args refined",
    "axioms.linearity": "method f g x baseline a b args refined",
    "axioms.symmetry": "method f x baseline i j args refined",
    "axioms.input_invariance": ("method f shifted x baseline shift shifted_baseline args refined"),
    "axioms.affine_scale_invariance": "method f x baseline scale shift args refined",
    "axioms.zero_at_baseline": "method f x args refined",
    "axioms.conservation": "method f x layers args refined",
    "axioms.positivity": "method f x baseline args refined",
    "axioms.proportionality": "method f x baseline args refined",
    "axioms.time_reparametrization": "method f path warp args refined",
    "testing.assert_linearity": "method f g x baseline a b args refined",
    "testing.assert_axioms": "method claims max_examples refined seed progress",
    "testing.falsify": "axiom method max_examples refined seed",
    "paths.straight_line": "baseline x",
    "paths.aumann_shapley": "x",
    "paths.monotone": "baseline x exponents",
    "paths.polyline": "points",
    "paths.coordinatewise": "baseline x order",
    "paths.reparametrize": "path warp",
    "paths.reverse": "path",
    "paths.concatenate": "paths",
    "quadrature.riemann_left": "n",
    "quadrature.riemann_right": "n",
    "quadrature.midpoint": "n",
    "quadrature.trapezoid": "n",
    "quadrature.gauss_legendre": "n",
    "quadrature.concentrated": "f path n probes args",
    "targets.logit": "model",
    "targets.probability": "model",
    "targets.log_probability": "model",
    "targets.log_odds": "model",
}


@pytest.mark.parametrize("name", OTHERS)
def test_arguments_of_paths_quadratures_and_targets(name):
    module, function = name.split(".")
    assert [*inspect.signature(getattr(getattr(xattr, module), function)).parameters] == OTHERS[
        name
    ].split()


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    parameters = inspect.signature(getattr(xattr, name)).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    first, _, last = SIGNATURES[name].partition("*")
    assert positional == first.split()
    # Options beside the promised ones say how the work is done, not what comes out.
    assert [o for o in options if o in last.split()] == last.split()
    assert set(options) - set(last.split()) <= {*WORK, "bias"}


NUMBERS = ("epsilon", "gamma", "alpha", "beta")  # of a rule: its only arguments


@pytest.mark.parametrize("function", PUBLIC)
def test_arguments(function):
    parameters = inspect.signature(function).parameters
    assert "rng" not in parameters
    for parameter in parameters.values():
        assert parameter.annotation is not parameter.empty
        optional = parameter.default is not parameter.empty
        if optional and parameter.name not in ("baseline", "composite", *NUMBERS):
            assert parameter.kind is parameter.KEYWORD_ONLY
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty


def test_no_module_has_the_name_of_a_function():
    modules = {path.stem for path in Path(xattr.__file__).parent.glob("*.py")}
    assert not modules & set(EXPECTED["xattr"].split())
