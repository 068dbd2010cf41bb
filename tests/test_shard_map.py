"""Every method over eight devices: shard_map, pmap, sharded arrays under jit."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tests import table


def batch(method, model="plain"):
    attribute, make, args = table.case(method, model)
    examples = jnp.stack([make(seed) for seed in range(8)])
    batched = jax.vmap(lambda x: attribute(x, jax.random.key(4), *args))
    return batched, examples, batched(examples)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("method", table.METHODS)
def test_shard_map_over_examples(method, axis_type):
    batched, examples, expected = batch(method)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    examples = jax.device_put(examples, NamedSharding(mesh, P("batch")))
    mapped = jax.shard_map(batched, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
    table.close(jax.jit(mapped)(examples), expected)


@pytest.mark.parametrize("model", ["linen", "nnx"])
def test_shard_map_of_flax_models(model):
    batched, examples, expected = batch("integrated_gradients", model)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType.Auto,))
    mapped = jax.shard_map(batched, mesh=mesh, in_specs=P("batch"), out_specs=P("batch"))
    table.close(jax.jit(mapped)(examples), expected)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("method", table.METHODS)
def test_jit_with_sharded_examples(method, axis_type):
    batched, examples, expected = batch(method)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(axis_type,))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(examples, NamedSharding(mesh, P("batch")))
        result = jax.jit(batched)(sharded)
    assert len(result.sharding.device_set) == 8
    table.close(result, expected)


@pytest.mark.parametrize("method", table.METHODS)
def test_pmap(method):
    batched, examples, expected = batch(method)
    result = jax.pmap(batched)(examples[:, None])
    table.close(result[:, 0], expected)


def test_nodes_over_devices_with_a_visible_sum():
    """Steps sharded by hand: each device takes some of the nodes, psum adds."""
    import xattr

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
