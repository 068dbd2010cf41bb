"""DeepLIFT against slow oracles, known answers and completeness, operation by operation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xattr
from tests import graphs, oracles
from tests.backward.test_rules import quickly, same
from xattr.testing import functions

KNOWN = {
    "figure 14 a": (functions.figure_14a, [1, 1], [1 / 6, 1 / 3]),
    "figure 14 b": (functions.figure_14b, [1, 1], [0.25, 0.25]),
    "figure 7 f": (functions.figure_7f, [3, 1], [1.5, -0.5]),
    "figure 7 g": (functions.figure_7g, [3, 1], [2, -1]),
    "saturated": (functions.saturated, [2], [1]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers(name, x64):
    """Figure 14 of 2016, figure 7 of ICML 2017: equivalent networks, different attributions."""
    f, x, expected = KNOWN[name]
    np.testing.assert_allclose(xattr.deep_lift(f, jnp.array(x, float)), expected, atol=1e-12)


@pytest.mark.parametrize("structure", graphs.STRUCTURES)
def test_against_oracles(structure, x64):
    graph = graphs.network(structure, seed=2)
    x, baseline = jnp.asarray(graph.inputs(3)), jnp.asarray(graph.inputs(77))
    both = ("rescale", "reveal_cancel")
    run = lambda x, baseline: [xattr.deep_lift(graph.f, x, baseline, variant=rule) for rule in both]
    for rule, found in zip(both, quickly(run, x, baseline), strict=True):
        same(found, oracles.deep_lift(graph, x, baseline, rule))
        np.testing.assert_allclose(found.sum(), graph.f(x) - graph.f(baseline), atol=1e-9)


def _normalized(x):
    mean = jnp.mean(x)
    return (x - mean) * lax.rsqrt(jnp.mean((x - mean) ** 2) + 1e-5)


def _attention(x):
    q, k, v = (jnp.outer(x, jnp.arange(1.0, 4.0) * c) for c in (1.0, -0.7, 0.4))
    return jnp.sum(jax.nn.softmax(q @ k.T, axis=-1) @ v, axis=1)


OPERATIONS = {
    **{
        name: getattr(jax.nn, name)
        for name in [
            "relu",
            "relu6",
            "leaky_relu",
            "gelu",
            "silu",
            "softplus",
            "sigmoid",
            "elu",
            "celu",
            "selu",
            "mish",
            "log_sigmoid",
            "hard_tanh",
            "soft_sign",
            "hard_silu",
            "squareplus",
            "softmax",
            "log_softmax",
            "standardize",
        ]
    },
    "tanh": jnp.tanh,
    "exact gelu": functools.partial(jax.nn.gelu, approximate=False),
    "exp": jnp.exp,
    "log": lambda x: jnp.log(1 + x**2),
    "sqrt": lambda x: jnp.sqrt(x**2 + 0.1),
    "power": lambda x: jnp.abs(x) ** 1.5,
    "logsumexp": lambda x: jax.nn.logsumexp(x) * jnp.ones_like(x),
    "own softmax": lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x)),
    "masked softmax": lambda x: jax.nn.softmax(jnp.where(np.arange(6) < 4, x, -jnp.inf)),
    "large softmax": lambda x: jax.nn.softmax(300 * x),
    "LayerNorm": _normalized,
    "RMSNorm": lambda x: x * lax.rsqrt(jnp.mean(x * x) + 1e-5),
    "attention": _attention,
    "product": lambda x: x * x[::-1],
    "square": lambda x: x * x,
    "quotient": lambda x: x / (2 + x[::-1] ** 2),
    "one over": lambda x: 1 / (2 + x**2),
    "outer": lambda x: jnp.outer(x, x) @ x,
    "maximum": lambda x: jnp.maximum(x, x[::-1]),
    "minimum": lambda x: jnp.minimum(x, 0.3 * x[::-1]),
    "max": lambda x: jnp.max(x) * jnp.ones_like(x),
    "min": lambda x: jnp.min(x.reshape(2, 3), axis=0, keepdims=True) * jnp.ones((6, 3), x.dtype),
    "clip": lambda x: jnp.clip(x, -0.2, 0.4),
    "max pool": lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (3,), (1,), "SAME"),
    "cumsum": jnp.cumsum,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_complete(name, x64):
    """Δy = Σ mᵢ Δxᵢ for each result of the operation on its own, and behind two layers."""
    operation = OPERATIONS[name]
    random = np.random.default_rng(0)
    x, baseline, w, weights = (
        jnp.asarray(random.standard_normal(shape)) for shape in (6, 6, (6, 6), 6)
    )
    baseline = baseline.at[2].set(x[2])  # an input without a difference

    def scores(x):
        out = operation(x)
        return out.reshape(-1)

    def deep(x):
        return jnp.sum(jnp.ravel(operation(jnp.tanh(x @ w)))[:6] @ weights)

    count = jax.eval_shape(scores, x).size
    one = lambda x, baseline, k: xattr.deep_lift(lambda x, k: scores(x)[k], x, baseline, args=(k,))
    each = jax.jit(jax.vmap(one, (None, None, 0)))(x, baseline, jnp.arange(count))
    np.testing.assert_allclose(each.sum(1), scores(x) - scores(baseline), atol=1e-9)
    assert np.isfinite(each).all()
    assert (each[:, 2] == 0).all()
    found = xattr.deep_lift(deep, x, baseline)
    np.testing.assert_allclose(found.sum(), deep(x) - deep(baseline), atol=1e-9)


def _standard(x):
    centred = x - jnp.mean(x)
    return centred * lax.rsqrt(jnp.mean(centred**2) + 1e-6)


def _flax_layer_norm(x):
    """Variance as E[x²] − E[x]², and the scale multiplied to 1/√variance, as in flax."""
    variance = jnp.maximum(0, jnp.mean(x * x) - jnp.mean(x) ** 2)
    return (x - jnp.mean(x)) * (
        lax.rsqrt(variance + 1e-6) * jnp.linspace(0.8, 1.2, 16, dtype=x.dtype)
    )


NORMALIZERS = {
    "RMSNorm": lambda x: x * lax.rsqrt(jnp.mean(x * x) + 1e-6),
    "RMSNorm, a quotient": lambda x: x / jnp.sqrt(jnp.mean(x * x) + 1e-6),
    "RMSNorm, a power": lambda x: x * (jnp.mean(x * x) + 1e-6) ** -0.5,
    "RMSNorm, one over": lambda x: (1 / jnp.sqrt(jnp.mean(x * x) + 1e-6)) * x,
    "LayerNorm": _standard,
    "LayerNorm of flax": _flax_layer_norm,
    "standardize": jax.nn.standardize,
    "unit length": lambda x: x / jnp.maximum(jnp.linalg.norm(x), 1e-8),
}


@pytest.mark.parametrize("depth", [1, 3, 24])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", NORMALIZERS)
def test_normalizers_at_a_reference_without_variance(name, dtype, depth):
    """Pre-norm blocks from a baseline of zeros: complete, and no multipliers that cancel."""
    norm = NORMALIZERS[name]
    random = np.random.default_rng(0)
    w, v, x = (jnp.asarray(random.standard_normal(s), dtype) for s in ((depth, 16, 16), 16, 16))

    def f(x):
        block = lambda x, w: (x + jax.nn.gelu(norm(x) @ w / 4), None)
        return norm(lax.scan(block, x, w)[0]) @ v

    slopes = jax.jit(jax.value_and_grad(f))
    found, (value, gradient), (start, _) = xattr.deep_lift(f, x), slopes(x), slopes(0 * x)
    change = float(value) - float(start)
    rounding = 64 * float(jnp.finfo(dtype).eps) * float(jnp.abs(found).sum())
    assert abs(float(found.astype(jnp.float32).sum()) - change) <= rounding
    assert jnp.abs(found / x).max() < 2 * jnp.abs(gradient).max()


def test_a_normalizer_by_hand(x64):
    """From x' = 0 and ε → 0 the multipliers of x / s are δ / s: each x its own share."""
    f = lambda x, k: (x * lax.rsqrt(jnp.mean(x * x) + 1e-24))[k]
    x = jnp.array([3.0, -4.0])
    for k in range(2):
        expected = np.zeros(2)
        expected[k] = x[k] / np.sqrt(12.5)
        np.testing.assert_allclose(xattr.deep_lift(f, x, args=(k,)), expected, atol=1e-9)


def test_a_quotient_by_hand(x64):
    """a/b from (1, 2) to (6, 3): Δy = 1.5 = ((2 + 3) 5 − (2 · 2 + 3 · .5) 1) / (4 + 9)."""
    found = xattr.deep_lift(lambda x: x[0] / x[1], jnp.array([6.0, 3.0]), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(found, [25 / 13, -5.5 / 13], rtol=1e-12)
    inverse = lambda x: x[0] * (1 / x[1])
    same = xattr.deep_lift(inverse, jnp.array([6.0, 3.0]), jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(same, found, rtol=1e-12)


def _complex_quotient(a, b):
    return (lax.complex(a, a) * (1 / b).astype(complex)).real


INVERSES = {
    "its square": (lambda a, b: a * jnp.square(1 / b), lambda a, b: a / b**2),
    "its cube": (lambda a, b: a * (1 / b) ** 3, lambda a, b: a / b**3),
    "its root": (lambda a, b: a * jnp.sqrt(1 / b), lambda a, b: a / jnp.sqrt(b)),
    "its power": (lambda a, b: a * (1 / b) ** 1.5, lambda a, b: a / b**1.5),
    "a square of 1/√b": (lambda a, b: a * lax.rsqrt(b) ** 2, lambda a, b: a / b),
    "of a complex value": (_complex_quotient, lambda a, b: a / b),
}


@pytest.mark.parametrize("name", INVERSES)
def test_what_is_made_of_an_inverse_is_one(name, x64):
    """From b' = 1e-12 a product's multipliers would be as large as 1 / b'."""
    x, baseline = jnp.array([6.0, 3.0]), jnp.array([1.0, 1e-12])
    found, expected = (xattr.deep_lift(lambda x, g=g: g(*x), x, baseline) for g in INVERSES[name])
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    np.testing.assert_allclose(found[0], 5 * INVERSES[name][1](1.0, 3.0), rtol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_quotients_of_both_signs_are_complete(sign, x64):
    """b may change its sign on the way; what is small is not divided by."""
    for b0, b in ((1e-9, 2.0), (-1.0, 3.0), (2.0, -1e-9), (1e-200, 1e200), (2.0, 2.0)):
        f = lambda x: x[0] / x[1] + x[1] / (1 + x[0] ** 2)
        x, baseline = jnp.array([sign * 0.5, b]), jnp.array([1e-10, b0])
        found = xattr.deep_lift(f, x, baseline)
        np.testing.assert_allclose(found.sum(), f(x) - f(baseline), rtol=1e-9)


def test_cosine_similarity_from_zeros():
    """x · c / (‖x‖ ‖c‖) is linear in x / ‖x‖: each x gets its own product."""
    x, c = jnp.array([3.0, 4.0, 0.0]), jnp.array([1.0, 2.0, 2.0])
    f = lambda x: x @ c / (jnp.maximum(jnp.linalg.norm(x), 1e-7) * jnp.linalg.norm(c))
    np.testing.assert_allclose(xattr.deep_lift(f, x), x * c / 15, rtol=1e-5)


def test_softmax_does_not_depend_on_a_shift(x64):
    x, baseline = jnp.array([3.0, -1.0, 0.5]), jnp.array([0.0, 2.0, 0.1])
    of = lambda f: xattr.deep_lift(lambda x: f(x)[0], x, baseline)
    expected = of(jax.nn.softmax)
    np.testing.assert_allclose(of(lambda x: jnp.exp(x) / jnp.exp(x).sum()), expected, atol=1e-12)
    np.testing.assert_allclose(of(lambda x: jax.nn.softmax(x + 100)), expected, atol=1e-12)
    f = lambda x: jax.nn.softmax(x)[0]  # two classes: log p₀ − log p₁ = x₀ − x₁
    pair, start = jnp.array([2.0, -1.0]), jnp.array([0.5, 0.5])
    found = xattr.deep_lift(f, pair, start)
    np.testing.assert_allclose(found, (f(pair) - f(start)) * jnp.array([1.5, 1.5]) / 3, atol=1e-12)


def test_close_to_the_baseline_it_is_the_gradient(x64):
    x = jnp.array([0.3, -0.8, 1.2])
    f = lambda x: jnp.sum(jax.nn.gelu(x) * jnp.exp(x))
    step = 1e-9 * jnp.array([1.0, 2.0, -3.0])
    found = xattr.deep_lift(f, x + step, x)
    np.testing.assert_allclose(found, step * jax.grad(f)(x), rtol=1e-6)


def test_examples_do_not_see_each_other():
    graph = graphs.network("max_pool", 0, np.float32)
    xs = jnp.asarray(np.stack([graph.inputs(i) for i in range(4)]), jnp.float32)
    attribute = functools.partial(xattr.deep_lift, graph.f)
    batch = jax.jit(jax.vmap(attribute))(xs)
    np.testing.assert_allclose(batch[2], attribute(xs[2]), rtol=1e-4, atol=1e-5)


def test_reveal_cancel_sees_what_rescale_misses(x64):
    """min(x₁, x₂) = x₁ − relu(x₁ − x₂): rescale gives all to one, RevealCancel half to each."""
    f = lambda x: x[0] - jax.nn.relu(x[0] - x[1])
    x = jnp.array([1.0, 1.0])
    np.testing.assert_allclose(xattr.deep_lift(f, x), [1, 0], atol=1e-12)
    found = xattr.deep_lift(f, x, variant="reveal_cancel")
    np.testing.assert_allclose(found, [0.5, 0.5], atol=1e-12)


def test_pairs_through_a_loop(x64):
    random = np.random.default_rng(0)
    w, u, xs = (jnp.asarray(random.standard_normal(shape)) for shape in ((3, 3), (3, 3), (4, 3)))

    def recurrent(xs):
        step = lambda h, x: (jnp.tanh(h @ w + x @ u) * jax.nn.sigmoid(x), None)
        return jnp.sum(lax.scan(step, jnp.zeros(3), xs)[0])

    def unrolled(xs):
        h = jnp.zeros(3)
        for x in xs:
            h = jnp.tanh(h @ w + x @ u) * jax.nn.sigmoid(x)
        return jnp.sum(h)

    found = xattr.deep_lift(recurrent, xs)
    np.testing.assert_allclose(found, xattr.deep_lift(unrolled, xs), atol=1e-12)
    np.testing.assert_allclose(found.sum(), recurrent(xs) - recurrent(0 * xs), atol=1e-12)


UNCOVERED = {
    "sort": lambda x: jnp.sum(jnp.sort(x) * jnp.arange(3.0)),
    "select_n": lambda x: jnp.sum(jnp.where(x > 0, x, 2 * x[::-1])),
    "dynamic_slice": lambda x: x[jnp.argmax(x)],
    "stop_gradient": lambda x: jnp.sum(x * lax.stop_gradient(jax.nn.sigmoid(x))),
    "cond": lambda x: lax.cond(x[0] > 0, jnp.sum, jnp.max, x),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_no_multipliers_is_an_error(name):
    x = jnp.array([0.3, -1.0, 2.0])
    with pytest.raises(xattr.UncoveredPrimitiveError, match=f"(?s){name}.*test_deeplift.py"):
        xattr.deep_lift(UNCOVERED[name], x)
    assert np.isfinite(xattr.deep_lift(UNCOVERED[name], x, on_uncovered="gradient")).all()


@pytest.mark.parametrize("method", [xattr.deep_lift, xattr.lrp, xattr.guided_backprop])
def test_the_remedy_helps(method):
    """A loop with a condition and a callback have no gradient that could be taken instead."""
    loop = lambda x: lax.while_loop(lambda h: jnp.sum(h) < 10, lambda h: 2 * h, x)[0]
    host = lambda x: jnp.sum(jax.pure_callback(np.sin, jax.ShapeDtypeStruct((3,), x.dtype), x))
    with pytest.raises(xattr.UncoveredPrimitiveError, match=r"write it with jax\.lax\.scan"):
        method(loop, jnp.ones(3))
    with pytest.raises(xattr.UncoveredPrimitiveError, match=r"derivative with jax\.custom_vjp"):
        method(host, jnp.ones(3))


def test_bad_input():
    f = lambda x: jnp.sum(x)
    with pytest.raises(ValueError, match='`variant` must be "rescale" or "reveal_cancel"'):
        xattr.deep_lift(f, jnp.ones(2), variant="linear")
    with pytest.raises(ValueError, match="`baseline` has shape"):
        xattr.deep_lift(f, jnp.ones(2), jnp.ones(3))
