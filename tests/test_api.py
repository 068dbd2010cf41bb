"""The style guide as a test over every public function."""

import inspect
import types
from pathlib import Path

import pytest

import xattr

MODULES = ["paths", "quadrature", "targets", "plot", "testing", "rules", "composites"]
MODULES += ["sanity", "metrics", "attacks", "axioms", "evaluation", "groups", "tokens"]
NAMES = {
    "xattr": (
        "sample integrate path_integral gradient gradient_x_input integrated_gradients "
        "interior_gradients aumann_shapley expected_gradients smooth_grad smooth_grad_squared "
        "var_grad completeness_gap guided_backprop deconvnet lrp deep_taylor deep_lift "
        "fit_patterns pattern_net pattern_attribution grad_cam guided_grad_cam at_layer "
        "layer_gradient layer_integrated_gradients conductance internal_influence with_rules "
        "explain relevance_report competitive_gradient_x_input edge_detector "
        "integrated_hessians expected_hessians guided_integrated_gradients "
        "integrated_directional_gradients baseline_sensitivity "
        "integrate_to_tolerance exact_quadrature sharded attribute_dataset citation "
        "ablation occlusion shapley_values banzhaf_values shapley_sampling kernel_shap lime rise "
        "meaningful_perturbation shapley_interactions"
    ),
    "evaluation": (
        "perturbation_curve aopc insertion deletion infidelity faithfulness_correlation "
        "max_sensitivity average_sensitivity pointing_game relevance_mass relevance_rank "
        "sparseness complexity input_recovery random_logit smooth_mprt efficient_mprt "
        "neighbour_mean"
    ),
    "groups": "grid leaves",
    "tokens": "at_embedding baseline per_token every_output",
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
        "concatenate serial blur embedding_waypoints"
    ),
    "quadrature": (
        "riemann_left riemann_right midpoint trapezoid gauss_legendre composite concentrated"
    ),
    "targets": "logit probability log_probability log_odds",
    "plot": "heatmap overlay signed_channels panel text html matrix curve molecule molecule_svg",
    "axioms": (
        "completeness sensitivity_a sensitivity_b dummy implementation_invariance linearity "
        "symmetry input_invariance affine_scale_invariance zero_at_baseline conservation "
        "positivity proportionality time_reparametrization completeness_gap"
    ),
    "testing": (
        "networks symmetric_functions dummy_functions equivalent_pairs shifted_pairs paths "
        "quadratures inputs problems problem falsify assert_axioms assertion count_compilations "
        "assert_completeness assert_sensitivity_a assert_sensitivity_b assert_dummy "
        "assert_implementation_invariance assert_linearity assert_symmetry "
        "assert_input_invariance assert_affine_scale_invariance assert_zero_at_baseline "
        "assert_conservation assert_positivity assert_proportionality "
        "assert_time_reparametrization"
    ),
}
"""Every public function: the promise that no name is lost."""

OPERANDS = (
    "axiom ax axes image molecule method model f batches mesh claims maps words alphas scores "
    "attributions rows columns mask data samples g shifted path paths points quadrature warp "
    "params labels a b k m x removed pieces size label baseline baselines composite patterns "
    "perturbation target key layer n shape name low high alpha beta epsilon gamma rule operation "
    "height width predicates entries names"
)
"""The words for what is passed by position, in the one order in which they come."""

OPTIONS = (
    "a absolute alphas antithetic area args atol b band batch_axis bias bins cell channels "
    "chunk_size colorbar counts digits ends epsilon estimator exponent exponents feature fill "
    "fraction game gamma grid group groups i in_axes init insert iterations j jitter keep "
    "kernel_width layers learning_rate limit max_distance max_evaluations max_examples max_pieces "
    "max_sigma mean neighbors node_axis noise noise_scale normalize num_masks num_permutations "
    "num_samples num_steps numbers objective on_uncovered options order out padding pairs penalty "
    "percentile probability probes progress radius random_args reference refined relu rtol scale "
    "seed shift shifted_baseline similarity smoothness sparsity spatial_axes stages std step_size "
    "steps stride strides subset_size surrogate table title upsample variant warn_above where "
    "window"
)
"""The words for what is passed by keyword only, beside operands."""


def _public():
    for module in [xattr, *(getattr(xattr, name) for name in MODULES)]:
        names = getattr(module, "__all__", None) or [n for n in vars(module) if n[0] != "_"]
        for name in names:
            value = getattr(module, name)
            if isinstance(value, types.FunctionType) and value.__module__.startswith("xattr"):
                yield pytest.param(value, id=f"{module.__name__}.{name}")


PUBLIC = list(_public())


@pytest.mark.parametrize("module", NAMES)
def test_all_that_is_promised_is_there(module):
    owner = xattr if module == "xattr" else getattr(xattr, module)
    for name in NAMES[module].split():
        assert name in owner.__all__
        assert isinstance(getattr(owner, name), types.FunctionType)


def parameters_of(function, *kinds):
    return [p for p in inspect.signature(function).parameters.values() if p.kind.name in kinds]


@pytest.mark.parametrize("function", PUBLIC)
def test_operands_come_in_one_order(function):
    """`method(f, x, baseline, ...)`: who knows one function knows the order of all."""
    names = [p.name for p in parameters_of(function, "POSITIONAL_OR_KEYWORD", "VAR_POSITIONAL")]
    assert set(names) <= {*OPERANDS.split()}, (
        "an argument has a name of its own: add it where it belongs"
    )
    assert names == sorted(names, key=OPERANDS.split().index)


@pytest.mark.parametrize("function", PUBLIC)
def test_options_have_known_names(function):
    names = {p.name for p in parameters_of(function, "KEYWORD_ONLY", "VAR_KEYWORD")}
    assert names <= {*OPERANDS.split(), *OPTIONS.split()}, (
        "is there a word for it among those of other functions?"
    )


@pytest.mark.parametrize("function", PUBLIC)
def test_what_calls_f_takes_its_further_arguments(function):
    names = [*inspect.signature(function).parameters]
    calls = {"f", "x"} <= {*names} or {"f", "path"} <= {*names} or {"model", "x"} <= {*names}
    if not calls:
        return
    args = inspect.signature(function).parameters["args"]
    assert args.kind is args.KEYWORD_ONLY
    assert args.default == ()


def test_an_option_of_the_methods_has_one_type_and_one_default():
    """`chunk_size`, `args`, `quadrature`, … mean the same in all functions of `xattr` itself."""
    meanings = {}
    for name in NAMES["xattr"].split():
        for each in parameters_of(getattr(xattr, name), "KEYWORD_ONLY"):
            if each.default is not each.empty:
                meanings.setdefault(each.name, set()).add((str(each.annotation), each.default))
    assert {name: each for name, each in meanings.items() if len(each) > 1} == {}
    assert len(meanings) > 15


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


def test_the_readme_names_every_function():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    assert [name for name in NAMES["xattr"].split() if f"`{name}`" not in text] == []


def test_no_module_has_the_name_of_a_function():
    modules = {path.stem for path in Path(xattr.__file__).parent.glob("*.py")}
    assert not modules & set(NAMES["xattr"].split())
