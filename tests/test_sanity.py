"""Randomized parameters and labels: which leaves change, to what, and that nothing else does."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen, nnx
from flax.core import FrozenDict
from hypothesis import given
from hypothesis import strategies as st

import xattr
from tests import table
from xattr import sanity

KEY = jax.random.key(7)


class Pair(NamedTuple):
    first: dict
    second: dict


def dense(seed, dtype=np.float32):
    random = np.random.default_rng(seed)
    return {
        "kernel": jnp.asarray(random.standard_normal((3, 3)), dtype),
        "bias": jnp.asarray(random.standard_normal(3), dtype),
    }


def mixed():
    """Dicts, a list, a tuple with names, a count, and two names with a common beginning."""
    return {
        "conv": dense(0),
        "conv1": dense(1),
        "encoder": [dense(2), Pair(dense(3), {"scale": jnp.ones(3), "steps": jnp.int32(9)})],
        "head": jnp.ones((3, 2)),
    }


CONTAINERS = {
    "mixed": (mixed, ["head", "encoder/1/first", "encoder/0", "conv"]),
    "frozen": (lambda: FrozenDict({"a": dense(0), "b": dense(1), "c": dense(2)}), ["c", "b", "a"]),
    "slash in a key": (
        lambda: {"mlp/~/linear": dense(0), "out": dense(1)},
        ["out", "mlp/~/linear"],
    ),
    "several names": (
        lambda: {"params": {"out": dense(0), "norm": dense(1)}, "stats": {"norm": dense(2)}},
        ["params/out", ("params/norm", "stats/norm")],
    ),
    "module": (lambda: table.NnxMLP(), ["out", "hidden"]),
}


def paths_of(names):
    return (names,) if isinstance(names, str) else tuple(names)


def by_name(tree):
    """Leaf by name, with the name written by hand: keys of every kind joined by slashes."""

    def part(key):
        return next(
            str(getattr(key, kind)) for kind in ("key", "idx", "name") if hasattr(key, kind)
        )

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(map(part, path)): np.asarray(leaf) for path, leaf in leaves}


def belongs(name, layers):
    return any((name + "/").startswith(layer + "/") for layer in layers)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_exactly_the_named_layers_differ_at_every_stage(mode, container):
    make, order = CONTAINERS[container]
    params = make()
    stages = getattr(sanity, mode)(params, KEY, order=order)
    assert jax.tree.structure(stages) == jax.tree.structure(params)
    before, after = by_name(params), by_name(stages)
    for stage in range(len(order) + 1):
        chosen = order[:stage] if mode == "cascading" else order[stage - 1 : stage] * (stage > 0)
        layers = [name for names in chosen for name in paths_of(names)]
        alone = by_name(sanity.randomize(params, KEY, layers=layers))
        for name, leaf in before.items():
            found = after[name][stage]
            assert found.dtype == leaf.dtype
            np.testing.assert_array_equal(found, alone[name])
            if belongs(name, layers) and np.issubdtype(leaf.dtype, np.floating):
                assert (found != leaf).all()
                assert (np.abs(found) <= 0.02).all()
                assert len(np.unique(found)) == found.size
            else:
                np.testing.assert_array_equal(found, leaf)
    if mode == "cascading":  # and what is random stays as it was drawn
        for k, names in enumerate(order):
            for name in filter(lambda name: belongs(name, paths_of(names)), after):
                random = after[name][k + 1 :]
                np.testing.assert_array_equal(random, np.broadcast_to(random[0], random.shape))


def test_values_depend_on_the_key_and_the_name_alone():
    params = mixed()
    run = lambda key, *layers: by_name(sanity.randomize(params, key, layers=layers))
    whole, part = run(KEY, "encoder"), run(KEY, "head", "encoder/0/kernel")
    np.testing.assert_array_equal(whole["encoder/0/kernel"], part["encoder/0/kernel"])
    everything, again, other = (run(key, *params) for key in (KEY, KEY, jax.random.key(8)))
    for name in everything:
        np.testing.assert_array_equal(everything[name], again[name])
    drawn = [everything[name] for name in everything if name.endswith("kernel")]
    drawn += [other[name] for name in other if name.endswith("kernel")]
    assert len(drawn) == 8
    assert len(np.unique(np.stack(drawn))) == 8 * 9  # no two layers, and no two keys, share any
    renamed = sanity.randomize({"vonc": params["conv"]}, KEY, layers="vonc")
    assert (renamed["vonc"]["kernel"] != everything["conv/kernel"]).all()


def test_truncated_normal_has_the_distribution_of_tensorflows():
    params = {"w": jnp.zeros((200, 200)), "b": jnp.zeros(40_000)}
    for std, mean in ((0.01, 0.0), (0.5, 3.0)):
        new = sanity.truncated_normal(std=std, mean=mean)(params, KEY)
        reference = scipy.stats.truncnorm(-2, 2, loc=mean, scale=std)
        for leaf in new.values():
            values = np.asarray(leaf, np.float64).ravel()
            assert np.abs(values - mean).max() <= 2 * std * (1 + 1e-6)
            assert abs(values.mean() - mean) < 4 * std * 0.88 / 200
            assert abs(values.std() / std - 0.8796) < 0.01  # not corrected to 1
            assert scipy.stats.kstest(values, reference.cdf).pvalue > 0.01
    default = sanity.randomize(params, KEY, layers="w")["w"]
    np.testing.assert_array_equal(default, sanity.truncated_normal(std=0.01)(params, KEY)["w"])


def test_initialiser_of_the_papers_code():
    params = {"conv": {"kernel": jnp.ones((3, 3, 1, 8)), "bias": jnp.ones(8)}, "out": dense(0)}
    init = sanity.truncated_normal(std=0.1, bias=0.1)
    new = sanity.randomize(params, KEY, layers=["conv"], init=init)
    np.testing.assert_array_equal(new["conv"]["bias"], np.full(8, 0.1, np.float32))
    kernel = np.asarray(new["conv"]["kernel"])
    assert 0.02 < np.abs(kernel).max() <= 0.2 * (1 + 1e-6)
    assert len(np.unique(kernel)) == kernel.size
    table.close(new["out"], params["out"], 0)


class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(2, name="out")(jnp.tanh(linen.Dense(3, name="hidden")(x)))


def test_the_networks_own_initialiser():
    x = jnp.ones(3)
    start = lambda key: Net().init(key, x)["params"]
    params = jax.tree.map(lambda leaf: leaf + 5, start(KEY))  # as if trained
    stages = sanity.cascading(
        params, KEY, order=["out", "hidden"], init=lambda params, key: start(key)
    )
    for layer, first in (("out", 1), ("hidden", 2)):
        for name, leaf in stages[layer].items():
            np.testing.assert_array_equal(leaf[:first], np.stack([params[layer][name]] * first))
            rest = leaf[first:]
            np.testing.assert_array_equal(rest, np.stack([start(KEY)[layer][name]] * len(rest)))


def test_output_of_a_linear_model_is_explained_by_its_new_weights():
    x, label = jnp.arange(3.0), 1
    params = {"output": {"w": jnp.eye(3), "b": jnp.zeros(3)}}
    f = xattr.targets.logit(lambda x, p: x @ p["output"]["w"] + p["output"]["b"])
    stages = sanity.cascading(params, KEY, order=["output"])
    maps = jax.vmap(lambda p: xattr.gradient(f, x, args=(label, p)))(stages)
    new = stages["output"]["w"][1]
    np.testing.assert_array_equal(maps, np.stack([np.eye(3)[label], new[:, label]]))


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_one_vmapped_call_attributes_all_stages(mode):
    params, x = table.parameters(), table.inputs()
    order = ["w2", ("w1", "b1")]
    f = xattr.targets.logit(table.mlp)
    init = sanity.truncated_normal(std=0.5)
    attribute = lambda p: xattr.integrated_gradients(f, x, quadrature=table.RULE, args=(2, p))
    maps = jax.vmap(attribute)(getattr(sanity, mode)(params, KEY, order=order, init=init))
    choices = {
        "cascading": [[], ["w2"], ["w2", "w1", "b1"]],
        "independent": [[], ["w2"], ["w1", "b1"]],
    }[mode]
    assert len(maps) == 3
    for found, layers in zip(maps, choices, strict=True):
        stage = sanity.randomize(params, KEY, layers=layers, init=init)
        table.close(found, attribute(stage), 1e-5)
    assert all(float(jnp.abs(maps[i] - maps[j]).max()) > 1e-3 for i in range(3) for j in range(i))


def test_under_jit_and_vmap_over_keys():
    params = mixed()
    run = lambda params, key: sanity.cascading(params, key, order=["head", "encoder"])
    keys = jax.random.split(KEY, 2)
    batched = jax.jit(jax.vmap(run, in_axes=(None, 0)))(params, keys)
    for i in range(2):
        table.close(jax.tree.map(lambda leaf: leaf[i], batched), run(params, keys[i]), 1e-6)
    assert (batched["head"][0, 1:] != batched["head"][1, 1:]).all()
    old, new = (
        sanity.randomize(params, key, layers="head")["head"]
        for key in (jax.random.PRNGKey(7), KEY)  # old style and new
    )
    np.testing.assert_array_equal(old, new)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_leaves_keep_their_precision(dtype):
    params = {"w": jnp.ones((50, 2), dtype), "other": jnp.ones(2, "float32")}
    stages = sanity.independent(params, KEY, order=["w", "other"])
    assert stages["w"].dtype == dtype
    assert stages["other"].dtype == jnp.float32
    single = sanity.randomize({"w": jnp.ones((50, 2), "float32")}, KEY, layers="w")["w"]
    if dtype != "float64":  # drawn in float32, then rounded
        np.testing.assert_array_equal(stages["w"][1], single.astype(dtype))
    else:
        drawn = np.asarray(stages["w"][1])
        assert (drawn.astype("float32") != drawn).any()


def test_gradients_reach_the_layers_that_are_left():
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    total = lambda params: sum(map(jnp.sum, sanity.randomize(params, KEY, layers="b").values()))
    slope = jax.grad(total)(params)
    assert (slope["a"] == 1).all()
    assert (slope["b"] == 0).all()


ERRORS = {
    "unknown": (
        lambda: sanity.randomize(mixed(), KEY, layers=["head", "cnov1"]),
        ValueError,
        "`layers` has 'cnov1', which is not a layer of `params` with floating arrays: did you mean "
        "'conv1'? Its layers are ['conv', 'conv1', 'encoder', 'head']",
    ),
    "half a name": (
        lambda: sanity.cascading(mixed(), KEY, order=["enc"]),
        ValueError,
        "`order` has 'enc'",
    ),
    "inner name": (
        lambda: sanity.randomize({"params": mixed()}, KEY, layers="conv1"),
        ValueError,
        "did you mean 'params/conv1'? Its layers are ['params']",
    ),
    "nothing floating": (
        lambda: sanity.randomize(mixed(), KEY, layers="encoder/1/second/steps"),
        ValueError,
        "not a layer of `params` with floating arrays",
    ),
    "repeated": (
        lambda: sanity.cascading(mixed(), KEY, order=["head", "conv", "head"]),
        ValueError,
        "`order` has 'head' and 'head', which overlap",
    ),
    "overlapping": (
        lambda: sanity.independent(mixed(), KEY, order=["encoder/0", "encoder"]),
        ValueError,
        "`order` has 'encoder/0' and 'encoder', which overlap",
    ),
    "one name as order": (
        lambda: sanity.cascading(mixed(), KEY, order="head"),
        TypeError,
        "`order` must be a sequence of names, not 'head': write ['head']",
    ),
    "an index": (
        lambda: sanity.cascading(mixed(), KEY, order=[0]),
        TypeError,
        "`order` must name layers, but has 0",
    ),
    "seed for a key": (
        lambda: sanity.randomize(mixed(), 0, layers="head"),
        TypeError,
        "`key` must be one random key",
    ),
    "another structure": (
        lambda: sanity.randomize(mixed(), KEY, layers="head", init=lambda params, key: {}),
        ValueError,
        "`init(params, key)` must have the structure of `params`",
    ),
    "another shape": (
        lambda: sanity.randomize(
            {"a": jnp.ones(3)}, KEY, layers="a", init=lambda params, key: {"a": jnp.ones(())}
        ),
        ValueError,
        "`init` gives 'a' the shape (), but in `params` it has (3,)",
    ),
    "negative std": (
        lambda: sanity.truncated_normal(std=-1.0),
        ValueError,
        "`std` must be 0 or more",
    ),
    "one label": (
        lambda: sanity.randomize_labels(3, KEY),
        ValueError,
        "`labels` must have an axis",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input(case):
    call, error, text = ERRORS[case]
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_module_with_random_state():
    """Keys and counts of a module's dropout are no parameters."""

    class Noisy(nnx.Module):
        def __init__(self):
            self.out = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
            self.dropout = nnx.Dropout(0.1, rngs=nnx.Rngs(1))

    net = Noisy()
    stages = sanity.cascading(net, KEY, order=["out"])
    assert stages.out.kernel[...].shape == (2, 2, 2)
    assert stages.dropout.rngs.count[...].tolist() == [0, 0]
    assert stages.dropout.rngs.key[...].shape == (2,)


@given(st.integers(0, 10**6), st.sampled_from(["int32", "uint8", "one-hot"]))
def test_shuffled_labels_keep_the_frequencies(seed, kind):
    labels = np.random.default_rng(seed).integers(0, 5, 64)
    given_labels = np.eye(5, dtype=np.float32)[labels] if kind == "one-hot" else labels.astype(kind)
    new = np.asarray(sanity.randomize_labels(given_labels, jax.random.key(seed)))
    assert new.dtype == given_labels.dtype
    if kind == "one-hot":
        assert (new.sum(axis=1) == 1).all()
        new = new.argmax(axis=1)
    np.testing.assert_array_equal(np.bincount(new, minlength=5), np.bincount(labels, minlength=5))
    assert (new != labels).mean() > 0.3


def test_all_permutations_are_as_likely():
    keys = jax.random.split(KEY, 1200)
    new = jax.vmap(lambda key: sanity.randomize_labels(jnp.arange(3), key))(keys)
    _, counts = np.unique(np.asarray(new), axis=0, return_counts=True)
    assert len(counts) == 6
    assert scipy.stats.chisquare(counts).pvalue > 0.01


def test_names_may_come_from_an_iterator():
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    key = jax.random.key(0)
    new = sanity.randomize(params, key, layers=reversed(["a", "b"]))
    assert not any((leaf == 1).any() for leaf in new.values())
    stages = sanity.cascading(params, key, order=(iter([name]) for name in ("b", "a")))
    np.testing.assert_array_equal(stages["a"][-1], new["a"])
    with pytest.raises(ValueError, match="`layers`"):
        sanity.randomize(params, key, layers=(name for name in ["c"]))
