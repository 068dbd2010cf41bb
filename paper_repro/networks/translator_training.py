"""Training of the translator: seeded, resumable, and cached by a hash of the recipe."""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from paper_repro.data import pieces, verses
from paper_repro.data.packages import cache_dir
from paper_repro.data.pieces import Pieces
from paper_repro.data.verses import Pair
from paper_repro.networks import saved
from paper_repro.networks.translator import Sizes, Translator, greedy

FORMAT = 1
"""Part of every hash. Raise it when a change of this file changes what a recipe gives."""
HELD_OUT = 50
"""One verse in so many is not trained on."""

Rows: TypeAlias = list[list[list[int]]]
"""The numbers of the pieces of both sides of each pair."""


class Recipe(NamedTuple):
    """All that decides the trained parameters; a step takes one mini-batch."""

    steps: int
    batch: int = 128
    learning_rate: float = 2e-3
    embedding: int = 256
    hidden: int = 256
    merges: int = 3_000
    dropout: float = 0.2
    pairs: int = 200_000
    """At most so many pairs are trained on, the first ones."""
    buckets: tuple[int, ...] = (8, 12, 16, 24)
    """Both sides are padded to the least of these; pairs with more pieces are left out."""
    seed: int = 0

    @property
    def path(self) -> Path:
        """Where the trained network is cached."""
        text = json.dumps([FORMAT, verses.FORMAT, self._asdict()], sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        return cache_dir() / "trained" / f"translator-{name}.msgpack"


FULL = Recipe(steps=3_500)
QUICK = Recipe(
    steps=300,
    batch=32,
    learning_rate=1e-2,
    embedding=48,
    hidden=48,
    merges=300,
    pairs=2_000,
    buckets=(12,),
)
"""A network for tests, trained for seconds."""


class Corpus(NamedTuple):
    """Pairs of clauses in pieces, those to train on and those held out."""

    source: Pieces
    target: Pieces
    train: list[Pair]
    test: list[Pair]
    """Of held-out verses. No English clause among them is trained on, and none comes twice."""


class Trained(NamedTuple):
    """A trained translator and what the training took."""

    params: Any
    losses: np.ndarray
    """The mean loss of a piece, in nats, of every step."""
    seconds: float


def corpus(recipe: Recipe, pairs: Sequence[Pair]) -> Corpus:
    """Split the pairs by verse, and learn the pieces of both languages from those to train on."""
    held = {pair.verse for pair in pairs if pair.verse % HELD_OUT == 0}
    train = [pair for pair in pairs if pair.verse not in held][: recipe.pairs]
    known = {pair.english for pair in train}
    new = [pair for pair in pairs if pair.verse in held and pair.english not in known]
    test = [*{pair.english: pair for pair in reversed(new)}.values()][::-1]
    learned = [
        pieces.learn((w for pair in train for w in pieces.words_of(pair[:2][side])), recipe.merges)
        for side in (0, 1)
    ]
    return Corpus(learned[0], learned[1], train, test)


def model_of(recipe: Recipe, corpus: Corpus) -> Translator:
    """Return the network of a recipe."""
    source, target = (len(each.names) for each in (corpus.source, corpus.target))
    return Translator(Sizes(source, target, recipe.embedding, recipe.hidden), recipe.dropout)


def encoded(recipe: Recipe, corpus: Corpus, pairs: Sequence[Pair]) -> Rows:
    """Return the pieces' numbers of both sides, of the pairs that fit into the largest bucket."""
    cutters = [pieces.cutter(each) for each in (corpus.source, corpus.target)]
    sides = [[cut(pair[:2][side]).ids for pair in pairs] for side, cut in enumerate(cutters)]
    return [
        list(pair) for pair in zip(*sides, strict=True) if max(map(len, pair)) <= recipe.buckets[-1]
    ]


def padded(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """Put rows of numbers into one array, with 0 after their ends."""
    found = np.zeros((len(rows), length), np.int32)
    for row, numbers in zip(found, rows, strict=True):
        row[: len(numbers)] = numbers
    return found


def bucket(recipe: Recipe, length: int) -> int:
    """Return the least length that sentences are padded to and that is enough."""
    return next(size for size in recipe.buckets if size >= length)


def train(recipe: Recipe, corpus: Corpus, *, progress: bool = True) -> Trained:
    """Return the translator of a recipe: from the cache, or trained, on from a saved state if any.

    A batch depends on seed and step alone, so a resumed run ends with the parameters of an
    uninterrupted one.
    """
    if recipe.path.exists():
        return Trained(**saved.read(recipe.path, Trained))
    model, rows = model_of(recipe, corpus), encoded(recipe, corpus, corpus.train)
    ids = jnp.ones((recipe.buckets[0],), jnp.int32)
    params = model.init(jax.random.key(recipe.seed), ids, ids)["params"]
    optimizer = _optimizer(recipe)
    start = params, optimizer.init(params), np.zeros(recipe.steps, np.float32)
    advance, order = _step_of(recipe, model, optimizer), batches(recipe, rows)

    def step(carry: Any, i: int) -> Any:
        params, state, losses = carry
        params, state, loss = advance(params, state, *_arrays(recipe, rows, order(i)), np.uint32(i))
        losses = losses.copy()
        losses[i] = loss
        return (params, state, losses), loss

    path = recipe.path.with_suffix(".unfinished")
    text = "training the translator"
    end = saved.run(start, step, recipe.steps, path, text=text, progress=progress)
    trained = Trained(end.carry[0], end.carry[2], end.seconds)
    saved.write(trained, recipe.path)
    path.unlink(missing_ok=True)
    return trained


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.steps // 20, recipe.steps
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def _arrays(recipe: Recipe, rows: Rows, chosen: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sources and targets of a batch, padded alike."""
    length = bucket(recipe, max(len(side) for i in chosen for side in rows[i]))
    sources, targets = (padded([rows[i][side] for i in chosen], length) for side in (0, 1))
    return sources, targets


def batches(recipe: Recipe, rows: Rows) -> Callable[[int], list[int]]:
    """Return the function from a step to the indices of its batch, sentences of like length.

    Each epoch has an order of its own: the sentences are shuffled, and sorted by bucket; then the
    batches are shuffled.
    """
    sizes = np.array([bucket(recipe, max(map(len, row))) for row in rows])
    epoch = max(1, len(rows) // recipe.batch)

    @functools.lru_cache(maxsize=1)
    def order_of(number: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng([recipe.seed, number])
        order = random.permutation(len(rows))
        order = order[np.argsort(sizes[order], kind="stable")]
        return order, random.permutation(epoch) * recipe.batch

    def batch(step: int) -> list[int]:
        number, place = divmod(step, epoch)
        order, starts = order_of(number)
        return order[starts[place] : starts[place] + recipe.batch].tolist()

    return batch


def _step_of(recipe: Recipe, model: Translator, optimizer: optax.GradientTransformation) -> Any:
    """Return the jitted step (params, state, source, target, number) -> (params, state, loss)."""

    def loss(params: Any, source: Any, target: Any, key: Any) -> jax.Array:
        def logits(source: Any, target: Any, key: Any) -> jax.Array:
            return model.apply({"params": params}, source, target, True, rngs={"dropout": key})

        keys = jax.random.split(key, source.shape[0])
        scores = jax.vmap(logits)(source, target[:, :-1], keys)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, target[:, 1:])
        real = target[:, 1:] > 0
        return jnp.sum(losses * real) / jnp.sum(real)

    def step(params: Any, state: Any, source: Any, target: Any, number: Any) -> Any:
        key = jax.random.fold_in(jax.random.key(recipe.seed), number)
        value, gradient = jax.value_and_grad(loss)(params, source, target, key)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    return jax.jit(step)


def translations(
    model: Translator,
    params: Any,
    rows: Sequence[Sequence[int]],
    *,
    length: int,
    batch: int = 100,
) -> list[list[int]]:
    """Return the greedy translations of sources: numbers of pieces, without the end marker.

    Sources and translations have at most `length` pieces.
    """
    run = jax.jit(jax.vmap(functools.partial(greedy, model, params, length=length)))
    found = []
    for start in range(0, len(rows), batch):
        part = padded(rows[start : start + batch], length)
        filled = np.pad(part, ((0, batch - len(part)), (0, 0)), constant_values=1)
        found += [[int(i) for i in row if i > 2] for row in np.asarray(run(filled))[: len(part)]]
    return found
