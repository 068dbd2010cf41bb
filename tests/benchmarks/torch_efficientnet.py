"""EfficientNet-Lite0 in PyTorch, with the published weights, set up to be as fast as it can be.

    pip install -e '.[bench]' && python tests/benchmarks/torch_efficientnet.py

It is the network that captum explains in the benchmark. Batch normalization is folded into the
convolutions, in the same arithmetic as in `paper_repro.networks.efficientnet`. ReLU6 works in
place, and parameters do not ask for a gradient. Padding is TensorFlow's SAME; the convolution pads
by itself where both sides get the same. As a script, the file checks the logits against JAX's and
times one gradient in both memory formats.
"""

import os
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from kernel import channels_first
from torch import nn
from torch.nn import functional

from paper_repro.data import photographs
from paper_repro.networks import efficientnet

FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class ConvNorm(nn.Module):
    """A convolution with its batch normalization folded into kernel and bias; then ReLU6 or not."""

    def __init__(self, params: dict[str, Any], stride: int, depthwise: bool, relu6: bool) -> None:
        super().__init__()
        kernel, scale, bias, mean, var = (
            np.asarray(params[name]) for name in ("kernel", "scale", "bias", "mean", "var")
        )
        factor = scale / np.sqrt(var + var.dtype.type(efficientnet.EPSILON))
        kernel = (kernel * factor).transpose(3, 2, 0, 1)  # HWIO to OIHW
        self.register_buffer("kernel", torch.tensor(kernel.copy()))
        self.register_buffer("bias", torch.tensor(bias - mean * factor))
        self.stride, self.relu6 = stride, relu6
        self.groups = kernel.shape[0] if depthwise else 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = self.kernel.shape[2]
        zeros = [_same(length, size, self.stride) for length in x.shape[2:]]
        padding: Any = [before for before, _ in zeros]
        if any(before != after for before, after in zeros):
            x, padding = functional.pad(x, (*zeros[1], *zeros[0])), 0
        x = functional.conv2d(x, self.kernel, self.bias, self.stride, padding, 1, self.groups)
        return functional.relu6(x, inplace=True) if self.relu6 else x


def _same(length: int, size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, the odd one after."""
    total = max((-(-length // stride) - 1) * stride + size - length, 0)
    return total // 2, total - total // 2


class Block(nn.Module):
    """An inverted residual: 1×1 to more channels, k×k on each, 1×1 to fewer."""

    def __init__(self, params: dict[str, Any], stride: int) -> None:
        super().__init__()
        layers = [ConvNorm(params["expand"], 1, False, True)] if "expand" in params else []
        layers.append(ConvNorm(params["depthwise"], stride, True, True))
        layers.append(ConvNorm(params["project"], 1, False, False))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers(x)
        return x + y if x.shape == y.shape else y


class EfficientNetLite0(nn.Module):
    """(n, 3, height, width) with values in [0, 1] to (n, 1000) logits, in the parameters' dtype."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__()
        self.stem = ConvNorm(params["stem"], 2, False, True)
        strides = [
            stage.stride if index == 0 else 1
            for stage in efficientnet.STAGES
            for index in range(stage.repeats)
        ]
        self.blocks = nn.Sequential(
            *(Block(params[f"block_{i}"], stride) for i, stride in enumerate(strides))
        )
        self.head = ConvNorm(params["head"], 1, False, True)
        dense = params["classifier"]
        self.register_buffer("weight", torch.tensor(np.asarray(dense["kernel"]).T.copy()))
        self.register_buffer("bias", torch.tensor(np.asarray(dense["bias"])))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.stem((x * 255 - 127) / 128))
        return functional.linear(self.head(x).mean((2, 3)), self.weight, self.bias)


def first_photographs(count: int) -> np.ndarray:
    """The first `count` of the demo's photographs, (count, 224, 224, 3)."""
    names = list(photographs.PHOTOGRAPHS)
    if count > len(names):
        raise ValueError(f"`count` must be at most {len(names)}, not {count}")
    pictures = [photographs.photograph(name, progress=False) for name in names[:count]]
    return np.stack([photographs.center_crop(picture) for picture in pictures])


def build(params: dict[str, Any], images: np.ndarray) -> EfficientNetLite0:
    """Return the network, after a check that its logits of the images are JAX's to 1e-4."""
    network = EfficientNetLite0(params).eval()
    expected = np.asarray(
        jax.jit(jax.vmap(efficientnet.network, (0, None)))(jnp.asarray(images), params)
    )
    for name, memory_format in FORMATS.items():
        with torch.inference_mode():
            found = network.to(memory_format=memory_format)(
                channels_first(images).contiguous(memory_format=memory_format)
            )
        error = np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected)
        if not error < 1e-4:
            raise AssertionError(f"{name}: logits differ from JAX's by {error:.1e}, relatively")
    return network


def main() -> None:
    """Check the logits, and time a gradient in each memory format."""
    torch.set_num_threads(os.cpu_count() or 1)
    images = first_photographs(4)
    network = build(efficientnet.load(progress=False), images)
    print("logits: as JAX's to 1e-4, in both memory formats")
    for name, memory_format in FORMATS.items():
        network.to(memory_format=memory_format)
        batch = channels_first(images).contiguous(memory_format=memory_format)
        times = []
        for _ in range(4):
            start = time.perf_counter()
            inputs = batch.clone().requires_grad_()
            torch.autograd.grad(network(inputs)[:, 3].sum(), inputs)
            times.append(time.perf_counter() - start)
        print(f"{name}: {1e3 * min(times) / len(batch):.1f} ms per gradient of one image")


if __name__ == "__main__":
    main()
