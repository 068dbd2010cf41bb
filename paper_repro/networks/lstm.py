"""The LSTM language model of Zaremba, Sutskever & Vinyals 2014, small size, and its training."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from paper_repro.data.packages import cache_dir
from paper_repro.data.text import Corpus
from paper_repro.networks import saved

FORMAT = 1
"""Part of every hash. Raise it when a change of this file changes what a recipe gives."""
State = Any
"""For each layer (h, c), the output and the memory of its cells."""


class Recipe(NamedTuple):
    """All that decides the trained parameters, beside the text.

    Zaremba et al. take 13 epochs and halve the rate after the fourth.
    """

    words: int = 10_000
    width: int = 200
    layers: int = 2
    steps: int = 20
    """Words over which the gradient is taken; the state is handed on from one piece to the next."""
    batch: int = 20
    scale: float = 0.1
    rate: float = 1.0
    constant: int = 2
    """Epochs after which the rate is halved at every epoch."""
    epochs: int = 5
    pieces: int | None = None
    """How many pieces of the text an epoch takes; None takes all."""
    clip: float = 5.0
    seed: int = 0


class Trained(NamedTuple):
    """A trained network: its parameters, its perplexities, and what the training took."""

    params: Any
    valid: float
    test: float
    steps: int
    seconds: float


class Lstm(nn.Module):
    """Embeddings, layers of LSTM cells, and the logits of the next word; for one text."""

    recipe: Recipe

    @nn.compact
    def __call__(self, ids: jax.Array, state: State, last: bool = False) -> tuple[Any, State]:
        """Return the logits after each word (words, vocabulary), or after the last, and the state.

        ids has shape (words,).
        """
        r, init = self.recipe, _uniform(self.recipe.scale)
        hidden, after = nn.Embed(r.words, r.width, embedding_init=init, name="table")(ids), []
        dense = functools.partial(nn.Dense, kernel_init=init, bias_init=init)
        for i, start in enumerate(state):
            gates = dense(4 * r.width, name=f"into{i}")(hidden)
            back = self.param(f"back{i}", init, (r.width, 4 * r.width))
            end, hidden = lax.scan(functools.partial(_cell, back), start, gates)
            after.append(end)
        return dense(r.words, name="output")(hidden[-1] if last else hidden), after


def _uniform(scale: float) -> Any:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -scale, scale)

    return init


def _cell(back: jax.Array, state: State, gates: jax.Array) -> tuple[State, jax.Array]:
    """Take one step of the LSTM: `gates` is what the input and the biases add to the four gates."""
    h, c = state
    into, forget, new, out = jnp.split(gates + h @ back, 4)
    c = jax.nn.sigmoid(forget) * c + jax.nn.sigmoid(into) * jnp.tanh(new)
    h = jax.nn.sigmoid(out) * jnp.tanh(c)
    return (h, c), h


def zeros(recipe: Recipe) -> State:
    """Return the state before the first word."""
    empty = jnp.zeros(recipe.width)
    return [(empty, empty)] * recipe.layers


def next_word(recipe: Recipe, ids: jax.Array, params: Any) -> jax.Array:
    """Return the logits of the word after a text that starts with the empty state."""
    return Lstm(recipe).apply({"params": params}, ids, zeros(recipe), True)[0]


def train(recipe: Recipe, corpus: Corpus, *, progress: bool = True) -> Trained:
    """Return the network of a recipe: from the cache, or trained, on from a saved state if any."""
    path = _path(recipe, corpus)
    if path.exists():
        return Trained(**saved.read(path, Trained))
    pieces = _pieces(recipe, corpus.train)
    params = Lstm(recipe).init(
        jax.random.key(recipe.seed), jnp.zeros(recipe.steps, jnp.int32), zeros(recipe)
    )["params"]
    optimizer = _optimizer(recipe, len(pieces))
    start = (params, optimizer.init(params), _empty(recipe))
    advance, total = _step_of(recipe, optimizer), recipe.epochs * len(pieces)

    def step(carry: Any, i: int) -> Any:
        place = i % len(pieces)
        carry = (*carry[:2], _empty(recipe)) if place == 0 else carry
        return advance(carry, pieces[place])

    unfinished = path.with_suffix(".unfinished")
    end = saved.run(start, step, total, unfinished, text="training the LSTM", progress=progress)
    params = end.carry[0]
    valid, test = (perplexity(recipe, params, part) for part in (corpus.valid, corpus.test))
    trained = Trained(params, valid, test, total, end.seconds)
    saved.write(trained, path)
    unfinished.unlink(missing_ok=True)
    return trained


def _path(recipe: Recipe, corpus: Corpus) -> Path:
    """Return where the network is cached: a hash of the recipe and of the text names it."""
    text = hashlib.sha256(corpus.train.tobytes()).hexdigest()
    facts = json.dumps([FORMAT, recipe._asdict(), text], sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return cache_dir() / "trained" / f"lstm-{digest}.msgpack"


def _pieces(recipe: Recipe, text: np.ndarray) -> np.ndarray:
    """Return the text as pieces (n, batch, steps + 1): row b goes on from one piece to the next."""
    length = len(text) // recipe.batch
    rows = text[: length * recipe.batch].reshape(recipe.batch, length)
    count = (length - 1) // recipe.steps
    starts = recipe.steps * np.arange(count)[: recipe.pieces]
    return np.stack([rows[:, i : i + recipe.steps + 1] for i in starts])


def _empty(recipe: Recipe) -> State:
    repeat = functools.partial(jnp.repeat, repeats=recipe.batch, axis=0)
    return jax.tree.map(lambda leaf: repeat(leaf[None]), zeros(recipe))


def _optimizer(recipe: Recipe, epoch: int) -> optax.GradientTransformation:
    halved = {epoch * n: 0.5 for n in range(recipe.constant, recipe.epochs)}
    rate = optax.piecewise_constant_schedule(recipe.rate, halved)
    return optax.chain(optax.clip_by_global_norm(recipe.clip), optax.sgd(rate))


def _loss(recipe: Recipe, params: Any, state: State, piece: jax.Array) -> tuple[jax.Array, State]:
    """Return the mean of −log p of the words of a piece, and the state after it."""
    run = jax.vmap(functools.partial(Lstm(recipe).apply, {"params": params}))
    logits, state = run(piece[:, :-1], state)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, piece[:, 1:])
    return losses.mean(), state


def _step_of(recipe: Recipe, optimizer: optax.GradientTransformation) -> Any:
    def step(carry: Any, piece: jax.Array) -> Any:
        params, state, memory = carry

        def loss(params: Any) -> Any:  # summed over the steps, as in Zaremba's code
            mean, after = _loss(recipe, params, memory, piece)
            return recipe.steps * mean, (mean, after)

        gradient, (mean, memory) = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state, memory), mean

    return jax.jit(step)  # not donated: Ctrl-C must find the arrays of the state before


def perplexity(recipe: Recipe, params: Any, text: np.ndarray) -> float:
    """Return exp of the mean of −log p of each word, of a text read in `batch` rows at once."""
    part = jax.jit(functools.partial(_loss, recipe))
    memory, total, pieces = _empty(recipe), 0.0, _pieces(recipe._replace(pieces=None), text)
    for piece in pieces:
        mean, memory = part(params, memory, piece)
        total += float(mean)
    return float(np.exp(total / len(pieces)))
