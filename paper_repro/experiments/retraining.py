"""Not an experiment: rankings of pixels, and networks trained anew where pixels are removed.

`roar` draws and judges what is measured here. A point of a curve is one program for all methods and
levels: data, rankings and level are its arguments.
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import xattr
from paper_repro.data.mnist import Mnist
from paper_repro.data.packages import cache_dir, replacing
from paper_repro.experiments.maps import digest_of_library

PIXELS = 784
BATCH, RATE = 100, 2e-3
SAMPLES, NODES = 15, 8
"""Noisy copies, and nodes of integrated gradients."""
CHUNK = 100
"""Images that are explained together."""
RETRAININGS = 3


class Net(nn.Module):
    """Dense layers of 64 and 32 with ReLU, ten logits."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Return the logits (10,) of pixels (784,)."""
        hidden = nn.relu(nn.Dense(64)(image))
        hidden = nn.relu(nn.Dense(32)(hidden))
        return nn.Dense(10)(hidden)


def model(image: jax.Array, params: Any) -> jax.Array:
    """Return the logits of pixels (784,)."""
    found: jax.Array = Net().apply({"params": params}, image)
    return found


class Data(NamedTuple):
    """Pixels (n, 784) and labels, to train on and to test."""

    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """All pictures, those to train on first."""
        return np.concatenate([self.train, self.test])


def data_of(digits: Mnist, train: int, test: int) -> Data:
    """Return the first pictures as rows of pixels."""
    return Data(
        digits.train_images[:train].reshape(-1, PIXELS),
        digits.train_labels[:train],
        digits.test_images[:test].reshape(-1, PIXELS),
        digits.test_labels[:test],
    )


# Rankings -----------------------------------------------------------------------------------------


def _integrated(f: Any, x: Any, *, args: Any) -> Any:
    nodes = xattr.quadrature.midpoint(NODES)
    return xattr.integrated_gradients(
        f, x, quadrature=nodes, args=args, chunk_size=NODES, warn_above=None
    )


BASES: dict[str, Callable[..., Any]] = {
    "": xattr.gradient,
    "IG-": _integrated,
    "GB-": xattr.guided_backprop,
}
"""Prefix of the noisy estimators -> the method they take the mean of."""
PLAIN = {"gradient": "", "integrated gradients": "IG-", "guided backprop": "GB-"}
NOISY = ("SmoothGrad", "SmoothGrad²", "VarGrad")
CONTROLS = ("random", "edge detector")
ESTIMATORS = (*PLAIN, *(base + name for name in NOISY for base in BASES), *CONTROLS)


def estimates(base: str, images: Any, params: Any, keys: Any) -> dict[str, jax.Array]:
    """Return the maps of a method, its SmoothGrad, SmoothGrad² and VarGrad: (n, 784) each.

    One pass gives all: means of A and of A² over the same noise. The predicted class is explained.
    """
    method, f = BASES[base], xattr.targets.logit(model)

    def moments(f: Any, x: Any, *, args: Any) -> Any:
        found = method(f, x, args=args)
        return found, found**2

    def one(image: Any, key: Any) -> dict[str, jax.Array]:
        args = (jnp.argmax(model(image, params)), params)
        mean, square = xattr.smooth_grad(
            f, image, key, method=moments, num_samples=SAMPLES, args=args, chunk_size=SAMPLES
        )
        plain = next(name for name, prefix in PLAIN.items() if prefix == base)
        noisy = dict(zip(NOISY, (mean, square, square - mean**2), strict=True))
        return {plain: method(f, image, args=args), **{base + n: v for n, v in noisy.items()}}

    return jax.vmap(one)(images, keys)


_estimates = jax.jit(estimates, static_argnums=0)


def rankings(base: str, images: np.ndarray, params: Any, seed: int) -> dict[str, np.ndarray]:
    """Return the ranks of pixels by |A|, 0 for the largest, (n, 784), of a base's estimators."""
    keys = jax.random.split(jax.random.key(seed), len(images))
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(images), CHUNK):
        # The last batch repeats an image: a batch of another shape would recompile.
        chosen = np.minimum(np.arange(start, start + CHUNK), len(images) - 1)
        for name, maps in _estimates(base, images[chosen], params, keys[chosen]).items():
            kept = np.asarray(maps)[: len(images) - start]
            found.setdefault(name, []).append(ranks_of(kept, seed + start))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def ranks_of(maps: np.ndarray, seed: int) -> np.ndarray:
    """Return ranks by |A|, 0 for the largest; what ties is in random order."""
    size = np.abs(maps)
    chance = np.random.default_rng(seed).random(maps.shape, np.float32)
    order = np.lexsort((chance, -size), axis=1)
    ranks = np.empty(maps.shape, np.uint16)
    np.put_along_axis(ranks, order, np.arange(maps.shape[1], dtype=np.uint16)[None], axis=1)
    return ranks


def control(name: str, images: np.ndarray, seed: int) -> np.ndarray:
    """Return the ranks of an estimator that does not see the network."""
    if name == "random":
        return ranks_of(np.zeros_like(images), seed)
    edges = jax.jit(jax.vmap(xattr.edge_detector))(images.reshape(-1, 28, 28, 1))
    return ranks_of(np.asarray(edges).reshape(images.shape), seed)


# Training -----------------------------------------------------------------------------------------


def degraded(images: Any, ranks: Any, count: Any, keep: Any, fill: Any) -> jax.Array:
    """Replace the first `count` pixels of the ranking by `fill`; with `keep`, all others."""
    removed = (ranks < count) ^ keep
    return jnp.where(removed, fill, images)


@functools.partial(jax.jit, static_argnums=0)
def retrained(
    epochs: int, data: Any, ranks: Any, count: Any, keep: Any, fill: Any, keys: Any
) -> tuple[jax.Array, Any]:
    """Train a network for each key on degraded pictures; return test accuracies and parameters."""
    number = len(data.train)
    train = degraded(data.train, ranks[:number], count, keep, fill)
    test = degraded(data.test, ranks[number:], count, keep, fill)
    optimizer, steps = optax.adam(RATE), number // BATCH

    def loss(params: Any, images: Any, labels: Any) -> jax.Array:
        scores = jax.vmap(model, (0, None))(images, params)
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    def step(carry: Any, chosen: Any) -> Any:
        params, state = carry
        slope = jax.grad(loss)(params, train[chosen], data.train_labels[chosen])
        updates, state = optimizer.update(slope, state, params)
        return (optax.apply_updates(params, updates), state), None

    def one(key: Any) -> Any:
        params = Net().init(key, train[0])["params"]
        orders = [
            jax.random.permutation(jax.random.fold_in(key, epoch), number)[: steps * BATCH]
            for epoch in range(epochs)
        ]
        batches = jnp.stack(orders).reshape(-1, BATCH)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
        scores = jax.vmap(model, (0, None))(test, params)
        return jnp.mean(jnp.argmax(scores, axis=1) == data.test_labels), params

    return jax.vmap(one)(keys)


class Retraining(NamedTuple):
    """What all points of a data set share."""

    data: Data
    epochs: int
    seed: int

    @property
    def keys(self) -> jax.Array:
        """One key for each retraining, the same for all estimators and levels."""
        return jax.random.split(jax.random.key(self.seed), RETRAININGS)

    @property
    def nothing(self) -> np.ndarray:
        """Ranks that remove nothing."""
        return np.full((len(self.data.all), PIXELS), PIXELS, np.uint16)

    def original(self) -> tuple[np.ndarray, Any]:
        """Return the accuracies without removal, and the network that is explained."""
        accuracies, params = self._train(self.data, self.nothing, 0, keep=False)
        return np.asarray(accuracies), jax.tree.map(lambda leaf: leaf[0], params)

    def accuracies(self, ranks: np.ndarray, level: float, *, keep: bool = False) -> np.ndarray:
        """Return the accuracy of each retraining at a level, the share that goes or is kept."""
        count = round(level * PIXELS)
        return np.asarray(self._train(self.data, ranks, count, keep=keep)[0])

    def from_mask(self, ranks: np.ndarray, level: float) -> np.ndarray:
        """Return accuracies where a picture shows nothing but which pixels are removed."""
        blank = self.data._replace(
            train=np.zeros_like(self.data.train), test=np.zeros_like(self.data.test)
        )
        count = round(level * PIXELS)
        return np.asarray(self._train(blank, ranks, count, keep=False, fill=1.0)[0])

    def _train(
        self, data: Data, ranks: np.ndarray, count: int, *, keep: bool, fill: float | None = None
    ) -> Any:
        mean = self.data.train.mean() if fill is None else fill
        operands = (jnp.uint16(count), jnp.array(keep), jnp.float32(mean))
        return retrained(self.epochs, data, ranks, *operands, self.keys)

    def kept(self, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, Any]:
        """Return what is in the cache folder under this name, or compute it and put it there."""
        path = cache_dir() / "computed" / f"roar-{self._digest(name)}.npz"
        if not path.is_file():
            found: dict[str, Any] = compute()
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as part, part.open("wb") as file:
                np.savez(file, **found)
        with np.load(path) as stored:
            return {key: stored[key] for key in stored.files}

    def _digest(self, name: str) -> str:
        """Return a digest of what decides a result: code, data, seed and estimator."""
        digest = hashlib.blake2b(digest_of_library(), digest_size=10)
        digest.update(Path(__file__).read_bytes())
        digest.update(repr((name, self.epochs, self.seed)).encode())
        for array in self.data:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
