"""Text: attributions at the embedding equal those of a model that takes embeddings itself."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name

import xattr
from xattr import tokens
from xattr.testing import count_compilations

WORDS, WIDTH, CLASSES, LENGTH = 11, 6, 3, 5
PAD = 0
random = np.random.default_rng(0)
TABLE = jnp.asarray(random.standard_normal((WORDS, WIDTH)), jnp.float32)
WEIGHTS = jnp.asarray(random.standard_normal((WIDTH, CLASSES)), jnp.float32)
PLACES = jnp.asarray(random.standard_normal((LENGTH + 1, WIDTH)), jnp.float32)
IDS = jnp.array([4, 7, 4, 2, PAD])
PARAMS = {"table": TABLE, "weights": WEIGHTS}


def head(embeddings, params, mask=None):
    """The oracle: what follows the look-up, written as a function of embeddings."""
    h = jnp.tanh(embeddings * (1 + jnp.roll(embeddings, 1, axis=0)))
    h = h if mask is None else h * mask[:, None]
    return h.sum(axis=0) @ params["weights"]


def plain(ids, params):
    return head(params["table"][ids], params)


def taken(ids, params):
    return head(jnp.take(params["table"], ids, axis=0), params)


def clipped(ids, params):
    return head(params["table"].at[jnp.clip(ids - 1 + 1, 0, WORDS - 1)].get(mode="clip"), params)


def in_a_batch(ids, params):
    return jax.vmap(lambda ids: plain(ids, params))(ids[None])[0]


def in_a_checkpoint(ids, params):
    return jax.checkpoint(plain)(ids, params)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, ids):
        table = nn.Embed(WORDS, WIDTH, embedding_init=lambda *_: TABLE)
        h = table(ids)
        h = jnp.tanh(h * (1 + jnp.roll(h, 1, axis=0)))
        return nn.Dense(CLASSES, use_bias=False, kernel_init=lambda *_: WEIGHTS)(h.sum(axis=0))


class Nnx(nnx.Module):
    def __init__(self):
        self.table = nnx.Embed(WORDS, WIDTH, rngs=nnx.Rngs(0))
        self.table.embedding[...] = TABLE
        self.weights = nnx.Param(WEIGHTS)

    def __call__(self, ids):
        return head(self.table(ids), {"weights": self.weights[...]})


def linen(ids, params):
    return Linen().apply({"params": params}, ids)


MODELS = {
    "plain": (plain, (PARAMS,)),
    "take": (taken, (PARAMS,)),
    "clip": (clipped, (PARAMS,)),
    "vmap": (in_a_batch, (PARAMS,)),
    "checkpoint": (in_a_checkpoint, (PARAMS,)),
    "linen": (linen, (Linen().init(jax.random.key(0), IDS)["params"],)),
    "nnx": (Nnx(), ()),
}
METHODS = {
    "gradient": xattr.gradient,
    "ig": xattr.integrated_gradients,
    "lrp": xattr.lrp,
    "deep_lift": functools.partial(xattr.deep_lift, variant="rescale"),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_equal_to_a_model_of_embeddings(name, method):
    model, args = MODELS[name]
    embed, from_embeddings = tokens.at_embedding(model)
    x = embed(IDS, *args)
    oracle = xattr.targets.logit(lambda x, params: head(x, params))
    if name == "vmap":  # a batch of one
        x, oracle = x[0], oracle
        from_one = lambda x, *args: from_embeddings(x[None], *args)
    else:
        from_one = from_embeddings
    np.testing.assert_array_equal(x, TABLE[IDS])
    np.testing.assert_allclose(from_one(x, IDS, *args), head(x, PARAMS), rtol=1e-5)
    found = METHODS[method](xattr.targets.logit(from_one), x, args=(1, IDS, *args))
    expected = METHODS[method](oracle, x, args=(1, PARAMS))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_of_a_table_that_is_tied_only_the_look_up_is_attributed():
    def tied(ids, table):
        return table @ jnp.tanh(table[ids]).sum(axis=0)

    embed, from_embeddings = tokens.at_embedding(tied)
    f = xattr.targets.logit(from_embeddings)
    found = xattr.gradient(f, embed(IDS, TABLE), args=(3, IDS, TABLE))
    expected = np.asarray(TABLE)[3] * (1 - np.tanh(TABLE)[IDS] ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def masked(ids, mask, params):
    """Attention whose padding is masked, at places that are counted from the padding."""
    place = jnp.where(ids != PAD, jnp.cumsum(ids != PAD), 0)
    x = params["table"][ids] + PLACES[place]
    scores = jnp.where(mask, x @ x.T, -jnp.inf)
    h = jax.nn.softmax(scores, axis=-1) @ x
    return jnp.where(mask[:, None], h, 0).sum(axis=0) @ params["weights"]


def test_padding_has_exactly_nothing():
    mask = IDS != PAD
    embed, from_embeddings = tokens.at_embedding(masked)
    args = (IDS, mask, PARAMS)
    x = embed(*args)
    np.testing.assert_array_equal(x, TABLE[IDS])  # the words, not their places
    f = xattr.targets.probability(from_embeddings)
    for base in (None, tokens.baseline(x, fill=x[4], keep=~mask)):
        a = tokens.per_token(xattr.integrated_gradients(f, x, base, args=(1, *args)))
        assert a[4] == 0
        assert np.abs(a[:4]).min() > 0
        start = jnp.zeros_like(x) if base is None else base
        change = f(x, 1, *args) - f(start, 1, *args)
        np.testing.assert_allclose(a.sum(), change, rtol=1e-3)
    unmasked = xattr.gradient(f, x, args=(1, IDS, jnp.ones(5, bool), PARAMS))
    assert tokens.per_token(unmasked)[4] != 0
    found = tokens.per_token(unmasked, where=mask)
    np.testing.assert_array_equal(found, np.where(mask, tokens.per_token(unmasked), 0))


def test_new_ids_labels_and_parameters_do_not_recompile():
    model = lambda ids, params: plain(ids, params)  # one that no other test has compiled
    embed, from_embeddings = tokens.at_embedding(model)
    f = xattr.targets.logit(from_embeddings)

    def attribute(ids, label, params):
        x = embed(ids, params)
        a = xattr.integrated_gradients(f, x, args=(label, ids, params))
        return np.asarray(tokens.per_token(a))

    others = (IDS[::-1], 2, jax.tree.map(lambda leaf: 2 * leaf, PARAMS))
    with count_compilations() as before:
        first = attribute(IDS, 0, PARAMS)
    with count_compilations() as count:
        second = attribute(*others)
        embed, from_embeddings = tokens.at_embedding(model)  # made anew
        f = xattr.targets.logit(from_embeddings)
        third = attribute(IDS, 0, PARAMS)
    assert before.total() > 0
    assert count.total() == 0
    assert np.abs(second - first).max() > 0.1
    np.testing.assert_array_equal(first, third)


def test_under_jit_vmap_and_grad():
    embed, from_embeddings = tokens.at_embedding(plain)
    f = xattr.targets.logit(from_embeddings)

    @jax.jit
    def total(params, ids):
        a = xattr.integrated_gradients(f, embed(ids, params), args=(1, ids, params))
        return tokens.per_token(a)

    batch = jnp.stack([IDS, IDS[::-1]])
    found = jax.vmap(total, (None, 0))(PARAMS, batch)
    np.testing.assert_allclose(found, [total(PARAMS, ids) for ids in batch], rtol=1e-5, atol=1e-6)
    slope = jax.grad(lambda params: total(params, IDS).sum())(PARAMS)
    expected = jax.grad(lambda p: (plain(IDS, p) - head(0 * TABLE[IDS], p))[1])(PARAMS)
    np.testing.assert_allclose(slope["weights"], expected["weights"], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(slope["table"], expected["table"], rtol=1e-3, atol=1e-4)


def test_a_named_value_is_cut_where_there_is_no_look_up():
    def one_hot(ids, table):
        x = checkpoint_name(jax.nn.one_hot(ids, WORDS) @ table, "words")
        return jnp.tanh(x).sum(axis=0)

    embed, from_embeddings = tokens.at_embedding(one_hot, layer="words")
    np.testing.assert_allclose(embed(IDS, TABLE), TABLE[IDS], rtol=1e-6)
    np.testing.assert_allclose(
        from_embeddings(TABLE[IDS], IDS, TABLE), jnp.tanh(TABLE[IDS]).sum(axis=0), rtol=1e-6
    )
    embed, _ = tokens.at_embedding(linen, layer="Embed_0")
    np.testing.assert_array_equal(embed(IDS, MODELS["linen"][1][0]), TABLE[IDS])


def test_hashed_ids_are_looked_up():
    def hashed(ids, table):
        return jnp.tanh(table[(ids * 7 + 3) % WORDS]).sum(axis=0)

    embed, from_embeddings = tokens.at_embedding(hashed)
    x = embed(IDS, TABLE)
    np.testing.assert_array_equal(x, TABLE[(IDS * 7 + 3) % WORDS])
    np.testing.assert_allclose(from_embeddings(x, IDS, TABLE), jnp.tanh(x).sum(axis=0), rtol=1e-6)


def in_a_loop(ids, table):
    return lax.scan(lambda h, i: (jnp.tanh(h + table[i]), None), jnp.zeros(WIDTH), ids)[0]


def in_a_loop_after_the_first(ids, table):
    return in_a_loop(ids[1:], table) + table[ids[0]]


def in_a_function_of_its_own(ids, table):
    look_up = jax.custom_jvp(lambda table, ids: table[ids])
    look_up.defjvp(lambda at, moves: (look_up(*at), moves[0][at[1]]))
    return look_up(table, ids).sum()


def one_hot_at_counted_places(ids, table):
    places = jnp.cumsum(ids != PAD, dtype=jnp.int32)
    return (jax.nn.one_hot(ids, WORDS) @ table + PLACES[places]).sum()


def two_tables(ids, table):
    return (table[ids] * (2 * table)[ids]).sum(axis=0)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (in_a_loop, ValueError, "looks the ids up inside a loop, a branch or a function with"),
        (in_a_loop_after_the_first, ValueError, "its own derivative, at test_tokens.py"),
        (in_a_function_of_its_own, ValueError, "its own derivative, at test_tokens.py"),
        (one_hot_at_counted_places, ValueError, "in no table, but only what it counts in them, at"),
        (two_tables, ValueError, "looks the ids up 2 times: float32[5,6] at test_tokens.py"),
        (lambda ids, table: ids.sum() * 2, ValueError, "looks the ids up in no table"),
        (lambda ids, table: (table[ids], 1.0), TypeError, "`model` must return one array"),
    ],
)
def test_what_cannot_be_cut(model, error, text):
    embed, _ = tokens.at_embedding(model)
    with pytest.raises(error, match=re.escape(text)):
        embed(IDS, TABLE)


def test_embeddings_of_another_shape():
    _, from_embeddings = tokens.at_embedding(plain)
    with pytest.raises(
        ValueError, match=r"`embeddings` must have the shape of the layer, \(5, 6\)"
    ):
        from_embeddings(TABLE[:4], IDS, PARAMS)
    with pytest.raises(TypeError, match="`model` must be a function"):
        tokens.at_embedding(3)
    with pytest.raises(TypeError, match="`layer` must be the name of a layer"):
        tokens.at_embedding(plain, layer=3)


def test_baselines():
    x = TABLE[IDS]
    keep = IDS == 4
    np.testing.assert_array_equal(tokens.baseline(x), 0 * x)
    for fill in (TABLE[3], TABLE.mean(axis=0), TABLE[jnp.full_like(IDS, 3)]):
        found = tokens.baseline(x, fill=fill, keep=keep)
        np.testing.assert_array_equal(found, np.where(keep[:, None], x, fill))
    pair = {"a": x, "b": jnp.stack([x, x])}
    found = tokens.baseline(pair, keep={"a": keep, "b": jnp.stack([keep, ~keep])})
    np.testing.assert_array_equal(found["a"], np.where(keep[:, None], x, 0))
    np.testing.assert_array_equal(found["b"][1], np.where(keep[:, None], 0, x))


def test_sums_of_a_pytree_and_of_batches():
    a = {"a": TABLE, "b": jnp.stack([TABLE, -TABLE])}
    found = tokens.per_token(a)
    np.testing.assert_allclose(found["a"], TABLE.sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found["b"], [TABLE.sum(axis=1), -TABLE.sum(axis=1)], rtol=1e-6)
    ones = jnp.full((1, 3000), 1, jnp.bfloat16)
    assert tokens.per_token(ones) == 3000  # summed in bfloat16 it would stay at 256


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda x: tokens.baseline(x, keep=IDS), TypeError, "`keep` must be boolean, but has"),
        (lambda x: tokens.baseline(x, keep=IDS[1:] == 0), ValueError, "`keep` must have one bool"),
        (lambda x: tokens.baseline(x, fill=jnp.ones(3)), ValueError, "`fill` has shape (3,)"),
        (lambda x: tokens.per_token(x, where=x), TypeError, "`where` must be boolean"),
        (lambda x: tokens.per_token(IDS), TypeError, "`attributions` must be floating"),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call(TABLE[IDS])


def matrix(x, weights):
    """One row of outputs for each place: shape (LENGTH, CLASSES)."""
    return jnp.tanh(x @ weights) * jnp.tanh(x[::-1] @ weights)


@pytest.mark.parametrize("method", METHODS)
def test_every_output_is_the_loop_over_the_outputs(method):
    x = TABLE[IDS]
    found = tokens.every_output(METHODS[method])(matrix, x, args=(WEIGHTS,))
    assert found.shape == (LENGTH, CLASSES, LENGTH, WIDTH)
    for i, j in np.ndindex(LENGTH, CLASSES):
        one = METHODS[method](lambda x, w, i=i, j=j: matrix(x, w)[i, j], x, args=(WEIGHTS,))
        np.testing.assert_allclose(found[i, j], one, rtol=1e-4, atol=1e-5)


def test_every_output_takes_a_baseline_and_options_and_is_compiled_once():
    attribute = tokens.every_output(xattr.integrated_gradients)
    x = TABLE[IDS]
    options = {"quadrature": xattr.quadrature.gauss_legendre(32)}
    a = attribute(matrix, x, x[::-1] / 2, args=(WEIGHTS,), **options)
    change = matrix(x, WEIGHTS) - matrix(x[::-1] / 2, WEIGHTS)
    np.testing.assert_allclose(a.sum(axis=(2, 3)), change, atol=1e-4)
    others, weights = (2 * x, x), 3 * WEIGHTS
    with count_compilations() as count:
        attribute = tokens.every_output(xattr.integrated_gradients)
        b = attribute(matrix, *others, args=(weights,), **options)
    assert count.total() == 0
    assert np.abs(a - b).max() > 0.1


def test_the_forward_pass_is_taken_once_for_all_outputs():
    """One evaluation counts twice what a matrix product of the way back does; see the docstring."""
    heavy = jnp.eye(WIDTH)

    def f(x, w):
        for _ in range(40):
            x = jnp.tanh(x @ heavy)
        return x[0] @ w

    def operations(run):
        return jax.jit(run).lower(TABLE[IDS], WEIGHTS).compile().cost_analysis()["flops"]

    every = tokens.every_output(xattr.gradient)
    together = operations(lambda x, w: every(f, x, args=(w,)))
    one = operations(lambda x, w: xattr.gradient(lambda x, w: f(x, w)[0], x, args=(w,)))
    back = (together - one) / (CLASSES - 1)
    assert back < 0.6 * one


def test_every_output_needs_one_array():
    with pytest.raises(TypeError, match="`f` must return one array, but returned a tuple"):
        tokens.every_output(xattr.gradient)(lambda x: (x, x), TABLE)
    with pytest.raises(TypeError, match="`method` must be a function"):
        tokens.every_output(3)
