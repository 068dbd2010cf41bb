"""What an operation is recognised as, however it is spelled."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

import xattr
from xattr._backward import rewrite
from xattr._program import jaxpr
from xattr._recognise import handlers

RANDOM = np.random.default_rng(0)
W, B, V = (jnp.asarray(RANDOM.standard_normal(s), jnp.float32) for s in ((6, 8), 8, 8))
X = jnp.asarray(RANDOM.standard_normal(6), jnp.float32)
ZEROS = np.zeros(8, np.float32)


@jax.custom_vjp
def _own_relu(x):
    return jnp.maximum(x, 0)


_own_relu.defvjp(lambda x: (_own_relu(x), x), lambda x, g: (jnp.where(x > 0, g, 0),))

RELUS = {
    "jax.nn.relu": jax.nn.relu,
    "maximum(x, 0)": lambda x: jnp.maximum(x, 0),
    "maximum(0, x)": lambda x: jnp.maximum(0.0, x),
    "maximum(x, zeros_like)": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "maximum(x, an array of zeros)": lambda x: jnp.maximum(x, ZEROS),
    "clip(min=0)": lambda x: jnp.clip(x, min=0),
    "lax.clamp": lambda x: lax.clamp(jnp.float32(0), x, jnp.float32(jnp.inf)),
    "where(x > 0)": lambda x: jnp.where(x > 0, x, 0),
    "where(x >= 0)": lambda x: jnp.where(x >= 0, x, 0.0),
    "where(x < 0)": lambda x: jnp.where(x < 0, jnp.zeros_like(x), x),
    "x * (x > 0)": lambda x: x * (x > 0).astype(x.dtype),
    "leaky_relu(x, 0)": lambda x: jax.nn.leaky_relu(x, 0.0),
    "jitted": jax.jit(lambda x: jnp.maximum(x, 0)),
    "checkpointed": jax.checkpoint(lambda x: jnp.maximum(x, 0)),
    "custom_vjp": _own_relu,
    "linen.relu": linen.relu,
}


def kinds(f, x=X, **options):
    return [row.kind for row in xattr.explain(f, x, **options).operations]


def _network(activation):
    return lambda x: activation(x @ W + B) @ V


@pytest.mark.parametrize("name", RELUS)
def test_a_relu_is_a_relu(name):
    f, expected = _network(RELUS[name]), _network(jax.nn.relu)
    assert [k for k in kinds(f) if k not in ("move", "control")] == ["dense", "relu", "dense"]
    for method in (xattr.guided_backprop, xattr.deconvnet, xattr.lrp, xattr.deep_lift):
        np.testing.assert_allclose(method(f, X), method(expected, X), rtol=1e-5)


OTHERS = {
    "relu6": (jax.nn.relu6, "relu6"),
    "min(max(x, 0), 6)": (lambda x: jnp.minimum(jnp.maximum(x, 0), 6), "relu6"),
    "clip(x, 0, 6)": (lambda x: jnp.clip(x, 0, 6), "relu6"),
    "leaky_relu": (jax.nn.leaky_relu, "leaky_relu"),
    "where(x > 0, x, x / 4)": (lambda x: jnp.where(x > 0, x, x / 4), "leaky_relu"),
    "maximum(x, x / 4)": (lambda x: jnp.maximum(x, x * 0.25), "leaky_relu"),
    **{
        name: (getattr(jax.nn, name), "activation")
        for name in [
            "gelu",
            "silu",
            "softplus",
            "sigmoid",
            "elu",
            "celu",
            "selu",
            "mish",
            "hard_tanh",
            "soft_sign",
            "hard_silu",
            "log_sigmoid",
        ]
    },
    "tanh": (jnp.tanh, "activation"),
    "exact gelu": (functools.partial(jax.nn.gelu, approximate=False), "activation"),
    "max(x, 1)": (lambda x: jnp.maximum(x, 1), "activation"),
    "abs": (jnp.abs, "activation"),
    "exp": (jnp.exp, "power"),
    "square": (lambda x: x * x, "power"),
    "cube": (lambda x: x**3, "power"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_functions_of_each_element(name):
    function, kind = OTHERS[name]
    assert [k for k in kinds(_network(function)) if k != "move"] == ["dense", kind, "dense"]
    if kind == "activation":
        with pytest.raises(xattr.UncoveredPrimitiveError, match="an activation that is not a ReLU"):
            xattr.guided_backprop(_network(function), X)


def _layer_norm(x):
    return linen.LayerNorm(use_fast_variance=True).apply({"params": {"scale": V, "bias": B}}, x)


WHOLE = {
    "softmax": (jax.nn.softmax, ["dense", "softmax", "dense"]),
    "own softmax": (lambda x: jnp.exp(x) / jnp.exp(x).sum(), ["dense", "softmax", "dense"]),
    "log_softmax": (jax.nn.log_softmax, ["dense", "log_softmax", "dense"]),
    "LayerNorm": (_layer_norm, ["dense", "sum", "normalizer", "sum", "dense"]),
    "RMSNorm": (
        lambda x: x * lax.rsqrt(jnp.mean(x * x) + 1e-5),
        ["dense", "normalizer", "dense"],
    ),
    "RMSNorm, one over a root": (
        lambda x: x * (1 / jnp.sqrt(jnp.mean(x * x) + 1e-5)),
        ["dense", "normalizer", "dense"],
    ),
    "RMSNorm, a power": (
        lambda x: x * (jnp.mean(x * x) + 1e-5) ** -0.5,
        ["dense", "normalizer", "dense"],
    ),
    "unit length": (
        lambda x: x / jnp.linalg.norm(x),
        ["dense", "normalizer", "dense"],
    ),
    "standardized": (
        lambda x: (x - x.mean()) / jnp.sqrt(x.var() + 1e-5),
        ["dense", "normalizer", "sum", "dense"],
    ),
    "BatchNorm": (lambda x: (x - V) * lax.rsqrt(V**2 + 1e-3) * B + V, ["dense", "dense"]),
    "residual": (lambda x: x + jax.nn.relu(x), ["dense", "relu", "sum", "dense"]),
    "gate": (lambda x: x * x[::-1], ["dense", "move", "product", "dense"]),
    "max": (lambda x: jnp.max(x) * V, ["dense", "max", "scale", "dense"]),
    "masked": (lambda x: jnp.where(np.arange(8) < 5, x, 0.0), ["dense", "choice", "dense"]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_groups(name):
    function, expected = WHOLE[name]
    found = [k for k in kinds(_network(function)) if k != "move" or name == "gate"]
    assert found == expected


def test_the_variance_of_a_layer_norm_is_no_relu():
    """LayerNorm has max(0, variance): a negative signal must go through it."""
    f = _network(lambda x: jax.nn.relu(_layer_norm(x)))
    guided = xattr.guided_backprop(f, X)
    reference = _network(lambda x: jax.nn.relu(jnp.zeros(8) + _plain_norm(x)))
    np.testing.assert_allclose(guided, xattr.guided_backprop(reference, X), rtol=1e-4)


def _plain_norm(x):
    centred = x - jnp.mean(x)
    return centred * lax.rsqrt(jnp.mean(centred**2) + 1e-6) * V + B


SAME = {
    "x @ W": lambda x, w: x @ w,
    "W @ x": lambda x, w: w.T @ x,
    "dot of a batch of one": lambda x, w: (x[None] @ w)[0],
    "einsum": lambda x, w: jnp.einsum("ij,i->j", w, x),
    "sum of products": lambda x, w: jnp.sum(x[:, None] * w, axis=0),
    "jitted": lambda x, w: jax.jit(jnp.matmul)(x, w),
    "captured": lambda x, w: x @ W,
    "captured by jit": lambda x, w: jax.jit(lambda x: x @ W)(x),
    "vmapped": lambda x, w: jax.vmap(lambda column: x @ column, 1)(w),
    "split in two": lambda x, w: jnp.concatenate([x[:2], x[2:]]) @ w,
}


@pytest.mark.parametrize("name", SAME)
def test_a_layer_is_a_layer(name):
    """Data on either side, weights as arguments or constants, a convolution written by hand."""
    f = lambda x, w: jax.nn.relu(SAME[name](x, w) + B) @ V
    expected = lambda x, w: jax.nn.relu(x @ w + B) @ V
    for composite in (
        xattr.composites.every_layer(xattr.rules.alpha_beta(2.0, 1.0)),
        xattr.composites.every_layer(xattr.rules.flat()),
        xattr.composites.every_layer(xattr.rules.zero()),
    ):
        if repr(composite.entries[0][1]) == "flat()":
            composite = xattr.composites.compose(
                (xattr.composites.first_layer, xattr.rules.flat()),
                (xattr.composites.dense, xattr.rules.gamma(0.5)),
            )
        found = xattr.lrp(f, X, composite, args=(W,))
        np.testing.assert_allclose(
            found, xattr.lrp(expected, X, composite, args=(W,)), rtol=2e-4, atol=1e-5
        )


def test_a_depthwise_convolution_as_shifted_products():
    """EfficientNet-Lite0's depthwise layers have no convolution in them: the rule is the same."""
    from paper_repro.networks import efficientnet

    random = np.random.default_rng(1)
    x = jnp.asarray(random.random((6, 6, 3)), jnp.float32)
    kernel = jnp.asarray(random.standard_normal((3, 3, 1, 3)), jnp.float32)
    head = jnp.asarray(random.standard_normal((3, 3, 3)), jnp.float32)

    def f(x, convolve):
        first = jax.nn.relu(x - 0.3)
        return jnp.sum(jax.nn.relu(convolve(first) + B[:3][None, None]) * head)

    shifted = lambda x: efficientnet.shifted(x, kernel, 2)
    conv = lambda x: efficientnet.convolution(x, kernel, 2, groups=3)
    assert kinds(lambda x: f(x, shifted), x).count("conv") == 1
    for composite in (xattr.composites.epsilon_plus(), xattr.composites.preset_b()):
        found = xattr.lrp(lambda x: f(x, shifted), x, composite)
        np.testing.assert_allclose(
            found, xattr.lrp(lambda x: f(x, conv), x, composite), rtol=1e-3, atol=1e-5
        )


def test_functional_add_splits_relevance():
    """f(x₁ + x₂) shares relevance, and x used twice adds up: nothing is counted twice."""
    f = lambda pair: jax.nn.relu(pair[0] + pair[1]) @ V[:6]
    x = (X, 2 * X)
    a, b = xattr.lrp(f, x)
    np.testing.assert_allclose(a.sum() + b.sum(), f(x), rtol=1e-4)
    np.testing.assert_allclose(b, 2 * a, rtol=1e-4)
    twice = lambda x: jax.nn.relu(x + x) @ V[:6]
    np.testing.assert_allclose(xattr.lrp(twice, X).sum(), twice(X), rtol=1e-4)


def test_explain_is_a_table():
    def f(x):
        with jax.named_scope("stem"):
            x = jax.nn.relu(x @ W + B)
        x = lax.scan(lambda h, _: (jnp.tanh(h) * 2, None), x, None, length=3)[0]
        return jnp.sum(jnp.sort(x) * V)

    explained = xattr.explain(f, X)
    text = str(explained)
    lines = text.splitlines()
    assert lines[0].split() == ["kind", "operations", "shapes", "rules", "for", "scope", "source"]
    assert "dense (first)" in text
    assert "dense (last)" in text
    assert "dot_general add" in text
    assert "float32[6] -> float32[8]" in text
    assert "stem" in text
    assert "test_recognise.py:" in text
    assert "relu: max(x, 0)" in text
    rows = {row.kind: row for row in explained.operations}
    assert rows["activation"].covered == ("lrp", "deep_lift")
    assert rows["activation"].depth == 1
    assert "deep_lift" not in rows["max"].covered  # a sorting
    assert rows["relu"].covered == ("guided", "lrp", "deep_lift", "patterns")


def test_nothing_is_computed_to_explain():
    f = lambda x: jnp.sum(jax.nn.relu(x) / 0)
    assert kinds(f) == ["relu", "sum"]


def test_a_new_primitive_is_one_entry(monkeypatch):
    f = lambda x: jnp.sum(lax.rem(x, jnp.full_like(x, 2.0)) * V[:6])
    assert "other" in kinds(f)
    with monkeypatch.context() as patch:
        patch.setitem(handlers.HANDLERS, lax.rem_p, lambda reading, equation, inputs: "choice")
        found = kinds(f)
    assert "choice" in found
    assert "other" not in found


def test_every_primitive_that_is_known_has_a_handler():
    known = [*jaxpr.CONTROL, *jaxpr.WEIGHTED, *jaxpr.ELEMENTWISE, *jaxpr.MOVES, *jaxpr.SPLITS]
    known += [*jaxpr.SPECTRAL, *jaxpr.SUMS, *jaxpr.COLLECTIVES, *jaxpr.UPDATES, *jaxpr.LARGEST]
    known += [*jaxpr.SMALLEST, *jaxpr.ORDERINGS, *jaxpr.OWN_DERIVATIVE]
    assert not [each for each in known if each not in handlers.HANDLERS]


def test_an_operation_is_not_changed():
    recognised, _ = rewrite.traced(_network(jax.nn.relu), X, (), "relevance")
    with pytest.raises(dataclasses.FrozenInstanceError):
        recognised.operations[0].kind = "sum"


def _equations_looked_up(blocks, monkeypatch):
    """Return how often an equation is looked up while a stack of blocks is explained."""
    count = 0

    def counted(self):
        nonlocal count
        count += 1
        return id(self)

    def f(x):
        for _ in range(blocks):
            x = x + jax.nn.softmax(_plain_norm(x) * V)
        return x.sum()

    with monkeypatch.context() as patch:
        patch.setattr(jaxpr.Equation, "__hash__", counted)
        xattr.explain(f, V)
    return count


def test_a_group_is_found_without_a_look_at_all_equations(monkeypatch):
    """Twice the blocks are twice the work: normalizers, softmax and sums start at their ends."""
    once, twice = (_equations_looked_up(blocks, monkeypatch) for blocks in (8, 16))
    assert twice <= 2.1 * once
