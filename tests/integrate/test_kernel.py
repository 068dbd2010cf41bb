"""What the kernel promises: one executable, no leak, no retrace, constant memory, precision."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import xattr
from tests import table
from xattr.testing import KERNEL, count_compilations

RULE = xattr.quadrature.gauss_legendre(12)


def fresh_function():
    """A function of its own for each test: its first call compiles."""
    return lambda x, label, params: table.mlp(x, params)[label]


def paths_of(x):
    """One of each kind of path, all made anew."""
    zeros = jnp.zeros_like(x)
    return {
        "straight line": xattr.paths.straight_line(baseline=zeros, x=x),
        "Aumann-Shapley": xattr.paths.aumann_shapley(x),
        "monotone": xattr.paths.monotone(baseline=zeros, x=x, exponents=jnp.array([0.5, 1.0, 2.0])),
        "polyline": xattr.paths.polyline(jnp.stack([zeros, x * x, x])),
        "coordinatewise": xattr.paths.coordinatewise(baseline=zeros, x=x, order=[2, 0, 1]),
        "serial": xattr.paths.serial(baseline=zeros, x=x),
        "blur": xattr.paths.blur(x, max_sigma=2.0, axes=[0]),
        "reparametrized": xattr.paths.reparametrize(lambda a: a * x, jnp.square),
        "reverse": xattr.paths.reverse(lambda a: a * x),
        "concatenated": xattr.paths.concatenate([lambda a: a * x, lambda a: (1 + a) * x]),
        "own lambda": lambda a: a**3 * x,
    }


def test_every_path_runs_one_executable():
    f, args = fresh_function(), (0, table.parameters())
    with count_compilations() as counts:
        for path in paths_of(table.inputs()).values():
            xattr.path_integral(f, path, quadrature=RULE, args=args, chunk_size=4)
    assert counts[KERNEL] == 1


def test_nothing_new_is_compiled_for_new_values():
    f = fresh_function()

    def attribute(seed):
        x, args = table.inputs(seed), (seed % 4, table.parameters(seed))
        baseline = table.inputs(seed + 7)
        for path in paths_of(x).values():
            xattr.path_integral(f, path, quadrature=RULE, args=args, chunk_size=4)
        xattr.integrated_gradients(f, x, baseline, args=args)
        xattr.gradient(f, x, args=args)
        xattr.expected_gradients(
            f, x, jnp.stack([x, baseline]), jax.random.key(seed), num_samples=5, args=args
        )
        xattr.smooth_grad(f, x, jax.random.key(seed), num_samples=5, args=args)
        xattr.completeness_gap(f, x, x, baseline, args=args)

    attribute(0)
    with count_compilations() as counts:
        for seed in range(1, 4):
            attribute(seed)
    assert not counts


def test_a_path_of_the_library_is_sampled_by_one_program_of_its_kind():
    f, args = fresh_function(), (0, table.parameters())
    for kind in ("straight line", "monotone", "polyline", "coordinatewise"):
        with count_compilations() as counts:
            for seed in range(3):
                path = paths_of(table.inputs(seed))[kind]
                xattr.path_integral(f, path, quadrature=RULE, args=args, chunk_size=5)
        assert counts["sample_path"] <= 1, kind  # 0 if another test was first
    line = xattr.paths.reverse(
        xattr.paths.straight_line(baseline=jnp.zeros((2, 41)), x=jnp.ones((2, 41)))
    )
    with count_compilations() as counts:
        xattr.sample(line, RULE)
    assert counts["sample_path"] == 1
    assert not {"multiply", "add", "subtract", "sub", "mul"} & set(counts)  # not one by one


def test_number_of_nodes_does_not_compile_again_where_chunks_are_equal():
    f, x, args = fresh_function(), table.inputs(), (0, table.parameters())
    with count_compilations() as counts:
        for n in (8, 64, 1024):
            rule = xattr.quadrature.midpoint(n)
            xattr.integrated_gradients(f, x, quadrature=rule, args=args, chunk_size=8)
    assert counts[KERNEL] == 1


@pytest.mark.parametrize("kind", ["partial", "Partial", "nnx", "method", "target"])
def test_a_callable_made_anew_with_other_arrays_runs_the_same_executable(kind):
    x = table.inputs()

    class Scorer:
        def __init__(self, weight):
            self.weight = weight

        def score(self, x):
            return jnp.sum(jnp.tanh(self.weight * x))

    jax.tree_util.register_pytree_node(
        Scorer, lambda s: ((s.weight,), None), lambda _, leaves: Scorer(*leaves)
    )
    body = fresh_function()
    model = lambda x, params: table.mlp(x, params)

    def make(seed):
        params = table.parameters(seed)
        return {
            "partial": lambda: (functools.partial(body, label=1, params=params), ()),
            "Partial": lambda: (jax.tree_util.Partial(_first, params), ()),
            "nnx": lambda: (xattr.targets.probability(table.NnxMLP(seed)), (seed % 4,)),
            "method": lambda: (Scorer(jnp.float32(seed)).score, ()),
            "target": lambda: (xattr.targets.log_odds(model), (seed % 4, params)),
        }[kind]()

    with count_compilations() as counts:
        results = []
        for seed in range(3):
            f, args = make(seed)
            results.append(xattr.integrated_gradients(f, x, quadrature=RULE, args=args))
            expected = jax.jit(
                lambda x, f=f, args=args: xattr.integrated_gradients(
                    f, x, quadrature=RULE, args=args
                )
            )(x)
            table.close(results[-1], expected)
    # One by the calls outside jit; those inside are compiled under the caller's name.
    assert counts[KERNEL] == 1
    assert float(jnp.abs(results[1] - results[2]).max()) > 1e-3


def _first(params, x):
    return table.mlp(x, params)[1]


def test_f_is_traced_once():
    traced = []

    def f(x, label):
        traced.append(1)
        return (x * jnp.arange(3.0))[label]

    for label in range(3):
        xattr.integrated_gradients(f, table.inputs(label), args=(label,), chunk_size=4)
        xattr.path_integral(f, lambda a: a * table.inputs(), args=(label,), chunk_size=4)
    assert len(traced) == 1


def test_fresh_closures_are_not_kept_alive():
    x, alive = jnp.ones(8), []
    for _ in range(60):
        weights = jnp.ones((8, 64))
        alive.append(weakref.ref(weights))
        f = lambda x, weights=weights: jnp.sum(x @ weights)
        xattr.gradient(f, x)
        if len(alive) % 20 == 0:
            xattr.completeness_gap(f, xattr.integrated_gradients(f, x), x)
        del weights, f
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 2


def temporaries(nodes, chunk_size):
    f, x, args = fresh_function(), jnp.ones(3), (0, table.parameters())
    wide = lambda x, label, params: f(jnp.tanh(jnp.ones((3, 30_000)).T @ x)[:3], label, params)
    rule = xattr.quadrature.midpoint(nodes)
    program = jax.jit(
        lambda x: xattr.integrated_gradients(
            wide, x, quadrature=rule, args=args, chunk_size=chunk_size
        )
    )
    return program.lower(x).compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_nodes():
    few, many = temporaries(64, 4), temporaries(1024, 4)
    assert few > 4 * 30_000 * 4  # the activations of a chunk are there to be measured
    assert many <= 1.05 * few
    assert temporaries(1024, 256) > 10 * few  # and the measure does see a larger chunk


def test_memory_of_a_gradient_through_attributions_with_checkpoint():
    f, args = jax.checkpoint(fresh_function()), (0, table.parameters())

    def size(nodes):
        rule = xattr.quadrature.midpoint(nodes)
        run = lambda x: xattr.integrated_gradients(f, x, quadrature=rule, args=args, chunk_size=4)
        program = jax.jit(jax.grad(lambda x: jnp.sum(run(x) ** 2)))
        return program.lower(jnp.ones(3)).compile().memory_analysis().temp_size_in_bytes

    assert size(1024) - size(64) < (1024 - 64) * 4 * 16  # a few numbers a node, not a network's


def test_host_loop_never_holds_all_samples():
    """Count the sampled arrays alive while the kernel's chunks are made."""
    x, alive, most = jnp.ones(1000), [], []

    def path(alpha):
        return alpha * x

    def progress(chunks):
        for chunk in chunks:
            gc.collect()
            alive[:] = [a for a in jax.live_arrays() if a.ndim == 2 and a.shape[1:] == (1000,)]
            most.append(sum(a.shape[0] for a in alive))
            yield chunk

    gc.collect()
    gc.freeze()  # what other tests left behind is not looked through at every chunk
    try:
        xattr.path_integral(
            lambda x: jnp.sum(x**2),
            path,
            quadrature=xattr.quadrature.midpoint(64),
            chunk_size=4,
            progress=progress,
        )
    finally:
        gc.unfreeze()
    assert len(most) == 16
    assert max(most) <= 3 * 4


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 7, 12, 100, None])
def test_chunks_change_nothing_but_rounding(chunk_size):
    f, x, args = fresh_function(), table.inputs(), (2, table.parameters())
    run = functools.partial(xattr.integrated_gradients, f, quadrature=RULE, args=args)
    whole = run(x, chunk_size=12)
    table.close(run(x, chunk_size=chunk_size), whole)
    table.close(jax.jit(functools.partial(run, chunk_size=chunk_size))(x), whole)


def test_sample_gives_points_velocities_weights():
    x = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(3.0)}
    samples = xattr.sample(lambda t: jax.tree.map(lambda leaf: t**2 * leaf, x), RULE)
    nodes = jnp.asarray(RULE.nodes, jnp.float32)
    table.close(samples.points["a"], nodes[:, None] ** 2 * x["a"][None])
    table.close(samples.velocities["b"], 2 * nodes * x["b"])
    table.close(samples.weights, RULE.weights)


def test_path_integral_is_integrate_of_sample():
    f, x, args = fresh_function(), table.inputs(), (1, table.parameters())
    for path in paths_of(x).values():
        whole = xattr.integrate(f, xattr.sample(path, RULE), args=args)
        table.close(xattr.path_integral(f, path, quadrature=RULE, args=args), whole)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_result_has_the_dtype_of_x_and_sums_in_float32(dtype):
    """4,096 equal terms: a bfloat16 or float16 sum would stop growing long before the end."""
    f = lambda x: jnp.sum(x)
    x = jnp.ones(3, dtype)
    rule = xattr.quadrature.midpoint(4096)
    result = xattr.integrated_gradients(f, x, quadrature=rule, chunk_size=8)
    assert result.dtype == dtype
    np.testing.assert_allclose(np.asarray(result, np.float64), 1.0, rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_float32_input_stays_float32_beside_float64():
    x = jnp.ones(3, jnp.float32)
    assert xattr.integrated_gradients(lambda x: jnp.sum(x**2), x).dtype == jnp.float32
    own = xattr.path_integral(lambda x: jnp.sum(x**2), lambda a: a * x)
    assert own.dtype == jnp.float32


@pytest.mark.usefixtures("x64")
def test_leaves_of_two_precisions():
    x = {"half": jnp.ones(2, jnp.bfloat16), "full": jnp.ones(2, jnp.float64)}
    f = lambda x: jnp.sum(x["half"].astype(jnp.float64) * x["full"])
    result = xattr.integrated_gradients(f, x, quadrature=RULE)
    assert {k: v.dtype for k, v in result.items()} == {"half": jnp.bfloat16, "full": jnp.float64}
    np.testing.assert_allclose(np.asarray(result["full"]), 0.5, atol=2**-8)


def test_export_for_tpu_and_cuda():
    f, x, args = fresh_function(), table.inputs(), (1, table.parameters())
    attribute = jax.jit(lambda x, args: xattr.integrated_gradients(f, x, args=args))
    exported = export.export(attribute, platforms=["tpu", "cuda", "cpu"])(x, args)
    assert exported.platforms == ("tpu", "cuda", "cpu")
    table.close(exported.call(x, args), attribute(x, args))


def test_nan_of_f_is_a_value():
    result = xattr.integrated_gradients(lambda x: jnp.sum(x) * jnp.nan, jnp.ones(2))
    assert jnp.isnan(result).all()


def test_progress_wraps_the_chunks():
    seen = []

    def progress(chunks):
        for chunk in chunks:
            seen.append(chunk)
            yield chunk

    xattr.integrated_gradients(
        lambda x: jnp.sum(x**2), jnp.ones(2), quadrature=RULE, chunk_size=5, progress=progress
    )
    assert seen == [0, 1, 2]
