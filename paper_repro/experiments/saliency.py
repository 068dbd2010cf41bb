"""Not an experiment: the methods of the sanity checks, for digits, set as in their notebooks.

A method is `method(model, image, (label, params), key) -> map`, like the image. `explain` runs one
on many images and compiles one program for each network and method. `cascade` and
`data_randomization` use them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import xattr
from xattr.targets import logit
from xattr.types import Quadrature

STEPS, SAMPLES, SMOOTH_IG_SAMPLES = 50, 50, 25
SMOOTH_IG_CHUNK = 5
"""Noisy copies taken together, which makes 5 × 50 gradients."""


def endpoints(n: int = STEPS) -> Quadrature:
    """Return the notebooks' quadrature: n equidistant nodes from 0 to 1, each of weight 1/n."""
    nodes = np.linspace(0, 1, n, dtype=np.float32)
    return Quadrature(nodes, np.full(n, 1 / n, np.float32))


Method = Callable[..., jax.Array]


def _gradient(model: Any, x: Any, args: Any, key: Any) -> Any:
    return xattr.gradient(logit(model), x, args=args)


def _smooth_grad(model: Any, x: Any, args: Any, key: Any) -> Any:
    return xattr.smooth_grad(
        logit(model), x, key, num_samples=SAMPLES, args=args, chunk_size=SAMPLES
    )


def _guided(model: Any, x: Any, args: Any, key: Any) -> Any:
    return xattr.guided_backprop(logit(model), x, args=args)


def _integrated(model: Any, x: Any, args: Any, key: Any) -> Any:
    return xattr.integrated_gradients(
        logit(model), x, quadrature=endpoints(), args=args, chunk_size=STEPS
    )


def _input_gradient(model: Any, x: Any, args: Any, key: Any) -> Any:
    return xattr.gradient_x_input(logit(model), x, args=args)


def _smooth_integrated(model: Any, x: Any, args: Any, key: Any) -> Any:
    integrated = functools.partial(
        xattr.integrated_gradients, quadrature=endpoints(), chunk_size=STEPS
    )
    return xattr.smooth_grad(
        logit(model),
        x,
        key,
        method=integrated,
        num_samples=SMOOTH_IG_SAMPLES,
        args=args,
        chunk_size=SMOOTH_IG_CHUNK,
    )


def _grad_cam(model: Any, x: Any, args: Any, key: Any) -> Any:
    return xattr.grad_cam(logit(model), x, layer="conv2_features", args=args)


def _guided_grad_cam(model: Any, x: Any, args: Any, key: Any) -> Any:
    return xattr.guided_grad_cam(logit(model), x, layer="conv2_features", args=args)


def _competitive(model: Any, x: Any, args: Any, key: Any) -> Any:
    label, params = args
    return xattr.competitive_gradient_x_input(model, x, label, args=(params,))


def _learned_mask(model: Any, x: Any, args: Any, key: Any) -> Any:
    # Sanity checks, fig. 36, has this method for AlexNet. On black digits a smaller grid does.
    f = xattr.targets.probability(model)
    return xattr.meaningful_perturbation(f, x, None, key, grid=(14, 14), jitter=1, args=args)


def _edges(model: Any, x: Any, args: Any, key: Any) -> Any:
    return xattr.edge_detector(x)


class Kind(NamedTuple):
    """A method, the number of images taken together, and whether it needs convolutions."""

    method: Method
    batch: int = 50
    convolutional: bool = False


METHODS: dict[str, Kind] = {
    "gradient": Kind(_gradient),
    "SmoothGrad": Kind(_smooth_grad, 5),
    "guided backprop": Kind(_guided),
    "integrated gradients": Kind(_integrated, 5),
    "gradient ⊙ input": Kind(_input_gradient),
    "IG-SmoothGrad": Kind(_smooth_integrated, 1),
    "Grad-CAM": Kind(_grad_cam, convolutional=True),
    "guided Grad-CAM": Kind(_guided_grad_cam, convolutional=True),
    "CGI": Kind(_competitive),
    "learned mask": Kind(_learned_mask, 10),
    "edge detector": Kind(_edges),
}
"""Name -> method. The last three are not in the paper's table: a later fix, a mask that is learned
(its fig. 36), and a control."""


LEARNED = ("learned mask",)
"""Methods that take hundreds of gradients for one map: for `cascade` alone."""


def methods_for(network: str, *, learned: bool = False) -> list[str]:
    """Return the names of the methods that this network has the layers for."""
    names = [name for name, kind in METHODS.items() if network == "cnn" or not kind.convolutional]
    return names if learned else [name for name in names if name not in LEARNED]


@functools.partial(jax.jit, static_argnums=(0, 1))
def _maps(name: str, model: Any, images: Any, labels: Any, params: Any, keys: Any) -> jax.Array:
    one = functools.partial(_attribute, name, model)
    return jax.vmap(one, (0, 0, None, 0))(images, labels, params, keys)


def _attribute(name: str, model: Any, image: Any, label: Any, params: Any, key: Any) -> jax.Array:
    found = METHODS[name].method(model, image, (label, params), key)
    return jnp.reshape(found, image.shape[:2])


def explain(
    name: str,
    model: Any,
    images: np.ndarray,
    labels: np.ndarray,
    params: Any,
    *,
    seed: int = 0,
) -> np.ndarray:
    """Return the method's map of the label's logit for each image: (n, 28, 28).

    The noise of image k depends on the seed and k alone.
    """
    keys = jax.random.split(jax.random.key(seed), len(images))
    batch = min(METHODS[name].batch, len(images))
    parts = []
    for start in range(0, len(images), batch):
        # The last batch repeats an image: a batch of another shape would recompile.
        chosen = np.minimum(np.arange(start, start + batch), len(images) - 1)
        part = _maps(name, model, images[chosen], labels[chosen], params, keys[chosen])
        parts.append(np.asarray(part)[: len(images) - start])
    return np.concatenate(parts)
