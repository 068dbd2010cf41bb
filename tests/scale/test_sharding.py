"""Attributions over the devices of a mesh: those of one device, with one sum or with none."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import xattr
from tests import table
from xattr._scale.sharding import sharded
from xattr.testing import count_compilations

RULE = xattr.quadrature.gauss_legendre(13)  # shared out among 2, 4 or 8 devices with some over
LABELS = jnp.arange(8) % 4
PARAMS = table.parameters()
AXES = (0, 0, None)
SCORE = xattr.targets.logit(table.mlp)


def mesh_of(kind=AxisType.Auto, **axes):
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(kind,) * len(axes))


def examples(count=8):
    return jnp.stack([table.inputs(seed) for seed in range(count)])


def integrated(x, label, params, **options):
    return xattr.integrated_gradients(SCORE, x, args=(label, params), chunk_size=4, **options)


def curved(x, label, params, **options):
    path = xattr.paths.monotone(baseline=jnp.zeros_like(x), x=x, exponents=2.0)
    return xattr.path_integral(SCORE, path, args=(label, params), **options)


def gradient(x, label, params):
    return xattr.gradient(SCORE, x, args=(label, params))


def smooth(x, label, params):
    key = jax.random.key(4)
    return xattr.smooth_grad(SCORE, x, key, num_samples=5, args=(label, params))


def smooth_integrated(x, label, params, **options):
    method = functools.partial(xattr.integrated_gradients, **options)
    key = jax.random.key(4)
    return xattr.smooth_grad(SCORE, x, key, method=method, num_samples=3, args=(label, params))


def relevance(x, label, params):
    return xattr.lrp(SCORE, x, args=(label, params))


PATHS = {"integrated": integrated, "curved": curved, "smooth_integrated": smooth_integrated}
METHODS = PATHS | {"gradient": gradient, "smooth": smooth, "relevance": relevance}


def on_one_device(method, *operands, in_axes=AXES, **options):
    run = functools.partial(method, **options)
    return jax.jit(jax.vmap(run, in_axes=in_axes))(*operands)


@functools.cache
def expected_of(name):
    options = {"quadrature": RULE} if name in PATHS else {}
    return on_one_device(METHODS[name], examples(), LABELS, PARAMS, **options)


@pytest.mark.parametrize("name", METHODS)
def test_examples_over_devices(name):
    options = {"quadrature": RULE} if name in PATHS else {}
    attribute = sharded(METHODS[name], mesh_of(AxisType.Explicit, batch=8), in_axes=AXES)
    result = attribute(examples(), LABELS, PARAMS, **options)
    assert len(result.sharding.device_set) == 8
    assert result.addressable_shards[0].data.shape == (1, 3)
    table.close(result, expected_of(name), 1e-6)


@pytest.mark.parametrize(
    ("name", "kind", "axes"),
    [
        ("integrated", AxisType.Explicit, {"node": 8}),
        ("integrated", AxisType.Auto, {"batch": 4, "node": 2}),
        ("curved", AxisType.Explicit, {"batch": 4, "node": 2}),
        ("curved", AxisType.Auto, {"node": 8}),
        ("smooth_integrated", AxisType.Auto, {"batch": 2, "node": 4}),
    ],
)
def test_nodes_over_devices(name, kind, axes):
    attribute = sharded(PATHS[name], mesh_of(kind, **axes), in_axes=AXES)
    result = attribute(examples(), LABELS, PARAMS, quadrature=RULE)
    table.close(result, expected_of(name), 1e-6)


def test_the_quadrature_is_of_the_call_or_of_the_method_or_the_kernel():
    """Rules so coarse that they differ; of one node most devices have a copy of weight 0."""
    mesh, operands = mesh_of(batch=2, node=4), (examples(), LABELS, PARAMS)
    one, three = xattr.quadrature.midpoint(1), xattr.quadrature.riemann_left(3)
    many = xattr.quadrature.gauss_legendre(64)
    bound = functools.partial(integrated, quadrature=three)

    def defaulted(x, label, params, *, quadrature=three):
        return integrated(x, label, params, quadrature=quadrature)

    expected = {
        len(rule.nodes): on_one_device(integrated, *operands, quadrature=rule)
        for rule in (one, three, many)
    }
    for method, call, nodes in (
        (bound, {"quadrature": one}, 1),
        (bound, {}, 3),
        (defaulted, {}, 3),
        (integrated, {}, 64),
    ):
        result = sharded(method, mesh, in_axes=AXES)(*operands, **call)
        table.close(result, expected[nodes], 1e-6)


SPECS = {"columns": P(None, "model"), "rows": P("model"), "batch": P("batch"), "node": P("node")}
AUTO, EXPLICIT = AxisType.Auto, AxisType.Explicit


@pytest.mark.parametrize(
    ("name", "kind"),
    [("columns", AUTO), ("rows", EXPLICIT), ("batch", AUTO), ("batch", EXPLICIT), ("node", AUTO)],
)
def test_parameters_sharded_over_any_axis(name, kind):
    """In f parameters are whole but for the axes that are not ours: those are kept."""
    mesh, spec = mesh_of(kind, batch=2, node=2, model=2), SPECS[name]
    params = {"w1": jnp.ones((4, 6)) / 7, "w2": jnp.arange(12.0).reshape(6, 2) / 9}
    # A contraction over a sharded axis has to be told its result's sharding, where it is explicit.
    out, seen = P() if kind is AxisType.Explicit else None, []

    def method(x, params, **options):
        seen.append(tuple(jax.typeof(params["w1"]).sharding.spec))

        def f(x):
            hidden = jnp.tanh(jnp.matmul(x, params["w1"], out_sharding=out))
            return jnp.sum(jnp.matmul(hidden, params["w2"], out_sharding=out) ** 2)

        return xattr.integrated_gradients(f, x, **options)

    x = jnp.linspace(-1.0, 1.0, 16).reshape(4, 4)
    placed = jax.tree.map(lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec)), params)
    result = sharded(method, mesh, in_axes=(0, None))(x, placed, quadrature=RULE)
    if kind is AxisType.Explicit:
        assert {"model" in found for found in seen} == {"model" in tuple(spec)}

    def plain(x, params):
        f = lambda x: jnp.sum((jnp.tanh(x @ params["w1"]) @ params["w2"]) ** 2)
        return xattr.integrated_gradients(f, x, quadrature=RULE)

    table.close(result, on_one_device(plain, x, params, in_axes=(0, None)), 1e-6)


def tree_batch(count=8):
    many = [table.tree_inputs(seed) for seed in range(count)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)


def tree_method(x, label, params, **options):
    f = table.models()["tree"][0]
    return xattr.integrated_gradients(f, x, args=(label, params), **options)


COLLECTIVES = ("all-reduce", "all-gather", "collective-permute", "all-to-all", "reduce-scatter")


def collectives(attribute, *operands):
    """Count the instructions of the compiled program by which devices wait for each other."""
    text = jax.jit(attribute).lower(*operands).compile().as_text()
    assert "fusion" in text or "dot" in text  # this is the program
    return {
        name: count
        for name in COLLECTIVES
        if (count := len(re.findall(rf" {name}(?:-start)?\(", text)))
    }


@pytest.mark.parametrize("method", [integrated, tree_method], ids=["array", "tree"])
def test_one_all_reduce_where_nodes_are_sharded_and_nothing_else(method):
    mesh = mesh_of(batch=2, node=4)
    x = examples() if method is integrated else tree_batch()
    place = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
    operands = (place(x, P("batch")), place(LABELS, P("batch")), place(PARAMS, P()))
    attribute = functools.partial(sharded(method, mesh, in_axes=AXES), quadrature=RULE)
    assert collectives(attribute, *operands) == {"all-reduce": 1}
    table.close(
        attribute(*operands), on_one_device(method, x, *operands[1:], quadrature=RULE), 1e-6
    )


def cubes(x):
    return jnp.sum(x["a"].astype(jnp.float32) ** 3) + jnp.sum(x["b"].astype(jnp.float32))


def test_one_all_reduce_for_leaves_of_two_precisions():
    method = lambda x, **options: xattr.integrated_gradients(cubes, x, **options)
    attribute = functools.partial(sharded(method, mesh_of(node=8)), quadrature=RULE)
    for double in (True, False):  # the second run is in single precision again
        with jax.enable_x64(double):
            x = {
                "a": jnp.ones((2, 3), jnp.float64 if double else jnp.float32),
                "b": jnp.ones((2, 2)),
            }
            x["b"] = x["b"].astype(jnp.float32)
            assert not double or collectives(attribute, x) == {"all-reduce": 1}
            result = attribute(x)
            assert {k: leaf.dtype for k, leaf in result.items()} == {k: x[k].dtype for k in x}
            table.close(result, x, 1e-6)


def test_no_collective_where_only_examples_are_sharded():
    mesh = mesh_of(batch=8)
    place = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
    operands = (place(tree_batch(), P("batch")), place(LABELS, P("batch")), place(PARAMS, P()))
    assert collectives(sharded(tree_method, mesh, in_axes=AXES), *operands) == {}


@pytest.mark.parametrize(("count", "kind"), [(1, AUTO), (13, AUTO), (13, EXPLICIT)])
def test_uneven_batches(count, kind):
    """Padded with the last example, whose values are no danger; trimmed."""
    attribute = sharded(integrated, mesh_of(kind, batch=4, node=2), in_axes=AXES)
    x, labels = examples(count), jnp.arange(count) % 4
    result = attribute(x, labels, PARAMS, quadrature=RULE)
    expected = on_one_device(integrated, x, labels, PARAMS, quadrature=RULE)
    table.close(result, expected, 1e-6)


def test_padding_makes_no_nan():
    """f is NaN at 0, γ at its start: neither zeros nor node 0 may be among the padding."""
    f = lambda x: jnp.sum(jnp.log(x))
    method = lambda x, **options: xattr.path_integral(
        f, lambda alpha: jnp.sqrt(alpha) * x, **options
    )
    attribute = sharded(method, mesh_of(batch=2, node=4))
    with jax.debug_nans(True):
        result = attribute(1 + jnp.arange(9.0).reshape(3, 3), quadrature=RULE)
    assert jnp.isfinite(result).all()


def test_in_axes_as_for_vmap():
    """Another axis, a pytree prefix, a list, an operand of None."""
    x = examples(6).T
    rest = {"a": jnp.array([1.0, 2.0, 3.0]), "b": [jnp.arange(6.0), None]}

    def method(x, rest, **options):
        f = lambda x: jnp.sum(rest["a"] * x**2) * rest["b"][0]
        return xattr.integrated_gradients(f, x, quadrature=RULE)

    result = sharded(method, mesh_of(batch=3), in_axes=[-1, {"a": None, "b": 0}])(x, rest)
    expected = rest["a"][None] * x.T**2 * rest["b"][0][:, None]
    table.close(result, expected, 1e-6)


def test_nothing_is_compiled_for_new_values():
    mesh = mesh_of(batch=4, node=2)

    def run(seed):
        method = functools.partial(integrated, baseline=table.inputs(seed + 50))
        attribute = sharded(method, mesh, in_axes=AXES)
        rule = xattr.Quadrature(RULE.nodes ** (1 + seed), RULE.weights)
        operands = (examples() * (1 + seed), (LABELS + seed) % 4, table.parameters(seed))
        result = attribute(*operands, quadrature=rule)
        expected = [
            integrated(x, label, operands[2], baseline=table.inputs(seed + 50), quadrature=rule)
            for x, label in zip(*operands[:2], strict=True)
        ]
        return result, expected

    run(0)
    with count_compilations() as counts:
        results = [run(seed) for seed in range(1, 4)]
    assert not counts
    for result, expected in results:
        table.close(list(result), expected, 1e-6)


def test_inside_jit_and_differentiated():
    """The derivative by examples and by parameters, with both axes in use."""
    attribute = sharded(integrated, mesh_of(batch=4, node=2), in_axes=AXES)
    plain = jax.vmap(functools.partial(integrated, quadrature=RULE), in_axes=AXES)

    def loss(attribute, x, params):
        return jnp.sum(jnp.sin(attribute(x, LABELS, params)))

    over_devices = functools.partial(loss, functools.partial(attribute, quadrature=RULE))
    result = jax.jit(jax.grad(over_devices, argnums=(0, 1)))(examples(), PARAMS)
    expected = jax.jit(jax.grad(functools.partial(loss, plain), argnums=(0, 1)))(examples(), PARAMS)
    table.close(result, expected, 2e-6)
    table.close(jax.grad(over_devices)(examples(), PARAMS), expected[0], 2e-6)  # without jit


def test_a_loop_in_f_that_begins_with_a_constant():
    def f(x):
        return lax.fori_loop(0, 3, lambda _, total: total + jnp.sum(jnp.tanh(x)), jnp.float32(0))

    method = lambda x, **options: xattr.integrated_gradients(f, x, **options)
    result = sharded(method, mesh_of(batch=4, node=2))(examples(), quadrature=RULE)
    table.close(result, on_one_device(method, examples(), in_axes=0, quadrature=RULE), 1e-6)


def test_what_does_not_depend_on_the_quadrature_is_not_summed():
    def method(x, **options):
        f = lambda x: jnp.sum(jnp.sin(x))
        return {"map": xattr.integrated_gradients(f, x, **options), "score": f(x), "x": x}

    result = sharded(method, mesh_of(node=8))(examples(), quadrature=RULE)
    table.close(result, on_one_device(method, examples(), in_axes=0, quadrature=RULE), 1e-6)


def test_options_are_shared_by_all_examples():
    baseline, key = table.inputs(9), jax.random.key(2)

    def method(x, *, baseline, key, count, **options):
        f = lambda x: SCORE(x, 0, PARAMS)
        moved = x + jax.random.normal(key, (count,)).sum()
        return xattr.integrated_gradients(f, moved, baseline, **options)

    options = {"baseline": baseline, "key": key, "count": 3, "quadrature": RULE}
    result = sharded(method, mesh_of(batch=2, node=4))(examples(), **options)
    table.close(result, on_one_device(method, examples(), in_axes=0, **options), 1e-6)


def test_arrays_of_another_device_are_moved():
    x = jax.device_put(examples(), jax.devices()[3])
    result = sharded(integrated, mesh_of(batch=8), in_axes=AXES)(
        x, np.asarray(LABELS), jax.device_put(PARAMS, jax.devices()[5]), quadrature=RULE
    )
    table.close(result, expected_of("integrated"), 1e-6)


@pytest.mark.parametrize("axes", [{"batch": 1, "node": 1, "model": 2}, {"node": 1}], ids=str)
def test_axes_of_one_device(axes):
    attribute = sharded(gradient, mesh_of(**axes), in_axes=AXES)
    table.close(attribute(examples(), LABELS, PARAMS), expected_of("gradient"), 1e-6)


def test_names_of_the_axes():
    mesh = mesh_of(data=2, alpha=4)
    attribute = sharded(integrated, mesh, in_axes=AXES, batch_axis="data", node_axis="alpha")
    result = attribute(examples(), LABELS, PARAMS, quadrature=RULE)
    table.close(result, expected_of("integrated"), 1e-6)


def test_export_for_tpu_and_cuda():
    mesh = mesh_of(batch=4, node=2)
    attribute = jax.jit(functools.partial(sharded(integrated, mesh, in_axes=AXES), quadrature=RULE))
    exported = export.export(attribute, platforms=["tpu", "cuda"])(examples(), LABELS, PARAMS)
    assert exported.platforms == ("tpu", "cuda")
    assert exported.nr_devices == 8
    assert "all_reduce" in exported.mlir_module()


def test_inside_shard_map_over_another_axis():
    mesh = mesh_of(batch=2, node=2, model=2)
    attribute = functools.partial(sharded(integrated, mesh, in_axes=AXES), quadrature=RULE)
    by_hand = jax.shard_map(
        attribute,
        mesh=mesh,
        in_specs=(P("model"), P("model"), P()),
        out_specs=P("model"),
        axis_names={"model"},
        check_vma=False,
    )
    result = jax.jit(by_hand)(examples(), LABELS, PARAMS)
    table.close(result, expected_of("integrated"), 1e-6)


def test_inside_pmap_there_are_no_devices_left():
    for axes in ({"batch": 8}, {"node": 8}):
        attribute = sharded(integrated, mesh_of(**axes), in_axes=AXES)
        with pytest.raises(ValueError, match=r"`mesh`, .* cannot be used under a pmap"):
            jax.pmap(lambda x, y: attribute(x, y, PARAMS))(examples()[:, None], LABELS[:, None])
    one = sharded(integrated, mesh_of(batch=1), in_axes=AXES)
    run = jax.pmap(lambda x, y: one(x, y, PARAMS, quadrature=RULE))
    result = run(examples()[:, None], LABELS[:, None])
    table.close(result[:, 0], expected_of("integrated"), 1e-6)


def test_bfloat16_is_summed_in_float32():
    """In bfloat16 1 + 2⁻⁹ is 1, however often it is added."""
    rule = xattr.Quadrature((np.arange(8) + 0.5) / 8, np.array([1.0] + [2.0**-9] * 7))
    method = lambda x, **options: xattr.integrated_gradients(jnp.sum, x, **options)
    x = jnp.ones((1, 2), jnp.bfloat16)
    attribute = functools.partial(sharded(method, mesh_of(node=8)), quadrature=rule)
    result = attribute(x)
    assert result.dtype == jnp.bfloat16
    # XLA for CPU would do so by itself: look at what it is given.
    program = str(jax.make_jaxpr(attribute)(x))
    assert re.findall(r"(\w+)\[[\d,]*\]\S* = psum\w*\[", program) == ["f32"]
    table.close(result, jnp.full((1, 2), 1 + 7 * 2.0**-9, jnp.bfloat16), 0)


def test_completeness_of_a_bfloat16_model():
    """With x in float32 and the cast inside f the devices' parts are not rounded.

    Sums are compared with the float32 network's f(x) − f(baseline). That of the bfloat16 network is
    off by up to .0088 itself, on any JAX: its scores lie .0156 apart near −2.25.
    """
    params = table.parameters(dtype=jnp.bfloat16)
    full = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    x = examples().astype(jnp.bfloat16)
    wide = x.astype(jnp.float32)
    in_half = lambda x, *args: SCORE(x, *args).astype(jnp.float32)
    casting = lambda x, *args: in_half(x.astype(jnp.bfloat16), *args)

    def attributed(f, x, params):
        def method(x, label, params, **options):
            line = xattr.paths.straight_line(baseline=jnp.zeros_like(x), x=x)
            return xattr.path_integral(f, line, args=(label, params), **options)

        many = sharded(method, mesh_of(node=8), in_axes=AXES)(x, LABELS, params)
        gap = lambda a, x, label: xattr.completeness_gap(SCORE, a, x, args=(label, full))
        gaps = jax.jit(jax.vmap(gap))(many.astype(jnp.float32), wide, LABELS)
        return many, functools.partial(on_one_device, method, x, LABELS, params), gaps

    worst = lambda gaps: float(jnp.abs(gaps).max())
    many, _, gaps_in_full = attributed(SCORE, wide, full)
    assert worst(gaps_in_full) < 1e-6
    recipe, recipe_on_one, gaps_of_recipe = attributed(casting, wide, params)
    table.close(recipe, recipe_on_one(), 1e-6)
    half, _, gaps_in_half = attributed(in_half, x, params)
    assert half.dtype == jnp.bfloat16
    assert worst(gaps_of_recipe) < worst(gaps_in_half) / 2 < 0.01
    distance = lambda result: float(jnp.abs(result.astype(jnp.float32) - many).max())
    assert distance(recipe) < distance(half) / 2


MESH = {"batch": 4, "node": 2}


def refused(match, operands=None, error=ValueError, method=integrated, axes=MESH, **options):
    operands = (examples(), LABELS, PARAMS) if operands is None else operands
    call = {key: options.pop(key) for key in ("quadrature",) if key in options}
    with pytest.raises(error, match=match):
        sharded(method, mesh_of(**axes), **{"in_axes": AXES, **options})(*operands, **call)


def test_errors():
    refused("`mesh` has the axes", axes={"data": 8})
    refused("`batch_axis` and `node_axis` must be two", batch_axis="node")
    refused("batch is empty", operands=(examples()[:0], LABELS[:0], PARAMS))
    refused("`in_axes` marks axes of shapes", operands=(examples(), LABELS[:5], PARAMS))
    refused("`in_axes` marks axes of shapes", operands=(examples(), 1, PARAMS))
    refused("`in_axes` marks axes of shapes", in_axes=None)
    refused("`in_axes` must have an entry for each of the 3 operands", in_axes=(0, None))
    refused("`quadrature` is empty", quadrature=xattr.Quadrature(np.zeros(0), np.zeros(0)))
    refused("`method` must be a function", method=3, error=TypeError)
    with pytest.raises(TypeError, match="`mesh` must be a jax"):
        sharded(gradient, jax.devices())
    sharded(gradient, mesh_of(batch=8), in_axes=AXES)  # is fine


@pytest.mark.parametrize(
    "method",
    [
        gradient,
        lambda x, label, params, **options: gradient(x, label, params, **options),
        lambda x, label, params, **options: gradient(x, label, params),
    ],
    ids=["no option", "handed on", "dropped"],
)
def test_a_method_without_a_quadrature_is_refused_on_a_node_axis(method):
    refused("`method` does not use a `quadrature`", method=method)
