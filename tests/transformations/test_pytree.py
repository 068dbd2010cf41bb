"""A tree is attributed as the flat array of its numbers is, and keeps its structure and dtypes."""

import jax
import jax.numpy as jnp
import pytest

import xattr
from tests import table

TREES = {"tree", "relu_tree"}
CASES = [(m, n) for m, n in table.CASES if n in TREES]


def flat(x):
    """The numbers of a tree in one array of float64."""
    return jnp.concatenate([leaf.astype("float64").ravel() for leaf in jax.tree.leaves(x)])


def mixed(x):
    """Leaves of two dtypes."""
    return {"image": x["image"], "rest": (x["rest"][0].astype("float32"), x["rest"][1])}


def from_array(array):
    return {"image": array[:2, None], "rest": (array[2:4], array[4])}


def from_list(leaves):
    return {"image": leaves[0], "rest": (leaves[1], leaves[2])}


@pytest.mark.parametrize(("method", "name"), CASES)
@pytest.mark.usefixtures("x64")
def test_tree_is_attributed_as_an_array(method, name):
    row, model, key = table.ROWS[method], table.model(name), jax.random.key(3)
    x, args = mixed(model.inputs(0, "float64")), model.args(0, "float64")
    found = jax.jit(table.case(method, name))(x, key, *args)
    if row.like_x:
        assert jax.tree.structure(found) == jax.tree.structure(x)
        assert [(a.shape, a.dtype) for a in jax.tree.leaves(found)] == [
            (a.shape, a.dtype) for a in jax.tree.leaves(x)
        ]

    # Every leaf has noise of its own: then the same leaves in a list.
    build, other = (from_list, jax.tree.leaves(x)) if row.noisy else (from_array, flat(x))
    scores = lambda x, *params: model.scores(build(x), *params)
    rebuilt = model._replace(scores=scores, f=xattr.targets.logit(scores))
    prepared = row.prepare(model)
    attribute = jax.jit(lambda x: row.attribute(rebuilt, x, key, args, prepared))
    expected = attribute(other)
    if method == "interior_gradients":
        expected = jax.vmap(from_array)(expected)
    elif row.like_x and not row.noisy:
        expected = from_array(expected)
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for ours, theirs in leaves:
        table.close(ours, theirs, 1e-6)  # a leaf of float32 is rounded
    assert table.size(found) > 1e-3
