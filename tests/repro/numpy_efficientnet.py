"""EfficientNet-Lite0 in NumPy and float64, from the architecture and the raw PyTorch tensors.

`paper_repro/networks/efficientnet.py` is tested against it. It is written in another way: channels
first, kernels as stored (OIHW), convolutions over windows, batch normalization not folded.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# For each block: kernel size, stride, whether it has an expansion, whether it is residual.
BLOCKS = [
    (3, 1, False, False),
    (3, 2, True, False),
    (3, 1, True, True),
    (5, 2, True, False),
    (5, 1, True, True),
    (3, 2, True, False),
    (3, 1, True, True),
    (3, 1, True, True),
    (5, 1, True, False),
    (5, 1, True, True),
    (5, 1, True, True),
    (5, 2, True, False),
    (5, 1, True, True),
    (5, 1, True, True),
    (5, 1, True, True),
    (3, 1, True, False),
]


def windows(x, size, stride):
    """(C, H, W) to (C, ⌈H/s⌉, ⌈W/s⌉, size, size), padded by zeros, the odd one below and right."""
    padding = [(0, 0)]
    for length in x.shape[1:]:
        covered = (int(np.ceil(length / stride)) - 1) * stride + size
        total = max(covered - length, 0)
        padding.append((total // 2, total - total // 2))
    x = np.pad(x, padding)
    return sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


def dense(x, weight, stride):
    """A convolution in which each output channel sees all inputs: weight (D, C, k, k)."""
    seen = windows(x, weight.shape[2], stride)
    return np.tensordot(weight, seen, axes=([1, 2, 3], [0, 3, 4]))


def depthwise(x, weight, stride):
    """A convolution in which each channel sees only itself: weight (C, 1, k, k)."""
    seen = windows(x, weight.shape[2], stride)
    return np.einsum("chwij,cij->chw", seen, weight[:, 0])


def normalize(tensors, name, x):
    weight, bias, mean, var = (
        tensors[f"{name}.{part}"][:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-3) * weight + bias


def relu6(x):
    return np.clip(x, 0, 6)


def block(tensors, name, x, size, stride, expands, residual):
    y = x
    if expands:
        y = dense(y, tensors[f"{name}._expand_conv.weight"], 1)
        y = relu6(normalize(tensors, f"{name}._bn0", y))
    weight = tensors[f"{name}._depthwise_conv.weight"]
    assert weight.shape[2] == size
    y = relu6(normalize(tensors, f"{name}._bn1", depthwise(y, weight, stride)))
    y = dense(y, tensors[f"{name}._project_conv.weight"], 1)
    y = normalize(tensors, f"{name}._bn2", y)
    return x + y if residual else y


def logits(tensors, image):
    """The 1000 logits of an image (H, W, 3) with values in [0, 1]."""
    tensors = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
    x = (255 * image.astype(np.float64).transpose(2, 0, 1) - 127) / 128
    x = relu6(normalize(tensors, "_bn0", dense(x, tensors["_conv_stem.weight"], 2)))
    for index, facts in enumerate(BLOCKS):
        x = block(tensors, f"_blocks.{index}", x, *facts)
    x = relu6(normalize(tensors, "_bn1", dense(x, tensors["_conv_head.weight"], 1)))
    return tensors["_fc.weight"] @ x.mean(axis=(1, 2)) + tensors["_fc.bias"]
