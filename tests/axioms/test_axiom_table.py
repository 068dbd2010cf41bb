"""The table of methods and axioms, entry by entry: the committed one, and tried anew.

`+` holds, `-` fails, `.` not applicable, in the order of `xattr.testing.AXIOMS`: completeness,
sensitivity (a), sensitivity (b), implementation invariance, linearity, symmetry, input invariance,
affine scale invariance, zero at the baseline, conservation, positivity, proportionality, time
reparametrization.
"""

import functools
import inspect
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import paper_repro
import xattr
from paper_repro.experiments import axiom_rows, axioms
from paper_repro.experiments.axiom_rows import ROWS
from tests import table
from xattr import composites, paths, quadrature, rules
from xattr.testing import AXIOMS, functions, problem
from xattr.types import Array, ArrayTree, UncoveredPrimitiveError

GRID = {
    "gradient": "--+++++-.-+-.",
    "gradient_x_input": "--++++--.---.",
    "interior_gradients, α = ½": "--++++----+-.",
    "integrated_gradients": "++++++-++-+++",
    "integrated_gradients, moving baseline": "......+......",
    "integrated_gradients, exact_quadrature": "++++++-++-++.",
    "integrate_to_tolerance": "++++-+-++-+++",
    "aumann_shapley": "++++++--.-+++",
    "path_integral, powers": "+++++--++-+-+",
    "path_integral, coordinates": "+++++--++-+-+",
    "path_integral, detour": "+++++---+---+",
    "path_integral, bent": "+++++--++-+-+",
    "path_integral, serial": "++++++--+-+-+",
    "path_integral, depends on its ends": "++++++--+-+-+",
    "expected_gradients, 1 baseline": "++++++-++-++.",
    "expected_gradients, 3 baselines": "-+++++------.",
    "smooth_grad": "--+++---.-+-.",
    "smooth_grad, integrated_gradients": "-++++-------.",
    "smooth_grad_squared": "--++----.-+-.",
    "var_grad": "--++----.-+-.",
    "guided_backprop": "------+-.---.",
    "deconvnet": "------+-.-+-.",
    "lrp, zero": "----+--+.---.",
    "lrp, zero, bias included": "--++++--.---.",
    "lrp, epsilon": "-------+.---.",
    "lrp, gamma": "----+--+.---.",
    "lrp, z_plus": "-------+.---.",
    "lrp, alpha2_beta1": "-------+.---.",
    "lrp, epsilon_plus_flat": "------++.---.",
    "deep_taylor": "------++.---.",
    "deep_lift, rescale": "++--+--++-++.",
    "deep_lift, reveal_cancel": "++--+--++-+-.",
    "pattern_net, relu": "--------.---.",
    "pattern_attribution, relu": "--+-----.---.",
    "pattern_attribution, linear": "-+++----.-+-.",
    "pattern_attribution, kept patterns": "......+......",
    "grad_cam": "--.....+.-...",
    "guided_grad_cam": "--.....-.-...",
    "layer_integrated_gradients": "+.......+....",
    "conductance": "+.......+....",
    "internal_influence": "-.......-....",
    "layer_gradient": ".............",
    "competitive_gradient_x_input": ".............",
    "edge_detector": "---+----.-+-.",
    "guided_integrated_gradients": "++++-+--+-++.",
    "integrated_directional_gradients": "-++--+--+-+-.",
    "occlusion, windows of 2": "-+-++--++-+-.",
    "shapley_sampling": "+++++--++-+-.",
    "kernel_shap": "++++++-++-+-.",
    "lime": "-+-+++-++---.",
    "ablation": "-+++++-++-+-.",
    "banzhaf_values": "-+++++-++-+-.",
    "shapley_values": "++++++-++-+-.",
    "shapley_interactions": ".............",
    "integrated_hessians": ".............",
    "expected_hessians": ".............",
    "rise": ".............",
    "meaningful_perturbation": ".............",
}
EXAMPLES = 1
"""Problems on which an entry that holds is tried anew; the committed table has the full number."""
SLOW = ("integrate_to", "pattern_", "lrp", "deep_", "smooth_grad", "expected_gradients", "guided_")
"""Rows that share no compiled program with others: these are tried on one."""

COMMITTED = json.loads(
    (Path(paper_repro.__file__).with_name("results") / "axioms.json").read_text()
)["numbers"]


def test_the_committed_table_is_the_expected_one():
    told = "a new method or axiom has no results yet: run python -m paper_repro axioms"
    assert COMMITTED["axioms"] == list(AXIOMS), told
    assert list(COMMITTED["grid"]) == list(ROWS), told
    assert {name: COMMITTED["grid"][name] for name in GRID} == GRID
    for name, symbols in COMMITTED["grid"].items():
        entries = COMMITTED["entries"][name]
        assert "".join(entries[axiom]["symbol"] for axiom in AXIOMS) == symbols


def test_every_method_of_the_library_has_a_row():
    no_methods = {
        *table.OUTSIDE, "at_layer", "baseline_sensitivity", "completeness_gap", "exact_quadrature",
        "fit_patterns", "integrate", "relevance_report", "sample", "with_rules",
    }  # fmt: skip
    named = {name.split(",")[0] for name in ROWS}
    functions = {name for name in xattr.__all__ if inspect.isfunction(getattr(xattr, name))}
    assert functions - no_methods == named


def test_a_new_method_gets_its_row_from_its_signature(monkeypatch):
    def doubled(f, x, *, quadrature=None, args=()) -> ArrayTree:
        return 2 * xattr.gradient(f, x, args=args)

    def of_layer(f, x, *, layer, args=()) -> Array:
        raise AssertionError("is not called")

    def report(f, x, *, args=()) -> str:
        return ""

    for method in (doubled, of_layer, report):
        monkeypatch.setattr(xattr, method.__name__, method, raising=False)
    monkeypatch.setattr(xattr, "__all__", [*xattr.__all__, "doubled", "of_layer", "report"])
    rows = axiom_rows.rows()
    assert list(rows) == [*ROWS, "doubled", "of_layer"]
    assert rows["doubled"] == axiom_rows.Row(doubled, None)
    assert set(rows["of_layer"].silent) == set(AXIOMS)
    found = axiom_rows.gap_of(rows["doubled"], "completeness", problem("product"))
    assert float(found) == 2 + 2 - 1


@functools.cache
def drawn(axiom):
    return axioms.drawn_problems(axiom, EXAMPLES, 0)


def reason(name, axiom):
    """Tell why nothing can be said, from what a row is."""
    row = ROWS[name]
    if axiom in row.silent:
        return row.silent[axiom]
    if axiom == "zero_at_baseline":
        with pytest.raises(ValueError, match="takes no baseline"):
            xattr.axioms.zero_at_baseline(row.method, functions.squares, jnp.ones(2))
        return "no baseline"
    methods = AXIOMS[axiom].methods
    return "" if axiom in row.measured or methods.have(row.method) else methods.otherwise


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", COMMITTED["grid"])
def test_entries(name):
    for axiom, symbol in zip(AXIOMS, COMMITTED["grid"][name], strict=True):
        entry = COMMITTED["entries"][name][axiom]
        if symbol == ".":
            assert reason(name, axiom), axiom
        if symbol == "-":
            gap = axiom_rows.gap(name, axiom, problem(**entry["counterexample"]))
            assert not gap.holds, axiom
            assert float(gap) == pytest.approx(entry["gap"], rel=1e-3), axiom
        if symbol == "+":
            assert entry["examples"] > 0
            assert entry["gap"] <= entry["tolerance"]
            for each in drawn(axiom)[: 1 if name.startswith(SLOW) else EXAMPLES]:
                try:
                    gap = axiom_rows.gap(name, axiom, each)
                except UncoveredPrimitiveError:
                    assert entry["uncovered"] > 0, axiom
                    continue
                assert gap.holds, (axiom, each, gap)


def test_a_wrong_entry_is_found():
    """The check of entries is no formality: the gradient's counterexample is none for IG."""
    with axioms.jax.enable_x64(True):
        found = problem(**COMMITTED["entries"]["gradient"]["sensitivity_a"]["counterexample"])
        assert not axiom_rows.gap("gradient", "sensitivity_a", found).holds
        assert axiom_rows.gap("integrated_gradients", "sensitivity_a", found).holds


# What theory says, with its numbers -------------------------------------------------------------

Z_RULE = functools.partial(xattr.lrp, composite=composites.every_layer(rules.zero()))


def exactly(actual, expected, tolerance=1e-9):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


@pytest.fixture
def at():
    with axioms.jax.enable_x64(True):
        yield lambda *values: jnp.array(values, jnp.float64)


def test_gradient_breaks_sensitivity(at):
    exactly(xattr.gradient(functions.saturated, at(2)), [0])
    p = problem("saturated", feature=0)
    assert float(axiom_rows.gap("gradient", "sensitivity_a", p)) == 1
    assert float(axiom_rows.gap("integrated_gradients", "sensitivity_a", p)) == 0


def test_lrp_without_a_baseline_breaks_sensitivity_too(at):
    """Against the text of the 2017 paper, §2.1, which has LRP keep it."""
    for name in ("lrp, zero", "lrp, zero, bias included", "lrp, epsilon"):
        p = problem("saturated", feature=0)
        assert float(axiom_rows.gap(name, "sensitivity_a", p)) == 1
    exactly(xattr.deep_lift(functions.saturated, at(2)), [1])


@pytest.mark.parametrize("method", [xattr.guided_backprop, xattr.deconvnet])
def test_backward_rectifiers_miss_a_feature(method, at):
    x = at(3, 1)
    exactly(method(functions.gated, x), [1, 0])
    exactly(xattr.gradient(functions.gated, x), [1, -1])
    gap = xattr.axioms.sensitivity_a(method, functions.gated, x, feature=1, refined=())
    assert float(gap) == 1


@pytest.mark.parametrize("method", [xattr.deep_lift, Z_RULE])
def test_discrete_gradients_break_implementation_invariance(method, at):
    exactly(method(functions.figure_7f, at(3, 1)), [1.5, -0.5])
    exactly(method(functions.figure_7g, at(3, 1)), [2, -1])
    exactly(method(functions.figure_14a, at(1, 1)), [1 / 6, 1 / 3])
    exactly(method(functions.figure_14b, at(1, 1)), [0.25, 0.25])


def test_backward_rectifiers_break_implementation_invariance(at):
    for method in (xattr.guided_backprop, xattr.deconvnet):
        exactly(method(functions.figure_14a, at(1, 1)), [1.25, 0.75])
        exactly(method(functions.figure_14b, at(1, 1)), [1, 1])


def test_a_feature_that_runs_ahead_gets_less(at):
    p = problem("clipped-product")
    along = functools.partial(axiom_rows.along, axiom_rows.bent)
    exactly(along(p.f, p.x, p.baseline), [0.05, 0.20], 1e-7)
    exactly(axiom_rows.IG(p.f, p.x, p.baseline), [0.125, 0.125], 1e-7)
    assert float(axiom_rows.gap("path_integral, bent", "symmetry", p)) == pytest.approx(0.15)


def test_paths_keep_all_but_symmetry():
    names = [name for name in GRID if name.startswith("path_integral")]
    for name in names:
        symbols = dict(zip(AXIOMS, GRID[name], strict=True))
        assert {symbols[axiom] for axiom in axioms.KEPT} == {"+"}
        keeps = "ends" in name or "serial" in name
        assert symbols["symmetry"] == ("+" if keeps else "-")


def test_a_path_that_depends_on_its_ends_keeps_symmetry(at):
    maps = axiom_rows.along(axiom_rows.own_pace, functions.product, at(1, 2), at(0, 0))
    exactly(maps, [0.8, 1.2])
    exactly(axiom_rows.IG(functions.product, at(1, 2), at(0, 0)), [1, 1])
    gap = axiom_rows.gap("path_integral, depends on its ends", "symmetry", problem("product"))
    assert gap.holds


def test_which_baselines_keep_input_invariance(at):
    """Of x₁ 3 + x₂ shifted by (−1, −1): (3, 2) becomes (0, 1) where the baseline stays."""
    f, shifted = lambda x: 3 * x[0] + x[1], lambda x, m: 3 * (x - m)[0] + (x - m)[1]
    x, shift = at(1, 2), at(-1, -1)
    invariance = functools.partial(
        xattr.axioms.input_invariance, f=f, shifted=shifted, x=x, shift=shift
    )
    assert float(invariance(xattr.gradient)) == 0
    assert float(invariance(xattr.gradient_x_input)) == 4
    ig = xattr.integrated_gradients
    assert float(invariance(ig)) == pytest.approx(4)
    assert invariance(ig, baseline=at(0, 0), shifted_baseline=shift).holds


def test_which_patterns_keep_input_invariance(at):
    """Kept ones, and linear ones of dense networks; those for ReLUs are moved by the shift."""
    place = list(AXIOMS).index("input_invariance")
    assert GRID["pattern_attribution, kept patterns"][place] == "+"
    p = problem("shifted-relu", seed=1, shift=[2.5, 1.0, 0.0, -1.5])
    gaps = {
        name: axiom_rows.gap(f"pattern_attribution, {name}", "input_invariance", p)
        for name in ("relu", "linear", "kept patterns")
    }
    assert float(gaps["relu"]) > 0.01
    assert gaps["linear"].holds
    assert gaps["kept patterns"].holds
    found = COMMITTED["entries"]["pattern_attribution, linear"]["input_invariance"]
    assert found["counterexample"]["name"] == "shifted-conv-relu"  # patches of all places


def test_fifty_nodes_in_float32_miss_a_kink():
    """ReLU(x − c): the nodes' weights beyond c are not 1 − c; to a tolerance they are."""
    f, x = lambda x, c: axioms.jax.nn.relu(x - c), jnp.float32(1)
    rule = quadrature.gauss_legendre(50)
    for c in (0.3, 0.7):
        fixed = xattr.integrated_gradients(f, x, quadrature=rule, args=(jnp.float32(c),))
        expected = float(np.sum(rule.weights[rule.nodes > c]))
        assert float(fixed) == pytest.approx(expected, abs=1e-6)
        assert abs(float(fixed) - (1 - c)) > 0.01
        adaptive = xattr.integrate_to_tolerance(
            f, paths.straight_line(baseline=jnp.float32(0), x=x), rtol=1e-4, args=(jnp.float32(c),)
        )
        assert bool(adaptive.converged)
        assert float(adaptive.attributions) == pytest.approx(1 - c, abs=1e-4)
    committed = COMMITTED["kinks"]
    for case in ("ReLU(x − c)", "dense-relu"):
        assert max(committed[case]["fixed"]) > 0.01
        assert max(committed[case]["adaptive"]) < 1e-3
