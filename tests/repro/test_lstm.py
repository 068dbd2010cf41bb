"""The LSTM language model: its equations, its batches, its training."""

import jax
import numpy as np
import optax
import pytest

from paper_repro.data.text import Corpus
from paper_repro.networks import lstm, saved

TINY = lstm.Recipe(words=6, width=5, steps=4, batch=3, epochs=3, constant=1)
random = np.random.default_rng(0)


@pytest.fixture
def corpus():
    """Words 0 to 5 in turn, each a text that a network can learn, and an empty cache."""
    turns = np.arange(120, dtype=np.int32) % 6
    return Corpus("turns", tuple("abcdef"), turns, turns[:40], turns[:40])


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XATTR_CACHE", str(tmp_path))
    with jax.numpy_dtype_promotion("standard"):
        yield


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def by_hand(params, ids, width):
    """The oracle in NumPy: Zaremba et al., eqs. of §3.1, without dropout."""
    layers = [(params[f"into{i}"], params[f"back{i}"]) for i in (0, 1)]
    states = [(np.zeros(width), np.zeros(width)) for _ in layers]
    logits = []
    for word in ids:
        x = params["table"]["embedding"][word]
        for n, (into, back) in enumerate(layers):
            h, c = states[n]
            z = x @ into["kernel"] + into["bias"] + h @ back
            i, f, g, o = (z[k * width : (k + 1) * width] for k in range(4))
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            x = sigmoid(o) * np.tanh(c)
            states[n] = (x, c)
        logits.append(x @ params["output"]["kernel"] + params["output"]["bias"])
    return np.array(logits), states


def fresh(recipe=TINY):
    ids = np.zeros(recipe.steps, np.int32)
    params = lstm.Lstm(recipe).init(jax.random.key(0), ids, lstm.zeros(recipe))["params"]
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) * 10, params)


def test_the_equations_of_the_paper():
    params, ids = fresh(), np.array([3, 1, 4, 1, 5])
    expected, states = by_hand(params, ids, TINY.width)
    single = jax.tree.map(np.float32, params)
    found, after = lstm.Lstm(TINY).apply({"params": single}, ids, lstm.zeros(TINY))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(after, states, rtol=1e-4, atol=1e-5)
    last = lstm.next_word(TINY, ids, single)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-4, atol=1e-5)


def test_weights_start_within_the_scale():
    params = jax.tree.map(lambda leaf: leaf / 10, fresh(TINY._replace(words=500)))
    leaves = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    assert 0.099 < np.abs(leaves).max() <= 0.1
    assert abs(leaves.mean()) < 0.005


def test_pieces_go_on_along_each_row(corpus):
    pieces = lstm._pieces(TINY, corpus.train)
    assert pieces.shape == (9, 3, 5)
    rows = corpus.train.reshape(3, 40)
    for n, piece in enumerate(pieces):
        np.testing.assert_array_equal(piece, rows[:, 4 * n : 4 * n + 5])


def test_perplexity_is_that_of_the_text_read_in_rows(corpus):
    params = fresh()
    rows = corpus.test[:39].reshape(3, 13)
    losses = []
    for row in rows:
        logits, _ = by_hand(params, row[:-1], TINY.width)
        logits -= logits.max(axis=1, keepdims=True)
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        losses.append(-np.log(chances[np.arange(12), row[1:]]))
    found = lstm.perplexity(TINY, jax.tree.map(np.float32, params), corpus.test)
    np.testing.assert_allclose(found, np.exp(np.mean(losses)), rtol=1e-4)


def test_the_rate_is_halved_after_the_constant_epochs():
    optimizer = lstm._optimizer(TINY._replace(epochs=4, constant=2, rate=0.5), 3)
    params, state, moved = np.float32(0), optimizer.init(np.float32(0)), []
    for _ in range(12):
        updates, state = optimizer.update(np.float32(1), state, params)
        moved.append(float(updates))
    assert moved == [-0.5] * 6 + [-0.25] * 3 + [-0.125] * 3
    large, _ = optimizer.update(np.float32(100), optimizer.init(params), params)
    assert float(large) == -0.5 * TINY.clip


def test_training_learns_and_is_read_from_the_cache(corpus, monkeypatch):
    recipe = TINY._replace(width=16, epochs=40, constant=40)
    trained = lstm.train(recipe, corpus, progress=False)
    assert trained.test < 1.5  # 6 by chance
    assert trained.steps == 9 * 40
    monkeypatch.setattr(saved, "run", None)
    again = lstm.train(recipe, corpus, progress=False)
    assert again[1:] == trained[1:]


def test_an_interrupted_training_ends_with_the_same_parameters(corpus, monkeypatch):
    expected = lstm.train(TINY, corpus, progress=False)
    lstm._path(TINY, corpus).unlink()
    step_of = lstm._step_of

    def interrupted(*arguments):
        step, calls = step_of(*arguments), iter(range(100))

        def counted(carry, piece):
            if next(calls) == 13:  # in the second epoch
                raise KeyboardInterrupt
            return step(carry, piece)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(lstm, "_step_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lstm.train(TINY, corpus, progress=False)
    unfinished = lstm._path(TINY, corpus).with_suffix(".unfinished")
    assert saved.read(unfinished, saved.State)["step"] == 13
    resumed = lstm.train(TINY, corpus, progress=False)
    assert not unfinished.exists()
    jax.tree.map(np.testing.assert_array_equal, resumed.params, expected.params)


def test_other_texts_and_recipes_have_another_file(corpus):
    paths = {lstm._path(TINY, corpus), lstm._path(TINY, corpus._replace(train=corpus.train[:-1]))}
    paths |= {lstm._path(TINY._replace(seed=1), corpus)}
    assert len(paths) == 3


def test_one_step_is_that_of_the_clipped_gradient(corpus):
    params = jax.tree.map(np.float32, fresh())
    optimizer = lstm._optimizer(TINY, 9)
    carry = (params, optimizer.init(params), lstm._empty(TINY))
    piece = lstm._pieces(TINY, corpus.train)[0]
    (after, *_), mean = lstm._step_of(TINY, optimizer)(carry, piece)

    def loss(params):
        return TINY.steps * lstm._loss(TINY, params, lstm._empty(TINY), piece)[0]

    value, gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(mean, value / TINY.steps, rtol=1e-6)
    size = float(optax.tree.norm(gradient))
    scale = min(1, TINY.clip / size)
    for new, old, g in zip(*map(jax.tree.leaves, (after, params, gradient)), strict=True):
        np.testing.assert_allclose(new, old - TINY.rate * scale * g, rtol=1e-4, atol=1e-5)
