"""Every method over eight devices: shard_map, pmap, sharded arrays under jit."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import xattr
from tests import table

KINDS = (AxisType.Auto, AxisType.Explicit)
AUTO = {"fit_patterns", "relevance_report"}
"""Methods that reshape or sum over axes of different shardings: not with Explicit axes."""


def cases(first):
    """Return every method with a model, and the two kinds of mesh axes in turn."""
    numbered = enumerate(table.in_turn(1), first)
    return [(*case, KINDS[number % 2]) for number, case in numbered]


def batch(method, name):
    """Return the attribution of a batch, eight examples with keys, and what must come out."""
    xs, keys, args = table.batch(name, 8)
    attribute = table.case(method, name)
    batched = jax.vmap(lambda x, key: attribute(x, key, *args))
    return batched, (xs, keys), table.singles(method, name, xs, keys, args)


def close(result, expected):
    """Compare arrays: a report's labels count the marks that a mesh puts into the program."""
    table.close(jax.tree.leaves(result), jax.tree.leaves(expected))


def spread(examples, kind):
    """Return a mesh of all devices, and the examples on it."""
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(kind,))
    return mesh, jax.device_put(examples, NamedSharding(mesh, P("batch")))


@pytest.mark.parametrize(("method", "name", "kind"), cases(0))
def test_shard_map_over_examples(method, name, kind):
    batched, examples, expected = batch(method, name)
    mesh, examples = spread(examples, kind)
    mapped = jax.shard_map(batched, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
    result = jax.jit(mapped)(*examples)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(result))
    close(result, expected)


@pytest.mark.parametrize(("method", "name", "kind"), cases(1)[::2])
def test_jit_with_sharded_examples(method, name, kind):
    batched, examples, expected = batch(method, name)
    mesh, examples = spread(examples, AxisType.Auto if method in AUTO else kind)
    with jax.set_mesh(mesh):
        result = jax.jit(batched)(*examples)
    assert all(len(leaf.sharding.device_set) == 8 for leaf in jax.tree.leaves(result))
    close(result, expected)


@pytest.mark.parametrize(("method", "name"), table.in_turn(1)[::4])
def test_pmap(method, name):
    batched, examples, expected = batch(method, name)
    add = lambda leaf: leaf[:, None]
    result = jax.pmap(batched)(*jax.tree.map(add, examples))
    table.close(result, jax.tree.map(add, expected))


def test_nodes_over_devices_with_a_visible_sum():
    """Steps sharded by hand: each device takes some of the nodes, psum adds."""
    f, make, args = table.models()["plain"]
    x, rule = make(), xattr.quadrature.midpoint(16)
    samples = xattr.sample(xattr.paths.aumann_shapley(x), rule)
    mesh = jax.make_mesh((8,), ("step",), axis_types=(AxisType.Auto,))
    summed = jax.shard_map(
        lambda part: jax.lax.psum(xattr.integrate(f, part, args=args), "step"),
        mesh=mesh,
        in_specs=P("step"),
        out_specs=P(),
    )
    table.close(jax.jit(summed)(samples), xattr.integrate(f, samples, args=args))


SHARED = {
    "gradient": {},
    "lrp": {},
    "integrated_gradients": {"quadrature": table.RULE},
    "deep_lift": {},
    "conductance": {"quadrature": table.RULE, "layer": "hidden"},
}
DIFFERENT = [(method, what) for method in SHARED for what in ("label", "parameters", "baseline")]


@pytest.mark.parametrize(("method", "different"), DIFFERENT[:2] + DIFFERENT[3:5] + DIFFERENT[6:])
def test_a_shared_input_and_what_differs_between_devices(method, different):
    """The gradient of an x that all devices share is not summed over them."""
    model = table.model("tanh")
    x, (label, params) = model.inputs(), model.args()
    own = {
        "label": jnp.arange(8) % 3,
        "parameters": table.stack([model.args(seed)[1] for seed in range(8)]),
        "baseline": jnp.stack([model.inputs(seed) for seed in range(8)]),
    }[different]

    def attribute(one):
        ends = (x, one) if different == "baseline" else (x,)
        args = (
            one if different == "label" else label,
            one if different == "parameters" else params,
        )
        return getattr(xattr, method)(model.f, *ends, args=args, **SHARED[method])

    batched = jax.vmap(attribute)
    mesh, spread_out = spread(own, AxisType.Auto)
    mapped = jax.shard_map(batched, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
    table.close(jax.jit(mapped)(spread_out), batched(own))
