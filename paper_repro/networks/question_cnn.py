"""Kim's convolutional network for sentences (2014), of questions, and its training."""

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

from paper_repro.data import questions
from paper_repro.data.packages import cache_dir
from paper_repro.data.questions import Questions
from paper_repro.networks import saved

FORMAT = 1
"""Part of every hash. Raise it when a change of this file changes what a recipe gives."""
WINDOWS = (3, 4, 5)


class Recipe(NamedTuple):
    """All that decides the trained parameters, beside the questions."""

    width: int = 128
    """Elements of an embedding. They are drawn at random, as in Kim's CNN-rand."""
    maps: int = 100
    dropout: float = 0.5
    norm: float = 3.0
    """The largest ‖w‖ of the weights of a class."""
    batch: int = 50
    epochs: int = 12
    seed: int = 0


class Trained(NamedTuple):
    """A trained network: its parameters, its accuracies, and what the training took."""

    params: Any
    train: float
    test: float
    steps: int
    seconds: float


class Cnn(nn.Module):
    """Embeddings, windows of 3, 4 and 5 words, the largest value of each map, four logits."""

    words: int
    recipe: Recipe

    @nn.compact
    def __call__(self, ids: jax.Array, key: Any = None) -> jax.Array:
        """Return the logits of the classes, for ids of shape (words,); a key drops features out."""
        r = self.recipe
        init = nn.initializers.uniform(0.5)
        table = nn.Embed(self.words, r.width, embedding_init=_centred(init), name="table")
        x = jnp.where((ids != 0)[:, None], table(ids), 0)  # padding is zero, as around an image
        pooled = []
        for window in WINDOWS:
            padded = jnp.pad(x, ((window - 1, window - 1), (0, 0)))
            shifted = [padded[i : len(padded) - window + 1 + i] for i in range(window)]
            maps = nn.Dense(r.maps, name=f"window{window}")(jnp.concatenate(shifted, axis=1))
            pooled.append(jnp.max(nn.relu(maps), axis=0))
        hidden = jnp.concatenate(pooled)
        if key is not None:
            kept = jax.random.bernoulli(key, 1 - r.dropout, hidden.shape)
            hidden = jnp.where(kept, hidden / (1 - r.dropout), 0)
        return nn.Dense(len(questions.CLASSES), name="output")(hidden)


def _centred(init: Any) -> Any:
    def centred(*args: Any) -> jax.Array:
        return init(*args) - 0.25

    return centred


def logits(words: int, recipe: Recipe, ids: jax.Array, params: Any) -> jax.Array:
    """Return the logits of the classes of one question."""
    return Cnn(words, recipe).apply({"params": params}, ids)


def train(recipe: Recipe, data: Questions, *, progress: bool = True) -> Trained:
    """Return the network of a recipe: from the cache, or trained, on from a saved state if any."""
    words = questions.vocabulary(data.train)
    ids, labels = questions.encoded(data.train, words), data.train_labels
    path = _path(recipe, ids, labels)
    if path.exists():
        return Trained(**saved.read(path, Trained))
    key = jax.random.key(recipe.seed)
    params = Cnn(len(words), recipe).init(key, jnp.zeros(questions.LENGTH, jnp.int32))["params"]
    optimizer = optax.adadelta(1.0, rho=0.95)
    advance = _step_of(recipe, len(words), optimizer)
    epoch = len(ids) // recipe.batch

    def step(carry: Any, i: int) -> Any:
        number, place = divmod(i, epoch)
        order = np.random.default_rng([recipe.seed, number]).permutation(len(ids))
        chosen = order[place * recipe.batch : (place + 1) * recipe.batch]
        return advance(carry, ids[chosen], labels[chosen], jax.random.fold_in(key, i))

    unfinished, start = path.with_suffix(".unfinished"), (params, optimizer.init(params))
    total = recipe.epochs * epoch
    end = saved.run(start, step, total, unfinished, text="training the CNN", progress=progress)
    params = end.carry[0]
    right = predictions(recipe, params, ids) == labels
    test = predictions(recipe, params, questions.encoded(data.test, words)) == data.test_labels
    trained = Trained(params, float(right.mean()), float(test.mean()), total, end.seconds)
    saved.write(trained, path)
    unfinished.unlink(missing_ok=True)
    return trained


def _path(recipe: Recipe, ids: np.ndarray, labels: np.ndarray) -> Path:
    """Return where the network is cached: a hash of recipe and questions names it."""
    data = hashlib.sha256(ids.tobytes() + labels.tobytes()).hexdigest()
    facts = json.dumps([FORMAT, recipe._asdict(), data], sort_keys=True)
    digest = hashlib.sha256(facts.encode()).hexdigest()[:16]
    return cache_dir() / "trained" / f"question-cnn-{digest}.msgpack"


def _step_of(recipe: Recipe, words: int, optimizer: optax.GradientTransformation) -> Any:
    model = Cnn(words, recipe)

    def step(carry: Any, ids: jax.Array, labels: jax.Array, key: Any) -> Any:
        params, state = carry
        keys = jax.random.split(key, recipe.batch)

        def loss(params: Any) -> jax.Array:
            run = functools.partial(model.apply, {"params": params})
            scores = jax.vmap(run)(ids, keys)
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return (_bounded(recipe, optax.apply_updates(params, updates)), state), value

    return jax.jit(step)  # not donated: Ctrl-C must find the arrays of the state before


def _bounded(recipe: Recipe, params: Any) -> Any:
    """Scale the weights of each class down to the largest norm."""
    kernel = params["output"]["kernel"]
    size = jnp.linalg.norm(kernel, axis=0, keepdims=True)
    scale = jnp.broadcast_to(jnp.minimum(1, recipe.norm / jnp.maximum(size, 1e-9)), kernel.shape)
    return {**params, "output": {**params["output"], "kernel": kernel * scale}}


def predictions(recipe: Recipe, params: Any, ids: np.ndarray, *, batch: int = 200) -> np.ndarray:
    """Return the class of the largest logit of each question."""
    words = params["table"]["embedding"].shape[0]
    run = jax.jit(jax.vmap(functools.partial(logits, words, recipe), (0, None)))
    starts = range(0, len(ids), batch)
    return np.concatenate([np.asarray(run(ids[i : i + batch], params)).argmax(1) for i in starts])
