"""Training of networks on molecules, for several tasks at once: seeded, and cached by recipe."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax

from paper_repro.data.molecules import Molecule
from paper_repro.data.packages import DataError, cache_dir, replacing
from paper_repro.networks import weave
from paper_repro.report.progress import shown

FORMAT = 1
"""Part of every hash. Raise it when a change here or in `weave` changes what a recipe gives."""


class Recipe(NamedTuple):
    """How a network is trained, with Adam and a rate that falls to 0 along a cosine."""

    network: str
    epochs: int
    batch: int = 64
    rate: float = 1e-3
    decay: float = 1e-4
    """Weight decay, of AdamW."""
    seed: int = 0


class Examples(NamedTuple):
    """Molecules and what is to be learned of them."""

    molecules: Sequence[Molecule]
    labels: np.ndarray
    """0 or 1 for each task, (n, tasks)."""
    known: np.ndarray
    """Whether the label of a task is known, (n, tasks) of bool."""


def train(recipe: Recipe, examples: Examples, *, text: str = "", progress: bool = True) -> Any:
    """Return the trained parameters: from the cache, or trained and written there."""
    path = cache_dir() / "trained" / f"{recipe.network}-{_hash(recipe, examples)}.msgpack"
    module = weave.network(recipe.network, examples.labels.shape[1])
    key = jax.random.key(recipe.seed)
    start = jax.device_get(weave.initialise(module, examples.molecules[0], key))
    if path.exists():
        return _read(path, start)
    params = _run(recipe, module, start, examples, text or f"training {recipe.network}", progress)
    with replacing(path) as part:
        part.write_bytes(flax.serialization.msgpack_serialize(jax.device_get(params)))
    return params


def _hash(recipe: Recipe, examples: Examples) -> str:
    """Return sixteen hexadecimal digits that name the recipe and what is learned from."""
    found = hashlib.sha256(json.dumps([FORMAT, recipe._asdict()], sort_keys=True).encode())
    for molecule in examples.molecules:
        for array in molecule:
            found.update(array.tobytes())
    for array in (examples.labels.astype(np.float32), examples.known):
        found.update(array.tobytes())
    return found.hexdigest()[:16]


def _read(path: Any, like: Any) -> Any:
    try:
        return flax.serialization.from_state_dict(
            like, flax.serialization.msgpack_restore(path.read_bytes())
        )
    except Exception as error:  # a damaged file can raise any error
        raise DataError(
            f"{path}: expected a trained network, found: {error!r}. To mend it: rm '{path}'"
        ) from error


def _run(
    recipe: Recipe, module: Any, params: Any, examples: Examples, text: str, progress: bool
) -> Any:
    places = weave.by_size(examples.molecules)
    # Padded once, because padding takes as long as a step.
    data = {
        size: weave.stacked([examples.molecules[i] for i in chosen], size)
        for size, chosen in places.items()
    }
    batches = list(_batches(recipe, places))
    schedule = optax.cosine_decay_schedule(recipe.rate, len(batches))
    optimizer = optax.adamw(schedule, weight_decay=recipe.decay)
    state, step = optimizer.init(params), _step(module, optimizer)
    key = jax.random.key(recipe.seed + 1)
    for number, (size, rows, real) in enumerate(shown(batches, text, progress)):
        features, graph = jax.tree.map(lambda array, rows=rows: array[rows], data[size])
        chosen = places[size][rows]
        known = examples.known[chosen] & real[:, None]
        labels = examples.labels[chosen].astype(np.float32)
        params, state = step(params, state, features, graph, labels, known, key, number)
    return params


def _batches(recipe: Recipe, places: dict[int, np.ndarray]) -> Iterator[Any]:
    """Yield size class, rows in the class, and which of them are no filling, for each step."""
    for epoch in range(recipe.epochs):
        random = np.random.default_rng([recipe.seed, epoch])
        parts = []
        for size, chosen in places.items():
            order = random.permutation(len(chosen))
            for start in range(0, len(order), recipe.batch):
                rows = order[start : start + recipe.batch]
                real = np.arange(recipe.batch) < len(rows)
                parts.append((size, np.resize(rows, recipe.batch), real))
        yield from (parts[i] for i in random.permutation(len(parts)))


def _step(module: Any, optimizer: Any) -> Any:
    def loss(params: Any, features: Any, graph: Any, labels: Any, known: Any, keys: Any) -> Any:
        def of_one(features: Any, graph: Any, key: Any) -> Any:
            variables, streams = {"params": params}, {"dropout": key}
            return module.apply(variables, features, graph, train=True, rngs=streams)

        found = jax.vmap(of_one)(features, graph, keys)
        losses = optax.sigmoid_binary_cross_entropy(found, labels)
        count = jnp.sum(known, dtype=losses.dtype)
        return jnp.sum(jnp.where(known, losses, 0)) / jnp.maximum(count, 1)

    @jax.jit
    def step(
        params: Any,
        state: Any,
        features: Any,
        graph: Any,
        labels: Any,
        known: Any,
        key: Any,
        n: Any,
    ) -> Any:
        keys = jax.random.split(jax.random.fold_in(key, n), len(labels))
        slope = jax.grad(loss)(params, features, graph, labels, known, keys)
        updates, state = optimizer.update(slope, state, params)
        return optax.apply_updates(params, updates), state

    return step


def auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the ROC curve: how often a 1 has a higher score than a 0.

    A tie counts as half. NaN if there is only one label.
    """
    labels = np.asarray(labels, bool)
    ones, zeros = np.asarray(scores)[labels], np.sort(np.asarray(scores)[~labels])
    if not len(ones) or not len(zeros):
        return float("nan")
    below = np.searchsorted(zeros, ones, "left") + np.searchsorted(zeros, ones, "right")
    return float(below.mean() / 2 / len(zeros))
