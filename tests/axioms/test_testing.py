"""The strategies draw what they promise; what is broken is caught, and shown so that it pastes."""

import functools
import os
import re
import subprocess
import sys

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

import xattr
from xattr import axioms, testing
from xattr.testing import functions, options, registry

SPECIMENS = registry.specimens()
pytestmark = pytest.mark.usefixtures("x64")
IG = xattr.integrated_gradients


# --- premises: what an axiom presupposes holds for all that is drawn -----------------------------


@functools.cache
def value_of(name, which):
    function = SPECIMENS[name].functions[which]
    return jax.jit(lambda *operands: function(*operands))


def value(p, x, which=0):
    return float(value_of(p.name, which)(x, *p.args))


PREMISES = settings(max_examples=60)


@PREMISES
@given(testing.dummy_functions(), st.floats(-3, 3))
def test_dummies_do_not_matter(p, other):
    feature = p.options["feature"]
    assert abs(value(p, p.x) - value(p, p.x.at[feature].set(other))) < 1e-12


@PREMISES
@given(testing.symmetric_functions())
def test_symmetric_features_change_places(p):
    i, j = p.options["i"], p.options["j"]
    swapped = p.x.at[i].set(p.x[j]).at[j].set(p.x[i])
    assert abs(value(p, p.x) - value(p, swapped)) < 1e-12


@PREMISES
@given(testing.equivalent_pairs())
def test_pairs_are_equal(p):
    assert abs(value(p, p.x) - value(p, p.x, -1)) < 1e-12
    assert abs(value(p, p.baseline) - value(p, p.baseline, -1)) < 1e-12


def test_pairs_are_not_the_same_program():
    for name in testing.AXIOMS["implementation_invariance"].functions:
        p = testing.problem(name)
        one, other = (str(jax.make_jaxpr(f)(p.x, *p.args)) for f in (p.f, p.g))
        assert one != other


@PREMISES
@given(testing.shifted_pairs())
def test_shifts_are_undone(p):
    m = p.options["shift"]
    shifted = value_of(p.name, -1)(p.x + m, m, *p.args)
    assert abs(value(p, p.x) - float(shifted)) < 1e-12


@PREMISES
@given(testing.problems("positivity"), st.floats(0, 1), st.integers(0, 3))
def test_rising_functions_rise(p, part, feature):
    assert (p.x >= p.baseline).all()
    between = p.baseline + part * (p.x - p.baseline)
    further = between.at[feature % p.x.size].add(0.5)
    assert value(p, further) >= value(p, between) - 1e-12


@PREMISES
@given(testing.problems("proportionality"))
def test_functions_of_the_sum_depend_on_nothing_else(p):
    moved = jnp.zeros_like(p.x).at[0].set(p.x.sum())
    assert abs(value(p, p.x) - value(p, moved)) < 1e-11


def test_two_functions_of_linearity_differ():
    for name in testing.AXIOMS["linearity"].functions:
        p = testing.problem(name, x=1.5 + np.arange(SPECIMENS[name].shape[0]))
        assert abs(value(p, p.x) - value(p, p.x, 1)) > 1e-3


@PREMISES
@given(testing.networks())
def test_networks_have_a_hidden_layer(p):
    assert p.name in {f"{k}-{a}" for k in KINDS for a in ACTIVATIONS}
    assert p.options["layers"] == ("hidden",)
    assert np.isfinite(value(p, p.x))


KINDS = ("dense", "conv", "residual", "attention")
ACTIVATIONS = ("relu", "gelu", "softplus", "tanh")


@pytest.mark.parametrize("name", SPECIMENS)
def test_every_specimen_is_of_its_parameters_and_differentiable(name):
    one, other = (testing.problem(name, seed=seed) for seed in (0, 1))
    assert any(name in axiom.functions for axiom in testing.AXIOMS.values())
    assert one.x.shape == SPECIMENS[name].shape
    if one.args:
        assert value(one, one.x) != value(other, other.x)
    gradient = jax.jit(jax.grad(lambda x: one.f(x, *one.args)))(one.x * 1.3 + 0.05)
    assert jnp.isfinite(gradient).all()
    if "layers" in one.options:
        to_layer, from_layer = xattr.at_layer(one.f, "hidden")
        h = jax.jit(to_layer)(one.x, *one.args)
        np.testing.assert_allclose(
            float(jax.jit(from_layer)(h, one.x, *one.args)), value(one, one.x), rtol=1e-12
        )


@settings(max_examples=200)
@given(st.data(), st.sampled_from([(), (3,), (2, 2)]))
def test_inputs(data, shape):
    x, baseline = data.draw(testing.inputs(shape))
    assert x.shape == baseline.shape == shape
    assert x.dtype == baseline.dtype == jnp.float64
    assert (jnp.abs(x) <= 3.5).all()
    assert (jnp.abs(2 * x - jnp.round(2 * x)) > 0.1).all()  # off the kinks of the papers


def test_inputs_have_ties_and_no_ties():
    tied = lambda drawn: bool((drawn[0] == drawn[1]).all())
    mixed = lambda drawn: 0 < int((drawn[0] == drawn[1]).sum()) < 4
    find = functools.partial(hypothesis.find, testing.inputs((4,)))
    x, baseline = find(tied)
    assert (x == baseline).all()
    find(mixed)


@given(st.data())
def test_paths_go_from_the_baseline_to_the_input(data):
    baseline, x = jnp.array([1.0, -2.0, 0.0]), jnp.array([0.5, 3.0, 0.0])
    path = data.draw(testing.paths(baseline=baseline, x=x))
    np.testing.assert_allclose(path(0.0), baseline, atol=1e-12)
    np.testing.assert_allclose(path(1.0), x, atol=1e-12)


@given(testing.quadratures(8))
def test_quadratures_integrate_constants_and_compile_once(rule):
    assert rule.nodes.shape == rule.weights.shape == (8,)
    np.testing.assert_allclose(rule.weights.sum(), 1)


def test_nothing_is_compiled_for_another_example():
    run = lambda seed: testing.problem("dense-tanh", seed=seed).gap("completeness", IG)
    run(0)
    with testing.count_compilations() as counts:
        for seed in range(1, 5):
            run(seed)
    assert not counts


# --- problems are what they are printed as -------------------------------------------------------


@settings(max_examples=100)
@given(st.data(), st.sampled_from(list(testing.AXIOMS)))
def test_a_problem_is_what_it_is_printed_as(data, axiom):
    p = data.draw(testing.problems(axiom))
    again = eval(repr(p), {"xattr": xattr})
    assert repr(again) == repr(p)
    assert (again.x == p.x).all()
    assert (again.baseline == p.baseline).all()
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again.args, p.args))
    assert set(again.options) == set(p.options)


# --- what is broken is found ---------------------------------------------------------------------


def half(f, x, baseline, *, args):
    return IG(f, x, baseline, args=args) / 2


def no_difference(f, x, baseline, *, args):
    """Integrated gradients without the factor (x − x')."""
    return IG(f, x, baseline, args=args) / jnp.where(x == baseline, 1, x - baseline)


def first_only(f, x, *, args):
    grads = xattr.gradient(f, x, args=args)
    return grads.ravel().at[1:].add(0.1 * grads.ravel()[:-1]).reshape(grads.shape)


def squared(f, x, *, args):
    return xattr.gradient(f, x, args=args) ** 2


def sees_program(f, x, *, args):
    return x * len(jax.make_jaxpr(f)(x, *args).eqns)


def no_velocity(f, path, *, args):
    nodes, weights = xattr.quadrature.gauss_legendre(8)
    points = jax.vmap(path)(jnp.asarray(nodes))
    grads = jax.vmap(lambda x: jax.grad(f)(x, *args))(points)
    return jnp.tensordot(jnp.asarray(weights), grads, 1)


def shows_input(f, x, *, args):
    return x


BROKEN = {
    "completeness": half,
    "sensitivity_a": xattr.gradient,
    "sensitivity_b": shows_input,
    "implementation_invariance": sees_program,
    "linearity": squared,
    "symmetry": first_only,
    "input_invariance": xattr.gradient_x_input,
    "affine_scale_invariance": no_difference,
    "zero_at_baseline": lambda f, x, baseline, *, args: xattr.gradient(f, x, args=args),
    "conservation": half,
    "positivity": lambda f, x, *, args: -xattr.gradient(f, x, args=args),
    "proportionality": no_difference,
    "time_reparametrization": no_velocity,
}


@pytest.mark.parametrize("axiom", testing.AXIOMS)
def test_what_is_broken_is_found(axiom):
    verdict = testing.falsify(axiom, BROKEN[axiom], max_examples=60)
    assert verdict.holds is False
    assert not verdict.gap.holds
    assert 1 <= verdict.examples <= 60
    pasted = eval(repr(verdict.counterexample), {"xattr": xattr})
    assert float(pasted.gap(axiom, BROKEN[axiom])) == float(verdict.gap)
    assertion = getattr(testing, f"assert_{axiom}")
    with pytest.raises(AssertionError, match=axiom):
        assertion(BROKEN[axiom], verdict.counterexample)


@pytest.mark.parametrize(
    ("axiom", "method", "name", "x"),
    [
        ("sensitivity_a", xattr.gradient, "saturated", [2.0]),
        ("implementation_invariance", xattr.deep_lift, "figure-7", [3.0, 1.0]),
        ("sensitivity_b", xattr.deep_lift, "nothing", [3.0, 1.0, 1.0]),
    ],
)
def test_counterexamples_are_those_of_the_papers(axiom, method, name, x):
    verdict = testing.falsify(axiom, method, max_examples=100)
    p = verdict.counterexample
    assert (p.name, p.x.tolist(), p.baseline.tolist()) == (name, x, [0.0] * len(x))


def test_counterexamples_keep_the_premise():
    """Of functions that rise from the baseline to x: also after x or baseline were simplified."""
    lrp = functools.partial(xattr.lrp, composite=xattr.composites.every_layer(xattr.rules.zero()))
    for seed in range(3):
        p = testing.falsify("positivity", lrp, max_examples=60, seed=seed).counterexample
        assert (p.x >= p.baseline).all()


def test_assertion_takes_what_the_axiom_takes():
    f, x = functions.figure_7f, jnp.array([3.0, 1.0])
    testing.assert_completeness(IG, f, x, refined=[IG, functools.partial(IG, quadrature=None)][:1])
    with pytest.raises(AssertionError, match=r"completeness is missed by 1, of which"):
        testing.assert_completeness(xattr.gradient_x_input, f, x)


def test_all_claims_are_tried_and_the_missed_ones_told(capsys):
    claims = {"completeness", "linearity", "sensitivity_b"}
    steps = []
    progress = lambda loop: (steps.append(step) or step for step in loop)
    verdicts = testing.assert_axioms(IG, claims, max_examples=20, progress=progress)
    assert steps == [0, 1, 2]
    assert list(verdicts) == ["completeness", "sensitivity_b", "linearity"]
    assert all(verdict.holds and verdict.examples == 20 for verdict in verdicts.values())
    with pytest.raises(AssertionError) as caught:
        testing.assert_axioms(half, claims, max_examples=20)
    text = str(caught.value)
    assert text.startswith("half does not keep completeness: gap ")
    assert "linearity" not in text
    (paste,) = (line for line in text.splitlines() if line.strip().startswith("p = "))
    p = eval(paste.split("= ", 1)[1], {"xattr": xattr})
    assert not p.gap("completeness", half).holds


def test_the_lines_of_a_counterexample_run_when_pasted():
    with pytest.raises(AssertionError) as caught:
        testing.assert_axioms(xattr.gradient, {"completeness"}, max_examples=5)
    lines = [line[4:] for line in str(caught.value).splitlines() if line.startswith("    ")]
    shown = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True
    )
    assert "Gap(value=Array(1., dtype=float64)" in shown.stdout


def test_same_seed_same_problems():
    run = lambda seed: testing.falsify("linearity", squared, max_examples=30, seed=seed)
    assert repr(run(1).counterexample) == repr(run(1).counterexample)
    assert run(1).examples == run(1).examples


def test_what_has_no_rule_is_counted_and_what_has_no_baseline_is_not_tried():
    verdict = testing.falsify("input_invariance", xattr.guided_backprop, max_examples=30)
    assert verdict.holds
    assert verdict.uncovered + verdict.examples == 30
    assert verdict.uncovered
    assert testing.falsify("zero_at_baseline", xattr.gradient).holds is None
    with pytest.raises(ValueError, match="`claims` has zero_at_baseline, which cannot be tried"):
        testing.assert_axioms(xattr.gradient, {"zero_at_baseline"})


def test_an_error_of_the_method_names_the_problem():
    def method(f, x, *, args):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine") as caught:
        testing.falsify("completeness", method)
    assert any("xattr.testing.problem(" in note for note in caught.value.__notes__)


BAD = {
    "axiom": (lambda: testing.falsify("completness", IG), "there is no axiom 'completness'"),
    "claim": (lambda: testing.assert_axioms(IG, {"fast"}), "there is no axiom 'fast'"),
    "claims": (lambda: testing.assert_axioms(IG, "linearity"), "names of axioms"),
    "name": (lambda: testing.problem("cat"), "`name` is 'cat'; the specimens are"),
    "shape": (lambda: testing.problem("gated", x=[1.0]), "`x` has shape (1,)"),
    "nodes": (lambda: testing.quadratures(3), "`n` must be an even number"),
    "strategy": (lambda: testing.problems("cat"), "there is no axiom"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, words = BAD[case]
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


def test_without_hypothesis_the_message_says_what_to_install():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import xattr\n"
        "print(float(xattr.testing.problem('gated').gap('completeness', xattr.gradient)))\n"
        "try: xattr.testing.networks()\n"
        "except ImportError as error: print(error)\n"
        "try: xattr.testing.assert_axioms(xattr.gradient, {'linearity'})\n"
        "except ImportError as error: print(error)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, *rest = shown.stdout.splitlines()
    assert first == "1.0"  # (1, −1) against ReLU(3 − 1 − 1) − 0
    assert [line.endswith("pip install 'xattr-jax[test]'") for line in rest] == [True, True]


def test_every_axiom_has_its_assertion():
    for name in testing.AXIOMS:
        assertion = getattr(testing, f"assert_{name}")
        assert assertion.__name__ in testing.__all__
        assert getattr(axioms, name).__name__ == name


# --- a new axiom is a measure and an entry -------------------------------------------------------


def homogeneity(method, f, x, *, c, args=(), refined=None):
    """Measure how far the attributions of c f are from c times those of f."""
    scaled = method(lambda x, *args: c * f(x, *args), x, args=args)
    miss = jnp.abs(scaled - c * method(f, x, args=args)).sum()
    return axioms.Gap(miss, 1e-12 * (1 + jnp.abs(scaled).sum()))


@pytest.fixture
def entry(monkeypatch):
    entry = testing.Axiom(
        homogeneity,
        {"cube": functions.Specimen((lambda x: jnp.sum(x**3),), (2,), witness=(1.0, 2.0))},
        presupposes="a sum of cubes",
        options={"c": options.factor(3.0)},
    )
    monkeypatch.setitem(testing.AXIOMS, "homogeneity", entry)
    return entry


def test_a_new_axiom_is_drawn_falsified_and_asserted(entry):
    drawn = hypothesis.find(testing.problems("homogeneity"), lambda p: p.options["c"] > 1)
    assert drawn.name == "cube"
    assert drawn.options["c"] == 1.5
    kept = testing.falsify("homogeneity", xattr.gradient, max_examples=20)
    assert kept.holds
    assert kept.examples == 20
    missed = testing.falsify("homogeneity", squared, max_examples=20)
    # At the input of the paper, with its factor: (9 − 3) ((3 · 1)² + (3 · 4)²).
    assert repr(missed.counterexample).endswith("'cube', x=[1.0, 2.0], baseline=[0.0, 0.0], c=3.0)")
    assert float(missed.gap) == 6 * (9 + 144)
    assert float(eval(repr(missed.counterexample)).gap("homogeneity", squared)) == 918

    check = testing.assertion(entry)
    check(xattr.gradient, missed.counterexample)
    with pytest.raises(AssertionError, match=r"homogeneity is missed by 918.* on xattr\.testing"):
        check(squared, missed.counterexample)
    with pytest.raises(AssertionError, match=r"homogeneity is missed by 18, of which"):
        check(squared, lambda x: jnp.sum(x**3), jnp.ones(1), c=2.0)
    testing.assert_axioms(xattr.gradient, {"linearity", "homogeneity"}, max_examples=5)
    with pytest.raises(AssertionError, match="does not keep homogeneity: gap 918"):
        testing.assert_axioms(squared, {"homogeneity"}, max_examples=5)


def test_a_new_axiom_refuses_what_it_does_not_presuppose(entry):
    with pytest.raises(ValueError, match="what homogeneity presupposes, a sum of cubes: take one"):
        testing.problem("product", c=2.0).gap("homogeneity", xattr.gradient)
    with pytest.raises(ValueError, match=r"`claims` has homogeneity, .* method\(f, x, \.\.\.\)"):
        testing.assert_axioms(xattr.path_integral, {"homogeneity"})


@pytest.mark.parametrize("axiom", testing.AXIOMS)
def test_the_example_of_an_axiom_keeps_it(axiom):
    """On the simplest problem, as the docstring of its assertion says."""
    p = hypothesis.find(testing.problems(axiom), lambda p: True)
    assert p.gap(axiom, getattr(xattr, testing.AXIOMS[axiom].example)).holds
    assert f"assert_{axiom}(xattr." in getattr(testing, f"assert_{axiom}").__doc__


# --- traps for a first user ----------------------------------------------------------------------


def test_a_gap_is_no_truth_value():
    with pytest.raises(TypeError, match=r"write gap\.holds"):
        assert axioms.completeness(IG, functions.figure_7f, jnp.array([3.0, 1.0]))


def test_parameters_made_inside_a_trace_are_no_tracers():
    p = testing.problem("dense-relu")
    inside = jax.jit(lambda x: p.f(x, *p.args))(p.x)
    np.testing.assert_allclose(float(inside), float(p.f(p.x, *p.args)))


def test_hypothesis_prints_what_can_be_pasted():
    @settings(database=None)
    @given(testing.networks())
    def fails(p):
        raise AssertionError

    with pytest.raises(AssertionError) as caught:
        fails()
    assert any("=xattr.testing.problem('" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("axiom", ["linearity", "input_invariance", "affine_scale_invariance"])
def test_a_compiled_method_of_ones_own_is_not_compiled_again(axiom):
    traced = []

    @functools.partial(jax.jit, static_argnames="f")
    def own(f, x, *, args):
        traced.append(f)
        return jax.grad(f)(x, *args)

    name = {"linearity": "relu-tanh", "input_invariance": "shifted-tanh"}.get(axiom, "dense-tanh")
    options = {"a": 2.0, "b": 3.0} if axiom == "linearity" else {"shift": 1.0}
    options |= {"scale": 2.0} if axiom == "affine_scale_invariance" else {}
    for seed in range(4):
        testing.problem(name, seed=seed, **options).gap(axiom, own)
    assert len(traced) == (3 if axiom == "linearity" else 2)


def test_problem_checks_what_it_is_given():
    p = testing.problem
    for wrong in ({"featur": 0}, {"path": "foo"}, {"warp": "foo"}):
        with pytest.raises(ValueError, match="the options are a, b, feature, i, j, layers, path"):
            p("gated", **wrong)
    with pytest.raises(
        ValueError, match="does not keep what implementation_invariance presupposes"
    ):
        p("product").gap("implementation_invariance", IG)
    assert repr(p("first-square", feature=0)).endswith("feature=0)")
    assert "feature" not in repr(p("first-square"))
    assert p("gated", x=jnp.arange(2)).x.dtype == jnp.float64


def test_options_of_a_gap_come_before_those_of_the_problem():
    p = testing.problem("shifted-linear", shift=[1.0, 2.0], baseline=[0.5, 0.5])
    moved = p.gap("input_invariance", IG, shifted_baseline=p.baseline + p.options["shift"])
    assert moved.holds
    assert not p.gap("input_invariance", IG).holds
    testing.assert_sensitivity_a(IG, testing.problem("dense-tanh"), feature=2)


def test_a_traced_feature_that_is_not_there_is_no_feature():
    measure = lambda i: axioms.sensitivity_b(shows_input, functions.gated, jnp.ones(2), feature=i)
    values = jax.vmap(measure)(jnp.arange(3)).value
    np.testing.assert_array_equal(values, [1, 1, np.nan])


def test_the_papers_failures_are_found_with_any_seed():
    for seed in range(3):
        verdict = testing.falsify(
            "sensitivity_a", xattr.gradient_x_input, max_examples=10, seed=seed
        )
        assert verdict.counterexample.name == "saturated"


UNFIT = {
    "nothing": (lambda f, x, *, args: None, TypeError, "returned []"),
    "whole numbers": (lambda f, x, *, args: jnp.ones(3, int), TypeError, "floating attributions"),
    "no args": (lambda f, x: x, TypeError, "write def method(f, x, *, args=())"),
    "no function": ("IG", TypeError, "`method` must be a function"),
    "for paths": (xattr.path_integral, ValueError, "which cannot be tried"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_methods_are_told_why(kind):
    method, error, words = UNFIT[kind]
    with pytest.raises(error, match=re.escape(words)):
        testing.assert_axioms(method, {"completeness"}, max_examples=30)


def test_a_method_with_hidden_randomness_is_told_to_bind_its_key():
    calls = []

    def method(f, x, *, args):
        calls.append(x)
        return xattr.gradient(f, x, args=args) * (0 if len(calls) == 40 else 1)

    with pytest.raises(ValueError, match="bind its random key"):
        testing.falsify("input_invariance", method, max_examples=60)


def test_the_callers_modules_change_nothing(tmp_path):
    """Hypothesis mixes constants of local modules into whole numbers and texts: not into ours."""
    code = (
        "import sys, xattr\n"
        "sys.path.insert(0, '.')\n"
        "if len(sys.argv) > 1: import constants\n"
        "seen = []\n"
        "keep = lambda f, x, *, args: seen.append((str(x), str(args))) or x * 0\n"
        "xattr.testing.falsify('sensitivity_b', keep, max_examples=15)\n"
        "print(len(seen), hash(str(seen)))\n"
    )
    (tmp_path / "constants.py").write_text("N = [12345, 77, 451, 3, 2, 999, -5, 6]\n")
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, *extra],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        ).stdout
        for extra in ([], ["with"])
    ]
    assert runs[0] == runs[1]
    assert int(runs[0].split()[0]) >= 15


def test_assertions_take_operands_by_name():
    with pytest.raises(AssertionError, match="completeness is missed by 1"):
        testing.assert_completeness(xattr.gradient_x_input, f=lambda x: x[0] * x[1], x=jnp.ones(2))


@pytest.mark.parametrize("count", [0, -1, 2.5])
def test_number_of_examples(count):
    with pytest.raises(ValueError, match="`max_examples` must be a whole number"):
        testing.falsify("completeness", IG, max_examples=count)


@pytest.mark.parametrize("axiom", ["completeness", "implementation_invariance", "positivity"])
def test_rules_of_equal_steps_of_ones_own_raise_no_alarm(axiom):
    """Their nodes lie on kinks of the papers' functions for baselines of whole and half steps."""

    @functools.partial(jax.jit, static_argnames=("f", "n"))
    def mean_gradient(f, x, baseline, args, n):
        alphas = jnp.linspace(0, 1, n + 1)
        point = lambda alpha: baseline + alpha * (x - baseline)
        return jax.vmap(lambda alpha: jax.grad(f)(point(alpha), *args))(alphas).mean(0)

    def own(f, x, baseline, *, args=(), n=50):
        return (x - baseline) * mean_gradient(f, x, baseline, args, n)

    finer = [functools.partial(own, n=n) for n in (83, 120, 171)]
    refined = finer if axiom == "completeness" else None
    examples = 12 if refined else 60  # a program for each number of nodes
    assert testing.falsify(axiom, own, max_examples=examples, refined=refined).holds


def test_claims_and_refinements_of_the_wrong_kind():
    for claims in (set(), IG):
        with pytest.raises(ValueError, match="`claims` must be names of axioms"):
            testing.assert_axioms(IG, claims)
    with pytest.raises(TypeError, match=r"pass \[refined\]"):
        testing.falsify("completeness", IG, refined=IG)
    with pytest.raises(ValueError, match="time_reparametrization, which cannot be tried"):
        testing.assert_axioms(IG, testing.AXIOMS, max_examples=1)
