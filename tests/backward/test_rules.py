"""LRP rules, guided backpropagation and DeConvNet against slow oracles and known answers."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import relu

import xattr
from tests import graphs, oracles
from xattr import composites, rules
from xattr.testing import functions

Z_RULE = composites.every_layer(rules.zero())
RULES = {
    "zero": (rules.zero(), oracles.zero()),
    "epsilon": (rules.epsilon(0.1), oracles.epsilon(0.1)),
    "gamma": (rules.gamma(0.25), oracles.gamma(0.25)),
    "alpha_beta": (rules.alpha_beta(2.0, 1.0), oracles.alpha_beta(2.0, 1.0)),
    "z_plus": (rules.z_plus(), oracles.z_plus()),
}
FIRST = {
    "flat": (rules.flat(), oracles.flat()),
    "w_square": (rules.w_square(), oracles.w_square()),
    "z_box": (rules.z_box(-3.0, 3.0), oracles.z_box(-3.0, 3.0)),
}


def same(ours, theirs, tolerance=1e-9):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


def quickly(function, *operands):
    """Run a large program once: compiled without optimization, which takes most of the time."""
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(function).lower(*operands).compile(compiler_options=options)(*operands)


def everything(f, x):
    """All attributions that have an oracle, in one program."""
    found = {
        "guided": xattr.guided_backprop(f, x, on_uncovered="gradient"),
        "deconv": xattr.deconvnet(f, x, on_uncovered="gradient"),
    }
    for name, (rule, _) in RULES.items():
        for bias in ("exclude", "include"):
            found[f"{name} {bias}"] = xattr.lrp(f, x, composites.every_layer(rule), bias=bias)
    for name, (rule, _) in FIRST.items():
        entries = (composites.first_layer, rule), (composites.kind("dense", "conv"), rules.z_plus())
        found[name] = xattr.lrp(f, x, composites.compose(*entries))
    return found


@pytest.mark.parametrize("structure", graphs.STRUCTURES)
def test_rules_against_oracles(structure, x64):
    graph = graphs.network(structure, seed=2)  # that of the other tests: compiled once
    x = jnp.asarray(graph.inputs(6))
    found = quickly(functools.partial(everything, graph.f), x)
    same(found["guided"], oracles.guided(graph, x))
    same(found["deconv"], oracles.deconv(graph, x))
    for name, (_, rule) in RULES.items():
        for bias in ("exclude", "include"):
            expected = oracles.lrp(graph, x, lambda node, rule=rule: rule, bias)
            same(found[f"{name} {bias}"], expected)
    for name, (_, rule) in FIRST.items():
        of = lambda node, rule=rule: rule if node.first else oracles.z_plus()
        same(found[name], oracles.lrp(graph, x, of, "exclude"))


KNOWN = {  # f, x, LRP-0, guided backpropagation, DeConvNet
    "figure 14 a": (functions.figure_14a, [1, 1], [1 / 6, 1 / 3], [1.25, 0.75], [1.25, 0.75]),
    "figure 14 b": (functions.figure_14b, [1, 1], [0.25, 0.25], [1, 1], [1, 1]),
    "figure 7 f": (functions.figure_7f, [3, 1], [1.5, -0.5], [1, 0], [1, 0]),
    "figure 7 g": (functions.figure_7g, [3, 1], [2, -1], [1, 0], [1, 0]),
    "saturated": (functions.saturated, [2], [0], [0], [0]),
    "gated": (functions.gated, [3, 1], [1.5, -0.5], [1, 0], [1, 0]),
    "product": (lambda x: x[0] * x[1] + x[2], [2, 3, 4], [3, 3, 4], [3, 2, 1], [3, 2, 1]),
    "gated off": (functions.gated, [3, 2], [0, 0], [0, 0], [1, 0]),
    "linear": (lambda x: x @ jnp.array([1.0, -1.0]), [2, 0.5], [2, -0.5], [1, -1], [1, -1]),
    "shifted": (
        lambda x: x @ jnp.array([1.0, -1.0]) + 0.7,
        [1, 0.2],
        [1.875, -0.375],
        [1, -1],
        [1, -1],
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name, x64):
    """What papers print, or what follows from their definitions by hand.

    Figure 14 is of "Gradients of Counterfactuals". Its numbers do not determine its networks: the
    two here are equal for x ≥ 0 and give all of them. Figure 7, "saturated" and "gated" are of
    "Axiomatic Attribution for Deep Networks". LRP is the z-rule without the bias in the
    denominator, and the signals start from 1. "shifted" is "linear" at x + m, m = (-1, -0.3), with
    the bias that undoes m: LRP changes.
    """
    f, x, relevance, guided, deconv = KNOWN[name]
    x = jnp.array(x, jnp.float64)
    np.testing.assert_allclose(xattr.lrp(f, x, Z_RULE), relevance, atol=1e-12)
    np.testing.assert_allclose(xattr.guided_backprop(f, x), guided, atol=1e-12)
    np.testing.assert_allclose(xattr.deconvnet(f, x), deconv, atol=1e-12)


def test_lrp_tells_equivalent_networks_apart(x64):
    """LRP breaks implementation invariance, guided backpropagation sensitivity."""
    x = jnp.array([3.0, 1.0])
    assert functions.figure_7f(x) == functions.figure_7g(x)
    gap = xattr.lrp(functions.figure_7f, x, Z_RULE) - xattr.lrp(functions.figure_7g, x, Z_RULE)
    assert np.abs(gap).max() == pytest.approx(0.5)
    assert functions.gated(x) != functions.gated(x.at[1].set(0.0))
    for method in (xattr.guided_backprop, xattr.deconvnet):
        assert method(functions.gated, x)[1] == 0  # though f depends on x₂


def test_z_rule_is_gradient_x_input_where_it_should_be(x64):
    graph = graphs.network("dense_no_bias", seed=3)
    x = jnp.asarray(graph.inputs(4))
    same(xattr.lrp(graph.f, x, Z_RULE), xattr.gradient_x_input(graph.f, x))
    graph = graphs.network("residual_dense", seed=3)
    x = jnp.asarray(graph.inputs(4))
    expected = xattr.gradient_x_input(graph.f, x)
    same(xattr.lrp(graph.f, x, Z_RULE, bias="include"), expected)
    assert np.abs(xattr.lrp(graph.f, x, Z_RULE) - expected).max() > 0.01


@pytest.mark.parametrize(
    ("offset", "include", "exclude"),
    [(1.0, (8 / 7, 0, 16 / 7), (4 / 3, 0, 8 / 3)), (-1.0, (2 / 3, 0, 4 / 3), (2 / 3, 0, 4 / 3))],
)
def test_z_plus_counts_the_positive_part_of_a_bias(offset, include, exclude, x64):
    """zennit's ZPlus: c⁺ / (Σ c⁺ + b⁺), c = (2, -3, 4), so f = 4 and 2; in dense and conv."""
    x, w = jnp.array([1.0, -1.5, 2.0]), jnp.array([2.0, 2.0, 2.0])
    image = lambda x: jax.lax.conv_general_dilated(
        *(x.reshape(1, 3, 1, 1), w.reshape(3, 1, 1, 1), (1, 1), "VALID"),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    dense = lambda x: jax.nn.relu(x @ w + offset)
    conv = lambda x: jnp.sum(image(x) + offset)
    for f, composite in (
        (dense, composites.every_layer(rules.z_plus())),
        (dense, composites.every_layer(rules.alpha_beta(1.0, 0.0))),
        (conv, composites.epsilon_plus()),
    ):
        same(xattr.lrp(f, x, composite, bias="include"), include)
        same(xattr.lrp(f, x, composite), exclude)


REPORTED = ("affine", "sum", "avgpool")


@pytest.mark.parametrize("rule", ["zero", "z_plus", "alpha_beta"])
@pytest.mark.parametrize("structure", ["conv_batchnorm", "residual_conv", "residual_dense"])
def test_report_against_oracle(structure, rule, x64):
    """What arrives, goes on and is absorbed, layer by layer; z and z⁺ without the bias conserve."""
    graph = graphs.network(structure, seed=2)
    x = jnp.asarray(graph.inputs(5))
    for bias in ("exclude", "include"):
        composite = composites.every_layer(RULES[rule][0])
        report = xattr.relevance_report(graph.f, x, composite, bias=bias)
        flows = oracles.lrp_flows(graph, x, lambda node: RULES[rule][1], bias)
        nodes = [node.index for node in graph.nodes if node.kind in REPORTED]
        received = [flows[i].received.sum() for i in nodes]
        sent = [sum(part.sum() for part in flows[i].sent) for i in nodes]
        np.testing.assert_allclose(report.arriving, received, atol=1e-9)
        np.testing.assert_allclose(report.passed_on, sent, atol=1e-9)
        np.testing.assert_allclose(report.absorbed, np.subtract(received, sent), atol=1e-9)
        if bias == "exclude" and rule == "zero":
            np.testing.assert_allclose(report.absorbed, 0, atol=1e-9)
        if bias == "include" and rule == "zero":
            assert np.abs(report.absorbed).max() > 1e-3
    assert str(report).splitlines()[0].split() == ["layer", "arriving", "passed", "on", "absorbed"]


def test_report_of_a_function_that_does_not_depend_on_x():
    report = xattr.relevance_report(lambda x: jnp.float32(3.0), jnp.ones(2))
    assert report.layers == ()
    assert report.arriving.shape == report.passed_on.shape == report.absorbed.shape == (0,)


def test_report_under_jit_and_vmap(x64):
    graph = graphs.network("dense", seed=0)
    xs = jnp.asarray(np.stack([graph.inputs(i) for i in range(3)]))
    one = functools.partial(xattr.relevance_report, graph.f)
    batch = jax.jit(jax.vmap(one))(xs)
    np.testing.assert_allclose(batch.passed_on[1], one(xs[1]).passed_on, rtol=1e-9)


def _normalized(x, w, b):
    """A network that brings pixels in [0, 1] into its own range first."""
    return jnp.sum(relu(((x * 255 - 127) / 128) @ w + b))


def test_normalization_of_the_input(x64):
    """Relevance passes through (255 x − 127) / 128 whole, also where x is 0; bounds go with it."""
    random = np.random.default_rng(0)
    w, b = random.standard_normal((4, 5)), random.standard_normal(5) * 0.1
    x = jnp.array([0.0, 0.3, 1.0, 0.0])
    scaled, low, high = (x * 255 - 127) / 128, -127 / 128, 1.0
    plain = lambda x: jnp.sum(relu(x @ w + b))
    for rule, inner in [
        (rules.flat(), rules.flat()),
        (rules.w_square(), rules.w_square()),
        (rules.zero(), rules.zero()),
        (rules.alpha_beta(2.0, 1.0), rules.alpha_beta(2.0, 1.0)),
        (rules.z_box(0.0, jnp.ones(4)), rules.z_box(low, high)),
    ]:
        ours = xattr.lrp(_normalized, x, composites.every_layer(rule), args=(w, b))
        same(ours, xattr.lrp(plain, scaled, composites.every_layer(inner)))
        assert ours[0] != 0
    negative = lambda x: plain((127 - x * 255) / 128)  # a negative factor swaps the bounds
    ours = xattr.lrp(negative, x, composites.every_layer(rules.z_box(0.0, 1.0)))
    same(ours, xattr.lrp(plain, -scaled, composites.every_layer(rules.z_box(-1.0, 127 / 128))))


def test_report_counts_what_reaches_zeros(x64):
    """The relevance of a normalized pixel that is 0 arrives and goes on like any other."""
    random = np.random.default_rng(0)
    w, b = random.standard_normal((4, 5)), random.standard_normal(5) * 0.1
    x = jnp.array([0.0, 0.3, 1.0, 0.0])
    composite = composites.every_layer(rules.flat())
    report = xattr.relevance_report(_normalized, x, composite, args=(w, b))
    total = xattr.lrp(_normalized, x, composite, args=(w, b)).sum()
    np.testing.assert_allclose(report.arriving[0], total, rtol=1e-12)  # the normalization
    np.testing.assert_allclose(report.absorbed, 0, atol=1e-12)


def test_flat_rule_reaches_inputs_that_are_zero():
    f = lambda x: jnp.sum(x @ jnp.array([[1.0, 2.0], [3.0, 4.0]]) + 1)
    x = jnp.array([0.0, 2.0])
    composite = composites.every_layer(rules.flat())
    np.testing.assert_allclose(xattr.lrp(f, x, composite), [8.0, 8.0])
    gradient = jax.grad(xattr.with_rules(f, composite))(x)
    np.testing.assert_allclose(gradient, [0.0, 4.0])  # R / x, which is lost where x is 0


@pytest.mark.parametrize("bias", ["exclude", "include"])
def test_with_rules_is_lrp_in_gradient_form(bias):
    f = lambda x: jnp.sum(x @ jnp.array([[1.0, 2.0], [3.0, 4.0]]) + 1)
    x, composite = jnp.array([1.0, 2.0]), composites.every_layer(rules.zero())
    gradient = jax.grad(xattr.with_rules(f, composite, bias=bias))(x)
    np.testing.assert_allclose(x * gradient, xattr.lrp(f, x, composite, bias=bias), rtol=1e-6)
    assert (abs(xattr.lrp(f, x, composite, bias=bias).sum() - f(x)) < 1e-5) == (bias == "exclude")


def test_deep_taylor_is_its_composite(x64):
    graph = graphs.network("conv", seed=0)
    x = jnp.asarray(graph.inputs(1))
    of = lambda first: lambda node: first if node.first else oracles.z_plus()
    expected = oracles.lrp(graph, x, of(oracles.w_square()), "exclude")
    same(xattr.deep_taylor(graph.f, x), expected)
    expected = oracles.lrp(graph, x, of(oracles.z_box(-3.0, 3.0)), "exclude")
    same(xattr.deep_taylor(graph.f, x, low=-3.0, high=3.0), expected)


def _named(x):
    with jax.named_scope("stem"):
        x = relu(x @ jnp.array([[1.0, -1.0], [2.0, 0.5]]))
    with jax.named_scope("head"):
        return x @ jnp.array([1.0, -3.0]) + 0.5


def _rules_of(composite, f=_named, x=(1.0, 2.0)):
    operations = xattr._backward.rewrite.traced(f, jnp.array(x), (), "relevance")[0].operations
    return [composite.rule_for(operation) for operation in operations if operation.is_layer]


def test_first_match_wins():
    a, b, c = rules.zero(), rules.gamma(1.0), rules.epsilon(1.0)
    assert _rules_of(composites.compose((composites.dense, a), (composites.first_layer, b))) == [
        a,
        a,
    ]
    assert _rules_of(composites.compose((composites.first_layer, b), (composites.dense, a))) == [
        b,
        a,
    ]
    assert _rules_of(composites.compose((composites.last_layer, c), (composites.dense, a))) == [
        a,
        c,
    ]
    assert _rules_of(composites.compose((composites.named("stem"), c), (composites.dense, a))) == [
        c,
        a,
    ]
    both = composites.both(composites.dense, composites.named("head"))
    assert _rules_of(composites.compose((both, c), (composites.dense, a))) == [a, c]
    assert composites.named("hea") is not composites.named("head")
    assert _rules_of(composites.compose((composites.named("hea"), c), (composites.dense, a))) == [
        a,
        a,
    ]


def _told(rule):
    return repr(rule), rule.bounds


ALPHA2 = rules.alpha_beta(2.0, 1.0)
ALPHA1 = rules.alpha_beta(1.0, 0.0)
BOX = (-3.0, 3.0)
PRESETS = {  # for a first convolution, for others, for dense layers
    "epsilon_plus": (rules.z_plus(), rules.z_plus(), rules.epsilon(1e-6)),
    "epsilon_plus_flat": (rules.flat(), rules.z_plus(), rules.epsilon(1e-6)),
    "epsilon_alpha2_beta1": (ALPHA2, ALPHA2, rules.epsilon(1e-6)),
    "epsilon_alpha2_beta1_flat": (rules.flat(), ALPHA2, rules.epsilon(1e-6)),
    "preset_a": (ALPHA1, ALPHA1, rules.epsilon(0.1)),
    "preset_a_flat": (rules.flat(), ALPHA1, rules.epsilon(0.1)),
    "preset_b": (ALPHA2, ALPHA2, rules.epsilon(0.1)),
    "preset_b_flat": (rules.flat(), ALPHA2, rules.epsilon(0.1)),
    "epsilon_gamma_box": (rules.z_box(*BOX), rules.gamma(0.25), rules.epsilon(1e-6)),
}


@pytest.mark.parametrize("name", PRESETS)
def test_composites(name):
    """Which rule goes where: first layer, those between, dense layers at the end.

    As in zennit. The presets are iNNvestigate's: A has α = 1, β = 0 in convolutions, B has α = 2,
    β = 1, and both have ε = 0.1 in dense layers.
    """
    composite = getattr(composites, name)(*(BOX if name == "epsilon_gamma_box" else ()))
    graph = graphs.network("residual_conv", 0, np.float32)
    found = _rules_of(composite, graph.f, np.asarray(graph.inputs(0), np.float32))
    first, others, dense = PRESETS[name]
    assert [*map(_told, found)] == [*map(_told, [first, *[others] * (len(found) - 2), dense])]


def test_the_sum_of_composites():
    """What all share comes last, or it would take the layers that the second has rules for."""
    flat = composites.compose((composites.first_layer, rules.flat()))
    found = flat + composites.epsilon_plus()
    assert repr(found) == repr(composites.epsilon_plus_flat())
    with pytest.raises(TypeError):
        _ = flat + rules.flat()


def _own_flat(call, g):
    """Return equal shares of the relevance g ⊙ y, by the layer with every weight 1."""
    weights = call.constants[0]
    relevance = g * call.output
    return rules.Direct((jnp.sum(relevance) / weights.shape[0] * jnp.ones(weights.shape[0]),))


def _own_z_box(call, g):
    """Return x w - l w⁺ - h w⁻, of a dense layer without a bias."""
    (x,), ((low,), (high,)), weights = call.inputs, call.bounds, call.constants[0]
    shares = x[:, None] * weights
    shares -= low[:, None] * jnp.maximum(weights, 0) + high[:, None] * jnp.minimum(weights, 0)
    return rules.Direct((shares / shares.sum(0, keepdims=True) @ (g * call.output),))


def _own_epsilon(call, g):
    (x,), weights = call.inputs, call.constants[0]
    z = x @ weights
    return [weights @ (g * call.output / (z + jnp.where(z >= 0, 0.1, -0.1)))]


OWN = {
    "flat": (_own_flat, rules.flat()),
    "z_box": (rules.Rule(_own_z_box, "mine", bounds=(-1.0, 4.0)), rules.z_box(-1.0, 4.0)),
    "epsilon": (_own_epsilon, rules.epsilon(0.1)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_rule_of_ones_own_is_as_good_as_the_librarys(name):
    """Also for an input of 0, which a relevance in the form x ⊙ g would leave without its share."""
    own, known = OWN[name]
    weights = jnp.array([[1.0, -1.0], [2.0, 0.5], [-0.5, 3.0]])
    f = lambda x: relu(x @ weights) @ jnp.array([[1.0], [2.0]])[:, 0]
    x = jnp.array([4.0, 1.0, 0.0])
    found = [
        xattr.lrp(
            f, x, composites.compose((composites.first_layer, r), (composites.dense, rules.zero()))
        )
        for r in (own, known)
    ]
    np.testing.assert_allclose(*found, rtol=1e-6)
    if name != "epsilon":
        assert found[0][2] != 0


def test_the_flat_rule_of_ones_own_gives_thirds():
    f = lambda x: jnp.sum(x @ jnp.array([[1.0], [-2.0], [3.0]]))
    composite = composites.every_layer(_own_flat)
    found = xattr.lrp(f, jnp.array([4.0, 1.0, 0.0]), composite)
    np.testing.assert_allclose(found, [2 / 3] * 3, rtol=1e-6)


PRINTED = {
    "gamma(0.25)": rules.gamma(),
    "epsilon(0.1)": rules.epsilon(0.1),
    "zero()": rules.epsilon(0.0),
    "z_plus()": rules.z_plus(),
    "alpha_beta(2, 1)": rules.alpha_beta(),
    "z_box(-1, (3,))": rules.z_box(-1, np.ones(3)),
    "kind('dense', 'conv')": composites.kind("dense", "conv"),
    "both(first_layer, named('stem'))": composites.both(
        composites.first_layer, composites.named("stem")
    ),
    "Composite(first_layer: flat(), kind('conv'): z_plus(), kind('dense'): epsilon(1e-06), ...)": (
        composites.epsilon_plus_flat()
    ),
    "Composite(first_layer: _own_flat)": composites.Composite(
        ((composites.first_layer, _own_flat),)
    ),
}


@pytest.mark.parametrize("text", PRINTED)
def test_what_is_made_prints_as_it_was_made(text):
    assert repr(PRINTED[text]) == text


BAD = {
    "own flat for a hidden layer": (
        lambda: xattr.lrp(
            _named,
            jnp.ones(2),
            composites.compose(
                (composites.last_layer, _own_flat), (composites.dense, rules.zero())
            ),
        ),
        ValueError,
        "a rule for first layers, _own_flat, was given to a layer that does not see the input",
    ),
    "flat for a hidden layer": (
        lambda: xattr.lrp(
            _named,
            jnp.ones(2),
            composites.compose(
                (composites.last_layer, rules.flat()), (composites.dense, rules.zero())
            ),
        ),
        ValueError,
        "a rule for first layers, flat(), was given to a layer that does not see the input",
    ),
    "bias": (
        lambda: xattr.lrp(_named, jnp.ones(2), bias="yes"),
        ValueError,
        '`bias` must be "exclude" or "include"',
    ),
    "composite": (
        lambda: xattr.lrp(_named, jnp.ones(2), rules.zero()),
        TypeError,
        "`composite` must be a composite",
    ),
    "epsilon": (
        lambda: rules.epsilon(-1.0),
        ValueError,
        "`epsilon` must be a number of at least 0",
    ),
    "alpha and beta": (
        lambda: rules.alpha_beta(2.0, 2.0),
        ValueError,
        "`alpha` must be `beta` + 1",
    ),
    "entries": (
        lambda: composites.compose(rules.zero()),
        TypeError,
        "`entries` must be pairs (predicate, rule)",
    ),
    "kind": (
        lambda: composites.kind("dens"),
        ValueError,
        "there is no kind 'dens'; there are dense, conv",
    ),
    "one bound": (
        lambda: xattr.deep_taylor(_named, jnp.ones(2), low=0.0),
        ValueError,
        "`low` and `high` go together",
    ),
    "on_uncovered": (
        lambda: xattr.lrp(_named, jnp.ones(2), on_uncovered="skip"),
        ValueError,
        '`on_uncovered` must be "error" or "gradient"',
    ),
    "integer x": (lambda: xattr.lrp(_named, jnp.arange(2)), TypeError, "`x` must be floating"),
    "args": (
        lambda: xattr.guided_backprop(_named, jnp.ones(2), args=3),
        TypeError,
        "`args` must be a tuple",
    ),
    "not callable": (lambda: xattr.with_rules(3, Z_RULE), TypeError, "`f` must be a function"),
    "with_rules for differences": (
        lambda: xattr.with_rules(_named, xattr._backward.deeplift.RULES),
        ValueError,
        "use xattr.deep_lift",
    ),
    "z_box without lrp": (
        lambda: jax.grad(xattr.with_rules(_named, composites.every_layer(rules.z_box(0.0, 1.0))))(
            jnp.ones(2)
        ),
        ValueError,
        "use it with xattr.lrp",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, error, text = BAD[name]
    with pytest.raises(error) as raised:
        call()
    assert text in str(raised.value)


@hypothesis.settings(max_examples=12)
@hypothesis.given(
    st.sampled_from(sorted(graphs.STRUCTURES)), st.integers(10, 10**6), st.integers(0, 10**6)
)
def test_random_networks(structure, seed, other):
    """Structure from the menu, weights and inputs by seed: oracles, completeness, conservation."""
    with jax.enable_x64(True):
        graph = graphs.network(structure, seed)
        x, baseline = jnp.asarray(graph.inputs(other)), jnp.asarray(graph.inputs(other + 1))

        def everything(x, baseline):
            return (
                xattr.lrp(graph.f, x, composites.every_layer(rules.alpha_beta(2.0, 1.0))),
                xattr.guided_backprop(graph.f, x, on_uncovered="gradient"),
                xattr.deep_lift(graph.f, x, baseline),
                xattr.relevance_report(graph.f, x, Z_RULE).absorbed,
            )

        relevance, guided, deep, absorbed = quickly(everything, x, baseline)
        rule = lambda node: oracles.alpha_beta(2.0, 1.0)
        same(relevance, oracles.lrp(graph, x, rule, "exclude"), 1e-8)
        same(guided, oracles.guided(graph, x))
        same(deep, oracles.deep_lift(graph, x, baseline, "rescale"), 1e-8)
        np.testing.assert_allclose(deep.sum(), graph.f(x) - graph.f(baseline), atol=1e-9)
        flows = oracles.lrp_flows(graph, x, lambda node: oracles.zero(), "exclude")
        flows = [flows[n.index] for n in graph.nodes if n.kind in REPORTED]
        kept = [f.received.sum() - sum(part.sum() for part in f.sent) for f in flows]
        scale = max(1.0, *(np.abs(f.received).max() for f in flows))
        np.testing.assert_allclose(absorbed, kept, atol=1e-9 * scale)  # units with z = 0 alone
