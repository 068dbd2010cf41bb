"""The two networks of the benchmark, with the same weights in JAX and in PyTorch."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Params = dict[str, list[np.ndarray]]


def mlp_params(seed: int = 0, sizes: tuple[int, ...] = (784, 1024, 1024, 1024, 10)) -> Params:
    """Return He-initialised weights (in, out) and small biases."""
    random = np.random.default_rng(seed)
    weights = [
        (random.standard_normal((n, m)) * (2 / n) ** 0.5).astype(np.float32)
        for n, m in itertools.pairwise(sizes)
    ]
    return {"weights": weights, "biases": [_bias(random, w.shape[1]) for w in weights]}


def cnn_params(seed: int = 0) -> Params:
    """Return weights of two 5×5 convolutions (HWIO) and two dense layers (in, out)."""
    random = np.random.default_rng(seed)
    shapes = [(5, 5, 1, 32), (5, 5, 32, 64), (7 * 7 * 64, 1024), (1024, 10)]
    weights = [
        (random.standard_normal(s) * (2 / np.prod(s[:-1])) ** 0.5).astype(np.float32)
        for s in shapes
    ]
    return {"weights": weights, "biases": [_bias(random, w.shape[-1]) for w in weights]}


def _bias(random: np.random.Generator, size: int) -> np.ndarray:
    return (0.1 * random.standard_normal(size)).astype(np.float32)


def mlp(x: jax.Array, params: Params) -> jax.Array:
    """Return the logits of one image (28, 28, 1)."""
    hidden = x.ravel()
    *layers, last = zip(params["weights"], params["biases"], strict=True)
    for weight, bias in layers:
        hidden = jax.nn.relu(hidden @ weight + bias)
    return hidden @ last[0] + last[1]


def cnn(x: jax.Array, params: Params) -> jax.Array:
    """Return the logits of one image (28, 28, 1)."""
    hidden = x[None]
    layers = list(zip(params["weights"], params["biases"], strict=True))
    for weight, bias in layers[:2]:
        hidden = lax.conv_general_dilated(
            hidden, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        hidden = jax.nn.relu(hidden + bias)
        hidden = lax.reduce_window(hidden, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    flat = jax.nn.relu(hidden.ravel() @ layers[2][0] + layers[2][1])
    return flat @ layers[3][0] + layers[3][1]


def torch_mlp(params: Params) -> Any:
    """Return the same network as a torch module of batches (n, 1, 28, 28)."""
    import torch

    layers: list[Any] = [torch.nn.Flatten()]
    for weight, bias in zip(params["weights"], params["biases"], strict=True):
        layers += [_torch_linear(weight, bias), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1]).eval()


def torch_cnn(params: Params) -> Any:
    """Return the same network as a torch module of batches (n, 1, 28, 28)."""
    import torch

    (c1, c2, w1, w2), biases = params["weights"], params["biases"]
    # torch flattens channels first, so the rows of the first dense layer are reordered.
    w1 = w1.reshape(7, 7, 64, 1024).transpose(2, 0, 1, 3).reshape(-1, 1024)
    layers: list[Any] = []
    for weight, bias in ((c1, biases[0]), (c2, biases[1])):
        conv = torch.nn.Conv2d(weight.shape[2], weight.shape[3], 5, padding=2)
        conv.weight.data = torch.tensor(weight.transpose(3, 2, 0, 1).copy())
        conv.bias.data = torch.tensor(bias)
        layers += [conv, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    layers += [torch.nn.Flatten(), _torch_linear(w1, biases[2]), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, _torch_linear(w2, biases[3])).eval()


def _torch_linear(weight: np.ndarray, bias: np.ndarray) -> Any:
    import torch

    layer = torch.nn.Linear(*weight.shape)
    layer.weight.data = torch.tensor(weight.T.copy())
    layer.bias.data = torch.tensor(bias)
    return layer
