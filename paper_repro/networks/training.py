"""Training of the MNIST networks: seeded, resumable, and cached by a hash of the recipe."""

import functools
import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

import xattr
from paper_repro.data.mnist import Mnist
from paper_repro.data.packages import cache_dir
from paper_repro.networks import digits, saved
from paper_repro.networks.saved import SAVE_EVERY
from paper_repro.report.results import Setting

FORMAT = 1
"""Part of every hash. Raise it when a change of this file changes what a recipe gives."""
VALIDATION = 5_000
"""The number of first training images that are left out, as in the code of Adebayo et al."""


class Recipe(NamedTuple):
    """All that decides the trained parameters; a step takes one mini-batch."""

    network: str
    steps: int
    batch: int
    optimizer: str
    learning_rate: float
    l2: float = 0.0
    """Factor of ½‖W‖² over the weights of all layers but the output."""
    images: int = 55_000
    random_labels: bool = False
    until: float = 1.0
    """Stop at the end of the epoch whose running training accuracy exceeds this."""
    seed: int = 0

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that name the recipe."""
        text = json.dumps([FORMAT, self._asdict()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def path(self) -> Path:
        """Where the trained network is cached."""
        return cache_dir() / "trained" / f"{self.network}-{self.hash}.msgpack"


class Trained(NamedTuple):
    """A trained network: its parameters, its accuracy, and what the training took.

    `train_accuracy` is over the first training images, `test_accuracy` over the first test images:
    over 10,000 of each, or over the 1,000 of `--quick`.
    """

    params: Any
    train_accuracy: float
    test_accuracy: float
    steps: int
    seconds: float


FULL = {
    # Adebayo et al., appendix B: Adam, 20,000 iterations, penalty .001. The batch size is from
    # their code, which takes 55,000 steps at rate 1e-4. At that rate 20,000 steps bring the CNN to
    # 98.8 % and not to their 99.2 %, hence the higher rate.
    "cnn": Recipe("cnn", 20_000, 50, "adam", 5e-4, l2=1e-3),
    "mlp": Recipe("mlp", 20_000, 50, "adam", 1e-4),
    # Kindermans et al.: ten epochs of SGD. They do not give rate and batch size.
    "mlp1024": Recipe("mlp1024", 4_290, 128, "sgd", 0.1),
    "cnn, random labels": Recipe(
        "cnn", 10_000, 100, "adam", 5e-4, images=10_000, random_labels=True, until=0.99
    ),
    "mlp, random labels": Recipe(
        "mlp", 10_000, 100, "adam", 5e-4, images=10_000, random_labels=True, until=0.99
    ),
}
"""The networks of the papers."""
QUICK = {
    "cnn": FULL["cnn"]._replace(steps=120, learning_rate=1e-3),
    "mlp": FULL["mlp"]._replace(steps=100, learning_rate=1e-3),
    "mlp1024": FULL["mlp1024"]._replace(steps=150, learning_rate=0.2),
    "cnn, random labels": FULL["cnn, random labels"]._replace(steps=200, images=200, batch=50),
    "mlp, random labels": FULL["mlp, random labels"]._replace(steps=120, images=200, batch=50),
}
"""The same networks, trained for seconds. They are for tests, and every page of them says so."""


def train(
    recipe: Recipe, mnist: Mnist, *, measured: int = 10_000, progress: bool = True
) -> Trained:
    """Return the network of a recipe: from the cache, or trained, on from a saved state if any.

    Each of its accuracies is over the first `measured` images.

    The state is saved every minute and when training is interrupted. A batch depends on seed and
    step alone, so a resumed run ends with the parameters of an uninterrupted one.
    """
    if recipe.path.exists():
        return Trained(**saved.read(recipe.path, Trained))
    saved.check_writable(recipe.path.parent)
    state = _start(recipe)
    images, labels = training_set(recipe, mnist)
    bar = tqdm.tqdm(
        total=recipe.steps,
        initial=state.step,
        desc=f"training {recipe.network}{', random labels' if recipe.random_labels else ''}",
        unit="step",
        disable=not progress,
        leave=False,
    )
    with bar:
        state = _run(recipe, state, images, labels, bar)
    model = digits.logits(recipe.network)
    trained = Trained(
        params=state.params,
        train_accuracy=accuracy(model, state.params, images[:measured], labels[:measured]),
        test_accuracy=accuracy(
            model, state.params, mnist.test_images[:measured], mnist.test_labels[:measured]
        ),
        steps=state.step,
        seconds=state.seconds,
    )
    saved.write(trained, recipe.path)
    _unfinished(recipe).unlink(missing_ok=True)
    return trained


def recipe_of(name: str, setting: Setting) -> Recipe:
    """Return a recipe of `FULL`, or of `QUICK` where the setting is quick, with its seed."""
    return (QUICK if setting.quick else FULL)[name]._replace(seed=setting.seed)


def network(name: str, setting: Setting, mnist: Mnist) -> Trained:
    """Return the network of this name, trained as the setting says."""
    measured = 1_000 if setting.quick else 10_000
    recipe = recipe_of(name, setting)
    return train(recipe, mnist, measured=measured, progress=setting.progress)


def training_set(recipe: Recipe, mnist: Mnist) -> tuple[np.ndarray, np.ndarray]:
    """Return the images and labels to train on; random labels are the true ones, permuted."""
    chosen = slice(VALIDATION, VALIDATION + recipe.images)
    labels = mnist.train_labels[chosen]
    if recipe.random_labels:
        labels = np.asarray(xattr.sanity.randomize_labels(labels, jax.random.key(recipe.seed)))
    return mnist.train_images[chosen], labels


class _State(NamedTuple):
    """What a resumed run starts from."""

    params: Any
    optimizer: Any
    step: int
    hits: Any
    """The share of right answers, summed over the batches of this epoch so far."""
    seconds: float


def _start(recipe: Recipe) -> _State:
    params = digits.initialise(recipe.network, jax.random.key(recipe.seed))
    optimizer = _optimizer(recipe).init(params)
    path = _unfinished(recipe)
    if not path.exists():
        return _State(params, optimizer, 0, 0.0, 0.0)
    fields = saved.read(path, _State)
    fields["optimizer"] = flax.serialization.from_state_dict(optimizer, fields["optimizer"])
    return _State(**fields)


def _run(recipe: Recipe, state: _State, images: np.ndarray, labels: np.ndarray, bar: Any) -> _State:
    step, epoch = _step_of(recipe), max(1, len(images) // recipe.batch)
    clock = last = time.perf_counter()
    try:
        for chosen in batches(recipe, len(images), state.step):
            params, optimizer, right = step(
                state.params, state.optimizer, images[chosen], labels[chosen]
            )
            hits = right if state.step % epoch == 0 else state.hits + right
            now = time.perf_counter()
            seconds, clock = state.seconds + now - clock, now
            # One assignment, so that Ctrl-C finds the state before this step or after it.
            state = _State(params, optimizer, state.step + 1, hits, seconds)
            bar.update()
            if state.step % epoch == 0:
                share = float(hits) / epoch
                bar.set_postfix(accuracy=f"{share:.3f}")
                if share > recipe.until:
                    break
            if state.step % 20 == 0 and now - last > SAVE_EVERY:
                _save(state, recipe)
                last = time.perf_counter()
    except KeyboardInterrupt:
        _save(state, recipe)
        raise
    return state


def _save(state: _State, recipe: Recipe) -> None:
    saved.write(state._replace(hits=float(state.hits)), _unfinished(recipe))


def batches(recipe: Recipe, images: int, first: int = 0) -> Iterator[np.ndarray]:
    """Yield the indices of each batch from step `first` on; each epoch has an order of its own."""
    epoch = max(1, images // recipe.batch)
    for step in range(first, recipe.steps):
        number, place = divmod(step, epoch)
        if place == 0 or step == first:
            order = np.random.default_rng([recipe.seed, number]).permutation(images)
        yield order[place * recipe.batch : (place + 1) * recipe.batch]


def _optimizer(recipe: Recipe) -> optax.GradientTransformation:
    kinds = {"adam": optax.adam, "sgd": optax.sgd}
    return kinds[recipe.optimizer](recipe.learning_rate)


def _step_of(recipe: Recipe) -> Any:
    """Return the jitted step (params, state, images, labels) -> (params, state, share right)."""
    optimizer, model = _optimizer(recipe), digits.logits(recipe.network)
    hidden = digits.NETWORKS[recipe.network].layers[:-1]

    def loss(params: Any, images: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores = jax.vmap(model, (0, None))(images, params)
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
        penalty = sum(jnp.sum(params[layer]["kernel"] ** 2) for layer in hidden)
        right = jnp.mean(jnp.argmax(scores, axis=-1) == labels)
        return jnp.mean(losses) + recipe.l2 / 2 * penalty, right

    def step(params: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        gradient, right = jax.grad(loss, has_aux=True)(params, images, labels)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, right

    return jax.jit(step)  # not donated: Ctrl-C must find the arrays of the state before


def briefly(
    model: Any,
    params: Any,
    images: np.ndarray,
    labels: np.ndarray,
    steps: Iterable[int],
    *,
    batch: int,
    seed: int,
) -> Any:
    """Return the parameters after some steps of Adam, at rate .001, on batches drawn at random.

    It is for networks that train in a minute, and saves nothing.
    """
    step, random = _brief_step(model), np.random.default_rng(seed)
    state = BRIEF.init(params)
    for _ in steps:
        chosen = random.integers(0, len(labels), batch)
        params, state = step(params, state, images[chosen], labels[chosen])
    return params


BRIEF = optax.adam(1e-3)


@functools.cache
def _brief_step(model: Any) -> Any:
    def step(params: Any, state: Any, images: jax.Array, labels: jax.Array) -> Any:
        def loss(params: Any) -> jax.Array:
            scores = jax.vmap(model, (0, None))(images, params)
            return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

        updates, state = BRIEF.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return jax.jit(step)


def accuracy(model: Any, params: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of images whose largest logit is the label's."""
    return float((predictions(model, params, images) == labels).mean())


def predictions(model: Any, params: Any, images: np.ndarray, *, batch: int = 500) -> np.ndarray:
    """Return the class of the largest logit of each image."""
    starts = range(0, len(images), batch)
    return np.concatenate([np.asarray(_best(model, images[i : i + batch], params)) for i in starts])


@jax.jit(static_argnums=0)
def _best(model: Any, images: Any, params: Any) -> jax.Array:
    return jnp.argmax(jax.vmap(model, (0, None))(images, params), axis=1)


def _unfinished(recipe: Recipe) -> Path:
    return recipe.path.with_suffix(".unfinished")
