"""The networks that the papers trained on MNIST, in flax; each takes one image (28, 28, 1).

The experiments on randomization address layers by the names given here.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Initializer = Callable[..., jax.Array]
Activation = Callable[[jax.Array], jax.Array]

SMOOTHNESS = 20.0
"""β of the smooth networks: softplus(βz)/β is at most log(2)/β = 0.035 above ReLU."""


class Cnn(nn.Module):
    """Two 5×5 convolutions with pooling, a hidden layer of 1024, ten logits (Adebayo et al.).

    Initialised as in the authors' code: weights truncated normal with deviation 0.1, biases 0.1.
    """

    layers = ("conv1", "conv2", "fc1", "output")
    activation: Activation = nn.relu

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Return the logits (10,)."""
        init: dict[str, Any] = {
            "kernel_init": nn.initializers.truncated_normal(0.1),
            "bias_init": nn.initializers.constant(0.1),
        }
        hidden = image
        for name, channels in (("conv1", 32), ("conv2", 64)):
            hidden = self.activation(nn.Conv(channels, (5, 5), name=name, **init)(hidden))
            hidden = max_pool(checkpoint_name(hidden, f"{name}_features"))
        hidden = self.activation(nn.Dense(1024, name="fc1", **init)(hidden.ravel()))
        return nn.Dense(10, name="output", **init)(hidden)


def max_pool(features: jax.Array) -> jax.Array:
    """Take the largest of each 2×2 square.

    XLA's gradient of this is faster on CPU than that of a reduce_window. Ties share the gradient;
    after a ReLU ties are zeros, to which the ReLU passes none.
    """
    height, width, channels = features.shape
    squares = features.reshape(height // 2, 2, width // 2, 2, channels)
    return jnp.max(squares, axis=(1, 3))


def scaled_normal(factor: float) -> Initializer:
    """Draw truncated normal weights of deviation factor / √inputs."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return nn.initializers.truncated_normal(factor / shape[0] ** 0.5)(key, shape, dtype)

    return init


class Mlp(nn.Module):
    """Dense ReLU layers `h1`, `h2`, … and ten logits.

    Adebayo et al.: 2500, 1500, 500, deviation 2 / √inputs. Kindermans et al.: three of 1024.
    """

    widths: tuple[int, ...] = (2500, 1500, 500)
    factor: float = 2.0
    activation: Activation = nn.relu

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers, from the input to the output."""
        return (*(f"h{i + 1}" for i in range(len(self.widths))), "output")

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Return the logits (10,)."""
        hidden = image.ravel()
        for name, width in zip(self.layers, self.widths, strict=False):
            dense = nn.Dense(width, name=name, kernel_init=self._init())
            hidden = self.activation(dense(hidden))
        return nn.Dense(10, name="output", kernel_init=self._init())(hidden)

    def _init(self) -> Initializer:
        return scaled_normal(self.factor)


NETWORKS: dict[str, Any] = {
    "cnn": Cnn(),
    "mlp": Mlp(),
    "mlp1024": Mlp(widths=(1024, 1024, 1024), factor=2**0.5),
}
"""Name in a recipe -> network: the CNN and MLP of Adebayo et al., the MLP of Kindermans et al."""


def initialise(network: str, key: jax.Array) -> Any:
    """Return fresh parameters: {layer: {"kernel", "bias"}}."""
    return NETWORKS[network].init(key, jnp.zeros((28, 28, 1)))["params"]


def logits(network: str) -> Callable[..., jax.Array]:
    """Return `model(image, params) -> (10,)`.

    The same name gives the same function, so that nothing is compiled twice.
    """
    return MODELS[network]


def smooth_logits(network: str) -> Callable[..., jax.Array]:
    """Return `model(image, params) -> (10,)` with softplus in place of ReLU.

    It takes the same parameters. It has second derivatives, which an attack on maps of gradients
    needs.
    """
    return SMOOTH_MODELS[network]


def softplus(values: jax.Array) -> jax.Array:
    """Return the smooth ReLU log(1 + exp(βz)) / β."""
    return nn.softplus(SMOOTHNESS * values) / SMOOTHNESS


def model_of(network: Any) -> Callable[..., jax.Array]:
    """Return a module as the function `model(image, params)`."""

    def model(image: jax.Array, params: Any) -> jax.Array:
        return network.apply({"params": params}, image)

    return model


MODELS = {name: model_of(network) for name, network in NETWORKS.items()}
SMOOTH_MODELS = {
    name: model_of(network.clone(activation=softplus)) for name, network in NETWORKS.items()
}
