"""jax.checkpoint around a method, and around the function explained, changes nothing."""

import jax
import jax.numpy as jnp
import pytest

from tests import table


@pytest.mark.parametrize(("method", "name"), table.in_turn(2)[::2])  # slopes are costly
def test_checkpoint_changes_nothing(method, name):
    model, row, key = table.model(name), table.ROWS[method], jax.random.key(5)
    label, *params = model.args()
    point = (model.inputs(), params)
    saved = model._replace(f=jax.checkpoint(model.f), scores=jax.checkpoint(model.scores))
    prepared = row.prepare(model)

    def attribute(model, point):
        return row.attribute(model, point[0], key, (label, *point[1]), prepared)

    if row.in_checkpoint:  # the method sees no layers of f inside a checkpoint, and says so
        with pytest.raises((ValueError, NotImplementedError), match=row.in_checkpoint):
            jax.eval_shape(lambda point: attribute(saved, point), point)
    if row.in_checkpoint or method == "relevance_report":  # which lists none inside one
        saved = model

    def loss(attribute, model, point):
        maps = attribute(model, point)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(maps)), maps

    slope = jax.value_and_grad(loss, 2, has_aux=True) if row.differentiable else loss
    remembering = jax.checkpoint(attribute, static_argnums=0)
    found, expected = jax.jit(
        lambda point: (slope(remembering, saved, point), slope(attribute, model, point))
    )(point)
    table.close(found, expected)
    assert table.size(expected[0]) > 1e-3
    if name != "nnx":  # a ReLU network that carries its parameters: its slopes may all be 0
        assert table.size(expected[1]) > 1e-3  # the slopes, or the maps
