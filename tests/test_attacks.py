"""The shift that a bias undoes is exact or refused; the attack keeps the label and the bounds."""

import functools
import re

import flax
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given, settings
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import xattr
from xattr import attacks

SEEDS = st.integers(0, 2**31)
KEY = jax.random.key(0)
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
SHAPE = (5, 6, 3)


def arrays(seed, *shapes, dtype="float64"):
    random = np.random.default_rng(seed)
    return [jnp.asarray(random.standard_normal(shape), dtype) for shape in shapes]


# The mean shift


class Network(nn.Module):
    """A convolution and a dense layer, nested as users nest them."""

    strides: int = 1
    first: str = "conv"

    @nn.compact
    def __call__(self, x):
        if self.first == "conv":
            x = nn.Conv(4, (3, 2), self.strides, padding="VALID", name="conv")(x)
        x = nn.relu(nn.Dense(4, name="dense")(x.reshape(-1)))
        return jnp.sum(nn.Dense(1, name="head")(x))


SHIFTS = {
    "a number": lambda: -1.0,
    "per channel": lambda: np.array([-1.0, 0.5, 2.0]),
    "constant image": lambda: np.broadcast_to([-1.0, 0.5, 2.0], SHAPE),
    "checkerboard": lambda: np.repeat(attacks.checkerboard(5, 6, cell=2)[..., None], 3, 2),
}


def shifted_alike(model, params, x, m, **geometry):
    """Whether the network for shifted data says and explains what the other one does."""
    moved = attacks.mean_shift(params, m, **{"padding": "VALID", **geometry})
    both = [(params, x), (moved, jnp.asarray(np.asarray(x) + m, x.dtype))]
    run = jax.jit(jax.value_and_grad(model, 1))
    (one, slope), (two, other) = (run(p, point) for p, point in both)
    for expected, got in ((one, two), (slope, other)):
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE[x.dtype.name] * 10)
    assert abs(run(params, both[1][1])[0] - one) > 1e-3, "the shift does nothing"
    return moved


@pytest.mark.parametrize(
    ("first", "strides", "shift", "dtype"),
    [
        ("dense", 1, "a number", "float32"),
        ("dense", 1, "checkerboard", "float64"),
        ("conv", 1, "a number", "float64"),
        ("conv", 1, "constant image", "float32"),
        ("conv", 2, "per channel", "float64"),
    ],
)
def test_network_for_shifted_data_is_the_same(x64, first, strides, shift, dtype):
    network = Network(strides, first)
    (x,) = arrays(0, SHAPE, dtype=dtype)
    form, tree = jax.tree.flatten(
        jax.eval_shape(network.init, KEY, jax.ShapeDtypeStruct(SHAPE, "float32"))
    )
    params = jax.tree.unflatten(tree, arrays(1, *(leaf.shape for leaf in form), dtype=dtype))
    m = SHIFTS[shift]()
    moved = shifted_alike(network.apply, params, x, m, layer=f"params/{first}", strides=strides)
    bias = moved["params"][first].pop("bias")
    assert bias.dtype == dtype
    assert bias.shape == (4,)
    del params["params"][first]["bias"]
    assert jax.tree.structure(moved) == jax.tree.structure(params)
    assert all(map(lambda a, b: a is b, *map(jax.tree.leaves, (moved, params))))


def conv(params, x, strides, padding):
    kernel, bias = params["kernel"], params["bias"]
    layout = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x[None], kernel, strides, padding, dimension_numbers=layout)[0]
    y = jax.nn.relu(y + jnp.broadcast_to(bias, y.shape))
    return jnp.sum(y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape))


@pytest.mark.parametrize(
    ("strides", "padding", "out"),
    [
        ((1, 1), "SAME", (5, 6, 4)),
        ((2, 3), "SAME", (3, 2, 4)),
        ((2, 1), [(1, 0), (2, 1)], (2, 8, 4)),
    ],
)
def test_untied_bias_undoes_any_shift(x64, strides, padding, out):
    x, kernel, bias = arrays(1, SHAPE, (3, 2, 3, 4), out)
    model = functools.partial(conv, strides=strides, padding=padding)
    params, m = {"kernel": kernel, "bias": bias}, SHIFTS["checkerboard"]()
    shifted_alike(model, params, x, m, layer="", strides=strides, padding=padding)


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [
        ((2, 2), (2, 2), "VALID"),  # every window holds one cell of each kind
        ((5, 6), (1, 1), "VALID"),  # one position
        ((1, 1), (2, 2), "SAME"),  # which pads nothing
    ],
)
def test_bias_per_channel_undoes_what_is_the_same_everywhere(x64, window, strides, padding):
    x, kernel, bias = arrays(2, SHAPE, (*window, 3, 4), (4,))
    m = np.repeat(attacks.checkerboard(5, 6, cell=1, low=0.5)[..., None], 3, 2)
    model = functools.partial(conv, strides=strides, padding=padding)
    params = {"kernel": kernel, "bias": bias}
    shifted_alike(model, params, x, m, layer="", strides=strides, padding=padding)


def test_pointwise_convolution_takes_a_constant_with_same(x64):
    x, kernel, bias = arrays(2, SHAPE, (1, 1, 3, 4), (4,))
    model = functools.partial(conv, strides=(2, 2), padding="SAME")
    params = {"kernel": kernel, "bias": bias}
    shifted_alike(model, params, x, -1.0, layer="", strides=2, padding="SAME")


VALID = functools.partial(attacks.mean_shift, padding="VALID")


def layer_of(window=(3, 2), bias=(4,)):
    kernel, b = arrays(3, (*window, 3, 4), bias, dtype="float32")
    return {"kernel": kernel, "bias": b}


BOARD = np.repeat(np.indices((5, 6)).sum(0)[..., None] % 2.0, 3, 2)
REFUSED = {
    "a constant with SAME": (layer_of(), 1.0, {"padding": "SAME"}, "the padding adds zeros"),
    "a constant with pairs": (
        layer_of(),
        1.0,
        {"padding": [(0, 1), (0, 0)]},
        'use padding "VALID" with a constant m and a bias per channel, or m in the shape of one',
    ),
    "strides as large as the window hide nothing": (
        layer_of((2, 2)),
        1.0,
        {"padding": "SAME", "strides": 2},
        "the padding adds zeros",
    ),
    "a constant image with SAME": (
        layer_of(),
        np.ones(SHAPE),
        {"padding": "SAME"},
        "what it adds differs from position to position",
    ),
    "a checkerboard": (layer_of(), BOARD, {}, "`m` cannot be undone by the `bias`, since what it"),
    "a constant with an untied bias": (
        layer_of(bias=(3, 5, 4)),
        1.0,
        {},
        "since it is constant, but the bias has shape (3, 5, 4)",
    ),
    "a bias of another shape": (
        layer_of(bias=(3, 4, 4)),
        BOARD,
        {},
        "`bias` must have shape (3, 5, 4), but has (3, 4, 4)",
    ),
    "another number of channels": (
        layer_of(),
        np.ones(2),
        {},
        "`m` has shape (2,), which does not fit 3 features or channels: pass a number, shape (3,)",
    ),
    "another number of axes": (layer_of(), np.ones((5, 3)), {}, "`m` has shape (5, 3)"),
    "an image below the window": (
        layer_of(),
        np.ones((1, 1, 3)),
        {},
        "`m` has shape (1, 1, 3), smaller than the window (3, 2)",
    ),
    "strides": (layer_of(), 1.0, {"strides": (1, 0)}, "`strides` must be 2 whole numbers"),
    "a name of padding": (layer_of(), 1.0, {"padding": "CIRCULAR"}, '`padding` must be "VALID"'),
    "padding for one axis": (layer_of(), 1.0, {"padding": [(0, 0)]}, "`padding` must be"),
    "no bias": ({"kernel": jnp.ones((2, 3))}, 1.0, {}, "`layer` '' has no `bias` to undo"),
    "an unknown layer": (
        {"params": {"b": layer_of(), "a": layer_of()}},
        1.0,
        {},
        "`layer` '' is not in `params`: the layers with a kernel are ['params/a', 'params/b']",
    ),
    "an image for a dense layer": (
        {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)},
        np.ones((2, 3)),
        {},
        "`m` has shape (6,), which does not fit 4 features",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    params, m, geometry, message = REFUSED[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        attacks.mean_shift(params, m, layer="", **{"padding": "VALID", **geometry})


def test_shift_must_be_numbers():
    with pytest.raises(TypeError, match="`m` must be numbers to add to the data"):
        VALID(layer_of(), np.array(["a"]), layer="")


def test_the_padding_of_a_convolution_has_no_default():
    """That of flax is SAME, for which the answer with VALID would be silently wrong."""
    params = nn.Conv(4, (3, 3)).init(KEY, jnp.ones((1, 6, 6, 3)))
    with pytest.raises(ValueError, match="convolutions need `padding`"):
        attacks.mean_shift(params, -1.0, layer="params")


def test_layers_of_nnx():
    network = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), jnp.tanh)
    graph, state = nnx.split(network)
    x = jnp.array([0.1, 0.2, 0.3])
    shifted = attacks.mean_shift(state, -1.0, layer="layers/0")
    np.testing.assert_allclose(nnx.merge(graph, shifted)(x - 1), network(x), atol=1e-6)


def test_under_a_trace_only_what_is_exact_for_certain():
    params, m = layer_of(), np.array([1.0, 2.0, 3.0], np.float32)
    run = lambda params: jax.jit(lambda p, m: VALID(p, m, layer=""))(params, m)
    expected = params["bias"] - np.einsum("hwio,i->o", params["kernel"], m)
    np.testing.assert_allclose(run(params)["bias"], expected, rtol=1e-5)
    m = BOARD.astype(np.float32)
    with pytest.raises(ValueError, match="inside a trace the values of m are not known"):
        run(params)
    untied, eager = layer_of(bias=(3, 5, 4)), functools.partial(VALID, layer="")
    np.testing.assert_allclose(run(untied)["bias"], eager(untied, m)["bias"], rtol=1e-5)
    m = np.ones(SHAPE, np.float32)  # known to be constant while the parameters are traced
    traced = jax.jit(lambda p: VALID(p, m, layer=""))(params)["bias"]
    np.testing.assert_allclose(traced, eager(params, 1.0)["bias"], rtol=1e-5)


def test_sums_in_float32_and_keeps_nodes_and_derivatives():
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), layer_of())
    params = flax.core.freeze({"block": {"layer": narrow}, "other": (jnp.ones(2),)})
    moved = VALID(params, 1, layer="block/layer")
    assert type(moved) is flax.core.FrozenDict
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    expected = (wide["bias"] - wide["kernel"].sum((0, 1, 2))).astype(jnp.bfloat16)
    np.testing.assert_array_equal(moved["block"]["layer"]["bias"], expected)
    slope = jax.grad(lambda m: VALID(wide, m, layer="")["bias"].sum())(jnp.ones(3))
    np.testing.assert_allclose(slope, -wide["kernel"].sum((0, 1, 3)), rtol=1e-5)


# The shift towards a map, and the checkerboard


def mlp(params, x):
    return jax.nn.relu(x.reshape(-1) @ params["kernel"] + params["bias"]) @ params["out"]


@settings(max_examples=10)
@given(SEEDS)
def test_without_a_limit_the_explanation_is_the_target(seed):
    with jax.enable_x64(True):
        x, target, kernel, bias, out = arrays(seed, (4, 5), (4, 5), (20, 9), (9,), (9,))
        params = {"kernel": kernel.at[3].set(0), "bias": bias, "out": out}
        f = functools.partial(mlp, params)
        m = attacks.targeted_shift(f, x, target, limit=None)
        assert m[0, 3] == 0, "a pixel that nothing looks at"
        moved = functools.partial(mlp, attacks.mean_shift(params, m, layer=""))
        shown = xattr.gradient_x_input(moved, x + m)
        live = xattr.gradient(f, x) != 0
        np.testing.assert_allclose(shown, jnp.where(live, target, 0), rtol=1e-11, atol=1e-12)

        clipped = attacks.targeted_shift(f, x, target)
        np.testing.assert_array_equal(clipped, np.clip(m, -0.3, 0.3))
        assert jnp.abs(m).max() > 0.3


def test_gradients_that_are_zero_or_nearly():
    f, slopes = lambda x, slopes: jnp.sum(slopes * x), jnp.array([1e-30, 0.0, 2.0, -1e-37])
    run = lambda target, limit: attacks.targeted_shift(
        f, jnp.ones(4), target, limit=limit, args=(slopes,)
    )
    for limit, expected in ((0.3, [0.3, 0, -0.25, -0.3]), (None, [1.5e30, 0, -0.25, 0])):
        target = jnp.array([1.5, 1.5, 1.5, 1e3])  # the last overflows
        np.testing.assert_allclose(run(target, limit), expected, rtol=1e-6)
        slope = jax.grad(lambda target: run(target, limit)[1:].sum())(target)
        np.testing.assert_array_equal(slope, [0, 0, 0.5, 0])


def test_targeted_shift_of_pytrees_in_bfloat16_and_its_errors():
    f, x = lambda x: 2 * x["a"].sum() - x["b"], {"a": jnp.ones(2), "b": jnp.float32(1)}
    x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), x)
    m = attacks.targeted_shift(f, x, jax.tree.map(jnp.zeros_like, x), limit=1.5)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), m) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), x
    )
    assert m["a"].tolist() == [-1, -1]
    assert m["b"] == -1
    with pytest.raises(ValueError, match="`limit` must be 0 or more, not -1"):
        attacks.targeted_shift(f, x, x, limit=-1)
    with pytest.raises(ValueError, match=r"`target` has shape \(3,\), but `x` has shape \(2,\)"):
        attacks.targeted_shift(jnp.sum, jnp.ones(2), jnp.ones(3))


def test_checkerboard():
    cells = np.kron([[0, 1, 0], [1, 0, 1]], np.ones((3, 3)))[:5, :7]
    board = attacks.checkerboard(5, 7, cell=3, low=-1.0, high=0.5)
    np.testing.assert_array_equal(board, -1 + 1.5 * cells)
    assert board.dtype == jnp.float32
    assert not board.weak_type
    with pytest.raises(ValueError, match="`cell` must be a whole number of at least 1, not 0"):
        attacks.checkerboard(5, 7, cell=0)


# The attack


def cubes(x, weights, threshold):
    """Class 0's gradient is wᵢ xᵢ²: the best attack on its top k is a corner of the ball."""
    return jnp.stack([jnp.sum(weights * x**3) / 3, threshold.astype(x.dtype)])


CUBE = np.array([[0.5, 0.75, 1.0, 0.25], [0.0, 0.5, 0.625, 0.375]])
WEIGHTS = np.ones((2, 4))
QUICK = {"epsilon": 0.0625, "step_size": 0.03, "iterations": 8}
LEADING = np.array([[0, 1, 1, 0], [0, 0, 0, 0]], bool)


def attack_cubes(x, weights, threshold=-1.0, key=KEY, **options):
    args = (jnp.asarray(weights, x.dtype), jnp.asarray(threshold))
    return attacks.attack_attributions(cubes, x, key, args=args, k=2, **QUICK | options)


def shares_of(maps):
    sizes = np.abs(np.asarray(maps, np.float64))
    return sizes / sizes.sum()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_best_attack_on_the_leading_pixels_is_a_corner(dtype):
    result = attack_cubes(jnp.asarray(CUBE, dtype), WEIGHTS)
    corner = np.clip(np.where(LEADING, CUBE - 0.0625, CUBE + 0.0625), 0, 1)
    np.testing.assert_array_equal(result.x, corner)
    assert result.x.dtype == dtype
    for value, x in ((result.objective, corner), (result.initial, CUBE)):
        assert value.dtype == jnp.float32
        shares = shares_of(x**2)
        np.testing.assert_allclose(
            value, -shares[LEADING].sum(), rtol=1e-2 if dtype[0] == "b" else 1e-6
        )
    assert (int(result.label), bool(result.found)) == (0, True)


def test_channels_are_summed():
    """Two pixels of two channels: one large value in a channel does not make a leading pixel."""
    x = jnp.array([[[0.5, 0.0], [0.375, 0.375]], [[0.25, 0.25], [0.0, 0.25]]])
    result = attacks.attack_attributions(
        cubes, x, KEY, args=(jnp.ones((2, 2, 2)), jnp.float32(-1)), k=1, **QUICK
    )
    corner = np.clip(x + 0.0625, 0, 1)
    corner[0, 1] = 0.375 - 0.0625  # 2 · 0.375² > 0.5²
    np.testing.assert_array_equal(result.x, corner)


def test_centre_of_mass_moves_as_far_as_it_can():
    x, weights = jnp.array([0.5, 0.25, 0.5]), jnp.array([1.0, 1.0, 1.0])
    seen = set()
    for seed in range(4):
        key = jax.random.key(seed)
        result = attack_cubes(x, weights, objective="mass_center", key=key)
        assert result.x[0] in (0.4375, 0.5625)
        assert result.x[2] == 1 - result.x[0]
        shares = shares_of(np.asarray(result.x) ** 2)
        np.testing.assert_allclose(result.objective, abs(shares @ [0, 1, 2] - 1), rtol=1e-5)
        assert result.initial == 0
        assert result.found
        seen.add(float(result.x[0]))
    assert len(seen) == 2, "another key is another start"


def test_the_best_iterate_is_returned_not_the_last():
    """A step too long for the valley at x₀ = 0 jumps to and fro: the nearer side is the better."""
    x, weights = jnp.array(CUBE, jnp.float32).at[0, 0].set(0.02), np.where(LEADING, 1.0, 0.1)
    weights[0, 0] = 1e4
    for seed in range(6):
        result = attack_cubes(x, weights, low=-1.0, key=jax.random.key(seed))
        assert abs(result.x[0, 0]) <= 0.015 + 1e-6
        np.testing.assert_allclose(result.x[1, 1:], CUBE[1, 1:] + 0.0625)


def test_the_label_is_kept():
    """Lowering the leading pixels lowers class 0, which may not fall below the threshold."""
    x = jnp.asarray(CUBE, jnp.float32)
    weights = jnp.where(LEADING, 1.0, 0.01)
    free, threshold = attack_cubes(x, weights), float(cubes(x, weights, jnp.array(0.0))[0]) - 0.05
    assert cubes(free.x, weights, jnp.array(threshold)).argmax() == 1, "or the test shows nothing"
    bound = attack_cubes(x, weights, threshold)
    assert cubes(bound.x, weights, jnp.array(threshold)).argmax() == 0
    assert bound.initial == free.initial
    assert bound.initial < bound.objective < free.objective


def alert(x, origin, scale):
    """Class 1 wherever x is not the origin; constant for a scale of 0."""
    return jnp.stack([scale * x.sum() + 1, 1e3 * scale * jnp.abs(x - origin).sum()])


def test_nothing_found():
    x = jnp.asarray(CUBE, jnp.float32)
    for scale, initial in ((1.0, -1 / 8), (0.0, np.nan)):  # one pixel of eight; no map at all
        args = (x, jnp.float32(scale))
        result = attacks.attack_attributions(alert, x, KEY, args=args, iterations=3)
        np.testing.assert_array_equal(result.x, x)
        assert not result.found
        assert result.label == 0
        np.testing.assert_allclose([result.objective, result.initial], initial)


def test_reverse_mode_goes_through():
    """The perturbation is a constant almost everywhere: x' moves with x unless it is clipped."""
    x = jnp.asarray(CUBE, jnp.float32)

    def attacked(x):
        result = attack_cubes(x, WEIGHTS, iterations=2, step_size=1.0).x
        return result.sum(), result

    slope, corner = jax.jit(jax.grad(attacked, has_aux=True))(x)
    assert (corner != x).all()
    np.testing.assert_array_equal(slope, jnp.where((corner == 0) | (corner == 1), 0, 1))


def classifier(x, params, activation=jnp.tanh):
    hidden = activation(x.reshape(-1) @ params["w"] + params["b"])
    return hidden @ params["v"]


softplus = functools.partial(classifier, activation=lambda x: jax.nn.softplus(10 * x) / 10)
relu = functools.partial(classifier, activation=jax.nn.relu)
COUNT, EPSILON = 5, 0.06
OPTIONS = {"epsilon": EPSILON, "step_size": 0.015, "iterations": 24, "k": 8}


def examples():
    w, b, v = arrays(7, (64, 24), (24,), (24, 3))
    params = {"w": w / 4, "b": b, "v": v}
    random = np.random.default_rng(8)
    x = random.uniform(size=(COUNT, 8, 8))
    x = np.where(random.uniform(size=x.shape) < 0.3, 0, x)
    return jnp.asarray(x), params, jax.random.split(KEY, COUNT)


@pytest.mark.parametrize("objective", ["top_k", "mass_center"])
def test_attack_over_devices(x64, objective):
    x, params, keys = examples()
    x, keys = jnp.stack([*x, *x[:3]]), jax.random.split(KEY, 8)

    def attack(x, key):
        options = {**OPTIONS, "iterations": 2, "objective": objective, "args": (params,)}
        return attacks.attack_attributions(classifier, x, key, **options)

    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    many = jax.shard_map(jax.vmap(attack), mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
    expected, found = jax.jit(jax.vmap(attack))(x, keys), jax.jit(many)(x, keys)
    np.testing.assert_allclose(found.objective, expected.objective, rtol=1e-9)
    np.testing.assert_array_equal(found.label, expected.label)


def judge(objective, maps, originals):
    shares, before = shares_of(maps), shares_of(originals)
    if objective == "top_k":
        return -shares.ravel()[np.argsort(-before.ravel())[:8]].sum()
    center = lambda s: np.array([(s * position).sum() for position in np.indices(s.shape)])
    return np.linalg.norm(center(shares) - center(before))


def leading(maps):
    return set(np.argsort(-np.abs(np.asarray(maps)).ravel())[:8].tolist())


@pytest.mark.parametrize(
    ("objective", "method"),
    [
        ("top_k", xattr.gradient),
        ("mass_center", xattr.gradient),
        (
            "top_k",
            functools.partial(
                xattr.integrated_gradients, quadrature=xattr.quadrature.gauss_legendre(3)
            ),
        ),
    ],
)
def test_attack_on_a_smooth_network(x64, objective, method):
    xs, params, keys = examples()
    attack = lambda x, key: attacks.attack_attributions(
        classifier, x, key, objective=objective, method=method, args=(params,), **OPTIONS
    )
    results = jax.jit(jax.vmap(attack))(xs, keys)
    if objective == "mass_center":
        for got, expected in zip(attack(xs[2], keys[2]), results, strict=True):
            np.testing.assert_allclose(got, expected[2], rtol=0, atol=1e-10)

    scores = jax.jit(jax.vmap(classifier, (0, None)))
    labels = scores(xs, params).argmax(1)
    assert results.label.tolist() == labels.tolist()
    assert scores(results.x, params).argmax(1).tolist() == labels.tolist()
    assert np.abs(results.x - xs).max() <= EPSILON
    assert results.x.min() >= 0
    assert results.x.max() <= 1
    assert results.found.all()

    perturb = functools.partial(attacks.random_perturbation, epsilon=EPSILON)
    noisy = jax.jit(jax.vmap(perturb))(xs, keys)
    logit = xattr.targets.logit(classifier)
    explain = jax.jit(jax.vmap(lambda x, label: method(logit, x, args=(label, params))))
    before, attacked, control = (explain(points, labels) for points in (xs, results.x, noisy))
    kept = []
    for one in range(COUNT):
        value = judge(objective, attacked[one], before[one])
        np.testing.assert_allclose(value, results.objective[one], rtol=1e-9)
        initial = judge(objective, before[one], before[one])
        np.testing.assert_allclose(initial, results.initial[one], rtol=1e-9, atol=1e-12)
        assert value > initial + 1e-3
        assert value > judge(objective, control[one], before[one]) + 1e-3
        kept.append([len(leading(m[one]) & leading(before[one])) for m in (attacked, control)])
    if objective == "top_k":
        attack_keeps, noise_keeps = np.mean(kept, 0)
        assert attack_keeps < noise_keeps - 0.5


def test_a_relu_network_needs_a_smooth_surrogate(x64):
    """The gradient of its gradient is 0: without a surrogate no iterate leaves the first."""
    xs, params, keys = examples()
    for x, key in zip(xs[:3], keys[:3], strict=True):
        run = lambda surrogate, step: attacks.attack_attributions(
            relu,
            x,
            key,
            surrogate=surrogate,
            args=(params,),
            **OPTIONS | {"step_size": step},
        )
        stays, still, led = run(None, 0.015), run(None, 0.03), run(softplus, 0.015)
        np.testing.assert_array_equal(stays.x, still.x)
        assert led.found
        assert led.objective > stays.objective
        assert relu(led.x, params).argmax() == relu(x, params).argmax()
        logit = xattr.targets.logit(relu)  # judged by the network itself, not by its surrogate
        maps = [xattr.gradient(logit, point, args=(led.label, params)) for point in (led.x, x)]
        np.testing.assert_allclose(led.objective, judge("top_k", *maps), rtol=1e-9)


def test_another_input_or_label_compiles_nothing():
    x = jnp.asarray(CUBE, jnp.float32)
    attack_cubes(x, WEIGHTS)
    with xattr.testing.count_compilations() as counts:
        first = attack_cubes(x, WEIGHTS)
        second = attack_cubes(x[::-1], 2 * WEIGHTS, 1e3, epsilon=0.03, key=jax.random.key(5))
    assert not counts["attack_kernel"]
    assert (int(first.label), int(second.label)) == (0, 1)


def test_random_perturbation():
    x = jnp.asarray(CUBE, jnp.float32)
    run = jax.jit(attacks.random_perturbation)
    noisy = run(x, KEY, epsilon=0.0625)
    up, down = np.clip(CUBE + 0.0625, 0, 1), np.clip(CUBE - 0.0625, 0, 1)
    assert ((noisy == up) | (noisy == down)).all()
    assert {*np.sign(noisy - x).ravel().tolist()} == {-1, 0, 1}
    assert (run(x, jax.random.key(1), epsilon=0.0625) != noisy).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_noise_stays_inside_however_the_numbers_round(dtype):
    x = jnp.asarray(np.random.default_rng(0).uniform(0.1, 0.9, 500), dtype)
    for epsilon, bound in ((8 / 255, 0.9), (0.3, 0.9)):
        noisy = attacks.random_perturbation(x, KEY, epsilon=epsilon, low=0.1, high=bound)
        size = jnp.float32(epsilon)
        wide, moved = x.astype(jnp.float32), noisy.astype(jnp.float32)
        assert (jnp.abs(moved - wide) <= size).all()
        assert (moved >= jnp.float32(0.1)).all()
        assert (moved <= jnp.float32(bound)).all()
        assert jnp.abs(moved - wide).max() > 0.98 * size


def test_range_may_be_one_of_each_channel():
    x = jnp.zeros((2, 2, 3))
    noisy = attacks.random_perturbation(
        x, KEY, epsilon=1.0, low=jnp.array([-0.5, -0.25, 0.0]), high=jnp.array([0.5, 0.25, 0.0])
    )
    np.testing.assert_array_equal(
        jnp.abs(noisy), jnp.broadcast_to(jnp.array([0.5, 0.25, 0]), x.shape)
    )


FINE = jnp.full((4, 4), 0.5)
SUMS = lambda x: x.sum(1)
ATTACK = functools.partial(attacks.attack_attributions, SUMS)
BAD = {
    "range": (lambda: ATTACK(2 * FINE + 1, KEY), ValueError, "`x` must lie in [`low`, `high`]"),
    "low above high": (lambda: ATTACK(FINE, KEY, low=1, high=0), ValueError, "`low` must not be"),
    "shape of low": (
        lambda: ATTACK(FINE, KEY, low=np.zeros(3)),
        ValueError,
        "`low` has shape (3,)",
    ),
    "not a number": (lambda: ATTACK(FINE * np.nan, KEY), ValueError, "`x` must lie in"),
    "a pytree": (lambda: ATTACK({"a": FINE}, KEY), ValueError, "`x` must be one array"),
    "integers": (lambda: ATTACK(jnp.ones(4, int), KEY), TypeError, "`x` must be floating"),
    "key": (lambda: ATTACK(FINE, 0), TypeError, "`key` must be one random key"),
    "key of the noise": (lambda: attacks.random_perturbation(FINE, 0), TypeError, "`key` must"),
    "objective": (lambda: ATTACK(FINE, KEY, objective="k"), ValueError, '`objective` must be "top'),
    "k": (
        lambda: ATTACK(FINE, KEY, k=16),
        ValueError,
        "`k` must be below the number of pixels, 16",
    ),
    "k of zero": (lambda: ATTACK(FINE, KEY, k=0), ValueError, "`k` must be a whole number"),
    "iterations": (lambda: ATTACK(FINE, KEY, iterations=0), ValueError, "`iterations` must be"),
    "epsilon": (lambda: ATTACK(FINE, KEY, epsilon=-1), ValueError, "`epsilon` must be 0 or more"),
    "step": (lambda: ATTACK(FINE, KEY, step_size=-1), ValueError, "`step_size` must be 0 or more"),
    "args": (lambda: ATTACK(FINE, KEY, args=1), TypeError, "`args` must be a tuple"),
    "surrogate": (lambda: ATTACK(FINE, KEY, surrogate=1), TypeError, "`surrogate` must be a func"),
    "scores": (
        lambda: attacks.attack_attributions(jnp.sin, FINE, KEY),
        ValueError,
        "`model` must return class scores of shape (classes,)",
    ),
    "maps": (
        lambda: ATTACK(FINE, KEY, method=lambda f, x, args: x[0]),
        ValueError,
        "`method` must return a map like x, but returned (4,)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    call, kind, message = BAD[case]
    with pytest.raises(kind, match=re.escape(message)):
        call()
