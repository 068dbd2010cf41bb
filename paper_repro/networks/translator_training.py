"""Training of the translator: seeded, resumable, and cached by a hash of the recipe."""

import functools
import hashlib
import json
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from paper_repro.data import pieces, verses
from paper_repro.data.packages import DataError, cache_dir, replacing
from paper_repro.data.pieces import Pieces
from paper_repro.data.verses import Pair
from paper_repro.networks.translator import Sizes, Translator, greedy

FORMAT = 1
"""Part of every hash. Raise it when a change of this file changes what a recipe gives."""
SAVE_EVERY = 60.0
"""Seconds between two saved states."""
HELD_OUT = 50
"""One verse in so many is not trained on."""


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
QUICK = Recipe(steps=60, batch=32, embedding=32, hidden=32, merges=200, pairs=2_000, buckets=(12,))


class Corpus(NamedTuple):
    """Pairs of clauses in pieces, those to train on and those held out."""

    source: Pieces
    target: Pieces
    train: list[Pair]
    test: list[Pair]
    """Of held-out verses. No English clause among them is trained on."""


class Trained(NamedTuple):
    """A trained translator and what the training took."""

    params: Any
    losses: np.ndarray
    """The mean loss of a piece, in nats, of every step."""
    seconds: float


def corpus(recipe: Recipe, pairs: Sequence[Pair]) -> Corpus:
    """Split the pairs by verse, and learn the pieces of both languages from those to train on."""
    held = {verse for verse in {pair.verse for pair in pairs} if verse % HELD_OUT == 0}
    train = [pair for pair in pairs if pair.verse not in held][: recipe.pairs]
    known = {pair.english for pair in train}
    test = [pair for pair in pairs if pair.verse in held and pair.english not in known]
    learned = [
        pieces.learn((w for pair in train for w in pieces.words_of(pair[side])), recipe.merges)
        for side in (0, 1)
    ]
    return Corpus(learned[0], learned[1], train, test)


def model_of(recipe: Recipe, corpus: Corpus) -> Translator:
    """Return the network of a recipe."""
    sizes = [len(each.names) for each in (corpus.source, corpus.target)]
    return Translator(Sizes(*sizes, recipe.embedding, recipe.hidden), recipe.dropout)


def encoded(recipe: Recipe, corpus: Corpus, pairs: Sequence[Pair]) -> list[list[list[int]]]:
    """Return the pieces' numbers of both sides, of the pairs that fit into the largest bucket."""
    cutters = [pieces.cutter(each) for each in (corpus.source, corpus.target)]
    sides = [[cut(pair[side]).ids for pair in pairs] for side, cut in enumerate(cutters)]
    return [list(pair) for pair in zip(*sides, strict=True) if max(map(len, pair)) <= recipe.buckets[-1]]


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
        return Trained(**_read(recipe.path, Trained))
    model, rows = model_of(recipe, corpus), encoded(recipe, corpus, corpus.train)
    state = _start(recipe, model)
    with tqdm.tqdm(
        total=recipe.steps,
        initial=len(state.losses),
        desc="training translator",
        unit="step",
        disable=not progress,
        leave=False,
    ) as bar:
        state = _run(recipe, model, state, rows, bar)
    trained = Trained(state.params, np.asarray(state.losses, np.float32), state.seconds)
    _write(trained, recipe.path)
    _unfinished(recipe).unlink(missing_ok=True)
    return trained


class _State(NamedTuple):
    """What a resumed run starts from."""

    params: Any
    optimizer: Any
    losses: list[float]
    seconds: float


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.steps // 20, recipe.steps
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))


def _start(recipe: Recipe, model: Translator) -> _State:
    ids = jnp.ones((recipe.buckets[0],), jnp.int32)
    params = model.init(jax.random.key(recipe.seed), ids, ids)["params"]
    optimizer = _optimizer(recipe).init(params)
    path = _unfinished(recipe)
    if not path.exists():
        return _State(params, optimizer, [], 0.0)
    saved = _read(path, _State)
    return _State(
        saved["params"],
        flax.serialization.from_state_dict(optimizer, saved["optimizer"]),
        list(saved["losses"].tolist()),
        saved["seconds"],
    )


def _run(recipe: Recipe, model: Translator, state: _State, rows: Any, bar: Any) -> _State:
    step = _step_of(recipe, model)
    clock = saved = time.perf_counter()
    try:
        for number, chosen in batches(recipe, rows, len(state.losses)):
            length = bucket(recipe, max(len(side) for i in chosen for side in rows[i]))
            source, target = (padded([rows[i][side] for i in chosen], length) for side in (0, 1))
            params, optimizer, loss = step(
                state.params, state.optimizer, source, target, np.uint32(number)
            )
            now = time.perf_counter()
            seconds, clock = state.seconds + now - clock, now
            # One assignment, so that Ctrl-C finds the state before this step or after it.
            state = _State(params, optimizer, [*state.losses, float(loss)], seconds)
            bar.update()
            bar.set_postfix(loss=f"{np.mean(state.losses[-50:]):.3f}", refresh=False)
            if now - saved > SAVE_EVERY:
                _save(state, recipe)
                saved = time.perf_counter()
    except KeyboardInterrupt:
        _save(state, recipe)
        raise
    return state


def batches(recipe: Recipe, rows: Any, first: int = 0) -> Iterator[tuple[int, list[int]]]:
    """Yield step and indices of each batch from step `first` on; its sentences are of like length.

    Each epoch has an order of its own: the sentences are shuffled, and sorted by bucket; then the
    batches are shuffled.
    """
    sizes = np.array([bucket(recipe, max(map(len, row))) for row in rows])
    epoch = max(1, len(rows) // recipe.batch)
    for step in range(first, recipe.steps):
        number, place = divmod(step, epoch)
        if place == 0 or step == first:
            random = np.random.default_rng([recipe.seed, number])
            order = random.permutation(len(rows))
            order = order[np.argsort(sizes[order], kind="stable")]
            starts = random.permutation(epoch) * recipe.batch
        yield step, order[starts[place] : starts[place] + recipe.batch].tolist()


def _step_of(recipe: Recipe, model: Translator) -> Any:
    """Return the jitted step (params, state, source, target, number) -> (params, state, loss)."""
    optimizer = _optimizer(recipe)

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


def _save(state: _State, recipe: Recipe) -> None:
    _write(state._replace(losses=np.asarray(state.losses)), _unfinished(recipe))


def _unfinished(recipe: Recipe) -> Path:
    return recipe.path.with_suffix(".unfinished")


def _write(state: Any, path: Path) -> None:
    """Write a NamedTuple of trees and numbers; no file is left half-written."""
    fields = {key: flax.serialization.to_state_dict(v) for key, v in state._asdict().items()}
    with replacing(path) as part:
        part.write_bytes(flax.serialization.msgpack_serialize(jax.device_get(fields)))


def _read(path: Path, kind: Any) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = flax.serialization.msgpack_restore(path.read_bytes())
        if {*fields} != {*kind._fields}:
            raise ValueError(f"the fields {', '.join(fields)}")
    except Exception as error:  # a damaged file can raise any error
        raise DataError(
            f"{path}: expected a trained translator, found: {error!r}. "
            f"To mend it: rm {shlex.quote(str(path))}"
        ) from error
    return fields
