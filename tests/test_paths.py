"""Paths: ends, derivatives, joints, dtypes, trees."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import xattr
from tests import table
from xattr import paths
from xattr.testing import KERNEL, count_compilations

BASELINE, X = table.tree_inputs(1), table.tree_inputs(2)
IMAGE = jnp.asarray(np.random.default_rng(5).normal(size=(4, 5, 2)), jnp.float32)


def every_path():
    middle = jax.tree.map(lambda a, b: jnp.stack([a, a * b, b]), BASELINE, X)
    line = paths.straight_line(baseline=BASELINE, x=X)
    return {
        "straight_line": line,
        "monotone": paths.monotone(baseline=BASELINE, x=X, exponents=2.0),
        "monotone by leaf": paths.monotone(
            baseline=BASELINE, x=X, exponents=jax.tree.map(lambda a: jnp.float32(3), X)
        ),
        "polyline": paths.polyline(middle),
        "coordinatewise": paths.coordinatewise(baseline=BASELINE, x=X, order=[3, 0, 4, 1, 2]),
        "serial": paths.serial(baseline=BASELINE, x=X),
        "blur": paths.blur(IMAGE, max_sigma=1.5),
        "reparametrize": paths.reparametrize(line, jnp.square),
        "reverse": paths.reverse(paths.straight_line(baseline=X, x=BASELINE)),
        "concatenate": paths.concatenate(
            [line, paths.reverse(line), paths.monotone(baseline=BASELINE, x=X, exponents=3.0)]
        ),
    }


@pytest.mark.parametrize("name", every_path())
def test_ends_are_exact(name):
    path = every_path()[name]
    baseline, x = (path(0.0), IMAGE) if name == "blur" else (BASELINE, X)
    for alpha, end in ((0.0, baseline), (1.0, x)):
        value = path(jnp.float32(alpha))
        assert jax.tree.structure(value) == jax.tree.structure(end)
        jax.tree.map(np.testing.assert_array_equal, value, end)


@pytest.mark.parametrize("name", every_path())
@pytest.mark.usefixtures("x64")
def test_velocity_is_the_slope(name):
    path = every_path()[name]
    for alpha in (0.11, 0.37, 0.71, 0.93):
        step = 1e-4
        _, velocity = jax.jvp(path, (jnp.float32(alpha),), (jnp.float32(1),))
        high, low = path(np.float32(alpha + step)), path(np.float32(alpha - step))
        slope = jax.tree.map(lambda a, b: (a - b) / (2 * step), high, low)
        table.close(velocity, slope, 5e-3)


@pytest.mark.parametrize("name", ["polyline", "coordinatewise", "concatenate", "serial"])
def test_velocity_at_the_end_is_that_of_the_last_segment(name):
    path = every_path()[name]
    slope = lambda alpha: jax.jvp(path, (jnp.float32(alpha),), (jnp.float32(1),))[1]
    last, before = slope(1.0), slope(0.99)
    size = lambda tree: sum(float(jnp.sum(jnp.abs(leaf))) for leaf in jax.tree.leaves(tree))
    assert size(last) > 0.5 * size(before) > 0


def test_equal_features_do_not_move():
    path = paths.straight_line(baseline=X, x=X)
    _, velocity = jax.jvp(path, (jnp.float32(0.3),), (jnp.float32(1),))
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), velocity)


def test_half_precision_is_interpolated_in_float32():
    """α = 0.501 is not a bfloat16: the point must be rounded once, at the end."""
    x = jnp.full(1, 256.0, jnp.bfloat16)
    point = paths.aumann_shapley(x)(jnp.float32(0.501))
    assert point.dtype == jnp.bfloat16
    assert point == jnp.float32(0.501 * 256).astype(jnp.bfloat16)


def test_polyline_passes_its_waypoints_in_equal_time():
    points = jnp.array([[0.0, 1.0], [2.0, 2.0], [5.0, -1.0], [7.0, 7.0]])
    path = paths.polyline(points)
    for index in range(4):
        np.testing.assert_allclose(path(jnp.float32(index / 3)), points[index], atol=1e-5)
    np.testing.assert_allclose(path(jnp.float32(0.5)), (points[1] + points[2]) / 2, atol=1e-6)


def test_coordinatewise_moves_one_feature_at_a_time():
    baseline, x, order = jnp.zeros(4), jnp.array([1.0, 2.0, 3.0, 4.0]), [2, 0, 3, 1]
    path = paths.coordinatewise(baseline=baseline, x=x, order=order)
    for step, feature in enumerate(order):
        _, velocity = jax.jvp(path, (jnp.float32((step + 0.5) / 4),), (jnp.float32(1),))
        assert jnp.flatnonzero(velocity).tolist() == [feature]
        assert velocity[feature] == 4 * x[feature]


def blurred(image, sigma):
    """The weighted mean of all pixels, one by one."""
    result = np.zeros_like(image)
    for i, j in np.ndindex(image.shape[:2]):
        weights = np.array(
            [
                [np.exp(-((i - k) ** 2 + (j - m) ** 2) / (2 * sigma**2)) for m in range(5)]
                for k in range(4)
            ]
        )
        result[i, j] = (weights[..., None] * image).sum((0, 1)) / weights.sum()
    return result


@pytest.mark.usefixtures("x64")
def test_blur_is_a_gaussian_mean():
    image = np.asarray(IMAGE, np.float64)
    path = paths.blur(jnp.asarray(image), max_sigma=2.0)
    for alpha in (0.0, 0.3, 0.9):
        expected = blurred(image, 2.0 * (1 - alpha))
        np.testing.assert_allclose(path(alpha), expected, rtol=1e-12)
    even = paths.blur(jnp.ones((4, 5)), max_sigma=3.0)
    np.testing.assert_allclose(even(0.2), 1, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_blur_far_from_borders_is_that_of_scipy():
    from scipy import ndimage

    image = np.pad(np.random.default_rng(0).normal(size=(3, 3)), 14)
    found = paths.blur(jnp.asarray(image), max_sigma=2.0)(0.0)
    expected = ndimage.gaussian_filter(image, 2.0, mode="constant", truncate=7.0)
    np.testing.assert_allclose(found[12:-12, 12:-12], expected[12:-12, 12:-12], atol=1e-9)


@pytest.mark.usefixtures("x64")
def test_axes_of_a_blur():
    """Channels apart, first or last; the other axes stay as they are."""
    last = paths.blur(jnp.asarray(IMAGE, "float64"), max_sigma=1.0)(0.0)
    first = paths.blur(
        jnp.moveaxis(jnp.asarray(IMAGE, "float64"), 2, 0), max_sigma=1.0, axes=[1, 2]
    )
    np.testing.assert_allclose(jnp.moveaxis(first(0.0), 0, 2), last, rtol=1e-12)
    ends = paths.blur(jnp.asarray(IMAGE, "float64"), max_sigma=1.0, axes=[-3, -2])(0.0)
    np.testing.assert_array_equal(ends, last)
    one = paths.blur(IMAGE[..., :1], max_sigma=1.0)(0.0)
    np.testing.assert_allclose(one[..., 0], last[..., 0], rtol=1e-5)


@pytest.mark.parametrize("sigma", [1e-30, 1e-3, 0.2, 50.0, 1e6])
def test_velocity_of_a_blur_is_finite(sigma):
    path = paths.blur(IMAGE, max_sigma=sigma)
    for alpha in (0.0, 0.5, 0.9999, 1.0):
        value, velocity = jax.jvp(path, (jnp.float32(alpha),), (jnp.float32(1),))
        assert np.isfinite(value).all()
        assert np.isfinite(velocity).all()


def test_attributions_along_a_blur():
    """Complete for the blurred image as the baseline, one program for every width."""
    f = lambda x: jnp.sum(jnp.tanh(x) ** 2 * x[::-1])
    with count_compilations() as counts:
        for sigma in (1.0, 2.0):
            path = paths.blur(IMAGE, max_sigma=sigma)
            found = xattr.path_integral(f, path)
            gap = xattr.completeness_gap(f, found, IMAGE, path(0.0))
            assert abs(float(gap)) < 1e-4 * table.size(found)
    assert counts[KERNEL] == 1
    assert counts["sample_path"] == 1
    linear = xattr.path_integral(lambda x: jnp.sum(x[0]), paths.blur(IMAGE, max_sigma=1.0))
    np.testing.assert_allclose(linear[0], IMAGE[0] - paths.blur(IMAGE, max_sigma=1.0)(0.0)[0], 1e-3)
    np.testing.assert_array_equal(linear[1:], 0)  # pixels that f does not see


@pytest.mark.usefixtures("x64")
def test_serial_cost_shares():
    """Moulin & Shenker's formula for a cost of the total, with demands 1, 2 and 4."""
    cost, demands = lambda total: total**3 + jnp.exp(total / 4), np.array([1.0, 2.0, 4.0])
    totals = [3 * 1.0, 1.0 + 2 * 2.0, 1.0 + 2.0 + 4.0]
    steps = np.diff([cost(0.0), *map(cost, totals)]) / np.array([3, 2, 1])
    path = paths.serial(baseline=jnp.zeros(3), x=jnp.asarray(demands[[2, 0, 1]]))
    rule = xattr.quadrature.composite(xattr.quadrature.gauss_legendre(8), 4)  # corners at 1/4, 1/2
    found = xattr.path_integral(lambda x: cost(jnp.sum(x)), path, quadrature=rule)
    np.testing.assert_allclose(found, np.cumsum(steps)[[2, 0, 1]], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_serial_path_from_any_baseline():
    path = paths.serial(baseline=jnp.array([1.0, 0.0, 5.0]), x=jnp.array([-3.0, 1.0, 5.0]))
    np.testing.assert_allclose(path(0.125), [0.5, 0.5, 5.0])
    np.testing.assert_allclose(path(0.5), [-1.0, 1.0, 5.0])
    still = paths.serial(baseline=jnp.ones(2), x=jnp.ones(2))
    np.testing.assert_array_equal(jax.jvp(still, (0.5,), (1.0,)), [[1, 1], [0, 0]])


@given(n=st.sampled_from([2, 3, 4]), seed=st.sampled_from(range(6)))
@pytest.mark.usefixtures("x64")
def test_mean_over_all_orders_is_the_shapley_value(n, seed):
    """Against the definition over permutations, with a function of NumPy."""
    random = np.random.default_rng(seed)
    x, baseline, w = random.normal(size=(3, n))
    value = lambda x: np.tanh(w @ x) * x[0] + np.prod(x)
    expected, orders = np.zeros(n), [*itertools.permutations(range(n))]
    for order in orders:
        point = baseline.copy()
        for feature in order:
            before = value(point)
            point[feature] = x[feature]
            expected[feature] += (value(point) - before) / len(orders)

    def along(order):
        path = paths.coordinatewise(baseline=jnp.asarray(baseline), x=jnp.asarray(x), order=order)
        rule = xattr.quadrature.composite(xattr.quadrature.gauss_legendre(24), n)
        f = lambda x, w: jnp.tanh(w @ x) * x[0] + jnp.prod(x)
        return xattr.path_integral(f, path, quadrature=rule, args=(jnp.asarray(w),))

    found = jax.vmap(along)(jnp.array(orders)).mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


def test_shapley_value_of_a_minimum():
    """From 0 to (1, 3): integrated gradients give (1, 0), the mean over orders (½, ½)."""
    f, x = lambda x: jnp.min(x), jnp.array([1.0, 3.0])
    rule = xattr.quadrature.composite(xattr.quadrature.midpoint(30), 2)

    def along(order):
        path = paths.coordinatewise(baseline=0 * x, x=x, order=order)
        return xattr.path_integral(f, path, quadrature=rule)

    each = jax.vmap(along)(jnp.array([[0, 1], [1, 0]]))
    np.testing.assert_allclose(each.mean(0), [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(xattr.integrated_gradients(f, x), [1, 0], atol=1e-6)


def test_random_orders_run_one_executable():
    x, f = jnp.arange(1.0, 5.0), lambda x: jnp.prod(x) + jnp.min(x)
    rule = xattr.quadrature.composite(xattr.quadrature.midpoint(4), 4)
    with count_compilations() as counts:
        for seed in range(3):
            order = jax.random.permutation(jax.random.key(seed), 4)
            path = paths.coordinatewise(baseline=0 * x, x=x, order=order)
            xattr.path_integral(f, path, quadrature=rule, chunk_size=4)
    assert counts[KERNEL] == 1


def waypoints_of_one(x, baseline, table, steps, variant):
    """The rule of the docstring in NumPy, for one embedding, with all rows as neighbours."""
    free = [not np.array_equal(row, baseline) for row in table]
    points = [x]
    for _ in range(steps):
        point, best = points[-1], None
        part = point + (baseline - point) / steps
        moves = part, None
        for index in np.argsort(((table - point) ** 2).sum(1), kind="stable"):
            row = table[index]
            if not free[index] or np.array_equal(row, point):
                continue
            kept = (np.minimum(point, baseline) <= row) & (row <= np.maximum(point, baseline))
            moved = np.where(kept, row, part)
            lost = ((row - moved) ** 2).sum() if variant == "greedy" else (~kept).sum()
            if best is None or lost < best:
                best, moves = lost, (moved, index)
        if moves[1] is not None:
            free[moves[1]] = False
        points.append(moves[0])
    return np.stack([baseline, *points[:0:-1], x])


@pytest.mark.parametrize("variant", ["greedy", "max_count"])
@pytest.mark.parametrize("steps", [1, 5, 12])
@pytest.mark.usefixtures("x64")
def test_embedding_waypoints(variant, steps):
    """Against the slow rule; from the baseline to x, every coordinate in one direction."""
    random = np.random.default_rng(steps)
    words = random.normal(size=(10, 3))
    x = np.stack([words[4], words[7], random.normal(size=3)])
    baseline = np.stack([words[0], words[0], words[0]])
    found = paths.embedding_waypoints(
        baseline=jnp.asarray(baseline), x=jnp.asarray(x), table=jnp.asarray(words), steps=steps,
        variant=variant,
    )  # fmt: skip
    assert found.shape == (steps + 2, 3, 3)
    for token in range(3):
        expected = waypoints_of_one(x[token], baseline[token], words, steps, variant)
        np.testing.assert_allclose(found[:, token], expected, rtol=1e-12, atol=1e-12)
    ways = np.diff(found, axis=0) * np.sign(x - baseline)
    assert ways.min() >= -1e-12
    np.testing.assert_array_equal(found[0], baseline)
    np.testing.assert_array_equal(found[-1], x)


def test_neighbors_limit_the_choice():
    """The row that fits best is the farthest: only with enough neighbours it is taken."""
    table_ = jnp.array([[0.0, 0.0], [3.9, 4.2], [3.0, 4.5], [1.0, 1.0]])
    x = jnp.array([4.0, 4.0])
    far, near = (
        paths.embedding_waypoints(baseline=table_[0], x=x, table=table_, steps=1, neighbors=n)[1]
        for n in (3, 1)
    )
    np.testing.assert_array_equal(far, [1.0, 1.0])
    np.testing.assert_allclose(near, [3.9, 0.0])


def test_a_table_without_a_row_to_take_gives_parts_of_the_way():
    x = jnp.array([8.0, -8.0])
    found = paths.embedding_waypoints(baseline=0 * x, x=x, table=0 * x[None], steps=2)
    np.testing.assert_array_equal(found[:, 0], [0, 2, 4, 8])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_discretized_integrated_gradients(dtype):
    """Under jit and vmap, in half precision; complete along the polyline."""
    words = jax.random.normal(jax.random.key(0), (50, 4), dtype)
    texts = words[jnp.array([[1, 2, 3], [4, 5, 6]])]
    f = lambda x: jnp.sum(jnp.tanh(x) ** 3) + jnp.prod(jnp.sum(x, 1))

    def attribute(x):
        baseline = jnp.broadcast_to(words[0], x.shape)
        w = paths.embedding_waypoints(baseline=baseline, x=x, table=words, steps=7)
        rule = xattr.quadrature.composite(xattr.quadrature.gauss_legendre(4), 8)
        samples = xattr.PathSamples(w[1:], jnp.diff(w, axis=0), jnp.ones(8))
        along = xattr.path_integral(f, paths.polyline(w), quadrature=rule, warn_above=None)
        return w, along, xattr.integrate(f, samples)

    waypoints, along, summed = jax.jit(jax.vmap(attribute))(texts)
    assert {leaf.dtype for leaf in (waypoints, along, summed)} == {jnp.dtype(dtype)}
    single = attribute(texts[1])
    table.close(jax.tree.map(lambda leaf: leaf[1], (waypoints, along)), single[:2], 0.05)
    gap = xattr.completeness_gap(f, along[0], texts[0], jnp.broadcast_to(words[0], (3, 4)))
    assert abs(float(gap)) < (0.1 if dtype == "bfloat16" else 1e-3) * table.size(along[0])
    jumps = sum(
        jax.grad(f)(there) * (there - here)
        for here, there in itertools.pairwise(waypoints[0].astype("float32"))
    )
    table.close(summed[0], jumps, 0.05 if dtype == "bfloat16" else 1e-5)


def test_embedding_waypoints_under_shard_map():
    """Texts are spread over the devices; the table and the baseline are on each of them."""
    words = jax.random.normal(jax.random.key(0), (20, 4))
    make = lambda x: paths.embedding_waypoints(
        baseline=words[0], x=x, table=words, steps=3, neighbors=6
    )
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(jax.vmap(make), mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
    table.close(jax.jit(mapped)(words[1:17]), jax.vmap(make)(words[1:17]))


def test_a_new_table_of_embeddings_is_not_compiled_again():
    make = lambda seed: paths.embedding_waypoints(
        baseline=jnp.zeros((2, 3)), x=jnp.full((2, 3), 1.0 + seed),
        table=jax.random.normal(jax.random.key(seed), (9, 3)), steps=4,
    )  # fmt: skip
    make(0)
    with count_compilations() as counts:
        make(1)
    assert not counts


def test_gradients_through_a_concatenation_are_finite():
    """The branch that is not taken has an infinite slope at its start."""

    def loss(x):
        root = paths.monotone(baseline=0 * x, x=x, exponents=0.5)
        path = paths.concatenate([root, paths.straight_line(baseline=x, x=2 * x)])
        return jnp.sum(path(jnp.float32(0.75)))

    np.testing.assert_allclose(jax.grad(loss)(jnp.ones(2)), 1.5, rtol=1e-6)


def test_joints_are_compared_at_the_scale_of_the_paths():
    x = jnp.array([3.0, 2.0])
    loop = lambda alpha: jnp.sin(jnp.pi * alpha) * x  # ends at −9e-8 x, not at 0
    joined = paths.concatenate([loop, paths.aumann_shapley(x)])
    np.testing.assert_allclose(joined(jnp.float32(1)), x)
    small = 1e-4 * x  # a gap as wide as the whole path is no rounding
    with pytest.raises(ValueError, match="does not start where"):
        paths.concatenate([paths.aumann_shapley(small), paths.aumann_shapley(small)])


@pytest.mark.parametrize("name", every_path())
def test_a_path_is_written_as_the_call_that_makes_it(name):
    text = repr(every_path()[name])
    assert text.startswith(f"{name.split()[0]}(")
    assert "0x" not in text
    assert "f32[" in text


def test_arrays_in_a_path_are_written_short():
    x = {"a": jnp.ones(3), "b": jnp.array(0.5)}
    line = paths.aumann_shapley(x)
    text = "straight_line(baseline={'a': f32[3], 'b': 0.0}, x={'a': f32[3], 'b': 0.5})"
    assert repr(line) == text
    assert repr(paths.reverse(line)) == f"reverse(path={text})"
    assert repr(paths.concatenate([line, lambda alpha: x])) == (
        f"concatenate(paths=({text}, <lambda>))"
    )
    own = functools.partial(line, jnp.ones(()))
    assert repr(paths.reparametrize(own, jnp.square)) == (
        f"reparametrize(path=partial({text}, 1.0), warp=square)"
    )


def test_a_path_may_hold_tracers():
    seen = []

    def at(x):
        path = paths.aumann_shapley(x)
        seen.append(repr(path))
        return path(0.5)

    np.testing.assert_array_equal(jax.jit(at)(X["image"]), at(X["image"]))
    assert seen[0] == seen[1]
