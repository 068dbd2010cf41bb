"""Backward rules under every transformation, on real kinds of networks, and their errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import xattr
from tests.table import close
from xattr.testing import count_compilations

METHODS = {
    "guided_backprop": xattr.guided_backprop,
    "deconvnet": xattr.deconvnet,
    "lrp": xattr.lrp,
    "lrp composite": lambda f, x, args: xattr.lrp(
        f, x, xattr.composites.epsilon_alpha2_beta1_flat(), args=args
    ),
    "deep_taylor": xattr.deep_taylor,
    "deep_lift": xattr.deep_lift,
    "reveal_cancel": functools.partial(xattr.deep_lift, variant="reveal_cancel"),
}


class Block(linen.Module):
    """A residual block with batch normalization in evaluation."""

    @linen.compact
    def __call__(self, x):
        norm = functools.partial(linen.BatchNorm, use_running_average=True)
        h = linen.relu(norm()(linen.Conv(4, (3, 3))(x)))
        h = norm()(linen.Conv(4, (3, 3), use_bias=False)(h))
        x = linen.relu(h + linen.Conv(4, (1, 1))(x))
        x = linen.max_pool(x, (2, 2), (1, 1)).mean(1)
        return linen.Dense(3)(x.ravel())


class Transformer(linen.Module):
    """A block of a vision transformer on patches of 2 × 2."""

    @linen.compact
    def __call__(self, x):
        x = linen.Conv(8, (2, 2), (2, 2), name="patches")(x).reshape(-1, 8)
        x = x + self.param("places", linen.initializers.normal(0.5), (4, 8))
        h = linen.LayerNorm()(x)
        x = x + linen.MultiHeadDotProductAttention(2, name="attention")(h, h)
        h = linen.Dense(16)(linen.LayerNorm()(x))
        x = x + linen.Dense(8)(linen.gelu(h))
        return linen.Dense(3, name="head")(linen.LayerNorm()(x).mean(0))


class Recurrent(linen.Module):
    """An LSTM over the rows of the image, under scan."""

    @linen.compact
    def __call__(self, x):
        rows = x.reshape(4, -1)
        (_, h), _ = linen.RNN(linen.LSTMCell(5), return_carry=True)(rows)
        return linen.Dense(3)(h)


class NnxNetwork(nnx.Module):
    """A small convolutional network in nnx."""

    def __init__(self, rngs):
        self.conv, self.norm = nnx.Conv(2, 4, (3, 3), rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4 * 4 * 4, 3, rngs=rngs)
        self.norm.eval()

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).ravel())


def _linen(module):
    variables = module.init(jax.random.key(0), jnp.zeros((4, 4, 2)))
    random = np.random.default_rng(3)
    variables = jax.tree.map(  # biases that are not zero, variances that are positive
        lambda v: (
            jnp.asarray(np.abs(v + 0.1 * random.standard_normal(v.shape)), v.dtype)
            if v.ndim == 1
            else v
        ),
        variables,
    )
    return xattr.targets.logit(lambda x, v: module.apply(v, x)), (jnp.int32(1), variables)


@functools.cache
def networks():
    return {
        "residual": _linen(Block()),
        "transformer": _linen(Transformer()),
        "recurrent": _linen(Recurrent()),
        "nnx": (xattr.targets.logit(NnxNetwork(nnx.Rngs(0))), (jnp.int32(1),)),
    }


def images(count):
    random = np.random.default_rng(5)
    return jnp.asarray(random.standard_normal((count, 4, 4, 2)), jnp.float32)


RECTIFIED = ("guided_backprop", "deconvnet")  # defined for ReLUs only
CASES = [
    (method, network)
    for method in METHODS
    for network in ("residual", "transformer", "recurrent", "nnx")
    if method not in RECTIFIED or network in ("residual", "nnx")
    if method not in ("deep_taylor", "reveal_cancel") or network in ("residual", "transformer")
]


@pytest.mark.parametrize(("method", "network"), CASES)
def test_alone_in_a_batch_and_under_jit(method, network):
    """One example's result is the same alone, in a batch, and jitted in a batch under scan."""
    f, args = networks()[network]
    xs = images(3)
    one = lambda x, *args: METHODS[method](f, x, args=args)
    alone = one(xs[1], *args)
    assert alone.shape == xs[1].shape
    assert np.isfinite(alone).all()
    assert np.abs(alone).max() > 1e-4
    looped = jax.jit(lambda xs, *args: lax.map(lambda x: one(x, *args), xs))(xs, *args)
    batch = jax.vmap(one, (0, *(None,) * len(args)))(xs, *args)
    scale = 2e-4 if "lrp" in method or "taylor" in method else 2e-5  # ratios of float32
    close(batch[1], alone, scale)
    close(looped, batch, scale)


@pytest.mark.parametrize("network", ["residual", "transformer", "recurrent"])
def test_values_are_those_of_f(network):
    f, args = networks()[network]
    x = images(1)[0]
    composite = xattr.composites.epsilon_plus()
    value = jax.jit(xattr.with_rules(f, composite))(x, *args)
    np.testing.assert_allclose(value, jax.jit(f)(x, *args), rtol=1e-6)
    deep = xattr.deep_lift(f, x, args=args)
    np.testing.assert_allclose(deep.sum(), f(x, *args) - f(0 * x, *args), rtol=1e-4, atol=1e-5)


def _norm(x):
    centred = x - jnp.mean(x, -1, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-6)


def _attend(x, w):
    """A transformer block on 4 tokens of 8, without biases beside those of its gelu."""
    h = _norm(x)
    q, k, v = (jnp.einsum("td,dhe->hte", h, part) for part in w["qkv"])
    mixed = jax.nn.softmax(q @ k.transpose(0, 2, 1), axis=-1) @ v
    x = x + jnp.einsum("hte,hed->td", mixed, w["out"])
    x = x + jax.nn.gelu(_norm(x) @ w["up"]) @ w["down"]
    return jnp.mean(_norm(x), axis=0) @ w["head"]


def test_relevance_of_a_transformer_is_conserved(x64):
    """LayerNorm, softmax, the products of attention, gelu, residuals: no layer keeps any."""
    random = np.random.default_rng(0)
    shapes = {"qkv": (3, 8, 2, 4), "out": (2, 4, 8), "up": (8, 16), "down": (16, 8), "head": (8,)}
    w = {name: jnp.asarray(random.standard_normal(shape)) for name, shape in shapes.items()}
    x = jnp.asarray(random.standard_normal((4, 8)))
    composite = xattr.composites.every_layer(xattr.rules.zero())
    report = xattr.relevance_report(_attend, x, composite, args=(w,))
    np.testing.assert_allclose(report.absorbed, 0, atol=1e-9)
    assert sum("dense" in name for name in report.layers) == 7
    # Softmax alone does not conserve: relevance goes by how q k moves the result, x ⊙ ∂p/∂x.
    value_only = lambda x, w: jnp.mean(_norm(_norm(x) @ w["up"] @ w["down"]) @ w["head"])
    found = xattr.lrp(value_only, x, composite, args=(w,))
    np.testing.assert_allclose(found.sum(), value_only(x, w), rtol=1e-9)


def _mlp(x, w):
    h = jax.nn.relu(x @ w[0] + 0.1)
    return jnp.sum(jax.nn.relu(h @ w[1] - 0.1))


def _mlp_scanned(x, w):
    step = lambda h, pair: (jax.nn.relu(h @ pair[0] + pair[1]), None)
    return jnp.sum(lax.scan(step, x, (w, jnp.array([0.1, -0.1], x.dtype)))[0])


FORMS = {
    "jit": jax.jit(_mlp),
    "checkpoint": jax.checkpoint(_mlp),
    "scan": _mlp_scanned,
    "cond": lambda x, w: lax.cond(w[0, 0, 0] < 1e9, _mlp, lambda x, w: jnp.sum(x), x, w),
    "switch on x": lambda x, w: lax.cond(x[0] < 1e9, _mlp, lambda x, w: jnp.sum(x), x, w),
    "custom_jvp": jax.custom_jvp(_mlp),
    "vmapped layers": lambda x, w: jax.vmap(_mlp, (0, None))(x[None], w)[0],
}
FORMS["custom_jvp"].defjvp(lambda primals, tangents: (_mlp(*primals), 0 * _mlp(*primals)))


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_the_program_does_not_matter(form):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal(4), jnp.float32)
    w = jnp.asarray(random.standard_normal((2, 4, 4)), jnp.float32)
    rule = xattr.composites.compose(
        (xattr.composites.first_layer, xattr.rules.flat()),
        (xattr.composites.dense, xattr.rules.gamma(0.5)),
    )
    if form == "scan":  # the first layer is in the loop, whose carry is x only at the start
        rule = xattr.composites.every_layer(xattr.rules.gamma(0.5))
    close(xattr.lrp(FORMS[form], x, rule, args=(w,)), xattr.lrp(_mlp, x, rule, args=(w,)), 1e-5)
    for name in ("guided_backprop", "deconvnet", "deep_lift"):
        if form == "switch on x" and name == "deep_lift":
            continue
        found = METHODS[name](FORMS[form], x, args=(w,))
        close(found, METHODS[name](_mlp, x, args=(w,)), 1e-5)


class _Residual(linen.Module):
    """A stack of residual blocks."""

    blocks: int
    centred: bool
    """Whether the variance is that about the mean; Flax takes two means of all."""

    @linen.compact
    def __call__(self, x):
        for _ in range(self.blocks):
            h = _norm(x) if self.centred else linen.LayerNorm()(x)
            x = x + linen.Dense(4)(linen.gelu(linen.Dense(4)(h)))
        return x.sum()


def _instructions(method, blocks, centred):
    """Return how many instructions XLA makes of a method on a stack of blocks."""
    net, x = _Residual(blocks, centred), jnp.ones((2, 4))
    variables = jax.jit(net.init)(jax.random.key(0), x)
    program = jax.jit(lambda x, v: method(lambda x, v: net.apply(v, x), x, args=(v,)))
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    text = program.lower(x, variables).compile(compiler_options=options).as_text()
    return text.count(" = ")


@pytest.mark.parametrize(
    ("method", "centred"),
    [(xattr.lrp, False), (xattr.relevance_report, False), (xattr.deep_lift, True)],
)
def test_programs_grow_with_the_depth_and_not_with_its_square(method, centred):
    """Twice the blocks are twice the program: no block is computed again for each that follows."""
    assert _instructions(method, 8, centred) <= 2.1 * _instructions(method, 4, centred)


def test_gradients_of_attributions_and_methods_on_top(x64):
    """A method is a function: differentiate it, average it under noise, integrate it."""
    random = np.random.default_rng(0)
    x = jnp.asarray(random.standard_normal(4))
    w = jnp.asarray(random.standard_normal((2, 4, 4)))
    for method in ("lrp", "deep_lift", "guided_backprop"):
        total = lambda x, w, m=METHODS[method]: jnp.sum(m(_mlp, x, args=(w,)) ** 2)
        slope = jax.jit(jax.grad(total, 1))(x, w)
        step = 1e-5 * jnp.asarray(random.standard_normal(w.shape))
        change = (total(x, w + step) - total(x, w - step)) / 2
        np.testing.assert_allclose(jnp.vdot(slope, step), change, rtol=1e-5)
    key = jax.random.key(0)
    smooth = xattr.smooth_grad(
        _mlp, x, key, method=xattr.lrp, num_samples=4, noise_scale=0.0, args=(w,)
    )
    close(smooth, xattr.lrp(_mlp, x, args=(w,)), 1e-5)
    guided = xattr.with_rules(_mlp, xattr._backward.guided.GUIDED)
    rule = xattr.quadrature.midpoint(8)
    along = xattr.integrated_gradients(guided, x, quadrature=rule, args=(w,))
    points = [xattr.guided_backprop(_mlp, a * x, args=(w,)) for a in np.asarray(rule.nodes)]
    close(along, x * jnp.mean(jnp.stack(points), axis=0), 1e-5)


def test_nothing_is_compiled_again():
    """A new input, label, parameters or an equal composite made anew run the same program."""
    f, (label, variables) = networks()["residual"]
    xs = images(3)
    changed = jax.tree.map(lambda v: v * 1.01, variables)
    composite = lambda: xattr.composites.epsilon_gamma_box(-3.0, 3.0)

    def everything(x, *args):
        xattr.lrp(f, x, composite(), args=args)
        xattr.guided_backprop(f, x, args=args)
        xattr.deep_lift(f, x, args=args)
        bounds = xattr.rules.z_box(x - 1, x + 1)  # arrays in a rule are dynamic
        xattr.lrp(f, x, xattr.composites.every_layer(xattr.rules.epsilon(0.1)), args=args)
        first = xattr.composites.first_layer
        rest = (xattr.composites.kind("dense", "conv"), xattr.rules.z_plus())
        xattr.lrp(f, x, xattr.composites.compose((first, bounds), rest), args=args)

    other = label + 1
    everything(xs[0], label, variables)
    with count_compilations() as counts:
        everything(xs[1], other, changed)
    assert not counts


def _while(x):
    return lax.while_loop(lambda h: h[0] < 10, lambda h: jax.nn.relu(h * 2 + 1), x).sum()


def _counting(x):
    step = lambda carried: (carried[0] + 1, carried[1] * x[0])
    return lax.while_loop(lambda carried: carried[0] < 3, step, (0, x[1]))[1]


def _callback(x):
    relu = lambda h: np.maximum(h, 0)
    return jnp.sum(jax.pure_callback(relu, jax.ShapeDtypeStruct(x.shape, x.dtype), x))


UNCOVERED = {
    "while": (_while, "while"),
    "a while that counts": (_counting, "while"),
    "a ReLU in a callback": (_callback, "pure_callback"),
    "an unknown primitive": (
        lambda x: jnp.sum(jnp.linalg.cholesky(jnp.diag(x**2 + 1))),
        "cholesky",
    ),
    "a product over an axis": (lambda x: jnp.prod(x), "reduce_prod"),
    "an angle of a spectrum": (lambda x: jnp.sum(jnp.angle(jnp.fft.fft(x))), "atan2"),
}


@pytest.mark.parametrize("name", UNCOVERED)
def test_no_rule_is_an_error(name):
    f, primitive = UNCOVERED[name]
    with pytest.raises(xattr.UncoveredPrimitiveError) as raised:
        xattr.lrp(f, jnp.array([1.0, 2.0]))
    # A loop with a condition has no gradient to be left to.
    remedy = "jax.lax.scan" if primitive == "while" else "on_uncovered"
    for part in (f"no rule covers {primitive} (", "] -> ", "test_rewrite.py:", remedy):
        assert part in str(raised.value), part


def test_the_remedy_is_one_that_the_method_has():
    f = lambda x: jnp.sort(jnp.tanh(x)) @ jnp.array([1.0, 2.0])
    for method in (xattr.deep_lift, xattr.guided_backprop):
        with pytest.raises(xattr.UncoveredPrimitiveError, match="on_uncovered") as raised:
            method(f, jnp.array([1.0, 2.0]))
        assert "to the composite" not in str(raised.value)
    with pytest.raises(xattr.UncoveredPrimitiveError, match="add a rule for it to the composite"):
        xattr.lrp(lambda x: jnp.prod(x), jnp.array([1.0, 2.0]))


def test_an_uncovered_operation_can_be_left_to_its_gradient():
    f = lambda x: jnp.prod(jax.nn.relu(x))
    x = jnp.array([1.0, 2.0])
    found = xattr.lrp(f, x, on_uncovered="gradient")
    np.testing.assert_allclose(found, x * jax.grad(f)(x))


def test_what_a_loop_carries_depends_on_x_from_the_second_step_on(x64):
    """The state before each step: a constant at the first, of x afterwards."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))

    def f(x):
        step = lambda h, row: (jnp.tanh(h @ w + row), h)
        before = jax.lax.scan(step, jnp.ones(3), x)[1]
        return jnp.sum(jnp.tanh(before))

    x = jnp.asarray(np.random.default_rng(1).normal(size=(4, 3)))
    change = f(x) - f(jnp.zeros_like(x))
    assert abs(change) > 0.1
    for maps in (xattr.deep_lift(f, x), xattr.integrated_gradients(f, x)):
        np.testing.assert_allclose(jnp.sum(maps), change, rtol=1e-6)
