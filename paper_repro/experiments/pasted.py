"""Not an experiment: digits pasted on photographs, and the networks that `bam` trains on them."""

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.ad_checkpoint import checkpoint_name

from paper_repro.data import mnist
from paper_repro.data.photographs import photograph, texture
from paper_repro.networks import training
from paper_repro.report.progress import shown
from paper_repro.report.results import Setting

SIDE, DIGIT = 32, 20
"""Pixels along a side of a picture and of a digit without its margin."""
SCENES = ("grass", "gravel", "brick", "coins", "page", "ihc", "hubble_deep_field", "chelsea")
CLASSES = len(SCENES)
"""Scenes, and as many digits: 0 to 7."""
LAYER = "conv2_features"


class Pictures(NamedTuple):
    """The same pictures with and without the digit."""

    images: np.ndarray
    """(n, 32, 32, 1) in [0, 1]."""
    scenes: np.ndarray
    """The same without the digit."""
    masks: np.ndarray
    """Where the digit is, (n, 32, 32)."""
    objects: np.ndarray
    """The digits' classes (n,)."""
    places: np.ndarray
    """The scenes' classes (n,)."""


def pictures(setting: Setting, train: int, test: int) -> tuple[Pictures, Pictures]:
    """Return pictures to train on and to explain; crops of both come from the same photographs."""
    data = mnist.load(setting.mnist_dir, progress=setting.progress)
    grounds = [_scene(name, setting) for name in SCENES]
    random = np.random.default_rng(setting.seed)
    return (
        _pasted(data.train_images, data.train_labels, grounds, train, random),
        _pasted(data.test_images, data.test_labels, grounds, test, random),
    )


def _scene(name: str, setting: Setting) -> np.ndarray:
    if name != "chelsea":
        return texture(name, progress=setting.progress)
    picture = photograph(name, progress=setting.progress)
    return np.asarray(picture.convert("L"), np.float64) / 255


def _pasted(
    digits: np.ndarray, labels: np.ndarray, grounds: Any, count: int, random: np.random.Generator
) -> Pictures:
    """Paste white digits; object and scene are drawn independently."""
    chosen = np.flatnonzero(labels < CLASSES)[:count]
    places = random.integers(0, CLASSES, len(chosen))
    scenes = np.stack([_crop(grounds[place], SIDE, random) for place in places])
    covers = np.zeros_like(scenes)
    margin = (28 - DIGIT) // 2
    for k, index in enumerate(chosen):
        i, j = random.integers(0, SIDE - DIGIT + 1, 2)
        inner = digits[index, margin:-margin, margin:-margin, 0]
        covers[k, i : i + DIGIT, j : j + DIGIT] = inner
    images = covers + (1 - covers) * scenes
    whole, alone = (each[..., None].astype(np.float32) for each in (images, scenes))
    return Pictures(whole, alone, covers > 0.3, labels[chosen], places.astype(np.int32))


def _crop(ground: np.ndarray, side: int, random: np.random.Generator) -> np.ndarray:
    i, j = (random.integers(0, length - side + 1) for length in ground.shape)
    return ground[i : i + side, j : j + side]


class Net(nn.Module):
    """Two convolutions of stride 2, a hidden layer of 64, eight logits."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Return the logits (8,)."""
        hidden = image - 0.5
        hidden = nn.relu(nn.Conv(16, (5, 5), strides=2, name="conv1")(hidden))
        hidden = nn.relu(nn.Conv(32, (5, 5), strides=2, name="conv2")(hidden))
        hidden = checkpoint_name(hidden, LAYER)
        hidden = nn.relu(nn.Dense(64, name="fc1")(hidden.ravel()))
        return nn.Dense(CLASSES, name="output")(hidden)


def model(image: jax.Array, params: Any) -> jax.Array:
    """Return the logits of a picture (32, 32, 1)."""
    found: jax.Array = Net().apply({"params": params}, image)
    return found


logits = jax.jit(jax.vmap(model, (0, None)))


def trained(images: np.ndarray, labels: np.ndarray, steps: int, setting: Setting) -> Any:
    """Train for some steps of 64 pictures."""
    params = Net().init(jax.random.key(setting.seed), jnp.zeros((SIDE, SIDE, 1)))["params"]
    work = shown(range(steps), "training", setting.progress)
    return training.briefly(model, params, images, labels, work, batch=64, seed=setting.seed)


def insignificant(
    params: Any, scenes: np.ndarray, images: np.ndarray, masks: np.ndarray, steps: int
) -> np.ndarray:
    """Change the digits until the network's logits are those of the scene alone.

    Descends |f(x + δ) − f(x)| − 0.3 |δ| over the pixels of the digit, with x + δ in [0, 1].
    """
    return np.asarray(_insignificant(steps, params, scenes, images, masks[..., None]))


@functools.partial(jax.jit, static_argnums=0)
def _insignificant(steps: int, params: Any, scenes: Any, images: Any, masks: Any) -> jax.Array:
    optimizer = optax.adam(0.02)

    def one(scene: Any, image: Any, mask: Any) -> jax.Array:
        wanted = model(scene, params)

        def loss(moved: Any) -> jax.Array:
            far = jnp.sqrt(jnp.sum((moved - scene) ** 2) + 1e-6)
            off = jnp.sqrt(jnp.sum((model(moved, params) - wanted) ** 2) + 1e-6)
            return off - 0.3 * far

        def step(carry: Any, _: Any) -> Any:
            moved, state = carry
            updates, state = optimizer.update(jnp.where(mask, jax.grad(loss)(moved), 0), state)
            moved = jnp.clip(optax.apply_updates(moved, updates), 0, 1)
            return (jnp.where(mask, moved, scene), state), None

        start = jnp.where(mask, image, scene)
        (moved, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
        return moved

    return jax.vmap(one)(scenes, images, masks)
