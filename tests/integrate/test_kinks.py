"""The linear pieces of networks: by hand, by the axioms, and against a fine midpoint rule."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

import xattr
from xattr._integrate.exact import crossings, exact_quadrature
from xattr.testing import count_compilations


def ends_of(rule):
    np.testing.assert_allclose(rule.weights.sum(), 1, rtol=1e-15)
    return np.concatenate([[0.0], np.cumsum(rule.weights)])


def assert_bends(f, x, baseline, expected, tolerance=1e-12):
    """Assert all the points where a function bends along a line, known by hand."""
    rule = exact_quadrature(f, jnp.asarray(x), jnp.asarray(baseline))
    ends = ends_of(rule)
    np.testing.assert_allclose(ends, [0, *expected, 1], rtol=0, atol=tolerance)
    np.testing.assert_allclose(rule.nodes, (ends[1:] + ends[:-1]) / 2, rtol=0, atol=1e-15)


def test_hand_worked_networks():
    assert_bends(lambda x: 1 - relu(1 - x), 2.0, 0.0, [0.5])
    assert_bends(lambda x: 3 * x, 2.0, 0.0, [])
    # relu(x) bends at 1/2 of the way from -1 to 1; relu(x) - 1/4 at 5/8.
    assert_bends(lambda x: relu(relu(x) - 0.25), 1.0, -1.0, [0.5, 0.625])
    # A triangle of height 1/2 at 1/2, cut at 3/8: the first layer's kinks come first.
    assert_bends(lambda x: relu(relu(x) - 2 * relu(x - 0.5) - 0.375), 1.0, 0.0, [0.375, 0.5, 0.625])
    # The unit behind a dead one never bends.
    assert_bends(lambda x: relu(-relu(x) - 1), 1.0, 0.0, [], tolerance=0)


@pytest.mark.parametrize(
    ("name", "f", "expected"),
    [
        ("abs", jnp.abs, [0.25]),
        ("leaky", lambda x: jax.nn.leaky_relu(x, 0.1), [0.25]),
        ("relu6", lambda x: jax.nn.relu6(8 * x), [0.25, 0.4375]),
        ("clip", lambda x: jnp.clip(x, -0.5, 2.0), [0.125, 0.75]),
        ("clamp", lambda x: lax.clamp(jnp.float32(-0.5), x, jnp.float32(2.0)), [0.125, 0.75]),
        ("where", lambda x: jnp.where(x > 1, x, 2 * x - 1), [0.5]),
        ("gated", lambda x: x * (x > 1).astype(x.dtype), [0.5]),
        ("sign", lambda x: x * jnp.sign(x), [0.25]),
        ("minimum", lambda x: jnp.minimum(2 * x, x + 1), [0.5]),
        ("checkpointed", jax.checkpoint(lambda x: jnp.maximum(x, 1)), [0.5]),
        ("largest", lambda x: jnp.max(jnp.stack([-x, x, 4 * x - 6])), [0.25, 0.75]),
        ("smallest", lambda x: jnp.min(jnp.stack([x, -x, 6 - 4 * x])), [0.25, 0.75]),
        ("index", lambda x: jnp.stack([-x, x])[jnp.argmax(jnp.stack([-x, x]))], [0.25]),
        ("exp of a constant", lambda x: x * jnp.exp(jnp.float32(2)), []),
    ],
)
def test_every_kind_of_kink(name, f, expected):
    """From −1 to 3, so that a bend at b is met at (b + 1)/4."""
    assert_bends(f, 3.0, -1.0, expected)


def test_pooling_over_a_border():
    """Both windows hold both elements, which are negative and cross halfway, and a border."""
    start, end = jnp.array([-4.0, -1.0]), jnp.array([-1.0, -4.0])
    largest = lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (3,), (1,), ((1, 1),))
    assert_bends(lambda x: largest(x).sum(), end, start, [0.5])
    # Pairs at a distance of two of (a, b, 2b, 2a), with a = 4 − 3t and b = 1 + 3t: a = 2b, b = 2a.
    least = lambda x: lax.reduce_window(x, jnp.inf, lax.min, (2,), (1,), ((1, 1),), None, (2,))
    assert_bends(
        lambda x: least(jnp.concatenate([x, 2 * x[::-1]])).sum(), -end, -start, [2 / 9, 7 / 9]
    )


def test_largest_of_many_takes_no_pair_that_lies_below():
    """Of five lines three are ever on top; all ten pairs cross."""
    lines = lambda x: jnp.stack([1 - 4 * x, 0.2 - x, 0 * x, x - 0.8, 4 * x - 3])
    assert_bends(lambda x: jnp.max(lines(x)), 1.0, 0.0, [0.25, 0.75], 1e-7)


@given(st.integers(0, 10_000), st.sampled_from([2, 3, 9]))
def test_crossings_of_random_lines(seed, count):
    """Between two crossings found the largest line is one and the same."""
    random = np.random.default_rng(seed)
    before, after = random.standard_normal((2, 4, count))
    groups, places = crossings(before, after)
    for group in range(4):
        ends = np.sort([0, *places[groups == group], 1])
        assert ends[0] == 0
        assert ends[-1] == 1
        inner = ends[:-1, None] + np.diff(ends)[:, None] * np.linspace(0.01, 0.99, 9)
        values = before[group] + inner[..., None] * (after - before)[group]
        assert (np.ptp(values.argmax(axis=-1), axis=1) == 0).all()
        assert len(ends) < count + 2


def layers(seed, sizes, dtype=jnp.float64):
    random = np.random.default_rng(seed)
    return [
        (
            jnp.asarray(random.standard_normal((a, b)) * np.sqrt(2 / a), dtype),
            jnp.asarray(random.standard_normal(b) * 0.2, dtype),
        )
        for a, b in itertools.pairwise(sizes)
    ]


def mlp(x, params, label):
    for weights, bias in params[:-1]:
        x = jax.nn.relu(x @ weights + bias)
    return (x @ params[-1][0] + params[-1][1])[label]


def convolution(x, kernel, stride=1):
    spec = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=spec)


def residual_network(x, params):
    """Convolution, overlapping max-pooling over its border, a residual block, average, dense."""
    first, second, third, scale, out = params
    x = jnp.abs(convolution(x[None], first))
    x = linen.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
    x = (x - 0.3) * lax.rsqrt(scale**2 + 1e-3)  # batch normalisation
    x = jax.nn.relu(x + convolution(jax.nn.leaky_relu(convolution(x, second)), third))
    x = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID") / 4
    return jnp.max(jnp.mean(x, axis=(0, 1, 2)) @ out)


def residual_case(seed):
    random = np.random.default_rng(seed)
    shapes = [(3, 3, 1, 3), (3, 3, 3, 3), (3, 3, 3, 3), (1, 1, 1, 3), (3, 3)]
    params = [jnp.asarray(random.standard_normal(s) / np.sqrt(np.prod(s[:-1]))) for s in shapes]
    x, baseline = jnp.asarray(random.standard_normal((2, 6, 6, 1)))
    return residual_network, x, baseline, (params,)


def mlp_case(seed):
    random = np.random.default_rng(100 + seed)
    x, baseline = jnp.asarray(random.standard_normal((2, 8)))
    return mlp, x, baseline, (layers(seed, (8, 30, 30, 3)), seed % 3)


@pytest.mark.parametrize(("case", "seed"), [(mlp_case, 0), (mlp_case, 1), (residual_case, 0)])
@pytest.mark.usefixtures("x64")
def test_integrated_gradients_are_exact(case, seed):
    fine = xattr.quadrature.midpoint(20_000)
    attribute = jax.jit(
        lambda x, baseline, args, rule: xattr.integrated_gradients(
            f, x, baseline, quadrature=rule, args=args, chunk_size=500
        )
    )
    f, x, baseline, args = case(seed)
    rule = exact_quadrature(f, x, baseline, args=args)
    assert len(rule.nodes) > 20
    found = xattr.integrated_gradients(f, x, baseline, quadrature=rule, args=args)
    assert abs(xattr.completeness_gap(f, found, x, baseline, args=args)) < 1e-10
    # On the step that a bend falls into the midpoint rule is wrong by at most half the jump.
    slopes = jax.vmap(lambda point: jax.grad(f)(point, *args))(
        xattr.sample(xattr.paths.straight_line(baseline=baseline, x=x), rule).points
    )
    jumps = jnp.abs(jnp.diff(slopes, axis=0)).sum(axis=0) * jnp.abs(x - baseline)
    error = jnp.abs(found - attribute(x, baseline, args, fine))
    assert (error <= jumps / 2 / 20_000 + 1e-12).all()


def test_every_pattern_of_a_network_is_one_piece():
    """Counted on a fine grid in NumPy: no bend is missed, and none is made up."""
    params = layers(3, (6, 20, 20, 1), jnp.float32)
    x = jnp.asarray(np.random.default_rng(5).standard_normal(6), jnp.float32)
    rule = exact_quadrature(mlp, x, args=(params, 0))
    hidden = np.linspace(0, 1, 400_001)[:, None] * np.asarray(x, np.float64)
    patterns = []
    for weights, bias in params[:-1]:
        hidden = hidden @ np.asarray(weights, np.float64) + np.asarray(bias, np.float64)
        patterns.append(hidden > 0)
        hidden = np.maximum(hidden, 0)
    changes = (np.diff(np.concatenate(patterns, axis=1), axis=0) != 0).any(axis=1)
    assert len(rule.nodes) == changes.sum() + 1
    grid = (np.flatnonzero(changes) + 0.5) / 400_000
    np.testing.assert_allclose(ends_of(rule)[1:-1], grid, rtol=0, atol=0.6 / 400_000)


def test_a_pytree_in_bfloat16_and_a_label():
    weights = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3)), jnp.bfloat16)

    def f(x, label):
        features = jnp.concatenate([x["a"], x["b"].ravel()])
        return jnp.maximum(features @ weights, jnp.bfloat16(0.5))[label]

    x = {"a": jnp.array([1.0, 2.0], jnp.bfloat16), "b": jnp.array([[-1.0, 3.0]], jnp.bfloat16)}
    slopes = np.array([1, 2, -1, 3], float) @ np.asarray(weights, np.float64)
    bends = np.sort(0.5 / slopes[slopes > 0.5])
    assert 0 < len(bends) < 3
    for label in range(3):  # the label is not known to the program: all three may bend f
        rule = exact_quadrature(f, x, args=(label,))
        np.testing.assert_allclose(ends_of(rule)[1:-1], bends, rtol=1e-12)


def test_scattered_and_moved_values():
    def f(x):
        moved = jnp.roll(x[::-1], 1).at[0].add(x[1]).at[2].set(0.5)
        return jnp.sum(jax.nn.relu(jnp.cumsum(jnp.pad(moved, 1)) - 1))

    # x = (3, 2, 1) moves to (3, 1, 2): with 2 added and ½ set (5, 1, ½), whose sums are 0, 5α, 6α,
    # 6α + ½, 6α + ½: above 1 from 1/5, 1/6 and 1/12.
    assert_bends(f, jnp.array([3.0, 2.0, 1.0]), jnp.zeros(3), [1 / 12, 1 / 6, 1 / 5])


def test_one_program_for_all_values():
    f = lambda x, params, label: mlp(x, params, label)
    attribute = lambda seed: exact_quadrature(
        f,
        jnp.asarray(np.random.default_rng(seed).standard_normal(5), jnp.float32),
        args=(layers(seed, (5, 6, 2), jnp.float32), seed % 2),
    )
    attribute(0)
    with count_compilations() as counts:
        found = {len(attribute(seed).nodes) for seed in range(1, 6)}
    assert not counts
    assert len(found) > 1


relu = jax.nn.relu


@pytest.mark.parametrize(
    ("f", "bends", "expected"),
    [
        (lambda x: relu(jnp.where(x > 0.5, x - 0.75, 1.0)), [0.5, 0.75], 0.25),
        (lambda x: relu(jnp.where(x < 0.5, 0.25 - x, 1.0)), [0.25, 0.5], -0.25),
        (lambda x: relu(jnp.where(x > 1 / 3, x - 0.75, 1.0)), [1 / 3, 0.75], 0.25),
        (lambda x: relu(jnp.where(x < 1 / 3, 0.25 - x, 1.0)), [0.25, 1 / 3], -0.25),
        # 0 to ½, x − 0.7 from there; x + 0.8 to 0.3, x − 0.8 from there: slope 1 on 0.3, 0.3, 0.2.
        (
            lambda x: relu(0.5 * jnp.sign(x - 0.5) + x - 1.2) + relu(x - 0.8 * jnp.sign(x - 0.3)),
            [0.3, 0.5, 0.7, 0.8],
            0.3 + 0.3 + 0.2,
        ),
    ],
)
@pytest.mark.usefixtures("x64")
def test_bends_behind_a_jump(f, bends, expected):
    """What holds at a jump itself holds on one side of it only."""
    assert_bends(f, 1.0, 0.0, bends)
    rule = exact_quadrature(f, jnp.array(1.0))
    found = xattr.integrated_gradients(f, jnp.array(1.0), quadrature=rule)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)


def with_rule(forward, derivative):
    f = jax.custom_jvp(forward)
    f.defjvp(lambda primals, tangents: (forward(*primals), derivative(*primals) * tangents[0]))
    return f


def with_pull(forward, derivative):
    f = jax.custom_vjp(forward)
    f.defvjp(lambda x: (forward(x), x), lambda x, g: (derivative(x) * g,))
    return f


def spike(x):
    return jnp.where(x > 0, 1.0, 0.0).astype(x.dtype)


def clipped(x):
    return jnp.clip(x, -1, 1)


@pytest.mark.parametrize(
    "call",
    [
        with_pull(spike, lambda x: 1 / (1 + jnp.abs(x)) ** 2),
        with_rule(clipped, lambda x: x**2),
        # The same up to 1, which x passes.
        with_pull(clipped, jnp.ones_like),
        jax.jit(with_rule(clipped, jnp.ones_like)),
    ],
)
def test_a_derivative_that_is_not_that_of_the_values_is_named(call):
    f = lambda x: 2 * call(x - 0.25)
    match = (
        r"derivative of its own that is not that of its values: custom_\w+, at test_kinks\.py:\d"
    )
    for _ in range(2):  # traced, and compiled already
        with pytest.raises(xattr.UncoveredPrimitiveError, match=match):
            exact_quadrature(f, jnp.array(3.0))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_derivative_that_is_that_of_the_values(dtype):
    """Also where units are at their kinks all the way, and may have any derivative."""
    own = with_pull(jax.nn.relu6, lambda x: ((x > 0) & (x <= 6)).astype(x.dtype))
    limited = with_rule(clipped, lambda x: (jnp.abs(x) < 1).astype(x.dtype))
    pair = jax.custom_jvp(lambda x, which, scale: jnp.maximum(x, 0)[which] * scale)
    pair.defjvp(
        lambda primals, tangents: (
            pair(*primals),
            jnp.where(primals[0] > 0, tangents[0], 0)[primals[1]] * primals[2],
        )
    )

    def f(x, which, scale):
        x = own(own(x))
        x = jnp.stack([x - 1, 0 * x, 6 * jnp.ones_like(x), x - 7])
        x = jax.nn.hard_tanh(jax.nn.leaky_relu(jax.nn.relu6(relu(x)) - 2))
        return limited(pair(x, which, scale) - jnp.asarray(0.5, dtype)) + limited(x[3])

    # relu6(x) − 1 − 2 is relued at 3, is ½ at 3½ and clipped at 4, from 0 to 8.
    rule = exact_quadrature(f, jnp.array(8, dtype), args=(0, jnp.ones((), dtype)))
    assert {1.0, 3.0, 4.0, 6.0} <= set(np.round(8 * ends_of(rule), 9))


def test_a_rule_is_carried_out_as_its_author_runs_it():
    """With x64 off `jnp.ones` is in float32, which the tangent is not promoted to."""
    ones = lambda x: jnp.where(jnp.abs(x) < 1, jnp.ones(x.shape), jnp.zeros(x.shape))
    assert_bends(with_rule(clipped, ones), 2.0, 0.0, [0.5])


def test_branches_for_values_of_one_dtype():
    def f(x):
        by_sign = lax.cond(x > 0.4, lambda y: y * 2, lambda y: y * 3 + 1, jnp.sign(x - 0.7))
        return x * by_sign

    assert_bends(f, 1.0, 0.0, [0.4, 0.7], 1e-7)
    count = lambda x: lax.while_loop(lambda y: y < 3, lambda y: y + 1, jnp.sign(x - 0.25))
    assert_bends(lambda x: x * count(x), 1.0, 0.0, [0.25])


@pytest.mark.parametrize(
    ("operation", "f"),
    [
        ("convert_element_type", lambda x: jnp.abs(x.astype(complex) * (1 + 1j) + 1j - 0.5)[0]),
        ("convert_element_type", lambda x: jnp.sum(jnp.abs(jnp.fft.fft(x)))),
        ("complex", lambda x: jnp.abs(lax.complex(x, x)[0] + 1)),
        ("fft", lambda x: jnp.sum(jnp.abs(jnp.fft.rfft(x)))),
    ],
)
def test_complex_values_are_not_covered(operation, f):
    with pytest.raises(xattr.UncoveredPrimitiveError, match=operation) as error:
        exact_quadrature(f, jnp.arange(1.0, 4.0))
    assert "test_kinks.py:" in str(error.value)


@pytest.mark.parametrize(
    ("operation", "f"),
    [
        ("tanh", lambda x: jnp.tanh(x).sum()),
        ("exp", lambda x: jax.nn.softmax(x)[0]),
        ("mul", lambda x: x[0] * x[1]),
        ("dot_general", lambda x: x @ x),
        ("div", lambda x: 1 / x[0]),
        ("sort", lambda x: jnp.sort(x)[0]),
        ("floor", lambda x: jnp.floor(x).sum()),
        ("scan", lambda x: lax.scan(lambda c, y: (c + y, None), jnp.float32(0), x)[0]),
    ],
)
def test_what_is_not_piecewise_linear_is_named(operation, f):
    with pytest.raises(xattr.UncoveredPrimitiveError, match=operation) as error:
        exact_quadrature(f, jnp.arange(1.0, 4.0))
    assert "test_kinks.py:" in str(error.value)


def test_bad_input():
    f = lambda x: jnp.abs(x - jnp.arange(8.0) / 8).sum()
    assert len(exact_quadrature(f, jnp.ones(8), max_pieces=8).nodes) == 8
    with pytest.raises(ValueError, match="`max_pieces`=7 linear pieces: raise it"):
        exact_quadrature(f, jnp.ones(8), max_pieces=7)
    with pytest.raises(ValueError, match="`max_pieces` must be a whole number"):
        exact_quadrature(f, jnp.ones(8), max_pieces=0)
    with pytest.raises(ValueError, match="`f` is not finite"):
        exact_quadrature(f, jnp.full(8, jnp.nan))
    with pytest.raises(ValueError, match="`baseline` has shape"):
        exact_quadrature(f, jnp.ones(8), jnp.ones(7))
    with pytest.raises(ValueError, match="must return one scalar"):
        exact_quadrature(lambda x: x, jnp.ones(8))
    nodes = lambda x: exact_quadrature(f, x).nodes
    for transformed in (jax.jit(nodes), jax.vmap(nodes)):
        with pytest.raises(TypeError, match="`exact_quadrature` cannot be traced"):
            transformed(jnp.ones((1, 8)))
    with pytest.raises(TypeError, match="`exact_quadrature` cannot be traced"):
        jax.jit(functools.partial(exact_quadrature, f, jnp.ones(8)))()
